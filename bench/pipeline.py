"""What it costs to release and to receive one incident, beside what it must cost at the least.

Two real nodes, an author and a recipient, with real databases in one folder; no network between
them. The author's trust store holds 1, 10, 50 or 193 peers at level share, all of them recipients.
Each figure stands beside its floor: the sum of the bare primitives that the step cannot do without,
measured in the same run, on the same keys, bytes and file system, in turn with the step itself.

    python bench/pipeline.py [--quick] [--json] [--folder FOLDER]
"""

from __future__ import annotations

import argparse
import gc
import hashlib
import json
import os
import platform
import sqlite3
import statistics
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, ParamSpec, TypeVar

import cryptography
import sqlcipher3
from cryptography.cobblestone import Cobblestone256Decryptor, Cobblestone256Encryptor
from cryptography.hazmat.backends.openssl.backend import backend
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.mldsa import MLDSA44PrivateKey
from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM768PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PublicKey
from cryptography.hazmat.primitives.hpke import AEAD, KDF, KEM, MLKEM768X25519PublicKey, Suite

import node.core
import protocol.records
from keys.identity import (
    CardFields,
    Offline,
    Random,
    incept,
    load_service,
    load_vault,
    make_card_body,
    new_service,
    new_vault,
)
from keys.trust import Level, Verification
from node import __version__, demo_incidents
from node.app import CARD_LIFETIME_MS, initialise, open_core, unlock
from node.certificates import make_certificate
from node.clock import SystemClock
from node.config import load_config
from node.core import EPOCH_LIFETIME_MS, Core
from node.home import Home
from node.service import Service
from protocol import envelope, suite
from protocol.envelope import Envelope
from protocol.statement import Chain, make_card

P = ParamSpec("P")
T = TypeVar("T")

COUNTS: Final = (1, 10, 50, 193)
NETWORK: Final = "bench.example"
PASSPHRASE: Final = b"a passphrase for two nodes that live for a minute"
OPENS, CONTINUES = "opens", "continues"
EPOCHS: Final = (OPENS, CONTINUES)

# Stages of a release up to the moment at which it is durable, and after it.
DURABLE: Final = ("validate", "seal", "sign", "log", "checkpoint", "commit")
SHOWN: Final = ("index", "save", "answer")
RECEIVE: Final = (
    "verify", "log", "checkpoint", "commit", "receipt", "open", "check", "index", "save",
)  # fmt: skip
# What waits for the disk, among the stages and among the floors.
DISK: Final = frozenset(
    {"commit", "save", "commit-opens", "commit-continues", "commit-case", "fence"}
)


@dataclass(frozen=True)
class Plan:
    """How many rounds are thrown away and how many count.

    Each round starts a new epoch by letting the nodes' clock go on by a week, and the cards last a
    year: together they must stay below 50.
    """

    warm_up: int
    rounds: int


FULL: Final = Plan(warm_up=5, rounds=40)
QUICK: Final = Plan(warm_up=1, rounds=6)


# --- timing ----------------------------------------------------------------------------------
class Stages:
    """Splits one call into stages: each moment counts for the innermost stage that runs."""

    def __init__(self) -> None:
        self._spent: defaultdict[str, int] = defaultdict(int)
        self._running: list[str] = []
        self._since = 0

    def _count(self) -> None:
        now = time.perf_counter_ns()
        if self._running:
            self._spent[self._running[-1]] += now - self._since
        self._since = now

    def _enter(self, stage: str) -> None:
        self._count()
        self._running.append(stage)

    def _leave(self) -> None:
        self._count()
        self._running.pop()

    def timed(self, stage: str, function: Callable[P, T]) -> Callable[P, T]:
        """Return *function* timed as *stage*."""

        def call(*args: P.args, **kwargs: P.kwargs) -> T:
            self._enter(stage)
            try:
                return function(*args, **kwargs)
            finally:
                self._leave()

        return call

    def wrap(self, owner: object, name: str, stage: str) -> None:
        """Replace the function *name* of *owner* by itself, timed as *stage*."""
        setattr(owner, name, self.timed(stage, getattr(owner, name)))

    def wrap_commit(self, owner: object, stage: str) -> None:
        """Time the end of each ``owner.transaction()``, which is its commit, as *stage*."""
        name = "transaction"
        begin: Callable[[], AbstractContextManager[None]] = getattr(owner, name)

        @contextmanager
        def transaction() -> Iterator[None]:
            with begin():
                yield
                self._enter(stage)
            self._leave()

        setattr(owner, name, transaction)

    def run(self, stage: str, function: Callable[[], T]) -> tuple[dict[str, int], T]:
        """Call *function*, starting in *stage*; return ns by stage, which add up to the whole."""
        self._spent.clear()
        result = self.timed(stage, function)()
        return dict(self._spent), result


def _lap(function: Callable[[], object]) -> int:
    start = time.perf_counter_ns()
    function()
    return time.perf_counter_ns() - start


# --- nodes -----------------------------------------------------------------------------------
class Calendar:
    """The machine's clock, ahead by whole weeks, so that epochs end when the benchmark says so."""

    def __init__(self) -> None:
        self._system = SystemClock()
        self._ahead = 0

    def skip_week(self) -> None:
        """Let the running epochs end."""
        self._ahead += EPOCH_LIFETIME_MS

    def now(self) -> int:
        """Return UTC in integer milliseconds since 1970."""
        return self._system.now() + self._ahead

    def monotonic(self) -> int:
        """Return milliseconds that never go back, for timers."""
        return self._system.monotonic()


@contextmanager
def _node(path: Path, name: str, clock: Calendar) -> Iterator[Service]:
    """Make a node in *path* and open it, unlocked."""
    initialise(
        path,
        {
            "node.authority": name,
            "node.country": "XA",
            "node.network": NETWORK,
            "node.contact": f"duty@{path.name}.example",
            "peer.endpoints": ["wss://127.0.0.1:8462"],
        },
        PASSPHRASE,
    )
    home = Home(path)
    config = load_config(home)
    with open_core(home, config, clock) as core:
        assert unlock(core, config, lambda: PASSPHRASE)
        yield Service(core, config=config, clock=clock, random=os.urandom)


def _bytes_of(name: str) -> Random:
    """Return a source of bytes that depend on *name* alone."""
    count = 0

    def take(size: int) -> bytes:
        nonlocal count
        count += 1
        return hashlib.shake_256(f"{name}/{count}".encode()).digest(size)

    return take


def _peer_chain(name: str, now: int) -> Chain:
    """Return the signed chain of an authority of which nothing but its card is needed."""
    random = _bytes_of(name)
    vault, keys = load_vault(new_vault(random)), load_service(new_service(random))
    network = suite.network_id(NETWORK)
    inception = incept(vault, Offline(random(32), random(32)), network=network, now=now)
    chain = Chain.start(inception, network=network)
    until = now + CARD_LIFETIME_MS
    body = make_card_body(
        CardFields(
            name, "XB", "national-authority", "duty@peer.example", ("wss://127.0.0.1:8462",), until
        ),
        chain=chain,
        vault=vault,
        service=keys,
        certificate=make_certificate(
            keys.tls_seed, name=name, now=datetime.fromtimestamp(now // 1000, UTC)
        ),
        seal_until=until,
        now=now,
    )
    return chain.extend(make_card(body, chain=chain, issued=now, signer=vault.identity))


def _trust(core: Core, chains: Sequence[tuple[str, Chain]]) -> None:
    for name, chain in chains:
        core.add_peer(chain, name)
        verification = Verification("in-person", "bench", core.clock.now())
        core.approve_peer(chain.node_id, Level.SHARE, verification)


# --- floors ----------------------------------------------------------------------------------
class _Table:
    """A database with one table and the pragmas of the node's, for a bare durable commit."""

    def __init__(self, connection: Any, *pragmas: str) -> None:  # noqa: ANN401  two libraries
        self._connection = connection
        for pragma in (*pragmas, "journal_mode=WAL", "synchronous=FULL"):
            connection.execute(f"PRAGMA {pragma}")
        connection.execute("CREATE TABLE floor (id INTEGER PRIMARY KEY, data BLOB)")

    def commit(self, data: bytes | str) -> None:
        """Insert one row durably."""
        self._connection.execute("BEGIN IMMEDIATE")
        self._connection.execute("INSERT INTO floor (data) VALUES (?)", (data,))
        self._connection.execute("COMMIT")

    def close(self) -> None:
        """Close the file."""
        self._connection.close()


class Floors:
    """The bare primitives, on keys and bytes like those of the pipeline and keys already loaded."""

    def __init__(
        self, folder: Path, *, publics: Sequence[bytes], body: bytes, wires: Mapping[str, bytes]
    ) -> None:
        """Prepare keys and files.

        Args:
            folder: on the file system of the nodes.
            publics: the sealing keys of author and recipients.
            body: the encoded incident.
            wires: an envelope that opens an epoch and one that continues it.
        """
        folder.mkdir()
        self._hpke = Suite(KEM.MLKEM768_X25519, KDF.HKDF_SHA256, AEAD.CHACHA20_POLY1305)
        self._publics = [_load_seal_key(public) for public in publics]
        seed = hashlib.sha256(b"floor").digest()
        self._private = suite.seal_private(seed)
        self._slot = self._hpke.encrypt(seed, _load_seal_key(suite.seal_public_bytes(seed)), seed)
        self._secret = seed
        self._ed25519 = Ed25519PrivateKey.from_private_bytes(seed)
        self._mldsa44 = MLDSA44PrivateKey.from_seed_bytes(seed)
        self._public = self._ed25519.public_key()
        # As long as what is signed: label and envelope id, checkpoint text, subtree message.
        self._id, self._note, self._subtree = bytes(50), bytes(90), bytes(150)
        self._signature = self._ed25519.sign(self._id)
        self._padded = envelope.pad(body)
        self._ciphertext = self._encrypt()
        self._body, self._wires = body, wires
        self._store = _Table(sqlite3.connect(folder / "floor.db", isolation_level=None))
        self._cases = _Table(
            sqlcipher3.connect(str(folder / "cipher.db"), isolation_level=None),
            f"key = \"x'{seed.hex()}'\"", "secure_delete=ON",
        )  # fmt: skip
        self._fence = os.open(folder / "fence", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)

    def close(self) -> None:
        """Close the files."""
        self._store.close()
        self._cases.close()
        os.close(self._fence)

    def _seal_all(self) -> None:
        for public in self._publics:
            self._hpke.encrypt(self._secret, public, self._id)

    def _encrypt(self) -> bytes:
        encryptor = Cobblestone256Encryptor(self._secret, b"")
        return encryptor.update(self._padded) + encryptor.finalize()

    def _decrypt(self) -> bytes:
        decryptor = Cobblestone256Decryptor(self._secret, b"")
        return decryptor.update(self._ciphertext) + decryptor.finalize()

    def _raise_fence(self) -> None:
        os.pwrite(self._fence, bytes(103), 0)
        os.fdatasync(self._fence)

    def measure(self) -> dict[str, int]:
        """Return the ns of each primitive, once."""
        wires = self._wires
        return {
            "seals": _lap(self._seal_all),
            "encrypt": _lap(self._encrypt),
            "sign": _lap(lambda: self._ed25519.sign(self._id)),
            "sign-note": _lap(lambda: self._ed25519.sign(self._note)),
            "sign-mldsa44": _lap(lambda: self._mldsa44.sign(self._subtree)),
            "commit-opens": _lap(lambda: self._store.commit(wires[OPENS])),
            "commit-continues": _lap(lambda: self._store.commit(wires[CONTINUES])),
            "fence": _lap(self._raise_fence),
            "hash-opens": _lap(lambda: hashlib.sha256(wires[OPENS]).digest()),
            "hash-continues": _lap(lambda: hashlib.sha256(wires[CONTINUES]).digest()),
            "verify": _lap(lambda: self._public.verify(self._signature, self._id)),
            "unseal": _lap(lambda: self._hpke.decrypt(self._slot, self._private, self._secret)),
            "decrypt": _lap(self._decrypt),
            "commit-case": _lap(lambda: self._cases.commit(self._body)),
        }


def _load_seal_key(public: bytes) -> MLKEM768X25519PublicKey:
    size = suite.SEAL_SIZE - 32
    return MLKEM768X25519PublicKey(
        MLKEM768PublicKey.from_public_bytes(public[:size]),
        X25519PublicKey.from_public_bytes(public[size:]),
    )


def _floor_parts(what: str, epoch: str) -> tuple[str, ...]:
    """Return the names of the primitives whose sum is the floor of *what*."""
    signed = (f"hash-{epoch}", "sign-note", "sign-mldsa44", f"commit-{epoch}", "fence")
    if what == "receive":
        unseal = ("unseal",) if epoch == OPENS else ()
        return ("verify", *signed, *unseal, "decrypt", "commit-case")
    seals = ("seals",) if epoch == OPENS else ()
    saved = ("commit-case",) if what == "release" else ()
    return (*seals, "encrypt", "sign", *signed, *saved)


# --- the pipeline ----------------------------------------------------------------------------
@dataclass
class Pair:
    """An author with *count* recipients, one of which is a node too, and what they took (ns)."""

    count: int
    author: Service
    recipient: Service
    clock: Calendar
    stages: Stages
    incident: Mapping[str, Any]
    recorded_floors: list[dict[str, int]] = field(default_factory=list)
    releases: dict[str, list[dict[str, int]]] = field(
        default_factory=lambda: {epoch: [] for epoch in EPOCHS}
    )
    receives: dict[str, list[dict[str, int]]] = field(
        default_factory=lambda: {epoch: [] for epoch in EPOCHS}
    )
    made: dict[str, Envelope] = field(default_factory=dict)
    floors: Floors | None = None

    def instrument(self) -> None:
        """Put the timers where one stage ends and the next begins."""
        author, recipient, stages = self.author.core, self.recipient.core, self.stages
        vault, _ = author.opened()
        stages.wrap(author, "release", "log")
        stages.wrap(author, "_seal", "seal")
        stages.wrap(vault.message, "sign", "sign")
        stages.wrap(self.author, "incident", "answer")
        for core in (author, recipient):
            _, cases = core.opened()
            stages.wrap(core.log, "seal", "checkpoint")
            stages.wrap_commit(core.store, "commit")
            stages.wrap(core._fence, "raise_to", "commit")
            stages.wrap(core, "follow", "index")
            stages.wrap_commit(cases, "save")
        stages.wrap(recipient.log, "receipts", "receipt")
        stages.wrap(recipient, "open", "open")

    def send(self, epoch: str) -> None:
        """Release one incident and hand it to the recipient; note the time of both."""
        if epoch == OPENS:
            self.clock.skip_week()
        key = self.author.create_draft(self.incident)["id"]
        spent, row = self.stages.run("validate", lambda: self._release(key))
        # What the author does to show its own incident; the recipient's stages are told apart.
        spent["index"] += spent.pop("check")
        wire = self.author.raw(key, 0)
        sealed = envelope.parse(wire)
        assert len(row["envelopes"]) == 1
        assert len(row["deliveries"]) == self.count
        assert sealed.opens_epoch == (epoch == OPENS)
        self.releases[epoch].append(spent)

        core, giver = self.recipient.core, self.author.core.node_id
        received, taken = self.stages.run("log", lambda: core.take([wire], giver=giver))
        assert taken.stored == (sealed.id,)
        assert self.recipient.incident(key)["face"] == row["face"]
        self.receives[epoch].append(received)
        self._settle()
        self.made[epoch] = sealed

    def _release(self, key: str) -> dict[str, Any]:
        return self.author.release(
            key, to=["all"], annex_to=None, carriers=[], separately=False, digest=None
        )

    def _settle(self) -> None:
        """Take all deliveries as receipted: a full outbox would slow the next release down."""
        store = self.author.core.store
        with store.transaction():
            store.run("UPDATE outbox SET state = 'received' WHERE state = 'queued'")

    def measure_floors(self) -> None:
        """Note the time of each primitive."""
        assert self.floors is not None
        self.recorded_floors.append(self.floors.measure())

    def forget(self) -> None:
        """Drop what the warm-up took."""
        self.recorded_floors.clear()
        for taken in (*self.releases.values(), *self.receives.values()):
            taken.clear()

    def body(self) -> bytes:
        """Return the encoded incident as it was sealed."""
        return self.author.core.open(self.made[CONTINUES].id)

    def verify(self) -> None:
        """Check both logs, and that the recipient could show all that it received."""
        self.author.log_verify()
        self.recipient.log_verify()
        _, cases = self.recipient.core.opened()
        assert cases.counts()["quarantined"] == 0


def _make_pair(
    held: ExitStack,
    folder: Path,
    count: int,
    *,
    chains: Sequence[tuple[str, Chain]],
    stages: Stages,
    incident: Mapping[str, Any],
) -> Pair:
    clock = Calendar()
    author = held.enter_context(_node(folder / f"author-{count}", "Author", clock))
    recipient = held.enter_context(_node(folder / f"recipient-{count}", "Recipient", clock))
    _trust(author.core, [("Recipient", recipient.core.trust.own), *chains[: count - 1]])
    _trust(recipient.core, [("Author", author.core.trust.own)])
    pair = Pair(count, author, recipient, clock, stages, incident)
    pair.instrument()
    for epoch in EPOCHS:
        pair.send(epoch)
    cards = (author.core.card, *(peer.card for peer in author.core.trust.peers.values()))
    floors = Floors(
        folder / f"floors-{count}",
        publics=[card.seal[0].public for card in cards],
        body=pair.body(),
        wires={epoch: pair.made[epoch].wire for epoch in EPOCHS},
    )
    held.callback(floors.close)
    pair.floors = floors
    return pair


def _run(pairs: Sequence[Pair], plan: Plan) -> None:
    gc.disable()
    for number in range(plan.warm_up + plan.rounds):
        if number == plan.warm_up:
            for pair in pairs:
                pair.forget()
        gc.collect()
        # All take turns, and who begins changes: a machine that slows down slows all alike.
        for offset in range(len(pairs)):
            pair = pairs[(number + offset) % len(pairs)]
            steps = (lambda p=pair: p.send(OPENS), lambda p=pair: p.send(CONTINUES),
                     pair.measure_floors)  # fmt: skip
            for step in range(len(steps)):
                steps[(number + step) % len(steps)]()
    gc.enable()


# --- results ---------------------------------------------------------------------------------
def _spread(samples: Sequence[int]) -> dict[str, float]:
    """Return median, tenth and ninetieth percentile in microseconds."""
    tenths = statistics.quantiles(samples, n=10, method="inclusive")
    return {
        "p50": round(statistics.median(samples) / 1000, 1),
        "p10": round(tenths[0] / 1000, 1),
        "p90": round(tenths[-1] / 1000, 1),
    }


def _total(
    samples: Sequence[Mapping[str, int]],
    stages: Sequence[str],
    floors: Sequence[Mapping[str, int]],
    parts: Sequence[str],
) -> dict[str, Any]:
    bare_stages = [stage for stage in stages if stage not in DISK]
    bare_parts = [part for part in parts if part not in DISK]
    whole, floor = _sums(samples, stages), _sums(floors, parts)
    bare, bare_floor = _sums(samples, bare_stages), _sums(floors, bare_parts)
    return {
        "us": whole,
        "floor_us": floor,
        "ratio": round(whole["p50"] / floor["p50"], 2),
        "without_disk_us": bare,
        "without_disk_floor_us": bare_floor,
        "without_disk_ratio": round(bare["p50"] / bare_floor["p50"], 2),
        "floor_parts": list(parts),
    }


def _sums(samples: Sequence[Mapping[str, int]], names: Sequence[str]) -> dict[str, float]:
    return _spread([sum(sample[name] for name in names) for sample in samples])


def _size(sealed: Envelope) -> dict[str, int]:
    slots = sum(map(len, sealed.slots))
    audience = len(sealed.audience.encode()) if sealed.audience else 0
    parts = {"slots": slots, "audience": audience, "body": len(sealed.ciphertext)}
    return {"total": len(sealed.wire), **parts, "rest": len(sealed.wire) - sum(parts.values())}


def _result(pair: Pair) -> dict[str, Any]:
    floors = pair.recorded_floors
    found: dict[str, Any] = {"recipients": pair.count}
    for epoch in EPOCHS:
        release, receive = pair.releases[epoch], pair.receives[epoch]
        whole = (*DURABLE, *SHOWN)
        found[epoch] = {
            "release": {
                "stages_us": {s: _spread([sample[s] for sample in release]) for s in whole},
                "durable": _total(release, DURABLE, floors, _floor_parts("durable", epoch)),
                "whole": _total(release, whole, floors, _floor_parts("release", epoch)),
            },
            "receive": {
                "stages_us": {s: _spread([sample[s] for sample in receive]) for s in RECEIVE},
                "whole": _total(receive, RECEIVE, floors, _floor_parts("receive", epoch)),
            },
            "bytes": _size(pair.made[epoch]),
        }
    found["floors_us"] = {part: _spread([sample[part] for sample in floors]) for part in floors[0]}
    return found


def _file_system(path: Path) -> str:
    """Return the type of the file system that holds *path*, which decides what a commit costs."""
    best, kind = "", "unknown"
    for line in Path("/proc/self/mounts").read_text(encoding="utf-8").splitlines():
        _, point, name, *_ = line.split()
        if path.is_relative_to(point) and len(point) >= len(best):
            best, kind = point, name
    return kind


def _environment(folder: Path, plan: Plan, body: bytes) -> dict[str, Any]:
    cipher = sqlcipher3.connect(":memory:")
    try:
        sqlcipher = cipher.execute("PRAGMA cipher_version").fetchone()[0]
    finally:
        cipher.close()
    return {
        "picket": __version__,
        "python": platform.python_version(),
        "cryptography": cryptography.__version__,
        "tls_library": backend.openssl_version_text(),
        "sqlite": sqlite3.sqlite_version,
        "sqlcipher": sqlcipher,
        "cpus": os.cpu_count(),
        "machine": f"{platform.system()} {platform.release()} {platform.machine()}",
        "file_system": _file_system(folder),
        "rounds": plan.rounds,
        "warm_up": plan.warm_up,
        "incident_bytes": len(body),
    }


def measure(folder: Path, plan: Plan) -> dict[str, Any]:
    """Make the nodes in *folder*, run all rounds, and return every figure."""
    stages = Stages()
    # Where the nodes look these up; no other code of theirs changes.
    stages.wrap(node.core, "admit", "verify")
    stages.wrap(protocol.records, "parse_record", "check")
    incident = max(
        (item.incident for item in demo_incidents.load()), key=lambda item: len(json.dumps(item))
    )
    now = SystemClock().now()
    names = [f"Authority {number}" for number in range(1, max(COUNTS))]
    chains = [(name, _peer_chain(name, now)) for name in names]
    with ExitStack() as held:
        pairs = [
            _make_pair(held, folder, count, chains=chains, stages=stages, incident=incident)
            for count in COUNTS
        ]
        _run(pairs, plan)
        for pair in pairs:
            pair.verify()
        return {
            "environment": _environment(folder, plan, pairs[0].body()),
            "results": [_result(pair) for pair in pairs],
        }


# --- printing --------------------------------------------------------------------------------
def _ms(spread: Mapping[str, float]) -> str:
    return f"{spread['p50'] / 1000:.2f}"


def _whole(total: Mapping[str, Any]) -> list[str]:
    us = total["us"]
    return [_ms(us), f"{us['p10'] / 1000:.2f}..{us['p90'] / 1000:.2f}", _ms(total["floor_us"])]


def _table(title: str, heads: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(heads, *rows, strict=True)]
    lines = [
        "  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in (heads, *rows)
    ]
    return ["", title, *lines]


def _ratio_table(results: Sequence[Mapping[str, Any]]) -> list[str]:
    rows = []
    for result in results:
        for epoch in EPOCHS:
            found = result[epoch]
            totals = (
                found["release"]["durable"], found["release"]["whole"], found["receive"]["whole"],
            )  # fmt: skip
            ratios = (
                f"{total[name]:.2f}x"
                for total in totals
                for name in ("ratio", "without_disk_ratio")
            )
            rows.append([str(result["recipients"]), epoch, *ratios])
    heads = ["to", "epoch", "release until durable", "no disk", "whole release", "no disk",
             "receive", "no disk"]  # fmt: skip
    return _table("RATIO of each step to its floor", heads, rows)


def _release_table(results: Sequence[Mapping[str, Any]]) -> list[str]:
    rows = []
    for result in results:
        for epoch in EPOCHS:
            release = result[epoch]["release"]
            spent = release["stages_us"]
            rows.append(
                [
                    str(result["recipients"]), epoch, *(_ms(spent[stage]) for stage in DURABLE),
                    *_whole(release["durable"]), *(_ms(spent[stage]) for stage in SHOWN),
                    *_whole(release["whole"]),
                ]
            )  # fmt: skip
    heads = ["to", "epoch", *DURABLE, "DURABLE", "p10..p90", "floor", *SHOWN,
             "WHOLE", "p10..p90", "floor"]  # fmt: skip
    return _table("RELEASE, ms per envelope", heads, rows)


def _receive_table(results: Sequence[Mapping[str, Any]]) -> list[str]:
    rows = []
    for result in results:
        for epoch in EPOCHS:
            receive = result[epoch]["receive"]
            spent = receive["stages_us"]
            rows.append(
                [
                    str(result["recipients"]), epoch, *(_ms(spent[stage]) for stage in RECEIVE),
                    *_whole(receive["whole"]),
                ]
            )  # fmt: skip
    heads = ["to", "epoch", *RECEIVE, "WHOLE", "p10..p90", "floor"]
    return _table("RECEIVE, ms per envelope", heads, rows)


def _byte_table(results: Sequence[Mapping[str, Any]], incident: int) -> list[str]:
    rows = [
        [str(result["recipients"]), epoch, *(f"{n:,}" for n in result[epoch]["bytes"].values())]
        for result in results
        for epoch in EPOCHS
    ]
    title = f"BYTES per envelope; the encoded incident has {incident:,}"
    return _table(title, ["to", "epoch", *results[0][OPENS]["bytes"]], rows)


_FLOOR_NAMES: Final = {
    "seals": "X-Wing seals, one for the author and each recipient",
    "encrypt": "encrypt the padded body (Cobblestone-256)",
    "sign": "Ed25519 sign, envelope",
    "hash-opens": "SHA-256 of an envelope that opens an epoch",
    "hash-continues": "SHA-256 of one that continues it",
    "sign-note": "Ed25519 sign, checkpoint",
    "sign-mldsa44": "ML-DSA-44 sign, checkpoint",
    "commit-opens": "durable SQLite commit of an opening envelope",
    "commit-continues": "durable SQLite commit of a continuing one",
    "fence": "write and fdatasync of the fence",
    "verify": "Ed25519 verify, envelope",
    "unseal": "X-Wing unseal of one slot",
    "decrypt": "decrypt the padded body",
    "commit-case": "durable SQLCipher commit of the incident",
}


def _floor_table(results: Sequence[Mapping[str, Any]]) -> list[str]:
    rows = []
    for part, name in _FLOOR_NAMES.items():
        cells = [result["floors_us"][part] for result in results]
        spreads = [f"{c['p50']:,.0f} ({c['p10']:,.0f}..{c['p90']:,.0f})" for c in cells]
        rows.append([name.ljust(52), *spreads])
    heads = ["primitive".ljust(52), *(f"to {result['recipients']}" for result in results)]
    return _table("FLOORS, microseconds: median (p10..p90)", heads, rows)


_NOTES: Final = """
Read it so
  to          recipients; each counts as a peer at level share in the author's trust store
  epoch       opens: the envelope carries a slot for each member; continues: it names that one
  floor       the least the step must cost: the sum of the primitives named below
  ratio       median of the step / median of its floor
  no disk     the same without the commits and the fence, which a busy disk makes uneven
              (the insert belongs to a commit of a floor; in the steps it belongs to log or index)
Release (the service call that a command or the HTTP endpoint makes; the draft is there already)
  validate    read the draft, check it against the model, choose the audience, encode the record
  seal        audience, header, slots, body encryption, digests, and parsing the result once more
  sign        Ed25519 over the envelope
  log         log entry and tree, and the rows of envelope, stream, release and outbox
  checkpoint  tree root, Ed25519 and ML-DSA-44 signatures, its row
  commit      durable commit of node.db, then the fence
  DURABLE     the six above: from here on the envelope may leave the node
              floor: seals (if it opens), encrypt, sign, hash, both checkpoint signatures, SQLite
              commit, fence
  index       open and decode the own envelope, check it against the model, the rows of case.db
  save        durable commit of case.db
  answer      what the caller is shown: the incident with its deliveries
  WHOLE       the whole call; floor: the same and the SQLCipher commit
Receive (one delivered envelope; no network, and frames neither packed nor unpacked)
  verify      parse, look up card and epoch, Ed25519, digests, audience
  log, checkpoint, commit   as above, at the recipient
  receipt     inclusion proof under the new checkpoint
  open        read back, unseal the slot once per epoch, decrypt
  check       the opened record against the model
  index       decode the record, the rows of case.db
  save        durable commit of case.db
  WHOLE       the whole call; floor: verify, hash, both checkpoint signatures, SQLite commit, fence,
              unseal (if it opens), decrypt, SQLCipher commit
Medians of stages need not add up to the median of the whole; in each single call they do.
"""


def _report(found: Mapping[str, Any]) -> str:
    about, results = found["environment"], found["results"]
    lines = [
        f"Picket {about['picket']}: release and receive, per envelope",
        f"Python {about['python']}, cryptography {about['cryptography']} ({about['tls_library']}), "
        f"SQLite {about['sqlite']}, SQLCipher {about['sqlcipher']}",
        f"{about['machine']}, {about['cpus']} CPUs, one thread, files on {about['file_system']}",
        f"medians of {about['rounds']} rounds after {about['warm_up']} to warm up; steps and "
        "floors take turns; garbage collection off",
        *_ratio_table(results),
        *_release_table(results),
        *_receive_table(results),
        *_byte_table(results, about["incident_bytes"]),
        *_floor_table(results),
    ]
    return "\n".join(lines) + "\n" + _NOTES


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark and print what it found."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--quick", action="store_true", help="few rounds: a look, not a figure")
    parser.add_argument("--json", action="store_true", help="print every figure as JSON")
    parser.add_argument("--folder", help="where the nodes live for the run; decides the disk")
    options = parser.parse_args(arguments)
    for name in [name for name in os.environ if name.startswith("PICKET_")]:
        del os.environ[name]
    plan = QUICK if options.quick else FULL
    with tempfile.TemporaryDirectory(prefix="picket-bench-", dir=options.folder) as folder:
        found = measure(Path(folder).resolve(), plan)
    sys.stdout.write(json.dumps(found, indent=1) + "\n" if options.json else _report(found))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
