"""Sheets: CSV that is well formed and runs nothing, and text that moves no cursor."""

from __future__ import annotations

import csv
import io

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.sheets import Sheet, harmless, to_csv, to_text

CELL = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)


def sheet(*rows: tuple[str, ...], columns: tuple[str, ...] = ("A", "B")) -> Sheet:
    return Sheet(title="T", columns=columns, rows=rows)


@pytest.mark.parametrize("sign", ["=", "+", "-", "@", "\t", "\r", "\uff1d", "\uff0b", "\uff20"])
def test_a_cell_that_a_spreadsheet_would_run_is_text(sign: str) -> None:
    assert harmless(f"{sign}cmd|' /C calc'!A0") == f"'{sign}cmd|' /C calc'!A0"
    assert harmless(f"x{sign}") == f"x{sign}"


@given(st.lists(st.tuples(CELL, CELL), max_size=5))
def test_csv_is_read_back_as_it_was_with_the_same_fields_in_each_line(
    rows: list[tuple[str, str]],
) -> None:
    data = to_csv(sheet(*rows))
    found = list(csv.reader(io.StringIO(data.decode(), newline="")))
    assert found == [["A", "B"], *[[harmless(a), harmless(b)] for a, b in rows]]
    assert data.endswith(b"\r\n")
    assert all(cell[:1] not in set("=+-@") for row in found for cell in row)


def test_csv_is_marked_as_utf_8_only_where_it_is_asked_for() -> None:
    assert to_csv(sheet(("é", "Ж")), bom=True) == b"\xef\xbb\xbf" + to_csv(sheet(("é", "Ж")))
    assert to_csv(sheet(("a,b", 'c"d'))) == b'A,B\r\n"a,b","c""d"\r\n'


def test_text_has_no_character_that_moves_the_cursor() -> None:
    text = to_text(sheet(("a\x1b[2J", "b")))
    assert "\x1b" not in text
    assert to_text(sheet()).endswith("Nothing.\n")
