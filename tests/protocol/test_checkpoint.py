"""Checkpoints and cosignatures: the published example, strict sizes, and both log signatures."""

from __future__ import annotations

import base64
import hashlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.mldsa import MLDSA44PrivateKey
from hypothesis import given, settings
from hypothesis import strategies as st

from protocol import limits, merkle
from protocol.checkpoint import (
    Checkpoint,
    cosign_ed25519,
    cosign_mldsa44,
    format_body,
    parse_body,
    sign_checkpoint,
    subtree_message,
    verify_checkpoint,
    verify_ed25519,
    verify_mldsa44,
)
from protocol.errors import DecodeError, LimitError, PeerError, SignatureError
from protocol.note import (
    COSIGNATURE_MLDSA44,
    ED25519,
    Note,
    NoteSignature,
    format_note,
    key_id,
    parse_note,
    parse_vkey,
)

VECTOR: dict[str, Any] = json.loads(
    (Path(__file__).parent.parent / "vectors" / "log.json").read_text(encoding="utf-8")
)
ORIGIN: str = VECTOR["origin"]
WITNESS = "picket.example/node-b/witness"
POST_QUANTUM: str = VECTOR["mldsa44"]["name"]
TIME: int = VECTOR["checkpoint"]["witness_b_time"]
ROOT: str = VECTOR["roots"]["5"]
CHECKPOINT = Checkpoint(ORIGIN, 5, base64.b64decode(ROOT))


def ed25519(name: str) -> Ed25519PrivateKey:
    return Ed25519PrivateKey.from_private_bytes(bytes.fromhex(VECTOR["seeds"][name]))


LOG = ed25519("log")
LOG_PUBLIC = LOG.public_key().public_bytes_raw()
MLDSA44 = MLDSA44PrivateKey.from_seed_bytes(bytes.fromhex(VECTOR["seeds"]["witness_d"]))
MLDSA44_PUBLIC = MLDSA44.public_key().public_bytes_raw()
OTHER44 = MLDSA44PrivateKey.from_seed_bytes(bytes([9]) * 32)


@pytest.fixture(scope="module")
def signed() -> bytes:
    return sign_checkpoint(CHECKPOINT, ed25519=LOG, mldsa44=MLDSA44, now_s=TIME)


def verify(data: bytes) -> Checkpoint:
    return verify_checkpoint(data, origin=ORIGIN, ed25519=LOG_PUBLIC, mldsa44=MLDSA44_PUBLIC)


def lines(data: bytes) -> tuple[NoteSignature, NoteSignature]:
    first, second = parse_note(data).signatures
    return first, second


def with_lines(data: bytes, *signatures: NoteSignature) -> bytes:
    return format_note(Note(parse_note(data).text, signatures))


def over(text: str, checkpoint: Checkpoint = CHECKPOINT) -> bytes:
    """Return *text* with good signatures of both of the log's keys, the second for *checkpoint*."""
    first = NoteSignature(ORIGIN, key_id(ORIGIN, ED25519, LOG_PUBLIC), LOG.sign(text.encode()))
    second = cosign_mldsa44(checkpoint, name=ORIGIN, key=MLDSA44, now_s=TIME)
    return format_note(Note(text, (first, second)))


# --- the published example -------------------------------------------------------------------
def test_the_published_checkpoint_is_made_byte_for_byte() -> None:
    text = format_body(CHECKPOINT)
    log = NoteSignature(ORIGIN, key_id(ORIGIN, ED25519, LOG_PUBLIC), LOG.sign(text.encode()))
    witness = cosign_ed25519(CHECKPOINT, name=WITNESS, key=ed25519("witness_b"), now_s=TIME)
    assert format_note(Note(text, (log, witness))).decode() == VECTOR["checkpoint"]["note"]


def test_the_published_checkpoint_reads_back() -> None:
    note = parse_note(VECTOR["checkpoint"]["note"].encode())
    assert parse_body(note.text) == CHECKPOINT
    key = parse_vkey(VECTOR["vkeys"]["witness_b"])
    assert verify_ed25519(note, name=key.name, public_key=key.public_key) == TIME


def test_the_published_message_of_the_post_quantum_cosignature() -> None:
    vector = VECTOR["mldsa44"]
    assert hashlib.sha256(MLDSA44_PUBLIC).hexdigest() == vector["public_key_sha256"]
    assert key_id(POST_QUANTUM, COSIGNATURE_MLDSA44, MLDSA44_PUBLIC).hex() == vector["key_id"]
    message = subtree_message(CHECKPOINT, name=POST_QUANTUM, time_s=vector["time"])
    assert message.hex() == vector["message"] and len(message) == 120


def test_a_post_quantum_cosignature_verifies_against_the_published_message() -> None:
    """Made by the library over the vector's own bytes, so that making and checking cannot agree
    on a message of another form."""
    raw = TIME.to_bytes(8, "big") + MLDSA44.sign(bytes.fromhex(VECTOR["mldsa44"]["message"]))
    line = NoteSignature(POST_QUANTUM, bytes.fromhex(VECTOR["mldsa44"]["key_id"]), raw)
    note = Note(format_body(CHECKPOINT), (line,))
    assert verify_mldsa44(note, CHECKPOINT, name=POST_QUANTUM, public_key=MLDSA44_PUBLIC) == TIME


# --- the text --------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "size",
    [
        "005", "05", "00", "+5", "-5", "-0", " 5", "5 ", "5_0", "5.0", "5e0", "0x5", "", "five",
        "\u0665", "\uff15", "5\u00a0", str(limits.MAX_LOG_SIZE + 1), "9" * 17, "9" * 5_000,
    ],
)  # fmt: skip
def test_a_size_that_is_not_plain_decimal_is_refused(size: str) -> None:
    text = f"{ORIGIN}\n{size}\n{ROOT}\n"
    with pytest.raises(DecodeError, match="size"):
        parse_body(text)
    with pytest.raises(DecodeError, match="size"):
        verify(over(text))


@pytest.mark.parametrize("size", [0, 5, limits.MAX_LOG_SIZE])
def test_a_size_in_plain_decimal_is_read(size: int) -> None:
    assert parse_body(f"{ORIGIN}\n{size}\n{ROOT}\n").size == size


@pytest.mark.parametrize(
    "text",
    [
        f"{ORIGIN}\n5\n{ROOT}\nextension\n",
        f"{ORIGIN}\n5\n{ROOT}\n\n",
        f"{ORIGIN}\n5\n{ROOT}",
        f"{ORIGIN}\n5\n",
        f"{ORIGIN}\n{ROOT}\n",
        f"\n5\n{ROOT}\n",
        f"a b\n5\n{ROOT}\n",
        f"a+b\n5\n{ROOT}\n",
        f"{ORIGIN}\u00a0\n5\n{ROOT}\n",
        f"{ORIGIN}\n5\n{ROOT[:-1]}\n",
        f"{ORIGIN}\n5\n{ROOT[:-2]}J=\n",
        f"{ORIGIN}\n5\n{ROOT[:9]}*{ROOT[9:]}\n",
        f"{ORIGIN}\n5\n {ROOT}\n",
        f"{ORIGIN}\n5\n{ROOT.replace('/', '_').replace('9', '-')}\n",
        f"{ORIGIN}\n5\n{base64.b64encode(bytes(31)).decode()}\n",
        f"{ORIGIN}\n5\n{base64.b64encode(bytes(33)).decode()}\n",
        f"{ORIGIN}\n5\n\n",
        "",
    ],
)
def test_a_text_of_another_form_is_refused(text: str) -> None:
    with pytest.raises(DecodeError):
        parse_body(text)


def test_an_extension_line_is_refused_even_when_the_log_signed_it() -> None:
    verify(over(format_body(CHECKPOINT)))
    with pytest.raises(DecodeError):
        verify(over(format_body(CHECKPOINT) + "extension\n"))


@settings(deadline=None)
@given(st.integers(0, limits.MAX_LOG_SIZE), st.binary(min_size=32, max_size=32))
def test_any_tree_head_comes_back(size: int, root: bytes) -> None:
    checkpoint = Checkpoint(ORIGIN, size, root)
    assert parse_body(format_body(checkpoint)) == checkpoint


# --- both signatures of the log --------------------------------------------------------------
def test_a_checkpoint_signed_with_both_keys_is_accepted(signed: bytes) -> None:
    assert verify(signed) == CHECKPOINT


def test_the_checkpoint_of_an_empty_log_is_accepted() -> None:
    empty = Checkpoint(ORIGIN, 0, merkle.EMPTY_ROOT)
    assert verify(sign_checkpoint(empty, ed25519=LOG, mldsa44=MLDSA44, now_s=TIME)) == empty


@pytest.mark.parametrize(("kept", "missing"), [(1, "Ed25519"), (0, "ML-DSA-44")])
def test_a_checkpoint_that_lacks_one_of_the_two_signatures_is_refused(
    kept: int, missing: str, signed: bytes
) -> None:
    with pytest.raises(SignatureError, match=missing):
        verify(with_lines(signed, lines(signed)[kept]))


@pytest.mark.parametrize(("bad", "named"), [(0, "Ed25519"), (1, "ML-DSA-44")])
def test_a_checkpoint_with_one_bad_signature_is_refused(
    bad: int, named: str, signed: bytes
) -> None:
    other = sign_checkpoint(replace(CHECKPOINT, size=6), ed25519=LOG, mldsa44=MLDSA44, now_s=TIME)
    mixed = list(lines(signed))
    for wrong in (lines(other)[bad].signature, b"\0", bytes(64), bytes(8), bytes(2_428)):
        mixed[bad] = replace(mixed[bad], signature=wrong)
        with pytest.raises(SignatureError, match=named):
            verify(with_lines(signed, *mixed))


@pytest.mark.parametrize("twice", [0, 1])
def test_a_checkpoint_with_two_signatures_of_one_key_is_refused(twice: int, signed: bytes) -> None:
    with pytest.raises(DecodeError, match="two signatures"):
        verify(with_lines(signed, *lines(signed), lines(signed)[twice]))


def test_signatures_of_unknown_keys_beside_them_do_not_matter_up_to_the_bound(
    signed: bytes,
) -> None:
    """C2SP signed-note: a reader accepts at least 16."""
    room = limits.MAX_NOTE_SIGNATURES - 2
    assert room >= 14
    unknown = [NoteSignature(f"w{n}.example", bytes(4), bytes(72)) for n in range(room + 1)]
    assert verify(with_lines(signed, *unknown[:room], *lines(signed))) == CHECKPOINT
    with pytest.raises(LimitError):
        verify(with_lines(signed, *unknown, *lines(signed)))


def test_a_checkpoint_signed_with_the_keys_of_another_is_refused(signed: bytes) -> None:
    for log, post_quantum in ((ed25519("witness_b"), MLDSA44), (LOG, OTHER44)):
        forged = sign_checkpoint(CHECKPOINT, ed25519=log, mldsa44=post_quantum, now_s=TIME)
        with pytest.raises(SignatureError):
            verify(forged)
        # A forger's bytes under the key ids of the log.
        claimed = [
            replace(mine, key_id=theirs.key_id)
            for mine, theirs in zip(lines(forged), lines(signed), strict=True)
        ]
        with pytest.raises(SignatureError):
            verify(with_lines(signed, *claimed))


def test_a_checkpoint_of_another_log_is_refused() -> None:
    other = replace(CHECKPOINT, origin="picket.example/node-x")
    data = sign_checkpoint(other, ed25519=LOG, mldsa44=MLDSA44, now_s=TIME)
    with pytest.raises(SignatureError, match="another log"):
        verify(data)


def test_each_single_byte_change_of_a_checkpoint_is_refused(signed: bytes) -> None:
    accepted = []
    for at in range(len(signed)):
        try:
            verify(signed[:at] + bytes([signed[at] ^ 1 << (at % 8)]) + signed[at + 1 :])
        except PeerError:
            continue
        accepted.append(at)
    assert accepted == []


def test_a_checkpoint_without_its_last_newline_is_refused(signed: bytes) -> None:
    for data in (signed[:-1], signed + b"\n", signed + b" "):
        with pytest.raises(DecodeError):
            verify(data)


# --- cosignatures ----------------------------------------------------------------------------
def cosigned(*signatures: NoteSignature) -> Note:
    return Note(format_body(CHECKPOINT), signatures)


def test_both_kinds_of_cosignature_verify_and_give_their_time() -> None:
    witness = ed25519("witness_c")
    public = witness.public_key().public_bytes_raw()
    note = cosigned(
        cosign_ed25519(CHECKPOINT, name="c.example", key=witness, now_s=0),
        cosign_mldsa44(CHECKPOINT, name=POST_QUANTUM, key=MLDSA44, now_s=TIME + 1),
    )
    assert parse_note(format_note(note)) == note
    assert verify_ed25519(note, name="c.example", public_key=public) == 0
    at = verify_mldsa44(note, CHECKPOINT, name=POST_QUANTUM, public_key=MLDSA44_PUBLIC)
    assert at == TIME + 1


def test_a_missing_cosignature_is_named() -> None:
    note = cosigned(cosign_ed25519(CHECKPOINT, name=WITNESS, key=LOG, now_s=TIME))
    with pytest.raises(SignatureError, match=r"other\.example"):
        verify_ed25519(note, name="other.example", public_key=LOG_PUBLIC)
    with pytest.raises(SignatureError, match=POST_QUANTUM):
        verify_mldsa44(note, CHECKPOINT, name=POST_QUANTUM, public_key=MLDSA44_PUBLIC)


def test_an_ed25519_cosignature_covers_time_origin_size_and_root() -> None:
    line = cosign_ed25519(CHECKPOINT, name=WITNESS, key=LOG, now_s=TIME)
    later = replace(line, signature=(TIME + 1).to_bytes(8, "big") + line.signature[8:])
    with pytest.raises(SignatureError):
        verify_ed25519(cosigned(later), name=WITNESS, public_key=LOG_PUBLIC)
    for changes in ({"origin": "x"}, {"size": 6}, {"root": bytes(32)}):
        text = format_body(replace(CHECKPOINT, **changes))
        with pytest.raises(SignatureError):
            verify_ed25519(Note(text, (line,)), name=WITNESS, public_key=LOG_PUBLIC)


def test_a_post_quantum_cosignature_covers_time_cosigner_origin_size_and_root() -> None:
    line = cosign_mldsa44(CHECKPOINT, name=POST_QUANTUM, key=MLDSA44, now_s=TIME)
    later = replace(line, signature=(TIME + 1).to_bytes(8, "big") + line.signature[8:])
    with pytest.raises(SignatureError):
        verify_mldsa44(cosigned(later), CHECKPOINT, name=POST_QUANTUM, public_key=MLDSA44_PUBLIC)
    for changes in ({"origin": "x"}, {"size": 6}, {"root": bytes(32)}):
        other = replace(CHECKPOINT, **changes)
        with pytest.raises(SignatureError):
            verify_mldsa44(cosigned(line), other, name=POST_QUANTUM, public_key=MLDSA44_PUBLIC)
    renamed = NoteSignature(
        "e.example", key_id("e.example", COSIGNATURE_MLDSA44, MLDSA44_PUBLIC), line.signature
    )
    with pytest.raises(SignatureError):
        verify_mldsa44(cosigned(renamed), CHECKPOINT, name="e.example", public_key=MLDSA44_PUBLIC)


@pytest.mark.parametrize("length", [1, 7, 8, 71, 73])
def test_an_ed25519_cosignature_of_another_length_is_refused(length: int) -> None:
    line = cosign_ed25519(CHECKPOINT, name=WITNESS, key=LOG, now_s=TIME)
    cut = replace(line, signature=(line.signature + b"\0")[:length])
    with pytest.raises(SignatureError):
        verify_ed25519(cosigned(cut), name=WITNESS, public_key=LOG_PUBLIC)


@pytest.mark.parametrize("length", [1, 7, 8, 2_427, 2_429])
def test_a_post_quantum_cosignature_of_another_length_is_refused(length: int) -> None:
    line = cosign_mldsa44(CHECKPOINT, name=POST_QUANTUM, key=MLDSA44, now_s=TIME)
    cut = replace(line, signature=(line.signature + b"\0")[:length])
    with pytest.raises(SignatureError):
        verify_mldsa44(cosigned(cut), CHECKPOINT, name=POST_QUANTUM, public_key=MLDSA44_PUBLIC)


def test_a_cosignature_is_no_log_signature() -> None:
    """A witness that cosigns cannot be made to have signed a checkpoint of its own log."""
    line = cosign_ed25519(CHECKPOINT, name=ORIGIN, key=LOG, now_s=TIME)
    second = cosign_mldsa44(CHECKPOINT, name=ORIGIN, key=MLDSA44, now_s=TIME)
    with pytest.raises(SignatureError):
        verify(format_note(cosigned(line, second)))
    claimed = NoteSignature(ORIGIN, key_id(ORIGIN, ED25519, LOG_PUBLIC), line.signature[8:])
    with pytest.raises(SignatureError):
        verify(format_note(cosigned(claimed, second)))


def test_a_cosignature_of_a_time_beyond_63_bits_is_refused() -> None:
    """tlog-cosignature: a time is below 2^63, so that it fits every reader's integer."""
    note = cosigned(
        cosign_ed25519(CHECKPOINT, name=WITNESS, key=LOG, now_s=2**63),
        cosign_mldsa44(CHECKPOINT, name=POST_QUANTUM, key=MLDSA44, now_s=2**63),
    )
    with pytest.raises(SignatureError):
        verify_ed25519(note, name=WITNESS, public_key=LOG_PUBLIC)
    with pytest.raises(SignatureError):
        verify_mldsa44(note, CHECKPOINT, name=POST_QUANTUM, public_key=MLDSA44_PUBLIC)


@pytest.mark.parametrize("origin", ["x" * 256, "\u00e9" * 128])
def test_a_log_with_a_name_too_long_for_the_message_is_refused(origin: str) -> None:
    """A card may name its log in up to 256 characters; the message has one byte for the length."""
    text = format_body(replace(CHECKPOINT, origin=origin))
    first = NoteSignature(origin, key_id(origin, ED25519, LOG_PUBLIC), LOG.sign(text.encode()))
    second = NoteSignature(
        origin, key_id(origin, COSIGNATURE_MLDSA44, MLDSA44_PUBLIC), bytes(2_428)
    )
    data = format_note(Note(text, (first, second)))
    with pytest.raises(PeerError):
        verify_checkpoint(data, origin=origin, ed25519=LOG_PUBLIC, mldsa44=MLDSA44_PUBLIC)
