"""The state of one node and every durable change to it; synchronous, one thread at a time.

- Each public change is one transaction of node.db that also grows and signs the log; the fence is
  raised before it returns. Only then may the caller let anything leave the node.
- Nothing here knows of sockets or tasks: the engine and the local endpoint both call it.
- A locked core admits, logs, receipts and forwards; releasing and opening need ``unlock``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Final

from keys.fingerprint import format_node_id
from keys.identity import Random, ServiceKeys, Vault
from keys.keystore import load_sealing
from keys.trust import Level, Peer, TrustStore, Verification
from node.access import AccessBook
from node.approvals import ApprovalBook
from node.backup import Backups
from node.blobrefs import BlobRefs
from node.blobs import BlobStore
from node.callers import CallerBook
from node.casebook import Casebook
from node.clock import Clock
from node.cosigned_notes import notes_to_make
from node.cosigning import Cosigning
from node.drill import Exposures
from node.erasure import Doomed, Erasures
from node.fence import Fence
from node.holdings import Holdings
from node.home import Home
from node.intake import Intake, Taken, id_of, read_stored
from node.key_lives import YEAR_MS
from node.keyfiles import message_in_force
from node.locking import Locking
from node.log import Act, Log
from node.outbox import Outbox, Route
from node.presence import Presence
from node.receipts import ReceiptBook
from node.resealing import Resealing
from node.restored import Restored
from node.row_types import SMALL, check
from node.seal_proofs import SealProofs
from node.statements import StatementBook
from node.store import Store, expand
from node.streams import Streams
from node.verifying import verify_all
from node.witness import WitnessBook
from protocol import envelope, limits, suite
from protocol.admission import Admitted, Part
from protocol.canonical import decode, encode
from protocol.chain import KeyHistory
from protocol.checkpoint import parse_body, verify_checkpoint
from protocol.custody import Stub
from protocol.entry import EntryKind, parse_entry
from protocol.envelope import Anchor, Audience, Envelope, Epoch, Header, VerifiedEnvelope
from protocol.erasure import Reason
from protocol.errors import (
    AudienceError,
    BlobStoreError,
    BusyError,
    ConflictError,
    DecodeError,
    KeystoreError,
    LockedError,
    LogBehindError,
    LogCorruptionError,
    NotFoundError,
    PeerError,
    RollbackError,
    StoreError,
    UnknownEpochError,
)
from protocol.fork import Fork, SignedHeader, parse_fork, verify_fork
from protocol.frames import Receipts, Refusal, Runs
from protocol.frontier import StreamKey
from protocol.note import parse_note
from protocol.reseal import Fault
from protocol.statement import Card, Chain, Statement, make_card, parse_statement

EPOCH_LIFETIME_MS: Final = 7 * 86_400_000
BUSY_RETRY_MS: Final = 30_000
AHEAD: Final = "log-ahead"
"""Where a head of our own log is kept that a witness showed and that is not in this database."""

RETRACTION: Final = "retraction"
"""Who erases what its originator retracted under law."""
BY_RETRACTION: Final = "its originator, who retracted it"
_FOLLOW_PAGE: Final = 64
"""Entries that are followed in one transaction: live traffic waits for no more."""
_READ_PAGES: Final = 4


@dataclass(frozen=True, slots=True)
class Shipment:
    """One body for one audience: what ``release`` seals into one envelope."""

    body: bytes
    layers: str
    recipients: Mapping[bytes, Card]
    carriers: tuple[bytes, ...]
    blobs: tuple[bytes, ...] = ()
    fresh: bool = False
    """Whether it opens an epoch: who lacks the envelopes before it can open it all the same."""


class Core:
    """A node without its network."""

    tls_changes = 0
    """How often this node has changed which certificates it has, since its start."""
    drop_fetch: Callable[[bytes], None] | None = None
    """What stops fetching an attachment; whoever fetches sets it."""
    _obeying = False
    _unfenced: tuple[int, bytes] | None = None  # the newest signed head, if nobody was shown it

    def __init__(
        self,
        *,
        home: Home,
        store: Store,
        fence: Fence,
        keys: ServiceKeys,
        clock: Clock,
        random: Random,
        carries: bool,
        accept: bool = False,
        reopen: bool = False,
    ) -> None:
        """Load chain, peers and log, and check that the database is not an old copy.

        With *accept* a person says that it is the newest, where the fence cannot tell. With
        *reopen* it may be an old one: the caller calls ``reopen_log`` before anything else.

        Raises:
            RollbackError: the database is older than what was published.
            StoreError: the database belongs to no initialised node, or is damaged.
            KeystoreError: the service keys are those of another node.
        """
        check(store, SMALL)
        self.home, self.store, self.keys, self.clock = home, store, keys, clock
        self.carries = carries
        self.vault: Vault | None = None
        self.cases: Casebook | None = None
        self._fence = fence
        self._random = random
        self._epochs: dict[bytes, Epoch] = {}
        self._incarnation: int | None = None
        self.behind: BusyError | None = None
        self.signing_waits = False
        """Whether nothing is signed before a witness has said what it knows of this log."""
        self.pending = False
        self.locking = Locking(self, store=store, clock=clock)
        self.presence = Presence(store)
        self.outbox = Outbox(store, clock)
        self.blob_refs = BlobRefs(store)
        self.blobs: BlobStore | None = None
        self.statements = StatementBook(self, store=store, clock=clock)
        self.trust: TrustStore = self._load_trust()
        own = self.trust.own
        card = own.card
        if card is None:
            raise StoreError("node.db holds no card of this node", fix="restore it from a backup")
        public = (
            keys.link.public, keys.log_keys(card.log.name), keys.witness_keys(card.witness.name)
        )  # fmt: skip
        if public != (card.link, card.log, card.witness):
            raise KeystoreError(
                "service.key belongs to another node than node.db",
                fix="put files of one node together; do not mix backups",
            )
        self.log = Log(
            store,
            keys=keys,
            origin=card.log.name,
            random=random,
            node_id=own.node_id,
            before_showing=self.settle_fence,
        )
        self.statements.begin(own, self.log)
        self.streams = Streams(store, clock, own.node_id)
        self.erasures = Erasures(
            self, store=store, log=self.log, outbox=self.outbox, blob_refs=self.blob_refs,
            clock=clock,
        )  # fmt: skip
        self.access = AccessBook(store=store, log=self.log, clock=clock, logged=self.logged)
        self.approvals = ApprovalBook(self, store=store, log=self.log, clock=clock, random=random)
        self.intake = Intake(
            self, store=store, log=self.log, outbox=self.outbox, streams=self.streams, clock=clock
        )
        self.receipts = ReceiptBook(
            self, store=store, log=self.log, outbox=self.outbox, streams=self.streams, clock=clock
        )
        self.witness = WitnessBook(self, store=store, log=self.log, keys=keys, clock=clock)
        self.receipts.witness = self.witness
        self.resealing = Resealing(self, store=store, clock=clock)
        self.callers = CallerBook(
            self, store=store, log=self.log, clock=clock, learn=self.statements.learn
        )
        self.exposures = Exposures(self, store=store, clock=clock)
        self.seal_proofs = SealProofs(self, store=store, clock=clock, random=random)
        self.cosigning = Cosigning(
            self, store=store, log=self.log, clock=clock, policy_file=home.witness_policy
        )
        self.backups = Backups(self, store=store, log=self.log, clock=clock, random=random)
        self.restored = Restored(self, store=store, log=self.log, clock=clock)
        self.signing_waits = self.restored.waits
        if accept and fence.last() is None:
            fence.raise_to(self.log.size, self.log.root())
        if not reopen:
            self._check_newest()

    def _check_newest(self) -> None:
        """Check that the database is not an old copy, and make good what a crash left undone.

        Raises:
            RollbackError: it is older than what was published.
            LogCorruptionError: its hashes do not fit its entries.
        """
        fence = self._fence
        if self.store.meta(AHEAD) is not None:
            size, _ = self._furthest()
            message, fix = self.restored.behind(size) or (
                f"a peer showed a head of this log with {size} entries that this node signed; "
                f"node.db holds {self.log.size} that do not fit it: it is an old copy",
                "put back the newest node.db and fence, or begin a new log: picket log reopen",
            )
            raise RollbackError(message, fix=fix)
        try:
            fence.check(self.log.size, self.log.root)
        except RollbackError:
            # Where hashes do not fit the entries beside them, that is the better name for it.
            if (last := fence.last()) is not None and last[0] <= self.log.size:
                for _ in self.log.verify_steps(0, self.log.size):
                    pass
            raise
        # A crash may have come between a commit and its signature, or its fence.
        if self.log.signed_size and not self.signing_waits:
            self.seal()
        signed = self.log.signed_size
        head = (signed, self.log.root(signed))
        if signed and fence.last() != head:
            fence.raise_to(*head)

    @property
    def node_id(self) -> bytes:
        """Our node id."""
        return self.trust.own.node_id

    def statement_number(self) -> int:
        """Return the number of our newest key statement."""
        return self.trust.own.head.n

    @property
    def card(self) -> Card:
        """Our newest card."""
        card = self.trust.own.card
        assert card is not None  # noqa: S101  checked on loading
        return card

    def close(self) -> None:
        """Close the databases and forget the keys."""
        self.backups.close()
        self.forget_keys()
        if self.blobs is not None:
            self.blobs.close()
        # If it cannot be stored it is signed again at the start.
        with suppress(BusyError, StoreError), self.store.transaction():
            self.log.keep()
        with suppress(StoreError):  # nobody was given the head, so an older fence says the truth
            self.settle_fence()
        self.store.close()
        self._fence.close()

    # --- loading -----------------------------------------------------------------------------
    def _load_trust(self) -> TrustStore:
        own_id = self.store.meta("node_id")
        if own_id is None:
            raise StoreError("node.db belongs to no node", fix="restore it from a backup")
        peers = []
        for row in self.store.rows("SELECT * FROM peers ORDER BY name"):
            verification = None
            if row["verified_at"] is not None:
                verification = Verification(row["method"], row["verified_by"], row["verified_at"])
            chain = self._load_chain(row["node_id"])
            peers.append(self.statements.load_peer(chain, row, verification))
        return TrustStore.of(self._load_chain(own_id), peers)

    def _load_chain(self, node_id: bytes) -> Chain:
        rows = self.store.rows(
            "SELECT n, wire FROM statements WHERE node_id = ? ORDER BY n", node_id
        )
        network = self.store.meta("network")
        try:
            statements = [parse_statement(row["wire"]) for row in rows]
            chain = Chain.start(statements[0], network=network or b"")
            for statement in statements[1:]:
                chain = chain.extend(statement)
            if [row["n"] for row in rows] != [s.n for s in chain.statements]:
                raise DecodeError("a statement stands under another number")
            if chain.node_id != node_id:
                raise DecodeError("the statements of another node")
        except (PeerError, IndexError) as error:
            raise StoreError(
                f"the stored key statements of {format_node_id(node_id)} are damaged: {error}",
                fix="restore node.db from its newest backup",
            ) from None
        return chain

    # --- unlocking and following -------------------------------------------------------------
    @property
    def is_open(self) -> bool:
        """Whether this node has its keys."""
        return self.vault is not None

    def forget_keys(self) -> None:
        """Forget the keys and all that they opened; to ``lock`` a node is ``node.locking``'s."""
        cases, vault, self.vault, self.cases = self.cases, self.vault, None, None
        if vault is not None:
            vault.close()
        self._epochs.clear()
        self.pending, self.behind = False, None
        if cases is not None:
            cases.close()

    def unlock(self, vault: Vault) -> None:
        """Take the keys of an opened keystore and catch up with what arrived meanwhile.

        Raises:
            StoreError: the keystore belongs to another node.
        """
        if vault.identity.public not in self.trust.own.identity.keys:
            raise StoreError(
                "this keystore belongs to another node than node.db, or is older than its identity",
                fix="put files of one node together; do not mix backups",
            )
        self.cases = Casebook(self.home.case_db, vault.storage)
        self.restored.forget_tokens(self.cases)
        seeds = load_sealing(self.home.sealing, vault.storage)
        vault = vault.with_sealing(seeds) if seeds else vault
        self.vault = message_in_force(vault, home=self.home, card=self.card)
        self.resealing.unlocked()
        self.try_follow()
        if self.behind is None:
            self._clear_blobs(self.cases)

    def _clear_blobs(self, cases: Casebook) -> None:
        """Delete what a crash left of a release or upload that never came about: no key opens it.

        Nothing is on its way in yet: that takes an unlocked node.
        """
        if self.blobs is None:
            return
        for blob in (*self.blobs.whole(), *self.blobs.partial()):
            if not self.blob_refs.known(blob.id) and not cases.knows_blob(blob.id):
                self.blobs.delete(blob.id)

    def opened(self) -> tuple[Vault, Casebook]:
        """Return the keys and the casebook of an unlocked node, which shows what was received.

        Raises:
            LockedError: it is locked.
        """
        if self.vault is None or self.cases is None:
            raise LockedError("the node is locked", fix="run: picket unlock")
        self.locking.needed()
        if self.pending and not self.store.in_transaction and not self.cases.in_transaction:
            # Whoever looks sees what has come, but does not wait for a whole catch-up.
            self.try_follow(pages=_READ_PAGES)
        return self.vault, self.cases

    def keys_open(self) -> Vault:
        """Return the keys of an unlocked node.

        Raises:
            LockedError: it is locked.
        """
        if self.vault is None:
            raise LockedError("the node is locked", fix="run: picket unlock")
        self.locking.needed()
        return self.vault

    def follow(self, *, pages: int | None = None) -> int:
        """Bring case.db up to the log: open what has arrived. Return how many were opened.

        With *pages* it stops after so many transactions; ``pending`` says whether there is more.
        Each step is idempotent; a crash in between repeats it.
        """
        if self.vault is None or self.cases is None:
            self.pending = False
            return 0
        opened = 0
        while True:
            first = self.cases.next_index
            rows = self.store.rows(
                "SELECT e.idx, e.kind, e.entry, l.envelope_id AS late, v.* FROM entries e "
                "LEFT JOIN late l ON l.log_index = e.idx LEFT JOIN envelopes v "
                "ON v.log_index = e.idx WHERE e.idx >= ? ORDER BY e.idx LIMIT ?",
                first, _FOLLOW_PAGE,
            )  # fmt: skip
            named: dict[bytes, list[bytes]] = {}
            faults: dict[bytes, Fault] = {}
            if rows:
                with self.cases.transaction():
                    for row in rows:
                        opened += self._follow_entry(self.cases, row, named, faults)
                    if named or faults:
                        # First, so that a crash between the two files only repeats it.
                        with self.logged():
                            for envelope_id, blob_ids in named.items():
                                self.blob_refs.add(envelope_id, blob_ids)
                            self.resealing.note(faults)
                    self.cases.advance(rows[-1]["idx"] + 1)
            if any(row["kind"] == EntryKind.ERASED for row in rows):
                self.cases.wipe()
            if len(rows) < _FOLLOW_PAGE and not self.resealing.requeue(self.cases):
                self.pending = False
                return opened
            if pages is not None and (pages := pages - 1) <= 0:
                self.pending = True
                return opened

    def try_follow(self, *, pages: int | None = None) -> None:
        """Follow as far as case.db can be written; ``behind`` says why it could not.

        What arrived is durable in node.db by then, so a full disk only delays reading it.
        """
        try:
            self.follow(pages=pages)
            self._obey()
        except BusyError as error:
            self.pending = False
            self.behind = error
        else:
            self.behind = None

    def _obey(self) -> None:
        """Erase what its originator retracted under law, by the same path as an operator's word."""
        if self.cases is None or self._obeying:
            return
        self._obeying = True
        try:
            for row in self.cases.condemned():
                doomed = self.holdings.doomed(self.cases, row["incident_id"], row["author"])
                if not doomed:
                    continue  # it is logged; the log is not followed so far
                ids = frozenset(each.envelope_id for each in doomed)
                for blob_id in {blob for each in ids for blob in self.cases.blobs_of(each)}:
                    if self.drop_fetch is not None and self.blob_refs.naming(blob_id) <= ids:
                        self.drop_fetch(blob_id)
                # Where the key of an epoch cannot be kept now it is tried again the next time.
                with suppress(PeerError, NotFoundError):
                    self.erase(
                        doomed, reason=Reason(row["retracted"]), by=BY_RETRACTION, who=RETRACTION
                    )
        finally:
            self._obeying = False

    def _follow_entry(
        self,
        cases: Casebook,
        row: Mapping[str, Any],
        named: dict[bytes, list[bytes]],
        faults: dict[bytes, Fault],
    ) -> int:
        """Follow one log entry; return how many envelopes it opened: one or none."""
        if row["kind"] in {EntryKind.RECEIVED, EntryKind.RELEASED}:
            return self._follow_one(cases, row, named, faults)
        if row["kind"] == EntryKind.ERASED:
            self._follow_erased(cases, parse_entry(row["entry"]).subject)
            return 0
        late = self.resealing.late(row)
        return 0 if late is None else self._follow_one(cases, late, named, faults)

    def _follow_one(
        self,
        cases: Casebook,
        row: Mapping[str, Any],
        named: dict[bytes, list[bytes]],
        faults: dict[bytes, Fault],
    ) -> int:
        # Heavy (pydantic), and needed only where incidents are opened.
        from protocol.incident import Record, split_attachments  # noqa: PLC0415
        from protocol.records import parse_record  # noqa: PLC0415

        if row["id"] is None:
            raise LogCorruptionError(f"the envelope of log entry {row['idx']} is missing")
        if row["wire"] is None and self.erasures.knows(row["id"]):
            return 0
        try:
            body = decode(self._open(envelope.parse(row["wire"])), max_bytes=limits.MAX_BODY)
            record = parse_record(body)
            if not isinstance(body, dict):
                raise DecodeError("the record is not a map")
            body, attached = split_attachments(body)
        except PeerError as error:
            cases.quarantine(row["id"], row["idx"], error.code, self.clock.now())
            opener = row["opener"] or row["id"]
            if opener not in faults and (fault := self.resealing.fault(opener, error)) is not None:
                faults[opener] = fault
            return 0
        if row["late"] is not None:
            cases.release(row["id"])
        if isinstance(record, Record):
            cases.store_record(
                envelope_id=row["id"],
                log_index=row["idx"],
                author=row["author"],
                own=row["author"] == self.node_id,
                record=body,
                at=row["arrived"],
            )
            self.holdings.settle(cases, record.incident_id, row["author"])
        else:
            self.holdings.keep(cases, row, record, body)
        if attached:
            cases.add_attachments(attached, envelope_id=row["id"], at=row["arrived"])
            named[row["id"]] = [each.ref.id for each in attached]
        return 1

    def _follow_erased(self, cases: Casebook, envelope_id: bytes) -> None:
        """Delete what case.db and the folder of attachments have of an erased envelope."""
        row, erased = self.store.envelope(envelope_id), self.erasures.get(envelope_id)
        if row is None or erased is None:
            raise LogCorruptionError("an envelope that was erased is missing")
        # Files first: their ids stand in case.db alone.
        for blob_id in cases.blobs_of(envelope_id):
            if self.blobs is not None and not self.blob_refs.known(blob_id):
                try:
                    self.blobs.delete(blob_id)
                except BlobStoreError as error:
                    raise BusyError(
                        f"an erased attachment is still there: {error.message}", fix=error.fix
                    ) from None
        cases.erase(
            envelope_id=envelope_id, log_index=row["log_index"], author=row["author"],
            own=row["author"] == self.node_id, arrived=row["arrived"], act=erased.act,
        )  # fmt: skip
        self.holdings.settle(cases, erased.act.incident_id, row["author"])

    def erase(self, doomed: Sequence[Doomed], *, reason: Reason, by: str, who: str) -> bool:
        """Erase these envelopes for good; False if a full disk kept bytes in the write-ahead log.

        Then the next start overwrites them.

        Raises:
            LockedError: the node is locked.
            BusyError: the disk is full; nothing was changed.
            NotFoundError: the content of one is not here any more.
            PeerError: the key of an epoch that other envelopes need cannot be kept.
        """
        self.keys_open()
        with self.store.shredding(), self.logged():
            self.erasures.erase(doomed, reason=reason, by=by, who=who)
        self.receipts.changes += 1
        wiped = self.store.wipe()
        self.try_follow()
        return wiped

    def open(self, envelope_id: bytes) -> bytes:
        """Return the body of a stored envelope.

        Raises:
            LockedError: the node is locked.
            PeerError: it is not for us or does not open.
        """
        held = self.held(envelope_id)
        if held is None:
            raise AudienceError("the envelope is not held")
        return self._open(held)

    def _open(self, held: Envelope) -> bytes:
        verified = VerifiedEnvelope(held)
        epoch = self._epoch(held.header.opener or held.id)
        return envelope.open_body(verified, envelope.content_key(verified, epoch))

    def epoch(self, opener: bytes) -> Epoch:
        """Return the epoch that the envelope *opener* opened.

        Raises:
            LockedError: the node is locked.
            PeerError: it is not held, or our slot does not open.
        """
        return self._epoch(opener)

    def forget_epoch(self, opener: bytes) -> None:
        """Look up the epoch anew when it is needed next."""
        self._epochs.pop(opener, None)

    def _epoch(self, opener: bytes) -> Epoch:
        vault = self.keys_open()
        if opener not in self._epochs:
            held = self.held(opener)
            if held is None:
                left = read_stored(self.store, opener)
                kept = self.erasures.epoch(left, vault) if isinstance(left, Stub) else None
                if kept is None:
                    raise UnknownEpochError("the envelope that opened the epoch is not held")
                self._epochs[opener] = kept
                return kept
            self._epochs[opener] = self.resealing.epoch(held, vault) or envelope.unseal_epoch(
                VerifiedEnvelope(held), node_id=self.node_id, unsealer=vault
            )
        return self._epochs[opener]

    def held(self, envelope_id: bytes) -> Envelope | None:
        """Return a stored envelope, which was verified before it was stored."""
        wire = self.store.scalar("SELECT wire FROM envelopes WHERE id = ?", envelope_id)
        return None if wire is None else envelope.parse(wire)

    def signed(self, envelope_id: bytes) -> SignedHeader | None:
        """Return the signed header of an envelope that is stored, or of which it is left."""
        held = read_stored(self.store, envelope_id)
        if held is None:
            return None
        return held.signed if isinstance(held, Stub) else SignedHeader.of(held)

    def header(self, envelope_id: bytes) -> tuple[bytes, Header] | None:
        """Return id and header of an envelope, even if its bytes are gone; None if unknown."""
        held = read_stored(self.store, envelope_id)
        return None if held is None else (held.id, held.header)

    def opener(self, envelope_id: bytes) -> tuple[Header, Audience] | None:
        """Return header and audience of a stored envelope that opens an epoch."""
        return self.intake.opener(envelope_id)

    @cached_property
    def holdings(self) -> Holdings:
        """The records about incidents."""
        return Holdings(self, store=self.store, streams=self.streams)

    # --- transactions ------------------------------------------------------------------------
    @contextmanager
    def logged(self, *, seal: bool = True) -> Iterator[None]:
        """Run the block as one transaction; if it grew the log, sign it, and raise the fence.

        Inside another such block it is a part of that one. Without *seal* the signature waits for
        ``seal``, which comes before anything of the log leaves the node.
        """
        if self.store.in_transaction:
            yield
            return
        before = self.log.size
        try:
            with self.store.transaction():
                yield
        except BaseException:
            self.intake.forget()
            self.witness.forget()
            self.log.forget()
            raise
        # Only now: a head over entries that are undone must never be signed.
        if seal and self.log.size != before and not self.signing_waits:
            self.seal()

    @contextmanager
    def part(self) -> Iterator[None]:
        """Run the block as a part of an open transaction that its own exception undoes alone."""
        try:
            with self.store.savepoint():
                yield
        except BaseException:
            self.intake.forget()
            self.witness.forget()
            self.log.forget()
            raise

    def seal(self) -> None:
        """Sign the log as far as it has grown, and raise the fence; nothing if it is signed.

        Raises:
            LogCorruptionError: the signatures that others may have seen are missing.
            BusyError: the node has just started, and asks witnesses whether its log is whole.
        """
        if self.restored.waits and self.log.signed_size != self.log.size:
            message, fix = self.restored.words()
            raise BusyError(message, fix=fix)
        if self.signing_waits and self.log.signed_size != self.log.size:
            raise BusyError(
                "the node has just started and asks its peers whether its log is whole; "
                "until then it signs nothing",
                fix="try again in half a minute",
            )
        signed, last = self.log.signed_size, self._fence.last()
        if not signed and last is not None and last[0]:
            # The newest may have been lost in a crash, but never all of them.
            raise LogCorruptionError(f"{last[0]} entries were signed; no signature is stored")
        if signed == self.log.size:
            return
        assert not self.store.in_transaction  # noqa: S101  what is signed must be durable
        checkpoint = self.log.seal(self.clock.now())
        self._unfenced = (checkpoint.size, checkpoint.root)

    def settle_fence(self) -> None:
        """Write the newest signed head to the fence, if it is not there yet.

        The log calls it before it gives out a head: until then nobody else can know of it.

        Raises:
            CommitUncertainError: it cannot be written; the node must stop.
        """
        if self._unfenced is not None:
            self._fence.raise_to(*self._unfenced)
            self._unfenced = None

    def raise_fence(self, size: int, root: bytes) -> None:
        """Note that a head of this log is signed, which is durable already."""
        self._unfenced = (size, root)
        self.settle_fence()

    def heartbeat(self) -> int:
        """Let the log grow by an entry, sign it, and offer its head to witnesses.

        The entry says nothing but which heads were cosigned by enough witnesses since the last one.

        Returns:
            The size of the head.

        Raises:
            BusyError: the disk is full, or nothing may be signed yet.
        """
        with self.logged():
            said = notes_to_make(self.store)
            self.log.append([Act(EntryKind.HEARTBEAT, self._random(32), said)])
        self.seal()
        return self.cosigning.offer()

    def log_owner(self, origin: str) -> bytes | None:
        """Return the node on one of whose cards *origin* names the log, its newest or an old one.

        It is for showing and proving what was; who may have a log cosigned is on newest cards.
        """
        chains = (self.trust.own, *(peer.chain for peer in self.trust.peers.values()))
        return next((chain.node_id for chain in chains if _names(chain, origin)), None)

    def has_been_linked(self) -> bool:
        """Whether a peer that may still link could know of this log."""
        ids = {peer.node_id for peer in self.trust.linkable()}
        rows = self.store.rows("SELECT node_id FROM peers WHERE last_contact IS NOT NULL")
        return any(row["node_id"] in ids for row in rows)

    def reopen_log(self) -> str:
        """Begin a new log, with a new name, on top of what is left of the old one.

        The way out when the database is an older copy, or its log contradicts itself: nothing is
        signed under the old name any more. The first new entry names the old log and how far it
        is known to have come.

        Returns:
            The name of the new log.

        Raises:
            LockedError: the node is locked; the card with the new name has to be signed.
        """
        vault, now = self.keys_open(), self.clock.now()
        self.restored.check_reopen(shown=self.store.meta(AHEAD) is not None)
        old = self.card.log.name
        known = self._furthest()
        name = next_log_name(old)
        issued = max(now, self.trust.own.head.issued)  # the clock may have been set back
        expires = max(self.card.expires, issued + YEAR_MS)
        card = replace(self.card, log=self.keys.log_keys(name), expires=expires)
        statement = make_card(card, chain=self.trust.own, issued=issued, signer=vault.identity)
        longer = self.trust.own.extend(statement)
        local = (old, known[0], known[1], self.log.size)
        self.log.rename(name)
        try:
            with self.store.transaction():
                self.store.run("DELETE FROM checkpoints")
                self.cosigning.close_origin()
                self.store.run("DELETE FROM meta WHERE key = ?", AHEAD)
                self.log.append([Act(EntryKind.LOG_OPENED, opened_digest(name, local), local)])
                self._keep_statement(statement)
                self.restored.settled(f"a new log was begun: {name}")
        except BaseException:
            self.log.forget()
            self.log.rename(old)
            raise
        self.restored.reload()
        self.statements.own = KeyHistory(longer)
        self.trust = replace(self.trust, own=self.statements.own.chain)
        self.signing_waits = False
        checkpoint = self.log.seal(now)
        self.raise_fence(checkpoint.size, checkpoint.root)  # the old one is of another log
        return name

    def _furthest(self) -> tuple[int, bytes]:
        """Return size and root of the largest head of our log that is known to be signed."""
        heads = [(self.log.signed_size, self.log.root(self.log.signed_size))]
        if (last := self._fence.last()) is not None:
            heads.append(last)
        if (ahead := self.store.meta(AHEAD)) is not None:
            shown = parse_body(parse_note(ahead).text)
            heads.append((shown.size, shown.root))
        return max(heads)

    def check_shown(self, note: bytes) -> bool:
        """Return whether a head that a witness shows is of our own log, which then holds it.

        Raises:
            LogBehindError: it is later than what is here, or contradicts it: this is an old copy.
        """
        card = self.card.log
        try:
            shown = verify_checkpoint(
                note, origin=card.name, ed25519=card.ed25519, mldsa44=card.mldsa44
            )
        except PeerError:
            return False  # of a log of before, or signed by somebody else
        size = self.log.size
        if shown.size > size or self.log.root(shown.size) != shown.root:
            with self.store.transaction():
                self.store.set_meta(AHEAD, note)
            message, fix = self.restored.behind(shown.size) or (
                f"a peer holds a head of this log with {shown.size} entries that this node signed; "
                f"here are {size} that do not fit it: this home is an old copy",
                "put back the newest node.db and fence, or begin a new log: picket log reopen",
            )
            raise LogBehindError(message, fix=fix)
        return True

    def note_head(self, node_id: bytes, note: bytes) -> None:
        """Note a verified head of a peer's log that came neither by a receipt nor to be cosigned.

        Raises:
            PeerError: it is no head.
        """
        with self.logged():
            self.witness.saw_head(node_id, note)

    # --- taking what peers deliver -----------------------------------------------------------
    def take(self, wires: Sequence[bytes], *, giver: bytes) -> Taken:
        """Admit and log the envelopes that *giver* delivered, in one transaction, and answer."""
        try:
            with self.logged():
                taken = self.take_in(wires, giver=giver)
        except BusyError as error:
            return self.too_busy(wires, error)
        self.try_follow()
        if not taken.answers:
            return taken
        return replace(taken, receipts=tuple(self.receipts.answers(taken.answers)))

    def take_in(self, wires: Sequence[bytes], *, giver: bytes) -> Taken:
        """Admit and log envelopes inside the transaction of the caller, who receipts them later."""
        done = self.intake.take(wires, giver=giver)
        return replace(done, forks=tuple(self.intake.note_forks(done.forks)))

    @staticmethod
    def too_busy(wires: Sequence[bytes], error: BusyError) -> Taken:
        """Return the answer to envelopes that a fault of ours kept out.

        Nothing was stored, so nothing is receipted or blamed.
        """
        refusals = tuple(Refusal(id_of(wire), error.code, BUSY_RETRY_MS) for wire in wires)
        return Taken((), refusals, 0, 0, (), 0, 0, frozenset(), ())

    def take_fork(self, proof: bytes, *, giver: bytes) -> Fork | None:
        """Verify and keep evidence of a fork that *giver* passed on; None if it was known.

        Raises:
            PeerError: it proves nothing, or is about a stream that is none of ours or theirs.
        """
        fork = parse_fork(proof)
        members = self.streams.members(fork.key)
        if not members:
            return None  # a stream that has not reached us yet: whoever has it says it again
        if giver not in members or self.node_id not in members:
            raise AudienceError("the fork is of a stream to which not both ends belong")
        verify_fork(fork, network=self.trust.own.network, card_at=self._open_card)
        with self.logged():
            return next(iter(self.intake.note_forks([fork])), None)

    def _open_card(self, node_id: bytes, n: int) -> Card | None:
        """Return a card that still signs: a thief of old keys can make no fork of old streams."""
        return None if n < self.trust.recovered_at(node_id) else self.trust.card_at(node_id, n)

    # --- releasing ---------------------------------------------------------------------------
    def release(self, token: bytes, shipments: Sequence[Shipment]) -> tuple[bytes, ...]:
        """Seal *shipments*, log them and queue them for delivery, in one transaction.

        Args:
            token: identifies the incident and revision, so that no crash or repeat releases twice.
            shipments: one per distinct audience and set of layers.

        Returns:
            The envelope ids, durable.

        Raises:
            LockedError: the node is locked.
            ConflictError: *token* was released before.
            BusyError: the outbox or the disk is full; nothing was released.
            PeerError: a recipient's card or key cannot be used; nothing was released.
        """
        self.keys_open()
        self.restored.check_release()
        with self.logged():
            if self.store.row("SELECT 1 FROM releases WHERE token = ?", token):
                raise ConflictError(
                    "this incident was released already", fix="see: picket incidents show"
                )
            self.outbox.check_room(sum(len(s.recipients) + len(s.carriers) for s in shipments))
            ids = tuple(self._ship(shipment, token) for shipment in shipments)
        self.pending = True
        return ids

    def _ship(self, shipment: Shipment, token: bytes) -> bytes:
        now = self.clock.now()
        sealed = self._seal(shipment, now)
        verified = VerifiedEnvelope(sealed)  # we signed it just now
        audience = sealed.audience or self._epochs[sealed.header.opener or b""].audience
        index, _ = self.intake.store(
            Admitted(verified, Part.AUTHOR, audience), giver=self.node_id, now=now
        )
        self.intake.flush()
        self.store.insert(
            "releases", {"token": token, "envelope_id": sealed.id, "layers": shipment.layers}
        )
        routes = [(peer, Route.DIRECT) for peer in shipment.recipients]
        routes += [(peer, Route.CARRIER) for peer in shipment.carriers]
        self.outbox.add(sealed.id, routes, position=index)
        self.blob_refs.add(sealed.id, shipment.blobs)
        return sealed.id

    def _seal(self, shipment: Shipment, now: int) -> Envelope:
        vault = self.keys_open()
        audience = envelope.audience_of(self.card, shipment.recipients, shipment.carriers, now=now)
        key = suite.digest(
            "own-stream", encode([list(audience.recipient_ids), list(audience.carriers)])
        )
        row = self.store.row("SELECT * FROM own_streams WHERE audience = ?", key)
        incarnation = self._begin_incarnation(now)
        current = row if row and row["incarnation"] == incarnation else None
        before = self._own_head(row) if row else suite.ZERO
        stream = current["stream"] if current else self._random(envelope.STREAM_SIZE)
        state = self.streams.state(StreamKey(self.node_id, incarnation, stream))
        header = Header(
            network=self.trust.own.network,
            author=self.node_id,
            card_n=self._card_n(),
            incarnation=incarnation,
            stream=stream,
            seq=state.contiguous + 1 if state else 1,
            prev=state.head if state else before,
            created=now,
            expires=now + limits.MAX_LIFETIME_MS,
            kind=envelope.KIND_RECORD,
            epoch=current["epoch"] if current else 1,
            opener=None,
            audience_digest=suite.ZERO,
            anchor=self._anchor(audience),
        )
        row = current
        # Of an epoch whose opener is erased nobody who lacks it could open anything.
        over = shipment.fresh or (row is not None and _epoch_over(row, now))
        lasts = row and not over and not self.erasures.knows(row["opener"])
        if row and lasts and row["keys"] == _keys_digest(audience):
            try:
                epoch = self._epoch(row["opener"])
            except PeerError:
                pass  # our own slot does not open any more: the new epoch below mends that
            else:
                return envelope.continue_epoch(
                    header, shipment.body, epoch=epoch, signer=vault.message
                )
        return self._open_epoch(header, shipment, audience, key, first=row is None)

    def _begin_incarnation(self, now: int) -> int:
        """Return the incarnation of this start of the node, which the first release fixes.

        It is later than every other even if the whole home was put back from a backup, so that no
        number of a stream is ever used twice, whatever else the copy has forgotten.
        """
        if self._incarnation is None:
            stored = int.from_bytes(self.store.meta("incarnation") or b"", "big")
            self._incarnation = max(stored + 1, now // 1000)
        fixed = self._incarnation.to_bytes(4, "big")
        if self.store.meta("incarnation") != fixed:
            self.store.set_meta("incarnation", fixed)
        return self._incarnation

    def _anchor(self, audience: Audience) -> Anchor | None:
        """Return the newest head that we cosigned of a recipient's log: nobody knew it before.

        Of a recipient's, as the audience knows of each other; not our own, which we know before
        anybody else.
        """
        ids = [each for each in audience.recipient_ids if each != self.node_id]
        row = self.store.row(
            expand(
                "SELECT origin, size, root, note FROM witnessed WHERE size > 0 "
                "AND node_id IN (??) ORDER BY at DESC, origin LIMIT 1",
                ids,
            ),
            *ids,
        )
        if row is None:
            return None
        # The next cosigning replaces it there, but evidence about this envelope needs it; the one
        # that was named first has the earliest times.
        self.store.run(
            "INSERT OR IGNORE INTO anchors (origin, size, note) VALUES (?, ?, ?)",
            row["origin"], row["size"], row["note"],
        )  # fmt: skip
        return Anchor(row["origin"], row["size"], row["root"])

    def _own_head(self, row: Mapping[str, Any]) -> bytes:
        """Return the head of the last stream for an audience, to which a new one is linked."""
        state = self.streams.state(StreamKey(self.node_id, row["incarnation"], row["stream"]))
        return state.head if state else suite.ZERO

    def _open_epoch(
        self, header: Header, shipment: Shipment, audience: Audience, key: bytes, *, first: bool
    ) -> Envelope:
        vault = self.keys_open()
        number = 1 if first else header.epoch + 1
        cards = (self.card, *shipment.recipients.values())
        epoch_key = self._random(suite.KEY_SIZE)
        sealed = envelope.open_epoch(
            replace(header, epoch=number),
            shipment.body,
            audience=audience,
            seal_keys={seal.ekid: seal.public for card in cards for seal in card.seal},
            epoch_key=epoch_key,
            signer=vault.message,
        )
        self.store.insert(
            "own_streams",
            {
                "audience": key, "incarnation": header.incarnation, "stream": header.stream,
                "epoch": number, "opener": sealed.id, "keys": _keys_digest(audience),
                "opened_at": header.created,
            },
            replace=True,
        )  # fmt: skip
        # Under its id, which nothing names if the transaction is undone.
        self._epochs[sealed.id] = Epoch(sealed.id, header.stream, number, audience, epoch_key)
        return sealed

    @property
    def card_n(self) -> int:
        """The number of our newest card."""
        return self._card_n()

    def _card_n(self) -> int:
        statements = self.trust.own.statements
        return max(s.n for s in statements if isinstance(s.body, Card))

    # --- receipts ----------------------------------------------------------------------------
    def take_receipts(self, receipts: Receipts | Runs) -> tuple[bytes, ...]:
        """Verify *receipts* against the log keys of the node that gave them, and settle.

        Returns:
            The envelope ids that are settled now, or were before.

        Raises:
            UntrustedKeyError: the recipient is not a peer.
            PeerError: a receipt is forged, or about something never sent to that node.
        """
        with self.logged():
            return self.receipts.take(receipts)

    def receipts_settled(self, author: bytes, items: Sequence[tuple[bytes, bytes]]) -> None:
        """Note that *author* holds the receipts *items*: (envelope id, recipient) pairs."""
        with self.logged():
            self.receipts.settled(author, items)

    # --- key statements and trust ------------------------------------------------------------
    def statements_of(self, node_id: bytes, first: int) -> tuple[bytes, ...]:
        """Return statements of ourselves or of a peer, from number *first* on."""
        if node_id != self.node_id and not self.trust.accepts_link(node_id):
            return ()
        rows = self.store.rows(
            "SELECT wire FROM statements WHERE node_id = ? AND n >= ? ORDER BY n LIMIT ?",
            node_id, first, limits.MAX_FRAME_STATEMENTS,
        )  # fmt: skip
        wires: list[bytes] = []
        for row in rows:
            if wires and sum(map(len, wires)) + len(row["wire"]) > limits.MAX_STATEMENTS_BYTES:
                break
            wires.append(row["wire"])
        return tuple(wires)

    def authors_of(self, envelope_ids: Sequence[bytes]) -> frozenset[bytes]:
        """Return the authors of those of *envelope_ids* that are held."""
        rows = (self.store.envelope(envelope_id) for envelope_id in envelope_ids)
        return frozenset(row["author"] for row in rows if row is not None)

    def take_statements(self, node_id: bytes, wires: Sequence[bytes]) -> int:
        """Verify and store key statements of a peer; return how many were new.

        Raises:
            PeerError: a rule is broken. Two statements of one number freeze the peer.
        """
        return self.statements.take(node_id, wires)

    def add_statement(self, statement: Statement) -> None:
        """Take a statement of our own, signed just now, into chain, database and log."""
        self.statements.add_own(statement)

    def _keep_statement(self, statement: Statement) -> None:
        row = {"node_id": self.node_id, "n": statement.n, "wire": statement.wire}
        self.store.insert("statements", row)
        self.log.append([Act(EntryKind.KEY_STATEMENT, statement.digest, (statement.n,))])

    def add_peer(self, chain: Chain, name: str) -> Peer:
        """Pin the node of a verified *chain* under *name*, or take its newer statements.

        Raises:
            TrustConflictError: it is our own card, or the name is taken.
            EquivocationError: it contradicts what we hold; the peer is frozen.
        """
        if chain.node_id in self.trust.peers:
            self.statements.learn(chain.node_id, chain.statements)
        else:
            self._change_trust(self.trust.pin(chain, name), chain.node_id, "added")
        return self.trust.peer(chain.node_id)

    def approve_peer(
        self,
        node_id: bytes,
        level: Level,
        verification: Verification,
        *,
        also: Callable[[], None] = lambda: None,
    ) -> Peer:
        """Give a peer a trust level after a human comparison; *also* is in the same transaction.

        Raises:
            TrustConflictError: it is frozen or revoked.
        """
        after = self.trust.approve(node_id, level, verification)
        self._change_trust(after, node_id, f"approved: {level}", also)
        return self.trust.peer(node_id)

    def lower_peer(self, node_id: bytes, level: Level, *, by: str) -> Peer:
        """Trust a peer less from now on; *by* is who says so.

        Raises:
            TrustConflictError: the level is not lower.
        """
        after = self.trust.lower(node_id, level)
        # Its verification, which the act repeats, says who compared the number.
        self._change_trust(after, node_id, f"lowered: {level}, by {by}")
        return self.trust.peer(node_id)

    def change_trust(self, after: TrustStore, node_id: bytes, what: str) -> None:
        """Write the peer *node_id* of *after*, log the act, and make *after* the one in use."""
        self._change_trust(after, node_id, what)

    def _change_trust(
        self,
        after: TrustStore,
        node_id: bytes,
        what: str,
        also: Callable[[], None] = lambda: None,
    ) -> None:
        """Write the peer *node_id* of *after*, log the act, and make *after* the one in use."""
        peer = after.peer(node_id)
        check = peer.verification
        now = self.clock.now()
        with self.logged():
            also()
            added = self.store.scalar("SELECT added_at FROM peers WHERE node_id = ?", node_id)
            contact = self.store.scalar("SELECT last_contact FROM peers WHERE node_id = ?", node_id)
            self.store.insert(
                "peers",
                {
                    "node_id": node_id, "name": peer.name, "level": peer.level.value,
                    "method": check.method if check else None,
                    "verified_by": check.by if check else None,
                    "verified_at": check.at if check else None,
                    "added_at": added or now, "last_contact": contact,
                },
                replace=True,
            )  # fmt: skip
            self.statements.write(peer)
            head = peer.chain.head
            by = check.by if check else None
            act = (node_id, what, peer.level.value, head.n, by, peer.name)
            kind = EntryKind.KEY_STATEMENT if what == "key statement" else EntryKind.TRUST_CHANGE
            self.log.append([Act(kind, suite.digest("trust-act", encode(act)), act)])
        self.trust = after

    def contact(self, node_id: bytes) -> None:
        """Note that *node_id* is linked now."""
        now = self.clock.now()
        self._seen(frozenset({node_id}), now)
        self.presence.note_open(node_id, now)

    def left(self, node_id: bytes) -> None:
        """Note that the link with *node_id* is gone."""
        now = self.clock.now()
        self._seen(frozenset({node_id}), now)
        self.presence.note_close(node_id, now)

    def still_linked(self, peers: frozenset[bytes]) -> None:
        """Note once a minute with whom links are open, so that a kill does not make it unknown."""
        now = self.clock.now()
        self._seen(peers, now)
        self.presence.refresh(peers, now)

    def _seen(self, peers: frozenset[bytes], now: int) -> None:
        with self.store.transaction():
            for node_id in sorted(peers):
                self.store.run("UPDATE peers SET last_contact = ? WHERE node_id = ?", now, node_id)

    # --- verifying ---------------------------------------------------------------------------
    def verify(self) -> dict[str, int]:
        """Sign what is not signed yet; verify the whole log and all that is stored, at once.

        ``node.verifying`` does it in steps.

        Returns:
            How many entries, envelopes and receipts were checked.

        Raises:
            LogCorruptionError: something does not verify; names what.
        """
        return verify_all(self)


def next_log_name(old: str) -> str:
    """Return the name of the log after *old*: ``…/log``, ``…/log2``, ``…/log3``."""
    stem = old.rstrip("0123456789")
    return f"{stem}{int(old[len(stem) :] or 1) + 1}"


def _names(chain: Chain, origin: str) -> bool:
    cards = (statement.body for statement in chain.statements)
    return any(isinstance(card, Card) and card.log.name == origin for card in cards)


def opened_digest(name: str, local: Sequence[object]) -> bytes:
    """Return the subject of the entry that opens a log in the place of another."""
    return suite.digest("log-opened", name.encode(), encode(list(local)))


def _keys_digest(audience: Audience) -> bytes:
    return suite.digest("epoch-keys", audience.encode())


def _epoch_over(row: Mapping[str, Any], now: int) -> bool:
    return bool(now - row["opened_at"] >= EPOCH_LIFETIME_MS)
