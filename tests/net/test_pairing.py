"""Two nodes come to know each other with the commands alone; strangers at the door stay there."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from node.demo import NETWORK
from node.visiting import Answer, fetch_card, visit
from protocol import limits
from protocol.knock import make_knock
from protocol.statement import Chain, verify_bundle
from protocol.suite import HybridSigner, network_id
from tests.factories import TestNode, card_of, make_node
from tests.net.harness import PATIENCE_S, ROOT, Net, Node, Row, incident, wait


@dataclass(frozen=True)
class Done:
    """What a command said, and its exit code."""

    out: str
    err: str
    code: int


def picket(node: Node, *arguments: str, typed: str = "") -> Done:
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PICKET_")}
    done = subprocess.run(
        [sys.executable, "-m", "node", "--home", str(node.home.path), *arguments], cwd=ROOT,
        env=environment, input=typed, capture_output=True, text=True, timeout=PATIENCE_S,
        check=False,
    )  # fmt: skip
    assert "Traceback" not in done.stderr, done.stderr
    return Done(done.stdout, done.stderr, done.returncode)


def fine(node: Node, *arguments: str, typed: str = "") -> str:
    done = picket(node, *arguments, typed=typed)
    assert done.code == 0, done.err
    return done.out


def notices(node: Node) -> dict[str, Row]:
    return {row["code"]: row for row in node.ask("GET", "/api/v1/status")["notices"]}


def callers(node: Node) -> list[Row]:
    rows: list[Row] = node.ask("GET", "/api/v1/callers")["items"]
    return rows


def digits(node: Node, peer: str) -> str:
    return str(json.loads(fine(node, "peers", "number", peer, "--json"))["qr"])


# --- the story -------------------------------------------------------------------------------
def test_two_nodes_pair_from_nothing_with_the_commands_alone(tmp_path: Path) -> None:
    with Net(tmp_path) as net:
        began = time.monotonic()
        alder, birch = net.make("alder"), net.make("birch")
        net.start("alder", "birch")
        # Birch hands over a link, as text below its QR code. Alder adds it, and dials.
        link = fine(birch, "keys", "card", "--qr").splitlines()[-1]
        assert link.startswith("picket-card:") and "&at=wss://127.0.0.1:" in link
        assert "known, at level pinned" in fine(alder, "peers", "add", link, "--name", "birch")
        wait(lambda: "not-approved" in notices(alder), "alder to be told that birch waits")
        told = notices(alder)["not-approved"]
        assert "birch has not approved this node yet" in told["message"]
        assert "picket peers number birch" in told["fix"]
        assert "peer-trouble" not in notices(alder)

        # Birch sees who asks, and accepts. Nothing is shared by that.
        wait(lambda: bool(callers(birch)), "birch to see who asks")
        assert '1 node asks to be added: "Alder" (XA)' in notices(birch)["callers"]["message"]
        caller = callers(birch)[0]["caller"]
        assert f'{caller}  "Alder" (XA)' in fine(birch, "peers", "pending")
        assert "at level pinned" in fine(birch, "peers", "accept", caller, "--name", "alder")
        net.wait_linked("alder", "birch")
        assert "not-approved" not in notices(alder)

        # Both compare: one by scanning, the other by ear. Wrong digits are told by their group.
        scanned = digits(alder, "birch")
        assert "the right node" in fine(birch, "peers", "number", "alder", "--scanned", scanned)
        heard = scanned.removeprefix("picket-number:")
        wrong = heard[:5] + ("0" if heard[5] != "0" else "1") + heard[6:]
        approve = ("peers", "approve", "--by", "A. Officer", "--method")
        refused = picket(birch, *approve, "in-person", "alder", "--safety-number", wrong)
        assert refused.code == 4 and "group 2 of 12" in refused.err
        assert picket(birch, "peers", "number", "alder", "--scanned", wrong).code == 4
        fine(birch, *approve, "in-person", "alder", "--safety-number", heard)
        fine(alder, *approve, "voice", "birch", "--safety-number", heard)
        shown = birch.ask("GET", "/api/v1/peers/alder")
        assert (shown["verified"]["method"], shown["verified"]["by"]) == ("in-person", "A. Officer")

        report = alder.draft(incident("the first report"))
        alder.release(report, "birch")
        wait(lambda: alder.delivered(report, "birch"), "the first report")
        assert birch.reads(report)
        assert time.monotonic() - began < 120
        refused = picket(birch, "peers", "undo")
        assert refused.code == 4 and "peers approve alder --level observe" in refused.err
        for node in (alder, birch):
            node.verify_log()
        net.check_journals()


# --- wrong turns and strangers ---------------------------------------------------------------
@pytest.fixture(scope="module")
def net(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Net]:
    with Net(tmp_path_factory.mktemp("pairing")) as net:
        net.mesh("alder", "birch")
        yield net


@pytest.fixture
def alder(net: Net) -> Iterator[Node]:
    """The node at whose door strangers stand; afterwards it must serve as before."""
    yield net["alder"]
    report = net["birch"].draft(incident("business as usual"))
    net["birch"].release(report, "alder")
    wait(lambda: net["birch"].delivered(report, "alder"), "a report as before")
    net["alder"].verify_log()
    net.check_journals()


def at(node: Node) -> str:
    return f"wss://127.0.0.1:{node.port}"


def stranger(name: str) -> TestNode:
    """Return a node of that network, with a card of now."""
    now = int(time.time() * 1000)
    made = make_node(name, network=network_id(NETWORK))
    card = card_of(made.chain, name, issued=now, expires=now + 10**9)
    chain = made.chain.extend(card)
    return TestNode(**{**{f: getattr(made, f) for f in made.__dataclass_fields__}, "chain": chain})


def knock(
    node: Node, chain: Chain, signer: HybridSigner, *, apart: int = 0, certificate: bytes = b""
) -> tuple[Answer, bytes]:
    """Knock at *node*; return its answer and what was sent."""
    sent: list[bytes] = []

    def body(shown: bytes) -> bytes:
        now = int(time.time() * 1000) + apart
        sent.append(make_knock(chain, certificate=certificate or shown, now=now, signer=signer))
        return sent[0]

    return asyncio.run(visit(at(node), "POST", "/knock", body=body, maximum=1_000)), sent[0]


def send(node: Node, wire: bytes) -> Answer:
    return asyncio.run(visit(at(node), "POST", "/knock", body=lambda _: wire, maximum=1_000))


def names(node: Node) -> set[str]:
    return {row["authority"] for row in callers(node)}


def code(answer: Answer) -> object:
    return json.loads(answer.body).get("code") if answer.body else None


def test_hostile_knocks_gain_nothing(alder: Node, net: Net) -> None:
    egret, mallory = stranger("egret"), stranger("mallory")
    taken, wire = knock(alder, egret.chain, egret.link)
    assert (taken.status, taken.body) == (200, b'{"state": "waiting"}')
    wait(lambda: names(alder) == {"Egret"}, "the first knock to be noted")

    # In the name of another, for another door, too old, and from another network.
    answers = [
        knock(alder, net["birch"].chain(), mallory.link)[0],
        knock(alder, mallory.chain, mallory.link, certificate=b"another door")[0],
        knock(alder, mallory.chain, mallory.link, apart=-limits.KNOCK_WINDOW_MS - 60_000)[0],
    ]
    assert [code(answer) for answer in answers] == ["bad-signature", "untrusted-key", "expired"]
    # A replay, whole or with a byte changed, brings nothing new.
    seen = callers(alder)
    assert send(alder, wire).body == taken.body
    changed = bytearray(wire)
    changed[-1] ^= 1
    assert code(send(alder, bytes(changed))) == "bad-signature"
    assert send(alder, bytes(limits.MAX_KNOCK + 1)).status == 413
    # Somebody whom alder knows gets the same answer as somebody whom it does not.
    statuses = {knock(alder, mallory.chain, mallory.link)[0].status for _ in range(20)}
    assert statuses <= {200, 429} and 429 in statuses, "a flood is told to come back later"
    assert [row for row in callers(alder) if row["authority"] == "Egret"] == seen
    assert names(alder) <= {"Egret", "Mallory"}
    assert alder.linked("birch")


def test_the_card_that_strangers_get_proves_itself(alder: Node) -> None:
    bundle = asyncio.run(fetch_card(at(alder)))
    assert verify_bundle(bundle, network=network_id(NETWORK)).node_id == alder.id


def test_each_wrong_turn_gives_one_line(alder: Node, net: Net, tmp_path: Path) -> None:
    birch = net["birch"]
    own = tmp_path / "own.card"
    own.write_text(alder.card())
    link = json.loads(fine(birch, "keys", "card", "--json"))["qr"]
    other = "0" if link[-1] != "0" else "1"
    digest = link.partition("sha256=")[2][:64]
    nowhere = f"wss://127.0.0.1:{1}"
    for arguments, exit_code, words in (
        ((str(own),), 4, "this node's own card"),
        ((link.replace(digest, digest[:-1] + ("0" if digest[-1] != "0" else "1")),), 5, "renewed"),
        ((link + other + "x",), 2, "wss://host:port"),
        ((link.partition("&at=")[0],), 2, "names no address"),
        ((nowhere,), 6, "cannot be reached"),
        (("https://user@x",), 2, "no address of a node"),
        (("-",), 5, "not a Picket card"),
    ):
        done = picket(alder, "peers", "add", *arguments, typed="nonsense")
        assert done.code == exit_code, (arguments, done)
        lines = done.err.splitlines()
        assert len(lines) == 1 and words in lines[0] and ". " in lines[0], done.err


def test_a_pasted_link_an_address_and_a_pasted_card_are_all_taken(alder: Node, net: Net) -> None:
    birch = net["birch"]
    link = json.loads(fine(birch, "keys", "card", "--json"))["qr"]
    for given, typed in ((link, ""), (at(birch), ""), ("-", link), ("-", birch.card())):
        assert "birch (XB) is known" in fine(alder, "peers", "add", given, typed=typed)


def test_an_introduction_travels_as_a_file_and_waits(alder: Node, net: Net) -> None:
    birch = net["birch"]
    third = stranger("heron")
    assert knock(birch, third.chain, third.link)[0].status == 200
    wait(lambda: names(birch) == {"Heron"}, "heron to wait at birch")
    caller = callers(birch)[0]["caller"]
    fine(birch, "peers", "accept", caller, "--name", "heron")
    refused = picket(birch, "peers", "introduce", "heron", "--to", "alder")
    assert refused.code == 4 and "compare it first" in refused.err
    number = digits(birch, "heron").removeprefix("picket-number:")
    fine(birch, "peers", "approve", "heron", "--level", "observe", "--by", "A. Officer",
         "--method", "voice", "--safety-number", number)  # fmt: skip
    text = fine(birch, "peers", "introduce", "heron", "--to", "alder")
    assert "introduced by birch" in fine(alder, "peers", "add", "-", typed=text)
    row = next(row for row in callers(alder) if row["authority"] == "Heron")
    assert (row["introduced_by"], row["address"], row["state"]) == ("birch", None, "pending")
    assert alder.linked("birch"), "nobody was linked or trusted by it"
    broken = text.replace("A", "B", 1) if "A" in text else text
    assert picket(alder, "peers", "add", "-", typed=broken[:-60]).code in {2, 5}
    fine(alder, "peers", "ignore", row["caller"])


def test_pictures_of_the_card_are_written(alder: Node, tmp_path: Path) -> None:
    for name, magic in (("card.svg", b"<?xml"), ("card.png", b"\x89PNG")):
        fine(alder, "keys", "card", "--qr", "--out", str(tmp_path / name))
        assert (tmp_path / name).read_bytes().startswith(magic)
    refused = picket(alder, "keys", "card", "--qr", "--out", str(tmp_path / "card.svg"))
    assert refused.code == 4
    assert picket(alder, "keys", "card", "--qr", "--out", str(tmp_path / "card.txt")).code == 2
