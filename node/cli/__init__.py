"""The command line: data to standard output, everything else to standard error."""

from node.cli.main import main

__all__ = ["main"]
