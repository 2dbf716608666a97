"""``picket evidence`` and ``picket log prove``: from a home to files, from a file to a verdict."""

from __future__ import annotations

import json
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from keys.fingerprint import format_node_id
from node.api import dispatch
from node.calls import Request
from node.cli.main import app
from protocol import evidence_zip as zips
from protocol.evidence_files import parse_access
from protocol.policy import format_policy, make_policy, parse_policy
from protocol.tlog_proof import parse_tlog_proof, verify_tlog_proof
from tests.node.factories import PASSPHRASE, Station, copied, made_once, pass_on

OK, USAGE, NOT_FOUND, REFUSED, UNVERIFIED = 0, 2, 3, 4, 5


@dataclass(frozen=True)
class Desk:
    """Birch, who received two messages of Alder's: first open, then closed for the commands."""

    birch: Station
    author: str
    holder: str
    first: str
    second: str
    folder: Path

    def run(self, *arguments: str) -> Result:
        return CliRunner().invoke(app, ["--home", str(self.birch.home.path), *arguments])

    def fine(self, *arguments: str) -> Result:
        done = self.run(*arguments)
        assert done.exit_code == OK, done.output
        return done

    def file(self, name: str) -> Path:
        return self.folder / name


@pytest.fixture
def desk(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Desk]:
    with copied(made_once(tmp_path_factory), tmp_path, ("alder", "birch")) as world:
        alder, birch = world["alder"], world["birch"]
        ids = [alder.release(number, birch) for number in (1, 2)]
        pass_on(alder, birch)
        made = Desk(
            birch, format_node_id(alder.id), format_node_id(birch.id), ids[0].hex(), ids[1].hex(),
            tmp_path,
        )  # fmt: skip
        secret = tmp_path / "passphrase"
        secret.write_bytes(PASSPHRASE)
        secret.chmod(0o600)
        config = birch.home.config.read_text()
        changed = config.replace('# passphrase_file = ""', f'passphrase_file = "{secret}"')
        assert changed != config
        birch.home.config.write_text(changed)
        birch.close()
        yield made
        birch.open()


def test_a_bundle_is_exported_and_verified(desk: Desk) -> None:
    out = desk.file("case.zip")
    desk.fine("evidence", "export", desk.second, "--out", str(out), "--by", "J. Smith")
    assert stat.S_IMODE(out.stat().st_mode) == 0o600
    done = desk.fine("evidence", "verify", str(out), "--node", desk.holder, "--author",
                     desk.author, "--network", "test.example")  # fmt: skip
    lines = done.output.splitlines()
    assert lines[0].startswith("Nothing in it is wrong, but NO witness confirmed")
    assert sum(line.startswith("ok ") for line in lines) >= 12
    assert any(line.startswith("-     content") for line in lines)
    assert "chosen by the holder" in done.output


def test_verifying_needs_no_home(desk: Desk, tmp_path: Path) -> None:
    out = desk.file("case.zip")
    desk.fine("evidence", "export", desk.first, "--out", str(out))
    command = ["--home", str(tmp_path / "nowhere"), "evidence", "verify", str(out), "--json"]
    done = CliRunner().invoke(app, command)
    assert done.exit_code == OK, done.output
    value = json.loads(done.stdout)
    assert value["holds"] is True
    assert value["policy"] == "bundle"
    assert not (tmp_path / "nowhere").exists()


def test_an_incident_is_exported_with_its_content(desk: Desk) -> None:
    out = desk.file("case.zip")
    desk.fine("evidence", "export", "PI-XA-2026-000002", "--out", str(out), "--content",
              "--reason", "request of a court")  # fmt: skip
    files, faults = zips.read_zip(out.read_bytes())
    assert faults == ()
    assert json.loads(files[zips.CONTENT])["ref"] == "PI-XA-2026-000002"
    act = parse_access(files[zips.ACCESS]).acts[-1].act
    assert act.note == "with content; reason: request of a court"
    desk.fine("evidence", "verify", str(out))


def test_a_damaged_bundle_ends_with_the_code_for_what_does_not_verify(desk: Desk) -> None:
    out = desk.file("case.zip")
    desk.fine("evidence", "export", desk.second, "--out", str(out))
    files, _ = zips.read_zip(out.read_bytes())
    files[zips.LOCAL] = bytes(len(files[zips.LOCAL]))
    out.write_bytes(zips.write_zip(files))
    done = desk.run("evidence", "verify", str(out))
    assert done.exit_code == UNVERIFIED
    lines = done.output.splitlines()
    assert lines[0].startswith("The evidence does NOT hold: 2 of")
    assert [line.split()[1] for line in lines if line.startswith("FAIL")] == ["bundle", "opening"]


@pytest.mark.parametrize(
    ("option", "value", "named"),
    [("--node", "author", "holder"), ("--author", "holder", "author"),
     ("--network", "", "network")],
)  # fmt: skip
def test_what_the_person_knows_decides(desk: Desk, option: str, value: str, named: str) -> None:
    out = desk.file("case.zip")
    desk.fine("evidence", "export", desk.second, "--out", str(out))
    known = {"author": desk.author, "holder": desk.holder, "": "other.example"}[value]
    done = desk.run("evidence", "verify", str(out), option, known)
    assert done.exit_code == UNVERIFIED
    assert f"FAIL  {named}" in done.output


def test_the_verifiers_own_policy_counts(desk: Desk) -> None:
    out, own = desk.file("case.zip"), desk.file("policy")
    desk.fine("evidence", "export", desk.second, "--out", str(out))
    core = desk.birch.open()
    witness = core.trust.find("alder").card.witness
    own.write_text(format_policy(make_policy(core.card.log, [("Alder", witness)], 1)))
    desk.birch.close()
    done = desk.run("evidence", "verify", str(out), "--policy", str(own))
    assert done.exit_code == UNVERIFIED
    assert "FAIL  quorum" in done.output
    own.write_text("quorum\n")
    assert desk.run("evidence", "verify", str(out), "--policy", str(own)).exit_code == USAGE


def test_no_file_is_overwritten_and_nothing_is_logged_then(desk: Desk) -> None:
    out = desk.file("case.zip")
    out.write_text("mine")
    link = desk.file("link.zip")
    link.symlink_to(desk.file("elsewhere"))
    core = desk.birch.open()
    before = core.log.size
    desk.birch.close()
    for path in (out, link):
        done = desk.run("evidence", "export", desk.second, "--out", str(path))
        assert done.exit_code == REFUSED
        assert desk.run("log", "prove", desk.second, "--out", str(path)).exit_code == REFUSED
    assert desk.run(
        "evidence", "export", desk.second, "--out", str(desk.file("no") / "x.zip")
    ).exit_code == USAGE  # fmt: skip
    assert out.read_text() == "mine"
    assert desk.birch.open().log.size == before
    desk.birch.close()


def test_what_is_not_held_is_told(desk: Desk) -> None:
    out = str(desk.file("x.zip"))
    assert desk.run("evidence", "export", "ab" * 32, "--out", out).exit_code == NOT_FOUND
    assert desk.run("evidence", "export", "PI-XX", "--out", out).exit_code == NOT_FOUND
    assert desk.run("evidence", "verify", out).exit_code == USAGE
    assert not desk.file("x.zip").exists()


def test_a_proof_file_and_its_entry_verify_by_themselves(desk: Desk) -> None:
    out, entry = desk.file("a.tlog-proof"), desk.file("a.entry")
    desk.fine("log", "prove", desk.second, "--out", str(out), "--entry", str(entry))
    proof = parse_tlog_proof(out.read_bytes())
    core = desk.birch.open()
    policy = parse_policy(format_policy(make_policy(core.card.log, [], 0)))
    desk.birch.close()
    verify_tlog_proof(proof, entry=entry.read_bytes(), policy=policy)
    desk.fine("log", "prove", "PI-XA-2026-000002", "--out", str(desk.file("b")))
    assert entry.read_bytes() == desk.file("b.entry").read_bytes()


# --- over HTTP -------------------------------------------------------------------------------
def ask(desk: Desk, path: str, body: dict[str, Any]) -> tuple[int, Any]:
    desk.birch.open()
    try:
        response = dispatch(
            desk.birch.service(),
            Request("POST", f"/api/v1/{path}/evidence", body=json.dumps(body).encode(),
                    operator=True),
        )  # fmt: skip
        return response.status, response
    finally:
        desk.birch.close()


def test_the_endpoint_answers_with_a_bundle(desk: Desk) -> None:
    status, response = ask(desk, "incidents/PI-XA-2026-000001", {"content": True})
    assert status == 200
    assert response.content_type == "application/zip"
    assert zips.read_zip(response.body)[1] == ()


@pytest.mark.parametrize(
    "body",
    [
        {"content": 1}, {"by": 1}, {"more": 1}, {"by": "x" * 257}, {"reason": "x" * 501},
        {"timestamp": "not base64"}, {"timestamp": "AAAA"}, {"proof": "x"}, {"envelope": "0"},
        {"envelope": 7}, {"envelope": -1},
    ],
)  # fmt: skip
def test_what_the_endpoint_cannot_do_is_refused_and_not_logged(
    desk: Desk, body: dict[str, Any]
) -> None:
    before = desk.birch.open().log.size
    desk.birch.close()
    status, _ = ask(desk, "incidents/PI-XA-2026-000001", body)
    assert 400 <= status < 500
    assert desk.birch.open().log.size == before
    desk.birch.close()
