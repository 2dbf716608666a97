"""A signer in a process of its own: moved there, asked, refused, killed, and what it notes."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
from typing_extensions import override

from keys import agent
from keys.identity import IDENTITY_PREFIX, Vault
from keys.keystore import load, save
from node import signer_moves
from node.app import initialise, open_core, unlock
from node.clock import SystemClock
from node.config import load_config
from node.core import Core
from node.home import Home
from node.signer_agent import Caller, SignerAgent, SignerJournal
from node.signer_client import ask
from protocol import suite
from protocol.errors import ConfigError, ConflictError, KeystoreError, SignerAwayError
from protocol.statement import Chain, Statement, make_card
from tests.factories import TestNode
from tests.net.harness import Net, incident, wait
from tests.node.test_cli import PASSPHRASE, REFUSED, ROOT, TEMPORARY, USAGE, fine, picket, told

SIGNER_PASSPHRASE = "another horse battery"
Row = dict[str, Any]


# --- a node, moved ---------------------------------------------------------------------------
@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two passphrase files and a folder for sockets, whose paths must be short."""
    found = tmp_path_factory.mktemp("s")
    for name, text in (("node.pass", PASSPHRASE), ("signer.pass", SIGNER_PASSPHRASE)):
        (found / name).touch(mode=0o600)
        (found / name).write_text(text)
    return found


@pytest.fixture
def home(folder: Path, tmp_path: Path) -> Home:
    initialise(
        tmp_path / "n",
        {"node.authority": "Alder", "node.country": "XA", "node.network": "test.example",
         "node.contact": "duty desk", "peer.listen": "127.0.0.1:0", "http.listen": "",
         "peer.dial": False, "keystore.passphrase_file": str(folder / "node.pass")},
        PASSPHRASE.encode(),
    )  # fmt: skip
    return Home(tmp_path / "n")


def move(home: Home, folder: Path, *more: str) -> Path:
    target = home.path.parent / "signer"
    fine(picket(home.path, "signer", "move", str(target), *more,
                "--signer-passphrase-file", str(folder / "signer.pass")))  # fmt: skip
    return target


def use_agent(home: Home, path: Path) -> None:
    text = home.config.read_text()
    text = text.replace('# kind = "file"', 'kind = "agent"')
    home.config.write_text(text.replace('# socket = ""', f'socket = "{path}"'))


class Signer:
    """A running signer process."""

    def __init__(self, directory: Path, path: Path, passphrase_file: Path) -> None:
        self.directory, self.path = directory, path
        self._command = [
            sys.executable, "-m", "node", "--no-input", "signer", "run", str(directory),
            "--socket", str(path), "--signer-passphrase-file", str(passphrase_file),
        ]  # fmt: skip
        self.start()

    def start(self) -> None:
        self.process = subprocess.Popen(self._command, cwd=ROOT, stderr=subprocess.PIPE)
        assert self.process.stderr is not None
        line = self.process.stderr.readline().decode()
        assert line.startswith("The signer is at"), line

    def end(self, number: int = signal.SIGTERM) -> int:
        self.process.send_signal(number)
        code = self.process.wait(30)
        assert self.process.stderr is not None
        self.process.stderr.close()
        return code

    def journal(self) -> list[Row]:
        lines = (self.directory / "journal").read_bytes().splitlines()
        return [json.loads(line) for line in lines]


@contextmanager
def running(directory: Path, path: Path, folder: Path) -> Iterator[Signer]:
    signer = Signer(directory, path, folder / "signer.pass")
    try:
        yield signer
    finally:
        if signer.process.poll() is None:
            signer.end()


@contextmanager
def unlocked(home: Home) -> Iterator[Core]:
    config = load_config(home)
    with open_core(home, config, SystemClock()) as core:
        unlock(core, config, PASSPHRASE.encode)
        yield core


# --- must hold -------------------------------------------------------------------------------
def test_the_network_facing_process_holds_no_identity_key(
    home: Home, folder: Path, tmp_path: Path
) -> None:
    target = move(home, folder, "--with-message")
    held = load(home.keystore, PASSPHRASE.encode())
    assert not [name for name in held if name.startswith(IDENTITY_PREFIX) or name == "message"]
    assert {"storage", "seal/1"} <= set(held)
    moved = load(target / "keystore", SIGNER_PASSPHRASE.encode())
    with running(target, tmp_path / "s.sock", folder) as signer:
        use_agent(home, signer.path)
        with unlocked(home) as core:
            vault = core.keys_open()
            assert no_private_key(vault)
            secrets = [moved[n] for n in moved if n.startswith(IDENTITY_PREFIX) or n == "message"]
            assert len(secrets) == 3
            for file in home.path.rglob("*"):
                if file.is_file():
                    data = file.read_bytes()
                    assert not any(secret in data for secret in secrets), file


def no_private_key(vault: Vault) -> bool:
    """Whether nothing that the signers of *vault* reach is a private key or a seed."""
    seen, todo = set(), [vault.identity, vault.message]
    while todo:
        each = todo.pop()
        if id(each) in seen:
            continue
        seen.add(id(each))
        if "PrivateKey" in type(each).__name__:
            return False
        names = [*getattr(each, "__dict__", ()), *getattr(type(each), "__slots__", ())]
        todo += [getattr(each, name) for name in names if hasattr(each, name)]
    return len(seen) > 4


def test_a_vault_with_keys_in_it_is_told_from_one_without(home: Home) -> None:
    with unlocked(home) as core:
        assert not no_private_key(core.keys_open())


def test_a_card_and_an_envelope_are_signed_and_stand_in_the_journal(
    folder: Path, tmp_path: Path
) -> None:
    with Net(tmp_path) as net:
        alder, birch = net.make("alder"), net.make("birch")
        home, target = alder.home, tmp_path / "signer"
        secret = tmp_path / "alder.passphrase"
        fine(picket(home.path, "signer", "move", str(target), "--with-message",
                    "--passphrase-file", str(secret),
                    "--signer-passphrase-file", str(folder / "signer.pass")))  # fmt: skip
        with running(target, tmp_path / "s.sock", folder) as signer:
            use_agent(home, signer.path)
            net.start("alder", "birch")
            net.pair(("alder", "birch"))
            net.wait_linked("alder", "birch")
            released = alder.draft(incident("signed in another process"))
            alder.release(released, "birch")
            wait(lambda: birch.reads(released), "the incident at birch")
            rows = signer.journal()
            assert [row["did"] for row in rows] == ["signed"]
            assert rows[0]["key"] == "message" and rows[0]["what"].startswith("envelope")
            assert rows[0]["uid"] == os.geteuid()
            assert alder.process is not None and rows[0]["pid"] == alder.process.pid
            with birch.database() as database:
                ids = [r[0].hex() for r in database.execute("SELECT id FROM envelopes")]
            assert rows[0]["digest"] in ids

            # Killed: what needs a signature fails clearly, and everything else goes on.
            signer.end(signal.SIGKILL)
            waiting = alder.draft(incident("while the signer is dead"))
            status, problem = call(alder, waiting)
            assert (status, problem["code"]) == (503, "signer-away")
            assert "picket signer run" in problem["fix"]
            notices = {n["code"]: n for n in alder.ask("GET", "/api/v1/status")["notices"]}
            assert "nothing is lost" in notices["signer-away"]["message"]
            assert alder.incident(waiting)["state"] == "draft"
            answer = birch.draft(incident("to a node whose signer is dead"))
            birch.release(answer, "alder")
            wait(lambda: alder.reads(answer), "the answer at alder")

            # Back again, over the socket that the killed one left.
            signer.start()
            alder.release(waiting, "birch")
            wait(lambda: birch.reads(waiting), "the second incident at birch")
            number = alder.ask("POST", "/api/v1/keys/rotate-sealing", {})["number"]
            assert signer.journal()[-1]["what"] == f"key statement {number}, card"
            check_chained(signer)
            net.stop("alder", "birch")
        net.check_journals()


def call(node: Any, incident_id: str) -> tuple[int, Row]:  # noqa: ANN401
    status, data = node.exchange(
        "POST", f"/api/v1/incidents/{incident_id}/release", {"to": ["birch"]}
    )
    return status, json.loads(data)


def check_chained(signer: Signer) -> None:
    before = "0" * 64
    for line in (signer.directory / "journal").read_bytes().splitlines():
        assert json.loads(line)["before"] == before
        before = hashlib.sha256(line).hexdigest()


# --- what it refuses -------------------------------------------------------------------------
def test_foreign_bytes_are_refused_and_noted(home: Home, folder: Path, tmp_path: Path) -> None:
    target = move(home, folder)
    with running(target, tmp_path / "s.sock", folder) as signer:
        held = ask(signer.path, agent.About())
        assert isinstance(held, agent.Held) and held.message is None
        foreign = suite.label("link/dialer") + bytes(32)
        for request in (
            agent.Sign(agent.IDENTITY, foreign, b""),
            agent.Sign(agent.IDENTITY, b"anything", b"anything"),
            agent.Sign(agent.MESSAGE, suite.label("message") + bytes(32), b""),
        ):
            answer = ask(signer.path, request)
            assert isinstance(answer, agent.Refused)
        rows = signer.journal()
        assert [row["did"] for row in rows] == ["refused"] * 3
        assert all(row["digest"] and row["uid"] == os.geteuid() for row in rows)
        # Half a request, none, and too much of one: the next is served.
        for data in (b"", b"\0", b"\xff\xff\xff\xff", b"\0\0\0\4abc"):
            with socket.socket(socket.AF_UNIX) as wire:
                wire.connect(str(signer.path))
                wire.sendall(data)
                wire.shutdown(socket.SHUT_WR)
                assert wire.recv(1) == b""
        assert isinstance(ask(signer.path, agent.About()), agent.Held)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be another user")
def test_another_user_is_turned_away_and_noted(home: Home, folder: Path, tmp_path: Path) -> None:
    target = move(home, folder)
    place = Path(tempfile.mkdtemp())  # pytest's own folders are closed to other users
    place.chmod(0o755)
    shared = place / "s.sock"
    command = [
        sys.executable, "-m", "node", "--no-input", "signer", "run", str(target), "--socket",
        str(shared), "--signer-passphrase-file", str(folder / "signer.pass"),
    ]  # fmt: skip
    for allowed in ((), ("--allow-user", "nobody")):
        process = subprocess.Popen([*command, *allowed], cwd=ROOT, stderr=subprocess.PIPE)
        try:
            assert process.stderr is not None
            assert b"The signer is at" in process.stderr.readline()
            said = subprocess.run(
                [sys.executable, "-c", _AS_NOBODY, str(shared)], cwd=ROOT, check=True,
                capture_output=True, text=True,
            ).stdout.strip()  # fmt: skip
            assert said == ("Held" if allowed else "away")
        finally:
            process.terminate()
            process.wait(30)
            if process.stderr is not None:
                process.stderr.close()
    shutil.rmtree(place)


_AS_NOBODY = """
import os, sys, pwd
from pathlib import Path
from keys import agent
from node.signer_client import ask
from protocol.errors import SignerAwayError
os.setuid(pwd.getpwnam("nobody").pw_uid)
try:
    print(type(ask(Path(sys.argv[1]), agent.About())).__name__)
except SignerAwayError:
    print("away")
"""


def test_a_user_it_does_not_serve_is_noted(tmp_path: Path, alder: TestNode) -> None:
    journal = SignerJournal(tmp_path / "journal", SystemClock())
    signer = SignerAgent(
        network=alder.chain.network, node_id=alder.id, identity=alder.identity, message=None,
        journal=journal,
    )  # fmt: skip
    for at in (0.0, 1.0, 59.0, 60.0):  # however often it knocks, one line a minute
        signer.refuse(Caller(7, 65_534), at)
    signer.refuse(Caller(8, 65_533), 1.0)
    journal.close()
    rows = [json.loads(line) for line in (tmp_path / "journal").read_text().splitlines()]
    assert [(row["did"], row["uid"], row["pid"], row["times"]) for row in rows] == [
        ("turned-away", 65_534, 7, 1), ("turned-away", 65_534, 7, 3), ("turned-away", 65_533, 8, 1)
    ]  # fmt: skip


def test_a_flood_of_strangers_has_a_bounded_list(tmp_path: Path, alder: TestNode) -> None:
    journal = SignerJournal(tmp_path / "journal", SystemClock())
    signer = holding(alder, journal)
    for uid in range(100_000, 101_000):
        signer.refuse(Caller(7, uid), 1.0)
    journal.close()
    rows = [json.loads(line) for line in (tmp_path / "journal").read_text().splitlines()]
    assert len(rows) == 257 and rows[-1]["uid"] is None


def test_slow_callers_hold_up_nobody(home: Home, folder: Path, tmp_path: Path) -> None:
    target = move(home, folder)
    with running(target, tmp_path / "s.sock", folder) as signer, ExitStack() as stack:
        for data in (b"", b"\0\0", b"\0\0\0\4ab") * 4:
            slow = stack.enter_context(socket.socket(socket.AF_UNIX))
            slow.connect(str(signer.path))
            slow.sendall(data)
        assert isinstance(ask(signer.path, agent.About(), timeout=1), agent.Held)
        for _ in range(8):  # as many as it reads at once, and more: the next waits for the first
            slow = stack.enter_context(socket.socket(socket.AF_UNIX))
            slow.connect(str(signer.path))
        assert isinstance(ask(signer.path, agent.About(), timeout=8), agent.Held)


# --- what it has signed before ---------------------------------------------------------------
def holding(node: TestNode, journal: SignerJournal) -> SignerAgent:
    return SignerAgent(
        network=node.chain.network, node_id=node.id, identity=node.identity, message=None,
        journal=journal,
    )  # fmt: skip


def card_request(node: TestNode, chain: Chain, later: int) -> tuple[bytes, Statement]:
    """What a node asks for a card that it issues *later* ms after the last one."""
    asked: list[bytes] = []

    class Caught:
        public = node.identity.public

        def sign(self, message: bytes, source: bytes = b"") -> tuple[bytes, bytes]:
            asked.append(agent.encode_request(agent.Sign(agent.IDENTITY, message, source)))
            return node.identity.sign(message)

    made = make_card(node.card, chain=chain, issued=chain.head.issued + later, signer=Caught())
    return asked[0], made


def says(signer: SignerAgent, request: bytes) -> agent.Answer:
    return agent.parse_answer(signer.answer(request, Caller(1, 0)))


def test_it_never_contradicts_a_statement_that_it_signed(tmp_path: Path, alder: TestNode) -> None:
    first, made = card_request(alder, alder.chain, 1)
    other, _ = card_request(alder, alder.chain, 2)
    after, _ = card_request(alder, alder.chain.extend(made), 1)
    for restarted in range(2):
        journal = SignerJournal(tmp_path / "journal", SystemClock())
        signer = holding(alder, journal)
        assert isinstance(says(signer, first), agent.Signed)
        assert isinstance(says(signer, first), agent.Signed), "the very same bytes"
        refused = says(signer, other)
        assert isinstance(refused, agent.Refused) and refused.code == "equivocation"
        assert f"statement {made.n + restarted} before" in refused.message
        assert isinstance(says(signer, after), agent.Signed)
        assert isinstance(says(signer, other), agent.Refused), "nor one further down"
        journal.close()


def test_another_identity_key_is_judged_by_itself(
    tmp_path: Path, alder: TestNode, birch: TestNode
) -> None:
    request, made = card_request(alder, alder.chain, 1)
    other, _ = card_request(alder, alder.chain, 2)
    journal = SignerJournal(tmp_path / "journal", SystemClock())
    assert isinstance(says(holding(alder, journal), request), agent.Signed)
    recovered = SignerAgent(
        network=alder.chain.network, node_id=alder.id, identity=birch.identity, message=None,
        journal=journal,
    )  # fmt: skip
    assert isinstance(says(recovered, other), agent.Signed)
    assert made.n in journal.statements(recovered._by)
    journal.close()


def test_a_statement_that_was_never_kept_is_signed_again_only_when_told(
    tmp_path: Path, alder: TestNode
) -> None:
    request, made = card_request(alder, alder.chain, 1)
    other, _ = card_request(alder, alder.chain, 2)
    journal = SignerJournal(tmp_path / "journal", SystemClock())
    signer = holding(alder, journal)
    assert isinstance(says(signer, request), agent.Signed)
    for wrong in (made.n - 1, made.n + 1):
        with pytest.raises(ConfigError, match="newest statement"):
            signer.sign_again(wrong)
    signer.sign_again(made.n)
    assert isinstance(says(holding(alder, journal), other), agent.Signed), "it is in the journal"
    journal.close()


def test_a_signature_that_failed_counts_for_nothing(
    tmp_path: Path, alder: TestNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    request, _ = card_request(alder, alder.chain, 1)
    other, _ = card_request(alder, alder.chain, 2)
    journal = SignerJournal(tmp_path / "journal", SystemClock())
    signer = holding(alder, journal)

    def away(*_: object) -> None:
        raise KeystoreError("the token is gone")

    with monkeypatch.context() as patched:
        patched.setattr(suite.LocalHybridSigner, "sign", away)
        assert isinstance(says(signer, request), agent.Refused)
    assert isinstance(says(holding(alder, journal), other), agent.Signed)
    journal.close()


def test_nothing_is_signed_that_cannot_be_noted(
    tmp_path: Path, alder: TestNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal = SignerJournal(tmp_path / "journal", SystemClock())
    asked: list[bytes] = []

    class Watched(suite.LocalHybridSigner):
        def __init__(self) -> None:
            self.public = alder.identity.public

        @override
        def sign(self, message: bytes, source: bytes = b"") -> tuple[bytes, bytes]:
            asked.append(message)
            return alder.identity.sign(message, source)

    signer = SignerAgent(
        network=alder.chain.network, node_id=alder.id, identity=Watched(), message=None,
        journal=journal,
    )  # fmt: skip
    requests: list[agent.Sign] = []

    class Caught:
        public = alder.identity.public

        def sign(self, message: bytes, source: bytes = b"") -> tuple[bytes, bytes]:
            requests.append(agent.Sign(agent.IDENTITY, message, source))
            return alder.identity.sign(message)

    make_card(alder.card, chain=alder.chain, issued=alder.chain.head.issued, signer=Caught())
    data = agent.encode_request(requests[0])

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr("os.fsync", full)
        answer = agent.parse_answer(signer.answer(data, Caller(1, 0)))
    assert isinstance(answer, agent.Refused) and "journal" in answer.message
    assert not asked and (tmp_path / "journal").read_bytes() == b""
    assert isinstance(agent.parse_answer(signer.answer(data, Caller(1, 0))), agent.Signed)
    assert len(asked) == 1
    journal.close()


def test_a_journal_that_a_crash_cut_short_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    first = SignerJournal(path, SystemClock())
    first.note("signed", what="one")
    first.close()
    with path.open("ab") as file:
        file.write(b'{"at": "cut')
    again = SignerJournal(path, SystemClock())
    again.note("signed", what="two")
    again.close()
    lines = path.read_bytes().splitlines()
    assert len(lines) == 3
    assert json.loads(lines[2])["before"] == hashlib.sha256(lines[1]).hexdigest()


def test_an_answer_of_somebody_else_on_the_socket_is_not_believed(
    home: Home, folder: Path, tmp_path: Path
) -> None:
    target = move(home, folder)
    (tmp_path / "other").mkdir()
    other = tmp_path / "other" / "n"
    initialise(
        other,
        {"node.authority": "Thief", "node.country": "XB", "node.network": "test.example",
         "node.contact": "x", "keystore.passphrase_file": str(folder / "node.pass")},
        PASSPHRASE.encode(),
    )  # fmt: skip
    foreign = move(Home(other), folder)
    with running(foreign, tmp_path / "s.sock", folder) as signer:
        use_agent(home, signer.path)
        with unlocked(home) as core:
            with pytest.raises(SignerAwayError):
                core.keys_open().identity.sign(suite.label("key/card") + bytes(32), b"")
            away = core.keys_open().outside.check()
            assert away is not None and "another node" in away.message
        assert "another node" in told(picket(home.path, "keys", "rotate-seal"), TEMPORARY)
    assert target != foreign


# --- moving ----------------------------------------------------------------------------------
def test_a_crash_between_the_two_files_loses_no_key(
    home: Home, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = load(home.keystore, PASSPHRASE.encode())
    target, config = tmp_path / "signer", load_config(home)

    def crash(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched, open_core(home, config, SystemClock()) as core:
        patched.setattr(signer_moves, "_leave", crash)
        with pytest.raises(KeyboardInterrupt):
            signer_moves.move_keys(
                core, target, passphrase=PASSPHRASE.encode(),
                signer_passphrase=SIGNER_PASSPHRASE.encode(), message=False,
            )  # fmt: skip
    assert load(home.keystore, PASSPHRASE.encode()) == before
    assert set(load(target / "keystore", SIGNER_PASSPHRASE.encode())) >= {"identity/ed25519"}
    fine(picket(home.path, "keys", "rotate-seal"))
    move(home, folder)
    held = load(home.keystore, PASSPHRASE.encode())
    assert not [name for name in held if name.startswith(IDENTITY_PREFIX)]


def test_keys_come_back_and_a_rotation_moves_on(home: Home, folder: Path, tmp_path: Path) -> None:
    target = move(home, folder)
    passphrases = ("--signer-passphrase-file", str(folder / "signer.pass"))
    assert "moved before" in told(
        picket(home.path, "signer", "move", str(target), *passphrases), REFUSED
    )
    assert "signer.kind is file" in told(picket(home.path, "keys", "rotate-seal"), USAGE)
    with running(target, tmp_path / "s.sock", folder) as signer:
        use_agent(home, signer.path)
        fine(picket(home.path, "signer", "status"))
        fine(picket(home.path, "keys", "rotate-seal"))
        # The next key is derived from paper, so it is in the keystore first, and moved on.
        code = tmp_path / "code"
        code.write_text(recovery_code(home))
        home.recovery_sheet.unlink()
        fine(picket(home.path, "keys", "rotate-identity", "--code-file", str(code),
                    "--passphrase-file", str(folder / "node.pass")))  # fmt: skip
        assert [row["what"].split(", ")[1] for row in signer.journal()] == ["card", "rotate"]
        fine(picket(home.path, "keys", "rotate-seal"))
    move(home, folder)
    with running(target, tmp_path / "s.sock", folder):
        fine(picket(home.path, "keys", "rotate-seal"))
    fine(picket(home.path, "signer", "return", str(target), *passphrases))
    assert not (target / "keystore").exists()
    fine(picket(home.path, "keys", "rotate-seal"))


def recovery_code(home: Home) -> str:
    import re

    sheet = home.recovery_sheet.read_text()
    (found, _) = re.findall(r"^    ([A-Z2-7]{7}(?:-[A-Z2-7]{7}){7})$", sheet, re.MULTILINE)
    return str(found)


def test_the_keys_of_another_node_are_not_overwritten(
    home: Home, folder: Path, tmp_path: Path
) -> None:
    target = tmp_path / "signer"
    target.mkdir(mode=0o700)
    save(
        target / "keystore",
        {"about/network": bytes(32), "about/node": bytes(32), "identity/ed25519": bytes(32)},
        SIGNER_PASSPHRASE.encode(),
    )
    with open_core(home, load_config(home), SystemClock()) as core:
        with pytest.raises(ConflictError, match="another node"):
            signer_moves.move_keys(
                core, target, passphrase=PASSPHRASE.encode(),
                signer_passphrase=SIGNER_PASSPHRASE.encode(), message=False,
            )  # fmt: skip
        with pytest.raises(ConflictError, match="another node"):
            signer_moves.return_keys(
                core, target, passphrase=PASSPHRASE.encode(),
                signer_passphrase=SIGNER_PASSPHRASE.encode(),
            )  # fmt: skip


def test_two_signers_of_one_folder_and_a_folder_that_is_open_to_others(
    home: Home, folder: Path, tmp_path: Path
) -> None:
    target = move(home, folder)
    arguments = ("--signer-passphrase-file", str(folder / "signer.pass"))

    def run(path: Path) -> str:
        return told(
            picket(home.path, "signer", "run", str(target), "--socket", str(path), *arguments),
            TEMPORARY,
        )

    with running(target, tmp_path / "s.sock", folder):
        assert "another signer" in run(tmp_path / "t.sock")
    target.chmod(0o755)
    done = picket(home.path, "signer", "run", str(target), "--socket", str(tmp_path / "s.sock"),
                  *arguments)  # fmt: skip
    assert "chmod 700" in told(done, USAGE)
    target.chmod(0o700)
    (tmp_path / "file").write_text("mine")
    done = picket(home.path, "signer", "run", str(target), "--socket", str(tmp_path / "file"),
                  *arguments)  # fmt: skip
    assert "is no socket" in told(done, USAGE) and (tmp_path / "file").read_text() == "mine"
