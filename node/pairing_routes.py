"""Routes about nodes that ask to be added, and introductions."""

from __future__ import annotations

from typing import Final

from node.calls import Call, Response, get, known, reply, route


def _callers(call: Call) -> Response:
    return reply(call.service.pairing.callers())


def _accept(call: Call) -> Response:
    known(call.body, "name")
    pairing = call.service.pairing
    return reply(pairing.accept(call.parts["caller"], get(call.body, "name", str, None)))


def _ignore(call: Call) -> Response:
    known(call.body)
    return reply(call.service.pairing.ignore(call.parts["caller"]))


def _later(call: Call) -> Response:
    known(call.body)
    return reply(call.service.pairing.later(call.parts["caller"]))


def _last(call: Call) -> Response:
    return reply(call.service.pairing.last())


def _undo(call: Call) -> Response:
    known(call.body, "act")
    return reply(call.service.pairing.undo(get(call.body, "act", str)))


def _introduce(call: Call) -> Response:
    known(call.body, "to")
    return reply(call.service.pairing.introduce(call.parts["name"], get(call.body, "to", str)))


def _introduced(call: Call) -> Response:
    known(call.body, "introduction")
    return reply(call.service.pairing.take_introduction(get(call.body, "introduction", str)))


ROUTES: Final = (
    route("GET", "/callers", "peers:read", _callers, "Nodes that ask to be added"),
    route("GET", "/callers/undo", "peers:read", _last, "What undoing would take back"),
    route("POST", "/callers/undo", "peers:admin", _undo, "Take back the last act of pairing"),
    route("POST", "/callers/{caller}/accept", "peers:admin", _accept,
           "Pin a node that asks to be added"),
    route("POST", "/callers/{caller}/ignore", "peers:admin", _ignore,
           "Forget a node that asks, and do not show it again"),
    route("POST", "/callers/{caller}/later", "peers:admin", _later,
           "Show a node that asks again in a day"),
    route("POST", "/peers/{name}/introduction", "peers:admin", _introduce,
           "Introduce a peer to another one"),
    route("POST", "/introductions", "peers:admin", _introduced,
           "Let a node wait that a peer introduces"),
)  # fmt: skip
