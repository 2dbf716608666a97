"""Suspensions: a directory that a node chose may ask it to stop sending to another, for a while.

    core = [1, network, node_id, issued, until, reason]
    wire = [core bin, [[key, ed25519, mldsa65], ...]]
    key  = H("identity-key", ed25519, mldsa65)
    signed bytes = label "suspend" + H("suspend", core)

- It is no part of the chain of the node that it is about: each receiver decides which keys count
  and how many of them must sign.
- It only takes away, and ends by itself within 14 days: nobody can add a key, a node or trust.
- Of several about one node the one that was issued last counts; of two issued at once, that with
  the greater digest.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from protocol import limits, suite
from protocol.bodies import HybridKey, identity_digest
from protocol.canonical import decode, encode
from protocol.errors import (
    DecodeError,
    ExpiredError,
    StatementError,
    UntrustedKeyError,
    VersionError,
    WrongNetworkError,
)
from protocol.shape import array, octets, text, uint

VERSION: Final = 1
LABEL: Final = "suspend"


@dataclass(frozen=True, slots=True)
class Directory:
    """Whose suspensions a node follows: the keys, and how many of them must sign."""

    keys: tuple[HybridKey, ...]
    threshold: int


@dataclass(frozen=True, slots=True)
class Suspension:
    """A well-formed, unverified suspension of *node_id* from *issued* to *until* (ms)."""

    wire: bytes
    core: bytes
    network: bytes
    node_id: bytes
    issued: int
    until: int
    reason: str
    signatures: tuple[tuple[bytes, bytes, bytes], ...]

    @property
    def digest(self) -> bytes:
        """What its signatures cover."""
        return suite.digest(LABEL, self.core)

    def holds(self, now: int) -> bool:
        """Whether it counts at *now*; one from the future does not count yet."""
        return self.issued <= now + limits.CLOCK_AHEAD_MS and now < self.until

    def replaces(self, other: Suspension | None) -> bool:
        """Whether it counts in the place of *other*, which is about the same node."""
        return other is None or (self.issued, self.digest) > (other.issued, other.digest)


def make_suspension(
    *,
    network: bytes,
    node_id: bytes,
    issued: int,
    until: int,
    reason: str,
    signers: Sequence[tuple[HybridKey, suite.HybridSigner]],
) -> bytes:
    """Return the wire form of a suspension, signed by *signers*: pairs of public key and signer."""
    core = encode([VERSION, network, node_id, issued, until, reason])
    message = suite.label(LABEL) + suite.digest(LABEL, core)
    signatures = sorted([identity_digest(key), *signer.sign(message)] for key, signer in signers)
    return encode([core, signatures])


def parse_suspension(wire: bytes) -> Suspension:
    """Return the suspension that *wire* holds, well-formed but unverified.

    Raises:
        DecodeError: it is not canonical, or a field has the wrong shape.
        VersionError: it is of a later version.
        StatementError: it does not end within 14 days.
    """
    outer = array(decode(wire, max_bytes=limits.MAX_SUSPENSION), "suspension", size=2)
    core = octets(outer[0], "suspension.core", maximum=limits.MAX_HEADER)
    fields = array(decode(core, max_bytes=limits.MAX_HEADER), "suspension.core", size=6)
    if (version := uint(fields[0], "suspension.version")) != VERSION:
        raise VersionError(f"suspension version {version} is not known; update Picket")
    issued, until = uint(fields[3], "suspension.issued"), uint(fields[4], "suspension.until")
    if not 0 < until - issued <= limits.MAX_SUSPENSION_MS:
        raise StatementError("suspension.until is not within 14 days after its issue")
    items = array(outer[1], "suspension.signatures", minimum=1, maximum=limits.MAX_DIRECTORY)
    signatures = []
    for item in items:
        key, ed25519, mldsa65 = array(item, "suspension.signature", size=3)
        signatures.append(
            (
                octets(key, "signature.key", size=suite.DIGEST_SIZE),
                octets(ed25519, "signature.ed25519", size=suite.ED25519_SIGNATURE),
                octets(mldsa65, "signature.mldsa65", size=suite.MLDSA65_SIGNATURE),
            )
        )
    names = [key for key, _, _ in signatures]
    if names != sorted(set(names)):
        raise DecodeError("suspension.signatures are not in order of their key")
    return Suspension(
        wire=wire,
        core=core,
        network=octets(fields[1], "suspension.network", size=32),
        node_id=octets(fields[2], "suspension.node_id", size=32),
        issued=issued,
        until=until,
        reason=text(fields[5], "suspension.reason"),
        signatures=tuple(signatures),
    )


def verify_suspension(
    suspension: Suspension, directory: Directory, *, network: bytes, now: int
) -> None:
    """Verify that enough keys of *directory* signed *suspension*, and that it counts at *now*.

    Signatures of keys that are not in the directory are passed over: another receiver may have
    chosen those.

    Raises:
        WrongNetworkError: it was made for another network.
        ExpiredError: it is over, or from the future.
        SignatureError: a signature of a key in the directory does not verify.
        UntrustedKeyError: too few keys of the directory signed it.
    """
    if suspension.network != network:
        raise WrongNetworkError("the suspension was made for another Picket network")
    if not suspension.holds(now):
        raise ExpiredError("the suspension is over, or dated in the future")
    known = {identity_digest(key): key for key in directory.keys}
    count = 0
    for name, ed25519, mldsa65 in suspension.signatures:
        if name in known:
            suite.verify_hybrid(LABEL, known[name], suspension.digest, (ed25519, mldsa65))
            count += 1
    if count < directory.threshold:
        raise UntrustedKeyError(
            f"{count} of the directory's keys signed the suspension; {directory.threshold} must"
        )
