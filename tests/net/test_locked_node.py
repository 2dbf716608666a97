"""A node that is locked while it runs: what it does for others, what it refuses, what comes after.

Real nodes, and the commands that operators type.
"""

from __future__ import annotations

import http.client
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from node.client import ControlConnection
from tests.net.harness import ROOT, Net, Node, incident, wait
from tests.net.test_attachments import PATH, content, name_of, put

LOCKED = 75
Done = subprocess.CompletedProcess[str]


@pytest.fixture
def net(tmp_path: Path) -> Iterator[Net]:
    with Net(tmp_path) as net:
        yield net
        net.check_journals()


def picket(node: Node, *arguments: str) -> Done:
    return subprocess.run(
        [sys.executable, "-m", "node", "--home", str(node.home.path), *arguments],
        cwd=ROOT, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip


def fine(done: Done) -> str:
    assert done.returncode == 0, done.stderr
    return done.stdout


def refused(done: Done) -> str:
    """Check that a command was refused in one line because the node is locked; return the line."""
    assert done.returncode == LOCKED
    (line,) = done.stderr.splitlines()
    assert done.stdout == ""
    return line


def witnesses_of(node: Node, size: int) -> list[str]:
    """Return who confirmed the log of *node* with at least *size* entries."""
    standing = node.ask("GET", "/api/v1/status")["witnesses"]
    return list(standing["cosigned_by"]) if standing["cosigned"] >= size else []


def test_a_node_locked_while_it_runs_serves_others_and_opens_its_backlog(net: Net) -> None:
    for key in ("alder", "birch", "cedar"):
        net.make(key, witness__beat=1)
    alder, birch, cedar = net["alder"], net["birch"], net["cedar"]
    net.start("alder", "birch", "cedar")
    net.pair(("alder", "birch"), ("alder", "cedar"), ("birch", "cedar"))
    net.wait_linked("alder", "birch", "cedar")
    draft = birch.draft(incident("a draft from before the lock"))

    assert "The node is locked." in picket(birch, "lock").stderr
    assert "running, LOCKED" in fine(picket(birch, "status"))
    assert "(by operator)" in fine(picket(birch, "status"))

    # It logs, receipts and cosigns.
    own = alder.draft(incident("for birch"))
    alder.release(own, "birch")
    wait(lambda: alder.delivered(own, "birch"), "the receipt of the locked birch")
    size = alder.ask("GET", "/api/v1/node")["log"]["size"]
    wait(lambda: "birch" in witnesses_of(alder, size), "birch to confirm the log of alder")
    assert birch.verify_log()["envelopes_checked"] == 1

    # It carries: alder and cedar are never up at once.
    net.stop("cedar")
    carried = alder.draft(incident("for cedar, by birch"))
    alder.release(carried, "cedar", carriers=["birch"])
    wait(
        lambda: alder.deliveries(carried, "carrier") == {"birch": "carried"}, "birch to take it on"
    )
    net.stop("alder")
    net.start("cedar")
    wait(lambda: cedar.reads(carried), "cedar to get it from the locked birch")

    # It shows and releases nothing.
    assert "run: picket unlock" in refused(picket(birch, "incidents", "list"))
    line = refused(picket(birch, "incidents", "release", draft, "--to", "cedar", "--yes"))
    assert line.startswith("picket: the node is locked")
    assert birch.verify_log()["envelopes_checked"] == 2

    # Nor does a restart open it, though it has the passphrase in a file.
    net.stop("birch")
    net.start("birch")
    assert "(by operator)" in fine(picket(birch, "status"))
    assert birch.status_of("/api/v1/incidents") == 503

    secret = net.folder / "birch.passphrase"
    assert "unlocked" in picket(birch, "unlock", "--passphrase-file", str(secret)).stderr
    assert birch.reads(own)
    assert not birch.reads(carried)
    assert birch.incident(draft)["state"] == "draft"
    birch.release(draft, "cedar")
    wait(lambda: birch.delivered(draft, "cedar"), "the draft to be released after all")
    net.stop("birch")
    net.start("birch")
    assert birch.reads(own), "a node that a person unlocked opens itself again"


def test_files_on_their_way_end_with_the_lock(net: Net) -> None:
    net.make("alder")
    net.start("alder")
    alder = net["alder"]
    data = content(12_000_000)
    put(alder, data)
    folder = alder.home.attachments

    with (
        closing(ControlConnection(alder.home.control_sock)) as sending,
        closing(ControlConnection(alder.home.control_sock)) as reading,
    ):
        sending.putrequest("PUT", f"{PATH}/{'0' * 64}")
        sending.putheader("Content-Length", "300000")
        sending.endheaders(bytes(200_000))
        reading.request("GET", f"{PATH}/{name_of(data)}")
        answer = reading.getresponse()
        assert answer.read(1_000) == data[:1_000]
        wait(lambda: len(list(folder.glob("*.put"))) == 1, "the upload to begin")

        seen = alder.ask("POST", "/api/v1/lock", {})
        assert (seen["locked"], seen["by"], seen["kept"]) == (True, "operator", True)

        sending.send(bytes(100_000))
        uploaded = sending.getresponse()
        assert uploaded.status == 503
        assert b"locked before this was done" in uploaded.read()
        with pytest.raises((http.client.IncompleteRead, ConnectionError)):
            answer.read()
    wait(lambda: not list(folder.glob("*.put")), "what came of the upload to be deleted")

    alder.ask("POST", "/api/v1/unlock", {"passphrase": alder.passphrase})
    with closing(ControlConnection(alder.home.control_sock)) as reading:
        reading.request("GET", f"{PATH}/{name_of(data)}")
        assert reading.getresponse().read() == data
