"""A node that kills itself: ``python -m tests.net.crashing --home X --point N``.

It is the ordinary ``picket run``, except that each effect is counted and the process dies of
SIGKILL at the N-th; with ``--after FILE`` they count once the file exists, and with ``--only KIND``
those of one kind alone. Effects are what others can see of a node or it can find again on its
disk: a commit of either database (before and after), the raising of the fence, and what is sent on
a link (before and after).
"""

from __future__ import annotations

import argparse
import functools
import os
import signal
import sqlite3
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import sqlcipher3
from sqlcipher3 import dbapi2 as sqlcipher
from typing_extensions import override

from node.cli import main as run_command
from node.fence import Fence
from node.transport import Link

MARK: Final = "died at"


class Fuse:
    """Counts effects, and ends the process at the chosen one."""

    def __init__(self, point: int, after: Path | None, only: str | None) -> None:
        """Burn at effect *point* (of kind *only*), counted from when *after* exists."""
        self._left = point
        self._only = only
        self._after = after
        self._lock = threading.Lock()

    def pass_by(self, effect: str) -> None:
        """Count one effect."""
        with self._lock:
            if self._after is not None and not self._after.exists():
                return
            if self._only not in {None, effect}:
                return
            self._left -= 1
            if self._left == 0:
                # Past Python's buffers, as nothing of them is written any more.
                os.write(sys.stderr.fileno(), f"{MARK} {effect}\n".encode())
                os.kill(os.getpid(), signal.SIGKILL)


def wrap(fuse: Fuse) -> None:
    """Let every effect of this process pass by *fuse*."""
    _wrap_connections(fuse)
    raise_to, send = Fence.raise_to, Link.send

    def raise_and_count(self: Fence, size: int, root: bytes) -> None:
        raise_to(self, size, root)
        fuse.pass_by("fence raised")

    async def send_and_count(self: Link, data: bytes) -> None:
        fuse.pass_by("before send")
        await send(self, data)
        fuse.pass_by("after send")

    Fence.raise_to = raise_and_count  # type: ignore[method-assign]
    Link.send = send_and_count  # type: ignore[method-assign]


def _wrap_connections(fuse: Fuse) -> None:
    class NodeConnection(sqlite3.Connection):
        @override
        def execute(self, sql: str, parameters: Any = (), /) -> sqlite3.Cursor:
            if sql != "COMMIT":
                return super().execute(sql, parameters)
            fuse.pass_by("before commit of node.db")
            cursor = super().execute(sql, parameters)
            fuse.pass_by("after commit of node.db")
            return cursor

    class CaseConnection(sqlcipher.Connection):  # type: ignore[misc]
        def execute(self, sql: str, parameters: Sequence[object] = ()) -> Any:  # noqa: ANN401
            if sql != "COMMIT":
                return super().execute(sql, parameters)
            fuse.pass_by("before commit of case.db")
            cursor = super().execute(sql, parameters)
            fuse.pass_by("after commit of case.db")
            return cursor

    sqlite3.connect = functools.partial(sqlite3.connect, factory=NodeConnection)  # type: ignore[assignment]
    sqlcipher3.connect = functools.partial(sqlcipher3.connect, factory=CaseConnection)


def main() -> None:
    """Run a node that dies at the chosen effect."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--home", type=Path, required=True)
    parser.add_argument("--point", type=int, required=True)
    parser.add_argument("--after", type=Path)
    parser.add_argument("--only")
    chosen = parser.parse_args()
    wrap(Fuse(chosen.point, chosen.after, chosen.only))
    sys.argv = ["picket", "--home", str(chosen.home), "run"]
    run_command()


if __name__ == "__main__":
    main()
