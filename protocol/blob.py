"""Attachments as encrypted blobs: padding, chunks, keys and the tree that proves each chunk.

    padded = PADMÉ size of the file's size;    count = padded / 65,536 rounded up
    key'   = derive(key, "blob", u64 size);    chunk i = AES-256-GCM(key', nonce = u96 i, 64 KiB)
    leaf i = H(0x00 || label "blob" || u64 padded || chunk i);    id = RFC 6962 root over the leaves

- Chunk i holds the bytes of the file from i * 65,536 on; what is missing up to ``padded`` is zeros.
- The id binds the padded size, the number of chunks and the place of each, so whoever knows id and
  padded size judges any chunk by itself, without a key and before it touches a disk.
- The key is fresh for each blob: the nonces count from 0, so a second file under one key would give
  both away. It binds the exact size too: a wrong size opens nothing.
- The cipher does not commit to its key. The SHA-256 of the file, which the signed record states,
  does, and whoever opens a whole blob must compare it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Final, TypeAlias, assert_never

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from protocol import limits, suite
from protocol.canonical import Value
from protocol.envelope import padded_size
from protocol.errors import DecodeError, LimitError, OpenError
from protocol.merkle import HASH_SIZE, leaf_hash, node_hash, verify_inclusion
from protocol.shape import array, octets, uint

MAX_BLOB: Final = limits.MAX_BLOB
BLOB_CHUNK: Final = limits.BLOB_CHUNK
BLOB_TAG: Final = limits.BLOB_TAG
MAX_BLOB_CHUNKS: Final = limits.MAX_BLOB_CHUNKS
MAX_BLOB_PROOF: Final = limits.MAX_BLOB_PROOF

_LEAF: Final = suite.label("blob")
_NONCE: Final = 12
_U64: Final = 8
WANT_BLOB: Final = 17
BLOB: Final = 18
NO_BLOB: Final = 19


@dataclass(frozen=True, slots=True)
class Blob:
    """What everybody who holds a blob knows of it: its id and its padded size.

    Raises:
        DecodeError: the id has another length, or the size is not one that padding gives.
    """

    id: bytes
    padded: int

    def __post_init__(self) -> None:
        if len(self.id) != HASH_SIZE:
            raise DecodeError(f"blob.id has {len(self.id)} bytes instead of {HASH_SIZE}")
        if not limits.MIN_PADDED <= self.padded <= MAX_BLOB:
            raise DecodeError(f"blob.padded is outside {limits.MIN_PADDED} to {MAX_BLOB}")
        if padded_size(self.padded) != self.padded:
            raise DecodeError("blob.padded is not a size that padding gives")

    @property
    def count(self) -> int:
        """Number of chunks."""
        return _count(self.padded)

    @property
    def encrypted(self) -> int:
        """Bytes of all chunks together."""
        return self.padded + self.count * BLOB_TAG

    def length(self, index: int) -> int:
        """Return the bytes of the encrypted chunk *index*; all but the last are alike."""
        return _length(self.padded, index) + BLOB_TAG


@dataclass(frozen=True, slots=True)
class BlobRef:
    """What a record says of its attachment: enough to fetch, open and judge it.

    Args:
        id: the blob to ask for.
        key: 32 bytes, made for this blob alone.
        size: bytes of the file.
        sha256: digest of the file.

    Raises:
        DecodeError: a field has another length, or the size is 0.
        LimitError: the file is larger than 1 GiB.
    """

    id: bytes
    key: bytes = field(repr=False)
    size: int
    sha256: bytes

    def __post_init__(self) -> None:
        if len(self.id) != HASH_SIZE:
            raise DecodeError(f"blob.id has {len(self.id)} bytes instead of {HASH_SIZE}")
        if len(self.key) != suite.KEY_SIZE:
            raise DecodeError(f"blob.key has {len(self.key)} bytes instead of {suite.KEY_SIZE}")
        if len(self.sha256) != suite.DIGEST_SIZE:
            raise DecodeError("blob.sha256 does not have 32 bytes")
        check_size(self.size)

    @property
    def blob(self) -> Blob:
        """The part that may be told to those who shall not open it."""
        return Blob(self.id, padded_size(self.size))


def check_size(size: int) -> int:
    """Return *size* if a file of so many bytes can be an attachment.

    Raises:
        DecodeError: it is not positive.
        LimitError: it is beyond 1 GiB.
    """
    if size < 1:
        raise DecodeError("an attachment has at least one byte")
    if size > MAX_BLOB:
        raise LimitError(
            f"an attachment of {size} bytes; {MAX_BLOB} are allowed",
            fix="split the file, or hand it over in another way",
        )
    return size


def _count(padded: int) -> int:
    return -(-padded // BLOB_CHUNK)


def _length(padded: int, index: int) -> int:
    return min(BLOB_CHUNK, padded - index * BLOB_CHUNK)


# --- encryption ------------------------------------------------------------------------------
class ChunkCipher:
    """Encrypts and decrypts the chunks of one blob, in any order."""

    def __init__(self, key: bytes, size: int) -> None:
        """Take the fresh *key* of the blob and the exact *size* of the file.

        Raises:
            DecodeError: no file has that size.
            LimitError: the file is larger than 1 GiB.
        """
        self.size = check_size(size)
        self.padded = padded_size(size)
        self.count = _count(self.padded)
        self._aead = AESGCM(suite.derive(key, "blob", size.to_bytes(_U64, "big")))

    def plain_length(self, index: int) -> int:
        """Return how many bytes of the file the chunk *index* holds; 0 if it is all padding."""
        return max(0, min(BLOB_CHUNK, self.size - index * BLOB_CHUNK))

    def seal(self, index: int, plaintext: bytes) -> bytes:
        """Return the encrypted chunk *index*; each index is sealed once.

        Raises:
            ValueError: there is no such chunk, or *plaintext* is not as long as it must be.
        """
        if not 0 <= index < self.count or len(plaintext) != self.plain_length(index):
            raise ValueError("not the plaintext of this chunk")
        padded = plaintext.ljust(_length(self.padded, index), b"\0")
        return self._aead.encrypt(index.to_bytes(_NONCE, "big"), padded, None)

    def open(self, index: int, data: bytes) -> bytes:
        """Return the bytes of the file in the encrypted chunk *index*.

        Raises:
            OpenError: wrong key, size or place, changed bytes, or padding that is not zeros.
        """
        if not 0 <= index < self.count or len(data) != _length(self.padded, index) + BLOB_TAG:
            raise OpenError("the attachment does not open")
        try:
            padded = self._aead.decrypt(index.to_bytes(_NONCE, "big"), data, None)
        except InvalidTag:
            raise OpenError("the attachment does not open") from None
        length = self.plain_length(index)
        if length < len(padded) and padded.count(0, length) != len(padded) - length:
            raise OpenError("the attachment is not padded as it must be")
        return padded[:length]


# --- the tree --------------------------------------------------------------------------------
def chunk_hash(padded: int, data: bytes) -> bytes:
    """Return the leaf hash of one encrypted chunk of a blob of *padded* bytes."""
    return leaf_hash(b"".join((_LEAF, padded.to_bytes(_U64, "big"), data)))


def verify_chunk(blob: Blob, index: int, data: bytes, proof: Sequence[bytes]) -> bytes:
    """Verify that *data* is the encrypted chunk *index* of *blob*; return its leaf hash.

    Raises:
        DecodeError: there is no such chunk, or it has another length.
        ProofError: it is not, or the proof has the wrong length.
    """
    if not 0 <= index < blob.count:
        raise DecodeError(f"chunk {index} of a blob of {blob.count}")
    if len(data) != blob.length(index):
        raise DecodeError(f"chunk {index} has {len(data)} bytes instead of {blob.length(index)}")
    leaf = chunk_hash(blob.padded, data)
    verify_inclusion(index=index, size=blob.count, leaf=leaf, proof=proof, root=blob.id)
    return leaf


@lru_cache(maxsize=64)
def _levels(count: int) -> tuple[tuple[int, int], ...]:
    """Return (place of its first node, number of nodes) of each level below the root."""
    levels = [(0, count)]
    while (width := (levels[-1][1] + 1) // 2) > 1:
        levels.append((sum(levels[-1]), width))
    return tuple(levels)


def tree_nodes(count: int) -> int:
    """Return how many hashes ``grow_tree`` gives for *count* chunks."""
    return sum(_levels(count)[-1])


def proof_places(index: int, count: int) -> tuple[int, ...]:
    """Return where the proof of chunk *index* stands in the hashes that ``grow_tree`` gives.

    The places of all proofs of a tree are just the hashes that proofs need, so a receiver that
    files each proof it verified at its places ends with a tree from which it can prove in turn.
    """
    places = []
    for first, width in _levels(count):
        # A last node without a neighbour rises one level unchanged (RFC 9162 section 2.1.3.2).
        if index ^ 1 < width:
            places.append(first + (index ^ 1))
        index >>= 1
    return tuple(places)


def grow_tree(leaves: Sequence[bytes]) -> tuple[bytes, bytes]:
    """Return the id over the leaf hashes *leaves*, and all hashes below it, level by level."""
    if not leaves:
        raise ValueError("a blob has at least one chunk")
    nodes, row = list(leaves), list(leaves)
    while len(row) > 1:
        odd = row[-1:] if len(row) % 2 else []
        row = [node_hash(left, right) for left, right in zip(row[::2], row[1::2], strict=False)]
        row += odd
        if len(row) > 1:
            nodes += row
    return row[0], b"".join(nodes)


# --- what links say --------------------------------------------------------------------------
@dataclass(frozen=True, slots=True)
class WantBlob:
    """Ask for *count* encrypted chunks of a blob, from *first* on."""

    blob_id: bytes
    first: int
    count: int


@dataclass(frozen=True, slots=True)
class BlobChunk:
    """One encrypted chunk and the proof that it belongs there."""

    blob_id: bytes
    index: int
    data: bytes
    proof: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class NoBlob:
    """Nothing of a blob comes from here (any more), whatever the reason."""

    blob_id: bytes


BlobFrame: TypeAlias = WantBlob | BlobChunk | NoBlob


def blob_frame_value(frame: BlobFrame) -> list[object]:
    """Return the canonical value of *frame*."""
    match frame:
        case WantBlob():
            return [WANT_BLOB, frame.blob_id, frame.first, frame.count]
        case BlobChunk():
            return [BLOB, frame.blob_id, frame.index, frame.data, frame.proof]
        case NoBlob():
            return [NO_BLOB, frame.blob_id]
        case _:
            assert_never(frame)


def parse_want_blob(fields: Sequence[Value]) -> WantBlob:
    """Return the frame that *fields* hold.

    Raises:
        DecodeError: a field has the wrong shape, or it asks for more than one frame may.
    """
    return WantBlob(
        octets(fields[1], "want_blob.blob_id", size=HASH_SIZE),
        uint(fields[2], "want_blob.first", maximum=MAX_BLOB_CHUNKS - 1),
        uint(fields[3], "want_blob.count", minimum=1, maximum=limits.BLOB_WINDOW),
    )


def parse_blob_chunk(fields: Sequence[Value]) -> BlobChunk:
    """Return the frame that *fields* hold; whether it is genuine, ``verify_chunk`` tells.

    Raises:
        DecodeError: a field has the wrong shape.
        LimitError: a part is beyond its bound.
    """
    hashes = array(fields[4], "blob.proof", maximum=MAX_BLOB_PROOF)
    return BlobChunk(
        octets(fields[1], "blob.blob_id", size=HASH_SIZE),
        uint(fields[2], "blob.index", maximum=MAX_BLOB_CHUNKS - 1),
        octets(fields[3], "blob.data", maximum=BLOB_CHUNK + BLOB_TAG),
        tuple(octets(item, "blob.proof.hash", size=HASH_SIZE) for item in hashes),
    )


def parse_no_blob(fields: Sequence[Value]) -> NoBlob:
    """Return the frame that *fields* hold.

    Raises:
        DecodeError: a field has the wrong shape.
    """
    return NoBlob(octets(fields[1], "no_blob.blob_id", size=HASH_SIZE))
