"""NATS as a system under test: one server process, N clients in this process, core publish.

Reads one JSON command a line from standard input and answers each with one JSON line; see
bench/gossip.py for what the commands mean. The path of nats-server is the only argument.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from importlib.metadata import version
from typing import Any, Final

import nats  # type: ignore[import-not-found]
from flight import LOST_S, Flight
from nats.aio.client import Client  # type: ignore[import-not-found]
from nats.aio.msg import Msg  # type: ignore[import-not-found]

SUBJECT: Final = "bench"
START_S: Final = 20.0
POLL_S: Final = 0.02


class System:
    """The server, the clients, and what is under way between them."""

    def __init__(self, program: str) -> None:
        """Prepare; *program* is the server."""
        self._program = program
        self._server: subprocess.Popen[bytes] | None = None
        self._clients: list[Client] = []
        self._flight = Flight(0)
        self._size = self._number = 0
        self._woken = asyncio.Event()

    async def start(self, *, nodes: int, size: int) -> dict[str, Any]:
        """Start the server and connect *nodes* clients that all subscribe."""
        self._size = size
        with socket.create_server(("127.0.0.1", 0)) as probe:
            port = probe.getsockname()[1]
        self._server = subprocess.Popen(  # noqa: S603, ASYNC220  the program that was asked for
            [self._program, "-a", "127.0.0.1", "-p", str(port)],
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            cwd=tempfile.gettempdir(),
        )  # fmt: skip
        deadline = time.monotonic() + START_S
        while not _answers(port):
            if time.monotonic() > deadline or self._server.poll() is not None:
                raise TimeoutError("nats-server did not start")
            await asyncio.sleep(POLL_S)
        self._clients = [await self._connect(port) for _ in range(nodes)]
        for client in self._clients:
            await client.subscribe(SUBJECT, cb=self._on_message)
            await client.flush()
        server = str(self._clients[0].connected_server_version).strip("<>")
        return {"about": f"{server}, nats-py {version('nats-py')}"}

    async def _connect(self, port: int) -> Client:
        # no_echo: the author does not get its own message back, as in the other systems.
        return await nats.connect(f"nats://127.0.0.1:{port}", no_echo=True)

    async def _on_message(self, message: Msg) -> None:
        self._flight.arrive(int.from_bytes(message.data[:8], "big"))

    async def _publish(self, author: int) -> None:
        self._number += 1
        self._flight.send(self._number)
        data = self._number.to_bytes(8, "big") + os.urandom(self._size - 8)
        await self._clients[author].publish(SUBJECT, data)

    async def _completion(self, seconds: float) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._woken.wait()
        self._woken.clear()

    def _begin(self) -> Flight:
        self._flight = Flight(len(self._clients) - 1)
        self._flight.on_complete = self._woken.set
        self._woken.clear()
        return self._flight

    async def latency(self, *, rounds: int, authors: int) -> dict[str, Any]:
        """Send one message after the other."""
        flight = self._begin()
        for number in range(rounds):
            await self._publish(number % authors)
            await self._completion(LOST_S)
        return flight.result()

    async def rate(self, *, seconds: float, window: int, authors: int) -> dict[str, Any]:
        """Keep *window* messages under way for *seconds*, then wait for the rest."""
        flight = self._begin()
        while time.monotonic() - flight.begun < seconds:
            while flight.under_way < window:
                await self._publish(flight.sent % authors)
            await self._completion(POLL_S)
            flight.give_up()
        while not flight.settled:  # noqa: ASYNC110  it also ends by the clock
            await asyncio.sleep(POLL_S)
        return {**flight.result(), "ms": []}

    async def stop(self) -> None:
        """Close the clients and end the server."""
        for client in self._clients:
            await client.close()
        if self._server is not None:
            self._server.terminate()
            self._server.wait()


def _answers(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port)).close()
    except ConnectionRefusedError:
        return False
    return True


async def _main() -> None:
    system = System(sys.argv[1])
    commands: dict[str, Callable[..., Awaitable[dict[str, Any]]]]
    commands = {"start": system.start, "latency": system.latency, "rate": system.rate}
    try:
        while line := await asyncio.to_thread(sys.stdin.readline):
            command = json.loads(line)
            try:
                answer = await commands[command.pop("do")](**command)
            except Exception as error:  # noqa: BLE001  whatever it is, the caller is told
                answer = {"error": repr(error)}
            print(json.dumps(answer), flush=True)
    finally:
        await system.stop()


if __name__ == "__main__":
    asyncio.run(_main())
