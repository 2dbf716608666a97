"""Attacks on the log between real nodes: each is caught, and named by the command that tells it.

What an operator would type is run as a process of its own; what counts is its exit code and text.
"""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import pytest

from keys.identity import ServiceKeys, load_service
from node.client import ControlConnection
from node.fence import Fence
from node.home import Home
from protocol import merkle
from protocol.canonical import decode
from protocol.checkpoint import Checkpoint, parse_body, sign_checkpoint, verify_checkpoint
from protocol.entry import EntryKind, local_digest, make_entry, parse_entry
from protocol.errors import ProofError, SignatureError
from protocol.frames import Receipts, Runs, decode_frame
from protocol.log_fork import LogFork, encode_log_fork, parse_log_fork, verify_log_fork
from protocol.note import Note, format_note, parse_note
from protocol.policy import Policy, make_policy
from protocol.statement import Card, NamedKeys
from protocol.tlog_proof import parse_tlog_proof, verify_tlog_proof
from tests.net.harness import ROOT, Net, Node, free_ports, incident, introduce, wait
from tests.node.test_witness_http import Tree

OK, UNVERIFIED, TEMPORARY = 0, 5, 75
BEAT_S: Final = 1
Done = subprocess.CompletedProcess[str]
Row = dict[str, Any]


# --- what an operator types --------------------------------------------------------------------
def picket(home: Path, *arguments: str) -> Done:
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PICKET_")}
    done = subprocess.run(
        [sys.executable, "-m", "node", "--home", str(home), *arguments],
        cwd=ROOT, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True,
        timeout=120, check=False,
    )  # fmt: skip
    assert "Traceback" not in done.stderr, done.stderr
    return done


def told(done: Done, code: int, *words: str) -> str:
    """Check exit code and words of a command; return all that it printed."""
    text = done.stdout + done.stderr
    assert done.returncode == code, f"{done.returncode}: {text}"
    for word in words:
        assert word in text, f"{word!r} is not in: {text}"
    return text


def notices(node: Node) -> dict[str, str]:
    """Return what ``picket status`` shows that needs a person, by code."""

    def both() -> tuple[list[dict[str, str]], str]:
        rows = json.loads(told(picket(node.home.path, "status", "--json"), OK))["notices"]
        return rows, told(picket(node.home.path, "status"), OK)

    rows, shown = both()
    for _ in range(5):
        again = both()
        if again[0] == rows:
            break
        rows, shown = again  # it has changed between the two forms
    for row in rows:
        assert f"! {row['message']}" in shown
    return {row["code"]: row["message"] for row in rows}


def watched(node: Node) -> Row:
    """Return what ``picket log watch --once`` shows of a node whose peers' logs are in order."""
    seen: Row = json.loads(told(picket(node.home.path, "log", "watch", "--once", "--json"), OK))
    return seen


def alarmed(node: Node, peer: str, *, log: NamedKeys) -> LogFork:
    """Check that a node alarms its operator about the log of *peer*; return the proof it prints."""
    wait(lambda: node.ask("GET", "/api/v1/log/witnesses")["contradictions"] == [peer],
         f"{node.key} to hold evidence against {peer}")  # fmt: skip
    assert peer in notices(node)["log-fork"]
    told(picket(node.home.path, "log", "watch", "--once"), UNVERIFIED, "ALARM", peer)
    told(picket(node.home.path, "log", "fork", peer), OK, "no log can hold both", log.name)
    seen = json.loads(told(picket(node.home.path, "log", "fork", peer, "--json"), OK))
    fork = LogFork(
        seen["first"].encode(), seen["second"].encode(), tuple(map(bytes.fromhex, seen["proof"]))
    )
    verify_log_fork(parse_log_fork(encode_log_fork(fork)), logs=[log])
    return fork


# --- nodes -------------------------------------------------------------------------------------
@pytest.fixture
def net(tmp_path: Path) -> Iterator[Net]:
    with Net(tmp_path) as net:
        yield net
        net.check_journals()


def three(net: Net, *, hidden: str = "alder") -> tuple[Node, Node, Node]:
    """Make and link three nodes with a fast beat that share a stream; nobody dials *hidden*."""
    for key in ("alder", "birch", "cedar"):
        net.make(key, endpoint=key != hidden, witness__beat=BEAT_S)
    net.start("alder", "birch", "cedar")
    net.pair(("alder", "birch"), ("birch", "cedar"), ("alder", "cedar"))
    net.wait_linked("alder", "birch", "cedar")
    alder, birch, cedar = net["alder"], net["birch"], net["cedar"]
    share(alder, "to both", birch, cedar)
    return alder, birch, cedar


def share(author: Node, summary: str, *to: Node) -> str:
    """Release an incident, and wait for the receipts of all; return its id."""
    key = author.draft(incident(summary))
    author.release(key, *(node.key for node in to))
    wait(lambda: author.delivered(key, *(node.key for node in to)), f"receipts of {summary}")
    return key


def standing(node: Node) -> Row:
    row: Row = node.ask("GET", "/api/v1/log/witnesses")
    return row


def confirmed(node: Node, size: int = 1) -> int:
    """Wait until a quorum has cosigned *size* entries of a node's log; return how many it has."""
    wait(lambda: standing(node)["cosigned"] >= size, f"{node.key} to be cosigned up to {size}")
    return int(standing(node)["cosigned"])


def grown(*nodes: Node) -> None:
    """Wait until witnesses have cosigned all that these logs hold now."""
    for node in nodes:
        confirmed(node, standing(node)["size"])


def card_of(node: Node) -> Card:
    card = node.chain().card
    assert card is not None
    return card


def policy_of(node: Node, *witnesses: Node) -> Policy:
    """Return the policy by which a node's log is witnessed: a majority of its peers."""
    labelled = [(each.key, card_of(each).witness) for each in witnesses]
    return make_policy(card_of(node).log, labelled, len(witnesses) // 2 + 1)


def ended(node: Node, code: int) -> None:
    """Wait until the process of a node has ended, and check how."""
    process = node.process
    assert process is not None
    found = process.wait(60)
    node.process = None
    assert found == code, f"{node.key} ended with {found}: {node.tail()}"


# --- homes and logs on disk --------------------------------------------------------------------
def keys_of(home: Home) -> ServiceKeys:
    value = decode(home.service_key.read_bytes(), max_bytes=4_096)
    assert isinstance(value, dict)
    return load_service({name: bytes(v) for name, v in value.items() if isinstance(v, bytes)})


class Tiles:
    """A tree over leaf hashes, in memory."""

    def __init__(self, leaves: Sequence[bytes]) -> None:
        self.tiles: dict[tuple[int, int], bytes] = {}
        for level, index, data in merkle.grow(size=0, new_leaves=leaves, reader=self):
            self.tiles[level, index] = data

    def read_tiles(self, keys: Sequence[tuple[int, int]]) -> Mapping[tuple[int, int], bytes]:
        return {key: self.tiles[key] for key in keys}


def leaves_of(home: Home) -> list[bytes]:
    with closing(sqlite3.connect(home.node_db)) as database:
        rows = database.execute("SELECT entry FROM entries ORDER BY idx").fetchall()
    return [merkle.leaf_hash(row[0]) for row in rows]


def rewrite(home: Home, origin: str) -> int:
    """Replace one entry of a stopped node's log and make all the rest of the home fit it.

    This is what its operator can do, who has all keys; return which entry it was.
    """
    keys = keys_of(home)
    with closing(sqlite3.connect(home.node_db)) as database, database:
        ((index, kind, old),) = database.execute(
            "SELECT idx, kind, entry FROM entries WHERE kind = ? ORDER BY idx LIMIT 1",
            (int(EntryKind.HEARTBEAT),),
        ).fetchall()
        entry = parse_entry(old)
        other = make_entry(
            EntryKind(kind), bytes(32), local_commitment=entry.local_digest, blind=entry.blind
        )
        database.execute("UPDATE entries SET entry = ? WHERE idx = ?", (other, index))
        said = database.execute(
            "SELECT idx, entry, local_blind FROM entries WHERE kind = ? AND local != x'90'",
            (int(EntryKind.HEARTBEAT),),
        ).fetchall()
        for place, old, blind in said:  # what they say of heads that were cosigned
            entry, local = parse_entry(old), b"\x90"
            other = make_entry(
                entry.kind, entry.subject, local_commitment=local_digest(local, blind),
                blind=entry.blind,
            )  # fmt: skip
            database.execute(
                "UPDATE entries SET entry = ?, local = ? WHERE idx = ?", (other, local, place)
            )
        rows = database.execute("SELECT entry FROM entries ORDER BY idx").fetchall()
        tree = Tiles([merkle.leaf_hash(row[0]) for row in rows])
        size = len(rows)
        for (level, place), data in tree.tiles.items():
            database.execute("UPDATE tiles SET data = ? WHERE level = ? AND idx = ?",
                             (data, level, place))  # fmt: skip
        for table in ("checkpoints", "cosigned", "cosignatures", "head_times"):
            database.execute(f"DELETE FROM {table}")
        database.execute("DELETE FROM meta WHERE key = 'log-ahead'")
        root = merkle.root(size, tree)
        note = sign_checkpoint(
            Checkpoint(origin, size, root), ed25519=keys.log_ed25519, mldsa44=keys.log_mldsa44,
            now_s=1_790_000_000,
        )  # fmt: skip
        database.execute("INSERT INTO checkpoints VALUES (?, ?, 0)", (size, note))
    fence = Fence(home.fence)
    for _ in range(2):
        fence.raise_to(size, root)
    fence.close()
    return int(index)


def copied(home: Home, folder: Path) -> Home:
    """Copy the home of a stopped node, as a backup does."""
    left_out = shutil.ignore_patterns(home.control_sock.name)
    return Home(shutil.copytree(home.path, folder, ignore=left_out))


def edit(home: Home, sql: str, *values: object) -> None:
    """Change node.db behind the node's back."""
    with closing(sqlite3.connect(home.node_db)) as database, database:
        assert database.execute(sql, values).rowcount >= 1, sql


def heads_seen(node: Node, author: Node, log: NamedKeys) -> dict[tuple[int, bytes], bytes]:
    """Return every head of *author*'s log that *node* holds a signature under, by size and root."""
    found: dict[tuple[int, bytes], bytes] = {}
    with node.database() as database:
        notes = [
            row[0]
            for row in database.execute(
                "SELECT note FROM witnessed UNION SELECT note FROM peer_heads "
                "WHERE note IS NOT NULL"
            )
        ]
        for (data,) in database.execute(
            "SELECT coalesce(r.frame, l.frame) FROM receipts r "
            "LEFT JOIN receipt_lots l ON l.id = r.lot WHERE r.recipient = ?",
            (author.id,),
        ):
            frame = decode_frame(data)
            assert isinstance(frame, Receipts | Runs)
            notes.append(frame.checkpoint)
    for note in notes:
        if parse_body(parse_note(note).text).origin == log.name:
            head = verify_checkpoint(
                note, origin=log.name, ed25519=log.ed25519, mldsa44=log.mldsa44
            )
            found[head.size, head.root] = note
    return found


# --- all is well -------------------------------------------------------------------------------
def test_logs_are_cosigned_and_what_is_in_them_can_be_proven_and_dated(
    net: Net, tmp_path: Path
) -> None:
    alder, birch, cedar = three(net)
    grown(alder, birch, cedar)
    key = share(alder, "dated", birch, cedar)
    reference = alder.incident(key)["ref"]
    grown(alder, birch, cedar)
    for node, others in ((alder, (birch, cedar)), (birch, (alder, cedar)), (cedar, (alder, birch))):
        seen = watched(node)
        assert (seen["needed"], len(seen["witnesses"])) == (2, 2)
        assert seen["missing"] == []
        assert seen["contradictions"] == []
        assert {each.key for each in others} == set(seen["witnesses"])
        text = told(picket(node.home.path, "log", "watch", "--once"), OK, "confirmed")
        assert "ALARM" not in text
        assert not {"log-fork", "log-unwitnessed", "own-log-fork"} & set(notices(node))

    for node, others in ((alder, (birch, cedar)), (birch, (alder, cedar))):
        proof, entry = tmp_path / f"{node.key}.proof", tmp_path / f"{node.key}.entry"
        told(picket(node.home.path, "log", "prove", reference, "--out", str(proof), "--entry",
                    str(entry)), OK)  # fmt: skip
        policy = policy_of(node, *others)
        made = parse_tlog_proof(proof.read_bytes())
        found = verify_tlog_proof(made, entry=entry.read_bytes(), policy=policy)
        assert found.not_after is not None
        assert parse_entry(entry.read_bytes()).kind in {EntryKind.RELEASED, EntryKind.RECEIVED}
        # The same proof for another place, or with other cosignatures, is worth nothing.
        for index in {made.index - 1, made.index + 1, 0}:
            with pytest.raises(ProofError):
                verify_tlog_proof(
                    replace(made, index=index), entry=entry.read_bytes(), policy=policy
                )
        with pytest.raises(ProofError, match="too few witnesses"):
            changed = _renoted(made.checkpoint, lambda lines: lines[:3])
            verify_tlog_proof(
                replace(made, checkpoint=changed), entry=entry.read_bytes(), policy=policy
            )
        with pytest.raises(SignatureError):
            changed = _renoted(made.checkpoint, _retimed)
            verify_tlog_proof(
                replace(made, checkpoint=changed), entry=entry.read_bytes(), policy=policy
            )

    dated = {node.key: told(picket(node.home.path, "incidents", "show", reference), OK)
             for node in (alder, birch, cedar)}  # fmt: skip
    for text in dated.values():
        assert "as witnesses show" in text
    # One of the two readers is the node whose log the author named, and knows the time itself.
    assert sum("made      between 2" in text for text in dated.values()) == 1
    assert sum("made      before 2" in text for text in dated.values()) == 2
    for node, peer in ((birch, "alder"), (alder, "birch"), (cedar, "alder")):
        done = picket(node.home.path, "log", "audit", peer)
        assert "FAIL" not in told(done, OK, f"The log of {peer} holds together")
    for node in (alder, birch, cedar):
        node.verify_log()


def _renoted(note: bytes, change: Callable[[Any], Any]) -> bytes:
    parsed = parse_note(note)
    return format_note(Note(parsed.text, tuple(change(parsed.signatures))))


def _retimed(lines: Any) -> Any:  # noqa: ANN401  signature lines
    early = (int.from_bytes(lines[-1].signature[:8], "big") - 3_600).to_bytes(8, "big")
    return (*lines[:-1], replace(lines[-1], signature=early + lines[-1].signature[8:]))


# --- what is changed on the disk ---------------------------------------------------------------
EDITS: Final[dict[str, tuple[str, str]]] = {
    "entry edited": (
        "UPDATE entries SET entry = CAST(substr(entry, 1, length(entry) - 1) || x'00' AS BLOB) "
        "WHERE idx = 4", "tile 0/0"),
    "entry of another kind": ("UPDATE entries SET kind = 9 WHERE idx = 4", "entry 4"),
    "record beside an entry edited": (
        "UPDATE entries SET local = x'90' WHERE idx = 4", "entry 4"),
    "blind of the record edited": (
        "UPDATE entries SET local_blind = zeroblob(16) WHERE idx = 4", "entry 4"),
    "entry deleted": ("DELETE FROM entries WHERE idx = 4", "entry 4"),
    "first entry deleted": ("DELETE FROM entries WHERE idx = 0", "entry 0"),
    "last entry deleted": (
        "DELETE FROM entries WHERE idx = (SELECT max(idx) FROM entries)",
        "restored from a backup or changed"),
    "last ten entries deleted": (
        "DELETE FROM entries WHERE idx > (SELECT max(idx) FROM entries) - 10",
        "restored from a backup or changed"),
    "all entries moved": ("UPDATE entries SET idx = idx + 1000000", "tile"),
    "entry doubled": (
        "INSERT INTO entries SELECT max(idx) + 1, kind, entry, local, local_blind FROM entries",
        "damaged"),
    "tile edited": (
        "UPDATE tiles SET data = CAST(zeroblob(32) || substr(data, 33) AS BLOB) "
        "WHERE level = 0 AND idx = 0", "tile 0/0 differs"),
    "tile deleted": ("DELETE FROM tiles WHERE level = 0 AND idx = 0", "tile"),
    "signature edited": (
        "UPDATE checkpoints SET note = CAST(replace(CAST(note AS TEXT), 'A', 'B') AS BLOB)",
        "checkpoint"),
    "signatures deleted": ("DELETE FROM checkpoints", "signature"),
    "envelope deleted": ("DELETE FROM envelopes", "envelope of log entry"),
    "envelope edited": (
        "UPDATE envelopes SET wire = CAST(substr(wire, 1, length(wire) - 40) || zeroblob(40) "
        "AS BLOB)", "envelope of log entry"),
    "arrival of an envelope edited": (
        "UPDATE envelopes SET arrived = arrived - 3600000", "of log entry"),
    "receipt deleted": ("DELETE FROM receipts", "receipt"),
    "receipt edited": ("UPDATE receipts SET log_index = log_index + 1", "receipt"),
    "cosigned head edited": (
        "UPDATE cosigned SET note = CAST(replace(CAST(note AS TEXT), 'A', 'B') AS BLOB)",
        "cosigned head"),
    "cosignature edited": (
        "UPDATE cosignatures SET signature = CAST(substr(signature, 1, length(signature) - 1) "
        "|| x'00' AS BLOB)", "cosignature"),
    "time of a cosignature edited": (
        "UPDATE cosignatures SET time_s = time_s - 3600", "time"),
    "cosignatures of one witness deleted": (
        "DELETE FROM cosignatures WHERE name = (SELECT min(name) FROM cosignatures)",
        "cosign"),
    "every cosigned head deleted": ("DELETE FROM cosigned", "missing"),
    "first cosignature of heads dated later": ("UPDATE head_times SET at = at + 200", "changed"),
    "quorum dated back": ("UPDATE cosigned SET quorum_at = quorum_at - 2592000", "changed"),
    "time of the quorum edited": (
        "UPDATE cosigned SET quorum_at = quorum_at + 3600 WHERE quorum_at IS NOT NULL",
        "changed"),
}  # fmt: skip


def noted(node: Node) -> int:
    """Return how many heartbeats of a node note heads that a quorum confirmed."""
    with node.database() as database:
        row = database.execute(
            "SELECT count(*) FROM entries WHERE kind = ? AND length(local) > 1",
            (int(EntryKind.HEARTBEAT),),
        ).fetchone()
    return int(row[0])


def test_whatever_is_changed_in_a_stopped_nodes_database_is_named(net: Net) -> None:
    alder, birch, _ = three(net)
    share(birch, "from birch", alder)
    grown(alder)
    # What a quorum has confirmed is noted by a heartbeat after it.
    wait(lambda: noted(alder) >= 3, "heads to be noted")
    alder.stop()
    told(picket(alder.home.path, "log", "verify"), OK, "The log verifies")
    wrong = []
    for number, (name, (sql, word)) in enumerate(EDITS.items()):
        home = copied(alder.home, net.folder / f"edited{number}")
        edit(home, sql)
        done = picket(home.path, "log", "verify")
        if (done.returncode, done.stdout) != (UNVERIFIED, "") or word not in done.stderr:
            wrong.append((name, done.returncode, done.stdout, done.stderr))
        shutil.rmtree(home.path)
    assert wrong == []
    told(picket(alder.home.path, "log", "verify"), OK)


def test_a_log_rewritten_by_its_operator_convinces_nobody_else(net: Net) -> None:
    alder, birch, cedar = three(net)
    share(birch, "from birch", alder)
    grown(alder, birch, cedar)
    log = card_of(alder).log
    net.stop("cedar", "alder")
    rewrite(alder.home, log.name)
    # With all keys in hand, what is on one disk can be made to fit.
    told(picket(alder.home.path, "log", "verify"), OK, "The log verifies")

    # The program itself does not go on with it once a peer shows what was signed before.
    alder.launch()
    ended(alder, UNVERIFIED)
    assert "this home is an old copy" in alder.tail()
    told(picket(alder.home.path, "run"), UNVERIFIED, "picket log reopen")

    # If its operator takes that out, peers do not cosign, and keep the proof.
    rewrite(alder.home, log.name)
    alder.start("-m", "tests.net.dishonest", "--home", str(alder.home.path))
    before = standing(alder)["cosigned"]
    alarmed(birch, "alder", log=log)
    text = told(picket(birch.home.path, "log", "audit", "alder"), UNVERIFIED)
    assert "The log of alder does NOT hold together" in text
    assert "FAIL  all heads seen before fit" in text
    assert standing(alder)["cosigned"] == before == 0

    # Who was away, and is told by another peer, can check it without believing either.
    alder.stop()
    cedar.start()
    alarmed(cedar, "alder", log=log)
    for node in (birch, cedar):
        node.verify_log()
        assert standing(node)["contradictions"] == ["alder"]


def test_two_views_of_a_log_are_found_when_those_who_saw_them_meet(net: Net) -> None:
    alder, birch, cedar = three(net)
    grown(alder, birch, cedar)
    log = card_of(alder).log
    net.stop("alder", "birch", "cedar")
    twin = copy_of(net, alder, "twin")

    # Each copy is honest, and goes on before the eyes of one peer alone.
    for view, witness in ((alder, birch), (twin, cedar)):
        net.start(view.key, witness.key)
        wait(lambda w=witness: w.linked("alder"), f"the link of {witness.key}")  # type: ignore[misc]
        held = seen_size(witness, log)
        wait(lambda w=witness, h=held: seen_size(w, log) > h + 2, "the view to grow")  # type: ignore[misc]
        assert standing(witness)["contradictions"] == []
        net.stop(view.key, witness.key)

    net.start("birch", "cedar")
    net.wait_linked("birch", "cedar")
    forks = [alarmed(node, "alder", log=log) for node in (birch, cedar)]
    heads = {parse_body(parse_note(note).text) for f in forks for note in (f.first, f.second)}
    assert {head.origin for head in heads} == {log.name}
    for node in (birch, cedar):
        assert "own-log-fork" not in notices(node)
        node.verify_log()

    # Whichever of the copies is started next, it learns from the peer that saw the other.
    for view in (alder, twin):
        view.launch()
        ended(view, UNVERIFIED)
        assert "this home is an old copy" in view.tail()


def seen_size(node: Node, log: NamedKeys) -> int:
    """Return how far *node* has cosigned a log."""
    with node.database() as database:
        row = database.execute(
            "SELECT size FROM witnessed WHERE origin = ?", (log.name,)
        ).fetchone()
    return int(row["size"]) if row else 0


def copy_of(net: Net, node: Node, key: str) -> Node:
    """Copy the home of a stopped node that nobody dials; the copy listens elsewhere."""
    home = copied(node.home, net.folder / key)
    (port,) = free_ports(1)
    text = home.config.read_text()
    assert f":{node.port}" in text
    home.config.write_text(text.replace(f":{node.port}", f":{port}"))
    net.nodes[key] = replace(node, key=key, home=home, port=port, process=None)
    return net.nodes[key]


# --- old copies --------------------------------------------------------------------------------
def test_a_home_put_back_from_a_backup_stops_and_goes_on_under_a_new_log(net: Net) -> None:
    alder, birch, cedar = three(net)
    early = share(birch, "before the backup", alder)
    grown(alder)
    log = card_of(alder).log
    alder.stop()
    backup = copied(alder.home, net.folder / "backup")
    alder.start()
    net.wait_linked("alder", "birch", "cedar")
    lost = share(alder, "after the backup", birch, cedar)
    grown(alder)
    alder.stop()
    newest = Home(alder.home.path.rename(net.folder / "newest"))
    copied(backup, alder.home.path)

    alder.launch()
    ended(alder, UNVERIFIED)
    assert "this home is an old copy" in alder.tail()
    refused = picket(alder.home.path, "run")
    told(refused, UNVERIFIED, "old copy", "picket log reopen")
    told(picket(alder.home.path, "log", "verify"), UNVERIFIED, "old copy")
    assert picket(alder.home.path, "log", "reopen").returncode != OK, "not without being asked"
    text = told(picket(alder.home.path, "log", "reopen", "--yes"), OK, log.name)
    assert f"{log.name}2" in text

    alder.start()
    net.wait_linked("alder", "birch", "cedar")
    assert alder.reads(early)
    new = card_of(alder).log
    assert new == replace(log, name=f"{log.name}2")
    for author, reader in ((alder, birch), (birch, alder), (alder, cedar)):
        share(author, f"afterwards {author.key} {reader.key}", reader)
    grown(alder, birch, cedar)
    assert standing(alder)["origin"] == new.name
    for node in (birch, cedar):
        assert node.reads(lost)
        found = notices(node)
        assert "new log" in found["log-reopened"]
        assert "log-fork" not in found
        done = picket(node.home.path, "log", "audit", "alder")
        assert "FAIL" not in told(done, OK, "holds together", new.name)
    for node in (alder, birch, cedar):
        node.verify_log()
        assert node.ask("GET", "/api/v1/log/witnesses")["contradictions"] == []

    # Nothing that was signed under the old name contradicts the history that was lost, and
    # nothing under the new one what alder holds now.
    for keys, home in ((log, newest), (new, alder.home)):
        heads = {k: v for node in (birch, cedar) for k, v in heads_seen(node, alder, keys).items()}
        assert len(heads) >= 2
        leaves = leaves_of(home)
        for size, root in heads:
            assert root == root_of(leaves, size)


def root_of(leaves: Sequence[bytes], size: int) -> bytes:
    return merkle.root(size, Tiles(leaves[:size])) if size else merkle.EMPTY_ROOT


def test_a_second_process_on_one_key_is_refused_here_and_found_out_elsewhere(net: Net) -> None:
    alder, birch, cedar = three(net)
    grown(alder)
    second = picket(alder.home.path, "run")
    told(second, TEMPORARY, "another picket process is using")
    assert alder.alive

    log = card_of(alder).log
    alder.stop()
    twin = copy_of(net, alder, "twin")
    alder.start()
    net.wait_linked("alder", "birch", "cedar")
    share(alder, "signed by the first", birch, cedar)
    grown(alder)
    with closing(sqlite3.connect(twin.home.node_db)) as database:
        signed = database.execute("SELECT max(size) FROM checkpoints").fetchone()[0]
    twin.launch()
    ended(twin, UNVERIFIED)
    assert "this home is an old copy" in twin.tail()
    with closing(sqlite3.connect(twin.home.node_db)) as database:
        assert database.execute("SELECT max(size) FROM checkpoints").fetchone()[0] == signed
    told(picket(twin.home.path, "run"), UNVERIFIED, "picket log reopen")

    net.wait_linked("alder", "birch", "cedar")
    share(alder, "the first goes on", birch, cedar)
    grown(alder)
    for node in (alder, birch, cedar):
        assert not {"log-fork", "own-log-fork"} & set(notices(node))
    leaves = leaves_of(alder.home)
    for node in (birch, cedar):
        for size, root in heads_seen(node, alder, log):
            assert root == root_of(leaves, size)


# --- a witness under many hands ----------------------------------------------------------------
def test_of_requests_that_race_for_one_old_size_exactly_one_is_cosigned(net: Net) -> None:
    alder, birch = net.make("alder", witness__beat=3_600), net.make("birch")
    birch.start()
    card = birch.card()
    log = card_of(birch).log
    birch.stop()
    alder.start()
    introduce(alder, "birch", card)
    tree = Tree(keys_of(birch.home), log.name, 200)
    last, hands = 0, 4
    for _ in range(25):
        sizes = [last + 1 + n for n in range(hands)]
        answers = race(alder, [tree.request(last, size) for size in sizes])
        (winner,) = [
            size for size, (status, _) in zip(sizes, answers, strict=True) if status == 200
        ]
        for size, (status, body) in zip(sizes, answers, strict=True):
            assert size == winner or (status, body) == (409, b"%d\n" % winner)
        with alder.database() as database:
            (row,) = database.execute("SELECT size, root FROM witnessed").fetchall()
        assert (row["size"], row["root"]) == (winner, merkle.root(winner, tree))
        last = winner
    # A stale one among good ones never takes the witness back.
    answers = race(alder, [tree.request(last, 150), tree.request(1, 3), tree.request(0, 2)])
    assert answers[0][0] == 200
    assert {status for status, _ in answers[1:]} == {409}
    assert standing(alder)["contradictions"] == []


def race(node: Node, bodies: Sequence[bytes]) -> list[tuple[int, bytes]]:
    """Send all *bodies* to the witness at the same moment; return its answers."""
    barrier = threading.Barrier(len(bodies))
    answers: dict[int, tuple[int, bytes]] = {}

    def send(number: int) -> None:
        connection = ControlConnection(node.home.control_sock)
        with closing(connection):
            connection.connect()
            barrier.wait(30)
            connection.request("POST", "/api/v1/witness/add-checkpoint", bodies[number])
            response = connection.getresponse()
            answers[number] = (response.status, response.read())

    threads = [threading.Thread(target=send, args=(number,)) for number in range(len(bodies))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return [answers[number] for number in range(len(bodies))]
