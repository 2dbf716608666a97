"""Who got the layers of an incident of ours, in which groups: amendments go to the same."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from node.casebook import Casebook
from node.core import Core
from node.streams import READER
from protocol.frontier import StreamKey


@dataclass(frozen=True, slots=True)
class Group:
    """The recipients and carriers of one envelope, sorted, and the layers that it has."""

    to: tuple[bytes, ...]
    layers: tuple[str, ...]
    carriers: tuple[bytes, ...] = ()


def audiences_of(core: Core, cases: Casebook, row: Mapping[str, Any]) -> tuple[Group, ...]:
    """Return each distinct audience that got something of an incident, with all layers it got.

    That an envelope was erased since does not matter: who could read it is known all the same.
    """
    found: dict[tuple[tuple[bytes, ...], tuple[bytes, ...]], set[str]] = {}
    for record in cases.envelopes_of(row["incident_id"], row["author"]):
        held = core.store.envelope(record["envelope_id"])
        if held is None:
            continue
        key = StreamKey(held["author"], held["incarnation"], held["stream"])
        roles = core.streams.members(key)
        readers = sorted(n for n, role in roles.items() if role == READER and n != core.node_id)
        carriers = sorted(n for n, role in roles.items() if role != READER)
        found.setdefault((tuple(readers), tuple(carriers)), set()).update(record["layers"].split())
    return tuple(
        Group(to, tuple(sorted(layers, reverse=True)), carriers)
        for (to, carriers), layers in found.items()
    )


def narrowed(
    groups: Sequence[Group], *, leave_out: set[bytes], layers: Sequence[str]
) -> tuple[Group, ...]:
    """Return *groups* without some recipients and with these *layers* alone, nobody served twice.

    A group whose every member gets the same layers in a larger one is left away; so is an empty
    one.
    """
    left = [
        Group(
            tuple(node for node in group.to if node not in leave_out),
            tuple(name for name in ("face", "annex") if name in group.layers and name in layers),
            tuple(node for node in group.carriers if node not in leave_out),
        )
        for group in groups
    ]
    kept: list[Group] = []
    for group in sorted(left, key=lambda g: (-len(g.to), -len(g.layers), g.to)):
        covered = any(
            set(group.to) <= set(other.to) and set(group.layers) <= set(other.layers)
            for other in kept
        )
        if group.to and group.layers and not covered:
            kept.append(group)
    return tuple(kept)
