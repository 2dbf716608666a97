"""The container of an evidence bundle: a ZIP file with exactly one form for given members.

- Known names only, in one order, stored without compression, all with one time and mode: equal
  members give equal bytes, so the SHA-256 of a bundle names it, and nothing can expand.
- The reader goes through the local headers, then builds the file anew and compares all bytes. So
  no other reader of ZIP files can see other members than this one does.
- Everything wrong is noted, and what can be read is returned beside it: one fault hides no other.

Source: PKWARE APPNOTE 6.3.9, sections 4.3.7, 4.3.12 and 4.3.16.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from protocol import limits

MANIFEST: Final = "manifest.json"
SIGNATURE: Final = "manifest.sig"
REPORT: Final = "report.txt"
ENVELOPE: Final = "envelope.bin"
AUDIENCE: Final = "audience.bin"
AUTHOR: Final = "author-statements.bin"
HOLDER: Final = "holder-statements.bin"
ENTRY: Final = "entry.bin"
LOCAL: Final = "local.bin"
LOCAL_BLIND: Final = "local-blind.bin"
PROOF: Final = "proof.tlog-proof"
POLICY: Final = "policy.txt"
VKEYS: Final = "vkeys.txt"
ACCESS: Final = "access.json"
RECEIPTS: Final = "receipts.bin"
ANCHOR: Final = "anchor.txt"
CONTENT: Final = "content.json"
CONTENT_KEY: Final = "content-key.bin"
STAMP: Final = "timestamp.tsr"
STAMPED: Final = "stamped.tlog-proof"


@dataclass(frozen=True, slots=True)
class Member:
    """One file that a bundle may have: its bound, what it is, and whether it must be there."""

    maximum: int
    what: str
    required: bool = True


MEMBERS: Final[Mapping[str, Member]] = {
    REPORT: Member(limits.MAX_EVIDENCE_TEXT, "a summary for people, written by the holder"),
    MANIFEST: Member(limits.MAX_EVIDENCE_TEXT, "the list of these files with their SHA-256"),
    SIGNATURE: Member(4_096, "the holder's signatures over the list: Ed25519, then ML-DSA-65"),
    ENVELOPE: Member(limits.MAX_ENVELOPE, "the message as it was received, signed and encrypted"),
    AUDIENCE: Member(
        limits.MAX_AUDIENCE, "to whom the message is addressed, where it does not say so itself",
        required=False,
    ),
    AUTHOR: Member(limits.MAX_BUNDLE, "the author's key statements, up to the card that signed"),
    HOLDER: Member(limits.MAX_BUNDLE, "the key statements of the node whose log this is"),
    ENTRY: Member(limits.MAX_ENTRY, "the entry in the holder's log that records the message"),
    LOCAL: Member(limits.MAX_HEADER, "what the entry says of who gave the message, and when"),
    LOCAL_BLIND: Member(16, "the random bytes that hide it from others"),
    PROOF: Member(limits.MAX_PROOF_FILE, "the proof that the entry is in the log (tlog-proof)"),
    POLICY: Member(limits.MAX_POLICY, "the holder's choice of log and witnesses (tlog-policy)"),
    VKEYS: Member(limits.MAX_POLICY, "all keys of the log and its witnesses, as verifier keys"),
    ACCESS: Member(limits.MAX_EVIDENCE_ACCESS, "who read or exported it, as the log records it"),
    RECEIPTS: Member(
        limits.MAX_EVIDENCE_RECEIPTS, "receipts of its recipients, with their key statements",
        required=False,
    ),
    ANCHOR: Member(
        limits.MAX_NOTE, "the checkpoint that the author named as already known to it",
        required=False,
    ),
    CONTENT: Member(limits.MAX_EVIDENCE_CONTENT, "the opened message", required=False),
    CONTENT_KEY: Member(32, "the key that opens this one message", required=False),
    STAMP: Member(limits.MAX_TIMESTAMP, "a time stamp (RFC 3161)", required=False),
    STAMPED: Member(
        limits.MAX_PROOF_FILE, "the earlier proof that the time stamp covers", required=False
    ),
}  # fmt: skip
"""Every file that a bundle may have, in the order in which it has them."""

_LOCAL_HEADER: Final = struct.Struct("<4sHHHHHIIIHH")
_CENTRAL_HEADER: Final = struct.Struct("<4sHHHHHHIIIHHHHHII")
_END: Final = struct.Struct("<4sHHHHIIH")
_LOCAL_MARK: Final = b"PK\x03\x04"
_CENTRAL_MARK: Final = b"PK\x01\x02"
_END_MARK: Final = b"PK\x05\x06"
_NEEDED: Final = 10  # version 1.0: nothing but stored members
_MADE_BY: Final = 3 << 8 | 30  # Unix, so that the mode below counts
_DATE: Final = 1 << 5 | 1  # 1980-01-01, the first day that the format knows
_MODE: Final = 0o100600 << 16
_SHOWN: Final = 60


def write_zip(files: Mapping[str, bytes]) -> bytes:
    """Return the bundle that has exactly *files*, which are known and within their bounds."""
    local, central = bytearray(), bytearray()
    for name in MEMBERS:
        if name not in files:
            continue
        data, encoded = files[name], name.encode("ascii")
        common = (_NEEDED, 0, 0, 0, _DATE, zlib.crc32(data), len(data), len(data), len(encoded))
        central += _CENTRAL_HEADER.pack(
            _CENTRAL_MARK, _MADE_BY, *common, 0, 0, 0, 0, _MODE, len(local)
        )
        central += encoded
        local += _LOCAL_HEADER.pack(_LOCAL_MARK, *common, 0) + encoded + data
    count = sum(name in files for name in MEMBERS)
    end = _END.pack(_END_MARK, 0, 0, count, count, len(central), len(local), 0)
    return bytes(local + central + end)


def read_zip(data: bytes) -> tuple[dict[str, bytes], tuple[str, ...]]:
    """Return the known members of a bundle and, in words, everything that is wrong with it."""
    if len(data) > limits.MAX_EVIDENCE:
        return {}, (f"it is no bundle: it is longer than {limits.MAX_EVIDENCE} bytes",)
    if data[:4] != _LOCAL_MARK:
        return {}, ("it is no bundle: it does not begin as a ZIP file does",)
    files: dict[str, bytes] = {}
    faults: list[str] = []
    at = 0
    while data[at : at + 4] == _LOCAL_MARK and len(faults) <= len(MEMBERS):
        if (end := _read_member(data, at, files, faults)) is None:
            break
        at = end
    faults += [
        f"{name} is missing"
        for name, member in MEMBERS.items()
        if member.required and name not in files
    ]
    if not faults and write_zip(files) != data:
        faults.append("its members, or what stands around them, are not in the one form")
    return files, tuple(faults)


def _read_member(data: bytes, at: int, files: dict[str, bytes], faults: list[str]) -> int | None:
    """Take the member at *at*; return where the next begins, or None if that cannot be told."""
    if at + _LOCAL_HEADER.size > len(data):
        faults.append("it is cut short")
        return None
    fields = _LOCAL_HEADER.unpack_from(data, at)
    flags, method, packed, name_size, extra_size = (int(fields[n]) for n in (2, 3, 7, 9, 10))
    begin = at + _LOCAL_HEADER.size + name_size + extra_size
    raw = data[at + _LOCAL_HEADER.size : begin - extra_size]
    name = raw.decode("ascii", "backslashreplace")
    shown = f"{name!r:.{_SHOWN}}"
    if flags or method or extra_size:
        faults.append(f"{shown} is compressed, encrypted or has extra fields")
        # With flags, where the member ends may only be told after it, so nothing more is read.
        return None if flags else begin + packed
    body = data[begin : begin + packed]
    member = MEMBERS.get(name)
    if member is None:
        faults.append(f"{shown} does not belong in a bundle")
    elif name in files:
        faults.append(f"{name} is there twice")
    elif packed > member.maximum:
        faults.append(f"{name} has {packed} bytes; at most {member.maximum} are allowed")
    elif len(body) != packed:
        faults.append(f"{name} is cut short")
    elif zlib.crc32(body) != fields[6]:
        faults.append(f"{name} is damaged")
    else:
        files[name] = body
    return begin + packed
