"""Witnesses from outside, over HTTP: a good answer counts, no other does any harm."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final, TypeVar

import pytest
from aiohttp import web
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.mldsa import MLDSA44PrivateKey
from structlog.testing import capture_logs

from node.engine import Engine
from node.metrics import Metrics
from node.outside import OutsideWitnesses
from protocol import limits, merkle
from protocol.checkpoint import Checkpoint, parse_body
from protocol.cosignatures import check_policy
from protocol.entry import EntryKind
from protocol.errors import ConfigError
from protocol.note import NoteSignature, parse_note
from protocol.policy import format_policy, make_policy
from protocol.statement import NamedKeys
from protocol.witness import (
    CONFLICT,
    OK,
    SIZE_TEXT,
    TEXT,
    Answer,
    Seen,
    cosign,
    decide,
    format_signatures,
    parse_add_checkpoint,
)
from tests.node.factories import Station, World, copied, made_once

PATIENCE_S: Final = 20.0
T = TypeVar("T")
Handler = Callable[[web.Request, bytes], Awaitable[web.StreamResponse]]


@pytest.fixture
def world(tmp_path_factory: pytest.TempPathFactory, tmp_path: Path) -> Iterator[World]:
    with copied(made_once(tmp_path_factory), tmp_path) as each:
        yield each


# --- a witness that is no node -----------------------------------------------------------------
class Witness:
    """An HTTP witness with keys of its own; *answer* stands in for its honest answer."""

    def __init__(self, log: NamedKeys, name: str, seed: int, now_s: Callable[[], int]) -> None:
        self._log, self.name, self._now_s = log, name, now_s
        self.ed25519 = Ed25519PrivateKey.from_private_bytes(bytes([seed]) * 32)
        self.mldsa44 = MLDSA44PrivateKey.from_seed_bytes(bytes([seed]) * 32)
        self.seen: dict[str, Seen] = {}
        self.requests: list[bytes] = []
        self.answer: Handler | None = None
        self.url = ""

    @property
    def keys(self) -> NamedKeys:
        return NamedKeys(
            self.name,
            self.ed25519.public_key().public_bytes_raw(),
            self.mldsa44.public_key().public_bytes_raw(),
        )

    def sign(self, checkpoint: Checkpoint, *, late: int = 0) -> tuple[NoteSignature, NoteSignature]:
        return cosign(
            checkpoint, name=self.name, ed25519=self.ed25519, mldsa44=self.mldsa44,
            now_s=self._now_s() + late,
        )  # fmt: skip

    def decide(self, body: bytes) -> Answer:
        decision = decide(body, logs=lambda _: [self._log], seen=self.seen.get)
        if isinstance(decision, Answer):
            return decision
        self.seen[decision.checkpoint.origin] = decision.seen
        return Answer(OK, format_signatures(self.sign(decision.checkpoint)), TEXT)

    async def handle(self, request: web.Request) -> web.StreamResponse:
        body = await request.read()
        self.requests.append(body)
        assert request.path.endswith("/add-checkpoint"), request.path
        if self.answer is not None:
            return await self.answer(request, body)
        return response(self.decide(body))

    @property
    def sizes(self) -> list[tuple[int, int]]:
        """Old and new size of each request so far."""
        parsed = map(parse_add_checkpoint, self.requests)
        return [(each.old, int(each.note.split(b"\n")[1])) for each in parsed]


def response(answer: Answer) -> web.Response:
    return web.Response(
        status=answer.status, body=answer.body, headers={"Content-Type": answer.content_type}
    )


def checkpoint_of(body: bytes) -> Checkpoint:
    return parse_body(parse_note(parse_add_checkpoint(body).note).text)


@asynccontextmanager
async def listening(*witnesses: Witness) -> AsyncIterator[None]:
    runners = []
    for witness in witnesses:
        app = web.Application(client_max_size=4 * limits.MAX_NOTE)
        app.router.add_post("/{tail:.*}", witness.handle)
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        witness.url = f"http://127.0.0.1:{runner.addresses[0][1]}/w"
        runners.append(runner)
    try:
        yield
    finally:
        for runner in runners:
            await runner.cleanup()


# --- the node that asks ------------------------------------------------------------------------
@dataclass
class Asking:
    """A node whose policy names outside witnesses, and what asks them."""

    station: Station
    counts: Metrics = field(default_factory=Metrics)
    outside: OutsideWitnesses = field(init=False)

    def __post_init__(self) -> None:
        self.outside = OutsideWitnesses(self.station.core, desk=_at_once, counts=self.counts)

    def ask(self) -> int:
        size = self.station.core.heartbeat()
        self.outside.ask(size)
        return size

    async def asked(self) -> int:
        """Show the next head to the witnesses, and wait until they are done with it."""
        size = self.ask()
        async with asyncio.timeout(PATIENCE_S):
            await asyncio.gather(*self.outside.tasks())
        return size

    def cosigned(self) -> int | None:
        """Return the size of the newest head that meets the policy, which is checked anew."""
        found = self.station.core.cosigning.cosigned()
        if found is None:
            return None
        cosigned = check_policy(found[1], self.station.core.cosigning.policy)
        assert cosigned.not_after is not None
        assert cosigned.checkpoint.size == found[0]
        return found[0]

    def refused(self, witness: Witness) -> int:
        line = f'cosigning_refused_total{{peer="{witness.url}"}} '
        text = self.counts.render().decode()
        found = [each for each in text.splitlines() if line in each]
        return int(float(found[0].rsplit(" ", 1)[1])) if found else 0


async def _at_once(act: Callable[[], T]) -> T:
    return act()


def follow(station: Station, *witnesses: Witness, quorum: int = 1, keys: int = 2) -> Asking:
    """Let the policy of a node name *witnesses*, by *keys* keys each, and open it anew."""
    labelled = [
        (f"outside{n}", w.keys if keys == 2 else replace(w.keys, mldsa44=b""))
        for n, w in enumerate(witnesses)
    ]
    policy = make_policy(station.core.card.log, labelled, quorum)
    urls = {w.name: w.url for w in witnesses}
    lines = {
        label: replace(line, url=urls[line.key.name]) for label, line in policy.witnesses.items()
    }
    station.home.witness_policy.write_text(format_policy(replace(policy, witnesses=lines)))
    station.reopen()
    return Asking(station)


def witness_of(station: Station, number: int = 1) -> Witness:
    return Witness(
        station.core.card.log, f"outside{number}.example/w", 0x40 + number,
        lambda: station.clock.now() // 1_000,
    )  # fmt: skip


# --- good answers ------------------------------------------------------------------------------
@pytest.mark.parametrize("keys", [1, 2], ids=["Ed25519 alone", "both keys"])
async def test_an_outside_witness_meets_the_policy_head_after_head(world: World, keys: int) -> None:
    alder = world["alder"]
    witness = witness_of(alder)
    async with listening(witness):
        asking = follow(alder, witness, keys=keys)
        sizes = []
        for _ in range(3):
            sizes.append(await asking.asked())
            assert asking.cosigned() == sizes[-1]
    assert witness.sizes == [(0, sizes[0]), (sizes[0], sizes[1]), (sizes[1], sizes[2])]
    assert asking.refused(witness) == 0
    assert b"log_cosigned_total 3" in asking.counts.render()
    standing = alder.core.cosigning.standing()
    assert (standing.cosigned, standing.missing) == (("outside0",), ())


async def test_a_witness_that_knows_another_size_is_asked_once_more(world: World) -> None:
    alder = world["alder"]
    witness = witness_of(alder)
    async with listening(witness):
        asking = follow(alder, witness)
        first = await asking.asked()
        # It knows more than we remember, and then less.
        for table in ("cosigned", "cosignatures"):
            alder.core.store.run(f"DELETE FROM {table}")
        second = await asking.asked()
        assert witness.sizes[1:] == [(0, second), (first, second)]
        witness.seen[alder.core.card.log.name] = Seen(first, alder.core.log.root(first))
        third = await asking.asked()
        assert witness.sizes[3:] == [(second, third), (first, third)]
        assert asking.cosigned() == third
    assert asking.refused(witness) == 0


async def test_of_two_witnesses_one_is_enough_if_the_policy_says_so(world: World) -> None:
    alder = world["alder"]
    good, bad = witness_of(alder), witness_of(alder, 2)
    bad.answer = lambda request, body: _status(500)
    async with listening(good, bad):
        asking = follow(alder, good, bad)
        size = await asking.asked()
        assert asking.cosigned() == size
        assert (asking.refused(good), asking.refused(bad)) == (0, 1)
        asking = follow(alder, good, bad, quorum=2)
        later = await asking.asked()
        standing = alder.core.cosigning.standing()
        assert (standing.size, standing.missing) == (size, ("outside1",))
        bad.answer = None
        assert await asking.asked() == later + 1
        assert asking.cosigned() == later + 1


# --- bad answers -------------------------------------------------------------------------------
async def _status(status: int, body: bytes = b"", kind: str = TEXT) -> web.Response:
    return web.Response(status=status, body=body, headers={"Content-Type": kind})


def statuses(*codes: int) -> list[tuple[str, str]]:
    return [(f"status {code}", f"status-{code}") for code in codes]


class Bad:
    """Wrong answers, by name."""

    def __init__(self, witness: Witness, other: Witness) -> None:
        self._witness, self._other = witness, other
        self.redirected = 0

    def named(self, name: str) -> Handler:
        if name.startswith("status "):
            code = int(name.removeprefix("status "))
            return lambda request, body: _status(code, self._good(body))
        found: Handler = getattr(self, name)
        return found

    def _good(self, body: bytes) -> bytes:
        return format_signatures(self._witness.sign(checkpoint_of(body)))

    async def empty(self, request: web.Request, body: bytes) -> web.StreamResponse:
        return await _status(200)

    async def garbage(self, request: web.Request, body: bytes) -> web.StreamResponse:
        return await _status(200, b"<html>Welcome</html>\n")

    async def not_utf8(self, request: web.Request, body: bytes) -> web.StreamResponse:
        return await _status(200, b"\xff\xfe\n")

    async def whole_note(self, request: web.Request, body: bytes) -> web.StreamResponse:
        return await _status(200, parse_add_checkpoint(body).note + self._good(body))

    async def flipped(self, request: web.Request, body: bytes) -> web.StreamResponse:
        first, second = self._witness.sign(checkpoint_of(body))
        data = first.signature[:-1] + bytes([first.signature[-1] ^ 1])
        return await _status(200, format_signatures([replace(first, signature=data), second]))

    async def edited_time(self, request: web.Request, body: bytes) -> web.StreamResponse:
        first, second = self._witness.sign(checkpoint_of(body))
        early = (int.from_bytes(second.signature[:8], "big") - 3_600).to_bytes(8, "big")
        edited = replace(second, signature=early + second.signature[8:])
        return await _status(200, format_signatures([first, edited]))

    async def future(self, request: web.Request, body: bytes) -> web.StreamResponse:
        signatures = self._witness.sign(checkpoint_of(body), late=86_400)
        return await _status(200, format_signatures(signatures))

    async def another_tree(self, request: web.Request, body: bytes) -> web.StreamResponse:
        signatures = self._witness.sign(replace(checkpoint_of(body), root=merkle.EMPTY_ROOT))
        return await _status(200, format_signatures(signatures))

    async def another_size(self, request: web.Request, body: bytes) -> web.StreamResponse:
        found = checkpoint_of(body)
        signatures = self._witness.sign(replace(found, size=found.size - 1))
        return await _status(200, format_signatures(signatures))

    async def another_witness(self, request: web.Request, body: bytes) -> web.StreamResponse:
        return await _status(200, format_signatures(self._other.sign(checkpoint_of(body))))

    async def borrowed_name(self, request: web.Request, body: bytes) -> web.StreamResponse:
        lines = (
            replace(theirs, signature=line.signature)
            for theirs, line in zip(
                self._witness.sign(checkpoint_of(body)),
                self._other.sign(checkpoint_of(body)), strict=True,
            )
        )  # fmt: skip
        return await _status(200, format_signatures(list(lines)))

    async def oversize(self, request: web.Request, body: bytes) -> web.StreamResponse:
        return await _status(200, self._good(body) * (limits.MAX_NOTE // 100))

    async def endless(self, request: web.Request, body: bytes) -> web.StreamResponse:
        answer = web.StreamResponse(status=200)
        await answer.prepare(request)
        with contextlib.suppress(ConnectionError):
            while True:
                await answer.write(bytes(65_536))
        return answer

    async def bomb(self, request: web.Request, body: bytes) -> web.StreamResponse:
        data = gzip.compress(bytes(64 * 1024 * 1024))
        return web.Response(status=200, body=data, headers={"Content-Encoding": "gzip"})

    async def redirect(self, request: web.Request, body: bytes) -> web.StreamResponse:
        self.redirected += 1
        raise web.HTTPTemporaryRedirect(str(request.url))

    async def redirect_get(self, request: web.Request, body: bytes) -> web.StreamResponse:
        raise web.HTTPFound(f"{self._other.url}/add-checkpoint")

    async def cut(self, request: web.Request, body: bytes) -> web.StreamResponse:
        answer = web.StreamResponse(status=200, headers={"Content-Length": "99999"})
        await answer.prepare(request)
        await answer.write(self._good(body))
        assert request.transport is not None
        request.transport.abort()
        return answer

    async def dropped(self, request: web.Request, body: bytes) -> web.StreamResponse:
        assert request.transport is not None
        request.transport.abort()
        return web.Response()

    async def larger(self, request: web.Request, body: bytes) -> web.StreamResponse:
        return await _status(CONFLICT, b"1000000\n", SIZE_TEXT)

    async def smaller_for_ever(self, request: web.Request, body: bytes) -> web.StreamResponse:
        return await _status(CONFLICT, b"1\n", SIZE_TEXT)

    async def size_of_another_type(self, request: web.Request, body: bytes) -> web.StreamResponse:
        return await _status(CONFLICT, b"1\n", TEXT)

    async def no_size(self, request: web.Request, body: bytes) -> web.StreamResponse:
        return await _status(CONFLICT, b"01\n", SIZE_TEXT)

    async def endless_size(self, request: web.Request, body: bytes) -> web.StreamResponse:
        return await _status(CONFLICT, b"9" * 5_000 + b"\n", SIZE_TEXT)


BAD: Final = [
    ("empty", "bad-encoding"),
    ("garbage", "bad-encoding"),
    ("not_utf8", "bad-encoding"),
    ("whole_note", "bad-encoding"),
    ("flipped", "bad-signature"),
    ("edited_time", "bad-signature"),
    ("future", "bad-signature"),
    ("another_tree", "bad-signature"),
    ("another_size", "bad-signature"),
    ("another_witness", "bad-signature"),
    ("borrowed_name", "bad-signature"),
    ("oversize", "over-limit"),
    ("endless", "over-limit"),
    ("bomb", "bad-encoding"),
    ("redirect", "status-307"),
    ("redirect_get", "status-302"),
    ("cut", "ClientPayloadError"),
    ("dropped", "ServerDisconnectedError"),
    ("larger", "log-behind"),
    ("smaller_for_ever", "status-409"),
    ("size_of_another_type", "status-409"),
    ("no_size", "bad-encoding"),
    ("endless_size", "bad-encoding"),
    *statuses(201, 204, 400, 403, 404, 422, 500, 503),
]


@pytest.mark.parametrize(("name", "code"), BAD, ids=[name for name, _ in BAD])
async def test_a_bad_answer_does_not_count_does_no_harm_and_is_named(
    world: World, name: str, code: str
) -> None:
    alder = world["alder"]
    witness, other = witness_of(alder), witness_of(alder, 2)
    bad = Bad(witness, other)
    async with listening(witness, other):
        asking = follow(alder, witness)
        witness.answer = bad.named(name)
        with capture_logs() as journal:
            await asking.asked()
        assert asking.cosigned() is None
        assert alder.core.store.rows("SELECT * FROM cosignatures") == []
        assert len(witness.requests) <= 2
        assert bad.redirected <= 1
        assert other.requests == []
        assert asking.refused(witness) == 1
        (event,) = [each for each in journal if each["event"] == "witness-failed"]
        assert event["witness"] == witness.url
        assert event["log_level"] == "warning"
        assert event["code"] == code, event

        witness.answer = None
        size = await asking.asked()
        assert asking.cosigned() == size, "the next head gets its due"
        assert alder.core.verify()


@pytest.mark.parametrize(
    "url",
    ["http://127.0.0.1:9/w", "https://127.0.0.1:{port}/w", "http://a..b/w"],
)
async def test_an_address_where_no_witness_is_does_no_harm(world: World, url: str) -> None:
    alder = world["alder"]
    good, lost = witness_of(alder), witness_of(alder, 2)
    async with listening(good):
        lost.url = url.replace("{port}", good.url.split(":")[2].split("/")[0])
        asking = follow(alder, good, lost)
        with capture_logs() as journal:
            size = await asking.asked()
        assert asking.cosigned() == size
        assert asking.refused(lost) == 1
        assert [e["witness"] for e in journal if e["event"] == "witness-failed"] == [lost.url]


@pytest.mark.parametrize(
    "url",
    ["ftp://127.0.0.1/w", "no-url", "http://127.0.0.1:99999/w", "http://127.0.0.1:0/w",
     "http://[::1/w", "http:///w", "http://name:secret@127.0.0.1/w", "http://127.0.0.1/w?a=b"],
)  # fmt: skip
def test_an_address_that_cannot_be_asked_is_named_at_the_start(world: World, url: str) -> None:
    alder = world["alder"]
    lost = witness_of(alder)
    lost.url = url
    with pytest.raises(ConfigError, match=r"the witness outside0.* cannot be asked") as caught:
        follow(alder, lost)
    assert "https://" in caught.value.fix


# --- slow answers ------------------------------------------------------------------------------
class Slow:
    """Holds the first answers back until it is told to go on."""

    def __init__(self, witness: Witness, answer: Callable[[bytes], Answer]) -> None:
        self._answer, self.arrived, self.go = answer, asyncio.Event(), asyncio.Event()
        witness.answer = self.handle

    async def handle(self, request: web.Request, body: bytes) -> web.StreamResponse:
        self.arrived.set()
        await self.go.wait()
        return response(self._answer(body))


async def test_a_witness_that_hangs_is_asked_once_and_holds_up_no_other(world: World) -> None:
    alder = world["alder"]
    good, slow = witness_of(alder), witness_of(alder, 2)
    async with listening(good, slow), asyncio.timeout(PATIENCE_S):
        asking = follow(alder, good, slow)
        held = Slow(slow, slow.decide)
        asking.ask()
        await held.arrived.wait()
        for _ in range(4):
            while len(asking.outside.tasks()) > 1:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
            size = asking.ask()
            while asking.cosigned() != size:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        assert len(slow.requests) == 1
        held.go.set()
        await asyncio.gather(*asking.outside.tasks())
        assert asking.refused(good) == 0
        slow.answer = None
        size = await asking.asked()
        names = alder.core.store.rows("SELECT DISTINCT name FROM cosignatures WHERE size = ?", size)
        assert {row["name"] for row in names} == {good.name, slow.name}


async def test_an_answer_about_a_head_that_is_long_superseded_is_let_go(world: World) -> None:
    alder = world["alder"]
    slow = witness_of(alder)
    async with listening(slow), asyncio.timeout(PATIENCE_S):
        asking = follow(alder, slow)
        for answer in (slow.decide, lambda _: Answer(CONFLICT, b"1\n", SIZE_TEXT)):
            held = Slow(slow, answer)
            asking.ask()
            await held.arrived.wait()
            for _ in range(4):
                asking.ask()
            held.go.set()
            results = await asyncio.gather(*asking.outside.tasks(), return_exceptions=True)
            assert results == [None]
            assert asking.cosigned() is None
        slow.answer = None
        slow.seen.clear()
        assert await asking.asked() == asking.cosigned()


async def test_a_witness_that_never_answers_is_given_up(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("node.outside._TIMEOUT_S", 0.2)
    alder = world["alder"]
    witness = witness_of(alder)
    async with listening(witness):
        asking = follow(alder, witness)
        Slow(witness, witness.decide)
        with capture_logs() as journal:
            await asking.asked()
        assert asking.refused(witness) == 1
        assert [e["code"] for e in journal if e["event"] == "witness-failed"] == ["TimeoutError"]
        witness.answer = None
        assert await asking.asked() == asking.cosigned()


async def test_asking_stops_at_once_while_a_witness_hangs(world: World) -> None:
    alder = world["alder"]
    witness = witness_of(alder)
    async with listening(witness), asyncio.timeout(PATIENCE_S):
        asking = follow(alder, witness)
        held = Slow(witness, witness.decide)
        asking.ask()
        await held.arrived.wait()
        await asking.outside.stop()
        assert asking.outside.tasks() == ()
        assert asking.cosigned() is None
        await asking.outside.stop()


# --- in a node that works ----------------------------------------------------------------------
async def test_a_working_node_asks_on_its_beat_without_any_peer_and_ends_while_one_hangs(
    world: World,
) -> None:
    alder = world["alder"]
    good, slow = witness_of(alder), witness_of(alder, 2)
    async with listening(good, slow), asyncio.timeout(PATIENCE_S):
        follow(alder, good, slow)
        held = Slow(slow, slow.decide)
        clock = Ticking(alder.clock.now())
        engine = Engine(
            alder.core, clock=clock, random=alder.random, identity_pem=alder.home.tls_pem,
            dials=False, beat_ms=50,
        )  # fmt: skip
        await engine.start(None, 0)
        work = asyncio.create_task(engine.run())
        await held.arrived.wait()
        while len(good.requests) < 4:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        work.cancel()
        await asyncio.gather(work, return_exceptions=True)
        await engine.stop()
    assert len(slow.requests) == 1
    found = alder.core.cosigning.cosigned()
    assert found is not None
    assert check_policy(found[1], alder.core.cosigning.policy).not_after is not None
    assert alder.kinds()[-1] is EntryKind.HEARTBEAT
    assert alder.core.verify()


class Ticking:
    """UTC stands still; what measures spans goes on."""

    def __init__(self, at: int) -> None:
        self._at = at

    def now(self) -> int:
        return self._at

    def monotonic(self) -> int:
        return time.monotonic_ns() // 1_000_000
