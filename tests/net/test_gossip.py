"""Gossip between real nodes: what was missed arrives, once, in order, whoever is up meanwhile."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from node.app import reopen_log
from node.exchange import COMPARE_MS
from protocol.frames import Receipts
from tests.net.harness import Net, Node, NodeDownError, Tap, free_ports, incident, wait
from tests.net.puppet import Puppet

PASSED = 1_000
CATCH_UP_S = 240.0


@pytest.fixture
def net(tmp_path: Path) -> Iterator[Net]:
    with Net(tmp_path) as net:
        yield net
        net.check_journals()


def released(author: Node, count: int, *to: str, **options: object) -> list[str]:
    """Release *count* incidents and return their ids."""
    ids = [author.draft(incident(f"number {n}")) for n in range(count)]
    for incident_id in ids:
        author.release(incident_id, *to, **options)
    return ids


def held(node: Node) -> list[tuple[bytes, int]]:
    """Return (stream, number) of every envelope that the node holds, as it logged them."""
    with node.database() as database:
        rows = database.execute("SELECT stream, seq FROM envelopes ORDER BY log_index").fetchall()
    return [(row["stream"], row["seq"]) for row in rows]


def count(node: Node, sql: str, *values: object) -> int:
    with node.database() as database:
        return int(database.execute(sql, values).fetchone()[0])


def settled(author: Node, recipient: bytes) -> int:
    """Return for how many deliveries to *recipient* the author holds a receipt."""
    return count(
        author,
        "SELECT count(*) FROM outbox o JOIN receipts r "
        "ON r.envelope_id = o.envelope_id AND r.recipient = o.peer "
        "WHERE o.peer = ? AND o.state = 'received'",
        recipient,
    )


def check_whole(node: Node, *, total: int) -> None:
    """Check that a node holds *total* envelopes, each once, each stream in order and whole."""
    places = node.places()
    assert len(places) == total
    numbers: dict[bytes, list[int]] = {}
    for stream, seq in held(node):
        numbers.setdefault(stream, []).append(seq)
    for found in numbers.values():
        assert found == list(range(1, len(found) + 1)), "in the order of their stream"
    with node.database() as database:
        rows = database.execute("SELECT stream, contiguous, beyond FROM streams").fetchall()
    assert {row["stream"]: row["contiguous"] for row in rows} == {
        stream: len(found) for stream, found in numbers.items()
    }
    assert not [row for row in rows if row["beyond"]], "no gaps"
    assert node.verify_log()["envelopes_checked"] == total


# --- by way of others --------------------------------------------------------------------------
def test_a_thousand_envelopes_pass_a_carrier_to_a_node_that_is_never_up_with_their_author(
    net: Net,
) -> None:
    net.mesh("alder", "birch", "cedar", "dogwood")
    alder, birch, cedar = net["alder"], net["birch"], net["cedar"]
    cedar_id = cedar.id
    net.stop("cedar", "dogwood")
    # Two streams, in turn, so that their order is more than the order of all.
    for _ in range(PASSED // 20):
        released(alder, 10, "cedar", carriers=["birch"])
        released(alder, 10, "cedar", "dogwood", carriers=["birch"])
    carried = "SELECT count(*) FROM outbox WHERE route = 'carrier' AND state = 'carried'"
    wait(lambda: count(alder, carried) == PASSED, "the carrier's receipts", CATCH_UP_S)
    check_whole(birch, total=PASSED)
    net.stop("alder")

    cedar.start()
    wait(lambda: len(held(cedar)) == PASSED, "all to arrive", CATCH_UP_S)
    check_whole(cedar, total=PASSED)
    with pytest.raises(NodeDownError):
        alder.ask("GET", "/readyz")
    assert not [row for row in birch.received() if row["author"] == "alder"], "it only carried"
    forwarded = "SELECT count(*) FROM outbox WHERE peer = ? AND state = 'received'"
    wait(lambda: count(birch, forwarded, cedar_id) == PASSED, "the receipts of cedar", CATCH_UP_S)
    net.stop("cedar")

    alder.start()
    wait(lambda: settled(alder, cedar_id) == PASSED, "the receipts by way of birch", CATCH_UP_S)
    assert alder.ask("GET", "/api/v1/status")["outbox"] == PASSED // 2, "what dogwood is owed"
    alder.verify_log()


def test_a_member_brings_what_the_author_cannot(net: Net) -> None:
    net.mesh("alder", "birch", "cedar")
    alder, birch, cedar = net["alder"], net["birch"], net["cedar"]
    cedar_id = cedar.id
    net.stop("cedar")
    released(alder, 20, "birch", "cedar")
    alone = released(alder, 1, "cedar")[0]
    wait(lambda: len(held(birch)) == 20, "birch to have all of its own")
    net.stop("alder")
    cedar.start()
    wait(lambda: len(held(cedar)) == 20, "birch to bring what both read")
    check_whole(cedar, total=20)
    assert len(cedar.received()) == 20
    assert not cedar.reads(alone)

    cedar.stop()
    alder.start()
    wait(lambda: settled(alder, cedar_id) == 20, "the receipts by way of birch")
    assert alder.ask("GET", "/api/v1/status")["outbox"] == 1
    cedar.start()
    wait(lambda: alder.delivered(alone, "cedar"), "what the author alone could bring")
    check_whole(cedar, total=21)


def test_what_a_node_lost_with_its_disk_comes_back(net: Net, tmp_path: Path) -> None:
    net.mesh("alder", "birch")
    alder, birch = net["alder"], net["birch"]
    birch_id = birch.id
    released(alder, 5, "birch")
    wait(lambda: settled(alder, birch_id) == 5, "the first receipts")
    birch.stop()
    backup = tmp_path / "backup"
    shutil.copytree(birch.home.path, backup, ignore=shutil.ignore_patterns("*.sock"))
    birch.start()
    released(alder, 40, "birch")
    wait(lambda: settled(alder, birch_id) == 45, "all receipts")
    own = birch.draft(incident("from birch"))
    birch.release(own, "alder")
    wait(lambda: birch.delivered(own, "alder"), "alder to receive it")

    birch.stop()
    shutil.rmtree(birch.home.path)
    shutil.copytree(backup, birch.home.path)
    # Alder holds heads of its log that the copy does not know: its operator begins a new one.
    reopen_log(birch.home.path, birch.passphrase.encode)
    birch.start()
    wait(lambda: len(held(birch)) == 46, "all that was lost, and what it wrote itself")
    check_whole(birch, total=46)
    assert len(birch.received()) == 45
    wait(lambda: count(birch, "SELECT count(*) FROM receipts") == 1, "the receipt of its own")
    # It goes on under a new incarnation: nobody takes it for a fork.
    again = birch.draft(incident("after the loss"))
    birch.release(again, "alder")
    wait(lambda: birch.delivered(again, "alder"), "alder to receive that too")
    for node in (alder, birch):
        node.verify_log()
        assert len(node.places()) == 47


# --- cut connections ---------------------------------------------------------------------------
def test_a_connection_cut_at_any_byte_of_a_catch_up_loses_and_doubles_nothing(net: Net) -> None:
    """The other end is reached through a proxy that cuts each connection a little later."""
    (port,) = free_ports(1)
    net.make("alder")
    net.make("birch", endpoint=port, peer__dial=False)
    alder, birch = net["alder"], net["birch"]
    net.start("alder", "birch")
    net.pair(("alder", "birch"))
    birch_id = birch.id
    total = 300
    released(alder, total, "birch")
    assert held(birch) == []
    # TLS and greeting take about 11 KB, one envelope about 1.4 KB, all about 450 KB.
    cuts = [*range(13_000, 27_000, 997), *range(27_001, 90_000, 9_973)]
    for number, early in enumerate((700, 4_000, 9_000)):
        cuts.insert(5 * number + 2, early)
    with Tap(port, birch.port, cuts=cuts) as tap:
        wait(lambda: not tap.left, "every cut to be made", CATCH_UP_S)
        wait(lambda: settled(alder, birch_id) == total, "all receipts", CATCH_UP_S)
        check_whole(birch, total=total)
        assert alder.verify_log()["receipts_checked"] == total
        assert alder.ask("GET", "/api/v1/status")["outbox"] == 0
        net.stop("alder", "birch")


# --- forks -------------------------------------------------------------------------------------
def test_members_who_were_told_two_things_find_out_by_themselves(net: Net, tmp_path: Path) -> None:
    net.mesh("alder", "birch")
    alder, birch = net["alder"], net["birch"]
    folder = tmp_path / "puppets"
    folder.mkdir()
    with Puppet(folder, "mallory") as mallory:
        for node in (alder, birch):
            mallory.befriend(node)
        first = mallory.release("to both", [alder.id, birch.id])
        one, other = (fork(mallory, text, alder.id, birch.id) for text in ("yes", "no"))
        for node, second in ((alder, one), (birch, other)):
            link = mallory.link(node)
            assert isinstance(link.deliver(first.wire), Receipts)
            assert isinstance(link.deliver(second), Receipts)
        for node in (alder, birch):
            wait(
                lambda n=node: "mallory" in fork_notice(n),  # type: ignore[misc]
                "the fork to be found, at the next comparison at the latest",
                2 * COMPARE_MS / 1_000,
            )
            assert "alder" not in fork_notice(node)
            assert "birch" not in fork_notice(node)
            assert node.verify_log()["ok"]
            with node.database() as database:
                proofs = database.execute("SELECT proof FROM forks").fetchall()
            assert len(proofs) == 1
            assert node.linked("mallory", *({"alder", "birch"} - {node.key})), "none is cut off"


def fork(puppet: Puppet, text: str, *to: bytes) -> bytes:
    """Return an envelope that the puppet signs and forgets: the next stands in the same place."""

    class ForgetError(Exception):
        pass

    core = puppet.core
    cases, core.cases = core.cases, None
    wire = b""
    with suppress(ForgetError), core.logged():
        wire = puppet.release(text, to).wire
        raise ForgetError
    core.cases = cases
    return wire


def fork_notice(node: Node) -> str:
    """Return what the node tells its operator of forks."""
    notices = node.ask("GET", "/api/v1/status")["notices"]
    return " ".join(n["message"] for n in notices if n["code"] == "equivocation")
