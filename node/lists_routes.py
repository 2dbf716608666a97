"""Routes about reference lists."""

from __future__ import annotations

from typing import Final

from node.calls import OPERATOR, Call, Response, get, known, reply, route, whole_number

_PAGE: Final = 50


def _lists(call: Call) -> Response:
    known(call.query)
    return reply(call.service.lists.lists())


def _rows(call: Call) -> Response:
    known(call.query, "q", "on", "after", "limit")
    return reply(
        call.service.lists.rows(
            call.parts["name"], text=call.query.get("q", ""), on=call.query.get("on", ""),
            after=whole_number(call.query, "after", 0),
            limit=whole_number(call.query, "limit", _PAGE),
        )
    )  # fmt: skip


def _take(call: Call) -> Response:
    known(call.body, "version", "source", "rows")
    return reply(
        call.service.lists.take(
            call.parts["name"], version=get(call.body, "version", str),
            source=get(call.body, "source", str), rows=get(call.body, "rows", list),
        )
    )  # fmt: skip


def _remove(call: Call) -> Response:
    return reply(call.service.lists.remove(call.parts["name"]))


def _proposals(call: Call) -> Response:
    known(call.query)
    return reply(call.service.list_updates.proposals())


def _proposal(call: Call) -> Response:
    return reply(call.service.list_updates.proposal(call.parts["id"]))


def _accept(call: Call) -> Response:
    known(call.body)
    return reply(call.service.list_updates.accept(call.parts["id"]))


def _ignore(call: Call) -> Response:
    known(call.body)
    return reply(call.service.list_updates.ignore(call.parts["id"]))


ROUTES: Final = (
    route("GET", "/list-updates", "incidents:read", _proposals,
          "Versions of reference lists that peers propose"),
    route("GET", "/list-updates/{id}", "incidents:read", _proposal,
          "One proposed version, and what it changes"),
    route("POST", "/list-updates/{id}/accept", OPERATOR, _accept, "Take a proposed version"),
    route("POST", "/list-updates/{id}/ignore", OPERATOR, _ignore,
          "Show a proposed version no more"),
    route("GET", "/lists", "incidents:read", _lists, "Reference lists and their versions"),
    route("GET", "/lists/{name}", "incidents:read", _rows, "Rows of a reference list"),
    route("PUT", "/imported-lists/{name}", OPERATOR, _take, "Import a list of one's own"),
    route("DELETE", "/imported-lists/{name}", OPERATOR, _remove, "Delete an imported list"),
)  # fmt: skip
