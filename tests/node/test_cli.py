"""The command line as operators meet it: the real program, its one line, its exit code.

Whatever goes wrong is told in one line with the cause and the fix, and leaves the node whole.
"""

from __future__ import annotations

import contextlib
import copy
import json
import os
import pty
import re
import secrets
import select
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol

import pytest
import typer.main

from keys.keystore import Argon2Params, load, save
from node.app import initialise, open_core
from node.cli.main import app
from node.cli.questions import read_amount, read_time
from node.cli.terminal import table
from node.client import Client
from node.clock import SystemClock
from node.config import FIELDS, load_config
from node.demo_incidents import load as demo_incidents
from node.home import Home, user_name
from node.words import counted
from protocol import limits
from protocol.vocabulary import UNIT

ROOT: Final = Path(__file__).parents[2]
PASSPHRASE: Final = "correct horse battery"
PATIENCE_S: Final = 60.0
CANARY: Final = "canary-7f3a"
OK, FAILURE, USAGE, NOT_FOUND, REFUSED, UNVERIFIED, UNREACHABLE = range(7)
TEMPORARY, INTERRUPTED = 75, 130
Done = subprocess.CompletedProcess[str]
Row = dict[str, Any]


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [n for n in os.environ if n.startswith("PICKET_") or n == "CREDENTIALS_DIRECTORY"]:
        monkeypatch.delenv(name)


# --- running the program ---------------------------------------------------------------------
def command(home: Path, *arguments: str) -> list[str]:
    return [sys.executable, "-m", "node", "--home", str(home), *arguments]


def picket(
    home: Path, *arguments: str, env: Mapping[str, str] | None = None, typed: str | None = None,
    before: Sequence[str] = (),
) -> Done:  # fmt: skip
    return subprocess.run(
        [*before, *command(home, *arguments)], cwd=ROOT, env={**os.environ, **(env or {})},
        stdin=subprocess.DEVNULL if typed is None else None, input=typed,
        capture_output=True, text=True, timeout=PATIENCE_S, check=False,
    )  # fmt: skip


def told(done: Done, code: int) -> str:
    """Check that *done* failed with *code* and told it in one line with a fix; return the line."""
    assert "Traceback" not in done.stderr, done.stderr
    # A node that was about to run may have written its journal, JSON lines, on standard error.
    lines = [line for line in done.stderr.splitlines() if not line.startswith("{")]
    assert len(lines) == 1, done.stderr
    assert lines[0].startswith("picket: ")
    assert done.returncode == code, done.stderr
    assert done.stdout == ""
    cause, _, fix = lines[0].removeprefix("picket: ").partition(". ")
    assert cause
    assert fix, f"no fix in: {lines[0]}"
    return lines[0]


def unharmed(home: Path) -> None:
    """Check that the node opens and its log verifies."""
    status, value = Client(home).call("POST", "/api/v1/log/verify", {})
    assert (status, value.get("ok")) == (200, True), value


def fine(done: Done) -> str:
    assert done.returncode == OK, done.stderr
    assert "Traceback" not in done.stderr
    return done.stdout


# --- nodes -----------------------------------------------------------------------------------
def incident() -> Row:
    found: Row = copy.deepcopy(dict(demo_incidents()[0].incident))
    found["face"]["summary"] = f"{CANARY} acetic anhydride stopped at a container port."
    return found


@dataclass(frozen=True)
class Made:
    """Homes by name, their cards, and the references of a draft and a release of Alder's."""

    folder: Path
    draft: str
    released: str

    def card(self, name: str) -> Path:
        return self.folder / f"{name}.card"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    folder = tmp_path_factory.mktemp("made")
    secret = folder / "passphrase"
    secret.write_text(PASSPHRASE)
    secret.chmod(0o600)
    for name, network in (("alder", "test"), ("birch", "test"), ("cedar", "test"), ("elm", "far")):
        make(folder / name, name.title(), f"{network}.example", secret)
        card = Client(folder / name).call("GET", "/api/v1/card")[1]["card"]
        (folder / f"{name}.card").write_text(card)
    alder = Client(folder / "alder")
    body = {"card": (folder / "birch.card").read_text(), "name": "birch"}
    number = alder.call("POST", "/api/v1/peers", body)[1]["safety_number"]
    approval = {"level": "share", "safety_number": number, "method": "voice", "by": "test"}
    assert alder.call("POST", "/api/v1/peers/birch/approve", approval)[0] == 200
    refs = [alder.call("POST", "/api/v1/incidents", incident())[1]["ref"] for _ in range(2)]
    assert alder.call("POST", f"/api/v1/incidents/{refs[1]}/release", {"to": ["birch"]})[0] == 202
    shown = alder.call("GET", f"/api/v1/incidents/{refs[1]}")[1]
    path = f"/api/v1/envelopes/{shown['envelopes'][0]['envelope_id']}/statement"
    (folder / "statement").write_text(alder.call("GET", path)[1]["statement"])
    return Made(folder, *refs)


def make(path: Path, authority: str, network: str, secret: Path) -> None:
    initialise(
        path,
        {"node.authority": authority, "node.country": "XA", "node.network": network,
         "node.contact": "duty desk", "peer.listen": "127.0.0.1:0", "http.listen": "127.0.0.1:0",
         "peer.dial": False, "keystore.passphrase_file": str(secret)},
        PASSPHRASE.encode(),
    )  # fmt: skip
    keystore, cheap = Home(path).keystore, Argon2Params(memory_kib=19 * 1024, iterations=1)
    save(keystore, load(keystore, PASSPHRASE.encode()), PASSPHRASE.encode(), cheap)


@pytest.fixture
def home(made: Made, tmp_path: Path) -> Path:
    return shutil.copytree(made.folder / "alder", tmp_path / "n")


@pytest.fixture
def wrong(tmp_path: Path) -> Path:
    path = tmp_path / "wrong"
    path.write_text("wrong horse battery")
    path.chmod(0o600)
    return path


class Start(Protocol):
    """Starts nodes that the end of the test stops."""

    def __call__(self, home: Path, **env: str) -> subprocess.Popen[str]: ...


@contextlib.contextmanager
def starting() -> Iterator[Start]:
    with ExitStack() as stack:

        def begin(home: Path, **env: str) -> subprocess.Popen[str]:
            process = subprocess.Popen(
                command(home, "run"), cwd=ROOT, env={**os.environ, **env}, text=True,
                stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            )  # fmt: skip
            stack.callback(stop, process)
            return process

        yield begin


def stop(process: subprocess.Popen[str]) -> str:
    """Stop a node if it runs; return what it wrote on standard error."""
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
    try:
        return process.communicate(timeout=PATIENCE_S)[1]
    except ValueError:  # stopped and read before
        return ""
    except subprocess.TimeoutExpired:
        process.kill()
        raise


def started(start: Start, home: Path, **env: str) -> subprocess.Popen[str]:
    process = start(home, **env)
    client, deadline = Client(home), time.monotonic() + PATIENCE_S
    while not client.running():
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline, "the node did not come up"
        time.sleep(0.02)
    return process


@pytest.fixture
def start() -> Iterator[Start]:
    with starting() as begin:
        yield begin


@pytest.fixture(scope="module")
def running(made: Made, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A running Alder, for tests that change nothing."""
    path = shutil.copytree(made.folder / "alder", tmp_path_factory.mktemp("r") / "n")
    with starting() as begin:
        started(begin, path)
        yield path


# --- passphrases -----------------------------------------------------------------------------
@pytest.mark.parametrize("arguments", [("run",), ("incidents", "list")], ids=" ".join)
def test_a_wrong_passphrase_is_refused(home: Path, wrong: Path, arguments: Sequence[str]) -> None:
    done = picket(home, *arguments, env={"PICKET_KEYSTORE__PASSPHRASE_FILE": str(wrong)})
    assert "passphrase does not open the keystore" in told(done, REFUSED)
    unharmed(home)


def test_unlocking_a_running_node_with_a_wrong_passphrase_leaves_it_running(
    home: Path, wrong: Path, start: Start
) -> None:
    started(start, home, PICKET_KEYSTORE__PASSPHRASE_FILE="")
    done = picket(home, "unlock", "--passphrase-file", str(wrong))
    assert "passphrase does not open the keystore" in told(done, REFUSED)
    locked = picket(home, "incidents", "list")
    assert "picket unlock" in told(locked, TEMPORARY)
    assert "--passphrase-file" in told(picket(home, "unlock"), USAGE)
    (home.parent / "right").write_text(PASSPHRASE)
    fine(picket(home, "unlock", "--passphrase-file", str(home.parent / "right")))
    assert "AMBER" in fine(picket(home, "incidents", "list"))
    unharmed(home)


@pytest.mark.parametrize("harm", ["missing", "a folder", "bytes", "short"])
def test_a_passphrase_file_that_cannot_be_used_is_named(home: Path, wrong: Path, harm: str) -> None:
    wrong.unlink()
    if harm == "a folder":
        wrong.mkdir()
    elif harm != "missing":
        wrong.write_bytes(b"\xff\xfe" * 8 if harm == "bytes" else b"short")
    done = picket(home, "run", "--passphrase-file", str(wrong))
    assert str(wrong) in told(done, FAILURE)
    unharmed(home)


def test_unlocking_an_unlocked_node_asks_for_nothing(running: Path) -> None:
    done = picket(running, "unlock")
    assert done.returncode == OK
    assert "unlocked already" in done.stderr


# --- addresses -------------------------------------------------------------------------------
@pytest.mark.parametrize("variable", ["PICKET_PEER__LISTEN", "PICKET_HTTP__LISTEN"])
def test_a_busy_port_is_named_with_its_setting(home: Path, variable: str) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        address = f"127.0.0.1:{other.getsockname()[1]}"
        line = told(picket(home, "run", env={variable: address}), FAILURE)
    assert address in line
    assert variable.removeprefix("PICKET_").replace("__", ".").lower() in line
    unharmed(home)


@pytest.mark.parametrize("variable", ["PICKET_PEER__LISTEN", "PICKET_HTTP__LISTEN"])
def test_a_name_that_does_not_resolve_is_named_with_its_setting(home: Path, variable: str) -> None:
    env = {variable: "no-such-host.invalid:8463", "PICKET_HTTP__ALLOW_REMOTE": "true"}
    line = told(picket(home, "run", env=env), USAGE)
    assert "no-such-host.invalid" in line
    assert variable.removeprefix("PICKET_").replace("__", ".").lower() in line
    unharmed(home)


# --- files that are missing or unreadable ----------------------------------------------------
NEED_A_FILE: Final = (
    ("peers", "add"), ("incidents", "new", "--file"), ("incidents", "import"),
)  # fmt: skip


@pytest.mark.parametrize("arguments", NEED_A_FILE, ids=" ".join)
@pytest.mark.parametrize("harm", ["missing", "a folder", "bytes"])
def test_a_file_that_cannot_be_read_is_named(
    running: Path, tmp_path: Path, arguments: Sequence[str], harm: str
) -> None:
    path = tmp_path / "given"
    if harm == "a folder":
        path.mkdir()
    elif harm == "bytes":
        path.write_bytes(b"\xff\xfe\x00\x80")
    assert str(path) in told(picket(running, *arguments, str(path)), USAGE)
    unharmed(running)


def without_privilege() -> Sequence[str]:
    """Return a prefix under which file permissions bind, for the superuser too."""
    if os.geteuid() != 0:
        return ()
    tool = shutil.which("setpriv")
    if tool is None:
        pytest.skip("as root every file is readable, and setpriv is not here to change that")
    return (tool, "--bounding-set=-dac_override,-dac_read_search")


@pytest.mark.parametrize("name", ["picket.toml", "service.key", "keystore", "node.db", "fence"])
def test_a_file_without_permission_is_named(home: Path, name: str) -> None:
    prefix = without_privilege()
    mode = (home / name).stat().st_mode
    (home / name).chmod(0)
    done = picket(home, "incidents", "list", before=prefix)
    (home / name).chmod(mode & 0o777)
    assert done.returncode in {FAILURE, USAGE}
    assert name in told(done, done.returncode)
    unharmed(home)


@pytest.mark.parametrize("verb", [("status",), ("incidents", "list")], ids=" ".join)
def test_the_home_of_another_user_is_named_with_its_owner(home: Path, verb: Sequence[str]) -> None:
    prefix = without_privilege()
    if not prefix:
        pytest.skip("only the superuser can give a folder to another user")
    os.chown(home, 65_534, -1)
    try:
        line = told(picket(home, *verb, before=prefix), USAGE)
    finally:
        os.chown(home, os.geteuid(), -1)
    owner = user_name(65_534)
    assert str(home / "picket.toml") in line
    assert f"by the user {user_name()}" in line
    assert f"belongs to {owner}" in line
    assert f"sudo -u {owner}" in line
    unharmed(home)


@pytest.mark.parametrize(
    ("arguments", "code", "fix"),
    [
        (("peers", "add"), USAGE, "< "), (("incidents", "new", "--file"), USAGE, "< "),
        (("incidents", "import"), USAGE, "< "), (("attachments", "add"), USAGE, "Copy it"),
        (("keys", "card", "--force", "--out"), FAILURE, "> "),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)  # fmt: skip
def test_a_file_of_another_user_is_named_with_who_cannot_open_it(
    running: Path, tmp_path: Path, arguments: Sequence[str], code: int, fix: str
) -> None:
    """As with a wrapper that calls sudo: the file is the person's, the command another user."""
    prefix = without_privilege()
    path = tmp_path / "given"
    path.write_text("{}")
    path.chmod(0)
    line = told(picket(running, *arguments, str(path), before=prefix), code)
    assert str(path) in line
    assert f"by the user {user_name()}" in line
    assert fix in line


def test_init_uses_a_folder_of_its_own_below_one_that_it_may_not_write(
    made: Made, tmp_path: Path
) -> None:
    """As systemd's StateDirectory and a container's volume are."""
    prefix = without_privilege()
    folder = tmp_path / "state"
    (folder / "picket").mkdir(parents=True, mode=0o700)
    folder.chmod(0o555)
    try:
        secret = str(made.folder / "passphrase")
        done = picket(folder / "picket", *INIT, "--passphrase-file", secret, before=prefix)
    finally:
        folder.chmod(0o755)
    fine(done)
    unharmed(folder / "picket")


# --- cards -----------------------------------------------------------------------------------
def test_a_card_of_another_network_is_refused(home: Path, made: Made) -> None:
    line = told(picket(home, "peers", "add", str(made.card("elm"))), UNVERIFIED)
    assert "another Picket network" in line
    assert [p["name"] for p in Client(home).call("GET", "/api/v1/peers")[1]["items"]] == ["birch"]
    unharmed(home)


def test_the_own_card_is_refused(home: Path, made: Made) -> None:
    assert "own card" in told(picket(home, "peers", "add", str(made.card("alder"))), REFUSED)
    unharmed(home)


@pytest.mark.parametrize("harm", ["cut", "changed", "empty", "something else"])
def test_a_damaged_card_does_not_verify(home: Path, made: Made, tmp_path: Path, harm: str) -> None:
    text = made.card("cedar").read_text()
    middle = len(text) // 2
    changed = text[:middle] + ("A" if text[middle] != "A" else "B") + text[middle + 1 :]
    path = tmp_path / "card"
    path.write_text({
        "cut": text[:middle], "changed": changed, "empty": "", "something else": "Dear colleague",
    }[harm])  # fmt: skip
    told(picket(home, "peers", "add", str(path)), UNVERIFIED)
    unharmed(home)


# --- a full outbox ---------------------------------------------------------------------------
def test_a_full_outbox_refuses_a_release_until_there_is_room(home: Path, made: Made) -> None:
    peer = secrets.token_bytes(32)
    rows = [(number.to_bytes(32, "big"), peer, number) for number in range(limits.MAX_OUTBOX)]
    with contextlib.closing(sqlite3.connect(home / "node.db")) as database, database:
        database.executemany(
            "INSERT INTO outbox (envelope_id, peer, route, state, position, attempts, next_at) "
            "VALUES (?, ?, 'direct', 'queued', ?, 0, 0)", rows,
        )  # fmt: skip
    release = ("incidents", "release", made.draft, "--to", "birch", "--yes", "--json")
    line = told(picket(home, *release), TEMPORARY)
    assert "outbox is full" in line
    assert str(limits.MAX_OUTBOX) in line
    seen = Client(home).call("GET", f"/api/v1/incidents/{made.draft}")[1]
    assert seen["state"] == "draft"
    unharmed(home)
    with contextlib.closing(sqlite3.connect(home / "node.db")) as database, database:
        database.execute("DELETE FROM outbox WHERE peer = ?", (peer,))
    assert json.loads(fine(picket(home, *release)))["state"] == "released"
    unharmed(home)


# --- the configuration -----------------------------------------------------------------------
@pytest.mark.parametrize(
    ("harm", "named"),
    [
        (b"[node\n", "not valid TOML"),
        (b"\xff\xfe", "not valid TOML"),
        (b'\n[htp]\nlisten = ""\n', "http.listen"),
        (b"", "node.authority"),
        (None, "cannot be read"),
    ],
    ids=["malformed", "not text", "misspelt", "empty", "a folder"],
)
def test_a_malformed_configuration_is_named(home: Path, harm: bytes | None, named: str) -> None:
    path = Home(home).config
    whole = path.read_bytes()
    path.unlink()
    if harm is None:
        path.mkdir()
    else:
        path.write_bytes(whole + harm if harm.startswith(b"\n") else harm)
    line = told(picket(home, "config", "check"), USAGE)
    assert "picket.toml" in line
    assert named in line
    path.rmdir() if harm is None else path.unlink()
    path.write_bytes(whole)
    unharmed(home)


def test_a_check_shows_each_setting_with_its_value_and_origin(home: Path) -> None:
    env = {"PICKET_LOG__LEVEL": "debug"}
    rows = {r["key"]: r for r in json.loads(fine(picket(home, "config", "check", "--json",
                                                        env=env)))}  # fmt: skip
    assert set(rows) == {field.key for field in FIELDS}
    assert rows["log.level"] == {
        "key": "log.level", "origin": "PICKET_LOG__LEVEL", "value": "debug",
    }  # fmt: skip
    assert rows["node.authority"]["origin"] == "picket.toml"
    assert rows["log.format"]["origin"] == "default"
    shown = fine(picket(home, "config", "check", env=env))
    assert re.search(r"^log\.level +PICKET_LOG__LEVEL +debug$", shown, re.MULTILINE)
    assert re.search(r"^log\.format +default +json$", shown, re.MULTILINE)


# --- databases and keys ----------------------------------------------------------------------
def test_a_database_that_is_none_is_refused_and_left_alone(home: Path) -> None:
    whole = (home / "node.db").read_bytes()
    (home / "node.db").write_bytes(b"garbage" * 999)
    assert "node.db" in told(picket(home, "status"), FAILURE)
    assert (home / "node.db").read_bytes() == b"garbage" * 999
    (home / "node.db").write_bytes(whole)
    unharmed(home)


def test_a_restored_backup_is_refused_before_anything_is_signed(home: Path, made: Made) -> None:
    unharmed(home)
    old = (home / "node.db").read_bytes()
    fine(picket(home, "peers", "add", str(made.card("cedar"))))
    newest = (home / "node.db").read_bytes()
    (home / "node.db").write_bytes(old)
    for arguments in (("status",), ("log", "verify"), ("run",)):
        assert "restored from a backup" in told(picket(home, *arguments), UNVERIFIED)
    assert (home / "node.db").read_bytes() == old
    (home / "node.db").write_bytes(newest)
    unharmed(home)


def test_a_log_that_was_changed_does_not_verify(home: Path) -> None:
    with contextlib.closing(sqlite3.connect(home / "node.db")) as database, database:
        database.execute("UPDATE entries SET entry = zeroblob(length(entry)) WHERE idx = 1")
    done = picket(home, "log", "verify")
    assert done.returncode == UNVERIFIED
    assert "entry 1 of the log" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_lost_database_is_not_made_anew(home: Path) -> None:
    whole = (home / "node.db").read_bytes()
    (home / "node.db").unlink()
    line = told(picket(home, "status"), FAILURE)
    assert "node.db" in line
    assert "picket init" not in line, "init refuses a folder that is in use"
    assert not (home / "node.db").exists()
    (home / "node.db").write_bytes(whole)
    unharmed(home)


def test_a_database_of_a_later_version_is_refused(home: Path) -> None:
    with contextlib.closing(sqlite3.connect(home / "node.db")) as database:
        (version,) = database.execute("PRAGMA user_version").fetchone()
        database.execute("PRAGMA user_version = 99")
    assert "update Picket" in told(picket(home, "status"), FAILURE)
    with contextlib.closing(sqlite3.connect(home / "node.db")) as database:
        database.execute(f"PRAGMA user_version = {version}")
    unharmed(home)


@pytest.mark.parametrize(
    ("name", "harm"),
    [
        ("keystore", "cut"), ("keystore", "of another node"), ("service.key", "missing"),
        ("service.key", "0644"), ("service.key", "of another node"), ("tls.pem", "missing"),
        ("tls.pem", "0644"), ("tls.pem", "of another node"),
    ],
)  # fmt: skip
def test_a_key_file_that_cannot_be_trusted_keeps_the_node_down(
    home: Path, made: Made, start: Start, name: str, harm: str
) -> None:
    path = home / name
    whole = path.read_bytes()
    if harm == "missing":
        path.unlink()
    elif harm == "cut":
        path.write_bytes(whole[:100])
    elif harm == "0644":
        path.chmod(0o644)
    else:
        path.write_bytes((made.folder / "birch" / name).read_bytes())
    process = start(home)
    client, deadline = Client(home), time.monotonic() + PATIENCE_S
    while process.poll() is None and not client.running() and time.monotonic() < deadline:
        time.sleep(0.02)
    assert process.poll() is not None, f"it runs with a {name} that is {harm}"
    out, err = process.communicate()
    code = USAGE if name == "tls.pem" and process.returncode == USAGE else FAILURE
    line = told(subprocess.CompletedProcess([], process.returncode, out, err), code)
    assert name in line or "another node" in line
    assert "picket init" not in line
    path.write_bytes(whole)
    path.chmod(0o600)
    unharmed(home)


# --- homes -----------------------------------------------------------------------------------
INIT: Final = (
    "--no-input", "init", "--authority", "Ash", "--country", "XA", "--network", "test.example",
    "--contact", "duty desk", "--listen", "127.0.0.1:0", "--http", "127.0.0.1:0",
)  # fmt: skip


@pytest.mark.parametrize("arguments", [("run",), ("status",), ("log", "verify")], ids=" ".join)
def test_a_home_that_does_not_exist_is_named(tmp_path: Path, arguments: Sequence[str]) -> None:
    line = told(picket(tmp_path / "none", *arguments), USAGE)
    assert str(tmp_path / "none") in line
    assert "picket init" in line
    assert list(tmp_path.iterdir()) == []


def test_a_file_in_place_of_the_home_is_named(tmp_path: Path, made: Made) -> None:
    path = tmp_path / "file"
    path.write_text("mine")
    assert str(path) in told(picket(path, "status"), USAGE)
    secret = str(made.folder / "passphrase")
    assert str(path) in told(picket(path, *INIT, "--passphrase-file", secret), USAGE)
    assert path.read_text() == "mine"


@pytest.mark.parametrize("name", ["d" * 120, "d" * 300])
def test_a_home_too_long_for_its_socket_is_named(tmp_path: Path, made: Made, name: str) -> None:
    secret = str(made.folder / "passphrase")
    told(picket(tmp_path / name, *INIT, "--passphrase-file", secret), USAGE)
    assert list(tmp_path.iterdir()) == []


def test_a_node_moved_too_deep_says_so_and_runs_again_where_it_was(
    home: Path, tmp_path: Path
) -> None:
    deep = tmp_path / ("d" * 110)
    home.rename(deep)
    assert "shorter" in told(picket(deep, "run"), USAGE)
    deep.rename(home)
    unharmed(home)


def test_a_second_process_has_to_wait(home: Path) -> None:
    with open_core(Home(home), load_config(Home(home)), SystemClock()):
        for arguments in (("status",), ("run",)):
            assert "another picket process" in told(picket(home, *arguments), TEMPORARY)
    unharmed(home)


def test_a_second_node_on_one_home_has_to_wait(running: Path) -> None:
    assert "another picket process" in told(picket(running, "run"), TEMPORARY)
    unharmed(running)


def test_what_a_killed_node_left_behind_is_in_nobodys_way(home: Path, start: Start) -> None:
    process = started(start, home)
    process.kill()
    process.communicate()
    assert (home / "control.sock").exists()
    assert json.loads(fine(picket(home, "status", "--json")))["running"] is False
    started(start, home)
    assert json.loads(fine(picket(home, "status", "--json")))["running"] is True
    unharmed(home)


@pytest.mark.parametrize("name", ["control.sock", "lock", "fence", "case.db"])
def test_a_folder_in_place_of_a_file_of_the_node_is_named(home: Path, name: str) -> None:
    whole = (home / name).read_bytes() if (home / name).exists() else None
    (home / name).unlink(missing_ok=True)
    (home / name).mkdir()
    done = picket(home, "run")
    assert done.returncode in {FAILURE, USAGE}
    assert name in told(done, done.returncode)
    (home / name).rmdir()
    if whole is not None:
        (home / name).write_bytes(whole)
    unharmed(home)


def test_a_node_that_stops_answering_is_unreachable(home: Path) -> None:
    """Whoever takes the connection hangs up without a word, as a dying node does."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(home / "control.sock"))
        listener.listen()

        def hang_up() -> None:
            with contextlib.suppress(OSError):
                while True:
                    listener.accept()[0].close()

        thread = threading.Thread(target=hang_up, daemon=True)
        thread.start()
        assert "stopped answering" in told(picket(home, "status"), UNREACHABLE)
        listener.shutdown(socket.SHUT_RDWR)
        thread.join(PATIENCE_S)
    unharmed(home)


def test_a_node_stops_in_order_when_it_is_told_to(home: Path, start: Start) -> None:
    process = started(start, home)
    process.send_signal(signal.SIGTERM)
    assert process.wait(PATIENCE_S) == OK
    unharmed(home)


# --- what is not there, not allowed, not so --------------------------------------------------
NOBODY: Final = "PI-XA-2026-AAAAAA"


@pytest.mark.parametrize(
    "arguments",
    [
        ("peers", "show", "nobody"), ("incidents", "show", NOBODY),
        ("incidents", "deliveries", NOBODY), ("tokens", "revoke", "nothing"),
        ("incidents", "release", NOBODY, "--to", "birch", "--yes"),
    ],
    ids=" ".join,
)  # fmt: skip
def test_what_is_not_there_is_not_found(running: Path, arguments: Sequence[str]) -> None:
    told(picket(running, *arguments), NOT_FOUND)


def test_nothing_is_released_twice_or_to_strangers(home: Path, made: Made) -> None:
    release = ("incidents", "release")
    line = told(picket(home, *release, made.released, "--to", "birch", "--yes"), REFUSED)
    assert "already" in line
    told(picket(home, *release, made.draft, "--to", "nobody", "--yes"), REFUSED)
    fine(picket(home, "peers", "add", str(made.card("cedar")), "--name", "cedar"))
    line = told(picket(home, *release, made.draft, "--to", "cedar", "--yes"), REFUSED)
    assert "picket peers approve cedar" in line
    unharmed(home)


def test_the_deliveries_of_a_draft_are_not_those_of_an_unknown_incident(
    running: Path, made: Made
) -> None:
    done = picket(running, "incidents", "deliveries", made.draft)
    assert "no incident" not in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("digits", ["12345", "1" * 61, "x" * 60], ids=["few", "many", "letters"])
def test_a_safety_number_that_is_not_one_is_a_typing_error(running: Path, digits: str) -> None:
    """Exit code 5 is for what does not verify, so that scripts can raise an alarm on it."""
    approve = ("peers", "approve", "birch", "--method", "voice", "--by", "me", "--safety-number")
    assert "60 digits" in told(picket(running, *approve, digits), USAGE)


def test_an_incident_too_large_to_release_is_a_fault_of_the_incident(
    home: Path, tmp_path: Path
) -> None:
    body = incident()
    contacts = [{"kind": "email", "value": "v" * 1_000}] * 50
    body["annex"]["parties"] = [{**body["annex"]["parties"][0], "contacts": contacts}] * 3
    (tmp_path / "big.json").write_text(json.dumps(body))
    new = picket(home, "incidents", "new", "--file", str(tmp_path / "big.json"), "--json")
    ref = json.loads(fine(new))["ref"]
    done = picket(home, "incidents", "release", ref, "--to", "birch", "--yes", "--json")
    assert "attachments" in told(done, USAGE)
    unharmed(home)


@pytest.mark.parametrize(
    "text",
    [
        '{"face": ', "[]", '{"face": NaN}', '{"face": ' + "9" * 5_000 + "}",
        '{"face": ' + "[" * 100_000 + "]" * 100_000 + "}", '{"face": {"summary": "\\ud800"}}',
        '{"face": {}, "\\ud800": 1}',
    ],
    ids=["cut", "a list", "NaN", "a huge number", "deep", "a surrogate", "a surrogate key"],
)  # fmt: skip
@pytest.mark.parametrize("verb", [("new", "--file"), ("import",)], ids=" ".join)
def test_a_file_of_odd_json_stores_nothing(
    running: Path, tmp_path: Path, verb: Sequence[str], text: str
) -> None:
    path = tmp_path / "given.json"
    path.write_text(text)
    before = Client(running).call("GET", "/api/v1/status")[1]["incidents"]["drafts"]
    done = picket(running, "incidents", *verb, str(path))
    assert "Traceback" not in done.stderr
    assert done.returncode in {FAILURE, USAGE}
    assert done.stderr or done.stdout
    assert Client(running).call("GET", "/api/v1/status")[1]["incidents"]["drafts"] == before


def test_an_import_with_rejected_lines_says_which_and_fails(home: Path, tmp_path: Path) -> None:
    path = tmp_path / "lines.ndjson"
    path.write_text("\n".join([json.dumps(incident()), "", '{"face": {}}', json.dumps(incident())]))
    done = picket(home, "incidents", "import", str(path), "--json")
    assert done.returncode == FAILURE
    seen = json.loads(done.stdout)
    assert (seen["accepted"], seen["rejected"]) == (2, 1)
    assert {error["line"] for error in seen["errors"]} == {2}
    unharmed(home)


@pytest.mark.parametrize(
    "arguments",
    [("peers", "show", "\udcff"), ("incidents", "show", "\udcff"),
     ("tokens", "create", "\udcff", "--scope", "node:read")],
    ids=lambda a: " ".join(a[:2]),
)  # fmt: skip
def test_an_argument_of_odd_bytes_is_refused(running: Path, arguments: Sequence[str]) -> None:
    done = picket(running, *arguments)
    assert "Traceback" not in done.stderr
    assert done.returncode in {USAGE, NOT_FOUND}
    assert done.stderr.startswith("picket: ")


@pytest.mark.parametrize("name", ["Customs, Police/Border", "-v #1 é 50 % ?"])
def test_a_peer_can_be_approved_and_sent_to_whatever_it_is_called(
    home: Path, made: Made, name: str
) -> None:
    """The name is that on the card unless the operator gives another."""
    add = picket(home, "peers", "add", str(made.card("cedar")), f"--name={name}", "--json")
    number = json.loads(fine(add))["safety_number"]
    options = ("--safety-number", number, "--method", "voice", "--by", "me", "--json")
    approved = picket(home, "peers", "approve", *options, "--", name)
    assert json.loads(fine(approved))["level"] == "share"
    done = picket(home, "incidents", "release", made.draft, f"--to={name}", "--yes", "--json")
    assert [d["peer"] for d in json.loads(fine(done))["deliveries"]] == [name]


# --- scripts ---------------------------------------------------------------------------------
READ_VERBS: Final[Mapping[str, Callable[[Made], tuple[str, ...]]]] = {
    "status": lambda _: (), "doctor": lambda _: (), "keys show": lambda _: (),
    "keys card": lambda _: (), "keys status": lambda _: (),
    "peers list": lambda _: (), "peers show": lambda _: ("birch",),
    "peers pending": lambda _: (), "peers number": lambda _: ("birch",),
    "incidents list": lambda _: (), "incidents show": lambda made: (made.released,),
    "incidents deliveries": lambda made: (made.released,), "log verify": lambda _: (),
    "log head": lambda _: (), "tokens list": lambda _: (), "config show": lambda _: (),
    "config check": lambda _: (), "attachments list": lambda _: (),
    "delivery check": lambda made: (str(made.folder / "statement"),),
    "incidents access": lambda made: (made.released,), "log watch": lambda _: ("--once",),
    "delivery missing": lambda _: (), "lists status": lambda _: (),
    "lists show": lambda _: ("units",), "lists find": lambda _: ("acetone",),
    "lists proposals": lambda _: (),
    "incidents history": lambda made: (made.released,), "incidents board": lambda _: (),
    "incidents figures": lambda _: (),
    "incidents thread": lambda made: (made.released,), "followup list": lambda _: ("--all",),
    "alerts list": lambda _: (), "operations list": lambda _: (), "shipments list": lambda _: (),
    "approve list": lambda _: (), "approve history": lambda _: (), "operators list": lambda _: (),
    "keys exposures": lambda _: (), "links list": lambda _: (), "obligations incb": lambda _: (),
    "incidents find": lambda _: ("acetone",),
}  # fmt: skip
WRITE_VERBS: Final = {
    "backup", "restore", "restored",
    "init", "run", "unlock", "demo", "peers add", "peers approve", "peers confirm",
    "peers accept", "peers ignore", "peers later", "peers undo", "peers introduce",
    "peers suspend", "keys passphrase", "keys recover", "keys revoke", "keys rotate-identity",
    "keys rotate-seal", "incidents new",
    "incidents import", "incidents release", "log accept", "tokens create", "tokens revoke",
    "attachments add", "attachments fetch", "attachments save", "attachments drop",
    "delivery statement", "log audit", "log export", "log fork", "log policy", "log prove",
    "log reopen",
    "evidence export", "evidence verify", "incidents erase", "disclose message", "disclose check",
    "lists import", "lists remove", "lists propose", "lists show-update", "lists accept",
    "lists ignore",
    "incidents amend", "incidents retract", "incidents ack", "incidents say", "incidents link",
    "followup ask", "followup answer", "followup show", "alerts new", "alerts show",
    "operations open", "operations show", "operations tag", "operations notice",
    "operations close", "operations tally", "shipments notify", "shipments show",
    "shipments reply", "shipments event",
    "approve show", "approve sign", "approve reject", "operators new-key", "operators set",
    "operators reset", "corpus", "directory check", "directory combine", "directory new-key",
    "directory sign", "incidents permit", "incidents retention", "keys exposed",
    "keys rotate-message", "keys rotate-tls", "links confirm",
    "links dismiss", "links reopen", "lock",
    "obligations form-d", "obligations pics", "obligations sent", "peers test", "signer import",
    "signer move", "signer return", "signer run", "signer status",
}  # fmt: skip
# Of the recovery sheet, which is still on this machine; and of a delivery that nobody took yet.
FAILING: Final = {"doctor", "delivery check"}


def verbs(group: Any, prefix: str = "") -> dict[str, list[str]]:  # noqa: ANN401  of typer's own
    """Return the options of each command."""
    if not hasattr(group, "commands"):
        return {prefix: [option for p in group.params for option in p.opts]}
    found: dict[str, list[str]] = {}
    for name, sub in group.commands.items():
        found |= verbs(sub, f"{prefix} {name}".strip())
    return found


def test_every_verb_is_known_here_and_every_read_verb_has_json() -> None:
    known = verbs(typer.main.get_command(app))
    assert set(known) == set(READ_VERBS) | WRITE_VERBS
    assert [verb for verb in READ_VERBS if "--json" not in known[verb]] == []


@pytest.mark.parametrize("verb", READ_VERBS)
def test_a_read_verb_prints_json_and_nothing_else(running: Path, made: Made, verb: str) -> None:
    done = picket(running, *verb.split(), *READ_VERBS[verb](made), "--json")
    assert done.returncode == (FAILURE if verb in FAILING else OK), done.stderr
    assert json.loads(done.stdout) or verb == "attachments list"
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("verb", ["status", "incidents show"])
def test_a_read_verb_prints_the_same_kind_of_json_when_the_node_is_down(
    home: Path, made: Made, running: Path, verb: str
) -> None:
    arguments = (*verb.split(), *READ_VERBS[verb](made), "--json")
    down = json.loads(picket(home, *arguments).stdout)
    up = json.loads(picket(running, *arguments).stdout)
    assert type(down) is type(up)
    if isinstance(up, dict):
        assert set(down) == set(up)


@pytest.mark.parametrize(
    ("arguments", "missing"),
    [
        (("init",), "--authority"),
        (("init", "--authority", "A"), "--country"),
        (("init", "--authority", "A", "--country", "XA"), "--network"),
        (("init", "--authority", "A", "--country", "XA", "--network", "n"), "--contact"),
        (INIT[1:], "--passphrase-file"),
    ],
    ids=["authority", "country", "network", "contact", "passphrase"],
)
def test_without_a_terminal_init_names_what_is_missing(
    tmp_path: Path, arguments: Sequence[str], missing: str
) -> None:
    done = picket(tmp_path / "n", *arguments)
    assert done.returncode == USAGE
    assert done.stderr.count("\n") == 1
    assert missing in done.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (("--country", "Holland"), "node.country"), (("--listen", "8462"), "peer.listen"),
        (("--endpoint", "wss://a.example"), "peer.endpoints"),
        (("--http", "0.0.0.0:8463"), "http.listen"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)  # fmt: skip
def test_init_checks_its_options_before_it_asks_for_the_passphrase(
    tmp_path: Path, change: Sequence[str], named: str
) -> None:
    """There is nobody to ask here: whoever came to the passphrase would complain about that."""
    line = told(picket(tmp_path / "n", *INIT, *change), USAGE)
    assert named in line
    assert "passphrase" not in line
    assert list(tmp_path.iterdir()) == []


def test_init_checks_the_folder_before_it_asks_for_the_passphrase(home: Path) -> None:
    line = told(picket(home, *INIT), USAGE)
    assert "is not empty" in line
    unharmed(home)


@pytest.mark.parametrize(
    ("arguments", "missing"),
    [
        (("peers", "approve", "birch"), "--safety-number"),
        (("peers", "approve", "birch", "--safety-number", "1"), "--method"),
        (("peers", "approve", "birch", "--safety-number", "1", "--method", "voice"), "--by"),
        (("peers", "approve", "birch", "--level", "observe"), "--by"),
        (("peers", "approve", "birch", "--level", "observe", "--by", "me"), "--yes"),
        (("incidents", "new"), "--file"),
        (("incidents", "release", "X"), "--to"),
        (("log", "accept"), "--yes"),
    ],
    ids=lambda value: value if isinstance(value, str) else " ".join(value[:2]),
)
def test_without_a_terminal_a_verb_names_what_is_missing(
    running: Path, arguments: Sequence[str], missing: str
) -> None:
    done = picket(running, *arguments)
    assert done.returncode == USAGE
    assert done.stdout == ""
    last = done.stderr.splitlines()[-1]
    assert last.startswith("picket: ")
    assert missing in last


def test_without_a_terminal_nothing_is_released_unconfirmed(running: Path, made: Made) -> None:
    done = picket(running, "incidents", "release", made.draft, "--to", "birch", typed="y\n")
    assert done.returncode == USAGE
    assert "--yes" in done.stderr
    seen = Client(running).call("GET", f"/api/v1/incidents/{made.draft}")[1]
    assert seen["state"] == "draft"


def test_without_a_passphrase_file_a_script_is_told_to_give_one(home: Path) -> None:
    done = picket(home, "incidents", "list", env={"PICKET_KEYSTORE__PASSPHRASE_FILE": ""})
    assert "passphrase" in told(done, USAGE)
    unharmed(home)


def test_nothing_is_coloured_where_colour_is_not_wanted(running: Path) -> None:
    for arguments in (("status",), ("peers", "show", "nobody"), ("status", "--nonsense")):
        for env in ({}, {"NO_COLOR": "1", "FORCE_COLOR": "1", "TERM": "xterm"}):
            done = picket(running, *arguments, env=env)
            assert "\x1b" not in done.stdout + done.stderr


# --- trust, and what cannot be undone ---------------------------------------------------------
def test_lowering_a_peer_takes_a_name_and_a_yes_and_no_digits(home: Path) -> None:
    lower = ("peers", "approve", "birch", "--level", "observe", "--by", "me", "--yes")
    assert "lowered to level observe" in fine(picket(home, *lower))
    seen = Client(home).call("GET", "/api/v1/peers/birch")[1]
    assert (seen["level"], seen["verified"]["by"]) == ("observe", "test")
    again = picket(home, *lower)
    assert "--safety-number" in told(again, USAGE), "what is not lower needs the number"
    up = ("peers", "approve", "birch", "--level", "relay", "--by", "me", "--yes")
    assert "--safety-number" in told(picket(home, *up), USAGE)
    unharmed(home)


def test_a_level_that_is_none_is_told_before_anything_is_asked(running: Path) -> None:
    done = picket(running, "peers", "approve", "birch", "--level", "top")
    assert "observe, relay, share" in done.stderr
    assert done.returncode == USAGE


def test_a_file_that_may_be_the_only_one_is_deleted_after_a_yes_alone(
    home: Path, made: Made, tmp_path: Path
) -> None:
    (tmp_path / "scan").write_bytes(b"the only scan")
    add = picket(home, "attachments", "add", str(tmp_path / "scan"), "--draft", made.draft)
    digest = fine(add).split()[0]
    done = picket(home, "attachments", "drop", digest[:16])
    assert "not released" in done.stderr
    assert "--yes" in done.stderr
    assert done.returncode == USAGE
    fine(picket(home, "incidents", "release", made.draft, "--to", "birch", "--yes"))
    done = picket(home, "attachments", "drop", digest[:16])
    assert "nobody can get it any more" in done.stderr
    assert done.returncode == USAGE
    assert digest in Client(home).call("GET", "/api/v1/attachments")[1]["items"][0]["sha256"]
    fine(picket(home, "attachments", "drop", digest[:16], "--yes"))


@pytest.mark.parametrize("verb", [("keys", "card"), ("delivery", "statement")], ids=" ".join)
def test_no_file_is_overwritten_without_force(
    running: Path, made: Made, tmp_path: Path, verb: Sequence[str]
) -> None:
    what = () if verb[0] == "keys" else (made.released,)
    out = tmp_path / "out"
    out.write_text("mine")
    line = told(picket(running, *verb, *what, "--out", str(out)), REFUSED)
    assert str(out) in line
    assert "--force" in line
    assert out.read_text() == "mine"
    fine(picket(running, *verb, *what, "--out", str(out), "--force"))
    assert out.read_text().startswith("-----BEGIN PICKET")
    fine(picket(running, *verb, *what, "--out", str(tmp_path / "new")))


def test_a_check_of_a_delivery_says_first_what_came_of_it(made: Made) -> None:
    done = picket(made.folder / "alder", "delivery", "check", str(made.folder / "statement"))
    lines = done.stdout.splitlines()
    assert lines[0].startswith("Made too early to tell"), done.stdout
    assert any(line.startswith("RECIPIENT") for line in lines[1:])


def test_half_a_node_id_is_a_typing_error(made: Made) -> None:
    statement = str(made.folder / "statement")
    done = picket(made.folder / "alder", "delivery", "check", statement, "--author", "DYR25XN")
    line = told(done, USAGE)
    assert "--author" in line
    assert "8 groups of 7" in line


def test_a_stopped_node_is_shown_as_such_with_both_ways_to_start_it(home: Path) -> None:
    env = {"PICKET_KEYSTORE__PASSPHRASE_FILE": ""}
    shown = fine(picket(home, "status", env=env)).splitlines()
    assert shown[0] == "Alder (XA)  NOT RUNNING: it sends and receives nothing"
    assert "picket run" in shown[1]
    assert "systemctl start picket" in shown[1]
    checks = picket(home, "doctor", env=env).stdout
    assert re.search(r"^FAIL  node: .*picket run.*systemctl start picket$", checks, re.MULTILINE)


def test_a_count_of_one_is_no_plural() -> None:
    assert [counted(n, "entry") for n in (0, 1, 2)] == ["0 entries", "1 entry", "2 entries"]
    assert [counted(n, "envelope") for n in (1, 11)] == ["1 envelope", "11 envelopes"]
    assert counted(2, "day") == "2 days"
    assert counted(1, "delivery waits", "deliveries wait") == "1 delivery waits"
    assert counted(3, "delivery waits", "deliveries wait") == "3 deliveries wait"


def test_a_new_node_has_one_entry(tmp_path: Path, made: Made) -> None:
    secret = str(made.folder / "passphrase")
    fine(picket(tmp_path / "n", *INIT, "--passphrase-file", secret))
    assert re.search(r"^Log +1 entry$", fine(picket(tmp_path / "n", "status")), re.MULTILINE)


# --- terminals -------------------------------------------------------------------------------
def at_terminal(home: Path, *arguments: str, press: bytes, when: str) -> tuple[int, str]:
    """Run at a terminal, press keys once *when* is shown; return exit code and what was shown."""
    return at_terminal_often(home, *arguments, presses=[(when, press)])


def at_terminal_often(
    home: Path, *arguments: str, presses: Sequence[tuple[str, bytes]]
) -> tuple[int, str]:
    """Run at a terminal; press keys each time that what they wait for is shown anew."""
    waiting, seen = list(presses), 0
    pid, terminal = pty.fork()
    if pid == 0:
        try:
            os.chdir(ROOT)
            os.execv(sys.executable, command(home, *arguments))  # noqa: S606  our own program
        finally:
            os._exit(127)
    shown, deadline = b"", time.monotonic() + PATIENCE_S
    try:
        while time.monotonic() < deadline:
            if not select.select([terminal], [], [], 0.2)[0]:
                continue
            try:
                data = os.read(terminal, 65_536)
            except OSError:  # Linux's way of saying that the other end is closed
                break
            if not data:
                break
            shown += data
            if waiting and waiting[0][0].encode() in shown[seen:]:
                seen = len(shown)
                os.write(terminal, waiting.pop(0)[1])
        else:
            os.kill(pid, signal.SIGKILL)
        _, status = os.waitpid(pid, 0)
    finally:
        os.close(terminal)
    return os.waitstatus_to_exitcode(status), shown.decode(errors="replace").replace("\r", "")


@pytest.mark.parametrize("key", [b"\x03", b"\x04"], ids=["Ctrl-C", "Ctrl-D"])
def test_a_question_can_be_interrupted(tmp_path: Path, key: bytes) -> None:
    code, shown = at_terminal(tmp_path / "n", "init", press=key, when="Name of the authority")
    assert code == INTERRUPTED
    assert "picket: interrupted" in shown
    assert "Traceback" not in shown
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("typed", "value", "unit"),
    [
        ("20160 L", "20160", "LTR"), ("20160 l", "20160", "LTR"), ("1.5kg", "1.5", "KGM"),
        ("25 KG", "25", "KGM"), ("3 g", "3", "GRM"), ("2 T", "2", "TNE"), ("9 mL", "9", "MLT"),
        ("9 ML", "9", "MLT"), ("12 Pcs", "12", "H87"), ("7 kgm", "7", "KGM"), ("4 m³", "4", "MTQ"),
        ("1 cubic  metre", "1", "MTQ"),
    ],
)  # fmt: skip
def test_an_amount_is_read_as_people_write_it(typed: str, value: str, unit: str) -> None:
    assert read_amount(typed) == (value, unit)


@pytest.mark.parametrize(
    ("typed", "reason"),
    [
        ("20,160 L", "one point"), ("20.160.000 L", "one point"), ("007 kg", "one point"),
        ("25", "the unit too"), ("25 stone", "no unit"), ("3 ton", "no unit"), ("kg", "number"),
        ("-3 kg", "number"), ("", "number"),
    ],
)  # fmt: skip
def test_an_amount_that_may_mean_two_things_is_not_guessed(typed: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        read_amount(typed)


def test_every_unit_can_be_typed_as_its_code() -> None:
    assert [read_amount(f"1 {unit.lower()}")[1] for unit in UNIT] == list(UNIT)


NOW: Final = 1_772_400_000_000  # 2026-03-01T21:20:00Z


@pytest.mark.parametrize(
    ("typed", "time"),
    [
        ("2026-03-01T08:30:00Z", "2026-03-01T08:30:00Z"),
        ("2026-03-01 08:30", "2026-03-01T08:30:00Z"),
        ("2026-03-01 08:30:15 UTC", "2026-03-01T08:30:15Z"), ("Now", "2026-03-01T21:20:00Z"),
    ],
)  # fmt: skip
def test_a_time_is_read_as_people_write_it(typed: str, time: str) -> None:
    assert read_time(typed, now=NOW) == time


@pytest.mark.parametrize(
    ("typed", "reason"),
    [
        ("yesterday", "2026-03-01 08:30"), ("2026-02-30 08:30", "does not exist"),
        ("2026-03-01", "the time too"), ("2026-03-01 8:30", "day and time"),
        ("2062-03-01 08:30", "future"), ("2026-03-01 25:30", "UTC time"),
        ("2026-03-01T08:30+01:00", "UTC"),
    ],
)  # fmt: skip
def test_a_time_that_is_none_is_asked_again(typed: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        read_time(typed, now=NOW)


ANSWERS: Final = (
    ("1/7 Its", "seiz"), ("2/7", "Holland"), ("2/7", "nl"), ("3/7", "yesterday"),
    ("3/7", "2026-03-01 08:30"), ("4/7", "Acetone"), ("5/7", "25"), ("5/7", "20160 l"),
    ("6/7", "x" * 501), ("6/7", "Drums were found."), ("7/7", "Duty desk, duty@alder.example"),
    ("Handling", ""), ("The way", ""), ("Release it to", ""),
)  # fmt: skip


def test_each_answer_is_checked_when_it_is_given(home: Path) -> None:
    press = [(when, answer.encode() + b"\n") for when, answer in ANSWERS]
    code, shown = at_terminal_often(home, "incidents", "new", presses=press)
    assert code == OK, shown
    for reason in ("such as NL", "or: now", "the unit too", "longer than 500"):
        assert reason in shown
    for understood in ("seizure", "2026-03-01 08:30 UTC", "20160 litres (LTR)"):
        assert f"understood: {understood}" in shown
    (ref,) = re.findall(r"^Draft (\S+)$", shown, re.MULTILINE)
    face = Client(home).call("GET", f"/api/v1/incidents/{ref}")[1]["face"]
    assert face["location"] == {"country": "NL"}
    assert face["substances"][0]["qty"] == {"value": "20160", "unit": "LTR"}
    assert face["contact"] == {"unit": "Duty desk", "mailbox": "duty@alder.example"}


def test_a_passphrase_prompt_can_be_interrupted(tmp_path: Path) -> None:
    given = ("--authority", "A", "--country", "XA", "--network", "n", "--contact", "c")
    code, shown = at_terminal(tmp_path / "n", "init", *given, press=b"\x03", when="Passphrase:")
    assert code == INTERRUPTED
    assert "Traceback" not in shown
    assert list(tmp_path.iterdir()) == []


def test_a_node_that_does_not_run_cannot_be_unlocked(home: Path) -> None:
    assert "not running" in told(picket(home, "unlock"), 1)
    unharmed(home)


def test_a_terminal_is_not_asked_where_asking_is_off(tmp_path: Path) -> None:
    code, shown = at_terminal(tmp_path / "n", "--no-input", "init", press=b"x\n", when=": ")
    assert code == USAGE
    assert shown.startswith("picket: --authority is missing")


def test_a_typed_no_releases_nothing(home: Path, made: Made) -> None:
    release = ("incidents", "release", made.draft, "--to", "birch")
    code, shown = at_terminal(home, *release, press=b"n\n", when="[y/N]")
    assert code == REFUSED
    assert "nothing was released" in shown
    assert Client(home).call("GET", f"/api/v1/incidents/{made.draft}")[1]["state"] == "draft"
    unharmed(home)


# --- output ----------------------------------------------------------------------------------
def test_a_reader_that_leaves_early_gets_no_traceback(running: Path) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "wb") as out:
        done = subprocess.run(
            command(running, "incidents", "show", "--json", NOBODY), cwd=ROOT,
            stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.PIPE, text=True,
            timeout=PATIENCE_S, check=False,
        )  # fmt: skip
        listed = subprocess.run(
            command(running, "config", "show"), cwd=ROOT, stdin=subprocess.DEVNULL, stdout=out,
            stderr=subprocess.PIPE, text=True, timeout=PATIENCE_S, check=False,
        )  # fmt: skip
    assert done.returncode == NOT_FOUND
    for text in (done.stderr, listed.stderr):
        assert "Traceback" not in text
        assert "Exception ignored" not in text


def test_a_full_disk_under_the_output_is_told_in_one_line(running: Path) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("there is no /dev/full on this system")
    with Path("/dev/full").open("wb") as out:
        done = subprocess.run(
            command(running, "keys", "card"), cwd=ROOT, stdin=subprocess.DEVNULL, stdout=out,
            stderr=subprocess.PIPE, text=True, timeout=PATIENCE_S, check=False,
        )  # fmt: skip
    assert done.returncode == FAILURE
    assert done.stderr.startswith("picket: ")
    assert done.stderr.count("\n") == 1


def test_a_name_that_the_terminal_cannot_show_is_no_crash(home: Path) -> None:
    env = {"PICKET_NODE__AUTHORITY": "Служба контроля", "PYTHONIOENCODING": "ascii"}
    done = picket(home, "status", env=env)
    assert done.returncode == OK, done.stderr
    assert "Log " in done.stdout


def test_the_version_is_one_line(tmp_path: Path) -> None:
    assert re.fullmatch(r"picket \d+\.\d+\.\d+\S*\n", fine(picket(tmp_path, "--version")))


@pytest.mark.parametrize("arguments", [("--help",), ("--version",), ("status",)], ids=" ".join)
def test_a_quick_command_imports_nothing_heavy(running: Path, arguments: Sequence[str]) -> None:
    done = subprocess.run(
        [sys.executable, "-X", "importtime", *command(running, *arguments)[1:]], cwd=ROOT,
        stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=PATIENCE_S, check=False,
    )  # fmt: skip
    assert done.returncode == OK
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert "typer" in imported, "the list of imports was read"
    heavy = {"aiohttp", "cryptography", "structlog", "sqlcipher3", "sqlite_utils"}
    # Typer itself converts the arguments of a command with pydantic.
    heavy |= {"protocol.incident"} if arguments == ("status",) else {"pydantic"}
    assert imported & heavy == set()


# --- the journal -----------------------------------------------------------------------------
def test_the_journal_holds_no_text_of_an_incident(home: Path, made: Made, start: Start) -> None:
    process = started(start, home, PICKET_LOG__LEVEL="debug")
    client = Client(home)
    body = incident()
    body["face"]["nonsense"] = CANARY
    assert client.call("POST", "/api/v1/incidents", body)[0] == 422
    ref = client.call("POST", "/api/v1/incidents", incident())[1]["ref"]
    assert client.call("POST", f"/api/v1/incidents/{ref}/release", {"to": ["birch"]})[0] == 202
    assert client.call("GET", f"/api/v1/incidents/{ref}")[0] == 200
    journal = stop(process)
    lines = [json.loads(line) for line in journal.splitlines()]
    assert [line["event"] for line in lines][:3] == ["peers-listening", "http-listening", "ready"]
    assert CANARY not in journal
    assert "acetic" not in journal.lower()
    unharmed(home)


def test_a_narrow_terminal_cuts_a_name_and_never_a_quantity(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    monkeypatch.setattr("shutil.get_terminal_size", lambda: os.terminal_size((42, 24)))
    rows = [("a" * 16, "Acetic anhydride 2400 L"), ("b" * 16, "nothing of a known kind at all, no")]
    table(["REF", "WHAT"], rows)
    shown = capsys.readouterr().out.splitlines()
    assert shown[1].endswith("… 2400 L") or shown[1].endswith(" 2400 L")
    assert shown[2].endswith("…")
    assert all(len(line) <= 42 for line in shown)
