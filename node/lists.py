"""Reference lists as people and programs ask for them: those of Picket, and imported ones.

- An imported list, such as an authority's copy of the limited special surveillance list, may itself
  be restricted: it lies in case.db, is shown on an unlocked node only, and never leaves it.
- Importing replaces the whole list of that name. Nothing of an incident changes by it.
- An update by a peer that the operator took lies there too; one of the substances is laid over the
  list of Picket, in lookups and warnings.
"""

from __future__ import annotations

import datetime
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from node.clock import Clock, rfc3339
from node.core import Core
from protocol import checks, limits, reference
from protocol.errors import LockedError, NotFoundError, RequestError

if TYPE_CHECKING:
    from protocol.list_updates import Changes
    from protocol.records_operations import ListRow

_NAME: Final = re.compile(r"[a-z][a-z0-9_-]{0,63}")
_TEXTS: Final = ("name", "cas", "inchikey", "substance_id", "note")
_DATES: Final = ("since", "until")
_DATE: Final = re.compile(r"[0-9]{4}(-[0-9]{2}(-[0-9]{2})?)?")
Row = dict[str, Any]


class ListDesk:
    """Operations on reference lists, over a Core."""

    def __init__(self, core: Core, *, clock: Clock) -> None:
        """Serve *core*."""
        self._core, self._clock = core, clock
        self._known: tuple[tuple[str, int], reference.Substances] | None = None

    # --- showing -----------------------------------------------------------------------------
    def lists(self) -> Row:
        """Return every list with its version and size; imported ones if the node is unlocked."""
        items = [_built_in(name) for name in reference.NAMES]
        imported = self._imported()
        items += [_shown(row) for row in imported or ()]
        return {"items": items, "imported_shown": imported is not None}

    def rows(
        self, name: str, *, text: str = "", on: str = "", after: int = 0, limit: int = 50
    ) -> Row:
        """Return rows of the list *name*, or what *text* finds in it.

        Args:
            name: of the list.
            text: a name, synonym, number or code; empty for all rows.
            on: the day for which the control status is told, today if empty.
            after: the ``next`` of the page before.
            limit: at most MAX_PAGE.

        Raises:
            NotFoundError: there is no such list.
            LockedError: it may be an imported one, and the node is locked.
            RequestError: a parameter is wrong.
        """
        if not 1 <= limit <= limits.MAX_PAGE:
            raise RequestError(f"limit is outside 1 to {limits.MAX_PAGE}", fix="ask for less")
        day = self._day(on)
        if name == "substances":
            found = self._substances(text, day)
            head = {"version": self.known().version, "on": day.isoformat()}
        elif name in reference.NAMES:
            listed = reference.ref_list(name)
            found = _fitting(listed.rows, text)
            head = {"version": listed.version}
        else:
            row = self._imported_list(name)
            found = _fitting(json.loads(row["rows"]), text)
            head = {"version": row["version"]}
        page = found[after : after + limit]
        more = len(found) > after + limit
        return {"name": name, **head, "items": page, "next": after + len(page), "more": more}

    def _day(self, text: str) -> datetime.date:
        try:
            return datetime.date.fromisoformat(text or rfc3339(self._clock.now())[:10])
        except ValueError:
            raise RequestError("on is not a day", fix="write it as 2026-03-01") from None

    def _substances(self, text: str, day: datetime.date) -> list[Row]:
        from protocol.list_updates import row_of  # noqa: PLC0415

        known = self.known()
        rows = {row["id"]: row for row in reference.ref_list("substances").rows}
        own = reference.substances().by_id
        rows |= {key: row_of(each) for key, each in known.by_id.items() if own.get(key) != each}
        if text:
            matches = known.find(text, limit=limits.MAX_PAGE)
        else:
            matches = [reference.Match(row, "all") for row in known.by_id.values()]
        marks = self._marks(day)
        return [
            {
                **rows[match.substance.id],
                "found_by": match.by,
                "salt": match.salt,
                "status": _status(known, match, day),
                "lists": [name for name, on_it in marks.items() if on_it(match.substance)],
            }
            for match in matches
        ]

    def _marks(self, day: datetime.date) -> dict[str, _Members]:
        return {
            row["name"]: _Members(json.loads(row["rows"]), day)
            for row in self._imported() or ()
            if row["name"] not in reference.NAMES
        }

    # --- updates of peers --------------------------------------------------------------------
    def known(self) -> reference.Substances:
        """Return the substances with the update that was taken; those of Picket while locked."""
        taken = next((r for r in self._imported() or () if r["name"] == "substances"), None)
        if taken is None:
            return reference.substances()
        key = (taken["version"], taken["imported"])
        if self._known is None or self._known[0] != key:
            rows = _list_rows(json.loads(taken["rows"]))
            version = f"{reference.substances().version} with {taken['version']} of a peer"
            self._known = (key, _laid_over(version, rows))
        return self._known[1]

    def holds(self, name: str) -> bool:
        """Whether a list *name* was imported, or taken of a peer."""
        return any(row["name"] == name for row in self._imported() or ())

    def differences(self, name: str, version: str, rows: Sequence[ListRow]) -> Changes:
        """Return what would be new, changed and gone if *rows* were the list *name*.

        Raises:
            RequestError: they cannot be.
        """
        from protocol.list_updates import as_imported, changes  # noqa: PLC0415

        if name == "substances":
            return changes(self.known().by_id, _laid_over(version, rows).by_id)
        _check_name(name)
        kept = [_row(number, row) for number, row in enumerate(as_imported(rows), start=1)]
        held: list[Row] = []
        for row in self._imported() or ():
            if row["name"] == name:
                held = json.loads(row["rows"])
        return changes(_by_name(held), _by_name(kept))

    def take_update(self, name: str, version: str, source: str, rows: Sequence[ListRow]) -> None:
        """Keep *rows* of a peer as the list *name*, in the caller's transaction.

        Raises:
            RequestError: they cannot be.
        """
        from protocol.list_updates import as_imported  # noqa: PLC0415

        self.differences(name, version, rows)
        if name == "substances":
            kept = [row.model_dump(mode="json", exclude_none=True) for row in rows]
        else:
            kept = [_row(number, row) for number, row in enumerate(as_imported(rows), start=1)]
        self._keep(name, version, source[: limits.MAX_NAME], kept)

    # --- importing ---------------------------------------------------------------------------
    def take(self, name: str, *, version: str, source: str, rows: Sequence[Any]) -> Row:
        """Keep *rows* as the list *name*, in the place of an earlier one.

        Raises:
            RequestError: the name, version or a row is wrong; names the row.
            LockedError: the node is locked.
        """
        _, cases = self._core.opened()
        _check_name(name)
        for what, text in (("version", version), ("source", source)):
            if not text.strip() or len(text) > limits.MAX_NAME:
                raise RequestError(
                    f"{what} is empty or too long", fix=f"say the {what} of the list"
                )
        if not 1 <= len(rows) <= limits.MAX_IMPORTED_ROWS:
            raise RequestError(
                f"{len(rows)} rows where 1 to {limits.MAX_IMPORTED_ROWS} can be",
                fix="check the file",
            )
        kept = [_row(number, row) for number, row in enumerate(rows, start=1)]
        with cases.transaction():
            self._keep(name, version.strip(), source.strip(), kept)
        warnings = [each for number, row in enumerate(kept, 1) for each in _doubts(number, row)]
        return {"name": name, "version": version.strip(), "rows": len(kept), "warnings": warnings}

    def _keep(self, name: str, version: str, source: str, rows: Sequence[Row]) -> None:
        _, cases = self._core.opened()
        cases.database.execute(
            "INSERT OR REPLACE INTO ref_lists VALUES (?, ?, ?, ?, ?)",
            (name, version, source, self._clock.now(), json.dumps(rows, ensure_ascii=False)),
        )

    def remove(self, name: str) -> Row:
        """Delete an imported list.

        Raises:
            NotFoundError: there is none.
            LockedError: the node is locked.
        """
        _, cases = self._core.opened()
        self._imported_list(name)
        with cases.transaction():
            cases.database.execute("DELETE FROM ref_lists WHERE name = ?", (name,))
        cases.wipe()
        return {"name": name, "removed": True}

    # --- the table ---------------------------------------------------------------------------
    def _imported(self) -> list[Row] | None:
        """Return the imported lists, none while the node is locked."""
        try:
            _, cases = self._core.opened()
        except LockedError:
            return None
        return list(cases.database.query("SELECT * FROM ref_lists ORDER BY name"))

    def _imported_list(self, name: str) -> Row:
        self._core.opened()
        found = next((row for row in self._imported() or () if row["name"] == name), None)
        if found is None:
            raise NotFoundError(f"no list {name!r}", fix="see them with: picket lists status")
        return found


def _check_name(name: str) -> None:
    if not _NAME.fullmatch(name) or name in reference.NAMES:
        raise RequestError(
            f"a list cannot be called {name!r}",
            fix=f"use small letters, such as {reference.SPECIAL}; "
            f"taken are: {', '.join(reference.NAMES)}",
        )


def _list_rows(rows: Sequence[Row]) -> list[ListRow]:
    from protocol.records_operations import ListRow  # noqa: PLC0415

    return [ListRow.model_validate(row) for row in rows]


def _laid_over(version: str, rows: Sequence[ListRow]) -> reference.Substances:
    from protocol.list_updates import laid_over  # noqa: PLC0415

    try:
        return laid_over(reference.substances(), version, rows)
    except ValueError as error:
        raise RequestError(str(error), fix="ask for a correct version") from None


def _by_name(rows: Sequence[Row]) -> dict[str, object]:
    """Return the rows of an imported list by name, of which there may be several."""
    found: dict[str, list[str]] = {}
    for row in rows:
        found.setdefault(row["name"], []).append(json.dumps(row, sort_keys=True))
    return {key: sorted(texts) for key, texts in found.items()}


class _Members:
    """Which substances stand on an imported list on a day."""

    def __init__(self, rows: Sequence[Mapping[str, str]], day: datetime.date) -> None:
        held = [row for row in rows if _holds(row, day)]
        self._keys = {row[key] for row in held for key in ("substance_id", "cas", "inchikey")
                      if key in row}  # fmt: skip
        self._names = {reference.folded(row["name"]) for row in held}

    def __call__(self, substance: reference.Substance) -> bool:
        if not self._keys.isdisjoint({substance.id, substance.cas, substance.inchikey}):
            return True
        names = (substance.name, *substance.synonyms)
        return not self._names.isdisjoint(map(reference.folded, names))


def _holds(row: Mapping[str, str], day: datetime.date) -> bool:
    """Whether a row holds on *day*; where a date is not exact, it does."""
    begun = "since" not in row or reference.bounds(row["since"])[0] <= day
    return begun and ("until" not in row or day <= reference.bounds(row["until"])[1])


def _status(known: reference.Substances, match: reference.Match, day: datetime.date) -> Row:
    status = known.control_status(match.substance.id, day, salt=match.salt is not None)
    return {"table": status.table, "since": status.since, "certain": status.certain}


def _built_in(name: str) -> Row:
    listed = reference.ref_list(name)
    open_points = sum(bool(row.get("unchecked")) for row in listed.rows)
    return {
        "name": name, "version": listed.version, "rows": len(listed.rows), "origin": "built-in",
        "source": "; ".join(listed.sources), "as_of": listed.about.get("as_of"),
        "rows_with_unchecked_fields": open_points,
    }  # fmt: skip


def _shown(row: Mapping[str, Any]) -> Row:
    return {
        "name": row["name"], "version": row["version"], "rows": len(json.loads(row["rows"])),
        "origin": "imported", "source": row["source"], "imported": rfc3339(row["imported"]),
    }  # fmt: skip


def _fitting(rows: Sequence[Mapping[str, Any]], text: str) -> list[Row]:
    """Return the rows that have *text* in a value: first those where it is a whole value."""
    wanted = reference.folded(text)
    whole, part = [], []
    for row in rows:
        values = {reference.folded(value) for value in _values(row)}
        if not text or wanted in values:
            whole.append(dict(row))
        elif wanted and any(wanted in value for value in values):
            part.append(dict(row))
    return whole + part


def _values(row: Mapping[str, Any]) -> Iterator[str]:
    for value in row.values():
        if isinstance(value, str):
            yield value
        elif isinstance(value, Mapping):
            yield from _values(value)


def _row(number: int, row: object) -> dict[str, str]:
    if not isinstance(row, dict):
        raise RequestError(f"row {number} is no object", fix="check the file")
    if unknown := sorted(set(row) - {*_TEXTS, *_DATES}):
        raise RequestError(
            f"row {number} has an unknown column {unknown[0]!r}",
            fix=f"known are: {', '.join((*_TEXTS, *_DATES))}",
        )
    kept = {key: value.strip() if isinstance(value, str) else value for key, value in row.items()}
    kept = {key: value for key, value in kept.items() if value not in {"", None}}
    for key, value in kept.items():
        if not isinstance(value, str) or len(value) > limits.MAX_NAME:
            raise RequestError(f"row {number}: {key} is no text, or too long", fix="check the file")
        if key in _DATES and not _is_date(value):
            raise RequestError(
                f"row {number}: {key} is no date", fix="write it as 2026-03-01, 2026-03 or 2026"
            )
    if "name" not in kept:
        raise RequestError(f"row {number} has no name", fix="give each row a name")
    return kept


def _is_date(text: str) -> bool:
    if not _DATE.fullmatch(text):
        return False
    try:
        reference.bounds(text)
    except ValueError:
        return False
    return True


def _doubts(number: int, row: Mapping[str, str]) -> list[Row]:
    found = []
    for kind in ("cas", "inchikey"):
        if kind in row and (code := checks.fault(kind, row[kind])):
            what = checks.NAMES[kind]
            found.append({"row": number, "code": code, "message": f"the {what} looks wrong"})
    substance_id = row.get("substance_id")
    if substance_id is not None and substance_id not in reference.substances().by_id:
        found.append(
            {"row": number, "code": "unknown-substance", "message": "no such id in the list"}
        )
    return found
