"""What the oracle knows of logs: which heads were let out, cosigned and told, and to whom.

It reads every note that passes and, at the end, the entries on every disk: from them it knows the
root of each log at each size, and so whether two heads are of one history.
"""

from __future__ import annotations

from collections import defaultdict, deque
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final

import msgpack

from node.metrics import LOG_REFUSED
from protocol import merkle
from protocol.checkpoint import parse_body, verify_ed25519
from protocol.cosignatures import check_policy
from protocol.errors import PeerError
from protocol.log_fork import parse_log_fork, verify_log_fork
from protocol.note import Note, parse_note
from protocol.witness import parse_signatures
from tests.sim.clock import START_MS

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from tests.sim.node import SimNode
    from tests.sim.process import Process
    from tests.sim.world import World

_TAG: Final = 16
_OK: Final = 200
_CONFLICT: Final = 409
_ASKED_KEPT: Final = 64
_APART_MS: Final = 250_000
"""How far apart the clocks of a log and its witness may be: 300 s, less some for drift."""


@dataclass(frozen=True, slots=True)
class HeadSeen:
    """A tree head, as its note has it."""

    origin: str
    size: int
    root: bytes
    text: str


@lru_cache(maxsize=512)
def read_head(note: bytes) -> HeadSeen:
    """Return the head of a signed *note*."""
    parsed = parse_note(note)
    head = parse_body(parsed.text)
    return HeadSeen(head.origin, head.size, head.root, parsed.text)


def roots_of(entries: Iterable[bytes]) -> list[bytes]:
    """Return the root of a log at each size, from zero on."""
    peaks: list[tuple[int, bytes]] = []
    roots = [merkle.EMPTY_ROOT]
    for entry in entries:
        peaks.append((1, merkle.leaf_hash(entry)))
        while len(peaks) > 1 and peaks[-1][0] == peaks[-2][0]:
            (count, right), (_, left) = peaks.pop(), peaks.pop()
            peaks.append((2 * count, merkle.node_hash(left, right)))
        value = peaks[-1][1]
        for _, left in reversed(peaks[:-1]):
            value = merkle.node_hash(left, value)
        roots.append(value)
    return roots


def describe(kind: str, value: list[Any]) -> str:
    """Return what a trace tells of a frame about logs."""
    match kind:
        case "cosign":
            old, _, note = value[1].partition(b"\n")
            head = read_head(note.partition(b"\n\n")[2] if note[:1] != b"\n" else note[1:])
            return f"{head.size} {head.root.hex()[:6]} after {old.decode()[4:]}"
        case "cosigned":
            return f"{value[1]}" + (
                f" {value[2].decode().strip()}" if value[1] == _CONFLICT else ""
            )
        case "heads":
            return " ".join(f"{i.hex()[:4]}:{size}:{root.hex()[:6]}" for i, size, root in value[1])
        case "want-head":
            return f"{value[1].hex()[:4]}:{value[2]}"
        case "head":
            head_text = "none"
            if value[2]:
                head = read_head(value[2])
                head_text = f"{head.size} {head.root.hex()[:6]}"
            return f"{value[1].hex()[:4]}:{head_text}"
        case "want-consistency":
            return f"{value[1]} from {' '.join(map(str, value[2]))}"
        case _:
            return f"{value[1]} from {' '.join(str(item[0]) for item in value[2])}"


class LogOracle:
    """Watches what one world says about logs."""

    def __init__(self, world: World) -> None:
        """Know nothing yet."""
        self._world = world
        self.accused: dict[int, set[int]] = defaultdict(set)
        """Of whose log each node holds evidence, by index."""
        self._audiences: set[frozenset[int]] = set()
        self._heads: dict[int, dict[tuple[str, int], tuple[bytes, int]]] = defaultdict(dict)
        self._asked: dict[tuple[int, int], deque[HeadSeen]] = defaultdict(
            lambda: deque(maxlen=_ASKED_KEPT)
        )
        self._promised: dict[tuple[int, str], int] = {}
        self._cosigned: dict[tuple[int, str], set[tuple[int, bytes]]] = defaultdict(set)
        self._given_up: set[str] = set()
        self._histories: dict[int, list[list[bytes]]] = defaultdict(list)

    # --- what happens to nodes ---------------------------------------------------------------
    def share(self, audience: frozenset[int]) -> None:
        """Note that these nodes know of each other."""
        self._audiences.add(audience)

    def restored(self, node: SimNode) -> None:
        """Forget what the log and the witness of a node promised before it was set back."""
        self._given_up.add(_origin(node))
        self._heads.pop(node.person, None)
        for key in [key for key in self._promised if key[0] == node.index]:
            del self._promised[key], self._cosigned[key]

    def ended(self, node: SimNode, process: Process | None) -> None:
        """Check that a process found no fault with what honest nodes said of logs."""
        if process is None or not node.honest:
            return
        for peer in self._world.nodes:
            known = process.core.trust.peers.get(peer.id)
            if peer.trusted and known is not None:
                count = process.gossip.metrics.value(LOG_REFUSED, known.name)
                if count:
                    self._world.oracle.violated(
                        node, f"refused {count} things that the honest {peer.name} said of logs"
                    )

    def keep_history(self, node: SimNode) -> None:
        """Remember the log of a dishonest node as it is now, before it is rewritten."""
        self._histories[node.person].append(_roots(node))

    def blame(self, node: SimNode, accused: SimNode) -> None:
        """Note that *node* holds evidence against the log of *accused*."""
        self.accused[node.index].add(accused.index)

    # --- messages ----------------------------------------------------------------------------
    def sent(self, node: SimNode, peer: SimNode, kind: str, message: bytes) -> None:
        """Judge a message about logs, or one that carries a head."""
        if kind == "cosign":
            self._note_asked(node, peer, message)
        if not node.honest:
            return
        if kind == "cosigned":
            self._answered(node, peer, message)
        elif kind in {"heads", "head", "want-head", "log-forked"}:
            self._told(node, peer, kind, msgpack.unpackb(message[_TAG:]))

    def published(self, owner: SimNode, note: bytes) -> HeadSeen:
        """Note a head of its own log that an honest node let out."""
        head = read_head(note)
        self._keep_head(owner, head)
        return head

    def _keep_head(self, owner: SimNode, head: HeadSeen) -> None:
        if head.origin in self._given_up:
            return
        heads = self._heads[owner.person]
        root, _ = heads.setdefault((head.origin, head.size), (head.root, self._world.events.now))
        if root != head.root:
            self._world.oracle.violated(owner, f"signed two heads of size {head.size}")

    def _note_asked(self, node: SimNode, peer: SimNode, message: bytes) -> None:
        try:
            note = msgpack.unpackb(message[_TAG:])[1].partition(b"\n\n")[2]
            self._asked[node.person, peer.index].append(read_head(note))
        except (PeerError, ValueError, IndexError, TypeError, AttributeError):
            return  # garbage of a dishonest node

    def _answered(self, node: SimNode, peer: SimNode, message: bytes) -> None:
        """Judge the answer of a witness: what it cosigned must be durable before it says so."""
        _, status, body = msgpack.unpackb(message[_TAG:])
        if status != _OK:
            return
        head = self._meant(node, peer, body)
        if head is None:
            self._world.oracle.violated(node, f"cosigned what {peer.name} did not ask for")
            return
        key = node.index, head.origin
        self._promised[key] = max(head.size, self._promised.get(key, 0))
        self._cosigned[key].add((head.size, head.root))
        self.check_records(node)

    def _meant(self, node: SimNode, peer: SimNode, body: bytes) -> HeadSeen | None:
        """Return the head on which the cosignature in *body* stands."""
        card = node.identity.chain.card
        assert card is not None
        line = parse_signatures(body)[0]
        for head in reversed(self._asked[peer.person, node.index]):
            try:
                verify_ed25519(
                    Note(head.text, (line,)), name=line.name, public_key=card.witness.ed25519
                )
            except PeerError:
                continue
            return head
        return None

    def check_records(self, node: SimNode) -> None:
        """Check that the record of a witness holds at least what it cosigned."""
        if not node.trusted or node.disk.connection.in_transaction:
            return
        rows = node.disk.rows("SELECT origin, size FROM witnessed")
        sizes: dict[str, int] = dict(rows)
        for (index, origin), size in self._promised.items():
            if index == node.index and sizes.get(origin, 0) < size:
                held = sizes.get(origin, 0)
                self._world.oracle.violated(
                    node, f"cosigned {origin} at size {size}, and its record says {held}"
                )

    def _told(self, node: SimNode, peer: SimNode, kind: str, value: list[Any]) -> None:
        """Judge what is said of third nodes: only to those who know of them."""
        about = [item[0] for item in value[1]] if kind == "heads" else [value[1]]
        for node_id in about:
            if node_id in {node.id, peer.id}:
                continue
            third = self._world.oracle.index_of(node_id)
            trio = {node.person, peer.person, third}
            if not any(trio <= audience for audience in self._audiences):
                name = "nobody" if third is None else self._world.nodes[third].name
                self._world.oracle.violated(
                    node, f"tells {peer.name} of the log of {name} in a frame {kind}"
                )
        if kind == "head" and value[2]:
            # A witness passes on what the log itself signed, so the same promise is judged.
            owner = self._world.oracle.index_of(value[1])
            if owner is not None and self._world.nodes[owner].trusted:
                self._keep_head(self._world.nodes[owner], read_head(value[2]))

    # --- the end -----------------------------------------------------------------------------
    def unwitnessed(self) -> list[str]:
        """Return whose log no quorum has cosigned although enough honest witnesses are linked."""
        found = []
        for node in self._world.nodes:
            process = node.process
            if not node.honest or process is None:
                continue
            standing = process.core.cosigning.standing()
            able = [
                other
                for other in self._world.nodes
                if other.name in standing.witnesses and self._able(node, other)
            ]
            if len(able) >= standing.needed and not standing.size:
                found.append(f"{node.name} has no head that a quorum cosigned")
        return found

    def _able(self, node: SimNode, witness: SimNode) -> bool:
        """Whether an honest witness can be asked, by a clock that *node* believes."""
        apart = abs(witness.clock.now() - node.clock.now())
        return witness.honest and self._world.can_link(node, witness) and apart < _APART_MS

    def finish(self) -> None:
        """Look at every head that was let out or cosigned, and at all evidence."""
        for node in self._world.nodes:
            if not node.honest:
                continue
            self.check_records(node)
            self._check_heads(node)
            self._check_evidence(node)
            self.ended(node, node.process)
            if node.process is not None:
                self._check_cosigned(node)
        if not self._world.genesis.bulk:
            self._check_histories()

    def _check_heads(self, node: SimNode) -> None:
        """Check with its own entries that all heads a node let out are of one history."""
        heads = self._heads.get(node.person)
        if not heads:
            return
        roots = _roots(node)
        for (origin, size), (root, _) in heads.items():
            if origin not in self._given_up and (size >= len(roots) or roots[size] != root):
                self._world.oracle.violated(
                    node, f"let out a head of size {size} that its log denies"
                )

    def _check_evidence(self, node: SimNode) -> None:
        for node_id, proof in node.disk.rows("SELECT node_id, proof FROM log_forks"):
            index = self._world.oracle.index_of(node_id)
            if index is None:
                self._world.oracle.violated(node, "holds evidence against a log of nobody")
                continue
            accused = self._world.nodes[index]
            if accused.trusted:
                self._world.oracle.violated(
                    node, f"holds evidence against the log of the honest {accused.name}"
                )
            card = accused.identity.chain.card
            assert card is not None
            keys = [accused.identity.service.log_keys(name) for name in _names(card.log.name)]
            try:
                verify_log_fork(parse_log_fork(proof), logs=keys)
            except PeerError as error:
                self._world.oracle.violated(node, f"keeps evidence of nothing: {error}")

    def _check_cosigned(self, node: SimNode) -> None:
        """Check the newest cosigned head of a node as a stranger would."""
        assert node.process is not None
        cosigning = node.process.core.cosigning
        found = cosigning.cosigned()
        if found is None:
            return
        size, note = found
        try:
            done = check_policy(note, cosigning.policy)
        except PeerError as error:
            self._world.oracle.violated(node, f"its cosigned head does not verify: {error}")
            return
        head = read_head(note)
        known = self._heads.get(node.person, {}).get((head.origin, size))
        if known is None or done.not_after is None or not self._in_step():
            return
        shown_s = (START_MS + known[1] // 1_000) // 1_000
        if done.not_after < shown_s:
            self._world.oracle.violated(
                node, f"its head of size {size} is cosigned {shown_s - done.not_after} s too early"
            )

    def _in_step(self) -> bool:
        clocks = [node.clock for node in self._world.nodes if node.honest]
        return not any(clock.offset_ms or clock.rate_ppm for clock in clocks)

    def _check_histories(self) -> None:
        """Check that all that one honest witness cosigned of one log is of one history."""
        kept: dict[int, list[list[bytes]]] = {}
        owners = {_origin(node): node for node in self._world.nodes}
        for (index, origin), heads in self._cosigned.items():
            owner = owners.get(origin)
            witness = self._world.nodes[index]
            if owner is None or origin in self._given_up or not witness.trusted:
                continue
            if owner.person not in kept:
                kept[owner.person] = self._histories[owner.person] + [
                    _roots(node) for node in self._world.nodes if node.person == owner.person
                ]
            if not any(_fits(heads, roots) for roots in kept[owner.person]):
                self._world.oracle.violated(
                    witness, f"cosigned heads of {owner.name} that contradict each other"
                )


def _fits(heads: Iterable[tuple[int, bytes]], roots: Sequence[bytes]) -> bool:
    return all(size < len(roots) and roots[size] == root for size, root in heads)


def _roots(node: SimNode) -> list[bytes]:
    return roots_of(row[0] for row in node.disk.rows("SELECT entry FROM entries ORDER BY idx"))


def _origin(node: SimNode) -> str:
    """Return the name of the newest log of a node, as its disk has it."""
    if node.process is not None:
        return node.process.core.log.origin
    rows = node.disk.rows("SELECT note FROM checkpoints ORDER BY size DESC LIMIT 1")
    card = node.identity.chain.card
    assert card is not None
    return read_head(rows[0][0]).origin if rows else card.log.name


def _names(first: str) -> list[str]:
    """Return the names of a node's logs: the first, and those that it may have begun since."""
    return [first, *(f"{first}{number}" for number in range(2, 9))]
