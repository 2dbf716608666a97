"""The state of operations, notified shipments, alerts and lists, from the set of their records.

The rules of ``protocol.state`` hold here too: no order of arrival, no clock but ``now``, and
nothing applied that its author had no right to write. Besides:

- A tally counts each incident once, whatever amendments it has. One that is retracted does not
  count, and of those that their own originators call duplicates of each other one counts.
- That somebody else calls an incident a duplicate takes it out of no tally.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Final

from protocol.canonical import encode
from protocol.incident import Face, Record
from protocol.record_fields import OperationRef, PenRef, to_ms
from protocol.records_incident import Alert, Amend, LinkAssert, Retract
from protocol.records_operations import (
    ConsignmentEvent,
    ListUpdate,
    OperationClose,
    OperationNotice,
    OperationOpen,
    PenNotification,
    PenReply,
)
from protocol.state import (
    Ignored,
    IncidentState,
    Received,
    canonical,
    distinct,
    incident_state,
    kind_of,
    merged,
)

NOT_CONVENOR: Final = "only the convenor opens, informs of and closes an operation"
NOT_PARTICIPANT: Final = "its originator does not take part in the operation"
NOT_ASKED: Final = "its author was not asked about the shipment"
NOT_TOLD: Final = "its author was not told of the shipment"
NO_NOTIFICATION: Final = "the notification is not here"
_CAUTION: Final = ("no_objection", "more_time", "objection")
"""Of two answers of one time the more cautious counts."""

Key = tuple[str, str]
"""An incident: its id and its originator."""


# --- operations ------------------------------------------------------------------------------
@dataclass(frozen=True, slots=True)
class Tally:
    """What one participant brought: how many incidents, and how much by (substance, unit)."""

    participant: str
    incidents: int
    totals: tuple[tuple[str, str, Decimal], ...]


@dataclass(frozen=True, slots=True)
class OperationState:
    """An operation at ``now``: ``state`` is unknown, planned, running, ended or closed.

    Two different openings are a conflict: ``opened`` has both, and whom either names takes part.
    ``contested`` are incidents whose originator contradicts itself: they count, but no quantity of
    theirs does. ``differing`` are those for whom the convenor counted otherwise.
    """

    operation_id: str
    convenor: str
    state: str
    opened: tuple[OperationOpen, ...]
    closed: tuple[OperationClose, ...]
    notices: tuple[OperationNotice, ...]
    participants: tuple[str, ...]
    tallies: tuple[Tally, ...]
    counted: tuple[Key, ...]
    duplicates: tuple[Key, ...]
    retracted: tuple[Key, ...]
    contested: tuple[Key, ...]
    differing: tuple[str, ...]
    ignored: tuple[Ignored, ...]

    @property
    def conflict(self) -> bool:
        """Whether the convenor contradicts itself."""
        return len(self.opened) > 1


def operation_state(
    operation_id: str, convenor: str, records: Iterable[Received], *, now: int
) -> OperationState:
    """Return the state of an operation at *now*, from its records and all those of incidents."""
    ref = OperationRef(operation_id=operation_id, convenor=convenor)
    held = distinct(records)
    ignored: list[Ignored] = []
    opened, notices, closed = _of_convenor(ref, held, ignored)
    participants = {convenor, *(node for each in opened for node in each.participants)}
    found = [state for state in _incidents(held, now) if operation_id in _operations_of(state)]
    taking_part = []
    for state in found:
        if state.originator in participants:
            taking_part.append(state)
        else:
            envelopes = [e for head in state.face.heads for e in head.envelopes]
            ignored += [
                Ignored(each, state.originator, "incident.report", NOT_PARTICIPANT)
                for each in envelopes
            ]
    standing = [each for each in taking_part if each.retracted is None]
    counted, duplicates = _without_duplicates(standing)
    tallies = _tallies(participants, counted)
    return OperationState(
        operation_id=operation_id,
        convenor=convenor,
        state=_stage(opened, closed, now),
        opened=opened,
        closed=closed,
        notices=notices,
        participants=tuple(sorted(participants)),
        tallies=tallies,
        counted=tuple(map(_key, counted)),
        duplicates=tuple(map(_key, duplicates)),
        retracted=tuple(_key(each) for each in taking_part if each.retracted is not None),
        contested=tuple(_key(each) for each in counted if each.face.current is None),
        differing=_differing(tallies, closed),
        ignored=tuple(sorted(ignored, key=lambda i: (i.envelope_id, i.reason))),
    )


def _of_convenor(
    ref: OperationRef, held: Sequence[Received], ignored: list[Ignored]
) -> tuple[tuple[OperationOpen, ...], tuple[OperationNotice, ...], tuple[OperationClose, ...]]:
    opened: list[OperationOpen] = []
    notices: list[OperationNotice] = []
    closed: list[OperationClose] = []
    ours = (OperationOpen, OperationNotice, OperationClose)
    for each in merged([r for r in held if isinstance(r.record, ours)]):
        record = each.record
        match record:
            case OperationOpen():
                about = record.operation_id == ref.operation_id and each.author == ref.convenor
            case OperationNotice() | OperationClose():
                about = record.operation == ref
            case _:
                continue
        if not about:
            continue
        if each.author != ref.convenor:
            ignored.append(Ignored(each.envelope_id, each.author, kind_of(record), NOT_CONVENOR))
        elif isinstance(record, OperationOpen):
            opened.append(record)
        elif isinstance(record, OperationNotice):
            notices.append(record)
        else:
            closed.append(record)
    return (
        tuple(sorted(opened, key=lambda r: (to_ms(r.at), canonical(r)))),
        tuple(sorted(notices, key=lambda r: (to_ms(r.at), canonical(r)))),
        tuple(sorted(closed, key=lambda r: (to_ms(r.at), canonical(r)))),
    )


def _stage(opened: Sequence[OperationOpen], closed: Sequence[OperationClose], now: int) -> str:
    if closed:
        return "closed"
    if not opened:
        return "unknown"
    if now < min(to_ms(each.scope.starts) for each in opened):
        return "planned"
    return "running" if now < max(to_ms(each.scope.ends) for each in opened) else "ended"


def _incidents(held: Sequence[Received], now: int) -> list[IncidentState]:
    """Return the states of all incidents that these records are about."""
    groups: dict[Key, list[Received]] = defaultdict(list)
    for each in held:
        match each.record:
            case Record() | Amend() | Retract():
                groups[each.record.incident_id, each.author].append(each)
            case LinkAssert():
                about = each.record.incident
                groups[about.incident_id, about.author].append(each)
            case _:
                pass
    return [
        incident_state(incident_id, author, records, now=now)
        for (incident_id, author), records in sorted(groups.items())
    ]


def _operations_of(state: IncidentState) -> set[str]:
    """Return the operations that an incident names; of one that is erased nothing is known."""
    return {
        version.value.operation_id
        for version in state.face.heads
        if isinstance(version.value, Face) and version.value.operation_id is not None
    }


def _key(state: IncidentState) -> Key:
    return (state.incident_id, state.originator)


def _without_duplicates(
    states: Sequence[IncidentState],
) -> tuple[list[IncidentState], list[IncidentState]]:
    """Return *states* without those that their own originators call duplicates, and these.

    Of some that call each other duplicates, the one with the lowest id counts.
    """
    named = _names(states)
    targets = {
        _key(each): {named[target] for target in each.duplicate_of if target in named}
        for each in states
    }
    reached = {key: _reached(key, targets) for key in targets if targets[key]}

    def counts(key: Key) -> bool:
        others = reached.get(key, frozenset())
        # Whoever points to no way out of the circle stands for it, if it comes first in it.
        return all(key in reached.get(other, ()) and key <= other for other in others)

    return (
        [each for each in states if counts(_key(each))],
        [each for each in states if not counts(_key(each))],
    )


def _reached(key: Key, targets: Mapping[Key, set[Key]]) -> frozenset[Key]:
    found: set[Key] = set()
    waiting = set(targets[key])
    while waiting:
        each = waiting.pop()
        found.add(each)
        waiting |= targets[each] - found
    return frozenset(found)


def _names(states: Sequence[IncidentState]) -> dict[str, Key]:
    """Return by what an incident may be named; an id that several use names none of them."""
    found: dict[str, set[Key]] = defaultdict(set)
    for each in states:
        found[each.incident_id].add(_key(each))
        found[f"{each.incident_id}@{each.originator}"].add(_key(each))
    return {name: next(iter(keys)) for name, keys in found.items() if len(keys) == 1}


def _tallies(participants: Iterable[str], counted: Sequence[IncidentState]) -> tuple[Tally, ...]:
    numbers: dict[str, int] = dict.fromkeys(sorted(participants), 0)
    totals: dict[str, dict[tuple[str, str], Decimal]] = defaultdict(lambda: defaultdict(Decimal))
    for state in counted:
        numbers[state.originator] += 1
        head = state.face.current
        if head is None or not isinstance(head.value, Face):
            continue
        for substance in head.value.substances:
            key = (substance.name, substance.qty.unit)
            totals[state.originator][key] += Decimal(substance.qty.value)
    return tuple(
        Tally(
            node,
            number,
            tuple((name, unit, total) for (name, unit), total in sorted(totals[node].items())),
        )
        for node, number in numbers.items()
    )


def _differing(tallies: Sequence[Tally], closed: Sequence[OperationClose]) -> tuple[str, ...]:
    """Return for whom the newest closing counts otherwise than these records do."""
    if not closed:
        return ()
    ours = {
        each.participant: (each.incidents, {(n, u): t for n, u, t in each.totals})
        for each in tallies
    }
    theirs = {
        count.participant: (
            count.incidents,
            {(t.substance, t.unit): Decimal(t.value) for t in count.totals},
        )
        for count in closed[-1].counts
    }
    nothing: tuple[int, Mapping[tuple[str, str], Decimal]] = (0, {})
    return tuple(
        node
        for node in sorted(ours.keys() | theirs.keys())
        if ours.get(node, nothing) != theirs.get(node, nothing)
    )


# --- notified shipments ----------------------------------------------------------------------
@dataclass(frozen=True, slots=True)
class PenAnswer:
    """What one of those asked says: ``answer`` is None until it answers.

    ``due`` is when its answer is due (UTC in ms): it moves if it asked for more time.
    """

    asked: str
    answer: str | None
    reason: str | None
    due: int
    overdue: bool
    replies: tuple[PenReply, ...]


@dataclass(frozen=True, slots=True)
class PenState:
    """A notified shipment at ``now``: unknown, objected, overdue, pending or no_objection.

    Two different notifications are a conflict: ``notified`` has both, whom either asks is asked,
    and the earlier time counts.
    """

    pen_id: str
    author: str
    state: str
    notified: tuple[PenNotification, ...]
    answers: tuple[PenAnswer, ...]
    events: tuple[ConsignmentEvent, ...]
    ignored: tuple[Ignored, ...]

    @property
    def conflict(self) -> bool:
        """Whether the exporting authority contradicts itself."""
        return len(self.notified) > 1


def pen_state(pen_id: str, author: str, records: Iterable[Received], *, now: int) -> PenState:
    """Return the state of a notified shipment of *author* at *now*."""
    ref = PenRef(pen_id=pen_id, author=author)
    held = merged(
        [
            each
            for each in distinct(records)
            if (isinstance(each.record, PenNotification) and each.record.pen_id == pen_id
                and each.author == author)
            or (isinstance(each.record, PenReply | ConsignmentEvent) and each.record.pen == ref)
        ]
    )  # fmt: skip
    mine = [each for each in held if isinstance(each.record, PenNotification)]
    notified = [each.record for each in mine if isinstance(each.record, PenNotification)]
    told = {author, *(node for each in mine for node in each.recipients)}
    asked = {node for each in notified for node in each.to} - {author}
    ignored: list[Ignored] = []
    replies: dict[str, list[PenReply]] = defaultdict(list)
    events: list[ConsignmentEvent] = []
    for each in held:
        record = each.record
        reason = None
        if isinstance(record, PenReply | ConsignmentEvent) and not notified:
            reason = NO_NOTIFICATION
        elif isinstance(record, PenReply):
            reason = None if each.author in asked else NOT_ASKED
            replies[each.author].append(record)
        elif isinstance(record, ConsignmentEvent):
            reason = None if each.author in told else NOT_TOLD
            events += [record] if reason is None else []
        if reason is not None:
            ignored.append(Ignored(each.envelope_id, each.author, kind_of(record), reason))
    due = min((to_ms(each.reply_by) for each in notified), default=0)
    answers = tuple(_pen_answer(node, replies[node], due, now) for node in sorted(asked))
    return PenState(
        pen_id=pen_id,
        author=author,
        state=_pen_stage(notified, answers),
        notified=tuple(sorted(notified, key=lambda r: (to_ms(r.at), canonical(r)))),
        answers=answers,
        events=tuple(sorted(events, key=lambda r: (to_ms(r.happened), canonical(r)))),
        ignored=tuple(sorted(ignored, key=lambda i: (i.envelope_id, i.reason))),
    )


def _pen_answer(node: str, replies: Sequence[PenReply], due: int, now: int) -> PenAnswer:
    ordered = tuple(
        sorted(replies, key=lambda r: (to_ms(r.at), _CAUTION.index(r.answer), canonical(r)))
    )
    if not ordered:
        return PenAnswer(node, None, None, due, now >= due, ())
    last = ordered[-1]
    if last.until is not None:
        due = max(due, to_ms(last.until))
    overdue = last.answer == "more_time" and now >= due
    return PenAnswer(node, last.answer, last.reason, due, overdue, ordered)


def _pen_stage(notified: Sequence[PenNotification], answers: Sequence[PenAnswer]) -> str:
    if not notified:
        return "unknown"
    if any(each.answer == "objection" for each in answers):
        return "objected"
    if any(each.overdue for each in answers):
        return "overdue"
    answered = all(each.answer == "no_objection" for each in answers)
    return "no_objection" if answered else "pending"


# --- alerts ----------------------------------------------------------------------------------
@dataclass(frozen=True, slots=True)
class ActiveAlert:
    """An alert that has not expired."""

    author: str
    envelope_id: str
    alert: Alert


def active_alerts(records: Iterable[Received], *, now: int) -> tuple[ActiveAlert, ...]:
    """Return the alerts that hold at *now*, those that end first coming first.

    Who gives an alert again under its id replaces it, and ends it by a time that is near.
    """
    newest: dict[tuple[str, str], ActiveAlert] = {}
    for each in merged([r for r in distinct(records) if isinstance(r.record, Alert)]):
        alert = each.record
        assert isinstance(alert, Alert)  # noqa: S101  just selected
        key = (each.author, alert.alert_id)
        known = newest.get(key)
        if known is None or _given(known.alert) < _given(alert):
            newest[key] = ActiveAlert(each.author, each.envelope_id, alert)
    found = [each for each in newest.values() if to_ms(each.alert.expires) > now]
    return tuple(sorted(found, key=lambda a: (to_ms(a.alert.expires), a.author, a.alert.alert_id)))


def _given(alert: Alert) -> tuple[int, bytes]:
    return to_ms(alert.at), canonical(alert)


# --- reference lists -------------------------------------------------------------------------
@dataclass(frozen=True, slots=True)
class ListState:
    """The newest whole version of a list of *author*; None if none is whole.

    ``conflicts`` are versions of which two different parts have one number: none of them counts.
    """

    name: str
    author: str
    version: int | None
    parts: tuple[ListUpdate, ...]
    incomplete: tuple[int, ...]
    conflicts: tuple[int, ...]


def list_state(name: str, author: str, records: Iterable[Received]) -> ListState:
    """Return what *author* says the list *name* holds, once all parts of a version are here."""
    parts: dict[int, dict[int, set[bytes]]] = defaultdict(lambda: defaultdict(set))
    bodies: dict[bytes, ListUpdate] = {}
    for each in distinct(records):
        update = each.record
        if isinstance(update, ListUpdate) and (update.name, each.author) == (name, author):
            key = _part_key(update)
            bodies[key] = update
            parts[update.version][update.part].add(key)
    conflicts = [
        version
        for version, those in parts.items()
        if any(len(keys) > 1 for keys in those.values())
        or len({bodies[k].parts for keys in those.values() for k in keys}) > 1
    ]
    whole: list[int] = []
    incomplete: list[int] = []
    for version, those in parts.items():
        if version in conflicts:
            continue
        wanted = next(bodies[k].parts for keys in those.values() for k in keys)
        (whole if len(those) == wanted else incomplete).append(version)
    newest = max(whole, default=None)
    chosen = () if newest is None else tuple(
        bodies[key] for _, keys in sorted(parts[newest].items()) for key in keys
    )  # fmt: skip
    return ListState(
        name, author, newest, chosen, tuple(sorted(incomplete)), tuple(sorted(conflicts))
    )


def _part_key(update: ListUpdate) -> bytes:
    """Return bytes that are equal for equal parts, whenever each was sent."""
    return encode(update.model_dump(mode="json", exclude_defaults=True, exclude={"at"}))
