"""What was ever seen here of a peer's log: heads that it signed, and leaves under its receipts.

Each belongs to the name that the log had then: a node that begins a new log goes on with a part of
the tree of the old one.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from keys.trust import Peer
from node.receipts import log_keys
from node.store import Store
from protocol import merkle
from protocol.checkpoint import Checkpoint, parse_body
from protocol.errors import LogCorruptionError, PeerError
from protocol.frames import Receipts, Runs, decode_frame
from protocol.note import parse_note
from protocol.receipt import run_entries, verify_receipts, verify_runs


@dataclass
class Seen:
    """What was seen under one name of a log."""

    heads: dict[int, set[bytes]] = field(default_factory=dict)
    """Roots, by size."""
    leaves: dict[int, set[bytes]] = field(default_factory=dict)
    """Leaf hashes that receipts were given for, by index."""
    floor: int = 0
    """The largest head that was not seen just now."""

    def saw(self, checkpoint: Checkpoint) -> None:
        """Take a head."""
        if checkpoint.size:
            self.heads.setdefault(checkpoint.size, set()).add(checkpoint.root)


def names_of(peer: Peer, store: Store) -> tuple[str, ...]:
    """Return all names that the log of *peer* is known to have had, the present one last."""
    cosigned = store.rows(
        "SELECT origin FROM witnessed WHERE node_id = ? ORDER BY at", peer.node_id
    )
    older = [log.name for log in reversed(log_keys(peer))] + [row["origin"] for row in cosigned]
    names = dict.fromkeys(name for name in older if name != peer.card.log.name)
    return (*names, peer.card.log.name)


def remember(peer: Peer, store: Store, *, before: int) -> dict[str, Seen]:
    """Return what was seen of the log of *peer*, by the name that it had.

    Args:
        peer: whose log.
        store: node.db.
        before: UTC in ms; heads that came later may be too new for the head that it shows now.

    Raises:
        LogCorruptionError: a stored receipt does not verify.
    """
    seen = {name: Seen() for name in names_of(peer, store)}
    for row in store.rows("SELECT * FROM witnessed WHERE node_id = ?", peer.node_id):
        seen[row["origin"]].saw(Checkpoint(row["origin"], row["size"], row["root"]))
        seen[row["origin"]].floor = row["size"]
    keys = {log.name: log for log in reversed(log_keys(peer))}
    for frame in _frames(peer, store):
        checkpoint = parse_body(parse_note(frame.checkpoint).text)
        if (log := keys.get(checkpoint.origin)) is None:
            continue  # no card that is still held names it
        try:
            if isinstance(frame, Runs):
                verify_runs(frame, log=log)
            else:
                verify_receipts(frame, log=log)
        except PeerError as error:
            raise LogCorruptionError(f"a stored receipt does not verify: {error}") from None
        seen[log.name].saw(checkpoint)
        for index, leaf in _leaves(frame):
            seen[log.name].leaves.setdefault(index, set()).add(leaf)
    for row in store.rows(
        "SELECT size, root, note, at FROM peer_heads WHERE node_id = ?1 AND source = ?1",
        peer.node_id,
    ):
        name = _name_of(row["note"], peer, sole=len(seen) == 1)
        if name not in seen:
            continue
        seen[name].saw(Checkpoint(name, row["size"], row["root"]))
        if row["at"] < before:
            seen[name].floor = max(seen[name].floor, row["size"])
    return seen


def _name_of(note: bytes | None, peer: Peer, *, sole: bool) -> str:
    """Return which log signed a head that waits; empty if that cannot be told.

    One without a note came under a receipt, and is compared with that.
    """
    if note is not None:
        return parse_body(parse_note(note).text).origin
    return peer.card.log.name if sole else ""


def _frames(peer: Peer, store: Store) -> Iterator[Receipts | Runs]:
    for row in store.rows(
        "SELECT DISTINCT coalesce(r.frame, l.frame) AS frame FROM receipts r "
        "LEFT JOIN receipt_lots l ON l.id = r.lot WHERE r.recipient = ?",
        peer.node_id,
    ):
        frame = decode_frame(row["frame"])
        if isinstance(frame, Receipts | Runs):
            yield frame


def _leaves(frame: Receipts | Runs) -> Iterator[tuple[int, bytes]]:
    """Yield index and leaf hash of each receipt of *frame*, which was verified."""
    if isinstance(frame, Receipts):
        for item in frame.items:
            yield item.index, merkle.leaf_hash(item.entry)
        return
    for run in frame.runs:
        for index, entry in enumerate(run_entries(run), run.first):
            yield index, merkle.leaf_hash(entry)
