"""Fork evidence: two headers of one author that no honest node signs; they prove it themselves.

    proof  = [[header bin, signature bin64], [header bin, signature bin64]]
    digest = H("fork", proof)

Either both headers have the same author, incarnation, stream and number but different ids, or the
second stands right behind the first and names another predecessor. The one with the lower number
stands first, of two with one number the one with the lower id, so that a pair has one proof.

- Nothing but the author's own signatures accuses it: an honest node is never blamed.
- The proof shows no text and no audience, but that the stream exists: it goes to its members only.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from protocol import limits, suite
from protocol.canonical import decode, encode
from protocol.envelope import Envelope, Header, parse_header
from protocol.errors import DecodeError, StatementError, UnknownCardError, WrongNetworkError
from protocol.frontier import StreamKey
from protocol.shape import array, octets
from protocol.statement import Card


@dataclass(frozen=True, slots=True)
class SignedHeader:
    """The signed part of an envelope: all that its author can be held to."""

    header_bytes: bytes
    signature: bytes
    id: bytes
    header: Header

    @classmethod
    def of(cls, envelope: Envelope) -> SignedHeader:
        """Return the signed header of *envelope*."""
        return cls(envelope.header_bytes, envelope.signature, envelope.id, envelope.header)

    @property
    def key(self) -> StreamKey:
        """The stream it stands in."""
        return StreamKey(self.header.author, self.header.incarnation, self.header.stream)


@dataclass(frozen=True, slots=True)
class Fork:
    """A well-formed proof; believe it only after ``verify_fork``."""

    first: SignedHeader
    second: SignedHeader

    @property
    def key(self) -> StreamKey:
        """The stream that forked."""
        return self.first.key

    def encode(self) -> bytes:
        """Return the canonical bytes of the proof."""
        return encode([[each.header_bytes, each.signature] for each in (self.first, self.second)])

    @property
    def digest(self) -> bytes:
        """The digest under which the proof is kept and logged."""
        return suite.digest("fork", self.encode())


def fork_of(one: SignedHeader, other: SignedHeader) -> Fork | None:
    """Return the proof that two headers make together; None if an honest author may sign both."""
    first, second = sorted((one, other), key=lambda each: (each.header.seq, each.id))
    if first.key != second.key or first.id == second.id:
        return None
    if first.header.seq == second.header.seq:
        return Fork(first, second)
    if first.header.seq + 1 == second.header.seq and second.header.prev != first.id:
        return Fork(first, second)
    return None


def parse_fork(data: bytes) -> Fork:
    """Return the proof that *data* holds, well-formed but unverified.

    Raises:
        DecodeError: it is not canonical, has the wrong shape or order, or proves nothing.
        LimitError: it is too long.
        VersionError: a header is of a later version.
    """
    pair = array(decode(data, max_bytes=limits.MAX_FORK), "fork", size=2)
    headers = []
    for value in pair:
        header_bytes, signature = array(value, "fork.header", size=2)
        held = octets(header_bytes, "fork.header", maximum=limits.MAX_HEADER)
        headers.append(
            SignedHeader(
                held,
                octets(signature, "fork.signature", size=suite.ED25519_SIGNATURE),
                suite.digest("envelope", held),
                parse_header(held),
            )
        )
    fork = fork_of(*headers)
    if fork is None or fork.first != headers[0]:
        raise DecodeError("fork: the two headers contradict nothing, or stand in the wrong order")
    return fork


def verify_fork(
    fork: Fork, *, network: bytes, card_at: Callable[[bytes, int], Card | None]
) -> None:
    """Verify both signatures of *fork* under the author's cards.

    Raises:
        WrongNetworkError: it belongs to another network.
        UnknownCardError: a card that it needs has not arrived.
        SignatureError: the author did not sign one of them.
        StatementError: the two headers contradict nothing.
    """
    if fork_of(fork.first, fork.second) != fork:
        raise StatementError("the two headers contradict nothing")
    for each in (fork.first, fork.second):
        if each.header.network != network:
            raise WrongNetworkError("the fork belongs to another Picket network")
        card = card_at(each.header.author, each.header.card_n)
        if card is None:
            raise UnknownCardError("the author's key card of that number has not arrived yet")
        suite.verify("message", card.message, each.id, each.signature)
