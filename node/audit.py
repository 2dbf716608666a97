"""Auditing a peer's log from its hash tiles: no entry is needed, and none is seen.

- The tree is rebuilt from the leaf hashes and compared with the signed checkpoint, with every tile
  above the leaves, with every head of that log that was ever seen here, and with every receipt that
  the peer gave; also of logs that it had before, as far as the present one goes on with them.
- Nobody is blamed before the leaves lead to the signed root: until then they may be damaged.
- What the peer says and how long it takes is bounded; memory does not grow with its log.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final, Protocol

from keys.trust import Peer
from node.clock import Clock
from node.log_memory import Seen, names_of, remember
from node.openings import OPENED, Opening, parse_openings
from node.store import Store
from node.tiles import CHECKPOINT, TilePath
from node.words import counted
from protocol import limits, merkle
from protocol.checkpoint import Checkpoint, verify_checkpoint
from protocol.errors import PeerError

_WINDOW: Final = 16
FRESH_MS: Final = 2 * 3_600_000
"""Nodes show heads on a beat of an hour at most."""
PATIENCE_MS: Final = 60_000
"""How long an answer is waited for."""
_TILE_MS: Final = 2_000
"""How long one tile may take on average: 8 KiB over the slowest links."""
Take = Callable[[str, bytes], None]

SIGNED: Final = "checkpoint signed by both log keys"
UNFORKED: Final = "no proof that it contradicts itself"
CONTINUED: Final = "old log goes on in the new one"
LOST: Final = "nothing of the old log is lost"
READ: Final = "whole log read"
TILES: Final = "tiles fit the leaves"
TREE: Final = "tree leads to the checkpoint"
HEADS: Final = "all heads seen before fit"
RECEIPTS: Final = "receipts stand in the log"


class Reader(Protocol):
    """Asks a peer for resources of its log."""

    def __call__(self, peer: bytes, paths: Iterable[str], take: Take) -> bool:
        """Ask; *take* gets each path with its bytes, in order. False if the peer is not linked."""
        ...


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that was checked, and how it ended: None if there was nothing to check."""

    name: str
    ok: bool | None
    detail: str


@dataclass
class _Tree:
    """The tree as far as its leaf hashes have come."""

    count: int = 0
    peaks: list[tuple[int, bytes]] = field(default_factory=list)

    def add(self, leaf: bytes) -> None:
        """Take the next leaf hash."""
        self.count += 1
        self.peaks.append((1, leaf))
        while len(self.peaks) > 1 and self.peaks[-1][0] == self.peaks[-2][0]:
            (count, right), (_, left) = self.peaks.pop(), self.peaks.pop()
            self.peaks.append((2 * count, merkle.node_hash(left, right)))

    def root(self) -> bytes:
        """Return the root so far."""
        if not self.peaks:
            return merkle.EMPTY_ROOT
        value = self.peaks[-1][1]
        for _, left in reversed(self.peaks[:-1]):
            value = merkle.node_hash(left, value)
        return value


class Audit:
    """One audit of one peer's log, fed with what the peer sends."""

    def __init__(
        self, peer: Peer, *, store: Store, clock: Clock, read: Reader,
        on_head: Callable[[bytes], None],
    ) -> None:  # fmt: skip
        """Prepare; ``start`` begins.

        Args:
            peer: whose log.
            store: node.db, for what was seen of that log before.
            clock: what was seen in the last minutes may be beyond the head that it shows.
            read: asks the peer.
            on_head: gets the peer's checkpoint, once it is verified, to compare it with others.
        """
        self.peer = peer
        self._store, self._read, self._on_head = store, read, on_head
        self._clock = clock
        self._began = self._heard = clock.monotonic()
        self._tree = _Tree()
        self._upper: dict[int, bytearray] = {}  # of each level the hashes of its newest tile
        self._checkpoint = Checkpoint(peer.card.log.name, 0, merkle.EMPTY_ROOT)
        self._seen: dict[str, Seen] = {}
        # What the tree has to have: roots by size and leaves by index, each with whose name.
        self._heads: dict[int, dict[bytes, str]] = {}
        self._leaves: dict[int, dict[bytes, str]] = {}
        self._openings: dict[int, bytes] = {}
        self._faults: dict[str, Check] = {}
        self._waiting: Iterator[TilePath] = iter(())
        self._asked: deque[str] = deque()
        self._tiles: dict[str, TilePath] = {}
        self._heads_count = self._leaves_count = 0
        self.checks: list[Check] = []
        self.done = self.total = 0
        self.over = False

    def start(self) -> bool:
        """Ask for the checkpoint; False if the peer is not linked."""
        self._asked.append(CHECKPOINT)
        return self._read(self.peer.node_id, [CHECKPOINT], self._take)

    def stop(self, why: str) -> None:
        """End it before its time."""
        if not self.over:
            self._end(Check(READ, False, why))

    def expire(self) -> None:
        """End it if the peer does not answer, or so slowly that it would never end."""
        now = self._clock.monotonic()
        if now - self._heard > PATIENCE_MS:
            self.stop(f"it has not answered for {PATIENCE_MS // 1_000} s")
        elif now - self._began > PATIENCE_MS + _TILE_MS * self.done:
            self.stop(f"it answers too slowly: {self.done} of {self.total} tiles came")

    def _end(self, *checks: Check) -> None:
        self.checks += checks
        self.over = True
        self._heads, self._leaves, self._seen = {}, {}, {}

    # --- what the peer sends -----------------------------------------------------------------
    def _take(self, path: str, body: bytes) -> None:
        if self.over:
            return
        if not self._asked or self._asked.popleft() != path:
            self.stop("it answers in another order than it was asked")
            return
        self._heard = self._clock.monotonic()
        if path == CHECKPOINT:
            self._take_checkpoint(body)
        elif path == OPENED:
            self._take_openings(body)
        else:
            self._take_tile(self._tiles.pop(path), body)

    def _take_checkpoint(self, note: bytes) -> None:
        keys = self.peer.card.log
        try:
            checkpoint = verify_checkpoint(
                note, origin=keys.name, ed25519=keys.ed25519, mldsa44=keys.mldsa44
            )
        except PeerError as error:
            self._end(Check(SIGNED, False, error.message))
            return
        self.checks.append(Check(SIGNED, True, f"{checkpoint.size} entries, {keys.name}"))
        self._checkpoint = checkpoint
        # Before it is noted itself, or it would be compared with itself.
        self._seen = remember(self.peer, self._store, before=self._clock.now() - FRESH_MS)
        self._on_head(note)
        if checkpoint.size > limits.MAX_AUDIT_ENTRIES:
            said = f"it claims {checkpoint.size} entries; no more than {limits.MAX_AUDIT_ENTRIES}"
            self._end(Check(READ, False, f"{said} are read, and no honest log has them"))
        elif len(self._seen) > 1:
            self._ask([OPENED])
        else:
            self._begin({})

    def _take_openings(self, body: bytes) -> None:
        """Take what the peer says of how its logs began, and so how much of each is kept."""
        try:
            found = parse_openings(body)
        except PeerError as error:
            self._miss(f"what it shows of how its log began is wrong: {error.message}")
            self._begin({})
            return
        names = names_of(self.peer, self._store)
        known = [(each, _rank(names, each)) for each in found if each.index < self._checkpoint.size]
        if all(rank != len(names) - 1 for _, rank in known):
            self._miss("it does not show the entry that began its present log")
        self._openings = {each.index: merkle.leaf_hash(each.entry) for each, _ in known}
        kept: dict[str, int] = {}
        for place, name in enumerate(names[:-1]):
            later = [each.kept for each, rank in known if rank is not None and rank > place]
            if later:
                kept[name] = min(later)
        self._begin(kept)

    def _miss(self, why: str) -> None:
        self._faults.setdefault(CONTINUED, Check(CONTINUED, False, why))

    def _begin(self, kept: Mapping[str, int]) -> None:
        """Gather what the tree has to have, and ask for it."""
        present = self._checkpoint.origin
        lost = []
        for name, seen in self._seen.items():
            limit = limits.MAX_LOG_SIZE if name == present else kept.get(name, 0)
            _gather(self._heads, seen.heads, name, below=limit + 1)
            _gather(self._leaves, seen.leaves, name, below=limit)
            furthest = max((*seen.heads, *(index + 1 for index in seen.leaves)), default=0)
            if name in kept and furthest > limit:
                receipts = sum(index >= limit for index in seen.leaves)
                lost.append(f"{counted(furthest - limit, 'entry')} of {name}, for "
                            f"{receipts} of which it gave a receipt")  # fmt: skip
        self._heads_count = sum(map(len, self._heads.values()))
        self._leaves_count = sum(map(len, self._leaves.values()))
        if len(self._seen) > 1 and CONTINUED not in self._faults:
            said = ", ".join(f"{count} entries of {name}" for name, count in kept.items())
            self.checks.append(Check(CONTINUED, True, f"by its own word it begins with {said}"))
        if lost:
            detail = f"left behind were {'; '.join(lost)} to this node. Ask why"
            self.checks.append(Check(LOST, None, detail))
        self.total = _tile_count(self._checkpoint.size)
        self._waiting = _tiles_upward(self._checkpoint.size)
        if self.total:
            self._ask_tiles()
        else:
            self._finish()

    def _ask(self, paths: list[str]) -> None:
        self._asked += paths
        if not self._read(self.peer.node_id, paths, self._take):
            self.stop("the link with it has ended")

    def _ask_tiles(self) -> None:
        paths = []
        while len(self._tiles) < _WINDOW and (tile := next(self._waiting, None)) is not None:
            paths.append(str(tile))
            self._tiles[str(tile)] = tile
        if paths:
            self._ask(paths)

    def _take_tile(self, tile: TilePath, body: bytes) -> None:
        if len(body) != tile.width * merkle.HASH_SIZE:
            self._end(Check(READ, False, f"{tile} is missing or has another length"))
            return
        if tile.level == 0:
            self._take_leaves(body)
        elif bytes(self._upper.pop(tile.level or 0, b"")) != body:
            self._end(Check(TILES, False, f"{tile} differs from the leaves below it"))
            return
        self.done += 1
        if self.done == self.total:
            self._finish()
        else:
            self._ask_tiles()

    def _take_leaves(self, body: bytes) -> None:
        for at in range(0, len(body), merkle.HASH_SIZE):
            leaf, index = body[at : at + merkle.HASH_SIZE], self._tree.count
            if self._openings.get(index, leaf) != leaf:
                self._miss(f"entry {index} is not the one that it shows to have begun its log")
            for given, name in self._leaves.pop(index, {}).items():
                if given != leaf:
                    detail = f"{self._as(name)}a receipt was given for entry {index}, which is "
                    self._blame(RECEIPTS, f"{detail}another now")
            self._tree.add(leaf)
            self._compare_heads()
        if len(body) == merkle.TILE_WIDTH * merkle.HASH_SIZE:
            self._raise_level(1, merkle.tile_root(body))

    def _compare_heads(self) -> None:
        count = self._tree.count
        heads = self._heads.pop(count, None)
        if heads is not None:
            root = self._tree.root()
            for other, name in heads.items():
                if other != root:
                    detail = f"{self._as(name)}it signed another head of {count} entries before"
                    self._blame(HEADS, detail)

    def _as(self, name: str) -> str:
        return "" if name == self._checkpoint.origin else f"as {name} "

    def _blame(self, name: str, detail: str) -> None:
        self._faults.setdefault(name, Check(name, False, detail))

    def _raise_level(self, level: int, value: bytes) -> None:
        """Note a hash of the level above, and what follows from it further up."""
        row = self._upper.setdefault(level, bytearray())
        row += value
        if len(row) == merkle.TILE_WIDTH * merkle.HASH_SIZE:
            self._raise_level(level + 1, merkle.tile_root(bytes(row)))

    # --- the end -----------------------------------------------------------------------------
    def _finish(self) -> None:
        checkpoint = self._checkpoint
        if self._tree.root() != checkpoint.root:
            self._end(Check(TREE, False, "its leaves give another root"))
            return
        if CONTINUED in self._faults:
            self.checks = [each for each in self.checks if each.name != CONTINUED]
            self.checks.append(self._faults[CONTINUED])
        floor = self._seen[checkpoint.origin].floor
        self._end(
            Check(READ, True, f"{self._tree.count} leaf hashes, {self.total} tiles"),
            Check(TREE, True, f"size {checkpoint.size}"),
            self._left(HEADS, self._heads_count, self._heads, floor),
            self._left(RECEIPTS, self._leaves_count, self._leaves, floor),
            self._unforked(),
        )

    def _left(
        self, name: str, count: int, left: Mapping[int, Mapping[bytes, str]], floor: int
    ) -> Check:
        """Return the check of things of which those that are not of late may not be left over."""
        if name in self._faults:
            return self._faults[name]
        if left and floor > self._tree.count:
            return Check(
                name, False, f"it had {floor} entries before, and shows {self._tree.count}"
            )
        late = sum(map(len, left.values()))
        more = f", {late} too new for the head that it shows" if late else ""
        return Check(name, True if count else None, f"{count - late} compared{more}")

    def _unforked(self) -> Check:
        """Return whether what was ever proven against its logs leaves them without blame."""
        proofs = self._store.scalar(
            "SELECT count(*) FROM log_forks WHERE node_id = ?", self.peer.node_id
        )
        if proofs:
            return Check(UNFORKED, False, f"{counted(proofs, 'proof')} kept; see: picket log fork")
        return Check(UNFORKED, True, "none is known here")


def _gather(
    into: dict[int, dict[bytes, str]], found: Mapping[int, set[bytes]], name: str, *, below: int
) -> None:
    for number, values in found.items():
        if number < below:
            into.setdefault(number, {}).update(dict.fromkeys(values, name))


def _rank(names: tuple[str, ...], opening: Opening) -> int | None:
    """Return which of *names*, in their order, an entry began; None if it is none of them."""
    return next((at for at, name in enumerate(names) if opening.opens(name)), None)


def _tile_count(size: int) -> int:
    count = 0
    while size:
        count += -(-size // merkle.TILE_WIDTH)
        size //= merkle.TILE_WIDTH
    return count


def _tiles_upward(size: int) -> Iterator[TilePath]:
    """Yield the tiles of a log of *size* entries, each right after the last one that is below it.

    So no more than one tile of each level has to be kept.
    """
    full, width = divmod(size, merkle.TILE_WIDTH)
    for index in range(full):
        yield TilePath(0, index)
        level, count = 1, index + 1
        while count % merkle.TILE_WIDTH == 0:
            count //= merkle.TILE_WIDTH
            yield TilePath(level, count - 1)
            level += 1
    if width:
        yield TilePath(0, full, width)
    level = 1
    while full:
        full, width = divmod(full, merkle.TILE_WIDTH)
        if width:
            yield TilePath(level, full, width)
        level += 1
