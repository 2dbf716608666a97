"""Receipts: the receiver's own log proves delivery; an acknowledgement flag would prove nothing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Final

from protocol import merkle
from protocol.checkpoint import Checkpoint, verify_checkpoint
from protocol.entry import EntryKind, make_entry, parse_entry
from protocol.errors import PeerError, ReceiptError
from protocol.frames import SHORT_ID, ReceiptItem, Receipts, Run, Runs
from protocol.statement import NamedKeys


@dataclass(frozen=True, slots=True)
class VerifiedReceipt:
    """The envelope stands in the log of *recipient*, to read (RECEIVED) or to carry (CARRIED).

    Or the log says that its content is erased there (ERASED); that by itself is no delivery.
    """

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
    if entry.kind not in {*_KINDS, EntryKind.ERASED}:
        raise ReceiptError("the receipt proves an entry that is no delivery")
    merkle.verify_inclusion(
        index=item.index,
        size=checkpoint.size,
        leaf=merkle.leaf_hash(item.entry),
        proof=item.proof,
        root=checkpoint.root,
    )
    return VerifiedReceipt(item.envelope_id, recipient, entry.kind, item.index, checkpoint)


def is_erasure(item: ReceiptItem) -> bool:
    """Whether *item* says that the content of its envelope is erased; it may prove nothing."""
    try:
        return parse_entry(item.entry).kind is EntryKind.ERASED
    except PeerError:
        return False


# --- receipts in bulk ------------------------------------------------------------------------
_COMMITMENT: Final = 32
_KINDS: Final = frozenset({EntryKind.RECEIVED, EntryKind.CARRIED})


def complete(runs: Runs, known: Mapping[bytes, bytes]) -> Runs:
    """Return *runs* with whole ids, found in *known* by their first 8 bytes.

    Raises:
        ReceiptError: an id is not known.
    """
    return replace(runs, runs=tuple(_complete(run, known) for run in runs.runs))


def _complete(run: Run, known: Mapping[bytes, bytes]) -> Run:
    if len(run.ids[0]) != SHORT_ID:
        return run
    try:
        return replace(run, ids=tuple(known[short] for short in run.ids))
    except KeyError:
        raise ReceiptError("a receipt for an envelope that was not sent on this link") from None


def verify_runs(runs: Runs, *, log: NamedKeys) -> tuple[VerifiedReceipt, ...]:
    """Verify *runs*, which have whole ids, against the *log* keys of the node that gave them.

    Raises:
        SignatureError: the checkpoint is not signed with both log keys.
        ProofError: the entries are not in the tree that the checkpoint signs.
        ReceiptError: the entries are no delivery, or an id is not whole.
    """
    checkpoint = verify_checkpoint(
        runs.checkpoint, origin=log.name, ed25519=log.ed25519, mldsa44=log.mldsa44
    )
    verified: list[VerifiedReceipt] = []
    for run in runs.runs:
        merkle.verify_run(
            first=run.first,
            leaves=[merkle.leaf_hash(entry) for entry in run_entries(run)],
            size=checkpoint.size,
            proof=run.proof,
            root=checkpoint.root,
        )
        verified += (
            VerifiedReceipt(each, runs.recipient, EntryKind(run.kind), index, checkpoint)
            for index, each in enumerate(run.ids, run.first)
        )
    return tuple(verified)


def single(runs: Runs, envelope_id: bytes, *, log: NamedKeys) -> Receipts:
    """Return the receipt for one envelope of *runs*, to stand by itself.

    Raises:
        ReceiptError: there is none for it.
        PeerError: *runs* do not verify under *log*.
    """
    checkpoint = verify_checkpoint(
        runs.checkpoint, origin=log.name, ed25519=log.ed25519, mldsa44=log.mldsa44
    )
    for run in runs.runs:
        if envelope_id not in run.ids:
            continue
        position = run.ids.index(envelope_id)
        entries = run_entries(run)
        path = merkle.inclusion_of(
            position,
            first=run.first,
            leaves=[merkle.leaf_hash(entry) for entry in entries],
            size=checkpoint.size,
            proof=run.proof,
            root=checkpoint.root,
        )
        item = ReceiptItem(envelope_id, run.first + position, entries[position], path)
        return Receipts(runs.recipient, runs.checkpoint, (item,))
    raise ReceiptError("the receipts hold none for that envelope")


def run_entries(run: Run) -> list[bytes]:
    """Return the log entries that *run*, which has whole ids, stands for.

    Raises:
        ReceiptError: they are no deliveries, or an id is not whole.
    """
    if run.kind not in _KINDS:
        raise ReceiptError("the receipt proves an entry that is no delivery")
    if len(run.ids[0]) == SHORT_ID:
        raise ReceiptError("the receipt does not name its envelopes")
    kind = EntryKind(run.kind)
    return [
        make_entry(kind, each, local_commitment=secrets[:_COMMITMENT], blind=secrets[_COMMITMENT:])
        for each, secrets in zip(run.ids, run.secrets, strict=True)
    ]
