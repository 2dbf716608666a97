"""Card links: where a card is to be had and which one it is, short enough for a QR code.

    picket-card:NODE?sha256=HEX&at=wss://host:port&at=...

NODE is the text form of the node id (8 groups of 7), HEX the digest ``H("card-bundle", bundle)`` in
64 small hexadecimal digits. There may be up to eight addresses, or none. Nothing is escaped, and
no other order, letter case or parameter is taken: a link has exactly one form.

- A link holds no key and gives no trust. Whoever got it from the right hands knows that the card
  which is fetched from anywhere is the one that was meant.
- The check characters of NODE are for ``keys.fingerprint`` to look at.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from protocol import limits
from protocol.errors import DecodeError, DigestError, LimitError
from protocol.knock import bundle_digest
from protocol.statement import check_endpoint

SCHEME: Final = "picket-card:"
_AGAIN: Final = "copy it again, or ask for the card as a file"
NUMBER_SCHEME: Final = "picket-number:"
"""Stands before the 60 digits in a QR code, so that no telephone takes them for its own kind."""
_LINK: Final = re.compile(
    r"picket-card:(?P<node>[A-Z2-7]{7}(?:-[A-Z2-7]{7}){7})"
    r"\?sha256=(?P<digest>[0-9a-f]{64})(?P<at>(?:&at=[^&\s]+)*)"
)


@dataclass(frozen=True, slots=True)
class CardLink:
    """What a card link says: the node id as text, the digest of the bundle, and addresses."""

    node: str
    digest: bytes
    at: tuple[str, ...] = ()


def make_card_link(node: str, bundle: bytes, *, endpoints: tuple[str, ...] = ()) -> str:
    """Return the link to the card *bundle* of *node*, with as many *endpoints* as there is room."""
    link = f"{SCHEME}{node}?sha256={bundle_digest(bundle).hex()}"
    for endpoint in endpoints[: limits.MAX_ENDPOINTS]:
        if len(link) + len("&at=") + len(endpoint) > limits.MAX_CARD_LINK:
            break
        link += f"&at={endpoint}"
    return link


def is_card_link(text: str) -> bool:
    """Whether *text* means to be a card link."""
    return text.lstrip().startswith(SCHEME)


def parse_card_link(text: str) -> CardLink:
    """Return what the link *text* says; white space around it does not matter.

    Raises:
        LimitError: it is too long.
        DecodeError: it is not of the one form.
    """
    link = text.strip()
    if len(link) > limits.MAX_CARD_LINK:
        raise LimitError(
            f"the card link is longer than {limits.MAX_CARD_LINK} characters",
            fix="ask for it again",
        )
    found = _LINK.fullmatch(link)
    at = () if found is None else tuple(found["at"].split("&at=")[1:])
    if found is None or len(at) > limits.MAX_ENDPOINTS:
        raise DecodeError(
            "this is not a whole card link",
            fix=f"it begins with picket-card: and has no spaces; {_AGAIN}",
        )
    for endpoint in at:
        try:
            check_endpoint(endpoint)
        except DecodeError as error:
            raise DecodeError(error.message, fix=_AGAIN) from None
    return CardLink(found["node"], bytes.fromhex(found["digest"]), at)


def verify_card_link(link: CardLink, bundle: bytes, *, node: str) -> None:
    """Verify that *bundle*, the card of *node*, is the one that *link* means.

    Raises:
        DigestError: it is another.
    """
    if link.node != node:
        raise DigestError(
            "the card is of another node than the link names", fix="ask for the card as a file"
        )
    if link.digest != bundle_digest(bundle):
        raise DigestError(
            "the card is not the one that the link names: it was renewed since, or exchanged",
            fix="ask that authority for a new link, or for the card as a file",
        )
