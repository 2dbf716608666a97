"""Frames, their tags, and the link session as playbooks: event in, exact effects out."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from protocol import limits, suite
from protocol.canonical import encode
from protocol.errors import FrameError, PeerError
from protocol.frames import (
    Bye,
    Deliver,
    Frame,
    Hello,
    Proof,
    ReceiptItem,
    Receipts,
    Refusal,
    Refuse,
    Settled,
    Statements,
    Tagger,
    Transcript,
    WantStatements,
    decode_frame,
    encode_frame,
)
from protocol.session import (
    Close,
    Commit,
    Effect,
    LoadStatements,
    Local,
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


def sent(effects: Sequence[Effect]) -> list[bytes]:
    return [effect.message for effect in effects if isinstance(effect, Send)]


def opened(a: TestNode, b: TestNode) -> tuple[Session, Session]:
    """Return both ends of an open link."""
    left, right = session(a, b, dialer=True), session(b, a, dialer=False)
    to_right, to_left = sent(left.start()), sent(right.start())
    while to_left or to_right:
        replies = [right.receive(m, NOW) for m in to_right], [left.receive(m, NOW) for m in to_left]
        to_left = [m for effects in replies[0] for m in sent(effects)]
        to_right = [m for effects in replies[1] for m in sent(effects)]
    assert (left.phase, right.phase) == (Phase.OPEN, Phase.OPEN)
    return left, right


def closed_with(effects: Sequence[Effect]) -> str:
    last = effects[-1]
    assert isinstance(last, Close)
    return last.code


# --- frames ----------------------------------------------------------------------------------
@pytest.mark.parametrize("frame", FRAMES, ids=lambda frame: type(frame).__name__)
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
    ],
    ids=repr,
)  # fmt: skip
def test_malformed_frames_are_refused(value: object) -> None:
    with pytest.raises(PeerError):
        decode_frame(encode(value))


def transcript(a: TestNode, b: TestNode) -> Transcript:
    return Transcript(b"hello a", b"hello b", certificate(a), certificate(b))


@pytest.mark.parametrize("frame", FRAMES[1:], ids=lambda frame: type(frame).__name__)
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
    (hello_left,), (hello_right,) = sent(left.start()), sent(right.start())
    (proof_left,) = sent(left.receive(hello_right, NOW))
    (proof_right,) = sent(right.receive(hello_left, NOW))
    assert left.receive(proof_right, NOW) == [Opened()]
    assert right.receive(proof_left, NOW) == [Opened()]


def test_each_single_byte_change_of_a_hello_keeps_the_link_closed(
    alder: TestNode, birch: TestNode
) -> None:
    hello = sent(session(alder, birch, dialer=True).start())[0]
    for at in range(0, len(hello)):
        left, right = session(alder, birch, dialer=True), session(birch, alder, dialer=False)
        left.start()
        changed = hello[:at] + bytes([hello[at] ^ 1 << (at % 8)]) + hello[at + 1 :]
        (hello_right,) = sent(right.start())
        answer = right.receive(changed, NOW)
        proofs = sent(left.receive(hello_right, NOW))
        if right.phase is Phase.PROOF:
            assert closed_with(right.receive(proofs[0], NOW)) == "bad-frame"
            assert closed_with(left.receive(sent(answer)[0], NOW)) == "bad-frame"
        assert right.phase is Phase.CLOSED and Phase.OPEN is not left.phase


def test_a_reflected_hello_is_refused(alder: TestNode, birch: TestNode) -> None:
    left = session(alder, birch, dialer=True)
    (hello,) = sent(left.start())
    assert closed_with(left.receive(hello, NOW)) == "untrusted-key"


def test_a_proof_cannot_be_sent_back(alder: TestNode, birch: TestNode) -> None:
    left, right = session(alder, birch, dialer=True), session(birch, alder, dialer=False)
    left.start()
    (proof,) = sent(left.receive(sent(right.start())[0], NOW))
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
    (hello_left,), (hello_right,) = sent(left.start()), sent(impostor.start())
    left.receive(hello_right, NOW)
    (proof,) = sent(impostor.receive(hello_left, NOW))
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
    (hello_left,), (hello_right,) = sent(left.start()), sent(right.start())
    left.receive(hello_right, NOW)
    (proof,) = sent(right.receive(hello_left, NOW))
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
    for frame in FRAMES[1:]:
        left = session(alder, birch, dialer=True)
        left.start()
        effects = left.receive(encode_frame(frame), NOW)
        assert closed_with(effects) == "bad-frame" and sent(effects) == []


def test_a_silent_peer_is_dropped_at_the_deadline(alder: TestNode, birch: TestNode) -> None:
    left = session(alder, birch, dialer=True)
    left.start()
    assert left.tick(NOW + limits.HELLO_TIMEOUT_MS - 1) == []
    assert closed_with(left.tick(NOW + limits.HELLO_TIMEOUT_MS)) == "link-timeout"
    assert left.receive(b"anything", NOW) == []


def test_newer_statements_of_the_peer_are_asked_for(alder: TestNode, birch: TestNode) -> None:
    left, right = session(alder, birch, dialer=True, known=0), session(birch, alder, dialer=False)
    (hello_left,), (hello_right,) = sent(left.start()), sent(right.start())
    left.receive(hello_right, NOW)
    (proof,) = sent(right.receive(hello_left, NOW))
    effects = left.receive(proof, NOW)
    assert effects[0] == Opened() and len(sent(effects)) == 1


# --- an open link ----------------------------------------------------------------------------
def test_deliver_is_committed_before_it_is_receipted(alder: TestNode, birch: TestNode) -> None:
    left, right = opened(alder, birch)
    sealed = make_envelope(alder, [birch])
    (message,) = sent(left.deliver([(sealed.id, sealed.wire)], NOW))
    assert right.receive(message, NOW) == [Commit((sealed.wire,))]
    receipts = Receipts(birch.id, b"note", (ReceiptItem(sealed.id, 7, b"entry", ()),))
    (answer,) = sent(right.committed([receipts], [], faults=0))
    assert left.receive(answer, NOW) == [StoreReceipts(receipts)]
    assert left.stored(receipts) == [] and left.in_flight == frozenset()


def test_a_carriers_receipts_are_passed_on_once_a_link_until_settled(
    alder: TestNode, birch: TestNode
) -> None:
    carrier, author = opened(birch, alder)
    (message,) = sent(carrier.relay_receipts(RECEIPTS))
    assert carrier.relay_receipts(RECEIPTS) == []
    assert author.receive(message, NOW) == [StoreReceipts(RECEIPTS)]
    (answer,) = sent(author.stored(RECEIPTS))
    pair = (RECEIPTS.items[0].envelope_id, RECEIPTS.recipient)
    assert carrier.receive(answer, NOW) == [NoteSettled((pair,))]
    assert carrier.passed == {pair}


def test_nobody_settles_what_was_not_passed_on_to_them(alder: TestNode, birch: TestNode) -> None:
    carrier, author = opened(birch, alder)
    (message,) = sent(author.stored(RECEIPTS))
    assert carrier.receive(message, NOW) == [NoteSettled(())]


def test_another_statement_of_the_known_number_is_fetched_as_evidence(
    alder: TestNode, birch: TestNode
) -> None:
    left = session(alder, birch, dialer=True, head=seed("another", "head"))
    right = session(birch, alder, dialer=False)
    (hello_left,), (hello_right,) = sent(left.start()), sent(right.start())
    left.receive(hello_right, NOW)
    (proof,) = sent(right.receive(hello_left, NOW))
    effects = left.receive(proof, NOW)
    assert effects[0] == Opened() and len(sent(effects)) == 1


def test_each_kind_of_frame_has_its_effect(alder: TestNode, birch: TestNode) -> None:
    expected: list[tuple[Frame, Effect]] = [
        (FRAMES[2], LoadStatements(seed("a", "id"), 2)),
        (FRAMES[3], StoreStatements(seed("a", "id"), (b"statement one", b"two"))),
        (FRAMES[6], NoteRefusals((Refusal(seed("e", "1"), "unknown-card", 1_000),))),
        (FRAMES[7], Close(None, "shutdown")),
    ]
    for frame, effect in expected:
        left, right = opened(alder, birch)
        assert right.receive(left._send(frame).message, NOW) == [effect]


def test_a_second_hello_or_proof_ends_the_link(alder: TestNode, birch: TestNode) -> None:
    for frame in FRAMES[:2]:
        left, right = opened(alder, birch)
        effects = right.receive(left._send(frame).message, NOW)
        assert closed_with(effects) == "bad-frame"
        assert left.receive(sent(effects)[0], NOW) == [Close(None, "bad-frame")]


def test_garbage_ends_the_link_and_nothing_else(alder: TestNode, birch: TestNode) -> None:
    for message in (b"", b"\0" * 20, b"x" * (limits.MAX_FRAME + 1)):
        _, right = opened(alder, birch)
        assert closed_with(right.receive(message, NOW)) in {"bad-frame", "over-limit"}
        assert right.phase is Phase.CLOSED and right.room == 0


def test_the_window_bounds_what_is_in_flight(alder: TestNode, birch: TestNode) -> None:
    left, _ = opened(alder, birch)
    many = [(n.to_bytes(32, "big"), b"wire") for n in range(limits.LINK_WINDOW + 5)]
    left.deliver(many, NOW)
    assert len(left.in_flight) == limits.LINK_WINDOW and left.room == 0
    assert left.deliver(many[-5:], NOW) == []
    left.answered([many[0][0]])
    assert left.room == 1
    left.tick(NOW + limits.RECEIPT_TIMEOUT_MS)
    assert left.room == limits.LINK_WINDOW


def test_envelopes_are_packed_into_frames(alder: TestNode, birch: TestNode) -> None:
    left, right = opened(alder, birch)
    wires = [(n.to_bytes(32, "big"), bytes([n]) * 30_000) for n in range(5)]
    messages = sent(left.deliver(wires, NOW))
    taken = [right.receive(message, NOW)[0] for message in messages]
    assert [len(e.wires) for e in taken if isinstance(e, Commit)] == [2, 2, 1]


def test_a_refusal_frees_the_window(alder: TestNode, birch: TestNode) -> None:
    left, right = opened(alder, birch)
    left.deliver([(seed("e", "1"), b"wire")], NOW)
    (message,) = sent(right.committed([], [Refusal(seed("e", "1"), "busy", 5)], faults=0))
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
    assert right.receive(sent(effects)[0], NOW) == [Close(None, "shutdown")]
    assert right.committed([], [Refusal(bytes(32), "busy", 0)], faults=0) == []


def test_statements_are_asked_for_until_the_number_of_the_hello(
    alder: TestNode, birch: TestNode
) -> None:
    left, right = session(alder, birch, dialer=True, known=0), session(birch, alder, dialer=False)
    (hello_left,), (hello_right,) = sent(left.start()), sent(right.start())
    left.receive(hello_right, NOW)
    (proof,) = sent(right.receive(hello_left, NOW))
    left.receive(proof, NOW)
    assert len(sent(left.statements_stored(0))) == 1
    assert left.statements_stored(1) == []
