"""Check digits and forms of the numbers in an incident; whatever fails is told, never changed.

- Each ``*_is_valid`` takes the number in the one form that its standard prints, without spaces.
- ``fault`` is for numbers as people write them: it ignores the separators that are usual for their
  kind, and tells a wrong form from a wrong check digit.
- Loose forms are loose on purpose: a national numbering plan changes faster than this table, and a
  false alarm teaches people to overlook true ones.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Final

from protocol.vocabulary import COUNTRIES

FORM: Final = "form"
CHECK_DIGIT: Final = "check-digit"

_CAS: Final = re.compile(r"([1-9][0-9]{1,6})-([0-9]{2})-([0-9])")
_CONTAINER: Final = re.compile(r"[A-Z]{3}[UJZ][0-9]{7}")
_IMO: Final = re.compile(r"[0-9]{7}")
_S10: Final = re.compile(r"[A-Z]{2}[0-9]{9}[A-Z]{2}")
_AWB: Final = re.compile(r"[0-9]{3}-?[0-9]{8}")
_LEI: Final = re.compile(r"[0-9A-Z]{18}[0-9]{2}")
_IBAN: Final = re.compile(r"[A-Z]{2}[0-9]{2}[0-9A-Z]{11,30}")
_PHONE: Final = re.compile(r"\+[1-9][0-9]{6,14}")
_INCHIKEY: Final = re.compile(r"[A-Z]{14}-[A-Z]{8}[SN][A-Z]-[A-Z]")
_FORMULA: Final = re.compile(r"([A-Z][a-z]?[0-9]{0,4}|[().·+-]|[0-9])+")
_LOCODE: Final = re.compile(r"([A-Z]{2})[A-Z2-9]{3}")
_SUBDIVISION: Final = re.compile(r"([A-Z]{2})-[A-Z0-9]{1,3}")
_HS: Final = re.compile(r"([0-9]{2})[0-9]{4,8}")
_UN: Final = re.compile(r"(?:UN)?[0-9]{4}")
_EORI: Final = re.compile(r"([A-Z]{2})[0-9A-Z]{1,15}")
_VAT: Final = re.compile(r"[0-9A-Z+*]{4,17}")
_EMAIL: Final = re.compile(r"[^@\s]+@[^@\s.]+(\.[^@\s.]+)+")
_CURRENCY: Final = re.compile(r"[A-Z]{3}")
# Chapter 77 is reserved; 98 and 99 are for national use (Harmonized System, general rules).
_CHAPTERS: Final = frozenset(f"{number:02d}" for number in range(1, 100)) - {"77"}
# Prefixes of VAT numbers that are no ISO code: Greece, Northern Ireland, and the union's one stop.
_VAT_PREFIXES: Final = COUNTRIES | {"EL", "XI", "EU"}
# Letters count 10 to 38, leaving out the multiples of 11 (ISO 6346 annex A).
_LETTERS: Final = [number for number in range(10, 39) if number % 11]
_S10_WEIGHTS: Final = (8, 6, 4, 2, 3, 5, 9, 7)
_SEPARATORS: Final = str.maketrans("", "", " .\u00a0-/()")
_SPACES: Final = str.maketrans("", "", " \u00a0")


# --- check digits ----------------------------------------------------------------------------
def cas_is_valid(text: str) -> bool:
    """Tell whether a CAS registry number has its check digit."""
    match = _CAS.fullmatch(text)
    if match is None:
        return False
    digits = [int(c) for c in reversed(match[1] + match[2])]
    return sum(place * digit for place, digit in enumerate(digits, 1)) % 10 == int(match[3])


def container_is_valid(text: str) -> bool:
    """Tell whether an ISO 6346 container number has its check digit."""
    if not _CONTAINER.fullmatch(text):
        return False
    numbers = [_LETTERS[ord(c) - 65] if c.isalpha() else int(c) for c in text[:10]]
    total = sum(number << place for place, number in enumerate(numbers))
    return total % 11 % 10 == int(text[10])


def imo_is_valid(text: str) -> bool:
    """Tell whether an IMO ship number has its check digit."""
    if not _IMO.fullmatch(text):
        return False
    return sum(int(c) * (7 - place) for place, c in enumerate(text[:6])) % 10 == int(text[6])


def s10_is_valid(text: str) -> bool:
    """Tell whether a postal item identifier (UPU S10) has its check digit."""
    if not _S10.fullmatch(text):
        return False
    total = sum(w * int(c) for w, c in zip(_S10_WEIGHTS, text[2:10], strict=True))
    return {10: 0, 11: 5}.get(11 - total % 11, 11 - total % 11) == int(text[10])


def awb_is_valid(text: str) -> bool:
    """Tell whether an air waybill number (IATA, resolution 600a) has its check digit."""
    if not _AWB.fullmatch(text):
        return False
    return int(text[-8:-1]) % 7 == int(text[-1])


def lei_is_valid(text: str) -> bool:
    """Tell whether a legal entity identifier (ISO 17442) has its check digits (ISO 7064)."""
    return _LEI.fullmatch(text) is not None and _mod97(text) == 1


def iban_is_valid(text: str) -> bool:
    """Tell whether an account number (ISO 13616) has its check digits (ISO 7064)."""
    return _IBAN.fullmatch(text) is not None and _mod97(text[4:] + text[:4]) == 1


def _mod97(text: str) -> int:
    return int("".join(str(int(c, 36)) for c in text)) % 97


# --- forms -----------------------------------------------------------------------------------
def phone_is_e164(text: str) -> bool:
    """Tell whether a telephone number has the form of ITU-T E.164, with its plus sign."""
    return _PHONE.fullmatch(text) is not None


def inchikey_is_valid(text: str) -> bool:
    """Tell whether *text* has the form of a standard or non-standard InChIKey."""
    return _INCHIKEY.fullmatch(text) is not None


def locode_is_valid(text: str) -> bool:
    """Tell whether *text* has the form of a UN/LOCODE with a country code in front."""
    return _with_country(_LOCODE, text)


def subdivision_is_valid(text: str) -> bool:
    """Tell whether *text* has the form of an ISO 3166-2 code with a country code in front."""
    return _with_country(_SUBDIVISION, text)


def hs_is_valid(text: str) -> bool:
    """Tell whether *text* is a tariff code of 6 to 10 digits in a chapter that exists."""
    match = _HS.fullmatch(text)
    return match is not None and match[1] in _CHAPTERS


def eori_is_valid(text: str) -> bool:
    """Tell whether *text* has the form of an EORI number: a country, then 1 to 15 characters."""
    match = _EORI.fullmatch(text)
    return match is not None and match[1] in _VAT_PREFIXES


def vat_is_valid(text: str) -> bool:
    """Tell whether *text* could be a VAT number; each country has rules of its own."""
    return _VAT.fullmatch(text) is not None and any(c.isdigit() for c in text)


def _with_country(pattern: re.Pattern[str], text: str) -> bool:
    match = pattern.fullmatch(text)
    return match is not None and match[1] in COUNTRIES


def _formula(text: str) -> bool:
    return _FORMULA.fullmatch(text) is not None


# --- numbers as people write them ------------------------------------------------------------
_Check = tuple[re.Pattern[str] | None, Callable[[str], bool], Mapping[int, int | None]]


def _plain(pattern: re.Pattern[str]) -> Callable[[str], bool]:
    return lambda text: pattern.fullmatch(text) is not None


# Per kind: the form where a check digit can fail apart from it, the test, and what is left out.
_CHECKS: Final[Mapping[str, _Check]] = {
    "cas": (_CAS, cas_is_valid, {}),
    "container": (_CONTAINER, container_is_valid, _SEPARATORS),
    "imo": (_IMO, imo_is_valid, _SPACES),
    "s10": (_S10, s10_is_valid, _SPACES),
    "awb": (_AWB, awb_is_valid, _SPACES),
    "lei": (_LEI, lei_is_valid, _SPACES),
    "iban": (_IBAN, iban_is_valid, _SPACES),
    "phone": (None, phone_is_e164, _SEPARATORS),
    "inchikey": (None, inchikey_is_valid, {}),
    "formula": (None, _formula, _SPACES),
    "locode": (None, locode_is_valid, _SPACES),
    "subdivision": (None, subdivision_is_valid, {}),
    "hs": (None, hs_is_valid, _SEPARATORS),
    "un": (None, _plain(_UN), _SPACES),
    "eori": (None, eori_is_valid, _SPACES),
    "vat": (None, vat_is_valid, _SEPARATORS),
    "email": (None, _plain(_EMAIL), {}),
    "currency": (None, _plain(_CURRENCY), {}),
}
NAMES: Final[Mapping[str, str]] = {
    "cas": "CAS number", "container": "container number", "imo": "IMO number",
    "s10": "number of the postal item", "awb": "air waybill number", "lei": "LEI",
    "iban": "account number (IBAN)", "phone": "telephone number", "inchikey": "InChIKey",
    "formula": "formula", "locode": "UN/LOCODE", "subdivision": "ISO 3166-2 code",
    "hs": "HS code", "un": "UN number", "eori": "EORI number", "vat": "VAT number",
    "email": "mail address", "currency": "currency",
}  # fmt: skip


def fault(kind: str, text: str) -> str | None:
    """Return what is wrong with a number as it was written: FORM, CHECK_DIGIT or nothing.

    Args:
        kind: one of NAMES.
        text: the number.
    """
    form, is_valid, left_out = _CHECKS[kind]
    compact = text.translate(left_out) if left_out else text
    if kind == "imo":
        compact = compact.removeprefix("IMO")
    if is_valid(compact):
        return None
    return CHECK_DIGIT if form is not None and form.fullmatch(compact) else FORM
