"""Proof files: the published layout, what they prove, and the one form in which they are read."""

from __future__ import annotations

import base64
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protocol import limits
from protocol.checkpoint import Checkpoint, cosign_ed25519, sign_checkpoint
from protocol.cosignatures import Cosigned, add_signatures
from protocol.errors import DecodeError, LimitError, PeerError, ProofError, SignatureError
from protocol.merkle import leaf_hash, node_hash
from protocol.policy import Policy, make_policy, parse_policy
from protocol.tlog_proof import (
    TlogProof,
    format_tlog_proof,
    parse_tlog_proof,
    verify_tlog_proof,
)
from tests.protocol.test_cosignatures import NL, NODE

VECTOR: dict[str, Any] = json.loads(
    (Path(__file__).parent.parent / "vectors" / "log.json").read_text(encoding="utf-8")
)
NOTE: bytes = VECTOR["checkpoint"]["note"].encode()
TIME: int = VECTOR["checkpoint"]["witness_b_time"]
CHECKPOINT = Checkpoint(VECTOR["origin"], 5, base64.b64decode(VECTOR["roots"]["5"]))
LEAVES = [bytes.fromhex(each) for each in VECTOR["leaf_hashes"]]
LEFT = bytes.fromhex(VECTOR["nodes"]["0,2"])
POLICY = parse_policy(
    f"log {VECTOR['vkeys']['log']}\nwitness b {VECTOR['vkeys']['witness_b']}\nquorum b\n"
)
PROOF = TlogProof(None, 2, (LEAVES[3], LEFT, LEAVES[4]), NOTE)


def shown(value: bytes) -> str:
    return base64.b64encode(value).decode()


HASHES = "".join(f"{shown(each)}\n" for each in PROOF.hashes)
FILE = f"c2sp.org/tlog-proof@v1\nindex 2\n{HASHES}\n".encode() + NOTE
EXTRA = FILE.replace(b"\nindex", b"\nextra aGVsbG8=\nindex")


# --- the layout ------------------------------------------------------------------------------
def test_a_proof_in_the_published_log_is_written_byte_for_byte() -> None:
    assert format_tlog_proof(PROOF) == FILE
    assert parse_tlog_proof(FILE) == PROOF
    assert format_tlog_proof(replace(PROOF, extra=b"hello")) == EXTRA
    assert parse_tlog_proof(EXTRA) == replace(PROOF, extra=b"hello")


def test_it_proves_the_entry_under_the_published_witness() -> None:
    for data in (FILE, EXTRA):
        found = verify_tlog_proof(parse_tlog_proof(data), entry=b"incident 2", policy=POLICY)
        assert found == Cosigned(CHECKPOINT, frozenset({"b"}), TIME)


def test_a_log_of_one_entry_needs_no_hash() -> None:
    alone = Checkpoint(NODE.name, 1, leaf_hash(b"only"))
    note = sign_checkpoint(alone, ed25519=NODE.ed25519, mldsa44=NODE.mldsa44, now_s=9)
    data = format_tlog_proof(TlogProof(None, 0, (), note))
    assert data == b"c2sp.org/tlog-proof@v1\nindex 0\n\n" + note
    policy = make_policy(NODE.keys, [], 0)
    assert verify_tlog_proof(parse_tlog_proof(data), entry=b"only", policy=policy) == Cosigned(
        alone, frozenset(), None
    )


@settings(deadline=None)
@given(
    st.none() | st.binary(min_size=1, max_size=90), st.integers(0, limits.MAX_LOG_SIZE - 1),
    st.lists(st.binary(min_size=32, max_size=32), max_size=limits.MAX_PROOF),
)  # fmt: skip
def test_any_proof_comes_back(extra: bytes | None, index: int, hashes: list[bytes]) -> None:
    proof = TlogProof(extra, index, tuple(hashes), NOTE)
    assert parse_tlog_proof(format_tlog_proof(proof)) == proof


# --- what it does not prove ------------------------------------------------------------------
@pytest.mark.parametrize("entry", [b"incident 3", b"incident 2 ", b"incident", b""])
def test_another_entry_is_refused(entry: bytes) -> None:
    with pytest.raises(ProofError, match="does not lead to the root"):
        verify_tlog_proof(PROOF, entry=entry, policy=POLICY)


@pytest.mark.parametrize("index", [0, 1, 3, 4, 5, 6, 2**40])
def test_another_index_is_refused(index: int) -> None:
    with pytest.raises(ProofError):
        verify_tlog_proof(replace(PROOF, index=index), entry=b"incident 2", policy=POLICY)


def test_an_inner_node_is_no_entry() -> None:
    inner = b"\1" + LEAVES[2] + LEAVES[3]
    assert node_hash(LEAVES[2], LEAVES[3]) != leaf_hash(inner)
    with pytest.raises(ProofError):
        verify_tlog_proof(replace(PROOF, hashes=PROOF.hashes[1:]), entry=inner, policy=POLICY)


@pytest.mark.parametrize("hashes", [(), PROOF.hashes[:-1], PROOF.hashes[1:], PROOF.hashes[::-1],
                                    (*PROOF.hashes, LEFT), (LEFT, *PROOF.hashes)])  # fmt: skip
def test_other_hashes_are_refused(hashes: tuple[bytes, ...]) -> None:
    with pytest.raises(ProofError):
        verify_tlog_proof(replace(PROOF, hashes=hashes), entry=b"incident 2", policy=POLICY)


def test_the_checkpoint_must_meet_the_policy() -> None:
    stripped = NOTE[: NOTE.rindex("\u2014".encode())]
    with pytest.raises(ProofError, match="missing: b"):
        verify_tlog_proof(replace(PROOF, checkpoint=stripped), entry=b"incident 2", policy=POLICY)
    stranger = make_policy(NODE.keys, [], 0)
    with pytest.raises(SignatureError, match="no log of the policy"):
        verify_tlog_proof(PROOF, entry=b"incident 2", policy=stranger)


def test_an_edited_time_is_refused() -> None:
    line = NOTE[NOTE.rindex(b" ") + 1 : -1]
    data = bytearray(base64.b64decode(line))
    data[11] ^= 1
    edited = NOTE.replace(line, base64.b64encode(data))
    with pytest.raises(SignatureError, match="cosignature"):
        verify_tlog_proof(replace(PROOF, checkpoint=edited), entry=b"incident 2", policy=POLICY)


def test_a_cosignature_may_be_renewed_and_the_proof_still_stands() -> None:
    policy: Policy = parse_policy(
        f"log {VECTOR['vkeys']['log']}\nwitness b {VECTOR['vkeys']['witness_b']}\n"
        f"witness nl {shown_key()}\ngroup any any b nl\nquorum any\n"
    )
    line = cosign_ed25519(CHECKPOINT, name=NL.name, key=NL.ed25519, now_s=TIME - 60)
    proof = replace(PROOF, checkpoint=add_signatures(NOTE, [line]))
    found = verify_tlog_proof(proof, entry=b"incident 2", policy=policy)
    assert found == Cosigned(CHECKPOINT, frozenset({"b", "nl"}), TIME - 60)


def shown_key() -> str:
    key = NL.vkeys[0]
    return f"{key.name}+{key.key_id.hex()}+{shown(bytes([key.type]) + key.public_key)}"


def test_each_single_bit_change_is_refused() -> None:
    def refused(data: bytes) -> bool:
        try:
            verify_tlog_proof(parse_tlog_proof(data), entry=b"incident 2", policy=POLICY)
        except PeerError:
            return True
        return False

    assert not refused(FILE)
    accepted = [
        (at, bit)
        for at in range(len(FILE))
        for bit in range(8)
        if not refused(FILE[:at] + bytes([FILE[at] ^ 1 << bit]) + FILE[at + 1 :])
    ]
    # What became a line of an unknown key is ignored, and then the quorum or the log is missing.
    assert accepted == []


# --- the one form ----------------------------------------------------------------------------
def head(*lines: str) -> bytes:
    return "\n".join([*lines, "", ""]).encode() + NOTE


V1 = "c2sp.org/tlog-proof@v1"
ONE = shown(LEFT)
NOT_CANONICAL = shown(LEAVES[4])[:-2] + chr(ord(shown(LEAVES[4])[-2]) + 1) + "="
LAX: dict[str, bytes] = {
    "nothing": b"",
    "a checkpoint alone": NOTE,
    "no checkpoint": head(V1, "index 0")[: -len(NOTE)],
    "an empty line less": FILE.replace(b"\n\n", b"\n", 1),
    "an empty line more": FILE.replace(b"\n\n", b"\n\n\n", 1),
    "an empty line in front": b"\n" + FILE,
    "Windows line ends": FILE.replace(b"\n", b"\r\n"),
    "Windows line ends in its head": FILE[: -len(NOTE)].replace(b"\n", b"\r\n") + NOTE,
    "no last newline": FILE[:-1],
    "a newline more at the end": FILE + b"\n",
    "another version": FILE.replace(b"@v1", b"@v2"),
    "a space behind the version": FILE.replace(b"@v1", b"@v1 "),
    "letters beyond ASCII": FILE.replace(b"index", "ind\u00e9x".encode()),
    "no index": head(V1, ONE),
    "no index but extra data": head(V1, "extra aGVsbG8="),
    "nothing but the version": head(V1),
    "two indexes": head(V1, "index 2", "index 2"),
    "extra data behind the index": head(V1, "index 2", "extra aGVsbG8="),
    "extra data twice": head(V1, "extra aGVsbG8=", "extra aGVsbG8=", "index 2"),
    "extra data of nothing": head(V1, "extra ", "index 2"),
    "extra data without a space": head(V1, "extra", "index 2"),
    "extra data without padding": head(V1, "extra aGVsbG8", "index 2"),
    "extra data that is not canonical": head(V1, "extra aGVsbG9=", "index 2"),
    "extra data of another alphabet": head(V1, "extra _-8=", "index 2"),
    "extra data with a space behind it": head(V1, "extra aGVsbG8= ", "index 2"),
    **{
        f"the index {index!r}": head(V1, f"index {index}", ONE)
        for index in (
            "02", "00", "+2", "-2", "-0", " 2", "2 ", "2_0", "2.0", "2e0", "0x2", "", "two",
            str(limits.MAX_LOG_SIZE), "9" * 17, "9" * 5_000,
        )
    },
    "an index in Arabic digits": head(V1, "index \u0662", ONE),
    "the index in capitals": head(V1, "INDEX 2", ONE),
    "a tab before the index": head(V1, "index\t2", ONE),
    "a hash without padding": head(V1, "index 2", ONE[:-1]),
    "a hash that is not canonical": head(V1, "index 2", NOT_CANONICAL),
    "a hash of another alphabet": head(V1, "index 2", ONE.replace("+", "-").replace("/", "_")),
    "a hash in hex": head(V1, "index 2", LEFT.hex()),
    "a hash of 31 bytes": head(V1, "index 2", shown(bytes(31))),
    "a hash of 33 bytes": head(V1, "index 2", shown(bytes(33))),
    "a hash with a space before it": head(V1, "index 2", f" {ONE}"),
    "a hash with a space behind it": head(V1, "index 2", f"{ONE} "),
    "two hashes in a line": head(V1, "index 2", ONE + ONE),
    "a checkpoint with a leading zero": FILE.replace(b"\n5\n", b"\n05\n"),
    "a checkpoint with an extension": FILE.replace(b"\n\n\xe2", b"\nmore\n\n\xe2"),
    "a note that is no checkpoint": FILE.replace(b"\n5\n", b"\n5\n5\n"),
}  # fmt: skip


@pytest.mark.parametrize("name", LAX)
def test_a_file_of_another_form_is_refused(name: str) -> None:
    assert LAX[name] not in {FILE, EXTRA}
    with pytest.raises(DecodeError):
        parse_tlog_proof(LAX[name])


def test_each_truncation_is_refused() -> None:
    whole_lines = {FILE.rindex("\u2014".encode())}  # a cosignature less is still a note
    for length in set(range(len(FILE))) - whole_lines:
        with pytest.raises(DecodeError):
            parse_tlog_proof(FILE[:length])


def test_what_is_beyond_a_bound_is_refused() -> None:
    most = replace(PROOF, extra=bytes(limits.MAX_PROOF_EXTRA))
    assert parse_tlog_proof(format_tlog_proof(most)) == most
    with pytest.raises(LimitError, match="extra data"):
        parse_tlog_proof(format_tlog_proof(replace(PROOF, extra=bytes(limits.MAX_PROOF_EXTRA + 1))))
    with pytest.raises(LimitError, match=f"{limits.MAX_PROOF} hashes"):
        parse_tlog_proof(head(V1, "index 2", *[ONE] * (limits.MAX_PROOF + 1)))
    with pytest.raises(LimitError, match="longer than"):
        parse_tlog_proof(bytes(limits.MAX_PROOF_FILE + 1))


def test_the_longest_proof_file_is_within_its_bound() -> None:
    head_of_all = TlogProof(
        bytes(limits.MAX_PROOF_EXTRA), limits.MAX_LOG_SIZE - 1, (LEFT,) * limits.MAX_PROOF, b""
    )
    assert len(format_tlog_proof(head_of_all)) + limits.MAX_NOTE <= limits.MAX_PROOF_FILE
