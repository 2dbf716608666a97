"""Gossip between whole nodes without sockets: what is said, to whom, how often, and what mends."""

from __future__ import annotations

import random
import shutil
from collections.abc import Iterator
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import Final

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from keys.trust import Level, Verification
from node import metrics
from node.exchange import COMPARE_MS
from node.intake import Taken
from node.line import Line
from node.log import Act
from node.offering import PATIENCE_MS
from node.streams import key_of
from protocol import limits, suite
from protocol.entry import EntryKind
from protocol.envelope import parse
from protocol.errors import LogBehindError, RollbackError
from protocol.fork import SignedHeader, fork_of, parse_fork, verify_fork
from protocol.frames import (
    Authors,
    Bye,
    Deliver,
    Forked,
    Frontier,
    Receipts,
    Refuse,
    Runs,
    Summary,
    Want,
    WantReceipts,
    decode_frame,
    encode_frame,
)
from protocol.frontier import HEAD_SIZE, Have, StreamKey
from protocol.quota import Quota, Rate
from protocol.session import Lane, Send
from tests.node.factories import (
    MINUTE,
    NAMES,
    Station,
    World,
    copied,
    forge,
    full_disk,
    hand,
    incident_id,
    made_once,
    pass_on,
)
from tests.node.wiring import Web

IN_STEP_BYTES: Final = 100
SOON: Final = 3
"""Seconds: more than a node waits for whoever pushes."""


@pytest.fixture
def world(tmp_path_factory: pytest.TempPathFactory, tmp_path: Path) -> Iterator[World]:
    with copied(made_once(tmp_path_factory), tmp_path) as opened:
        yield opened


def four(world: World) -> tuple[Station, Station, Station, Station]:
    return world["alder"], world["birch"], world["cedar"], world["dogwood"]


def ids(*numbers: int) -> set[str]:
    return {incident_id(number) for number in numbers}


def check_once(*stations: Station) -> None:
    """Check that each log verifies, and that nobody was blamed for a fork."""
    for station in stations:
        assert station.core.verify()["entries"] == station.core.log.size
        assert EntryKind.EQUIVOCATION not in station.kinds()


def lines_of(web: Web, name: str) -> list[Line]:
    return list(web[name].gossip.links.values())


# --- in step -----------------------------------------------------------------------------------
def test_nodes_in_step_pay_one_small_message_each_way_at_connect_and_each_minute(
    world: World,
) -> None:
    alder, birch, cedar, _ = four(world)
    for number in range(20):
        alder.release(number, birch, *([cedar] if number % 2 else []))
        birch.release(100 + number, alder)
    while pass_on(alder, birch).stored or pass_on(birch, alder).stored:
        pass
    web = Web(alder, birch)
    web.link("alder", "birch")
    for giver, taker in (("alder", "birch"), ("birch", "alder")):
        (only,) = web.between(giver, taker)
        assert isinstance(only.frame, Summary)
        assert only.size < IN_STEP_BYTES
    web.passed.clear()
    web.run(COMPARE_MS // 1_000 + 1)
    for giver, taker in (("alder", "birch"), ("birch", "alder")):
        assert 1 <= len(web.between(giver, taker)) <= 2
        for passed in web.between(giver, taker):
            assert isinstance(passed.frame, Summary)
            assert passed.size < IN_STEP_BYTES


def test_nodes_that_differ_compare_only_the_authors_and_streams_that_differ(world: World) -> None:
    alder, birch, cedar, _ = four(world)
    same = alder.release(1, birch, cedar)
    other = birch.release(2, alder, cedar)
    for giver in (alder, birch):
        for taker in (alder, birch, cedar):
            if giver is not taker:
                pass_on(giver, taker)
    hand(alder, birch, alder.release(3, birch, cedar))
    web = Web(birch, cedar)
    web.link("birch", "cedar")
    frontiers = web.frames(Frontier, "birch", "cedar")
    assert [frame.author for frame in frontiers] == [alder.id]
    assert len(web.frames(Authors)) == 2
    web.run(SOON)
    assert cedar.shows() == ids(1, 2, 3)
    assert {key_of(cedar.envelope(key)) for key in (same, other)} >= {
        key for frame in frontiers for key, _ in frame.items
    }
    check_once(birch, cedar)


# --- pulling -----------------------------------------------------------------------------------
def test_what_was_missed_comes_from_another_member_while_the_author_is_away(world: World) -> None:
    alder, birch, cedar, _ = four(world)
    web = Web(alder, birch)
    web.link("alder", "birch")
    keys = [alder.release(n, birch, cedar) for n in range(5)]
    web.pump()
    web.stop("alder")
    web.start(cedar_station := web_closed(cedar))
    web.link("birch", "cedar")
    web.run(SOON)
    assert cedar_station.shows() == ids(*range(5))
    assert len(web.frames(Want, "cedar", "birch")) == 1
    assert set(web.copies().values()) == {1}
    # The author learns of it by way of the member that brought it.
    web.start(alder)
    web.link("alder", "birch")
    assert {alder.state(key, cedar) for key in keys} == {"received"}
    web.run(SOON)
    assert web.frames(Deliver, "alder", "cedar") == []
    assert alder.core.outbox.size() == 0
    check_once(alder, birch, cedar)


def web_closed(station: Station) -> Station:
    """Return *station*, closed, as one that was down."""
    station.close()
    return station


@pytest.mark.parametrize("missed", [0, 150])
def test_nobody_asks_for_what_the_author_sends_by_itself(world: World, missed: int) -> None:
    alder, birch, cedar, dogwood = four(world)
    web = Web(alder, birch, dogwood)
    web.link("alder", "birch", "dogwood")
    for number in range(missed):
        alder.release(number, birch, cedar, dogwood)
    web.pump()
    web.start(web_closed(cedar))
    for other in ("birch", "dogwood", "alder"):
        web.join("cedar", other)  # the author last, so that others could be asked before it
    for number in range(missed, missed + 30):
        alder.release(number, birch, cedar, dogwood)
        web.pump()
    web.run(40)
    assert web.frames(Want) == []
    assert set(web.copies().values()) == {1}
    assert cedar.shows() >= ids(missed, missed + 29)
    assert cedar.kinds().count(EntryKind.RECEIVED) == birch.kinds().count(EntryKind.RECEIVED)
    assert alder.core.outbox.size() == 0
    check_once(alder, birch, cedar, dogwood)


@pytest.mark.parametrize("seed", range(3))
def test_nobody_asks_for_what_is_on_its_way_over_a_slow_link(world: World, seed: int) -> None:
    dice = random.Random(seed)
    alder, birch, cedar, dogwood = four(world)
    web = Web(alder, birch, cedar, dogwood)
    web.link("alder", "birch", "cedar", "dogwood")
    for number in range(8):
        alder.release(number, birch, cedar, dogwood)
        web.crawl(15, dice, most=1)  # one member announces what another has not read yet
    web.run(SOON)
    assert web.frames(Want) == []
    assert set(web.copies().values()) == {1}
    assert cedar.shows() == birch.shows() == dogwood.shows() == ids(*range(8))
    assert len(web.frames(Frontier)) >= 8, "heads were told meanwhile"


def test_who_promises_and_does_not_bring_is_left_for_the_next_and_told_to_the_operator(
    world: World,
) -> None:
    alder, birch, cedar, dogwood = four(world)
    keys = [alder.release(n, birch, cedar, dogwood) for n in range(3)]
    hand(alder, birch, *keys)
    hand(alder, dogwood, *keys)
    web = Web(birch, cedar, dogwood)
    withhold(web, "birch")
    web.link("cedar", "birch")
    web.run(SOON)
    assert len(web.frames(Want, "cedar", "birch")) == 1
    assert cedar.shows() == set()
    web.link("cedar", "dogwood")
    web.run(limits.RECEIPT_TIMEOUT_MS // 1_000 - 2 * SOON)
    assert cedar.shows() == set(), "it is not asked for twice at once"
    web.run(3 * SOON)
    assert cedar.shows() == ids(0, 1, 2)
    assert web["cedar"].gossip.metrics.value(metrics.STALLS, "birch") == 1
    assert not web["cedar"].gossip.exchange.stalled, "once may happen"
    assert web.linked("birch", "cedar"), "who stalls is asked less, not cut"


def test_who_stalls_again_and_again_is_asked_more_rarely_and_named(world: World) -> None:
    alder, birch, cedar, _ = four(world)
    hand(alder, birch, alder.release(1, birch, cedar))
    web = Web(birch, cedar)
    withhold(web, "birch")
    web.link("birch", "cedar")
    web.run(600)
    assert 3 <= len(web.frames(Want)) <= 6
    stalls = web["cedar"].gossip.metrics.value(metrics.STALLS, "birch")
    assert 3 <= stalls <= len(web.frames(Want))
    assert web["cedar"].gossip.exchange.stalled == {birch.id: stalls}
    del web["birch"].gossip.offering._serve
    web.run(600)
    assert cedar.shows() == ids(1)


def withhold(web: Web, giver: str) -> None:
    """Let *giver*, which is not linked yet, forget whatever it is asked for."""
    assert not web[giver].gossip.links
    web[giver].gossip.offering._serve = lambda line, now: line.wants.clear()  # type: ignore[method-assign]


# --- receipts ----------------------------------------------------------------------------------
def test_receipts_wait_for_others_and_go_under_one_signature(world: World) -> None:
    alder, birch, cedar, _ = four(world)
    web = Web(alder, birch, cedar, receipts_wait_ms=20)
    web.link("alder", "birch", "cedar")
    web.run(SOON)
    gossip, signed = web["cedar"].gossip, cedar.core.log.signed_size
    alder.release(1, cedar)
    web.pump()
    web.clock.advance(15)
    birch.release(2, cedar)
    web.pump()
    assert cedar.shows() == ids(1, 2), "only the receipts wait"
    assert web.frames(Receipts, "cedar") == []
    assert (gossip.answer_in, cedar.core.log.signed_size) == (5, signed)
    web.clock.advance(5)
    gossip.answer()
    web.pump()
    (one,), (other,) = (web.frames(Receipts, "cedar", name) for name in ("alder", "birch"))
    assert one.checkpoint == other.checkpoint
    assert gossip.answer_in is None
    check_once(alder, birch, cedar)


def test_nobody_waits_for_the_answer_to_a_line_that_has_closed(world: World) -> None:
    alder, birch, _, _ = four(world)
    web = Web(alder, birch, receipts_wait_ms=20)
    web.link("alder", "birch")
    web.run(SOON)
    alder.release(1, birch)
    web.pump()
    assert web["birch"].gossip.answer_in == 20
    web["birch"].gossip.end(web.line("birch", "alder"), "shutdown")
    assert web["birch"].gossip.answer_in is None


def test_receipts_that_name_one_envelope_twice_are_refused(world: World) -> None:
    alder, birch, _, _ = four(world)
    key = alder.release(1, birch)
    with birch.core.logged():
        twice = birch.core.log.append([Act(EntryKind.RECEIVED, key, ())] * 2)
    runs = birch.core.log.runs([(key, index) for index in twice])
    web = Web(alder, birch)
    withhold_answers(web, "birch")
    web.link("alder", "birch")
    web.say("birch", "alder", runs)
    assert "bad-receipt" in web["alder"].gossip.trouble[birch.id]
    assert alder.state(key, birch) == "queued"
    assert alder.core.verify()["receipts"] == 0


def withhold_answers(web: Web, name: str) -> None:
    """Let *name* take in nothing that it is given."""
    nothing = Taken((), (), 0, 0, (), 0, 0, frozenset(), ())
    web[name].core.take_in = lambda wires, *, giver: nothing  # type: ignore[method-assign]


def test_receipts_outlive_the_card_under_which_they_were_given(world: World) -> None:
    alder, birch, cedar, _ = four(world)
    keys = [alder.release(n, birch, carriers=[cedar]) for n in range(3)]
    web = Web(alder, birch)
    web.link("alder", "birch")
    web.run(SOON)
    other = Ed25519PrivateKey.from_private_bytes(bytes(32)).public_key().public_bytes_raw()
    birch.renew_card(log=replace(birch.core.card.log, ed25519=other))
    alder.core.take_statements(birch.id, birch.core.statements_of(birch.id, 0))
    assert [alder.state(key, birch) for key in keys] == ["received"] * 3
    assert alder.core.verify()["receipts"] == 3
    assert all(alder.core.receipts.held(key) for key in keys)


def test_streams_that_are_named_and_taken_back_again_and_again_take_no_memory(
    world: World,
) -> None:
    alder, birch, _, _ = four(world)
    web = Web(alder, birch)
    web.link("alder", "birch")
    line = web.line("birch", "alder")
    for number in range(4):
        keys = sorted(
            StreamKey(alder.id, 1, suite.digest("s", bytes([number, n % 256, n // 256]))[:16])
            for n in range(limits.MAX_FRAME_ITEMS)
        )
        for have in (Have(3, b"h" * HEAD_SIZE), Have()):
            web.say("alder", "birch", Frontier(alder.id, tuple((key, have) for key in keys)))
    assert len(line.theirs) == len(line.missed) == 0


# --- nobody else -------------------------------------------------------------------------------
def test_a_node_outside_the_audience_sees_no_trace_of_a_stream(
    world: World, tmp_path: Path
) -> None:
    alder, birch, cedar, dogwood = four(world)
    web = Web(*world)
    web.link(*NAMES)
    shared = alder.release(50, birch, dogwood)
    keys = [alder.release(n, birch, cedar) for n in range(4)]
    web.run(SOON)
    streams = {key_of(alder.envelope(key)) for key in keys}
    # What makes nodes talk: losses, forks, restarts, and time.
    forged = forge(alder, birch, cedar, numbers=(60,))[0]
    alder.release(61, birch, cedar)
    web.pump()
    birch.core.take([forged], giver=cedar.id)
    web.restart("cedar")
    web.link("cedar", "birch")
    web.join("cedar", "alder")
    web.join("cedar", "dogwood")
    web.run(70)
    assert birch.core.streams.forks(next(iter(streams)))
    marks = [mark for key in keys for mark in (key, key[:HEAD_SIZE])]
    marks += [key.stream for key in streams] + [parse(forged).id[:HEAD_SIZE]]
    for passed in web.passed:
        if "dogwood" in {passed.giver, passed.taker}:
            assert not [mark for mark in marks if mark in passed.message], passed.frame
    seen = [p for p in web.passed if "dogwood" not in {p.giver, p.taker}]
    for mark in marks[0], *(key.stream for key in streams):
        assert any(mark in passed.message for passed in seen), "or else it proves nothing"
    assert cedar.core.store.envelope(shared) is None
    check_once(dogwood)


def test_asking_about_a_stream_of_others_says_nothing_not_even_that_it_is_there(
    world: World,
) -> None:
    alder, birch, cedar, dogwood = four(world)
    web = Web(alder, birch, dogwood)
    web.link("alder", "birch", "dogwood")
    key = alder.release(1, birch, cedar)
    web.run(SOON)
    stream = key_of(alder.envelope(key))
    other = StreamKey(alder.id, stream.incarnation, bytes(16))
    head = key[:HEAD_SIZE]
    one, two = (parse(forge(alder, birch, cedar, numbers=(n,))[0]) for n in (2, 3))
    proof = fork_bytes(one.wire, two.wire)
    answers = {}
    for name, asked in (("there", stream), ("nowhere", other)):
        web.passed.clear()
        for node in ("alder", "birch"):
            web.say(
                "dogwood", node,
                Want(asked, ((1, 9),)),
                WantReceipts((key if name == "there" else bytes(32),)),
                Authors(((alder.id, bytes(16)),)),
                Frontier(alder.id, ((asked, Have(1, suite.ZERO[:7] + b"\1")),)),
                Frontier(alder.id, ((asked, Have(1, head)),)),
            )  # fmt: skip
        web.run(SOON)
        answers[name] = [
            type(p.frame) for p in web.passed if p.taker == "dogwood" and p.giver == "alder"
        ]
        assert not [p for p in web.passed if p.taker == "dogwood" and stream.stream in p.message]
        assert web.frames(Deliver, taker="dogwood") == []
        assert web.frames(Receipts, taker="dogwood") == []
    assert set(answers["there"]) <= set(answers["nowhere"]), "no sign that it is there"
    web.passed.clear()
    web.say("dogwood", "birch", Forked(proof))
    assert birch.core.streams.forks(stream) == []
    assert web.frames(Forked, "birch") == web.frames(Forked, "alder") == []


def fork_bytes(one: bytes, two: bytes) -> bytes:
    fork = fork_of(*(SignedHeader.of(parse(wire)) for wire in (one, two)))
    assert fork is not None
    return fork.encode()


def test_a_peer_lowered_to_observe_is_told_and_given_nothing_and_heard_still(
    world: World,
) -> None:
    alder, birch, cedar, _ = four(world)
    web = Web(alder, birch, cedar)
    web.link("alder", "birch", "cedar")
    before = alder.release(1, birch, cedar)
    web.run(SOON)
    verification = Verification("voice", "test", world.clock.now())
    waiting, shared = alder.release(2, birch), alder.release(4, birch, cedar)
    alder.core.approve_peer(birch.id, Level.OBSERVE, verification)
    web.passed.clear()
    web.say(
        "birch", "alder",
        Summary(bytes(32)), Authors(()), Want(key_of(alder.envelope(before)), ((1, 9),)),
        WantReceipts((before,)),
    )  # fmt: skip
    own = birch.release(3, alder, cedar)
    web.run(130)
    told = [p.frame for p in web.between("alder", "birch")]
    assert [type(frame) for frame in told] == [Receipts], "of what it sent itself"
    assert alder.core.store.envelope(own) is not None
    assert alder.state(waiting, birch) == "queued"
    assert birch.core.store.envelope(waiting) is None
    assert birch.core.store.envelope(shared) is not None, "from cedar, whose trust is its own"
    alder.core.approve_peer(birch.id, Level.SHARE, verification)
    web.run(70)
    assert alder.state(waiting, birch) == "received"


# --- what was lost -----------------------------------------------------------------------------
class Backup:
    """A copy of the home of a node, taken while it is down."""

    def __init__(self, station: Station, folder: Path) -> None:
        station.close()
        self.station = station
        self._copy = shutil.copytree(station.home.path, folder / "backup" / station.name)
        station.open()

    def put_back(self, *, whole: bool) -> Station:
        """Put it back, the fence and the casebook too if *whole*; return the closed station."""
        home = self.station.home
        self.station.close()
        if whole:
            shutil.rmtree(home.path)
            shutil.copytree(self._copy, home.path)
            return self.station
        for file in home.path.glob("node.db*"):
            file.unlink()
        for file in self._copy.glob("node.db*"):
            shutil.copy(file, home.path)
        home.fence.unlink()
        return self.station


@pytest.mark.parametrize("whole", [True, False], ids=["whole home", "old database, new fence"])
def test_a_restored_recipient_gets_back_all_that_it_lost(
    world: World, tmp_path: Path, *, whole: bool
) -> None:
    alder, birch, cedar, _ = four(world)
    web = Web(alder, birch)
    web.link("alder", "birch")
    keys = [alder.release(n, birch, cedar) for n in range(3)]
    web.pump()
    web.cut("alder", "birch")
    web.parties.pop("birch")
    backup = Backup(birch, tmp_path)
    web.start(web_closed(birch))
    web.link("alder", "birch")
    keys += [alder.release(n, birch, cedar) for n in range(3, 40)]
    web.pump()
    web.run(1)
    assert {alder.state(key, birch) for key in keys} == {"received"}, "and so never sent again"
    web.cut("alder", "birch")
    web.parties.pop("birch")
    backup.put_back(whole=whole)
    web.start(birch, accept=not whole)
    signed = birch.core.log.signed_size
    with pytest.raises(LogBehindError, match="old copy"):
        web.link("alder", "birch")
    assert birch.core.log.signed_size == signed, "nothing was signed meanwhile"
    web.stop("birch")
    with pytest.raises(RollbackError, match="old copy"):
        birch.open()
    web.start(birch, reopen=True)
    web.passed.clear()
    web.link("alder", "birch")
    web.run(SOON)
    assert birch.core.streams.have(key_of(alder.envelope(keys[0]))) == Have(
        40, keys[-1][:HEAD_SIZE]
    )
    assert birch.shows() >= ids(*range(3, 40))
    assert set(web.copies().values()) == {1}
    assert len(web.copies()) == 37
    web.run(2)
    check_once(alder, birch)
    assert web.linked("alder", "birch"), "and no link ended over it"


def test_an_author_that_lost_its_last_releases_gets_them_back_and_sends_them_on(
    world: World, tmp_path: Path
) -> None:
    alder, birch, cedar, _ = four(world)
    alder.release(0, birch, cedar)
    backup = Backup(alder, tmp_path)
    web = Web(alder, birch)
    web.link("alder", "birch")
    lost = [alder.release(n, birch, cedar) for n in (1, 2, 3)]
    web.pump()
    web.cut("alder", "birch")
    web.parties.pop("alder")
    backup.put_back(whole=True)
    web.start(alder)
    assert alder.core.store.envelope(lost[0]) is None
    web.link("alder", "birch")
    web.run(SOON)
    assert alder.shows() == ids(0, 1, 2, 3)
    assert [alder.state(key, birch) for key in lost] == ["received"] * 3
    assert [alder.state(key, cedar) for key in lost] == ["queued"] * 3
    web.start(web_closed(cedar))
    web.link("cedar", "alder")
    web.run(SOON)
    assert cedar.shows() == ids(0, 1, 2, 3)
    assert alder.core.outbox.size() == 0
    for line in lines_of(web, "birch"):
        assert line.open, "nobody is blamed for bringing them"
    world.clock.advance(MINUTE)
    alder.release(4, birch, cedar)
    web.run(SOON)
    assert birch.shows() == cedar.shows() == ids(0, 1, 2, 3, 4)
    check_once(alder, birch, cedar)


# --- forks -------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("at_birch", "at_cedar"),
    [("12", "15"), ("123", "156"), ("123", "15"), ("1234", "15"), ("12", "1567"), ("13", "15")],
)
def test_a_fork_is_known_to_all_members_soon_and_names_its_author_alone(
    world: World, at_birch: str, at_cedar: str
) -> None:
    alder, birch, cedar, dogwood = four(world)
    first = alder.envelope(alder.release(1, birch, cedar, dogwood)).wire
    one = forge(alder, birch, cedar, dogwood, numbers=(2, 3, 4))
    other = forge(alder, birch, cedar, dogwood, numbers=(5, 6, 7))
    wires = dict(zip("1234567", (first, *one, *other), strict=True))
    for station, held in ((birch, at_birch), (cedar, at_cedar), (dogwood, "1")):
        assert station.core.take([wires[n] for n in held], giver=alder.id).stored
    key = key_of(parse(first))
    web = Web(birch, cedar, dogwood)
    web.link("birch", "cedar", "dogwood")
    web.run(SOON)
    web.link()
    web.run(2 * COMPARE_MS // 1_000)
    for station in (birch, cedar, dogwood):
        state = station.core.streams.state(key)
        assert state is not None
        assert state.forked, station.name
        assert EntryKind.EQUIVOCATION in station.kinds()
        for proof in station.core.streams.forks(key):
            fork = parse_fork(proof)
            verify_fork(
                fork, network=station.core.trust.own.network,
                card_at=station.core.trust.card_at,
            )  # fmt: skip
            assert fork.key.author == alder.id
        notice = station.notices()["equivocation"]
        assert "alder" in notice
        assert not [name for name in ("birch", "cedar", "dogwood") if name in notice]
        assert station.core.verify()["entries"] == station.core.log.size
    assert web.frames(Bye) == [], "members are not blamed"
    assert all(party.gossip.trouble == {} for party in web.parties.values())


def test_evidence_is_passed_on_at_once_to_the_members_that_are_linked(world: World) -> None:
    alder, birch, cedar, dogwood = four(world)
    first = alder.release(1, birch, cedar, dogwood)
    web = Web(alder, birch, cedar, dogwood)
    web.link("alder", "birch", "cedar", "dogwood")
    assert cedar.shows() == ids(1)
    twin = forge(alder, birch, cedar, dogwood, numbers=(2,))[0]
    alder.release(3, birch, cedar, dogwood)
    web.pump()
    web.say("alder", "birch", Deliver((twin,)))
    for station in (birch, cedar, dogwood):
        assert len(station.core.streams.forks(key_of(station.envelope(first)))) == 1, station.name
    told = len(web.frames(Forked))
    web.run(10)
    assert len(web.frames(Forked)) == told, "once is enough"


def test_false_evidence_convinces_nobody_and_counts_against_its_bringer(world: World) -> None:
    alder, birch, cedar, _ = four(world)
    first, second, third = (alder.release(n, birch, cedar) for n in (1, 2, 3))
    hand(alder, birch, first, second, third)
    hand(alder, cedar, first, second, third)
    web = Web(birch, cedar)
    web.link("birch", "cedar")
    twin = parse(forge(alder, birch, cedar, numbers=(4,))[0])
    real = parse(forge(alder, birch, cedar, numbers=(5,))[0])
    proof = fork_bytes(twin.wire, real.wire)
    at = proof.index(real.signature)
    damaged = proof[: at + 5] + bytes([proof[at + 5] ^ 1]) + proof[at + 6 :]
    for _ in range(limits.MAX_REFUSALS_PER_LINK - 1):
        web.say("cedar", "birch", Forked(damaged))
    assert web.linked("cedar", "birch")
    assert birch.core.streams.forks(key_of(birch.envelope(first))) == []
    web.say("cedar", "birch", Forked(damaged))
    assert not web.linked("cedar", "birch")
    check_once(birch, cedar)


# --- links -------------------------------------------------------------------------------------
@pytest.mark.parametrize("dialers", [("alder", "birch"), ("birch", "alder"), ("alder", "alder")])
@pytest.mark.parametrize("far", [0, 3, 9, 30])
def test_of_two_links_both_ends_keep_the_same_one_and_nothing_is_lost(
    world: World, dialers: tuple[str, str], far: int
) -> None:
    alder, birch, _, _ = four(world)
    keys = [alder.release(n, birch) for n in range(100)]
    web = Web(alder, birch)
    other = {"alder": "birch", "birch": "alder"}
    first = web.join(dialers[0], other[dialers[0]])
    if far:
        web.pump(most=far)
    second = web.join(dialers[1], other[dialers[1]])
    web.pump()
    expected = second
    if dialers[0] != dialers[1]:
        lower = min((alder, birch), key=lambda station: station.id).name
        expected = first if dialers[0] == lower else second
    assert web.connections == [expected]
    assert {name: web.line(name, other[name]) for name in other} == expected.ends
    codes = {line.closed for each in (first, second) for line in each.ends.values()}
    assert codes == {None, "second-link"}
    web.run(SOON)
    assert {alder.state(key, birch) for key in keys} == {"received"}
    assert len(birch.shows()) == 100
    assert birch.core.verify()["envelopes"] == 100
    check_once(alder, birch)


def disturb(web: Web, dice: random.Random) -> None:
    """Let two nodes link, and links and processes end in the middle of what they do."""
    one, other = dice.sample(NAMES, 2)
    if not web.linked(one, other):
        web.join(one, other)
    web.pump(most=dice.choice((1, 2, 3, 5, 8, 40)))
    one, other = dice.sample(NAMES, 2)
    if dice.random() < 0.4:
        web.cut(one, other)
    if dice.random() < 0.15:
        web.restart(one)
    if dice.random() < 0.3:
        web.run(1)


@pytest.mark.parametrize("seed", range(8))
def test_links_that_break_anywhere_lose_and_double_nothing(world: World, seed: int) -> None:
    dice = random.Random(seed)
    web = Web(*world)
    for number in range(60):
        author = world[dice.choice(NAMES)]
        others = [station for station in world if station is not author]
        author.release(number, *dice.sample(others, dice.randint(1, 3)))
        if dice.random() < 0.5:
            disturb(web, dice)
    for one, other in combinations(NAMES, 2):
        if not web.linked(one, other):
            web.join(one, other)
    web.run(2 * COMPARE_MS // 1_000)
    for station in world:
        assert station.core.outbox.size() == 0, station.name
        rows = station.core.store.rows("SELECT contiguous, beyond, forked FROM streams")
        assert all(not row["beyond"] and not row["forked"] for row in rows)
    for one, other in combinations(NAMES, 2):
        mine, theirs = world[one], world[other]
        assert mine.core.streams.digest(theirs.id) == theirs.core.streams.digest(mine.id)
    check_once(*world)


# --- quotas and disks --------------------------------------------------------------------------
SMALL: Final = Quota(envelopes=Rate(amount=10, burst=256))
LARGE: Final = Quota(envelopes=Rate(amount=10_000, burst=10_000))


def test_over_quota_the_part_within_it_is_taken_and_the_rest_comes_later(world: World) -> None:
    alder, birch, cedar, _ = four(world)
    web = Web(alder, birch, cedar, quota=SMALL)
    web.link("alder", "birch", "cedar")
    keys = [alder.release(n, birch) for n in range(400)]
    web.pump()
    assert web.frames(Refuse)
    assert {item.code for frame in web.frames(Refuse) for item in frame.items} == {"quota"}
    have = birch.core.streams.have(key_of(alder.envelope(keys[0])))
    assert have is not None
    assert (have.contiguous, have.beyond) == (256, ()), "what is taken has no hole"
    assert web["birch"].gossip.over_quota() == {alder.id: 144}
    assert web.line("birch", "alder").open, "nobody is banned"
    cedar.release(500, birch)
    web.pump()
    assert birch.core.store.envelope(keys[0])
    assert incident_id(500) in birch.shows(), "others keep their service"
    web.run(120)
    assert {alder.state(key, birch) for key in keys} == {"received"}
    check_once(alder, birch)


def test_what_was_asked_for_is_no_flood(world: World) -> None:
    alder, birch, cedar, _ = four(world)
    keys = [alder.release(n, birch, cedar) for n in range(600)]
    for at in range(0, 600, 200):
        hand(alder, birch, *keys[at : at + 200])
    web = Web(birch, cedar, quota=SMALL)
    web.link("birch", "cedar")
    web.run(10)
    assert len(cedar.shows()) == 500, "as many as one page shows"
    have = cedar.core.streams.have(key_of(alder.envelope(keys[0])))
    assert have == Have(600, keys[-1][:HEAD_SIZE])
    assert web["cedar"].gossip.over_quota() == {}
    assert web.frames(Refuse) == []


def test_a_full_disk_answers_busy_blames_nobody_and_recovers_by_itself(world: World) -> None:
    alder, birch, cedar, _ = four(world)
    web = Web(alder, birch, cedar)
    web.link("alder", "birch", "cedar")
    with full_disk(birch):
        keys = [alder.release(n, birch, cedar) for n in range(60)]
        web.pump()
        web.run(SOON)
        refused = [item.code for frame in web.frames(Refuse, "birch") for item in frame.items]
        assert refused
        assert set(refused) == {"busy"}
        assert web["birch"].gossip.metrics.value(metrics.DISK_BUSY) > 0
        assert all(line.open for line in lines_of(web, "birch"))
        assert {cedar.core.store.holds(key) for key in keys} == {True}, "others are served"
    web.run(130)
    assert {alder.state(key, birch) for key in keys} == {"received"}
    assert birch.shows() == ids(*range(60))
    check_once(alder, birch, cedar)


def test_a_receipt_that_the_disk_does_not_take_is_asked_for_again(world: World) -> None:
    alder, birch, _, _ = four(world)
    keys = [alder.release(n, birch) for n in range(40)]
    web = Web(alder, birch)
    with full_disk(alder):
        web.link("alder", "birch")
        web.run(SOON)
        assert birch.shows() == ids(*range(40))
    web.run(2 * limits.RECEIPT_TIMEOUT_MS // 1_000)
    assert {alder.state(key, birch) for key in keys} == {"received"}
    check_once(alder, birch)


# --- order -------------------------------------------------------------------------------------
def next_kinds(line: Line, count: int) -> list[list[bytes]]:
    """Take up to *count* messages off a line; return the ids that each delivers."""
    found = []
    for _ in range(count):
        message = line.next_message()
        if message is None:
            break
        frame = decode_frame(message[16:])
        if isinstance(frame, Deliver):
            found.append([parse(wire).id for wire in frame.wires])
    return found


def test_what_is_released_now_goes_ahead_of_what_was_missed(world: World) -> None:
    alder, birch, cedar, _ = four(world)
    old = [alder.release(n, birch) for n in range(limits.BULK - 6)]
    web = Web(alder, birch)
    here = web.join("alder", "birch").ends["alder"]
    while here.backlog is None:
        web.pump(most=1)
    alder_gossip = web["alder"].gossip
    alder_gossip.pump()
    assert here.waiting > 200_000, "catch-up waits to be written"
    live = [alder.release(1_000 + n, birch, cedar) for n in range(3)]
    same = alder.release(2_000, birch)
    alder_gossip.pump()
    first, *rest = next_kinds(here, 200)
    assert first == live, "before any of the catch-up"
    seen = [key for frame in rest for key in frame]
    assert seen == [*old, same][: len(seen)], "nor does it overtake its own stream"


def test_a_backlog_of_thousands_arrives_in_order_and_within_the_credit(world: World) -> None:
    alder, birch, _, _ = four(world)
    keys = [alder.release(n, birch) for n in range(1_300)]
    web = Web(alder, birch, quota=LARGE)
    line = web.join("alder", "birch").ends["alder"]
    for _ in range(60):
        web.pump(most=7)
        flying = len(line.session.in_flight)
        assert flying <= limits.LINK_WINDOW
        assert line.waiting <= limits.LINK_QUEUE + limits.MAX_FRAME
        world.clock.advance(100)
    web.run(10)
    rows = birch.core.store.rows("SELECT id FROM envelopes ORDER BY log_index")
    assert [row["id"] for row in rows] == keys
    assert web.frames(Want), "so much is asked for, not pushed"
    assert set(web.copies().values()) == {1}
    assert alder.core.outbox.size() == 0


def test_a_silent_peer_is_waited_for_only_so_long(world: World) -> None:
    alder, birch, _, _ = four(world)
    key = alder.release(1, birch)
    web = Web(alder, birch)
    web["birch"].gossip.exchange.opened = lambda line: None  # type: ignore[method-assign]
    web["birch"].gossip.exchange.heard = lambda line, frame: None  # type: ignore[method-assign]
    web.link("alder", "birch")
    assert web.frames(Deliver) == []
    world.clock.advance(PATIENCE_MS)
    web.pump()
    assert len(web.frames(Deliver)) == 1
    assert alder.state(key, birch) == "received"


# --- bounds ------------------------------------------------------------------------------------
def test_wants_are_bounded_and_served_only_as_far_as_the_credit_goes(world: World) -> None:
    alder, birch, _, _ = four(world)
    keys = [alder.release(n, birch) for n in range(10)]
    web = Web(alder, birch)
    web.link("alder", "birch")
    web.run(1)
    stream = key_of(alder.envelope(keys[0]))
    line = web.line("alder", "birch")
    birch_line = web.line("birch", "alder")
    asked = Want(stream, ((1, 10),))
    messages = []
    for _ in range(limits.MAX_WANTS + 200):
        birch_line.push(Send(encode_frame(asked), Lane.CONTROL))
        message = birch_line.next_message()
        assert message is not None
        messages.append((line, message))
    web["alder"].gossip.handle(messages)
    assert len(line.wants) == limits.MAX_WANTS
    web.pump()
    assert not line.wants
    assert max(web.copies().values()) < 20, "what is on its way is not sent again"


def test_claims_about_streams_that_do_not_exist_take_bounded_memory(world: World) -> None:
    alder, birch, _, _ = four(world)
    web = Web(alder, birch)
    web.link("alder", "birch")
    number = 0
    for _ in range(80):
        items = []
        for _ in range(limits.MAX_FRAME_ITEMS):
            number += 1
            key = StreamKey(birch.id, 1, number.to_bytes(16, "big"))
            items.append((key, Have(1, b"\1" * HEAD_SIZE)))
        web.say("birch", "alder", Frontier(birch.id, tuple(items)))
    line = web["alder"].gossip.links.get(birch.id)
    claims = 0 if line is None else len(line.theirs)
    assert claims <= 65_536
    assert web["alder"].gossip.exchange.puller.waiting <= 65_536
    assert len(alder.core.streams._states) + len(alder.core.streams._members) <= 65_536


# --- receipts ----------------------------------------------------------------------------------
def scattered(one: Station, other: Station, to: Station) -> list[bytes]:
    """Let *to* log more envelopes of two authors in turn than a frame has runs; those of *one*."""
    count = limits.MAX_RUNS + 20
    keys = [one.release(n, to) for n in range(count)]
    others = [other.release(1_000 + n, to) for n in range(count)]
    with to.core.logged():
        for mine, theirs in zip(keys, others, strict=True):
            to.core.take_in([one.envelope(mine).wire], giver=one.id)
            to.core.take_in([other.envelope(theirs).wire], giver=other.id)
    return keys


def test_receipts_of_what_lies_scattered_in_a_log_can_be_read_by_who_asked(world: World) -> None:
    """A node that logs two authors in turn has no runs: each envelope is one of its own."""
    alder, birch, cedar, _ = four(world)
    keys = scattered(alder, cedar, birch)
    web = Web(alder, birch)
    web.link("alder", "birch")
    web.run(10)
    assert web.frames(Bye) == []
    assert {alder.state(key, birch) for key in keys} == {"received"}


def test_known_envelopes_in_bulk_are_receipted_in_frames_that_can_be_read(world: World) -> None:
    alder, birch, cedar, _ = four(world)
    keys = scattered(alder, cedar, birch)
    web = Web(alder, birch)
    # A peer that says nothing of what it holds is sent all of it.
    web["birch"].gossip.exchange.opened = lambda line: None  # type: ignore[method-assign]
    web.link("alder", "birch")
    web.run(10)
    assert web.frames(Bye) == []
    assert {alder.state(key, birch) for key in keys} == {"received"}


@pytest.mark.parametrize("bulk", [True, False])
def test_a_receipt_named_twice_in_one_frame_counts_once(world: World, *, bulk: bool) -> None:
    alder, birch, cedar, _ = four(world)
    key = alder.release(1, birch)
    hand(alder, birch, key)
    row = birch.core.store.envelope(key)
    assert row is not None
    pair = (key, row["log_index"])
    frame: Receipts | Runs = birch.core.log.receipts([pair, pair])
    if bulk:
        frame = birch.core.log.runs([pair, pair])
    web = Web(alder, birch, cedar)
    web["birch"].gossip.exchange.opened = lambda line: None  # type: ignore[method-assign]
    web.link("alder", "birch", "cedar")
    web.clock.advance(PATIENCE_MS)
    web["alder"].gossip.pump()  # so that alder has sent it on this link
    own = alder.release(2, cedar)
    web.say("birch", "alder", frame)
    web.run(1)
    assert alder.state(key, birch) == "received"
    assert alder.state(own, cedar) == "received", "nobody else noticed"
    assert alder.core.verify()["receipts"] == 2


def test_receipts_lost_with_a_link_are_asked_for_instead_of_sending_all_again(
    world: World,
) -> None:
    alder, birch, _, _ = four(world)
    keys = [alder.release(n, birch) for n in range(500)]
    for at in range(0, 500, 100):
        hand(alder, birch, *keys[at : at + 100])
    web = Web(alder, birch)
    web.link("alder", "birch")
    web.run(1)
    assert {alder.state(key, birch) for key in keys} == {"received"}
    assert web.frames(Deliver) == []
    assert len(web.frames(WantReceipts)) == 2
    sizes = sum(passed.size for passed in web.between("birch", "alder"))
    assert sizes < 100 * len(keys), "receipts in bulk"
    assert alder.core.verify()["receipts"] == 500
