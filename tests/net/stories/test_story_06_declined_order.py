"""Story 6, declined order: a firm refused to sell, and the enquirer had asked in another country.

The same company stands there in another spelling. The node that holds both incidents shows them as
perhaps belonging together, and to find that out neither node tells the other anything.
"""

from __future__ import annotations

import secrets
from typing import Any

from tests.net.harness import Net, Node, Row, incident, wait
from tests.net.searching import hits


def enquiry(kind: str, name: str, *, email: str, phone: str) -> dict[str, Any]:
    contacts = [{"kind": "email", "value": email}, {"kind": "phone", "value": phone}]
    party = {"role": "buyer", "kind": "org", "name": name, "country": "RU", "contacts": contacts}
    value = incident("asked for 200 kg, cash, no end use", annex={"parties": [party]})
    value["face"] |= {"incident_type": kind, "indicators": ["vague_end_use"]}
    value["face"]["substances"][0]["qty"]["qualifier"] = "expected"
    return value


def candidates(node: Node, key: str) -> list[Row]:
    """Return what may belong to an incident, as *node* sees it."""
    rows: list[Row] = node.ask("GET", f"/api/v1/incidents/{key}/candidates")["items"]
    return rows


def of(author: Node, holder: Node) -> int:
    """Return how many envelopes of *author* stand at *holder*."""
    return sum(place[0] == author.id for place in holder.places())


def test_story_06_declined_order(quartet: Net) -> None:
    alder, birch, dogwood = (quartet[key] for key in ("alder", "birch", "dogwood"))
    word = secrets.token_hex(6)
    own = [f"{word}.own@mail.example", f"+7 495 {int(word, 16) % 10**7:07}"]
    name = f"Ориокс{word} Химия ООО"  # noqa: RUF001  Cyrillic, as it is written there
    asked = birch.draft(enquiry("suspicious_enquiry", name, email=own[0], phone=own[1]))
    birch.release(asked, "dogwood")
    wait(lambda: birch.delivered(asked, "dogwood"), "birch's own enquiry at dogwood")
    before = of(birch, alder)

    declined = alder.draft(
        enquiry("order_declined_by_industry", f"Oriox{word} Khimiya LLC",
                email=f"{word}@firm.example", phone="+7 812 5550199")
    )  # fmt: skip
    alder.release(declined, "birch")
    wait(lambda: birch.reads(declined), "the declined order at birch")
    wait(lambda: bool(candidates(birch, declined)), "birch to find its own enquiry")
    (match,) = candidates(birch, declined)
    assert (match["kind"], match["incident"]["id"]) == ("same_party", asked)
    assert "Oriox" in match["basis"]
    assert "Ориокс" in match["basis"], "an officer sees why"
    (back,) = candidates(birch, asked)
    assert back["incident"]["id"] == declined

    # Nothing was asked or told for it: alder has no byte of the one, and dogwood none of the other.
    assert candidates(alder, declined) == []
    assert candidates(dogwood, asked) == []
    assert of(birch, alder) == before
    assert birch.deliveries(asked) == {"dogwood": "received"}
    assert not alder.reads(asked)
    assert not dogwood.reads(declined)
    for node, needles in ((alder, [*own, asked]), (dogwood, [declined, f"{word}@firm.example"])):
        for path in node.files():
            assert not hits(path.read_bytes(), needles), path
