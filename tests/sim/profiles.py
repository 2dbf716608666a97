"""The profiles: each makes one kind of trouble; most are fault scenarios of the design, by number.

A profile says who can be dialled, what happens until everything is healed, and what must hold then
besides the promises that the oracle watches all the time.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random
from typing import Final

from tests.sim import nemesis
from tests.sim.clock import DAY, MINUTE, MS, SECOND
from tests.sim.process import BEAT_MS, SLOW_BEAT_MS
from tests.sim.world import DEADLINE, World

Inbound = Callable[[int, Random], Sequence[bool]]
_YEAR_MS: Final = 365 * DAY // MS


def all_inbound(count: int, rng: Random) -> list[bool]:
    """Let every node be dialled."""
    del rng
    return [True] * count


def some_inbound(count: int, rng: Random) -> list[bool]:
    """Let half of the nodes dial out only."""
    flags = [n < (count + 1) // 2 for n in range(count)]
    rng.shuffle(flags)
    return flags


def hub(count: int, rng: Random) -> list[bool]:
    """Let one node be dialled by all others."""
    del rng
    return [True] + [False] * (count - 1)


@dataclass(frozen=True, slots=True)
class Profile:
    """One kind of run."""

    name: str
    scenario: str
    about: str
    script: Callable[[World], None]
    inbound: Inbound = all_inbound
    nodes: int = 5
    deadline: int = DEADLINE
    receipts: bool = True
    beat_ms: int = BEAT_MS
    check: Callable[[World], None] | None = None


# --- scripts ---------------------------------------------------------------------------------
def _quiet(world: World) -> None:
    """Nothing goes wrong."""
    world.start_all()
    chosen = nemesis.groups(world, 3)
    nemesis.traffic(world, chosen, count=8, first=2 * SECOND, last=8 * SECOND)
    world.run_until(9 * SECOND)


def _partition(world: World) -> None:
    """Halves part for ten minutes, and both go on releasing."""
    world.start_all()
    chosen = nemesis.groups(world, 4)
    world.run_until(3 * SECOND)
    one, other = nemesis.halves(world)
    nemesis.partition(world, one, other)
    nemesis.traffic(world, chosen, count=8, first=4 * SECOND, last=60 * SECOND)
    world.run_until(90 * SECOND)
    for side in (one, other):
        _expect_inside(world, {n.index for n in side})
    world.run_until(10 * MINUTE)


def _expect_inside(world: World, side: set[int]) -> None:
    """Both halves deliver inside, whatever is cut off."""
    for known in world.oracle.known.values():
        for index in sorted(known.readers & side if known.author in side else ()):
            if known.id not in world.oracle.records[index].held:
                world.oracle.violated(world.nodes[index], f"lacks {known.name} of its own half")


def _one_way(world: World) -> None:
    """One hears the other, but not the other way round."""
    world.start_all()
    chosen = nemesis.groups(world, 3)
    world.run_until(4 * SECOND)
    for _ in range(world.rng.randrange(1, 4)):
        nemesis.silence(world)
    nemesis.traffic(world, chosen, count=8, first=4 * SECOND, last=40 * SECOND)
    world.run_until(60 * SECOND)
    for one in world.nodes:
        for other in world.nodes:
            if world.network.path(one.index, other.index).silent and one.linked(other.index):
                world.oracle.violated(one, f"keeps a one-way link to {other} after 56 s")


def _triangle(world: World) -> None:
    """Two that cannot see each other both see a third: a carrier, a member, or neither."""
    world.start_all()
    one, other, *rest = world.rng.sample(world.nodes, len(world.nodes))
    world.run_until(2 * SECOND)
    world.network.cut(one.index, other.index)
    third = rest[0]
    carried = nemesis.Group(one, (other,), (third,))
    shared = nemesis.Group(one, (other, third), ())
    direct = nemesis.Group(one, (other,), ())
    nemesis.traffic(world, (carried, shared, direct), count=8, first=3 * SECOND, last=20 * SECOND)
    world.run_until(150 * SECOND)
    for known in world.oracle.known.values():
        over = known.carriers or len(known.readers) > 2
        has = known.id in world.oracle.records[other.index].held
        if bool(over) != has:
            world.oracle.violated(other, f"{'lacks' if over else 'has'} {known.name}")


def _crash(world: World) -> None:
    """Nodes die between any two effects, and come back."""
    _havoc(world, (nemesis.crash, nemesis.crash, nemesis.restart, nemesis.unlock))


def _power(world: World) -> None:
    """Machines lose their power, which nobody is told."""
    _havoc(world, (nemesis.unplug, nemesis.crash, nemesis.restart, nemesis.restart))


def _havoc(
    world: World, acts: Sequence[nemesis.Act], *, count: int = 10, seconds: int = 40,
    every: int = 4, sizes: Sequence[int] = (40, 400, 4_000),
) -> None:  # fmt: skip
    world.start_all()
    chosen = nemesis.groups(world, 4)
    nemesis.traffic(world, chosen, count=count, first=SECOND, last=seconds * SECOND, sizes=sizes)
    nemesis.havoc(world, acts, first=SECOND, last=seconds * SECOND, every=every * SECOND)
    world.run_until((seconds + 2) * SECOND)


def _clocks(world: World) -> None:
    """Clocks are years off, jump, and run at different speeds."""
    for node in world.nodes:
        node.clock.rate_ppm = world.rng.randrange(-200, 200)
    right, *wrong = world.rng.sample(world.nodes, len(world.nodes))
    for node in wrong[:2]:
        node.clock.offset_ms = world.rng.choice((-_YEAR_MS, _YEAR_MS, -3_600_000, 3_600_000))
    world.start_all()
    # Who is a year off cannot write, as its card is not valid then; it still has to receive.
    chosen = [
        nemesis.Group(right, tuple(wrong), ()),
        nemesis.Group(wrong[-1], (right, *wrong[:-1]), ()),
    ]
    nemesis.traffic(world, chosen, count=8, first=SECOND, last=40 * SECOND)
    nemesis.havoc(
        world,
        (nemesis.jump, nemesis.reset, nemesis.fill),
        first=5 * SECOND,
        last=40 * SECOND,
        every=5 * SECOND,
    )
    world.run_until(45 * SECOND)
    for node in world.nodes:
        linked = [n for n in world.nodes if n is not node and node.linked(n.index)]
        if len(linked) < len(world.nodes) - 2:
            world.oracle.violated(node, "lost its links over a clock")


def _set_back(world: World) -> None:
    """A clock that was far ahead is set right while a carrier still has to be asked again."""
    author, carrier, reader, *rest = world.rng.sample(world.nodes, len(world.nodes))
    author.clock.offset_ms = world.rng.choice((3_600_000, 20 * DAY // MS))
    for node in (author, carrier, *rest):
        node.start()
    world.run_until(3 * SECOND)
    carrier.disk.fill(1)
    group = nemesis.Group(author, (reader,), (carrier,))
    nemesis.traffic(world, [group], count=3, first=3 * SECOND, last=5 * SECOND)
    world.run_until(8 * SECOND)
    author.clock.offset_ms = 0
    carrier.disk.fill(None)
    world.run_until(2 * MINUTE)
    for known in world.oracle.known.values():
        if known.id not in world.oracle.records[carrier.index].held:
            world.oracle.violated(author, f"gave {known.name} to no carrier once its clock was set")


def _duplicates(world: World) -> None:
    """Links break all the time, so that nearly everything is offered more than once."""
    _havoc(world, (nemesis.reset,), seconds=20, every=1)


def _reorder(world: World) -> None:
    """Members get a stream from several peers, in any order, while paths come and go."""
    _havoc(world, (nemesis.cut, nemesis.reset, nemesis.mend), count=16, seconds=60, every=3)


def _slow(world: World) -> None:
    """Some nodes are reached at 1 to 20 KB/s, some do not read for a while."""
    acts = (nemesis.slow, nemesis.slow, nemesis.deafen)
    _havoc(world, acts, seconds=60, every=8, sizes=(4_000, 40_000))


def _disk_full(world: World) -> None:
    """Disks are full for a while: busy, but nothing stored is lost."""
    _havoc(world, (nemesis.fill,), seconds=50, every=6)


def _half_open(world: World) -> None:
    """Paths go silent without an error, and nodes vanish."""
    _havoc(world, (nemesis.silence, nemesis.unplug, nemesis.restart, nemesis.mend), every=6)


def _simultaneous(world: World) -> None:
    """All dial each other at the same moment, again and again."""
    for one in world.nodes:
        for other in world.nodes:
            if one is not other:
                world.network.path(one.index, other.index).latency = 50 * MS
    for node in world.nodes:
        node.jitter_us = 1
    chosen = nemesis.groups(world, 3)
    world.start_all()
    nemesis.traffic(world, chosen, count=8, first=SECOND, last=10 * SECOND)
    for second in (3, 5, 7):
        world.at(second * SECOND, lambda: _reset_all(world))
    world.run_until(14 * SECOND)
    for node in world.nodes:
        for other in world.nodes:
            if other is not node and node.transports(other.index) != 1:
                world.oracle.violated(node, f"has {node.transports(other.index)} links to {other}")


def _reset_all(world: World) -> None:
    for end in world.network.ends():
        world.network.reset(end)


def _herd(world: World) -> None:
    """The one node that can be dialled restarts, and all others come back at once."""
    world.start_all()
    relay, *others = world.nodes
    chosen = [
        nemesis.Group(node, tuple(n for n in world.nodes if n is not node), ())
        for node in others[:3]
    ]
    nemesis.traffic(world, chosen, count=10, first=SECOND, last=40 * SECOND)
    world.at(10 * SECOND, relay.kill)
    world.at(20 * SECOND, relay.start)
    world.run_until(85 * SECOND)
    late = [n for n in others if not n.linked(relay.index)]
    if late:
        world.oracle.violated(relay, f"has no link to {late} 65 s after its restart")


def _membership(world: World) -> None:
    """Audiences change while envelopes are on the way."""
    world.start_all()
    author, *others = world.rng.sample(world.nodes, len(world.nodes))
    for step in range(6):
        to = tuple(world.rng.sample(others, world.rng.randrange(1, len(others) + 1)))
        group = nemesis.Group(author, to, ())
        nemesis.traffic(
            world, [group], count=2, first=(2 + 3 * step) * SECOND, last=(5 + 3 * step) * SECOND
        )
    nemesis.havoc(
        world, (nemesis.reset, nemesis.cut, nemesis.mend, nemesis.crash, nemesis.restart),
        first=2 * SECOND, last=20 * SECOND, every=4 * SECOND,
    )  # fmt: skip
    world.run_until(24 * SECOND)


def _restored(world: World) -> None:
    """A database comes back from a backup: the fence notices, and the newest one is put back."""
    world.start_all()
    chosen = nemesis.groups(world, 4)
    nemesis.traffic(world, chosen, count=8, first=SECOND, last=10 * SECOND)
    victim = world.rng.choice(world.nodes)
    world.run_until(world.rng.randrange(1, 4) * SECOND)
    backup = victim.disk.backup()
    world.run_until(12 * SECOND)
    victim.kill()
    if victim.disk.rows("SELECT count(*) FROM entries") == _entries(backup):
        return
    newest = victim.disk
    victim.put_back(backup, keep_fence=True)
    if victim.start(may_refuse=True):
        world.oracle.violated(victim, "starts with a database older than its fence")
    victim.put_disk(newest)
    victim.start()
    nemesis.traffic(world, chosen, count=4, first=13 * SECOND, last=20 * SECOND)
    world.run_until(22 * SECOND)


def _entries(backup: object) -> list[tuple[int, ...]]:
    from tests.sim.disk import Backup, Disk

    assert isinstance(backup, Backup)
    return Disk.of(backup).rows("SELECT count(*) FROM entries")


def _restored_home(world: World) -> None:
    """A whole home comes back from a backup, fence and all: no peer may see a fork."""
    world.start_all()
    chosen = nemesis.groups(world, 4)
    victim = chosen[0].author
    nemesis.traffic(world, chosen, count=8, first=SECOND, last=10 * SECOND)
    world.run_until(world.rng.randrange(1, 5) * SECOND)
    backup = victim.disk.backup()
    world.run_until(12 * SECOND)
    victim.kill()
    victim.put_back(backup, keep_fence=False)
    world.oracle.restored(victim)
    victim.start()
    if world.rng.random() < 0.5:
        # Before any peer can tell it what it has forgotten.
        world.release(victim, chosen[0].to, chosen[0].carriers)
    nemesis.traffic(world, chosen, count=6, first=13 * SECOND, last=20 * SECOND)
    world.run_until(22 * SECOND)


def _lost_database(world: World) -> None:
    """A node loses its database and keeps its keys: it begins anew and pulls everything."""
    world.start_all()
    chosen = nemesis.groups(world, 4)
    victim = world.rng.choice(world.nodes)
    nemesis.traffic(world, chosen, count=8, first=SECOND, last=10 * SECOND)
    world.run_until(12 * SECOND)
    victim.kill()
    victim.put_back(world.genesis.homes[victim.index], keep_fence=False)
    world.oracle.restored(victim)
    world.run_until(14 * SECOND)
    victim.start()
    nemesis.traffic(world, chosen, count=4, first=15 * SECOND, last=20 * SECOND)
    world.run_until(22 * SECOND)


def _no_fork_seen(world: World) -> None:
    """Nobody accuses anybody: the restored node began a new incarnation."""
    for node in world.nodes:
        accused = world.oracle.records[node.index].accused
        if node.honest and accused:
            world.oracle.violated(node, f"sees a fork of a node that was only put back: {accused}")
        accused = world.oracle.logs.accused[node.index]
        if node.honest and accused:
            names = [world.nodes[index].name for index in accused]
            world.oracle.violated(node, f"holds proof against a log only put back: {names}")


def _carried(world: World) -> None:
    """A node is away while envelopes for it pass through a carrier, then author and node swap."""
    carrier = world.rng.choice([n for n in world.nodes if n.identity.inbound])
    others = [n for n in world.nodes if n is not carrier]
    author, reader, *rest = world.rng.sample(others, len(others))
    for node in (author, carrier, *rest):
        node.start()
    group = nemesis.Group(author, (reader,), (carrier,))
    both = nemesis.Group(author, (reader, rest[0]), (carrier,))
    nemesis.traffic(world, (group, both), count=30, first=2 * SECOND, last=10 * SECOND)
    world.run_until(80 * SECOND)
    author.stop()
    world.run_until(82 * SECOND)
    reader.start()
    world.run_until(150 * SECOND)
    for known in world.oracle.known.values():
        if known.id not in world.oracle.records[reader.index].held:
            world.oracle.violated(reader, f"did not get {known.name} from the carrier")
    reader.stop()


def _new_cards(world: World) -> None:
    """Cards are renewed while somebody is away for six weeks."""
    world.start_all()
    chosen = nemesis.groups(world, 3, carried=0)
    away, *others = world.rng.sample(world.nodes, len(world.nodes))
    nemesis.traffic(world, chosen, count=3, first=SECOND, last=4 * SECOND)
    world.run_until(6 * SECOND)
    away.stop()
    for node in world.nodes:
        node.clock.offset_ms += 42 * DAY // MS
    for node in world.rng.sample(others, 2):
        node.renew_card()
    nemesis.traffic(world, chosen, count=6, first=8 * SECOND, last=20 * SECOND)
    world.run_until(22 * SECOND)


def _mixed(world: World) -> None:
    """Anything."""
    for node in world.nodes:
        node.clock.rate_ppm = world.rng.randrange(-100, 100)
    _havoc(world, nemesis.ANY, count=12, seconds=60, every=3)


PROFILES: Final[tuple[Profile, ...]] = (
    Profile("quiet", "-", "nothing goes wrong", _quiet, some_inbound),
    Profile("partition", "1", "halves part for ten minutes", _partition, beat_ms=SLOW_BEAT_MS),
    Profile("one-way", "2", "one hears, the other does not", _one_way),
    Profile(
        "triangle", "3", "two see a third, but not each other", _triangle,
        beat_ms=SLOW_BEAT_MS,
    ),
    Profile("crash", "4", "death between any two effects", _crash, some_inbound),
    Profile("power", "5", "power is lost, nobody is told", _power),
    Profile("clocks", "6", "clocks are years off, jump and drift", _clocks),
    Profile(
        "set-back", "6", "a clock is set right after it was ahead", _set_back,
        beat_ms=SLOW_BEAT_MS,
    ),
    Profile("duplicates", "7", "everything is offered again and again", _duplicates),
    Profile("reorder", "8", "streams arrive in any order", _reorder),
    Profile("slow", "9", "slow and deaf peers", _slow),
    Profile("disk-full", "10", "disks are full for a while", _disk_full),
    Profile("restored", "12", "an old database under a newer fence", _restored),
    Profile(
        "restored-home", "12", "a whole old home", _restored_home, check=_no_fork_seen,
        receipts=False,
    ),
    Profile(
        "lost-database", "13", "database lost, keys kept", _lost_database, check=_no_fork_seen,
        receipts=False,
    ),
    Profile("half-open", "20", "silence without an error", _half_open),
    Profile("new-cards", "22", "cards change while a node is away for weeks", _new_cards),
    Profile("simultaneous", "25", "all dial each other at one moment", _simultaneous),
    Profile(
        "herd", "26", "all come back to a relay at once", _herd, hub, nodes=12,
        beat_ms=SLOW_BEAT_MS,
    ),
    Profile("membership", "27", "audiences change in flight", _membership),
    Profile(
        "carried", "-", "author and reader are never up together", _carried, some_inbound,
        beat_ms=SLOW_BEAT_MS,
    ),
    Profile("mixed", "all", "anything, at random", _mixed, some_inbound),
)  # fmt: skip
