"""The numbers and names in an incident that tie it to others, in the one form they are compared in.

- What is stored of an incident is never changed; these forms live in the search index alone.
- People write numbers as they hear them, and some write them so that they are not found: blanks, a
  00 for the plus, dots in a mailbox that ignores them, letters of another script that look alike.
- What is too short or too usual to tell two cases apart gives no identifier.
"""

from __future__ import annotations

import datetime
import re
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from node.folding import compact, fold

# One letter each: they stand in front of every token of the index.
BATCH, CONTAINER, DOCUMENT, PHONE, EMAIL, URL = "b", "c", "d", "p", "e", "u"
HANDLE, ACCOUNT, REGISTRATION, PLATE, VOYAGE, SEAL = "h", "w", "r", "v", "i", "z"
KINDS: Final = (
    BATCH, CONTAINER, DOCUMENT, PHONE, EMAIL, URL, HANDLE, ACCOUNT, REGISTRATION, PLATE, VOYAGE,
    SEAL,
)  # fmt: skip
_SELECTOR_KINDS: Final = {
    "phone": PHONE, "email": EMAIL, "url": URL, "domain": URL, "messenger_handle": HANDLE,
    "marketplace_handle": HANDLE, "social_handle": HANDLE, "bank_account": ACCOUNT,
    "wallet": ACCOUNT, "ip": URL,
}  # fmt: skip
_MIN: Final = {
    BATCH: 3, CONTAINER: 8, DOCUMENT: 5, PHONE: 7, EMAIL: 6, URL: 5, HANDLE: 4, ACCOUNT: 8,
    REGISTRATION: 5, PLATE: 5, VOYAGE: 8, SEAL: 5,
}  # fmt: skip
MAX_VALUE: Final = 64
"""Characters of one identifier that are compared."""
TAIL: Final = 8
"""Last digits of a telephone number under which it is found without its country."""
_PART: Final = 4
"""Shortest part of a container number that is found."""
# Cyrillic and Greek letters that look like Latin ones (Unicode Technical Standard 39, confusables).
_LOOKALIKES: Final = str.maketrans(
    "аеорсухкмнтвіјѕԁɡαορντ",
    "aeopcyxkmhtbijsdgaopvt",
)
_FREE_DOTS: Final = frozenset({"gmail.com", "googlemail.com"})
"""Domains of one provider that ignores dots in a mailbox and what follows a plus (its own help)."""
_AT: Final = re.compile(r"\s*[\[({]\s*(?:at|@)\s*[\])}]\s*|\s+at\s+")
_DOT: Final = re.compile(r"\s*[\[({]\s*(?:dot|\.)\s*[\])}]\s*|\s+dot\s+")
_SCHEME: Final = re.compile(r"^(?:h(?:tt|xx)ps?:?//)?(?:www\.)?")
_HANDLE_HOSTS: Final = re.compile(r"^(?:t\.me|telegram\.me|wa\.me)/")
_SPOKEN: Final = re.compile(r"\(0\)")


@dataclass(frozen=True, slots=True)
class Identifier:
    """One identifier: its kind, the form that is compared, and how it was written."""

    kind: str
    value: str
    shown: str
    context: str = ""
    """What must not contradict: maker of a batch, issuer of a document, country of a number."""


@dataclass(frozen=True, slots=True)
class PartyName:
    """One name of a firm, as written, with its country."""

    name: str
    country: str | None


@dataclass(frozen=True, slots=True)
class Profile:
    """What of an incident is compared with others."""

    identifiers: tuple[Identifier, ...]
    names: tuple[PartyName, ...]
    day: int
    """Day on which it was detected, counted as ``date.toordinal`` does; 0 if unknown."""


# --- forms -----------------------------------------------------------------------------------
def _latin(text: str) -> str:
    """Return *text* folded, with letters of other scripts that pose as Latin ones as these."""
    plain = fold(text)
    if plain.isascii() or not any("a" <= c <= "z" for c in plain):
        # A word that is wholly of another script is no disguise.
        return plain
    return plain.translate(_LOOKALIKES)


def normal_email(text: str) -> str:
    """Return a mail address as it is compared; empty if it is none."""
    plain = _DOT.sub(".", _AT.sub("@", _latin(text).removeprefix("mailto:")))
    local, at, domain = "".join(plain.split()).rpartition("@")
    if not at or not local or "." not in domain:
        return ""
    if domain in _FREE_DOTS:
        local, domain = local.partition("+")[0].replace(".", ""), "gmail.com"
    return f"{local}@{domain}"


def normal_phone(text: str) -> str:
    """Return a telephone number as ``+`` and digits, or without ``+`` if it names no country."""
    plain = unicodedata.normalize("NFKC", _SPOKEN.sub("", fold(text)))
    digits = "".join(c for c in plain if c.isdecimal())
    if plain.lstrip(" (").startswith("+"):
        return f"+{digits}"
    if digits.startswith("00"):
        return f"+{digits.removeprefix('00')}"
    return digits.lstrip("0")


def same_phone(one: str, other: str) -> bool:
    """Tell whether two normal forms can be one number; one without country ends the other."""
    if one == other:
        return True
    if one.startswith("+") and other.startswith("+"):
        return False
    short, long = sorted((one.lstrip("+"), other.lstrip("+")), key=len)
    return len(short) >= TAIL and long.endswith(short)


def normal_url(text: str) -> str:
    """Return a web address as it is compared, without scheme, ``www`` and a slash at its end."""
    plain = _DOT.sub(".", _latin(text)).replace("[", "").replace("]", "")
    return _SCHEME.sub("", "".join(plain.split())).rstrip("/.")


def normal_handle(text: str) -> str:
    """Return the name of an account on a platform as it is compared."""
    plain = _HANDLE_HOSTS.sub("", normal_url(text))
    return plain.lstrip("@").rstrip("/")


def _normal(kind: str, text: str) -> str:
    match kind:
        case "p":
            return normal_phone(text)
        case "e":
            return normal_email(text)
        case "u":
            return normal_url(text)
        case "h":
            return normal_handle(text)
        case _:
            return compact(_latin(text))


def _made(kind: str, text: object, context: object = "") -> Iterator[Identifier]:
    if not isinstance(text, str):
        return
    value = _normal(kind, text)[:MAX_VALUE]
    if len(value) >= _MIN[kind]:
        yield Identifier(kind, value, text, context if isinstance(context, str) else "")


# --- reading an incident -----------------------------------------------------------------------
def profile(face: Mapping[str, Any] | None, annex: Mapping[str, Any] | None) -> Profile:
    """Return what of an incident is compared with others, from the JSON form of its layers."""
    seen: dict[tuple[str, str], Identifier] = {}
    for each in _identifiers(annex or {}):
        seen.setdefault((each.kind, each.value), each)
    return Profile(tuple(seen.values()), tuple(_names(annex or {})), _day(face or {}))


def _day(face: Mapping[str, Any]) -> int:
    text = str(face.get("detected_at", ""))[:10]
    try:
        return datetime.date.fromisoformat(text).toordinal()
    except ValueError:
        return 0


def _all(layer: Mapping[str, Any], key: str) -> Sequence[Mapping[str, Any]]:
    found: Sequence[Mapping[str, Any]] = layer.get(key) or ()
    return found


def _identifiers(annex: Mapping[str, Any]) -> Iterator[Identifier]:
    for each in _all(annex, "origins"):
        yield from _made(BATCH, each.get("batch_no"), each.get("manufacturer"))
    for each in _all(annex, "containers"):
        yield from _made(CONTAINER, each.get("no"))
        for seal in each.get("seals") or ():
            yield from _made(SEAL, seal)
    for each in _all(annex, "documents"):
        yield from _made(DOCUMENT, each.get("number"), each.get("issuer"))
        for key in ("pen_ref", "permit_no"):
            yield from _made(DOCUMENT, each.get(key))
    for each in _all(annex, "conveyances"):
        yield from _conveyed(each)
    for each in _all(annex, "parties"):
        yield from _of_party(each)
    for each in _all(annex, "online"):
        yield from _made(URL, each.get("url"))
        yield from _made(HANDLE, each.get("handle"))


def _conveyed(each: Mapping[str, Any]) -> Iterator[Identifier]:
    for key in ("plate", "trailer_plate"):
        yield from _made(PLATE, each.get(key), each.get("plate_country"))
    if each.get("imo") and each.get("voyage"):
        yield from _made(VOYAGE, f"{each['imo']} {each['voyage']}")


def _of_party(each: Mapping[str, Any]) -> Iterator[Identifier]:
    for contact in _all(each, "contacts"):
        yield from _made(_SELECTOR_KINDS.get(contact.get("kind", ""), URL), contact.get("value"))
    for number in _all(each, "ids"):
        country = number.get("country") or each.get("country")
        yield from _made(REGISTRATION, number.get("value"), country)
    yield from _made(REGISTRATION, each.get("licence_no"), each.get("country"))


def _names(annex: Mapping[str, Any]) -> Iterator[PartyName]:
    for each in _all(annex, "parties"):
        if each.get("kind") != "org":
            continue  # names of persons are too usual to tie two cases together by themselves
        for name in (each.get("name"), *(each.get("aliases") or ())):
            if isinstance(name, str):
                yield PartyName(name, each.get("country"))


def keys(each: Identifier) -> Iterator[str]:
    """Yield the values under which an identifier is looked up: whole, and what people know of it.

    A container number is found by any part of four characters or more, a telephone number by its
    last digits.
    """
    yield each.value
    if each.kind == CONTAINER:
        yield from (each.value[at:] for at in range(1, len(each.value) - _PART + 1))
    elif each.kind == PHONE:
        digits = each.value.lstrip("+")
        yield digits
        if len(digits) > TAIL:
            yield digits[-TAIL:]
