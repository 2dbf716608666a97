"""What one link peer may cost a node: token buckets for envelopes, bytes and CPU, and back-offs.

- A peer is judged by what its links bring, whoever wrote it. Its one ``Meter`` outlives its links,
  so that dialling again brings no new burst and forgives nothing.
- Over quota is no fault: the envelope is refused with the code ``quota`` and a time after which it
  will be taken, the link stays, and nobody is banned. It is kept at its author until then.
- Faults are bad signatures and broken frames: they end the link, and the peer is kept out for a
  bounded while. Ending trust for good is for a person to decide.
- A charge is made before the work it pays for, and is all or nothing.
- What we asked for ourselves (``invite``) is paid for: catching up is not flooding.
- ``now`` is monotonic ms. Buckets count in tokens times their period, so nothing is ever rounded. A
  clock that stands still refills nothing; one that jumps ahead refills a burst at most; one that
  goes back refills nothing, and is followed, so that it starves nobody until it catches up.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, TypeAlias

from protocol import limits

QUOTA: Final = "quota"
"""Code of a refusal for being over quota."""
BACKOFF: Final = "backoff"
"""Code with which a link is closed whose peer is still kept out after faults."""

ENVELOPES_PER_S: Final = 50
"""The busiest authority writes some hundreds of reports a day; this is 4 million a day."""
ENVELOPES_BURST: Final = 1_000
"""A morning's import released at once, or what waited over a night without a link."""
BYTES_PER_S: Final = 1024 * 1024
"""1 MiB/s: 200 peers at their quota still fit a 2 Gbit/s line; 50 reports are a tenth of it."""
BYTES_BURST: Final = 16 * 1024 * 1024
"""A whole burst of 16 KiB envelopes, or 70 epochs opened for 193 recipients."""
CHECK_US: Final = 65
"""CPU of one Ed25519 check, in which measured CPU and counted checks are compared."""
CHECKS_PER_S: Final = 2_000
"""13 % of one core: three such peers together leave more than half of it to the others."""
CHECKS_BURST: Final = 4_000
"""A quarter of a second of one core; four times what a burst of envelopes needs."""
BAD_SIGNATURES: Final = 10
"""More than a damaged disk or a version with a bug brings by chance before somebody looks."""
BAD_SIGNATURES_BACKOFF_MS: Final = 600_000
"""10 min: ten bad signatures in that time cost us less than a millisecond."""
BROKEN_FIRST_MS: Final = 1_000
"""Back-off after the first broken frame; each further one doubles it."""
BROKEN_MAX_MS: Final = 600_000
BROKEN_FORGET_MS: Final = 3_600_000
"""After an hour without a broken frame the next one counts as the first again."""
PAUSE_MS: Final = 250
"""How long a link is left unread after a refusal for quota. Refusing costs CPU as well: like this
at most four frames a second are decoded in vain, and TCP holds the rest back at the flooder."""
NOTICE_MS: Final = 86_400_000
"""How long after its last refusal a peer is shown to the operator: nobody may watch at night."""
MAX_INVITED_ENVELOPES: Final = 100_000
MAX_INVITED_BYTES: Final = 1024 * 1024 * 1024
"""What was asked for and may still come beyond the quota. A pull asks for far less at a time."""


class What(StrEnum):
    """What a peer used up."""

    ENVELOPES = "envelopes"
    BYTES = "bytes"
    CPU = "cpu"


@dataclass(frozen=True, slots=True, kw_only=True)
class Rate:
    """*amount* tokens in *per_ms*, of which *burst* may be saved up."""

    amount: int
    burst: int
    per_ms: int = 1_000

    def __post_init__(self) -> None:
        """Check that tokens flow at all."""
        for name in ("amount", "burst", "per_ms"):
            value = getattr(self, name)
            if value < 1:
                raise ValueError(f"{name} of a rate is {value}; it must be 1 or more")


@dataclass(frozen=True, slots=True, kw_only=True)
class Quota:
    """What every link peer is held to. CPU is in microseconds."""

    envelopes: Rate = Rate(amount=ENVELOPES_PER_S, burst=ENVELOPES_BURST)
    bytes: Rate = Rate(amount=BYTES_PER_S, burst=BYTES_BURST)
    cpu: Rate = Rate(amount=CHECKS_PER_S * CHECK_US, burst=CHECKS_BURST * CHECK_US)
    bad_signatures: Rate = Rate(
        amount=BAD_SIGNATURES, burst=BAD_SIGNATURES, per_ms=BAD_SIGNATURES_BACKOFF_MS
    )

    def __post_init__(self) -> None:
        """Check that the largest frame can be taken at all, be it after a wait."""
        needs = (
            ("envelopes", self.envelopes, limits.MAX_FRAME_ENVELOPES),
            ("bytes", self.bytes, limits.MAX_FRAME),
            ("cpu", self.cpu, limits.MAX_FRAME_ENVELOPES * CHECK_US),
        )
        for name, rate, least in needs:
            if rate.burst < least:
                raise ValueError(f"the burst of {name} is {rate.burst}; one frame needs {least}")


_BURST: Final = 20
"""Seconds' worth of a quota that an operator sets that may be saved up."""


def quota_of(*, envelopes: int, kib: int) -> Quota:
    """Return the quota of so many *envelopes* and *kib* a second, with the CPU they need."""
    checks = max(CHECKS_PER_S, 2 * envelopes)
    return Quota(
        envelopes=Rate(amount=envelopes, burst=max(ENVELOPES_BURST, _BURST * envelopes)),
        bytes=Rate(amount=kib * 1_024, burst=max(BYTES_BURST, _BURST * kib * 1_024)),
        cpu=Rate(
            amount=checks * CHECK_US,
            burst=max(CHECKS_BURST, 2 * _BURST * envelopes) * CHECK_US,
        ),
    )


@dataclass(frozen=True, slots=True)
class Allowed:
    """The charge was within the quota, and is paid."""


@dataclass(frozen=True, slots=True)
class Over:
    """The charge was not made; after *retry_after_ms* it will fit if nothing else comes."""

    retry_after_ms: int
    what: What


Verdict: TypeAlias = Allowed | Over
_ALLOWED: Final = Allowed()


@dataclass(frozen=True, slots=True)
class Report:
    """What to tell the operator of a peer that was over its quota lately."""

    refused: int
    what: What
    since: int
    last: int


class Bucket:
    """Tokens that come back with time."""

    __slots__ = ("_at", "_level", "_rate")

    def __init__(self, rate: Rate, now: int) -> None:
        """Begin full."""
        self._rate = rate
        self._level = rate.burst * rate.per_ms
        self._at = now

    def wait(self, cost: int, now: int) -> int:
        """Return after how many ms *cost* fits; 0 says now. What costs nothing fits always.

        Raises:
            ValueError: *cost* is beyond the burst and would never fit.
        """
        if not 0 <= cost <= self._rate.burst:
            raise ValueError(f"a cost of {cost} never fits a burst of {self._rate.burst}")
        self._refill(now)
        lacking = cost * self._rate.per_ms - self._level if cost else 0
        return max(0, -(-lacking // self._rate.amount))

    def room(self, now: int) -> int:
        """Return the greatest cost that fits now."""
        self._refill(now)
        return max(0, self._level // self._rate.per_ms)

    def take(self, cost: int, now: int) -> None:
        """Take *cost*, into debt if need be, of one burst at most."""
        self._refill(now)
        full = self._rate.burst * self._rate.per_ms
        self._level = max(-full, self._level - cost * self._rate.per_ms)

    def _refill(self, now: int) -> None:
        passed = max(0, now - self._at)
        full = self._rate.burst * self._rate.per_ms
        self._level = min(full, self._level + passed * self._rate.amount)
        self._at = now


@dataclass(frozen=True, slots=True)
class _Cost:
    envelopes: int
    size: int
    cpu_us: int


class Meter:
    """What one peer has used of its quota, and what it did wrong. Its size is constant."""

    def __init__(self, quota: Quota, *, now: int) -> None:
        """Begin with full buckets and no faults."""
        self._quota = quota
        self._buckets = {
            What.ENVELOPES: Bucket(quota.envelopes, now),
            What.BYTES: Bucket(quota.bytes, now),
            What.CPU: Bucket(quota.cpu, now),
        }
        self._signatures = Bucket(quota.bad_signatures, now)
        self._invited = [0, 0]
        self._pulls = Bucket(Rate(amount=quota.envelopes.amount, burst=MAX_INVITED_ENVELOPES), now)
        self._broken = 0
        self._broken_at = now
        self._barred = 0
        self._barred_at = now
        self._report: Report | None = None

    # --- quota -------------------------------------------------------------------------------
    def charge(
        self,
        *,
        envelopes: int = 0,
        bytes: int = 0,  # noqa: A002  the unit is the name
        checks: int = 0,
        cpu_us: int = 0,
        now: int,
    ) -> Verdict:
        """Pay for what is about to be done for the peer, or say why not and when.

        Args:
            envelopes: to admit; what was invited is free.
            bytes: of these envelopes, or of any other frame; what was invited is free.
            checks: signatures to verify; those of invited envelopes are free.
            cpu_us: other work whose cost is known before.
            now: monotonic ms.

        Raises:
            ValueError: a cost is negative or beyond the burst: no single frame is that large.
        """
        asked = _Cost(envelopes, bytes, checks * CHECK_US + cpu_us)
        free = self._invitation(asked, checks)
        verdict = self._pay(asked, free, now)
        if isinstance(verdict, Over):
            self._note(verdict, max(1, envelopes), now)
        return verdict

    def charge_each(self, sizes: Sequence[int], *, now: int) -> tuple[Verdict, ...]:
        """Charge the envelopes of one frame, of *sizes* bytes each and with one signature.

        The first that does not fit ends it, so that what is taken has no hole. Each one after it is
        told to come later than the one before, so that they do not all come back at once.
        """
        whole = _Cost(len(sizes), sum(sizes), len(sizes) * CHECK_US)
        if whole.size <= self._quota.bytes.burst and whole.envelopes <= self._quota.envelopes.burst:
            verdict = self._pay(whole, self._invitation(whole, len(sizes)), now)
            if isinstance(verdict, Allowed):
                return (verdict,) * len(sizes)
        verdicts: list[Verdict] = []
        for number, size in enumerate(sizes):
            verdict = self.charge(envelopes=1, bytes=size, checks=1, now=now)
            if isinstance(verdict, Over):
                verdicts += self._stagger(sizes[number:], now)
                self._note(verdict, len(sizes) - number - 1, now)
                break
            verdicts.append(verdict)
        return tuple(verdicts)

    def spent(self, *, cpu_us: int, now: int) -> None:
        """Take note of CPU that was measured afterwards; the next charges wait for it."""
        self._buckets[What.CPU].take(cpu_us, now)

    def room(self, now: int) -> int:
        """Return how many envelopes the peer may bring now within its quota."""
        return self._buckets[What.ENVELOPES].room(now)

    def pull_room(self, now: int) -> int:
        """Return how many envelopes that the peer holds since before the link may be asked for.

        It saves up as the quota does, but for far longer: who was away for weeks brings what it
        could have brought meanwhile, and who links again and again brings no more than that.
        """
        return self._pulls.room(now)

    def pull(self, *, envelopes: int, bytes: int, now: int) -> None:  # noqa: A002  as in charge
        """Note that so much of that is asked for; it comes beside the quota."""
        self._pulls.take(envelopes, now)
        self.invite(envelopes=envelopes, bytes=bytes)

    def invite(self, *, envelopes: int, bytes: int) -> None:  # noqa: A002  as in charge
        """Let what we have just asked this peer for come beside its quota."""
        self._invited[0] = min(MAX_INVITED_ENVELOPES, self._invited[0] + envelopes)
        self._invited[1] = min(MAX_INVITED_BYTES, self._invited[1] + bytes)

    def withdraw(self) -> None:
        """Forget what was asked for: the pull has ended, or the link."""
        self._invited = [0, 0]

    def report(self, now: int) -> Report | None:
        """Return how the peer was over its quota, if that was lately; None once it is history."""
        if self._report is not None and now - self._report.last >= NOTICE_MS:
            self._report = None
        return self._report

    def _invitation(self, asked: _Cost, checks: int) -> _Cost:
        envelopes = max(0, min(self._invited[0], asked.envelopes))
        size = max(0, min(self._invited[1], asked.size))
        return _Cost(envelopes, size, min(envelopes, checks) * CHECK_US)

    def _pay(self, asked: _Cost, free: _Cost, now: int) -> Verdict:
        costs = {
            What.ENVELOPES: asked.envelopes - free.envelopes,
            What.BYTES: asked.size - free.size,
            What.CPU: asked.cpu_us - free.cpu_us,
        }
        wait, what = max((self._buckets[what].wait(costs[what], now), what) for what in What)
        if wait:
            return Over(wait, what)
        for kind, cost in costs.items():
            self._buckets[kind].take(cost, now)
        self._invited[0] -= free.envelopes
        self._invited[1] -= free.size
        return _ALLOWED

    def _stagger(self, sizes: Sequence[int], now: int) -> list[Over]:
        quota, refused, sum_size = self._quota, [], 0
        for number, size in enumerate(sizes, 1):
            sum_size += size
            ahead = {
                What.ENVELOPES: min(number, quota.envelopes.burst),
                What.BYTES: min(sum_size, quota.bytes.burst),
                What.CPU: min(number * CHECK_US, quota.cpu.burst),
            }
            wait, what = max((self._buckets[what].wait(ahead[what], now), what) for what in What)
            refused.append(Over(max(1, wait), what))
        return refused

    def _note(self, over: Over, count: int, now: int) -> None:
        before = self.report(now)
        self._report = Report(
            (before.refused if before else 0) + count,
            over.what,
            before.since if before else now,
            now,
        )

    # --- faults ------------------------------------------------------------------------------
    def bad_signature(self, now: int, *, count: int = 1) -> int:
        """Count it; return for how many ms the peer is kept out now, 0 while it is borne.

        One is forgiven each minute, so that ten in a minute end the link and ten in a year do not.
        """
        self._signatures.take(count, now)
        if not self._signatures.wait(1, now):
            return 0
        return self._bar(BAD_SIGNATURES_BACKOFF_MS, now)

    def broken_frame(self, now: int) -> int:
        """Count one, which ended the link; return for how many ms the peer is kept out now."""
        if now - self._broken_at >= BROKEN_FORGET_MS:
            self._broken = 0
        back_off = BROKEN_FIRST_MS << min(self._broken, BROKEN_MAX_MS.bit_length())
        self._broken = min(self._broken + 1, BROKEN_MAX_MS.bit_length())
        self._broken_at = now
        return self._bar(min(back_off, BROKEN_MAX_MS), now)

    def barred(self, now: int) -> int:
        """Return for how many ms more the peer is kept out; 0 if a link may open."""
        # Counted down instead of compared, so that a clock that went back bars nobody for longer.
        self._barred = max(0, self._barred - max(0, now - self._barred_at))
        self._barred_at = now
        return self._barred

    def _bar(self, back_off: int, now: int) -> int:
        self._barred = max(self.barred(now), back_off)
        return self._barred
