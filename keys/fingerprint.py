"""How people compare node ids: a text with check characters, and digits to read on the telephone.

Text form of 32 bytes: RFC 4648 base32 without padding (52 characters) in four blocks of 13, each
followed by one Luhn mod 32 check character; the 56 characters are shown as 8 groups of 7. The check
character of a block: from left to right double every second character's value (0 to 31), starting
with the first; replace a product p by p // 32 + p % 32; add all up; the check value is
(32 - sum mod 32) mod 32. Case, spaces and dashes do not matter, and 0, 1, 8 are read as O, I, B.
"""

from __future__ import annotations

import base64
import hashlib
from typing import Final

from protocol import suite
from protocol.errors import DecodeError, TrustConflictError

_ALPHABET: Final = "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567"
_BLOCK: Final = 13
_GROUP: Final = 7
_GROUPS: Final = 8
_LENGTH: Final = _GROUP * _GROUPS
_CODE_SIZE: Final = 32
_REPAIR: Final = str.maketrans({"0": "O", "1": "I", "8": "B", "-": None, " ": None, "\n": None})
_ITERATIONS: Final = 5_200
_SIDE_DIGITS: Final = 30
_DIGIT_GROUP: Final = 5
_DIGITS: Final = 60


def format_code(code: bytes) -> str:
    """Return the text form of 32 bytes."""
    if len(code) != _CODE_SIZE:
        raise ValueError("a code has 32 bytes")
    letters = base64.b32encode(code).decode().rstrip("=")
    blocks = [letters[at : at + _BLOCK] for at in range(0, len(letters), _BLOCK)]
    text = "".join(block + _check(block) for block in blocks)
    return "-".join(text[at : at + _GROUP] for at in range(0, _LENGTH, _GROUP))


def parse_code(text: str) -> bytes:
    """Return the 32 bytes that *text* shows.

    Raises:
        DecodeError: a character is missing, wrong or not of the alphabet; names the groups.
    """
    letters = text.strip().upper().translate(_REPAIR)
    for at, letter in enumerate(letters):
        if letter not in _ALPHABET:
            raise DecodeError(
                f"group {at // _GROUP + 1} has the character {letter!r}, which never occurs",
                fix="compare that group with the original",
            )
    if len(letters) != _LENGTH:
        raise DecodeError(
            f"there are {len(letters)} characters instead of {_LENGTH}",
            fix="8 groups of 7 are needed; look for a group that is missing or short",
        )
    step = _BLOCK + 1
    blocks = [letters[at : at + step] for at in range(0, _LENGTH, step)]
    for number, block in enumerate(blocks):
        if _check(block[:_BLOCK]) != block[_BLOCK]:
            raise DecodeError(
                f"there is a mistake in group {2 * number + 1} or {2 * number + 2}",
                fix="compare these two groups with the original",
            )
    code = base64.b32decode("".join(block[:_BLOCK] for block in blocks) + "====")
    if format_code(code).replace("-", "") != letters:
        raise DecodeError("the last group ends in an impossible character", fix="compare group 8")
    return code


def _check(block: str) -> str:
    total = 0
    for place, letter in enumerate(block):
        product = _ALPHABET.index(letter) * (2 - place % 2)
        total += product // 32 + product % 32
    return _ALPHABET[-total % 32]


def format_node_id(node_id: bytes) -> str:
    """Return the text form of a node id."""
    return format_code(node_id)


def parse_node_id(text: str) -> bytes:
    """Return the node id that *text* shows.

    Raises:
        DecodeError: as for ``parse_code``.
    """
    return parse_code(text)


# --- safety numbers --------------------------------------------------------------------------
def safety_number(a: bytes, b: bytes, *, network: bytes) -> str:
    """Return the 60 digits that two nodes compare, in 12 groups of 5, the same for both.

    30 digits a side: SHA-512 iterated 5,200 times over the label, network and node id; six times
    five of its bytes as a big-endian number modulo 100,000. The smaller side comes first.
    """
    digits = "".join(sorted((_side(a, network), _side(b, network))))
    return " ".join(digits[at : at + _DIGIT_GROUP] for at in range(0, _DIGITS, _DIGIT_GROUP))


def _side(node_id: bytes, network: bytes) -> str:
    digest = suite.label("safety") + network + node_id
    for _ in range(_ITERATIONS):
        digest = hashlib.sha512(digest + node_id).digest()
    groups = (digest[at : at + _DIGIT_GROUP] for at in range(0, _SIDE_DIGITS, _DIGIT_GROUP))
    return "".join(f"{int.from_bytes(group, 'big') % 100_000:05d}" for group in groups)


def parse_safety_number(text: str) -> str:
    """Return the 60 digits in *text* without spaces, dashes and line breaks.

    Raises:
        DecodeError: there are not exactly 60 decimal digits.
    """
    digits = "".join(text.split()).replace("-", "")
    if len(digits) != _DIGITS or not (digits.isascii() and digits.isdigit()):
        raise DecodeError(
            "a safety number has exactly 60 digits", fix="enter all 12 groups of 5 digits"
        )
    return digits


def verify_safety_number(text: str, a: bytes, b: bytes, *, network: bytes) -> None:
    """Verify that *text* is the safety number of *a* and *b*.

    Raises:
        DecodeError: it is no safety number.
        TrustConflictError: it is another one; names the first group that differs.
    """
    given, wanted = parse_safety_number(text), safety_number(a, b, network=network).split()
    for number, group in enumerate(wanted):
        at = number * _DIGIT_GROUP
        if given[at : at + _DIGIT_GROUP] != group:
            raise TrustConflictError(
                f"the safety number differs in group {number + 1} of 12",
                fix="read it out again; if it still differs do not approve: "
                "the card may be another's, or somebody is in between",
            )
