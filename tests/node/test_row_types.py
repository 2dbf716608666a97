"""Values that this node never writes: found in every column, named in one line, never a traceback.

Each column gets nothing, another type, another length and a time that is none.
"""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Final

import pytest

from node.api import dispatch
from node.calls import Request
from node.cli.main import main
from node.row_types import ALL, LAST_MS, SMALL, Column, Table, check, check_steps
from node.store import Store
from node.verifying import Verification
from protocol.errors import LogCorruptionError, PicketError
from tests.node.factories import PASSPHRASE, World, copied, incident_id, made_once
from tests.node.test_verifying import gallery  # noqa: F401  a fixture
from tests.node.test_witnessing import BEAT
from tests.node.wiring import Web

UNVERIFIED: Final = 5
COLUMNS: Final = tuple((table, column) for table in ALL for column in table.columns)
IDS: Final = [f"{table.name}.{column.name}" for table, column in COLUMNS]
_OTHER: Final[dict[str, tuple[object, ...]]] = {
    "text": (b"\x00", b"name"), "integer": ("many", b"\x01", 0.5), "blob": ("text", 7),
}  # fmt: skip


def loosen(path: Path) -> None:
    """Take from the tables what keeps another type out, as whoever edits the file can."""
    with closing(sqlite3.connect(path)) as database:
        database.execute("PRAGMA writable_schema = ON")
        database.execute("UPDATE sqlite_schema SET sql = replace(sql, 'STRICT', '')")
        database.commit()


def right(column: Column) -> object:
    if column.type == "blob":
        return bytes(column.size or 8)
    return "a" if column.type == "text" else 1


def row(table: Table) -> dict[str, object]:
    """Return a row that is right, as far as types go."""
    values = {each.name: right(each) for each in table.columns}
    return values | {"lot": None} if table.name == "receipts" else values


def wrong(column: Column) -> Iterator[tuple[object, str]]:
    """Yield values that may not stand in a column, and what is said of them."""
    if not column.may_be_null:
        yield None, "nothing"
    for value in _OTHER[column.type]:
        yield value, "in place of"
    if column.size is not None:
        for size in (0, 1, column.size - 1, column.size + 1):
            yield bytes(size), f"{size} bytes in place of {column.size}"
    if column.latest is not None:
        for at in (-1, column.latest + 1, 2**63 - 1):
            yield at, "a time that is none"


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    """Make a database that has one row in each table, and takes any type in each column."""
    path = tmp_path_factory.mktemp("plain") / "node.db"
    Store(path, create=True).close()
    loosen(path)
    with closing(Store(path)) as store:
        with store.transaction():
            for table in ALL:
                store.insert(table.name, row(table))
        check(store)
        yield store


@contextmanager
def changed(store: Store, table: Table, column: Column, value: object) -> Iterator[None]:
    """Let *value* stand in a column of all rows while the block runs."""
    with pytest.raises(ZeroDivisionError), store.transaction():
        store.run(f"UPDATE OR REPLACE {table.name} SET {column.name} = ?", value)
        yield
        raise ZeroDivisionError


# --- every column of every table ---------------------------------------------------------------
@pytest.mark.parametrize(("table", "column"), COLUMNS, ids=IDS)
def test_what_may_not_stand_in_a_column_is_named(
    plain: Store, table: Table, column: Column
) -> None:
    is_rowid = column.type == "integer" and table.key == (column.name,)
    for value, said in wrong(column):
        if is_rowid:
            continue  # SQLite itself takes nothing but a number
        with changed(plain, table, column, value):
            with pytest.raises(LogCorruptionError) as caught:
                check(plain)
            message = caught.value.message
            assert f"table {table.name}, row " in message
            assert message.endswith(f"in the column {column.name}")
            assert said in message
            assert "backup" in caught.value.fix
    if column.may_be_null and (table.name, column.name) != ("receipts", "frame"):
        with changed(plain, table, column, None):
            check(plain)


def test_a_receipt_stands_by_itself_or_in_a_lot(plain: Store) -> None:
    for what in ("frame = NULL, lot = NULL", "frame = x'00', lot = zeroblob(32)"):
        with pytest.raises(LogCorruptionError, match="table receipts"), plain.transaction():
            plain.run(f"UPDATE receipts SET {what}")
            check(plain)


@pytest.mark.parametrize("name", ["node_id", "network", "incarnation"])
def test_what_this_node_is_has_its_length(plain: Store, name: str) -> None:
    said = f"key {name}.* in the column value"
    with pytest.raises(LogCorruptionError, match=said), plain.transaction():
        plain.set_meta(name, b"\xc1")
        check(plain, SMALL)


@pytest.mark.parametrize(
    ("data", "whole"),
    [
        (b"Zoll-\xc3\x84mter", True), (b"\xff", False), (b"ok\xff", False), (b"ok\x00\xff", False),
        (b"\xed\xa0\x80", False), (b"", True),
    ],
)  # fmt: skip
def test_text_has_to_be_utf_8(plain: Store, data: bytes, whole: bool) -> None:
    with pytest.raises(ZeroDivisionError), plain.transaction():
        plain.run("UPDATE peers SET name = CAST(? AS TEXT)", data)
        if whole:
            check(plain)
        else:
            with pytest.raises(LogCorruptionError, match="not UTF-8 in the column name"):
                check(plain)
        raise ZeroDivisionError


def test_what_names_the_row_cannot_move_the_cursor(plain: Store) -> None:
    with pytest.raises(LogCorruptionError) as caught, plain.transaction():
        plain.run("UPDATE witnessed SET origin = 'a' || char(27) || '[2Jb', note = NULL")
        check(plain)
    assert caught.value.message.isprintable()
    assert "origin a [2Jb" in caught.value.message


def test_a_table_that_grows_meanwhile_is_read_as_far_as_it_went(plain: Store) -> None:
    entries = next(table for table in ALL if table.name == "entries")
    one = row(entries)
    with pytest.raises(ZeroDivisionError), plain.transaction():
        plain.insert_all("entries", [{**one, "idx": index} for index in range(2, 5_000)])
        steps = 0
        for steps, _ in enumerate(check_steps(plain, entries), start=1):
            plain.insert("entries", {**one, "idx": 5_000 + steps})
        assert steps == 3
        plain.run("UPDATE entries SET local = NULL WHERE idx = 4321")
        with pytest.raises(LogCorruptionError, match="row 4321"):
            check(plain)
        raise ZeroDivisionError


# --- a node --------------------------------------------------------------------------------------
def test_what_a_node_writes_is_right(gallery: World) -> None:  # noqa: F811
    held = set()
    for station in gallery:
        check(station.core.store)
        held |= {t.name for t in ALL if station.core.store.scalar(f"SELECT 1 FROM {t.name}")}
    assert len(held) > len(ALL) // 2


@pytest.mark.parametrize(
    ("table", "column"), [pair for pair in COLUMNS if pair[1].may_be_null],
    ids=[name for name, pair in zip(IDS, COLUMNS, strict=True) if pair[1].may_be_null],
)  # fmt: skip
def test_where_nothing_may_stand_it_is_harmless_or_named(
    gallery: World,  # noqa: F811
    table: Table,
    column: Column,
) -> None:
    birch = gallery["birch"]
    service = birch.service()
    with changed(birch.core.store, table, column, None):
        for act in (
            Verification(birch.core, since=False).run, service.status, service.logs.standing,
        ):  # fmt: skip
            try:
                act()
            except PicketError as error:
                assert error.message.isprintable()


# What the finding had: where a traceback came, by the command that showed it.
FOUND: Final[tuple[tuple[str, str, object], ...]] = (
    *(("log verify", name, None) for name in (
        "entries.entry", "entries.local", "entries.local_blind", "statements.wire",
        "receipt_lots.frame", "anchors.note", "checkpoints.note", "cosigned.note",
        "witnessed.note", "cosignatures.signature", "cosignatures.time_s", "peers.name")),
    *((command, name, None) for name in ("statements.wire", "peers.name")
      for command in ("status", "log watch --once", "incidents deliveries")),
    *((command, "peers.node_id", b"\xc1")
      for command in ("log verify", "status", "log watch --once", "incidents deliveries")),
    ("status", "peers.last_contact", 2**63 - 1),
    ("status", "peers.last_contact", LAST_MS + 1),
    # Not looked at on opening: the call that meets it says what it is.
    ("incidents deliveries", "outbox.settled_at", 2**63 - 1),
)  # fmt: skip


@pytest.fixture(scope="module")
def traded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make the home of a node that sent and received, and has damaged tables to come."""
    folder = tmp_path_factory.mktemp("traded")
    with copied(made_once(tmp_path_factory), folder) as world:
        alder, birch, cedar, _ = world
        web = Web(alder, birch, cedar)
        web.link("alder", "birch", "cedar")
        alder.release(1, birch)
        birch.release(2, alder)
        web.run(2 * BEAT)
        for name in ("birch", "cedar"):
            web.stop(name)
        birch.open()
        alder.release(3, birch)
    secret = folder / "alder" / "passphrase"
    secret.write_bytes(PASSPHRASE)
    secret.chmod(0o600)
    loosen(folder / "alder" / "node.db")
    return folder / "alder"


def run(
    home: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, command: str
) -> tuple[int, list[str]]:
    """Run a command as the program does; return its exit code and what it says went wrong."""
    monkeypatch.setenv("PICKET_KEYSTORE__PASSPHRASE_FILE", str(home / "passphrase"))
    monkeypatch.setattr("sys.argv", ["picket", "--home", str(home), *command.split()])
    try:
        main()
    except SystemExit as done:
        code = done.code
    else:
        code = 0
    assert isinstance(code, int)
    return code, capsys.readouterr().err.splitlines()


@pytest.mark.parametrize(
    "found", FOUND, ids=[f"{command} {column} {value}" for command, column, value in FOUND]
)
def test_a_command_names_it_in_one_line(
    traded: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch, found: tuple[str, str, object],
) -> None:  # fmt: skip
    command, column, value = found
    home = tmp_path / "alder"
    shutil.copytree(traded, home)
    if command.startswith("incidents deliveries"):
        command = f"{command} {incident_id(1)}"
    table, name = column.split(".")
    with closing(sqlite3.connect(home / "node.db")) as database:
        done = database.execute(f"UPDATE OR REPLACE {table} SET {name} = ?", (value,))
        if not done.rowcount:
            values = list((row(next(t for t in ALL if t.name == table)) | {name: value}).values())
            marks = ", ".join("?" * len(values))
            database.execute(f"INSERT INTO {table} VALUES ({marks})", values)
        database.commit()
    code, lines = run(home, capsys, monkeypatch, command)
    assert code == UNVERIFIED, lines
    assert lines[0] == "The log does NOT verify." or len(lines) == 1
    assert lines[-1].startswith(f"picket: node.db is damaged: table {table}, row ")
    assert f"in the column {name}. restore node.db" in lines[-1]


def test_a_whole_node_answers_all_of_these(
    traded: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    home = tmp_path / "alder"
    shutil.copytree(traded, home)
    for command in dict.fromkeys(command for command, _, _ in FOUND):
        more = f" {incident_id(1)}" if command.startswith("incidents deliveries") else ""
        code, lines = run(home, capsys, monkeypatch, command + more)
        assert code == 0, lines


def test_a_running_node_names_it_too_and_other_faults_stay_what_they_are(
    tmp_path_factory: pytest.TempPathFactory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with copied(made_once(tmp_path_factory), tmp_path) as world:
        alder, birch = world["alder"], world["birch"]
        alder.release(1, birch)
        service = alder.service()
        path = f"/api/v1/incidents/{incident_id(1)}/deliveries"
        request = Request("GET", path, operator=True)
        assert dispatch(service, request).status == 200
        with monkeypatch.context() as patch, pytest.raises(TypeError, match="a fault of ours"):
            patch.setattr("node.api._dispatch", _faulty)
            dispatch(service, request)
        with alder.core.store.transaction():
            alder.core.store.run("UPDATE outbox SET settled_at = ?", LAST_MS + 1)
        with pytest.raises(LogCorruptionError, match="a time that is none in the column settled"):
            dispatch(service, request)


def _faulty(*_: object) -> None:
    raise TypeError("a fault of ours")
