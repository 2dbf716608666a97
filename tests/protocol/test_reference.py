"""The reference lists: what can be computed of each row is, and lookups find what people write."""

from __future__ import annotations

import datetime
import re
from decimal import Decimal
from typing import Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol import vocabulary
from protocol.checks import cas_is_valid, hs_is_valid, inchikey_is_valid
from protocol.reference import (
    NAMES,
    Substances,
    bounds,
    code_names,
    control_status,
    countries,
    find_country,
    folded,
    kilograms,
    ref_list,
    substance_of,
    substances,
    units,
)
from tests.data import make_reference

# Standard atomic weights (IUPAC, abridged), enough for two decimals of a small molecule.
WEIGHTS: Final = {
    "H": "1.008", "B": "10.81", "C": "12.011", "N": "14.007", "O": "15.999", "F": "18.998",
    "Li": "6.94", "Na": "22.990", "Al": "26.982", "P": "30.974", "S": "32.06", "Cl": "35.45",
    "K": "39.098", "Ca": "40.078", "Mn": "54.938", "Br": "79.904", "Pd": "106.42", "I": "126.904",
}  # fmt: skip
KNOWN: Final = substances()
ROWS: Final = ref_list("substances").rows


def day(text: str) -> datetime.date:
    return datetime.date.fromisoformat(text)


def found(text: str) -> list[str]:
    return [match.substance.id for match in KNOWN.find(text)]


# --- every row -------------------------------------------------------------------------------
def test_each_number_has_its_form_and_check_digit() -> None:
    for row in KNOWN.by_id.values():
        for cas in [row.cas, *(row.salts or {}).values()]:
            assert cas is None or cas_is_valid(cas), row.id
        assert row.inchikey is None or inchikey_is_valid(row.inchikey), row.id
        assert row.hs is None or (hs_is_valid(row.hs) and len(row.hs) == 6), row.id
        assert row.un_number is None or re.fullmatch(r"[0-9]{4}", row.un_number), row.id


def test_each_molar_mass_is_that_of_its_formula() -> None:
    counted = 0
    for row in KNOWN.by_id.values():
        if row.formula is None or row.molar_mass is None:
            assert row.formula is None, row.id
            assert row.molar_mass is None, row.id
            continue
        parts = re.findall(r"([A-Z][a-z]?)([0-9]*)", row.formula)
        total = sum(Decimal(WEIGHTS[element]) * int(count or 1) for element, count in parts)
        assert abs(total - row.molar_mass) < Decimal("0.05"), row.id
        counted += 1
    assert counted == 140


def test_organic_chemicals_stand_in_the_chapter_of_organic_chemicals() -> None:
    inorganic = {"25", "28", "31", "38"}  # minerals, inorganic chemicals, carbon as a product
    for row in KNOWN.by_id.values():
        if row.kind == "chemical" and row.hs is not None and row.formula is not None:
            organic = "C" in re.findall(r"[A-Z][a-z]?", row.formula) and row.hs[:2] not in inorganic
            assert (row.hs[:2] == "29") == organic, row.id


def test_no_name_or_number_means_two_substances() -> None:
    ids = [row["id"] for row in ROWS]
    assert len(set(ids)) == len(ids) == 163
    for names in KNOWN._texts.values():
        assert len({match.substance.id for match in names}) == 1
    numbers = [row.cas for row in KNOWN.by_id.values() if row.cas]
    numbers += [cas for row in KNOWN.by_id.values() for cas in (row.salts or {}).values()]
    assert len(set(numbers)) == len(numbers)


def test_each_row_says_of_each_fact_whether_it_was_checked() -> None:
    facts = {"cas", "salts", "formula", "molar_mass", "inchikey", "hs", "un_number",
             "density_kg_per_l", "drugs"}  # fmt: skip
    for row in ROWS:
        said = [*row["checked"], *row["unchecked"]]
        assert len(set(said)) == len(said), row["id"]
        plain = {fact for fact in said if not fact.startswith("control.")}
        assert plain == facts & set(row), row["id"]
        assert ({"control.table", "control.since"} <= set(said)) == ("control" in row), row["id"]


def test_the_special_surveillance_list_is_not_shipped() -> None:
    assert "special" not in " ".join(NAMES)
    for row in ROWS:
        assert {period["table"] for period in row.get("control", ())} <= {"I", "II"}
        assert "surveillance" not in str(row).lower()


# --- control ---------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("on", "table_1", "table_2"),
    [
        ("1990-11-10", 0, 0),
        ("2020-11-02", 21, 8),
        ("2020-11-03", 22, 8),  # as the Board's report for 2020 counts them
        ("2022-11-23", 25, 8),
        ("2024-12-02", 25, 8),
        ("2024-12-03", 43, 8),  # eighteen more, as the Board announced
    ],
)
def test_as_many_substances_are_controlled_as_the_board_counts(
    on: str, table_1: int, table_2: int
) -> None:
    tables = [KNOWN.control_status(row_id, day(on)).table for row_id in KNOWN.by_id]
    assert (tables.count("I"), tables.count("II")) == (table_1, table_2)


@pytest.mark.parametrize(
    ("substance_id", "on", "table", "certain"),
    [
        ("1-boc-4-piperidone", "2020-06-01", None, True),
        ("1-boc-4-piperidone", "2024-12-02", None, True),
        ("1-boc-4-piperidone", "2024-12-03", "I", True),
        ("acetic-anhydride", "1995-01-01", "II", True),
        ("acetic-anhydride", "2001-06-01", "II", False),
        ("acetic-anhydride", "2001-12-31", "I", True),
        ("apaan", "2014-10-05", None, True),
        ("apaan", "2014-10-06", "I", True),
        ("norephedrine", "1999-12-31", None, True),
        ("norephedrine", "2000-06-01", "I", False),
        ("norephedrine", "2001-01-01", "I", True),
        ("toluene", "2026-01-01", "II", True),
        ("benzaldehyde", "2026-01-01", None, True),
        ("from-a-newer-list", "2026-01-01", None, False),
    ],
)
def test_the_status_is_that_of_the_day(
    substance_id: str, on: str, table: str | None, certain: bool
) -> None:
    status = control_status(substance_id, day(on))
    assert (status.table, status.certain) == (table, certain)
    assert status.controlled == (table is not None)


def test_salts_are_controlled_but_for_those_of_two_acids() -> None:
    on = day("2026-01-01")
    assert control_status("ephedrine", on, salt=True).table == "I"
    for acid in ("hydrochloric-acid", "sulphuric-acid"):
        assert control_status(acid, on).table == "II"
        assert control_status(acid, on, salt=True).table is None


@given(st.sampled_from(sorted(KNOWN.by_id)), st.dates(datetime.date(1985, 1, 1)))
def test_once_controlled_a_substance_stays_so(substance_id: str, on: datetime.date) -> None:
    """True of this list; a substance that is taken off again would have to change this test."""
    if control_status(substance_id, on).controlled:
        assert control_status(substance_id, datetime.date(2100, 1, 1)).controlled


@pytest.mark.parametrize(
    ("text", "first", "last"),
    [("2024", "2024-01-01", "2024-12-31"), ("2024-02", "2024-02-01", "2024-02-29"),
     ("2023-02-10", "2023-02-10", "2023-02-10")],
)  # fmt: skip
def test_a_date_means_all_its_days(text: str, first: str, last: str) -> None:
    assert bounds(text) == (day(first), day(last))


# --- finding ---------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("text", "first"),
    [
        ("acetic-anhydride", "acetic-anhydride"),
        ("ACETIC  ANHYDRIDE", "acetic-anhydride"),
        ("108-24-7", "acetic-anhydride"),
        (" wfdijrymoxrffg-uhfffaoysa-n ", "acetic-anhydride"),
        ("1-Boc-4-AP", "1-boc-4-ap"),
        ("1 boc 4 ap", "1-boc-4-ap"),
        ("4-AP", "4-ap"),
        ("4\u2011ANPP", "anpp"),
        ("P2P", "p-2-p"),
        ("\u03b1-phenylacetoacetonitrile", "apaan"),
        ("\u00c9ph\u00e9drine", "ephedrine"),
        ("sulfuric acid", "sulphuric-acid"),
        ("acetic anhidride", "acetic-anhydride"),
        ("pseudoephedrin", "pseudoephedrine"),
    ],
)
def test_people_find_what_they_mean(text: str, first: str) -> None:
    assert found(text)[0] == first


def test_a_salt_is_found_by_its_number_and_its_name() -> None:
    (match,) = KNOWN.exactly("50-98-6")
    assert (match.substance.id, match.salt) == ("ephedrine", "hydrochloride")
    (match,) = KNOWN.exactly("Ephedrine hydrochloride")
    assert (match.substance.id, match.salt) == ("ephedrine", "hydrochloride")


def test_an_unknown_isomer_is_found_by_its_skeleton() -> None:
    assert found("KWGRBVOPPLSCSI-AAAAAAAASA-N") == ["ephedrine", "pseudoephedrine"]


def test_every_own_name_finds_its_row_alone() -> None:
    for row in KNOWN.by_id.values():
        for text in (row.id, row.name, *row.synonyms, row.cas or row.id, row.inchikey or row.id):
            assert [match.substance.id for match in KNOWN.exactly(text)] == [row.id], text


@given(st.text(max_size=60))
def test_no_text_breaks_a_search(text: str) -> None:
    assert len(KNOWN.find(text, limit=5)) <= 5
    assert len(KNOWN.nearest(text)) <= 3
    assert folded(folded(text)) == folded(text)
    find_country(text)


def test_nothing_is_found_for_nothing() -> None:
    assert KNOWN.find("") == KNOWN.find("-") == []
    assert KNOWN.nearest("qqqqxxxx") == []


def test_the_order_of_rows_changes_nothing() -> None:
    turned = Substances("x", [substance_of(row) for row in reversed(ROWS)])
    for text in ("pmk", "acetic", "1-boc", "anhidride"):
        assert [m.substance.id for m in turned.find(text)] == found(text)


# --- countries, units, packages, modes ---------------------------------------------------------
def test_the_countries_are_those_of_the_vocabulary_without_what_users_assign() -> None:
    assigned = {code for code in vocabulary.COUNTRIES if code.startswith("X")}
    assert set(countries()) == vocabulary.COUNTRIES - assigned
    for country in countries().values():
        assert re.fullmatch(r"[A-Z]{3}", country.alpha3)
        assert re.fullmatch(r"[0-9]{3}", country.numeric)
        assert set(country.names) == set(make_reference.LANGUAGES)
        assert all(country.names.values())


@pytest.mark.parametrize("code", ["AA", "QM", "QZ", "XA", "XK", "XZ", "ZZ", ""])
def test_no_country_has_a_code_that_users_assign(code: str) -> None:
    assert find_country(code) is None


@pytest.mark.parametrize(
    ("text", "code"),
    [("nl", "NL"), ("NLD", "NL"), ("528", "NL"), ("Pays-Bas", "NL"), ("\u8377\u5170", "NL"),
     ("\u041d\u0438\u0434\u0435\u0440\u043b\u0430\u043d\u0434\u044b", "NL"), ("senegal", "SN"),
     ("C\u00f4te d'Ivoire", "CI")],
)  # fmt: skip
def test_a_country_is_found_by_code_and_by_name_in_six_languages(text: str, code: str) -> None:
    country = find_country(text)
    assert country is not None
    assert country.code == code


def test_the_committed_countries_are_what_their_sources_make() -> None:
    if make_reference.installed() != make_reference.SOURCES:
        pytest.skip(f"needs {make_reference.SOURCES}")
    assert make_reference.TARGET.read_text(encoding="utf-8") == make_reference.countries()


def test_each_code_of_the_vocabulary_has_a_row() -> None:
    assert tuple(units()) == vocabulary.UNIT
    assert {row.code: row.symbol for row in units().values()} == vocabulary.UNIT_SYMBOL
    assert tuple(code_names("packages")) == vocabulary.PACKAGE
    assert tuple(code_names("modes")) == vocabulary.MODE


@pytest.mark.parametrize(
    ("value", "unit", "density", "kilos"),
    [("2.5", "TNE", None, "2500"), ("250", "GRM", None, "0.25"), ("1.5", "MTQ", "1", "1500"),
     ("20160", "LTR", "1.08", "21772.8"), ("3", "HLT", "1", "300"), ("500", "MLT", "1.2", "0.6"),
     ("10", "LTR", None, None), ("10", "H87", "1", None)],
)  # fmt: skip
def test_kilograms_for_totals(
    value: str, unit: str, density: str | None, kilos: str | None
) -> None:
    got = kilograms(Decimal(value), unit, density=None if density is None else Decimal(density))
    assert got == (None if kilos is None else Decimal(kilos))


def test_no_list_of_another_name() -> None:
    with pytest.raises(ValueError, match="no list"):
        ref_list("../substances")
