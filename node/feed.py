"""What changed, in the order of this node's log: for programs that follow it with a cursor.

- One change is one log entry about one incident: it was reported, amended, retracted, written
  about, or erased. An entry never slips in before one that was given out: what opens late has the
  place of the entry that opened it, and case.db follows the log in order.
- The cursor is a log index. It is the same after a crash and after case.db was made anew, so a
  reader that stores it with what it read neither skips nor repeats anything.
- Of what was erased since, the erasure alone is told.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from node.casebook import Casebook
from node.core import Core
from protocol import limits
from protocol.entry import EntryKind
from protocol.errors import RequestError

REPORT: Final = "incident.report"
ERASED: Final = "erased"
_REPORTS: Final = (
    "SELECT x.log_index, x.envelope_id, x.revision, x.author, i.incident_id, i.ref, i.own, "
    "i.author AS owner FROM records x JOIN incidents i ON i.incident_id = x.incident_id "
    "AND i.author = x.author WHERE x.log_index >= ? ORDER BY x.log_index LIMIT ?"
)
_ITEMS: Final = (
    "SELECT x.log_index, x.envelope_id, x.kind, x.author, i.incident_id, i.ref, i.own, "
    "i.author AS owner FROM items x JOIN incidents i ON i.incident_id = x.subject "
    "AND i.author = x.owner WHERE x.log_index >= ? ORDER BY x.log_index LIMIT ?"
)
_OF_ERASED: Final = (
    "SELECT incident_id, author, ref, own FROM incidents WHERE incident_id = ? AND ref = ? "
    "ORDER BY author = ? DESC, log_index LIMIT 1"
)
Row = dict[str, Any]


class Feed:
    """The changes of incidents, over a Core."""

    def __init__(self, core: Core, *, name: Callable[[bytes], str]) -> None:
        """Serve *core*; *name* says how to call a node id."""
        self._core, self._name = core, name

    def changes(self, *, after: int, limit: int) -> Row:
        """Return what changed from log index *after* on: at most *limit* changes, and ``next``.

        Raises:
            RequestError: *limit* is out of bounds.
            LockedError: the node is locked.
        """
        if not 1 <= limit <= limits.MAX_PAGE:
            raise RequestError(f"limit is outside 1 to {limits.MAX_PAGE}", fix="ask for less")
        _, cases = self._core.opened()
        end = cases.next_index
        found = sorted(
            (*self._written(cases, after, limit + 1), *self._erased(cases, after, end, limit + 1)),
            key=lambda row: row["log_index"],
        )
        more = len(found) > limit
        items = found[:limit]
        # Without more, all up to where the log is followed was looked at.
        following = items[-1]["log_index"] + 1 if more else max(after, end)
        return {"items": items, "next": following, "more": more}

    def _written(self, cases: Casebook, after: int, limit: int) -> list[Row]:
        reports = cases.database.query(_REPORTS, [after, limit])
        about = cases.database.query(_ITEMS, [after, limit])
        found: dict[int, Row] = {}
        for row in (*reports, *about):
            if self._core.erasures.knows(row["envelope_id"]):
                continue
            known = found.setdefault(
                row["log_index"], self._row(row["log_index"], REPORT, row, row["author"])
            )
            # An amendment stands in both tables.
            known["what"] = row.get("kind") or known["what"]
            known["revision"] = row.get("revision") or known["revision"]
        return list(found.values())

    def _erased(self, cases: Casebook, after: int, end: int, limit: int) -> list[Row]:
        rows = self._core.store.rows(
            "SELECT e.idx, x.envelope_id, v.author FROM entries e "
            "JOIN erasures x ON x.log_index = e.idx JOIN envelopes v ON v.id = x.envelope_id "
            "WHERE e.kind = ? AND e.idx >= ? AND e.idx < ? ORDER BY e.idx LIMIT ?",
            int(EntryKind.ERASED), after, end, limit,
        )  # fmt: skip
        found = []
        for row in rows:
            erased = self._core.erasures.get(row["envelope_id"])
            if erased is None:
                continue
            # What was written about an incident has another author than the incident.
            given = [erased.act.incident_id, erased.act.ref, row["author"]]
            for known in cases.database.query(_OF_ERASED, given):
                about = {**known, "owner": known["author"]}
                found.append(self._row(row["idx"], ERASED, about, self._core.node_id))
        return found

    def _row(self, index: int, what: str, row: Row, writer: bytes) -> Row:
        return {
            "log_index": index, "what": what, "id": row["incident_id"], "ref": row["ref"],
            "author": self._name(row["owner"]), "own": bool(row["own"]),
            "by": self._name(writer), "revision": row.get("revision"),
        }  # fmt: skip
