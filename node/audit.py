"""Auditing a peer's log from its hash tiles: no entry is needed, and none is seen.

The tree is rebuilt from the leaf hashes and compared with the signed checkpoint, with every tile
above the leaves, with every head of that log that was ever seen here, and with every receipt that
the peer gave.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final, Protocol

from keys.trust import Peer
from node.store import Store
from node.tiles import CHECKPOINT, TilePath, parse_tile_path, tiles_of
from protocol import merkle
from protocol.checkpoint import Checkpoint, parse_body, verify_checkpoint
from protocol.errors import LogCorruptionError, PeerError
from protocol.frames import Receipts, Runs, decode_frame
from protocol.note import parse_note
from protocol.receipt import run_entries, verify_receipts, verify_runs

_WINDOW: Final = 16
FRESH_MS: Final = 2 * 3_600_000
"""Nodes show heads on a beat of an hour at most."""
Take = Callable[[str, bytes], None]


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
        value = self.peaks[-1][1]
        for _, left in reversed(self.peaks[:-1]):
            value = merkle.node_hash(left, value)
        return value


class Audit:
    """One audit of one peer's log, fed with what the peer sends."""

    def __init__(
        self, peer: Peer, *, store: Store, now: int, read: Reader, on_head: Callable[[bytes], None]
    ) -> None:
        """Prepare; ``start`` begins.

        Args:
            peer: whose log.
            store: node.db, for what was seen of that log before.
            now: UTC in ms; what was seen in the last minutes may be beyond the head it shows.
            read: asks the peer.
            on_head: gets the peer's checkpoint, once it is verified, to compare it with others.
        """
        self.peer = peer
        self._store, self._read, self._on_head = store, read, on_head
        self._before = now - FRESH_MS
        self._tree = _Tree()
        self._upper: dict[int, bytearray] = {}  # hashes of each level above the leaves
        self._checkpoint: Checkpoint | None = None
        self._heads: dict[int, set[bytes]] = {}
        self._receipts: dict[int, bytes] = {}
        self._waiting: Iterator[TilePath] = iter(())
        self._asked = self._seen = self._held = self._floor = 0
        self.checks: list[Check] = []
        self.done = self.total = 0
        self.over = False

    def start(self) -> bool:
        """Ask for the checkpoint; False if the peer is not linked."""
        return self._read(self.peer.node_id, [CHECKPOINT], self._take)

    def stop(self, why: str) -> None:
        """End it before its time."""
        if not self.over:
            self._end(Check("whole log read", False, why))

    def _end(self, *checks: Check) -> None:
        self.checks += checks
        self.over = True

    # --- what the peer sends -----------------------------------------------------------------
    def _take(self, path: str, body: bytes) -> None:
        if self.over:
            return
        if path == CHECKPOINT:
            self._take_checkpoint(body)
        else:
            self._take_tile(parse_tile_path(path), body)

    def _take_checkpoint(self, note: bytes) -> None:
        keys = self.peer.card.log
        name = "checkpoint signed by both log keys"
        try:
            checkpoint = verify_checkpoint(
                note, origin=keys.name, ed25519=keys.ed25519, mldsa44=keys.mldsa44
            )
        except PeerError as error:
            self._end(Check(name, False, error.message))
            return
        self.checks.append(Check(name, True, f"{checkpoint.size} entries, {keys.name}"))
        self._checkpoint = checkpoint
        self._on_head(note)
        self._heads = self._known_heads()
        self._receipts = self._known_receipts()
        tiles = list(tiles_of(checkpoint.size))
        self.total, self._waiting = len(tiles), iter(tiles)
        if not tiles:
            self._finish()
        self._ask()

    def _ask(self) -> None:
        paths = []
        while self._asked < _WINDOW and (tile := next(self._waiting, None)) is not None:
            self._asked += 1
            paths.append(str(tile))
        if paths and not self._read(self.peer.node_id, paths, self._take):
            self.stop("the link with it has ended")

    def _take_tile(self, tile: TilePath, body: bytes) -> None:
        self._asked -= 1
        if len(body) != tile.width * merkle.HASH_SIZE:
            self._end(Check("whole log read", False, f"{tile} is missing or has another length"))
            return
        hashes = [body[at : at + merkle.HASH_SIZE] for at in range(0, len(body), merkle.HASH_SIZE)]
        fault = self._take_leaves(hashes) if tile.level == 0 else self._compare(tile, body)
        self.done += 1
        if fault is not None:
            self._end(fault)
        elif self.done == self.total:
            self._finish()
        else:
            self._ask()

    def _take_leaves(self, hashes: list[bytes]) -> Check | None:
        for leaf in hashes:
            given = self._receipts.pop(self._tree.count, leaf)
            if given != leaf:
                detail = f"a receipt was given for entry {self._tree.count}, which is another now"
                return Check("receipts stand in the log", False, detail)
            self._tree.add(leaf)
            for root in self._heads.pop(self._tree.count, ()):
                if root != self._tree.root():
                    detail = f"it signed another head of {self._tree.count} entries before"
                    return Check("all heads seen before fit", False, detail)
        if len(hashes) == merkle.TILE_WIDTH:
            self._raise_level(1, merkle.tile_root(b"".join(hashes)))
        return None

    def _raise_level(self, level: int, value: bytes) -> None:
        """Note a hash of the level above, and what follows from it further up."""
        row = self._upper.setdefault(level, bytearray())
        row += value
        step = merkle.TILE_WIDTH * merkle.HASH_SIZE
        if len(row) % step == 0:
            self._raise_level(level + 1, merkle.tile_root(bytes(row[-step:])))

    def _compare(self, tile: TilePath, body: bytes) -> Check | None:
        first = tile.index * merkle.TILE_WIDTH * merkle.HASH_SIZE
        computed = bytes(self._upper.get(tile.level or 0, b""))[first : first + len(body)]
        if computed == body:
            return None
        return Check("tiles fit the leaves", False, f"{tile} differs from the leaves below it")

    def _finish(self) -> None:
        checkpoint = self._checkpoint
        assert checkpoint is not None  # noqa: S101  nothing else is asked for before
        root = self._tree.root() if self._tree.count else merkle.EMPTY_ROOT
        if root != checkpoint.root:
            self._end(Check("tree leads to the checkpoint", False, "its leaves give another root"))
            return
        self._end(
            Check("whole log read", True, f"{self._tree.count} leaf hashes, {self.total} tiles"),
            Check("tree leads to the checkpoint", True, f"size {checkpoint.size}"),
            self._left("all heads seen before fit", self._seen, self._heads),
            self._left("receipts stand in the log", self._held, self._receipts),
        )

    def _left(self, name: str, count: int, left: Mapping[int, object]) -> Check:
        """Return the check of things of which those that are not of late may not be left over."""
        if left and self._floor > self._tree.count:
            detail = f"it had {self._floor} entries before, and shows {self._tree.count}"
            return Check(name, False, detail)
        late = f", {len(left)} too new for the head that it shows" if left else ""
        return Check(name, True if count else None, f"{count - len(left)} compared{late}")

    # --- what was seen before ----------------------------------------------------------------
    def _known_heads(self) -> dict[int, set[bytes]]:
        node_id, name = self.peer.node_id, self.peer.card.log.name
        heads: dict[int, set[bytes]] = {}
        for row in self._store.rows(
            "SELECT size, root, 0 AS at FROM witnessed WHERE origin = ?1 AND size > 0 "
            "UNION SELECT size, root, at FROM peer_heads WHERE node_id = ?2 AND source = ?2",
            name, node_id,
        ):  # fmt: skip
            heads.setdefault(row["size"], set()).add(row["root"])
            if row["at"] < self._before:
                self._floor = max(self._floor, row["size"])
        for frame in self._frames():
            checkpoint = parse_body(parse_note(frame.checkpoint).text)
            if checkpoint.origin == name:
                heads.setdefault(checkpoint.size, set()).add(checkpoint.root)
        self._seen = sum(map(len, heads.values()))
        return heads

    def _known_receipts(self) -> dict[int, bytes]:
        """Return the leaf hashes that stand in receipts under the present log, by index."""
        log = self.peer.card.log
        leaves: dict[int, bytes] = {}
        for frame in self._frames():
            if parse_body(parse_note(frame.checkpoint).text).origin != log.name:
                continue
            try:
                if isinstance(frame, Runs):
                    verify_runs(frame, log=log)
                else:
                    verify_receipts(frame, log=log)
            except PeerError as error:
                raise LogCorruptionError(f"a stored receipt does not verify: {error}") from None
            leaves.update(_leaves(frame))
        self._held = len(leaves)
        return leaves

    def _frames(self) -> Iterator[Receipts | Runs]:
        for row in self._store.rows(
            "SELECT DISTINCT coalesce(r.frame, l.frame) AS frame FROM receipts r "
            "LEFT JOIN receipt_lots l ON l.id = r.lot WHERE r.recipient = ?",
            self.peer.node_id,
        ):
            frame = decode_frame(row["frame"])
            if isinstance(frame, Receipts | Runs):
                yield frame


def _leaves(frame: Receipts | Runs) -> Iterator[tuple[int, bytes]]:
    """Yield index and leaf hash of each receipt of *frame*, which was verified."""
    if isinstance(frame, Receipts):
        for item in frame.items:
            yield item.index, merkle.leaf_hash(item.entry)
        return
    for run in frame.runs:
        for index, entry in enumerate(run_entries(run), run.first):
            yield index, merkle.leaf_hash(entry)
