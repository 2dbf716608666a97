"""What an authority owes the International Narcotics Control Board: Form D totals, PICS entries.

Form D (1988 Convention, article 12, paragraph 12) asks for the amounts seized in a calendar year:

- Counted is what a newest revision says of substances that are in custody: in incidents of the
  types of ``SEIZURE_TYPES``, detected in that year (UTC), found in the own country. Stopped or
  suspended shipments, thefts, orders and offers are no seizures: each is named under ``left_out``.
- Drafts are not in the set. Exercises, retracted and erased incidents are left out, and so are
  substances that were refuted or only hid the others, and quantities that are a capacity or were
  expected.
- Incidents that are tied by ``duplicate_of`` are one seizure: the one of them that is not said to
  be a duplicate counts, by its own year, so that no other year counts it again.
- Amounts are added per substance and unit as they were measured. Kilograms stand beside, where the
  unit or a known density allows it, and are never added to the amounts.

Which section of the form a type belongs to is this program's reading of the Convention: check it
against the form of the year. The fields of PICS follow what its users are asked for; the platform
is restricted, so order and names of its screens could not be checked.
"""

from __future__ import annotations

import datetime
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Context, Decimal
from typing import Any, Final

from protocol import reference
from protocol import vocabulary as v

SEIZURE_TYPES: Final = frozenset({"seizure", "illicit_laboratory", "storage_site", "dump_site"})
"""Incidents whose substances are in custody."""
_NO_AMOUNT: Final = frozenset({"capacity", "expected"})
_DUPLICATE: Final = "duplicate"
_EXACT: Final = Context(prec=60)
_MANY: Final = 50
Face = Mapping[str, Any]

NO_FACE: Final = "its content was erased here"
RETRACTED: Final = "retracted"
CONTESTED: Final = "two versions contradict each other"
EXERCISE: Final = "an exercise"
ABROAD: Final = "found abroad"
NOTHING: Final = "no amount of a substance in custody"
DUPLICATE: Final = "a duplicate of one that is counted"


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One released incident of the authority, as its newest revision has it.

    ``duplicate_of`` are ids of incidents of the same set.
    """

    incident_id: str
    ref: str
    revision: int = 1
    face: Face | None
    annex: Mapping[str, Any] | None = None
    retracted: str | None = None
    contested: bool = False
    duplicate_of: frozenset[str] = frozenset()


# --- Form D ----------------------------------------------------------------------------------
@dataclass(frozen=True, slots=True, kw_only=True)
class FormRow:
    """The total of one substance in one unit; ``table`` is I, II, none, or ? if it is uncertain."""

    table: str
    substance: str
    name: str
    cas: str | None
    unit: str
    value: Decimal
    refs: tuple[str, ...]
    kilograms: Decimal | None
    density: Decimal | None
    notes: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class FormD:
    """The totals of one country and year, and what is not in them, by reason."""

    year: int
    country: str
    rows: tuple[FormRow, ...]
    left_out: tuple[tuple[str, tuple[str, ...]], ...]
    counted: tuple[str, ...]


def form_d(cases: Iterable[Case], *, year: int, country: str) -> FormD:
    """Return the totals of *country* for *year*; the same for every order of *cases*."""
    known = {case.incident_id: case for case in cases}
    left_out: dict[str, list[str]] = defaultdict(list)
    fit: dict[str, Case] = {}
    for case in known.values():
        reason = _reason(case, country)
        if reason is None:
            fit[case.incident_id] = case
        elif case.face is None or _year(case.face) == year:
            left_out[reason].append(case.ref)
    counted, copies = _once(known, fit)
    for case in fit.values():
        if case.incident_id not in counted and case.face and _year(case.face) == year:
            left_out[DUPLICATE].append(case.ref)
    chosen = [fit[key] for key in counted if _year(fit[key].face or {}) == year]
    return FormD(
        year=year,
        country=country,
        rows=_rows(chosen, copies),
        left_out=tuple((why, tuple(sorted(left_out[why]))) for why in sorted(left_out)),
        counted=tuple(sorted(case.ref for case in chosen)),
    )


def _year(face: Face) -> int:
    return int(str(face["detected_at"])[:4])


def _reason(case: Case, country: str) -> str | None:
    """Return why an incident is no seizure that counts, in whatever year it was."""
    if case.retracted is not None:
        return RETRACTED
    face = case.face
    if face is None:
        return NO_FACE
    if case.contested:
        return CONTESTED
    if face.get("exercise", False):
        return EXERCISE
    if face["incident_type"] not in SEIZURE_TYPES:
        return f"{face['incident_type']} is no seizure"
    if face["location"]["country"] != country:
        return ABROAD
    return None if any(map(_counts, face.get("substances", ()))) else NOTHING


def _counts(substance: Mapping[str, Any]) -> bool:
    """Whether a substance of an incident is in custody, and how much of it is known."""
    return (
        substance.get("id_status") != "refuted"
        and substance.get("role_in_case") != "cover_load"
        and substance["qty"].get("qualifier", "exact") not in _NO_AMOUNT
    )


def _once(
    known: Mapping[str, Case], fit: Mapping[str, Case]
) -> tuple[frozenset[str], dict[str, int]]:
    """Return which incidents stand for each seizure, and how many duplicates each stands for."""
    parents = {key: key for key in known}

    def root(key: str) -> str:
        while parents[key] != key:
            parents[key] = parents[parents[key]]
            key = parents[key]
        return key

    for case in known.values():
        # What was withdrawn for another reason says nothing any more, its links included.
        if case.retracted not in {None, _DUPLICATE}:
            continue
        for other in case.duplicate_of & known.keys():
            parents[root(case.incident_id)] = root(other)
    groups: dict[str, list[Case]] = defaultdict(list)
    for case in fit.values():
        groups[root(case.incident_id)].append(case)
    chosen: dict[str, int] = {}
    for group in groups.values():
        ids = {case.incident_id for case in group}

        def rank(case: Case, ids: set[str] = ids) -> tuple[bool, str, str]:
            said = bool((case.duplicate_of & ids) - {case.incident_id})
            return said, str((case.face or {})["detected_at"]), case.incident_id

        chosen[min(group, key=rank).incident_id] = len(group) - 1
    return frozenset(chosen), chosen


def _rows(cases: Sequence[Case], copies: Mapping[str, int]) -> tuple[FormRow, ...]:
    found: dict[tuple[str, str, str], list[tuple[Case, Mapping[str, Any]]]] = defaultdict(list)
    for case in cases:
        face = case.face or {}
        on = datetime.date.fromisoformat(str(face["detected_at"])[:10])
        for substance in filter(_counts, face["substances"]):
            key, table = _identity(substance, on)
            found[table, key, substance["qty"]["unit"]].append((case, substance))
    return tuple(_row(*key, found[key], copies) for key in sorted(found))


def _identity(substance: Mapping[str, Any], on: datetime.date) -> tuple[str, str]:
    """Return what is the same substance here, and the table in which it stood on a day."""
    if "substance_id" in substance:
        key = str(substance["substance_id"])
        status = reference.control_status(key, on)
        known = status.certain
        return key, (status.table or "none") if known else "?"
    other = substance["other"]
    # Free text is not taken for a substance of the list, however much it looks like one.
    name = reference.folded(other["name"]) or other["name"]
    return f"other {other.get('cas', '')} {name}", "?"


def _row(
    table: str, key: str, unit: str, parts: Sequence[tuple[Case, Mapping[str, Any]]],
    copies: Mapping[str, int],
) -> FormRow:  # fmt: skip
    total = Decimal(0)
    for _, substance in parts:
        total = _EXACT.add(total, Decimal(substance["qty"]["value"]))
    first = min((s for _, s in parts), key=lambda s: str((s.get("other") or {}).get("name", "")))
    listed = reference.substances().by_id.get(key)
    density = None if listed is None else listed.density_kg_per_l
    measure = reference.units()[unit].measure
    used = density if measure == "volume" else None
    other = first.get("other") or {}
    return FormRow(
        table=table,
        substance=key if "substance_id" in first else "",
        name=other.get("name", key) if listed is None else listed.name,
        cas=other.get("cas") if listed is None else listed.cas,
        unit=unit,
        value=total,
        refs=tuple(sorted({case.ref for case, _ in parts})),
        kilograms=reference.kilograms(total, unit, density=density),
        density=used,
        notes=_notes(parts, copies, like=_alike(other)),
    )


def _alike(other: Mapping[str, Any]) -> str | None:
    for text in (other.get("cas"), other.get("name")):
        matches = reference.substances().exactly(text) if text else []
        if matches:
            return matches[0].substance.name
    return None


def _notes(
    parts: Sequence[tuple[Case, Mapping[str, Any]]], copies: Mapping[str, int], *, like: str | None
) -> tuple[str, ...]:
    """Return what a person has to know of an amount before it is written into the form."""
    words: Counter[str] = Counter()
    for _, substance in parts:
        qty = substance["qty"]
        if (qualifier := qty.get("qualifier", "exact")) != "exact":
            words[qualifier.replace("_", " ")] += 1
        if (basis := qty.get("basis", "unknown")) in {"gross", "solution", "pure_content"}:
            words[basis.replace("_", " ")] += 1
        if (status := substance.get("id_status", "declared_only")) != "laboratory_confirmed":
            words[status.replace("_", " ")] += 1
    notes = [f"{word}: {words[word]} of {len(parts)}" for word in sorted(words)]
    same = sum(copies[key] for key in {case.incident_id for case, _ in parts})
    if same:
        notes.append(f"duplicates counted once: {same}")
    if like is not None:
        notes.append(f"written as free text; may be {like}")
    return tuple(notes)


def plain_number(value: Decimal) -> str:
    """Return *value* in digits, without an exponent and without zeros that say nothing."""
    text = format(value, "f")
    return text.rstrip("0").rstrip(".") if "." in text else text


FORM_COLUMNS: Final = (
    "Table", "Substance", "CAS", "Amount", "Unit", "Unit code", "Incidents", "Kilograms",
    "Density kg/L", "Notes", "References",
)  # fmt: skip


def form_cells(row: FormRow) -> tuple[str, ...]:
    """Return *row* in the order of FORM_COLUMNS."""
    more = len(row.refs) - _MANY
    refs = [*row.refs[:_MANY], *([f"and {more} more"] if more > 0 else [])]
    return (
        row.table, row.name, row.cas or "", plain_number(row.value), v.UNIT_SYMBOL[row.unit],
        row.unit, str(len(row.refs)),
        "" if row.kilograms is None else plain_number(row.kilograms),
        "" if row.density is None else plain_number(row.density),
        "; ".join(row.notes), " ".join(refs),
    )  # fmt: skip


# --- copies for the Board --------------------------------------------------------------------
@dataclass(frozen=True, slots=True, kw_only=True)
class Sent:
    """That somebody put an incident into PICS: under which number, and which revision it was."""

    pics_ref: str
    revision: int
    by: str
    at: str


def copy_status(case: Case, sent: Sent | None) -> str | None:
    """Return how it stands with the copy of an incident for the Board; None if it needs none.

    What the originator wrote into the record and what was noted here later count together. The
    words are those of INCB_COPY, besides: undecided, amended_since, retracted_since.
    """
    face = case.face or {}
    if face.get("exercise", False):
        return None
    if sent is not None:
        if case.retracted is not None:
            return "retracted_since"
        return "amended_since" if case.revision > sent.revision else "sent"
    if case.retracted is not None or case.face is None:
        return None
    said = face["handling"].get("incb_copy")
    return "undecided" if said is None else str(said["status"])
