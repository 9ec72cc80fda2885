"""What a model does, before and after: live objects in, plain records out."""
