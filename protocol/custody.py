"""What a carrier keeps for others: how much of it, for how long, and what is left of it afterwards.

    stub = [header bin, signature bin64, audience bin | nil]

- Two bounds: of what waits for one recipient, and of what one peer gave. Beyond them the carrier
  refuses; the author keeps the envelope and goes on offering it.
- Custody ends with the receipts of all recipients, when the author holds them, or 90 days after the
  envelope came, by the carrier's own clock: an author cannot make it longer by dating ahead.
- The bytes go then, and the signed header stays: it still proves who wrote what in which place, so
  it can neither be taken for another nor be used to hide one, and a fork of it is still evidence.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from enum import StrEnum

from protocol import envelope, limits, suite
from protocol.canonical import decode, encode
from protocol.envelope import Audience, Envelope, Header
from protocol.errors import DigestError, ProofError, WrongNetworkError
from protocol.fork import SignedHeader
from protocol.shape import array, octets


class Bound(StrEnum):
    """Whose room is bounded."""

    RECIPIENT = "recipient"
    GIVER = "giver"


@dataclass(frozen=True, slots=True)
class Room:
    """What a bound is about: all that waits for *node_id*, or all that it gave."""

    bound: Bound
    node_id: bytes


def full(size: int, *, giver: bytes, given: int, waiting: Mapping[bytes, int]) -> Room | None:
    """Return the room that is too small for an envelope of *size* bytes; None if it fits.

    Args:
        size: of the whole envelope.
        giver: the peer that brought it.
        given: bytes in custody that *giver* brought.
        waiting: bytes in custody for each of its recipients; it counts whole for each of them.
    """
    if given + size > limits.MAX_CUSTODY_GIVER:
        return Room(Bound.GIVER, giver)
    for recipient, held in sorted(waiting.items()):
        if held + size > limits.MAX_CUSTODY_RECIPIENT:
            return Room(Bound.RECIPIENT, recipient)
    return None


def ends(*, expires: int, arrived: int) -> int:
    """Return when (ms) custody of an envelope ends that nobody fetches."""
    return min(expires, arrived + limits.MAX_LIFETIME_MS)


# --- what is left ----------------------------------------------------------------------------
@dataclass(frozen=True, slots=True)
class Stub:
    """A carried envelope without its body and slots: well-formed, unverified."""

    signed: SignedHeader
    audience: Audience | None
    wire: None = None

    @property
    def id(self) -> bytes:
        """The id of the envelope."""
        return self.signed.id

    @property
    def header(self) -> Header:
        """The signed fields."""
        return self.signed.header

    def encode(self) -> bytes:
        """Return the canonical bytes that are kept."""
        audience = None if self.audience is None else self.audience.encode()
        return encode([self.signed.header_bytes, self.signed.signature, audience])


def stub_of(held: Envelope) -> Stub:
    """Return what is left of an envelope that this node carried."""
    return Stub(SignedHeader.of(held), held.audience)


def parse_stub(data: bytes) -> Stub:
    """Return the stub that *data* holds.

    Raises:
        DecodeError: it is not canonical, or a field has the wrong shape.
        LimitError: it, or a part of it, is beyond its bound.
        VersionError: it is of a later version.
        AudienceError: the audience breaks its rules.
    """
    fields = array(decode(data, max_bytes=limits.MAX_ENVELOPE), "stub", size=3)
    header_bytes = octets(fields[0], "stub.header", maximum=limits.MAX_HEADER)
    header = envelope.parse_header(header_bytes)
    audience = None
    if fields[2] is not None:
        given = octets(fields[2], "stub.audience", maximum=limits.MAX_AUDIENCE)
        audience = envelope.parse_audience(given, header.author)
    signature = octets(fields[1], "stub.signature", size=suite.ED25519_SIGNATURE)
    envelope_id = suite.digest("envelope", header_bytes)
    return Stub(SignedHeader(header_bytes, signature, envelope_id, header), audience)


def verify_stub(stub: Stub, *, network: bytes, message_key: bytes) -> None:
    """Verify the signature under *message_key*, and the audience that it covers.

    Raises:
        WrongNetworkError: it belongs to another network.
        SignatureError: the author did not sign this header.
        DigestError: the audience is missing, or not the signed one.
    """
    header = stub.header
    if header.network != network:
        raise WrongNetworkError("the envelope belongs to another Picket network")
    suite.verify("message", message_key, stub.id, stub.signed.signature)
    if (header.opener is None) != (stub.audience is not None):
        raise DigestError("an envelope has an audience of its own if it opens an epoch, else not")
    if stub.audience is not None and not _is_signed(stub.audience, header):
        raise DigestError("the audience is not the signed one")


def check_over(
    header: Header, audience: Audience, *, received: Collection[bytes], arrived: int, now: int
) -> None:
    """Check that a carrier may be without the bytes of an envelope: it owes them to nobody.

    Args:
        header: its verified header.
        audience: of its epoch.
        received: who has given a receipt that verifies.
        arrived: when it came, as the log commits to it.
        now: UTC in ms.

    Raises:
        DigestError: the audience is not the signed one.
        ProofError: a recipient gave no receipt, and custody has not ended.
    """
    if not _is_signed(audience, header):
        raise DigestError("the audience is not the signed one")
    lacking = sum(node_id not in received for node_id in audience.recipient_ids)
    if lacking and now < ends(expires=header.expires, arrived=arrived):
        raise ProofError(
            f"its bytes are gone, though {lacking} recipients gave no receipt and custody has not "
            "ended by this node's clock"
        )


def _is_signed(audience: Audience, header: Header) -> bool:
    return suite.digest("audience", audience.encode()) == header.audience_digest
