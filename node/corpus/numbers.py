"""Invented numbers and addresses, and the ways in which people write one and the same.

Telephone numbers are of +999, a country code that is not assigned; domains end in ``.example``;
mailboxes of a real provider are longer than it allows; owner codes of containers begin with XX as
those of the demo; payment addresses use letters that their alphabet lacks.
"""

# ruff: noqa: PLR2004, RUF001  several scripts stand here on purpose
from __future__ import annotations

from random import Random
from typing import Final

from node.corpus.firms import Firm

_LETTERS: Final = "ABCDEFGHJKLMNPQRSTUVWXYZ"
_OWNERS: Final = "ABCDEFGHJK"
_LOOKALIKE: Final = {"a": "а", "e": "е", "o": "о", "c": "с", "p": "р", "x": "х"}
"""Latin letters, and the Cyrillic ones that look the same."""


def digits(dice: Random, count: int) -> str:
    """Return *count* digits."""
    return "".join(dice.choices("0123456789", k=count))


# --- containers ----------------------------------------------------------------------------------
def container(dice: Random) -> str:
    """Return a container number with its check digit."""
    while True:
        base = f"XX{dice.choice(_OWNERS)}U{digits(dice, 6)}"
        check = _check_digit(base)
        if check is not None:
            return f"{base}{check}"


def _check_digit(base: str) -> int | None:
    letters = [number for number in range(10, 39) if number % 11]
    values = [letters[ord(c) - 65] if c.isalpha() else int(c) for c in base]
    rest = sum(value << place for place, value in enumerate(values)) % 11
    return None if rest == 10 else rest  # ISO 6346 advises against these


def wrong_container(number: str, dice: Random) -> str:
    """Return *number* with another check digit."""
    return number[:-1] + str((int(number[-1]) + dice.randrange(1, 9)) % 10)


def container_as_written(number: str, dice: Random) -> str:
    """Return a container number as one of several people would write it."""
    return dice.choice((
        number, number, number, f"{number[:4]} {number[4:10]} {number[10]}",
        f"{number[:4]}{number[4:10]}-{number[10]}", f"{number[:4]} {number[4:]}", number.lower(),
    ))  # fmt: skip


# --- documents, batches, plates ------------------------------------------------------------------
def batch(dice: Random) -> str:
    """Return a batch number of one of several makers' habits."""
    return dice.choice((
        lambda: f"B{dice.randrange(2020, 2027)}-{dice.randrange(1, 13):02d}"
                f"{dice.randrange(1, 29):02d}-{digits(dice, 3)}",
        lambda: f"{digits(dice, 8)}{dice.choice(_LETTERS)}",
        lambda: f"LOT {dice.choice(_LETTERS)}{digits(dice, 6)}",
        lambda: f"{''.join(dice.choices(_LETTERS, k=2))}{digits(dice, 5)}/{digits(dice, 2)}",
    ))()  # fmt: skip


def short_batch(dice: Random) -> str:
    """Return a batch number that many makers use."""
    day = f"20{dice.randrange(21, 27)}{dice.randrange(1, 13):02d}{dice.randrange(1, 29):02d}"
    return dice.choice(("001", "0001", "A1", "LOT1", "2026", "NO.1", "B01", "1", day, day, day))


def batch_as_written(number: str, dice: Random) -> str:
    """Return a batch number as one of several people would copy it from a label."""
    return dice.choice((
        number, number, number, number.lower(), number.replace("-", " "), number.replace("-", ""),
        number.replace("/", "-").replace(" ", ""),
    ))  # fmt: skip


def misread(number: str, dice: Random) -> str:
    """Return *number* with one digit changed: another number."""
    places = [at for at, c in enumerate(number) if c.isdigit()]
    at = dice.choice(places)
    return f"{number[:at]}{(int(number[at]) + dice.randrange(1, 9)) % 10}{number[at + 1 :]}"


def document(dice: Random) -> tuple[str, str]:
    """Return type and number of a document."""
    kind = dice.choice(("bill_of_lading", "hawb", "mawb", "cmr", "invoice", "mrn", "postal_s10"))
    letters = "".join(dice.choices(_LETTERS, k=4))
    number = {
        "mawb": f"999-{digits(dice, 8)}",
        "hawb": f"{letters[:3]}{digits(dice, 8)}",
        "mrn": f"{dice.randrange(21, 27)}XX{digits(dice, 8)}{letters}{digits(dice, 2)}",
        "postal_s10": f"R{letters[0]}{digits(dice, 9)}XX",
        "invoice": f"{letters[:2]}-{digits(dice, 4)}-{digits(dice, 4)}",
    }.get(kind, f"{letters}{digits(dice, 9)}")
    return kind, number


def document_as_written(number: str, dice: Random) -> str:
    """Return a document number as one of several people would write it."""
    return dice.choice((
        number, number, number.replace("-", ""), number.replace("-", " "), number.lower(),
        f"{number[:4]} {number[4:]}",
    ))  # fmt: skip


def plate(dice: Random) -> str:
    """Return the plate of a vehicle."""
    return (
        f"X{dice.choice(_LETTERS)}-{digits(dice, 4)}-{dice.choice(_LETTERS)}{dice.choice(_LETTERS)}"
    )


def plate_as_written(number: str, dice: Random) -> str:
    """Return a plate as one of several people would write it."""
    return dice.choice((number, number.replace("-", " "), number.replace("-", ""), number.lower()))


# --- selectors -----------------------------------------------------------------------------------
def selector(kind: str, owner: Firm, dice: Random) -> str:
    """Return a telephone number, mail address, handle, web address or wallet."""
    match kind:
        case "phone":
            return f"+999{dice.randrange(1, 10)}{digits(dice, 8)}"
        case "email" if dice.random() < 0.5:
            # Longer than the provider's thirty characters, so nobody can ever have it.
            word = f"exerciseonly{digits(dice, 8)}syntheticmailbox"
            return f"{word}@gmail.com"
        case "email":
            desk = dice.choice(("sales", "export", "office", "info"))
            return f"{desk}.{digits(dice, 3)}@{owner.domain}"
        case "messenger_handle":
            return f"{owner.domain.split('.')[0].replace('-', '_')}_{digits(dice, 3)}"
        case "url":
            return f"https://www.{owner.domain}/offer/{digits(dice, 6)}"
        case _:
            return f"bc1qexercisebio{digits(dice, 24)}"


SELECTOR_KINDS: Final = ("phone", "phone", "email", "email", "messenger_handle", "url", "wallet")


def selector_as_written(kind: str, value: str, dice: Random) -> str:
    """Return a selector as it was noted, or as somebody wrote it who did not want it found."""
    match kind:
        case "phone":
            return _phone_as_written(value, dice)
        case "email":
            return _email_as_written(value, dice)
        case "messenger_handle":
            return dice.choice((value, f"@{value}", f"https://t.me/{value}", f"t.me/{value}",
                                value.upper(), f" @{value} ".strip()))  # fmt: skip
        case "url":
            bare = value.removeprefix("https://www.")
            return dice.choice((
                value, bare, f"http://{bare}/", f"hxxps://{bare.replace('.', '[.]')}",
                f"www.{bare}", bare.replace(".", " dot "),
            ))  # fmt: skip
        case _:
            return dice.choice((value, f"{value[:8]} {value[8:16]} {value[16:]}", value.upper()))


def _phone_as_written(value: str, dice: Random) -> str:
    country, rest = value[1:4], value[4:]
    return dice.choice((
        value, f"+{country} {rest[:3]} {rest[3:6]} {rest[6:]}", f"00{country}{rest}",
        f"00{country} {rest[:2]} {rest[2:]}", f"(+{country}) {rest[:3]}-{rest[3:6]}-{rest[6:]}",
        f"+{country}.{rest[:4]}.{rest[4:]}", f"+{country} (0) {rest[:3]} {rest[3:]}",
        f"0{rest[:3]} {rest[3:6]} {rest[6:]}", value.translate(_FULL_WIDTH),
        f"{country} {rest[:3]} {rest[3:]}",
    ))  # fmt: skip


_FULL_WIDTH: Final = str.maketrans({str(n): chr(0xFF10 + n) for n in range(10)} | {"+": "＋"})


def _email_as_written(value: str, dice: Random) -> str:
    local, _, domain = value.partition("@")
    forms = [
        value, value.upper(), f"{local} [at] {domain.replace('.', ' [dot] ')}",
        f"{local}(at){domain}", f"mailto:{value}",
    ]  # fmt: skip
    if domain == "gmail.com":
        at = dice.randrange(2, len(local) - 2)
        forms += [
            f"{local[:at]}.{local[at:]}@gmail.com", f"{local}+offer{digits(dice, 2)}@gmail.com",
            f"{local[:at]}.{local[at:]}@googlemail.com",
        ]  # fmt: skip
    letters = [c for c in _LOOKALIKE if c in local]
    if letters:
        chosen = dice.choice(letters)
        forms.append(f"{local.replace(chosen, _LOOKALIKE[chosen], 1)}@{domain}")
    return dice.choice(forms)


def near_selector(kind: str, value: str, dice: Random) -> str:
    """Return another selector that looks like *value*."""
    if kind == "email" and not value.endswith("@gmail.com"):
        # At most providers a dot in a mailbox makes another one.
        local, _, domain = value.partition("@")
        return f"{local.replace('.', '')}@{domain}"
    if kind == "email":
        return misread(value, dice)
    return misread(value, dice) if any(c.isdigit() for c in value) else f"{value}x"
