"""The profiles in which a log or a witness is dishonest, or a home runs twice."""

from __future__ import annotations

from typing import Final

from node.logview import LogView
from node.witnessing import HEADS_MS
from tests.sim import nemesis, rogue, rogue_logs
from tests.sim.clock import HOUR, MS, SECOND, NodeClock
from tests.sim.dishonest import stage
from tests.sim.node import SimNode
from tests.sim.profiles import Profile, some_inbound
from tests.sim.world import DEADLINE, World

_TALKS: Final = HEADS_MS * MS + DEADLINE
"""What was seen of logs is compared at each opening of a link and every ten minutes."""


def _split_view(world: World) -> None:
    """A member keeps two histories of its log: one for these peers, the other for those."""
    villain, *others = world.rng.sample(world.nodes, len(world.nodes))
    one, other = others[: len(others) // 2], others[len(others) // 2 :]
    rogue.corrupt(villain, rogue_logs.brazen)
    world.start_all()
    mixed = nemesis.Group(others[0], (villain, *others[1:]), ())
    own = nemesis.Group(villain, tuple(others), ())
    nemesis.traffic(world, [mixed, own], count=4, first=2 * SECOND, last=6 * SECOND)
    world.at(2 * SECOND, lambda: world.release(others[0], mixed.to))
    world.run_until(world.rng.randrange(4, 12) * SECOND)
    villain.stop()
    twin = world.twin(villain)
    twin.twists = list(villain.twists)
    villain.peers, twin.peers = (frozenset(n.index for n in side) for side in (one, other))
    villain.start()
    world.events.after(world.rng.randrange(1, 9) * SECOND, twin.revive)
    second = nemesis.Group(twin, tuple(others), ())
    chosen = [mixed, own, second, *(nemesis.Group(n, (villain, *one), ()) for n in other)]
    nemesis.traffic(world, chosen, count=8, first=14 * SECOND, last=40 * SECOND)
    nemesis.havoc(
        world, (nemesis.reset, nemesis.mend, nemesis.crash, nemesis.restart), first=20 * SECOND,
        last=45 * SECOND, every=8 * SECOND,
    )  # fmt: skip
    world.run_until(50 * SECOND)
    world.duties.append(lambda: _unconvinced(world, villain))


def _rewritten(world: World) -> None:
    """A member rewrites an entry of its log after it was cosigned, and goes on."""
    villain = world.rng.choice(world.nodes)
    rogue.corrupt(villain, rogue_logs.brazen, rogue_logs.remember_requests(villain))
    world.start_all()
    author, *rest = world.rng.sample(
        [n for n in world.nodes if n is not villain], len(world.nodes) - 1
    )
    everybody = nemesis.Group(author, (villain, *rest), ())
    world.at(2 * SECOND, lambda: world.release(everybody.author, everybody.to))
    chosen = [everybody, nemesis.Group(villain, (author, *rest), ()), *nemesis.groups(world, 2)]
    nemesis.traffic(world, chosen, count=10, first=2 * SECOND, last=30 * SECOND)
    world.run_until(world.rng.randrange(9, 16) * SECOND)
    for second in range(16, 40, 5):
        world.at(second * SECOND, lambda: rogue_logs.ask_again(world, villain))
    nemesis.havoc(
        world, (nemesis.reset, nemesis.cut, nemesis.mend, nemesis.crash, nemesis.restart),
        first=12 * SECOND, last=30 * SECOND, every=6 * SECOND,
    )  # fmt: skip
    done = False
    while not done:
        done = rogue_logs.rewrite(world, villain)
        world.run_until(world.events.now + 2 * SECOND)
        villain.revive()
    world.run_until(max(40 * SECOND, world.events.now))
    world.duties.append(lambda: _unconvinced(world, villain))


def _unconvinced(world: World, villain: SimNode) -> list[str]:
    """Return the honest nodes that hold no proof of what the log of *villain* did."""
    return [
        f"{node.name} holds no proof against the log of {villain.name}"
        for node in world.nodes
        if node.honest and villain.index not in world.oracle.logs.accused[node.index]
    ]


def _mute_log(world: World) -> None:
    """A member never asks to be cosigned, or never proves that a head fits the next."""
    twist = world.rng.choice((rogue_logs.never_asks, rogue_logs.never_proves))
    villain = stage(world, None, twist)
    world.duties.append(lambda: _slandered(world))
    if twist is rogue_logs.never_proves:
        world.duties.append(lambda: _trusting(world, villain))


def _liar_heads(world: World) -> None:
    """A member claims heads of third logs that never were."""
    villain = world.rng.choice(world.nodes)
    stage(
        world, rogue_logs.lie_about_logs, rogue_logs.stands_by_lies(world, villain),
        villain=villain,
    )  # fmt: skip
    world.duties.append(lambda: _slandered(world))


def _bad_witness(world: World) -> None:
    """A witness cosigns with wrong times, keys and heads, answers nonsense, or nothing."""
    villain = world.rng.choice(world.nodes)
    stage(
        world, None, rogue_logs.cosign_badly(world, villain),
        rogue_logs.misremember(world, villain), rogue_logs.stands_by_lies(world, villain),
        villain=villain,
    )  # fmt: skip
    world.duties.append(lambda: _slandered(world))


def _unproven(world: World, node: SimNode) -> str:
    """Return what *node* would show of unproven logs if all stayed as it is for two hours."""
    process = node.process
    if process is None:
        return ""
    clock = NodeClock(world.events)
    clock.offset_ms = node.clock.offset_ms + 2 * HOUR // MS
    view = LogView(
        process.core, clock=clock, read=None,
        name=lambda node_id: world.nodes[world.oracle.index_of(node_id) or 0].name,
        linked=lambda: frozenset(process.gossip.links),
    )  # fmt: skip
    return " ".join(text for code, text, _ in view.notices() if code == "log-unproven")


def _slandered(world: World) -> list[str]:
    """Return where an honest log is shown as one that does not prove itself."""
    found = []
    for node in world.nodes:
        shown = _unproven(world, node) if node.honest else ""
        found += [
            f"{node.name} shows the honest log of {other.name} as unproven"
            for other in world.nodes
            if other.trusted and f"{other.name} has not" in shown
        ]
    return found


def _trusting(world: World, villain: SimNode) -> list[str]:
    """Return who has seen heads of the log of *villain* and does not show that it proves none."""
    found = []
    for node in world.nodes:
        seen = node.disk.rows(
            "SELECT 1 FROM receipts r JOIN witnessed w ON w.node_id = r.recipient "
            "WHERE r.recipient = ? AND r.tree_size < w.size", villain.id,
        )  # fmt: skip
        if node.honest and seen and f"{villain.name} has not" not in _unproven(world, node):
            found.append(f"{node.name} does not show that {villain.name} proves nothing")
    return found


def _two_at_once(world: World) -> None:
    """An operator starts a copy of a home while the home itself runs."""
    world.start_all()
    chosen = nemesis.groups(world, 4)
    victim = chosen[0].author
    nemesis.traffic(world, chosen, count=6, first=SECOND, last=10 * SECOND)
    world.run_until(world.rng.randrange(5, 10) * SECOND)
    if together := world.rng.random() < 0.5:
        victim.stop()
    world.oracle.restored(victim)
    twin = world.twin(victim)
    victim.twinned = twin.twinned = True
    if together:
        victim.start()
    world.events.after(world.rng.randrange(1, 12_000) * MS, twin.revive)
    second = nemesis.Group(twin, chosen[0].to, chosen[0].carriers)
    nemesis.traffic(world, [*chosen, second], count=8, first=10 * SECOND, last=40 * SECOND)
    nemesis.havoc(world, (nemesis.reset,), first=10 * SECOND, last=50 * SECOND, every=9 * SECOND)
    world.run_until(52 * SECOND)
    world.duties.append(lambda: _unnoticed(world, victim, twin))


def _unnoticed(world: World, victim: SimNode, twin: SimNode) -> list[str]:
    """Return whether nobody has noticed that a home runs twice."""
    named = any(victim.index in accused for accused in world.oracle.logs.accused.values())
    if victim.gone or twin.gone or named:
        return []
    return [f"nobody has noticed that {victim.name} runs twice"]


PROFILES: Final[tuple[Profile, ...]] = (
    Profile(
        "split-view", "-", "a log has one history for these, one for those", _split_view,
        deadline=_TALKS,
    ),
    Profile(
        "rewritten", "-", "a log is rewritten after it was cosigned", _rewritten, deadline=_TALKS,
    ),
    Profile("mute-log", "-", "a log that is never shown, or never proven", _mute_log),
    Profile("liar-heads", "-", "false heads of third logs", _liar_heads, some_inbound),
    Profile("bad-witness", "-", "wrong cosignatures, nonsense, silence", _bad_witness),
    Profile(
        "two-at-once", "-", "a copy of a home runs beside it", _two_at_once, receipts=False,
        deadline=_TALKS,
    ),
)  # fmt: skip
