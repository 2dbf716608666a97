"""What counts of a node's key statements: each rule has a test named after it."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterable, Sequence
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protocol import limits, suite
from protocol.bodies import identity_value
from protocol.canonical import decode, encode
from protocol.chain import KeyHistory, Standing
from protocol.errors import (
    DecodeError,
    PeerError,
    SignatureError,
    StatementError,
    UntrustedKeyError,
    WeakKeyError,
    WrongNetworkError,
)
from protocol.statement import (
    SHOWN,
    Card,
    Chain,
    Inception,
    Rotation,
    Statement,
    identity_digest,
    make_card,
    make_inception,
    make_recover,
    make_revocation,
    make_rotate,
    parse_statement,
    revocation_digest,
)
from tests.factories import DAY, NETWORK, NOW, card_body, hybrid, inception_of, seed

PAPER = hybrid("alder", "next")
AFTER = hybrid("alder", "next 2")
LAST = hybrid("alder", "next 3")
THIEF = hybrid("mallory", "identity")


def rotation(shown: suite.LocalHybridSigner, following: suite.LocalHybridSigner) -> Rotation:
    return Rotation((shown.public,), 1, (identity_digest(following.public),), 1)


def card(chain: Chain, signer: suite.LocalHybridSigner, contact: str = "desk") -> Statement:
    return make_card(card_body("alder", contact=contact), chain=chain, issued=NOW, signer=signer)


def rotate(
    chain: Chain,
    *,
    old: suite.LocalHybridSigner | None = None,
    new: suite.LocalHybridSigner = PAPER,
    following: suite.LocalHybridSigner = AFTER,
) -> Statement:
    signer = old or hybrid("alder", "identity")
    body = rotation(new, following)
    return make_rotate(body, chain=chain, issued=NOW, old={0: signer}, new=[new])


def recover(
    chain: Chain,
    *,
    new: suite.LocalHybridSigner = PAPER,
    following: suite.LocalHybridSigner = AFTER,
) -> Statement:
    return make_recover(rotation(new, following), chain=chain, issued=NOW, signers=[new])


def revocation(chain: Chain, code: bytes | None = None) -> Statement:
    return make_revocation(
        network=NETWORK, node_id=chain.node_id, code=code or seed("alder", "revocation")
    )


@pytest.fixture(scope="module")
def born() -> Chain:
    return Chain.start(inception_of("alder"), network=NETWORK)


@pytest.fixture(scope="module")
def carded(born: Chain) -> Chain:
    return born.extend(card(born, hybrid("alder", "identity")))


class World:
    """One identity, its owner and a thief of the live key, and all that they signed."""

    def __init__(self, born: Chain) -> None:
        live = hybrid("alder", "identity")
        self.born = born
        self.one = born.extend(card(born, live, "one"))
        self.two = self.one.extend(card(self.one, live, "two"))
        self.stolen = self.two.extend(card(self.two, live, "stolen"))
        self.more = self.stolen.extend(card(self.stolen, live, "more"))
        self.rival = self.one.extend(card(self.one, live, "rival"))
        self.recovered = self.two.extend(recover(self.two))
        self.settled = self.recovered.extend(card(self.recovered, PAPER, "settled"))
        self.rotated = self.settled.extend(
            rotate(self.settled, old=PAPER, new=AFTER, following=LAST)
        )
        self.final = self.rotated.extend(card(self.rotated, AFTER, "final"))
        self.spent = self.one.extend(rotate(self.one))
        self.revoked = revocation(born)


@pytest.fixture(scope="module")
def world(born: Chain) -> World:
    return World(born)


def settle(born: Chain, statements: Iterable[Statement]) -> KeyHistory:
    """Take *statements* one by one; what is early is offered again, as by gossip."""
    history, waiting = KeyHistory(born), list(statements)
    while waiting:
        left = []
        for statement in waiting:
            try:
                history = history.take([statement])
            except StatementError:
                left.append(statement)
        if len(left) == len(waiting):
            break
        waiting = left
    return history


def state(history: KeyHistory) -> tuple[object, ...]:
    """Return all that trust depends on."""
    return (
        [s.digest for s in history.chain.statements],
        [s.digest for s in history.aside],
        history.standing,
        history.revocation is not None,
        history.chain.identity,
        history.chain.card,
    )


# --- rotation --------------------------------------------------------------------------------
def test_a_rotation_shows_the_next_keys_and_puts_them_in_force(carded: Chain) -> None:
    after = carded.extend(rotate(carded))
    assert after.identity.keys == (PAPER.public,)
    assert after.identity.next_digests == (identity_digest(AFTER.public),)
    assert after.card == carded.card, "the card goes on: its keys were not replaced"
    assert after.node_id == carded.node_id


def test_cards_after_a_rotation_are_signed_by_the_new_keys(carded: Chain) -> None:
    after = carded.extend(rotate(carded))
    assert after.extend(card(after, PAPER)).head.n == 3
    with pytest.raises(SignatureError):
        after.extend(card(after, hybrid("alder", "identity")))


def test_a_rotation_is_signed_by_the_old_and_the_new_keys(carded: Chain) -> None:
    made = rotate(carded)
    core, body, signatures = _parts(made)
    for kept in ([signatures[0]], [signatures[1]], []):
        with pytest.raises(StatementError):
            carded.extend(parse_statement(encode([core, body, kept])))
    for forged in (rotate(carded, old=THIEF),):
        with pytest.raises(SignatureError):
            carded.extend(forged)


def test_a_thief_with_the_live_key_cannot_rotate(carded: Chain) -> None:
    with pytest.raises(StatementError, match="nothing committed"):
        carded.extend(rotate(carded, new=THIEF))


def test_a_thief_with_the_live_key_cannot_recover(carded: Chain) -> None:
    for signer in (THIEF, hybrid("alder", "identity")):
        with pytest.raises(StatementError, match="nothing committed"):
            carded.extend(recover(carded, new=signer))


def test_a_rotation_signed_under_the_label_of_a_recovery_is_refused(carded: Chain) -> None:
    core, body, signatures = _parts(recover(carded))
    fields = decode(core, max_bytes=1_024)
    assert isinstance(fields, list)
    fields[1] = "rotate"
    old = _parts(rotate(carded))[2][0]
    moved = [old, [SHOWN, *signatures[0][1:]]]
    with pytest.raises(SignatureError):
        carded.extend(parse_statement(encode([encode(fields), body, moved])))


@pytest.mark.parametrize("half", [1, 2])
@pytest.mark.parametrize("which", [0, 1])
def test_both_algorithms_of_both_keys_sign_a_rotation(which: int, half: int, carded: Chain) -> None:
    core, body, signatures = _parts(rotate(carded))
    spoilt = signatures[which][half]
    signatures[which][half] = bytes([spoilt[0] ^ 1]) + spoilt[1:]
    with pytest.raises(SignatureError):
        carded.extend(parse_statement(encode([core, body, signatures])))


@pytest.mark.parametrize("half", [1, 2])
def test_both_algorithms_sign_a_recovery(half: int, carded: Chain) -> None:
    core, body, signatures = _parts(recover(carded))
    spoilt = signatures[0][half]
    signatures[0][half] = bytes([spoilt[0] ^ 1]) + spoilt[1:]
    with pytest.raises(SignatureError):
        carded.extend(parse_statement(encode([core, body, signatures])))


def test_thresholds_hold_for_old_and_new_keys() -> None:
    old = [hybrid("elder", f"identity {number}") for number in range(3)]
    new = [hybrid("elder", f"next {number}") for number in range(3)]
    inception = Inception(
        tuple(s.public for s in old), 2, tuple(identity_digest(s.public) for s in new), 2,
        revocation_digest(seed("elder", "revocation")),
    )  # fmt: skip
    chain = Chain.start(
        make_inception(inception, network=NETWORK, issued=NOW - DAY, signers=old), network=NETWORK
    )
    body = Rotation(
        (new[0].public, new[2].public), 1, (identity_digest(hybrid("elder", "x").public),), 1
    )
    two = {0: old[0], 2: old[2]}
    good = make_rotate(body, chain=chain, issued=NOW, old=two, new=[new[0], new[2]])
    assert chain.extend(good).identity == body
    for few_old, few_new in (({0: old[0]}, [new[0], new[2]]), (two, [new[0]])):
        with pytest.raises(StatementError, match="signatures are required"):
            chain.extend(make_rotate(body, chain=chain, issued=NOW, old=few_old, new=few_new))
    with pytest.raises(StatementError, match="signatures are required"):
        chain.extend(make_recover(body, chain=chain, issued=NOW, signers=[new[0]]))
    strict = replace(body, threshold=2)
    chain.extend(make_recover(strict, chain=chain, issued=NOW, signers=[new[0], new[2]]))


def test_an_identity_key_never_comes_back(carded: Chain) -> None:
    with pytest.raises(WeakKeyError, match="in force"):
        carded.extend(rotate(carded, following=hybrid("alder", "identity")))
    with pytest.raises(WeakKeyError, match="in force"):
        rotate(carded, following=PAPER)


def test_a_card_uses_no_identity_key_of_any_time(carded: Chain) -> None:
    after = carded.extend(rotate(carded))
    for signer in (PAPER, hybrid("alder", "identity")):
        body = card_body("alder", message=signer.public[0])
        made = make_card(body, chain=after, issued=NOW, signer=PAPER)
        with pytest.raises(WeakKeyError):
            after.extend(made)


@pytest.mark.parametrize(
    "bad",
    [
        bytes(32),
        (1).to_bytes(32, "little"),
        (2**255 - 20).to_bytes(32, "little"),
        (2**255 - 19).to_bytes(32, "little"),
        bytes.fromhex("26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05"),
        bytes.fromhex("c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a"),
        bytes.fromhex("ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff"),
    ],
)
def test_weak_identity_keys_are_refused_in_a_rotation(bad: bytes, carded: Chain) -> None:
    core, _, signatures = _parts(recover(carded))
    body = encode({**identity_value(rotation(PAPER, AFTER)), "keys": [[bad, PAPER.public[1]]]})
    fields = decode(core, max_bytes=1_024)
    assert isinstance(fields, list)
    fields[7] = suite.digest("statement-body", body)
    with pytest.raises(WeakKeyError):
        parse_statement(encode([encode(fields), body, signatures]))


# --- recovery --------------------------------------------------------------------------------
def test_a_recovery_ends_every_card_before_it(carded: Chain) -> None:
    after = carded.extend(recover(carded))
    assert after.card is None and after.recovered_at == 2
    assert after.card_at(1) == carded.card, "what it signed before still verifies"
    done = after.extend(card(after, PAPER))
    assert done.card is not None and done.recovered_at == 2


def test_a_recovery_supersedes_what_a_thief_signed_since_the_point_it_names(world: World) -> None:
    held = KeyHistory(world.born).take(world.more.statements)
    after = held.take([*world.settled.statements])
    assert after.chain.statements == world.settled.statements
    assert after.standing is Standing.CLEAR
    assert {s.digest for s in after.aside} == {s.digest for s in world.more.statements[3:]}
    assert [c.contact for c in after.cards_numbered(3)] == ["stolen"]


def test_a_thief_cannot_freeze_an_identity_for_ever(world: World) -> None:
    frozen = KeyHistory(world.two).take(world.rival.statements)
    assert frozen.standing is Standing.CONTRADICTED
    settled = frozen.take(world.settled.statements)
    assert settled.standing is Standing.CLEAR
    # What the old keys sign from now on is kept, and changes nothing.
    again = settled.take(world.more.statements)
    assert again.standing is Standing.CLEAR and again.chain == settled.chain


def test_a_recovery_stands_on_a_statement_that_is_held(world: World) -> None:
    with pytest.raises(StatementError):
        KeyHistory(world.one).take([world.recovered.head])
    with pytest.raises(StatementError):
        KeyHistory(world.more).take([world.settled.head])


def test_two_statements_of_one_number_freeze(world: World) -> None:
    for first, other in ((world.two, world.rival), (world.rival, world.two)):
        history = KeyHistory(first).take(other.statements)
        assert history.standing is Standing.CONTRADICTED


def test_the_next_keys_settle_once(world: World) -> None:
    history = settle(world.born, [*world.settled.statements, *world.spent.statements])
    assert history.standing is Standing.SPENT
    final = history.take(world.final.statements)
    assert final.standing is Standing.SPENT, "nothing settles it"


def test_a_contradiction_under_the_new_keys_freezes_again(world: World) -> None:
    other = world.rotated.extend(card(world.rotated, AFTER, "other"))
    history = KeyHistory(world.final).take(other.statements)
    assert history.standing is Standing.CONTRADICTED


# --- revocation ------------------------------------------------------------------------------
def test_a_revocation_may_come_at_any_position(world: World) -> None:
    for chain in (world.born, world.more, world.final):
        history = KeyHistory(chain).take([world.revoked])
        assert history.revocation == world.revoked and history.chain == chain
    frozen = KeyHistory(world.two).take([*world.rival.statements, world.revoked])
    assert frozen.revocation is not None


def test_a_revocation_is_terminal(world: World) -> None:
    history = KeyHistory(world.two).take([world.revoked])
    assert history.take(world.final.statements).revocation == world.revoked


def test_a_revocation_needs_the_code_of_its_inception(world: World) -> None:
    for forged in (
        revocation(world.born, seed("mallory", "revocation")),
        make_revocation(network=NETWORK, node_id=seed("x", "id"), code=seed("alder", "revocation")),
    ):
        with pytest.raises(StatementError):
            KeyHistory(world.two).take([forged])
    elsewhere = make_revocation(
        network=suite.network_id("x"), node_id=world.born.node_id, code=seed("alder", "revocation")
    )
    with pytest.raises(WrongNetworkError):
        KeyHistory(world.two).take([elsewhere])


def test_there_is_one_revocation_of_a_node(world: World) -> None:
    again = revocation(world.born)
    assert again.wire == world.revoked.wire
    core, body, _ = _parts(world.revoked)
    fields = decode(core, max_bytes=1_024)
    assert isinstance(fields, list)
    for at, value in ((4, 1), (5, seed("any", "digest")), (6, NOW)):
        changed = list(fields)
        changed[at] = value
        with pytest.raises(DecodeError):
            parse_statement(encode([encode(changed), body, []]))
    signature = _parts(world.two.head)[2]
    with pytest.raises(DecodeError):
        parse_statement(encode([core, body, signature]))
    more = encode({"code": seed("alder", "revocation"), "ext": {}})
    fields[7] = suite.digest("statement-body", more)
    with pytest.raises(DecodeError):
        parse_statement(encode([encode(fields), more, []]))


def test_a_revocation_is_no_link_of_the_chain(world: World) -> None:
    with pytest.raises(StatementError):
        world.born.extend(world.revoked)


# --- any order -------------------------------------------------------------------------------
def test_all_orderings_of_a_chain_give_the_same_state(world: World) -> None:
    """Every order of a whole life with a thief in it: cards, rival, recovery, revocation."""
    statements = [
        *world.settled.statements[1:], world.stolen.head, world.rival.head, world.revoked,
    ]  # fmt: skip
    wanted = state(settle(world.born, statements))
    assert wanted[2] is Standing.CLEAR
    orders = itertools.permutations(statements)
    # 5,040 orders; each 7th meets every statement in every place.
    for order in itertools.islice(orders, 0, None, 7):
        assert state(settle(world.born, order)) == wanted


def test_all_orderings_of_a_contradiction_give_the_same_state(world: World) -> None:
    other = world.one.extend(card(world.one, hybrid("alder", "identity"), "third"))
    beside = world.two.extend(rotate(world.two))
    spent = [*world.settled.statements[1:5], beside.head]
    frozen = [*world.more.statements[1:], world.rival.head, other.head]
    for statements, standing in ((frozen, Standing.CONTRADICTED), (spent, Standing.SPENT)):
        wanted = state(settle(world.born, statements))
        assert wanted[2] is standing
        for order in itertools.islice(itertools.permutations(statements), 0, None, 5):
            assert state(settle(world.born, order)) == wanted


def _everything(world: World) -> list[Statement]:
    chains = (world.final, world.more, world.rival, world.spent)
    return list({s.digest: s for c in chains for s in c.statements[1:]}.values())


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_any_part_of_it_in_any_order_and_grouping_gives_the_same_state(data: st.DataObject) -> None:
    world = _WORLD
    pool = [*_everything(world), world.revoked]
    part = data.draw(st.lists(st.sampled_from(pool), unique_by=lambda s: s.wire))
    one = data.draw(st.permutations(part))
    other = data.draw(st.permutations(part))
    repeated = [*other, *other[: len(other) // 2]]
    assert state(settle(world.born, one)) == state(settle(world.born, repeated))
    assert state(settle(world.born, one)) == state(_grouped(world.born, other))


_WORLD = World(Chain.start(inception_of("alder"), network=NETWORK))


def _grouped(born: Chain, statements: Sequence[Statement]) -> KeyHistory:
    """Take *statements* at once, without those that stand on nothing among them."""
    held, whole = {born.head.digest}, []
    for statement in sorted(statements, key=lambda s: s.n):
        if statement.prev in held or statement.type == "revoke":
            held.add(statement.digest)
            whole.append(statement)
    return KeyHistory(born).take(whole)


def test_skeletons_change_nothing_but_what_can_be_shown(world: World) -> None:
    bare = [
        s if s.type != "card" or s.n == world.final.head.n else parse_statement(s.skeleton())
        for s in world.final.statements
    ]
    history = KeyHistory(world.born).take(bare[1:])
    assert [s.digest for s in history.chain.statements] == [
        s.digest for s in world.final.statements
    ]
    assert history.chain.card_at(1) is None
    filled = history.take(world.final.statements)
    assert state(filled) == state(settle(world.born, world.final.statements[1:]))


def test_a_skeleton_that_nothing_confirms_says_nothing(world: World) -> None:
    with pytest.raises(UntrustedKeyError):
        KeyHistory(world.one).take([parse_statement(world.two.head.skeleton())])
    with pytest.raises(StatementError):
        KeyHistory(world.two).take([parse_statement(world.rival.head.skeleton())])


def test_a_batch_with_one_bad_statement_changes_nothing(world: World) -> None:
    held = KeyHistory(world.one)
    core, body, signatures = _parts(world.stolen.head)
    signatures[0][1] = bytes(64)
    spoilt = parse_statement(encode([core, body, signatures]))
    with pytest.raises(PeerError):
        held.take([world.two.head, spoilt])
    assert held.chain == world.one


def test_what_is_kept_beside_is_bounded_and_the_evidence_stays(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "MAX_ASIDE", 4)
    live = hybrid("alder", "identity")
    rivals = [card(world.one, live, f"rival {number}") for number in range(9)]
    random.Random(1).shuffle(rivals)
    history = settle(world.born, [*world.two.statements, *rivals])
    assert len(history.aside) == 4
    assert history.standing is Standing.CONTRADICTED
    settled = history.take(world.settled.statements)
    assert settled.standing is Standing.CLEAR and len(settled.aside) <= 4
    other = card(world.recovered, PAPER, "other")
    frozen = settled.take([other])
    assert frozen.standing is Standing.CONTRADICTED
    assert len(frozen.aside) <= 4
    assert frozen.take(world.two.statements).standing is Standing.CONTRADICTED


def _parts(made: Statement) -> tuple[bytes, bytes, list[list[bytes]]]:
    outer = decode(made.wire, max_bytes=limits.MAX_STATEMENT)
    assert isinstance(outer, list)
    core, body, signatures = outer
    assert isinstance(core, bytes) and isinstance(body, bytes) and isinstance(signatures, list)
    return core, body, [list(each) for each in signatures]  # type: ignore[arg-type]


def test_the_card_that_counts_is_the_newest_after_the_last_recovery(world: World) -> None:
    found = world.final.card
    assert isinstance(found, Card) and found.contact == "final"
