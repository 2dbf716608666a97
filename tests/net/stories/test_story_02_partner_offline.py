"""Story 2, partner offline: nine days down, then back over a slow line.

All 37 incidents, 12 amendments and 2 retractions arrive in causal order, the logs prove that none
is missing, and until then the sender's board does not say that they were received.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from protocol.entry import EntryKind, parse_entry
from tests.net.harness import Net, Node, Row, Tap, free_ports, incident, wait
from tests.net.stories.officer import amend, changes, retract

INCIDENTS: Final = 37
AMENDED: Final = 12
REASONS: Final = ("entered_in_error", "substance_refuted")
RETRACTED: Final = len(REASONS)
ALL: Final = INCIDENTS + AMENDED + RETRACTED
NINE_DAYS: Final = 9 * 86_400_000
SLOW: Final = 24 * 1024
"""Bytes in a second: a line of 192 kbit/s."""
ANNEX: Final = {"narrative": "What was found, and who saw it. " * 80}
"""Long enough that all of it does not fit into one frame."""


@pytest.fixture
def net(tmp_path: Path) -> Iterator[Net]:
    (tapped,) = free_ports(1)
    with Net(tmp_path) as net:
        net.make("alder", endpoint=False)
        birch = net.make("birch", endpoint=tapped, peer__dial=False)
        with Tap(tapped, birch.port, rate=SLOW):
            net.start("alder", "birch")
            net.pair(("alder", "birch"))
            net.wait_linked("alder", "birch")
            yield net
        net.check_journals()


def later(node: Node) -> None:
    """Start a node nine days later."""
    home = str(node.home.path)
    node.launch("-m", "tests.net.wrong_clock", str(NINE_DAYS), "--home", home, "run")


def board(author: Node) -> set[str]:
    """Return which incidents the author's board shows as not received, whatever is lacking."""
    rows = author.ask("GET", "/api/v1/board?limit=500")["incidents"]
    assert len(rows) == INCIDENTS
    assert all(row["not_received"] in ([], ["birch"]) for row in rows)
    return {row["id"] for row in rows if row["not_received"]}


def test_story_02_partner_offline(net: Net) -> None:
    alder, birch = net["alder"], net["birch"]
    birch.stop()
    ids = [alder.draft(incident(f"number {number}", annex=ANNEX)) for number in range(INCIDENTS)]
    for each in ids[:20]:
        alder.release(each, "birch")
    alder.stop()
    later(alder)  # past the end of an epoch of a stream
    alder.wait_ready()
    for each in ids[20:]:
        alder.release(each, "birch")
    for number, each in enumerate(ids[:AMENDED]):
        amend(alder, each, incident(f"number {number}, weighed", annex=ANNEX), note="weighed")
    for each, reason in zip(ids[-RETRACTED:], REASONS, strict=True):
        retract(alder, each, reason)
    assert alder.ask("GET", "/api/v1/status")["outbox"] == ALL
    assert board(alder) == set(ids)

    later(birch)
    birch.wait_ready()
    wait(lambda: bool(changes(birch)), "the first of it")
    said = board(alder)
    held = {row["id"] for row in changes(birch)}
    assert said, "the line was not slow"
    assert set(ids) - said <= held, "the board says that it was received, and it was not"
    wait(lambda: alder.ask("GET", "/api/v1/status")["outbox"] == 0, "every receipt")
    assert board(alder) == set()

    check_order(changes(birch), ids)
    check_content(birch, ids)
    check_no_gap(alder, birch)


def check_order(seen: list[Row], ids: list[str]) -> None:
    """Check that all is there, and that each incident stands before what was written of it."""
    assert len(seen) == ALL
    lives = {each: [row["what"] for row in seen if row["id"] == each] for each in ids}
    report, amended, retracted = "incident.report", "incident.amend", "incident.retract"
    assert all(lives[each] == [report, amended] for each in ids[:AMENDED])
    assert all(lives[each] == [report] for each in ids[AMENDED:-RETRACTED])
    assert all(lives[each] == [report, retracted] for each in ids[-RETRACTED:])
    indexes = [row["log_index"] for row in seen]
    assert indexes == sorted(indexes)


def check_content(birch: Node, ids: list[str]) -> None:
    """Check that the partner sees each incident as it stands now."""
    shown = [birch.incident(each) for each in ids]
    summaries = [f"number {n}{', weighed' * (n < AMENDED)}" for n in range(INCIDENTS)]
    assert [row["summary"] for row in shown] == summaries
    assert [row["revision"] for row in shown] == [2] * AMENDED + [1] * (INCIDENTS - AMENDED)
    last = [row["retracted"] for row in shown[-RETRACTED:]]
    assert last == list(REASONS)
    assert not any(row["retracted"] for row in shown[:-RETRACTED])


def check_no_gap(alder: Node, birch: Node) -> None:
    """Check by both logs that nothing is missing."""
    sent, taken = alder.places(), birch.places()
    assert sent == taken
    assert len(taken) == ALL
    streams: dict[tuple[bytes, int, bytes], list[int]] = {}
    for author, incarnation, stream, seq in taken:
        streams.setdefault((author, incarnation, stream), []).append(seq)
    assert len(streams) > 1, "alder was started again in between"
    for numbers in streams.values():
        assert sorted(numbers) == list(range(1, len(numbers) + 1))
    with birch.database() as database:
        entries = [parse_entry(row["entry"]) for row in database.execute("SELECT * FROM entries")]
    received = [entry.subject for entry in entries if entry.kind is EntryKind.RECEIVED]
    assert sorted(received) == sorted(sent.values())
    for node in (alder, birch):
        node.verify_log()
    with alder.database() as database:
        receipts = database.execute("SELECT DISTINCT envelope_id FROM receipts").fetchall()
    assert {row["envelope_id"] for row in receipts} == set(sent.values())
