"""How fast the log of one node is, beside pymerkle's SQLite tree and the bare hashes, in one run.

A real node whose log holds 1,000,000 entries, and pymerkle's ``SqliteTree`` with the same entries
in the same folder. Picket's appends are what a node does for an act that it accepted: entry and
tiles committed durably, the head over them signed with Ed25519. The second signature, ML-DSA-44, is
made when a head is given out; what that takes stands in a line of its own. pymerkle signs nothing.
What is compared takes turns; each figure is a median.

    pip install pymerkle==7.0.0        # without it, what compares with it is left out
    python bench/log.py [--scale SCALE] [--json] [--folder FOLDER]
"""

from __future__ import annotations

import argparse
import gc
import hashlib
import importlib
import importlib.util
import json
import os
import platform
import secrets
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from node import __version__
from node.app import initialise, open_core
from node.clock import SystemClock
from node.config import load_config
from node.core import Core
from node.home import Home
from node.log import Act
from protocol import suite
from protocol.canonical import encode
from protocol.checkpoint import Checkpoint, sign_checkpoint
from protocol.entry import EntryKind
from protocol.merkle import leaf_hash, verify_inclusion

PEER: Final = "pymerkle"
PASSPHRASE: Final = b"a passphrase for a node that lives for minutes"
LEAVES: Final = 1_000_000
SMALL: Final = 10_000  # entries at which memory begins to be measured
FILL: Final = 1_000  # entries of one transaction while the log is filled
BATCH: Final = 100
ENTRY: Final = 89  # bytes of an entry
CHUNK: Final = 65_536  # entries of which the bare hashes are taken at once
STEP: Final = 2_654_435_761  # prime: multiples of it are scattered over every size
PARTS_S: Final = 1_800.0
MIB: Final = 2**20
Answer = dict[str, Any]


@dataclass(frozen=True)
class Plan:
    """How much is measured."""

    leaves: int
    small: int
    openings: int  # processes that open the log, and as many that open the peer's
    rounds: int  # of appends: ten singles and one batch of each
    proofs: int  # proven while warm, after each subtree that the peer keeps was asked for
    verifications: int


def plan_of(scale: float) -> Plan:
    """Return the full plan, made smaller by *scale*."""
    return Plan(
        leaves=max(1_000, int(LEAVES * scale)),
        small=max(500, int(SMALL * scale)),
        openings=max(3, int(15 * scale)),
        rounds=max(5, int(40 * scale)),
        proofs=max(200, int(10_000 * scale)),
        verifications=3,
    )


def _lap(function: Callable[[], object]) -> float:
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def _scattered(first: int, count: int, size: int) -> list[int]:
    """Return *count* places in a log of *size* entries, without order; *first* numbers them."""
    return [n * STEP % size for n in range(first, first + count)]


# --- the two logs ----------------------------------------------------------------------------
@contextmanager
def _opened(folder: Path) -> Iterator[Core]:
    home = Home(folder / "node")
    with open_core(home, load_config(home), SystemClock()) as core:
        yield core


def _peer(folder: Path) -> Any:  # noqa: ANN401  a library that may not be there
    return importlib.import_module(PEER).SqliteTree(str(folder / "peer.db"))


def _acts(first: int, count: int) -> list[Act]:
    """Return acts such as a node logs when an operator reads an incident."""
    acts = []
    for number in range(first, first + count):
        local = ("read", number.to_bytes(32, "big"), "operator", 1_790_000_000_000 + number)
        acts.append(Act(EntryKind.ACCESS, suite.digest("access-act", encode(list(local))), local))
    return acts


def _append(core: Core, acts: Sequence[Act]) -> None:
    with core.logged():
        core.log.append(acts)


# --- parts, each a process of its own --------------------------------------------------------
def _memory(*, reset: bool = False) -> tuple[int, int]:
    """Return resident memory in bytes and its peak, which *reset* lets begin anew."""
    if reset:
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    status = Path("/proc/self/status").read_text(encoding="ascii")
    kib = {line.split(":")[0]: line.split()[1] for line in status.splitlines() if line[:2] == "Vm"}
    return 1024 * int(kib["VmRSS"]), 1024 * int(kib["VmHWM"])


def _prove_many(core: Core, count: int) -> None:
    size = core.log.size
    for index in _scattered(0, count, size):
        core.log.prove(index, size)


def build(folder: Path, plan: Plan) -> Answer:
    """Make the node and fill its log; measure memory on the way, with caches filled."""
    values = {
        "node.authority": "Authority",
        "node.country": "XA",
        "node.network": "bench.example",
        "node.contact": "duty@authority.example",
        "peer.endpoints": ["wss://127.0.0.1:8462"],
    }
    initialise(folder / "node", values, PASSPHRASE)
    with _opened(folder) as core:

        def fill(size: int) -> None:
            while (missing := size - core.log.size) > 0:
                _append(core, _acts(core.log.size, min(FILL, missing)))
            _prove_many(core, 2 * plan.proofs)

        fill(plan.small)
        gc.collect()
        before, _ = _memory(reset=True)
        seconds = _lap(lambda: fill(plan.leaves))
        _, peak = _memory()
        # What was measured so far must be a log.
        index, size = plan.leaves // 3, core.log.size
        verify_inclusion(
            index=index, size=size, leaf=leaf_hash(core.log.entry(index)),
            proof=core.log.prove(index, size), root=core.log.root(),
        )  # fmt: skip
    return {"growth": peak - before, "seconds": seconds}


def build_peer(folder: Path, plan: Plan) -> Answer:
    """Give the peer's tree the same entries; both must then have the same root."""
    with _opened(folder) as core, closing(_peer(folder)) as tree:
        for first in range(0, plan.leaves, FILL):
            rows = core.store.rows(
                "SELECT entry FROM entries WHERE idx BETWEEN ? AND ? ORDER BY idx",
                first, min(first + FILL, plan.leaves) - 1,
            )  # fmt: skip
            tree.append_entries([row["entry"] for row in rows])
        assert tree.get_size() == core.log.size
        assert tree.get_root() == core.log.root()
    return {}


def first(folder: Path, index: int) -> Answer:
    """Open the node until it could append and sign; then prove one entry."""
    home = Home(folder / "node")
    config = load_config(home)
    start = time.perf_counter()
    with open_core(home, config, SystemClock()) as core:
        opened = time.perf_counter()
        core.log.prove(index, core.log.size)
        proven = time.perf_counter()
    return {"open": opened - start, "proof": proven - opened}


def first_peer(folder: Path, index: int) -> Answer:
    """Open the peer's tree, which reads nothing yet; then prove one entry."""
    start = time.perf_counter()
    tree = _peer(folder)
    opened = time.perf_counter()
    tree.prove_inclusion(index + 1)
    proven = time.perf_counter()
    tree.get_root()
    rooted = time.perf_counter()
    tree.close()
    return {"open": opened - start, "proof": proven - opened, "root": rooted - proven}


def warm(folder: Path, plan: Plan, *, peer: bool) -> Answer:
    """Prove scattered entries, all caches full, in turn."""
    own, others = [], []
    with _opened(folder) as core:
        log, size = core.log, core.log.size
        tree = _peer(folder) if peer else None
        # One in each subtree that the peer keeps, of 128 leaves.
        for index in range(0, size, 128):
            log.prove(index, size)
            if tree is not None:
                tree.prove_inclusion(index + 1)
        gc.collect()
        for index in _scattered(2 * plan.proofs, plan.proofs, size):
            own.append(_lap(lambda index=index: log.prove(index, size)))  # type: ignore[misc]
            if tree is not None:
                others.append(
                    _lap(lambda index=index: tree.prove_inclusion(index + 1))  # type: ignore[misc]
                )
    return {"own": own, "peer": others}


def append(folder: Path, plan: Plan, *, peer: bool) -> Answer:
    """Append durably to the full logs, one by one and in batches, in turn."""
    singles: list[float] = []
    batches: list[float] = []
    others: list[float] = []
    writes: list[float] = []
    signatures: list[float] = []
    shown: list[float] = []
    with _opened(folder) as core, (folder / "floor").open("wb", buffering=0) as file:
        tree = _peer(folder) if peer else None

        def sign() -> None:
            sign_checkpoint(
                Checkpoint(core.log.origin, core.log.size, bytes(32)),
                ed25519=core.keys.log_ed25519, mldsa44=core.keys.log_mldsa44, now_s=len(singles),
            )  # fmt: skip

        def write() -> None:
            os.pwrite(file.fileno(), secrets.token_bytes(ENTRY), 0)
            os.fdatasync(file.fileno())

        write()

        def append_and_show(acts: Sequence[Act]) -> None:
            _append(core, acts)
            core.log.checkpoint()

        def both(count: int, own: list[float]) -> None:
            acts = _acts(core.log.size, count)
            own.append(_lap(lambda: _append(core, acts)))
            if tree is not None and count == 1:
                entry = secrets.token_bytes(ENTRY)
                others.append(_lap(lambda: tree.append_entry(entry)))

        for _ in range(plan.rounds):
            for _ in range(10):
                both(1, singles)
                shown.append(_lap(lambda: append_and_show(_acts(core.log.size, 1))))
                writes.append(_lap(write))
                signatures.append(_lap(sign))
            both(BATCH, batches)
        assert core.log.signed_size == core.log.size
    return {
        "singles": singles, "batches": batches, "peer": others, "writes": writes,
        "signatures": signatures, "shown": shown,
    }  # fmt: skip


def _bare_hashes(entries: Sequence[bytes]) -> None:
    """Hash *entries* and the nodes above them as RFC 6962 defines it, and do nothing else."""
    sha256 = hashlib.sha256
    row = [sha256(b"\x00" + entry).digest() for entry in entries]
    while len(row) > 1:
        pairs = zip(row[::2], row[1::2], strict=False)
        row = [sha256(b"\x01" + left + right).digest() for left, right in pairs]


def verify(folder: Path, plan: Plan) -> Answer:
    """Verify the whole log, in turn with the bare hashes of the same entries."""
    own, floors = [], []
    with _opened(folder) as core:
        size = core.log.size
        for _ in range(plan.verifications):
            own.append(_lap(core.log.verify))
            floor = 0.0
            for low in range(0, size, CHUNK):
                rows = core.store.rows(
                    "SELECT entry FROM entries WHERE idx >= ? ORDER BY idx LIMIT ?", low, CHUNK
                )
                entries = [row["entry"] for row in rows]
                floor += _lap(lambda entries=entries: _bare_hashes(entries))  # type: ignore[misc]
            floors.append(floor)
    return {"own": own, "floor": floors, "entries": size}


def _part(name: str, folder: Path, plan: Plan, index: int, *, peer: bool) -> Answer:
    match name:
        case "build":
            return build(folder, plan)
        case "build-peer":
            return build_peer(folder, plan)
        case "first":
            return first(folder, index)
        case "first-peer":
            return first_peer(folder, index)
        case "warm":
            return warm(folder, plan, peer=peer)
        case "append":
            return append(folder, plan, peer=peer)
        case _:
            return verify(folder, plan)


# --- the run ---------------------------------------------------------------------------------
class Run:
    """Runs each part in a process of its own, so that no cache of one helps the next."""

    def __init__(self, folder: Path, scale: float, *, peer: bool) -> None:
        """Prepare to run in *folder*."""
        self._folder, self._scale, self.peer = folder, scale, peer

    def part(self, name: str, index: int = 0) -> Answer:
        """Run the part *name* and return what it measured."""
        command = [
            sys.executable, __file__, "--part", name, "--folder", str(self._folder),
            "--scale", str(self._scale), "--index", str(index),
        ]  # fmt: skip
        path = os.pathsep.join(
            [str(Path(__file__).parent.parent), *filter(None, [os.environ.get("PYTHONPATH")])]
        )
        done = subprocess.run(  # noqa: S603  our own program
            command, stdout=subprocess.PIPE, check=True, text=True, timeout=PARTS_S,
            env={**os.environ, "PYTHONPATH": path},
        )  # fmt: skip
        answer: Answer = json.loads(done.stdout)
        return answer

    def firsts(self, plan: Plan) -> tuple[list[Answer], list[Answer]]:
        """Open both logs again and again, in turn."""
        own, others = [], []
        for index in _scattered(1, plan.openings, plan.leaves):
            own.append(self.part("first", index))
            if self.peer:
                others.append(self.part("first-peer", index))
        return own, others


def measure(folder: Path, scale: float, *, peer: bool) -> Answer:
    """Run all parts in *folder* and return every figure, times in seconds."""
    plan, run = plan_of(scale), Run(folder, scale, peer=peer)
    built = run.part("build")
    if peer:
        run.part("build-peer")
    own, others = run.firsts(plan)
    proofs, appended, verified = run.part("warm"), run.part("append"), run.part("verify")
    return {
        "environment": _environment(plan, peer=peer),
        "figures": {
            "append": statistics.median(appended["singles"]),
            "append_and_show": statistics.median(appended["shown"]),
            "batch_entry": statistics.median(appended["batches"]) / BATCH,
            "first_proof": statistics.median(each["proof"] for each in own),
            "warm_proof": statistics.median(proofs["own"]),
            "open": statistics.median(each["open"] for each in own),
            "growth_bytes": built["growth"],
            "verify": statistics.median(verified["own"]),
        },
        "peer": {
            "append": statistics.median(appended["peer"]),
            "first_proof": statistics.median(each["proof"] for each in others),
            "warm_proof": statistics.median(proofs["peer"]),
            "open_and_root": statistics.median(
                each["open"] + each["proof"] + each["root"] for each in others
            ),
        }
        if peer
        else {},
        "durable_write": statistics.median(appended["writes"]),
        "signatures": statistics.median(appended["signatures"]),
        "raw_hashing": statistics.median(verified["floor"]),
        "entries": verified["entries"],
    }


def _environment(plan: Plan, *, peer: bool) -> Answer:
    return {
        "picket": __version__,
        "peer": importlib.import_module(PEER).__version__ if peer else None,
        "python": platform.python_version(),
        "sqlite": sqlite3.sqlite_version,
        "machine": f"{platform.system()} {platform.release()} {platform.machine()}",
        "cpus": os.cpu_count(),
        "load": os.getloadavg()[0],
        "leaves": plan.leaves,
        "small": plan.small,
    }


# --- printing --------------------------------------------------------------------------------
@dataclass(frozen=True)
class Goal:
    """One goal: the figure, what it stands beside, their ratio, and the bound of one of them."""

    what: str
    figure: str
    beside: str
    ratio: str
    bound: str
    met: bool | None  # None: what it stands beside was not measured

    def row(self) -> list[str]:
        """Return the cells of a line of the table."""
        verdict = {True: "met", False: "NOT MET", None: "not measured"}[self.met]
        return [self.what, self.figure, self.beside, self.ratio, self.bound, verdict]


def goals_of(found: Answer) -> list[Goal]:
    """Return each goal with what was *found*."""
    own, peer = found["figures"], found["peer"]

    def times(what: str, name: str, beside: str, least: float) -> Goal:
        figure, other = own[name], peer.get(beside)
        if other is None:
            return Goal(what, _time(figure), "", "", f">= {least:g}x", None)
        ratio = other / figure
        return Goal(
            what, _time(figure), _time(other), f"{ratio:.1f}x", f">= {least:g}x", ratio >= least
        )

    growth, first_proof, opened = own["growth_bytes"] / MIB, own["first_proof"], own["open"]
    raw = found["raw_hashing"] / own["verify"]
    root = peer.get("open_and_root")
    return [
        times("durable signed append, one by one", "append", "append", 2),
        times(f"the same in batches of {BATCH}, each entry", "batch_entry", "append", 60),
        Goal("first proof after opening", _time(first_proof), "", "", "<= 5 ms",
             first_proof <= 0.005),
        times("first proof after opening, beside", "first_proof", "first_proof", 50),
        times("warm proof", "warm_proof", "warm_proof", 2),
        Goal("opening the node, ready to append and sign", _time(opened),
             "" if root is None else _time(root), "", "<= 50 ms", opened <= 0.05),
        Goal(f"memory growth from {found['environment']['small']:,} leaves", f"{growth:.1f} MiB",
             "", "", "<= 20 MiB", growth <= 20),
        Goal(f"verifying {found['entries']:,} entries, beside bare hashes", _time(own["verify"]),
             _time(found["raw_hashing"]), f"{raw:.2f}x", ">= 0.5x", raw >= 0.5),
    ]  # fmt: skip


def _time(seconds: float) -> str:
    if seconds < 0.001:
        return f"{seconds * 1e6:.1f} us"
    return f"{seconds * 1e3:.2f} ms" if seconds < 1 else f"{seconds:.2f} s"


_NOTES: Final = """
Read it so
  beside      pymerkle's SqliteTree in its own settings, with the same entries; it signs nothing.
              Opening: until its first root. Verifying: SHA-256 of each leaf and node, one thread
  ratio       how many times faster; of verifying, the share of the speed of the bare hashes
  append      what a node does for one accepted act: entry and tiles in one durable commit, and
              the Ed25519 signature of the head over them
  opening     the whole node, locked: keys, fence, database, trust, and the log's right edge
  warm        each subtree of 128 leaves was asked for before; scattered entries
  memory      peak of the process that grew the log to its full size, caches filled at both ends
  verifying   each entry, what stands beside it, each tile and each kept checkpoint; two processes
"""


def _report(found: Mapping[str, Any], scale: float) -> str:
    about = found["environment"]
    heads = ["", "Picket", "beside", "ratio", "goal", ""]
    rows = [heads, *(goal.row() for goal in goals_of(dict(found)))]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        f"Picket {about['picket']}: the log, {about['leaves']:,} leaves",
        f"Python {about['python']}, SQLite {about['sqlite']}, {about['machine']}, "
        f"{about['cpus']} CPUs, load {about['load']:.1f}",
        f"{PEER} {about['peer']}"
        if about["peer"]
        else f"{PEER} IS NOT INSTALLED: pip install pymerkle==7.0.0",
        "",
    ]
    for first_cell, *cells in rows:
        rest = [cell.rjust(width) for cell, width in zip(cells, widths[1:], strict=True)]
        lines.append("  ".join([first_cell.ljust(widths[0]), *rest]).rstrip())
    write, signatures = found["durable_write"], found["signatures"]
    shown = found["figures"]["append_and_show"]
    lines += [
        "",
        f"An append whose head is given out at once takes {_time(shown)}: the ML-DSA-44 signature",
        "and the fence are made for heads that are given out only.",
        f"Floors: a durable write {_time(write)}, both signatures {_time(signatures)}.",
    ]
    if scale != 1:
        lines += ["", f"The goals are for {LEAVES:,} leaves: this is a look, not a figure."]
    return "\n".join(lines) + "\n" + _NOTES


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark and print what it found."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--scale", type=float, default=1.0, help="share of the full run")
    parser.add_argument("--json", action="store_true", help="print every figure as JSON")
    parser.add_argument("--folder", help="where the logs live for the run; decides the disk")
    parser.add_argument("--part", help=argparse.SUPPRESS)
    parser.add_argument("--index", type=int, default=0, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    for name in [name for name in os.environ if name.startswith("PICKET_")]:
        del os.environ[name]
    peer = importlib.util.find_spec(PEER) is not None
    if options.part is not None:
        plan, folder = plan_of(options.scale), Path(options.folder)
        found = _part(options.part, folder, plan, options.index, peer=peer)
        sys.stdout.write(json.dumps(found) + "\n")
        return 0
    with tempfile.TemporaryDirectory(prefix="picket-bench-", dir=options.folder) as held:
        found = measure(Path(held).resolve(), options.scale, peer=peer)
    found["goals"] = [dict(zip(("what", "figure", "beside", "ratio", "goal", "verdict"),
                               goal.row(), strict=True)) for goal in goals_of(found)]  # fmt: skip
    text = json.dumps(found, indent=1) + "\n" if options.json else _report(found, options.scale)
    sys.stdout.write(text)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
