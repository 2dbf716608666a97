"""RFC 6962 tree arithmetic over C2SP tiles; no storage.

- leaf = SHA-256(0x00 || entry), node = SHA-256(0x01 || left || right), empty root = SHA-256("").
- A tile (level, index) holds up to 256 hashes: MTH(D[(index*256+i) * 256^level ...)) for each i.
  Only full tiles feed the level above; partial ones are rewritten as the tree grows.
- Proofs and appends read O(log n) tiles, through the caller's ``TileReader``.
- A ``Memo`` keeps the hashes of perfect subtrees, which never change once they are whole; whoever
  undoes an append must empty it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Protocol, TypeAlias

from protocol.errors import DecodeError, ProofError

HASH_SIZE: Final = 32
TILE_WIDTH: Final = 256
TILE_HEIGHT: Final = 8
EMPTY_ROOT: Final = hashlib.sha256(b"").digest()
_LENGTH: Final = 2
_GROUP: Final = 1_000
_KEPT_FROM: Final = 64
"""Leaves of the smallest subtree that a memo keeps: smaller ones are hashed anew."""
# Copies of these take a tenth less time than new ones, which counts where there are very many.
_LEAF: Final = hashlib.sha256(b"\x00")
_NODE: Final = hashlib.sha256(b"\x01")


class TileReader(Protocol):
    """The caller's storage."""

    def read_tiles(self, keys: Sequence[tuple[int, int]]) -> Mapping[tuple[int, int], bytes]:
        """Return the stored, possibly partial, bytes of each (level, index)."""
        ...


Memo: TypeAlias = dict[tuple[int, int], bytes]
"""Hashes of perfect subtrees by height and index at that height."""


@dataclass(frozen=True, slots=True)
class Appended:
    """A grown tree: its size, root and the tiles that must be written."""

    size: int
    root: bytes
    tiles: tuple[tuple[int, int, bytes], ...]


def leaf_hash(entry: bytes) -> bytes:
    """Return the hash of a leaf (RFC 6962 section 2.1)."""
    return hashlib.sha256(b"\x00" + entry).digest()


def leaf_hashes(entries: Sequence[bytes]) -> list[bytes]:
    """Return the leaf hash of each of *entries*."""
    hashes, copy = [], _LEAF.copy
    for entry in entries:
        leaf = copy()
        leaf.update(entry)
        hashes.append(leaf.digest())
    return hashes


def node_hash(left: bytes, right: bytes) -> bytes:
    """Return the hash of an inner node (RFC 6962 section 2.1)."""
    return hashlib.sha256(b"\x01" + left + right).digest()


# --- verifying -------------------------------------------------------------------------------
def verify_inclusion(
    *, index: int, size: int, leaf: bytes, proof: Sequence[bytes], root: bytes
) -> None:
    """Verify that the leaf hash *leaf* is at *index* of the tree (RFC 9162 section 2.1.3.2).

    Raises:
        ProofError: it is not, or the proof has the wrong length.
    """
    if not 0 <= index < size:
        raise ProofError("the index is not inside the tree")
    _check_hashes((leaf, root, *proof))
    fn, sn, r = index, size - 1, leaf
    for p in proof:
        if sn == 0:
            raise ProofError("the inclusion proof is too long")
        if fn & 1 or fn == sn:
            r = node_hash(p, r)
            while not fn & 1 and fn:
                fn, sn = fn >> 1, sn >> 1
        else:
            r = node_hash(r, p)
        fn, sn = fn >> 1, sn >> 1
    if sn != 0 or r != root:
        raise ProofError("the inclusion proof does not lead to the root")


def verify_run(
    *, first: int, leaves: Sequence[bytes], size: int, proof: Sequence[bytes], root: bytes
) -> None:
    """Verify that the leaf hashes *leaves* stand at *first* and the following places of the tree.

    Raises:
        ProofError: they do not, or the proof has the wrong length.
    """
    _run_nodes(first=first, leaves=leaves, size=size, proof=proof, root=root)


def inclusion_of(
    position: int,
    *,
    first: int,
    leaves: Sequence[bytes],
    size: int,
    proof: Sequence[bytes],
    root: bytes,
) -> tuple[bytes, ...]:
    """Return the audit path (RFC 6962 2.1.1) of one leaf of a run, by its *position* in the run.

    Raises:
        ProofError: the run is not in the tree, or the proof has the wrong length.
    """
    nodes = _run_nodes(first=first, leaves=leaves, size=size, proof=proof, root=root)
    path = []
    low, high, index = 0, size, first + position
    while high - low > 1:
        middle = low + _split(high - low)
        if index < middle:
            path.append(nodes[middle, high])
            high = middle
        else:
            path.append(nodes[low, middle])
            low = middle
    return tuple(reversed(path))


def _run_nodes(
    *, first: int, leaves: Sequence[bytes], size: int, proof: Sequence[bytes], root: bytes
) -> dict[tuple[int, int], bytes]:
    """Return the hashes of all subtrees that the run and its proof show, by leaf range."""
    if not leaves or first < 0 or first + len(leaves) > size:
        raise ProofError("the run is not inside the tree")
    _check_hashes((*leaves, *proof, root))
    nodes: dict[tuple[int, int], bytes] = {}
    beside = _beside(first, first + len(leaves), 0, size)
    if len(beside) != len(proof):
        raise ProofError("the proof of the run has the wrong length")
    nodes.update(zip(beside, proof, strict=True))
    if _fold(0, size, first, leaves, nodes) != root:
        raise ProofError("the proof of the run does not lead to the root")
    return nodes


def _fold(
    low: int,
    high: int,
    first: int,
    leaves: Sequence[bytes],
    nodes: dict[tuple[int, int], bytes],
) -> bytes:
    found = nodes.get((low, high))
    if found is None:
        if high - low == 1:
            found = leaves[low - first]
        else:
            middle = low + _split(high - low)
            found = node_hash(
                _fold(low, middle, first, leaves, nodes), _fold(middle, high, first, leaves, nodes)
            )
        nodes[low, high] = found
    return found


def verify_consistency(
    *, old_size: int, old_root: bytes, new_size: int, new_root: bytes, proof: Sequence[bytes]
) -> None:
    """Verify that the new tree extends the old one (RFC 9162 section 2.1.4.2).

    Raises:
        ProofError: it does not, or the proof has the wrong length.
    """
    if not 0 <= old_size <= new_size:
        raise ProofError("the new tree is smaller than the old one")
    _check_hashes((old_root, new_root, *proof))
    if old_size in {0, new_size}:
        if proof:
            raise ProofError("the consistency proof must be empty")
        if old_size == 0 and old_root != EMPTY_ROOT:
            raise ProofError("the empty tree has another root")
        if old_size == new_size and old_root != new_root:
            raise ProofError("two roots for one tree size")
        return
    path = [old_root, *proof] if _power_of_two(old_size) else proof
    roots = prefix_roots(old_size=old_size, new_size=new_size, path=path)
    if roots != (old_root, new_root):
        raise ProofError("the consistency proof does not join the two roots")


def prefix_roots(*, old_size: int, new_size: int, path: Sequence[bytes]) -> tuple[bytes, bytes]:
    """Return the old and the new root that *path* computes (RFC 9162 section 2.1.4.2).

    *path* is a consistency proof that begins with a hash of the new tree even where the old size is
    a power of two: the proof of RFC 6962 leaves that one out and takes the old root for it.

    Raises:
        ProofError: the sizes have no such path, or it has the wrong length.
    """
    if not 0 < old_size < new_size:
        raise ProofError("the old tree is empty or not smaller than the new one")
    if not path:
        raise ProofError("the consistency proof is empty")
    _check_hashes(path)
    fn, sn = old_size - 1, new_size - 1
    while fn & 1:
        fn, sn = fn >> 1, sn >> 1
    fr = sr = path[0]
    for c in path[1:]:
        if sn == 0:
            raise ProofError("the consistency proof is too long")
        if fn & 1 or fn == sn:
            fr, sr = node_hash(c, fr), node_hash(c, sr)
            while not fn & 1 and fn:
                fn, sn = fn >> 1, sn >> 1
        else:
            sr = node_hash(sr, c)
        fn, sn = fn >> 1, sn >> 1
    if sn != 0:
        raise ProofError("the consistency proof is too short")
    return fr, sr


def _power_of_two(size: int) -> bool:
    return size & (size - 1) == 0


def _check_hashes(hashes: Sequence[bytes]) -> None:
    if any(len(value) != HASH_SIZE for value in hashes):
        raise ProofError("a hash does not have 32 bytes")


# --- growing ---------------------------------------------------------------------------------
def append(*, size: int, new_leaves: Sequence[bytes], reader: TileReader) -> Appended:
    """Append leaf hashes to a tree of *size* leaves, and compute its new root.

    Only the right edge is read. Of the returned tiles the full ones are final.
    """
    tiles = grow(size=size, new_leaves=new_leaves, reader=reader)
    overlay = _Overlay({(level, index): data for level, index, data in tiles}, reader)
    total = size + len(new_leaves)
    return Appended(total, root(total, overlay), tiles)


def grow(
    *, size: int, new_leaves: Sequence[bytes], reader: TileReader
) -> tuple[tuple[int, int, bytes], ...]:
    """Return the tiles (level, index, hashes) that appending to a tree of *size* leaves writes.

    Raises:
        ProofError: a tile at the right edge is too narrow.
    """
    written: dict[tuple[int, int], bytes] = {}
    level, start, fresh = 0, size, list(new_leaves)
    while fresh:
        fresh, start = _append_level(level, start, fresh, written, reader)
        level += 1
    return tuple((level, index, data) for (level, index), data in sorted(written.items()))


def _append_level(
    level: int,
    start: int,
    fresh: Sequence[bytes],
    written: dict[tuple[int, int], bytes],
    reader: TileReader,
) -> tuple[list[bytes], int]:
    """Write *fresh* hashes from place *start* of *level*; return what that adds one level up."""
    first = start // TILE_WIDTH
    edge = b""
    if width := start % TILE_WIDTH:
        edge = reader.read_tiles([(level, first)])[level, first][: width * HASH_SIZE]
        if len(edge) != width * HASH_SIZE:
            raise ProofError(f"tile {level}/{first} is narrower than the tree")
    data = edge + b"".join(fresh)
    parents = []
    step = TILE_WIDTH * HASH_SIZE
    for offset in range(0, len(data), step):
        tile = data[offset : offset + step]
        written[level, first + offset // step] = tile
        if len(tile) == step:
            parents.append(tile_root(tile))
    return parents, first


class _Overlay:
    """Reads tiles that were just written before those that are stored."""

    def __init__(self, written: Mapping[tuple[int, int], bytes], reader: TileReader) -> None:
        self._written = written
        self._reader = reader

    def read_tiles(self, keys: Sequence[tuple[int, int]]) -> Mapping[tuple[int, int], bytes]:
        missing = [key for key in keys if key not in self._written]
        stored = self._reader.read_tiles(missing) if missing else {}
        return {key: self._written[key] if key in self._written else stored[key] for key in keys}


def tile_root(tile: bytes) -> bytes:
    """Return the root over a tile's hashes, of which there are a power of two."""
    copy = _NODE.copy
    while len(tile) > HASH_SIZE:
        above = []
        for at in range(0, len(tile), 2 * HASH_SIZE):
            node = copy()
            node.update(tile[at : at + 2 * HASH_SIZE])
            above.append(node.digest())
        tile = b"".join(above)
    return tile


# --- reading ---------------------------------------------------------------------------------
def root(size: int, reader: TileReader, memo: Memo | None = None) -> bytes:
    """Return the root of the first *size* leaves (RFC 6962 section 2.1)."""
    if size == 0:
        return EMPTY_ROOT
    return _range_hashes([(0, size)], reader, memo)[0]


def prove_run(
    first: int, last: int, size: int, reader: TileReader, memo: Memo | None = None
) -> tuple[bytes, ...]:
    """Return what ``verify_run`` needs for leaves *first* to *last* (inside) of *size* leaves.

    These are the roots of the largest subtrees beside the run, left to right.
    """
    if not 0 <= first <= last < size:
        raise ValueError("the run is not inside the tree")
    return tuple(_range_hashes(_beside(first, last + 1, 0, size), reader, memo))


def _beside(first: int, end: int, low: int, high: int) -> list[tuple[int, int]]:
    """Return the largest subtrees of [low, high) that hold no leaf of [first, end)."""
    if high <= first or end <= low:
        return [(low, high)]
    if first <= low and high <= end:
        return []
    middle = low + _split(high - low)
    return _beside(first, end, low, middle) + _beside(first, end, middle, high)


def prove_inclusion(
    index: int, size: int, reader: TileReader, memo: Memo | None = None
) -> tuple[bytes, ...]:
    """Return the audit path of leaf *index* in the first *size* leaves (RFC 6962 2.1.1)."""
    if not 0 <= index < size:
        raise ValueError("the index is not inside the tree")
    ranges: list[tuple[int, int]] = []
    low, high = 0, size
    while high - low > 1:
        middle = low + _split(high - low)
        if index < middle:
            ranges.append((middle, high))
            high = middle
        else:
            ranges.append((low, middle))
            low = middle
    return tuple(_range_hashes(list(reversed(ranges)), reader, memo))


def prove_consistency(old: int, new: int, reader: TileReader) -> tuple[bytes, ...]:
    """Return the proof that the first *new* leaves extend the first *old* (RFC 6962 2.1.2)."""
    if not 0 <= old <= new:
        raise ValueError("the new tree is smaller than the old one")
    if old in {0, new}:
        return ()
    ranges: list[tuple[int, int]] = []
    low, high, whole = 0, new, True
    while old != high:
        middle = low + _split(high - low)
        if old <= middle:
            ranges.append((middle, high))
            high = middle
        else:
            ranges.append((low, middle))
            low, whole = middle, False
    if not whole:
        ranges.append((low, high))
    return tuple(_range_hashes(list(reversed(ranges)), reader))


def prove_prefix(old: int, new: int, reader: TileReader) -> tuple[bytes, ...]:
    """Return the path that ``prefix_roots`` takes from the first *new* leaves, *old* of them old.

    It shows which old root the new tree has inside, whatever root was signed for it before.
    """
    if not 0 < old < new:
        raise ValueError("the old tree is empty or not smaller than the new one")
    proof = prove_consistency(old, new, reader)
    return (root(old, reader), *proof) if _power_of_two(old) else proof


def _split(count: int) -> int:
    """Return the largest power of two strictly below *count*."""
    return 1 << ((count - 1).bit_length() - 1)


def _range_hashes(
    ranges: Sequence[tuple[int, int]], reader: TileReader, memo: Memo | None = None
) -> list[bytes]:
    """Return the tree hash of each half-open leaf range, with one batched read.

    Each range begins at a multiple of the power of two that covers it, as all ranges in proofs do.
    """
    memo = {} if memo is None else memo
    parts = [_perfect_parts(low, high) for low, high in ranges]
    unknown = {part for each in parts for part in each if part not in memo}
    wanted = sorted({_place(level, index)[:2] for level, index in unknown})
    tiles = reader.read_tiles(wanted) if wanted else {}
    hashes = []
    for each in parts:
        found = [_subtree(level, index, tiles, memo) for level, index in each]
        value = found[-1]
        for left in reversed(found[:-1]):
            value = node_hash(left, value)
        hashes.append(value)
    return hashes


def _perfect_parts(low: int, high: int) -> list[tuple[int, int]]:
    """Split a range into perfect subtrees, left to right, as (height, index at that height)."""
    parts = []
    while low < high:
        height = (high - low).bit_length() - 1
        parts.append((height, low >> height))
        low += 1 << height
    return parts


def _place(height: int, index: int) -> tuple[int, int, int, int]:
    """Return tile level, tile index, first slot and slot count of a perfect subtree."""
    level, inner = divmod(height, TILE_HEIGHT)
    first = index << inner
    return level, first // TILE_WIDTH, first % TILE_WIDTH, 1 << inner


def _subtree(height: int, index: int, tiles: Mapping[tuple[int, int], bytes], memo: Memo) -> bytes:
    found = memo.get((height, index))
    if found is not None:
        return found
    level, tile, slot, count = _place(height, index)
    if count < _KEPT_FROM:
        data = tiles[level, tile][slot * HASH_SIZE : (slot + count) * HASH_SIZE]
        if len(data) != count * HASH_SIZE:
            raise ProofError(f"tile {level}/{tile} is narrower than the tree")
        found = tile_root(data)
    else:
        found = node_hash(
            _subtree(height - 1, 2 * index, tiles, memo),
            _subtree(height - 1, 2 * index + 1, tiles, memo),
        )
    if level or count >= _KEPT_FROM:
        memo[height, index] = found
    return found


# --- static resources (C2SP tlog-tiles) ------------------------------------------------------
def _number(index: int) -> str:
    groups = [f"{index % _GROUP:03d}"]
    while index >= _GROUP:
        index //= _GROUP
        groups.append(f"x{index % _GROUP:03d}")
    return "/".join(reversed(groups))


def _suffix(width: int) -> str:
    if not 0 < width <= TILE_WIDTH:
        raise ValueError("a tile holds 1 to 256 hashes")
    return "" if width == TILE_WIDTH else f".p/{width}"


def tile_path(level: int, index: int, width: int) -> str:
    """Return the path of a hash tile below the log's prefix."""
    return f"tile/{level}/{_number(index)}{_suffix(width)}"


def entries_path(index: int, width: int) -> str:
    """Return the path of an entry bundle below the log's prefix."""
    return f"tile/entries/{_number(index)}{_suffix(width)}"


def entry_bundle(entries: Sequence[bytes]) -> bytes:
    """Return up to 256 entries as one bundle, each with its length in front."""
    if not 0 < len(entries) <= TILE_WIDTH:
        raise ValueError("a bundle holds 1 to 256 entries")
    return b"".join(len(entry).to_bytes(_LENGTH, "big") + entry for entry in entries)


def parse_entry_bundle(data: bytes) -> tuple[bytes, ...]:
    """Return the entries in a bundle.

    Raises:
        DecodeError: it is empty, cut short, or holds more than 256 entries.
    """
    entries = []
    at = 0
    while at < len(data):
        size = int.from_bytes(data[at : at + _LENGTH], "big")
        entry = data[at + _LENGTH : at + _LENGTH + size]
        if at + _LENGTH > len(data) or len(entry) != size:
            raise DecodeError("the entry bundle is cut short")
        entries.append(entry)
        at += _LENGTH + size
    if not 0 < len(entries) <= TILE_WIDTH:
        raise DecodeError("an entry bundle holds 1 to 256 entries")
    return tuple(entries)
