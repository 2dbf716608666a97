"""How fast incidents are found in a case.db, per kind of query, beside the floor of a bare look-up.

A synthetic corpus is written straight into a case.db (SQLCipher, as in a node), each incident with
its index entries in the same transaction, as following the log does; envelopes, signatures and the
log are left out, so that 600,000 incidents fit an evening. Then queries of each kind, with terms
drawn from the corpus, are answered as the local endpoint does: the index, the page of 50 incidents
with their rows, and the JSON of the answer. The floor is reading those 50 incidents alone.

    python bench/search.py [--size S|M|L] [--count N] [--seed N] [--links] [--rounds N] [--json]
                           [--folder FOLDER]

``--links`` also looks for link candidates while loading, as a node does (see bench/links.py).
L takes about 600,000 / (the printed rate) seconds, and some 4 GB of disk.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import resource
import secrets
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from typing import Any, Final

from node.casebook import Casebook
from node.corpus import Corpus
from node.corpus.knobs import SIZES
from node.searching import expression, read_query

BATCH: Final = 1_000
PAGE: Final = 50
KEPT: Final = 4_000  # incidents from which the terms of queries are drawn
NEWEST: Final = 1 << 60
BOUND_MS: Final = 50.0
Row = dict[str, Any]


def load(cases: Casebook, count: int, seed: int) -> tuple[list[Row], float, float]:
    """Write a corpus; return some of its incidents, and the seconds of writing and of making it."""
    kept: list[Row] = []
    dice = Random(seed)  # noqa: S311
    waiting: list[Row] = []
    written, began, number = 0.0, time.perf_counter(), 0

    def flush() -> None:
        nonlocal written, number
        start = time.perf_counter()
        with cases.transaction():
            for row in waiting:
                cases.store_record(
                    envelope_id=number.to_bytes(32, "big"), log_index=number, author=b"\1" * 32,
                    own=number % 10 == 0, at=number,
                    record={"incident_id": f"{number:08x}", "ref": f"PI-XA-2026-{number:06d}",
                            "revision": 1,
                            **{name: row[name] for name in ("face", "annex") if name in row}},
                )  # fmt: skip
                number += 1
        written += time.perf_counter() - start
        waiting.clear()

    for row in Corpus(count=count, seed=seed).lines():
        if "truth" in row:
            continue
        waiting.append(row)
        if dice.random() < KEPT / count:
            kept.append(row)
        if len(waiting) == BATCH:
            flush()
    flush()
    return kept, written, time.perf_counter() - began - written


# --- queries ---------------------------------------------------------------------------------
def drawn(kept: list[Row], dice: Random, read: Callable[[Row], str | None]) -> Iterator[str]:
    while True:
        found = read(dice.choice(kept))
        if found:
            yield found


def first(row: Row, layer: str, part: str, field: str) -> str | None:
    items: Any = row.get(layer, {}).get(part) or ({},)
    value: str | None = items[0].get(field)
    return value


def contact(row: Row) -> str | None:
    for party in row.get("annex", {}).get("parties", ()):
        for each in party.get("contacts", ()):
            return str(each["value"])
    return None


def name_in(low: str, high: str) -> Callable[[Row], str | None]:
    def read(row: Row) -> str | None:
        for party in row.get("annex", {}).get("parties", ()):
            if any(low <= c <= high for c in party["name"]):
                return str(party["name"])
        return None

    return read


def part_of(text: str, dice: Random, low: int, high: int) -> str:
    size = dice.randrange(low, high + 1)
    at = dice.randrange(max(1, len(text) - size + 1))
    return text[at : at + size]


def kinds(kept: list[Row], dice: Random) -> dict[str, Callable[[], Row]]:
    """Return for each kind of query what makes one."""
    han = drawn(kept, dice, name_in("\u4e00", "\u9fff"))
    arabic = drawn(kept, dice, name_in("\u0620", "\u064a"))
    cyrillic = drawn(kept, dice, name_in("\u0400", "\u04ff"))
    accented = drawn(kept, dice, name_in("\u00c0", "\u017f"))
    names = drawn(kept, dice, lambda row: first(row, "annex", "parties", "name"))
    boxes = drawn(kept, dice, lambda row: first(row, "annex", "containers", "no"))
    papers = drawn(kept, dice, lambda row: first(row, "annex", "documents", "number"))
    batches = drawn(kept, dice, lambda row: first(row, "annex", "origins", "batch_no"))
    stuff = drawn(kept, dice, lambda row: first(row, "face", "substances", "substance_id"))
    contacts = drawn(kept, dice, contact)
    faces = drawn(kept, dice, lambda row: json.dumps(row["face"]))

    def face() -> Row:
        value: Row = json.loads(next(faces))
        return value

    def year() -> str:
        return f"{dice.randrange(2022, 2026)}-{dice.randrange(1, 13):02d}"

    def bare(text: str) -> str:
        return "".join(c for c in text if c.isalnum())

    return {
        "one common word": lambda: {"text": dice.choice(("seized", "labels", "muestras"))},
        "two common words": lambda: {"text": dice.choice(("seized acetic", "toluene stopped",
                                                          "labels airport"))},
        "rare and common word": lambda: {"text": f"labels {next(papers)}"},
        "words never together": lambda: {"text": "seized muestras отобраны"},
        "beginning of a word": lambda: {"text": dice.choice(("acet*", "этикет*", "pseudo*"))},
        "word nobody has": lambda: {"text": f"zzq{dice.randrange(10**6)}"},
        "Chinese, two characters": lambda: {"text": part_of(next(han), dice, 2, 2)},
        "Chinese, part of a name": lambda: {"text": part_of(next(han), dice, 3, 5)},
        "Arabic words": lambda: {"text": " ".join(next(arabic).split()[1:3])},
        "Cyrillic words": lambda: {"text": bare(next(cyrillic).split()[1])},
        "accented, typed plain": lambda: {"text": next(accented).split()[0]},
        "firm in any script": lambda: {"party": next(names)},
        "part of a container": lambda: {"container": part_of(bare(next(boxes)), dice, 4, 8)},
        "container in free text": lambda: {"text": next(boxes)},
        "document": lambda: {"document": next(papers)},
        "batch": lambda: {"batch": next(batches)},
        "phone, mail, account": lambda: {"selector": next(contacts)},
        "substance": lambda: {"substance": next(stuff)},
        "country and type": lambda: {"country": face()["origin_country"],
                                     "type": face()["incident_type"]},
        "country, substance, dates": lambda: {"country": face()["origin_country"],
                                              "substance": next(stuff), "since": year()},
        "dates only": lambda: {"since": year(), "until": year()[:4] + "-12-17"},
        "text, mode, dates, own": lambda: {"text": "seized", "mode": "air", "since": "2023-02-03",
                                           "until": "2024-11-20", "state": "released"},
    }  # fmt: skip


def answer(cases: Casebook, asked: Row) -> int:
    """Answer one query as the endpoint does; return how many incidents were found."""
    query = read_query(asked)
    found = cases.search.find(expression(query), before=NEWEST, limit=PAGE + 1)
    if not found and (query.text or query.party):
        found = cases.search.find(expression(query, widen=True), before=NEWEST, limit=PAGE + 1)
    rows = cases.incidents_at(found[:PAGE])
    json.dumps([{**row, "author": row["author"].hex(), "annex": None} for row in rows])
    return len(found)


def p95(values: list[float]) -> float:
    return sorted(values)[max(0, math.ceil(len(values) * 0.95) - 1)]


def measure(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    count = options.count or SIZES[options.size]
    path = folder / "case.db"
    cases = Casebook(path, secrets.token_bytes(32))
    cases.search.links = options.links
    kept, written, made = load(cases, count, options.seed)
    cases.wipe()
    dice = Random(options.seed)  # noqa: S311
    results, everything = {}, []
    for name, make in kinds(kept, dice).items():
        times, hits = [], []
        for _ in range(options.rounds):
            asked = make()
            if asked.get("until", "9") < asked.get("since", ""):
                asked["since"], asked["until"] = asked["until"], asked["since"]
            began = time.perf_counter()
            hits.append(answer(cases, asked))
            times.append((time.perf_counter() - began) * 1_000)
        everything += times
        results[name] = {
            "p50_ms": round(statistics.median(times), 2), "p95_ms": round(p95(times), 2),
            "max_ms": round(max(times), 2), "found": statistics.median(hits),
        }  # fmt: skip
    floor = []
    for _ in range(options.rounds):
        wanted = dice.sample(range(count), min(PAGE, count))
        began = time.perf_counter()
        rows = cases.incidents_at(wanted)
        json.dumps([{**row, "author": row["author"].hex(), "annex": None} for row in rows])
        floor.append((time.perf_counter() - began) * 1_000)
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    cases.close()
    return {
        "incidents": count, "seed": options.seed, "links": options.links, "rounds": options.rounds,
        "written_per_second": round(count / written), "load_seconds": round(written, 1),
        "making_seconds": round(made, 1), "case_db_mib": round(path.stat().st_size / 2**20, 1),
        "peak_memory_mib": round(memory), "floor_p50_ms": round(statistics.median(floor), 2),
        "p95_ms": round(p95(everything), 2), "queries": results, "cores": os.cpu_count(),
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--size", choices=tuple(SIZES), default="M")
    parser.add_argument("--count", type=int, default=0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--links", action="store_true")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--folder", type=Path, default=None)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        found = measure(options, Path(folder))
    if options.json:
        print(json.dumps(found, indent=1))
    else:
        print(
            f"{found['incidents']} incidents, seed {found['seed']}: written at "
            f"{found['written_per_second']}/s ({found['load_seconds']} s), "
            f"case.db {found['case_db_mib']} MiB, peak memory {found['peak_memory_mib']} MiB"
        )
        print(f"floor, reading a page of {PAGE}: p50 {found['floor_p50_ms']} ms")
        print(f"{'query':<28}{'p50 ms':>9}{'p95 ms':>9}{'max ms':>9}{'found':>8}{'x floor':>9}")
        for name, row in found["queries"].items():
            ratio = row["p50_ms"] / found["floor_p50_ms"]
            print(f"{name:<28}{row['p50_ms']:>9}{row['p95_ms']:>9}{row['max_ms']:>9}"
                  f"{row['found']:>8.0f}{ratio:>9.2f}")  # fmt: skip
        print(f"all queries: p95 {found['p95_ms']} ms")
    slow = [name for name, row in found["queries"].items() if row["p95_ms"] >= BOUND_MS]
    if slow:
        raise SystemExit(f"p95 is {BOUND_MS} ms or more for: {', '.join(slow)}")


if __name__ == "__main__":
    main()
