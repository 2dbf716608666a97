"""The signing keys of a node that lie outside its keystore, as the settings say where.

- What the keystore holds is used, whatever the settings say: a rotation or recovery puts the new
  identity key there, and ``picket signer`` moves it on.
- The signer in a process of its own is asked anew for each signature, so it may come and go. Its
  answers are verified: whoever sits on its socket can refuse to sign, and nothing else.
"""

from __future__ import annotations

import errno
import os
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from keys import agent
from keys.identity import IDENTITY_ED25519, IDENTITY_MLDSA65, MESSAGE_NAME, Vault
from keys.signers import Outside, Place, SplitSigner, Token, TokenSigner, parse_pin
from node.config import Config, SignerSection
from protocol import limits, suite
from protocol.errors import ConfigError, KeystoreError, LockedError, PeerError, SignerAwayError
from protocol.statement import Chain

CREDENTIAL: Final = "picket-pin"
"""What systemd's credential with the PIN is called."""
_FOLDER: Final = "CREDENTIALS_DIRECTORY"
_MAX_PIN_FILE: Final = 1_024
_PROBE_S: Final = 0.5
Pin = Callable[[], str | None]
"""Gets the PIN of a token from a person; None if there is nobody."""


# --- PINs ------------------------------------------------------------------------------------
def read_pin_file(path: Path) -> str:
    """Return the PIN in the file *path*.

    Raises:
        KeystoreError: it is missing, unreadable, or holds no PIN.
    """
    try:
        with path.open("rb") as file:
            data = file.read(_MAX_PIN_FILE + 1)
        return parse_pin(data.decode())
    except OSError as error:
        raise KeystoreError(
            f"the PIN file {path} cannot be read: {error.strerror}",
            fix="correct the path or its permissions",
        ) from None
    except UnicodeDecodeError:
        raise KeystoreError(f"the PIN file {path} is not UTF-8 text", fix="correct it") from None
    except KeystoreError as error:
        raise KeystoreError(f"the PIN file {path}: {error.message}", fix=error.fix) from None


def pin_of(signer: SignerSection, pin: Pin | None) -> str:
    """Return the PIN of the token: typed, from systemd's credential, or from the named file.

    Raises:
        LockedError: there is none.
        KeystoreError: it cannot be read.
    """
    typed = pin() if pin is not None else None
    if typed is not None:
        return parse_pin(typed)
    credentials = os.environ.get(_FOLDER)
    if credentials and (Path(credentials) / CREDENTIAL).exists():
        return read_pin_file(Path(credentials) / CREDENTIAL)
    if signer.pin_file:
        return read_pin_file(Path(signer.pin_file))
    raise LockedError("the token needs its PIN", fix="run: picket unlock, which asks for it")


def needs_pin(signer: SignerSection) -> bool:
    """Whether a person has to type the PIN: no file and no credential has it."""
    credentials = os.environ.get(_FOLDER)
    given = bool(credentials) and (Path(credentials or "") / CREDENTIAL).exists()
    return signer.kind == "pkcs11" and not signer.pin_file and not given


# --- where the keys are ----------------------------------------------------------------------
def open_outside(
    config: Config, held: Mapping[str, bytes], chain: Chain, pin: Pin | None = None
) -> Outside:
    """Return the signers for the keys that are not in the keystore, which holds *held*.

    Args:
        config: says where they are.
        held: the secrets in the keystore.
        chain: this node's own.
        pin: gets the PIN of a token.

    Raises:
        ConfigError: the settings name no place for a key, or python-pkcs11 is missing.
        KeystoreError: the token or a key in it is missing.
        WrongPassphraseError: the PIN is wrong.
        LockedError: nobody gives it.
    """
    identity, message = IDENTITY_ED25519 not in held, MESSAGE_NAME not in held
    if not identity and not message:
        return Outside()
    signer = config.signer
    match signer.kind:
        case "pkcs11":
            return _in_token(signer, held, pin, identity=identity, message=message)
        case "agent":
            asked = Agent(Path(signer.socket), _expected(chain))
            return Outside(
                AgentIdentity(asked) if identity else None, AgentMessage(asked) if message else None
            )
        case _:
            what = "identity" if identity else "message"
            raise ConfigError(
                f"the {what} key is not in the keystore, and signer.kind is file",
                fix='say where it is: set signer.kind to "pkcs11" or "agent"',
            )


def _in_token(
    signer: SignerSection, held: Mapping[str, bytes], pin: Pin | None, *,
    identity: bool, message: bool,
) -> Outside:  # fmt: skip
    if message and not signer.message:
        raise ConfigError(
            "the message key is not in the keystore, and signer.message names none in the token",
            fix="set signer.message to the label of the key",
        )
    if identity and IDENTITY_MLDSA65 not in held:
        raise KeystoreError(
            "the ML-DSA half of the identity key is missing in the keystore",
            fix="restore the file from its backup",
        )
    token = Token(Place(signer.module, signer.token), pin_of(signer, pin))
    try:
        return Outside(
            SplitSigner(TokenSigner(token, signer.identity), held[IDENTITY_MLDSA65])
            if identity else None,
            TokenSigner(token, signer.message) if message else None,
        )  # fmt: skip
    except BaseException:
        token.close()
        raise


def _expected(chain: Chain) -> agent.Held:
    """Return whose keys the signer must hold, as the chain says."""
    card = chain.card
    keys = chain.identity.keys
    return agent.Held(chain.network, chain.node_id, keys[0], None if card is None else card.message)


def signer_notices(vault: Vault | None, signer: SignerSection) -> Iterator[tuple[str, str, str]]:
    """Return what a person has to do about where the keys are: code, message and what to do."""
    if vault is None:
        return
    if (away := vault.outside.check()) is not None:
        message = f"{away.message}; nothing is lost, and it is tried again"
        yield "signer-away", message, away.fix
    if signer.kind != "file" and isinstance(vault.identity, suite.LocalHybridSigner):
        message = f"the identity key is in the keystore, though signer.kind is {signer.kind}"
        move = {"pkcs11": "picket signer import", "agent": "picket signer move DIR"}
        yield "identity-in-keystore", message, f"stop the node, then: {move[signer.kind]}"


# --- a signer in a process of its own --------------------------------------------------------
@dataclass(frozen=True, slots=True)
class Agent:
    """Asks the signer that listens on *path*; *held* is whose keys it must have."""

    path: Path
    held: agent.Held

    def sign(self, key: str, message: bytes, source: bytes) -> tuple[bytes, ...]:
        """Return the verified signatures of the key *key* over *message*.

        Raises:
            SignerAwayError: it does not answer, refuses, or answers with something else.
        """
        request = agent.Sign(key, message, source)
        try:
            answer = ask(self.path, request)
            match answer:
                case agent.Signed():
                    agent.check_signatures(request, answer, self.held)
                    return answer.signatures
                case agent.Refused():
                    raise SignerAwayError(
                        f"the signer does not sign this: {answer.message}",
                        fix=answer.fix or "see its journal",
                    )
                case agent.Held():
                    raise SignerAwayError("the signer answered another question", fix=_UPDATE)
        except PeerError as error:
            raise SignerAwayError(f"the signer: {error.message}", fix=_UPDATE) from None

    def check(self) -> SignerAwayError | None:
        """Return why it would not sign now, or None."""
        try:
            answer = ask(self.path, agent.About(), timeout=_PROBE_S)
        except SignerAwayError as error:
            return error
        except PeerError as error:
            return SignerAwayError(f"the signer: {error.message}", fix=_UPDATE)
        match answer:
            case agent.Refused():
                return SignerAwayError(f"the signer: {answer.message}", fix=answer.fix)
            case agent.Held() if answer.node_id == self.held.node_id:
                if answer.identity == self.held.identity:
                    return None
        return SignerAwayError(
            "the signer holds the keys of another node, or older ones of this",
            fix="correct signer.socket; after a rotation: picket signer move",
        )


_UPDATE: Final = "run the same version of Picket there, and correct signer.socket"


class AgentIdentity:
    """A HybridSigner over the identity key that a signer holds."""

    def __init__(self, asked: Agent) -> None:
        """Ask *asked* for each signature."""
        self._agent = asked
        self.public = asked.held.identity

    def sign(self, message: bytes, source: bytes = b"") -> tuple[bytes, bytes]:
        """Return the Ed25519 and ML-DSA-65 signatures over *message*, which ends in a digest.

        Raises:
            SignerAwayError: the signer does not sign now.
        """
        ed25519, mldsa65 = self._agent.sign(agent.IDENTITY, message, source)
        return ed25519, mldsa65

    def check(self) -> SignerAwayError | None:
        """Return why it would not sign now, or None."""
        return self._agent.check()

    def close(self) -> None:
        """Do nothing: there is no secret here."""


class AgentMessage:
    """A Signer over the message key that a signer holds."""

    def __init__(self, asked: Agent) -> None:
        """Ask *asked* for each signature.

        Raises:
            ConfigError: this node has no card, so nothing says which key it must be.
        """
        if asked.held.message is None:
            raise ConfigError("the card of this node is missing", fix="restore node.db")
        self._agent = asked
        self.public = asked.held.message

    def sign(self, message: bytes, source: bytes = b"") -> bytes:
        """Return the 64-byte signature over *message*.

        Raises:
            SignerAwayError: the signer does not sign now.
        """
        (signature,) = self._agent.sign(agent.MESSAGE, message, source)
        return signature

    def check(self) -> SignerAwayError | None:
        """Return why it would not sign now, or None."""
        return self._agent.check()

    def close(self) -> None:
        """Do nothing: there is no secret here."""


def ask(
    path: Path, request: agent.Asked, *, timeout: float = limits.SIGNER_TIMEOUT_S
) -> agent.Answer:
    """Return the answer of the signer that listens on *path*.

    Raises:
        SignerAwayError: it does not answer in time.
        PeerError: it answers with something else.
    """
    data = agent.frame(agent.encode_request(request))
    until = time.monotonic() + timeout
    try:
        with socket.socket(socket.AF_UNIX) as wire:
            wire.settimeout(timeout)
            wire.connect(str(path))
            wire.sendall(data)
            return agent.parse_answer(receive(wire, until))
    except OSError as error:
        why = error.strerror or "it takes too long"
        raise SignerAwayError(
            f"the signer does not answer at {path}: {why}",
            fix=f"start it: picket signer run DIR --socket {path}",
        ) from None


def receive(wire: socket.socket, until: float) -> bytes:
    """Return the bytes of one frame, which must be there at *until* (monotonic).

    Raises:
        OSError: the other end closed the connection, or takes too long.
        DecodeError: what comes is no frame.
    """
    size = agent.frame_size(_exactly(wire, agent.LENGTH_SIZE, until))
    return _exactly(wire, size, until)


def _exactly(wire: socket.socket, size: int, until: float) -> bytes:
    data = b""
    while len(data) < size:
        left = until - time.monotonic()
        if left <= 0:
            raise TimeoutError
        wire.settimeout(left)
        part = wire.recv(size - len(data))
        if not part:
            raise ConnectionResetError(errno.ECONNRESET, "it closed the connection")
        data += part
    return data


def answers(signer: SignerSection) -> SignerAwayError | None:
    """Return why no signer answers where the settings say, or None; a token is not asked."""
    if signer.kind != "agent":
        return None
    try:
        answer = ask(Path(signer.socket), agent.About(), timeout=_PROBE_S)
    except SignerAwayError as error:
        return error
    except PeerError as error:
        return SignerAwayError(f"the signer: {error.message}", fix=_UPDATE)
    if isinstance(answer, agent.Refused):
        return SignerAwayError(f"the signer: {answer.message}", fix=answer.fix)
    return None
