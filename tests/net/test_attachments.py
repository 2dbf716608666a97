"""Attachments between real nodes: over real links, through cuts and kills, by HTTP and command."""

from __future__ import annotations

import hashlib
import json
import secrets
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pytest

from node.client import ControlConnection
from protocol.blob import BLOB_CHUNK, BlobChunk, NoBlob, WantBlob
from protocol.limits import MAX_BLOB
from tests.net.harness import ROOT, Net, Node, Row, Tap, free_ports, incident, wait
from tests.net.puppet import Puppet
from tests.net.searching import hits

PATH: Final = "/api/v1/attachments"
MIB: Final = 2**20


@dataclass
class Answer:
    """One answer of the local endpoint."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:  # noqa: ANN401  JSON
        return json.loads(self.body)


def request(
    node: Node, method: str, path: str, body: bytes | None = None, **headers: str
) -> Answer:
    connection = ControlConnection(node.home.control_sock)
    try:
        named = {key.replace("_", "-"): value for key, value in headers.items()}
        connection.request(method, path, body, named)
        response = connection.getresponse()
        return Answer(response.status, dict(response.headers), response.read())
    finally:
        connection.close()


def content(size: int, canary: str = "") -> bytes:
    """Return bytes that no other call returns, with *canary* in several places."""
    word = canary.encode()
    data = bytearray(secrets.token_bytes(size))
    for at in (0, size // 2, size - len(word)):
        data[at : at + len(word)] = word
    return bytes(data)


def name_of(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def put(node: Node, data: bytes) -> str:
    sha256 = name_of(data)
    answer = request(node, "PUT", f"{PATH}/{sha256}", data)
    assert answer.status == 201, answer
    return sha256


def draft(node: Node, *files: bytes, summary: str = "drums with labels") -> str:
    attachments = [
        {"sha256": name_of(data), "media_type": "image/jpeg", "size": len(data),
         "kind": "label_photo"}
        for data in files
    ]  # fmt: skip
    return node.draft(incident(summary, annex={"attachments": attachments}))


def row(node: Node, sha256: str) -> Row:
    items: list[Row] = node.ask("GET", PATH)["items"]
    return next(item for item in items if item["sha256"] == sha256)


def fetch(node: Node, sha256: str) -> None:
    assert request(node, "POST", f"{PATH}/{sha256}/fetch").status == 202


def arrived(node: Node, sha256: str) -> None:
    wait(lambda: bool(row(node, sha256)["state"] == "here"), f"{sha256} at {node.key}")


def reads(node: Node, data: bytes) -> bool:
    return request(node, "GET", f"{PATH}/{name_of(data)}").body == data


def share(net: Net, author: str, data: bytes, *to: str, **options: object) -> str:
    """Upload and release *data*, and wait until all have the record; return the incident id."""
    put(net[author], data)
    incident_id = draft(net[author], data)
    net[author].release(incident_id, *to, **options)
    for key in to:
        wait(lambda key=key: net[key].reads(incident_id), f"the record at {key}")  # type: ignore[misc]
    return incident_id


def refs(node: Node) -> set[bytes]:
    with node.database() as database:
        return {each["blob_id"] for each in database.execute("SELECT blob_id FROM blob_refs")}


@pytest.fixture
def net(tmp_path: Path) -> Iterator[Net]:
    with Net(tmp_path) as net:
        yield net
        net.check_journals()


# --- from whom, and to nobody else -----------------------------------------------------------
def test_members_fetch_it_from_the_author_or_from_each_other_and_nobody_else_gets_a_byte(
    net: Net, tmp_path: Path
) -> None:
    canary = f"canary-{secrets.token_hex(12)}"
    data = content(3 * MIB + 17, canary)
    sha256 = name_of(data)
    net.mesh("alder", "birch", "cedar", "dogwood")
    incident_id = share(net, "alder", data, "birch", "cedar")
    assert row(net["birch"], sha256)["state"] == "absent"
    assert request(net["birch"], "GET", f"{PATH}/{sha256}").status == 404
    fetch(net["birch"], sha256)
    arrived(net["birch"], sha256)
    assert reads(net["birch"], data)

    with Puppet(tmp_path, "puppet") as outsider:
        outsider.befriend(net["alder"])
        link = outsider.link(net["alder"])
        (blob_id,) = refs(net["alder"])
        link.send(WantBlob(blob_id, 0, 1))
        link.send(WantBlob(bytes(32), 0, 1))
        answers = link.expect(NoBlob, 2)
        assert [each.blob_id for each in answers] == [blob_id, bytes(32)]
        assert not link.of(BlobChunk)

    net.stop("alder")
    fetch(net["cedar"], sha256)
    arrived(net["cedar"], sha256)
    assert reads(net["cedar"], data)
    assert refs(net["dogwood"]) == set()
    assert net["dogwood"].ask("GET", PATH)["items"] == []

    shown = json.dumps(net["cedar"].incident(incident_id)) + json.dumps(
        net["cedar"].ask("GET", PATH)
    )
    assert blob_id.hex() not in shown
    assert '"key"' not in shown
    saved = tmp_path / "saved.bin"
    assert picket(net["cedar"], "attachments", "save", sha256, str(saved)).returncode == 0
    net.stop("birch", "cedar", "dogwood")
    holders = [
        path for path in tmp_path.rglob("*") if path.is_file() and hits(path.read_bytes(), [canary])
    ]
    assert holders == [saved]
    assert saved.read_bytes() == data


def test_each_audience_gets_an_encryption_of_its_own(net: Net) -> None:
    data = content(200_000)
    net.mesh("alder", "birch", "cedar")
    share(net, "alder", data, "birch", "cedar", separately=True)
    birch, cedar = refs(net["birch"]), refs(net["cedar"])
    assert len(birch) == len(cedar) == 1
    assert not birch & cedar
    assert refs(net["alder"]) == birch | cedar
    # The same file in another release is another blob, though it was uploaded once.
    again = draft(net["alder"], data, summary="a second case")
    net["alder"].release(again, "birch")
    wait(lambda: net["birch"].reads(again), "the second record")
    assert len(refs(net["birch"])) == 2
    for key in ("birch", "cedar"):
        fetch(net[key], name_of(data))
        arrived(net[key], name_of(data))
        assert reads(net[key], data)
    assert len(list(net["alder"].home.attachments.iterdir())) == 3


def test_a_release_that_is_refused_leaves_no_copy(net: Net) -> None:
    data = content(200_000)
    net.mesh("alder", "birch", "cedar")
    put(net["alder"], data)
    incident_id = draft(net["alder"], data)
    body = json.dumps({"to": ["birch", "cedar"], "separately": True, "digest": "another"}).encode()
    path = f"/api/v1/incidents/{incident_id}/release"
    assert request(net["alder"], "POST", path, body).status == 409
    assert len(list(net["alder"].home.attachments.iterdir())) == 1


# --- cut and killed --------------------------------------------------------------------------
def behind_a_tap(net: Net, *cuts: int) -> Tap:
    """Let birch dial alder through a tap, and nobody dial birch."""
    (tapped,) = free_ports(1)
    net.make("alder", endpoint=tapped, peer__dial=False)
    net.make("birch", endpoint=False)
    return Tap(tapped, net["alder"].port, cuts=cuts)


def test_cuts_in_the_middle_cost_no_more_than_what_was_on_its_way(net: Net) -> None:
    data = content(24 * MIB)
    with behind_a_tap(net) as tap:
        net.start("alder", "birch")
        net.pair(("alder", "birch"))
        net.wait_linked("alder", "birch")
        share(net, "alder", data, "birch")
        before = len(tap.captured)
        tap._cuts = iter([9 * MIB, 7 * MIB])
        tap.left = 2
        net["birch"].stop()  # the next connections are the ones that are cut
        net["birch"].start()
        fetch(net["birch"], name_of(data))
        arrived(net["birch"], name_of(data))
        assert tap.left == 0
        carried = len(tap.captured) - before
    assert reads(net["birch"], data)
    assert carried < 1.02 * len(data) + 3 * 17 * BLOB_CHUNK


def test_after_kill_9_it_goes_on_with_what_is_missing(net: Net) -> None:
    data = content(160 * MIB)
    sha256 = name_of(data)
    with behind_a_tap(net) as tap:
        net.start("alder", "birch")
        net.pair(("alder", "birch"))
        net.wait_linked("alder", "birch")
        share(net, "alder", data, "birch")
        before = len(tap.captured)
        fetch(net["birch"], sha256)
        kills = 0
        for percent in (15, 50):
            wait(lambda least=percent: (row(net["birch"], sha256)["percent"] or 0) >= least,  # type: ignore[misc]
                 f"{percent} %")  # fmt: skip
            kills += row(net["birch"], sha256)["state"] == "fetching"
            net["birch"].kill()
            net["birch"].start()
        arrived(net["birch"], sha256)
        carried = len(tap.captured) - before
    assert kills == 2, "it was there before it could be killed"
    assert reads(net["birch"], data)
    assert carried < 1.02 * len(data) + 3 * 17 * BLOB_CHUNK


def test_releases_are_not_held_up_by_a_fetch(net: Net) -> None:
    data = content(160 * MIB)
    sha256 = name_of(data)
    net.mesh("alder", "birch")
    share(net, "alder", data, "birch")
    fetch(net["birch"], sha256)
    during = 0
    for number in range(5):
        key = net["alder"].draft(incident(f"live {number}"))
        net["alder"].release(key, "birch")
        wait(lambda key=key: net["alder"].delivered(key, "birch"), "a receipt", seconds=5)  # type: ignore[misc]
        during += row(net["birch"], sha256)["state"] == "fetching"
    arrived(net["birch"], sha256)
    assert during, "the fetch was over before anything was released"


# --- HTTP ------------------------------------------------------------------------------------
def test_uploads_are_counted_and_checked(net: Net) -> None:
    net.make("alder")
    net.start("alder")
    alder, data = net["alder"], content(300_000)
    sha256 = put(alder, data)
    again = request(alder, "PUT", f"{PATH}/{sha256}", data)
    assert again.status == 200
    assert again.json["state"] == "here"
    other = request(alder, "PUT", f"{PATH}/{'0' * 64}", data)
    assert (other.status, other.json["code"]) == (422, "bad-digest")
    named = request(alder, "PUT", f"{PATH}/notadigest", data)
    assert (named.status, named.json["code"]) == (400, "bad-request")
    large = request(alder, "PUT", f"{PATH}/{'1' * 64}", None, Content_Length=str(MAX_BLOB + 1))
    assert (large.status, large.json["code"]) == (413, "too-large")
    empty = request(alder, "PUT", f"{PATH}/{'2' * 64}", b"", Content_Length="0")
    assert empty.status == 400
    assert len(list(alder.home.attachments.iterdir())) == 1


def test_an_upload_that_breaks_off_leaves_nothing(net: Net) -> None:
    net.make("alder")
    net.start("alder")
    folder = net["alder"].home.attachments
    connection = ControlConnection(net["alder"].home.control_sock)
    connection.putrequest("PUT", f"{PATH}/{'0' * 64}")
    connection.putheader("Content-Length", "300000")
    connection.endheaders(bytes(200_000))
    wait(lambda: len(list(folder.iterdir())) == 1, "the upload to begin")
    connection.close()
    wait(lambda: not list(folder.iterdir()), "what came of it to be deleted")
    data = content(300_000)
    put(net["alder"], data)
    assert reads(net["alder"], data)


def test_downloads_have_ranges(net: Net) -> None:
    net.make("alder")
    net.start("alder")
    alder, data = net["alder"], content(300_000)
    path = f"{PATH}/{put(alder, data)}"
    whole = request(alder, "GET", path)
    assert (whole.status, whole.body) == (200, data)
    assert whole.headers["Content-Disposition"].startswith("attachment")
    assert whole.headers["X-Content-Type-Options"] == "nosniff"
    assert whole.headers["Content-Type"] == "application/octet-stream"
    for asked, start, stop in (
        ("bytes=0-0", 0, 1), ("bytes=65530-65550", 65_530, 65_551),
        ("bytes=299990-", 299_990, 300_000), ("bytes=-10", 299_990, 300_000),
        ("bytes=100-9999999", 100, 300_000),
    ):  # fmt: skip
        part = request(alder, "GET", path, Range=asked)
        assert (part.status, part.body) == (206, data[start:stop]), asked
        assert part.headers["Content-Range"] == f"bytes {start}-{stop - 1}/300000"
    outside = request(alder, "GET", path, Range="bytes=300000-")
    assert (outside.status, outside.json["code"]) == (416, "bad-range")
    assert outside.headers["Content-Range"] == "bytes */300000"
    head = request(alder, "HEAD", path)
    assert (head.status, head.body, head.headers["Content-Length"]) == (200, b"", "300000")
    assert request(alder, "GET", f"{PATH}/{'0' * 64}").status == 404


# --- commands --------------------------------------------------------------------------------
def picket(node: Node, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "node", "--home", str(node.home.path), *arguments],
        cwd=ROOT, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL,
    )  # fmt: skip


@pytest.mark.parametrize("running", [True, False], ids=["running", "stopped"])
def test_a_file_goes_in_and_out_by_command(net: Net, tmp_path: Path, running: bool) -> None:
    net.mesh("alder", "birch")
    alder, birch = net["alder"], net["birch"]
    data = content(200_000)
    file = tmp_path / "label.jpg"
    file.write_bytes(data)
    ref = alder.ask("POST", "/api/v1/incidents", incident("drums"))["ref"]
    if not running:
        net.stop("alder", "birch")
    added = picket(alder, "attachments", "add", str(file), "--draft", ref, "--kind", "label_photo")
    assert added.returncode == 0, added.stderr
    assert name_of(data) in added.stdout
    released = picket(alder, "incidents", "release", ref, "--to", "birch", "--yes")
    assert released.returncode == 0, released.stderr
    if not running:
        net.start("alder", "birch")
    wait(lambda: bool(birch.ask("GET", PATH)["items"]), "the record at birch")
    if not running:
        net.stop("birch")
    short = name_of(data)[:12]
    fetched = picket(birch, "attachments", "fetch", short)
    assert fetched.returncode == 0, fetched.stderr
    if not running:
        net.start("birch")
    arrived(birch, name_of(data))
    if not running:
        net.stop("birch")
    listed = picket(birch, "attachments", "list")
    assert "image/jpeg" in listed.stdout
    assert "here" in listed.stdout
    target = tmp_path / "out.jpg"
    saved = picket(birch, "attachments", "save", short, str(target))
    assert saved.returncode == 0, saved.stderr
    assert target.read_bytes() == data
    assert picket(birch, "attachments", "save", short, str(target)).returncode == 4
    assert picket(birch, "attachments", "drop", short).returncode == 0
    assert not list(birch.home.attachments.iterdir())
    assert picket(birch, "attachments", "save", short, str(target) + "2").returncode == 3
