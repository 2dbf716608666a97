"""Witnesses that are no peers: asked over HTTP to cosign, as the policy file names them.

They get what any witness gets, a signed checkpoint and a proof. Their answers are believed as far
as their signatures verify, and are as good as those of peers.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Final

import aiohttp
import structlog

from node import metrics
from node.core import Core
from node.metrics import Metrics
from protocol import limits
from protocol.errors import LimitError, LogBehindError, PicketError, StoreError
from protocol.note import VerifierKey
from protocol.witness import CONFLICT, OK, SIZE_TEXT, parse_size

_log = structlog.get_logger()
_TIMEOUT_S: Final = 20.0
Desk = Callable[[Callable[[], object]], Awaitable[object]]


class OutsideWitnesses:
    """Asks the witnesses that the policy gives a URL for."""

    def __init__(self, core: Core, *, desk: Desk, counts: Metrics) -> None:
        """Prepare; *desk* runs a function on the thread that owns the databases."""
        self._core, self._desk, self._metrics = core, desk, counts
        self._asking: dict[str, asyncio.Task[None]] = {}

    def ask(self, size: int) -> None:
        """Show the offered head of *size* to each of them that is not still waited for.

        Slow ones are left to their time; the next head is soon enough.
        """
        for url, keys in self._core.cosigning.outside():
            if url not in self._asking:
                task = asyncio.create_task(self._ask(url, keys, size))
                self._asking[url] = task
                task.add_done_callback(lambda _, url=url: self._asking.pop(url))  # type: ignore[misc]

    def tasks(self) -> tuple[asyncio.Task[None], ...]:
        """Return the conversations that go on."""
        return tuple(self._asking.values())

    async def stop(self) -> None:
        """Give up on what is not answered yet."""
        for task in self.tasks():
            task.cancel()
        await asyncio.gather(*self.tasks(), return_exceptions=True)

    async def _ask(self, url: str, keys: Sequence[VerifierKey], size: int) -> None:
        try:
            await self._converse(url, keys, size)
        except StoreError:
            raise  # the desk has stopped the node already
        except PicketError as error:
            self._failed(url, error.code)
        except (aiohttp.ClientError, TimeoutError, OSError, UnicodeError) as error:
            # UnicodeError: a host name of the policy that cannot be looked up.
            self._failed(url, type(error).__name__)

    def _failed(self, url: str, code: str) -> None:
        _log.warning("witness-failed", witness=url, code=code)
        self._metrics.add(metrics.COSIGNING_REFUSED, url)

    async def _converse(self, url: str, keys: Sequence[VerifierKey], size: int) -> None:
        timeout = aiohttp.ClientTimeout(total=_TIMEOUT_S)
        # What is packed may be any length when unpacked.
        async with aiohttp.ClientSession(timeout=timeout, auto_decompress=False) as session:
            old: int | None = None
            for _ in range(2):
                status, body, kind = await self._post(session, url, keys[0].name, size, old)
                if status == OK:
                    await self._take(size, body, keys)
                    return
                if status != CONFLICT or kind != SIZE_TEXT or old is not None:
                    self._failed(url, f"status-{status}")
                    return
                old = parse_size(body)
                if old > size:
                    self._failed(url, LogBehindError.code)  # it has cosigned more than there is
                    return

    async def _post(
        self, session: aiohttp.ClientSession, url: str, name: str, size: int, old: int | None
    ) -> tuple[int, bytes, str]:
        body = await self._desk(lambda: self._core.cosigning.request(name, size, old=old))
        target = f"{url.rstrip('/')}/add-checkpoint"
        assert isinstance(body, bytes)  # noqa: S101
        async with session.post(target, data=body, allow_redirects=False) as response:
            answer = bytearray()
            async for chunk in response.content.iter_any():
                answer += chunk
                if len(answer) > limits.MAX_NOTE:
                    raise LimitError(f"the answer is longer than {limits.MAX_NOTE} bytes")
            return response.status, bytes(answer), response.content_type

    async def _take(self, size: int, body: bytes, keys: Sequence[VerifierKey]) -> None:
        def take() -> bool:
            with self._core.logged():
                return self._core.cosigning.take(size, body, keys=keys)

        if await self._desk(take):
            self._metrics.add(metrics.COSIGNED)
