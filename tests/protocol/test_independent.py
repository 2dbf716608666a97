"""A reader that follows docs/protocol.md and shares no code with Picket agrees with every vector.

What it verifies is what the document is sufficient for: a second implementation needs no more.
"""

from __future__ import annotations

import ast
import copy
import subprocess
import sys
from pathlib import Path
from typing import Any, Final, TypeAlias

import pytest

from tests.vectors import independent

Json: TypeAlias = dict[str, Any]

SOURCE: Final = Path(independent.__file__)
FILES: Final = {name: independent.load(name) for name in independent.FILES}
ALLOWED: Final = {"cryptography", "msgpack"}


def case(file: str, name: str) -> Json:
    """Return the one case of *file* that is called *name*."""
    found: list[Json] = [c for c in FILES[file]["cases"] if c["name"] == name]
    assert len(found) == 1
    return found[0]


@pytest.mark.parametrize("name", FILES)
def test_the_second_reader_reads_each_case_as_the_file_says(name: str) -> None:
    vectors = FILES[name]
    wrong = {c["name"]: independent.examine(vectors, c) for c in vectors["cases"]}
    assert {name: why for name, why in wrong.items() if why is not None} == {}


def test_it_shares_no_code_with_picket() -> None:
    tree = ast.parse(SOURCE.read_text(encoding="utf-8"))
    imported = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            imported |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0
            imported.add((node.module or "").split(".")[0])
    assert imported - set(sys.stdlib_module_names) <= ALLOWED
    assert imported >= ALLOWED


def test_it_runs_by_itself_where_picket_cannot_be_imported(tmp_path: Path) -> None:
    """As whoever writes another implementation would run it."""
    for name in independent.FILES:
        (tmp_path / f"{name}.json").write_bytes((SOURCE.parent / f"{name}.json").read_bytes())
    (tmp_path / SOURCE.name).write_bytes(SOURCE.read_bytes())
    for name in ("protocol", "keys", "node"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('not to be imported')")
    done = subprocess.run(
        [sys.executable, SOURCE.name], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count(" 0 differ\n") == len(independent.FILES)


# --- what makes the reader worth asking: it does not agree with anything else ------------------
CHAIN = [
    ("card", "a card", "inception", 200),
    ("card", "a bundle", "bundle", 300),
    ("envelope", "an opener", "opener", 60),
    ("envelope", "a recipient opens the envelope that continues", "continuation", 700),
    ("envelope", "a recipient opens the envelope that continues", "opener", 2_500),
    ("streams", "two envelopes in one place", "twins", 60),
    ("streams", "a number 5 that names another number 4", "neighbours", 450),
    ("receipt", "the receipts of two envelopes", "receipts", 500),
    ("receipt", "receipts in bulk as they are on a link", "runs", 500),
    ("receipt", "receipts in bulk as they are on a link", "runs", -100),
    ("receipt", "the receipt for one envelope in the middle of a run", "runs", -100),
    ("blob", "the last chunk of four", "chunk", 60),
    ("blob", "the last chunk of four", "chunk", -1),
    ("blob", "the last chunk of four, opened", "chunk", 60),
    ("blob", "the last chunk of four, opened", "key", 0),
    ("blob", "a file of 65537 bytes", "key", 31),
    ("receipt", "a receipt that an envelope was erased", "erased", 300),
    ("receipt", "a receipt that an envelope was erased", "erased", -10),
    ("receipt", "two lines of one unknown key under the name of the log", "erased", 300),
    ("witness", "another beginning, of a size that is a power of two", "fork", 60),
    ("witness", "another beginning, of a size that is a power of two", "fork", 300),
    ("witness", "another beginning, of another size", "fork_of_three", -1),
    ("witness", "two roots of one size", "fork_of_one_size", 3_800),
    ("witness", "each signed with other keys that the log has had", "fork_of_two_keys", 2_000),
    ("witness", "the first head of a log", "first_request", 5),
    ("witness", "a log that grew", "request", 30),
    ("witness", "a log that grew", "request", -100),
    ("policy", "a checkpoint that two of three cosigned", "note", 120),
    ("policy", "a checkpoint that two of three cosigned", "note", -100),
    ("policy", "a checkpoint that two of three cosigned", "policy", 60),
    ("policy", "a proof file", "proof", 40),
    ("policy", "a proof file", "proof", 5_000),
    ("policy", "a proof file", "entry", 0),
    ("policy", "the example of the specification", "plain", -2),
    ("frames", "the first two frames of the acceptor", "acceptor_hello", 90),
    ("frames", "the first two frames of the acceptor", "dialer_certificate", 40),
]


@pytest.mark.parametrize(("file", "name", "given", "at"), CHAIN)
def test_it_refuses_an_accepted_case_once_a_byte_is_changed(
    file: str, name: str, given: str, at: int
) -> None:
    vectors = copy.deepcopy(FILES[file])
    data = bytearray.fromhex(vectors["given"][given])
    data[at] ^= 1
    vectors["given"][given] = data.hex()
    assert independent.examine(FILES[file], case(file, name)) is None
    assert independent.examine(vectors, case(file, name)) is not None


def test_it_needs_the_seed_of_the_recipient_to_open() -> None:
    vectors = copy.deepcopy(FILES["envelope"])
    vectors["nodes"]["birch"]["seal_seed"] = vectors["nodes"]["cedar"]["seal_seed"]
    opened = case("envelope", "a recipient opens the opener")
    assert independent.examine(vectors, opened) == "cannot-open instead of accepted"


def test_it_notices_a_changed_code_and_a_changed_value() -> None:
    refused = {**case("card", "no signature"), "code": "bad-signature"}
    assert independent.examine(FILES["card"], refused) == "bad-statement instead of bad-signature"
    accepted = copy.deepcopy(case("card", "a card"))
    accepted["expect"]["authority"] = "Birch"
    assert independent.examine(FILES["card"], accepted) == "another authority"


def test_it_notices_a_changed_digest_and_a_changed_range() -> None:
    summed = copy.deepcopy(case("streams", "the digest of three streams of two authors"))
    summed["items"][0][3] += 1
    assert independent.examine(FILES["streams"], summed) == "another digest, authors"
    compared = copy.deepcopy(case("streams", "gaps in ours"))
    compared["mine"][3] += 1
    assert independent.examine(FILES["streams"], compared) == "another wants"
