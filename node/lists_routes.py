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


ROUTES: Final = (
    route("GET", "/lists", "incidents:read", _lists, "Reference lists and their versions"),
    route("GET", "/lists/{name}", "incidents:read", _rows, "Rows of a reference list"),
    route("PUT", "/imported-lists/{name}", OPERATOR, _take, "Import a list of one's own"),
    route("DELETE", "/imported-lists/{name}", OPERATOR, _remove, "Delete an imported list"),
)  # fmt: skip
