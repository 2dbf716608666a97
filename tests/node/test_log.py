"""The log: whatever is changed, moved or lost in node.db, opening or verifying it says so."""

from __future__ import annotations

import shutil
import signal
import sqlite3
import subprocess
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any, Final, NoReturn, TypeAlias

import pytest
from typing_extensions import override

from keys.identity import load_service
from node.fence import Fence
from node.home import Home
from node.log import Act, Log
from node.log_check import _other_process
from node.store import Store
from protocol import merkle, suite
from protocol.checkpoint import Checkpoint, sign_checkpoint
from protocol.entry import EntryKind, local_digest, make_entry
from protocol.errors import BusyError, LogCorruptionError, RollbackError, StoreError
from protocol.receipt import verify_receipts
from tests.node.factories import (
    MINUTE,
    Station,
    World,
    copied,
    made_once,
    pass_on,
    seep,
)

Rows: TypeAlias = list[tuple[int, dict[str, object]]]
CAUGHT: Final = (StoreError, RollbackError)
CHECKED: Final = (
    "entries", "tiles", "checkpoints", "envelopes", "receipts", "receipt_lots", "statements",
)  # fmt: skip
# What only this node ever needs and nothing commits to: they may change without a lie to anybody.
FREE: Final = {("receipts", "at"), ("receipts", "relayed"), ("checkpoints", "at")}


@pytest.fixture
def world(tmp_path_factory: pytest.TempPathFactory, tmp_path: Path) -> Iterator[World]:
    with copied(made_once(tmp_path_factory), tmp_path) as opened:
        yield opened


@dataclass
class Museum:
    """The home of a closed node whose tables all hold something, and how to open it."""

    world: World
    alder: Station

    def tables(self) -> dict[str, Rows]:
        """Return (rowid, row) of each checked table."""
        with closing(sqlite3.connect(self.alder.home.node_db)) as database:
            database.row_factory = sqlite3.Row
            return {
                name: [
                    (row["rowid_"], {k: row[k] for k in row.keys() if k != "rowid_"})  # noqa: SIM118
                    for row in database.execute(
                        f"SELECT rowid AS rowid_, * FROM {name} ORDER BY rowid"
                    )
                ]
                for name in CHECKED
            }

    @contextmanager
    def damaged(
        self, folder: Path, damage: Callable[[sqlite3.Connection], object]
    ) -> Iterator[Station]:
        """Damage a copy of node.db and return a closed node that has it."""
        copy = folder / self.alder.name
        copy.mkdir()
        for file in (self.alder.home.node_db, self.alder.home.fence, self.alder.home.service_key):
            shutil.copy(file, copy)
        with closing(sqlite3.connect(copy / "node.db", isolation_level=None)) as database:
            damage(database)
        station = Station(Home(copy), self.alder.secrets, self.alder.clock, self.alder.random)
        try:
            yield station
        finally:
            station.close()


@pytest.fixture(scope="module")
def museum(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Museum]:
    """Make a node that has released, received, carried, receipted and met newer cards."""
    with copied(made_once(tmp_path_factory), tmp_path_factory.mktemp("museum")) as world:
        alder, birch, cedar, dogwood = (world[n] for n in ("alder", "birch", "cedar", "dogwood"))
        for number in (1, 2):
            alder.release(number, birch, cedar)
            birch.release(10 + number, alder)
            pass_on(alder, birch)
            pass_on(alder, cedar)
            pass_on(birch, alder)
        birch.release(20, cedar, carriers=[alder])
        seep(birch, alder, cedar)
        alder.release(3, birch, carriers=[dogwood])
        seep(alder, dogwood, birch)
        world.clock.advance(MINUTE)
        birch.renew_card(contact="another desk")
        alder.core.take_statements(birch.id, birch.core.statements_of(birch.id, 2))
        alder.renew_card(contact="a third desk")
        for peer, numbers in ((birch, (4, 5, 6)), (cedar, (7, 8))):
            for number in numbers:
                alder.release(number, peer)
            peer.core.take_statements(alder.id, alder.core.statements_of(alder.id, 2))
            pass_on(alder, peer)  # more than one, which is receipted in bulk
        alder.release(9, birch)
        alder.close()
        yield Museum(world, alder)


def cells(table: str, rows: Rows) -> list[tuple[str, int, object]]:
    """Return (column, rowid, value) of every cell of *rows* that something vouches for."""
    return [
        (column, rowid, value)
        for rowid, row in dict(rows).items()
        for column, value in row.items()
        if value is not None and (table, column) not in FREE
    ]


def change(value: object, how: str) -> object:
    """Return another value of the same type."""
    if isinstance(value, bytes):
        at = {"first": 0, "middle": len(value) // 2, "last": -1}[how]
        changed = bytearray(value)
        changed[at] ^= 1
        return bytes(changed)
    if isinstance(value, str):
        return value[:-1] + chr(ord(value[-1]) ^ 1)
    assert isinstance(value, int)
    return value + {"first": 1, "middle": 1 << 20, "last": -1}[how]


def verdict(station: Station) -> str:
    """Open and verify; return what was noticed ("" if nothing was)."""
    try:
        station.open(locked=True)
        station.core.verify()
    except CAUGHT as error:
        return error.code
    return ""


def in_time(seconds: int, act: Callable[[], str]) -> str:
    """Return the result of *act*, which must not go on for ever."""

    def late(signum: int, frame: FrameType | None) -> NoReturn:
        raise AssertionError(f"it went on for {seconds} s")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(seconds)
    try:
        return act()
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


# --- changed -----------------------------------------------------------------------------------
def test_the_museum_is_whole_and_has_something_in_each_table(
    museum: Museum, tmp_path: Path
) -> None:
    with museum.damaged(tmp_path, lambda database: None) as station:
        assert verdict(station) == ""
    for table, rows in museum.tables().items():
        assert len(rows) > 1 or table == "tiles", table


@pytest.mark.parametrize("how", ["first", "middle", "last"])
@pytest.mark.parametrize("table", CHECKED)
def test_a_changed_byte_in_any_column_of_any_row_is_noticed(
    museum: Museum, tmp_path: Path, table: str, how: str
) -> None:
    rows = museum.tables()[table]
    rows = rows[:2] + rows[len(rows) // 2 : len(rows) // 2 + 1] + rows[-2:]
    silent = []
    for count, (column, rowid, value) in enumerate(cells(table, rows)):

        def damage(
            database: sqlite3.Connection,
            column: str = column,
            rowid: int = rowid,
            value: object = value,
        ) -> None:
            database.execute(
                f"UPDATE OR REPLACE {table} SET {column} = ? WHERE rowid = ?",
                (change(value, how), rowid),
            )

        folder = tmp_path / str(count)
        folder.mkdir()
        with museum.damaged(folder, damage) as station:
            if not in_time(20, lambda station=station: verdict(station)):  # type: ignore[misc]
                silent.append(f"{column} of row {rowid}")
        shutil.rmtree(folder)
    assert silent == []


@pytest.mark.parametrize("table", [name for name in CHECKED if name != "checkpoints"])
def test_a_lost_row_is_noticed(museum: Museum, tmp_path: Path, table: str) -> None:
    rows = museum.tables()[table]
    silent = []
    for rowid, row in rows:
        folder = tmp_path / str(rowid)
        folder.mkdir()

        def damage(database: sqlite3.Connection, rowid: int = rowid) -> None:
            database.execute(f"DELETE FROM {table} WHERE rowid = ?", (rowid,))

        with museum.damaged(folder, damage) as station:
            if not verdict(station):
                silent.append({k: v for k, v in row.items() if isinstance(v, int | str)})
    assert silent == []


@pytest.mark.parametrize(
    ("table", "column"),
    [
        ("entries", "entry"), ("entries", "local"), ("checkpoints", "note"),
        ("envelopes", "wire"), ("envelopes", "log_index"), ("receipts", "frame"),
        ("receipts", "lot"), ("receipt_lots", "frame"), ("envelopes", "prev"),
        ("receipts", "log_index"), ("statements", "wire"),
        ("envelopes", "part"), ("envelopes", "seq"), ("envelopes", "author"),
        ("envelopes", "expires"), ("envelopes", "opener"),
    ],
)  # fmt: skip
def test_two_rows_that_changed_places_are_noticed(
    museum: Museum, tmp_path: Path, table: str, column: str
) -> None:
    rows = museum.tables()[table]
    one, other = next(
        (a, b)
        for i, (a, row) in enumerate(rows)
        for b, later in rows[i + 1 :]
        if None not in {row[column], later[column]} and row[column] != later[column]
    )
    values = {rowid: row[column] for rowid, row in rows}

    def damage(database: sqlite3.Connection) -> None:
        database.execute("DROP INDEX envelopes_log")
        for rowid, value in ((one, values[other]), (other, values[one])):
            database.execute(
                f"UPDATE OR IGNORE {table} SET {column} = ? WHERE rowid = ?", (value, rowid)
            )

    with museum.damaged(tmp_path, damage) as station:
        assert verdict(station)


@pytest.mark.parametrize(
    "sql",
    [
        "INSERT INTO envelopes SELECT zeroblob(32), author, incarnation, stream, seq, prev, "
        "opener, expires, part, giver, arrived, 3, wire FROM envelopes LIMIT 1",
        "INSERT INTO receipts SELECT envelope_id, zeroblob(32), kind, log_index, tree_size, frame, "
        "lot, at, relayed FROM receipts LIMIT 1",
        "UPDATE tiles SET data = CAST(data || zeroblob(32) AS BLOB)",
        "INSERT INTO tiles SELECT 1, 0, data FROM tiles",
        "UPDATE tiles SET data = substr(data, 1, length(data) - 32)",
        "UPDATE tiles SET data = x''",
        "DELETE FROM checkpoints",
        "DELETE FROM statements",
        "DELETE FROM entries",
        "UPDATE entries SET idx = 1099511627776 WHERE idx = (SELECT max(idx) FROM entries)",
        "UPDATE entries SET idx = -1 WHERE idx = 0",
        "UPDATE peers SET level = 'owner'",
        "UPDATE peers SET level = 'frozen' WHERE rowid = (SELECT min(rowid) FROM peers)",
        "UPDATE peers SET name = 'elder' WHERE name = 'dogwood'",
        "DELETE FROM peers WHERE rowid = (SELECT min(rowid) FROM peers)",
        "UPDATE peers SET method = NULL, verified_by = NULL",
        "UPDATE meta SET value = zeroblob(32) WHERE key = 'network'",
        "UPDATE meta SET value = zeroblob(32) WHERE key = 'node_id'",
        "DELETE FROM meta",
    ],
)
def test_other_damage_is_noticed(museum: Museum, tmp_path: Path, sql: str) -> None:
    def damage(database: sqlite3.Connection) -> None:
        assert database.execute(sql).rowcount > 0

    with museum.damaged(tmp_path, damage) as station:
        assert in_time(20, lambda: verdict(station))


# --- growing -----------------------------------------------------------------------------------
@pytest.fixture
def bare(world: World) -> Iterator[tuple[Store, Log]]:
    """Return a store and a log over it, without the rest of a node."""
    alder = world["alder"]
    keys, origin = alder.core.keys, alder.core.log.origin
    yield (
        alder.core.store,
        Log(alder.core.store, keys=keys, origin=origin, random=alder.random, node_id=alder.id),
    )


def grow(store: Store, log: Log, count: int) -> None:
    acts = [Act(EntryKind.HEARTBEAT, suite.digest("beat", str(n).encode())) for n in range(count)]
    with store.transaction():
        log.append(acts)
        log.seal(1_790_000_000_000)
        log.keep()


@pytest.mark.parametrize("steps", [(249, 1, 1, 255, 2), (500, 13)])
def test_the_tree_is_the_same_however_it_grew(
    bare: tuple[Store, Log], steps: tuple[int, ...]
) -> None:
    store, log = bare
    for step in steps:
        grow(store, log, step)
        entries = store.rows("SELECT entry FROM entries ORDER BY idx")
        leaves = [merkle.leaf_hash(row["entry"]) for row in entries]
        assert log.root() == mth(leaves)
        assert log.verify() == log.size == len(leaves)


def mth(leaves: list[bytes]) -> bytes:
    """Return the tree head as RFC 6962 section 2.1 defines it."""
    if len(leaves) == 1:
        return leaves[0]
    half = 1 << ((len(leaves) - 1).bit_length() - 1)
    return merkle.node_hash(mth(leaves[:half]), mth(leaves[half:]))


@pytest.mark.parametrize("column", ["level", "idx"])
@pytest.mark.parametrize("level", [0, 1, 2])
def test_a_changed_hash_on_any_level_of_a_large_tree_is_noticed(
    bare: tuple[Store, Log], level: int, column: str
) -> None:
    store, log = bare
    grow(store, log, 66_000)
    keys = store.rows("SELECT idx, data FROM tiles WHERE level = ? ORDER BY idx", level)
    for row in (keys[0], keys[-1]):
        data = bytearray(row["data"])
        data[-1 if column == "idx" else 0] ^= 1
        with pytest.raises(LogCorruptionError), store.transaction():
            store.run(
                "UPDATE tiles SET data = ? WHERE level = ? AND idx = ?",
                bytes(data), level, row["idx"],
            )  # fmt: skip
            log.verify()


def test_old_checkpoints_go_and_the_log_still_verifies(bare: tuple[Store, Log]) -> None:
    store, log = bare
    for _ in range(70):
        grow(store, log, 1)
    sizes = [row["size"] for row in store.rows("SELECT size FROM checkpoints ORDER BY size")]
    assert len(sizes) == 64
    assert sizes[-1] == log.size == log.checkpoint()[0]
    assert log.verify() == log.size


def test_a_newest_signature_lost_in_a_crash_is_given_again_over_the_same_head(
    world: World,
) -> None:
    alder, birch = world["alder"], world["birch"]
    alder.release(1, birch)
    alder.core.seal()
    size, root = alder.core.log.signed_size, alder.core.log.root()
    with alder.core.store.transaction():
        alder.core.log.keep()
    alder.close()
    with closing(sqlite3.connect(alder.home.node_db)) as database:
        assert database.execute("DELETE FROM checkpoints WHERE size = ?", (size,)).rowcount == 1
        database.commit()
    alder.open()
    assert (alder.core.log.signed_size, alder.core.log.root()) == (size, root)
    assert alder.core.verify()["entries"] == size


def test_a_signature_is_never_given_over_entries_that_differ_from_the_fence(
    museum: Museum, tmp_path: Path
) -> None:
    def damage(database: sqlite3.Connection) -> None:
        newest = "(SELECT max(size) FROM checkpoints)"
        database.execute(f"DELETE FROM checkpoints WHERE size = {newest}")
        (data,) = database.execute("SELECT data FROM tiles WHERE level = 0 AND idx = 0").fetchone()
        database.execute(
            "UPDATE tiles SET data = ? WHERE level = 0 AND idx = 0", (change(data, "last"),)
        )

    with museum.damaged(tmp_path, damage) as station:
        assert verdict(station) == LogCorruptionError.code


def test_progress_is_told_after_each_tile_and_at_the_end(bare: tuple[Store, Log]) -> None:
    store, log = bare
    grow(store, log, 600 - log.size)
    told: list[int] = []
    log.verify(told.append)
    assert told == [256, 512, 600]


def test_the_memory_for_proofs_is_bounded_without_an_append(
    bare: tuple[Store, Log], monkeypatch: pytest.MonkeyPatch
) -> None:
    store, log = bare
    grow(store, log, 5_000)
    monkeypatch.setattr("node.log._MEMO_MAX", 64)
    leaves = [merkle.leaf_hash(log.entry(index)) for index in range(log.size)]
    for index in range(0, log.size, 7):
        merkle.verify_inclusion(
            index=index, size=log.size, leaf=leaves[index], proof=log.prove(index, log.size),
            root=mth(leaves),
        )  # fmt: skip
        assert len(log._memo) < 128


@pytest.mark.parametrize(
    ("sql", "said"),
    [
        ("UPDATE entries SET entry = CAST(entry || x'00' AS BLOB) WHERE idx = 300",
         "entry 300 of the log is damaged"),
        ("UPDATE entries SET entry = CAST(x'94' || substr(entry, 2) AS BLOB) WHERE idx = 300",
         "entry 300 of the log is damaged"),
        ("UPDATE entries SET kind = 256 WHERE idx = 300",
         "the record beside log entry 300 was changed"),
        ("UPDATE entries SET kind = 1 WHERE idx = 300",
         "the record beside log entry 300 was changed"),
        ("UPDATE entries SET local_blind = zeroblob(16) WHERE idx = 300",
         "the record beside log entry 300 was changed"),
        # The same bytes in all, with another border between blind and local.
        ("UPDATE entries SET local = CAST(substr(local_blind, 16) || local AS BLOB), "
         "local_blind = substr(local_blind, 1, 15) WHERE idx = 300",
         "the record beside log entry 300 was changed"),
        ("DELETE FROM entries WHERE idx = 300", "entry 300 of the log is missing"),
        ("DELETE FROM entries WHERE idx >= 600", "entry 600 of the log is missing"),
        ("INSERT INTO entries SELECT 5000, kind, entry, local, local_blind FROM entries "
         "WHERE idx = 3", "there are more"),
        ("INSERT INTO entries SELECT -1, kind, entry, local, local_blind FROM entries "
         "WHERE idx = 3", "before its first one"),
        # Of two entries that are whole in themselves, each in the place of the other.
        ("UPDATE entries SET idx = CASE idx WHEN 300 THEN -301 WHEN 301 THEN -300 ELSE idx END; "
         "UPDATE entries SET idx = -idx WHERE idx < 0", "tile 0/1 differs"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_named_in_a_log_of_many_tiles(
    bare: tuple[Store, Log], sql: str, said: str
) -> None:
    store, log = bare
    grow(store, log, 700 - log.size)
    assert log.size == log.verify() == 700
    with pytest.raises(LogCorruptionError, match=said), store.transaction():
        for statement in sql.split("; "):
            assert store.run(statement) > 0
        log.verify()


@pytest.mark.parametrize("size", [255, 256, 257, 511, 512, 513, 65_535, 65_536, 65_537])
def test_every_kept_checkpoint_is_compared_wherever_it_ends(
    bare: tuple[Store, Log], size: int
) -> None:
    store, log = bare
    grow(store, log, size - log.size)
    grow(store, log, 300)
    assert log.verify() == log.size
    other = Checkpoint(log.origin, size, bytes(32))
    keys = log._keys
    note = sign_checkpoint(
        other, ed25519=keys.log_ed25519, mldsa44=keys.log_mldsa44, now_s=1_790_000_000
    )
    with (
        pytest.raises(LogCorruptionError, match=f"checkpoint of size {size}$"),
        store.transaction(),
    ):
        assert store.run("UPDATE checkpoints SET note = ? WHERE size = ?", note, size) == 1
        log.verify()


def test_a_log_rewritten_as_a_whole_differs_from_what_was_signed(
    bare: tuple[Store, Log],
) -> None:
    store, log = bare
    grow(store, log, 700 - log.size)
    log.prove(300, 700)  # the hashes of the true tree are in memory
    rows = store.rows("SELECT * FROM entries ORDER BY idx")
    local, blind = b"\x90", b"n" * 16
    forged = make_entry(
        EntryKind.HEARTBEAT, bytes(32), local_commitment=local_digest(local, blind), blind=blind
    )
    entries = [row["entry"] for row in rows]
    entries[300] = forged
    tiles = merkle.grow(size=0, new_leaves=merkle.leaf_hashes(entries), reader=log._tiles)
    with store.transaction():
        store.run(
            "UPDATE entries SET kind = ?, entry = ?, local = ?, local_blind = ? WHERE idx = 300",
            int(EntryKind.HEARTBEAT), forged, local, blind,
        )  # fmt: skip
        for level, index, data in tiles:
            store.run("UPDATE tiles SET data = ? WHERE level = ? AND idx = ?", data, level, index)
    with pytest.raises(LogCorruptionError, match="differs from its checkpoint of size 700"):
        log.verify()


@pytest.fixture(scope="module")
def long_log(
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[tuple[Store, Log]]:
    """Return a log of so many entries that two processes may check it, which is slow to make."""
    with copied(made_once(tmp_path_factory), tmp_path_factory.mktemp("long")) as world:
        alder = world["alder"]
        keys, origin = alder.core.keys, alder.core.log.origin
        store = alder.core.store
        log = Log(store, keys=keys, origin=origin, random=alder.random, node_id=alder.id)
        grow(store, log, 131_372 - log.size)
        yield store, log


@pytest.mark.parametrize(
    ("do", "undo", "said"),
    [
        ("SELECT 1", "SELECT 1", ""),
        *[
            (f"UPDATE entries SET kind = kind + 1 WHERE idx = {index}",
             f"UPDATE entries SET kind = kind - 1 WHERE idx = {index}",
             f"the record beside log entry {index} was changed")
            for index in (0, 65_535, 65_536, 131_071, 131_072, 131_371)
        ],
        *[
            (f"UPDATE entries SET idx = 9999999 WHERE idx = {index}",
             f"UPDATE entries SET idx = {index} WHERE idx = 9999999",
             f"entry {index} of the log is missing")
            for index in (65_535, 65_536, 131_371)
        ],
        *[
            (f"UPDATE tiles SET level = 9 WHERE level = {level} AND idx = {index}",
             f"UPDATE tiles SET level = {level} WHERE level = 9", f"tile {level}/{index} differs")
            for level, index in ((0, 0), (0, 255), (0, 256), (0, 513), (1, 0), (1, 1), (1, 2),
                                 (2, 0))
        ],
        ("INSERT INTO tiles VALUES (3, 0, zeroblob(32))", "DELETE FROM tiles WHERE level = 3",
         "tiles that belong to no entry"),
    ],
)  # fmt: skip
def test_two_processes_find_what_one_finds(
    long_log: tuple[Store, Log], monkeypatch: pytest.MonkeyPatch, do: str, undo: str, said: str
) -> None:
    store, log = long_log
    monkeypatch.setattr("node.log_check.os.sched_getaffinity", lambda _: {0, 1})
    started: list[Path] = []

    def start(path: Path, first: int, end: int) -> subprocess.Popen[str]:
        started.append(path)
        assert (first, end) == (131_072, log.size)
        return _other_process(path, first, end)

    monkeypatch.setattr("node.log_check._other_process", start)
    with store.transaction():
        store.run(do)
    try:
        for shared_from in (10_000_000, 131_072):
            monkeypatch.setattr("node.log_check._SHARED_FROM", shared_from)
            if not said:
                assert log.verify() == log.size
                continue
            with pytest.raises(LogCorruptionError, match=said):
                log.verify()
        assert started == [store.path]
    finally:
        with store.transaction():
            store.run(undo)


def test_every_entry_can_be_proven_to_a_peer(world: World) -> None:
    alder, birch = world["alder"], world["birch"]
    keys = [birch.release(number, alder) for number in range(1, 6)]
    pass_on(birch, alder)
    indexes = {
        row["id"]: row["log_index"] for row in alder.core.store.rows("SELECT * FROM envelopes")
    }
    receipts = alder.core.log.receipts([(key, indexes[key]) for key in keys])
    verified = verify_receipts(receipts, log=birch.core.trust.peer(alder.id).card.log)
    assert [item.envelope_id for item in verified] == keys
    assert {item.checkpoint.size for item in verified} == {alder.core.log.size}


def test_no_two_leaves_are_alike_and_none_can_be_guessed(world: World) -> None:
    """Two nodes that log the same envelope commit to it differently, and so does each its local."""
    alder, birch, cedar = world["alder"], world["birch"], world["cedar"]
    key = alder.release(1, birch, cedar)
    pass_on(alder, birch)
    pass_on(alder, cedar)
    entries = set()
    for station in (alder, birch, cedar):
        row = station.core.store.envelope(key)
        assert row is not None
        entries.add(station.core.log.entry(row["log_index"]))
        locals_ = station.core.store.rows("SELECT local_blind FROM entries")
        assert len({r["local_blind"] for r in locals_}) == len(locals_)
    assert len(entries) == 3


def test_a_new_log_opens_with_the_size_that_the_fence_remembers(museum: Museum) -> None:
    fence = Fence(museum.alder.home.fence)
    with closing(Store(museum.alder.home.node_db)) as store:
        keys = load_service(dict(service_seeds(museum)))
        log = Log(store, keys=keys, origin="x", random=bytes, node_id=bytes(32))
        assert fence.last() == (log.size, log.root())
    fence.close()


def service_seeds(museum: Museum) -> dict[str, bytes]:
    from tests.node.factories import _bytes_map

    return _bytes_map(museum.alder.home.service_key)


def test_the_write_ahead_log_has_its_full_length_from_the_start(tmp_path: Path) -> None:
    with closing(Store(tmp_path / "node.db", create=True)) as store:
        wal = tmp_path / "node.db-wal"
        before = wal.stat().st_size
        assert before >= 4 * 1024 * 1024
        assert (tmp_path / "node.db").stat().st_size < 1024 * 1024
        assert store.meta("reserve") is None
        with store.transaction():
            store.set_meta("network", bytes(32))
        assert wal.stat().st_size == before
    again = sqlite3.connect(tmp_path / "node.db")
    with closing(again):
        assert again.execute("SELECT key FROM meta").fetchall() == [("network",)]
        assert again.execute("PRAGMA integrity_check").fetchall() == [("ok",)]


class FullAtCommit(sqlite3.Connection):
    """A disk that has no room when the transaction ends, and a SQLite that undoes it by itself."""

    full = False

    @override
    def execute(self, sql: str, parameters: Any = (), /) -> sqlite3.Cursor:
        if sql == "COMMIT" and self.full:
            super().execute("ROLLBACK")
            error = sqlite3.OperationalError("database or disk is full")
            error.sqlite_errorcode = sqlite3.SQLITE_FULL
            raise error
        return super().execute(sql, parameters)


def test_a_disk_that_is_full_at_the_commit_is_busy_and_nothing_was_changed(tmp_path: Path) -> None:
    path = tmp_path / "node.db"
    Store(path, create=True).close()
    connection = sqlite3.connect(path, isolation_level=None, factory=FullAtCommit)
    with closing(Store(path, connection=connection)) as store:
        connection.full = True
        with pytest.raises(BusyError), store.transaction():
            store.set_meta("network", bytes(32))
        connection.full = False
        assert store.meta("network") is None
        with store.transaction():
            store.set_meta("network", bytes(32))
