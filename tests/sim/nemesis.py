"""What releases envelopes and what makes things go wrong: the parts that profiles are made of."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final

from tests.sim.clock import DAY, MS, SECOND
from tests.sim.node import SimNode
from tests.sim.world import World

Act = Callable[[World], None]
_MONTH_MS: Final = 30 * DAY // MS


@dataclass(frozen=True, slots=True)
class Group:
    """An audience of one author: a stream of its own."""

    author: SimNode
    to: tuple[SimNode, ...]
    carriers: tuple[SimNode, ...]


def groups(world: World, count: int, *, carried: float = 0.4) -> list[Group]:
    """Choose *count* audiences: half of them everybody, the others some."""
    chosen = []
    for _ in range(count):
        author, *others = world.rng.sample(world.nodes, len(world.nodes))
        if world.rng.random() < 0.5 or len(others) < 2:
            chosen.append(Group(author, tuple(others), ()))
            continue
        size = world.rng.randrange(1, len(others))
        to, rest = others[:size], others[size:]
        carriers = rest[:2] if world.rng.random() < carried else []
        chosen.append(Group(author, tuple(to), tuple(carriers)))
    return chosen


def traffic(
    world: World, chosen: Sequence[Group], *, count: int, first: int, last: int,
    sizes: Sequence[int] = (40, 400, 4_000),
) -> None:  # fmt: skip
    """Release *count* envelopes to the *chosen* audiences between two times."""
    for _ in range(count):
        group = world.rng.choice(chosen)
        size = world.rng.choice(sizes)
        at = world.rng.randrange(first, last)
        world.at(at, partial(world.release, group.author, group.to, group.carriers, size=size))


def halves(world: World) -> tuple[list[SimNode], list[SimNode]]:
    """Divide the nodes at random."""
    mixed = world.rng.sample(world.nodes, len(world.nodes))
    return mixed[: len(mixed) // 2], mixed[len(mixed) // 2 :]


def partition(world: World, one: Sequence[SimNode], other: Sequence[SimNode]) -> None:
    """Cut everything between two sets of nodes."""
    world.trace("world", f"partition {list(one)} | {list(other)}")
    for left in one:
        for right in other:
            world.network.cut(left.index, right.index)


# --- single faults ---------------------------------------------------------------------------
def cut(world: World) -> None:
    """Cut one path in both directions."""
    one, other = world.rng.sample(world.nodes, 2)
    world.trace("world", f"cut {one} {other}")
    world.network.cut(one.index, other.index)


def reset(world: World) -> None:
    """Break one link, which may be made again at once."""
    ends = world.network.ends()
    if ends:
        end = world.rng.choice(ends)
        world.trace("world", f"reset {end.host} {end.other.host}")
        world.network.reset(end)


def silence(world: World) -> None:
    """Let one direction between two nodes carry nothing."""
    one, other = world.rng.sample(world.nodes, 2)
    world.trace("world", f"silence {one} to {other}")
    world.network.silence(one.index, other.index)


def split(world: World) -> None:
    """Part the nodes into two halves."""
    partition(world, *halves(world))


def mend(world: World) -> None:
    """End all faults of the network."""
    world.trace("world", "the network heals")
    world.network.heal()


def slow(world: World) -> None:
    """Let one node be reached at 1 to 20 KB/s only."""
    node = world.rng.choice(world.nodes)
    speed = world.rng.choice((1_000, 5_000, 20_000))
    world.trace("world", f"slow {node}: {speed} B/s")
    for peer in world.nodes:
        if peer is not node:
            world.network.path(peer.index, node.index).bandwidth = speed


def crash(world: World) -> None:
    """Let one node die at one of its next effects."""
    up = [n for n in world.nodes if n.process is not None]
    if up:
        node, effects = world.rng.choice(up), world.rng.randrange(1, 60)
        world.trace("world", f"{node} will die at effect {effects} from now")
        node.fuse.set(effects)


def kill(world: World) -> None:
    """End one process at once."""
    world.rng.choice(world.nodes).kill()


def unplug(world: World) -> None:
    """Take the power from one machine."""
    world.rng.choice(world.nodes).unplug()


def stop(world: World) -> None:
    """Shut one node down in order."""
    world.rng.choice(world.nodes).stop()


def restart(world: World) -> None:
    """Start what is down; now and then without the passphrase at hand."""
    for node in world.nodes:
        if node.process is None and node.refused is None:
            node.start(locked=world.rng.random() < 0.2)


def unlock(world: World) -> None:
    """Give every locked node its passphrase."""
    for node in world.nodes:
        node.unlock()


def deafen(world: World) -> None:
    """Let one node not read for a while."""
    node = world.rng.choice(world.nodes)
    node.reads = False
    world.trace("world", f"{node} does not read")
    world.network.judge()

    def again() -> None:
        node.reads = True
        world.network.judge()

    world.events.after(world.rng.randrange(1, 60) * SECOND, again)


def fill(world: World) -> None:
    """Let the disk of one node be full for a while."""
    node = world.rng.choice(world.nodes)
    world.trace("world", f"the disk of {node} is full")
    node.disk.fill(1)

    def again() -> None:
        node.disk.fill(None)
        world.trace("world", f"the disk of {node} has room")

    world.events.after(world.rng.randrange(1, 40) * SECOND, again)


def jump(world: World) -> None:
    """Set the clock of one node wrong, by seconds, an hour or a month."""
    node = world.rng.choice(world.nodes)
    # No further back: before its card was made a node cannot write.
    node.clock.offset_ms = world.rng.choice((-3_600_000, -20_000, 20_000, 3_600_000, _MONTH_MS))
    world.trace("world", f"the clock of {node} is {node.clock.offset_ms} ms off")


ANY: Final[tuple[Act, ...]] = (
    cut, reset, reset, silence, split, mend, mend, slow, crash, crash, crash, kill, unplug, stop,
    restart, restart, restart, unlock, deafen, fill, jump,
)  # fmt: skip


def havoc(world: World, acts: Sequence[Act], *, first: int, last: int, every: int) -> None:
    """Do one of *acts* at random about each *every*, between two times."""
    at = first
    while at < last:
        act = world.rng.choice(acts)
        world.at(at, partial(act, world))
        at += 1 + world.rng.randrange(2 * every)
