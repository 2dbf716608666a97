"""When to offer again, and which carriers to ask: tables of cases, and rules over all of them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol import limits
from protocol.delivery import (
    CARRIERS_ASKED,
    CarrierState,
    needs_carrier,
    next_carriers,
    next_offer,
)

NOW = 1_790_000_000_000
LONGEST_MS = 600_000
HELD = CarrierState(held=True, done=False, linked=False, late=False)
HELD_LINKED = CarrierState(held=True, done=False, linked=True, late=False)
ASKED = CarrierState(held=False, done=False, linked=True, late=False)
ASKED_AWAY = CarrierState(held=False, done=False, linked=False, late=False)
ASKED_LATE = CarrierState(held=False, done=False, linked=True, late=True)
DONE = CarrierState(held=False, done=True, linked=False, late=False)
DONE_LATE = CarrierState(held=False, done=True, linked=True, late=True)


# --- carriers --------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("states", "chosen"),
    [
        ({}, ()),
        ({b"a": HELD}, (b"a",)),
        ({b"a": HELD, b"b": HELD, b"c": HELD}, (b"a", b"b")),
        ({b"c": HELD, b"a": HELD, b"b": HELD_LINKED}, (b"b", b"a")),
        ({b"a": HELD, b"b": HELD_LINKED, b"c": HELD_LINKED}, (b"b", b"c")),
        ({b"a": ASKED, b"b": HELD, b"c": HELD}, (b"b",)),
        ({b"a": ASKED, b"b": ASKED, b"c": HELD_LINKED}, ()),
        ({b"a": ASKED_LATE, b"b": ASKED, b"c": HELD}, (b"c",)),
        ({b"a": ASKED_AWAY, b"b": ASKED, b"c": HELD}, (b"c",)),
        ({b"a": ASKED_LATE, b"b": ASKED_AWAY, b"c": HELD, b"d": HELD}, (b"c", b"d")),
        ({b"a": DONE, b"b": HELD, b"c": HELD}, (b"b",)),
        ({b"a": DONE, b"b": DONE_LATE, b"c": HELD}, ()),
        ({b"a": DONE, b"b": ASKED, b"c": HELD}, ()),
        ({b"a": ASKED_LATE, b"b": ASKED_LATE}, ()),
    ],
    ids=range(14),
)
def test_two_that_can_be_counted_on_are_asked(
    states: dict[bytes, CarrierState], chosen: tuple[bytes, ...]
) -> None:
    assert next_carriers(states) == chosen


STATES = st.dictionaries(
    st.binary(min_size=1, max_size=1),
    st.builds(
        CarrierState, held=st.booleans(), done=st.booleans(), linked=st.booleans(),
        late=st.booleans(),
    ),
    max_size=limits.MAX_CARRIERS,
)  # fmt: skip


def counted_on(state: CarrierState) -> bool:
    return not state.held and (state.done or (state.linked and not state.late))


@given(STATES)
def test_only_held_ones_are_asked_and_no_more_than_are_needed(
    states: dict[bytes, CarrierState],
) -> None:
    chosen = next_carriers(states)
    held = {peer for peer, state in states.items() if state.held}
    counted = sum(counted_on(state) for state in states.values())
    assert set(chosen) <= held and len(set(chosen)) == len(chosen)
    assert len(chosen) == min(len(held), max(0, CARRIERS_ASKED - counted))
    passed_over = [states[peer].linked for peer in held - set(chosen)]
    assert all(states[peer].linked for peer in chosen) or not any(passed_over)


@given(STATES)
def test_whatever_carriers_withhold_all_of_them_are_asked_in_the_end(
    states: dict[bytes, CarrierState],
) -> None:
    """Each that is asked is late next time, so at most as many rounds as carriers are needed."""
    now = {
        peer: CarrierState(held=state.held, done=False, linked=state.linked, late=not state.held)
        for peer, state in states.items()
    }
    for _ in range(len(now)):
        for peer in next_carriers(now):
            now[peer] = CarrierState(held=False, done=False, linked=now[peer].linked, late=True)
    assert not any(state.held for state in now.values())


def test_an_order_of_asking_depends_on_nothing_but_the_states() -> None:
    names = [b"d", b"a", b"c", b"b"]
    assert {next_carriers(dict.fromkeys(order, HELD)) for order in (names, names[::-1])} == {
        (b"a", b"b")
    }


# --- when carriers are needed ----------------------------------------------------------------
@pytest.mark.parametrize(
    ("connected", "first_offered", "needed"),
    [
        (False, None, True),
        (False, NOW, True),
        (True, None, False),
        (True, NOW, False),
        (True, NOW - limits.RECEIPT_TIMEOUT_MS + 1, False),
        (True, NOW - limits.RECEIPT_TIMEOUT_MS, True),
        (True, NOW + 1_000, True),  # the clock was set back
    ],
)
def test_carriers_are_needed_by_whoever_is_away_or_silent(
    connected: bool, first_offered: int | None, needed: bool
) -> None:
    assert needs_carrier(connected=connected, first_offered=first_offered, now=NOW) is needed


# --- when to offer again ---------------------------------------------------------------------
def test_waits_after_refusals_double_from_two_seconds_to_ten_minutes() -> None:
    waits = [next_offer(attempts=n, retry_after=0, now=NOW) - NOW for n in range(1, 13)]
    assert waits == [2_000, 4_000, 8_000, 16_000, 32_000, 64_000, 128_000, 256_000, 512_000,
                     LONGEST_MS, LONGEST_MS, LONGEST_MS]  # fmt: skip


@given(st.integers(1, 10**6), st.integers(0, 2 * limits.MAX_LIFETIME_MS))
def test_a_wait_is_never_shorter_than_asked_nor_longer_than_an_envelope_lives(
    attempts: int, retry_after: int
) -> None:
    wait = next_offer(attempts=attempts, retry_after=retry_after, now=NOW) - NOW
    assert 2_000 <= wait <= limits.MAX_LIFETIME_MS
    assert wait >= min(retry_after, limits.MAX_RETRY_MS)
    assert wait <= max(LONGEST_MS, min(retry_after, limits.MAX_RETRY_MS))
