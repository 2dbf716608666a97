"""Epochs that do not open: telling their authors, sealing them again for others, opening them late.

- ``unopened`` holds each epoch of others whose slot does not open, until a new slot does;
  ``reseals`` what others could not open of ours, and what they were given for it.
- Both ends keep the signed notice and the signed answer: who put bad slots for one member, or asks
  for what it could read, leaves proof of it with the other.
- Everything is remembered before it is said: a crash costs a repetition, never a notice or answer.
- What opens late becomes a log entry of its own, and is shown under the place of that entry:
  whoever reads incidents by a cursor meets it, although it came long before.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Final, Protocol

from keys.fingerprint import format_node_id
from keys.identity import Vault
from keys.trust import Level, TrustStore
from node.access import AccessBook
from node.casebook import Casebook
from node.clock import Clock
from node.store import Store
from protocol import limits, reseal
from protocol.admission import Part
from protocol.canonical import decode, encode
from protocol.envelope import Audience, Envelope, Epoch, Header
from protocol.errors import OpenError, PeerError, QuotaError, StoreError, UnknownEpochError
from protocol.reseal import Fault, Given, Notice, SealedAgain, Unopened
from protocol.shape import array
from protocol.statement import Card

SEAL_AGAIN: Final = "seal-again"
"""What the log calls it when this node seals an epoch again to one of its readers."""
OPENED_LATE: Final = "opened-late"
"""What the log calls it when an envelope opens that did not open when it came."""
NODE: Final = "node"
"""Who acts when nobody told the node to."""
_PAGE: Final = 64
_DAY_MS: Final = 86_400_000
_SHOWN_MS: Final = 7 * _DAY_MS


class Owner(Protocol):
    """What resealing needs of the node that it belongs to."""

    trust: TrustStore
    access: AccessBook
    vault: Vault | None
    pending: bool
    signing_waits: bool

    @property
    def node_id(self) -> bytes:
        """Our node id."""
        ...

    @property
    def card_n(self) -> int:
        """The number of our newest card."""
        ...

    def held(self, envelope_id: bytes) -> Envelope | None:
        """Return a stored envelope."""
        ...

    def opener(self, envelope_id: bytes) -> tuple[Header, Audience] | None:
        """Return header and audience of a stored envelope that opens an epoch."""
        ...

    def epoch(self, opener: bytes) -> Epoch:
        """Return the epoch that *opener* opened."""
        ...

    def forget_epoch(self, opener: bytes) -> None:
        """Look up the epoch anew when it is needed next."""
        ...

    def logged(self) -> AbstractContextManager[None]:
        """Run a block as one transaction, or as a part of the open one."""
        ...


@dataclass(frozen=True, slots=True)
class Told:
    """What a notice for the operator says of one peer."""

    peer: bytes
    envelopes: int
    at: int | None
    wrong: int = 0
    too_old: int = 0
    owed: bool = False


class _View:
    """Answers ``protocol.reseal`` from the node."""

    def __init__(self, owner: Owner) -> None:
        self._owner = owner

    @property
    def node_id(self) -> bytes:
        return self._owner.node_id

    @property
    def network(self) -> bytes:
        return self._owner.trust.own.network

    def shares_with(self, node_id: bytes) -> bool:
        peer = self._owner.trust.peers.get(node_id)
        return peer is not None and peer.level is Level.SHARE

    def newest_card(self, node_id: bytes) -> tuple[int, Card] | None:
        peer = self._owner.trust.peers.get(node_id)
        if peer is None:
            return None
        number = max(s.n for s in peer.chain.statements if isinstance(s.body, Card))
        return number, peer.card

    def opener(self, envelope_id: bytes) -> tuple[Header, Audience] | None:
        return self._owner.opener(envelope_id)


class Resealing:
    """What this node could not open, and what others could not open of it."""

    def __init__(self, owner: Owner, *, store: Store, clock: Clock) -> None:
        self._owner, self._store, self._clock = owner, store, clock
        self._view = _View(owner)
        self._to_retry = False

    # --- as a reader: what does not open -----------------------------------------------------
    def epoch(self, held: Envelope, vault: Vault) -> Epoch | None:
        """Return the epoch of an opener by the new slot that is kept for it; None without one.

        Raises:
            OpenError: the new slot does not open any more.
        """
        row = self._row(held.id)
        if row is None or row["slot"] is None or row["mended_at"] is None:
            return None
        return reseal.open_slot(_slot(row["slot"]).slot, held, vault)

    def fault(self, opener: bytes, error: PeerError) -> Fault | None:
        """Return what is wrong with the epoch of an envelope that did not open; None if nothing.

        Then its author encrypted that body wrongly, and no new slot would mend it.
        """
        vault, held = self._owner.vault, self._owner.held(opener)
        if not isinstance(error, OpenError) or vault is None or held is None:
            return None
        if held.header.author == self._owner.node_id:
            return None
        try:
            reseal.check_key(held, self._owner.epoch(opener))
        except PeerError:
            return reseal.fault_of(held, node_id=self._owner.node_id, unsealer=vault) or Fault.SLOT
        return None

    def note(self, faults: Mapping[bytes, Fault]) -> None:
        """Remember that these epochs do not open, so that their authors are told.

        Call inside a transaction; what is remembered already stays as it is.
        """
        now = self._clock.now()
        for opener, fault in faults.items():
            held = self._owner.held(opener)
            known = self._row(opener)
            if held is None or (known is not None and known["mended_at"] is None):
                continue
            self._owner.forget_epoch(opener)
            self._store.insert(
                "unopened",
                {
                    "opener": opener, "author": held.header.author, "fault": fault.value,
                    "noted_at": now, "asked_at": None, "attempts": 0, "next_at": 0, "wrong": 0,
                    "slot": None, "mended_at": None, "looked": 0,
                },
                replace=True,
            )  # fmt: skip

    def authors_to_ask(self) -> frozenset[bytes]:
        """Return the authors of epochs that do not open; of a locked node nobody."""
        if self._owner.vault is None:
            return frozenset()
        rows = self._store.rows("SELECT DISTINCT author FROM unopened WHERE mended_at IS NULL")
        return frozenset(row["author"] for row in rows)

    def notices(self, author: bytes) -> tuple[Unopened, ...]:
        """Return the notices that are due to *author*, which is linked, and note that they go out.

        A locked node gives none: it lacks the key, and cannot tell whether a slot opens.

        Raises:
            BusyError: the disk takes nothing; they are due still.
        """
        vault, now = self._owner.vault, self._clock.now()
        if vault is None:
            return ()
        # What waits longer than anything can was noted by a clock that has been set back since.
        due = self._store.rows(
            "SELECT opener, fault, attempts FROM unopened WHERE mended_at IS NULL AND author = ? "
            "AND (next_at <= ? OR next_at > ?) ORDER BY next_at, opener LIMIT ?",
            author, now, now + limits.RESEAL_RETRY_MAX_MS, limits.MAX_NOTICES,
        )  # fmt: skip
        found = []
        with self._owner.logged():
            for row in due:
                known = self._owner.opener(row["opener"])
                if known is None or not reseal.may_ask(known[0], now):
                    # Nobody answers for it; look again with the longest wait, for the clock may
                    # be wrong.
                    attempts, asked = row["attempts"], False
                    next_at = now + limits.RESEAL_RETRY_MAX_MS
                else:
                    attempts, asked = row["attempts"] + 1, True
                    next_at = reseal.retry_at(attempts, now)
                    found.append(self._notice(row, vault, now))
                self._store.run(
                    "UPDATE unopened SET attempts = ?, next_at = ?, "
                    "asked_at = CASE WHEN ? THEN ? ELSE asked_at END WHERE opener = ?",
                    attempts, next_at, asked, now, row["opener"],
                )  # fmt: skip
        return tuple(found)

    def _notice(self, row: Mapping[str, Any], vault: Vault, now: int) -> Unopened:
        own = self._owner
        notice = Notice(
            network=own.trust.own.network,
            reader=own.node_id,
            card_n=own.card_n,
            opener=row["opener"],
            fault=Fault(row["fault"]),
            issued=now,
        )
        return reseal.sign_notice(notice, vault.message)

    def take_slot(self, said: SealedAgain) -> PeerError | None:
        """Take a new slot that an author sent; return what is wrong with it, if it does not open.

        A locked node keeps it and tries it once it is unlocked. Call inside a transaction.

        Raises:
            UnknownEpochError: nobody waits for it.
            PeerError: it is not from the author, or not for us.
        """
        slot = said.slot
        row = self._row(slot.opener)
        if row is None or row["mended_at"] is not None:
            raise UnknownEpochError("no new slot is awaited for that epoch")
        reseal.check_slot(said, view=self._view)
        return self._try_slot(said)

    def _try_slot(self, said: SealedAgain) -> PeerError | None:
        opener, vault, held = (
            said.slot.opener,
            self._owner.vault,
            self._owner.held(said.slot.opener),
        )
        if held is None:
            raise UnknownEpochError("the envelope that opened the epoch is not held")
        wire = encode(reseal.reseal_frame_value(said))
        if vault is None:
            self._store.run("UPDATE unopened SET slot = ? WHERE opener = ?", wire, opener)
            return None
        try:
            reseal.open_slot(said.slot, held, vault)
        except OpenError as error:
            self._store.run(
                "UPDATE unopened SET wrong = wrong + 1, slot = NULL WHERE opener = ?", opener
            )
            return error
        self._mended(opener, wire)
        return None

    def _mended(self, opener: bytes, slot: bytes | None) -> None:
        self._store.run(
            "UPDATE unopened SET slot = ?, mended_at = ?, looked = 0 WHERE opener = ?",
            slot, self._clock.now(), opener,
        )  # fmt: skip
        self._owner.forget_epoch(opener)
        self._owner.pending = True

    # --- as a reader: opening late -----------------------------------------------------------
    def unlocked(self) -> None:
        """Note that there are keys now: slots may have come, or a lost key may be back."""
        self._to_retry = True

    def requeue(self, cases: Casebook) -> bool:
        """Log a page of the envelopes that can be opened by now; False if there is nothing to do.

        Opening them is then a matter of following the log, like any other.

        Raises:
            BusyError: the disk is full; nothing was changed.
        """
        if self._to_retry:
            self._retry()
            self._to_retry = False
        row = self._store.row(
            "SELECT * FROM unopened WHERE mended_at IS NOT NULL AND looked < ? LIMIT 1",
            limits.MAX_SEQ,
        )
        if row is None:
            return False
        found, looked = self._page(row["opener"], row["looked"])
        waiting = cases.in_quarantine(found)
        with self._owner.logged():
            for envelope_id in waiting:
                index = self._owner.access.record(OPENED_LATE, [envelope_id], NODE)
                self._store.insert("late", {"log_index": index, "envelope_id": envelope_id})
            self._store.run(
                "UPDATE unopened SET looked = ? WHERE opener = ?", looked, row["opener"]
            )
        return True

    def _page(self, opener: bytes, looked: int) -> tuple[list[bytes], int]:
        """Return envelopes of an epoch behind number *looked* of its stream, and how far they go.

        Two may stand in one place, if their author forked the stream: they stay on one page.
        """
        place = self._store.row(
            "SELECT author, incarnation, stream FROM envelopes WHERE id = ?", opener
        )
        if place is None:
            return [], limits.MAX_SEQ
        rows = self._store.rows(
            "SELECT id, seq FROM envelopes WHERE author = ? AND incarnation = ? AND stream = ? "
            "AND seq > ? AND (opener = ? OR id = ?) AND part = ? ORDER BY seq LIMIT ?",
            *place.values(), looked, opener, opener, Part.RECIPIENT.value, _PAGE,
        )  # fmt: skip
        if len(rows) < _PAGE:
            return [row["id"] for row in rows], limits.MAX_SEQ
        whole = [row for row in rows if row["seq"] != rows[-1]["seq"]]
        return [row["id"] for row in whole], whole[-1]["seq"]

    def late(self, row: Mapping[str, Any]) -> Mapping[str, Any] | None:
        """Return the envelope that the log entry of *row* opens late, as if it came there."""
        if row["late"] is None:
            return None
        held = self._store.envelope(row["late"])
        if held is None or held["wire"] is None:
            return None
        return {**held, "idx": row["idx"], "late": row["late"]}

    def _retry(self) -> None:
        """Try again what did not open: by a slot that came meanwhile, or by a key that is back."""
        following = b""
        while rows := self._store.rows(
            "SELECT opener, slot FROM unopened WHERE mended_at IS NULL AND opener > ? "
            "ORDER BY opener LIMIT ?",
            following, _PAGE,
        ):  # fmt: skip
            with self._owner.logged():
                for row in rows:
                    self._retry_one(row["opener"], row["slot"])
            following = rows[-1]["opener"]

    def _retry_one(self, opener: bytes, slot: bytes | None) -> None:
        held, vault = self._owner.held(opener), self._owner.vault
        if held is None or vault is None:
            return
        if reseal.fault_of(held, node_id=self._owner.node_id, unsealer=vault) is None:
            self._mended(opener, None)
        elif slot is not None:
            self._try_slot(_slot(slot))

    # --- as an author ------------------------------------------------------------------------
    def take_notice(self, said: Unopened) -> None:
        """Take a notice of a reader; what it is owed is given by ``answers``.

        Call inside a transaction.

        Raises:
            QuotaError: it had as many answers for this epoch today as anybody gets.
            PeerError: it is none that this node answers.
        """
        now = self._clock.now()
        notice = reseal.check_notice(said, view=self._view, now=now)
        row = self._given(notice.reader, notice.opener)
        if row is not None and Given(row["since"], row["answers"]).exhausted(now):
            raise QuotaError("the reader had enough answers for this epoch today")
        before: Mapping[str, Any] = row or {
            "ekid": None, "answer": None, "answered_at": None, "since": now, "answers": 0,
            "asked": 0,
        }  # fmt: skip
        self._store.insert(
            "reseals",
            {
                **before, "reader": notice.reader, "opener": notice.opener,
                "notice": encode(reseal.reseal_frame_value(said)), "asked_at": now,
                "asked": before["asked"] + 1, "owed": 1, "code": None,
            },
            replace=True,
        )  # fmt: skip

    def readers_owed(self) -> frozenset[bytes]:
        """Return the readers that wait for an answer; of a locked node nobody gets one."""
        if self._owner.vault is None:
            return frozenset()
        rows = self._store.rows("SELECT DISTINCT reader FROM reseals WHERE owed = 1")
        return frozenset(row["reader"] for row in rows)

    def answers(self, reader: bytes) -> tuple[SealedAgain, ...]:
        """Return what is owed to *reader*, which is linked: sealed, logged and noted as given.

        What was given before is given again as it was, unless the reader has another key by now.

        Raises:
            BusyError: the disk takes nothing; it is owed still.
        """
        vault, now = self._owner.vault, self._clock.now()
        waits = self._owner.signing_waits  # then nothing may be logged that others hear of
        if vault is None or waits or not self._view.shares_with(reader):
            return ()
        used = self._store.scalar(
            "SELECT coalesce(sum(answers), 0) FROM reseals WHERE reader = ? AND since > ?",
            reader, now - _DAY_MS,
        )  # fmt: skip
        room = min(limits.MAX_NOTICES, limits.MAX_RESEALS_PER_DAY - used)
        if room <= 0:
            return ()
        rows = self._store.rows(
            "SELECT * FROM reseals WHERE reader = ? AND owed = 1 ORDER BY asked_at, opener LIMIT ?",
            reader, room,
        )  # fmt: skip
        found = []
        with self._owner.logged():
            for row in rows:
                try:
                    found.append(self._answer(row, vault, now))
                except PeerError as error:
                    # Our own slot does not open, or the reader's card has run out.
                    self._store.run(
                        "UPDATE reseals SET owed = 0, code = ? WHERE reader = ? AND opener = ?",
                        error.code, reader, row["opener"],
                    )  # fmt: skip
        return tuple(found)

    def _answer(self, row: Mapping[str, Any], vault: Vault, now: int) -> SealedAgain:
        reader, opener = row["reader"], row["opener"]
        newest = self._view.newest_card(reader)
        assert newest is not None  # noqa: S101  the caller has seen that it is a peer
        if row["answer"] is not None and row["ekid"] == newest[1].seal_key(now).ekid:
            answer = _slot(row["answer"])
            if answer.slot.card_n == self._owner.card_n:
                self._note_given(row, answer, now)
                return answer
        known, held = self._owner.opener(opener), self._owner.held(opener)
        if known is None:
            raise UnknownEpochError("the envelope that opened the epoch is not held")
        epoch = self._owner.epoch(opener)
        if held is not None:  # it may be erased here, but not there
            reseal.check_key(held, epoch)
        answer = reseal.seal_again(
            epoch, author=(known[0], self._owner.card_n), reader=reader, card=newest[1],
            now=now, signer=vault.message,
        )  # fmt: skip
        self._owner.access.record(SEAL_AGAIN, [opener], NODE, f"to {format_node_id(reader)}")
        self._note_given(row, answer, now)
        return answer

    def _note_given(self, row: Mapping[str, Any], answer: SealedAgain, now: int) -> None:
        given = Given(row["since"], row["answers"]).one_more(now)
        self._store.run(
            "UPDATE reseals SET owed = 0, code = NULL, ekid = ?, answer = ?, answered_at = ?, "
            "since = ?, answers = ? WHERE reader = ? AND opener = ?",
            answer.slot.ekid, encode(reseal.reseal_frame_value(answer)), now, given.since,
            given.count, row["reader"], row["opener"],
        )  # fmt: skip

    # --- what operators see ------------------------------------------------------------------
    def unopened(self) -> list[Told]:
        """Return, for each author, what of it does not open, and when it was asked last."""
        now = self._clock.now()
        rows = self._store.rows("SELECT * FROM unopened WHERE mended_at IS NULL ORDER BY author")
        told: dict[bytes, Told] = {}
        for row in rows:
            before = told.get(row["author"], Told(row["author"], 0, None))
            count = self._count(row["opener"])
            known = self._owner.opener(row["opener"])
            old = known is None or not reseal.may_ask(known[0], now)
            told[row["author"]] = Told(
                row["author"],
                before.envelopes + count,
                max(before.at or 0, row["asked_at"] or 0) or None,
                before.wrong + row["wrong"],
                before.too_old + (count if old else 0),
            )
        return list(told.values())

    def asked_of_us(self) -> list[Told]:
        """Return, for each reader, what it could lately not open of ours, and when it was given."""
        rows = self._store.rows(
            "SELECT * FROM reseals WHERE asked_at > ? ORDER BY reader",
            self._clock.now() - _SHOWN_MS,
        )
        told: dict[bytes, Told] = {}
        for row in rows:
            before = told.get(row["reader"], Told(row["reader"], 0, None))
            told[row["reader"]] = Told(
                row["reader"],
                before.envelopes + self._count(row["opener"]),
                max(before.at or 0, row["answered_at"] or 0) or None,
                before.wrong + (row["code"] is not None),
                owed=before.owed or bool(row["owed"]),
            )
        return list(told.values())

    def _count(self, opener: bytes) -> int:
        """Return how many envelopes of the epoch are held."""
        place = self._store.row(
            "SELECT author, incarnation, stream FROM envelopes WHERE id = ?", opener
        )
        if place is None:
            return 0
        return int(
            self._store.scalar(
                "SELECT count(*) FROM envelopes WHERE author = ? AND incarnation = ? "
                "AND stream = ? AND (opener = ? OR id = ?)",
                *place.values(), opener, opener,
            )
        )  # fmt: skip

    # --- rows --------------------------------------------------------------------------------
    def _row(self, opener: bytes) -> dict[str, Any] | None:
        return self._store.row("SELECT * FROM unopened WHERE opener = ?", opener)

    def _given(self, reader: bytes, opener: bytes) -> dict[str, Any] | None:
        return self._store.row(
            "SELECT * FROM reseals WHERE reader = ? AND opener = ?", reader, opener
        )


def _slot(stored: bytes) -> SealedAgain:
    """Return a new slot as it is kept: as the frame in which it came."""
    try:
        return reseal.parse_sealed_again(
            array(decode(stored, max_bytes=limits.MAX_FRAME), "sealed_again", size=3)
        )
    except PeerError as error:
        raise StoreError(
            f"a stored slot is damaged: {error}", fix="restore node.db from its newest backup"
        ) from None
