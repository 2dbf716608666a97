"""Sealing an epoch again: what is signed, who is answered, and which new slot a reader believes."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol import envelope, limits, reseal, suite
from protocol.canonical import decode, encode
from protocol.envelope import Audience, Envelope, Header, VerifiedEnvelope
from protocol.errors import (
    AudienceError,
    DecodeError,
    ExpiredError,
    LimitError,
    OpenError,
    PeerError,
    SignatureError,
    UnknownCardError,
    UnknownEpochError,
    UntrustedKeyError,
    VersionError,
    WrongNetworkError,
)
from protocol.frames import decode_frame, encode_frame
from protocol.reseal import Fault, Given, Notice, SealedAgain, Unopened
from protocol.statement import Card, SealKey
from tests.factories import (
    DAY,
    NETWORK,
    NOW,
    TestNode,
    card_body,
    epoch_of,
    make_audience,
    make_continuation,
    make_envelope,
    make_header,
    seed,
)

OTHER_SEED = seed("other", "seal")
OTHER_PUBLIC = suite.seal_public_bytes(OTHER_SEED)


@dataclass
class View:
    """A node that knows some peers and holds some openers."""

    node_id: bytes
    network: bytes = NETWORK
    shares: set[bytes] = field(default_factory=set)
    cards: dict[bytes, tuple[int, Card]] = field(default_factory=dict)
    openers: dict[bytes, tuple[Header, Audience]] = field(default_factory=dict)

    def shares_with(self, node_id: bytes) -> bool:
        return node_id in self.shares

    def newest_card(self, node_id: bytes) -> tuple[int, Card] | None:
        return self.cards.get(node_id)

    def opener(self, envelope_id: bytes) -> tuple[Header, Audience] | None:
        return self.openers.get(envelope_id)


def view_of(node: TestNode, *peers: TestNode, holding: tuple[Envelope, ...] = ()) -> View:
    openers = {}
    for held in holding:
        assert held.audience is not None
        openers[held.id] = (held.header, held.audience)
    return View(
        node.id,
        shares={peer.id for peer in peers},
        cards={peer.id: (1, peer.card) for peer in peers},
        openers=openers,
    )


def notice(reader: TestNode, opener: Envelope, /, **changes: object) -> Unopened:
    made = Notice(NETWORK, reader.id, 1, opener.id, Fault.SLOT, NOW)
    return reseal.sign_notice(replace(made, **changes), reader.message)  # type: ignore[arg-type]


def answer(
    author: TestNode, opener: Envelope, reader: TestNode, *, key: bytes | None = None
) -> SealedAgain:
    epoch = epoch_of(opener, author)
    return reseal.seal_again(
        replace(epoch, key=key or epoch.key), author=(opener.header, 1), reader=reader.id,
        card=reader.card, now=NOW, signer=author.message,
    )  # fmt: skip


def signed(author: TestNode, said: SealedAgain, /, **changes: object) -> SealedAgain:
    """Return the slot of *said* with *changes*, signed anew."""
    slot = replace(said.slot, **changes)  # type: ignore[arg-type]
    return SealedAgain(slot, author.message.sign(suite.label("sealed-again") + slot.encode()))


def badly_sealed(author: TestNode, reader: TestNode, *, key: bytes | None = None) -> Envelope:
    """Return an opener whose slot for *reader* is garbage, or holds another *key*."""
    header = make_header(author)
    audience = make_audience(author, [reader])
    header = replace(header, audience_digest=suite.digest("audience", audience.encode()))
    pre = header.encode()
    epoch_key = seed(author.name, "epoch")
    slots = []
    for node, ekid in ((author, audience.author_ekid), (reader, audience.recipients[0][1])):
        info = suite.label("slot") + suite.digest("pre", pre) + ekid
        inside = epoch_key if node is author or key is None else key
        public = OTHER_PUBLIC if node is reader and key is None else node.card.seal[0].public
        slots.append(suite.seal_to(public, inside, info))
    return envelope._seal(
        pre, b"body", epoch_key, author.message, audience=audience.encode(), slots=tuple(slots)
    )


# --- what is wrong -----------------------------------------------------------------------------
def test_a_slot_that_is_good_has_no_fault(alder: TestNode, birch: TestNode) -> None:
    opener = make_envelope(alder, [birch])
    assert reseal.fault_of(opener, node_id=birch.id, unsealer=birch) is None
    assert reseal.fault_of(opener, node_id=alder.id, unsealer=alder) is None


def test_garbage_and_a_wrong_key_are_told_apart(alder: TestNode, birch: TestNode) -> None:
    for opener, fault in (
        (badly_sealed(alder, birch), Fault.SLOT),
        (badly_sealed(alder, birch, key=bytes(32)), Fault.KEY),
    ):
        envelope.verify(opener, network=NETWORK, message_key=alder.card.message)
        assert reseal.fault_of(opener, node_id=birch.id, unsealer=birch) is fault


# --- from notice to key ------------------------------------------------------------------------
@pytest.mark.parametrize("key", [None, bytes(32)])
def test_a_notice_is_answered_with_a_slot_that_opens_the_whole_epoch(
    alder: TestNode, birch: TestNode, key: bytes | None
) -> None:
    opener = badly_sealed(alder, birch, key=key)
    later = make_continuation(alder, opener, body=b"later")
    said = notice(birch, opener)
    heard = reseal.check_notice(said, view=view_of(alder, birch, holding=(opener,)), now=NOW)
    assert heard == said.notice
    given_back = answer(alder, opener, birch)
    slot = reseal.check_slot(given_back, view=view_of(birch, alder, holding=(opener,)))
    epoch = reseal.open_slot(slot, opener, birch)
    for held, body in ((opener, b"body"), (later, b"later")):
        verified = VerifiedEnvelope(held)
        assert envelope.open_body(verified, envelope.content_key(verified, epoch)) == body


def test_it_is_sealed_to_the_newest_key_on_the_card(alder: TestNode, birch: TestNode) -> None:
    opener = make_envelope(alder, [birch])
    newest = SealKey(OTHER_PUBLIC, NOW - 1, NOW + DAY)
    later = SealKey(suite.seal_public_bytes(seed("later", "seal")), NOW + 1, NOW + DAY)
    card = card_body("birch", seal=(*birch.card.seal, newest, later))
    said = reseal.seal_again(
        epoch_of(opener, alder), author=(opener.header, 1), reader=birch.id, card=card, now=NOW,
        signer=alder.message,
    )  # fmt: skip
    assert said.slot.ekid == newest.ekid


def test_nothing_is_sealed_to_a_card_that_has_run_out_or_wants_another_suite(
    alder: TestNode, birch: TestNode
) -> None:
    opener = make_envelope(alder, [birch])
    for card, kind in (
        (card_body("birch", expires=NOW), ExpiredError),
        (card_body("birch", seal=(SealKey(OTHER_PUBLIC, NOW + 1, NOW + DAY),)), ExpiredError),
        (card_body("birch", min_suite=2), VersionError),
    ):
        with pytest.raises(kind):
            reseal.seal_again(
                epoch_of(opener, alder), author=(opener.header, 1), reader=birch.id, card=card,
                now=NOW, signer=alder.message,
            )  # fmt: skip


# --- notices that are refused --------------------------------------------------------------------
def test_who_is_refused_an_answer_and_why(
    alder: TestNode, birch: TestNode, cedar: TestNode
) -> None:
    opener = make_envelope(alder, [birch], [cedar])
    foreign = make_envelope(cedar, [alder, birch])
    held = (opener, foreign)
    good = view_of(alder, birch, cedar, holding=held)
    newer = {birch.id: (2, birch.card)}
    older = {birch.id: (0, birch.card)}
    cases: list[tuple[Unopened, View, int, type[PeerError]]] = [
        (notice(birch, opener, network=bytes(32)), good, NOW, WrongNetworkError),
        (notice(birch, opener), replace(good, shares={cedar.id}), NOW, UntrustedKeyError),
        (notice(birch, opener), replace(good, cards={}), NOW, UntrustedKeyError),
        (notice(birch, opener), replace(good, cards=newer), NOW, UntrustedKeyError),
        (notice(birch, opener), replace(good, cards=older), NOW, UnknownCardError),
        (replace(notice(birch, opener), signature=bytes(64)), good, NOW, SignatureError),
        (replace(notice(birch, opener), notice=notice(birch, foreign).notice), good, NOW,
         SignatureError),
        (notice(cedar, opener, reader=birch.id), good, NOW, SignatureError),
        (notice(cedar, opener), good, NOW, AudienceError),
        (notice(birch, opener), replace(good, openers={}), NOW, AudienceError),
        (notice(birch, foreign), good, NOW, AudienceError),
        (notice(birch, opener), good, NOW + limits.RESEAL_WINDOW_MS, ExpiredError),
    ]  # fmt: skip
    for said, view, now, kind in cases:
        with pytest.raises(PeerError) as caught:
            reseal.check_notice(said, view=view, now=now)
        assert type(caught.value) is kind, (said, caught.value)
    last = NOW + limits.RESEAL_WINDOW_MS - 1
    asked = notice(birch, opener)
    assert reseal.check_notice(asked, view=good, now=last) == asked.notice


def test_unknown_foreign_and_forbidden_epochs_are_refused_with_the_same_words(
    alder: TestNode, birch: TestNode, cedar: TestNode
) -> None:
    opener = make_envelope(alder, [birch], [cedar])
    foreign = make_envelope(cedar, [alder, birch])
    view = view_of(alder, birch, cedar, holding=(opener, foreign))
    said = set()
    for asked in (notice(cedar, opener), notice(cedar, foreign), notice(cedar, badly_sealed(
        birch, cedar
    ))):  # fmt: skip
        with pytest.raises(AudienceError) as caught:
            reseal.check_notice(asked, view=view, now=NOW)
        said.add(caught.value.diagnostics())
    assert len(said) == 1


# --- new slots that are refused -------------------------------------------------------------------
def test_which_new_slots_are_refused_and_why(
    alder: TestNode, birch: TestNode, cedar: TestNode
) -> None:
    opener = badly_sealed(alder, birch)
    good = view_of(birch, alder, cedar, holding=(opener,))
    said = answer(alder, opener, birch)
    cases: list[tuple[SealedAgain, View, type[PeerError]]] = [
        (signed(alder, said, network=bytes(32)), good, WrongNetworkError),
        (said, replace(good, openers={}), UnknownEpochError),
        (signed(cedar, said, author=cedar.id), good, UnknownEpochError),
        (signed(alder, said, reader=cedar.id), good, AudienceError),
        (said, replace(good, cards={}), UntrustedKeyError),
        (signed(alder, said, card_n=0), good, UntrustedKeyError),
        (signed(alder, said, card_n=2), good, UnknownCardError),
        (replace(said, signature=bytes(64)), good, SignatureError),
        (signed(cedar, said), good, SignatureError),
        (replace(said, slot=replace(said.slot, issued=NOW + 1)), good, SignatureError),
    ]
    for each, view, kind in cases:
        with pytest.raises(PeerError) as caught:
            reseal.check_slot(each, view=view)
        assert type(caught.value) is kind, (each, caught.value)
    assert reseal.check_slot(said, view=good) == said.slot


def test_a_new_slot_opens_for_its_epoch_reader_and_key_only(
    alder: TestNode, birch: TestNode, cedar: TestNode
) -> None:
    opener = badly_sealed(alder, birch)
    other = make_envelope(alder, [birch], seq=2, prev=opener.id)
    slot = answer(alder, opener, birch).slot
    assert reseal.open_slot(slot, opener, birch) == epoch_of(opener, alder)
    for moved, held in (
        (slot, other),
        (replace(slot, opener=other.id), other),
        (replace(slot, reader=cedar.id), opener),
        (replace(slot, ekid=cedar.card.seal[0].ekid), opener),
        (replace(slot, sealed=bytes(len(slot.sealed))), opener),
        (slot, make_continuation(alder, opener)),
        (answer(alder, opener, birch, key=bytes(32)).slot, opener),
        (answer(alder, opener, birch, key=bytes(31)).slot, opener),
    ):
        with pytest.raises(OpenError):
            reseal.open_slot(moved, held, birch)


def test_a_new_slot_is_no_slot_of_an_envelope_and_the_other_way_round(
    alder: TestNode, birch: TestNode
) -> None:
    opener = make_envelope(alder, [birch])
    slot = answer(alder, opener, birch).slot
    pre = suite.digest("pre", opener.pre)
    with pytest.raises(OpenError):
        birch.unseal(slot.ekid, slot.sealed, suite.label("slot") + pre + slot.ekid)
    with pytest.raises(OpenError):
        reseal.open_slot(replace(slot, sealed=opener.slots[1]), opener, birch)


def test_no_signature_serves_for_another_purpose(alder: TestNode, birch: TestNode) -> None:
    opener = make_envelope(alder, [birch])
    asked, said = notice(birch, opener), answer(alder, opener, birch)
    for name, key, signature in (
        ("sealed-again", birch.card.message, asked.signature),
        ("message", birch.card.message, asked.signature),
        ("unopened", alder.card.message, said.signature),
        ("message", alder.card.message, said.signature),
    ):
        for data in (asked.notice.encode(), said.slot.encode(), opener.id):
            with pytest.raises(SignatureError):
                suite.verify(name, key, data, signature)


# --- bounds --------------------------------------------------------------------------------------
def test_four_answers_a_day_and_the_next_day_four_more() -> None:
    given_so_far = Given(NOW, 0)
    for _ in range(limits.MAX_RESEALS_PER_OPENER):
        assert not given_so_far.exhausted(NOW)
        given_so_far = given_so_far.one_more(NOW)
    assert given_so_far == Given(NOW, limits.MAX_RESEALS_PER_OPENER)
    assert given_so_far.exhausted(NOW)
    assert given_so_far.exhausted(NOW + DAY - 1)
    assert not given_so_far.exhausted(NOW + DAY)
    assert given_so_far.one_more(NOW + DAY) == Given(NOW + DAY, 1)
    assert not given_so_far.exhausted(NOW - 1), "a clock that was set back locks nobody out"


@given(st.integers(min_value=0, max_value=10**6))
def test_waits_double_up_to_an_hour(attempts: int) -> None:
    wait = reseal.retry_at(attempts, NOW) - NOW
    assert limits.RESEAL_RETRY_MS <= wait <= limits.RESEAL_RETRY_MAX_MS
    following = reseal.retry_at(attempts + 1, NOW) - NOW
    assert following in {wait, min(2 * wait, limits.RESEAL_RETRY_MAX_MS)}


# --- frames --------------------------------------------------------------------------------------
def test_frames_read_back_as_they_were(alder: TestNode, birch: TestNode) -> None:
    opener = make_envelope(alder, [birch])
    for frame in (notice(birch, opener, fault=Fault.KEY), answer(alder, opener, birch)):
        payload = encode_frame(frame)
        assert decode_frame(payload) == frame
        assert len(payload) < limits.MAX_NEW_SLOT


def _fields(frame: Unopened | SealedAgain) -> tuple[list[object], list[object]]:
    outer = decode(encode_frame(frame), max_bytes=limits.MAX_FRAME)
    assert isinstance(outer, list)
    assert isinstance(outer[1], bytes)
    inner = decode(outer[1], max_bytes=limits.MAX_FRAME)
    assert isinstance(inner, list)
    return list(outer), list(inner)


@pytest.mark.parametrize(
    ("at", "value", "kind"),
    [
        (0, 2, VersionError), (0, True, DecodeError), (1, bytes(31), DecodeError),
        (2, bytes(33), DecodeError), (3, 512, DecodeError), (3, -1, DecodeError),
        (4, b"", DecodeError), (5, "cannot-read", DecodeError), (5, "", DecodeError),
        (5, b"cannot-open", DecodeError), (5, "a" * 65, LimitError), (6, -1, DecodeError),
        (6, "now", DecodeError), (6, None, DecodeError),
    ],
)  # fmt: skip
def test_a_notice_of_another_form_is_refused(
    alder: TestNode, birch: TestNode, at: int, value: object, kind: type[PeerError]
) -> None:
    outer, inner = _fields(notice(birch, make_envelope(alder, [birch])))
    inner[at] = value
    with pytest.raises(kind):
        decode_frame(encode([outer[0], encode(inner), outer[2]]))


@pytest.mark.parametrize(
    ("at", "value", "kind"),
    [
        (0, 0, VersionError), (1, bytes(33), DecodeError), (2, bytes(31), DecodeError),
        (3, 512, DecodeError), (4, None, DecodeError), (5, bytes(31), DecodeError),
        (6, "ekid", DecodeError), (7, bytes(1_167), DecodeError), (7, bytes(32), DecodeError),
        (7, bytes(1_169), DecodeError), (8, -1, DecodeError),
    ],
)  # fmt: skip
def test_a_new_slot_of_another_form_is_refused(
    alder: TestNode, birch: TestNode, at: int, value: object, kind: type[PeerError]
) -> None:
    outer, inner = _fields(answer(alder, make_envelope(alder, [birch]), birch))
    inner[at] = value
    with pytest.raises(kind):
        decode_frame(encode([outer[0], encode(inner), outer[2]]))


def test_frames_with_too_much_or_too_little_are_refused(alder: TestNode, birch: TestNode) -> None:
    opener = make_envelope(alder, [birch])
    for frame in (notice(birch, opener), answer(alder, opener, birch)):
        outer, inner = _fields(frame)
        for changed, kind in (
            ([*outer, 0], DecodeError),
            (outer[:2], DecodeError),
            ([outer[0], encode(inner), bytes(63)], DecodeError),
            ([outer[0], encode(inner), bytes(65)], DecodeError),
            ([outer[0], encode([*inner, 0]), outer[2]], DecodeError),
            ([outer[0], encode(inner[:-1]), outer[2]], DecodeError),
            ([outer[0], encode(inner) + b"\0", outer[2]], DecodeError),
            ([outer[0], b"", outer[2]], DecodeError),
            ([outer[0], inner, outer[2]], DecodeError),
            ([outer[0], bytes(limits.MAX_NEW_SLOT + 1), outer[2]], LimitError),
        ):
            with pytest.raises(kind):
                decode_frame(encode(changed))


def test_every_changed_byte_is_refused(alder: TestNode, birch: TestNode) -> None:
    opener = badly_sealed(alder, birch)
    asked, said = notice(birch, opener), answer(alder, opener, birch)
    author = view_of(alder, birch, holding=(opener,))
    reader = view_of(birch, alder, holding=(opener,))
    for frame in (asked, said):
        payload = encode_frame(frame)
        for at in range(0, len(payload), 7):
            changed = bytearray(payload)
            changed[at] ^= 1
            with pytest.raises(PeerError):
                back = decode_frame(bytes(changed))
                if isinstance(back, Unopened):
                    reseal.check_notice(back, view=author, now=NOW)
                else:
                    assert isinstance(back, SealedAgain)
                    reseal.check_slot(back, view=reader)


def test_what_is_signed_is_what_the_document_says(alder: TestNode, birch: TestNode) -> None:
    opener = make_envelope(alder, [birch])
    asked, slot = notice(birch, opener).notice, answer(alder, opener, birch).slot
    assert decode(asked.encode(), max_bytes=limits.MAX_NOTICE) == [
        1, NETWORK, birch.id, 1, opener.id, "cannot-open", NOW,
    ]  # fmt: skip
    assert decode(slot.encode(), max_bytes=limits.MAX_NEW_SLOT) == [
        1, slot.network, slot.author, slot.card_n, slot.opener, slot.reader, slot.ekid,
        slot.sealed, slot.issued,
    ]  # fmt: skip
