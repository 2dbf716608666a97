"""Taking envelopes in: screened, verified together, decided one by one, stored and logged at once.

- All rows and log entries of one call are written together at its end, inside the caller's
  transaction; until then the batch itself answers what is held.
- Nothing is receipted here: receipts are made of the log after the commit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol

from keys.trust import TrustStore
from node.clock import Clock
from node.log import Act, Log
from node.outbox import Outbox, Route
from node.store import Store
from node.streams import Streams, key_of
from protocol import admission, envelope, limits, suite
from protocol.admission import Admitted, Known, Part, Screened
from protocol.custody import Stub, parse_stub
from protocol.entry import EntryKind
from protocol.envelope import Audience, Envelope, Header, VerifiedEnvelope
from protocol.errors import (
    CustodyFullError,
    EquivocationError,
    ExpiredError,
    NotCarryingError,
    OwnEnvelopeError,
    PeerError,
    StoreError,
    SupersededCardError,
    UnknownCardError,
    UnknownEpochError,
    UnplacedError,
    UntrustedKeyError,
)
from protocol.fork import Fork
from protocol.frames import Receipts, Refusal, Runs
from protocol.frontier import StreamKey
from protocol.statement import Card

_OPENERS_KEPT: Final = 1_024  # of up to 20 KiB each
# Refusals that come from the state of the two nodes rather than from a fault of the giver.
BLAMELESS: Final = (
    ExpiredError,
    NotCarryingError,
    UnplacedError,
    UnknownCardError,
    SupersededCardError,
    UnknownEpochError,
    UntrustedKeyError,
    OwnEnvelopeError,
    EquivocationError,
    CustodyFullError,
)
_RETRY_MS: Final = {CustodyFullError.code: limits.CUSTODY_RETRY_MS}
KINDS: Final = {
    Part.AUTHOR: EntryKind.RELEASED,
    Part.RECIPIENT: EntryKind.RECEIVED,
    Part.CARRIER: EntryKind.CARRIED,
}

Checked = VerifiedEnvelope | PeerError
VerifyAll = Callable[[Callable[[Screened], Checked], Sequence[Screened]], Iterable[Checked]]
"""``map`` or what works like it in threads: signature checks release the interpreter's lock."""


@dataclass(frozen=True, slots=True)
class Taken:
    """What came of a delivered frame: durable once its transaction is."""

    answers: tuple[tuple[bytes, int], ...]
    refusals: tuple[Refusal, ...]
    faults: int
    bad_signatures: int
    stored: tuple[bytes, ...]
    known: int
    skewed: int
    streams: frozenset[StreamKey]
    forks: tuple[Fork, ...]
    receipts: tuple[Receipts | Runs, ...] = ()


class Owner(Protocol):
    """What intake needs of the node that it belongs to."""

    trust: TrustStore
    carries: bool

    def opener(self, envelope_id: bytes) -> tuple[Header, Audience] | None:
        """Return header and audience of a stored envelope that opens an epoch."""
        ...


class _View:
    """Answers ``protocol.admission`` from the batch, the database and the trust store."""

    def __init__(self, owner: Owner, intake: Intake) -> None:
        self._owner = owner
        self._intake = intake
        self.node_id = owner.trust.own.node_id
        self.network = owner.trust.own.network
        self.carries = owner.carries
        self._absent: set[bytes] = set()

    def accepts_author(self, node_id: bytes) -> bool:
        return self._owner.trust.accepts_author(node_id)

    def card_at(self, node_id: bytes, n: int) -> Card | None:
        return self._owner.trust.card_at(node_id, n)

    def closed(self, header: Header, envelope_id: bytes) -> bool:
        recovered = self._owner.trust.recovered_at(header.author)
        return header.card_n < recovered and not self._intake.names(header, envelope_id)

    def holds(self, envelope_id: bytes) -> bool:
        # Asked before and after verifying; meanwhile only the batch itself has grown.
        if envelope_id in self._absent:
            return self._intake.gathers(envelope_id)
        held = self._intake.holds(envelope_id)
        if not held:
            self._absent.add(envelope_id)
        return held

    def epoch(self, opener: bytes) -> tuple[Header, Audience] | None:
        return self._intake.opener(opener)


class Intake:
    """Admits envelopes into node.db."""

    def __init__(
        self,
        owner: Owner,
        *,
        store: Store,
        log: Log,
        outbox: Outbox,
        streams: Streams,
        clock: Clock,
        verify_all: VerifyAll = map,
    ) -> None:
        self._owner = owner
        self._store, self._log, self._outbox = store, log, outbox
        self._streams, self._clock = streams, clock
        self._acts: list[Act] = []
        self._rows: dict[bytes, dict[str, object]] = {}
        self._openers: dict[bytes, tuple[Header, Audience]] = {}
        self._first = 0
        self.verify_all = verify_all

    # --- what is held ------------------------------------------------------------------------
    def holds(self, envelope_id: bytes) -> bool:
        """Whether the envelope is stored, or about to be."""
        return self.gathers(envelope_id) or self._store.holds(envelope_id)

    def gathers(self, envelope_id: bytes) -> bool:
        """Whether the envelope is about to be stored."""
        return envelope_id in self._rows

    def names(self, header: Header, envelope_id: bytes) -> bool:
        """Whether an envelope that is stored names this one as the one before it."""
        return bool(
            self._store.scalar(
                "SELECT 1 FROM envelopes WHERE author = ? AND incarnation = ? AND stream = ? "
                "AND seq = ? AND prev = ?",
                header.author, header.incarnation, header.stream, header.seq + 1, envelope_id,
            )
        )  # fmt: skip

    def opener(self, envelope_id: bytes) -> tuple[Header, Audience] | None:
        """Return header and audience of a held envelope that opens an epoch."""
        found = self._openers.get(envelope_id)
        if found is None:
            held = read_stored(self._store, envelope_id)
            if held is None or held.audience is None:
                return None
            found = self._remember(held.id, held.header, held.audience)
        return found

    def _remember(
        self, envelope_id: bytes, header: Header, audience: Audience
    ) -> tuple[Header, Audience]:
        if len(self._openers) >= _OPENERS_KEPT:
            self._openers.clear()
        found = self._openers[envelope_id] = (header, audience)
        return found

    def forget(self) -> None:
        """Forget all that is not in the database: a transaction was undone."""
        self._acts.clear()
        self._rows.clear()
        self._openers.clear()
        self._streams.forget()
        self._outbox.custody.forget()

    # --- taking ------------------------------------------------------------------------------
    def take(self, wires: Sequence[bytes], *, giver: bytes) -> Taken:
        """Admit, store and log the envelopes that *giver* delivered. Call inside a transaction."""
        now, view = self._clock.now(), _View(self._owner, self)
        answers: list[tuple[bytes, int]] = []
        refusals: list[Refusal] = []
        stored: list[bytes] = []
        forks: list[Fork] = []
        keys: set[StreamKey] = set()
        anchors: set[tuple[str, int]] = set()
        faults = bad_signatures = known = skewed = 0
        for wire, checked in zip(wires, self._checked(wires, view, giver), strict=True):
            try:
                if isinstance(checked, PeerError):
                    raise checked
                decision = (
                    checked
                    if isinstance(checked, Known)
                    else admission.decide(checked, view=view, giver=giver, now=now)
                )
                if isinstance(decision, Known):
                    known += 1
                    answers.append(self._known(decision.envelope_id))
                    continue
                self._check_custody(decision, giver)
                index, found = self.store(decision, giver=giver, now=now)
                stored.append(decision.verified.id)
                keys.add(key_of(decision.verified.envelope))
                if (anchor := decision.verified.header.anchor) is not None:
                    anchors.add((anchor.origin, anchor.size))
                forks += found
                skewed += decision.verified.header.created > now + limits.CLOCK_AHEAD_MS
                answers.append(self._answer(decision, index))
            except PeerError as error:
                faults += not isinstance(error, BLAMELESS)
                bad_signatures += error.code == "bad-signature"
                refusals.append(Refusal(id_of(wire), error.code, _RETRY_MS.get(error.code, 0)))
        self.flush()
        self._keep_named(anchors)
        return Taken(
            tuple(answers), tuple(refusals), faults, bad_signatures, tuple(stored), known, skewed,
            frozenset(keys), tuple(forks),
        )  # fmt: skip

    def _keep_named(self, anchors: Iterable[tuple[str, int]]) -> None:
        """Keep heads of our own log that envelopes name: evidence about these needs them."""
        for origin, size in anchors:
            self._store.run(
                "INSERT OR IGNORE INTO anchors (origin, size, note) "
                "SELECT origin, size, note FROM cosigned WHERE origin = ? AND size = ?",
                origin, size,
            )  # fmt: skip

    def _checked(
        self, wires: Sequence[bytes], view: _View, giver: bytes
    ) -> list[VerifiedEnvelope | Known | PeerError]:
        screened = [_screen(wire, view, giver) for wire in wires]
        verified = iter(
            self.verify_all(
                _Verifier(view.network), [each for each in screened if isinstance(each, Screened)]
            )
        )
        return [next(verified) if isinstance(each, Screened) else each for each in screened]

    @staticmethod
    def _answer(decision: Admitted, index: int) -> tuple[bytes, int]:
        if decision.part is Part.AUTHOR:
            # Stored, but no delivery: the giver needs to know no more than that it came.
            raise OwnEnvelopeError("an envelope of ours came back; it is held again")
        return decision.verified.id, index

    def _known(self, envelope_id: bytes) -> tuple[bytes, int]:
        row = self._rows.get(envelope_id) or self._store.envelope(envelope_id)
        if row is None:
            raise StoreError("an envelope went missing", fix="run: picket log verify")
        if row["part"] == Part.AUTHOR.value:
            raise OwnEnvelopeError("this node is its author and holds it")
        index = row["log_index"]
        assert isinstance(index, int)  # noqa: S101  the column is one
        return envelope_id, index

    # --- storing -----------------------------------------------------------------------------
    def store(self, admitted: Admitted, *, giver: bytes, now: int) -> tuple[int, list[Fork]]:
        """Queue one envelope for storing and logging; return its log index and forks it proves.

        ``flush`` must follow in the same transaction.

        Raises:
            PeerError: its place in its stream is not free.
        """
        held, part = admitted.verified.envelope, admitted.part
        forks = self._streams.add(held, admitted.audience, part)
        if not self._acts:
            self._first = self._log.size
        index = self._first + len(self._acts)
        self._acts.append(Act(KINDS[part], held.id, envelope_local(held.header, giver, now)))
        self._rows[held.id] = envelope_row(held, part, giver, now, index)
        if held.audience is not None:
            self._remember(held.id, held.header, held.audience)
        if part is Part.CARRIER:
            self._outbox.custody.add(
                len(held.wire), giver=giver, recipients=self._peers_of(admitted.audience)
            )
        if part is not Part.RECIPIENT and giver != self._owner.trust.own.node_id:
            self._queue(admitted, index)
        return index, forks

    def _queue(self, admitted: Admitted, index: int) -> None:
        """Queue what we carry, or what came back to us, for those who should have it."""
        route = Route.FORWARD if admitted.part is Part.CARRIER else Route.DIRECT
        known = self._peers_of(admitted.audience)
        self._outbox.add(admitted.verified.id, [(peer, route) for peer in known], position=index)

    def _peers_of(self, audience: Audience) -> list[bytes]:
        return [each for each in audience.recipient_ids if self._owner.trust.accepts_link(each)]

    def _check_custody(self, admitted: Admitted, giver: bytes) -> None:
        """Check that what we would carry fits.

        Raises:
            CustodyFullError: it does not; its author keeps it.
        """
        if admitted.part is Part.CARRIER:
            self._outbox.custody.check(
                len(admitted.verified.envelope.wire),
                giver=giver,
                recipients=self._peers_of(admitted.audience),
            )

    def flush(self) -> None:
        """Write what was queued: envelopes, streams, forks and log entries."""
        if self._acts:
            self._log.append(self._acts)
        self._store.insert_all("envelopes", list(self._rows.values()))
        self._streams.flush()
        self._outbox.custody.written()
        self._acts.clear()
        self._rows.clear()

    def note_forks(self, forks: Iterable[Fork]) -> list[Fork]:
        """Keep and log proofs of forks; return those that were new. Call inside a transaction."""
        fresh = [fork for fork in forks if self._streams.add_fork(fork)]
        if fresh:
            self._log.append(
                [Act(EntryKind.EQUIVOCATION, f.digest, (f.first.id, f.second.id)) for f in fresh]
            )
            self._streams.flush()
        return fresh


class _Verifier:
    """Verifies a screened envelope and returns its fault instead of raising it, as threads need."""

    def __init__(self, network: bytes) -> None:
        self._network = network

    def __call__(self, screened: Screened) -> VerifiedEnvelope | PeerError:
        try:
            return admission.verify(screened, network=self._network)
        except PeerError as error:
            return error


def _screen(wire: bytes, view: _View, giver: bytes) -> Screened | Known | PeerError:
    try:
        return admission.screen(wire, view=view, giver=giver)
    except PeerError as error:
        return error


def envelope_local(header: Header, giver: bytes, arrived: int) -> tuple[object, ...]:
    """Return what only this node knows of an envelope, for its log entry to commit to."""
    return (header.author, header.incarnation, header.stream, header.seq, giver, arrived)


def read_stored(store: Store, envelope_id: bytes) -> Envelope | Stub | None:
    """Return a stored envelope; its stub if it was carried here and nobody is owed its bytes.

    Raises:
        PeerError: it was damaged on disk.
    """
    wire = store.scalar("SELECT wire FROM envelopes WHERE id = ?", envelope_id)
    if wire is not None:
        return envelope.parse(wire)
    stub = store.stub(envelope_id)
    return None if stub is None else parse_stub(stub)


def envelope_row(
    held: Envelope | Stub, part: Part, giver: bytes, arrived: int, index: int
) -> dict[str, Any]:
    """Return the row of one envelope."""
    header = held.header
    return {
        "id": held.id, "author": header.author, "incarnation": header.incarnation,
        "stream": header.stream, "seq": header.seq, "prev": header.prev, "opener": header.opener,
        "expires": header.expires, "part": part.value, "giver": giver,
        "arrived": arrived, "log_index": index, "wire": held.wire,
    }  # fmt: skip


def id_of(wire: bytes) -> bytes:
    """Return the envelope id of *wire*, or a digest of it where it has none."""
    try:
        return envelope.peek_id(wire)
    except PeerError:
        return suite.digest("unparsable", wire)
