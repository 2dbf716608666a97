"""A node on a machine whose clock is wrong: ``python -m tests.net.wrong_clock MS --home X run``.

The time of day is *MS* ahead, for the node and for all that it is made of; timers go as they do.
"""

from __future__ import annotations

import sys
import time


def main() -> None:
    """Set the clock of this process, and be the ordinary command."""
    ahead_ms = int(sys.argv.pop(1))
    seconds, nanoseconds = time.time, time.time_ns
    time.time = lambda: seconds() + ahead_ms / 1000
    time.time_ns = lambda: nanoseconds() + ahead_ms * 1_000_000
    # After that: whoever imports the functions by name must get these.
    from node.cli.main import main as run_command

    run_command()


if __name__ == "__main__":
    main()
