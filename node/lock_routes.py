"""The route by which an operator locks a node."""

from __future__ import annotations

from typing import Final

from node.calls import OPERATOR, Call, Response, known, reply, route
from node.locking import By


def _lock(call: Call) -> Response:
    known(call.body)
    locking = call.service.core.locking
    kept = locking.lock(By.OPERATOR)
    return reply({"locked": True, **(locking.row() or {}), "kept": kept})


ROUTES: Final = (route("POST", "/lock", OPERATOR, _lock, "Forget the keys at once"),)
