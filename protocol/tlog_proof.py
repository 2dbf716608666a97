"""Proof files (C2SP tlog-proof): one entry is in a log, for readers without a network.

    c2sp.org/tlog-proof@v1 NL
    extra <base64> NL                  (may be absent; nobody signs it)
    index <decimal> NL
    <base64 hash> NL                   (none or more, from the leaf's sibling to the root's child)
    <empty line>
    <signed checkpoint with its cosignatures>

The reader brings the entry and the policy; nothing in the file says which of them to use.
"""

from __future__ import annotations

import base64
import re
from dataclasses import dataclass
from typing import Final

from protocol import limits, merkle
from protocol.checkpoint import parse_body
from protocol.cosignatures import Cosigned, check_policy
from protocol.errors import DecodeError, LimitError
from protocol.note import parse_note, strict_base64
from protocol.policy import Policy

HEADER: Final = "c2sp.org/tlog-proof@v1"
_INDEX: Final = re.compile(r"index (0|[1-9][0-9]{0,15})")
_EXTRA: Final = "extra "


@dataclass(frozen=True, slots=True)
class TlogProof:
    """A proof file's content, unverified; *checkpoint* is the signed note as it stands in it."""

    extra: bytes | None
    index: int
    hashes: tuple[bytes, ...]
    checkpoint: bytes


def format_tlog_proof(proof: TlogProof) -> bytes:
    """Return the bytes of *proof*."""
    lines = [HEADER]
    if proof.extra is not None:
        lines.append(_EXTRA + base64.b64encode(proof.extra).decode())
    lines.append(f"index {proof.index}")
    lines += [base64.b64encode(each).decode() for each in proof.hashes]
    return "\n".join([*lines, "", ""]).encode() + proof.checkpoint


def parse_tlog_proof(data: bytes) -> TlogProof:
    """Return the proof in *data*, unverified, but with a well-formed checkpoint.

    Raises:
        DecodeError: it has another form; re-formatting must give the same bytes.
        LimitError: it is longer than a bound.
    """
    if len(data) > limits.MAX_PROOF_FILE:
        raise LimitError(f"a proof file is longer than {limits.MAX_PROOF_FILE} bytes")
    head, found, checkpoint = data.partition(b"\n\n")
    if not found:
        raise DecodeError("a proof file lacks the empty line before its checkpoint")
    if not head.isascii():
        raise DecodeError("a proof file is not plain text before its checkpoint")
    lines = head.decode("ascii").split("\n")
    if lines.pop(0) != HEADER:
        raise DecodeError(f"a proof file does not begin with {HEADER}")
    extra = _extra(lines.pop(0)) if lines and lines[0].startswith(_EXTRA) else None
    index = _index(lines.pop(0) if lines else "")
    proof = TlogProof(extra, index, _hashes(lines), checkpoint)
    parse_body(parse_note(checkpoint).text)
    if format_tlog_proof(proof) != data:
        raise DecodeError("a proof file is not in its one form")
    return proof


def _extra(line: str) -> bytes:
    extra = strict_base64(line.removeprefix(_EXTRA), "a proof file's extra data")
    if not extra:
        raise DecodeError("a proof file has an extra line without data")
    if len(extra) > limits.MAX_PROOF_EXTRA:
        raise LimitError(f"a proof file has more than {limits.MAX_PROOF_EXTRA} bytes of extra data")
    return extra


def _index(line: str) -> int:
    match = _INDEX.fullmatch(line)
    if match is None:
        raise DecodeError("a proof file's index is not a decimal number without leading zeros")
    index = int(match[1])
    if index >= limits.MAX_LOG_SIZE:
        raise DecodeError("a proof file's index is out of range")
    return index


def _hashes(lines: list[str]) -> tuple[bytes, ...]:
    if len(lines) > limits.MAX_PROOF:
        raise LimitError(f"a proof file has more than {limits.MAX_PROOF} hashes")
    hashes = tuple(strict_base64(line, "a proof file's hash") for line in lines)
    if any(len(each) != merkle.HASH_SIZE for each in hashes):
        raise DecodeError("a proof file's hash does not have 32 bytes")
    return hashes


def verify_tlog_proof(proof: TlogProof, *, entry: bytes, policy: Policy) -> Cosigned:
    """Verify that *entry* is in a log of *policy*, at a checkpoint cosigned as that demands.

    Raises:
        DecodeError: the checkpoint is not in its one form.
        SignatureError: no log of the policy signed it, or a known key's signature fails.
        ProofError: the quorum is not met, or the entry is not at that place of the tree.
    """
    cosigned = check_policy(proof.checkpoint, policy)
    merkle.verify_inclusion(
        index=proof.index,
        size=cosigned.checkpoint.size,
        leaf=merkle.leaf_hash(entry),
        proof=proof.hashes,
        root=cosigned.checkpoint.root,
    )
    return cosigned
