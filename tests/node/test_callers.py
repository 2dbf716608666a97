"""Nodes that ask to be added: a bounded list that survives, and acts that can be taken back."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typing_extensions import override

from keys.trust import Level, Verification
from node.lookalikes import alike, quoted, skeleton
from node.store import Store
from protocol import limits
from protocol.armor import armor_block
from protocol.entry import EntryKind
from protocol.errors import (
    AudienceError,
    BusyError,
    CommitUncertainError,
    ConflictError,
    NotFoundError,
    RequestError,
    TrustConflictError,
    UntrustedKeyError,
)
from protocol.introduction import make_introduction
from protocol.statement import Chain
from tests.factories import card_of, make_node
from tests.node.factories import DAY, MINUTE, NOW, Station, World, copied, introduce, made_once

HOUR = 60 * MINUTE
EGRET = make_node("egret").chain
HERE = "192.0.2.1"


@pytest.fixture
def world(tmp_path_factory: pytest.TempPathFactory, tmp_path: Path) -> Iterator[World]:
    with copied(made_once(tmp_path_factory), tmp_path, ("alder", "birch", "cedar")) as opened:
        yield opened


@pytest.fixture
def alder(world: World) -> Station:
    return world["alder"]


def comes(here: Station, chain: Chain = EGRET, *, address: str = HERE, time: int = 0) -> None:
    here.core.callers.knock(chain, time=time or here.clock.now(), address=address)


def waiting(here: Station) -> list[str]:
    return [caller.authority for caller in here.core.callers.pending()]


def the_caller(here: Station) -> str:
    (row,) = here.service().pairing.callers()["items"]
    return str(row["caller"])


def row_of(here: Station) -> dict[str, Any]:
    (row,) = here.service().pairing.callers()["items"]
    return dict(row)


def state(here: Station) -> tuple[object, ...]:
    peers = here.core.trust.peers.values()
    known = {p.node_id: (p.name, p.level, p.verification, p.chain) for p in peers}
    return known, here.core.callers.pending()


def consistent(here: Station) -> None:
    """Check the log against the tables, before and after a restart."""
    here.core.verify()
    before = state(here)
    here.reopen()
    assert state(here) == before
    here.core.verify()


def named(name: str, **changes: object) -> Chain:
    """Return the chain of another node, whose card says *changes* (by default its own name)."""
    node = make_node(name)
    if not changes:
        return node.chain
    return node.chain.extend(card_of(node.chain, name, issued=NOW, **changes))


def undo(here: Station) -> dict[str, Any]:
    pairing = here.service().pairing
    return pairing.undo(pairing.last()["act"])


# --- who comes -------------------------------------------------------------------------------
def test_a_knock_waits_and_survives_a_restart(alder: Station) -> None:
    comes(alder)
    row = row_of(alder)
    assert row["authority"] == "Egret" and row["contact"] == "duty@egret.example"
    assert (row["address"], row["introduced_by"], row["state"]) == (HERE, None, "pending")
    assert 'asks to be added: "Egret" (XA)' in alder.notices()["callers"]
    consistent(alder)
    assert waiting(alder) == ["Egret"]


def test_a_knock_gives_nothing_and_is_not_logged(alder: Station) -> None:
    size = alder.core.log.size
    comes(alder)
    assert alder.core.log.size == size, "or strangers would write our log"
    assert EGRET.node_id not in alder.core.trust.peers
    assert not alder.core.trust.accepts_link(EGRET.node_id)
    assert alder.core.trust.by_certificate(EGRET.card.tls[0]) is None  # type: ignore[union-attr]


def test_a_replayed_knock_changes_nothing(alder: Station) -> None:
    first = alder.clock.now()
    comes(alder, time=first)
    alder.clock.advance(5 * MINUTE)
    comes(alder, time=first, address="203.0.113.9")
    assert row_of(alder)["last_seen"] == row_of(alder)["first_seen"]
    assert row_of(alder)["address"] == HERE
    comes(alder, time=first + MINUTE, address="203.0.113.9")
    assert row_of(alder)["address"] == "203.0.113.9"
    assert row_of(alder)["last_seen"] != row_of(alder)["first_seen"]


def test_a_caller_that_stays_away_is_forgotten_after_14_days(alder: Station) -> None:
    comes(alder)
    alder.clock.advance(14 * DAY)
    assert waiting(alder) == ["Egret"]
    alder.clock.advance(1)
    assert waiting(alder) == []
    comes(alder, named("heron"))
    rows = alder.core.store.rows("SELECT authority FROM callers")
    assert rows == [{"authority": "Heron"}], "the row itself is gone, too"


def test_at_most_four_of_one_address_and_64_in_all(alder: Station) -> None:
    for number in range(6):
        alder.clock.advance(MINUTE)
        comes(alder, named(f"a{number}"))
    assert waiting(alder) == ["A2", "A3", "A4", "A5"]
    for number in range(64):
        alder.clock.advance(MINUTE)
        comes(alder, named(f"b{number}"), address=f"198.51.100.{number}")
    assert waiting(alder) == [f"B{number}" for number in range(64)]


def test_whom_a_peer_introduced_is_not_pushed_out_by_strangers(world: World) -> None:
    alder, birch = world["alder"], world["birch"]
    taken = alder.service().pairing.take_introduction(introduction(birch, alder))
    for number in range(70):
        alder.clock.advance(MINUTE)
        comes(alder, named(f"b{number}"), address=f"198.51.100.{number}")
    assert len(waiting(alder)) == 64
    assert taken["authority"] in waiting(alder)


def test_a_peer_that_knocks_brings_its_newer_card_and_does_not_wait(alder: Station) -> None:
    alder.core.add_peer(EGRET, "egret")
    newer = named("egret", contact="night desk")
    comes(alder, newer)
    assert waiting(alder) == []
    assert alder.core.trust.peer(EGRET.node_id).card.contact == "night desk"
    rival = named("egret", contact="the thief's desk")
    comes(alder, rival)
    assert alder.core.trust.peer(EGRET.node_id).level is Level.FROZEN


def test_our_own_card_does_not_wait(alder: Station) -> None:
    comes(alder, alder.core.trust.own)
    assert waiting(alder) == []


# --- accept ----------------------------------------------------------------------------------
def test_accepting_pins_and_no_more(alder: Station) -> None:
    comes(alder)
    row = alder.service().pairing.accept(the_caller(alder), None)
    assert (row["name"], row["level"]) == ("Egret", "pinned")
    assert len(row["safety_number"].replace(" ", "")) == 60
    trust = alder.core.trust
    assert trust.accepts_link(EGRET.node_id)
    assert not trust.accepts_author(EGRET.node_id) and not trust.gives_to(EGRET.node_id)
    assert waiting(alder) == []
    consistent(alder)


def test_every_act_stands_in_the_log(alder: Station) -> None:
    comes(alder)
    pairing = alder.service().pairing
    for act in (pairing.later, pairing.ignore):
        before = alder.kinds()
        act(the_caller(alder))
        assert alder.kinds()[len(before) :] == [EntryKind.TRUST_CHANGE]
        undo(alder)
        assert alder.kinds()[len(before) :] == [EntryKind.TRUST_CHANGE] * 2
    before = alder.kinds()
    pairing.accept(the_caller(alder), None)
    undo(alder)
    assert alder.kinds()[len(before) :] == [EntryKind.TRUST_CHANGE] * 2
    assert not alder.core.verify().get("corrupt")


def test_a_caller_is_named_by_its_id_and_by_nothing_it_says(alder: Station) -> None:
    comes(alder)
    pairing = alder.service().pairing
    for text in ("Egret", "", "A", the_caller(alder)[:6], "ZZZZZZZ"):
        with pytest.raises(NotFoundError):
            pairing.accept(text, None)
    key = the_caller(alder).lower()
    assert pairing.accept(key, "egret")["name"] == "egret"
    with pytest.raises(ConflictError, match="a peer already, at level pinned"):
        pairing.accept(key, None)


# --- ignore, later ---------------------------------------------------------------------------
def test_who_is_ignored_is_kept_as_a_digest_and_does_not_come_back(alder: Station) -> None:
    comes(alder)
    alder.service().pairing.ignore(the_caller(alder))
    alder.clock.advance(2 * DAY)
    comes(alder)
    assert waiting(alder) == []
    assert "callers" not in alder.notices()
    comes(alder, named("heron"))  # which throws away what could be undone
    kept = alder.core.store.rows("SELECT * FROM callers_ignored")
    assert len(kept) == 1 and kept[0]["digest"] != EGRET.node_id
    assert alder.core.store.rows("SELECT * FROM caller_acts") == []
    consistent(alder)


def test_of_those_who_are_ignored_the_oldest_are_forgotten(
    alder: Station, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "MAX_IGNORED", 2)
    for number in range(3):
        alder.clock.advance(MINUTE)
        comes(alder, named(f"a{number}"))
        alder.service().pairing.ignore(the_caller(alder))
    for number in range(3):
        comes(alder, named(f"a{number}"))
    assert waiting(alder) == ["A0"]


def test_later_asks_again_in_a_day(alder: Station) -> None:
    comes(alder)
    alder.service().pairing.later(the_caller(alder))
    assert row_of(alder)["state"] == "later"
    assert "callers" not in alder.notices()
    alder.clock.advance(DAY - 1)
    comes(alder)
    assert "callers" not in alder.notices(), "to knock again does not help"
    alder.clock.advance(1)
    assert "callers" in alder.notices()
    consistent(alder)


# --- undo ------------------------------------------------------------------------------------
@pytest.mark.parametrize("verb", ["ignore", "later", "accept"])
def test_undo_takes_back_the_last_act(alder: Station, verb: str) -> None:
    comes(alder)
    before = row_of(alder)
    pairing = alder.service().pairing
    key = the_caller(alder)
    pairing.accept(key, None) if verb == "accept" else getattr(pairing, verb)(key)
    assert undo(alder)["node_id"] == before["node_id"]
    assert row_of(alder) == before
    assert EGRET.node_id not in alder.core.trust.peers
    consistent(alder)
    with pytest.raises(NotFoundError):
        undo(alder)


def test_a_repeated_undo_takes_nothing_else_back(alder: Station) -> None:
    pairing = alder.service().pairing
    for name in ("egret", "heron"):
        alder.clock.advance(MINUTE)
        comes(alder, named(name))
        pairing.ignore(the_caller(alder))
    act = pairing.last()["act"]
    pairing.undo(act)
    with pytest.raises(ConflictError, match="another one"):
        pairing.undo(act)
    assert waiting(alder) == ["Heron"]


def test_undo_goes_back_act_by_act_the_last_first(alder: Station) -> None:
    pairing = alder.service().pairing
    for name in ("egret", "heron"):
        alder.clock.advance(MINUTE)
        comes(alder, named(name))
        pairing.ignore(the_caller(alder))
    alder.clock.advance(MINUTE)
    alder.core.add_peer(named("ibis"), "ibis")
    assert [undo(alder)["what"] for _ in range(3)] == ["added", "ignored", "ignored"]
    assert waiting(alder) == ["Egret", "Heron"]
    consistent(alder)


def test_undo_of_adding_forgets_the_peer(alder: Station) -> None:
    alder.core.add_peer(EGRET, "egret")
    undone = undo(alder)
    assert (undone["what"], undone["name"]) == ("added", "egret")
    assert undone["node_id"] == row_text(EGRET.node_id)
    assert EGRET.node_id not in alder.core.trust.peers
    assert not alder.core.store.rows("SELECT 1 FROM statements WHERE node_id = ?", EGRET.node_id), (
        "nothing of it is left"
    )
    consistent(alder)
    alder.core.add_peer(EGRET, "egret again")
    consistent(alder)


def row_text(node_id: bytes) -> str:
    from keys.fingerprint import format_node_id

    return format_node_id(node_id)


def test_after_an_hour_nothing_is_undone(alder: Station) -> None:
    comes(alder)
    alder.service().pairing.ignore(the_caller(alder))
    alder.core.add_peer(named("ibis"), "ibis")
    alder.clock.advance(HOUR + 1)
    with pytest.raises(NotFoundError, match="last hour"):
        undo(alder)


def test_an_approved_peer_is_not_undone_but_lowered(alder: Station) -> None:
    comes(alder)
    alder.service().pairing.accept(the_caller(alder), None)
    alder.core.approve_peer(
        EGRET.node_id, Level.SHARE, Verification("voice", "A. Officer", alder.clock.now())
    )
    for level in (Level.SHARE, Level.OBSERVE):
        if level is Level.OBSERVE:
            alder.core.lower_peer(EGRET.node_id, level, by="A. Officer")
        with pytest.raises(TrustConflictError, match=f"at level {level}"):
            undo(alder)
        assert alder.core.trust.peer(EGRET.node_id).level is level
    assert waiting(alder) == []
    consistent(alder)


def test_a_peer_of_which_something_is_kept_is_not_undone(alder: Station) -> None:
    alder.core.add_peer(EGRET, "egret")
    head = {"node_id": EGRET.node_id, "size": 1, "root": bytes(32), "source": bytes(32),
            "note": None, "at": 1}  # fmt: skip
    with alder.core.store.transaction():
        alder.core.store.insert("peer_heads", head)
    with pytest.raises(ConflictError, match="kept already"):
        undo(alder)
    assert alder.core.trust.peer(EGRET.node_id).level is Level.PINNED


class FullStore(Store):
    """A disk that is full whenever a test says so."""

    full = False

    @override
    def run(self, sql: str, *values: object) -> int:
        if self.full and sql.startswith("DELETE FROM callers "):
            raise BusyError("the disk is full")
        return super().run(sql, *values)


@pytest.mark.parametrize("verb", ["ignore", "accept"])
def test_an_act_that_fails_halfway_changes_nothing(alder: Station, verb: str) -> None:
    alder.reopen(store=FullStore)
    comes(alder)
    alder.clock.advance(MINUTE)
    store = alder.core.store
    assert isinstance(store, FullStore)
    before, pairing, key = alder.dump(), alder.service().pairing, the_caller(alder)
    store.full = True
    with pytest.raises((BusyError, CommitUncertainError)):
        pairing.accept(key, None) if verb == "accept" else pairing.ignore(key)
    store.full = False
    assert alder.dump() == before
    assert EGRET.node_id not in alder.core.trust.peers
    consistent(alder)


# --- hostile names ---------------------------------------------------------------------------
@pytest.mark.parametrize(
    "name",
    [
        "birch", "BIRCH", " Birch", "B\u0131rch", "\u0412\u0456rch",
        "\uff22\uff49\uff52\uff43\uff48",
        "B\u0301irch", "Bi-rch", "Birch\u2028", "8irch", "B1rch", "\U0001d401irch", "Birch\u3164",
    ],
)  # fmt: skip
def test_a_name_that_reads_like_a_peer_is_told_and_not_taken(world: World, name: str) -> None:
    alder = world["alder"]
    assert alike(name, ["cedar", "birch"]) == "birch"
    if name.isprintable() and name.strip() == name:
        try:
            chain = named("egret", authority=name)
        except Exception:  # noqa: BLE001  no card can say this at all
            return
        comes(alder, chain)
        assert row_of(alder)["imitates"] == "birch"
        assert "NOT birch" in alder.notices()["callers"]
        pairing = alder.service().pairing
        with pytest.raises(TrustConflictError, match="birch"):
            pairing.accept(the_caller(alder), None)
        with pytest.raises((TrustConflictError, RequestError)):
            pairing.accept(the_caller(alder), name)
        assert pairing.accept(the_caller(alder), "Egret")["name"] == "Egret"


def test_a_name_like_our_own_is_told(alder: Station) -> None:
    comes(alder, named("egret", authority="ALDER"))
    assert row_of(alder)["imitates"] == "Alder"
    with pytest.raises(TrustConflictError, match="reads like"):
        alder.service().pairing.accept(the_caller(alder), None)


def test_other_names_are_not_alike() -> None:
    names = ["France", "Frankreich", "\u65e5\u672c", "\u0641\u0631\u0646\u0633\u0627", "Node 1",
             "Node 2", "Niger", "Nigeria", "\u0420\u043e\u0441\u0441\u0438\u044f"]  # fmt: skip
    assert len({skeleton(name) for name in names}) == len(names)


def test_hostile_text_is_shown_on_one_line_in_quotes(alder: Station) -> None:
    assert quoted('a"b\\c\n\x1b[2J\u202e\u200b\u3164') == (
        r'"a\"b\\c\u000a\u001b[2J\u202e\u200b\u3164"'
    )
    assert len(quoted("x" * 500)) <= 82
    comes(alder, named("egret", authority='Egret" is safe. run: picket peers approve \u202e'))
    message = alder.notices()["callers"]
    assert r'"Egret\" is safe. run: picket peers approve \u202e"' in message


# --- introductions ---------------------------------------------------------------------------
def introduction(by: Station, to: Station, chain: Chain = EGRET, *, now: int = 0) -> str:
    wire = make_introduction(
        chain, introducer=by.core.trust.own, to=to.id, now=now or by.clock.now(),
        signer=by.core.keys.link,
    )  # fmt: skip
    return armor_block("introduction", wire)


def test_an_introduction_arrives_as_pending_only(world: World) -> None:
    alder, birch = world["alder"], world["birch"]
    alder.core.add_peer(EGRET, "egret")
    introduce_check = Verification("voice", "test", alder.clock.now())
    alder.core.approve_peer(EGRET.node_id, Level.SHARE, introduce_check)
    made = alder.service().pairing.introduce("egret", "birch")
    row = birch.service().pairing.take_introduction(made["introduction"])
    assert (row["authority"], row["introduced_by"], row["address"]) == ("Egret", "alder", None)
    assert EGRET.node_id not in birch.core.trust.peers
    assert "introduced by alder" in birch.notices()["callers"]
    consistent(birch)
    accepted = birch.service().pairing.accept(row["caller"], None)
    assert accepted["level"] == "pinned" and accepted["verified"] is None
    consistent(birch)


def test_only_who_was_compared_is_introduced_and_introduces(world: World) -> None:
    alder, birch = world["alder"], world["birch"]
    alder.core.add_peer(EGRET, "egret")
    with pytest.raises(TrustConflictError, match="pinned"):
        alder.service().pairing.introduce("egret", "birch")
    with pytest.raises(RequestError, match="one peer to another"):
        alder.service().pairing.introduce("birch", "birch")
    stranger = make_node("heron")
    wire = make_introduction(
        EGRET, introducer=stranger.chain, to=birch.id, now=NOW, signer=stranger.link
    )
    for level in (None, Level.PINNED):
        if level is Level.PINNED:
            birch.core.add_peer(stranger.chain, "heron")
        with pytest.raises(UntrustedKeyError):
            birch.service().pairing.take_introduction(armor_block("introduction", wire))
    assert waiting(birch) == []


def test_an_introduction_for_another_node_is_refused(world: World) -> None:
    text = introduction(world["alder"], world["cedar"])
    with pytest.raises(AudienceError):
        world["birch"].service().pairing.take_introduction(text)


def test_an_introduction_of_whom_we_know_says_so(world: World) -> None:
    alder, birch = world["alder"], world["birch"]
    with pytest.raises(ConflictError, match="as cedar"):
        birch.service().pairing.take_introduction(
            introduction(alder, birch, world["cedar"].core.trust.own)
        )


def test_who_knocks_after_an_introduction_is_still_introduced(world: World) -> None:
    alder, birch = world["alder"], world["birch"]
    birch.service().pairing.take_introduction(introduction(alder, birch))
    comes(birch)
    assert (row_of(birch)["introduced_by"], row_of(birch)["address"]) == ("alder", HERE)
    birch.service().pairing.ignore(the_caller(birch))
    birch.service().pairing.take_introduction(introduction(alder, birch))
    assert waiting(birch) == ["Egret"], "an operator has brought it"


# --- cards that cannot be added --------------------------------------------------------------
def test_own_card_expired_card_and_card_of_another_network_have_one_line_each(
    world: World,
) -> None:
    from protocol import suite
    from protocol.armor import armor
    from protocol.errors import PicketError
    from protocol.statement import make_bundle

    alder = world["alder"]
    other = make_node("egret", network=suite.network_id("other.example")).chain
    over = named("heron", expires=NOW + 1, seal=card_seal_over())
    cases = {
        "own card": (alder.core.trust.own, "this is this node's own card"),
        "network": (other, "another Picket network"),
        "expired": (over, "ended at"),
    }
    alder.clock.advance(10 * DAY)
    for chain, words in cases.values():
        with pytest.raises(PicketError, match=words) as caught:
            alder.service().add_peer(armor(make_bundle(chain)), None)
        assert caught.value.fix
        assert "\n" not in caught.value.diagnostics()


def card_seal_over() -> tuple[Any, ...]:
    from dataclasses import replace

    card = make_node("heron").card
    return tuple(replace(key, not_after=NOW + 1) for key in card.seal)


def test_the_level_of_whom_we_introduce_is_ours_alone(world: World) -> None:
    alder, birch = world["alder"], world["birch"]
    alder.core.add_peer(EGRET, "egret")
    introduce(alder, birch, None)  # a repeat changes nothing
    birch.service().pairing.take_introduction(introduction(alder, birch))
    assert not birch.core.trust.accepts_author(EGRET.node_id)
