"""Disclosures: one message opens with its key, and nothing else does; everything is checked."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, Final

import pytest

from protocol import envelope, limits, suite
from protocol.canonical import Value, decode, encode
from protocol.disclosure import (
    CHECKS,
    Disclosure,
    armor_disclosure,
    check_disclosure,
    dearmor_disclosure,
    make_disclosure,
    parse_disclosure,
)
from protocol.envelope import Epoch, Header, VerifiedEnvelope
from protocol.errors import DecodeError, LimitError, OpenError, PeerError, VersionError
from tests.factories import NETWORK, NOW, TestNode, make_node
from tests.node.factories import record

ALDER: Final = make_node("alder")
BIRCH: Final = make_node("birch")
EPOCH_KEY: Final = bytes(range(32))


def sealed(author: TestNode = ALDER, *bodies: bytes) -> tuple[list[VerifiedEnvelope], Epoch]:
    """Return an opener and what follows it in its epoch, one for each of *bodies*."""
    reader = BIRCH if author is ALDER else ALDER
    audience = envelope.audience_of(author.card, {reader.id: reader.card}, [], now=NOW)
    header = Header(
        network=NETWORK, author=author.id, card_n=author.chain.head.n, incarnation=1,
        stream=b"s" * 16, seq=1, prev=suite.ZERO, created=NOW, expires=NOW + 1_000,
        kind=envelope.KIND_RECORD, epoch=1, opener=None, audience_digest=suite.ZERO, anchor=None,
    )  # fmt: skip
    keys = {seal.ekid: seal.public for node in (author, reader) for seal in node.card.seal}
    opener = envelope.open_epoch(
        header, bodies[0], audience=audience, seal_keys=keys, epoch_key=EPOCH_KEY,
        signer=author.message,
    )  # fmt: skip
    epoch = Epoch(opener.id, header.stream, 1, audience, EPOCH_KEY)
    found = [opener]
    for number, body in enumerate(bodies[1:], start=2):
        following = replace(header, seq=number, prev=found[-1].id)
        found.append(envelope.continue_epoch(following, body, epoch=epoch, signer=author.message))
    return [
        envelope.verify(each, network=NETWORK, message_key=author.card.message) for each in found
    ], epoch


HELD, EPOCH = sealed(ALDER, record(1, "first"), record(2, "second"), record(3, "third"))


def disclosed(number: int = 1) -> Disclosure:
    held = HELD[number]
    return make_disclosure(
        held, content_key=envelope.content_key(held, EPOCH), chain=ALDER.chain,
        audience=EPOCH.audience,
    )  # fmt: skip


# --- what it says ----------------------------------------------------------------------------
@pytest.mark.parametrize("number", [0, 1])
def test_it_opens_and_every_check_passes(number: int) -> None:
    data = disclosed(number).encode()
    report = check_disclosure(data, network=NETWORK, author=ALDER.id)
    assert [(c.name, c.ok) for c in report.checks] == [(name, True) for name in CHECKS]
    assert report.genuine
    assert report.record is not None
    assert report.record["face"]["summary"] == ("first", "second")[number]
    assert (report.authority, report.recipients) == (ALDER.card.authority, (BIRCH.id,))
    assert report.envelope is not None
    assert report.envelope.id == HELD[number].id


def test_it_has_one_form_in_bytes_and_in_text() -> None:
    made = disclosed()
    assert parse_disclosure(made.encode()) == made
    text = armor_disclosure(made)
    assert dearmor_disclosure(text) == made.encode()
    assert dearmor_disclosure("\n" + text.replace("\n", "\r\n")) == made.encode()


# --- nothing else ----------------------------------------------------------------------------
def test_neither_the_epoch_key_nor_that_of_another_message_is_in_it() -> None:
    data = disclosed().encode()
    for held in HELD:
        key = envelope.content_key(held, EPOCH)
        assert (key in data) == (held is HELD[1])
    assert EPOCH_KEY not in data


def test_other_messages_of_the_epoch_stay_closed_to_its_key() -> None:
    key = disclosed().content_key
    for held in (HELD[0], HELD[2]):
        with pytest.raises(OpenError):
            envelope.open_body(held, key)
        # Nor does it work as the epoch key of anything.
        with pytest.raises(OpenError):
            envelope.open_body(held, envelope.content_key(held, replace(EPOCH, key=key)))


def test_a_key_of_another_message_opens_nothing() -> None:
    other = envelope.content_key(HELD[2], EPOCH)
    report = check_disclosure(replace(disclosed(), content_key=other).encode())
    assert [c.name for c in report.checks if not c.ok] == ["content", "record"]
    assert report.record is None
    with pytest.raises(OpenError):
        make_disclosure(HELD[1], content_key=other, chain=ALDER.chain, audience=EPOCH.audience)


def test_of_an_opener_no_sealed_epoch_key_is_handed_over() -> None:
    made = disclosed(0)
    slots = HELD[0].envelope.slots
    assert all(len(slot) == limits.SLOT_SIZE for slot in slots)
    assert not any(slot[:32] in made.encode() for slot in slots)
    whole = replace(made, envelope=HELD[0].envelope)
    with pytest.raises(DecodeError, match="slot"):
        parse_disclosure(whole.encode())


# --- what is refused -------------------------------------------------------------------------
def failed(data: bytes, **expected: bytes) -> str:
    """Return the name of the check that fails."""
    report = check_disclosure(data, **expected)
    assert not report.genuine
    return next(check.name for check in report.checks if check.code)


def test_another_author_or_network_than_expected_is_told() -> None:
    data = disclosed().encode()
    assert failed(data, author=BIRCH.id) == "expected"
    assert failed(data, network=bytes(32)) == "expected"


def test_another_authors_cards_audience_or_signature_is_told() -> None:
    made = disclosed()
    assert made.audience is not None
    theirs = sealed(BIRCH, record(1), record(2))[0][1]
    bundle = make_disclosure(
        theirs, content_key=envelope.content_key(theirs, EPOCH), chain=BIRCH.chain,
        audience=EPOCH.audience,
    ).author  # fmt: skip
    assert failed(replace(made, author=bundle).encode()) == "author"
    strange = replace(made.audience, carriers=(bytes(32),))
    assert failed(replace(made, audience=strange).encode()) == "audience"


def test_no_byte_of_it_can_be_changed() -> None:
    data = disclosed().encode()
    for at in range(0, len(data), 97):
        for flip in (0x01, 0x80):
            changed = data[:at] + bytes([data[at] ^ flip]) + data[at + 1 :]
            assert not check_disclosure(changed, author=ALDER.id, network=NETWORK).genuine, at


def test_a_body_that_is_no_incident_is_told() -> None:
    held, epoch = sealed(ALDER, b"\x01", encode(["no", "record"]))
    for each in held:
        made = make_disclosure(
            each, content_key=envelope.content_key(each, epoch), chain=ALDER.chain,
            audience=epoch.audience,
        )  # fmt: skip
        assert failed(made.encode()) == "record"


def fields(change: Callable[[list[Value]], object]) -> bytes:
    value = decode(disclosed().encode(), max_bytes=limits.MAX_DISCLOSURE)
    assert isinstance(value, list)
    change(value)
    return encode(value)


def put(at: int, value: Any) -> Callable[[list[Value]], object]:  # noqa: ANN401
    return lambda items: items.__setitem__(at, value)


@pytest.mark.parametrize(
    ("data", "error"),
    [
        (fields(put(0, 2)), VersionError),
        (fields(lambda items: items.append(None)), DecodeError),
        (fields(lambda items: items.pop()), DecodeError),
        (fields(put(1, b"")), DecodeError),
        (fields(put(2, bytes(31))), DecodeError),
        (fields(put(2, bytes(33))), DecodeError),
        (fields(put(3, None)), DecodeError),
        (fields(put(3, bytes(limits.MAX_BUNDLE + 1))), LimitError),
        (fields(put(4, None)), DecodeError),
        (fields(put(4, b"\xc0")), DecodeError),
        (disclosed().encode() + b"\x00", DecodeError),
        (bytes(limits.MAX_DISCLOSURE + 1), LimitError),
    ],
)
def test_another_form_is_refused(data: bytes, error: type[PeerError]) -> None:
    with pytest.raises(error):
        parse_disclosure(data)
    assert failed(data) == "form"


def test_an_audience_beside_the_one_in_the_envelope_is_refused() -> None:
    with pytest.raises(DecodeError, match="audience"):
        parse_disclosure(replace(disclosed(0), audience=EPOCH.audience).encode())


@pytest.mark.parametrize(
    "spoil",
    [
        lambda text: text.replace("DISCLOSURE", "CARD"),
        lambda text: text[:-30] + text[-29:],
        lambda text: text.replace("\n", "\n ", 2),
        lambda text: text.replace("=", ""),
        lambda text: text + text,
        lambda _: "",
    ],
)
def test_damaged_text_is_refused(spoil: Callable[[str], str]) -> None:
    text = armor_disclosure(disclosed())
    if spoil(text) == text:
        text = armor_disclosure(disclosed(0))
    with pytest.raises(DecodeError):
        dearmor_disclosure(spoil(text))


def test_endless_text_is_refused() -> None:
    with pytest.raises(LimitError):
        dearmor_disclosure("x" * (2 * limits.MAX_DISCLOSURE + 1))
