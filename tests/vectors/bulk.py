"""What ``generate`` says of frames 16 to 19: receipts in bulk, and attachments in chunks.

Each function returns inputs and codes by the name of their case. An input is bytes, or parts that
are repeated as the files have them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, TypeAlias

from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from protocol import limits, suite
from protocol.blob import (
    BLOB_CHUNK,
    BlobChunk,
    ChunkCipher,
    NoBlob,
    WantBlob,
    chunk_hash,
    grow_tree,
    proof_places,
)
from protocol.canonical import decode, encode
from protocol.frames import Frame, Run, Runs, encode_frame
from tests.factories import seed

Json: TypeAlias = dict[str, Any]
Refused: TypeAlias = dict[str, tuple[bytes | Json, str]]
Having: TypeAlias = Callable[[int, object], bytes]

HASH: Final = 32
SHORT: Final = 8 + 48
WHOLE: Final = 32 + 48
_ENCODING, _LIMIT, _FRAME = "bad-encoding", "over-limit", "bad-frame"


# --- frames ----------------------------------------------------------------------------------
def of_each(node: bytes, peer: bytes, one: bytes) -> dict[str, tuple[Frame, Json]]:
    """Return one frame of each type, and its fields as the files have them."""
    secrets = tuple(seed("secret", str(n)) + seed("blind", str(n))[:16] for n in range(3))
    short = Run(7, 1, (one[:8], node[:8]), secrets[:2], (peer, one))
    whole = Run(2**48, 3, (peer,), secrets[2:], ())
    return {
        "runs": (
            Runs(peer, b"note", (short, whole)),
            {"recipient": peer.hex(), "checkpoint": b"note".hex(),
             "runs": [plain_run(short), plain_run(whole)]},
        ),
        "want_blob": (
            WantBlob(one, 3, 2), {"blob_id": one.hex(), "first": 3, "count": 2},
        ),
        "blob": (
            BlobChunk(one, 3, b"chunk", (node, peer)),
            {"blob_id": one.hex(), "index": 3, "data": b"chunk".hex(),
             "proof": [node.hex(), peer.hex()]},
        ),
        "no_blob": (NoBlob(one), {"blob_id": one.hex()}),
    }  # fmt: skip


def plain_run(run: Run) -> list[object]:
    """Return a run as the document has it."""
    items = b"".join(a + b for a, b in zip(run.ids, run.secrets, strict=True))
    return [run.first, run.kind, len(run.ids[0]), items.hex(), [p.hex() for p in run.proof]]


def _changing(fields: list[Any]) -> Having:
    def having(at: int, value: object) -> bytes:
        return encode([*fields[:at], value, *fields[at + 1 :]])

    return having


def _fields(frame: Frame) -> list[Any]:
    fields = decode(encode_frame(frame), max_bytes=limits.MAX_FRAME)
    assert isinstance(fields, list)
    return fields


def _so_many(fields: list[Any], run: list[Any], times: int) -> Json:
    """Return a runs frame with *run* so many times, at least 16."""
    start = encode([*fields[:3], []])[:-1] + b"\xdc" + times.to_bytes(2, "big")
    return {"repeat": [[start.hex(), 1], [encode(run).hex(), times]]}


def at_the_bounds(
    frames: dict[str, tuple[Frame, Json]],
) -> dict[str, tuple[bytes | Json, Json]]:
    """Return payloads that go as far as is allowed, and their fields."""
    runs, blob = _fields(frames["runs"][0]), _fields(frames["blob"][0])
    run, other = runs[3]
    one, hashes = blob[1], [bytes(HASH)] * 14

    def bulk(*each: list[Any]) -> tuple[bytes, Json]:
        shown = [[*r[:3], r[3].hex(), [hash_.hex() for hash_ in r[4]]] for r in each]
        expect = {"runs": shown} if sum(len(r[3]) for r in each) < 1_000 else {}
        return encode([*runs[:3], list(each)]), {"type": "runs", **expect}

    return {
        "a run of 512 envelopes": bulk([*run[:3], bytes(512 * SHORT), run[4]]),
        "a run of 512 envelopes with whole ids": bulk([*other[:3], bytes(512 * WHOLE), []]),
        "256 runs of 512 envelopes": (
            _so_many(runs, [*run[:3], bytes(2 * SHORT), []], 256), {"type": "runs"},
        ),
        "a run with a proof of 128": bulk([*run[:4], [bytes(HASH)] * 128]),
        "a run of kind 255 is a frame": bulk([0, 255, *run[2:]]),
        "runs that descend, and one of them twice": bulk(other, run, run),
        "a checkpoint of 16384 bytes": (
            encode([*runs[:2], bytes(2**14), runs[3]]), {"type": "runs"},
        ),
        "a want_blob of 16 chunks from the last place on": (
            encode([17, one, 16_383, 16]),
            {"type": "want_blob", "blob_id": one.hex(), "first": 16_383, "count": 16},
        ),
        "the largest chunk in the last place": (
            encode([18, one, 16_383, bytes(65_552), hashes]),
            {"type": "blob", "index": 16_383, "proof": [hash_.hex() for hash_ in hashes]},
        ),
        "a chunk of one byte without proof": (
            encode([18, one, 0, b"1", []]),
            {"type": "blob", "index": 0, "data": "31", "proof": []},
        ),
    }  # fmt: skip


def refused(frames: dict[str, tuple[Frame, Json]]) -> Refused:
    """Return payloads of types 16 to 19 that are refused, and of the first unknown one."""
    fields = {name: _fields(frames[name][0]) for name in ("runs", "want_blob", "blob", "no_blob")}
    one = fields["no_blob"][1]
    return {
        **_runs_refused(fields["runs"]), **_a_run_refused(fields["runs"]),
        **_proofs_refused(fields["runs"]), **_want_blob_refused(fields["want_blob"]),
        **_blob_refused(fields["blob"]), **_no_blob_refused(one), **_longer_than_need_be(fields),
        "type 22": (encode([22, one]), _FRAME),
    }  # fmt: skip


def _runs_refused(fields: list[Any]) -> Refused:
    having, (run, _) = _changing(fields), fields[3]
    return {
        "runs of three fields": (encode(fields[:3]), _ENCODING),
        "runs of five fields": (encode([*fields, []]), _ENCODING),
        "runs of a recipient of 31 bytes": (having(1, fields[1][1:]), _ENCODING),
        "runs of a recipient of 33 bytes": (having(1, fields[1] + b"\0"), _ENCODING),
        "runs of a recipient as text": (having(1, "a" * 32), _ENCODING),
        "runs under no checkpoint": (having(2, b""), _ENCODING),
        "runs under nil for a checkpoint": (having(2, None), _ENCODING),
        "runs under a checkpoint as text": (having(2, "note"), _ENCODING),
        "runs under a checkpoint of 16385 bytes": (having(2, bytes(16_385)), _LIMIT),
        "a runs frame without runs": (having(3, []), _ENCODING),
        "runs that are no array": (having(3, {}), _ENCODING),
        "257 runs": (_so_many(fields, [*run[:3], bytes(SHORT), []], 257), _LIMIT),
        "513 envelopes in two runs": (
            having(3, [[*run[:3], bytes(n * SHORT), []] for n in (1, 512)]), _LIMIT,
        ),
        "a run and nil": (having(3, [run, None]), _ENCODING),
        "a run and bytes": (having(3, [run, b"run"]), _ENCODING),
    }  # fmt: skip


def _a_run_refused(fields: list[Any]) -> Refused:
    run = fields[3][0]

    def with_run(at: int, value: object) -> bytes:
        return encode([*fields[:3], [[*run[:at], value, *run[at + 1 :]]]])

    def sized(size: object, items: object) -> bytes:
        return encode([*fields[:3], [[*run[:2], size, items, run[4]]]])

    return {
        "a run of four fields": (encode([*fields[:3], [run[:4]]]), _ENCODING),
        "a run of six fields": (encode([*fields[:3], [[*run, 0]]]), _ENCODING),
        "a run from -1": (with_run(0, -1), _ENCODING),
        "a run from 2^48 + 1": (with_run(0, 2**48 + 1), _ENCODING),
        "a run from true": (with_run(0, True), _ENCODING),
        "a run from nil": (with_run(0, None), _ENCODING),
        "a run of kind -1": (with_run(1, -1), _ENCODING),
        "a run of kind 256": (with_run(1, 256), _ENCODING),
        "a run of kind true": (with_run(1, True), _ENCODING),
        "a run of a kind as text": (with_run(1, "received"), _ENCODING),
        "ids of no byte": (sized(0, bytes(48)), _FRAME),
        "ids of 7 bytes": (sized(7, bytes(7 + 48)), _FRAME),
        "ids of 9 bytes": (sized(9, bytes(9 + 48)), _FRAME),
        "ids of 16 bytes": (sized(16, bytes(16 + 48)), _FRAME),
        "ids of 31 bytes": (sized(31, bytes(31 + 48)), _FRAME),
        "ids of 33 bytes": (sized(33, bytes(33 + 48)), _ENCODING),
        "ids of -8 bytes": (sized(-8, bytes(SHORT)), _ENCODING),
        "ids of true bytes": (sized(True, bytes(SHORT)), _ENCODING),
        "ids of nil bytes": (sized(None, bytes(SHORT)), _ENCODING),
        "a run of no envelopes": (sized(8, b""), _ENCODING),
        "a run of envelopes as text": (sized(8, "a" * SHORT), _ENCODING),
        "a run of envelopes in an array": (sized(8, [bytes(SHORT)]), _ENCODING),
        "a run whose last envelope lacks a byte": (sized(8, bytes(2 * SHORT - 1)), _FRAME),
        "a run with a byte too many": (sized(8, bytes(2 * SHORT + 1)), _FRAME),
        "a run of less than one envelope": (sized(8, bytes(8)), _FRAME),
        "short ids where whole ones are announced": (sized(32, bytes(2 * SHORT)), _FRAME),
        "whole ids where short ones are announced": (sized(8, bytes(WHOLE)), _FRAME),
        "a run of 513 envelopes": (sized(8, bytes(513 * SHORT)), _LIMIT),
        "a run of 513 envelopes with whole ids": (sized(32, bytes(513 * WHOLE)), _LIMIT),
    }  # fmt: skip


def _proofs_refused(fields: list[Any]) -> Refused:
    run = fields[3][0]

    def proven(proof: object) -> bytes:
        return encode([*fields[:3], [[*run[:4], proof]]])

    return {
        "a run without proof": (proven(None), _ENCODING),
        "a run with a proof in one piece": (proven(bytes(2 * HASH)), _ENCODING),
        "a run with a proof of 129": (proven([bytes(HASH)] * 129), _LIMIT),
        "a run with a hash of 31 bytes": (proven([bytes(31)]), _ENCODING),
        "a run with a hash of 33 bytes": (proven([bytes(33)]), _ENCODING),
        "a run with an empty hash": (proven([b""]), _ENCODING),
        "a run with a hash as text": (proven(["a" * 32]), _ENCODING),
    }


def _want_blob_refused(fields: list[Any]) -> Refused:
    having = _changing(fields)
    return {
        "a want_blob of three fields": (encode(fields[:3]), _ENCODING),
        "a want_blob of five fields": (encode([*fields, 0]), _ENCODING),
        "a want_blob of an id of 31 bytes": (having(1, bytes(31)), _ENCODING),
        "a want_blob of an id of 33 bytes": (having(1, bytes(33)), _ENCODING),
        "a want_blob of an empty id": (having(1, b""), _ENCODING),
        "a want_blob of an id as text": (having(1, "a" * 32), _ENCODING),
        "a want_blob from -1": (having(2, -1), _ENCODING),
        "a want_blob from 16384": (having(2, 16_384), _ENCODING),
        "a want_blob from false": (having(2, False), _ENCODING),
        "a want_blob from an array": (having(2, [3]), _ENCODING),
        "a want_blob of no chunk": (having(3, 0), _ENCODING),
        "a want_blob of 17 chunks": (having(3, 17), _ENCODING),
        "a want_blob of -1 chunks": (having(3, -1), _ENCODING),
        "a want_blob of true chunks": (having(3, True), _ENCODING),
        "a want_blob of nil chunks": (having(3, None), _ENCODING),
    }


def _blob_refused(fields: list[Any]) -> Refused:
    having = _changing(fields)
    return {
        "a blob of four fields": (encode(fields[:4]), _ENCODING),
        "a blob of six fields": (encode([*fields, 0]), _ENCODING),
        "a blob with an id of 31 bytes": (having(1, bytes(31)), _ENCODING),
        "a blob with an id of 33 bytes": (having(1, bytes(33)), _ENCODING),
        "a blob with nil for an id": (having(1, None), _ENCODING),
        "chunk -1": (having(2, -1), _ENCODING),
        "chunk 16384": (having(2, 16_384), _ENCODING),
        "chunk true": (having(2, True), _ENCODING),
        "a chunk of no byte": (having(3, b""), _ENCODING),
        "a chunk as text": (having(3, "chunk"), _ENCODING),
        "a chunk of nil": (having(3, None), _ENCODING),
        "a chunk of 65553 bytes": (having(3, bytes(65_553)), _LIMIT),
        "a chunk with nil for a proof": (having(4, None), _ENCODING),
        "a chunk with a proof in one piece": (having(4, bytes(2 * HASH)), _ENCODING),
        "a chunk with a proof of 15": (having(4, [bytes(HASH)] * 15), _LIMIT),
        "a chunk with a hash of 31 bytes": (having(4, [bytes(31)]), _ENCODING),
        "a chunk with a hash of 33 bytes": (having(4, [bytes(33)]), _ENCODING),
        "a chunk with a hash as text": (having(4, ["a" * 32]), _ENCODING),
    }


def _no_blob_refused(one: bytes) -> Refused:
    return {
        "a no_blob of nothing": (encode([19]), _ENCODING),
        "a no_blob of three fields": (encode([19, one, 0]), _ENCODING),
        "a no_blob of an id of 31 bytes": (encode([19, one[1:]]), _ENCODING),
        "a no_blob of an id of 33 bytes": (encode([19, one + b"\0"]), _ENCODING),
        "a no_blob of an empty id": (encode([19, b""]), _ENCODING),
        "a no_blob of an id as text": (encode([19, "a" * 32]), _ENCODING),
        "a no_blob of nil": (encode([19, None]), _ENCODING),
    }


def _longer_than_need_be(fields: dict[str, list[Any]]) -> Refused:
    """Return frames that say what they say in another way than the canonical one."""
    whole = {name: encode(each) for name, each in fields.items()}
    note, run = encode(b"note"), fields["runs"][3][0]
    one = fields["blob"][1]

    def put(name: str, short: bytes, long: bytes) -> tuple[bytes, str]:
        data = whole[name]
        assert data.count(short) == 1
        return data.replace(short, long), _ENCODING

    after = {
        f"a byte after a {name} frame": (data + b"\0", _ENCODING) for name, data in whole.items()
    }
    cut = {
        f"a {name} frame without its last byte": (data[:-1], _ENCODING)
        for name, data in whole.items()
    }
    head = encode(run[:3])[1:]
    return {
        **after, **cut,
        "type 16 as u8": (b"\x94\xcc" + whole["runs"][1:], _ENCODING),
        "type 17 as u16": (b"\x94\xcd\0" + whole["want_blob"][1:], _ENCODING),
        "a checkpoint of runs as bin 16": put("runs", note, b"\xc5\0\4note"),
        "an id size as u8": put("runs", head, head[:-1] + b"\xcc\x08"),
        "the first of a run as u32": put("runs", head, b"\xce\0\0\0" + head),
        "envelopes of a run as bin 16": put(
            "runs", b"\xc4" + bytes([2 * SHORT]), b"\xc5\0" + bytes([2 * SHORT])
        ),
        "an empty proof of a run as array 16": (whole["runs"][:-1] + b"\xdc\0\0", _ENCODING),
        "a count of chunks as u8": (whole["want_blob"][:-1] + b"\xcc\2", _ENCODING),
        "the first chunk as i8": (whole["want_blob"][:-2] + b"\xd0\3\2", _ENCODING),
        "a chunk as bin 16": put("blob", encode(b"chunk"), b"\xc5\0\5chunk"),
        "a chunk as bin 32": put("blob", encode(b"chunk"), b"\xc6\0\0\0\5chunk"),
        "a proof of a chunk as array 16": put("blob", b"chunk\x92", b"chunk\xdc\0\2"),
        "an id of a no_blob as bin 16": put("no_blob", b"\xc4\x20" + one, b"\xc5\0\x20" + one),
        "a no_blob as a map": (b"\x81\xa7no_blob\xc4\x20" + one, _ENCODING),
    }  # fmt: skip


# --- attachments -----------------------------------------------------------------------------
COUNTING: Final = bytes(range(256))
KEY: Final = seed("blob", "key")


def file_of(size: int) -> bytes:
    """Return a file of *size* bytes that count from 0 to 255, over and over."""
    return (COUNTING * (size // 256 + 1))[:size]


class Sealed:
    """The blob of one file."""

    def __init__(self, size: int, key: bytes = KEY) -> None:
        self.size, self.key = size, key
        self.cipher, plain = ChunkCipher(key, size), file_of(size)
        self.padded, self.count = self.cipher.padded, self.cipher.count
        self.chunks = [
            self.cipher.seal(i, plain[i * BLOB_CHUNK : (i + 1) * BLOB_CHUNK])
            for i in range(self.count)
        ]
        self.id, self._nodes = grow_tree([chunk_hash(self.padded, data) for data in self.chunks])

    def last(self, **changes: object) -> bytes:
        """Return the payload with the last chunk, some of its fields changed."""
        index = self.count - 1
        proof = [
            self._nodes[place * HASH : (place + 1) * HASH]
            for place in proof_places(index, self.count)
        ]
        fields = {"blob_id": self.id, "index": index, "data": self.chunks[-1], "proof": proof}
        return encode([18, *(fields | changes).values()])

    @property
    def proof(self) -> list[bytes]:
        """Return the proof of the last chunk."""
        fields = decode(self.last(), max_bytes=limits.MAX_FRAME)
        assert isinstance(fields, list) and isinstance(fields[4], list)
        return [hash_ for hash_ in fields[4] if isinstance(hash_, bytes)]

    def forged(self, index: int, plain: bytes) -> bytes:
        """Return a chunk around *plain*, whatever that is."""
        key = suite.derive(self.key, "blob", self.size.to_bytes(8, "big"))
        return AESGCM(key).encrypt(index.to_bytes(12, "big"), plain, None)


def _flip(data: bytes, at: int) -> bytes:
    return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]


def unproven(blob: Sealed, other: Sealed) -> dict[str, tuple[bytes, int, str]]:
    """Return payloads that are not what a reader of *blob* asked for, with its padded size."""
    data, proof, padded = blob.chunks[-1], blob.proof, blob.padded
    changed: dict[str, tuple[dict[str, object], str]] = {
        "a chunk beyond the blob": ({"index": blob.count}, _ENCODING),
        "the last chunk in the place of a longer one": ({"index": blob.count - 2}, _ENCODING),
        "a chunk without its last byte": ({"data": data[:-1]}, _ENCODING),
        "a chunk with a byte too many": ({"data": data + b"\0"}, _ENCODING),
        "a chunk of nothing but a tag": ({"data": data[-16:]}, _ENCODING),
        "the first byte of a chunk changed": ({"data": _flip(data, 0)}, "bad-proof"),
        "the tag of a chunk changed": ({"data": _flip(data, len(data) - 1)}, "bad-proof"),
        "the first hash changed": ({"proof": [_flip(proof[0], 0), *proof[1:]]}, "bad-proof"),
        "the last hash changed": ({"proof": [*proof[:-1], _flip(proof[-1], 31)]}, "bad-proof"),
        "a hash of a chunk left out": ({"proof": proof[:-1]}, "bad-proof"),
        "a hash of a chunk too many": ({"proof": [*proof, bytes(HASH)]}, "bad-proof"),
        "the hashes of a chunk exchanged": ({"proof": proof[::-1]}, "bad-proof"),
        "no hashes": ({"proof": []}, "bad-proof"),
        "the id of another blob": ({"blob_id": other.id}, "bad-proof"),
        "the chunk of another blob": ({"data": other.chunks[-1]}, "bad-proof"),
        "the chunk and the proof of another blob": (
            {"data": other.chunks[-1], "proof": other.proof}, "bad-proof",
        ),
    }  # fmt: skip
    length = len(data) - 16
    alone = blob.last(index=0, proof=[])
    return {
        **{name: (blob.last(**each), padded, code) for name, (each, code) in changed.items()},
        "a chunk of a blob of another size": (blob.last(), padded + 4_096, _ENCODING),
        "a chunk passed off as a blob of its own": (alone, length, "bad-proof"),
        "a chunk of no bytes behind the last": (
            blob.last(index=1, data=data[-16:], proof=[]), BLOB_CHUNK, _ENCODING,
        ),
    }  # fmt: skip


def unopened(blob: Sealed) -> dict[str, tuple[bytes, str, int]]:
    """Return payloads that do not open with the named key and size."""
    data, size, index = blob.chunks[-1], blob.size, blob.count - 1
    plain = blob.cipher.open(index, data).ljust(len(data) - 16, b"\0")
    loud = (_flip(plain, len(plain) - 1), _flip(plain, size % BLOB_CHUNK))
    return {
        "another key": (blob.last(), "other_key", size),
        "a file of one byte less": (blob.last(), "key", size - 1),
        "a file of one byte more": (blob.last(), "key", size + 1),
        "a file of the padded size": (blob.last(), "key", blob.padded),
        "a chunk opened in another place": (blob.last(index=index - 1), "key", size),
        "a chunk opened beyond the blob": (blob.last(index=index + 1), "key", size),
        "a chunk opened with a byte changed": (blob.last(data=_flip(data, 9)), "key", size),
        "a chunk opened with another tag": (
            blob.last(data=_flip(data, len(data) - 1)), "key", size,
        ),
        "a chunk opened without its last byte": (blob.last(data=data[:-1]), "key", size),
        "a chunk opened without its tag": (blob.last(data=data[:15]), "key", size),
        "padding whose last byte is not zero": (
            blob.last(data=blob.forged(index, loud[0])), "key", size,
        ),
        "padding whose first byte is not zero": (
            blob.last(data=blob.forged(index, loud[1])), "key", size,
        ),
    }  # fmt: skip
