"""Planted bugs: what the simulator must notice. Each is a small change to one class of the node."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import Any, Final

from node.core import Core, Shipment
from node.exchange import Exchange
from node.gossip import Gossip
from node.intake import Intake
from node.line import Line
from node.offering import Offering
from node.outbox import Outbox, Route
from node.store import Store
from node.streams import Streams, StreamState
from protocol.frontier import StreamKey
from protocol.pull import Ask, Puller
from protocol.quota import Meter
from tests.sim import log_mutants
from tests.sim.clock import MINUTE
from tests.sim.disk import MemoryFence
from tests.sim.patches import patched
from tests.sim.runner import BY_NAME, run
from tests.sim.world import Result


@contextmanager
def no_retry() -> Iterator[None]:
    """Send everything once: never again on this link, on the next one, or when a pull fails."""
    due = Puller.due

    def once(self: Puller, now: int, *, only: Iterable[StreamKey] | None = None) -> list[Any]:
        asked: set[StreamKey] = self.__dict__.setdefault("asked_once", set())
        acts = [act for act in due(self, now, only=only) if act.key not in asked]
        asked.update(act.key for act in acts)
        return acts

    with ExitStack() as stack:
        stack.enter_context(patched(Puller, "due", once))
        stack.enter_context(patched(Offering, "retry", lambda self, line: None))
        stack.enter_context(patched(Offering, "_backlog", _skip_backlog))
        yield


def _skip_backlog(self: Offering, line: Line, now: int) -> None:
    line.backlog = set()


@contextmanager
def ack_before_commit() -> Iterator[None]:
    """Answer while the transaction is still open; it is committed with the next one."""
    transaction = Store.transaction

    @contextmanager
    def late(self: Store) -> Iterator[None]:
        if self.in_transaction:
            self._connection.execute("COMMIT")
        self._connection.execute("BEGIN IMMEDIATE")
        try:
            yield
        except BaseException:
            self._rollback()
            raise

    del transaction
    with patched(Store, "transaction", late), patched(Core, "logged", _logged_late):
        yield


@contextmanager
def _logged_late(self: Core) -> Iterator[None]:
    before, checkpoint = self.log.size, None
    with self.store.transaction():
        yield
        if self.log.size != before:
            checkpoint = self.log.seal(self.clock.now())
            self.log.keep()
    if checkpoint is not None:
        self._fence.raise_to(checkpoint.size, checkpoint.root)


@contextmanager
def no_dedupe() -> Iterator[None]:
    """Take every copy as if it were the first."""

    def insert_all(self: Store, table: str, rows: Sequence[Any], *, replace: bool = False) -> None:
        kept(self, table, rows, replace=replace or table == "envelopes")

    kept = Store.insert_all
    with (
        patched(Intake, "holds", lambda self, envelope_id: False),
        patched(Streams, "_others", lambda self, key, have, held: []),
        patched(Store, "insert_all", insert_all),
    ):
        yield


@contextmanager
def outside_the_audience() -> Iterator[None]:
    """Queue each envelope for one node more than its author named."""
    ship = Core._ship

    def shipped(self: Core, shipment: Shipment, token: bytes) -> bytes:
        key = ship(self, shipment, token)
        others = [p for p in sorted(self.trust.peers) if self.outbox.row(key, p) is None]
        if others:
            self.outbox.add(key, [(others[0], Route.DIRECT)], position=self.log.size)
        return key

    with patched(Core, "_ship", shipped):
        yield


@contextmanager
def serving_anybody() -> Iterator[None]:
    """Give a stream to whoever asks for it by name."""
    with patched(Exchange, "_may_have", lambda self, peer, key: True):
        yield


@contextmanager
def accepting_a_fork() -> Iterator[None]:
    """Keep both of two twins, and say nothing."""
    with (
        patched(Streams, "_contradictions", lambda self, key, state, held: []),
        patched(Streams, "add_fork", lambda self, fork: False),
    ):
        yield


@contextmanager
def forgetting_a_gap() -> Iterator[None]:
    """Believe after a restart that the highest number held is the end of a whole stream."""
    load = Streams._load

    def forgetful(self: Streams, key: StreamKey) -> StreamState | None:
        state = load(self, key)
        if state is None or not state.beyond:
            return state
        return replace(state, contiguous=state.beyond[-1][1], beyond=())

    with patched(Streams, "_load", forgetful):
        yield


@contextmanager
def no_fence() -> Iterator[None]:
    """Never write the fence."""
    with patched(MemoryFence, "raise_to", lambda self, size, root: None):
        yield


@contextmanager
def one_source() -> Iterator[None]:
    """Ask only one peer for what is missing, however long it does not bring it."""

    def stubborn(self: Puller, key: StreamKey, *rest: Any, **options: Any) -> Ask | None:  # noqa: ANN401
        chosen: Ask | None = choose(self, key, *rest, **options)
        if chosen is None:
            return None
        known = self.__dict__.setdefault("sources", {})
        return chosen if known.setdefault(key, chosen.peer) == chosen.peer else None

    choose = Puller._choose
    with patched(Puller, "_choose", stubborn):
        yield


@contextmanager
def dropping_both_links() -> Iterator[None]:
    """Of two links with one peer, each side keeps the other one."""
    with patched(
        Gossip,
        "_newer_wins",
        lambda self, old, new: (
            new.dialer == (self.core.node_id > new.peer)
            if self.core.node_id < new.peer
            else new.dialer == (self.core.node_id < new.peer)
        ),
    ):
        yield


@contextmanager
def no_quota() -> Iterator[None]:
    """Take whatever a peer sends."""
    charge = Meter.charge_each

    def free(self: Meter, sizes: Sequence[int], *, now: int) -> list[Any]:
        return [verdict for size in sizes for verdict in _paid(self, charge, size, now)]

    with patched(Meter, "charge_each", free):
        yield


def _paid(meter: Meter, charge: Callable[..., Any], size: int, now: int) -> Iterable[Any]:
    meter.invite(envelopes=1, bytes=size)
    return list(charge(meter, [size], now=now))


@contextmanager
def same_incarnation() -> Iterator[None]:
    """Go on with the old streams after a restart, as if the database were always the newest."""

    def first(self: Core, now: int) -> int:
        del now
        self._incarnation = 1
        return 1

    with patched(Core, "_begin_incarnation", first):
        yield


@contextmanager
def believing_any_receipt() -> Iterator[None]:
    """Settle a delivery when somebody merely says so."""
    settle = Outbox.late

    def late(self: Outbox, peer: bytes, envelope_ids: Sequence[bytes]) -> None:
        settle(self, peer, envelope_ids)
        self.settle(envelope_ids, peer, carried=False)

    with patched(Outbox, "late", late):
        yield


@dataclass(frozen=True, slots=True)
class Mutant:
    """A planted bug, the profiles in which it must show, and what the oracle then says."""

    name: str
    plant: Callable[[], AbstractContextManager[None]]
    profiles: tuple[str, ...]
    says: str
    first: int = 0
    """The seed to begin with, where those before are long and do not show it."""
    deadline: int | None = None
    """How long to wait where the profile would wait much longer for what comes at once."""


MUTANTS: Final[tuple[Mutant, ...]] = (
    Mutant("no retry", no_retry, ("disk-full", "mixed"), "lacks e"),
    Mutant(
        "ack before commit", ack_before_commit, ("crash", "mixed"),
        "in the middle of a transaction|which it acknowledged",
    ),
    Mutant("no dedupe", no_dedupe, ("duplicates", "mixed"), "stored e[0-9]+ twice"),
    Mutant("forwarding outside the audience", outside_the_audience, ("mixed",), "tells n"),
    Mutant("serving anybody who asks", serving_anybody, ("beggar",), "tells n", first=4),
    Mutant("accepting a fork silently", accepting_a_fork, ("fork",), "no evidence"),
    Mutant(
        "forgetting a gap on restart", forgetting_a_gap, ("gaps",), "lacks e"
    ),
    Mutant("no fence", no_fence, ("mixed",), "before its fence"),
    Mutant("one source only", one_source, ("withholding", "liar"), "lacks e"),
    Mutant("dropping both of two links", dropping_both_links, ("simultaneous",), "0 links"),
    Mutant("no quota", no_quota, ("flood",), "does not name the flooder"),
    Mutant("one incarnation for ever", same_incarnation, ("restored-home",), "sees a fork"),
    Mutant(
        "silence counts as receipt", believing_any_receipt, ("slow", "half-open", "mixed"),
        "believes that",
    ),
    Mutant(
        "cosigning before the commit", log_mutants.cosigning_before_commit, ("disk-full",),
        "and its record says",
    ),
    Mutant(
        "cosigning without a proof", log_mutants.no_consistency_proof, ("rewritten",),
        "contradict each other",
    ),
    Mutant(
        "cosigning any root of one size", log_mutants.any_root_at_one_size, ("rewritten",),
        "contradict each other",
    ),
    Mutant(
        "a record that goes back", log_mutants.forgetful_witness, ("rewritten",),
        "and its record says",
    ),
    Mutant(
        "signing before a witness was heard", log_mutants.signing_at_once, ("restored-home",),
        "proof against a log only put back", first=2,
    ),
    Mutant(
        "heads for everybody", log_mutants.heads_for_everybody, ("partition", "carried"),
        "of the log of n",
    ),
    Mutant(
        "counting what was not verified", log_mutants.counting_unverified, ("bad-witness",),
        "does not verify|too early",
    ),
    Mutant(
        "silence about a log fork", log_mutants.silent_about_a_log_fork,
        ("rewritten", "split-view"), "holds no proof", deadline=MINUTE,
    ),
    Mutant(
        "believing any evidence", log_mutants.believing_any_evidence, ("liar-heads",),
        "the honest n",
    ),
    Mutant(
        "denying what was told", log_mutants.denying_what_was_told, ("split-view",),
        "holds no proof", first=4, deadline=MINUTE,
    ),
)  # fmt: skip


def hunt(mutant: Mutant, *, seeds: int) -> tuple[int, Result] | None:
    """Run up to *seeds* seeds in turn on its profiles; return after how many it was caught."""
    for number in range(seeds):
        name = mutant.profiles[number % len(mutant.profiles)]
        seed = mutant.first + number // len(mutant.profiles)
        profile = BY_NAME[name]
        profile = replace(profile, deadline=mutant.deadline or profile.deadline)
        result = run(profile, seed, plant=mutant.plant)
        if any(re.search(mutant.says, violation) for violation in result.violations):
            return number + 1, result
    return None
