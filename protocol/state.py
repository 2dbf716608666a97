"""The state of an incident as a pure function of the *set* of its records.

- The same records give the same state in whatever order they came, and however often.
- Only the originator's revisions and retraction count. What somebody wrote without the right to is
  never applied; it is listed under ``ignored`` with the reason.
- A response counts if its author was asked, an acknowledgement if its author got the incident, a
  message if its author is party to the request.
- Two different layers of one number by the originator are a conflict: both are shown, and neither
  is picked.
- A retraction is final. Under law (``ERASING``) nothing of the content is left in the state.
- Who holds an incident is known from the recipients of what its originator sent about it; of those
  who got it separately a node knows nothing, and takes nothing from them.
- What is written about an incident is shown under the stricter of its own handling and that of the
  incident.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Final, TypeAlias

from protocol import vocabulary as v
from protocol.canonical import encode
from protocol.changes import Change, changes
from protocol.incident import Annex, Face, Handling, Record
from protocol.record_fields import IncidentRef, RequestRef, to_ms
from protocol.records import AnyItem, AnyRecord, to_body
from protocol.records_followup import FollowupRequest, FollowupResponse, ThreadMessage, strictest
from protocol.records_incident import Ack, Amend, LinkAssert, Retract, layer_digest

MAX_ESCALATION: Final = 3

NOT_ORIGINATOR: Final = "only the originator amends or retracts an incident"
NOT_HOLDER: Final = "its author is not known to hold the incident"
NOT_RECIPIENT: Final = "only a recipient acknowledges an incident"
NOT_ASKED: Final = "its author was not asked"
NO_REQUEST: Final = "the request is not here"
NOT_PARTY: Final = "its author is not party to the request"
NOBODY_ASKED: Final = "it asks nobody who is known to hold the incident"
SECOND_REQUEST: Final = "its author gave another request this id"

Layer: TypeAlias = Face | Annex


@dataclass(frozen=True, slots=True)
class Received:
    """One opened record, with what its envelope says of it; ids are lower-case hex.

    ``recipients`` are those of the envelope without carriers. ``log_index`` is for people and
    readers that page: nothing depends on it.
    """

    author: str
    envelope_id: str
    log_index: int
    recipients: frozenset[str]
    record: AnyRecord


@dataclass(frozen=True, slots=True)
class Ignored:
    """A record that is not applied, and why."""

    envelope_id: str
    author: str
    kind: str
    reason: str


@dataclass(frozen=True, slots=True)
class Version:
    """One layer of one revision.

    ``follows`` is False if the layer of the revision before that is here is another one than the
    version names, None if there is none here, and True otherwise. ``changes`` are those since the
    version that it names.
    """

    revision: int
    digest: str
    prev: str | None
    value: Layer
    note: str | None
    shared_at: str
    envelopes: tuple[str, ...]
    follows: bool | None
    changes: tuple[Change, ...]


@dataclass(frozen=True, slots=True)
class LayerState:
    """All versions of one layer, by number; ``heads`` are those of the highest, two in a conflict.

    ``removed_in`` is the revision that left the layer out; None for a layer that never was here.
    """

    versions: tuple[Version, ...] = ()
    heads: tuple[Version, ...] = ()
    conflicts: tuple[int, ...] = ()
    removed_in: int | None = None

    @property
    def current(self) -> Version | None:
        """The one version to show; None if there is none, or a conflict."""
        return self.heads[0] if len(self.heads) == 1 else None


@dataclass(frozen=True, slots=True)
class Acknowledged:
    """How far one recipient has got: the highest level, and when it reached which."""

    recipient: str
    level: str
    revision: int
    unit: str | None
    reached: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Answer:
    """What one of those asked has answered: ``state`` is open, interim, or a closing outcome."""

    asked: str
    state: str
    responses: tuple[FollowupResponse, ...]
    overdue: bool
    escalation: int


@dataclass(frozen=True, slots=True)
class RequestState:
    """A request: answered once all have closed it, else overdue, interim or open at ``now``.

    ``escalation`` counts how often the time allowed has passed, up to MAX_ESCALATION.
    """

    author: str
    envelope_id: str
    request: FollowupRequest
    state: str
    escalation: int
    answers: tuple[Answer, ...]
    handling: Handling


@dataclass(frozen=True, slots=True)
class Message:
    """One message of the talk about a request."""

    author: str
    envelope_id: str
    message: ThreadMessage
    handling: Handling


@dataclass(frozen=True, slots=True)
class Linked:
    """A link that a holder asserts."""

    author: str
    envelope_id: str
    link: LinkAssert


@dataclass(frozen=True, slots=True)
class IncidentState:
    """What an incident has come to at ``now``."""

    incident_id: str
    originator: str
    revision: int
    face: LayerState
    annex: LayerState
    retracted: Retract | None
    holders: frozenset[str]
    acks: tuple[Acknowledged, ...]
    requests: tuple[RequestState, ...]
    thread: tuple[Message, ...]
    links: tuple[Linked, ...]
    duplicate_of: tuple[str, ...]
    ignored: tuple[Ignored, ...]

    @property
    def conflict(self) -> bool:
        """Whether the originator contradicts itself."""
        return bool(self.face.conflicts or self.annex.conflicts)

    @property
    def erased(self) -> bool:
        """Whether the content must be gone."""
        return self.retracted is not None and self.retracted.erases


# --- sets of records -------------------------------------------------------------------------
def kind_of(record: AnyRecord) -> str:
    """Return the kind of *record*."""
    return "incident.report" if isinstance(record, Record) else record.KIND


def distinct(records: Iterable[Received]) -> list[Received]:
    """Return *records* in an order of their own, each envelope once."""
    return [each for _, each in sorted({r.envelope_id: r for r in records}.items())]


def canonical(record: AnyItem) -> bytes:
    """Return bytes that are the same for equal records, to order and compare them by."""
    return encode(to_body(record))


def merged(records: Sequence[Received]) -> list[Received]:
    """Return *records* of one kind with copies that one author sent separately made one."""
    found: dict[tuple[str, bytes], Received] = {}
    for each in records:
        assert not isinstance(each.record, Record)  # noqa: S101  the caller's promise
        key = (each.author, canonical(each.record))
        known = found.get(key)
        found[key] = each if known is None else replace(
            known, recipients=known.recipients | each.recipients
        )  # fmt: skip
    return [found[key] for key in sorted(found)]


# --- the incident ----------------------------------------------------------------------------
def incident_state(
    incident_id: str, originator: str, records: Iterable[Received], *, now: int
) -> IncidentState:
    """Return the state of the incident *incident_id* of *originator* at *now* (UTC in ms).

    Records about anything else are passed over, but for amendments and retractions of others under
    the same id: these are ignored by name.
    """
    ref = IncidentRef(incident_id=incident_id, author=originator)
    about, ignored = _about(ref, distinct(records))
    revisions = [each for each in about if isinstance(each.record, Record | Amend)]
    face, annex = _layer("face", ref, revisions), _layer("annex", ref, revisions)
    retracted = _retracted(about)
    holders = frozenset(
        node for each in about if each.author == originator for node in each.recipients
    ) | {originator}
    base = _handling(face)
    requests, thread = _followups(about, holders, base, ignored, now)
    state = IncidentState(
        incident_id=incident_id,
        originator=originator,
        revision=max((each.record.revision for each in revisions
                      if isinstance(each.record, Record | Amend)), default=0),
        face=face,
        annex=annex,
        retracted=retracted,
        holders=holders,
        acks=_acks(about, originator, holders, ignored),
        requests=requests,
        thread=thread,
        links=_links(about, holders, ignored),
        duplicate_of=_duplicate_of(ref, about, face, retracted),
        ignored=(),
    )  # fmt: skip
    if state.erased:
        # What others wrote about it may repeat what must be gone.
        state = replace(
            state,
            face=LayerState(),
            annex=LayerState(),
            requests=(),
            thread=(),
            links=(),
            duplicate_of=_duplicate_of(ref, (), LayerState(), retracted),
        )
    return replace(state, ignored=tuple(sorted(ignored, key=lambda i: (i.envelope_id, i.reason))))


def _about(ref: IncidentRef, records: Sequence[Received]) -> tuple[list[Received], list[Ignored]]:
    """Return what is about the incident, and what others wrote as if it were theirs to change."""
    own = {
        each.author
        for each in records
        if isinstance(each.record, Record) and each.record.incident_id == ref.incident_id
    }
    about: list[Received] = []
    ignored: list[Ignored] = []
    for each in records:
        match each.record:
            case Record() | Amend() | Retract() if each.author == ref.author:
                if each.record.incident_id == ref.incident_id:
                    about.append(each)
            case Amend() | Retract():
                # Whoever has an incident of its own under this id changes that one.
                if each.record.incident_id == ref.incident_id and each.author not in own:
                    ignored.append(_ignored(each, NOT_ORIGINATOR))
            case LinkAssert():
                if ref in {each.record.incident, each.record.target}:
                    about.append(each)
            case Ack() | FollowupRequest() | FollowupResponse() | ThreadMessage():
                if each.record.incident == ref:
                    about.append(each)
            case _:
                pass
    return about, ignored


def _ignored(received: Received, reason: str) -> Ignored:
    return Ignored(received.envelope_id, received.author, kind_of(received.record), reason)


def _retracted(about: Sequence[Received]) -> Retract | None:
    """Return the retraction that counts: one under law before any other, then the earliest."""
    found = [each.record for each in about if isinstance(each.record, Retract)]
    return min(found, key=lambda r: (not r.erases, to_ms(r.at), canonical(r)), default=None)


# --- layers ----------------------------------------------------------------------------------
def _layer(name: str, ref: IncidentRef, revisions: Sequence[Received]) -> LayerState:
    found: dict[tuple[int, str], Version] = {}
    for each in revisions:
        version = _version(name, ref, each)
        if version is None:
            continue
        key = (version.revision, version.digest)
        known = found.get(key)
        found[key] = version if known is None else _together(known, version)
    ordered = [found[key] for key in sorted(found)]
    versions = tuple(_compared(version, ordered) for version in ordered)
    numbers = [version.revision for version in versions]
    conflicts = tuple(sorted({n for n in numbers if numbers.count(n) > 1}))
    removed = _removed_in(name, revisions)
    if removed is not None and numbers and removed > max(numbers):
        return LayerState(versions, (), conflicts, removed)
    heads = tuple(version for version in versions if version.revision == max(numbers))
    return LayerState(versions, heads, conflicts)


def _version(name: str, ref: IncidentRef, received: Received) -> Version | None:
    record = received.record
    assert isinstance(record, Record | Amend)  # noqa: S101  the caller's promise
    value: Layer | None = record.face if name == "face" else record.annex
    if value is None:
        return None
    if isinstance(record, Record):
        prev, note, at = None, None, record.first_shared_at
    else:
        prev = record.prev.face if name == "face" else record.prev.annex
        note, at = record.change_note, record.shared_at
    digest = layer_digest(
        name, value, incident_id=ref.incident_id, revision=record.revision, prev=prev
    )
    return Version(
        record.revision, digest, prev, value, note, at, (received.envelope_id,), None, ()
    )


def _together(one: Version, other: Version) -> Version:
    """Return one version of two copies that went to different audiences."""
    at, note, envelope_id = min(
        (each.shared_at, each.note or "", each.envelopes[0]) for each in (one, other)
    )
    first = one if envelope_id in one.envelopes else other
    envelopes = tuple(sorted({*one.envelopes, *other.envelopes}))
    return replace(first, shared_at=at, note=note or one.note or other.note, envelopes=envelopes)


def _compared(version: Version, versions: Sequence[Version]) -> Version:
    before = [each for each in versions if each.revision == version.revision - 1]
    named = [each for each in before if each.digest == version.prev]
    if named:
        old, new = (each.value.model_dump(mode="json", exclude_defaults=True)
                    for each in (named[0], version))  # fmt: skip
        return replace(version, follows=True, changes=changes(old, new))
    if version.prev is None and not before:
        return replace(version, follows=True)
    return replace(version, follows=False if before else None)


def _removed_in(name: str, revisions: Sequence[Received]) -> int | None:
    """Return the newest revision if all that came of it say that it has no such layer."""
    amends = [each.record for each in revisions if isinstance(each.record, Amend)]
    newest = max((each.revision for each in amends), default=None)
    said = {name in each.layers for each in amends if each.revision == newest}
    return newest if said == {False} else None


def _handling(face: LayerState) -> Handling | None:
    """Return the handling of the incident; in a conflict, the strictest of both."""
    found: Handling | None = None
    for version in face.heads:
        assert isinstance(version.value, Face)  # noqa: S101  it is of the layer face
        handling = version.value.handling
        found = handling if found is None else strictest(found, handling)
    return found


# --- acknowledgements and links --------------------------------------------------------------
def _acks(
    about: Sequence[Received], originator: str, holders: frozenset[str], ignored: list[Ignored]
) -> tuple[Acknowledged, ...]:
    by_recipient: dict[str, list[Ack]] = defaultdict(list)
    for each in about:
        if not isinstance(each.record, Ack):
            continue
        if each.author == originator or each.author not in holders:
            ignored.append(_ignored(each, NOT_RECIPIENT))
        else:
            by_recipient[each.author].append(each.record)
    found = []
    for recipient, acks in sorted(by_recipient.items()):
        reached = {
            level: min((ack.at for ack in acks if ack.level == level), key=_time)
            for level in v.ACK_LEVEL
            if any(ack.level == level for ack in acks)
        }
        top = max(
            acks, key=lambda a: (v.ACK_LEVEL.index(a.level), a.revision, to_ms(a.at), canonical(a))
        )
        found.append(
            Acknowledged(recipient, top.level, top.revision, top.unit, tuple(reached.items()))
        )
    return tuple(found)


def _time(text: str) -> tuple[int, str]:
    return to_ms(text), text


def _links(
    about: Sequence[Received], holders: frozenset[str], ignored: list[Ignored]
) -> tuple[Linked, ...]:
    found = []
    for each in merged([r for r in about if isinstance(r.record, LinkAssert)]):
        assert isinstance(each.record, LinkAssert)  # noqa: S101  just selected
        if each.author in holders:
            found.append(Linked(each.author, each.envelope_id, each.record))
        else:
            ignored.append(_ignored(each, NOT_HOLDER))
    return tuple(sorted(found, key=lambda link: (to_ms(link.link.at), canonical(link.link))))


def _duplicate_of(
    ref: IncidentRef, about: Sequence[Received], face: LayerState, retracted: Retract | None
) -> tuple[str, ...]:
    """Return the ids or references of which the originator itself says that this is a duplicate."""
    found = set()
    for version in face.heads:
        assert isinstance(version.value, Face)  # noqa: S101  it is of the layer face
        found |= {link.target for link in version.value.links if link.kind == "duplicate_of"}
    for each in about:
        link = each.record
        own = isinstance(link, LinkAssert) and each.author == ref.author and link.incident == ref
        if own and isinstance(link, LinkAssert) and link.kind == "duplicate_of":
            found.add(f"{link.target.incident_id}@{link.target.author}")
    if retracted is not None and retracted.duplicate_of is not None:
        other = retracted.duplicate_of
        found.add(f"{other.incident_id}@{other.author}")
    return tuple(sorted(found))


# --- follow-up -------------------------------------------------------------------------------
def _followups(
    about: Sequence[Received],
    holders: frozenset[str],
    base: Handling | None,
    ignored: list[Ignored],
    now: int,
) -> tuple[tuple[RequestState, ...], tuple[Message, ...]]:
    requests = _requests(about, holders, ignored)
    asked = {key: _asked(each, holders) for key, each in requests.items()}
    responses: dict[tuple[RequestRef, str], list[FollowupResponse]] = defaultdict(list)
    for each in merged([r for r in about if isinstance(r.record, FollowupResponse)]):
        response = each.record
        assert isinstance(response, FollowupResponse)  # noqa: S101  just selected
        if response.request not in requests:
            ignored.append(_ignored(each, NO_REQUEST))
        elif each.author not in asked[response.request]:
            ignored.append(_ignored(each, NOT_ASKED))
        else:
            responses[response.request, each.author].append(response)
    states = [
        _request_state(
            each, [_answer(node, responses[key, node], each, now) for node in asked[key]], base
        )
        for key, each in requests.items()
    ]
    thread = []
    for each in merged([r for r in about if isinstance(r.record, ThreadMessage)]):
        message = each.record
        assert isinstance(message, ThreadMessage)  # noqa: S101  just selected
        if message.request not in requests:
            ignored.append(_ignored(each, NO_REQUEST))
        elif each.author not in {message.request.author, *asked[message.request]}:
            ignored.append(_ignored(each, NOT_PARTY))
        else:
            thread.append(
                Message(each.author, each.envelope_id, message, _shown(base, message.handling))
            )
    return (
        tuple(sorted(states, key=lambda s: (to_ms(s.request.at), s.author, s.envelope_id))),
        tuple(sorted(thread, key=lambda m: (to_ms(m.message.at), m.author, canonical(m.message)))),
    )


def _shown(base: Handling | None, handling: Handling) -> Handling:
    return handling if base is None else strictest(base, handling)


def _requests(
    about: Sequence[Received], holders: frozenset[str], ignored: list[Ignored]
) -> dict[RequestRef, Received]:
    """Return the requests that count; of two under one id the earlier one."""
    found: dict[RequestRef, Received] = {}
    all_of_them = merged([each for each in about if isinstance(each.record, FollowupRequest)])
    for each in sorted(all_of_them, key=_asked_at):
        request = each.record
        assert isinstance(request, FollowupRequest)  # noqa: S101  just selected
        key = RequestRef(request_id=request.request_id, author=each.author)
        if each.author not in holders:
            ignored.append(_ignored(each, NOT_HOLDER))
        elif not _asked(each, holders):
            ignored.append(_ignored(each, NOBODY_ASKED))
        elif key in found:
            ignored.append(_ignored(each, SECOND_REQUEST))
        else:
            found[key] = each
    return found


def _asked_at(received: Received) -> tuple[int, bytes]:
    assert isinstance(received.record, FollowupRequest)  # noqa: S101  the caller's promise
    return to_ms(received.record.at), canonical(received.record)


def _asked(received: Received, holders: frozenset[str]) -> tuple[str, ...]:
    """Return who was asked of those that hold the incident."""
    assert isinstance(received.record, FollowupRequest)  # noqa: S101  the caller's promise
    return tuple(sorted((set(received.record.to) & holders) - {received.author}))


def _answer(node: str, responses: Sequence[FollowupResponse], asked: Received, now: int) -> Answer:
    request = asked.record
    assert isinstance(request, FollowupRequest)  # noqa: S101  the caller's promise
    ordered = tuple(sorted(responses, key=lambda r: (to_ms(r.at), canonical(r))))
    closing = [each for each in ordered if each.closes]
    if closing:
        # What somebody adds after its last word does not open the request again.
        return Answer(node, closing[-1].outcome, ordered, overdue=False, escalation=0)
    at, due = to_ms(request.at), to_ms(request.due)
    times = (now - due) // (due - at) + 1 if now >= due else 0
    state = "interim" if ordered else "open"
    return Answer(node, state, ordered, times > 0, min(times, MAX_ESCALATION))


def _request_state(
    asked: Received, answers: Sequence[Answer], base: Handling | None
) -> RequestState:
    request = asked.record
    assert isinstance(request, FollowupRequest)  # noqa: S101  the caller's promise
    waiting = [each for each in answers if each.state in {"open", "interim"}]
    if not waiting:
        state = "answered"
    elif any(each.overdue for each in waiting):
        state = "overdue"
    elif any(each.state == "interim" for each in answers) or len(waiting) < len(answers):
        state = "interim"
    else:
        state = "open"
    return RequestState(
        author=asked.author,
        envelope_id=asked.envelope_id,
        request=request,
        state=state,
        escalation=max((each.escalation for each in waiting), default=0),
        answers=tuple(answers),
        handling=_shown(base, request.handling),
    )
