"""How complete and how quick this node and those that share with it report.

- An incident counts as complete as it stands now and as quick as its first revision was, by the
  times in its records. Exercises and retracted incidents count for nothing.
- Of an incident whose first report is not here, when it was shared first is not known: it is left
  out, and counted as that.
- No authority is named unless it is asked for: figures are no ranking.
"""

from __future__ import annotations

import datetime
import json
from collections.abc import Callable, Iterable, Mapping
from decimal import ROUND_HALF_UP, Decimal
from typing import TYPE_CHECKING, Any, Final

from node.casebook import Casebook
from node.core import Core
from protocol import limits
from protocol.errors import RequestError

if TYPE_CHECKING:
    from protocol.completeness import Figures, Report

_CHOSEN: Final = (
    "SELECT i.incident_id, i.author, i.own, i.revision, i.face FROM incidents i "
    "LEFT JOIN standing s ON s.incident_id = i.incident_id AND s.author = i.author "
    "WHERE i.face IS NOT NULL AND s.retracted IS NULL "
    "AND NOT coalesce(json_extract(i.face, '$.exercise'), 0)"
)
_SINCE: Final = " AND substr(json_extract(i.face, '$.detected_at'), 1, 19) >= ?"
_HUNDREDTH: Final = Decimal("0.01")
_SECONDS: Final = len("2026-03-01T08:30:00")
Row = dict[str, Any]


class FigureDesk:
    """Figures over the incidents of a Core."""

    def __init__(self, core: Core, *, name: Callable[[bytes], str]) -> None:
        """Serve *core*; *name* says how to call a node id."""
        self._core, self._name = core, name

    def figures(self, *, since: str = "", by_authority: bool = False) -> Row:
        """Return the figures over all incidents here, over those of this node, and over others'.

        Args:
            since: count what was detected from then on, as RFC 3339 in UTC; all if empty.
            by_authority: also return them for each originator.

        Raises:
            RequestError: *since* is no time.
            LockedError: the node is locked.
        """
        from protocol.completeness import figures  # noqa: PLC0415

        _, cases = self._core.opened()
        rows = self._chosen(cases, since)
        more = len(rows) > limits.MAX_FIGURES
        counted: dict[bytes, list[Report]] = {}
        left_out = 0
        for row in rows[: limits.MAX_FIGURES]:
            reports = self._reports(cases, row)
            left_out += not reports
            if reports:
                counted.setdefault(row["author"], []).extend(reports)
        own = counted.get(self._core.node_id, [])
        received = [each for author, reports in counted.items() if author != self._core.node_id
                    for each in reports]  # fmt: skip
        found: Row = {
            "since": since or None, "all": _shown(figures([*own, *received])),
            "own": _shown(figures(own)), "received": _shown(figures(received)),
            "left_out": left_out, "more": more,
        }  # fmt: skip
        if by_authority:
            named = [{"authority": self._name(author), **_shown(figures(reports))}
                     for author, reports in counted.items()]  # fmt: skip
            found["by_authority"] = sorted(named, key=lambda row: row["authority"].casefold())
        return found

    def _chosen(self, cases: Casebook, since: str) -> list[Row]:
        """Return the rows of the newest incidents that count, and one more if there are more."""
        sql, values = _CHOSEN, list[object]()
        if since:
            sql, values = sql + _SINCE, [_moment(since)]
        values.append(limits.MAX_FIGURES + 1)
        return list(cases.database.query(f"{sql} ORDER BY i.log_index DESC LIMIT ?", values))

    def _reports(self, cases: Casebook, row: Mapping[str, Any]) -> Iterable[Report] | None:
        """Return the first report of an incident, and how it stands; None if the first is away."""
        from protocol.completeness import Report, report_of  # noqa: PLC0415
        from protocol.incident import Record  # noqa: PLC0415

        revisions = [
            each
            for each in cases.envelopes_of(row["incident_id"], row["author"])
            if "face" in each["layers"].split()
        ]
        first = min(revisions, key=lambda each: (each["revision"], each["log_index"]), default=None)
        held = [] if first is None else self._core.holdings.received([first])
        if not held or not isinstance(held[0].record, Record):
            return None
        begun = report_of(row["author"], held[0].record)
        if begun is None:
            return None
        if begun.revision == row["revision"]:
            return (begun,)
        face = json.loads(row["face"])
        now = Report(
            row["author"], row["incident_id"], row["revision"], frozenset(face.get("anchors", ())),
            datetime.datetime.fromisoformat(face["detected_at"]), begun.first_shared_at,
        )  # fmt: skip
        return begun, now


def _moment(text: str) -> str:
    try:
        when = datetime.datetime.fromisoformat(text)
    except ValueError:
        when = None
    if when is None or when.utcoffset() != datetime.timedelta(0):
        raise RequestError("since is no time in UTC", fix="write it as 2026-03-01T00:00:00Z")
    return when.isoformat()[:_SECONDS]


def _shown(found: Figures) -> Row:
    """Return figures as JSON has them; a share is of one, and has two decimals."""
    share = None
    if found.incidents:
        share = (Decimal(found.actionable) / found.incidents).quantize(_HUNDREDTH, ROUND_HALF_UP)
    return {
        "incidents": found.incidents,
        "median_score": _text(found.median_score),
        "median_first_score": _text(found.median_first_score),
        "actionable": found.actionable, "actionable_share": _text(share),
        "by_anchor": dict(found.by_anchor),
        "time_to_share_s": {
            "median": found.time_to_share.median, "p90": found.time_to_share.ninth_decile,
        },
        "shared_before_detected": found.unclear,
    }  # fmt: skip


def _text(value: Decimal | None) -> str | None:
    return None if value is None else format(value, "f")
