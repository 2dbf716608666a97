"""The command that makes a synthetic corpus; it touches no node."""

from __future__ import annotations

import json
import os
import sys
from collections import Counter
from contextlib import ExitStack
from pathlib import Path
from typing import IO, Annotated, Any

import typer

from node.cli.terminal import Exit, fail, say, show_json, usage

_SHARES = ("type", "language", "mode", "quantity")


def corpus(  # noqa: PLR0917  typer binds a command's parameters by name
    size: Annotated[str, typer.Option(help="S (1,000), M (25,000) or L (600,000).")] = "S",
    seed: Annotated[int, typer.Option(min=0, help="The same seed gives the same corpus.")] = 1,
    out: Annotated[
        Path | None, typer.Option(readable=False, help="A new file; without it, the output.")
    ] = None,
    truth: Annotated[
        Path | None,
        typer.Option(readable=False, help="A new file for the planted links and later acts."),
    ] = None,
    count: Annotated[int, typer.Option(min=0, help="So many instead of a size.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Report the mix as JSON.")] = False,
) -> None:
    """Make invented incidents for tests, one a line as an import takes them."""
    from node.corpus import Corpus, knobs  # noqa: PLC0415  only for this command

    if size not in knobs.SIZES:
        usage(f"--size {size!r} is none of: {', '.join(knobs.SIZES)}")
    made = Corpus(count=count or knobs.SIZES[size], seed=seed)
    with ExitStack() as files:
        lines = sys.stdout if out is None else files.enter_context(_new(out))
        told = None if truth is None else files.enter_context(_new(truth))
        for row in made.lines():
            target = told if "truth" in row else lines
            if target is not None:
                target.write(json.dumps(row, ensure_ascii=False, separators=(",", ":")) + "\n")
    if as_json and out is not None:
        show_json({"version": knobs.VERSION, "seed": seed, "mix": dict(sorted(made.mix.items()))})
    else:
        _report(made.mix, seed)


def _new(path: Path) -> IO[str]:
    try:
        # Readable by its owner alone, as everything this program writes.
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        fail(f"{path} exists. Give a new file", Exit.REFUSED)
    except OSError as error:
        fail(f"{path} cannot be written: {error.strerror}. Choose another place", Exit.FAILURE)
    return os.fdopen(handle, "w", encoding="utf-8", newline="\n")


def _report(mix: Counter[str], seed: int) -> None:
    total = mix["incidents"]
    say(f"{total} invented incidents, seed {seed}. The mix that came out, an assumption all of it:")
    for group in _SHARES:
        rows = {name.split(" ", 1)[1]: n for name, n in mix.items() if name.startswith(f"{group} ")}
        whole = max(1, sum(rows.values()))
        shares = sorted(rows.items(), key=lambda item: -item[1])
        say(f"  {group}: " + ", ".join(f"{name} {100 * n / whole:.0f} %" for name, n in shares))
    ranked: list[Any] = sorted((n for name, n in mix.items() if name.startswith("reporter ")),
                               reverse=True)  # fmt: skip
    say(f"  reporters: {len(ranked)}, the first ten {100 * sum(ranked[:10]) / max(1, total):.0f} %")
    rest = [name for name in sorted(mix)
            if name.split(" ")[0] not in {*_SHARES, "reporter", "incidents"}]  # fmt: skip
    for name in rest:
        say(f"  {name}: {mix[name]}")
