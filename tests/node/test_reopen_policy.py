"""A policy file outlives the beginning of a new log."""

from __future__ import annotations

from pathlib import Path

from node.app import initialise, open_core, reopen_log
from node.clock import SystemClock
from node.config import load_config
from node.home import Home
from protocol.policy import format_policy, make_policy, parse_policy

PASSPHRASE = b"correct horse battery"


def test_the_policy_names_the_new_log_and_keeps_its_comments(tmp_path: Path) -> None:
    home = Home(tmp_path / "node")
    initialise(
        home.path,
        {
            "node.authority": "A", "node.country": "XA", "node.network": "n", "node.contact": "c",
        },
        PASSPHRASE,
    )  # fmt: skip
    with open_core(home, load_config(home), SystemClock()) as core:
        policy = make_policy(core.card.log, [], 0)
    home.witness_policy.write_text("# ours\n" + format_policy(policy))
    old, new = reopen_log(home.path, lambda: PASSPHRASE)
    assert (old[-4:], new[-5:]) == ("/log", "/log2")
    text = home.witness_policy.read_text()
    assert text.startswith("# ours\n")
    assert {line.key.name for line in parse_policy(text).logs} == {new}
    with open_core(home, load_config(home), SystemClock()) as core:
        assert core.log.origin == new
        assert core.verify()
