"""What this node knows of other nodes' logs: it is their witness, and looks for contradictions.

- ``witnessed`` holds of each log the last tree head that this node cosigned. It is compared and
  set in the caller's transaction, which is durable before the cosignature leaves.
- Every other head of a peer's log that comes by (under a receipt, or named by a third node) waits
  in ``peer_heads`` until the log has proven that it is consistent with the witnessed one.
- Two signed heads that contradict each other are kept as evidence, logged and shown; whether such
  a peer is still trusted a person decides.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Final, Protocol

from keys.identity import ServiceKeys
from keys.trust import Peer, TrustStore
from node.clock import Clock
from node.log import Act, Log
from node.receipts import log_keys
from node.store import Store
from protocol import limits, merkle
from protocol.checkpoint import Checkpoint, parse_body
from protocol.cosignatures import add_signatures
from protocol.entry import EntryKind
from protocol.errors import NotFoundError, PeerError, ProofError
from protocol.frames import Receipts, Runs, decode_frame
from protocol.log_fork import (
    LogFork,
    encode_log_fork,
    log_fork_digest,
    make_log_fork,
    parse_log_fork,
    verify_log_fork,
)
from protocol.note import format_note, parse_note
from protocol.receipt import VerifiedReceipt
from protocol.statement import Card, NamedKeys
from protocol.witness import (
    OK,
    TEXT,
    UNPROCESSABLE,
    Answer,
    Seen,
    cosign,
    decide,
    format_signatures,
    origin_hash,
    parse_add_checkpoint,
    verify_log,
)

_MAX_FORKS: Final = 8
"""Pieces of evidence kept of one log; one is enough."""


class Owner(Protocol):
    """What a witness needs of the node that it belongs to."""

    trust: TrustStore

    @property
    def node_id(self) -> bytes:
        """Our node id."""
        ...

    @property
    def card(self) -> Card:
        """Our newest card."""
        ...


@dataclass(frozen=True, slots=True)
class Claimed:
    """What a third node said of the log of *node_id* and that log denies.

    Either of them lies. If *source* has a signed head of that size, it is evidence together with
    *note*, the head that the log showed us, and *proof*.
    """

    node_id: bytes
    size: int
    source: bytes
    note: bytes
    proof: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class Forked:
    """New evidence that the log of *node_id* contradicts itself."""

    node_id: bytes
    proof: bytes


class WitnessBook:
    """The tables ``witnessed``, ``peer_heads`` and ``log_forks`` of node.db."""

    def __init__(
        self, owner: Owner, *, store: Store, log: Log, keys: ServiceKeys, clock: Clock
    ) -> None:
        self._owner, self._store, self._log = owner, store, log
        self._keys, self._clock = keys, clock
        self._found: list[Forked] = []

    # --- whose log ---------------------------------------------------------------------------
    def owner_of(self, origin: str) -> Peer | None:
        """Return the peer on whose newest card *origin* names the log."""
        for peer in self._owner.trust.peers.values():
            if peer.card.log.name == origin:
                return peer
        return None

    def _trusted(self, origin: str) -> tuple[NamedKeys, ...]:
        peer = self.owner_of(origin)
        if peer is None or not self._owner.trust.accepts_link(peer.node_id):
            return ()
        return (peer.card.log,)

    def _keys_of(self, node_id: bytes) -> tuple[NamedKeys, ...]:
        """Return all log keys that a node has had."""
        if node_id == self._owner.node_id:
            bodies = (each.body for each in reversed(self._owner.trust.own.statements))
            return tuple(dict.fromkeys(card.log for card in bodies if isinstance(card, Card)))
        peer = self._owner.trust.peers.get(node_id)
        return () if peer is None else log_keys(peer)

    def _seen(self, origin: str) -> Seen | None:
        row = self._store.row("SELECT size, root FROM witnessed WHERE origin = ?", origin)
        return None if row is None else Seen(row["size"], row["root"])

    # --- cosigning ---------------------------------------------------------------------------
    def add_checkpoint(self, body: bytes) -> tuple[Answer, Forked | None]:
        """Answer a tlog-witness request. Call inside a transaction; answer once it is durable."""
        decision = decide(body, logs=self._trusted, seen=self._seen)
        if isinstance(decision, Answer):
            fork = self._conflict(body, decision)
            if decision.status == UNPROCESSABLE and decision.conflict is None:
                self._doubt(body)
            return decision, fork
        peer = self.owner_of(decision.checkpoint.origin)
        assert peer is not None  # noqa: S101  its keys verified the request
        name = self._keys.witness_keys(self._name()).name
        signatures = cosign(
            decision.checkpoint,
            name=name,
            ed25519=self._keys.witness_ed25519,
            mldsa44=self._keys.witness_mldsa44,
            now_s=self._clock.now() // 1000,
        )
        note = add_signatures(decision.log_note, signatures)
        fork = self._record(peer.node_id, decision.checkpoint, note)
        return Answer(OK, format_signatures(signatures), TEXT), fork

    def answer(self, body: bytes) -> Answer:
        """Answer a tlog-witness request that came over HTTP, inside a transaction."""
        answer, fork = self.add_checkpoint(body)
        if fork is not None:
            self._found.append(fork)
        return answer

    def monitored(self, digest: str) -> bytes:
        """Return the head that was cosigned last of the log whose origin has this hex SHA-256.

        Raises:
            NotFoundError: there is none.
        """
        for row in self._store.rows("SELECT origin, note FROM witnessed"):
            if origin_hash(row["origin"]) == digest:
                note: bytes = row["note"]
                return note
        raise NotFoundError("this witness has cosigned no log of that name")

    def _name(self) -> str:
        return self._owner.card.witness.name

    def _record(self, node_id: bytes, checkpoint: Checkpoint, note: bytes) -> Forked | None:
        if self._store.scalar(
            "SELECT 1 FROM witnessed WHERE node_id = ? AND origin != ?", node_id, checkpoint.origin
        ) and not self._seen(checkpoint.origin):
            # A new log after an old one of this node: what waits there is never proven.
            self._store.run("DELETE FROM peer_heads WHERE node_id = ?", node_id)
        self._store.insert(
            "witnessed",
            {
                "origin": checkpoint.origin, "node_id": node_id, "size": checkpoint.size,
                "root": checkpoint.root, "note": note, "at": self._clock.now(),
            },
            replace=True,
        )  # fmt: skip
        return self._settle_equal(node_id, checkpoint)

    def _settle_equal(self, node_id: bytes, checkpoint: Checkpoint) -> Forked | None:
        """Compare heads that wait with the one of the same size that was cosigned just now."""
        fork = None
        for row in self._store.rows(
            "SELECT * FROM peer_heads WHERE node_id = ? AND size = ?", node_id, checkpoint.size
        ):
            if row["root"] != checkpoint.root and row["source"] == node_id:
                other = replace(checkpoint, root=row["root"])
                fork = self._contradiction(node_id, other, ()) or fork
            self._drop(node_id, row["size"], row["root"])
        return fork

    def _conflict(self, body: bytes, answer: Answer) -> Forked | None:
        """Return evidence if a request that was not accepted contradicts what was cosigned."""
        if answer.conflict is None:
            return None
        peer = self.owner_of(answer.conflict.origin)
        row = self._store.row("SELECT * FROM witnessed WHERE origin = ?", answer.conflict.origin)
        if peer is None or row is None:
            return None
        request = parse_add_checkpoint(body)
        proof = () if row["size"] == answer.conflict.size else request.proof
        return self.keep_fork(peer.node_id, make_fork(row["note"], request.note, proof))

    def _doubt(self, body: bytes) -> None:
        """Keep a head that its log signed and gave no good proof for; the first is enough.

        Whoever rewrites a log may spoil the proof, or the witnessed size be a power of two, of
        which a good path shows no other root: so the log is asked once more, and shown as unproven
        until it has answered.
        """
        note = parse_note(parse_add_checkpoint(body).note)
        checkpoint = parse_body(note.text)
        peer = self.owner_of(checkpoint.origin)
        if peer is not None and self.doubtful(peer.node_id) is None:
            own = verify_log(note, checkpoint, self._trusted(checkpoint.origin))
            self._wait(
                peer.node_id, checkpoint.size, checkpoint.root, peer.node_id, format_note(own)
            )

    def doubtful(self, node_id: bytes) -> tuple[int, tuple[int]] | None:
        """Return size of a signed head that was not proven to hold the witnessed one, and its."""
        peer = self._owner.trust.peers.get(node_id)
        last = None if peer is None else self._seen(peer.card.log.name)
        if last is None or not last.size:
            return None
        size: int | None = self._store.scalar(
            "SELECT min(size) FROM peer_heads WHERE node_id = ?1 AND source = ?1 AND size > ?2 "
            "AND note IS NOT NULL",
            node_id, last.size,
        )  # fmt: skip
        return None if size is None else (size, (last.size,))

    # --- heads that come by ------------------------------------------------------------------
    def saw_receipts(self, verified: Sequence[VerifiedReceipt]) -> None:
        """Note the head under receipts that were stored, inside their transaction."""
        first = verified[0]
        fork = self._saw(first.recipient, first.checkpoint)
        if fork is not None:
            self._found.append(fork)

    def saw_head(self, node_id: bytes, note: bytes) -> None:
        """Note a verified head that a peer showed, inside a transaction.

        Raises:
            PeerError: it is no head.
        """
        fork = self._saw(node_id, parse_body(parse_note(note).text), note=note)
        if fork is not None:
            self._found.append(fork)

    def found(self) -> list[Forked]:
        """Return, once, the evidence that came by receipts; call it after their commit."""
        found, self._found = self._found, []
        return found

    def forget(self) -> None:
        """Forget what the database does not hold: a transaction was undone."""
        self._found.clear()

    def saw_claim(self, node_id: bytes, size: int, root: bytes, *, source: bytes) -> Claimed | None:
        """Note what *source* says of the log of *node_id*; return it if it cannot be true."""
        peer = self._owner.trust.peers.get(node_id)
        if peer is None or not self._owner.trust.accepts_link(node_id):
            return None
        last = self._seen(peer.card.log.name)
        if last is not None and last.size == size:
            if last.root == root:
                return None
            return Claimed(node_id, size, source, self.head_of(node_id), ())
        if source != node_id:
            # One claim of each: who claims what never comes true must not fill the table.
            self._store.run(
                "DELETE FROM peer_heads WHERE node_id = ? AND source = ?", node_id, source
            )
        self._wait(node_id, size, root, source)
        return None

    def _saw(
        self, node_id: bytes, checkpoint: Checkpoint, *, note: bytes | None = None
    ) -> Forked | None:
        """Note a head that the log itself signed; *note* if nothing else here holds it."""
        last = self._seen(checkpoint.origin)
        peer = self._owner.trust.peers.get(node_id)
        old = peer is not None and peer.card.log.name != checkpoint.origin
        if last is None and old:
            return None  # of an old log of that node, which nobody here has cosigned
        if last is not None and last.size == checkpoint.size:
            if last.root == checkpoint.root:
                return None
            return self._contradiction(node_id, checkpoint, (), note)
        if old:
            return None  # that log proves nothing any more
        other: bytes | None = self._store.scalar(
            "SELECT root FROM peer_heads WHERE node_id = ? AND size = ? AND source = ? "
            "AND root != ?",
            node_id, checkpoint.size, node_id, checkpoint.root,
        )  # fmt: skip
        self._wait(node_id, checkpoint.size, checkpoint.root, node_id, note)
        if other is None:
            return None
        notes = self._notes(node_id, checkpoint.size)
        return self._first_fork(node_id, notes, notes, ())

    def _wait(
        self, node_id: bytes, size: int, root: bytes, source: bytes, note: bytes | None = None
    ) -> None:
        row = {"node_id": node_id, "size": size, "root": root, "source": source, "note": note}
        known = self._store.scalar(
            "SELECT source FROM peer_heads WHERE node_id = ? AND size = ? AND root = ?",
            node_id, size, root,
        )  # fmt: skip
        # What the log itself signed weighs more than what another says of it.
        if known is None or (source == node_id != known):
            count = self._store.scalar("SELECT count(*) FROM peer_heads WHERE node_id = ?", node_id)
            if known is None and count >= limits.MAX_PEER_HEADS:
                return
            self._store.insert("peer_heads", {**row, "at": self._clock.now()}, replace=True)

    def _drop(self, node_id: bytes, size: int, root: bytes) -> None:
        self._store.run(
            "DELETE FROM peer_heads WHERE node_id = ? AND size = ? AND root = ?",
            node_id, size, root,
        )  # fmt: skip

    def unproven(self, node_id: bytes) -> tuple[int, tuple[int, ...]] | None:
        """Return the witnessed size of a peer's log and the sizes of heads that it has to prove."""
        peer = self._owner.trust.peers.get(node_id)
        last = None if peer is None else self._seen(peer.card.log.name)
        if last is None:
            return None
        rows = self._store.rows(
            "SELECT DISTINCT size FROM peer_heads WHERE node_id = ? AND size < ? "
            "ORDER BY size LIMIT ?",
            node_id, last.size, limits.MAX_CONSISTENCY_PROOFS,
        )  # fmt: skip
        return (last.size, tuple(row["size"] for row in rows)) if rows else None

    def waiting(self) -> dict[bytes, tuple[int, int]]:
        """Return of each peer how many of its heads are unproven, and since when (ms).

        What others only say of it counts from the size on that it was cosigned at: before, it
        cannot prove or deny anything.
        """
        rows = self._store.rows(
            "SELECT node_id, count(*) AS n, min(at) AS at FROM peer_heads p WHERE source = node_id "
            "OR size < (SELECT max(size) FROM witnessed w WHERE w.node_id = p.node_id) "
            "GROUP BY node_id"
        )
        return {row["node_id"]: (row["n"], row["at"]) for row in rows}

    def proved(
        self, node_id: bytes, size: int, items: Iterable[tuple[int, tuple[bytes, ...]]]
    ) -> tuple[list[Forked], list[Claimed]]:
        """Take consistency proofs that a peer gave of its log at *size*, in a transaction.

        Returns:
            New evidence against it, and what others said of it that is not true.

        Raises:
            ProofError: a proof does not lead to the head that the peer signed.
        """
        forks: list[Forked] = []
        claims: list[Claimed] = []
        peer = self._owner.trust.peers.get(node_id)
        last = None if peer is None else self._seen(peer.card.log.name)
        if last is not None and last.size < size:
            fork = self._resolve(node_id, last, size, dict(items))
            return ([] if fork is None else [fork]), claims
        if last is None or last.size != size:
            return forks, claims  # it was cosigned further meanwhile: asked for again
        for old, proof in items:
            before, after = merkle.prefix_roots(old_size=old, new_size=size, path=proof)
            if after != last.root:
                raise ProofError("a consistency proof does not lead to the head that was cosigned")
            for row in self._store.rows(
                "SELECT * FROM peer_heads WHERE node_id = ? AND size = ?", node_id, old
            ):
                if before == row["root"]:
                    pass
                elif row["source"] == node_id:
                    other = Checkpoint(_origin(self.head_of(node_id)), old, row["root"])
                    fork = self._contradiction(node_id, other, proof)
                    forks += [] if fork is None else [fork]
                else:
                    note = self.head_of(node_id)
                    claims.append(Claimed(node_id, old, row["source"], note, proof))
                self._drop(node_id, old, row["root"])
        return forks, claims

    def _resolve(
        self, node_id: bytes, last: Seen, size: int, proofs: Mapping[int, tuple[bytes, ...]]
    ) -> Forked | None:
        """Take the proof that a doubtful head holds, or does not hold, the witnessed one."""
        proof = proofs.get(last.size)
        note = self.note_of(node_id, size)
        if proof is None or not note:
            return None
        before, after = merkle.prefix_roots(old_size=last.size, new_size=size, path=proof)
        if after != _root(note):
            raise ProofError("a consistency proof does not lead to the head that was signed")
        if before == last.root:
            self._drop(node_id, size, after)
            return None
        return self.keep_fork(node_id, make_fork(self.head_of(node_id), note, proof))

    # --- heads to pass on --------------------------------------------------------------------
    def head_of(self, node_id: bytes) -> bytes:
        """Return the signed head of a peer's log that was cosigned last; empty if there is none."""
        peer = self._owner.trust.peers.get(node_id)
        if peer is None:
            return b""
        note: bytes | None = self._store.scalar(
            "SELECT note FROM witnessed WHERE origin = ?", peer.card.log.name
        )
        return note or b""

    def newest_of(self, node_id: bytes) -> bytes:
        """Return the largest signed head of a peer's log that is held; empty if there is none."""
        note = self.head_of(node_id)
        size = 0 if not note else parse_body(parse_note(note).text).size
        larger = self._store.scalar(
            "SELECT max(size) FROM peer_heads WHERE node_id = ?1 AND source = ?1 AND size > ?2",
            node_id, size,
        )  # fmt: skip
        return note if larger is None else self.note_of(node_id, larger) or note

    def heads_for(self, peer: bytes) -> tuple[tuple[bytes, int, bytes], ...]:
        """Return (node id, size, root) of logs whose owners *peer* and we know to know each other.

        That is so if all three belong to one stream; whom else we know is nobody's business.
        """
        rows = self._store.rows(
            "SELECT w.node_id, w.origin, w.size, w.root FROM witnessed w "
            "WHERE w.node_id != ?1 AND w.size > 0 AND EXISTS ("
            "SELECT 1 FROM members a JOIN members b "
            "USING (author, incarnation, stream) WHERE a.node_id = w.node_id AND b.node_id = ?1) "
            "ORDER BY w.node_id, w.at",
            peer,
        )
        return tuple(
            (row["node_id"], row["size"], row["root"])
            for row in rows
            if self.owner_of(row["origin"]) is not None  # not the old log of one that began anew
        )

    def shares(self, peer: bytes, node_id: bytes) -> bool:
        """Whether *peer* and *node_id* know of each other, and we know that they do."""
        found = self._store.scalar(
            "SELECT 1 FROM members a JOIN members b USING (author, incarnation, stream) "
            "WHERE a.node_id = ? AND b.node_id = ? LIMIT 1",
            node_id, peer,
        )  # fmt: skip
        return peer == node_id or found is not None

    def note_of(self, node_id: bytes, size: int) -> bytes:
        """Return a signed head of that size of a log, if one is held; else empty."""
        return next(iter(self._notes(node_id, size)), b"")

    def _notes(self, node_id: bytes, size: int) -> tuple[bytes, ...]:
        """Return all signed heads of that size of a log that are held, each root once."""
        found: dict[bytes, bytes] = {}
        for row in self._store.rows(
            "SELECT note FROM witnessed WHERE node_id = ?1 AND size = ?2 UNION "
            "SELECT note FROM peer_heads WHERE node_id = ?1 AND size = ?2 AND note IS NOT NULL",
            node_id, size,
        ):  # fmt: skip
            found.setdefault(_root(row["note"]), row["note"])
        for row in self._store.rows(
            "SELECT DISTINCT coalesce(r.frame, l.frame) AS frame FROM receipts r "
            "LEFT JOIN receipt_lots l ON l.id = r.lot WHERE r.recipient = ? AND r.tree_size = ?",
            node_id, size,
        ):  # fmt: skip
            frame = decode_frame(row["frame"])
            if isinstance(frame, Receipts | Runs):
                found.setdefault(_root(frame.checkpoint), frame.checkpoint)
        return tuple(found.values())

    # --- evidence ----------------------------------------------------------------------------
    def _contradiction(
        self,
        node_id: bytes,
        other: Checkpoint,
        proof: Sequence[bytes],
        note: bytes | None = None,
    ) -> Forked | None:
        """Keep evidence that the witnessed head contradicts *other*, which *note* may be of."""
        row = self._store.row("SELECT note FROM witnessed WHERE origin = ?", other.origin)
        if row is None:
            return None
        held = self._notes(node_id, other.size) if note is None else (note,)
        others = [each for each in held if _root(each) == other.root]
        return self._first_fork(node_id, others, [row["note"]], proof)

    def _first_fork(
        self,
        node_id: bytes,
        firsts: Sequence[bytes],
        seconds: Sequence[bytes],
        proof: Sequence[bytes],
    ) -> Forked | None:
        for first in firsts:
            for second in seconds:
                if first != second:
                    with suppress(PeerError):
                        return self.keep_fork(node_id, make_fork(first, second, proof))
        return None

    def refuted(self, claim: Claimed, note: bytes) -> Forked | None:
        """Take the signed head *note* with which a third node stands by its claim.

        Raises:
            PeerError: it is not signed by that log, or contradicts nothing.
        """
        if _origin(note) != _origin(claim.note):
            return None  # of the old log of a node that began a new one: that is no contradiction
        return self.keep_fork(claim.node_id, make_fork(note, claim.note, claim.proof))

    def keep_fork(self, node_id: bytes, proof: bytes) -> Forked | None:
        """Verify, keep and log evidence that a log contradicts itself; None if it was known.

        Raises:
            PeerError: it proves nothing, or is of a node that is not known here.
        """
        fork = parse_log_fork(proof)
        verify_log_fork(fork, logs=self._keys_of(node_id))
        digest = log_fork_digest(fork)
        # Of each log by itself: who has its keys must not be able to fill the room for the next.
        held = [
            parse_log_fork(each)
            for each in self.forks().get(node_id, ())
            if fork_origin(each) == _origin(fork.first)
        ]
        # Signed again, heads have other bytes: it is the same contradiction all the same.
        if len(held) >= _MAX_FORKS or _heads(fork) in map(_heads, held):
            return None
        self._store.insert(
            "log_forks",
            {"digest": digest, "node_id": node_id, "proof": proof, "at": self._clock.now()},
        )
        self._log.append([Act(EntryKind.EQUIVOCATION, digest, (node_id, "log"))])
        return Forked(node_id, proof)

    def forks(self) -> Mapping[bytes, list[bytes]]:
        """Return the evidence that is held, by node id."""
        found: dict[bytes, list[bytes]] = {}
        for row in self._store.rows("SELECT node_id, proof FROM log_forks ORDER BY at"):
            found.setdefault(row["node_id"], []).append(row["proof"])
        return found


def make_fork(first: bytes, second: bytes, proof: Sequence[bytes]) -> bytes:
    """Return the bytes of the evidence that two signed heads contradict each other."""
    return encode_log_fork(make_log_fork(first, second, proof))


def fork_origin(proof: bytes) -> str:
    """Return which log the evidence *proof* is against."""
    return _origin(parse_log_fork(proof).first)


def _heads(fork: LogFork) -> tuple[str, str]:
    return parse_note(fork.first).text, parse_note(fork.second).text


def _origin(note: bytes) -> str:
    return parse_body(parse_note(note).text).origin


def _root(note: bytes) -> bytes:
    return parse_body(parse_note(note).text).root
