"""What is counted, how it is told, and that nobody can make it grow."""

from __future__ import annotations

import subprocess
import sys
import threading
import timeit

import pytest
from prometheus_client.parser import text_string_to_metric_families

from node import metrics
from node.metrics import METRICS, Kind, Metric, Metrics
from protocol import errors
from protocol.quota import What
from protocol.session import Lane


def told(counts: Metrics) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    """Read the answer as Prometheus does: value by name and labels."""
    families = text_string_to_metric_families(counts.render().decode())
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in families
        for sample in family.samples
    }


def some_labels(metric: Metric) -> tuple[str, ...]:
    return tuple(
        "birch" if label == "peer" else min(metrics._VALUES[label] or ()) for label in metric.labels
    )


@pytest.mark.parametrize("metric", METRICS, ids=lambda metric: metric.name)
def test_each_metric_of_the_table_is_told_under_its_name_with_help_and_labels(
    metric: Metric,
) -> None:
    counts, labels = Metrics(), some_labels(metric)
    if metric.kind is Kind.COUNTER:
        counts.add(metric, *labels, by=3)
        counts.add(metric, *labels)
    else:
        counts.put(metric, *labels, value=4)
    named = tuple(sorted(zip(metric.labels, labels, strict=True)))
    assert told(counts)[metric.name, named] == 4
    assert counts.value(metric, *labels) == 4
    text = counts.render().decode()
    assert f"# HELP {metric.name} {metric.help}\n" in text
    assert f"# TYPE {metric.name} {metric.kind}\n" in text


def test_the_table_keeps_the_rules_of_prometheus_and_ours() -> None:
    assert len({metric.name for metric in METRICS}) == len(METRICS)
    for metric in METRICS:
        assert metric.name.startswith("picket_")
        assert metric.name.endswith("_total") == (metric.kind is Kind.COUNTER)
        assert metric.help.endswith(".")
        assert set(metric.labels) <= set(metrics._VALUES)


def test_nothing_is_told_beside_the_table() -> None:
    counts = Metrics()
    for metric in METRICS:
        if metric.kind is Kind.COUNTER:
            counts.add(metric, *some_labels(metric))
    assert {name for name, _ in told(counts)} <= {metric.name for metric in METRICS}


def test_a_node_that_has_seen_nothing_tells_zeros_where_the_labels_are_known() -> None:
    answer = told(Metrics())
    assert set(answer.values()) == {0}
    assert ("picket_log_size_entries", ()) in answer
    assert ("picket_frames_total", (("direction", "in"), ("lane", "live"))) in answer
    assert not [name for name, _ in answer if name == "picket_links_closed_total"]


# --- bounds ----------------------------------------------------------------------------------
def test_codes_that_a_peer_makes_up_are_counted_as_other() -> None:
    counts = Metrics()
    for number in range(5_000):
        counts.add(metrics.ENVELOPES_NOT_TAKEN, f"made-up-{number}")
    counts.add(metrics.ENVELOPES_NOT_TAKEN, errors.ExpiredError.code)
    assert counts.value(metrics.ENVELOPES_NOT_TAKEN, metrics.OTHER) == 5_000
    assert counts.value(metrics.ENVELOPES_NOT_TAKEN, "expired") == 1
    assert len(counts._series[metrics.ENVELOPES_NOT_TAKEN]) == 2


def test_no_more_peers_are_told_apart_than_the_bound() -> None:
    counts = Metrics()
    for number in range(metrics.MAX_PEERS + 10):
        counts.add(metrics.STALLS, f"peer{number}")
        counts.add(metrics.SLOW_READERS, f"peer{number}")
    assert len(counts._series[metrics.STALLS]) == metrics.MAX_PEERS + 1
    assert counts.value(metrics.STALLS, metrics.OTHER) == 10
    counts.add(metrics.STALLS, "peer0")
    assert counts.value(metrics.STALLS, "peer0") == 2


def test_every_code_of_the_error_tree_and_every_lane_has_a_label_of_its_own() -> None:
    assert {"quota", "backoff", "bad-signature", "busy", "second-link"} <= metrics.CODES
    assert metrics.OTHER not in metrics.CODES
    for kind in (errors.PeerError, errors.LinkError, errors.StoreError):
        assert {leaf.code for leaf in kind.__subclasses__()} <= metrics.CODES
    lanes = {lane.name.lower().replace("_", "-") for lane in Lane} - {"last"}
    assert lanes == set(metrics._VALUES["lane"] or ())
    assert {str(what) for what in What} == set(metrics._VALUES["what"] or ())


def test_a_peers_name_is_told_whole_whatever_is_in_it() -> None:
    counts, name = Metrics(), 'Zoll "Süd"\\\nGrenze'
    counts.add(metrics.STALLS, name)
    assert told(counts)["picket_stalls_total", (("peer", name),)] == 1


# --- misuse ----------------------------------------------------------------------------------
def test_wrong_use_is_a_mistake_of_the_program() -> None:
    counts = Metrics()
    with pytest.raises(ValueError, match=r"picket_stalls_total has the labels \('peer',\)"):
        counts.add(metrics.STALLS)
    with pytest.raises(ValueError, match="picket_pulls_total cannot be raised by -1"):
        counts.add(metrics.PULLS, by=-1)
    with pytest.raises(ValueError, match="picket_links_open cannot be raised"):
        counts.add(metrics.LINKS_OPEN)
    with pytest.raises(ValueError, match="picket_pulls_total only rises"):
        counts.put(metrics.PULLS, value=1)
    with pytest.raises(ValueError, match="picket_stalls_total only rises"):
        counts.replace(metrics.STALLS, {"birch": 1})
    assert set(told(counts).values()) == {0}


def test_a_gauge_that_is_replaced_forgets_peers_that_are_gone() -> None:
    counts = Metrics()
    counts.replace(metrics.OUTBOX_DEPTH, {"birch": 3, "cedar": 4})
    counts.replace(metrics.OUTBOX_DEPTH, {"cedar": 5})
    found = {labels: value for (name, labels), value in told(counts).items()
             if name == "picket_outbox_depth"}  # fmt: skip
    assert found == {(("peer", "cedar"),): 5}


# --- apart, together, cheap ------------------------------------------------------------------
def test_two_nodes_in_one_process_count_apart() -> None:
    one, other = Metrics(), Metrics()
    one.add(metrics.PULLS)
    assert other.value(metrics.PULLS) == 0
    assert told(other)["picket_pulls_total", ()] == 0


def test_no_count_is_lost_between_threads() -> None:
    counts = Metrics()

    def work() -> None:
        for _ in range(20_000):
            counts.add(metrics.FRAMES, "in", "live")

    threads = [threading.Thread(target=work) for _ in range(4)]
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(before)
    assert counts.value(metrics.FRAMES, "in", "live") == 80_000


def test_counting_costs_next_to_nothing() -> None:
    counts = Metrics()
    count = timeit.Timer(lambda: counts.add(metrics.FRAME_BYTES, "in", "live", by=65_536))
    best = min(count.repeat(5, 10_000)) / 10_000
    assert best < 10e-6, "one count must be far below the 65 µs of a signature check"


def test_the_writer_of_the_answer_is_loaded_only_when_it_is_asked_for() -> None:
    program = (
        "import sys; from node.metrics import Metrics; assert 'prometheus_client' not in "
        "sys.modules; Metrics().render(); assert 'prometheus_client' in sys.modules"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
