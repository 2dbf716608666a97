"""Custody: its bounds, its end, and what is left of a carried envelope."""

from __future__ import annotations

from dataclasses import replace

import pytest

from protocol import limits
from protocol.canonical import decode, encode
from protocol.custody import (
    Bound,
    Room,
    check_over,
    ends,
    full,
    parse_stub,
    stub_of,
    verify_stub,
)
from protocol.envelope import Audience, Envelope
from protocol.errors import (
    AudienceError,
    DecodeError,
    DigestError,
    LimitError,
    PeerError,
    ProofError,
    SignatureError,
    WrongNetworkError,
)
from protocol.fork import SignedHeader
from tests.factories import DAY, NETWORK, NOW, make_continuation, make_envelope, make_node

ALDER, BIRCH, CEDAR, DOGWOOD = map(make_node, ("alder", "birch", "cedar", "dogwood"))
ONE, OTHER, GIVER = b"1" * 32, b"2" * 32, b"g" * 32
BOX, GIFTS = limits.MAX_CUSTODY_RECIPIENT, limits.MAX_CUSTODY_GIVER


# --- bounds ------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("size", "given", "waiting", "expected"),
    [
        (1, 0, {}, None),
        (1_000, 0, {ONE: 0, OTHER: 0}, None),
        (1_000, 0, {ONE: BOX - 1_000}, None),
        (1_001, 0, {ONE: BOX - 1_000}, Room(Bound.RECIPIENT, ONE)),
        (1_001, 0, {ONE: 0, OTHER: BOX - 1_000}, Room(Bound.RECIPIENT, OTHER)),
        (1_001, 0, {OTHER: BOX, ONE: BOX}, Room(Bound.RECIPIENT, ONE)),
        (1_000, GIFTS - 1_000, {ONE: 0}, None),
        (1_001, GIFTS - 1_000, {ONE: 0}, Room(Bound.GIVER, GIVER)),
        (1_001, GIFTS - 1_000, {ONE: BOX}, Room(Bound.GIVER, GIVER)),
    ],
)
def test_an_envelope_fits_up_to_the_very_byte(
    size: int, given: int, waiting: dict[bytes, int], expected: Room | None
) -> None:
    assert full(size, giver=GIVER, given=given, waiting=waiting) == expected


def test_the_bounds_are_those_of_the_design_and_one_envelope_always_fits_an_empty_room() -> None:
    assert (BOX, GIFTS) == (64 * 1024 * 1024, 1024 * 1024 * 1024)
    most = limits.MAX_ENVELOPE
    assert full(most, giver=GIVER, given=0, waiting={ONE: 0}) is None
    assert 0 < limits.CUSTODY_RETRY_MS <= limits.MAX_RETRY_MS


@pytest.mark.parametrize(
    ("expires", "arrived", "expected"),
    [
        (NOW + DAY, NOW, NOW + DAY),
        (NOW + 90 * DAY, NOW, NOW + 90 * DAY),
        (NOW + 90 * DAY, NOW + 80 * DAY, NOW + 90 * DAY),
        (NOW + 900 * DAY, NOW, NOW + 90 * DAY),
    ],
)
def test_custody_ends_when_it_expires_and_90_days_after_it_came_at_the_latest(
    expires: int, arrived: int, expected: int
) -> None:
    assert ends(expires=expires, arrived=arrived) == expected


# --- what is left ------------------------------------------------------------------------------
def carried() -> tuple[Envelope, Envelope]:
    """Return an opener of alder for birch and dogwood by way of cedar, and what follows it."""
    opener = make_envelope(ALDER, [BIRCH, DOGWOOD], [CEDAR])
    return opener, make_continuation(ALDER, opener)


def test_a_stub_keeps_what_the_author_signed_and_no_byte_of_body_or_slots() -> None:
    for held in carried():
        stub = parse_stub(stub_of(held).encode())
        verify_stub(stub, network=NETWORK, message_key=ALDER.message.public)
        assert (stub.id, stub.header, stub.audience) == (held.id, held.header, held.audience)
        assert stub.signed == SignedHeader.of(held)
        data = stub.encode()
        assert held.ciphertext[:32] not in data
        assert all(slot[:32] not in data for slot in held.slots)
        assert len(data) < 1_024


def test_each_single_byte_change_of_a_stub_is_refused() -> None:
    for held in carried():
        good = stub_of(held).encode()
        for at in range(len(good)):
            changed = good[:at] + bytes([good[at] ^ 1]) + good[at + 1 :]
            with pytest.raises(PeerError):
                stub = parse_stub(changed)
                verify_stub(stub, network=NETWORK, message_key=ALDER.message.public)


def test_a_stub_of_another_author_network_or_audience_does_not_verify() -> None:
    opener, following = carried()
    stub, key = stub_of(opener), ALDER.message.public
    with pytest.raises(SignatureError):
        verify_stub(stub, network=NETWORK, message_key=BIRCH.message.public)
    with pytest.raises(WrongNetworkError):
        verify_stub(stub, network=bytes(32), message_key=key)
    with pytest.raises(DigestError):
        verify_stub(replace(stub, audience=None), network=NETWORK, message_key=key)
    with pytest.raises(DigestError):
        late = replace(stub_of(following), audience=opener.audience)
        verify_stub(late, network=NETWORK, message_key=key)


@pytest.mark.parametrize(
    ("data", "error"),
    [
        (b"", DecodeError),
        (encode([b"", b""]), DecodeError),
        (encode([bytes(limits.MAX_HEADER + 1), bytes(64), None]), PeerError),
        (bytes(limits.MAX_ENVELOPE + 1), LimitError),
    ],
)
def test_what_is_no_stub_is_refused(data: bytes, error: type[PeerError]) -> None:
    with pytest.raises(error):
        parse_stub(data)


def test_a_stub_with_an_audience_that_breaks_its_rules_is_refused() -> None:
    opener, _ = carried()
    fields = decode(stub_of(opener).encode(), max_bytes=limits.MAX_ENVELOPE)
    assert isinstance(fields, list)
    names_its_author = Audience(bytes(32), ((opener.header.author, bytes(32)),), ()).encode()
    with pytest.raises(AudienceError):
        parse_stub(encode([*fields[:2], names_its_author]))


# --- when a carrier may be without the bytes ---------------------------------------------------
def test_bytes_may_be_gone_once_all_have_them_or_custody_has_ended_and_not_before() -> None:
    opener, following = carried()
    audience = opener.audience
    assert audience is not None
    ids = audience.recipient_ids
    end = opener.header.expires
    for held in (opener, following):
        check_over(held.header, audience, received=ids, arrived=NOW, now=NOW)
        check_over(held.header, audience, received=(), arrived=NOW, now=end)
        check_over(held.header, audience, received=(), arrived=end - 90 * DAY, now=end)
        for received in ((), ids[:1], ids[1:], (CEDAR.id, ids[0])):
            with pytest.raises(ProofError):
                check_over(held.header, audience, received=received, arrived=NOW, now=end - 1)
        other = replace(audience, recipients=audience.recipients[:1])
        with pytest.raises(DigestError):
            check_over(held.header, other, received=ids, arrived=NOW, now=end)


def test_a_header_dated_far_ahead_is_over_90_days_after_it_came() -> None:
    opener, _ = carried()
    audience = opener.audience
    assert audience is not None
    header = replace(opener.header, created=NOW + 900 * DAY, expires=NOW + 990 * DAY)
    check_over(header, audience, received=(), arrived=NOW, now=NOW + 90 * DAY)
    with pytest.raises(ProofError):
        check_over(header, audience, received=(), arrived=NOW, now=NOW + 90 * DAY - 1)
