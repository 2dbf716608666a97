"""Knocks: only the node itself can knock in its name, at one door, for ten minutes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol import limits, suite
from protocol.canonical import decode, encode
from protocol.errors import (
    DecodeError,
    DigestError,
    ExpiredError,
    LimitError,
    PeerError,
    SignatureError,
    StatementError,
    UntrustedKeyError,
    VersionError,
    WrongNetworkError,
)
from protocol.knock import LABEL, bundle_digest, make_knock, parse_knock, verify_knock
from protocol.statement import Chain, make_bundle
from tests.factories import DAY, NETWORK, NOW, TestNode, card_of, certificate_of, make_node

ALDER, BIRCH = make_node("alder"), make_node("birch")
DOOR = certificate_of("birch")
WIRE = make_knock(ALDER.chain, certificate=DOOR, now=NOW, signer=ALDER.link)


def check(
    wire: bytes, *, network: bytes = NETWORK, door: Sequence[bytes] = (DOOR,), now: int = NOW
) -> Chain:
    return verify_knock(parse_knock(wire), network=network, certificates=door, now=now)


def forged(
    fields: dict[int, object] | None = None, *, bundle: bytes | None = None,
    signer: TestNode = ALDER,
) -> bytes:  # fmt: skip
    """Return the knock with other fields, signed anew."""
    outer = decode(WIRE, max_bytes=limits.MAX_KNOCK)
    assert isinstance(outer, list)
    core = decode(bytes(outer[0]), max_bytes=limits.MAX_HEADER)  # type: ignore[arg-type]
    assert isinstance(core, list)
    for at, value in (fields or {}).items():
        core[at] = value  # type: ignore[call-overload]
    data = encode(core)
    message = suite.label(LABEL) + suite.digest(LABEL, data)
    return encode([data, outer[1] if bundle is None else bundle, *signer.link.sign(message)])


def test_a_knock_tells_who_asks() -> None:
    assert check(WIRE) == ALDER.chain
    assert check(WIRE, door=[certificate_of("other"), DOOR]) == ALDER.chain


def test_nobody_can_knock_in_the_name_of_another() -> None:
    card = make_bundle(ALDER.chain)  # everybody may have it
    with pytest.raises(SignatureError):
        check(forged(signer=make_node("mallory")))
    own = make_node("mallory")
    with pytest.raises(StatementError, match="another node"):
        check(forged({5: bundle_digest(make_bundle(own.chain))}, bundle=make_bundle(own.chain),
                     signer=own))  # fmt: skip
    with pytest.raises(DigestError):
        check(forged({2: own.id}, bundle=make_bundle(own.chain), signer=own))
    assert make_bundle(check(WIRE)) == card


def test_both_signatures_are_checked() -> None:
    outer = decode(WIRE, max_bytes=limits.MAX_KNOCK)
    assert isinstance(outer, list)
    for at in (2, 3):
        changed = list(outer)
        changed[at] = bytes(len(bytes(outer[at])))  # type: ignore[arg-type]
        with pytest.raises(SignatureError):
            check(encode(changed))


def test_a_knock_is_for_one_door() -> None:
    with pytest.raises(UntrustedKeyError, match="another node"):
        check(WIRE, door=[certificate_of("cedar")])


@pytest.mark.parametrize("off", [-1, 1])
def test_a_knock_is_over_after_ten_minutes(off: int) -> None:
    edge = off * limits.KNOCK_WINDOW_MS
    check(WIRE, now=NOW + edge)
    with pytest.raises(ExpiredError, match="ten minutes"):
        check(WIRE, now=NOW + edge + off)


def test_a_knock_of_another_network_is_refused() -> None:
    with pytest.raises(WrongNetworkError):
        check(WIRE, network=suite.network_id("other.example"))
    other = make_node("alder", network=suite.network_id("other.example"))
    wire = make_knock(other.chain, certificate=DOOR, now=NOW, signer=other.link)
    with pytest.raises(WrongNetworkError):
        check(wire)


def test_the_bundle_is_the_one_that_was_signed() -> None:
    longer = ALDER.chain.extend(card_of(ALDER.chain, "alder", contact="night desk"))
    with pytest.raises(DigestError):
        check(forged(bundle=make_bundle(longer)))


def test_an_expired_card_does_not_knock() -> None:
    short = ALDER.chain.extend(card_of(ALDER.chain, "alder", expires=NOW))
    wire = make_knock(short, certificate=DOOR, now=NOW, signer=ALDER.link)
    with pytest.raises(ExpiredError, match="card"):
        check(wire)


def test_a_longer_chain_than_strangers_may_bring_is_not_sent() -> None:
    chain = ALDER.chain
    huge = replace(chain, statements=chain.statements[:1] * 30 + chain.statements[1:])
    with pytest.raises(LimitError, match="takes unasked"):
        make_knock(huge, certificate=DOOR, now=NOW, signer=ALDER.link)


@pytest.mark.parametrize(
    ("wire", "error"),
    [
        (b"", DecodeError),
        (bytes(limits.MAX_KNOCK + 1), LimitError),
        (encode([]), DecodeError),
        (WIRE + b"\0", DecodeError),
        (WIRE[:-1], DecodeError),
        (forged({0: 2}), VersionError),
        (forged({0: True}), DecodeError),
        (forged({1: bytes(31)}), DecodeError),
        (forged({2: bytes(33)}), DecodeError),
        (forged({3: "x"}), DecodeError),
        (forged({4: -1}), DecodeError),
        (forged({5: b""}), DecodeError),
        (forged(bundle=b""), DecodeError),
        (forged(bundle=bytes(limits.MAX_DOOR_BUNDLE + 1)), LimitError),
    ],
)
def test_what_is_no_knock_is_refused(wire: bytes, error: type[PeerError]) -> None:
    with pytest.raises(error):
        parse_knock(wire)


@given(st.integers(0, len(WIRE) - 1), st.integers(1, 255))
def test_any_changed_byte_is_refused(at: int, change: int) -> None:
    changed = bytearray(WIRE)
    changed[at] ^= change
    with pytest.raises(PeerError):
        check(bytes(changed))


def test_a_card_of_a_day_ago_is_fresh_enough() -> None:
    wire = make_knock(ALDER.chain, certificate=DOOR, now=NOW + DAY, signer=ALDER.link)
    assert check(wire, now=NOW + DAY) == ALDER.chain
