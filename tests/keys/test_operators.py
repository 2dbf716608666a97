"""The keys of persons who approve: their file, and the public line that is handed on."""

from __future__ import annotations

import base64
import hashlib
from pathlib import Path

import pytest

from keys.keystore import Argon2Params, save
from keys.operators import OperatorKey, format_line, load_operator, new_operator, parse_line
from keys.operators import parse_lines as lines
from protocol import limits, suite
from protocol.approval import Kind, make_action, make_policy, make_vote, verify_vote
from protocol.canonical import encode
from protocol.errors import (
    DecodeError,
    KeystoreError,
    LimitError,
    PeerError,
    SignatureError,
    VersionError,
    WeakKeyError,
    WrongPassphraseError,
)

NOW = 1_790_000_000_000
CHEAP = Argon2Params(memory_kib=19 * 1024, iterations=1)
SECRET = b"correct horse battery"


def fixed(size: int) -> bytes:
    return hashlib.shake_256(b"operator").digest(size)


def made(path: Path, name: str = "Ana Silva") -> OperatorKey:
    return new_operator(path, name=name, passphrase=SECRET, now=NOW, random=fixed, params=CHEAP)


def test_a_key_opens_with_its_passphrase_alone(tmp_path: Path) -> None:
    key = made(tmp_path / "ana.key")
    assert load_operator(tmp_path / "ana.key", SECRET).operator == key.operator
    assert (tmp_path / "ana.key").stat().st_mode & 0o777 == 0o600
    assert fixed(32) not in (tmp_path / "ana.key").read_bytes()
    with pytest.raises(WrongPassphraseError, match=r"ana\.key"):
        load_operator(tmp_path / "ana.key", b"another horse battery")


def test_a_key_lasts_a_year(tmp_path: Path) -> None:
    assert made(tmp_path / "k").operator.ends == NOW + 365 * 86_400_000


def test_a_key_is_never_replaced(tmp_path: Path) -> None:
    made(tmp_path / "k")
    before = (tmp_path / "k").read_bytes()
    with pytest.raises(KeystoreError, match="exists"):
        made(tmp_path / "k")
    assert (tmp_path / "k").read_bytes() == before


def test_another_file_is_no_operator_key(tmp_path: Path) -> None:
    save(tmp_path / "node", {"message": bytes(32)}, SECRET, CHEAP)
    with pytest.raises(KeystoreError, match="no operator key"):
        load_operator(tmp_path / "node", SECRET)
    (tmp_path / "junk").write_bytes(b"junk")
    (tmp_path / "junk").chmod(0o600)
    with pytest.raises(KeystoreError, match="no operator key"):
        load_operator(tmp_path / "junk", SECRET)
    with pytest.raises(KeystoreError, match="missing"):
        load_operator(tmp_path / "none", SECRET)


def test_a_key_that_others_can_read_is_refused(tmp_path: Path) -> None:
    made(tmp_path / "k")
    (tmp_path / "k").chmod(0o640)
    with pytest.raises(KeystoreError, match="other users"):
        load_operator(tmp_path / "k", SECRET)


def test_the_line_tells_name_key_and_end(tmp_path: Path) -> None:
    key = made(tmp_path / "k", "Žofie Nováková")
    line = format_line(key)
    assert line.startswith("picket-operator 1 Žofie Nováková ")
    assert parse_line(line) == key.operator


def test_every_change_of_the_line_is_refused(tmp_path: Path) -> None:
    line = format_line(made(tmp_path / "k"))
    for at in range(len(line)):
        for letter in "Ab9 ":
            edited = line[:at] + letter + line[at + 1 :]
            if edited != line:
                with pytest.raises(PeerError):
                    parse_line(edited)
    for edited in (line[:-1], f"{line}=", f" {line}", line + " x", ""):
        with pytest.raises(PeerError):
            parse_line(edited)


def forged(public: bytes, *, version: int = 1, signature: bytes = bytes(64)) -> str:
    data = encode([version, "Ana", public, NOW, signature])
    return f"picket-operator 1 Ana {base64.b64encode(data).decode()}"


def test_a_line_is_signed_with_the_key_that_it_names(tmp_path: Path) -> None:
    public = made(tmp_path / "k").signer.public
    with pytest.raises(SignatureError):
        parse_line(forged(public))
    with pytest.raises(WeakKeyError):
        parse_line(forged(bytes(32)))
    with pytest.raises(VersionError):
        parse_line(forged(public, version=2))
    with pytest.raises(LimitError):
        parse_line("picket-operator 1 " + "A" * limits.MAX_OPERATOR_LINE)


def test_a_file_of_lines_may_have_comments_and_names_the_bad_line(tmp_path: Path) -> None:
    key = made(tmp_path / "k")
    line = format_line(key)
    assert lines(f"# ours\n\n{line}\n") == [key.operator]
    with pytest.raises(DecodeError, match="line 2"):
        lines(f"{line}\nAna\n")


def test_the_key_votes(tmp_path: Path) -> None:
    key = made(tmp_path / "k")
    policy = make_policy(node_id=bytes(32), before=None, required=1, operators=[key.operator])
    action = make_action(
        Kind.REVOKE_IDENTITY, (), policy=policy, log="log", about="", who="operator", now=NOW,
        nonce=bytes(16),
    )  # fmt: skip
    vote = make_vote(action, signer=key.signer, yes=True, at=NOW)
    assert verify_vote(vote, action, policy, now=NOW) == key.operator
    assert suite.digest("operator", key.signer.public) == key.operator.id
