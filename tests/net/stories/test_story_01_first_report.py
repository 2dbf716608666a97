"""Story 1, first report: seven answers and a photo of a label, and the desks concerned have it.

Picket says whom it concerns and what would help them most, and stops nobody from sending. Those who
are reached hold it within ten seconds, and nobody else can read face or annex.
"""

from __future__ import annotations

import re
import time
from pathlib import Path
from typing import Final

from protocol import envelope
from protocol.frames import Refuse
from tests.net.harness import Net, Node, wait
from tests.net.puppet import Puppet
from tests.net.test_attachments import arrived, content, fetch, name_of, reads
from tests.net.test_log import OK, picket, told
from tests.node.test_cli import at_terminal_often

ANSWERS: Final = (
    ("1/7 Its", "stopped shipment"), ("2/7", ""), ("3/7", "now"), ("4/7", "Acetic anhydride"),
    ("5/7", "20160 L"), ("6/7", "120 drums declared as cleaning agent, stopped at the port."),
    ("7/7", "Duty desk, duty@alder.example"), ("Handling", ""), ("The way", "CN > PL > TR"),
    ("Release it to", "-"),
)  # fmt: skip
NAMED: Final = ("birch", "cedar", "dogwood")
SECONDS: Final = 10
SCREEN: Final = 50
"""Lines of all that the officer is asked and told, questions and their answers."""


def test_story_01_first_report(quartet: Net, tmp_path: Path) -> None:
    alder = quartet["alder"]
    photo = content(300_000)
    (tmp_path / "label.jpg").write_bytes(photo)
    with Puppet(tmp_path, "mallory") as mallory:
        mallory.befriend(alder)
        link = mallory.link(alder)
        key, ref = drafted(alder)
        home = alder.home.path
        add = ("attachments", "add", str(tmp_path / "label.jpg"), "--draft", ref)
        told(picket(home, *add, "--kind", "label_photo"), OK)
        assert alder.incident(key)["missing_anchors"][0] == "A2", "the label may name the batch"
        names = [word for name in NAMED for word in ("--to", name)]
        done = told(picket(home, "incidents", "release", ref, *names, "--yes"), OK, "is released")
        assert re.search(r"Will NOT receive it: +mallory", done)
        submitted = time.monotonic()
        for name in NAMED:
            left = SECONDS - (time.monotonic() - submitted)
            wait(lambda n=name: quartet[n].reads(key), f"{name} to hold it", left)  # type: ignore[misc]
        check_readers(quartet, key, photo)
        answer = link.deliver(mallory.release("from outside", [alder.id]).wire)
        assert not isinstance(answer, Refuse), "it is heard"
        assert not link._wires(), "and was told of nothing"
        check_sealed(quartet, mallory, key)


def drafted(alder: Node) -> tuple[str, str]:
    """Let the duty officer answer; return id and reference of the draft."""
    presses = [(asked, answer.encode() + b"\n") for asked, answer in ANSWERS]
    code, shown = at_terminal_often(alder.home.path, "incidents", "new", presses=presses)
    assert code == OK, shown
    assert len(shown.splitlines()) <= SCREEN, shown
    helps = next(line for line in shown.splitlines() if line.startswith("Would help"))
    assert helps.index("(A4)") < helps.index("(A2)")
    concerned = next(line for line in shown.splitlines() if line.startswith("Countries concerned"))
    assert all(country in concerned for country in ("CN", "PL", "TR"))
    assert concerned.endswith("Peers there: birch, cedar, dogwood")
    (ref,) = re.findall(r"^Draft (\S+)$", shown, re.MULTILINE)
    return str(alder.incident(ref)["id"]), ref


def check_readers(net: Net, key: str, photo: bytes) -> None:
    """Check that those named read all of it, the photo too."""
    written = net["alder"].incident(key)
    assert written["annex"]["attachments"][0]["kind"] == "label_photo"
    for name in NAMED:
        read = net[name].incident(key)
        assert (read["face"], read["annex"]) == (written["face"], written["annex"])
    fetch(net["cedar"], name_of(photo))
    arrived(net["cedar"], name_of(photo))
    assert reads(net["cedar"], photo)


def check_sealed(net: Net, mallory: Puppet, key: str) -> None:
    """Check that it was sealed to those named and to nobody else, whoever gets hold of it."""
    wire = net["birch"].raw(key)
    sealed = envelope.parse(wire)
    with net["birch"].database() as database:
        opener = sealed.header.opener or sealed.id
        row = database.execute("SELECT wire FROM envelopes WHERE id = ?", (opener,)).fetchone()
    audience = envelope.parse(row["wire"]).audience
    assert audience is not None
    assert set(audience.recipient_ids) == {net[name].id for name in NAMED}
    assert not audience.carriers
    taken = mallory.core.take([wire], giver=net["alder"].id)
    assert [item.code for item in taken.refusals] == ["wrong-audience"]
