"""Records of lost keys: bounded, exact, and only from whose key it was to whom it concerns."""

from __future__ import annotations

from dataclasses import replace

import pytest

from protocol import exposure, limits, suite
from protocol.canonical import decode, encode
from protocol.errors import (
    DecodeError,
    LimitError,
    SignatureError,
    StatementError,
    UntrustedKeyError,
)
from protocol.exposure import Exposed, Exposure, parse_exposed, parse_stored, stored
from protocol.frames import decode_frame, encode_frame
from protocol.session import Heard, Send
from tests.factories import NETWORK, NOW, TestNode, seed
from tests.protocol.test_link import closed_with, opened

SIGNER = suite.Ed25519Signer(seed("holder", "message"))


def record(count: int = 2) -> Exposure:
    ids = tuple(number.to_bytes(32, "big") for number in range(1, count + 1))
    return Exposure(
        NETWORK, seed("holder", "id"), 3, seed("author", "id"), seed("holder", "ekid"), NOW - 1,
        NOW, NOW + 1, ids,
    )  # fmt: skip


def test_what_is_made_is_read_as_the_same() -> None:
    said = exposure.sign_exposure(record(), SIGNER)
    assert parse_exposed(said.exposure.encode(), said.signature) == said
    assert parse_stored(stored(said)) == said
    assert decode_frame(encode_frame(said)) == said
    suite.verify("exposed", SIGNER.public, said.exposure.encode(), said.signature)


def test_the_largest_record_fits_its_bound_and_one_more_envelope_does_not() -> None:
    whole = exposure.sign_exposure(
        replace(record(limits.MAX_EXPOSED), start=2**63 - 2, end=2**63 - 1, card_n=511), SIGNER
    )
    assert len(whole.exposure.encode()) <= limits.MAX_EXPOSURE
    assert decode_frame(encode_frame(whole)) == whole
    with pytest.raises(LimitError):
        decode_frame(encode_frame(Exposed(record(limits.MAX_EXPOSED + 1), whole.signature)))


def test_each_field_is_under_the_signature() -> None:
    said = exposure.sign_exposure(record(), SIGNER)
    fields = decode(said.exposure.encode(), max_bytes=limits.MAX_EXPOSURE)
    assert isinstance(fields, list)
    digests = {said.exposure.digest}
    for at, value in enumerate(fields[1:], start=1):
        other = seed("x", "y") if isinstance(value, bytes) else [seed("x", "y")]
        changed = [*fields[:at], value + 1 if isinstance(value, int) else other, *fields[at + 1 :]]
        with pytest.raises(SignatureError):
            suite.verify("exposed", SIGNER.public, encode(changed), said.signature)
        digests.add(suite.digest("exposed", encode(changed)))
    assert len(digests) == len(fields)


def test_an_end_before_its_beginning_and_ids_out_of_order_are_refused() -> None:
    with pytest.raises(StatementError):
        parse_exposed(replace(record(), end=0).encode(), bytes(64))
    for ids in ((), (bytes(32), bytes(32)), (b"\1" * 32, bytes(32))):
        with pytest.raises(DecodeError):
            parse_exposed(replace(record(), envelope_ids=ids).encode(), bytes(64))


def test_a_link_hears_it_from_the_holder_for_this_node_alone(
    alder: TestNode, birch: TestNode
) -> None:
    for changes, heard in (
        ({}, True), ({"holder": seed("third", "id")}, False),
        ({"author": seed("third", "id")}, False),
    ):  # fmt: skip
        one, other = opened(alder, birch)
        own = replace(record(), holder=birch.id, author=alder.id)
        said = exposure.sign_exposure(replace(own, **changes), SIGNER)  # type: ignore[arg-type]
        (send,) = other.say(said)
        assert isinstance(send, Send)
        effects = one.receive(other.message(send), NOW)
        if heard:
            assert effects == [Heard(said)]
        else:
            assert closed_with(effects) == UntrustedKeyError.code
