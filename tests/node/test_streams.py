"""Streams: what is held of each, gaps that outlive restarts, members, and evidence of forks."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final

import pytest

from node.intake import envelope_row
from node.store import Store
from node.streams import CARRIER, READER, Streams, key_of, streams_of
from protocol import frontier, limits, suite
from protocol.admission import Part
from protocol.envelope import Audience, Envelope
from protocol.errors import EquivocationError, UnplacedError
from protocol.fork import Fork, parse_fork
from protocol.frontier import HEAD_SIZE, Have, Range, StreamKey
from tests.factories import TestNode, make_continuation, make_envelope, make_node, seed
from tests.node.factories import ManualClock, UndoError

LENGTH: Final = 40


class Shelf:
    """The streams of one node over a database that holds nothing else but their envelopes."""

    def __init__(self, path: Path, node_id: bytes) -> None:
        self._path, self._node_id = path, node_id
        self.clock = ManualClock()
        self.store = Store(path, create=True)
        self.streams = Streams(self.store, self.clock, node_id)
        self._index = 0

    def reopen(self) -> None:
        """Open the database again, as a restart does."""
        self.store.close()
        self.store = Store(self._path)
        self.streams = Streams(self.store, self.clock, self._node_id)

    def put(self, *batch: Envelope, audience: Audience, part: Part = Part.RECIPIENT) -> list[Fork]:
        """Store envelopes in one transaction, as intake does; return the forks they prove."""
        with self.store.transaction():
            return self.add(*batch, audience=audience, part=part)

    def add(self, *batch: Envelope, audience: Audience, part: Part = Part.RECIPIENT) -> list[Fork]:
        """Do the same inside a transaction of the caller."""
        rows, forks = [], []
        for held in batch:
            forks += self.streams.add(held, audience, part)
            rows.append(envelope_row(held, part, held.header.author, 0, self._index))
            self._index += 1
        self.store.insert_all("envelopes", rows)
        for fork in forks:
            self.streams.add_fork(fork)
        self.streams.flush()
        return forks

    @contextmanager
    def undone(self) -> Iterator[None]:
        """Undo all that the block does, as a full disk would."""
        with suppress(UndoError), self.store.transaction():
            yield
            raise UndoError
        self.streams.forget()


class Chain:
    """One stream of an honest author, number 1 first."""

    def __init__(
        self,
        author: TestNode,
        readers: Sequence[TestNode],
        carriers: Sequence[TestNode] = (),
        *,
        name: str = "stream",
        length: int = LENGTH,
        prev: bytes = suite.ZERO,
    ) -> None:
        opener = make_envelope(
            author, readers, carriers, stream=seed(name, "stream")[:16], prev=prev
        )
        assert opener.audience is not None
        self.author, self.audience = author, opener.audience
        self.envelopes = [opener]
        for _ in range(length - 1):
            self.envelopes.append(self.after(self.envelopes[-1]))
        self.key = key_of(opener)

    def __getitem__(self, seq: int) -> Envelope:
        return self.envelopes[seq - 1]

    def after(self, before: Envelope, **header: object) -> Envelope:
        """Return one more envelope, which stands behind *before* unless *header* says otherwise."""
        fields = {"seq": before.header.seq + 1, "prev": before.id, **header}
        return make_continuation(self.author, self.envelopes[0], **fields)  # type: ignore[arg-type]

    def twin(self, seq: int, text: bytes = b"another") -> Envelope:
        """Return another envelope in the place of number *seq*."""
        prev = self[seq - 1].id
        return make_continuation(self.author, self.envelopes[0], body=text, seq=seq, prev=prev)


def naive(held: set[int]) -> tuple[Range, ...]:
    """Return the numbers *held* as ascending ranges, one number after the other."""
    ranges: list[tuple[int, int]] = []
    for seq in sorted(held):
        if ranges and ranges[-1][1] + 1 == seq:
            ranges[-1] = (ranges[-1][0], seq)
        else:
            ranges.append((seq, seq))
    return tuple(ranges)


def expected(chain: Chain, held: set[int], *, forked: bool = False) -> Have:
    """Return what a node that holds these numbers of *chain* should say."""
    ranges = naive(held)
    whole = ranges[0][1] if ranges and ranges[0][0] == 1 else 0
    head = chain[whole].id[:HEAD_SIZE] if whole else bytes(HEAD_SIZE)
    return Have(whole, head, ranges[1:] if whole else ranges, forked)


@pytest.fixture
def shelf(tmp_path: Path, birch: TestNode) -> Iterator[Shelf]:
    shelf = Shelf(tmp_path / "node.db", birch.id)
    yield shelf
    shelf.store.close()


@pytest.fixture(scope="module")
def chain(alder: TestNode, birch: TestNode, cedar: TestNode) -> Chain:
    return Chain(alder, [birch], [cedar])


# --- what is held ------------------------------------------------------------------------------
@pytest.mark.parametrize("number", range(12))
def test_what_is_held_is_kept_as_a_naive_set_would_have_it(
    shelf: Shelf, chain: Chain, number: int
) -> None:
    dice = random.Random(number)
    order = list(range(1, LENGTH + 1))
    dice.shuffle(order)
    if number % 3 == 0:
        order.sort(key=lambda seq: seq + dice.randint(0, 6))  # nearly in order, as links bring it
    held: set[int] = set()
    while order:
        size = dice.randint(1, 5)
        batch, order = order[:size], order[size:]
        forks = shelf.put(*(chain[seq] for seq in batch), audience=chain.audience)
        assert not forks, "an honest author is never blamed, whatever the order"
        held |= set(batch)
        state = shelf.streams.state(chain.key)
        assert state is not None
        assert state.have == expected(chain, held)
        assert state.head == (chain[state.contiguous].id if state.contiguous else suite.ZERO)
        assert [seq for seq in range(LENGTH + 2) if seq and state.have.holds(seq)] == sorted(held)
        if dice.random() < 0.3:
            shelf.reopen()
            assert shelf.streams.state(chain.key) == state
    assert expected(chain, held).beyond == ()


def test_a_gap_outlives_reopening_and_closes_when_it_is_filled(shelf: Shelf, chain: Chain) -> None:
    shelf.put(chain[1], chain[2], chain[5], chain[9], audience=chain.audience)
    for _ in range(3):
        have = shelf.streams.have(chain.key)
        assert have == expected(chain, {1, 2, 5, 9})
        lacking = frontier.lacking(have, Have(9, chain[9].id[:HEAD_SIZE]))
        assert lacking == ((3, 4), (6, 8))
        shelf.reopen()
    shelf.put(chain[4], chain[3], audience=chain.audience)
    shelf.reopen()
    assert shelf.streams.have(chain.key) == expected(chain, {1, 2, 3, 4, 5, 9})


def test_a_stream_with_too_many_gaps_takes_what_closes_one_and_nothing_that_makes_one(
    shelf: Shelf, chain: Chain, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "MAX_GAPS", 3)
    shelf.put(chain[1], chain[3], chain[5], chain[7], audience=chain.audience)
    before = shelf.streams.state(chain.key)
    with pytest.raises(UnplacedError), shelf.store.transaction():
        shelf.add(chain[9], audience=chain.audience)
    shelf.streams.forget()
    assert shelf.streams.state(chain.key) == before
    shelf.put(chain[4], chain[9], audience=chain.audience)
    assert shelf.streams.have(chain.key) == expected(chain, {1, 3, 4, 5, 7, 9})


def test_what_is_undone_is_forgotten(shelf: Shelf, chain: Chain, cedar: TestNode) -> None:
    with shelf.undone():
        shelf.add(chain[1], chain[2], audience=chain.audience)
        assert shelf.streams.have(chain.key) == expected(chain, {1, 2})
        assert shelf.streams.digest(cedar.id)
    assert shelf.streams.state(chain.key) is None
    assert shelf.streams.members(chain.key) == {}
    shelf.put(chain[1], audience=chain.audience)
    before = shelf.streams.digest(chain.author.id)
    with shelf.undone():
        shelf.add(chain[2], chain.twin(2), audience=chain.audience)
        state = shelf.streams.state(chain.key)
        assert state is not None
        assert state.forked
        assert shelf.streams.digest(chain.author.id) != before
    assert shelf.streams.have(chain.key) == expected(chain, {1})
    assert shelf.streams.forks(chain.key) == []
    assert shelf.streams.digest(chain.author.id) == before
    assert not shelf.put(chain[2], audience=chain.audience)
    assert shelf.streams.have(chain.key) == expected(chain, {1, 2})


# --- members -----------------------------------------------------------------------------------
def test_members_are_author_readers_and_carriers_and_nobody_else_hears_of_the_stream(
    shelf: Shelf, chain: Chain, alder: TestNode, birch: TestNode, cedar: TestNode
) -> None:
    dogwood = make_node("dogwood")
    nothing = shelf.streams.digest(dogwood.id)
    shelf.put(chain[1], chain[3], audience=chain.audience)
    members = {alder.id: READER, birch.id: READER, cedar.id: CARRIER}
    for _ in range(2):
        assert shelf.streams.members(chain.key) == members
        item = (chain.key, expected(chain, {1, 3}))
        assert shelf.streams.shared(alder.id) == [item]
        assert shelf.streams.shared(cedar.id) == [], "a carrier compares nothing"
        assert shelf.streams.shared(dogwood.id) == shelf.streams.custody(dogwood.id) == []
        assert shelf.streams.custody(alder.id) == [], "we read it and do not carry it"
        assert shelf.streams.digest(dogwood.id) == nothing == shelf.streams.digest(cedar.id)
        assert shelf.streams.digest(alder.id) == frontier.digest([item])
        shelf.reopen()


def test_what_is_carried_is_shown_to_its_readers_apart_from_what_is_read(
    shelf: Shelf, alder: TestNode, birch: TestNode, cedar: TestNode
) -> None:
    carried = Chain(alder, [cedar], [birch], name="carried", length=2)
    read = Chain(alder, [birch, cedar], name="read", length=2)
    shelf.put(*carried.envelopes, audience=carried.audience, part=Part.CARRIER)
    shelf.put(*read.envelopes, audience=read.audience)
    assert shelf.streams.shared(cedar.id) == [(read.key, expected(read, {1, 2}))]
    assert shelf.streams.custody(cedar.id) == [(carried.key, expected(carried, {1, 2}))]


def test_the_digest_is_as_if_computed_anew_after_every_change(
    shelf: Shelf, alder: TestNode, birch: TestNode, cedar: TestNode
) -> None:
    chains = [Chain(alder, readers, name=f"s{i}", length=4) for i, readers in
              enumerate(([birch], [birch, cedar], [birch, cedar]))]  # fmt: skip
    dice = random.Random(1)
    waiting = [(c, seq) for c in chains for seq in range(1, 5)]
    dice.shuffle(waiting)
    for c, seq in waiting:
        shelf.put(c[seq], audience=c.audience)
        for peer in (alder, cedar):
            assert shelf.streams.digest(peer.id) == frontier.digest(shelf.streams.shared(peer.id))


def test_a_stream_keeps_its_audience(
    shelf: Shelf, chain: Chain, alder: TestNode, birch: TestNode, cedar: TestNode
) -> None:
    shelf.put(chain[1], chain[2], audience=chain.audience)
    place = {"stream": chain.key.stream, "seq": 3, "prev": chain[2].id, "epoch": 2}
    for readers, carriers in (
        ([birch, cedar], []), ([birch], []), ([birch], [make_node("dogwood")]),
        ([birch, cedar], [cedar]),
    ):  # fmt: skip
        if set(map(id, readers)) & set(map(id, carriers)):
            continue
        other = make_envelope(alder, readers, carriers, **place)  # type: ignore[arg-type]
        assert other.audience is not None
        with pytest.raises(UnplacedError), shelf.store.transaction():
            shelf.add(other, audience=other.audience)
        shelf.streams.forget()
    renewed = make_envelope(alder, [birch], [cedar], **place)  # type: ignore[arg-type]
    assert renewed.audience is not None
    assert not shelf.put(renewed, audience=renewed.audience), "a new epoch for the same members"
    have = shelf.streams.have(chain.key)
    assert have is not None
    assert have.contiguous == 3


# --- forks -------------------------------------------------------------------------------------
@pytest.mark.parametrize("together", [True, False], ids=["one batch", "two batches"])
@pytest.mark.parametrize("first", [True, False], ids=["twin last", "twin first"])
def test_two_envelopes_in_one_place_are_a_fork_and_both_are_kept(
    shelf: Shelf, chain: Chain, *, together: bool, first: bool
) -> None:
    pair = [chain[3], chain.twin(3)]
    if not first:
        pair.reverse()
    shelf.put(chain[1], chain[2], audience=chain.audience)
    batches = [pair] if together else [[pair[0]], [pair[1]]]
    found = [fork for batch in batches for fork in shelf.put(*batch, audience=chain.audience)]
    (fork,) = found
    assert {fork.first.id, fork.second.id} == {each.id for each in pair}
    assert fork.first.id < fork.second.id, "a pair has one proof, whichever came first"
    for _ in range(2):
        state = shelf.streams.state(chain.key)
        assert state is not None
        assert state.forked
        assert state.head == pair[0].id, "the one that came first stands in the chain"
        assert shelf.streams.forks(chain.key) == [fork.encode()]
        assert [parse_fork(proof) for proof in shelf.streams.forks(chain.key)] == [fork]
        pairs, left = shelf.streams.wires(chain.key, ((3, 3),), envelopes=9, size=10**6)
        assert {each for each, _ in pairs} == {each.id for each in pair}
        assert left == ()
        shelf.reopen()


@pytest.mark.parametrize("later_first", [True, False])
def test_a_successor_that_names_another_predecessor_is_a_fork_in_both_orders(
    shelf: Shelf, chain: Chain, *, later_first: bool
) -> None:
    stray = chain.after(chain.twin(2))  # number 3, behind a number 2 that we never see
    batch = [stray, chain[2]] if later_first else [chain[2], stray]
    found = [
        fork for held in (chain[1], *batch) for fork in shelf.put(held, audience=chain.audience)
    ]
    (fork,) = found
    assert (fork.first.id, fork.second.id) == (chain[2].id, stray.id)
    assert shelf.streams.have(chain.key) == Have(3, stray.id[:HEAD_SIZE], (), forked=True)


def test_a_third_envelope_in_one_place_is_refused_and_changes_nothing(
    shelf: Shelf, chain: Chain
) -> None:
    shelf.put(chain[1], chain[2], chain.twin(2), audience=chain.audience)
    before = shelf.streams.state(chain.key)
    for text in (b"third", b"fourth"):
        with pytest.raises(EquivocationError), shelf.store.transaction():
            shelf.add(chain.twin(2, text), audience=chain.audience)
        shelf.streams.forget()
    assert shelf.streams.state(chain.key) == before
    assert len(shelf.streams.forks(chain.key)) == 1


def test_a_forked_stream_goes_on_and_keeps_no_more_than_so_many_proofs(
    shelf: Shelf, chain: Chain
) -> None:
    shelf.put(chain[1], audience=chain.audience)
    count = limits.MAX_FORKS_PER_STREAM + 4
    for seq in range(2, count + 2):
        shelf.put(chain[seq], chain.twin(seq), audience=chain.audience)
    have = shelf.streams.have(chain.key)
    assert have == expected(chain, set(range(1, count + 2)), forked=True)
    assert len(shelf.streams.forks(chain.key)) == limits.MAX_FORKS_PER_STREAM


def test_evidence_that_is_known_or_about_an_unknown_stream_adds_nothing(
    shelf: Shelf, chain: Chain
) -> None:
    other = Chain(chain.author, [make_node("dogwood")], name="elsewhere", length=2)
    (fork,) = shelf.put(*chain.envelopes[:2], chain.twin(2), audience=chain.audience)
    with shelf.store.transaction():
        assert not shelf.streams.add_fork(fork)
    with shelf.undone():
        (foreign,) = shelf.add(*other.envelopes, other.twin(2), audience=other.audience)
    with shelf.store.transaction():
        assert not shelf.streams.add_fork(foreign)
        shelf.streams.flush()
    assert shelf.streams.state(other.key) is None
    assert shelf.store.scalar("SELECT count(*) FROM forks") == 1


def test_an_author_that_begins_anew_behind_its_last_head_is_not_blamed(
    shelf: Shelf, chain: Chain, birch: TestNode
) -> None:
    shelf.put(chain[1], chain[2], audience=chain.audience)
    renewed = Chain(chain.author, [birch], name="renewed", length=3, prev=chain[2].id)
    assert not shelf.put(*reversed(renewed.envelopes), audience=renewed.audience)
    assert shelf.streams.have(renewed.key) == expected(renewed, {1, 2, 3})


# --- bringing ----------------------------------------------------------------------------------
@pytest.mark.parametrize("number", range(6))
def test_wires_of_ranges_come_whole_and_in_order_however_they_are_cut(
    shelf: Shelf, chain: Chain, number: int
) -> None:
    dice = random.Random(number)
    held = {seq for seq in range(1, LENGTH + 1) if dice.random() < 0.7}
    shelf.put(*(chain[seq] for seq in sorted(held)), audience=chain.audience)
    wanted = {seq for seq in range(1, LENGTH + 10) if dice.random() < 0.6}
    left: Sequence[Range] = naive(wanted)
    got: list[bytes] = []
    for _ in range(200):
        envelopes = dice.randint(1, 6)
        size = dice.randint(1, 6_000)
        pairs, left = shelf.streams.wires(chain.key, left, envelopes=envelopes, size=size)
        assert len(pairs) <= envelopes
        assert sum(len(wire) for _, wire in pairs[:-1]) < size, "one at most goes beyond"
        got += [envelope_id for envelope_id, _ in pairs]
        if not left:
            break
    assert got == [chain[seq].id for seq in sorted(held & wanted)]
    assert left == ()


def test_wires_of_what_is_unknown_are_none(shelf: Shelf) -> None:
    key = StreamKey(bytes(32), 1, bytes(16))
    assert shelf.streams.wires(key, ((1, 50),), envelopes=5, size=100) == ([], ())
    assert shelf.streams.state(key) is None
    assert shelf.streams.have(key) is None


def test_asking_for_much_that_is_not_held_costs_little(
    shelf: Shelf, chain: Chain, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else a member that leaves room for one envelope only could keep the node busy for long."""
    shelf.put(chain[1], chain[9], audience=chain.audience)
    rows, queries = shelf.store.rows, []

    def counted(sql: str, *values: object) -> list[dict[str, Any]]:
        queries.append(sql)
        return rows(sql, *values)

    monkeypatch.setattr(shelf.store, "rows", counted)
    wanted = ((2, 8), (10, limits.MAX_WANT))
    assert shelf.streams.wires(chain.key, wanted, envelopes=1, size=10**6) == ([], ())
    assert len(queries) < 10


def test_items_are_grouped_by_author_in_order(alder: TestNode, birch: TestNode) -> None:
    keys = [StreamKey(node.id, 1, bytes([n]) * 16) for node in (alder, birch) for n in (3, 1, 2)]
    items = [(key, Have()) for key in keys]
    grouped = streams_of(items, frozenset({alder.id}))
    assert grouped == {alder.id: sorted(items[:3], key=lambda item: item[0])}
