"""kill -9 at random points: every head of a log that ever left the node fits all later ones.

A node under traffic with a fast beat is killed again and again, while it starts, works and signs.
Its peers keep every head that reaches them (see ``tests.net.recording``), and so does a program
that asks the node itself. In the end each of these heads must be a beginning of the log that is
left, and nothing that anybody was told is done may be missing.
"""

from __future__ import annotations

import random
import secrets
import threading
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from protocol import merkle
from protocol.checkpoint import Checkpoint, verify_checkpoint
from protocol.note import parse_note
from protocol.statement import NamedKeys
from tests.net.crashing import MARK
from tests.net.harness import AnswerError, Net, Node, NodeDownError, incident, wait
from tests.net.recording import read_notes
from tests.net.test_log import picket, told
from tests.node import log_reader

EACH = 4
LONGEST_S = 3.5


@dataclass
class Trial:
    """A victim, its peers, and what was promised and shown so far."""

    net: Net
    victim: Node
    peers: tuple[Node, ...]
    log: NamedKeys
    dice: random.Random
    heads: dict[int, bytes] = field(default_factory=dict)
    drafts: list[tuple[Node, str]] = field(default_factory=list)
    acknowledged: set[str] = field(default_factory=set)
    lives: int = 0

    # --- traffic -----------------------------------------------------------------------------
    def draft(self, author: Node, to: Sequence[Node]) -> None:
        """Draft and release one incident, as a program does that sees only what is answered."""
        key = author.draft(incident(f"number {len(self.drafts)}"))
        self.drafts.append((author, key))
        row = author.release(key, *(node.key for node in to))
        assert row["state"] == "released"
        self.acknowledged.add(key)

    def author(self) -> None:
        """Let the victim release incidents as long as it lives, and ask it for its head."""
        done = 0
        while self.victim.alive:
            with suppress(NodeDownError):
                try:
                    if done < EACH:
                        self.draft(self.victim, self.peers)
                        done += 1
                    answer = self.victim.ask("GET", "/api/v1/log/head")
                    self.saw(answer["checkpoint"].encode())
                except AnswerError as error:
                    # It has just started, and asks its peers whether its log is whole.
                    assert error.code == "busy", error
            time.sleep(0.01)

    def give(self) -> None:
        """Let the peers release incidents to the victim as long as it lives."""
        for number in range(EACH):
            if not self.victim.alive:
                return
            self.draft(self.peers[number % len(self.peers)], [self.victim])

    # --- what was shown ----------------------------------------------------------------------
    def saw(self, note: bytes) -> None:
        """Keep a head, if it is one of the victim's log."""
        if parse_note(note).text.split("\n", 1)[0] != self.log.name:
            return
        head = verify_checkpoint(
            note, origin=self.log.name, ed25519=self.log.ed25519, mldsa44=self.log.mldsa44
        )
        root = self.heads.setdefault(head.size, head.root)
        assert root == head.root, f"two heads of size {head.size} were signed"

    def kept(self, peer: Node) -> Path:
        """Where a peer keeps what it is shown."""
        return self.net.folder / f"{peer.key}.heads"

    def start_peers(self) -> None:
        """Start the peers, which keep what they are shown."""
        for peer in self.peers:
            peer.launch(
                "-m", "tests.net.recording", "--home", str(peer.home.path),
                "--out", str(self.kept(peer)),
            )  # fmt: skip
        for peer in self.peers:
            peer.wait_ready()

    # --- lives -------------------------------------------------------------------------------
    def live(self) -> None:
        """Live once, until a random moment, or until a random effect."""
        self.lives += 1
        longest = LONGEST_S
        if self.dice.random() < 0.5:
            self.victim.launch()
        else:
            longest, point = 3 * LONGEST_S, self.dice.randrange(1, 80)
            self.victim.launch(
                "-m", "tests.net.crashing", "--home", str(self.victim.home.path),
                "--point", str(point),
            )  # fmt: skip
        process = self.victim.process
        assert process is not None
        timer = threading.Timer(self.dice.uniform(0.1, longest), process.kill)
        threads = [threading.Thread(target=act) for act in (self.author, self.give)]
        for thread in (*threads, timer):
            thread.start()
        try:
            self.victim.wait_killed("the timer had to kill it")
        finally:
            timer.cancel()
            for thread in (*threads, timer):
                thread.join()

    def effects(self) -> Counter[str]:
        """Return at which effects the victim died, as far as it was not by the clock."""
        lines = self.victim.journal.read_text(errors="replace").splitlines()
        return Counter(x.partition(MARK)[2].strip() for x in lines if x.startswith(MARK))

    # --- the end -----------------------------------------------------------------------------
    def settle(self) -> None:
        """Let the victim live on, and check that nothing is lost and nothing is contradicted."""
        self.collect()
        self.victim.start()
        everybody = {node.key: node for node in (self.victim, *self.peers)}
        for author, key in self.drafts:
            to = self.peers if author is self.victim else (self.victim,)
            if author.incident(key)["state"] == "draft":
                assert key not in self.acknowledged, "what was released is a draft again"
                wait(lambda a=author, k=key, t=to: self.released(a, k, t), "a release")  # type: ignore[misc]
            wait(
                lambda a=author, k=key, t=to: a.delivered(k, *(n.key for n in t)),  # type: ignore[misc]
                f"the receipts of {key} by {author.key}",
            )
            for reader in to:
                assert reader.reads(key), f"{reader.key} gave a receipt for what it has not"
        for node in everybody.values():
            wait(lambda n=node: self.witnessed(n), f"{node.key} to be cosigned")  # type: ignore[misc]
            node.verify_log()
            node.places()
            codes = {notice["code"] for notice in node.ask("GET", "/api/v1/status")["notices"]}
            assert not codes & {"log-fork", "own-log-fork", "log-reopened", "equivocation"}
        for peer in self.peers:
            told(picket(peer.home.path, "log", "audit", self.victim.key), 0, "holds together")
        self.collect()

    def collect(self) -> None:
        """Take in what peers have kept so far."""
        for peer in self.peers:
            for note in read_notes(self.kept(peer)):
                self.saw(note)

    def released(self, author: Node, key: str, to: Sequence[Node]) -> bool:
        """Release a draft, if the node may sign already."""
        with suppress(AnswerError):
            author.release(key, *(node.key for node in to))
        return bool(author.incident(key)["state"] == "released")

    def witnessed(self, node: Node) -> bool:
        """Whether all that a node's log holds at the first look is cosigned."""
        row = node.ask("GET", "/api/v1/log/witnesses")
        return bool(row["cosigned"] and row["size"] - row["cosigned"] <= 2)

    def check_heads(self) -> tuple[int, int]:
        """Check every head against the exported log; return how many there are, and its size."""
        folder = self.net.folder / "export"
        told(picket(self.victim.home.path, "log", "export", str(folder)), 0)
        reader = log_reader.Reader(folder)
        keys = log_reader.Keys(self.log.name, self.log.ed25519, self.log.mldsa44)
        reader.verify(keys, entries=False)
        last = Checkpoint(self.log.name, *reader.checkpoint(keys))
        tree = Exported(reader, last.size)
        for size, root in self.heads.items():
            merkle.verify_consistency(
                old_size=size, old_root=root, new_size=last.size, new_root=last.root,
                proof=merkle.prove_consistency(size, last.size, tree) if size else (),
            )  # fmt: skip
        return len(self.heads), last.size


class Exported:
    """The tiles of an exported log."""

    def __init__(self, reader: log_reader.Reader, size: int) -> None:
        self._reader, self._size = reader, size

    def read_tiles(self, keys: Sequence[tuple[int, int]]) -> Mapping[tuple[int, int], bytes]:
        found = {}
        for level, index in keys:
            width = min(256, (self._size >> (8 * level)) - index * 256)
            suffix = "" if width == 256 else f".p/{width}"
            found[level, index] = self._reader.file(
                f"tile/{level}/{log_reader.name(index)}{suffix}"
            )
        return found


def run(folder: Path, lives: int) -> None:
    seed = secrets.randbits(32)
    print(f"seed {seed}")
    with Net(folder) as net:
        net.make("alder", witness__beat=1)
        for key in ("birch", "cedar"):
            net.make(key, witness__beat=1)
        net.start("alder", "birch", "cedar")
        net.pair(("alder", "birch"), ("birch", "cedar"), ("alder", "cedar"))
        net.wait_linked("alder", "birch", "cedar")
        alder = net["alder"]
        card = alder.chain().card
        assert card is not None
        peers = (net["birch"], net["cedar"])
        trial = Trial(net, alder, peers, card.log, random.Random(seed))
        net.stop("alder", "birch", "cedar")
        trial.start_peers()
        for _ in range(lives):
            trial.live()
        trial.settle()
        heads, size = trial.check_heads()
        print(
            f"{trial.lives} lives, {len(trial.drafts)} incidents, {len(trial.acknowledged)} of "
            f"them acknowledged before the last life, {heads} heads seen, "
            f"log of {size} entries, deaths at effects: {dict(trial.effects())}"
        )
        assert heads > lives // 4
        assert trial.effects(), "some deaths were at an effect"
        net.check_journals()


def test_after_kills_at_random_points_all_heads_that_left_the_node_fit(tmp_path: Path) -> None:
    run(tmp_path, 12)


@pytest.mark.long
def test_after_two_hundred_kills_all_heads_that_left_the_node_fit(tmp_path: Path) -> None:
    run(tmp_path, 200)
