"""A node tells an author that a key of its own was lost, and what that author had sealed to it.

    record = [1, network, holder, card_n, author, ekid, from, until, issued, [envelope id, ...]]
    signature: message key of card *card_n* of the holder, over label("exposed") || record
    digest = H("exposed", record)

- Holder to author, on the link between them; neither passes it on.
- Each record stands for itself and names at most 1,024 envelopes, ascending; of more there are more
  records. The same record may come any number of times.
- It takes nothing away and gives nothing: the author's people decide what follows. So a card that
  was replaced since may sign it, but none below a recovery.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from protocol import limits, suite
from protocol.canonical import Value, decode, encode
from protocol.errors import (
    AudienceError,
    DecodeError,
    PeerError,
    QuotaError,
    StatementError,
    UnknownCardError,
    UntrustedKeyError,
    VersionError,
    WrongNetworkError,
)
from protocol.shape import array, octets, uint
from protocol.statement import Card

VERSION: Final = 1
LABEL: Final = "exposed"
BLAMELESS: Final = (UnknownCardError, UntrustedKeyError, QuotaError)
"""Refusals that an honest peer can meet: a card is on its way, or was taken back, or it has much
to say."""


@dataclass(frozen=True, slots=True)
class Exposure:
    """The *holder* says that its sealing key *ekid* was lost between *start* and *end* (ms)."""

    network: bytes
    holder: bytes
    card_n: int
    author: bytes
    ekid: bytes
    start: int
    end: int
    issued: int
    envelope_ids: tuple[bytes, ...]

    def encode(self) -> bytes:
        """Return the canonical bytes that are signed."""
        return encode(
            [
                VERSION, self.network, self.holder, self.card_n, self.author, self.ekid, self.start,
                self.end, self.issued, self.envelope_ids,
            ]
        )  # fmt: skip

    @property
    def digest(self) -> bytes:
        """The digest by which it is acknowledged."""
        return suite.digest(LABEL, self.encode())


@dataclass(frozen=True, slots=True)
class Exposed:
    """A signed exposure; unverified."""

    exposure: Exposure
    signature: bytes


@dataclass(frozen=True, slots=True)
class ExposureHeard:
    """The author has written down the exposure with this digest."""

    digest: bytes


def sign_exposure(exposure: Exposure, signer: suite.Signer) -> Exposed:
    """Return *exposure* with the signature of its holder's message key."""
    return Exposed(exposure, signer.sign(suite.label(LABEL) + exposure.encode()))


def parts(envelope_ids: Sequence[bytes]) -> tuple[tuple[bytes, ...], ...]:
    """Return *envelope_ids* in order, in parts that fit one record each."""
    ordered, most = sorted(set(envelope_ids)), limits.MAX_EXPOSED
    return tuple(tuple(ordered[at : at + most]) for at in range(0, len(ordered), most))


def parse_exposed(data: bytes, signature: bytes) -> Exposed:
    """Return the exposure that *data* holds.

    Raises:
        DecodeError: it is not canonical, or a field has the wrong shape.
        LimitError: it is too long.
        VersionError: it is of a later version.
        StatementError: it ends before it begins.
    """
    values = array(decode(data, max_bytes=limits.MAX_EXPOSURE), "exposure", size=10)
    if (version := uint(values[0], "exposure.version")) != VERSION:
        raise VersionError(f"exposure version {version} is not known; update Picket")
    exposure = Exposure(
        network=octets(values[1], "exposure.network", size=32),
        holder=octets(values[2], "exposure.holder", size=32),
        card_n=uint(values[3], "exposure.card_n", maximum=limits.MAX_CHAIN - 1),
        author=octets(values[4], "exposure.author", size=32),
        ekid=octets(values[5], "exposure.ekid", size=32),
        start=uint(values[6], "exposure.from"),
        end=uint(values[7], "exposure.until"),
        issued=uint(values[8], "exposure.issued"),
        envelope_ids=_ids(values[9]),
    )
    if exposure.end < exposure.start:
        raise StatementError("exposure.until is before exposure.from")
    return Exposed(exposure, signature)


def _ids(value: Value) -> tuple[bytes, ...]:
    items = array(value, "exposure.ids", minimum=1, maximum=limits.MAX_EXPOSED)
    ids = tuple(octets(item, "exposure.id", size=32) for item in items)
    if list(ids) != sorted(set(ids)):
        raise DecodeError("exposure.ids are not in ascending order, or one is there twice")
    return ids


class View(Protocol):
    """What a decision needs to know of the node that makes it."""

    @property
    def node_id(self) -> bytes:
        """Our node id."""
        ...

    @property
    def network(self) -> bytes:
        """Our network."""
        ...

    def card_at(self, node_id: bytes, n: int) -> Card | None:
        """Return the card of that number that counts, if we hold it."""
        ...

    def newest_n(self, node_id: bytes) -> int:
        """Return the number of the newest statement that we hold of a peer."""
        ...

    def recovered_at(self, node_id: bytes) -> int:
        """Return the number below which cards of a node sign nothing new."""
        ...


def check_exposure(said: Exposed, *, view: View) -> Exposure:
    """Decide whether its holder said it, and to us.

    Raises:
        WrongNetworkError: it belongs to another network.
        AudienceError: it is for another author.
        UnknownCardError: it is signed under a card that we do not hold yet.
        UntrustedKeyError: it is signed under a card that a recovery has taken back, or under none.
        SignatureError: the holder did not sign it.
    """
    exposure = said.exposure
    if exposure.network != view.network:
        raise WrongNetworkError("the exposure belongs to another Picket network")
    if exposure.author != view.node_id:
        raise AudienceError("the exposure is for another node")
    if exposure.card_n > view.newest_n(exposure.holder):
        raise UnknownCardError("the holder's key card of that number has not arrived yet")
    card = view.card_at(exposure.holder, exposure.card_n)
    if card is None or exposure.card_n < view.recovered_at(exposure.holder):
        raise UntrustedKeyError("it is signed under a key card that does not count")
    suite.verify(LABEL, card.message, exposure.encode(), said.signature)
    return exposure


def parse_stored(data: bytes) -> Exposed:
    """Return the exposure that ``stored`` made.

    Raises:
        PeerError: it is damaged.
    """
    fields = array(decode(data, max_bytes=limits.MAX_EXPOSURE + 128), "exposed", size=2)
    return parse_exposed(
        octets(fields[0], "exposed.record", maximum=limits.MAX_EXPOSURE),
        octets(fields[1], "exposed.signature", size=suite.ED25519_SIGNATURE),
    )


def stored(said: Exposed) -> bytes:
    """Return the bytes under which *said* is kept."""
    return encode([said.exposure.encode(), said.signature])


def is_blameless(error: PeerError) -> bool:
    """Whether an honest peer can meet this refusal."""
    return isinstance(error, BLAMELESS)
