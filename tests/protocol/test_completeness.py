"""Score, what is missing, who is concerned, and figures over many incidents."""

from __future__ import annotations

import datetime
import random
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.completeness import (
    ANCHORS,
    Report,
    completeness,
    countries_pointed_to,
    figures,
    report_of,
)
from protocol.incident import from_record, parse_incident
from tests.protocol.test_incident import BOTH, full, minimal, put, record

DAY = datetime.datetime(2026, 3, 1, tzinfo=datetime.UTC)


def report(
    *, author: int = 1, number: int = 1, revision: int = 1, anchors: str = "", delay_s: int = 60
) -> Report:
    return Report(
        bytes([author]), str(number), revision, frozenset(anchors.split()), DAY,
        DAY + datetime.timedelta(seconds=delay_s),
    )  # fmt: skip


# --- one incident ----------------------------------------------------------------------------
def test_a_first_report_says_what_to_look_for_next() -> None:
    found = completeness(parse_incident(minimal()))
    assert (found.score, found.present) == (0, ())
    assert found.missing == ("A4", "A2", "A1", "A3", "A6", "A7")
    assert not found.actionable


def test_a_full_report_scores_eight() -> None:
    found = completeness(parse_incident(full()))
    assert found.score == 8 == len(ANCHORS)
    assert found.missing == ()
    assert found.actionable


@pytest.mark.parametrize("conveyance", [{"wagon": "31 80 4961 812-0"}, {"trailer_plate": "X-1"}])
def test_a_wagon_or_trailer_names_a_unit(conveyance: dict[str, str]) -> None:
    data = put(full(), "/annex/containers", [])
    data = put(data, "/annex/conveyances", [{"leg": 1, **conveyance}])
    assert "A3" in completeness(parse_incident(data)).present


# --- countries -------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("pointer", "value", "at"),
    [
        ("/annex/parties/0/nationality", "XG", "/annex/parties/0/nationality"),
        ("/annex/parties/0/ids", [{"scheme": "vat", "value": "1234", "country": "XG"}],
         "/annex/parties/0/ids/0/country"),
        ("/annex/parties/0/id_docs", [{"type": "passport", "number": "1", "country": "XG"}],
         "/annex/parties/0/id_docs/0/country"),
        ("/annex/conveyances/0/plate_country", "XG", "/annex/conveyances/0/plate_country"),
        ("/annex/origins/0/country", "XG", "/annex/origins/0/country"),
        ("/face/route/0/origin", "XG", "/face/route/0/origin"),
        ("/face/location/country", "XG", "/face/location/country"),
    ],
)  # fmt: skip
def test_a_country_is_concerned_by_what_points_to_it(pointer: str, value: object, at: str) -> None:
    assert "XG" not in countries_pointed_to(parse_incident(full()))
    assert countries_pointed_to(parse_incident(put(full(), pointer, value)))["XG"] == (at,)


# --- figures ---------------------------------------------------------------------------------
def test_figures_of_nothing() -> None:
    found = figures([])
    assert found.incidents == found.actionable == found.unclear == 0
    assert found.median_score is None
    assert found.median_first_score is None
    assert found.time_to_share.median is None
    assert found.time_to_share.ninth_decile is None


def test_an_incident_is_as_complete_as_its_latest_revision_and_as_quick_as_its_first() -> None:
    found = figures(
        [
            report(revision=2, anchors="A1 A5 A8", delay_s=9_000),
            report(revision=1, anchors="A8", delay_s=100),
            report(number=2, anchors="A5 A8", delay_s=300),
            report(author=2, number=2, anchors="", delay_s=-5),
        ]
    )
    assert found.incidents == 3
    assert found.median_score == 2
    assert found.median_first_score == 1
    assert found.actionable == 1
    assert (found.by_anchor["A8"], found.by_anchor["A1"], found.by_anchor["A4"]) == (2, 1, 0)
    assert (found.time_to_share.median, found.time_to_share.ninth_decile) == (200, 300)
    assert found.unclear == 1


def test_the_ninth_decile_is_the_nearest_rank() -> None:
    for count, expected in ((1, 1), (9, 9), (10, 9), (11, 10), (20, 18), (100, 90)):
        reports = [report(number=n, delay_s=n) for n in range(1, count + 1)]
        assert figures(reports).time_to_share.ninth_decile == expected


def test_an_even_number_has_a_median_between() -> None:
    found = figures([report(number=1, anchors="A1"), report(number=2, anchors="A1 A2")])
    assert found.median_score == Decimal("1.5")


reports = st.builds(
    report, author=st.integers(1, 2), number=st.integers(1, 3), revision=st.integers(1, 3),
    anchors=st.sampled_from(["", "A1", "A5 A8", "A4 A5 A8"]), delay_s=st.integers(-10, 1_000),
)  # fmt: skip


@given(st.lists(reports, max_size=12), st.randoms(use_true_random=False))
def test_figures_depend_on_the_set_alone(given_reports: list[Report], rng: random.Random) -> None:
    turned = [*given_reports, *given_reports[:3]]
    rng.shuffle(turned)
    assert figures(turned) == figures(given_reports)


def test_exercises_and_records_without_a_face_do_not_count() -> None:
    real = put(full(), "/face/exercise", False)
    opened = from_record(record(parse_incident(real)))
    found = report_of(b"a", opened)
    assert found is not None
    assert found.anchors == frozenset(ANCHORS)
    assert (found.first_shared_at - found.detected_at).total_seconds() == 1_800
    assert report_of(b"a", from_record(record(parse_incident(full())))) is None
    annex: Any = record(parse_incident(real), BOTH - {"face"})
    assert report_of(b"a", from_record(annex)) is None
