"""What may be asked of the search index and the link candidates, as JSON-able values."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any, Final

from node.core import Core
from node.search import DISMISSED, OPEN, Candidate
from protocol import limits
from protocol.errors import NotFoundError, RequestError

Row = dict[str, Any]
_NEWEST: Final = 1 << 60
_CURSOR: Final = re.compile(r"([0-9]{1,15})(\+?)")
_CANDIDATE: Final = re.compile(r"([0-9]{1,15})-([0-9]{1,15})-([a-z_]{1,32})")
_STATES: Final = (OPEN, DISMISSED, "confirmed")


class SearchDesk:
    """Finds incidents, and shows which others may belong to one."""

    def __init__(
        self,
        core: Core,
        *,
        row: Callable[[Mapping[str, Any]], Row],
        find: Callable[[str], dict[str, Any]],
    ) -> None:
        """Serve *core*; *row* shows an incident in a list, *find* looks one up by what is typed."""
        self._core, self._row, self._find = core, row, find

    # --- searching -----------------------------------------------------------------------------
    def search(self, asked: Mapping[str, Any], *, cursor: str | None, limit: int) -> Row:
        """Return a page of the incidents that match, the newest first.

        ``widened`` says that nothing matched, and words that only begin so were taken instead.

        Args:
            asked: the fields of ``node.searching.Query``.
            cursor: the ``next`` of the page before, None at first.
            limit: at most MAX_PAGE.

        Raises:
            RequestError: a field, the cursor or the limit cannot be read, or nothing is asked.
            LockedError: the node is locked.
        """
        # Brings the reference lists.
        from node.searching import expression, read_query  # noqa: PLC0415

        _, cases = self._core.opened()
        _check(limit)
        query = read_query(asked)
        before, widen = _read_cursor(cursor)
        wanted = expression(query, widen=widen)
        found = cases.search.find(wanted, before=before, limit=limit + 1)
        if not found and cursor is None and (query.text or query.party):
            wider = expression(query, widen=True)
            found = cases.search.find(wider, before=before, limit=limit + 1)
            widen = bool(found)
        page = found[:limit]
        more = len(found) > limit
        return {
            "items": [self._row(each) for each in cases.incidents_at(page)],
            "next": f"{page[-1]}{'+' if widen else ''}" if more else None, "more": more,
            "widened": widen,
        }  # fmt: skip

    # --- links ---------------------------------------------------------------------------------
    def candidates(self, *, state: str, before: int | None, limit: int) -> Row:
        """Return a page of link candidates, those of the newest incidents first.

        Raises:
            RequestError: the state or the limit is none.
        """
        _, cases = self._core.opened()
        _check(limit)
        if state not in _STATES:
            raise RequestError(
                f"state {state!r} is not known", fix=f"use one of: {', '.join(_STATES)}"
            )
        found = cases.search.candidates(
            before=_NEWEST if before is None else before, limit=limit, state=state
        )
        return {
            "items": [self._candidate_row(each) for each in found],
            "next": found[-1].high if len(found) >= limit else None,
        }

    def candidates_of(self, key: str) -> Row:
        """Return the other incidents that may belong to one, the likeliest first, with the reason.

        Raises:
            NotFoundError: there is none of that id or reference.
        """
        _, cases = self._core.opened()
        index = self._find(key)["log_index"]
        return {
            "items": [
                self._candidate_row(each, index) for each in cases.search.candidates_of(index)
            ]
        }

    def _candidate_row(self, each: Candidate, here: int | None = None) -> Row:
        _, cases = self._core.opened()
        row: Row = {
            "id": f"{each.low}-{each.high}-{each.kind}", "kind": each.kind, "basis": each.basis,
            "score": each.score, "state": each.state,
        }  # fmt: skip
        shown = {item["log_index"]: self._row(item)
                 for item in cases.incidents_at([each.low, each.high])}  # fmt: skip
        if here is None:
            return {**row, "incidents": [shown[index] for index in (each.high, each.low)]}
        return {**row, "incident": shown[each.low if each.high == here else each.high]}

    def candidate(self, candidate_id: str) -> tuple[Candidate, Row, Row]:
        """Return a candidate and the rows of its two incidents in case.db, for a link.assert.

        Raises:
            NotFoundError: there is no such candidate.
        """
        _, cases = self._core.opened()
        low, high, kind = _read_candidate(candidate_id)
        for each in cases.search.candidates_of(high):
            if (each.low, each.high, each.kind) == (low, high, kind):
                one, other = cases.incidents_at([low, high])
                return each, one, other
        raise _no_candidate()

    def shown(self, candidate: Candidate) -> Row:
        """Return a candidate with its two incidents as lists show them, the newer first."""
        return self._candidate_row(candidate)

    def decide(self, candidate_id: str, state: str) -> Row:
        """Note what a person said of a candidate: dismissed, confirmed, or open again.

        Raises:
            NotFoundError: there is no such candidate.
            BusyError: the disk is full.
        """
        _, cases = self._core.opened()
        low, high, kind = _read_candidate(candidate_id)
        with cases.transaction():
            found = cases.search.decide(low, high, kind, state)
        if found is None:
            raise _no_candidate()
        return self._candidate_row(found)


def _check(limit: int) -> None:
    if not 1 <= limit <= limits.MAX_PAGE:
        raise RequestError(f"limit is outside 1 to {limits.MAX_PAGE}", fix="ask for less")


def _read_cursor(cursor: str | None) -> tuple[int, bool]:
    if cursor is None:
        return _NEWEST, False
    found = _CURSOR.fullmatch(cursor)
    if found is None:
        raise RequestError("cursor is not one of this node", fix="send the next of a page before")
    return int(found[1]), bool(found[2])


def _read_candidate(text: str) -> tuple[int, int, str]:
    found = _CANDIDATE.fullmatch(text)
    if found is None:
        raise _no_candidate()
    return int(found[1]), int(found[2]), found[3]


def _no_candidate() -> NotFoundError:
    return NotFoundError("no such link candidate", fix="list them with: picket links list")
