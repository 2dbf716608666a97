"""A synthetic corpus: incidents as agencies send them, and the truth about which belong together.

- The same seed, count and version give the same lines, on every machine; nothing else is drawn.
- It is made one line at a time; what is kept is the series that are not ended yet.
- Whoever measures with it measures its assumptions too: they stand in ``knobs``.
"""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from math import exp, log
from random import Random
from typing import Any, Final

from node.corpus import knobs, numbers, tables
from node.corpus.incidents import Planted, Scribe, pick

Row = dict[str, Any]
_RECENT: Final = 64
"""Incidents back from which something that looks like a link is taken."""


@dataclass
class Series:
    """Incidents that truly belong together: what they share, and where the others are to come."""

    kind: str
    shares: Planted
    due: list[int]
    members: list[str] = field(default_factory=list)
    written: list[str] = field(default_factory=list)

    def truth(self) -> Row:
        """Return the line of the truth."""
        return {"truth": "link", "kind": self.kind, "members": self.members,
                "written": self.written}  # fmt: skip


class Corpus:
    """Generates one corpus; ``mix`` counts what came out, as far as it was generated."""

    def __init__(self, *, count: int, seed: int) -> None:
        """Generate *count* incidents from *seed*."""
        self.count, self.seed = count, seed
        self._dice = Random(f"picket-corpus/{knobs.VERSION}/{count}/{seed}")  # noqa: S311
        self._scribe = Scribe(self._dice, count)
        self._open: list[tuple[int, int, Series]] = []
        self._began = 0
        self._recent: list[Row] = []
        self.mix: Counter[str] = Counter()

    def lines(self) -> Iterator[Row]:
        """Yield incidents as an import takes them, and lines of the truth (they have ``truth``).

        The line about what happens later to an incident follows it; that of a series comes after
        its last incident.
        """
        for number in range(self.count):
            series = self._series(number)
            planted = None if series is None else series.shares
            if planted is not None:
                planted.written = []
            incident = self._scribe.write(number, planted)
            if planted is None and self._recent and self._dice.random() < knobs.DECOYS:
                self._decoy(incident)
            ref = f"CORPUS-{self.seed}-{number:06d}"
            self._count_in(incident)
            self._recent = [*self._recent[-_RECENT:], incident]
            yield {**incident, "external_ref": ref}
            yield {"truth": "later", "member": ref, **self._later()}
            if series is not None and planted is not None:
                series.members.append(ref)
                series.written += planted.written
                if series.due:
                    self._wait(series)
                else:
                    self.mix[f"links {series.kind}"] += 1
                    yield series.truth()
        for _, _, series in self._open:
            if len(series.members) > 1:
                self.mix[f"links {series.kind}"] += 1
                yield series.truth()

    # --- series ------------------------------------------------------------------------------
    def _wait(self, series: Series) -> None:
        self._began += 1
        heapq.heappush(self._open, (series.due.pop(0), self._began, series))

    def _series(self, number: int) -> Series | None:
        if self._open and self._open[0][0] <= number:
            return heapq.heappop(self._open)[2]
        if self._dice.random() >= knobs.SERIES:
            return None
        kind = pick(self._dice, knobs.SERIES_KINDS)
        more = pick(self._dice, knobs.SERIES_LENGTH) - 1
        span = max(more + 1, knobs.SERIES_DAYS[kind] * self.count // knobs.DAYS)
        due = sorted(number + self._dice.randrange(1, span + 1) for _ in range(more))
        return Series(kind, self._shared(kind), due)

    def _shared(self, kind: str) -> Planted:
        dice = self._dice
        match kind:
            case "same_batch":
                return Planted(kind, batch=(numbers.batch(dice), dice.choice(tables.MAKERS)))
            case "same_selector":
                which = dice.choice(numbers.SELECTOR_KINDS)
                return Planted(
                    kind, selector=(which, numbers.selector(which, self._scribe.firms(), dice))
                )
            case "same_party":
                return Planted(kind, firm=self._scribe.firms())
            case "same_conveyance":
                how = dice.choice(("container", "container", "plate", "voyage"))
                if how == "container":
                    return Planted(kind, container=numbers.container(dice))
                if how == "plate":
                    return Planted(kind, plate=numbers.plate(dice))
                vessel = ("MV Example Tern", f"999{numbers.digits(dice, 4)}")
                return Planted(kind, voyage=(*vessel, f"{numbers.digits(dice, 3)}E"))
            case _:
                return Planted(kind, document=numbers.document(dice))

    def _decoy(self, incident: Row) -> None:
        """Put something into *incident* that looks like a link with a recent one, and is none."""
        dice = self._dice
        other: Row = dice.choice(self._recent).get("annex", {})
        mine = incident.setdefault("annex", {})
        for origin in other.get("origins", ()):
            maker = dice.choice(
                [each for each in tables.MAKERS if each != origin.get("manufacturer")]
            )
            number = origin["batch_no"]
            near = numbers.misread(number, dice) if any(map(str.isdigit, number)) else number
            mine["origins"] = [{"substance": 1, "batch_no": near, "manufacturer": maker}]
            self.mix["decoys batch"] += 1
            return
        for party in other.get("parties", ()):
            for contact in party.get("contacts", ()):
                near = numbers.near_selector(contact["kind"], contact["value"], dice)
                if near != contact["value"]:
                    mine.setdefault("parties", []).append({
                        "role": "buyer", "kind": "org",
                        "name": f"Exercise Buyer {numbers.digits(dice, 9)}",
                        "contacts": [{"kind": contact["kind"], "value": near}],
                    })  # fmt: skip
                    self.mix["decoys selector"] += 1
                return
        for box in other.get("containers", ()):
            mine["containers"] = [{"no": numbers.misread(box["no"], dice)}]
            self.mix["decoys container"] += 1
            return
        mine["documents"] = [{"type": "invoice", "number": f"INV-{dice.randrange(1, 30):03d}",
                              "issuer": dice.choice(tables.CARRIERS)}]  # fmt: skip
        self.mix["decoys document"] += 1

    # --- what happens later ------------------------------------------------------------------
    def _later(self) -> Row:
        dice = self._dice
        amendments = 0
        while dice.random() < knobs.AMENDMENTS / (1 + knobs.AMENDMENTS):
            amendments += 1
        median, sigma = knobs.DELAY_DAYS
        found: Row = {
            "shared_after_hours": round(24 * exp(dice.gauss(log(median), sigma))),
            "amendments": amendments,
        }
        if dice.random() < knobs.RETRACTED:
            found["retracted"] = True
        if dice.random() < knobs.FOLLOWED_UP:
            found["followups"] = 1 + (dice.random() < 0.3)  # noqa: PLR2004
        self.mix["amendments"] += amendments
        self.mix["retracted"] += "retracted" in found
        self.mix["followed up"] += "followups" in found
        return found

    # --- the mix that came out ---------------------------------------------------------------
    def _count_in(self, incident: Row) -> None:
        face, annex = incident["face"], incident.get("annex", {})
        mix = self.mix
        mix["incidents"] += 1
        mix[f"type {face['incident_type']}"] += 1
        mix[f"language {face['lang']}"] += 1
        mix[f"mode {face['route'][0]['mode'] if 'route' in face else 'none'}"] += 1
        mix[f"reporter {face['origin_country']}"] += 1
        for each in face.get("substances", ()):
            mix["substances"] += 1
            mix["substances by free text"] += "other" in each
            mix[f"quantity {each['qty']['unit']}"] += 1
        for name, key in (("A1", "parties"), ("A2", "documents"), ("A3", "containers"),
                          ("A4", "origins"), ("A7", "attachments")):  # fmt: skip
            mix[f"annex {key} ({name})"] += key in annex
        mix["route (A5)"] += "route" in face
        mix["contacts (A6)"] += any("contacts" in party for party in annex.get("parties", ()))


__all__ = ["Corpus", "Series", "knobs"]
