"""The route that tests a peer."""

from __future__ import annotations

from typing import Final

from node.calls import Call, Deferred, known, reply, route


def _test(call: Call) -> Deferred:
    known(call.body)
    test = call.service.peer_tests.begin(call.parts["name"])
    return Deferred(lambda: None, lambda _: reply(test.row()), prepare=test.look)


ROUTES: Final = (
    route("POST", "/peers/{name}/test", "peers:admin", _test,
           "Test the way to a peer, stage by stage"),
)  # fmt: skip
