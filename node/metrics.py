"""What a node counts, and how it tells Prometheus: one table of metrics, one registry per node.

- Every metric stands in ``METRICS`` with its help text and labels; nothing else can be counted.
- A label is an outcome code, a lane, or the name that the operator gave a peer, never an id or a
  text. Its values are bounded: what is not known counts as ``other``, so that no peer can fill the
  memory with codes that it makes up.
- Counting is one dictionary access under a lock: links, desk and verifying threads all count.
- prometheus-client writes the answer, and is loaded only for that.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from threading import Lock
from typing import TYPE_CHECKING, Final

from protocol import errors
from protocol.quota import BACKOFF, QUOTA, What

if TYPE_CHECKING:
    from prometheus_client import Metric as Family

CONTENT_TYPE: Final = "text/plain; version=0.0.4"
"""The server adds the charset, which is UTF-8."""
OTHER: Final = "other"
MAX_PEERS: Final = 1_024
"""Peer names that are told apart; the plan is for 1,000 authorities."""
_OTHER_CODES: Final = frozenset(
    {QUOTA, BACKOFF, "done", "internal-error", "link-lost", "second-link", "shutdown"}
)


def _codes(base: type[errors.PicketError]) -> Iterator[str]:
    yield base.code
    for kind in base.__subclasses__():
        yield from _codes(kind)


CODES: Final = frozenset(_codes(errors.PicketError)) | _OTHER_CODES
"""Outcome codes that are counted by their own name."""


class Kind(StrEnum):
    """Whether a metric only rises, or shows a state."""

    COUNTER = "counter"
    GAUGE = "gauge"


_VALUES: Final[Mapping[str, frozenset[str] | None]] = {
    "code": CODES,
    "direction": frozenset({"in", "out"}),
    "lane": frozenset({"control", "receipts", "live", "catch-up"}),
    "part": frozenset({"author", "recipient", "carrier"}),
    "peer": None,  # the operator's names, up to MAX_PEERS
    "purpose": frozenset({"card", "identity", "message", "sealing", "tls"}),
    "reason": frozenset(
        {"half-open", "half-open-address", "links-per-certificate", "log-readers", "files"}
    ),
    "side": frozenset({"dialled", "accepted"}),
    "what": frozenset(What),
}
_SHOWN_AT_ZERO: Final = frozenset({"direction", "lane", "part", "reason", "side"})


@dataclass(frozen=True, slots=True, eq=False)  # told apart by identity, which costs least
class Metric:
    """One row of the table. A counter's name ends in ``_total``."""

    name: str
    kind: Kind
    help: str
    labels: tuple[str, ...] = ()


def _counter(name: str, text: str, *labels: str) -> Metric:
    return Metric(f"picket_{name}_total", Kind.COUNTER, text, labels)


def _gauge(name: str, text: str, *labels: str) -> Metric:
    return Metric(f"picket_{name}", Kind.GAUGE, text, labels)


# --- traffic ---------------------------------------------------------------------------------
FRAMES: Final = _counter("frames", "Frames on links, by lane.", "direction", "lane")
FRAME_BYTES: Final = _counter("frame_bytes", "Bytes of frames on links.", "direction", "lane")
ENVELOPES_LOGGED: Final = _counter(
    "envelopes_logged", "Envelopes written to the log, by this node's part in them.", "part"
)
ENVELOPES_REFUSED: Final = _counter(
    "envelopes_refused", "Envelopes of peers that this node did not take, by reason.", "code"
)
ENVELOPES_NOT_TAKEN: Final = _counter(
    "envelopes_not_taken", "Envelopes of this node that a peer did not take, by reason.", "code"
)
DUPLICATES: Final = _counter("duplicates", "Envelopes that came again and were receipted again.")
EXPIRED: Final = _counter(
    "expired", "Deliveries for others that ended undelivered because the envelope expired."
)
RECEIPTS: Final = _counter("receipts", "Receipts given (out), and verified (in).", "direction")
RECEIPTS_REFUSED: Final = _counter("receipts_refused", "Receipts that proved nothing.", "code")
PULLS: Final = _counter("pulls", "Times that missing envelopes were asked for.")
STALLS: Final = _counter("stalls", "Times that a peer did not bring what it said it holds.", "peer")

# --- links -----------------------------------------------------------------------------------
LINKS_OPENED: Final = _counter("links_opened", "Links whose both ends proved themselves.", "side")
LINKS_CLOSED: Final = _counter("links_closed", "Links that ended, by reason.", "code")
CONNECTIONS_REFUSED: Final = _counter(
    "connections_refused", "Connections refused before they could cost anything.", "reason"
)
HANDSHAKE_TIMEOUTS: Final = _counter(
    "handshake_timeouts", "Connections that did not become a link in time."
)
SLOW_READERS: Final = _counter("slow_readers_cut", "Links cut as the peer did not read.", "peer")
OVERSIZE: Final = _counter("oversize", "Links ended by a frame over the limit.", "peer")
BAD_SIGNATURES: Final = _counter("bad_signatures", "Signatures that did not verify.", "peer")
BROKEN_FRAMES: Final = _counter("broken_frames", "Links ended by a malformed frame.", "peer")
BACKOFFS: Final = _counter("backoffs", "Links refused as the peer is kept out for now.", "peer")
QUOTA_REFUSALS: Final = _counter(
    "quota_refusals", "Envelopes refused because their bringer was over quota.", "peer", "what"
)

# --- trouble ---------------------------------------------------------------------------------
CLOCK_SKEWS: Final = _counter("clock_skews", "Envelopes whose author's clock is doubtful.", "peer")
DISK_BUSY: Final = _counter("disk_busy", "Times that the disk took nothing more.")
FORKS: Final = _counter("forks", "Proofs that an author signed twice in one place.")
LOG_FORKS: Final = _counter("log_forks", "Proofs that a log contradicts itself.")
LOG_REFUSED: Final = _counter("log_refused", "False things that peers said of logs.", "peer")
COSIGNED: Final = _counter("log_cosigned", "Heads of this log that a quorum has cosigned.")
COSIGNING_REFUSED: Final = _counter("cosigning_refused", "Heads not cosigned, by peer.", "peer")
UNOPENED: Final = _counter(
    "unopened_notices", "Notices of epochs that do not open: given (out), and heard (in).",
    "direction",
)  # fmt: skip
SEALED_AGAIN: Final = _counter(
    "sealed_again", "Epochs sealed again to one reader: given (out), and opened (in).", "direction"
)
RESEALS_REFUSED: Final = _counter(
    "reseals_refused", "Notices and new slots of peers that were refused, by reason.", "code"
)
KEY_FRAMES_REFUSED: Final = _counter(
    "key_frames_refused", "What peers said of keys that was refused, by reason.", "code"
)

# --- state -----------------------------------------------------------------------------------
LINKS_OPEN: Final = _gauge("links_open", "Links open now.")
GAPS_OPEN: Final = _gauge("gaps_open", "Streams of which an envelope is known to be missing.")
OUTBOX_DEPTH: Final = _gauge("outbox_depth", "Deliveries that wait, by peer.", "peer")
RECEIPTS_OVERDUE: Final = _gauge(
    "receipts_overdue", "Deliveries whose receipt is missing past its deadline, by peer.", "peer"
)
LOG_SIZE: Final = _gauge("log_size_entries", "Entries of the log.")
CUSTODY_BYTES: Final = _gauge("custody_bytes", "Bytes of envelopes carried for others.")
CUSTODY_GIVEN: Final = _gauge(
    "custody_given_bytes", "Bytes of envelopes carried for others, by who gave them.", "peer"
)
CUSTODY_KEPT_OUT: Final = _gauge(
    "custody_kept_out", "Envelopes lately refused as custody is full, by whose bound.", "peer"
)

PEER_CLOCK_SKEW: Final = _gauge(
    "peer_clock_skew_seconds", "By how much at least a peer's clock is ahead of this one.", "peer"
)
KEY_EXPIRES: Final = _gauge(
    "key_expires_timestamp_seconds", "When a new key is due, by what it is for.", "purpose"
)

METRICS: Final = (
    FRAMES, FRAME_BYTES, ENVELOPES_LOGGED, ENVELOPES_REFUSED, ENVELOPES_NOT_TAKEN, DUPLICATES,
    EXPIRED, RECEIPTS, RECEIPTS_REFUSED, PULLS, STALLS, LINKS_OPENED, LINKS_CLOSED,
    CONNECTIONS_REFUSED, HANDSHAKE_TIMEOUTS, SLOW_READERS, OVERSIZE, BAD_SIGNATURES, BROKEN_FRAMES,
    BACKOFFS, QUOTA_REFUSALS, CLOCK_SKEWS, DISK_BUSY, FORKS, LOG_FORKS, LOG_REFUSED,
    COSIGNED, COSIGNING_REFUSED, UNOPENED, SEALED_AGAIN, RESEALS_REFUSED, KEY_FRAMES_REFUSED,
    LINKS_OPEN, GAPS_OPEN, OUTBOX_DEPTH, RECEIPTS_OVERDUE, LOG_SIZE, CUSTODY_BYTES, CUSTODY_GIVEN,
    CUSTODY_KEPT_OUT, KEY_EXPIRES, PEER_CLOCK_SKEW,
)  # fmt: skip
"""Every metric, in the order in which they are told."""

_Series = dict[tuple[str, ...], int]


@dataclass(eq=False)
class Metrics:
    """The counts of one node, since its start."""

    _series: dict[Metric, _Series] = field(init=False)
    _peers: set[str] = field(default_factory=set, init=False)
    _lock: Lock = field(default_factory=Lock, init=False)

    def __post_init__(self) -> None:
        """Begin at zero, which is told where all values of the labels are known."""
        self._series = {metric: _at_zero(metric) for metric in METRICS}

    # --- counting ----------------------------------------------------------------------------
    def add(self, metric: Metric, *labels: str, by: int = 1) -> None:
        """Count *by* more, with the values of its labels in their order.

        Raises:
            ValueError: it is a gauge, *by* is negative, or a label is missing.
        """
        if metric.kind is not Kind.COUNTER or by < 0:
            raise ValueError(f"{metric.name} cannot be raised by {by}")
        with self._lock:
            series = self._series[metric]
            if labels not in series:
                labels = self._bounded(metric, labels)
            series[labels] = series.get(labels, 0) + by

    def put(self, metric: Metric, *labels: str, value: int) -> None:
        """Set one series of a gauge.

        Raises:
            ValueError: it is a counter, or a label is missing.
        """
        _check_gauge(metric)
        with self._lock:
            self._series[metric][self._bounded(metric, labels)] = value

    def replace(self, metric: Metric, values: Mapping[str, int]) -> None:
        """Set a gauge with one label to exactly *values*; whatever it showed besides is gone.

        Raises:
            ValueError: it is a counter, or has not one label.
        """
        _check_gauge(metric)
        with self._lock:
            fresh: _Series = {}
            for label, value in values.items():
                key = self._bounded(metric, (label,))
                fresh[key] = fresh.get(key, 0) + value
            self._series[metric] = fresh

    def value(self, metric: Metric, *labels: str) -> int:
        """Return what stands in one series, 0 if nothing was counted."""
        with self._lock:
            return self._series[metric].get(labels, 0)

    def _bounded(self, metric: Metric, labels: tuple[str, ...]) -> tuple[str, ...]:
        if len(labels) != len(metric.labels):
            raise ValueError(f"{metric.name} has the labels {metric.labels}, not {labels}")
        return tuple(map(self._known, metric.labels, labels))

    def _known(self, label: str, value: str) -> str:
        values = _VALUES[label]
        if values is not None:
            return value if value in values else OTHER
        if value not in self._peers:
            if len(self._peers) >= MAX_PEERS:
                return OTHER
            self._peers.add(value)
        return value

    # --- telling -----------------------------------------------------------------------------
    def render(self) -> bytes:
        """Return all of it as Prometheus reads it, of the type ``CONTENT_TYPE``."""
        from prometheus_client import CollectorRegistry  # noqa: PLC0415  heavy, see above
        from prometheus_client.exposition import generate_latest  # noqa: PLC0415

        registry = CollectorRegistry(auto_describe=False)
        registry.register(self)
        return generate_latest(registry)

    def collect(self) -> Iterator[Family]:
        """Yield each metric with its series, as a prometheus-client collector does."""
        from prometheus_client.core import (  # noqa: PLC0415
            CounterMetricFamily,
            GaugeMetricFamily,
        )

        with self._lock:
            copies = {metric: dict(series) for metric, series in self._series.items()}
        for metric, series in copies.items():
            family = CounterMetricFamily if metric.kind is Kind.COUNTER else GaugeMetricFamily
            told = family(metric.name, metric.help, labels=metric.labels)
            for labels, value in sorted(series.items()):
                told.add_metric(labels, value)
            yield told


def _check_gauge(metric: Metric) -> None:
    if metric.kind is not Kind.GAUGE:
        raise ValueError(f"{metric.name} only rises: use add")


def _at_zero(metric: Metric) -> _Series:
    if not set(metric.labels) <= _SHOWN_AT_ZERO:
        return {}
    found: list[tuple[str, ...]] = [()]
    for label in metric.labels:
        values = sorted(_VALUES[label] or ())
        found = [(*key, value) for key in found for value in values]
    return dict.fromkeys(found, 0)
