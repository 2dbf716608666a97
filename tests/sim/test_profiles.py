"""A share of the simulator's seeds, the same in every run; long runs: ``python -m tests.sim``."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from functools import cache
from pathlib import Path

import pytest

from tests.sim.runner import BY_NAME, PROFILES, run
from tests.sim.world import Result

ROOT = Path(__file__).parents[2]
SHARE = 2
PINNED: list[tuple[str, int]] = [
    ("crash", 0),  # a tree head went out before the fence was raised to it
    ("mixed", 18),
    ("slow", 1_024),  # an envelope taken twice in one batch was receipted twice in one frame
    ("set-back", 0),  # once refused, an envelope waited for a clock that had been ahead
    ("mixed", 233),  # a head that was signed in a transaction outlived its undoing
    ("disk-full", 269),  # a receipt that the disk did not take was asked for only after minutes
    ("clocks", 306),
    ("split-view", 4),  # who had named a head could not show its signature a beat later
    ("liar-heads", 0),  # claims that nobody can prove showed honest logs as unproven
    ("rewritten", 7),  # no proof of a tree whose witnessed size is a power of two
    ("slow", 0),  # an answer that came after the next beat was taken for a bad signature
    ("clocks", 3),  # a witness was blamed, and the link ended, as our own clock was behind
]


@cache
def _run(profile: str, seed: int) -> Result:
    return run(BY_NAME[profile], seed)


@pytest.mark.parametrize("profile", [p.name for p in PROFILES if p.name != "realistic"])
def test_no_promise_is_broken(profile: str) -> None:
    for seed in range(SHARE):
        result = _run(profile, seed)
        assert not result.violations, (profile, seed, result.violations)
        assert result.deliveries, (profile, seed)


@pytest.mark.parametrize(("profile", "seed"), PINNED)
def test_what_was_found_before_stays_mended(profile: str, seed: int) -> None:
    assert not run(BY_NAME[profile], seed).violations


def _all(profile: str, count: int = SHARE) -> list[Result]:
    return [_run(profile, seed) for seed in range(count)]


@pytest.mark.parametrize(
    ("profile", "frame"),
    [
        ("fork", "forked"),
        ("flood", "refuse"),
        ("bad-signatures", "refuse"),
        ("garbage", "bye"),
        ("replay", "refuse"),
        ("trimmed", "refuse"),
        ("disk-full", "refuse"),
        ("liar", "want"),
        ("withholding", "want"),
        ("forged-receipts", "bye"),
        ("split-view", "log-forked"),
        ("rewritten", "log-forked"),
        ("liar-heads", "want-head"),
        ("bad-witness", "want-head"),
    ],
)
def test_the_attacks_are_really_made(profile: str, frame: str) -> None:
    """A profile whose trouble never comes about would pass for ever."""
    frames: Counter[str] = sum((r.frames for r in _all(profile)), Counter())
    assert frames[frame], frames


def test_crashes_come_about() -> None:
    assert sum(result.deaths for result in _all("crash")) >= 5


def test_of_two_processes_on_one_home_one_stops() -> None:
    lines: list[str] = []
    run(BY_NAME["two-at-once"], 0, trace=lines.append)
    assert sum("stopped by log-behind" in line for line in lines) == 1


def test_without_faults_everything_travels_once() -> None:
    results = _all("simultaneous") + _all("herd", 1)
    deliveries = sum(result.deliveries for result in results)
    assert sum(result.copies for result in results) <= 1.05 * deliveries


def test_nodes_in_step_pay_one_small_frame_a_minute() -> None:
    (result,) = _all("partition", 1)
    assert result.frame_bytes["summary"] <= 100 * result.frames["summary"]


def test_the_same_seed_makes_the_same_trace() -> None:
    traces: list[list[str]] = [[], []]
    for lines in traces:
        run(BY_NAME["mixed"], 3, trace=lines.append)
        run(BY_NAME["quiet"], 0)
    assert traces[0] == traces[1]
    assert len(traces[0]) > 200


def test_the_trace_is_the_same_in_another_process() -> None:
    """Sets of bytes have another order in each process: nothing may depend on it."""
    command = [
        sys.executable, "-m", "tests.sim", "--profile", "mixed,fork", "--seeds", "1", "--trace",
    ]  # fmt: skip
    traces = [
        subprocess.run(
            command, cwd=ROOT, env={"PYTHONHASHSEED": seed}, capture_output=True, text=True,
            check=False,
        ).stdout
        for seed in ("1", "2")
    ]  # fmt: skip
    assert traces[0] == traces[1]
    assert "commit" in traces[0]


def test_a_failing_seed_tells_how_to_see_it_again(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from tests.sim import __main__, mutants, runner

    def planted(name: str, seeds: range, nodes: int | None) -> list[Result]:
        return [
            run(BY_NAME[name], seed, nodes=nodes, plant=mutants.outside_the_audience)
            for seed in seeds
        ]

    monkeypatch.setattr(runner, "_run_many", planted)
    assert __main__.main(["--profile", "mixed", "--seeds", "1", "--start", "0"]) == 1
    out = capsys.readouterr().out
    assert "replay: python -m tests.sim --profile mixed --start 0 --seeds 1 --trace" in out
    assert "1 seeds, 1 failed" in out


def test_every_fault_scenario_has_its_place(capsys: pytest.CaptureFixture[str]) -> None:
    from tests.sim import __main__

    assert __main__.main(["--list"]) == 0
    listed = capsys.readouterr().out
    numbers = {
        int(number)
        for line in listed.splitlines()
        for number in line[16:26].replace(",", " ").split()
        if number.isdigit()
    }
    assert numbers == set(range(1, 33))


@pytest.mark.long
def test_two_hundred_nodes_agree() -> None:
    result = run(BY_NAME["realistic"], 0, nodes=200)
    assert not result.violations
