"""Backups of running nodes, put back into a live network: nothing is lost, nothing contradicts.

What an operator types is run as a process of its own, and what it prints leads to the next command.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from keys.paper import parse_paper_code
from node.home import Home
from protocol.entry import EntryKind, parse_entry
from tests.net.harness import Net, Node, incident, wait
from tests.net.test_log import (
    OK,
    UNVERIFIED,
    card_of,
    copy_of,
    ended,
    grown,
    heads_seen,
    leaves_of,
    notices,
    picket,
    root_of,
    share,
    standing,
    three,
    told,
)

REFUSED, NOT_FOUND = 4, 3


@pytest.fixture
def net(tmp_path: Path) -> Iterator[Net]:
    with Net(tmp_path) as net:
        yield net
        net.check_journals()


def sheets(net: Net, *names: str) -> list[str]:
    """Return the options that name files of sheets."""
    return [word for name in names for word in ("--sheet", str(net.folder / name))]


def signed(home: Home) -> int:
    """Return how far the stored heads of a log go."""
    with closing(sqlite3.connect(home.node_db)) as database:
        return int(database.execute("SELECT max(size) FROM checkpoints").fetchone()[0])


def acts(home: Home) -> int:
    """Return how many entries about backups a log holds."""
    with closing(sqlite3.connect(home.node_db)) as database:
        rows = database.execute("SELECT entry FROM entries").fetchall()
    return sum(parse_entry(row[0]).kind is EntryKind.BACKUP for row in rows)


def destroyed(net: Net, node: Node) -> Home:
    """Take the home of a stopped node away; return where a test can look at it still."""
    return Home(node.home.path.rename(net.folder / f"{node.key}-lost"))


def same_histories(alder: Node, lost: Home, *others: Node) -> None:
    """Check that all heads that peers hold fit the log that was lost, or the one of now."""
    new = card_of(alder).log
    old = replace(new, name=new.name.removesuffix("2"))
    for keys, home in ((old, lost), (new, alder.home)):
        heads = {pair for node in others for pair in heads_seen(node, alder, keys)}
        assert len(heads) >= 2, keys.name
        leaves = leaves_of(home)  # after the heads: the log grows
        assert all(root == root_of(leaves, size) for size, root in heads)


def put_back(net: Net, alder: Node, file: Path, both: tuple[str, str]) -> None:
    """Look into the backup, and restore it where the node was."""
    look = picket(
        alder.home.path, "restore", str(file), "--verify", *sheets(net, *both),
        "--passphrase-file", str(net.folder / "alder.passphrase"),
    )  # fmt: skip
    assert "Alder" in told(look, OK, "whole", "verified", "opens the keystore")
    assert not alder.home.path.exists()
    done = picket(
        net.folder, "restore", str(file), "--home", str(alder.home.path), "--yes",
        *sheets(net, *both),
    )  # fmt: skip
    text = told(done, OK, "signs and releases nothing", "restored")
    assert f"picket --home {alder.home.path} run" in text


def led_to_a_new_log(net: Net, alder: Node) -> None:
    """Do as the restored node says: start it, and begin a new log once it has stopped itself."""
    at = signed(alder.home)
    alder.launch()
    ended(alder, UNVERIFIED)
    assert signed(alder.home) == at, "it signed before it knew"
    for command in ("run", "status"):
        told(picket(alder.home.path, command), UNVERIFIED, "was restored from a backup",
             "picket log reopen", "another copy")  # fmt: skip
    told(picket(alder.home.path, "log", "reopen", "--yes"), OK, "/log2", "Start the node")
    alder.start()
    net.wait_linked("alder", "birch", "cedar")


def test_an_old_backup_in_a_live_network_signs_nothing_inconsistent_and_loses_nothing(
    net: Net,
) -> None:
    alder, birch, cedar = three(net)
    before = share(birch, "received before", alder)
    token = alder.ask("POST", "/api/v1/tokens", {"name": "old", "scopes": ["node:read"], "days": 9})
    assert token["id"]
    grown(alder, birch, cedar)
    file, both = net.folder / "backup", ("sheet-1", "sheet-2")
    made = told(
        picket(alder.home.path, "backup", str(file), "--two-sheets", *sheets(net, *both)), OK,
        "lock the paper away", "--verify",
    )  # fmt: skip
    assert str(file) in made
    assert not list(alder.home.path.glob(".backup-*"))

    # Three days of a node's life: both ways, with new keys, and with something that is read.
    ours = [share(alder, f"released since {n}", birch, cedar) for n in range(2)]
    for kind, how in (("sealing", {}), ("message", {}), ("tls", {"now": True})):
        alder.ask("POST", f"/api/v1/keys/rotate-{kind}", how)
    number = alder.chain().head.n
    wait(lambda: all(number == peer_number(n) for n in (birch, cedar)), "the new card everywhere")
    theirs = [share(author, f"by {author.key} since", alder) for author in (birch, cedar)]
    grown(alder, birch, cedar)
    assert "last made today" in told(picket(alder.home.path, "status"), OK)
    places = alder.places()
    alder.stop()
    lost = destroyed(net, alder)

    put_back(net, alder, file, both)
    led_to_a_new_log(net, alder)

    for key in (before, *ours, *theirs):
        wait(lambda k=key: alder.reads(k), "all that there was to be back")  # type: ignore[misc]
    found = notices(alder)
    assert "releases nothing" in found["restored-unchecked"]
    assert places.items() <= alder.places().items()
    assert alder.ask("GET", "/api/v1/tokens")["items"] == []

    draft = alder.draft(incident("after the restore"))
    assert alder.exchange("POST", f"/api/v1/incidents/{draft}/release", {"to": ["birch"]})[0] == 409
    shown = told(picket(alder.home.path, "restored"), OK, "birch", "share", "--levels-checked")
    assert "erased" in shown
    told(picket(alder.home.path, "restored", "--levels-checked", "--by", "me", "--yes"), OK)
    told(picket(alder.home.path, "restored"), NOT_FOUND, "waits for nothing")
    alder.release(draft, "birch", "cedar")
    wait(lambda: alder.delivered(draft, "birch", "cedar"), "the first release since")
    share(birch, "and one from birch", alder)

    grown(alder, birch, cedar)
    assert standing(alder)["origin"].endswith("/log2")
    for node in (alder, birch, cedar):
        node.verify_log()
        node.places()
        assert not {"log-fork", "own-log-fork", "equivocation", "identity-misused"} & set(
            notices(node)
        )
    assert {row["level"] for row in birch.ask("GET", "/api/v1/peers")["items"]} == {"share"}
    assert alder.chain().head.n > number, "no number of a key statement was used again"
    same_histories(alder, lost, birch, cedar)
    assert acts(alder.home) == 3  # begun, restored, levels checked


def peer_number(node: Node) -> int:
    """Return the number of the newest statement of alder that *node* has."""
    with node.database() as database:
        row = database.execute(
            "SELECT max(n) FROM statements s JOIN peers p ON p.node_id = s.node_id "
            "WHERE p.name = 'alder'"
        ).fetchone()
    return int(row[0])


def test_a_backup_that_nothing_has_happened_since_goes_on_and_its_twin_is_named(net: Net) -> None:
    alder, birch, cedar = three(net)
    grown(alder, birch, cedar)
    log = card_of(alder).log
    alder.stop()
    file = net.folder / "backup"
    told(picket(alder.home.path, "backup", str(file), *sheets(net, "sheet")), OK)
    destroyed(net, alder)
    for key in ("alder", "twin"):
        told(picket(net.folder, "restore", str(file), "--home", str(net.folder / f"new-{key}"),
                    "--yes", *sheets(net, "sheet")), OK)  # fmt: skip
    Home(net.folder / "new-alder").path.rename(alder.home.path)

    alder.start()
    net.wait_linked("alder", "birch", "cedar")
    wait(lambda: "restored-waits" not in notices(alder), "the peers to have said what they hold")
    told(picket(alder.home.path, "restored", "--levels-checked", "--by", "me", "--yes"), OK)
    share(alder, "goes on", birch, cedar)
    grown(alder, birch, cedar)
    assert standing(alder)["origin"] == log.name
    heads = {pair for node in (birch, cedar) for pair in heads_seen(node, alder, log)}
    leaves = leaves_of(alder.home)  # after the heads: the log grows
    assert all(root == root_of(leaves, size) for size, root in heads)
    for node in (birch, cedar):
        assert "log-reopened" not in notices(node)

    # The second copy, in another home: whoever linked with the first one tells it.
    source = replace(alder, home=Home(net.folder / "new-twin"), process=None)
    twin = copy_of(net, source, "twin")
    at = signed(twin.home)
    twin.launch()
    ended(twin, UNVERIFIED)
    told(picket(twin.home.path, "status"), UNVERIFIED, "another copy of this node")
    assert signed(twin.home) == at
    net.wait_linked("alder", "birch", "cedar")
    share(alder, "the first goes on", birch, cedar)
    for node in (alder, birch, cedar):
        assert not {"log-fork", "own-log-fork"} & set(notices(node))


def test_what_is_backed_up_while_reports_pour_in_holds_together(net: Net) -> None:
    alder, birch, _ = three(net)
    file = net.folder / "backup"
    for number in range(30):
        birch.release(birch.draft(incident(f"before {number}")), "alder")
    command = picket(alder.home.path, "backup", str(file), "--json", *sheets(net, "sheet"))
    made = json.loads(told(command, OK))
    assert made["log"]["size"] > 0
    code = (net.folder / "sheet").read_text()
    assert (net.folder / "sheet").stat().st_mode & 0o777 == 0o600
    words = [line.strip() for line in code.splitlines() if line.count("-") == 7]
    assert words[-1] not in alder.tail() + command.stdout + command.stderr
    share_ = parse_paper_code(words[-1]).share
    assert not [path for path in alder.files() if share_ in path.read_bytes()]
    seen = json.loads(told(picket(net.folder, "restore", str(file), "--verify", "--json",
                                  *sheets(net, "sheet")), OK))  # fmt: skip
    assert seen["ok"] is True
    assert {row["name"] for row in seen["peers"]} == {"birch", "cedar"}
    told(picket(alder.home.path, "backup", str(file), *sheets(net, "other")), REFUSED,
         "exists")  # fmt: skip
    assert not (net.folder / "other").exists()
