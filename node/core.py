"""The state of one node and every durable change to it; synchronous, one thread at a time.

- Each public change is one transaction of node.db that also grows and signs the log; the fence is
  raised before it returns. Only then may the caller let anything leave the node.
- Nothing here knows of sockets or tasks: the engine and the local endpoint both call it.
- A locked core admits, logs, receipts and forwards; releasing and opening need ``unlock``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Final

from keys.fingerprint import format_node_id
from keys.identity import Random, ServiceKeys, Vault
from keys.trust import Level, Peer, TrustStore, Verification
from node.casebook import Casebook
from node.clock import Clock
from node.fence import Fence
from node.home import Home
from node.log import Act, Log
from node.outbox import Outbox, Route
from node.store import Store, StreamState
from protocol import envelope, limits, suite
from protocol.admission import Known, Part, admit
from protocol.canonical import decode, encode
from protocol.entry import EntryKind, parse_entry
from protocol.envelope import Audience, Envelope, Epoch, Header, VerifiedEnvelope
from protocol.errors import (
    AudienceError,
    BusyError,
    ConflictError,
    DecodeError,
    EquivocationError,
    KeystoreError,
    LockedError,
    LogCorruptionError,
    OwnEnvelopeError,
    PeerError,
    ReceiptError,
    StoreError,
    UnknownCardError,
    UnknownEpochError,
    UntrustedKeyError,
)
from protocol.frames import Receipts, Refusal, decode_frame, encode_frame
from protocol.receipt import VerifiedReceipt, verify_receipts
from protocol.statement import Card, Chain, Statement, parse_statement

EPOCH_LIFETIME_MS: Final = 7 * 86_400_000
_BUSY_RETRY_MS: Final = 30_000
_OPENERS_KEPT: Final = 1_024  # of up to 20 KiB each
# Refusals that come from the state of the two nodes rather than from a fault of the giver.
_BLAMELESS: Final = (UnknownCardError, UnknownEpochError, UntrustedKeyError, OwnEnvelopeError)
_KINDS: Final[Mapping[Part | None, EntryKind]] = {
    Part.AUTHOR: EntryKind.RELEASED,
    Part.RECIPIENT: EntryKind.RECEIVED,
    Part.CARRIER: EntryKind.CARRIED,
}


@dataclass(frozen=True, slots=True)
class Shipment:
    """One body for one audience: what ``release`` seals into one envelope."""

    body: bytes
    layers: str
    recipients: Mapping[bytes, Card]
    carriers: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class Taken:
    """What came of a delivered frame: durable when this is returned."""

    receipts: tuple[Receipts, ...]
    refusals: tuple[Refusal, ...]
    faults: int
    stored: tuple[bytes, ...]


class _View:
    """Answers ``protocol.admission`` from the database and the trust store."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self.node_id = core.trust.own.node_id
        self.network = core.trust.own.network
        self.carries = core.carries

    def accepts_author(self, node_id: bytes) -> bool:
        return self._core.trust.accepts_author(node_id)

    def card_at(self, node_id: bytes, n: int) -> Card | None:
        return self._core.trust.card_at(node_id, n)

    def holds(self, envelope_id: bytes) -> bool:
        return self._core.store.holds(envelope_id)

    def epoch(self, opener: bytes) -> tuple[Header, Audience] | None:
        return self._core.opener(opener)


class Core:
    """A node without its network."""

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
    ) -> None:
        """Load chain, peers and log, and check that the database is not an old copy.

        With *accept* a person says that it is the newest, where the fence cannot tell.

        Raises:
            RollbackError: the database is older than what was published.
            StoreError: the database belongs to no initialised node.
            KeystoreError: the service keys are those of another node.
        """
        self.home, self.store, self.keys, self.clock = home, store, keys, clock
        self.carries = carries
        self.vault: Vault | None = None
        self.cases: Casebook | None = None
        self._fence = fence
        self._random = random
        self._epochs: dict[bytes, Epoch] = {}
        self._openers: dict[bytes, tuple[Header, Audience]] = {}
        self.behind: BusyError | None = None
        self.outbox = Outbox(store, clock)
        self.trust = self._load_trust()
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
        self.log = Log(store, keys=keys, origin=card.log.name, random=random, node_id=own.node_id)
        if accept and fence.last() is None:
            fence.raise_to(self.log.size, self.log.root())
        fence.check(self.log.size, self.log.root)

    @property
    def node_id(self) -> bytes:
        """Our node id."""
        return self.trust.own.node_id

    @property
    def card(self) -> Card:
        """Our newest card."""
        card = self.trust.own.card
        assert card is not None  # noqa: S101  checked on loading
        return card

    def close(self) -> None:
        """Close the databases and forget the keys."""
        if self.cases is not None:
            self.cases.close()
        self.vault = self.cases = None
        self._epochs.clear()
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
            try:
                level = Level(row["level"])
            except ValueError:
                raise StoreError(
                    f"the stored trust level of {row['name']} is none",
                    fix="restore node.db from its newest backup",
                ) from None
            peers.append(Peer(chain, row["name"], level, verification))
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
    def unlock(self, vault: Vault) -> None:
        """Take the keys of an opened keystore and catch up with what arrived meanwhile.

        Raises:
            StoreError: the keystore belongs to another node.
        """
        if vault.identity.public not in self.trust.own.inception.keys:
            raise StoreError(
                "this keystore belongs to another node than node.db",
                fix="put files of one node together; do not mix backups",
            )
        self.cases = Casebook(self.home.case_db, vault.storage)
        self.vault = vault
        self.try_follow()

    def opened(self) -> tuple[Vault, Casebook]:
        """Return the keys and the casebook of an unlocked node.

        Raises:
            LockedError: it is locked.
        """
        if self.vault is None or self.cases is None:
            raise LockedError("the node is locked", fix="run: picket unlock")
        return self.vault, self.cases

    def follow(self) -> int:
        """Bring case.db up to the log: open what has arrived. Return how many were opened.

        Each step is idempotent; a crash in between repeats it.
        """
        if self.vault is None or self.cases is None:
            return 0
        opened = 0
        while True:
            first = self.cases.next_index
            rows = self.store.rows(
                "SELECT e.idx, e.kind, v.* FROM entries e LEFT JOIN envelopes v "
                "ON v.log_index = e.idx WHERE e.idx >= ? ORDER BY e.idx LIMIT 200",
                first,
            )
            if not rows:
                return opened
            with self.cases.transaction():
                for row in rows:
                    if row["kind"] in {EntryKind.RECEIVED, EntryKind.RELEASED}:
                        opened += self._follow_one(self.cases, row)
                self.cases.advance(rows[-1]["idx"] + 1)

    def try_follow(self) -> None:
        """Follow as far as case.db can be written; ``behind`` says why it could not.

        What arrived is durable in node.db by then, so a full disk only delays reading it.
        """
        try:
            self.follow()
        except BusyError as error:
            self.behind = error
        else:
            self.behind = None

    def _follow_one(self, cases: Casebook, row: Mapping[str, Any]) -> int:
        # Heavy (pydantic), and needed only where incidents are opened.
        from protocol.incident import from_record  # noqa: PLC0415

        if row["id"] is None:
            raise LogCorruptionError(f"the envelope of log entry {row['idx']} is missing")
        try:
            body = decode(self.open(row["id"]), max_bytes=limits.MAX_BODY)
            from_record(body)
            if not isinstance(body, dict):
                raise DecodeError("the record is not a map")
        except PeerError as error:
            cases.quarantine(row["id"], row["idx"], error.code, self.clock.now())
            return 0
        cases.store_record(
            envelope_id=row["id"],
            log_index=row["idx"],
            author=row["author"],
            own=row["author"] == self.node_id,
            record=body,
            at=row["arrived"],
        )
        return 1

    def open(self, envelope_id: bytes) -> bytes:
        """Return the body of a stored envelope.

        Raises:
            LockedError: the node is locked.
            PeerError: it is not for us or does not open.
        """
        held = self.held(envelope_id)
        if held is None:
            raise AudienceError("the envelope is not held")
        verified = VerifiedEnvelope(held)
        epoch = self._epoch(held.header.opener or envelope_id)
        return envelope.open_body(verified, envelope.content_key(verified, epoch))

    def _epoch(self, opener: bytes) -> Epoch:
        vault, _ = self.opened()
        if opener not in self._epochs:
            held = self.held(opener)
            if held is None:
                raise UnknownEpochError("the envelope that opened the epoch is not held")
            self._epochs[opener] = envelope.unseal_epoch(
                VerifiedEnvelope(held), node_id=self.node_id, unsealer=vault
            )
        return self._epochs[opener]

    def held(self, envelope_id: bytes) -> Envelope | None:
        """Return a stored envelope, which was verified before it was stored."""
        wire = self.store.scalar("SELECT wire FROM envelopes WHERE id = ?", envelope_id)
        return None if wire is None else envelope.parse(wire)

    def opener(self, envelope_id: bytes) -> tuple[Header, Audience] | None:
        """Return header and audience of a stored envelope that opens an epoch."""
        found = self._openers.get(envelope_id)
        if found is None:
            held = self.held(envelope_id)
            if held is None or held.audience is None:
                return None
            if len(self._openers) >= _OPENERS_KEPT:
                self._openers.clear()
            found = self._openers[envelope_id] = (held.header, held.audience)
        return found

    # --- transactions ------------------------------------------------------------------------
    @contextmanager
    def logged(self) -> Iterator[None]:
        """Run the block as one transaction; if it grew the log, sign it, and raise the fence."""
        before = self.log.size
        checkpoint = None
        with self.store.transaction():
            yield
            if self.log.size != before:
                checkpoint = self.log.seal(self.clock.now())
        if checkpoint is not None:
            self._fence.raise_to(checkpoint.size, checkpoint.root)

    # --- taking what peers deliver -----------------------------------------------------------
    def take(self, wires: Sequence[bytes], *, giver: bytes) -> Taken:
        """Admit and log the envelopes that *giver* delivered: one transaction for the frame."""
        now = self.clock.now()
        refusals: list[Refusal] = []
        answers: list[tuple[bytes, int]] = []
        stored: list[bytes] = []
        faults = 0
        try:
            with self.logged():
                for wire in wires:
                    try:
                        answers.append(self._take_one(wire, giver=giver, now=now, stored=stored))
                    except PeerError as error:
                        faults += not isinstance(error, _BLAMELESS)
                        refusals.append(_refusal(wire, error))
        except BusyError as error:
            # Ours, not theirs: nothing was stored, so nothing is receipted or blamed.
            return Taken((), tuple(_busy(wire, error) for wire in wires), 0, ())
        receipts = (self.log.receipts(answers),) if answers else ()
        self.try_follow()
        return Taken(receipts, tuple(refusals), faults, tuple(stored))

    def _take_one(
        self, wire: bytes, *, giver: bytes, now: int, stored: list[bytes]
    ) -> tuple[bytes, int]:
        decision = admit(wire, view=_View(self), giver=giver, now=now)
        if isinstance(decision, Known):
            row = self.store.envelope(decision.envelope_id)
            if row is None or row["part"] == Part.AUTHOR.value:
                raise AudienceError("this node is its author")
            return decision.envelope_id, row["log_index"]
        held = decision.verified.envelope
        index = self._store_envelope(held, decision.part, giver=giver, now=now)
        if decision.part is Part.CARRIER:
            known = filter(self.trust.accepts_link, decision.audience.recipient_ids)
            self.outbox.add(held.id, [(peer, Route.FORWARD) for peer in known], position=index)
        stored.append(held.id)
        return held.id, index

    def _store_envelope(self, held: Envelope, part: Part, *, giver: bytes, now: int) -> int:
        header = held.header
        local = _envelope_local(header, giver, now)
        index = self.log.append([Act(_KINDS[part], held.id, local)])[0]
        twin = self.store.scalar(
            "SELECT id FROM envelopes WHERE author = ? AND incarnation = ? AND stream = ? "
            "AND seq = ?",
            header.author, header.incarnation, header.stream, header.seq,
        )  # fmt: skip
        self.store.insert("envelopes", _envelope_row(held, part, giver, now, index))
        forks = [] if twin is None else [(twin, held.id)]
        forks += self._advance_stream(header, held.id, forked=twin is not None)
        for pair in forks:
            evidence = suite.digest("fork", *sorted(pair))
            self.log.append([Act(EntryKind.EQUIVOCATION, evidence, pair)])
        return index

    def _advance_stream(
        self, header: Header, envelope_id: bytes, *, forked: bool
    ) -> list[tuple[bytes, bytes]]:
        """Note what is held of a stream; return the forks that its links show.

        Each is a pair: the envelope that we hold in a place, and the other that a successor names.
        """
        forks: list[tuple[bytes, bytes]] = []
        place = (header.author, header.incarnation, header.stream)
        state = self.store.stream(*place) or StreamState(0, 0, suite.ZERO, forked=False)
        contiguous, head = state.contiguous, state.head
        if header.seq == contiguous + 1:
            # A predecessor other than the one we hold was signed too: the author forked.
            if header.prev != head:
                forks.append((head, header.prev))
            contiguous, head = header.seq, envelope_id
            while following := self.store.row(
                "SELECT wire FROM envelopes WHERE author = ? AND incarnation = ? AND stream = ? "
                "AND seq = ? ORDER BY log_index LIMIT 1",
                *place,
                contiguous + 1,
            ):
                after = envelope.parse(following["wire"])
                if after.header.prev != head:
                    forks.append((head, after.header.prev))
                contiguous, head = contiguous + 1, after.id
        self.store.insert(
            "streams",
            {
                "author": header.author, "incarnation": header.incarnation,
                "stream": header.stream, "contiguous": contiguous,
                "highest": max(state.highest, header.seq), "head": head,
                "forked": int(state.forked or forked or bool(forks)),
            },
            replace=True,
        )  # fmt: skip
        return forks

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
        self.opened()
        with self.logged():
            if self.store.row("SELECT 1 FROM releases WHERE token = ?", token):
                raise ConflictError(
                    "this incident was released already", fix="see: picket incidents show"
                )
            self.outbox.check_room(sum(len(s.recipients) + len(s.carriers) for s in shipments))
            ids = tuple(self._ship(shipment, token) for shipment in shipments)
        self.try_follow()
        return ids

    def _ship(self, shipment: Shipment, token: bytes) -> bytes:
        now = self.clock.now()
        sealed = self._seal(shipment, now)
        index = self._store_envelope(sealed, Part.AUTHOR, giver=self.node_id, now=now)
        self.store.insert(
            "releases", {"token": token, "envelope_id": sealed.id, "layers": shipment.layers}
        )
        routes = [(peer, Route.DIRECT) for peer in shipment.recipients]
        routes += [(peer, Route.CARRIER) for peer in shipment.carriers]
        self.outbox.add(sealed.id, routes, position=index)
        return sealed.id

    def _seal(self, shipment: Shipment, now: int) -> Envelope:
        vault, _ = self.opened()
        audience = envelope.audience_of(self.card, shipment.recipients, shipment.carriers, now=now)
        key = suite.digest(
            "own-stream", encode([list(audience.recipient_ids), list(audience.carriers)])
        )
        row = self.store.row("SELECT * FROM own_streams WHERE audience = ?", key)
        stream = row["stream"] if row else self._random(envelope.STREAM_SIZE)
        state = self.store.stream(self.node_id, 1, stream)
        header = Header(
            network=self.trust.own.network,
            author=self.node_id,
            card_n=self._card_n(),
            incarnation=1,
            stream=stream,
            seq=state.contiguous + 1 if state else 1,
            prev=state.head if state else suite.ZERO,
            created=now,
            expires=now + limits.MAX_LIFETIME_MS,
            kind=envelope.KIND_RECORD,
            epoch=row["epoch"] if row else 1,
            opener=None,
            audience_digest=suite.ZERO,
            anchor=None,
        )
        if row and row["keys"] == _keys_digest(audience) and not _epoch_over(row, now):
            try:
                epoch = self._epoch(row["opener"])
            except PeerError:
                pass  # our own slot does not open any more: the new epoch below mends that
            else:
                return envelope.continue_epoch(
                    header, shipment.body, epoch=epoch, signer=vault.message
                )
        return self._open_epoch(header, shipment, audience, key, first=row is None)

    def _open_epoch(
        self, header: Header, shipment: Shipment, audience: Audience, key: bytes, *, first: bool
    ) -> Envelope:
        vault, _ = self.opened()
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
                "audience": key, "stream": header.stream, "epoch": number, "opener": sealed.id,
                "keys": _keys_digest(audience), "opened_at": header.created,
            },
            replace=True,
        )  # fmt: skip
        # Under its id, which nothing names if the transaction is undone.
        self._epochs[sealed.id] = Epoch(sealed.id, header.stream, number, audience, epoch_key)
        return sealed

    def _card_n(self) -> int:
        statements = self.trust.own.statements
        return max(s.n for s in statements if isinstance(s.body, Card))

    # --- receipts ----------------------------------------------------------------------------
    def take_receipts(self, receipts: Receipts) -> tuple[bytes, ...]:
        """Verify *receipts* against the log keys of the node that gave them, and settle.

        Returns:
            The envelope ids that are settled now, or were before.

        Raises:
            UntrustedKeyError: the recipient is not a peer.
            PeerError: a receipt is forged, or about something never sent to that node.
        """
        # A proof stays one whatever has become of the peer since, so its level does not matter.
        peer = self.trust.peers.get(receipts.recipient)
        if peer is None:
            raise UntrustedKeyError("a receipt of a node that is not a peer")
        verified = verify_receipts(receipts, log=peer.card.log)
        now = self.clock.now()
        with self.logged():
            for item, receipt in zip(receipts.items, verified, strict=True):
                single = Receipts(receipts.recipient, receipts.checkpoint, (item,))
                self._settle(receipt, single, now)
        return tuple(receipt.envelope_id for receipt in verified)

    def _settle(self, receipt: VerifiedReceipt, single: Receipts, now: int) -> None:
        row = self.outbox.row(receipt.envelope_id, receipt.recipient)
        if row is None:
            raise ReceiptError("a receipt for an envelope that was not sent to that node")
        carried = row["route"] == Route.CARRIER
        expected = EntryKind.CARRIED if carried else EntryKind.RECEIVED
        if receipt.kind is not expected:
            raise ReceiptError("a receipt that claims another part in the envelope than was given")
        if not self.outbox.settle(receipt.envelope_id, receipt.recipient, carried=carried):
            return
        if self.store.row(
            "SELECT 1 FROM receipts WHERE envelope_id = ? AND recipient = ? AND kind = ?",
            receipt.envelope_id, receipt.recipient, int(receipt.kind),
        ):  # fmt: skip
            return  # an opener that was sent once more; its first receipt stands
        frame = encode_frame(single)
        self.store.insert(
            "receipts",
            {
                "envelope_id": receipt.envelope_id, "recipient": receipt.recipient,
                "kind": int(receipt.kind), "log_index": receipt.index,
                "tree_size": receipt.checkpoint.size, "frame": frame, "at": now,
                "relayed": int(row["route"] != Route.FORWARD),
            },
        )  # fmt: skip
        subject = _receipt_subject(receipt.envelope_id, receipt.recipient, frame)
        self.log.append([Act(EntryKind.RECEIPT, subject, (receipt.envelope_id,))])

    def receipts_for(
        self, author: bytes, *, passed: frozenset[tuple[bytes, bytes]]
    ) -> list[Receipts]:
        """Return receipts that we, as a carrier, hold for *author*, who has not settled them.

        Args:
            author: whose envelopes we carried.
            passed: (envelope id, recipient) of those that this link has had already.
        """
        rows = self.store.rows(
            "SELECT r.* FROM receipts r JOIN envelopes v ON v.id = r.envelope_id "
            "WHERE r.relayed = 0 AND v.author = ? ORDER BY r.at LIMIT ?",
            author, limits.LINK_WINDOW + len(passed),
        )  # fmt: skip
        fresh = [row for row in rows if (row["envelope_id"], row["recipient"]) not in passed]
        try:
            return [stored_receipt(row) for row in fresh[: limits.LINK_WINDOW]]
        except PeerError as error:
            raise LogCorruptionError(f"a stored receipt is damaged: {error}") from None

    def receipts_settled(self, author: bytes, items: Sequence[tuple[bytes, bytes]]) -> None:
        """Note that *author* holds the receipts *items*: (envelope id, recipient) pairs."""
        with self.store.transaction():
            for envelope_id, recipient in items:
                self.store.run(
                    "UPDATE receipts SET relayed = 1 WHERE envelope_id = ? AND recipient = ? "
                    "AND envelope_id IN (SELECT id FROM envelopes WHERE author = ?)",
                    envelope_id, recipient, author,
                )  # fmt: skip

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
        statements = [parse_statement(wire) for wire in wires]
        if any(statement.node_id != node_id for statement in statements):
            raise UntrustedKeyError("key statements of another node than announced")
        before = self.trust.peers.get(node_id)
        known = len(before.chain.statements) if before else 0
        try:
            after = self.trust.apply(node_id, statements)
        except EquivocationError:
            self._change_trust(self.trust.freeze(node_id), node_id, "frozen: two statements")
            raise
        if len(after.peer(node_id).chain.statements) > known:
            self._change_trust(after, node_id, "key statement")
        return len(after.peer(node_id).chain.statements) - known

    def add_statement(self, statement: Statement) -> None:
        """Take a statement of our own, signed just now, into chain, database and log."""
        chain = self.trust.own.extend(statement)
        with self.logged():
            self.store.insert(
                "statements",
                {"node_id": self.node_id, "n": statement.n, "wire": statement.wire},
            )
            self.log.append([Act(EntryKind.KEY_STATEMENT, statement.digest, (statement.n,))])
        self.trust = replace(self.trust, own=chain)

    def add_peer(self, chain: Chain, name: str) -> Peer:
        """Pin the node of a verified *chain* under *name*, or take its newer statements.

        Raises:
            TrustConflictError: it is our own card, or the name is taken.
            EquivocationError: it contradicts what we hold; the peer is frozen.
        """
        try:
            after = self.trust.pin(chain, name)
        except EquivocationError:
            self._change_trust(
                self.trust.freeze(chain.node_id), chain.node_id, "frozen: two statements"
            )
            raise
        if after.peers != self.trust.peers:
            self._change_trust(after, chain.node_id, "added")
        return self.trust.peer(chain.node_id)

    def approve_peer(self, node_id: bytes, level: Level, verification: Verification) -> Peer:
        """Give a peer a trust level after a human comparison.

        Raises:
            TrustConflictError: it is frozen or revoked.
        """
        after = self.trust.approve(node_id, level, verification)
        self._change_trust(after, node_id, f"approved: {level}")
        return self.trust.peer(node_id)

    def _change_trust(self, after: TrustStore, node_id: bytes, what: str) -> None:
        """Write the peer *node_id* of *after*, log the act, and make *after* the one in use."""
        peer = after.peer(node_id)
        check = peer.verification
        now = self.clock.now()
        with self.logged():
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
            for statement in peer.chain.statements:
                self.store.insert(
                    "statements",
                    {"node_id": node_id, "n": statement.n, "wire": statement.wire},
                    replace=True,
                )
            head = peer.chain.head
            by = check.by if check else None
            act = (node_id, what, peer.level.value, head.n, by, peer.name)
            kind = EntryKind.KEY_STATEMENT if what == "key statement" else EntryKind.TRUST_CHANGE
            self.log.append([Act(kind, suite.digest("trust-act", encode(act)), act)])
        self.trust = after

    def contact(self, node_id: bytes) -> None:
        """Note that *node_id* is linked now."""
        with self.store.transaction():
            self.store.run(
                "UPDATE peers SET last_contact = ? WHERE node_id = ?", self.clock.now(), node_id
            )

    # --- verifying ---------------------------------------------------------------------------
    def verify(self) -> dict[str, int]:
        """Verify the whole log, every stored envelope and every receipt.

        Returns:
            How many of each were checked.

        Raises:
            LogCorruptionError: something does not verify; names what.
        """
        entries = self.log.verify()
        self._verify_none_missing()
        self._verify_trust()
        envelopes = 0
        for row in self.store.rows("SELECT id FROM envelopes"):
            self._verify_envelope(row["id"])
            envelopes += 1
        receipts = 0
        for row in self.store.rows("SELECT * FROM receipts"):
            self._verify_receipt(row)
            receipts += 1
        return {"entries": entries, "envelopes": envelopes, "receipts": receipts}

    def _verify_trust(self) -> None:
        """Check peers and key statements against the last act that the log has of each."""
        acts: dict[bytes, tuple[object, ...]] = {}
        own: object = self._first_card_n()
        for row in self.store.rows(
            "SELECT local FROM entries WHERE kind IN (?, ?) ORDER BY idx",
            int(EntryKind.TRUST_CHANGE), int(EntryKind.KEY_STATEMENT),
        ):  # fmt: skip
            local = decode(row["local"], max_bytes=limits.MAX_HEADER)
            if isinstance(local, list) and len(local) == 1:
                own = local[0]
            elif isinstance(local, list) and isinstance(local[0], bytes):
                acts[local[0]] = tuple(local[2:])
        if own != self.trust.own.head.n:
            raise LogCorruptionError(
                f"{own} key statements of this node were logged, others stored"
            )
        held = {
            peer.node_id: (
                peer.level.value,
                peer.chain.head.n,
                peer.verification.by if peer.verification else None,
                peer.name,
            )
            for peer in self.trust.peers.values()
        }
        for node_id in acts.keys() | held.keys():
            if acts.get(node_id) != held.get(node_id):
                raise LogCorruptionError(
                    f"what is stored of the peer {format_node_id(node_id)[:7]} differs from the "
                    "last act that the log has of it"
                )

    def _first_card_n(self) -> int:
        """Return the number of the card made with the node, which stands in no entry."""
        return next(s.n for s in self.trust.own.statements if isinstance(s.body, Card))

    def _verify_none_missing(self) -> None:
        """Check that each entry about an envelope or receipt still has it."""
        kinds = (EntryKind.RECEIVED, EntryKind.RELEASED, EntryKind.CARRIED)
        index = self.store.scalar(
            "SELECT e.idx FROM entries e LEFT JOIN envelopes v ON v.log_index = e.idx "
            "WHERE e.kind IN (?, ?, ?) AND v.id IS NULL ORDER BY e.idx LIMIT 1",
            *(int(kind) for kind in kinds),
        )
        if index is not None:
            raise LogCorruptionError(f"the envelope of log entry {index} is missing")
        rows = self.store.rows("SELECT envelope_id, recipient, frame FROM receipts")
        held = {_receipt_subject(r["envelope_id"], r["recipient"], r["frame"]) for r in rows}
        for row in self.store.rows(
            "SELECT idx, entry FROM entries WHERE kind = ? ORDER BY idx", int(EntryKind.RECEIPT)
        ):
            subject = parse_entry(row["entry"]).subject
            if subject not in held:
                raise LogCorruptionError(
                    f"the receipt of log entry {row['idx']} is missing or was changed"
                )
            held.discard(subject)
        if held:
            raise LogCorruptionError(f"{len(held)} stored receipts stand in no log entry")

    def _verify_envelope(self, envelope_id: bytes) -> None:
        row = self.store.envelope(envelope_id)
        if row is None:
            raise LogCorruptionError("an envelope went missing while it was verified")
        index = row["log_index"]
        try:
            held = envelope.parse(row["wire"])
            card = self.trust.card_at(held.header.author, held.header.card_n)
            if card is None:
                raise LogCorruptionError(f"the author's card of log entry {index} is missing")
            envelope.verify(held, network=self.trust.own.network, message_key=card.message)
        except PeerError as error:
            raise LogCorruptionError(
                f"the envelope of log entry {index} does not verify: {error}"
            ) from None
        logged = self.store.row("SELECT * FROM entries WHERE idx = ?", index)
        if logged is None or parse_entry(logged["entry"]).subject != held.id:
            raise LogCorruptionError(f"log entry {index} is about another envelope")
        local = encode(_envelope_local(held.header, row["giver"], row["arrived"]))
        part = next((part for part in Part if part.value == row["part"]), None)
        expected = _envelope_row(held, part, row["giver"], row["arrived"], index)
        if row != expected or local != logged["local"] or _KINDS.get(part) != logged["kind"]:
            raise LogCorruptionError(f"the record of the envelope of log entry {index} was changed")

    def _verify_receipt(self, row: Mapping[str, Any]) -> None:
        try:
            receipts = stored_receipt(row)
            peer = self.trust.peers.get(receipts.recipient)
            if peer is None:
                raise ReceiptError("it is of a node that is not a peer")
            (verified,) = verify_receipts(receipts, log=peer.card.log)
        except (PeerError, ValueError) as error:
            raise LogCorruptionError(f"a stored receipt does not verify: {error}") from None
        stored = (
            row["envelope_id"], row["recipient"], row["kind"], row["log_index"], row["tree_size"],
        )  # fmt: skip
        if stored != (
            verified.envelope_id, verified.recipient, int(verified.kind), verified.index,
            verified.checkpoint.size,
        ):  # fmt: skip
            raise LogCorruptionError("the record of a stored receipt was changed")


def _envelope_local(header: Header, giver: bytes, arrived: int) -> tuple[object, ...]:
    """Return what only this node knows of an envelope, for its log entry to commit to."""
    return (header.author, header.incarnation, header.stream, header.seq, giver, arrived)


def _envelope_row(
    held: Envelope, part: Part | None, giver: bytes, arrived: int, index: int
) -> dict[str, object]:
    header = held.header
    return {
        "id": held.id, "author": header.author, "incarnation": header.incarnation,
        "stream": header.stream, "seq": header.seq, "opener": header.opener,
        "expires": header.expires, "part": part.value if part else None, "giver": giver,
        "arrived": arrived, "log_index": index, "wire": held.wire,
    }  # fmt: skip


def stored_receipt(row: Mapping[str, Any]) -> Receipts:
    """Return the receipt that a row of the receipts table holds.

    Raises:
        PeerError: it was damaged on disk.
    """
    frame = decode_frame(row["frame"])
    if not isinstance(frame, Receipts):
        raise ReceiptError("the stored receipt is not one")
    return frame


def _receipt_subject(envelope_id: bytes, recipient: bytes, frame: bytes) -> bytes:
    return suite.digest("receipt", envelope_id, recipient, frame)


def _keys_digest(audience: Audience) -> bytes:
    return suite.digest("epoch-keys", audience.encode())


def _epoch_over(row: Mapping[str, Any], now: int) -> bool:
    return bool(now - row["opened_at"] >= EPOCH_LIFETIME_MS)


def _refusal(wire: bytes, error: PeerError) -> Refusal:
    return Refusal(_id_of(wire), error.code, 0)


def _busy(wire: bytes, error: BusyError) -> Refusal:
    return Refusal(_id_of(wire), error.code, _BUSY_RETRY_MS)


def _id_of(wire: bytes) -> bytes:
    """Return the envelope id of *wire*, or a digest of it where it has none."""
    try:
        return envelope.parse(wire).id
    except PeerError:
        return suite.digest("unparsable", wire)
