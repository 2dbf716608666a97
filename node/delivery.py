"""Delivery statements of this node: gather the facts from the databases, sign them, show a check.

Pure reading. Nothing here needs the keystore, so a locked node makes statements too.
"""

from __future__ import annotations

from typing import Any, Final

from keys.fingerprint import format_node_id
from keys.trust import Peer
from node.clock import rfc3339
from node.core import Core
from node.outbox import Route
from node.presence import Presence, Span
from protocol import delivery_statement, limits
from protocol.delivery_statement import (
    Delivered,
    DeliveryStatement,
    Evidence,
    Item,
    Owed,
    Report,
    Unreachable,
)
from protocol.entry import EntryKind
from protocol.envelope import Audience
from protocol.errors import ConflictError, LogCorruptionError, NotFoundError, PeerError
from protocol.fork import SignedHeader
from protocol.frames import encode_frame

_HEX: Final = 64
Row = dict[str, Any]


def parse_envelope_id(text: str) -> bytes | None:
    """Return the envelope id that *text* is in hexadecimal, or None if it is none."""
    try:
        return bytes.fromhex(text) if len(text) == _HEX else None
    except ValueError:
        return None


def make(
    core: Core,
    presence: Presence,
    envelope_id: bytes,
    *,
    now: int,
    window: int = limits.REACHABLE_WINDOW_MS,
) -> bytes:
    """Return the signed delivery statement of an envelope that this node released.

    The link key signs: it is the one hybrid key that signs under labels and that a locked node has.
    The log keys sign nothing but C2SP notes, which other people's tools check.

    Raises:
        NotFoundError: the envelope is not held.
        ConflictError: it is another node's, or what was linked then is not known any more.
        LogCorruptionError: a stored receipt or card is damaged or missing.
        LimitError: the statement is too long.
    """
    statement, evidence = gather(core, presence, envelope_id, now=now, window=window)
    return delivery_statement.make_statement(statement, evidence, signer=core.keys.link)


def gather(
    core: Core,
    presence: Presence,
    envelope_id: bytes,
    *,
    now: int,
    window: int = limits.REACHABLE_WINDOW_MS,
) -> tuple[DeliveryStatement, Evidence]:
    """Return what this node knows of the delivery of an envelope that it released, unsigned.

    Raises:
        NotFoundError: the envelope is not held.
        ConflictError: it is another node's, or what was linked then is not known any more.
        LogCorruptionError: a stored receipt or card is damaged or missing.
    """
    held, audience = _released(core, envelope_id, now)
    peers = [_peer(core, node_id) for node_id in audience.recipient_ids]
    facts = _Facts(core, presence, held, now=now, window=window)
    statement = DeliveryStatement(
        network=held.header.network,
        author=core.node_id,
        envelope_id=envelope_id,
        released=held.header.created,
        window=window,
        made=now,
        items=tuple(facts.item(peer) for peer in peers),
    )
    evidence = Evidence(
        header=held.header_bytes,
        signature=held.signature,
        audience=audience.encode(),
        author=delivery_statement.author_bundle(core.trust.own, card_n=held.header.card_n),
        recipients=tuple(
            delivery_statement.recipient_bundle(peer.chain, item)
            for peer, item in zip(peers, statement.items, strict=True)
        ),
    )
    return statement, evidence


def _released(core: Core, envelope_id: bytes, now: int) -> tuple[SignedHeader, Audience]:
    held = core.signed(envelope_id)
    if held is None:
        raise NotFoundError(
            "no such envelope is held", fix="give its 64 hexadecimal digits, or the incident"
        )
    if held.header.author != core.node_id:
        raise ConflictError(
            "only the author of an envelope can state its delivery", fix="ask its author for one"
        )
    if now < held.header.created:
        raise ConflictError("the clock is behind the release", fix="set the clock right")
    opener = core.opener(held.header.opener or envelope_id)
    if opener is None:
        raise LogCorruptionError("the envelope that opened the epoch is missing")
    return held, opener[1]


def _peer(core: Core, node_id: bytes) -> Peer:
    peer = core.trust.peers.get(node_id)
    if peer is None:
        raise LogCorruptionError(f"the recipient {format_node_id(node_id)} is not a peer any more")
    return peer


class _Facts:
    """Answers for each recipient of one envelope."""

    def __init__(
        self, core: Core, presence: Presence, held: SignedHeader, *, now: int, window: int
    ) -> None:
        self._core, self._presence = core, presence
        self._envelope_id, self._released = held.id, held.header.created
        self._until = min(self._released + window, now)
        # One that came back from a peer after a loss did not bring the record of links with it.
        ours = core.store.scalar("SELECT giver FROM envelopes WHERE id = ?", held.id)
        self._known = ours == core.node_id and self._released >= presence.known_since
        self._receipts = {
            row["recipient"]: row
            for row in core.store.rows(
                "SELECT * FROM receipts WHERE envelope_id = ? AND kind = ?",
                held.id, int(EntryKind.RECEIVED),
            )
        }  # fmt: skip

    def item(self, peer: Peer) -> Item:
        """Return the state of one recipient."""
        if peer.node_id in self._receipts:
            return self._delivered(peer)
        linked = self._linked(peer.node_id)
        if linked is not None:
            return Owed(peer.node_id, linked.first, linked.last)
        if not self._known:
            raise ConflictError(
                "it is not known any more which peers were linked at the release",
                fix="a statement can be made for 90 days, and after a loss once all receipts are "
                "here again; keep those made before",
            )
        last = self._presence.last_seen(peer.node_id, before=self._released)
        return Unreachable(peer.node_id, last)

    def _delivered(self, peer: Peer) -> Delivered:
        """Return the stored receipt, verified once more: nothing that is damaged gets signed."""
        try:
            frame = self._core.receipts.stored(self._receipts[peer.node_id])
            item = Delivered(peer.node_id, encode_frame(frame))
            delivery_statement.verify_delivery(
                item, envelope_id=self._envelope_id, chain=peer.chain
            )
        except PeerError as error:
            raise LogCorruptionError(
                f"the stored receipt of {peer.name} does not verify: {error.message}"
            ) from None
        return item

    def _linked(self, node_id: bytes) -> Span | None:
        """Return when it was linked within the window.

        Whoever was offered the envelope was linked then, even if a crash took the record of it
        (``first_at`` is a time at which it was on its way).
        """
        span = self._presence.linked_in(node_id, self._released, self._until)
        row = self._core.outbox.row(self._envelope_id, node_id)
        offered = row["first_at"] if row and row["route"] == Route.DIRECT else None
        if offered is None or not self._released <= offered <= self._until:
            return span
        if span is None:
            return Span(offered, offered)
        return Span(min(span.first, offered), max(span.last, offered))


# --- showing ---------------------------------------------------------------------------------
def report_row(report: Report) -> Row:
    """Return *report* as a JSON-able value."""
    said = report.statement
    checks = [
        {"check": c.name, "ok": c.ok, "detail": c.detail, "code": c.code or None}
        for c in report.checks
    ]
    row: Row = {"genuine": report.genuine, "holds": report.holds, "checks": checks}
    if said is None:
        return {**row, "statement": None}
    return {
        **row,
        "statement": {
            "author": format_node_id(said.author),
            "authority": report.names.get(said.author),
            "network_id": said.network.hex(),
            "envelope_id": said.envelope_id.hex(),
            "released": rfc3339(said.released),
            "window_s": said.window // 1000,
            "made": rfc3339(said.made),
            "claim": said.claim.value,
            "facts": said.facts.hex(),
            "recipients": [_item_row(item, report) for item in said.items],
        },
    }


def _item_row(item: Item, report: Report) -> Row:
    row: Row = {
        "node_id": format_node_id(item.node_id), "authority": report.names.get(item.node_id),
    }  # fmt: skip
    match item:
        case Delivered():
            return {**row, "state": "delivered"}
        case Unreachable():
            seen = None if item.last_seen is None else rfc3339(item.last_seen)
            return {**row, "state": "unreachable", "last_seen": seen}
        case Owed():
            return {
                **row, "state": "owed", "linked_from": rfc3339(item.linked_from),
                "linked_until": rfc3339(item.linked_until),
            }  # fmt: skip
