"""case.db: opened incidents, drafts and tokens, encrypted as a whole with SQLCipher.

- The key comes from the keystore's storage key; a locked node has no case.db.
- It follows node.db by a cursor (a log index): each step is idempotent, so a crash between the two
  files costs nothing. What stands here of released and received incidents can always be rebuilt.
- A record that opens but breaks the schema is quarantined and reported; the cursor goes on.
"""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import sqlcipher3
import sqlite_utils

from node.search import SearchIndex
from protocol import suite
from protocol.blob import BlobRef
from protocol.erasure import ABOUT_INCIDENT
from protocol.errors import BusyError, KeystoreError, NotFoundError, RecordError, StoreError

if TYPE_CHECKING:
    from protocol.erasure import ErasureAct
    from protocol.incident import Enclosed

SCHEMA_VERSION: Final = 5
_ITEMS_SINCE: Final = 4
_USE_NOTED_MS: Final = 60_000
_TABLES: Final[dict[str, tuple[dict[str, Any], str | tuple[str, ...]]]] = {
    "cursor": ({"id": int, "next_index": int, "next_draft": int}, "id"),
    "drafts": (
        {
            "incident_id": str, "ref": str, "data": str, "external_ref": str, "created": int,
            "number": int,
        },
        "incident_id",
    ),
    "records": (
        {
            "envelope_id": bytes, "log_index": int, "author": bytes, "incident_id": str,
            "revision": int, "layers": str, "at": int,
        },
        "envelope_id",
    ),
    "incidents": (
        {
            "incident_id": str, "author": bytes, "ref": str, "revision": int, "own": int,
            "face": str, "annex": str, "layers": str, "log_index": int, "at": int,
            "external_ref": str,
        },
        ("incident_id", "author"),
    ),
    # All that is left of incidents that were erased here.
    "erased": (
        {"incident_id": str, "author": bytes, "ref": str, "reason": str, "at": int},
        ("incident_id", "author"),
    ),
    # All records but reports. ``owner`` is whose the subject is; ``target`` is the other incident
    # of a link.
    "items": (
        {
            "envelope_id": bytes, "log_index": int, "author": bytes, "kind": str, "subject": str,
            "owner": bytes, "target": str, "body": str, "at": int,
        },
        "envelope_id",
    ),
    # What follows for an incident from amendments and retractions; ``condemned`` until all that
    # the law forbids to keep is erased.
    "standing": (
        {
            "incident_id": str, "author": bytes, "retracted": str, "contested": int,
            "condemned": int,
        },
        ("incident_id", "author"),
    ),
    "quarantine": ({"envelope_id": bytes, "log_index": int, "code": str, "at": int}, "envelope_id"),
    "attachments": (
        {
            "blob_id": bytes, "envelope_id": bytes, "key": bytes, "size": int, "sha256": bytes,
            "about": str, "at": int,
        },
        ("blob_id", "envelope_id"),
    ),
    "tokens": (
        {
            "id": str, "name": str, "digest": bytes, "scopes": str, "created": int,
            "expires": int, "last_used": int,
        },
        "id",
    ),
}  # fmt: skip
_INDEXES: Final = (
    "CREATE INDEX records_incident ON records(incident_id, author)",
    "CREATE UNIQUE INDEX incidents_log ON incidents(log_index)",
    "CREATE INDEX incidents_ref ON incidents(ref)",
    "CREATE INDEX drafts_ref ON drafts(ref)",
    "CREATE UNIQUE INDEX drafts_number ON drafts(number)",
)
_ITEM_INDEXES: Final = (
    "CREATE INDEX IF NOT EXISTS items_subject ON items(subject, owner)",
    "CREATE INDEX IF NOT EXISTS items_target ON items(target) WHERE target IS NOT NULL",
    "CREATE INDEX IF NOT EXISTS items_kind ON items(kind, log_index)",
    "CREATE INDEX IF NOT EXISTS standing_condemned ON standing(condemned) WHERE condemned = 1",
    "CREATE INDEX IF NOT EXISTS incidents_operation "
    "ON incidents(json_extract(face, '$.operation_id')) "
    "WHERE json_extract(face, '$.operation_id') IS NOT NULL",
)
# What desks keep beside what was received, and what they look up by.
_DESKS: Final = (
    "CREATE TABLE IF NOT EXISTS ref_lists (name TEXT PRIMARY KEY, version TEXT NOT NULL, "
    "source TEXT NOT NULL, imported INTEGER NOT NULL, rows TEXT NOT NULL) STRICT",
    "CREATE TABLE IF NOT EXISTS list_updates (name TEXT NOT NULL, author BLOB NOT NULL, "
    "taken INTEGER NOT NULL, ignored INTEGER NOT NULL, at INTEGER NOT NULL, "
    "PRIMARY KEY (name, author)) STRICT",
    "CREATE TABLE IF NOT EXISTS alerts_read (envelope_id BLOB PRIMARY KEY, "
    "at INTEGER NOT NULL) STRICT",
    "CREATE TABLE IF NOT EXISTS pics_sent (incident_id TEXT PRIMARY KEY, pics_ref TEXT NOT NULL, "
    "revision INTEGER NOT NULL, by TEXT NOT NULL, at INTEGER NOT NULL) STRICT",
    "CREATE TABLE IF NOT EXISTS retention (incident_id TEXT, author BLOB, until TEXT NOT NULL, "
    "noticed INTEGER NOT NULL, PRIMARY KEY (incident_id, author)) STRICT",
    "CREATE INDEX IF NOT EXISTS incidents_own ON incidents(log_index) WHERE own = 1",
    "CREATE INDEX IF NOT EXISTS incidents_retain ON incidents(log_index) "
    "WHERE json_extract(face, '$.handling.retain_until') IS NOT NULL",
    "CREATE INDEX IF NOT EXISTS records_log ON records(log_index)",
    "CREATE INDEX IF NOT EXISTS items_log ON items(log_index)",
)
_INCIDENTS: Final = (
    "SELECT i.*, e.reason AS erased_for, e.at AS erased_at, s.retracted, s.contested "
    "FROM incidents i "
    "LEFT JOIN erased e ON e.incident_id = i.incident_id AND e.author = i.author "
    "LEFT JOIN standing s ON s.incident_id = i.incident_id AND s.author = i.author"
)
_LOCAL: Final = b""
"""Stands for the envelope of a file that was put here and not released yet."""


class Casebook:
    """The encrypted database of opened incidents."""

    def __init__(self, path: Path, storage_key: bytes) -> None:
        """Open *path* with a key derived from *storage_key*, making the tables if it is new.

        Raises:
            KeystoreError: it was encrypted under another keystore.
            StoreError: it is damaged or from a later version.
            BusyError: the disk is full; a file that was not there before is not there now either.
        """
        self.path = path
        absent = [each for each in _files(path) if not each.exists()]
        key = suite.derive(storage_key, "case-db").hex()
        try:
            self._connection = sqlcipher3.connect(
                str(path), isolation_level=None, check_same_thread=False
            )
            path.chmod(0o600)
        except sqlcipher3.OperationalError as error:
            raise StoreError(
                f"{path} cannot be opened: {error}", fix="check the file and its permissions"
            ) from None
        try:
            self._connection.execute("PRAGMA cipher_log_level = NONE")
            # SQLCipher takes a raw key only as literal text; 64 hex digits need no quoting.
            self._connection.execute(f"PRAGMA key = \"x'{key}'\"")
            for pragma in ("journal_mode=WAL", "synchronous=FULL", "secure_delete=ON",
                           "temp_store=MEMORY", "trusted_schema=OFF"):  # fmt: skip
                self._connection.execute(f"PRAGMA {pragma}")
            self._database = sqlite_utils.Database(self._connection)
            self.search = SearchIndex(self._connection)
            self._migrate()
        except BaseException as error:
            self._connection.close()
            new = path in absent
            if new:  # half made, it would open with no key later
                for each in absent:
                    each.unlink(missing_ok=True)
            if not isinstance(error, sqlcipher3.DatabaseError):
                raise
            if new or "disk is full" in str(error):
                raise BusyError(
                    f"{path} cannot be written: {error}", fix="free some disk space"
                ) from None
            raise KeystoreError(
                f"{path} does not open with this keystore, or is damaged",
                fix="put back the case.db that belongs to it; received incidents can be rebuilt "
                "by moving it away, drafts cannot",
            ) from None

    def _migrate(self) -> None:
        version = self._connection.execute("PRAGMA user_version").fetchone()[0]
        if version > SCHEMA_VERSION:
            raise StoreError(
                f"{self.path} was written by a later version of Picket", fix="update Picket"
            )
        if version == 0:
            with self.transaction():
                for name, (columns, key) in _TABLES.items():
                    self._database.table(name).create(columns, pk=key, strict=True)
                for statement in (*_INDEXES, *_ITEM_INDEXES, *_DESKS):
                    self._connection.execute(statement)
                self._connection.execute("INSERT INTO cursor VALUES (1, 0, 0)")
                self._connection.execute(f"PRAGMA user_version={SCHEMA_VERSION}")
        elif version < SCHEMA_VERSION:
            known = set(self._database.table_names())
            with self.transaction():
                for name in ("attachments", "erased", "items", "standing"):
                    if name not in known:
                        columns, key = _TABLES[name]
                        self._database.table(name).create(columns, pk=key, strict=True)
                if version < _ITEMS_SINCE:
                    for index in _ITEM_INDEXES:
                        self._connection.execute(index)
                    self._follow_again()
                for statement in _DESKS:
                    self._connection.execute(statement)
                self._connection.execute(f"PRAGMA user_version={SCHEMA_VERSION}")
        self._index_again()
        # A crash may have come between an erasure and this.
        self.wipe()

    def _index_again(self) -> None:
        """Make the search index if it is not there, or of another version."""
        waits = self.search.prepare(self.transaction())
        while waits:
            with self.transaction():
                waits = self.search.settle_some() > 0
        self.search.ready = True

    def _follow_again(self) -> None:
        """Follow the log anew from where something came that an earlier version could not read."""
        self._connection.execute(
            "UPDATE cursor SET next_index = min(next_index, ifnull((SELECT min(log_index) "
            "FROM quarantine WHERE code = ?), next_index))",
            (RecordError.code,),
        )
        self._connection.execute("DELETE FROM quarantine WHERE code = ?", (RecordError.code,))

    def close(self) -> None:
        """Close the file."""
        self._connection.close()

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """Run the block as one durable transaction; an exception undoes all of it.

        Raises:
            BusyError: the disk is full or failed; nothing was changed.
        """
        try:
            self._connection.execute("BEGIN IMMEDIATE")
            yield
            self.search.settle()
            self._connection.execute("COMMIT")
        except BaseException as error:
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")
            self.search.forget()
            if isinstance(error, sqlcipher3.OperationalError):
                raise BusyError(
                    "case.db cannot be written; nothing was changed", fix="free some disk space"
                ) from None
            raise

    @property
    def database(self) -> sqlite_utils.Database:
        """The open file, for desks with tables of their own; they write in a ``transaction``."""
        return self._database

    @property
    def in_transaction(self) -> bool:
        """Whether a transaction is open."""
        return bool(self._connection.in_transaction)

    def _rows(self, sql: str, *values: object) -> list[dict[str, Any]]:
        return list(self._database.query(sql, list(values)))

    def _row(self, sql: str, *values: object) -> dict[str, Any] | None:
        return next(iter(self._rows(sql, *values)), None)

    # --- following node.db -------------------------------------------------------------------
    @property
    def next_index(self) -> int:
        """The first log index that has not been followed yet."""
        return int(self._connection.execute("SELECT next_index FROM cursor").fetchone()[0])

    def advance(self, next_index: int) -> None:
        """Move the cursor. Call inside the transaction that followed up to it."""
        self._connection.execute("UPDATE cursor SET next_index = ?", (next_index,))

    def store_record(
        self,
        *,
        envelope_id: bytes,
        log_index: int,
        author: bytes,
        own: bool,
        record: Mapping[str, Any],
        at: int,
    ) -> None:
        """Add one opened record and bring its incident up to date.

        Only the author's own later revisions replace what is shown; layers of one revision that
        came in several envelopes are put together.
        """
        layers = [name for name in ("face", "annex") if name in record]
        incident_id, revision = record["incident_id"], record["revision"]
        self._connection.execute(
            "INSERT OR IGNORE INTO records VALUES (?, ?, ?, ?, ?, ?, ?)",
            (envelope_id, log_index, author, incident_id, revision, " ".join(layers), at),
        )
        old = self._row(
            "SELECT * FROM incidents WHERE incident_id = ? AND author = ?", incident_id, author
        )
        if old is not None and old["revision"] > revision:
            return
        merged = dict.fromkeys(("face", "annex"))
        external = None
        if old is not None and old["revision"] == revision:
            merged |= {name: old[name] for name in merged}
        if old is not None:
            external = old["external_ref"]
        merged |= {name: json.dumps(record[name], ensure_ascii=False) for name in layers}
        if own and (draft := self.draft(incident_id)) is not None:
            external = draft["external_ref"]
            self._connection.execute("DELETE FROM drafts WHERE incident_id = ?", (incident_id,))
        self._connection.execute(
            "INSERT OR REPLACE INTO incidents VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (
                incident_id, author, record["ref"], revision, int(own), merged["face"],
                merged["annex"], " ".join(name for name, text in merged.items() if text),
                old["log_index"] if old is not None else log_index,
                old["at"] if old is not None else at, external,
            ),
        )  # fmt: skip

    def wipe(self) -> None:
        """Leave nothing in the write-ahead log; a disk that does not let us is asked again later.

        What is deleted is overwritten in the file at once (``secure_delete``).
        """
        with contextlib.suppress(sqlcipher3.OperationalError):
            self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()

    def erase(
        self, *, envelope_id: bytes, log_index: int, author: bytes, own: bool, arrived: int,
        act: ErasureAct,
    ) -> None:  # fmt: skip
        """Delete what one envelope brought, and note that it is erased. Repeating it does no harm.

        Call inside a transaction, after the blobs of ``blobs_of`` are gone.
        """
        key = (act.incident_id, author)
        self._connection.execute("DELETE FROM items WHERE envelope_id = ?", (envelope_id,))
        self._connection.execute("DELETE FROM attachments WHERE envelope_id = ?", (envelope_id,))
        self._connection.execute("DELETE FROM quarantine WHERE envelope_id = ?", (envelope_id,))
        if act.layers == ABOUT_INCIDENT:
            return
        self._connection.execute(
            "INSERT OR IGNORE INTO records VALUES (?, ?, ?, ?, ?, ?, ?)",
            (envelope_id, log_index, author, act.incident_id, act.revision, act.layers, arrived),
        )
        self._connection.execute(
            "INSERT OR IGNORE INTO incidents VALUES (?, ?, ?, ?, ?, NULL, NULL, '', ?, ?, NULL)",
            (*key, act.ref, act.revision, int(own), log_index, arrived),
        )
        row = self._row("SELECT * FROM incidents WHERE incident_id = ? AND author = ?", *key)
        assert row is not None  # noqa: S101  it was inserted, or was there
        if row["revision"] <= act.revision:
            # An older revision was replaced by it when it came, and is not shown again.
            same = row["revision"] == act.revision
            gone = act.layers.split() if same else ("face", "annex")
            left = [name for name in row["layers"].split() if name not in gone]
            shown = {name: row[name] if name in left else None for name in ("face", "annex")}
            self._connection.execute(
                "UPDATE incidents SET face = ?, annex = ?, layers = ?, revision = ?, "
                "external_ref = CASE WHEN ? THEN external_ref END "
                "WHERE incident_id = ? AND author = ?",
                (
                    shown["face"], shown["annex"], " ".join(left), act.revision, bool(left), *key,
                ),
            )  # fmt: skip
        self._connection.execute(
            "INSERT OR REPLACE INTO erased VALUES (?, ?, ?, ?, ?)",
            (*key, act.ref, act.reason.value, act.at),
        )

    # --- records that are no reports ---------------------------------------------------------
    def store_item(
        self, *, envelope_id: bytes, log_index: int, author: bytes, kind: str,
        about: tuple[str, bytes], target: str | None, body: Mapping[str, Any], at: int,
    ) -> None:  # fmt: skip
        """Keep a record *about* something: its id, and whose that is. Repeating it does no harm."""
        self._connection.execute(
            "INSERT OR IGNORE INTO items VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (
                envelope_id, log_index, author, kind, *about, target,
                json.dumps(body, ensure_ascii=False), at,
            ),
        )  # fmt: skip

    def items_of(self, subject: str, owner: bytes) -> list[dict[str, Any]]:
        """Return the records about one thing of *owner*, in log order."""
        return _with_bodies(
            self._rows(
                "SELECT * FROM items WHERE subject = ? AND owner = ? ORDER BY log_index",
                subject, owner,
            )
        )  # fmt: skip

    def items_about(self, incident_id: str) -> list[dict[str, Any]]:
        """Return the records about incidents of this id, whosoever, and the links to them."""
        return _with_bodies(
            self._rows(
                "SELECT * FROM items WHERE subject = ? OR target = ? ORDER BY log_index",
                incident_id, incident_id,
            )
        )  # fmt: skip

    def items(
        self, kinds: Sequence[str], *, after: int = 0, limit: int | None = None
    ) -> list[dict[str, Any]]:
        """Return the records of these kinds in log order, from log index *after* on."""
        marks = ", ".join("?" * len(kinds))
        return _with_bodies(
            self._rows(
                f"SELECT * FROM items WHERE kind IN ({marks}) "  # noqa: S608
                "AND log_index >= ? ORDER BY log_index LIMIT ?",
                *kinds, after, -1 if limit is None else limit,
            )
        )  # fmt: skip

    def item(self, envelope_id: bytes) -> dict[str, Any] | None:
        """Return the record that one envelope held, or None."""
        rows = self._rows("SELECT * FROM items WHERE envelope_id = ?", envelope_id)
        return next(iter(_with_bodies(rows)), None)

    def items_with(self, kind: str, field: str, value: str) -> list[dict[str, Any]]:
        """Return the records of one kind whose *field* is *value*, in log order."""
        return _with_bodies(
            self._rows(
                "SELECT * FROM items WHERE kind = ? AND json_extract(body, ?) = ? "
                "ORDER BY log_index",
                kind, f"$.{field}", value,
            )
        )  # fmt: skip

    def of_operation(self, operation_id: str) -> list[tuple[str, bytes]]:
        """Return the incidents (id, author) that name an operation, in log order."""
        rows = self._rows(
            "SELECT incident_id, author FROM incidents "
            "WHERE json_extract(face, '$.operation_id') = ? ORDER BY log_index",
            operation_id,
        )
        return [(row["incident_id"], row["author"]) for row in rows]

    def store_revision(
        self, *, envelope_id: bytes, log_index: int, author: bytes, incident_id: str,
        revision: int, layers: Sequence[str], at: int,
    ) -> None:  # fmt: skip
        """Note that an envelope brought layers of a revision."""
        self._connection.execute(
            "INSERT OR IGNORE INTO records VALUES (?, ?, ?, ?, ?, ?, ?)",
            (envelope_id, log_index, author, incident_id, revision, " ".join(layers), at),
        )

    def revisions_of(self, incident_id: str) -> list[dict[str, Any]]:
        """Return the record rows of all incidents of this id, whosoever, in log order."""
        return self._rows(
            "SELECT * FROM records WHERE incident_id = ? ORDER BY log_index", incident_id
        )

    def row_of(self, incident_id: str, author: bytes) -> dict[str, Any] | None:
        """Return the row of an incident without its layers, or None."""
        return self._row(
            "SELECT incident_id, author, ref, revision, own, log_index, at FROM incidents "
            "WHERE incident_id = ? AND author = ?",
            incident_id, author,
        )  # fmt: skip

    def found(
        self, incident_id: str, author: bytes, *, ref: str, own: bool, log_index: int, at: int
    ) -> None:
        """Make a row for an incident whose first envelope is no report; nothing if it has one."""
        self._connection.execute(
            "INSERT OR IGNORE INTO incidents VALUES (?, ?, ?, 0, ?, NULL, NULL, '', ?, ?, NULL)",
            (incident_id, author, ref, int(own), log_index, at),
        )

    def show(
        self, incident_id: str, author: bytes, *, revision: int,
        layers: Mapping[str, Mapping[str, Any] | None], retracted: str | None, contested: bool,
        condemned: bool,
    ) -> None:  # fmt: skip
        """Write what follows for an incident from all of its records."""
        texts = {
            name: None if value is None else json.dumps(value, ensure_ascii=False)
            for name, value in layers.items()
        }
        self._connection.execute(
            "UPDATE incidents SET face = ?, annex = ?, layers = ?, revision = max(revision, ?) "
            "WHERE incident_id = ? AND author = ?",
            (
                texts["face"], texts["annex"], " ".join(n for n, text in texts.items() if text),
                revision, incident_id, author,
            ),
        )  # fmt: skip
        self._connection.execute(
            "INSERT OR REPLACE INTO standing VALUES (?, ?, ?, ?, ?)",
            (incident_id, author, retracted, int(contested), int(condemned)),
        )

    def standing(self, incident_id: str, author: bytes) -> dict[str, Any] | None:
        """Return what is written of an incident that was amended or retracted, or None."""
        return self._row(
            "SELECT * FROM standing WHERE incident_id = ? AND author = ?", incident_id, author
        )

    def condemned(self) -> list[dict[str, Any]]:
        """Return the incidents that were retracted under law and are not erased yet."""
        return self._rows("SELECT * FROM standing WHERE condemned = 1 ORDER BY incident_id, author")

    def blobs_of(self, envelope_id: bytes) -> list[bytes]:
        """Return the ids of the attachments that one envelope named."""
        rows = self._rows("SELECT blob_id FROM attachments WHERE envelope_id = ?", envelope_id)
        return [row["blob_id"] for row in rows]

    def quarantine(self, envelope_id: bytes, log_index: int, code: str, at: int) -> None:
        """Set aside an envelope whose content cannot be shown, with the reason's code."""
        self._connection.execute(
            "INSERT OR REPLACE INTO quarantine VALUES (?, ?, ?, ?)",
            (envelope_id, log_index, code, at),
        )

    def in_quarantine(self, envelope_ids: Sequence[bytes]) -> list[bytes]:
        """Return those of *envelope_ids* that are set aside, in that order."""
        return [
            envelope_id
            for envelope_id in envelope_ids
            if self._row("SELECT 1 FROM quarantine WHERE envelope_id = ?", envelope_id) is not None
        ]

    def release(self, envelope_id: bytes) -> None:
        """Set an envelope aside no more: its content is shown from now on."""
        self._connection.execute("DELETE FROM quarantine WHERE envelope_id = ?", (envelope_id,))

    # --- drafts ------------------------------------------------------------------------------
    def add_draft(
        self, *, incident_id: str, ref: str, data: Mapping[str, Any], external_ref: str | None,
        now: int,
    ) -> None:  # fmt: skip
        """Store a draft durably."""
        with self.transaction():
            # Counted, and never used twice: a reader that pages through must not skip one.
            self._connection.execute(
                "INSERT INTO drafts SELECT ?, ?, ?, ?, ?, next_draft FROM cursor",
                (incident_id, ref, json.dumps(data, ensure_ascii=False), external_ref, now),
            )
            self._connection.execute("UPDATE cursor SET next_draft = next_draft + 1")

    def change_draft(self, incident_id: str, data: Mapping[str, Any]) -> None:
        """Replace what a draft says."""
        with self.transaction():
            self._connection.execute(
                "UPDATE drafts SET data = ? WHERE incident_id = ?",
                (json.dumps(data, ensure_ascii=False), incident_id),
            )

    def draft(self, key: str) -> dict[str, Any] | None:
        """Return the draft whose id or reference is *key*."""
        row = self._row("SELECT * FROM drafts WHERE incident_id = ? OR ref = ?", key, key)
        return None if row is None else {**row, "data": json.loads(row["data"])}

    def drafts(self, *, after: int, limit: int) -> list[dict[str, Any]]:
        """Return drafts in the order in which they were made, from number *after* on."""
        rows = self._rows(
            "SELECT * FROM drafts WHERE number >= ? ORDER BY number LIMIT ?", after, limit
        )
        return [{**row, "data": json.loads(row["data"])} for row in rows]

    def by_external_ref(self, external_ref: str) -> str | None:
        """Return the incident id that already has *external_ref*."""
        for table in ("drafts", "incidents"):
            row = self._row(
                f"SELECT incident_id FROM {table} WHERE external_ref = ?",  # noqa: S608
                external_ref,
            )
            if row is not None:
                return str(row["incident_id"])
        return None

    # --- incidents ---------------------------------------------------------------------------
    def incident(self, key: str, *, author: bytes | None = None) -> dict[str, Any]:
        """Return the released or received incident whose id or reference is *key*.

        Any author can use an id or reference that another one used before, and must not hide the
        other's incident by it: our own comes first, then the one that was here first. ``others``
        lists the rest as (incident id, author).

        Raises:
            NotFoundError: there is none, or none of *author*.
        """
        rows = self._rows(
            f"{_INCIDENTS} WHERE i.incident_id = ? OR i.ref = ? ORDER BY i.own DESC, i.log_index",
            key, key,
        )  # fmt: skip
        chosen = next((row for row in rows if author in {None, row["author"]}), None)
        if chosen is None:
            raise NotFoundError(f"no incident {key!r}", fix="list them with: picket incidents list")
        others = [(row["incident_id"], row["author"]) for row in rows if row is not chosen]
        return {**_with_layers(chosen), "others": others}

    def incidents(self, *, after: int, limit: int, own: bool | None) -> list[dict[str, Any]]:
        """Return incidents in log order, from log index *after* on."""
        wanted = "" if own is None else f" AND i.own = {int(own)}"
        rows = self._rows(
            f"{_INCIDENTS} WHERE i.log_index >= ?{wanted} ORDER BY i.log_index LIMIT ?",
            after,
            limit,
        )
        return [_with_layers(row) for row in rows]

    def incidents_at(self, log_indexes: Sequence[int]) -> list[dict[str, Any]]:
        """Return the incidents at these log indexes, in that order; at most a page of them."""
        marks = ", ".join("?" * len(log_indexes))
        rows = self._rows(f"{_INCIDENTS} WHERE i.log_index IN ({marks})", *log_indexes)
        found = {row["log_index"]: _with_layers(row) for row in rows}
        return [found[index] for index in log_indexes if index in found]

    def envelopes_of(self, incident_id: str, author: bytes) -> list[dict[str, Any]]:
        """Return the record rows of an incident, in log order."""
        return self._rows(
            "SELECT * FROM records WHERE incident_id = ? AND author = ? ORDER BY log_index",
            incident_id, author,
        )  # fmt: skip

    def refs_of(self, envelope_ids: Sequence[bytes]) -> dict[bytes, str]:
        """Return the references of the incidents that these envelopes are about, where known."""
        found = {}
        for envelope_id in envelope_ids:
            row = self._row(
                "SELECT i.ref FROM records r JOIN incidents i ON i.incident_id = r.incident_id "
                "AND i.author = r.author WHERE r.envelope_id = ?",
                envelope_id,
            )
            if row is not None:
                found[envelope_id] = row["ref"]
        return found

    # --- attachments -------------------------------------------------------------------------
    def add_attachments(
        self, attached: Sequence[Enclosed], *, envelope_id: bytes = _LOCAL, at: int
    ) -> None:
        """Keep how to open attachments that an envelope names. Call inside a transaction.

        Args:
            attached: the attachments.
            envelope_id: names them; empty for files that were put here and not released yet.
            at: when they came.
        """
        for each in attached:
            ref = each.ref
            self._connection.execute(
                "INSERT OR IGNORE INTO attachments VALUES (?, ?, ?, ?, ?, ?, ?)",
                (ref.id, envelope_id, ref.key, ref.size, ref.sha256,
                 json.dumps(dict(each.about), ensure_ascii=False), at),
            )  # fmt: skip
            if envelope_id != _LOCAL:  # a file that was put here goes out as it is
                self._connection.execute(
                    "DELETE FROM attachments WHERE blob_id = ? AND envelope_id = ?",
                    (ref.id, _LOCAL),
                )

    def attachments(self, *, sha256: bytes | None = None) -> list[dict[str, Any]]:
        """Return what is known of attachments, or of those with one digest, the oldest first.

        Each row has ``ref`` (the ``BlobRef``), ``envelope_id`` (empty for a file not released
        yet), ``about``, ``at``, and of what named it ``incident_id`` and ``author``.
        """
        rows = self._rows(
            "SELECT a.*, ifnull(r.incident_id, t.subject) AS incident_id, "
            "ifnull(r.author, t.author) AS author FROM attachments a "
            "LEFT JOIN records r USING (envelope_id) LEFT JOIN items t USING (envelope_id) "
            "WHERE ? IS NULL OR a.sha256 = ? ORDER BY a.at, a.rowid",
            sha256, sha256,
        )  # fmt: skip
        return [
            {
                "ref": BlobRef(
                    id=row["blob_id"], key=row["key"], size=row["size"], sha256=row["sha256"]
                ),
                "envelope_id": row["envelope_id"], "about": json.loads(row["about"]),
                "at": row["at"], "incident_id": row["incident_id"], "author": row["author"],
            }
            for row in rows
        ]  # fmt: skip

    def knows_blob(self, blob_id: bytes) -> bool:
        """Whether the key of a blob is held."""
        return self._row("SELECT 1 FROM attachments WHERE blob_id = ?", blob_id) is not None

    def remove_local_attachments(self, sha256: bytes) -> None:
        """Forget the keys of files with this digest that were put here and not released."""
        with self.transaction():
            self._connection.execute(
                "DELETE FROM attachments WHERE sha256 = ? AND envelope_id = ?", (sha256, _LOCAL)
            )

    def counts(self) -> dict[str, int]:
        """Return how many drafts, released, received and quarantined there are."""
        queries = {
            "drafts": "SELECT count(*) FROM drafts",
            "released": "SELECT count(*) FROM incidents WHERE own = 1",
            "received": "SELECT count(*) FROM incidents WHERE own = 0",
            "quarantined": "SELECT count(*) FROM quarantine",
        }
        return {
            name: int(self._connection.execute(sql).fetchone()[0]) for name, sql in queries.items()
        }

    def quarantined(self) -> list[dict[str, Any]]:
        """Return what is set aside."""
        return self._rows("SELECT * FROM quarantine ORDER BY log_index")

    # --- tokens ------------------------------------------------------------------------------
    def add_token(
        self, *, token_id: str, name: str, secret: bytes, scopes: Sequence[str], now: int,
        expires: int,
    ) -> None:  # fmt: skip
        """Store a token; of its secret only a digest."""
        with self.transaction():
            self._connection.execute(
                "INSERT INTO tokens VALUES (?, ?, ?, ?, ?, ?, NULL)",
                (token_id, name, _token_digest(secret), " ".join(scopes), now, expires),
            )

    def token(self, token_id: str, secret: bytes, now: int) -> frozenset[str] | None:
        """Return the scopes of a token that is valid at *now*, and note its use; else None."""
        row = self._row("SELECT * FROM tokens WHERE id = ?", token_id)
        stored = row["digest"] if row is not None else bytes(32)
        if not hmac.compare_digest(stored, _token_digest(secret)) or row is None:
            return None
        if now >= row["expires"]:
            return None
        if now - (row["last_used"] or 0) >= _USE_NOTED_MS:
            # A full disk must not shut programs out, and the note is for people only.
            with contextlib.suppress(BusyError), self.transaction():
                self._connection.execute(
                    "UPDATE tokens SET last_used = ? WHERE id = ?", (now, token_id)
                )
        return frozenset(row["scopes"].split())

    def tokens(self) -> list[dict[str, Any]]:
        """Return all tokens without their digests."""
        return self._rows(
            "SELECT id, name, scopes, created, expires, last_used FROM tokens ORDER BY created"
        )

    def remove_token(self, token_id: str) -> None:
        """Revoke a token.

        Raises:
            NotFoundError: there is none of that id.
        """
        with self.transaction():
            done = self._connection.execute("DELETE FROM tokens WHERE id = ?", (token_id,))
            if done.rowcount == 0:
                raise NotFoundError(f"no token {token_id!r}", fix="see: picket tokens list")


def _files(path: Path) -> list[Path]:
    return [path.with_name(path.name + end) for end in ("", "-wal", "-shm", "-journal")]


def _token_digest(secret: bytes) -> bytes:
    # The secret is 32 random bytes, so a plain digest is enough: there is nothing to guess.
    return hashlib.sha256(b"picket/1/token\0" + secret).digest()


def _with_layers(row: dict[str, Any]) -> dict[str, Any]:
    layers = {name: json.loads(row[name]) if row[name] else None for name in ("face", "annex")}
    return {**row, **layers}


def _with_bodies(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{**row, "body": json.loads(row["body"])} for row in rows]
