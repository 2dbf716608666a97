"""Form D totals against an independent count over the raw records; copies for the Board; PICS."""

from __future__ import annotations

import datetime
import itertools
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from decimal import Decimal
from fractions import Fraction
from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protocol import reference
from protocol import vocabulary as v
from protocol.incident import parse_incident
from protocol.obligations import (
    DUPLICATE,
    FORM_COLUMNS,
    SEIZURE_TYPES,
    Case,
    FormD,
    Sent,
    copy_status,
    form_cells,
    form_d,
)
from protocol.pics import COLUMNS, entry

YEAR, HERE = 2026, "XA"


def substance(value: str = "100", unit: str = "KGM", **change: Any) -> dict[str, Any]:  # noqa: ANN401
    qty = {"value": value, "unit": unit}
    qty |= {name: change.pop(name) for name in ("qualifier", "basis") if name in change}
    return {"substance_id": "acetic-anhydride", "form": "liquid", "qty": qty, **change}


def case(number: int, *substances: dict[str, Any], **change: Any) -> Case:  # noqa: ANN401
    own = {name: change.pop(name) for name in ("retracted", "contested", "revision", "annex",
                                               "duplicate_of") if name in change}  # fmt: skip
    own["duplicate_of"] = frozenset(map(str, own.get("duplicate_of", ())))
    face = {
        "incident_type": "seizure", "origin_country": HERE, "detected_at": "2026-03-04T08:20:00Z",
        "summary": "x", "handling": {"tlp": "AMBER"}, "location": {"country": HERE},
        "substances": list(substances or (substance(),)), **change,
    }  # fmt: skip
    return Case(incident_id=str(number), ref=f"R{number:03}", face=face, **own)


def totals(*cases: Case, year: int = YEAR) -> FormD:
    return form_d(cases, year=year, country=HERE)


def amounts(form: FormD) -> dict[tuple[str, str], Decimal]:
    return {(row.substance or row.name, row.unit): row.value for row in form.rows}


# --- by hand ---------------------------------------------------------------------------------
def test_amounts_are_added_by_substance_and_unit_and_never_converted() -> None:
    form = totals(
        case(1, substance("0.1"), substance("0.2")),
        case(2, substance("20160", "LTR"), substance("1.5", substance_id="ephedrine")),
    )
    assert amounts(form) == {
        ("acetic-anhydride", "KGM"): Decimal("0.3"), ("acetic-anhydride", "LTR"): Decimal(20160),
        ("ephedrine", "KGM"): Decimal("1.5"),
    }  # fmt: skip
    kilograms = {(r.substance, r.unit): r.kilograms for r in form.rows}
    assert kilograms["acetic-anhydride", "LTR"] == Decimal(20160) * Decimal("1.08")
    assert kilograms["acetic-anhydride", "KGM"] == Decimal("0.3")


@pytest.mark.parametrize("kind", v.INCIDENT_TYPE)
def test_only_what_is_in_custody_is_a_seizure(kind: str) -> None:
    form = totals(case(1, incident_type=kind))
    assert bool(form.rows) == (kind in SEIZURE_TYPES)
    assert form.counted == (("R001",) if kind in SEIZURE_TYPES else ())
    assert [refs for _, refs in form.left_out] == ([] if form.rows else [("R001",)])


@pytest.mark.parametrize(
    "other",
    [
        case(1, exercise=True),
        case(1, retracted="substance_refuted"),
        case(1, contested=True),
        case(1, location={"country": "XB"}),
        case(1, substance(id_status="refuted")),
        case(1, substance(role_in_case="cover_load")),
        case(1, substance(qualifier="capacity")),
        case(1, substance(qualifier="expected")),
        Case(incident_id="1", ref="R001", face=None),
    ],
)
def test_what_does_not_count_is_named_with_the_reason(other: Case) -> None:
    form = totals(other, case(2))
    assert amounts(form) == {("acetic-anhydride", "KGM"): Decimal(100)}
    assert [refs for _, refs in form.left_out] == [("R001",)]


def test_the_year_is_that_of_the_detection_in_utc() -> None:
    late = case(1, detected_at="2026-12-31T23:59:59.999Z")
    early = case(2, detected_at="2027-01-01T00:00:00Z")
    assert totals(late, early).counted == ("R001",)
    assert totals(late, early, year=2027).counted == ("R002",)
    assert not totals(late, early).left_out


def test_duplicates_count_once_by_the_one_that_is_no_duplicate() -> None:
    first, second, third = case(1), case(2, substance("90"), duplicate_of=[1]), case(
        3, duplicate_of=[2]
    )  # fmt: skip
    form = totals(third, second, first)
    assert (form.counted, dict(form.left_out)) == (("R001",), {DUPLICATE: ("R002", "R003")})
    assert "duplicates counted once: 2" in form.rows[0].notes
    # Where it is withdrawn or counts elsewhere, what was its duplicate stands alone.
    assert totals(second, replace(first, retracted="entered_in_error")).counted == ("R002",)
    stopped = case(1, incident_type="stopped_shipment")
    assert totals(second, stopped).counted == ("R002",)


def test_a_duplicate_of_last_years_seizure_is_not_counted_again_this_year() -> None:
    before = case(1, detected_at="2025-12-30T00:00:00Z")
    again = case(2, duplicate_of=[1])
    assert totals(before, again).counted == ()
    assert totals(before, again, year=2025).counted == ("R001",)


def test_the_original_counts_even_if_it_came_later() -> None:
    later = case(2, substance("90"), detected_at="2026-05-01T00:00:00Z")
    assert totals(case(1, duplicate_of=[2]), later).counted == ("R002",)


def test_two_that_call_each_other_duplicates_count_once() -> None:
    assert totals(case(1, duplicate_of=[2]), case(2, duplicate_of=[1])).counted == ("R001",)


def test_a_retracted_duplicate_ties_nothing_else_unless_it_was_retracted_as_one() -> None:
    wrong = case(2, retracted="entered_in_error", duplicate_of=[3])
    assert totals(case(1, duplicate_of=[2]), wrong, case(3)).counted == ("R001", "R003")
    right = replace(wrong, retracted="duplicate")
    assert len(totals(case(1, duplicate_of=[2]), right, case(3)).counted) == 1


def test_qualifiers_stand_in_the_notes_and_free_text_stays_apart() -> None:
    other = {"other": {"name": "Acetic Anhydride", "cas": "108-24-7"}}
    free = substance("5")
    del free["substance_id"]
    form = totals(
        case(
            1, substance(qualifier="at_least"), substance(qualifier="approximately", basis="gross")
        ),
        case(2, {**free, **other}),
    )  # fmt: skip
    listed, written = sorted(form.rows, key=lambda row: row.substance, reverse=True)
    assert {"at least: 1 of 2", "approximately: 1 of 2", "gross: 1 of 2"} <= set(listed.notes)
    assert (written.substance, written.value, written.cas) == ("", Decimal(5), "108-24-7")
    assert "written as free text; may be Acetic anhydride" in written.notes


def test_the_table_is_that_of_the_day() -> None:
    boc = {"substance_id": "1-boc-4-piperidone"}
    before = case(1, substance(**boc), detected_at="2024-12-02T00:00:00Z")
    after = case(2, substance(**boc), detected_at="2024-12-03T00:00:00Z")
    assert [(row.table, row.value) for row in totals(before, after, year=2024).rows] == [
        ("I", Decimal(100)), ("none", Decimal(100)),
    ]  # fmt: skip


def test_cells_fit_the_columns_and_have_no_exponent() -> None:
    form = totals(case(1, substance("0.000001")), case(2, substance("1000000", "C62")))
    rows = [dict(zip(FORM_COLUMNS, form_cells(row), strict=True)) for row in form.rows]
    assert [(row["Amount"], row["Kilograms"]) for row in rows] == [
        ("1000000", ""), ("0.000001", "0.000001"),
    ]  # fmt: skip


# --- against an independent count ------------------------------------------------------------
UNITS = ("KGM", "LTR", "GRM", "C62")
SUBSTANCES = st.builds(
    lambda key, whole, part, unit, more: {
        **({"substance_id": key} if key != "free" else {"other": {"name": "Reagent"}}),
        "form": "liquid", "qty": {"value": f"{whole}.{part:03}", "unit": unit, **more[0]},
        **more[1],
    },
    st.sampled_from(["acetic-anhydride", "ephedrine", "free"]),
    st.integers(0, 10**9), st.integers(1, 999), st.sampled_from(UNITS),
    st.sampled_from([*[({}, {})] * 6, ({"qualifier": "at_least"}, {}),
                     ({"qualifier": "capacity"}, {}), ({}, {"id_status": "refuted"}),
                     ({}, {"role_in_case": "cover_load"})]),
)  # fmt: skip
REVISIONS = st.lists(
    st.fixed_dictionaries(
        {
            "type": st.sampled_from([*["seizure"] * 6, "illicit_laboratory",
                                     "stopped_shipment", "theft"]),
            "at": st.sampled_from(["2025-12-31T23:00:00Z", "2026-01-01T00:00:00Z",
                                   "2026-06-01T12:00:00Z"]),
            "country": st.sampled_from([*[HERE] * 6, "XB"]),
            "exercise": st.sampled_from([*[False] * 6, True]),
            "substances": st.lists(SUBSTANCES, min_size=1, max_size=3),
            "duplicate_of": st.lists(st.integers(0, 4), max_size=2),
        }
    ),
    min_size=1, max_size=2,
)  # fmt: skip
WORLD = st.lists(
    st.tuples(REVISIONS, st.sampled_from([*[None] * 6, "entered_in_error", "duplicate"])),
    min_size=2, max_size=5,
)  # fmt: skip
Raw = Sequence[tuple[Sequence[Mapping[str, Any]], str | None]]


def cases_of(world: Raw) -> list[Case]:
    """The newest revision of each, as lists show it."""
    return [
        case(
            number, *newest["substances"], incident_type=newest["type"], detected_at=newest["at"],
            exercise=newest["exercise"], location={"country": newest["country"]},
            revision=len(revisions), retracted=retracted,
            duplicate_of=[n for n in newest["duplicate_of"] if n < len(world) and n != number],
        )
        for number, (revisions, retracted) in enumerate(world)
        for newest in [revisions[-1]]
    ]  # fmt: skip


def counted_by_hand(world: Raw, year: int) -> dict[tuple[str, str], Fraction]:  # noqa: C901  plain
    """The same totals, by exhaustive reachability and fractions instead of trees and decimals."""
    newest = [revisions[-1] for revisions, _ in world]
    numbers = range(len(world))

    def amount_lines(number: int) -> list[tuple[str, str, Fraction]]:
        return [
            (s.get("substance_id", "Reagent"), s["qty"]["unit"], Fraction(s["qty"]["value"]))
            for s in newest[number]["substances"]
            if s["qty"].get("qualifier") != "capacity" and s.get("id_status") != "refuted"
            and s.get("role_in_case") != "cover_load"
        ]  # fmt: skip

    def fits(number: int) -> bool:
        one = newest[number]
        return (
            world[number][1] is None and not one["exercise"] and one["country"] == HERE
            and one["type"] in {"seizure", "illicit_laboratory"} and bool(amount_lines(number))
        )  # fmt: skip

    tied = {(n, n) for n in numbers}
    for n in numbers:
        if world[n][1] in {None, "duplicate"}:
            for m in newest[n]["duplicate_of"]:
                if m < len(world):
                    tied |= {(n, m), (m, n)}
    for middle, a, b in itertools.product(numbers, numbers, numbers):
        if (a, middle) in tied and (middle, b) in tied:
            tied.add((a, b))
    found: dict[tuple[str, str], Fraction] = defaultdict(Fraction)
    done: set[int] = set()
    for number in numbers:
        if number in done or not fits(number):
            continue
        group = [m for m in numbers if (number, m) in tied and fits(m)]
        done |= set(group)
        originals = [
            m for m in group
            if not any(d in group and d != m for d in newest[m]["duplicate_of"])
        ] or group  # fmt: skip
        chosen = min(originals, key=lambda m: (newest[m]["at"], str(m)))
        if newest[chosen]["at"].startswith(str(year)):
            for key, unit, value in amount_lines(chosen):
                found[key, unit] += value
    return dict(found)


@settings(max_examples=300)
@given(WORLD, st.randoms(use_true_random=False), st.sampled_from([2025, 2026]))
def test_totals_equal_an_independent_count_in_every_order(
    world: Raw,
    random: Random,
    year: int,
) -> None:
    cases = cases_of(world)
    random.shuffle(cases)
    form = totals(*cases, year=year)
    counted = {key: Fraction(value) for key, value in amounts(form).items()}
    assert counted == counted_by_hand(world, year)
    # Nothing is both counted and left out, and all of the year is one or the other.
    out = [ref for _, refs in form.left_out for ref in refs]
    assert len(out) == len(set(out))
    assert not set(out) & set(form.counted)
    of_year = {c.ref for c in cases if c.face and c.face["detected_at"].startswith(str(year))}
    assert set(out) | set(form.counted) == of_year


def test_the_independent_count_can_differ() -> None:
    world = [
        (
            [
                {
                    "type": "seizure",
                    "at": "2026-01-01T00:00:00Z",
                    "country": HERE,
                    "exercise": False,
                    "substances": [substance()],
                    "duplicate_of": [],
                }
            ],
            None,
        )
    ]
    assert counted_by_hand(world, 2026) == {("acetic-anhydride", "KGM"): 100}
    assert counted_by_hand(world, 2025) == {}


# --- copies for the Board --------------------------------------------------------------------
SENT = Sent(pics_ref="P-1", revision=1, by="J. Smith", at="2026-03-05T00:00:00Z")


@pytest.mark.parametrize(
    ("said", "change", "sent", "status"),
    [
        (None, {}, None, "undecided"),
        *((word, {}, None, word) for word in v.INCB_COPY),
        ("to_send", {}, SENT, "sent"),
        ("to_send", {"revision": 2}, SENT, "amended_since"),
        ("to_send", {"retracted": "duplicate"}, SENT, "retracted_since"),
        ("to_send", {"retracted": "duplicate"}, None, None),
        ("to_send", {"exercise": True}, None, None),
    ],
)
def test_how_it_stands_with_a_copy(
    said: str | None, change: dict[str, Any], sent: Sent | None, status: str | None
) -> None:
    handling: dict[str, Any] = {"tlp": "AMBER"}
    if said is not None:
        handling["incb_copy"] = {"status": said}
    assert copy_status(case(1, handling=handling, **change), sent) == status


def test_an_entry_for_pics_has_what_was_written_and_no_person_unless_asked() -> None:
    data = {
        "face": {
            **(case(1).face or {}),
            "route": [{"seq": 1, "mode": "1", "role": "origin", "origin": "CN",
                       "destination": "NL"}],
            "mo": {"concealment": ["misdeclared_cargo"]},
        },
        "annex": {
            "narrative": "J. Doe came by car.",
            "parties": [
                {"role": "exporter", "kind": "org", "name": "Blue Chemicals Ltd",
                 "contacts": [{"kind": "phone", "value": "+31201234567"}]},
                {"role": "driver", "kind": "person", "name": "Jane Doe"},
            ],
            "conveyances": [{"leg": 1, "plate": "AB-12-CD", "vessel_name": "Ever Blue"}],
            "containers": [{"no": "CSQU3054383", "seals": ["S1"]}],
            "documents": [{"type": "bill_of_lading", "number": "BL7"}],
            "origins": [{"substance": 1, "batch_no": "B33",
                         "packages": [{"count": 120, "rec21": "DR"}]}],
        },
    }  # fmt: skip
    plain = parse_incident(data).model_dump(mode="json", exclude_defaults=True)
    one = Case(incident_id="1", ref="R001", face=plain["face"], annex=plain["annex"])
    seen = dict(zip(COLUMNS, entry(one), strict=True))
    assert seen["Substances"].startswith("Acetic anhydride (CAS 108-24-7); 100 kg")
    assert (seen["Origin"], seen["Manufacturer and batch"]) == ("China (CN)", "B33")
    assert seen["Packages"].startswith("120 x ")
    assert seen["How hidden"] == "misdeclared cargo"
    assert "Blue Chemicals Ltd" in seen["Companies"]
    assert seen["Containers"] == "CSQU3054383, seal S1"
    whole = "\n".join(entry(one))
    for name in ("Doe", "AB-12-CD", "+3120"):
        assert name not in whole
        assert name in "\n".join(entry(one, persons=True))
    assert seen["Left out here"] == (
        "persons: 1, telephones, mail and accounts: 1, plates: 1, narrative: 1"
    )


def test_every_day_of_the_calendar_gives_a_table() -> None:
    on = datetime.date(2026, 1, 1)
    assert reference.control_status("acetic-anhydride", on).table == "I"
