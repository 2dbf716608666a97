"""States and records as JSON-able values: node ids where a person is to read them become names."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from decimal import Decimal
from typing import Any, Final

_NODES: Final = frozenset(
    {
        "asked", "author", "convenor", "holders", "originator", "participant", "participants",
        "recipient", "to",
    }
)  # fmt: skip
"""Fields that hold node ids, one or many."""
Name = Callable[[bytes], str]


def row(value: object, name: Name, *, at: str = "") -> Any:  # noqa: ANN401  any JSON
    """Return *value*, a state or a record, as JSON; *name* says how to call a node id.

    Args:
        value: made of dataclasses, pydantic models, and what these hold.
        name: how to call a node.
        at: the field in which the value stands.
    """
    if isinstance(value, str):
        return name(bytes.fromhex(value)) if at in _NODES else value
    if isinstance(value, Decimal):
        return format(value, "f")
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {
            field.name: row(getattr(value, field.name), name, at=field.name)
            for field in dataclasses.fields(value)
        }
    if isinstance(value, Mapping):
        return {key: row(item, name, at=key) for key, item in value.items()}
    if isinstance(value, frozenset):
        return sorted(row(item, name, at=at) for item in value)
    if isinstance(value, tuple | list):
        return [row(item, name, at=at) for item in value]
    dump = getattr(value, "model_dump", None)
    return (
        value
        if dump is None
        else row(_without_keys(dump(mode="json", exclude_defaults=True)), name)
    )


def _without_keys(plain: dict[str, Any]) -> dict[str, Any]:
    annex = plain.get("annex")
    for part in (plain, annex if isinstance(annex, dict) else {}):
        for attachment in part.get("attachments", ()):
            attachment.pop("blob", None)
            attachment.pop("key", None)
    return plain
