"""Dishonest members: real nodes with real keys, of which a few parts were bent.

A twist is applied to each new process of the node. What it says beyond the rules it pushes into its
lines as frames with the right tags, so that only the content is wrong.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any

from keys.trust import Peer
from node.core import Shipment
from node.line import Line
from protocol import envelope, suite
from protocol.canonical import encode
from protocol.errors import PeerError
from protocol.frames import Deliver, Frame, Frontier, Receipts, Runs, Summary, Want, encode_frame
from protocol.frontier import Have, StreamKey
from protocol.session import Effect, Lane, Send
from tests.sim.node import SimNode
from tests.sim.process import Process
from tests.sim.world import World

Twist = Callable[[Process], None]
Bend = Callable[[Line, list[tuple[bytes, bytes]]], list[tuple[bytes, bytes]]]


def corrupt(node: SimNode, *twists: Twist) -> SimNode:
    """Make *node* dishonest, from its next start on."""
    node.honest = False
    node.twists += [shameless, *twists]
    return node


def shameless(process: Process) -> None:
    """Never break off because of what others answer to our lies."""
    core: Any = process.core
    take_receipts = core.take_receipts

    def take(receipts: Receipts | Runs) -> tuple[bytes, ...]:
        try:
            return take_receipts(receipts)  # type: ignore[no-any-return]
        except PeerError:
            return ()

    core.take_receipts = take


def say(node: SimNode, peer: SimNode, *frames: Frame | bytes) -> None:
    """Say *frames* (or payloads) to *peer* on a proven link, if there is one."""
    for line in node.lines():
        if line.peer == peer.id and line.open:
            for frame in frames:
                payload = frame if isinstance(frame, bytes) else encode_frame(frame)
                line.push(Send(payload, Lane.CONTROL))
    node.pump()


def bend_deliveries(bend: Bend) -> Twist:
    """Return a twist that changes what is delivered on each link."""

    def twist(process: Process) -> None:
        gossip: Any = process.gossip
        join = gossip.join

        def bent_join(peer: Peer, certificate: bytes, *, dialer: bool) -> Line:
            line: Line = join(peer, certificate, dialer=dialer)
            session: Any = line.session
            deliver = session.deliver

            def bent(pairs: Iterable[tuple[bytes, bytes]], now: int, lane: Lane) -> list[Effect]:
                return deliver(bend(line, list(pairs)), now, lane)  # type: ignore[no-any-return]

            session.deliver = bent
            return line

        gossip.join = bent_join

    return twist


def withhold(process: Process) -> None:
    """Deliver nothing to anybody."""
    bend_deliveries(lambda line, pairs: [])(process)


def trim(process: Process) -> None:
    """Deliver copies without the slots of others, or of the receiver."""

    def trimmed(line: Line, pairs: list[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
        del line
        return [
            (key, envelope.prune(envelope.parse(wire), keep=frozenset()).wire)
            for key, wire in pairs
        ]

    bend_deliveries(trimmed)(process)


def forge_receipts(process: Process) -> None:
    """Answer what comes with proofs of something else."""
    book: Any = process.core.receipts
    answers = book.answers

    def forged(items: Sequence[tuple[bytes, int]]) -> list[Receipts | Runs]:
        return [_forged(receipts) for receipts in answers(items)]

    book.answers = forged


def repeat_receipts(process: Process) -> None:
    """Give each receipt twice, in one frame and again in the next."""
    book: Any = process.core.receipts
    answers = book.answers

    def repeated(items: Sequence[tuple[bytes, int]]) -> list[Receipts | Runs]:
        return [_twice(receipts) for receipts in answers([*items, *items])] * 2

    book.answers = repeated


def _twice(receipts: Receipts | Runs) -> Receipts | Runs:
    if isinstance(receipts, Runs):
        return replace(receipts, runs=receipts.runs * 2)
    return replace(receipts, items=receipts.items * 2)


def _forged(receipts: Receipts | Runs) -> Receipts | Runs:
    def other(envelope_id: bytes) -> bytes:
        return suite.digest("forged", envelope_id)[: len(envelope_id)]

    if isinstance(receipts, Runs):
        runs = (replace(run, ids=tuple(map(other, run.ids))) for run in receipts.runs)
        return replace(receipts, runs=tuple(runs))
    items = (replace(item, envelope_id=other(item.envelope_id)) for item in receipts.items)
    return replace(receipts, items=tuple(items))


# --- acts ------------------------------------------------------------------------------------
def replay(world: World, node: SimNode, to: SimNode | None = None) -> None:
    """Send some of what the node holds, in any order, some of it twice, to whoever it may be."""
    peer = to or world.rng.choice([n for n in world.nodes if n is not node])
    rows = node.disk.rows("SELECT wire FROM envelopes ORDER BY log_index")
    if rows:
        some = world.rng.choices(rows, k=world.rng.randrange(1, len(rows) + 3))
        world.trace(node.name, f"replays {len(some)} to {peer}")
        say(node, peer, Deliver(tuple(row[0] for row in some)))


def brag(world: World, node: SimNode) -> None:
    """Claim to hold more of each stream than there is, and streams that do not exist."""
    for peer in world.nodes:
        if peer is node:
            continue
        by_author: dict[bytes, list[tuple[StreamKey, Have]]] = {}
        for author, incarnation, stream in node.disk.rows(
            "SELECT author, incarnation, stream FROM streams JOIN members "
            "USING (author, incarnation, stream) WHERE node_id = ?",
            peer.id,
        ):
            far = world.rng.randrange(1, 5_000)
            have = Have(far, world.rng.randbytes(8), ((far + 7, far + 900),), forked=False)
            by_author.setdefault(author, []).append((StreamKey(author, incarnation, stream), have))
        made_up = StreamKey(peer.id, 1_790_000_000, world.rng.randbytes(16))
        by_author.setdefault(peer.id, []).append((made_up, Have(9, world.rng.randbytes(8))))
        someone = world.rng.choice(world.nodes)
        by_author.setdefault(someone.id, []).append(
            (StreamKey(someone.id, 1_790_000_000, world.rng.randbytes(16)), Have(3, bytes(8)))
        )
        frames: list[Frame] = [
            Frontier(author, tuple(sorted(items, key=lambda item: item[0])))
            for author, items in sorted(by_author.items())
        ]
        say(node, peer, Summary(world.rng.randbytes(32)), *frames)


def beg(world: World, node: SimNode) -> None:
    """Ask for streams that the node does not belong to, and for far too much."""
    for peer in world.nodes:
        if peer is node:
            continue
        for author, incarnation, stream in peer.disk.rows(
            "SELECT author, incarnation, stream FROM streams ORDER BY stream LIMIT 4"
        ):
            # The oracle's view: a real intruder would have to guess 16 random bytes.
            say(node, peer, Want(StreamKey(author, incarnation, stream), ((1, 4_096),)))


def babble(world: World, node: SimNode) -> None:
    """Send bytes that are no frame, or not quite one."""
    peer = world.rng.choice([n for n in world.nodes if n is not node])
    rows = node.disk.rows("SELECT wire FROM envelopes LIMIT 1")
    payload = bytearray(encode_frame(Deliver((rows[0][0] if rows else b"x",))))
    for _ in range(world.rng.randrange(1, 6)):
        payload[world.rng.randrange(len(payload))] = world.rng.randrange(256)
    choice = world.rng.randrange(3)
    if choice == 0:
        payload = bytearray(world.rng.randbytes(world.rng.randrange(1, 2_000)))
    elif choice == 1:
        payload = payload[: world.rng.randrange(1, len(payload))]
    say(node, peer, bytes(payload))


def forge_signatures(world: World, node: SimNode) -> None:
    """Send genuine envelopes under changed signatures."""
    peer = world.rng.choice([n for n in world.nodes if n is not node])
    for (wire,) in node.disk.rows("SELECT wire FROM envelopes ORDER BY log_index LIMIT 4"):
        held = envelope.parse(wire)
        at = wire.index(held.signature)
        forged = bytearray(wire)
        forged[at] ^= 1
        say(node, peer, Deliver((bytes(forged),)))


class _UndoneError(Exception):
    """Undoes a transaction."""


def fork(world: World, node: SimNode, to: Sequence[SimNode]) -> None:
    """Write two envelopes in one place of a stream, and give each to half of the members."""
    process = node.process
    if process is None:
        return
    core = process.core
    token = world.rng.randbytes(32)

    def write(text: str) -> bytes:
        cards = core.trust.recipients([n.id for n in to], now=node.clock.now())
        shipment = Shipment(encode({"text": text}), "face", cards, ())
        (key,) = core.release(token, [shipment])
        return key

    def both() -> None:
        # The first of the twins is made and undone again, but its bytes are kept.
        made: list[tuple[bytes, bytes]] = []
        with suppress(_UndoneError), core.logged():
            key = write("one")
            made += node.disk.rows("SELECT id, wire FROM envelopes WHERE id = ?", key)
            raise _UndoneError
        world.oracle.written(node, made[0][1])
        swapped[write("two")] = made[0]

    swapped: dict[bytes, tuple[bytes, bytes]] = node.secret.setdefault("swapped", {})
    if node.run("fork", both):
        node.pump()


def two_faced(favoured: frozenset[bytes], node: SimNode) -> Twist:
    """Return a twist that gives the peers *favoured* the first of two twins, others the second."""

    def bend(line: Line, pairs: list[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
        swapped = node.secret.get("swapped", {})
        if line.peer not in favoured:
            return pairs
        return [swapped.get(key, (key, wire)) for key, wire in pairs]

    return bend_deliveries(bend)


def poison(world: World, node: SimNode, to: Sequence[SimNode], victim: SimNode) -> None:
    """Write an envelope whose slot for *victim* is sealed to a key that it does not have."""
    process = node.process
    if process is None or process.core.vault is None:
        return
    core = process.core

    def act() -> None:
        cards = core.trust.recipients([n.id for n in to], now=node.clock.now())
        other = core.card
        cards[victim.id] = replace(cards[victim.id], seal=other.seal)
        shipment = Shipment(encode({"text": "poison"}), "face", cards, ())
        core.release(world.rng.randbytes(32), [shipment])

    if node.run("poison", act):
        node.pump()
