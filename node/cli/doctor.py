"""``picket doctor``: each check is one line with its cause and fix."""

from __future__ import annotations

import shutil
import socket
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from node.cli.terminal import HOW_TO_START
from node.client import Client
from node.config import Config, load_config
from node.home import Home
from node.words import counted
from protocol.errors import PicketError

_LOW_DISK: Final = 500 * 1024 * 1024
_OLDEST: Final = 1_767_225_600_000  # 2026-01-01, before this software existed
_PROBLEM: Final = 400


@dataclass(frozen=True, slots=True)
class Check:
    """One finding."""

    name: str
    ok: bool
    detail: str


def run(path: Path) -> list[Check]:
    """Check the node in *path*; the first broken foundation ends the list."""
    home = Home(path)
    found = [_try("configuration", lambda: _config(home))]
    if not found[-1].ok:
        return found
    config = load_config(home)
    found += [
        _try("files", lambda: _files(home)),
        _clock(),
        _disk(path),
        _sheet(home),
    ]
    client = Client(path)
    if client.running():
        found.append(Check("node", ok=True, detail="running"))
    else:
        found.append(Check("node", ok=False, detail=f"not running. {HOW_TO_START}"))
        found += _ports(config)
    found += list(_asked(client))
    return found


def _try(name: str, check: Callable[[], str]) -> Check:
    try:
        return Check(name, ok=True, detail=check())
    except PicketError as error:
        return Check(name, ok=False, detail=error.diagnostics())


def _config(home: Home) -> str:
    load_config(home)
    return f"{home.config} is valid"


def _files(home: Home) -> str:
    # Heavy, and only here.
    from keys.keystore import MAX_FILE, read_private  # noqa: PLC0415

    home.check()
    read_private(home.keystore, what="the keystore", max_bytes=MAX_FILE)
    read_private(home.service_key, what="the service keys", max_bytes=MAX_FILE)
    read_private(home.tls_pem, what="the TLS key", max_bytes=MAX_FILE)
    return "present and readable by their owner only"


def _clock() -> Check:
    from node.clock import SystemClock, rfc3339  # noqa: PLC0415

    now = SystemClock().now()
    if now < _OLDEST:
        return Check("clock", ok=False, detail=f"it shows {rfc3339(now)}. Set it, or start NTP")
    return Check("clock", ok=True, detail=rfc3339(now))


def _disk(path: Path) -> Check:
    free = shutil.disk_usage(path).free
    detail = f"{free // (1024 * 1024)} MiB free"
    if free < _LOW_DISK:
        return Check("disk", ok=False, detail=f"{detail}. Free some: a full disk takes nothing in")
    return Check("disk", ok=True, detail=detail)


def _sheet(home: Home) -> Check:
    if home.recovery_sheet.exists():
        fix = "print it, lock the paper away, then delete the file"
        return Check(
            "recovery sheet", ok=False, detail=f"{home.recovery_sheet} is still here: {fix}"
        )
    return Check("recovery sheet", ok=True, detail="not on this machine")


def _ports(config: Config) -> Iterator[Check]:
    for name, address in (
        ("peer address", config.peer.listen_address),
        ("HTTP address", config.http.listen_address),
    ):
        if address is None:
            continue
        family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
        with socket.socket(family) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(address)
            except OSError as error:
                detail = f"{address[0]}:{address[1]} cannot be used: {error.strerror}. Change it"
                yield Check(name, ok=False, detail=detail)
                continue
        yield Check(name, ok=True, detail=f"{address[0]}:{address[1]} is free")


def _asked(client: Client) -> Iterator[Check]:
    log = _call(client, "log", "POST", "/api/v1/log/verify", {})
    if isinstance(log, Check):
        yield log
    else:
        entries = counted(log["size"], "entry")
        detail = f"all verifies: {entries}, {counted(log['envelopes_checked'], 'envelope')}"
        yield Check("log", ok=True, detail=detail)
    yield from _contradictions(_call(client, "logs", "GET", "/api/v1/log/witnesses", None))
    seen = _call(client, "status", "GET", "/api/v1/status", None)
    if isinstance(seen, Check):
        yield seen
        return
    for peer in seen["peers"] if seen["running"] else ():
        detail = "linked" if peer["linked"] else "not linked. See: picket status"
        yield Check(f"peer {peer['name']}", ok=peer["linked"], detail=detail)
    yield Check(
        "keystore",
        ok=not (seen["running"] and seen["locked"]),
        detail="locked. Run: picket unlock" if seen["locked"] and seen["running"] else "in order",
    )


def _contradictions(seen: Any) -> Iterator[Check]:  # noqa: ANN401  a Check or JSON
    """Yield a finding for each log that is proven to contradict itself; else that there is none."""
    if isinstance(seen, Check):
        yield seen
        return
    if seen["own_contradiction"]:
        detail = "it contradicts itself: peers hold the proof. Stop the node. See: picket status"
        yield Check("own log", ok=False, detail=detail)
    for name in seen["contradictions"]:
        detail = f'it contradicts itself. Believe no receipt of it. See: picket log fork "{name}"'
        yield Check(f"log of {name}", ok=False, detail=detail)
    if not seen["own_contradiction"] and not seen["contradictions"]:
        yield Check("logs", ok=True, detail="none is known to contradict itself")


def _call(client: Client, name: str, method: str, path: str, body: dict[str, Any] | None) -> Any:  # noqa: ANN401  a Check or JSON
    try:
        status, value = client.call(method, path, body)
    except PicketError as error:
        return Check(name, ok=False, detail=error.diagnostics())
    if status >= _PROBLEM:
        return Check(
            name, ok=False, detail=f"{value.get('detail')}. {value.get('fix', '')}".strip()
        )
    return value
