"""The door: what a caller that shows no certificate may do here, and no more.

- ``GET /card`` gives this node's card bundle, unless ``peer.show_card`` is off: it is public, and
  proves nothing. ``POST /knock`` takes a knock (``protocol.knock``) and answers the same whatever
  comes of it, so that nobody learns whom this node knows. The answer does not even wait for that.
- Everything is bounded before any work is done for a stranger: how many are inside, how often one
  address and all of them together may come, how many bytes are read. The time in which TLS and HTTP
  have to be over, and the number of connections that are no links, bound the rest.
- A knock is verified on a thread of its own, and noted behind what the links bring.
"""

from __future__ import annotations

import asyncio
import json
from collections import Counter, OrderedDict
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from http import HTTPStatus
from typing import Final, Protocol, TypeVar

import structlog
from aiohttp import web

from node.callers import CallerBook
from node.clock import Clock
from protocol import knock, limits
from protocol.errors import PeerError, PicketError, StoreError
from protocol.quota import Bucket, Rate
from protocol.statement import Card, Chain, make_bundle

CARD_PATH: Final = "/card"
PATHS: Final = frozenset({CARD_PATH, knock.PATH})
WAITING: Final = {"state": "waiting"}
"""The answer to every knock that verifies."""
NAME: Final = "picket"
"""What a stranger is told of the program that answers; its version is nobody's business."""
_MINUTE_MS: Final = 60_000
_SOON_S: Final = 60
_log = structlog.get_logger()
_T = TypeVar("_T")


def _rate(amount: int, burst: int) -> Rate:
    return Rate(amount=amount, burst=burst, per_ms=_MINUTE_MS)


class Turnstile:
    """How often one address, and all together, may do one thing; of bounded size."""

    def __init__(self, *, each: Rate, everybody: Rate, now: int) -> None:
        """Begin with full buckets; times are monotonic ms."""
        self._each = each
        self._everybody = Bucket(everybody, now)
        self._addresses: OrderedDict[str, Bucket] = OrderedDict()

    def wait(self, address: str, now: int) -> int:
        """Let *address* pass and return 0, or return after how many ms it may try again."""
        bucket = self._addresses.pop(address, None) or Bucket(self._each, now)
        self._addresses[address] = bucket
        if len(self._addresses) > limits.MAX_DOOR_ADDRESSES:
            self._addresses.popitem(last=False)
        # Its own first: what one address is refused costs the others nothing.
        wait = bucket.wait(1, now) or self._everybody.wait(1, now)
        if not wait:
            bucket.take(1, now)
            self._everybody.take(1, now)
        return wait


class Door:
    """Answers the two requests that need no certificate."""

    def __init__(
        self,
        *,
        card: Callable[[], bytes | None],
        take: Callable[[bytes, str], Awaitable[None]],
        monotonic: Callable[[], int],
    ) -> None:
        """Prepare.

        Args:
            card: returns our card bundle; None keeps it back.
            take: verifies a knock from an address; raises PeerError if it does not verify.
            monotonic: ms that never go back.
        """
        self._card, self._take, self._monotonic = card, take, monotonic
        now = monotonic()
        self._turnstiles = {
            CARD_PATH: Turnstile(
                each=_rate(limits.CARDS_PER_MIN, limits.CARDS_BURST),
                everybody=_rate(limits.ALL_CARDS_PER_MIN, limits.ALL_CARDS_BURST), now=now,
            ),
            knock.PATH: Turnstile(
                each=_rate(limits.KNOCKS_PER_MIN, limits.KNOCKS_BURST),
                everybody=_rate(limits.ALL_KNOCKS_PER_MIN, limits.ALL_KNOCKS_BURST), now=now,
            ),
        }  # fmt: skip
        self._inside: Counter[str] = Counter()

    async def answer(self, request: web.BaseRequest, address: str) -> web.Response:
        """Answer a *request* for one of ``PATHS`` that came from *address*; never raises."""
        path = request.raw_path
        wanted = "POST" if path == knock.PATH else "GET"
        if path not in PATHS or request.method != wanted:
            return empty(HTTPStatus.NOT_FOUND)
        if wait := self._turnstiles[path].wait(address, self._monotonic()):
            return empty(HTTPStatus.TOO_MANY_REQUESTS, retry_s=-(-wait // 1_000))
        full = self._inside.total() >= limits.MAX_AT_DOOR
        if full or self._inside[address] >= limits.MAX_AT_DOOR_PER_ADDRESS:
            return empty(HTTPStatus.SERVICE_UNAVAILABLE, retry_s=_SOON_S)
        self._inside[address] += 1
        try:
            return await self._knock(request, address) if wanted == "POST" else self._show()
        finally:
            self._inside[address] -= 1
            if not self._inside[address]:
                del self._inside[address]

    def _show(self) -> web.Response:
        bundle = self._card()
        if bundle is None:
            return empty(HTTPStatus.NOT_FOUND)
        return _response(HTTPStatus.OK, bundle, "application/octet-stream")

    async def _knock(self, request: web.BaseRequest, address: str) -> web.Response:
        size = request.content_length
        if size is None or "Content-Encoding" in request.headers:
            return empty(HTTPStatus.LENGTH_REQUIRED)
        if size > limits.MAX_KNOCK:
            return empty(HTTPStatus.REQUEST_ENTITY_TOO_LARGE)
        try:
            await self._take(await request.content.readexactly(size), address)
        except PeerError as error:
            return _json(HTTPStatus.BAD_REQUEST, {"state": "refused", "code": error.code})
        except (asyncio.IncompleteReadError, web.RequestPayloadError):
            return empty(HTTPStatus.BAD_REQUEST)
        return _json(HTTPStatus.OK, WAITING)


def empty(status: HTTPStatus, *, retry_s: int = 0) -> web.Response:
    """Return an answer that says no more than its status, and ends the connection."""
    response = web.Response(status=status, headers={"Server": NAME})
    if retry_s:
        response.headers["Retry-After"] = str(retry_s)
    response.force_close()
    return response


def _json(status: HTTPStatus, value: dict[str, str]) -> web.Response:
    return _response(status, json.dumps(value).encode(), "application/json")


def _response(status: HTTPStatus, body: bytes, content_type: str) -> web.Response:
    headers = {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff", "Server": NAME}
    response = web.Response(status=status, body=body, content_type=content_type, headers=headers)
    response.force_close()
    return response


# --- what the door needs of the node ---------------------------------------------------------
class Household(Protocol):
    """What a porter needs of the node."""

    callers: CallerBook

    @property
    def trust(self) -> Trusting:
        """Whom the node knows, and its own chain."""
        ...

    @property
    def card(self) -> Card:
        """The node's newest card."""
        ...


class Trusting(Protocol):
    """Of a trust store: the node's own chain."""

    @property
    def own(self) -> Chain:
        """The chain."""
        ...


class Desk(Protocol):
    """Runs an act on the one thread that owns the databases."""

    def __call__(self, act: Callable[[], _T]) -> Awaitable[_T]:
        """Run *act*."""
        ...


class Porter:
    """Verifies knocks beside the desk, and has the desk note them."""

    def __init__(self, core: Household, *, clock: Clock, desk: Desk, show_card: bool) -> None:
        """Prepare; with *show_card* anybody may have our card."""
        self._core, self._clock, self._desk, self._shows = core, clock, desk, show_card
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="door")
        self._noting: set[asyncio.Task[None]] = set()

    def door(self) -> Door:
        """Return a door that this porter keeps."""
        return Door(card=self._card, take=self.take, monotonic=self._clock.monotonic)

    def _card(self) -> bytes | None:
        return make_bundle(self._core.trust.own) if self._shows else None

    async def take(self, wire: bytes, address: str) -> None:
        """Verify a knock; it is noted once this has returned.

        Raises:
            PeerError: it does not verify.
        """
        loop = asyncio.get_running_loop()
        chain, time = await loop.run_in_executor(self._thread, self._verified, wire)
        # Not awaited: how long that takes depends on whether we know the caller.
        task = asyncio.create_task(self._note(chain, time, address))
        self._noting.add(task)
        task.add_done_callback(self._noting.discard)

    def _verified(self, wire: bytes) -> tuple[Chain, int]:
        own = self._core.trust.own
        parsed = knock.parse_knock(wire)
        chain = knock.verify_knock(
            parsed, network=own.network, certificates=self._core.card.tls, now=self._clock.now()
        )
        return chain, parsed.time

    async def _note(self, chain: Chain, time: int, address: str) -> None:
        try:
            await self._desk(lambda: self._core.callers.knock(chain, time=time, address=address))
        except StoreError:
            return  # the desk has stopped the node by now
        except PicketError as error:
            _log.warning("knock-not-noted", code=error.code)

    async def stop(self) -> None:
        """Wait until what was taken is noted."""
        await asyncio.gather(*self._noting, return_exceptions=True)
        self._thread.shutdown(wait=True)
