"""The life of a node's keys at the command line: each step is a command that exists."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest

from keys.fingerprint import parse_code
from keys.identity import load_vault, recovery_signer
from keys.keystore import load
from node.client import Client
from node.config import load_config
from node.home import Home
from tests.node.test_cli import PASSPHRASE, REFUSED, USAGE, Done, fine, make, picket, told

NEW = "another horse battery"
_CODE = re.compile(r"^    ([A-Z2-7]{7}(?:-[A-Z2-7]{7}){7})$", re.MULTILINE)


@pytest.fixture(scope="module")
def born(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("born")
    secret = folder / "passphrase"
    secret.write_text(PASSPHRASE)
    secret.chmod(0o600)
    make(folder / "alder", "Alder", "test.example", secret)
    return folder


@pytest.fixture
def home(born: Path, tmp_path: Path) -> Path:
    """A node whose recovery sheet was printed and deleted."""
    path = shutil.copytree(born / "alder", tmp_path / "n")
    recovery, revocation = _CODE.findall(Home(path).recovery_sheet.read_text())
    (tmp_path / "recovery").write_text(f"{recovery}\n")
    (tmp_path / "revocation").write_text(revocation)
    (tmp_path / "old").write_text(PASSPHRASE)
    (tmp_path / "new").write_text(NEW)
    Home(path).recovery_sheet.unlink()
    return path


def status(home: Path) -> dict[str, object]:
    found: dict[str, object] = json.loads(fine(picket(home, "keys", "status", "--json")))
    return found


def kinds(home: Path) -> list[str]:
    statements = status(home)["statements"]
    assert isinstance(statements, list)
    return [each["type"] for each in statements]


def test_rotate_identity_asks_for_the_code_and_leaves_a_new_sheet(home: Path) -> None:
    folder = home.parent
    wrong = picket(home, "keys", "rotate-identity", "--code-file", str(folder / "revocation"),
                   "--passphrase-file", str(folder / "old"))  # fmt: skip
    assert "not the recovery code" in told(wrong, USAGE)
    assert kinds(home) == ["inception", "card"]
    done = picket(home, "keys", "rotate-identity", "--code-file", str(folder / "recovery"),
                  "--passphrase-file", str(folder / "old"))  # fmt: skip
    said = fine(done)
    assert said.index("1. Print") < said.index("2. Destroy the paper"), "never without a valid code"
    assert kinds(home) == ["inception", "card", "rotate", "card"]
    sheet = Home(home).recovery_sheet.read_text()
    assert sheet.index("Print this sheet") < sheet.index("destroy the recovery codes")
    (code,) = _CODE.findall(sheet)
    assert code != (folder / "recovery").read_text().strip()
    assert "REVOCATION CODE" in sheet
    vault = load_vault(load(Home(home).keystore, PASSPHRASE.encode()))
    paper = parse_code((folder / "recovery").read_text().strip())
    assert vault.identity.public == recovery_signer(paper).public
    fine(picket(home, "log", "verify"))
    assert not [p for p in home.iterdir() if p.name.endswith(".next")]


def test_status_tells_in_whole_lines_what_a_person_has_to_do(home: Path) -> None:
    said = fine(picket(home, "keys", "status"))
    lines = said.splitlines()
    assert max(map(len, lines)) <= 100
    assert "identity: you: every two years: picket keys rotate-identity" in lines
    whole = " ".join(said.split())
    assert "days after the last use; you: keep the node unlocked" in whole
    assert whole.count("only if it was lost: picket keys recover") == 1


def test_a_file_that_is_too_long_for_a_card_is_the_wrong_file(home: Path) -> None:
    path = home.parent / "big.card"
    path.write_bytes(b"x" * 300_000)
    assert "Name the right file" in told(picket(home, "peers", "add", str(path)), USAGE)


def test_only_a_peer_that_waits_for_it_is_to_be_approved(home: Path, born: Path) -> None:
    make(home.parent / "birch", "Birch", "test.example", home.parent / "old")
    card = home.parent / "birch.card"
    fine(picket(home.parent / "birch", "keys", "card", "--out", str(card)))
    first = picket(home, "peers", "add", str(card), "--name", "birch")
    assert "picket peers approve birch" in fine(first) + first.stderr
    fine(picket(home, "peers", "approve", "birch", "--level", "share", "--safety-number",
                number_with(home, "birch"), "--method", "in-person", "--by", "me"))  # fmt: skip
    again = picket(home, "peers", "add", str(card))
    assert "at level share" in fine(again) and "approve" not in fine(again) + again.stderr


def number_with(home: Path, name: str) -> str:
    seen = json.loads(fine(picket(home, "peers", "number", name, "--json")))
    return str(seen["safety_number"])


def test_neither_code_nor_passphrase_is_taken_from_the_command_line(home: Path) -> None:
    for verb in ("rotate-identity", "recover", "revoke", "passphrase"):
        done = picket(home, "keys", verb, "--help")
        assert not re.search(r"--(code|passphrase)\b(?!-file)", fine(done))


def test_a_mistyped_code_is_named_by_its_group(home: Path) -> None:
    code = (home.parent / "recovery").read_text()
    (home.parent / "typo").write_text(("A" if code[0] != "A" else "B") + code[1:])
    done = picket(home, "keys", "rotate-identity", "--code-file", str(home.parent / "typo"),
                  "--passphrase-file", str(home.parent / "old"))  # fmt: skip
    assert "group 1 or 2" in told(done, USAGE)


def test_passphrase_changes_the_passphrase(home: Path) -> None:
    folder = home.parent
    done = picket(home, "keys", "passphrase", "--old-passphrase-file", str(folder / "new"),
                  "--passphrase-file", str(folder / "old"))  # fmt: skip
    told(done, REFUSED)
    done = picket(home, "keys", "passphrase", "--old-passphrase-file", str(folder / "old"),
                  "--passphrase-file", str(folder / "new"))  # fmt: skip
    fine(done)
    kept = load_config(Home(home)).keystore.passphrase_file
    assert "Put the new passphrase where the service gets it" in done.stderr
    assert f"the file {kept} (keystore.passphrase_file)" in done.stderr
    assert load(Home(home).keystore, NEW.encode())


def recover(home: Path, *more: str) -> Done:
    folder = home.parent
    return picket(home, "keys", "recover", "--yes", "--code-file", str(folder / "recovery"),
                  "--passphrase-file", str(folder / "new"), *more)  # fmt: skip


def test_recover_makes_every_key_new_in_the_same_home(home: Path) -> None:
    before = Client(home).call("GET", "/api/v1/node")[1]
    secret = {"PICKET_KEYSTORE__PASSPHRASE_FILE": str(home.parent / "new")}
    done = recover(home, "--old-passphrase-file", str(home.parent / "old"))
    assert "all keys are new" in fine(done)
    assert done.stderr.index("1. Print") < done.stderr.index("2. Destroy the paper")
    assert "(keystore.passphrase_file)" in done.stderr
    after = json.loads(fine(picket(home, "keys", "status", "--json", env=secret)))
    assert [s["type"] for s in after["statements"]] == ["inception", "card", "recover", "card"]
    assert after["node_id"] == before["node_id"]
    fine(picket(home, "log", "verify", env=secret))
    fine(picket(home, "incidents", "list", env=secret))
    assert not [p for p in home.iterdir() if p.name.endswith(".next")]
    again = recover(home, "--old-passphrase-file", str(home.parent / "new"))
    assert "not the recovery code" in told(again, USAGE), "each code works once"


@pytest.mark.long
def test_recover_works_without_the_old_keystore(home: Path) -> None:
    secret = {"PICKET_KEYSTORE__PASSPHRASE_FILE": str(home.parent / "new")}
    Home(home).keystore.write_bytes(b"damaged")
    fine(recover(home, "--keystore-lost"))
    fine(picket(home, "incidents", "list", env=secret))
    fine(picket(home, "log", "verify", env=secret))


def test_recover_on_a_new_machine_needs_paper_and_any_peers_copy_of_the_card(home: Path) -> None:
    folder = home.parent
    fine(picket(home, "keys", "rotate-seal"))
    fine(picket(home, "keys", "card", "--out", str(folder / "old.card")))
    before = status(home)
    fresh = folder / "fresh"
    done = recover(fresh, "--card", str(folder / "old.card"), "--network", "test.example",
                   "--listen", "127.0.0.1:0")  # fmt: skip
    fine(done)
    after = status(fresh)
    assert after["node_id"] == before["node_id"]
    assert kinds(fresh) == ["inception", "card", "card", "recover", "card"]
    fine(picket(fresh, "log", "verify"))
    fine(picket(fresh, "incidents", "list"))
    assert len(_CODE.findall(Home(fresh).recovery_sheet.read_text())) == 1
    told(recover(fresh, "--card", str(folder / "old.card"), "--network", "test.example"), USAGE)
    early = recover(folder / "early", "--card", str(folder / "old.card"), "--network",
                    "test.example", "--after", "1")  # fmt: skip
    assert "older file, not a newer one" in told(early, USAGE)


def test_recover_on_a_new_machine_says_where_it_listens_and_what_its_card_says(
    home: Path,
) -> None:
    folder = home.parent
    address = "wss://alder.example.org:443"
    config = Home(home).config
    lines = config.read_text().splitlines()
    at = lines.index("[peer]") + 1
    rest = [line for line in lines[at:] if not line.startswith("endpoints")]
    lines = [*lines[:at], f'endpoints = ["{address}"]', *rest]
    config.write_text("\n".join(lines) + "\n")
    fine(picket(home, "keys", "rotate-seal"))
    fine(picket(home, "keys", "card", "--out", str(folder / "old.card")))
    done = recover(folder / "fresh", "--card", str(folder / "old.card"), "--network",
                   "test.example")  # fmt: skip
    fine(done)
    assert f"peers reach it at {address}" in done.stderr
    assert "listens on 127.0.0.1:8462" in done.stderr


def test_revoke_ends_the_identity_for_good(home: Path) -> None:
    folder = home.parent
    revoke = ("keys", "revoke", "--from-paper", "--yes", "--code-file")
    assert "not the revocation code" in told(picket(home, *revoke, str(folder / "recovery")), USAGE)
    assert status(home)["revoked"] is False
    assert "--from-paper" in told(picket(home, "keys", "revoke"), USAGE)
    fine(picket(home, *revoke, str(folder / "revocation")))
    assert status(home)["revoked"] is True
    assert "own-revoked" in {
        notice["code"] for notice in json.loads(fine(picket(home, "status", "--json")))["notices"]
    }
    done = picket(home, "keys", "rotate-seal")
    assert "revoked" in told(done, REFUSED)


def test_rotate_seal_makes_a_card_with_a_new_sealing_key(home: Path) -> None:
    assert "card 2" in fine(picket(home, "keys", "rotate-seal"))
    assert status(home)["old_sealing_keys"] == 1


def test_recover_refuses_a_number_that_is_none(home: Path) -> None:
    done = recover(home, "--old-passphrase-file", str(home.parent / "old"), "--after", "9")
    assert "no statement 9" in told(done, USAGE)
    assert kinds(home) == ["inception", "card"]
    assert not Home(home).recovery_sheet.exists()


def test_status_says_of_each_key_when_the_next_is_due_and_who_makes_it(home: Path) -> None:
    text = fine(picket(home, "keys", "status"))
    for purpose in ("identity", "message", "sealing", "tls", "link", "log", "witness", "storage"):
        assert re.search(rf"^{purpose}  ", text, re.MULTILINE), purpose
    assert "picket keys rotate-identity" in text and "keep the node unlocked" in text


def test_message_and_tls_keys_are_renewed_by_a_command(home: Path) -> None:
    fine(picket(home, "keys", "rotate-message"))
    assert "beside the old one" in fine(picket(home, "keys", "rotate-tls"))
    assert "used from now on" in fine(picket(home, "keys", "rotate-tls", "--now"))
    assert "used from now on" in fine(picket(home, "keys", "rotate-tls", "--now"))
    cards = len([kind for kind in kinds(home) if kind == "card"])
    assert cards >= 6
    fine(picket(home, "log", "verify"))
    assert not [path for path in home.iterdir() if path.name.endswith(".next")]


def test_a_lost_key_is_listed_and_told_with_one_command(home: Path) -> None:
    assert "what was lost" in told(picket(home, "keys", "exposed"), USAGE)
    assert "no day or time" in told(picket(home, "keys", "exposed", "--since", "monday"), USAGE)
    seen = fine(picket(home, "keys", "exposed", "--since", "2026-03-04"))
    assert "in use" in seen and "nothing that is held here was sealed to it" in seen
    done = picket(home, "--no-input", "keys", "exposed", "--since", "2026-03-04", "--tell")
    assert done.returncode == USAGE and len(kinds(home)) == 2
    done = picket(home, "keys", "exposed", "--since", "2026-03-04", "--tell", "--yes")
    assert "A new sealing key is on card 2" in fine(done)
    assert "No lost key was told of" in fine(picket(home, "keys", "exposures"))
    rows = json.loads(fine(picket(home, "keys", "exposures", "--json")))
    assert rows == {"items": [], "waits_for": []}
