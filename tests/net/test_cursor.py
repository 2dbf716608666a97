"""A case system follows a node with a cursor while the node is killed: nothing skipped or doubled.

Story 10: "the agency's case system pulls new incidents by local HTTP with a cursor". Each page is
read with its cursor stored beside it; the node dies between pages and while it receives.
"""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

from tests.net.harness import Net, Node, NodeDownError, incident, wait

Row = dict[str, Any]
FIRST, SECOND, MORE = 7, 6, 3


class CaseSystem:
    """A program that stores what it read and its cursor in one step."""

    def __init__(self, node: Node) -> None:
        self.node = node
        self.after = 0
        self.listed_after = 0
        self.changes: list[tuple[str, str]] = []
        self.listed: list[str] = []

    def read_changes(self, limit: int = 2) -> bool:
        """Read one page of changes; False if there was nothing new."""
        page = self.node.ask("GET", f"/api/v1/changes?after={self.after}&limit={limit}")
        self.changes += [(row["what"], row["id"]) for row in page["items"]]
        self.after = page["next"]
        return bool(page["items"])

    def read_list(self, limit: int = 2) -> bool:
        """Read one page of new incidents; False if there was none."""
        path = f"/api/v1/incidents?state=received&after={self.listed_after}&limit={limit}"
        page = self.node.ask("GET", path)
        self.listed += [row["id"] for row in page["items"]]
        self.listed_after = page["next"]
        return bool(page["items"])


def amend(node: Node, incident_id: str) -> None:
    node.ask(
        "POST", f"/api/v1/incidents/{incident_id}/amend",
        {"incident": incident("weighed"), "note": "weighed"},
    )  # fmt: skip


def test_the_cursor_never_skips_or_repeats_over_kills(tmp_path: Path) -> None:
    with Net(tmp_path) as net:
        net.mesh("alder", "birch")
        alder, birch = net["alder"], net["birch"]
        ids = [alder.draft(incident(f"number {n}")) for n in range(FIRST)]
        for each in ids:
            alder.release(each, "birch")
        wait(lambda: len(birch.received()) >= 3, "the first incidents")
        system = CaseSystem(birch)
        system.read_changes()
        system.read_list()
        read = system.listed[0]
        # It dies between two pages, and again while more comes in.
        birch.kill()
        amend(alder, read)
        for _ in range(SECOND):
            ids.append(alder.draft(incident(f"number {len(ids)}")))
            alder.release(ids[-1], "birch")
        birch.start()
        system.read_changes()
        system.read_list()
        for _ in range(MORE):
            ids.append(alder.draft(incident(f"number {len(ids)}")))
            alder.release(ids[-1], "birch")
        birch.kill()
        with contextlib.suppress(NodeDownError):
            system.read_changes()  # the cursor is not moved, so asking again loses nothing
        birch.start()
        wait(lambda: len(birch.received()) == len(ids), "all incidents")
        while system.read_changes(limit=3):
            pass
        while system.read_list(limit=3):
            pass
        assert sorted(system.listed) == sorted(ids)
        reports = [("incident.report", each) for each in ids]
        assert sorted(system.changes) == sorted([*reports, ("incident.amend", read)])
        assert system.changes.index(("incident.amend", read)) > system.changes.index(reports[0])
        net.check_journals()
