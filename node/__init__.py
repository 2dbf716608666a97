"""The node: clocks, sockets, tables, tasks, HTTP and the command line."""

__version__ = "0.1.0"
