"""Story 7, do not tell X: an incident is kept from the authority of one country.

X is linked with its author and with its readers, and hears no byte of it: no title, no count, no
face. A relay that would hand it on is refused, and that stands in the journal.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterator
from pathlib import Path

import pytest

from protocol import envelope
from protocol.frames import Refuse
from tests.net.harness import AnswerError, Net, Node, Row, incident, wait
from tests.net.puppet import Puppet
from tests.net.searching import hits
from tests.net.stories.evidence import case_dump
from tests.net.stories.officer import acknowledge, amend, ask
from tests.net.test_secrecy import pieces

H2 = {"tlp": "AMBER", "hc": ["H2"], "onward": "peers_same_handling"}


@pytest.fixture
def net(tmp_path: Path) -> Iterator[Net]:
    """Alder writes, birch reads, and cedar is X, which keeps all it is told in a file."""
    with Net(tmp_path) as net:
        for key, country in (("alder", "XA"), ("birch", "XB"), ("cedar", "XX")):
            net.make(key, node__country=country)
        home, out = str(net["cedar"].home.path), str(tmp_path / "told")
        net["cedar"].launch("-m", "tests.net.stories.overhearing", "--home", home, "--out", out)
        net.start("alder", "birch")
        net["cedar"].wait_ready()
        net.pair(("alder", "birch"), ("alder", "cedar"), ("birch", "cedar"))
        net.wait_linked("alder", "birch", "cedar")
        yield net
        net.check_journals()


def secret(word: str) -> Row:
    value = incident(f"Released at the port: {word}.", annex={"narrative": f"Paid, {word}."})
    value["face"]["handling"] = H2
    return value


def peers_outside(node: Node, country: str) -> list[str]:
    """Return the peers that are not of *country*."""
    peers = node.ask("GET", "/api/v1/peers")["items"]
    return [str(peer["name"]) for peer in peers if peer["country"] != country]


def test_story_07_do_not_tell_x(net: Net, tmp_path: Path) -> None:
    alder, birch, cedar = net["alder"], net["birch"], net["cedar"]
    words = [f"canary-{secrets.token_hex(12)}" for _ in range(3)]
    with Puppet(tmp_path, "mallory") as mallory:
        for node in (alder, cedar):
            mallory.befriend(node)
        link = mallory.link(alder)
        to = peers_outside(alder, "XX")
        key = alder.draft(secret(words[0]))
        seen = alder.ask("GET", f"/api/v1/incidents/{key}/recipients?to={'%1f'.join(to)}")
        assert seen["will_not_receive"] == ["cedar"]
        ref = alder.release(key, *to)["ref"]
        wait(lambda: birch.reads(key), "the incident at birch")
        amend(alder, key, secret(words[1]))
        ask(birch, key, "alder", kinds=["contact_only"], question=words[2])
        (wire, *_) = link.delivered(2)
        known = alder.draft(incident("what everybody may know"))
        alder.release(known, "birch", "cedar")
        wait(lambda: alder.delivered(known, "birch", "cedar"), "the other incident")
        wait(lambda: birch.incident(key)["revision"] == 2, "the amendment at birch")

        sealed = [envelope.parse(alder.raw(key, number)) for number in range(2)]
        marks = [each for one in sealed for each in pieces(one)]
        shown = [*words, key, ref, *(one.id.hex() for one in sealed)]
        check_heard(tmp_path / "told", cedar, known, marks, shown)
        check_shown(cedar, key, ref, known)
        check_relay(birch, key)
        answer = mallory.link(cedar).deliver(wire)
        assert isinstance(answer, Refuse)
        assert [item.code for item in answer.items] == ["wrong-audience"]
    assert refusals(cedar, "envelope-refused") == ["wrong-audience"]
    cedar.stop()
    check_disk(cedar, marks, shown)


def check_heard(told: Path, cedar: Node, known: str, marks: list[bytes], shown: list[str]) -> None:
    """Check that X was told of nothing but what it may know."""
    heard = told.read_bytes()
    other = envelope.parse(cedar.raw(known))
    assert other.ciphertext in heard, "what is kept is what X was told"
    assert not [mark for mark in marks if mark in heard]
    assert not hits(heard, shown)


def check_shown(cedar: Node, key: str, ref: str, known: str) -> None:
    """Check that X shows and counts nothing but what it may know."""
    for name in (key, ref):
        assert not cedar.reads(name)
    assert [row["id"] for row in cedar.received()] == [known]
    assert cedar.ask("GET", "/api/v1/status")["incidents"]["received"] == 1
    assert len(cedar.places()) == 1
    metrics = cedar.exchange("GET", "/metrics")[1].decode()
    assert "picket_gaps_open 0" in metrics


def check_relay(birch: Node, key: str) -> None:
    """Check that a reader's own node refuses to hand it on to X, and says so in its journal."""
    forward = {"what": key, "number": 0, "to": "Cedar", "by": "duty officer", "reader": "other"}
    with pytest.raises(AnswerError, match="H2 asks for permission") as refused:
        birch.ask("POST", "/api/v1/disclosures", forward)
    assert refused.value.status == 409
    assert refusals(birch, "onward-refused") == ["other"]
    with pytest.raises(AnswerError, match="must not learn of it"):
        ask(birch, key, "cedar", kinds=["contact_only"], question="And you?")
    with pytest.raises(AnswerError, match="must not learn of it"):
        acknowledge(birch, key, "opened", also_to=["cedar"])


def refusals(node: Node, event: str) -> list[str]:
    """Return the codes of all refusals of one kind in the journal of a node."""
    lines = node.journal.read_text().splitlines()
    rows = [json.loads(line) for line in lines if line.startswith("{")]
    return [str(row["code"]) for row in rows if row.get("event") == event]


def check_disk(cedar: Node, marks: list[bytes], shown: list[str]) -> None:
    """Check that no file of X, nor what it has in case.db, names it."""
    for path in cedar.files():
        data = path.read_bytes()
        assert not [mark for mark in marks if mark in data], path
        assert not hits(data, shown), path
    dump = case_dump(cedar)
    assert b"what everybody may know" in dump
    assert not hits(dump, shown)
