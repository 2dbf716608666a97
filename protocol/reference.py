"""The reference lists that come with Picket, and how something is found in them.

- A list is a file of ``protocol/data`` with a version, its sources, and one row a line. What no
  second source was found for stands under ``unchecked`` of its row.
- Looking up is forgiving (case, accents, hyphens, spaces, Greek letters); what is stored is not:
  an incident names a substance by the id of its row, and a list of another version may lack it.
- Whether a substance is controlled depends on the day. A date of which only the year is known
  leaves that year uncertain, and the answer says so.
"""

from __future__ import annotations

import calendar
import datetime
import json
import unicodedata
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from decimal import Decimal
from functools import cache, cached_property
from importlib import resources
from typing import Any, Final

NAMES: Final = ("substances", "countries", "units", "packages", "modes")
SPECIAL: Final = "special-surveillance"
"""The list of the Board that only authorities may have: each imports its own copy."""
_GREEK: Final = str.maketrans(
    {"\u03b1": "alpha", "\u03b2": "beta", "\u03b3": "gamma", "\u03b4": "delta"}
)
_NEAR: Final = 0.5
_PAIR: Final = 2
_SKELETON: Final = 14


@dataclass(frozen=True, slots=True)
class RefList:
    """One list: its version, where it comes from, and its rows as they stand in the file."""

    name: str
    version: str
    sources: tuple[str, ...]
    rows: tuple[Mapping[str, Any], ...]
    about: Mapping[str, Any]


@cache
def ref_list(name: str) -> RefList:
    """Return the list *name* of NAMES.

    Raises:
        ValueError: there is none.
    """
    if name not in NAMES:
        raise ValueError(f"no list {name!r}")
    text = (resources.files("protocol") / "data" / f"{name}.json").read_text(encoding="utf-8")
    data: dict[str, Any] = json.loads(text)
    told = ("as_of", "meaning", "licence")
    about: dict[str, Any] = {key: data[key] for key in told if key in data}
    return RefList(name, data["version"], tuple(data["sources"]), tuple(data["rows"]), about)


# --- text ------------------------------------------------------------------------------------
def folded(text: str) -> str:
    """Return *text* as it is compared: letters and digits only, without case and accents.

    Digits stay where they are, so that 1-Boc-4-AP and 4-AP differ while 1 boc 4 ap is the first.
    """
    # Folding can leave what decomposes, and decomposing what folds, such as letters of mathematics.
    bare = unicodedata.normalize("NFKD", text).casefold().translate(_GREEK)
    plain = unicodedata.normalize("NFKD", bare)
    return "".join(c for c in plain if c.isalnum())


def _pairs(text: str) -> frozenset[str]:
    return frozenset(text[at : at + _PAIR] for at in range(max(len(text) - 1, 1)))


def _likeness(one: frozenset[str], other: frozenset[str]) -> float:
    """Return the Dice coefficient of two sets of pairs of letters."""
    return 2 * len(one & other) / (len(one) + len(other))


# --- substances ------------------------------------------------------------------------------
@dataclass(frozen=True, slots=True)
class Period:
    """From when to when a substance stood in a table; ``until`` is the first day it did not."""

    table: str
    since: str
    until: str | None = None


@dataclass(frozen=True, slots=True)
class Substance:
    """One row of the list of substances."""

    id: str
    name: str
    kind: str
    synonyms: tuple[str, ...] = ()
    family: str | None = None
    cas: str | None = None
    salts: Mapping[str, str] | None = None
    inchikey: str | None = None
    formula: str | None = None
    molar_mass: Decimal | None = None
    hs: str | None = None
    control: tuple[Period, ...] = ()
    control_of_salts: bool = True
    un_number: str | None = None
    density_kg_per_l: Decimal | None = None
    drugs: tuple[str, ...] = ()
    note: str | None = None
    checked: tuple[str, ...] = ()
    unchecked: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Match:
    """A substance that was found, by what, and of which salt the number was."""

    substance: Substance
    by: str
    salt: str | None = None


@dataclass(frozen=True, slots=True)
class ControlStatus:
    """In which table a substance stood on a day.

    ``certain`` is false for a substance that is not in the list, and where a date is known by its
    year only.
    """

    table: str | None
    since: str | None
    certain: bool

    @property
    def controlled(self) -> bool:
        """Whether it stood in Table I or II."""
        return self.table is not None


def substance_of(row: Mapping[str, Any]) -> Substance:
    """Return the substance that a row of the list describes."""
    values = dict(row)
    for name in ("synonyms", "drugs", "checked", "unchecked"):
        values[name] = tuple(values.get(name, ()))
    for name in ("molar_mass", "density_kg_per_l"):
        if name in values:
            values[name] = Decimal(values[name])
    values["control"] = tuple(Period(**period) for period in values.get("control", ()))
    return Substance(**values)


class Substances:
    """A list of substances with its indexes; the same for every order of its rows."""

    def __init__(self, version: str, rows: Iterable[Substance]) -> None:
        """Index *rows*; of two with the same id the later one counts."""
        self.version = version
        self.by_id = {row.id: row for row in rows}

    @cached_property
    def _numbers(self) -> dict[str, list[Match]]:
        found: dict[str, list[Match]] = {}
        for row in self.by_id.values():
            if row.cas:
                found.setdefault(row.cas, []).append(Match(row, "cas"))
            for salt, cas in (row.salts or {}).items():
                found.setdefault(cas, []).append(Match(row, "cas", salt))
            if row.inchikey:
                found.setdefault(row.inchikey, []).append(Match(row, "inchikey"))
                # The first block is the skeleton without stereochemistry, charge or isotopes.
                skeleton = found.setdefault(row.inchikey[:_SKELETON], [])
                skeleton.append(Match(row, "skeleton"))
        return found

    @cached_property
    def _texts(self) -> dict[str, list[Match]]:
        found: dict[str, list[Match]] = {}
        for row in self.by_id.values():
            texts = [(row.id, "id"), (row.name, "name"), (_short(row.name), "name")]
            texts += [(synonym, "synonym") for synonym in row.synonyms]
            texts += [(f"{row.name} {salt}", "salt") for salt in row.salts or {}]
            for text, by in texts:
                matches = found.setdefault(folded(text), [])
                if all(match.substance is not row for match in matches):
                    salt = text.removeprefix(f"{row.name} ") if by == "salt" else None
                    matches.append(Match(row, by, salt))
        return found

    @cached_property
    def _likenesses(self) -> list[tuple[frozenset[str], Substance]]:
        return [
            (_pairs(text), match.substance)
            for text, matches in self._texts.items()
            for match in matches
        ]

    def exactly(self, text: str) -> list[Match]:
        """Return what *text* names: an id, name, synonym, CAS number or InChIKey."""
        number = text.strip().upper()
        found = self._numbers.get(number) or self._texts.get(folded(text)) or []
        if not found and number[_SKELETON : _SKELETON + 1] == "-":
            found = self._numbers.get(number[:_SKELETON], [])
        return list(found)

    def find(self, text: str, *, limit: int = 20) -> list[Match]:
        """Return what *text* names, else what it is part of, else what looks like it."""
        if found := self.exactly(text):
            return found[:limit]
        wanted = folded(text)
        if not wanted:
            return []
        parts = sorted(
            (not name.startswith(wanted), len(name), name) for name in self._texts if wanted in name
        )
        matches: dict[str, Match] = {}
        for _, _, name in parts:
            for match in self._texts[name]:
                matches.setdefault(match.substance.id, Match(match.substance, "part", match.salt))
        if matches:
            return list(matches.values())[:limit]
        return [Match(row, "similar") for row in self.nearest(text, limit=limit)]

    def nearest(self, text: str, *, limit: int = 3) -> list[Substance]:
        """Return the substances whose names look most like *text*, the likeliest first."""
        wanted = _pairs(folded(text))
        best: dict[str, float] = {}
        for pairs, row in self._likenesses:
            likeness = _likeness(wanted, pairs)
            if likeness >= _NEAR and likeness > best.get(row.id, 0.0):
                best[row.id] = likeness
        ranked = sorted(best, key=lambda row_id: (-best[row_id], row_id))
        return [self.by_id[row_id] for row_id in ranked[:limit]]

    def control_status(
        self, substance_id: str, on: datetime.date, *, salt: bool = False
    ) -> ControlStatus:
        """Return in which table of the 1988 Convention a substance stood on a day.

        Args:
            substance_id: the id of its row.
            on: the day, such as that of the detection.
            salt: whether it is a salt of the substance. Salts are controlled with it wherever they
                can exist, but for those of hydrochloric and sulphuric acid.
        """
        row = self.by_id.get(substance_id)
        if row is None:
            return ControlStatus(None, None, certain=False)
        if salt and not row.control_of_salts:
            return ControlStatus(None, None, certain=True)
        doubtful: Period | None = None
        for period in row.control:
            began = _passed(period.since, on)
            over = False if period.until is None else _passed(period.until, on)
            if began and over is False:
                return ControlStatus(period.table, period.since, certain=True)
            if began is not False and over is not True and doubtful is None:
                doubtful = period
        if doubtful is None:
            return ControlStatus(None, None, certain=True)
        return ControlStatus(doubtful.table, doubtful.since, certain=False)


def _short(name: str) -> str:
    """Return a name without what stands in brackets at its end."""
    head, _, tail = name.partition(" (")
    return head if tail.endswith(")") else name


def bounds(date: str) -> tuple[datetime.date, datetime.date]:
    """Return the first and the last day that a date of a year, month or day can mean."""
    year, month, day = ([int(part) for part in date.split("-")] + [0, 0])[:3]
    last_month = month or 12
    last_day = day or calendar.monthrange(year, last_month)[1]
    first = datetime.date(year, month or 1, day or 1)
    return first, datetime.date(year, last_month, last_day)


def _passed(date: str, on: datetime.date) -> bool | None:
    """Whether *date* has come on that day; None if only a closer date could tell."""
    first, last = bounds(date)
    if on >= last:
        return True
    return False if on < first else None


@cache
def substances() -> Substances:
    """Return the list of substances that comes with Picket."""
    listed = ref_list("substances")
    return Substances(listed.version, [substance_of(row) for row in listed.rows])


def control_status(substance_id: str, on: datetime.date, *, salt: bool = False) -> ControlStatus:
    """Return the control status by the list that comes with Picket; see ``Substances``."""
    return substances().control_status(substance_id, on, salt=salt)


# --- countries, units, packages, modes ---------------------------------------------------------
@dataclass(frozen=True, slots=True)
class Country:
    """One row of the list of countries; names by language."""

    code: str
    alpha3: str
    numeric: str
    names: Mapping[str, str]


@cache
def countries() -> Mapping[str, Country]:
    """Return the countries by their code of two letters; codes that users assign are not in it."""
    return {row["code"]: Country(**row) for row in ref_list("countries").rows}


@cache
def _country_names() -> Mapping[str, str]:
    found = {}
    for country in countries().values():
        for text in (country.code, country.alpha3, country.numeric, *country.names.values()):
            found[folded(text)] = country.code
    return found


def find_country(text: str) -> Country | None:
    """Return the country that a code or a name in one of the six languages means."""
    code = _country_names().get(folded(text))
    return None if code is None else countries()[code]


@dataclass(frozen=True, slots=True)
class Unit:
    """A unit: what it measures, and how many of its base (GRM, LTR, C62) one of it is."""

    code: str
    name: str
    symbol: str
    measure: str
    factor: Decimal


@cache
def units() -> Mapping[str, Unit]:
    """Return the units by their code of UN/ECE Recommendation 20."""
    rows = ref_list("units").rows
    return {row["code"]: Unit(**{**row, "factor": Decimal(row["factor"])}) for row in rows}


def kilograms(value: Decimal, unit: str, *, density: Decimal | None = None) -> Decimal | None:
    """Return a quantity in kilograms; None for pieces, and for a volume of unknown density.

    Only ever for totals: what was measured stays as it is in the record.
    """
    row = units()[unit]
    base = value * row.factor
    if row.measure == "mass":
        return base / 1000
    if row.measure == "volume" and density is not None:
        return base * density
    return None


@cache
def code_names(name: str) -> Mapping[str, str]:
    """Return code and name of each row of ``packages`` or ``modes``."""
    return {row["code"]: row["name"] for row in ref_list(name).rows}
