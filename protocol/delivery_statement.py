"""Delivery statements: what an author can prove of one envelope, and the check that needs no node.

    core = [1, network, author, envelope_id, released, window, made, [item, ...]]
    item = [node_id, "delivered", receipts frame with one item]
         | [node_id, "unreachable", last_seen | nil]
         | [node_id, "owed", [linked_from, linked_until]]
    file = [1, core bin, [ed25519, mldsa65], header bin, message signature bin64, audience bin,
            author's bundle bin, [bundle of each recipient bin, ...]]
    signed bytes = label "delivery" + H("delivery", core);   facts = H("delivery-facts", core
    without made)

- Whom it must account for is in the audience, whose digest stands in the header that the author
  signed when it released the envelope: nobody can be left out afterwards.
- A receipt proves itself. That a node was not linked is the author's word; no checker can know it.
- "Delivered to all that could be reached" holds iff nobody is owed and the window is over.
- Everything beside the core proves itself, so the core alone is signed, and the same facts give the
  same bytes whatever cards have been renewed since.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, TypeAlias, assert_never

from protocol import limits, suite
from protocol.canonical import Value, decode, encode
from protocol.checkpoint import parse_body
from protocol.entry import EntryKind
from protocol.envelope import Header, parse_audience, parse_header
from protocol.errors import (
    AudienceError,
    DecodeError,
    DigestError,
    LimitError,
    PeerError,
    ReceiptError,
    SignatureError,
    StatementError,
    UntrustedKeyError,
    VersionError,
    WrongNetworkError,
)
from protocol.frames import Receipts, decode_frame
from protocol.ledger import Check, Ledger, StoppedError
from protocol.note import parse_note
from protocol.receipt import verify_receipts
from protocol.shape import array, octets, text, uint
from protocol.statement import CARD, Card, Chain, NamedKeys, verify_bundle
from protocol.statement import VERSION as BUNDLE_VERSION

VERSION: Final = 1
LABEL: Final = "delivery"
_BEGIN: Final = "-----BEGIN PICKET DELIVERY STATEMENT-----"
_END: Final = "-----END PICKET DELIVERY STATEMENT-----"
_WIDTH: Final = 64
_LAST_TIME: Final = 253_402_300_799_999  # RFC 3339 has no year after 9999
_SHOWN: Final = 5


@dataclass(frozen=True, slots=True)
class Delivered:
    """The recipient's own log holds the envelope: *receipt* is a receipts frame with one item."""

    node_id: bytes
    receipt: bytes


@dataclass(frozen=True, slots=True)
class Unreachable:
    """Not linked to the author at any time in the window; *last_seen* (ms) lies before it."""

    node_id: bytes
    last_seen: int | None


@dataclass(frozen=True, slots=True)
class Owed:
    """Linked to the author in the window, at these two times (ms) at least, and no receipt."""

    node_id: bytes
    linked_from: int
    linked_until: int


Item: TypeAlias = Delivered | Unreachable | Owed


class Claim(StrEnum):
    """Whether the envelope was delivered to all that could be reached."""

    HOLDS = "holds"
    FAILS = "fails"
    OPEN = "open"


@dataclass(frozen=True, slots=True)
class DeliveryStatement:
    """What became of one envelope, as its author saw it at *made*; times are UTC in ms."""

    network: bytes
    author: bytes
    envelope_id: bytes
    released: int
    window: int
    made: int
    items: tuple[Item, ...]

    def encode(self) -> bytes:
        """Return the canonical bytes that the author signs."""
        return encode([*self._head(), self.made, self._items()])

    @property
    def facts(self) -> bytes:
        """The digest of all but ``made``: equal in two statements that say the same."""
        return suite.digest("delivery-facts", encode([*self._head(), self._items()]))

    @property
    def claim(self) -> Claim:
        """Whether "delivered to all that could be reached" holds by what it says.

        It is open while somebody without a receipt may still be linked within the window.
        """
        if any(isinstance(item, Owed) for item in self.items):
            return Claim.FAILS
        everybody = all(isinstance(item, Delivered) for item in self.items)
        over = self.made > self.released + self.window
        return Claim.HOLDS if everybody or over else Claim.OPEN

    def _head(self) -> list[object]:
        return [
            VERSION, self.network, self.author, self.envelope_id, self.released, self.window,
        ]  # fmt: skip

    def _items(self) -> list[object]:
        return [_item_value(item) for item in self.items]


@dataclass(frozen=True, slots=True)
class Evidence:
    """What lets somebody without a node check a statement; each part proves itself.

    ``recipients`` has the card bundle of each recipient of ``audience``, in its order.
    """

    header: bytes
    signature: bytes
    audience: bytes
    author: bytes
    recipients: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class SignedStatement:
    """A well-formed, unverified statement with its evidence."""

    core: bytes
    statement: DeliveryStatement
    signatures: tuple[bytes, bytes]
    evidence: Evidence


@dataclass(frozen=True, slots=True)
class Report:
    """Every check in order, and what the statement says if it could be read.

    ``names`` are the authorities of the nodes, as their own cards give them; a name proves nothing
    about who stands behind a node id.
    """

    checks: tuple[Check, ...]
    statement: DeliveryStatement | None
    names: Mapping[bytes, str]

    @property
    def genuine(self) -> bool:
        """Whether every check passed: the author says this, and the receipts prove themselves."""
        return all(check.ok for check in self.checks)

    @property
    def holds(self) -> bool:
        """Whether the statement is genuine and its claim holds."""
        return self.genuine and self.statement is not None and self.statement.claim is Claim.HOLDS


# --- making ----------------------------------------------------------------------------------
def author_bundle(chain: Chain, *, card_n: int) -> bytes:
    """Return the card bundle of *chain* that also keeps card *card_n* whole.

    The envelope verifies under that card, the statement under the newest.
    """
    return _bundle(chain, {card_n})


def recipient_bundle(chain: Chain, item: Item) -> bytes:
    """Return the card bundle of *chain* that also keeps the card whole that *item* needs.

    A receipt verifies under the keys of the log that gave it, which may have had another name.
    """
    if not isinstance(item, Delivered):
        return _bundle(chain, set())
    origin = _receipt_origin(item)
    named = [
        statement.n for statement in chain.statements
        if isinstance(statement.body, Card) and statement.body.log.name == origin
    ]  # fmt: skip
    return _bundle(chain, set(named[-1:]))


def _receipt_origin(item: Delivered) -> str:
    frame = decode_frame(item.receipt)
    if not isinstance(frame, Receipts):
        raise ReceiptError("it is no receipt of one envelope")
    return parse_body(parse_note(frame.checkpoint).text).origin


def _bundle(chain: Chain, keep: set[int]) -> bytes:
    last = len(chain.statements) - 1
    wires = [
        statement.skeleton() if statement.type == CARD and n not in keep | {last}
        else statement.wire
        for n, statement in enumerate(chain.statements)
    ]  # fmt: skip
    return encode([BUNDLE_VERSION, wires])


def make_statement(
    statement: DeliveryStatement, evidence: Evidence, *, signer: suite.HybridSigner
) -> bytes:
    """Return *statement*, signed by the link key of its author, with its *evidence*.

    Raises:
        LimitError: it is longer than MAX_DELIVERY_STATEMENT.
    """
    core = statement.encode()
    signatures = signer.sign(suite.label(LABEL) + _digest(core))
    data = encode(
        [
            VERSION, core, signatures, evidence.header, evidence.signature, evidence.audience,
            evidence.author, evidence.recipients,
        ]
    )  # fmt: skip
    if len(data) > limits.MAX_DELIVERY_STATEMENT:
        raise LimitError(
            f"the delivery statement is longer than {limits.MAX_DELIVERY_STATEMENT} bytes",
            fix="see each receipt with: picket incidents deliveries",
        )
    return data


def _digest(core: bytes) -> bytes:
    return suite.digest(LABEL, core)


def _item_value(item: Item) -> list[object]:
    match item:
        case Delivered():
            return [item.node_id, "delivered", item.receipt]
        case Unreachable():
            return [item.node_id, "unreachable", item.last_seen]
        case Owed():
            return [item.node_id, "owed", [item.linked_from, item.linked_until]]
        case _:
            assert_never(item)


# --- parsing ---------------------------------------------------------------------------------
def parse_signed(data: bytes) -> SignedStatement:
    """Return the statement that *data* holds, well-formed but unverified.

    Raises:
        DecodeError: it is not canonical, a field has the wrong shape, or a node stands out of
            order or twice.
        LimitError: it, or a part of it, is beyond its bound.
        VersionError: it is of a later version.
    """
    outer = array(decode(data, max_bytes=limits.MAX_DELIVERY_STATEMENT), "delivery", size=8)
    _version(outer[0], "delivery.version")
    core = octets(outer[1], "delivery.core", maximum=limits.MAX_DELIVERY_STATEMENT)
    first, second = array(outer[2], "delivery.signatures", size=2)
    bundles = array(outer[7], "delivery.recipients", minimum=1, maximum=limits.MAX_RECIPIENTS)
    return SignedStatement(
        core,
        _parse_core(core),
        (
            octets(first, "delivery.signatures[0]", size=suite.ED25519_SIGNATURE),
            octets(second, "delivery.signatures[1]", size=suite.MLDSA65_SIGNATURE),
        ),
        Evidence(
            header=octets(outer[3], "delivery.header", maximum=limits.MAX_HEADER),
            signature=octets(outer[4], "delivery.signature", size=suite.ED25519_SIGNATURE),
            audience=octets(outer[5], "delivery.audience", maximum=limits.MAX_AUDIENCE),
            author=octets(outer[6], "delivery.author", maximum=limits.MAX_BUNDLE),
            recipients=tuple(
                octets(item, "delivery.recipient", maximum=limits.MAX_BUNDLE) for item in bundles
            ),
        ),
    )


def _version(value: Value, where: str) -> None:
    if (version := uint(value, where)) != VERSION:
        raise VersionError(f"{where} {version} is not known; update Picket")


def _time(value: Value, where: str) -> int:
    return uint(value, where, maximum=_LAST_TIME)


def _parse_core(core: bytes) -> DeliveryStatement:
    fields = array(decode(core, max_bytes=limits.MAX_DELIVERY_STATEMENT), "core", size=8)
    _version(fields[0], "core.version")
    items = tuple(
        _parse_item(item)
        for item in array(fields[7], "core.items", minimum=1, maximum=limits.MAX_RECIPIENTS)
    )
    ids = [item.node_id for item in items]
    if ids != sorted(set(ids)):
        raise DecodeError("core.items are not in ascending order, or name a node twice")
    return DeliveryStatement(
        network=octets(fields[1], "core.network", size=32),
        author=octets(fields[2], "core.author", size=32),
        envelope_id=octets(fields[3], "core.envelope_id", size=32),
        released=_time(fields[4], "core.released"),
        window=uint(
            fields[5], "core.window",
            minimum=limits.REACHABLE_WINDOW_MS, maximum=limits.MAX_LIFETIME_MS,
        ),
        made=_time(fields[6], "core.made"),
        items=items,
    )  # fmt: skip


def _parse_item(value: Value) -> Item:
    first, state, evidence = array(value, "item", size=3)
    node_id = octets(first, "item.node_id", size=32)
    match text(state, "item.state"):
        case "delivered":
            receipt = octets(evidence, "item.receipt", maximum=limits.MAX_RECEIPT_FRAME)
            return Delivered(node_id, receipt)
        case "unreachable":
            seen = None if evidence is None else _time(evidence, "item.last_seen")
            return Unreachable(node_id, seen)
        case "owed":
            since, until = array(evidence, "item.linked", size=2)
            return Owed(
                node_id, _time(since, "item.linked_from"), _time(until, "item.linked_until")
            )
        case _:
            raise DecodeError("item.state is none of delivered, unreachable, owed")


# --- checking --------------------------------------------------------------------------------
CHECKS: Final = (
    "form", "expected", "author", "signature", "envelope", "audience", "recipients", "cards",
    "receipts", "times",
)  # fmt: skip


def check_statement(
    data: bytes, *, network: bytes | None = None, author: bytes | None = None
) -> Report:
    """Check a delivery statement with nothing but its own bytes.

    Args:
        data: as ``make_statement`` returned it.
        network: the id of the network that it must belong to, if known.
        author: the node id that it must come from, if known.

    Returns:
        Each of CHECKS in order. The first that fails ends it; the others are "not reached".
    """
    ledger = Ledger()
    statement: DeliveryStatement | None = None
    names: dict[bytes, str] = {}
    try:
        signed = ledger.run("form", lambda: _check_form(data))
        statement, evidence = signed.statement, signed.evidence
        said = statement  # one that is not None, for the closures
        ledger.run("expected", lambda: _check_expected(said, network, author))
        chain = ledger.run("author", lambda: _check_author(said, evidence))
        names[chain.node_id] = _card(chain).authority
        ledger.run("signature", lambda: _check_signature(signed, chain))
        header = ledger.run("envelope", lambda: _check_envelope(said, evidence, chain))
        recipients = ledger.run("audience", lambda: _check_audience(said, evidence, header))
        ledger.run("recipients", lambda: _check_recipients(said, recipients))
        chains = ledger.run("cards", lambda: _check_cards(said, evidence, recipients))
        names |= {other.node_id: _card(other).authority for other in chains}
        ledger.run("receipts", lambda: _check_receipts(said, chains))
        ledger.run("times", lambda: _check_times(said))
    except StoppedError:
        pass
    return Report(ledger.finish(CHECKS), statement, names)


def _check_form(data: bytes) -> tuple[SignedStatement, str]:
    return parse_signed(data), f"{len(data)} bytes in their one canonical form"


def _check_expected(
    said: DeliveryStatement, network: bytes | None, author: bytes | None
) -> tuple[None, str]:
    if network is not None and said.network != network:
        raise WrongNetworkError("it belongs to another Picket network")
    if author is not None and said.author != author:
        raise UntrustedKeyError("it comes from another node than expected")
    given = [name for name, value in (("network", network), ("author", author)) if value]
    return None, f"as given: {' and '.join(given)}" if given else "nothing was given to compare"


def _check_author(said: DeliveryStatement, evidence: Evidence) -> tuple[Chain, str]:
    chain = verify_bundle(evidence.author, network=said.network)
    if chain.node_id != said.author:
        raise StatementError("the author's card is of another node")
    return chain, "the author's cards verify under its identity key"


def _check_signature(signed: SignedStatement, chain: Chain) -> tuple[None, str]:
    suite.verify_hybrid(LABEL, _card(chain).link, _digest(signed.core), signed.signatures)
    return None, "signed by the author, Ed25519 and ML-DSA-65"


def _check_envelope(
    said: DeliveryStatement, evidence: Evidence, chain: Chain
) -> tuple[Header, str]:
    if suite.digest("envelope", evidence.header) != said.envelope_id:
        raise DigestError("the header is that of another envelope")
    header = parse_header(evidence.header)
    if (header.network, header.author) != (said.network, said.author):
        raise SignatureError("the envelope has another author or network")
    card = chain.card_at(header.card_n)
    if card is None:
        raise StatementError("the card that the envelope names is missing")
    suite.verify("message", card.message, said.envelope_id, evidence.signature)
    if header.created != said.released:
        raise DigestError("the envelope was released at another time")
    return header, "the author signed this envelope at the time of release"


def _check_audience(
    said: DeliveryStatement, evidence: Evidence, header: Header
) -> tuple[tuple[bytes, ...], str]:
    if suite.digest("audience", evidence.audience) != header.audience_digest:
        raise DigestError("the audience is not the one that the author signed")
    recipients = parse_audience(evidence.audience, said.author).recipient_ids
    return recipients, f"as the author signed it; recipients: {len(recipients)}"


def _check_recipients(said: DeliveryStatement, recipients: Sequence[bytes]) -> tuple[None, str]:
    stated = {item.node_id for item in said.items}
    if missing := [node_id for node_id in recipients if node_id not in stated]:
        raise AudienceError(f"{len(missing)} recipients are left out: {_shown(missing)}")
    if strange := sorted(stated - set(recipients)):
        raise AudienceError(f"{len(strange)} are no recipients: {_shown(strange)}")
    return None, "each recipient is accounted for, once"


def _check_cards(
    said: DeliveryStatement, evidence: Evidence, recipients: Sequence[bytes]
) -> tuple[tuple[Chain, ...], str]:
    if len(evidence.recipients) != len(recipients):
        raise StatementError("there is not one card for each recipient")
    chains = []
    for node_id, bundle in zip(recipients, evidence.recipients, strict=True):
        chain = verify_bundle(bundle, network=said.network)
        if chain.node_id != node_id:
            raise StatementError(f"the card of {_shown([node_id])} is of another node")
        chains.append(chain)
    return tuple(chains), "the recipients' cards verify under their identity keys"


def _check_receipts(said: DeliveryStatement, chains: Sequence[Chain]) -> tuple[None, str]:
    count, bad = 0, []
    for item, chain in zip(said.items, chains, strict=True):
        if isinstance(item, Delivered):
            count += 1
            try:
                verify_delivery(item, envelope_id=said.envelope_id, chain=chain)
            except PeerError as error:
                bad.append((item.node_id, error))
    if bad:
        first = bad[0][1]
        raise type(first)(
            f"{len(bad)} of {count} receipts prove nothing: {_shown([i for i, _ in bad])}: "
            f"{first.message}"
        )
    return None, f"all verify in their recipients' logs; receipts: {count}"


def verify_delivery(item: Delivered, *, envelope_id: bytes, chain: Chain) -> None:
    """Verify that *item* proves the envelope to stand, to be read, in a log of *chain*'s node.

    That log is the one of its newest card, or the one of an older card that is there whole: a node
    that had to begin a new log has had two names, and a receipt outlives the name.

    Raises:
        PeerError: the receipt is malformed, forged, of another node or envelope, or a carrier's.
    """
    frame = decode_frame(item.receipt)
    if not isinstance(frame, Receipts) or len(frame.items) != 1:
        raise ReceiptError("it is no receipt of one envelope")
    if frame.recipient != item.node_id:
        raise ReceiptError("it is the receipt of another node")
    (receipt,) = verify_receipts(frame, log=_log(chain, _receipt_origin(item)))
    if receipt.envelope_id != envelope_id:
        raise ReceiptError("it is the receipt of another envelope")
    if receipt.kind is not EntryKind.RECEIVED:
        raise ReceiptError("it is the receipt of a carrier")


def _check_times(said: DeliveryStatement) -> tuple[None, str]:
    if said.made < said.released:
        raise DecodeError("it was made before the release")
    ends = min(said.released + said.window, said.made)
    for item in said.items:
        if isinstance(item, Unreachable):
            if item.last_seen is not None and item.last_seen >= said.released:
                raise DecodeError(f"{_shown([item.node_id])} was seen after the release")
        elif isinstance(item, Owed) and not (
            said.released <= item.linked_from <= item.linked_until <= ends
        ):
            raise DecodeError(f"the link of {_shown([item.node_id])} lies outside the window")
    return None, "the times agree with each other"


def _log(chain: Chain, origin: str) -> NamedKeys:
    """Return the keys of the log *origin* of the newest card that names it, or the newest keys."""
    for statement in reversed(chain.statements):
        if isinstance(statement.body, Card) and statement.body.log.name == origin:
            return statement.body.log
    return _card(chain).log


def _card(chain: Chain) -> Card:
    card = chain.card
    if card is None:  # verify_bundle makes sure of one
        raise StatementError("the chain has no card")
    return card


def _shown(ids: Sequence[bytes]) -> str:
    more = ", …" if len(ids) > _SHOWN else ""
    return ", ".join(node_id.hex()[:16] for node_id in ids[:_SHOWN]) + more


# --- text form -------------------------------------------------------------------------------
def armor_statement(data: bytes) -> str:
    """Return the armoured text of a statement, ending in a newline."""
    encoded = base64.b64encode(data).decode("ascii")
    lines = [encoded[at : at + _WIDTH] for at in range(0, len(encoded), _WIDTH)]
    return "\n".join([_BEGIN, *lines, _END, ""])


def dearmor_statements(armored: str) -> tuple[bytes, ...]:
    """Return the statements in *armored*, one after the other; white space between is allowed.

    Raises:
        DecodeError: there is none, or something in or between the blocks is damaged.
        LimitError: it is longer than twice MAX_DELIVERY_STATEMENT, or has too many blocks.
    """
    if len(armored) > 2 * limits.MAX_DELIVERY_STATEMENT:
        raise LimitError("this is too long to be delivery statements")
    blocks: list[bytes] = []
    lines: list[str] | None = None  # of the block that is open
    for line in armored.replace("\r\n", "\n").strip().split("\n"):
        if lines is None:
            if line.strip() and line != _BEGIN:
                raise _no_statement()
            lines = [] if line == _BEGIN else None
        elif line == _END:
            blocks.append(_decode_block(lines))
            lines = None
            if len(blocks) > limits.MAX_STATEMENTS_IN_TEXT:
                raise LimitError(f"more than {limits.MAX_STATEMENTS_IN_TEXT} delivery statements")
        else:
            lines.append(line)
    if lines is not None or not blocks:
        raise _no_statement()
    return tuple(blocks)


def _decode_block(lines: Sequence[str]) -> bytes:
    try:
        data = base64.b64decode("".join(lines), validate=True)
    except (binascii.Error, ValueError):
        data = b""
    if not data or armor_statement(data) != "\n".join([_BEGIN, *lines, _END, ""]):
        raise DecodeError("the delivery statement is damaged", fix="ask for it again, as a file")
    return data


def _no_statement() -> DecodeError:
    return DecodeError(
        "this is not a Picket delivery statement",
        fix=f"it must begin with the line {_BEGIN} and end with {_END}; ask for it again",
    )
