"""Erasing incidents: bytes and keys go, the log stays whole, and the author gets a receipt of it.

- Log entry, stubs, deliveries and the bytes in node.db change in one transaction; case.db and the
  attachments follow by the log, so a crash in between costs nothing and nothing comes back.
- The bytes are overwritten in the file, and the write-ahead log is emptied behind it. What a disk
  or a backup keeps by itself is beyond a program.
- An opener goes like any other envelope. While others of its epoch are held, or may still come, the
  epoch key is kept, sealed to this node alone; after the last of them it goes too.
- All that changes node.db here runs inside the caller's transaction.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final, Protocol

from keys.identity import Vault
from keys.trust import TrustStore
from node.blobrefs import BlobRefs
from node.clock import Clock
from node.log import Act, Log
from node.outbox import Outbox
from node.store import Store
from protocol import envelope, limits
from protocol.custody import Stub, stub_of
from protocol.entry import EntryKind, parse_entry
from protocol.envelope import Epoch, Header
from protocol.erasure import ErasureAct, Reason, keep_epoch, kept_epoch, parse_erasure
from protocol.errors import LogCorruptionError, NotFoundError, PeerError
from protocol.statement import Card

_EPOCH_MS: Final = 7 * 86_400_000
"""How long an honest author goes on with one epoch."""


class Owner(Protocol):
    """What erasing needs of the node that it belongs to."""

    trust: TrustStore

    @property
    def card(self) -> Card:
        """Our newest card."""
        ...

    def epoch(self, opener: bytes) -> Epoch:
        """Return the epoch that *opener* opened."""
        ...

    def forget_epoch(self, opener: bytes) -> None:
        """Look up the epoch anew when it is needed next."""
        ...


@dataclass(frozen=True, slots=True)
class Doomed:
    """One envelope of an incident that is to be erased."""

    envelope_id: bytes
    incident_id: str
    ref: str
    revision: int
    layers: str


@dataclass(frozen=True, slots=True)
class Erased:
    """One envelope that is erased, and the log entry that says so."""

    envelope_id: bytes
    log_index: int
    settled: bool
    act: ErasureAct


class Erasures:
    """The table ``erasures`` of node.db."""

    def __init__(
        self, owner: Owner, *, store: Store, log: Log, outbox: Outbox, blob_refs: BlobRefs,
        clock: Clock,
    ) -> None:  # fmt: skip
        self._owner, self._store, self._log = owner, store, log
        self._outbox, self._blob_refs, self._clock = outbox, blob_refs, clock

    # --- erasing -----------------------------------------------------------------------------
    def erase(self, doomed: Sequence[Doomed], *, reason: Reason, by: str, who: str) -> None:
        """Delete the content of these envelopes, log it, and take back their deliveries.

        Args:
            doomed: all envelopes of one incident that are not erased yet.
            reason: why.
            by: the officer who decided it, as typed.
            who: on which way it was told to the node, see ``node.access``.

        Raises:
            NotFoundError: the bytes of one are not here.
            ExpiredError: this node has no sealing key under which to keep that of an epoch.
        """
        now, own = self._clock.now(), self._owner.trust.own.node_id
        ids = [each.envelope_id for each in doomed]
        headers = [self._reduce(envelope_id) for envelope_id in ids]
        acts = [
            ErasureAct(
                incident_id=each.incident_id, ref=each.ref, revision=each.revision,
                layers=each.layers, reason=reason, by=by, who=who, at=now,
            )
            for each in doomed
        ]  # fmt: skip
        indexes = self._log.append(
            [
                Act(EntryKind.ERASED, envelope_id, act.local)
                for envelope_id, act in zip(ids, acts, strict=True)
            ]
        )
        self._store.insert_all(
            "erasures",
            [
                {
                    "envelope_id": envelope_id, "log_index": index,
                    # We need no receipt of our own.
                    "settled": int(header.author == own), "slot": None,
                }
                for envelope_id, index, header in zip(ids, indexes, headers, strict=True)
            ],
        )  # fmt: skip
        self._outbox.withdraw(ids)
        self._blob_refs.forget(ids)
        for opener in dict.fromkeys(h.opener or i for i, h in zip(ids, headers, strict=True)):
            self._settle_epoch(opener)

    def _reduce(self, envelope_id: bytes) -> Header:
        """Let nothing be left of one envelope but its stub; return its header."""
        wire = self._store.scalar("SELECT wire FROM envelopes WHERE id = ?", envelope_id)
        if wire is None:
            raise NotFoundError("the content of an envelope is not held any more")
        held = envelope.parse(wire)
        if held.opens_epoch:
            with suppress(PeerError):
                self._owner.epoch(envelope_id)  # while it can be opened: it may have to be kept
        self._store.insert("stubs", {"envelope_id": envelope_id, "stub": stub_of(held).encode()})
        self._store.run("UPDATE envelopes SET wire = NULL WHERE id = ?", envelope_id)
        return held.header

    def _settle_epoch(self, opener: bytes) -> None:
        """Keep the key of an epoch whose opener is erased while it is needed, and no longer."""
        row = self._row(opener)
        if row is None:
            return  # the opener itself is held
        if not self._is_needed(opener):
            self._owner.forget_epoch(opener)
            self._store.run("UPDATE erasures SET slot = NULL WHERE envelope_id = ?", opener)
        elif row["slot"] is None:
            try:
                epoch = self._owner.epoch(opener)
            except PeerError:
                return  # the others do not open here either
            key = self._owner.card.seal_key(self._clock.now())
            slot = keep_epoch(epoch, ekid=key.ekid, seal_key=key.public)
            self._store.run("UPDATE erasures SET slot = ? WHERE envelope_id = ?", slot, opener)
        # Slots that were made anew for the epoch hold its key too.
        self._store.run("DELETE FROM unopened WHERE opener = ?", opener)
        self._store.run("UPDATE reseals SET answer = NULL, owed = 0 WHERE opener = ?", opener)

    def _is_needed(self, opener: bytes) -> bool:
        """Whether an envelope of the epoch is held, or may still come."""
        held = self._store.scalar(
            "SELECT 1 FROM envelopes o JOIN envelopes v ON v.author = o.author "
            "AND v.incarnation = o.incarnation AND v.stream = o.stream "
            "WHERE o.id = ? AND v.opener = o.id AND v.wire IS NOT NULL LIMIT 1",
            opener,
        )
        return bool(held) or not self._is_over(opener)

    def _is_over(self, opener: bytes) -> bool:
        """Whether all of an epoch has come: up to the next one of its stream, or it is too old."""
        row = self._store.envelope(opener)
        if row is None or row["author"] == self._owner.trust.own.node_id:
            return True  # after the opener was erased we begin another
        following = self._store.scalar(
            "SELECT min(v.seq) FROM envelopes v JOIN streams s ON s.author = v.author "
            "AND s.incarnation = v.incarnation AND s.stream = v.stream "
            "WHERE v.author = ? AND v.incarnation = ? AND v.stream = ? AND v.seq > ? "
            "AND v.opener IS NULL AND v.seq <= s.contiguous",
            row["author"], row["incarnation"], row["stream"], row["seq"],
        )  # fmt: skip
        # What was sealed last may be carried for as long as anything may.
        last = row["arrived"] + _EPOCH_MS + limits.MAX_LIFETIME_MS
        return following is not None or self._clock.now() >= last

    def sweep(self) -> int:
        """Delete the keys of epochs that are over; return how many. Call it now and then.

        Raises:
            BusyError: the disk is full; the next call goes on.
        """
        rows = self._store.rows("SELECT envelope_id FROM erasures WHERE slot IS NOT NULL")
        over = [row["envelope_id"] for row in rows if not self._is_needed(row["envelope_id"])]
        if over:
            with self._store.shredding(), self._store.transaction():
                for opener in over:
                    self._settle_epoch(opener)
            self._store.wipe()
        return len(over)

    # --- looking -----------------------------------------------------------------------------
    def _row(self, envelope_id: bytes) -> dict[str, Any] | None:
        return self._store.row("SELECT * FROM erasures WHERE envelope_id = ?", envelope_id)

    def knows(self, envelope_id: bytes) -> bool:
        """Whether an envelope is erased."""
        return self._row(envelope_id) is not None

    def get(self, envelope_id: bytes) -> Erased | None:
        """Return the erasure of an envelope, or None.

        Raises:
            LogCorruptionError: its log entry is missing or damaged.
        """
        row = self._row(envelope_id)
        return None if row is None else self._read(row)

    def _read(self, row: Mapping[str, Any]) -> Erased:
        index = row["log_index"]
        local = self._store.scalar("SELECT local FROM entries WHERE idx = ?", index)
        try:
            act = parse_erasure(local or b"")
        except PeerError as error:
            raise LogCorruptionError(
                f"the erasure of log entry {index} is damaged: {error}"
            ) from None
        return Erased(row["envelope_id"], index, bool(row["settled"]), act)

    def epoch(self, stub: Stub, vault: Vault) -> Epoch | None:
        """Return the epoch whose erased opener *stub* is, if its key was kept.

        Raises:
            PeerError: it does not open.
        """
        row = self._row(stub.id)
        if row is None or row["slot"] is None or stub.audience is None:
            return None
        return kept_epoch(row["slot"], stub.id, stub.header, stub.audience, vault)

    def others_waiting(self, envelope_ids: Sequence[bytes]) -> frozenset[bytes]:
        """Return who waits for one of these, and for others that it cannot open without them."""
        found: set[bytes] = set()
        for envelope_id in envelope_ids:
            rows = self._store.rows(
                "SELECT DISTINCT a.peer FROM outbox a JOIN envelopes o ON o.id = a.envelope_id "
                "JOIN envelopes v ON v.author = o.author AND v.incarnation = o.incarnation "
                "AND v.stream = o.stream AND v.opener = o.id "
                "JOIN outbox b ON b.envelope_id = v.id AND b.peer = a.peer "
                "WHERE a.envelope_id = ? AND a.state = 'queued' AND b.state = 'queued' "
                "AND a.route <> 'carrier'",
                envelope_id,
            )
            found.update(row["peer"] for row in rows)
        return frozenset(found)

    # --- verifying ---------------------------------------------------------------------------
    def verify(self) -> None:
        """Check that what is erased is what the log says is erased, and that nothing is left of it.

        Raises:
            LogCorruptionError: it is not; names which.
        """
        logged = {
            row["idx"]: parse_entry(row["entry"]).subject
            for row in self._store.rows(
                "SELECT idx, entry FROM entries WHERE kind = ?", int(EntryKind.ERASED)
            )
        }
        for row in self._store.rows(
            "SELECT x.*, v.wire IS NULL AS gone, v.id, s.envelope_id AS stub FROM erasures x "
            "LEFT JOIN envelopes v ON v.id = x.envelope_id "
            "LEFT JOIN stubs s ON s.envelope_id = x.envelope_id"
        ):
            erased = self._read(row)
            if logged.pop(erased.log_index, None) != erased.envelope_id:
                raise LogCorruptionError("an envelope counts as erased, but the log has it not so")
            if row["id"] is None or row["stub"] is None or not row["gone"]:
                raise LogCorruptionError(
                    f"the envelope that log entry {erased.log_index} erased is there, or its "
                    "header is gone"
                )
        if logged:
            raise LogCorruptionError(f"the erasure of log entry {min(logged)} is not found again")
