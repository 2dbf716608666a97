"""Story 8, key loss: a laptop with live keys is stolen, and its owner takes the identity back."""

from __future__ import annotations

import asyncio
import re
import selectors
import shutil
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import pytest
from typing_extensions import override

from keys.fingerprint import parse_code
from keys.identity import rotation_of
from node.app import open_core, recover, unlock
from node.clock import SystemClock
from node.config import load_config
from node.home import Home
from protocol.errors import LinkError
from protocol.frames import Refuse, Statements
from protocol.statement import Statement, make_card, make_rotate
from tests.factories import hybrid
from tests.net.harness import Net, Node, incident, wait
from tests.net.puppet import Puppet, PuppetLink

NEW_PASSPHRASE = "the passphrase after the theft"


class Thief(Puppet):
    """Whoever runs a copy of a node's home, and knows its passphrase."""

    @override
    def __init__(self, home: Path, name: str, passphrase: str) -> None:
        self.name, self.home = name, Home(home)
        self._stack = ExitStack()
        config = load_config(self.home)
        self.core = self._stack.enter_context(open_core(self.home, config, SystemClock()))
        unlock(self.core, config, passphrase.encode)
        self._selector = selectors.DefaultSelector()
        self._loop = asyncio.SelectorEventLoop(self._selector)
        self._thread = threading.Thread(target=self._loop.run_forever)
        self._thread.start()
        self._links: list[PuppetLink] = []

    @override
    def __enter__(self) -> Thief:
        return self


@pytest.fixture
def net(tmp_path: Path) -> Iterator[Net]:
    with Net(tmp_path) as net:
        net.make("alder", witness__beat=1)  # so that heads of before are cosigned, too
        for key in ("birch", "cedar"):
            net.make(
                key, peer__recovery_hold=0, witness__beat=1
            )  # 72 hours are for the tests with a clock by hand
        keys = ("alder", "birch", "cedar")
        net.start(*keys)
        net.pair(("alder", "birch"), ("alder", "cedar"), ("birch", "cedar"))
        net.wait_linked(*keys)
        yield net


def level(node: Node, name: str = "alder") -> str:
    return str(node.ask("GET", f"/api/v1/peers/{name}")["level"])


def notices(node: Node) -> set[str]:
    return {row["code"] for row in node.ask("GET", "/api/v1/status")["notices"]}


def confirmed(node: Node) -> bool:
    """Let the operator of *node* confirm what alder says; return whether it counts now."""
    peer = node.ask("GET", "/api/v1/peers/alder")
    body = {"safety_number": peer["safety_number"], "method": "voice", "by": "duty officer"}
    return bool(node.ask("POST", "/api/v1/peers/alder/confirm", body)["counts"])


def paper(node: Node) -> str:
    """Take the recovery code to the safe: print the sheet and delete it."""
    text = node.home.recovery_sheet.read_text()
    node.home.recovery_sheet.unlink()
    return codes_in(text)[0]


def codes_in(text: str) -> list[str]:
    found = re.finditer(r"^    ([A-Z2-7]{7}(?:-[A-Z2-7]{7}){7})$", text, re.MULTILINE)
    return [match[1] for match in found]


def forged_rotation(thief: Thief) -> Statement:
    """Return the best rotation that a thief of the live keys can make."""
    key = hybrid("mallory", "identity")
    body = replace(rotation_of(bytes(32), following=bytes(32)), keys=(key.public,))
    return make_rotate(
        replace(body, next_digests=(bytes(range(32)),)), chain=thief.core.trust.own,
        issued=thief.core.clock.now(), old={0: thief.core.keys_open().identity}, new=[key],
    )  # fmt: skip


def check_service(net: Net) -> None:
    """Check that reports go both ways again, and that all logs verify."""
    alder, birch, cedar = net["alder"], net["birch"], net["cedar"]
    for author, recipients in ((alder, ("birch", "cedar")), (birch, ("alder",))):
        after = author.draft(incident("after the theft"))
        author.release(after, *recipients)
        wait(
            lambda a=author, i=after, r=recipients: a.delivered(i, *r),  # type: ignore[misc]
            f"a report of {author.key} after the theft",
        )
    for node in (alder, birch, cedar):
        node.verify_log()
    net.check_journals()


def test_story_08_key_loss(net: Net, tmp_path: Path) -> None:
    alder, birch, cedar = net["alder"], net["birch"], net["cedar"]
    code = paper(alder)
    before = alder.draft(incident("before the theft"))
    alder.release(before, "birch", "cedar")
    wait(lambda: alder.delivered(before, "birch", "cedar"), "the report before the theft")
    wait(lambda: bool(alder.ask("GET", "/api/v1/log/witnesses")["cosigned_at"]), "witnesses")

    # Friday, 18:00: the laptop is gone, with its home and, on a note, the passphrase.
    alder.stop()
    shutil.copytree(
        alder.home.path, tmp_path / "thief", ignore=shutil.ignore_patterns("control.sock")
    )
    with (
        Thief(tmp_path / "thief", "alder", alder.passphrase) as thief,
        Puppet(tmp_path, "mallory") as mallory,
    ):
        mallory.befriend(birch)
        thief.know(mallory.core.trust.own, "mallory")
        mallory.know(thief.core.trust.own, "alder")

        # The thief rotates, and is refused: the next key is on paper, in the safe.
        rotated = forged_rotation(thief)
        link = thief.link(birch)
        for _ in range(2):
            link.send(Statements(thief.id, (rotated.wire,)))
        assert link.expect_end() == "bad-statement"
        assert level(birch) == "share"

        # What the live keys can do they do: a card of the thief's own, and a report under it.
        core = thief.core
        card = replace(core.card, contact="the thief's desk")
        made = make_card(
            card, chain=core.trust.own, issued=core.clock.now(),
            signer=core.keys_open().identity,
        )  # fmt: skip
        dated = thief.release("made under the old card, kept for later", [birch.id, mallory.id])
        core.add_statement(made)
        link = thief.link_again(birch)
        link.send(Statements(thief.id, (made.wire,)))
        taken = thief.release("written by the thief", [birch.id])
        assert not isinstance(link.deliver(taken.wire), Refuse), "nobody can tell yet"

        # The owner takes the identity back, with the paper, in the home from which it was copied.
        recover(
            alder.home.path, code=code, passphrase=NEW_PASSPHRASE.encode(),
            old=alder.passphrase.encode(),
        )  # fmt: skip
        assert parse_code(paper(alder)) != parse_code(code)
        (net.folder / "alder.passphrase").write_text(NEW_PASSPHRASE)
        alder.start()
        assert alder.incident(before)["ref"], "what was there before is there still"

        # One peer gets the new card as a file; the other hears of it from that one at once.
        birch.ask("POST", "/api/v1/peers", {"card": alder.card(), "name": "alder"})
        assert level(birch) == "held"
        wait(lambda: level(cedar) == "held", "cedar to hear of it")
        assert "recovery" in notices(birch) & notices(cedar)
        with pytest.raises((LinkError, AssertionError)):
            thief.run(thief._handshake(birch), 10)

        # Both operators call alder on a number that they know.
        assert confirmed(birch) and confirmed(cedar)
        net.wait_linked("alder", "birch", "cedar")

        # The thief's keys are worth nothing, not even for what is dated before the theft.
        with pytest.raises((LinkError, AssertionError)):
            thief.run(thief._handshake(birch), 10)
        answer = mallory.link(birch).deliver(dated.wire)
        assert isinstance(answer, Refuse)
        assert [item.code for item in answer.items] == ["superseded-card"]

    # The old reports verify, the one of the thief is told, and new ones go both ways.
    assert birch.reads(before) and cedar.reads(before)
    assert "doubtful" in notices(birch)
    check_service(net)


def test_a_revoked_identity_is_refused_by_all_within_one_sync(net: Net) -> None:
    alder, birch, cedar = net["alder"], net["birch"], net["cedar"]
    codes = codes_in(alder.home.recovery_sheet.read_text())
    alder.ask("POST", "/api/v1/keys/revoke", {"code": codes[1]})
    for node in (birch, cedar):
        wait(lambda n=node: level(n) == "revoked", "the revocation")  # type: ignore[misc]
        wait(lambda n=node: "revoked" in notices(n), "the notice")  # type: ignore[misc]
    wait(lambda: birch.linked("cedar"), "the links with alder to end")
    net.check_journals()
