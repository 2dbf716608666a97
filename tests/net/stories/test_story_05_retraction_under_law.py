"""Story 5, retraction under law: a court orders that a person be erased.

Content and attachments are gone at every holder that is online, and at the others once they are
back. What is left is the proof in the logs that it was there, the receipts of its erasure, and a
tombstone that names nobody.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from protocol import envelope
from protocol.entry import EntryKind
from tests.net.harness import Net, Node, incident, wait
from tests.net.searching import hits
from tests.net.stories.evidence import case_dump, proven
from tests.net.stories.officer import amend, ask, respond, retract, state
from tests.net.test_attachments import arrived, content, fetch, name_of, put, reads

TOMBSTONE = {"incident_id", "ref", "revision", "reason", "at"}


@pytest.fixture
def net(tmp_path: Path) -> Iterator[Net]:
    with Net(tmp_path) as net:
        net.mesh("alder", "birch", "cedar")
        yield net
        net.check_journals()


def about(person: str, photo: bytes) -> dict[str, Any]:
    attachment = {"sha256": name_of(photo), "media_type": "image/jpeg", "size": len(photo),
                  "kind": "site_photo"}  # fmt: skip
    party = {"role": "suspect", "kind": "person", "name": person}
    return incident("drums", annex={"parties": [party], "attachments": [attachment]})


def found(node: Node, text: str) -> bool:
    """Whether a search of the node finds *text*."""
    return bool(node.ask("POST", "/api/v1/incidents/search", {"text": text})["items"])


def proofs_lacking(author: Node, incident_id: str, peer: str) -> int:
    """Return for how many envelopes the author has no proof that *peer* erased them."""
    items = author.ask("GET", f"/api/v1/incidents/{incident_id}/deliveries")["items"]
    mine = [row for row in items if row["peer"] == peer]
    assert mine
    return sum(row["erased_at"] is None for row in mine)


def test_story_05_retraction_under_law(net: Net) -> None:
    alder, birch, cedar = net["alder"], net["birch"], net["cedar"]
    words = [f"Canary{secrets.token_hex(12)}" for _ in range(4)]
    photo = content(200_000, f"canary-{words[0]}")
    put(alder, photo)
    key = alder.draft(about(words[0], photo))
    alder.release(key, "birch", "cedar", annex_to=["birch"])
    wait(lambda: birch.reads(key) and birch.incident(key)["annex"], "the annex at birch")
    fetch(birch, name_of(photo))
    arrived(birch, name_of(photo))
    request = ask(birch, key, "alder", kinds=["contact_only"], question=f"Is it {words[1]}?")
    wait(lambda: bool(state(alder, key)["requests"]), "the question")
    respond(alder, request, "final", text=f"Yes, {words[2]}.")
    amend(alder, key, about(words[3], photo))
    wait(lambda: alder.delivered(key, "birch", "cedar"), "the amendment")
    wait(lambda: birch.incident(key)["revision"] == 2, "the amendment at birch")
    assert reads(birch, photo)
    assert found(birch, words[3])
    count = len(birch.incident(key)["envelopes"])
    marks = marks_of(alder, key)
    blobs = [path.read_bytes()[:4_096] for path in birch.home.attachments.glob("*-*")]
    assert blobs
    existed = [proven(birch, key, number) for number in range(count)]
    cedar.stop()

    retract(alder, key, "legal_order")
    wait(lambda: birch.incident(key)["state"] == "erased", "the erasure at birch")
    wait(lambda: proofs_lacking(alder, key, "birch") == 0, "birch's receipts of erasure")
    assert proofs_lacking(alder, key, "cedar") == 2
    cedar.start()
    wait(lambda: proofs_lacking(alder, key, "cedar") == 0, "cedar's receipts of erasure")

    for node in net.nodes.values():
        assert not found(node, words[3])
        row = node.incident(key)
        assert (row["state"], row["face"], row["annex"]) == ("erased", None, None)
        assert not reads(node, photo)
        assert set(state(node, key)["retracted"]) == TOMBSTONE
    assert [proven(birch, key, number) for number in range(count)] == existed
    assert {entry.kind for entry in existed} == {EntryKind.RECEIVED}
    for node in net.nodes.values():
        node.verify_log()
    net.stop("alder", "birch", "cedar")
    for node in net.nodes.values():
        check_gone(node, words, [*marks, *blobs])


def marks_of(author: Node, key: str) -> list[bytes]:
    """Return pieces of everything that was sealed about the incident."""
    sealed = [
        envelope.parse(author.raw(key, n)) for n in range(len(author.incident(key)["envelopes"]))
    ]
    # Header and signature stay: they are what the proofs are about.
    return [
        one.ciphertext[at : at + 32]
        for one in sealed
        for at in range(0, len(one.ciphertext) - 31, 32)
    ]


def check_gone(node: Node, words: list[str], marks: list[bytes]) -> None:
    """Check that nothing of it is left on the disk of a node."""
    for path in node.files():
        data = path.read_bytes()
        assert not [mark for mark in marks if mark in data], path
        assert not hits(data, words), path
    assert not list(node.home.attachments.glob("*-*"))
    left = case_dump(node).lower()
    assert b"legal_order" in left
    assert b"canary" not in left, "what they have in common, as an index would keep it"
