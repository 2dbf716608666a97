"""What the simulator is made of: time, disks that survive a death, links that only delay or die."""

from __future__ import annotations

import sqlite3
from random import Random

import pytest

from protocol.errors import BusyError, CommitUncertainError, StoreError
from tests.sim import crypto
from tests.sim.clock import MS, SECOND, START_MS, Events, NodeClock
from tests.sim.disk import Died, Disk, Fuse, MemoryFence
from tests.sim.genesis import genesis
from tests.sim.network import WINDOW, End, Network


# --- time ------------------------------------------------------------------------------------
def test_events_happen_in_order_of_time_and_then_of_asking() -> None:
    events, seen = Events(), []
    for time, name in ((5, "c"), (1, "a"), (5, "d"), (2, "b")):
        events.at(time, lambda name=name: seen.append(name))  # type: ignore[misc]
    events.run_until(4)
    assert (seen, events.now) == (["a", "b"], 4)
    events.run_until(9)
    assert (seen, events.now) == (["a", "b", "c", "d"], 9)


def test_a_wrong_clock_still_counts_seconds() -> None:
    events = Events()
    clock = NodeClock(events)
    clock.offset_ms, clock.rate_ppm = -3_600_000, 1_000
    events.run_until(100 * SECOND)
    assert clock.now() == START_MS - 3_600_000 + 100_100
    clock.boot()
    clock.offset_ms = 0
    events.run_until(110 * SECOND)
    assert clock.monotonic() == 10_010


# --- disks -----------------------------------------------------------------------------------
def _disk() -> Disk:
    with crypto.standins():
        return genesis((True, True)).disk(0)


def test_what_was_committed_survives_and_nothing_else() -> None:
    disk = _disk()
    fuse = Fuse(lambda effect: None)
    store, _ = disk.mount(fuse)
    with store.transaction():
        store.set_meta("kept", b"1")
    fuse.set(1)
    with pytest.raises(Died, match="before commit"), store.transaction():
        store.set_meta("lost", b"1")
    disk.crash()
    fuse.set(2)
    again, _ = disk.mount(fuse)
    with pytest.raises(Died, match="commit"), again.transaction():
        again.set_meta("also kept", b"1")
    disk.crash()
    last, _ = disk.mount(Fuse(lambda effect: None))
    assert [last.meta(key) for key in ("kept", "lost", "also kept")] == [b"1", None, b"1"]


def test_the_fence_counts_once_it_returned() -> None:
    disk = _disk()
    fuse = Fuse(lambda effect: None)
    fence = MemoryFence(disk, fuse)
    before = disk.fence
    fuse.set(1)
    with pytest.raises(Died):
        fence.raise_to(77, bytes(32))
    assert disk.fence == before
    fence.raise_to(77, bytes(32))
    assert MemoryFence(disk, fuse).last() == (77, bytes(32))
    fence.broken = True
    with pytest.raises(CommitUncertainError):
        fence.raise_to(78, bytes(32))


def test_a_backup_is_the_disk_of_its_time() -> None:
    disk = _disk()
    store, _ = disk.mount(Fuse(lambda effect: None))
    backup = disk.backup()
    with store.transaction():
        store.set_meta("later", b"1")
    old, _ = Disk.of(backup).mount(Fuse(lambda effect: None))
    assert (old.meta("later"), store.meta("later")) == (None, b"1")
    assert old.meta("node_id") == store.meta("node_id")


def test_a_full_disk_is_busy_and_then_goes_on() -> None:
    disk = _disk()
    store, _ = disk.mount(Fuse(lambda effect: None))
    disk.fill(1)
    with pytest.raises(BusyError), store.transaction():
        store.set_meta("large", bytes(100_000))
    disk.fill(None)
    with store.transaction():
        store.set_meta("large", bytes(100_000))
    with pytest.raises((StoreError, sqlite3.Error)):
        store.rows("SELECT * FROM nothing")


# --- links -----------------------------------------------------------------------------------
class _Host:
    """An end of links that says what it is told to, and keeps what it hears."""

    def __init__(self, index: int) -> None:
        self.index = index
        self.reads = True
        self.to_say: list[bytes] = []
        self.heard: list[bytes] = []
        self.losses = 0

    def next_message(self, end: End) -> bytes | None:
        del end
        return self.to_say.pop(0) if self.to_say else None

    def arrived(self, end: End, message: bytes) -> None:
        del end
        self.heard.append(message)

    def lost(self, end: End) -> None:
        del end
        self.losses += 1


class _Pair:
    """Two hosts and a link between them."""

    def __init__(self) -> None:
        self.events = Events()
        self.network = Network(self.events, Random(1))
        self.one, self.other = _Host(0), _Host(1)
        self.end: End | None = None
        self.dial()

    def dial(self) -> None:
        self.end = None
        self.network.dial(self.one, self.other, listens=lambda: True, done=self._done)
        self.events.run_until(self.events.now + 2 * SECOND)

    def _done(self, end: End | None) -> None:
        self.end = end

    def say(self, *messages: bytes) -> None:
        self.one.to_say += messages
        assert self.end is not None
        self.network.send(self.end)

    def wait(self, seconds: int) -> None:
        self.events.run_until(self.events.now + seconds * SECOND)


def test_messages_arrive_once_and_in_order() -> None:
    pair = _Pair()
    pair.say(b"1", b"2", b"3")
    assert pair.other.heard == []
    pair.wait(1)
    assert pair.other.heard == [b"1", b"2", b"3"]


def test_a_slow_path_takes_its_time_and_the_window_holds_the_sender() -> None:
    pair = _Pair()
    pair.network.path(0, 1).bandwidth = WINDOW // 4
    pair.say(*[bytes(WINDOW // 4)] * 12)
    assert len(pair.one.to_say) == 8
    pair.wait(6)
    assert 5 <= len(pair.other.heard) <= 6
    pair.wait(20)
    assert len(pair.other.heard) == 12


def test_silence_is_found_by_heartbeats_of_both_ends() -> None:
    pair = _Pair()
    pair.network.silence(0, 1)
    pair.say(b"into the dark")
    pair.wait(12)
    assert (pair.one.losses, pair.other.losses) == (0, 0)
    pair.wait(26)
    assert (pair.one.losses, pair.other.losses) == (1, 1)
    assert pair.other.heard == []


def test_a_short_silence_only_delays() -> None:
    pair = _Pair()
    pair.network.silence(0, 1)
    pair.say(b"late")
    pair.wait(5)
    pair.network.heal()
    pair.wait(60)
    assert (pair.other.heard, pair.one.losses, pair.other.losses) == ([b"late"], 0, 0)


def test_a_cut_is_felt_at_once_and_nothing_on_the_way_arrives() -> None:
    pair = _Pair()
    pair.say(b"lost")
    pair.network.cut(0, 1)
    assert (pair.one.losses, pair.other.losses) == (1, 1)
    pair.dial()
    assert (pair.end, pair.other.heard) == (None, [])
    pair.network.heal()
    pair.dial()
    assert pair.end is not None


def test_an_end_that_closes_is_heard_of_behind_what_it_said() -> None:
    pair = _Pair()
    pair.say(b"last words")
    assert pair.end is not None
    pair.network.close(pair.end)
    pair.wait(1)
    assert (pair.other.heard, pair.other.losses, pair.one.losses) == ([b"last words"], 1, 0)


def test_last_words_reach_an_end_that_reads_again_later() -> None:
    pair = _Pair()
    pair.other.reads = False
    pair.network.judge()
    pair.say(b"last words")
    assert pair.end is not None
    pair.network.close(pair.end)
    pair.wait(5)
    assert (pair.other.heard, pair.other.losses) == ([], 0)
    pair.other.reads = True
    pair.network.judge()
    pair.wait(1)
    assert (pair.other.heard, pair.other.losses) == ([b"last words"], 1)


def test_an_end_that_vanishes_is_found_by_the_heartbeat_only() -> None:
    pair = _Pair()
    assert pair.end is not None
    pair.network.unplug(pair.end)
    pair.wait(12)
    assert pair.other.losses == 0
    pair.wait(26)
    assert pair.other.losses == 1


def test_who_does_not_read_holds_up_the_sender_and_is_cut_off() -> None:
    pair = _Pair()
    pair.other.reads = False
    pair.network.judge()
    pair.say(*[bytes(WINDOW // 2)] * 4)
    pair.wait(5)
    assert (pair.other.heard, len(pair.one.to_say)) == ([], 2)
    pair.wait(35)
    assert pair.one.losses == 1


def test_a_pause_holds_one_link_for_its_time() -> None:
    pair = _Pair()
    assert pair.end is not None
    pair.network.pause(pair.end.other, pair.events.now + 3 * SECOND)
    pair.say(b"x")
    pair.wait(2)
    assert pair.other.heard == []
    pair.wait(2)
    assert pair.other.heard == [b"x"]
    assert pair.network.path(0, 1).latency >= 5 * MS
