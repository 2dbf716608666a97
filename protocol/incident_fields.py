"""The types of the fields of an incident, and the base of its parts; each refuses what is wrong."""

from __future__ import annotations

import datetime
import re
import unicodedata
from collections.abc import Callable, Sequence
from typing import Annotated, Final

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from protocol import vocabulary as v

_DECIMAL: Final = re.compile(r"(0|[1-9][0-9]{0,11})(\.[0-9]{1,6})?")
TIME: Final = re.compile(
    r"[0-9]{4}-(0[1-9]|1[0-2])-(0[1-9]|[12][0-9]|3[01])T([01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9]"
    r"(\.[0-9]{1,3})?Z"
)
_DATE: Final = re.compile(r"[0-9]{4}(-(0[1-9]|1[0-2])(-(0[1-9]|[12][0-9]|3[01]))?)?")


def clean(value: str) -> str:
    """Return *value* if it is text as canonical values have it.

    Raises:
        ValueError: it is not in NFC, or has a control character.
    """
    if not unicodedata.is_normalized("NFC", value):
        raise ValueError("is not in Unicode Normalization Form C")
    if any(c < " " and c != "\n" for c in value):
        raise ValueError("holds a control character")
    return value


def _among(words: Sequence[str] | frozenset[str]) -> Callable[[str], str]:
    def check(value: str) -> str:
        if value not in words:
            raise ValueError(f"is none of: {', '.join(sorted(words))}")
        return value

    return check


def _country(value: str) -> str:
    if value not in v.COUNTRIES:
        # There are too many to list.
        example = value.upper() if value.upper() in v.COUNTRIES else "NL"
        raise ValueError(
            f"is not a country code of two capital letters (ISO 3166-1), such as {example}"
        )
    return value


def matching(pattern: re.Pattern[str], wanted: str) -> Callable[[str], str]:
    """Return a check that a text has a form; *wanted* says which, for people."""

    def check(value: str) -> str:
        if not pattern.fullmatch(value):
            raise ValueError(f"is not {wanted}")
        return value

    return check


def word(words: Sequence[str] | frozenset[str]) -> AfterValidator:
    """Return the validator of a word of a vocabulary."""
    return AfterValidator(_among(words))


def real_time(value: str) -> str:
    """Refuse days that no calendar has, which the form alone lets through.

    Raises:
        ValueError: it is such a day.
    """
    date, _, _ = value.partition("T")
    year, month, day = [*date.split("-"), "1", "1"][:3]
    try:
        datetime.date(int(year), int(month), int(day))
    except ValueError:
        raise ValueError("is a day that does not exist") from None
    return value


Short = Annotated[str, Field(min_length=1, max_length=256), AfterValidator(clean)]
Country = Annotated[str, AfterValidator(_country)]
Time = Annotated[
    str,
    AfterValidator(matching(TIME, "a UTC time such as 2026-03-01T08:30:00Z")),
    AfterValidator(real_time),
]
Date = Annotated[
    str,
    AfterValidator(matching(_DATE, "a date such as 2026-03-01, 2026-03 or 2026")),
    AfterValidator(real_time),
]
Decimal = Annotated[
    str, AfterValidator(matching(_DECIMAL, 'a decimal number as text, such as "20160" or "1.5"'))
]
Hex32 = Annotated[
    str, AfterValidator(matching(re.compile(r"[0-9a-f]{64}"), "64 lower-case hex digits"))
]
Language = Annotated[
    str, AfterValidator(matching(re.compile(r"[a-z]{2,3}(-[A-Za-z0-9]{2,8})*"), "a language tag"))
]
Uuid = Annotated[
    str,
    AfterValidator(
        matching(re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}"), "a UUID in lower case")
    ),
]
Signed = Annotated[
    str,
    AfterValidator(
        matching(
            re.compile(r"-?(0|[1-9][0-9]{0,2})(\.[0-9]{1,5})?"),
            'degrees as text, such as "-33.9249"',
        )
    ),
]
Text = Annotated[str, Field(max_length=2_000), AfterValidator(clean)]
Many = Field(default=(), max_length=50)


class Model(BaseModel):
    """Base of all parts: frozen, exact types, nothing unknown."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)
