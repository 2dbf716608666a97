"""Disclosure: one message handed to an auditor with the key of its body, and nothing else.

    file = [1, wire, content_key, author's bundle bin, audience bin | nil]

- The key opens this one envelope: it is derived from the epoch key and this header, and neither
  the epoch key nor any other content key can be computed from it.
- The ciphertext commits to its key, so no other key opens it to another text: what is read is what
  the author signed. The check needs no node, no network and no secret besides.
- Of an envelope that opens an epoch the slots go as their digests: nobody gets a sealed key of an
  epoch to keep for later. Others carry no audience of their own, so the file has it: the header
  commits to it.
- The record names its attachments, and has the key of each: whoever is also given the encrypted
  bytes of one can open them. The file holds none of these bytes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from protocol import envelope, limits, suite
from protocol.armor import armor_block, dearmor_block
from protocol.canonical import decode, encode
from protocol.delivery_statement import author_bundle
from protocol.envelope import Audience, Envelope, VerifiedEnvelope
from protocol.errors import (
    DecodeError,
    DigestError,
    RecordError,
    StatementError,
    UntrustedKeyError,
    VersionError,
    WrongNetworkError,
)
from protocol.ledger import Check, Ledger, StoppedError
from protocol.shape import array, octets, uint
from protocol.statement import Chain, verify_bundle

VERSION: Final = 1
CHECKS: Final = ("form", "expected", "author", "envelope", "audience", "content", "record")
_WHAT: Final = "disclosure"


@dataclass(frozen=True, slots=True)
class Disclosure:
    """One envelope with the key of its body; well-formed, unverified."""

    envelope: Envelope
    content_key: bytes
    author: bytes
    audience: Audience | None

    def encode(self) -> bytes:
        """Return the canonical bytes of the file."""
        audience = None if self.audience is None else self.audience.encode()
        return encode([VERSION, self.envelope.wire, self.content_key, self.author, audience])


def make_disclosure(
    held: VerifiedEnvelope, *, content_key: bytes, chain: Chain, audience: Audience
) -> Disclosure:
    """Return the disclosure of *held*.

    Args:
        held: the envelope as it was received or released.
        content_key: the key of its body; it is tried.
        chain: the key statements of its author.
        audience: of its epoch.

    Raises:
        OpenError: the key does not open the envelope.
    """
    envelope.open_body(held, content_key)
    slim = envelope.prune(held.envelope, keep=frozenset())
    bundle = author_bundle(chain, card_n=held.header.card_n)
    return Disclosure(slim, content_key, bundle, None if slim.opens_epoch else audience)


def parse_disclosure(data: bytes) -> Disclosure:
    """Return the disclosure that *data* holds.

    Raises:
        DecodeError: it is not canonical, a field has the wrong shape, or it has a slot.
        LimitError: it, or a part of it, is beyond its bound.
        VersionError: it is of a later version.
        AudienceError: the audience breaks its rules.
    """
    fields = array(decode(data, max_bytes=limits.MAX_DISCLOSURE), "disclosure", size=5)
    if (version := uint(fields[0], "disclosure.version")) != VERSION:
        raise VersionError(f"disclosure version {version} is not known; update Picket")
    held = envelope.parse(octets(fields[1], "disclosure.envelope", maximum=limits.MAX_ENVELOPE))
    if any(len(slot) != suite.DIGEST_SIZE for slot in held.slots):
        raise DecodeError("disclosure.envelope has a slot, which is a sealed epoch key")
    audience = None
    if fields[4] is not None:
        given = octets(fields[4], "disclosure.audience", maximum=limits.MAX_AUDIENCE)
        audience = envelope.parse_audience(given, held.header.author)
    if held.opens_epoch == (audience is not None):
        raise DecodeError("disclosure.audience is there if and only if the envelope has none")
    return Disclosure(
        held,
        octets(fields[2], "disclosure.content_key", size=suite.KEY_SIZE),
        octets(fields[3], "disclosure.author", maximum=limits.MAX_BUNDLE),
        audience,
    )


# --- checking --------------------------------------------------------------------------------
@dataclass(frozen=True, slots=True)
class DisclosureReport:
    """Each of CHECKS in order, and what was disclosed as far as it verified.

    ``authority`` is what the author's own card calls it; a name proves nothing about who stands
    behind a node id. ``record`` is the message; the keys of its attachments are left out.
    """

    checks: tuple[Check, ...]
    envelope: Envelope | None
    authority: str | None
    recipients: tuple[bytes, ...]
    record: dict[str, Any] | None

    @property
    def genuine(self) -> bool:
        """Whether every check passed: the author signed exactly this message."""
        return all(check.ok for check in self.checks)


def check_disclosure(
    data: bytes, *, network: bytes | None = None, author: bytes | None = None
) -> DisclosureReport:
    """Check a disclosure with nothing but its own bytes, and open it.

    Args:
        data: as ``Disclosure.encode`` returned it.
        network: the id of the network that it must belong to, if known.
        author: the node id that the message must come from, if known.

    Returns:
        Each of CHECKS in order. The first that fails ends it; the others are "not reached".
    """
    ledger = Ledger()
    held: Envelope | None = None
    authority: str | None = None
    recipients: tuple[bytes, ...] = ()
    record: dict[str, Any] | None = None
    try:
        found = ledger.run("form", lambda: _form(data))
        ledger.run("expected", lambda: _expected(found, network, author))
        chain = ledger.run("author", lambda: _author(found))
        verified = ledger.run("envelope", lambda: _envelope(found, chain))
        held, authority = found.envelope, chain.card.authority if chain.card else None
        recipients = ledger.run("audience", lambda: _audience(found))
        body = ledger.run("content", lambda: _content(verified, found.content_key))
        record = ledger.run("record", lambda: _record(body))
    except StoppedError:
        pass
    return DisclosureReport(ledger.finish(CHECKS), held, authority, recipients, record)


def _form(data: bytes) -> tuple[Disclosure, str]:
    return parse_disclosure(data), f"{len(data)} bytes in their one canonical form"


def _expected(found: Disclosure, network: bytes | None, author: bytes | None) -> tuple[None, str]:
    header = found.envelope.header
    if network is not None and header.network != network:
        raise WrongNetworkError("it belongs to another Picket network")
    if author is not None and header.author != author:
        raise UntrustedKeyError("it comes from another node than expected")
    given = [name for name, value in (("network", network), ("author", author)) if value]
    return None, f"as given: {' and '.join(given)}" if given else "nothing was given to compare"


def _author(found: Disclosure) -> tuple[Chain, str]:
    header = found.envelope.header
    chain = verify_bundle(found.author, network=header.network)
    if chain.node_id != header.author:
        raise StatementError("the author's card is of another node")
    return chain, "the author's cards verify under its identity key"


def _envelope(found: Disclosure, chain: Chain) -> tuple[VerifiedEnvelope, str]:
    held = found.envelope
    card = chain.card_at(held.header.card_n)
    if card is None:
        raise StatementError("the card that the envelope names is missing")
    verified = envelope.verify(held, network=held.header.network, message_key=card.message)
    return verified, "the author signed this envelope"


def _audience(found: Disclosure) -> tuple[tuple[bytes, ...], str]:
    audience = found.envelope.audience or found.audience
    if audience is None:
        raise DecodeError("the audience is missing")
    if suite.digest("audience", audience.encode()) != found.envelope.header.audience_digest:
        raise DigestError("the audience is not the one that the author signed")
    ids = audience.recipient_ids
    return ids, f"{len(ids)} {'recipient' if len(ids) == 1 else 'recipients'}, as it was signed"


def _content(verified: VerifiedEnvelope, key: bytes) -> tuple[bytes, str]:
    return envelope.open_body(verified, key), "the key opens this envelope, and could open no other"


def _record(body: bytes) -> tuple[dict[str, Any], str]:
    # Heavy (pydantic), and needed only here.
    from protocol.incident import Record, split_attachments  # noqa: PLC0415
    from protocol.records import parse_record  # noqa: PLC0415

    value = decode(body, max_bytes=limits.MAX_BODY)
    record = parse_record(value)
    if not isinstance(value, dict):
        raise RecordError("the record is not a map")
    shown, attached = split_attachments(value)
    named = "1 attachment" if len(attached) == 1 else f"{len(attached)} attachments"
    keys = f"; it has what opens {named}" if attached else ""
    what = "an incident report" if isinstance(record, Record) else f"a record {record.KIND}"
    return shown, f"it is {what}{keys}"


# --- text form -------------------------------------------------------------------------------
def armor_disclosure(disclosure: Disclosure) -> str:
    """Return the armoured text of a disclosure, ending in a newline."""
    return armor_block(_WHAT, disclosure.encode())


def dearmor_disclosure(text: str) -> bytes:
    """Return the bytes of the disclosure in *text*.

    Raises:
        DecodeError: it is none, or something inside the block is damaged.
        LimitError: it is too long.
    """
    return dearmor_block(_WHAT, text, maximum=limits.MAX_DISCLOSURE)
