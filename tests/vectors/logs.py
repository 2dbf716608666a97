"""What ``generate`` says of logs: frames 24 to 33, witnesses, consistency, evidence of a rewrite.

Each function returns inputs by the name of their case, with a code or with what is expected.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, TypeAlias

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.mldsa import MLDSA44PrivateKey

from protocol import limits, merkle
from protocol.canonical import decode, encode
from protocol.checkpoint import Checkpoint, format_body, sign_checkpoint
from protocol.cosignatures import add_signatures
from protocol.frames import Frame, encode_frame
from protocol.log_fork import LogFork, encode_log_fork, make_log_fork
from protocol.log_frames import (
    Consistency,
    Cosign,
    Cosigned,
    Head,
    Heads,
    LogForked,
    LogFrame,
    LogPart,
    WantConsistency,
    WantHead,
    WantLog,
)
from protocol.note import Note, NoteSignature, format_note, parse_note
from protocol.statement import NamedKeys
from protocol.witness import AddCheckpoint, cosign, format_add_checkpoint
from tests.factories import NOW, make_node, seed

Json: TypeAlias = dict[str, Any]
Refused: TypeAlias = dict[str, tuple[bytes | Json, str]]

HASH: Final = 32
_ENCODING, _LIMIT, _FRAME = "bad-encoding", "over-limit", "bad-frame"
_PROOF, _SIGNATURE = "bad-proof", "bad-signature"
_FIELDS: Final = {
    24: "cosign", 25: "cosigned", 26: "heads", 27: "want_head", 28: "head",
    29: "want_consistency", 30: "consistency", 31: "log_forked", 32: "want_log", 33: "log_part",
}  # fmt: skip


# --- frames ----------------------------------------------------------------------------------
def of_each(node: bytes, peer: bytes, one: bytes) -> dict[str, tuple[Frame, Json]]:
    """Return one frame of each type, and its fields as the files have them."""
    low, high = sorted((node, peer))
    frames: dict[str, LogFrame] = {
        "cosign": Cosign(b"old 0\n\nnote"),
        "cosigned": Cosigned(409, b"12\n"),
        "heads": Heads(((low, 7, one), (high, 2**48, node))),
        "want_head": WantHead(peer, 7),
        "head": Head(peer, b"note"),
        "want_consistency": WantConsistency(7, (1, 4, 6)),
        "consistency": Consistency(7, ((1, (node, peer)), (4, (one, node)), (6, ()))),
        "log_forked": LogForked(peer, b"proof"),
        "want_log": WantLog("tile/0/x001/x234/067.p/5"),
        "log_part": LogPart("tile/0/000.p/1", node),
    }
    return {name: (frame, plain(frame)) for name, frame in frames.items()}


def plain(frame: LogFrame) -> Json:
    """Return the fields of a frame as the files have them: nil, where there is nothing."""
    shown = {name: _plain(getattr(frame, name)) for name in frame.__slots__}
    return {name: None if value == "" else value for name, value in shown.items()}


def _plain(value: object) -> object:
    if isinstance(value, bytes):
        return value.hex()
    return [_plain(item) for item in value] if isinstance(value, tuple) else value


def at_the_bounds(node: bytes) -> dict[str, tuple[bytes | Json, Json]]:
    """Return payloads that go as far as is allowed, and their fields."""
    frames: dict[str, LogFrame] = {
        "a cosigned frame of nothing": Cosigned(403, b""),
        "a cosigned frame of 16384 bytes": Cosigned(599, bytes(limits.MAX_COSIGNED)),
        "a head of nothing": Head(node, b""),
        "a head of 16384 bytes": Head(node, bytes(limits.MAX_SIGNED_HEAD)),
        "a request of 200704 bytes": Cosign(bytes(limits.MAX_ADD_CHECKPOINT)),
        "256 heads": Heads(
            tuple((n.to_bytes(HASH, "big"), 1, bytes(HASH)) for n in range(limits.MAX_HEADS))
        ),
        "the consistency of a size with itself is a frame": WantConsistency(2**48, (2**48,)),
        "no consistency": Consistency(1, ()),
        "a resource that there is not": LogPart("tile/7/999", b""),
        "a path that names nothing is a frame": WantLog("../" * 42),
        "a resource of 196608 bytes": LogPart("checkpoint", bytes(limits.MAX_LOG_PART)),
        "evidence of 397312 bytes is a frame": LogForked(node, bytes(limits.MAX_LOG_FORK)),
    }
    parts = [["931e40dc0040", 1]]
    for old in range(1, limits.MAX_CONSISTENCY_PROOFS + 1):
        parts += [[f"92{old:02x}dc0040", 1], [encode(bytes(HASH)).hex(), limits.MAX_PROOF]]
    return {
        **{name: (encode_frame(frame), _bounded(frame)) for name, frame in frames.items()},
        "64 proofs of 64 hashes": ({"repeat": parts}, {"type": "consistency", "size": 64}),
    }


def _bounded(frame: LogFrame) -> Json:
    """Return what is expected of a frame; of long ones little."""
    number = _list(encode_frame(frame))[0]
    shown = {name: value for name, value in plain(frame).items() if len(str(value)) < 200}
    return {"type": _FIELDS[number], **shown}


def refused(frames: Mapping[str, tuple[Frame, Json]]) -> Refused:
    """Return payloads of types 24 to 33 that are refused, and of those beside them."""
    fields = {name: _list(encode_frame(frames[name][0])) for name in _FIELDS.values()}
    found: Refused = {
        "type 23": (encode([23, bytes(HASH)]), _FRAME),
        "type 34": (encode([34, bytes(HASH)]), _FRAME),
    }
    for name, each in fields.items():
        found |= {
            f"a {name} frame that lacks its last field": (encode(each[:-1]), _ENCODING),
            f"a {name} frame with a field more": (encode([*each, 0]), _ENCODING),
            f"a byte after a {name} frame": (encode(each) + b"\0", _ENCODING),
            f"a {name} frame without its last byte": (encode(each)[:-1], _ENCODING),
        }
    for name, at, value, kind, code in _CHANGES:
        each = fields[name]
        found[f"a {name} frame with {kind}"] = (
            encode([*each[:at], value, *each[at + 1 :]]), code,
        )  # fmt: skip
    return found | _lists_refused(fields)


def _lists_refused(fields: Mapping[str, list[Any]]) -> Refused:
    first, second = fields["heads"][1]
    one, four = fields["consistency"][2][:2]

    def heads(*items: object) -> bytes:
        return encode([26, list(items)])

    def olds(*sizes: object) -> bytes:
        return encode([29, 7, list(sizes)])

    def proofs(*items: object) -> bytes:
        return encode([30, 7, list(items)])

    many = [[n.to_bytes(HASH, "big"), 1, bytes(HASH)] for n in range(257)]
    return {
        "no heads": (heads(), _ENCODING),
        "257 heads": (heads(*many), _LIMIT),
        "heads descending": (heads(second, first), _FRAME),
        "a head twice": (heads(first, first), _FRAME),
        "two heads of one node": (heads(first, [first[0], 8, first[2]]), _FRAME),
        "a head of two fields": (heads(first[:2]), _ENCODING),
        "a head of four fields": (heads([*first, 0]), _ENCODING),
        "a head of size 0": (heads([first[0], 0, first[2]]), _ENCODING),
        "a head of size 2^48 + 1": (heads([first[0], 2**48 + 1, first[2]]), _ENCODING),
        "a head of size true": (heads([first[0], True, first[2]]), _ENCODING),
        "a head of a node of 31 bytes": (heads([first[0][1:], 7, first[2]]), _ENCODING),
        "a head with a root of 33 bytes": (heads([*first[:2], bytes(33)]), _ENCODING),
        "a head with nil for a root": (heads([*first[:2], None]), _ENCODING),
        "no consistency wanted": (olds(), _ENCODING),
        "consistency wanted with size 0": (olds(0), _ENCODING),
        "consistency wanted with a larger size": (olds(8), _ENCODING),
        "consistency wanted descending": (olds(4, 1), _FRAME),
        "consistency wanted twice": (olds(4, 4), _FRAME),
        "consistency wanted with a text": (olds("4"), _ENCODING),
        "65 consistency proofs wanted": (encode([29, 99, list(range(1, 66))]), _LIMIT),
        "a consistency proof of size 0": (proofs([0, []]), _ENCODING),
        "a consistency proof of a larger size": (proofs([8, []]), _ENCODING),
        "consistency proofs descending": (proofs(four, one), _FRAME),
        "a consistency proof twice": (proofs(one, one), _FRAME),
        "a consistency proof of one field": (proofs([1]), _ENCODING),
        "a consistency proof of three fields": (proofs([*one, 0]), _ENCODING),
        "a consistency proof of 65 hashes": (proofs([1, [bytes(HASH)] * 65]), _LIMIT),
        "a consistency proof with a hash of 31 bytes": (proofs([1, [bytes(31)]]), _ENCODING),
        "a consistency proof in one piece": (proofs([1, bytes(2 * HASH)]), _ENCODING),
        "a consistency proof of nil": (proofs([1, None]), _ENCODING),
        "65 consistency proofs": (encode([30, 99, [[n, []] for n in range(1, 66)]]), _LIMIT),
    }


_CHANGES: Final[tuple[tuple[str, int, object, str, str], ...]] = (
    ("cosign", 1, b"", "an empty request", _ENCODING),
    ("cosign", 1, None, "nil for a request", _ENCODING),
    ("cosign", 1, "old 0", "a request as text", _ENCODING),
    ("cosign", 1, bytes(limits.MAX_ADD_CHECKPOINT + 1), "a request of 200705 bytes", _LIMIT),
    ("cosigned", 1, 199, "status 199", _ENCODING),
    ("cosigned", 1, 600, "status 600", _ENCODING),
    ("cosigned", 1, "200", "a status as text", _ENCODING),
    ("cosigned", 1, None, "nil for a status", _ENCODING),
    ("cosigned", 2, b"", "an empty body", _ENCODING),
    ("cosigned", 2, "12", "a body as text", _ENCODING),
    ("cosigned", 2, bytes(limits.MAX_COSIGNED + 1), "a body of 16385 bytes", _LIMIT),
    ("heads", 1, None, "nil for its heads", _ENCODING),
    ("heads", 1, b"heads", "bytes for its heads", _ENCODING),
    ("want_head", 1, bytes(31), "a node of 31 bytes", _ENCODING),
    ("want_head", 1, None, "nil for a node", _ENCODING),
    ("want_head", 2, 0, "size 0", _ENCODING),
    ("want_head", 2, -1, "size -1", _ENCODING),
    ("want_head", 2, 2**48 + 1, "size 2^48 + 1", _ENCODING),
    ("want_head", 2, None, "nil for a size", _ENCODING),
    ("head", 1, bytes(33), "a node of 33 bytes", _ENCODING),
    ("head", 2, b"", "an empty note", _ENCODING),
    ("head", 2, "note", "a note as text", _ENCODING),
    ("head", 2, bytes(limits.MAX_SIGNED_HEAD + 1), "a note of 16385 bytes", _LIMIT),
    ("want_consistency", 1, 0, "size 0", _ENCODING),
    ("want_consistency", 1, 2**48 + 1, "size 2^48 + 1", _ENCODING),
    ("want_consistency", 1, 5, "a size below the last one asked for", _ENCODING),
    ("want_consistency", 2, None, "nil for its sizes", _ENCODING),
    ("consistency", 1, 0, "size 0", _ENCODING),
    ("consistency", 1, True, "size true", _ENCODING),
    ("consistency", 1, 5, "a size below the last one proven", _ENCODING),
    ("consistency", 2, None, "nil for its proofs", _ENCODING),
    ("consistency", 2, {}, "a map for its proofs", _ENCODING),
    ("log_forked", 1, bytes(31), "a node of 31 bytes", _ENCODING),
    ("log_forked", 1, "a" * HASH, "a node as text", _ENCODING),
    ("log_forked", 2, b"", "no evidence", _ENCODING),
    ("log_forked", 2, None, "nil for evidence", _ENCODING),
    ("log_forked", 2, bytes(limits.MAX_LOG_FORK + 1), "evidence of 397313 bytes", _LIMIT),
    ("want_log", 1, "", "an empty path", _ENCODING),
    ("want_log", 1, b"checkpoint", "a path as bytes", _ENCODING),
    ("want_log", 1, "tile/0/000\n", "a newline in its path", _ENCODING),
    ("want_log", 1, None, "nil for a path", _ENCODING),
    ("want_log", 1, "a" * (limits.MAX_LOG_PATH + 1), "a path of 129 characters", _LIMIT),
    ("log_part", 1, "", "an empty path", _ENCODING),
    ("log_part", 1, "a" * (limits.MAX_LOG_PATH + 1), "a path of 129 characters", _LIMIT),
    ("log_part", 2, b"", "an empty body", _ENCODING),
    ("log_part", 2, "tile", "a body as text", _ENCODING),
    ("log_part", 2, bytes(limits.MAX_LOG_PART + 1), "a body of 196609 bytes", _LIMIT),
)  # fmt: skip


def _list(data: bytes) -> list[Any]:
    value = decode(data, max_bytes=limits.MAX_FRAME)
    assert isinstance(value, list)
    return value


# --- a log and its rewritten copy --------------------------------------------------------------
class Tree:
    """A log of alder with seven entries, whose name begins each of them."""

    def __init__(self, name: str) -> None:
        leaves = [merkle.leaf_hash(f"{name} {n}".encode()) for n in range(7)]
        grown = merkle.append(size=0, new_leaves=leaves, reader=self)
        self.tiles = {(level, index): data for level, index, data in grown.tiles}

    def read_tiles(self, keys: Sequence[tuple[int, int]]) -> Mapping[tuple[int, int], bytes]:
        """Return the stored bytes of each tile in *keys*."""
        return {key: self.tiles[key] for key in keys}

    def root(self, size: int) -> bytes:
        """Return the root of the first *size* entries."""
        return merkle.root(size, self)

    def path(self, old: int, new: int = 7) -> tuple[bytes, ...]:
        """Return the path that leads to the roots of both sizes."""
        return merkle.prove_prefix(old, new, self)

    def consistency(self, old: int, new: int = 7) -> tuple[bytes, ...]:
        """Return the consistency proof of RFC 6962."""
        return merkle.prove_consistency(old, new, self)


@dataclass(frozen=True)
class _Signer:
    """The keys of a log."""

    name: str
    ed25519: Ed25519PrivateKey
    mldsa44: MLDSA44PrivateKey

    @property
    def public(self) -> NamedKeys:
        return NamedKeys(
            self.name, self.ed25519.public_key().public_bytes_raw(),
            self.mldsa44.public_key().public_bytes_raw(),
        )  # fmt: skip

    def note(self, size: int, root: bytes) -> bytes:
        return sign_checkpoint(
            Checkpoint(self.name, size, root), ed25519=self.ed25519, mldsa44=self.mldsa44,
            now_s=NOW // 1_000,
        )  # fmt: skip


def _signer(node: str, name: str | None = None) -> _Signer:
    made = make_node(node)
    return _Signer(name or made.card.log.name, made.log_ed25519, made.log_mldsa44)


class Scene:
    """What alder signed of its log, and of another beginning of it."""

    def __init__(self) -> None:
        self.true, self.other = Tree("entry"), Tree("rewritten")
        self.alder, self.cedar = _signer("alder"), _signer("cedar")
        self.elder = _signer("birch", self.alder.name)
        self.notes = {n: self.alder.note(n, self.true.root(n)) for n in (3, 4, 7)}
        self.rewritten = {n: self.alder.note(n, self.other.root(n)) for n in (3, 4, 7)}
        empty = self.alder.note(0, self.true.root(1))
        self.forks = {
            "fork": make_log_fork(self.rewritten[4], self.notes[7], self.true.path(4)),
            "fork_of_three": make_log_fork(self.notes[7], self.rewritten[3], self.true.path(3)),
            "fork_of_one_size": make_log_fork(self.rewritten[7], self.notes[7]),
            "fork_of_nothing": make_log_fork(empty, self.notes[7]),
        }
        self.old_keys = make_log_fork(
            self.elder.note(4, self.other.root(4)), self.notes[7], self.true.path(4)
        )

    def given(self) -> Json:
        """Return what the cases share."""
        logs = {"log": self.alder, "older_log": self.elder, "other_log": self.cedar}
        shown = {
            name: [s.public.name, s.public.ed25519.hex(), s.public.mldsa44.hex()]
            for name, s in logs.items()
        }
        evidence = {name: encode_log_fork(fork).hex() for name, fork in self.forks.items()}
        return {
            **shown, **evidence, "fork_of_two_keys": encode_log_fork(self.old_keys).hex(),
            "request": self.request(4, 7).hex(), "first_request": self.request(0, 3).hex(),
            "same_request": self.request(7, 7).hex(),
            "rewritten_request": self.rewritten_request().hex(),
        }  # fmt: skip

    def request(self, old: int, size: int) -> bytes:
        """Return what alder says to a witness that cosigned *old* before."""
        proof = self.true.consistency(old, size)
        return format_add_checkpoint(AddCheckpoint(old, proof, self.notes[size]))

    def rewritten_request(self) -> bytes:
        """Return a request for the rewritten log, with a proof that leads to its root."""
        proof = self.other.consistency(3)
        return format_add_checkpoint(AddCheckpoint(3, proof, self.rewritten[7]))


RANDOMISED: Final = (
    *(f"/given/fork{name}" for name in ("", "_of_three", "_of_one_size", "_of_nothing",
                                        "_of_two_keys")),
    *(f"/given/{name}request" for name in ("", "first_", "same_", "rewritten_")),
    "/cases/*/input/splices", "/cases/*/expect/digest",
)  # fmt: skip


# --- evidence --------------------------------------------------------------------------------
def forks(scene: Scene) -> dict[str, tuple[str, bytes, list[str], Json]]:
    """Return evidence that is right: what it is given as, its bytes, whose logs, what it shows."""
    found = {}
    for title, name, sizes in (
        ("another beginning, of a size that is a power of two", "fork", [4, 7]),
        ("another beginning, of another size", "fork_of_three", [3, 7]),
        ("two roots of one size", "fork_of_one_size", [7, 7]),
        ("a root of nothing that is not the empty one", "fork_of_nothing", [0, 7]),
    ):
        found[title] = (name, encode_log_fork(scene.forks[name]), ["log"], {"sizes": sizes})
    base = scene.forks["fork"]
    line = parse_note(base.first).signatures[0]
    strange = replace(line, key_id=bytes(4))
    more = replace(base, first=_with(base.first, strange, strange))
    whole = encode_log_fork(base)
    found["lines of an unknown key under the name of the log, twice"] = (
        "fork", encode_log_fork(more), ["log"], {"sizes": [4, 7]},
    )  # fmt: skip
    found["of a log whose keys stand behind those of others"] = (
        "fork", whole, ["other_log", "older_log", "log"], {"sizes": [4, 7]},
    )  # fmt: skip
    found["each signed with other keys that the log has had"] = (
        "fork_of_two_keys", encode_log_fork(scene.old_keys), ["log", "older_log"],
        {"sizes": [4, 7]},
    )  # fmt: skip
    return {
        name: (given, data, logs, {**expect, "origin": scene.alder.name, "digest": ""})
        for name, (given, data, logs, expect) in found.items()
    }


def _with(note: bytes, *lines: NoteSignature) -> bytes:
    parsed = parse_note(note)
    return format_note(Note(parsed.text, (*parsed.signatures, *lines)))


def _only(note: bytes, at: int) -> bytes:
    parsed = parse_note(note)
    return format_note(Note(parsed.text, (parsed.signatures[at],)))


def _spoilt(note: bytes, at: int) -> bytes:
    parsed = parse_note(note)
    lines = list(parsed.signatures)
    data = lines[at].signature
    lines[at] = replace(lines[at], signature=data[:-1] + bytes([data[-1] ^ 1]))
    return format_note(Note(parsed.text, tuple(lines)))


def forks_refused(scene: Scene) -> dict[str, tuple[bytes, list[str], str]]:
    """Return what is no evidence: its bytes, whose logs, and the code."""
    base, same = scene.forks["fork"], scene.forks["fork_of_one_size"]
    three, empty = scene.forks["fork_of_three"], scene.forks["fork_of_nothing"]
    true = scene.true

    def having(fork: LogFork = base, **changes: Any) -> bytes:  # noqa: ANN401
        return encode_log_fork(replace(fork, **changes))

    honest = having(first=scene.notes[4])
    cosigned = add_signatures(base.first, cosign(
        Checkpoint(scene.alder.name, 4, scene.other.root(4)), name="birch/witness",
        ed25519=Ed25519PrivateKey.from_private_bytes(seed("birch", "witness")),
        mldsa44=MLDSA44PrivateKey.from_seed_bytes(seed("birch", "wit44")), now_s=9,
    ))  # fmt: skip
    bare = format_note(Note(parse_note(base.first).text, parse_note(cosigned).signatures[2:]))
    fields = [base.first, base.second, list(base.proof)]
    elsewhere = scene.cedar.note(4, scene.other.root(4))
    path = base.proof
    bad: dict[str, tuple[bytes, str]] = {
        "a tree that holds the first as it should": (honest, _PROOF),
        "the same head twice": (having(same, first=same.second), _PROOF),
        "one size, the larger root first": (
            having(same, first=same.second, second=same.first), _PROOF,
        ),
        "the larger size first": (having(first=base.second, second=base.first), _PROOF),
        "one size and a path": (having(same, proof=path), _PROOF),
        "another beginning without a path": (having(proof=()), _PROOF),
        "a path without the hash that RFC 6962 leaves out": (
            having(proof=true.consistency(4)), _PROOF,
        ),
        "a path of another size": (having(proof=true.path(3)), _PROOF),
        "a path that lacks its last hash": (having(proof=path[:-1]), _PROOF),
        "a path with a hash too many": (having(proof=(*path, bytes(HASH))), _PROOF),
        "a path with its first hash changed": (having(proof=(bytes(HASH), *path[1:])), _PROOF),
        "a path with its last hash changed": (having(proof=(*path[:-1], bytes(HASH))), _PROOF),
        "the path of the rewritten log": (having(proof=scene.other.path(4)), _PROOF),
        "three entries that are those of the log": (having(three, first=scene.notes[3]), _PROOF),
        "the empty tree": (having(empty, first=scene.alder.note(0, merkle.EMPTY_ROOT)), _PROOF),
        "a root of nothing and a path": (having(empty, proof=path), _PROOF),
        "heads of two logs": (having(first=elsewhere), _PROOF),
        "a first head without its Ed25519 signature": (
            having(first=_only(base.first, 1)), _SIGNATURE,
        ),
        "a second head without its ML-DSA-44 signature": (
            having(second=_only(base.second, 0)), _SIGNATURE,
        ),
        "a first head with a changed Ed25519 signature": (
            having(first=_spoilt(base.first, 0)), _SIGNATURE,
        ),
        "a second head with a changed ML-DSA-44 signature": (
            having(second=_spoilt(base.second, 1)), _SIGNATURE,
        ),
        "a first head that another log signed under this name": (
            having(first=scene.elder.note(4, scene.other.root(4))), _SIGNATURE,
        ),
        "a line of a known key twice": (
            having(first=_with(base.first, parse_note(base.first).signatures[0])), _ENCODING,
        ),
        "a head with lines of a witness": (having(first=cosigned), _ENCODING),
        "a head with lines of a witness alone": (having(first=bare), _ENCODING),
        "a head with an extension line": (
            having(second=base.second.replace(b"\n\n", b"\nmore\n\n", 1)), _ENCODING,
        ),
        "a head without its last newline": (having(second=base.second[:-1]), _ENCODING),
        "two heads without path": (encode(fields[:2]), _ENCODING),
        "evidence of four fields": (encode([*fields, 0]), _ENCODING),
        "a byte after evidence": (encode(fields) + b"\0", _ENCODING),
        "a head as text": (encode(["note", *fields[1:]]), _ENCODING),
        "a head of no byte": (encode([b"", *fields[1:]]), _ENCODING),
        "a path in one piece": (encode([*fields[:2], b"".join(path)]), _ENCODING),
        "a path with a hash of 31 bytes": (encode([*fields[:2], [bytes(31)]]), _ENCODING),
        "a path of 65 hashes": (encode([*fields[:2], [bytes(HASH)] * 65]), _LIMIT),
    }  # fmt: skip
    found = {name: (data, ["log"], code) for name, (data, code) in bad.items()}
    whole = encode_log_fork(base)
    return found | {
        "evidence against a log that is not known": (whole, ["other_log"], _SIGNATURE),
        "evidence against nobody": (whole, [], _SIGNATURE),
    }


def forks_too_long() -> Refused:
    """Return evidence beyond its bounds, by itself."""
    return {
        "no evidence at all": (b"", _ENCODING),
        "evidence of 397313 bytes": (bytes(limits.MAX_LOG_FORK + 1), _LIMIT),
        "a head of 196609 bytes": (
            encode([bytes(limits.MAX_NOTE + 1), b"note", []]), _LIMIT,
        ),
    }  # fmt: skip


# --- consistency -----------------------------------------------------------------------------
def consistencies(scene: Scene) -> tuple[list[Json], Refused]:
    """Return what is expected of frames that alder sends, each with its payload, and refusals."""
    true, head = scene.true, scene.true.root(7)
    whole = Consistency(7, tuple((n, true.path(n)) for n in range(1, 7)))
    other = scene.other
    accepted: list[tuple[str, Consistency, bytes, Tree]] = [
        ("each size before seven", whole, head, true),
        ("nothing that was asked for", Consistency(7, ()), head, true),
        ("four before seven", Consistency(7, ((4, true.path(4)),)), head, true),
        ("a rewritten log shows its other beginning",
         Consistency(7, ((4, other.path(4)),)), other.root(7), other),
    ]  # fmt: skip
    shown = [
        {"name": name, "payload": encode_frame(frame), "head": root.hex(),
         "roots": [[old, tree.root(old).hex()] for old, _ in frame.items]}
        for name, frame, root, tree in accepted
    ]  # fmt: skip

    def one(old: int, path: Sequence[bytes], size: int = 7) -> bytes:
        return encode_frame(Consistency(size, ((old, tuple(path)),)))

    four = true.path(4)
    return shown, {
        "four before seven without the hash that RFC 6962 leaves out": (one(4, four[1:]), _PROOF),
        "three before seven with the root of the three in front": (
            one(3, (true.root(3), *true.path(3))), _PROOF,
        ),
        "no hashes before seven": (one(4, ()), _PROOF),
        "seven before seven": (one(7, ()), _PROOF),
        "the path of five for four": (one(4, true.path(5)), _PROOF),
        "four before six under a head of seven": (one(4, true.path(4, 6), 6), _PROOF),
        "the hashes before seven exchanged": (one(4, four[::-1]), _PROOF),
        "a hash before seven changed": (one(4, (*four[:-1], bytes(HASH))), _PROOF),
        "a hash before seven too many": (one(4, (*four, bytes(HASH))), _PROOF),
        "a path of the rewritten log": (one(4, other.path(4)), _PROOF),
        "one good path and one bad": (
            encode_frame(Consistency(7, ((3, true.path(3)), (4, true.path(4)[1:])))), _PROOF,
        ),
    }  # fmt: skip


# --- witnesses -------------------------------------------------------------------------------
@dataclass(frozen=True)
class Asked:
    """One request to a witness: what it is made from, what was cosigned before, the answer."""

    given: str
    body: bytes
    seen: tuple[int, bytes] | None
    status: int
    size: int | None = None
    conflict: bool = False
    logs: tuple[str, ...] = ("log",)


def asked(scene: Scene) -> dict[str, Asked]:
    """Return requests, and how a witness answers each of them."""
    true, other, notes = scene.true, scene.other, scene.notes
    request, first, same = scene.request(4, 7), scene.request(0, 3), scene.request(7, 7)
    wrong = scene.rewritten_request()
    three, four, seven = ((n, true.root(n)) for n in (3, 4, 7))

    def body(old: object, note: bytes, proof: Sequence[bytes]) -> bytes:
        lines = b"".join(base64.b64encode(each) + b"\n" for each in proof)
        return f"old {old}\n".encode() + lines + b"\n" + note

    proof = true.consistency(4)
    line = base64.b64encode(proof[0])
    found = {
        "the first head of a log": Asked("first_request", first, None, 200),
        "a log that grew": Asked("request", request, four, 200),
        "the same head again": Asked("same_request", same, seven, 200),
        "from nothing to all of it": Asked("request", body(0, notes[7], ()), None, 200),
        "lines of unknown keys are let pass": Asked(
            "request", request + b"\xe2\x80\x94 else.example AAAAAAAA\n" * 2, four, 200,
        ),
        "the keys of one of two logs": Asked(
            "request", request, four, 200, logs=("older_log", "log"),
        ),
        # What was cosigned is another size than the request builds on.
        "the first head where more was cosigned": Asked("first_request", first, four, 409, 4),
        "a log that grew from what this witness has not seen": Asked(
            "request", request, None, 409, 0,
        ),
        "a log that grew from less than was cosigned": Asked("request", request, seven, 409, 7),
        "an older head than was cosigned": Asked(
            "first_request", body(3, notes[3], ()), four, 409, 4,
        ),
        "a head of a cosigned size with another root, from another size": Asked(
            "request", request, (7, other.root(7)), 409, 7, conflict=True,
        ),
        "the old size above the new one": Asked(
            "first_request", body(4, notes[3], ()), four, 400,
        ),
        # Proofs that do not fit.
        "the same size with another root": Asked(
            "same_request", same, (7, other.root(7)), 422, conflict=True,
        ),
        "the same size with a proof": Asked(
            "same_request", body(7, notes[7], proof), seven, 422,
        ),
        "from nothing with a proof": Asked("first_request", body(0, notes[3], proof), None, 422),
        "a proof that lacks a hash": Asked("request", body(4, notes[7], proof[:-1]), four, 422),
        "a proof with a hash too many": Asked(
            "request", body(4, notes[7], (*proof, bytes(HASH))), four, 422,
        ),
        "a proof with the old root in front": Asked(
            "request", body(4, notes[7], true.path(4)), four, 422,
        ),
        "no proof": Asked("request", body(4, notes[7], ()), four, 422),
        "a rewritten log with the proof of its own": Asked(
            "rewritten_request", wrong, three, 422, conflict=True,
        ),
        "a rewritten log with a spoilt proof": Asked(
            "rewritten_request", body(3, scene.rewritten[7], (bytes(HASH),) * 4), three, 422,
        ),
        "an empty log with another root than the empty one": Asked(
            "first_request", body(0, scene.alder.note(0, true.root(1)), ()), None, 422,
        ),
        # Who signed.
        "a log that is not known": Asked("request", request, four, 404, logs=()),
        "a log of which other keys are known": Asked(
            "request", request, four, 403, logs=("older_log",),
        ),
        "without the log's ML-DSA-44 signature": Asked(
            "request", body(4, _only(notes[7], 0), proof), four, 403,
        ),
        "without the log's Ed25519 signature": Asked(
            "request", body(4, _only(notes[7], 1), proof), four, 403,
        ),
        "with a changed signature of the log": Asked(
            "request", body(4, _spoilt(notes[7], 0), proof), four, 403,
        ),
        "with a signature of the log twice": Asked(
            "request", body(4, _with(notes[7], parse_note(notes[7]).signatures[0]), proof),
            four, 403,
        ),
    }  # fmt: skip
    malformed = {
        "no request": b"",
        "no empty line before the head": request.replace(b"\n\n", b"\n", 1),
        "two empty lines before the head": request.replace(b"\n\n", b"\n\n\n", 1),
        "no head": body(4, b"", proof),
        "an old size with a leading zero": body("04", notes[7], proof),
        "an old size with a sign": body("+4", notes[7], proof),
        "an old size with a space": body(" 4", notes[7], proof),
        "an old size of -1": body(-1, notes[7], proof),
        "an old size of 17 digits": body(10**16, notes[7], proof),
        "a keyword in capitals": b"OLD" + request[3:],
        "Windows line ends in a request": request.replace(b"\n", b"\r\n"),
        "a hash of a request without padding": request.replace(line, line[:-1], 1),
        "a hash of a request of 31 bytes": request.replace(line, base64.b64encode(bytes(31)), 1),
        "a space behind a hash": request.replace(line, line + b" ", 1),
        "64 hashes": body(4, notes[7], proof[:1] * 64),
        "a head of a request without its last newline": request[:-1],
        "a head of a request with an extension line": request.replace(
            notes[7], notes[7].replace(b"\n\n", b"\nmore\n\n", 1)
        ),
    }  # fmt: skip
    return found | {
        name: Asked("request", new, four, 400) for name, new in malformed.items()
    }  # fmt: skip


def unsigned_note(text: Checkpoint, line: NoteSignature, times: int) -> bytes:
    """Return a note of *text* with one line so many times."""
    return format_note(Note(format_body(text), (line,) * times))
