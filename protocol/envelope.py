"""The envelope: seal, parse, verify and open one signed, end-to-end encrypted record.

    pre    = [1, suite, network, author, card_n, incarnation, stream, seq, prev, created, expires,
              kind, epoch, opener | nil, audience_digest, anchor | nil]
    header = [pre bin, slots_digest | nil, H("ciphertext", ciphertext)]
    id     = H("envelope", header);   signature = Ed25519("message" label + id)
    wire   = [header bin, signature bin64, ciphertext bin, audience bin | nil, [slot, ...] | nil]
    audience = [author_ekid, [[node_id, ekid], ...], [carrier, ...]]

- The envelope that opens an epoch of a stream carries the audience and a slot for each member, the
  author first; in each slot the 32-byte epoch key is sealed. The others carry neither and name
  their opener. Only digests are signed, so a slot may shrink to its 32-byte digest.
- The key of one body is derived from the epoch key and this header, so disclosing it opens this one
  envelope and nothing else.
- Checks run in the order: bounds, encoding, network, key, signature, digests. No private key is
  needed for any of them, and no field is believed before the signature is.
- An ``Envelope`` is unverified; a ``VerifiedEnvelope`` is signed and whole, for whomever it is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

from protocol import limits, suite
from protocol.canonical import Value, decode, encode
from protocol.errors import (
    AudienceError,
    DecodeError,
    DigestError,
    LimitError,
    OpenError,
    VersionError,
    WrongNetworkError,
)
from protocol.shape import array, octets, text, uint
from protocol.statement import Card

VERSION: Final = 1
SUITE: Final = 1
KIND_RECORD: Final = 1
KINDS: Final = frozenset({KIND_RECORD})
STREAM_SIZE: Final = 16
_LENGTH_PREFIX: Final = 4


@dataclass(frozen=True, slots=True)
class Anchor:
    """A cosigned checkpoint the author has seen: nobody could know its root any earlier."""

    origin: str
    size: int
    root: bytes


@dataclass(frozen=True, slots=True)
class Audience:
    """Who may open (recipients, by node id) and who may store and forward (carriers)."""

    author_ekid: bytes
    recipients: tuple[tuple[bytes, bytes], ...]
    carriers: tuple[bytes, ...]

    def encode(self) -> bytes:
        """Return the canonical bytes that the header commits to."""
        return encode([self.author_ekid, self.recipients, self.carriers])

    @property
    def recipient_ids(self) -> tuple[bytes, ...]:
        """Node ids of the recipients, ascending."""
        return tuple(node_id for node_id, _ in self.recipients)

    def admits(self, node_id: bytes) -> bool:
        """Tell whether *node_id* may hold the envelope as a recipient or carrier."""
        return node_id in self.carriers or node_id in self.recipient_ids


@dataclass(frozen=True, slots=True)
class Header:
    """The signed fields of an envelope."""

    network: bytes
    author: bytes
    card_n: int
    incarnation: int
    stream: bytes
    seq: int
    prev: bytes
    created: int
    expires: int
    kind: int
    epoch: int
    opener: bytes | None
    audience_digest: bytes
    anchor: Anchor | None

    def encode(self) -> bytes:
        """Return the canonical bytes of ``pre``."""
        anchor = None
        if self.anchor is not None:
            anchor = [self.anchor.origin, self.anchor.size, self.anchor.root]
        return encode(
            [
                VERSION,
                SUITE,
                self.network,
                self.author,
                self.card_n,
                self.incarnation,
                self.stream,
                self.seq,
                self.prev,
                self.created,
                self.expires,
                self.kind,
                self.epoch,
                self.opener,
                self.audience_digest,
                anchor,
            ]
        )


@dataclass(frozen=True, slots=True)
class Envelope:
    """A well-formed, unverified envelope."""

    wire: bytes
    id: bytes
    header_bytes: bytes
    pre: bytes
    header: Header
    slots_digest: bytes | None
    ciphertext_digest: bytes
    signature: bytes
    ciphertext: bytes
    audience: Audience | None
    slots: tuple[bytes, ...]

    @property
    def opens_epoch(self) -> bool:
        """True if this envelope carries the slots of its epoch."""
        return self.header.opener is None


@dataclass(frozen=True, slots=True)
class VerifiedEnvelope:
    """An envelope whose signature and digests hold; made only by ``verify``."""

    envelope: Envelope

    @property
    def id(self) -> bytes:
        """The digest of the signed header."""
        return self.envelope.id

    @property
    def header(self) -> Header:
        """The signed fields."""
        return self.envelope.header


@dataclass(frozen=True, slots=True)
class Epoch:
    """What an envelope that opens no epoch needs of the one that did."""

    opener: bytes
    stream: bytes
    number: int
    audience: Audience
    key: bytes


# --- sealing ---------------------------------------------------------------------------------
def audience_of(
    author: Card, recipients: Mapping[bytes, Card], carriers: Sequence[bytes], *, now: int
) -> Audience:
    """Return the audience that names the sealing keys valid at *now*.

    Raises:
        AudienceError: nobody, too many, or the same node twice.
        VersionError: a recipient's card asks for a later suite.
        ExpiredError: a card, or all sealing keys in one, are out of their time.
    """
    if not recipients:
        raise AudienceError("the audience is empty", fix="name at least one recipient")
    if len(recipients) > limits.MAX_RECIPIENTS or len(carriers) > limits.MAX_CARRIERS:
        raise AudienceError(
            f"at most {limits.MAX_RECIPIENTS} recipients and {limits.MAX_CARRIERS} carriers"
        )
    if any(card.min_suite > SUITE for card in recipients.values()):
        raise VersionError("a recipient takes no envelopes of this suite; update Picket")
    if len(set(carriers)) != len(carriers) or not set(carriers).isdisjoint(recipients):
        raise AudienceError("a node is named twice in the audience")
    return Audience(
        author_ekid=author.seal_key(now).ekid,
        recipients=tuple(
            (node_id, recipients[node_id].seal_key(now).ekid) for node_id in sorted(recipients)
        ),
        carriers=tuple(sorted(carriers)),
    )


def open_epoch(
    header: Header,
    body: bytes,
    *,
    audience: Audience,
    seal_keys: Mapping[bytes, bytes],
    epoch_key: bytes,
    signer: suite.Signer,
) -> Envelope:
    """Seal *body* in an envelope that opens a new epoch under *epoch_key*.

    Args:
        header: with ``opener`` None and ``audience_digest`` left to this function.
        body: canonical bytes, not yet padded.
        audience: who gets a slot.
        seal_keys: the public sealing key for each ekid in the audience.
        epoch_key: 32 fresh random bytes.
        signer: the author's message key.

    Raises:
        WeakKeyError: a recipient's key cannot be sealed to; nothing is sent to anybody.
        LimitError: the body is too large.
    """
    header = replace(header, opener=None, audience_digest=_audience_digest(audience.encode()))
    pre = header.encode()
    pre_digest = suite.digest("pre", pre)
    slots = tuple(
        suite.seal_to(seal_keys[ekid], epoch_key, _slot_info(pre_digest, ekid))
        for ekid in _slot_ekids(audience)
    )
    return _seal(pre, body, epoch_key, signer, audience=audience.encode(), slots=slots)


def continue_epoch(header: Header, body: bytes, *, epoch: Epoch, signer: suite.Signer) -> Envelope:
    """Seal *body* in an envelope of a running *epoch*: no slots, the opener is named.

    Raises:
        LimitError: the body is too large.
    """
    header = replace(
        header,
        opener=epoch.opener,
        stream=epoch.stream,
        epoch=epoch.number,
        audience_digest=_audience_digest(epoch.audience.encode()),
    )
    return _seal(header.encode(), body, epoch.key, signer, audience=None, slots=())


def _seal(
    pre: bytes,
    body: bytes,
    epoch_key: bytes,
    signer: suite.Signer,
    *,
    audience: bytes | None,
    slots: tuple[bytes, ...],
) -> Envelope:
    slots_digest = _slots_digest(slots) if slots else None
    key = _content_key(epoch_key, pre)
    ciphertext = suite.encrypt_body(key, _body_context(pre, slots_digest), pad(body))
    header = encode([pre, slots_digest, suite.digest("ciphertext", ciphertext)])
    envelope_id = suite.digest("envelope", header)
    signature = signer.sign(suite.label("message") + envelope_id, header)
    wire = encode([header, signature, ciphertext, audience, list(slots) if slots else None])
    return parse(wire)


def pad(body: bytes) -> bytes:
    """Return *body* with its length in front and zeros behind, 1,024 bytes or a PADMÉ size.

    PADMÉ (Nikitin et al., PETS 2019, section 4) leaks O(log log n) bits of the length.

    Raises:
        LimitError: the body is longer than 64 KiB.
    """
    if len(body) > limits.MAX_BODY:
        raise LimitError(
            f"the record is {len(body)} bytes long; {limits.MAX_BODY} are allowed",
            fix="move long texts and files to attachments",
        )
    size = padded_size(_LENGTH_PREFIX + len(body))
    return (len(body).to_bytes(_LENGTH_PREFIX, "big") + body).ljust(size, b"\0")


def padded_size(size: int) -> int:
    """Return the smallest allowed size that holds *size* bytes."""
    if size <= limits.MIN_PADDED:
        return limits.MIN_PADDED
    exponent = size.bit_length() - 1
    mask = (1 << (exponent - exponent.bit_length())) - 1
    return (size + mask) & ~mask


def _unpad(padded: bytes) -> bytes:
    size = int.from_bytes(padded[:_LENGTH_PREFIX], "big")
    body = padded[_LENGTH_PREFIX : _LENGTH_PREFIX + size]
    if len(body) != size or pad(body) != padded:
        raise OpenError("the body is not padded as it must be")
    return body


# --- digests ---------------------------------------------------------------------------------
def _audience_digest(audience: bytes) -> bytes:
    return suite.digest("audience", audience)


def _slot_digest(slot: bytes) -> bytes:
    # A dropped slot stands for itself: 32 bytes can only be a digest, 1,168 only a slot.
    return slot if len(slot) == suite.DIGEST_SIZE else suite.digest("slot-digest", slot)


def _slots_digest(slots: Sequence[bytes]) -> bytes:
    return suite.digest("slots", *map(_slot_digest, slots))


def _slot_info(pre_digest: bytes, ekid: bytes) -> bytes:
    return suite.label("slot") + pre_digest + ekid


def _slot_ekids(audience: Audience) -> tuple[bytes, ...]:
    return (audience.author_ekid, *(ekid for _, ekid in audience.recipients))


def _content_key(epoch_key: bytes, pre: bytes) -> bytes:
    return suite.derive(epoch_key, "content-key", suite.digest("pre", pre))


def _body_context(pre: bytes, slots_digest: bytes | None) -> bytes:
    return suite.label("body") + suite.digest("pre", pre) + (slots_digest or suite.ZERO)


# --- parsing ---------------------------------------------------------------------------------
def parse(wire: bytes) -> Envelope:
    """Return the envelope that *wire* holds, well-formed but unverified.

    Raises:
        DecodeError: it is not canonical, or a field has the wrong shape.
        LimitError: it, or a part of it, is beyond its bound.
        VersionError: it is of a later version or another suite.
        AudienceError: the audience breaks its rules.
    """
    outer = array(decode(wire, max_bytes=limits.MAX_ENVELOPE), "envelope", size=5)
    header_bytes = octets(outer[0], "envelope.header", maximum=limits.MAX_HEADER)
    pre, header, slots_digest, ciphertext_digest = _parse_signed(header_bytes)
    envelope = Envelope(
        wire=wire,
        id=suite.digest("envelope", header_bytes),
        header_bytes=header_bytes,
        pre=pre,
        header=header,
        slots_digest=slots_digest,
        ciphertext_digest=ciphertext_digest,
        signature=octets(outer[1], "envelope.signature", size=suite.ED25519_SIGNATURE),
        ciphertext=octets(outer[2], "envelope.ciphertext", maximum=limits.MAX_CIPHERTEXT),
        audience=_parse_audience(outer[3], header.author),
        slots=_parse_slots(outer[4]),
    )
    _check_form(envelope)
    return envelope


def parse_header(header_bytes: bytes) -> Header:
    """Return the fields of the signed *header_bytes* of an envelope.

    Raises:
        DecodeError: it is not canonical, or a field has the wrong shape.
        LimitError: it is too long.
        VersionError: it is of a later version or another suite.
    """
    return _parse_signed(header_bytes)[1]


def _parse_signed(header_bytes: bytes) -> tuple[bytes, Header, bytes | None, bytes]:
    """Return ``pre``, its fields, the digest of the slots and that of the ciphertext."""
    fields = array(decode(header_bytes, max_bytes=limits.MAX_HEADER), "header", size=3)
    pre = octets(fields[0], "header.pre", maximum=limits.MAX_HEADER)
    header = _parse_header(decode(pre, max_bytes=limits.MAX_HEADER))
    slots_digest = _optional32(fields[1], "header.slots_digest")
    return pre, header, slots_digest, octets(fields[2], "header.ciphertext_digest", size=32)


def peek_id(wire: bytes) -> bytes:
    """Return the id that *wire* would have as an envelope, looking at nothing else.

    Raises:
        DecodeError: it has no header.
        LimitError: it is too long.
    """
    outer = array(decode(wire, max_bytes=limits.MAX_ENVELOPE), "envelope", size=5)
    return suite.digest("envelope", octets(outer[0], "envelope.header", maximum=limits.MAX_HEADER))


def _optional32(value: Value, field: str) -> bytes | None:
    return None if value is None else octets(value, field, size=32)


def _parse_header(value: Value) -> Header:
    fields = array(value, "pre", size=16)
    if (version := uint(fields[0], "pre.version")) != VERSION:
        raise VersionError(f"envelope version {version} is not known; update Picket")
    if (number := uint(fields[1], "pre.suite")) != SUITE:
        raise VersionError(f"envelope suite {number} is not accepted")
    header = Header(
        network=octets(fields[2], "pre.network", size=32),
        author=octets(fields[3], "pre.author", size=32),
        card_n=uint(fields[4], "pre.card_n", maximum=limits.MAX_CHAIN - 1),
        incarnation=uint(fields[5], "pre.incarnation", maximum=2**32 - 1, minimum=1),
        stream=octets(fields[6], "pre.stream", size=STREAM_SIZE),
        seq=uint(fields[7], "pre.seq", minimum=1, maximum=limits.MAX_SEQ),
        prev=octets(fields[8], "pre.prev", size=32),
        created=uint(fields[9], "pre.created"),
        expires=uint(fields[10], "pre.expires"),
        kind=uint(fields[11], "pre.kind", maximum=255),
        epoch=uint(fields[12], "pre.epoch", minimum=1, maximum=2**32 - 1),
        opener=_optional32(fields[13], "pre.opener"),
        audience_digest=octets(fields[14], "pre.audience_digest", size=32),
        anchor=_parse_anchor(fields[15]),
    )
    if header.kind not in KINDS:
        raise VersionError(f"envelope kind {header.kind} is not known; update Picket")
    if not 0 < header.expires - header.created <= limits.MAX_LIFETIME_MS:
        raise DecodeError("pre.expires is not within 90 days after pre.created")
    if header.seq > 1 and header.prev == suite.ZERO:
        raise DecodeError("pre.prev is zero, which only the first envelope of a stream may have")
    return header


def _parse_anchor(value: Value) -> Anchor | None:
    if value is None:
        return None
    origin, size, root = array(value, "pre.anchor", size=3)
    return Anchor(
        text(origin, "pre.anchor.origin"),
        uint(size, "pre.anchor.size", maximum=limits.MAX_LOG_SIZE),
        octets(root, "pre.anchor.root", size=32),
    )


def _parse_audience(value: Value, author: bytes) -> Audience | None:
    if value is None:
        return None
    data = octets(value, "envelope.audience", maximum=limits.MAX_ENVELOPE)
    return parse_audience(data, author)


def parse_audience(data: bytes, author: bytes) -> Audience:
    """Return the audience that *data* holds, for an envelope of *author*.

    Raises:
        DecodeError: it is not canonical, or a field has the wrong shape.
        AudienceError: it names nobody, the author, or one node twice, or is not in order.
    """
    fields = array(decode(data, max_bytes=limits.MAX_ENVELOPE), "audience", size=3)
    pairs = array(fields[1], "audience.recipients", minimum=1, maximum=limits.MAX_RECIPIENTS)
    recipients = []
    for pair in pairs:
        node_id, ekid = array(pair, "audience.recipient", size=2)
        recipients.append(
            (
                octets(node_id, "audience.recipient.node_id", size=32),
                octets(ekid, "audience.recipient.ekid", size=32),
            )
        )
    carriers = [
        octets(item, "audience.carrier", size=32)
        for item in array(fields[2], "audience.carriers", maximum=limits.MAX_CARRIERS)
    ]
    ids = [node_id for node_id, _ in recipients]
    if ids != sorted(set(ids)) or carriers != sorted(set(carriers)):
        raise AudienceError("the audience is not in ascending order, or names a node twice")
    if author in ids or author in carriers or not set(ids).isdisjoint(carriers):
        raise AudienceError("a node has two parts in the audience")
    return Audience(
        octets(fields[0], "audience.author_ekid", size=32), tuple(recipients), tuple(carriers)
    )


def _parse_slots(value: Value) -> tuple[bytes, ...]:
    if value is None:
        return ()
    slots = array(value, "envelope.slots", minimum=2, maximum=limits.MAX_RECIPIENTS + 1)
    parsed = tuple(octets(slot, "envelope.slot", maximum=limits.SLOT_SIZE) for slot in slots)
    if any(len(slot) not in {limits.SLOT_SIZE, suite.DIGEST_SIZE} for slot in parsed):
        raise DecodeError("a slot is neither 1,168 bytes nor a 32-byte digest")
    return parsed


def _check_form(envelope: Envelope) -> None:
    parts = (envelope.audience, envelope.slots_digest, envelope.slots or None)
    if envelope.opens_epoch:
        if any(part is None for part in parts):
            raise DecodeError("an envelope that opens an epoch lacks its audience or slots")
    elif any(part is not None for part in parts):
        raise DecodeError("an envelope that names an opener has an audience or slots of its own")
    if envelope.audience and len(envelope.slots) != len(envelope.audience.recipients) + 1:
        raise AudienceError("there is not one slot for the author and each recipient")


# --- verifying -------------------------------------------------------------------------------
def verify(envelope: Envelope, *, network: bytes, message_key: bytes) -> VerifiedEnvelope:
    """Verify the signature under *message_key*, then every digest that it covers.

    Raises:
        WrongNetworkError: it belongs to another network.
        SignatureError: the author did not sign this header.
        DigestError: the ciphertext, audience or slots are not the signed ones.
    """
    if envelope.header.network != network:
        raise WrongNetworkError("the envelope belongs to another Picket network")
    suite.verify("message", message_key, envelope.id, envelope.signature)
    if suite.digest("ciphertext", envelope.ciphertext) != envelope.ciphertext_digest:
        raise DigestError("the ciphertext is not the signed one")
    if envelope.audience is not None:
        if _audience_digest(envelope.audience.encode()) != envelope.header.audience_digest:
            raise DigestError("the audience is not the signed one")
        if _slots_digest(envelope.slots) != envelope.slots_digest:
            raise DigestError("the slots are not the signed ones")
    return VerifiedEnvelope(envelope)


def check_epoch(verified: VerifiedEnvelope, opener: Header, audience: Audience) -> None:
    """Check that an envelope that names an opener really belongs to that epoch.

    Raises:
        DigestError: author, stream, incarnation, epoch number or audience differ.
    """
    header = verified.header
    same = (header.author, header.stream, header.incarnation, header.epoch) == (
        opener.author, opener.stream, opener.incarnation, opener.epoch,
    )  # fmt: skip
    if not same or _audience_digest(audience.encode()) != header.audience_digest:
        raise DigestError("the envelope does not belong to the epoch that it names")


# --- opening ---------------------------------------------------------------------------------
def unseal_epoch(verified: VerifiedEnvelope, *, node_id: bytes, unsealer: suite.Unsealer) -> Epoch:
    """Open our slot of an envelope that opens an epoch, as its author or as a recipient.

    Raises:
        AudienceError: we have no slot in it.
        OpenError: the slot was dropped, or does not open.
    """
    envelope = verified.envelope
    audience = envelope.audience
    if audience is None:
        raise AudienceError("the envelope opens no epoch")
    members = (verified.header.author, *audience.recipient_ids)
    if node_id not in members:
        raise AudienceError("the envelope has no slot for this node")
    index = members.index(node_id)
    slot = envelope.slots[index]
    if len(slot) != limits.SLOT_SIZE:
        raise OpenError("the slot for this node was dropped on the way")
    ekid = _slot_ekids(audience)[index]
    key = unsealer.unseal(ekid, slot, _slot_info(suite.digest("pre", envelope.pre), ekid))
    if len(key) != suite.KEY_SIZE:
        raise OpenError("the slot does not hold a key")
    return Epoch(envelope.id, verified.header.stream, verified.header.epoch, audience, key)


def content_key(verified: VerifiedEnvelope, epoch: Epoch) -> bytes:
    """Return the 32-byte key that opens this envelope and no other."""
    return _content_key(epoch.key, verified.envelope.pre)


def open_body(verified: VerifiedEnvelope, key: bytes) -> bytes:
    """Return the body of *verified*, opened with its content *key*.

    Raises:
        OpenError: it does not open, or is not padded as it must be.
    """
    envelope = verified.envelope
    context = _body_context(envelope.pre, envelope.slots_digest)
    return _unpad(suite.decrypt_body(key, context, envelope.ciphertext))


def prune(envelope: Envelope, *, keep: frozenset[bytes]) -> Envelope:
    """Return *envelope* with the slots of members outside *keep* reduced to their digests."""
    if envelope.audience is None:
        return envelope
    members = (envelope.header.author, *envelope.audience.recipient_ids)
    slots = [
        slot if member in keep else _slot_digest(slot)
        for member, slot in zip(members, envelope.slots, strict=True)
    ]
    outer = array(decode(envelope.wire, max_bytes=limits.MAX_ENVELOPE), "envelope", size=5)
    return parse(encode([*outer[:4], slots]))
