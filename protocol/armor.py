"""The text form of a card bundle, for files, mail and paste: RFC 7468 style, parsed strictly."""

from __future__ import annotations

import base64
import binascii
from typing import Final

from protocol import limits
from protocol.errors import DecodeError, LimitError

_BEGIN: Final = "-----BEGIN PICKET CARD-----"
_END: Final = "-----END PICKET CARD-----"
_WIDTH: Final = 64


def armor(bundle: bytes) -> str:
    """Return the armoured text of *bundle*, ending in a newline."""
    encoded = base64.b64encode(bundle).decode("ascii")
    lines = [encoded[at : at + _WIDTH] for at in range(0, len(encoded), _WIDTH)]
    return "\n".join([_BEGIN, *lines, _END, ""])


def dearmor(text: str) -> bytes:
    """Return the bundle in *text*; line ends and white space around the block do not matter.

    Raises:
        DecodeError: it is no card, or something inside the block is damaged.
        LimitError: it is too long to be a card.
    """
    if len(text) > 2 * limits.MAX_BUNDLE:
        raise LimitError("this is too long to be a card")
    block = text.replace("\r\n", "\n").strip()
    lines = block.split("\n")
    if lines[0] != _BEGIN or lines[-1] != _END:
        raise DecodeError(
            "this is not a Picket card",
            fix=f"it must begin with the line {_BEGIN} and end with {_END}; ask for it again",
        )
    try:
        bundle = base64.b64decode("".join(lines[1:-1]), validate=True)
    except (binascii.Error, ValueError):
        bundle = b""
    if not bundle or armor(bundle).strip() != block:
        raise DecodeError("the card is damaged", fix="ask for it again, as a file")
    return bundle
