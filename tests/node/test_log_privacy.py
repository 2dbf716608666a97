"""What a log gives away: with the very incidents in hand, its hashes confirm none of them.

The guesser holds more than any peer: all hash tiles and checkpoints, every incident as plain text,
every envelope as it went over the wire, and of each entry its kind, its subject and what stands
beside it in the node. Only the random blinds are missing. All that can be made of this is looked
for among the hashes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any, Final

import pytest

from node.service import Service
from node.tiles import LogFiles, tiles_of
from protocol import merkle, suite
from protocol.canonical import encode
from protocol.checkpoint import parse_body
from protocol.entry import BLIND_SIZE, EntryKind, local_digest, make_entry, parse_entry
from protocol.note import parse_note
from tests.node.factories import (
    DAY,
    Bytes,
    Station,
    World,
    copied,
    incident_id,
    made_once,
    pass_on,
    record,
    seep,
    token,
)

COUNT: Final = 6
ZERO: Final = bytes(BLIND_SIZE)


@pytest.fixture
def world(tmp_path_factory: pytest.TempPathFactory, tmp_path: Path) -> Iterator[World]:
    with copied(made_once(tmp_path_factory), tmp_path) as each:
        yield each


@dataclass
class Published:
    """What everybody may have of one log: every hash in a tile, and all that was signed."""

    leaves: list[bytes]
    hashes: frozenset[bytes]

    @classmethod
    def of(cls, station: Station) -> Published:
        files = LogFiles(station.core.log)
        note = files.resolve("checkpoint").body
        head = parse_body(parse_note(note).text)
        hashes, leaves = {head.root}, []
        for tile in tiles_of(head.size):
            body = files.resolve(str(tile)).body
            found = [body[at : at + 32] for at in range(0, len(body), 32)]
            hashes.update(found)
            if tile.level == 0:
                leaves += found
        for row in station.core.store.rows("SELECT note FROM checkpoints"):
            hashes.add(parse_body(parse_note(row["note"]).text).root)
        assert len(leaves) == head.size == station.core.log.size
        return cls(leaves, frozenset(hashes))


def live(world: World) -> dict[int, bytes]:
    """Let incidents be released, carried, received and read; return their envelopes by number."""
    alder, birch, cedar, _ = world
    ids = {0: alder.release(0, birch, carriers=[cedar])}
    seep(alder, cedar, birch)
    for number in range(1, COUNT):
        ids[number] = alder.release(number, birch)
    pass_on(alder, birch)
    service: Service = birch.service()
    for number in range(COUNT):
        service.raw(incident_id(number), 0, who="operator")
        service.show(incident_id(number), who="operator")
    return ids


# --- the guesser -------------------------------------------------------------------------------
def digests(data: bytes) -> Iterator[bytes]:
    """Yield what a careless log could have made of *data*."""
    yield data
    yield merkle.leaf_hash(data)
    yield hashlib.sha256(data).digest()
    yield merkle.leaf_hash(hashlib.sha256(data).digest())
    yield from (suite.digest(label, data) for label in ("envelope", "log-local", "log-entry"))
    yield hashlib.sha512(data).digest()[:32]


def dictionary(world: World, ids: dict[int, bytes]) -> set[bytes]:
    """Return everything that is known of the incidents themselves."""
    alder, *_ = world
    known: set[bytes] = set()
    for number, envelope_id in ids.items():
        held = alder.envelope(envelope_id)
        plain = alder.core.open(envelope_id)
        assert b"drums" in plain, "it is in the dictionary"
        known |= {
            envelope_id, held.wire, held.ciphertext, held.ciphertext_digest, plain,
            record(number), token(number), incident_id(number).encode(),
            bytes.fromhex(incident_id(number).replace("-", "")),
            f"PI-XA-2026-{number:06d}".encode(), encode([envelope_id]), encode(envelope_id),
            held.header.stream, held.header.prev,
        }  # fmt: skip
    return known


def blinds(*of: bytes) -> set[bytes]:
    """Return the blinds that a guesser tries first: fixed ones, and those that follow from *of*."""
    found = {ZERO, b"\xff" * BLIND_SIZE, bytes(range(BLIND_SIZE))}
    for data in of:
        found |= {(data + ZERO)[:BLIND_SIZE], hashlib.sha256(data).digest()[:BLIND_SIZE]}
    return found


def guesses(rows: list[dict[str, Any]], known: set[bytes]) -> set[bytes]:
    """Return the hashes that a guesser can make of the incidents, and of entries without blinds."""
    found = {digest for data in known for digest in digests(data)}
    for row in rows:
        entry = parse_entry(row["entry"])
        number = row["idx"].to_bytes(8, "big")
        tried = blinds(entry.subject, row["local"], number)
        commitments = {bytes(32), local_digest(row["local"], b""), *digests(row["local"])}
        commitments |= {local_digest(row["local"], blind) for blind in tried}
        for commitment, blind in product(commitments, tried):
            if len(commitment) == 32:
                found |= _entries(entry.kind, entry.subject, commitment, blind)
    ids = [data for data in known if len(data) == 32]
    for kind, subject, blind in product(EntryKind, ids, blinds(*ids[:4])):
        found |= _entries(kind, subject, bytes(32), blind)
    return found


def _entries(kind: EntryKind, subject: bytes, commitment: bytes, blind: bytes) -> set[bytes]:
    whole = make_entry(kind, subject, local_commitment=commitment, blind=blind)
    short = encode([1, int(kind), subject, commitment])
    return {merkle.leaf_hash(whole), merkle.leaf_hash(short), hashlib.sha256(whole).digest()}


def confirmed(station: Station, known: set[bytes]) -> set[bytes]:
    """Return the hashes of a log that the guesser can tell the meaning of."""
    rows = station.core.store.rows("SELECT * FROM entries ORDER BY idx")
    return guesses(rows, known) & Published.of(station).hashes


# --- tests -------------------------------------------------------------------------------------
def test_with_the_dictionary_in_hand_no_hash_of_a_log_confirms_an_incident(world: World) -> None:
    ids = live(world)
    known = dictionary(world, ids)
    alder, birch, cedar, dogwood = world
    assert {EntryKind.RELEASED, EntryKind.RECEIPT} <= set(alder.kinds())
    assert {EntryKind.RECEIVED, EntryKind.ACCESS} <= set(birch.kinds())
    assert {EntryKind.CARRIED} <= set(cedar.kinds())
    for station in (alder, birch, cedar, dogwood):
        assert confirmed(station, known) == set(), station.name


def test_with_the_opening_the_entry_is_found_at_its_place(world: World) -> None:
    ids = live(world)
    for station in world:
        leaves = Published.of(station).leaves
        for row in station.core.store.rows("SELECT * FROM entries ORDER BY idx"):
            entry = parse_entry(row["entry"])
            opened = make_entry(
                EntryKind(row["kind"]),
                entry.subject,
                local_commitment=local_digest(row["local"], row["local_blind"]),
                blind=entry.blind,
            )
            assert leaves[row["idx"]] == merkle.leaf_hash(opened)
    birch = world["birch"]
    subjects = {
        parse_entry(row["entry"]).subject
        for row in birch.core.store.rows(
            "SELECT entry FROM entries WHERE kind = ?", EntryKind.RECEIVED
        )
    }
    assert subjects == set(ids.values())


@pytest.mark.parametrize(
    "careless",
    [bytes, lambda size: b"\xff" * size, lambda size: bytes(range(size))],
    ids=["zeros", "ones", "counting"],
)
def test_the_same_guesser_reads_a_log_whose_blinds_are_no_secret(
    world: World, careless: Callable[[int], bytes]
) -> None:
    for station in world:
        station.core.log._random = careless
    before = {station.name: station.core.log.size for station in world}
    ids = live(world)
    known = dictionary(world, ids)
    for station in list(world)[:3]:
        leaves = set(Published.of(station).leaves[before[station.name] :])
        assert leaves, station.name
        assert leaves <= confirmed(station, known), station.name


def test_one_secret_blind_of_the_two_is_enough_against_who_knows_the_record_beside_it(
    world: World,
) -> None:
    birch = world["birch"]
    secret, drawn = Bytes("secret"), iter(range(10_000))
    # Of each entry the local blind is drawn first.
    birch.core.log._random = lambda size: secret(size) if next(drawn) % 2 == 0 else bytes(size)
    ids = live(world)
    assert confirmed(birch, dictionary(world, ids)) == set()


def test_logs_of_two_nodes_have_no_hash_in_common(world: World) -> None:
    """Else whoever reads two logs would see which entries are about the same envelope."""
    live(world)
    published = [Published.of(station) for station in world]
    for at, one in enumerate(published):
        assert len(set(one.leaves)) == len(one.leaves)
        for other in published[at + 1 :]:
            assert one.hashes & other.hashes <= {merkle.EMPTY_ROOT}


def test_the_same_act_twice_gives_two_leaves_that_nobody_can_pair(world: World) -> None:
    alder, birch, *_ = world
    alder.release(1, birch)
    pass_on(alder, birch)
    first = birch.core.log.size
    for _ in range(3):
        birch.service().show(incident_id(1), who="operator")
        world.clock.advance(DAY)
    leaves = Published.of(birch).leaves[first:]
    assert len(leaves) == len(set(leaves)) >= 3
