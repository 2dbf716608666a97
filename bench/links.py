"""How many of the planted links of a synthetic corpus are found, and how many found ones are true.

Incidents are written into a case.db one after another, as they would arrive; each is compared with
those before it, by the program that runs in a node. The truth is what the generator planted: the
same batch, selector, firm, conveyance or document, written as different people write it, among
numbers that only look alike. The generator's names were written by hand and share no table with the
program that matches them; all its assumptions stand in ``node/corpus/knobs.py``.

Recall is the share of planted pairs that are shown as candidates, precision the share of pairs
shown that were planted. The floor is the comparison of values exactly as they are written.

    python bench/links.py [--size S|M] [--seed N] [--json] [--misses N]
"""

from __future__ import annotations

import argparse
import json
import secrets
import tempfile
import time
import unicodedata
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path
from typing import Any

from node.casebook import Casebook
from node.company import take_apart
from node.corpus import Corpus
from node.corpus.knobs import SIZES

BATCH = 500
Pair = tuple[int, int]
NEEDED = 0.9


@dataclass
class Truth:
    """The planted pairs by kind, and how each member was written."""

    pairs: dict[Pair, str] = field(default_factory=dict)
    written: dict[Pair, tuple[str, str]] = field(default_factory=dict)

    def add(self, row: dict[str, Any], numbers: dict[str, int]) -> None:
        """Take in a line of the truth; *numbers* says under which log index each member stands."""
        members = list(zip((numbers[ref] for ref in row["members"]), row["written"], strict=True))
        for (one, text), (other, there) in combinations(members, 2):
            self.pairs[one, other] = row["kind"]
            self.written[one, other] = (text, there)


def load(cases: Casebook, corpus: Corpus, truth: Truth) -> tuple[float, int]:
    """Write a corpus into *cases*; return the seconds that took, without generating it."""
    numbers: dict[str, int] = {}
    waiting: list[dict[str, Any]] = []
    spent = 0.0

    def flush() -> None:
        nonlocal spent
        began = time.perf_counter()
        with cases.transaction():
            for row in waiting:
                number = numbers[row["external_ref"]]
                cases.store_record(
                    envelope_id=number.to_bytes(32, "big"), log_index=number, author=b"\1" * 32,
                    own=False, at=number,
                    record={"incident_id": f"{number:08x}", "ref": f"PI-XA-2026-{number:06d}",
                            "revision": 1,
                            **{name: row[name] for name in ("face", "annex") if name in row}},
                )  # fmt: skip
        spent += time.perf_counter() - began
        waiting.clear()

    for row in corpus.lines():
        if row.get("truth") == "link":
            truth.add(row, numbers)
        elif "truth" not in row:
            numbers[row["external_ref"]] = len(numbers)
            waiting.append(row)
            if len(waiting) == BATCH:
                flush()
    flush()
    return spent, len(numbers)


def candidates(cases: Casebook) -> Iterator[tuple[Pair, str, str]]:
    before = 1 << 60
    while page := cases.search.candidates(before=before, limit=500):
        for each in page:
            yield (each.low, each.high), each.kind, each.basis
        before = page[-1].high


def script_of(texts: tuple[str, str]) -> str:
    """Return in which scripts a pair of names is written."""
    native = [take_apart(text).native for text in texts]
    if not any(native):
        return "latin"
    if all(native):
        return "own script"
    first = unicodedata.name(next(filter(None, native))[0]).split(" ")[0].lower()
    return f"latin and {first}"


def measure(size: str, seed: int, misses: int) -> dict[str, Any]:
    truth = Truth()
    with tempfile.TemporaryDirectory() as folder:
        cases = Casebook(Path(folder) / "case.db", secrets.token_bytes(32))
        corpus = Corpus(count=SIZES[size], seed=seed)
        spent, count = load(cases, corpus, truth)
        found: dict[Pair, list[tuple[str, str]]] = {}
        for pair, kind, basis in candidates(cases):
            found.setdefault(pair, []).append((kind, basis))
        cases.close()
    hits = truth.pairs.keys() & found.keys()
    planted, hit = Counter(truth.pairs.values()), Counter(truth.pairs[pair] for pair in hits)
    wrong = Counter(kind for pair, whys in found.items() if pair not in truth.pairs
                    for kind, _ in whys)  # fmt: skip
    exact = sum(one == other for one, other in truth.written.values())
    names = Counter(
        script_of(truth.written[p]) for p, k in truth.pairs.items() if k == "same_party"
    )
    named = Counter(script_of(truth.written[p]) for p in hits if truth.pairs[p] == "same_party")
    answer: dict[str, Any] = {
        "incidents": count, "seed": seed, "seconds": round(spent, 1),
        "incidents_per_second": round(count / spent),
        "planted_pairs": len(truth.pairs), "shown_pairs": len(found), "true_pairs": len(hits),
        "recall": round(len(hits) / len(truth.pairs), 4),
        "precision": round(len(hits) / max(1, len(found)), 4),
        "recall_by_exact_values": round(exact / len(truth.pairs), 4),
        "by_kind": {
            kind: {"planted": planted[kind], "found": hit[kind], "shown_wrongly": wrong[kind]}
            for kind in sorted(planted)
        },
        "firms_by_script": {name: {"planted": names[name], "found": named[name]}
                            for name in sorted(names)},
    }  # fmt: skip
    if misses:
        answer["missed"] = [
            [truth.pairs[p], *truth.written[p]] for p in sorted(truth.pairs.keys() - found.keys())
        ][:misses]
        answer["wrong"] = [found[p][0] for p in sorted(found.keys() - truth.pairs.keys())][:misses]
    return answer


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--size", choices=("S", "M"), default="M")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--misses", type=int, default=0, help="show so many that were missed")
    options = parser.parse_args()
    answer = measure(options.size, options.seed, options.misses)
    if options.json:
        print(json.dumps(answer, ensure_ascii=False, indent=1))
    else:
        show(answer)
    if min(answer["recall"], answer["precision"]) < NEEDED:
        raise SystemExit(f"recall or precision is below {NEEDED}")


def show(answer: dict[str, Any]) -> None:
    print(f"{answer['incidents']} incidents, seed {answer['seed']}: written and compared in "
          f"{answer['seconds']} s ({answer['incidents_per_second']}/s)")  # fmt: skip
    print(f"planted pairs {answer['planted_pairs']}, shown {answer['shown_pairs']}, "
          f"of these true {answer['true_pairs']}")  # fmt: skip
    print(f"recall {answer['recall']}   precision {answer['precision']}   "
          f"floor: recall by values as written {answer['recall_by_exact_values']}")  # fmt: skip
    for name in ("by_kind", "firms_by_script"):
        for kind, row in answer[name].items():
            wrongly = f", shown wrongly {row['shown_wrongly']}" if "shown_wrongly" in row else ""
            print(f"  {kind:<18} {row['found']} of {row['planted']}{wrongly}")
    for name in ("missed", "wrong"):
        for row in answer.get(name, ()):
            print(f"  {name}: {row}")


if __name__ == "__main__":
    main()
