"""Files that commands read and write, and what they print: bounded, whole or not there."""

from __future__ import annotations

import errno
import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner, Result

from node.cli.main import _made, app, main
from node.cli.terminal import new_file, read_text
from node.policy_file import read_policy
from protocol import limits
from protocol.errors import ConfigError
from protocol.policy import format_policy, make_policy
from tests.node.factories import (
    PASSPHRASE,
    Station,
    World,
    copied,
    incident_id,
    made_once,
    pass_on,
    record,
    token,
)

OK, FAILURE, USAGE, NOT_FOUND, REFUSED, UNVERIFIED = range(6)
ENDLESS = "/dev/zero"


@pytest.fixture
def world(tmp_path_factory: pytest.TempPathFactory, tmp_path: Path) -> Iterator[World]:
    with copied(made_once(tmp_path_factory), tmp_path, ("alder", "birch")) as opened:
        yield opened


@pytest.fixture
def birch(world: World, monkeypatch: pytest.MonkeyPatch) -> Station:
    """Return a closed node that received one incident in two envelopes, and another in one."""
    alder, birch = world["alder"], world["birch"]
    alder.release(1, birch)
    alder.core.release(token(99), [alder.ship(birch, body=record(1, "more of it", revision=2))])
    alder.release(2, birch)
    pass_on(alder, birch)
    birch.core.try_follow()
    secret = birch.home.path / "passphrase"
    secret.write_bytes(PASSPHRASE)
    secret.chmod(0o600)
    monkeypatch.setenv("PICKET_KEYSTORE__PASSPHRASE_FILE", str(secret))
    birch.close()
    return birch


def run(station: Station, *arguments: str) -> Result:
    return CliRunner().invoke(app, ["--home", str(station.home.path), *arguments])


def size_of(station: Station) -> int:
    with closing(sqlite3.connect(station.home.node_db)) as database:
        return int(database.execute("SELECT count(*) FROM entries").fetchone()[0])


def ends(station: Station, monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    """Run a command as the program does, and return its exit code."""
    monkeypatch.setattr("sys.argv", ["picket", "--home", str(station.home.path), *arguments])
    with pytest.raises(SystemExit) as done:
        main()
    assert isinstance(done.value.code, int)
    return done.value.code


# --- reading -------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "command",
    [("disclose", "check", ENDLESS), ("delivery", "check", ENDLESS), ("peers", "add", ENDLESS),
     ("incidents", "import", ENDLESS), ("peers", "suspend", ENDLESS),
     ("keys", "revoke", "--code-file", ENDLESS, "--from-paper", "--yes")],
    ids=lambda command: " ".join(command[:2]),
)  # fmt: skip
def test_a_file_without_an_end_is_not_read_to_it(birch: Station, command: tuple[str, ...]) -> None:
    done = run(birch, *command)
    assert done.exit_code == USAGE, done.output
    assert "is longer than" in done.output
    assert "Name the right file" in done.output


def test_text_is_read_up_to_its_bound_and_with_any_line_ends(tmp_path: Path) -> None:
    file = tmp_path / "text"
    file.write_bytes("ä\r\nb\rc\n".encode())
    assert read_text(file) == "ä\nb\nc\n"
    file.write_bytes(bytes(100))
    assert len(read_text(file, maximum=100)) == 100
    with pytest.raises(typer.Exit):
        read_text(file, maximum=99)


# --- writing -------------------------------------------------------------------------------------
def test_a_new_file_is_whole_or_not_there(tmp_path: Path) -> None:
    file = tmp_path / "new"
    with new_file(file, room=4_096) as write:
        write(b"what it holds")
    assert file.read_bytes() == b"what it holds"
    assert file.stat().st_mode & 0o777 == 0o600
    with pytest.raises(typer.Exit), new_file(file, room=1):
        pytest.fail("it exists")
    assert file.read_bytes() == b"what it holds"
    refused = tmp_path / "refused"
    with pytest.raises(ZeroDivisionError), new_file(refused, room=4_096):
        raise ZeroDivisionError
    assert not refused.exists()


def full(*_: object) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize("command", ["disclose", "evidence"])
@pytest.mark.parametrize("fault", ["no folder", "full disk", "there"])
def test_what_cannot_be_handed_over_is_not_logged_as_handed_over(
    birch: Station, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str, fault: str
) -> None:
    out = tmp_path / ("nowhere/z" if fault == "no folder" else "z")
    if fault == "full disk":
        monkeypatch.setattr(os, "posix_fallocate", full)
    if fault == "there":
        out.write_text("mine")
    before = size_of(birch)
    if command == "disclose":
        done = run(birch, "disclose", "message", incident_id(2), "--out", str(out), "--to", "court",
                   "--by", "J. Judge")  # fmt: skip
    else:
        done = run(birch, "evidence", "export", incident_id(2), "--out", str(out))
    expected = {"no folder": USAGE, "full disk": FAILURE, "there": REFUSED}[fault]
    assert done.exit_code == expected, done.output
    assert size_of(birch) == before
    assert out.exists() == (fault == "there")


def test_a_refusal_leaves_no_empty_file(birch: Station, tmp_path: Path) -> None:
    out = tmp_path / "z"
    done = run(birch, "disclose", "message", incident_id(7), "--out", str(out), "--to", "court",
               "--by", "J. Judge")  # fmt: skip
    assert done.exit_code == NOT_FOUND
    assert not out.exists()


def test_a_proof_and_its_entry_are_two_files(birch: Station, tmp_path: Path) -> None:
    out = tmp_path / "x"
    done = run(birch, "log", "prove", incident_id(2), "--out", str(out), "--entry", str(out))
    assert done.exit_code == USAGE, done.output
    assert not out.exists()
    proof = tmp_path / "case.tlog-proof"
    done = run(birch, "log", "prove", incident_id(2), "--out", str(proof))
    assert done.exit_code == OK, done.output
    assert done.stdout == "", "no bytes on the terminal"
    assert len((tmp_path / "case.entry").read_bytes()) == 89
    assert str(tmp_path / "case.entry") in done.output


@pytest.mark.parametrize("data", [b"", b"hello\n", bytes(limits.MAX_EVIDENCE + 1)])
def test_what_is_no_bundle_is_called_so(birch: Station, tmp_path: Path, data: bytes) -> None:
    file = tmp_path / "case.zip"
    file.write_bytes(data)
    done = run(birch, "evidence", "verify", str(file))
    assert done.exit_code == UNVERIFIED
    assert done.stdout.startswith(f"{file} is not an evidence bundle: it ")
    assert len(done.stdout.splitlines()) == 1
    assert "missing" not in done.output


# --- which envelope ------------------------------------------------------------------------------
def test_which_envelope_is_meant_is_asked_for_with_its_option(
    birch: Station, tmp_path: Path
) -> None:
    out = str(tmp_path / "z")
    handed = ("--out", out, "--to", "court", "--by", "J. Judge")
    for command in (
        ("evidence", "export", incident_id(1), "--out", out), ("log", "prove", incident_id(1)),
        ("disclose", "message", incident_id(1), *handed),
    ):  # fmt: skip
        done = run(birch, *command)
        assert done.exit_code == USAGE, done.output
        assert "choose one with --envelope, 0 to 1: picket incidents show lists them" in done.output
    shown = run(birch, "incidents", "show", incident_id(1)).stdout.splitlines()
    head = next(n for n, line in enumerate(shown) if line.startswith("--envelope"))
    assert [line.split()[0] for line in shown[head + 1 : head + 3]] == ["0", "1"]
    assert all(len(line.split()[-1]) == 64 for line in shown[head + 1 : head + 3])
    assert "--envelope" not in run(birch, "incidents", "show", incident_id(2)).stdout
    done = run(birch, "evidence", "export", incident_id(1), "--out", out, "--envelope", "2")
    assert done.exit_code == NOT_FOUND
    for name in ("evidence export", "log prove", "disclose message"):
        text = " ".join(run(birch, *name.split(), "--help").stdout.split())
        assert "Which envelope of an incident that has several" in text


def test_of_what_was_erased_the_proof_is_had_by_the_command_that_is_named(
    birch: Station, tmp_path: Path
) -> None:
    done = run(birch, "incidents", "erase", incident_id(2), "--reason", "retention", "--by", "me",
               "--yes")  # fmt: skip
    assert done.exit_code == OK, done.output
    shown = run(birch, "incidents", "show", incident_id(2)).stdout
    assert "RECIPIENT" not in shown, "an empty table has no head"
    for command in (
        ("disclose", "message", incident_id(2), "--to", "court", "--by", "me"),
        ("evidence", "export", incident_id(2)),
    ):
        done = run(birch, *command, "--out", str(tmp_path / "z"))
        assert done.exit_code == NOT_FOUND, done.output
        named = done.output.strip().rpartition("picket ")[2].split()
        assert named[:2] == ["log", "prove"]
        proof = tmp_path / f"{command[0]}.tlog-proof"
        assert run(birch, *named, "--out", str(proof)).exit_code == OK


# --- what is printed -----------------------------------------------------------------------------
def test_an_error_cannot_move_the_cursor(
    birch: Station, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with closing(sqlite3.connect(birch.home.node_db)) as database:
        database.execute(
            "INSERT INTO anchors VALUES ('a' || char(27) || '[2J' || char(10) || 'b', 1, x'00')"
        )
        database.commit()
    assert ends(birch, monkeypatch, "log", "verify") == UNVERIFIED
    said = capsys.readouterr().err
    assert "\x1b" not in said
    assert said.splitlines()[-1].startswith("picket: the head of a [2J b that an envelope names")


def test_a_damaged_tile_is_named_at_the_start(
    birch: Station, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with closing(sqlite3.connect(birch.home.node_db)) as database:
        data = database.execute("SELECT data FROM tiles WHERE level = 0").fetchone()[0]
        changed = bytes([data[0] ^ 1]) + data[1:]
        database.execute("UPDATE tiles SET data = ? WHERE level = 0", (changed,))
        database.commit()
    assert ends(birch, monkeypatch, "status") == UNVERIFIED
    (line,) = capsys.readouterr().err.splitlines()
    assert "tile 0/0 differs from the entries it stands for" in line


def test_the_head_is_short_enough_to_read_to_somebody(birch: Station) -> None:
    raw = run(birch, "log", "head", "--raw").stdout
    origin, size, *_ = raw.splitlines()
    lines = run(birch, "log", "head").stdout.splitlines()
    assert len(lines) == 4
    assert lines[0] == f"log   {origin}"
    assert lines[1] == f"size  {size} entries"
    groups = [group for line in lines[2:] for group in line.removeprefix("root").split()]
    assert len(groups) == 16
    birch.open()
    assert bytes.fromhex("".join(groups)) == birch.core.log.root(int(size))
    birch.close()


@pytest.mark.parametrize(
    ("first", "last", "said"),
    [
        ("2026-11-25T20:56:04Z", "2026-11-25T20:56:40Z",
         "made      between 2026-11-25 20:56:04 UTC and 2026-11-25 20:56:40 UTC, as"),
        (None, "2026-11-25T20:56:40Z", "made      before 2026-11-25 20:56:40 UTC, as"),
        (None, "2026-11-25T20:56:00Z", "made      before 2026-11-25 20:56 UTC, as"),
    ],
)  # fmt: skip
def test_a_time_is_not_cut_where_that_says_something_else(
    capsys: pytest.CaptureFixture[str], first: str | None, last: str, said: str
) -> None:
    _made({"not_before": first, "not_after": last, "anchor": None})
    assert capsys.readouterr().out.startswith(said)


# --- the policy ----------------------------------------------------------------------------------
def test_a_policy_without_an_end_is_too_long(tmp_path: Path) -> None:
    path = tmp_path / "witness-policy"
    path.symlink_to(ENDLESS)
    with pytest.raises(ConfigError, match="longer than"):
        read_policy(path, log=None)


@pytest.mark.parametrize("text", ["", "\n\n", " \n"])
def test_an_empty_policy_is_not_told_to_ask_nobody(tmp_path: Path, text: str) -> None:
    path = tmp_path / "witness-policy"
    path.write_text(text)
    with pytest.raises(ConfigError, match="is empty") as caught:
        read_policy(path, log=None)
    assert "remove it" in caught.value.fix
    path.write_text("# nothing\n")
    with pytest.raises(ConfigError, match="no quorum line") as caught:
        read_policy(path, log=None)
    assert "none" not in caught.value.fix


def test_checking_the_settings_checks_the_policy(
    world: World, birch: Station, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    birch.open()
    log, witness = birch.core.card.log, birch.core.trust.find("alder").card.witness
    birch.close()
    policy = format_policy(make_policy(log, [("Alder", witness)], 1))
    path = birch.home.witness_policy
    path.write_text(policy)
    done = run(birch, "config", "check")
    assert done.exit_code == OK, done.output
    assert "is valid" in done.output
    other = format_policy(make_policy(world["alder"].core.card.log, [("Alder", witness)], 1))
    for broken, said in (
        ("", "is empty"), ("quorum\n", "line 1"), (other, "no line for the log of this node"),
        (policy.replace("quorum", "quorum ", 1) + "x\n", "no keyword"),
    ):  # fmt: skip
        path.write_text(broken)
        assert ends(birch, monkeypatch, "config", "check") == USAGE
        told = capsys.readouterr().err
        assert said in told
        assert "is valid" not in told
