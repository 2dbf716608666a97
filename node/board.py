"""The board: which of this node's incidents somebody has not received, acknowledged or answered.

- It shows what is known here: receipts are proven by the recipients' logs; when somebody opened an
  incident is what that authority says.
- Clocks are seconds between times that stand in records. None means that it has not happened, or
  that the records contradict each other.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from keys.trust import Peer
from node.casebook import Casebook
from node.clock import Clock
from node.core import Core
from node.follow_up import FollowUp
from protocol import limits
from protocol.errors import RequestError

if TYPE_CHECKING:
    from protocol.state import IncidentState

_OPEN_REQUESTS: Final = 500
_RETRACT: Final = "incident.retract"
Row = dict[str, Any]
Key = tuple[str, bytes]


class Board:
    """What is outstanding, over a Core."""

    def __init__(
        self,
        core: Core,
        *,
        clock: Clock,
        name: Callable[[bytes], str],
        follow_up: FollowUp,
    ) -> None:
        """Serve *core*; *name* says how to call a node id."""
        self._core, self._clock, self._name, self._follow_up = core, clock, name, follow_up

    def board(self, *, limit: int = 50) -> Row:
        """Return the newest incidents of this node, those first that somebody has to act on.

        Incidents of any age are among them that wait for a receipt or an answer.

        Args:
            limit: how many of the newest, at most MAX_PAGE.

        Raises:
            RequestError: *limit* is out of bounds.
        """
        if not 1 <= limit <= limits.MAX_PAGE:
            raise RequestError(f"limit is outside 1 to {limits.MAX_PAGE}", fix="ask for less")
        _, cases = self._core.opened()
        requests = self._follow_up.requests(limit=_OPEN_REQUESTS)
        keys = self._newest(cases, limit)
        keys |= dict.fromkeys(self._undelivered(cases))
        keys |= dict.fromkeys(self._asked_about(cases, requests["items"]))
        rows = [row for row in (self._row(cases, *key) for key in keys) if row is not None]
        rows.sort(key=_urgency)
        return {
            "incidents": rows,
            "requests": requests["items"],
            "more_requests": requests["more"],
            "counterparts": _counterparts(requests["items"]),
            "clocks": {
                name: _median([row[name] for row in rows if row[name] is not None])
                for name in ("time_to_share_s", "first_ack_s")
            },
        }

    # --- which -------------------------------------------------------------------------------
    def _newest(self, cases: Casebook, limit: int) -> dict[Key, None]:
        rows = cases.database.query(
            "SELECT incident_id, author FROM incidents WHERE own = 1 "
            "ORDER BY log_index DESC LIMIT ?",
            [limit],
        )
        return {(row["incident_id"], row["author"]): None for row in list(rows)}

    def _undelivered(self, cases: Casebook) -> Iterable[Key]:
        rows = self._core.store.rows(
            "SELECT DISTINCT o.envelope_id FROM outbox o JOIN envelopes e ON e.id = o.envelope_id "
            "WHERE o.state = 'queued' AND o.route = 'direct' AND e.author = ? LIMIT ?",
            self._core.node_id, limits.MAX_PAGE,
        )  # fmt: skip
        for row in rows:
            found = cases.database.query(
                "SELECT incident_id, author FROM records WHERE envelope_id = ?",
                [row["envelope_id"]],
            )
            for each in list(found):
                yield each["incident_id"], each["author"]
            told = cases.database.query(
                "SELECT subject, owner FROM items WHERE envelope_id = ? AND kind = ?",
                [row["envelope_id"], _RETRACT],
            )
            for each in list(told):
                yield each["subject"], each["owner"]

    def _asked_about(self, cases: Casebook, requests: Sequence[Row]) -> Iterable[Key]:
        for each in requests:
            key = (each["incident"]["id"], self._core.node_id)
            if cases.row_of(*key) is not None:
                yield key

    # --- one incident ------------------------------------------------------------------------
    def _row(self, cases: Casebook, incident_id: str, author: bytes) -> Row | None:
        from protocol.record_fields import to_ms  # noqa: PLC0415

        about = cases.incident(incident_id, author=author)
        untold = self._untold(cases, incident_id, author)
        if about["erased_at"] is not None and not about["layers"] and not untold:
            return None
        state = self._core.holdings.state(cases, incident_id, author, now=self._clock.now())
        concerned = _concerned(about)
        shared = _first_shared(state)
        recipients = self._recipients(cases, about, state, concerned)
        face = about["face"] or {}
        detected = face.get("detected_at")
        acked = [
            to_ms(each["first_ack"])
            for each in recipients
            if each["concerned"] and each["first_ack"] is not None
        ]
        closed = state.retracted is not None
        counts = [each for each in state.requests if each.state != "answered" and not closed]
        return {
            "id": incident_id, "ref": about["ref"], "revision": about["revision"],
            "incident_type": face.get("incident_type"),
            "retracted": about["retracted"],
            "concerned": sorted(concerned),
            "time_to_share_s": _seconds(None if detected is None else to_ms(detected), shared),
            "first_ack_s": _seconds(shared, min(acked, default=None)),
            "recipients": recipients,
            "not_received": [r["peer"] for r in recipients if not r["received"]],
            "not_told_of_retraction": sorted(map(self._name, untold)),
            "not_acknowledged": [
                r["peer"] for r in recipients if r["received"] and r["ack"] is None and not closed
            ],
            "open_requests": len(counts),
            "overdue_requests": sum(each.state == "overdue" for each in counts),
        }  # fmt: skip

    def _untold(self, cases: Casebook, incident_id: str, author: bytes) -> frozenset[bytes]:
        """Return who has not received yet that the incident was retracted."""
        found: set[bytes] = set()
        for item in cases.items_of(incident_id, author):
            if item["kind"] != _RETRACT or item["author"] != self._core.node_id:
                continue
            rows = self._core.store.rows(
                "SELECT peer FROM outbox WHERE envelope_id = ? AND route = 'direct' "
                "AND state = 'queued'",
                item["envelope_id"],
            )
            found.update(row["peer"] for row in rows)
        return frozenset(found)

    def _recipients(
        self, cases: Casebook, about: Row, state: IncidentState, concerned: set[str]
    ) -> list[Row]:
        """Return whom each revision went to, whether the newest arrived, and who opened it."""
        waiting: dict[bytes, set[int]] = {}
        layers: dict[bytes, set[str]] = {}
        for record in cases.envelopes_of(about["incident_id"], about["author"]):
            rows = self._core.store.rows(
                "SELECT peer, state FROM outbox WHERE envelope_id = ? AND route = 'direct'",
                record["envelope_id"],
            )
            for row in rows:
                layers.setdefault(row["peer"], set()).update(record["layers"].split())
                late = waiting.setdefault(row["peer"], set())
                if row["state"] == "queued":
                    late.add(record["revision"])
        acks = {each.recipient: each for each in state.acks}
        found = []
        for node in sorted(layers, key=lambda each: self._name(each).casefold()):
            ack = acks.get(node.hex())
            peer = self._core.trust.peers.get(node)
            country = _country(peer)
            found.append(
                {
                    "peer": self._name(node), "country": country,
                    "concerned": country in concerned,
                    "layers": sorted(layers[node], reverse=True),
                    "received": not waiting[node], "waiting": sorted(waiting[node]),
                    "ack": None if ack is None else ack.level,
                    "ack_revision": None if ack is None else ack.revision,
                    "first_ack": None if ack is None else min(at for _, at in ack.reached),
                }
            )  # fmt: skip
        return found


def _country(peer: Peer | None) -> str | None:
    return None if peer is None else peer.card.country


def _concerned(about: Mapping[str, Any]) -> set[str]:
    """Return the countries that an incident points to, as far as its content is here."""
    from protocol.completeness import countries_pointed_to  # noqa: PLC0415
    from protocol.incident import parse_incident  # noqa: PLC0415

    if about["face"] is None:
        return set()
    layers = {name: about[name] for name in ("face", "annex") if about[name] is not None}
    return set(countries_pointed_to(parse_incident(layers)))


def _first_shared(state: IncidentState) -> int | None:
    from protocol.record_fields import to_ms  # noqa: PLC0415

    times = [to_ms(v.shared_at) for v in (*state.face.versions, *state.annex.versions)]
    return min(times, default=None)


def _seconds(start: int | None, end: int | None) -> int | None:
    if start is None or end is None or end < start:
        return None
    return (end - start) // 1000


def _median(values: Sequence[int]) -> int | None:
    ordered = sorted(values)
    if not ordered:
        return None
    middle = len(ordered) // 2
    return ordered[middle] if len(ordered) % 2 else (ordered[middle - 1] + ordered[middle]) // 2


def _urgency(row: Row) -> tuple[object, ...]:
    """Sort what is overdue first, then what did not arrive, what is open, what nobody opened."""
    return (
        -row["overdue_requests"],
        -len(row["not_received"]) - len(row["not_told_of_retraction"]), -row["open_requests"],
        -len(row["not_acknowledged"]),
    )  # fmt: skip


def _counterparts(requests: Sequence[Row]) -> list[Row]:
    """Return for each other authority how many answers it owes, and how many it waits for."""
    found: dict[str, Row] = {}

    def count(name: str, what: str, *, late: bool) -> None:
        row = found.setdefault(
            name, {"peer": name, "owes": 0, "owes_overdue": 0, "waits": 0, "waits_overdue": 0}
        )
        row[what] += 1
        row[f"{what}_overdue"] += late

    for each in requests:
        late = each["state"] == "overdue"
        if each["from_us"]:
            for name in each["waiting_for"]:
                count(name, "owes", late=late)
        if each["we_owe"]:
            count(each["author"], "waits", late=late)
    return sorted(
        found.values(),
        key=lambda row: (-row["owes_overdue"] - row["waits_overdue"], row["peer"].casefold()),
    )
