"""Many nodes in one process: real keys, logs and databases, and calls for links."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from random import Random
from secrets import token_bytes
from typing import Any

from keys.identity import load_vault, new_vault
from node.app import _fill, initialise
from node.config import load_config, write_config
from node.home import Home
from tests.node.factories import DAY, NOW, PASSPHRASE, Station, World, introduce, pass_on


def _make(folder: Path, name: str) -> dict[str, str]:
    """Make a home without a keystore file: no passphrase is ever asked for. Return its keys."""
    secrets = new_vault(token_bytes)

    def build(home: Home, values: Mapping[str, Any], _: bytes, now: int) -> bytes:
        write_config(home, values)
        return _fill(home, load_config(home), load_vault(secrets), now)

    values = {
        "node.authority": name.title(), "node.country": "XA", "node.network": "test.example",
        "node.contact": f"duty@{name}.example",
    }  # fmt: skip
    initialise(folder / name, values, PASSPHRASE, NOW - DAY, build=build)
    return {key: seed.hex() for key, seed in secrets.items()}


def _hurry(station: Station) -> None:
    """Let the databases not wait for the disk: no story of many nodes is about a loss of power."""
    _, cases = station.core.opened()
    station.core.store.scalar("PRAGMA synchronous = OFF")
    cases.database.execute("PRAGMA synchronous = OFF")


@contextmanager
def many(folder: Path, names: Sequence[str]) -> Iterator[World]:
    """Open that many nodes, which all trust each other."""
    made = {name: _make(folder, name) for name in names}
    (folder / "secrets.json").write_text(json.dumps(made))
    world = World(folder, names)
    try:
        world.open()
        for each in world:
            _hurry(each)
        for one in world:
            for other in world:
                if one is not other:
                    introduce(one, other)
        yield world
    finally:
        world.close()


def spread(world: World, authors: Sequence[str], dice: Random) -> None:
    """Let all that *authors* wrote, a frame for each, reach everybody in an order of *dice*."""
    pairs = [(world[name], taker) for name in authors for taker in world if taker.name != name]
    dice.shuffle(pairs)
    for giver, taker in pairs:
        pass_on(giver, taker)
        assert not giver.core.outbox.size(taker.id)
        taker.core.try_follow()
