"""Blobs: fixed bytes, an independent reading of the format, and everything that must be refused."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from random import Random
from typing import Any

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from hypothesis import example, given
from hypothesis import strategies as st

from protocol import limits, merkle
from protocol.blob import (
    BLOB_CHUNK,
    BLOB_TAG,
    MAX_BLOB,
    MAX_BLOB_CHUNKS,
    MAX_BLOB_PROOF,
    Blob,
    BlobChunk,
    BlobFrame,
    BlobRef,
    ChunkCipher,
    NoBlob,
    WantBlob,
    check_size,
    chunk_hash,
    grow_tree,
    proof_places,
    tree_nodes,
    verify_chunk,
)
from protocol.canonical import encode
from protocol.envelope import padded_size
from protocol.errors import DecodeError, LimitError, OpenError, PeerError, ProofError
from protocol.frames import decode_frame, encode_frame
from protocol.session import Heard, Lane, Send
from tests.factories import NOW, TestNode
from tests.protocol.test_link import lanes, opened, sent

KEY = bytes(range(32))
OTHER = bytes(range(1, 33))
# Three chunks, of which the last is cut short by padding and not filled by the file.
SIZE = 2 * BLOB_CHUNK + 1_000


def content(size: int) -> bytes:
    """Return bytes that differ from place to place and from chunk to chunk."""
    return hashlib.shake_128(b"attachment").digest(size)


class Made:
    """A whole blob in memory."""

    def __init__(self, size: int, key: bytes = KEY, plain: bytes | None = None) -> None:
        self.plain = content(size) if plain is None else plain
        self.cipher = ChunkCipher(key, size)
        self.chunks = [
            self.cipher.seal(i, self.plain[i * BLOB_CHUNK : (i + 1) * BLOB_CHUNK])
            for i in range(self.cipher.count)
        ]
        self.leaves = [chunk_hash(self.cipher.padded, chunk) for chunk in self.chunks]
        self.id, self.nodes = grow_tree(self.leaves)
        self.blob = Blob(self.id, self.cipher.padded)

    def proof(self, index: int) -> tuple[bytes, ...]:
        return tuple(
            self.nodes[place * 32 : place * 32 + 32]
            for place in proof_places(index, self.blob.count)
        )


WHOLE = Made(SIZE)


@pytest.fixture
def made() -> Made:
    return WHOLE


# --- fixed bytes -----------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("size", "padded", "count", "blob_id"),
    [
        (1, 1_024, 1, "75d37b1634b0f4c4327669fb55c3ba063b3bac580c3ff6f4aecf6f074448acb9"),
        (BLOB_CHUNK, 65_536, 1, "420f422c87b9d42f65627bba8f99f2e582856698ccb00d28eddd31140f2d2733"),
        (
            BLOB_CHUNK + 1,
            67_584,
            2,
            "84cf9201eeab4959dc0c30d5a7589a15231f690313ea47ef36cc1befc21f2f17",
        ),
        (SIZE, 135_168, 3, "14242f13461553214ec2c7f02eeca7454dd56a5f784c0025cedae9d4bcaae8e5"),
        (
            5 * BLOB_CHUNK,
            327_680,
            5,
            "f79e4ff576861266e32e1d1c1affcc43dbe771cedc8d2895677ad422e45d452b",
        ),
    ],
)
def test_a_fixed_key_and_file_give_a_fixed_id(
    size: int, padded: int, count: int, blob_id: str
) -> None:
    whole = Made(size)
    assert (whole.blob.padded, whole.blob.count) == (padded, count)
    assert whole.id.hex() == blob_id
    assert sum(map(len, whole.chunks)) == whole.blob.encrypted == padded + count * BLOB_TAG


def naive_root(leaves: Sequence[bytes]) -> bytes:
    """MTH, word for word from RFC 6962 section 2.1, over leaf hashes."""
    if len(leaves) == 1:
        return leaves[0]
    k = 1
    while k * 2 < len(leaves):
        k *= 2
    return hashlib.sha256(b"\1" + naive_root(leaves[:k]) + naive_root(leaves[k:])).digest()


def test_an_independent_reading_of_the_format_opens_it(made: Made) -> None:
    label = b"picket/1/blob\0"
    info = label + SIZE.to_bytes(8, "big")
    aead = AESGCM(HKDF(SHA256(), 32, salt=None, info=info).derive(KEY))
    plain = b"".join(
        aead.decrypt(bytes(8) + i.to_bytes(4, "big"), chunk, None)
        for i, chunk in enumerate(made.chunks)
    )
    assert plain == made.plain + bytes(made.blob.padded - SIZE)
    head = b"\0" + label + made.blob.padded.to_bytes(8, "big")
    leaves = [hashlib.sha256(head + chunk).digest() for chunk in made.chunks]
    assert naive_root(leaves) == made.id


@pytest.mark.parametrize("size", [1, 1_024, BLOB_CHUNK - 1, BLOB_CHUNK, BLOB_CHUNK + 1, SIZE])
def test_what_was_sealed_opens_chunk_by_chunk_in_any_order(size: int) -> None:
    whole = Made(size)
    opened = {
        i: ChunkCipher(KEY, size).open(i, whole.chunks[i])
        for i in reversed(range(whole.blob.count))
    }
    assert b"".join(opened[i] for i in sorted(opened)) == whole.plain


def test_files_of_nearly_the_same_size_look_alike() -> None:
    one, two = Made(201_000), Made(204_000)
    assert list(map(len, one.chunks)) == list(map(len, two.chunks))
    assert one.blob.padded == two.blob.padded


def test_chunks_that_hold_nothing_but_padding_are_sealed_and_opened() -> None:
    # Padding of a file of this size is more than one chunk.
    size = 2**25 + 1
    cipher = ChunkCipher(KEY, size)
    last = cipher.count - 1
    assert cipher.plain_length(last) == 0
    assert cipher.padded - size > BLOB_CHUNK
    assert cipher.open(last, cipher.seal(last, b"")) == b""


def test_the_bounds_fit_each_other() -> None:
    assert MAX_BLOB_CHUNKS == 16_384
    assert MAX_BLOB_PROOF == 14
    assert padded_size(MAX_BLOB) == MAX_BLOB
    assert padded_size(MAX_BLOB - 1) == MAX_BLOB
    assert max(len(proof_places(i, MAX_BLOB_CHUNKS)) for i in (0, 1, 8_191, 16_383)) == 14


def test_the_key_is_not_shown(made: Made) -> None:
    ref = BlobRef(id=made.id, key=KEY, size=SIZE, sha256=hashlib.sha256(made.plain).digest())
    assert KEY.hex() not in repr(ref)
    assert repr(KEY) not in repr(ref)
    assert ref.blob == made.blob


# --- the tree --------------------------------------------------------------------------------
class Tiles:
    """All tiles of a tree, in memory."""

    def __init__(self, leaves: Sequence[bytes]) -> None:
        grown = merkle.append(size=0, new_leaves=leaves, reader=self)
        self.tiles = {(level, index): data for level, index, data in grown.tiles}

    def read_tiles(self, keys: Sequence[tuple[int, int]]) -> Mapping[tuple[int, int], bytes]:
        return {key: self.tiles[key] for key in keys}


@pytest.mark.parametrize("count", [*range(1, 70), 255, 256, 257, 511, 513, 1_025])
def test_roots_and_proofs_are_those_of_the_log(count: int) -> None:
    leaves = [hashlib.sha256(b"%d" % i).digest() for i in range(count)]
    tiles = Tiles(leaves)
    root, nodes = grow_tree(leaves)
    assert root == merkle.root(count, tiles)
    assert len(nodes) == 32 * tree_nodes(count)
    for index in {0, 1, count // 2, count - 2, count - 1} & set(range(count)):
        proof = tuple(nodes[p * 32 : p * 32 + 32] for p in proof_places(index, count))
        assert proof == merkle.prove_inclusion(index, count, tiles)


@given(st.integers(1, 300), st.randoms(use_true_random=False))
def test_the_proofs_of_all_chunks_are_all_that_proofs_need(count: int, random: Random) -> None:
    leaves = [hashlib.sha256(b"%d" % i).digest() for i in range(count)]
    _, nodes = grow_tree(leaves)
    filed: dict[int, bytes] = {}
    order = list(range(count))
    random.shuffle(order)
    for index in order:
        for place in proof_places(index, count):
            value = nodes[place * 32 : place * 32 + 32]
            assert filed.setdefault(place, value) == value
    for index in range(count):
        assert set(proof_places(index, count)) <= set(filed)


def test_a_tree_needs_a_leaf() -> None:
    with pytest.raises(ValueError, match="at least one"):
        grow_tree([])


# --- refusals: chunks ------------------------------------------------------------------------
def test_every_chunk_verifies_by_itself(made: Made) -> None:
    for index, chunk in enumerate(made.chunks):
        leaf = verify_chunk(made.blob, index, chunk, made.proof(index))
        assert leaf == made.leaves[index]


def flips(data: bytes) -> Iterator[bytes]:
    """Return *data* with each single byte changed in turn."""
    for at in range(len(data)):
        yield data[:at] + bytes([data[at] ^ 0x40]) + data[at + 1 :]


def test_every_changed_byte_of_a_chunk_is_refused() -> None:
    whole = Made(900)
    (chunk,) = whole.chunks
    assert verify_chunk(whole.blob, 0, chunk, ()) == whole.id
    for changed in flips(chunk):
        with pytest.raises(ProofError):
            verify_chunk(whole.blob, 0, changed, ())
        with pytest.raises(OpenError):
            whole.cipher.open(0, changed)


@given(st.integers(0, SIZE + 1_000), st.integers(1, 255))
@example(0, 1)
@example(BLOB_CHUNK + BLOB_TAG, 128)
def test_a_changed_byte_of_a_large_chunk_is_refused(at: int, change: int) -> None:
    index, offset = divmod(at, BLOB_CHUNK + BLOB_TAG)
    chunk = bytearray(WHOLE.chunks[index])
    chunk[offset] ^= change
    with pytest.raises(ProofError):
        verify_chunk(WHOLE.blob, index, bytes(chunk), WHOLE.proof(index))


@pytest.mark.parametrize("index", [0, 1, 2])
def test_every_changed_byte_of_a_proof_is_refused(made: Made, index: int) -> None:
    proof = made.proof(index)
    for place, value in enumerate(proof):
        for changed in flips(value):
            forged = (*proof[:place], changed, *proof[place + 1 :])
            with pytest.raises(ProofError):
                verify_chunk(made.blob, index, made.chunks[index], forged)


def test_a_proof_of_another_length_is_refused(made: Made) -> None:
    proof = made.proof(0)
    for forged in ((), proof[:-1], (*proof, proof[0]), (proof[0][:-1], *proof[1:]), proof[::-1]):
        with pytest.raises(ProofError):
            verify_chunk(made.blob, 0, made.chunks[0], forged)


def test_every_changed_byte_of_the_id_is_refused(made: Made) -> None:
    for changed in flips(made.id):
        with pytest.raises(ProofError):
            verify_chunk(Blob(changed, made.blob.padded), 0, made.chunks[0], made.proof(0))


def test_a_chunk_at_another_place_is_refused(made: Made) -> None:
    with pytest.raises(ProofError):
        verify_chunk(made.blob, 1, made.chunks[0], made.proof(0))
    with pytest.raises(ProofError):
        verify_chunk(made.blob, 1, made.chunks[0], made.proof(1))
    with pytest.raises(OpenError):
        made.cipher.open(1, made.chunks[0])


@pytest.mark.parametrize("index", [-1, 3, 2**63])
def test_a_chunk_outside_the_blob_is_refused(made: Made, index: int) -> None:
    with pytest.raises(DecodeError, match="of a blob of 3"):
        verify_chunk(made.blob, index, made.chunks[0], made.proof(0))
    with pytest.raises(OpenError):
        made.cipher.open(index, made.chunks[0])
    with pytest.raises(ValueError, match="not the plaintext"):
        made.cipher.seal(index, b"")


@pytest.mark.parametrize("index", [0, 2])
def test_a_chunk_of_another_length_is_refused(made: Made, index: int) -> None:
    chunk = made.chunks[index]
    for forged in (b"", chunk[:-1], chunk + b"\0", chunk[:BLOB_TAG]):
        with pytest.raises(DecodeError, match="instead of"):
            verify_chunk(made.blob, index, forged, made.proof(index))
        with pytest.raises(OpenError):
            made.cipher.open(index, forged)


def test_a_chunk_of_another_blob_is_refused(made: Made) -> None:
    same_size = Made(SIZE, OTHER)
    with pytest.raises(ProofError):
        verify_chunk(made.blob, 0, same_size.chunks[0], same_size.proof(0))
    with pytest.raises(OpenError):
        made.cipher.open(0, same_size.chunks[0])
    # The first chunk of a longer file is as long and stands at the same place.
    longer = Made(5 * BLOB_CHUNK)
    with pytest.raises(OpenError):
        made.cipher.open(0, longer.chunks[0])


def test_a_blob_cannot_be_passed_off_as_a_shorter_or_longer_one(made: Made) -> None:
    # Each of these has as many chunks, or a left part of the tree with a root of its own.
    for padded in (made.blob.padded + 4_096, 2 * BLOB_CHUNK, BLOB_CHUNK):
        for index in range(Blob(made.id, padded).count):
            for proof in (made.proof(index), made.proof(index)[:-1]):
                with pytest.raises(PeerError):
                    verify_chunk(Blob(made.id, padded), index, made.chunks[index], proof)
    left = hashlib.sha256(b"\1" + made.leaves[0] + made.leaves[1]).digest()
    with pytest.raises(ProofError):
        verify_chunk(Blob(left, 2 * BLOB_CHUNK), 0, made.chunks[0], made.proof(0)[:1])


def test_an_inner_node_cannot_be_passed_off_as_a_chunk(made: Made) -> None:
    pair = made.leaves[0] + made.leaves[1]
    assert chunk_hash(made.blob.padded, pair) != hashlib.sha256(b"\1" + pair).digest()


# --- refusals: opening -----------------------------------------------------------------------
@pytest.mark.parametrize("size", [SIZE - 1, SIZE + 1, 135_168, BLOB_CHUNK])
def test_a_wrong_size_opens_nothing(made: Made, size: int) -> None:
    cipher = ChunkCipher(KEY, size)
    for index, chunk in enumerate(made.chunks):
        with pytest.raises(OpenError):
            cipher.open(index, chunk)


def test_a_wrong_key_opens_nothing(made: Made) -> None:
    for key in flips(KEY):
        with pytest.raises(OpenError):
            ChunkCipher(key, SIZE).open(0, made.chunks[0])


def test_padding_that_is_not_zeros_is_refused() -> None:
    size = 1_000
    aead = ChunkCipher(KEY, size)._aead
    nonce = bytes(12)
    good = content(size) + bytes(24)
    assert ChunkCipher(KEY, size).open(0, aead.encrypt(nonce, good, None)) == content(size)
    for at in (size, 1_023):
        bad = good[:at] + b"\1" + good[at + 1 :]
        with pytest.raises(OpenError, match="padded"):
            ChunkCipher(KEY, size).open(0, aead.encrypt(nonce, bad, None))


def test_a_plaintext_of_another_length_is_not_sealed(made: Made) -> None:
    for index, length in ((0, BLOB_CHUNK - 1), (0, BLOB_CHUNK + 1), (2, 999), (2, 1_001)):
        with pytest.raises(ValueError, match="not the plaintext"):
            made.cipher.seal(index, bytes(length))


# --- refusals: what a record may say ---------------------------------------------------------
@pytest.mark.parametrize("padded", [-1, 0, 1_023, 1_025, 65_537, 135_169, MAX_BLOB + 1, 2**40])
def test_a_size_that_padding_never_gives_is_refused(padded: int) -> None:
    with pytest.raises(DecodeError, match="padded"):
        Blob(bytes(32), padded)


@given(st.integers(1, MAX_BLOB))
def test_padding_is_one_of_its_own_sizes(size: int) -> None:
    found = Blob(bytes(32), padded_size(size))
    assert found.padded >= size
    assert found.padded <= max(1_024, size * 1.125)
    assert sum(found.length(i) for i in (0, found.count - 1)) >= found.length(0)
    assert found.length(found.count - 1) > BLOB_TAG


@pytest.mark.parametrize(
    ("field", "value", "error"),
    [
        ("id", bytes(31), DecodeError),
        ("id", bytes(33), DecodeError),
        ("key", bytes(31), DecodeError),
        ("key", b"", DecodeError),
        ("sha256", bytes(20), DecodeError),
        ("size", 0, DecodeError),
        ("size", -1, DecodeError),
        ("size", MAX_BLOB + 1, LimitError),
    ],
)
def test_a_reference_out_of_bounds_is_refused(
    field: str, value: object, error: type[PeerError]
) -> None:
    good: dict[str, Any] = {"id": bytes(32), "key": KEY, "size": 1, "sha256": bytes(32)}
    BlobRef(**good)
    with pytest.raises(error):
        BlobRef(**(good | {field: value}))


def test_the_largest_size_is_allowed_and_one_more_is_not() -> None:
    assert check_size(MAX_BLOB) == MAX_BLOB
    with pytest.raises(LimitError, match="allowed"):
        ChunkCipher(KEY, MAX_BLOB + 1)
    with pytest.raises(DecodeError, match="at least one byte"):
        ChunkCipher(KEY, 0)
    with pytest.raises(DecodeError, match="id"):
        Blob(bytes(31), 1_024)


# --- what links say --------------------------------------------------------------------------
ID = bytes(range(32))
FRAMES: list[BlobFrame] = [
    WantBlob(ID, 0, 1),
    WantBlob(ID, MAX_BLOB_CHUNKS - 1, limits.BLOB_WINDOW),
    BlobChunk(ID, 0, b"x", ()),
    BlobChunk(ID, MAX_BLOB_CHUNKS - 1, bytes(BLOB_CHUNK + BLOB_TAG), (ID,) * MAX_BLOB_PROOF),
    NoBlob(ID),
]


@pytest.mark.parametrize("frame", FRAMES, ids=lambda frame: type(frame).__name__)
def test_a_frame_is_read_as_it_was_written_and_fits(frame: BlobFrame) -> None:
    payload = encode_frame(frame)
    assert decode_frame(payload) == frame
    assert len(payload) <= limits.MAX_FRAME


@pytest.mark.parametrize(
    ("value", "error"),
    [
        ([17, ID[1:], 0, 1], DecodeError),
        ([17, ID, MAX_BLOB_CHUNKS, 1], DecodeError),
        ([17, ID, 0, 0], DecodeError),
        ([17, ID, 0, limits.BLOB_WINDOW + 1], DecodeError),
        ([17, ID, 0], DecodeError),
        ([18, ID, 0, bytes(BLOB_CHUNK + BLOB_TAG + 1), []], LimitError),
        ([18, ID, MAX_BLOB_CHUNKS, b"x", []], DecodeError),
        ([18, ID, 0, b"x", [ID] * (MAX_BLOB_PROOF + 1)], LimitError),
        ([18, ID, 0, b"x", [ID[1:]]], DecodeError),
        ([19, ID + b"x"], DecodeError),
        ([19, ID, 0], DecodeError),
    ],
)
def test_a_frame_out_of_bounds_is_refused(value: object, error: type[PeerError]) -> None:
    with pytest.raises(PeerError) as raised:
        decode_frame(encode(value))
    assert isinstance(raised.value, error), raised.value.code


@pytest.mark.parametrize("frame", FRAMES, ids=lambda frame: type(frame).__name__)
def test_what_is_said_about_attachments_is_heard_and_only_questions_hurry(
    frame: BlobFrame, alder: TestNode, birch: TestNode
) -> None:
    left, right = opened(alder, birch)
    effects = left.say(frame)
    asked = isinstance(frame, WantBlob)
    assert lanes(effects) == [Lane.CONTROL if asked else Lane.CATCH_UP]
    (message,) = sent(left, effects)
    assert right.receive(message, NOW) == [Heard(frame)]
    assert all(isinstance(effect, Send) for effect in effects)
