"""The link session: what happens between two nodes on one connection, as a pure state machine.

Events come in as method calls with an explicit ``now`` (ms); an ordered list of effects comes out.

- Effects are performed in order, and each is finished before the next begins.
- ``Commit`` is durable before ``committed`` is called, so nothing is receipted that could be lost.
- Every event may be repeated: envelopes and receipts are idempotent by envelope id.

    state   event                    next    effects
    HELLO   start                    HELLO   Send(hello)
    HELLO   hello of the peer        PROOF   Send(proof)
    PROOF   proof of the peer        OPEN    Opened
    OPEN    deliver                  OPEN    Commit, then through committed: Send(receipts, refuse)
    OPEN    receipts, runs           OPEN    StoreReceipts, then through stored: Send(settled)
    OPEN    settled                  OPEN    NoteSettled
    OPEN    refuse                   OPEN    NoteRefusals
    OPEN    want_statements          OPEN    LoadStatements
    OPEN    statements               OPEN    StoreStatements, then through statements_stored:
                                             Send(want_statements) while there are more
    OPEN    summary, authors,        OPEN    Heard: the node answers from what it holds
            frontier, want,
            want_receipts, forked,
            want_blob, blob, no_blob,
            unopened, sealed_again,
            exposed, exposure_heard,
            suspended, seal_challenge,
            seal_proof, all about logs
    OPEN    bye                      CLOSED  Close
    any     bad or unexpected frame  CLOSED  Send(bye), Close
    HELLO, PROOF  deadline passed    CLOSED  Send(bye), Close
    OPEN    no answer for 30 s       OPEN    NoteLate: the credit returns, the envelope is due again

Credit: LINK_WINDOW envelopes and LINK_WINDOW_BYTES bytes may be on the way to the peer; each answer
(receipt or refusal), which is given after the commit, returns what its envelope took. Of that,
catch-up takes at most half, so that what is released now never waits for what was missed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum, IntEnum
from typing import TypeAlias, assert_never

from protocol import limits, suite
from protocol.blob import BlobChunk, BlobFrame, NoBlob, WantBlob
from protocol.errors import (
    FrameError,
    LimitError,
    LinkTimeoutError,
    PeerError,
    PicketError,
    ReceiptError,
    UntrustedKeyError,
    VersionError,
    WrongNetworkError,
)
from protocol.exposure import Exposed, ExposureHeard
from protocol.frames import (
    SHORT_ID,
    VERSION,
    Authors,
    Bye,
    Deliver,
    Forked,
    Frame,
    Frontier,
    Hello,
    Proof,
    Receipts,
    Refusal,
    Refuse,
    Runs,
    Settled,
    Statements,
    Summary,
    Tagger,
    Transcript,
    Want,
    WantReceipts,
    WantStatements,
    decode_frame,
    encode_frame,
    proof_label,
)
from protocol.key_frames import KeyFrame, Suspended
from protocol.log_frames import (
    Consistency,
    Cosign,
    Cosigned,
    Head,
    Heads,
    LogForked,
    LogFrame,
    LogPart,
    WantConsistency,
    WantHead,
    WantLog,
)
from protocol.possession import SealChallenge, SealProof
from protocol.receipt import complete, is_erasure
from protocol.reseal import ResealFrame, SealedAgain, Unopened
from protocol.statement import HybridKey


class Phase(Enum):
    """Where the session stands."""

    HELLO = "hello"
    PROOF = "proof"
    OPEN = "open"
    CLOSED = "closed"


class Lane(IntEnum):
    """What goes first when more than one message waits to be written to a link."""

    CONTROL = 0
    RECEIPTS = 1
    LIVE = 2
    CATCH_UP = 3
    LAST = 4


Gossip: TypeAlias = Summary | Authors | Frontier | Want | WantReceipts | Forked


# --- effects ---------------------------------------------------------------------------------
@dataclass(frozen=True, slots=True)
class Send:
    """Write this payload as one message when its lane's turn comes: ``Session.message`` of it."""

    payload: bytes
    lane: Lane
    bare: bool = False


@dataclass(frozen=True, slots=True)
class Opened:
    """Both ends have proved themselves; the link may be used."""


@dataclass(frozen=True, slots=True)
class Commit:
    """Admit and log these envelopes durably, then call ``committed``."""

    wires: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class StoreReceipts:
    """Verify and store these receipts; all ids in them are whole."""

    receipts: Receipts | Runs


@dataclass(frozen=True, slots=True)
class NoteSettled:
    """The peer, as author, holds these receipts that we passed on: (envelope id, recipient)."""

    items: tuple[tuple[bytes, bytes], ...]


@dataclass(frozen=True, slots=True)
class NoteRefusals:
    """The peer did not take these envelopes."""

    items: tuple[Refusal, ...]


@dataclass(frozen=True, slots=True)
class NoteLate:
    """The peer did not answer for these envelopes in time."""

    envelope_ids: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class Heard:
    """The peer says or asks something about streams, attachments, slots, keys or logs."""

    frame: Gossip | BlobFrame | ResealFrame | KeyFrame | LogFrame


@dataclass(frozen=True, slots=True)
class LoadStatements:
    """Load these key statements, then call ``statements_loaded``."""

    node_id: bytes
    first: int


@dataclass(frozen=True, slots=True)
class StoreStatements:
    """Verify and store these key statements."""

    node_id: bytes
    wires: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class Close:
    """Close the connection; *error* is None when the peer said goodbye."""

    error: PicketError | None
    code: str


Effect: TypeAlias = (
    Send
    | Opened
    | Commit
    | StoreReceipts
    | NoteSettled
    | NoteRefusals
    | NoteLate
    | Heard
    | LoadStatements
    | StoreStatements
    | Close
)


@dataclass(frozen=True, slots=True)
class Local:
    """Our side: identity, place in our own chain, TLS certificate digest and link key."""

    network: bytes
    node_id: bytes
    chain_n: int
    chain_head: bytes
    certificate: bytes
    signer: suite.HybridSigner


@dataclass(frozen=True, slots=True)
class Remote:
    """The peer that the pinned certificate belongs to, and what we hold of its chain."""

    node_id: bytes
    certificate: bytes
    link: HybridKey
    chain_n: int
    chain_head: bytes


class Session:
    """One link. Create it when TLS is up and pinned, then feed it events."""

    def __init__(
        self, *, local: Local, remote: Remote, dialer: bool, nonce: bytes, now: int
    ) -> None:
        """Begin in HELLO; *nonce* is 32 fresh random bytes, *now* starts the deadline."""
        self._local = local
        self._remote = remote
        self._dialer = dialer
        self._deadline = now + limits.HELLO_TIMEOUT_MS
        self._hello = encode_frame(
            Hello((VERSION,), local.network, local.node_id, nonce, local.chain_n, local.chain_head)
        )
        self._transcript: Transcript | None = None
        self._out: Tagger | None = None
        self._in: Tagger | None = None
        self._in_flight: dict[bytes, tuple[int, int]] = {}  # deadline, size
        self._asked: set[bytes] = set()  # receipts asked for and not there yet
        self._bytes = 0
        self._known: dict[bytes, bytes] = {}  # ids that a run may name by their first bytes
        self._refused = 0
        self._passed: set[tuple[bytes, bytes]] = set()
        self._peer_chain: tuple[int, bytes] = (remote.chain_n, remote.chain_head)
        self.phase = Phase.HELLO

    # --- state -------------------------------------------------------------------------------
    def room(self, lane: Lane) -> tuple[int, int]:
        """Return how many more envelopes and bytes may go out in *lane*: none, or at least one."""
        share = 2 if lane is Lane.CATCH_UP else 1
        envelopes = limits.LINK_WINDOW // share - len(self._in_flight)
        size = limits.LINK_WINDOW_BYTES // share - self._bytes
        if self.phase is not Phase.OPEN or envelopes <= 0 or size <= 0:
            return 0, 0
        return envelopes, size

    @property
    def in_flight(self) -> frozenset[bytes]:
        """Ids of envelopes sent on this link and not yet answered."""
        return frozenset(self._in_flight)

    @property
    def passed(self) -> frozenset[tuple[bytes, bytes]]:
        """Receipts of third nodes, and of our erasures, given here: (envelope id, recipient)."""
        return frozenset(self._passed)

    # --- events ------------------------------------------------------------------------------
    def start(self) -> list[Effect]:
        """Begin: say hello."""
        return [Send(self._hello, Lane.CONTROL, bare=True)]

    def message(self, send: Send) -> bytes:
        """Return the bytes to write for *send*; call it in the order of writing, once for each."""
        if send.bare:
            return send.payload
        assert self._out is not None  # noqa: S101  nothing else is sent before it is set
        return self._out.wrap(send.payload)

    def receive(self, message: bytes, now: int) -> list[Effect]:
        """Take one message of the peer.

        A PeerError never escapes: it becomes a goodbye with its code and a Close.
        """
        if self.phase is Phase.CLOSED:
            return []
        try:
            if len(message) > limits.MAX_FRAME:
                raise LimitError(f"a frame is longer than {limits.MAX_FRAME} bytes")
            match self.phase:
                case Phase.HELLO:
                    return self._on_hello(message)
                case Phase.PROOF:
                    return self._on_proof(self._unwrap(message))
                case _:
                    return self._on_frame(decode_frame(self._unwrap(message)), now)
        except PeerError as error:
            return self._fail(error)

    def tick(self, now: int) -> list[Effect]:
        """Let time pass: the hello deadline, and envelopes that nobody answered for."""
        if self.phase in {Phase.HELLO, Phase.PROOF} and now >= self._deadline:
            return self._fail(LinkTimeoutError("the peer did not say hello in time"))
        late = [key for key, (due, _) in self._in_flight.items() if now >= due]
        self.answered(late)
        return [NoteLate(tuple(late))] if late else []

    def deliver(
        self, envelopes: Sequence[tuple[bytes, bytes]], now: int, lane: Lane
    ) -> list[Effect]:
        """Send (id, wire) pairs, packed into frames; what the credit does not allow is left out."""
        count, size = self.room(lane)
        wires = []
        for envelope_id, wire in envelopes:
            if envelope_id in self._in_flight:
                continue
            if not self._free(envelope_id):
                continue  # another that begins alike must be answered first: receipts name 8 bytes
            if count <= 0 or size <= 0:
                break
            count, size = count - 1, size - len(wire)
            self._in_flight[envelope_id] = (now + limits.RECEIPT_TIMEOUT_MS, len(wire))
            self._bytes += len(wire)
            self._remember(envelope_id)
            wires.append(wire)
        return [self._send(Deliver(each), lane) for each in _packed(wires)]

    def say(self, frame: Gossip | BlobFrame | ResealFrame | KeyFrame | LogFrame) -> list[Effect]:
        """Say or ask something about streams, attachments, slots, keys or logs."""
        if self.phase is not Phase.OPEN:
            return []
        if isinstance(frame, WantReceipts):
            ids = []
            for envelope_id in frame.envelope_ids:
                if self._free(envelope_id):
                    self._asked.add(envelope_id)
                    self._remember(envelope_id)
                    ids.append(envelope_id)
            if not ids:
                return []
            frame = WantReceipts(tuple(ids))
        # A no_blob must not overtake the chunks that went before it.
        bulk = isinstance(frame, BlobChunk | NoBlob | LogPart | Consistency)
        return [self._send(frame, Lane.CATCH_UP if bulk else Lane.CONTROL)]

    def _free(self, envelope_id: bytes) -> bool:
        """Whether no other one waits for an answer that receipts would name alike."""
        other = self._known.get(envelope_id[:SHORT_ID], envelope_id)
        return other == envelope_id or not (other in self._in_flight or other in self._asked)

    def _remember(self, envelope_id: bytes) -> None:
        self._known.pop(envelope_id[:SHORT_ID], None)  # so that it counts as the newest
        if len(self._known) >= limits.MAX_LINK_IDS:
            self._known.pop(next(iter(self._known)))  # the oldest, answered long ago
        self._known[envelope_id[:SHORT_ID]] = envelope_id

    def committed(
        self, receipts: Sequence[Receipts | Runs], refusals: Sequence[Refusal], *, faults: int
    ) -> list[Effect]:
        """Answer for a Commit that is now durable; *faults* counts refusals that are the peer's.

        The link ends after MAX_REFUSALS_PER_LINK faults.
        """
        if self.phase is not Phase.OPEN:
            return []
        effects: list[Effect] = [self._send(receipt, Lane.RECEIPTS) for receipt in receipts]
        if refusals:
            effects.append(self._send(Refuse(tuple(refusals)), Lane.RECEIPTS))
        return effects + self.blame(faults)

    def blame(self, faults: int) -> list[Effect]:
        """Count *faults* of the peer; too many on one link end it."""
        self._refused += faults
        if self.phase is Phase.OPEN and self._refused >= limits.MAX_REFUSALS_PER_LINK:
            return self._fail(LimitError(f"{self._refused} things it sent had to be refused"))
        return []

    def stored(self, receipts: Receipts | Runs) -> list[Effect]:
        """Answer for a StoreReceipts that is now durable.

        The recipient itself needs no answer to a receipt of delivery, which it gives again when it
        is asked; what it erased it says until it hears that the author holds that.
        """
        if isinstance(receipts, Runs):
            self.answered([each for run in receipts.runs for each in run.ids])
            return []
        self.answered([item.envelope_id for item in receipts.items])
        if self.phase is not Phase.OPEN:
            return []
        passed_on = receipts.recipient != self._remote.node_id
        pairs = tuple(
            (item.envelope_id, receipts.recipient)
            for item in receipts.items
            if passed_on or is_erasure(item)
        )
        return [self._send(Settled(pairs))] if pairs else []

    def relay_receipts(self, receipts: Receipts) -> list[Effect]:
        """Give the author the receipt of a third node, or ours of an erasure, once a link."""
        pairs = {(item.envelope_id, receipts.recipient) for item in receipts.items}
        if self.phase is not Phase.OPEN or pairs <= self._passed:
            return []
        self._passed |= pairs
        return [self._send(receipts, Lane.RECEIPTS)]

    def statements_loaded(self, node_id: bytes, wires: Sequence[bytes]) -> list[Effect]:
        """Answer for a LoadStatements; an empty answer sends nothing."""
        if self.phase is not Phase.OPEN or not wires:
            return []
        return [self._send(Statements(node_id, tuple(wires)))]

    def ask_statements(self, first: int, node_id: bytes | None = None) -> list[Effect]:
        """Ask for key statements from number *first* on: the peer's own, or those of *node_id*."""
        if self.phase is not Phase.OPEN:
            return []
        return [self._send(WantStatements(node_id or self._remote.node_id, first))]

    def statements_stored(self, chain_n: int) -> list[Effect]:
        """Answer for a StoreStatements that brought the peer's chain up to *chain_n*.

        One frame holds so many bytes of them; the rest is asked for until the hello's number.
        """
        if self.phase is not Phase.OPEN or chain_n >= self._peer_chain[0]:
            return []
        return [self._send(WantStatements(self._remote.node_id, chain_n + 1))]

    def answered(self, envelope_ids: Sequence[bytes]) -> None:
        """Free the window of envelopes whose receipt was verified and stored."""
        self._asked.difference_update(envelope_ids)
        for envelope_id in envelope_ids:
            self._bytes -= self._in_flight.pop(envelope_id, (0, 0))[1]

    def close(self, code: str) -> list[Effect]:
        """Say goodbye for a reason of our own (shutdown, trust withdrawn, second link)."""
        if self.phase is Phase.CLOSED:
            return []
        effects = self._goodbye(code)
        self.phase = Phase.CLOSED
        return [*effects, Close(None, code)]

    # --- frames ------------------------------------------------------------------------------
    def _on_hello(self, message: bytes) -> list[Effect]:
        hello = decode_frame(message)
        if not isinstance(hello, Hello):
            raise FrameError("the first frame is not a hello")
        if VERSION not in hello.versions:
            raise VersionError("no protocol version in common; one of the nodes must be updated")
        if hello.network != self._local.network:
            raise WrongNetworkError("the peer is on another Picket network")
        if hello.node_id != self._remote.node_id:
            raise UntrustedKeyError("the peer is not the node that its certificate belongs to")
        if hello.node_id == self._local.node_id or message == self._hello:
            raise UntrustedKeyError("the link leads back to this node")
        self._peer_chain = (hello.chain_n, hello.chain_head)
        mine, theirs = (self._local.certificate, self._remote.certificate)
        self._transcript = (
            Transcript(self._hello, message, mine, theirs)
            if self._dialer
            else Transcript(message, self._hello, theirs, mine)
        )
        self._out = Tagger(self._transcript, from_dialer=self._dialer)
        self._in = Tagger(self._transcript, from_dialer=not self._dialer)
        self.phase = Phase.PROOF
        label = suite.label(proof_label(dialer=self._dialer))
        return [self._send(Proof(*self._local.signer.sign(label + self._transcript.digest)))]

    def _on_proof(self, payload: bytes) -> list[Effect]:
        proof = decode_frame(payload)
        if not isinstance(proof, Proof):
            raise FrameError("the second frame is not a proof")
        assert self._transcript is not None  # noqa: S101  set on the way into PROOF
        suite.verify_hybrid(
            proof_label(dialer=not self._dialer),
            self._remote.link,
            self._transcript.digest,
            (proof.ed25519, proof.mldsa65),
        )
        self.phase = Phase.OPEN
        effects: list[Effect] = [Opened()]
        known = (self._remote.chain_n, self._remote.chain_head)
        if self._peer_chain[0] < known[0]:
            # It may have lost what it signed: give it back before anything else is said.
            effects.insert(0, LoadStatements(self._remote.node_id, self._peer_chain[0] + 1))
        if self._peer_chain[0] > known[0]:
            effects.append(self._send(WantStatements(self._remote.node_id, known[0] + 1)))
        elif self._peer_chain[0] == known[0] and self._peer_chain != known:
            # Two heads of one number: fetch the other statement, which is the evidence.
            effects.append(self._send(WantStatements(self._remote.node_id, known[0])))
        return effects

    def _on_frame(self, frame: Frame, now: int) -> list[Effect]:
        del now  # nothing that an open link hears depends on when it hears it
        self._check_parties(frame)
        match frame:
            case Hello() | Proof():
                raise FrameError("a second hello or proof on an open link")
            case Deliver():
                return [Commit(frame.wires)]
            case Receipts():
                return [StoreReceipts(frame)]
            case Runs():
                if frame.recipient != self._remote.node_id:
                    raise ReceiptError("receipts in bulk of another node than the peer")
                return [StoreReceipts(complete(frame, self._known))]
            case Refuse():
                self.answered([item.envelope_id for item in frame.items])
                return [NoteRefusals(frame.items)]
            case WantStatements():
                return [LoadStatements(frame.node_id, frame.first)]
            case Statements():
                return [StoreStatements(frame.node_id, frame.wires)]
            case Settled():
                # Only what was passed on here can be settled here.
                return [NoteSettled(tuple(pair for pair in frame.items if pair in self._passed))]
            case Bye():
                self.phase = Phase.CLOSED
                return [Close(None, frame.code)]
            case (
                Summary() | Authors() | Frontier() | Want() | WantReceipts() | Forked()
                | WantBlob() | BlobChunk() | NoBlob()
                | Unopened() | SealedAgain()
                | Exposed() | ExposureHeard() | Suspended() | SealChallenge() | SealProof()
                | Cosign() | Cosigned() | Heads() | WantHead() | Head() | WantConsistency()
                | Consistency() | LogForked() | WantLog() | LogPart()
            ):  # fmt: skip
                return [Heard(frame)]
            case _:
                assert_never(frame)

    def _check_parties(self, frame: Frame) -> None:
        """Check that a notice is the peer's own, and a slot or exposure of the peer for us."""
        peer, own = self._remote.node_id, self._local.node_id
        match frame:
            case Unopened(notice) if notice.reader != peer:
                raise UntrustedKeyError("a notice of another node than the peer")
            case Exposed(exposure) if (exposure.holder, exposure.author) != (peer, own):
                raise UntrustedKeyError("an exposure that is not of the peer for this node")
            case SealedAgain(slot) if (slot.author, slot.reader) != (peer, own):
                raise UntrustedKeyError("a new slot that is not of the peer for this node")
            case _:
                pass

    # --- sending -----------------------------------------------------------------------------
    def _unwrap(self, message: bytes) -> bytes:
        assert self._in is not None  # noqa: S101  set before PROOF
        return self._in.unwrap(message)

    def _send(self, frame: Frame, lane: Lane = Lane.CONTROL) -> Send:
        return Send(encode_frame(frame), lane)

    def _goodbye(self, code: str) -> list[Effect]:
        # Before the proof the peer could not check a tag, and a stranger learns no reason.
        return [self._send(Bye(code), Lane.LAST)] if self._out is not None else []

    def _fail(self, error: PicketError) -> list[Effect]:
        effects = self._goodbye(error.code)
        self.phase = Phase.CLOSED
        return [*effects, Close(error, error.code)]


def _packed(wires: Sequence[bytes]) -> list[tuple[bytes, ...]]:
    """Group *wires* into frames of about TARGET_FRAME bytes, in order."""
    frames: list[list[bytes]] = []
    size = 0
    for wire in wires:
        full = size + len(wire) > limits.TARGET_FRAME
        if not frames or full or len(frames[-1]) >= limits.MAX_FRAME_ENVELOPES:
            frames.append([])
            size = 0
        frames[-1].append(wire)
        size += len(wire)
    return [tuple(frame) for frame in frames]
