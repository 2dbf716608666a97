"""Everything a node decides about its links, and every database act that follows; synchronous.

- One thread calls it, one call after the other: the engine's desk, or the simulator.
- ``handle`` takes whatever messages have come meanwhile and commits what they bring in one
  transaction; only then are they answered. So nothing leaves that is not durable.
- It never touches a socket: what is to be written waits in the lanes of each ``Line``.
- A push is a hint, the frontier is the truth: what a push missed is found by comparing what both
  sides hold, and pulled.
- A StoreError stops the node; a fault of a peer ends that peer's line and nothing else.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Final, assert_never

import structlog

from keys.identity import Random
from keys.trust import Peer
from node import journal, metrics
from node.attachments import Attachments
from node.clock import Clock
from node.core import Core
from node.exchange import Exchange
from node.intake import Taken, id_of
from node.key_talk import KeyTalk
from node.line import Line
from node.metrics import Metrics
from node.offering import Offering
from node.resealing_links import Resealed, ResealingLinks
from node.statement_links import StatementLinks
from node.witnessing import BEAT_MS, Outcome, Witnessing
from protocol import limits, suite
from protocol.blob import BlobChunk, BlobFrame, NoBlob, WantBlob
from protocol.errors import (
    BusyError,
    FrameError,
    LinkTimeoutError,
    PeerError,
    PicketError,
    ReceiptError,
    SignatureError,
    StoreError,
    UnknownCardError,
    UntrustedKeyError,
)
from protocol.fork import Fork
from protocol.frames import Forked, Receipts, Refusal, Runs
from protocol.key_frames import KeyFrame
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
from protocol.quota import BACKOFF, PAUSE_MS, QUOTA, Meter, Over, Quota
from protocol.reseal import ResealFrame, SealedAgain, Unopened
from protocol.session import (
    Close,
    Commit,
    Effect,
    Heard,
    LoadStatements,
    Local,
    NoteLate,
    NoteRefusals,
    NoteSettled,
    Opened,
    Remote,
    Send,
    Session,
    StoreReceipts,
    StoreStatements,
)
from protocol.session import Gossip as Said

_log = structlog.get_logger()
_SWEEP_MS: Final = 60_000
_BULK: Final = 32
"""Envelopes taken at once from one peer, from which on receipts wait to go together."""
_HOLD_MS: Final = 500
_CLOCK_SET_MS: Final = 2_000
_FRAME_US: Final = 20
_BYTES_PER_US: Final = 1_000
_QUIET_CODES: Final = frozenset({"shutdown", "second-link"})
_Outcome = Taken | Receipts | Runs | PeerError | Fork | Outcome | Resealed | None


@dataclass(frozen=True, slots=True)
class _Act:
    """One effect that changes the database, and the line that it came from."""

    line: Line
    effect: Commit | StoreReceipts | NoteSettled | NoteRefusals | NoteLate | Heard


class Gossip:
    """The links of a node and what they bring."""

    def __init__(
        self,
        core: Core,
        *,
        clock: Clock,
        random: Random,
        quota: Quota | None = None,
        counts: Metrics | None = None,
        receipts_wait_ms: int = 0,
        beat_ms: int = BEAT_MS,
    ) -> None:
        """Begin without links.

        Args:
            core: the node.
            clock: its clock.
            random: its source of random bytes.
            quota: what it takes of each peer.
            counts: where to count.
            receipts_wait_ms: how long a receipt may wait for others to go under one signature;
                whoever gives it calls ``answer`` in time.
            beat_ms: how often the head of the log is shown to witnesses.
        """
        self.core = core
        self.metrics = counts or Metrics()
        self.lines: dict[Line, None] = {}
        self.links: dict[bytes, Line] = {}
        self.trouble: dict[bytes, str] = {}
        self._clock, self._random = clock, random
        self._quota = quota or Quota()
        self._meters: dict[bytes, Meter] = {}
        self._swept_at = clock.monotonic()
        self._wall_ahead = clock.now() - clock.monotonic()
        self._waits_known = False
        self._busy = False
        self._receipts_wait_ms = receipts_wait_ms
        self._gathering: list[_Act] = []
        self.exchange = Exchange(
            core,
            clock=clock,
            random=random,
            links=self.links,
            # It speaks to others than who is heard; the fault of one must end its own line.
            perform=lambda line, effects: self._guarded(line, self._perform, effects),
            counts=self.metrics,
        )
        self.offering = Offering(core, clock=clock, perform=self._perform)
        self.witnessing = Witnessing(
            core,
            clock=clock,
            random=random,
            links=self.links,
            perform=lambda line, effects: self._guarded(line, self._perform, effects),
            counts=self.metrics,
            beat_ms=beat_ms,
        )
        self.keys = StatementLinks(
            core,
            links=self.links,
            perform=lambda line, effects: self._guarded(line, self._perform, effects),
            end=self.end,
        )
        self.key_talk = KeyTalk(
            core,
            clock=clock,
            links=self.links,
            perform=lambda line, effects: self._guarded(line, self._perform, effects),
            counts=self.metrics,
        )
        self.resealing = ResealingLinks(
            core,
            clock=clock,
            links=self.links,
            perform=lambda line, effects: self._guarded(line, self._perform, effects),
            counts=self.metrics,
        )
        self.attachments = Attachments(
            core,
            clock=clock,
            links=self.links,
            perform=lambda line, effects: self._guarded(line, self._perform, effects),
        )

    # --- life of a link ----------------------------------------------------------------------
    def join(
        self, peer: Peer, certificate: bytes, *, dialer: bool, shown: bytes | None = None
    ) -> Line:
        """Begin a line with *peer*, with which TLS is up under *certificate* (DER).

        *shown* is the certificate that this node has shown, by default the one in use.
        """
        now = self._clock.monotonic()
        own, head = self.core.trust.own, peer.chain.head
        local = Local(
            own.network, own.node_id, own.head.n, own.head.digest,
            suite.digest("certificate", shown or self.core.card.tls[0]), self.core.keys.link,
        )  # fmt: skip
        remote = Remote(
            peer.node_id, suite.digest("certificate", certificate), peer.card.link,
            head.n, head.digest,
        )  # fmt: skip
        session = Session(
            local=local, remote=remote, dialer=dialer, nonce=self._random(32), now=now
        )
        line = Line(peer.node_id, dialer, session, self._meter(peer.node_id, now))
        self.lines[line] = None
        if line.meter.barred(now):
            self.metrics.add(metrics.BACKOFFS, peer.name)
            self._close(line, BACKOFF)
        else:
            self._perform(line, session.start())
        return line

    def _meter(self, peer: bytes, now: int) -> Meter:
        if peer not in self._meters:
            self._meters[peer] = Meter(self._quota, now=now)
        return self._meters[peer]

    def end(self, line: Line, code: str) -> None:
        """Say goodbye on *line* for a reason of our own."""
        self._perform(line, line.session.close(code))

    def lost(self, line: Line, code: str = "link-lost") -> None:
        """Forget *line*, whose connection is gone; *code* says why if the session does not."""
        if line not in self.lines:
            return
        del self.lines[line]
        code = line.closed or code
        line.closed = code
        self.attachments.lost(line)
        self.key_talk.lost(line)
        self.metrics.add(metrics.LINKS_CLOSED, code)
        if self.links.get(line.peer) is line:
            del self.links[line.peer]
            self.exchange.lost(line)
            self.witnessing.lost(line)
            line.meter.withdraw()
            try:
                self.core.left(line.peer)
            except BusyError as error:
                self._note_busy(error)
            _log.info("link-closed", peer=self._name(line.peer), code=code)

    def _close(self, line: Line, code: str) -> None:
        if line.closed is None:
            line.closed = code

    # --- events ------------------------------------------------------------------------------
    def handle(
        self,
        arrived: Sequence[tuple[Line, bytes]],
        acts: Sequence[Callable[[], object]] = (),
    ) -> list[object]:
        """Take messages of peers, in order; commit what they bring together, then answer.

        Args:
            arrived: messages, each with the line on which it came.
            acts: what this node does itself (releases), to share the transaction.

        Returns:
            For each act its result or the PicketError that it raised.

        Raises:
            StoreError: the node must stop.
        """
        for line, message in arrived:
            if line.closed is None:
                self._guarded(line, self._receive, message)
        return self._settle_gathered(acts)

    def _receive(self, line: Line, message: bytes) -> None:
        now = self._clock.monotonic()
        self._perform(line, line.session.receive(message, now))
        # Envelopes are charged one by one; here is the decoding of whatever came, which is not
        # refused but makes the reader of the link wait.
        cost = _FRAME_US + len(message) // _BYTES_PER_US
        if isinstance(line.meter.charge(cpu_us=cost, now=now), Over):
            line.pause_ms = PAUSE_MS

    def tick(self) -> None:
        """Let time pass: deadlines, pulls, announcements, carriers. Call about once a second.

        Raises:
            StoreError: the node must stop.
        """
        now = self._clock.monotonic()
        for line in list(self.lines):
            if line.closed is None:
                self._guarded(line, self._tick_line, now)
        self._settle_gathered()
        self.answer()
        try:
            self._watch_clock(now)
            self.witnessing.tick(now)
            self.core.locking.tick()
            self.keys.tick()
            if not self.core.signing_waits:
                self.core.seal()
                self.core.settle_fence()
            self.exchange.tick(now)
            self.resealing.tick()
            self.key_talk.tick()
            self.attachments.tick(now)
            self.core.outbox.ask_carriers(frozenset(self.links))
            if now - self._swept_at >= _SWEEP_MS:
                self._swept_at = now
                self.metrics.add(metrics.EXPIRED, by=self.core.outbox.expire_forwards())
                self.core.outbox.custody.let_go()
                self.core.erasures.sweep()
                self.keys.sweep()
                self.core.still_linked(frozenset(self.links))
        except BusyError as error:
            self._note_busy(error)
        else:
            self._busy = False

    def _watch_clock(self, now: int) -> None:
        """Let nothing wait by a clock that has been set since, or while the node was down."""
        ahead = self._clock.now() - now
        if not self._waits_known or abs(ahead - self._wall_ahead) > _CLOCK_SET_MS:
            self.core.outbox.forget_waits()
            self._waits_known = True
        self._wall_ahead = ahead

    def _tick_line(self, line: Line, now: int) -> None:
        self._perform(line, line.session.tick(now))
        self.offering.retry(line)

    def pump(self) -> None:
        """Offer what is due on each link. Call after everything that may have made more of it.

        Raises:
            StoreError: the node must stop.
        """
        self.exchange.pull()
        for line in list(self.links.values()):
            if line.open and self.core.trust.gives_to(line.peer):
                self._guarded(line, self._offer)
        self.attachments.pump()

    def _offer(self, line: Line) -> None:
        changes = self.core.receipts.changes
        if line.relayed_at != changes:
            found = self.core.receipts.for_author(line.peer, passed=line.session.passed)
            for receipts in found:
                self._perform(line, line.session.relay_receipts(receipts))
            # A full page may have left some over.
            line.relayed_at = -1 if len(found) >= limits.MAX_FRAME_RECEIPTS else changes
        self.offering.offer(line)

    def _guarded(self, line: Line, act: Callable[..., None], *arguments: object) -> None:
        """Run *act*; a fault of the line's peer, or a bug met on it, ends this line only."""
        try:
            act(line, *arguments)
        except BusyError as error:
            self._note_busy(error)
        except StoreError:
            raise
        except LinkTimeoutError as error:
            self.metrics.add(metrics.SLOW_READERS, self._name(line.peer))
            self._fault(line, error)
        except PicketError as error:
            self._fault(line, error)
        except Exception as error:  # noqa: BLE001  a bug met on one link must not end the others
            self._close(line, journal.bug(error))

    def _fault(self, line: Line, error: PicketError) -> None:
        self.trouble[line.peer] = error.diagnostics()
        self._close(line, error.code)

    def _note_busy(self, error: BusyError) -> None:
        self.metrics.add(metrics.DISK_BUSY)
        if not self._busy:
            _log.error("disk-busy", code=error.code)
        self._busy = True

    # --- effects -----------------------------------------------------------------------------
    def _perform(self, line: Line, effects: Iterable[Effect]) -> None:
        for effect in effects:
            match effect:
                case Send():
                    line.push(effect)
                case Opened():
                    self._opened(line)
                case Commit() | StoreReceipts() | NoteSettled() | NoteRefusals() | NoteLate():
                    self._gathering.append(_Act(line, effect))
                case Heard(frame=Forked() | Cosign() | Cosigned() | Heads() | Consistency()
                           | LogForked() | Unopened() | SealedAgain()):  # fmt: skip
                    self._gathering.append(_Act(line, effect))
                case Heard(frame=Head(node_id=about)) if about != self.core.node_id:
                    self._gathering.append(_Act(line, effect))
                case Heard():
                    self._heard(line, effect.frame)
                case LoadStatements():
                    self.keys.asked(line, effect.node_id, effect.first)
                case StoreStatements():
                    self._settle_gathered()
                    self.keys.heard(line, effect)
                case Close():
                    self._closed(line, effect)
                case _:
                    assert_never(effect)

    def _heard(
        self, line: Line, frame: Said | BlobFrame | ResealFrame | KeyFrame | LogFrame
    ) -> None:
        if isinstance(frame, WantBlob | BlobChunk | NoBlob):
            self.attachments.heard(line, frame)
            return
        self._settle_gathered()
        if isinstance(frame, KeyFrame):
            self.key_talk.heard(line, frame)
            return
        if isinstance(frame, WantHead | WantConsistency | WantLog | LogPart | Head):
            self.witnessing.heard(line, frame)
            return
        acts = Unopened | SealedAgain | Cosign | Cosigned | Heads | Consistency | LogForked
        assert not isinstance(frame, acts)  # noqa: S101  those are database acts
        self.exchange.heard(line, frame)

    def _opened(self, line: Line) -> None:
        other = self.links.get(line.peer)
        if other is not None and not self._newer_wins(other, line):
            self.end(line, "second-link")
            return
        if other is not None:
            self.exchange.lost(other)
            self.attachments.lost(other)
        self.links[line.peer] = line
        line.opened_at = self._clock.monotonic()
        line.opened_position = self.core.log.size
        self.trouble.pop(line.peer, None)
        self.metrics.add(metrics.LINKS_OPENED, "dialled" if line.dialer else "accepted")
        _log.info("link-open", peer=self._name(line.peer))
        if other is not None:
            self.end(other, "second-link")
        try:
            self.core.contact(line.peer)
        except BusyError as error:
            self._note_busy(error)
        self.keys.opened(line)
        self.key_talk.opened(line)
        self.witnessing.opened(line)
        self.exchange.opened(line)
        self.attachments.opened(line)

    def _newer_wins(self, old: Line, new: Line) -> bool:
        """Of two links the one dialled by the lower node id stays; of two alike, the newer."""
        if old.dialer == new.dialer:
            return True
        return new.dialer == (self.core.node_id < new.peer)

    def _closed(self, line: Line, effect: Close) -> None:
        self._close(line, effect.code)
        name = self._name(line.peer)
        if effect.error is None:
            if effect.code not in _QUIET_CODES:
                self.trouble[line.peer] = f"{name} ended: {effect.code}"
            return
        self.trouble[line.peer] = effect.error.diagnostics()
        _log.warning("link-refused", peer=name, code=effect.code)
        if line.opened_at is not None and isinstance(effect.error, FrameError):
            self.metrics.add(metrics.BROKEN_FRAMES, name)
            line.meter.broken_frame(self._clock.monotonic())

    # --- database acts -----------------------------------------------------------------------
    def _settle_gathered(self, own: Sequence[Callable[[], object]] = ()) -> list[object]:
        """Commit what was gathered as one transaction, with acts of our own, then answer it."""
        acts, self._gathering = self._gathering, []
        if not acts and not own:
            return []
        admitted = [self._within_quota(act) for act in acts]
        results: list[object]
        try:
            with self.core.logged(seal=False):
                outcomes = [self._act(act) for act in admitted]
                results = [self._own(act) for act in own]
        except BusyError as error:
            self._note_busy(error)
            outcomes = [self._unable(act, error) for act in admitted]
            results = [error for _ in own]
        self.core.pending = self.core.pending or any(
            isinstance(outcome, Taken) and outcome.stored for outcome in outcomes
        )
        for act, outcome in zip(admitted, outcomes, strict=True):
            self._guarded(act.line, self._answer, act, outcome)
        self.witnessing.alarm(self.core.witness.found())
        for line in dict.fromkeys(act.line for act in admitted):
            self._date_answer(line)
        self.answer()
        return results

    def _own(self, act: Callable[[], object]) -> object:
        try:
            with self.core.part():
                return act()
        except StoreError:
            raise
        except PicketError as error:
            return error

    def _within_quota(self, act: _Act) -> _Act:
        """Return *act* without the envelopes that go beyond the quota of their giver."""
        if not isinstance(act.effect, Commit):
            return act
        wires, line, now = act.effect.wires, act.line, self._clock.monotonic()
        verdicts = line.meter.charge_each([len(wire) for wire in wires], now=now)
        over = [
            (wire, verdict)
            for wire, verdict in zip(wires, verdicts, strict=True)
            if isinstance(verdict, Over)
        ]
        if not over:
            return act
        line.pause_ms = PAUSE_MS
        name = self._name(line.peer)
        self.metrics.add(metrics.QUOTA_REFUSALS, name, over[0][1].what, by=len(over))
        _log.warning("over-quota", peer=name, code=str(over[0][1].what), count=len(over))
        refusals = [Refusal(id_of(wire), QUOTA, verdict.retry_after_ms) for wire, verdict in over]
        self._perform(line, line.session.committed((), refusals, faults=0))
        return replace(act, effect=Commit(wires[: len(wires) - len(over)]))

    def _act(self, act: _Act) -> _Outcome:
        core, peer = self.core, act.line.peer
        match act.effect:
            case Commit(wires):
                return core.take_in(wires, giver=peer)
            case StoreReceipts(receipts):
                return self._part(lambda: core.take_receipts(receipts)) or receipts
            case NoteSettled(items):
                core.receipts_settled(peer, items)
            case NoteRefusals(items):
                core.outbox.refused(peer, items)
            case NoteLate(ids):
                core.outbox.late(peer, ids)
            case Heard(Forked(proof)):
                return self._part(lambda: core.take_fork(proof, giver=peer))
            case Heard(Unopened() | SealedAgain() as told):
                if self.resealing.pays(act.line):
                    return self._part(lambda: self.resealing.act(told))
            case Heard(
                Cosign() | Cosigned() | Heads() | Head() | Consistency() | LogForked() as frame
            ):
                return self._part(lambda: self.witnessing.act(act.line, frame))
            case _:
                raise AssertionError(act.effect)
        return None

    def _part(self, act: Callable[[], object]) -> PeerError | Fork | Outcome | Resealed | None:
        """Run *act* as a part of the transaction that its own fault undoes alone."""
        try:
            with self.core.part():
                result = act()
        except PeerError as error:
            return error
        return result if isinstance(result, Fork | Outcome | Resealed) else None

    def _unable(self, act: _Act, error: BusyError) -> _Outcome:
        """Return the outcome of *act* when the disk takes nothing: the peer will try again."""
        if isinstance(act.effect, Commit):
            return self.core.too_busy(act.effect.wires, error)
        if isinstance(act.effect, StoreReceipts):
            return ReceiptError("the disk took no receipt; it is asked for again")
        if isinstance(act.effect, Heard) and isinstance(act.effect.frame, Cosign):
            return self.witnessing.too_busy()
        return None

    # --- answers -----------------------------------------------------------------------------
    def _answer(self, line: Line, act: _Act, outcome: _Outcome) -> None:
        match act.effect, outcome:
            case Commit(wires), Taken():
                line.unanswered_bytes += sum(map(len, wires))
                self._answer_envelopes(line, outcome)
            case StoreReceipts(receipts), _:
                self._answer_receipts(line, receipts, outcome)
            case NoteRefusals(items), _:
                self._after_refusals(line, items)
            case Heard(Unopened() | SealedAgain() as frame), Resealed() | PeerError():
                self.resealing.after(line, frame, outcome)
            case Heard(Forked()), PeerError():
                known = isinstance(outcome, UnknownCardError)
                _log.warning("fork-refused", peer=self._name(line.peer), code=outcome.code)
                self._perform(line, line.session.blame(0 if known else 1))
            case Heard(), Fork():
                self._after_forks(line, [outcome])
            case Heard(), Outcome():
                self.witnessing.after(line, outcome)
            case Heard(), PeerError():
                _log.warning("log-refused", peer=self._name(line.peer), code=outcome.code)
                self.metrics.add(metrics.LOG_REFUSED, self._name(line.peer))
                self._perform(line, line.session.blame(1))
            case _:
                pass

    def _answer_envelopes(self, line: Line, taken: Taken) -> None:
        name = self._name(line.peer)
        for refusal in taken.refusals:
            _log.warning("envelope-refused", peer=name, code=refusal.code)
            self.metrics.add(metrics.ENVELOPES_REFUSED, refusal.code)
        self.metrics.add(metrics.DUPLICATES, by=taken.known)
        if taken.skewed:
            self.metrics.add(metrics.CLOCK_SKEWS, name, by=taken.skewed)
            _log.warning("clock-skew", peer=name, count=taken.skewed)
        if taken.bad_signatures:
            self.metrics.add(metrics.BAD_SIGNATURES, name, by=taken.bad_signatures)
            now = self._clock.monotonic()
            if line.meter.bad_signature(now, count=taken.bad_signatures):
                self.end(line, SignatureError.code)
        line.unanswered += taken.answers
        self._perform(line, line.session.committed((), taken.refusals, faults=taken.faults))
        if taken.stored:
            _log.info("envelopes-logged", peer=name, count=len(taken.stored))
            self.exchange.committed(line, taken.streams)
        self._after_forks(line, taken.forks)

    def _date_answer(self, line: Line) -> None:
        """Say when to receipt what was taken: soon, unless it is much and more of it will come."""
        now, count = self._clock.monotonic(), len(line.unanswered)
        fresh, line.unanswered_count = count - line.unanswered_count, count
        if not fresh:
            return
        if fresh == count:
            line.unanswered_since = now
        line.in_bulk = fresh >= _BULK
        line.answer_at = line.unanswered_since + (
            _HOLD_MS if line.in_bulk else self._receipts_wait_ms
        )
        if count >= limits.MAX_RUN or line.unanswered_bytes >= limits.MAX_UNANSWERED:
            line.answer_at = now

    @property
    def answer_in(self) -> int | None:
        """In how many ms ``answer`` has something to do; None if nothing waits."""
        due = [line.answer_at for line in self._unanswered()]
        if self.core.signing_waits:
            return None
        return max(0, min(due) - self._clock.monotonic()) if due else None

    def _unanswered(self) -> list[Line]:
        return [line for line in self.lines if line.unanswered and line.closed is None]

    def answer(self) -> None:
        """Receipt what was taken and has waited long enough, and with it what else may go.

        Raises:
            StoreError: the node must stop.
        """
        if self.core.signing_waits:
            return  # receipts go out once a witness has said that this log is whole
        now = self._clock.monotonic()
        waiting = self._unanswered()
        if any(line.answer_at <= now for line in waiting):
            for line in waiting:
                if line.answer_at <= now or not line.in_bulk:
                    self._guarded(line, self._receipt)

    def _receipt(self, line: Line) -> None:
        count = len(line.unanswered)
        answers, line.unanswered = list(dict.fromkeys(line.unanswered)), []
        line.unanswered_count = line.unanswered_bytes = 0
        self.core.seal()
        self.metrics.add(metrics.RECEIPTS, "out", by=count)
        receipts = self.core.receipts.answers(answers)
        self._perform(line, line.session.committed(receipts, (), faults=0))

    def _answer_receipts(self, line: Line, receipts: Receipts | Runs, outcome: _Outcome) -> None:
        session = line.session
        if not isinstance(outcome, PeerError):
            self.metrics.add(metrics.RECEIPTS, "in", by=_count(receipts))
            self._perform(line, session.stored(receipts))
            return
        _log.warning("receipt-refused", peer=self._name(line.peer), code=outcome.code)
        self.metrics.add(metrics.RECEIPTS_REFUSED, outcome.code)
        if receipts.recipient == line.peer and not self._busy:
            if isinstance(outcome, SignatureError):
                self.metrics.add(metrics.BAD_SIGNATURES, self._name(line.peer))
                line.meter.bad_signature(self._clock.monotonic())
            self.end(line, outcome.code)
        else:
            # A carrier passes on what it holds; we may have lost the envelope or lack a card.
            blameless = isinstance(outcome, (ReceiptError, UntrustedKeyError))
            self._perform(line, session.blame(0 if blameless else 1))

    def _after_refusals(self, line: Line, items: Sequence[Refusal]) -> None:
        for item in items:
            self.metrics.add(metrics.ENVELOPES_NOT_TAKEN, item.code)
        _log.warning(
            "peer-refused", peer=self._name(line.peer), code=items[0].code, count=len(items)
        )
        waits = [item.retry_after for item in items if item.code == QUOTA]
        if waits:
            now = self._clock.monotonic()
            line.held_until = now + min(max(waits), limits.THROTTLE_MS)
            line.throttled_until = line.held_until + limits.THROTTLE_MS
        lacking = [item.envelope_id for item in items if item.code == UnknownCardError.code]
        for author in self.core.authors_of(lacking):
            self.keys.send(line, author, 0)

    def _after_forks(self, line: Line, forks: Sequence[Fork]) -> None:
        for fork in forks:
            self.metrics.add(metrics.FORKS)
            _log.error("stream-forked", peer=self._name(fork.key.author))
            self.exchange.forked(fork, giver=line.peer)

    # --- what others ask ---------------------------------------------------------------------
    def over_quota(self) -> dict[bytes, int]:
        """Return how many envelopes of each peer were refused for its quota lately."""
        now = self._clock.monotonic()
        reports = ((peer, meter.report(now)) for peer, meter in self._meters.items())
        return {peer: report.refused for peer, report in reports if report is not None}

    def in_flight(self, peer: bytes) -> frozenset[bytes]:
        """Return the ids of envelopes that were sent to *peer* and not answered yet."""
        line = self.links.get(peer)
        return frozenset() if line is None else line.session.in_flight

    def barred(self) -> dict[bytes, int]:
        """Return for how many ms more each peer is kept out after faults."""
        now = self._clock.monotonic()
        left = {peer: meter.barred(now) for peer, meter in self._meters.items()}
        return {peer: ms for peer, ms in left.items() if ms}

    def _name(self, node_id: bytes) -> str:
        peer = self.core.trust.peers.get(node_id)
        return peer.name if peer is not None else "unknown"


def _count(receipts: Receipts | Runs) -> int:
    if isinstance(receipts, Runs):
        return sum(len(run.ids) for run in receipts.runs)
    return len(receipts.items)
