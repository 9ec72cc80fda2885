"""What each word of the flow does, from settings and run folder to the artifact it leaves; `pipeline` calls these."""
