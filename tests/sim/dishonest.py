"""Profiles with a dishonest member: what it does, and what must hold for the others."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from protocol.quota import Quota, Rate
from tests.sim import nemesis, rogue
from tests.sim.clock import MS, SECOND
from tests.sim.node import SimNode
from tests.sim.process import SLOW_BEAT_MS
from tests.sim.profiles import Profile, all_inbound, some_inbound
from tests.sim.world import ANTI_ENTROPY, World

_BURST: Final = 256
_FLOOD: Final = 400
_RATE: Final = 10


def stage(
    world: World, act: Callable[[World, SimNode], None] | None, *twists: rogue.Twist,
    every: int = 3, seconds: int = 30, faults: tuple[nemesis.Act, ...] = (),
    villain: SimNode | None = None,
) -> SimNode:  # fmt: skip
    """Let one member be dishonest among ordinary traffic and a few broken links."""
    villain = villain or world.rng.choice(world.nodes)
    rogue.corrupt(villain, *twists)
    world.start_all()
    chosen = nemesis.groups(world, 4)
    nemesis.traffic(world, chosen, count=10, first=SECOND, last=seconds * SECOND)
    nemesis.havoc(
        world, (nemesis.reset, nemesis.cut, nemesis.mend, *faults), first=2 * SECOND,
        last=seconds * SECOND, every=6 * SECOND,
    )  # fmt: skip
    if act is not None:
        for second in range(2, seconds, every):
            world.at(second * SECOND, lambda: act(world, villain))
        # It does not stop when the network heals.
        for second in range(seconds, seconds + 60, 4 * every):
            world.at(second * SECOND, lambda: act(world, villain))
    world.run_until((seconds + 2) * SECOND)
    return villain


def _fork(world: World) -> None:
    """An author writes two envelopes in one place, and shows each half of the members one."""
    villain, *members = world.rng.sample(world.nodes, len(world.nodes))
    favoured = frozenset(n.id for n in members[: len(members) // 2])
    rogue.corrupt(villain, rogue.two_faced(favoured, villain))
    world.start_all()
    group = nemesis.Group(villain, tuple(members), ())
    nemesis.traffic(world, [group], count=3, first=2 * SECOND, last=5 * SECOND)
    honest = nemesis.groups(world, 3)
    nemesis.traffic(world, honest, count=4, first=SECOND, last=20 * SECOND)
    world.at(7 * SECOND, lambda: rogue.fork(world, villain, members))
    if world.rng.random() < 0.5:
        nemesis.traffic(world, [group], count=2, first=8 * SECOND, last=20 * SECOND)
    if world.rng.random() < 0.5:
        world.at(9 * SECOND, villain.kill)
    nemesis.havoc(
        world, (nemesis.reset, nemesis.crash, nemesis.restart, nemesis.mend), first=6 * SECOND,
        last=20 * SECOND, every=5 * SECOND,
    )  # fmt: skip
    world.run_until(22 * SECOND)
    world.duties.append(lambda: _unaware(world, villain))


def _unaware(world: World, villain: SimNode) -> list[str]:
    """Return the members that hold one of two twins, or could, and no evidence."""
    lacks = []
    for known in world.oracle.forked():
        for index in sorted(known.readers):
            node = world.nodes[index]
            if node.honest and villain.index not in world.oracle.records[index].accused:
                lacks.append(f"{node.name} has no evidence that {villain.name} forked {known.name}")
    return lacks


def _withhold(world: World) -> None:
    """A carrier and member takes everything, promises it to others and delivers nothing."""
    villain, author, reader, *rest = world.rng.sample(world.nodes, len(world.nodes))
    rogue.corrupt(villain, rogue.withhold)
    world.start_all()
    world.run_until(3 * SECOND)
    world.network.cut(author.index, reader.index)
    carried = nemesis.Group(author, (reader,), (villain, rest[0]))
    shared = nemesis.Group(author, (reader, villain, rest[0]), ())
    nemesis.traffic(world, (carried, shared), count=8, first=4 * SECOND, last=20 * SECOND)
    # Nothing heals before the others have made up for it: the other relay after 30 s.
    world.run_until(20 * SECOND + 2 * ANTI_ENTROPY + 30 * SECOND)
    for known in world.oracle.known.values():
        if known.id not in world.oracle.records[reader.index].held:
            world.oracle.violated(reader, f"lacks {known.name}, as {villain} withholds it")


def _flood(world: World) -> None:
    """A trusted member releases far more than its quota, to everybody, at full speed."""
    villain, *others = world.rng.sample(world.nodes, len(world.nodes))
    rogue.corrupt(villain)
    rate = Rate(amount=_RATE, burst=_BURST)
    for node in world.nodes:
        node.quota = Quota(envelopes=rate)
    world.start_all()
    chosen = [nemesis.Group(n, tuple(o for o in others if o is not n), ()) for n in others[:2]]
    world.run_until(2 * SECOND)
    nemesis.traffic(world, chosen, count=8, first=4 * SECOND, last=12 * SECOND)
    victim = others[0]
    for number in range(_FLOOD):
        world.at(3 * SECOND + number * 4 * MS, lambda: world.release(villain, [victim], size=10))
    world.run_until(13 * SECOND)
    process = victim.process
    if process is not None and villain.id not in process.gossip.over_quota():
        world.oracle.violated(victim, "does not name the flooder")
    late = world.oracle.slowest(lambda known: known.author != villain.index)
    if late > SECOND:
        world.oracle.violated(victim, f"got what others wrote after {late // MS} ms")


def _poison(world: World) -> None:
    """Some envelopes cannot be opened by one of their recipients, until it has said so."""
    villain, victim, *rest = world.rng.sample(world.nodes, len(world.nodes))
    rogue.corrupt(villain)
    world.start_all()
    everybody = [victim, *rest]
    group = nemesis.Group(villain, tuple(everybody), ())
    nemesis.traffic(world, [group], count=6, first=2 * SECOND, last=14 * SECOND)
    for second in (4, 9):
        world.at(second * SECOND, lambda: rogue.poison(world, villain, everybody, victim))
    nemesis.havoc(
        world, (nemesis.reset, nemesis.crash, nemesis.restart), first=3 * SECOND, last=14 * SECOND,
        every=5 * SECOND,
    )  # fmt: skip
    world.run_until(16 * SECOND)
    world.duties.append(lambda: _shut(world, victim))


def _shut(world: World, victim: SimNode) -> list[str]:
    """Return what *victim* holds and still cannot open."""
    shut = [each for each in victim.disk.cases.opened if each.body is None]
    names = [world.oracle.known[each.envelope_id].name for each in shut]
    return [f"{victim.name} cannot open {name}" for name in names]


def _replay(world: World) -> None:
    faults = (nemesis.crash, nemesis.kill, nemesis.restart, nemesis.restart)
    stage(world, rogue.replay, every=2, faults=faults)


def _gaps(world: World) -> None:
    """The only peer of a member hands it some envelopes, in any order; the author never returns."""
    villain, author, reader, *rest = world.rng.sample(world.nodes, len(world.nodes))
    rogue.corrupt(villain, rogue.withhold)
    world.start_all()
    group = nemesis.Group(author, (reader, villain, *rest), ())
    nemesis.traffic(world, [group], count=10, first=4 * SECOND, last=12 * SECOND)
    world.run_until(3 * SECOND)
    for node in (author, *rest):
        world.network.cut(node.index, reader.index)
    for second in range(6, 24, 2):
        world.at(second * SECOND, lambda: rogue.replay(world, villain, reader))
    world.at(16 * SECOND, author.leave)
    for _ in range(3):
        at = world.rng.randrange(8, 24) * SECOND
        world.at(at, reader.kill)
        world.at(at + world.rng.randrange(1, 3) * SECOND, lambda: reader.process or reader.start())
    world.run_until(28 * SECOND)


def _trimmed(world: World) -> None:
    stage(world, rogue.replay, rogue.trim)


def _liar(world: World) -> None:
    stage(world, rogue.brag)


def _beggar(world: World) -> None:
    stage(world, rogue.beg)


def _forged_receipts(world: World) -> None:
    stage(world, None, rogue.forge_receipts)


def _echo(world: World) -> None:
    stage(world, rogue.replay, rogue.repeat_receipts)


def _garbage(world: World) -> None:
    stage(world, rogue.babble, every=2)


def _bad_signatures(world: World) -> None:
    stage(world, rogue.forge_signatures, every=2)


PROFILES: Final[tuple[Profile, ...]] = (
    Profile("fork", "14", "an author shows two bodies in one place", _fork),
    Profile("flood", "15", "a trusted member floods", _flood, receipts=False),
    Profile("bad-signatures", "16", "envelopes under forged signatures", _bad_signatures),
    Profile("garbage", "18, 32", "frames that are none", _garbage, all_inbound),
    Profile(
        "withholding",
        "23",
        "a carrier promises and does not deliver",
        _withhold,
        beat_ms=SLOW_BEAT_MS,
    ),
    Profile("replay", "7, 23", "old envelopes sent again, to anybody", _replay, some_inbound),
    Profile("gaps", "8", "out of order, with gaps, over restarts", _gaps),
    Profile("trimmed", "23", "copies without the slots of others", _trimmed, some_inbound),
    Profile("forged-receipts", "24", "receipts for what was not logged", _forged_receipts),
    Profile("echo", "7, 24", "everything is said twice, in one frame too", _echo),
    Profile("liar", "8, 23", "false heads and streams that do not exist", _liar, some_inbound),
    Profile("beggar", "-", "asks for streams of others", _beggar, some_inbound),
    Profile("poison", "30", "signed envelopes that do not open", _poison),
)
