"""Writing records about incidents: amend, retract, follow up, notify; and what comes of them.

- Whoever writes gives what a person knows; ids, times and the audience are put in here. Nothing is
  released that a recipient would have to ignore by the rules of ``protocol.state``.
- What is written about an incident goes to nobody who is not known to hold it.
- An amendment goes to exactly those who got the layers before, in the same groups, unless somebody
  is added or left out. Who is left out keeps what it has: nothing is taken back by that.
- ``token`` names one act of the caller: done again with the same token, nothing is released twice.
- The digest of a preview covers who gets what; a release may repeat it to show that it was seen.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from keys.identity import Random
from keys.trust import Peer
from node import record_rows
from node.clock import Clock, rfc3339
from node.core import Core, Shipment
from node.enclosures import Copies, Enclosures
from node.record_audience import Group, audiences_of, narrowed
from node.record_planning import OWN_ID, Case, Planning
from node.words import counted
from protocol import envelope, limits, suite
from protocol.canonical import encode
from protocol.errors import (
    BusyError,
    ConflictError,
    InvalidIncidentError,
    PeerError,
    RequestError,
    UnknownRecipientError,
)

if TYPE_CHECKING:
    from node.casebook import Casebook
    from protocol.blob import BlobRef
    from protocol.incident import Incident
    from protocol.records import AnyItem
    from protocol.reference import Substances

Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Plan:
    """What is to be released: a record, and the groups that get it.

    ``build`` makes the body for one group; ``digest`` covers what was given and who gets it.
    """

    kind: str
    about: str
    groups: tuple[Group, ...]
    build: Callable[[Group], tuple[Mapping[str, Any], tuple[bytes, ...]]]
    digest: str
    fresh: bool = False
    discard: Callable[[], None] = lambda: None


class Recording:
    """The desk for records about incidents."""

    def __init__(
        self,
        core: Core,
        *,
        clock: Clock,
        random: Random,
        enclosures: Enclosures,
        name: Callable[[bytes], str],
        find: Callable[[str], Row],
        choose: Callable[[Sequence[str]], tuple[Peer, ...]],
        known: Callable[[], Substances],
    ) -> None:
        """Serve *core*.

        Args:
            core: the node.
            clock: where times come from.
            random: where ids come from that no token names.
            enclosures: the attachments.
            name: how to call a node id.
            find: an incident by what a person typed.
            choose: peers by what a person typed.
            known: the substances by which warnings judge.
        """
        self._core, self._clock, self._random = core, clock, random
        self._enclosures, self._name, self._choose = enclosures, name, choose
        self._known = known
        self._planning = Planning(core, clock=clock, name=name, find=find, choose=choose)

    # --- states ------------------------------------------------------------------------------
    def state(self, key: str) -> Row:
        """Return the state of an incident now: revisions, follow-up, acknowledgements, links.

        Raises:
            NotFoundError: there is none of that id or reference.
        """
        found: Row = record_rows.row(self._planning.case(key).state, self._name)
        return found

    def operation(self, operation_id: str) -> Row:
        """Return the state of an operation now, with the tally of this node's own records.

        Raises:
            NotFoundError: there is none of that id.
            RequestError: several convenors use the id.
        """
        from protocol.state_operations import operation_state  # noqa: PLC0415

        opening = self._planning.one("operation.open", operation_id)
        operation_id = opening["subject"]
        records = self._planning.operation_records(operation_id)
        state = operation_state(
            operation_id, opening["author"].hex(), records, now=self._clock.now()
        )
        found: Row = record_rows.row(state, self._name)
        return found

    def shipment(self, pen_id: str) -> Row:
        """Return the state of a notified shipment now.

        Raises:
            NotFoundError: there is none of that id.
            RequestError: several authorities use the id.
        """
        from protocol.state_operations import pen_state  # noqa: PLC0415

        notified = self._planning.one("pen.notification", pen_id)
        pen_id = notified["subject"]
        records = self._core.holdings.received(self._cases().items_about(pen_id))
        state = pen_state(pen_id, notified["author"].hex(), records, now=self._clock.now())
        found: Row = record_rows.row(state, self._name)
        return found

    def alerts(self) -> Row:
        """Return the alerts that hold now."""
        from protocol.state_operations import active_alerts  # noqa: PLC0415

        records = self._core.holdings.received(self._cases().items(("alert.special",)))
        found = active_alerts(records, now=self._clock.now())
        return {"items": record_rows.row(found, self._name)}

    def reference_list(self, name: str, peer: str) -> Row:
        """Return the newest whole version of the list *name* that *peer* sent.

        Raises:
            NotFoundError: no such peer is known.
        """
        from protocol.state_operations import list_state  # noqa: PLC0415

        author = self._core.trust.find(peer).node_id
        records = self._core.holdings.received(self._cases().items_of(name, author))
        found: Row = record_rows.row(list_state(name, author.hex(), records), self._name)
        return found

    def notices(self) -> Iterator[tuple[str, str, str]]:
        """Return what a person must know: code, cause and fix."""
        waiting = len(self._core.cases.condemned()) if self._core.cases is not None else 0
        if waiting:
            message = f"{counted(waiting, 'incident')} retracted under law could not be erased yet"
            yield "retraction-waits", message, "free some disk space, or renew the sealing key"

    def _cases(self) -> Casebook:
        return self._core.opened()[1]

    # --- amending ----------------------------------------------------------------------------
    def draft_amend(self, key: str) -> Row:
        """Return an incident of ours as it stands, to be changed and given to ``release_amend``.

        Raises:
            NotFoundError: there is none of that id or reference.
            ConflictError: it is another's, or retracted.
        """
        case = self._planning.own(key)
        heads = {"face": case.state.face.current, "annex": case.state.annex.current}
        data = {
            name: record_rows.row(head.value, self._name)
            for name, head in heads.items()
            if head is not None
        }
        _without_computed(data.get("face", {}))
        return {
            "id": case.row["incident_id"], "ref": case.row["ref"],
            "revision": case.row["revision"] + 1, "incident": data,
        }  # fmt: skip

    def preview_amend(
        self, key: str, data: Mapping[str, Any], *, note: str | None = None,
        also_to: Sequence[str] = (), annex_also_to: Sequence[str] = (),
        without: Sequence[str] = (),
    ) -> Row:  # fmt: skip
        """Return what an amendment would change, who would get it, and the digest of that.

        Raises:
            InvalidIncidentError: *data* breaks the model; lists every problem.
            ConflictError: the incident is another's, or retracted.
            UnknownRecipientError: somebody chosen may not receive.
        """
        from protocol.changes import changes  # noqa: PLC0415
        from protocol.doubts import warnings  # noqa: PLC0415

        plan, case, parsed = self._plan_amend(
            key, data, note=note, also_to=also_to, annex_also_to=annex_also_to, without=without
        )
        changed = {}
        for layer, head in (("face", case.state.face.current), ("annex", case.state.annex.current)):
            after = getattr(parsed, layer)
            shown = [None if each is None else record_rows.row(each, self._name)
                     for each in (None if head is None else head.value, after)]  # fmt: skip
            for each in shown:
                _without_computed(each or {})
            changed[layer] = record_rows.row(changes(*shown), self._name)
        return {
            **self._preview(plan),
            "changes": changed,
            "left_out_keep_what_they_have": sorted(self._left_out(case, plan)),
            "warnings": [
                {"pointer": w.pointer, "code": w.code, "message": w.message}
                for w in warnings(parsed, self._known())
            ],
            "attachments_without_content": self._enclosures.without_content(parsed),
        }

    def release_amend(
        self, key: str, data: Mapping[str, Any], *, note: str | None = None,
        also_to: Sequence[str] = (), annex_also_to: Sequence[str] = (),
        without: Sequence[str] = (), digest: str | None = None, token: str | None = None,
    ) -> Row:  # fmt: skip
        """Release a whole new revision of an incident of ours.

        Raises:
            InvalidIncidentError: *data* breaks the model; lists every problem.
            ConflictError: the incident is another's, or retracted, or the preview's digest differs.
            UnknownRecipientError: somebody chosen may not receive; nothing was released.
            BusyError: the outbox or disk is full; nothing was released.
        """
        seed = self._seed(token)
        if (done := self._done(seed)) is not None:
            return done
        plan, _, _ = self._plan_amend(
            key, data, note=note, also_to=also_to, annex_also_to=annex_also_to, without=without,
            copy=True,
        )  # fmt: skip
        return self._release(plan, seed, digest)

    def _plan_amend(
        self, key: str, data: Mapping[str, Any], *, note: str | None, also_to: Sequence[str],
        annex_also_to: Sequence[str], without: Sequence[str], copy: bool = False,
    ) -> tuple[Plan, Case, Incident]:  # fmt: skip
        from protocol import incident as model  # noqa: PLC0415
        from protocol.records import Amend, make_record, to_body  # noqa: PLC0415

        self._check_note(note)
        case = self._planning.own(key)
        parsed = model.parse_incident(data)
        whole = ("face",) if parsed.annex is None else model.LAYERS
        groups = self._amend_groups(case, whole, also_to, annex_also_to, without)
        layers = (("face", case.state.face), ("annex", case.state.annex))
        prev = {name: layer.current.digest for name, layer in layers if layer.current is not None}
        kept = {group: self._shared_before(case, parsed, group) for group in groups}
        copies = self._copies(parsed, kept) if copy else None
        now, revision = rfc3339(self._clock.now()), case.row["revision"] + 1

        def build(group: Group) -> tuple[Mapping[str, Any], tuple[bytes, ...]]:
            new = {} if copies is None else copies.of(group.to)
            new = {sha256: ref for sha256, ref in new.items() if sha256 not in kept[group]}
            refs = {**new, **kept[group]} if "annex" in group.layers else {}
            self._enclosures.check_unshared(new)
            whole_record = model.to_record(
                model.enclose(parsed, refs), incident_id=case.row["incident_id"],
                ref=case.row["ref"], revision=revision, prev=None, layers=frozenset(group.layers),
                first_shared_at=now,
            )  # fmt: skip
            record = make_record(
                Amend.KIND,
                {
                    "incident_id": case.row["incident_id"], "ref": case.row["ref"],
                    "revision": revision, "layers": list(whole), "shared_at": now,
                    "prev": {n: d for n, d in prev.items() if n in group.layers},
                    **({} if note is None else {"change_note": note}),
                    **{n: whole_record[n] for n in model.LAYERS if n in whole_record},
                },
            )  # fmt: skip
            return to_body(record), tuple(ref.id for ref in refs.values())

        plan = Plan(
            "incident.amend", case.row["incident_id"], groups, build,
            self._digest("incident.amend", {"data": data, "note": note}, groups),
            discard=(lambda: None) if copies is None else copies.discard,
        )  # fmt: skip
        return plan, case, parsed

    def _shared_before(self, case: Case, parsed: Incident, group: Group) -> dict[str, BlobRef]:
        """Return the blobs of attachments that this audience, and no other, was told of before."""
        named = parsed.annex.attachments if parsed.annex is not None else ()
        audience = {*group.to, self._core.node_id}
        return {
            each.sha256: row["ref"]
            for each in named
            for row in self._cases().attachments(sha256=bytes.fromhex(each.sha256))
            if row["ref"].size == each.size
            and (row["incident_id"], row["author"]) == (case.row["incident_id"], self._core.node_id)
            and self._core.holdings.readers(row["envelope_id"]) == audience
        }

    def _copies(
        self, parsed: Incident, kept: Mapping[Group, Mapping[str, BlobRef]]
    ) -> Copies | None:
        """Encrypt what an audience has not got yet: each gets attachments of its own."""
        groups = [group for group in kept if "annex" in group.layers]
        copies = self._enclosures.copies(parsed, [group.to for group in groups])
        if copies is None:
            return None
        have = {(group.to, sha256) for group in groups for sha256 in kept[group]}
        wishes = tuple(w for w in copies.wishes if (w.audience, w.sha256) not in have)
        copies = replace(copies, wishes=wishes)
        copies.make()
        return copies

    def _check_note(self, note: str | None) -> None:
        if note is not None and not 0 < len(note) <= limits.MAX_NOTE_TEXT:
            raise RequestError(
                f"the note is empty or longer than {limits.MAX_NOTE_TEXT} characters",
                fix="say in one sentence what changed; name no person",
            )

    def _amend_groups(
        self, case: Case, whole: Sequence[str], also_to: Sequence[str],
        annex_also_to: Sequence[str], without: Sequence[str],
    ) -> tuple[Group, ...]:  # fmt: skip
        out = {peer.node_id for peer in self._choose(without)} if without else set()
        before = audiences_of(self._core, self._cases(), case.row)
        groups = narrowed(before, leave_out=out, layers=whole)
        have = {node: group for group in groups for node in group.to}
        added = self._choose(also_to) if also_to else ()
        annex = {peer.node_id for peer in (self._choose(annex_also_to) if annex_also_to else ())}
        face_too = {peer.node_id for peer in added} | set(have)
        if stray := sorted(self._name(node) for node in annex - face_too):
            raise UnknownRecipientError(
                f"{stray[0]} would receive the annex but not the face",
                fix="name it among the new recipients of the face too",
            )
        has_annex = {node for group in groups if "annex" in group.layers for node in group.to}
        fresh = {peer.node_id for peer in added} - set(have)
        more: list[Group] = []
        if fresh:
            both = fresh & annex if "annex" in whole else set()
            more += [Group(tuple(sorted(both)), tuple(whole))] if both else []
            more += [Group(tuple(sorted(fresh - both)), ("face",))] if fresh - both else []
        late = annex - fresh - has_annex
        if late and "annex" in whole:
            more.append(Group(tuple(sorted(late)), ("annex",)))
        if not groups and not more:
            raise UnknownRecipientError(
                "nobody would receive the amendment", fix="name somebody, or leave fewer out"
            )
        return (*groups, *more)

    def _left_out(self, case: Case, plan: Plan) -> set[str]:
        reached = {node.hex() for group in plan.groups for node in group.to}
        gone = case.state.holders - reached - {self._core.node_id.hex()}
        return {self._name(bytes.fromhex(node)) for node in gone}

    # --- all other kinds ---------------------------------------------------------------------
    def preview(self, kind: str, data: Mapping[str, Any], *, to: Sequence[str] = ()) -> Row:
        """Return who would get a record of *kind*, and the digest of that.

        Raises:
            As ``release``.
        """
        plan, record = self._plan(kind, data, to, suite.digest("record-preview"))
        return {**self._preview(plan), "record": record_rows.row(record, self._name)}

    def holders_of_both(self, key: str, other: str) -> tuple[set[bytes], set[bytes]]:
        """Return who else holds all that is here of two incidents; and who of them gets nothing.

        The second are those that may not receive from this node now.

        Raises:
            NotFoundError: there is none of such an id or reference.
            ConflictError: one is a draft, retracted or erased.
        """
        return self._planning.holders_of_both(*map(self._planning.case, (key, other)))

    def released_under(self, token: str) -> Row | None:
        """Return what an act with *token* released, as ``release`` does; None if nothing."""
        return self._done(self._seed(token))

    def release(
        self, kind: str, data: Mapping[str, Any], *, to: Sequence[str] = (),
        digest: str | None = None, token: str | None = None,
    ) -> Row:  # fmt: skip
        """Release a record about an incident, an operation or a shipment.

        Args:
            kind: of ``protocol.records``; amendments have ``release_amend``.
            data: the fields of the record, as a person gives them. ``incident``, ``target`` and
                ``duplicate_of`` are ids or references; ``request``, ``operation`` and ``pen`` are
                ids; ``to`` and ``participants`` are names of peers. Ids, times, who wrote what, and
                handling where it is left out are put in. ``both``, which is true, lets a link go to
                those alone who hold all that is here of both incidents.
            to: peers that are to get it besides; for alerts and lists all who get it.
            digest: of the preview.
            token: names this act, so that it is not done twice.

        Raises:
            InvalidIncidentError: a field breaks the model; lists every problem.
            NotFoundError: what it is about is not here.
            ConflictError: the state of what it is about does not allow it.
            UnknownRecipientError: somebody may not get it; nothing was released.
            BusyError: the outbox or disk is full; nothing was released.
        """
        seed = self._seed(token)
        if (done := self._done(seed)) is not None:
            return done
        plan, _ = self._plan(kind, data, to, seed)
        return self._release(plan, seed, digest)

    def _plan(
        self, kind: str, data: Mapping[str, Any], to: Sequence[str], seed: bytes
    ) -> tuple[Plan, AnyItem]:
        from protocol.records import make_record, subject_of, to_body  # noqa: PLC0415

        fields: Row = {"at": rfc3339(self._clock.now())}
        given = dict(data)
        own_id = OWN_ID.get(kind)
        if own_id is not None:
            fields[own_id] = str(uuid.UUID(bytes=suite.digest("record-id", seed)[:16], version=4))
        groups = self._planning.groups(kind, given, to, fields)
        record = make_record(kind, {**given, **fields})
        body = to_body(record)
        about, _ = subject_of(record, self._core.node_id.hex())
        plan = Plan(
            kind, about, groups, lambda _: (body, ()), self._digest(kind, dict(data), groups),
            fresh=kind == "incident.retract" and getattr(record, "erases", False),
        )  # fmt: skip
        return plan, record

    # --- releasing ---------------------------------------------------------------------------
    def _digest(self, kind: str, data: object, groups: Sequence[Group]) -> str:
        given = json.dumps(data, sort_keys=True, ensure_ascii=True, default=str).encode()
        parts = [[list(g.to), list(g.layers), list(g.carriers)] for g in groups]
        what = encode([kind, suite.digest("record-given", given), parts])
        return suite.digest("record-preview", what).hex()

    def _preview(self, plan: Plan) -> Row:
        involved = {node for group in plan.groups for node in (*group.to, *group.carriers)}
        peers = self._core.trust.peers
        self._cards(plan)
        return {
            "kind": plan.kind, "about": plan.about, "digest": plan.digest,
            "envelopes": [
                {
                    "to": sorted(map(self._name, group.to), key=str.casefold),
                    "layers": list(group.layers),
                    "carriers": sorted(map(self._name, group.carriers), key=str.casefold),
                }
                for group in plan.groups
            ],
            "will_not_receive": sorted(
                (self._name(node) for node in peers if node not in involved), key=str.casefold
            ),
        }  # fmt: skip

    def _cards(self, plan: Plan) -> None:
        """Check that all may receive now.

        Raises:
            UnknownRecipientError: one may not; it can be left out of an amendment.
        """
        for group in plan.groups:
            self._core.trust.recipients(group.to, now=self._clock.now())
            self._core.trust.carriers(group.carriers)

    def _seed(self, token: str | None) -> bytes:
        if token is None:
            return self._random(32)
        if not 0 < len(token) <= limits.MAX_NAME:
            raise RequestError("the token has 1 to 256 characters", fix="use a UUID")
        return suite.digest("record-token", token.encode())

    def _done(self, seed: bytes) -> Row | None:
        """Return what was released under *seed* before, if anything was."""
        rows = self._core.store.rows(
            "SELECT envelope_id FROM releases WHERE token = ? ORDER BY rowid", seed
        )
        return None if not rows else self._released([row["envelope_id"] for row in rows], new=False)

    def _released(self, ids: Sequence[bytes], *, new: bool) -> Row:
        readers = {n for each in ids for n in self._core.holdings.readers(each)}
        item = self._cases().item(ids[0])
        return {
            "envelopes": [each.hex() for each in ids],
            "recipients": sorted(map(self._name, readers - {self._core.node_id})),
            "new": new,
            "kind": None if item is None else item["kind"],
            "about": None if item is None else item["subject"],
            "id": None if item is None else item["body"].get(OWN_ID.get(item["kind"], "")),
        }

    def _release(self, plan: Plan, seed: bytes, digest: str | None) -> Row:
        try:
            self._check_seen(plan, digest)
            ids = self._core.release(seed, [self._shipment(plan, group) for group in plan.groups])
        except BaseException:
            plan.discard()
            raise
        self._core.try_follow()
        if self._core.behind is not None:
            raise BusyError(
                "it is released and will be delivered, but case.db cannot be written",
                fix="free some disk space; do not release it again",
            )
        return self._released(ids, new=True)

    def _check_seen(self, plan: Plan, digest: str | None) -> None:
        if digest is not None and digest != plan.digest:
            raise ConflictError(
                "the record or its audience is not that of the preview",
                fix="look at the preview again",
            )

    def _shipment(self, plan: Plan, group: Group) -> Shipment:
        cards = self._core.trust.recipients(group.to, now=self._clock.now())
        carriers = self._core.trust.carriers(group.carriers)
        value, blobs = plan.build(group)
        try:
            body = encode(dict(value))
            envelope.pad(body)
        except PeerError as error:
            raise InvalidIncidentError(
                f"the record cannot be sealed: {error.message}",
                fix=error.fix or "remove the named characters",
                problems=[("", error.code, error.message)],
            ) from None
        return Shipment(body, " ".join(group.layers), cards, carriers, blobs, plan.fresh)


def _without_computed(face: Row) -> None:
    """Take out of a face what the node says of it at each release."""
    for name in ("anchors", "personal_data"):
        face.pop(name, None)
