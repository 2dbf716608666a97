"""A knock: how a node that is not known yet asks the node that it dials to look at its card.

    core = [1, network, node_id, H("certificate", acceptor DER), time, H("card-bundle", bundle)]
    wire = [core bin, bundle bin, ed25519, mldsa65]
    signed bytes = label "knock" + H("knock", core), by the link key on the newest card in bundle

- Only the node itself can knock in its name: the signature is by a key on its own card.
- It is for one acceptor, by the certificate that this one shows in TLS, and for ten minutes.
- It proves who asks, and gives nothing: whether anybody looks at it is for an operator to decide.
- What costs least is checked first; the bundle, with its signatures, is verified last.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Final

from protocol import limits, suite
from protocol.canonical import decode, encode
from protocol.errors import (
    DigestError,
    ExpiredError,
    LimitError,
    StatementError,
    UntrustedKeyError,
    VersionError,
    WrongNetworkError,
)
from protocol.shape import array, octets, uint
from protocol.statement import Chain, make_bundle, verify_bundle

VERSION: Final = 1
LABEL: Final = "knock"
PATH: Final = "/knock"
"""Where the acceptor takes a knock, by POST."""


@dataclass(frozen=True, slots=True)
class Knock:
    """A well-formed, unverified knock."""

    core: bytes
    bundle: bytes
    network: bytes
    node_id: bytes
    acceptor: bytes
    time: int
    bundle_digest: bytes
    signatures: tuple[bytes, bytes]


def bundle_digest(bundle: bytes) -> bytes:
    """Return the digest by which a card bundle is named."""
    return suite.digest("card-bundle", bundle)


def make_knock(chain: Chain, *, certificate: bytes, now: int, signer: suite.HybridSigner) -> bytes:
    """Return the wire form of a knock of the node of *chain* at the node that has *certificate*.

    Args:
        chain: our own.
        certificate: (DER) that the acceptor shows in TLS.
        now: UTC in ms.
        signer: of the link key on our newest card.

    Raises:
        LimitError: our own chain has grown beyond what a stranger may hand in.
    """
    bundle = make_bundle(chain)
    if len(bundle) > limits.MAX_DOOR_BUNDLE:
        raise LimitError(
            f"this node's card bundle has {len(bundle)} bytes, more than another takes unasked",
            fix="send the card as a file: picket keys card",
        )
    acceptor = suite.digest("certificate", certificate)
    core = encode([VERSION, chain.network, chain.node_id, acceptor, now, bundle_digest(bundle)])
    return encode([core, bundle, *signer.sign(suite.label(LABEL) + suite.digest(LABEL, core))])


def parse_knock(wire: bytes) -> Knock:
    """Return the knock that *wire* holds, well-formed but unverified.

    Raises:
        DecodeError: it is not canonical, or a field has the wrong shape.
        LimitError: it is longer than a knock can be.
        VersionError: it is of a later version.
    """
    outer = array(decode(wire, max_bytes=limits.MAX_KNOCK), "knock", size=4)
    core = octets(outer[0], "knock.core", maximum=limits.MAX_HEADER)
    fields = array(decode(core, max_bytes=limits.MAX_HEADER), "knock.core", size=6)
    if (version := uint(fields[0], "knock.version")) != VERSION:
        raise VersionError(f"knock version {version} is not known; update Picket")
    return Knock(
        core=core,
        bundle=octets(outer[1], "knock.bundle", maximum=limits.MAX_DOOR_BUNDLE),
        network=octets(fields[1], "knock.network", size=32),
        node_id=octets(fields[2], "knock.node_id", size=32),
        acceptor=octets(fields[3], "knock.acceptor", size=32),
        time=uint(fields[4], "knock.time"),
        bundle_digest=octets(fields[5], "knock.bundle_digest", size=32),
        signatures=(
            octets(outer[2], "knock.ed25519", size=suite.ED25519_SIGNATURE),
            octets(outer[3], "knock.mldsa65", size=suite.MLDSA65_SIGNATURE),
        ),
    )


def verify_knock(
    knock: Knock, *, network: bytes, certificates: Collection[bytes], now: int
) -> Chain:
    """Verify *knock* at the node that has *certificates* (DER); return the chain of its node.

    Raises:
        WrongNetworkError: it is of another network.
        UntrustedKeyError: it was made for another acceptor.
        ExpiredError: its time is not within ten minutes of *now*, or its card is over.
        DigestError: its bundle is another than was signed.
        StatementError: its bundle is of another node.
        PeerError: the bundle breaks a rule.
        SignatureError: the node itself did not sign it.
    """
    if knock.network != network:
        raise WrongNetworkError("the knock is of another Picket network")
    if knock.acceptor not in {suite.digest("certificate", der) for der in certificates}:
        raise UntrustedKeyError("the knock was made for another node")
    if abs(knock.time - now) > limits.KNOCK_WINDOW_MS:
        raise ExpiredError("the time of the knock is more than ten minutes off")
    if bundle_digest(knock.bundle) != knock.bundle_digest:
        raise DigestError("knock.bundle does not match its digest")
    chain = verify_bundle(knock.bundle, network=network)
    card = chain.card
    if chain.node_id != knock.node_id or card is None:
        raise StatementError("knock.bundle is of another node")
    suite.verify_hybrid(LABEL, card.link, suite.digest(LABEL, knock.core), knock.signatures)
    if card.expires <= now:
        raise ExpiredError("the card of the caller is over", fix="it must make a new one")
    return chain
