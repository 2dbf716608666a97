"""Notices and new slots on links: whom they are sent to, and what follows of those that come.

- A notice goes to the author of the epoch, and an answer to the reader that asked, on the link with
  it: nobody passes either on.
- What is refused is not answered. Bad signatures and slots that do not open are counted against the
  peer; what can happen to an honest one is not.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import structlog

from node import metrics
from node.clock import Clock
from node.core import Core
from node.line import Line
from node.metrics import Metrics
from protocol.errors import PeerError, SignatureError, UnknownCardError
from protocol.quota import PAUSE_MS, Over
from protocol.reseal import BLAMELESS, ResealFrame, Unopened
from protocol.session import Effect

_log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Resealed:
    """What came of a notice or new slot that was in order; *error* says why it did not open."""

    error: PeerError | None = None


class ResealingLinks:
    """What all links together say of epochs that do not open."""

    def __init__(
        self,
        core: Core,
        *,
        clock: Clock,
        links: Mapping[bytes, Line],
        perform: Callable[[Line, Iterable[Effect]], None],
        counts: Metrics,
    ) -> None:
        self._core, self._clock, self._links = core, clock, links
        self._perform, self._metrics = perform, counts

    def tick(self) -> None:
        """Send what is due to linked authors and readers. Call about once a second.

        Raises:
            BusyError: the disk is full; it is due still.
        """
        for author in sorted(self._core.resealing.authors_to_ask() & self._links.keys()):
            if self._links[author].open and self._core.trust.accepts_author(author):
                self._ask(self._links[author])
        for reader in sorted(self._core.resealing.readers_owed() & self._links.keys()):
            if self._links[reader].open:
                self._give(self._links[reader])

    def _ask(self, line: Line) -> None:
        notices = self._core.resealing.notices(line.peer)
        for notice in notices:
            self._perform(line, line.session.say(notice))
        if notices:
            self._metrics.add(metrics.UNOPENED, "out", by=len(notices))
            _log.warning("epochs-unopened", peer=self._name(line), count=len(notices))

    def _give(self, line: Line) -> None:
        answers = self._core.resealing.answers(line.peer)
        for answer in answers:
            self._perform(line, line.session.say(answer))
        if answers:
            self._metrics.add(metrics.SEALED_AGAIN, "out", by=len(answers))
            _log.warning("sealed-again", peer=self._name(line), count=len(answers))

    def pays(self, line: Line) -> bool:
        """Charge the peer for a signature to verify; False if that is beyond its quota.

        Then the frame is dropped: its sender repeats it.
        """
        verdict = line.meter.charge(checks=1, now=self._clock.monotonic())
        if isinstance(verdict, Over):
            line.pause_ms = PAUSE_MS
            return False
        return True

    def act(self, frame: ResealFrame) -> Resealed:
        """Take what a peer said. Call inside a transaction, of which it is a part.

        Raises:
            PeerError: it is refused.
        """
        if isinstance(frame, Unopened):
            self._core.resealing.take_notice(frame)
            return Resealed()
        return Resealed(self._core.resealing.take_slot(frame))

    def after(self, line: Line, frame: ResealFrame, outcome: Resealed | PeerError) -> None:
        """Do what follows of something that was taken or refused.

        Raises:
            BusyError: the disk is full; the answer is owed still.
        """
        error = outcome.error if isinstance(outcome, Resealed) else outcome
        if error is not None:
            self._refused(line, error)
        elif isinstance(frame, Unopened):
            self._metrics.add(metrics.UNOPENED, "in")
            _log.warning("epoch-unopened-there", peer=self._name(line))
            self._give(line)
        else:
            self._metrics.add(metrics.SEALED_AGAIN, "in")
            _log.info("epoch-mended", peer=self._name(line))

    def _refused(self, line: Line, error: PeerError) -> None:
        name = self._name(line)
        _log.warning("reseal-refused", peer=name, code=error.code)
        self._metrics.add(metrics.RESEALS_REFUSED, error.code)
        if isinstance(error, SignatureError):
            self._metrics.add(metrics.BAD_SIGNATURES, name)
            line.meter.bad_signature(self._clock.monotonic())
        if isinstance(error, UnknownCardError):
            # It has a new card since the link opened; it says again what it said.
            held = self._core.trust.peer(line.peer).chain.head.n
            self._perform(line, line.session.ask_statements(held + 1))
        self._perform(line, line.session.blame(0 if isinstance(error, BLAMELESS) else 1))

    def _name(self, line: Line) -> str:
        peer = self._core.trust.peers.get(line.peer)
        return peer.name if peer is not None else "unknown"
