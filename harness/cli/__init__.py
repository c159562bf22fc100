"""The command line: parses arguments, calls the modules that do the work, turns results into an exit code."""

from harness.cli.program import commands, main

__all__ = ["commands", "main"]
