"""Routes about approvals by several operators, and about who these operators are."""

from __future__ import annotations

from typing import Final

from node.calls import OPERATOR, Call, Response, get, known, reply, route, whole_number
from node.keydesk import parse_typed_code


def _requests(call: Call) -> Response:
    return reply(call.service.approvals.requests())


def _history(call: Call) -> Response:
    return reply(call.service.approvals.history(whole_number(call.query, "limit", 100)))


def _request(call: Call) -> Response:
    return reply(call.service.approvals.request(call.parts["digest"]))


def _vote(call: Call) -> Response:
    known(call.body, "vote")
    vote = get(call.body, "vote", str)
    return reply(call.service.approvals.vote(call.parts["digest"], vote, who=call.who))


def _operators(call: Call) -> Response:
    return reply(call.service.approvals.operators())


def _set_operators(call: Call) -> Response:
    known(call.body, "required", "operators")
    return reply(
        call.service.approvals.set_operators(
            required=get(call.body, "required", int),
            lines=get(call.body, "operators", str),
            who=call.who,
        )
    )


def _reset_operators(call: Call) -> Response:
    known(call.body, "required", "operators", "code")
    return reply(
        call.service.approvals.reset_operators(
            parse_typed_code(get(call.body, "code", str)),
            required=get(call.body, "required", int),
            lines=get(call.body, "operators", str),
            who=call.who,
        )
    )


ROUTES: Final = (
    route("GET", "/approvals", OPERATOR, _requests, "What waits for approvals"),
    route("GET", "/approvals/history", OPERATOR, _history,
           "What was asked, approved, done and refused, the newest first"),
    route("GET", "/approvals/{digest}", OPERATOR, _request, "One request, as it is signed"),
    route("POST", "/approvals/{digest}/votes", OPERATOR, _vote,
           "Take the signed vote of an operator"),
    route("GET", "/operators", OPERATOR, _operators, "Who may approve, and how many must"),
    route("POST", "/operators", OPERATOR, _set_operators, "Say who may approve, and how many must"),
    route("POST", "/operators/reset", OPERATOR, _reset_operators,
           "Say so by the recovery code on paper"),
)  # fmt: skip
