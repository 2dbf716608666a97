"""The trust store: one test a rule of its docstring, and what operators are told."""

from __future__ import annotations

from dataclasses import FrozenInstanceError, replace

import pytest

from keys.fingerprint import format_node_id
from keys.trust import METHODS, Level, Peer, TrustStore, Verification
from protocol.errors import (
    EquivocationError,
    NotFoundError,
    RequestError,
    SignatureError,
    StatementError,
    TrustConflictError,
    UnknownRecipientError,
    UntrustedKeyError,
)
from protocol.statement import Chain, parse_statement
from tests.factories import DAY, NETWORK, NOW, TestNode, card_of, hybrid, inception_of, make_node

CHECKED = Verification("voice", "A. Operator", NOW)
FULL = (Level.OBSERVE, Level.RELAY, Level.SHARE)


@pytest.fixture
def store(alder: TestNode, birch: TestNode) -> TrustStore:
    """Alder's store, in which Birch is pinned."""
    return TrustStore.of(alder.chain, []).pin(birch.chain, "Birch")


def at_level(store: TrustStore, node: TestNode, level: Level) -> TrustStore:
    """Return *store* in which *node* is known at *level*, however that came about."""
    others = [peer for peer in store.peers.values() if peer.node_id != node.id]
    return TrustStore.of(store.own, [*others, Peer(node.chain, node.name.title(), level)])


def next_card(node: TestNode, **changes: object) -> Chain:
    return node.chain.extend(card_of(node.chain, node.name, issued=NOW, **changes))


def other_card(node: TestNode) -> Chain:
    """Return the chain of *node* with another card under the number of its card."""
    born = Chain.start(inception_of(node.name), network=NETWORK)
    return born.extend(card_of(born, node.name, contact="elsewhere"))


# --- rules -----------------------------------------------------------------------------------
def test_an_unknown_node_is_nothing_its_envelopes_are_refused_its_links_are_not_made(
    store: TrustStore, cedar: TestNode
) -> None:
    assert not store.accepts_link(cedar.id) and not store.accepts_author(cedar.id)
    assert cedar.id not in {peer.node_id for peer in store.linkable()}
    assert store.by_certificate(cedar.card.tls[0]) is None
    assert store.card_at(cedar.id, 1) is None
    for question in (
        lambda: store.peer(cedar.id),
        lambda: store.recipients([cedar.id], now=NOW),
        lambda: store.carriers([cedar.id]),
        lambda: store.approve(cedar.id, Level.SHARE, CHECKED),
        lambda: store.freeze(cedar.id),
    ):
        with pytest.raises(RequestError) as caught:
            question()
        assert caught.value.fix
    with pytest.raises(UntrustedKeyError):
        store.apply(cedar.id, cedar.chain.statements)


def test_a_pinned_node_may_link_and_exchange_key_statements_no_more(
    store: TrustStore, birch: TestNode
) -> None:
    assert store.peer(birch.id).level is Level.PINNED
    assert store.accepts_link(birch.id) and store.by_certificate(birch.card.tls[0])
    newer = store.apply(birch.id, next_card(birch, contact="new desk").statements)
    assert newer.peer(birch.id).card.contact == "new desk"
    assert not store.accepts_author(birch.id)
    with pytest.raises(UnknownRecipientError):
        store.recipients([birch.id], now=NOW)
    with pytest.raises(UnknownRecipientError):
        store.carriers([birch.id])


def test_levels_rise_by_approval_only(store: TrustStore, birch: TestNode) -> None:
    longer = next_card(birch)
    for after in (
        store.pin(birch.chain, "Birch"),
        store.pin(longer, "Birch"),
        store.pin(longer, "another name"),
        store.apply(birch.id, longer.statements),
        store.apply(birch.id, []),
    ):
        assert after.peer(birch.id).level is Level.PINNED
        assert after.peer(birch.id).verification is None
        assert after.peer(birch.id).name == "Birch"
    for level in FULL:
        assert store.approve(birch.id, level, CHECKED).peer(birch.id).level is level
    for level in (Level.PINNED, Level.FROZEN, Level.REVOKED):
        with pytest.raises(TrustConflictError) as caught:
            store.approve(birch.id, level, CHECKED)
        assert caught.value.fix == "choose observe, relay or share"


def test_a_new_card_neither_raises_nor_lowers_a_level(store: TrustStore, birch: TestNode) -> None:
    approved = store.approve(birch.id, Level.SHARE, CHECKED)
    for after in (
        approved.pin(next_card(birch), "Birch"),
        approved.apply(birch.id, next_card(birch).statements),
    ):
        assert after.peer(birch.id).level is Level.SHARE
        assert after.peer(birch.id).verification == CHECKED
        assert after.peer(birch.id).chain.head.n == 2


def test_approval_says_who_compared_the_number_and_how(store: TrustStore, birch: TestNode) -> None:
    for method in METHODS:
        check = Verification(method, "B. Officer", NOW + 1)
        assert store.approve(birch.id, Level.RELAY, check).peer(birch.id).verification == check
    assert METHODS == ("in-person", "voice", "note-verbale")


def test_approval_can_lower_a_level_as_well(store: TrustStore, birch: TestNode) -> None:
    lowered = store.approve(birch.id, Level.SHARE, CHECKED).approve(
        birch.id, Level.OBSERVE, replace(CHECKED, method="in-person")
    )
    assert lowered.peer(birch.id).level is Level.OBSERVE
    with pytest.raises(UnknownRecipientError):
        lowered.recipients([birch.id], now=NOW)


def test_lowering_needs_no_comparison(store: TrustStore, birch: TestNode) -> None:
    shared = store.approve(birch.id, Level.SHARE, CHECKED)
    lowered = shared.lower(birch.id, Level.OBSERVE)
    assert lowered.peer(birch.id).level is Level.OBSERVE
    assert lowered.peer(birch.id).verification == CHECKED, "the comparison stays noted"
    with pytest.raises(UnknownRecipientError):
        lowered.recipients([birch.id], now=NOW)
    for level in (Level.OBSERVE, Level.RELAY, Level.SHARE, Level.PINNED, Level.FROZEN):
        with pytest.raises(TrustConflictError, match="is not lower"):
            lowered.lower(birch.id, level)


@pytest.mark.parametrize("level", [Level.FROZEN, Level.REVOKED, Level.PINNED])
def test_lowering_thaws_and_raises_nobody(level: Level, store: TrustStore, birch: TestNode) -> None:
    stopped = at_level(store, birch, level)
    for wanted in FULL:
        with pytest.raises(TrustConflictError, match=level):
            stopped.lower(birch.id, wanted)


@pytest.mark.parametrize("level", [Level.PINNED, *FULL])
def test_a_node_that_signed_two_different_statements_of_one_number_is_frozen(
    level: Level, store: TrustStore, birch: TestNode
) -> None:
    store = at_level(store, birch, level)
    forked = other_card(birch)
    with pytest.raises(EquivocationError):
        store.apply(birch.id, forked.statements)
    with pytest.raises(EquivocationError):
        store.pin(forked, "Birch")
    frozen = store.freeze(birch.id)
    assert frozen.peer(birch.id).level is Level.FROZEN
    # Neither the honest chain nor a longer one thaws it.
    assert frozen.apply(birch.id, next_card(birch).statements).peer(birch.id).level is Level.FROZEN
    assert frozen.pin(next_card(birch), "Birch").peer(birch.id).level is Level.FROZEN


@pytest.mark.parametrize("level", [Level.FROZEN, Level.REVOKED])
def test_frozen_and_revoked_nodes_neither_link_nor_send_nor_receive(
    level: Level, store: TrustStore, birch: TestNode
) -> None:
    stopped = at_level(store, birch, level)
    assert not stopped.accepts_link(birch.id) and not stopped.accepts_author(birch.id)
    assert stopped.linkable() == () and stopped.by_certificate(birch.card.tls[0]) is None
    with pytest.raises(UnknownRecipientError, match=level):
        stopped.recipients([birch.id], now=NOW)
    with pytest.raises(UnknownRecipientError, match=level):
        stopped.carriers([birch.id])
    for wanted in FULL:
        with pytest.raises(TrustConflictError, match=level):
            stopped.approve(birch.id, wanted, CHECKED)
    # What it signed while it was trusted can still be checked.
    assert stopped.card_at(birch.id, 1) == birch.card


def test_a_revoked_node_stays_revoked(store: TrustStore, birch: TestNode) -> None:
    revoked = at_level(store, birch, Level.REVOKED)
    assert revoked.freeze(birch.id).peer(birch.id).level is Level.REVOKED
    assert revoked.pin(next_card(birch), "Birch").peer(birch.id).level is Level.REVOKED


def test_changing_trust_makes_a_new_store_the_one_in_use_never_changes(
    store: TrustStore, birch: TestNode, cedar: TestNode
) -> None:
    before = dict(store.peers)
    store.approve(birch.id, Level.SHARE, CHECKED)
    store.freeze(birch.id)
    store.pin(cedar.chain, "Cedar")
    store.apply(birch.id, next_card(birch).statements)
    assert dict(store.peers) == before
    with pytest.raises(TypeError):
        store.peers[cedar.id] = store.peers[birch.id]  # type: ignore[index]
    with pytest.raises(FrozenInstanceError):
        store.peers[birch.id].level = Level.SHARE  # type: ignore[misc]


def test_trust_is_directional(alder: TestNode, birch: TestNode) -> None:
    ours = TrustStore.of(alder.chain, []).pin(birch.chain, "Birch")
    theirs = TrustStore.of(birch.chain, []).pin(alder.chain, "Alder")
    ours = ours.approve(birch.id, Level.SHARE, CHECKED)
    assert ours.accepts_author(birch.id) and not theirs.accepts_author(alder.id)


@pytest.mark.parametrize(
    ("level", "allowed"),
    [
        (Level.PINNED, {"link"}),
        (Level.OBSERVE, {"link", "send"}),
        (Level.RELAY, {"link", "send", "carry"}),
        (Level.SHARE, {"link", "send", "carry", "receive"}),
        (Level.FROZEN, set()),
        (Level.REVOKED, set()),
    ],
)
def test_what_each_level_allows(
    level: Level, allowed: set[str], store: TrustStore, birch: TestNode
) -> None:
    store = at_level(store, birch, level)
    assert store.accepts_link(birch.id) == ("link" in allowed)
    assert store.accepts_author(birch.id) == ("send" in allowed)
    if "carry" in allowed:
        assert store.carriers([birch.id]) == (birch.id,)
    else:
        with pytest.raises(UnknownRecipientError):
            store.carriers([birch.id])
    if "receive" in allowed:
        assert store.recipients([birch.id], now=NOW) == {birch.id: birch.card}
    else:
        with pytest.raises(UnknownRecipientError):
            store.recipients([birch.id], now=NOW)


# --- pinning ---------------------------------------------------------------------------------
def test_our_own_card_is_not_pinned(store: TrustStore, alder: TestNode) -> None:
    with pytest.raises(TrustConflictError) as caught:
        store.pin(alder.chain, "Alder")
    assert "own card" in caught.value.message and "exchange cards" in caught.value.fix


def test_a_chain_without_a_card_is_not_pinned(store: TrustStore) -> None:
    born = Chain.start(inception_of("cedar"), network=NETWORK)
    with pytest.raises(UntrustedKeyError):
        store.pin(born, "Cedar")


def test_a_name_that_is_taken_is_refused_with_the_name(store: TrustStore, cedar: TestNode) -> None:
    with pytest.raises(TrustConflictError) as caught:
        store.pin(cedar.chain, "Birch")
    assert "'Birch'" in caught.value.message and "name of its own" in caught.value.fix


def test_a_name_that_differs_only_in_case_is_taken(store: TrustStore, cedar: TestNode) -> None:
    with pytest.raises(TrustConflictError):
        store.pin(cedar.chain, "BIRCH")


def test_no_peer_can_be_called_what_finds_another(
    store: TrustStore, birch: TestNode, cedar: TestNode
) -> None:
    """The name may come from the card, so its owner could choose the node id of somebody else."""
    shown = format_node_id(birch.id)
    with pytest.raises(TrustConflictError):
        store.pin(cedar.chain, shown)


def test_statements_that_break_the_chain_change_nothing(
    store: TrustStore, birch: TestNode, cedar: TestNode
) -> None:
    honest = next_card(birch)
    forged = card_of(honest, "cedar", issued=NOW)
    skipped = honest.extend(card_of(honest, "birch", issued=NOW)).head
    for statements, error in (
        ([honest.head, forged], SignatureError),
        ([skipped], StatementError),
        (list(cedar.chain.statements), StatementError),
    ):
        with pytest.raises(error):
            store.apply(birch.id, statements)
    assert store.peer(birch.id).chain == birch.chain


@pytest.mark.parametrize("kind", ["signed by another", "without signatures"])
def test_nobody_else_can_make_a_node_look_as_if_it_had_signed_twice(
    kind: str, store: TrustStore, birch: TestNode
) -> None:
    """Else any peer could have any other one frozen."""
    born = Chain.start(inception_of("birch"), network=NETWORK)
    forged = card_of(born, "cedar", contact="elsewhere")
    if kind == "without signatures":
        forged = parse_statement(forged.skeleton())
    with pytest.raises((SignatureError, StatementError)):
        store.apply(birch.id, [forged])


def test_a_skeleton_never_becomes_the_newest_card(store: TrustStore, birch: TestNode) -> None:
    bare = parse_statement(next_card(birch).head.skeleton())
    with pytest.raises(UntrustedKeyError):
        store.apply(birch.id, [bare])
    assert store.peer(birch.id).card == birch.card


# --- finding ---------------------------------------------------------------------------------
def test_a_peer_is_found_by_name_however_it_is_written(store: TrustStore, birch: TestNode) -> None:
    for text in ("Birch", "birch", "BIRCH", "  Birch\n"):
        assert store.find(text).node_id == birch.id


def test_a_peer_is_found_by_its_node_id_or_the_beginning_of_it(
    store: TrustStore, birch: TestNode, cedar: TestNode
) -> None:
    store = store.pin(cedar.chain, "Cedar")
    shown = format_node_id(birch.id)
    for text in (shown, shown.lower(), shown.replace("-", ""), shown.replace("-", " "),
                 shown[:7], shown[:20].lower(), f" {shown} "):  # fmt: skip
        assert store.find(text).node_id == birch.id


def test_less_than_one_group_of_a_node_id_finds_nothing(store: TrustStore, birch: TestNode) -> None:
    shown = format_node_id(birch.id)
    for text in ("", " ", shown[:1], shown[:6], shown[1:8], shown[8:15], "nobody"):
        with pytest.raises(NotFoundError) as caught:
            store.find(text)
        assert "no peer" in caught.value.message and "peers list" in caught.value.fix


def test_a_mistyped_node_id_finds_nothing(store: TrustStore, birch: TestNode) -> None:
    shown = format_node_id(birch.id)
    wrong = shown[:-1] + ("A" if shown[-1] != "A" else "B")
    with pytest.raises(NotFoundError):
        store.find(wrong)


def test_what_matches_several_peers_finds_none_of_them(store: TrustStore) -> None:
    """Two nodes whose ids begin alike cannot be made on purpose here, two names can be loaded."""
    twins = [Peer(make_node(name).chain, shown, Level.PINNED)
             for name, shown in (("elm", "Elm"), ("oak", "ELM"))]  # fmt: skip
    with pytest.raises(NotFoundError, match="more than one peer"):
        TrustStore.of(store.own, twins).find("elm")


def test_a_peer_that_is_not_known_is_not_found(store: TrustStore, cedar: TestNode) -> None:
    with pytest.raises(NotFoundError) as caught:
        store.peer(cedar.id)
    assert "picket peers list" in caught.value.fix


# --- recipients and carriers -----------------------------------------------------------------
def test_recipients_are_given_with_the_cards_to_seal_to(
    store: TrustStore, birch: TestNode, cedar: TestNode
) -> None:
    store = at_level(at_level(store, birch, Level.SHARE), cedar, Level.SHARE)
    cards = store.recipients([cedar.id, birch.id], now=NOW)
    assert cards == {cedar.id: cedar.card, birch.id: birch.card}
    renewed = store.apply(birch.id, next_card(birch, contact="new desk").statements)
    assert renewed.recipients([birch.id], now=NOW)[birch.id].contact == "new desk"
    assert store.recipients([], now=NOW) == {}


@pytest.mark.parametrize("level", [Level.PINNED, Level.OBSERVE, Level.RELAY])
def test_one_recipient_below_share_refuses_them_all_and_names_the_command(
    level: Level, store: TrustStore, birch: TestNode, cedar: TestNode
) -> None:
    """Nobody is silently left out."""
    store = at_level(at_level(store, cedar, Level.SHARE), birch, level)
    with pytest.raises(UnknownRecipientError) as caught:
        store.recipients([cedar.id, birch.id], now=NOW)
    assert f"Birch is at level {level}" in caught.value.message
    assert "safety numbers" in caught.value.fix
    assert "picket peers approve Birch" in caught.value.fix


def test_a_recipient_whose_card_has_expired_is_refused_with_what_to_ask_for(
    store: TrustStore, birch: TestNode
) -> None:
    store = store.approve(birch.id, Level.SHARE, CHECKED)
    last = NOW + 300 * DAY - 1
    assert store.recipients([birch.id], now=last) == {birch.id: birch.card}
    with pytest.raises(UnknownRecipientError) as caught:
        store.recipients([birch.id], now=last + 1)
    assert caught.value.message.startswith("Birch cannot receive")
    assert caught.value.fix == "ask that authority for its new card"


def test_carriers_keep_their_order_and_one_below_relay_refuses_them_all(
    store: TrustStore, birch: TestNode, cedar: TestNode
) -> None:
    both = at_level(at_level(store, birch, Level.RELAY), cedar, Level.SHARE)
    assert both.carriers([cedar.id, birch.id]) == (cedar.id, birch.id)
    assert both.carriers(iter([birch.id])) == (birch.id,)
    assert both.carriers([]) == ()
    low = at_level(both, birch, Level.OBSERVE)
    with pytest.raises(UnknownRecipientError) as caught:
        low.carriers([cedar.id, birch.id])
    assert "Birch is at level observe" in caught.value.message
    assert "picket peers approve Birch --level relay" in caught.value.fix


# --- cards -----------------------------------------------------------------------------------
def test_links_are_listed_by_name(store: TrustStore, alder: TestNode, cedar: TestNode) -> None:
    store = store.pin(cedar.chain, "Aspen")
    assert [peer.name for peer in store.linkable()] == ["Aspen", "Birch"]
    assert store.own is alder.chain


def test_a_peer_links_with_the_certificates_of_its_cards_back_to_its_last_recovery(
    store: TrustStore, birch: TestNode, cedar: TestNode
) -> None:
    old = birch.card.tls[0]
    found = store.by_certificate(old)
    assert found is not None and found.node_id == birch.id
    renewed = store.apply(birch.id, next_card(birch, tls=cedar.card.tls).statements)
    for certificate in (cedar.card.tls[0], old):
        found = renewed.by_certificate(certificate)
        assert found is not None and found.node_id == birch.id
    assert renewed.peer(birch.id).certificates == (cedar.card.tls[0], old)


def test_cards_are_found_by_their_number_for_peers_and_for_ourselves(
    store: TrustStore, alder: TestNode, birch: TestNode
) -> None:
    renewed = store.apply(birch.id, next_card(birch, contact="new desk").statements)
    first, second = renewed.card_at(birch.id, 1), renewed.card_at(birch.id, 2)
    assert first == birch.card and second is not None and second.contact == "new desk"
    assert renewed.card_at(birch.id, 0) is None and renewed.card_at(birch.id, 3) is None
    assert renewed.card_at(alder.id, 1) == alder.card
    assert hybrid("birch", "identity").public in renewed.peer(birch.id).chain.inception.keys
