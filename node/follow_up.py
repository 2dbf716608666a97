"""Follow-up seen across incidents: who owes whom an answer, and what a person must be told of it.

- What is open is first looked up by SQL, as a set that may be too large and never too small; what
  counts is then decided by ``protocol.state`` alone.
- To a retracted incident nobody can answer any more: nothing about it is overdue.
- Lists and notices hold no text that somebody wrote. What was asked is shown with one request, and
  that stands in the log as a reading of its incident.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, Final

from node import record_rows
from node.casebook import Casebook
from node.clock import Clock, rfc3339
from node.core import Core
from node.words import counted
from protocol import limits
from protocol.access import READ
from protocol.errors import NotFoundError, RequestError

if TYPE_CHECKING:
    from protocol.state import IncidentState, RequestState

OPEN: Final = "open"
OVERDUE: Final = "overdue"
ANSWERED: Final = "answered"
ALL: Final = "all"
MINE: Final = "mine"
THEIRS: Final = "theirs"
_STATES: Final = (OPEN, OVERDUE, ANSWERED, ALL)
_SIDES: Final = (MINE, THEIRS)
_MOST_NOTICED: Final = 100
_LEAST_PREFIX: Final = 6
_PREFIX: Final = re.compile(r"[0-9a-f-]+")
_MINUTE_MS: Final = 60_000
# How many of those asked have said their last word; the others still owe an answer.
_CLOSED: Final = (
    "(SELECT count(DISTINCT r.author) FROM items r WHERE r.subject = q.subject "
    "AND r.owner = q.owner AND r.kind = 'followup.response' "
    "AND json_extract(r.body, '$.request.request_id') = json_extract(q.body, '$.request_id') "
    "AND json_extract(r.body, '$.request.author') = lower(hex(q.author)) "
    "AND json_extract(r.body, '$.outcome') IN ('final', 'negative', 'refused', 'redirected') "
    "AND lower(hex(r.author)) IN (SELECT value FROM json_each(q.body, '$.to')))"
)
_UNANSWERED: Final = f" AND {_CLOSED} < json_array_length(q.body, '$.to')"
_ASKED: Final = " AND EXISTS (SELECT 1 FROM json_each(q.body, '$.to') WHERE value = ?)"
Row = dict[str, Any]
Key = tuple[str, bytes]


class FollowUp:
    """The desk for requests, and for the notices about them, over a Core."""

    def __init__(
        self,
        core: Core,
        *,
        clock: Clock,
        name: Callable[[bytes], str],
        note_reading: Callable[[str, str, str], None],
    ) -> None:
        """Serve *core*.

        Args:
            core: the node.
            clock: what is overdue depends on it.
            name: how to call a node id.
            note_reading: logs that somebody reads an incident.
        """
        self._core, self._clock = core, clock
        self._name, self._note_reading = name, note_reading
        self._noticed: tuple[tuple[int, int], tuple[tuple[str, str, str], ...]] | None = None

    # --- lists -------------------------------------------------------------------------------
    def requests(
        self, *, state: str = OPEN, side: str | None = None, after: int = 0, limit: int = 100
    ) -> Row:
        """Return the requests that are here, those that have waited longest first.

        Args:
            state: open (which an overdue one is too), overdue, answered or all.
            side: mine for those that this node asks, theirs for those that ask it, or both.
            after: the ``next`` of the page before.
            limit: at most MAX_PAGE.

        Raises:
            RequestError: a parameter is wrong.
        """
        if not 1 <= limit <= limits.MAX_PAGE:
            raise RequestError(f"limit is outside 1 to {limits.MAX_PAGE}", fix="ask for less")
        if state not in _STATES:
            raise RequestError(f"state {state!r} is not known", fix=f"use {', '.join(_STATES)}")
        if side is not None and side not in _SIDES:
            raise RequestError(f"side {side!r} is not known", fix=f"use {', '.join(_SIDES)}")
        found, following, more = self._page(state, side, after, limit)
        found.sort(key=lambda row: (row["state"] != OVERDUE, row["due"], row["id"]))
        return {"items": found, "next": following, "more": more}

    def _page(
        self, state: str, side: str | None, after: int, limit: int
    ) -> tuple[list[Row], int, bool]:
        _, cases = self._core.opened()
        states: dict[Key, IncidentState] = {}
        found: list[Row] = []
        following = after
        for item in self._candidates(cases, unanswered=state in {OPEN, OVERDUE}, side=side,
                                     after=after):  # fmt: skip
            row = self._judged(cases, item, states)
            if row is not None and _fits(row, state, side):
                if len(found) == limit:
                    return found, following, True
                found.append(row)
            following = item["log_index"] + 1
        return found, following, False

    def _candidates(
        self, cases: Casebook, *, unanswered: bool, side: str | None = None, after: int = 0,
        due: int | None = None, limit: int = -1,
    ) -> list[Row]:  # fmt: skip
        """Return the rows of requests that may be meant, in log order."""
        sql = "SELECT q.* FROM items q WHERE q.kind = 'followup.request' AND q.log_index >= ?"
        values: list[object] = [after]
        if side == MINE:
            sql, values = f"{sql} AND q.author = ?", [*values, self._core.node_id]
        elif side == THEIRS:
            sql, values = sql + _ASKED, [*values, self._core.node_id.hex()]
        if due is not None:
            sql += " AND json_extract(q.body, '$.due') <= ?"
            values.append(rfc3339(due))
        # What takes longest to look at comes last, for as few rows as can be.
        if unanswered:
            sql += _UNANSWERED
        values.append(limit)
        return list(cases.database.query(f"{sql} ORDER BY q.log_index LIMIT ?", values))

    def _judged(
        self, cases: Casebook, item: Mapping[str, Any], states: dict[Key, IncidentState]
    ) -> Row | None:
        """Return a request as its incident's state has it; None if it counts for nothing there."""
        key = (item["subject"], item["owner"])
        about = cases.row_of(*key)
        if about is None:
            return None
        if key not in states:
            states[key] = self._core.holdings.state(cases, *key, now=self._clock.now())
        wanted = item["envelope_id"].hex()
        for each in states[key].requests:
            # Copies that one author sent separately are one request, under one of their envelopes.
            if each.envelope_id == wanted:
                return self._row(about, states[key], each)
        return None

    def _row(self, about: Mapping[str, Any], incident: IncidentState, request: RequestState) -> Row:
        from protocol.record_fields import to_ms  # noqa: PLC0415

        own, asked = self._core.node_id.hex(), request.request
        answers = {each.asked: each for each in request.answers}
        retracted = None if incident.retracted is None else incident.retracted.reason
        times = [to_ms(r.at) for each in request.answers for r in each.responses]
        waiting = [each.asked for each in request.answers if each.state in {"open", "interim"}]
        state = request.state
        if retracted is not None and state != ANSWERED:
            state = "withdrawn"
        return {
            "id": asked.request_id,
            "incident": {
                "id": about["incident_id"], "ref": about["ref"],
                "author": self._name(about["author"]), "retracted": retracted,
            },
            "author": self._called(request.author),
            "from_us": request.author == own,
            "asks_us": own in answers,
            "we_owe": own in waiting and retracted is None,
            "to": [self._called(node) for node in answers],
            "waiting_for": [self._called(node) for node in waiting],
            "kinds": list(asked.kinds), "priority": asked.priority,
            "at": asked.at, "due": asked.due,
            "state": state, "escalation": 0 if state == "withdrawn" else request.escalation,
            "response_s": None if not times else max(0, min(times) - to_ms(asked.at)) // 1000,
        }  # fmt: skip

    def _called(self, node: str) -> str:
        return self._name(bytes.fromhex(node))

    # --- one request -------------------------------------------------------------------------
    def resolve(self, text: str) -> tuple[str, Row]:
        """Return by what one request is named exactly, and its row, from an id or its beginning.

        Raises:
            NotFoundError: there is none, or more than one.
        """
        _, cases = self._core.opened()
        plain, _, author = text.partition("@")
        folded = plain.strip().casefold()
        if len(folded) < _LEAST_PREFIX or not _PREFIX.fullmatch(folded):
            raise NotFoundError(f"no request {text!r}", fix="see: picket followup list")
        states: dict[Key, IncidentState] = {}
        rows = cases.database.query(
            "SELECT q.* FROM items q WHERE q.kind = 'followup.request' "
            "AND json_extract(q.body, '$.request_id') BETWEEN ? AND ? ORDER BY q.log_index",
            [folded, folded + "g"],
        )  # fmt: skip
        judged = [self._judged(cases, row, states) for row in list(rows)]
        found = [row for row in judged if row is not None]
        if author:
            found = [r for r in found if r["author"].casefold() == author.strip().casefold()]
        if len(found) != 1:
            reason = "no request" if not found else "more than one request"
            raise NotFoundError(
                f"{reason} {text!r}",
                fix="take the id from: picket followup list; of several, add @ and who asked",
            )
        return f"{found[0]['id']}@{found[0]['author']}", found[0]

    def request(self, text: str, *, who: str) -> Row:
        """Return one request in full, with answers and talk, once its reading is logged.

        Raises:
            NotFoundError: there is none, or more than one.
            BusyError: the disk is full, and nothing is shown that is not logged.
        """
        _, found = self.resolve(text)
        _, cases = self._core.opened()
        about = found["incident"]
        self._note_reading(READ, f"{about['id']}@{about['author']}", who)
        state = self._core.holdings.state(
            cases, about["id"], self._owner(cases, about), now=self._clock.now()
        )
        whole = next(
            each
            for each in state.requests
            if (each.request.request_id, self._called(each.author)) == (found["id"],
                                                                        found["author"])
        )  # fmt: skip
        thread = [
            each
            for each in state.thread
            if (each.message.request.request_id, each.message.request.author)
            == (whole.request.request_id, whole.author)
        ]
        shown: Row = record_rows.row(whole, self._name)
        return {
            **found, "question": whole.request.question, "lang": whole.request.lang,
            "handling": shown["handling"], "answers": shown["answers"],
            "thread": record_rows.row(thread, self._name),
        }  # fmt: skip

    def _owner(self, cases: Casebook, about: Mapping[str, Any]) -> bytes:
        rows = cases.database.query(
            "SELECT author FROM incidents WHERE incident_id = ?", [about["id"]]
        )
        owner: bytes = next(
            row["author"] for row in list(rows) if self._name(row["author"]) == about["author"]
        )
        return owner

    def only_request(self, key: str, state: Mapping[str, Any]) -> str:
        """Return the one request about an incident that a message can belong to.

        Args:
            key: what the incident was called.
            state: the state of the incident, as rows.

        Raises:
            RequestError: there is none, or more than one.
        """
        requests = state["requests"]
        waiting = [each for each in requests if each["state"] != ANSWERED] or requests
        if len(waiting) != 1:
            none = "there is no request about it" if not waiting else "there are several requests"
            raise RequestError(
                f"{none}, and a message belongs to one",
                fix=f"ask first: picket followup ask {key}" if not waiting else "name the request",
            )
        only = waiting[0]
        return f"{only['request']['request_id']}@{only['author']}"

    # --- notices -----------------------------------------------------------------------------
    def notices(self) -> Iterator[tuple[str, str, str]]:
        """Return what a person must know: code, cause and fix."""
        cases = self._core.cases
        if cases is None:
            return
        now = self._clock.now()
        key = (cases.next_index, now // _MINUTE_MS)
        if self._noticed is None or self._noticed[0] != key:
            self._noticed = (key, tuple(self._overdue_notices(cases, now)))
        yield from self._noticed[1]

    def _overdue_notices(self, cases: Casebook, now: int) -> Iterator[tuple[str, str, str]]:
        for side in (THEIRS, MINE):
            states: dict[Key, IncidentState] = {}
            rows = self._candidates(cases, unanswered=True, side=side, due=now, limit=_MOST_NOTICED)
            judged = [self._judged(cases, row, states) for row in rows]
            late = [row for row in judged if row is not None and _fits(row, OVERDUE, side)]
            if not late:
                continue
            first = min(late, key=lambda row: str(row["due"]))
            most = "at least " if len(rows) == _MOST_NOTICED else ""
            since = f"{first['due'][:10]} {first['due'][11:16]} UTC"
            if side == THEIRS:
                requests = counted(len(late), "request waits", "requests wait")
                message = f"{most}{requests} for an answer of this node past the due time"
                message += f"; the oldest, of {first['author']}, since {since}"
                yield "answer-overdue", message, "see: picket followup list --overdue --theirs"
            else:
                requests = counted(len(late), "request")
                message = f"{most}{requests} of this node not answered in time"
                message += f"; the oldest since {since} by {_listed(first['waiting_for'])}"
                yield "request-overdue", message, "see: picket followup list --overdue --mine"


def _listed(names: Iterable[str]) -> str:
    return ", ".join(names)


def _fits(row: Mapping[str, Any], state: str, side: str | None) -> bool:
    """Whether a request is of this state, for this side; each side is judged by what it owes."""
    if side == MINE and not row["from_us"]:
        return False
    if side == THEIRS and not row["asks_us"]:
        return False
    open_here = row["state"] not in {ANSWERED, "withdrawn"}
    if side == THEIRS:
        open_here = row["we_owe"]
    match state:
        case "open":
            return open_here
        case "overdue":
            return open_here and row["state"] == OVERDUE
        case "answered":
            return not open_here
        case _:
            return True
