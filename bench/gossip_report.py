"""Prints what bench/gossip.py found: figures, ratios, and whether the targets are met."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping, Sequence
from typing import Any

Answer = dict[str, Any]


def _table(title: str, heads: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(heads, *rows, strict=True)]
    first, *rest = widths
    lines = [
        "  ".join(
            [row[0].ljust(first), *(c.rjust(w) for c, w in zip(row[1:], rest, strict=True))]
        ).rstrip()
        for row in (heads, *rows)
    ]
    return ["", title, *lines]


def _range(spread: Mapping[str, float], digits: int) -> str:
    middle, low, high = (f"{spread[key]:,.{digits}f}" for key in ("median", "min", "max"))
    return f"{middle} ({low}..{high})"


def _live_lines(found: Answer, *, nodes: int, size: int, window: int) -> list[str]:
    rows = [
        [
            name, _range(r["p50_ms"], 2), f"{r['p99_ms']:.2f}",
            _range(r["per_second_one_author"], 0), _range(r["per_second_all"], 0),
            _range(r["per_second_opened"], 0) if r["per_second_opened"] else "",
            f"{r['delivered']:.4f}",
        ]
        for name, r in found["systems"].items()
    ]  # fmt: skip
    heads = [
        "",
        "p50 ms",
        "p99 ms",
        "1 author /s",
        f"{nodes} authors /s",
        "and opened /s",
        "delivered",
    ]
    title = (
        f"LIVE: {nodes} nodes, bodies of {size:,} bytes; until all others have it\n"
        f"median (least..most) of {found['rounds']} rounds; {window} under way in the rates"
    )
    lines = _table(title, heads, rows)
    lines += ["", *(f"{n}: {r['about']}; {r['does']}" for n, r in found["systems"].items())]
    lines += [f"{name}: NOT INSTALLED: {how}" for name, how in found["missing"].items()]
    rows = [
        [
            name, _range(r["p50"], 3), _range(r["one_author"], 3), _range(r["all_authors"], 3)
        ]
        for name, r in found["ratios"].items()
    ]  # fmt: skip
    if rows:
        heads = ["", "p50", "rate, 1 author", f"rate, {nodes} authors"]
        lines += _table("RATIO by round; p50: lower is better, rates: higher", heads, rows)
    for name in "one process", "N processes":
        own = found["ratios"].get(f"Picket, {name} / js-libp2p gossipsub")
        if own is None:
            continue
        lines += [
            "",
            f"Picket, {name}:",
            _target("p50 at most 0.5 x js gossipsub", own["p50"]["median"], most=0.5),
            _target("rate, 1 author, at least 4 x", own["one_author"]["median"], least=4),
            _target("rate, all authors, at least 4 x", own["all_authors"]["median"], least=4),
        ]
    return lines


def _target(
    what: str, value: float, *, most: float = float("inf"), least: float = float("-inf")
) -> str:
    met = "met" if least <= value <= most else "NOT met"
    return f"  {met:8}{what}: {value:.3g}"


def _mib(size: float) -> str:
    return f"{size / 2**20:.1f} MiB"


def _catch_up_lines(found: Answer) -> list[str]:
    floors = found["floors"]
    author, reader = found["memory_growth"]
    return [
        "",
        f"CATCH-UP: {found['missing']:,} of {found['total']:,} envelopes missed",
        f"  logged {found['got']:,} in {found['seconds']:.2f} s from the link on; all "
        f"{found['receipts']:,} receipts at the author after {found['seconds_to_all_receipts']:.2f}"
        f" s, all opened after {found['seconds_to_all_opened']:.2f} s",
        f"  floors: verify {floors['verify']:.2f} s in one thread "
        f"({floors['verify_two_threads']:.2f} s in two), commit {floors['commit']:.2f} s in "
        f"{floors['frames']:.0f} transactions",
        f"  bytes: envelopes {found['envelope_bytes']:,}, down {found['bytes_down']:,} "
        f"({found['overhead_down']:+.1%}), up {found['bytes_up']:,} (receipts), both "
        f"{found['overhead']:+.1%}; TLS included, TCP/IP headers not",
        f"  CPU: author {found['cpu_seconds'][0]:.2f} s, reader {found['cpu_seconds'][1]:.2f} s",
        _target("all logged and receipted", min(found["got"], found["receipts"]) /
                found["missing"], least=1),
        _target("bytes down at most 5 % over the envelopes", found["overhead_down"], most=0.05),
        _target("seconds at most 1.5 x verify + commit", found["ratio"], most=1.5),
        _target("memory growth of the author at most 64 MiB", author / 2**20, most=64),
        _target("memory growth of the reader at most 64 MiB", reader / 2**20, most=64),
    ]  # fmt: skip


def _flood_lines(found: Answer) -> list[str]:
    *others, own = found["memory_growth"]
    return [
        "",
        f"FLOOD: one of the peers releases as fast as it can for {found['seconds']:.0f} s",
        f"  others: p50 {found['quiet_p50_ms']:.2f} -> {found['loud_p50_ms']:.2f} ms, p99 "
        f"{found['quiet_p99_ms']:.2f} -> {found['loud_p99_ms']:.2f} ms; delivered "
        f"{found['delivered'][0]:.4f} -> {found['delivered'][1]:.4f}",
        f"  flooder: released {found['released']:,}; kept by each of the others: "
        f"{', '.join(f'{n:,}' for n in found['kept'])}; receipts it holds: {found['receipts']:,}",
        f"  refused for its quota: {', '.join(f'{n:,}' for n in found['refused'])}",
        f"  memory growth: others {', '.join(map(_mib, others))}; flooder {_mib(own)}",
        *(f"  notice: {notice}" for notice in sorted(set().union(*found["notices"]))),
        _target("p99 of the others grows by less than 3 x", found["p99_ratio"], most=3),
        _target("share of the others that name the flooder",
                sum(found["named"]) / len(found["named"]), least=1),
        _target("receipts at the flooder for what was kept",
                found["receipts"] / max(1, sum(found["kept"])), least=1),
    ]  # fmt: skip


def report(found: Answer, *, nodes: int, size: int, window: int) -> str:
    """Return all figures that were *found*, as tables with the targets beneath."""
    lines = [
        f"Python {platform.python_version()}, {platform.system()} {platform.release()} "
        f"{platform.machine()}, {os.cpu_count()} CPUs, load {found['load']}"
    ]
    lines += [f"FAILED: {part}: {error}" for part, error in found["failed"].items()]
    for part, errors in found["journal"].items():
        lines += [f"JOURNAL: {part}: {count} x {error}" for error, count in errors.items()]
    if "live" in found:
        lines += _live_lines(found["live"], nodes=nodes, size=size, window=window)
    if "catchup" in found:
        lines += _catch_up_lines(found["catchup"])
    if "flood" in found:
        lines += _flood_lines(found["flood"])
    return "\n".join(lines) + "\n"
