"""A sealing key was lost: what was sealed to it, and telling those who had sealed it.

- What a lost key has opened follows from the headers that are held, locked or not: every epoch
  whose slot for this node was made for that key, with all its envelopes.
- Telling begins with a new sealing key, so that nothing more is sealed to the lost one. Then a
  signed record for each author is written down, and goes out whenever that author is linked, until
  it says that it has written it down too. A crash or a second call repeats nothing but the sending.
- What still comes under the lost key afterwards is told in the same way, by itself.
- Both ends log it for each envelope, where ``picket incidents access`` shows it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final

from keys.fingerprint import format_node_id
from node.clock import Clock, rfc3339
from node.resealing import NODE
from node.store import Store
from node.words import counted
from protocol import exposure, limits, suite
from protocol.canonical import decode
from protocol.errors import (
    NotFoundError,
    PeerError,
    QuotaError,
    RequestError,
    StatementError,
    StoreError,
)
from protocol.exposure import Exposed, Exposure
from protocol.reseal import parse_sealed_again
from protocol.shape import array
from protocol.statement import RECOVER, Card, Chain

if TYPE_CHECKING:
    from node.core import Core

EXPOSED: Final = "exposed"
"""What the log calls it when this node says that a key of its own was lost."""
EXPOSED_THERE: Final = "exposed-there"
"""What the log calls it when a peer says so of what this node sealed to it."""
OUT: Final = "out"
IN: Final = "in"
_LOOKED: Final = "exposures-looked"
_REPLACED: Final = "exposures-replaced"
_SHOWN_MS: Final = 30 * 86_400_000
_REFS: Final = 5
_AT_ONCE: Final = 512
_EKID_LETTERS: Final = 8
_MOMENT: Final = re.compile(r"(\d{4}-\d{2}-\d{2})(?:T(\d{2}:\d{2})(?::(\d{2}))?Z)?", re.ASCII)
Row = dict[str, Any]
Sealed = dict[tuple[bytes, bytes], list[bytes]]
"""Envelope ids by the key that opens them, and their author."""


@dataclass(frozen=True, slots=True)
class OwnKey:
    """A sealing key of this node, and when it was on its cards (ms); ``until`` is None if it is."""

    ekid: bytes
    since: int
    until: int | None


@dataclass(frozen=True, slots=True)
class Loss:
    """Which sealing keys were lost, and when (ms)."""

    keys: tuple[OwnKey, ...]
    start: int
    end: int

    @property
    def ekids(self) -> frozenset[bytes]:
        """The ids of these keys."""
        return frozenset(key.ekid for key in self.keys)


# --- reading what was typed -------------------------------------------------------------------
def parse_moment(text: str) -> int:
    """Return the moment (UTC, ms) that *text* names: a day, or a day and a time that ends in Z.

    Raises:
        RequestError: it names none.
    """
    if found := _MOMENT.fullmatch(text):
        whole = f"{found[1]}T{found[2] or '00:00'}:{found[3] or '00'}+00:00"
        with suppress(ValueError):  # as of 30 February
            return int(datetime.fromisoformat(whole).timestamp()) * 1_000
    raise RequestError(
        f"{text!r} is no day or time", fix="write 2026-03-04 or 2026-03-04T18:00Z (UTC)"
    )


def own_sealing(chain: Chain) -> tuple[OwnKey, ...]:
    """Return every sealing key that a card of *chain* ever listed, the oldest first."""
    since: dict[bytes, int] = {}
    until: dict[bytes, int] = {}
    for statement in chain.statements:
        if isinstance(statement.body, Card):
            listed = {key.ekid for key in statement.body.seal}
            until |= dict.fromkeys(since.keys() - listed - until.keys(), statement.issued)
            for ekid in listed:
                since.setdefault(ekid, statement.issued)
                until.pop(ekid, None)
    keys = [OwnKey(ekid, at, until.get(ekid)) for ekid, at in since.items()]
    return tuple(sorted(keys, key=lambda key: (key.since, key.ekid)))


def _matching(keys: Sequence[OwnKey], text: str) -> tuple[OwnKey, ...]:
    folded = text.strip().lower()
    found = tuple(key for key in keys if key.ekid.hex().startswith(folded))
    if len(folded) < _EKID_LETTERS or len(found) != 1:
        raise NotFoundError(
            f"no sealing key of this node, or more than one, is called {text!r}",
            fix="take its id from: picket keys exposed --since DAY",
        )
    return found


class Exposures:
    """Lost keys of this node, and those of others that they told it of."""

    def __init__(self, core: Core, *, store: Store, clock: Clock) -> None:
        """Serve *core*."""
        self._core, self._store, self._clock = core, store, clock
        self._news: tuple[tuple[object, ...], list[tuple[bytes, str]]] = ((), [])

    # --- what was lost -----------------------------------------------------------------------
    def loss(self, *, key: str = "", since: str = "", until: str = "") -> Loss:
        """Return what a person says was lost.

        Args:
            key: the id of a sealing key, or its first letters; by default all that were here.
            since: the earliest moment at which it can have been lost.
            until: the last one; by default the moment at which lost keys were last replaced, or the
                identity was recovered, if that was after *since*; else now.

        Raises:
            RequestError: neither is given, or one cannot be read.
            NotFoundError: this node never had such a key.
        """
        if not key and not since:
            raise RequestError(
                "it is not said what was lost", fix="give the day of the loss, or the key"
            )
        keys = own_sealing(self._core.trust.own)
        start = parse_moment(since) if since else 0
        end = parse_moment(until) if until else self._end_of(start, alone=bool(key))
        if key:
            keys = _matching(keys, key)
            start = start or keys[0].since
        else:
            keys = tuple(each for each in keys if each.since <= end and self._was_here(each, start))
        if end < start:
            raise RequestError("the loss ends before it begins", fix="give an earlier --since")
        return Loss(keys, start, end)

    def _end_of(self, start: int, *, alone: bool) -> int:
        """Return when a loss that began at *start* ended, for all that anybody has said."""
        own = self._core.trust.own
        recovered = [each.issued for each in own.statements if each.type == RECOVER]
        replaced = int.from_bytes(self._store.meta(_REPLACED) or b"", "big")
        ended = max([replaced, *recovered])
        return ended - 1 if start < ended and not alone else self._clock.now()

    def _was_here(self, key: OwnKey, at: int) -> bool:
        """Whether *key* can have been on this machine at *at* or later: then it is exposed."""
        vault = self._core.vault
        here = vault is not None and key.ekid in {suite.ekid(each) for each in vault.seal_publics}
        return here or key.until is None or key.until + limits.MAX_LIFETIME_MS >= at

    def sealed_to(self, ekids: frozenset[bytes], *, first: int = 0) -> Sealed:
        """Return the envelopes that each of *ekids* opens, by key and author, in log order.

        Those from entry *first* of the log on.
        """
        found: Sealed = {}
        slots = self._resealed()
        rows = self._store.rows(
            "SELECT id, author, opener FROM envelopes WHERE part IN ('recipient', 'author') "
            "AND log_index >= ? ORDER BY log_index", first,
        )  # fmt: skip
        for row in rows:
            opener = row["opener"] or row["id"]
            if opener not in slots:
                slots[opener] = self._slot_of(opener)
            for ekid in slots[opener] & ekids:
                found.setdefault((ekid, row["author"]), []).append(row["id"])
        return found

    def _slot_of(self, opener: bytes) -> frozenset[bytes]:
        known = self._core.opener(opener)
        if known is None:
            return frozenset()
        header, audience = known
        if header.author == self._core.node_id:
            return frozenset({audience.author_ekid})
        return frozenset(
            ekid for node_id, ekid in audience.recipients if node_id == self._core.node_id
        )

    def _resealed(self) -> dict[bytes, frozenset[bytes]]:
        """Return the keys to which epochs were sealed again, and those of their first slots."""
        slots: dict[bytes, frozenset[bytes]] = {}
        for row in self._store.rows("SELECT opener, slot FROM unopened WHERE slot IS NOT NULL"):
            fields = array(decode(row["slot"], max_bytes=limits.MAX_FRAME), "slot", size=3)
            again = parse_sealed_again(fields).slot.ekid
            slots[row["opener"]] = self._slot_of(row["opener"]) | {again}
        return slots

    # --- telling -----------------------------------------------------------------------------
    def note(self, loss: Loss, *, who: str, replaced: int | None = None) -> int:
        """Write down, for each author, what of it the lost keys opened; return how many records.

        What was written down before is not written again; *replaced* is when a new key was put in
        use for it (ms).

        Raises:
            LockedError: the node is locked.
            BusyError: the disk is full; nothing was changed.
        """
        self._core.keys_open()
        with self._core.logged():
            if replaced is not None:
                self._store.set_meta(_REPLACED, replaced.to_bytes(8, "big"))
            return self._note([loss], self.sealed_to(loss.ekids), who=who)

    def keep_up(self) -> int:
        """Write down what has come under a lost key since it was told; return how many records.

        Raises:
            BusyError: the disk is full; it is tried again.
        """
        rows = self._store.rows("SELECT * FROM lost_keys")
        looked = int.from_bytes(self._store.meta(_LOOKED) or b"", "big")
        if not rows or self._core.vault is None or self._core.log.size == looked:
            return 0
        losses = [
            Loss((OwnKey(row["ekid"], 0, None),), row["lost_from"], row["lost_until"])
            for row in rows
        ]
        ekids = frozenset(row["ekid"] for row in rows)
        return self._note(losses, self.sealed_to(ekids, first=looked), who=NODE)

    def _note(self, losses: Sequence[Loss], sealed: Mapping[Any, Sequence[bytes]], who: str) -> int:
        said = [
            each
            for (ekid, author), ids in sorted(sealed.items())
            for loss in losses
            if ekid in loss.ekids
            for each in self._records(loss, ekid, author, ids)
        ]
        size = self._core.log.size
        with self._core.logged():
            for each in said:
                it = each.exposure
                # What this node wrote itself nobody else has to be told of.
                own = it.author == self._core.node_id
                self._insert(OUT, each, told_at=self._clock.now() if own else None)
                note = f"sealed by {self._name(it.author)}, to the lost key {it.ekid.hex()[:16]}"
                self._core.access.record(EXPOSED, it.envelope_ids, who, note)
            for loss in losses:
                for key in loss.keys:
                    self._store.insert(
                        "lost_keys",
                        {"ekid": key.ekid, "lost_from": loss.start, "lost_until": loss.end},
                        replace=True,
                    )
            self._store.set_meta(_LOOKED, size.to_bytes(8, "big"))
        return len(said)

    def _records(
        self, loss: Loss, ekid: bytes, author: bytes, ids: Sequence[bytes]
    ) -> list[Exposed]:
        core, now = self._core, self._clock.now()
        assert core.vault is not None  # noqa: S101  the callers have seen it
        signer = core.vault.message
        fresh = sorted(set(ids) - self._told_of(ekid, author))
        return [
            exposure.sign_exposure(
                Exposure(
                    core.trust.own.network, core.node_id, core.card_n, author, ekid,
                    loss.start, loss.end, now, part,
                ),
                signer,
            )
            for part in exposure.parts(fresh)
        ]  # fmt: skip

    def _told_of(self, ekid: bytes, author: bytes) -> set[bytes]:
        found: set[bytes] = set()
        for row in self._store.rows(
            "SELECT record FROM exposures WHERE direction = ? AND ekid = ? AND peer = ?",
            OUT, ekid, author,
        ):  # fmt: skip
            found |= set(_stored(row["record"]).exposure.envelope_ids)
        return found

    def _insert(self, direction: str, said: Exposed, *, told_at: int | None) -> None:
        it = said.exposure
        self._store.insert(
            "exposures",
            {
                "digest": it.digest, "direction": direction,
                "peer": it.author if direction == OUT else it.holder, "ekid": it.ekid,
                "record": exposure.stored(said), "at": self._clock.now(), "told_at": told_at,
            },
        )  # fmt: skip

    def waiting(self, peer: bytes) -> list[Exposed]:
        """Return the records that *peer* has not written down yet."""
        rows = self._store.rows(
            "SELECT record FROM exposures WHERE direction = ? AND peer = ? AND told_at IS NULL "
            "ORDER BY at, digest LIMIT ?", OUT, peer, limits.MAX_NOTICES,
        )  # fmt: skip
        return [_stored(row["record"]) for row in rows]

    def to_tell(self) -> frozenset[bytes]:
        """Return the nodes for which records wait."""
        rows = self._store.rows(
            "SELECT DISTINCT peer FROM exposures WHERE direction = ? AND told_at IS NULL", OUT
        )
        return frozenset(row["peer"] for row in rows)

    def heard(self, peer: bytes, digest: bytes) -> None:
        """Note that *peer* has written down a record. Call inside a transaction."""
        self._store.run(
            "UPDATE exposures SET told_at = COALESCE(told_at, ?) "
            "WHERE digest = ? AND direction = ? AND peer = ?",
            self._clock.now(), digest, OUT, peer,
        )  # fmt: skip

    # --- hearing -----------------------------------------------------------------------------
    def take(self, said: Exposed) -> bool:
        """Write down what a peer says it has lost; return whether that tells anything new.

        A record that names no message of ours, or none that it has not named before, is not kept.
        Call inside a transaction.

        Raises:
            PeerError: it is not from that peer, or not for us.
            StatementError: it never had such a key.
            QuotaError: it has said so too often.
        """
        it = exposure.check_exposure(said, view=self)
        if self._store.scalar("SELECT 1 FROM exposures WHERE digest = ?", it.digest):
            return False
        ours = self._ours(it)
        self._check_key(it, ours)
        fresh = sorted(set(ours) - self._heard_of(it.ekid, it.holder))
        if not fresh:
            return False
        count = self._store.scalar(
            "SELECT count(*) FROM exposures WHERE direction = ? AND peer = ?", IN, it.holder
        )
        if count >= limits.MAX_EXPOSURES_KEPT:
            raise QuotaError("the peer has told of too many lost keys")
        self._insert(IN, said, told_at=self._clock.now())
        self._core.access.record(EXPOSED_THERE, fresh, NODE, f"at {self._name(it.holder)}")
        return True

    def _ours(self, it: Exposure) -> list[bytes]:
        """Return the envelopes that this node did release to the holder.

        What else the record names was lost here, or never existed: nobody is told of it.
        """
        return [
            envelope_id
            for envelope_id, opener in self._own(it.envelope_ids)
            if (known := self._core.opener(opener)) is not None
            and it.holder in known[1].recipient_ids
        ]

    def _own(self, envelope_ids: Sequence[bytes]) -> Iterator[tuple[bytes, bytes]]:
        """Yield those that this node wrote, and the opener of each; invented ones cost little."""
        for at in range(0, len(envelope_ids), _AT_ONCE):
            part = envelope_ids[at : at + _AT_ONCE]
            marks = ", ".join("?" * len(part))
            for row in self._store.rows(
                f"SELECT id, opener FROM envelopes WHERE author = ? AND id IN ({marks}) "  # noqa: S608
                "ORDER BY id", self._core.node_id, *part,
            ):  # fmt: skip
                yield row["id"], row["opener"] or row["id"]

    def _check_key(self, it: Exposure, ours: Sequence[bytes]) -> None:
        """Check that the holder had the key: on a card, or, if that has shrunk, for a slot of ours.

        Raises:
            StatementError: it had not.
        """
        peer = self._core.trust.peers.get(it.holder)
        if peer is not None and it.ekid in {key.ekid for key in own_sealing(peer.chain)}:
            return
        slot = (it.holder, it.ekid)
        for opener in {opener for _, opener in self._own(ours)}:
            known = self._core.opener(opener)
            if known is not None and slot in known[1].recipients:
                return
        if not self._store.scalar(
            "SELECT 1 FROM reseals WHERE reader = ? AND ekid = ?", it.holder, it.ekid
        ):
            raise StatementError("the exposure names a key that was on no card of its holder")

    def _heard_of(self, ekid: bytes, holder: bytes) -> set[bytes]:
        found: set[bytes] = set()
        for row in self._store.rows(
            "SELECT record FROM exposures WHERE direction = ? AND ekid = ? AND peer = ?",
            IN, ekid, holder,
        ):  # fmt: skip
            found |= set(_stored(row["record"]).exposure.envelope_ids)
        return found

    # --- the view of protocol.exposure --------------------------------------------------------
    @property
    def node_id(self) -> bytes:
        """Our node id."""
        return self._core.node_id

    @property
    def network(self) -> bytes:
        """Our network."""
        return self._core.trust.own.network

    def card_at(self, node_id: bytes, n: int) -> Card | None:
        """Return the card of that number that counts, if we hold it."""
        return self._core.trust.card_at(node_id, n)

    def newest_n(self, node_id: bytes) -> int:
        """Return the number of the newest statement that we hold of a peer."""
        peer = self._core.trust.peers.get(node_id)
        return 0 if peer is None else peer.chain.head.n

    def recovered_at(self, node_id: bytes) -> int:
        """Return the number below which cards of a node sign nothing new."""
        return self._core.trust.recovered_at(node_id)

    # --- what operators see -------------------------------------------------------------------
    def shown(self, loss: Loss) -> Row:
        """Return what the lost keys have opened, as JSON-able values."""
        sealed = self.sealed_to(loss.ekids)
        listed = {key.ekid for key in self._core.card.seal}
        return {
            "from": rfc3339(loss.start),
            "until": rfc3339(loss.end),
            "keys": [
                {
                    "key": key.ekid.hex(), "since": rfc3339(key.since),
                    "until": None if key.until is None else rfc3339(key.until),
                    "in_use": key.ekid in listed,
                    "authors": self._authors(key.ekid, sealed),
                }
                for key in loss.keys
            ],
        }  # fmt: skip

    def _authors(self, ekid: bytes, sealed: Sealed) -> list[Row]:
        return [
            {
                "name": self._name(author), "node_id": format_node_id(author),
                "own": author == self._core.node_id, "envelopes": len(ids),
                "can_be_told": author in self._core.trust.peers,
                "refs": self._refs(ids), "ids": [each.hex() for each in ids],
            }
            for (key, author), ids in sorted(sealed.items())
            if key == ekid
        ]  # fmt: skip

    def told(self) -> list[Row]:
        """Return every record, those of this node and those of others, the newest first."""
        found = []
        for row in self._store.rows("SELECT * FROM exposures ORDER BY at DESC, digest"):
            it = _stored(row["record"]).exposure
            ids = list(it.envelope_ids) if row["direction"] == OUT else self._ours(it)
            found.append(
                {
                    "direction": row["direction"], "peer": self._name(row["peer"]),
                    "key": it.ekid.hex(), "from": rfc3339(it.start), "until": rfc3339(it.end),
                    "envelopes": len(it.envelope_ids), "known": len(ids),
                    "refs": self._refs(ids), "ids": [each.hex() for each in ids],
                    "at": rfc3339(row["at"]),
                    "told_at": None if row["told_at"] is None else rfc3339(row["told_at"]),
                }
            )  # fmt: skip
        return found

    def news(self) -> list[tuple[str, str]]:
        """Return, for each peer that has lost a key lately, its name and what that has opened."""
        rows = self._store.rows(
            "SELECT digest FROM exposures WHERE direction = ? AND at > ? ORDER BY digest",
            IN, self._clock.now() - _SHOWN_MS,
        )  # fmt: skip
        shown = (self._core.cases is None, *(row["digest"] for row in rows))
        if shown != self._news[0]:  # a status is asked for often, and this takes long
            self._news = shown, self._opened_lately(shown[1:])
        return [(self._name(peer), words) for peer, words in self._news[1]]

    def _opened_lately(self, digests: Iterable[bytes]) -> list[tuple[bytes, str]]:
        ids: dict[bytes, set[bytes]] = {}
        for digest in digests:
            record = self._store.scalar("SELECT record FROM exposures WHERE digest = ?", digest)
            it = _stored(record).exposure
            ids.setdefault(it.holder, set()).update(self._ours(it))
        return [(peer, self._words(each)) for peer, each in sorted(ids.items()) if each]

    def _words(self, ids: set[bytes]) -> str:
        refs, what = self._refs(ids), counted(len(ids), "message")
        if not refs:
            return what
        more = f" and {len(refs) - _REFS} more" if len(refs) > _REFS else ""
        return f"{what} ({', '.join(refs[:_REFS])}{more})"

    def unheard(self) -> list[str]:
        """Return the names of those who have not been told yet."""
        return sorted(self._name(peer) for peer in self.to_tell())

    def _refs(self, ids: Iterable[bytes]) -> list[str]:
        """Return the references of the incidents in *ids*; none while the node is locked."""
        cases = self._core.cases
        return [] if cases is None else sorted(set(cases.refs_of(list(ids)).values()))

    def _name(self, node_id: bytes) -> str:
        if node_id == self._core.node_id:
            return "this node"
        peer = self._core.trust.peers.get(node_id)
        return peer.name if peer is not None else format_node_id(node_id)[:7]


def _stored(data: bytes) -> Exposed:
    try:
        return exposure.parse_stored(data)
    except PeerError as error:
        raise StoreError(
            f"a stored record of a lost key is damaged: {error}",
            fix="restore node.db from its newest backup",
        ) from None
