"""Backups: one moment of a node that goes on, one file, and what is wrong with one that is not."""

from __future__ import annotations

import json
import os
import resource
import sqlite3
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any, Final

import pytest

from keys.paper import PaperCode, make_codes
from node import backup
from node.api import dispatch
from node.app import open_core, unlock
from node.backup import NOTICE_MS, backup_act, listed
from node.backup_file import About, BackupWriter, fresh_codes, read_backup
from node.backup_making import Secret, about_of, files_of, make_backup, seal
from node.blobs import BlobStore
from node.calls import Request, Response
from node.casebook import Casebook
from node.config import load_config
from node.home import Home
from node.locking import By, Lease
from node.restore import restore, verify
from node.service import Network, Service
from protocol.entry import EntryKind
from protocol.errors import (
    BackupError,
    BusyError,
    ConfigError,
    ConflictError,
    LockedError,
    NotFoundError,
    RequestError,
)
from tests.node.factories import PASSPHRASE, Station, World, copied, incident_id, made_once

Row = dict[str, Any]
NETWORK: Final = "test.example"
LATER: Final = 2_000_000_000_000


@pytest.fixture
def world(tmp_path_factory: pytest.TempPathFactory, tmp_path: Path) -> Iterator[World]:
    with copied(made_once(tmp_path_factory), tmp_path) as opened:
        for station in opened:
            station.core.blobs = BlobStore(station.home.attachments, quota=2**30, min_free=0)
        yield opened


def quiet(what: str, done: int, total: int) -> None:
    """Show nobody how far it is."""


def begun(station: Station, *, attachments: bool = True) -> Row:
    """Begin a backup and return what the node says of it; it may still be copying."""
    row = station.core.backups.begin(who="operator", attachments=attachments)
    return {**row, "network": NETWORK}


def copied_whole(station: Station, row: Row) -> Row:
    """Wait for the copying to end; return what the node says then."""
    snapshot = station.core.backups._snapshot
    assert snapshot is not None
    assert snapshot.thread is not None
    snapshot.thread.join()
    return {**row, **station.core.backups.state(row["id"])}


def sealed(
    station: Station, path: Path, *, halves: bool = False, row: Row | None = None, **facts: object
) -> tuple[PaperCode, ...]:
    """Write a backup of an open node to *path*; return the codes of its sheets."""
    row = copied_whole(station, begun(station) if row is None else row)
    made_of = Secret(*fresh_codes(os.urandom, halves=halves))
    files = files_of(station.home, station.home.path / row["folder"])
    about = replace(about_of(row), **facts)  # type: ignore[arg-type]
    contents = seal(files, path, about, made_of, quiet)
    station.core.backups.made(
        row["id"], manifest=contents.manifest, size=path.stat().st_size, who="operator"
    )
    return made_of.codes


@contextmanager
def opened_home(path: Path, *, locked: bool = False) -> Iterator[Any]:
    """Open a restored home as a command does."""
    home = Home(path)
    config = load_config(home)

    class Still:
        def now(self) -> int:
            return LATER

        def monotonic(self) -> int:
            return 0

    with open_core(home, config, Still()) as core:
        if not locked:
            assert unlock(core, config, lambda: PASSPHRASE)
        yield core


def leftovers(station: Station) -> list[Path]:
    return list(station.home.path.glob(".backup-*"))


# --- one moment --------------------------------------------------------------------------------
def test_the_snapshot_is_one_moment_of_a_node_that_goes_on(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    alder, birch = world["alder"], world["birch"]
    goes_on, copy = threading.Event(), backup._copy

    def held(*arguments: Any) -> None:  # noqa: ANN401  passed on as they are
        assert goes_on.wait(60)
        copy(*arguments)

    monkeypatch.setattr(backup, "_copy", held)
    for number in range(1, 6):
        alder.release(number, birch)
    row = begun(alder)
    size = alder.core.log.size
    for number in range(6, 30):  # before the first page is copied
        alder.release(number, birch)
    goes_on.set()
    codes = sealed(alder, tmp_path / "file", row=row)
    report = verify(tmp_path / "file", codes, PASSPHRASE)
    assert report.entries == report.about.log_size == size < alder.core.log.size
    assert report.passphrase_opens is True
    assert report.peers == (("birch", "share"), ("cedar", "share"), ("dogwood", "share"))

    restore(tmp_path / "file", codes, tmp_path / "new", now=LATER)
    with opened_home(tmp_path / "new") as core:
        _, cases = core.opened()
        shown = {r["incident_id"] for r in cases.incidents(after=0, limit=500, own=None)}
        assert shown == {incident_id(number) for number in range(1, 6)}
        assert cases.next_index == core.log.size == size
        assert core.log.verify() == size
    assert alder.core.verify()["entries"] == alder.core.log.size


def test_the_copy_of_case_db_never_follows_a_longer_log(world: World) -> None:
    alder, birch = world["alder"], world["birch"]
    for number in range(1, 12):
        alder.release(number, birch)
        row = copied_whole(alder, begun(alder))
        folder = alder.home.path / row["folder"]
        with closing(sqlite3.connect(folder / "node.db")) as database:
            entries = database.execute("SELECT count(*) FROM entries").fetchone()[0]
        with closing(Casebook(folder / "case.db", alder.vault.storage)) as cases:
            assert cases.next_index <= entries == row["log_size"]
            own = cases.incidents(after=0, limit=500, own=True)
        assert len(own) <= number
    assert len(leftovers(alder)) == 1  # each takes the place of the one before


def test_a_locked_node_is_backed_up_with_its_closed_case_db(world: World, tmp_path: Path) -> None:
    alder, birch = world["alder"], world["birch"]
    alder.release(1, birch)
    assert alder.core.locking.lock(By.OPERATOR)
    codes = sealed(alder, tmp_path / "file")
    restore(tmp_path / "file", codes, tmp_path / "new", now=LATER)
    with opened_home(tmp_path / "new") as core:
        assert core.opened()[1].incident(incident_id(1))["own"]


def test_a_lock_ends_the_copying_of_what_the_keys_opened(world: World) -> None:
    alder = world["alder"]
    lease = Lease(alder.core.locking)
    row = begun(alder)
    copied_whole(alder, row)
    assert alder.core.locking.lock(By.OPERATOR)
    with pytest.raises(LockedError):
        lease.check()
    # What the thread meets is told to whoever asks, and nothing is left.
    snapshot = alder.core.backups._snapshot
    assert snapshot is not None
    snapshot.error = LockedError("the node was locked before this was done")
    with pytest.raises(LockedError):
        alder.core.backups.state(row["id"])
    assert leftovers(alder) == []


def test_attachments_are_part_of_it_unless_they_are_left_out(world: World, tmp_path: Path) -> None:
    alder = world["alder"]
    blobs = alder.core.blobs
    assert blobs is not None
    with blobs.writer(100_000) as writer:
        writer.write(bytes(100_000))
        ref = writer.finish()
    alder.service().enclosures.upload(ref.sha256.hex()).keep(ref)
    (name,) = [path.name for path in alder.home.attachments.iterdir()]
    codes = sealed(alder, tmp_path / "with")
    report = restore(tmp_path / "with", codes, tmp_path / "new", now=LATER)
    assert f"attachments/{name}" in {item.name for item in report.contents.items}
    kept = (tmp_path / "new" / "attachments" / name).read_bytes()
    assert kept == (alder.home.attachments / name).read_bytes()

    row = copied_whole(alder, begun(alder, attachments=False))
    assert list(listed(alder.home.path / row["folder"])) == []
    # One that is deleted after the snapshot is left out, and harms nothing.
    row = copied_whole(alder, begun(alder))
    blobs.delete(ref.id)
    codes = sealed(alder, tmp_path / "without", row=row)
    assert verify(tmp_path / "without", codes).contents.item(f"attachments/{name}") is None


def test_what_a_backup_does_not_hold(world: World, tmp_path: Path) -> None:
    alder = world["alder"]
    alder.home.recovery_sheet.write_text("the codes of the safe")
    (alder.home.path / "passphrase").write_text("secret")
    codes = sealed(alder, tmp_path / "file")
    names = {item.name for item in verify(tmp_path / "file", codes).contents.items}
    assert names == {
        "picket.toml", "keystore", "service.key", "tls.pem", "fence", "node.db", "case.db",
    }  # fmt: skip
    # Neither the code nor what stands in the files is readable in the file.
    raw = (tmp_path / "file").read_bytes()
    assert codes[0].share not in raw
    assert alder.home.service_key.read_bytes()[:64] not in raw
    assert b"SQLite format" not in raw


# --- acts and notices --------------------------------------------------------------------------
def test_that_it_was_begun_stands_in_the_backup_and_that_it_was_made_in_the_log(
    world: World, tmp_path: Path
) -> None:
    alder = world["alder"]
    codes = sealed(alder, tmp_path / "file")
    report = verify(tmp_path / "file", codes)
    assert alder.kinds()[-2:] == [EntryKind.BACKUP, EntryKind.BACKUP]
    made = alder.core.backups.last()
    assert made is not None
    assert made.manifest == report.contents.manifest
    (local,) = alder.core.store.tuples("SELECT local FROM entries ORDER BY idx DESC LIMIT 1")[0]
    assert report.contents.manifest in local
    assert codes[0].share not in local
    act = backup_act(
        "made", report.about.backup_id, alder.clock.now(), "operator", made.manifest,
        (tmp_path / "file").stat().st_size,
    )  # fmt: skip
    assert alder.core.log.entry(alder.core.log.size - 1).find(act.subject) > 0
    assert alder.core.verify()
    assert leftovers(alder) == []


def test_the_status_says_how_old_the_newest_backup_is(world: World, tmp_path: Path) -> None:
    alder = world["alder"]
    assert alder.service().status()["backup"] == {"last": None, "days": None}
    assert "backup-old" not in alder.notices()
    sealed(alder, tmp_path / "file")
    assert alder.service().status()["backup"]["days"] == 0
    alder.clock.advance(NOTICE_MS - 1)
    assert "backup-old" not in alder.notices()
    alder.clock.advance(1)
    assert "30 days old" in alder.notices()["backup-old"]
    assert "no backup of this node was ever made" in world["birch"].notices()["backup-old"]


def test_a_file_that_never_came_about_is_no_backup(world: World) -> None:
    alder = world["alder"]
    row = copied_whole(alder, begun(alder))
    alder.core.backups.cancel(row["id"])
    assert leftovers(alder) == []
    assert alder.core.backups.last() is None
    for act in (alder.core.backups.state, alder.core.backups.cancel):
        with pytest.raises(NotFoundError):
            act(row["id"])


def test_what_a_crash_left_of_a_snapshot_is_deleted_at_the_start(world: World) -> None:
    alder = world["alder"]
    copied_whole(alder, begun(alder))
    left = leftovers(alder)[0]
    kept = left.with_name("kept")
    left.rename(kept)
    alder.close()
    kept.rename(left)
    alder.open()
    assert leftovers(alder) == []


def test_a_node_that_has_just_started_is_not_backed_up_yet(world: World) -> None:
    alder = world["alder"]
    alder.core.signing_waits = True
    with pytest.raises(BusyError, match="just started"):
        begun(alder)
    assert leftovers(alder) == []


def test_one_backup_at_a_time(world: World) -> None:
    alder = world["alder"]
    row = begun(alder)
    snapshot = alder.core.backups._snapshot
    assert snapshot is not None
    before, snapshot.thread = snapshot.thread, _Alive()  # type: ignore[assignment]
    with pytest.raises(ConflictError, match="made already"):
        begun(alder)
    snapshot.thread = before
    assert copied_whole(alder, row)["copying"] is False


class _Alive:
    def is_alive(self) -> bool:
        return True


# --- routes ------------------------------------------------------------------------------------
def ask(service: Service, method: str, path: str, body: Row | None = None) -> Response:
    data = b"" if body is None else json.dumps(body).encode()
    return dispatch(service, Request(method, f"/api/v1{path}", body=data, operator=True))


def test_the_routes_take_what_they_are_said_to_take(world: World) -> None:
    alder = world["alder"]
    service = Service(
        alder.core, config=load_config(alder.home), clock=alder.clock, random=alder.random,
        network=Network(running=True),
    )  # fmt: skip
    response = ask(service, "POST", "/backups", {"attachments": False})
    row = json.loads(response.body)
    assert response.status == 200
    assert row["network"] == NETWORK
    own = f"/backups/{row['id']}"
    for body in ({}, {"manifest": "00"}, {"manifest": "zz" * 32, "size": 1},
                 {"manifest": "AB" * 32, "size": 1}, {"manifest": "00" * 32, "size": 0},
                 {"manifest": "00" * 32, "size": True}):  # fmt: skip
        assert ask(service, "POST", f"{own}/made", body).status == 400, body
    assert ask(service, "GET", own).status == 200
    assert ask(service, "DELETE", own).status == 200
    assert ask(service, "GET", own).status == 404
    assert ask(service, "GET", "/restored").status == 404
    assert ask(service, "POST", "/restored/go-on", {"by": "me"}).status == 409
    assert ask(service, "POST", "/restored/levels", {"by": "me"}).status == 409
    assert ask(service, "POST", "/restored/levels", {"by": " "}).status == 400


def test_a_whole_backup_of_a_node_that_does_not_run(world: World, tmp_path: Path) -> None:
    alder = world["alder"]
    alder.close()
    made_of = Secret(*fresh_codes(os.urandom, halves=True))
    told: list[About] = []
    contents = make_backup(
        alder.home, tmp_path / "file", made_of, attachments=True, keep_codes=told.append,
        draw=quiet,
    )  # fmt: skip
    assert told == [contents.about]
    assert verify(tmp_path / "file", made_of.codes).contents == contents
    assert leftovers(alder) == []
    alder.open()
    assert alder.core.backups.last() is not None


def test_no_snapshot_is_left_if_the_sheets_cannot_be_written(world: World, tmp_path: Path) -> None:
    alder = world["alder"]
    alder.close()

    def fails(about: About) -> None:
        raise ConfigError(f"no sheet for {about.authority}")

    made_of = Secret(*fresh_codes(os.urandom, halves=False))
    with pytest.raises(ConfigError, match="no sheet"):
        make_backup(
            alder.home, tmp_path / "file", made_of, attachments=True, keep_codes=fails, draw=quiet
        )
    assert leftovers(alder) == []
    assert not (tmp_path / "file").exists()
    alder.open()
    assert alder.core.backups.last() is None


# --- files that are not whole ------------------------------------------------------------------
@pytest.fixture
def made(world: World, tmp_path: Path) -> tuple[Path, tuple[PaperCode, ...]]:
    """A backup in two sheets."""
    alder = world["alder"]
    alder.release(1, world["birch"])
    return tmp_path / "file", sealed(alder, tmp_path / "file", halves=True)


def refused(path: Path, codes: tuple[PaperCode, ...], tmp_path: Path) -> str:
    """Check that nothing is made of a backup, nor left of it; return what is said."""
    temporary = tmp_path / "temporary"
    temporary.mkdir(exist_ok=True)
    before = tempfile.tempdir
    tempfile.tempdir = str(temporary)
    try:
        with pytest.raises((BackupError, RequestError)) as looked:
            verify(path, codes)
        with pytest.raises((BackupError, RequestError)):
            restore(path, codes, tmp_path / "target" / "new", now=LATER)
    finally:
        tempfile.tempdir = before
    assert list(temporary.iterdir()) == []
    assert list((tmp_path / "target").iterdir()) == []
    return looked.value.message


def test_every_changed_part_is_noticed(
    made: tuple[Path, tuple[PaperCode, ...]], tmp_path: Path
) -> None:
    path, codes = made
    whole = path.read_bytes()
    places = {0, 15, 16, 17, 48, 49, 80, len(whole) // 2, len(whole) - 17, len(whole) - 1}
    places |= set(range(100, len(whole), len(whole) // 25))
    broken = tmp_path / "broken"
    for place in sorted(places):
        broken.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        refused(broken, codes, tmp_path)
    for length in (0, 10, 48, 49, 60, len(whole) // 3, len(whole) - 16, len(whole) - 1):
        broken.write_bytes(whole[:length])
        refused(broken, codes, tmp_path)
    broken.write_bytes(whole + b"\0")
    refused(broken, codes, tmp_path)
    assert verify(path, codes).entries > 0


def test_wrong_and_swapped_sheets_are_named(
    world: World, made: tuple[Path, tuple[PaperCode, ...]], tmp_path: Path
) -> None:
    path, codes = made
    other = sealed(world["alder"], tmp_path / "other", halves=True)
    assert "of another backup" in refused(path, (codes[0], other[1]), tmp_path)
    assert "of another backup" in refused(path, other, tmp_path)
    assert "needs sheet 2 of 2" in refused(path, codes[:1], tmp_path)
    assert "needs sheet 2 of 2" in refused(path, (codes[0], codes[0]), tmp_path)
    salt = path.read_bytes()[17:49]
    guess = make_codes(bytes(20), salt, pad=bytes(20))
    assert "the code is wrong, or the file is damaged" in refused(path, guess, tmp_path)
    assert verify(path, codes[::-1]).entries > 0


def test_what_is_no_backup_is_named(
    made: tuple[Path, tuple[PaperCode, ...]], tmp_path: Path
) -> None:
    stranger = tmp_path / "stranger"
    stranger.write_bytes(b"PK" + bytes(100))
    assert "no backup of Picket" in refused(stranger, made[1], tmp_path)
    with pytest.raises(ConfigError, match="cannot be read"):
        verify(tmp_path / "absent", made[1])


@pytest.mark.parametrize(
    ("facts", "words"),
    [
        ({"network": "other.example"}, "of another node or network"),
        ({"node_id": bytes(32)}, "of another node or network"),
        ({"origin": "x/log"}, "of another node or log"),
        ({"statement": 77}, "other key statements"),
        ({"log_size": 1}, "another one than it says"),
        ({"log_root": bytes(32)}, "another one than it says"),
    ],
)
def test_a_backup_that_says_other_things_than_it_holds_is_refused(
    world: World, tmp_path: Path, facts: Row, words: str
) -> None:
    codes = sealed(world["alder"], tmp_path / "file", **facts)
    assert words in refused(tmp_path / "file", codes, tmp_path)


def test_files_of_two_nodes_in_one_backup_are_refused(world: World, tmp_path: Path) -> None:
    alder = world["alder"]
    row = copied_whole(alder, begun(alder))
    folder = alder.home.path / row["folder"]
    (folder / "service.key").write_bytes(world["birch"].home.service_key.read_bytes())
    codes = sealed(alder, tmp_path / "file", row=row)
    assert "does not hold together" in refused(tmp_path / "file", codes, tmp_path)


def test_a_log_that_was_changed_in_the_backup_is_refused(world: World, tmp_path: Path) -> None:
    alder = world["alder"]
    row = copied_whole(alder, begun(alder))
    copy = alder.home.path / row["folder"] / "node.db"
    with closing(sqlite3.connect(copy)) as database, database:
        database.execute("UPDATE entries SET local = x'90' WHERE idx = 1")
    codes = sealed(alder, tmp_path / "file", row=row)
    assert "does not hold together" in refused(tmp_path / "file", codes, tmp_path)


def stream(path: Path, about: About, write: Callable[[BackupWriter], None]) -> PaperCode:
    """Seal what no Picket would seal; return its code."""
    secret, salt, (code,) = fresh_codes(os.urandom, halves=False)
    with path.open("wb") as file:
        writer = BackupWriter(file, secret, salt, halves=False)
        write(writer)
        writer.finish(about)
    return code


ABOUT: Final = About(
    bytes(16), bytes(32), "Alder", "XA", NETWORK, 1, "a/log", 1, bytes(32), 1, "1", False
)


@pytest.mark.parametrize(
    "records",
    [
        [[1, "../../etc/passwd", 0], [2, bytes(32)]],
        [[1, "tls/../x.pem", 0], [2, bytes(32)]],
        [[1, "/etc/x", 0], [2, bytes(32)]],
        [[1, "lock", 0], [2, bytes(32)]],
        [[1, "fence", 0], [2, bytes(32)]],
        [[1, "fence", 0], [2, sha256().digest()]],
        [[1, "fence", 2**41], [2, bytes(32)]],
        [[2, bytes(32)]],
        [[7]],
        [[]],
        [],
    ],
)
def test_a_file_sealed_by_somebody_else_writes_nothing_elsewhere(
    tmp_path: Path, records: list[list[object]]
) -> None:
    def write(writer: BackupWriter) -> None:
        for record in records:
            writer._record(record)

    code = stream(tmp_path / "file", ABOUT, write)
    asked: list[str] = []

    def sink(item: object) -> None:
        asked.append(getattr(item, "name", ""))

    with pytest.raises(BackupError, match="not written by Picket"):
        read_backup(tmp_path / "file", [code], sink)
    assert set(asked) <= {"fence"}


def test_a_file_that_has_another_digest_than_is_said_is_named(tmp_path: Path) -> None:
    def write(writer: BackupWriter) -> None:
        writer._record([1, "fence", 3])
        writer._write(b"abc")
        writer._record([2, sha256(b"abd").digest()])

    code = stream(tmp_path / "file", ABOUT, write)
    with pytest.raises(BackupError, match="fence is not what was backed up"):
        read_backup(tmp_path / "file", [code], lambda _: None)


# --- places ------------------------------------------------------------------------------------
def test_nothing_is_overwritten(world: World, tmp_path: Path) -> None:
    alder = world["alder"]
    codes = sealed(alder, tmp_path / "file")
    before = (tmp_path / "file").read_bytes()
    with pytest.raises(ConflictError, match="exists"):
        sealed(alder, tmp_path / "file")
    assert (tmp_path / "file").read_bytes() == before
    for used in (alder.home.path, tmp_path / "file"):
        with pytest.raises(ConfigError, match="not empty"):
            restore(tmp_path / "file", codes, used, now=LATER)
    empty = tmp_path / "empty"
    empty.mkdir()
    restore(tmp_path / "file", codes, empty, now=LATER)
    assert empty.stat().st_mode & 0o777 == 0o700
    assert {path.stat().st_mode & 0o777 for path in empty.iterdir() if path.is_file()} == {0o600}


def test_a_full_disk_leaves_nothing_behind(world: World, tmp_path: Path) -> None:
    alder = world["alder"]
    codes = sealed(alder, tmp_path / "file")
    row = copied_whole(alder, begun(alder))
    made_of = Secret(*fresh_codes(os.urandom, halves=False))
    files = files_of(alder.home, alder.home.path / row["folder"])
    (tmp_path / "full").mkdir()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (64 * 1024, hard))
    try:
        with pytest.raises(BusyError, match="nothing was left there"):
            seal(files, tmp_path / "full" / "file", about_of(row), made_of, quiet)
        with pytest.raises(BusyError, match="nothing was left there"):
            restore(tmp_path / "file", codes, tmp_path / "target" / "new", now=LATER)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert list((tmp_path / "full").iterdir()) == []
    assert list((tmp_path / "target").iterdir()) == []


def test_a_place_that_cannot_be_written_is_named(world: World, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be written"):
        sealed(world["alder"], tmp_path / "absent" / "file")
