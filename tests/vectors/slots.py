"""What ``generate`` says of frames 20 and 21: notices of slots that do not open, and new slots."""

from __future__ import annotations

from typing import Any, Final, TypeAlias

from protocol import limits, suite
from protocol.canonical import decode, encode
from protocol.frames import Frame, encode_frame
from protocol.reseal import Fault, NewSlot, Notice, SealedAgain, Unopened, sign_notice
from tests.factories import NETWORK, NOW, seed

Json: TypeAlias = dict[str, Any]
_ENCODING, _LIMIT, _VERSION = "bad-encoding", "over-limit", "unsupported-version"
_SIGNER: Final = suite.Ed25519Signer(seed("a", "message"))


def of_each(node: bytes, peer: bytes, one: bytes) -> dict[str, tuple[Frame, Json]]:
    """Return one frame of each type, and its fields as the files have them."""
    asked = sign_notice(Notice(NETWORK, node, 3, one, Fault.SLOT, NOW), _SIGNER)
    slot = NewSlot(
        NETWORK, peer, 511, one, node, seed("a", "ekid"), seed("a", "slot") * 36 + bytes(16), NOW
    )
    again = SealedAgain(slot, _SIGNER.sign(suite.label("sealed-again") + slot.encode()))
    return {"unopened": (asked, plain(asked)), "sealed_again": (again, plain(again))}


def plain(frame: Unopened | SealedAgain) -> Json:
    """Return the fields of a frame as the files have them."""
    signature = frame.signature.hex()
    if isinstance(frame, Unopened):
        return {"notice": frame.notice.encode().hex(), "signature": signature}
    return {"slot": frame.slot.encode().hex(), "signature": signature}


def accepted(node: bytes, one: bytes) -> dict[str, tuple[bytes, Json]]:
    """Return payloads that look wrong and are not, and their fields."""
    wrong = sign_notice(Notice(NETWORK, node, 0, one, Fault.KEY, 2**63 - 1), _SIGNER)
    forged = Unopened(wrong.notice, bytes(64))  # a signature is looked at after the frame is read
    return {
        "an unopened frame about a wrong key": (
            encode_frame(wrong), {"type": "unopened", **plain(wrong)},
        ),
        "an unopened frame whose signature is zero": (
            encode_frame(forged), {"type": "unopened", **plain(forged)},
        ),
    }  # fmt: skip


def refused(frames: dict[str, tuple[Frame, Json]]) -> dict[str, tuple[bytes, str]]:
    """Return payloads that are refused, and the code of each."""
    found: dict[str, tuple[bytes, str]] = {}
    for name, what, bound in (
        ("unopened", "notice", limits.MAX_NOTICE),
        ("sealed_again", "new slot", limits.MAX_NEW_SLOT),
    ):
        outer = _list(encode_frame(frames[name][0]))
        number, data, signature = outer
        inner = _list(data)
        found |= {
            f"an {name} frame of two fields": (encode(outer[:2]), _ENCODING),
            f"an {name} frame of four fields": (encode([*outer, 0]), _ENCODING),
            f"a byte after an {name} frame": (encode(outer) + b"\0", _ENCODING),
            f"a {what} that is no byte string": (encode([number, inner, signature]), _ENCODING),
            f"a {what} of nothing": (encode([number, b"", signature]), _ENCODING),
            f"a {what} of {bound + 1} bytes": (
                encode([number, bytes(bound + 1), signature]), _LIMIT,
            ),
            f"a {what} with a byte after it": (
                encode([number, data + b"\0", signature]), _ENCODING,
            ),
            f"a {what} with a signature of 63 bytes": (
                encode([number, data, signature[1:]]), _ENCODING,
            ),
            f"a {what} with a signature of 65 bytes": (
                encode([number, data, signature + b"\0"]), _ENCODING,
            ),
        }  # fmt: skip
        for at, value, kind, code in _CHANGES[name]:
            changed = [*inner[:at], value, *inner[at + 1 :]]
            found[f"a {what} with {kind}"] = (encode([number, encode(changed), signature]), code)
        found |= {
            f"a {what} that lacks its last field": (
                encode([number, encode(inner[:-1]), signature]), _ENCODING,
            ),
            f"a {what} with one field more": (
                encode([number, encode([*inner, 0]), signature]), _ENCODING,
            ),
        }  # fmt: skip
    return found


_CHANGES: Final[dict[str, tuple[tuple[int, object, str, str], ...]]] = {
    "unopened": (
        (0, 2, "version 2", _VERSION),
        (0, True, "true for its version", _ENCODING),
        (1, bytes(31), "a network of 31 bytes", _ENCODING),
        (2, "a" * 32, "a reader as text", _ENCODING),
        (3, 512, "card 512", _ENCODING),
        (3, -1, "card -1", _ENCODING),
        (4, bytes(33), "an opener of 33 bytes", _ENCODING),
        (4, None, "nil for its opener", _ENCODING),
        (5, "cannot-read", "a fault that is not known", _ENCODING),
        (5, "Cannot-open", "a fault in capitals", _ENCODING),
        (5, b"cannot-open", "a fault as bytes", _ENCODING),
        (5, "", "an empty fault", _ENCODING),
        (5, "a" * 65, "a fault of 65 characters", _LIMIT),
        (6, -1, "a time before 1970", _ENCODING),
    ),
    "sealed_again": (
        (0, 0, "version 0", _VERSION),
        (1, bytes(33), "a network of 33 bytes", _ENCODING),
        (2, bytes(31), "an author of 31 bytes", _ENCODING),
        (3, 512, "card 512", _ENCODING),
        (4, bytes(31), "an opener of 31 bytes", _ENCODING),
        (5, None, "nil for its reader", _ENCODING),
        (6, bytes(33), "an ekid of 33 bytes", _ENCODING),
        (7, bytes(32), "a digest for what is sealed", _ENCODING),
        (7, bytes(1_167), "1167 sealed bytes", _ENCODING),
        (7, bytes(1_169), "1169 sealed bytes", _ENCODING),
        (8, "now", "a time as text", _ENCODING),
    ),
}  # fmt: skip


def _list(data: bytes) -> list[Any]:
    value = decode(data, max_bytes=limits.MAX_FRAME)
    assert isinstance(value, list)
    return value
