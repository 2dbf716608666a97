"""A backup's snapshot of a node, taken while it runs, and what the log says of backups.

- That a backup was begun is a log entry, signed and stored, before the snapshot is taken. The
  snapshot is one moment on the thread that owns the databases: fence and key files are copied then,
  and a read transaction is begun on each database. So case.db never follows a log that is longer
  than the one beside it, and the fence never says more than node.db holds.
- The databases are copied by a thread of its own over connections of its own, page by page, out of
  these transactions; the node goes on meanwhile. Of a locked node nobody else has case.db open, and
  its files are copied as they are.
- The snapshot lies in the home, which nobody else can read. Who asked for it seals it into one file
  (``node.backup_file``), says so, and it is deleted; what a crash leaves is deleted at the start.
"""

from __future__ import annotations

import os
import shutil
import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Protocol

import sqlcipher3

from keys.identity import Random, Vault
from keys.keystore import write_private
from node import __version__
from node.backup_file import ALONE
from node.blobfile import create, name_of
from node.blobs import BlobStore
from node.clock import Clock, rfc3339
from node.home import Home
from node.locking import Lease, Locking
from node.log import Act, Log
from node.store import Store
from node.words import counted
from protocol import suite
from protocol.canonical import decode, encode
from protocol.entry import EntryKind
from protocol.errors import (
    BusyError,
    ConflictError,
    NotFoundError,
    PeerError,
    PicketError,
)
from protocol.shape import array, octets, uint
from protocol.statement import Card

FOLDER: Final = ".backup-"
LISTED: Final = "attachments.list"
NOTICE_MS: Final = 30 * 86_400_000
"""How old the newest backup may be before the status says so."""
_DAY_MS: Final = 86_400_000
_DATABASES: Final = ("node.db", "case.db", "case.db-wal")
_ID: Final = 16
_PAGES: Final = 256
_LAST: Final = "backup-last"
_MAX_META: Final = 256
Row = dict[str, Any]


class Owner(Protocol):
    """What a backup needs of the node that it is of."""

    home: Home
    vault: Vault | None
    blobs: BlobStore | None
    signing_waits: bool

    @property
    def locking(self) -> Locking:
        """The lock of the node."""
        ...

    @property
    def card(self) -> Card:
        """Our newest card."""
        ...

    @property
    def node_id(self) -> bytes:
        """Our node id."""
        ...

    def statement_number(self) -> int:
        """Return the number of our newest key statement."""
        ...

    def logged(self) -> Any:  # noqa: ANN401  a context manager
        """Run a block as one transaction that grows the log."""
        ...

    def seal(self) -> None:
        """Sign the log as far as it has grown."""
        ...

    def settle_fence(self) -> None:
        """Write the newest signed head to the fence."""
        ...


@dataclass(frozen=True, slots=True)
class Made:
    """The newest backup that was written to its end: when (ms), and the digest of its manifest."""

    at: int
    manifest: bytes


@dataclass
class _Snapshot:
    """One snapshot: where it lies, what it is of, and how far copying is."""

    backup_id: bytes
    folder: Path
    row: Row
    stop: threading.Event = field(default_factory=threading.Event)
    thread: threading.Thread | None = None
    done: int = 0
    total: int = 0
    error: PicketError | None = None


@dataclass(frozen=True, slots=True)
class _Source:
    """One database with an open read transaction, and what makes the file that it is copied to."""

    name: str
    connection: Any
    make: Callable[[Path], Any]


class Backups:
    """All that a node does about backups of itself."""

    def __init__(
        self, owner: Owner, *, store: Store, log: Log, clock: Clock, random: Random
    ) -> None:
        """Begin; what a crash left of a snapshot is deleted."""
        self._owner, self._store, self._log = owner, store, log
        self._clock, self._random = clock, random
        self._snapshot: _Snapshot | None = None
        for left in owner.home.path.glob(f"{FOLDER}*"):
            shutil.rmtree(left, ignore_errors=True)

    def close(self) -> None:
        """End the copying and delete what there is of it."""
        self._drop()

    # --- the snapshot ------------------------------------------------------------------------
    def begin(self, *, who: str, attachments: bool) -> Row:
        """Log that a backup is made, and begin to copy the databases as they are then.

        Raises:
            ConflictError: one is being made.
            BusyError: the disk is full, or the node has just started and signs nothing yet.
        """
        before = self._snapshot
        if before is not None and before.thread is not None and before.thread.is_alive():
            raise ConflictError("a backup is being made already", fix="wait until it is finished")
        if self._owner.signing_waits:
            raise BusyError(
                "the node has just started or was restored, and signs nothing before its peers "
                "have answered",
                fix="try again in half a minute; see: picket status",
            )
        self._drop()
        backup_id, now = self._random(_ID), self._clock.now()
        with self._owner.logged():
            self._log.append([backup_act("begun", backup_id, now, who)])
        self._owner.seal()
        with self._store.transaction():
            self._log.keep()
        self._owner.settle_fence()
        folder = self._owner.home.path / f"{FOLDER}{backup_id.hex()[:8]}"
        self._snapshot = _Snapshot(backup_id, folder, self._about(backup_id, now, attachments))
        try:
            self._take(self._snapshot, attachments=attachments)
        except BaseException:
            self._drop()
            raise
        return self.state(backup_id.hex())

    def _about(self, backup_id: bytes, now: int, attachments: bool) -> Row:
        card, size = self._owner.card, self._log.signed_size
        return {
            "id": backup_id.hex(), "node_id": self._owner.node_id.hex(),
            "authority": card.authority, "country": card.country, "made_at": now,
            "origin": self._log.origin, "log_size": size, "log_root": self._log.root(size).hex(),
            "statement": self._owner.statement_number(), "version": __version__,
            "attachments": attachments,
        }  # fmt: skip

    def _take(self, snapshot: _Snapshot, *, attachments: bool) -> None:
        home, folder = self._owner.home, snapshot.folder
        try:
            folder.mkdir(mode=0o700)
            for name in ALONE:
                if name not in _DATABASES and (home.path / name).exists():
                    write_private(folder / name, (home.path / name).read_bytes())
            if home.tls_others.exists():
                (folder / "tls").mkdir(mode=0o700)
                for pem in sorted(home.tls_others.glob("*.pem")):
                    write_private(folder / "tls" / pem.name, pem.read_bytes())
            blobs = self._owner.blobs
            whole = blobs.whole() if blobs is not None and attachments else ()
            write_private(folder / LISTED, "".join(f"{name_of(b)}\n" for b in whole).encode())
            lease = Lease(self._owner.locking) if self._owner.vault is not None else None
            if lease is None:
                for name in _DATABASES[1:]:
                    if (home.path / name).exists():
                        shutil.copyfile(home.path / name, folder / name)
                        (folder / name).chmod(0o600)
        except OSError as error:
            raise _failed(error.strerror or "the disk failed") from None
        self._start(snapshot, lease)

    def _start(self, snapshot: _Snapshot, lease: Lease | None) -> None:
        """Open the read transactions, and leave the copying to another thread."""
        sources: list[_Source] = []
        try:
            sources.append(_node_source(self._owner.home.node_db))
            if self._owner.vault is not None:
                sources.append(_case_source(self._owner.home.case_db, self._owner.vault.storage))
        except (sqlite3.Error, sqlcipher3.Error) as error:
            for source in sources:
                source.connection.close()
            raise _failed(str(error)) from None
        snapshot.total = sum(
            source.connection.execute("PRAGMA page_count").fetchone()[0] for source in sources
        )
        snapshot.thread = threading.Thread(
            target=_copy, args=(snapshot, sources, lease), name="backup", daemon=True
        )
        snapshot.thread.start()

    def state(self, backup_id: str) -> Row:
        """Return where the snapshot lies, what it is of, and how far it is copied.

        Raises:
            NotFoundError: there is no such backup now.
            BusyError, LockedError: copying failed; nothing is left of it.
        """
        snapshot = self._find(backup_id)
        if snapshot.error is not None:
            error = snapshot.error
            self._drop()
            raise error
        copying = snapshot.thread is not None and snapshot.thread.is_alive()
        return {
            **snapshot.row, "folder": snapshot.folder.name, "copying": copying,
            "done": snapshot.done, "total": snapshot.total,
        }  # fmt: skip

    def made(self, backup_id: str, *, manifest: bytes, size: int, who: str) -> Row:
        """Log that the file is whole and durable, and delete the snapshot.

        Raises:
            NotFoundError: there is no such backup now.
            BusyError: the disk is full; the file is good all the same.
        """
        snapshot, now = self._find(backup_id), self._clock.now()
        with self._owner.logged():
            self._log.append([backup_act("made", snapshot.backup_id, now, who, manifest, size)])
            self._store.set_meta(_LAST, encode([snapshot.row["made_at"], manifest]))
        self._drop()
        return {"made_at": rfc3339(snapshot.row["made_at"])}

    def cancel(self, backup_id: str) -> None:
        """Delete a snapshot that no file comes of.

        Raises:
            NotFoundError: there is no such backup now.
        """
        self._find(backup_id)
        self._drop()

    def _find(self, backup_id: str) -> _Snapshot:
        snapshot = self._snapshot
        if snapshot is None or snapshot.backup_id.hex() != backup_id:
            raise NotFoundError(
                "there is no such backup now", fix="begin again: picket backup FILE"
            )
        return snapshot

    def _drop(self) -> None:
        snapshot, self._snapshot = self._snapshot, None
        if snapshot is None:
            return
        snapshot.stop.set()
        if snapshot.thread is not None:
            snapshot.thread.join()
        shutil.rmtree(snapshot.folder, ignore_errors=True)

    # --- what there is -----------------------------------------------------------------------
    def last(self) -> Made | None:
        """Return the newest backup that was written to its end."""
        stored = self._store.meta(_LAST)
        if stored is None:
            return None
        try:
            row = array(decode(stored, max_bytes=_MAX_META), "backup-last", size=2)
            return Made(uint(row[0], "at"), octets(row[1], "manifest", size=suite.DIGEST_SIZE))
        except PeerError:
            return None

    def row(self) -> Row:
        """Return what the status shows of backups."""
        last = self.last()
        if last is None:
            return {"last": None, "days": None}
        days = max(0, self._clock.now() - last.at) // _DAY_MS
        return {"last": rfc3339(last.at), "days": days}

    def notice(self, born: int) -> tuple[str, str] | None:
        """Return words and what to do if the newest backup is too old; *born* is the node's birth.

        A node is given as many days before its first one.
        """
        last, now = self.last(), self._clock.now()
        if now - (born if last is None else last.at) < NOTICE_MS:
            return None
        fix = "make one, and keep its sheet apart from it: picket backup FILE --sheet SHEET"
        if last is None:
            return "no backup of this node was ever made", fix
        days = counted((now - last.at) // _DAY_MS, "day")
        return f"the last backup of this node is {days} old", fix


def backup_act(*act: object) -> Act:
    """Return what the log holds of an act about backups: its first word, and what belongs to it."""
    return Act(EntryKind.BACKUP, suite.digest("backup-act", encode(list(act))), act)


# --- copying, on a thread of its own ---------------------------------------------------------
def _node_source(path: Path) -> _Source:
    connection = sqlite3.connect(
        f"{path.absolute().as_uri()}?mode=ro", uri=True, isolation_level=None,
        check_same_thread=False,
    )  # fmt: skip
    return _Source("node.db", _reading(connection), sqlite3.connect)


def _case_source(path: Path, storage: bytes) -> _Source:
    key = suite.derive(storage, "case-db").hex()

    def connected(at: Path) -> Any:  # noqa: ANN401  a module without types
        connection = sqlcipher3.connect(str(at), isolation_level=None, check_same_thread=False)
        connection.execute("PRAGMA cipher_log_level = NONE")
        connection.execute(f"PRAGMA key = \"x'{key}'\"")
        return connection

    return _Source("case.db", _reading(connected(path)), connected)


def _reading(connection: Any) -> Any:  # noqa: ANN401  of either module
    """Begin a read transaction: from now on *connection* sees this moment."""
    try:
        connection.execute("BEGIN")
        connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()
    except BaseException:
        connection.close()
        raise
    return connection


def _copy(snapshot: _Snapshot, sources: list[_Source], lease: Lease | None) -> None:
    """Copy the databases; what goes wrong is told by the snapshot."""
    try:
        with ExitStack() as stack:
            for source in sources:
                stack.enter_context(closing(source.connection))
            for source in sources:
                _copy_one(snapshot, source, lease)
    except _StoppedError:
        return
    except PicketError as error:
        snapshot.error = error
    except (sqlite3.Error, sqlcipher3.Error, OSError) as error:
        snapshot.error = _failed(str(error))


class _StoppedError(Exception):
    """The snapshot is not wanted any more."""


def _copy_one(snapshot: _Snapshot, source: _Source, lease: Lease | None) -> None:
    before = snapshot.done

    def progress(status: int, left: int, total: int) -> None:
        del status
        if snapshot.stop.is_set():
            raise _StoppedError
        if lease is not None:
            lease.check()
        snapshot.done = before + total - left

    path = snapshot.folder / source.name
    os.close(create(path))
    with closing(source.make(path)) as target:
        # A copy that a crash leaves is thrown away: nothing of it has to be durable.
        target.execute("PRAGMA synchronous = OFF")
        source.connection.backup(target, pages=_PAGES, progress=progress)
    for tail in ("-wal", "-shm"):
        with suppress(FileNotFoundError):
            path.with_name(path.name + tail).unlink()


def _failed(why: str) -> BusyError:
    return BusyError(
        f"the snapshot could not be copied: {why}; nothing is left of it",
        fix="there must be as much free space as node.db and case.db take",
    )


def listed(folder: Path) -> Iterator[str]:
    """Yield the names of the attachments that belong to the snapshot in *folder*."""
    with (folder / LISTED).open(encoding="ascii") as file:
        for line in file:
            yield line.rstrip("\n")
