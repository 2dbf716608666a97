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
from node import access, message_rotation, own_dates, ownkeys, tls_rotation
from node.clock import Clock, rfc3339
from node.config import Config
from node.core import Core
from node.key_lives import (
    DAY_MS,
    LIVES,
    Due,
    Key,
    Purpose,
    Stage,
    due,
    keys_of,
    rotatable,
)
from node.signer_client import signer_notices
from node.words import counted
from protocol import limits, suite
from protocol.approval import Kind
from protocol.armor import dearmor_block
from protocol.canonical import encode
from protocol.errors import ConflictError, DecodeError, PeerError, RequestError, TrustConflictError

_CODE_SIZE: Final = 32
SUSPENSION: Final = "suspension"
_ELSEWHERE: Final = "it does not lie here: make a new one in its token or signer"
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
        lives = self.lives()
        acts = {found.key.purpose: found for found in due(lives, self._clock.now())}
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
            "keys": [self._key(key, acts.get(key.purpose)) for key in lives],
            "tls_waits_for": list(tls_rotation.waits_for(core)),
            "statements": [
                {"number": s.n, "type": s.type, "issued": rfc3339(s.issued)} for s in own.statements
            ],
        }

    def lives(self) -> tuple[Key, ...]:
        """Return every key in use, since when and until when."""
        vault, own, card = self._core.vault, self._core.trust.own, self._core.card
        here = vault is None or rotatable(vault.message)
        return keys_of(own, card, message_rotatable=here)

    def _key(self, key: Key, act: Due | None) -> Row:
        life = LIVES[key.purpose]
        return {
            "purpose": key.purpose.value,
            "since": rfc3339(key.since),
            "until": None if key.until is None else rfc3339(key.until),
            "itself": life.itself if key.rotatable else "",
            "person": life.person if key.rotatable else _ELSEWHERE,
            "due": act is not None and act.person,
        }

    def ends(self) -> dict[str, int]:
        """Return when each kind of key ends (UTC, in whole seconds), for those that do."""
        return {k.purpose.value: k.until // 1_000 for k in self.lives() if k.until is not None}

    def rotate_identity(self, passphrase: str, code: str) -> Row:
        """Put the next identity key in force; a new recovery sheet lies in the home then.

        Raises:
            ApprovalNeededError: other operators have to approve it.
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

    def rotate_message(self) -> Row:
        """Make a new message key and a card with it, at once; the old one is destroyed.

        Raises:
            ConflictError: it lies in a token or another process.
        """
        self._check_running()
        self._core.keys_open()
        return {"number": message_rotation.rotate(self._core).n}

    def rotate_tls(self, *, at_once: bool) -> Row:
        """Announce a new certificate for links; with *at_once*, use it without waiting for peers.

        Raises:
            ConflictError: one is announced already, and not to be used at once.
        """
        self._check_running()
        self._core.keys_open()
        announced = len(self._core.card.tls) > 1
        if not (announced and at_once):
            tls_rotation.announce(self._core)
        if at_once:
            tls_rotation.use(self._core)
        waits = tls_rotation.waits_for(self._core)
        return {"number": self._core.card_n, "used": at_once, "waits_for": list(waits)}

    # --- lost keys ---------------------------------------------------------------------------
    def exposed(self, *, key: str, since: str, until: str) -> Row:
        """Return what sealing keys that were lost have opened, by author.

        Raises:
            RequestError: it is not said what was lost, or cannot be read.
            NotFoundError: this node never had such a key.
        """
        book = self._core.exposures
        return book.shown(book.loss(key=key, since=since, until=until))

    def tell_exposed(self, *, key: str, since: str, until: str) -> Row:
        """Put a new sealing key in use if a lost one is, and tell the authors; return what is told.

        Raises:
            RequestError, NotFoundError: as for ``exposed``; nothing was changed.
            LockedError: the node is locked.
        """
        self._check_running()
        self._core.keys_open()
        book = self._core.exposures
        loss = book.loss(key=key, since=since, until=until)
        fresh = bool(loss.ekids & {each.ekid for each in self._core.card.seal})
        replaced = None
        if fresh:
            ownkeys.rotate_sealing(self._core)
            replaced = self._core.trust.own.head.issued
        records = book.note(loss, who=access.OPERATOR, replaced=replaced)
        return {
            **book.shown(loss), "new_key": fresh, "number": self._core.card_n,
            "records": records, "waits_for": book.unheard(),
        }  # fmt: skip

    def exposures(self) -> Row:
        """Return what was told of lost keys: by this node, and by peers."""
        return {"items": self._core.exposures.told(), "waits_for": self._core.exposures.unheard()}

    def revoke(self, code: str) -> Row:
        """End this node's identity for good.

        Raises:
            ApprovalNeededError: other operators have to approve it.
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
    def confirm(
        self, peer: Peer, *, digits: str, method: str, by: str, who: str = access.OPERATOR
    ) -> Row:
        """Say that a peer's own people confirm that it has recovered; *who* is as for approving.

        Raises:
            ApprovalNeededError: it gets back the level share, which others have to approve.
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
        permit = self._permit(peer, check, who=who)
        counts = self._core.statements.confirm(peer.node_id, check, also=permit)
        waiting = [p for p in self._core.statements.pending() if p.node_id == peer.node_id]
        from_when = max((each.counts_from for each in waiting), default=self._clock.now())
        return {"name": peer.name, "counts": counts, "counts_from": rfc3339(from_when)}

    def _permit(self, peer: Peer, check: Verification, *, who: str) -> Callable[[], None]:
        """Return what uses the approval of a recovery, if its keys get the level share by it."""
        waiting = self._core.statements.awaiting(peer.node_id)
        if self._core.trust.peer(peer.node_id).given is not Level.SHARE:
            return lambda: None
        # Of exactly these: one that comes while operators vote is another matter.
        recoveries = suite.digest("recoveries", encode(sorted(each.digest for each in waiting)))
        subject = (peer.node_id, check.method, check.by, recoveries)
        return self._core.approvals.require(Kind.RAISE_TRUST, subject, who=who, about=peer.name).use

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
        yield from signer_notices(self._core.vault, self._config.signer)
        if book.hindered is not None:
            message = f"this node could not renew its card or keys: {book.hindered.message}"
            yield "keys-not-renewed", message, book.hindered.fix
        yield from own_dates.ahead_notice(self._core)
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
        yield from self._life_notices()
        yield from self._exposure_notices()

    def _suspension_notices(self) -> Iterator[tuple[str, str, str]]:
        for node_id, until in sorted(self._core.trust.suspended.items()):
            name = self._name(node_id)
            message = f"the directory suspends {name} until {rfc3339(until)}"
            yield "suspended", message, f"nothing is sent to it; ask the directory, or call {name}"

    def _exposure_notices(self) -> Iterator[tuple[str, str, str]]:
        for name, what in self._core.exposures.news():
            message = f"{name} has lost a key: who has it can read {what} of this node"
            yield "exposed-there", message, "see what stands in them: picket keys exposures"
        waiting = self._core.exposures.unheard()
        if waiting:
            message = f"not told of the lost key yet: {', '.join(waiting)}"
            yield "exposure-waiting", message, "they hear of it when they are linked; or call them"
        for name, wrong in self._core.seal_proofs.doubtful():
            what = "showed wrongly" if wrong else "has not shown for a day"
            message = f"{name} {what} that it has the sealing key on its card"
            yield "seal-key-unproven", message, f"ask {name} to unlock its node, or for a new card"

    def _life_notices(self) -> Iterator[tuple[str, str, str]]:
        now = self._clock.now()
        for found in due(self.lives(), now):
            key = found.key
            if not found.person or key.purpose is Purpose.CARD or key.until is None:
                continue  # the card's end has a notice of its own
            when = f"in {counted(-(-(key.until - now) // DAY_MS), 'day')}"
            if found.stage is Stage.OVER:
                when = f"since {rfc3339(key.until)}"
            message = f"a new {key.purpose} key is due {when}"
            if found.itself:
                yield "key-not-renewed", message, "unlock the node: it renews that by itself"
            elif key.rotatable:
                yield "key-due", message, LIVES[key.purpose].person
            else:
                yield "key-due", message, _ELSEWHERE

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
It is needed if the identity key is lost or stolen.

    {format_code(following)}

Print this sheet, and lock the paper away. Then delete this file: as long as it
is on this machine, a thief of the machine has the identity too. The code cannot
be made again.

Only when this paper is locked away, destroy the recovery codes on all older
sheets: the last of them stands for the key that is in use now. Keep the
REVOCATION CODE, which is still that of the first sheet.
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
