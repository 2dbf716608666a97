"""Small logs for tests: a node with one entry, a way to let its log grow, its routes."""

from __future__ import annotations

import secrets
from pathlib import Path

from node.api import dispatch
from node.app import initialise
from node.calls import Request, Response
from node.log import Act
from node.service import Service
from protocol.entry import EntryKind

_PAGE = 5_000


def make_home(path: Path, authority: str = "Alder") -> Path:
    """Make a node whose log has the one entry that opens it."""
    values = {"node.authority": authority, "node.country": "XA", "node.network": "test.example",
              "node.contact": "duty desk", "peer.listen": "127.0.0.1:0",
              "http.listen": "127.0.0.1:0"}  # fmt: skip
    initialise(path, values, b"correct horse battery")
    return path


def grow(service: Service, size: int) -> None:
    """Let the log have *size* entries."""
    log = service.core.log
    while (missing := size - log.size) > 0:
        with service.core.logged():
            log.append(
                [
                    Act(EntryKind.HEARTBEAT, secrets.token_bytes(32))
                    for _ in range(min(missing, _PAGE))
                ]
            )
    assert log.size == size


def ask(
    service: Service, method: str, path: str, body: bytes = b"", token: str | None = None
) -> Response:
    """Call a route as the program with *token*, or as the operator."""
    return dispatch(
        service, Request(method, path, {}, body, token, operator=token is None, request_id="r1")
    )
