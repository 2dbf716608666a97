"""Fork evidence: nothing but the author's own signatures makes it, and an honest one never does."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import combinations, pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol import limits, suite
from protocol.canonical import Value, decode, encode
from protocol.envelope import Header
from protocol.errors import (
    DecodeError,
    LimitError,
    PeerError,
    SignatureError,
    StatementError,
    UnknownCardError,
    VersionError,
    WrongNetworkError,
)
from protocol.fork import Fork, SignedHeader, fork_of, parse_fork, verify_fork
from protocol.statement import Card
from tests.factories import NETWORK, NOW, TestNode, make_envelope, make_header, make_node, seed

CardAt = Callable[[bytes, int], Card | None]


def signed(author: TestNode, **changes: object) -> SignedHeader:
    """Return a header with the signature of *author*, of an envelope that nobody needs to see."""
    header = make_header(author, **changes)
    text = seed("text", repr(sorted(changes.items())))
    header_bytes = encode([header.encode(), None, suite.digest("ciphertext", text)])
    envelope_id = suite.digest("envelope", header_bytes)
    signature = author.message.sign(suite.label("message") + envelope_id)
    return SignedHeader(header_bytes, signature, envelope_id, header)


def cards(*nodes: TestNode) -> CardAt:
    def card_at(node_id: bytes, n: int) -> Card | None:
        return next((node.chain.card_at(n) for node in nodes if node.id == node_id), None)

    return card_at


def twins(author: TestNode) -> Fork:
    fork = fork_of(signed(author, created=NOW), signed(author, created=NOW + 1))
    assert fork is not None
    return fork


def neighbours(author: TestNode) -> Fork:
    """Return the proof that number 5 does not name the number 4 that was signed."""
    four = signed(author, seq=4, prev=seed("id", "3"))
    fork = fork_of(four, signed(author, seq=5, prev=seed("another", "4")))
    assert fork is not None
    return fork


# --- what makes a proof ----------------------------------------------------------------------
def test_two_envelopes_in_one_place_are_a_proof(alder: TestNode) -> None:
    fork = twins(alder)
    assert fork.first.id < fork.second.id
    verify_fork(fork, network=NETWORK, card_at=cards(alder))


def test_a_successor_of_another_predecessor_is_a_proof(alder: TestNode) -> None:
    fork = neighbours(alder)
    assert (fork.first.header.seq, fork.second.header.seq) == (4, 5)
    verify_fork(fork, network=NETWORK, card_at=cards(alder))


def test_a_pair_has_one_proof_whichever_came_first(alder: TestNode) -> None:
    for fork in (twins(alder), neighbours(alder)):
        assert fork_of(fork.second, fork.first) == fork_of(fork.first, fork.second) == fork
        assert parse_fork(fork.encode()) == fork
        assert fork.digest == suite.digest("fork", fork.encode())
        assert fork.key == fork.first.key == fork.second.key


def test_real_envelopes_prove_what_their_headers_prove(alder: TestNode, birch: TestNode) -> None:
    """The texts, slots and audiences may all differ, and none of them is shown."""
    one = make_envelope(alder, [birch])
    other = make_envelope(alder, [birch], body=encode({"text": "another story"}))
    fork = fork_of(SignedHeader.of(one), SignedHeader.of(other))
    assert fork is not None
    verify_fork(parse_fork(fork.encode()), network=NETWORK, card_at=cards(alder))
    assert one.ciphertext not in fork.encode() and birch.id not in fork.encode()
    assert len(fork.encode()) < limits.MAX_FORK


def test_an_honest_author_may_sign_each_of_these_pairs(alder: TestNode, birch: TestNode) -> None:
    one = signed(alder, seq=4, prev=seed("id", "3"))
    for other in (
        one,
        signed(alder, seq=5, prev=one.id),
        signed(alder, seq=6, prev=seed("id", "5")),
        signed(alder, seq=4, prev=seed("id", "3"), stream=bytes(16)),
        signed(alder, seq=4, prev=seed("id", "3"), incarnation=2),
        signed(birch, seq=4, prev=seed("id", "3"), stream=one.header.stream),
    ):
        assert fork_of(one, other) is fork_of(other, one) is None


def test_the_first_of_a_stream_contradicts_no_end_of_the_one_before(alder: TestNode) -> None:
    """It may name the head of the stream of an earlier incarnation, or nothing."""
    before = signed(alder, seq=9, prev=seed("id", "8"))
    for prev in (before.id, suite.ZERO):
        first = signed(alder, incarnation=2, stream=bytes(16), prev=prev)
        assert fork_of(before, first) is None
        assert fork_of(first, signed(alder, incarnation=2, stream=bytes(16), seq=2,
                                     prev=first.id)) is None  # fmt: skip


# Signing is slow under hypothesis, and plays no part in whether two headers contradict each other.
def unsigned(header: Header, text: int) -> SignedHeader:
    header_bytes = encode([header.encode(), None, seed("text", str(text))])
    return SignedHeader(header_bytes, bytes(64), suite.digest("envelope", header_bytes), header)


ALDER = make_node("alder")


@given(
    st.lists(
        st.tuples(st.integers(0, 2), st.booleans(), st.integers(0, 5)), min_size=2, max_size=20
    )
)
def test_what_an_honest_author_ever_signs_never_makes_a_proof(
    acts: list[tuple[int, bool, int]],
) -> None:
    """An author that goes on in its streams and begins new incarnations whenever it restarts."""
    incarnation = 1
    heads: dict[int, SignedHeader] = {}
    streams: dict[int, bytes] = {}
    everything: list[SignedHeader] = []
    for number, (audience, restarts, text) in enumerate(acts):
        if restarts:
            incarnation += 1
        head = heads.get(audience)
        goes_on = head is not None and head.header.incarnation == incarnation
        if not goes_on:
            streams[audience] = seed("stream", str(number))[:16]
        header = make_header(
            ALDER, incarnation=incarnation, stream=streams[audience],
            seq=head.header.seq + 1 if head is not None and goes_on else 1,
            prev=head.id if head is not None else suite.ZERO,
        )  # fmt: skip
        heads[audience] = unsigned(header, text)
        everything.append(heads[audience])
    assert all(fork_of(one, other) is None for one, other in combinations(everything, 2))


@given(st.integers(2, 12), st.data())
def test_a_second_branch_is_proven_by_whoever_holds_the_two_at_its_root(
    length: int, data: st.DataObject
) -> None:
    def chain(texts: list[int]) -> list[SignedHeader]:
        made: list[SignedHeader] = []
        for seq, text in enumerate(texts, 1):
            prev = made[-1].id if made else suite.ZERO
            made.append(unsigned(make_header(ALDER, seq=seq, prev=prev), text))
        return made

    parts = data.draw(st.integers(1, length))
    trunk = chain([0] * length)
    branch = chain([0] * (parts - 1) + [1] * (length - parts + 1))
    for one, other in zip(trunk, branch, strict=True):
        assert (fork_of(one, other) is None) == (one.header.seq < parts)
    crossing = [(a, b) for (a, _), (_, b) in zip(pairwise(trunk), pairwise(branch), strict=True)]
    for one, other in crossing:
        # The first of the other branch still names the last that both have.
        assert (fork_of(one, other) is None) == (other.header.seq <= parts)


# --- what is refused -------------------------------------------------------------------------
@pytest.mark.parametrize("make", [twins, neighbours])
def test_each_single_byte_change_of_a_proof_is_refused(
    make: Callable[[TestNode], Fork], alder: TestNode
) -> None:
    data = make(alder).encode()
    for at in range(len(data)):
        for bit in (at % 8, 7 - at % 8):
            changed = data[:at] + bytes([data[at] ^ 1 << bit]) + data[at + 1 :]
            with pytest.raises(PeerError):
                verify_fork(parse_fork(changed), network=NETWORK, card_at=cards(alder))


def test_nobody_else_can_accuse_an_author(alder: TestNode, birch: TestNode) -> None:
    """Neither with a key of their own nor with what the author signed for something else."""
    honest = signed(alder)
    forger = replace(alder, message=birch.message)
    forged = signed(forger, created=NOW + 1)
    moved = replace(forged, signature=honest.signature)
    elsewhere = replace(
        forged, signature=alder.message.sign(suite.label("network") + forged.id)
    )  # a signature of alder's, for another purpose
    for false in (forged, moved, elsewhere):
        fork = fork_of(honest, false)
        assert fork is not None
        with pytest.raises(SignatureError):
            verify_fork(fork, network=NETWORK, card_at=cards(alder))
        with pytest.raises(SignatureError):
            verify_fork(parse_fork(fork.encode()), network=NETWORK, card_at=cards(alder))


def test_both_signatures_are_verified_whichever_stands_first(
    alder: TestNode, birch: TestNode
) -> None:
    good = twins(alder)
    for broken in (
        replace(good, first=replace(good.first, signature=bytes(64))),
        replace(good, second=replace(good.second, signature=bytes(64))),
    ):
        with pytest.raises(SignatureError):
            verify_fork(broken, network=NETWORK, card_at=cards(alder))


def test_each_header_is_verified_under_the_card_that_it_names(alder: TestNode) -> None:
    fork = fork_of(signed(alder), signed(alder, card_n=2, created=NOW + 1))
    assert fork is not None
    with pytest.raises(UnknownCardError):
        verify_fork(fork, network=NETWORK, card_at=cards(alder))
    with pytest.raises(UnknownCardError):
        verify_fork(twins(alder), network=NETWORK, card_at=cards())
    renewed = replace(alder.card, message=suite.Ed25519Signer(seed("alder", "new")).public)

    def card_at(node_id: bytes, n: int) -> Card | None:
        return {1: alder.card, 2: renewed}.get(n)

    with pytest.raises(SignatureError):
        verify_fork(fork, network=NETWORK, card_at=card_at)


def test_a_proof_of_another_network_is_refused(alder: TestNode) -> None:
    with pytest.raises(WrongNetworkError):
        verify_fork(twins(alder), network=suite.network_id("other.example"), card_at=cards(alder))
    mixed = fork_of(signed(alder), signed(alder, network=suite.network_id("other.example")))
    assert mixed is not None  # one author may be of one network only, and is held to it
    with pytest.raises(WrongNetworkError):
        verify_fork(mixed, network=NETWORK, card_at=cards(alder))


def test_what_contradicts_nothing_is_refused_even_if_signed(alder: TestNode) -> None:
    one = signed(alder, seq=4, prev=seed("id", "3"))
    for other in (one, signed(alder, seq=5, prev=one.id), signed(alder, seq=6, prev=one.id)):
        claim = Fork(one, other)
        with pytest.raises(DecodeError):
            parse_fork(claim.encode())
        with pytest.raises(StatementError):
            verify_fork(claim, network=NETWORK, card_at=cards(alder))


def test_a_proof_in_the_other_order_is_refused(alder: TestNode) -> None:
    for fork in (twins(alder), neighbours(alder)):
        turned = Fork(fork.second, fork.first)
        with pytest.raises(DecodeError):
            parse_fork(turned.encode())
        with pytest.raises(StatementError):
            verify_fork(turned, network=NETWORK, card_at=cards(alder))


def test_malformed_proofs_are_refused(alder: TestNode) -> None:
    pair = decode(twins(alder).encode(), max_bytes=limits.MAX_FORK)
    assert isinstance(pair, list)
    one, other = pair
    assert isinstance(one, list) and isinstance(one[0], bytes) and isinstance(one[1], bytes)
    malformed: list[tuple[Value, type[PeerError]]] = [
        ([], DecodeError),
        ([one], DecodeError),
        ([one, other, other], DecodeError),
        ([one[:1], other], DecodeError),
        ([[one[0], one[1], 0], other], DecodeError),
        ([[one[0], one[1][:63]], other], DecodeError),
        ([[one[0], None], other], DecodeError),
        ([["text", one[1]], other], DecodeError),
        ([[b"", one[1]], other], DecodeError),
        ([[bytes(limits.MAX_HEADER + 1), one[1]], other], LimitError),
        ([[one[0] + b"\0", one[1]], other], DecodeError),
    ]
    for value, error in malformed:
        with pytest.raises(error):
            parse_fork(encode(value))
    with pytest.raises(LimitError):
        parse_fork(bytes(limits.MAX_FORK + 1))
    with pytest.raises(DecodeError):
        parse_fork(twins(alder).encode() + b"\0")


def test_a_header_of_a_later_version_is_refused(alder: TestNode) -> None:
    pair = decode(twins(alder).encode(), max_bytes=limits.MAX_FORK)
    assert isinstance(pair, list) and isinstance(pair[0], list)
    header = pair[0][0]
    assert isinstance(header, bytes)
    outer = decode(header, max_bytes=limits.MAX_HEADER)
    assert isinstance(outer, list) and isinstance(outer[0], bytes)
    pre = decode(outer[0], max_bytes=limits.MAX_HEADER)
    assert isinstance(pre, list)
    newer = encode([encode([2, *pre[1:]]), *outer[1:]])
    with pytest.raises(VersionError):
        parse_fork(encode([[newer, pair[0][1]], pair[1]]))
