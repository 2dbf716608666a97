"""An introduction: a node hands the card of a second one to a third, and says that it did.

    core = [1, network, introducer, card_n, to, node_id, H("card-bundle", bundle), made]
    wire = [core bin, bundle bin, ed25519, mldsa65]
    signed bytes = label "introduction" + H("introduction", core), by the link key on card card_n

- It says who brought a card, to whom and when; it gives no trust. The reader compares the safety
  number with that node itself, as with any other.
- It is for one reader: nobody can pass it on as if it were meant for another.
- It is taken for 14 days after it was made.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from protocol import limits, suite
from protocol.canonical import decode, encode
from protocol.errors import (
    AudienceError,
    DigestError,
    ExpiredError,
    LimitError,
    StatementError,
    VersionError,
    WrongNetworkError,
)
from protocol.knock import bundle_digest
from protocol.shape import array, octets, uint
from protocol.statement import Card, Chain, HybridKey, make_bundle, verify_bundle

VERSION: Final = 1
LABEL: Final = "introduction"


@dataclass(frozen=True, slots=True)
class Introduction:
    """A well-formed, unverified introduction of the node *node_id* to the node *to*."""

    core: bytes
    bundle: bytes
    network: bytes
    introducer: bytes
    card_n: int
    to: bytes
    node_id: bytes
    bundle_digest: bytes
    made: int
    signatures: tuple[bytes, bytes]


def make_introduction(
    chain: Chain, *, introducer: Chain, to: bytes, now: int, signer: suite.HybridSigner
) -> bytes:
    """Return the wire form of an introduction.

    Args:
        chain: of the node that is introduced.
        introducer: our own chain.
        to: the node id of the reader.
        now: UTC in ms.
        signer: of the link key on our newest card.

    Raises:
        StatementError: it is about the reader or ourselves, or we have no card.
        LimitError: the chain is too long for it.
    """
    if chain.node_id in {to, introducer.node_id} or to == introducer.node_id:
        raise StatementError(
            "an introduction is of one peer to another one", fix="name two different peers"
        )
    bundle = make_bundle(chain)
    if len(bundle) > limits.MAX_DOOR_BUNDLE:
        raise LimitError(
            "the card of that node is too long to introduce it", fix="ask it to send its own card"
        )
    numbers = [s.n for s in introducer.statements if isinstance(s.body, Card)]
    if not numbers:
        raise StatementError("the introducer has no card")
    core = encode([
        VERSION, introducer.network, introducer.node_id, max(numbers), to, chain.node_id,
        bundle_digest(bundle), now,
    ])  # fmt: skip
    return encode([core, bundle, *signer.sign(suite.label(LABEL) + suite.digest(LABEL, core))])


def parse_introduction(wire: bytes) -> Introduction:
    """Return the introduction that *wire* holds, well-formed but unverified.

    Raises:
        DecodeError: it is not canonical, or a field has the wrong shape.
        LimitError: it is longer than an introduction can be.
        VersionError: it is of a later version.
    """
    outer = array(decode(wire, max_bytes=limits.MAX_INTRODUCTION), "introduction", size=4)
    core = octets(outer[0], "introduction.core", maximum=limits.MAX_HEADER)
    fields = array(decode(core, max_bytes=limits.MAX_HEADER), "introduction.core", size=8)
    if (version := uint(fields[0], "introduction.version")) != VERSION:
        raise VersionError(f"introduction version {version} is not known; update Picket")
    return Introduction(
        core=core,
        bundle=octets(outer[1], "introduction.bundle", maximum=limits.MAX_DOOR_BUNDLE),
        network=octets(fields[1], "introduction.network", size=32),
        introducer=octets(fields[2], "introduction.introducer", size=32),
        card_n=uint(fields[3], "introduction.card_n", maximum=limits.MAX_CHAIN - 1),
        to=octets(fields[4], "introduction.to", size=32),
        node_id=octets(fields[5], "introduction.node_id", size=32),
        bundle_digest=octets(fields[6], "introduction.bundle_digest", size=32),
        made=uint(fields[7], "introduction.made"),
        signatures=(
            octets(outer[2], "introduction.ed25519", size=suite.ED25519_SIGNATURE),
            octets(outer[3], "introduction.mldsa65", size=suite.MLDSA65_SIGNATURE),
        ),
    )


def verify_introduction(
    introduction: Introduction, *, network: bytes, to: bytes, link: HybridKey, now: int
) -> Chain:
    """Verify *introduction* at the node *to*; return the chain of the node that it introduces.

    Args:
        introduction: parsed.
        network: of the reader.
        to: the reader's node id.
        link: the link key on the card that the introduction names of its introducer.
        now: UTC in ms.

    Raises:
        WrongNetworkError: it is of another network.
        AudienceError: it was made for another reader.
        ExpiredError: it is more than 14 days old, or dated in the future, or its card is over.
        SignatureError: the introducer did not sign it.
        DigestError: its bundle is another than was signed.
        StatementError: its bundle is of another node.
        PeerError: the bundle breaks a rule.
    """
    if introduction.network != network:
        raise WrongNetworkError(
            "the introduction was made for another Picket network",
            fix="compare the network names of the nodes",
        )
    if introduction.to != to:
        raise AudienceError(
            "the introduction was made for another node", fix="ask for one that is made for this"
        )
    age = now - introduction.made
    if not -limits.CLOCK_AHEAD_MS <= age <= limits.INTRODUCTION_LIFE_MS:
        raise ExpiredError(
            "the introduction is more than 14 days old, or dated in the future",
            fix="ask for a new one; if it was made just now, compare the clocks of both machines",
        )
    signed = suite.digest(LABEL, introduction.core)
    suite.verify_hybrid(LABEL, link, signed, introduction.signatures)
    if bundle_digest(introduction.bundle) != introduction.bundle_digest:
        raise DigestError("introduction.bundle does not match its digest")
    chain = verify_bundle(introduction.bundle, network=network)
    card = chain.card
    if chain.node_id != introduction.node_id or card is None:
        raise StatementError("introduction.bundle is of another node")
    if card.expires <= now:
        raise ExpiredError("the card in the introduction is over", fix="ask for its new card")
    return chain
