"""Codes on paper that open a backup: 160 random bits, whole on one sheet or in two halves.

    code = u8 part | share (20 bytes) | tag (11 bytes), shown as ``keys.fingerprint`` shows 32 bytes
    part = 0x10 the whole secret; 0x21 and 0x22 the halves, whose XOR is the secret
    tag  = the first 11 bytes of H("backup-tag", salt);     key = derive(secret, "backup", salt)

- The form, its check characters and the naming of a mistyped group are those of recovery codes, so
  that there is one way to write and type a code.
- A half is as random as the secret: alone it says nothing. The tag says to which file a sheet
  belongs, so a sheet of another backup is named before anything is decrypted.
- 160 random bits cannot be guessed, so the key is derived without stretching.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Final

from keys.fingerprint import format_code, parse_code
from protocol import suite
from protocol.errors import PeerError, RequestError

SECRET_SIZE: Final = 20
SALT_SIZE: Final = 32
_TAG: Final = 11


class Part(IntEnum):
    """What one sheet holds of the secret."""

    WHOLE = 0x10
    FIRST = 0x21
    SECOND = 0x22

    @property
    def words(self) -> str:
        """How the sheet is called."""
        return {
            Part.WHOLE: "the only sheet", Part.FIRST: "sheet 1 of 2", Part.SECOND: "sheet 2 of 2",
        }[self]  # fmt: skip


@dataclass(frozen=True, slots=True)
class PaperCode:
    """The code on one sheet."""

    part: Part
    share: bytes = field(repr=False)
    tag: bytes


def make_codes(secret: bytes, salt: bytes, *, pad: bytes | None = None) -> tuple[PaperCode, ...]:
    """Return the code of *secret* for the backup of *salt*; with *pad* the codes of two halves.

    Args:
        secret: 20 fresh random bytes.
        salt: 32 fresh random bytes, which stand in the file.
        pad: 20 more fresh random bytes, to split the secret over two sheets.
    """
    if len(secret) != SECRET_SIZE or len(salt) != SALT_SIZE:
        raise ValueError("a secret has 20 bytes and a salt 32")
    tag = backup_tag(salt)
    if pad is None:
        return (PaperCode(Part.WHOLE, secret, tag),)
    if len(pad) != SECRET_SIZE:
        raise ValueError("a pad has 20 bytes")
    return (PaperCode(Part.FIRST, pad, tag), PaperCode(Part.SECOND, _xor(secret, pad), tag))


def format_paper_code(code: PaperCode) -> str:
    """Return the text of *code*, 8 groups of 7 characters."""
    return format_code(bytes([code.part]) + code.share + code.tag)


def parse_paper_code(text: str) -> PaperCode:
    """Return the code that somebody typed from a sheet.

    Raises:
        RequestError: it has a mistake, of which the group is named, or it opens no backup.
    """
    try:
        raw = parse_code(text)
    except PeerError as error:  # typed here, by no peer
        raise RequestError(f"the backup code: {error.message}", fix=error.fix) from None
    try:
        part = Part(raw[0])
    except ValueError:
        raise RequestError(
            "this is not the code of a backup",
            fix="take the sheet that is called PICKET BACKUP SHEET, not the recovery sheet",
        ) from None
    return PaperCode(part, raw[1 : 1 + SECRET_SIZE], raw[1 + SECRET_SIZE :])


def join_codes(codes: Sequence[PaperCode], salt: bytes, *, halves: bool) -> bytes:
    """Return the secret that *codes* stand for.

    Args:
        codes: one, or two in any order.
        salt: that of the file to be opened.
        halves: whether the file was made with two sheets.

    Raises:
        RequestError: a sheet is of another backup, is there twice, or is missing.
    """
    for code in codes:
        if code.tag != backup_tag(salt):
            raise RequestError(
                f"this code ({code.part.words}) is of another backup",
                fix="take the sheet with the date of this backup; the two sheets of a pair belong "
                "to one file",
            )
    wanted = {Part.FIRST, Part.SECOND} if halves else {Part.WHOLE}
    given = {code.part: code.share for code in codes}
    missing = sorted(wanted - set(given))
    if missing:
        names = " and ".join(part.words for part in missing)
        raise RequestError(
            f"this backup needs {names}",
            fix="give both sheets, each once" if halves else "give the sheet of this backup",
        )
    if not halves:
        return given[Part.WHOLE]
    return _xor(given[Part.FIRST], given[Part.SECOND])


def backup_tag(salt: bytes) -> bytes:
    """Return what sheets name the file of *salt* by."""
    return suite.digest("backup-tag", salt)[:_TAG]


def backup_key(secret: bytes, salt: bytes) -> bytes:
    """Return the key under which the file of *salt* is sealed."""
    return suite.derive(secret, "backup", salt)


def _xor(one: bytes, other: bytes) -> bytes:
    return bytes(a ^ b for a, b in zip(one, other, strict=True))
