"""The synthetic corpus: the same each time, importable as it stands, and true to its assumptions."""

# ruff: noqa: E501  several scripts stand here on purpose
from __future__ import annotations

import itertools
import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from node.cli.main import app
from node.corpus import Corpus, knobs, tables
from node.corpus.firms import CULTURES, firm
from node.corpus.incidents import Planted
from protocol.checks import container_is_valid
from protocol.incident import parse_incident
from protocol.reference import substances

Row = dict[str, Any]


def made(count: int, seed: int = 1) -> tuple[list[Row], list[Row]]:
    rows = list(Corpus(count=count, seed=seed).lines())
    return [row for row in rows if "truth" not in row], [row for row in rows if "truth" in row]


@pytest.fixture(scope="module")
def small() -> tuple[list[Row], list[Row]]:
    return made(4_000)


def test_the_same_seed_gives_the_same_lines_and_another_one_others() -> None:
    assert made(200) == made(200)
    assert made(200)[0] != made(200, seed=2)[0]


def test_every_incident_is_one_by_the_model_and_an_exercise(
    small: tuple[list[Row], list[Row]],
) -> None:
    incidents, _ = small
    for row in incidents[:800]:
        value = {name: item for name, item in row.items() if name != "external_ref"}
        assert parse_incident(value).face.exercise
    refs = [row["external_ref"] for row in incidents]
    assert len(set(refs)) == len(refs) == 4_000


def test_the_truth_names_incidents_that_hold_what_is_planted(
    small: tuple[list[Row], list[Row]],
) -> None:
    incidents, truth = small
    by_ref = {row["external_ref"]: json.dumps(row, ensure_ascii=False) for row in incidents}
    links = [row for row in truth if row["truth"] == "link"]
    assert {row["kind"] for row in links} == set(knobs.SERIES_KINDS)
    for row in links:
        assert len(row["members"]) == len(row["written"]) > 1
        for member, written in zip(row["members"], row["written"], strict=True):
            parts = [written] if row["kind"] != "same_conveyance" else written.split(" ", 1)[:1]
            assert all(
                json.dumps(part, ensure_ascii=False)[1:-1] in by_ref[member] for part in parts
            )


def test_what_is_kept_does_not_grow_with_the_corpus() -> None:
    corpus = Corpus(count=20_000, seed=1)
    most = 0
    for _ in itertools.islice(corpus.lines(), 30_000):
        most = max(most, len(corpus._open))
    assert most < 600
    assert len(corpus._recent) <= 65


def test_the_mix_is_that_of_the_knobs(small: tuple[list[Row], list[Row]]) -> None:
    incidents, _ = small
    types = Counter(row["face"]["incident_type"] for row in incidents)
    assert types["seizure"] / 4_000 == pytest.approx(0.58, abs=0.03)
    languages = Counter(row["face"]["lang"] for row in incidents)
    assert languages["en"] / 4_000 == pytest.approx(0.55, abs=0.03)
    reporters = Counter(row["face"]["origin_country"] for row in incidents)
    first = sum(count for _, count in reporters.most_common(10)) / 4_000
    assert first == pytest.approx(0.62, abs=0.06)
    stuff = [each for row in incidents for each in row["face"].get("substances", ())]
    assert len(stuff) / 4_000 == pytest.approx(1.3, abs=0.08)
    free = sum("other" in each for each in stuff) / len(stuff)
    assert free == pytest.approx(knobs.FREE_TEXT, abs=0.02)


def test_dirty_data_is_there_and_rare() -> None:
    incidents, _ = made(20_000, seed=3)
    numbers = [re.sub(r"[^A-Z0-9]", "", box["no"].upper()) for row in incidents
               for box in row.get("annex", {}).get("containers", ())]  # fmt: skip
    bad = sum(not container_is_valid(number) for number in numbers) / len(numbers)
    assert 0.01 < bad < 0.12  # those of the knob, and what decoys misread
    routes = [row["face"]["route"] for row in incidents if "route" in row["face"]]
    without = sum("destination" not in legs[-1] for legs in routes) / len(routes)
    assert without == pytest.approx(knobs.NO_DESTINATION, abs=0.02)


def test_every_substance_stands_in_the_reference_list() -> None:
    known = substances().by_id
    for stuff in (*tables.SCHEDULED, *tables.NON_SCHEDULED):
        assert stuff.id in known
    scheduled = {stuff.id for stuff in tables.SCHEDULED}
    assert all(known[each].control for each in scheduled)
    assert not any(known[stuff.id].control for stuff in tables.NON_SCHEDULED)


def test_no_two_firms_of_a_culture_have_one_name() -> None:
    for at, culture in enumerate(CULTURES):
        count = min(culture.size, 6_000) + 50
        names = {firm(at, number, culture.countries[0]).native() for number in range(count)}
        forms = {form for form, _ in culture.forms}
        bare = {name.translate(str.maketrans("", "", "")) for name in names}
        assert len(bare) == count, (culture.name, forms)


def test_nothing_invented_can_be_reached(small: tuple[list[Row], list[Row]]) -> None:
    text = json.dumps(small[0], ensure_ascii=False)
    for found in re.findall(r"[\w.+-]+@([\w.-]+\.\w+)", text):
        assert found.lower().endswith(".example") or found.lower() in {
            "gmail.com",
            "googlemail.com",
        }
    for local in re.findall(r"([\w.+]+)@gmail\.com", text):
        assert len(local.partition("+")[0].replace(".", "")) > 30  # longer than the provider allows
    assert "+999" in text


def test_the_command_writes_corpus_and_truth_and_reports_the_mix(tmp_path: Path) -> None:
    out, truth = tmp_path / "corpus.ndjson", tmp_path / "truth.ndjson"
    arguments = ["corpus", "--count", "50", "--seed", "7", "--out", str(out), "--truth", str(truth)]
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0
    lines = out.read_text(encoding="utf-8").splitlines()
    assert [json.loads(line) for line in lines] == made(50, seed=7)[0]
    assert all("truth" in json.loads(line) for line in truth.read_text("utf-8").splitlines())
    assert "50 invented incidents, seed 7" in done.stderr
    again = CliRunner().invoke(app, arguments)
    assert again.exit_code != 0
    assert "Give a new file" in again.stderr


def test_a_planted_link_is_written_by_several_hands() -> None:
    _, truth = made(4_000, seed=5)
    written = [row["written"] for row in truth if row["truth"] == "link"]
    assert sum(len(set(texts)) > 1 for texts in written) / len(written) > 0.5
    assert Planted("same_batch").written == []
