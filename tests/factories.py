"""Deterministic builders for all tests: keys from names, times as constants, no clock."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.mldsa import MLDSA44PrivateKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from protocol import envelope, suite
from protocol.canonical import encode
from protocol.envelope import Audience, Envelope, Epoch, Header
from protocol.errors import OpenError
from protocol.statement import (
    Card,
    Chain,
    Inception,
    NamedKeys,
    SealKey,
    Statement,
    identity_digest,
    make_card,
    make_inception,
    revocation_digest,
)

NOW = 1_790_000_000_000
DAY = 86_400_000
NETWORK = suite.network_id("test.example")
BODY = encode({"text": "canary-7f3a acetic anhydride 20160 LTR"})


def seed(name: str, purpose: str) -> bytes:
    """Return 32 bytes that depend on nothing but the names."""
    return hashlib.sha256(f"{name}/{purpose}".encode()).digest()


def hybrid(name: str, purpose: str) -> suite.LocalHybridSigner:
    return suite.LocalHybridSigner(seed(name, f"{purpose}/ed"), seed(name, f"{purpose}/ml"))


@dataclass(frozen=True)
class TestNode:
    """Everything private and public of one node."""

    __test__ = False

    name: str
    identity: suite.LocalHybridSigner
    message: suite.Ed25519Signer
    seal_seed: bytes
    link: suite.LocalHybridSigner
    log_ed25519: Ed25519PrivateKey
    log_mldsa44: MLDSA44PrivateKey
    chain: Chain

    @property
    def id(self) -> bytes:
        return self.chain.node_id

    @property
    def card(self) -> Card:
        card = self.chain.card
        assert card is not None
        return card

    def unseal(self, ekid: bytes, sealed: bytes, info: bytes) -> bytes:
        if ekid != self.card.seal[0].ekid:
            raise OpenError("no such key")
        return suite.unseal_with(suite.seal_private(self.seal_seed), sealed, info)


def certificate_of(name: str, other: ec.EllipticCurvePrivateKey | None = None) -> bytes:
    """Return the same self-signed certificate for the same name, unless of an *other* key."""
    key = other or Ed25519PrivateKey.from_private_bytes(seed(name, "tls"))
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    made = datetime.fromtimestamp(NOW // 1000, UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(made - timedelta(days=1))
        .not_valid_after(made + timedelta(days=3650))
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .sign(key, SHA256() if other else None)
    )
    return certificate.public_bytes(Encoding.DER)


def card_body(name: str, **changes: object) -> Card:
    log44 = MLDSA44PrivateKey.from_seed_bytes(seed(name, "log44"))
    wit44 = MLDSA44PrivateKey.from_seed_bytes(seed(name, "wit44"))
    card = Card(
        authority=name.title(),
        country="XA",
        role="national-authority",
        contact=f"duty@{name}.example",
        endpoints=("wss://127.0.0.1:8462",),
        expires=NOW + 300 * DAY,
        min_suite=1,
        message=suite.Ed25519Signer(seed(name, "message")).public,
        seal=(SealKey(suite.seal_public_bytes(seed(name, "seal")), NOW - DAY, NOW + 300 * DAY),),
        link=hybrid(name, "link").public,
        log=NamedKeys(
            f"{name}.example/log",
            suite.Ed25519Signer(seed(name, "log")).public,
            log44.public_key().public_bytes_raw(),
        ),
        witness=NamedKeys(
            f"{name}.example/witness",
            suite.Ed25519Signer(seed(name, "witness")).public,
            wit44.public_key().public_bytes_raw(),
        ),
        tls=(certificate_of(name),),
    )
    return replace(card, **changes)  # type: ignore[arg-type]


def inception_of(name: str, *, network: bytes = NETWORK) -> Statement:
    inception = Inception(
        keys=(hybrid(name, "identity").public,),
        threshold=1,
        next_digests=(identity_digest(hybrid(name, "next").public),),
        next_threshold=1,
        revocation=revocation_digest(seed(name, "revocation")),
    )
    return make_inception(
        inception, network=network, issued=NOW - DAY, signers=[hybrid(name, "identity")]
    )


def card_of(chain: Chain, name: str, *, issued: int = NOW - DAY, **changes: object) -> Statement:
    return make_card(
        card_body(name, **changes), chain=chain, issued=issued, signer=hybrid(name, "identity")
    )


def make_node(name: str, *, network: bytes = NETWORK) -> TestNode:
    chain = Chain.start(inception_of(name, network=network), network=network)
    return TestNode(
        name=name,
        identity=hybrid(name, "identity"),
        message=suite.Ed25519Signer(seed(name, "message")),
        seal_seed=seed(name, "seal"),
        link=hybrid(name, "link"),
        log_ed25519=Ed25519PrivateKey.from_private_bytes(seed(name, "log")),
        log_mldsa44=MLDSA44PrivateKey.from_seed_bytes(seed(name, "log44")),
        chain=chain.extend(card_of(chain, name)),
    )


def make_header(author: TestNode, **changes: object) -> Header:
    header = Header(
        network=author.chain.network,
        author=author.id,
        card_n=1,
        incarnation=1,
        stream=seed(author.name, "stream")[:16],
        seq=1,
        prev=suite.ZERO,
        created=NOW,
        expires=NOW + 30 * DAY,
        kind=envelope.KIND_RECORD,
        epoch=1,
        opener=None,
        audience_digest=suite.ZERO,
        anchor=None,
    )
    return replace(header, **changes)  # type: ignore[arg-type]


def make_audience(
    author: TestNode, recipients: Sequence[TestNode], carriers: Sequence[TestNode] = ()
) -> Audience:
    cards: Mapping[bytes, Card] = {node.id: node.card for node in recipients}
    return envelope.audience_of(author.card, cards, [node.id for node in carriers], now=NOW)


def make_envelope(
    author: TestNode,
    recipients: Sequence[TestNode],
    carriers: Sequence[TestNode] = (),
    *,
    body: bytes = BODY,
    epoch_key: bytes | None = None,
    **header: object,
) -> Envelope:
    """Return an envelope that opens an epoch."""
    keys = {key.ekid: key.public for node in (author, *recipients) for key in node.card.seal}
    return envelope.open_epoch(
        make_header(author, **header),
        body,
        audience=make_audience(author, recipients, carriers),
        seal_keys=keys,
        epoch_key=epoch_key or seed(author.name, "epoch"),
        signer=author.message,
    )


def epoch_of(opener: Envelope, author: TestNode) -> Epoch:
    return envelope.unseal_epoch(
        envelope.VerifiedEnvelope(opener), node_id=author.id, unsealer=author
    )


def make_continuation(
    author: TestNode, opener: Envelope, *, body: bytes = BODY, **header: object
) -> Envelope:
    """Return an envelope that names *opener* as the opener of its epoch."""
    fields = {"seq": opener.header.seq + 1, "prev": opener.id, **header}
    return envelope.continue_epoch(
        make_header(author, **fields), body, epoch=epoch_of(opener, author), signer=author.message
    )
