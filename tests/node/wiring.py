"""Links without sockets: the gossip of some stations, and a pump that carries their messages.

It does what ``node.engine`` does around ``node.gossip``, one step after the other, by the clock of
the world, and keeps a record of every message that passed.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from itertools import combinations
from random import Random
from typing import Final, TypeVar

from node.core import Core
from node.gossip import Gossip
from node.intake import id_of
from node.line import Line
from protocol.frames import TAG_SIZE, Deliver, Frame, Hello, Proof, decode_frame, encode_frame
from protocol.log_frames import LogFrame
from protocol.possession import SealChallenge, SealProof
from protocol.quota import Quota
from protocol.session import Lane, Send
from tests.node.factories import Station

OVERHEAD: Final = 8 + 22
"""Bytes that one short message takes on the wire besides its own: WebSocket head and TLS record."""
SECOND: Final = 1_000
_ROUNDS: Final = 20_000
_F = TypeVar("_F")


@dataclass(frozen=True)
class Passed:
    """One message that was taken by the other end."""

    giver: str
    taker: str
    message: bytes
    frame: Frame

    @property
    def size(self) -> int:
        """Bytes on the wire."""
        return len(self.message) + OVERHEAD


class Party:
    """A station that is up, and its gossip."""

    def __init__(self, station: Station, quota: Quota | None, receipts_wait_ms: int = 0) -> None:
        """Take up the open *station*."""
        self.station = station
        self.gossip = Gossip(
            station.core, clock=station.clock, random=station.random, quota=quota,
            receipts_wait_ms=receipts_wait_ms,
        )  # fmt: skip

    @property
    def core(self) -> Core:
        """The core."""
        return self.station.core


class Connection:
    """One connection: the line of each end, by the name of its node."""

    def __init__(self, ends: dict[str, Line]) -> None:
        """Begin with a connection that carries nothing yet."""
        self.ends = ends

    def directions(self) -> list[tuple[str, str]]:
        """Return (giver, taker) of both directions."""
        one, other = self.ends
        return [(one, other), (other, one)]


class Web:
    """Stations that are up, the links between them, and what passed over these."""

    def __init__(
        self, *stations: Station, quota: Quota | None = None, receipts_wait_ms: int = 0
    ) -> None:
        """Take up open stations; none is linked yet."""
        self._quota, self._receipts_wait_ms = quota, receipts_wait_ms
        self.clock = stations[0].clock
        self.parties = {
            station.name: Party(station, quota, receipts_wait_ms) for station in stations
        }
        self.connections: list[Connection] = []
        self.passed: list[Passed] = []
        self._greeted: set[Line] = set()

    def __getitem__(self, name: str) -> Party:
        return self.parties[name]

    # --- links -------------------------------------------------------------------------------
    def join(self, one: str, other: str) -> Connection:
        """Let *one* dial *other*; nothing is carried yet."""
        ends = {}
        for name, peer, dialer in ((one, other, True), (other, one, False)):
            gossip, there = self[name].gossip, self[peer].core
            known = gossip.core.trust.peer(there.node_id)
            ends[name] = gossip.join(known, there.card.tls[0], dialer=dialer)
        self.connections.append(Connection(ends))
        return self.connections[-1]

    def linked(self, one: str, other: str) -> bool:
        """Whether both ends hold a link with each other."""
        here, there = self[one], self[other]
        return there.station.id in here.gossip.links and here.station.id in there.gossip.links

    def line(self, name: str, peer: str) -> Line:
        """Return the line of the link that *name* holds with *peer*."""
        return self[name].gossip.links[self[peer].station.id]

    def link(self, *names: str) -> None:
        """Link each of *names* with each other, and pump until nothing moves."""
        for one, other in combinations(names, 2):
            self.join(one, other)
        self.pump()

    def cut(self, one: str, other: str) -> None:
        """End the connections of two nodes at once; what is on the way is lost."""
        for connection in list(self.connections):
            if connection.ends.keys() == {one, other}:
                self._end(connection)

    def _end(self, connection: Connection) -> None:
        self.connections.remove(connection)
        for name, line in connection.ends.items():
            self[name].gossip.lost(line)

    def stop(self, name: str) -> Station:
        """End the process of one node, without a goodbye; return its closed station."""
        for connection in list(self.connections):
            if name in connection.ends:
                self._end(connection)
        station = self.parties.pop(name).station
        station.close()
        return station

    def start(self, station: Station, *, accept: bool = False, reopen: bool = False) -> None:
        """Start a process for a closed *station*."""
        station.open(accept=accept, reopen=reopen)
        self.parties[station.name] = Party(station, self._quota, self._receipts_wait_ms)

    def restart(self, name: str) -> None:
        """End one process and start another."""
        self.start(self.stop(name))

    # --- time --------------------------------------------------------------------------------
    def pump(self, most: int = 10**9) -> int:
        """Carry messages until nothing moves, or *most* were carried; return how many."""
        count = 0
        for _ in range(_ROUNDS):
            for party in self.parties.values():
                party.gossip.pump()
            before = count
            for connection in list(self.connections):
                for giver, taker in connection.directions():
                    count += self._carry(connection, giver, taker, most - count)
            self._settle()
            if count in {before, most}:
                return count
        raise AssertionError("the nodes do not come to rest")

    def _carry(self, connection: Connection, giver: str, taker: str, most: int) -> int:
        """Hand over what waits in one direction, at one go, but not more than *most* messages."""
        line, there = connection.ends[giver], connection.ends[taker]
        arrived: list[tuple[Line, bytes]] = []
        while len(arrived) < most and (message := line.next_message()) is not None:
            # The greeting alone has no tag.
            frame = decode_frame(message[TAG_SIZE if line in self._greeted else 0 :])
            self._greeted.add(line)
            self.passed.append(Passed(giver, taker, message, frame))
            arrived.append((there, message))
        self.handle(taker, *arrived)
        return len(arrived)

    def handle(self, name: str, *arrived: tuple[Line, bytes]) -> None:
        """Let a node take messages together, and open what they brought."""
        self[name].gossip.handle(arrived)
        if self[name].core.pending:
            self[name].core.try_follow()

    def _settle(self) -> None:
        """Take down the connections that either end has closed, once its goodbye was said."""
        for connection in list(self.connections):
            if any(each.closed and not each.waiting for each in connection.ends.values()):
                self._end(connection)

    def run(self, seconds: float) -> None:
        """Let time pass, a second at a time."""
        for _ in range(round(seconds)):
            self.clock.advance(SECOND)
            for party in list(self.parties.values()):
                party.gossip.tick()
            self.pump()

    def crawl(self, steps: int, dice: Random, *, most: int, ms: int = 100) -> None:
        """Let time pass over slow links: each step is *ms* long and carries *most* messages."""
        for _ in range(steps):
            self.clock.advance(ms)
            dice.shuffle(self.connections)
            for party in list(self.parties.values()):
                party.gossip.tick()
            self.pump(most=most)

    # --- speaking ----------------------------------------------------------------------------
    def say(self, giver: str, taker: str, *frames: Frame) -> None:
        """Let *giver* send frames that its program would not send, and pump."""
        for frame in frames:
            self.line(giver, taker).push(Send(encode_frame(frame), Lane.CONTROL))
        self.pump()

    # --- looking -----------------------------------------------------------------------------
    def between(self, giver: str, taker: str) -> list[Passed]:
        """Return what passed in one direction after the greeting.

        But for what is about logs, and proofs of possession, which are asked for once a key.
        """
        return [
            each
            for each in self.passed
            if (each.giver, each.taker) == (giver, taker)
            and not isinstance(each.frame, Hello | Proof | LogFrame | SealChallenge | SealProof)
        ]

    def frames(self, kind: type[_F], giver: str = "", taker: str = "") -> list[_F]:
        """Return the frames of one kind that passed, between any nodes or these."""
        return [
            each.frame
            for each in self.passed
            if isinstance(each.frame, kind)
            and giver in {"", each.giver}
            and taker in {"", each.taker}
        ]

    def copies(self) -> Counter[tuple[str, bytes]]:
        """Return how often each envelope was delivered to each node."""
        return Counter(
            (each.taker, id_of(wire))
            for each in self.passed
            if isinstance(each.frame, Deliver)
            for wire in each.frame.wires
        )
