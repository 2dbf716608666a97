"""What is asked of the search index, as one expression of quoted terms.

Text is taken apart as it was for the index, so that whatever a person types is a query: blanks mean
"and", other signs mean nothing, a star at the end of a word stands for any ending. A field that is
no date, country or state is refused by its name, and never silently left out.
"""

from __future__ import annotations

import calendar
import datetime
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from typing import Any, Final

from node import identifiers as ids
from node.folding import asked, compact, fold
from node.identifiers import KINDS, TAIL, normal_email, normal_handle, normal_phone, normal_url
from protocol import limits
from protocol import vocabulary as v
from protocol.errors import RequestError

_MIN_NUMBER: Final = 4
_MODES: Final = {"sea": "1", "maritime": "1", "rail": "2", "road": "3", "air": "4", "mail": "5",
                 "inland": "8"}  # fmt: skip
_SHOWN_STATES: Final = ("released", "received")
_REFERENCE: Final = "f"


@dataclass(frozen=True, slots=True)
class Query:
    """What is looked for; fields that are given must all match."""

    text: str = ""
    substance: str = ""
    country: str = ""
    type: str = ""
    mode: str = ""
    status: str = ""
    since: str = ""
    until: str = ""
    container: str = ""
    document: str = ""
    batch: str = ""
    selector: str = ""
    party: str = ""
    reference: str = ""
    state: str = ""

    @property
    def empty(self) -> bool:
        """Whether nothing is asked."""
        return not any(getattr(self, each.name) for each in fields(self))


FIELDS: Final = tuple(each.name for each in fields(Query))


def read_query(values: Mapping[str, Any]) -> Query:
    """Return the query that JSON *values* describe.

    Raises:
        RequestError: a field is unknown, no text, or too long, or nothing is asked.
    """
    for name, value in values.items():
        if name not in FIELDS:
            raise RequestError(f"{name} is not known here", fix=f"known are: {', '.join(FIELDS)}")
        if type(value) is not str or len(value) > limits.MAX_SEARCH:
            raise RequestError(
                f"{name} is no text of at most {limits.MAX_SEARCH} characters", fix="ask for less"
            )
    query = Query(**{name: value.strip() for name, value in values.items()})
    if query.empty:
        raise RequestError("nothing is asked", fix=f"give one of: {', '.join(FIELDS)}")
    return query


def expression(query: Query, *, widen: bool = False) -> str:
    """Return *query* in the syntax of FTS5; with *widen* words may go on.

    Raises:
        RequestError: a field cannot be read, or there are too many words.
    """
    parts = [
        _free(query.text, widen=widen),
        _substance(query.substance),
        _country(query.country),
        _word("t", "type", query.type, v.INCIDENT_TYPE),
        _mode(query.mode),
        _word("a", "status", query.status, v.STATUS),
        _days(query.since, query.until),
        _number("container", query.container, ids.CONTAINER),
        _number("document", query.document, ids.DOCUMENT),
        _number("batch", query.batch, ids.BATCH),
        _number("reference", query.reference, _REFERENCE),
        _selector(query.selector),
        _party(query.party, widen=widen),
        _state(query.state),
    ]
    wanted = [part for part in parts if part]
    if not wanted:
        raise RequestError("what is asked has no letter or digit", fix="give a word or a number")
    return " AND ".join(f"({part})" for part in wanted)


def _quoted(token: str) -> str:
    # No token holds a quote; the star that makes it a beginning stands outside.
    return f'"{token[:-1]}" *' if token.endswith("*") else f'"{token}"'


def _phrase(wanted: tuple[str, ...], *, widen: bool) -> str:
    last = wanted[-1]
    if len(wanted) == 1:
        return _quoted(f"{last}*" if widen and not last.endswith("*") else last)
    open_end = widen or last.endswith("*")
    return f'"{" ".join(wanted).rstrip("*")}"' + (" *" if open_end else "")


def _any(terms: Iterable[str]) -> str:
    return " OR ".join(dict.fromkeys(terms))


def _numbers(text: str) -> list[str]:
    """Return the terms of *text* as a number of any kind, or of the beginning of one."""
    value = compact(text)
    if len(value) < _MIN_NUMBER or not any(c.isdigit() for c in value):
        return []
    return [_quoted(f"{kind}#{value[: ids.MAX_VALUE]}*") for kind in (*KINDS, _REFERENCE)]


def _free(text: str, *, widen: bool) -> str:
    chunks = text.split()
    if len(chunks) > limits.MAX_SEARCH_WORDS:
        raise RequestError(
            f"{len(chunks)} words; at most {limits.MAX_SEARCH_WORDS}", fix="ask for fewer"
        )
    found = []
    for chunk in chunks:
        star = chunk.endswith("*") and len(chunk) > 1
        terms = [_phrase(wanted, widen=widen or star) for wanted in asked(chunk)]
        terms += _numbers(chunk)
        if terms:
            found.append(f"({_any(terms)})")
    whole = " AND ".join(found)
    if len(found) > 1 and (numbers := _numbers(text)):
        # A number with blanks in it, such as CSQU 305438 3.
        return f"({whole}) OR {_any(numbers)}"
    return whole


def _party(text: str, *, widen: bool) -> str:
    if not text:
        return ""
    # Brings tables for names in other scripts.
    from node.company import take_apart  # noqa: PLC0415

    words = " AND ".join(_phrase(wanted, widen=widen) for wanted in asked(text))
    terms = [f"{{names}} : ({words})"] if words else []
    terms += [_quoted(f"n={key}") for key in take_apart(text).skeletons()]
    return _any(terms)


def _substance(text: str) -> str:
    if not text:
        return ""
    from protocol.reference import substances  # noqa: PLC0415

    found = [match.substance.id for match in substances().exactly(text)]
    return _any(_quoted(f"s={compact(name)}") for name in (*found, text) if compact(name))


def _country(text: str) -> str:
    if not text:
        return ""
    code = text.upper()
    if code not in v.COUNTRIES:
        from protocol.reference import find_country  # noqa: PLC0415

        found = find_country(text)
        if found is None:
            raise RequestError(
                "country is no country", fix="give its code of two letters, such as NL"
            )
        code = found.code
    return _quoted(f"c={code.lower()}")


def _word(letter: str, name: str, text: str, words: tuple[str, ...]) -> str:
    if not text:
        return ""
    if text not in words:
        raise RequestError(f"{name} is none that is known", fix=f"use one of: {', '.join(words)}")
    return _quoted(f"{letter}={compact(text)}")


def _mode(text: str) -> str:
    if not text:
        return ""
    code = _MODES.get(text.lower(), text)
    if code not in v.MODE:
        raise RequestError(
            "mode is none that is known", fix=f"use a code, or one of: {', '.join(_MODES)}"
        )
    return _quoted(f"m={code}")


def _state(text: str) -> str:
    if not text:
        return ""
    if text not in _SHOWN_STATES:
        raise RequestError("state is none that is known", fix="use released or received")
    return _quoted("w=own" if text == "released" else "w=received")


def _number(name: str, text: str, kind: str) -> str:
    if not text:
        return ""
    value = compact(text)
    if len(value) < _MIN_NUMBER - (kind == ids.BATCH):
        raise RequestError(f"{name} is too short", fix="give four characters of it or more")
    return _quoted(f"{kind}#{value[: ids.MAX_VALUE]}*")


def _selector(text: str) -> str:
    if not text:
        return ""
    forms: dict[str, str] = {
        ids.EMAIL: normal_email(text), ids.URL: normal_url(text), ids.HANDLE: normal_handle(text),
        ids.ACCOUNT: fold(text),
    }  # fmt: skip
    terms = [_quoted(f"{kind}#{compact(form)[:ids.MAX_VALUE]}")
             for kind, form in forms.items() if compact(form)]  # fmt: skip
    digits = normal_phone(text).lstrip("+")
    if len(digits) >= _MIN_NUMBER:
        terms.append(_quoted(f"{ids.PHONE}#{digits}"))
        if len(digits) > TAIL and not normal_phone(text).startswith("+"):
            terms.append(_quoted(f"{ids.PHONE}#{digits[-TAIL:]}"))
    if not terms:
        raise RequestError("selector has no letter or digit", fix="give a number or an address")
    return _any(terms)


# --- dates ---------------------------------------------------------------------------------------
def _days(since: str, until: str) -> str:
    """Return the days from *since* to *until* as whole years and months, and the days left."""
    if not since and not until:
        return ""
    first = _bound("since", since or f"{_FIRST_YEAR}", 0)
    last = _bound("until", until or f"{_LAST_YEAR}", -1)
    if first > last:
        raise RequestError("since is after until", fix="exchange them")
    found: list[str] = []
    day = first
    while day <= last:
        year_end = datetime.date(day.year, 12, 31)
        month_end = day.replace(day=calendar.monthrange(day.year, day.month)[1])
        if day == datetime.date(day.year, 1, 1) and year_end <= last:
            found.append(f"d={day.year:04d}")
            day = year_end
        elif day.day == 1 and month_end <= last:
            found.append(f"d={day.year:04d}{day.month:02d}")
            day = month_end
        else:
            found.append(f"d={day.year:04d}{day.month:02d}{day.day:02d}")
        day += datetime.timedelta(days=1)
    return _any(map(_quoted, found))


_FIRST_YEAR: Final = 1990
_LAST_YEAR: Final = 2100
_DATE: Final = re.compile(r"[0-9]{4}(-[0-9]{2}){0,2}")


def _bound(name: str, text: str, end: int) -> datetime.date:
    """Return the first day that *text* means, or with *end* -1 its last.

    Raises:
        RequestError: it is no date of a year, month or day that can be searched.
    """
    from protocol.reference import bounds  # noqa: PLC0415

    try:
        day = bounds(text)[end] if _DATE.fullmatch(text) else None
    except ValueError:
        day = None
    if day is None or not _FIRST_YEAR <= day.year <= _LAST_YEAR:
        raise RequestError(f"{name} is no date", fix="give 2026, 2026-03 or 2026-03-01")
    return day
