"""Obligations as people and programs ask for them: PICS entries, copies for the Board, Form D.

- All rest on the incidents of this node alone, as their newest revisions are shown.
- That an incident was put into PICS is noted in case.db: the record is its originator's signed
  statement, and is not changed by it. A case.db that is made anew has no notes.
- What leaves as a sheet carries its handling, and stands in the log before it is handed out.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from keys.trust import Peer
from node.casebook import Casebook
from node.clock import Clock, rfc3339
from node.core import Core
from node.outgoing import Outgoing
from protocol import limits
from protocol.errors import ConflictError, RequestError
from protocol.handling_text import Reader
from protocol.sheets import Sheet, to_csv, to_text

if TYPE_CHECKING:
    from protocol.incident import Handling
    from protocol.obligations import Case, Sent

EXPORT: Final = "export-sheet"
"""How a sheet that is handed out is called among the acts about an incident."""
FORMATS: Final = ("text", "csv", "xlsx")
_FIRST_YEAR, _LAST_YEAR = 1988, 9999
_WIDEST: Final = 60
_PAGE: Final = 500
Row = dict[str, Any]


class ObligationDesk:
    """Operations for what is owed to the Board, over a Core."""

    def __init__(
        self,
        core: Core,
        *,
        clock: Clock,
        outgoing: Outgoing,
        find: Callable[[str], Row],
        peer: Callable[[str], Peer],
    ) -> None:
        """Serve *core*.

        Args:
            core: the node.
            clock: the times of notes.
            outgoing: the handling that each copy carries.
            find: an incident by what a person typed.
            peer: a peer by what a person typed.
        """
        self._core, self._clock, self._outgoing = core, clock, outgoing
        self._find, self._peer = find, peer

    # --- the incidents -----------------------------------------------------------------------
    def _cases(self, author: bytes) -> list[Case]:
        from protocol.obligations import Case  # noqa: PLC0415

        _, cases = self._core.opened()
        rows = list(_rows(cases, own=author == self._core.node_id, author=author))
        names = {row["ref"]: row["incident_id"] for row in rows}
        names |= {row["incident_id"]: row["incident_id"] for row in rows}
        said = _said_duplicates(cases, author)
        return [
            Case(
                incident_id=row["incident_id"], ref=row["ref"], revision=row["revision"],
                face=row["face"], annex=row["annex"], retracted=row["retracted"],
                contested=bool(row["contested"]),
                duplicate_of=_duplicates(row, names, said.get(row["incident_id"], frozenset())),
            )
            for row in rows
        ]  # fmt: skip

    def _sent(self) -> dict[str, Sent]:
        from protocol.obligations import Sent  # noqa: PLC0415

        _, cases = self._core.opened()
        return {
            row["incident_id"]: Sent(
                pics_ref=row["pics_ref"], revision=row["revision"], by=row["by"],
                at=rfc3339(row["at"]),
            )
            for row in cases.database.query("SELECT * FROM pics_sent")
        }  # fmt: skip

    # --- copies for the Board ----------------------------------------------------------------
    def incb(self) -> Row:
        """Return how it stands with the copy of each incident for the Board, the oldest first.

        Raises:
            LockedError: the node is locked.
        """
        from protocol.obligations import copy_status  # noqa: PLC0415

        sent, items, counts = self._sent(), [], dict[str, int]()
        for case in self._cases(self._core.node_id):
            note = sent.get(case.incident_id)
            status = copy_status(case, note)
            if status is None:
                continue
            counts[status] = counts.get(status, 0) + 1
            face = case.face or {}
            said = (face.get("handling") or {}).get("incb_copy") or {}
            items.append(
                {
                    "id": case.incident_id, "ref": case.ref, "status": status,
                    "incident_type": face.get("incident_type"),
                    "detected_at": face.get("detected_at"), "revision": case.revision,
                    "pics_ref": said.get("pics_ref") if note is None else note.pics_ref,
                    "sent_revision": None if note is None else note.revision,
                    "noted_by": None if note is None else note.by,
                    "noted_at": None if note is None else note.at,
                }
            )  # fmt: skip
        return {"items": items, "counts": dict(sorted(counts.items()))}

    def sent(self, key: str, *, pics_ref: str, by: str, replace: bool = False) -> Row:
        """Note that an incident was put into PICS; done again, it changes nothing.

        Raises:
            NotFoundError: there is none of that id or reference.
            ConflictError: it is another authority's, or was noted under another reference.
            RequestError: the reference, or who says so, is missing or too long.
        """
        pics_ref, by = _line(pics_ref, "pics_ref"), _line(by, "by")
        _, cases = self._core.opened()
        row = self._find(key)
        if not row["own"]:
            raise ConflictError(
                "this incident is another authority's", fix="its originator sends it to the Board"
            )
        incident_id, now = row["incident_id"], self._clock.now()
        known = next(
            iter(cases.database.query("SELECT * FROM pics_sent WHERE incident_id = ?",
                                      [incident_id])), None,
        )  # fmt: skip
        if known is not None and known["pics_ref"] != pics_ref and not replace:
            raise ConflictError(
                f"it is noted as sent under {known['pics_ref']} already",
                fix="if that is wrong, say --replace",
            )
        same = known is not None and known["pics_ref"] == pics_ref
        if not (same and known is not None and known["revision"] == row["revision"]):
            with cases.transaction():
                cases.database.execute(
                    "INSERT OR REPLACE INTO pics_sent VALUES (?, ?, ?, ?, ?)",
                    (incident_id, pics_ref, row["revision"], by, now),
                )
        return {
            "id": incident_id, "ref": row["ref"], "pics_ref": pics_ref,
            "revision": row["revision"], "new": known is None,
        }  # fmt: skip

    def pics(self, *, who: str, by: str, persons: bool = False) -> Row:
        """Return the incidents that are still to be put into PICS, as they are typed there.

        Raises:
            LockedError: the node is locked.
            BusyError: the disk is full; nothing is handed out that is not logged.
        """
        from protocol.obligations import copy_status  # noqa: PLC0415
        from protocol.pics import COLUMNS, entry  # noqa: PLC0415

        sent = self._sent()
        due = [
            case for case in self._cases(self._core.node_id)
            if copy_status(case, sent.get(case.incident_id)) in {"to_send", "amended_since"}
        ]  # fmt: skip
        handled = [(case, self._outgoing.handling(case.face or {})) for case in due]
        by = self._outgoing.person(by, who)
        rows = tuple(
            (*entry(case, persons=persons), *self._outgoing.cells(handling, by=by))
            for case, handling in handled
        )
        columns = (*COLUMNS, *self._outgoing.COLUMNS)
        sheet = Sheet(
            title="Incidents to be entered into PICS",
            head=self._head([handling for _, handling in handled], by),
            columns=columns, rows=rows, blocks=True,
            foot=("After each entry: picket obligations sent REFERENCE --pics-ref NUMBER",),
        )  # fmt: skip
        self._log(due, self._core.node_id, who, f"PICS worksheet, by {by}")
        return {**shown(sheet), "refs": [case.ref for case in due]}

    # --- Form D ------------------------------------------------------------------------------
    def form_d(
        self, year: int, *, who: str, by: str, of: str | None = None, leaves: bool = False
    ) -> Row:
        """Return the totals for Form D of *year*, of this authority or of the peer *of*.

        Args:
            year: the calendar year.
            who: on which way it was asked for, see ``node.access``.
            by: who gets the sheet, as typed.
            of: a peer whose incidents are here; its country counts.
            leaves: whether the sheet goes beyond this node, as a file.

        Raises:
            NotFoundError: no such peer is known.
            ConflictError: the handling of an incident of the peer does not allow it.
            RequestError: the year is none.
            BusyError: the disk is full; nothing is handed out that is not logged.
        """
        from protocol.obligations import FORM_COLUMNS, form_cells, form_d  # noqa: PLC0415

        if not _FIRST_YEAR <= year <= _LAST_YEAR:
            raise RequestError(f"{year} is no year of the form", fix="give it as 2026")
        peer = None if of is None else self._peer(of)
        author = self._core.node_id if peer is None else peer.node_id
        card = self._core.card if peer is None else peer.card
        cases = self._cases(author)
        totals = form_d(cases, year=year, country=card.country)
        counted = [case for case in cases if case.ref in set(totals.counted)]
        handled = {case.ref: self._outgoing.handling(case.face or {}) for case in counted}
        if peer is not None and leaves:
            for case in counted:
                self._outgoing.check(
                    handled[case.ref], Reader.NATIONAL, ref=case.ref,
                    ids=self._ids(case, author),
                )  # fmt: skip
        by = self._outgoing.person(by, who)
        rows = tuple(
            (*form_cells(row), *self._marks([handled[ref] for ref in row.refs], by))
            for row in totals.rows
        )  # fmt: skip
        foot = [f"Counted: {len(totals.counted)} seizures. Amounts are as measured, never "
                "converted; kilograms stand beside where unit or density allows."]  # fmt: skip
        foot += [f"Not counted, {why}: {_some(refs)}" for why, refs in totals.left_out]
        sheet = Sheet(
            title=f"Form D, seizures in {card.country} in {year} (article 12, paragraph 12)",
            head=self._head(list(handled.values()), by),
            columns=(*FORM_COLUMNS, *self._outgoing.COLUMNS), rows=rows, foot=tuple(foot),
        )  # fmt: skip
        self._log(counted, author, who, f"Form D {year}, by {by}")
        return {
            **shown(sheet), "year": year, "country": card.country, "counted": list(totals.counted),
            "left_out": {why: list(refs) for why, refs in totals.left_out},
        }  # fmt: skip

    def _head(self, handlings: Sequence[Handling], by: str) -> tuple[str, ...]:
        if not handlings:
            return ()
        return self._outgoing.watermark(self._outgoing.strictest(handlings), by=by)

    def _marks(self, handlings: Sequence[Handling], by: str) -> tuple[str, str]:
        return self._outgoing.cells(self._outgoing.strictest(handlings), by=by)

    def _ids(self, case: Case, author: bytes) -> list[bytes]:
        _, cases = self._core.opened()
        return [row["envelope_id"] for row in cases.envelopes_of(case.incident_id, author)]

    def _log(self, cases: Sequence[Case], author: bytes, who: str, note: str) -> None:
        held = [each for case in cases for each in self._ids(case, author)]
        ids = [each for each in held if not self._core.erasures.knows(each)]
        if ids:
            self._core.access.record(EXPORT, ids, who, note[: limits.MAX_ACCESS_NOTE])


# --- reading ---------------------------------------------------------------------------------
def _rows(cases: Casebook, *, own: bool, author: bytes) -> Iterator[Row]:
    after = 0
    while page := cases.incidents(after=after, limit=_PAGE, own=own):
        yield from (row for row in page if row["author"] == author)
        after = page[-1]["log_index"] + 1


def _said_duplicates(cases: Casebook, author: bytes) -> dict[str, frozenset[str]]:
    """Return of which incidents of *author* it said by link or retraction that others are copies.

    A link of anybody else changes nothing here: only the originator says what its incident is.
    """
    own, found = author.hex(), dict[str, set[str]]()
    for row in cases.items(("link.assert", "incident.retract")):
        body = row["body"]
        if row["author"] != author:
            continue
        if row["kind"] == "link.assert":
            if body["kind"] != "duplicate_of" or body["incident"]["author"] != own:
                continue
            key, other = body["incident"]["incident_id"], body["target"]
        elif "duplicate_of" in body and body["duplicate_of"] is not None:
            key, other = body["incident_id"], body["duplicate_of"]
        else:
            continue
        if other["author"] == own:
            found.setdefault(key, set()).add(other["incident_id"])
    return {key: frozenset(others) for key, others in found.items()}


def _duplicates(row: Row, names: Mapping[str, str], said: frozenset[str]) -> frozenset[str]:
    links = (row["face"] or {}).get("links", ())
    targets = {link["target"] for link in links if link["kind"] == "duplicate_of"}
    return (said | {names[each] for each in targets if each in names}) - {row["incident_id"]}


# --- sheets ----------------------------------------------------------------------------------
def shown(sheet: Sheet) -> Row:
    """Return *sheet* as JSON."""
    return {
        "title": sheet.title, "head": list(sheet.head), "columns": list(sheet.columns),
        "rows": [list(row) for row in sheet.rows], "foot": list(sheet.foot),
        "blocks": sheet.blocks,
    }  # fmt: skip


def sheet_of(row: Mapping[str, Any]) -> Sheet:
    """Return the sheet that ``shown`` made JSON of."""
    return Sheet(
        title=row["title"], head=tuple(row["head"]), columns=tuple(row["columns"]),
        rows=tuple(map(tuple, row["rows"])), foot=tuple(row["foot"]), blocks=row["blocks"],
    )  # fmt: skip


def rendered(sheet: Sheet, form: str, *, bom: bool = False) -> bytes:
    """Return *sheet* as a file of *form*, one of FORMATS.

    Raises:
        RequestError: there is no such form, or what writes XLSX is not installed.
    """
    if form == "csv":
        return to_csv(sheet, bom=bom)
    if form == "text":
        # The head says once what these columns say in every row.
        kept = [n for n, name in enumerate(sheet.columns) if name not in Outgoing.COLUMNS]
        rows = tuple(tuple(row[n] for n in kept) for row in sheet.rows) if not sheet.blocks else (
            sheet.rows
        )  # fmt: skip
        columns = sheet.columns if sheet.blocks else tuple(sheet.columns[n] for n in kept)
        return to_text(
            Sheet(title=sheet.title, head=sheet.head, columns=columns, rows=rows, foot=sheet.foot,
                  blocks=sheet.blocks)
        ).encode()  # fmt: skip
    if form == "xlsx":
        return _xlsx(sheet)
    raise RequestError(f"{form!r} is no form of a sheet", fix=f"choose one of {', '.join(FORMATS)}")


def _xlsx(sheet: Sheet) -> bytes:
    try:
        from openpyxl import Workbook  # noqa: PLC0415  an extra
        from openpyxl.styles import Alignment, Font  # noqa: PLC0415
        from openpyxl.utils import get_column_letter  # noqa: PLC0415
    except ImportError:
        raise RequestError(
            "openpyxl, which writes XLSX, is not installed",
            fix="install picket-node[xlsx], or choose csv",
        ) from None
    book = Workbook()
    page: Any = book.active  # its stubs say less than it gives
    page.title = sheet.title[:31].translate(dict.fromkeys(map(ord, "[]:*?/\\"), " "))
    lines = [(sheet.title,), *((line,) for line in sheet.head), ()]
    body = [sheet.columns, *sheet.rows]
    for number, row in enumerate([*lines, *body, (), *((line,) for line in sheet.foot)], start=1):
        for column, text in enumerate(row, start=1):
            cell = page.cell(number, column, _legal(text))
            # Said to be text, so that nothing is taken for a formula or turned into a number.
            cell.data_type = "s"
            cell.alignment = Alignment(vertical="top", wrap_text=number > len(lines))
            cell.font = Font(bold=number in {1, len(lines) + 1})
    for column in range(1, len(sheet.columns) + 1):
        longest = max(max(map(len, row[column - 1].split("\n"))) for row in body)
        page.column_dimensions[get_column_letter(column)].width = min(longest + 2, _WIDEST)
    page.freeze_panes = page.cell(len(lines) + 2, 1)
    # On every printed page, too. & begins a command there.
    marks = [line for line in sheet.head if line.startswith(("TLP:", "H1", "H3", "Restr"))]
    page.oddHeader.center.text = "  ".join(marks).replace("&", "and")[:240] or None
    page.oddFooter.center.text = sheet.head[-1].replace("&", "and")[:240] if sheet.head else None
    out = io.BytesIO()
    book.save(out)
    return out.getvalue()


def _legal(text: str) -> str:
    """Return *text* without what XML has no characters for, cut to what a cell holds."""
    fine = "".join(c if c in "\n\t" or c >= " " else " " for c in text)
    return fine.replace("\ufffe", " ").replace("\uffff", " ")[:32_767]


def _some(refs: Sequence[str]) -> str:
    more = len(refs) - _SHOWN
    return ", ".join(refs[:_SHOWN]) + (f" and {more} more" if more > 0 else "")


_SHOWN: Final = 20


def _line(value: str, field: str) -> str:
    text = value.strip()
    if not text or len(text) > limits.MAX_NAME or not text.isprintable():
        raise RequestError(
            f"{field} is empty, longer than {limits.MAX_NAME} characters or not printable",
            fix=f"give {field} as one line of text",
        )
    return text
