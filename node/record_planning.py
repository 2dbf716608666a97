"""What each kind of record needs to be written: what it is about, and who is to get it.

- What is written about an incident goes to nobody who is not known to hold it, and is handled at
  least as strictly.
- Nothing is planned that its recipients would have to ignore by the rules of ``protocol.state``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from keys.trust import Peer
from node.casebook import Casebook
from node.clock import Clock, rfc3339
from node.core import Core
from node.record_audience import Group, audiences_of, narrowed
from protocol.errors import (
    ConflictError,
    InvalidIncidentError,
    NotFoundError,
    RequestError,
    UnknownRecipientError,
)

if TYPE_CHECKING:
    from protocol.incident import Handling
    from protocol.state import IncidentState, Received, RequestState

Row = dict[str, Any]
OWN_ID: Final = {
    "link.assert": "link_id", "alert.special": "alert_id", "followup.request": "request_id",
    "followup.response": "response_id", "thread.message": "message_id",
    "operation.open": "operation_id", "operation.notice": "notice_id",
    "pen.notification": "pen_id", "consignment.event": "event_id",
}  # fmt: skip
"""Kinds that have an id of their own, and its field."""


@dataclass(frozen=True, slots=True)
class Case:
    """One incident, as far as it is known here."""

    row: Row
    state: IncidentState

    @property
    def ref(self) -> Row:
        """How records name it."""
        return {"incident_id": self.row["incident_id"], "author": self.row["author"].hex()}


class Planning:
    """Finds what a record is about, fills in what a person does not type, and says who gets it."""

    def __init__(
        self,
        core: Core,
        *,
        clock: Clock,
        name: Callable[[bytes], str],
        find: Callable[[str], Row],
        choose: Callable[[Sequence[str]], tuple[Peer, ...]],
    ) -> None:
        """Plan for *core*; the others are those of ``node.recording``."""
        self._core, self._clock = core, clock
        self._name, self._find, self._choose = name, find, choose
        self._planners: dict[str, Callable[[Row, Sequence[str], Row], tuple[Group, ...]]] = {
            "incident.retract": self._retraction,
            "ack": self._ack,
            "link.assert": self._link,
            "alert.special": self._broadcast,
            "followup.request": self._request,
            "followup.response": self._response,
            "thread.message": self._message,
            "operation.open": self._operation,
            "operation.notice": self._of_operation,
            "operation.close": self._closing,
            "pen.notification": self._notification,
            "pen.reply": self._reply,
            "consignment.event": self._event,
            "list.update": self._broadcast,
        }

    def groups(self, kind: str, given: Row, to: Sequence[str], fields: Row) -> tuple[Group, ...]:
        """Return who gets a record of *kind*, and fill in *fields* of it.

        Args:
            kind: of the record.
            given: what a person typed; what only names something is taken out.
            to: peers that are named besides.
            fields: what is put in.

        Raises:
            As ``Recording.release``.
        """
        if kind not in self._planners:
            known = ", ".join(self._planners)
            raise RequestError(f"no record {kind!r} is made this way", fix=f"choose of {known}")
        return self._planners[kind](given, to, fields)

    # Each of the following takes what was given and fills in *fields*; what names something by
    # what a person typed is taken out of *given*.
    def _retraction(self, given: Row, to: Sequence[str], fields: Row) -> tuple[Group, ...]:
        self._nobody(to, "a retraction goes to all who got the incident")
        case = self.own(_text(given, "incident"))
        if (other := given.pop("duplicate_of", None)) is not None:
            fields["duplicate_of"] = self.case(str(other)).ref
        fields |= {
            "incident_id": case.row["incident_id"], "ref": case.row["ref"],
            "revision": max(case.row["revision"], 1),
        }  # fmt: skip
        groups = audiences_of(self._core, self._cases(), case.row)
        return narrowed(groups, leave_out=set(), layers=("face", "annex"))

    def _ack(self, given: Row, to: Sequence[str], fields: Row) -> tuple[Group, ...]:
        case = self._standing(given, fields)
        if case.row["own"]:
            raise ConflictError(
                "nobody acknowledges an incident of its own", fix="its recipients do"
            )
        fields["revision"] = max(case.row["revision"], 1)
        return self._holders_group(case, {case.row["author"]}, to)

    def _link(self, given: Row, to: Sequence[str], fields: Row) -> tuple[Group, ...]:
        case = self._standing(given, fields)
        target = self.case(_text(given, "target"))
        fields["target"] = target.ref
        self._handle(given, case, target)
        if given.get("both") is True:
            del given["both"]
            self._nobody(to, "it goes to those alone who hold both incidents")
            return (self._group(self.holders_of_both(case, target)[0]),)
        first = set() if case.row["own"] else {case.row["author"]}
        if target.row["author"].hex() in case.state.holders:
            first.add(target.row["author"])
        return self._holders_group(case, first, to)

    def _request(self, given: Row, to: Sequence[str], fields: Row) -> tuple[Group, ...]:
        from protocol.records_followup import WITHIN_MS, default_due  # noqa: PLC0415

        case = self._standing(given, fields)
        asked = {peer.node_id for peer in self._choose(_texts(given, "to"))}
        fields["to"] = sorted(node.hex() for node in asked)
        priority = given.get("priority", "routine")
        known = isinstance(priority, str) and priority in {"routine", *WITHIN_MS}
        if "due" not in given and known:
            fields["due"] = rfc3339(default_due(priority, self._clock.now()))
        self._handle(given, case)
        first = asked | (set() if case.row["own"] else {case.row["author"]})
        return self._holders_group(case, first, to)

    def _response(self, given: Row, to: Sequence[str], fields: Row) -> tuple[Group, ...]:
        case, request = self._requested(given, fields)
        if self._core.node_id.hex() not in {each.asked for each in request.answers}:
            raise ConflictError(
                "this node was not asked", fix="write to the thread, or amend your own incident"
            )
        self._handle(given, case)
        return self._holders_group(case, self._parties(request), to)

    def _message(self, given: Row, to: Sequence[str], fields: Row) -> tuple[Group, ...]:
        case, request = self._requested(given, fields)
        if self._core.node_id not in self._parties(request) | {bytes.fromhex(request.author)}:
            raise ConflictError(
                "this node is not party to the request", fix="ask by a request of your own"
            )
        self._handle(given, case)
        return self._holders_group(case, self._parties(request), to)

    def _parties(self, request: RequestState) -> set[bytes]:
        """Return who got the request and may read what follows: the asked, asker, originator."""
        return set(self._core.holdings.readers(bytes.fromhex(request.envelope_id)))

    def _broadcast(self, given: Row, to: Sequence[str], fields: Row) -> tuple[Group, ...]:
        del given, fields
        return (self._group({peer.node_id for peer in self._choose(to)}),)

    def _operation(self, given: Row, to: Sequence[str], fields: Row) -> tuple[Group, ...]:
        taking_part = {peer.node_id for peer in self._choose(_texts(given, "participants"))}
        fields["participants"] = sorted(node.hex() for node in taking_part)
        others = {peer.node_id for peer in self._choose(to)} if to else set()
        return (self._group(taking_part | others),)

    def _of_operation(self, given: Row, to: Sequence[str], fields: Row) -> tuple[Group, ...]:
        self._nobody(to, "it goes to those who got the opening")
        opening = self.one("operation.open", _text(given, "operation"))
        if opening["author"] != self._core.node_id:
            raise ConflictError(
                f"the operation is {self._name(opening['author'])}'s",
                fix="only its convenor informs of it and closes it",
            )
        fields["operation"] = {
            "operation_id": opening["subject"], "convenor": opening["author"].hex(),
        }  # fmt: skip
        given.setdefault("handling", opening["body"]["handling"])
        return (self._group(set(self._core.holdings.readers(opening["envelope_id"]))),)

    def _closing(self, given: Row, to: Sequence[str], fields: Row) -> tuple[Group, ...]:
        from protocol.state_operations import operation_state  # noqa: PLC0415

        groups = self._of_operation(given, to, fields)
        operation_id = fields["operation"]["operation_id"]
        state = operation_state(
            operation_id, self._core.node_id.hex(), self.operation_records(operation_id),
            now=self._clock.now(),
        )  # fmt: skip
        fields["counts"] = [
            {
                "participant": each.participant, "incidents": each.incidents,
                "totals": [
                    {"substance": name, "unit": unit, "value": format(total, "f")}
                    for name, unit, total in each.totals
                ],
            }
            for each in state.tallies
        ]  # fmt: skip
        return groups

    def _notification(self, given: Row, to: Sequence[str], fields: Row) -> tuple[Group, ...]:
        asked = {peer.node_id for peer in self._choose(_texts(given, "to"))}
        fields["to"] = sorted(node.hex() for node in asked)
        others = {peer.node_id for peer in self._choose(to)} if to else set()
        return (self._group(asked | others),)

    def _reply(self, given: Row, to: Sequence[str], fields: Row) -> tuple[Group, ...]:
        notified, told = self._notified(given, fields)
        if self._core.node_id.hex() not in notified["body"]["to"]:
            raise ConflictError(
                "this node was not asked about the shipment", fix="report an event instead"
            )
        return (self._told_group(told, {notified["author"]}, to),)

    def _event(self, given: Row, to: Sequence[str], fields: Row) -> tuple[Group, ...]:
        _, told = self._notified(given, fields)
        return (self._told_group(told, set(told), to),)

    # --- what records are about --------------------------------------------------------------
    def _cases(self) -> Casebook:
        return self._core.opened()[1]

    def case(self, key: str) -> Case:
        """Return the incident *key* with its state now.

        Raises:
            NotFoundError: there is none of that id or reference.
            ConflictError: it is a draft.
        """
        cases = self._cases()
        if cases.draft(key) is not None:
            raise ConflictError("this is a draft: nobody else has it", fix="release it first")
        row = self._find(key)
        state = self._core.holdings.state(
            cases, row["incident_id"], row["author"], now=self._clock.now()
        )
        return Case(row, state)

    def own(self, key: str) -> Case:
        """Return the incident *key*, which this node may change.

        Raises:
            NotFoundError: there is none of that id or reference.
            ConflictError: it is another's, or retracted or erased.
        """
        case = self.case(key)
        if not case.row["own"]:
            raise ConflictError(
                f"the incident is {self._name(case.row['author'])}'s: only it can change that",
                fix="ask it by a follow-up, or report your own finding and link the two",
            )
        self._check_standing(case)
        return case

    def _check_standing(self, case: Case) -> None:
        if case.state.retracted is not None:
            raise ConflictError(
                "the incident is retracted, which is final", fix="report a new incident"
            )
        if not case.state.face.versions and not case.state.annex.versions:
            raise ConflictError("the incident is erased here", fix="ask its originator for it")

    def _standing(self, given: Row, fields: Row) -> Case:
        case = self.case(_text(given, "incident"))
        self._check_standing(case)
        fields["incident"] = case.ref
        return case

    def _requested(self, given: Row, fields: Row) -> tuple[Case, RequestState]:
        request_id, asker = self._named(_text(given, "request"))
        rows = self._cases().items_with("followup.request", "request_id", request_id)
        abouts = {(row["subject"], row["owner"]) for row in rows}
        found = [
            (case, each)
            for case in filter(None, (self._known(*about) for about in sorted(abouts)))
            for each in case.state.requests
            if each.request.request_id == request_id and asker in {None, each.author}
        ]
        if len(found) != 1:
            raise NotFoundError(
                f"{'no request' if not found else 'more than one request'} {request_id!r}",
                fix="take the id from the state of the incident; of several, add @ and who asked",
            )
        case, request = found[0]
        self._check_standing(case)
        fields["incident"] = case.ref
        fields["request"] = {"request_id": request_id, "author": request.author}
        return case, request

    def one(self, kind: str, subject: str) -> Row:
        """Return the row of the one record of *kind* that begins *subject*.

        Raises:
            NotFoundError: there is none.
            RequestError: several authorities use the id, and none is named.
        """
        subject, author = self._named(subject)
        rows = [
            row
            for row in self._cases().items_about(subject)
            if row["kind"] == kind and author in {None, row["author"].hex()}
        ]
        if not rows:
            raise NotFoundError(f"nothing of the id {subject!r} is here", fix="check the id")
        if len({row["author"] for row in rows}) > 1:
            raise RequestError(
                "several authorities use this id", fix="add @ and the name of the one that is meant"
            )
        return rows[0]

    def _known(self, incident_id: str, author: bytes) -> Case | None:
        """Return one incident; None if whoever wrote about it named one that is not here."""
        try:
            row = self._cases().incident(incident_id, author=author)
        except NotFoundError:
            return None
        state = self._core.holdings.state(self._cases(), incident_id, author, now=self._clock.now())
        return Case(row, state)

    def _named(self, text: str) -> tuple[str, str | None]:
        """Split what a person typed into an id and, behind ``@``, whose it is (a node id)."""
        plain, _, name = text.partition("@")
        if not name:
            return plain, None
        own = name.casefold() == self._core.card.authority.casefold()
        return plain, (self._core.node_id if own else self._core.trust.find(name).node_id).hex()

    def _notified(self, given: Row, fields: Row) -> tuple[Row, frozenset[bytes]]:
        notified = self.one("pen.notification", _text(given, "pen"))
        fields["pen"] = {"pen_id": notified["subject"], "author": notified["author"].hex()}
        given.setdefault("handling", notified["body"]["handling"])
        return notified, self._core.holdings.readers(notified["envelope_id"])

    def _handle(self, given: Row, case: Case, other: Case | None = None) -> None:
        """Put in the handling of the incident, or check that what was given is not freer.

        Of two incidents the stricter handling counts; how a source was judged is that of *case*.

        Raises:
            RequestError: it is freer.
            InvalidIncidentError: it is none.
        """
        from protocol.incident import parse_handling  # noqa: PLC0415
        from protocol.records_followup import is_at_least, strictest  # noqa: PLC0415

        base: Handling | None = None
        both = (case,) if other is None else (other, case)
        for head in (head for each in both for head in each.state.face.heads):
            handling = head.value.handling  # type: ignore[union-attr]
            base = handling if base is None else strictest(base, handling)
        if "handling" not in given:
            if base is None or not case.state.face.heads:
                raise RequestError(
                    "the face of the incident is not here, so its handling is not known",
                    fix="give the handling",
                )
            given["handling"] = base.model_dump(mode="json", exclude_defaults=True)
        elif base is not None and not is_at_least(parse_handling(given["handling"]), base):
            raise RequestError(
                "the handling is freer than that of the incident",
                fix="leave it out, or make it at least as strict",
            )

    # --- audiences ---------------------------------------------------------------------------
    def _nobody(self, to: Sequence[str], why: str) -> None:
        if to:
            raise RequestError(f"nobody can be named: {why}", fix="leave the recipients out")

    def _group(self, nodes: Iterable[bytes]) -> Group:
        others = tuple(sorted(set(nodes) - {self._core.node_id}))
        if not others:
            raise UnknownRecipientError("nobody would receive it", fix="name at least one peer")
        return Group(others, ())

    def _holders_group(self, case: Case, first: set[bytes], to: Sequence[str]) -> tuple[Group, ...]:
        chosen = first | ({peer.node_id for peer in self._choose(to)} if to else set())
        strangers = [n for n in chosen if n.hex() not in case.state.holders]
        if strangers:
            own = bool(case.row["own"])
            raise UnknownRecipientError(
                f"{min(map(self._name, strangers))} is not known to hold {case.row['ref']} and "
                "must not learn of it this way",
                fix="share the incident with it by an amendment"
                if own
                else "ask the originator to share it",
            )
        return (self._group(chosen),)

    def holders_of_both(self, one: Case, other: Case) -> tuple[set[bytes], set[bytes]]:
        """Return who else holds all that is here of both; and who of them gets nothing now.

        Raises:
            ConflictError: one is retracted or erased.
        """
        for each in (one, other):
            self._check_standing(each)
        both = set(self._in_full(one) & self._in_full(other)) - {self._core.node_id}
        reached = {node for node in both if self._may_receive(node)}
        return reached, both - reached

    def _in_full(self, case: Case) -> frozenset[bytes]:
        """Return who got the newest revision of each layer that is here."""
        readers = self._core.holdings.readers
        layers = [layer.heads for layer in (case.state.face, case.state.annex) if layer.heads]
        held = [
            frozenset().union(
                *(readers(bytes.fromhex(e)) for head in heads for e in head.envelopes)
            )
            for heads in layers
        ]
        return frozenset.intersection(*held) if held else frozenset()

    def _may_receive(self, node: bytes) -> bool:
        try:
            self._core.trust.recipients([node], now=self._clock.now())
        except UnknownRecipientError:
            return False
        return True

    def _told_group(self, told: frozenset[bytes], first: set[bytes], to: Sequence[str]) -> Group:
        chosen = first | ({peer.node_id for peer in self._choose(to)} if to else set())
        if strangers := chosen - told:
            raise UnknownRecipientError(
                f"{min(map(self._name, strangers))} was not told of the shipment",
                fix="only its exporting authority can tell more of it",
            )
        return self._group(chosen)

    def operation_records(self, operation_id: str) -> list[Received]:
        """Return all records of an operation, and those of the incidents that name it."""
        cases, holdings = self._cases(), self._core.holdings
        records = holdings.received(cases.items_about(operation_id))
        for incident_id, author in cases.of_operation(operation_id):
            records += holdings.of_incident(cases, incident_id, author)
        return records


def _text(given: Row, field: str) -> str:
    """Take *field* out of what was given: what a person typed to name something.

    Raises:
        InvalidIncidentError: it is missing, or no text.
    """
    value = given.pop(field, None)
    if not isinstance(value, str) or not value:
        raise InvalidIncidentError(
            f"/{field}: is required", fix="name it by its id",
            problems=[(f"/{field}", "missing", "is required")],
        )  # fmt: skip
    return value


def _texts(given: Row, field: str) -> list[str]:
    value = given.pop(field, None)
    if not isinstance(value, list) or not all(isinstance(each, str) for each in value):
        raise InvalidIncidentError(
            f"/{field}: is a list of names of peers", fix="name at least one",
            problems=[(f"/{field}", "missing", "is a list of names of peers")],
        )  # fmt: skip
    return value
