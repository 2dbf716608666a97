"""What links say about logs: asking for cosignatures, giving them, and comparing what was seen.

- What changes node.db is done by ``act`` inside the transaction that gossip gathers; what follows
  is said by ``after`` once that is durable.
- Peers are asked on a fixed beat, whatever the traffic, so that it does not show.
- At its opening each end of a link says which head of the other's log it cosigned last: so a node
  that was set back to an old state learns of it before a new signature leaves it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final, TypeAlias

import structlog

from keys.identity import Random
from node import metrics
from node.clock import Clock
from node.core import Core
from node.cosigning import witness_vkeys
from node.line import Line
from node.metrics import Metrics
from node.openings import OPENED, own_openings
from node.peer_clocks import PeerClocks
from node.tiles import LogFiles
from node.witness import Claimed, Forked
from protocol import limits
from protocol.errors import NotFoundError, SignatureError
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
from protocol.session import Effect
from protocol.witness import CONFLICT, OK, parse_signatures, parse_size

_log = structlog.get_logger()
BEAT_MS: Final = 60_000
HEADS_MS: Final = 600_000
"""How often peers are told what was seen of logs of third nodes."""
START_MS: Final = 30_000
"""How long a node that was cosigned before waits at its start for a witness to answer."""
_MAX_CLAIMS: Final = 64
"""Claims of one peer that wait for the signed head that it stands by."""
_PATIENCE_MS: Final = 120_000
"""How long a witness is waited for before it is asked again; a slow link takes its time."""
_UNAVAILABLE: Final = 503
CLOCK: Final = "clock"
"""Why an answer is not counted: by our clock its time is in the future, or before the head's."""
_PROOF_US: Final = 50
_TILE_US: Final = 100
Told: TypeAlias = tuple[int, bytes, bytes]
"""Size, root and signed note of a head that was named to peers."""
Recorded: TypeAlias = Cosign | Cosigned | Heads | Head | Consistency | LogForked
"""Frames whose handling changes node.db; ``Head`` if it is about the log of a third node."""
Asking: TypeAlias = WantHead | WantConsistency | WantLog | LogPart | Head
"""Frames that are answered at once; ``Head`` if it is about our own log."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one frame about logs came to; its answers go out once it is durable."""

    say: tuple[LogFrame, ...] = ()
    forks: tuple[Forked, ...] = ()
    claims: tuple[Claimed, ...] = ()
    cosigned: bool = False


@dataclass
class _Asked:
    """What one link was asked to cosign, and how many questions before had no answer in time."""

    size: int = 0
    at: int = 0
    late: int = 0
    corrected: bool = False


@dataclass
class Parts:
    """Resources of a peer's log that somebody waits for, by path."""

    take: Callable[[str, bytes], None]
    paths: set[str] = field(default_factory=set)


class Witnessing:
    """The conversation about logs over all links of a node."""

    def __init__(
        self,
        core: Core,
        *,
        clock: Clock,
        random: Random,
        links: Mapping[bytes, Line],
        perform: Callable[[Line, Iterable[Effect]], None],
        counts: Metrics,
        beat_ms: int = BEAT_MS,
    ) -> None:
        """Begin; of a node that was linked before, nothing is signed until a peer has answered."""
        self._core, self._clock, self._links = core, clock, links
        self._perform, self._metrics = perform, counts
        now = clock.monotonic()
        # Spread out, so that the nodes of a network do not all ask in the same second.
        self._beat_ms = beat_ms
        self._beat_at = now + beat_ms * int.from_bytes(random(2), "big") // 65_536
        self._until = now + START_MS
        self._asked: dict[Line, _Asked] = {}
        self._claims: dict[tuple[bytes, bytes, int], Claimed] = {}
        self._heads_at: dict[Line, int] = {}
        # What was said of third nodes in this stretch of HEADS_MS and in the one before: whoever
        # says it has to show the signed head when it is denied, though it has cosigned later ones.
        self._told: tuple[dict[bytes, Told], dict[bytes, Told]] = ({}, {})
        self._told_until = now + HEADS_MS
        self._readers: dict[bytes, Parts] = {}
        self._openings = b""
        self.clocks = PeerClocks()
        self.beats = self.offered = 0
        core.signing_waits = core.restored.waits or core.has_been_linked()

    # --- life of a link ----------------------------------------------------------------------
    def opened(self, line: Line) -> None:
        """Tell a peer which head of its log was cosigned last, and what others must know."""
        if not self._core.trust.gives_to(line.peer):
            return
        self._say(line, Head(line.peer, self._core.witness.newest_of(line.peer)))
        for node_id, proofs in self._core.witness.forks().items():
            if self._warns(line, node_id):
                self._say(line, LogForked(node_id, proofs[-1]))
        self._heads_at[line] = self._clock.monotonic()

    def lost(self, line: Line) -> None:
        """Forget a link that is gone."""
        self._asked.pop(line, None)
        self._readers.pop(line.peer, None)  # what was asked on it has no answer
        self._heads_at.pop(line, None)
        for key in [key for key in self._claims if key[0] == line.peer]:
            del self._claims[key]

    def _say(self, line: Line, frame: LogFrame) -> None:
        self._perform(line, line.session.say(frame))

    def _tells(self, line: Line, node_id: bytes) -> bool:
        return node_id not in {line.peer, self._core.node_id} and self._core.witness.shares(
            line.peer, node_id
        )

    def _warns(self, line: Line, node_id: bytes) -> bool:
        """Whether a peer is told of a log that contradicts itself; most of all it is, if its own.

        Somebody may have its keys. One that lies learns only what it knows.
        """
        return line.peer == node_id or self._tells(line, node_id)

    # --- time --------------------------------------------------------------------------------
    def tick(self, now: int) -> None:
        """Let time pass: the beat on which heads are shown, and what was seen of third nodes.

        Raises:
            BusyError: the disk is full; the beat comes again.
        """
        self._core.restored.tick()
        if self._core.signing_waits and now >= self._until and not self._core.restored.waits:
            _log.warning("log-unchecked", code="no-witness")
            self._core.signing_waits = False
        lines = [line for line in self._links.values() if line.open]
        if now >= self._beat_at:
            self._beat_at = now + self._beat_ms
            self._beat([line for line in lines if self._core.trust.gives_to(line.peer)])
        for line in lines:
            if now >= self._heads_at.get(line, now + 1):
                self._heads_at[line] = now + HEADS_MS
                self._say_heads(line)

    def _beat(self, lines: list[Line]) -> None:
        if self._core.signing_waits or not (lines or self._core.cosigning.outside()):
            return
        size = self.offered = self._core.heartbeat()
        self.beats += 1
        now = self._clock.monotonic()
        for line in lines:
            before = self._asked.get(line, _Asked())
            if before.size and now - before.at < _PATIENCE_MS:
                continue
            self._asked[line] = _Asked(size, now, before.late + (before.size > 0))
            name = self._core.trust.peer(line.peer).card.witness.name
            self._say(line, Cosign(self._core.cosigning.request(name, size)))

    def _say_heads(self, line: Line) -> None:
        now = self._clock.monotonic()
        if now >= self._told_until:
            self._told, self._told_until = ({}, self._told[0]), now + HEADS_MS
        told = self._told[0]
        found = self._core.witness.heads_for(line.peer)
        for node_id, size, root in found:
            if node_id not in told:
                told[node_id] = size, root, self._core.witness.note_of(node_id, size)
        items = tuple((node_id, *told[node_id][:2]) for node_id, _, _ in found)
        for at in range(0, len(items), limits.MAX_HEADS):
            self._say(line, Heads(items[at : at + limits.MAX_HEADS]))

    # --- what peers ask ----------------------------------------------------------------------
    def heard(self, line: Line, frame: Asking) -> None:
        """Answer what needs no transaction that gossip gathers.

        Raises:
            LogBehindError: a witness holds a later head of our own log than we do.
        """
        if not line.open or not self._core.trust.gives_to(line.peer):
            return
        match frame:
            case Head(_, note):
                fits = bool(note) and self._core.check_shown(note)
                if self._core.restored.waits:
                    if fits or not note:
                        self._core.restored.heard(line.peer)
                elif fits or not self._core.cosigning.was_cosigned():
                    # Else somebody else may still know more of this log than we do.
                    self._core.signing_waits = False
            case WantHead(node_id, size):
                # Whom else we know is nobody's business; of its own log a peer may ask.
                if node_id == line.peer or self._tells(line, node_id):
                    note = self._core.witness.note_of(node_id, size)
                    self._say(line, Head(node_id, note or self._note_told(node_id, size)))
            case WantConsistency(size, olds):
                self._prove(line, size, olds)
            case WantLog(path):
                self._send_part(line, path)
            case LogPart(path, body):
                reader = self._readers.get(line.peer)
                if reader is not None and path in reader.paths:
                    reader.paths.discard(path)
                    reader.take(path, body)

    def _note_told(self, node_id: bytes, size: int) -> bytes:
        """Return the signed head of that size, if it was told to anybody; else empty."""
        for told in self._told:
            if node_id in told and told[node_id][0] == size:
                return told[node_id][2]
        return b""

    def _prove(self, line: Line, size: int, olds: Iterable[int]) -> None:
        olds = [old for old in olds if old < size <= self._core.log.signed_size]
        self._charge(line, _PROOF_US * len(olds))
        if olds:
            items = ((old, self._core.log.prove_prefix(old, size)) for old in olds)
            self._say(line, Consistency(size, tuple(items)))

    def _send_part(self, line: Line, path: str) -> None:
        self._charge(line, _TILE_US)
        try:
            if path == OPENED:
                # A log is begun while the node does not run.
                self._openings = self._openings or own_openings(self._core.store)
                body = self._openings
            else:
                body = LogFiles(self._core.log, head=self._core.cosigning.shown).resolve(path).body
        except NotFoundError:
            body = b""
        self._say(line, LogPart(path, body))

    def _charge(self, line: Line, cpu_us: int) -> None:
        line.meter.charge(cpu_us=cpu_us, now=self._clock.monotonic())

    # --- database acts -----------------------------------------------------------------------
    def act(self, line: Line, frame: Recorded) -> Outcome:
        """Do what *frame* changes in node.db, inside the transaction of the caller.

        Raises:
            PeerError: the peer says something that cannot be true.
        """
        if not self._core.trust.accepts_link(line.peer):
            return Outcome()
        witness = self._core.witness
        match frame:
            case Cosign(request):
                return self._cosign(line, request)
            case Cosigned(status, body):
                return self._cosigned(line, status, body)
            case Consistency(size, items):
                forks, claims = witness.proved(line.peer, size, items)
                return Outcome(
                    say=self._unproven(line.peer), forks=tuple(forks), claims=tuple(claims)
                )
            case Heads(items):
                return self._take_heads(line, items)
            case Head(node_id, note):
                return self._take_head(line, node_id, note)
            case LogForked(node_id, proof):
                fork = witness.keep_fork(node_id, proof)
                return Outcome(forks=() if fork is None else (fork,))

    def _cosign(self, line: Line, request: bytes) -> Outcome:
        answer, fork = self._core.witness.add_checkpoint(request)
        body = answer.body if answer.status in {OK, CONFLICT} else b""
        say: tuple[LogFrame, ...] = (Cosigned(answer.status, body),)
        if answer.status == OK:
            say += self._unproven(line.peer)
        else:
            doubtful = self._core.witness.doubtful(line.peer)
            say += () if doubtful is None else (WantConsistency(*doubtful),)
            _log.info("not-cosigned", peer=self._name(line.peer), code=f"status-{answer.status}")
        return Outcome(say=say, forks=() if fork is None else (fork,))

    @staticmethod
    def too_busy() -> Outcome:
        """Answer a question that the disk does not take now: it may be asked again at once."""
        return Outcome(say=(Cosigned(_UNAVAILABLE, b""),))

    def _unproven(self, peer: bytes) -> tuple[LogFrame, ...]:
        found = self._core.witness.unproven(peer)
        return () if found is None else (WantConsistency(*found),)

    def _cosigned(self, line: Line, status: int, body: bytes) -> Outcome:
        asked = self._asked.get(line)
        if asked is None or not asked.size:
            return Outcome()  # of a beat before this link, or not asked for
        if status == OK:
            keys = witness_vkeys(self._core.trust.peer(line.peer).card.witness)
            size, asked.size = asked.size, 0  # answered, even if the disk does not take it
            late = asked.late
            try:
                met = self._core.cosigning.take(size, body, keys=keys)
            except SignatureError:
                if asked.late:
                    asked.late, asked.size = asked.late - 1, size  # of what it was asked before
                    return Outcome()
                if not self._core.cosigning.is_off(size, body):
                    raise
                self._read_clock(line, asked, body)
                return self._refused(line, CLOCK)
            asked.late = 0
            if not late:  # else it may have answered the question before
                self._read_clock(line, asked, body)
            return Outcome(cosigned=met)
        if status == CONFLICT and not asked.corrected:
            asked.corrected = True
            old = parse_size(body)
            if old > asked.size:
                asked.size = 0
                # It says that it knows a longer log; only our own signature can show that.
                return Outcome(say=(WantHead(self._core.node_id, old),))
            asked.size = self.offered  # the one that it was shown may be gone meanwhile
            name = self._core.trust.peer(line.peer).card.witness.name
            request = self._core.cosigning.request(name, asked.size, old=old)
            return Outcome(say=(Cosign(request),))
        asked.size = 0
        return self._refused(line, str(status))

    def _read_clock(self, line: Line, asked: _Asked, body: bytes) -> None:
        """Note what the peer's own cosignature says of its clock."""
        answered = self._clock.now()
        since = self._clock.monotonic() - asked.at
        name = self._core.trust.peer(line.peer).card.witness.name
        for each in [each for each in parse_signatures(body) if each.name == name][:1]:
            said = int.from_bytes(each.signature[:8], "big")
            self.clocks.read(line.peer, said, asked_ms=answered - since, answered_ms=answered)

    def _refused(self, line: Line, why: str) -> Outcome:
        _log.warning("cosigning-refused", peer=self._name(line.peer), code=why)
        self._metrics.add(metrics.COSIGNING_REFUSED, self._name(line.peer))
        return Outcome()

    def _take_heads(self, line: Line, items: Iterable[tuple[bytes, int, bytes]]) -> Outcome:
        claims = []
        for node_id, size, root in items:
            if self._tells(line, node_id):
                found = self._core.witness.saw_claim(node_id, size, root, source=line.peer)
                claims += [] if found is None else [found]
        return Outcome(claims=tuple(claims))

    def _take_head(self, line: Line, node_id: bytes, note: bytes) -> Outcome:
        for key, claim in list(self._claims.items()):
            if key[:2] == (line.peer, node_id):
                del self._claims[key]
                fork = self._core.witness.refuted(claim, note) if note else None
                return Outcome(forks=() if fork is None else (fork,))
        return Outcome()

    def after(self, line: Line, outcome: Outcome) -> None:
        """Say what follows from an act that is durable now."""
        for frame in outcome.say:
            self._say(line, frame)
        self.alarm(outcome.forks)
        for claim in outcome.claims:
            self._ask_for(claim)
        if outcome.cosigned:
            self._metrics.add(metrics.COSIGNED)

    def alarm(self, forks: Iterable[Forked]) -> None:
        """Count new evidence and pass it on to all whom it concerns."""
        for fork in forks:
            self._alarm(fork)

    def _alarm(self, fork: Forked) -> None:
        self._metrics.add(metrics.LOG_FORKS)
        _log.error("log-forked", peer=self._name(fork.node_id))
        for line in list(self._links.values()):
            if line.open and self._warns(line, fork.node_id):
                self._say(line, LogForked(fork.node_id, fork.proof))

    def _ask_for(self, claim: Claimed) -> None:
        """Ask who said something that a log denies for the signature that would show it."""
        line = self._links.get(claim.source)
        if line is None or not line.open:
            return
        waiting = [key for key in self._claims if key[0] == claim.source]
        if len(waiting) >= _MAX_CLAIMS:
            del self._claims[waiting[0]]  # who never answers is in nobody's way but its own
        self._claims[claim.source, claim.node_id, claim.size] = claim
        self._say(line, WantHead(claim.node_id, claim.size))

    # --- reading a peer's log ----------------------------------------------------------------
    def read(self, peer: bytes, paths: Iterable[str], take: Callable[[str, bytes], None]) -> bool:
        """Ask *peer* for resources of its log; *take* gets each. False if it is not linked."""
        line = self._links.get(peer)
        if line is None or not line.open:
            return False
        parts = self._readers.setdefault(peer, Parts(take))
        parts.take = take
        for path in paths:
            parts.paths.add(path)
            self._say(line, WantLog(path))
        return True

    def stop_reading(self, peer: bytes) -> None:
        """Let what was asked of *peer*'s log come to nothing."""
        self._readers.pop(peer, None)

    def _name(self, node_id: bytes) -> str:
        if node_id == self._core.node_id:
            return "this node"
        peer = self._core.trust.peers.get(node_id)
        return peer.name if peer is not None else "unknown"
