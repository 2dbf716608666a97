"""Routes about this node's own keys: renewing them, and what a lost one has opened."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from node.calls import OPERATOR, Call, Response, get, known, reply, route

_LOST: Final = ("key", "since", "until")


def _rotate_message(call: Call) -> Response:
    known(call.body)
    return reply(call.service.keys.rotate_message())


def _rotate_tls(call: Call) -> Response:
    known(call.body, "now")
    return reply(call.service.keys.rotate_tls(at_once=get(call.body, "now", bool, False)))


def _lost(given: Mapping[str, Any]) -> dict[str, str]:
    return {name: get(given, name, str, "") for name in _LOST}


def _exposed(call: Call) -> Response:
    known(call.query, *_LOST)
    return reply(call.service.keys.exposed(**_lost(call.query)))


def _tell_exposed(call: Call) -> Response:
    known(call.body, *_LOST)
    return reply(call.service.keys.tell_exposed(**_lost(call.body)))


def _exposures(call: Call) -> Response:
    return reply(call.service.keys.exposures())


ROUTES: Final = (
    route("POST", "/keys/rotate-message", OPERATOR, _rotate_message, "Make a new message key"),
    route("POST", "/keys/rotate-tls", OPERATOR, _rotate_tls, "Make a new certificate for links"),
    route("GET", "/keys/exposed", OPERATOR, _exposed, "What lost sealing keys have opened"),
    route("POST", "/keys/exposed", OPERATOR, _tell_exposed,
           "Replace lost sealing keys, and tell those who sealed to them"),
    route("GET", "/keys/exposures", OPERATOR, _exposures, "What was told of lost keys"),
)  # fmt: skip
