"""Making and opening a node: all of it or nothing, and nothing signed over a doubtful database."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import shutil
import sqlite3
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest

from keys.keystore import Argon2Params, load, save
from node.api import dispatch
from node.app import accept_database, check_init, initialise, open_service
from node.calls import Request
from node.fence import Fence
from node.home import Home
from node.service import Network, Service
from protocol.errors import (
    AlreadyRunningError,
    ConfigError,
    KeystoreError,
    LockedError,
    LogCorruptionError,
    OperatorError,
    PicketError,
    RollbackError,
    StoreError,
    WrongPassphraseError,
)

PASSPHRASE: Final = b"correct horse battery"
VALUES: Final[dict[str, Any]] = {
    "node.authority": "Alder",
    "node.country": "XA",
    "node.network": "test.example",
    "node.contact": "duty desk",
}


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [n for n in os.environ if n.startswith("PICKET_") or n == "CREDENTIALS_DIRECTORY"]:
        monkeypatch.delenv(name)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("made")
    for name in ("alder", "birch"):
        initialise(folder / name, {**VALUES, "node.authority": name.title()}, PASSPHRASE)
        keystore = Home(folder / name).keystore
        cheap = Argon2Params(memory_kib=19 * 1024, iterations=1)
        save(keystore, load(keystore, PASSPHRASE), PASSPHRASE, cheap)
    return folder


@pytest.fixture
def nodes(made: Path, tmp_path: Path) -> Path:
    return shutil.copytree(made, tmp_path / "n")


@pytest.fixture
def home(nodes: Path) -> Home:
    return Home(nodes / "alder")


@contextlib.contextmanager
def unlocked(home: Home) -> Iterator[Service]:
    with open_service(home.path, lambda: PASSPHRASE) as service:
        yield service


def grow(home: Home) -> int:
    """Let the node log an act of its operator; return the log's size."""
    other = Home(home.path.parent / "birch")
    with unlocked(other) as service:
        card = service.card()["card"]
    with unlocked(home) as service:
        service.add_peer(card, "birch")
        return service.core.log.size


def contents(folder: Path) -> dict[str, str]:
    """Return a digest of each file; SQLite's helpers and the empty lock do not count."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not path.name.endswith(("lock", "-wal", "-shm"))
    }


def sizes_signed(path: Path) -> list[int]:
    with contextlib.closing(sqlite3.connect(path)) as database:
        return [size for (size,) in database.execute("SELECT size FROM checkpoints ORDER BY size")]


# --- making ----------------------------------------------------------------------------------
def test_a_new_node_can_be_read_by_its_owner_alone(made: Path) -> None:
    home = made / "alder"
    assert stat.S_IMODE(home.stat().st_mode) == 0o700
    for name in ("keystore", "service.key", "tls.pem", "node.db", "recovery-sheet.txt", "fence"):
        assert stat.S_IMODE((home / name).stat().st_mode) == 0o600, name


def test_neither_passphrase_nor_paper_codes_stand_in_any_other_file(made: Path) -> None:
    home = made / "alder"
    sheet = (home / "recovery-sheet.txt").read_text()
    codes = re.findall(r"^ +([A-Z2-7]{7}(?:-[A-Z2-7]{7}){7})$", sheet, re.MULTILINE)
    assert len(codes) == 2
    for path in home.iterdir():
        data = path.read_bytes()
        assert PASSPHRASE not in data, path.name
        assert path.name == "recovery-sheet.txt" or not any(c.encode() in data for c in codes)


def test_a_new_node_verifies(home: Home) -> None:
    with open_service(home.path) as service:
        assert service.log_head()["size"] == 1
        assert service.log_verify()["ok"] is True


@pytest.mark.parametrize(
    "change",
    [
        {"node.country": "xx"}, {"node.authority": "A\nB"}, {"node.autority": "A"},
        {"peer.endpoints": ["wss://node.example:443/x"]}, {"node.authority": "A\ud800"},
        {"node.authority": "A\x7f"},
    ],
    ids=repr,
)  # fmt: skip
def test_a_refused_value_leaves_nothing_behind(tmp_path: Path, change: dict[str, Any]) -> None:
    with pytest.raises(OperatorError) as caught:
        initialise(tmp_path / "n", VALUES | change, PASSPHRASE)
    (key,) = change
    assert key.partition(".")[2] in caught.value.message, "the message names the setting"
    assert caught.value.fix
    assert list(tmp_path.iterdir()) == []


def test_a_short_passphrase_leaves_nothing_behind(tmp_path: Path) -> None:
    with pytest.raises(KeystoreError, match="8 to 1024"):
        initialise(tmp_path / "n", VALUES, b"short")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_in_use_is_left_as_it_was(home: Home) -> None:
    before = contents(home.path)
    with pytest.raises(ConfigError, match="not empty"):
        initialise(home.path, VALUES, PASSPHRASE)
    assert contents(home.path) == before


def test_an_empty_folder_is_used(tmp_path: Path) -> None:
    (tmp_path / "n").mkdir(mode=0o700)
    initialise(tmp_path / "n", VALUES, PASSPHRASE)
    with open_service(tmp_path / "n") as service:
        assert service.node()["authority"] == "Alder"


def test_a_file_in_place_of_the_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "n").write_text("mine")
    with pytest.raises(OperatorError) as caught:
        initialise(tmp_path / "n", VALUES, PASSPHRASE)
    assert str(tmp_path / "n") in caught.value.message
    assert (tmp_path / "n").read_text() == "mine"


@pytest.mark.parametrize("name", ["x" * 300, "x" * 120, "a/" * 60 + "b"])
def test_a_folder_whose_name_is_too_long_is_refused_before_it_is_made(
    tmp_path: Path, name: str
) -> None:
    with pytest.raises(OperatorError) as caught:
        initialise(tmp_path / name, VALUES, PASSPHRASE)
    assert "--home" in caught.value.fix
    assert list(tmp_path.iterdir()) == []


# --- one process at a time -------------------------------------------------------------------
def test_two_at_once_are_refused_and_one_after_the_other_is_fine(home: Home) -> None:
    with (
        open_service(home.path),
        pytest.raises(AlreadyRunningError, match="another picket process"),
        open_service(home.path),
    ):
        pass
    with open_service(home.path) as service:
        assert service.node()["authority"] == "Alder"


# --- files that are missing, damaged, open to others, or of another node ---------------------
@pytest.mark.parametrize("name", ["keystore", "service.key"])
@pytest.mark.parametrize("harm", ["missing", "cut", "empty", "0644", "a link", "a folder"])
def test_a_key_file_that_cannot_be_trusted_is_named_and_nothing_changes(
    home: Home, name: str, harm: str
) -> None:
    path = home.path / name
    whole = path.read_bytes()
    if harm == "0644":
        path.chmod(0o644)
    elif harm in {"cut", "empty"}:
        path.write_bytes(whole[: len(whole) // 2] if harm == "cut" else b"")
    else:
        path.unlink()
    if harm == "a link":
        (home.path.parent / "elsewhere").write_bytes(whole)
        path.symlink_to(home.path.parent / "elsewhere")
    elif harm == "a folder":
        path.mkdir()
    before = contents(home.path)
    with pytest.raises(KeystoreError) as caught, unlocked(home):
        pass
    assert name in caught.value.diagnostics(), "the file is named"
    assert caught.value.fix
    assert "picket init" not in caught.value.fix, "init refuses a folder that is in use"
    assert contents(home.path) == before


@pytest.mark.parametrize("name", ["node.db", "case.db", "fence", "lock"])
def test_a_folder_in_place_of_a_file_is_named(home: Home, name: str) -> None:
    with contextlib.suppress(FileNotFoundError):
        (home.path / name).unlink()
    (home.path / name).mkdir()
    with pytest.raises(PicketError) as caught, unlocked(home):
        pass
    assert name in caught.value.message
    assert caught.value.fix
    assert (home.path / name).is_dir()


def test_a_keystore_of_another_node_opens_nothing(nodes: Path, home: Home) -> None:
    shutil.copy(nodes / "birch" / "keystore", home.keystore)
    had_cases = home.case_db.exists()
    with pytest.raises(PicketError, match="another node"), unlocked(home):
        pass
    assert home.case_db.exists() == had_cases


def test_service_keys_of_another_node_sign_nothing(nodes: Path, home: Home) -> None:
    """One checkpoint signed with them could never be taken back: the log would be broken."""
    own = home.service_key.read_bytes()
    shutil.copy(nodes / "birch" / "service.key", home.service_key)
    with pytest.raises(PicketError, match="another node"):
        grow(home)
    home.service_key.write_bytes(own)
    with open_service(home.path) as service:
        assert service.log_verify()["ok"] is True


def test_a_case_file_of_another_node_is_refused_and_kept(nodes: Path, home: Home) -> None:
    with unlocked(Home(nodes / "birch")):
        pass
    shutil.copy(nodes / "birch" / "case.db", home.case_db)
    before = home.case_db.read_bytes()
    with pytest.raises(KeystoreError, match=r"case\.db"), unlocked(home):
        pass
    assert home.case_db.read_bytes() == before


def test_a_lost_database_is_not_replaced_by_an_empty_one(home: Home) -> None:
    """An empty node.db beside a write-ahead log would make SQLite throw that log away."""
    home.node_db.unlink()
    wal = home.path / "node.db-wal"
    wal.write_bytes(b"the only copy of what was committed last")
    with pytest.raises(PicketError, match=r"node\.db") as caught, open_service(home.path):
        pass
    assert "picket init" not in caught.value.fix
    assert not home.node_db.exists()
    assert wal.read_bytes() == b"the only copy of what was committed last"


@pytest.mark.parametrize("data", [b"", b"garbage" * 1_000, None], ids=["empty", "garbage", "cut"])
def test_a_damaged_database_is_refused_and_left_as_it_is(home: Home, data: bytes | None) -> None:
    home.node_db.write_bytes(home.node_db.read_bytes()[:50_000] if data is None else data)
    before = home.node_db.read_bytes()
    with pytest.raises(StoreError, match=r"node\.db") as caught, open_service(home.path):
        pass
    assert "backup" in caught.value.fix
    assert home.node_db.read_bytes() == before


@pytest.mark.parametrize("name", ["node.db", "case.db"])
def test_a_database_of_a_later_version_is_refused_and_left_as_it_is(home: Home, name: str) -> None:
    with unlocked(home) as service:
        cases = service.core.cases
        assert cases is not None
        if name == "case.db":
            cases._connection.execute("PRAGMA user_version = 99")
    if name == "node.db":
        with contextlib.closing(sqlite3.connect(home.node_db)) as database:
            database.execute("PRAGMA user_version = 99")
    before = contents(home.path)
    with pytest.raises(StoreError, match="later version") as caught, unlocked(home):
        pass
    assert caught.value.fix
    assert contents(home.path) == before


# --- restored backups ------------------------------------------------------------------------
@pytest.mark.parametrize("earlier", range(4))
def test_an_older_database_is_refused_before_anything_is_signed(
    home: Home, monkeypatch: pytest.MonkeyPatch, earlier: int
) -> None:
    """However often the node was opened before: each time may write another record of the fence."""
    for number in range(earlier):
        monkeypatch.setenv("PICKET_NODE__CONTACT", f"desk {number}")
        with unlocked(home):
            pass  # a new card, and so one entry more
    with open_service(home.path) as service:
        assert service.core.log.size == earlier + 1
        old = home.node_db.read_bytes()
    size = grow(home)
    newest = home.node_db.read_bytes()
    home.node_db.write_bytes(old)
    with pytest.raises(RollbackError, match=f"{size} were already published"):
        grow(home)
    assert home.node_db.read_bytes() == old
    assert max(sizes_signed(home.node_db)) < size
    with pytest.raises(RollbackError):
        accept_database(home.path)
    home.node_db.write_bytes(newest)
    with open_service(home.path) as service:
        assert service.log_verify()["entries_checked"] == size


def test_without_its_fence_a_database_is_used_only_after_a_person_vouched_for_it(
    home: Home,
) -> None:
    size = grow(home)
    home.fence.unlink()
    for _ in range(2):
        with pytest.raises(RollbackError, match="fence is missing"), open_service(home.path):
            pass
    assert accept_database(home.path) == size
    with open_service(home.path) as service:
        assert service.log_verify()["ok"] is True


def test_a_database_that_was_changed_below_the_fence_is_refused(home: Home) -> None:
    grow(home)
    with contextlib.closing(sqlite3.connect(home.node_db)) as database, database:
        database.execute("UPDATE tiles SET data = zeroblob(length(data))")
    with pytest.raises(LogCorruptionError, match="tile 0/0 differs"), open_service(home.path):
        pass


def test_another_database_of_the_same_length_is_refused_as_such(home: Home) -> None:
    size = grow(home)
    fence = Fence(home.fence)
    for _ in range(2):  # both of its records
        fence.raise_to(size, bytes(32))
    fence.close()
    said = f"the {size} log entries that were already published are not those in node.db"
    with pytest.raises(RollbackError, match=said), open_service(home.path):
        pass


# --- unlocking -------------------------------------------------------------------------------
def test_without_a_passphrase_the_node_is_locked_and_still_verifies(home: Home) -> None:
    with open_service(home.path) as service:
        assert service.node()["locked"] is True
        assert service.log_verify()["ok"] is True
        with pytest.raises(LockedError):
            service.incidents(after=0, limit=1, state=None)


def test_a_wrong_passphrase_changes_nothing(home: Home) -> None:
    before = contents(home.path)
    wrong = open_service(home.path, lambda: b"wrong horse battery")
    with pytest.raises(WrongPassphraseError), wrong:
        pass
    assert contents(home.path) == before


def test_the_passphrase_comes_from_systemd_before_the_configured_file(
    home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wrong = tmp_path / "wrong"
    wrong.write_text("wrong horse battery\n")
    monkeypatch.setenv("PICKET_KEYSTORE__PASSPHRASE_FILE", str(wrong))
    with pytest.raises(WrongPassphraseError), open_service(home.path):
        pass
    credentials = tmp_path / "credentials"
    credentials.mkdir()
    (credentials / "picket-passphrase").write_bytes(PASSPHRASE + b"\n")
    (credentials / "picket-passphrase").chmod(0o400)
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(credentials))
    with open_service(home.path) as service:
        assert service.node()["locked"] is False


def test_a_change_in_the_settings_makes_a_new_card_once(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PICKET_NODE__CONTACT", "new desk")
    with unlocked(home) as service:
        assert service.core.card.contact == "new desk"
        size = service.core.log.size
        assert size == 2
    with unlocked(home) as service:
        assert service.core.log.size == size
        assert service.log_verify()["ok"] is True


def test_a_command_that_finds_the_log_broken_says_which_entry(home: Home) -> None:
    grow(home)
    with contextlib.closing(sqlite3.connect(home.node_db)) as database, database:
        database.execute("UPDATE entries SET entry = zeroblob(length(entry)) WHERE idx = 1")
    with open_service(home.path) as service, pytest.raises(StoreError, match="entry 1"):
        dispatch(service, Request("POST", "/api/v1/log/verify", operator=True))


def test_what_a_new_node_is_given_is_checked_before_anything_is_made(tmp_path: Path) -> None:
    path = tmp_path / "n"
    assert check_init(path, VALUES) is False
    for change in ({"node.country": "xx"}, {"peer.endpoints": ["wss://a.example:443/x"]}):
        with pytest.raises(ConfigError) as caught:
            check_init(path, VALUES | change)
        assert caught.value.fix
    path.mkdir()
    assert check_init(path, VALUES) is True
    (path / "mine").touch()
    with pytest.raises(ConfigError, match="not empty"):
        check_init(path, VALUES)
    assert [file.name for file in path.iterdir()] == ["mine"]


# --- trust, over HTTP ------------------------------------------------------------------------
def ask(service: Service, method: str, path: str, body: dict[str, Any]) -> tuple[int, Any]:
    request = Request(method, path, body=json.dumps(body).encode(), operator=True)
    answer = dispatch(service, request)
    return answer.status, json.loads(answer.body)


@contextlib.contextmanager
def paired(home: Home) -> Iterator[Service]:
    """An unlocked Alder, to which Birch is a peer at level share."""
    grow(home)
    with unlocked(home) as service:
        body = {"level": "share", "method": "voice", "by": "A. Operator",
                "safety_number": service.peer("birch")["safety_number"]}  # fmt: skip
        assert ask(service, "POST", "/api/v1/peers/birch/approve", body)[0] == 200
        yield service


def test_lowering_over_http_needs_who_and_no_digits_and_is_logged(home: Home) -> None:
    path = "/api/v1/peers/birch/approve"
    with paired(home) as service:
        size = service.core.log.size
        status, row = ask(service, "POST", path, {"level": "relay", "by": "B. Officer"})
        assert (status, row["level"], row["verified"]["by"]) == (200, "relay", "A. Operator")
        assert service.core.log.size == size + 1
        local = service.core.store.scalar("SELECT local FROM entries WHERE idx = ?", size)
        assert b"lowered: relay, by B. Officer" in local, "the log says who lowered it"
        assert service.log_verify()["ok"] is True  # which is an entry too
        for body, missing in (
            ({"level": "share", "by": "x"}, "safety_number"),
            ({"level": "relay", "by": "x"}, "safety_number"),
            ({"level": "observe"}, "by"), ({"level": "observe", "by": " "}, "by"),
            ({"level": "share", "by": "x", "safety_number": "1" * 60}, "method"),
        ):  # fmt: skip
            status, problem = ask(service, "POST", path, body)
            assert (status, missing in problem["detail"]) == (400, True), problem
        wrong = {"level": "observe", "by": "x", "method": "voice", "safety_number": "1" * 60}
        assert ask(service, "POST", path, wrong)[0] == 409, "digits that are given are compared"
        assert (service.peer("birch")["level"], service.core.log.size) == ("relay", size + 2)
    with unlocked(home) as service:
        assert service.peer("birch")["level"] == "relay"


# --- notices of peers ------------------------------------------------------------------------
def notices(service: Service) -> dict[str, tuple[str, str]]:
    return {row["code"]: (row["message"], row["fix"]) for row in service.status()["notices"]}


def test_a_peer_that_has_not_approved_this_node_is_told_in_plain_words(home: Home) -> None:
    with paired(home) as service:
        birch = service.core.trust.find("birch").node_id
        row = {"peer": birch, "position": 1, "attempts": 1, "next_at": 0, "state": "queued"}
        rows = [
            {**row, "envelope_id": bytes([n]) * 32, "route": route, "code": code}
            for n, (route, code) in enumerate((
                ("direct", "untrusted-key"), ("direct", "busy"), ("forward", "untrusted-key"),
            ))
        ]  # fmt: skip
        with service.core.store.transaction():
            service.core.store.insert_all("outbox", rows[1:])
        assert "not-approved" not in notices(service), "what is another's says nothing of us"
        with service.core.store.transaction():
            service.core.store.insert_all("outbox", rows[:1])
        message, fix = notices(service)["not-approved"]
        assert message == "birch has not approved this node yet: 1 delivery waits"
        assert fix.endswith(f"picket peers approve {service.node()['node_id'][:7]}")
        lower = {"level": "observe", "by": "x"}
        assert ask(service, "POST", "/api/v1/peers/birch/approve", lower)[0] == 200
        assert "not-approved" not in notices(service), "nothing is sent to it any more"


@pytest.mark.parametrize(
    ("trouble", "message", "fix"),
    [
        ("b.example:1 cannot be reached: nothing answers at that port. Wait",
         "birch has never been linked: b.example:1 cannot be reached: nothing answers at that port",
         "Wait"),
        ("birch ended: untrusted-key",
         "birch has never been linked: it does not accept this node any more", "call birch"),
        ("birch ended: bad-frame", "birch has never been linked: it ended the link (bad-frame)",
         "if it goes on, call birch"),
    ],
)  # fmt: skip
def test_why_a_peer_is_not_linked_is_told_with_what_to_do(
    home: Home, trouble: str, message: str, fix: str
) -> None:
    with paired(home) as service:
        birch = service.core.trust.find("birch").node_id
        service.network = Network(running=True, trouble={birch: trouble})
        assert notices(service)["peer-trouble"] == (message, fix)
        with service.core.store.transaction():
            service.core.store.run("UPDATE peers SET last_contact = ?", 1_772_400_000_000)
        assert (
            "birch is not linked, last seen 2026-03-01 21:20 UTC: "
            in (notices(service)["peer-trouble"][0])
        )
        service.network = Network(
            running=True, linked=lambda: frozenset({birch}), trouble={birch: trouble}
        )
        assert "peer-trouble" not in notices(service)


def test_a_peer_that_cannot_be_dialled_and_never_came_is_told(home: Home) -> None:
    with paired(home) as service:
        assert "peer-trouble" not in notices(service), "a node that is stopped links with nobody"
        service.network = Network(running=True)
        message, fix = notices(service)["peer-trouble"]
        assert "neither card has an address" in message
        assert "peer.endpoints" in fix
