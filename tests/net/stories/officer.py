"""What officers do in the stories, each act by a call of their own node."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tests.net.harness import Node, Row


def _post(node: Node, path: str, body: Mapping[str, object]) -> Row:
    row: Row = node.ask("POST", f"/api/v1{path}", body)
    return row


def amend(node: Node, incident_id: str, value: Mapping[str, Any], **options: object) -> Row:
    """Release a whole new revision of an incident."""
    return _post(node, f"/incidents/{incident_id}/amend", {"incident": dict(value), **options})


def retract(node: Node, incident_id: str, reason: str) -> Row:
    """Retract an incident."""
    return _post(node, f"/incidents/{incident_id}/retract", {"reason": reason})


def acknowledge(node: Node, incident_id: str, level: str, **options: object) -> Row:
    """Tell how far the node has got with an incident."""
    return _post(node, f"/incidents/{incident_id}/acks", {"level": level, **options})


def ask(node: Node, incident_id: str, *to: str, **fields: object) -> str:
    """Ask holders of an incident; return the id of the request."""
    return str(_post(node, "/followups", {"incident": incident_id, "to": list(to), **fields})["id"])


def respond(node: Node, request_id: str, outcome: str, **fields: object) -> Row:
    """Answer a request."""
    return _post(node, f"/followups/{request_id}/responses", {"outcome": outcome, **fields})


def say(node: Node, incident_id: str, text: str) -> Row:
    """Write to the parties of the one request about an incident."""
    return _post(node, f"/incidents/{incident_id}/thread", {"text": text})


def state(node: Node, incident_id: str) -> Row:
    """Return what an incident has come to at *node*."""
    row: Row = node.ask("GET", f"/api/v1/incidents/{incident_id}/state")
    return row


def changes(node: Node) -> list[Row]:
    """Return all changes that a node knows of, in the order of its log."""
    page = node.ask("GET", "/api/v1/changes?limit=500")
    assert not page["more"]
    items: list[Row] = page["items"]
    return items
