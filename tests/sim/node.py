"""One simulated node: a disk, a clock, and the process that runs on them while it is up.

It does what ``node.engine`` does around ``node.gossip``: dials with full jitter, hands over what
arrives in batches, ticks, and writes what lines have to say as far as the network takes it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

from typing_extensions import override

from node.line import Line
from protocol.errors import (
    BusyError,
    LogBehindError,
    OperatorError,
    RollbackError,
    StoreError,
)
from protocol.quota import Quota
from protocol.statement import make_card
from tests.sim.clock import MS, SECOND, NodeClock
from tests.sim.disk import Backup, Died, Disk, Fuse
from tests.sim.genesis import Bytes, Identity
from tests.sim.network import End
from tests.sim.process import CAUGHT, Process, open_core, unlock

if TYPE_CHECKING:
    from tests.sim.world import World

_WAKE: Final = MS // 5
_WAKE_BULK: Final = 100 * MS  # in large worlds, where each pump looks at hundreds of links
_COST: Final = MS // 2
_COST_MESSAGE: Final = MS // 10
_BATCH: Final = 256
_TICK: Final = SECOND
_REOPENED_US: Final = 2 * SECOND
_IDLE_TICK: Final = 5 * SECOND
_IDLE_AFTER: Final = 2 * SECOND
_BACKOFF_MAX: Final = 60
Twist = Callable[[Process], None]


class SimNode:
    """What outlives its process, and the process while it is up."""

    def __init__(self, world: World, identity: Identity, disk: Disk) -> None:
        """Take up a node that is off."""
        self.world, self.identity, self.disk = world, identity, disk
        self.index, self.name, self.id = identity.index, identity.name, identity.node_id
        self.person = identity.index  # of a twin: the index of the node that it is a copy of
        self.clock = NodeClock(world.events)
        self.random = Bytes(f"{world.seed}/{self.name}")
        self.fuse = Fuse(lambda effect: world.trace(self.name, f"  {effect}"))
        self.process: Process | None = None
        self.reads = True
        self.carries = True
        self.quota: Quota | None = None
        self.honest = True
        self.restored = False
        self.gone = False
        self.refused: str | None = None
        self.peers: frozenset[int] | None = None  # with whom it links at all; None: all
        self.twists: list[Twist] = []
        self.secret: dict[str, Any] = {}  # what a dishonest node keeps in mind
        self.deaths = 0
        self.jitter_us = 0  # 0: as much as a real node waits
        self.behind = False  # a witness has shown that its home is an old copy
        self.twinned = False  # two processes run on copies of one home
        self._life = 0
        self._lines: dict[End, Line] = {}
        self._linked: dict[int, int] = {}
        self._inbox: list[tuple[End, bytes]] = []
        self._waking = False
        self._answering = False
        self._busy_until = 0
        self._active = 0
        self._dialing: set[int] = set()

    @override
    def __repr__(self) -> str:
        return self.name

    @property
    def trusted(self) -> bool:
        """Whether it must keep all promises: honest, and never put back to an older state."""
        return self.honest and not self.restored

    # --- life --------------------------------------------------------------------------------
    def start(
        self, *, locked: bool = False, accept: bool = False, may_refuse: bool = False
    ) -> bool:
        """Start the process; False if it refused to, or died at once."""
        assert self.process is None
        self._life += 1
        self.refused = None
        self.clock.boot()
        trust = self.world.genesis.trust(self.index) if self.world.genesis.bulk else None
        try:
            core = open_core(
                self.disk, self.identity, self.fuse, random=self.random, clock=self.clock,
                carries=self.carries, trust=trust, accept=accept, locked=locked,
                reopen=self.behind,
            )  # fmt: skip
        except Died as death:
            self._end(f"died at {death}")
            return False
        except BusyError as error:
            # It has to sign what it logged last, which a full disk does not take: start it later.
            self._end(f"does not start: {error.code}")
            return False
        except (RollbackError, OperatorError, StoreError) as error:
            self.refused = error.code
            self._end(f"refuses to start: {error.code}")
            if self.honest and not may_refuse:
                self.world.oracle.violated(self, f"refuses to start: {error.message}")
            return False
        self.behind = False
        self.process = Process(
            core, self.clock, self.random, self.quota, beat_ms=self.world.beat_ms
        )
        for twist in self.twists:
            twist(self.process)
        self.world.trace(self.name, "start" + (" locked" if locked else ""))
        self._active = self.world.events.now
        self.world.oracle.started(self)
        life = self._life
        self.world.events.after(self._jitter(_TICK), lambda: self._tick(life))
        for peer in self.world.nodes:
            if peer.identity.inbound and peer is not self and self._links_with(peer.index):
                self._dial_later(peer, 0)
        return True

    def _links_with(self, index: int) -> bool:
        return self.peers is None or index in self.peers

    def revive(self) -> None:
        """Start the process, if nothing else has done so meanwhile."""
        if self.process is None:
            self.start()

    def unlock(self) -> None:
        """Give a locked node its keys."""
        if self.process is not None and self.process.core.vault is None:
            core = self.process.core
            self.run("unlock", lambda: unlock(core, self.identity, self.disk))

    def stop(self) -> None:
        """End the process in order: it says goodbye on each link."""
        process = self.process
        if process is None:
            return
        for line in list(self._lines.values()):
            self.run("shutdown", lambda line=line: process.gossip.end(line, "shutdown"))  # type: ignore[misc]
        self._flush()
        if self.process is process:
            self._end("stop")

    def kill(self, why: str = "killed") -> None:
        """End the process at once; its machine closes the sockets."""
        if self.process is not None:
            self._end(why)

    def leave(self) -> None:
        """End the process, never to start again in this run."""
        self.gone = True
        self.stop()

    def unplug(self) -> None:
        """Let the machine lose its power: nobody is told."""
        if self.process is not None:
            for end in list(self._lines):
                self.world.network.unplug(end)
            self._end("power lost")

    def _end(self, why: str) -> None:
        self._life += 1
        process, self.process = self.process, None
        self.disk.crash()
        self.fuse.set(0)
        self.world.trace(self.name, why)
        lines, self._lines, self._inbox = list(self._lines), {}, []
        self._linked.clear()
        self._dialing.clear()
        self._waking = False
        self._answering = False
        for end in lines:
            self.world.network.close(end)
        self.world.oracle.ended(self, process)

    # --- its disk ----------------------------------------------------------------------------
    def put_back(self, backup: Backup, *, keep_fence: bool) -> None:
        """Replace the disk of a node that is off by a backup; *keep_fence* of what was there."""
        fence = self.disk.fence
        self.put_disk(Disk.of(backup))
        if keep_fence:
            self.disk.fence = fence

    def put_disk(self, disk: Disk) -> None:
        """Put in another disk."""
        assert self.process is None
        self.world.trace(self.name, "gets another disk")
        self.disk = disk

    def renew_card(self) -> None:
        """Sign a new card, as its operator would."""
        process = self.process
        if process is None:
            return
        core, vault = process.core, self.identity.vault

        def act() -> None:
            card = replace(core.card, contact=core.card.contact + ".")
            core.add_statement(
                make_card(
                    card, chain=core.trust.own, issued=self.clock.now(), signer=vault.identity
                )
            )

        if self.run("new card", act):
            self.pump()

    # --- running the code under test ---------------------------------------------------------
    def run(self, what: str, act: Callable[[], object]) -> bool:
        """Run a piece of the node; True if it came to its end."""
        life = self._life
        try:
            act()
        except Died as death:
            self.deaths += 1
            self._end(f"died at {death} in {what}")
        except BusyError as error:
            self.world.trace(self.name, f"{what}: {error.code}")
        except LogBehindError as error:
            self._end(f"stopped by {error.code} in {what}")
            if self.twinned:
                self.gone = True  # its operator sees the mistake and leaves the other alone
            elif self.restored:
                # Its operator begins a new log, as the message says.
                self.behind = True
                self.world.events.after(_REOPENED_US, self.revive)
            else:
                self.world.oracle.stopped(self, error)
        except StoreError as error:
            self._end(f"stopped by {error.code} in {what}: {error.message}")
            self.world.oracle.stopped(self, error)
        except Exception as error:  # noqa: BLE001  whatever escapes is a finding
            self.world.oracle.bug(self, what, error)
            self._end(f"bug in {what}")
        else:
            self.world.oracle.look(self)
            while CAUGHT:
                self.world.oracle.bug(self, what, CAUGHT.pop())
            return life == self._life
        return False

    # --- time --------------------------------------------------------------------------------
    def _jitter(self, most: int) -> int:
        return 1 + self.world.rng.randrange(self.jitter_us or most)

    def _tick(self, life: int) -> None:
        process = self.process
        if process is None or life != self._life:
            return
        if self.reads and self.run("tick", process.gossip.tick):
            self.pump()
        if life == self._life:
            # An idle node is looked at less often: all its timers are of many seconds.
            idle = self.world.events.now - self._active > _IDLE_AFTER
            self.world.events.after(_IDLE_TICK if idle else _TICK, lambda: self._tick(life))

    def pump(self) -> None:
        """Offer what is due, and write."""
        process = self.process
        if process is None or not self.run("pump", process.gossip.pump):
            return
        self._flush()
        wait = process.gossip.answer_in
        if wait is not None and not self._answering:
            life, self._answering = self._life, True
            self.world.events.after(max(1, wait * MS), lambda: self._answer(life))
        if self.process is process and process.core.pending:
            self.run("follow", process.core.try_follow)

    def _answer(self, life: int) -> None:
        process = self.process
        if process is None or life != self._life:
            return
        self._answering = False
        if self.run("answer", process.gossip.answer):
            self.pump()

    def _flush(self) -> None:
        for end in list(self._lines):
            self.world.network.send(end)

    # --- links -------------------------------------------------------------------------------
    def linked(self, index: int) -> bool:
        """Whether there is a transport to that node, proven or not."""
        return index in self._linked

    def transports(self, index: int) -> int:
        """Return how many transports there are to that node."""
        return self._linked.get(index, 0)

    def lines(self) -> list[Line]:
        """Return the lines of all open transports."""
        return list(self._lines.values())

    def _dial_later(self, peer: SimNode, attempt: int) -> None:
        if peer.index in self._dialing:
            return
        self._dialing.add(peer.index)
        life, ceiling = self._life, min(_BACKOFF_MAX, 2 ** min(attempt, 6))
        self.world.events.after(
            self._jitter(ceiling * SECOND), lambda: self._dial(peer, attempt, life)
        )

    def _dial(self, peer: SimNode, attempt: int, life: int) -> None:
        if life != self._life:
            return
        if self.linked(peer.index):
            self._dialing.discard(peer.index)
            return

        def done(end: End | None) -> None:
            if life != self._life:
                if end is not None:
                    self.world.network.close(end)
                    self.world.network.close(end.other)
                return
            self._dialing.discard(peer.index)
            if end is None:
                self._dial_later(peer, attempt + 1)
                return
            self.joined(end, peer)
            peer.joined(end.other, self)

        self.world.network.dial(
            self, peer, done=done,
            listens=lambda: peer.process is not None and peer.reads
            and peer._links_with(self.index),
        )  # fmt: skip

    def joined(self, end: End, peer: SimNode) -> None:
        """Start a session over a transport that is up."""
        process = self.process
        if process is None or not end.open:
            self.world.network.close(end)
            return
        line: Line | None = None

        def join() -> None:
            nonlocal line
            line = process.join(peer.identity.certificate, peer.id, dialer=end.dialer)

        if not self.run("join", join):
            self.world.network.close(end)
            return
        if line is None:
            self.world.network.close(end)
            return
        self.world.trace(self.name, f"link to {peer.name} {'dialled' if end.dialer else 'taken'}")
        self._lines[end] = line
        self._linked[peer.index] = self._linked.get(peer.index, 0) + 1
        self._active = self.world.events.now
        self.world.network.send(end)

    def next_message(self, end: End) -> bytes | None:
        """Give away the next message of a line, which is an effect of its own."""
        line = self._lines.get(end)
        if line is None:
            return None
        message = line.next_message()
        if message is None:
            if line.closed is not None:
                self.world.trace(self.name, f"closes the link to {self._name(end)}: {line.closed}")
                self._forget(end)
                self.world.network.close(end)
            return None
        peer = self.world.nodes[end.other.host.index]
        try:
            self.fuse.pass_by(f"send {len(message)} to {peer.name}")
        except Died as death:
            self.deaths += 1
            self._end(f"died at {death}")
            return None
        self.world.oracle.sent(self, peer, message, line)
        return message

    def arrived(self, end: End, message: bytes) -> None:
        """Take a message: it is handled with what else arrives meanwhile."""
        if end not in self._lines:
            return
        self._inbox.append((end, message))
        if not self._waking:
            self._waking = True
            life = self._life
            wait = _WAKE_BULK if self.world.genesis.bulk else _WAKE
            at = max(self.world.events.now + wait, self._busy_until)
            self.world.events.at(at, lambda: self._wake(life))

    def _wake(self, life: int) -> None:
        process = self.process
        if process is None or life != self._life:
            return
        self._waking = False
        batch, self._inbox = self._inbox[:_BATCH], self._inbox[_BATCH:]
        pairs = [(self._lines[end], m) for end, m in batch if end in self._lines]
        now = self.world.events.now
        self._active = now
        self._busy_until = now + _COST + len(pairs) * _COST_MESSAGE
        if self._inbox:
            self._waking = True
            self.world.events.at(self._busy_until, lambda: self._wake(life))
        if self.world.tracing:
            self.world.trace(self.name, f"takes {self.world.oracle.told(self, batch)}")
        if self.run("handle", lambda: process.gossip.handle(pairs)):
            for end, line in list(self._lines.items()):
                if line.pause_ms:
                    self.world.network.pause(end, now + line.pause_ms * MS)
                    line.pause_ms = 0
            self.pump()

    def lost(self, end: End) -> None:
        """Hear from the network that a transport is gone."""
        line = self._lines.get(end)
        process = self.process
        if line is None or process is None:
            return
        self._forget(end)
        self.world.trace(self.name, f"lost the link to {self._name(end)}")
        self.run("lost", lambda: process.gossip.lost(line))

    def _forget(self, end: End) -> None:
        self._lines.pop(end)
        peer = self.world.nodes[end.other.host.index]
        left = self._linked[peer.index] = self._linked[peer.index] - 1
        if not left:
            del self._linked[peer.index]
            if peer.identity.inbound and self._links_with(peer.index):
                self._dial_later(peer, 0)

    def _name(self, end: End) -> str:
        return self.world.nodes[end.other.host.index].name
