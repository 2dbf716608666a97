"""The Merkle tree: all small trees against a naive one, published figures, and tiles."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protocol import merkle
from protocol.errors import DecodeError, ProofError
from protocol.merkle import (
    append,
    entries_path,
    entry_bundle,
    leaf_hash,
    node_hash,
    parse_entry_bundle,
    prove_consistency,
    prove_inclusion,
    root,
    tile_path,
    verify_consistency,
    verify_inclusion,
)

VECTOR: dict[str, Any] = json.loads(
    (Path(__file__).parent.parent / "vectors" / "log.json").read_text(encoding="utf-8")
)
SMALL = 300
COLD = 100
"""Up to this size each inclusion proof is made from tiles alone, for speed not beyond it."""
LARGE = 70_000
EDGES = (255, 256, 257, 511, 512, 513, 65_535, 65_536, 65_537, LARGE)


class Tiles:
    """A store of tiles in memory, which counts what is read."""

    def __init__(self) -> None:
        self.size = 0
        self.tiles: dict[tuple[int, int], bytes] = {}
        self.reads: list[tuple[tuple[int, int], ...]] = []

    def read_tiles(self, keys: Sequence[tuple[int, int]]) -> Mapping[tuple[int, int], bytes]:
        self.reads.append(tuple(keys))
        return {key: self.tiles[key] for key in keys}

    def grow(self, leaves: Sequence[bytes]) -> merkle.Appended:
        grown = append(size=self.size, new_leaves=leaves, reader=self)
        self.tiles.update({(level, index): data for level, index, data in grown.tiles})
        self.size = grown.size
        return grown

    def width(self, level: int, index: int) -> int:
        return len(self.tiles[level, index]) // 32


# --- the naive tree --------------------------------------------------------------------------
@cache
def leaf(number: int) -> bytes:
    return leaf_hash(b"entry %d" % number)


@cache
def naive(low: int, high: int) -> bytes:
    """MTH(D[low:high]), word for word from RFC 6962 section 2.1."""
    if low == high:
        return hashlib.sha256(b"").digest()
    if high - low == 1:
        return hashlib.sha256(b"\x00entry %d" % low).digest()
    k = below(high - low)
    left, right = naive(low, low + k), naive(low + k, high)
    return hashlib.sha256(b"\x01" + left + right).digest()


def below(count: int) -> int:
    k = 1
    while 2 * k < count:
        k *= 2
    return k


@cache
def naive_path(index: int, low: int, high: int) -> list[bytes]:
    """PATH(m, D[n]), RFC 6962 section 2.1.1."""
    if high - low == 1:
        return []
    middle = low + below(high - low)
    if index < middle:
        return [*naive_path(index, low, middle), naive(middle, high)]
    return [*naive_path(index, middle, high), naive(low, middle)]


@cache
def naive_subproof(old: int, low: int, high: int, whole: bool) -> list[bytes]:
    """SUBPROOF(m, D[n], b), RFC 6962 section 2.1.2; *old* counts from *low*."""
    if old == high - low:
        return [] if whole else [naive(low, high)]
    k = below(high - low)
    if old <= k:
        return [*naive_subproof(old, low, low + k, whole), naive(low + k, high)]
    return [*naive_subproof(old - k, low + k, high, False), naive(low, low + k)]


@pytest.fixture(scope="module")
def small() -> Tiles:
    tiles = Tiles()
    tiles.grow([leaf(number) for number in range(SMALL)])
    return tiles


@pytest.fixture(scope="module")
def large() -> Tiles:
    tiles = Tiles()
    tiles.grow([leaf(number) for number in range(LARGE)])
    return tiles


# --- roots and growth ------------------------------------------------------------------------
def test_the_empty_tree_has_the_hash_of_nothing_as_its_root(small: Tiles) -> None:
    assert root(0, small) == merkle.EMPTY_ROOT == naive(0, 0)


def test_leaves_and_nodes_are_hashed_under_different_prefixes() -> None:
    left, right = leaf(0), leaf(1)
    assert leaf_hash(left + right) != node_hash(left, right)
    assert node_hash(left, right) != node_hash(right, left)


def test_each_small_tree_has_the_naive_root(small: Tiles) -> None:
    assert [n for n in range(SMALL + 1) if root(n, small) != naive(0, n)] == []


def test_growing_leaf_by_leaf_gives_each_root_and_the_same_tiles(small: Tiles) -> None:
    tiles = Tiles()
    for number in range(SMALL):
        grown = tiles.grow([leaf(number)])
        assert (grown.size, grown.root) == (number + 1, naive(0, number + 1))
    assert tiles.tiles == small.tiles


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(0, 300), min_size=1, max_size=6))
def test_however_leaves_are_batched_the_tree_is_the_same(batches: list[int]) -> None:
    tiles, whole = Tiles(), Tiles()
    for count in batches:
        grown = tiles.grow([leaf(n) for n in range(tiles.size, tiles.size + count)])
        assert grown.root == naive(0, tiles.size)
    whole.grow([leaf(n) for n in range(sum(batches))])
    assert tiles.tiles == whole.tiles


@pytest.mark.parametrize("size", EDGES)
def test_trees_around_whole_tiles_have_the_naive_root(size: int, large: Tiles) -> None:
    assert root(size, large) == naive(0, size)
    tiles = Tiles()
    tiles.grow([leaf(n) for n in range(size - 1)])
    assert tiles.grow([leaf(size - 1)]).root == naive(0, size)


def test_an_append_reads_only_the_right_edge_of_each_level(large: Tiles) -> None:
    large.reads.clear()
    append(size=LARGE, new_leaves=[leaf(LARGE)], reader=large)
    assert {key for keys in large.reads for key in keys} == {(0, 273), (1, 1), (2, 0)}


# --- proofs ----------------------------------------------------------------------------------
def test_inclusion_is_proven_for_each_leaf_of_each_small_tree(small: Tiles) -> None:
    for size in range(1, SMALL):
        memo: merkle.Memo | None = {} if size > COLD else None
        for index in range(size):
            proof = prove_inclusion(index, size, small, memo)
            assert list(proof) == naive_path(index, 0, size), (index, size)
            verify_inclusion(
                index=index, size=size, leaf=leaf(index), proof=proof, root=naive(0, size)
            )


def test_consistency_is_proven_between_all_small_trees(small: Tiles) -> None:
    for new in range(SMALL):
        for old in range(new + 1):
            proof = prove_consistency(old, new, small)
            assert list(proof) == (naive_subproof(old, 0, new, True) if old else []), (old, new)
            verify_consistency(
                old_size=old, old_root=naive(0, old), new_size=new, new_root=naive(0, new),
                proof=proof,
            )  # fmt: skip


@pytest.mark.parametrize("size", EDGES)
def test_proofs_around_whole_tiles_are_the_naive_ones_and_take_one_read(
    size: int, large: Tiles
) -> None:
    for index in sorted({0, 1, 254, 255, size // 2, size - 2, size - 1} & set(range(size))):
        large.reads.clear()
        proof = prove_inclusion(index, size, large)
        assert len(large.reads) == 1 and len(large.reads[0]) <= 5
        assert list(proof) == naive_path(index, 0, size)
        verify_inclusion(index=index, size=size, leaf=leaf(index), proof=proof, root=naive(0, size))
    for old in [edge for edge in (1, 2, 3, 100, *EDGES) if edge <= size]:
        large.reads.clear()
        proof = prove_consistency(old, size, large)
        assert len(large.reads) == (1 if old < size else 0)
        assert list(proof) == naive_subproof(old, 0, size, True)
        verify_consistency(
            old_size=old, old_root=naive(0, old), new_size=size, new_root=naive(0, size),
            proof=proof,
        )  # fmt: skip


def flipped(value: bytes) -> bytes:
    return bytes([value[0] ^ 1]) + value[1:]


def spoiled(proof: Sequence[bytes]) -> list[list[bytes]]:
    """Return *proof* with each hash altered, each dropped, and one added at each place."""
    whole, places = list(proof), range(len(proof))
    extra = leaf(999)
    return [
        *([*whole[:n], flipped(whole[n]), *whole[n + 1 :]] for n in places),
        *([*whole[:n], *whole[n + 1 :]] for n in places),
        *([*whole[:n], extra, *whole[n:]] for n in range(len(proof) + 1)),
        *([*whole[:n], whole[n][:31], *whole[n + 1 :]] for n in places),
    ]


def test_an_inclusion_proof_with_a_hash_altered_dropped_or_added_is_refused(small: Tiles) -> None:
    for size in range(1, 36):
        for index in range(size):
            for proof in spoiled(prove_inclusion(index, size, small)):
                with pytest.raises(ProofError):
                    verify_inclusion(
                        index=index, size=size, leaf=leaf(index), proof=proof, root=naive(0, size)
                    )


def test_a_consistency_proof_with_a_hash_altered_dropped_or_added_is_refused(small: Tiles) -> None:
    for new in range(1, 30):
        for old in range(new + 1):
            for proof in spoiled(prove_consistency(old, new, small)):
                with pytest.raises(ProofError):
                    verify_consistency(
                        old_size=old, old_root=naive(0, old), new_size=new, new_root=naive(0, new),
                        proof=proof,
                    )  # fmt: skip


def test_a_proof_says_nothing_of_another_leaf_place_or_root(small: Tiles) -> None:
    for size in range(2, 36):
        for index in range(size):
            proof, other = prove_inclusion(index, size, small), (index + 1) % size
            for place, value, top in (
                (index, leaf(other), naive(0, size)),
                (other, leaf(index), naive(0, size)),
                (index, leaf(index), naive(0, size + 1)),
                (size, leaf(index), naive(0, size)),
                (-1, leaf(index), naive(0, size)),
            ):
                with pytest.raises(ProofError):
                    verify_inclusion(index=place, size=size, leaf=value, proof=proof, root=top)


def test_a_proof_that_stops_at_an_inner_node_is_refused_though_that_is_called_the_root(
    small: Tiles,
) -> None:
    """Else the tree could be said to be larger than it is."""
    for size in range(2, 36):
        for index in range(size):
            proof, reached = prove_inclusion(index, size, small), leaf(index)
            for length in range(len(proof)):
                with pytest.raises(ProofError):
                    verify_inclusion(
                        index=index, size=size, leaf=leaf(index), proof=proof[:length], root=reached
                    )
                reached = naive_root_of(index, size, proof[: length + 1])
            assert reached == naive(0, size)


def naive_root_of(index: int, size: int, proof: Sequence[bytes]) -> bytes:
    """Return where *proof*, a part of an audit path, leads from the leaf."""
    sides: list[bool] = []
    low, high = 0, size
    while high - low > 1:
        middle = low + below(high - low)
        sides.append(index < middle)
        low, high = (low, middle) if index < middle else (middle, high)
    value = leaf(index)
    for sibling, is_left in zip(proof, reversed(sides), strict=False):
        value = node_hash(value, sibling) if is_left else node_hash(sibling, value)
    return value


def test_a_rewritten_tree_is_not_consistent_with_the_old_one() -> None:
    """One changed leaf among the old ones: no proof of either tree joins the roots."""
    for old in range(1, 20):
        for new in range(old, 20):
            honest, rewritten = Tiles(), Tiles()
            leaves = [leaf(n) for n in range(new)]
            old_root = honest.grow(leaves[:old]).root
            honest.grow(leaves[old:])
            new_root = rewritten.grow([flipped(leaves[0]), *leaves[1:]]).root
            for tiles in (honest, rewritten):
                with pytest.raises(ProofError):
                    verify_consistency(
                        old_size=old, old_root=old_root, new_size=new, new_root=new_root,
                        proof=prove_consistency(old, new, tiles),
                    )  # fmt: skip


@pytest.mark.parametrize(
    ("old", "old_root", "new", "new_root"),
    [
        (6, naive(0, 6), 5, naive(0, 5)),
        (-1, naive(0, 0), 5, naive(0, 5)),
        (0, naive(0, 1), 5, naive(0, 5)),
        (0, naive(0, 0), 0, naive(0, 5)),
        (5, naive(0, 5), 5, naive(0, 6)),
        (4, naive(0, 4), 5, naive(0, 5)),
        (4, naive(0, 4), 5, naive(0, 4)),
        (1, naive(0, 1), 2, naive(0, 1)),
        (3, naive(0, 3), 5, naive(0, 5)),
        (5, naive(0, 5)[:31], 5, naive(0, 5)[:31]),
    ],
)
def test_no_empty_proof_joins_these_trees(
    old: int, old_root: bytes, new: int, new_root: bytes
) -> None:
    with pytest.raises(ProofError):
        verify_consistency(
            old_size=old, old_root=old_root, new_size=new, new_root=new_root, proof=()
        )


def test_a_proof_that_cannot_exist_is_not_asked_for(small: Tiles) -> None:
    for index, size in ((-1, 5), (5, 5), (0, 0)):
        with pytest.raises(ValueError, match="index"):
            prove_inclusion(index, size, small)
    for old, new in ((-1, 5), (6, 5)):
        with pytest.raises(ValueError, match="smaller"):
            prove_consistency(old, new, small)


def test_a_tile_narrower_than_the_tree_is_never_read_past() -> None:
    tiles = Tiles()
    tiles.grow([leaf(number) for number in range(300)])
    tiles.tiles[0, 1] = tiles.tiles[0, 1][:-32]
    with pytest.raises(ProofError):
        root(300, tiles)
    with pytest.raises(ProofError):
        prove_inclusion(298, 300, tiles)
    with pytest.raises(ProofError):
        append(size=300, new_leaves=[leaf(300)], reader=tiles)


def test_what_a_stored_tile_holds_beyond_the_tree_is_not_built_on() -> None:
    tiles = Tiles()
    tiles.grow([leaf_hash(b"never committed %d" % number) for number in range(300)])
    tiles.tiles[0, 0] = b"".join(leaf(number) for number in range(256))
    tiles.tiles[0, 1] = leaf(256) + tiles.tiles[0, 1][32:]
    tiles.tiles[1, 0] = naive(0, 256)
    grown = append(size=257, new_leaves=[leaf(257)], reader=tiles)
    assert grown.root == naive(0, 258)
    assert grown.tiles == ((0, 1, leaf(256) + leaf(257)),)


# --- tiles -----------------------------------------------------------------------------------
def test_a_tree_of_256_leaves_is_one_full_tile_and_one_hash_above_it() -> None:
    tiles = Tiles()
    tiles.grow([leaf(number) for number in range(255)])
    assert set(tiles.tiles) == {(0, 0)}
    tiles.grow([leaf(255)])
    assert {key: tiles.width(*key) for key in tiles.tiles} == {(0, 0): 256, (1, 0): 1}
    assert tiles.tiles[1, 0] == naive(0, 256)


def test_a_tree_of_70000_leaves_has_the_tiles_of_the_specification(large: Tiles) -> None:
    expected = {(0, n): 256 for n in range(273)} | {(0, 273): 112, (1, 0): 256, (1, 1): 17}
    assert {key: large.width(*key) for key in large.tiles} == expected | {(2, 0): 1}


def test_a_tile_above_the_leaves_holds_the_roots_of_full_tiles(large: Tiles) -> None:
    first, second = large.tiles[1, 0], large.tiles[1, 1]
    assert first[:32] == naive(0, 256) and first[-32:] == naive(255 * 256, 256 * 256)
    assert second[-32:] == naive(272 * 256, 273 * 256)
    assert large.tiles[2, 0] == naive(0, 65_536)


def test_only_tiles_that_changed_are_written_and_full_ones_never_again() -> None:
    tiles = Tiles()
    tiles.grow([leaf(number) for number in range(256)])
    grown = tiles.grow([leaf(256)])
    assert [(level, index) for level, index, _ in grown.tiles] == [(0, 1)]


@pytest.mark.parametrize(
    ("level", "index", "width", "path"),
    [
        (0, 0, 256, "tile/0/000"),
        (0, 5, 256, "tile/0/005"),
        (0, 256, 256, "tile/0/256"),
        (0, 999, 7, "tile/0/999.p/7"),
        (0, 1_000, 256, "tile/0/x001/000"),
        (0, 1_234_067, 256, "tile/0/x001/x234/067"),
        (3, 1_234_067, 255, "tile/3/x001/x234/067.p/255"),
        (1, 0, 1, "tile/1/000.p/1"),
    ],
)
def test_tile_paths_are_those_of_the_specification(
    level: int, index: int, width: int, path: str
) -> None:
    assert tile_path(level, index, width) == path
    assert entries_path(index, width) == path.replace(f"tile/{level}/", "tile/entries/")


@pytest.mark.parametrize("width", [0, -1, 257])
def test_no_path_leads_to_an_empty_or_too_wide_tile(width: int) -> None:
    with pytest.raises(ValueError, match="256"):
        tile_path(0, 0, width)
    with pytest.raises(ValueError, match="256"):
        entries_path(0, width)


# --- entry bundles ---------------------------------------------------------------------------
@settings(deadline=None)
@given(st.lists(st.binary(max_size=300), min_size=1, max_size=256))
def test_a_bundle_gives_back_its_entries(entries: list[bytes]) -> None:
    assert parse_entry_bundle(entry_bundle(entries)) == tuple(entries)


def test_the_longest_entry_that_the_format_knows_comes_back() -> None:
    assert parse_entry_bundle(entry_bundle([bytes(65_535)])) == (bytes(65_535),)


def test_a_bundle_cut_short_inside_an_entry_is_refused() -> None:
    bundle = entry_bundle([b"one", b"two", b"three"])
    for length in set(range(len(bundle))) - {5, 10}:
        with pytest.raises(DecodeError):
            parse_entry_bundle(bundle[:length])


def test_a_bundle_of_257_entries_is_refused() -> None:
    with pytest.raises(DecodeError):
        parse_entry_bundle(bytes(2) * 257)
    for count in (0, 257):
        with pytest.raises(ValueError, match="256"):
            entry_bundle([b""] * count)


# --- the published example -------------------------------------------------------------------
def published(name: str) -> bytes:
    """Return the hash that the vector calls *name*: a leaf number, or a half-open range."""
    value = VECTOR["nodes"][name] if "," in name else VECTOR["leaf_hashes"][int(name)]
    return bytes.fromhex(value)


@pytest.fixture(scope="module")
def example() -> Tiles:
    tiles = Tiles()
    tiles.grow([leaf_hash(entry.encode()) for entry in VECTOR["entries"]])
    return tiles


def test_the_published_leaf_hashes_and_nodes() -> None:
    hashes = [leaf_hash(entry.encode()).hex() for entry in VECTOR["entries"]]
    assert hashes == VECTOR["leaf_hashes"]
    assert node_hash(published("0"), published("1")) == published("0,2")
    assert node_hash(published("2"), published("3")) == published("2,4")
    assert node_hash(published("0,2"), published("2,4")) == published("0,4")


@pytest.mark.parametrize("size", VECTOR["roots"])
def test_the_published_roots(size: str, example: Tiles) -> None:
    assert base64.b64encode(root(int(size), example)).decode() == VECTOR["roots"][size]


@pytest.mark.parametrize("case", VECTOR["inclusion"], ids=lambda case: f"{case['index']}")
def test_the_published_inclusion_proofs(case: dict[str, Any], example: Tiles) -> None:
    proof = tuple(map(published, case["proof"]))
    assert prove_inclusion(case["index"], case["size"], example) == proof
    verify_inclusion(
        index=case["index"], size=case["size"], leaf=published(str(case["index"])), proof=proof,
        root=base64.b64decode(VECTOR["roots"]["5"]),
    )  # fmt: skip


@pytest.mark.parametrize("case", VECTOR["consistency"], ids=lambda case: f"{case['old']}")
def test_the_published_consistency_proofs(case: dict[str, Any], example: Tiles) -> None:
    proof = tuple(map(published, case["proof"]))
    assert prove_consistency(case["old"], case["new"], example) == proof
    verify_consistency(
        old_size=case["old"], old_root=root(case["old"], example), new_size=case["new"],
        new_root=base64.b64decode(VECTOR["roots"]["5"]), proof=proof,
    )  # fmt: skip


def test_the_published_entry_bundle_and_hash_tile(example: Tiles) -> None:
    entries = tuple(entry.encode() for entry in VECTOR["entries"])
    bundle = bytes.fromhex(VECTOR["entry_bundle"]["data"])
    assert entry_bundle(entries) == bundle and parse_entry_bundle(bundle) == entries
    assert entries_path(0, 5) == VECTOR["entry_bundle"]["path"]
    assert example.tiles == {(0, 0): b"".join(published(str(number)) for number in range(5))}
    assert tile_path(0, 0, 5) == VECTOR["hash_tile"]["path"]
