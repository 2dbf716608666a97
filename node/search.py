"""The search index of case.db, and the link candidates that come with it.

- It follows the table ``incidents`` by triggers: what changed in a transaction is indexed before
  that commits, so the index never says more or less than the incidents. What is erased leaves the
  index in the same transaction, and its terms are overwritten (``secure-delete`` of FTS5).
- A document is an incident, under its log index: newest first is the order of the index itself, so
  a page costs the same at 600,000 incidents as at 600.
- Everything asked is one expression of terms, each in quotes: nothing typed can break its syntax.
- The index is made again, newest first, when a later version of Picket indexes differently.
- Candidates are found by looking up shared values, and stay in this file.
"""

from __future__ import annotations

import json
import re
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cache
from typing import Any, Final, Protocol

from node import identifiers as ids
from node.folding import compact, tokens
from node.identifiers import KINDS, Identifier, Profile, keys, profile

VERSION: Final = 1
"""Of what is indexed and how; an index of another version is made again."""
OPEN, DISMISSED, CONFIRMED = "open", "dismissed", "confirmed"
_REBUILD: Final = 500
"""Incidents that are indexed in one transaction when the index is made again."""
_NAME: Final = "n"
"""Kind of the keys under which names of firms are looked up."""
_REFERENCE: Final = "f"
_PROFILES: Final = 2_048


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


# What says nothing when it is searched: codes, digests, numbers of layers.
_SILENT: Final = _words(
    "sha256 blob key media_type kind role mode subtype status incident_type origin_country "
    "agency_type discovery lang handling precision country subdivision facility_type id_status "
    "method form unit qualifier basis diversion_point acquisition concealment false_cover payment "
    "lab_type scale activities waste hazards indicators anchors scheme verification involvement "
    "genuine incoterm currency rec21 platform_type languages detected_at departed arrived start "
    "end date mfg_date expiry captured_at retain_until lat lon operation_id new_used amount "
    "origin destination plate_country label_lang nationality dob expires"
)
_TABLES: Final = (
    "CREATE TABLE IF NOT EXISTS search_state(id INTEGER PRIMARY KEY CHECK (id = 1), version INTEGER"
    " NOT NULL) STRICT",
    "CREATE TABLE IF NOT EXISTS search_dirty(doc INTEGER PRIMARY KEY) STRICT",
    "CREATE TABLE search_docs(doc INTEGER PRIMARY KEY, text BLOB NOT NULL, names BLOB NOT NULL)"
    " STRICT",
    "CREATE VIRTUAL TABLE search_text USING fts5(text, names, content='', "
    "tokenize=\"ascii tokenchars '=#'\")",
    "INSERT INTO search_text(search_text, rank) VALUES ('secure-delete', 1)",
    "CREATE TABLE identifiers(kind TEXT NOT NULL, value TEXT NOT NULL, doc INTEGER NOT NULL, "
    "PRIMARY KEY (kind, value, doc)) STRICT, WITHOUT ROWID",
    "CREATE INDEX identifiers_doc ON identifiers(doc)",
    "CREATE TABLE IF NOT EXISTS link_candidates(low INTEGER NOT NULL, high INTEGER NOT NULL, "
    "kind TEXT NOT NULL, basis TEXT NOT NULL, score INTEGER NOT NULL, state TEXT NOT NULL, "
    "PRIMARY KEY (low, high, kind)) STRICT, WITHOUT ROWID",
    "CREATE INDEX IF NOT EXISTS candidates_high ON link_candidates(high)",
    "CREATE INDEX IF NOT EXISTS candidates_state ON link_candidates(state, high)",
    "CREATE TRIGGER IF NOT EXISTS search_insert AFTER INSERT ON incidents BEGIN "
    "INSERT OR IGNORE INTO search_dirty VALUES (new.log_index); END",
    "CREATE TRIGGER IF NOT EXISTS search_update AFTER UPDATE OF face, annex, ref, own ON incidents "
    "BEGIN INSERT OR IGNORE INTO search_dirty VALUES (new.log_index); END",
    "CREATE TRIGGER IF NOT EXISTS search_delete AFTER DELETE ON incidents BEGIN "
    "INSERT OR IGNORE INTO search_dirty VALUES (old.log_index); END",
)  # fmt: skip
_DROPPED: Final = ("search_docs", "search_text", "identifiers")


class Cursor(Protocol):
    """What a query gives."""

    def fetchone(self) -> Any: ...  # noqa: ANN401
    def fetchall(self) -> list[Any]: ...


class Connection(Protocol):
    """The connection of case.db."""

    def execute(self, sql: str, values: Sequence[object] = ..., /) -> Cursor: ...
    def executemany(self, sql: str, rows: Iterable[Sequence[object]], /) -> Cursor: ...


@dataclass(frozen=True, slots=True)
class Candidate:
    """Two incidents, by log index, that may belong together; ``state`` is what a person said."""

    low: int
    high: int
    kind: str
    basis: str
    score: int
    state: str


@dataclass(frozen=True, slots=True)
class Document:
    """What is indexed of one incident."""

    text: str
    names: str
    rows: frozenset[tuple[str, str]]
    profile: Profile


class SearchIndex:
    """Full text, fields and identifiers of the incidents in one case.db."""

    def __init__(self, connection: Connection) -> None:
        """Serve *connection*; call ``prepare`` before anything else."""
        self.ready = False
        """Whether the tables are there and nothing waits from before the opening."""
        self._connection = connection
        self.links = True
        """Whether link candidates are looked for."""
        self._profiles: dict[int, Profile] = {}

    # --- keeping in step ---------------------------------------------------------------------
    def prepare(self, transaction: AbstractContextManager[None]) -> bool:
        """Make the tables if they are not there or of another version; True if ``rebuild`` must."""
        known = self._connection.execute(
            "SELECT 1 FROM sqlite_master WHERE name = 'search_state'"
        ).fetchone()
        if known is not None:
            row = self._connection.execute("SELECT version FROM search_state").fetchone()
            if row[0] == VERSION:
                return self._waiting(1) != []
        with transaction:
            for name in _DROPPED:
                self._connection.execute(f"DROP TABLE IF EXISTS {name}")
            for statement in _TABLES:
                self._connection.execute(statement)
            self._connection.execute(
                "INSERT OR REPLACE INTO search_state VALUES (1, ?)", (VERSION,)
            )
            # They are found again by other rules; what a person decided stays.
            self._connection.execute("DELETE FROM link_candidates WHERE state = 'open'")
            self._connection.execute(
                "INSERT OR IGNORE INTO search_dirty SELECT log_index FROM incidents"
            )
        return self._waiting(1) != []

    def _waiting(self, limit: int) -> list[int]:
        rows = self._connection.execute(
            "SELECT doc FROM search_dirty ORDER BY doc DESC LIMIT ?", (limit,)
        ).fetchall()
        return [row[0] for row in rows]

    def settle(self) -> None:
        """Index what changed, inside the transaction that changed it.

        Candidates of two incidents that both changed are found with the second of them.
        """
        if self.ready:
            self._settle(-1)

    def _settle(self, limit: int) -> int:
        waiting = self._waiting(limit)
        for doc in reversed(waiting):
            self._refresh(doc)
        if waiting:
            self._connection.executemany(
                "DELETE FROM search_dirty WHERE doc = ?", [(doc,) for doc in waiting]
            )
        return len(waiting)

    def settle_some(self) -> int:
        """Do a part of making the index again in the caller's transaction; return how much."""
        return self._settle(_REBUILD)

    def forget(self) -> None:
        """Forget what was remembered of a transaction that was undone."""
        self._profiles.clear()

    def _refresh(self, doc: int) -> None:
        old = self._connection.execute(
            "SELECT text, names FROM search_docs WHERE doc = ?", (doc,)
        ).fetchone()
        made = self._document(doc)
        packed = None if made is None else (_packed(made.text), _packed(made.names))
        if old == packed:
            return
        if old is not None:
            self._connection.execute(
                "INSERT INTO search_text(search_text, rowid, text, names) "
                "VALUES ('delete', ?, ?, ?)",
                (doc, _unpacked(old[0]), _unpacked(old[1])),
            )
            self._connection.execute("DELETE FROM search_docs WHERE doc = ?", (doc,))
            self._connection.execute("DELETE FROM identifiers WHERE doc = ?", (doc,))
        if made is None or packed is None:
            self._profiles.pop(doc, None)
            self._keep_candidates(doc, {}, prune=True)
            return
        self._connection.execute(
            "INSERT INTO search_text(rowid, text, names) VALUES (?, ?, ?)",
            (doc, made.text, made.names),
        )
        self._connection.execute("INSERT INTO search_docs VALUES (?, ?, ?)", (doc, *packed))
        self._connection.executemany(
            "INSERT INTO identifiers VALUES (?, ?, ?)", [(*row, doc) for row in sorted(made.rows)]
        )
        self._remember(doc, made.profile)
        if self.links:
            self._find_candidates(doc, made)

    def _document(self, doc: int) -> Document | None:
        row = self._connection.execute(
            "SELECT incident_id, ref, own, face, annex FROM incidents WHERE log_index = ?", (doc,)
        ).fetchone()
        if row is None or (row[3] is None and row[4] is None):
            return None
        face, annex = (None if text is None else json.loads(text) for text in row[3:5])
        return make_document(face, annex, own=bool(row[2]), names=(row[0], row[1]))

    # --- candidates --------------------------------------------------------------------------
    def _remember(self, doc: int, given: Profile) -> None:
        if len(self._profiles) >= _PROFILES:
            self._profiles.clear()
        self._profiles[doc] = given

    def _profile(self, doc: int) -> Profile:
        if doc not in self._profiles:
            row = self._connection.execute(
                "SELECT face, annex FROM incidents WHERE log_index = ?", (doc,)
            ).fetchone()
            face, annex = (
                None if text is None else json.loads(text) for text in row or (None,) * 2
            )
            self._remember(doc, profile(face, annex))
        return self._profiles[doc]

    def _find_candidates(self, doc: int, made: Document) -> None:
        # Brings tables for names in other scripts, which only this needs.
        from node.linking import COMMON, compare  # noqa: PLC0415

        others: set[int] = set()
        for kind, value in made.rows:
            rows = self._connection.execute(
                "SELECT doc FROM identifiers WHERE kind = ? AND value = ? AND doc <> ? LIMIT ?",
                (kind, value, doc, COMMON + 1),
            ).fetchall()
            if len(rows) <= COMMON:
                others.update(row[0] for row in rows)
        found = {
            (other, reason.kind): reason
            for other in others
            for reason in compare(made.profile, self._profile(other))
        }
        self._keep_candidates(
            doc, {key: (reason.basis, reason.score) for key, reason in found.items()},
            prune=self.ready,
        )  # fmt: skip

    def _keep_candidates(
        self, doc: int, found: Mapping[tuple[int, str], tuple[str, int]], *, prune: bool
    ) -> None:
        """Make *found* the candidates of one incident; what a person said of them stays.

        While the index is made again the others are not there yet, so nothing is taken away.
        """
        for old in self.candidates_of(doc) if prune else ():
            other = old.high if old.low == doc else old.low
            if (other, old.kind) not in found:
                self._connection.execute(
                    "DELETE FROM link_candidates WHERE low = ? AND high = ? AND kind = ?",
                    (old.low, old.high, old.kind),
                )
        self._connection.executemany(
            "INSERT INTO link_candidates VALUES (?, ?, ?, ?, ?, 'open') "
            "ON CONFLICT DO UPDATE SET basis = excluded.basis, score = excluded.score",
            [
                (min(doc, other), max(doc, other), kind, basis, score)
                for (other, kind), (basis, score) in sorted(found.items())
            ],
        )

    def candidates_of(self, doc: int) -> list[Candidate]:
        """Return the candidates of one incident, the likeliest and newest first."""
        rows = self._connection.execute(
            "SELECT * FROM link_candidates WHERE low = ? UNION "
            "SELECT * FROM link_candidates WHERE high = ? ORDER BY score DESC, high DESC, low DESC",
            (doc, doc),
        ).fetchall()
        return [Candidate(*row) for row in rows]

    def candidates(self, *, before: int, limit: int, state: str = OPEN) -> list[Candidate]:
        """Return candidates, those of the newest incidents first; all of one incident together.

        Args:
            before: log index below which the newer incident of each stands.
            limit: after so many no further incident is begun.
            state: OPEN, DISMISSED or CONFIRMED.
        """
        last = self._connection.execute(
            "SELECT high FROM link_candidates WHERE state = ? AND high < ? "
            "ORDER BY high DESC LIMIT 1 OFFSET ?",
            (state, before, limit - 1),
        ).fetchone()
        rows = self._connection.execute(
            "SELECT * FROM link_candidates WHERE state = ? AND high < ? AND high >= ? "
            "ORDER BY high DESC, score DESC, low DESC",
            (state, before, 0 if last is None else last[0]),
        ).fetchall()
        return [Candidate(*row) for row in rows]

    def decide(self, low: int, high: int, kind: str, state: str) -> Candidate | None:
        """Note what a person said of a candidate; None if there is no such one.

        Call inside a transaction.
        """
        self._connection.execute(
            "UPDATE link_candidates SET state = ? WHERE low = ? AND high = ? AND kind = ?",
            (state, low, high, kind),
        )
        row = self._connection.execute(
            "SELECT * FROM link_candidates WHERE low = ? AND high = ? AND kind = ?",
            (low, high, kind),
        ).fetchone()
        return None if row is None else Candidate(*row)

    # --- asking ------------------------------------------------------------------------------
    def find(self, expression: str, *, before: int, limit: int) -> list[int]:
        """Return the log indexes below *before* that match, the newest first."""
        rows = self._connection.execute(
            "SELECT rowid FROM search_text WHERE search_text MATCH ? AND rowid < ? "
            "ORDER BY rowid DESC LIMIT ?",
            (expression, before, limit),
        ).fetchall()
        return [row[0] for row in rows]


def _packed(text: str) -> bytes:
    return zlib.compress(text.encode(), 6)


def _unpacked(held: bytes) -> str:
    return zlib.decompress(held).decode()


# --- what is indexed ---------------------------------------------------------------------------
def make_document(
    face: Mapping[str, Any] | None,
    annex: Mapping[str, Any] | None,
    *,
    own: bool,
    names: Sequence[str] = (),
) -> Document:
    """Return what is indexed of an incident, by the JSON form of its layers.

    Args:
        face: the face, or None.
        annex: the annex, or None.
        own: whether this node released it.
        names: by what it is called: its id and reference.
    """
    # Brings tables for names in other scripts.
    from node.linking import LINKING, name_keys  # noqa: PLC0415

    given = profile(face, annex)
    looked_up = name_keys(given)
    rows = {(each.kind, key) for each in given.identifiers if each.kind in LINKING
            for key in _looked_up(each)}  # fmt: skip
    rows |= {(_NAME, key) for key in looked_up}
    words = [*_texts(face or {}), *_texts(annex or {}), *_listed(face or {})]
    marks = [
        *_facets(face or {}, annex or {}, own=own),
        *(f"{each.kind}#{compact(key)}" for each in given.identifiers for key in keys(each)),
        *(f"{_REFERENCE}#{compact(name)}" for name in (*names, (face or {}).get("national_ref"))
          if name),
        *(f"{_NAME}={key}" for key in sorted(looked_up)),
    ]  # fmt: skip
    text = " ".join([*(token for word in words for token in tokens(word)), *dict.fromkeys(marks)])
    parties = [each.name for each in given.names] + [
        str(name)
        for each in (annex or {}).get("parties") or ()
        if each.get("kind") != "org"
        for name in (each.get("name", ""), *(each.get("aliases") or ()))
    ]
    called = " ".join(token for name in parties for token in tokens(name))
    return Document(text, called, frozenset(rows), given)


def _looked_up(each: Identifier) -> Iterator[str]:
    """Yield under what others with the same identifier are looked up."""
    if each.kind == ids.PHONE:
        # With its country or without, the last digits are the same.
        yield each.value.lstrip("+")[-ids.TAIL :]
    else:
        yield each.value


def _texts(value: object, key: str = "") -> Iterator[str]:
    if key in _SILENT:
        return
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for name, item in value.items():
            if name != "parties":
                yield from _texts(item, name)
            else:
                yield from _party_texts(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _texts(item, key)


def _party_texts(parties: Iterable[Mapping[str, Any]]) -> Iterator[str]:
    for party in parties:
        rest = {name: item for name, item in party.items() if name not in {"name", "aliases"}}
        yield from _texts(rest)


@cache
def _row_texts(substance_id: str) -> tuple[str, ...]:
    from protocol.reference import substances  # noqa: PLC0415

    row = substances().by_id.get(substance_id)
    if row is None:
        return ()
    return tuple(filter(None, (row.name, *row.synonyms, row.cas)))


def _listed(face: Mapping[str, Any]) -> Iterator[str]:
    for each in face.get("substances") or ():
        yield from _row_texts(each.get("substance_id") or "")


def _facets(face: Mapping[str, Any], annex: Mapping[str, Any], *, own: bool) -> Iterator[str]:
    yield f"w={'own' if own else 'received'}"
    for letter, key in (("t", "incident_type"), ("a", "status")):
        if key == "status" or key in face:
            yield f"{letter}={compact(str(face.get(key, 'open')))}"
    for each in face.get("substances") or ():
        other = each.get("other") or {}
        for name in (each.get("substance_id"), other.get("name"), other.get("cas")):
            if name:
                yield f"s={compact(name)}"
    legs = face.get("route") or ()
    yield from (f"m={leg['mode']}" for leg in legs if "mode" in leg)
    countries = {face.get("origin_country"), (face.get("location") or {}).get("country")}
    for leg in legs:
        countries |= {leg.get("origin"), leg.get("destination")}
    for name in ("parties", "origins"):
        countries |= {each.get("country") for each in annex.get(name) or ()}
    yield from (f"c={country.lower()}" for country in sorted(filter(None, countries)))
    day = str(face.get("detected_at", ""))[:10].replace("-", "")
    if re.fullmatch(r"[0-9]{8}", day):
        yield from (f"d={day[:4]}", f"d={day[:6]}", f"d={day}")


__all__ = [
    "CONFIRMED", "DISMISSED", "KINDS", "OPEN", "VERSION", "Candidate", "Document", "SearchIndex",
    "make_document",
]  # fmt: skip
