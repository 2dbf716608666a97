"""Keys of links and messages change while nodes talk, and while a peer is away; nothing is lost."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from node.certificates import from_pem
from tests.net.harness import Net, Node, incident, wait


@pytest.fixture
def net(tmp_path: Path) -> Iterator[Net]:
    """Alder rotates; birch never dials, so alder must; nobody can dial cedar, so cedar must."""
    with Net(tmp_path) as net:
        net.make("alder")
        net.make("birch", peer__dial=False)
        net.make("cedar", endpoint=False)
        net.start("alder", "birch", "cedar")
        net.pair(("alder", "birch"), ("alder", "cedar"))
        linked(net)
        yield net


def linked(net: Net) -> None:
    wait(lambda: net["alder"].linked("birch", "cedar"), "both links of alder")


def sent(node: Node, what: str) -> str:
    draft = node.draft(incident(what))
    node.release(draft, "birch", "cedar")
    return draft


def arrived(net: Net, *drafts: str) -> None:
    for draft in drafts:
        wait(lambda d=draft: net["alder"].delivered(d, "birch", "cedar"), "a report")  # type: ignore[misc]
    net["birch"].verify_log()
    net["cedar"].verify_log()
    net.check_journals()


def rotate_tls(node: Node, *, now: bool) -> int:
    return int(node.ask("POST", "/api/v1/keys/rotate-tls", {"now": now})["number"])


def shown(node: Node) -> bytes:
    return from_pem(node.home.tls_pem.read_bytes())


def knows(node: Node, number: int) -> bool:
    """Whether *node* has the card *number* of alder."""
    with node.database() as database:
        rows = database.execute(
            "SELECT max(n) FROM statements WHERE node_id = "
            "(SELECT node_id FROM peers WHERE name = 'alder')"
        ).fetchall()
    return bool(rows[0][0] >= number)


def test_rotation_never_interrupts_delivery_between_nodes_that_are_linked(net: Net) -> None:
    alder, others = net["alder"], (net["birch"], net["cedar"])
    first = shown(alder)
    reports = [sent(alder, "before")]
    announced = rotate_tls(alder, now=False)
    assert shown(alder) == first, "it is on the card before it is used"
    reports.append(sent(alder, "on the card"))
    for node in others:
        wait(lambda n=node: knows(n, announced), "the card with both")  # type: ignore[misc]
    rotate_tls(alder, now=True)
    assert shown(alder) != first
    reports.append(sent(alder, "in use"))
    alder.ask("POST", "/api/v1/keys/rotate-message", {})
    reports.append(sent(alder, "by the new message key"))
    arrived(net, *reports)
    # Links that are begun after it come about by the new one, from either side.
    for node in (*others, alder):
        node.stop()
    net.start("alder", "birch", "cedar")
    linked(net)
    arrived(net, sent(alder, "after a restart"))


def test_a_peer_that_was_away_links_by_the_old_card_and_misses_nothing(net: Net) -> None:
    alder, birch, cedar = net["alder"], net["birch"], net["cedar"]
    first = shown(alder)
    net.stop("birch", "cedar")
    reports = [sent(alder, "before")]
    rotate_tls(alder, now=False)
    reports.append(sent(alder, "on the card"))
    rotate_tls(alder, now=True)
    alder.ask("POST", "/api/v1/keys/rotate-message", {})
    reports.append(sent(alder, "in use"))
    alder.kill()
    alder.start()
    assert shown(alder) != first
    assert not knows(birch, 2) and not knows(cedar, 2), "both know the old certificate only"
    net.start("birch", "cedar")
    linked(net)
    arrived(net, *reports)
    for node in (birch, cedar):
        wait(lambda n=node: knows(n, alder.chain().head.n), "the newest card")  # type: ignore[misc]
    # What nobody needs any more is destroyed; that takes a link of a minute.
    assert len(list(alder.home.tls_others.iterdir())) == 1
    back = cedar.draft(incident("and back"))
    cedar.release(back, "alder")
    wait(lambda: cedar.delivered(back, "alder"), "a report to alder")
