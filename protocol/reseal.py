"""Sealing an epoch key again to a member whose slot does not open, which says so with a signature.

    notice = [1, network, reader, card_n, opener, fault, issued]
    slot   = [1, network, author, card_n, opener, reader, ekid, sealed, issued]
    signature: message key of the newest card, over label("unopened") or label("sealed-again"),
    and these bytes; sealed: the epoch key (HPKE) with info label("reseal") || opener || reader ||
    ekid

- Only the author of an opener is told, by the reader itself: neither frame is ever passed on.
- An author answers a recipient named in that opener that it still shares with, and nobody else:
  a notice cannot widen an audience, and what is refused is not answered at all, so that nobody
  learns what exists.
- It answers for openers of the last 90 days only. Whoever steals a vault must not get back what was
  sealed to keys that have been destroyed since.
- A reader believes a new slot only if its key opens the body of the opener, which commits to it.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Final, Protocol

from protocol import envelope, limits, suite
from protocol.canonical import Value, decode, encode
from protocol.envelope import SUITE, Audience, Envelope, Epoch, Header, VerifiedEnvelope
from protocol.errors import (
    AudienceError,
    DecodeError,
    ExpiredError,
    OpenError,
    PeerError,
    QuotaError,
    UnknownCardError,
    UnknownEpochError,
    UntrustedKeyError,
    VersionError,
    WrongNetworkError,
)
from protocol.shape import array, octets, text, uint
from protocol.statement import Card

UNOPENED: Final = 20
SEALED_AGAIN: Final = 21
VERSION: Final = 1
BLAMELESS: Final = (
    AudienceError,
    ExpiredError,
    QuotaError,
    UnknownCardError,
    UnknownEpochError,
    UntrustedKeyError,
)
"""Refusals that an honest peer can meet: it lost data, restored a backup, or was overtaken."""
_DAY_MS: Final = 86_400_000


class Fault(StrEnum):
    """What is wrong with an epoch, as its reader sees it."""

    SLOT = "cannot-open"
    """The slot does not open: the reader lacks the key, or the bytes are bad."""
    KEY = "wrong-key"
    """The slot opens, but what it holds does not open the body of the opener."""


@dataclass(frozen=True, slots=True)
class Notice:
    """What a reader tells the author of an epoch that it cannot open."""

    network: bytes
    reader: bytes
    card_n: int
    opener: bytes
    fault: Fault
    issued: int

    def encode(self) -> bytes:
        """Return the canonical bytes that are signed."""
        return encode(
            [
                VERSION,
                self.network,
                self.reader,
                self.card_n,
                self.opener,
                self.fault.value,
                self.issued,
            ]
        )


@dataclass(frozen=True, slots=True)
class NewSlot:
    """The key of an epoch, sealed again to one of its readers."""

    network: bytes
    author: bytes
    card_n: int
    opener: bytes
    reader: bytes
    ekid: bytes
    sealed: bytes
    issued: int

    def encode(self) -> bytes:
        """Return the canonical bytes that are signed."""
        return encode(
            [
                VERSION,
                self.network,
                self.author,
                self.card_n,
                self.opener,
                self.reader,
                self.ekid,
                self.sealed,
                self.issued,
            ]
        )


@dataclass(frozen=True, slots=True)
class Unopened:
    """A signed notice; unverified."""

    notice: Notice
    signature: bytes


@dataclass(frozen=True, slots=True)
class SealedAgain:
    """A signed new slot; unverified."""

    slot: NewSlot
    signature: bytes


ResealFrame = Unopened | SealedAgain


# --- making ----------------------------------------------------------------------------------
def sign_notice(notice: Notice, signer: suite.Signer) -> Unopened:
    """Return *notice* with the signature of its reader's message key."""
    return Unopened(notice, signer.sign(suite.label("unopened") + notice.encode()))


def seal_again(
    epoch: Epoch,
    *,
    author: tuple[Header, int],
    reader: bytes,
    card: Card,
    now: int,
    signer: suite.Signer,
) -> SealedAgain:
    """Return the key of *epoch* sealed to the newest sealing key on the *card* of *reader*.

    Args:
        epoch: as its author holds it.
        author: header of the opener, and number of the card whose message key signs.
        reader: node id.
        card: newest card of the reader.
        now: UTC in ms.
        signer: the author's message key.

    Raises:
        ExpiredError: the card or all its sealing keys are out of their time.
        VersionError: the reader takes nothing of this suite.
        WeakKeyError: the key cannot be sealed to.
    """
    if card.min_suite > SUITE:
        raise VersionError("the reader takes nothing of this suite; update Picket")
    header, card_n = author
    key = card.seal_key(now)
    sealed = suite.seal_to(key.public, epoch.key, _info(epoch.opener, reader, key.ekid))
    slot = NewSlot(
        header.network, header.author, card_n, epoch.opener, reader, key.ekid, sealed, now
    )
    return SealedAgain(slot, signer.sign(suite.label("sealed-again") + slot.encode()))


def _info(opener: bytes, reader: bytes, ekid: bytes) -> bytes:
    return suite.label("reseal") + opener + reader + ekid


# --- frames ----------------------------------------------------------------------------------
def reseal_frame_value(frame: ResealFrame) -> list[object]:
    """Return the fields of *frame*, its type first."""
    if isinstance(frame, Unopened):
        return [UNOPENED, frame.notice.encode(), frame.signature]
    return [SEALED_AGAIN, frame.slot.encode(), frame.signature]


def parse_unopened(fields: list[Value]) -> Unopened:
    """Return the notice that these *fields* hold.

    Raises:
        DecodeError: it is not canonical, or a field has the wrong shape.
        LimitError: it is too long.
        VersionError: it is of a later version.
    """
    data = octets(fields[1], "unopened.notice", maximum=limits.MAX_NOTICE)
    signature = octets(fields[2], "unopened.signature", size=suite.ED25519_SIGNATURE)
    values = array(decode(data, max_bytes=limits.MAX_NOTICE), "notice", size=7)
    _check_version(values[0], "notice")
    said = text(values[5], "notice.fault", maximum=limits.MAX_CODE)
    if said not in tuple(Fault):
        raise DecodeError("notice.fault is not known")
    notice = Notice(
        network=octets(values[1], "notice.network", size=32),
        reader=octets(values[2], "notice.reader", size=32),
        card_n=uint(values[3], "notice.card_n", maximum=limits.MAX_CHAIN - 1),
        opener=octets(values[4], "notice.opener", size=32),
        fault=Fault(said),
        issued=uint(values[6], "notice.issued"),
    )
    return Unopened(notice, signature)


def parse_sealed_again(fields: list[Value]) -> SealedAgain:
    """Return the new slot that these *fields* hold.

    Raises:
        DecodeError: it is not canonical, or a field has the wrong shape.
        LimitError: it is too long.
        VersionError: it is of a later version.
    """
    data = octets(fields[1], "sealed_again.slot", maximum=limits.MAX_NEW_SLOT)
    signature = octets(fields[2], "sealed_again.signature", size=suite.ED25519_SIGNATURE)
    values = array(decode(data, max_bytes=limits.MAX_NEW_SLOT), "slot", size=9)
    _check_version(values[0], "slot")
    slot = NewSlot(
        network=octets(values[1], "slot.network", size=32),
        author=octets(values[2], "slot.author", size=32),
        card_n=uint(values[3], "slot.card_n", maximum=limits.MAX_CHAIN - 1),
        opener=octets(values[4], "slot.opener", size=32),
        reader=octets(values[5], "slot.reader", size=32),
        ekid=octets(values[6], "slot.ekid", size=32),
        sealed=octets(values[7], "slot.sealed", size=limits.SLOT_SIZE),
        issued=uint(values[8], "slot.issued"),
    )
    return SealedAgain(slot, signature)


def _check_version(value: Value, what: str) -> None:
    if (version := uint(value, f"{what}.version")) != VERSION:
        raise VersionError(f"{what} version {version} is not known; update Picket")


# --- deciding --------------------------------------------------------------------------------
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

    def shares_with(self, node_id: bytes) -> bool:
        """Whether our operators release incidents to *node_id* now."""
        ...

    def newest_card(self, node_id: bytes) -> tuple[int, Card] | None:
        """Return the newest card that we hold of *node_id*, and its number."""
        ...

    def opener(self, envelope_id: bytes) -> tuple[Header, Audience] | None:
        """Return header and audience of a held envelope that opens an epoch."""
        ...


def check_notice(said: Unopened, *, view: View, now: int) -> Notice:
    """Decide whether the author of an epoch may seal it again to whoever asks.

    Raises:
        WrongNetworkError: it belongs to another network.
        UntrustedKeyError: we do not share with the reader, or it signed under an older card.
        UnknownCardError: it signed under a card that we do not hold yet.
        SignatureError: the reader did not sign it.
        AudienceError: we wrote no such opener, or not to this reader; it does not say which.
        ExpiredError: the opener is too old.
    """
    notice = said.notice
    if notice.network != view.network:
        raise WrongNetworkError("the notice belongs to another Picket network")
    if not view.shares_with(notice.reader):
        raise UntrustedKeyError("the reader is not a peer at level share")
    card = _newest(notice.reader, notice.card_n, view)
    suite.verify("unopened", card.message, notice.encode(), said.signature)
    known = view.opener(notice.opener)
    if (
        known is None
        or known[0].author != view.node_id
        or notice.reader not in known[1].recipient_ids
    ):
        raise AudienceError("this node released no such epoch to the reader")
    if not may_ask(known[0], now):
        raise ExpiredError("the epoch is too old to be sealed again; release it anew")
    return notice


def check_slot(said: SealedAgain, *, view: View) -> NewSlot:
    """Decide whether a new slot comes from the author of its opener, and is for us.

    That we asked for it is for the caller to know, before this.

    Raises:
        WrongNetworkError: it belongs to another network.
        UnknownEpochError: its opener is not held, or of another author.
        AudienceError: it is for another reader.
        UntrustedKeyError: the author is no peer, or signed under an older card.
        UnknownCardError: it signed under a card that we do not hold yet.
        SignatureError: the author did not sign it.
    """
    slot = said.slot
    if slot.network != view.network:
        raise WrongNetworkError("the new slot belongs to another Picket network")
    known = view.opener(slot.opener)
    if known is None or known[0].author != slot.author:
        raise UnknownEpochError("the new slot is for no epoch that is held of this author")
    if slot.reader != view.node_id:
        raise AudienceError("the new slot is for another node")
    card = _newest(slot.author, slot.card_n, view)
    suite.verify("sealed-again", card.message, slot.encode(), said.signature)
    return slot


def _newest(node_id: bytes, card_n: int, view: View) -> Card:
    """Return the newest card held of *node_id*, which must be number *card_n*.

    A key that was replaced may be in other hands by now; unlike an envelope, what is signed here is
    of the moment, so nobody needs the old one.
    """
    held = view.newest_card(node_id)
    if held is None:
        raise UntrustedKeyError("the signer is not a peer")
    if card_n > held[0]:
        raise UnknownCardError("the signer's key card of that number has not arrived yet")
    if card_n < held[0]:
        raise UntrustedKeyError("it is signed under a key card that was replaced")
    return held[1]


def may_ask(opener: Header, now: int) -> bool:
    """Whether an epoch is young enough to be sealed again."""
    return now - opener.created < limits.RESEAL_WINDOW_MS


def retry_at(attempts: int, now: int) -> int:
    """Return when a notice that was sent *attempts* times is sent again, if nothing comes."""
    doubled = limits.RESEAL_RETRY_MS << min(max(attempts, 1) - 1, 32)
    return now + min(doubled, limits.RESEAL_RETRY_MAX_MS)


@dataclass(frozen=True, slots=True)
class Given:
    """How many answers were given for one epoch to one reader, and since when they count."""

    since: int
    count: int

    def counts(self, now: int) -> int:
        """Return how many count at *now*: those of one day; a clock set back begins a new one."""
        return self.count if 0 <= now - self.since < _DAY_MS else 0

    def exhausted(self, now: int) -> bool:
        """Whether no more may be given for this epoch today."""
        return self.counts(now) >= limits.MAX_RESEALS_PER_OPENER

    def one_more(self, now: int) -> Given:
        """Return the count after another answer."""
        count = self.counts(now)
        return Given(self.since if count else now, count + 1)


# --- opening ---------------------------------------------------------------------------------
def check_key(opener: Envelope, epoch: Epoch) -> None:
    """Check that *epoch* holds the key under which *opener* was encrypted, which commits to it.

    Raises:
        OpenError: it does not.
    """
    verified = VerifiedEnvelope(opener)
    envelope.open_body(verified, envelope.content_key(verified, epoch))


def open_slot(slot: NewSlot, opener: Envelope, unsealer: suite.Unsealer) -> Epoch:
    """Return the epoch that a *slot* which passed ``check_slot`` opens.

    Raises:
        OpenError: it does not open, or its key is not that of *opener*.
    """
    audience = opener.audience
    if audience is None or opener.id != slot.opener:
        raise OpenError("the new slot is for another envelope")
    key = unsealer.unseal(slot.ekid, slot.sealed, _info(slot.opener, slot.reader, slot.ekid))
    if len(key) != suite.KEY_SIZE:
        raise OpenError("the new slot does not hold a key")
    epoch = Epoch(opener.id, opener.header.stream, opener.header.epoch, audience, key)
    check_key(opener, epoch)
    return epoch


def fault_of(opener: Envelope, *, node_id: bytes, unsealer: suite.Unsealer) -> Fault | None:
    """Return what is wrong with our slot of an *opener*; None if it opens the opener."""
    try:
        epoch = envelope.unseal_epoch(VerifiedEnvelope(opener), node_id=node_id, unsealer=unsealer)
    except OpenError:
        return Fault.SLOT
    try:
        check_key(opener, epoch)
    except PeerError:
        return Fault.KEY
    return None
