"""Nodes that ask to be added: who knocked or was introduced, until an operator looks at them.

- A caller is nothing but a verified card that waits. It has no link, no level and no name of ours.
- Nobody hears what became of a knock: waiting, ignored and known nodes get the same answer.
- The table is small, so that strangers cannot fill the disk: 64 callers, 4 of one address. When it
  is full the one goes that was heard of longest ago and that nobody vouched for. Who is ignored is
  kept as a digest, and does not come back.
- Knocks are not logged, or strangers would write our log; each act of an operator is.
- ``undo`` takes back the last act of the last hour, as long as nothing followed from it: a peer
  that was approved meanwhile, or of which anything is kept, stays. What was told to others cannot
  be untold.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final, Protocol

import structlog

from keys.fingerprint import format_node_id
from keys.trust import Level, Peer, TrustStore
from node.clock import Clock
from node.log import Act, Log
from node.store import Store
from protocol import limits, suite
from protocol.canonical import decode, encode
from protocol.entry import EntryKind
from protocol.errors import ConflictError, NotFoundError, PeerError, StoreError
from protocol.shape import array
from protocol.statement import Card, Chain, Statement, make_bundle, verify_bundle

_log = structlog.get_logger()
_FRESH_MS: Final = 60_000
"""A caller that knocks again within this time is not written anew."""
_ID_LETTERS: Final = 7
_FIELDS: Final = (
    "node_id", "bundle", "authority", "country", "contact", "address", "first_seen", "last_seen",
    "knocked_at", "introduced_by", "ask_at",
)  # fmt: skip
_LISTED: Final = ", ".join(name for name in _FIELDS if name != "bundle")
IGNORED, LATER, ACCEPTED, ADDED = "ignored", "put off", "accepted", "added"
# What is kept of a peer once anything was exchanged with it but key statements.
_TRACES: Final = (
    ("witnessed", "node_id"), ("peer_heads", "node_id"), ("log_forks", "node_id"),
    ("outbox", "peer"), ("envelopes", "author"), ("envelopes", "giver"), ("receipts", "recipient"),
    ("reseals", "reader"), ("suspensions", "node_id"), ("statements_aside", "node_id"),
)  # fmt: skip
_OF_PEER: Final = ("peers", "statements", "recoveries", "levels_given")


class Owner(Protocol):
    """What the book of callers needs of the node that it belongs to."""

    trust: TrustStore

    def logged(self) -> Any:  # noqa: ANN401  a context manager
        """Run a block as one transaction that grows the log."""
        ...

    def add_peer(self, chain: Chain, name: str) -> Peer:
        """Pin the node of a verified chain."""
        ...


@dataclass(frozen=True, slots=True)
class Caller:
    """A node that waits to be looked at; times are UTC ms."""

    node_id: bytes
    authority: str
    country: str
    contact: str
    address: str | None
    first_seen: int
    last_seen: int
    introduced_by: bytes | None
    ask_at: int
    """When it is to be shown: later than now if it was put off."""

    @property
    def short(self) -> str:
        """The beginning of its node id, by which commands name it."""
        return format_node_id(self.node_id)[:_ID_LETTERS]


@dataclass(frozen=True, slots=True)
class Done:
    """An act of pairing that can be taken back, or was; *at* is UTC ms."""

    what: str
    node_id: bytes
    name: str
    at: int
    number: int | None
    """Its number in the table of acts; None if the peer was added by its card."""

    @property
    def key(self) -> str:
        """What names this act and no other."""
        return suite.digest("caller-act", encode([self.what, self.node_id, self.at])).hex()[:16]


class CallerBook:
    """The tables ``callers``, ``callers_ignored`` and ``caller_acts`` of node.db."""

    def __init__(
        self,
        owner: Owner,
        *,
        store: Store,
        log: Log,
        clock: Clock,
        learn: Callable[[bytes, Sequence[Statement]], int],
    ) -> None:
        """Prepare; *learn* takes verified statements of a peer."""
        self._owner, self._store, self._log, self._clock = owner, store, log, clock
        self._learn = learn

    # --- who comes ---------------------------------------------------------------------------
    def knock(self, chain: Chain, *, time: int, address: str) -> None:
        """Take note of a verified knock; the caller is told the same whatever comes of it.

        Args:
            chain: of the node that knocked.
            time: of its knock (ms); what is not later than its last one is a replay.
            address: that it came from.

        Raises:
            BusyError: the disk is full.
        """
        node_id = chain.node_id
        if node_id == _own(self._owner):
            return
        if node_id in self._owner.trust.peers:
            self._renew(chain)
            return
        if self._is_ignored(node_id):
            return
        now = self._clock.now()
        with self._store.transaction():
            self._expire(now)
            old = self._row(node_id)
            if old is None:
                self._make_room(address)
            elif time <= old["knocked_at"] or not _is_news(old, chain, now=now):
                return
            row = _row_of(chain, first_seen=now if old is None else old["first_seen"], now=now)
            kept = {} if old is None else {k: old[k] for k in ("introduced_by", "ask_at")}
            self._write({**row, **kept, "address": address, "knocked_at": time})

    def _renew(self, chain: Chain) -> None:
        """Take the newer statements of a peer: its new certificate may be why it had to knock."""
        try:
            self._learn(chain.node_id, chain.statements)
        except PeerError as error:
            # What contradicts its chain has frozen the peer by now; nobody at the door is told.
            _log.warning("knock-contradicts", code=error.code)

    def introduce(self, chain: Chain, *, by: bytes) -> Caller:
        """Take note of a node that the peer *by* introduced with a verified introduction.

        Raises:
            ConflictError: it is ourselves, or a peer already.
            BusyError: the disk is full.
        """
        node_id, now = chain.node_id, self._clock.now()
        if node_id == _own(self._owner):
            raise ConflictError(
                "this introduces this node to itself", fix="it is for another node: send it there"
            )
        peer = self._owner.trust.peers.get(node_id)
        if peer is not None:
            raise ConflictError(
                f"that node is here already, as {peer.name}", fix="see: picket peers list"
            )
        with self._owner.logged():
            self._expire(now)
            old = self._row(node_id)
            if old is None:
                self._make_room(None)
            self._store.run("DELETE FROM callers_ignored WHERE digest = ?", _digest(node_id))
            row = _row_of(chain, first_seen=now if old is None else old["first_seen"], now=now)
            kept = {} if old is None else {k: old[k] for k in ("address", "knocked_at")}
            self._write({**row, **kept, "introduced_by": by})
            self._note(node_id, "introduced", by)
        return self._get(node_id)

    def _make_room(self, address: str | None) -> None:
        """Let the one go that nobody vouched for and that was heard of longest ago."""
        first = "introduced_by IS NOT NULL, ask_at > first_seen, last_seen, node_id"
        count = "SELECT count(*) FROM callers"
        drop = "DELETE FROM callers WHERE node_id = (SELECT node_id FROM callers {} ORDER BY "
        if address is not None:
            here = "WHERE address = ?"
            if self._store.scalar(f"{count} {here}", address) >= limits.MAX_CALLERS_PER_ADDRESS:
                self._store.run(drop.format(here) + f"{first} LIMIT 1)", address)
        if self._store.scalar(count) >= limits.MAX_CALLERS:
            self._store.run(drop.format("") + f"{first} LIMIT 1)")

    def _expire(self, now: int) -> None:
        self._store.run("DELETE FROM callers WHERE last_seen < ?", now - limits.CALLER_LIFE_MS)
        self._store.run("DELETE FROM caller_acts WHERE at < ?", now - limits.UNDO_MS)

    # --- looking -----------------------------------------------------------------------------
    def pending(self) -> list[Caller]:
        """Return all that wait, the newest last; those put off are among them."""
        known = self._owner.trust.peers
        oldest = self._clock.now() - limits.CALLER_LIFE_MS
        rows = self._store.rows(
            f"SELECT {_LISTED} FROM callers WHERE last_seen >= ? "  # noqa: S608  names of ours
            "ORDER BY first_seen, node_id",
            oldest,
        )
        return [_caller(row) for row in rows if row["node_id"] not in known]

    def asking(self) -> list[Caller]:
        """Return those that are to be looked at now."""
        now = self._clock.now()
        return [caller for caller in self.pending() if caller.ask_at <= now]

    def find(self, text: str) -> Caller:
        """Return the caller whose node id is or begins with *text*.

        Their own names find none: they are not ours to trust.

        Raises:
            NotFoundError: none or several match.
        """
        letters = text.strip().upper().replace("-", "").replace(" ", "")
        matches = [
            caller
            for caller in self.pending()
            if format_node_id(caller.node_id).replace("-", "").startswith(letters)
        ]
        if len(letters) < _ID_LETTERS or len(matches) != 1:
            reason = "more than one caller" if len(matches) > 1 and letters else "no caller"
            raise NotFoundError(
                f"{reason} matches {text!r}",
                fix="give at least 7 letters of its node id, as in: picket peers pending",
            )
        return matches[0]

    def chain(self, caller: Caller) -> Chain:
        """Return the verified chain of *caller*.

        Raises:
            StoreError: what is stored of it is damaged.
        """
        bundle = self._store.scalar("SELECT bundle FROM callers WHERE node_id = ?", caller.node_id)
        try:
            return verify_bundle(bundle or b"", network=self._owner.trust.own.network)
        except PeerError as error:
            raise StoreError(
                f"the stored card of the caller {caller.short} is damaged: {error}",
                fix="restore node.db from its newest backup",
            ) from None

    # --- acts of an operator -----------------------------------------------------------------
    def accept(self, caller: Caller, name: str) -> Peer:
        """Pin *caller* under *name*; nothing is shared with it by that.

        Raises:
            TrustConflictError: the name is taken.
            BusyError: the disk is full; nothing was changed.
        """
        chain = self.chain(caller)
        with self._act():
            row = self._row(caller.node_id)
            peer = self._owner.add_peer(chain, name)
            self._take_out(caller, ACCEPTED, row)
        return peer

    def ignore(self, caller: Caller) -> None:
        """Forget *caller* but for a digest, by which it is kept from coming back.

        Raises:
            BusyError: the disk is full; nothing was changed.
        """
        with self._act():
            self._take_out(caller, IGNORED, self._row(caller.node_id))
            self._store.insert(
                "callers_ignored",
                {"digest": _digest(caller.node_id), "at": self._clock.now()},
                replace=True,
            )
            self._store.run(
                "DELETE FROM callers_ignored WHERE digest NOT IN "
                "(SELECT digest FROM callers_ignored ORDER BY at DESC, digest LIMIT ?)",
                limits.MAX_IGNORED,
            )
            self._note(caller.node_id, IGNORED)

    def later(self, caller: Caller) -> Caller:
        """Put *caller* off for a day.

        Raises:
            BusyError: the disk is full; nothing was changed.
        """
        with self._act():
            self._remember(caller, LATER, self._row(caller.node_id))
            self._store.run(
                "UPDATE callers SET ask_at = ? WHERE node_id = ?",
                self._clock.now() + limits.CALLER_LATER_MS, caller.node_id,
            )  # fmt: skip
            self._note(caller.node_id, LATER)
        return self._get(caller.node_id)

    def last(self) -> Done:
        """Return the last act of the last hour: accepting, adding, ignoring or putting off.

        Raises:
            NotFoundError: there is none.
        """
        act, added = self._last_act(), self._last_added()
        if act is not None and (added is None or act["at"] >= added.at):
            name = str(_unpacked(act["row"])["authority"])
            peer = self._owner.trust.peers.get(act["node_id"])
            name = peer.name if peer is not None else name
            return Done(act["what"], act["node_id"], name, act["at"], act["number"])
        if added is not None:
            return added
        raise NotFoundError(
            "nothing was accepted, added, ignored or put off in the last hour",
            fix="a level is lowered with: picket peers approve NAME --level observe",
        )

    def undo(self, key: str) -> Done:
        """Take back the last act, if it is the one that *key* names.

        Raises:
            NotFoundError: there is none.
            ConflictError: it is another one, or something has followed from it.
            TrustConflictError: the peer was approved since.
            BusyError: the disk is full; nothing was changed.
        """
        last = self.last()
        if last.key != key:
            raise ConflictError(
                "the last act is another one by now", fix="look at what it is: picket peers pending"
            )
        with self._act():
            if last.number is None:
                self._unpin(last.node_id)
            else:
                self._put_back(last)
        return last

    def _put_back(self, act: Done) -> None:
        """Let a caller wait as it did before *act*. Call inside ``_act``."""
        packed = self._store.scalar("SELECT row FROM caller_acts WHERE number = ?", act.number)
        if act.what != ACCEPTED:
            self._note(act.node_id, f"{act.what}: undone")
        elif act.node_id in self._owner.trust.peers:
            self._unpin(act.node_id)
        self._store.run("DELETE FROM callers_ignored WHERE digest = ?", _digest(act.node_id))
        self._store.run("DELETE FROM caller_acts WHERE number = ?", act.number)
        if self._row(act.node_id) is None:
            self._make_room(None)
        self._write(_unpacked(packed))

    def _last_act(self) -> Mapping[str, Any] | None:
        return self._store.row(
            "SELECT * FROM caller_acts WHERE at >= ? ORDER BY number DESC LIMIT 1",
            self._clock.now() - limits.UNDO_MS,
        )

    def _last_added(self) -> Done | None:
        row = self._store.row(
            "SELECT node_id, name, added_at FROM peers WHERE level = ? AND added_at >= ? "
            "ORDER BY added_at DESC, node_id LIMIT 1",
            Level.PINNED.value, self._clock.now() - limits.UNDO_MS,
        )  # fmt: skip
        return (
            None if row is None else Done(ADDED, row["node_id"], row["name"], row["added_at"], None)
        )

    def _unpin(self, node_id: bytes) -> None:
        """Forget a peer that was only pinned. Call inside ``_act``."""
        peer = self._owner.trust.peer(node_id)
        after = self._owner.trust.unpin(node_id)
        for table, column in _TRACES:
            found = f"SELECT 1 FROM {table} WHERE {column} = ? LIMIT 1"  # noqa: S608  names of ours
            if self._store.scalar(found, node_id):
                raise ConflictError(
                    f"something of {peer.name} is kept already; that cannot be undone",
                    fix="leave it as it is: at level pinned it receives nothing",
                )
        for table in _OF_PEER:
            gone = f"DELETE FROM {table} WHERE node_id = ?"  # noqa: S608  names of ours
            self._store.run(gone, node_id)
        act = (node_id, "removed")
        subject = suite.digest("trust-act", encode(act))
        self._log.append([Act(EntryKind.TRUST_CHANGE, subject, act)])
        self._owner.trust = after

    # --- writing -----------------------------------------------------------------------------
    @contextmanager
    def _act(self) -> Iterator[None]:
        """Run the block as one logged transaction; if it fails trust is as it was."""
        before = self._owner.trust
        try:
            with self._owner.logged():
                self._expire(self._clock.now())
                yield
        except BaseException:
            self._owner.trust = before
            raise

    def _note(self, node_id: bytes, what: str, by: bytes | None = None) -> None:
        """Log an act about a node that is no peer: its own kind of record, which names none."""
        act = ("caller", node_id, what, by)
        subject = suite.digest("trust-act", encode(act))
        self._log.append([Act(EntryKind.TRUST_CHANGE, subject, act)])

    def _take_out(self, caller: Caller, what: str, row: Mapping[str, Any] | None) -> None:
        self._remember(caller, what, row)
        self._store.run("DELETE FROM callers WHERE node_id = ?", caller.node_id)

    def _remember(self, caller: Caller, what: str, row: Mapping[str, Any] | None) -> None:
        if row is None:
            raise NotFoundError("the caller is gone", fix="see: picket peers pending")
        number = 1 + (self._store.scalar("SELECT max(number) FROM caller_acts") or 0)
        packed = encode([row[name] for name in _FIELDS])
        self._store.insert(
            "caller_acts",
            {
                "number": number, "what": what, "at": self._clock.now(),
                "node_id": caller.node_id, "row": packed,
            },
        )  # fmt: skip
        self._store.run("DELETE FROM caller_acts WHERE number <= ?", number - limits.MAX_UNDOABLE)

    def _write(self, row: Mapping[str, Any]) -> None:
        self._store.insert("callers", row, replace=True)

    def _row(self, node_id: bytes) -> Mapping[str, Any] | None:
        return self._store.row("SELECT * FROM callers WHERE node_id = ?", node_id)

    def _get(self, node_id: bytes) -> Caller:
        row = self._row(node_id)
        if row is None:
            raise NotFoundError("the caller is gone", fix="see: picket peers pending")
        return _caller(row)

    def _is_ignored(self, node_id: bytes) -> bool:
        digest = _digest(node_id)
        found = self._store.scalar("SELECT 1 FROM callers_ignored WHERE digest = ?", digest)
        return bool(found)


def _own(owner: Owner) -> bytes:
    return owner.trust.own.node_id


def _digest(node_id: bytes) -> bytes:
    return suite.digest("caller", node_id)


def _is_news(old: Mapping[str, Any], chain: Chain, *, now: int) -> bool:
    first = not old["knocked_at"]  # it was introduced before
    return first or now - old["last_seen"] >= _FRESH_MS or bool(old["bundle"] != make_bundle(chain))


def _row_of(chain: Chain, *, first_seen: int, now: int) -> dict[str, Any]:
    card = chain.card
    assert isinstance(card, Card)  # noqa: S101  a bundle ends in one
    return {
        "node_id": chain.node_id, "bundle": make_bundle(chain), "authority": card.authority,
        "country": card.country, "contact": card.contact, "address": None,
        "first_seen": first_seen, "last_seen": now, "knocked_at": 0, "introduced_by": None,
        "ask_at": first_seen,
    }  # fmt: skip


def _unpacked(packed: bytes) -> dict[str, Any]:
    """Return the row that ``_remember`` packed."""
    values = array(decode(packed, max_bytes=2 * limits.MAX_KNOCK), "act", size=len(_FIELDS))
    return dict(zip(_FIELDS, values, strict=True))


def _caller(row: Mapping[str, Any]) -> Caller:
    return Caller(
        node_id=row["node_id"], authority=row["authority"], country=row["country"],
        contact=row["contact"], address=row["address"], first_seen=row["first_seen"],
        last_seen=row["last_seen"], introduced_by=row["introduced_by"], ask_at=row["ask_at"],
    )  # fmt: skip
