"""Frames, their tags, and the link session as playbooks: event in, exact effects out."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from protocol import limits, suite
from protocol.canonical import encode
from protocol.errors import FrameError, PeerError
from protocol.fork import SignedHeader, fork_of
from protocol.frames import (
    SHORT_ID,
    Authors,
    Bye,
    Deliver,
    Forked,
    Frame,
    Frontier,
    Hello,
    Proof,
    ReceiptItem,
    Receipts,
    Refusal,
    Refuse,
    Run,
    Runs,
    Settled,
    Statements,
    Summary,
    Tagger,
    Transcript,
    Want,
    WantReceipts,
    WantStatements,
    decode_frame,
    encode_frame,
)
from protocol.frontier import Have, StreamKey
from protocol.session import (
    Close,
    Commit,
    Effect,
    Gossip,
    Heard,
    Lane,
    LoadStatements,
    Local,
    NoteLate,
    NoteRefusals,
    NoteSettled,
    Opened,
    Phase,
    Remote,
    Send,
    Session,
    StoreReceipts,
    StoreStatements,
)
from tests.factories import NETWORK, NOW, TestNode, make_envelope, seed

RECEIPTS = Receipts(
    seed("a", "id"), b"note", (ReceiptItem(seed("e", "1"), 7, b"entry", (bytes(32),)),)
)
FRAMES: list[Frame] = [
    Hello((1,), NETWORK, seed("a", "id"), seed("a", "nonce"), 3, seed("a", "head")),
    Proof(bytes(64), bytes(3_309)),
    WantStatements(seed("a", "id"), 2),
    Statements(seed("a", "id"), (b"statement one", b"two")),
    Deliver((b"envelope",)),
    RECEIPTS,
    Refuse((Refusal(seed("e", "1"), "unknown-card", 1_000),)),
    Bye("shutdown"),
    Settled(((seed("e", "1"), seed("a", "id")),)),
]
KEY = StreamKey(seed("a", "id"), 3, bytes(16))
GOSSIP: list[Gossip] = [
    Summary(seed("a", "digest")),
    Authors(((seed("a", "id"), bytes(16)),)),
    Frontier(
        KEY.author,
        (
            (KEY, Have(7, b"8 bytes.", ((9, 9), (11, 400)), forked=True)),
            (StreamKey(KEY.author, 4, bytes(16)), Have(0, bytes(8), ((2, 2),))),
        ),
    ),
    Want(KEY, ((1, 1), (3, 8))),
    WantReceipts((seed("e", "1"), seed("e", "2"))),
    Forked(b"proof"),
]
EVERY: list[Frame] = [*FRAMES, *GOSSIP]


def certificate(node: TestNode) -> bytes:
    return suite.digest("certificate", node.card.tls[0])


def session(
    mine: TestNode, theirs: TestNode, *, dialer: bool, network: bytes = NETWORK,
    nonce: bytes | None = None, known: int = 1, head: bytes | None = None,
) -> Session:  # fmt: skip
    own = mine.chain.head
    return Session(
        local=Local(network, mine.id, own.n, own.digest, certificate(mine), mine.link),
        remote=Remote(
            theirs.id,
            certificate(theirs),
            theirs.card.link,
            known,
            head or theirs.chain.head.digest,
        ),
        dialer=dialer,
        nonce=nonce or seed(mine.name, "nonce"),
        now=NOW,
    )


def sent(side: Session, effects: Sequence[Effect]) -> list[bytes]:
    """Return the messages that *side* writes for *effects*, tagged in this order."""
    return [side.message(effect) for effect in effects if isinstance(effect, Send)]


def lanes(effects: Sequence[Effect]) -> list[Lane]:
    return [effect.lane for effect in effects if isinstance(effect, Send)]


def opened(a: TestNode, b: TestNode) -> tuple[Session, Session]:
    """Return both ends of an open link."""
    left, right = session(a, b, dialer=True), session(b, a, dialer=False)
    to_right, to_left = sent(left, left.start()), sent(right, right.start())
    while to_left or to_right:
        replies = [right.receive(m, NOW) for m in to_right], [left.receive(m, NOW) for m in to_left]
        to_left = [m for effects in replies[0] for m in sent(right, effects)]
        to_right = [m for effects in replies[1] for m in sent(left, effects)]
    assert (left.phase, right.phase) == (Phase.OPEN, Phase.OPEN)
    return left, right


def closed_with(effects: Sequence[Effect]) -> str:
    last = effects[-1]
    assert isinstance(last, Close)
    return last.code


# --- frames ----------------------------------------------------------------------------------
@pytest.mark.parametrize("frame", EVERY, ids=lambda frame: type(frame).__name__)
def test_decode_undoes_encode(frame: Frame) -> None:
    assert decode_frame(encode_frame(frame)) == frame


@pytest.mark.parametrize(
    "value",
    [
        [], [0], [99, 1], [True], ["1"], 1, None, [8], [8, "two words"], [8, "x" * 65], [8, ""],
        [8, "a\nb"], [5, []], [5, [b""]], [5, ["text"]], [5, [b"x"] * 257], [4, bytes(32), []],
        [4, bytes(31), [b"x"]], [3, bytes(32), -1], [3, bytes(32), 2**40],
        [2, bytes(63), bytes(3_309)],
        [1, [], bytes(32), bytes(32), bytes(32), 0, bytes(32)], [7, []],
        [7, [[bytes(32), "code", -1]]], [7, [[bytes(32), "code"]]], [6, bytes(32), b"n", []],
        [6, bytes(32), b"n", [[bytes(32), 0, b"e", [bytes(31)]]]],
        [6, bytes(32), b"n", [[bytes(32), 0, b"e", [bytes(32)] * 65]]],
        [10, bytes(31)], [10], [11, [[bytes(32), bytes(15)]]], [11, [[bytes(32), bytes(16)]] * 2],
        [11, [[b"b" * 32, bytes(16)], [b"a" * 32, bytes(16)]]], [12, bytes(32), []],
        [12, bytes(31), [[1, bytes(16), 0, bytes(8), [], 0]]],
        [12, bytes(32), [[1, bytes(16), 0, bytes(8), [], 0]] * 2],
        [12, bytes(32), [[2, bytes(16), 0, bytes(8), [], 0], [1, bytes(16), 0, bytes(8), [], 0]]],
        [13, bytes(32), 0, bytes(16), [[1, 1]]], [13, bytes(32), 1, bytes(15), [[1, 1]]],
        [13, bytes(32), 1, bytes(16), []], [13, bytes(32), 1, bytes(16), [[0, 1]]],
        [13, bytes(32), 1, bytes(16), [[1, 2], [3, 4]]], [13, bytes(32), 1, bytes(16), [[2, 1]]],
        [13, bytes(32), 1, bytes(16), [[1, 4_097]]],
        [13, bytes(32), 1, bytes(16), [[3, 3], [1, 1]]],
        [13, bytes(32), 1, bytes(16), [[n * 2 + 1] * 2 for n in range(257)]],
        [14, []], [14, [bytes(31)]], [14, [bytes(32)] * 257], [15, b""], [15, bytes(3_073)],
        [16, bytes(32), b"n", []], [16, bytes(32), b"n", [[0, 1, 9, bytes(57), []]]],
        [16, bytes(32), b"n", [[0, 1, 8, bytes(57), []]]],
        [16, bytes(32), b"n", [[0, 1, 8, b"", []]]],
        [16, bytes(32), b"n", [[0, 1, 8, bytes(56 * 257), []]] * 2],
    ],
    ids=lambda value: repr(value)[:60],
)  # fmt: skip
def test_malformed_frames_are_refused(value: object) -> None:
    with pytest.raises(PeerError):
        decode_frame(encode(value))


def transcript(a: TestNode, b: TestNode) -> Transcript:
    return Transcript(b"hello a", b"hello b", certificate(a), certificate(b))


@pytest.mark.parametrize("frame", EVERY[1:], ids=lambda frame: type(frame).__name__)
def test_each_single_byte_change_of_a_frame_is_refused(
    frame: Frame, alder: TestNode, birch: TestNode
) -> None:
    message = Tagger(transcript(alder, birch), from_dialer=True).wrap(encode_frame(frame))
    for at in range(len(message)):
        changed = bytearray(message)
        changed[at] ^= 1 << (at % 8)
        with pytest.raises(FrameError):
            Tagger(transcript(alder, birch), from_dialer=True).unwrap(bytes(changed))
    assert decode_frame(Tagger(transcript(alder, birch), from_dialer=True).unwrap(message)) == frame


def test_frames_cannot_be_repeated_dropped_reflected_or_moved(
    alder: TestNode, birch: TestNode
) -> None:
    out = Tagger(transcript(alder, birch), from_dialer=True)
    first, second = out.wrap(b"one"), out.wrap(b"two")
    receiver = Tagger(transcript(alder, birch), from_dialer=True)
    with pytest.raises(FrameError):
        receiver.unwrap(second)
    assert receiver.unwrap(first) == b"one"
    with pytest.raises(FrameError):
        receiver.unwrap(first)
    for other in (
        Tagger(transcript(alder, birch), from_dialer=False),
        Tagger(transcript(birch, alder), from_dialer=True),
    ):
        with pytest.raises(FrameError):
            other.unwrap(first)
    for short in (b"", first[:15], first[:16]):
        with pytest.raises(FrameError):
            Tagger(transcript(alder, birch), from_dialer=True).unwrap(short)


# --- opening a link --------------------------------------------------------------------------
def test_both_ends_prove_themselves_and_open(alder: TestNode, birch: TestNode) -> None:
    left, right = session(alder, birch, dialer=True), session(birch, alder, dialer=False)
    (hello_left,), (hello_right,) = sent(left, left.start()), sent(right, right.start())
    (proof_left,) = sent(left, left.receive(hello_right, NOW))
    (proof_right,) = sent(right, right.receive(hello_left, NOW))
    assert left.receive(proof_right, NOW) == [Opened()]
    assert right.receive(proof_left, NOW) == [Opened()]


def test_each_single_byte_change_of_a_hello_keeps_the_link_closed(
    alder: TestNode, birch: TestNode
) -> None:
    dialling = session(alder, birch, dialer=True)
    hello = sent(dialling, dialling.start())[0]
    for at in range(0, len(hello)):
        left, right = session(alder, birch, dialer=True), session(birch, alder, dialer=False)
        left.start()
        changed = hello[:at] + bytes([hello[at] ^ 1 << (at % 8)]) + hello[at + 1 :]
        (hello_right,) = sent(right, right.start())
        answer = right.receive(changed, NOW)
        proofs = sent(left, left.receive(hello_right, NOW))
        if right.phase is Phase.PROOF:
            assert closed_with(right.receive(proofs[0], NOW)) == "bad-frame"
            assert closed_with(left.receive(sent(right, answer)[0], NOW)) == "bad-frame"
        assert right.phase is Phase.CLOSED and Phase.OPEN is not left.phase


def test_a_reflected_hello_is_refused(alder: TestNode, birch: TestNode) -> None:
    left = session(alder, birch, dialer=True)
    (hello,) = sent(left, left.start())
    assert closed_with(left.receive(hello, NOW)) == "untrusted-key"


def test_a_proof_cannot_be_sent_back(alder: TestNode, birch: TestNode) -> None:
    left, right = session(alder, birch, dialer=True), session(birch, alder, dialer=False)
    left.start()
    (proof,) = sent(left, left.receive(sent(right, right.start())[0], NOW))
    assert closed_with(left.receive(proof, NOW)) == "bad-frame"


def test_an_impostor_with_the_certificate_but_not_the_link_key_is_refused(
    alder: TestNode, birch: TestNode, cedar: TestNode
) -> None:
    left = session(alder, birch, dialer=True)
    head = birch.chain.head
    impostor = Session(
        local=Local(NETWORK, birch.id, head.n, head.digest, certificate(birch), cedar.link),
        remote=Remote(alder.id, certificate(alder), alder.card.link, 1, alder.chain.head.digest),
        dialer=False, nonce=seed("x", "nonce"), now=NOW,
    )  # fmt: skip
    (hello_left,), (hello_right,) = sent(left, left.start()), sent(impostor, impostor.start())
    left.receive(hello_right, NOW)
    (proof,) = sent(impostor, impostor.receive(hello_left, NOW))
    assert closed_with(left.receive(proof, NOW)) == "bad-signature"


def test_an_interceptor_with_another_certificate_is_refused(
    alder: TestNode, birch: TestNode, cedar: TestNode
) -> None:
    """Both sides sign what they saw of TLS, so two different TLS sessions do not join."""
    left = session(alder, birch, dialer=True)
    head = birch.chain.head
    right = Session(
        local=Local(NETWORK, birch.id, head.n, head.digest, certificate(birch), birch.link),
        remote=Remote(alder.id, certificate(cedar), alder.card.link, 1, alder.chain.head.digest),
        dialer=False, nonce=seed("x", "nonce"), now=NOW,
    )  # fmt: skip
    (hello_left,), (hello_right,) = sent(left, left.start()), sent(right, right.start())
    left.receive(hello_right, NOW)
    (proof,) = sent(right, right.receive(hello_left, NOW))
    assert closed_with(left.receive(proof, NOW)) == "bad-frame"


def test_another_network_version_or_node_is_refused(
    alder: TestNode, birch: TestNode, cedar: TestNode
) -> None:
    good = FRAMES[0]
    assert isinstance(good, Hello)
    for hello, code in (
        (Hello((2,), NETWORK, birch.id, bytes(32), 1, bytes(32)), "unsupported-version"),
        (Hello((1,), bytes(32), birch.id, bytes(32), 1, bytes(32)), "wrong-network"),
        (Hello((1,), NETWORK, cedar.id, bytes(32), 1, bytes(32)), "untrusted-key"),
    ):
        left = session(alder, birch, dialer=True)
        left.start()
        assert closed_with(left.receive(encode_frame(hello), NOW)) == code


def test_anything_but_a_hello_first_is_refused(alder: TestNode, birch: TestNode) -> None:
    for frame in EVERY[1:]:
        left = session(alder, birch, dialer=True)
        left.start()
        effects = left.receive(encode_frame(frame), NOW)
        assert closed_with(effects) == "bad-frame" and sent(left, effects) == []


def test_a_silent_peer_is_dropped_at_the_deadline(alder: TestNode, birch: TestNode) -> None:
    left = session(alder, birch, dialer=True)
    left.start()
    assert left.tick(NOW + limits.HELLO_TIMEOUT_MS - 1) == []
    assert closed_with(left.tick(NOW + limits.HELLO_TIMEOUT_MS)) == "link-timeout"
    assert left.receive(b"anything", NOW) == []


def test_newer_statements_of_the_peer_are_asked_for(alder: TestNode, birch: TestNode) -> None:
    left, right = session(alder, birch, dialer=True, known=0), session(birch, alder, dialer=False)
    (hello_left,), (hello_right,) = sent(left, left.start()), sent(right, right.start())
    left.receive(hello_right, NOW)
    (proof,) = sent(right, right.receive(hello_left, NOW))
    effects = left.receive(proof, NOW)
    assert effects[0] == Opened() and lanes(effects) == [Lane.CONTROL]


# --- an open link ----------------------------------------------------------------------------
def test_deliver_is_committed_before_it_is_receipted(alder: TestNode, birch: TestNode) -> None:
    left, right = opened(alder, birch)
    sealed = make_envelope(alder, [birch])
    (message,) = sent(left, left.deliver([(sealed.id, sealed.wire)], NOW, Lane.LIVE))
    assert right.receive(message, NOW) == [Commit((sealed.wire,))]
    receipts = Receipts(birch.id, b"note", (ReceiptItem(sealed.id, 7, b"entry", ()),))
    (answer,) = sent(right, right.committed([receipts], [], faults=0))
    assert left.receive(answer, NOW) == [StoreReceipts(receipts)]
    assert left.stored(receipts) == [] and left.in_flight == frozenset()


def test_a_carriers_receipts_are_passed_on_once_a_link_until_settled(
    alder: TestNode, birch: TestNode
) -> None:
    carrier, author = opened(birch, alder)
    (message,) = sent(carrier, carrier.relay_receipts(RECEIPTS))
    assert carrier.relay_receipts(RECEIPTS) == []
    assert author.receive(message, NOW) == [StoreReceipts(RECEIPTS)]
    (answer,) = sent(author, author.stored(RECEIPTS))
    pair = (RECEIPTS.items[0].envelope_id, RECEIPTS.recipient)
    assert carrier.receive(answer, NOW) == [NoteSettled((pair,))]
    assert carrier.passed == {pair}


def test_nobody_settles_what_was_not_passed_on_to_them(alder: TestNode, birch: TestNode) -> None:
    carrier, author = opened(birch, alder)
    (message,) = sent(author, author.stored(RECEIPTS))
    assert carrier.receive(message, NOW) == [NoteSettled(())]


def test_another_statement_of_the_known_number_is_fetched_as_evidence(
    alder: TestNode, birch: TestNode
) -> None:
    left = session(alder, birch, dialer=True, head=seed("another", "head"))
    right = session(birch, alder, dialer=False)
    (hello_left,), (hello_right,) = sent(left, left.start()), sent(right, right.start())
    left.receive(hello_right, NOW)
    (proof,) = sent(right, right.receive(hello_left, NOW))
    effects = left.receive(proof, NOW)
    assert effects[0] == Opened() and lanes(effects) == [Lane.CONTROL]


def test_each_kind_of_frame_has_its_effect(alder: TestNode, birch: TestNode) -> None:
    expected: list[tuple[Frame, Effect]] = [
        (FRAMES[2], LoadStatements(seed("a", "id"), 2)),
        (FRAMES[3], StoreStatements(seed("a", "id"), (b"statement one", b"two"))),
        (FRAMES[6], NoteRefusals((Refusal(seed("e", "1"), "unknown-card", 1_000),))),
        (FRAMES[7], Close(None, "shutdown")),
    ]
    for frame, effect in expected:
        left, right = opened(alder, birch)
        assert right.receive(left.message(left._send(frame)), NOW) == [effect]


def test_a_second_hello_or_proof_ends_the_link(alder: TestNode, birch: TestNode) -> None:
    for frame in FRAMES[:2]:
        left, right = opened(alder, birch)
        effects = right.receive(left.message(left._send(frame)), NOW)
        assert closed_with(effects) == "bad-frame"
        assert left.receive(sent(right, effects)[0], NOW) == [Close(None, "bad-frame")]


def test_garbage_ends_the_link_and_nothing_else(alder: TestNode, birch: TestNode) -> None:
    for message in (b"", b"\0" * 20, b"x" * (limits.MAX_FRAME + 1)):
        _, right = opened(alder, birch)
        assert closed_with(right.receive(message, NOW)) in {"bad-frame", "over-limit"}
        assert right.phase is Phase.CLOSED and right.room(Lane.LIVE) == (0, 0)


def numbered(first: int, count: int, wire: bytes = b"wire") -> list[tuple[bytes, bytes]]:
    return [(n.to_bytes(8, "big") + bytes(24), wire) for n in range(first, first + count)]


def test_the_window_bounds_what_is_in_flight(alder: TestNode, birch: TestNode) -> None:
    left, _ = opened(alder, birch)
    many = numbered(0, limits.LINK_WINDOW + 5)
    assert left.room(Lane.LIVE) == (limits.LINK_WINDOW, limits.LINK_WINDOW_BYTES)
    left.deliver(many, NOW, Lane.LIVE)
    assert left.in_flight == {envelope_id for envelope_id, _ in many[:-5]}
    assert left.room(Lane.LIVE) == (0, 0)
    assert left.deliver(many[-5:], NOW, Lane.LIVE) == []
    left.answered([many[0][0], seed("never", "sent")])
    assert left.room(Lane.LIVE)[0] == 1
    left.tick(NOW + limits.RECEIPT_TIMEOUT_MS)
    assert left.room(Lane.LIVE) == (limits.LINK_WINDOW, limits.LINK_WINDOW_BYTES)


def test_the_window_bounds_bytes_and_one_envelope_may_go_beyond(
    alder: TestNode, birch: TestNode
) -> None:
    left, _ = opened(alder, birch)
    large = numbered(0, 20, bytes(limits.MAX_ENVELOPE - 1))
    left.deliver(large, NOW, Lane.LIVE)
    fitting = -(-limits.LINK_WINDOW_BYTES // (limits.MAX_ENVELOPE - 1))
    assert left.in_flight == {envelope_id for envelope_id, _ in large[:fitting]}
    assert left.room(Lane.LIVE) == (0, 0)
    left.answered([large[0][0]])
    envelopes, size = left.room(Lane.LIVE)
    assert envelopes == limits.LINK_WINDOW - fitting + 1
    assert size == limits.LINK_WINDOW_BYTES - (fitting - 1) * (limits.MAX_ENVELOPE - 1)


def test_catching_up_takes_half_of_the_credit_and_live_never_waits_for_it(
    alder: TestNode, birch: TestNode
) -> None:
    half = limits.LINK_WINDOW // 2
    left, _ = opened(alder, birch)
    left.deliver(numbered(0, limits.LINK_WINDOW), NOW, Lane.CATCH_UP)
    assert len(left.in_flight) == half
    assert left.room(Lane.CATCH_UP) == (0, 0) and left.room(Lane.LIVE)[0] == half
    assert lanes(left.deliver(numbered(10_000, 1), NOW, Lane.LIVE)) == [Lane.LIVE]

    left, _ = opened(alder, birch)
    left.deliver(numbered(0, 40, bytes(limits.LINK_WINDOW_BYTES // 16)), NOW, Lane.CATCH_UP)
    assert len(left.in_flight) == 8
    assert left.room(Lane.CATCH_UP) == (0, 0)
    assert left.room(Lane.LIVE)[1] == limits.LINK_WINDOW_BYTES // 2


def test_each_answer_returns_what_its_envelope_took(alder: TestNode, birch: TestNode) -> None:
    """By receipt, by refusal and by time; and a second answer returns nothing more."""
    full = (limits.LINK_WINDOW, limits.LINK_WINDOW_BYTES)
    left, right = opened(alder, birch)
    ids = [seed("e", str(n)) for n in range(3)]
    left.deliver([(each, bytes(1_000)) for each in ids], NOW, Lane.LIVE)
    assert left.room(Lane.LIVE) == (full[0] - 3, full[1] - 3_000)
    left.stored(Receipts(birch.id, b"note", (ReceiptItem(ids[0], 7, b"entry", ()),)))
    assert left.room(Lane.LIVE) == (full[0] - 2, full[1] - 2_000)
    refused = right.committed([], [Refusal(ids[1], "busy", 5)], faults=0)
    left.receive(sent(right, refused)[0], NOW)
    assert left.room(Lane.LIVE) == (full[0] - 1, full[1] - 1_000)
    assert left.tick(NOW + limits.RECEIPT_TIMEOUT_MS - 1) == []
    assert left.tick(NOW + limits.RECEIPT_TIMEOUT_MS) == [NoteLate((ids[2],))]
    assert left.room(Lane.LIVE) == full
    left.answered(ids)
    assert left.room(Lane.LIVE) == full and left.tick(NOW + limits.MAX_LIFETIME_MS) == []


def test_what_is_in_flight_is_not_sent_twice_and_after_a_late_answer_it_may(
    alder: TestNode, birch: TestNode
) -> None:
    left, _ = opened(alder, birch)
    one = numbered(1, 1)
    assert lanes(left.deliver(one, NOW, Lane.LIVE)) == [Lane.LIVE]
    assert left.deliver(one, NOW, Lane.CATCH_UP) == []
    left.tick(NOW + limits.RECEIPT_TIMEOUT_MS)
    assert lanes(left.deliver(one, NOW, Lane.CATCH_UP)) == [Lane.CATCH_UP]


def test_nothing_is_offered_or_said_on_a_link_that_is_not_open(
    alder: TestNode, birch: TestNode
) -> None:
    young = session(alder, birch, dialer=True)
    young.start()
    left, _ = opened(alder, birch)
    left.close("shutdown")
    for side in (young, left):
        assert side.room(Lane.LIVE) == side.room(Lane.CATCH_UP) == (0, 0)
        assert side.deliver(numbered(0, 1), NOW, Lane.LIVE) == []
        assert all(side.say(frame) == [] for frame in GOSSIP)


# --- lanes -----------------------------------------------------------------------------------
def test_each_kind_of_message_has_its_lane(alder: TestNode, birch: TestNode) -> None:
    left, _ = opened(alder, birch)
    assert list(Lane) == sorted(Lane) and Lane.CONTROL < Lane.RECEIPTS < Lane.LIVE < Lane.CATCH_UP
    assert max(Lane) is Lane.LAST
    for frame in GOSSIP:
        assert lanes(left.say(frame)) == [Lane.CONTROL]
    assert lanes(left.deliver(numbered(0, 1), NOW, Lane.LIVE)) == [Lane.LIVE]
    assert lanes(left.deliver(numbered(1, 1), NOW, Lane.CATCH_UP)) == [Lane.CATCH_UP]
    refusal = Refusal(seed("e", "1"), "busy", 5)
    assert lanes(left.committed([RECEIPTS], [refusal], faults=0)) == [Lane.RECEIPTS] * 2
    assert lanes(left.relay_receipts(RECEIPTS)) == [Lane.RECEIPTS]
    assert lanes(left.stored(RECEIPTS)) == [Lane.CONTROL]
    assert lanes(left.statements_loaded(alder.id, [b"statement"])) == [Lane.CONTROL]
    assert lanes(left.close("shutdown")) == [Lane.LAST]


def test_messages_are_tagged_in_the_order_in_which_they_are_written(
    alder: TestNode, birch: TestNode
) -> None:
    """What is said later may be written first: lanes overtake each other."""
    left, right = opened(alder, birch)
    slow = left.deliver(numbered(0, 1), NOW, Lane.CATCH_UP)
    quick = left.say(GOSSIP[0])
    messages = sent(left, quick) + sent(left, slow)
    assert right.receive(messages[0], NOW) == [Heard(GOSSIP[0])]
    assert right.receive(messages[1], NOW) == [Commit((b"wire",))]

    left, right = opened(alder, birch)
    written = [sent(left, each)[0] for each in (left.say(GOSSIP[0]), left.say(GOSSIP[1]))]
    assert closed_with(right.receive(written[1], NOW)) == "bad-frame"


def test_only_the_hello_goes_without_a_tag(alder: TestNode, birch: TestNode) -> None:
    left, right = session(alder, birch, dialer=True), session(birch, alder, dialer=False)
    (hello,) = left.start()
    assert isinstance(hello, Send) and hello.bare and hello.lane is Lane.CONTROL
    assert left.message(hello) == hello.payload
    (proof,) = left.receive(sent(right, right.start())[0], NOW)
    assert isinstance(proof, Send) and not proof.bare
    assert left.message(proof)[16:] == proof.payload


# --- streams ---------------------------------------------------------------------------------
@pytest.mark.parametrize("frame", GOSSIP, ids=lambda frame: type(frame).__name__)
def test_what_is_said_about_streams_is_heard(
    frame: Gossip, alder: TestNode, birch: TestNode
) -> None:
    left, right = opened(alder, birch)
    (message,) = sent(left, left.say(frame))
    assert right.receive(message, NOW) == [Heard(frame)] and right.phase is Phase.OPEN


def test_a_fork_of_real_headers_fits_a_frame(alder: TestNode, birch: TestNode) -> None:
    one, other = (
        SignedHeader.of(make_envelope(alder, [birch], created=at)) for at in (NOW, NOW + 1)
    )
    fork = fork_of(one, other)
    assert fork is not None and len(fork.encode()) < limits.MAX_FORK // 2
    assert decode_frame(encode_frame(Forked(fork.encode()))) == Forked(fork.encode())


def test_in_step_costs_less_than_100_bytes_each_way(alder: TestNode, birch: TestNode) -> None:
    left, _ = opened(alder, birch)
    assert len(sent(left, left.say(Summary(bytes(32))))[0]) < 100


# --- receipts in bulk ------------------------------------------------------------------------
def bulk(recipient: bytes, *ids: bytes) -> Runs:
    secrets = tuple(bytes(48) for _ in ids)
    return Runs(recipient, b"note", (Run(5, 1, ids, secrets, (bytes(32),)),))


def test_receipts_in_bulk_name_what_was_sent_here_by_eight_bytes(
    alder: TestNode, birch: TestNode
) -> None:
    left, right = opened(alder, birch)
    ids = [seed("e", str(n)) for n in range(3)]
    left.deliver([(each, b"wire") for each in ids[:2]], NOW, Lane.LIVE)
    left.say(WantReceipts((ids[2],)))
    answer = right.committed([bulk(birch.id, *(each[:SHORT_ID] for each in ids))], [], faults=0)
    whole = bulk(birch.id, *ids)
    assert left.receive(sent(right, answer)[0], NOW) == [StoreReceipts(whole)]
    assert left.stored(whole) == [] and left.in_flight == frozenset()


def test_two_envelopes_that_begin_alike_are_not_on_the_way_together(
    alder: TestNode, birch: TestNode
) -> None:
    """Their author may have ground them, to set two honest members against each other."""
    left, _ = opened(alder, birch)
    one, other = bytes(32), bytes(31) + b"\1"
    assert len(lanes(left.deliver([(one, b"wire"), (other, b"twin")], NOW, Lane.LIVE))) == 1
    assert left.in_flight == {one}
    assert left.deliver([(other, b"twin")], NOW, Lane.LIVE) == []
    left.answered([one])
    assert len(lanes(left.deliver([(other, b"twin")], NOW, Lane.LIVE))) == 1


def test_receipts_are_never_asked_for_under_two_names_that_begin_alike(
    alder: TestNode, birch: TestNode
) -> None:
    left, _ = opened(alder, birch)
    one, other, third = bytes(32), bytes(31) + b"\1", bytes([1]) * 32
    left.deliver([(one, b"wire")], NOW, Lane.LIVE)
    assert left.say(WantReceipts((other,))) == []
    left.answered([one])
    (asked,) = left.say(WantReceipts((other, one, third)))
    assert isinstance(asked, Send)
    assert decode_frame(asked.payload) == WantReceipts((other, third))
    assert left.deliver([(one, b"wire")], NOW, Lane.LIVE) == []
    left.answered([other])
    assert len(lanes(left.deliver([(one, b"wire")], NOW, Lane.LIVE))) == 1


def test_the_ids_that_receipts_may_name_are_those_sent_last(
    alder: TestNode, birch: TestNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "MAX_LINK_IDS", 2)
    left, right = opened(alder, birch)
    ids = [seed("e", str(n)) for n in range(3)]
    for n in (0, 1, 0, 2):
        left.deliver([(ids[n], b"wire")], NOW, Lane.LIVE)
        left.answered([ids[n]])
    answer = right.committed([bulk(birch.id, ids[0][:SHORT_ID], ids[2][:SHORT_ID])], [], faults=0)
    assert left.receive(sent(right, answer)[0], NOW) == [
        StoreReceipts(bulk(birch.id, ids[0], ids[2]))
    ]


def test_receipts_in_bulk_of_anything_else_end_the_link(
    alder: TestNode, birch: TestNode, cedar: TestNode
) -> None:
    known, strange = seed("e", "1"), seed("e", "2")
    for runs in (bulk(birch.id, known[:8], strange[:8]), bulk(cedar.id, known[:8])):
        left, right = opened(alder, birch)
        left.deliver([(known, b"wire")], NOW, Lane.LIVE)
        (message,) = sent(right, right.committed([runs], [], faults=0))
        assert closed_with(left.receive(message, NOW)) == "bad-receipt"


def test_envelopes_are_packed_into_frames(alder: TestNode, birch: TestNode) -> None:
    left, right = opened(alder, birch)
    wires = [(n.to_bytes(8, "big") + bytes(24), bytes([n]) * 30_000) for n in range(5)]
    messages = sent(left, left.deliver(wires, NOW, Lane.CATCH_UP))
    taken = [right.receive(message, NOW)[0] for message in messages]
    assert [len(e.wires) for e in taken if isinstance(e, Commit)] == [2, 2, 1]


def test_a_refusal_frees_the_window(alder: TestNode, birch: TestNode) -> None:
    left, right = opened(alder, birch)
    left.deliver([(seed("e", "1"), b"wire")], NOW, Lane.LIVE)
    (message,) = sent(right, right.committed([], [Refusal(seed("e", "1"), "busy", 5)], faults=0))
    left.receive(message, NOW)
    assert left.in_flight == frozenset()


def test_a_link_ends_after_too_many_faults(alder: TestNode, birch: TestNode) -> None:
    _, right = opened(alder, birch)
    refusal = Refusal(seed("e", "1"), "bad-signature", 0)
    for _ in range(limits.MAX_REFUSALS_PER_LINK - 1):
        right.committed([], [refusal], faults=1)
    assert right.phase is Phase.OPEN
    assert closed_with(right.committed([], [refusal], faults=1)) == "over-limit"


def test_goodbye_closes_once(alder: TestNode, birch: TestNode) -> None:
    left, right = opened(alder, birch)
    effects = left.close("shutdown")
    assert effects[-1] == Close(None, "shutdown") and left.close("shutdown") == []
    assert right.receive(sent(left, effects)[0], NOW) == [Close(None, "shutdown")]
    assert right.committed([], [Refusal(bytes(32), "busy", 0)], faults=0) == []


def test_statements_are_asked_for_until_the_number_of_the_hello(
    alder: TestNode, birch: TestNode
) -> None:
    left, right = session(alder, birch, dialer=True, known=0), session(birch, alder, dialer=False)
    (hello_left,), (hello_right,) = sent(left, left.start()), sent(right, right.start())
    left.receive(hello_right, NOW)
    (proof,) = sent(right, right.receive(hello_left, NOW))
    left.receive(proof, NOW)
    assert lanes(left.statements_stored(0)) == [Lane.CONTROL]
    assert left.statements_stored(1) == []
