"""A node whose identity key is made inside a token (SoftHSM), from its birth to its next card."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from keys.identity import IDENTITY_ED25519, IDENTITY_MLDSA65
from keys.keystore import load
from keys.signers import Place, Token
from node.app import initialise, open_core
from node.clock import SystemClock
from node.config import FIELDS, load_config
from node.home import Home
from protocol import suite
from protocol.errors import KeystoreError
from protocol.statement import Card
from tests import tokens
from tests.net.harness import Net, incident, wait
from tests.node.test_cli import PASSPHRASE, REFUSED, USAGE, Done, fine, picket, told
from tests.tokens import SoftToken, module, token, token_folder

__all__ = ["token", "token_folder"]

LABEL = "picket-identity"
Row = dict[str, Any]


def values(token: SoftToken, **more: str) -> Row:
    return {
        "node.authority": "Alder", "node.country": "XA", "node.network": "test.example",
        "node.contact": "duty desk", "peer.listen": "127.0.0.1:0", "http.listen": "127.0.0.1:0",
        "peer.dial": False, **token.settings(**more),
    }  # fmt: skip


def opened(token: SoftToken) -> Token:
    return Token(Place(module(), token.label), token.pin)


def identity_of(home: Home) -> tuple[bytes, bytes]:
    with open_core(home, load_config(home), SystemClock()) as core:
        return core.trust.own.identity.keys[0]


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    path = tmp_path / "passphrase"
    path.touch(mode=0o600)
    path.write_text(PASSPHRASE)
    return path


@pytest.fixture
def net(token_folder: Path, tmp_path: Path) -> Iterator[Net]:
    with Net(tmp_path) as net:
        yield net


# --- must show -------------------------------------------------------------------------------
def test_a_node_runs_with_an_identity_key_made_inside_a_token(token: SoftToken, net: Net) -> None:
    settings: Row = {name.replace(".", "__"): value for name, value in token.settings().items()}
    alder, birch = net.make("alder", **settings), net.make("birch")

    # The key: made inside, sensitive, not extractable; the file alone has the other half only.
    with opened(token)._using() as (p11, session):
        a = p11.Attribute
        (key,) = session.get_objects({a.CLASS: p11.ObjectClass.PRIVATE_KEY, a.LABEL: LABEL})
        said = (key[a.LOCAL], key[a.SENSITIVE], key[a.EXTRACTABLE], key[a.NEVER_EXTRACTABLE])
        assert said == (True, True, False, True)
        with pytest.raises(p11.AttributeSensitive):
            _ = key[a.VALUE]
    held = load(alder.home.keystore, alder.passphrase.encode())
    assert IDENTITY_ED25519 not in held and IDENTITY_MLDSA65 in held
    assert identity_of(alder.home)[0] == opened(token).public(LABEL)

    # The node: it starts, links, delivers, and its next card is signed by the token.
    net.start("alder", "birch")
    net.pair(("alder", "birch"))
    net.wait_linked("alder", "birch")
    released = alder.draft(incident("signed by a node whose identity is in a token"))
    alder.release(released, "birch")
    wait(lambda: birch.reads(released), "the incident at birch")
    number = alder.ask("POST", "/api/v1/keys/rotate-sealing", {})["number"]

    def renewed() -> bool:
        with birch.database() as database:
            (newest,) = database.execute(
                "SELECT MAX(n) FROM statements WHERE node_id = ?", (alder.id,)
            ).fetchone()
        return bool(newest >= number)

    wait(renewed, "the new card at birch")
    alder_id = alder.id
    net.stop("alder", "birch")
    with open_core(birch.home, load_config(birch.home), SystemClock()) as core:
        chain = core.trust.peer(alder_id).chain
        card = chain.statements[number]
        assert isinstance(card.body, Card) and len(chain.identity.keys) == 1
        (made,) = card.signatures
        suite.verify_hybrid(
            "key/card", (opened(token).public(LABEL), chain.identity.keys[0][1]), card.digest,
            (made.ed25519, made.mldsa65),
        )  # fmt: skip
    net.check_journals()


def test_a_token_that_is_pulled_out_stops_statements_and_nothing_else(
    token: SoftToken, net: Net
) -> None:
    settings: Row = {name.replace(".", "__"): value for name, value in token.settings().items()}
    alder, birch = net.make("alder", **settings), net.make("birch")
    net.start("alder", "birch")
    net.pair(("alder", "birch"))
    net.wait_linked("alder", "birch")
    token.pull_out()

    status, answer = alder.exchange("POST", "/api/v1/keys/rotate-sealing", {})
    problem = json.loads(answer)
    assert (status, problem["code"]) == (503, "signer-away") and problem["fix"]
    notices = {row["code"]: row for row in alder.ask("GET", "/api/v1/status")["notices"]}
    assert "nothing can be signed" in notices["signer-away"]["message"]
    assert notices["signer-away"]["fix"]
    released = alder.draft(incident("released while the token is out"))
    alder.release(released, "birch")
    wait(lambda: birch.reads(released), "the incident at birch")

    token.put_back()
    alder.ask("POST", "/api/v1/keys/rotate-sealing", {})
    assert "signer-away" not in {n["code"] for n in alder.ask("GET", "/api/v1/status")["notices"]}
    net.check_journals()


# --- at the command line ---------------------------------------------------------------------
def test_init_with_a_token_and_its_wrong_turns(
    token: SoftToken, secret: Path, tmp_path: Path
) -> None:
    wrong = tmp_path / "wrong-pin"
    wrong.write_text("000000")
    home = tmp_path / "n"

    def init(hsm: str = module(), label: str = token.label, pin: Path = token.pin_file) -> Done:
        return picket(
            home, "init", "--authority", "Alder", "--country", "XA", "--network", "test.example",
            "--contact", "desk", "--listen", "127.0.0.1:0", "--http", "127.0.0.1:0",
            "--passphrase-file", str(secret), "--hsm", hsm, "--token", label,
            "--pin-file", str(pin),
        )  # fmt: skip

    assert "PIN does not open the token" in told(init(pin=wrong), REFUSED)
    assert "no PKCS#11 module" in told(init(hsm="/nowhere/x.so"), USAGE)
    assert "no token called" in told(init(label="other"), 1)
    assert "PIN file" in told(init(pin=tmp_path / "none"), 1)
    assert not home.exists() and not opened(token).has(LABEL), "all of it, or nothing"
    fine(init())
    assert "already" in told(
        picket(
            tmp_path / "m", "init", "--authority", "B", "--country", "XB", "--network", "t",
            "--contact", "c", "--passphrase-file", str(secret), "--hsm", module(), "--token",
            token.label, "--pin-file", str(token.pin_file),
        ),
        USAGE,
    )  # fmt: skip
    fine(picket(home, "keys", "rotate-seal"))
    fine(picket(home, "log", "verify"))
    said = told(picket(home, "keys", "rotate-seal", env={"PICKET_SIGNER__PIN_FILE": str(wrong)}),
                REFUSED)  # fmt: skip
    assert "the PIN does not open the token" in said and "000000" not in said
    said = told(picket(home, "keys", "rotate-seal", env={"PICKET_SIGNER__PIN_FILE": ""}), USAGE)
    assert "PIN" in said
    said = told(picket(home, "keys", "rotate-seal", env={"PICKET_SIGNER__IDENTITY": "x"}), 1)
    assert "no key called 'x'" in said
    said = told(picket(home, "keys", "rotate-seal", env={"PICKET_SIGNER__KIND": "file"}), USAGE)
    assert "identity key is not in the keystore" in said
    fine(picket(home, "status", env={"PICKET_SIGNER__PIN_FILE": ""}))


def test_no_pin_is_taken_from_the_command_line_or_the_environment(tmp_path: Path) -> None:
    for command in (("init",), ("unlock",), ("signer", "import"), ("signer", "run")):
        assert "--pin " not in fine(picket(tmp_path, *command, "--help"))
    assert not [field.key for field in FIELDS if field.key in {"signer.pin", "keystore.pin"}]


def test_a_failed_birth_leaves_no_key_in_the_token(
    token: SoftToken, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise KeystoreError("the disk is full")

    monkeypatch.setattr("node.app.write_private", full)
    with pytest.raises(KeystoreError):
        initialise(tmp_path / "n", values(token, message="picket-message"), PASSPHRASE.encode())
    assert not opened(token).has(LABEL) and not opened(token).has("picket-message")
    assert not (tmp_path / "n").exists()


def test_the_message_key_can_be_in_the_token_too(token: SoftToken, tmp_path: Path) -> None:
    initialise(tmp_path / "n", values(token, message="picket-message"), PASSPHRASE.encode())
    home = Home(tmp_path / "n")
    held = load(home.keystore, PASSPHRASE.encode())
    assert "message" not in held and IDENTITY_ED25519 not in held
    with open_core(home, load_config(home), SystemClock()) as core:
        assert core.card.message == opened(token).public("picket-message")


@pytest.mark.long
def test_an_identity_from_a_file_goes_into_a_token_and_a_rotation_takes_it_out(
    token: SoftToken, secret: Path, tmp_path: Path
) -> None:
    path = tmp_path / "n"
    settings = {k: v for k, v in values(token).items() if not k.startswith("signer.")}
    initialise(path, {**settings, "keystore.passphrase_file": str(secret)}, PASSPHRASE.encode())
    home = Home(path)
    told(picket(path, "signer", "import", "--yes"), USAGE)
    env = {f"PICKET_SIGNER__{name.removeprefix('signer.').upper()}": value
           for name, value in token.settings().items()}  # fmt: skip
    before = identity_of(home)
    notices = json.loads(fine(picket(path, "status", "--json", env=env)))["notices"]
    assert "identity-in-keystore" in {n["code"] for n in notices}
    assert "is in the token" in fine(picket(path, "signer", "import", "--yes", env=env))
    assert opened(token).public(LABEL) == before[0]
    assert IDENTITY_ED25519 not in load(home.keystore, PASSPHRASE.encode())
    told(picket(path, "signer", "import", "--yes", env=env), REFUSED)
    fine(picket(path, "keys", "rotate-seal", env=env))

    # The paper holds the next key, so the next key is in the keystore first.
    code = tmp_path / "code"
    code.write_text(recovery_code(home))
    home.recovery_sheet.unlink()
    fine(picket(path, "keys", "rotate-identity", "--code-file", str(code),
                "--passphrase-file", str(secret), env=env))  # fmt: skip
    after = identity_of(home)
    assert after != before and IDENTITY_ED25519 in load(home.keystore, PASSPHRASE.encode())
    fine(picket(path, "signer", "import", "--yes", env=env))
    assert opened(token).public(LABEL) == after[0]
    fine(picket(path, "keys", "rotate-seal", env=env))


def recovery_code(home: Home) -> str:
    import re

    sheet = home.recovery_sheet.read_text()
    (found, _) = re.findall(r"^    ([A-Z2-7]{7}(?:-[A-Z2-7]{7}){7})$", sheet, re.MULTILINE)
    return str(found)


# --- in CI -----------------------------------------------------------------------------------
def test_in_ci_a_missing_token_program_fails_instead_of_skipping(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(tokens, "missing", lambda: "SoftHSM is not installed")
    monkeypatch.delenv("NEEDS_SOFTHSM", raising=False)
    with pytest.raises(pytest.skip.Exception):
        tokens.require()
    monkeypatch.setenv("NEEDS_SOFTHSM", "1")
    with pytest.raises(pytest.fail.Exception):
        tokens.require()
