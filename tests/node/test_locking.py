"""Locking a running node: when, by whom, what it ends, what goes on, and what opens it again."""

from __future__ import annotations

import json
import os
import re
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from hypothesis import given
from hypothesis import strategies as st

from keys.keystore import Argon2Params, load, save
from node.api import begin, dispatch
from node.app import initialise, open_service
from node.blobs import BlobStore
from node.calls import Deferred, Request, Response
from node.config import load_config
from node.enclosures import Download, Upload
from node.home import Home
from node.locking import CREDENTIAL, By, Lock, Moment, lock_due, read_credential
from node.service import Network, Service
from protocol import suite
from protocol.errors import (
    BusyError,
    KeystoreError,
    LockedError,
    StoreError,
    WrongPassphraseError,
)
from tests.node.factories import (
    MINUTE,
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
from tests.node.wiring import Web

ROOT: Final = Path(__file__).parents[2]
_PAGE: Final = 4_096
CONTENT: Final = bytes(range(256)) * 1_024
Row = dict[str, Any]


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [n for n in os.environ if n.startswith("PICKET_") or n == "CREDENTIALS_DIRECTORY"]:
        monkeypatch.delenv(name)


@pytest.fixture
def world(tmp_path_factory: pytest.TempPathFactory, tmp_path: Path) -> Iterator[World]:
    with copied(made_once(tmp_path_factory), tmp_path) as opened:
        for station in opened:
            station.core.blobs = BlobStore(station.home.attachments, quota=2**30, min_free=0)
        yield opened


def lock(station: Station, by: By = By.OPERATOR) -> None:
    assert station.core.locking.lock(by)


def is_open(station: Station) -> bool:
    return station.core.is_open


def waits(station: Station) -> bool:
    return station.core.pending


def running(station: Station) -> Service:
    """The operations of a node as they are while it runs."""
    return Service(
        station.core, config=load_config(station.home), clock=station.clock,
        random=station.random, network=Network(running=True),
    )  # fmt: skip


def ask(
    service: Service, method: str, path: str, body: Row | None = None, *, token: str | None = None
) -> Response:
    data = b"" if body is None else json.dumps(body).encode()
    request = Request(method, f"/api/v1{path}", body=data, token=token, operator=token is None)
    return dispatch(service, request)


def told(response: Response) -> tuple[int, str, str]:
    value = json.loads(response.body)
    return response.status, value["code"], value["fix"]


def put(station: Station) -> str:
    """Store a file at the node; return the SHA-256 by which it is called."""
    blobs = station.core.blobs
    assert blobs is not None
    with blobs.writer(len(CONTENT)) as writer:
        writer.write(CONTENT)
        ref = writer.finish()
    station.service().enclosures.upload(ref.sha256.hex()).keep(ref)
    return ref.sha256.hex()


def with_attachment(sha256: str) -> Row:
    named = {
        "sha256": sha256, "media_type": "image/jpeg", "size": len(CONTENT), "kind": "label_photo",
    }  # fmt: skip
    return {**incident(), "annex": {"attachments": [named]}}


def whole(station: Station) -> int:
    blobs = station.core.blobs
    assert blobs is not None
    return len(blobs.whole())


# --- when ------------------------------------------------------------------------------------
MOMENTS: Final = st.builds(
    Moment, st.integers(0, 2**45), st.integers(0, 2**45)
)  # ms: until the year 3084


@given(MOMENTS, MOMENTS)
def test_without_a_time_it_never_is_due(used: Moment, at: Moment) -> None:
    assert not lock_due(used, at, after_ms=0)


@given(MOMENTS, st.integers(1, 2**40), st.integers(0, 2**40))
def test_it_is_due_from_the_last_minute_on(used: Moment, after: int, passed: int) -> None:
    at = Moment(used.now + passed, used.monotonic + passed)
    assert lock_due(used, at, after_ms=after) == (passed >= after)


@pytest.mark.parametrize(
    ("at", "due"),
    [
        (Moment(1_000 + MINUTE, 1_000), True),  # it slept, and the other clock with it
        (Moment(0, 1_000 + MINUTE), True),  # its clock was set back meanwhile
        (Moment(999 + MINUTE, 999 + MINUTE), False),
        (Moment(0, 0), False),
    ],
)
def test_either_clock_is_enough(at: Moment, due: bool) -> None:
    assert lock_due(Moment(1_000, 1_000), at, after_ms=MINUTE) is due


def test_the_node_locks_itself_when_nobody_used_it_for_so_long(world: World) -> None:
    alder = world["alder"]
    service = running(alder)
    alder.core.locking.after_ms = 30 * MINUTE
    alder.clock.advance(30 * MINUTE - 1)
    alder.core.locking.tick()
    assert is_open(alder)
    alder.clock.advance(1)
    alder.core.locking.tick()
    assert not is_open(alder)
    (notice,) = [n for n in service.status()["notices"] if n["code"] == "locked"]
    assert notice["message"].startswith("the node is locked since 2026-")
    assert "(after 30 minutes without use)" in notice["message"]
    assert notice["fix"] == "run: picket unlock"


def test_the_tick_of_a_running_node_looks_at_the_time(world: World) -> None:
    alder, birch = world["alder"], world["birch"]
    web = Web(alder, birch)
    web.link("alder", "birch")
    alder.core.locking.after_ms = 2_000
    web.run(1)
    assert is_open(alder)
    web.run(1)
    assert not is_open(alder)
    assert web.linked("alder", "birch")


def uses(service: Service, *request: Any, token: str | None = None) -> bool:  # noqa: ANN401
    """Whether a request keeps the node from locking itself."""
    core = service.core
    core.locking.after_ms = MINUTE
    core.locking.use()
    core.clock.advance(MINUTE - 1)  # type: ignore[attr-defined]
    response = ask(service, *request, token=token)
    assert response.status < 400, response.body
    core.clock.advance(1)  # type: ignore[attr-defined]
    core.locking.tick()
    return core.vault is not None


def test_asking_for_incidents_is_use_and_watching_the_node_is_none(world: World) -> None:
    service = running(world["alder"])
    made = service.create_token(
        name="desk", scopes=["node:read", "incidents:read", "peers:read"], days=1
    )
    token = made["token"]
    assert uses(service, "GET", "/incidents")
    assert uses(service, "GET", "/incidents", token=token)
    assert uses(service, "POST", "/incidents", incident())
    assert uses(service, "GET", "/tokens")
    for path in ("/status", "/node"):
        world["alder"].core.unlock(world["alder"].vault)
        assert not uses(service, "GET", path)
    world["alder"].core.unlock(world["alder"].vault)
    assert not uses(service, "GET", "/status", token=token)
    world["alder"].core.unlock(world["alder"].vault)
    assert not uses(service, "GET", "/peers", token=token), "no key was needed but for the token"


def test_what_the_node_does_by_itself_is_no_use(world: World) -> None:
    alder, birch = world["alder"], world["birch"]
    birch.core.locking.after_ms = MINUTE
    birch.clock.advance(MINUTE)
    alder.release(1, birch)
    pass_on(alder, birch)
    birch.core.try_follow()
    birch.core.keys_open()
    birch.core.locking.tick()
    assert not is_open(birch)


# --- what a lock does ------------------------------------------------------------------------
def test_a_lock_leaves_no_key_and_nothing_that_was_opened(world: World) -> None:
    alder, birch = world["alder"], world["birch"]
    alder.release(1, birch)
    pass_on(alder, birch)
    assert birch.shows() == {incident_id(1)}
    assert birch.core._epochs
    _, cases = birch.core.opened()
    lock(birch)
    assert (birch.core.vault, birch.core.cases, birch.core._epochs) == (None, None, {})
    assert not birch.home.case_db.with_name("case.db-wal").exists()
    with pytest.raises(Exception, match="closed"):
        cases.counts()


def test_after_it_every_request_for_what_needs_keys_is_answered_locked(world: World) -> None:
    alder = world["alder"]
    service = running(alder)
    draft = service.create_draft(incident())["id"]
    token = service.create_token(name="desk", scopes=["incidents:read"], days=1)["token"]
    answer = ask(service, "POST", "/lock", {})
    assert json.loads(answer.body) == {
        "locked": True, "since": "2026-09-21T14:13:20.000Z", "by": "operator", "minutes": None,
        "kept": True,
    }  # fmt: skip
    refused = (503, "locked", "run: picket unlock")
    assert told(ask(service, "GET", "/incidents")) == refused
    assert told(ask(service, "GET", f"/incidents/{draft}")) == refused
    assert told(ask(service, "POST", "/incidents", incident())) == refused
    assert told(ask(service, "POST", f"/incidents/{draft}/release", {"to": ["birch"]})) == refused
    assert told(ask(service, "GET", "/attachments")) == refused
    assert told(ask(service, "GET", "/tokens")) == refused
    assert told(ask(service, "GET", "/incidents", token=token)) == refused
    seen = json.loads(ask(service, "GET", "/status").body)
    assert (seen["locked"], seen["incidents"]) == (True, None)
    assert seen["lock"] == {
        "since": "2026-09-21T14:13:20.000Z", "by": "operator", "minutes": None,
    }  # fmt: skip
    assert ask(service, "POST", "/log/verify", {}).status == 200
    alder.core.unlock(alder.vault)
    assert json.loads(ask(service, "GET", f"/incidents/{draft}").body)["state"] == "draft"


def test_a_second_lock_changes_nothing(world: World) -> None:
    alder = world["alder"]
    lock(alder, By.TIME)
    first = alder.core.locking.shown()
    alder.clock.advance(MINUTE)
    lock(alder)
    assert alder.core.locking.shown() == first


def test_a_locked_node_works_on_for_others_and_opens_its_backlog_afterwards(world: World) -> None:
    alder, birch, cedar = world["alder"], world["birch"], world["cedar"]
    web = Web(alder, birch)
    web.link("alder", "birch")
    lock(birch)
    key = alder.release(1, birch)
    carried = alder.release(2, cedar, carriers=[birch])
    web.run(5)
    assert alder.state(key, birch) == "received"
    assert alder.state(carried, birch) == "carried"
    pass_on(birch, cedar)
    assert cedar.shows() == {incident_id(2)}
    assert birch.core.verify()["envelopes"] == 2
    service = running(birch)
    assert json.loads(ask(service, "POST", "/unlock", {"passphrase": PASSPHRASE.decode()}).body)
    assert birch.shows() == {incident_id(1)}
    assert "locked" not in birch.notices()


def catching_up(station: Station) -> None:
    """Unlock, as far as the first page of what has come."""
    follow, core = station.core.follow, station.core
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(core, "follow", lambda *, pages=None: follow(pages=1))
        core.unlock(station.vault)


def test_a_lock_in_the_middle_of_a_catch_up_only_delays_it(world: World) -> None:
    alder, birch = world["alder"], world["birch"]
    lock(birch)
    keys = [alder.release(number, birch) for number in range(1, 101)]
    while alder.core.outbox.due(birch.id, limit=64, skip=frozenset()):
        pass_on(alder, birch)
    assert {alder.state(key, birch) for key in keys} == {"received"}
    catching_up(birch)
    assert birch.core.cases is not None
    assert 0 < birch.core.cases.counts()["received"] < 100
    assert waits(birch)
    lock(birch)
    assert not waits(birch)
    birch.core.try_follow()
    birch.core.unlock(birch.vault)
    assert birch.shows() == {incident_id(number) for number in range(1, 101)}
    assert birch.core.opened()[1].counts()["quarantined"] == 0


def test_a_download_from_a_peer_goes_on_over_a_lock(world: World) -> None:
    alder, birch = world["alder"], world["birch"]
    web = Web(alder, birch)
    web.link("alder", "birch")
    sha256 = put(alder)
    service = alder.service()
    draft = service.create_draft(with_attachment(sha256))["id"]
    service.release(draft, to=["birch"], annex_to=None, carriers=[], separately=False, digest=None)
    web.run(2)
    (row,) = birch.core.opened()[1].attachments()
    attachments = web["birch"].gossip.attachments
    attachments.fetch(row["ref"].blob)
    web.pump(3)
    assert attachments.progress()[row["ref"].id].have < attachments.progress()[row["ref"].id].count
    lock(birch)
    web.run(2)
    assert attachments.progress() == {}
    birch.core.unlock(birch.vault)
    download = birch.service().enclosures.download(sha256)
    ref = download.open()
    assert b"".join(download.read(ref, 0, ref.size)) == CONTENT


# --- what was under way ----------------------------------------------------------------------
def started(service: Service, method: str, path: str, body: Row | None = None) -> Any:  # noqa: ANN401
    data = b"" if body is None else json.dumps(body).encode()
    return begin(service, Request(method, f"/api/v1{path}", body=data, operator=True))


def release_begun(station: Station) -> tuple[str, Deferred]:
    """Begin a release with an attachment that must be encrypted anew; return draft and steps."""
    service, value = running(station), with_attachment(put(station))
    drafts = [service.create_draft(value)["id"] for _ in range(2)]
    first = started(service, "POST", f"/incidents/{drafts[0]}/release", {"to": ["cedar"]})
    assert isinstance(first, Deferred)
    first.at_once()
    steps = started(service, "POST", f"/incidents/{drafts[1]}/release", {"to": ["birch"]})
    assert isinstance(steps, Deferred)
    return drafts[1], steps


def test_a_release_that_waits_for_its_turn_is_refused_and_its_draft_kept(world: World) -> None:
    alder = world["alder"]
    draft, steps = release_begun(alder)
    assert steps.prepare is not None
    assert steps.undo is not None
    before = whole(alder)
    steps.prepare()
    assert whole(alder) == before + 1
    lock(alder)
    size = alder.core.log.size
    with pytest.raises(LockedError), alder.core.logged():
        steps.act()
    steps.undo()
    assert whole(alder) == before
    assert alder.core.log.size == size
    alder.core.unlock(alder.vault)
    assert json.loads(ask(running(alder), "GET", f"/incidents/{draft}").body)["state"] == "draft"


def test_the_copies_of_a_release_end_with_a_lock_and_leave_nothing(world: World) -> None:
    alder = world["alder"]
    _, steps = release_begun(alder)
    before = whole(alder)
    lock(alder)
    assert steps.prepare is not None
    with pytest.raises(LockedError, match="locked before this was done"):
        steps.prepare()
    assert whole(alder) == before
    alder.core.unlock(alder.vault)
    with pytest.raises(LockedError):
        steps.prepare()


def test_a_release_that_was_done_just_before_a_lock_is_not_told_to_be_repeated(
    world: World,
) -> None:
    alder = world["alder"]
    _, steps = release_begun(alder)
    assert steps.prepare is not None
    steps.prepare()
    with alder.core.logged():
        done = steps.act()
    lock(alder)
    with pytest.raises(LockedError, match="is released and will be delivered") as caught:
        steps.then(done)
    assert "do not release it again" in caught.value.fix


def test_an_upload_ends_with_a_lock_and_what_it_brought_is_deleted(world: World) -> None:
    alder = world["alder"]
    service = running(alder)
    upload = started(service, "PUT", "/attachments/" + "0" * 64)
    assert isinstance(upload, Upload)
    upload.lease.check()
    blobs = alder.core.blobs
    assert blobs is not None
    with blobs.writer(len(CONTENT)) as writer:
        writer.write(CONTENT)
        ref = writer.finish()
    lock(alder)
    alder.core.unlock(alder.vault)
    with pytest.raises(LockedError, match="locked before this was done") as caught:
        upload.lease.check()
    assert "repeat it" in caught.value.fix
    with pytest.raises(LockedError):
        upload.keep(ref)
    assert not blobs.holds(ref.id)


def test_a_file_that_a_program_reads_is_cut_by_a_lock(world: World) -> None:
    alder = world["alder"]
    download = started(running(alder), "GET", f"/attachments/{put(alder)}")
    assert isinstance(download, Download)
    ref = download.open()
    pieces = download.read(ref, 0, ref.size)
    assert next(pieces) == CONTENT[: 64 * 1024]
    lock(alder)
    with pytest.raises(LockedError):
        next(pieces)


def test_a_file_that_takes_long_is_use(world: World) -> None:
    alder = world["alder"]
    download = started(running(alder), "GET", f"/attachments/{put(alder)}")
    alder.core.locking.after_ms = MINUTE
    ref = download.open()
    for _ in download.read(ref, 0, ref.size):
        alder.clock.advance(MINUTE - 1)
        alder.core.locking.tick()
    assert is_open(alder)


# --- what stays ------------------------------------------------------------------------------
@pytest.mark.parametrize("by", [By.OPERATOR, By.TIME])
def test_a_lock_outlives_a_restart(world: World, by: By) -> None:
    alder = world["alder"]
    assert alder.core.locking.lock(by, minutes=30 if by is By.TIME else 0)
    seen = alder.core.locking.shown()
    alder.clock.advance(MINUTE)
    alder.reopen(locked=True)
    assert alder.core.locking.stands == seen
    assert alder.core.locking.shown() == seen
    alder.core.unlock(alder.vault)
    assert alder.core.locking.stands == seen, "a command with the passphrase is not `unlock`"
    alder.core.locking.unlocked()
    alder.reopen(locked=True)
    assert alder.core.locking.stands is None
    (since,) = {alder.core.locking.shown()}
    assert since == Lock(alder.clock.now(), By.START)


def test_a_node_started_without_passphrase_says_so(world: World) -> None:
    alder = world["alder"]
    alder.reopen(locked=True)
    (notice,) = [n for n in running(alder).status()["notices"] if n["code"] == "locked"]
    assert "(it was started without its passphrase)" in notice["message"]


def test_a_full_disk_keeps_no_key_open_and_the_lock_is_noted_later(world: World) -> None:
    alder = world["alder"]
    store = alder.core.store
    with full_disk(alder):
        with pytest.raises(BusyError):
            for number in range(1_000):
                with store.transaction():
                    store.set_meta(f"filler {number}", bytes(512))
        with pytest.raises(BusyError):
            for number in range(1_000):
                with store.transaction():
                    store.set_meta(f"small {number}", b"")
        assert not alder.core.locking.lock(By.OPERATOR)
        assert not is_open(alder)
        (notice,) = [n for n in running(alder).status()["notices"] if n["code"] == "locked"]
        assert "a restart would not know of it" in notice["message"]
        alder.core.locking.tick()
    alder.core.locking.tick()
    assert alder.core.locking.kept
    alder.reopen(locked=True)
    assert alder.core.locking.stands is not None


@pytest.mark.parametrize("data", [b"", b"\xc0", b"\x93\x01\xa3who\x00", b"\x93\x01\xa4time\xff"])
def test_a_damaged_note_of_a_lock_is_refused(world: World, data: bytes) -> None:
    alder = world["alder"]
    with alder.core.store.transaction():
        alder.core.store.set_meta("locked", data)
    alder.close()
    with pytest.raises(StoreError, match="damaged note of a lock"):
        alder.open(locked=True)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("made") / "alder"
    values = {
        "node.authority": "Alder", "node.country": "XA", "node.network": "test.example",
        "node.contact": "duty desk", "peer.listen": "127.0.0.1:0", "http.listen": "",
    }  # fmt: skip
    initialise(path, values, PASSPHRASE)
    keystore = Home(path).keystore
    cheap = Argon2Params(memory_kib=19 * 1024, iterations=1)
    save(keystore, load(keystore, PASSPHRASE), PASSPHRASE, cheap)
    return path


@pytest.fixture
def home(made: Path, tmp_path: Path) -> Home:
    return Home(shutil.copytree(made, tmp_path / "n"))


@pytest.fixture
def credential(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The passphrase as systemd hands it over: 0400 in a folder of its own."""
    folder = tmp_path / "credentials"
    folder.mkdir(mode=0o700)
    path = folder / "picket-passphrase"
    path.write_bytes(PASSPHRASE + b"\n")
    path.chmod(0o400)
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(folder))
    return path


@pytest.mark.usefixtures("credential")
@pytest.mark.parametrize("source", ["credential", "file"])
def test_after_a_lock_no_file_opens_the_node_but_a_passphrase_that_is_given_does(
    home: Home, credential: Path, source: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if source == "file":
        monkeypatch.delenv("CREDENTIALS_DIRECTORY")
        monkeypatch.setenv("PICKET_KEYSTORE__PASSPHRASE_FILE", str(credential))
    with open_service(home.path) as service:
        assert ask(service, "POST", "/lock", {}).status == 200
    with open_service(home.path) as service:
        assert service.node()["lock"]["by"] == "operator"
    with open_service(home.path, lambda: PASSPHRASE) as service:
        assert service.node()["locked"] is False
    with open_service(home.path) as service:
        assert service.node()["locked"] is True, "one command does not unlock for good"
        body = {"passphrase": "wrong horse battery"}
        assert told(ask(service, "POST", "/unlock", body))[1] == "wrong-passphrase"
    with open_service(home.path) as service:
        assert service.node()["locked"] is True
        assert ask(service, "POST", "/unlock", {"passphrase": PASSPHRASE.decode()}).status == 200
    with open_service(home.path) as service:
        assert service.node()["locked"] is False


# --- passphrases that nobody types -----------------------------------------------------------
def test_a_credential_opens_the_node(home: Home, credential: Path) -> None:
    assert read_credential() == PASSPHRASE
    with open_service(home.path) as service:
        assert service.node()["locked"] is False
    credential.chmod(0o440)  # as an access list shows in the mode
    assert read_credential() == PASSPHRASE


def test_without_a_credential_the_configured_file_is_asked_and_else_the_node_is_locked(
    home: Home, credential: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    credential.unlink()
    assert read_credential() is None
    with open_service(home.path) as service:
        assert service.node()["lock"]["by"] == "start"
    other = tmp_path / "passphrase"
    other.write_bytes(PASSPHRASE)
    monkeypatch.setenv("PICKET_KEYSTORE__PASSPHRASE_FILE", str(other))
    with open_service(home.path) as service:
        assert service.node()["locked"] is False
    assert read_credential({}) is None
    assert read_credential({"CREDENTIALS_DIRECTORY": ""}) is None


@pytest.mark.parametrize("data", [b"", b"\n", b"short\n", b"\xff\xfe" * 8])
def test_a_credential_that_is_no_passphrase_is_named(credential: Path, data: bytes) -> None:
    credential.chmod(0o600)
    credential.write_bytes(data)
    with pytest.raises(KeystoreError, match="picket-passphrase") as caught:
        read_credential()
    assert caught.value.fix


def test_a_wrong_credential_is_told(home: Home, credential: Path) -> None:
    credential.chmod(0o600)
    credential.write_bytes(b"wrong horse battery")
    with pytest.raises(WrongPassphraseError), open_service(home.path):
        pass


@pytest.mark.parametrize("mode", [0o404, 0o644, 0o606])
def test_a_credential_that_others_can_read_is_refused(credential: Path, mode: int) -> None:
    credential.chmod(mode)
    with pytest.raises(KeystoreError, match="other users can read it"):
        read_credential()


def test_a_folder_in_the_place_of_a_credential_is_refused(credential: Path) -> None:
    credential.unlink()
    credential.mkdir(mode=0o700)
    with pytest.raises(KeystoreError, match="is no file"):
        read_credential()


def test_a_folder_of_credentials_that_cannot_be_is_named(tmp_path: Path) -> None:
    in_the_way = tmp_path / "file"
    in_the_way.touch()
    with pytest.raises(KeystoreError, match="cannot be read: Not a directory"):
        read_credential({"CREDENTIALS_DIRECTORY": str(in_the_way)})


# --- what a thief of the memory or the disk finds --------------------------------------------
def test_a_process_with_keys_dumps_no_core() -> None:
    script = (
        "import ctypes, resource, sys\n"
        "from node.hardening import refuse_dumps\n"
        "dumpable = lambda: ctypes.CDLL(None).prctl(3, 0, 0, 0, 0)\n"
        "before = dumpable()\n"
        "refuse_dumps()\n"
        "print(before, dumpable(), *resource.getrlimit(resource.RLIMIT_CORE))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["1", "0", "0", "0"]


def pragma(connection: sqlite3.Connection, name: str) -> int:
    (value,) = connection.execute(f"PRAGMA {name}").fetchone()
    return int(value)


def test_the_databases_sort_in_memory_and_overwrite_what_they_delete(world: World) -> None:
    core = world["alder"].core
    _, cases = core.opened()
    in_memory = 2
    assert pragma(core.store._connection, "temp_store") == in_memory
    assert pragma(cases._connection, "temp_store") == in_memory
    assert pragma(cases._connection, "secure_delete") == 1


def test_what_is_deleted_in_the_casebook_is_in_none_of_its_pages(world: World) -> None:
    """It is all encrypted anyway; whoever has the passphrase shall not find it either."""
    alder = world["alder"]
    service, canary = alder.service(), "canary-5e1f-of-a-draft"
    service.create_draft(incident("stays"))
    draft = service.create_draft(incident(canary))["id"]
    _, cases = alder.core.opened()
    assert canary.encode() in opened_pages(alder)
    service.release(draft, to=["birch"], annex_to=None, carriers=[], separately=False, digest=None)
    with cases.transaction():
        cases._connection.execute("UPDATE incidents SET face = NULL")
    assert canary.encode() not in opened_pages(alder)
    assert b"stays" in opened_pages(alder)


def opened_pages(station: Station) -> bytes:
    """Return the pages of case.db in clear, free ones too, as whoever has the key can make them.

    SQLCipher 4: AES-256-CBC; a page ends with its IV (16) and its HMAC (64), the first begins with
    a salt (16).
    """
    _, cases = station.core.opened()
    cases.wipe()
    key = suite.derive(station.vault.storage, "case-db")
    data, found = station.home.case_db.read_bytes(), []
    for at in range(0, len(data), _PAGE):
        page = data[at : at + _PAGE]
        start = 0 if at else 16
        opener = Cipher(algorithms.AES(key), modes.CBC(page[-80:-64])).decryptor()
        found.append(opener.update(page[start:-80]) + opener.finalize())
    return b"".join(found)


def test_the_status_asks_for_the_recovery_sheet_as_long_as_it_is_on_the_machine(
    world: World,
) -> None:
    alder = world["alder"]
    assert "recovery-sheet" not in alder.notices()
    alder.home.recovery_sheet.write_text("codes")
    assert "recovery-sheet" in alder.notices()
    alder.core.locking.lock(By.OPERATOR)
    assert "recovery-sheet" in alder.notices(), "a lock is no reason to forget it"
    alder.home.recovery_sheet.unlink()
    assert "recovery-sheet" not in alder.notices()


# --- the documents ---------------------------------------------------------------------------
def test_the_drop_in_hands_over_the_credential_under_the_name_that_the_node_looks_for() -> None:
    text = (ROOT / "docs" / "operating.md").read_text(encoding="utf-8")
    found = re.findall(r"^```systemd\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    (drop_in,) = (each for each in found if "LoadCredentialEncrypted=" in each)
    lines = [line for line in drop_in.splitlines() if line]
    name, _, path = lines[2].removeprefix("LoadCredentialEncrypted=").partition(":")
    assert lines[:2] == ["[Service]", "LoadCredential="], "an empty one takes the other away"
    assert name == CREDENTIAL
    assert f"systemd-creds encrypt --name={CREDENTIAL} - {path}" in text
