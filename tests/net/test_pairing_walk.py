"""Pairing by the book: what two operators type stands in docs/operating.md, and nothing else.

Each line that is typed here is a line of the pairing section, in the order of that section, with
the names, numbers and addresses of the example replaced by real ones. Each wrong turn gives one
line that names the cause and what to do, and changes nothing.
"""

from __future__ import annotations

import json
import os
import pty
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import pytest

from node.demo import NETWORK
from node.home import Home
from protocol.armor import armor
from protocol.statement import Chain, Inception, SealKey, make_bundle, make_inception
from protocol.suite import network_id
from tests.factories import card_body, card_of, hybrid, inception_of
from tests.net.harness import PATIENCE_S, Net, Node, free_ports, incident, wait
from tests.test_docs import OPERATING, section

DAY: Final = 86_400_000
REFUSED, UNVERIFIED = 4, 5
TYPING_S: Final = 10.0
"""What a person takes for one line, looking it up included; 60 digits take longer."""
DIGITS_S: Final = 25.0
EXAMPLE: Final = "041738891575915978557143646586564711742264462954573069721881"
SECTION: Final = section(OPERATING, "## Pair with another authority")
_FENCED: Final = re.compile(r"^ *```sh\n(.*?)^ *```$", re.MULTILINE | re.DOTALL)


def documented() -> list[str]:
    """Every command of the section, in order: of its blocks and of its sentences."""
    found = re.findall(r"^ *(picket .+)$|`(picket [^`]+)`", SECTION, re.MULTILINE)
    return [(line or inline).strip() for line, inline in found]


def in_blocks() -> list[str]:
    return [line.strip() for block in _FENCED.findall(SECTION) for line in block.splitlines()]


@dataclass(frozen=True)
class Said:
    """What a line gave."""

    out: str
    err: str
    code: int


@dataclass
class Operator:
    """One person at the machine of one node, with the document at hand."""

    node: Node
    folder: Path
    real: dict[str, str] = field(default_factory=dict)
    typed: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.folder.mkdir()
        program = self.folder / "picket"
        home = self.node.home.path
        program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m node --home "{home}" "$@"\n')
        program.chmod(0o755)

    def types(self, line: str, *answers: str) -> Said:
        """Type a *line* of the document, and *answers* to what it asks."""
        assert line in documented(), f"not in the document: {line}"
        self.typed.append(line)
        for example, real in self.real.items():
            line = line.replace(example, real)
        return self.does(line, *answers)

    def does(self, line: str, *answers: str) -> Said:
        """Type any *line*."""
        environment = {k: v for k, v in os.environ.items() if not k.startswith("PICKET_")}
        environment |= {"PATH": f"{self.folder}:{environment['PATH']}", "TERM": "dumb"}
        master, slave = pty.openpty()
        process = subprocess.Popen(
            ["/bin/sh", "-c", line], cwd=self.folder, env=environment, stdin=slave, stderr=slave,
            stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        os.close(slave)
        if answers:
            os.write(master, "".join(f"{answer}\n" for answer in answers).encode())
        out = process.communicate(timeout=PATIENCE_S)[0]
        err = drained(master)
        assert "Traceback" not in err, err
        return Said(out, err, process.returncode)

    def fine(self, line: str, *answers: str) -> str:
        """Type a line of the document that works; return its output."""
        said = self.types(line, *answers)
        assert said.code == 0, said
        return said.out

    def state(self) -> tuple[object, int]:
        """What a wrong turn may not change: peers with their levels, and the acts in the log."""
        rows = self.node.ask("GET", "/api/v1/peers")["items"]
        levels = {row["name"]: (row["level"], row["verified"]) for row in rows}
        return levels, self.node.verified_acts()


def drained(master: int) -> str:
    """Return what came to a terminal whose program has ended."""
    parts = []
    try:
        while part := os.read(master, 65_536):
            parts.append(part)
    except OSError:
        pass  # the other end is closed, and nothing is left
    finally:
        os.close(master)
    return b"".join(parts).decode().replace("\r\n", "\n")


def one_line(said: Said, code: int, *words: str) -> str:
    """Check that a command failed with one line that has a cause, a fix and *words*."""
    assert said.code == code, said
    assert said.out == ""
    # Questions end without a new line where the answer was typed ahead of them.
    lines: list[str] = re.findall(r"picket: [^\n]*", said.err)
    assert len(lines) == 1, said.err
    assert said.err.rstrip().endswith(lines[0])
    cause, _, fix = lines[0].removeprefix("picket: ").partition(". ")
    assert cause
    assert fix
    for word in words:
        assert word in lines[0], lines[0]
    return lines[0]


def failing(operator: Operator, peer: str) -> tuple[str, str, str]:
    """Return stage, cause and fix of the test of a peer that does not pass."""
    said = operator.does(f"picket peers test {peer} --json")
    row = json.loads(said.out)
    failed = [check for check in row["checks"] if check["result"] == "failed"]
    assert len(failed) == 1, row
    assert (said.code, row["ok"], said.err) == (REFUSED, False, "")
    return failed[0]["stage"], failed[0]["detail"], failed[0]["fix"]


def born(net: Net, key: str, country: str) -> Operator:
    """Make a node with ``picket init``, as its operator does."""
    port, http = free_ports(2)
    passphrase = net.folder / f"{key}.passphrase"
    passphrase.touch(mode=0o600)
    passphrase.write_text("the passphrase of this walk")
    node = Node(
        key, key.title(), country, Home(net.folder / key), port, http, folder=net.folder,
        passphrase=passphrase.read_text(),
    )  # fmt: skip
    net.nodes[key] = node
    operator = Operator(node, net.folder / f"desk-{key}")
    said = operator.does(
        f"picket init --authority {key.title()} --country {country} --network {NETWORK} "
        f"--contact duty@{key}.example --listen 127.0.0.1:{port} --http 127.0.0.1:{http} "
        f"--endpoint wss://127.0.0.1:{port} --passphrase-file {passphrase}"
    )
    assert said.code == 0, said
    return operator


def notices(node: Node) -> dict[str, str]:
    return {row["code"]: row["message"] for row in node.ask("GET", "/api/v1/status")["notices"]}


def heard(operator: Operator, peer: str) -> str:
    """Return the 60 digits as that operator reads them aloud from the screen."""
    return "".join(re.findall(r"\b[0-9]{5}\b", operator.fine(f"picket peers number {peer}")))


# --- the walk --------------------------------------------------------------------------------
def test_two_nodes_pair_from_nothing_by_following_the_document(tmp_path: Path) -> None:
    with Net(tmp_path) as net:
        began = time.monotonic()
        a, b = born(net, "alder", "XA"), born(net, "birch", "XB")
        net.start("alder", "birch")
        made = time.monotonic()
        a.real["wss://birch.example:8462"] = f"wss://127.0.0.1:{b.node.port}"

        b.types("picket keys card > birch.card")
        link = b.fine("picket keys card --qr").splitlines()[-1]
        b.fine("picket keys card --qr --out birch.svg")
        (a.folder / "birch.card").write_bytes((b.folder / "birch.card").read_bytes())

        a.real["picket-card:RCNQEXG-…?sha256=…&at=wss://birch.example:8462"] = link
        a.real = dict(sorted(a.real.items(), key=lambda pair: -len(pair[0])))
        a.fine("picket peers add --name birch - < birch.card")
        alternatives = 2
        a.fine("picket peers add --name birch wss://birch.example:8462")
        a.fine("picket peers add --name birch "
               "'picket-card:RCNQEXG-…?sha256=…&at=wss://birch.example:8462'")  # fmt: skip

        wait(lambda: "not-approved" in notices(a.node), "alder to be told to call")
        wait(lambda: "callers" in notices(b.node), "birch to be told who asks")
        assert "birch has not approved this node yet" in a.fine("picket status")
        b.real["IGSFDJQ"] = b.fine("picket peers pending").split()[0]
        b.fine("picket peers accept IGSFDJQ --name alder")
        net.wait_linked("alder", "birch")

        spoken = heard(a, "birch")
        assert len(spoken) == 60
        assert heard(b, "alder") == spoken
        a.fine("picket peers approve birch", spoken, "voice", "A. Officer")
        b.fine("picket peers approve alder", spoken, "voice", "B. Officer")
        a.real[EXAMPLE] = spoken
        alternatives += 1
        a.fine(f"picket peers number birch --scanned 'picket-number:{EXAMPLE}'")

        for operator, peer in ((a, "birch"), (b, "alder")):
            operator.fine(f"picket peers test {peer}")
        paired = time.monotonic()
        report = a.node.draft(incident("the first report"))
        a.node.release(report, "birch")
        wait(lambda: a.node.delivered(report, "birch"), "the first report")
        net.check_journals()

    both = [*a.typed, *b.typed]
    for operator in (a, b):
        places = [documented().index(line) for line in operator.typed]
        assert [p for p in places if "number" not in documented()[p]] == sorted(
            p for p in places if "number" not in documented()[p]
        ), "the document has another order than the people"
    assert set(in_blocks()) <= set(both), "a line of the document that nobody typed"
    needed = len(both) - alternatives
    by_hand = needed * TYPING_S / 2 + 2 * DIGITS_S  # two people, each at a machine of their own
    assert by_hand < 120, f"{needed} lines are too many for two minutes"
    print(f"\nboth nodes made and started in {made - began:.1f} s; paired and tested in "
          f"{paired - made:.1f} s of machine time with {needed} lines typed")  # fmt: skip


# --- wrong turns -----------------------------------------------------------------------------
@pytest.fixture(scope="module")
def net(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Net]:
    with Net(tmp_path_factory.mktemp("walk")) as net:
        net.make("alder")
        net.make("birch")
        net.make("elm", node__network="far.example")
        net.start("alder", "birch")
        yield net
        net.check_journals()


@pytest.fixture
def alder(net: Net, tmp_path: Path) -> Operator:
    return Operator(net["alder"], tmp_path / "desk")


def given(operator: Operator, card: str) -> None:
    """Let a card arrive under the name that the document gives it."""
    (operator.folder / "birch.card").write_text(card)


ADD = "picket peers add --name birch - < birch.card"


def test_a_card_of_another_network(net: Net, alder: Operator) -> None:
    net.start("elm")
    before = alder.state()
    given(alder, net["elm"].card())
    one_line(alder.types(ADD), UNVERIFIED, "network")
    assert alder.state() == before


def card_from(name: str, *, made: int, begins: int, ends: int) -> str:
    """Return the card of a node of this network that was made at *made*, by its own clock."""
    network = network_id(NETWORK)
    body = inception_of(name).body
    assert isinstance(body, Inception)
    inception = make_inception(
        body, network=network, issued=made, signers=[hybrid(name, "identity")]
    )
    chain = Chain.start(inception, network=network)
    seal = tuple(SealKey(key.public, begins, ends) for key in card_body(name).seal)
    return armor(
        make_bundle(chain.extend(card_of(chain, name, issued=made, expires=ends, seal=seal)))
    )


def test_an_expired_card(alder: Operator) -> None:
    now = time.time_ns() // 1_000_000
    before = alder.state()
    made = now - 400 * DAY
    given(alder, card_from("larch", made=made, begins=made, ends=now - DAY))
    one_line(alder.types(ADD), UNVERIFIED, "Larch", "ended", "new card")
    assert alder.state() == before


def test_a_card_made_on_a_machine_whose_clock_is_a_day_ahead(alder: Operator) -> None:
    made = time.time_ns() // 1_000_000 + DAY
    before = alder.state()
    given(alder, card_from("rowan", made=made, begins=made, ends=made + 300 * DAY))
    one_line(alder.types(ADD), UNVERIFIED, "Rowan", "clocks")
    assert alder.state() == before


def test_wrong_digits_and_pairing_one_side_only(net: Net, alder: Operator) -> None:
    given(alder, net["birch"].card())
    alder.fine(ADD)
    wait(lambda: "not-approved" in notices(alder.node), "alder to be told to call")
    stage, cause, fix = failing(alder, "birch")
    assert (stage, cause) == ("trust", "this node has not approved birch yet")
    assert "picket peers approve birch" in fix

    # The digits as heard, but one wrong: the group is named, and nobody is trusted.
    right = heard(alder, "birch")
    wrong = right[:5] + ("0" if right[5] != "0" else "1") + right[6:]
    before = alder.state()
    said = alder.types("picket peers approve birch", wrong, "voice", "A. Officer")
    one_line(said, REFUSED, "group 2 of 12")
    assert alder.state() == before

    # Alder approves; Birch does nothing. Both places say the same, and whom to call.
    alder.fine("picket peers approve birch", right, "voice", "A. Officer")
    before = alder.state()
    assert notices(alder.node)["not-approved"].startswith("birch has not approved this node yet")
    stage, cause, fix = failing(alder, "birch")
    assert (stage, cause) == ("trust", "birch has not approved this node yet")
    assert fix.startswith("call the duty desk of birch (duty@birch.example)")
    assert fix.endswith("picket peers pending")
    assert alder.state() == before

    # Birch adds, and does not approve: they link, and Birch gives nothing.
    birch = Operator(net["birch"], alder.folder / "birch")
    birch.real["IGSFDJQ"] = birch.fine("picket peers pending").split()[0]
    birch.fine("picket peers accept IGSFDJQ --name alder")
    net.wait_linked("alder", "birch")

    def judged() -> bool:
        row = json.loads(alder.does("picket peers test birch --json").out)
        return not row["ok"]

    wait(judged, "alder to see that birch gives nothing")
    stage, cause, fix = failing(alder, "birch")
    assert stage == "trust"
    assert cause.startswith("birch has not approved this node yet: it links, and gives nothing")
    assert re.search(r"picket peers approve [A-Z2-7]{7}$", fix)

    # Then its clock goes wrong by a day. Links do not depend on that, and it is told.
    birch.fine("picket peers approve alder", right, "voice", "B. Officer")
    net.stop("birch")
    home = str(net["birch"].home.path)
    net["birch"].start("-m", "tests.net.wrong_clock", str(DAY), "--home", home, "run")
    net.wait_linked("alder", "birch")
    before = alder.state()
    stage, cause, fix = failing(alder, "birch")
    assert (stage, cause) == ("clock", "its clock is 1 day ahead of this one")
    assert "NTP" in fix
    assert alder.state() == before
    stage, cause, _ = failing(birch, "alder")
    assert stage == "clock"
    assert cause == "its clock is 1 day behind this one"
    net.stop("birch")
