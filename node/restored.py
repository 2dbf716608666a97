"""What a node that was restored from a backup must not do, and until when.

- It signs nothing before it knows that it is not behind: every peer that was around when the backup
  was made has to have shown what it holds of this node's log, and it must all be here. There is no
  way out by time; an operator may say that nobody can know more.
- A peer that shows more makes it stop, as any old copy does (``Core.check_shown``). A new log is
  the way on then, and ``settled`` is told of it.
- Until an operator has gone through the trust levels of the backup it releases nothing: whom this
  node has trusted less since, it cannot know.
- All tokens of the backup end: some may have been revoked since.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from enum import IntEnum
from typing import Any, Final, Protocol

import structlog

from keys.trust import Peer, TrustStore
from node.backup import backup_act
from node.casebook import Casebook
from node.clock import Clock, rfc3339
from node.log import Log
from node.store import Store
from node.words import counted, minute
from protocol.canonical import decode, encode
from protocol.errors import BusyError, ConflictError, PeerError, RequestError, StoreError
from protocol.limits import MAX_NAME
from protocol.shape import array, uint

MARK: Final = "restored"
TOKENS: Final = "restored-tokens"
AROUND_MS: Final = 30 * 86_400_000
"""Who was linked within this time before the backup is waited for."""
_MAX_MARK: Final = 64
_log = structlog.get_logger()
Row = dict[str, Any]


class Stage(IntEnum):
    """How far a restored node has come."""

    WAITS = 0
    """It signs nothing."""
    UNCHECKED = 1
    """It signs; nobody has gone through the trust levels."""


@dataclass(frozen=True, slots=True)
class Mark:
    """That a home was made from a backup: of when, when (ms), and how far it has come since."""

    made_at: int
    restored_at: int
    stage: Stage = Stage.WAITS

    def encode(self) -> bytes:
        """Return what is stored."""
        return encode([self.made_at, self.restored_at, int(self.stage)])


def parse_mark(data: bytes) -> Mark:
    """Return the mark that *data* holds.

    Raises:
        DecodeError: it holds none.
    """
    row = array(decode(data, max_bytes=_MAX_MARK), "restored", size=3)
    return Mark(
        uint(row[0], "restored.made_at"), uint(row[1], "restored.at"),
        Stage(uint(row[2], "restored.stage", maximum=max(Stage))),
    )  # fmt: skip


class Owner(Protocol):
    """What this needs of the node that it belongs to."""

    trust: TrustStore
    signing_waits: bool

    def logged(self) -> Any:  # noqa: ANN401  a context manager
        """Run a block as one transaction that grows the log."""
        ...


class Restored:
    """Whether this node was restored, and what it waits for."""

    def __init__(self, owner: Owner, *, store: Store, log: Log, clock: Clock) -> None:
        """Read the mark.

        Raises:
            StoreError: it is damaged.
        """
        self._owner, self._store, self._log, self._clock = owner, store, log, clock
        stored = store.meta(MARK)
        try:
            self.mark = None if stored is None else parse_mark(stored)
        except PeerError as error:
            raise StoreError(
                f"node.db says that it was restored, but not when: {error}",
                fix="restore it again: picket restore FILE --home NEW",
            ) from None
        self._heard: set[bytes] = set()

    # --- signing -----------------------------------------------------------------------------
    @property
    def waits(self) -> bool:
        """Whether this node may sign nothing, however long it has run."""
        return self.mark is not None and self.mark.stage is Stage.WAITS

    def wanted(self) -> tuple[Peer, ...]:
        """Return the peers that were around when the backup was made, and show heads at all."""
        if self.mark is None:
            return ()
        rows = self._store.rows(
            "SELECT node_id FROM peers WHERE last_contact >= ?", self.mark.made_at - AROUND_MS
        )
        around = {row["node_id"] for row in rows}
        trust = self._owner.trust
        return tuple(
            peer for peer in trust.linkable()
            if peer.node_id in around and trust.gives_to(peer.node_id)
        )  # fmt: skip

    def missing(self) -> tuple[Peer, ...]:
        """Return those of them that have not shown yet what they hold."""
        return tuple(peer for peer in self.wanted() if peer.node_id not in self._heard)

    def heard(self, peer: bytes) -> None:
        """Note that *peer* has shown what it holds of this log, and that all of it is here."""
        self._heard.add(peer)

    def tick(self) -> None:
        """Let the node sign once all have shown what they hold.

        Raises:
            BusyError: the disk is full; it is tried again.
        """
        if self.waits and self.wanted() and not self.missing():
            with self._owner.logged():
                self.settled("its peers hold no more of this log")
            self._signs()

    def settled(self, how: str) -> None:
        """Note that it is known what this node may sign. Call inside a transaction."""
        if self.mark is None or self.mark.stage is not Stage.WAITS:
            return
        mark = replace(self.mark, stage=Stage.UNCHECKED)
        self._log.append([backup_act("restored", mark.made_at, mark.restored_at, how)])
        self._store.set_meta(MARK, mark.encode())

    def check_reopen(self, *, shown: bool) -> None:
        """Check that a new log may be begun; *shown* is whether a peer has shown a later head.

        Raises:
            ConflictError: a peer may hold cards that this node has forgotten, and whose numbers the
                new log's card would use again.
        """
        names = ", ".join(peer.name for peer in self.wanted())
        if self.waits and not shown and names:
            raise ConflictError(
                "no peer has shown yet what it holds of this log, nor given back the cards that "
                "this node has lost",
                fix=f"start the node first, until it is linked with one of: {names}",
            )

    def reload(self) -> None:
        """Read the mark again, after a transaction that may have changed it."""
        stored = self._store.meta(MARK)
        self.mark = None if stored is None else parse_mark(stored)

    def _signs(self) -> None:
        self.reload()
        self._owner.signing_waits = False
        _log.warning("restored-signs-again", size=self._log.size)

    def go_on(self, by: str) -> None:
        """Sign again because *by* says that nobody can know more of this log than is here.

        Raises:
            ConflictError: the node does not wait for that.
            RequestError: nobody says it.
        """
        name = _checked_name(by)
        if not self.waits:
            raise ConflictError("this node does not wait for that", fix="see: picket restored")
        absent = ", ".join(peer.name for peer in self.missing()) or "none"
        with self._owner.logged():
            self.settled(f"{name} says that nobody knows more; not heard: {absent}")
        self._signs()

    # --- releasing and trust -----------------------------------------------------------------
    def check_release(self) -> None:
        """Check that this node may release.

        Raises:
            BusyError: it signs nothing yet.
            ConflictError: nobody has gone through the trust levels.
        """
        if self.mark is None:
            return
        if self.mark.stage is Stage.WAITS:
            message, fix = self.words()
            raise BusyError(message, fix=fix)
        raise ConflictError(
            f"this node was restored from a backup of {minute(self.mark.made_at)}: whom it has "
            "trusted less since then it does not know, so it releases nothing",
            fix="go through the levels: picket restored",
        )

    def levels_checked(self, by: str, *, fetching: int) -> None:
        """Note that *by* has gone through the trust levels; then the node releases again.

        Raises:
            ConflictError: there is something to wait for first.
            RequestError: nobody says it.
        """
        name = _checked_name(by)
        mark = self.mark
        if mark is None:
            raise ConflictError("this node waits for nothing", fix="see: picket status")
        if mark.stage is Stage.WAITS:
            message, fix = self.words()
            raise ConflictError(message, fix=fix)
        if fetching:
            raise ConflictError(
                f"{counted(fetching, 'envelope')} of before the restore are still on their way "
                "here: a draft that was released already would be released twice",
                fix="try again in a minute",
            )
        with self._owner.logged():
            self._log.append([backup_act("levels-checked", self._clock.now(), name)])
            self._store.run("DELETE FROM meta WHERE key = ?", MARK)
        self.reload()

    def forget_tokens(self, cases: Casebook) -> None:
        """End all tokens of the backup, once, as soon as the node is unlocked."""
        if self._store.meta(TOKENS) is None:
            return
        for row in cases.tokens():
            cases.remove_token(row["id"])
        with self._store.transaction():
            self._store.run("DELETE FROM meta WHERE key = ?", TOKENS)

    # --- telling -----------------------------------------------------------------------------
    def words(self) -> tuple[str, str]:
        """Return what a node that waits tells its operator, and what to do."""
        assert self.mark is not None  # noqa: S101  only asked of a restored node
        since = f"this node was restored from a backup of {minute(self.mark.made_at)}"
        names = ", ".join(peer.name for peer in self.missing())
        if names:
            return (
                f"{since} and signs nothing before these have shown what they hold of its log: "
                f"{names}",
                "let it run until they are linked; who cannot be linked: picket restored",
            )
        return (
            f"{since} and signs nothing: no peer was linked that could know more of its log",
            "see what to do: picket restored",
        )

    def unchecked_words(self) -> tuple[str, str]:
        """Return what a node tells that signs, and whose trust levels nobody has gone through."""
        assert self.mark is not None  # noqa: S101  only asked of a restored node
        return (
            f"this node was restored from a backup of {minute(self.mark.made_at)}: its trust "
            "levels are those of then, what was erased since is back, all tokens have ended, and "
            "it releases nothing yet",
            "go through the levels: picket restored",
        )

    def behind(self, shown: int) -> tuple[str, str] | None:
        """Return words for a restored node of whose log a peer holds *shown* entries."""
        if self.mark is None:
            return None
        return (
            f"this node was restored from a backup of {minute(self.mark.made_at)} with "
            f"{self._log.size} log entries; since then it signed up to {shown}, as a peer shows. "
            "It must not go on with this log",
            "begin a new log on what is left: picket log reopen. But if another copy of this node "
            "runs anywhere, stop this one for good: they would contradict each other",
        )

    def row(self) -> Row | None:
        """Return how a restored node stands, for its operator."""
        mark = self.mark
        if mark is None:
            return None
        return {
            "made_at": rfc3339(mark.made_at), "restored_at": rfc3339(mark.restored_at),
            "signs": mark.stage is not Stage.WAITS,
            "heard": _names(p for p in self.wanted() if p.node_id in self._heard),
            "missing": _names(self.missing()),
            "levels": [
                {"name": peer.name, "level": peer.level.value,
                 "verified_by": peer.verification.by if peer.verification else None}
                for peer in sorted(self._owner.trust.peers.values(), key=lambda p: p.name)
            ],
        }  # fmt: skip


def _names(peers: Iterable[Peer]) -> list[str]:
    return [peer.name for peer in peers]


def _checked_name(by: str) -> str:
    if not by.strip() or len(by) > MAX_NAME:
        raise RequestError("by is empty or too long", fix="say who decides it")
    return by.strip()
