"""Builders of real homes for tests: made once a run, copied for each test, opened in the process.

- A ``Station`` is one node: its home, keys, clock and source of random bytes, which outlive every
  opening of its databases.
- A ``World`` is the nodes of one test, which trust each other fully unless it says otherwise.
- ``pass_on`` is what a link does, without a link: offer, take, receipt, refuse.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import sqlite3
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

import pytest
from typing_extensions import override

from keys.identity import Vault, load_service, load_vault
from keys.keystore import Argon2Params, load, save
from keys.trust import Level, Verification
from node.app import initialise
from node.config import load_config
from node.core import Core, Shipment
from node.fence import Fence
from node.home import Home
from node.intake import Taken, id_of
from node.service import Service
from node.store import Store
from protocol import suite
from protocol.canonical import decode, encode
from protocol.entry import EntryKind
from protocol.envelope import Envelope
from protocol.frames import SHORT_ID, Runs
from protocol.incident import parse_incident, to_record
from protocol.receipt import complete
from protocol.statement import Card, make_card

NOW: Final = 1_790_000_000_000
MINUTE: Final = 60_000
DAY: Final = 86_400_000
NAMES: Final = ("alder", "birch", "cedar", "dogwood")
PASSPHRASE: Final = b"correct horse battery"
_CHEAP: Final = Argon2Params(memory_kib=19 * 1024, iterations=1)
Row = dict[str, Any]


class ManualClock:
    """A clock that stands still until a test moves it."""

    def __init__(self, at: int = NOW) -> None:
        """Begin at *at*, UTC in ms."""
        self.at = at

    def advance(self, ms: int) -> None:
        """Let *ms* pass."""
        self.at += ms

    def now(self) -> int:
        """Return UTC in ms."""
        return self.at

    def monotonic(self) -> int:
        """Return ms that never go back."""
        return self.at


class Bytes:
    """Random bytes that depend on nothing but a name and how often they were asked for."""

    def __init__(self, name: str) -> None:
        """Begin the stream called *name*."""
        self._name = name
        self._count = 0

    def __call__(self, size: int) -> bytes:
        """Return the next *size* bytes."""
        self._count += 1
        return hashlib.shake_256(f"{self._name}/{self._count}".encode()).digest(size)


# --- incidents -------------------------------------------------------------------------------
def incident(summary: str = "20160 litres in 120 drums", *, annex: bool = False) -> Row:
    """Return an incident as an agency would send it."""
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
    if annex:
        value["annex"] = {"containers": [{"no": "CSQU3054383"}]}
    return value


def record(number: int, summary: str = "drums", *, revision: int = 1, annex: bool = False) -> bytes:
    """Return the body of an envelope about incident *number*, which recipients may hand on."""
    value = incident(summary, annex=annex)
    value["face"]["handling"] |= {"onward": "peers_same_handling", "evidence_use": "allowed"}
    return encode(
        to_record(
            parse_incident(value),
            incident_id=incident_id(number),
            ref=f"PI-XA-2026-{number:06d}",
            revision=revision,
            prev=None,
            layers=frozenset({"face", "annex"} if annex else {"face"}),
            first_shared_at="2026-03-04T09:00:00Z",
        )
    )


def incident_id(number: int) -> str:
    """Return the id of incident *number*."""
    return f"00000000-0000-4000-8000-{number:012d}"


def token(number: int) -> bytes:
    """Return the token under which incident *number* is released."""
    return suite.digest("release", incident_id(number).encode(), b"1")


# --- nodes -----------------------------------------------------------------------------------
@dataclass
class Station:
    """One node: what outlives its process, and its core while that runs."""

    home: Home
    secrets: Mapping[str, bytes]
    clock: ManualClock
    random: Bytes
    carries: bool = True
    _core: Core | None = field(default=None, init=False)

    @property
    def name(self) -> str:
        """By this its peers know it."""
        return self.home.path.name

    @property
    def core(self) -> Core:
        """The open core."""
        assert self._core is not None, f"{self.name} is closed"
        return self._core

    @property
    def id(self) -> bytes:
        """The node id."""
        return self.core.node_id

    @property
    def vault(self) -> Vault:
        """The keys that the keystore holds."""
        return load_vault(self.secrets)

    def open(
        self,
        *,
        locked: bool = False,
        store: Callable[[Path], Store] = Store,
        accept: bool = False,
        reopen: bool = False,
    ) -> Core:
        """Open the databases, as a start of the process does; with *reopen* as its operator does.

        That is to begin a new log, and then to start.
        """
        assert self._core is None, f"{self.name} is open"
        held, fence = store(self.home.node_db), Fence(self.home.fence)
        try:
            core = Core(
                home=self.home,
                store=held,
                fence=fence,
                keys=load_service(_bytes_map(self.home.service_key)),
                clock=self.clock,
                random=self.random,
                carries=self.carries,
                accept=accept,
                reopen=reopen,
            )
        except BaseException:
            held.close()
            fence.close()
            raise
        self._core = core
        if not locked:
            try:
                core.unlock(self.vault)
            except BaseException:
                self.close()
                raise
        if reopen:
            core.reopen_log()
        return core

    def close(self) -> None:
        """Close the databases; nothing if they are closed."""
        if self._core is not None:
            self._core.close()
            self._core = None

    def reopen(self, *, locked: bool = False, store: Callable[[Path], Store] = Store) -> Core:
        """Close and open again, as a restart does."""
        self.close()
        return self.open(locked=locked, store=store)

    def service(self) -> Service:
        """Return the operations of the open node."""
        return Service(
            self.core, config=load_config(self.home), clock=self.clock, random=self.random
        )

    # --- acting ------------------------------------------------------------------------------
    def ship(
        self, *to: Station, body: bytes, carriers: Sequence[Station] = (), layers: str = "face"
    ) -> Shipment:
        """Return a shipment of *body* to these nodes, under the cards held of them."""
        cards: dict[bytes, Card] = self.core.trust.recipients(
            [peer.id for peer in to], now=self.clock.now()
        )
        return Shipment(body, layers, cards, tuple(peer.id for peer in carriers))

    def release(self, number: int, *to: Station, carriers: Sequence[Station] = ()) -> bytes:
        """Release incident *number* in one envelope and return the envelope's id."""
        shipment = self.ship(*to, body=record(number), carriers=carriers)
        envelope_id = self.core.release(token(number), [shipment])[0]
        self.core.try_follow()
        return envelope_id

    def renew_card(self, **changes: object) -> None:
        """Make and take a new card that differs in *changes*."""
        core = self.core
        card = replace(core.card, **changes)  # type: ignore[arg-type]
        core.add_statement(
            make_card(
                card, chain=core.trust.own, issued=self.clock.now(), signer=self.vault.identity
            )
        )

    # --- looking -----------------------------------------------------------------------------
    def envelope(self, envelope_id: bytes) -> Envelope:
        """Return a stored envelope."""
        held = self.core.held(envelope_id)
        assert held is not None
        return held

    def shows(self) -> set[str]:
        """Return the ids of the released and received incidents that it can show."""
        _, cases = self.core.opened()
        return {row["incident_id"] for row in cases.incidents(after=0, limit=500, own=None)}

    def kinds(self) -> list[EntryKind]:
        """Return the kinds of all log entries, in order."""
        rows = self.core.store.rows("SELECT kind FROM entries ORDER BY idx")
        return [EntryKind(row["kind"]) for row in rows]

    def state(self, envelope_id: bytes, peer: Station) -> str:
        """Return the state of one delivery."""
        row = self.core.outbox.row(envelope_id, peer.id)
        assert row is not None, f"{self.name} has nothing of it for {peer.name}"
        return str(row["state"])

    def notices(self) -> dict[str, str]:
        """Return the notices of the status, by code."""
        return {row["code"]: row["message"] for row in self.service().status()["notices"]}

    def dump(self) -> dict[str, list[tuple[Any, ...]]]:
        """Return all rows of node.db as another process would read them."""
        return dump(self.home.node_db)


def dump(path: Path) -> dict[str, list[tuple[Any, ...]]]:
    """Return all rows of all tables of a database, in a fixed order."""
    with closing(sqlite3.connect(path)) as database:
        tables = database.execute("SELECT name FROM sqlite_schema WHERE type = 'table'").fetchall()
        return {
            name: sorted(
                database.execute(f"SELECT * FROM {name}").fetchall(),
                key=repr,
            )
            for (name,) in sorted(tables)
        }


def _bytes_map(path: Path) -> dict[str, bytes]:
    value = decode(path.read_bytes(), max_bytes=4_096)
    assert isinstance(value, dict)
    return {name: item for name, item in value.items() if isinstance(item, bytes)}


class World:
    """The nodes of one test, by name."""

    def __init__(self, folder: Path, names: Collection[str] = NAMES, era: str = "test") -> None:
        """Take up the homes in *folder*; open none. No random byte comes back in another *era*."""
        self.folder = folder
        self.clock = ManualClock()
        secrets = json.loads((folder / "secrets.json").read_text())
        self._stations = {
            name: Station(
                Home(folder / name),
                {key: bytes.fromhex(text) for key, text in secrets[name].items()},
                self.clock,
                Bytes(f"{name}/{era}"),
            )
            for name in names
        }

    def __getitem__(self, name: str) -> Station:
        return self._stations[name]

    def __iter__(self) -> Iterator[Station]:
        return iter(self._stations.values())

    def open(self) -> World:
        """Open all nodes."""
        for station in self:
            station.open()
        return self

    def close(self) -> None:
        """Close all nodes."""
        for station in self:
            station.close()


def introduce(one: Station, other: Station, level: Level | None = Level.SHARE) -> None:
    """Let *one* know *other*, at *level* (None: added only)."""
    one.core.add_peer(other.core.trust.own, other.name)
    if level is not None:
        verification = Verification("voice", "test", one.clock.now())
        one.core.approve_peer(other.id, level, verification)


def make_homes(folder: Path) -> None:
    """Make nodes that all trust each other, each in a folder under its name in *folder*."""
    secrets = {}
    for name in NAMES:
        home = Home(folder / name)
        values = {
            "node.authority": name.title(),
            "node.country": "XA",
            "node.network": "test.example",
            "node.contact": f"duty@{name}.example",
        }
        initialise(home.path, values, PASSPHRASE, NOW - DAY)
        vault = load(home.keystore, PASSPHRASE)
        save(home.keystore, vault, PASSPHRASE, _CHEAP)
        home.recovery_sheet.rename(folder / f"{name}.sheet")
        secrets[name] = {key: seed.hex() for key, seed in vault.items()}
    (folder / "secrets.json").write_text(json.dumps(secrets))
    world = World(folder, era="making").open()
    for one in world:
        for other in world:
            if one is not other:
                introduce(one, other)
    world.close()


def made_once(temporary: pytest.TempPathFactory) -> Path:
    """Return the folder of homes that all tests of a run copy; the first caller makes them."""
    folder = temporary.getbasetemp() / "stations"
    if not folder.exists():
        fresh = folder.with_name("stations-in-the-making")
        shutil.rmtree(fresh, ignore_errors=True)
        make_homes(fresh)
        fresh.rename(folder)
    return folder


@contextmanager
def copied(homes: Path, folder: Path, names: Collection[str] = NAMES) -> Iterator[World]:
    """Copy the *homes* that ``make_homes`` made into *folder* and open them."""
    for name in names:
        shutil.copytree(homes / name, folder / name)
        shutil.copy(homes / f"{name}.sheet", folder)
    shutil.copy(homes / "secrets.json", folder)
    world = World(folder, names)
    try:
        yield world.open()
    finally:
        world.close()


# --- what links do ---------------------------------------------------------------------------
def pass_on(giver: Station, taker: Station, *, limit: int = 64) -> Taken:
    """Offer what is due, as one frame, and carry the answer back."""
    pairs = giver.core.outbox.due(taker.id, limit=limit, skip=frozenset())
    taken = give(giver, taker, *(wire for _, wire in pairs))
    for receipts in taken.receipts:
        giver.core.take_receipts(receipts)
    if taken.refusals:
        with giver.core.logged():
            giver.core.outbox.refused(taker.id, taken.refusals)
    return taken


def hand(giver: Station, taker: Station, *envelope_ids: bytes) -> Taken:
    """Give the named envelopes of *giver*, in that order, and leave the answer unheard."""
    return give(giver, taker, *(giver.envelope(key).wire for key in envelope_ids))


def give(giver: Station, taker: Station, *wires: bytes) -> Taken:
    """Give *wires* as one frame; return the answer as it reads on the link: with whole ids."""
    taken = taker.core.take(wires, giver=giver.id)
    known = {envelope_id[:SHORT_ID]: envelope_id for envelope_id in map(id_of, wires)}
    receipts = (complete(r, known) if isinstance(r, Runs) else r for r in taken.receipts)
    return replace(taken, receipts=tuple(receipts))


def seep(giver: Station, carrier: Station, taker: Station) -> None:
    """Let an envelope for *taker* go by way of *carrier*, and its receipt come back and settle."""
    giver.core.outbox.ask_carriers(frozenset({carrier.id}))
    pass_on(giver, carrier)
    pass_on(carrier, taker)
    for receipts in carrier.core.receipts.for_author(giver.id, passed=frozenset()):
        giver.core.take_receipts(receipts)
        pairs = [(item.envelope_id, receipts.recipient) for item in receipts.items]
        carrier.core.receipts_settled(giver.id, pairs)


# --- faults ----------------------------------------------------------------------------------
class UndoError(Exception):
    """What was done is to be undone."""


def forge(author: Station, *to: Station, numbers: Sequence[int]) -> list[bytes]:
    """Return envelopes that *author* signs one after the other and then takes back.

    What it releases next stands in the same places: only a dishonest author can do that.
    """
    core = author.core
    cases, core.cases = core.cases, None  # it is not to remember them either
    wires: list[bytes] = []
    with suppress(UndoError), core.logged():
        wires += [author.envelope(author.release(number, *to)).wire for number in numbers]
        raise UndoError
    core.cases = cases
    return wires


class CrashError(Exception):
    """The end of the process, as far as the code under test can tell."""


class FaultyStore(Store):
    """A database that can be made to fail before any statement that writes, or before a commit."""

    def __init__(self, path: Path) -> None:
        """Open *path*; nothing fails before ``fail_at`` is set."""
        self.fail_at = 0
        self._done = 0
        super().__init__(path)

    def arm(self, fail_at: int) -> None:
        """Fail at writing statement number *fail_at*, counted from 1 and from now on."""
        self.fail_at, self._done = fail_at, 0

    def _step(self) -> None:
        self._done += 1
        if self._done == self.fail_at:
            raise CrashError(f"at step {self._done}")

    @override
    def run(self, sql: str, *values: object) -> int:
        self._step()
        return super().run(sql, *values)

    @override
    def insert_all(
        self, table: str, rows: Sequence[Mapping[str, object]], *, replace: bool = False
    ) -> None:
        self._step()
        super().insert_all(table, rows, replace=replace)

    @override
    @contextmanager
    def transaction(self) -> Iterator[None]:
        with super().transaction():
            yield
            self._step()


@contextmanager
def full_disk(station: Station) -> Iterator[None]:
    """Let node.db not grow by a page."""
    store = station.core.store
    store.scalar("PRAGMA max_page_count = 1")  # SQLite takes the present size instead
    try:
        yield
    finally:
        store.scalar("PRAGMA max_page_count = 1000000")


@contextmanager
def full_case_disk(station: Station) -> Iterator[None]:
    """Let case.db not grow by a page."""
    _, cases = station.core.opened()
    cases._connection.execute("PRAGMA max_page_count = 1")
    try:
        yield
    finally:
        cases._connection.execute("PRAGMA max_page_count = 1000000")
