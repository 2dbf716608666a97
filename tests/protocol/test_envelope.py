"""The envelope: sealing and opening, and everything that must be refused."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protocol import envelope, limits, suite
from protocol.canonical import decode, encode
from protocol.envelope import VerifiedEnvelope
from protocol.errors import (
    AudienceError,
    DecodeError,
    DigestError,
    ExpiredError,
    LimitError,
    OpenError,
    PeerError,
    SignatureError,
    VersionError,
    WeakKeyError,
    WrongNetworkError,
)
from tests.factories import (
    BODY,
    DAY,
    NETWORK,
    NOW,
    TestNode,
    epoch_of,
    make_audience,
    make_continuation,
    make_envelope,
    make_header,
    seed,
)


def verify(wire: bytes, author: TestNode) -> VerifiedEnvelope:
    return envelope.verify(envelope.parse(wire), network=NETWORK, message_key=author.card.message)


def open_as(node: TestNode, opener: bytes, wire: bytes, author: TestNode) -> bytes:
    epoch = envelope.unseal_epoch(verify(opener, author), node_id=node.id, unsealer=node)
    verified = verify(wire, author)
    return envelope.open_body(verified, envelope.content_key(verified, epoch))


def resign(wire: bytes, author: TestNode, **parts: object) -> bytes:
    """Return the envelope with some outer parts replaced and its header left as signed."""
    outer = decode(wire, max_bytes=limits.MAX_ENVELOPE)
    assert isinstance(outer, list)
    names = ["header", "signature", "ciphertext", "audience", "slots"]
    del author
    return encode([parts.get(name, old) for name, old in zip(names, outer, strict=True)])


# --- reading ---------------------------------------------------------------------------------
def test_author_and_recipients_open_it(alder: TestNode, birch: TestNode, cedar: TestNode) -> None:
    sealed = make_envelope(alder, [birch, cedar])
    for node in (alder, birch, cedar):
        assert open_as(node, sealed.wire, sealed.wire, alder) == BODY


def test_later_envelopes_of_an_epoch_carry_no_slots(alder: TestNode, birch: TestNode) -> None:
    opener = make_envelope(alder, [birch])
    later = make_continuation(alder, opener)
    assert later.slots == () and later.audience is None
    assert open_as(birch, opener.wire, later.wire, alder) == BODY
    envelope.check_epoch(verify(later.wire, alder), opener.header, make_audience(alder, [birch]))


def test_carriers_and_strangers_have_no_slot(
    alder: TestNode, birch: TestNode, cedar: TestNode
) -> None:
    sealed = make_envelope(alder, [birch], carriers=[cedar])
    with pytest.raises(AudienceError):
        open_as(cedar, sealed.wire, sealed.wire, alder)


def test_the_ciphertext_holds_no_plaintext(alder: TestNode, birch: TestNode) -> None:
    assert b"canary" not in make_envelope(alder, [birch]).wire


def test_a_disclosed_content_key_opens_this_envelope_only(alder: TestNode, birch: TestNode) -> None:
    opener = make_envelope(alder, [birch])
    later = verify(make_continuation(alder, opener, body=encode({"text": "later"})).wire, alder)
    key = envelope.content_key(later, epoch_of(opener, alder))
    assert envelope.open_body(later, key) == encode({"text": "later"})
    with pytest.raises(OpenError):
        envelope.open_body(verify(opener.wire, alder), key)


def test_at_most_one_content_key_opens_a_body(alder: TestNode, birch: TestNode) -> None:
    opener = make_envelope(alder, [birch])
    verified = verify(opener.wire, alder)
    wrong = replace(epoch_of(opener, alder), key=seed("other", "epoch"))
    with pytest.raises(OpenError):
        envelope.open_body(verified, envelope.content_key(verified, wrong))


@settings(max_examples=25, deadline=None)
@given(st.binary(max_size=5_000))
def test_any_body_comes_back(body: bytes) -> None:
    alder, birch = _NODES
    sealed = make_envelope(alder, [birch], body=body)
    assert open_as(birch, sealed.wire, sealed.wire, alder) == body


@pytest.fixture(autouse=True, scope="module")
def _nodes(alder: TestNode, birch: TestNode) -> None:
    _NODES[:] = [alder, birch]


_NODES: list[TestNode] = []


# --- every byte ------------------------------------------------------------------------------
@pytest.mark.parametrize("kind", ["opening", "continuing", "through a carrier"])
def test_each_single_byte_change_is_refused(
    kind: str, alder: TestNode, birch: TestNode, cedar: TestNode
) -> None:
    opener = make_envelope(alder, [birch], carriers=[cedar] if "carrier" in kind else [])
    whole = make_continuation(alder, opener) if kind == "continuing" else opener
    verify(whole.wire, alder)
    accepted = []
    for at in range(len(whole.wire)):
        changed = bytearray(whole.wire)
        changed[at] ^= 1 << (at % 8)
        try:
            verify(bytes(changed), alder)
        except PeerError:
            continue
        accepted.append(at)
    assert accepted == []


def test_each_truncation_is_refused(alder: TestNode, birch: TestNode) -> None:
    wire = make_continuation(alder, make_envelope(alder, [birch])).wire
    for length in range(len(wire)):
        with pytest.raises(PeerError):
            verify(wire[:length], alder)
    with pytest.raises(PeerError):
        verify(wire + b"\0", alder)


# --- tampering -------------------------------------------------------------------------------
def test_slots_cannot_be_dropped_added_swapped_or_replaced(
    alder: TestNode, birch: TestNode, cedar: TestNode
) -> None:
    sealed = make_envelope(alder, [birch, cedar])
    slots = list(sealed.slots)
    for tampered, error in (
        (slots[:2], AudienceError),
        ([*slots, slots[0]], AudienceError),
        ([slots[0], slots[2], slots[1]], DigestError),
        ([slots[0], slots[1], bytes(1_168)], DigestError),
        ([slots[0], slots[1], bytes(32)], DigestError),
        ([slots[0], slots[1], bytes(31)], DecodeError),
    ):
        with pytest.raises(error):
            verify(resign(sealed.wire, alder, slots=tampered), alder)


def test_the_audience_cannot_be_changed(alder: TestNode, birch: TestNode, cedar: TestNode) -> None:
    sealed = make_envelope(alder, [birch])
    other = make_audience(alder, [cedar]).encode()
    with pytest.raises(DigestError):
        verify(resign(sealed.wire, alder, audience=other), alder)


def test_a_body_cannot_be_put_under_another_header(alder: TestNode, birch: TestNode) -> None:
    first, second = (
        make_envelope(alder, [birch]),
        make_envelope(alder, [birch], seq=2, prev=bytes([1]) * 32),
    )
    with pytest.raises(DigestError):
        verify(resign(first.wire, alder, ciphertext=second.ciphertext), alder)


def test_another_author_cannot_claim_it(alder: TestNode, birch: TestNode) -> None:
    with pytest.raises(SignatureError):
        verify(make_envelope(alder, [birch]).wire, birch)


def test_a_stolen_ciphertext_does_not_open_under_the_thiefs_header(
    alder: TestNode, birch: TestNode, cedar: TestNode
) -> None:
    """Cedar re-signs Alder's slots and ciphertext as its own: Birch cannot open that."""
    original = make_envelope(alder, [birch])
    audience = make_audience(cedar, [birch])
    pre = make_header(cedar, audience_digest=suite.digest("audience", audience.encode())).encode()
    header = encode([pre, original.slots_digest, suite.digest("ciphertext", original.ciphertext)])
    signature = cedar.message.sign(suite.label("message") + suite.digest("envelope", header))
    forged = verify(
        encode([header, signature, original.ciphertext, audience.encode(), list(original.slots)]),
        cedar,
    )
    with pytest.raises(OpenError):
        envelope.unseal_epoch(forged, node_id=birch.id, unsealer=birch)


def test_another_network_is_refused(alder: TestNode, birch: TestNode) -> None:
    sealed = make_envelope(alder, [birch], network=suite.network_id("elsewhere"))
    with pytest.raises(WrongNetworkError):
        verify(sealed.wire, alder)


def test_an_epoch_cannot_be_borrowed(alder: TestNode, birch: TestNode, cedar: TestNode) -> None:
    opener = make_envelope(alder, [birch])
    later = verify(make_continuation(alder, opener).wire, alder)
    audience = make_audience(alder, [birch])
    for header in (
        replace(opener.header, author=cedar.id),
        replace(opener.header, stream=bytes(16)),
        replace(opener.header, epoch=2),
        replace(opener.header, incarnation=2),
    ):
        with pytest.raises(DigestError):
            envelope.check_epoch(later, header, audience)
    with pytest.raises(DigestError):
        envelope.check_epoch(later, opener.header, make_audience(alder, [birch, cedar]))


# --- pruning ---------------------------------------------------------------------------------
def test_a_pruned_envelope_verifies_and_opens_for_whom_it_kept(
    alder: TestNode, birch: TestNode, cedar: TestNode
) -> None:
    sealed = make_envelope(alder, [birch, cedar])
    pruned = envelope.prune(sealed, keep=frozenset({birch.id}))
    assert len(pruned.wire) < len(sealed.wire) - 2 * 1_100
    assert pruned.id == sealed.id
    assert open_as(birch, pruned.wire, pruned.wire, alder) == BODY
    with pytest.raises(OpenError):
        open_as(cedar, pruned.wire, pruned.wire, alder)


# --- form ------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"seq": 0}, DecodeError),
        ({"seq": 2}, DecodeError),
        ({"seq": 2**53, "prev": bytes(32)}, DecodeError),
        ({"expires": NOW}, DecodeError),
        ({"expires": NOW + 91 * DAY}, DecodeError),
        ({"incarnation": 0}, DecodeError),
        ({"epoch": 0}, DecodeError),
        ({"kind": 9}, VersionError),
        ({"stream": b"short"}, DecodeError),
        ({"seq": limits.MAX_SEQ + 1}, DecodeError),
        ({"anchor": envelope.Anchor("", 1, bytes(32))}, DecodeError),
        ({"anchor": envelope.Anchor("x" * 300, 1, bytes(32))}, LimitError),
    ],
)
def test_headers_that_break_a_rule_are_refused(
    changes: dict[str, object], error: type[PeerError], alder: TestNode, birch: TestNode
) -> None:
    with pytest.raises(error):
        make_envelope(alder, [birch], **changes)  # type: ignore[arg-type]


def test_the_first_of_a_stream_may_name_the_head_of_an_earlier_one(
    alder: TestNode, birch: TestNode
) -> None:
    before = make_envelope(alder, [birch])
    linked = make_envelope(alder, [birch], incarnation=2, prev=before.id)
    assert envelope.parse(linked.wire).header.prev == before.id
    assert make_envelope(alder, [birch]).header.prev == suite.ZERO


# --- parts of an envelope --------------------------------------------------------------------
def test_the_signed_header_is_read_alone_as_in_its_envelope(
    alder: TestNode, birch: TestNode
) -> None:
    opener = make_envelope(alder, [birch])
    for sealed in (opener, make_continuation(alder, opener)):
        assert envelope.parse_header(sealed.header_bytes) == sealed.header
        assert envelope.peek_id(sealed.wire) == sealed.id


def test_a_signed_header_that_breaks_a_rule_is_refused(alder: TestNode, birch: TestNode) -> None:
    sealed = make_envelope(alder, [birch])
    pre, slots_digest, ciphertext_digest = sealed.pre, sealed.slots_digest, sealed.ciphertext_digest
    fields = decode(pre, max_bytes=limits.MAX_HEADER)
    assert isinstance(fields, list)
    refused: list[tuple[bytes, type[PeerError]]] = [
        (b"", DecodeError),
        (sealed.header_bytes[:-1], DecodeError),
        (sealed.header_bytes + b"\0", DecodeError),
        (encode([pre, slots_digest]), DecodeError),
        (encode([pre, bytes(31), ciphertext_digest]), DecodeError),
        (encode([pre, slots_digest, bytes(33)]), DecodeError),
        (encode([encode(fields[:15]), slots_digest, ciphertext_digest]), DecodeError),
        (encode([encode([2, *fields[1:]]), slots_digest, ciphertext_digest]), VersionError),
        (encode([bytes(limits.MAX_HEADER), slots_digest, ciphertext_digest]), LimitError),
    ]
    for header_bytes, error in refused:
        with pytest.raises(error):
            envelope.parse_header(header_bytes)


def test_peeking_at_an_id_believes_nothing_and_bounds_everything(
    alder: TestNode, birch: TestNode
) -> None:
    sealed = make_envelope(alder, [birch])
    garbled = encode([sealed.header_bytes, None, None, None, None])
    assert envelope.peek_id(garbled) == sealed.id
    for wire, error in (
        (b"", DecodeError),
        (encode([b"", None, None, None, None]), DecodeError),
        (encode([sealed.header_bytes]), DecodeError),
        (encode([bytes(limits.MAX_HEADER + 1), None, None, None, None]), LimitError),
        (bytes(limits.MAX_ENVELOPE + 1), LimitError),
    ):
        with pytest.raises(error):
            envelope.peek_id(wire)


def test_an_anchor_is_carried(alder: TestNode, birch: TestNode) -> None:
    anchor = envelope.Anchor("witness.example/log", 12, seed("root", ""))
    sealed = make_envelope(alder, [birch], anchor=anchor)
    assert verify(sealed.wire, alder).header.anchor == anchor


@pytest.mark.parametrize("missing", ["audience", "slots"])
def test_an_opener_without_audience_or_slots_is_refused(
    missing: str, alder: TestNode, birch: TestNode
) -> None:
    sealed = make_envelope(alder, [birch])
    with pytest.raises(DecodeError):
        envelope.parse(resign(sealed.wire, alder, **{missing: None}))


def test_a_continuation_with_slots_is_refused(alder: TestNode, birch: TestNode) -> None:
    opener = make_envelope(alder, [birch])
    later = make_continuation(alder, opener)
    with pytest.raises(DecodeError):
        envelope.parse(resign(later.wire, alder, slots=list(opener.slots)))


def test_audience_rules(alder: TestNode, birch: TestNode, cedar: TestNode) -> None:
    ekid = alder.card.seal[0].ekid
    pair = sorted([[birch.id, ekid], [cedar.id, ekid]])
    good = encode([ekid, pair, []])
    assert envelope.parse_audience(good, alder.id).recipient_ids == tuple(p[0] for p in pair)
    for bad in (
        [ekid, [], []],
        [ekid, pair[::-1], []],
        [ekid, [pair[0], pair[0]], []],
        [ekid, [[alder.id, ekid]], []],
        [ekid, pair, [alder.id]],
        [ekid, pair, [birch.id]],
        [ekid, pair, [bytes([9]) * 32, bytes([8]) * 32]],
    ):
        with pytest.raises(PeerError):
            envelope.parse_audience(encode(bad), alder.id)


def test_an_empty_audience_means_nobody(alder: TestNode) -> None:
    with pytest.raises(AudienceError):
        make_audience(alder, [])


def test_too_many_recipients_are_refused(alder: TestNode, birch: TestNode) -> None:
    cards = {n.to_bytes(32, "big"): birch.card for n in range(limits.MAX_RECIPIENTS + 1)}
    with pytest.raises(AudienceError):
        envelope.audience_of(alder.card, cards, [], now=NOW)


def test_an_expired_card_cannot_be_sealed_to(alder: TestNode, birch: TestNode) -> None:
    with pytest.raises(ExpiredError):
        envelope.audience_of(alder.card, {birch.id: birch.card}, [], now=NOW + 301 * DAY)


def test_one_bad_sealing_key_fails_the_whole_release(alder: TestNode, birch: TestNode) -> None:
    """Nobody is silently left out."""
    bad = birch.card.seal[0].public[:1_184] + bytes(32)
    keys = {alder.card.seal[0].ekid: alder.card.seal[0].public, birch.card.seal[0].ekid: bad}
    with pytest.raises(WeakKeyError):
        envelope.open_epoch(
            make_header(alder), BODY, audience=make_audience(alder, [birch]), seal_keys=keys,
            epoch_key=bytes(32), signer=alder.message,
        )  # fmt: skip


# --- padding ---------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("size", "padded"),
    [(0, 1_024), (1_024, 1_024), (1_025, 1_088), (1_504, 1_536), (5_000, 5_120), (65_540, 67_584)],
)
def test_padded_sizes(size: int, padded: int) -> None:
    assert envelope.padded_size(size) == padded


def test_padding_hides_the_exact_length(alder: TestNode, birch: TestNode) -> None:
    lengths = {
        len(make_envelope(alder, [birch], body=bytes(n)).ciphertext) for n in range(0, 1_020, 60)
    }
    assert len(lengths) == 1


def test_a_body_over_its_bound_is_refused(alder: TestNode, birch: TestNode) -> None:
    make_envelope(alder, [birch], body=bytes(limits.MAX_BODY))
    with pytest.raises(LimitError):
        make_envelope(alder, [birch], body=bytes(limits.MAX_BODY + 1))


def test_the_largest_audience_fits_the_envelope_bound(alder: TestNode, birch: TestNode) -> None:
    key = birch.card.seal[0]
    pairs = tuple((n.to_bytes(32, "big"), key.ekid) for n in range(1, limits.MAX_RECIPIENTS + 1))
    audience = envelope.Audience(alder.card.seal[0].ekid, pairs, ())
    sealed = envelope.open_epoch(
        make_header(alder), bytes(limits.MAX_BODY), audience=audience,
        seal_keys={k.ekid: k.public for k in (alder.card.seal[0], key)},
        epoch_key=bytes(32), signer=alder.message,
    )  # fmt: skip
    assert len(sealed.wire) <= limits.MAX_ENVELOPE
    verify(sealed.wire, alder)
