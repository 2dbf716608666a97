"""``picket demo``: three fictional authorities as three real nodes on this machine.

Each is a process of its own with fresh keys, talking to the others over mutual TLS on loopback, as
in earnest. All of it lives in one temporary folder and leaves nothing behind.
"""

from __future__ import annotations

import base64
import contextlib
import os
import secrets
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any, Final

from node.app import initialise
from node.cli.terminal import table
from node.client import Client
from node.demo_incidents import DemoIncident, load
from node.home import Home
from node.words import counted
from protocol import envelope
from protocol.armor import dearmor
from protocol.errors import PeerError, PicketError
from protocol.frames import ReceiptItem, Receipts
from protocol.receipt import verify_receipts
from protocol.statement import Card, verify_bundle
from protocol.suite import network_id

NETWORK: Final = "demo.picket.invalid"
AUTHORITIES: Final = (("alder", "Alder", "XA"), ("birch", "Birch", "XB"), ("cedar", "Cedar", "XC"))
_START_S: Final = 20.0
_DELIVER_S: Final = 30.0
_STOP_S: Final = 10.0
_POLL_S: Final = 0.05
_OK: Final = 200
_NOT_FOUND: Final = 404
_PROBLEM: Final = 400


class DemoError(Exception):
    """A step of the demo that did not go as it must."""


@dataclass
class Authority:
    """One demo node: its folder and, while it runs, its process."""

    key: str
    name: str
    country: str
    home: Home
    port: int
    http_port: int
    process: subprocess.Popen[bytes] | None = None
    client: Client = field(init=False)

    def __post_init__(self) -> None:
        self.client = Client(self.home.path)

    def call(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> Any:  # noqa: ANN401
        """Call this node's local endpoint and return its JSON.

        Raises:
            DemoError: it answered with a problem.
        """
        status, value = self.client.call(method, path, dict(body) if body is not None else None)
        if status >= _PROBLEM:
            raise DemoError(f"{self.name} answered {method} {path} with {status}: {value}")
        return value


class Demo:
    """The steps, in order; ``checks`` collects what was seen to hold."""

    def __init__(
        self, folder: Path, say: Callable[[str], None], interruptions: _Interruptions
    ) -> None:
        """Prepare three authorities in *folder*; *say* prints one line."""
        self._say = say
        self._interruptions = interruptions
        self._folder = folder
        ports = _free_ports(2 * len(AUTHORITIES))
        self.nodes = {
            key: Authority(key, name, country, Home(folder / key), ports.pop(), ports.pop())
            for key, name, country in AUTHORITIES
        }
        self.checks: list[tuple[str, bool]] = []

    # --- processes ---------------------------------------------------------------------------
    def make(self) -> None:
        """Make keys, databases and configuration of each node."""
        for node in self.nodes.values():
            secret = self._folder / f"{node.key}.passphrase"
            secret.touch(mode=0o600)
            secret.write_text(secrets.token_urlsafe(24))
            initialise(
                node.home.path,
                {
                    "node.authority": node.name,
                    "node.country": node.country,
                    "node.network": NETWORK,
                    "node.contact": f"duty@{node.key}.example",
                    "peer.listen": f"127.0.0.1:{node.port}",
                    "peer.endpoints": [f"wss://127.0.0.1:{node.port}"],
                    "http.listen": f"127.0.0.1:{node.http_port}",
                    "keystore.passphrase_file": str(secret),
                },
                secret.read_bytes(),
            )

    def start(self, *keys: str) -> None:
        """Start the named nodes and wait until they are ready."""
        for key in keys:
            node = self.nodes[key]
            journal = (self._folder / f"{key}.log").open("ab")
            environment = {k: v for k, v in os.environ.items() if not k.startswith("PICKET_")}
            with journal, self._interruptions.held():
                node.process = subprocess.Popen(  # noqa: S603  our own interpreter and module
                    [sys.executable, "-m", "node", "--home", str(node.home.path), "run"],
                    stdin=subprocess.DEVNULL,
                    stdout=journal,
                    stderr=journal,
                    env=environment,
                )
        for key in keys:
            self._wait(partial(self._is_ready, self.nodes[key]), f"{key} to start", _START_S)

    def _is_ready(self, node: Authority) -> bool:
        if node.process is not None and node.process.poll() is not None:
            tail = (self._folder / f"{node.key}.log").read_text(errors="replace")[-500:]
            raise DemoError(f"{node.name} ended with code {node.process.returncode}: {tail}")
        if not _answers(node.home.control_sock):
            return False
        status, _ = node.client.call("GET", "/readyz", None)
        return bool(status == _OK)

    def stop(self, *keys: str) -> None:
        """Stop the named nodes in order."""
        for key in keys:
            process = self.nodes[key].process
            if process is None:
                continue
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
                try:
                    process.wait(_STOP_S)
                except subprocess.TimeoutExpired:
                    process.kill()
                    process.wait()
                    self.checks.append((f"{key} stopped when asked", False))
            self.nodes[key].process = None

    def _wait(self, done: Callable[[], bool], what: str, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while not done():
            if time.monotonic() > deadline:
                raise DemoError(f"waited {seconds:.0f} s in vain for {what}")
            time.sleep(_POLL_S)

    # --- the story ---------------------------------------------------------------------------
    def pair(self) -> None:
        """Let each operator add and approve both others, comparing safety numbers."""
        cards = {key: node.call("GET", "/api/v1/card")["card"] for key, node in self.nodes.items()}
        numbers: dict[frozenset[str], str] = {}
        for key, node in self.nodes.items():
            for other, card in cards.items():
                if other == key:
                    continue
                peer = node.call("POST", "/api/v1/peers", {"card": card, "name": other})
                number = numbers.setdefault(frozenset((key, other)), peer["safety_number"])
                node.call(
                    "POST",
                    f"/api/v1/peers/{other}/approve",
                    {"level": "share", "safety_number": number, "method": "voice", "by": "demo"},
                )
        self._wait(self._all_linked, "the nodes to link", _DELIVER_S)
        self._check("each pair of nodes shows one safety number and holds one link", True)

    def _all_linked(self) -> bool:
        return all(
            peer["linked"]
            for node in self.nodes.values()
            if node.process is not None
            for peer in node.call("GET", "/api/v1/peers")["items"]
            if self.nodes[peer["name"]].process is not None
        )

    def draft(self, item: DemoIncident) -> str:
        """Create the draft of one incident at its author; return its id."""
        row = self.nodes[item.author].call("POST", "/api/v1/incidents", item.incident)
        return str(row["id"])

    def release(self, item: DemoIncident, incident_id: str) -> None:
        """Release one incident to exactly its audience."""
        body: dict[str, Any] = {"to": list(item.audience)}
        if item.carrier:
            body["carriers"] = [item.carrier]
        self.nodes[item.author].call("POST", f"/api/v1/incidents/{incident_id}/release", body)

    def delivered(self, item: DemoIncident, incident_id: str) -> bool:
        """Tell whether the author holds a verified receipt of every recipient."""
        rows = self.nodes[item.author].call("GET", f"/api/v1/incidents/{incident_id}/deliveries")
        states = {r["peer"]: r["state"] for r in rows["items"] if r["part"] == "recipient"}
        return set(states) == set(item.audience) and set(states.values()) == {"received"}

    def exchange(
        self, items: Sequence[DemoIncident], progress: Callable[[int, int], None]
    ) -> list[dict[str, float]]:
        """Release *items*, wait for every receipt; return each one's latencies in ms by peer."""
        ids = [self.draft(item) for item in items]
        for item, incident_id in zip(items, ids, strict=True):
            self.release(item, incident_id)
        waiting = dict(zip(ids, items, strict=True))

        def settle() -> bool:
            for incident_id in [i for i, item in waiting.items() if self.delivered(item, i)]:
                del waiting[incident_id]
            progress(len(ids) - len(waiting), len(ids))
            return not waiting

        self._wait(settle, "every receipt", _DELIVER_S)
        return [self._seen_by(item, i) for item, i in zip(items, ids, strict=True)]

    def _seen_by(self, item: DemoIncident, incident_id: str) -> dict[str, float]:
        """Check who can read an incident and who holds nothing of it; return latencies in ms."""
        author = self.nodes[item.author].call("GET", f"/api/v1/incidents/{incident_id}")
        released = _ms(author["recorded_at"])
        latencies = {}
        for key, node in self.nodes.items():
            if key == item.author or node.process is None:
                continue
            status, row = node.client.call("GET", f"/api/v1/incidents/{incident_id}", None)
            named = key in item.audience
            if named != (status == _OK):
                raise DemoError(f"{node.name} {'cannot' if named else 'can'} read {author['ref']}")
            if named:
                same = row["face"] == author["face"] and row["annex"] == author["annex"]
                if not same:
                    raise DemoError(f"{node.name} reads something else in {author['ref']}")
                latencies[key] = _ms(row["recorded_at"]) - released
        return latencies

    def carry(self, item: DemoIncident) -> None:
        """Deliver through a carrier: author and recipient are never up at the same time."""
        author, carrier, (target,) = item.author, str(item.carrier), item.audience
        self.stop(target)
        incident_id = self.draft(item)
        self.release(item, incident_id)
        self._wait(lambda: self._carried(author, incident_id), "the carrier's receipt", _DELIVER_S)
        status, _ = self.nodes[carrier].client.call("GET", f"/api/v1/incidents/{incident_id}", None)
        self._check(f"{carrier.title()} carries it and cannot open it", status == _NOT_FOUND)
        self.stop(author)
        self.start(target)
        self._wait(
            lambda: self._reads(target, incident_id),
            f"{target} to receive it from {carrier}",
            _DELIVER_S,
        )
        self._check(
            f"{target.title()} received it from {carrier.title()} while {author.title()} was down",
            True,
        )
        self.start(author)
        self._wait(lambda: self.delivered(item, incident_id), "the receipt's way back", _DELIVER_S)
        self._check(f"{author.title()} holds {target.title()}'s receipt", True)

    def _reads(self, key: str, incident_id: str) -> bool:
        status, _ = self.nodes[key].client.call("GET", f"/api/v1/incidents/{incident_id}", None)
        return bool(status == _OK)

    def _carried(self, author: str, incident_id: str) -> bool:
        rows = self.nodes[author].call("GET", f"/api/v1/incidents/{incident_id}/deliveries")
        return any(r["part"] == "carrier" and r["state"] == "carried" for r in rows["items"])

    def prove(self) -> None:
        """Check one delivery as an outsider would: with the receiver's card and proof alone."""
        seen = self.nodes["alder"].call("GET", "/api/v1/incidents?state=released&limit=1")
        first = seen["items"][0]
        found = self.nodes["birch"].call("GET", f"/api/v1/incidents/{first['id']}/proof")
        log = self._card("birch").log
        item = ReceiptItem(
            bytes.fromhex(found["envelope_id"]),
            found["index"],
            bytes.fromhex(found["entry"]),
            tuple(base64.b64decode(node, validate=True) for node in found["proof"]),
        )
        receipts = Receipts(b"", found["checkpoint"].encode(), (item,))
        try:
            size = verify_receipts(receipts, log=log)[0].checkpoint.size
        except PeerError as error:
            self._check(f"{first['ref']}: {error.message}", False)
            return
        self._check(
            f"{first['ref']} is entry {item.index} of {size} in Birch's log, by Birch's card alone",
            True,
        )

    def _card(self, key: str) -> Card:
        bundle = dearmor(self.nodes[key].call("GET", "/api/v1/card")["card"])
        card = verify_bundle(bundle, network=network_id(NETWORK)).card
        if card is None:
            raise DemoError("the card is empty")
        return card

    def flip(self) -> None:
        """Change every byte of a released envelope in turn; each change must be refused."""
        node = self.nodes["alder"]
        first = node.call("GET", "/api/v1/incidents?state=released&limit=1")["items"][0]
        wire = node.client.call_bytes("GET", f"/api/v1/incidents/{first['id']}/raw")
        card = self._card("alder")
        taken = [at for at in range(len(wire)) if _accepts(_flipped(wire, at), card.message)]
        whole = _accepts(wire, card.message)
        self._check(
            f"an envelope of {len(wire)} bytes verifies; with any one byte changed it is refused",
            whole and not taken,
        )

    def verify(self) -> None:
        """Verify each node's log, envelopes and receipts."""
        for node in self.nodes.values():
            seen = node.call("POST", "/api/v1/log/verify", {})
            self._check(
                f"{node.name}'s log verifies: {counted(seen['size'], 'entry')}, "
                f"{counted(seen['envelopes_checked'], 'envelope')}, "
                f"{counted(seen['receipts_checked'], 'receipt')}",
                bool(seen["ok"]),
            )

    def _check(self, what: str, holds: bool) -> None:
        self.checks.append((what, holds))
        self._say(f"  {'ok  ' if holds else 'FAIL'} {what}")


def run(*, check: bool, keep: bool) -> int:
    """Run the demo; return 0 if everything held.

    Args:
        check: no progress display, for scripts.
        keep: stay up afterwards until interrupted, and say where the nodes are.
    """
    from rich.console import Console  # noqa: PLC0415

    console = Console(highlight=False)
    with _Interruptions() as interruptions:
        folder: Path | None = None
        demo: Demo | None = None
        try:
            with interruptions.held():
                folder = Path(tempfile.mkdtemp(prefix="picket-demo-"))
            say = partial(console.print, soft_wrap=True, markup=False)
            demo = Demo(folder, say, interruptions)
            failed = _shown(demo, console, check=check, keep=keep)
            interruptions.stop()
        except (DemoError, PicketError) as error:
            interruptions.stop()
            console.print(f"FAIL {error}", style="bold", markup=False)
            return 1
        else:
            return 1 if failed else 0
        finally:
            if demo is not None:
                demo.stop(*demo.nodes)
            if folder is not None:
                shutil.rmtree(folder, ignore_errors=True)


def _shown(demo: Demo, console: Any, *, check: bool, keep: bool) -> list[str]:  # noqa: ANN401
    """Tell the whole story; return what failed."""
    started = time.monotonic()
    _story(demo, console, check=check)
    failed = [what for what, holds in demo.checks if not holds]
    if not failed:
        console.print(f"Everything held. It took {time.monotonic() - started:.1f} s.")
    if keep and not failed:
        _stay(demo, console)
    return failed


def _story(demo: Demo, console: Any, *, check: bool) -> None:  # noqa: ANN401  rich stays lazy
    items = load()
    direct = [item for item in items if not item.carrier]
    carried = [item for item in items if item.carrier]

    def say(text: str) -> None:
        console.print(text, soft_wrap=True, markup=False)

    say("Three authorities, Alder, Birch and Cedar, each with a node and keys of its own.")
    demo.make()
    demo.start(*demo.nodes)
    demo.pair()
    say(
        f"{len(items)} incidents (exercise): {len(direct)} are released at once, each to its own "
        f"audience, and {len(carried)} later through a carrier."
    )
    with _progress(console, quiet=check) as progress:
        latencies = demo.exchange(direct, progress)
    _table(direct, latencies)
    every = [ms for each in latencies for ms in each.values()]
    demo._check(
        f"{counted(len(every), 'delivery')}, each with a verified receipt; nobody who is not named "
        "can read",
        len(every) == sum(len(item.audience) for item in direct),
    )
    say(
        f"       release to the receiver's durable log: median {statistics.median(every):.0f} ms, "
        f"slowest {max(every):.0f} ms, all released at once"
    )
    demo.prove()
    for item in carried:
        target, author, carrier = (
            name.title() for name in (item.audience[0], item.author, str(item.carrier))
        )
        say(
            f"{target} goes down. {author} releases to it through {carrier}, and goes down as well."
        )
        demo.carry(item)
    demo.flip()
    demo.verify()


def _table(items: Sequence[DemoIncident], latencies: Sequence[Mapping[str, float]]) -> None:
    # Here and not above: pydantic comes with it.
    from protocol.incident import summary_line  # noqa: PLC0415

    rows = []
    for item, each in zip(items, latencies, strict=True):
        face = item.incident["face"]
        reached = ", ".join(f"{name.title()} {ms:.0f} ms" for name, ms in each.items())
        kind = face["incident_type"].replace("_", " ")
        rows.append((item.author.title(), reached, kind, summary_line(face) or face["summary"]))
    table(("FROM", "RECEIVED BY, AFTER", "TYPE", "WHAT"), rows)


@contextlib.contextmanager
def _progress(console: Any, *, quiet: bool) -> Iterator[Callable[[int, int], None]]:  # noqa: ANN401
    if quiet or not console.is_terminal:
        yield lambda done, total: None
        return
    from rich.progress import Progress  # noqa: PLC0415

    with Progress(console=console, transient=True) as bar:
        task = bar.add_task("receipts", total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


class _Interruptions:
    """Turns the first signal to end into KeyboardInterrupt, but never while something is held.

    A process that was started but not noted yet, or a folder half removed, would be left behind.
    """

    def __init__(self) -> None:
        self._held = False
        self._waiting = False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> _Interruptions:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            self._before[number] = signal.signal(number, self._arrived)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _arrived(self, *_: object) -> None:
        if self._held:
            self._waiting = True
            return
        self._held = True  # whoever is impatient does not stop the clearing up
        raise KeyboardInterrupt

    def stop(self) -> None:
        """Raise nothing any more."""
        self._held = True

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Raise only after the block."""
        self._held = True
        yield
        if self._waiting:
            raise KeyboardInterrupt
        self._held = False


def _stay(demo: Demo, console: Any) -> None:  # noqa: ANN401
    console.print("The nodes stay up. In another terminal, for example:")
    for node in demo.nodes.values():
        console.print(f"  picket --home {node.home.path} incidents list", soft_wrap=True)
        console.print(
            f"    HTTP endpoint http://127.0.0.1:{node.http_port}/healthz", soft_wrap=True
        )
    console.print("Ctrl-C ends them and removes everything.")
    with contextlib.suppress(KeyboardInterrupt):
        signal.pause()


def _accepts(wire: bytes, message_key: bytes) -> bool:
    try:
        envelope.verify(envelope.parse(wire), network=network_id(NETWORK), message_key=message_key)
    except PeerError:
        return False
    return True


def _flipped(wire: bytes, at: int) -> bytes:
    return wire[:at] + bytes([wire[at] ^ 0x01]) + wire[at + 1 :]


def _ms(text: str) -> float:
    return datetime.fromisoformat(text).timestamp() * 1000


def _answers(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(str(path))
        except OSError:
            return False
    return True


def _free_ports(count: int) -> list[int]:
    """Return *count* loopback ports that were free a moment ago."""
    with contextlib.ExitStack() as stack:
        probes = [stack.enter_context(socket.socket()) for _ in range(count)]
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [probe.getsockname()[1] for probe in probes]
