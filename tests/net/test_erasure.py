"""Erasing between real nodes: nothing is left in any file, and the author gets its proof."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from protocol import envelope
from tests.net.harness import AnswerError, Net, Node, incident, wait
from tests.net.test_attachments import arrived, fetch, reads, share

ORDER = {"reason": "legal_order", "by": "J. Judge"}


@pytest.fixture
def net(tmp_path: Path) -> Iterator[Net]:
    with Net(tmp_path) as net:
        net.mesh("alder", "birch")
        yield net
        net.check_journals()


def erase(node: Node, incident_id: str, **options: object) -> dict[str, Any]:
    path = f"/api/v1/incidents/{incident_id}/erase"
    row: dict[str, Any] = node.ask("POST", path, {**ORDER, **options})
    return row


def erased_at(author: Node, incident_id: str) -> str | None:
    (row,) = author.ask("GET", f"/api/v1/incidents/{incident_id}/deliveries")["items"]
    assert row["state"] == "received"
    at: str | None = row["erased_at"]
    return at


def holding(node: Node, *secret: bytes) -> list[str]:
    """Return the files of a node, its journal among them, that hold a part of one of *secret*."""
    parts = [each[at : at + 24] for each in secret for at in range(0, len(each) - 23, 24)]
    return [
        path.name
        for path in node.files()
        if any(part in data for data in [path.read_bytes()] for part in parts)
    ]


def test_an_erased_incident_is_in_no_file_and_its_author_has_proof_of_it(net: Net) -> None:
    alder, birch = net["alder"], net["birch"]
    data = secrets.token_bytes(200_000)
    canary = f"canary {secrets.token_hex(16)}"
    key = share(net, "alder", data, "birch")
    plain = alder.draft(incident(canary))
    alder.release(plain, "birch")
    wait(lambda: alder.delivered(plain, "birch") and birch.reads(plain), "the second incident")
    (sha256,) = (r["sha256"] for r in birch.ask("GET", "/api/v1/attachments")["items"])
    fetch(birch, sha256)
    arrived(birch, sha256)
    assert reads(birch, data)
    sealed = [envelope.parse(birch.raw(each)).ciphertext for each in (key, plain)]
    blob = next(birch.home.attachments.glob("*-*")).read_bytes()[:4_096]
    assert len({*holding(birch, sealed[0]), *holding(birch, blob)}) >= 2

    for each in (plain, key):
        assert erase(birch, each)["done"]
    assert not holding(birch, *sealed, blob, canary.encode(), data[:4_096])
    assert birch.incident(key)["state"] == "erased"
    birch.verify_log()

    wait(lambda: erased_at(alder, key) is not None, "the proof at the author")
    wait(lambda: erased_at(alder, plain) is not None, "the proof of the other one")
    alder.verify_log()
    assert alder.incident(key)["state"] == "released"
    assert alder.incident(plain)["summary"] == canary

    birch.stop()
    birch.start()
    assert not holding(birch, *sealed, blob, canary.encode(), data[:4_096])
    assert birch.incident(plain)["state"] == "erased"
    birch.verify_log()


def test_the_proof_survives_the_kill_of_both_ends(net: Net) -> None:
    alder, birch = net["alder"], net["birch"]
    text = f"canary {secrets.token_hex(16)}"
    key = alder.draft(incident(text))
    alder.release(key, "birch")
    wait(lambda: alder.delivered(key, "birch") and birch.reads(key), "the incident at birch")
    sealed = envelope.parse(birch.raw(key)).ciphertext
    alder.kill()
    erase(birch, key)
    birch.kill()
    birch.start()
    assert birch.incident(key)["state"] == "erased"
    assert not holding(birch, sealed, text.encode())
    alder.start()
    wait(lambda: erased_at(alder, key) is not None, "the proof at the author")
    alder.kill()
    alder.start()
    assert erased_at(alder, key) is not None
    for node in (alder, birch):
        node.verify_log()


def test_what_nobody_has_yet_is_taken_back_on_demand(net: Net) -> None:
    alder, birch = net["alder"], net["birch"]
    birch.stop()
    key = alder.draft(incident("entered in error"))
    alder.release(key, "birch")
    with pytest.raises(AnswerError) as refused:
        erase(alder, key)
    assert refused.value.status == 409
    erase(alder, key, also_undelivered=True)
    assert alder.deliveries(key) == {"birch": "withdrawn"}
    later = alder.draft(incident("correct"))
    alder.release(later, "birch")
    birch.start()
    wait(lambda: alder.delivered(later, "birch") and birch.reads(later), "the later one at birch")
    assert not birch.reads(key)
    for node in (alder, birch):
        node.verify_log()
