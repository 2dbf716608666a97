"""What an update of a reference list says, as rows of that list: what is new, changed and gone.

- An update of the substances is laid over the list that comes with Picket: a field that it gives
  stands in the place of the one there, and the tables that it gives in the place of all tables.
- An update of any other list is that list.
- Rows are texts of another authority. What is not known of them is left out, and named.
"""

from __future__ import annotations

import datetime
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from decimal import Decimal
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Final

from protocol.reference import Period, Substance, Substances, bounds

if TYPE_CHECKING:
    from protocol.records_operations import ListRow

SUBSTANCES: Final = "substances"
TABLES: Final = ("I", "II")
_PLAIN: Final = ("name", "family", "cas", "inchikey", "formula", "hs", "un_number", "note")
SUBSTANCE_FIELDS: Final = frozenset({*_PLAIN, "kind", "synonyms", "table"})
"""Fields of an update of the substances; ``synonyms`` are separated by semicolons."""
Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Changes:
    """The keys of rows that an update brings, changes, and leaves out."""

    new: tuple[str, ...]
    changed: tuple[str, ...]
    gone: tuple[str, ...]


def changes(before: Mapping[str, object], after: Mapping[str, object]) -> Changes:
    """Return what differs between two lists, by key."""
    return Changes(
        tuple(sorted(set(after) - set(before))),
        tuple(sorted(key for key, row in after.items() if key in before and before[key] != row)),
        tuple(sorted(set(before) - set(after))),
    )


# --- the substances --------------------------------------------------------------------------
def laid_over(base: Substances, version: str, rows: Iterable[ListRow]) -> Substances:
    """Return *base* with the *rows* of an update.

    Raises:
        ValueError: a row says of a table what cannot be; names the row.
    """
    found = dict(base.by_id)
    tables: dict[str, list[Period]] = {}
    for row in rows:
        fields = row.fields
        known = found.get(row.key) or Substance(row.key, row.key, fields.get("kind", "chemical"))
        synonyms = dict.fromkeys((*known.synonyms, *_listed(fields.get("synonyms", ""))))
        given: Row = {name: fields[name] for name in (*_PLAIN, "kind") if name in fields}
        found[row.key] = replace(known, **given, synonyms=tuple(synonyms))
        if "table" in fields:
            tables.setdefault(row.key, []).append(_period(row))
    for key, periods in tables.items():
        in_order = tuple(sorted(periods, key=lambda each: bounds(each.since)))
        for one, other in pairwise(in_order):
            if one.until is None or one.until > bounds(other.since)[1].isoformat():
                raise ValueError(f"{key} stands in two tables from {other.since}")
        found[key] = replace(found[key], control=in_order)
    return Substances(version, found.values())


def _listed(text: str) -> list[str]:
    return [each.strip() for each in text.split(";") if each.strip()]


def _period(row: ListRow) -> Period:
    table = row.fields["table"]
    if table not in TABLES:
        raise ValueError(f"{row.key} has a table that is none of {', '.join(TABLES)}")
    if row.since is None:
        raise ValueError(f"{row.key} has a table, and no day from which it stands in it")
    until = None
    if row.until is not None:
        # A row names the last day, the list of substances the first day after it.
        until = (bounds(row.until)[1] + datetime.timedelta(days=1)).isoformat()
        if until <= bounds(row.since)[0].isoformat():
            raise ValueError(f"{row.key} leaves a table before it stands in it")
    return Period(table, row.since, until)


def row_of(substance: Substance) -> Row:
    """Return a substance as a row of the list; ``reference.substance_of`` reads it again."""
    found: Row = {}
    for name, value in asdict(substance).items():
        if value is None or value == () or (name == "control_of_salts" and value):
            continue
        found[name] = format(value, "f") if isinstance(value, Decimal) else value
    found |= {name: list(found[name]) for name in ("synonyms", "drugs", "checked", "unchecked")
              if name in found}  # fmt: skip
    if "control" in found:
        found["control"] = [
            {name: text for name, text in period.items() if text is not None}
            for period in found["control"]
        ]
    return found


# --- other lists -----------------------------------------------------------------------------
def as_imported(rows: Sequence[ListRow]) -> list[Row]:
    """Return the rows of an update as an authority imports them."""
    return [
        {
            "name": row.key, **row.fields,
            **({} if row.since is None else {"since": row.since}),
            **({} if row.until is None else {"until": row.until}),
        }
        for row in rows
    ]  # fmt: skip


__all__ = [
    "SUBSTANCES", "SUBSTANCE_FIELDS", "TABLES", "Changes", "as_imported", "changes", "laid_over",
    "row_of",
]  # fmt: skip
