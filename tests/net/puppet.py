"""A peer that the test drives: real keys, card, log and TLS, but it says what the test wants.

Its home is an ordinary node's, opened in the test's own process, so that the envelopes and receipts
it makes are genuine. Its card names no endpoint, so nobody dials it: every link is one that the
test made. Links live on one thread with a loop of its own; tests stay synchronous.
"""

from __future__ import annotations

import asyncio
import secrets
import selectors
import threading
from collections.abc import Coroutine, Sequence
from contextlib import ExitStack, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, Final, TypeVar

from keys.trust import Level, Peer, Verification
from node.app import initialise, open_core, unlock
from node.clock import SystemClock
from node.config import load_config
from node.core import Core, Shipment
from node.demo import NETWORK
from node.home import Home
from node.intake import id_of
from node.transport import Link, dial
from protocol import suite
from protocol.armor import armor
from protocol.canonical import encode
from protocol.envelope import Envelope
from protocol.errors import LinkError
from protocol.frames import (
    SHORT_ID,
    VERSION,
    Bye,
    Deliver,
    Frame,
    Hello,
    Proof,
    Receipts,
    Refuse,
    Runs,
    Tagger,
    Transcript,
    decode_frame,
    encode_frame,
    proof_label,
)
from protocol.incident import parse_incident, to_record
from protocol.receipt import complete
from protocol.statement import Chain, make_bundle
from tests.net.harness import PATIENCE_S, Node, incident, introduce, wait

PASSPHRASE: Final = b"the passphrase of a puppet"
_T = TypeVar("_T")
_F = TypeVar("_F")


class NotLetInError(Exception):
    """The node took the connection and ended it before it said anything."""


class PuppetLink:
    """One link of a puppet to a real node; keeps every frame that came."""

    def __init__(self, puppet: Puppet, chain: Chain, link: Link, transcript: Transcript) -> None:
        """Wrap an open *link* whose hellos were exchanged."""
        self._puppet = puppet
        self._chain = chain
        self._link = link
        self._out = Tagger(transcript, from_dialer=True)
        self._in = Tagger(transcript, from_dialer=False)
        self._reader: asyncio.Task[None] | None = None
        self.frames: list[Frame] = []
        self.payloads: list[bytes] = []
        self.ended = False

    # --- saying ------------------------------------------------------------------------------
    def send(self, frame: Frame) -> None:
        """Send one frame as it should be."""
        self.send_payload(encode_frame(frame))

    def send_payload(self, payload: bytes) -> None:
        """Send any bytes with the right tag."""
        self._puppet.run(self._link.send(self._out.wrap(payload)))

    def send_message(self, message: bytes) -> None:
        """Send any bytes as one message, without a tag."""
        self._puppet.run(self._link.send(message))

    def flood(self, frame: Frame, count: int, seconds: float) -> int:
        """Send *frame* up to *count* times in *seconds*; return how many were taken."""
        payload = encode_frame(frame)

        async def pour() -> int:
            sent = 0
            try:
                async with asyncio.timeout(seconds):
                    while sent < count:
                        await self._link.send(self._out.wrap(payload))
                        sent += 1
            except (LinkError, TimeoutError):
                pass  # either is a fair answer to a flood
            return sent

        return self._puppet.run(pour(), seconds + PATIENCE_S)

    def flood_message(self, message: bytes) -> None:
        """Send one message that the node may cut short."""

        async def push() -> None:
            with suppress(LinkError):
                await self._link.send(message)

        self._puppet.run(push())

    def close(self) -> None:
        """Close the link."""
        self._puppet.run(self._close())

    async def _close(self) -> None:
        if self._reader is not None:
            self._reader.cancel()
            await asyncio.gather(self._reader, return_exceptions=True)
        await self._link.close("done")
        self.ended = True

    # --- hearing -----------------------------------------------------------------------------
    def read(self) -> None:
        """Begin to read what comes."""
        self._puppet.run(self._begin())

    async def _begin(self) -> None:
        self._reader = asyncio.create_task(self._read())

    async def _read(self) -> None:
        try:
            while (message := await self._link.receive()) is not None:
                payload = self._in.unwrap(message)
                self.payloads.append(payload)
                self.frames.append(decode_frame(payload))
        except LinkError:
            pass  # cut without a goodbye; `ended` says so
        finally:
            self.ended = True

    def of(self, kind: type[_F]) -> list[_F]:
        """Return the frames of one kind that came."""
        return [frame for frame in list(self.frames) if isinstance(frame, kind)]

    def expect(self, kind: type[_F], count: int = 1) -> list[_F]:
        """Wait until *count* frames of one kind came, and return all of that kind."""
        wait(lambda: len(self.of(kind)) >= count, f"{count} {kind.__name__}, got {self.frames}")
        return self.of(kind)

    def expect_end(self) -> str:
        """Wait until the node ended the link; return the code of its goodbye, if it said any."""
        wait(lambda: self.ended, "the node to end the link")
        goodbyes = self.of(Bye)
        return goodbyes[-1].code if goodbyes else ""

    def delivered(self, count: int = 1) -> list[bytes]:
        """Wait until *count* envelopes came, and return them."""
        wait(lambda: len(self._wires()) >= count, f"{count} envelopes")
        return self._wires()

    def _wires(self) -> list[bytes]:
        return [wire for frame in self.of(Deliver) for wire in frame.wires]

    # --- both --------------------------------------------------------------------------------
    def deliver(self, *wires: bytes) -> Receipts | Runs | Refuse:
        """Deliver envelopes in one frame and return the node's answer to it, with whole ids."""
        before = len(self.answers())
        self.send(Deliver(wires))
        wait(lambda: len(self.answers()) > before, "an answer to a delivery")
        answer = self.answers()[before]
        if isinstance(answer, Runs):
            return complete(answer, {key[:SHORT_ID]: key for key in map(id_of, wires)})
        return answer

    def answers(self) -> list[Receipts | Runs | Refuse]:
        """Return what the node answered to deliveries."""
        return [f for f in list(self.frames) if isinstance(f, Receipts | Runs | Refuse)]


class Puppet:
    """A peer under the test's control."""

    def __init__(self, folder: Path, name: str, *, country: str = "XP") -> None:
        """Make its keys, card and databases in *folder*/*name*."""
        self.name = name
        self.home = Home(folder / name)
        initialise(
            self.home.path,
            {
                "node.authority": name.title(),
                "node.country": country,
                "node.network": NETWORK,
                "node.contact": f"duty@{name}.example",
                "peer.listen": "",
                "http.listen": "",
            },
            PASSPHRASE,
        )
        self._stack = ExitStack()
        config = load_config(self.home)
        self.core: Core = self._stack.enter_context(open_core(self.home, config, SystemClock()))
        unlock(self.core, config, lambda: PASSPHRASE)
        self._selector = selectors.DefaultSelector()
        self._loop = asyncio.SelectorEventLoop(self._selector)
        self._thread = threading.Thread(target=self._loop.run_forever)
        self._thread.start()
        self._links: list[PuppetLink] = []

    def __enter__(self) -> Puppet:
        return self

    def __exit__(self, *_: object) -> None:
        for link in self._links:
            link.close()
        # What is left is the loop's own way of being woken; a transport closes only in the loop.
        wait(lambda: len(self._selector.get_map()) == 1, "the puppet's sockets to close")
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()
        self._stack.close()

    def run(self, work: Coroutine[Any, Any, _T], seconds: float = PATIENCE_S) -> _T:
        """Run *work* on the links' loop and return its result."""
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(seconds)

    @property
    def id(self) -> bytes:
        """The node id."""
        return self.core.node_id

    @property
    def card(self) -> str:
        """The armoured card."""
        return armor(make_bundle(self.core.trust.own))

    # --- trust -------------------------------------------------------------------------------
    def befriend(self, node: Node, *, level: str | None = "share") -> None:
        """Let *node* and the puppet know each other, at *level* there (None: added only)."""
        introduce(node, self.name, self.card, level=level)
        self.know(node.chain(), node.key)

    def know(self, chain: Chain, name: str) -> None:
        """Pin another node here and trust it fully."""
        self.core.add_peer(chain, name)
        self.core.approve_peer(chain.node_id, Level.SHARE, Verification("voice", "test", 1))

    # --- links -------------------------------------------------------------------------------
    def link(self, node: Node, *, reads: bool = True) -> PuppetLink:
        """Dial *node*, and prove oneself; read what comes if *reads*."""
        link = self.run(self._handshake(node))
        if reads:
            link.read()
            wait(lambda: node_sees(node, self.name), f"the link of {self.name}")
        return link

    def link_again(self, node: Node) -> PuppetLink:
        """Dial *node* until it lets us in: it keeps a peer out for a while after some faults."""
        links: list[PuppetLink] = []

        def let_in() -> bool:
            with suppress(NotLetInError):
                links.append(self.link(node))
            return bool(links)

        wait(let_in, f"{node.key} to let {self.name} in again")
        return links[0]

    async def _handshake(self, node: Node) -> PuppetLink:
        peer = self.core.trust.find(node.key)
        link = await dial(
            f"wss://127.0.0.1:{node.port}", identity_pem=self.home.tls_pem, expected=peer.card.tls
        )
        try:
            return await self._introduce(link, peer)
        except BaseException:
            await link.close("failed")
            raise

    async def _introduce(self, link: Link, peer: Peer) -> PuppetLink:
        own = self.core.trust.own
        hello = encode_frame(
            Hello((VERSION,), own.network, own.node_id, secrets.token_bytes(32), own.head.n,
                  own.head.digest)
        )  # fmt: skip
        await link.send(hello)
        answer = await link.receive()
        if answer is None:
            raise NotLetInError("the node ended the link over our hello")
        assert isinstance(decode_frame(answer), Hello)
        transcript = Transcript(
            hello,
            answer,
            suite.digest("certificate", self.core.card.tls[0]),
            suite.digest("certificate", link.peer_certificate),
        )
        puppet_link = PuppetLink(self, peer.chain, link, transcript)
        self._links.append(puppet_link)
        label = suite.label(proof_label(dialer=True))
        proof = Proof(*self.core.keys.link.sign(label + transcript.digest))
        await link.send(puppet_link._out.wrap(encode_frame(proof)))
        theirs = await link.receive()
        assert theirs is not None, "the node ended the link over our proof"
        told = decode_frame(puppet_link._in.unwrap(theirs))
        assert isinstance(told, Proof)
        suite.verify_hybrid(
            proof_label(dialer=False), peer.card.link, transcript.digest,
            (told.ed25519, told.mldsa65),
        )  # fmt: skip
        return puppet_link

    # --- what it makes -----------------------------------------------------------------------
    def release(
        self, summary: str, to: Sequence[bytes], carriers: Sequence[bytes] = ()
    ) -> Envelope:
        """Seal an incident to the nodes *to*, and log it here; deliver nothing."""
        incident_id = f"{secrets.token_hex(4)}-0000-4000-8000-{secrets.token_hex(6)}"
        record = to_record(
            parse_incident(incident(summary)), incident_id=incident_id, ref="PI-XP-2026-7K3F9Q",
            revision=1, prev=None, layers=frozenset({"face"}),
            first_shared_at="2026-03-04T08:20:00Z",
        )  # fmt: skip
        recipients = {node_id: self.core.trust.peer(node_id).card for node_id in to}
        shipment = Shipment(encode(record), "face", recipients, tuple(carriers))
        (envelope_id,) = self.core.release(secrets.token_bytes(32), [shipment])
        held = self.core.held(envelope_id)
        assert held is not None
        return held

    def receipts(self, wire: bytes, giver: bytes) -> Receipts:
        """Take an envelope into the puppet's log, and return the genuine receipt of it."""
        taken = self.core.take([wire], giver=giver)
        assert taken.receipts, taken.refusals
        (receipts,) = taken.receipts
        assert isinstance(receipts, Receipts)
        return receipts


def forged(receipts: Receipts, **changes: Any) -> Receipts:  # noqa: ANN401  as replace takes them
    """Return a receipt with some fields of its one item changed."""
    return replace(receipts, items=(replace(receipts.items[0], **changes),))


def node_sees(node: Node, name: str) -> bool:
    """Whether *node* shows an open link with the peer *name*."""
    return bool(node.ask("GET", f"/api/v1/peers/{name}")["linked"])
