"""Key statements: the hash-linked chain in which a node says which keys are its own.

    core   = [1, type, network, node_id, n, prev, issued, H("statement-body", body)]
    wire   = [core bin, body bin | nil, [[index, ed25519, mldsa65], ...]]
    digest = H("statement", core);   signed bytes = label "key/<type>" + digest
    node_id = H("node", core of statement 0 with an empty node_id)

- The node id is the digest of the inception, so no rotation ever changes it.
- Numbers rise by exactly one and each statement names the digest of the one before.
- Both algorithms sign every statement; either one missing refuses it.
- A card that a later, signed statement replaces may shrink to its skeleton (no body, no
  signatures): the chain stays verifiable at about 160 bytes a card.
- A parsed ``Statement`` is unverified; only ``Chain.start`` and ``Chain.extend`` make trusted
  values.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final, TypeAlias

from protocol import limits, suite
from protocol.canonical import Value, decode, encode
from protocol.errors import (
    DecodeError,
    EquivocationError,
    ExpiredError,
    LimitError,
    StatementError,
    VersionError,
    WeakKeyError,
    WrongNetworkError,
)
from protocol.shape import array, exact_map, octets, text, uint

VERSION: Final = 1
INCEPTION: Final = "inception"
CARD: Final = "card"
ROLES: Final = ("national-authority", "regional-centre", "international-organisation")
_IDENTITY_PAIR: Final = 2
_COUNTRY: Final = re.compile(r"[A-Z]{2}")
# A registered name of RFC 3986 section 3.2.2 without its rarer characters, or an IPv6 literal.
_ENDPOINT: Final = re.compile(
    r"wss://(?:[A-Za-z0-9._-]+|\[(?P<ipv6>[0-9A-Fa-f:.]+)\]):(?P<port>[1-9][0-9]{0,4})"
)
_MAX_PORT: Final = 65_535
_INCEPTION_KEYS: Final = ("keys", "threshold", "next", "next_threshold", "revocation")
_CARD_KEYS: Final = (
    "authority", "country", "role", "contact", "endpoints", "expires", "min_suite",
    "message", "seal", "link", "log", "witness", "tls",
)  # fmt: skip

HybridKey: TypeAlias = tuple[bytes, bytes]


@dataclass(frozen=True, slots=True)
class Inception:
    """Statement 0: the identity keys, and the digests of those that may one day replace them."""

    keys: tuple[HybridKey, ...]
    threshold: int
    next_digests: tuple[bytes, ...]
    next_threshold: int
    revocation: bytes


@dataclass(frozen=True, slots=True)
class SealKey:
    """A sealing key and the time (ms) in which others may seal to it."""

    public: bytes
    not_before: int
    not_after: int

    @property
    def ekid(self) -> bytes:
        """The id under which envelopes name this key."""
        return suite.ekid(self.public)


@dataclass(frozen=True, slots=True)
class NamedKeys:
    """A signed-note key name with its Ed25519 and ML-DSA-44 keys (a log or a witness)."""

    name: str
    ed25519: bytes
    mldsa44: bytes


@dataclass(frozen=True, slots=True)
class Card:
    """What others need in order to reach, check and seal to a node."""

    authority: str
    country: str
    role: str
    contact: str
    endpoints: tuple[str, ...]
    expires: int
    min_suite: int
    message: bytes
    seal: tuple[SealKey, ...]
    link: HybridKey
    log: NamedKeys
    witness: NamedKeys
    tls: tuple[bytes, ...]

    def seal_key(self, now: int) -> SealKey:
        """Return the newest sealing key that may be used at *now*.

        Raises:
            ExpiredError: the card or all its sealing keys are out of their time.
        """
        usable = [key for key in self.seal if key.not_before <= now < key.not_after]
        if now >= self.expires or not usable:
            raise ExpiredError(f"the card of {self.authority} has no sealing key valid now")
        return max(usable, key=lambda key: key.not_before)


Body: TypeAlias = Inception | Card


@dataclass(frozen=True, slots=True)
class StatementSignature:
    """The signatures of the identity key at *index* of the keys in force."""

    index: int
    ed25519: bytes
    mldsa65: bytes


@dataclass(frozen=True, slots=True)
class Statement:
    """A well-formed, unverified statement; ``body`` is None in a skeleton."""

    wire: bytes
    core: bytes
    type: str
    network: bytes
    node_id: bytes
    n: int
    prev: bytes
    issued: int
    body: Body | None
    signatures: tuple[StatementSignature, ...]

    @property
    def digest(self) -> bytes:
        """The digest by which the next statement names this one."""
        return suite.digest("statement", self.core)

    def skeleton(self) -> bytes:
        """Return the wire form without body and signatures."""
        return encode([self.core, None, []])


def identity_digest(key: HybridKey) -> bytes:
    """Return the digest by which an inception commits to the next identity *key*."""
    return suite.digest("identity-key", *key)


def revocation_digest(code: bytes) -> bytes:
    """Return the digest by which an inception commits to the 32-byte revocation *code*."""
    return suite.digest("revocation-code", code)


# --- making ----------------------------------------------------------------------------------
def make_inception(
    inception: Inception, *, network: bytes, issued: int, signers: Sequence[suite.HybridSigner]
) -> Statement:
    """Return the signed statement 0 of a new node."""
    body = encode(_inception_value(inception))
    fields = [VERSION, INCEPTION, network, b"", 0, suite.ZERO, issued, _body_digest(body)]
    node_id = suite.digest("node", encode(fields))
    fields[3] = node_id
    return _sign(fields, body, INCEPTION, signers)


def make_card(card: Card, *, chain: Chain, issued: int, signer: suite.HybridSigner) -> Statement:
    """Return the next statement of *chain*, a signed card."""
    body = encode(_card_value(card))
    fields: list[object] = [
        VERSION, CARD, chain.network, chain.node_id, chain.head.n + 1, chain.head.digest,
        issued, _body_digest(body),
    ]  # fmt: skip
    return _sign(fields, body, CARD, [signer])


def _sign(
    fields: Sequence[object], body: bytes, kind: str, signers: Sequence[suite.HybridSigner]
) -> Statement:
    core = encode(fields)
    message = suite.label(f"key/{kind}") + suite.digest("statement", core)
    signatures = [[index, *signer.sign(message)] for index, signer in enumerate(signers)]
    return parse_statement(encode([core, body, signatures]))


def _body_digest(body: bytes) -> bytes:
    return suite.digest("statement-body", body)


def _inception_value(inception: Inception) -> dict[str, object]:
    return {
        "keys": inception.keys,
        "threshold": inception.threshold,
        "next": inception.next_digests,
        "next_threshold": inception.next_threshold,
        "revocation": inception.revocation,
    }


def _card_value(card: Card) -> dict[str, object]:
    return {
        "authority": card.authority,
        "country": card.country,
        "role": card.role,
        "contact": card.contact,
        "endpoints": card.endpoints,
        "expires": card.expires,
        "min_suite": card.min_suite,
        "message": card.message,
        "seal": [[key.public, key.not_before, key.not_after] for key in card.seal],
        "link": card.link,
        "log": [card.log.name, card.log.ed25519, card.log.mldsa44],
        "witness": [card.witness.name, card.witness.ed25519, card.witness.mldsa44],
        "tls": card.tls,
    }


# --- parsing ---------------------------------------------------------------------------------
def parse_statement(wire: bytes) -> Statement:
    """Return the statement that *wire* holds, well-formed but unverified.

    Raises:
        DecodeError: it is not canonical, or a field has the wrong shape.
        LimitError: it, or a part of it, is beyond its bound.
        VersionError: it is of a later version or of an unknown type.
        WeakKeyError: it lists a key that must not be used.
    """
    outer = array(decode(wire, max_bytes=limits.MAX_STATEMENT), "statement", size=3)
    core = octets(outer[0], "statement.core", maximum=limits.MAX_HEADER)
    fields = array(decode(core, max_bytes=limits.MAX_HEADER), "statement.core", size=8)
    if (version := uint(fields[0], "statement.version")) != VERSION:
        raise VersionError(f"statement version {version} is not known; update Picket")
    kind = text(fields[1], "statement.type")
    statement = Statement(
        wire=wire,
        core=core,
        type=kind,
        network=octets(fields[2], "statement.network", size=32),
        node_id=octets(fields[3], "statement.node_id", size=32),
        n=uint(fields[4], "statement.n", maximum=limits.MAX_CHAIN - 1),
        prev=octets(fields[5], "statement.prev", size=32),
        issued=uint(fields[6], "statement.issued"),
        body=None,
        signatures=_signatures(outer[2]),
    )
    body_digest = octets(fields[7], "statement.body_digest", size=32)
    if outer[1] is None:
        if statement.signatures or kind != CARD:
            raise DecodeError("statement.body is missing")
        return statement
    body = octets(outer[1], "statement.body", maximum=limits.MAX_STATEMENT)
    if _body_digest(body) != body_digest:
        raise DecodeError("statement.body does not match its digest")
    return replace(statement, body=_body(kind, body))


def _signatures(value: Value) -> tuple[StatementSignature, ...]:
    items = array(value, "statement.signatures", maximum=limits.MAX_IDENTITY_KEYS)
    signatures = []
    for item in items:
        index, ed25519, mldsa65 = array(item, "statement.signature", size=3)
        signatures.append(
            StatementSignature(
                uint(index, "signature.index", maximum=limits.MAX_IDENTITY_KEYS - 1),
                octets(ed25519, "signature.ed25519", size=suite.ED25519_SIGNATURE),
                octets(mldsa65, "signature.mldsa65", size=suite.MLDSA65_SIGNATURE),
            )
        )
    indexes = [signature.index for signature in signatures]
    if indexes != sorted(set(indexes)):
        raise DecodeError("statement.signatures are not in order of their key index")
    return tuple(signatures)


def _body(kind: str, body: bytes) -> Body:
    value = decode(body, max_bytes=limits.MAX_STATEMENT)
    if kind == INCEPTION:
        return _parse_inception(value)
    if kind == CARD:
        return _parse_card(value)
    raise VersionError(f"statement type {kind!r} is not known; update Picket")


def _parse_inception(value: Value) -> Inception:
    fields = exact_map(value, "inception", _INCEPTION_KEYS)
    keys = tuple(
        _hybrid(item, "inception.keys")
        for item in array(
            fields["keys"], "inception.keys", minimum=1, maximum=limits.MAX_IDENTITY_KEYS
        )
    )
    following = tuple(
        octets(item, "inception.next", size=32)
        for item in array(
            fields["next"], "inception.next", minimum=1, maximum=limits.MAX_IDENTITY_KEYS
        )
    )
    _distinct([part for key in keys for part in key] + list(following), "inception")
    return Inception(
        keys=keys,
        threshold=uint(fields["threshold"], "inception.threshold", minimum=1, maximum=len(keys)),
        next_digests=following,
        next_threshold=uint(
            fields["next_threshold"], "inception.next_threshold", minimum=1, maximum=len(following)
        ),
        revocation=octets(fields["revocation"], "inception.revocation", size=32),
    )


def _parse_card(value: Value) -> Card:
    fields = exact_map(value, "card", _CARD_KEYS)
    country = text(fields["country"], "card.country", maximum=2)
    if not _COUNTRY.fullmatch(country):
        raise DecodeError("card.country is not an ISO 3166-1 alpha-2 code")
    role = text(fields["role"], "card.role")
    if role not in ROLES:
        raise DecodeError(f"card.role is none of {', '.join(ROLES)}")
    seal = tuple(
        _seal_key(item)
        for item in array(fields["seal"], "card.seal", minimum=1, maximum=limits.MAX_SEAL_KEYS)
    )
    tls = tuple(
        suite.check_certificate(
            octets(item, "card.tls", maximum=limits.MAX_CERTIFICATE), "card.tls"
        )
        for item in array(fields["tls"], "card.tls", minimum=1, maximum=limits.MAX_TLS_CERTIFICATES)
    )
    card = Card(
        authority=text(fields["authority"], "card.authority"),
        country=country,
        role=role,
        contact=text(fields["contact"], "card.contact"),
        endpoints=tuple(
            _endpoint(item)
            for item in array(fields["endpoints"], "card.endpoints", maximum=limits.MAX_ENDPOINTS)
        ),
        expires=uint(fields["expires"], "card.expires"),
        min_suite=uint(fields["min_suite"], "card.min_suite", minimum=1, maximum=255),
        message=suite.check_ed25519(
            octets(fields["message"], "card.message", size=32), "card.message"
        ),
        seal=seal,
        link=_hybrid(fields["link"], "card.link"),
        log=_named(fields["log"], "card.log"),
        witness=_named(fields["witness"], "card.witness"),
        tls=tls,
    )
    _distinct(_card_keys(card), "card")
    return card


def _card_keys(card: Card) -> list[bytes]:
    return [
        card.message, *card.link, card.log.ed25519, card.log.mldsa44, card.witness.ed25519,
        card.witness.mldsa44, *(key.public for key in card.seal),
        *map(suite.certificate_key, card.tls),
    ]  # fmt: skip


def _distinct(keys: list[bytes], field: str) -> None:
    if len(set(keys)) != len(keys):
        raise WeakKeyError(f"{field} uses one key in two roles")


def _hybrid(value: Value, field: str) -> HybridKey:
    pair = array(value, field, size=_IDENTITY_PAIR)
    return (
        suite.check_ed25519(octets(pair[0], field, size=suite.ED25519_SIZE), f"{field}[0]"),
        suite.check_mldsa65(octets(pair[1], field, size=suite.MLDSA65_SIZE), f"{field}[1]"),
    )


def _seal_key(value: Value) -> SealKey:
    public, not_before, not_after = array(value, "card.seal", size=3)
    key = SealKey(
        suite.check_seal(octets(public, "card.seal", size=suite.SEAL_SIZE), "card.seal"),
        uint(not_before, "card.seal.not_before"),
        uint(not_after, "card.seal.not_after"),
    )
    if key.not_after <= key.not_before:
        raise DecodeError("card.seal ends before it begins")
    return key


def _named(value: Value, field: str) -> NamedKeys:
    name, ed25519, mldsa44 = array(value, field, size=3)
    checked = text(name, f"{field}.name")
    if len(checked.encode()) > limits.MAX_NOTE_NAME:
        raise LimitError(f"{field}.name is longer than {limits.MAX_NOTE_NAME} bytes")
    if "+" in checked or any(character.isspace() for character in checked):
        raise DecodeError(f"{field}.name has a space or a plus sign (C2SP signed-note)")
    return NamedKeys(
        checked,
        suite.check_ed25519(octets(ed25519, field, size=suite.ED25519_SIZE), f"{field}.ed25519"),
        suite.check_mldsa44(octets(mldsa44, field, size=suite.MLDSA44_SIZE), f"{field}.mldsa44"),
    )


def _endpoint(value: Value) -> str:
    endpoint = text(value, "card.endpoints")
    check_endpoint(endpoint)
    return endpoint


def check_endpoint(endpoint: str) -> None:
    """Check that *endpoint* has the form ``wss://host:port``.

    Raises:
        DecodeError: it has another form.
    """
    found = _ENDPOINT.fullmatch(endpoint)
    if found is None or int(found["port"]) > _MAX_PORT:
        raise DecodeError(f"endpoint {endpoint!r} is not of the form wss://host:port")
    if found["ipv6"] is not None:
        try:
            ipaddress.IPv6Address(found["ipv6"])
        except ValueError:
            raise DecodeError(f"endpoint {endpoint!r} holds no IPv6 address") from None


# --- verifying -------------------------------------------------------------------------------
@dataclass(frozen=True, slots=True)
class Chain:
    """A verified chain: the identity, every card with a body, and the head."""

    network: bytes
    node_id: bytes
    inception: Inception
    statements: tuple[Statement, ...]

    @property
    def head(self) -> Statement:
        """The last statement."""
        return self.statements[-1]

    @property
    def card(self) -> Card | None:
        """The newest card, or None before the first."""
        for statement in reversed(self.statements):
            if isinstance(statement.body, Card):
                return statement.body
        return None

    def card_at(self, n: int) -> Card | None:
        """Return the card that statement *n* is, or None."""
        if n < len(self.statements) and isinstance(self.statements[n].body, Card):
            body = self.statements[n].body
            return body if isinstance(body, Card) else None
        return None

    @classmethod
    def start(cls, statement: Statement, *, network: bytes) -> Chain:
        """Verify statement 0 and return the chain that consists of it.

        Raises:
            WrongNetworkError: it was made for another network.
            StatementError: it is no inception, or its node id is not its digest.
            SignatureError: too few of its own keys signed it.
        """
        if statement.network != network:
            raise WrongNetworkError(
                "the card was made for another Picket network",
                fix="compare the network names of both nodes and ask for the right card",
            )
        body = statement.body
        if statement.n != 0 or not isinstance(body, Inception) or statement.prev != suite.ZERO:
            raise StatementError("the chain does not begin with an inception")
        fields = array(decode(statement.core, max_bytes=limits.MAX_HEADER), "core", size=8)
        fields[3] = b""
        if suite.digest("node", encode(fields)) != statement.node_id:
            raise StatementError("the node id is not the digest of the inception")
        _verify_signatures(statement, body)
        return cls(network, statement.node_id, body, (statement,))

    def extend(self, statement: Statement) -> Chain:
        """Verify *statement* as the next one and return the longer chain.

        A skeleton is taken on credit: it counts only once a signed statement stands on top of it,
        which ``verify_bundle`` makes sure of. A statement already in the chain changes nothing,
        except that a full one replaces its skeleton.

        Raises:
            WrongNetworkError: it belongs to another network.
            StatementError: it is of another node, skips a number or breaks the link.
            EquivocationError: a different statement already has this number.
            SignatureError: too few identity keys signed it.
        """
        if statement.network != self.network:
            raise WrongNetworkError("the statement was made for another Picket network")
        if statement.node_id != self.node_id:
            raise StatementError("the statement belongs to another node")
        if statement.n < len(self.statements):
            return self._merge(statement)
        if statement.n != len(self.statements):
            raise StatementError(f"statement {len(self.statements)} is missing before it")
        if statement.prev != self.head.digest:
            raise StatementError("the statement does not name the digest of the one before it")
        if statement.issued < self.head.issued:
            raise StatementError("the statement is dated before the one that it follows")
        if statement.body is not None:
            self._verify(statement)
        return replace(self, statements=(*self.statements, statement))

    def _merge(self, statement: Statement) -> Chain:
        known = self.statements[statement.n]
        if known.digest != statement.digest:
            # Only the node's own signature makes it evidence; anybody could send the rest.
            if statement.body is None:
                raise StatementError("an unsigned statement contradicts the chain")
            self._verify(statement)
            raise EquivocationError(
                f"two different key statements {statement.n} of one node: its keys may be stolen",
                fix="do not trust this node until you have spoken to its operator",
            )
        if known.body is not None or statement.body is None:
            return self
        self._verify(statement)
        before, after = self.statements[: statement.n], self.statements[statement.n + 1 :]
        return replace(self, statements=(*before, statement, *after))

    def _verify(self, statement: Statement) -> None:
        if not isinstance(statement.body, Card):
            raise StatementError("only the first statement can be an inception")
        identity = {part for key in self.inception.keys for part in key}
        if not identity.isdisjoint(_card_keys(statement.body)):
            raise WeakKeyError("the card uses an identity key in a second role")
        lifetime = statement.body.expires - statement.issued
        if not 0 < lifetime <= limits.MAX_CARD_LIFETIME_MS:
            raise StatementError("card.expires is not within 400 days after its issue")
        _verify_signatures(statement, self.inception)


def _verify_signatures(statement: Statement, inception: Inception) -> None:
    if len(statement.signatures) < inception.threshold:
        raise StatementError(f"{inception.threshold} identity signatures are required")
    for signature in statement.signatures:
        if signature.index >= len(inception.keys):
            raise StatementError("a signature names an identity key that does not exist")
        suite.verify_hybrid(
            f"key/{statement.type}",
            inception.keys[signature.index],
            statement.digest,
            (signature.ed25519, signature.mldsa65),
        )


# --- bundles: what operators hand to each other ----------------------------------------------
def make_bundle(chain: Chain) -> bytes:
    """Return the card bundle of *chain*: every statement, replaced cards as skeletons."""
    last = len(chain.statements) - 1
    wires = [
        statement.skeleton() if statement.type == CARD and n < last else statement.wire
        for n, statement in enumerate(chain.statements)
    ]
    return encode([VERSION, wires])


def verify_bundle(bundle: bytes, *, network: bytes) -> Chain:
    """Return the verified chain in *bundle*, which must end in a full card.

    Raises:
        PeerError: any rule of encoding, keys, chain or network is broken.
    """
    outer = array(decode(bundle, max_bytes=limits.MAX_BUNDLE), "bundle", size=2)
    if (version := uint(outer[0], "bundle.version")) != VERSION:
        raise VersionError(f"card bundle version {version} is not known; update Picket")
    wires = array(outer[1], "bundle.statements", minimum=1, maximum=limits.MAX_CHAIN)
    if len(wires) > limits.MAX_CHAIN:
        raise LimitError(f"a chain has at most {limits.MAX_CHAIN} statements")
    statements = [
        parse_statement(octets(wire, "bundle.statement", maximum=limits.MAX_STATEMENT))
        for wire in wires
    ]
    chain = Chain.start(statements[0], network=network)
    for statement in statements[1:]:
        chain = chain.extend(statement)
    if not isinstance(chain.head.body, Card):
        raise StatementError("the bundle does not end in a card")
    return chain
