"""Tests of peers, as operators and programs ask for them: what this node knows, and the answer.

- A test is in three steps: begun on the desk, a look from a thread, and the verdict on the desk.
- Few run at a time: each may take as long as its bounds allow.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict
from threading import BoundedSemaphore
from typing import TYPE_CHECKING, Any, Final, Protocol

from keys.fingerprint import format_node_id
from keys.trust import Peer
from node.clock import Clock
from node.config import Config
from node.core import Core
from node.peer_clocks import PeerClocks
from node.peer_seen import BOUNDS, Bounds, Seen, Target
from node.peer_test import Line, LinkState, Subject, conclude, passed
from node.tls_rotation import held_by
from protocol import limits
from protocol.errors import BusyError, UntrustedKeyError
from protocol.statement import Card

if TYPE_CHECKING:
    from node.gossip import Gossip

Row = dict[str, Any]
_ID_LETTERS: Final = 7


class Known(Protocol):
    """What a running node knows of its links."""

    @property
    def running(self) -> bool:
        """Whether it runs at all."""
        ...

    @property
    def trouble(self) -> Mapping[bytes, str] | None:
        """What went wrong with links last."""
        ...

    @property
    def asked(self) -> Mapping[bytes, int]:
        """Which peers refuse this node and have its request to be added, and since when (ms)."""
        ...

    @property
    def clocks(self) -> PeerClocks:
        """What peers showed of their clocks."""
        ...

    @property
    def link_state(self) -> Callable[[bytes], LinkState | None]:
        """Says how the link with a peer stands, if there is one."""
        ...


def link_state(gossip: Gossip, clock: Clock, node_id: bytes) -> LinkState | None:
    """Return how the link with *node_id* stands; None if there is none."""
    line = gossip.links.get(node_id)
    if line is None or not line.open or line.opened_at is None:
        return None
    now = clock.monotonic()
    given = None if line.given_at is None else now - line.given_at
    return LinkState(age_ms=now - line.opened_at, given_ms=given)


class PeerTests:
    """Begins tests of peers, over a Core."""

    def __init__(
        self, core: Core, *, config: Config, clock: Clock, network: Known, bounds: Bounds = BOUNDS
    ) -> None:
        """Serve *core*; *network* is what its links show."""
        self._core, self._config, self._clock = core, config, clock
        self._network, self._bounds = network, bounds
        self._room = BoundedSemaphore(limits.MAX_PEER_TESTS)

    def begin(self, name: str) -> PeerTest:
        """Begin to test the peer *name*.

        Raises:
            NotFoundError: there is no such peer.
            KeystoreError: the TLS key of this node is missing or damaged.
        """
        peer = self._core.trust.find(name)
        return PeerTest(peer, self._target(peer), self)

    def look(self, target: Target) -> Seen | None:
        """Look at *target*; blocks, and must not be called on the desk.

        Raises:
            BusyError: too many tests run.
        """
        if not self._room.acquire(blocking=False):
            raise BusyError("other tests of peers are running", fix="test again in a moment")
        from node.peer_test_run import look  # noqa: PLC0415  aiohttp is heavy, and only this needs it

        try:
            return look(target, now=self._clock.now, bounds=self._bounds)
        finally:
            self._room.release()

    def row(self, node_id: bytes, seen: Seen | None) -> Row:
        """Return what a test says, from what was *seen* and what is known now.

        Raises:
            NotFoundError: the peer was removed meanwhile.
        """
        peer = self._core.trust.peer(node_id)
        lines = conclude(self._subject(peer), seen)
        return {
            "peer": peer.name,
            "node_id": format_node_id(node_id),
            "running": self._network.running,
            "address": None if seen is None else f"{_bracketed(seen.host)}:{seen.port}",
            "ok": passed(lines),
            "checks": [_shown(line) for line in lines],
        }

    # --- what is known -----------------------------------------------------------------------
    def _target(self, peer: Peer) -> Target:
        held, own = held_by(self._core.home), self._core.trust.own
        first = (held.used, held.files[held.used])
        return Target(
            endpoints=peer.card.endpoints,
            certificates=peer.card.tls,
            pems=(first, *((der, held.files[der]) for der in held.others)),
            network=own.network,
            own_id=own.node_id,
            chain_n=own.head.n,
            chain_head=own.head.digest,
            node_id=peer.node_id,
            link=peer.card.link,
        )

    def _subject(self, peer: Peer) -> Subject:
        core, card, known = self._core, peer.card, self._network
        cards = [each.body for each in peer.chain.statements if isinstance(each.body, Card)]
        older = {der for each in cards for der in each.tls} - set(card.tls)
        others = (other for other in core.trust.peers.values() if other.node_id != peer.node_id)
        cosigned = core.store.row(
            "SELECT size, time_s FROM cosignatures WHERE origin = ? AND name = ? "
            "ORDER BY time_s DESC LIMIT 1", core.log.origin, card.witness.name,
        )  # fmt: skip
        witnesses = core.cosigning.policy.witnesses.values()
        reading = known.clocks.of(peer.node_id)
        return Subject(
            name=peer.name,
            own_id=format_node_id(core.node_id)[:_ID_LETTERS],
            level=peer.level,
            certificates=card.tls,
            now=self._clock.now(),
            running=known.running,
            endpoints=card.endpoints,
            own_endpoints=bool(core.card.endpoints),
            dials=self._config.peer.dial,
            older=frozenset(older),
            others={der: other.name for other in others for der in other.card.tls},
            own=frozenset(held_by(core.home).files),
            contact=card.contact if peer.verification is not None else None,
            card_until=min(card.expires, max(key.not_after for key in card.seal)),
            suspended=peer.node_id in core.trust.suspended,
            link=known.link_state(peer.node_id),
            last_contact=core.store.scalar(
                "SELECT last_contact FROM peers WHERE node_id = ?", peer.node_id
            ),
            asked_at=known.asked.get(peer.node_id),
            refused=core.store.scalar(
                "SELECT count(*) FROM outbox WHERE peer = ? AND state = 'queued' AND code = ? "
                "AND route <> 'forward'", peer.node_id, UntrustedKeyError.code,
            ),
            received=core.store.scalar(
                "SELECT count(*) FROM envelopes WHERE author = ? AND part = 'recipient'",
                peer.node_id,
            ),
            trouble=(known.trouble or {}).get(peer.node_id),
            is_witness=any(each.key.name == card.witness.name for each in witnesses),
            cosigned_at=None if cosigned is None else 1000 * cosigned["time_s"],
            approved_at=None if peer.verification is None else peer.verification.at,
            cosigned_size=0 if cosigned is None else cosigned["size"],
            told_ahead_ms=None if reading is None else reading.ahead_ms,
            answered_ms=None if reading is None else reading.took_ms,
        )  # fmt: skip


class PeerTest:
    """One test of one peer."""

    def __init__(self, peer: Peer, target: Target, tests: PeerTests) -> None:
        """Prepare to look at *target*, which is where *peer* should be."""
        self._node_id, self._target, self._tests = peer.node_id, target, tests
        self._seen: Seen | None = None

    def look(self) -> None:
        """Look at the peer's addresses; blocks, and must not be called on the desk.

        Raises:
            BusyError: too many tests run.
        """
        self._seen = self._tests.look(self._target)

    def row(self) -> Row:
        """Return what came of it; call it on the desk, after ``look``.

        Raises:
            NotFoundError: the peer was removed meanwhile.
        """
        return self._tests.row(self._node_id, self._seen)


def _shown(line: Line) -> Row:
    return {key: str(value) for key, value in asdict(line).items()}


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host
