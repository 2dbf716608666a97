"""How long acts of a node take while a big database is copied for a backup.

python -m bench.backup [MIB]
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from node.app import initialise, open_core, unlock
from node.clock import SystemClock
from node.config import load_config
from node.core import Core
from node.home import Home

_PASSPHRASE = b"correct horse battery"
_SETTINGS = {
    "node.authority": "Alder",
    "node.country": "XA",
    "node.network": "bench.example",
    "node.contact": "duty@alder.example",
}


def timed(act: Callable[[], object]) -> float:
    """Return how many ms *act* takes."""
    began = time.perf_counter()
    act()
    return (time.perf_counter() - began) * 1_000


def shown(times: list[float]) -> str:
    """Return median, 99th percentile and maximum."""
    ordered = sorted(times)
    tail = ordered[int(len(ordered) * 0.99)]
    return f"median {statistics.median(ordered):.2f} ms, p99 {tail:.2f}, most {ordered[-1]:.2f}"


def filled(core: Core, mib: int) -> None:
    """Let node.db be *mib* MiB longer."""
    core.store.run("CREATE TABLE filler (id INTEGER PRIMARY KEY, bytes BLOB)")
    for _ in range(mib):
        with core.store.transaction():
            core.store.run("INSERT INTO filler (bytes) VALUES (randomblob(1048576))")


def main() -> None:
    """Measure, and print what came of it."""
    mib = int(sys.argv[1]) if len(sys.argv) > 1 else 512
    with tempfile.TemporaryDirectory() as folder:
        home = Home(Path(folder) / "home")
        initialise(home.path, _SETTINGS, _PASSPHRASE)
        config = load_config(home)
        with open_core(home, config, SystemClock()) as core:
            unlock(core, config, lambda: _PASSPHRASE)
            filled(core, mib)
            before = [timed(core.heartbeat) for _ in range(300)]
            began = time.perf_counter()
            row = core.backups.begin(who="operator", attachments=True)
            held = (time.perf_counter() - began) * 1_000
            during = []
            while core.backups.state(row["id"])["copying"]:
                during.append(timed(core.heartbeat))
            took = time.perf_counter() - began
            wal = home.node_db.with_name("node.db-wal").stat().st_size / 2**20
            print(f"copied {mib} MiB in {took:.2f} s; begun in {held:.1f} ms; WAL {wal:.0f} MiB")
            print(f"acts before: {shown(before)}")
            print(f"acts during: {shown(during)}")


if __name__ == "__main__":
    main()
