"""Runs seeds of profiles, in this process or in several."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import AbstractContextManager, contextmanager, nullcontext
from multiprocessing import get_context
from random import Random
from typing import Final

import structlog

from tests.sim import crypto, dishonest, log_faults, profiles, realistic
from tests.sim.process import catching
from tests.sim.profiles import Profile
from tests.sim.world import Result, World

_DEEP_EVERY: Final = 8
_CHUNK: Final = 25
_NOTHING: Final = logging.CRITICAL
PROFILES: Final = (
    *profiles.PROFILES, *dishonest.PROFILES, *log_faults.PROFILES, *realistic.PROFILES,
)  # fmt: skip
BY_NAME: Final = {profile.name: profile for profile in PROFILES}


@contextmanager
def silence() -> Iterator[None]:
    """Let the nodes write no log: the trace tells more."""
    kept = structlog.get_config()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(_NOTHING))
    try:
        yield
    finally:
        structlog.configure(**kept)


def run(
    profile: Profile, seed: int, *, nodes: int | None = None,
    trace: Callable[[str], None] | None = None,
    plant: Callable[[], AbstractContextManager[None]] = nullcontext,
) -> Result:  # fmt: skip
    """Run one seed of *profile* to its end; *plant* changes the nodes once they are made."""
    with crypto.standins(), silence(), catching():
        count = nodes or profile.nodes
        inbound = profile.inbound(count, Random(f"{profile.name}/{seed}/inbound"))
        world = World(
            seed, name=profile.name, inbound=inbound, trace=trace, beat_ms=profile.beat_ms
        )
        with plant():
            _play(world, profile, deep=seed % _DEEP_EVERY == 0)
        return world.result()


def _play(world: World, profile: Profile, *, deep: bool) -> None:
    profile.script(world)
    if not world.oracle.violations:
        world.heal()
        world.converge(deadline=profile.deadline, receipts=profile.receipts)
    if not world.oracle.violations:
        world.finish(deep=deep)
        if profile.check is not None:
            profile.check(world)


def _run_many(name: str, seeds: range, nodes: int | None) -> list[Result]:
    return [run(BY_NAME[name], seed, nodes=nodes) for seed in seeds]


def run_all(
    names: Iterable[str], *, seeds: int, start: int, nodes: int | None, jobs: int
) -> Iterator[Result]:
    """Run *seeds* seeds of each named profile in *jobs* processes; results come in order."""
    tasks = [
        (name, range(first, min(first + _CHUNK, start + seeds)))
        for name in names
        for first in range(start, start + seeds, _CHUNK)
    ]
    if jobs <= 1:
        for name, part in tasks:
            yield from _run_many(name, part, nodes)
        return
    with ProcessPoolExecutor(jobs, mp_context=get_context("spawn")) as pool:
        for done in pool.map(
            _run_many, [t[0] for t in tasks], [t[1] for t in tasks], [nodes] * len(tasks)
        ):
            yield from done
