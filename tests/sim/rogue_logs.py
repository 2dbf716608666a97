"""Dishonest logs and dishonest witnesses: twists and acts, as in ``tests.sim.rogue``."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

from node.line import Line
from node.witness import make_fork
from node.witnessing import Asking, Outcome
from protocol import limits, merkle
from protocol.checkpoint import Checkpoint, sign_checkpoint
from protocol.entry import EntryKind, make_entry
from protocol.errors import PeerError
from protocol.log_frames import (
    Consistency,
    Cosign,
    Cosigned,
    Head,
    Heads,
    LogForked,
    WantConsistency,
    WantHead,
)
from protocol.note import NoteSignature, parse_note
from protocol.witness import (
    AddCheckpoint,
    cosign,
    format_add_checkpoint,
    format_signatures,
    parse_add_checkpoint,
)
from tests.sim.logs import HeadSeen, read_head
from tests.sim.node import SimNode
from tests.sim.process import Process
from tests.sim.rogue import Twist, say
from tests.sim.world import World

_REQUESTS_KEPT: Final = 64
_AWRY_S: Final = 10 * 86_400


# --- dishonest logs --------------------------------------------------------------------------
def brazen(process: Process) -> None:
    """Go on whatever others show of our log."""
    core: Any = process.core
    core.check_shown = lambda note: True


def remember_requests(node: SimNode) -> Twist:
    """Return a twist that keeps what witnesses were asked, to ask it again."""

    def twist(process: Process) -> None:
        cosigning: Any = process.core.cosigning
        request = cosigning.request
        kept: list[bytes] = node.secret.setdefault("requests", [])

        def remembered(*arguments: object, **options: object) -> bytes:
            body: bytes = request(*arguments, **options)
            kept.append(body)
            del kept[:-_REQUESTS_KEPT]
            return body

        cosigning.request = remembered

    return twist


def never_asks(process: Process) -> None:
    """Show no head to any witness."""
    witnessing: Any = process.gossip.witnessing
    witnessing._beat = lambda lines: None


def never_proves(process: Process) -> None:
    """Answer no request for a proof."""
    witnessing: Any = process.gossip.witnessing
    witnessing._prove = lambda line, size, olds: None


def ask_again(world: World, node: SimNode) -> None:
    """Ask witnesses for what they were asked before, at whatever size that was."""
    kept: list[bytes] = node.secret.get("requests", [])
    for peer in world.nodes:
        if peer is not node and kept:
            say(node, peer, Cosign(world.rng.choice(kept)))


def rewrite(world: World, node: SimNode) -> bool:
    """Rewrite an entry that a witness has cosigned; False if there is none yet, or the node is off.

    Now and then the new log is first shown at the very size that the old one was cosigned at.
    """
    process = node.process
    seen = _cosigned_sizes(world, node)
    if process is None or not seen:
        return False
    node.fuse.set(0)
    at = world.rng.randrange(max(seen.values()))
    world.oracle.logs.keep_history(node)
    world.trace(node.name, f"rewrites entry {at}")
    if not node.run("rewrite", lambda: _rewrite(world, node, process, at)):
        return False
    if world.rng.random() < 0.5:
        for peer, size in seen.items():
            request = AddCheckpoint(size, (), _head_at(node, process, size))
            say(node, peer, Cosign(format_add_checkpoint(request)))
    return True


def _cosigned_sizes(world: World, node: SimNode) -> dict[SimNode, int]:
    """Return which honest nodes cosigned the log of *node*, and how far."""
    found = {}
    for peer in world.nodes:
        rows = peer.disk.rows("SELECT size FROM witnessed WHERE node_id = ?", node.id)
        if peer.honest and rows and rows[0][0]:
            found[peer] = rows[0][0]
    return found


def _rewrite(world: World, node: SimNode, process: Process, at: int) -> None:
    core, store = process.core, process.core.store
    entries = [row[0] for row in node.disk.rows("SELECT entry FROM entries ORDER BY idx")]
    entries[at] = make_entry(
        EntryKind.HEARTBEAT, world.rng.randbytes(32), local_commitment=world.rng.randbytes(32),
        blind=world.rng.randbytes(16),
    )  # fmt: skip
    leaves = [merkle.leaf_hash(entry) for entry in entries]
    tiles = merkle.grow(size=0, new_leaves=leaves, reader=_NoTiles())
    with store.transaction():
        store.run("UPDATE entries SET entry = ? WHERE idx = ?", entries[at], at)
        store.run("DELETE FROM checkpoints")
        store.insert_all(
            "tiles",
            [{"level": level, "idx": index, "data": data} for level, index, data in tiles],
            replace=True,
        )
    core.log.forget()
    core.log.seal(node.clock.now())
    with store.transaction():
        core.log.keep()
    core._fence.raise_to(core.log.size, core.log.root())


class _NoTiles:
    """What an empty tree reads."""

    def read_tiles(self, keys: Sequence[tuple[int, int]]) -> Mapping[tuple[int, int], bytes]:
        """Return nothing: there are none."""
        assert not keys
        return {}


def _head_at(node: SimNode, process: Process, size: int) -> bytes:
    core = process.core
    return sign_checkpoint(
        Checkpoint(core.log.origin, size, core.log.root(size)),
        ed25519=core.keys.log_ed25519,
        mldsa44=core.keys.log_mldsa44,
        now_s=node.clock.now() // 1_000,
    )


# --- false words about third logs ------------------------------------------------------------
def lie_about_logs(world: World, node: SimNode) -> None:
    """Claim heads of third logs that never were, and bring evidence of nothing."""
    for peer in world.nodes:
        if peer is node:
            continue
        items = []
        for third in world.nodes:
            if third in (node, peer) or world.rng.random() < 0.3:
                continue
            seen = peer.disk.rows("SELECT size FROM witnessed WHERE node_id = ?", third.id)
            size = seen[0][0] if seen else 1
            sizes = (size, max(1, size - 1), size + 1, size + 3, world.rng.randrange(1, 2**48))
            items.append((third.id, world.rng.choice(sizes), world.rng.randbytes(32)))
        if items:
            say(node, peer, Heads(tuple(sorted(items))))
        third = world.rng.choice([n for n in world.nodes if n not in (node, peer)])
        say(node, peer, LogForked(third.id, _no_evidence(world, node, third)))
        say(node, peer, Head(third.id, _some_note(world, node, third)))
        say(node, peer, WantHead(third.id, world.rng.randrange(1, 60)))
        say(node, peer, Consistency(world.rng.randrange(40, 60), ((7, (bytes(32),) * 3),)))
        say(node, peer, WantConsistency(2**40, (1, 2**39)))


def _some_note(world: World, node: SimNode, third: SimNode) -> bytes:
    """Return a genuine head of a third log that *node* holds, its own head, or rubbish."""
    rows = node.disk.rows("SELECT note FROM witnessed WHERE node_id = ?", third.id)
    own = node.disk.rows("SELECT note FROM checkpoints ORDER BY size DESC LIMIT 1")
    choices: list[bytes] = [world.rng.randbytes(40), *(row[0] for row in rows + own)]
    return world.rng.choice(choices)


def _no_evidence(world: World, node: SimNode, third: SimNode) -> bytes:
    """Return what looks like evidence against a third log, forged with the keys of *node*."""
    process = node.process
    card = third.identity.chain.card
    assert card is not None
    if process is None or world.rng.random() < 0.2:
        return world.rng.randbytes(64)
    keys, size = process.core.keys, world.rng.randrange(1, 30)
    notes = [
        sign_checkpoint(
            Checkpoint(card.log.name, size, world.rng.randbytes(32)),
            ed25519=keys.log_ed25519,
            mldsa44=keys.log_mldsa44,
            now_s=node.clock.now() // 1_000,
        )
        for _ in range(2)
    ]
    return make_fork(notes[0], notes[1], ())


def stands_by_lies(world: World, node: SimNode) -> Twist:
    """Return a twist that answers who asks for the signed head with another one, or with none."""

    def twist(process: Process) -> None:
        witnessing: Any = process.gossip.witnessing
        heard = witnessing.heard

        def lied(line: Line, frame: Asking) -> None:
            if not isinstance(frame, WantHead):
                heard(line, frame)
                return
            third = world.oracle.index_of(frame.node_id)
            if third is not None and world.rng.random() < 0.8:
                note = _some_note(world, node, world.nodes[third])
                witnessing._say(line, Head(frame.node_id, note))

        witnessing.heard = lied

    return twist


# --- dishonest witnesses ---------------------------------------------------------------------
def cosign_badly(world: World, node: SimNode) -> Twist:
    """Return a twist that answers who asks for a cosignature with anything but a good one."""

    def twist(process: Process) -> None:
        witnessing: Any = process.gossip.witnessing

        def badly(line: Line, request: bytes) -> Outcome:
            del line
            answer = _bad_answer(world, node, process, request)
            return Outcome() if answer is None else Outcome(say=(answer,))

        witnessing._cosign = badly

    return twist


def _bad_answer(world: World, node: SimNode, process: Process, request: bytes) -> Cosigned | None:
    try:
        head = read_head(parse_add_checkpoint(request).note)
    except PeerError:
        return None
    bad: Sequence[Callable[[], Cosigned | None]] = (
        lambda: None,
        lambda: Cosigned(200, b""),
        lambda: Cosigned(200, world.rng.randbytes(80)),
        lambda: Cosigned(world.rng.choice((403, 404, 422, 500)), b""),
        lambda: Cosigned(409, b"%d\n" % world.rng.choice((0, 1, head.size + 1, 10**15))),
        lambda: Cosigned(409, b"%d\n" % limits.MAX_LOG_SIZE),
        lambda: Cosigned(409, b"none\n"),
        lambda: _badly_signed(world, node, process, head),
    )
    return world.rng.choice((*bad, bad[-1], bad[-1]))()


def _badly_signed(world: World, node: SimNode, process: Process, head: HeadSeen) -> Cosigned:
    """Return a cosignature with a wrong time, key, head or signature, or one half of it."""
    keys, now_s = process.core.keys, node.clock.now() // 1_000
    card = node.identity.chain.card
    assert card is not None
    name, what = card.witness.name, world.rng.randrange(7)
    if what == 0:
        now_s = world.rng.choice((0, now_s + _AWRY_S, now_s + 301))
    elif what == 1:
        other = world.rng.choice([n for n in world.nodes if n is not node])
        assert other.identity.chain.card is not None
        name = other.identity.chain.card.witness.name
    elif what == 2:
        head = replace(head, root=world.rng.randbytes(32))
    elif what == 3:
        head = replace(head, size=head.size + 1)
    lines = cosign(
        Checkpoint(head.origin, head.size, head.root), name=name, ed25519=keys.witness_ed25519,
        mldsa44=keys.witness_mldsa44, now_s=now_s,
    )  # fmt: skip
    if what == 4:
        lines = (_flipped(world, lines[0]), lines[1])
    elif what == 5:
        lines = (lines[0], _flipped(world, lines[1]))
    return Cosigned(200, format_signatures(lines[: 1 if what == 6 else 2]))


def _flipped(world: World, line: NoteSignature) -> NoteSignature:
    raw = bytearray(line.signature)
    raw[world.rng.randrange(len(raw))] ^= 1 << world.rng.randrange(8)
    return replace(line, signature=bytes(raw))


def misremember(world: World, node: SimNode) -> Twist:
    """Return a twist that shows each peer, when a link opens, anything but the head it cosigned."""

    def twist(process: Process) -> None:
        book: Any = process.core.witness
        newest_of = book.newest_of

        def wrong(node_id: bytes) -> bytes:
            index = world.oracle.index_of(node_id)
            note: bytes = newest_of(node_id)
            if world.rng.random() < 0.3 or index is None:
                return b""
            if note and world.rng.random() < 0.5:
                # Without what its log signed it is nobody's head.
                return note.replace(parse_note(note).text.split("\n")[2].encode(), b"A" * 44, 1)
            return _some_note(world, node, world.nodes[(index + 1) % len(world.nodes)])

        book.newest_of = wrong

    return twist
