"""The incidents of the demo: fictional, marked as exercise, with the texture of real ones.

Places are the user-assigned countries XA, XB and XC; firms, numbers and addresses are invented,
with domains and telephone numbers that are reserved for examples.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from importlib.resources import files
from typing import Any


@dataclass(frozen=True, slots=True)
class DemoIncident:
    """One incident, who writes it, who is to have it, and who may carry it."""

    incident: dict[str, Any]
    author: str
    audience: tuple[str, ...]
    carrier: str | None


def load() -> list[DemoIncident]:
    """Return the incidents in the order in which they are released."""
    text = files("node").joinpath("demo_incidents.json").read_text(encoding="utf-8")
    return [
        DemoIncident(item["incident"], item["author"], tuple(item["audience"]), item.get("carrier"))
        for item in json.loads(text)
    ]
