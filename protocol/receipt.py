"""Receipts: the receiver's own log proves delivery; an acknowledgement flag would prove nothing."""

from __future__ import annotations

from dataclasses import dataclass

from protocol import merkle
from protocol.checkpoint import Checkpoint, verify_checkpoint
from protocol.entry import EntryKind, parse_entry
from protocol.errors import PeerError, ReceiptError
from protocol.frames import ReceiptItem, Receipts
from protocol.statement import NamedKeys


@dataclass(frozen=True, slots=True)
class VerifiedReceipt:
    """The envelope stands in the log of *recipient*, to read (RECEIVED) or to carry (CARRIED)."""

    envelope_id: bytes
    recipient: bytes
    kind: EntryKind
    index: int
    checkpoint: Checkpoint


def verify_receipts(receipts: Receipts, *, log: NamedKeys) -> tuple[VerifiedReceipt, ...]:
    """Verify *receipts* against the *log* keys on the card of the node that gave them.

    Raises:
        SignatureError: the checkpoint is not signed with both log keys.
        ProofError: an entry is not in the tree that the checkpoint signs.
        ReceiptError: an entry is about another envelope, or is no receipt of one.
    """
    checkpoint = verify_checkpoint(
        receipts.checkpoint, origin=log.name, ed25519=log.ed25519, mldsa44=log.mldsa44
    )
    return tuple(_verify_item(item, receipts.recipient, checkpoint) for item in receipts.items)


def _verify_item(item: ReceiptItem, recipient: bytes, checkpoint: Checkpoint) -> VerifiedReceipt:
    try:
        entry = parse_entry(item.entry)
    except PeerError as error:
        raise ReceiptError(f"the receipt holds a malformed log entry: {error.message}") from None
    if entry.subject != item.envelope_id:
        raise ReceiptError("the receipt proves the entry of another envelope")
    if entry.kind not in {EntryKind.RECEIVED, EntryKind.CARRIED}:
        raise ReceiptError("the receipt proves an entry that is no delivery")
    merkle.verify_inclusion(
        index=item.index,
        size=checkpoint.size,
        leaf=merkle.leaf_hash(item.entry),
        proof=item.proof,
        root=checkpoint.root,
    )
    return VerifiedReceipt(item.envelope_id, recipient, entry.kind, item.index, checkpoint)
