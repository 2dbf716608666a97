"""Key statements: the hash-linked chain in which a node says which keys are its own.

    core   = [1, type, network, node_id, n, prev, issued, H("statement-body", body)]
    wire   = [core bin, body bin | nil, [[index, ed25519, mldsa65], ...]]
    digest = H("statement", core);   signed bytes = label "key/<type>" + digest
    node_id = H("node", core of statement 0 with an empty node_id)

- The node id is the digest of the inception, so no rotation ever changes it.
- Numbers rise by exactly one and each statement names the digest of the one before.
- Both algorithms sign every statement; either one missing refuses it.
- A rotation or recovery shows keys whose digests the one before it committed to, and commits to the
  next ones. A rotation is signed by the keys in force and by the shown ones, a recovery by the
  shown ones alone.
- A revocation is no link of the chain: it shows the code whose digest stands in the inception, and
  counts whenever it comes, whatever else was said.
- A card that a later, signed statement replaces may shrink to its skeleton (no body, no
  signatures): the chain stays verifiable at about 160 bytes a card.
- A parsed ``Statement`` is unverified; only ``Chain.start`` and ``Chain.extend`` make trusted
  values. What counts of statements that contradict each other is for ``protocol.chain``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final, TypeAlias

from protocol import limits, suite
from protocol.bodies import (
    Card,
    HybridKey,
    Identity,
    Inception,
    NamedKeys,
    Revocation,
    Rotation,
    SealKey,
    card_keys,
    card_value,
    check_endpoint,
    identity_digest,
    identity_value,
    inception_value,
    parse_card,
    parse_inception,
    parse_revocation,
    parse_rotation,
    revocation_digest,
)
from protocol.canonical import Value, decode, encode
from protocol.errors import (
    DecodeError,
    EquivocationError,
    LimitError,
    StatementError,
    VersionError,
    WeakKeyError,
    WrongNetworkError,
)
from protocol.shape import array, octets, text, uint

__all__ = [
    "CARD", "INCEPTION", "RECOVER", "REVOKE", "ROTATE", "VERSION", "Body", "Card", "Chain",
    "HybridKey", "Identity", "Inception", "NamedKeys", "Revocation", "Rotation", "SealKey",
    "Statement", "StatementSignature", "check_endpoint", "check_revocation", "identity_digest",
    "make_bundle", "make_card", "make_inception", "make_recover", "make_revocation",
    "make_rotate", "parse_statement", "revocation_digest", "verify_bundle",
]  # fmt: skip

VERSION: Final = 1
INCEPTION: Final = "inception"
CARD: Final = "card"
ROTATE: Final = "rotate"
RECOVER: Final = "recover"
REVOKE: Final = "revoke"
SHOWN: Final = limits.MAX_IDENTITY_KEYS
"""Signatures of a rotation from this index on are those of the keys that it shows."""

Body: TypeAlias = Inception | Card | Rotation | Revocation


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


# --- making ----------------------------------------------------------------------------------
def make_inception(
    inception: Inception, *, network: bytes, issued: int, signers: Sequence[suite.HybridSigner]
) -> Statement:
    """Return the signed statement 0 of a new node."""
    body = encode(inception_value(inception))
    fields = [VERSION, INCEPTION, network, b"", 0, suite.ZERO, issued, _body_digest(body)]
    node_id = suite.digest("node", encode(fields))
    fields[3] = node_id
    return _sign(fields, body, dict(enumerate(signers)))


def make_card(card: Card, *, chain: Chain, issued: int, signer: suite.HybridSigner) -> Statement:
    """Return the next statement of *chain*, a signed card."""
    return _next(CARD, encode(card_value(card)), chain, issued, {0: signer})


def make_rotate(
    rotation: Rotation,
    *,
    chain: Chain,
    issued: int,
    old: Mapping[int, suite.HybridSigner],
    new: Sequence[suite.HybridSigner],
) -> Statement:
    """Return the next statement of *chain*, a rotation.

    Args:
        rotation: what it says.
        chain: what it stands on.
        issued: UTC in ms.
        old: signers of keys in force, by the index of the key.
        new: signers of the shown keys, in their order.
    """
    shown = {SHOWN + index: signer for index, signer in enumerate(new)}
    return _next(ROTATE, encode(identity_value(rotation)), chain, issued, {**old, **shown})


def make_recover(
    rotation: Rotation, *, chain: Chain, issued: int, signers: Sequence[suite.HybridSigner]
) -> Statement:
    """Return a recovery on top of *chain*, which ends in the last statement that counts.

    *signers* are those of the shown keys, in their order.
    """
    body = encode(identity_value(rotation))
    return _next(RECOVER, body, chain, issued, dict(enumerate(signers)))


def make_revocation(*, network: bytes, node_id: bytes, code: bytes) -> Statement:
    """Return the one revocation of *node_id*: the paper with the *code* is enough to make it."""
    body = encode({"code": code})
    fields = [VERSION, REVOKE, network, node_id, 0, suite.ZERO, 0, _body_digest(body)]
    return _sign(fields, body, {})


def _next(
    kind: str, body: bytes, chain: Chain, issued: int, signers: Mapping[int, suite.HybridSigner]
) -> Statement:
    fields: list[object] = [
        VERSION, kind, chain.network, chain.node_id, chain.head.n + 1, chain.head.digest, issued,
        _body_digest(body),
    ]  # fmt: skip
    return _sign(fields, body, signers)


def _sign(
    fields: Sequence[object], body: bytes, signers: Mapping[int, suite.HybridSigner]
) -> Statement:
    core = encode(fields)
    message = suite.label(f"key/{fields[1]}") + suite.digest("statement", core)
    source = encode([core, body])
    signatures = [[index, *signers[index].sign(message, source)] for index in sorted(signers)]
    return parse_statement(encode([core, body, signatures]))


def _body_digest(body: bytes) -> bytes:
    return suite.digest("statement-body", body)


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
        signatures=_signatures(outer[2], 2 * SHOWN if kind == ROTATE else SHOWN),
    )
    body_digest = octets(fields[7], "statement.body_digest", size=32)
    if outer[1] is None:
        if statement.signatures or kind != CARD:
            raise DecodeError("statement.body is missing")
        return statement
    body = octets(outer[1], "statement.body", maximum=limits.MAX_STATEMENT)
    if _body_digest(body) != body_digest:
        raise DecodeError("statement.body does not match its digest")
    if kind == REVOKE and (statement.n, statement.prev, statement.issued) != (0, suite.ZERO, 0):
        raise DecodeError("a revocation has no place in the chain and no time")
    if kind == REVOKE and statement.signatures:
        raise DecodeError("a revocation has no signatures: its code is all that it needs")
    return replace(statement, body=_body(kind, body))


def _signatures(value: Value, most: int) -> tuple[StatementSignature, ...]:
    items = array(value, "statement.signatures", maximum=most)
    signatures = []
    for item in items:
        index, ed25519, mldsa65 = array(item, "statement.signature", size=3)
        signatures.append(
            StatementSignature(
                uint(index, "signature.index", maximum=most - 1),
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
    match kind:
        case "inception":
            return parse_inception(value)
        case "card":
            return parse_card(value)
        case "rotate" | "recover":
            return parse_rotation(value)
        case "revoke":
            return parse_revocation(value)
        case _:
            raise VersionError(f"statement type {kind!r} is not known; update Picket")


# --- verifying -------------------------------------------------------------------------------
@dataclass(frozen=True, slots=True)
class Chain:
    """A verified chain, each statement on top of the one before."""

    network: bytes
    node_id: bytes
    inception: Inception
    statements: tuple[Statement, ...]

    @property
    def head(self) -> Statement:
        """The last statement."""
        return self.statements[-1]

    @property
    def identity(self) -> Identity:
        """The identity keys in force, which sign what comes next."""
        for statement in reversed(self.statements):
            if isinstance(statement.body, Inception | Rotation):
                return statement.body
        return self.inception

    @property
    def card(self) -> Card | None:
        """The newest card, or None before the first and after a recovery, which ends them all."""
        for statement in reversed(self.statements):
            if isinstance(statement.body, Card):
                return statement.body
            if statement.type == RECOVER:
                return None
        return None

    @property
    def recovered_at(self) -> int:
        """The number of the newest recovery, 0 without one: cards below it sign nothing new."""
        numbers = (s.n for s in reversed(self.statements) if s.type == RECOVER)
        return next(numbers, 0)

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
        _verify_signatures(statement, (0, body.keys, body.threshold))
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
        earlier = replace(self, statements=self.statements[: statement.n])
        match statement.body:
            case Card() as card:
                earlier._verify_card(statement, card)
            case Rotation() as rotation:
                earlier._verify_rotation(statement, rotation)
            case Revocation():
                raise StatementError("a revocation is no link of the chain")
            case _:
                raise StatementError("only the first statement can be an inception")

    def _verify_card(self, statement: Statement, card: Card) -> None:
        if not self._identity_parts().isdisjoint(card_keys(card)):
            raise WeakKeyError("the card uses an identity key in a second role")
        lifetime = card.expires - statement.issued
        if not 0 < lifetime <= limits.MAX_CARD_LIFETIME_MS:
            raise StatementError("card.expires is not within 400 days after its issue")
        _verify_signatures(statement, (0, self.identity.keys, self.identity.threshold))

    def _verify_rotation(self, statement: Statement, rotation: Rotation) -> None:
        before = self.identity
        if not {identity_digest(key) for key in rotation.keys} <= set(before.next_digests):
            raise StatementError("it shows an identity key that nothing committed to before")
        used = {identity_digest(key) for key in self._identity_keys()}
        if not used.isdisjoint(rotation.next_digests):
            raise WeakKeyError("it commits to an identity key that was in force before")
        needed = max(before.next_threshold, rotation.threshold)
        if statement.type == RECOVER:
            _verify_signatures(statement, (0, rotation.keys, needed))
        else:
            _verify_signatures(
                statement, (0, before.keys, before.threshold), (SHOWN, rotation.keys, needed)
            )

    def _identity_keys(self) -> set[HybridKey]:
        bodies = (statement.body for statement in self.statements)
        return {
            key for body in bodies if isinstance(body, Inception | Rotation) for key in body.keys
        }

    def _identity_parts(self) -> set[bytes]:
        return {part for key in self._identity_keys() for part in key}


def _verify_signatures(statement: Statement, *groups: tuple[int, Sequence[HybridKey], int]) -> None:
    """Verify all signatures, and that each group (first index, keys, how many) has enough."""
    keys: dict[int, HybridKey] = {}
    for first, group, needed in groups:
        indexes = range(first, first + len(group))
        if sum(signature.index in indexes for signature in statement.signatures) < needed:
            raise StatementError(f"{needed} identity signatures are required")
        keys |= dict(zip(indexes, group, strict=True))
    for signature in statement.signatures:
        if signature.index not in keys:
            raise StatementError("a signature names an identity key that does not exist")
        suite.verify_hybrid(
            f"key/{statement.type}",
            keys[signature.index],
            statement.digest,
            (signature.ed25519, signature.mldsa65),
        )


def check_revocation(statement: Statement, inception: Inception) -> None:
    """Check that a revocation shows the code that *inception* committed to.

    Raises:
        StatementError: it is no revocation, or shows another code.
    """
    if not isinstance(statement.body, Revocation):
        raise StatementError("this statement is no revocation")
    if revocation_digest(statement.body.code) != inception.revocation:
        raise StatementError("the code is not the revocation code of this node")


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
