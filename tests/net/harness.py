"""Real node processes on loopback for tests: made, paired, stopped, killed and started again."""

from __future__ import annotations

import contextlib
import http.client
import itertools
import json
import os
import random
import secrets
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Final

from keys.fingerprint import parse_node_id
from node.app import initialise
from node.client import ControlConnection
from node.demo import NETWORK, Authority, _answers
from node.home import Home
from protocol.armor import dearmor
from protocol.entry import EntryKind, parse_entry
from protocol.statement import Chain, verify_bundle
from protocol.suite import network_id

ROOT: Final = Path(__file__).parents[2]
PATIENCE_S: Final = 60.0
_POLL_S: Final = 0.02
_OK: Final = 200
_PORTS: Final = range(12_000, 32_000)
_SLICE: Final = 1_024
"""Bytes that a slow line takes at once."""
Row = dict[str, Any]


class NodeDownError(Exception):
    """The node did not answer: it is not running, or died over the call."""


class AnswerError(Exception):
    """The node answered with a problem."""

    def __init__(self, status: int, problem: Row) -> None:
        super().__init__(f"{status}: {problem}")
        self.status = status
        self.code = str(problem.get("code"))


def wait(done: Callable[[], bool], what: str, seconds: float = PATIENCE_S) -> None:
    """Poll *done* until it holds.

    Raises:
        AssertionError: it did not in time; says what was waited for.
    """
    deadline = time.monotonic() + seconds
    while not done():
        if time.monotonic() > deadline:
            raise AssertionError(f"waited {seconds:.0f} s in vain for {what}")
        time.sleep(_POLL_S)


def free_ports(count: int) -> list[int]:
    """Return *count* free loopback ports.

    They lie below the ports that the kernel gives to outgoing connections, so that no connection of
    a busy machine takes one before the node does.
    """
    with contextlib.ExitStack() as stack:
        found: list[int] = []
        while len(found) < count:
            probe = stack.enter_context(socket.socket())
            try:
                probe.bind(("127.0.0.1", random.choice(_PORTS)))
            except OSError:
                continue
            found.append(probe.getsockname()[1])
        return found


@dataclass
class Node(Authority):
    """A node of a test: its home, journal, passphrase and, while it runs, its process."""

    folder: Path = field(kw_only=True)
    passphrase: str = field(kw_only=True)

    @property
    def journal(self) -> Path:
        """What the process wrote to stdout and stderr, over all its lives."""
        return self.folder / f"{self.key}.log"

    @property
    def alive(self) -> bool:
        """Whether the process runs."""
        return self.process is not None and self.process.poll() is None

    # --- life --------------------------------------------------------------------------------
    def launch(self, *arguments: str) -> None:
        """Start the process; by default an ordinary node. Does not wait."""
        assert not self.alive, f"{self.key} runs already"
        command = arguments or ("-m", "node", "--home", str(self.home.path), "run")
        environment = {k: v for k, v in os.environ.items() if not k.startswith("PICKET_")}
        environment["TMPDIR"] = str(self.folder / "tmp")
        with self.journal.open("ab") as journal:
            self.process = subprocess.Popen(
                [sys.executable, *command],
                stdin=subprocess.DEVNULL,
                stdout=journal,
                stderr=journal,
                env=environment,
                cwd=ROOT,
            )

    def wait_ready(self) -> None:
        """Wait until the node answers that it is ready."""
        wait(self._ready, f"{self.key} to be ready")

    def _ready(self) -> bool:
        assert self.process is not None
        code = self.process.poll()
        assert code is None, f"{self.key} ended with {code}: {self.tail()}"
        if not _answers(self.home.control_sock):
            return False
        try:
            return self.exchange("GET", "/readyz")[0] == _OK
        except NodeDownError:
            return False

    def start(self, *arguments: str) -> None:
        """Start the process and wait until it is ready."""
        self.launch(*arguments)
        self.wait_ready()

    def stop(self) -> None:
        """Ask the process to end, as an operator does, and check that it ends well."""
        if self.process is None:
            return
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            code = self.process.wait(PATIENCE_S)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"{self.key} did not end when told: {self.tail()}") from None
        self.process = None
        assert code == 0, f"{self.key} ended with {code}: {self.tail()}"

    def kill(self) -> None:
        """End the process with SIGKILL."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None

    def wait_killed(self, what: str) -> None:
        """Wait until the process has died of SIGKILL."""
        process = self.process
        assert process is not None
        try:
            code = process.wait(PATIENCE_S)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"{self.key} lived on: {what}") from None
        self.process = None
        assert code == -signal.SIGKILL, f"{self.key} ended with {code}: {self.tail()}"

    def tail(self) -> str:
        """Return the end of the journal."""
        return self.journal.read_text(errors="replace")[-1500:]

    def reset_peak(self) -> int:
        """Begin to measure the peak of resident memory anew; return the bytes it is at.

        A node keeps others out of its process: only root can begin anew, else the peak of its start
        stays the mark.
        """
        assert self.process is not None
        with contextlib.suppress(PermissionError):
            Path(f"/proc/{self.process.pid}/clear_refs").write_text("5")
        return self.peak()

    def visible(self) -> bytes:
        """Return what the process table shows of the process: to root all of it, else less."""
        assert self.process is not None
        process = Path(f"/proc/{self.process.pid}")
        shown = process.joinpath("cmdline").read_bytes()
        with contextlib.suppress(PermissionError):
            shown += process.joinpath("environ").read_bytes()
        return shown

    def nameless(self) -> dict[str, bytes]:
        """Return the files without a name that the process has open, as far as root can see."""
        assert self.process is not None
        found = {}
        with contextlib.suppress(PermissionError):
            for handle in Path(f"/proc/{self.process.pid}/fd").iterdir():
                with contextlib.suppress(FileNotFoundError):  # closed since
                    target = str(handle.readlink())
                    if target.endswith(" (deleted)") and not target.startswith("/dev/"):
                        found[target] = handle.read_bytes()
        return found

    def peak(self) -> int:
        """Return the most bytes that the process had resident since ``reset_peak``."""
        assert self.process is not None
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        line = next(line for line in status.splitlines() if line.startswith("VmHWM:"))
        return int(line.split()[1]) * 1024

    # --- calls -------------------------------------------------------------------------------
    def exchange(
        self, method: str, path: str, body: Mapping[str, Any] | None = None
    ) -> tuple[int, bytes]:
        """Return status and body of one call over the control socket of the running node.

        Raises:
            NodeDownError: nobody answers.
        """
        data = b"" if body is None else json.dumps(body).encode()
        connection = ControlConnection(self.home.control_sock)
        try:
            connection.request(method, path, data, {"Content-Type": "application/json"})
            response = connection.getresponse()
            return response.status, response.read()
        except (OSError, http.client.HTTPException) as error:
            raise NodeDownError(f"{self.key}: {error!r}") from error
        finally:
            connection.close()

    def ask(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> Any:  # noqa: ANN401  JSON
        """Return the JSON of one call.

        Raises:
            AnswerError: the node answered with a problem.
            NodeDownError: nobody answers.
        """
        status, data = self.exchange(method, path, body)
        value: Any = json.loads(data) if data else None
        if status >= http.client.BAD_REQUEST:
            raise AnswerError(status, value)
        return value

    def status_of(self, path: str) -> int:
        """Return the HTTP status of a GET."""
        return self.exchange("GET", path)[0]

    # --- identity ----------------------------------------------------------------------------
    def card(self) -> str:
        """Return the armoured card."""
        return str(self.ask("GET", "/api/v1/card")["card"])

    def chain(self) -> Chain:
        """Return the verified chain on the card."""
        return verify_bundle(dearmor(self.card()), network=network_id(NETWORK))

    @property
    def id(self) -> bytes:
        """The node id."""
        return parse_node_id(self.ask("GET", "/api/v1/node")["node_id"])

    # --- incidents ---------------------------------------------------------------------------
    def draft(self, incident: Mapping[str, Any]) -> str:
        """Create a draft and return its id."""
        return str(self.ask("POST", "/api/v1/incidents", incident)["id"])

    def release(self, incident_id: str, *to: str, **options: object) -> Row:
        """Release a draft to the peers *to*; return what the node answered."""
        path = f"/api/v1/incidents/{incident_id}/release"
        row: Row = self.ask("POST", path, {"to": list(to), **options})
        return row

    def incident(self, incident_id: str) -> Row:
        """Return one incident with all that is known of it."""
        row: Row = self.ask("GET", f"/api/v1/incidents/{incident_id}")
        return row

    def reads(self, incident_id: str) -> bool:
        """Whether this node can show the incident."""
        return self.status_of(f"/api/v1/incidents/{incident_id}") == _OK

    def received(self) -> list[Row]:
        """Return every incident received from others."""
        page = self.ask("GET", "/api/v1/incidents?state=received&limit=500")
        assert not page["more"]
        rows: list[Row] = page["items"]
        return rows

    def deliveries(self, incident_id: str, part: str = "recipient") -> dict[str, str]:
        """Return the state of delivery by peer."""
        items = self.ask("GET", f"/api/v1/incidents/{incident_id}/deliveries")["items"]
        return {row["peer"]: row["state"] for row in items if row["part"] == part}

    def delivered(self, incident_id: str, *to: str) -> bool:
        """Whether this author holds a verified receipt of each of *to*."""
        states = self.deliveries(incident_id)
        return set(states) == set(to) and set(states.values()) == {"received"}

    def raw(self, incident_id: str, number: int = 0) -> bytes:
        """Return the signed bytes of envelope *number* of an incident."""
        path = f"/api/v1/incidents/{incident_id}/raw?envelope={number}"
        status, data = self.exchange("GET", path)
        assert status == _OK, data
        return data

    def linked(self, *peers: str) -> bool:
        """Whether links with exactly *peers* are open."""
        rows = self.ask("GET", "/api/v1/peers")["items"]
        return {row["name"] for row in rows if row["linked"]} == set(peers)

    def verify_log(self) -> Row:
        """Let the node verify its log, envelopes and receipts."""
        row: Row = self.ask("POST", "/api/v1/log/verify", {})
        assert row["ok"] is True
        return row

    def verified_acts(self) -> int:
        """Let the node verify its log; return how many entries are no heartbeat and no access."""
        self.verify_log()
        with self.database() as connection:
            count: int = connection.execute(
                "SELECT count(*) FROM entries WHERE kind NOT IN (?, ?)",
                (int(EntryKind.HEARTBEAT), int(EntryKind.ACCESS)),
            ).fetchone()[0]
        return count

    # --- on disk -----------------------------------------------------------------------------
    @contextlib.contextmanager
    def database(self) -> Iterator[sqlite3.Connection]:
        """Read node.db beside the node."""
        with contextlib.closing(
            sqlite3.connect(f"file:{self.home.node_db}?mode=ro", uri=True)
        ) as connection:
            connection.row_factory = sqlite3.Row
            yield connection

    def places(self) -> dict[tuple[bytes, int, bytes, int], bytes]:
        """Return envelope id by place in a stream, checking that nothing is there twice."""
        with self.database() as connection:
            rows = connection.execute("SELECT * FROM envelopes").fetchall()
            entries = connection.execute("SELECT entry FROM entries ORDER BY idx").fetchall()
            forked = connection.execute("SELECT count(*) FROM streams WHERE forked").fetchone()[0]
        parsed = [parse_entry(row["entry"]) for row in entries]
        kinds = {EntryKind.RECEIVED, EntryKind.CARRIED, EntryKind.RELEASED}
        logged = Counter(entry.subject for entry in parsed if entry.kind in kinds)
        assert set(logged.values()) <= {1}, f"{self.key} logged an envelope twice"
        assert set(logged) == {row["id"] for row in rows}, f"{self.key}: log and envelopes differ"
        assert not [e for e in parsed if e.kind is EntryKind.EQUIVOCATION], self.key
        assert not forked, f"{self.key} notes a fork"
        found = {(r["author"], r["incarnation"], r["stream"], r["seq"]): r["id"] for r in rows}
        assert len(found) == len(rows), f"{self.key} holds two envelopes in one place"
        return found

    def files(self) -> list[Path]:
        """Return every file of the home and the journal."""
        return [p for p in (*self.home.path.rglob("*"), self.journal) if p.is_file()]


class Net:
    """Some nodes in one folder, by name; leaving the block ends their processes."""

    def __init__(self, folder: Path) -> None:
        """Use *folder*, which is empty."""
        self.folder = folder
        (folder / "tmp").mkdir()
        self.nodes: dict[str, Node] = {}

    def __enter__(self) -> Net:
        return self

    def __exit__(self, *_: object) -> None:
        for node in self.nodes.values():
            node.kill()

    def __getitem__(self, key: str) -> Node:
        return self.nodes[key]

    def make(
        self,
        key: str,
        *,
        endpoint: bool | int = True,
        http_port: int | None = None,
        opens_itself: bool = True,
        **values: object,
    ) -> Node:
        """Make one node, not yet running.

        Args:
            key: its name, here and at its peers.
            endpoint: whether its card tells where it listens; a port to name that one instead.
            http_port: where programs may call it; nowhere by default.
            opens_itself: whether it finds its passphrase at start, or starts locked.
            values: further settings, ``section__key``.
        """
        (port,) = free_ports(1)
        passphrase = secrets.token_urlsafe(24)
        settings: dict[str, Any] = {
            "node.authority": key.title(),
            "node.country": f"X{'ABCDEFGHIJKLMN'[len(self.nodes)]}",
            "node.network": NETWORK,
            "node.contact": f"duty@{key}.example",
            "peer.listen": f"127.0.0.1:{port}",
            "http.listen": f"127.0.0.1:{http_port}" if http_port else "",
            **{name.replace("__", "."): value for name, value in values.items()},
        }
        if endpoint:
            shown = port if endpoint is True else endpoint
            settings["peer.endpoints"] = [f"wss://127.0.0.1:{shown}"]
        if opens_itself:
            path = self.folder / f"{key}.passphrase"
            path.touch(mode=0o600)
            path.write_text(passphrase)
            settings["keystore.passphrase_file"] = str(path)
        initialise(self.folder / key, settings, passphrase.encode())
        node = Node(
            key, key.title(), str(settings["node.country"]), Home(self.folder / key), port,
            http_port or 0, folder=self.folder, passphrase=passphrase,
        )  # fmt: skip
        self.nodes[key] = node
        return node

    def start(self, *keys: str) -> None:
        """Start nodes side by side."""
        for key in keys:
            self[key].launch()
        for key in keys:
            self[key].wait_ready()

    def stop(self, *keys: str) -> None:
        """Stop nodes in order."""
        for key in keys:
            self[key].stop()

    def pair(self, *pairs: tuple[str, str]) -> None:
        """Let the operators of each pair of running nodes approve each other at level share."""
        for one, other in pairs:
            for here, there in ((one, other), (other, one)):
                introduce(self[here], there, self[there].card())

    def mesh(self, *keys: str) -> None:
        """Make and start nodes, pair each with each, and wait until all are linked."""
        for key in keys:
            self.make(key)
        self.start(*keys)
        self.pair(*((a, b) for i, a in enumerate(keys) for b in keys[i + 1 :]))
        self.wait_linked(*keys)

    def wait_linked(self, *keys: str) -> None:
        """Wait until each of *keys* is linked with each other of them."""
        for key in keys:
            others = [other for other in keys if other != key]
            wait(partial(self._holds_links, key, others), f"the links of {key}")

    def _holds_links(self, key: str, others: Sequence[str]) -> bool:
        rows = self[key].ask("GET", "/api/v1/peers")["items"]
        return {row["name"] for row in rows if row["linked"]} >= set(others)

    def check_journals(self) -> None:
        """Check that no node met an error that nobody expected."""
        for node in self.nodes.values():
            if node.journal.exists():
                text = node.journal.read_text(errors="replace")
                assert "Traceback" not in text, f"{node.key}: {text[-3000:]}"
                assert '"event": "bug"' not in text, f"{node.key}: {text[-3000:]}"


def introduce(node: Node, name: str, card: str, *, level: str | None = "share") -> None:
    """Add the peer of *card* at *node*, and approve it unless *level* is None."""
    peer = node.ask("POST", "/api/v1/peers", {"card": card, "name": name})
    if level is not None:
        node.ask(
            "POST",
            f"/api/v1/peers/{name}/approve",
            {
                "level": level,
                "safety_number": peer["safety_number"],
                "method": "voice",
                "by": "duty officer",
            },
        )


def incident(summary: str, *, annex: Mapping[str, Any] | None = None) -> Row:
    """Return an incident with this *summary*."""
    value: Row = {
        "face": {
            "incident_type": "seizure",
            "origin_country": "XA",
            "detected_at": "2026-03-04T08:20:00Z",
            "exercise": True,
            "summary": summary,
            "handling": {"tlp": "AMBER"},
            "location": {"country": "XA"},
            "substances": [
                {
                    "substance_id": "acetic-anhydride",
                    "form": "liquid",
                    "qty": {"value": "20160", "unit": "LTR"},
                }
            ],
        }
    }
    if annex is not None:
        value["annex"] = dict(annex)
    return value


# --- what is on the wire ---------------------------------------------------------------------
class Allowance:
    """How many bytes one connection may carry, both directions together."""

    def __init__(self, size: int) -> None:
        """Allow *size* bytes."""
        self.total = self._left = size
        self.ended = 0  # directions that have ended whole
        self._lock = threading.Lock()

    def take(self, size: int) -> int:
        """Return how many of *size* bytes may pass still."""
        with self._lock:
            allowed = min(size, self._left)
            self._left -= allowed
            return allowed

    @property
    def spent(self) -> bool:
        """Whether no byte is left."""
        return self._left == 0


class Tap:
    """A TCP proxy on loopback that keeps every byte of both directions.

    It may cut connections, and be as slow as a poor line.
    """

    def __init__(
        self, port: int, target: int, *, cuts: Sequence[int] = (), rate: int | None = None
    ) -> None:
        """Listen on *port* and pass everything on to *target*.

        Connection number n is cut after *cuts*[n] bytes; what comes after these is whole. At most
        *rate* bytes pass in a second, in each direction.
        """
        self._target = target
        self._rate = rate
        self._ending = threading.Event()
        self._cuts: Iterator[int] = iter(cuts)
        self.left = len(cuts)
        self._lock = threading.Lock()
        self._captured: list[bytes] = []
        self._open: list[socket.socket] = []
        self._listening = socket.create_server(("127.0.0.1", port))
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()

    def __enter__(self) -> Tap:
        return self

    def __exit__(self, *_: object) -> None:
        self._ending.set()
        # shutdown, unlike close, wakes a thread that waits in accept or recv
        self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()
        with self._lock:
            for end in self._open:
                with contextlib.suppress(OSError):
                    end.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join()
        for end in self._open:
            end.close()

    @property
    def captured(self) -> bytes:
        """Everything that has passed, chunk after chunk."""
        with self._lock:
            return b"".join(self._captured)

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._listening.accept()
            except OSError:
                return
            try:
                far = socket.create_connection(("127.0.0.1", self._target))
            except OSError:
                near.close()
                continue
            with self._lock:
                self._open += [near, far]
                allowance = Allowance(next(self._cuts, sys.maxsize))
                pumps = [
                    threading.Thread(target=self._pump, args=(*ends, allowance))
                    for ends in ((near, far), (far, near))
                ]
                self._threads += pumps
            for pump in pumps:
                pump.start()

    def _pump(self, source: socket.socket, sink: socket.socket, allowance: Allowance) -> None:
        try:
            while data := source.recv(65_536 if self._rate is None else _SLICE):
                data = data[: allowance.take(len(data))]
                with self._lock:
                    self._captured.append(data)
                sink.sendall(data)
                if self._rate is not None:
                    self._ending.wait(len(data) / self._rate)
                if allowance.spent:
                    self._cut(source, sink)
                    return
        except OSError:
            pass  # one end was cut; the other is told below
        with contextlib.suppress(OSError):
            sink.shutdown(socket.SHUT_WR)
        with self._lock:
            # One that ended whole before its cut, such as a knock, leaves it to the next.
            allowance.ended += 1
            whole = allowance.ended == 2 and not allowance.spent
            if whole and allowance.total < sys.maxsize:
                self._cuts = itertools.chain([allowance.total], self._cuts)

    def _cut(self, *ends: socket.socket) -> None:
        with self._lock:
            self.left -= 1
        for end in ends:
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
