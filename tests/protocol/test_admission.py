"""Which envelopes are taken in, and which receipts are believed."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import pytest

from protocol import merkle
from protocol.admission import Admitted, Known, Part, admit
from protocol.canonical import decode, encode
from protocol.checkpoint import Checkpoint, sign_checkpoint
from protocol.entry import EntryKind, local_digest, make_entry, parse_entry
from protocol.envelope import Audience, Envelope, Header, prune
from protocol.errors import (
    AudienceError,
    DecodeError,
    DigestError,
    ExpiredError,
    NotCarryingError,
    PeerError,
    ProofError,
    ReceiptError,
    SignatureError,
    SupersededCardError,
    UnknownCardError,
    UnknownEpochError,
    UntrustedKeyError,
    WrongNetworkError,
)
from protocol.frames import ReceiptItem, Receipts
from protocol.receipt import verify_receipts
from protocol.statement import Card
from protocol.suite import network_id
from tests.factories import (
    DAY,
    NETWORK,
    NOW,
    TestNode,
    make_audience,
    make_continuation,
    make_envelope,
    seed,
)


@dataclass
class FakeView:
    """One node's knowledge, in memory."""

    me: TestNode
    authors: tuple[TestNode, ...]
    carries: bool = True
    held: set[bytes] = field(default_factory=set)
    epochs: dict[bytes, tuple[Header, Audience]] = field(default_factory=dict)
    recovered: int = 0
    named: set[bytes] = field(default_factory=set)

    @property
    def node_id(self) -> bytes:
        return self.me.id

    @property
    def network(self) -> bytes:
        return NETWORK

    def closed(self, header: Header, envelope_id: bytes) -> bool:
        return header.card_n < self.recovered and envelope_id not in self.named

    def accepts_author(self, node_id: bytes) -> bool:
        return any(node.id == node_id for node in self.authors)

    def card_at(self, node_id: bytes, n: int) -> Card | None:
        for node in (*self.authors, self.me):
            if node.id == node_id:
                return node.chain.card_at(n)
        return None

    def holds(self, envelope_id: bytes) -> bool:
        return envelope_id in self.held

    def epoch(self, opener: bytes) -> tuple[Header, Audience] | None:
        return self.epochs.get(opener)


def take(sealed: Envelope, view: FakeView, giver: TestNode, now: int = NOW) -> Admitted | Known:
    return admit(sealed.wire, view=view, giver=giver.id, now=now)


def test_a_recipient_takes_it_from_the_author(alder: TestNode, birch: TestNode) -> None:
    decision = take(make_envelope(alder, [birch]), FakeView(birch, (alder,)), alder)
    assert isinstance(decision, Admitted) and decision.part is Part.RECIPIENT


def test_nothing_new_is_taken_under_a_card_that_a_recovery_has_ended(
    alder: TestNode, birch: TestNode
) -> None:
    """However it is dated: the thief has that message key too."""
    old = make_envelope(alder, [birch])
    view = FakeView(birch, (alder,), recovered=2)
    with pytest.raises(SupersededCardError):
        take(old, view, alder)
    # What one that is held names as the one before it was there before.
    assert isinstance(take(old, replace(view, named={old.id}), alder), Admitted)
    assert isinstance(
        take(
            old,
            replace(
                view, held={old.id}, epochs={old.id: (old.header, make_audience(alder, [birch]))}
            ),
            alder,
        ),
        Known,
    )
    assert isinstance(take(old, replace(view, recovered=1), alder), Admitted)


def test_a_recipient_takes_it_from_a_carrier_or_another_recipient(
    alder: TestNode, birch: TestNode, cedar: TestNode
) -> None:
    carried = make_envelope(alder, [birch], carriers=[cedar])
    shared = make_envelope(alder, [birch, cedar])
    for sealed in (carried, shared):
        assert isinstance(take(sealed, FakeView(birch, (alder,)), cedar), Admitted)


def test_a_carrier_takes_it_to_carry(alder: TestNode, birch: TestNode, cedar: TestNode) -> None:
    sealed = make_envelope(alder, [birch], carriers=[cedar])
    decision = take(sealed, FakeView(cedar, (alder,)), alder)
    assert isinstance(decision, Admitted) and decision.part is Part.CARRIER


def test_a_carrier_that_does_not_carry_refuses(
    alder: TestNode, birch: TestNode, cedar: TestNode
) -> None:
    sealed = make_envelope(alder, [birch], carriers=[cedar])
    with pytest.raises(NotCarryingError):
        take(sealed, FakeView(cedar, (alder,), carries=False), alder)


def test_a_stranger_to_the_audience_keeps_nothing(
    alder: TestNode, birch: TestNode, cedar: TestNode
) -> None:
    with pytest.raises(AudienceError):
        take(make_envelope(alder, [birch]), FakeView(cedar, (alder,)), alder)


def test_a_giver_outside_the_audience_is_refused(
    alder: TestNode, birch: TestNode, cedar: TestNode
) -> None:
    with pytest.raises(AudienceError):
        take(make_envelope(alder, [birch]), FakeView(birch, (alder,)), cedar)


def test_an_unknown_author_is_refused(alder: TestNode, birch: TestNode) -> None:
    with pytest.raises(UntrustedKeyError):
        take(make_envelope(alder, [birch]), FakeView(birch, ()), alder)


def test_an_unknown_card_number_can_be_asked_for(alder: TestNode, birch: TestNode) -> None:
    sealed = make_envelope(alder, [birch], card_n=2)
    with pytest.raises(UnknownCardError):
        take(sealed, FakeView(birch, (alder,)), alder)


def test_a_bad_signature_is_refused(alder: TestNode, birch: TestNode) -> None:
    forger = replace(alder, message=birch.message)
    with pytest.raises(SignatureError):
        take(make_envelope(forger, [birch]), FakeView(birch, (alder,)), alder)


def test_another_network_is_refused(alder: TestNode, birch: TestNode) -> None:
    sealed = make_envelope(alder, [birch], network=network_id("elsewhere"))
    with pytest.raises(WrongNetworkError):
        take(sealed, FakeView(birch, (alder,)), alder)


def test_a_trimmed_copy_never_takes_the_place_of_the_whole_one(
    alder: TestNode, birch: TestNode, cedar: TestNode
) -> None:
    """Its signature holds, so a dishonest carrier could else leave the recipient unable to read."""
    whole = make_envelope(alder, [birch], [cedar])
    for_author_only = prune(whole, keep=frozenset({alder.id}))
    for node, authors, giver in ((birch, (alder,), cedar), (cedar, (alder,), birch)):
        with pytest.raises(DigestError):
            take(for_author_only, FakeView(node, authors), giver)
    for_birch = prune(whole, keep=frozenset({birch.id}))
    assert isinstance(take(for_birch, FakeView(birch, (alder,)), cedar), Admitted)


def held_by(me: TestNode, author: TestNode, opener: Envelope, *later: Envelope) -> FakeView:
    assert opener.audience is not None
    held = {opener.id, *(each.id for each in later)}
    epochs = {opener.id: (opener.header, opener.audience)}
    return FakeView(me, (author,), held=held, epochs=epochs)


def test_what_is_held_already_is_receipted_again(
    alder: TestNode, birch: TestNode, cedar: TestNode
) -> None:
    opener = make_envelope(alder, [birch], [cedar])
    later = make_continuation(alder, opener)
    view = held_by(birch, alder, opener, later)
    for sealed in (opener, later):
        for giver in (alder, cedar):
            assert take(sealed, view, giver) == Known(sealed.id)


def test_a_stranger_does_not_learn_that_an_envelope_is_held(
    alder: TestNode, birch: TestNode, cedar: TestNode
) -> None:
    opener = make_envelope(alder, [birch])
    later = make_continuation(alder, opener)
    for sealed in (opener, later):
        with pytest.raises(AudienceError):
            take(sealed, held_by(birch, alder, opener, later), cedar)


def test_a_copy_cannot_name_the_stranger_that_gives_it(
    alder: TestNode, birch: TestNode, cedar: TestNode
) -> None:
    sealed = make_envelope(alder, [birch])
    forged = make_audience(alder, [birch], [cedar]).encode()
    outer = decode(sealed.wire, max_bytes=2**20)
    assert isinstance(outer, list)
    copy = encode([*outer[:3], forged, outer[4]])
    with pytest.raises(AudienceError):
        admit(copy, view=held_by(birch, alder, sealed), giver=cedar.id, now=NOW)


def test_our_own_lost_envelope_comes_back_from_any_member_and_nobody_else(
    alder: TestNode, birch: TestNode, cedar: TestNode
) -> None:
    """A node that lost its data pulls what it wrote; it need not accept its own authorship."""
    sealed = make_envelope(alder, [birch], [cedar])
    for giver in (birch, cedar):
        decision = take(sealed, FakeView(alder, ()), giver)
        assert isinstance(decision, Admitted) and decision.part is Part.AUTHOR
        assert alder.id not in decision.audience.recipient_ids
    with pytest.raises(AudienceError):
        take(make_envelope(alder, [birch]), FakeView(alder, (birch,)), cedar)


def test_our_own_lost_envelope_comes_back_even_after_it_has_expired(
    alder: TestNode, birch: TestNode
) -> None:
    decision = take(make_envelope(alder, [birch]), FakeView(alder, ()), birch, NOW + 365 * DAY)
    assert isinstance(decision, Admitted) and decision.part is Part.AUTHOR


def test_what_only_claims_to_be_our_own_is_refused(alder: TestNode, birch: TestNode) -> None:
    forger = replace(alder, message=birch.message)
    with pytest.raises(SignatureError):
        take(make_envelope(forger, [birch]), FakeView(alder, (birch,)), birch)


def test_our_own_comes_back_with_our_slot_or_not_at_all(
    alder: TestNode, birch: TestNode, cedar: TestNode
) -> None:
    """Its slot is all that lets its author open it again; those of others it can do without."""
    whole = make_envelope(alder, [birch, cedar])
    without_ours = prune(whole, keep=frozenset({birch.id, cedar.id}))
    with pytest.raises(DigestError):
        take(without_ours, FakeView(alder, ()), birch)
    with_ours = prune(whole, keep=frozenset({alder.id}))
    assert isinstance(take(with_ours, FakeView(alder, ()), birch), Admitted)


def test_our_own_continuation_comes_back_behind_its_opener(
    alder: TestNode, birch: TestNode
) -> None:
    opener = make_envelope(alder, [birch])
    later = make_continuation(alder, opener)
    view = FakeView(alder, ())
    with pytest.raises(UnknownEpochError):
        take(later, view, birch)
    assert opener.audience is not None
    view.epochs[opener.id] = (opener.header, opener.audience)
    decision = take(later, view, birch)
    assert isinstance(decision, Admitted) and decision.part is Part.AUTHOR


def test_the_link_with_an_earlier_incarnation_is_no_fault(alder: TestNode, birch: TestNode) -> None:
    """Number 1 may name the head of the stream before; every later number must name one."""
    before = make_envelope(alder, [birch])
    fresh = make_envelope(alder, [birch], incarnation=2, prev=before.id, stream=bytes(16))
    assert isinstance(take(fresh, FakeView(birch, (alder,)), alder), Admitted)
    with pytest.raises(DecodeError):
        make_envelope(alder, [birch], seq=2)


def test_a_continuation_needs_its_opener(alder: TestNode, birch: TestNode) -> None:
    opener = make_envelope(alder, [birch])
    later = make_continuation(alder, opener)
    view = FakeView(birch, (alder,))
    with pytest.raises(UnknownEpochError):
        take(later, view, alder)
    assert opener.audience is not None
    view.epochs[opener.id] = (opener.header, opener.audience)
    assert isinstance(take(later, view, alder), Admitted)


def test_a_continuation_under_another_audience_is_refused(
    alder: TestNode, birch: TestNode, cedar: TestNode
) -> None:
    """An author cannot widen an epoch behind its members' backs."""
    opener = make_envelope(alder, [birch])
    view = FakeView(cedar, (alder,))
    view.epochs[opener.id] = (opener.header, make_audience(alder, [birch, cedar]))
    with pytest.raises(DigestError):
        take(make_continuation(alder, opener), view, alder)


def test_late_is_better_than_never_for_a_recipient_only(
    alder: TestNode, birch: TestNode, cedar: TestNode
) -> None:
    sealed = make_envelope(alder, [birch], carriers=[cedar])
    late = NOW + 31 * DAY
    assert isinstance(take(sealed, FakeView(birch, (alder,)), alder, late), Admitted)
    with pytest.raises(ExpiredError):
        take(sealed, FakeView(cedar, (alder,)), alder, late)


# --- entries and receipts --------------------------------------------------------------------
class Tiles:
    """Tiles in memory."""

    def __init__(self) -> None:
        self.stored: dict[tuple[int, int], bytes] = {}

    def read_tiles(self, keys: object) -> dict[tuple[int, int], bytes]:
        return {key: self.stored[key] for key in keys}  # type: ignore[attr-defined]


def entry_for(envelope_id: bytes, kind: EntryKind = EntryKind.RECEIVED) -> bytes:
    commitment = local_digest(b"local", bytes(16))
    return make_entry(kind, envelope_id, local_commitment=commitment, blind=bytes(16))


def receipt(giver: TestNode, entries: list[bytes], index: int, envelope_id: bytes) -> Receipts:
    tiles = Tiles()
    grown = merkle.append(size=0, new_leaves=[merkle.leaf_hash(e) for e in entries], reader=tiles)
    tiles.stored.update({(level, i): data for level, i, data in grown.tiles})
    note = sign_checkpoint(
        Checkpoint(giver.card.log.name, grown.size, grown.root),
        ed25519=giver.log_ed25519, mldsa44=giver.log_mldsa44, now_s=NOW // 1000,
    )  # fmt: skip
    proof = merkle.prove_inclusion(index, grown.size, tiles)
    return Receipts(giver.id, note, (ReceiptItem(envelope_id, index, entries[index], proof),))


MINE = seed("envelope", "1")
OTHERS = [entry_for(seed("envelope", str(n))) for n in range(2, 9)]


def test_a_receipt_proves_inclusion_in_the_givers_log(birch: TestNode) -> None:
    good = receipt(birch, [*OTHERS, entry_for(MINE)], 7, MINE)
    (verified,) = verify_receipts(good, log=birch.card.log)
    assert (verified.envelope_id, verified.index, verified.kind) == (MINE, 7, EntryKind.RECEIVED)


def test_receipts_that_prove_something_else_are_refused(birch: TestNode, cedar: TestNode) -> None:
    good = receipt(birch, [*OTHERS, entry_for(MINE)], 7, MINE)
    item = good.items[0]
    own_log = receipt(cedar, [entry_for(MINE)], 0, MINE)
    older = receipt(birch, OTHERS, 0, MINE).checkpoint
    for forged, error in (
        (replace(good, items=(replace(item, envelope_id=seed("envelope", "9")),)), ReceiptError),
        (replace(good, items=(replace(item, index=6),)), ProofError),
        (replace(good, items=(replace(item, index=8),)), ProofError),
        (replace(good, items=(replace(item, proof=item.proof[:-1]),)), ProofError),
        (replace(good, items=(replace(item, proof=(*item.proof, bytes(32))),)), ProofError),
        (
            replace(good, items=(replace(item, entry=entry_for(MINE, EntryKind.CARRIED)),)),
            ProofError,
        ),
        (replace(good, items=(replace(item, entry=b"\x01"),)), ReceiptError),
        (replace(good, checkpoint=older), ProofError),
        (replace(good, checkpoint=own_log.checkpoint), SignatureError),
        (replace(good, checkpoint=good.checkpoint[:-1]), DecodeError),
        (replace(own_log, recipient=birch.id), SignatureError),
        (receipt(birch, [entry_for(MINE, EntryKind.RELEASED)], 0, MINE), ReceiptError),
        (receipt(birch, [entry_for(MINE, EntryKind.HEARTBEAT)], 0, MINE), ReceiptError),
    ):
        with pytest.raises(error):
            verify_receipts(forged, log=birch.card.log)


def test_each_single_byte_change_of_an_entry_is_refused_or_another_leaf() -> None:
    entry = entry_for(MINE)
    for at in range(len(entry)):
        changed = entry[:at] + bytes([entry[at] ^ 1]) + entry[at + 1 :]
        assert merkle.leaf_hash(changed) != merkle.leaf_hash(entry)
        try:
            parse_entry(changed)
        except PeerError as error:
            assert error.code in {"bad-encoding", "over-limit"}


def test_leaves_cannot_be_guessed_without_the_blind() -> None:
    commitment = local_digest(b"local", bytes(16))
    entries = {
        make_entry(
            EntryKind.RECEIVED, MINE, local_commitment=commitment, blind=seed(str(n), "b")[:16]
        )
        for n in range(20)
    }
    assert len({merkle.leaf_hash(entry) for entry in entries}) == 20
