"""Knocking: what a node does whose link a peer refuses because it does not know it yet.

- It knocks at once, and then at most every 10 minutes, each time after twice as long, up to 4 h.
- The peer's answer is the same whatever its operators decided. So all that is known is that the
  request has come; a person has to call, and that is what status says.
- Another fault of the link (no network, another certificate, another network) is never taken for a
  missing approval: only a peer that proved its pinned certificate and then hung up is knocked at.
"""

from __future__ import annotations

import json
import shlex
from dataclasses import dataclass
from http import HTTPStatus
from typing import Final, Protocol

from keys.identity import ServiceKeys
from keys.trust import Peer, TrustStore
from node.clock import Clock
from node.visiting import Answer, visit
from protocol import limits
from protocol.errors import (
    ExpiredError,
    LimitError,
    LinkError,
    NotApprovedError,
    NotKnownError,
)
from protocol.knock import PATH, make_knock

_MAX_ANSWER: Final = 1_024
_HOUR_MS: Final = 3_600_000
_MINUTE_MS: Final = 60_000


class Caller(Protocol):
    """What knocking needs of the node that knocks."""

    trust: TrustStore
    keys: ServiceKeys


@dataclass(slots=True)
class _Tries:
    """What is known of knocking at one peer; ``due`` is monotonic ms, ``taken`` UTC ms."""

    due: int = 0
    count: int = 0
    taken: int | None = None
    fault: LinkError | None = None


class Knocker:
    """Asks peers that refuse this node's links to look at its card."""

    def __init__(self, core: Caller, *, clock: Clock) -> None:
        """Prepare; every start of the node knocks anew."""
        self._core, self._clock = core, clock
        self._tries: dict[bytes, _Tries] = {}
        self.asked: dict[bytes, int] = {}
        """Which peers refuse this node and have taken its knock, and when (UTC ms)."""

    def begin(self, node_id: bytes) -> None:
        """Note that *node_id* is dialled again: what comes of it is not known."""
        self.asked.pop(node_id, None)

    def linked(self, node_id: bytes) -> None:
        """Note that *node_id* took a link: it knows this node."""
        self.asked.pop(node_id, None)
        self._tries.pop(node_id, None)

    async def explain(self, peer: Peer, endpoint: str, error: LinkError) -> LinkError:
        """Return what to say of a link to *endpoint* that failed with *error*; knock if it is due.

        Only where the peer does not know this node it is another error than *error*.
        """
        if not isinstance(error, NotKnownError):
            return error
        tries = self._tries.setdefault(peer.node_id, _Tries())
        now = self._clock.monotonic()
        if now >= tries.due:
            wait = min(limits.KNOCK_EVERY_MS << min(tries.count, 8), limits.KNOCK_EVERY_MAX_MS)
            tries.due, tries.count = now + wait, tries.count + 1
            tries.fault = await self._knock(peer, endpoint)
            if tries.fault is None:
                tries.taken = self._clock.now()
        if tries.taken is not None:
            self.asked[peer.node_id] = tries.taken
            return not_approved(peer)
        return tries.fault or error

    async def _knock(self, peer: Peer, endpoint: str) -> LinkError | None:
        """Knock once; return what went wrong, None if the peer has taken it."""
        core = self._core

        def body(certificate: bytes) -> bytes:
            return make_knock(
                core.trust.own, certificate=certificate, now=self._clock.now(),
                signer=core.keys.link,
            )  # fmt: skip

        try:
            answer = await visit(
                endpoint, "POST", PATH, body=body, expected=peer.certificates, maximum=_MAX_ANSWER
            )
        except LinkError:
            return None if self._was_taken(peer) else _unheard(peer)
        except LimitError as error:
            return NotKnownError(error.message, fix=error.fix)
        return self._fault(peer, answer)

    def _was_taken(self, peer: Peer) -> bool:
        return self._tries[peer.node_id].taken is not None

    def _fault(self, peer: Peer, answer: Answer) -> LinkError | None:
        if answer.status == HTTPStatus.OK:
            return None
        code = _code(answer.body)
        apart = 0 if answer.date is None else answer.date - self._clock.now()
        if code == ExpiredError.code and abs(apart) > limits.KNOCK_WINDOW_MS:
            return NotKnownError(
                f"it does not know this node yet, and its clock is {_span(apart)} this one",
                fix="set the clock of the machine that is wrong; this node asks again by itself",
            )
        if code is not None:
            return NotKnownError(
                f"it does not know this node yet, and does not take its request ({code})",
                fix=f"send {peer.name} this node's card: picket keys card --out my.card",
            )
        return _unheard(peer)


def not_approved(peer: Peer) -> NotApprovedError:
    """Return what to say of a peer that has this node's request and has not added it."""
    return NotApprovedError(
        f"{peer.name} has not approved this node yet; its node has this node's request",
        fix=call_it(peer.name),
    )


def call_it(name: str) -> str:
    """Return what to do about a peer that has not approved this node."""
    return (
        f"call the duty desk of {name} on a number that you know, and compare: "
        f"picket peers number {shlex.quote(name)}"
    )


def ask_to_confirm(name: str) -> str:
    """Return what to do about a peer that does not count this node's recovery yet."""
    return (
        f"call the duty desk of {name} on a number that you know, and ask it to run "
        "picket peers confirm, with the name that it has for this node"
    )


def _unheard(peer: Peer) -> NotKnownError:
    return NotKnownError(
        "it does not know this node yet, and takes no request just now",
        fix=f"this node asks again; or send {peer.name} its card: picket keys card --out my.card",
    )


def _code(body: bytes) -> str | None:
    try:
        value = json.loads(body)
    except ValueError:
        return None
    code = value.get("code") if isinstance(value, dict) else None
    fine = isinstance(code, str) and len(code) <= limits.MAX_CODE and code.isprintable()
    return code if fine else None


def _span(apart: int) -> str:
    direction = "ahead of" if apart > 0 else "behind"
    hours, minutes = abs(apart) // _HOUR_MS, abs(apart) // _MINUTE_MS
    return f"{hours} h {direction}" if hours else f"{minutes} min {direction}"
