"""How commands reach the node: its control socket if it runs, else its databases directly.

Standard library only, so that ``picket status`` starts at once.
"""

from __future__ import annotations

import http.client
import json
import socket
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final
from urllib.parse import parse_qsl, urlsplit

from typing_extensions import override

from node.home import Home
from protocol.errors import LinkError, OperatorError, PicketError

_TIMEOUT_S: Final = 120.0
_PROBLEM: Final = 400
Passphrase = Callable[[], bytes | None]
Pin = Callable[[], str | None]
Exchange = Callable[[str, str, bytes], tuple[int, bytes]]
"""Sends method, path and body of one call; returns the status and what it answers with."""


class ControlConnection(http.client.HTTPConnection):
    """HTTP over a node's control socket."""

    def __init__(self, path: Path) -> None:
        """Prepare a connection to the socket *path*."""
        super().__init__("localhost", timeout=_TIMEOUT_S)
        self._path = path

    @override
    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(_TIMEOUT_S)
        self.sock.connect(str(self._path))


class Client:
    """Calls the local endpoint of the node in one home as its operator."""

    def __init__(
        self, home: Path, passphrase: Passphrase | None = None, pin: Pin | None = None
    ) -> None:
        """Use the node in *home*; *passphrase*, and a token's *pin*, open it if it does not run."""
        self._home = Home(home)
        self._passphrase, self._pin = passphrase, pin

    def running(self) -> bool:
        """Whether a node answers on the control socket."""
        with socket.socket(socket.AF_UNIX) as probe:
            try:
                probe.connect(str(self._home.control_sock))
            except OSError:
                return False
        return True

    def call(
        self, method: str, path: str, body: Mapping[str, Any] | None = None
    ) -> tuple[int, Any]:
        """Return status and JSON of one call.

        Raises:
            PicketError: the node cannot be reached or opened.
        """
        status, data = self._exchange(method, path, body)
        return status, json.loads(data) if data else None

    def call_bytes(self, method: str, path: str) -> bytes:
        """Return the bytes that a call answers with.

        Raises:
            OperatorError: it answered with a problem.
        """
        status, data = self._exchange(method, path, None)
        if status >= _PROBLEM:
            problem = json.loads(data)
            raise OperatorError(
                problem.get("detail", "the call failed"), fix=problem.get("fix", "")
            )
        return data

    def _exchange(
        self, method: str, path: str, body: Mapping[str, Any] | None
    ) -> tuple[int, bytes]:
        data = b"" if body is None else json.dumps(body, ensure_ascii=False).encode()
        with self.session() as exchange:
            return exchange(method, path, data)

    @contextmanager
    def session(self) -> Iterator[Exchange]:
        """Give what makes many calls over one connection, or on one opening of the databases.

        Raises:
            PicketError: the node cannot be reached or opened.
        """
        if not self.running():
            with self._opened() as exchange:
                yield exchange
            return
        connection = ControlConnection(self._home.control_sock)

        def over_socket(method: str, path: str, data: bytes) -> tuple[int, bytes]:
            try:
                connection.request(method, path, data, {"Content-Type": "application/json"})
                response = connection.getresponse()
                return response.status, response.read()
            except (OSError, http.client.HTTPException) as error:
                raise LinkError(
                    f"the node stopped answering ({error})", fix="see its journal, then try again"
                ) from None

        try:
            yield over_socket
        finally:
            connection.close()

    @contextmanager
    def _opened(self) -> Iterator[Exchange]:
        # Heavy, and needed only when no node runs.
        from node.api import dispatch  # noqa: PLC0415
        from node.app import open_service  # noqa: PLC0415
        from node.calls import REPEATED, Request, problem  # noqa: PLC0415

        with open_service(self._home.path, self._passphrase, self._pin) as service:

            def in_process(method: str, path: str, data: bytes) -> tuple[int, bytes]:
                parts = urlsplit(path)
                query: dict[str, str] = {}
                for key, value in parse_qsl(parts.query, keep_blank_values=True):
                    query[key] = f"{query[key]}{REPEATED}{value}" if key in query else value
                request = Request(method, parts.path, query, data, operator=True)
                try:
                    response = dispatch(service, request)
                except PicketError as error:
                    response = problem(error, "")
                return response.status, response.body

            yield in_process
