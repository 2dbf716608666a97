"""The text form of cards and disclosures, for files, mail and paste: RFC 7468 style, strict."""

from __future__ import annotations

import base64
import binascii
from typing import Final

from protocol import limits
from protocol.errors import DecodeError, LimitError

_CARD: Final = "card"
_WIDTH: Final = 64


def armor(bundle: bytes) -> str:
    """Return the armoured text of a card *bundle*, ending in a newline."""
    return armor_block(_CARD, bundle)


def dearmor(text: str) -> bytes:
    """Return the card bundle in *text*; line ends and white space around the block do not matter.

    Raises:
        DecodeError: it is no card, or something inside the block is damaged.
        LimitError: it is too long to be a card.
    """
    return dearmor_block(_CARD, text, maximum=limits.MAX_BUNDLE)


def armor_block(what: str, data: bytes) -> str:
    """Return *data*, which is a *what* (such as card), as armoured text that ends in a newline."""
    encoded = base64.b64encode(data).decode("ascii")
    lines = [encoded[at : at + _WIDTH] for at in range(0, len(encoded), _WIDTH)]
    return "\n".join([_line("BEGIN", what), *lines, _line("END", what), ""])


def dearmor_block(what: str, text: str, *, maximum: int) -> bytes:
    """Return what ``armor_block`` was given; line ends and white space around do not matter.

    Raises:
        DecodeError: it is no *what*, or something inside the block is damaged.
        LimitError: it is too long to hold *maximum* bytes.
    """
    if len(text) > 2 * maximum:
        raise LimitError(f"this is too long to be a {what}")
    block = text.replace("\r\n", "\n").strip()
    lines = block.split("\n")
    begin, end = _line("BEGIN", what), _line("END", what)
    if lines[0] != begin or lines[-1] != end:
        raise DecodeError(
            f"this is not a Picket {what}",
            fix=f"it must begin with the line {begin} and end with {end}; ask for it again",
        )
    try:
        data = base64.b64decode("".join(lines[1:-1]), validate=True)
    except (binascii.Error, ValueError):
        data = b""
    if not data or armor_block(what, data).strip() != block:
        raise DecodeError(f"the {what} is damaged", fix="ask for it again, as a file")
    return data


def _line(which: str, what: str) -> str:
    return f"-----{which} PICKET {what.upper()}-----"
