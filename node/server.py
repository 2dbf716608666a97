"""Serves the route table over HTTP: on loopback for programs, on the control socket for operators.

- The control socket is a file only its owner can open; whoever can is the operator.
- On TCP the Host header must be one of ours (DNS rebinding) and an Origin is refused (browsers have
  no business here yet).
- Bodies are counted as they arrive; the library's own bound does not cover streams. Files go
  through ``node.streaming`` piece by piece.
"""

from __future__ import annotations

import asyncio
import errno
import secrets
import stat
from collections.abc import Awaitable, Callable
from http import HTTPStatus
from pathlib import Path
from typing import Final

from aiohttp import web

from node import journal, streaming
from node.api import begin, guarded
from node.calls import REPEATED, Deferred, Request, Response, problem, reply
from node.enclosures import Download, Upload
from node.engine import Engine
from node.service import Service
from protocol import limits
from protocol.errors import (
    AddressInUseError,
    ConfigError,
    ForbiddenError,
    PicketError,
    RequestError,
    StoreError,
    TooLargeError,
)
from protocol.witness import SIZE_TEXT

_IMPORTS: Final = "/api/v1/imports"
_ATTACHMENTS: Final = "/api/v1/attachments"
_LOG_FILES: Final = ("/api/v1/log/checkpoint", "/api/v1/log/tile/")
_SHUTDOWN_S: Final = 2.0
_NO_CHARSET: Final = frozenset({"application/octet-stream", "application/zip", SIZE_TEXT})
"""Bytes, and what readers compare as a whole (C2SP tlog-witness)."""
_HEADERS: Final = {
    "Cache-Control": "no-store",
    "X-Content-Type-Options": "nosniff",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
}


class Server:
    """The HTTP listeners of one node."""

    def __init__(self, service: Service, engine: Engine, *, hosts: frozenset[str]) -> None:
        """Serve *service*; *hosts* are the Host names accepted on TCP besides loopback."""
        self._service = service
        self._engine = engine
        self._hosts = frozenset(host.lower() for host in hosts) | {
            "localhost",
            "127.0.0.1",
            "[::1]",
        }
        self._runners: list[web.AppRunner] = []

    async def listen(self, host: str, port: int) -> int:
        """Serve programs on *host*:*port*; return the bound port.

        Raises:
            AddressInUseError: another program has it.
            ConfigError: it is no address of this machine, or not allowed to us.
        """
        runner = await self._runner(operator=False)
        site = web.TCPSite(runner, host, port)
        try:
            await site.start()
        except OSError as error:
            kind = AddressInUseError if error.errno == errno.EADDRINUSE else ConfigError
            raise kind(
                f"the HTTP address {host}:{port} cannot be used: {error.strerror}",
                fix="stop the other program, or set another http.listen in picket.toml",
            ) from None
        bound: int = runner.addresses[0][1]
        return bound

    async def listen_control(self, path: Path) -> None:
        """Serve the operator on the Unix socket *path*.

        Raises:
            ConfigError: something else stands there.
        """
        _clear_socket(path)
        runner = await self._runner(operator=True)
        await web.UnixSite(runner, str(path)).start()
        _make_private(path)

    async def stop(self) -> None:
        """Finish running requests and close."""
        for runner in self._runners:
            await runner.cleanup()

    async def _runner(self, *, operator: bool) -> web.AppRunner:
        app = web.Application()
        app.router.add_route("*", "/{tail:.*}", self._handler(operator=operator))
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=_SHUTDOWN_S)
        await runner.setup()
        self._runners.append(runner)
        return runner

    def _handler(self, *, operator: bool) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
        async def handle(raw: web.Request) -> web.StreamResponse:
            request_id = secrets.token_hex(8)
            try:
                answer = await self._answer(raw, request_id, operator=operator)
                if isinstance(answer, web.StreamResponse):
                    return answer
                response = answer
            except PicketError as error:
                response = problem(error, request_id)
            except Exception as error:  # noqa: BLE001  a bug answers, and stays out of the answer
                journal.bug(error)
                response = problem(PicketError(
                    "the node met a fault of its own; nothing is known to have been changed",
                    fix="look for the event bug in its journal and report it",
                ), request_id)  # fmt: skip
            headers = {
                **_HEADERS, **dict(response.headers), "X-Request-Id": request_id,
                "Content-Type": _whole_type(response.content_type),
            }  # fmt: skip
            return web.Response(status=response.status, body=response.body, headers=headers)

        return handle

    async def _answer(
        self, raw: web.Request, request_id: str, *, operator: bool
    ) -> Response | web.StreamResponse:
        if not operator:
            self._check_browser(raw)
        maximum = limits.MAX_REQUEST_IMPORT if raw.path == _IMPORTS else limits.MAX_REQUEST
        file = _is_file(raw)
        headless = raw.method == "HEAD" and (file or raw.path.startswith(_LOG_FILES))
        scheme, _, token = raw.headers.get("Authorization", "").partition(" ")
        request = Request(
            method="GET" if headless else raw.method,
            path=raw.raw_path.partition("?")[0],
            query={key: REPEATED.join(raw.query.getall(key)) for key in raw.query},
            body=b"" if file and raw.method == "PUT" else await _body(raw, maximum),
            token=token.strip() if scheme.lower() == "bearer" else None,
            operator=operator,
            request_id=request_id,
        )
        try:
            response = await self._dispatch(request, raw)
        except StoreError as error:
            return problem(error, request_id)
        self._engine.poke()
        return response

    async def _dispatch(self, request: Request, raw: web.Request) -> Response | web.StreamResponse:
        begun = await self._engine.desk(lambda: begin(self._service, request))
        match begun:
            case Response():
                return begun
            case Upload():
                ref, new = await streaming.receive(raw, begun)
                row = await self._engine.desk(lambda: begun.keep(ref))
                return reply(row, HTTPStatus.CREATED if new else HTTPStatus.OK)
            case Download():
                headers = {**_HEADERS, "X-Request-Id": request.request_id}
                return await streaming.send(raw, begun, headers)
            case Deferred():
                return await self._in_steps(begun, request)

    async def _in_steps(self, begun: Deferred, request: Request) -> Response:
        if begun.prepare is not None:
            await asyncio.to_thread(begun.prepare)
        try:
            done = await self._engine.together(begun.act)
        except StoreError:
            raise
        except PicketError as error:
            if begun.undo is not None:
                await asyncio.to_thread(begun.undo)
            return problem(error, request.request_id)
        return await self._engine.desk(lambda: guarded(lambda: begun.then(done), request))

    def _check_browser(self, raw: web.Request) -> None:
        host = raw.headers.get("Host", "")
        name = host.rpartition(":")[0] if not host.endswith("]") and ":" in host else host
        if name.lower() not in self._hosts:
            raise ForbiddenError(
                "the Host header is not one of this node's names", fix="add it to [http] hosts"
            )
        if "Origin" in raw.headers:
            raise ForbiddenError("requests from web pages are refused")


def _whole_type(kind: str) -> str:
    """Return *kind* as a Content-Type header; all text that is sent is UTF-8."""
    return kind if kind in _NO_CHARSET or "charset=" in kind else f"{kind}; charset=utf-8"


def _is_file(raw: web.Request) -> bool:
    """Whether the request is about the content of an attachment, which is as long as it likes."""
    folder, _, name = raw.path.rpartition("/")
    return folder == _ATTACHMENTS and bool(name)


def _clear_socket(path: Path) -> None:
    """Remove what a killed node left; the home lock says that nobody serves it."""
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise ConfigError(
            f"{path} is no socket, but the operator's has to be there", fix="move it away"
        )
    path.unlink()


def _make_private(path: Path) -> None:
    path.chmod(0o600)  # the home folder is 0700, so nobody could reach it before either


async def _body(raw: web.Request, maximum: int) -> bytes:
    chunks: list[bytes] = []
    size = 0
    try:
        async with asyncio.timeout(limits.REQUEST_TIMEOUT_S):
            async for chunk in raw.content.iter_any():
                size += len(chunk)
                if size > maximum:
                    raise TooLargeError(
                        f"the body is longer than {maximum} bytes", fix="send less at once"
                    )
                chunks.append(chunk)
    except web.RequestPayloadError:
        raise RequestError("the body is damaged", fix="send it again, as its headers say") from None
    except TimeoutError:
        raise TooLargeError("the body came too slowly", fix="send it at once") from None
    return b"".join(chunks)
