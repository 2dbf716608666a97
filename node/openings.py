"""The entries with which a node began new logs, opened for its peers.

    openings = [[index, entry, local, local blind], ...]

What stands in them is on cards and in checkpoints already, but for how many entries of the old log
the new one kept. With that a peer can hold what the old log signed against the new one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from node.store import Store
from protocol import limits, suite
from protocol.canonical import Value, decode, encode
from protocol.entry import BLIND_SIZE, EntryKind, local_digest, parse_entry
from protocol.errors import DigestError
from protocol.shape import array, octets, text, uint

OPENED: Final = "opened"
"""The path by which a peer asks for them; no tile has it."""
_FIRST: Final = encode([])
"""What the first log of a node says of a log before it: nothing."""


@dataclass(frozen=True, slots=True)
class Opening:
    """An entry that began a log: after which one, and with how many entries of that."""

    index: int
    entry: bytes
    local: bytes
    old: str

    @property
    def kept(self) -> int:
        """How many entries the new log begins with: this one is the next."""
        return self.index

    def opens(self, origin: str) -> bool:
        """Whether it began the log called *origin*."""
        return parse_entry(self.entry).subject == suite.digest(
            "log-opened", origin.encode(), self.local
        )


def own_openings(store: Store) -> bytes:
    """Return those of this node, the newest if there are too many."""
    rows = store.rows(
        "SELECT idx, entry, local, local_blind FROM entries WHERE kind = ? AND local != ? "
        "ORDER BY idx DESC LIMIT ?",
        int(EntryKind.LOG_OPENED), _FIRST, limits.MAX_LOG_OPENINGS,
    )  # fmt: skip
    return encode(
        [[row["idx"], row["entry"], row["local"], row["local_blind"]] for row in reversed(rows)]
    )


def parse_openings(data: bytes) -> tuple[Opening, ...]:
    """Return the openings in *data*; whether they stand in a log shows only its tree.

    Raises:
        DecodeError: they have another form.
        DigestError: one is no such entry, or does not say what its entry commits to.
    """
    value = decode(data, max_bytes=limits.MAX_LOG_PART)
    items = array(value, "openings", maximum=limits.MAX_LOG_OPENINGS)
    found = tuple(_opening(array(item, "opening", size=4)) for item in items)
    indexes = [each.index for each in found]
    if indexes != sorted(set(indexes)):
        raise DigestError("the entries that began logs are not in the order of the log")
    return found


def _opening(fields: Sequence[Value]) -> Opening:
    index = uint(fields[0], "opening.index", maximum=limits.MAX_LOG_SIZE)
    entry = octets(fields[1], "opening.entry", maximum=limits.MAX_ENTRY)
    local = octets(fields[2], "opening.local", maximum=limits.MAX_HEADER)
    blind = octets(fields[3], "opening.local_blind", size=BLIND_SIZE)
    parsed = parse_entry(entry)
    if parsed.kind is not EntryKind.LOG_OPENED or local_digest(local, blind) != parsed.local_digest:
        raise DigestError(f"entry {index} does not begin a log, or says something else")
    said = array(decode(local, max_bytes=limits.MAX_HEADER), "opening.local", size=4)
    if uint(said[3], "opening.kept", maximum=limits.MAX_LOG_SIZE) != index:
        raise DigestError(f"entry {index} is not the first after those that the new log kept")
    return Opening(
        index, entry, local, text(said[0], "opening.origin", maximum=limits.MAX_NOTE_NAME)
    )
