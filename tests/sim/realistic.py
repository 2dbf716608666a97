"""The large world: half of the authorities dial out only, and a third is away at any time."""

from __future__ import annotations

from functools import partial
from typing import Final

from node.witnessing import BEAT_MS
from tests.sim import nemesis
from tests.sim.clock import MS, SECOND
from tests.sim.node import SimNode
from tests.sim.profiles import Profile, some_inbound
from tests.sim.world import DEADLINE, World

_AWAY: Final = 0.3
_CHURN: Final = 240
_TURN: Final = 30
_BROADCASTERS: Final = 3
_GROUPS: Final = 30


def _audiences(world: World) -> list[nemesis.Group]:
    """Choose who writes to whom: some to everybody, most to a region, with two carriers."""
    reachable = [n for n in world.nodes if n.identity.inbound]
    chosen = []
    for _ in range(_BROADCASTERS):
        author = world.rng.choice(world.nodes)
        chosen.append(nemesis.Group(author, tuple(n for n in world.nodes if n is not author), ()))
    for _ in range(min(_GROUPS, 2 * len(world.nodes))):
        size = min(world.rng.randrange(3, 16), len(world.nodes) - 3)
        author, *others = world.rng.sample(world.nodes, size + 1)
        carriers = [n for n in world.rng.sample(reachable, 2) if n not in (author, *others)]
        chosen.append(nemesis.Group(author, tuple(others), tuple(carriers)))
    return chosen


def _turn(world: World) -> None:
    """Let a tenth of the nodes change between up and away; about a third stays away."""
    up = [n for n in world.nodes if n.process is not None]
    away = [n for n in world.nodes if n.process is None]
    leave = world.rng.sample(up, max(1, len(world.nodes) // 10))
    back = world.rng.sample(away, min(len(away), len(leave)))
    for node in leave:
        world.events.after(
            world.rng.randrange(_TURN * SECOND),
            node.stop if world.rng.random() < 0.5 else node.unplug,
        )
    for node in back:
        world.events.after(world.rng.randrange(_TURN * SECOND), partial(_start, node))


def _start(node: SimNode) -> None:
    if node.process is None:
        node.start()


def _realistic(world: World) -> None:
    chosen = _audiences(world)
    away = world.rng.sample(world.nodes, int(_AWAY * len(world.nodes)))
    for node in world.nodes:
        if node not in away:
            world.at(world.rng.randrange(5_000) * MS, partial(_start, node))
    nemesis.traffic(
        world, chosen[:_BROADCASTERS], count=12, first=20 * SECOND, last=_CHURN * SECOND
    )
    nemesis.traffic(
        world, chosen[_BROADCASTERS:], count=90, first=20 * SECOND, last=_CHURN * SECOND
    )
    for second in range(_TURN, _CHURN, _TURN):
        world.at(second * SECOND, lambda: _turn(world))
    world.run_until((_CHURN + _TURN) * SECOND)
    # A third is still away: those who are there have everything that somebody there has.
    world.healed = world.events.now
    world.network.heal()
    world.converge(deadline=DEADLINE, receipts=False)
    world.trace("world", f"{sum(n.process is not None for n in world.nodes)} nodes agree")


PROFILES: Final[tuple[Profile, ...]] = (
    Profile(
        "realistic",
        "26",
        "half dial out only, 30 % away at a time",
        _realistic,
        some_inbound,
        nodes=16,
        beat_ms=BEAT_MS,
    ),
)
