"""The command line: each command parses, imports, calls one verb of the pipeline and prints."""

from raybd.cli.commands import app, main

__all__ = ["app", "main"]
