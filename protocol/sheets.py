"""Tables for people and their programs: as text, and as CSV that a spreadsheet cannot run.

- CSV is that of RFC 4180: commas, CRLF, quotes doubled, the same number of fields in each line.
- A cell that a spreadsheet would take for a formula gets an apostrophe before it. The same is done
  to full-width forms of those signs, which some spreadsheets fold.
- What must stand on each copy, such as its handling, is a column of its own: a line of comment
  would break whoever reads the file by machine.
"""

from __future__ import annotations

import csv
import io
from dataclasses import dataclass
from typing import Final

_FORMULA: Final = frozenset("=+-@\t\r\uff1d\uff0b\uff0d\uff20")
_BOM: Final = "\ufeff"


@dataclass(frozen=True, slots=True, kw_only=True)
class Sheet:
    """One table with what stands above and below it; ``blocks`` shows each row as a list."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    head: tuple[str, ...] = ()
    foot: tuple[str, ...] = ()
    blocks: bool = False


def harmless(cell: str) -> str:
    """Return *cell* so that no spreadsheet takes it for a formula."""
    return f"'{cell}" if cell and cell[0] in _FORMULA else cell


def to_csv(sheet: Sheet, *, bom: bool = False) -> bytes:
    """Return *sheet* as CSV in UTF-8; with *bom* marked so, which some spreadsheets need."""
    out = io.StringIO(newline="")
    writer = csv.writer(out, lineterminator="\r\n")
    for row in (sheet.columns, *sheet.rows):
        writer.writerow([harmless(cell) for cell in row])
    return ((_BOM if bom else "") + out.getvalue()).encode()


def to_text(sheet: Sheet) -> str:
    """Return *sheet* as lines of text for a terminal or printer."""
    lines = [sheet.title, *sheet.head, ""]
    if not sheet.rows:
        lines.append("Nothing.")
    elif sheet.blocks:
        lines += _blocks(sheet)
    else:
        lines += _table(sheet)
    if sheet.foot:
        lines += ["", *sheet.foot]
    return "\n".join(_printable(line) for line in lines) + "\n"


def _table(sheet: Sheet) -> list[str]:
    rows = [sheet.columns, *sheet.rows]
    widths = [max(len(row[n]) for row in rows) for n in range(len(sheet.columns))]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]


def _blocks(sheet: Sheet) -> list[str]:
    width = max(map(len, sheet.columns)) + 2
    lines: list[str] = []
    for number, row in enumerate(sheet.rows, start=1):
        lines += [*([""] if lines else []), f"--- {number} of {len(sheet.rows)} ---"]
        for name, cell in zip(sheet.columns, row, strict=True):
            first, *more = cell.split("\n")
            if cell:
                lines.append(f"{name:<{width}}{first}")
                lines += [f"{'':<{width}}{line}" for line in more]
    return lines


def _printable(line: str) -> str:
    return "".join(c if c.isprintable() else " " for c in line)
