"""Dishonest and broken peers: what they send is refused, and nobody else notices.

Two real nodes serve throughout; each test lets a peer of its own misbehave and then checks that an
incident still goes from one node to the other, and that neither met an error nobody expected.
"""

from __future__ import annotations

import itertools
import secrets
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from keys.identity import CardFields, make_card_body
from node.service import DAY_MS
from protocol import limits
from protocol.errors import HandshakeError
from protocol.frames import (
    VERSION,
    Bye,
    Deliver,
    Hello,
    Receipts,
    Refuse,
    Runs,
    Statements,
    WantStatements,
)
from protocol.statement import make_card
from tests.net.harness import AnswerError, Net, Node, incident, wait
from tests.net.puppet import Puppet, PuppetLink, forged, node_sees

MIB = 1024 * 1024
Make = Callable[[str], Puppet]
_numbers = itertools.count(1)


@pytest.fixture(scope="module")
def net(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Net]:
    with Net(tmp_path_factory.mktemp("peers")) as net:
        net.mesh("alder", "birch")
        yield net


@pytest.fixture
def alder(net: Net) -> Iterator[Node]:
    """The node that is wronged; afterwards it must serve as before."""
    yield net["alder"]
    check_service(net)
    net.check_journals()


def check_service(net: Net) -> None:
    """Check that an incident goes from each node to the other, and that their logs verify."""
    alder, birch = net["alder"], net["birch"]
    for author, recipient in ((alder, birch), (birch, alder)):
        incident_id = author.draft(incident("business as usual"))
        author.release(incident_id, recipient.key)
        wait(
            lambda a=author, r=recipient, i=incident_id: a.delivered(i, r.key),  # type: ignore[misc]
            f"{recipient.key} to receive as before",
        )
        author.verify_log()
        author.places()


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Make]:
    """Make puppets whose names no other test used."""
    with ExitStack() as stack:

        def make_puppet(name: str) -> Puppet:
            return stack.enter_context(Puppet(tmp_path, f"{name}{next(_numbers)}"))

        yield make_puppet


@pytest.fixture
def mallory(make: Make, alder: Node) -> Puppet:
    """A peer whom the operator of alder trusts fully."""
    mallory = make("mallory")
    mallory.befriend(alder)
    return mallory


@pytest.fixture
def link(mallory: Puppet, alder: Node) -> PuppetLink:
    return mallory.link(alder)


def holds(node: Node, envelope_id: bytes) -> bool:
    with node.database() as database:
        found = database.execute("SELECT 1 FROM envelopes WHERE id = ?", (envelope_id,)).fetchone()
    return found is not None


def refusal(answer: Receipts | Runs | Refuse, envelope_id: bytes) -> str:
    """Return the code with which the one envelope of a frame was refused."""
    assert isinstance(answer, Refuse)
    (item,) = answer.items
    assert item.envelope_id == envelope_id
    return item.code


def unproven(states: Mapping[str, str]) -> set[str]:
    """Return the peers whose delivery nothing proves yet."""
    return {peer for peer, state in states.items() if state in {"queued", "sent"}}


# --- envelopes -------------------------------------------------------------------------------
def test_an_envelope_for_others_is_refused_and_not_kept(
    net: Net, alder: Node, mallory: Puppet, link: PuppetLink
) -> None:
    mallory.know(net["birch"].chain(), "birch")
    sealed = mallory.release("not for alder", [net["birch"].id])
    assert refusal(link.deliver(sealed.wire), sealed.id) == "wrong-audience"
    assert not holds(alder, sealed.id)
    assert not [path for path in alder.files() if sealed.id in path.read_bytes()]


def test_an_envelope_from_a_node_outside_its_audience_is_refused_until_its_author_brings_it(
    alder: Node, mallory: Puppet, link: PuppetLink, make: Make
) -> None:
    honest = make("honest")
    honest.befriend(alder)
    sealed = honest.release("for alder alone", [alder.id])
    assert refusal(link.deliver(sealed.wire), sealed.id) == "wrong-audience"
    assert not holds(alder, sealed.id)

    assert isinstance(honest.link(alder).deliver(sealed.wire), Receipts)
    assert holds(alder, sealed.id)
    # Held by now, but mallory must not even learn that.
    assert refusal(link.deliver(sealed.wire), sealed.id) == "wrong-audience"
    assert not link.of(Receipts)


def test_a_carrier_that_changes_bytes_is_refused_and_the_whole_envelope_still_taken(
    alder: Node, mallory: Puppet, link: PuppetLink, make: Make
) -> None:
    honest = make("honest")
    honest.befriend(alder)
    honest.know(mallory.core.trust.own, "mallory")
    sealed = honest.release("carried by mallory", [alder.id], carriers=[mallory.id])
    step = len(sealed.wire) // 8
    for at in range(step // 2, len(sealed.wire), step):
        wire = bytearray(sealed.wire)
        wire[at] ^= 0x01
        answer = link.deliver(bytes(wire))
        assert isinstance(answer, Refuse), f"took an envelope with byte {at} flipped"
        link.frames.clear()
    assert not holds(alder, sealed.id)
    assert isinstance(link.deliver(sealed.wire), Receipts)
    assert holds(alder, sealed.id)


def test_a_peer_that_was_added_but_not_approved_cannot_deliver(alder: Node, make: Make) -> None:
    stranger = make("stranger")
    stranger.befriend(alder, level=None)
    link = stranger.link(alder)
    sealed = stranger.release("nobody approved me", [alder.id])
    assert refusal(link.deliver(sealed.wire), sealed.id) == "untrusted-key"
    assert not holds(alder, sealed.id)
    with pytest.raises(AnswerError, match="unknown-recipient"):
        alder.release(alder.draft(incident("not to a stranger")), stranger.name)


def test_a_link_ends_after_ten_bad_envelopes(
    alder: Node, mallory: Puppet, link: PuppetLink
) -> None:
    sealed = mallory.release("spoiled", [alder.id])
    for number in range(limits.MAX_REFUSALS_PER_LINK):
        link.send(Deliver((sealed.wire[:-1] + bytes([number]),)))
    assert link.expect_end() == "over-limit"
    assert not holds(alder, sealed.id)
    # It was ended, not banned: whether to go on with that authority is for a person to decide.
    assert isinstance(mallory.link(alder).deliver(sealed.wire), Receipts)


def test_an_envelope_delivered_again_is_receipted_again_and_stored_once(
    alder: Node, mallory: Puppet, link: PuppetLink
) -> None:
    sealed = mallory.release("twice", [alder.id])
    first = link.deliver(sealed.wire, sealed.wire)
    again = link.deliver(sealed.wire)
    assert isinstance(first, Receipts), "one receipt, for it is one envelope"
    assert isinstance(again, Receipts)
    assert [item.index for item in first.items] == [item.index for item in again.items]
    assert alder.places()


# --- receipts --------------------------------------------------------------------------------
@dataclass(frozen=True)
class Given:
    """An incident that *author* released to mallory, and mallory's genuine receipt, not sent."""

    author: Node
    incident_id: str
    receipts: Receipts


@pytest.fixture
def given(alder: Node, mallory: Puppet, link: PuppetLink) -> Given:
    incident_id = alder.draft(incident("to mallory"))
    alder.release(incident_id, mallory.name)
    (wire,) = link.delivered()
    receipts = mallory.receipts(wire, alder.id)
    assert unproven(alder.deliveries(incident_id)) == {mallory.name}
    return Given(alder, incident_id, receipts)


def _wrong_proof(receipts: Receipts) -> Receipts:
    proof = receipts.items[0].proof
    return forged(receipts, proof=(secrets.token_bytes(32), *proof[1:]))


def _unsigned(receipts: Receipts) -> Receipts:
    lines = receipts.checkpoint.decode().splitlines(keepends=True)
    lines[1] = f"{int(lines[1]) + 1}\n"
    return replace(receipts, checkpoint="".join(lines).encode())


def _not_sent(receipts: Receipts) -> Receipts:
    return forged(receipts, envelope_id=secrets.token_bytes(32))


@pytest.mark.parametrize(
    ("forge", "code"),
    [(_wrong_proof, "bad-proof"), (_unsigned, "bad-signature"), (_not_sent, "bad-receipt")],
)
def test_a_forged_receipt_ends_the_link_and_proves_nothing(
    mallory: Puppet,
    link: PuppetLink,
    given: Given,
    forge: Callable[[Receipts], Receipts],
    code: str,
) -> None:
    alder, incident_id, genuine = given.author, given.incident_id, given.receipts
    link.send(forge(genuine))
    assert link.expect_end() == code
    assert unproven(alder.deliveries(incident_id)) == {mallory.name}

    mallory.link(alder).send(genuine)
    wait(lambda: alder.delivered(incident_id, mallory.name), "the genuine receipt to count")


def test_a_receipt_under_a_checkpoint_from_before_the_delivery_proves_nothing(
    alder: Node, mallory: Puppet, link: PuppetLink
) -> None:
    old = mallory.core.log.checkpoint()[1]
    incident_id = alder.draft(incident("to mallory"))
    alder.release(incident_id, mallory.name)
    (wire,) = link.delivered()
    genuine = mallory.receipts(wire, alder.id)
    link.send(replace(genuine, checkpoint=old))
    assert link.expect_end() == "bad-proof"
    assert unproven(alder.deliveries(incident_id)) == {mallory.name}


def test_a_genuine_receipt_of_an_envelope_that_was_never_sent_to_that_node_is_refused(
    alder: Node, mallory: Puppet, link: PuppetLink, make: Make
) -> None:
    honest = make("honest")
    honest.befriend(alder)
    mallory.know(honest.core.trust.own, "honest")
    honest.know(mallory.core.trust.own, "mallory")
    elsewhere = honest.release("from another author", [mallory.id])
    link.send(mallory.receipts(elsewhere.wire, honest.id))
    assert link.expect_end() == "bad-receipt"


def test_a_receipt_in_the_name_of_another_recipient_does_not_count_for_it(
    alder: Node, mallory: Puppet, link: PuppetLink, make: Make, given: Given
) -> None:
    victim = make("victim")
    victim.befriend(alder)
    incident_id = alder.draft(incident("to both"))
    alder.release(incident_id, mallory.name, victim.name)
    wire = link.delivered(2)[1]
    mine = mallory.receipts(wire, alder.id)
    for _ in range(limits.MAX_REFUSALS_PER_LINK):
        link.send(replace(mine, recipient=victim.id))
    assert link.expect_end() == "over-limit"
    states = alder.deliveries(incident_id)
    assert unproven(states) == {victim.name, mallory.name}
    assert unproven(alder.deliveries(given.incident_id)) == {mallory.name}


def test_a_nodes_own_receipt_sent_back_to_it_counts_for_nothing(
    alder: Node, mallory: Puppet, link: PuppetLink, given: Given
) -> None:
    sealed = mallory.release("to alder", [alder.id])
    theirs = link.deliver(sealed.wire)
    assert isinstance(theirs, Receipts)
    before = alder.verified_acts()
    link.send(theirs)
    link.send(given.receipts)
    wait(lambda: alder.delivered(given.incident_id, mallory.name), "the receipt behind it")
    # Only the genuine one behind it was logged.
    assert alder.verified_acts() == before + 1


# --- frames ----------------------------------------------------------------------------------
def test_a_second_hello_ends_the_link(alder: Node, mallory: Puppet, link: PuppetLink) -> None:
    own = mallory.core.trust.own
    link.send(Hello((VERSION,), own.network, own.node_id, bytes(32), own.head.n, own.head.digest))
    assert link.expect_end() == "bad-frame"
    assert node_sees(mallory_links(alder, mallory), mallory.name)


def mallory_links(alder: Node, mallory: Puppet) -> Node:
    """Let mallory link anew, which shows that the node took no lasting offence."""
    mallory.link_again(alder)
    return alder


@pytest.mark.parametrize(
    ("payload", "code"),
    [
        (b"", "bad-encoding"),
        (b"\xc1", "bad-encoding"),
        (b"\x91\xcc\xfa", "bad-frame"),
        (b"\xdd\xff\xff\xff\xff", "bad-encoding"),
        (b"\x91" * 5_000 + b"\x90", "bad-encoding"),
        (b"\x92\x05\x90", "bad-encoding"),
    ],
    ids=["nothing", "no msgpack", "unknown type", "endless array", "deep nesting", "no envelopes"],
)
def test_a_malformed_frame_ends_the_link_with_a_reason(
    mallory: Puppet, alder: Node, link: PuppetLink, payload: bytes, code: str
) -> None:
    link.send_payload(payload)
    assert link.expect_end() == code
    assert node_sees(mallory_links(alder, mallory), mallory.name)


def test_a_message_without_a_valid_tag_ends_the_link(
    mallory: Puppet, alder: Node, link: PuppetLink
) -> None:
    link.send_message(secrets.token_bytes(100))
    assert link.expect_end() == "bad-frame"
    assert node_sees(mallory_links(alder, mallory), mallory.name)


def test_an_oversize_frame_ends_the_link_and_costs_no_memory(
    mallory: Puppet, alder: Node, link: PuppetLink
) -> None:
    before = alder.reset_peak()
    link.flood_message(bytes(64 * MIB))
    link.expect_end()
    assert alder.peak() - before < 16 * MIB
    assert node_sees(mallory_links(alder, mallory), mallory.name)


# --- key statements --------------------------------------------------------------------------
def test_key_statements_of_a_third_node_are_not_given_to_a_peer_that_asks(
    net: Net, alder: Node, mallory: Puppet, link: PuppetLink
) -> None:
    link.send(WantStatements(net["birch"].id, 0))
    link.send(WantStatements(alder.id, 0))
    wait(
        lambda: any(frame.node_id == alder.id for frame in link.of(Statements)),
        "the node's own statements",
    )
    # Answers come in the order of the questions: birch's would stand before alder's own.
    told = {frame.node_id for frame in link.of(Statements)}
    assert told == {alder.id}, "who alder's other peers are is nothing that mallory may ask"


def test_a_peer_that_floods_questions_without_reading_the_answers_costs_bounded_memory(
    net: Net, alder: Node, mallory: Puppet
) -> None:
    silent = mallory.link(alder, reads=False)
    before = alder.reset_peak()
    # Each question takes 60 bytes and its answer 11 KiB: unbounded, these would take 440 MiB.
    sent = silent.flood(WantStatements(alder.id, 0), 40_000, seconds=20)
    assert sent > 1_000
    check_service(net)
    assert alder.peak() - before < limits.MAX_LINK_QUEUE + 32 * MIB


def test_a_peer_that_signs_two_statements_of_one_number_is_frozen_at_once(
    net: Net, alder: Node, mallory: Puppet, link: PuppetLink
) -> None:
    core = mallory.core
    vault, _ = core.opened()
    chain = core.trust.own
    card = core.card
    now = chain.head.issued
    said = CardFields(card.authority, "XQ", card.role, card.contact, (), card.expires)
    body = make_card_body(
        said,
        chain=chain,
        vault=vault,
        service=core.keys,
        certificate=card.tls[0],
        seal_until=now + 100 * DAY_MS,
        now=now,
    )
    shorter = replace(chain, statements=chain.statements[:-1])
    second = make_card(body, chain=shorter, issued=now, signer=vault.identity)
    assert second.n == chain.head.n

    link.send(Statements(mallory.id, (second.wire,)))
    link.expect_end()
    peer = alder.ask("GET", f"/api/v1/peers/{mallory.name}")
    assert (peer["level"], peer["linked"]) == ("frozen", False)
    with pytest.raises(AnswerError, match="unknown-recipient"):
        alder.release(alder.draft(incident("not to the frozen")), mallory.name)
    with pytest.raises(HandshakeError):
        mallory.link(alder)


def test_a_peer_lowered_to_observe_keeps_its_link_and_receives_nothing_more(
    alder: Node, mallory: Puppet, link: PuppetLink
) -> None:
    peer = alder.ask("GET", f"/api/v1/peers/{mallory.name}")
    alder.ask(
        "POST",
        f"/api/v1/peers/{mallory.name}/approve",
        {
            "level": "observe", "safety_number": peer["safety_number"], "method": "voice",
            "by": "duty officer",
        },
    )  # fmt: skip
    with pytest.raises(AnswerError, match="unknown-recipient"):
        alder.release(alder.draft(incident("not to an observer")), mallory.name)
    sealed = mallory.release("from an observer", [alder.id])
    assert isinstance(link.deliver(sealed.wire), Receipts)
    assert not link.of(Deliver)


# --- links -----------------------------------------------------------------------------------
def test_of_two_links_of_one_peer_one_stays_and_gets_each_envelope_once(
    alder: Node, mallory: Puppet, link: PuppetLink
) -> None:
    second = mallory.link(alder)
    assert link.expect_end() == "second-link"
    incident_id = alder.draft(incident("over one link"))
    alder.release(incident_id, mallory.name)
    (wire,) = second.delivered()
    second.send(mallory.receipts(wire, alder.id))
    wait(lambda: alder.delivered(incident_id, mallory.name), "the receipt")
    assert len(second.delivered()) == 1
    assert not link.of(Deliver)
    assert not second.of(Bye)
