"""What a link peer may cost, and how long it is kept out after faults."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol import limits, quota
from protocol.quota import Allowed, Bucket, Meter, Over, Quota, Rate, Report, What

T0 = 1_000_000
FRAME = limits.MAX_FRAME
WIDE = Rate(amount=10**9, burst=10**12)
MINUTE = 60_000


def narrow(**rates: Rate) -> Quota:
    """Return a quota that limits nothing but what *rates* name."""
    wide: dict[str, Any] = {"envelopes": WIDE, "bytes": WIDE, "cpu": WIDE}
    return Quota(**(wide | rates))


def of_envelopes(amount: int, burst: int = limits.MAX_FRAME_ENVELOPES, per_ms: int = 1000) -> Meter:
    return Meter(narrow(envelopes=Rate(amount=amount, burst=burst, per_ms=per_ms)), now=T0)


def taken(verdicts: Iterable[object]) -> int:
    return sum(isinstance(verdict, Allowed) for verdict in verdicts)


# --- buckets ---------------------------------------------------------------------------------
rates = st.builds(
    Rate,
    amount=st.integers(1, 5_000),
    burst=st.integers(1, 5_000),
    per_ms=st.sampled_from([1, 7, 1_000, 600_000]),
)


@dataclass(frozen=True)
class Taking:
    at: int
    cost: int


def takings(bucket: Bucket, rate: Rate, steps: Iterable[tuple[int, int]]) -> list[Taking]:
    """Move the clock by each step's ms, ask for its cost, and return what was had."""
    now, had = T0, []
    for passed, wanted in steps:
        now += passed
        cost = wanted % (rate.burst + 1)
        if bucket.wait(cost, now) == 0:
            bucket.take(cost, now)
            had.append(Taking(now, cost))
    return had


@given(
    rate=rates,
    steps=st.lists(st.tuples(st.integers(0, 3_000), st.integers(0, 5_000)), max_size=60),
)
def test_no_interval_ever_sees_more_than_burst_and_rate(
    rate: Rate, steps: list[tuple[int, int]]
) -> None:
    had = takings(Bucket(rate, T0), rate, steps)
    for first in range(len(had)):
        total = 0
        for taking in had[first:]:
            total += taking.cost
            passed = taking.at - had[first].at
            assert total * rate.per_ms <= rate.burst * rate.per_ms + passed * rate.amount


@given(rate=rates, gaps=st.lists(st.integers(0, 5_000), min_size=1, max_size=60))
def test_whoever_stays_within_the_rate_is_never_refused(rate: Rate, gaps: list[int]) -> None:
    bucket, now, saved = Bucket(rate, T0), T0, rate.burst * rate.per_ms
    for gap in gaps:
        # The exact arithmetic of the rule: what is saved up, what came back, what may be had.
        now += gap
        saved = min(rate.burst * rate.per_ms, saved + gap * rate.amount)
        cost = saved // rate.per_ms
        assert bucket.wait(cost, now) == 0
        bucket.take(cost, now)
        saved -= cost * rate.per_ms


@given(rate=rates, drained=st.integers(0, 5_000), cost=st.integers(0, 5_000))
def test_the_wait_is_exact_to_the_millisecond(rate: Rate, drained: int, cost: int) -> None:
    bucket = Bucket(rate, T0)
    bucket.take(drained % (rate.burst + 1), T0)
    cost %= rate.burst + 1
    wait = bucket.wait(cost, T0)
    assert bucket.wait(cost, T0 + wait) == 0
    again = Bucket(rate, T0)
    again.take(drained % (rate.burst + 1), T0)
    assert wait == 0 or again.wait(cost, T0 + wait - 1) > 0


def test_many_small_refills_come_to_the_same_as_one_large() -> None:
    rate = Rate(amount=3, burst=10_000, per_ms=7)
    one, many = Bucket(rate, 0), Bucket(rate, 0)
    for bucket in (one, many):
        bucket.take(rate.burst, 0)
    for now in range(1, 20_001):
        many.wait(0, now)
    for cost in (8_570, 8_571, 8_572, 8_573):
        assert one.wait(cost, 20_000) == many.wait(cost, 20_000)
    assert (one.wait(8_571, 20_000), one.wait(8_572, 20_000)) == (0, 2)


def test_a_clock_that_stands_still_gives_one_burst() -> None:
    meter = of_envelopes(50, burst=300)
    given_out = [meter.charge(envelopes=1, now=T0) for _ in range(1_000)]
    assert taken(given_out) == 300


@given(jump=st.integers(0, 10**15))
def test_a_clock_that_jumps_ahead_gives_one_burst(jump: int) -> None:
    meter = of_envelopes(50, burst=300)
    assert taken(meter.charge(envelopes=1, now=T0) for _ in range(300)) == 300
    assert taken(meter.charge(envelopes=1, now=T0 + jump) for _ in range(1_000)) <= 300


@given(jump=st.integers(1, 10**15))
def test_a_clock_that_goes_back_gives_nothing_and_starves_nobody(jump: int) -> None:
    meter = of_envelopes(50, burst=300)
    assert taken(meter.charge(envelopes=1, now=T0) for _ in range(300)) == 300
    assert meter.charge(envelopes=1, now=T0 - jump) == Over(20, What.ENVELOPES)
    assert meter.charge(envelopes=1, now=T0 - jump + 20) == Allowed()


@given(
    steps=st.lists(
        st.tuples(st.integers(-5_000, 5_000), st.integers(0, 300)), min_size=1, max_size=60
    )
)
def test_whatever_the_clock_does_no_more_comes_than_it_went_forward(
    steps: list[tuple[int, int]],
) -> None:
    rate = Rate(amount=50, burst=300)
    had = takings(Bucket(rate, T0), rate, steps)
    forward = sum(max(0, passed) for passed, _ in steps)
    assert sum(t.cost for t in had) * rate.per_ms <= rate.burst * rate.per_ms + forward * 50


@pytest.mark.parametrize("cost", [-1, 301])
def test_a_cost_that_never_fits_is_a_mistake_of_the_program(cost: int) -> None:
    with pytest.raises(ValueError, match="never fits"):
        of_envelopes(50, burst=300).charge(envelopes=cost, now=T0)


@pytest.mark.parametrize("field", ["amount", "burst", "per_ms"])
def test_a_rate_that_gives_nothing_is_refused(field: str) -> None:
    with pytest.raises(ValueError, match=f"{field} of a rate is 0"):
        Rate(**({"amount": 1, "burst": 1} | {field: 0}))


@pytest.mark.parametrize("name", ["envelopes", "bytes", "cpu"])
def test_a_quota_that_the_largest_frame_never_fits_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match=f"the burst of {name} is 9; one frame needs"):
        narrow(**{name: Rate(amount=1_000, burst=9)})


# --- meters ----------------------------------------------------------------------------------
def test_the_defaults_bear_a_burst_and_then_the_rate() -> None:
    meter = Meter(Quota(), now=T0)
    burst = taken(meter.charge(envelopes=1, bytes=2_000, checks=1, now=T0) for _ in range(3_000))
    assert burst == quota.ENVELOPES_BURST
    later = taken(
        meter.charge(envelopes=1, bytes=2_000, checks=1, now=T0 + 10_000) for _ in range(3_000)
    )
    assert later == 10 * quota.ENVELOPES_PER_S


@pytest.mark.parametrize(
    ("charge", "what", "fits"),
    [
        ({"envelopes": 100}, What.ENVELOPES, quota.ENVELOPES_BURST // 100),
        ({"bytes": FRAME}, What.BYTES, quota.BYTES_BURST // FRAME),
        ({"checks": 100}, What.CPU, quota.CHECKS_BURST // 100),
        ({"cpu_us": 6_500}, What.CPU, quota.CHECKS_BURST // 100),
    ],
)
def test_each_kind_of_cost_has_its_own_bound(charge: dict[str, int], what: What, fits: int) -> None:
    meter = Meter(Quota(), now=T0)
    for _ in range(fits):
        assert meter.charge(**charge, now=T0) == Allowed()
    refused = meter.charge(**charge, now=T0)
    assert isinstance(refused, Over)
    assert refused.what is what
    assert meter.charge(**charge, now=T0 + refused.retry_after_ms) == Allowed()


def test_a_charge_is_all_or_nothing() -> None:
    meter = Meter(Quota(), now=T0)
    assert taken(meter.charge(bytes=FRAME, now=T0) for _ in range(16)) == 16
    for _ in range(2_000):
        assert isinstance(meter.charge(envelopes=1, bytes=1_000, checks=1, now=T0), Over)
    # Had the refused ones been charged their envelopes, there would be none left.
    assert meter.charge(envelopes=quota.ENVELOPES_BURST, now=T0) == Allowed()


def test_who_comes_back_as_told_is_taken() -> None:
    meter, now = of_envelopes(3, per_ms=7_000), T0
    had = 0
    while now < T0 + 1_000_000:
        match meter.charge(envelopes=1, now=now):
            case Allowed():
                had += 1
            case Over(retry_after_ms=wait):
                now += wait
    assert had == limits.MAX_FRAME_ENVELOPES + 1_000_000 * 3 // 7_000


def test_measured_cpu_is_paid_for_by_the_next_charge_and_never_for_longer_than_a_burst() -> None:
    meter = Meter(Quota(), now=T0)
    meter.spent(cpu_us=3_600_000_000, now=T0)
    refused = meter.charge(checks=1, now=T0)
    assert isinstance(refused, Over)
    assert refused.what is What.CPU
    full = quota.CHECKS_BURST * 1_000 // quota.CHECKS_PER_S
    assert full < refused.retry_after_ms <= full + 1
    assert meter.charge(envelopes=1, bytes=1, now=T0) == Allowed(), "others are not hurt by it"


# --- one frame -------------------------------------------------------------------------------
def test_the_first_envelopes_of_a_frame_are_taken_and_the_others_told_to_come_one_by_one() -> None:
    meter = of_envelopes(50, burst=300)
    assert meter.charge(envelopes=200, now=T0) == Allowed()
    verdicts = meter.charge_each([1_000] * 256, now=T0)
    assert len(verdicts) == 256
    assert taken(verdicts) == taken(verdicts[:100]) == 100
    waits = [v.retry_after_ms for v in verdicts if isinstance(v, Over)]
    assert waits == [20 * number for number in range(1, 157)]


def test_envelopes_that_come_back_when_told_are_all_taken_in_the_end() -> None:
    meter = of_envelopes(50, burst=256)
    due = [T0] * 2_000
    now, had = T0, 0
    while due:
        now = due[0]
        ready = [at for at in due if at <= now][: limits.MAX_FRAME_ENVELOPES]
        due = due[len(ready) :]
        verdicts = meter.charge_each([1_000] * len(ready), now=now)
        had += taken(verdicts)
        due += [now + v.retry_after_ms for v in verdicts if isinstance(v, Over)]
        due.sort()
    assert had == 2_000
    assert now - T0 <= (2_000 - 256) * 20 + 6_000, "refusing wastes little of what may be taken"


def test_a_large_envelope_does_not_let_smaller_ones_pass_it() -> None:
    meter = Meter(narrow(bytes=Rate(amount=1_000, burst=FRAME)), now=T0)
    verdicts = meter.charge_each([FRAME - 10, 500, 1], now=T0)
    assert verdicts == (Allowed(), Over(490, What.BYTES), Over(491, What.BYTES))


@given(sizes=st.lists(st.integers(1, limits.MAX_ENVELOPE), min_size=1, max_size=256))
def test_any_frame_gets_an_answer_for_each_envelope_and_no_wait_is_beyond_a_burst(
    sizes: list[int],
) -> None:
    meter = Meter(Quota(), now=T0)
    for _ in range(3):
        verdicts = meter.charge_each(sizes, now=T0)
        assert len(verdicts) == len(sizes)
        waits = [v.retry_after_ms for v in verdicts if isinstance(v, Over)]
        assert all(a <= b for a, b in pairwise(waits))
        assert all(0 < wait <= 20_000 for wait in waits)


# --- what we asked for -----------------------------------------------------------------------
def test_what_was_asked_for_comes_beside_the_quota_and_no_more_than_that() -> None:
    meter = Meter(Quota(), now=T0)
    meter.invite(envelopes=5_000, bytes=5_000 * 2_000)
    had = taken(meter.charge(envelopes=1, bytes=2_000, checks=1, now=T0) for _ in range(10_000))
    assert had == 5_000 + quota.ENVELOPES_BURST


def test_an_invitation_ends_when_it_is_withdrawn_and_is_bounded() -> None:
    meter = of_envelopes(50, burst=256)
    meter.invite(envelopes=5_000, bytes=0)
    meter.withdraw()
    assert taken(meter.charge(envelopes=1, now=T0) for _ in range(1_000)) == 256
    for _ in range(3):
        meter.invite(envelopes=quota.MAX_INVITED_ENVELOPES, bytes=0)
    had = taken(meter.charge(envelopes=256, now=T0) for _ in range(1_000))
    assert had == quota.MAX_INVITED_ENVELOPES // 256


def test_a_refused_charge_leaves_the_invitation_whole() -> None:
    meter = Meter(narrow(bytes=Rate(amount=1_000, burst=FRAME)), now=T0)
    assert meter.charge(bytes=FRAME, now=T0) == Allowed()
    meter.invite(envelopes=1, bytes=100)
    assert meter.charge(envelopes=1, bytes=200, now=T0) == Over(100, What.BYTES)
    assert meter.charge(envelopes=1, bytes=100, now=T0) == Allowed()


# --- what the operator is told ---------------------------------------------------------------
def test_a_peer_over_its_quota_is_reported_for_a_day() -> None:
    meter = of_envelopes(50, burst=256)
    assert meter.report(T0) is None
    meter.charge_each([1_000] * 256, now=T0)
    assert meter.report(T0) is None, "within it"
    meter.charge_each([1_000] * 10, now=T0)
    meter.charge(envelopes=5, now=T0 + 10)
    assert meter.report(T0 + 10) == Report(15, What.ENVELOPES, T0, T0 + 10)
    assert meter.report(T0 + 9 + quota.NOTICE_MS) is not None
    assert meter.report(T0 + 10 + quota.NOTICE_MS) is None
    meter.charge(envelopes=256, now=T0 + 2 * quota.NOTICE_MS)
    meter.charge(envelopes=1, now=T0 + 2 * quota.NOTICE_MS)
    assert meter.report(T0 + 2 * quota.NOTICE_MS) == Report(
        1, What.ENVELOPES, T0 + 2 * quota.NOTICE_MS, T0 + 2 * quota.NOTICE_MS
    )


def test_being_over_quota_never_keeps_a_peer_out() -> None:
    meter = Meter(Quota(), now=T0)
    for step in range(100):
        meter.charge_each([60_000] * 256, now=T0 + step)
    assert meter.report(T0 + 100) is not None
    assert meter.barred(T0 + 100) == 0


# --- faults ----------------------------------------------------------------------------------
def test_the_tenth_bad_signature_keeps_the_peer_out_for_ten_minutes() -> None:
    meter = Meter(Quota(), now=T0)
    assert [meter.bad_signature(T0 + n) for n in range(9)] == [0] * 9
    assert meter.barred(T0 + 9) == 0
    assert meter.bad_signature(T0 + 9) == 10 * MINUTE
    assert meter.barred(T0 + 9 + 10 * MINUTE - 1) == 1
    assert meter.barred(T0 + 9 + 10 * MINUTE) == 0
    # It begins anew after that, neither barred at once nor forgiven more.
    later = T0 + 9 + 10 * MINUTE
    assert [meter.bad_signature(later) for _ in range(9)] == [0] * 9
    assert meter.bad_signature(later) == 10 * MINUTE


def test_ten_bad_signatures_in_one_frame_are_ten() -> None:
    meter = Meter(Quota(), now=T0)
    assert meter.bad_signature(T0, count=9) == 0
    assert meter.bad_signature(T0, count=200) == 10 * MINUTE


def test_bad_signatures_now_and_then_keep_nobody_out() -> None:
    meter = Meter(Quota(), now=T0)
    assert not any(meter.bad_signature(T0 + n * MINUTE) for n in range(1_000))


def test_broken_frames_double_the_back_off_up_to_a_bound() -> None:
    meter, now, seen = Meter(Quota(), now=T0), T0, []
    for _ in range(200):
        back_off = meter.broken_frame(now)
        assert meter.barred(now) == back_off
        assert meter.barred(now + back_off) == 0
        now += back_off
        seen.append(back_off)
    assert seen[:10] == [1_000 * 2**n for n in range(10)]
    assert set(seen[10:]) == {quota.BROKEN_MAX_MS}
    assert meter.broken_frame(now + quota.BROKEN_FORGET_MS) == quota.BROKEN_FIRST_MS


def test_a_short_back_off_does_not_shorten_a_long_one() -> None:
    meter = Meter(Quota(), now=T0)
    for _ in range(10):
        meter.bad_signature(T0)
    assert meter.broken_frame(T0 + 1) == 10 * MINUTE - 1


@given(jump=st.integers(1, 10**15))
def test_a_clock_that_goes_back_bars_nobody_for_longer(jump: int) -> None:
    meter = Meter(Quota(), now=T0)
    meter.broken_frame(T0)
    assert meter.barred(T0 - jump) == 1_000
    assert meter.barred(T0 - jump + 1_000) == 0
