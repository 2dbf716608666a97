"""The witness: every answer of the specification, strict requests, and what gets recorded."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.mldsa import MLDSA44PrivateKey
from hypothesis import given, settings
from hypothesis import strategies as st

from protocol import limits, merkle, witness
from protocol.checkpoint import (
    Checkpoint,
    cosign_mldsa44,
    format_body,
    sign_checkpoint,
    verify_ed25519,
    verify_mldsa44,
)
from protocol.errors import DecodeError, LimitError, PeerError
from protocol.note import (
    ED25519,
    Note,
    NoteSignature,
    format_note,
    key_id,
    parse_note,
)
from protocol.statement import NamedKeys
from protocol.witness import (
    Accept,
    AddCheckpoint,
    Answer,
    Seen,
    cosign,
    decide,
    format_add_checkpoint,
    format_signatures,
    origin_hash,
    parse_add_checkpoint,
    parse_signatures,
    parse_size,
)

VECTOR: dict[str, Any] = json.loads(
    (Path(__file__).parent.parent / "vectors" / "log.json").read_text(encoding="utf-8")
)
ORIGIN: str = VECTOR["origin"]
FOREIGN = "log.example/foreign"
WITNESS = "picket.example/node-b/witness"
TIME = 1_700_000_005
LOG = Ed25519PrivateKey.from_private_bytes(bytes([1]) * 32)
LOG44 = MLDSA44PrivateKey.from_seed_bytes(bytes([4]) * 32)
OTHER = Ed25519PrivateKey.from_private_bytes(bytes([2]) * 32)
OTHER44 = MLDSA44PrivateKey.from_seed_bytes(bytes([9]) * 32)
LIMIT_OLD = 10**16


def keys_of(name: str, ed25519: Ed25519PrivateKey, mldsa44: MLDSA44PrivateKey | None) -> NamedKeys:
    second = mldsa44.public_key().public_bytes_raw() if mldsa44 else b""
    return NamedKeys(name, ed25519.public_key().public_bytes_raw(), second)


KEYS = keys_of(ORIGIN, LOG, LOG44)
FOREIGN_KEYS = keys_of(FOREIGN, LOG, None)


class Tree:
    """A log of numbered entries that can be asked for each of its sizes."""

    def __init__(self, size: int, name: bytes = b"entry") -> None:
        leaves = [merkle.leaf_hash(b"%b %d" % (name, number)) for number in range(size)]
        grown = merkle.append(size=0, new_leaves=leaves, reader=self)
        self.tiles = {(level, index): data for level, index, data in grown.tiles}

    def read_tiles(self, keys: Sequence[tuple[int, int]]) -> Mapping[tuple[int, int], bytes]:
        return {key: self.tiles[key] for key in keys}

    def checkpoint(self, size: int, origin: str = ORIGIN) -> Checkpoint:
        return Checkpoint(origin, size, merkle.root(size, self))

    def seen(self, size: int) -> Seen:
        return Seen(size, merkle.root(size, self))

    def request(self, old: int, size: int) -> AddCheckpoint:
        note = signed(self.checkpoint(size))
        return AddCheckpoint(old, merkle.prove_consistency(old, size, self), note)


TREE = Tree(20)
REWRITTEN = Tree(20, b"forged")


def signed(checkpoint: Checkpoint) -> bytes:
    return sign_checkpoint(checkpoint, ed25519=LOG, mldsa44=LOG44, now_s=TIME)


def signed_by_one(checkpoint: Checkpoint, key: Ed25519PrivateKey = LOG) -> bytes:
    text = format_body(checkpoint)
    shown = key_id(checkpoint.origin, ED25519, LOG.public_key().public_bytes_raw())
    line = NoteSignature(checkpoint.origin, shown, key.sign(text.encode()))
    return format_note(Note(text, (line,)))


def ask(
    request: AddCheckpoint | bytes,
    recorded: Seen | None = None,
    keys: Sequence[NamedKeys] = (KEYS,),
) -> Accept | Answer:
    body = request if isinstance(request, bytes) else format_add_checkpoint(request)

    def seen(origin: str) -> Seen | None:
        assert origin in {each.name for each in keys}
        return recorded

    return decide(
        body, logs=lambda origin: [each for each in keys if each.name == origin], seen=seen
    )


def refused(
    status: int,
    request: AddCheckpoint | bytes,
    recorded: Seen | None = None,
    keys: Sequence[NamedKeys] = (KEYS,),
) -> Answer:
    answer = ask(request, recorded, keys)
    assert isinstance(answer, Answer), answer
    assert answer.status == status, answer
    if status == witness.CONFLICT:
        assert answer.content_type == "text/x.tlog.size"
    else:
        assert answer.content_type.startswith("text/plain") and answer.body.endswith(b"\n")
    return answer


# --- the request -----------------------------------------------------------------------------
def test_the_published_request_is_made_and_read_byte_for_byte() -> None:
    leaves = [bytes.fromhex(each) for each in VECTOR["leaf_hashes"]]
    proof = (leaves[2], leaves[3], bytes.fromhex(VECTOR["nodes"]["0,2"]), leaves[4])
    lines = VECTOR["checkpoint"]["note"].encode().splitlines(keepends=True)
    note = b"".join(lines[:-1])  # the log's own signature only
    hashes = b"".join(base64.b64encode(each) + b"\n" for each in proof)
    body = b"old 3\n" + hashes + b"\n" + note
    request = AddCheckpoint(3, proof, note)
    assert format_add_checkpoint(request) == body
    assert parse_add_checkpoint(body) == request
    recorded = Seen(3, base64.b64decode(VECTOR["roots"]["3"]))
    accepted = ask(body, recorded, [keys_of(ORIGIN, LOG, None)])
    assert isinstance(accepted, Accept)
    assert accepted.seen == Seen(5, base64.b64decode(VECTOR["roots"]["5"]))
    assert accepted.note == note == accepted.log_note
    refused(403, body, recorded)  # a log of the network signs with both of its keys


LINE = base64.b64encode(bytes(32)) + b"\n"
TINY = b"\n" + b"note"


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"old 0",
        b"old 0\n",
        b"old 0\n\n",
        b"old 0\n\n\nnote",
        b"old 0\nnote",
        b"\n\nnote",
        b"old\n" + TINY,
        b"old \n" + TINY,
        b"old 00\n" + TINY,
        b"old 01\n" + TINY,
        b"old -1\n" + TINY,
        b"old +1\n" + TINY,
        b"old 1 \n" + TINY,
        b"old  1\n" + TINY,
        b" old 1\n" + TINY,
        b"Old 1\n" + TINY,
        b"old\t1\n" + TINY,
        b"old 1_0\n" + TINY,
        b"old 1\r\n" + TINY,
        b"old 0x1\n" + TINY,
        b"old 1.0\n" + TINY,
        "old \u0661\n".encode() + TINY,
        b"old %d\n" % LIMIT_OLD + TINY,
        b"old 1\nold 1\n" + TINY,
        b"old 1\n" + LINE[:-1] + b" \n" + TINY,
        b"old 1\n " + LINE + TINY,
        b"old 1\n" + LINE[:-2] + b"\n" + TINY,  # no padding
        b"old 1\n" + LINE[:-3] + b"B=\n" + TINY,  # bits past the end
        b"old 1\n" + base64.b64encode(bytes(31)) + b"\n" + TINY,
        b"old 1\n" + base64.b64encode(bytes(33)) + b"\n" + TINY,
        b"old 1\n" + base64.urlsafe_b64encode(b"\xff" * 32) + b"\n" + TINY,
        b"old 1\n" + bytes(32).hex().encode() + b"\n" + TINY,
        b"old 1\n\xff\xfe\n" + TINY,
        b"old 1\n" + LINE[:-1] + b"\r\n" + TINY,
    ],
)  # fmt: skip
def test_a_request_of_another_form_is_refused(body: bytes) -> None:
    with pytest.raises(DecodeError):
        parse_add_checkpoint(body)
    refused(400, body)


def test_a_request_has_at_most_63_proof_lines() -> None:
    most = b"old 1\n" + limits.MAX_WITNESS_PROOF * LINE + TINY
    assert len(parse_add_checkpoint(most).proof) == 63
    with pytest.raises(LimitError, match="63"):
        parse_add_checkpoint(b"old 1\n" + 64 * LINE + TINY)
    refused(400, b"old 1\n" + 64 * LINE + TINY)


def test_a_request_has_a_bounded_length() -> None:
    head = b"old 0\n\n"
    fits = head + b"n" * (limits.MAX_ADD_CHECKPOINT - len(head))
    assert len(parse_add_checkpoint(fits).note) == limits.MAX_ADD_CHECKPOINT - len(head)
    with pytest.raises(LimitError):
        parse_add_checkpoint(fits + b"n")


def test_the_largest_note_with_the_longest_proof_fits() -> None:
    request = AddCheckpoint(10**15, (bytes(32),) * limits.MAX_WITNESS_PROOF, b"n" * limits.MAX_NOTE)
    assert parse_add_checkpoint(format_add_checkpoint(request)) == request


@given(data=st.binary(max_size=200))
def test_no_request_has_two_forms(data: bytes) -> None:
    for body in (data, b"old 1\n" + data, b"old 1\n" + LINE + data):
        try:
            request = parse_add_checkpoint(body)
        except PeerError:
            continue
        assert format_add_checkpoint(request) == body


# --- accepted --------------------------------------------------------------------------------
@pytest.mark.parametrize("recorded", [None, Seen(0, merkle.EMPTY_ROOT)])
@pytest.mark.parametrize("size", [0, 1, 7])
def test_the_first_checkpoint_of_any_size_is_accepted(recorded: Seen | None, size: int) -> None:
    request = TREE.request(0, size)
    assert ask(request, recorded) == Accept(
        TREE.checkpoint(size), request.note, request.note, TREE.seen(size)
    )


def test_each_growth_is_accepted_and_no_rewrite_is() -> None:
    for old in range(1, 12):
        for size in range(old, 12):
            request = TREE.request(old, size)
            assert ask(request, TREE.seen(old)) == Accept(
                TREE.checkpoint(size), request.note, request.note, TREE.seen(size)
            )
            refused(422, request, REWRITTEN.seen(old))


def test_the_same_checkpoint_is_accepted_again() -> None:
    accepted = ask(TREE.request(7, 7), TREE.seen(7))
    assert isinstance(accepted, Accept) and accepted.seen == TREE.seen(7)


def test_what_others_add_to_a_note_is_ignored_and_not_passed_on() -> None:
    request = TREE.request(3, 8)
    note = parse_note(request.note)
    stranger = cosign(TREE.checkpoint(8), name=WITNESS, ed25519=OTHER, mldsa44=OTHER44, now_s=TIME)
    junk = NoteSignature(ORIGIN, b"\0\0\0\0", bytes(64))
    lines = (junk, note.signatures[1], *stranger, note.signatures[0])
    sent = format_note(replace(note, signatures=lines))
    accepted = ask(replace(request, note=sent), TREE.seen(3))
    assert isinstance(accepted, Accept)
    assert accepted.note == sent and accepted.log_note == request.note


def test_a_foreign_log_signs_with_one_key() -> None:
    checkpoint = TREE.checkpoint(4, FOREIGN)
    request = AddCheckpoint(0, (), signed_by_one(checkpoint))
    accepted = ask(request, None, [FOREIGN_KEYS])
    assert isinstance(accepted, Accept) and accepted.checkpoint == checkpoint
    refused(403, replace(request, note=signed_by_one(checkpoint, OTHER)), None, [FOREIGN_KEYS])


def test_one_of_several_keys_of_an_origin_is_enough() -> None:
    request = TREE.request(0, 4)
    spare = keys_of(ORIGIN, OTHER, OTHER44)
    assert isinstance(ask(request, None, [spare, KEYS]), Accept)
    assert isinstance(ask(request, None, [KEYS, spare]), Accept)
    refused(403, request, None, [spare])


# --- refused ---------------------------------------------------------------------------------
def test_a_body_without_a_checkpoint_is_400() -> None:
    note = signed(TREE.checkpoint(3))
    good = b"old 0\n\n" + note
    assert isinstance(ask(good), Accept)
    for body in (
        b"old 0\n\nnote",
        good[:-1],
        good + b"\n",
        b"old 0\n\n\n" + note,
        b"old 0\n\n" + note.replace(b"\n3\n", b"\n03\n"),
        b"old 0\n\n" + note.replace(b"\n\n", b"\nextension\n\n", 1),
    ):
        refused(400, body)


def test_an_unknown_origin_is_404() -> None:
    checkpoint = TREE.checkpoint(3, "log.example/other")
    refused(404, AddCheckpoint(0, (), signed(checkpoint)))
    refused(404, AddCheckpoint(9, (), signed(checkpoint)))  # before its sizes are looked at


def test_a_signature_that_is_missing_or_bad_is_403() -> None:
    request = TREE.request(0, 3)
    note = parse_note(request.note)
    first, second = note.signatures
    other = parse_note(signed(TREE.checkpoint(4))).signatures
    late = NoteSignature(
        second.name, second.key_id, (TIME + 1).to_bytes(8, "big") + second.signature[8:]
    )
    stranger = NoteSignature(ORIGIN, b"\0\0\0\0", bytes(64))
    for lines in (
        (first,),
        (second,),
        (stranger,),
        (first, other[1]),
        (other[0], second),
        (first, late),
        (first, replace(second, signature=second.signature[:20])),
        (first, replace(second, signature=b"\0")),
        (replace(first, signature=bytes(64)), second),
        (first, first, second),
    ):
        refused(403, replace(request, note=format_note(replace(note, signatures=lines))))
    assert isinstance(ask(request), Accept)


def test_a_bad_signature_of_a_known_key_refuses_the_note_that_another_signed() -> None:
    spare = keys_of(ORIGIN, OTHER, OTHER44)
    note = parse_note(TREE.request(0, 3).note)
    bad = NoteSignature(ORIGIN, key_id(ORIGIN, ED25519, spare.ed25519), bytes(64))
    sent = format_note(replace(note, signatures=(*note.signatures, bad)))
    assert isinstance(ask(AddCheckpoint(0, (), sent), None, [KEYS]), Accept)
    refused(403, AddCheckpoint(0, (), sent), None, [KEYS, spare])
    refused(403, AddCheckpoint(0, (), sent), None, [spare, KEYS])


def test_a_log_cannot_sign_for_another_origin() -> None:
    """Whatever keys the caller finds for an origin: their name must be that origin."""
    checkpoint = TREE.checkpoint(3, FOREIGN)
    text = format_body(checkpoint)
    first = NoteSignature(ORIGIN, key_id(ORIGIN, ED25519, KEYS.ed25519), LOG.sign(text.encode()))
    second = cosign_mldsa44(checkpoint, name=ORIGIN, key=LOG44, now_s=TIME)
    for note in (signed(checkpoint), format_note(Note(text, (first, second)))):
        answer = decide(
            format_add_checkpoint(AddCheckpoint(0, (), note)),
            logs=lambda _: [KEYS],
            seen=lambda _: None,
        )
        assert isinstance(answer, Answer) and answer.status == 403


def test_an_old_size_beyond_the_checkpoint_is_400() -> None:
    request = replace(TREE.request(0, 3), old=4)
    assert refused(400, request, TREE.seen(4)).conflict is None
    refused(400, request, None)
    refused(400, request, TREE.seen(9))


@pytest.mark.parametrize(("recorded", "old"), [(5, 0), (5, 4), (5, 6), (0, 1), (None, 1), (20, 7)])
def test_another_old_size_is_409_and_names_the_recorded_one(recorded: int | None, old: int) -> None:
    last = None if recorded is None else TREE.seen(recorded)
    answer = refused(409, TREE.request(old, 7), last)
    assert answer == Answer(409, b"%d\n" % (recorded or 0), "text/x.tlog.size")
    assert parse_size(answer.body) == (recorded or 0)


def test_a_bad_proof_is_422() -> None:
    request = TREE.request(3, 7)
    for proof in (
        (),
        request.proof[:-1],
        (*request.proof, bytes(32)),
        request.proof[::-1],
        (bytes(32), *request.proof[1:]),
        REWRITTEN.request(3, 7).proof,
    ):
        answer = refused(422, replace(request, proof=proof), TREE.seen(3))
        assert answer.conflict is None  # whoever sends a request can spoil its proof


def test_proof_lines_where_none_belong_are_422() -> None:
    refused(422, replace(TREE.request(0, 3), proof=(bytes(32),)))
    refused(422, replace(TREE.request(0, 0), proof=(bytes(32),)))
    refused(422, replace(TREE.request(3, 3), proof=(bytes(32),)), TREE.seen(3))


def test_an_empty_tree_with_another_root_is_422() -> None:
    note = signed(Checkpoint(ORIGIN, 0, bytes(32)))
    assert refused(422, AddCheckpoint(0, (), note)).conflict is None
    known = refused(422, AddCheckpoint(0, (), note), Seen(0, merkle.EMPTY_ROOT))
    assert known.conflict == Checkpoint(ORIGIN, 0, bytes(32))


# --- contradictions --------------------------------------------------------------------------
def test_two_roots_for_one_size_are_422_and_a_conflict() -> None:
    assert refused(422, REWRITTEN.request(7, 7), TREE.seen(7)).conflict == REWRITTEN.checkpoint(7)
    # It shows in whichever way the request fails.
    assert refused(409, REWRITTEN.request(3, 7), TREE.seen(7)).conflict == REWRITTEN.checkpoint(7)
    late = replace(REWRITTEN.request(0, 7), old=9)
    assert refused(400, late, TREE.seen(7)).conflict == REWRITTEN.checkpoint(7)


def test_a_path_from_a_rewritten_tree_is_a_conflict() -> None:
    for old in range(1, 12):
        for size in range(old + 1, 12):
            path = merkle.prove_prefix(old, size, REWRITTEN)
            offered = replace(REWRITTEN.request(old, size), proof=path)
            answer = refused(422, offered, TREE.seen(old))
            assert answer.conflict == REWRITTEN.checkpoint(size)
            # The recorded tree grows: the path is too long, but blames nobody.
            if old & (old - 1) == 0:
                own = replace(TREE.request(old, size), proof=merkle.prove_prefix(old, size, TREE))
                assert refused(422, own, TREE.seen(old)).conflict is None


def test_nothing_unsigned_is_a_conflict() -> None:
    note = signed_by_one(REWRITTEN.checkpoint(7))
    assert refused(403, AddCheckpoint(7, (), note), TREE.seen(7)).conflict is None


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_no_request_makes_an_honest_log_contradict_itself(data: st.DataObject) -> None:
    """Any proof, any old size: the log signed one tree, so no answer holds a conflict."""
    recorded = data.draw(st.integers(0, 20))
    size = data.draw(st.integers(0, 20))
    old = data.draw(st.sampled_from([recorded, size, 0, 20]))
    pool = [merkle.root(each, TREE) for each in range(21)] + [bytes(32)]
    if 0 < recorded < size:
        pool += merkle.prove_prefix(recorded, size, TREE)
    proof = data.draw(st.lists(st.sampled_from(pool), max_size=7))
    request = AddCheckpoint(old, tuple(proof), signed(TREE.checkpoint(size)))
    answer = ask(request, TREE.seen(recorded))
    assert isinstance(answer, Accept) or answer.conflict is None


# --- cosignatures ----------------------------------------------------------------------------
def test_both_cosignatures_verify_and_travel_as_lines() -> None:
    checkpoint = TREE.checkpoint(7)
    pair = cosign(checkpoint, name=WITNESS, ed25519=OTHER, mldsa44=OTHER44, now_s=TIME)
    data = format_signatures(pair)
    assert parse_signatures(data) == pair and data.count(b"\n") == 2
    note = parse_note(signed(checkpoint) + data)
    public = keys_of(WITNESS, OTHER, OTHER44)
    assert verify_ed25519(note, name=WITNESS, public_key=public.ed25519) == TIME
    assert verify_mldsa44(note, checkpoint, name=WITNESS, public_key=public.mldsa44) == TIME


def test_the_published_cosignature_line_is_made_byte_for_byte() -> None:
    root = base64.b64decode(VECTOR["roots"]["5"])
    first, _ = cosign(
        Checkpoint(ORIGIN, 5, root), name=WITNESS, ed25519=OTHER, mldsa44=OTHER44, now_s=TIME
    )
    assert VECTOR["checkpoint"]["note"].encode().endswith(format_signatures([first]))


def test_signature_lines_are_read_strictly() -> None:
    line = format_signatures(
        [cosign_mldsa44(TREE.checkpoint(1), name=WITNESS, key=OTHER44, now_s=1)]
    )
    for data in (
        b"",
        b"\n",
        line[:-1],
        line + b"\n",
        b"\n" + line,
        line + b"\n" + line,
        line.replace(b" ", b"  ", 1),
        line.replace(b"=", b""),
        line.replace("\u2014".encode(), b"-"),
        line.replace(b"\n", b"\r\n"),
        b" " + line,
        line + b"text\n",
        line + b"\xff\n",
        "\u2014 name AAAA\n".encode(),
    ):
        with pytest.raises(DecodeError):
            parse_signatures(data)
    most = limits.MAX_NOTE_SIGNATURES
    short = format_signatures([NoteSignature(WITNESS, bytes(4), b"signature")])
    assert len(parse_signatures(short * most)) == most
    with pytest.raises(LimitError):
        parse_signatures(short * (most + 1))
    with pytest.raises(LimitError):
        parse_signatures(b"a" * (limits.MAX_NOTE + 1))


@pytest.mark.parametrize(
    "body", [b"", b"5", b"05\n", b"-5\n", b"5\n\n", b" 5\n", b"5\r\n", b"+5\n"]
)
def test_a_size_answer_is_read_strictly(body: bytes) -> None:
    assert parse_size(b"0\n") == 0 and parse_size(b"20852014\n") == 20_852_014
    with pytest.raises(DecodeError):
        parse_size(body)


def test_the_monitoring_path_names_a_log_by_its_hash() -> None:
    assert origin_hash(ORIGIN) == hashlib.sha256(ORIGIN.encode()).hexdigest()
    assert origin_hash("") == merkle.EMPTY_ROOT.hex()
