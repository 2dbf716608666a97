"""Exports of the log: that they stand alone, are continued, and leave other folders alone."""

from __future__ import annotations

import base64
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Final

import pytest

from node.app import open_service
from node.client import Client
from node.export import Exported, export_log
from node.service import Service
from protocol.entry import EntryKind, parse_entry
from protocol.errors import ConflictError, ProofError, RollbackError
from tests.node.log_reader import Keys, Reader, widths
from tests.node.small_logs import ask, grow, make_home

ROOT: Final = Path(__file__).parents[2]
PATIENCE_S: Final = 20.0
SIZES: Final = (5, 300, 70_000)


# --- logs ------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def born(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The home of a node whose log has one entry."""
    return make_home(tmp_path_factory.mktemp("born") / "alder")


@pytest.fixture
def service(born: Path, tmp_path: Path) -> Iterator[Service]:
    with open_service(shutil.copytree(born, tmp_path / "n")) as opened:
        yield opened


@pytest.fixture
def other(born: Path, tmp_path: Path) -> Iterator[Service]:
    """Another node's service."""
    with open_service(make_home(tmp_path / "other", "Birch")) as opened:
        yield opened


def keys_of(service: Service) -> Keys:
    log = service.core.card.log
    return Keys(log.name, log.ed25519, log.mldsa44)


class Source:
    """The log of an open node, by way of its routes; may be told to fail or to lie."""

    def __init__(self, service: Service) -> None:
        self.service = service
        self.asked: list[str] = []
        self.fails_after: int | None = None
        self.lies: dict[str, Callable[[bytes], bytes]] = {}

    def file(self, path: str) -> bytes:
        if self.fails_after is not None and len(self.asked) >= self.fails_after:
            raise KeyboardInterrupt
        self.asked.append(path)
        response = ask(self.service, "GET", f"/api/v1/log/{path}")
        assert response.status == 200, (path, response.body)
        return self.lies.get(path, bytes)(response.body)

    def begin(self, *, entries: bool) -> bytes:
        body = json.dumps({"entries": entries}).encode()
        response = ask(self.service, "POST", "/api/v1/log/export", body)
        assert response.status == 200, response.body
        return str(json.loads(response.body)["checkpoint"]).encode()


def export(service: Service, folder: Path, *, entries: bool = True) -> Exported:
    return export_log(folder, Source(service), entries=entries)


def kept(folder: Path) -> dict[str, bytes]:
    return {
        file.relative_to(folder).as_posix(): file.read_bytes()
        for file in folder.rglob("*")
        if file.is_file()
    }


# --- exports that stand alone ----------------------------------------------------------------
@pytest.mark.parametrize("size", SIZES)
def test_an_export_verifies_without_this_program(
    service: Service, tmp_path: Path, size: int
) -> None:
    grow(service, size - 1)  # the export itself is the last entry
    folder = tmp_path / "out"
    done = export(service, folder)
    found = Reader(folder).verify(keys_of(service), entries=True)
    assert (done.origin, done.size, len(found)) == (keys_of(service).origin, size, size)
    assert done.files == done.new == len(kept(folder))
    assert parse_entry(found[-1]).kind is EntryKind.ACCESS


def test_an_export_has_the_files_that_the_specification_names(
    service: Service, tmp_path: Path
) -> None:
    grow(service, 69_999)
    export(service, tmp_path / "out", entries=False)
    assert widths(tmp_path / "out", "0") == [273, 112]
    assert widths(tmp_path / "out", "1") == [1, 17]
    assert widths(tmp_path / "out", "2") == [0, 1]
    assert {file.name for file in (tmp_path / "out/tile").iterdir()} == {"0", "1", "2"}
    sizes = {p: len(d) for p, d in kept(tmp_path / "out").items() if p.startswith("tile/0/")}
    assert sizes.pop("tile/0/273.p/112") == 112 * 32
    assert set(sizes.values()) == {8_192}


def test_a_log_of_exactly_one_tile_has_a_partial_tile_above(
    service: Service, tmp_path: Path
) -> None:
    grow(service, 255)
    export(service, tmp_path / "out", entries=False)
    Reader(tmp_path / "out").verify(keys_of(service), entries=False)
    assert set(kept(tmp_path / "out")) == {"checkpoint", "tile/0/000", "tile/1/000.p/1"}


def test_entries_are_exported_only_when_asked_for(service: Service, tmp_path: Path) -> None:
    grow(service, 299)
    export(service, tmp_path / "out", entries=False)
    Reader(tmp_path / "out").verify(keys_of(service), entries=False)
    assert not (tmp_path / "out/tile/entries").exists()


def test_the_reader_notices_what_is_changed(service: Service, tmp_path: Path) -> None:
    """The tests above can fail."""
    grow(service, 299)
    export(service, tmp_path / "out")
    for path in ("tile/0/000", "tile/0/001.p/44", "tile/1/000.p/1", "tile/entries/000",
                 "checkpoint"):  # fmt: skip
        file = tmp_path / "out" / path
        data = file.read_bytes()
        file.write_bytes(data[:20] + bytes([data[20] ^ 1]) + data[21:])
        with pytest.raises(Exception):  # noqa: B017  whatever the reader stumbles over
            Reader(tmp_path / "out").verify(keys_of(service), entries=True)
        file.write_bytes(data)
    Reader(tmp_path / "out").verify(keys_of(service), entries=True)


def test_each_export_is_an_entry_that_the_exported_checkpoint_covers(
    service: Service, tmp_path: Path
) -> None:
    before = service.core.log.size
    export(service, tmp_path / "out")
    entry = parse_entry(Reader(tmp_path / "out").entries(before + 1)[before])
    assert entry.kind is EntryKind.ACCESS
    local = service.core.store.scalar("SELECT local FROM entries WHERE idx = ?", before)
    assert b"operator" in local
    assert service.log_verify()["ok"]


# --- continuing ------------------------------------------------------------------------------
def test_an_export_is_continued_with_new_files_only(service: Service, tmp_path: Path) -> None:
    folder = tmp_path / "out"
    grow(service, 599)
    export(service, folder)
    old = kept(folder)
    grow(service, 799)
    source = Source(service)
    done = export_log(folder, source, entries=True)
    Reader(folder).verify(keys_of(service), entries=True)
    assert (done.size, done.files, done.new) == (800, 10, 6)
    full = {"tile/0/000", "tile/0/001", "tile/entries/000", "tile/entries/001"}
    assert full <= set(old)
    assert not full & set(source.asked)
    assert "tile/0/002.p/88" in old  # the reader above saw that it is gone
    assert all(old[path] == data for path, data in kept(folder).items() if path in full)


def test_an_export_can_be_repeated_and_gain_entries(service: Service, tmp_path: Path) -> None:
    grow(service, 255)
    for entries in (False, False, True, True):
        export(service, tmp_path / "out", entries=entries)
        Reader(tmp_path / "out").verify(keys_of(service), entries=entries)


@pytest.mark.parametrize("steps", [0, 1, 2, 3, 4, 6, 9, 11])
def test_an_export_that_was_cut_off_leaves_the_old_one_whole_and_is_continued(
    service: Service, tmp_path: Path, steps: int
) -> None:
    folder = tmp_path / "out"
    grow(service, 299)
    export(service, folder)
    old = kept(folder)
    grow(service, 1_100)
    source = Source(service)
    source.fails_after = steps
    with pytest.raises(KeyboardInterrupt):
        export_log(folder, source, entries=True)
    assert old.items() <= kept(folder).items()
    export(service, folder)
    Reader(folder).verify(keys_of(service), entries=True)


@pytest.mark.parametrize("steps", [1, 2, 5])
def test_a_first_export_that_was_cut_off_is_continued(
    service: Service, tmp_path: Path, steps: int
) -> None:
    grow(service, 700)
    source = Source(service)
    source.fails_after = steps
    with pytest.raises(KeyboardInterrupt):
        export_log(tmp_path / "out", source, entries=True)
    assert not (tmp_path / "out/checkpoint").exists()
    export(service, tmp_path / "out")
    Reader(tmp_path / "out").verify(keys_of(service), entries=True)


@pytest.mark.parametrize("path", ["tile/0/000", "tile/entries/000", "tile/0/001", "tile/1/000.p/2"])
@pytest.mark.parametrize("harm", ["changed", "cut", "empty", "missing"])
def test_a_damaged_file_of_an_earlier_export_is_fetched_again(
    service: Service, tmp_path: Path, path: str, harm: str
) -> None:
    grow(service, 599)
    export(service, tmp_path / "out")
    file = tmp_path / "out" / path
    data = file.read_bytes()
    if harm == "missing":
        file.unlink()
    else:
        file.write_bytes({"changed": b"\0" + data[1:], "cut": data[:-1], "empty": b""}[harm])
    (tmp_path / "out/tile/0/000.new").write_bytes(b"half")
    export(service, tmp_path / "out")
    Reader(tmp_path / "out").verify(keys_of(service), entries=True)


@pytest.mark.parametrize(
    ("path", "named"),
    [
        ("checkpoint", "checkpoint"),
        ("tile/0/000", "tile/0/000"),
        ("tile/0/001", "tile/0/001"),
        ("tile/0/002.p/89", "checkpoint"),  # the partial tiles are checked together
        ("tile/1/000.p/2", "checkpoint"),
        ("tile/entries/001", "tile/entries/001"),
        ("tile/entries/002.p/89", "tile/entries/002.p/89"),
    ],
)
def test_a_node_whose_files_do_not_verify_makes_no_export(
    service: Service, tmp_path: Path, path: str, named: str
) -> None:
    grow(service, 600)
    source = Source(service)
    if path == "checkpoint":
        good = source.begin(entries=True)
        wrong = good.replace(good.split(b"\n")[2], base64.b64encode(bytes(32)))
        source.begin = lambda *, entries: wrong  # type: ignore[method-assign]
    else:
        source.lies[path] = lambda data: data[:40] + bytes([data[40] ^ 1]) + data[41:]
    with pytest.raises(ProofError, match=f"^{re.escape(named)} .* does not verify"):
        export_log(tmp_path / "out", source, entries=True)
    assert not (tmp_path / "out/checkpoint").exists()


# --- folders that are left as they are -------------------------------------------------------
def refuses(
    service: Service, folder: Path, error: type[Exception], match: str, *, entries: bool = False
) -> None:
    before = kept(folder)
    with pytest.raises(error, match=match):
        export(service, folder, entries=entries)
    assert kept(folder) == before


def test_an_export_of_another_log_is_left_alone(
    service: Service, other: Service, tmp_path: Path
) -> None:
    export(other, tmp_path / "out", entries=False)
    refuses(service, tmp_path / "out", ConflictError, "holds the log picket.invalid/")


def test_a_larger_export_of_this_log_is_left_alone(
    service: Service, born: Path, tmp_path: Path
) -> None:
    grow(service, 299)
    export(service, tmp_path / "out", entries=False)
    with open_service(shutil.copytree(born, tmp_path / "old")) as old:
        refuses(old, tmp_path / "out", RollbackError, "holds 300 entries")


@pytest.mark.parametrize("sizes", [(5, 5), (5, 300), (300, 301), (256, 700), (257, 1_000)])
def test_an_export_of_another_history_is_left_alone(
    service: Service, born: Path, tmp_path: Path, sizes: tuple[int, int]
) -> None:
    grow(service, sizes[0] - 1)
    export(service, tmp_path / "out", entries=False)
    with open_service(shutil.copytree(born, tmp_path / "twin")) as twin:
        grow(twin, sizes[1])
        refuses(twin, tmp_path / "out", ProofError, "holds another history")
        assert service.core.log.origin == twin.core.log.origin
        assert twin.core.log.size == sizes[1]  # what is refused is not logged


def test_an_export_with_entries_is_not_left_half_continued(
    service: Service, tmp_path: Path
) -> None:
    export(service, tmp_path / "out", entries=True)
    refuses(service, tmp_path / "out", ConflictError, "is an export with entries")


@pytest.mark.parametrize("names", [["letter.txt"], ["tile/0/000"], ["checkpoint"], [".checkpoint"]])
def test_a_folder_that_holds_something_else_is_left_alone(
    service: Service, tmp_path: Path, names: list[str]
) -> None:
    for each in names:
        (tmp_path / "out" / each).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "out" / each).write_text("mine")
    refuses(service, tmp_path / "out", ConflictError, "out")


# --- the command -----------------------------------------------------------------------------
def picket(home: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "node", "--home", str(home), *arguments], cwd=ROOT,
        stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60.0, check=False,
        env={k: v for k, v in os.environ.items() if not k.startswith("PICKET_")},
    )  # fmt: skip


@contextmanager
def running(home: Path) -> Iterator[None]:
    """Run the node in *home*, locked."""
    with ExitStack() as stack:
        process = subprocess.Popen(
            [sys.executable, "-m", "node", "--home", str(home), "--no-input", "run"], cwd=ROOT,
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip

        def stop() -> None:
            process.send_signal(signal.SIGTERM)
            assert process.wait(PATIENCE_S) == 0

        stack.callback(stop)
        client = Client(home)
        while not client.running():
            assert process.poll() is None
        yield


@pytest.mark.parametrize("runs", [True, False], ids=["running", "stopped"])
def test_the_command_exports_and_continues(born: Path, tmp_path: Path, *, runs: bool) -> None:
    home, folder = shutil.copytree(born, tmp_path / "n"), tmp_path / "deep" / "out"
    with open_service(home) as service:
        keys = keys_of(service)
        grow(service, 299)
    with ExitStack() as stack:
        if runs:
            stack.enter_context(running(home))
        done = picket(home, "log", "export", str(folder))
        assert (done.returncode, done.stderr) == (0, "")
        said = f"Written to {folder}: a log of 300 entries in 4 files, 4 of them new.\n"
        assert done.stdout == said
        Reader(folder).verify(keys, entries=False)
        again = picket(home, "log", "export", str(folder), "--entries", "--json")
        seen = json.loads(again.stdout)
        assert (seen["size"], seen["files"], seen["new"], seen["entries"]) == (301, 6, 5, True)
        Reader(folder).verify(keys, entries=True)
        refused = picket(home, "log", "export", str(folder))
        assert refused.returncode == 4
        assert "give --entries" in refused.stderr
        (tmp_path / "mine").write_text("x")
        assert picket(home, "log", "export", str(tmp_path / "mine")).returncode == 1
    assert picket(home, "log", "verify").returncode == 0
    assert (folder.stat().st_mode & 0o777, (folder / "checkpoint").stat().st_mode & 0o777) == (
        0o700, 0o600,
    )  # fmt: skip
