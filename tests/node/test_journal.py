"""The journal: whatever a careless call hands over, only event names and ids come out."""

from __future__ import annotations

import ast
import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import structlog

from node import journal

CANARY = "canary-7f3a acetic anhydride 20160 LTR"


@pytest.fixture(autouse=True)
def restored() -> Iterator[None]:
    """Give back to pytest what ``set_up`` takes: the root logger and structlog's settings."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    root.handlers[:] = []
    yield
    structlog.reset_defaults()
    root.handlers[:] = handlers
    root.setLevel(level)


def lines(capsys: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    captured = capsys.readouterr()
    assert captured.out == "", "standard output is for data"
    return [json.loads(line) for line in captured.err.splitlines()]


def test_an_event_has_its_name_level_time_and_ids(capsys: pytest.CaptureFixture[str]) -> None:
    journal.set_up("info", "json")
    structlog.get_logger().info("envelopes-logged", peer="birch", count=3)
    (line,) = lines(capsys)
    assert line.pop("timestamp").endswith("Z")
    assert line == {"event": "envelopes-logged", "level": "info", "peer": "birch", "count": 3}


@pytest.mark.parametrize(
    "key", ["summary", "passphrase", "body", "token", "exc_info", "stack_info", "Peer", "peer "]
)
def test_a_key_that_is_not_on_the_list_is_dropped_and_shown_to_be(
    capsys: pytest.CaptureFixture[str], key: str
) -> None:
    journal.set_up("info", "json")
    structlog.get_logger().info("released", **{key: CANARY})
    (line,) = lines(capsys)
    assert CANARY not in json.dumps(line)
    assert line["event"] == "released"
    assert line["code"] == "dropped-key"


@pytest.mark.parametrize(
    "value",
    [CANARY.encode(), bytearray(CANARY.encode()), [CANARY.encode()], {"x": CANARY.encode()},
     (1, [memoryview(CANARY.encode()).tobytes()])],
    ids=["bytes", "bytearray", "in a list", "in a map", "deeper"],
)  # fmt: skip
def test_bytes_are_withheld_wherever_they_are(
    capsys: pytest.CaptureFixture[str], value: object
) -> None:
    journal.set_up("info", "json")
    structlog.get_logger().info("released", peer=value)
    (line,) = lines(capsys)
    assert "canary" not in json.dumps(line)
    assert line["peer"] == "withheld"


def test_a_long_value_is_withheld_and_a_short_one_kept(capsys: pytest.CaptureFixture[str]) -> None:
    journal.set_up("info", "json")
    structlog.get_logger().info("released", peer="p" * 256, code="c" * 257)
    (line,) = lines(capsys)
    assert line["peer"] == "p" * 256
    assert line["code"] == "withheld"


def test_a_long_event_name_is_withheld_too(capsys: pytest.CaptureFixture[str]) -> None:
    journal.set_up("info", "json")
    structlog.get_logger().info(CANARY * 10)
    (line,) = lines(capsys)
    assert line["event"] == "withheld"


def test_the_text_of_an_exception_stays_out(capsys: pytest.CaptureFixture[str]) -> None:
    journal.set_up("info", "json")
    try:
        int(CANARY)
    except ValueError as error:
        structlog.get_logger().exception("failed")
        assert journal.bug(error) == "internal-error"
    text = json.dumps(lines(capsys))
    assert "canary" not in text
    assert "ValueError at test_journal.py:" in text, "a bug is found by its type and place"


def test_libraries_that_log_on_their_own_are_silent(capsys: pytest.CaptureFixture[str]) -> None:
    journal.set_up("debug", "json")
    logging.getLogger("aiohttp.server").error("request failed: %s", CANARY)
    logging.getLogger("asyncio").warning(CANARY)
    assert lines(capsys) == []


@pytest.mark.parametrize(
    ("level", "shown"),
    [
        ("debug", ["d", "i", "w", "e"]),
        ("info", ["i", "w", "e"]),
        ("warning", ["w", "e"]),
        ("error", ["e"]),
    ],
)
def test_events_below_the_chosen_level_are_left_out(
    capsys: pytest.CaptureFixture[str], level: str, shown: list[str]
) -> None:
    journal.set_up(level, "json")
    log = structlog.get_logger()
    log.debug("d")
    log.info("i")
    log.warning("w")
    log.error("e")
    assert [line["event"] for line in lines(capsys)] == shown


@pytest.mark.parametrize("form", ["json", "console"])
def test_a_name_with_line_breaks_cannot_forge_a_line(
    capsys: pytest.CaptureFixture[str], form: str
) -> None:
    journal.set_up("info", form)
    structlog.get_logger().info("link-open", peer="birch\nready size=1\x1b[2J")
    text = capsys.readouterr().err
    assert text.count("\n") == 1
    assert "\x1b" not in text


def test_the_console_form_is_filtered_as_well(capsys: pytest.CaptureFixture[str]) -> None:
    journal.set_up("info", "console")
    structlog.get_logger().info("released", summary=CANARY, peer=CANARY.encode(), count=2)
    text = capsys.readouterr().err
    assert "canary" not in text
    assert "count=2" in text


def test_every_event_is_logged_under_keys_that_come_out() -> None:
    """A key that is dropped takes the place of the code, and says nothing to whoever reads it."""
    levels = {"debug", "info", "warning", "error", "critical", "exception"}
    calls = 0
    for path in sorted(Path(journal.__file__).parent.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if (
                isinstance(node, ast.Call)
                and isinstance(node.func, ast.Attribute)
                and node.func.attr in levels
            ):
                calls += 1
                dropped = {each.arg for each in node.keywords} - journal._ALLOWED
                assert not dropped, f"{path.name}:{node.lineno} logs {dropped}"
    assert calls > 40
