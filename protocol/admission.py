"""Which envelopes a node takes in, from whom, and in which part: the whole rule, in one place.

- Unknown authors are refused before their signature is computed; signatures of a whole frame are
  computed together, in threads.
- An envelope comes from its author or from another member of its audience, or not at all: whoever
  else holds one should not.
- Under a card that a recovery of its author has ended nothing new is taken, whatever its date: the
  thief has that key too. What an envelope that is held names as the one before it is not new.
- We take it as a recipient or as a carrier; outside its audience we keep no byte of it.
- A copy must be whole for our part: a recipient needs its own slot, a carrier all of them. Else
  whoever hands on a trimmed copy first would keep the whole one out.
- What we hold already is receipted again, but to its author and audience only: to anybody else even
  the answer that we hold it would say too much.
- A recipient takes an expired envelope (late is better than never); a carrier does not.
- An envelope of our own that we hold no more comes back from any member: our slot opens it.
- No private key is needed: a locked node decides the same.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Protocol

from protocol import envelope, limits
from protocol.envelope import Audience, Envelope, Header, VerifiedEnvelope
from protocol.errors import (
    AudienceError,
    DigestError,
    ExpiredError,
    NotCarryingError,
    SupersededCardError,
    UnknownCardError,
    UnknownEpochError,
    UntrustedKeyError,
)
from protocol.statement import Card


class Part(Enum):
    """The part of a node in an envelope that it holds."""

    AUTHOR = "author"
    RECIPIENT = "recipient"
    CARRIER = "carrier"


class View(Protocol):
    """What admission must know of the node; answered from one consistent snapshot."""

    @property
    def node_id(self) -> bytes:
        """Our own node id."""
        ...

    @property
    def network(self) -> bytes:
        """The id of our network."""
        ...

    @property
    def carries(self) -> bool:
        """Whether this node agrees to carry for others."""
        ...

    def accepts_author(self, node_id: bytes) -> bool:
        """Whether envelopes written by *node_id* are accepted."""
        ...

    def card_at(self, node_id: bytes, n: int) -> Card | None:
        """Return the card that is statement *n* of *node_id*, if we hold it."""
        ...

    def closed(self, header: Header, envelope_id: bytes) -> bool:
        """Whether a recovery of the author ended the card, and nothing held names the envelope."""
        ...

    def holds(self, envelope_id: bytes) -> bool:
        """Whether the envelope is in our log already."""
        ...

    def epoch(self, opener: bytes) -> tuple[Header, Audience] | None:
        """Return header and audience of the envelope that opened an epoch, if we hold it."""
        ...


@dataclass(frozen=True, slots=True)
class Admitted:
    """An envelope to log; ``part`` is ours in it."""

    verified: VerifiedEnvelope
    part: Part
    audience: Audience


@dataclass(frozen=True, slots=True)
class Known:
    """An envelope that is in the log already: receipt it again, store nothing."""

    envelope_id: bytes


@dataclass(frozen=True, slots=True)
class Screened:
    """A well-formed envelope of an author we accept, and the key that must have signed it."""

    parsed: Envelope
    message_key: bytes


def screen(wire: bytes, *, view: View, giver: bytes) -> Screened | Known:
    """Decide what can be decided before any signature is computed.

    Raises:
        PeerError: it is refused; the code says why.
    """
    parsed = envelope.parse(wire)
    header = parsed.header
    if view.holds(parsed.id):
        _check_giver(giver, header.author, _held_audience(parsed, view))
        return Known(parsed.id)
    if header.author != view.node_id and not view.accepts_author(header.author):
        raise UntrustedKeyError("the author is not a peer whose incidents we accept")
    card = view.card_at(header.author, header.card_n)
    if card is None:
        raise UnknownCardError("the author's key card of that number has not arrived yet")
    if view.closed(header, parsed.id):
        raise SupersededCardError("the author has recovered since: that card signs nothing new")
    return Screened(parsed, card.message)


def verify(screened: Screened, *, network: bytes) -> VerifiedEnvelope:
    """Verify what was screened; it needs nothing of the node, so any thread may do it.

    Raises:
        PeerError: it is not signed, not whole, or of another network.
    """
    return envelope.verify(screened.parsed, network=network, message_key=screened.message_key)


def decide(verified: VerifiedEnvelope, *, view: View, giver: bytes, now: int) -> Admitted | Known:
    """Decide on a verified envelope that the peer *giver* delivered.

    Raises:
        PeerError: it is refused; the code says why.
    """
    parsed, header = verified.envelope, verified.header
    if view.holds(parsed.id):
        return Known(parsed.id)
    audience = parsed.audience or _audience(verified, view)
    _check_giver(giver, header.author, audience)
    if header.author == view.node_id:
        _check_whole(parsed, audience, frozenset({view.node_id}))
        return Admitted(verified, Part.AUTHOR, audience)
    if view.node_id in audience.recipient_ids:
        _check_whole(parsed, audience, frozenset({view.node_id}))
        return Admitted(verified, Part.RECIPIENT, audience)
    if view.node_id not in audience.carriers:
        raise AudienceError("this node is not in its audience")
    if not view.carries:
        raise NotCarryingError("this node does not carry for others")
    if now >= header.expires:
        raise ExpiredError("it has expired and is no longer carried")
    _check_whole(parsed, audience, frozenset(audience.recipient_ids))
    return Admitted(verified, Part.CARRIER, audience)


def admit(wire: bytes, *, view: View, giver: bytes, now: int) -> Admitted | Known:
    """Screen, verify and decide on one envelope that the peer *giver* delivered.

    Raises:
        PeerError: it is refused; the code says why.
    """
    screened = screen(wire, view=view, giver=giver)
    if isinstance(screened, Known):
        return screened
    return decide(verify(screened, network=view.network), view=view, giver=giver, now=now)


def _check_whole(parsed: Envelope, audience: Audience, needed: frozenset[bytes]) -> None:
    if not parsed.opens_epoch:
        return
    members = (parsed.header.author, *audience.recipient_ids)  # the author's slot comes first
    for member, slot in zip(members, parsed.slots, strict=True):
        if member in needed and len(slot) != limits.SLOT_SIZE:
            raise DigestError("a slot that this node needs was dropped on the way")


def _check_giver(giver: bytes, author: bytes, audience: Audience) -> None:
    if giver != author and not audience.admits(giver):
        raise AudienceError("the peer that gave it is not in its audience")


def _held_audience(parsed: Envelope, view: View) -> Audience:
    """Return the audience as it is held, never as this unverified copy claims it to be."""
    return _epoch(view, parsed.header.opener or parsed.id)[1]


def _audience(verified: VerifiedEnvelope, view: View) -> Audience:
    opener = verified.header.opener
    assert opener is not None  # noqa: S101  an envelope with no audience of its own names one
    known = _epoch(view, opener)
    envelope.check_epoch(verified, *known)
    return known[1]


def _epoch(view: View, opener: bytes) -> tuple[Header, Audience]:
    known = view.epoch(opener)
    if known is None:
        raise UnknownEpochError("the envelope that opened its epoch has not arrived yet")
    return known
