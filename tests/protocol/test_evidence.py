"""The container and the files of an evidence bundle: one form each, and nothing else is read.

What a whole bundle proves, and what is said of a forged one, is in tests/node/test_evidence.py.
"""

from __future__ import annotations

import hashlib
import io
import json
import struct
import zipfile
from collections.abc import Callable, Mapping
from typing import Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol import evidence_zip as zips
from protocol import limits
from protocol.access import EXPORT_EVIDENCE, AccessAct
from protocol.canonical import encode
from protocol.errors import DecodeError, PeerError
from protocol.evidence import CHECKS, holds, verify_evidence
from protocol.evidence_files import (
    Access,
    Logged,
    Vkeys,
    encode_receipts,
    export_note,
    format_access,
    format_content,
    format_json,
    format_manifest,
    format_vkeys,
    has_content,
    parse_access,
    parse_manifest,
    parse_receipts,
    parse_vkeys,
)
from protocol.note import ED25519, VerifierKey, key_id

REQUIRED: Final = {name: name.encode() for name, member in zips.MEMBERS.items() if member.required}
FILES: Final = {**REQUIRED, zips.LOCAL_BLIND: bytes(16), zips.CONTENT: b"{}\n"}
WHOLE: Final = zips.write_zip(FILES)


# --- the container ---------------------------------------------------------------------------
def test_what_is_written_is_read_again() -> None:
    assert zips.read_zip(WHOLE) == (FILES, ())


def test_equal_members_give_equal_bytes_in_whatever_order_they_come() -> None:
    assert zips.write_zip(dict(reversed(FILES.items()))) == WHOLE


def test_another_reader_of_zip_files_sees_the_same_members() -> None:
    with zipfile.ZipFile(io.BytesIO(WHOLE)) as other:
        assert other.testzip() is None
        assert {name: other.read(name) for name in other.namelist()} == FILES
        assert other.namelist() == [name for name in zips.MEMBERS if name in FILES]
        assert {each.external_attr >> 16 for each in other.infolist()} == {0o100600}


def repacked(
    files: Mapping[str, bytes], *, method: int = zipfile.ZIP_STORED, mode: int = 0o600,
    more: tuple[tuple[str, bytes], ...] = (),
) -> bytes:  # fmt: skip
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w", method) as made:
        for name, data in [*files.items(), *more]:
            info = zipfile.ZipInfo(name)
            info.external_attr = mode << 16
            made.writestr(info, data, method)
    return target.getvalue()


def without(name: str) -> bytes:
    return zips.write_zip({key: data for key, data in FILES.items() if key != name})


def with_central_name(name: str, other: str) -> bytes:
    """Name a member differently in the directory at the end, which other readers go by."""
    at = WHOLE.rindex(name.encode())
    return WHOLE[:at] + other.encode().ljust(len(name), b"_") + WHOLE[at + len(name) :]


def huge() -> bytes:
    return zips.write_zip({**FILES, zips.ENTRY: bytes(limits.MAX_ENTRY + 1)})


def claimed_size() -> bytes:
    """Give the first member a length that reaches far beyond the file."""
    return WHOLE[:18] + struct.pack("<II", 2**32 - 1, 2**32 - 1) + WHOLE[26:]


EXTRA: Final = ("notes.txt", b"hello")
ATTACKS: Final[Mapping[str, tuple[Callable[[], bytes], str]]] = {
    "extra": (lambda: repacked(FILES, more=(EXTRA,)), "'notes.txt' does not belong"),
    "path": (lambda: repacked(FILES, more=(("../.bashrc", b""),)), "'../.bashrc' does not belong"),
    "absolute": (lambda: repacked(FILES, more=(("/etc/x", b""),)), "'/etc/x' does not belong"),
    "folder": (lambda: repacked(FILES, more=(("a/", b""),)), "'a/' does not belong"),
    "upper case": (lambda: repacked(FILES, more=(("ENTRY.BIN", b""),)), "does not belong"),
    "symbolic link": (lambda: repacked(FILES, mode=0o120777), "one form"),
    "missing": (lambda: without(zips.ENTRY), "entry.bin is missing"),
    "huge": (huge, "entry.bin has 257 bytes; at most 256 are allowed"),
    "claimed size": (claimed_size, "report.txt has 4294967295 bytes"),
    "bomb": (
        lambda: repacked({**FILES, zips.ENVELOPE: bytes(2**20)}, method=zipfile.ZIP_DEFLATED),
        "compressed",
    ),
    "other order": (lambda: repacked(dict(reversed(FILES.items()))), "one form"),
    "before": (lambda: b"#!/bin/sh\n" + WHOLE, "does not begin as a ZIP file"),
    "after": (lambda: WHOLE + b"x", "one form"),
    "between": (lambda: WHOLE.replace(b"PK\x01\x02", b"xPK\x01\x02", 1), "one form"),
    "cut": (lambda: WHOLE[:-30], "one form"),
    "cut in a member": (lambda: WHOLE[:40], "report.txt is missing"),
    "other directory": (lambda: with_central_name(zips.ENTRY, "evil.bin"), "one form"),
    "damaged": (lambda: WHOLE.replace(b"envelope.binenvelope.bin", b"envelope.binenvelope.bix", 1),
                "envelope.bin is damaged"),
    "empty": (lambda: b"", "it is no bundle"),
    "too long": (lambda: bytes(limits.MAX_EVIDENCE + 1), "longer than"),
}  # fmt: skip


@pytest.mark.parametrize("name", ATTACKS)
def test_a_container_of_another_form_is_told_and_fails_the_bundle(name: str) -> None:
    make, said = ATTACKS[name]
    files, faults = zips.read_zip(make())
    assert any(said in fault for fault in faults), faults
    checks = {check.name: check for check in verify_evidence(files, faults=faults)}
    assert checks["bundle"].ok is False
    assert set(files) <= set(zips.MEMBERS)


def test_a_member_that_is_there_twice_counts_once_and_is_told() -> None:
    with pytest.warns(UserWarning, match="Duplicate"):
        data = repacked(FILES, more=((zips.ENTRY, b"other"),))
    files, faults = zips.read_zip(data)
    assert files[zips.ENTRY] == FILES[zips.ENTRY]
    assert f"{zips.ENTRY} is there twice" in faults


def test_one_fault_of_the_container_does_not_hide_the_members() -> None:
    files, faults = zips.read_zip(repacked(FILES, more=(EXTRA,)))
    assert len(faults) == 1
    assert files == FILES


def test_no_end_of_foreign_members_is_told() -> None:
    more = tuple((f"{n}.txt", b"") for n in range(5_000))
    _, faults = zips.read_zip(repacked(FILES, more=more))
    assert len(faults) < 100


@given(st.binary(max_size=200), st.integers(0, len(WHOLE)))
def test_no_bytes_make_the_reader_fail_otherwise(noise: bytes, at: int) -> None:
    for data in (noise, b"PK\x03\x04" + noise, WHOLE[:at] + noise + WHOLE[at:]):
        files, faults = zips.read_zip(data)
        assert faults or data == WHOLE
        assert {name for name in files if len(files[name]) > zips.MEMBERS[name].maximum} == set()


@pytest.mark.parametrize("at", range(0, len(WHOLE), 7))
def test_each_changed_byte_is_noticed(at: int) -> None:
    changed = WHOLE[:at] + bytes([WHOLE[at] ^ 1]) + WHOLE[at + 1 :]
    assert zips.read_zip(changed)[1]


# --- a bundle of nothing ---------------------------------------------------------------------
def test_every_check_is_told_of_a_bundle_without_files() -> None:
    checks = verify_evidence({})
    assert tuple(check.name for check in checks) == CHECKS
    assert {check.name for check in checks if check.ok is False} == {"bundle"}
    assert not any(check.ok for check in checks)
    assert not holds(checks)


@given(st.dictionaries(st.sampled_from(sorted(zips.MEMBERS)), st.binary(max_size=64)))
def test_no_files_make_a_check_fail_otherwise_than_by_saying_so(files: dict[str, bytes]) -> None:
    checks = verify_evidence(files)
    assert tuple(check.name for check in checks) == CHECKS
    assert not holds(checks)


# --- the manifest ----------------------------------------------------------------------------
MANIFEST: Final = format_manifest(
    FILES, network="test.example", envelope_id=bytes(32), holder=bytes(32), made=0, act=7
)


def test_the_manifest_lists_all_but_itself_and_what_proves_itself() -> None:
    parsed = parse_manifest(MANIFEST)
    assert set(parsed.digests) == set(FILES) - {zips.MANIFEST, zips.SIGNATURE}
    assert parsed.digests[zips.ENTRY] == hashlib.sha256(FILES[zips.ENTRY]).digest()
    assert (parsed.network, parsed.act, parsed.made) == ("test.example", 7, "1970-01-01T00:00:00Z")


def changed(**values: object) -> bytes:
    return format_json({**json.loads(MANIFEST), **values})


@pytest.mark.parametrize(
    "data",
    [
        MANIFEST[:-1],
        MANIFEST + b"\n",
        MANIFEST.replace(b'  "act": 7', b'  "act":  7'),
        MANIFEST.replace(b'"act": 7', b'"act": 7.0'),
        MANIFEST.replace(b'"act": 7', b'"act": -7'),
        MANIFEST.replace(b'"act": 7', b'"act": true'),
        MANIFEST.replace(b'"act": 7', b'"act": 7,\n  "act": 7'),
        MANIFEST.replace(b'"version": 1', b'"version": 2'),
        MANIFEST.replace(b'"version": 1', b'"version": true'),
        MANIFEST.replace(b"1970-01-01T00:00:00Z", b"yesterday"),
        changed(more=1),
        changed(files=[]),
        changed(files={"entry.bin": {"sha256": "00" * 32, "what": ""}}),
        changed(files={"entry.bin": {"what": "", "sha256": "00" * 31}}),
        changed(files={"entry.bin": {"what": "", "sha256": "0A" * 32}}),
        changed(envelope="zz" * 32),
        b"[" * 5_000 + b"]" * 5_000,
        b'"\\ud800"\n',
        b"\xff",
        b"null\n",
    ],
)
def test_a_manifest_of_another_form_is_refused(data: bytes) -> None:
    with pytest.raises(DecodeError):
        parse_manifest(data)


# --- the other files -------------------------------------------------------------------------
def key(name: str) -> VerifierKey:
    public = hashlib.sha256(name.encode()).digest()
    return VerifierKey(name, key_id(name, ED25519, public), ED25519, public)


def test_the_list_of_keys_has_one_form() -> None:
    vkeys = Vkeys((key("a"),), (key("b"), key("c")))
    data = format_vkeys(vkeys)
    assert parse_vkeys(data) == vkeys
    lines = data.splitlines(keepends=True)
    for other in (
        data[:-1], data + b"\n", b"# x\n" + data, lines[1] + lines[0] + lines[2],
        data.replace(b"log ", b"log  "), data.replace(b"log ", b"Log "), data + b"\xff\n",
    ):  # fmt: skip
        with pytest.raises(PeerError):
            parse_vkeys(other)


def test_acts_say_what_their_entries_record() -> None:
    act = AccessAct(EXPORT_EVIDENCE, (bytes(32),), "operator", 0, "without content")
    logged = Logged(3, b"entry", encode(act.local), bytes(16), (bytes(32),))
    data = format_access(Access(b"note\n", (), 2, (logged,)))
    assert parse_access(data).acts == (logged,)
    assert parse_access(data).left_out == 2
    for old, new in (
        (b'"operator"', b'"somebody"'), (b'"index": 3', b'"index": "3"'),
        (b"1970-01-01", b"1971-01-01"), (b"without content", b"with content"),
        (b'"left_out": 2', b'"left_out": -2'), (b"AAAA=", b"AAAB="), (b"AAAA=", b"AAA="),
    ):  # fmt: skip
        assert old in data
        with pytest.raises(PeerError):
            parse_access(data.replace(old, new))


@pytest.mark.parametrize("content", [True, False])
@pytest.mark.parametrize("reason", ["", "with content", "x; with content"])
def test_the_note_of_an_export_says_whether_content_went_out(content: bool, reason: str) -> None:
    assert has_content(export_note(content=content, by="J. Smith", reason=reason)) is content


def test_receipts_have_one_form() -> None:
    pairs = ((b"frame", b"card"), (b"other", b"card"))
    assert parse_receipts(encode_receipts(pairs)) == pairs
    for value in ([2, pairs], [1, []], [1, [[b"frame"]]], [1, [[b"", b"card"]]], [1, pairs, 0]):
        with pytest.raises(PeerError):
            parse_receipts(encode(value))


def test_content_shows_bytes_in_hexadecimal() -> None:
    shown = json.loads(format_content(encode({"a": [b"\x00\xff", "é", 1, None, True]})))
    assert shown == {"a": ["00ff", "é", 1, None, True]}
