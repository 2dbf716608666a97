"""Cosignatures on the checkpoints of this node's log: which were asked for, which have come.

- On a fixed beat, whatever the traffic, the log gets a heartbeat entry and its head is shown to all
  linked peers; their cosignatures are kept beside it. So its growth tells nobody when an incident
  came.
- The policy says whose cosignatures make a head *cosigned*: the file ``witness-policy`` of the
  home, in the form of C2SP tlog-policy, or else a majority of the peers that are trusted.
- Kept are the newest cosigned head, and each one that was the first to cover something besides
  heartbeats: its time is what an entry can be proven not to be younger than. So are those that an
  envelope names: it is not older than they are.
- A new log (``Core.reopen_log``) goes on on top of what is left, so heads of an old name that are
  over no more than that stay heads of the present tree, and are kept for entries of before.
- A lost quorum stops nothing; it is shown.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol

from keys.trust import Level, Peer, TrustStore
from node.clock import Clock
from node.log import Log
from node.policy_file import read_policy
from node.store import Store
from protocol.checkpoint import parse_body
from protocol.cosignatures import add_signatures, quorum_time, verify_cosignature
from protocol.entry import EntryKind
from protocol.errors import ConflictError, PolicyError, SignatureError
from protocol.note import (
    COSIGNATURE_ED25519,
    COSIGNATURE_MLDSA44,
    ED25519,
    Note,
    NoteSignature,
    VerifierKey,
    find,
    format_vkey,
    key_id,
    parse_note,
)
from protocol.policy import Policy, make_policy
from protocol.statement import Card, NamedKeys
from protocol.witness import AddCheckpoint, format_add_checkpoint, parse_signatures

MAX_WITNESSES: Final = 15
"""Peers that the policy counts by default: one note holds the signatures of 31."""
_TIMES_KEPT_S: Final = 400 * 86_400
_AHEAD_S: Final = 300
"""How far the clock of a witness may be ahead of ours."""
_BEHIND_S: Final = 300
"""How far it may be behind: how long before the log signed a head it may say that it saw it."""


class Owner(Protocol):
    """What cosigning needs of the node that it belongs to."""

    trust: TrustStore

    @property
    def card(self) -> Card:
        """Our newest card."""
        ...


@dataclass(frozen=True, slots=True)
class Bracket:
    """The cosigned head that shows that an entry is not younger than *not_after* (seconds)."""

    size: int
    not_after: int


@dataclass(frozen=True, slots=True)
class Standing:
    """How the log stands with its witnesses: the newest cosigned head, and who is wanted."""

    size: int
    not_after: int | None
    needed: int
    witnesses: tuple[str, ...]
    cosigned: tuple[str, ...]
    missing: tuple[str, ...]


class Cosigning:
    """The tables ``cosigned`` and ``cosignatures`` of node.db."""

    def __init__(
        self, owner: Owner, *, store: Store, log: Log, clock: Clock, policy_file: Path
    ) -> None:
        """Use *store*.

        Raises:
            ConfigError: there is a policy file and it is wrong.
        """
        self._owner, self._store, self._log, self._clock = owner, store, log, clock
        self._given = read_policy(policy_file, log=owner.card.log)
        self._made: tuple[TrustStore, Policy] | None = None
        self._offered: dict[int, bytes] = {}  # heads that were shown to peers, by size

    # --- the policy --------------------------------------------------------------------------
    @property
    def policy(self) -> Policy:
        """Who has to cosign."""
        if self._given is not None:
            return self._given
        trust = self._owner.trust
        if self._made is None or self._made[0] is not trust:
            labelled: list[tuple[str, NamedKeys]] = []
            policy = make_policy(self._owner.card.log, labelled, 0)
            for peer in self._witnesses(trust):
                more = [*labelled, (peer.name, peer.card.witness)]
                # The card of one peer, with keys of another, must not undo the policy.
                with suppress(PolicyError):
                    policy = make_policy(self._owner.card.log, more, len(more) // 2 + 1)
                    labelled = more
            self._made = (trust, policy)
        return self._made[1]

    def _witnesses(self, trust: TrustStore) -> list[Peer]:
        """Return the peers that count by default: those that were trusted first."""
        peers = [p for p in trust.peers.values() if p.level in {Level.SHARE, Level.RELAY}]
        peers.sort(key=lambda p: (p.verification.at if p.verification else 0, p.node_id))
        return peers[:MAX_WITNESSES]

    def outside(self) -> tuple[tuple[str, tuple[VerifierKey, ...]], ...]:
        """Return (URL, keys) of witnesses that are no peers and are asked over HTTP."""
        found: dict[str, list[VerifierKey]] = {}
        for line in self.policy.witnesses.values():
            if line.url:
                found.setdefault(line.url, []).append(line.key)
        return tuple((url, tuple(keys)) for url, keys in found.items())

    def shown(self) -> tuple[int, bytes]:
        """Return size and note of the head that witnesses were shown last.

        Before the first of them it is the newest.
        """
        if not self._offered:
            return self._log.checkpoint()
        size = max(self._offered)
        return size, self._offered[size]

    # --- asking ------------------------------------------------------------------------------
    def offer(self) -> int:
        """Take the newest signed head as the one that witnesses are asked to cosign.

        Returns:
            Its size.
        """
        size, note = self._log.checkpoint()
        if size not in self._offered:
            self._offered[size] = note
            for old in sorted(self._offered)[:-2]:  # answers to the one before may be on the way
                del self._offered[old]
        return size

    def request(self, witness: str, size: int, *, old: int | None = None) -> bytes:
        """Return the tlog-witness request that shows the offered head of *size* to *witness*.

        Args:
            witness: the key name of the witness.
            size: what ``offer`` returned.
            old: what the witness says that it cosigned last; by default what we know of that.

        Raises:
            ConflictError: newer heads were offered since; the witness was too slow for this one.
        """
        note = self._offered.get(size)
        if note is None:
            raise ConflictError(f"the head of {size} entries is offered no more")
        before = self._last(witness) if old is None else old
        proof = self._log.prove_consistency(before, size)
        return format_add_checkpoint(AddCheckpoint(before, proof, note))

    def _last(self, witness: str) -> int:
        return int(
            self._store.scalar(
                "SELECT coalesce(max(size), 0) FROM cosignatures WHERE origin = ? AND name = ?",
                self._log.origin, witness,
            )
        )  # fmt: skip

    # --- taking ------------------------------------------------------------------------------
    def take(self, size: int, body: bytes, *, keys: Sequence[VerifierKey]) -> bool:
        """Verify and keep the answer of a witness, in a transaction of the caller.

        Args:
            size: of the head that was shown.
            body: signature lines.
            keys: those of the witness.

        Returns:
            Whether the head is cosigned by a quorum now and was not before.

        Raises:
            PeerError: a signature does not verify, or none is of that witness.
        """
        note = self._offered.get(size)
        if note is None:
            return False  # it answers what was long superseded
        lines = self._verified(note, parse_signatures(body), keys)
        if not lines:
            raise SignatureError("the witness's answer holds no cosignature of it")
        self._forget_unmet()
        self._store.insert(
            "cosigned",
            self._head(size)
            or {
                "origin": self._log.origin, "size": size, "note": note, "at": self._clock.now(),
                "quorum_at": None,
            },
            replace=True,
        )  # fmt: skip
        for line, at in lines:
            self._store.insert(
                "cosignatures",
                {
                    "origin": self._log.origin, "size": size, "name": line.name,
                    "key_id": line.key_id, "signature": line.signature, "time_s": at,
                },
                replace=True,
            )  # fmt: skip
        return self._count(size)

    def _head(self, size: int) -> dict[str, Any] | None:
        return self._store.row(
            "SELECT * FROM cosigned WHERE origin = ? AND size = ?", self._log.origin, size
        )

    def _forget_unmet(self) -> None:
        """Forget heads that no quorum cosigned in time."""
        self._store.run(
            "DELETE FROM cosigned WHERE origin = ? AND quorum_at IS NULL AND size < ?",
            self._log.origin, min(self._offered),
        )  # fmt: skip
        self._forget_lines(min(self._offered))

    def _forget_lines(self, before: int) -> None:
        """Forget cosignatures of heads below a size that are not kept."""
        self._store.run(
            "DELETE FROM cosignatures WHERE origin = ?1 AND size < ?2 AND size NOT IN "
            "(SELECT size FROM cosigned WHERE origin = ?1)",
            self._log.origin, before,
        )  # fmt: skip

    def is_off(self, size: int, body: bytes) -> bool:
        """Whether an answer has a time that cannot be: one of two clocks is wrong, not the peer."""
        note = self._offered.get(size)
        return note is not None and any(
            not self._can_be(int.from_bytes(line.signature[:8], "big"), note)
            for line in parse_signatures(body)
        )

    def _can_be(self, time_s: int, note: bytes) -> bool:
        """Whether a head can have been cosigned at a time: not in the future, nor before it was."""
        log = self._owner.card.log
        own = find(parse_note(note), log.name, key_id(log.name, COSIGNATURE_MLDSA44, log.mldsa44))
        signed = 0 if own is None else int.from_bytes(own.signature[:8], "big")
        return max(1, signed - _BEHIND_S) <= time_s <= self._clock.now() // 1000 + _AHEAD_S

    def _verified(
        self, note: bytes, lines: Iterable[NoteSignature], keys: Sequence[VerifierKey]
    ) -> list[tuple[NoteSignature, int]]:
        parsed = parse_note(note)
        checkpoint = parse_body(parsed.text)
        known = {(key.name, key.key_id): key for key in keys}
        found = []
        for line in lines:
            key = known.get((line.name, line.key_id))
            if key is None:
                continue
            at = verify_cosignature(Note(parsed.text, (line,)), checkpoint, key)
            if not self._can_be(at, note):
                raise SignatureError(
                    "the witness's answer has a time in the future, or one before there was this "
                    "head, or none"
                )
            found.append((line, at))
        return found

    def _count(self, size: int) -> bool:
        row, origin = self._head(size), self._log.origin
        if row is None or row["quorum_at"] is not None:
            return False
        at = quorum_time(self.policy, self._times(size))
        if at is None:
            return False
        self._store.run(
            "UPDATE cosigned SET quorum_at = ? WHERE origin = ? AND size = ?", at, origin, size
        )
        # Not *at*: an author may name a head as soon as it has cosigned it, before the last of all.
        first = int(
            self._store.scalar(
                "SELECT min(time_s) FROM cosignatures WHERE origin = ? AND size = ?", origin, size
            )
        )
        met = {"origin": origin, "size": size, "root": self._log.root(size), "at": first}
        self._store.insert("head_times", met, replace=True)
        self._store.run("DELETE FROM head_times WHERE at < ?", at - _TIMES_KEPT_S)
        self._tidy(size)
        return True

    def _times(self, size: int) -> dict[str, int]:
        """Return the labels of the policy that cosigned the head of *size*, and when."""
        labels = {
            (line.key.name, line.key.key_id): line.name for line in self.policy.witnesses.values()
        }
        rows = self._store.rows(
            "SELECT name, key_id, time_s FROM cosignatures WHERE origin = ? AND size = ?",
            self._log.origin, size,
        )  # fmt: skip
        return {
            labels[row["name"], row["key_id"]]: row["time_s"]
            for row in rows
            if (row["name"], row["key_id"]) in labels
        }

    def _tidy(self, newest: int) -> None:
        """Forget heads before *newest* that show nothing that those kept do not show earlier."""
        before = 0
        for row in self._store.rows(
            "SELECT size, quorum_at FROM cosigned WHERE origin = ? AND size <= ? ORDER BY size",
            self._log.origin, newest,
        ):  # fmt: skip
            size = row["size"]
            useful = row["quorum_at"] is not None and (
                size == newest or self.news(before, size) or self._named(size)
            )
            if useful:
                before = size
            else:
                self._store.run(
                    "DELETE FROM cosigned WHERE origin = ? AND size = ?", self._log.origin, size
                )
        # What each witness cosigned last is remembered, cosigned by a quorum or not.
        self._forget_lines(newest)

    def news(self, low: int, high: int) -> bool:
        """Whether entries *low* to *high* are more than heartbeats."""
        return bool(
            self._store.scalar(
                "SELECT 1 FROM entries WHERE idx >= ? AND idx < ? AND kind != ? LIMIT 1",
                low, high, int(EntryKind.HEARTBEAT),
            )
        )  # fmt: skip

    def _named(self, size: int) -> bool:
        """Whether an envelope that came names our head of that size as known to its author."""
        found = self._store.scalar(
            "SELECT 1 FROM anchors WHERE origin = ? AND size = ?", self._log.origin, size
        )
        return found is not None

    def was_cosigned(self) -> bool:
        """Whether anybody ever cosigned this log, and so could know more of it than we do."""
        return bool(
            self._store.scalar("SELECT 1 FROM cosigned WHERE origin = ? LIMIT 1", self._log.origin)
        )

    def close_origin(self) -> None:
        """Let go of what is of no use once the log has another name, in that transaction.

        Heads that a quorum cosigned stay: nothing shows earlier that their entries stood there.
        """
        self._store.run("DELETE FROM cosigned WHERE quorum_at IS NULL")
        self._store.run(
            "DELETE FROM cosignatures WHERE NOT EXISTS (SELECT 1 FROM cosigned c "
            "WHERE c.origin = cosignatures.origin AND c.size = cosignatures.size)"
        )
        self._offered.clear()

    # --- what there is -----------------------------------------------------------------------
    def cosigned(self, index: int = -1) -> tuple[int, bytes] | None:
        """Return size and note, with its cosignatures, of a head that a quorum cosigned.

        With *index* it is the first that covers that entry, whatever the log was called then;
        else the newest of the log as it is called now.
        """
        row = self._newest() if index < 0 else self._first_over(index)
        return None if row is None else (row["size"], self._with_cosignatures(row))

    def bracket(self, index: int) -> Bracket | None:
        """Return the first cosigned head over entry *index*."""
        row = self._first_over(index)
        return None if row is None else Bracket(row["size"], row["quorum_at"])

    def _newest(self) -> dict[str, Any] | None:
        return self._store.row(
            "SELECT * FROM cosigned WHERE origin = ? AND quorum_at IS NOT NULL "
            "ORDER BY size DESC LIMIT 1",
            self._log.origin,
        )

    def _first_over(self, index: int) -> dict[str, Any] | None:
        # The heads of a name are all larger than those of the names before it.
        return self._store.row(
            "SELECT * FROM cosigned WHERE quorum_at IS NOT NULL AND size > ? ORDER BY size LIMIT 1",
            index,
        )

    def time_of(self, origin: str, size: int, root: bytes) -> int | None:
        """Return when (seconds) the first witness cosigned our head of that name, size and root."""
        at: int | None = self._store.scalar(
            "SELECT at FROM head_times WHERE origin = ? AND size = ? AND root = ?",
            origin, size, root,
        )  # fmt: skip
        return at

    def _with_cosignatures(self, row: Mapping[str, Any]) -> bytes:
        """Return a note with the cosignatures on it, those that the policy counts first."""
        wanted = {line.key.name for line in self.policy.witnesses.values()}
        lines = [
            NoteSignature(each["name"], each["key_id"], each["signature"])
            for each in self._store.rows(
                "SELECT * FROM cosignatures WHERE origin = ? AND size = ? "
                "ORDER BY time_s, name, key_id",
                row["origin"], row["size"],
            )
        ]  # fmt: skip
        lines.sort(key=lambda line: line.name not in wanted)
        return add_signatures(row["note"], lines[: 2 * MAX_WITNESSES])

    def standing(self) -> Standing:
        """Return how the log stands with its witnesses."""
        policy = self.policy
        row = self._newest()
        newest = int(
            self._store.scalar(
                "SELECT coalesce(max(size), 0) FROM cosigned WHERE origin = ?", self._log.origin
            )
        )
        names = self._times(newest)
        group = policy.groups.get(policy.quorum or "")
        return Standing(
            size=0 if row is None else row["size"],
            not_after=None if row is None else row["quorum_at"],
            needed=group.k if group else int(policy.quorum is not None),
            witnesses=policy.cosigners(policy.witnesses),
            cosigned=policy.cosigners(names),
            missing=policy.missing(names),
        )


def witness_vkeys(keys: NamedKeys) -> tuple[VerifierKey, VerifierKey]:
    """Return the two keys of a witness of Picket as verifier keys of notes."""
    return (
        _vkey(keys.name, COSIGNATURE_ED25519, keys.ed25519),
        _vkey(keys.name, COSIGNATURE_MLDSA44, keys.mldsa44),
    )


def log_vkeys(keys: NamedKeys) -> tuple[str, str]:
    """Return the two keys of a log of Picket as policies write them."""
    return (
        format_vkey(keys.name, ED25519, keys.ed25519),
        format_vkey(keys.name, COSIGNATURE_MLDSA44, keys.mldsa44),
    )


def _vkey(name: str, kind: int, public_key: bytes) -> VerifierKey:
    return VerifierKey(name, key_id(name, kind, public_key), kind, public_key)
