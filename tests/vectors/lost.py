"""What ``generate`` says of frames 35 to 39: lost keys, suspensions, possession."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Final, TypeAlias

from protocol import limits, possession, suite
from protocol.canonical import decode, encode
from protocol.exposure import Exposed, Exposure, ExposureHeard, sign_exposure
from protocol.frames import Frame, encode_frame
from protocol.key_frames import KeyFrame, Suspended
from protocol.possession import SealChallenge, SealProof
from tests.factories import NETWORK, NOW, seed

Json: TypeAlias = dict[str, Any]
_ENCODING, _LIMIT, _VERSION = "bad-encoding", "over-limit", "unsupported-version"
_SIGNER: Final = suite.Ed25519Signer(seed("a", "message"))


def of_each(node: bytes, peer: bytes, one: bytes) -> dict[str, tuple[Frame, Json]]:
    """Return one frame of each type, and its fields as the files have them."""
    said = sign_exposure(_exposure(node, peer, one), _SIGNER)
    ekid = seed("a", "ekid")
    answer = possession._answer(seed("b", "secret"), peer, node, ekid)
    frames: dict[str, KeyFrame] = {
        "exposed": said,
        "exposure_heard": ExposureHeard(said.exposure.digest),
        "suspended": Suspended(b"suspension"),
        "seal_challenge": SealChallenge(ekid, seed("a", "slot") * 36 + bytes(16)),
        "seal_proof": SealProof(ekid, answer),
    }
    return {name: (frame, plain(frame)) for name, frame in frames.items()}


def _exposure(node: bytes, peer: bytes, one: bytes) -> Exposure:
    ids = tuple(sorted((one, node)))
    return Exposure(NETWORK, node, 3, peer, seed("a", "ekid"), NOW - 1, NOW, NOW + 1, ids)


def plain(frame: KeyFrame) -> Json:
    """Return the fields of a frame as the files have them."""
    match frame:
        case Exposed(exposure, signature):
            return {"record": exposure.encode().hex(), "signature": signature.hex()}
        case ExposureHeard(digest):
            return {"digest": digest.hex()}
        case Suspended(wire):
            return {"wire": wire.hex()}
        case SealChallenge(ekid, sealed):
            return {"ekid": ekid.hex(), "sealed": sealed.hex()}
        case SealProof(ekid, answer):
            return {"ekid": ekid.hex(), "answer": answer.hex()}


def accepted(node: bytes, one: bytes) -> dict[str, tuple[bytes, Json]]:
    """Return payloads that look wrong and are not, and their fields."""
    at_once = replace(_exposure(node, one, one), start=NOW, end=NOW, issued=0, envelope_ids=(one,))
    forged = Exposed(at_once, bytes(64))  # a signature is looked at after the frame is read
    return {
        "an exposed frame about one moment, with a signature of zero": (
            encode_frame(forged), {"type": "exposed", **plain(forged)},
        ),
    }  # fmt: skip


def refused(frames: dict[str, tuple[Frame, Json]]) -> dict[str, tuple[bytes, str]]:
    """Return payloads that are refused, and the code of each."""
    found: dict[str, tuple[bytes, str]] = {}
    for name, sizes in _SIZES.items():
        outer = _list(encode_frame(frames[name][0]))
        found |= {
            f"{_an(name)} frame that lacks its last field": (encode(outer[:-1]), _ENCODING),
            f"{_an(name)} frame with one field more": (encode([*outer, 0]), _ENCODING),
            f"a byte after {_an(name)} frame": (encode(outer) + b"\0", _ENCODING),
        }
        for at, size, code in sizes:
            changed = [*outer[:at], bytes(size), *outer[at + 1 :]]
            what = f"{_an(name)} frame with {size} bytes for field {at}"
            found[what] = (encode(changed), code)
    number, data, signature = _list(encode_frame(frames["exposed"][0]))
    inner = _list(data)
    for at, value, kind, code in _CHANGES:
        changed = [*inner[:at], value, *inner[at + 1 :]]
        found[f"an exposure with {kind}"] = (encode([number, encode(changed), signature]), code)
    for kind, fields in (("one field less", inner[:-1]), ("one field more", [*inner, 0])):
        found[f"an exposure of {kind}"] = (encode([number, encode(fields), signature]), _ENCODING)
    found["an exposure with its ids in another order"] = (
        encode([number, encode([*inner[:9], inner[9][::-1]]), signature]), _ENCODING,
    )  # fmt: skip
    found["an exposure with a byte after it"] = (
        encode([number, data + b"\0", signature]), _ENCODING,
    )  # fmt: skip
    return found


def _an(name: str) -> str:
    return f"an {name}" if name.startswith("e") else f"a {name}"


_SIZES: Final[dict[str, tuple[tuple[int, int, str], ...]]] = {
    "exposed": (
        (1, 0, _ENCODING), (1, limits.MAX_EXPOSURE + 1, _LIMIT), (2, 63, _ENCODING),
        (2, 65, _ENCODING),
    ),
    "exposure_heard": ((1, 31, _ENCODING), (1, 33, _ENCODING)),
    "suspended": ((1, 0, _ENCODING),),
    "seal_challenge": (
        (1, 31, _ENCODING), (2, 1_167, _ENCODING), (2, 1_169, _ENCODING), (2, 32, _ENCODING),
    ),
    "seal_proof": ((1, 33, _ENCODING), (2, 31, _ENCODING), (2, 33, _ENCODING)),
}  # fmt: skip
_CHANGES: Final[tuple[tuple[int, object, str, str], ...]] = (
    (0, 2, "version 2", _VERSION),
    (0, True, "true for its version", _ENCODING),
    (1, bytes(31), "a network of 31 bytes", _ENCODING),
    (2, "a" * 32, "a holder as text", _ENCODING),
    (3, 512, "card 512", _ENCODING),
    (3, -1, "card -1", _ENCODING),
    (4, None, "nil for its author", _ENCODING),
    (5, bytes(33), "an ekid of 33 bytes", _ENCODING),
    (6, -1, "a beginning before 1970", _ENCODING),
    (7, NOW - 2, "an end before its beginning", "bad-statement"),
    (8, "now", "a time as text", _ENCODING),
    (9, [], "no envelope", _ENCODING),
    (9, [bytes(31)], "an id of 31 bytes", _ENCODING),
    (9, [bytes(32), bytes(32)], "one envelope twice", _ENCODING),
)  # fmt: skip


def _list(data: bytes) -> list[Any]:
    value = decode(data, max_bytes=limits.MAX_FRAME)
    assert isinstance(value, list)
    return value
