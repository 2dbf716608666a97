"""Handing one message to an auditor: what is logged first, what the file has, how to check it."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest

from keys.fingerprint import format_node_id
from node import api
from node.access import OPERATOR
from node.calls import Request
from protocol import envelope
from protocol.access import DISCLOSE
from protocol.disclosure import check_disclosure, dearmor_disclosure, parse_disclosure
from protocol.errors import (
    AudienceError,
    BusyError,
    ConflictError,
    NotFoundError,
    OpenError,
    RequestError,
)
from tests.node.factories import (
    PASSPHRASE,
    Station,
    World,
    copied,
    full_disk,
    incident,
    incident_id,
    made_once,
    pass_on,
)

ROOT: Final = Path(__file__).parents[2]
KEY: Final = incident_id(1)
CHOICE: Final = {
    "number": None,
    "to": "Court of X",
    "by": "J. Judge",
    "reason": "",
    "who": OPERATOR,
}


@pytest.fixture
def world(tmp_path_factory: pytest.TempPathFactory, tmp_path: Path) -> Iterator[World]:
    with copied(made_once(tmp_path_factory), tmp_path, ("alder", "birch", "cedar")) as opened:
        yield opened


@pytest.fixture
def birch(world: World) -> Station:
    """A node that received incidents 1 to 3, of one epoch."""
    for number in (1, 2, 3):
        world["alder"].release(number, world["birch"])
    pass_on(world["alder"], world["birch"])
    world["birch"].core.try_follow()
    return world["birch"]


def disclose(station: Station, what: str = KEY, **change: Any) -> dict[str, Any]:  # noqa: ANN401
    return station.service().handling.disclose(what, **{**CHOICE, **change})


def ids(station: Station) -> list[bytes]:
    rows = station.core.store.rows("SELECT id FROM envelopes ORDER BY log_index")
    return [row["id"] for row in rows]


def acts(station: Station, key: str = KEY) -> list[dict[str, Any]]:
    items: list[dict[str, Any]] = station.service().handling.accesses(key)["items"]
    return items


# --- making ----------------------------------------------------------------------------------
@pytest.mark.parametrize("number", [1, 2])
def test_an_auditor_reads_what_the_author_signed_with_nothing_but_the_file(
    world: World, birch: Station, number: int
) -> None:
    seen = disclose(birch, incident_id(number))
    report = check_disclosure(
        dearmor_disclosure(seen["disclosure"]),
        network=birch.core.trust.own.network,
        author=world["alder"].id,
    )
    assert report.genuine, report.checks
    assert report.record is not None
    assert report.record["incident_id"] == incident_id(number)
    assert report.recipients == (birch.id,)
    assert bytes.fromhex(seen["envelope_id"]) == ids(birch)[number - 1]


def test_the_file_opens_that_message_and_no_other_of_the_node(birch: Station) -> None:
    found = parse_disclosure(dearmor_disclosure(disclose(birch)["disclosure"]))
    for key in ids(birch)[1:]:
        with pytest.raises(OpenError):
            envelope.open_body(envelope.VerifiedEnvelope(birch.envelope(key)), found.content_key)
    for opener in ids(birch)[:1]:
        assert birch.core.epoch(opener).key not in found.encode()


def test_the_author_and_an_envelope_id_work_as_well(world: World, birch: Station) -> None:
    alder = world["alder"]
    by_key = disclose(alder, KEY)
    by_id = disclose(alder, ids(alder)[0].hex())
    assert by_key["disclosure"] == by_id["disclosure"] == disclose(birch)["disclosure"]


def test_it_is_logged_before_it_leaves_and_each_time(birch: Station) -> None:
    first = disclose(birch, reason="letter of 3 March")
    second = disclose(birch)
    found = acts(birch)
    assert [(a["what"], a["who"], a["note"]) for a in found] == [
        (DISCLOSE, OPERATOR, "to Court of X, by J. Judge: letter of 3 March"),
        (DISCLOSE, OPERATOR, "to Court of X, by J. Judge"),
    ]
    assert [a["log_index"] for a in found] == [first["log_index"], second["log_index"]]
    assert found[0]["envelopes"] == [first["envelope_id"]]
    birch.core.verify()


def test_nothing_leaves_a_node_whose_disk_is_full(birch: Station) -> None:
    with pytest.raises(BusyError):
        for _ in range(1_000):
            with full_disk(birch):
                disclose(birch, reason="x" * 500)


# --- what is refused -------------------------------------------------------------------------
@pytest.mark.parametrize(
    "change",
    [
        {"to": ""},
        {"by": " "},
        {"to": "x" * 257},
        {"reason": "x" * 501},
        {"by": "a\x1b[2J"},
        {"to": "two\nlines"},
    ],
)
def test_a_bad_text_is_refused_and_nothing_is_logged(
    birch: Station, change: dict[str, str]
) -> None:
    with pytest.raises(RequestError):
        disclose(birch, **change)
    assert not acts(birch)


def test_what_is_not_here_not_released_or_not_for_us_is_refused(
    world: World, birch: Station
) -> None:
    with pytest.raises(NotFoundError):
        disclose(birch, incident_id(9))
    with pytest.raises(NotFoundError):
        disclose(birch, "ab" * 32)
    with pytest.raises(NotFoundError):
        disclose(birch, KEY, number=1)
    draft = birch.service().create_draft(incident())["id"]
    with pytest.raises(ConflictError, match="draft"):
        disclose(birch, draft)
    cedar = world["cedar"]
    key = world["alder"].release(7, birch, carriers=[cedar])
    world["alder"].core.outbox.ask_carriers(frozenset({cedar.id}))
    pass_on(world["alder"], cedar)
    assert cedar.core.held(key) is not None
    with pytest.raises(AudienceError):
        disclose(cedar, key.hex())


def test_which_of_several_messages_must_be_said(world: World) -> None:
    alder = world["alder"]
    service = alder.service()
    key = service.create_draft(incident(annex=True))["id"]
    service.release(
        key, to=["birch", "cedar"], annex_to=["birch"], carriers=[], separately=False, digest=None
    )
    with pytest.raises(RequestError, match="2 messages") as refused:
        disclose(alder, key)
    assert "0 to 1" in refused.value.fix
    found = {disclose(alder, key, number=number)["envelope_id"] for number in (0, 1)}
    assert len(found) == 2


def test_what_was_erased_cannot_be_disclosed(birch: Station) -> None:
    birch.service().handling.erase(
        KEY, reason="retention", by="x", also_undelivered=False, who=OPERATOR
    )
    with pytest.raises(NotFoundError, match="erased"):
        disclose(birch)
    assert [act["what"] for act in acts(birch)] == ["erase"]


def test_no_token_reaches_it(birch: Station) -> None:
    service = birch.service()
    scopes = ["incidents:read", "incidents:release", "log:audit"]
    token = service.create_token(name="t", scopes=scopes, days=1)["token"]
    body = json.dumps({"what": KEY, "to": "x", "by": "y"}).encode()
    asked = Request("POST", "/api/v1/disclosures", body=body, token=token)
    assert api.dispatch(service, asked).status == 404


# --- the command line ------------------------------------------------------------------------
def picket(home: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "node", "--home", str(home), *arguments], cwd=ROOT,
        capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=60, check=False,
    )  # fmt: skip


@pytest.fixture
def home(birch: Station, tmp_path: Path) -> Path:
    """The home of birch, closed, with its passphrase in a file."""
    birch.close()
    secret = tmp_path / "passphrase"
    secret.write_bytes(PASSPHRASE)
    secret.chmod(0o600)
    text = birch.home.config.read_text(encoding="utf-8")
    assert "[keystore]\n" in text
    setting = f'[keystore]\npassphrase_file = "{secret}"\n'
    birch.home.config.write_text(text.replace("[keystore]\n", setting), encoding="utf-8")
    return birch.home.path


TO: Final = ("--to", "Court of X", "--by", "J. Judge")


def test_a_file_is_made_and_checked_without_a_node(
    world: World, home: Path, tmp_path: Path
) -> None:
    out = tmp_path / "message.txt"
    made = picket(home, "disclose", KEY, "--out", str(out), *TO, "--reason", "an order")
    assert made.returncode == 0, made.stderr
    assert out.stat().st_mode & 0o777 == 0o600
    node_id = format_node_id(world["alder"].id)
    nowhere = tmp_path / "nowhere"
    checked = picket(
        nowhere, "disclose", "check", str(out), "--author", node_id, "--network", "test.example"
    )
    assert checked.returncode == 0, checked.stderr
    assert "drums" in checked.stdout
    assert node_id in checked.stdout
    assert not nowhere.exists()
    other = format_node_id(bytes(32))
    assert picket(nowhere, "disclose", "check", str(out), "--author", other).returncode == 5
    seen = picket(home, "incidents", "access", KEY)
    assert "to Court of X, by J. Judge: an order" in seen.stdout


def test_no_file_is_written_over_and_then_nothing_is_logged(home: Path, tmp_path: Path) -> None:
    out = tmp_path / "message.txt"
    out.write_text("mine")
    made = picket(home, "disclose", "--out", str(out), *TO, KEY)
    assert (made.returncode, out.read_text()) == (4, "mine")
    assert "disclosed" not in picket(home, "incidents", "access", KEY).stdout


def test_a_damaged_file_is_told_in_one_line(home: Path, tmp_path: Path) -> None:
    bad = tmp_path / "bad.txt"
    bad.write_text("hello")
    done = picket(home, "disclose", "check", str(bad))
    assert done.returncode == 5
    assert "not a Picket disclosure" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_erasing_asks_first_and_says_what_it_does(home: Path) -> None:
    asked = picket(home, "incidents", "erase", KEY, "--reason", "retention", "--by", "J. Judge")
    assert asked.returncode == 2, asked.stderr
    assert "cannot be brought back" in asked.stderr
    assert "Its author is told" in asked.stderr
    wrong = picket(home, "incidents", "erase", KEY, "--reason", "why not", "--by", "x", "--yes")
    assert wrong.returncode == 2
    done = picket(
        home, "incidents", "erase", KEY, "--reason", "retention", "--by", "J. Judge", "--yes"
    )
    assert done.returncode == 0, done.stderr
    assert "is erased here: 1 message." in done.stdout
    shown = picket(home, "incidents", "show", KEY)
    assert "It was erased here" in shown.stdout
    assert "erased: retention" in picket(home, "incidents", "list").stdout
    assert "ERASED" in picket(home, "incidents", "access", KEY).stdout
    assert picket(home, "log", "verify").returncode == 0
