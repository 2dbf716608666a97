"""Signing keys that do not lie in the keystore: in a token that speaks PKCS#11.

- A token holds the Ed25519 half of the identity key and, by choice, the message key. It never gives
  a private key out (PKCS#11 v2.40 section 4.9: CKA_SENSITIVE, and CKA_EXTRACTABLE false).
- No token of today makes ML-DSA signatures that Picket could rely on, so that half of the identity
  key stays in the keystore. Both halves sign every statement: neither place alone can.
- A token that goes away is looked for again at each signature. A PIN that was refused is never
  tried a second time, for tokens lock themselves after a few.
- The PIN is held for as long as the node is unlocked, in memory only.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Protocol

from cryptography.hazmat.primitives.asymmetric.mldsa import MLDSA65PrivateKey

from protocol import suite
from protocol.errors import (
    ConfigError,
    KeystoreError,
    PicketError,
    SignerAwayError,
    WrongPassphraseError,
)

CURVE: Final = "1.3.101.112"
"""The object identifier of Ed25519 (RFC 8410 section 3)."""
_POINT_HEAD: Final = b"\x04\x20"  # DER: an OCTET STRING of 32 bytes
_MAX_PIN: Final = 256


class Away(Protocol):
    """A signer that may go away while the node runs."""

    def check(self) -> SignerAwayError | None:
        """Return why it would not sign now, or None; it asks, and signs nothing."""
        ...

    def close(self) -> None:
        """Forget all that opens it."""
        ...


class OutsideSigner(suite.Signer, Away, Protocol):
    """A Signer outside the keystore."""


class OutsideHybridSigner(suite.HybridSigner, Away, Protocol):
    """A HybridSigner outside the keystore."""


@dataclass(frozen=True, slots=True)
class Outside:
    """The signing keys of a node that are not in its keystore; what is None is there."""

    identity: OutsideHybridSigner | None = None
    message: OutsideSigner | None = None

    def check(self) -> SignerAwayError | None:
        """Return why one of them would not sign now, or None."""
        for signer in (self.identity, self.message):
            if signer is not None and (why := signer.check()) is not None:
                return why
        return None

    def close(self) -> None:
        """Forget all that opens them."""
        for signer in (self.identity, self.message):
            if signer is not None:
                signer.close()


class SplitSigner:
    """A HybridSigner whose Ed25519 half is outside and whose ML-DSA-65 half is held here."""

    def __init__(self, ed25519: OutsideSigner, mldsa65_seed: bytes) -> None:
        """Join the two halves of one identity key."""
        self._ed25519 = ed25519
        self._mldsa65 = MLDSA65PrivateKey.from_seed_bytes(mldsa65_seed)
        self.public = (ed25519.public, self._mldsa65.public_key().public_bytes_raw())

    def sign(self, message: bytes, source: bytes = b"") -> tuple[bytes, bytes]:
        """Return the Ed25519 and ML-DSA-65 signatures over *message*.

        Raises:
            SignerAwayError: the token does not sign now.
        """
        return self._ed25519.sign(message, source), self._mldsa65.sign(message)

    def check(self) -> SignerAwayError | None:
        """Return why it would not sign now, or None."""
        return self._ed25519.check()

    def close(self) -> None:
        """Forget all that opens it."""
        self._ed25519.close()


# --- tokens ----------------------------------------------------------------------------------
@dataclass(frozen=True, slots=True)
class Place:
    """Where a token is: the module that speaks to it, and the token's label."""

    module: str
    token: str


@dataclass(slots=True)
class Token:
    """One token, opened with its PIN; safe to use from several threads."""

    place: Place
    pin: str = field(repr=False)
    _session: Any = field(default=None, repr=False)
    _lock: threading.RLock = field(default_factory=threading.RLock, repr=False)
    _refused: bool = field(default=False, repr=False)
    _failed: bool = field(default=False, repr=False)

    # --- opening -----------------------------------------------------------------------------
    def open(self) -> None:
        """Open a session and give the PIN, if that is not done yet.

        Raises:
            ConfigError: python-pkcs11 is not installed, or the module cannot be loaded.
            KeystoreError: there is no such token, or it takes no PIN any more.
            WrongPassphraseError: the PIN is wrong.
        """
        with self._lock:
            if self._session is None:
                self._session = self._opened()

    def _opened(self) -> Any:  # noqa: ANN401  a session of python-pkcs11
        p11 = _library()
        token = self._token(p11)
        if self._refused:
            raise WrongPassphraseError(
                f"the token {self.place.token!r} refused this PIN before; it is not tried again",
                fix="lock the node, and unlock it with the right PIN",
            )
        try:
            return token.open(rw=True, user_pin=self.pin)
        except p11.UserAlreadyLoggedIn:
            # Somebody in this process has given the PIN: the session shares that.
            return token.open(rw=True)
        except (p11.PinIncorrect, p11.PinLenRange, p11.PinInvalid):
            self._refused = True
            left = _left(self._token(p11), p11)
            raise WrongPassphraseError(
                f"the PIN does not open the token {self.place.token!r}{left}",
                fix="give the right PIN; a token locks itself after a few wrong ones",
            ) from None
        except p11.PinLocked:
            raise KeystoreError(
                f"the token {self.place.token!r} is locked: the PIN was wrong too often",
                fix="unlock it with its security officer's PIN, as its maker says",
            ) from None
        except (p11.PKCS11Error, RuntimeError) as error:
            raise KeystoreError(
                f"the token {self.place.token!r} does not open: {_why(error)}",
                fix="see that it is connected and set up",
            ) from None

    def _token(self, p11: Any) -> Any:  # noqa: ANN401
        """Return the token with our label; one that was put in meanwhile is found, too."""
        found = [] if self._failed else self._labelled(p11, anew=False)
        found = found or self._labelled(p11, anew=True)
        self._failed = False
        if len(found) != 1:
            many = "there are several tokens" if found else "there is no token"
            raise KeystoreError(
                f"{many} called {self.place.token!r}",
                fix="correct signer.token, or see which there are: pkcs11-tool --list-token-slots",
            )
        return found[0]

    def _labelled(self, p11: Any, *, anew: bool) -> list[Any]:  # noqa: ANN401
        module = self.place.module
        if not Path(module).is_file():
            raise ConfigError(
                f"there is no PKCS#11 module at {module}", fix="install it, or correct its path"
            )
        try:
            loaded = p11.lib(module)
        except (p11.PKCS11Error, RuntimeError) as error:
            raise ConfigError(
                f"the PKCS#11 module {module} does not start: {_why(error)}",
                fix="see that its own settings are right and that the token is connected",
            ) from None
        try:
            if anew:  # some modules look for tokens at their start alone
                loaded.reinitialize()
            return [token for token in loaded.get_tokens() if token.label == self.place.token]
        except (p11.PKCS11Error, RuntimeError) as error:
            if not anew:  # one that was there is gone
                return []
            raise KeystoreError(
                f"the PKCS#11 module {module} shows no tokens: {_why(error)}",
                fix="see that the token is connected",
            ) from None

    def close(self) -> None:
        """End the session and forget the PIN."""
        with self._lock:
            self.pin = ""
            self._drop()

    def _fail(self) -> None:
        """End the session; the next one begins with a new look at which tokens there are."""
        self._drop()
        self._failed = True

    def _drop(self) -> None:
        session, self._session = self._session, None
        if session is not None:
            p11 = _library()
            try:
                session.close()
            except (p11.PKCS11Error, RuntimeError):
                return  # it went with its token

    # --- keys --------------------------------------------------------------------------------
    def has(self, label: str) -> bool:
        """Return whether a key called *label* is in the token.

        Raises:
            PicketError: as for ``open``; or the token is gone.
        """
        with self._using() as (p11, session):
            return any(True for _ in session.get_objects({p11.Attribute.LABEL: label}))

    def generate(self, label: str) -> None:
        """Make an Ed25519 key inside the token, which it never gives out.

        Raises:
            ConfigError: it has a key of that label.
            PicketError: as for ``open``; or the token makes no such key.
        """
        self._check_free(label)
        with self._using() as (p11, session):
            curve = p11.util.ec.encode_named_curve_parameters(CURVE)
            kind, attribute = p11.KeyType.EC_EDWARDS, p11.Attribute
            parameters = session.create_domain_parameters(
                kind, {attribute.EC_PARAMS: curve}, local=True
            )
            parameters.generate_keypair(
                mechanism=p11.Mechanism.EC_EDWARDS_KEY_PAIR_GEN, store=True, label=label,
                capabilities=p11.MechanismFlag.SIGN | p11.MechanismFlag.VERIFY,
                private_template={
                    attribute.SENSITIVE: True, attribute.EXTRACTABLE: False,
                    attribute.PRIVATE: True,
                },
            )  # fmt: skip

    def take(self, label: str, seed: bytes) -> None:
        """Put an Ed25519 key that was made outside into the token, which never gives it out.

        Raises:
            ConfigError: it has a key of that label.
            PicketError: as for ``open``; or the token takes no such key.
        """
        self._check_free(label)
        public = suite.Ed25519Signer(seed).public
        with self._using() as (p11, session):
            a = p11.Attribute
            both = {
                a.KEY_TYPE: p11.KeyType.EC_EDWARDS, a.TOKEN: True, a.LABEL: label,
                a.EC_PARAMS: p11.util.ec.encode_named_curve_parameters(CURVE),
            }  # fmt: skip
            session.create_object(
                {
                    **both, a.CLASS: p11.ObjectClass.PRIVATE_KEY, a.PRIVATE: True,
                    a.SENSITIVE: True, a.EXTRACTABLE: False, a.SIGN: True, a.VALUE: seed,
                }
            )  # fmt: skip
            session.create_object(
                {
                    **both, a.CLASS: p11.ObjectClass.PUBLIC_KEY, a.VERIFY: True,
                    a.EC_POINT: _POINT_HEAD + public,
                }
            )  # fmt: skip

    def destroy(self, label: str) -> None:
        """Destroy the key *label*; nothing happens if there is none.

        Raises:
            PicketError: as for ``open``; or the token is gone.
        """
        with self._using() as (p11, session):
            for each in list(session.get_objects({p11.Attribute.LABEL: label})):
                each.destroy()

    def _check_free(self, label: str) -> None:
        if self.has(label):
            raise ConfigError(
                f"the token {self.place.token!r} has a key called {label!r} already",
                fix="choose another label; nothing was changed",
            )

    def public(self, label: str) -> bytes:
        """Return the 32 public bytes of the key *label*.

        Raises:
            KeystoreError: there is no such key, or it is no Ed25519 key that stays inside.
            PicketError: as for ``open``; or the token is gone.
        """
        with self._using() as (p11, session):
            private = self._key(p11, session, label, p11.ObjectClass.PRIVATE_KEY)
            attribute = p11.Attribute
            if private[attribute.EXTRACTABLE] or not private[attribute.SENSITIVE]:
                raise KeystoreError(
                    f"the token {self.place.token!r} would give out the key {label!r}",
                    fix="use one that was made by picket: it must be sensitive, not extractable",
                )
            shown = self._key(p11, session, label, p11.ObjectClass.PUBLIC_KEY)
            return _unwrapped(bytes(shown[attribute.EC_POINT]), label)

    def sign(self, label: str, message: bytes) -> bytes:
        """Return the Ed25519 signature of the key *label* over *message* (PKCS#11 v3.0, EDDSA).

        Raises:
            PicketError: as for ``open``; or the token is gone.
        """
        try:
            return self._signed(label, message)
        except KeystoreError:
            # The session may have ended with a token that was taken out and put back.
            return self._signed(label, message)

    def _signed(self, label: str, message: bytes) -> bytes:
        with self._using() as (p11, session):
            private = self._key(p11, session, label, p11.ObjectClass.PRIVATE_KEY)
            return bytes(private.sign(message, mechanism=p11.Mechanism.EDDSA))

    def _key(self, p11: Any, session: Any, label: str, kind: object) -> Any:  # noqa: ANN401
        wanted = {p11.Attribute.LABEL: label, p11.Attribute.CLASS: kind}
        found = list(session.get_objects(wanted))
        if len(found) != 1:
            many = "several keys" if found else "no key"
            raise KeystoreError(
                f"the token {self.place.token!r} has {many} called {label!r}",
                fix="correct signer.identity and signer.message, or connect the right token",
            )
        return found[0]

    @contextmanager
    def _using(self) -> Iterator[tuple[Any, Any]]:
        """Give the library and the session; what fails ends the session, to be opened anew."""
        with self._lock:
            self.open()
            p11 = _library()
            try:
                yield p11, self._session
            except (p11.PKCS11Error, RuntimeError) as error:
                self._fail()
                raise KeystoreError(
                    f"the token {self.place.token!r} fails: {_why(error)}",
                    fix="see that it is connected",
                ) from None
            except KeystoreError:
                self._fail()
                raise


def _library() -> Any:  # noqa: ANN401  an optional module
    try:
        import pkcs11  # noqa: PLC0415
        import pkcs11.util.ec  # noqa: PLC0415
    except ImportError:
        raise ConfigError(
            "python-pkcs11 is not installed, and the signing key is in a token",
            fix="pip install 'picket-node[hsm]'",
        ) from None
    return pkcs11


def _left(token: Any, p11: Any) -> str:  # noqa: ANN401
    """Return how many tries are left, as far as tokens say (PKCS#11 v2.40, CK_TOKEN_INFO)."""
    if token.flags & p11.TokenFlag.USER_PIN_LOCKED:
        return ", which is locked now"
    if token.flags & p11.TokenFlag.USER_PIN_FINAL_TRY:
        return "; there is one try left"
    if token.flags & p11.TokenFlag.USER_PIN_COUNT_LOW:
        return "; only few tries are left"
    return ""


def _why(error: BaseException) -> str:
    """Return the kind of an error of a module; its text may hold anything."""
    said = str(error).splitlines()[:1]
    return f"{type(error).__name__} {said[0][:120]}" if said and said[0] else type(error).__name__


def _unwrapped(point: bytes, label: str) -> bytes:
    """Return the 32 bytes in CKA_EC_POINT: a DER OCTET STRING (PKCS#11 v2.40 section 2.3.3)."""
    if len(point) != len(_POINT_HEAD) + suite.ED25519_SIZE or not point.startswith(_POINT_HEAD):
        raise KeystoreError(
            f"the key {label!r} in the token is no Ed25519 key", fix="name another key"
        )
    return suite.check_ed25519(point[len(_POINT_HEAD) :], f"the key {label!r} in the token")


class TokenSigner:
    """A Signer over one Ed25519 key in a token."""

    def __init__(self, token: Token, label: str) -> None:
        """Use the key *label* of *token*.

        Raises:
            PicketError: as for ``Token.open`` and ``Token.public``.
        """
        self._token, self._label = token, label
        self.public = token.public(label)

    def sign(self, message: bytes, source: bytes = b"") -> bytes:
        """Return the 64-byte signature over *message*.

        Raises:
            SignerAwayError: the token does not sign now.
        """
        try:
            made = self._token.sign(self._label, message)
        except PicketError as error:
            raise _away(error) from None
        return made

    def check(self) -> SignerAwayError | None:
        """Return why it would not sign now, or None."""
        try:
            same = self._token.public(self._label) == self.public
        except PicketError as error:
            return _away(error)
        if same:
            return None
        return _away(KeystoreError("the token holds another key now", fix="connect the right one"))

    def close(self) -> None:
        """End the session and forget the PIN."""
        self._token.close()


def _away(error: PicketError) -> SignerAwayError:
    return SignerAwayError(f"nothing can be signed: {error.message}", fix=error.fix)


def parse_pin(typed: str) -> str:
    """Return a PIN without the line end behind it.

    Raises:
        KeystoreError: it is empty, too long, or no text.
    """
    pin = typed.removesuffix("\n").removesuffix("\r")
    if not pin or len(pin) > _MAX_PIN or not pin.isprintable():
        raise KeystoreError(
            f"a PIN has 1 to {_MAX_PIN} printable characters", fix="give that of the token"
        )
    return pin
