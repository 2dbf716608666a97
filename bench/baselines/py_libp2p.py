"""py-libp2p gossipsub as a system under test: N nodes in this process, full mesh, on loopback.

Reads one JSON command a line from standard input and answers each with one JSON line; see
bench/gossip.py for what the commands mean.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from importlib.metadata import version
from typing import Any, Final

import trio  # type: ignore[import-not-found]
from flight import LOST_S, Flight
from libp2p import new_host  # type: ignore[import-not-found]
from libp2p.crypto.ed25519 import create_new_key_pair  # type: ignore[import-not-found]
from libp2p.peer.peerinfo import info_from_p2p_addr  # type: ignore[import-not-found]
from libp2p.pubsub.gossipsub import PROTOCOL_ID_V11, GossipSub  # type: ignore[import-not-found]
from libp2p.pubsub.pubsub import Pubsub  # type: ignore[import-not-found]
from libp2p.pubsub.subscription import TrioSubscriptionAPI  # type: ignore[import-not-found]
from libp2p.tools.anyio_service import background_trio_service  # type: ignore[import-not-found]
from multiaddr import Multiaddr  # type: ignore[import-not-found]

TOPIC: Final = "bench"
MESH_S: Final = 30.0
POLL_S: Final = 0.02
MANY: Final = 1_000_000


class System:
    """The nodes and what is under way between them."""

    def __init__(self, nursery: trio.Nursery, held: AsyncExitStack) -> None:
        """Prepare; what is started runs in *nursery* and ends with *held*."""
        self._nursery, self._held = nursery, held
        self._nodes: list[Pubsub] = []
        self._flight = Flight(0)
        self._size = self._number = 0
        self._woken = trio.Event()

    async def start(self, *, nodes: int, size: int) -> dict[str, Any]:
        """Start *nodes* nodes, connect each with each, and wait for the mesh."""
        self._size = size
        hosts = []
        for _ in range(nodes):
            host = new_host(key_pair=create_new_key_pair())
            listen = [Multiaddr("/ip4/127.0.0.1/tcp/0")]
            await self._held.enter_async_context(host.run(listen_addrs=listen))
            # Ten messages a second and a few in waiting are its defaults: nothing to measure.
            router = GossipSub(
                protocols=[PROTOCOL_ID_V11], degree=6, degree_low=4, degree_high=12,
                heartbeat_interval=1, spam_protection_enabled=False,
                eclipse_protection_enabled=False, max_pending_messages_per_peer=MANY,
            )  # fmt: skip
            pubsub = Pubsub(host, router, cache_size=MANY, strict_signing=True)
            await self._held.enter_async_context(background_trio_service(router))
            await self._held.enter_async_context(background_trio_service(pubsub))
            await pubsub.wait_until_ready()
            hosts.append(host)
            self._nodes.append(pubsub)
        for index, host in enumerate(hosts):
            for other in hosts[index + 1 :]:
                await host.connect(info_from_p2p_addr(other.get_addrs()[0]))
        for node in self._nodes:
            subscription = await node.subscribe(TOPIC)
            assert isinstance(subscription, TrioSubscriptionAPI)
            self._nursery.start_soon(self._read, node, subscription)
        wanted = min(nodes - 1, 4)
        deadline = time.monotonic() + MESH_S
        while any(len(node.router.mesh.get(TOPIC, ())) < wanted for node in self._nodes):
            if time.monotonic() > deadline:
                raise TimeoutError("the mesh did not form")
            await trio.sleep(POLL_S)
        return {"about": f"py-libp2p {version('libp2p')}, its message limits raised"}

    async def _read(self, node: Pubsub, subscription: TrioSubscriptionAPI) -> None:
        own = node.my_id.to_bytes()
        async for message in subscription:
            if message.from_id != own:
                self._flight.arrive(int.from_bytes(message.data[:8], "big"))

    async def _publish(self, author: int) -> None:
        self._number += 1
        self._flight.send(self._number)
        data = self._number.to_bytes(8, "big") + os.urandom(self._size - 8)
        await self._nodes[author].publish(TOPIC, data)

    async def _completion(self, seconds: float) -> None:
        with trio.move_on_after(seconds):
            await self._woken.wait()
        self._woken = trio.Event()

    def _wake(self) -> None:
        self._woken.set()  # the event is another one each time

    def _begin(self) -> Flight:
        self._flight = Flight(len(self._nodes) - 1)
        self._flight.on_complete = self._wake
        self._woken = trio.Event()
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
            await trio.sleep(POLL_S)
        return {**flight.result(), "ms": []}


async def _main() -> None:
    async with trio.open_nursery() as nursery, AsyncExitStack() as held:
        system = System(nursery, held)
        commands: dict[str, Callable[..., Awaitable[dict[str, Any]]]]
        commands = {"start": system.start, "latency": system.latency, "rate": system.rate}
        while line := await trio.to_thread.run_sync(sys.stdin.readline):
            command = json.loads(line)
            try:
                answer = await commands[command.pop("do")](**command)
            except Exception as error:  # noqa: BLE001  whatever it is, the caller is told
                answer = {"error": repr(error)}
            print(json.dumps(answer), flush=True)
        os._exit(0)  # its services take minutes to end, and nothing is left to keep


if __name__ == "__main__":
    trio.run(_main)
