"""What links say about keys besides statements: losses, suspensions, proofs of possession."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, TypeAlias, assert_never

from protocol import limits, suite
from protocol.canonical import Value
from protocol.exposure import Exposed, ExposureHeard, parse_exposed
from protocol.possession import SealChallenge, SealProof, read_challenge, read_proof
from protocol.shape import octets

EXPOSED: Final = 35
EXPOSURE_HEARD: Final = 36
SUSPENDED: Final = 37
SEAL_CHALLENGE: Final = 38
SEAL_PROOF: Final = 39


@dataclass(frozen=True, slots=True)
class Suspended:
    """A suspension, as the officers of a directory signed it; unverified."""

    wire: bytes


KeyFrame: TypeAlias = Exposed | ExposureHeard | Suspended | SealChallenge | SealProof


def key_frame_value(frame: KeyFrame) -> list[object]:
    """Return the fields of *frame*, its type first."""
    match frame:
        case Exposed():
            return [EXPOSED, frame.exposure.encode(), frame.signature]
        case ExposureHeard():
            return [EXPOSURE_HEARD, frame.digest]
        case Suspended():
            return [SUSPENDED, frame.wire]
        case SealChallenge():
            return [SEAL_CHALLENGE, frame.ekid, frame.sealed]
        case SealProof():
            return [SEAL_PROOF, frame.ekid, frame.answer]
        case _:
            assert_never(frame)


def _exposed(fields: list[Value]) -> Exposed:
    return parse_exposed(
        octets(fields[1], "exposed.record", maximum=limits.MAX_EXPOSURE),
        octets(fields[2], "exposed.signature", size=suite.ED25519_SIGNATURE),
    )


def _heard(fields: list[Value]) -> ExposureHeard:
    return ExposureHeard(octets(fields[1], "exposure_heard.digest", size=32))


def _suspended(fields: list[Value]) -> Suspended:
    return Suspended(octets(fields[1], "suspended.wire", maximum=limits.MAX_SUSPENSION))


KEY_READERS: Final[dict[int, tuple[int, Callable[[list[Value]], KeyFrame]]]] = {
    EXPOSED: (3, _exposed),
    EXPOSURE_HEARD: (2, _heard),
    SUSPENDED: (2, _suspended),
    SEAL_CHALLENGE: (3, read_challenge),
    SEAL_PROOF: (3, read_proof),
}
