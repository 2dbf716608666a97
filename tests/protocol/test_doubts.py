"""What looks wrong is said with its place and code, and stops nothing."""

from __future__ import annotations

import timeit
from typing import Any

import pytest

from protocol.doubts import warnings
from protocol.incident import parse_incident
from protocol.reference import Substance, Substances
from tests.protocol.test_incident import full, minimal, put

Json = dict[str, Any]


def said(data: Json, known: Substances | None = None) -> dict[str, str]:
    return {each.pointer: each.code for each in warnings(parse_incident(data), known)}


def test_nothing_is_odd_about_a_good_incident() -> None:
    assert said(full()) == {}


@pytest.mark.parametrize(
    ("pointer", "value", "place", "code"),
    [
        ("/face/substances/0/hs_declared", "2915.2", "", "form"),
        ("/face/substances/0/hs_true", "291521", "", "mismatch"),
        ("/face/substances/0/un_number", "UN1716", "", "mismatch"),
        ("/face/substances/0/un_number", "17", "", "form"),
        ("/face/contact/phone", "020 1234", "", "form"),
        ("/face/contact/mailbox", "desk", "", "form"),
        ("/face/location/locode", "ZZRTM", "", "mismatch"),
        ("/face/location/locode", "NLRTM", "", "mismatch"),
        ("/face/location/subdivision", "NL-ZH", "", "mismatch"),
        ("/face/route/0/origin_locode", "XCAAA", "", "mismatch"),
        ("/face/route/0/destination_locode", "shanghai", "", "mismatch"),
        ("/face/route/0/locode", "shanghai", "", "form"),
        ("/face/incident_type", "suspicious_enquiry", "/face/indicators", "no-indicator"),
        ("/annex/containers/0/no", "CSQU3054384", "", "check-digit"),
        ("/annex/containers/0/no", "CONT-1", "", "form"),
        ("/annex/conveyances/0/imo", "9074720", "", "check-digit"),
        ("/annex/conveyances/0/leg", 9, "", "no-such-item"),
        ("/annex/documents/0", {"type": "postal_s10", "number": "RA473124828US"},
         "/annex/documents/0/number", "check-digit"),
        ("/annex/documents/0", {"type": "mawb", "number": "020-12345676"},
         "/annex/documents/0/number", "check-digit"),
        ("/annex/parties/0/ids", [{"scheme": "lei", "value": "5493001KJTIIGC8Y1R13"}],
         "/annex/parties/0/ids/0/value", "check-digit"),
        ("/annex/parties/0/ids", [{"scheme": "eori", "value": "12"}],
         "/annex/parties/0/ids/0/value", "form"),
        ("/annex/parties/0/contacts", [{"kind": "bank_account", "value": "GB82WEST12345698765433"}],
         "/annex/parties/0/contacts/0/value", "check-digit"),
        ("/annex/origins/0/substance", 2, "", "no-such-item"),
        ("/annex/origins/0", {"substance": 1, "mfg_date": "2026-05", "expiry": "2025"},
         "/annex/origins/0/expiry", "mismatch"),
        ("/annex/equipment_marks", [{"equipment": 2, "make": "x"}],
         "/annex/equipment_marks/0/equipment", "no-such-item"),
    ],
)  # fmt: skip
def test_one_odd_value(pointer: str, value: object, place: str, code: str) -> None:
    data = put(full(), "/face/indicators", []) if code == "no-indicator" else full()
    assert said(put(data, pointer, value)) == {place or pointer: code}


@pytest.mark.parametrize("value", ["001-998877", "12345678"])
def test_an_account_number_of_another_kind_is_not_judged(value: str) -> None:
    contacts = [{"kind": "bank_account", "value": value}]
    assert said(put(full(), "/annex/parties/0/contacts", contacts)) == {}


def substance(**changes: object) -> Json:
    found = full()
    found["face"]["substances"] = [
        {"form": "liquid", "qty": {"value": "1", "unit": "LTR"}, **changes}
    ]
    return found


def test_a_substance_that_the_list_lacks_is_named_with_its_nearest() -> None:
    (warning,) = warnings(parse_incident(substance(substance_id="acetic-anhidride")))
    assert warning.pointer == "/face/substances/0/substance_id"
    assert warning.code == "unknown-substance"
    assert "acetic-anhydride" in warning.message
    (warning,) = warnings(parse_incident(substance(substance_id="qqqq")))
    assert "picket lists find" in warning.message


def test_a_newer_list_may_know_it() -> None:
    newer = Substances("2", [Substance("qqqq", "Qqqq", "chemical")])
    assert said(substance(substance_id="qqqq"), newer) == {}


@pytest.mark.parametrize(
    "other", [{"name": "Acetic Anhydride"}, {"name": "solvent x", "cas": "108-24-7"}]
)
def test_a_substance_that_is_in_the_list_after_all_is_said(other: Json) -> None:
    (warning,) = warnings(parse_incident(substance(other=other)))
    assert (warning.pointer, warning.code) == ("/face/substances/0/other", "listed")
    assert "acetic-anhydride" in warning.message


def test_an_unusual_formula_and_inchikey() -> None:
    other = {"name": "new", "cas": "1", "inchikey": "x", "formula": "acid"}
    place = "/face/substances/0/other"
    assert said(substance(other=other)) == {
        f"{place}/cas": "form", f"{place}/inchikey": "form", f"{place}/formula": "form",
    }  # fmt: skip


def test_partial_dates_are_compared_as_far_as_they_go() -> None:
    leg = {"seq": 1, "mode": "1", "role": "origin", "origin": "XB", "destination": "XC"}
    for departed, arrived, wrong in (
        ("2026-03-05", "2026-03", False),
        ("2026-03", "2026-03-05", False),
        ("2026-03-05", "2026-03-04", True),
        ("2026", "2025-12-31", True),
    ):
        data = put(full(), "/face/route/0", {**leg, "departed": departed, "arrived": arrived})
        assert (said(data) == {"/face/route/0/arrived": "mismatch"}) is wrong


def test_a_full_incident_is_judged_in_less_than_a_millisecond() -> None:
    incident = parse_incident(full())
    warnings(incident)
    assert min(timeit.repeat(lambda: warnings(incident), number=20, repeat=5)) / 20 < 0.001


def test_a_first_report_is_only_asked_for_a_contact() -> None:
    assert said(minimal()) == {"/face/contact": "no-contact"}
