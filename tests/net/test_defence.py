"""Hostile traffic and hostile conditions: each has a named outcome, and nobody else is hurt by it.

What single frames and envelopes can do is in ``test_peers.py``; what connections can do, with short
deadlines, in ``tests/node/test_transport.py``. Here are outcomes that need whole nodes: deadlines
as they are in service, wrong clocks, a full disk, restarts, and floods.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import secrets
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import datetime
from http import HTTPStatus
from pathlib import Path
from typing import Final

import pytest
from prometheus_client.parser import text_string_to_metric_families

from node.core import Shipment
from node.transport import Link, dial
from protocol import envelope, limits, quota, suite
from protocol.canonical import encode
from protocol.envelope import Envelope, Header
from protocol.errors import LinkError
from protocol.frames import (
    SHORT_ID,
    Deliver,
    Receipts,
    Refusal,
    Refuse,
    Runs,
    WantStatements,
    encode_frame,
)
from protocol.incident import parse_incident, to_record
from protocol.receipt import complete
from tests.net.harness import PATIENCE_S, AnswerError, Net, Node, incident, wait
from tests.net.puppet import NotLetInError, Puppet, PuppetLink, node_sees
from tests.net.test_peers import check_service, holds, refusal

MIB: Final = 1024 * 1024
DAY: Final = 86_400_000
YEAR: Final = 365 * DAY
Make = Callable[[str], Puppet]
_numbers = itertools.count(1)


@pytest.fixture(scope="module")
def net(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Net]:
    with Net(tmp_path_factory.mktemp("defence")) as net:
        net.mesh("alder", "birch")
        yield net


@pytest.fixture
def alder(net: Net) -> Iterator[Node]:
    """The node that is wronged; afterwards it must serve as before."""
    yield net["alder"]
    check_service(net)
    net.check_journals()


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Make]:
    """Make puppets whose names no other test used."""
    with ExitStack() as stack:

        def make_puppet(name: str) -> Puppet:
            return stack.enter_context(Puppet(tmp_path, f"{name}{next(_numbers)}"))

        yield make_puppet


@pytest.fixture
def mallory(make: Make, alder: Node) -> Puppet:
    """A peer whom the operator of alder trusts fully."""
    mallory = make("mallory")
    mallory.befriend(alder)
    return mallory


# --- what a node says of it ------------------------------------------------------------------
def counted(node: Node, name: str, **labels: str) -> float:
    """Return what *node* counted under *name*, over all series that have *labels*."""
    status, body = node.exchange("GET", "/metrics")
    assert status == HTTPStatus.OK, body
    return sum(
        sample.value
        for family in text_string_to_metric_families(body.decode())
        for sample in family.samples
        if sample.name == name and labels.items() <= sample.labels.items()
    )


@contextmanager
def counts(node: Node, name: str, *, least: int = 1, **labels: str) -> Iterator[None]:
    """Check that *node* counts the block under *name*, *least* times at least."""
    before = counted(node, name, **labels)
    yield
    wait(lambda: counted(node, name, **labels) >= before + least, f"{name} {labels} to rise")


def notices(node: Node, code: str) -> list[str]:
    """Return the notices of that code which the operator sees in ``picket status``."""
    found = node.ask("GET", "/api/v1/status")["notices"]
    return [notice["message"] for notice in found if notice["code"] == code]


def said(node: Node, event: str, **values: str) -> bool:
    """Whether the journal of *node* has a line of this event with these values."""
    lines = node.journal.read_text(errors="replace").splitlines()
    rows = [json.loads(line) for line in lines if line.startswith("{")]
    return any(row.get("event") == event and values.items() <= row.items() for row in rows)


# --- before a link -----------------------------------------------------------------------------
@dataclass
class Idler:
    """A connection that never becomes a link: it sends a byte now and then, or nothing at all."""

    kind: str
    connection: socket.socket
    dribble: bytes
    ended: float = 0.0

    def poll(self) -> bool:
        """Send the next byte; whether the node has ended the connection."""
        if self.ended:
            return True
        try:
            if self.dribble:
                self.connection.send(self.dribble[:1])
                self.dribble = self.dribble[1:]
            if self.connection.recv(4096) == b"":
                self.ended = time.monotonic()
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError, BlockingIOError):
            pass
        except OSError:
            self.ended = time.monotonic()
        return bool(self.ended)


def client_hello() -> bytes:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    with pytest.raises(ssl.SSLWantReadError):
        context.wrap_bio(incoming, outgoing).do_handshake()
    return outgoing.read()


def idle(kind: str, node: Node, puppet: Puppet) -> Idler:
    """Connect to *node* and stop somewhere on the way to a link."""
    connection = socket.create_connection(("127.0.0.1", node.port))
    dribble = b""
    if kind == "hello":
        dribble = client_hello()[:-1]
    elif kind == "http":
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        context.load_cert_chain(puppet.home.tls_pem)
        connection = context.wrap_socket(connection)
        dribble = b"GET /picket/1 HTTP/1.1\r\nX-Filler: " + b"y" * 4_000
    connection.setblocking(False)
    return Idler(kind, connection, dribble)


def all_ended(idlers: Sequence[Idler]) -> bool:
    ended = [idler.poll() for idler in idlers]  # each has its turn, whatever the others are at
    return all(ended)


def test_connections_that_never_become_links_are_bounded_and_end_in_time(
    net: Net, alder: Node, mallory: Puppet
) -> None:
    kinds = ["silent", "hello", "http"]
    begun = time.monotonic()
    with (
        ExitStack() as stack,
        counts(alder, "picket_handshake_timeouts_total", least=limits.MAX_HALF_OPEN_PER_ADDRESS),
        counts(alder, "picket_connections_refused_total", reason="half-open-address"),
    ):
        idlers = []
        for _, kind in zip(
            range(limits.MAX_HALF_OPEN_PER_ADDRESS), itertools.cycle(kinds), strict=False
        ):
            idler = idle(kind, alder, mallory)
            stack.callback(idler.connection.close)
            idlers.append(idler)
        # One more finds no place, and those who are linked do not notice.
        with socket.create_connection(("127.0.0.1", alder.port), timeout=5) as late:
            assert late.recv(1) == b""
        check_service(net)
        assert not any(idler.poll() for idler in idlers), "their time is not over yet"
        wait(lambda: all_ended(idlers), "the connections to be ended", 30)
    due = limits.HELLO_TIMEOUT_MS / 1000
    for idler in idlers:
        assert due - 0.5 < idler.ended - begun < due + 8, idler.kind
    mallory.link(alder)  # the places are free again


def test_a_peer_that_opens_a_link_and_says_nothing_is_shown_out(
    alder: Node, mallory: Puppet
) -> None:
    peer = mallory.core.trust.find(alder.key)

    async def listen() -> bytes | None:
        link: Link = await dial(
            f"wss://127.0.0.1:{alder.port}",
            identity_pem=mallory.home.tls_pem,
            expected=peer.card.tls,
        )
        try:
            hello = await link.receive()
            assert hello is not None
            return await link.receive()
        finally:
            await link.close("done")

    begun = time.monotonic()
    with counts(alder, "picket_links_closed_total", code="link-timeout"):
        assert mallory.run(listen()) is None
    assert limits.HELLO_TIMEOUT_MS / 1000 - 0.5 < time.monotonic() - begun < 20
    assert not node_sees(alder, mallory.name)


# --- slow readers ----------------------------------------------------------------------------
def test_a_peer_that_asks_and_does_not_read_is_cut_with_a_reason(
    net: Net, alder: Node, mallory: Puppet
) -> None:
    silent = mallory.link(alder, reads=False)
    wait(lambda: node_sees(alder, mallory.name), "the link")
    with counts(alder, "picket_slow_readers_cut_total", peer=mallory.name):
        silent.flood(WantStatements(alder.id, 0), 40_000, seconds=30)
        wait(lambda: not node_sees(alder, mallory.name), "the slow reader to be cut")
        check_service(net)
    assert said(alder, "link-closed", peer=mallory.name, code="link-timeout")
    # It was cut, not banned.
    sealed = mallory.release("reads again", [alder.id])
    assert isinstance(mallory.link(alder).deliver(sealed.wire), Receipts)


# --- replays ---------------------------------------------------------------------------------
def test_an_envelope_replayed_a_thousand_times_and_after_a_restart_is_stored_once(
    net: Net, alder: Node, mallory: Puppet
) -> None:
    sealed = mallory.release("again and again", [alder.id])
    link = mallory.link(alder)
    first = link.deliver(sealed.wire)
    assert isinstance(first, Receipts)
    size = alder.verified_acts()
    with counts(alder, "picket_duplicates_total", least=100):
        link.flood(Deliver((sealed.wire,) * 100), 10, seconds=30)
        link.expect(Receipts, 2)
    assert alder.verified_acts() == size

    # What was taken is remembered by the log itself, not by the process.
    alder.stop()
    alder.start()
    net.wait_linked("alder", "birch")
    again = mallory.link(alder).deliver(sealed.wire)
    assert isinstance(again, Receipts)
    assert [item.index for item in again.items] == [item.index for item in first.items]
    assert alder.verified_acts() == size


# --- clocks ----------------------------------------------------------------------------------
def dated(author: Puppet, to: bytes, carriers: Sequence[bytes], *, created: int) -> Envelope:
    """Return an envelope that *author* dates *created*; as genuine as any other."""
    vault, _ = author.core.opened()
    own = author.core.trust.own
    recipients = {to: author.core.trust.peer(to).card}
    audience = envelope.audience_of(
        author.core.card, recipients, carriers, now=author.core.clock.now()
    )
    cards = (author.core.card, *recipients.values())
    header = Header(
        network=own.network, author=own.node_id, card_n=own.head.n, incarnation=1,
        stream=secrets.token_bytes(envelope.STREAM_SIZE), seq=1, prev=suite.ZERO, created=created,
        expires=created + limits.MAX_LIFETIME_MS, kind=envelope.KIND_RECORD, epoch=1, opener=None,
        audience_digest=suite.ZERO, anchor=None,
    )  # fmt: skip
    return envelope.open_epoch(
        header,
        body("dated"),
        audience=audience,
        seal_keys={seal.ekid: seal.public for card in cards for seal in card.seal},
        epoch_key=secrets.token_bytes(suite.KEY_SIZE),
        signer=vault.message,
    )


def body(summary: str) -> bytes:
    record = to_record(
        parse_incident(incident(summary)),
        incident_id=f"{secrets.token_hex(4)}-0000-4000-8000-{secrets.token_hex(6)}",
        ref="PI-XP-2026-7K3F9Q",
        revision=1,
        prev=None,
        layers=frozenset({"face"}),
        first_shared_at="2026-03-04T08:20:00Z",
    )
    return encode(record)


def test_an_expired_envelope_is_not_carried_but_still_taken_by_its_recipient(
    net: Net, alder: Node, mallory: Puppet
) -> None:
    mallory.know(net["birch"].chain(), "birch")
    long_ago = mallory.core.clock.now() - limits.MAX_LIFETIME_MS - DAY
    link = mallory.link(alder)
    to_carry = dated(mallory, net["birch"].id, [alder.id], created=long_ago)
    with counts(alder, "picket_envelopes_refused_total", code="expired"):
        assert refusal(link.deliver(to_carry.wire), to_carry.id) == "expired"
    assert not holds(alder, to_carry.id)

    to_read = dated(mallory, alder.id, [], created=long_ago)
    assert isinstance(link.deliver(to_read.wire), Receipts), "late is better than never"
    assert holds(alder, to_read.id)


@pytest.mark.parametrize("skew", [YEAR, -YEAR], ids=["a year ahead", "a year behind"])
def test_an_envelope_dated_by_a_wrong_clock_is_taken_and_put_in_order_of_arrival(
    alder: Node, mallory: Puppet, skew: int
) -> None:
    now = mallory.core.clock.now()
    link = mallory.link(alder)
    least = 1 if skew > 0 else 0  # an old date may be no more than an old report
    with counts(alder, "picket_clock_skews_total", least=least, peer=mallory.name):
        wires = [
            dated(mallory, alder.id, [], created=created).wire for created in (now, now + skew, now)
        ]
        places = []
        for wire in wires:
            answer = link.deliver(wire)
            assert isinstance(answer, Receipts)
            places += [item.index for item in answer.items]
    assert places == sorted(places)
    assert not link.ended


_SKEWED: Final = """
import node.app
from node.clock import SystemClock

class Skewed(SystemClock):
    def now(self):
        return super().now() + {skew}

node.app.SystemClock = Skewed
"""
_STARVED: Final = """
import functools, pathlib, sqlite3

class Starved(sqlite3.Connection):
    def execute(self, sql, parameters=()):
        if sql == "BEGIN IMMEDIATE":
            # SQLite takes the present size instead of 1: then it can grow by no page.
            pages = 1 if pathlib.Path({flag!r}).exists() else 1_000_000_000
            super().execute(f"PRAGMA main.max_page_count = {{pages}}")
        return super().execute(sql, parameters)

sqlite3.connect = functools.partial(sqlite3.connect, factory=Starved)
"""
_RUN: Final = """
import sys
from node.cli import main

sys.argv = ["picket", "--home", sys.argv[1], "run"]
main()
"""


def start_changed(node: Node, change: str) -> None:
    """Start *node* in a world that *change* makes."""
    node.start("-c", change + _RUN, str(node.home.path))


@pytest.mark.parametrize("skew", [YEAR, -YEAR], ids=["a year ahead", "a year behind"])
def test_a_node_with_a_wrong_clock_links_receives_and_receipts(tmp_path: Path, skew: int) -> None:
    with Net(tmp_path) as net:
        net.mesh("alder", "cedar")
        alder, cedar = net["alder"], net["cedar"]
        cedar.stop()
        start_changed(cedar, _SKEWED.format(skew=skew))
        net.wait_linked("alder", "cedar")
        for number in range(3):
            incident_id = alder.draft(incident(f"number {number}"))
            alder.release(incident_id, "cedar")
            wait(
                lambda i=incident_id: alder.delivered(i, "cedar"),  # type: ignore[misc]
                "a receipt of the node with the wrong clock",
            )
        summaries = [row["summary"] for row in cedar.received()]
        assert sorted(summaries) == [f"number {number}" for number in range(3)]
        # It cannot seal to keys that are out of their time by its clock, and says so.
        with pytest.raises(AnswerError, match="no sealing key valid now"):
            cedar.release(cedar.draft(incident("from another year")), "alder")
        for node in (alder, cedar):
            node.verify_log()
            node.places()
        net.check_journals()


# --- a full disk -----------------------------------------------------------------------------
def test_a_node_whose_disk_is_full_says_busy_serves_reads_and_recovers_by_itself(
    tmp_path: Path,
) -> None:
    flag = tmp_path / "disk-is-full"
    with Net(tmp_path) as net, Puppet(tmp_path, "author") as author:
        alder = net.make("alder")
        start_changed(alder, _STARVED.format(flag=str(flag)))
        author.befriend(alder)
        link = author.link(alder)
        before = author.release("before", [alder.id])
        assert isinstance(link.deliver(before.wire), Receipts)

        flag.touch()
        with counts(alder, "picket_disk_busy_total"):
            refused = deliver_until_busy(author, link, alder)
        assert refused.retry_after >= 1_000
        # Nothing is lost, the link stays, and what only reads goes on.
        assert holds(alder, before.id)
        alder.verify_log()
        assert alder.received()
        assert not link.ended

        flag.unlink()
        held = author.core.held(refused.envelope_id)
        assert held is not None
        assert isinstance(link.deliver(held.wire), Receipts)
        alder.verify_log()
        alder.places()
        net.check_journals()


def deliver_until_busy(author: Puppet, link: PuppetLink, node: Node) -> Refusal:
    """Deliver one envelope after the other until the free pages are used up."""
    for number in range(200):
        answer = link.deliver(author.release(f"number {number}", [node.id]).wire)
        if isinstance(answer, Refuse):
            (item,) = answer.items
            assert item.code == "busy"
            return item
    raise AssertionError("the disk never got full")


# --- bad signatures --------------------------------------------------------------------------
def test_ten_bad_signatures_end_the_link_and_keep_the_peer_out_for_a_while(
    alder: Node, mallory: Puppet
) -> None:
    link = mallory.link(alder)
    sealed = mallory.release("badly signed", [alder.id])
    with (
        counts(alder, "picket_bad_signatures_total", least=10, peer=mallory.name),
        counts(alder, "picket_backoffs_total", peer=mallory.name),
    ):
        for number in range(quota.BAD_SIGNATURES):
            link.send(Deliver((unsigned(sealed, number),)))
        link.expect_end()
        answers = [item.code for frame in link.of(Refuse) for item in frame.items]
        assert set(answers) == {"bad-signature"}
        assert not holds(alder, sealed.id)
        for _ in range(3):
            with pytest.raises((AssertionError, LinkError, NotLetInError)):
                mallory.link(alder)
    assert not node_sees(alder, mallory.name)
    # Whether to go on with that authority is for a person to decide, who is told.
    assert alder.ask("GET", f"/api/v1/peers/{mallory.name}")["level"] == "share"
    assert any(mallory.name in message for message in notices(alder, "kept-out"))


def unsigned(sealed: Envelope, number: int) -> bytes:
    """Return the envelope with another byte of its signature flipped each time."""
    at = sealed.wire.index(sealed.signature) + number
    return sealed.wire[:at] + bytes([sealed.wire[at] ^ 1]) + sealed.wire[at + 1 :]


# --- floods ----------------------------------------------------------------------------------
FLOOD: Final = 4_000
"""Envelopes poured: more than the burst and the rate allow within the time of the test."""
SAMPLES: Final = 100


def many(author: Puppet, count: int, to: bytes) -> list[Envelope]:
    """Seal *count* incidents to one node; log them at the author; deliver nothing."""
    card = author.core.trust.peer(to).card
    found = []
    for first in range(0, count, 200):
        shipments = [
            Shipment(body(f"flood {first + n}"), "face", {to: card}, ())
            for n in range(min(200, count - first))
        ]
        for envelope_id in author.core.release(secrets.token_bytes(32), shipments):
            held = author.core.held(envelope_id)
            assert held is not None
            found.append(held)
    return found


def packed(envelopes: Sequence[Envelope], count: int = 50) -> list[bytes]:
    """Return the payloads of frames that bring *envelopes*."""
    return [
        encode_frame(Deliver(tuple(each.wire for each in envelopes[first : first + count])))
        for first in range(0, len(envelopes), count)
    ]


class Flood:
    """Pours frames over a link as fast as the other end takes them, while its block runs."""

    def __init__(self, puppet: Puppet, link: PuppetLink, payloads: Sequence[bytes]) -> None:
        self._puppet, self._link, self._payloads = puppet, link, payloads
        self._over = False
        self._thread = threading.Thread(target=self._work)
        self.poured = 0

    def _work(self) -> None:
        self._puppet.run(self._pour(), PATIENCE_S * 5)

    async def _pour(self) -> None:
        for payload in itertools.cycle(self._payloads):
            if self._over or self._link.ended:
                return
            await self._link._link.send(self._link._out.wrap(payload))
            self.poured += 1
            await asyncio.sleep(0)  # the reader of the answers shares the loop

    def __enter__(self) -> Flood:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over = True
        self._thread.join()


def latencies(author: Node, recipient: Node, count: int) -> list[float]:
    """Release *count* incidents one after the other; return ms from release to verified receipt."""
    found = []
    for number in range(count):
        incident_id = author.draft(incident(f"measured {number}"))
        begun = time.time() * 1000
        author.release(incident_id, recipient.key)
        wait(
            lambda i=incident_id: author.delivered(i, recipient.key),  # type: ignore[misc]
            f"delivery to {recipient.key}",
        )
        (item,) = author.ask("GET", f"/api/v1/incidents/{incident_id}/deliveries")["items"]
        found.append(datetime.fromisoformat(item["at"]).timestamp() * 1000 - begun)
    return found


def p99(values: Sequence[float]) -> float:
    return sorted(values)[len(values) * 99 // 100 - 1]


@dataclass(frozen=True)
class Answers:
    """What the flooder was told so far."""

    taken: frozenset[bytes]
    refused: dict[bytes, Refusal]

    @staticmethod
    def of(link: PuppetLink, sent: Sequence[Envelope]) -> Answers:
        taken = {item.envelope_id for frame in link.of(Receipts) for item in frame.items}
        known = {each.id[:SHORT_ID]: each.id for each in sent}
        bulk = [complete(frame, known) for frame in link.of(Runs)]
        taken.update(key for frame in bulk for run in frame.runs for key in run.ids)
        refused = {item.envelope_id: item for frame in link.of(Refuse) for item in frame.items}
        return Answers(frozenset(taken), refused)


def test_a_flooder_is_held_to_its_quota_and_named_and_nobody_else_notices(
    net: Net, alder: Node, make: Make
) -> None:
    flooder = make("flooder")
    flooder.befriend(alder)
    flood = many(flooder, FLOOD, alder.id)
    latencies(net["birch"], alder, 20)  # connections, caches and imports are warm
    calm = latencies(net["birch"], alder, SAMPLES)

    link = flooder.link(alder)
    memory = alder.reset_peak()
    begun = time.monotonic()
    with (
        counts(alder, "picket_quota_refusals_total", least=100, peer=flooder.name),
        Flood(flooder, link, packed(flood)) as pouring,
    ):
        wait(lambda: bool(link.of(Refuse)), "the flooder to be refused")
        stormy = latencies(net["birch"], alder, SAMPLES)
        back = latencies(alder, net["birch"], 20)
    lasted = time.monotonic() - begun

    # Held to its quota by refusals that say when to come again; the link stays.
    answers = Answers.of(link, flood)
    assert {item.code for item in answers.refused.values()} == {quota.QUOTA}
    assert all(0 < item.retry_after <= 60_000 for item in answers.refused.values())
    assert not link.ended
    assert node_sees(alder, flooder.name)
    allowed = quota.ENVELOPES_BURST + quota.ENVELOPES_PER_S * (lasted + 5)
    assert quota.ENVELOPES_BURST <= len(answers.taken) <= allowed
    assert pouring.poured * 50 > 2 * len(answers.taken), "it was no flood"

    # What was within the quota is logged and provable.
    assert all(holds(alder, envelope_id) for envelope_id in answers.taken)
    alder.verify_log()

    # The operator is told who it is; its trust is left to a person.
    assert any(flooder.name in message for message in notices(alder, "over-quota"))
    assert not any("birch" in message for message in notices(alder, "over-quota"))
    assert alder.ask("GET", f"/api/v1/peers/{flooder.name}")["level"] == "share"

    # Nobody else noticed.
    figures = f"p99 calm {p99(calm):.1f} ms, in the flood {p99(stormy):.1f} ms"
    assert p99(stormy) < 3 * p99(calm), figures
    assert max(back) < 10_000
    grown = alder.peak() - memory
    assert grown < 48 * MIB, f"{grown / MIB:.0f} MiB more resident"

    # A new link brings no new burst; what was refused is taken once its time has come.
    link.close()
    wait(lambda: not node_sees(alder, flooder.name), "the link to end")
    again = flooder.link(alder)
    rest = [each for each in flood if each.id not in answers.taken]
    assert len(rest) > 500
    for payload in packed(rest[:500]):
        again.send_payload(payload)
    wait(lambda: bool(again.of(Refuse)), "the flooder to be refused again")
    wait(lambda: accepted(again, rest[-1]), "what was refused to be taken later")


def accepted(link: PuppetLink, sealed: Envelope) -> bool:
    """Offer an envelope once more; whether it is held now."""
    before = len(link.answers())
    link.send(Deliver((sealed.wire,)))
    wait(lambda: len(link.answers()) > before, "an answer to a delivery")
    single = {item.envelope_id for frame in link.of(Receipts) for item in frame.items}
    short = {key for frame in link.of(Runs) for run in frame.runs for key in run.ids}
    return sealed.id in single or sealed.id[:SHORT_ID] in short
