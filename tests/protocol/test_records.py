"""The kinds of records: what they take, what they refuse, and that the document says the same."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from protocol import limits
from protocol import records as r
from protocol import records_incident as ri
from protocol import records_operations as ro
from protocol.canonical import decode, encode
from protocol.changes import Change, changes
from protocol.errors import InvalidIncidentError, RecordError
from protocol.record_fields import RequestRef, from_ms, to_ms
from protocol.records import KINDS, make_record, parse_record, subject_of, to_body
from tests.protocol.record_factories import (
    DAY,
    HOUR,
    NOW,
    UUID,
    amend,
    at,
    content,
    item,
    node,
    report,
    uuid,
)

FIRST = report(content(plate="AB 1"))
ALL = [amend(content(plate="AB 2"), FIRST), *(item(kind) for kind in KINDS[2:])]
DOCUMENT = (Path(__file__).parents[2] / "docs" / "protocol.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("record", ALL, ids=lambda record: record.KIND)
def test_a_record_survives_its_canonical_encoding(record: r.AnyItem) -> None:
    body = to_body(record)
    wire = encode(body)
    assert parse_record(decode(wire, max_bytes=limits.MAX_BODY)) == record
    assert len(wire) < 2_000


def test_each_kind_has_a_model_and_an_owner() -> None:
    assert {record.KIND for record in ALL} == set(KINDS[1:])
    own = {"incident.amend", "incident.retract", "alert.special", "operation.open",
           "pen.notification", "list.update"}  # fmt: skip
    for record in ALL:
        _, owner = subject_of(record, node("birch"))
        assert owner == node("birch" if record.KIND in own else "alder"), record.KIND


@pytest.mark.parametrize("record", ALL, ids=lambda record: record.KIND)
def test_an_unknown_field_a_missing_one_and_a_wrong_type_are_refused(record: r.AnyItem) -> None:
    body = to_body(record)
    with pytest.raises(RecordError):
        parse_record({**body, "more": 1})
    for name, info in type(record).model_fields.items():
        if info.is_required():
            with pytest.raises(RecordError):
                parse_record({key: value for key, value in body.items() if key != name})
        with pytest.raises(RecordError):
            parse_record({**body, name: 1.5})


@pytest.mark.parametrize(
    "data",
    [None, [], {}, {"record": 1}, {"record": "incident.dance"}, {"record": ["ack"]}],
    ids=repr,
)
def test_what_is_no_record_of_a_known_kind_is_refused(data: object) -> None:
    with pytest.raises(RecordError):
        parse_record(data)


REFUSED: list[tuple[str, dict[str, Any]]] = [
    ("incident.retract", {"duplicate_of": {"incident_id": uuid(2), "author": node("birch")}}),
    ("incident.retract", {"reason": "because"}),
    ("incident.retract", {"ref": "PI-XA-2026-00000I"}),
    ("ack", {"level": "received"}),
    ("ack", {"incident": {"incident_id": UUID, "author": "A" * 64}}),
    ("ack", {"at": "2026-02-30T00:00:00Z"}),
    ("link.assert", {"target": {"incident_id": UUID, "author": node("alder")}}),
    ("link.assert", {"basis": "x" * (limits.MAX_NOTE_TEXT + 1)}),
    ("alert.special", {"expires": at()}),
    ("alert.special", {"expires": at(limits.MAX_ALERT_MS + 1)}),
    ("followup.request", {"due": at()}),
    ("followup.request", {"due": at(limits.MAX_DUE_MS + 1)}),
    ("followup.request", {"to": []}),
    ("followup.request", {"to": [node("alder")] * (limits.MAX_ASKED + 1)}),
    ("followup.request", {"kinds": []}),
    ("followup.request", {"priority": "whenever"}),
    ("followup.request", {"question": ""}),
    ("followup.response", {"outcome": "refused"}),
    ("followup.response", {"reason": "no_capacity"}),
    ("followup.response", {"outcome": "redirected"}),
    ("followup.response", {"agency": "Customs"}),
    ("thread.message", {"text": "x" * (limits.MAX_LONG_TEXT + 1)}),
    ("thread.message", {"text": "tab\there"}),
    ("operation.open", {"scope": {"starts": at(DAY), "ends": at(DAY)}}),
    ("operation.open", {"participants": []}),
    ("operation.close", {"counts": [{"participant": node("birch"), "incidents": -1}]}),
    ("pen.notification", {"substances": []}),
    ("pen.notification", {"reply_by": at(-1)}),
    ("pen.reply", {"answer": "objection"}),
    ("pen.reply", {"answer": "more_time"}),
    ("pen.reply", {"until": at(DAY)}),
    ("consignment.event", {"event": "vanished"}),
    ("list.update", {"part": 2}),
    ("list.update", {"name": "Substances"}),
    ("list.update", {"rows": [{"key": "x", "fields": {}}]}),
    ("list.update", {"rows": [{"key": "x", "fields": {f"f{n}": "y" for n in range(33)}}]}),
]


@pytest.mark.parametrize(("kind", "change"), REFUSED)
def test_what_breaks_a_rule_is_refused(kind: str, change: dict[str, Any]) -> None:
    with pytest.raises(InvalidIncidentError):
        item(kind, **change)


@pytest.mark.parametrize(
    "change",
    [
        {"layers": ["annex"]}, {"layers": []}, {"layers": ["face"]}, {"revision": 1},
        {"face": None, "annex": None}, {"prev": {"face": "no"}},
    ],
    ids=repr,
)  # fmt: skip
def test_an_amendment_has_the_layers_that_it_names(change: dict[str, Any]) -> None:
    with pytest.raises(InvalidIncidentError):
        amend(content(plate="AB 2"), FIRST, **change)


def test_every_fault_is_told_with_its_place() -> None:
    with pytest.raises(InvalidIncidentError) as caught:
        item(
            "followup.request", question="", to=["x", node("alder")],
            kinds=["gossip", "trace_batch"], handling={}, more=1,
        )  # fmt: skip
    assert {pointer for pointer, _, _ in caught.value.problems} == {
        "/question", "/to/0", "/kinds/0", "/handling/tlp", "/more",
    }  # fmt: skip
    with pytest.raises(InvalidIncidentError):
        make_record("incident.report", {})


def test_a_tombstone_has_no_place_for_words() -> None:
    assert set(ri.Retract.model_fields) == {
        "incident_id", "ref", "revision", "reason", "duplicate_of", "at",
    }  # fmt: skip


def test_times_are_the_same_both_ways() -> None:
    assert to_ms(from_ms(NOW + 7)) == NOW + 7
    assert to_ms("2026-09-21T14:13:20Z") == to_ms("2026-09-21T14:13:20.000Z")
    assert to_ms("2026-09-21T14:13:20.5Z") - to_ms("2026-09-21T14:13:20Z") == 500
    assert to_ms(at(HOUR)) - to_ms(at()) == HOUR


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        ({"a": 1}, {"a": 1}, []),
        ({"a": 1}, {"a": 2}, [("/a", 1, 2)]),
        ({"a": 1}, {"b/~": 2}, [("/a", 1, None), ("/b~1~0", None, 2)]),
        ([1, 2], [0, 1, 2], [("/0", None, 0)]),
        ([1, 2, 3], [1, 3], [("/1", 2, None)]),
        ([{"x": 1}, {"x": 2}], [{"x": 1}, {"x": 3}], [("/1/x", 2, 3)]),
        ([1], [2, 3], [("/0", 1, 2), ("/1", None, 3)]),
        (None, {"a": 1}, [("", None, {"a": 1})]),
    ],
)
def test_changes_are_told_field_by_field(before: Any, after: Any, expected: Any) -> None:  # noqa: ANN401
    assert changes(before, after) == tuple(Change(*each) for each in expected)


# --- the document ----------------------------------------------------------------------------
def test_the_document_lists_each_field_of_each_kind_and_whether_it_may_be_absent() -> None:
    text = DOCUMENT.partition("\n### 14.3 ")[2].partition("\n### 14.4 ")[0]
    rows = re.findall(r"^\| ([A-Za-z.]+) \| (.+: .+) \|$", text, re.MULTILINE)
    listed = {
        name: {
            field: mark == "?" or starred == "*"
            for field, mark, starred in re.findall(r"(?:^|; )(\w+)(\??): (\*?)", fields)
        }
        for name, fields in rows
    }
    parts: list[type[BaseModel]] = [
        ri.Prev, r.IncidentRef, RequestRef, r.OperationRef, r.PenRef, ro.Scope, ro.Count,
        ro.Total, ro.ListRow,
    ]  # fmt: skip
    models = {type(record).KIND: type(record) for record in ALL} | {
        part.__name__: part for part in parts
    }
    assert listed == {
        name: {field: not info.is_required() for field, info in model.model_fields.items()}
        for name, model in models.items()
    }
