"""Obligations, permissions, retention and changes at the local endpoint."""

from __future__ import annotations

from http import HTTPStatus
from typing import Final

from node.calls import OPERATOR, Call, Response, get, known, reply, route, whole_number
from node.obligations import rendered, sheet_of
from protocol.errors import RequestError

_TYPES: Final = {
    "text": "text/plain; charset=utf-8",
    "csv": "text/csv; charset=utf-8; header=present",
    "xlsx": "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet",
}


def _form(call: Call) -> str:
    form = call.query.get("format", "json")
    if form not in {"json", *_TYPES}:
        raise RequestError(
            f"{form!r} is no form of a sheet", fix=f"choose one of json, {', '.join(_TYPES)}"
        )
    return form


def _flag(call: Call, name: str) -> bool:
    return call.query.get(name) == "true"


def _sheet(call: Call, row: dict[str, object]) -> Response:
    form = _form(call)
    if form == "json":
        return reply(row)
    data = rendered(sheet_of(row), form, bom=_flag(call, "bom"))
    return Response(HTTPStatus.OK.value, data, _TYPES[form])


def _pics(call: Call) -> Response:
    _form(call)  # before anything is logged
    row = call.service.obligations.pics(
        who=call.who, by=call.query.get("by", ""), persons=_flag(call, "persons")
    )
    return _sheet(call, row)


def _form_d(call: Call) -> Response:
    leaves = _form(call) != "json" or _flag(call, "leaves")
    row = call.service.obligations.form_d(
        whole_number(call.query, "year", 0), who=call.who, by=call.query.get("by", ""),
        of=call.query.get("of"), leaves=leaves,
    )  # fmt: skip
    return _sheet(call, row)


def _incb(call: Call) -> Response:
    return reply(call.service.obligations.incb())


def _sent(call: Call) -> Response:
    known(call.body, "pics_ref", "by", "replace")
    return reply(
        call.service.obligations.sent(
            call.parts["id"], pics_ref=get(call.body, "pics_ref", str),
            by=get(call.body, "by", str), replace=get(call.body, "replace", bool, False),
        )
    )  # fmt: skip


def _permit(call: Call) -> Response:
    known(call.body, "basis", "by", "note")
    row = call.service.permit(
        call.parts["id"], basis=get(call.body, "basis", str), by=get(call.body, "by", str),
        note=get(call.body, "note", str), who=call.who,
    )  # fmt: skip
    return reply(row, HTTPStatus.CREATED)


def _changes(call: Call) -> Response:
    return reply(
        call.service.feed.changes(
            after=whole_number(call.query, "after", 0), limit=whole_number(call.query, "limit", 100)
        )
    )


def _retention(call: Call) -> Response:
    return reply(call.service.retention.due())


def _retain(call: Call) -> Response:
    known(call.body)
    return reply(call.service.retention.run(who=call.who))


ROUTES: Final = (
    route("GET", "/obligations/pics", OPERATOR, _pics, "Incidents to be entered into PICS"),
    route("GET", "/obligations/form-d", OPERATOR, _form_d, "Totals for Form D of a year"),
    route("GET", "/obligations/incb", "incidents:read", _incb, "Copies for the Board"),
    route("POST", "/incidents/{id}/pics", OPERATOR, _sent, "Note an entry made in PICS"),
    route("POST", "/incidents/{id}/permissions", OPERATOR, _permit,
          "Note a permission to hand an incident on"),
    route("GET", "/changes", "incidents:read", _changes, "Changes of incidents, with a cursor"),
    route("GET", "/retention", "incidents:read", _retention, "Incidents whose time to keep ends"),
    route("POST", "/retention/run", OPERATOR, _retain, "Apply retention now"),
)  # fmt: skip
