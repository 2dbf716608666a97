"""What an operator may ask of this node's own keys and of those of peers, as JSON-able values."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Final

from keys.fingerprint import (
    format_code,
    format_node_id,
    parse_code,
    verify_safety_number,
)
from keys.identity import Random
from keys.keystore import change_passphrase, normalise_passphrase
from keys.trust import METHODS, Level, Peer, Verification
from node import ownkeys
from node.clock import Clock, rfc3339
from node.config import Config
from node.core import Core
from node.words import counted
from protocol import limits
from protocol.armor import dearmor_block
from protocol.errors import ConflictError, DecodeError, PeerError, RequestError, TrustConflictError

_CODE_SIZE: Final = 32
SUSPENSION: Final = "suspension"
Row = dict[str, Any]


class KeyDesk:
    """Operations on keys, over a Core."""

    def __init__(
        self,
        core: Core,
        *,
        config: Config,
        clock: Clock,
        random: Random,
        name: Callable[[bytes], str],
        running: bool = False,
    ) -> None:
        """Serve *core*; *name* says what a node is called here."""
        self._running = running
        self._core, self._config, self._clock = core, config, clock
        self._random, self._name = random, name

    # --- our own -----------------------------------------------------------------------------
    def status(self) -> Row:
        """Return what this node says of its own keys, and when they end."""
        core, own = self._core, self._core.trust.own
        vault = core.vault
        listed = {key.public for key in core.card.seal}
        kept = 0 if vault is None else len(set(vault.seal_publics) - listed)
        return {
            "node_id": format_node_id(own.node_id),
            "revoked": core.statements.revoked,
            "misused": core.statements.misused is not None,
            "card": {"number": core.card_n, "expires": rfc3339(core.card.expires)},
            "sealing": [
                {"since": rfc3339(key.not_before), "expires": rfc3339(key.not_after)}
                for key in core.card.seal
            ],
            "old_sealing_keys": kept,
            "statements": [
                {"number": s.n, "type": s.type, "issued": rfc3339(s.issued)} for s in own.statements
            ],
        }

    def rotate_identity(self, passphrase: str, code: str) -> Row:
        """Put the next identity key in force; a new recovery sheet lies in the home then.

        Raises:
            RequestError: it is another code; nothing was changed.
            ConflictError: the last sheet is still on this machine.
        """
        self._check_running()
        following = self._random(_CODE_SIZE)
        ownkeys.rotate_identity(
            self._core, passphrase=passphrase.encode(), code=parse_typed_code(code),
            sheet=self._sheet(following), following=following,
        )  # fmt: skip
        return {"number": self._core.card_n, "recovery_sheet": str(self._core.home.recovery_sheet)}

    def _sheet(self, following: bytes) -> str:
        return sheet_text(
            self._config, self._core.node_id, following=following, now=self._clock.now()
        )

    def _check_running(self) -> None:
        """Check that a peer could say which statements this node has lost, if it has been linked.

        Raises:
            ConflictError: the node does not run.
        """
        if not self._running and self._core.has_been_linked():
            raise ConflictError(
                "the node does not run, so no peer can say which number comes next",
                fix="start it, and try again half a minute later",
            )

    def rotate_sealing(self) -> Row:
        """Make a new sealing key and a card with it, at once."""
        self._check_running()
        card = ownkeys.rotate_sealing(self._core)
        return {"number": card.n}

    def revoke(self, code: str) -> Row:
        """End this node's identity for good.

        Raises:
            RequestError: it is another code; nothing was changed.
        """
        ownkeys.revoke(self._core, parse_typed_code(code))
        return {"revoked": True}

    def change_passphrase(self, old: str, new: str) -> Row:
        """Seal the keystore under another passphrase.

        Raises:
            WrongPassphraseError: *old* does not open it.
        """
        change_passphrase(self._core.home.keystore, old.encode(), normalise_passphrase(new))
        return {"changed": True}

    # --- peers -------------------------------------------------------------------------------
    def confirm(self, peer: Peer, *, digits: str, method: str, by: str) -> Row:
        """Say that a peer's own people confirm that it has recovered.

        Raises:
            TrustConflictError: the digits differ, or nothing waits for it.
            RequestError: the digits are none, or something is missing.
        """
        if method not in METHODS:
            raise TrustConflictError(
                f"{method!r} is no way of comparing", fix=f"choose one of {', '.join(METHODS)}"
            )
        if not by.strip() or len(by) > limits.MAX_NAME:
            raise RequestError("by is empty or too long", fix="say who compared the number")
        own = self._core.trust.own
        try:
            verify_safety_number(digits, own.node_id, peer.node_id, network=own.network)
        except DecodeError as error:  # typed here, by no peer
            raise RequestError(error.message, fix=error.fix) from None
        check = Verification(method, by.strip(), self._clock.now())
        counts = self._core.statements.confirm(peer.node_id, check)
        waiting = [p for p in self._core.statements.pending() if p.node_id == peer.node_id]
        from_when = max((each.counts_from for each in waiting), default=self._clock.now())
        return {"name": peer.name, "counts": counts, "counts_from": rfc3339(from_when)}

    def suspend(self, armoured: str) -> Row:
        """Follow a suspension by the directory that this node has chosen.

        Raises:
            PeerError: it is not signed by enough of its keys, is over, or about no peer.
        """
        wire = dearmor_block(SUSPENSION, armoured, maximum=limits.MAX_SUSPENSION)
        suspension = self._core.statements.suspend(wire)
        return {
            "name": self._name(suspension.node_id), "until": rfc3339(suspension.until),
            "reason": suspension.reason,
        }  # fmt: skip

    # --- notices -----------------------------------------------------------------------------
    def notices(self) -> Iterator[tuple[str, str, str]]:
        """Return what needs a person: code, message and what to do."""
        book = self._core.statements
        if book.revoked:
            message = "this node's identity is revoked: peers take nothing of it any more"
            yield "own-revoked", message, "make a new identity: picket init --home ANOTHER"
        if book.misused is not None and not book.revoked:
            message = (
                "somebody else signed with this node's identity key, or this home is an old copy"
            )
            fix = "take the recovery sheet out of the safe and run: picket keys recover"
            yield "identity-misused", message, fix
        if book.hindered is not None:
            message = f"this node could not renew its card or keys: {book.hindered.message}"
            yield "keys-not-renewed", message, book.hindered.fix
        for pending in book.pending():
            name = self._name(pending.node_id)
            message = f"{name} says that its keys were lost or stolen and that it has new ones"
            if pending.confirmed_by is None:
                fix = f"call it on a number you know; if it is true: picket peers confirm {name}"
            else:
                message += f"; {pending.confirmed_by} confirmed it"
                fix = f"its new keys count from {rfc3339(pending.counts_from)} on"
            yield "recovery", message, fix
        for peer in sorted(self._core.trust.peers.values(), key=lambda each: each.name):
            if peer.level is Level.REVOKED:
                message = f"{peer.name} has revoked its identity: it is over for good"
                yield "revoked", message, f"ask {peer.name} for the card of its new node"
            if peer.level is Level.FROZEN and peer.aside is not None and peer.given is not None:
                message = f"{peer.name} is frozen: its key statements contradict each other"
                yield "frozen", message, f"its keys may be stolen: call {peer.name}"
        yield from self._suspension_notices()
        yield from self._doubtful_notices()

    def _suspension_notices(self) -> Iterator[tuple[str, str, str]]:
        for node_id, until in sorted(self._core.trust.suspended.items()):
            name = self._name(node_id)
            message = f"the directory suspends {name} until {rfc3339(until)}"
            yield "suspended", message, f"nothing is sent to it; ask the directory, or call {name}"

    def _doubtful_notices(self) -> Iterator[tuple[str, str, str]]:
        for peer in self._core.trust.peers.values():
            count = self._core.statements.doubtful(peer)
            if count:
                held = counted(count, "envelope was", "envelopes were")
                message = f"{held} taken under keys that {peer.name} says were stolen"
                yield "doubtful", message, f"go through what came of {peer.name} with its people"


def sheet_text(config: Config, node_id: bytes, *, following: bytes, now: int) -> str:
    """Return the text of a recovery sheet that replaces an earlier one."""
    return f"""PICKET RECOVERY SHEET                                   made {rfc3339(now)}

Authority   {config.node.authority} ({config.node.country})
Network     {config.node.network}
Node        {format_node_id(node_id)}

RECOVERY CODE: whoever holds it can take over this node's identity.
It is needed if the identity key is lost or stolen. Destroy the recovery codes
on all older sheets: the last of them stands for the key that is in use now.
Keep the REVOCATION CODE, which is still that of the first sheet.

    {format_code(following)}

Print this sheet, and lock the paper away. Then delete this file: as long as it
is on this machine, a thief of the machine has the identity too. The code cannot
be made again.
"""


def parse_typed_code(text: str) -> bytes:
    """Return the code that somebody typed from paper.

    Raises:
        RequestError: it has a mistake; names the group.
    """
    try:
        return parse_code(text)
    except PeerError as error:  # typed here, by no peer
        raise RequestError(f"the code: {error.message}", fix=error.fix) from None
