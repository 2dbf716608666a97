"""Long runs: ``python -m tests.sim --seeds 1000 --profile all --jobs 2``.

Prints one line for each profile, and for each failing seed what was broken and how to see it again:
the same command with ``--seeds 1 --start SEED --trace`` prints what every node did, step by step.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter
from collections.abc import Sequence

from tests.sim.runner import BY_NAME, PROFILES, run, run_all
from tests.sim.world import Result

_ELSEWHERE = (
    ("11", "a flipped bit on disk", "tests/node/test_log.py: verification, not gossip, finds it"),
    ("17", "oversized frames", "tests/net: only sockets have lengths to lie about"),
    ("19", "slowloris", "tests/net: it is about half-made connections"),
    ("21", "a key revoked in mid-stream", "tests/net/test_peers.py: it is about live TLS links"),
    ("28", "a TLS-inspecting proxy", "tests/node/test_transport.py: there is no TLS here"),
    ("29", "version skew, unknown fields", "tests/protocol: it is about parsing"),
    ("31", "no more file descriptors", "tests/net: there are none here"),
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what the command line says; 1 if a seed failed."""
    parser = argparse.ArgumentParser(prog="python -m tests.sim", description=__doc__)
    parser.add_argument(
        "--profile", default="all", help="names with commas, or all (not realistic)"
    )
    parser.add_argument("--seeds", type=int, default=100, help="of each profile")
    parser.add_argument("--start", type=int, default=0, help="the first seed")
    parser.add_argument("--nodes", type=int, help="how many; each profile has its own default")
    parser.add_argument("--jobs", type=int, default=1, help="processes")
    parser.add_argument("--trace", action="store_true", help="print every step; one process")
    parser.add_argument("--list", action="store_true", help="list the profiles")
    chosen = parser.parse_args(arguments)
    if chosen.list:
        _list()
        return 0
    names = chosen.profile.split(",")
    if chosen.profile == "all":
        names = [profile.name for profile in PROFILES if profile.name != "realistic"]
    if unknown := [name for name in names if name not in BY_NAME]:
        parser.error(f"no profile {', '.join(unknown)}; see --list")
    if chosen.trace:
        results = [
            run(BY_NAME[name], seed, nodes=chosen.nodes, trace=print)
            for name in names
            for seed in range(chosen.start, chosen.start + chosen.seeds)
        ]
        return _report(results, 0.0, chosen.nodes)
    begun = time.perf_counter()
    results = []
    for result in run_all(
        names, seeds=chosen.seeds, start=chosen.start, nodes=chosen.nodes, jobs=chosen.jobs
    ):
        results.append(result)
        if result.violations:
            _print_failure(result, chosen.nodes)
    return _report(results, time.perf_counter() - begun, chosen.nodes)


def _list() -> None:
    for profile in PROFILES:
        print(f"{profile.name:<16} {profile.scenario:>7}  {profile.about}")
    print("\nnot here:")
    for number, what, where in _ELSEWHERE:
        print(f"{'':<16} {number:>7}  {what}: {where}")


def _print_failure(result: Result, nodes: int | None) -> None:
    print(f"{result.profile} seed {result.seed} failed:")
    for violation in result.violations[:5]:
        print(f"    {violation}")
    size = f" --nodes {nodes}" if nodes else ""
    print(
        f"    replay: python -m tests.sim --profile {result.profile} --start {result.seed} "
        f"--seeds 1{size} --trace",
        flush=True,
    )


def _report(results: Sequence[Result], wall: float, nodes: int | None) -> int:
    del nodes
    print(
        f"{'profile':<16}{'seeds':>7}{'failed':>7}{'steps':>10}{'virtual s':>11}{'crashes':>9}"
        f"{'envelopes':>10}{'deliveries':>11}{'copies/del':>11}{'direct':>7}{'rounds':>8}{'MB':>8}"
        f"{'heal s':>8}"
    )
    groups: dict[str, list[Result]] = {}
    for result in results:
        groups.setdefault(result.profile, []).append(result)
    for name, group in groups.items():
        deliveries = sum(r.deliveries for r in group)
        copies = sum(r.copies for r in group) / max(1, deliveries)
        direct = sum(r.direct_copies for r in group) / max(
            1, sum(r.direct_deliveries for r in group)
        )
        print(
            f"{name:<16}{len(group):>7}{sum(bool(r.violations) for r in group):>7}"
            f"{sum(r.steps for r in group):>10}{sum(r.virtual_us for r in group) / 1e6:>11.0f}"
            f"{sum(r.deaths for r in group):>9}{sum(r.envelopes for r in group):>10}"
            f"{deliveries:>11}{copies:>11.3f}{direct:>7.3f}{sum(r.rounds for r in group):>8}"
            f"{sum(r.bytes for r in group) / 1e6:>8.1f}"
            f"{max(r.healed_us for r in group) / 1e6:>8.0f}"
        )
    failed = sum(bool(r.violations) for r in results)
    print(f"{len(results)} seeds, {failed} failed, {wall:.1f} s")
    if len(results) == 1:
        _print_frames(results[0])
    return int(failed > 0)


def _print_frames(result: Result) -> None:
    print(f"longest queue of a link {result.queue_high} bytes; messages by kind:")
    total: Counter[str] = result.frames
    for kind, count in total.most_common():
        print(f"    {kind:<16}{count:>9}{result.frame_bytes[kind]:>13} bytes")


if __name__ == "__main__":
    sys.exit(main())
