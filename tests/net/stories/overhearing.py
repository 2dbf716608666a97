"""A node that keeps all it is told: ``-m tests.net.stories.overhearing --home X --out FILE``.

It is the ordinary ``picket run``, except that every message that comes over a link is appended to
FILE as it is read, once the encryption of the link is off it.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from node.cli import main as run_command
from node.transport import Link


def main() -> None:
    """Run a node that keeps all it is told."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--home", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    chosen = parser.parse_args()
    out = os.open(chosen.out, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    receive = Link.receive

    async def receive_and_keep(self: Link) -> bytes | None:
        message = await receive(self)
        os.write(out, message or b"")
        return message

    Link.receive = receive_and_keep  # type: ignore[method-assign]
    sys.argv = ["picket", "--home", str(chosen.home), "run"]
    run_command()


if __name__ == "__main__":
    main()
