"""Story 4, the laboratory contradicts the label: "PMK glycidate" turns out to be DEPAPD.

Every holder sees what changed, what is counted and what is found follow at once, and the earlier
revision can still be verified.
"""

from __future__ import annotations

import secrets
from typing import Any, Final

from node.demo import NETWORK
from protocol import envelope
from protocol.entry import EntryKind
from protocol.suite import network_id
from tests.net.harness import Net, Node, incident, wait
from tests.net.stories.evidence import proven
from tests.net.stories.officer import amend

YEAR: Final = 2019
"""No other story has incidents of that year."""
LABEL: Final = {"substance_id": "pmk-glycidate-methyl", "id_status": "label_only"}
LAB: Final = {"substance_id": "depapd", "id_status": "laboratory_confirmed", "method": "gcms"}
CHANGED: Final = {
    ("/substances/0/substance_id", "pmk-glycidate-methyl", "depapd"),
    ("/substances/0/id_status", "label_only", "laboratory_confirmed"),
    ("/substances/0/method", None, "gcms"),
}


def seized(word: str, substance: dict[str, str]) -> dict[str, Any]:
    value = incident(f"Drums, {word}.")
    amount = {"form": "solid_powder", "qty": {"value": "1250.5", "unit": "KGM"}}
    value["face"] |= {
        "exercise": False, "detected_at": f"{YEAR}-03-04T08:20:00Z",
        "substances": [{**substance, **amount}],
    }  # fmt: skip
    return value


def found(node: Node, word: str, substance: str) -> list[str]:
    """Return the incidents that an officer's usual search finds."""
    asked = {"text": word, "substance": substance}
    return [row["id"] for row in node.ask("POST", "/api/v1/incidents/search", asked)["items"]]


def counted(node: Node) -> dict[str, str]:
    """Return amount by substance, as a node counts the seizures of alder in that year."""
    of = "" if node.key == "alder" else "&of=alder"
    sheet = node.ask("GET", f"/api/v1/obligations/form-d?year={YEAR}{of}")
    columns = sheet["columns"]
    name, amount = columns.index("Substance"), columns.index("Amount")
    return {row[name]: row[amount] for row in sheet["rows"]}


def test_story_04_lab_contradicts_the_label(quartet: Net) -> None:
    alder, *others = (quartet[key] for key in ("alder", "birch", "cedar"))
    word = f"word{secrets.token_hex(8)}"
    key = alder.draft(seized(word, LABEL))
    alder.release(key, "birch", "cedar")
    for node in others:
        wait(lambda n=node: n.reads(key), "the report")  # type: ignore[misc]
    for node in (alder, *others):
        assert found(node, word, "pmk-glycidate-methyl") == [key]
        assert found(node, word, "DEPAPD") == []
        assert len(counted(node)) == 1

    amend(alder, key, seized(word, LAB), note="result of the laboratory")
    for node in others:
        wait(lambda n=node: n.incident(key)["revision"] == 2, "the amendment")  # type: ignore[misc]
    for node in (alder, *others):
        first, second = node.ask("GET", f"/api/v1/incidents/{key}/history")["items"]
        assert (first["revision"], first["changes"]) == (1, [])
        changes = {(c["pointer"], c["before"], c["after"]) for c in second["changes"]}
        assert changes == CHANGED
        assert second["note"] == "result of the laboratory"
        assert second["follows"]
        assert found(node, word, "pmk-glycidate-methyl") == []
        assert found(node, word, "DEPAPD") == [key]
        ((name, amount),) = counted(node).items()
        assert ("DEPAPD" in name, amount) == (True, "1250.5")
        check_earlier(alder, node, key)


def check_earlier(author: Node, node: Node, key: str) -> None:
    """Check that the first revision verifies still, by signature and by log."""
    wire = node.raw(key, 0)
    card = author.chain().card
    assert card is not None
    envelope.verify(envelope.parse(wire), network=network_id(NETWORK), message_key=card.message)
    kind = EntryKind.RELEASED if node is author else EntryKind.RECEIVED
    entry = proven(node, key, 0)
    assert (entry.kind, entry.subject) == (kind, envelope.parse(wire).id)
    assert node.raw(key, 1) != wire
