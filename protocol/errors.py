"""Every error Picket raises on purpose, in one tree whose branches say whose fault it is.

    PicketError
      PeerError        refuse the input, count it against the peer that sent it
      RequestError     a 4xx answer to the local agency; nothing was changed
      LinkError        back off and dial again
      OperatorError    one line to the operator with the cause and the fix
      StoreError       stop the node: what is on disk is not what was promised

Rules a reader must not break:

- Every leaf has a stable ``code``; the same string stands in logs, counters, refusal frames, HTTP
  problem bodies and test vectors. A code is never renamed or given a second meaning.
- A message names the field and, where there is one, the fix. It never holds key material or the
  text of an incident.
- Whatever else escapes ``protocol`` is a bug in Picket, not in its input.
"""

from __future__ import annotations

from typing import ClassVar


class PicketError(Exception):
    """Base of all errors raised on purpose."""

    code: ClassVar[str] = "error"

    def __init__(self, message: str, *, fix: str = "") -> None:
        """Keep *message* (the cause, naming the field) and *fix* (what to do about it)."""
        super().__init__(message)
        self.message = message
        self.fix = fix

    def diagnostics(self) -> str:
        """Return one line for a person: the cause and, if known, the fix."""
        return f"{self.message}. {self.fix}" if self.fix else self.message


class PeerError(PicketError):
    """Bytes or behaviour of a peer that the rules refuse."""

    code = "peer-error"


class DecodeError(PeerError):
    """Bytes that are not the one canonical encoding of an allowed value."""

    code = "bad-encoding"


class LimitError(PeerError):
    """A size, count, depth or rate beyond its bound in ``protocol.limits``."""

    code = "over-limit"


class SignatureError(PeerError):
    """A signature that does not cover these bytes under this key."""

    code = "bad-signature"


class DigestError(PeerError):
    """A digest in a signed structure that does not match the bytes it names."""

    code = "bad-digest"


class ProofError(PeerError):
    """An inclusion or consistency proof that does not lead to the signed root."""

    code = "bad-proof"


class UntrustedKeyError(PeerError):
    """The signer is unknown, or its trust level does not allow what it tries."""

    code = "untrusted-key"


class UnknownCardError(PeerError):
    """The envelope names a key card of a known node that we have not received yet."""

    code = "unknown-card"


class SupersededCardError(PeerError):
    """The envelope is new, and names a key card that a recovery of its author has ended."""

    code = "superseded-card"


class UnknownEpochError(PeerError):
    """The envelope names a stream epoch whose opening envelope we do not hold."""

    code = "unknown-epoch"


class WeakKeyError(PeerError):
    """A public key that is malformed, of small order, non-canonical or used twice."""

    code = "weak-key"


class WrongNetworkError(PeerError):
    """Something made for another Picket network."""

    code = "wrong-network"


class AudienceError(PeerError):
    """An envelope that is not for us, or an audience that breaks its rules."""

    code = "wrong-audience"


class NotCarryingError(PeerError):
    """A node that was named as a carrier does not carry for others."""

    code = "not-carrying"


class ExpiredError(PeerError):
    """A card or envelope outside its time of validity."""

    code = "expired"


class StatementError(PeerError):
    """A key statement that breaks a rule of the statement chain."""

    code = "bad-statement"


class EquivocationError(PeerError):
    """Two different signed things where only one may exist."""

    code = "equivocation"


class OpenError(PeerError):
    """A slot or body that does not open; deliberately says no more than that."""

    code = "cannot-open"


class FrameError(PeerError):
    """A frame that is damaged, out of order, or not allowed in this state of the session."""

    code = "bad-frame"


class UnplacedError(PeerError):
    """An envelope that its author put where its stream has no place for it."""

    code = "unplaced"


class OwnEnvelopeError(PeerError):
    """A genuine envelope of our own that we do not hold: our database has lost something."""

    code = "own-envelope"


class ReceiptError(PeerError):
    """A receipt for something that was not sent, or that does not prove what it claims."""

    code = "bad-receipt"


class QuotaError(PeerError):
    """A peer brought more than its quota; it may bring it again later."""

    code = "quota"


class CustodyFullError(PeerError):
    """A carrier has no room left for a recipient, or for what a peer gives; the author keeps it."""

    code = "custody-full"


class VersionError(PeerError):
    """No protocol version in common, or a format version from the future."""

    code = "unsupported-version"


class RecordError(PeerError):
    """An opened record that breaks the schema: kept, quarantined, never shown as an incident."""

    code = "bad-record"


class RequestError(PicketError):
    """A request of the local agency that cannot be done as asked."""

    code = "bad-request"


class InvalidIncidentError(RequestError):
    """An incident that breaks the model; ``problems`` lists (JSON pointer, code, message)."""

    code = "invalid-incident"

    def __init__(
        self, message: str, *, fix: str = "", problems: list[tuple[str, str, str]] | None = None
    ) -> None:
        """Keep the single *problems* so that a form can show each beside its field."""
        super().__init__(message, fix=fix)
        self.problems = problems or []


class UnknownRecipientError(RequestError):
    """A recipient or carrier that is not a peer to which we may release."""

    code = "unknown-recipient"


class NotFoundError(RequestError):
    """Nothing under that name."""

    code = "not-found"


class ConflictError(RequestError):
    """The thing is in a state that does not allow the request."""

    code = "conflict"


class ApprovalNeededError(ConflictError):
    """Something that more operators have to approve first; nothing was done."""

    code = "approval-needed"


class ApprovalRecordError(ConflictError):
    """What the log has of approvals does not verify, so that nothing is done that needs them."""

    code = "approval-record"


class MethodError(RequestError):
    """The path exists, but not for this method; ``allowed`` names those it exists for."""

    code = "bad-method"

    def __init__(self, message: str, *, allowed: str) -> None:
        """Keep *allowed*, the value of the Allow header (RFC 9110 section 10.2.1)."""
        super().__init__(message, fix=f"use {allowed}")
        self.allowed = allowed


class UnauthorizedError(RequestError):
    """No token, or one that is unknown, expired or revoked."""

    code = "unauthorized"


class ForbiddenError(RequestError):
    """The token does not carry the scope that the request needs."""

    code = "forbidden"


class TooLargeError(RequestError):
    """A request body over its bound."""

    code = "too-large"


class RangeError(RequestError):
    """A range that lies outside the file; ``size`` is how long that is."""

    code = "bad-range"

    def __init__(self, message: str, *, fix: str = "", size: int = 0) -> None:
        """Keep *size* for the Content-Range header (RFC 9110 section 14.4)."""
        super().__init__(message, fix=fix)
        self.size = size


class LockedError(RequestError):
    """The node is locked: its keystore has not been opened since start."""

    code = "locked"


class BusyError(RequestError):
    """A local bound is reached (full outbox, full disk); nothing was changed; try again later."""

    code = "busy"


class SignerAwayError(BusyError):
    """The token or process that holds a signing key does not sign now; nothing was changed."""

    code = "signer-away"


class LinkError(PicketError):
    """A connection that could not be made or kept."""

    code = "link-error"


class ConnectError(LinkError):
    """The peer's address did not answer."""

    code = "connect-failed"


class HandshakeError(LinkError):
    """TLS or the signed hello failed; the link is closed, never downgraded."""

    code = "handshake-failed"


class NotKnownError(HandshakeError):
    """The other end proved its pinned certificate, and hung up on ours: it does not know us."""

    code = "not-known"


class NotApprovedError(NotKnownError):
    """The same, and it has this node's request to be looked at."""

    code = "not-approved"


class LinkTimeoutError(LinkError):
    """The peer did not say what was due in time."""

    code = "link-timeout"


class OversizeError(LinkError):
    """The other end sent a message over the limit."""

    code = "oversize"


class OperatorError(PicketError):
    """Something only the operator can put right."""

    code = "operator-error"


class ConfigError(OperatorError):
    """The configuration cannot be used; names the file and the key."""

    code = "bad-config"


class KeystoreError(OperatorError):
    """The keystore file is missing, unreadable, damaged or has refused parameters."""

    code = "bad-keystore"


class WrongPassphraseError(OperatorError):
    """The passphrase does not open the keystore."""

    code = "wrong-passphrase"


class TrustConflictError(OperatorError):
    """A trust change that contradicts what is already recorded."""

    code = "trust-conflict"


class AddressInUseError(OperatorError):
    """A configured address is taken by another program."""

    code = "address-in-use"


class AlreadyRunningError(OperatorError):
    """Another process owns this node's home directory."""

    code = "already-running"


class PolicyError(OperatorError):
    """A witness policy that breaks its grammar; names the line."""

    code = "bad-policy"


class RollbackError(OperatorError):
    """The database is older than what this node has already published."""

    code = "restored-backup"


class BackupError(OperatorError):
    """A file is no backup, is damaged, does not open with this code, or does not hold together."""

    code = "bad-backup"


class BlobStoreError(OperatorError):
    """The folder of attachments fails or holds something damaged; nothing else is touched."""

    code = "attachment-store"


class StoreError(PicketError):
    """What is on disk is not what was promised."""

    code = "store-error"


class LogCorruptionError(StoreError):
    """The log does not verify against its own signed checkpoint."""

    code = "log-corrupt"


class LogBehindError(StoreError):
    """A witness holds a later head of our own log than we do: this home is an old copy."""

    code = "log-behind"


class CommitUncertainError(StoreError):
    """A commit may or may not have happened; signing on would risk two histories."""

    code = "commit-uncertain"
