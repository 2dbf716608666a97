"""What each column of node.db may hold, and a search for rows that hold something else.

- SQLite keeps text, numbers and bytes apart, but a column of the tables may be null, and an edited
  or damaged file may hold anything. What reads a row relies on this, so it is looked at before.
- Small tables are looked at whenever the databases are opened. All of them are the first thing that
  a verification looks at, and a call that failed on an unexpected value.
- It says what a value is, never what it means: that is for the verification of each table.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

from node.store import TABLES, Store
from protocol import suite
from protocol.entry import BLIND_SIZE
from protocol.envelope import STREAM_SIZE
from protocol.errors import LogCorruptionError
from protocol.note import KEY_ID_SIZE

LAST_MS: Final = 253_402_300_799_999
"""The latest time that can be shown: RFC 3339 has no year after 9999."""
_TYPES: Final = {str: "text", int: "integer", bytes: "blob"}
_KINDS: Final = {"text": "text", "integer": "a number", "blob": "bytes", "real": "a fraction"}
_CHUNK: Final = 2_048
_SHOWN: Final = 40
_NULLABLE: Final = frozenset(
    f"{table}.{name}"
    for table, names in (
        ("recoveries", "confirmed_at confirmed_by method"),
        ("exposures", "told_at"),
        ("seal_proofs", "proven_at"),
        ("peers", "method verified_by verified_at last_contact"),
        ("callers", "address introduced_by"),
        ("envelopes", "opener wire"),
        ("presence", "closed_at"),
        ("outbox", "first_at code settled_at"),
        ("receipts", "frame lot"),
        ("unopened", "asked_at slot mended_at"),
        ("reseals", "code ekid answer answered_at"),
        ("erasures", "slot"),
        ("cosigned", "quorum_at"),
        ("peer_heads", "note"),
    )
    for name in names.split()
)
_DIGESTS: Final = frozenset(
    f"{table}.{name}"
    for table, names in (
        ("statements", "node_id"),
        ("statements_aside", "node_id digest"),
        ("recoveries", "digest node_id"),
        ("levels_given", "node_id"),
        ("suspensions", "node_id"),
        ("lost_keys", "ekid"),
        ("exposures", "digest peer ekid"),
        ("seal_proofs", "peer ekid"),
        ("peers", "node_id"),
        ("callers", "node_id introduced_by"),
        ("callers_ignored", "digest"),
        ("caller_acts", "node_id"),
        ("envelopes", "id author prev opener giver"),
        ("stubs", "envelope_id"),
        ("streams", "author head"),
        ("members", "node_id author"),
        ("forks", "digest author"),
        ("own_streams", "audience opener keys"),
        ("releases", "token envelope_id"),
        ("presence", "peer"),
        ("outbox", "envelope_id peer"),
        ("receipts", "envelope_id recipient lot"),
        ("blob_refs", "blob_id envelope_id"),
        ("unopened", "opener author"),
        ("reseals", "reader opener ekid"),
        ("late", "envelope_id"),
        ("receipt_lots", "id"),
        ("accesses", "envelope_id"),
        ("erasures", "envelope_id"),
        ("head_times", "root"),
        ("witnessed", "node_id root"),
        ("peer_heads", "node_id root source"),
        ("log_forks", "digest node_id"),
    )
    for name in names.split()
)
_SIZES: Final[Mapping[str, int]] = dict.fromkeys(_DIGESTS, suite.DIGEST_SIZE) | {
    "envelopes.stream": STREAM_SIZE,
    "streams.stream": STREAM_SIZE,
    "members.stream": STREAM_SIZE,
    "forks.stream": STREAM_SIZE,
    "own_streams.stream": STREAM_SIZE,
    "entries.local_blind": BLIND_SIZE,
    "cosignatures.key_id": KEY_ID_SIZE,
}
_MS: Final = frozenset(
    {
        "at", "seen_at", "confirmed_at", "asked_at", "proven_at", "told_at", "verified_at",
        "added_at", "last_contact", "first_seen", "last_seen", "knocked_at", "ask_at", "arrived",
        "opened_at", "closed_at", "next_at", "first_at", "settled_at", "noted_at", "mended_at",
        "answered_at", "since", "lost_from", "lost_until",
    }
)  # fmt: skip
_SECONDS: Final = frozenset({"cosigned.quorum_at", "cosignatures.time_s", "head_times.at"})
_META_SIZES: Final = {"node_id": suite.DIGEST_SIZE, "network": suite.DIGEST_SIZE, "incarnation": 4}
# They grow with what was exchanged: too long to be read whenever a command opens the databases.
_LARGE: Final = frozenset(
    {
        "accesses", "blob_refs", "cosignatures", "cosigned", "entries", "envelopes", "erasures",
        "head_times", "late", "members", "outbox", "presence", "receipt_lots", "receipts",
        "releases", "streams", "stubs", "tiles",
    }
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Column:
    """What one column of a table may hold: its type, its length if fixed, the latest time."""

    name: str
    type: str
    may_be_null: bool
    size: int | None
    latest: int | None

    @property
    def fault(self) -> str:
        """An SQL expression that is true of a value that may not stand in this column."""
        # Text that SQLite takes may be no UTF-8; what is not plain ASCII is looked at again.
        allowed = f"'{self.type}', 'null'" if self.may_be_null else f"'{self.type}'"
        fault = f"typeof({self.name}) NOT IN ({allowed})"
        if self.size is not None:
            fault += f" OR length({self.name}) <> {self.size:d}"
        if self.latest is not None:
            fault += f" OR {self.name} < 0 OR {self.name} > {self.latest:d}"
        return fault

    def wrong(self, type_: str, data: bytes | None) -> str:
        """Say what is wrong with a value of an SQL type and these bytes; nothing if it is right."""
        if type_ == "null":
            return "" if self.may_be_null else "nothing"
        if type_ != self.type or data is None:
            return f"{_KINDS[type_]} in place of {_KINDS[self.type]}"
        if self.size is not None and len(data) != self.size:
            return f"{len(data)} bytes in place of {self.size}"
        if self.latest is not None and not 0 <= int(data) <= self.latest:
            return "a time that is none"
        if type_ == "text" and not _is_text(data):
            return "text that is not UTF-8"
        return ""


@dataclass(frozen=True, slots=True)
class Table:
    """The columns of one table of node.db, and which of them are its key."""

    name: str
    columns: tuple[Column, ...]
    key: tuple[str, ...]


def _columns(table: str, types: Mapping[str, Any]) -> tuple[Column, ...]:
    found = []
    for name, type_ in types.items():
        full, latest = f"{table}.{name}", None
        if full in _SECONDS:
            latest = LAST_MS // 1000
        elif type_ is int and name in _MS:
            latest = LAST_MS
        found.append(Column(name, _TYPES[type_], full in _NULLABLE, _SIZES.get(full), latest))
    return tuple(found)


ALL: Final = tuple(
    Table(name, _columns(name, types), (key,) if isinstance(key, str) else key)
    for name, (types, key) in TABLES.items()
)
SMALL: Final = tuple(table for table in ALL if table.name not in _LARGE)
"""The tables that are looked at whenever the databases are opened."""


def check(store: Store, tables: tuple[Table, ...] = ALL) -> None:
    """Look at every row of *tables*.

    Raises:
        LogCorruptionError: one holds what this node never writes; names table, row and column.
    """
    for table in tables:
        for _ in check_steps(store, table):
            pass


@contextmanager
def explained(store: Store) -> Iterator[None]:
    """Name the damage in node.db where the block fails on a value that nobody writes there.

    Raises:
        LogCorruptionError: the block failed so, and a row holds what this node never writes.
    """
    try:
        yield
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError, sqlite3.Error):
        check(store)
        raise


def check_steps(store: Store, table: Table) -> Iterator[None]:
    """Look at every row that one *table* has now, some thousand at a time; it may grow meanwhile.

    Raises:
        LogCorruptionError: one holds what this node never writes; names table, row and column.
    """
    # Names of tables and columns come from this package alone.
    ((last, newest),) = store.tuples(f"SELECT min(rowid) - 1, max(rowid) FROM {table.name}")  # noqa: S608
    faults = " OR ".join(column.fault for column in table.columns)
    faults += "".join(
        f" OR {name} GLOB '*[^ -~]*' OR length({name}) <> length(CAST({name} AS BLOB))"
        for name in (column.name for column in table.columns if column.type == "text")
    )
    if table.name == "meta":
        faults += f" OR key IN ({', '.join(map(repr, _META_SIZES))})"
    if table.name == "receipts":
        faults += " OR (frame IS NULL) = (lot IS NULL)"
    find = f"SELECT rowid FROM {table.name} WHERE rowid > ? AND rowid <= ? AND ({faults})"  # noqa: S608
    page = (
        f"SELECT max(rowid) FROM (SELECT rowid FROM {table.name} "  # noqa: S608
        f"WHERE rowid > ? AND rowid <= ? ORDER BY rowid LIMIT {_CHUNK})"
    )
    while last is not None and (end := store.scalar(page, last, newest)) is not None:
        for (number,) in store.tuples(find, last, end):
            _check_row(store, table, number)
        last = end
        yield


def _check_row(store: Store, table: Table, number: int) -> None:
    names = [column.name for column in table.columns]
    asked = ", ".join(f"typeof({name}), CAST({name} AS BLOB)" for name in names)
    (values,) = store.tuples(f"SELECT {asked} FROM {table.name} WHERE rowid = ?", number)  # noqa: S608
    held = {name: (values[2 * at], values[2 * at + 1]) for at, name in enumerate(names)}
    for column in table.columns:
        wrong = column.wrong(*held[column.name])
        if wrong:
            raise _damaged(table, column.name, wrong, number, held)
    if table.name == "meta":
        key, size = held["key"][1].decode(), len(held["value"][1])
        if size != _META_SIZES.get(key, size):
            wrong = f"{size} bytes in place of {_META_SIZES[key]}"
            raise _damaged(table, "value", wrong, number, held)
    if table.name == "receipts" and (held["lot"][1] is None) == (held["frame"][1] is None):
        wrong = "not exactly one of a lot and something"
        raise _damaged(table, "frame", wrong, number, held)


def _damaged(
    table: Table, column: str, wrong: str, number: int, held: Mapping[str, tuple[str, bytes]]
) -> LogCorruptionError:
    key = ", ".join(f"{name} {_shown(*held[name])}" for name in table.key)
    return LogCorruptionError(
        f"node.db is damaged: table {table.name}, row {number} ({key}), has {wrong} in the column "
        f"{column}",
        fix="restore node.db from its newest backup, and find out who changed it",
    )


def _shown(type_: str, data: bytes | None) -> str:
    """Return a value of a key so that it can be found again, and cannot move the cursor."""
    if data is None:
        return "-"
    if type_ == "blob":
        return data.hex()[:_SHOWN]
    text = data.decode("utf-8", "replace")[:_SHOWN]
    return "".join(c if c.isprintable() else " " for c in text)


def _is_text(data: bytes) -> bool:
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True
