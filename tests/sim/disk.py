"""What survives the death of a node: database, fence and casebook, all in memory.

- What was committed stays, what was not is gone; the fence counts once ``raise_to`` returned.
- Every durable effect, and every message that a node gives away, passes by the node's ``Fuse``,
  which ends the process at the one it was set to. So a crash can come between any two effects.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import sqlite_utils
from typing_extensions import override

from node.fence import Fence
from node.store import Store
from protocol.errors import CommitUncertainError


class Died(BaseException):
    """The end of a node's process, as far as the code under test can tell."""


class Fuse:
    """Counts the effects of one node; at the chosen one the process ends."""

    def __init__(self, note: Callable[[str], None]) -> None:
        """Burn at none; *note* hears of each effect."""
        self._note = note
        self._left = 0
        self.passed = 0

    def set(self, effects: int) -> None:
        """End the process at effect number *effects* from now on; 0 for never."""
        self._left = effects

    def pass_by(self, effect: str) -> None:
        """Count one effect."""
        self.passed += 1
        if self._left:
            self._left -= 1
            if not self._left:
                raise Died(effect)
        self._note(effect)


class _Connection(sqlite3.Connection):
    """Lets the fuse see each commit, before and after."""

    fuse: Fuse | None = None

    @override
    def execute(self, sql: str, parameters: Any = (), /) -> sqlite3.Cursor:
        if sql != "COMMIT" or self.fuse is None:
            return super().execute(sql, parameters)
        # The outcome is a fact of the disk, whatever the process lives to hear of it.
        self.fuse.pass_by("before commit")
        cursor = super().execute(sql, parameters)
        self.fuse.pass_by("commit")
        return cursor


def _connect() -> _Connection:
    return sqlite3.connect(
        ":memory:", isolation_level=None, check_same_thread=False, factory=_Connection
    )


class MemoryStore(Store):
    """``node.store.Store`` over a database that outlives it."""

    def __init__(self, connection: sqlite3.Connection, *, create: bool = False) -> None:
        """Open the database of *connection*; only with *create* may it be new."""
        self.path = Path("node.db")
        self._connection = connection
        self._database = sqlite_utils.Database(connection)
        self._migrate(create=create)

    @override
    def close(self) -> None:
        """Leave the database as it is: it is the disk."""

    @override
    def rows(self, sql: str, *values: object) -> list[dict[str, Any]]:
        """Return the rows of a query; as the real one does, without its detours."""
        cursor = self._connection.execute(sql, values)
        names = [column[0] for column in cursor.description]
        return [dict(zip(names, row, strict=True)) for row in cursor]


@dataclass
class Opened:
    """A record as the node's case.db would hold it."""

    envelope_id: bytes
    log_index: int
    body: bytes | None


class MemoryCases:
    """Stands for ``node.casebook.Casebook``: keeps what was opened and how far it followed."""

    def __init__(self) -> None:
        """Begin at the first log entry."""
        self.next_index = 0
        self.opened: list[Opened] = []
        self._unmended: dict[int, Opened] = {}

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """Undo the block if it fails, as the real one does."""
        kept = self.next_index, len(self.opened)
        self._unmended = {}
        try:
            yield
        except BaseException:
            self.next_index = kept[0]
            for at, opened in self._unmended.items():
                self.opened[at] = opened
            del self.opened[kept[1] :]
            raise

    def advance(self, next_index: int) -> None:
        """Say that all entries before *next_index* were followed."""
        self.next_index = next_index

    def keep(self, envelope_id: bytes, log_index: int, body: bytes | None) -> None:
        """Keep an opened body; None if it did not open."""
        self.opened.append(Opened(envelope_id, log_index, body))

    def mend(self, envelope_id: bytes, body: bytes | None) -> None:
        """Keep the body of an envelope that opens late, where it did not open before."""
        for at, opened in enumerate(self.opened):
            if opened.envelope_id == envelope_id and opened.body is None:
                self._unmended[at] = opened
                self.opened[at] = Opened(envelope_id, opened.log_index, body)

    def in_quarantine(self, envelope_ids: Sequence[bytes]) -> list[bytes]:
        """Return those of *envelope_ids* that did not open."""
        shut = {opened.envelope_id for opened in self.opened if opened.body is None}
        return [envelope_id for envelope_id in envelope_ids if envelope_id in shut]

    def condemned(self) -> list[dict[str, object]]:
        """Return no incident: the bodies here are no records, so none can be retracted."""
        return []

    def close(self) -> None:
        """Leave all as it is."""

    def copy(self) -> MemoryCases:
        """Return a backup."""
        twin = MemoryCases()
        twin.next_index, twin.opened = self.next_index, list(self.opened)
        return twin


@dataclass(frozen=True, slots=True)
class Backup:
    """A copy of a whole home."""

    database: bytes
    fence: tuple[int, bytes] | None
    cases: MemoryCases


@dataclass
class Disk:
    """The files of one node."""

    fence: tuple[int, bytes] | None = None
    cases: MemoryCases = field(default_factory=MemoryCases)
    connection: _Connection = field(default_factory=_connect)

    @classmethod
    def of(cls, backup: Backup) -> Disk:
        """Return a disk that holds *backup*."""
        disk = cls(backup.fence, backup.cases.copy())
        disk.connection.deserialize(backup.database)
        disk.connection.execute("PRAGMA temp_store=MEMORY")
        return disk

    def backup(self) -> Backup:
        """Copy what is durable."""
        return Backup(self.connection.serialize(), self.fence, self.cases.copy())

    def crash(self) -> None:
        """Lose what was not committed."""
        self.connection.fuse = None
        if self.connection.in_transaction:
            self.connection.execute("ROLLBACK")

    def mount(self, fuse: Fuse) -> tuple[MemoryStore, MemoryFence]:
        """Open database and fence for a new process."""
        self.connection.fuse = fuse
        return MemoryStore(self.connection), MemoryFence(self, fuse)

    def fill(self, limit_pages: int | None) -> None:
        """Let the database not grow beyond *limit_pages* (1: not at all; None: freely again)."""
        self.connection.execute(f"PRAGMA max_page_count = {limit_pages or 2**30}")

    def rows(self, sql: str, *values: object) -> list[tuple[Any, ...]]:
        """Read the database past the node."""
        return list(sqlite3.Connection.execute(self.connection, sql, values).fetchall())


class MemoryFence(Fence):
    """``node.fence.Fence`` on a ``Disk``."""

    def __init__(self, disk: Disk, fuse: Fuse) -> None:
        """Read what *disk* holds."""
        self._path = Path("fence")
        self._disk, self._fuse = disk, fuse
        self._last = disk.fence
        self.broken = False

    @override
    def close(self) -> None:
        """Leave all as it is."""

    @override
    def raise_to(self, size: int, root: bytes) -> None:
        """Remember durably, unless the process ends before."""
        if self.broken:
            raise CommitUncertainError("fence cannot be written: the simulator says so")
        self._fuse.pass_by("before fence")
        self._disk.fence = self._last = (size, root)
        self._fuse.pass_by("fence")
