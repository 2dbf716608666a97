"""A world: nodes, network and oracle on one virtual clock, driven by one seed.

A run has two parts. In the first, a profile lets nodes release envelopes and makes things go wrong.
Then all faults end, and within ``DEADLINE`` every member that can be reached has everything.

The deadline is two intervals of anti-entropy and 5 s (gossip.md 2.9), and before them the time in
which a link can be missing although nothing stands in its way any more: a dead link is found by
its heartbeat (37.5 s), and a node that failed to dial often waits up to 60 s before it tries again.
What goes over a third node needs both links first, and then one exchange more on each; that is the
second interval. Nobody stalls for longer: what brings nothing for 30 s is asked of the next peer.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from random import Random
from typing import Final

from node.core import Shipment
from protocol import suite
from protocol.canonical import encode
from protocol.errors import PeerError
from tests.sim.clock import SECOND, Events
from tests.sim.disk import Disk
from tests.sim.genesis import Genesis, genesis
from tests.sim.network import Network
from tests.sim.node import SimNode
from tests.sim.oracle import Known, Oracle
from tests.sim.process import BEAT_MS

ANTI_ENTROPY: Final = 60 * SECOND
_HEARTBEAT: Final = 38 * SECOND
_BACKOFF: Final = 60 * SECOND
DEADLINE: Final = 2 * ANTI_ENTROPY + 5 * SECOND + _HEARTBEAT + _BACKOFF
_LOOK: Final = SECOND
_PATROL: Final = 5 * SECOND
_AFTERMATH: Final = 3 * SECOND


@dataclass(frozen=True, slots=True)
class Result:
    """What came of one seed."""

    profile: str
    seed: int
    nodes: int
    violations: tuple[str, ...]
    steps: int
    virtual_us: int
    healed_us: int
    envelopes: int
    deliveries: int
    copies: int
    direct_copies: int
    direct_deliveries: int
    bytes: int
    messages: int
    frames: Counter[str] = field(default_factory=Counter)
    frame_bytes: Counter[str] = field(default_factory=Counter)
    queue_high: int = 0
    deaths: int = 0
    digest: str = ""

    @property
    def rounds(self) -> int:
        """Exchanges of digests of what both ends share."""
        return self.frames["summary"]


class World:
    """All of one run."""

    def __init__(
        self, seed: int, *, name: str, inbound: Sequence[bool], beat_ms: int = BEAT_MS,
        trace: Callable[[str], None] | None = None,
    ) -> None:  # fmt: skip
        """Make the nodes; none runs yet."""
        self.name, self.seed = name, f"{name}/{seed}"
        self.number, self.beat_ms = seed, beat_ms
        self.rng = Random(self.seed)
        self.events = Events()
        self.network = Network(self.events, Random(f"{self.seed}/network"))
        self.genesis: Genesis = genesis(tuple(inbound))
        self._write = trace
        self._lines = hashlib.sha256()
        self.healed = 0
        self.releases = 0
        self.stops_expected: set[int] = set()
        self.duties: list[Callable[[], list[str]]] = []
        self.nodes = [
            SimNode(self, each, self.genesis.disk(each.index)) for each in self.genesis.identities
        ]
        self.oracle = Oracle(self)
        self.events.after(_PATROL, self._patrol)
        for node in self.nodes:
            self.oracle.look(node)

    # --- the trace ---------------------------------------------------------------------------
    @property
    def tracing(self) -> bool:
        """Whether somebody reads the trace."""
        return self._write is not None

    def trace(self, who: str, what: str) -> None:
        """Write one line."""
        if self._write is not None:
            seconds, rest = divmod(self.events.now, SECOND)
            line = f"{seconds:6d}.{rest // 100:04d} {who:<6} {what}"
            self._lines.update(line.encode() + b"\n")
            self._write(line)

    # --- what happens ------------------------------------------------------------------------
    def start_all(self) -> None:
        """Start every node that is off."""
        for node in self.nodes:
            if node.process is None:
                node.start()

    def twin(self, node: SimNode) -> SimNode:
        """Return a second node, which is off, on a copy of the home of *node* as it is now."""
        identity = replace(
            node.identity, index=len(self.nodes), name=f"{node.name}b", inbound=False
        )
        twin = SimNode(self, identity, Disk.of(node.disk.backup()))
        twin.person, twin.honest, twin.restored = node.index, node.honest, node.restored
        self.nodes.append(twin)
        self.oracle.twin(twin)
        self.trace(twin.name, f"has a copy of the home of {node.name}")
        return twin

    def release(
        self, author: SimNode, to: Sequence[SimNode], carriers: Sequence[SimNode] = (),
        *, size: int = 100, separately: bool = False,
    ) -> None:  # fmt: skip
        """Let a node release an envelope, if it is up and unlocked."""
        process = author.process
        if process is None or process.core.vault is None or not to:
            return
        self.releases += 1
        number = self.releases
        core = process.core
        self.trace(author.name, f"release to {to} by {list(carriers)}")

        def act() -> None:
            cards = core.trust.recipients([n.id for n in to], now=author.clock.now())
            body = encode({"number": number, "text": "x" * size})
            ids = tuple(n.id for n in carriers)
            groups = [{key: card} for key, card in cards.items()] if separately else [cards]
            shipments = [Shipment(body, "face", group, ids) for group in groups]
            try:
                core.release(suite.digest("release", number.to_bytes(8, "big")), shipments)
            except PeerError as error:
                self.trace(author.name, f"release refused: {error.code}")

        if author.run("release", act):
            author.pump()

    def broadcast(self, author: SimNode, *, size: int = 100) -> None:
        """Release to everybody."""
        self.release(author, [n for n in self.nodes if n is not author], size=size)

    def at(self, time: int, act: Callable[[], object]) -> None:
        """Do *act* at *time*."""
        self.events.at(time, lambda: (act(), None)[1])

    def expects_stop(self, node: SimNode) -> bool:
        """Whether a node may stop itself now, as its disk fails."""
        return node.index in self.stops_expected

    def _patrol(self) -> None:
        self.oracle.check_deliveries()
        self.events.after(_PATROL, self._patrol)

    # --- who can reach whom ------------------------------------------------------------------
    def can_link(self, one: SimNode, other: SimNode) -> bool:
        """Whether two nodes can have a link when nothing is broken."""
        allowed = one._links_with(other.index) and other._links_with(one.index)
        up = one.process is not None and other.process is not None
        return up and allowed and (one.identity.inbound or other.identity.inbound)

    def reachable(self, known: Known) -> set[int]:
        """Return the members that an honest holder of an envelope reaches over honest members.

        A carrier passes on what it holds, so it helps only if it holds it.
        """
        members = [
            self.nodes[index]
            for index in sorted(known.readers)
            if self.nodes[index].honest and self.nodes[index].process is not None
        ]
        members += [
            self.nodes[index]
            for index in sorted(known.carriers)
            if self.nodes[index].honest and known.id in self.oracle.records[index].held
        ]
        holders = [n for n in members if known.id in self.oracle.records[n.index].held]
        found, edge = {n.index for n in holders}, holders
        while edge:
            edge = [
                n
                for n in members
                if n.index not in found and any(self.can_link(n, other) for other in edge)
            ]
            found |= {n.index for n in edge}
        return found

    # --- the run -----------------------------------------------------------------------------
    def run_until(self, time: int) -> None:
        """Let time pass."""
        self.events.run_until(time)

    def heal(self) -> None:
        """End all faults: everybody is up, honest nodes whole, and every path open."""
        self.trace("world", "heals")
        self.oracle.check_deliveries()
        self.healed = self.events.now
        self.network.heal()
        for node in self.nodes:
            node.fuse.set(0)
            node.reads = True
            node.disk.fill(None)
            if node.process is None and node.refused is None and not node.gone:
                node.start()
            node.unlock()
        self.network.judge()

    def converge(self, *, deadline: int = DEADLINE, receipts: bool = True) -> bool:
        """Let time pass until everybody has everything; False if the deadline passes."""
        end = self.events.now + deadline
        while self.events.now < end:
            self.run_until(min(end, self.events.now + _LOOK))
            if self.oracle.violations:
                return False
            if not self._undone(receipts=receipts):
                self.trace("world", "has converged")
                return True
        for each in self._undone(receipts=receipts)[:8]:
            self.oracle.violated(None, f"{deadline // SECOND} s after the heal {each}")
        return False

    def _undone(self, *, receipts: bool) -> list[str]:
        """Return what still has to happen."""
        undone = self.oracle.missing() + [each for duty in self.duties for each in duty()]
        undone += self.oracle.owed() if receipts and not undone else []
        return undone or self.oracle.logs.unwitnessed()

    def finish(self, *, deep: bool) -> None:
        """Wait a little for what should not happen, and look at everything."""
        self.run_until(self.events.now + _AFTERMATH)
        self.oracle.finish(deep=deep)

    def result(self) -> Result:
        """Return what came of it."""
        oracle = self.oracle
        readers = {
            (key, index)
            for key, known in oracle.known.items()
            for index in known.readers - {known.author}
            if key in oracle.records[index].held
        }
        return Result(
            profile=self.name, seed=self.number, nodes=len(self.nodes),
            violations=tuple(oracle.violations), steps=self.events.done,
            virtual_us=self.events.now, healed_us=self.events.now - self.healed,
            envelopes=len(oracle.known), deliveries=len(readers),
            copies=sum(oracle.copies.values()), direct_copies=sum(oracle.direct.values()),
            direct_deliveries=sum(count > 0 for count in oracle.direct.values()),
            bytes=self.network.bytes,
            messages=self.network.messages, frames=oracle.frames, frame_bytes=oracle.frame_bytes,
            queue_high=oracle.queue_high, deaths=sum(n.deaths for n in self.nodes),
            digest=self._lines.hexdigest(),
        )  # fmt: skip
