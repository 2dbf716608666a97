"""What links say of keys besides statements: lost ones, suspended nodes, and proofs of having one.

- A record of a lost key goes to the author that it is for, again each minute of a link, until that
  says that it has written it down.
- A suspension that is followed here is passed on once a link; what is not followed is dropped.
- A challenge is answered once this node has its keys; its answer says nothing else.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final, assert_never

import structlog

from node import suspending
from node.clock import Clock
from node.core import Core
from node.line import Line
from node.metrics import BAD_SIGNATURES, KEY_FRAMES_REFUSED, Metrics
from node.seal_proofs import Asked
from protocol import exposure, limits, possession
from protocol.errors import (
    OpenError,
    PeerError,
    SignatureError,
    UnknownCardError,
    WeakKeyError,
)
from protocol.exposure import Exposed, ExposureHeard
from protocol.key_frames import KeyFrame, Suspended
from protocol.possession import SealChallenge, SealProof
from protocol.quota import PAUSE_MS, Over
from protocol.session import Effect

_log = structlog.get_logger()
_AGAIN_MS: Final = 60_000


@dataclass(slots=True)
class _Talk:
    """What was said on one link."""

    told: dict[bytes, int] = field(default_factory=dict)
    """Records of lost keys, and when each was sent last (monotonic)."""
    suspensions: set[bytes] = field(default_factory=set)
    asked: Asked | None = None
    challenges: dict[bytes, SealChallenge] = field(default_factory=dict)
    """Challenges that wait for our keys, by the key."""


class KeyTalk:
    """What all links together say of keys."""

    def __init__(
        self,
        core: Core,
        *,
        clock: Clock,
        links: Mapping[bytes, Line],
        perform: Callable[[Line, Iterable[Effect]], None],
        counts: Metrics,
    ) -> None:
        """Begin without links."""
        self._core, self._clock, self._links = core, clock, links
        self._perform, self._metrics = perform, counts
        self._talks: dict[Line, _Talk] = {}
        self._suspended: Mapping[bytes, int] | None = None
        self._followed: tuple[suspending.Followed, ...] = ()

    def opened(self, line: Line) -> None:
        """Begin to talk on *line*."""
        self._talks[line] = _Talk()

    def lost(self, line: Line) -> None:
        """Forget *line*."""
        self._talks.pop(line, None)

    # --- saying ------------------------------------------------------------------------------
    def tick(self) -> None:
        """Say on each link what is due. Call about once a second.

        Raises:
            BusyError: the disk is full; it is due still.
        """
        if self._suspended is not self._core.trust.suspended:
            self._suspended = self._core.trust.suspended
            self._followed = suspending.followed(self._core)
        owed = self._core.exposures.to_tell()
        for line in list(self._links.values()):
            talk = self._talks.get(line)
            if not line.open or talk is None:
                continue
            if line.peer in owed:
                self._tell(line, talk)
            self._pass_on(line, talk)
            self._ask(line, talk)
            self._answer(line, talk)

    def _tell(self, line: Line, talk: _Talk) -> None:
        now = self._clock.monotonic()
        for said in self._core.exposures.waiting(line.peer):
            digest = said.exposure.digest
            if now >= talk.told.get(digest, now) + (_AGAIN_MS if digest in talk.told else 0):
                talk.told[digest] = now
                self._perform(line, line.session.say(said))
                _log.warning("exposure-told", peer=self._name(line))

    def _pass_on(self, line: Line, talk: _Talk) -> None:
        for each in self._followed:
            if each.digest not in talk.suspensions and each.node_id != line.peer:
                talk.suspensions.add(each.digest)
                self._perform(line, line.session.say(Suspended(each.wire)))

    def _ask(self, line: Line, talk: _Talk) -> None:
        key = self._core.seal_proofs.lacking(line.peer)
        if key is None or (talk.asked is not None and talk.asked.ekid == key.ekid):
            return
        try:
            challenge, talk.asked = self._core.seal_proofs.ask(line.peer, key)
        except WeakKeyError:
            return  # an import refuses such a key; nothing is sealed to it either
        self._perform(line, line.session.say(challenge))

    def _answer(self, line: Line, talk: _Talk) -> None:
        vault = self._core.vault
        if vault is None or not talk.challenges:
            return
        waiting, talk.challenges = list(talk.challenges.values()), {}
        for challenge in waiting:
            try:
                proof = possession.answer_challenge(
                    challenge, challenger=line.peer, holder=self._core.node_id, unsealer=vault
                )
            except OpenError:
                _log.error("seal-key-missing", peer=self._name(line))
                continue
            self._perform(line, line.session.say(proof))

    # --- hearing -----------------------------------------------------------------------------
    def heard(self, line: Line, frame: KeyFrame) -> None:
        """Take what a peer said; what is refused is counted, and not answered.

        Raises:
            BusyError: the disk is full; the peer says it again.
        """
        talk = self._talks.get(line)
        if talk is None or not self._pays(line, frame):
            return
        try:
            self._take(line, talk, frame)
        except PeerError as error:
            self._refused(line, error)

    def _pays(self, line: Line, frame: KeyFrame) -> bool:
        """Charge the peer for the signatures to verify; False if that is beyond its quota."""
        match frame:
            case Suspended():
                checks = limits.MAX_DIRECTORY
            case Exposed(said):
                checks = 1 + len(said.envelope_ids) // limits.EXPOSED_PER_CHECK
            case _:
                checks = 1
        verdict = line.meter.charge(checks=checks, now=self._clock.monotonic())
        if isinstance(verdict, Over):
            line.pause_ms = PAUSE_MS
            return False
        return True

    def _take(self, line: Line, talk: _Talk, frame: KeyFrame) -> None:
        core = self._core
        match frame:
            case Exposed():
                with core.logged():
                    fresh = core.exposures.take(frame)
                if fresh:
                    _log.error("exposed-there", peer=self._name(line))
                heard = ExposureHeard(frame.exposure.digest)
                self._perform(line, line.session.say(heard))
            case ExposureHeard(digest):
                with core.store.transaction():
                    core.exposures.heard(line.peer, digest)
            case Suspended(wire):
                followed = suspending.take(core, wire)
                if followed is not None:
                    talk.suspensions.add(followed.digest)
            case SealChallenge():
                if len(talk.challenges) < limits.MAX_SEAL_KEYS:
                    talk.challenges[frame.ekid] = frame
                self._answer(line, talk)
            case SealProof():
                core.seal_proofs.take(line.peer, talk.asked, frame)
            case _:
                assert_never(frame)

    def _refused(self, line: Line, error: PeerError) -> None:
        name = self._name(line)
        _log.warning("key-frame-refused", peer=name, code=error.code)
        self._metrics.add(KEY_FRAMES_REFUSED, error.code)
        if isinstance(error, SignatureError):
            self._metrics.add(BAD_SIGNATURES, name)
            line.meter.bad_signature(self._clock.monotonic())
        if isinstance(error, UnknownCardError):
            # It has a new card since the link opened; it says again what it said.
            held = self._core.trust.peer(line.peer).chain.head.n
            self._perform(line, line.session.ask_statements(held + 1))
        self._perform(line, line.session.blame(0 if exposure.is_blameless(error) else 1))

    def _name(self, line: Line) -> str:
        peer = self._core.trust.peers.get(line.peer)
        return peer.name if peer is not None else "unknown"
