"""What a log proves of an incident, and what a stopped node still has in its encrypted case.db."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from typing import Final

from node.app import open_service
from protocol import merkle
from protocol.checkpoint import verify_checkpoint
from protocol.entry import Entry, parse_entry
from tests.net.harness import Node

_TABLES: Final = (
    "SELECT name FROM sqlite_schema WHERE type = 'table' AND sql NOT LIKE 'CREATE VIRTUAL%'"
)


def proven(node: Node, incident_id: str, number: int = 0) -> Entry:
    """Return the log entry of an envelope of an incident, once its proof has verified."""
    path = f"/api/v1/incidents/{incident_id}/proof?envelope={number}"
    found = node.ask("GET", path)
    card = node.chain().card
    assert card is not None
    checkpoint = verify_checkpoint(
        found["checkpoint"].encode(), origin=card.log.name, ed25519=card.log.ed25519,
        mldsa44=card.log.mldsa44,
    )  # fmt: skip
    raw = bytes.fromhex(found["entry"])
    merkle.verify_inclusion(
        index=found["index"], size=checkpoint.size, leaf=merkle.leaf_hash(raw),
        proof=tuple(map(base64.b64decode, found["proof"])), root=checkpoint.root,
    )  # fmt: skip
    entry = parse_entry(raw)
    assert entry.subject == bytes.fromhex(found["envelope_id"])
    return entry


def case_dump(node: Node) -> bytes:
    """Return all values of all tables of case.db, the search index among them."""
    with open_service(node.home.path) as service:
        _, cases = service.core.opened()
        query = cases.database.query
        # What a virtual table holds stands in the ordinary ones behind it.
        tables = [row["name"] for row in query(_TABLES)]
        return b"\n".join(
            value for name in tables for row in query(f'SELECT * FROM "{name}"')
            for value in _values(row)
        )  # fmt: skip


def _values(row: dict[str, object]) -> Iterator[bytes]:
    for value in row.values():
        yield value if isinstance(value, bytes) else str(value).encode()
