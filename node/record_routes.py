"""The routes of the life cycle of incidents: amended, retracted, followed up, acknowledged, linked.

- Each act has a preview, which says who would get the record and gives a digest. A program repeats
  that digest to release; the operator, who is asked by the command line, need not.
- ``token`` in a body names the act: sent again, nothing is released twice, and the answer says with
  ``new`` false what was released before.
- What a person typed to name something stands in the path or in a field; texts never do.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from http import HTTPStatus
from typing import Any, Final

from node.calls import (
    OPERATOR,
    Call,
    Response,
    Route,
    get,
    known,
    names,
    reply,
    route,
    whole_number,
)
from protocol.errors import RequestError

Row = dict[str, Any]
Given = tuple[Row, Sequence[str]]
"""The fields of a record as ``Recording.release`` takes them, and who is to get it besides."""
Reader = Callable[[Call, Row], Given]


# --- releasing -------------------------------------------------------------------------------
def _take(body: Row, field: str) -> str | None:
    value: str | None = get(body, field, str, None)
    body.pop(field, None)
    return value


def _created(row: Row) -> Response:
    return reply(row, HTTPStatus.CREATED if row["new"] else HTTPStatus.OK)


def _seen(digest: str | None, preview: str) -> None:
    if digest is None:
        raise RequestError(
            "digest is missing", fix=f"POST {preview} first and repeat its digest here"
        )


def _writing(path: str, kind: str, given: Reader, summary: str) -> tuple[Route, ...]:
    """Return the routes that preview and release a record of *kind*."""

    def act(call: Call, *, needs_digest: bool) -> Response:
        body = dict(call.body)
        digest, token = _take(body, "digest"), _take(body, "token")
        if needs_digest:
            _seen(digest, f"…{path}/preview")
        data, to = given(call, body)
        records = call.service.records
        return _created(records.release(kind, data, to=to, digest=digest, token=token))

    def preview(call: Call) -> Response:
        data, to = given(call, dict(call.body))
        return reply(call.service.records.preview(kind, data, to=to))

    return (
        route("POST", f"{path}/preview", "incidents:write", preview,
              f"Preview: {summary[0].lower()}{summary[1:]}"),
        route("POST", path, OPERATOR, lambda call: act(call, needs_digest=False), summary),
        route("POST", path, "incidents:release", lambda call: act(call, needs_digest=True),
              f"{summary}; repeats the preview's digest"),
    )  # fmt: skip


def _also(body: Row) -> list[str]:
    also: list[str] = names(body, "also_to", [])
    body.pop("also_to", None)
    return also


def _under(body: Row, field: str, value: str) -> Row:
    """Return *body* with what its path names."""
    if field in body:
        raise RequestError(f"{field} stands in the path", fix=f"leave {field} out of the body")
    return {**body, field: value}


# --- what is given ---------------------------------------------------------------------------
def _retract(call: Call, body: Row) -> Given:
    return _under(body, "incident", call.parts["id"]), ()


def _of_incident(call: Call, body: Row) -> Given:
    also = _also(body)
    return _under(body, "incident", call.parts["id"]), also


def _say(call: Call, body: Row) -> Given:
    also = _also(body)
    named: str | None = get(body, "request", str, None)
    service = call.service
    if named is None:
        state = service.records.state(call.parts["id"])
        body["request"] = service.follow_up.only_request(call.parts["id"], state)
    else:
        exactly, row = service.follow_up.resolve(named)
        if call.parts["id"].partition("@")[0] not in {row["incident"]["id"],
                                                      row["incident"]["ref"]}:  # fmt: skip
            raise RequestError(
                "the request is about another incident", fix="name the incident that it is about"
            )
        body["request"] = exactly
    return body, also


def _ask(_: Call, body: Row) -> Given:
    return body, _also(body)


def _respond(call: Call, body: Row) -> Given:
    also = _also(body)
    exactly, _ = call.service.follow_up.resolve(call.parts["id"])
    return _under(body, "request", exactly), also


def _broadcast(_: Call, body: Row) -> Given:
    to: list[str] = names(body, "to")
    body.pop("to")
    return body, to


def _operation(call: Call, body: Row) -> Given:
    exactly = call.service.views.resolve("operation.open", call.parts["id"])
    return _under(body, "operation", exactly), ()


def _pen(call: Call, body: Row) -> Given:
    also = _also(body)
    exactly = call.service.views.resolve("pen.notification", call.parts["id"])
    return _under(body, "pen", exactly), also


# --- amending --------------------------------------------------------------------------------
def _amendable(call: Call) -> Response:
    key = call.parts["id"]
    row = call.service.records.draft_amend(key)
    # It hands out all that the incident says.
    call.service.views.state(key, who=call.who)
    return reply(row)


def _amendment(call: Call) -> Row:
    body = call.body
    return {
        "data": get(body, "incident", dict), "note": get(body, "note", str, None),
        "also_to": names(body, "also_to", []),
        "annex_also_to": names(body, "annex_also_to", []),
        "without": names(body, "without", []),
    }  # fmt: skip


_AMENDMENT: Final = ("incident", "note", "also_to", "annex_also_to", "without")


def _preview_amend(call: Call) -> Response:
    known(call.body, *_AMENDMENT)
    return reply(call.service.records.preview_amend(call.parts["id"], **_amendment(call)))


def _amend(call: Call, *, needs_digest: bool = True) -> Response:
    known(call.body, *_AMENDMENT, "digest", "token")
    digest = get(call.body, "digest", str, None)
    if needs_digest:
        _seen(digest, "…/amend/preview")
    return _created(
        call.service.records.release_amend(
            call.parts["id"], **_amendment(call), digest=digest,
            token=get(call.body, "token", str, None),
        )
    )  # fmt: skip


def _amend_operator(call: Call) -> Response:
    return _amend(call, needs_digest=False)


# --- reading ---------------------------------------------------------------------------------
def _state(call: Call) -> Response:
    return reply(call.service.views.state(call.parts["id"], who=call.who))


def _history(call: Call) -> Response:
    return reply(call.service.views.history(call.parts["id"], who=call.who))


def _thread(call: Call) -> Response:
    return reply(call.service.views.thread(call.parts["id"], who=call.who))


def _board(call: Call) -> Response:
    known(call.query, "limit")
    return reply(call.service.board.board(limit=whole_number(call.query, "limit", 50)))


def _figures(call: Call) -> Response:
    known(call.query, "since", "by_authority")
    named = call.query.get("by_authority", "no")
    if named not in {"yes", "no"}:
        raise RequestError("by_authority is neither yes nor no", fix="leave it out, or send yes")
    return reply(
        call.service.figures.figures(since=call.query.get("since", ""), by_authority=named == "yes")
    )


def _requests(call: Call) -> Response:
    known(call.query, "state", "side", "after", "limit")
    return reply(
        call.service.follow_up.requests(
            state=call.query.get("state", "open"), side=call.query.get("side"),
            after=whole_number(call.query, "after", 0),
            limit=whole_number(call.query, "limit", 100),
        )
    )  # fmt: skip


def _request(call: Call) -> Response:
    return reply(call.service.follow_up.request(call.parts["id"], who=call.who))


def _alerts(call: Call) -> Response:
    return reply(call.service.views.alerts())


def _alert(call: Call) -> Response:
    return reply(call.service.views.alert(call.parts["id"]))


def _read_alert(call: Call) -> Response:
    known(call.body)
    return reply(call.service.views.mark_read(call.parts["id"]))


def _operations(call: Call) -> Response:
    return reply(call.service.views.operations())


def _one_operation(call: Call) -> Response:
    return reply(call.service.views.operation(call.parts["id"]))


def _tally(call: Call) -> Response:
    return reply(call.service.views.tally(call.parts["id"]))


def _tag(call: Call) -> Response:
    known(call.body, "operation")
    return reply(call.service.views.tag(call.parts["id"], get(call.body, "operation", str, None)))


def _shipments(call: Call) -> Response:
    return reply(call.service.views.shipments())


def _shipment(call: Call) -> Response:
    return reply(call.service.views.shipment(call.parts["id"], who=call.who))


ROUTES: Final = (
    # Before those of one incident, which would take it for an id.
    route("GET", "/board", "incidents:read", _board,
          "What was not received, acknowledged or answered, and by whom"),
    route("GET", "/figures", "incidents:read", _figures,
          "How complete and how quick reports are, over the newest incidents"),
    route("GET", "/incidents/{id}/state", "incidents:read", _state,
          "What an incident has come to: revisions, acknowledgements, requests, links"),
    route("GET", "/incidents/{id}/history", "incidents:read", _history,
          "The revisions of an incident, and what each changed"),
    route("GET", "/incidents/{id}/thread", "incidents:read", _thread,
          "What was asked, answered and said about an incident"),
    route("GET", "/incidents/{id}/amend", "incidents:write", _amendable,
          "An incident of this node as it stands, to be changed"),
    route("POST", "/incidents/{id}/amend/preview", "incidents:write", _preview_amend,
          "What an amendment would change, and who would get it"),
    route("POST", "/incidents/{id}/amend", OPERATOR, _amend_operator, "Release an amendment"),
    route("POST", "/incidents/{id}/amend", "incidents:release", _amend,
          "Release an amendment; repeats the preview's digest"),
    *_writing("/incidents/{id}/retract", "incident.retract", _retract, "Retract an incident"),
    *_writing("/incidents/{id}/acks", "ack", _of_incident,
              "Tell how far this node has got with an incident"),
    *_writing("/incidents/{id}/thread", "thread.message", _say,
              "Write to the parties of a request"),
    *_writing("/incidents/{id}/links", "link.assert", _of_incident,
              "Say that two incidents belong together"),
    route("POST", "/incidents/{id}/operation", "incidents:write", _tag,
          "Let a draft belong to an operation"),
    route("GET", "/followups", "incidents:read", _requests, "Follow-up requests"),
    route("GET", "/followups/{id}", "incidents:read", _request,
          "One request, with its answers and messages"),
    *_writing("/followups", "followup.request", _ask, "Ask holders of an incident"),
    *_writing("/followups/{id}/responses", "followup.response", _respond, "Answer a request"),
    route("GET", "/alerts", "incidents:read", _alerts, "Alerts that hold now"),
    route("GET", "/alerts/{id}", "incidents:read", _alert, "One alert"),
    route("POST", "/alerts/{id}/read", "incidents:write", _read_alert,
          "Note that an alert was read here"),
    *_writing("/alerts", "alert.special", _broadcast, "Send an alert"),
    *_writing("/list-updates", "list.update", _broadcast, "Propose a version of a reference list"),
    route("GET", "/operations", "incidents:read", _operations, "Operations"),
    route("GET", "/operations/{id}", "incidents:read", _one_operation, "One operation"),
    route("GET", "/operations/{id}/tally", "incidents:read", _tally,
          "What each participant brought, counted here"),
    *_writing("/operations", "operation.open", _ask, "Open an operation"),
    *_writing("/operations/{id}/notices", "operation.notice", _operation,
              "Inform those who take part in an operation"),
    *_writing("/operations/{id}/close", "operation.close", _operation,
              "Close an operation, with its tally"),
    route("GET", "/shipments", "incidents:read", _shipments, "Shipments notified before export"),
    route("GET", "/shipments/{id}", "incidents:read", _shipment, "One notified shipment"),
    *_writing("/shipments", "pen.notification", _ask, "Notify a shipment before its export"),
    *_writing("/shipments/{id}/replies", "pen.reply", _pen, "Reply to a notified shipment"),
    *_writing("/shipments/{id}/events", "consignment.event", _pen,
              "Tell what happened to a notified shipment"),
)  # fmt: skip
