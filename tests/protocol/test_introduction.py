"""Introductions: they say who brought a card, to one reader, and give nothing else."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol import limits, suite
from protocol.canonical import decode, encode
from protocol.errors import (
    AudienceError,
    DecodeError,
    DigestError,
    ExpiredError,
    LimitError,
    PeerError,
    SignatureError,
    StatementError,
    VersionError,
    WrongNetworkError,
)
from protocol.introduction import (
    LABEL,
    make_introduction,
    parse_introduction,
    verify_introduction,
)
from protocol.statement import Chain, make_bundle
from tests.factories import DAY, NETWORK, NOW, card_of, make_node

ALDER, BIRCH, CEDAR = make_node("alder"), make_node("birch"), make_node("cedar")
WIRE = make_introduction(
    BIRCH.chain, introducer=ALDER.chain, to=CEDAR.id, now=NOW, signer=ALDER.link
)


def check(
    wire: bytes, *, to: bytes = CEDAR.id, link: tuple[bytes, bytes] = ALDER.card.link,
    network: bytes = NETWORK, now: int = NOW,
) -> Chain:  # fmt: skip
    return verify_introduction(parse_introduction(wire), network=network, to=to, link=link, now=now)


def changed(at: int, value: object, *, signed: bool = True) -> bytes:
    outer = decode(WIRE, max_bytes=limits.MAX_INTRODUCTION)
    assert isinstance(outer, list)
    core = decode(bytes(outer[0]), max_bytes=limits.MAX_HEADER)  # type: ignore[arg-type]
    assert isinstance(core, list)
    core[at] = value  # type: ignore[call-overload]
    data = encode(core)
    message = suite.label(LABEL) + suite.digest(LABEL, data)
    signatures = ALDER.link.sign(message) if signed else outer[2:]
    return encode([data, outer[1], *signatures])


def test_an_introduction_brings_a_card_and_says_who_brought_it() -> None:
    parsed = parse_introduction(WIRE)
    assert (parsed.introducer, parsed.to, parsed.node_id) == (ALDER.id, CEDAR.id, BIRCH.id)
    assert parsed.card_n == 1
    assert check(WIRE) == BIRCH.chain


def test_it_is_for_one_reader() -> None:
    with pytest.raises(AudienceError):
        check(WIRE, to=make_node("dogwood").id)
    with pytest.raises(SignatureError):
        check(changed(4, BIRCH.id, signed=False), to=BIRCH.id)


def test_only_the_introducer_can_have_signed_it() -> None:
    with pytest.raises(SignatureError):
        check(WIRE, link=BIRCH.card.link)


def test_it_is_taken_for_14_days() -> None:
    check(WIRE, now=NOW + 14 * DAY)
    check(WIRE, now=NOW - limits.CLOCK_AHEAD_MS)
    for now in (NOW + 14 * DAY + 1, NOW - limits.CLOCK_AHEAD_MS - 1):
        with pytest.raises(ExpiredError, match="14 days"):
            check(WIRE, now=now)


def test_it_is_of_one_network() -> None:
    with pytest.raises(WrongNetworkError):
        check(WIRE, network=suite.network_id("other.example"))


def test_a_card_that_is_over_is_not_introduced() -> None:
    short = BIRCH.chain.extend(card_of(BIRCH.chain, "birch", expires=NOW))
    wire = make_introduction(short, introducer=ALDER.chain, to=CEDAR.id, now=NOW, signer=ALDER.link)
    with pytest.raises(ExpiredError, match="card"):
        check(wire)


def test_the_bundle_is_that_of_the_node_that_is_named() -> None:
    with pytest.raises(StatementError, match="another node"):
        check(changed(5, CEDAR.id))
    with pytest.raises(DigestError):
        check(changed(6, bytes(32)))


@pytest.mark.parametrize("to", [ALDER.id, BIRCH.id])
def test_nobody_is_introduced_to_itself(to: bytes) -> None:
    with pytest.raises(StatementError):
        make_introduction(BIRCH.chain, introducer=ALDER.chain, to=to, now=NOW, signer=ALDER.link)


@pytest.mark.parametrize(
    ("wire", "error"),
    [
        (b"", DecodeError),
        (bytes(limits.MAX_INTRODUCTION + 1), LimitError),
        (encode([1]), DecodeError),
        (WIRE + b"\0", DecodeError),
        (changed(0, 2), VersionError),
        (changed(1, b"x"), DecodeError),
        (changed(2, bytes(31)), DecodeError),
        (changed(3, limits.MAX_CHAIN), DecodeError),
        (changed(4, "cedar"), DecodeError),
        (changed(7, -1), DecodeError),
    ],
)
def test_what_is_no_introduction_is_refused(wire: bytes, error: type[PeerError]) -> None:
    with pytest.raises(error):
        parse_introduction(wire)


@given(st.integers(0, len(WIRE) - 1), st.integers(1, 255))
def test_any_changed_byte_is_refused(at: int, change: int) -> None:
    broken = bytearray(WIRE)
    broken[at] ^= change
    with pytest.raises(PeerError):
        check(bytes(broken))


def test_the_card_is_the_whole_bundle() -> None:
    assert parse_introduction(WIRE).bundle == make_bundle(BIRCH.chain)
