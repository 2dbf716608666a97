"""The incident model: what is refused and where, what survives, and what counts as actionable."""

from __future__ import annotations

import copy
import json
import typing
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel

from protocol import incident as model
from protocol import limits, vocabulary
from protocol.canonical import decode, encode
from protocol.checks import cas_is_valid, container_is_valid, imo_is_valid
from protocol.classification import personal_data
from protocol.completeness import anchors, concerned_countries, is_actionable, missing_anchors
from protocol.doubts import warnings
from protocol.errors import InvalidIncidentError, RecordError
from protocol.incident import (
    Incident,
    from_record,
    make_ref,
    parse_incident,
    summary_line,
    to_record,
)

Json = dict[str, Any]
ID = "6f1c7f0e-2b1d-4c3a-9a51-0d6f6f0a8f11"
REF = "PI-XA-2026-7K3F9Q"
SHARED = "2026-03-01T09:00:00Z"
BOTH = frozenset({"face", "annex"})


def minimal() -> Json:
    """Return the least that a duty officer must enter."""
    return {
        "face": {
            "incident_type": "stopped_shipment",
            "origin_country": "XA",
            "detected_at": "2026-03-01T08:30:00Z",
            "summary": "Acetic anhydride declared as acetic acid",
            "handling": {"tlp": "AMBER"},
            "location": {"country": "XA"},
            "substances": [
                {
                    "substance_id": "acetic-anhydride",
                    "form": "liquid",
                    "qty": {"value": "20160", "unit": "LTR"},
                }
            ],
        }
    }


def full() -> Json:
    """Return an incident with every anchor, every layer and text in several scripts."""
    data = minimal()
    data["face"] |= {
        "agency_type": "customs",
        "national_ref": "2026/0147-é",
        "occurred": {"start": "2026-02", "end": "2026-02-28", "precision": "month"},
        "status": "under_investigation",
        "discovery": "risk_profile",
        "exercise": True,
        "lang": "zh-Hant",
        "contact": {"unit": "前驅物組", "mailbox": "desk@alder.example", "languages": ["en", "fr"]},
        "drugs": ["heroin"],
        "equipment": [{"type": "reactor", "qty": 2, "new_used": "used"}],
        "route": [
            {"seq": 1, "mode": "1", "role": "origin", "origin": "XB", "destination": "XC"},
            {"seq": 2, "mode": "3", "role": "destination_declared", "destination": "XD"},
        ],
        "mo": {"acquisition": ["forged_permit"], "diversion_point": "transport"},
        "lab": {"lab_type": "synthesis", "scale": "small", "casualties": 0},
        "indicators": ["vague_end_use"],
        "links": [{"kind": "same_batch", "target": ID}],
    }
    data["face"]["handling"] |= {"hc": ["H1", "H3"], "hc_text": "ask first", "pap": "RED"}
    data["face"]["substances"][0]["qty_expected"] = {"value": "0.000001", "unit": "TNE"}
    data["annex"] = {
        "narrative": "First line\nSecond line, Ω and 你好",
        "parties": [
            {
                "role": "consignor",
                "kind": "org",
                "name": "Halden Reagents",
                "country": "XE",
                "ids": [{"scheme": "vat", "value": "XE4471902"}],
                "contacts": [{"kind": "email", "value": "sales@halden.example.com"}],
            }
        ],
        "documents": [{"type": "bill_of_lading", "number": "HLDX26030417", "date": "2026-02-11"}],
        "containers": [{"no": "CSQU3054383", "seals": ["NM771204"]}],
        "conveyances": [{"leg": 1, "vessel_name": "Example Tern", "imo": "9074729"}],
        "origins": [{"substance": 1, "country": "XF", "batch_no": "B2026-0217-33"}],
        "online": [{"platform_type": "forum", "handle": "seller7"}],
        "attachments": [
            {"sha256": "ab" * 32, "media_type": "image/jpeg", "size": 81_920, "kind": "label_photo"}
        ],
    }
    return data


def put(data: Json, pointer: str, value: object) -> Json:
    """Return *data* with *value* at the JSON pointer."""
    changed = copy.deepcopy(data)
    *steps, last = pointer.removeprefix("/").split("/")
    place: Any = changed
    for step in steps:
        place = place[int(step)] if isinstance(place, list) else place[step]
    if isinstance(place, list):
        place[int(last)] = value
    else:
        place[last] = value
    return changed


def without(data: Json, pointer: str) -> Json:
    changed = copy.deepcopy(data)
    *steps, last = pointer.removeprefix("/").split("/")
    place: Any = changed
    for step in steps:
        place = place[int(step)] if isinstance(place, list) else place[step]
    del place[last]
    return changed


def problems(data: object) -> list[tuple[str, str, str]]:
    with pytest.raises(InvalidIncidentError) as caught:
        parse_incident(data)
    assert caught.value.fix
    return caught.value.problems


def record(incident: Incident, layers: frozenset[str] = BOTH, **changes: object) -> Json:
    fields: Json = {
        "incident_id": ID, "ref": REF, "revision": 1, "prev": None, "first_shared_at": SHARED,
        "layers": layers, **changes,
    }  # fmt: skip
    return to_record(incident, **fields)


def over_the_wire(value: Json) -> Any:  # noqa: ANN401
    return decode(encode(value), max_bytes=limits.MAX_BODY)


# --- refusals --------------------------------------------------------------------------------
SUBSTANCE = "/face/substances/0"
REFUSED: dict[str, tuple[str, object, str, str]] = {
    "an unknown field": ("/face/colour", "red", "unknown-field", "not a field"),
    "an unknown field in a list": (f"{SUBSTANCE}/yield", "80", "unknown-field", "not a field"),
    "an unknown layer": ("/appendix", {}, "unknown-field", "not a field"),
    "a quantity as a float": (f"{SUBSTANCE}/qty/value", 20160.5, "bad-value", "string"),
    "a quantity as an integer": (f"{SUBSTANCE}/qty/value", 20160, "bad-value", "string"),
    "a quantity in words": (f"{SUBSTANCE}/qty/value", "many", "bad-value", "decimal"),
    "a negative quantity": (f"{SUBSTANCE}/qty/value", "-1", "bad-value", "decimal"),
    "a quantity with leading zeros": (f"{SUBSTANCE}/qty/value", "007", "bad-value", "decimal"),
    "a quantity with an exponent": (f"{SUBSTANCE}/qty/value", "1e3", "bad-value", "decimal"),
    "a quantity with a comma": (f"{SUBSTANCE}/qty/value", "1,5", "bad-value", "decimal"),
    "a quantity with a trailing newline": (f"{SUBSTANCE}/qty/value", "5\n", "bad-value", "decimal"),
    "a quantity in other digits": (f"{SUBSTANCE}/qty/value", "\u0665", "bad-value", "decimal"),
    "a unit in words": (f"{SUBSTANCE}/qty/unit", "litre", "bad-value", "none of"),
    "a time without a zone": ("/face/detected_at", "2026-03-01T08:30:00", "bad-value", "UTC"),
    "a time with an offset": ("/face/detected_at", "2026-03-01T08:30:00+01:00", "bad-value", "UTC"),
    "a time in lower case": ("/face/detected_at", "2026-03-01t08:30:00z", "bad-value", "UTC"),
    "a time with a space": ("/face/detected_at", "2026-03-01 08:30:00Z", "bad-value", "UTC"),
    "a time of day 24": ("/face/detected_at", "2026-03-01T24:00:00Z", "bad-value", "UTC"),
    "a thirteenth month": ("/face/detected_at", "2026-13-01T08:30:00Z", "bad-value", "UTC"),
    "a leap second": ("/face/detected_at", "2026-06-30T23:59:60Z", "bad-value", "UTC"),
    "a time as a number": ("/face/detected_at", 1_790_000_000, "bad-value", "string"),
    "a time with a newline": ("/face/detected_at", "2026-03-01T08:30:00Z\n", "bad-value", "UTC"),
    "a date with slashes": ("/face/occurred/start", "2026/02/11", "bad-value", "a date"),
    "a date of two-digit year": ("/face/occurred/start", "26-02-11", "bad-value", "a date"),
    "text in NFD": ("/face/summary", "Alde\u0301r", "bad-value", "Normalization Form C"),
    "a control character": ("/face/summary", "a\x07b", "bad-value", "control character"),
    "a NUL": ("/face/national_ref", "a\0b", "bad-value", "control character"),
    "a carriage return": ("/annex/narrative", "a\r\nb", "bad-value", "control character"),
    "a tab": ("/annex/parties/0/name", "a\tb", "bad-value", "control character"),
    "a lone surrogate": ("/face/summary", "a\ud800b", "bad-value", "unicode"),
    "a summary of 501 characters": ("/face/summary", "x" * 501, "bad-value", "500"),
    "an empty summary": ("/face/summary", "", "bad-value", "is empty"),
    "a short text of 257": ("/face/national_ref", "x" * 257, "bad-value", "256"),
    "a narrative of 8,001": ("/annex/narrative", "x" * 8_001, "bad-value", "8000"),
    "51 substances": ("/face/substances", minimal()["face"]["substances"] * 51, "bad-value", "50"),
    "null for text": ("/face/summary", None, "bad-value", "string"),
    "text for a boolean": ("/face/exercise", "true", "bad-value", "boolean"),
    "one for a boolean": ("/face/exercise", 1, "bad-value", "boolean"),
    "true for an integer": ("/face/route/0/seq", True, "bad-value", "integer"),
    "a float for an integer": ("/face/route/0/seq", 1.0, "bad-value", "integer"),
    "leg 0": ("/face/route/0/seq", 0, "bad-value", "greater"),
    "an unknown incident type": ("/face/incident_type", "robbery", "bad-value", "seizure"),
    "an incident type in capitals": ("/face/incident_type", "Seizure", "bad-value", "seizure"),
    "an unknown country": ("/face/location/country", "ZZ", "bad-value", "such as NL"),
    "a country in lower case": ("/face/origin_country", "xa", "bad-value", "such as XA"),
    "the old TLP label": ("/face/handling/tlp", "WHITE", "bad-value", "CLEAR"),
    "an unknown handling code": ("/face/handling/hc/0", "H4", "bad-value", "H0, H1, H2, H3"),
    "an unknown package code": ("/annex/attachments/0/kind", "video", "bad-value", "label_photo"),
    "a subdivision of a bad form": ("/face/location/subdivision", "XA", "bad-value", "3166-2"),
    "a LOCODE of a bad form": ("/face/location/locode", "XAPR1", "bad-value", "LOCODE"),
    "a language in words": ("/face/lang", "English!", "bad-value", "language tag"),
    "a digest in capitals": ("/annex/attachments/0/sha256", "AB" * 32, "bad-value", "64"),
    "a digest cut short": ("/annex/attachments/0/sha256", "ab" * 31, "bad-value", "64"),
    "an attachment of no bytes": ("/annex/attachments/0/size", 0, "bad-value", "greater"),
    "an object for a list": ("/annex/parties", {}, "bad-value", "tuple"),
    "a list for an object": ("/face/handling", [], "bad-value", "dictionary"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_breaks_the_model_is_refused_at_its_json_pointer(name: str) -> None:
    pointer, value, code, words = REFUSED[name]
    found = problems(put(full(), pointer, value))
    assert (pointer, code) in {(at, kind) for at, kind, _ in found}
    assert found[0][0] == pointer and words in found[0][2]


@pytest.mark.parametrize(
    "pointer",
    [
        "/face", "/face/incident_type", "/face/origin_country", "/face/detected_at",
        "/face/summary", "/face/handling", "/face/handling/tlp", "/face/location",
        "/face/location/country", f"{SUBSTANCE}/form", f"{SUBSTANCE}/qty",
        f"{SUBSTANCE}/qty/value", f"{SUBSTANCE}/qty/unit",
    ],
)  # fmt: skip
def test_each_mandatory_field_is_missed_by_its_name(pointer: str) -> None:
    parse_incident(minimal())
    assert problems(without(minimal(), pointer))[0] == (pointer, "missing", "is required")


def test_a_substance_has_either_a_reference_or_a_name_of_its_own() -> None:
    other = {"name": "PMK ethyl glycidate"}
    both = put(minimal(), f"{SUBSTANCE}/other", other)
    for data in (both, without(minimal(), f"{SUBSTANCE}/substance_id")):
        pointer, code, text = problems(data)[0]
        assert (pointer, code) == (SUBSTANCE, "bad-value")
        assert text == "needs either substance_id or other, not both"
    named = parse_incident(without(both, f"{SUBSTANCE}/substance_id"))
    assert named.face.substances[0].name == "PMK ethyl glycidate"
    assert parse_incident(minimal()).face.substances[0].name == "acetic-anhydride"


@pytest.mark.parametrize("kind", vocabulary.INCIDENT_TYPE)
def test_only_equipment_cases_and_warnings_go_without_a_substance(kind: str) -> None:
    data = put(minimal(), "/face/incident_type", kind)
    for bare in (without(data, "/face/substances"), put(data, "/face/substances", [])):
        if kind in {"equipment_only", "mo_warning"}:
            incident = parse_incident(bare)
            assert from_record(over_the_wire(record(incident))).face == incident.face
        else:
            pointer, code, text = problems(bare)[0]
            assert (pointer, code) == ("/face", "bad-value")
            assert "at least one substance" in text and kind in text


def test_all_problems_are_listed_at_once() -> None:
    data = put(put(minimal(), "/face/summary", ""), "/face/handling/tlp", "PINK")
    data["face"]["colour"] = "red"
    with pytest.raises(InvalidIncidentError) as caught:
        parse_incident(data)
    pointers = {pointer for pointer, _, _ in caught.value.problems}
    assert pointers == {"/face/summary", "/face/handling/tlp", "/face/colour"}
    assert caught.value.message.endswith("(2 more)")


def test_a_pointer_escapes_tilde_and_slash() -> None:
    assert problems({**minimal(), "a/b~c": 1})[0][:2] == ("/a~1b~0c", "unknown-field")


@pytest.mark.parametrize("data", [None, [], "incident", 7, True])
def test_what_is_no_object_is_refused_as_a_whole(data: object) -> None:
    assert problems(data)[0][:2] == ("", "bad-value")


def test_json_nested_as_deep_as_a_reader_takes_it_is_refused() -> None:
    deep = json.loads("[" * 900 + "]" * 900)
    problems(put(full(), "/face/lab", deep))


@pytest.mark.parametrize(
    ("pointer", "value"),
    [
        ("/face/detected_at", "2026-02-30T08:30:00Z"),
        ("/face/detected_at", "0000-02-20T08:30:00Z"),
        ("/face/occurred/start", "2026-02-29"),
        ("/annex/documents/0/date", "2026-04-31"),
    ],
)
def test_a_day_that_no_calendar_has_is_refused(pointer: str, value: str) -> None:
    assert problems(put(full(), pointer, value))[0][:2] == (pointer, "bad-value")


def test_a_refusal_repeats_nothing_of_the_incident() -> None:
    """Problems go to logs and screens; the text of an incident does not."""
    for pointer, value in (
        ("/face/summary", "canary" * 100),
        ("/face/summary", "canary\x07"),
        ("/annex/narrative", "canary e\u0301"),
        ("/face/detected_at", "canary"),
        ("/face/incident_type", "canary"),
        (f"{SUBSTANCE}/qty/value", "canary"),
        ("/annex/parties/0/role", "canary"),
    ):
        with pytest.raises(InvalidIncidentError) as caught:
            parse_incident(put(full(), pointer, value))
        said = f"{caught.value.diagnostics()} {caught.value.problems}"
        assert pointer in said
        assert "canary" not in said and "Acetic" not in said and "Halden" not in said


def test_an_incident_cannot_be_changed_once_read() -> None:
    incident = parse_incident(full())
    with pytest.raises(ValueError, match="frozen"):
        incident.face.summary = "another"  # type: ignore[misc]


# --- any input -------------------------------------------------------------------------------
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=12),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=8,
)


def pointers(value: object, at: str = "") -> Iterator[str]:
    if at:
        yield at
    pairs: Any = ()
    if isinstance(value, dict):
        pairs = value.items()
    elif isinstance(value, list):
        pairs = enumerate(value)
    for key, inner in pairs:
        yield from pointers(inner, f"{at}/{key}")


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(sorted(pointers(full()))), JSON)
def test_any_value_at_any_place_is_refused_by_pointer_or_kept(pointer: str, value: object) -> None:
    data = put(full(), pointer, value)
    try:
        incident = parse_incident(data)
    except InvalidIncidentError as error:
        assert error.problems and all(at.startswith("/") for at, _, _ in error.problems)
        return
    opened = from_record(over_the_wire(record(incident)))
    assert opened.annex == incident.annex


@settings(deadline=None)
@given(st.text(max_size=300))
def test_text_that_is_accepted_has_a_canonical_form(text: str) -> None:
    """Whatever a form accepts can also be sealed: no release fails on its own draft."""
    try:
        incident = parse_incident(put(minimal(), "/face/national_ref", text))
    except InvalidIncidentError:
        return
    face = from_record(over_the_wire(record(incident))).face
    assert face is not None and face.national_ref == text


@settings(deadline=None)
@given(st.from_regex(r"(0|[1-9][0-9]{0,11})(\.[0-9]{1,6})?", fullmatch=True))
def test_a_quantity_stays_as_it_was_written(value: str) -> None:
    incident = parse_incident(put(minimal(), f"{SUBSTANCE}/qty/value", value))
    assert incident.face.substances[0].qty.value == value
    shown = record(incident)["face"]["substances"][0]["qty"]
    assert shown == {"value": value, "unit": "LTR"}


@settings(deadline=None)
@given(st.text(st.sampled_from("0123456789.+-eE_, "), max_size=10))
def test_a_quantity_of_another_form_never_passes(value: str) -> None:
    whole, point, part = value.partition(".")
    plain = whole.isdigit() and (whole == "0" or whole[0] != "0") and (part.isdigit() or not point)
    if plain and len(part) <= 6:
        parse_incident(put(minimal(), f"{SUBSTANCE}/qty/value", value))
    else:
        problems(put(minimal(), f"{SUBSTANCE}/qty/value", value))


# --- records ---------------------------------------------------------------------------------
@pytest.mark.parametrize("data", [minimal(), full()], ids=["minimal", "full"])
def test_a_record_comes_back_through_its_canonical_form(data: Json) -> None:
    incident = parse_incident(data)
    opened = from_record(over_the_wire(record(incident, revision=2, prev=bytes(32))))
    computed = {"anchors": anchors(incident), "personal_data": personal_data(incident)}
    assert opened.face == incident.face.model_copy(update=computed)
    assert opened.annex == incident.annex
    assert (opened.incident_id, opened.ref, opened.revision) == (ID, REF, 2)
    assert (opened.prev, opened.first_shared_at) == (bytes(32), SHARED)


def test_the_record_keeps_the_json_that_was_sent() -> None:
    """Nothing is added to it, normalised or reordered into something else."""
    shown = record(parse_incident(full()))
    computed = {"anchors", "personal_data"}
    face = {key: value for key, value in shown["face"].items() if key not in computed}
    assert json.loads(json.dumps(face)) == full()["face"]
    assert shown["annex"] == full()["annex"]


def test_the_layers_of_an_incident_travel_apart() -> None:
    incident = parse_incident(full())
    face, annex = (record(incident, frozenset({layer})) for layer in ("face", "annex"))
    assert "annex" not in face and "face" not in annex
    wide = encode(face)
    for secret in ("Halden", "HLDX26030417", "CSQU3054383", "9074729", "B2026-0217-33", "seller7"):
        assert secret.encode() not in wide
    opened = from_record(over_the_wire(face))
    assert opened.annex is None and opened.face is not None
    # Whoever has the face alone sees which anchors the annex holds, and can ask for it.
    assert opened.face.anchors == tuple(f"A{n}" for n in range(1, 9))
    assert from_record(over_the_wire(annex)).face is None


def test_an_incident_without_an_annex_has_a_record_without_one() -> None:
    assert "annex" not in record(parse_incident(minimal()))


GOOD_RECORD = record(parse_incident(full()))


@pytest.mark.parametrize(
    "changes",
    [
        {"record": "incident.amend"},
        {"record": None},
        {"revision": 0},
        {"revision": True},
        {"revision": "1"},
        {"incident_id": ID.upper()},
        {"incident_id": ID.replace("-", "")},
        {"incident_id": f"{{{ID}}}"},
        {"incident_id": "six"},
        {"incident_id": 6},
        {"ref": "PI-XA-2026-7K3F9"},
        {"ref": "PI-XA-2026-7K3F9I"},
        {"ref": "PI-xa-2026-7K3F9Q"},
        {"ref": f"{REF}\n"},
        {"ref": None},
        {"prev": bytes(31)},
        {"prev": "0" * 32},
        {"first_shared_at": "yesterday"},
        {"first_shared_at": 1_790_000_000},
        {"more": 1},
        {"face": None, "annex": None},
        {"face": {}},
        {"face": []},
        {"annex": "text"},
        {"annex": {"parties": [{"role": "consignor"}]}},
        {"face": {**GOOD_RECORD["face"], "colour": "red"}},
    ],
)
def test_a_record_that_breaks_the_schema_is_refused(changes: Json) -> None:
    from_record(over_the_wire(GOOD_RECORD))
    with pytest.raises(RecordError):
        from_record(over_the_wire({**GOOD_RECORD, **changes}))


@pytest.mark.parametrize("field", sorted(set(GOOD_RECORD) - {"face", "annex"}))
def test_a_record_that_lacks_a_field_is_refused(field: str) -> None:
    with pytest.raises(RecordError):
        from_record({key: value for key, value in GOOD_RECORD.items() if key != field})


@pytest.mark.parametrize("data", [None, [], b"", "record", 7])
def test_what_is_no_map_is_no_record(data: object) -> None:
    with pytest.raises(RecordError):
        from_record(data)


def test_a_refused_record_repeats_nothing_of_its_text() -> None:
    spoilt = put(GOOD_RECORD, "/annex/parties/0/name", "Halden\tReagents")
    with pytest.raises(RecordError) as caught:
        from_record(spoilt)
    assert "Halden" not in caught.value.diagnostics()


# --- references ------------------------------------------------------------------------------
@settings(deadline=None)
@given(st.binary(min_size=4, max_size=16), st.integers(1, 9_999))
def test_a_reference_can_be_read_out_and_passes_the_record(randomness: bytes, year: int) -> None:
    ref = make_ref("XA", year, randomness)
    prefix, country, shown, letters = ref.split("-")
    assert (prefix, country, shown, len(letters)) == ("PI", "XA", f"{year:04d}", 6)
    assert set(letters).isdisjoint("ILOU")
    assert from_record({**GOOD_RECORD, "ref": ref}).ref == ref


def test_references_of_different_randomness_differ() -> None:
    assert len({make_ref("XA", 2026, n.to_bytes(8, "big")) for n in range(1_000)}) == 1_000


# --- completeness ----------------------------------------------------------------------------
def test_a_minimal_incident_lacks_all_anchors_and_says_which_first() -> None:
    incident = parse_incident(minimal())
    assert anchors(incident) == ()
    assert missing_anchors(incident) == ("A4", "A2", "A1", "A3", "A6", "A7")
    assert not is_actionable(incident)


def test_a_full_incident_has_all_eight_anchors() -> None:
    incident = parse_incident(full())
    assert anchors(incident) == tuple(f"A{n}" for n in range(1, 9))
    assert missing_anchors(incident) == () and is_actionable(incident)


@pytest.mark.parametrize(
    ("pointer", "lost"),
    [
        ("/annex/documents", {"A2"}),
        ("/annex/online", set()),
        ("/annex/parties", {"A1"}),
        ("/annex/parties/0/ids", {"A1"}),
        ("/annex/containers", set()),
        ("/annex/origins", set()),
        ("/annex/attachments", {"A7"}),
        ("/face/contact", {"A8"}),
        ("/face/route", {"A5"}),
        ("/annex", {"A1", "A2", "A3", "A4", "A6", "A7"}),
    ],
)
def test_an_anchor_goes_only_with_the_last_field_that_gives_it(
    pointer: str, lost: set[str]
) -> None:
    incident = parse_incident(without(full(), pointer))
    assert set(anchors(parse_incident(full()))) - set(anchors(incident)) == lost


@pytest.mark.parametrize(
    ("pointers_gone", "lost"),
    [
        (("/annex/containers", "/annex/conveyances"), "A3"),
        (("/annex/origins", "/annex/attachments"), "A4"),
        (("/annex/parties", "/annex/online"), "A6"),
    ],
)
def test_an_anchor_that_two_fields_give_goes_with_both(
    pointers_gone: tuple[str, str], lost: str
) -> None:
    data = full()
    for pointer in pointers_gone:
        data = without(data, pointer)
    assert lost not in anchors(parse_incident(data))


def test_one_leg_or_no_origin_is_no_route() -> None:
    one = put(full(), "/face/route", full()["face"]["route"][:1])
    transit = put(full(), "/face/route/0/role", "transit")
    for data in (one, transit):
        assert "A5" not in anchors(parse_incident(data))


@pytest.mark.parametrize(
    ("layer", "actionable"),
    [
        ({"documents": [{"type": "cmr", "number": "7"}]}, True),
        ({"containers": [{"no": "CSQU3054383"}]}, True),
        ({"conveyances": [{"leg": 1, "plate": "XA-1", "plate_country": "XA"}]}, True),
        ({"origins": [{"substance": 1, "batch_no": "B1"}]}, True),
        ({"online": [{"platform_type": "forum", "url": "https://a.example"}]}, True),
        ({"parties": [{"role": "carrier", "kind": "org", "name": "N", "licence_no": "7"}]}, True),
        ({"parties": [{"role": "carrier", "kind": "org", "name": "N"}]}, False),
        ({"origins": [{"substance": 1, "brand": "KARST"}]}, False),
        ({"conveyances": [{"leg": 1, "carrier": "Northmere Line"}]}, False),
        ({"attachments": [{"sha256": "ab" * 32, "media_type": "a/b", "size": 1,
                           "kind": "document_scan"}]}, False),
        ({}, False),
    ],
)  # fmt: skip
def test_route_contact_and_one_more_anchor_make_it_actionable(
    layer: Json, actionable: bool
) -> None:
    data = {**full(), "annex": layer}
    assert is_actionable(parse_incident(data)) is actionable
    for needed in ("/face/route", "/face/contact"):
        assert not is_actionable(parse_incident(without(data, needed)))


def test_the_countries_concerned_are_those_that_the_incident_points_to() -> None:
    assert concerned_countries(parse_incident(full())) == ("XA", "XB", "XC", "XD", "XE", "XF")
    assert concerned_countries(parse_incident(minimal())) == ("XA",)
    elsewhere = put(minimal(), "/face/location/country", "XG")
    assert concerned_countries(parse_incident(elsewhere)) == ("XG",)


def test_a_line_for_a_list_names_substance_and_quantity() -> None:
    shown = record(parse_incident(full()))["face"]
    assert summary_line(shown) == "acetic-anhydride 20160 L"
    other = {
        "other": {"name": "1-Boc-4-AP"}, "form": "paste", "qty": {"value": "1.5", "unit": "KGM"}
    }  # fmt: skip
    two = put(full(), "/face/substances", [*full()["face"]["substances"], other])
    assert summary_line(record(parse_incident(two))["face"]) == "acetic-anhydride 20160 L +1"
    one = put(full(), "/face/substances", [other])
    assert summary_line(record(parse_incident(one))["face"]) == "1-Boc-4-AP 1.5 kg"


def test_a_line_for_a_list_names_the_equipment_where_there_is_no_substance() -> None:
    data = without(put(full(), "/face/incident_type", "equipment_only"), "/face/substances")
    data["face"]["equipment"].append({"type": "tablet press", "qty": 1})
    assert summary_line(record(parse_incident(data))["face"]) == "2 reactor, 1 tablet press"
    assert summary_line(record(parse_incident(without(data, "/face/equipment")))["face"]) == ""


def test_each_unit_has_a_symbol_to_show() -> None:
    assert set(vocabulary.UNIT_SYMBOL) == set(vocabulary.UNIT)


# --- check digits and warnings ---------------------------------------------------------------
@pytest.mark.parametrize(
    ("check", "good", "bad"),
    [
        (cas_is_valid, ["108-24-7", "64-19-7", "7732-18-5", "299-42-3", "7722-64-7", "50-00-0"],
         ["108-24-8", "108-42-7", "180-24-7", "108247", "0108-24-7", "08-24-7", "108-24-7 ",
          "108-24-7\n", "108-24-", "1-24-7", "12345678-24-7", "", "acetic",
          "\u0661\u0660\u0668-24-7"]),
        (container_is_valid, ["CSQU3054383", "MSKU6011672", "HLXU2008419", "TASU1170000"],
         ["CSQU3054384", "CSQU3045383", "CQSU3054383", "csqu3054383", "CSQX3054383", "CSQU305438",
          "CSQU 305438-3", "CSQU3054383\n", "CSQU30543833", "", "CSQ\u00dc3054383"]),
        (imo_is_valid, ["9074729", "9319466", "8814275"],
         ["9074720", "9047729", "IMO9074729", "907472", "90747299", "9074729\n", "",
          "\u0669074729"]),
    ],
    ids=["CAS", "ISO 6346", "IMO"],
)  # fmt: skip
def test_check_digits(check: typing.Callable[[str], bool], good: list[str], bad: list[str]) -> None:
    assert [text for text in good if not check(text)] == []
    assert [text for text in bad if check(text)] == []


@pytest.mark.parametrize(
    ("check", "number"),
    [(cas_is_valid, "7732-18-5"), (container_is_valid, "CSQU3054383"), (imo_is_valid, "9074729")],
)
def test_one_wrong_last_digit_is_always_noticed(
    check: typing.Callable[[str], bool], number: str
) -> None:
    assert [d for d in "0123456789" if check(number[:-1] + d)] == [number[-1]]


def test_a_remainder_of_ten_counts_as_zero_in_a_container_number() -> None:
    """ISO 6346 annex A: 2021 such numbers exist although owners are told to avoid them."""
    numbers = [f"CSQU{serial:06d}0" for serial in range(400)]
    valid = [number for number in numbers if container_is_valid(number)]
    # Two of the eleven remainders, 0 and 10, give the digit 0.
    assert 2 / 11 - 0.02 < len(valid) / len(numbers) < 2 / 11 + 0.02


def doubtful() -> Json:
    data = without(put(full(), "/annex/containers/0/no", "CSQU3054384"), "/face/contact")
    data = put(data, "/annex/conveyances/0/imo", "9074720")
    data["face"]["substances"].append(
        {
            "other": {"name": "PMK glycidate", "cas": "28578-16-8"},
            "form": "solid_powder",
            "qty": {"value": "25", "unit": "LTR"},
        }
    )
    return data


def test_what_looks_wrong_is_said_with_its_pointer() -> None:
    found = {(warning.pointer, warning.code) for warning in warnings(parse_incident(doubtful()))}
    assert found == {
        ("/face/substances/1/other/cas", "check-digit"),
        ("/face/substances/1/qty/unit", "unit"),
        ("/face/contact", "no-contact"),
        ("/annex/containers/0/no", "check-digit"),
        ("/annex/conveyances/0/imo", "check-digit"),
    }
    assert warnings(parse_incident(full())) == []


def test_warnings_never_change_a_value() -> None:
    incident = parse_incident(doubtful())
    before = encode(record(incident))
    assert warnings(incident)
    assert encode(record(incident)) == before
    opened = from_record(decode(before, max_bytes=limits.MAX_BODY))
    assert opened.annex is not None and opened.face is not None
    assert opened.annex.containers[0].no == "CSQU3054384"
    assert opened.annex.conveyances[0].imo == "9074720"
    other = opened.face.substances[1].other
    assert other is not None and other.cas == "28578-16-8"
    assert opened.face.substances[1].qty.unit == "LTR"


# --- what is never asked ---------------------------------------------------------------------
def models(kind: type[BaseModel]) -> set[type[BaseModel]]:
    """Return *kind* and every model that one of its fields can hold."""
    found = {kind}
    waiting: list[Any] = [field.annotation for field in kind.model_fields.values()]
    while waiting:
        item = waiting.pop()
        if isinstance(item, type) and issubclass(item, BaseModel):
            found |= models(item)
        waiting.extend(typing.get_args(item))
    return found


MAKING = (
    "recipe", "procedure", "instruction", "yield", "temperature", "pressure", "reagent",
    "catalyst", "solvent", "stage", "step", "ratio", "reaction", "purif", "protocol", "preparation",
    "synth", "how", "duration", "equation", "reflux",
)  # fmt: skip
# Coarse words of the published statistics: what kind of place, what kind of order.
COARSE = {"synthesis", "custom_synthesis_order", "preparation_extraction"}


def of_making(name: str) -> bool:
    return any(part.startswith(MAKING) for part in name.lower().split("_"))


def test_no_field_asks_how_anything_is_made() -> None:
    every = models(Incident)
    assert {model.Face, model.Annex, model.Origin, model.Laboratory, model.Packages} <= every
    fields = {f"{kind.__name__}.{name}" for kind in every for name in kind.model_fields}
    assert sorted(field for field in fields if of_making(field.partition(".")[2])) == []
    assert set(model.Laboratory.model_fields) == {
        "lab_type", "scale", "activities", "status", "waste", "hazards", "casualties",
    }  # fmt: skip
    assert set(model.Equipment.model_fields) == {"type", "qty", "new_used", "made_to_order"}


def test_no_vocabulary_asks_how_anything_is_made() -> None:
    vocabularies = {
        name: words
        for name, words in vars(vocabulary).items()
        if name.isupper() and not name.startswith("_")
    }
    assert len(vocabularies) > 40
    words = {word for each in vocabularies.values() for word in each} - COARSE
    assert sorted(word for word in words if of_making(word)) == []


def test_no_vocabulary_has_a_word_twice() -> None:
    for name, words in vars(vocabulary).items():
        if isinstance(words, tuple):
            assert len(set(words)) == len(words), name
    assert len(vocabulary.COUNTRIES) == 249 + 26
