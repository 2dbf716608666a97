"""kill -9 at every kind of effect of an exchange: nothing is lost, doubled or contradicted.

A node dies at the N-th effect of an exchange (see ``tests.net.crashing``) and is started again.
Whatever its author was told is released must then reach every recipient once, with receipts, and
all logs must verify. Each new process of the victim is an ordinary node until the test arms it, so
that it recovers from one death before it heads for the next.
"""

from __future__ import annotations

import random
import secrets
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from node.client import Client
from tests.net.crashing import MARK
from tests.net.harness import Net, Node, NodeDownError, incident, wait

KINDS = frozenset(
    {
        "before commit of node.db", "after commit of node.db", "fence raised",
        "before commit of case.db", "after commit of case.db", "before send", "after send",
    }
)  # fmt: skip
PER_POINT = 3


@dataclass
class Exchange:
    """Nodes between which incidents go, one of which is killed again and again."""

    net: Net
    author: Node
    victim: Node
    recipients: tuple[str, ...]
    options: Mapping[str, object] = field(default_factory=dict)
    drafts: list[str] = field(default_factory=list)
    acknowledged: set[str] = field(default_factory=set)
    settled: set[str] = field(default_factory=set)
    lives: int = 0
    near: set[str] = field(init=False)

    def __post_init__(self) -> None:
        # With whom the victim links: with all, or a carrier's two sides with the carrier only.
        others = set(self.net.nodes) - {self.victim.key}
        carriers = self.options.get("carriers", [])
        assert isinstance(carriers, list)
        self.near = others & set(carriers) or others

    # --- the victim's lives ------------------------------------------------------------------
    def live(self, point: int, *, armed: bool = False, only: str = "") -> Path:
        """Start a life of the victim that ends at effect *point* after the returned file exists."""
        self.lives += 1
        arm = self.net.folder / f"arm-{self.victim.key}-{self.lives}"
        if armed:
            arm.touch()
        module = ("-m", "tests.net.crashing", "--home", str(self.victim.home.path))
        kind = ("--only", only) if only else ()
        self.victim.launch(*module, "--point", str(point), "--after", str(arm), *kind)
        return arm

    def effects(self) -> list[str]:
        """Return at which effects the victim died so far."""
        lines = self.victim.journal.read_text(errors="replace").splitlines()
        return [line.partition(MARK)[2].strip() for line in lines if line.startswith(MARK)]

    # --- the exchange ------------------------------------------------------------------------
    def write(self, count: int) -> list[str]:
        """Draft *count* incidents."""
        ids = [self.author.draft(incident(f"number {len(self.drafts)}-{n}")) for n in range(count)]
        self.drafts += ids
        return ids

    def release(self, incident_id: str) -> None:
        """Release one incident as an operator does who sees only what the node answers."""
        row = self.author.release(incident_id, *self.recipients, **self.options)
        assert row["state"] == "released"
        self.acknowledged.add(incident_id)

    def exchange(self, ids: Sequence[str]) -> None:
        """Release one after the other, each once the one before was delivered, until it breaks."""
        for incident_id in ids:
            try:
                self.release(incident_id)
                wait(
                    lambda i=incident_id: (  # type: ignore[misc]
                        not self.victim.alive or self.author.delivered(i, *self.recipients)
                    ),
                    "a delivery, or the victim's death",
                )
            except NodeDownError:
                assert self.author is self.victim
            if not self.victim.alive:
                return

    def pour(self, ids: Sequence[str]) -> None:
        """Release all at once, until it breaks."""
        for incident_id in ids:
            try:
                self.release(incident_id)
            except NodeDownError:
                assert self.author is self.victim
                return

    def mend(self) -> None:
        """Release what is still a draft, and wait until everybody has everything."""
        for incident_id in self.drafts:
            if incident_id in self.acknowledged:
                continue
            if self.author.incident(incident_id)["state"] == "draft":
                self.release(incident_id)
            self.acknowledged.add(incident_id)
        for incident_id in self.drafts:
            if incident_id in self.settled:
                continue
            wait(
                lambda i=incident_id: self.author.delivered(i, *self.recipients),  # type: ignore[misc]
                f"the receipts of {incident_id}, after the death {self.effects()[-1:]}",
            )
            self.settled.add(incident_id)

    def check_recipients(self) -> None:
        """Check that each recipient shows each incident once."""
        for key in self.recipients:
            rows = self.net[key].received()
            shown = [row["id"] for row in rows if row["author"] == self.author.key]
            assert sorted(shown) == sorted(self.drafts), f"{key}: {self.effects()[-1:]}"

    def check_logs(self, *nodes: Node) -> None:
        """Check logs and streams of *nodes*, each by itself and with one another."""
        everywhere: dict[tuple[bytes, int, bytes, int], bytes] = {}
        for node in nodes:
            node.verify_log()
            for place, envelope_id in node.places().items():
                assert everywhere.setdefault(place, envelope_id) == envelope_id
            with node.database() as database:
                streams = database.execute("SELECT * FROM streams").fetchall()
            assert all(row["contiguous"] and not row["beyond"] for row in streams), "no gaps"
            notices = node.ask("GET", "/api/v1/status")["notices"]
            assert "equivocation" not in {notice["code"] for notice in notices}

    def check_all(self) -> None:
        """Check everything at every node."""
        self.check_recipients()
        self.check_logs(*self.net.nodes.values())
        released = {place for place in self.author.places() if place[0] == self.author.id}
        assert len(released) == len(self.drafts)
        self.net.check_journals()

    # --- deaths ------------------------------------------------------------------------------
    def die_in_exchange(self, points: Sequence[int], *, only: str = "") -> None:
        """Let the victim die at each of *points* of an exchange, and recover each time."""
        self.victim.stop()
        for point in points:
            arm = self.live(point, only=only)
            self.victim.wait_ready()
            self.mend()
            self.check_recipients()
            ids = self.write(PER_POINT)
            wait(self._reached, "the links of the victim")
            arm.touch()
            self.exchange(ids)
            self.victim.wait_killed(f"the exchange has fewer than {point} effects")
        self.victim.start()
        self.mend()

    def _reached(self) -> bool:
        rows = self.victim.ask("GET", "/api/v1/peers")["items"]
        return {row["name"] for row in rows if row["linked"]} >= self.near

    def die_in_start(self, points: Sequence[int]) -> None:
        """Let the victim die at each of *points* of a start that finds work waiting."""
        self.victim.kill()
        for point in points:
            self._leave_work()
            self.live(point, armed=True)
            self.victim.wait_killed(f"the start has fewer than {point} effects")
        self.victim.start()
        self.mend()

    def _leave_work(self) -> None:
        if self.author is not self.victim:
            for incident_id in self.write(PER_POINT):
                self.release(incident_id)
            return
        # A node that is down is still at its operator's command.
        client = Client(self.author.home.path)
        for number in range(PER_POINT):
            status, row = client.call("POST", "/api/v1/incidents", incident(f"offline {number}"))
            assert status == 201, row
            body = {"to": list(self.recipients), **self.options}
            path = f"/api/v1/incidents/{row['id']}/release"
            assert client.call("POST", path, body)[0] == 202
            self.drafts.append(row["id"])
            self.acknowledged.add(row["id"])


@pytest.fixture
def mesh(tmp_path: Path) -> Iterator[Net]:
    """Three nodes, each linked with each."""
    with Net(tmp_path) as net:
        net.mesh("alder", "birch", "cedar")
        yield net


@pytest.fixture
def star(tmp_path: Path) -> Iterator[Net]:
    """Two nodes that never link with each other, and a carrier that dials both."""
    with Net(tmp_path) as net:
        net.make("alder", peer__dial=False)
        net.make("birch")
        net.make("cedar", peer__dial=False)
        net.start("alder", "birch", "cedar")
        net.pair(("alder", "birch"), ("birch", "cedar"), ("alder", "cedar"))
        wait(lambda: net["birch"].linked("alder", "cedar"), "the links of the carrier")
        assert net["alder"].linked("birch")
        yield net


def settle(exchange: Exchange, within: Sequence[int], starting: Sequence[int]) -> None:
    exchange.die_in_exchange(within)
    exchange.die_in_start(starting)
    # Which effect has which number depends on what else the nodes have to say to one another.
    for kind in sorted(KINDS - set(exchange.effects())):
        exchange.die_in_exchange([1], only=kind)
    exchange.check_all()
    effects = exchange.effects()
    assert len(effects) >= len(within) + len(starting)
    assert set(effects) == KINDS, f"never died at {KINDS - set(effects)}"


def test_an_author_killed_at_any_effect_loses_and_doubles_no_release(mesh: Net) -> None:
    exchange = Exchange(mesh, mesh["alder"], mesh["alder"], ("birch", "cedar"))
    settle(exchange, [*range(1, 15)], [2, 8, 15])


def test_a_recipient_killed_at_any_effect_has_each_incident_once(mesh: Net) -> None:
    exchange = Exchange(mesh, mesh["cedar"], mesh["birch"], ("alder", "birch"))
    settle(exchange, [*range(1, 14)], [2, 7, 15])


def test_a_carrier_killed_at_any_effect_still_brings_incidents_and_receipts(star: Net) -> None:
    exchange = Exchange(star, star["alder"], star["birch"], ("cedar",), {"carriers": ["birch"]})
    settle(exchange, [*range(1, 18)], [3, 15])


def test_an_author_killed_while_receipts_come_by_way_of_a_carrier_gets_them_again(
    tmp_path: Path,
) -> None:
    with Net(tmp_path) as net:
        # Author and recipient dial the carrier, and cannot dial each other.
        for key in ("alder", "birch", "cedar"):
            net.make(key, endpoint=key == "birch")
        net.start("alder", "birch", "cedar")
        net.pair(("alder", "birch"), ("birch", "cedar"), ("alder", "cedar"))
        alder = net["alder"]
        exchange = Exchange(net, alder, alder, ("cedar",), {"carriers": ["birch"]})
        settle(exchange, [4, 5, *range(10, 20)], [3])


@pytest.mark.long
def test_kills_at_random_moments_lose_and_double_nothing(mesh: Net) -> None:
    seed = secrets.randbits(32)
    print(f"seed {seed}")
    dice = random.Random(seed)
    exchange = Exchange(mesh, mesh["alder"], mesh["alder"], ("birch", "cedar"))
    for _ in range(20):
        victim = mesh[dice.choice(("alder", "birch", "cedar"))]
        exchange.victim = victim
        assert victim.process is not None
        timer = threading.Timer(dice.uniform(0.0, 0.4), victim.process.kill)
        ids = exchange.write(10)
        timer.start()
        exchange.pour(ids)
        timer.join()
        victim.wait_killed("the timer had to kill it")
        victim.start()
        exchange.mend()
        exchange.check_recipients()
    exchange.check_all()
