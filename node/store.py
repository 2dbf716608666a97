"""node.db: ciphertext envelopes, the log, peers and the outbox. Nothing in it is secret.

- One connection, one writer, WAL with synchronous=FULL: a commit that returned is durable.
- Everything that one event changes is one transaction; nothing leaves the node before it returned.
- If a commit's outcome is not known the node stops (CommitUncertainError): signing a second,
  different tree head would be worse than standing still.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final

import sqlite_utils

from protocol.errors import BusyError, CommitUncertainError, StoreError

SCHEMA_VERSION: Final = 7
_OLDEST: Final = 3
"""Databases from this version on are brought up to date: they only lack tables and indexes."""

TABLES: Final[dict[str, tuple[dict[str, Any], str | tuple[str, ...]]]] = {
    "meta": ({"key": str, "value": bytes}, "key"),
    "statements": ({"node_id": bytes, "n": int, "wire": bytes}, ("node_id", "n")),
    # Statements that do not count, and revocations; since when recoveries are known, and which of
    # them count; levels of peers whose statements take these away; what a directory suspends.
    "statements_aside": ({"node_id": bytes, "digest": bytes, "wire": bytes}, ("node_id", "digest")),
    "recoveries": (
        {
            "digest": bytes, "node_id": bytes, "seen_at": int, "confirmed_at": int,
            "confirmed_by": str, "method": str, "counts": int,
        },
        "digest",
    ),
    "levels_given": ({"node_id": bytes, "level": str}, "node_id"),
    "suspensions": ({"node_id": bytes, "wire": bytes, "at": int}, "node_id"),
    # Sealing keys of this node that were lost, what others had sealed to them and were told (out),
    # and what others said so (in); which sealing keys of peers were shown to be theirs.
    "lost_keys": ({"ekid": bytes, "lost_from": int, "lost_until": int}, "ekid"),
    "exposures": (
        {
            "digest": bytes, "direction": str, "peer": bytes, "ekid": bytes, "record": bytes,
            "at": int, "told_at": int,
        },
        "digest",
    ),
    "seal_proofs": (
        {"peer": bytes, "ekid": bytes, "asked_at": int, "proven_at": int, "wrong": int},
        ("peer", "ekid"),
    ),
    "peers": (
        {
            "node_id": bytes, "name": str, "level": str, "method": str, "verified_by": str,
            "verified_at": int, "added_at": int, "last_contact": int,
        },
        "node_id",
    ),
    # Nodes that ask to be added, those that are ignored (as digests), and what can be undone.
    "callers": (
        {
            "node_id": bytes, "bundle": bytes, "authority": str, "country": str, "contact": str,
            "address": str, "first_seen": int, "last_seen": int, "knocked_at": int,
            "introduced_by": bytes, "ask_at": int,
        },
        "node_id",
    ),
    "callers_ignored": ({"digest": bytes, "at": int}, "digest"),
    "caller_acts": (
        {"number": int, "what": str, "at": int, "node_id": bytes, "row": bytes}, "number",
    ),
    "envelopes": (
        {
            "id": bytes, "author": bytes, "incarnation": int, "stream": bytes, "seq": int,
            "prev": bytes, "opener": bytes, "expires": int, "part": str, "giver": bytes,
            "arrived": int, "log_index": int, "wire": bytes,
        },
        "id",
    ),
    # Of an envelope whose wire is null: carried and owed to nobody any more, or erased.
    "stubs": ({"envelope_id": bytes, "stub": bytes}, "envelope_id"),
    "streams": (
        {
            "author": bytes, "incarnation": int, "stream": bytes, "contiguous": int,
            "head": bytes, "beyond": bytes, "forked": int, "part": str,
        },
        ("author", "incarnation", "stream"),
    ),
    "members": (
        {"node_id": bytes, "author": bytes, "incarnation": int, "stream": bytes, "role": str},
        ("node_id", "author", "incarnation", "stream"),
    ),
    "forks": (
        {
            "digest": bytes, "author": bytes, "incarnation": int, "stream": bytes, "proof": bytes,
            "at": int,
        },
        "digest",
    ),
    "own_streams": (
        {
            "audience": bytes, "incarnation": int, "stream": bytes, "epoch": int, "opener": bytes,
            "keys": bytes, "opened_at": int,
        },
        "audience",
    ),
    "releases": ({"token": bytes, "envelope_id": bytes, "layers": str}, ("token", "envelope_id")),
    "presence": (
        {"peer": bytes, "opened_at": int, "closed_at": int, "seen_at": int},
        ("peer", "opened_at"),
    ),
    "outbox": (
        {
            "envelope_id": bytes, "peer": bytes, "route": str, "state": str, "position": int,
            "attempts": int, "next_at": int, "first_at": int, "code": str, "settled_at": int,
        },
        ("envelope_id", "peer"),
    ),
    "receipts": (
        {
            "envelope_id": bytes, "recipient": bytes, "kind": int, "log_index": int,
            "tree_size": int, "frame": bytes, "lot": bytes, "at": int, "relayed": int,
        },
        ("envelope_id", "recipient", "kind"),
    ),
    "blob_refs": ({"blob_id": bytes, "envelope_id": bytes}, ("blob_id", "envelope_id")),
    # Epochs of others that do not open here, those of ours that did not open for others, and the
    # entries under which envelopes are shown that opened late.
    "unopened": (
        {
            "opener": bytes, "author": bytes, "fault": str, "noted_at": int, "asked_at": int,
            "attempts": int, "next_at": int, "wrong": int, "slot": bytes, "mended_at": int,
            "looked": int,
        },
        "opener",
    ),
    "reseals": (
        {
            "reader": bytes, "opener": bytes, "notice": bytes, "asked_at": int, "asked": int,
            "owed": int, "code": str, "ekid": bytes, "answer": bytes, "answered_at": int,
            "since": int, "answers": int,
        },
        ("reader", "opener"),
    ),
    "late": ({"log_index": int, "envelope_id": bytes}, "log_index"),
    "receipt_lots": ({"id": bytes, "frame": bytes}, "id"),
    "entries": (
        {"idx": int, "kind": int, "entry": bytes, "local": bytes, "local_blind": bytes},
        "idx",
    ),
    # Which entries say who saw an envelope, and which one says that it was erased.
    "accesses": ({"envelope_id": bytes, "idx": int}, ("envelope_id", "idx")),
    "erasures": (
        {"envelope_id": bytes, "log_index": int, "settled": int, "slot": bytes}, "envelope_id",
    ),
    "tiles": ({"level": int, "idx": int, "data": bytes}, ("level", "idx")),
    "checkpoints": ({"size": int, "note": bytes, "at": int}, "size"),
    # Heads of this log, and of those that it continues under a new name, with the cosignatures of
    # witnesses; quorum_at and time_s are seconds.
    "cosigned": (
        {"origin": str, "size": int, "note": bytes, "at": int, "quorum_at": int},
        ("origin", "size"),
    ),
    "cosignatures": (
        {
            "origin": str, "size": int, "name": str, "key_id": bytes, "signature": bytes,
            "time_s": int,
        },
        ("origin", "size", "name", "key_id"),
    ),
    # When the first of a quorum cosigned a head of these logs: an author may have named it.
    "head_times": (
        {"origin": str, "size": int, "root": bytes, "at": int}, ("origin", "size"),
    ),
    # Heads of other nodes' logs that envelopes of ours name as their anchor.
    "anchors": ({"origin": str, "size": int, "note": bytes}, ("origin", "size")),
    # Of other nodes' logs: the head that was cosigned last, heads to be proven, and evidence.
    "witnessed": (
        {
            "origin": str, "node_id": bytes, "size": int, "root": bytes, "note": bytes, "at": int,
        },
        "origin",
    ),
    "peer_heads": (
        {
            "node_id": bytes, "size": int, "root": bytes, "source": bytes, "note": bytes,
            "at": int,
        },
        ("node_id", "size", "root"),
    ),
    "log_forks": ({"digest": bytes, "node_id": bytes, "proof": bytes, "at": int}, "digest"),
}  # fmt: skip

_INDEXES: Final = (
    "CREATE UNIQUE INDEX IF NOT EXISTS peers_name ON peers(name)",
    "CREATE INDEX IF NOT EXISTS envelopes_place ON envelopes(author, incarnation, stream, seq)",
    "CREATE UNIQUE INDEX IF NOT EXISTS envelopes_log ON envelopes(log_index)",
    "CREATE INDEX IF NOT EXISTS envelopes_carried ON envelopes(log_index) "
    "WHERE part = 'carrier' AND wire IS NOT NULL",
    "CREATE INDEX IF NOT EXISTS envelopes_custody ON envelopes(author, incarnation, stream, seq) "
    "WHERE part = 'carrier' AND wire IS NOT NULL",
    "CREATE INDEX IF NOT EXISTS members_stream ON members(author, incarnation, stream)",
    "CREATE INDEX IF NOT EXISTS forks_stream ON forks(author, incarnation, stream)",
    "CREATE INDEX IF NOT EXISTS outbox_due ON outbox(peer, state, position)",
    "CREATE INDEX IF NOT EXISTS outbox_state ON outbox(state, route)",
    "CREATE INDEX IF NOT EXISTS receipts_relay ON receipts(relayed, envelope_id)",
    "CREATE INDEX IF NOT EXISTS unopened_due ON unopened(author, next_at) WHERE mended_at IS NULL",
    "CREATE INDEX IF NOT EXISTS unopened_mended ON unopened(looked) WHERE mended_at IS NOT NULL",
    "CREATE INDEX IF NOT EXISTS reseals_owed ON reseals(reader) WHERE owed = 1",
    "CREATE INDEX IF NOT EXISTS receipts_tree ON receipts(recipient, tree_size)",
    # Entries of kind 12 by their own bytes: few among many.
    "CREATE INDEX IF NOT EXISTS entries_approvals ON entries(idx) "
    "WHERE substr(entry, 3, 1) = x'0c'",
    "CREATE INDEX IF NOT EXISTS members_node ON members(node_id, author, incarnation, stream)",
)

_PRAGMAS: Final = (
    "journal_mode=WAL",
    "synchronous=FULL",
    "trusted_schema=OFF",
    "cell_size_check=ON",
    "busy_timeout=0",
    "temp_store=MEMORY",
)
_WAL_SIZE: Final = 4 * 1024 * 1024
"""Bytes: SQLite begins the log anew after 1,000 pages."""
_FULL: Final = frozenset({sqlite3.SQLITE_FULL, sqlite3.SQLITE_BUSY, sqlite3.SQLITE_NOMEM})


class Store:
    """The database file and its transactions."""

    def __init__(
        self, path: Path, *, create: bool = False, connection: sqlite3.Connection | None = None
    ) -> None:
        """Open *path*; only with *create* may it be new.

        With *connection* the database behind it is used, and no file is looked for.

        A lost database is never replaced by an empty one: SQLite would then discard what its
        write-ahead log still holds.

        Raises:
            StoreError: it is missing, not a database, damaged, or from a later version.
        """
        self.path = path
        if connection is None and not create and (not path.is_file() or path.stat().st_size == 0):
            raise StoreError(
                f"{path} is missing or empty",
                fix="put node.db and fence back from a backup, if the node did nothing since",
            )
        try:
            self._connection = connection or sqlite3.connect(
                path, isolation_level=None, check_same_thread=False
            )
        except sqlite3.OperationalError as error:
            raise self._unusable(error) from None
        try:
            self._database = sqlite_utils.Database(self._connection)
            for pragma in _PRAGMAS:
                self._connection.execute(f"PRAGMA {pragma}")
            self._migrate(create=create)
            if self.scalar("SELECT 1 FROM erasures LIMIT 1"):
                self.wipe()  # a crash may have come between an erasure and this
            else:
                self._reserve()
        except sqlite3.DatabaseError as error:
            self._connection.close()
            raise self._unusable(error) from None
        except BaseException:
            self._connection.close()
            raise

    def _unusable(self, error: sqlite3.Error) -> StoreError:
        return StoreError(
            f"{self.path} cannot be used as a database: {error}",
            fix="restore it from a backup; Picket changed nothing in it",
        )

    def _migrate(self, *, create: bool) -> None:
        version = self._connection.execute("PRAGMA user_version").fetchone()[0]
        if version > SCHEMA_VERSION:
            raise StoreError(
                f"{self.path} was written by a later version of Picket", fix="update Picket"
            )
        if 0 < version < _OLDEST:
            raise StoreError(
                f"{self.path} was written by a pre-release of Picket that cannot be upgraded",
                fix="keep it, and make the node anew: picket init",
            )
        if version == 0 and not create:
            raise StoreError(
                f"{self.path} is no database of Picket", fix="restore it from a backup"
            )
        if version != SCHEMA_VERSION:
            known = set(self._database.table_names())
            with self.transaction():
                for name, (columns, key) in TABLES.items():
                    if name not in known:
                        self._database.table(name).create(columns, pk=key, strict=True)
                for index in _INDEXES:
                    self._connection.execute(index)
                self._connection.execute(f"PRAGMA user_version={SCHEMA_VERSION}")

    def _reserve(self) -> None:
        """Let the write-ahead log have its full length from the start.

        To sync a file that grows, the file system commits its own journal too, which all
        databases of a disk wait for. Pages that do not fit into the cache are written to the log
        before the transaction ends; that it is undone leaves them as mere length.
        """
        kept = self.scalar("PRAGMA cache_size")
        self._connection.execute("PRAGMA cache_size = 16")
        with suppress(sqlite3.OperationalError):  # a full disk: the log grows as it must
            self._connection.execute("BEGIN IMMEDIATE")
            self.run("INSERT INTO meta VALUES ('reserve', zeroblob(?))", _WAL_SIZE)
        self._rollback()
        self._connection.execute(f"PRAGMA cache_size = {kept:d}")

    def close(self) -> None:
        """Close the file; the write-ahead log is folded in."""
        self._connection.close()

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """Run the block as one durable transaction; an exception undoes all of it.

        Raises:
            BusyError: the disk is full; nothing was changed.
            CommitUncertainError: the commit may or may not have happened.
        """
        try:
            self._connection.execute("BEGIN IMMEDIATE")
            yield
        except sqlite3.OperationalError as error:
            self._rollback()
            raise _local_error(error) from None
        except BaseException:
            self._rollback()
            raise
        try:
            self._connection.execute("COMMIT")
        except sqlite3.OperationalError as error:
            # Whether SQLite keeps the transaction open after these or undoes it by itself, its last
            # page, which alone makes it count, was not written.
            if _primary(error) in _FULL:
                self._rollback()
                raise _local_error(error) from None
            raise CommitUncertainError(
                f"a commit to {self.path} failed with unknown outcome: {error}",
                fix="check the disk, then start the node again: it will verify itself",
            ) from None

    # --- deleting for good -------------------------------------------------------------------
    @contextmanager
    def shredding(self) -> Iterator[None]:
        """Let what is deleted in the block be overwritten in the file, not only given free.

        Whatever makes envelopes smaller runs inside: it moves others too, and leaves copies.
        """
        before = int(self.scalar("PRAGMA secure_delete"))
        self._connection.execute("PRAGMA secure_delete = ON")
        try:
            yield
        finally:
            self._connection.execute(f"PRAGMA secure_delete = {before:d}")

    def wipe(self) -> bool:
        """Leave nothing in the write-ahead log; False if the disk did not let us.

        The next start does it again if anything was ever erased here.
        """
        try:
            busy = bool(self.scalar("PRAGMA wal_checkpoint(TRUNCATE)"))
        except sqlite3.OperationalError:
            busy = True
        self._reserve()
        return not busy

    @property
    def in_transaction(self) -> bool:
        """Whether a transaction is open."""
        return self._connection.in_transaction

    @contextmanager
    def savepoint(self) -> Iterator[None]:
        """Run the block as a part of the open transaction that an exception undoes by itself."""
        self._connection.execute("SAVEPOINT part")
        try:
            yield
        except sqlite3.OperationalError:
            raise  # the disk is full: the whole transaction is undone
        except BaseException:
            self._connection.execute("ROLLBACK TO part")
            self._connection.execute("RELEASE part")
            raise
        self._connection.execute("RELEASE part")

    def _rollback(self) -> None:
        if self._connection.in_transaction:
            self._connection.execute("ROLLBACK")

    # --- plain access ------------------------------------------------------------------------
    def rows(self, sql: str, *values: object) -> list[dict[str, Any]]:
        """Return the rows of a query as dictionaries."""
        cursor = self._connection.execute(sql, values)
        names = [column[0] for column in cursor.description]
        return [dict(zip(names, row, strict=True)) for row in cursor.fetchall()]

    def tuples(self, sql: str, *values: object) -> list[tuple[Any, ...]]:
        """Return the rows of a query as tuples, which costs less where there are very many."""
        return self._connection.execute(sql, values).fetchall()

    def row(self, sql: str, *values: object) -> dict[str, Any] | None:
        """Return the first row of a query, or None."""
        return next(iter(self.rows(sql, *values)), None)

    def scalar(self, sql: str, *values: object) -> Any:  # noqa: ANN401  whatever the column holds
        """Return the first column of the first row, or None."""
        found = self._connection.execute(sql, values).fetchone()
        return None if found is None else found[0]

    def run(self, sql: str, *values: object) -> int:
        """Execute one statement and return how many rows it changed."""
        return self._connection.execute(sql, values).rowcount

    def insert(self, table: str, row: Mapping[str, object], *, replace: bool = False) -> None:
        """Insert *row*; with *replace* an old row of the same key gives way."""
        self.insert_all(table, [row], replace=replace)

    def insert_all(
        self, table: str, rows: Sequence[Mapping[str, object]], *, replace: bool = False
    ) -> None:
        """Insert *rows*, which all have the same columns."""
        if not rows:
            return
        columns = list(rows[0])
        verb = "INSERT OR REPLACE" if replace else "INSERT"
        names, marks = ", ".join(columns), ", ".join("?" * len(columns))
        # Table and column names come from this package alone, values are always bound.
        sql = f"{verb} INTO {table} ({names}) VALUES ({marks})"
        self._connection.executemany(sql, [[row[column] for column in columns] for row in rows])

    # --- meta --------------------------------------------------------------------------------
    def meta(self, key: str) -> bytes | None:
        """Return the value stored under *key*."""
        value: bytes | None = self.scalar("SELECT value FROM meta WHERE key = ?", key)
        return value

    def set_meta(self, key: str, value: bytes) -> None:
        """Store *value* under *key*."""
        self.insert("meta", {"key": key, "value": value}, replace=True)

    # --- envelopes ---------------------------------------------------------------
    def envelope(self, envelope_id: bytes) -> dict[str, Any] | None:
        """Return the row of one envelope."""
        return self.row("SELECT * FROM envelopes WHERE id = ?", envelope_id)

    def stub(self, envelope_id: bytes) -> bytes | None:
        """Return what is left of a carried envelope whose bytes were let go."""
        left: bytes | None = self.scalar(
            "SELECT stub FROM stubs WHERE envelope_id = ?", envelope_id
        )
        return left

    def holds(self, envelope_id: bytes) -> bool:
        """Whether the envelope is stored, or was carried here."""
        return bool(self.scalar("SELECT 1 FROM envelopes WHERE id = ?", envelope_id))

    def wires(self, envelope_ids: Iterable[bytes]) -> list[tuple[bytes, bytes]]:
        """Return (id, wire) for those of *envelope_ids* that are stored, in that order."""
        pairs = []
        for envelope_id in envelope_ids:
            wire = self.scalar("SELECT wire FROM envelopes WHERE id = ?", envelope_id)
            if wire is not None:
                pairs.append((envelope_id, wire))
        return pairs


def expand(sql: str, values: Sequence[object]) -> str:
    """Return *sql* with ``??`` replaced by as many question marks as there are *values*."""
    return sql.replace("??", ", ".join("?" * len(values)))


def _primary(error: sqlite3.Error) -> int:
    return int(getattr(error, "sqlite_errorcode", 0)) & 0xFF


def _local_error(error: sqlite3.OperationalError) -> Exception:
    if _primary(error) in _FULL:
        return BusyError(
            "the disk is full or the database is busy; nothing was changed",
            fix="free some space; the node goes on by itself",
        )
    return StoreError(f"the database failed: {error}", fix="check the disk and its permissions")
