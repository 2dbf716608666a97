"""The routes that find incidents, and that show which may belong together.

What is looked for is in the body: a name must not stand in an address that servers write down.
"""

from __future__ import annotations

from http import HTTPStatus
from typing import Any, Final

from node.calls import OPERATOR, Call, Response, Route, get, known, reply, route, whole_number
from node.search import DISMISSED, OPEN
from protocol.errors import RequestError


def _search(call: Call) -> Response:
    body = dict(call.body)
    cursor = get(body, "cursor", str, None)
    limit = get(body, "limit", int, 50)
    for name in ("cursor", "limit"):
        body.pop(name, None)
    return reply(call.service.search.search(body, cursor=cursor, limit=limit))


def _candidates(call: Call) -> Response:
    return reply(
        call.service.search.candidates(
            state=call.query.get("state", OPEN),
            before=whole_number(call.query, "before", 0) or None,
            limit=whole_number(call.query, "limit", 50),
        )
    )


def _candidates_of(call: Call) -> Response:
    return reply(call.service.search.candidates_of(call.parts["id"]))


def _dismiss(call: Call) -> Response:
    known(call.body)
    return reply(call.service.search.decide(call.parts["id"], DISMISSED))


def _reopen(call: Call) -> Response:
    known(call.body)
    return reply(call.service.search.decide(call.parts["id"], OPEN))


def _preview_confirm(call: Call) -> Response:
    known(call.body)
    return reply(call.service.confirming.preview(call.parts["id"]))


def _confirm(call: Call) -> Response:
    known(call.body, "digest")
    digest = get(call.body, "digest", str, None)
    if digest is None:
        raise RequestError(
            "digest is missing", fix="POST …/confirm/preview first and repeat its digest here"
        )
    return _confirmed(call.service.confirming.confirm(call.parts["id"], digest=digest))


def _confirm_operator(call: Call) -> Response:
    known(call.body, "digest")
    digest = get(call.body, "digest", str, None)
    return _confirmed(call.service.confirming.confirm(call.parts["id"], digest=digest))


def _confirmed(row: dict[str, Any]) -> Response:
    return reply(row, HTTPStatus.CREATED if row["new"] else HTTPStatus.OK)


ROUTES: Final[tuple[Route, ...]] = (
    route("POST", "/incidents/search", "incidents:read", _search,
          "Find incidents by text and fields"),
    route("GET", "/incidents/{id}/candidates", "incidents:read", _candidates_of,
          "Incidents that may belong to one, with the reason"),
    route("GET", "/links/candidates", "incidents:read", _candidates,
          "Incidents that may belong together"),
    route("POST", "/links/candidates/{id}/dismiss", "incidents:write", _dismiss,
          "Say that two incidents do not belong together"),
    route("POST", "/links/candidates/{id}/reopen", "incidents:write", _reopen,
          "Take back that two incidents do not belong together"),
    route("POST", "/links/{id}/confirm/preview", "incidents:write", _preview_confirm,
          "Preview: confirm a link candidate"),
    route("POST", "/links/{id}/confirm", OPERATOR, _confirm_operator,
          "Confirm a link candidate, and tell those who hold both incidents"),
    route("POST", "/links/{id}/confirm", "incidents:release", _confirm,
          "Confirm a link candidate; repeats the preview's digest"),
)  # fmt: skip
