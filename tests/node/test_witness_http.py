"""The witness over HTTP, on real sockets: every answer of C2SP tlog-witness, and who may ask.

The logs that it is shown are trees that the test makes up and signs with the keys of a peer.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import shutil
import sqlite3
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

import pytest

from keys.identity import ServiceKeys
from keys.keystore import Argon2Params, load, save
from keys.trust import Level, Verification
from node.app import initialise, open_service
from node.home import Home
from node.service import SCOPES
from protocol import limits, merkle
from protocol.checkpoint import Checkpoint, parse_body, sign_checkpoint
from protocol.cosignatures import add_signatures, check_policy
from protocol.log_fork import parse_log_fork, verify_log_fork
from protocol.note import format_note, parse_note
from protocol.policy import make_policy
from protocol.statement import NamedKeys
from protocol.witness import AddCheckpoint, format_add_checkpoint, parse_signatures
from tests.node.test_server import PASSPHRASE, Answer, Running, problem_of, served

ADD: Final = "/api/v1/witness/add-checkpoint"
NOW_S: Final = 1_790_000_000
SIZE_TYPE: Final = "text/x.tlog.size"


@dataclass
class Tree:
    """A tree of any leaves, of which heads are signed with the keys of a log."""

    keys: ServiceKeys
    origin: str
    size: int
    twist: int = -1
    tiles: dict[tuple[int, int], bytes] = field(default_factory=dict)

    def __post_init__(self) -> None:
        leaves = [merkle.leaf_hash(b"%d" % n) for n in range(self.size)]
        if self.twist >= 0:
            leaves[self.twist] = merkle.leaf_hash(b"another")
        for level, index, data in merkle.grow(size=0, new_leaves=leaves, reader=self):
            self.tiles[level, index] = data

    def read_tiles(self, keys: Sequence[tuple[int, int]]) -> Mapping[tuple[int, int], bytes]:
        return {key: self.tiles[key] for key in keys}

    def note(self, size: int, root: bytes | None = None) -> bytes:
        value = root or (merkle.root(size, self) if size else merkle.EMPTY_ROOT)
        return sign_checkpoint(
            Checkpoint(self.origin, size, value),
            ed25519=self.keys.log_ed25519,
            mldsa44=self.keys.log_mldsa44,
            now_s=NOW_S,
        )

    def request(self, old: int, size: int) -> bytes:
        proof = merkle.prove_consistency(old, size, self) if old else ()
        return format_add_checkpoint(AddCheckpoint(old, proof, self.note(size)))


@dataclass(frozen=True)
class Made:
    """Homes of a witness and of a node that it trusts, and what a log of the latter signs with."""

    folder: Path
    keys: ServiceKeys
    log: NamedKeys
    witness: NamedKeys

    def tree(self, size: int, *, twist: int = -1) -> Tree:
        return Tree(self.keys, self.log.name, size, twist)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    folder = tmp_path_factory.mktemp("made")
    for name in ("alder", "birch"):
        values = {
            "node.authority": name.title(), "node.country": "XA", "node.network": "test.example",
            "node.contact": "duty desk",
        }  # fmt: skip
        initialise(folder / name, values, PASSPHRASE)
        keystore = Home(folder / name).keystore
        save(keystore, load(keystore, PASSPHRASE), PASSPHRASE, Argon2Params(19 * 1024, 1))
    with open_service(folder / "birch", lambda: PASSPHRASE) as birch:
        chain, keys, log = birch.core.trust.own, birch.core.keys, birch.core.card.log
    with open_service(folder / "alder", lambda: PASSPHRASE) as alder:
        alder.core.add_peer(chain, "birch")
        verification = Verification("voice", "test", 1)
        alder.core.approve_peer(chain.node_id, Level.SHARE, verification)
        witness = alder.core.card.witness
    return Made(folder, keys, log, witness)


@pytest.fixture
def home(made: Made, tmp_path: Path) -> Home:
    """The witness, on whose disk each test begins anew."""
    return Home(shutil.copytree(made.folder / "alder", tmp_path / "n"))


@contextlib.asynccontextmanager
async def working(home: Home) -> AsyncIterator[Running]:
    """Serve the node of *home* and let it work: a cosignature waits for its commit."""
    async with served(home) as running:
        await running.engine.start(None, 0)
        task = asyncio.create_task(running.engine.run())
        try:
            yield running
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


async def add(running: Running, body: bytes, *headers: str) -> Answer:
    return await running.ask("POST", ADD, *headers, body=body)


async def cosigned(running: Running, tree: Tree, old: int, size: int) -> bytes:
    """Have a head cosigned and return the note with the cosignatures on it."""
    answer = await add(running, tree.request(old, size))
    assert answer.status == 200, answer.body
    assert answer.headers["content-type"] == "text/plain; charset=utf-8"
    return add_signatures(tree.note(size), parse_signatures(answer.body))


def refused(answer: Answer, status: int, *words: str) -> None:
    """Check that a request was refused in one plain line that says why."""
    assert answer.status == status, answer.body
    assert answer.headers["content-type"].startswith("text/plain")
    text = answer.body.decode()
    assert text.endswith("\n")
    assert text.count("\n") == 1
    assert all(word in text for word in words), text


def recorded(home: Home) -> list[tuple[int, bytes]]:
    """Return size and root of every head that the witness remembers, as another process reads."""
    with contextlib.closing(sqlite3.connect(home.node_db)) as database:
        return database.execute("SELECT size, root FROM witnessed").fetchall()


def forks(home: Home) -> list[bytes]:
    with contextlib.closing(sqlite3.connect(home.node_db)) as database:
        return [row[0] for row in database.execute("SELECT proof FROM log_forks")]


# --- what is cosigned --------------------------------------------------------------------------
async def test_a_growing_log_is_cosigned_with_both_keys_and_each_head_is_on_disk_first(
    home: Home, made: Made
) -> None:
    tree = made.tree(700)
    policy = make_policy(made.log, [("alder", made.witness)], 1)
    async with working(home) as running:
        for old, size in ((0, 0), (0, 1), (1, 1), (1, 255), (255, 256), (256, 700), (700, 700)):
            note = await cosigned(running, tree, old, size)
            found = check_policy(note, policy)
            assert found.checkpoint == parse_body(parse_note(tree.note(size)).text)
            assert len(found.labels) == 2
            assert found.not_after is not None
            assert recorded(home) == [(size, found.checkpoint.root)]
    assert forks(home) == []


async def test_the_head_that_was_cosigned_last_can_be_fetched_by_the_hash_of_its_origin(
    home: Home, made: Made
) -> None:
    tree = made.tree(9)
    place = f"/api/v1/witness/{hashlib.sha256(made.log.name.encode()).hexdigest()}/checkpoint"
    policy = make_policy(made.log, [("alder", made.witness)], 1)
    async with working(home) as running:
        problem_of(await running.ask("GET", place), 404, "not-found")
        await cosigned(running, tree, 0, 5)
        await cosigned(running, tree, 5, 9)
        answer = await running.ask("GET", place)
        assert answer.status == 200
        assert answer.headers["content-type"] == "text/plain; charset=utf-8"
        assert answer.headers["cache-control"] == "no-cache"
        assert check_policy(answer.body, policy).checkpoint.size == 9
        digits = place.removeprefix("/api/v1/witness/").removesuffix("/checkpoint")
        other = digits[:-1] + ("1" if digits.endswith("0") else "0")
        for wrong in (place.upper(), place.replace("/checkpoint", ""),
                      f"/api/v1/witness/{other}/checkpoint",
                      f"/api/v1/witness/{digits.upper()}0/checkpoint",
                      f"/api/v1/witness/{'0' * 64}/checkpoint"):  # fmt: skip
            assert (await running.ask("GET", wrong)).status == 404


async def test_the_same_head_again_gets_a_newer_time(home: Home, made: Made) -> None:
    tree = made.tree(3)
    policy = make_policy(made.log, [("alder", made.witness)], 1)
    async with working(home) as running:
        first = check_policy(await cosigned(running, tree, 0, 3), policy).not_after
        again = check_policy(await cosigned(running, tree, 3, 3), policy).not_after
    assert first is not None
    assert again is not None
    assert again >= first


# --- what is refused ---------------------------------------------------------------------------
async def test_a_wrong_old_size_is_answered_with_the_right_one_and_nothing_else(
    home: Home, made: Made
) -> None:
    tree = made.tree(20)
    async with working(home) as running:
        answer = await add(running, tree.request(7, 20))
        assert (answer.status, answer.body) == (409, b"0\n"), "nothing was cosigned yet"
        await cosigned(running, tree, 0, 12)
        before = recorded(home)
        for old, size in ((0, 20), (11, 20), (13, 20), (3, 12), (0, 5), (5, 5)):
            answer = await add(running, tree.request(old, size))
            assert (answer.status, answer.body) == (409, b"12\n"), (old, size)
            # Clients compare the whole header: the specification knows no parameter here.
            assert answer.headers["content-type"] == SIZE_TYPE
        assert recorded(home) == before
        await cosigned(running, tree, 12, 20)
    assert forks(home) == []


async def test_a_log_that_is_not_trusted_is_not_found(home: Home, made: Made) -> None:
    tree = made.tree(3)
    async with working(home) as running:
        tree.origin = "elsewhere.example/log"
        refused(await add(running, tree.request(0, 3)), 404, "does not know")
        tree.origin = made.log.name
        core = running.service.core
        core.trust = core.trust.freeze(core.trust.find("birch").node_id)
        refused(await add(running, tree.request(0, 3)), 404, "does not know")
    assert recorded(home) == []


def _unsigned(note: bytes, made: Made) -> bytes:
    parsed = parse_note(note)
    return format_note(replace(parsed, text=parsed.text.replace("\n3\n", "\n2\n")))


def _one_key(note: bytes, made: Made) -> bytes:
    parsed = parse_note(note)
    return format_note(replace(parsed, signatures=parsed.signatures[:1]))


def _stranger(note: bytes, made: Made) -> bytes:
    with open_service(made.folder / "alder", lambda: PASSPHRASE) as alder:
        return Tree(alder.core.keys, made.log.name, 3).note(3)


def _bad_second(note: bytes, made: Made) -> bytes:
    parsed = parse_note(note)
    line = parsed.signatures[1]
    bad = replace(line, signature=line.signature[:-1] + bytes([line.signature[-1] ^ 1]))
    return format_note(replace(parsed, signatures=(parsed.signatures[0], bad)))


@pytest.mark.parametrize("spoil", [_unsigned, _one_key, _stranger, _bad_second])
async def test_a_head_without_good_signatures_of_its_log_is_forbidden(
    home: Home, made: Made, spoil: object
) -> None:
    assert callable(spoil)
    note = spoil(made.tree(3).note(3), made)
    async with working(home) as running:
        refused(await add(running, format_add_checkpoint(AddCheckpoint(0, (), note))), 403)
        assert recorded(home) == []
        await cosigned(running, made.tree(3), 0, 3)


@pytest.mark.parametrize(
    ("body", "word"),
    [
        (b"", "empty line"),
        (b"{}", "empty line"),
        (b"old 0\n\n", "checkpoint"),
        (b"old 00\n\n%s", "zeros"),
        (b"old -1\n\n%s", "zeros"),
        (b"old 1e3\n\n%s", "zeros"),
        (b"old \xd9\xa1\n\n%s", "zeros"),
        (b"old 99999999999999999999\n\n%s", "zeros"),
        (b"Old 0\n\n%s", "zeros"),
        (b"old 0 \n\n%s", "zeros"),
        (b"old 0\r\n\r\n%s", "zeros"),
        (b"old 0\n\n\n%s", "empty line"),
        (b"old 0\nAAAA\n\n%s", "32 bytes"),
        (b"old 0\n" + b"A" * 43 + b"\n\n%s", "base64"),
        (b"old 0\n" + b"\xff" * 44 + b"\n\n%s", "base64"),
        (b"old 0\n" + b"_" * 43 + b"=\n\n%s", "base64"),
        (b"old 0\n" + (base64.b64encode(bytes(32)) + b"\n") * 64 + b"\n%s", "63"),
        (b"old 0\n\nno note at all\n", "note"),
        (b"old 0\n\n\xff\xfe\n\n\xe2\x80\x94 x AAAA\n", "UTF-8"),
        (b"old 3\n\n%s", "larger"),
    ],
)
async def test_a_body_of_another_form_is_a_bad_request_that_says_what(
    home: Home, made: Made, body: bytes, word: str
) -> None:
    tree = made.tree(2)
    if b"%s" in body:
        body = body.replace(b"%s", tree.note(2))
    async with working(home) as running:
        refused(await add(running, body), 400, word)
        assert recorded(home) == []
        await cosigned(running, tree, 0, 2)


async def test_an_oversize_body_is_refused_before_and_after_it_is_whole(
    home: Home, made: Made
) -> None:
    tree = made.tree(2)
    long = tree.request(0, 2) + b"\xe2\x80\x94 x " + b"A" * limits.MAX_ADD_CHECKPOINT + b"\n"
    async with working(home) as running:
        refused(await add(running, long), 400, "longer")
        async with running.connected() as (reader, writer):
            head = [
                f"POST {ADD} HTTP/1.1", "Host: localhost", f"Authorization: Bearer {running.token}",
                "Content-Length: 99999999",
            ]  # fmt: skip
            writer.write("\r\n".join([*head, "", ""]).encode() + bytes(limits.MAX_REQUEST + 1))
            status = await reader.readline()
            assert b" 413 " in status
        assert recorded(home) == []
        await cosigned(running, tree, 0, 2)


async def test_what_does_not_follow_from_what_was_cosigned_is_not_processed(
    home: Home, made: Made
) -> None:
    tree = made.tree(40)
    async with working(home) as running:
        with_proof = AddCheckpoint(0, (bytes(32),), tree.note(10))
        refused(await add(running, format_add_checkpoint(with_proof)), 422)
        empty = AddCheckpoint(0, (), tree.note(0, root=b"\1" * 32))
        refused(await add(running, format_add_checkpoint(empty)), 422)
        await cosigned(running, tree, 0, 10)
        before = recorded(home)
        good = merkle.prove_consistency(10, 40, tree)
        for proof in (
            (), good[:-1], good[1:], (*good, bytes(32)), tuple(reversed(good)),
            (bytes(32), *good[1:]), good * 2,
        ):  # fmt: skip
            answer = await add(
                running, format_add_checkpoint(AddCheckpoint(10, proof, tree.note(40)))
            )
            refused(answer, 422)
        same = AddCheckpoint(10, (bytes(32),), tree.note(10))
        refused(await add(running, format_add_checkpoint(same)), 422)
        assert recorded(home) == before
        assert forks(home) == [], "whoever brings a proof can spoil it: that shows nothing"
        await cosigned(running, tree, 10, 40)


@pytest.mark.parametrize("size", [30, 45], ids=["same size", "longer"])
async def test_another_history_is_refused_and_is_itself_the_proof_against_that_log(
    home: Home, made: Made, size: int
) -> None:
    tree, other = made.tree(30), made.tree(45, twist=2)
    async with working(home) as running:
        await cosigned(running, tree, 0, 30)
        before = recorded(home)
        for _ in range(12):
            refused(await add(running, other.request(30, size)), 422)
        assert recorded(home) == before
        assert 1 <= len(forks(home)) <= 8, "enough is enough"
        for proof in forks(home):
            verify_log_fork(parse_log_fork(proof), logs=[made.log])
        answer = await running.ask("GET", "/api/v1/log/witnesses")
        assert answer.json["contradictions"] == ["birch"]
        told = (await running.ask("GET", "/api/v1/peers/birch/log-fork")).json
        assert {parse_body(parse_note(told[each].encode()).text).root
                for each in ("first", "second")} == {
            merkle.root(30, tree), merkle.root(size, other)
        }  # fmt: skip
        notices = (await running.ask("GET", "/api/v1/status", control=True)).json["notices"]
        assert "log-fork" in {notice["code"] for notice in notices}


# --- who may ask -------------------------------------------------------------------------------
async def test_only_its_own_scope_opens_the_call(home: Home, made: Made) -> None:
    tree = made.tree(2)
    body = tree.request(0, 2)
    async with working(home) as running:
        without = running.service.create_token(
            name="all else", scopes=[each for each in SCOPES if each != "witness:add"], days=1
        )
        alone = running.service.create_token(name="witness", scopes=["witness:add"], days=1)
        problem_of(await running.ask("POST", ADD, body=body, token=False), 401, "unauthorized")
        header = f"Authorization: Bearer {without['token']}"
        refusal = await running.ask("POST", ADD, header, body=body, token=False)
        assert "witness:add" in problem_of(refusal, 403, "forbidden")["detail"]
        assert recorded(home) == []
        header = f"Authorization: Bearer {alone['token']}"
        assert (await running.ask("POST", ADD, header, body=body, token=False)).status == 200
        place = f"/api/v1/witness/{hashlib.sha256(made.log.name.encode()).hexdigest()}/checkpoint"
        answer = await running.ask("GET", place, header, token=False)
        assert "log:read" in problem_of(answer, 403, "forbidden")["detail"]
        assert (await running.ask("GET", ADD)).status == 405
