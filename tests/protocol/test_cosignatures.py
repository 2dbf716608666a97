"""Cosignatures against a policy: the published example, who is missing, and since when it holds."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Sequence
from dataclasses import replace
from itertools import permutations
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.mldsa import MLDSA44PrivateKey

from protocol import limits
from protocol.checkpoint import (
    Checkpoint,
    cosign_ed25519,
    cosign_mldsa44,
    format_body,
    sign_checkpoint,
)
from protocol.cosignatures import (
    Cosignature,
    Cosigned,
    add_signatures,
    check_policy,
    verify_cosignatures,
)
from protocol.errors import DecodeError, LimitError, PeerError, ProofError, SignatureError
from protocol.note import (
    COSIGNATURE_MLDSA44,
    ED25519,
    Note,
    NoteSignature,
    VerifierKey,
    format_note,
    format_vkey,
    key_id,
    parse_note,
    parse_vkey,
)
from protocol.policy import Policy, make_policy, parse_policy
from protocol.statement import NamedKeys

VECTOR: dict[str, Any] = json.loads(
    (Path(__file__).parent.parent / "vectors" / "log.json").read_text(encoding="utf-8")
)
NOTE: bytes = VECTOR["checkpoint"]["note"].encode()
TIME: int = VECTOR["checkpoint"]["witness_b_time"]
ORIGIN: str = VECTOR["origin"]
CHECKPOINT = Checkpoint(ORIGIN, 5, base64.b64decode(VECTOR["roots"]["5"]))
LOG, B, C = (VECTOR["vkeys"][name] for name in ("log", "witness_b", "witness_c"))


class Witness:
    """The two private keys of a log or witness, from its name."""

    def __init__(self, name: str) -> None:
        self.name = name
        seeds = [hashlib.sha256(f"{name}/{kind}".encode()).digest() for kind in ("ed", "mldsa")]
        self.ed25519 = Ed25519PrivateKey.from_private_bytes(seeds[0])
        self.mldsa44 = MLDSA44PrivateKey.from_seed_bytes(seeds[1])
        self.keys = NamedKeys(
            name,
            self.ed25519.public_key().public_bytes_raw(),
            self.mldsa44.public_key().public_bytes_raw(),
        )

    def cosign(self, ed_time: int, mldsa_time: int | None = None) -> tuple[NoteSignature, ...]:
        late = ed_time if mldsa_time is None else mldsa_time
        return (
            cosign_ed25519(HEAD, name=self.name, key=self.ed25519, now_s=ed_time),
            cosign_mldsa44(HEAD, name=self.name, key=self.mldsa44, now_s=late),
        )

    @property
    def vkeys(self) -> list[VerifierKey]:
        return [
            VerifierKey(self.name, key_id(self.name, kind, key), kind, key)
            for kind, key in ((4, self.keys.ed25519), (6, self.keys.mldsa44))
        ]


NODE, NL, DE, FR = map(Witness, ("node.example", "nl.example", "de.example", "fr.example"))
HEAD = Checkpoint("node.example", 7, bytes(range(32)))
SIGNED = sign_checkpoint(HEAD, ed25519=NODE.ed25519, mldsa44=NODE.mldsa44, now_s=100)
TWO_OF_THREE = make_policy(
    NODE.keys, [("NL", NL.keys), ("DE", DE.keys), ("FR", FR.keys)], 2
)  # fmt: skip


def cosigned(*signatures: NoteSignature) -> bytes:
    return add_signatures(SIGNED, signatures)


def with_line(data: bytes, at: int, signature: bytes) -> bytes:
    """Return the note *data* with another *signature* in line *at*."""
    note = parse_note(data)
    lines = list(note.signatures)
    lines[at] = replace(lines[at], signature=signature)
    return format_note(Note(note.text, tuple(lines)))


# --- the published example -------------------------------------------------------------------
def policy_of(*lines: str) -> Policy:
    return parse_policy("".join(f"{line}\n" for line in lines))


def test_the_published_checkpoint_meets_a_policy_of_its_one_witness() -> None:
    policy = policy_of(f"log {LOG}", f"witness B {B}", f"witness C {C}", "quorum B")
    assert check_policy(NOTE, policy) == Cosigned(CHECKPOINT, frozenset({"B"}), TIME)
    either = policy_of(
        f"log {LOG}", f"witness B {B}", f"witness C {C}", "group E any B C", "quorum E"
    )
    assert check_policy(NOTE, either) == Cosigned(CHECKPOINT, frozenset({"B"}), TIME)


def test_the_published_checkpoint_does_not_meet_a_policy_of_both_witnesses() -> None:
    policy = policy_of(
        f"log {LOG}", f"witness B {B}", f"witness C {C}", "group G all B C", "quorum G"
    )
    with pytest.raises(ProofError, match=r"missing: C$"):
        check_policy(NOTE, policy)


def test_the_published_cosignature_is_made_and_added_byte_for_byte() -> None:
    text, lines = VECTOR["checkpoint"]["note"].split("\n\n")
    alone = f"{text}\n\n{lines.splitlines()[0]}\n".encode()
    key = Ed25519PrivateKey.from_private_bytes(bytes.fromhex(VECTOR["seeds"]["witness_b"]))
    line = cosign_ed25519(CHECKPOINT, name=parse_vkey(B).name, key=key, now_s=TIME)
    assert add_signatures(alone, [line]) == NOTE


def test_the_published_witnesses_together_with_the_post_quantum_one() -> None:
    """The example's four keys on one note: the third witness signs the published message."""
    vector = VECTOR["mldsa44"]
    key_c = Ed25519PrivateKey.from_private_bytes(bytes.fromhex(VECTOR["seeds"]["witness_c"]))
    key_d = MLDSA44PrivateKey.from_seed_bytes(bytes.fromhex(VECTOR["seeds"]["witness_d"]))
    public_d = key_d.public_key().public_bytes_raw()
    assert hashlib.sha256(public_d).hexdigest() == vector["public_key_sha256"]
    vkey_d = format_vkey(vector["name"], COSIGNATURE_MLDSA44, public_d)
    assert vkey_d.split("+")[1] == vector["key_id"] == "e44b9cc5"
    raw = vector["time"].to_bytes(8, "big") + key_d.sign(bytes.fromhex(vector["message"]))
    lines = [
        cosign_ed25519(CHECKPOINT, name=parse_vkey(C).name, key=key_c, now_s=TIME + 9),
        NoteSignature(vector["name"], bytes.fromhex(vector["key_id"]), raw),
    ]
    policy = policy_of(
        f"log {LOG}", f"witness b {B}", f"witness c {C}", f"witness d {vkey_d}",
        "group all 3 b c d", "quorum all",
    )  # fmt: skip
    assert check_policy(add_signatures(NOTE, lines), policy) == Cosigned(
        CHECKPOINT, frozenset("bcd"), TIME + 9
    )


# --- the quorum ------------------------------------------------------------------------------
def test_the_quorum_is_met_and_all_who_cosigned_are_named() -> None:
    data = cosigned(*NL.cosign(200), *FR.cosign(300), DE.cosign(250)[0])
    assert check_policy(data, TWO_OF_THREE) == Cosigned(
        HEAD, frozenset({"NL.ed", "NL.mldsa", "FR.ed", "FR.mldsa", "DE.ed"}), 300
    )


@pytest.mark.parametrize("order", list(permutations((0, 1, 2))))
def test_it_holds_from_the_last_cosignature_that_it_needed(order: Sequence[int]) -> None:
    lines = [*NL.cosign(200, 210), *DE.cosign(500, 150), *FR.cosign(90, 400)]
    pairs = [lines[2 * n : 2 * n + 2] for n in order]
    data = cosigned(*(line for pair in pairs for line in pair))
    assert check_policy(data, TWO_OF_THREE).not_after == 400


def test_a_late_or_second_cosignature_that_is_not_needed_moves_nothing() -> None:
    data = cosigned(*NL.cosign(200), *DE.cosign(210), *FR.cosign(2**63 - 1))
    assert check_policy(data, TWO_OF_THREE).not_after == 210


@pytest.mark.parametrize(
    ("lines", "missing"),
    [
        ((), "NL, DE, FR"),
        (NL.cosign(200), "DE, FR"),
        ((*NL.cosign(200), DE.cosign(200)[0]), "DE.mldsa, FR"),
        ((*NL.cosign(200), DE.cosign(200)[1], FR.cosign(9)[0]), "DE.ed, FR.mldsa"),
    ],
)
def test_a_quorum_that_is_not_met_names_who_is_missing(
    lines: Sequence[NoteSignature], missing: str
) -> None:
    with pytest.raises(ProofError, match=f"missing: {missing}$"):
        check_policy(cosigned(*lines), TWO_OF_THREE)


def test_of_many_that_are_missing_the_first_are_named() -> None:
    lines = [
        f"witness w{n} {format_vkey('w', 4, Witness(f'w{n}').keys.ed25519)}" for n in range(20)
    ]
    log = format_vkey(NODE.name, ED25519, NODE.keys.ed25519)
    members = " ".join(f"w{n}" for n in range(20))
    policy = policy_of(f"log {log}", *lines, f"group G 9 {members}", "quorum G")
    with pytest.raises(ProofError, match=r"missing: w0, w1, .*w15 and 4 more$"):
        check_policy(SIGNED, policy)


def test_without_a_quorum_cosignatures_are_still_verified_and_give_no_time() -> None:
    nobody = make_policy(NODE.keys, [("NL", NL.keys)], 0)
    assert check_policy(SIGNED, nobody) == Cosigned(HEAD, frozenset(), None)
    data = cosigned(*NL.cosign(200))
    assert check_policy(data, nobody) == Cosigned(HEAD, frozenset({"NL.ed", "NL.mldsa"}), None)
    with pytest.raises(SignatureError):
        check_policy(with_line(data, 2, signature=bytes(72)), nobody)


def test_a_cosignature_without_time_counts_for_nothing() -> None:
    """tlog-cosignature: time 0 says nothing of when, so no bound can rest on it."""
    data = cosigned(*NL.cosign(200), *DE.cosign(200, 0))
    with pytest.raises(ProofError, match=r"missing: DE\.mldsa, FR$"):
        check_policy(data, TWO_OF_THREE)
    data = cosigned(*NL.cosign(200), *DE.cosign(0, 200))
    with pytest.raises(ProofError, match=r"missing: DE\.ed, FR$"):
        check_policy(data, TWO_OF_THREE)
    timed = cosigned(*NL.cosign(200), *DE.cosign(1))
    assert check_policy(timed, TWO_OF_THREE).not_after == 200


# --- the log's own signature -----------------------------------------------------------------
def test_a_checkpoint_that_the_log_did_not_sign_is_refused() -> None:
    everybody = [line for witness in (NL, DE, FR) for line in witness.cosign(200)]
    unsigned = format_note(Note(format_body(HEAD), tuple(everybody)))
    with pytest.raises(SignatureError, match=r"no log of the policy signed .* node\.example"):
        check_policy(unsigned, TWO_OF_THREE)
    # The policy lists the log's Ed25519 key alone.
    second = parse_note(SIGNED).signatures[1]
    with pytest.raises(SignatureError, match="no log of the policy"):
        check_policy(add_signatures(unsigned, [second]), TWO_OF_THREE)


def test_a_log_with_another_name_than_the_origin_does_not_count() -> None:
    other = replace(HEAD, origin="other.example")
    text = format_body(other)
    line = NoteSignature(
        NODE.name, key_id(NODE.name, 1, NODE.keys.ed25519), NODE.ed25519.sign(text.encode())
    )
    with pytest.raises(SignatureError, match="no log of the policy"):
        check_policy(format_note(Note(text, (line,))), make_policy(NODE.keys, [], 0))


def test_a_policy_without_logs_accepts_no_checkpoint() -> None:
    with pytest.raises(SignatureError, match="no log of the policy"):
        check_policy(SIGNED, policy_of("quorum none"))


def test_one_of_several_log_lines_is_enough_and_a_bad_one_too_many() -> None:
    lines = [
        f"log {format_vkey(name, kind, key)}"
        for name, kind, key in (
            (NODE.name, COSIGNATURE_MLDSA44, NODE.keys.mldsa44),
            (NODE.name, ED25519, NODE.keys.ed25519),
            (NL.name, ED25519, NL.keys.ed25519),
        )
    ]
    policy = policy_of(*lines, "quorum none")
    note = parse_note(SIGNED)
    for at in (0, 1):
        alone = format_note(Note(note.text, (note.signatures[at],)))
        assert check_policy(alone, policy).checkpoint == HEAD
        good = note.signatures[at].signature
        bad = good[:-1] + bytes([good[-1] ^ 1])
        with pytest.raises(SignatureError, match="does not verify"):
            check_policy(with_line(SIGNED, at, signature=bad), policy)


# --- bad notes -------------------------------------------------------------------------------
WHOLE = cosigned(*NL.cosign(200), *FR.cosign(300))


def test_each_single_byte_change_is_refused() -> None:
    policy = make_policy(NODE.keys, [("NL", NL.keys), ("FR", FR.keys)], 2)
    accepted = []
    start = WHOLE.index("\u2014 nl".encode())
    for at in (*range(start - 120), *range(start, len(WHOLE), 7)):
        try:
            check_policy(WHOLE[:at] + bytes([WHOLE[at] ^ 1 << (at % 8)]) + WHOLE[at + 1 :], policy)
        except PeerError:
            continue
        accepted.append(at)
    log_line = range(WHOLE.index(b"node.example", 100), start)  # its ML-DSA line is not in a policy
    assert [at for at in accepted if at not in log_line] == []


@pytest.mark.parametrize("at", [2, 3, 4, 5])
def test_a_known_key_that_fails_refuses_the_note_though_the_quorum_does_not_need_it(
    at: int,
) -> None:
    data = cosigned(*NL.cosign(200), *DE.cosign(200))
    any_one = make_policy(NODE.keys, [("NL", NL.keys), ("DE", DE.keys)], 1)
    assert check_policy(data, any_one).not_after == 200
    good = parse_note(data).signatures[at].signature
    for bad in (
        good[:-1] + bytes([good[-1] ^ 1]), (201).to_bytes(8, "big") + good[8:], good[:-1],
        good + b"\0", good[8:], bytes(len(good)), (2**63).to_bytes(8, "big") + good[8:],
    ):  # fmt: skip
        with pytest.raises(SignatureError):
            check_policy(with_line(data, at, signature=bad), any_one)


def test_lines_of_unknown_keys_are_ignored_even_under_a_known_name_or_id() -> None:
    known = parse_note(WHOLE).signatures[2]
    strange = [
        NoteSignature("else.example", known.key_id, bytes(72)),
        NoteSignature(known.name, bytes(4), bytes(72)),
        NoteSignature(known.name, b"\1" * 4, b"?"),
    ]
    assert check_policy(add_signatures(WHOLE, strange), TWO_OF_THREE).not_after == 300


def test_a_key_that_signed_twice_is_refused() -> None:
    note = parse_note(WHOLE)
    for at in (0, 2, 3):
        twice = format_note(Note(note.text, (*note.signatures, note.signatures[at])))
        with pytest.raises(DecodeError, match="two signatures"):
            check_policy(twice, TWO_OF_THREE)


def test_a_cosignature_of_another_tree_is_refused() -> None:
    for changes in ({"size": 8}, {"root": bytes(32)}, {"origin": "node.example2"}):
        other = replace(HEAD, **changes)
        for line in (
            cosign_ed25519(other, name=NL.name, key=NL.ed25519, now_s=9),
            cosign_mldsa44(other, name=NL.name, key=NL.mldsa44, now_s=9),
        ):
            with pytest.raises(SignatureError):
                check_policy(cosigned(line), TWO_OF_THREE)


LAX = {
    "nothing": b"",
    "Windows line ends": WHOLE.replace(b"\n", b"\r\n"),
    "no last newline": WHOLE[:-1],
    "an empty line at the end": WHOLE + b"\n",
    "a space at the end of a line": WHOLE.replace(b"\n7\n", b"\n7 \n"),
    "a space before the size": WHOLE.replace(b"\n7\n", b"\n 7\n"),
    "a plus sign before the size": WHOLE.replace(b"\n7\n", b"\n+7\n"),
    "a leading zero": WHOLE.replace(b"\n7\n", b"\n07\n"),
    "an underscore in the size": WHOLE.replace(b"\n7\n", b"\n7_0\n"),
    "another digit seven": WHOLE.replace(b"\n7\n", "\n\u0667\n".encode()),
    "an extension line": WHOLE.replace(b"\n\n", b"\nmore\n\n"),
    "two spaces in a signature line": WHOLE.replace(b" nl.example ", b" nl.example  "),
    "a hyphen for the dash": WHOLE.replace("\u2014 nl".encode(), b"- nl"),
    "base64 without padding": WHOLE.replace(b"=\n", b"\n", 1),
    "base64 that is not canonical": WHOLE.replace(b"Hh8=\n", b"Hh9=\n", 1),
    "a signature line without a signature": WHOLE + "\u2014 x AAAAAA==\n".encode(),
}


@pytest.mark.parametrize("name", LAX)
def test_a_note_that_is_not_in_its_one_form_is_refused(name: str) -> None:
    assert LAX[name] != WHOLE
    with pytest.raises(DecodeError):
        check_policy(LAX[name], TWO_OF_THREE)


# --- cosignatures alone ----------------------------------------------------------------------
def test_cosignatures_are_returned_with_their_times_in_the_order_of_the_keys() -> None:
    note = parse_note(cosigned(*NL.cosign(200, 201), *DE.cosign(300, 0)))
    keys = [*DE.vkeys, *FR.vkeys, *NL.vkeys, *DE.vkeys]
    assert verify_cosignatures(note, keys) == tuple(
        Cosignature(key.name, key.type, key.key_id, time)
        for key, time in zip([*DE.vkeys, *NL.vkeys], (300, 0, 200, 201), strict=True)
    )
    assert verify_cosignatures(note, []) == ()


def test_a_key_that_cannot_cosign_is_refused_if_it_seems_to_have() -> None:
    long = "x" * 256
    for key in (
        VerifierKey(NODE.name, key_id(NODE.name, 1, NODE.keys.ed25519), 1, NODE.keys.ed25519),
        VerifierKey(long, key_id(long, 6, NL.keys.mldsa44), 6, NL.keys.mldsa44),
    ):
        text = format_body(HEAD)
        line = NoteSignature(key.name, key.key_id, bytes(2_428))
        with pytest.raises(SignatureError, match="cannot make a cosignature"):
            verify_cosignatures(Note(text, (line,)), [key])


# --- collecting ------------------------------------------------------------------------------
def test_lines_are_added_behind_those_that_are_there() -> None:
    data = cosigned(*NL.cosign(200))
    assert data.startswith(SIGNED)
    assert [(s.name, s.key_id) for s in parse_note(data).signatures[2:]] == [
        (key.name, key.key_id) for key in NL.vkeys
    ]
    assert add_signatures(SIGNED, []) == SIGNED


def test_the_newest_cosignature_of_a_key_takes_the_place_of_the_older() -> None:
    older, newer = NL.cosign(200), NL.cosign(201)
    other = DE.cosign(150)
    held = cosigned(*older, *other)
    renewed = parse_note(add_signatures(held, newer))
    assert renewed.signatures[2:] == (*newer, *other)
    assert add_signatures(format_note(renewed), older) == format_note(renewed)
    assert add_signatures(SIGNED, [*older, *newer, *older]) == cosigned(*newer)


def test_a_signature_without_time_is_never_replaced() -> None:
    first = parse_note(SIGNED).signatures[0]
    for signature in (bytes(64), b"\x7f" * 72, b"\x7f" * 2_428):
        assert add_signatures(SIGNED, [replace(first, signature=signature)]) == SIGNED


def test_no_more_signatures_are_collected_than_a_reader_takes() -> None:
    most = limits.MAX_NOTE_SIGNATURES
    lines = [NoteSignature(f"w{n}", bytes(4), bytes(72)) for n in range(most - 1)]
    assert len(parse_note(add_signatures(SIGNED, lines[:-1])).signatures) == most
    with pytest.raises(LimitError, match=f"{most} signatures"):
        add_signatures(SIGNED, lines)
    large = [NoteSignature("w0", bytes(4), bytes(limits.MAX_NOTE * 3 // 4))]
    with pytest.raises(LimitError, match=f"{limits.MAX_NOTE} bytes"):
        add_signatures(SIGNED, large)


def test_nothing_is_added_to_a_damaged_note() -> None:
    note = parse_note(SIGNED)
    twice = format_note(Note(note.text, (*note.signatures, note.signatures[0])))
    for data in (b"", SIGNED[:-1], twice):
        with pytest.raises(DecodeError):
            add_signatures(data, NL.cosign(200))
