"""The fence: a file beside the database that remembers the last published tree head.

- A database restored from a backup is older than what peers have seen; signing with it would make
  two histories. The fence is written before a signed head is given out, so such a database is
  noticed before the first signature.
- Two records are written in turn, each in a sector of its own: a crash that tears one leaves the
  other, which is one step older at most.
- A fence that is missing says nothing, so it is refused; a person may accept the database instead.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Final

from protocol.errors import CommitUncertainError, ConfigError, RollbackError

_CHECK: Final = 16
_FIELDS: Final = 3
_SECTOR: Final = 4_096
_RECORDS: Final = 2
_FIX: Final = "put back the newest node.db; signing with this one would make two histories"


class Fence:
    """One small file, overwritten in place and synced."""

    def __init__(self, path: Path) -> None:
        """Open or make *path*.

        Raises:
            ConfigError: it is no file, or not allowed to us.
        """
        self._path = path
        try:
            self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise ConfigError(
                f"{path} cannot be opened: {error.strerror}",
                fix="put the file back, with the rights that the other files have",
            ) from None
        found = [self._read(record) for record in range(_RECORDS)]
        self._last = max((head for head in found if head is not None), default=None)
        # The older record is the next to be overwritten.
        self._next = 1 if found[0] is not None and found[0] == self._last else 0

    def close(self) -> None:
        """Close the file."""
        os.close(self._file)

    def _read(self, record: int) -> tuple[int, bytes] | None:
        line = os.pread(self._file, _SECTOR, record * _SECTOR).partition(b"\n")[0]
        fields = line.decode("ascii", "replace").split()
        if len(fields) != _FIELDS or _check(f"{fields[0]} {fields[1]}") != fields[2]:
            return None
        return int(fields[0]), bytes.fromhex(fields[1])

    def raise_to(self, size: int, root: bytes) -> None:
        """Remember *size* and *root* durably.

        Raises:
            CommitUncertainError: it cannot be written; the node must stop.
        """
        text = f"{size:020d} {root.hex()}"
        try:
            os.pwrite(self._file, f"{text} {_check(text)}\n".encode(), self._next * _SECTOR)
            os.fdatasync(self._file)
        except OSError as error:
            # The commit stands, but nothing may leave while a restored copy could go unnoticed.
            raise CommitUncertainError(
                f"{self._path} cannot be written: {error.strerror}",
                fix="check the disk, then start the node again; nothing was lost",
            ) from None
        self._last, self._next = (size, root), (self._next + 1) % _RECORDS

    def last(self) -> tuple[int, bytes] | None:
        """Return the remembered size and root; None if no record is whole."""
        return self._last

    def check(self, size: int, root_of: Callable[[int], bytes]) -> None:
        """Check that a log of *size* entries continues what was published.

        Args:
            size: present number of entries.
            root_of: gives the root of the first so many entries.

        Raises:
            RollbackError: the database is older than, or differs from, what was published; or
                nothing says what was.
        """
        last = self.last()
        if last is None:
            raise RollbackError(
                f"{self._path} is missing or damaged, so nobody can tell whether node.db is its "
                "newest copy",
                fix="if you know that this node has done nothing since: picket log accept",
            )
        if last[0] > size:
            raise RollbackError(
                f"node.db holds {size} log entries, but {last[0]} were already published: "
                "it was restored from a backup or changed",
                fix=_FIX,
            )
        if root_of(last[0]) != last[1]:
            raise RollbackError(
                f"the {last[0]} log entries that were already published are not those in node.db: "
                "it is another copy, or its log was changed",
                fix=_FIX,
            )


def _check(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:_CHECK]
