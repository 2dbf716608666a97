"""Key statements and cards: each rule of the chain has a test named after it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from protocol import bodies, limits, statement, suite
from protocol.armor import armor, dearmor
from protocol.canonical import decode, encode
from protocol.errors import (
    DecodeError,
    EquivocationError,
    ExpiredError,
    LimitError,
    PeerError,
    SignatureError,
    StatementError,
    VersionError,
    WeakKeyError,
    WrongNetworkError,
)
from protocol.statement import Chain, make_bundle, parse_statement, verify_bundle
from tests.factories import (
    DAY,
    NETWORK,
    NOW,
    TestNode,
    card_body,
    card_of,
    certificate_of,
    hybrid,
    inception_of,
    seed,
)


@pytest.fixture(scope="module")
def born() -> Chain:
    return Chain.start(inception_of("alder"), network=NETWORK)


def parts(wire: bytes) -> list[object]:
    value = decode(wire, max_bytes=limits.MAX_STATEMENT)
    assert isinstance(value, list)
    return list(value)


# --- rules -----------------------------------------------------------------------------------
def test_the_node_id_is_the_digest_of_the_inception(born: Chain) -> None:
    outer = parts(born.head.wire)
    core = decode(bytes(outer[0]), max_bytes=1_024)  # type: ignore[call-overload]
    assert isinstance(core, list)
    core[3] = seed("other", "id")
    forged = encode([encode(core), outer[1], outer[2]])
    with pytest.raises(StatementError):
        Chain.start(parse_statement(forged), network=NETWORK)


def test_a_chain_begins_with_an_inception(born: Chain) -> None:
    with pytest.raises(StatementError):
        Chain.start(card_of(born, "alder"), network=NETWORK)


def test_an_inception_of_another_network_is_refused() -> None:
    other = inception_of("alder", network=suite.network_id("elsewhere"))
    with pytest.raises(WrongNetworkError) as caught:
        Chain.start(other, network=NETWORK)
    assert "network" in caught.value.diagnostics()


def test_numbers_rise_by_exactly_one(born: Chain) -> None:
    first = born.extend(card_of(born, "alder"))
    second = card_of(first, "alder", issued=NOW)
    with pytest.raises(StatementError):
        born.extend(second)


def test_each_statement_names_the_one_before(born: Chain) -> None:
    longer = born.extend(card_of(born, "alder"))
    other = born.extend(card_of(born, "alder", contact="elsewhere"))
    with pytest.raises(StatementError):
        longer.extend(card_of(other, "alder", issued=NOW))


def test_a_statement_is_not_dated_before_the_one_it_follows(born: Chain) -> None:
    with pytest.raises(StatementError):
        born.extend(card_of(born, "alder", issued=NOW - 2 * DAY))


def test_two_statements_of_one_number_are_equivocation(born: Chain) -> None:
    chain = born.extend(card_of(born, "alder"))
    with pytest.raises(EquivocationError):
        chain.extend(card_of(born, "alder", contact="elsewhere"))


def test_a_repeated_statement_changes_nothing(born: Chain) -> None:
    card = card_of(born, "alder")
    chain = born.extend(card)
    assert chain.extend(card) is chain
    # ML-DSA signatures are randomised: the same statement signed again is still the same one.
    assert chain.extend(card_of(born, "alder")) is chain


def test_another_identity_cannot_extend_the_chain(born: Chain) -> None:
    forged = statement.make_card(
        card_body("alder"), chain=born, issued=NOW, signer=hybrid("mallory", "identity")
    )
    with pytest.raises(SignatureError):
        born.extend(forged)


@pytest.mark.parametrize("half", [1, 2])
def test_both_signatures_are_needed(half: int, born: Chain) -> None:
    outer = parts(card_of(born, "alder").wire)
    forged = parts(
        statement.make_card(
            card_body("alder"), chain=born, issued=NOW - DAY, signer=hybrid("mallory", "identity")
        ).wire
    )
    outer[2][0][half] = forged[2][0][half]  # type: ignore[index]
    with pytest.raises(SignatureError):
        born.extend(parse_statement(encode(outer)))


def test_an_unsigned_card_is_refused(born: Chain) -> None:
    outer = parts(card_of(born, "alder").wire)
    with pytest.raises(StatementError):
        born.extend(parse_statement(encode([outer[0], outer[1], []])))


def test_a_statement_of_another_node_is_refused(born: Chain, birch: TestNode) -> None:
    with pytest.raises(StatementError):
        born.extend(birch.chain.head)


def test_a_card_lives_at_most_400_days(born: Chain) -> None:
    with pytest.raises(StatementError):
        born.extend(card_of(born, "alder", expires=NOW + 400 * DAY))


def test_a_body_that_does_not_match_its_digest_is_refused(born: Chain) -> None:
    outer = parts(card_of(born, "alder").wire)
    other = parts(card_of(born, "alder", contact="elsewhere").wire)
    with pytest.raises(DecodeError):
        parse_statement(encode([outer[0], other[1], outer[2]]))


# --- keys ------------------------------------------------------------------------------------
def test_a_key_in_two_roles_is_refused(born: Chain) -> None:
    body = card_body("alder")
    for changes in (
        {"message": body.link[0]},
        {"message": body.log.ed25519},
        {"witness": replace(body.witness, mldsa44=body.log.mldsa44)},
        {"seal": (body.seal[0], body.seal[0])},
        {"message": suite.certificate_key(body.tls[0])},
        {"tls": (body.tls[0], body.tls[0])},
    ):
        with pytest.raises(WeakKeyError):
            card_of(born, "alder", **changes)


def test_an_identity_key_in_a_second_role_is_refused(born: Chain) -> None:
    with pytest.raises(WeakKeyError):
        born.extend(card_of(born, "alder", message=hybrid("alder", "identity").public[0]))


@pytest.mark.parametrize(
    "changes",
    [
        {"message": (1).to_bytes(32, "little")},
        {"link": (bytes(32), hybrid("alder", "link").public[1])},
        {
            "seal": (
                statement.SealKey(suite.seal_public_bytes(seed("x", "s"))[:1184] + bytes(32), 1, 2),
            )
        },
        {"tls": (b"not a certificate",)},
        {"tls": (certificate_of("alder") + b"\0",)},
        {"tls": (certificate_of("alder", ec.generate_private_key(ec.SECP256R1())),)},
    ],
)
def test_weak_keys_are_refused_at_import(changes: dict[str, object], born: Chain) -> None:
    with pytest.raises(WeakKeyError) as caught:
        card_of(born, "alder", **changes)  # type: ignore[arg-type]
    assert "card." in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"country": "xa"}, DecodeError),
        ({"country": "X"}, DecodeError),
        ({"role": "king"}, DecodeError),
        ({"authority": ""}, DecodeError),
        ({"authority": "a\nb"}, DecodeError),
        ({"authority": "x" * 257}, LimitError),
        ({"endpoints": ("https://a:1",)}, DecodeError),
        ({"endpoints": ("wss://a",)}, DecodeError),
        ({"endpoints": ("wss://a:99999",)}, DecodeError),
        ({"endpoints": ("wss://u@a:1",)}, DecodeError),
        ({"endpoints": ("wss://a:1/x",)}, DecodeError),
        ({"endpoints": ("wss://a:1",) * 9}, LimitError),
        ({"tls": ()}, DecodeError),
        ({"tls": (b"x" * 3_000,)}, LimitError),
        ({"seal": ()}, DecodeError),
        ({"min_suite": 0}, DecodeError),
        ({"log": replace(card_body("alder").log, name="a b")}, DecodeError),
        ({"log": replace(card_body("alder").log, name="a+b")}, DecodeError),
        ({"seal": (replace(card_body("alder").seal[0], not_after=1),)}, DecodeError),
    ],
)
def test_card_fields_have_bounds(
    changes: dict[str, object], error: type[PeerError], born: Chain
) -> None:
    with pytest.raises(error) as caught:
        card_of(born, "alder", **changes)  # type: ignore[arg-type]
    assert type(caught.value) is error


def test_an_unknown_statement_type_asks_for_an_update(born: Chain) -> None:
    outer = parts(card_of(born, "alder").wire)
    core = decode(bytes(outer[0]), max_bytes=1_024)  # type: ignore[call-overload]
    assert isinstance(core, list)
    for place, value in ((0, 2), (1, "crown")):
        changed = list(core)
        changed[place] = value
        with pytest.raises(VersionError):
            parse_statement(encode([encode(changed), outer[1], outer[2]]))


def test_only_an_ext_map_may_add_fields(born: Chain) -> None:
    fields = bodies.card_value(card_body("alder"))
    bodies.parse_card(decode(encode({**fields, "ext": {"later": 1}}), max_bytes=1 << 16))
    for extra in ({"later": 1}, {"ext": 1}):
        with pytest.raises(DecodeError):
            bodies.parse_card(decode(encode({**fields, **extra}), max_bytes=1 << 16))
    del fields["tls"]
    with pytest.raises(DecodeError):
        bodies.parse_card(decode(encode(fields), max_bytes=1 << 16))


def test_the_newest_valid_sealing_key_is_used() -> None:
    old, new = (
        statement.SealKey(suite.seal_public_bytes(seed("alder", name)), start, NOW + 9 * DAY)
        for name, start in (("seal", NOW - 2 * DAY), ("seal2", NOW))
    )
    card = card_body("alder", seal=(old, new))
    assert card.seal_key(NOW - 1) == old
    assert card.seal_key(NOW) == new
    for late in (NOW + 9 * DAY, NOW + 301 * DAY):
        with pytest.raises(ExpiredError):
            card.seal_key(late)


# --- bundles ---------------------------------------------------------------------------------
def test_replaced_cards_shrink_to_skeletons(born: Chain) -> None:
    chain = born.extend(card_of(born, "alder"))
    chain = chain.extend(card_of(chain, "alder", issued=NOW, contact="new desk"))
    bundle = make_bundle(chain)
    assert len(bundle) < len(chain.statements[0].wire) + len(chain.head.wire) + 400
    read = verify_bundle(bundle, network=NETWORK)
    assert read.card == chain.card and read.card_at(1) is None and read.node_id == chain.node_id
    filled = read.extend(chain.statements[1])
    assert filled.card_at(1) == chain.card_at(1)


def test_a_skeleton_at_the_head_is_refused(born: Chain) -> None:
    card = card_of(born, "alder")
    bundle = encode([1, [born.head.wire, card.skeleton()]])
    with pytest.raises(StatementError):
        verify_bundle(bundle, network=NETWORK)


def test_a_skeleton_of_an_inception_is_refused(born: Chain) -> None:
    with pytest.raises(DecodeError):
        parse_statement(born.head.skeleton())


def test_a_chain_longer_than_its_bound_is_refused(born: Chain) -> None:
    wires = [born.head.wire] + [card_of(born, "alder").skeleton()] * limits.MAX_CHAIN
    with pytest.raises(LimitError):
        verify_bundle(encode([1, wires]), network=NETWORK)


def refused(bundle: bytes) -> bool:
    try:
        verify_bundle(bundle, network=NETWORK)
    except PeerError:
        return True
    return False


def flipped(bundle: bytes, at: int) -> bytes:
    return bundle[:at] + bytes([bundle[at] ^ 1 << (at % 8)]) + bundle[at + 1 :]


def test_each_single_byte_change_of_a_card_is_refused(alder: TestNode) -> None:
    """Every 5th byte here, which meets each field; ``-m long`` tries them all."""
    bundle = make_bundle(alder.chain)
    assert not refused(bundle)
    assert [at for at in range(0, len(bundle), 5) if not refused(flipped(bundle, at))] == []


@pytest.mark.long
def test_each_single_byte_change_of_a_card_is_refused_everywhere(alder: TestNode) -> None:
    bundle = make_bundle(alder.chain)
    assert [at for at in range(len(bundle)) if not refused(flipped(bundle, at))] == []


def test_each_truncation_of_a_card_is_refused(alder: TestNode) -> None:
    bundle = make_bundle(alder.chain)
    assert all(refused(bundle[:length]) for length in range(0, len(bundle), 11))
    assert refused(bundle + b"\0")


# --- armour ----------------------------------------------------------------------------------
def test_armour_survives_mail_and_paste(alder: TestNode) -> None:
    bundle = make_bundle(alder.chain)
    text = armor(bundle)
    assert dearmor(text) == bundle
    assert dearmor("\n  " + text.replace("\n", "\r\n") + "\r\n\r\n") == bundle


@pytest.mark.parametrize(
    "spoil",
    [
        lambda text: text.replace("BEGIN", "BEGUN"),
        lambda text: text.rsplit("\n", 2)[0],
        lambda text: text.replace("\n", "\n\n", 3),
        lambda text: text[:100] + "*" + text[101:],
        lambda text: text[:100] + text[101:],
        lambda text: text.replace("\n", "\n ", 2),
        lambda _: "",
        lambda _: "a card",
        lambda _: "-----BEGIN PICKET CARD-----\n-----END PICKET CARD-----",
    ],
)
def test_damaged_armour_is_refused_with_a_fix(spoil: Callable[[str], str], alder: TestNode) -> None:
    with pytest.raises(DecodeError) as caught:
        dearmor(spoil(armor(make_bundle(alder.chain))))
    assert caught.value.fix


def test_a_card_file_beyond_its_bound_is_not_read() -> None:
    with pytest.raises(LimitError):
        dearmor("x" * (2 * limits.MAX_BUNDLE + 1))
