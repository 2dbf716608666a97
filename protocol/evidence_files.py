"""The forms of the files in an evidence bundle: each is read strictly and has one form.

- ``manifest.json``: what is in the bundle, with the SHA-256 of each file; its holder signs it.
- ``vkeys.txt``: a line ``log <vkey>`` for each key of the log, ``witness <vkey>`` for each other.
- ``access.json``: acts about the message, each with its log entry, what that commits to and a proof
  of inclusion, under one checkpoint that continues the one of the message itself.
- ``receipts.bin``: ``[1, [[receipts frame with one item, card bundle of who gave it], ...]]``.
- ``content.json``: the opened record; byte strings stand in it in hexadecimal.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

from protocol import limits, suite
from protocol.access import AccessAct
from protocol.access import parse_access as parse_act
from protocol.canonical import Value, decode, encode
from protocol.errors import DecodeError, LimitError
from protocol.evidence_zip import MANIFEST, MEMBERS, SIGNATURE, STAMP, STAMPED
from protocol.note import VerifierKey, format_vkey, parse_vkey, strict_base64
from protocol.shape import array, octets, uint
from protocol.statement import CARD, Card, Chain
from protocol.statement import VERSION as BUNDLE_VERSION

VERSION: Final = 1
FORMAT: Final = "picket-evidence"
LABEL: Final = "evidence"
UNLISTED: Final = frozenset({MANIFEST, SIGNATURE, STAMP, STAMPED})
"""What the manifest does not list: it and its signature, and what proves itself."""
_LAST_TIME: Final = 253_402_300_799_999  # RFC 3339 has no year after 9999
_MADE: Final = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}Z")
_HEX: Final = re.compile(r"(?:[0-9a-f]{2})*")
_RECEIPT: Final = 2


# --- JSON ------------------------------------------------------------------------------------
def format_json(value: object) -> bytes:
    """Return *value* in the one form that JSON has in a bundle."""
    return (json.dumps(value, ensure_ascii=False, indent=2) + "\n").encode()


def _parse_json(data: bytes, name: str) -> dict[str, Any]:
    try:
        value = json.loads(data)
        same = format_json(value) == data
    except (ValueError, RecursionError):
        raise DecodeError(f"{name} is not JSON") from None
    if not same:
        raise DecodeError(f"{name} is not in its one form")
    if type(value) is not dict:
        raise DecodeError(f"{name} is not an object")
    return value


def _fields(value: object, names: Sequence[str], where: str) -> list[Any]:
    if type(value) is not dict or list(value) != list(names):
        raise DecodeError(f"{where} does not have the fields {', '.join(names)}")
    return list(value.values())


def _text(value: object, where: str) -> str:
    if type(value) is not str:
        raise DecodeError(f"{where} is not text")
    return value


def _count(value: object, where: str) -> int:
    if type(value) is not int or not 0 <= value <= limits.MAX_LOG_SIZE:
        raise DecodeError(f"{where} is not a number in range")
    return value


def _hex(value: object, where: str, *, size: int | None = None) -> bytes:
    text = _text(value, where)
    if not _HEX.fullmatch(text) or (size is not None and len(text) != 2 * size):
        raise DecodeError(f"{where} is not so many bytes in hexadecimal")
    return bytes.fromhex(text)


def _hashes(value: object, where: str) -> tuple[bytes, ...]:
    if type(value) is not list or len(value) > limits.MAX_PROOF:
        raise DecodeError(f"{where} is not a list of up to {limits.MAX_PROOF} hashes")
    found = tuple(strict_base64(_text(item, where), where) for item in value)
    if any(len(item) != suite.DIGEST_SIZE for item in found):
        raise DecodeError(f"{where} has a hash that is not 32 bytes long")
    return found


def _base64(hashes: Sequence[bytes]) -> list[str]:
    return [base64.b64encode(item).decode() for item in hashes]


def when(ms: int) -> str:
    """Return *ms* as RFC 3339 UTC, whole seconds; a number out of its range as it is."""
    if not 0 <= ms <= _LAST_TIME:
        return f"{ms} ms"
    return f"{datetime.fromtimestamp(ms // 1000, UTC):%Y-%m-%dT%H:%M:%SZ}"


# --- the manifest ----------------------------------------------------------------------------
@dataclass(frozen=True, slots=True)
class Manifest:
    """What the holder says is in the bundle; *act* is the log index of the export itself."""

    network: str
    envelope_id: bytes
    holder: bytes
    made: str
    act: int
    digests: Mapping[str, bytes]


_MANIFEST_KEYS: Final = (
    "format", "version", "network", "envelope", "holder", "made", "act", "files",
)  # fmt: skip


def format_manifest(
    files: Mapping[str, bytes], *, network: str, envelope_id: bytes, holder: bytes, made: int,
    act: int,
) -> bytes:  # fmt: skip
    """Return the manifest of *files*, made at *made* (ms)."""
    listed = {
        name: {"what": member.what, "sha256": hashlib.sha256(files[name]).hexdigest()}
        for name, member in MEMBERS.items()
        if name in files and name not in UNLISTED
    }
    values = (
        FORMAT, VERSION, network, envelope_id.hex(), holder.hex(), when(made), act, listed,
    )  # fmt: skip
    return format_json(dict(zip(_MANIFEST_KEYS, values, strict=True)))


def parse_manifest(data: bytes) -> Manifest:
    """Return the manifest that *data* holds, unverified.

    Raises:
        DecodeError: it has another form, or is of a later version.
    """
    kind, version, network, envelope_id, holder, made, act, files = _fields(
        _parse_json(data, MANIFEST), _MANIFEST_KEYS, MANIFEST
    )
    if kind != FORMAT or version is True or version != VERSION:
        raise DecodeError("the bundle is of a kind or version that is not known; update Picket")
    if type(files) is not dict:
        raise DecodeError("manifest.files is not an object")
    if not _MADE.fullmatch(_text(made, "manifest.made")):
        raise DecodeError("manifest.made is no time in UTC")
    digests = {}
    for name, row in files.items():
        what, sha256 = _fields(row, ("what", "sha256"), f"manifest.files.{name:.40}")
        _text(what, "manifest.files.what")
        digests[name] = _hex(sha256, "manifest.files.sha256", size=32)
    return Manifest(
        _text(network, "manifest.network"),
        _hex(envelope_id, "manifest.envelope", size=32),
        _hex(holder, "manifest.holder", size=32),
        made,
        _count(act, "manifest.act"),
        digests,
    )


def sign_manifest(manifest: bytes, *, signer: suite.HybridSigner) -> bytes:
    """Return the holder's signatures over the bytes of the manifest, by its link key.

    The link key is the one hybrid key that signs under labels and that a locked node has.
    """
    return b"".join(signer.sign(suite.label(LABEL) + suite.digest(LABEL, manifest)))


def verify_manifest(manifest: bytes, signature: bytes, *, card: Card) -> None:
    """Verify both *signature* parts over the *manifest* under the link key on *card*.

    Raises:
        SignatureError: one of them does not verify.
    """
    parts = signature[: suite.ED25519_SIGNATURE], signature[suite.ED25519_SIGNATURE :]
    suite.verify_hybrid(LABEL, card.link, suite.digest(LABEL, manifest), parts)


# --- keys ------------------------------------------------------------------------------------
def chain_bundle(chain: Chain, *, keep: frozenset[int], last: int | None = None) -> bytes:
    """Return the card bundle of *chain* up to number *last*, with the cards in *keep* whole."""
    last = len(chain.statements) - 1 if last is None else last
    wires = [
        statement.skeleton() if statement.type == CARD and n not in keep | {last}
        else statement.wire
        for n, statement in enumerate(chain.statements[: last + 1])
    ]  # fmt: skip
    return encode([BUNDLE_VERSION, wires])


@dataclass(frozen=True, slots=True)
class Vkeys:
    """The keys of the log, and those of witnesses."""

    log: tuple[VerifierKey, ...]
    witnesses: tuple[VerifierKey, ...]


def format_vkeys(vkeys: Vkeys) -> bytes:
    """Return the file with *vkeys*."""
    named = [("log", key) for key in vkeys.log] + [("witness", key) for key in vkeys.witnesses]
    return "".join(
        f"{role} {format_vkey(key.name, key.type, key.public_key)}\n" for role, key in named
    ).encode()


def parse_vkeys(data: bytes) -> Vkeys:
    """Return the keys in the file *data*.

    Raises:
        DecodeError: it has another form.
    """
    try:
        lines = data.decode("ascii").split("\n")
    except UnicodeDecodeError:
        raise DecodeError("vkeys.txt is not ASCII text") from None
    found: dict[str, list[VerifierKey]] = {"log": [], "witness": []}
    for number, line in enumerate(lines[:-1], start=1):
        role, _, text = line.partition(" ")
        if role not in found:
            raise DecodeError(f"line {number} of vkeys.txt is neither log nor witness")
        found[role].append(parse_vkey(text))
    vkeys = Vkeys(tuple(found["log"]), tuple(found["witness"]))
    if format_vkeys(vkeys) != data:
        raise DecodeError("vkeys.txt is not in its one form")
    return vkeys


# --- acts ------------------------------------------------------------------------------------
@dataclass(frozen=True, slots=True)
class Logged:
    """One act of reading or exporting, and the entry that commits to it by *local*."""

    index: int
    entry: bytes
    local: bytes
    local_blind: bytes
    proof: tuple[bytes, ...]

    @property
    def act(self) -> AccessAct:
        """What the entry records.

        Raises:
            DecodeError: it records something of another form.
        """
        return parse_act(self.local)

    def says(self) -> dict[str, object]:
        """Return what the entry records, for people.

        Raises:
            DecodeError: it records something of another form.
        """
        act = self.act
        return {
            "what": act.what, "who": act.who, "at": when(act.at), "note": act.note,
            "envelopes": [each.hex() for each in act.ids],
        }  # fmt: skip


def export_note(*, content: bool, by: str, reason: str) -> str:
    """Return the note with which an export is logged."""
    parts = [f"{'with' if content else 'without'} content"]
    parts += [f"by {by}"] if by else []
    parts += [f"reason: {reason}"] if reason else []
    return "; ".join(parts)


def has_content(note: str) -> bool:
    """Return whether the *note* of an export says that content went out."""
    return note.split(";", 1)[0] == "with content"


@dataclass(frozen=True, slots=True)
class Access:
    """Acts about one message under one checkpoint; older ones may be *left_out*."""

    checkpoint: bytes
    consistency: tuple[bytes, ...]
    left_out: int
    acts: tuple[Logged, ...]


_ACCESS_KEYS: Final = ("checkpoint", "consistency", "left_out", "acts")
_ACT_KEYS: Final = ("says", "index", "entry", "local", "local_blind", "proof")


def format_access(access: Access) -> bytes:
    """Return the file with *access*."""
    acts = [
        dict(
            zip(
                _ACT_KEYS,
                (
                    act.says(), act.index, act.entry.hex(), act.local.hex(),
                    act.local_blind.hex(), _base64(act.proof),
                ),
                strict=True,
            )
        )
        for act in access.acts
    ]  # fmt: skip
    values = (access.checkpoint.decode(), _base64(access.consistency), access.left_out, acts)
    return format_json(dict(zip(_ACCESS_KEYS, values, strict=True)))


def parse_access(data: bytes) -> Access:
    """Return the acts in the file *data*, unproven.

    Raises:
        DecodeError: it has another form, or says of an act what that does not record.
    """
    checkpoint, consistency, left_out, rows = _fields(
        _parse_json(data, "access.json"), _ACCESS_KEYS, "access.json"
    )
    if type(rows) is not list or len(rows) > limits.MAX_EVIDENCE_ACTS:
        raise DecodeError(f"access.acts is not a list of up to {limits.MAX_EVIDENCE_ACTS} acts")
    return Access(
        _text(checkpoint, "access.checkpoint").encode(),
        _hashes(consistency, "access.consistency"),
        _count(left_out, "access.left_out"),
        tuple(map(_act, rows)),
    )


def _act(row: object) -> Logged:
    says, index, entry, local, local_blind, proof = _fields(row, _ACT_KEYS, "access.act")
    act = Logged(
        _count(index, "access.act.index"),
        _hex(entry, "access.act.entry"),
        _hex(local, "access.act.local"),
        _hex(local_blind, "access.act.local_blind", size=16),
        _hashes(proof, "access.act.proof"),
    )
    if says != act.says():
        raise DecodeError(f"access.json does not say of entry {act.index} what that records")
    return act


# --- receipts --------------------------------------------------------------------------------
def encode_receipts(receipts: Sequence[tuple[bytes, bytes]]) -> bytes:
    """Return the file with *receipts*: (receipts frame with one item, card bundle) pairs."""
    return encode([VERSION, receipts])


def parse_receipts(data: bytes) -> tuple[tuple[bytes, bytes], ...]:
    """Return the (receipts frame, card bundle) pairs in the file *data*, unverified.

    Raises:
        DecodeError: it has another form.
        LimitError: it, or a part of it, is beyond its bound.
    """
    outer = array(decode(data, max_bytes=limits.MAX_EVIDENCE_RECEIPTS), "receipts", size=2)
    if uint(outer[0], "receipts.version") != VERSION:
        raise DecodeError("receipts.version is not known; update Picket")
    most = limits.MAX_RECIPIENTS + limits.MAX_CARRIERS
    pairs = []
    for item in array(outer[1], "receipts.items", minimum=1, maximum=most):
        frame, bundle = array(item, "receipts.item", size=_RECEIPT)
        pairs.append(
            (
                octets(frame, "receipts.frame", maximum=limits.MAX_RECEIPT_FRAME),
                octets(bundle, "receipts.card", maximum=limits.MAX_BUNDLE),
            )
        )
    return tuple(pairs)


# --- content ---------------------------------------------------------------------------------
def format_content(body: bytes) -> bytes:
    """Return the opened *body* of an envelope as it is shown to people.

    Raises:
        DecodeError: it is not a canonical value.
        LimitError: it is too long in this form.
    """
    shown = format_json(jsonable(decode(body, max_bytes=limits.MAX_BODY)))
    if len(shown) > limits.MAX_EVIDENCE_CONTENT:
        raise LimitError(f"the content is longer than {limits.MAX_EVIDENCE_CONTENT} bytes as JSON")
    return shown


def jsonable(value: Value) -> object:
    """Return *value* with byte strings in hexadecimal."""
    if type(value) is bytes:
        return value.hex()
    if type(value) is list:
        return [jsonable(item) for item in value]
    if type(value) is dict:
        return {key: jsonable(item) for key, item in value.items()}
    return value
