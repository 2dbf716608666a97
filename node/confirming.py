"""Confirming that two incidents belong together: told to those who hold both, and noted here.

- The reason may repeat what stands in an annex. So it goes to those alone who hold all that is here
  of both incidents, and never to somebody who lacks a part of one.
- If there is nobody else of whom that is known, it is noted on this node alone.
- The token of the record follows from the two incidents and the kind of link: a repeat, after a
  crash or by two officers, releases nothing twice.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

from keys.fingerprint import format_node_id
from node.core import Core
from node.recording import Recording
from node.search import CONFIRMED, Candidate
from node.search_desk import SearchDesk
from protocol import limits, suite
from protocol.canonical import encode
from protocol.errors import ConflictError

_KIND: Final = "link.assert"
Row = dict[str, Any]


class Confirming:
    """The desk for link candidates that a person confirms."""

    def __init__(
        self,
        core: Core,
        *,
        name: Callable[[bytes], str],
        records: Recording,
        search: SearchDesk,
    ) -> None:
        """Serve *core*; *name* says how to call a node id."""
        self._core, self._name = core, name
        self._records, self._search = records, search

    def preview(self, candidate_id: str) -> Row:
        """Return both incidents, the reason, who would be told of the link, and a digest.

        ``local`` says that nobody would; ``not_reached`` names who holds both and may not receive
        anything of this node now.

        Raises:
            NotFoundError: there is no such candidate.
            ConflictError: one of the two is retracted or erased.
        """
        candidate, data = self._look(candidate_id)
        seen = self._search.shown(candidate)
        to, others = self._records.holders_of_both(data["incident"], data["target"])
        found: Row = {"candidate": seen, "local": not to, "not_reached": self._names(others)}
        if to:
            return {**found, **self._records.preview(_KIND, data)}
        return {
            **found, "kind": _KIND, "about": seen["incidents"][0]["id"], "envelopes": [],
            "will_not_receive": self._names(self._core.trust.peers),
            "digest": _local_digest(data),
        }  # fmt: skip

    def confirm(self, candidate_id: str, *, digest: str | None = None) -> Row:
        """Tell those who hold both incidents that they belong together, and note it here.

        Args:
            candidate_id: of the candidate.
            digest: of the preview.

        Raises:
            NotFoundError: there is no such candidate.
            ConflictError: one of the two is retracted or erased, or the preview's digest differs.
            BusyError: the outbox or disk is full; nothing was released.
        """
        candidate, data = self._look(candidate_id)
        token = self._token(candidate)
        told = self._records.released_under(token)
        if told is None:
            to, _ = self._records.holders_of_both(data["incident"], data["target"])
            if to:
                told = self._records.release(_KIND, data, digest=digest, token=token)
            elif digest is not None and digest != _local_digest(data):
                raise ConflictError(
                    "who holds both incidents is not as in the preview",
                    fix="look at the preview again",
                )
        seen = self._search.decide(candidate_id, CONFIRMED)
        if told is None:
            told = {"envelopes": [], "recipients": [], "new": False, "kind": _KIND, "id": None,
                    "about": seen["incidents"][0]["id"]}  # fmt: skip
        return {"candidate": seen, "local": not told["envelopes"], **told}

    def _look(self, candidate_id: str) -> tuple[Candidate, Row]:
        candidate, older, newer = self._search.candidate(candidate_id)
        return candidate, {
            "incident": self._key(newer), "target": self._key(older), "kind": candidate.kind,
            "basis": candidate.basis[: limits.MAX_NOTE_TEXT], "both": True,
        }  # fmt: skip

    def _key(self, row: Mapping[str, Any]) -> str:
        own = row["author"] == self._core.node_id
        whose = self._core.card.authority if own else format_node_id(row["author"])
        return f"{row['incident_id']}@{whose}"

    def _token(self, candidate: Candidate) -> str:
        # Not from the numbers of the candidate: these begin again with a new log.
        _, cases = self._core.opened()
        rows = cases.incidents_at([candidate.low, candidate.high])
        pair = sorted([row["incident_id"], row["author"].hex()] for row in rows)
        return suite.digest("link-confirmed", encode([pair, candidate.kind])).hex()

    def _names(self, nodes: Any) -> list[str]:  # noqa: ANN401  any collection of node ids
        return sorted(map(self._name, nodes), key=str.casefold)


def _local_digest(data: Mapping[str, Any]) -> str:
    """Return what stands for a preview that tells nobody."""
    what = [data["incident"], data["target"], data["kind"], data["basis"]]
    return suite.digest("link-local", encode(what)).hex()
