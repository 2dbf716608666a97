"""Versions of reference lists that peers propose: shown, and taken by an operator, never alone.

- A whole version of a peer at level share is a proposal until it is taken, or ignored, or a newer
  one of that peer has come. What contradicts itself is none.
- What is taken lies in case.db as an imported list does, and is deleted like one.
- No version of a peer follows one of the same peer that is as new or newer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, Final

from keys.trust import Level, Peer
from node.casebook import Casebook
from node.clock import Clock
from node.core import Core
from node.lists import ListDesk
from node.words import counted
from protocol.errors import ConflictError, NotFoundError, RequestError

if TYPE_CHECKING:
    from protocol.records_operations import ListRow

_MOST: Final = 50
"""Lists of peers that are looked at: the newest, so that no flood of names makes status slow."""
Row = dict[str, Any]


class ListUpdates:
    """The desk for proposed versions of lists, over a Core."""

    def __init__(
        self, core: Core, *, clock: Clock, lists: ListDesk, find: Callable[[str], Peer]
    ) -> None:
        """Serve *core*; *lists* keeps what is taken, *find* looks a peer up by what is typed."""
        self._core, self._clock, self._lists, self._find = core, clock, lists, find
        self._noticed: tuple[int, tuple[Row, ...]] | None = None

    # --- showing -----------------------------------------------------------------------------
    def proposals(self) -> Row:
        """Return the versions that wait for the operator, the newest first.

        Raises:
            LockedError: the node is locked.
        """
        _, cases = self._core.opened()
        pairs = cases.database.query(
            "SELECT subject AS name, author FROM items WHERE kind = 'list.update' "
            "GROUP BY subject, author ORDER BY max(log_index) DESC LIMIT ?",
            [_MOST],
        )
        found = [self._proposal(cases, row["name"], row["author"]) for row in list(pairs)]
        return {"items": [row for row, _ in filter(None, found)]}

    def proposal(self, proposal_id: str) -> Row:
        """Return one proposed version with its rows, and what it brings, changes and leaves out.

        Raises:
            NotFoundError: there is none that waits.
        """
        row, rows = self._one(proposal_id)
        return {**row, "items": [each.model_dump(mode="json", exclude_none=True) for each in rows]}

    def _proposal(
        self, cases: Casebook, name: str, author: bytes
    ) -> tuple[Row, tuple[ListRow, ...]] | None:
        from protocol.state_operations import list_state  # noqa: PLC0415

        peer = self._core.trust.peers.get(author)
        if peer is None or peer.level is not Level.SHARE:
            return None
        records = self._core.holdings.received(cases.items_of(name, author))
        state = list_state(name, author.hex(), records)
        if state.version is None or state.version <= max(self._decided(cases, name, author)):
            return None
        rows = tuple(row for part in state.parts for row in part.rows)
        first = state.parts[0]
        row: Row = {
            "id": f"{name}-{state.version}@{peer.name}", "name": name, "version": state.version,
            "peer": peer.name, "effective": first.effective, "source": first.source,
            "rows": len(rows), "new": [], "changed": [], "gone": [], "refused": None,
        }  # fmt: skip
        try:
            found = self._lists.differences(name, str(state.version), rows)
        except RequestError as error:
            return {**row, "refused": error.message}, rows
        return {
            **row, "new": list(found.new), "changed": list(found.changed), "gone": list(found.gone)
        }, rows  # fmt: skip

    def _one(self, proposal_id: str) -> tuple[Row, tuple[ListRow, ...]]:
        _, cases = self._core.opened()
        what, _, peer = proposal_id.partition("@")
        name, _, version = what.rpartition("-")
        found = self._proposal(cases, name, self._find(peer).node_id) if peer else None
        if found is None or str(found[0]["version"]) != version:
            raise NotFoundError(
                f"no proposed version {proposal_id!r} waits", fix="see: picket lists proposals"
            )
        return found

    # --- deciding ----------------------------------------------------------------------------
    def accept(self, proposal_id: str) -> Row:
        """Take a proposed version: from now on it is looked up in it, and warned by it.

        Raises:
            NotFoundError: there is none that waits.
            ConflictError: it cannot be a version of that list; says why.
            BusyError: the disk is full.
        """
        row, rows = self._one(proposal_id)
        if row["refused"] is not None:
            raise ConflictError(
                f"it cannot be taken: {row['refused']}", fix=f"tell {row['peer']}, or ignore it"
            )
        _, cases = self._core.opened()
        source = f"{row['peer']}: {row['source']}"
        with cases.transaction():
            self._lists.take_update(row["name"], str(row["version"]), source, rows)
            self._note(cases, row, taken=row["version"], ignored=0)
        self._noticed = None
        return {**row, "taken": True}

    def ignore(self, proposal_id: str) -> Row:
        """Show a proposed version no more.

        Raises:
            NotFoundError: there is none that waits.
            BusyError: the disk is full.
        """
        row, _ = self._one(proposal_id)
        _, cases = self._core.opened()
        with cases.transaction():
            self._note(cases, row, taken=0, ignored=row["version"])
        self._noticed = None
        return {**row, "taken": False}

    def _note(self, cases: Casebook, row: Mapping[str, Any], *, taken: int, ignored: int) -> None:
        author = self._find(row["peer"]).node_id
        cases.database.execute(
            "INSERT INTO list_updates VALUES (?, ?, ?, ?, ?) ON CONFLICT DO UPDATE SET "
            "taken = max(taken, excluded.taken), ignored = max(ignored, excluded.ignored), "
            "at = excluded.at",
            (row["name"], author, taken, ignored, self._clock.now()),
        )

    def _decided(self, cases: Casebook, name: str, author: bytes) -> tuple[int, int]:
        """Return up to which version it was taken, and ignored; what was deleted comes again."""
        rows = cases.database.query(
            "SELECT taken, ignored FROM list_updates WHERE name = ? AND author = ?", [name, author]
        )
        taken, ignored = next(((row["taken"], row["ignored"]) for row in list(rows)), (0, 0))
        return taken if self._lists.holds(name) else 0, ignored

    # --- notices -----------------------------------------------------------------------------
    def notices(self) -> Iterator[tuple[str, str, str]]:
        """Return what a person must know: code, cause and fix."""
        cases = self._core.cases
        if cases is None:
            return
        if self._noticed is None or self._noticed[0] != cases.next_index:
            self._noticed = (cases.next_index, tuple(self.proposals()["items"]))
        for row in self._noticed[1]:
            message = f"{row['peer']} proposes version {row['version']} of {row['name']}: "
            message += f"{counted(len(row['new']), 'row')} new, {len(row['changed'])} changed"
            message += f", {len(row['gone'])} gone" if row["gone"] else ""
            yield "list-proposed", message, f"see: picket lists show-update {row['id']}"
