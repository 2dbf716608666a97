"""Streams in node.db: what is held of each, who belongs to it, and evidence of forks.

- What is held is kept as ranges, so a gap outlives every restart.
- Each two neighbours of a stream are compared once, when the later of them arrives: a predecessor
  other than the one we hold, or a second envelope in one place, is evidence against the author.
- All of it changes only inside transactions; the caches forget everything when one is undone.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from node.clock import Clock
from node.store import Store
from protocol import envelope, frontier, limits, suite
from protocol.admission import Part
from protocol.custody import parse_stub
from protocol.envelope import Audience, Envelope
from protocol.errors import EquivocationError, LogCorruptionError, UnplacedError
from protocol.fork import Fork, SignedHeader, fork_of
from protocol.frontier import HEAD_SIZE, Have, Item, Range, StreamKey

READER: Final = "reader"
CARRIER: Final = "carrier"
_PAGE: Final = 64  # envelopes read at once
_RANGE: Final = struct.Struct(">QQ")


@dataclass(frozen=True, slots=True)
class StreamState:
    """What we hold of one stream; *head* is the id of the envelope at *contiguous*."""

    contiguous: int
    head: bytes
    beyond: tuple[Range, ...]
    forked: bool
    part: Part

    @property
    def have(self) -> Have:
        """The same as peers compare it."""
        return Have(self.contiguous, self.head[:HEAD_SIZE], self.beyond, self.forked)


@dataclass(frozen=True, slots=True)
class _Held:
    """One envelope in its place: of the present batch or of the database."""

    id: bytes
    prev: bytes


def key_of(held: Envelope) -> StreamKey:
    """Return the name of the stream in which *held* stands."""
    header = held.header
    return StreamKey(header.author, header.incarnation, header.stream)


class Streams:
    """The tables ``streams``, ``members`` and ``forks``."""

    def __init__(self, store: Store, clock: Clock, node_id: bytes) -> None:
        self._store = store
        self._clock = clock
        self._node_id = node_id
        self._states: dict[StreamKey, StreamState] = {}
        self._members: dict[StreamKey, dict[bytes, str]] = {}
        self._digests: dict[bytes, bytes] = {}
        self._changed: set[StreamKey] = set()
        self._fresh: dict[tuple[StreamKey, int], list[Envelope]] = {}

    # --- reading -----------------------------------------------------------------------------
    def state(self, key: StreamKey) -> StreamState | None:
        """Return what we hold of a stream, or None if we know nothing of it."""
        found = self._states.get(key)
        if found is None and (found := self._load(key)) is not None:
            self._states[key] = found
        return found

    def _load(self, key: StreamKey) -> StreamState | None:
        row = self._store.row(
            "SELECT * FROM streams WHERE author = ? AND incarnation = ? AND stream = ?",
            *_place(key),
        )
        if row is None:
            return None
        return StreamState(
            row["contiguous"], row["head"], _ranges(row["beyond"]), bool(row["forked"]),
            Part(row["part"]),
        )  # fmt: skip

    def have(self, key: StreamKey) -> Have | None:
        """Return what we hold of a stream as peers compare it."""
        state = self.state(key)
        return None if state is None else state.have

    def members(self, key: StreamKey) -> dict[bytes, str]:
        """Return the members of a stream, ourselves among them, with their roles."""
        found = self._members.get(key)
        if found is None:
            rows = self._store.rows(
                "SELECT node_id, role FROM members "
                "WHERE author = ? AND incarnation = ? AND stream = ?",
                *_place(key),
            )
            found = {row["node_id"]: row["role"] for row in rows}
            if found:  # peers may name any number of streams that do not exist
                self._members[key] = found
        return found

    def shared(self, peer: bytes) -> list[Item]:
        """Return what we hold of the streams that *peer* and we both read (or wrote)."""
        rows = self._store.rows(
            "SELECT s.* FROM members m JOIN streams s USING (author, incarnation, stream) "
            "WHERE m.node_id = ? AND m.role = 'reader' AND s.part <> 'carrier'",
            peer,
        )
        return [_item(row) for row in rows]

    def custody(self, peer: bytes) -> list[Item]:
        """Return what we carry, and have not let go, of the streams that *peer* reads."""
        rows = self._store.rows(
            "SELECT s.* FROM members m JOIN streams s USING (author, incarnation, stream) "
            "WHERE m.node_id = ? AND m.role = 'reader' AND s.part = 'carrier'",
            peer,
        )
        kept = ((key, self._kept(key, have)) for key, have in map(_item, rows))
        return [(key, have) for key, have in kept if have.highest]

    def _kept(self, key: StreamKey, have: Have) -> Have:
        """Return *have*, all that we ever held of a carried stream, without what was let go."""
        rows = self._store.rows(
            "SELECT min(seq) AS first, max(seq) AS last FROM (SELECT seq, "
            "seq - row_number() OVER (ORDER BY seq) AS range FROM (SELECT DISTINCT seq "
            "FROM envelopes WHERE part = 'carrier' AND wire IS NOT NULL "
            "AND author = ? AND incarnation = ? AND stream = ?)) GROUP BY range ORDER BY first",
            *_place(key),
        )
        ranges = tuple((row["first"], row["last"]) for row in rows)
        if ranges == have.ranges:
            return have
        if not ranges or ranges[0][0] > 1:
            return Have(beyond=ranges, forked=have.forked)
        contiguous = ranges[0][1]
        head = self._at(key, contiguous)[0].id[:HEAD_SIZE]
        return Have(contiguous, head, ranges[1:], have.forked)

    def gaps(self) -> int:
        """Return how many streams we hold something of past a gap."""
        return int(self._store.scalar("SELECT count(*) FROM streams WHERE length(beyond) > 0"))

    def digest(self, peer: bytes) -> bytes:
        """Return the digest of what is shared with *peer*; nothing is computed while it stands."""
        if peer not in self._digests:
            self._digests[peer] = frontier.digest(self.shared(peer))
        return self._digests[peer]

    def wires(
        self, key: StreamKey, ranges: Sequence[Range], *, envelopes: int, size: int
    ) -> tuple[list[tuple[bytes, bytes]], tuple[Range, ...]]:
        """Return (id, wire) pairs of *ranges*, ascending, and the ranges that are left.

        At most *envelopes* and about *size* bytes are returned; what is not held is passed over.
        """
        pairs: list[tuple[bytes, bytes]] = []
        left = list(ranges)
        while left and envelopes > 0 and size > 0:
            first, last = left.pop(0)
            rows = self._store.rows(
                "SELECT id, seq, wire FROM envelopes WHERE author = ? AND incarnation = ? "
                "AND stream = ? AND seq BETWEEN ? AND ? AND wire IS NOT NULL ORDER BY seq LIMIT ?",
                *_place(key), first, last, limit := min(envelopes, _PAGE),
            )  # fmt: skip
            # Fewer than were asked for are all that is held.
            done = last if len(rows) < limit else rows[-1]["seq"]
            for row in rows:
                if size <= 0:
                    done = row["seq"] - 1
                    break
                pairs.append((row["id"], row["wire"]))
                envelopes, size = envelopes - 1, size - len(row["wire"])
            if done < last:
                left.insert(0, (done + 1, last))
        return pairs, tuple(left)

    # --- growing -----------------------------------------------------------------------------
    def add(self, held: Envelope, audience: Audience, part: Part) -> list[Fork]:
        """Note an admitted envelope, not yet stored; return the forks that it proves.

        Raises:
            UnplacedError: its stream belongs to another audience, or would have too many gaps.
            EquivocationError: two others stand in its place already.
        """
        key, seq = key_of(held), held.header.seq
        state = self.state(key)
        if state is None:
            state = StreamState(0, suite.ZERO, (), forked=False, part=part)
            self._join(key, audience)
        elif held.opens_epoch:
            self._check_audience(key, audience)
        forks = self._contradictions(key, state, held)
        if seq == state.contiguous + 1 and not state.beyond:
            state = StreamState(seq, held.id, (), state.forked, state.part)
        elif not state.have.holds(seq):
            state = self._grown(key, state, held)
        self._fresh.setdefault((key, seq), []).append(held)
        self._states[key] = replace(state, forked=True) if forks else state
        self._touch(key)
        return forks

    def _join(self, key: StreamKey, audience: Audience) -> None:
        members = dict.fromkeys((key.author, *audience.recipient_ids), READER)
        members.update(dict.fromkeys(audience.carriers, CARRIER))
        self._members[key] = members
        self._store.insert_all(
            "members",
            [
                {
                    "node_id": node_id, "author": key.author, "incarnation": key.incarnation,
                    "stream": key.stream, "role": role,
                }
                for node_id, role in members.items()
            ],
        )  # fmt: skip

    def _check_audience(self, key: StreamKey, audience: Audience) -> None:
        members = self.members(key)
        readers = {node_id for node_id, role in members.items() if role == READER}
        carriers = members.keys() - readers
        if readers - {key.author} != set(audience.recipient_ids) or carriers != set(
            audience.carriers
        ):
            raise UnplacedError("its stream belongs to another audience")

    def _grown(self, key: StreamKey, state: StreamState, held: Envelope) -> StreamState:
        seq = held.header.seq
        ranges = frontier.add(state.have.ranges, seq)
        contiguous = ranges[0][1] if ranges[0][0] == 1 else 0
        beyond = ranges[1:] if contiguous else ranges
        if len(beyond) > limits.MAX_GAPS:
            raise UnplacedError("its stream would have too many gaps")
        head = state.head
        if contiguous == seq:
            head = held.id
        elif contiguous != state.contiguous:
            head = self._at(key, contiguous)[0].id
        return replace(state, contiguous=contiguous, head=head, beyond=beyond)

    def _at(self, key: StreamKey, seq: int) -> list[_Held]:
        """Return what is held in one place: one envelope, or two if the author forked there."""
        rows = self._store.rows(
            "SELECT id, prev FROM envelopes WHERE author = ? AND incarnation = ? AND stream = ? "
            "AND seq = ? "
            "ORDER BY log_index",
            *_place(key), seq,
        )  # fmt: skip
        stored = [_Held(row["id"], row["prev"]) for row in rows]
        fresh = self._fresh.get((key, seq), [])
        known = {each.id for each in stored}
        return stored + [_Held(e.id, e.header.prev) for e in fresh if e.id not in known]

    # --- forks -------------------------------------------------------------------------------
    def _contradictions(self, key: StreamKey, state: StreamState, held: Envelope) -> list[Fork]:
        seq, have = held.header.seq, state.have
        if seq == state.contiguous + 1 and not state.beyond:
            # The usual case: the next one of a whole stream.
            if seq == 1 or held.header.prev == state.head or state.forked:
                return []
            others = [state.head]
        else:
            others = self._others(key, have, held)
        found = (self._fork(held, other) for other in others)
        return [fork for fork in found if fork is not None and self._is_new(fork)]

    def _others(self, key: StreamKey, have: Have, held: Envelope) -> list[bytes]:
        seq = held.header.seq
        others = []
        if have.holds(seq):
            twins = self._at(key, seq)
            if len(twins) > 1:
                raise EquivocationError("two others of its author stand in its place already")
            others += [twin.id for twin in twins]
        if seq > 1 and have.holds(seq - 1):
            before = [each.id for each in self._at(key, seq - 1)]
            others += before[:1] if held.header.prev not in before else []
        if have.holds(seq + 1):
            others += [e.id for e in self._at(key, seq + 1) if e.prev != held.id]
        return others

    def _fork(self, held: Envelope, other_id: bytes) -> Fork | None:
        return fork_of(SignedHeader.of(held), self._signed(other_id))

    def _signed(self, envelope_id: bytes) -> SignedHeader:
        wire = self._store.scalar("SELECT wire FROM envelopes WHERE id = ?", envelope_id)
        if wire is not None:
            return SignedHeader.of(envelope.parse(wire))
        stub = self._store.stub(envelope_id)
        if stub is not None:
            return parse_stub(stub).signed
        return SignedHeader.of(self._fresh_by_id(envelope_id))

    def _fresh_by_id(self, envelope_id: bytes) -> Envelope:
        for group in self._fresh.values():
            for held in group:
                if held.id == envelope_id:
                    return held
        raise LogCorruptionError("an envelope that its stream counts is not held")

    def _is_new(self, fork: Fork) -> bool:
        proofs = self.forks(fork.key)
        return len(proofs) < limits.MAX_FORKS_PER_STREAM and fork.encode() not in proofs

    def forks(self, key: StreamKey) -> list[bytes]:
        """Return the proofs that the author forked this stream, oldest first."""
        rows = self._store.rows(
            "SELECT proof FROM forks WHERE author = ? AND incarnation = ? AND stream = ? "
            "ORDER BY at, digest",
            *_place(key),
        )
        return [row["proof"] for row in rows]

    def add_fork(self, fork: Fork) -> bool:
        """Keep a verified proof and mark its stream; False if it adds nothing."""
        key = fork.key
        state = self.state(key)
        if state is None or not self._is_new(fork):
            return False
        self._store.insert(
            "forks",
            {
                "digest": fork.digest, "author": key.author, "incarnation": key.incarnation,
                "stream": key.stream, "proof": fork.encode(), "at": self._clock.now(),
            },
        )  # fmt: skip
        self._states[key] = replace(state, forked=True)
        self._touch(key)
        return True

    # --- writing -----------------------------------------------------------------------------
    def _touch(self, key: StreamKey) -> None:
        self._changed.add(key)
        for member in self.members(key):
            self._digests.pop(member, None)

    def flush(self) -> None:
        """Write what changed. Call inside the transaction, after its envelopes were stored."""
        rows = []
        for key in self._changed:
            state = self._states[key]
            rows.append(
                {
                    "author": key.author, "incarnation": key.incarnation, "stream": key.stream,
                    "contiguous": state.contiguous, "head": state.head,
                    "beyond": b"".join(_RANGE.pack(*each) for each in state.beyond),
                    "forked": int(state.forked), "part": state.part.value,
                }
            )  # fmt: skip
        self._store.insert_all("streams", rows, replace=True)
        self._changed.clear()
        self._fresh.clear()

    def forget(self) -> None:
        """Forget all that is not in the database: a transaction was undone."""
        for cache in (self._states, self._members, self._digests, self._fresh):
            cache.clear()
        self._changed.clear()


def _place(key: StreamKey) -> tuple[bytes, int, bytes]:
    return key.author, key.incarnation, key.stream


def _item(row: Mapping[str, Any]) -> Item:
    key = StreamKey(row["author"], row["incarnation"], row["stream"])
    beyond, forked = _ranges(row["beyond"]), bool(row["forked"])
    return key, Have(row["contiguous"], row["head"][:HEAD_SIZE], beyond, forked)


def _ranges(data: bytes) -> tuple[Range, ...]:
    return tuple((first, last) for first, last in _RANGE.iter_unpack(data))


def streams_of(items: Iterable[Item], authors: frozenset[bytes]) -> dict[bytes, list[Item]]:
    """Return those of *items* whose author is one of *authors*, ascending, by author."""
    grouped: dict[bytes, list[Item]] = {author: [] for author in authors}
    for item in sorted(items, key=lambda each: each[0]):
        if item[0].author in grouped:
            grouped[item[0].author].append(item)
    return grouped
