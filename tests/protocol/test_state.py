"""The state of incidents, operations and shipments: a function of a set of records; its rules."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protocol import state as s
from protocol import state_operations as o
from protocol.incident import Face, Handling
from protocol.records_followup import default_due, is_at_least, strictest
from protocol.state import IncidentState, Received, incident_state
from protocol.state_operations import active_alerts, list_state, operation_state, pen_state
from tests.protocol.record_factories import (
    DAY,
    HOUR,
    NOW,
    UUID,
    amend,
    at,
    content,
    digests,
    item,
    node,
    received,
    report,
    uuid,
)

FIRST = report(content(plate="AB 1"))
SECOND = amend(content("drums, weighed", plate="AB 1"), FIRST)
THIRD = amend(content("drums, analysed", plate="AB 12"), SECOND)
SENT = received("alder", FIRST, "birch", "cedar")


def state(*records: Received, now: int = NOW) -> IncidentState:
    return incident_state(UUID, node("alder"), records, now=now)


def reasons(found: IncidentState) -> set[str]:
    return {each.reason for each in found.ignored}


def shown(found: IncidentState) -> str:
    assert found.face.current is not None
    assert isinstance(found.face.current.value, Face)
    return found.face.current.value.summary


# --- any order -------------------------------------------------------------------------------
HONEST = [
    SENT,
    received("alder", SECOND, "birch", "cedar"),
    received("alder", THIRD, "birch"),
    received("birch", item("ack"), "alder"),
    received("birch", item("ack", level="actioned", at=at(HOUR)), "alder"),
    received("birch", item("followup.request"), "alder"),
    received("alder", item("followup.response", outcome="interim", at=at(HOUR)), "birch"),
    received("alder", item("followup.response", at=at(2 * HOUR)), "birch"),
    received("birch", item("thread.message"), "alder"),
    received("cedar", item("link.assert"), "alder"),
]
DISHONEST = [
    received("dogwood", amend(content("nothing to see"), FIRST), "birch"),
    received("dogwood", item("incident.retract"), "birch"),
    received("birch", item("incident.retract", reason="legal_order"), "alder", "cedar"),
    received("cedar", item("followup.response", outcome="negative"), "birch"),
    received("dogwood", item("ack"), "alder"),
    received("dogwood", item("followup.request", request_id=uuid(53)), "alder"),
    received("dogwood", item("thread.message"), "alder"),
    received("dogwood", item("link.assert", kind="duplicate_of"), "alder"),
    received("alder", amend(content("drums, stolen"), FIRST), "birch"),
    received("birch", item("followup.request", question="Another?"), "alder"),
]


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_the_state_is_the_same_for_every_order_of_arrival(data: st.DataObject) -> None:
    chosen = data.draw(st.lists(st.sampled_from(HONEST + DISHONEST), unique_by=id))
    again = data.draw(st.permutations([*chosen, *chosen[: len(chosen) // 2]]))
    moved = [
        Received(r.author, r.envelope_id, index, r.recipients, r.record)
        for index, r in enumerate(again)
    ]
    now = NOW + data.draw(st.integers(0, 30)) * DAY
    assert state(*moved, now=now) == state(*chosen, now=now)


def test_dishonest_records_change_nothing_but_what_is_ignored() -> None:
    liars = [each for each in DISHONEST if each.author in {node("dogwood"), node("cedar")}]
    liars.append(DISHONEST[2])
    honest, mixed = state(*HONEST), state(*liars, *HONEST)
    assert mixed.ignored
    assert not honest.ignored
    assert {each.envelope_id for each in mixed.ignored} == {each.envelope_id for each in liars}
    blank: dict[str, Any] = {"ignored": ()}
    assert replace(mixed, **blank) == replace(honest, **blank)


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_operations_and_shipments_are_the_same_for_every_order(data: st.DataObject) -> None:
    records = [*_operation(), *_shipment()]
    chosen = data.draw(st.lists(st.sampled_from(records), unique_by=id))
    again = data.draw(st.permutations(chosen + chosen))
    now = NOW + data.draw(st.integers(0, 30)) * DAY
    for of in (
        lambda those: operation_state(uuid(60), node("alder"), those, now=now),
        lambda those: pen_state(uuid(70), node("alder"), those, now=now),
        lambda those: active_alerts(those, now=now),
        lambda those: list_state("substances", node("alder"), those),
    ):
        assert of(again) == of(chosen)


# --- revisions -------------------------------------------------------------------------------
def test_only_revisions_of_the_originator_count() -> None:
    found = state(SENT, received("birch", amend(content("mine"), FIRST), "alder"))
    assert shown(found) == "drums"
    assert reasons(found) == {s.NOT_ORIGINATOR}


def test_who_has_an_incident_of_its_own_under_the_id_changes_that_one_alone() -> None:
    own = received("birch", report(content("of birch")), "alder")
    change = received("birch", amend(content("of birch, again"), report(content())), "alder")
    found = state(SENT, own, change)
    assert shown(found) == "drums"
    assert found.ignored == ()
    assert shown(incident_state(UUID, node("birch"), [SENT, own, change], now=NOW)) == (
        "of birch, again"
    )


def test_the_newest_revision_is_shown_with_what_changed_field_by_field() -> None:
    found = state(*HONEST)
    assert found.revision == 3
    assert shown(found) == "drums, analysed"
    face, annex = found.face.current, found.annex.current
    assert face is not None
    assert annex is not None
    assert [(c.pointer, c.before, c.after) for c in face.changes] == [
        ("/summary", "drums, weighed", "drums, analysed")
    ]
    assert [(c.pointer, c.before, c.after) for c in annex.changes] == [
        ("/conveyances/0/plate", "AB 1", "AB 12")
    ]
    assert [v.follows for v in found.face.versions] == [True, True, True]


def test_a_recipient_of_the_face_alone_can_check_it_and_learns_no_digest_of_the_annex() -> None:
    first = received("alder", report(content(plate="AB 1"), layers="face"), "cedar")
    record = amend(content("weighed", plate="AB 1"), FIRST, audience="face")
    assert record.prev.annex is None  # type: ignore[union-attr]
    found = state(first, received("alder", record, "cedar"))
    assert found.face.current is not None
    assert found.face.current.follows is True
    assert not found.annex.versions


def test_two_different_amendments_of_one_number_are_both_shown_and_neither_is_picked() -> None:
    other = received("alder", amend(content("drums, stolen", plate="AB 1"), FIRST), "cedar")
    found = state(SENT, received("alder", SECOND, "birch"), other)
    assert found.conflict
    assert found.face.conflicts == (2,)
    assert found.face.current is None
    assert len(found.face.heads) == 2
    assert found.annex.current is not None, "the annexes agree"


def test_copies_of_one_revision_for_several_audiences_are_one_version() -> None:
    one, other = (
        received("alder", SECOND, "birch"),
        received("alder", amend(content("drums, weighed", plate="AB 1"), FIRST, audience="face",
                                shared_at=at(2 * HOUR)), "cedar"),
    )  # fmt: skip
    found = state(SENT, one, other)
    assert not found.conflict
    assert found.face.current is not None
    assert set(found.face.current.envelopes) == {one.envelope_id, other.envelope_id}


def test_a_revision_that_does_not_follow_says_so() -> None:
    wrong = amend(content("skipped"), SECOND, prev={"face": "0" * 64})
    found = state(SENT, received("alder", SECOND), received("alder", wrong))
    assert found.face.current is not None
    assert found.face.current.follows is False
    alone = state(received("alder", THIRD))
    assert alone.face.current is not None
    assert alone.face.current.follows is None


def test_a_revision_without_an_annex_takes_the_annex_away() -> None:
    found = state(SENT, received("alder", amend(content("weighed"), FIRST), "birch"))
    assert found.annex.heads == ()
    assert found.annex.removed_in == 2
    assert len(found.annex.versions) == 1


def test_a_layer_that_never_was_here_is_not_taken_away() -> None:
    first = report(content("drums"))
    found = state(received("alder", first, "birch"), received("alder", amend(content(), first)))
    assert found.revision == 2
    assert found.annex.removed_in is None


def test_an_annex_that_is_not_here_yet_leaves_the_one_before_shown() -> None:
    face = amend(content("weighed", plate="AB 2"), FIRST, audience="face")
    found = state(SENT, received("alder", face, "birch"))
    assert found.annex.current is not None
    assert found.annex.current.revision == 1
    assert found.revision == 2


def test_blobs_and_keys_of_attachments_differ_between_audiences_and_change_no_digest() -> None:
    about = {"sha256": "a" * 64, "media_type": "image/jpeg", "size": 9, "kind": "label_photo"}
    bodies = [
        {"face": content().face, "annex": {"attachments": [{**about, "blob": b * 64,
                                                            "key": b * 64}]}}
        for b in "12"
    ]  # fmt: skip
    made = [
        item_of(content(), body["annex"])  # type: ignore[arg-type]
        for body in bodies
    ]
    assert digests(made[0]) == digests(made[1])


def item_of(incident: Any, annex: dict[str, Any]) -> Any:  # noqa: ANN401
    from protocol.records import make_record

    face = incident.face.model_dump(mode="json", exclude_defaults=True)
    return make_record(
        "incident.amend",
        {"incident_id": UUID, "ref": "PI-XA-2026-000001", "revision": 2, "prev": {},
         "layers": ["face", "annex"], "shared_at": at(), "face": face, "annex": annex},
    )  # fmt: skip


# --- retraction ------------------------------------------------------------------------------
def test_only_the_originator_retracts() -> None:
    found = state(SENT, received("birch", item("incident.retract"), "alder"))
    assert found.retracted is None
    assert reasons(found) == {s.NOT_ORIGINATOR}


def test_a_retraction_is_final_and_leaves_the_content_unless_the_law_forbids() -> None:
    found = state(
        SENT,
        received("alder", item("incident.retract"), "birch"),
        received("alder", SECOND, "birch"),
    )
    assert found.retracted is not None
    assert not found.erased
    assert shown(found) == "drums, weighed"


@pytest.mark.parametrize("reason", ["legal_order", "personal_data_erasure"])
def test_a_retraction_under_law_leaves_no_content_in_the_state(reason: str) -> None:
    tombstone = received("alder", item("incident.retract", reason=reason), "birch")
    found = state(*HONEST, tombstone)
    assert found.erased
    assert not (found.face.versions or found.annex.versions or found.thread or found.requests)
    assert "drums" not in repr(found)
    assert found.acks, "who had seen it stays known"


def test_of_two_retractions_the_one_under_law_counts() -> None:
    found = state(
        SENT,
        received("alder", item("incident.retract", at=at(-HOUR))),
        received("alder", item("incident.retract", reason="legal_order")),
    )
    assert found.retracted is not None
    assert found.retracted.reason == "legal_order"


# --- acknowledgements ------------------------------------------------------------------------
def test_each_recipient_has_its_highest_level_and_when_it_reached_which() -> None:
    (ack,) = state(*HONEST).acks
    assert (ack.recipient, ack.level) == (node("birch"), "actioned")
    assert ack.reached == (("opened", at()), ("actioned", at(HOUR)))


def test_an_ack_of_a_non_recipient_or_of_the_originator_is_ignored() -> None:
    found = state(SENT, received("dogwood", item("ack")), received("alder", item("ack")))
    assert found.acks == ()
    assert [each.reason for each in found.ignored] == [s.NOT_RECIPIENT] * 2


# --- follow-up -------------------------------------------------------------------------------
ASKED = received("birch", item("followup.request", to=[node("alder"), node("cedar")]), "alder")


def answered(author: str, outcome: str, *, after: int = HOUR, **fields: Any) -> Received:  # noqa: ANN401
    return received(
        author, item("followup.response", outcome=outcome, at=at(after), **fields), "birch"
    )


def test_a_request_is_open_then_interim_then_answered() -> None:
    (request,) = state(SENT, ASKED).requests
    assert request.state == "open"
    (request,) = state(SENT, ASKED, answered("alder", "interim")).requests
    assert request.state == "interim"
    (request,) = state(SENT, ASKED, answered("alder", "final")).requests
    assert request.state == "interim", "cedar has not answered"
    (request,) = state(SENT, ASKED, answered("alder", "final"),
                       answered("cedar", "redirected", agency="Customs")).requests  # fmt: skip
    assert request.state == "answered"


def test_a_request_is_overdue_at_its_due_time_and_escalates_with_each_time_that_passes() -> None:
    def escalation(ms: int) -> tuple[str, int]:
        (request,) = state(SENT, ASKED, answered("alder", "interim"), now=NOW + ms).requests
        return request.state, request.escalation

    assert escalation(DAY - 1) == ("interim", 0)
    assert escalation(DAY) == ("overdue", 1)
    assert escalation(2 * DAY) == ("overdue", 2)
    assert escalation(50 * DAY) == ("overdue", s.MAX_ESCALATION)


def test_what_is_answered_is_never_overdue_and_a_late_word_does_not_open_it_again() -> None:
    found = state(
        SENT, ASKED, answered("alder", "negative"), answered("cedar", "final"),
        answered("alder", "interim", after=2 * HOUR), now=NOW + 50 * DAY,
    )  # fmt: skip
    (request,) = found.requests
    assert (request.state, request.escalation) == ("answered", 0)
    assert [a.state for a in request.answers if a.asked == node("alder")] == ["negative"]


def test_a_response_by_one_not_asked_is_ignored() -> None:
    asked = received("birch", item("followup.request"), "alder", "cedar")
    found = state(SENT, asked, answered("cedar", "final"))
    assert reasons(found) == {s.NOT_ASKED}
    assert found.requests[0].state == "open"


def test_a_response_to_a_request_that_is_not_here_waits_for_it() -> None:
    assert reasons(state(SENT, answered("alder", "final"))) == {s.NO_REQUEST}
    assert not state(SENT, answered("alder", "final"), HONEST[5]).ignored


def test_a_request_of_a_non_holder_or_to_non_holders_alone_is_ignored() -> None:
    outside = received("birch", item("followup.request", to=[node("dogwood")]), "dogwood")
    found = state(SENT, outside, received("dogwood", item("followup.request"), "alder"))
    assert found.requests == ()
    assert reasons(found) == {s.NOBODY_ASKED, s.NOT_HOLDER}


def test_of_two_requests_under_one_id_the_earlier_counts_and_the_other_is_named() -> None:
    second = received(
        "birch", item("followup.request", question="Another?", at=at(HOUR), due=at(DAY)), "alder"
    )
    found = state(SENT, second, HONEST[5])
    assert [each.request.question for each in found.requests] == ["Who bought it?"]
    assert reasons(found) == {s.SECOND_REQUEST}


def test_only_parties_to_the_request_write_to_its_thread() -> None:
    found = state(SENT, HONEST[5], received("cedar", item("thread.message"), "alder"), HONEST[8])
    assert [each.author for each in found.thread] == [node("birch")]
    assert reasons(found) == {s.NOT_PARTY}


def test_what_is_written_about_an_incident_is_shown_at_least_as_strictly_as_the_incident() -> None:
    strict = received("alder", report(content(handling={"tlp": "RED", "hc": ["H1"]})), "birch")
    (request,) = state(strict, HONEST[5]).requests
    assert request.handling.tlp == "RED"
    assert request.handling.hc == ("H1",)


def test_default_due_times() -> None:
    friday = 1_789_689_600_000 + 8 * HOUR  # 2026-09-18
    assert default_due("immediate", friday) == friday + 4 * HOUR
    assert default_due("urgent", friday) == friday + 72 * HOUR
    assert default_due("routine", friday) == friday + 14 * DAY


def test_the_stricter_handling_is_nowhere_freer_than_either() -> None:
    one = Handling(tlp="GREEN", hc=("H1",), hc_text="not in court", pap="RED", onward="none")
    other = Handling(
        tlp="RED", hc=("H0",), onward="peers_same_handling", evidence_use="allowed",
        retain_until="2027",
    )  # fmt: skip
    both = strictest(one, other)
    assert is_at_least(both, one)
    assert is_at_least(both, other)
    assert not is_at_least(one, other)
    assert not is_at_least(other, one)
    assert (both.tlp, both.hc, both.pap, both.onward) == ("RED", ("H1",), "RED", "none")
    assert both.hc_text == "not in court"


# --- links -----------------------------------------------------------------------------------
def test_a_link_is_asserted_by_a_holder_and_makes_a_duplicate_if_the_originator_says_so() -> None:
    claimed = received("cedar", item("link.assert", kind="duplicate_of"), "alder")
    found = state(SENT, claimed)
    assert [each.author for each in found.links] == [node("cedar")]
    assert found.duplicate_of == ()
    own = received("alder", item("link.assert", kind="duplicate_of"), "birch")
    assert state(SENT, own).duplicate_of == (f"{uuid(2)}@{node('birch')}",)
    assert reasons(state(SENT, received("dogwood", item("link.assert")))) == {s.NOT_HOLDER}


# --- operations ------------------------------------------------------------------------------
def _case(number: int, author: str, value: str = "10", **face: Any) -> Received:  # noqa: ANN401
    substances = [
        {"substance_id": "safrole", "form": "liquid", "qty": {"value": value, "unit": "KGM"}}
    ]
    made = content(operation_id=uuid(60), substances=substances, **face)
    return received(author, report(made, incident_id=uuid(number)), "alder", "birch", "cedar")


def _operation() -> list[Received]:
    twin = {"links": [{"kind": "duplicate_of", "target": uuid(103)}]}
    first = _case(101, "birch", "0.1")
    amended = content(
        operation_id=uuid(60), summary="weighed",
        substances=[{"substance_id": "safrole", "form": "liquid",
                     "qty": {"value": "0.3", "unit": "KGM"}}],
    )  # fmt: skip
    return [
        received("alder", item("operation.open"), "birch", "cedar"),
        received("dogwood", item("operation.close"), "birch"),
        received("alder", item("operation.notice"), "birch", "cedar"),
        first,
        received("birch", amend(amended, first.record), "alder", "cedar"),
        _case(102, "birch"), received(
            "birch", item("incident.retract", incident_id=uuid(102)), "alder", "cedar"
        ),
        _case(103, "cedar", "0.2"), _case(104, "birch", "7", **twin), _case(105, "dogwood", "5"),
        received("dogwood", item("link.assert", kind="duplicate_of",
                 incident={"incident_id": uuid(103), "author": node("cedar")},
                 target={"incident_id": uuid(101), "author": node("birch")}), "alder"),
    ]  # fmt: skip


def _tally(records: Sequence[Received]) -> dict[str, tuple[int, tuple[Any, ...]]]:
    found = operation_state(uuid(60), node("alder"), records, now=NOW + HOUR)
    return {each.participant: (each.incidents, each.totals) for each in found.tallies}


def test_amendments_retractions_and_duplicates_are_never_counted_twice() -> None:
    found = operation_state(uuid(60), node("alder"), _operation(), now=NOW + HOUR)
    assert _tally(_operation()) == {
        node("alder"): (0, ()),
        node("birch"): (1, (("safrole", "KGM", Decimal("0.3")),)),
        node("cedar"): (1, (("safrole", "KGM", Decimal("0.2")),)),
    }
    assert found.state == "running"
    assert found.duplicates == ((uuid(104), node("birch")),)
    assert found.retracted == ((uuid(102), node("birch")),)
    assert {each.reason for each in found.ignored} == {o.NOT_CONVENOR, o.NOT_PARTICIPANT}


def test_of_two_that_call_each_other_duplicates_one_counts() -> None:
    twins = [
        _case(1, "birch", links=[{"kind": "duplicate_of", "target": uuid(2)}]),
        _case(2, "cedar", links=[{"kind": "duplicate_of", "target": uuid(1)}]),
    ]
    tally = _tally([_operation()[0], *twins])
    assert (tally[node("birch")][0], tally[node("cedar")][0]) == (1, 0)


def test_nobody_takes_two_incidents_of_others_for_one_by_naming_both() -> None:
    both = [{"kind": "duplicate_of", "target": uuid(n)} for n in (2, 3)]
    tally = _tally(
        [_operation()[0], _case(1, "birch", links=both), _case(2, "cedar"), _case(3, "birch")]
    )
    assert (tally[node("birch")][0], tally[node("cedar")][0]) == (1, 1)


def test_an_operation_is_planned_running_ended_or_closed_by_its_convenor_alone() -> None:
    opened = received("alder", item("operation.open"), "birch")
    closed = received(
        "alder",
        item("operation.close", counts=[{"participant": node("birch"), "incidents": 3}]),
        "birch",
    )

    def stage(now: int, *more: Received) -> str:
        return operation_state(uuid(60), node("alder"), [opened, *more], now=now).state

    assert stage(NOW - 1) == "planned"
    assert stage(NOW) == "running"
    assert stage(NOW + 10 * DAY) == "ended"
    assert stage(NOW, received("dogwood", item("operation.close"))) == "running"
    assert stage(NOW, closed) == "closed"
    found = operation_state(uuid(60), node("alder"), [opened, closed], now=NOW)
    assert found.differing == (node("birch"),)


# --- notified shipments ----------------------------------------------------------------------
def _shipment() -> list[Received]:
    return [
        received("alder", item("pen.notification", to=[node("birch"), node("cedar")]),
                 "birch", "cedar"),
        received("birch", item("pen.reply"), "alder"),
        received("cedar", item("pen.reply", answer="more_time", until=at(9 * DAY)), "alder"),
        received("dogwood", item("pen.reply", answer="objection", reason="no"), "alder"),
        received("alder", item("consignment.event"), "birch", "cedar"),
        received("cedar", item("consignment.event", event="missing", happened=at(0)), "alder"),
        received("dogwood", item("consignment.event", event="diverted"), "alder"),
        received("alder", item("alert.special"), "birch"),
        received("alder", item("list.update"), "birch"),
        received("alder", item("list.update", rows=[]), "cedar"),
    ]  # fmt: skip


def shipment(*numbers: int, now: int = NOW) -> o.PenState:
    records = [_shipment()[number] for number in numbers]
    return pen_state(uuid(70), node("alder"), records, now=now)


def test_a_notified_shipment_is_pending_until_all_asked_have_no_objection() -> None:
    assert shipment(0).state == "pending"
    assert shipment(0, 1).state == "pending"
    last = received("cedar", item("pen.reply", at=at(2 * HOUR)), "alder")
    found = pen_state(uuid(70), node("alder"), [*_shipment()[:3], last], now=NOW + 30 * DAY)
    assert found.state == "no_objection"


def test_a_reply_that_is_late_makes_it_overdue_and_more_time_moves_the_deadline() -> None:
    assert shipment(0, 1, now=NOW + 7 * DAY).state == "overdue"
    assert shipment(0, 1, 2, now=NOW + 8 * DAY).state == "pending"
    assert shipment(0, 1, 2, now=NOW + 9 * DAY).state == "overdue"


def test_an_objection_counts_until_its_author_takes_it_back() -> None:
    objection = received("birch", item("pen.reply", answer="objection", reason="no permit"))
    found = pen_state(uuid(70), node("alder"), [_shipment()[0], objection], now=NOW)
    assert found.state == "objected"
    later = received("birch", item("pen.reply", at=at(2 * HOUR)))
    again = [later, _shipment()[0], objection]
    assert pen_state(uuid(70), node("alder"), again, now=NOW).state == "pending"
    same_time = [_shipment()[0], objection, received("birch", item("pen.reply", at=at(HOUR)))]
    assert pen_state(uuid(70), node("alder"), same_time, now=NOW).state == "objected"


def test_only_those_asked_reply_and_only_those_told_report_events_in_their_order() -> None:
    found = shipment(*range(7))
    assert {each.reason for each in found.ignored} == {o.NOT_ASKED, o.NOT_TOLD}
    assert [each.event for each in found.events] == ["missing", "departed"]
    alone = shipment(1, 4)
    assert alone.state == "unknown"
    assert {each.reason for each in alone.ignored} == {o.NO_NOTIFICATION}


# --- alerts and lists ------------------------------------------------------------------------
def test_an_alert_holds_until_it_expires_and_is_replaced_by_its_author_alone() -> None:
    first = received("alder", item("alert.special"), "birch")
    again = received(
        "alder", item("alert.special", at=at(HOUR), expires=at(2 * HOUR), title="Over"), "birch"
    )
    other = received("birch", item("alert.special", at=at(HOUR), title="Not so"), "alder")
    assert [a.alert.title for a in active_alerts([first], now=NOW)] == ["New cover"]
    assert active_alerts([first], now=NOW + DAY) == ()
    titles = [a.alert.title for a in active_alerts([again, other, first], now=NOW)]
    assert titles == ["Over", "Not so"]
    assert active_alerts([again, first], now=NOW + 3 * HOUR) == ()


def test_a_list_counts_once_all_its_parts_are_here_and_none_contradicts_another() -> None:
    one, two = (received("alder", item("list.update", version=2, part=n, parts=2)) for n in (1, 2))
    old = received("alder", item("list.update"))
    assert list_state("substances", node("alder"), [old, one]).version == 1
    assert list_state("substances", node("alder"), [old, one]).incomplete == (2,)
    found = list_state("substances", node("alder"), [two, old, one])
    assert found.version == 2
    assert [each.part for each in found.parts] == [1, 2]
    lie = received("alder", item("list.update", version=2, part=1, parts=2, rows=[]))
    found = list_state("substances", node("alder"), [two, old, one, lie])
    assert (found.version, found.conflicts) == (1, (2,))
    assert list_state("substances", node("birch"), [old]).version is None
