"""Delivery statements: what a checker without a node accepts, and all that it refuses."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pytest

from protocol import delivery_statement as ds
from protocol import limits, merkle, suite
from protocol.armor import armor
from protocol.canonical import decode, encode
from protocol.checkpoint import Checkpoint, sign_checkpoint
from protocol.delivery_statement import (
    CHECKS,
    Claim,
    Delivered,
    DeliveryStatement,
    Evidence,
    Item,
    Owed,
    Report,
    Unreachable,
    check_statement,
    make_statement,
)
from protocol.entry import EntryKind, make_entry
from protocol.envelope import Envelope
from protocol.errors import DecodeError, LimitError, VersionError
from protocol.frames import ReceiptItem, Receipts, Settled, encode_frame
from protocol.statement import make_bundle
from tests.factories import (
    DAY,
    NETWORK,
    NOW,
    TestNode,
    card_of,
    hybrid,
    make_audience,
    make_continuation,
    make_envelope,
    make_node,
    seed,
)

ENDS = NOW + limits.REACHABLE_WINDOW_MS
LATER = ENDS + 1
DEPTH = 17  # a log of 131,072 entries


def receipt_item(
    node: TestNode, envelope_id: bytes, kind: EntryKind = EntryKind.RECEIVED
) -> tuple[ReceiptItem, bytes]:
    """A proof that an entry is the first of a large log, and the root it leads to."""
    entry = make_entry(
        kind, envelope_id, local_commitment=seed(node.name, "local"), blind=bytes(16)
    )
    proof = tuple(seed(node.name, f"sibling/{level}") for level in range(DEPTH))
    root = merkle.leaf_hash(entry)
    for sibling in proof:
        root = merkle.node_hash(root, sibling)
    return ReceiptItem(envelope_id, 0, entry, proof), root


def note(node: TestNode, root: bytes, *, by: TestNode | None = None) -> bytes:
    signer = by or node
    return sign_checkpoint(
        Checkpoint(node.card.log.name, 2**DEPTH, root),
        ed25519=signer.log_ed25519,
        mldsa44=signer.log_mldsa44,
        now_s=NOW // 1000,
    )


def receipt(node: TestNode, envelope_id: bytes, kind: EntryKind = EntryKind.RECEIVED) -> bytes:
    item, root = receipt_item(node, envelope_id, kind)
    return encode_frame(Receipts(node.id, note(node, root), (item,)))


@dataclass
class Case:
    """A release of *author* to *members*, all of whom have it unless a test says otherwise."""

    author: TestNode
    members: list[TestNode]
    sent: Envelope

    @classmethod
    def of(cls, author: TestNode, *members: TestNode) -> Case:
        ordered = sorted(members, key=lambda node: node.id)
        return cls(author, ordered, make_envelope(author, ordered))

    @property
    def evidence(self) -> Evidence:
        sent = self.sent
        return Evidence(
            header=sent.header_bytes,
            signature=sent.signature,
            audience=make_audience(self.author, self.members).encode(),
            author=ds.author_bundle(self.author.chain, card_n=sent.header.card_n),
            recipients=tuple(make_bundle(node.chain) for node in self.members),
        )

    def statement(self, items: Sequence[Item] | None = None, **fields: object) -> DeliveryStatement:
        if items is None:
            items = [Delivered(node.id, receipt(node, self.sent.id)) for node in self.members]
        said = DeliveryStatement(
            network=NETWORK,
            author=self.author.id,
            envelope_id=self.sent.id,
            released=NOW,
            window=limits.REACHABLE_WINDOW_MS,
            made=LATER,
            items=tuple(items),
        )
        return replace(said, **fields)  # type: ignore[arg-type]

    def sign(self, statement: DeliveryStatement, evidence: Evidence | None = None) -> bytes:
        """Sign whatever the author wants to claim: here it may be dishonest."""
        return make_statement(statement, evidence or self.evidence, signer=self.author.link)


@pytest.fixture(scope="module")
def case(alder: TestNode, birch: TestNode, cedar: TestNode) -> Case:
    return Case.of(alder, birch, cedar)


def refused(report: Report) -> tuple[str, str]:
    """The one check that failed, and its code."""
    assert not report.genuine
    assert not report.holds
    assert tuple(check.name for check in report.checks) == CHECKS
    (first, *rest) = [check for check in report.checks if not check.ok]
    assert first.code
    assert first.detail
    assert all(check.detail == "not reached" and not check.code for check in rest)
    return first.name, first.code


# --- what holds ------------------------------------------------------------------------------
def test_a_statement_with_all_receipts_holds_with_nothing_but_its_own_bytes(case: Case) -> None:
    said = case.statement()
    report = check_statement(case.sign(said))
    assert report.genuine
    assert report.holds
    assert tuple(check.name for check in report.checks) == CHECKS
    assert all(check.ok and check.detail and not check.code for check in report.checks)
    assert report.names == {node.id: node.name.title() for node in (case.author, *case.members)}
    assert report.statement == said


def test_an_envelope_in_the_middle_of_an_epoch_is_accounted_for_as_well(
    alder: TestNode, birch: TestNode
) -> None:
    opener = make_envelope(alder, [birch])
    case = Case(alder, [birch], make_continuation(alder, opener))
    assert check_statement(case.sign(case.statement())).holds


@pytest.mark.parametrize("made", [NOW, ENDS, LATER])
@pytest.mark.parametrize(
    ("other", "before", "after"),
    [
        (lambda node: Unreachable(node, NOW - 1), Claim.OPEN, Claim.HOLDS),
        (lambda node: Unreachable(node, None), Claim.OPEN, Claim.HOLDS),
        (lambda node: Owed(node, NOW, NOW), Claim.FAILS, Claim.FAILS),
    ],
)
def test_the_claim_holds_iff_nobody_is_owed_and_the_window_is_over(
    case: Case, other: Callable[[bytes], Item], before: Claim, after: Claim, made: int
) -> None:
    first, second = case.members
    items: list[Item] = [Delivered(first.id, receipt(first, case.sent.id)), other(second.id)]
    report = check_statement(case.sign(case.statement(items, made=made)))
    assert report.genuine
    assert report.statement is not None
    assert report.statement.claim is (after if made == LATER else before)
    assert report.holds == (report.statement.claim is Claim.HOLDS)


def test_with_all_receipts_nobody_waits_for_the_window(case: Case) -> None:
    assert check_statement(case.sign(case.statement(made=NOW))).holds


def test_a_debt_that_the_author_hides_as_unreachable_is_not_seen_by_the_checker(
    case: Case,
) -> None:
    """Nobody but the two ends knows when a link was open: this is the author's signed word."""
    first, second = case.members
    items: list[Item] = [
        Delivered(first.id, receipt(first, case.sent.id)), Unreachable(second.id, None),
    ]  # fmt: skip
    assert check_statement(case.sign(case.statement(items))).holds


def test_an_envelope_under_a_card_that_was_replaced_since_verifies_with_both_cards(
    alder: TestNode, birch: TestNode
) -> None:
    case = Case.of(alder, birch)
    renewed = hybrid("alder", "link of the new card")
    newer = card_of(alder.chain, "alder", issued=NOW, link=renewed.public)
    chain = alder.chain.extend(newer)
    evidence = replace(case.evidence, author=ds.author_bundle(chain, card_n=1))
    said = case.statement()
    assert check_statement(make_statement(said, evidence, signer=renewed)).holds
    # The key of the old card signs nothing any more, and without that card the envelope is nobody's
    old_key = make_statement(said, evidence, signer=alder.link)
    assert refused(check_statement(old_key)) == ("signature", "bad-signature")
    without = replace(evidence, author=make_bundle(chain))
    lacking = make_statement(said, without, signer=renewed)
    assert refused(check_statement(lacking)) == ("envelope", "bad-statement")


def test_the_same_facts_give_the_same_bytes(case: Case) -> None:
    one = case.statement()
    same = case.statement(one.items)
    assert one.encode() == same.encode()
    later = replace(one, made=LATER + DAY)
    assert later.encode() != one.encode()
    assert later.facts == one.facts
    assert replace(later, made=one.made).encode() == one.encode()
    changes: list[dict[str, Any]] = [
        {"network": bytes(32)}, {"author": bytes(32)}, {"envelope_id": bytes(32)},
        {"released": NOW + 1}, {"window": limits.REACHABLE_WINDOW_MS + 1}, {"items": one.items[:1]},
        {"items": (Unreachable(one.items[0].node_id, None), one.items[1])},
    ]  # fmt: skip
    assert all(replace(one, **change).facts != one.facts for change in changes)


def test_what_is_expected_can_be_named(case: Case, birch: TestNode) -> None:
    data = case.sign(case.statement())
    assert check_statement(data, network=NETWORK, author=case.author.id).holds
    other = check_statement(data, network=suite.network_id("other.example"))
    assert refused(other) == ("expected", "wrong-network")
    assert refused(check_statement(data, author=birch.id)) == ("expected", "untrusted-key")


# --- receipts --------------------------------------------------------------------------------
def forged(node: TestNode, sent: bytes) -> bytes:
    item, root = receipt_item(node, sent)
    return encode_frame(Receipts(node.id, note(node, root, by=make_node("mallory")), (item,)))


def of_another_envelope(node: TestNode, sent: bytes) -> bytes:
    del sent
    return receipt(node, seed("another", "envelope"))


def renamed(node: TestNode, sent: bytes) -> bytes:
    item, root = receipt_item(node, seed("another", "envelope"))
    item = replace(item, envelope_id=sent)
    return encode_frame(Receipts(node.id, note(node, root), (item,)))


def outside_the_tree(node: TestNode, sent: bytes) -> bytes:
    item, _ = receipt_item(node, sent)
    return encode_frame(Receipts(node.id, note(node, seed("another", "root")), (item,)))


def of_a_carrier(node: TestNode, sent: bytes) -> bytes:
    return receipt(node, sent, EntryKind.CARRIED)


def of_another_node(node: TestNode, sent: bytes) -> bytes:
    del node
    return receipt(make_node("mallory"), sent)


def of_two(node: TestNode, sent: bytes) -> bytes:
    item, root = receipt_item(node, sent)
    return encode_frame(Receipts(node.id, note(node, root), (item, item)))


def no_receipt(node: TestNode, sent: bytes) -> bytes:
    return encode_frame(Settled(((sent, node.id),)))


@pytest.mark.parametrize(
    ("made_by", "code"),
    [
        (forged, "bad-signature"), (of_another_envelope, "bad-receipt"), (renamed, "bad-receipt"),
        (outside_the_tree, "bad-proof"), (of_a_carrier, "bad-receipt"),
        (of_another_node, "bad-receipt"), (of_two, "bad-receipt"), (no_receipt, "bad-receipt"),
        (lambda node, sent: b"\x01", "bad-encoding"),
    ],
)  # fmt: skip
def test_what_proves_no_delivery_is_refused_and_its_recipient_named(
    case: Case, made_by: Callable[[TestNode, bytes], bytes], code: str
) -> None:
    first, second = case.members
    items = [
        Delivered(first.id, receipt(first, case.sent.id)),
        Delivered(second.id, made_by(second, case.sent.id)),
    ]
    report = check_statement(case.sign(case.statement(items)))
    assert refused(report) == ("receipts", code)
    (found,) = (check for check in report.checks if check.name == "receipts")
    assert second.id.hex()[:16] in found.detail
    assert first.id.hex()[:16] not in found.detail


def test_receipts_of_two_recipients_cannot_be_exchanged(case: Case) -> None:
    first, second = case.members
    items = [
        Delivered(first.id, receipt(second, case.sent.id)),
        Delivered(second.id, receipt(first, case.sent.id)),
    ]
    assert refused(check_statement(case.sign(case.statement(items)))) == ("receipts", "bad-receipt")


@pytest.mark.parametrize(
    "item",
    [
        ["delivered", None], ["delivered", b""], ["delivered", 1], ["delivered", [NOW, NOW]],
        ["unreachable", b"x"], ["unreachable", -1], ["unreachable", 2**62], ["owed", None],
        ["owed", [NOW]], ["owed", NOW], ["lost", None], ["", None], [1, None],
    ],
)  # fmt: skip
def test_a_state_without_its_evidence_is_no_statement(case: Case, item: list[object]) -> None:
    data = case.sign(case.statement())
    core = fields_of(fields_of(data)[1])
    core[7][0] = [case.members[0].id, *item]
    assert refused(check_statement(resigned(case, core)))[0] == "form"


# --- audience --------------------------------------------------------------------------------
def test_a_trimmed_audience_is_refused(case: Case) -> None:
    """However the author tells the story of a smaller audience, its own signature contradicts."""
    kept = case.members[:1]
    said = case.statement([Delivered(node.id, receipt(node, case.sent.id)) for node in kept])
    trimmed = replace(
        case.evidence,
        audience=make_audience(case.author, kept).encode(),
        recipients=case.evidence.recipients[:1],
    )
    assert refused(check_statement(case.sign(said, trimmed))) == ("audience", "bad-digest")
    # A header that names the smaller audience is that of another envelope …
    other = Case(case.author, kept, make_envelope(case.author, kept))
    swapped = replace(trimmed, header=other.sent.header_bytes, signature=other.sent.signature)
    assert refused(check_statement(case.sign(said, swapped))) == ("envelope", "bad-digest")
    # … and the receipts are not about that one.
    about_other = replace(said, envelope_id=other.sent.id)
    assert refused(check_statement(case.sign(about_other, swapped))) == ("receipts", "bad-receipt")


def test_a_recipient_that_is_left_out_is_missed(case: Case) -> None:
    first, second = case.members
    said = case.statement([Delivered(first.id, receipt(first, case.sent.id))])
    report = check_statement(case.sign(said))
    assert refused(report) == ("recipients", "wrong-audience")
    (found,) = (check for check in report.checks if check.name == "recipients")
    assert second.id.hex()[:16] in found.detail


def test_a_node_outside_the_audience_is_no_recipient(case: Case) -> None:
    stranger = make_node("mallory")
    items = [Delivered(n.id, receipt(n, case.sent.id)) for n in (*case.members, stranger)]
    items.sort(key=lambda item: item.node_id)
    found = refused(check_statement(case.sign(case.statement(items))))
    assert found == ("recipients", "wrong-audience")


@pytest.mark.parametrize("order", [(0, 0), (1, 0), (0, 1, 1)])
def test_a_recipient_that_stands_twice_or_out_of_order_is_refused(
    case: Case, order: tuple[int, ...]
) -> None:
    whole = case.statement().items
    said = case.statement([whole[at] for at in order])
    assert refused(check_statement(case.sign(said))) == ("form", "bad-encoding")


def test_cards_of_other_nodes_or_too_few_are_refused(case: Case) -> None:
    said, evidence = case.statement(), case.evidence
    first, second = evidence.recipients
    stranger = make_bundle(make_node("mallory").chain)
    for cards in ((second, first), (first,), (first, second, stranger), (first, stranger)):
        found = refused(check_statement(case.sign(said, replace(evidence, recipients=cards))))
        assert found == ("cards", "bad-statement")


# --- the author ------------------------------------------------------------------------------
def test_nobody_else_can_make_a_statement_in_the_authors_name(case: Case, birch: TestNode) -> None:
    said, evidence = case.statement(), case.evidence
    by_other = make_statement(said, evidence, signer=birch.link)
    assert refused(check_statement(by_other)) == ("signature", "bad-signature")
    own_card = replace(evidence, author=make_bundle(birch.chain))
    by_other = make_statement(said, own_card, signer=birch.link)
    assert refused(check_statement(by_other)) == ("author", "bad-statement")
    # A recipient that claims to have been the author.
    claimed = replace(said, author=birch.id)
    by_other = make_statement(claimed, own_card, signer=birch.link)
    assert refused(check_statement(by_other)) == ("envelope", "bad-signature")


@pytest.mark.parametrize("half", [0, 1])
def test_both_signatures_are_needed(case: Case, half: int) -> None:
    outer = fields_of(case.sign(case.statement()))
    outer[2][half] = bytes(len(outer[2][half]))
    assert refused(check_statement(encode(outer))) == ("signature", "bad-signature")


def test_a_signature_made_for_a_link_is_none_on_a_statement(case: Case) -> None:
    outer = fields_of(case.sign(case.statement()))
    digest = suite.digest("delivery", outer[1])
    outer[2] = list(case.author.link.sign(suite.label("link/dialer") + digest))
    assert refused(check_statement(encode(outer))) == ("signature", "bad-signature")


def test_an_envelope_that_the_author_did_not_sign_is_refused(case: Case) -> None:
    unsigned = replace(case.evidence, signature=bytes(64))
    found = refused(check_statement(case.sign(case.statement(), unsigned)))
    assert found == ("envelope", "bad-signature")


@pytest.mark.parametrize("released", [NOW - 1, NOW + 1])
def test_the_release_cannot_be_moved(case: Case, released: int) -> None:
    found = refused(check_statement(case.sign(case.statement(released=released))))
    assert found == ("envelope", "bad-digest")


@pytest.mark.parametrize("window", [0, limits.REACHABLE_WINDOW_MS - 1, limits.MAX_LIFETIME_MS + 1])
def test_the_window_cannot_be_made_too_short_to_owe_anything(case: Case, window: int) -> None:
    found = refused(check_statement(case.sign(case.statement(window=window))))
    assert found == ("form", "bad-encoding")


@pytest.mark.parametrize(
    "item",
    [
        lambda node: Unreachable(node, NOW), lambda node: Unreachable(node, ENDS),
        lambda node: Owed(node, NOW - 1, NOW), lambda node: Owed(node, NOW + 1, NOW),
        lambda node: Owed(node, NOW, ENDS + 1),
    ],
)  # fmt: skip
def test_times_that_contradict_each_other_are_refused(
    case: Case, item: Callable[[bytes], Item]
) -> None:
    first, second = case.members
    items = [Delivered(first.id, receipt(first, case.sent.id)), item(second.id)]
    assert refused(check_statement(case.sign(case.statement(items)))) == ("times", "bad-encoding")


def test_a_link_after_the_statement_was_made_is_refused(case: Case) -> None:
    items = [Owed(node.id, NOW, NOW + 2) for node in case.members]
    early = case.sign(case.statement(items, made=NOW + 1))
    assert refused(check_statement(early)) == ("times", "bad-encoding")
    before = case.sign(case.statement(made=NOW - 1))
    assert refused(check_statement(before)) == ("times", "bad-encoding")


# --- bytes -----------------------------------------------------------------------------------
def fields_of(data: object) -> Any:  # noqa: ANN401  tests take it apart
    assert isinstance(data, bytes)
    value = decode(data, max_bytes=limits.MAX_DELIVERY_STATEMENT)
    assert isinstance(value, list)
    return value


def resigned(case: Case, core: list[object]) -> bytes:
    outer = fields_of(case.sign(case.statement()))
    outer[1] = encode(core)
    signed = suite.label("delivery") + suite.digest("delivery", encode(core))
    outer[2] = list(case.author.link.sign(signed))
    return encode(outer)


def changed(data: bytes, at: int, bit: int) -> bytes:
    return data[:at] + bytes([data[at] ^ (1 << bit)]) + data[at + 1 :]


def test_a_changed_byte_is_refused(case: Case) -> None:
    """A sample of all bytes, and every byte that is neither a key nor a signature of a card."""
    data = case.sign(case.statement())
    chosen = random.Random(7)
    places = {*range(400), *range(0, len(data), 61), *range(len(data) - 64, len(data))}
    for part in (case.evidence.header, case.evidence.signature, case.evidence.audience):
        at = data.index(part)
        places |= set(range(at - 3, at + len(part)))
    for at in sorted(places):
        assert not check_statement(changed(data, at, chosen.randrange(8))).genuine, at


@pytest.mark.long
def test_each_changed_byte_is_refused(case: Case) -> None:
    data = case.sign(case.statement())
    for at in range(len(data)):
        assert not check_statement(changed(data, at, at % 8)).genuine, at


def test_a_cut_or_longer_statement_is_refused(case: Case) -> None:
    data = case.sign(case.statement())
    for other in (b"", data[:1], data[:-1], data + b"\0", data + data):
        assert refused(check_statement(other))[0] == "form"


def test_later_versions_are_told_apart_from_damage(case: Case) -> None:
    outer = fields_of(case.sign(case.statement()))
    outer[0] = 2
    with pytest.raises(VersionError, match="update Picket"):
        ds.parse_signed(encode(outer))
    core = fields_of(fields_of(case.sign(case.statement()))[1])
    core[0] = 2
    assert refused(check_statement(resigned(case, core))) == ("form", "unsupported-version")


def test_each_part_has_a_bound(case: Case) -> None:
    sent, evidence = case.statement(), case.evidence
    large = b"\0" * (limits.MAX_BUNDLE + 1)
    for part in (
        replace(evidence, header=large), replace(evidence, audience=large),
        replace(evidence, author=large), replace(evidence, recipients=(large,)),
        replace(evidence, recipients=(b"\1",) * (limits.MAX_RECIPIENTS + 1)),
    ):  # fmt: skip
        assert refused(check_statement(case.sign(sent, part))) == ("form", "over-limit")
    long = [Delivered(node.id, b"\1" * (limits.MAX_RECEIPT_FRAME + 1)) for node in case.members]
    assert refused(check_statement(case.sign(case.statement(long)))) == ("form", "over-limit")
    too_much = replace(evidence, recipients=(b"\0" * limits.MAX_DELIVERY_STATEMENT,))
    with pytest.raises(LimitError, match="longer than"):
        case.sign(sent, too_much)
    assert refused(check_statement(b"\0" * (limits.MAX_DELIVERY_STATEMENT + 1)))[1] == "over-limit"


def test_all_members_of_the_united_nations_fit_well_within_the_bound(alder: TestNode) -> None:
    case = Case.of(alder, *(make_node(f"state-{n}") for n in range(193)))
    data = case.sign(case.statement())
    assert len(data) < 5 * 2**20
    assert len(data) * limits.MAX_RECIPIENTS // 193 < limits.MAX_DELIVERY_STATEMENT // 4
    report = check_statement(data)
    assert report.holds
    assert len(report.names) == 194


def test_the_bound_holds_for_as_many_recipients_with_full_chains() -> None:
    """Names the parts that MAX_DELIVERY_STATEMENT counts, at their usual largest."""
    skeletons = (limits.MAX_CHAIN - 2) * 165
    card, inception, proof = 20 * 1024, 6 * 1024, 6 * 1024
    each = skeletons + card + inception + proof
    assert each * limits.MAX_RECIPIENTS + limits.MAX_AUDIENCE < limits.MAX_DELIVERY_STATEMENT


def test_a_skeleton_is_no_longer_than_the_bound_counts(alder: TestNode) -> None:
    assert len(alder.chain.head.skeleton()) <= 165


# --- text ------------------------------------------------------------------------------------
def test_text_comes_back_as_it_was_whatever_mail_does_to_line_ends(case: Case) -> None:
    data = case.sign(case.statement())
    text = ds.armor_statement(data)
    assert text.isascii()
    assert max(map(len, text.splitlines())) <= 64
    for other in (text, text.rstrip("\n"), f"\n\n{text}\n \n", text.replace("\n", "\r\n")):
        assert ds.dearmor_statements(other) == (data,)
    second = case.sign(case.statement(made=LATER + 1))
    assert ds.dearmor_statements(text + "\n" + ds.armor_statement(second)) == (data, second)


def test_text_that_is_damaged_or_something_else_is_refused(case: Case) -> None:
    data = case.sign(case.statement())
    text = ds.armor_statement(data)
    lines = text.splitlines()
    cut = "\n".join(lines[:-1])
    for other in (
        "", "\n", "x", lines[0], cut, "\n".join(lines[1:]), text + "x", "x" + text, text + cut,
        text.replace(lines[3], lines[3][:-1]), text.replace(lines[3], lines[3] + "\n"),
        text.replace(lines[3] + "\n", lines[3]), text.replace("\n", ""), "é" + text,
        f"{lines[0]}\n{lines[-1]}\n", armor(case.evidence.author),
    ):  # fmt: skip
        with pytest.raises(DecodeError) as caught:
            ds.dearmor_statements(other)
        assert caught.value.fix


def test_text_has_bounds(case: Case) -> None:
    with pytest.raises(LimitError):
        ds.dearmor_statements(" " * (2 * limits.MAX_DELIVERY_STATEMENT + 1))
    text = ds.armor_statement(b"\1")
    assert len(ds.dearmor_statements(text * limits.MAX_STATEMENTS_IN_TEXT)) == 512
    with pytest.raises(LimitError):
        ds.dearmor_statements(text * (limits.MAX_STATEMENTS_IN_TEXT + 1))
    del case
