"""Story 3, backtracking: who bought the batch? The country of the manufacturer answers.

The clocks of the request, the talk about it and the new anchors are there on every side, and what
is not answered in time escalates.
"""

from __future__ import annotations

import datetime
import secrets
from collections.abc import Callable
from typing import Any, Final

from tests.net.harness import Net, Node, Row, incident, wait
from tests.net.stories.officer import amend, ask, respond, say, state

BATCH: Final = "B2026-0917-33"
ORIGIN: Final = {"substance": 1, "manufacturer": "Vistula Chem", "country": "PL", "batch_no": BATCH}


def soon(seconds: float) -> str:
    at = datetime.datetime.now(datetime.UTC) + datetime.timedelta(seconds=seconds)
    return f"{at:%Y-%m-%dT%H:%M:%S}.{at.microsecond // 1000:03d}Z"


def asked(node: Node, key: str, request_id: str) -> Row:
    """Return a request as *node* shows it, or nothing."""
    found = state(node, key)["requests"]
    return next((r for r in found if r["request"]["request_id"] == request_id), {})


def outcomes(node: Node, key: str, request_id: str) -> list[str]:
    answers = asked(node, key, request_id).get("answers", [])
    return [response["outcome"] for answer in answers for response in answer["responses"]]


def everywhere(nodes: list[Node], done: Callable[[Node], bool], what: str) -> None:
    for node in nodes:
        wait(lambda n=node: done(n), f"{what} at {node.key}")  # type: ignore[misc]


def test_story_03_backtracking(quartet: Net) -> None:
    nodes = [quartet[key] for key in ("alder", "birch", "cedar")]
    alder, birch, cedar = nodes
    buyer = f"Buyer {secrets.token_hex(8)}"
    key = alder.draft(incident("drums of unknown origin", annex={"origins": [ORIGIN]}))
    alder.release(key, "birch", "cedar")
    everywhere(nodes, lambda n: n.reads(key), "the report")

    request = ask(birch, key, "cedar", kinds=["trace_batch"], question=f"Who bought {BATCH}?")
    everywhere(nodes, lambda n: bool(asked(n, key, request)), "the question")
    due = asked(birch, key, request)["request"]["due"]
    for node in nodes:
        shown = asked(node, key, request)
        assert (shown["state"], shown["request"]["due"]) == ("open", due)
    respond(cedar, request, "interim", text="The manufacturer is looking for it.")
    everywhere(nodes, lambda n: asked(n, key, request)["state"] == "interim", "the interim answer")
    say(birch, key, "We wait for it.")
    party = {"role": "buyer", "kind": "org", "name": buyer, "country": "TR"}
    respond(cedar, request, "final", text="Sold once.", annex={"parties": [party]})
    everywhere(nodes, lambda n: asked(n, key, request)["state"] == "answered", "the final answer")
    everywhere(nodes, lambda n: len(state(n, key)["thread"]) == 1, "the message")
    for node in nodes:
        assert outcomes(node, key, request) == ["interim", "final"]
        check_talk(node, key, buyer)
    assert not quartet["dogwood"].reads(key)

    # The originator takes the buyer into its incident, where all who hold it find it.
    more = {"origins": [ORIGIN], "parties": [party]}
    amend(alder, key, incident("drums, sold to a firm that is known", annex=more))
    everywhere(nodes, lambda n: found(n, buyer) == [key], "the buyer")
    check_late(birch, cedar, key)


def check_talk(node: Node, key: str, buyer: str) -> None:
    """Check that all that was asked and answered is there in its order, anchors as fields."""
    items = node.ask("GET", f"/api/v1/incidents/{key}/thread")["items"]
    assert [item["what"] for item in items] == ["request", "response", "message", "response"]
    parties = items[-1]["anchors"]["annex"]["parties"]
    assert [(each["role"], each["name"]) for each in parties] == [("buyer", buyer)]


def found(node: Node, party: str) -> list[str]:
    rows: list[dict[str, Any]] = node.ask("POST", "/api/v1/incidents/search", {"party": party})[
        "items"
    ]
    return [row["id"] for row in rows]


def check_late(asker: Node, late: Node, key: str) -> None:
    """Check that a request that is not answered in time escalates until it is."""
    request = ask(
        asker, key, late.key, kinds=["verify_company"], question="Is it licensed?", due=soon(0.5),
        priority="urgent",
    )  # fmt: skip
    wait(lambda: bool(asked(late, key, request)), "the second question")
    for node in (asker, late):
        wait(lambda n=node: asked(n, key, request)["escalation"] >= 2, "it to escalate")  # type: ignore[misc]
        assert asked(node, key, request)["state"] == "overdue"
        first = node.ask("GET", "/api/v1/followups?state=overdue")["items"][0]
        assert first["id"] == request
    respond(late, request, "negative", text="There is no such firm.")
    wait(lambda: asked(asker, key, request)["state"] == "answered", "the late answer")
    assert not asker.ask("GET", "/api/v1/followups?state=overdue")["items"]
