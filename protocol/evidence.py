"""Verification of an evidence bundle: named checks over its files, with nothing else at hand.

- Every check is made, whatever became of the others; one that needs what another check found
  broken says so and is left open, so that the one which failed is the one that names the fault.
- Nothing that the manifest, the report or the policy in the bundle claims is believed for itself:
  each fact comes from a signature, a digest or a proof over the files themselves.
- Who the holder and the author are stands in node ids; names on cards prove nothing about them.
- Reading a time stamp needs a library that is not everywhere, so the caller hands in the reader.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final, TypeVar

from protocol import envelope, limits, merkle, suite
from protocol import evidence_zip as zips
from protocol.access import EXPORT_EVIDENCE
from protocol.canonical import decode
from protocol.checkpoint import Checkpoint, parse_body, verify_checkpoint
from protocol.cosignatures import check_policy, quorum_time, verify_cosignatures
from protocol.entry import BLIND_SIZE, Entry, EntryKind, local_digest, parse_entry
from protocol.envelope import Audience, Envelope, VerifiedEnvelope
from protocol.errors import (
    DecodeError,
    DigestError,
    OpenError,
    PeerError,
    PicketError,
    ProofError,
    SignatureError,
    UntrustedKeyError,
    WrongNetworkError,
)
from protocol.evidence_files import (
    UNLISTED,
    Access,
    Manifest,
    Vkeys,
    format_content,
    has_content,
    parse_access,
    parse_manifest,
    parse_receipts,
    parse_vkeys,
    verify_manifest,
    when,
)
from protocol.frames import Receipts, decode_frame
from protocol.note import COSIGNATURE_MLDSA44, ED25519, Note, VerifierKey, key_id, parse_note
from protocol.policy import Policy, parse_policy
from protocol.receipt import VerifiedReceipt, verify_receipts
from protocol.shape import array, octets, uint
from protocol.statement import Card, Chain, NamedKeys, verify_bundle
from protocol.tlog_proof import TlogProof, parse_tlog_proof

CHECKS: Final = (
    "bundle", "exporter", "network", "holder", "author", "envelope", "audience", "entry",
    "opening", "inclusion", "checkpoint", "log keys", "cosignatures", "quorum", "anchor",
    "content", "access", "receipts", "time stamp", "stamp authority",
)  # fmt: skip
"""The names of all checks, in their order."""

_PARTS: Final = {
    EntryKind.RELEASED: "sent by the holder itself",
    EntryKind.RECEIVED: "received by the holder, to read",
    EntryKind.CARRIED: "received by the holder, to carry for others",
}
_SHOWN: Final = 6
_CLOCKS_S: Final = 600
"""How far the clocks of two witnesses may be apart: 300 s each from that of a log."""
_LOCAL_FIELDS: Final = 6
_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Check:
    """One check: it holds, it fails, or (None) there was nothing to check."""

    name: str
    ok: bool | None
    detail: str
    code: str = ""


@dataclass(frozen=True, slots=True)
class Stamp:
    """What a time stamp of RFC 3161 says: a SHA-256, when (ms), and by whose certificate.

    ``trusted`` is whether that verifies under the certificates that the reader knows; None if it
    knows none. ``fault`` says why it does not.
    """

    imprint: bytes
    at: int
    authority: str
    trusted: bool | None
    fault: str = ""


@dataclass(frozen=True, slots=True)
class Expected:
    """What the verifier knows from elsewhere; what is None is taken from the bundle.

    ``read_stamp`` takes the bytes of a time stamp apart and raises a PicketError if it cannot.
    ``show`` makes node ids readable.
    """

    policy: Policy | None = None
    holder: bytes | None = None
    author: bytes | None = None
    network: str | None = None
    read_stamp: Callable[[bytes], Stamp] | None = None
    show: Callable[[bytes], str] = bytes.hex


class _OpenError(Exception):
    """There is nothing to check, or what it takes was found broken by another check."""


def verify_evidence(
    files: Mapping[str, bytes], *, faults: Sequence[str] = (), expected: Expected | None = None
) -> tuple[Check, ...]:
    """Return all checks of the bundle that has *files*, in the order of ``CHECKS``.

    Args:
        files: the known members of the bundle, each within its bound.
        faults: what was wrong with the container, from ``read_zip``.
        expected: what is known from elsewhere.
    """
    return _Examination(files, faults, expected or Expected()).checks()


def holds(checks: Sequence[Check]) -> bool:
    """Return whether no check failed, and so the bundle proves what it says."""
    return all(check.ok is not False for check in checks)


class _Examination:
    """The parts of one bundle, each parsed once, and the checks over them."""

    def __init__(
        self, files: Mapping[str, bytes], faults: Sequence[str], expected: Expected
    ) -> None:
        self._files, self._faults, self._expected = files, faults, expected
        self._found: dict[str, Any] = {}

    def checks(self) -> tuple[Check, ...]:
        acts = (
            self._bundle, self._exporter, self._network_name, self._holder, self._author,
            self._envelope, self._audience, self._entry, self._opening, self._inclusion,
            self._checkpoint, self._log_keys, self._cosignatures, self._quorum, self._anchor,
            self._content, self._access, self._receipts, self._stamp, self._stamp_authority,
        )  # fmt: skip
        return tuple(self._check(name, act) for name, act in zip(CHECKS, acts, strict=True))

    @staticmethod
    def _check(name: str, act: Callable[[], str]) -> Check:
        try:
            return Check(name, True, act())
        except _OpenError as reason:
            return Check(name, None, str(reason))
        except PicketError as error:
            return Check(name, False, error.diagnostics(), error.code)

    # --- parts -------------------------------------------------------------------------------
    def _file(self, name: str, absent: str = "") -> bytes:
        """Return a member. That a required one is missing is the fault of the bundle."""
        if name not in self._files:
            raise _OpenError(absent or f"not checked: {name} is missing")
        return self._files[name]

    def _parsed(self, name: str, read: Callable[[], _T]) -> _T:
        """Return what *read* gives, which is kept; the check that is about it calls this."""
        if name not in self._found:
            try:
                self._found[name] = read()
            except PicketError as error:
                self._found[name] = error
        found = self._found[name]
        if isinstance(found, PicketError):
            raise found
        value: _T = found
        return value

    @staticmethod
    def _need(read: Callable[[], _T], what: str) -> _T:
        """Return what *read* gives, for a check that is about something else."""
        try:
            return read()
        except PicketError:
            raise _OpenError(f"not checked: {what} did not pass its own check") from None

    def _manifest(self) -> Manifest:
        data = self._file(zips.MANIFEST)
        return self._parsed("manifest", lambda: parse_manifest(data))

    def _held(self) -> Envelope:
        data = self._file(zips.ENVELOPE)
        return self._parsed("envelope", lambda: envelope.parse(data))

    def _network(self) -> bytes:
        """Return the id of the network; the envelope says which, and all else has to agree."""
        try:
            return self._held().header.network
        except (PicketError, _OpenError):
            return suite.network_id(self._need(self._manifest, "the manifest").network)

    def _chain(self, name: str) -> Chain:
        data, network = self._file(name), self._network()
        return self._parsed(name, lambda: verify_bundle(data, network=network))

    def _holder_chain(self) -> Chain:
        return self._chain(zips.HOLDER)

    def _author_card(self) -> Card:
        chain, header = self._chain(zips.AUTHOR), self._need(self._held, "the envelope").header
        if chain.node_id != header.author:
            raise UntrustedKeyError(
                f"these are the key statements of {self._show(chain.node_id)}; "
                f"the author is {self._show(header.author)}"
            )
        card = chain.card_at(header.card_n)
        if card is None:
            raise UntrustedKeyError(f"card {header.card_n}, which signed, is not among them")
        return card

    def _parsed_audience(self) -> Audience:
        held = self._need(self._held, "the envelope")
        if held.audience is not None:
            return held.audience
        data = self._file(zips.AUDIENCE)
        return self._parsed("audience", lambda: envelope.parse_audience(data, held.header.author))

    def _parsed_entry(self) -> Entry:
        data = self._file(zips.ENTRY)
        return self._parsed("entry", lambda: parse_entry(data))

    def _proof(self) -> TlogProof:
        data = self._file(zips.PROOF)
        return self._parsed("proof", lambda: parse_tlog_proof(data))

    def _note(self) -> tuple[Note, Checkpoint]:
        note = parse_note(self._need(self._proof, "the proof file").checkpoint)
        return note, parse_body(note.text)

    def _vkeys(self) -> Vkeys:
        data = self._file(zips.VKEYS)
        return self._parsed("vkeys", lambda: parse_vkeys(data))

    def _log(self, origin: str = "") -> NamedKeys:
        """Return the keys of the log that the proof is about, or of *origin*, of the holder.

        A node that had to begin a new log has one on an old card and one on the newest.
        """
        chain = self._need(self._holder_chain, "the holder")
        origin = origin or self._note()[1].origin
        for card in _cards(chain):
            if card.log.name == origin:
                return card.log
        raise UntrustedKeyError(f"no card of the holder names the log {origin}")

    def _show(self, node_id: bytes) -> str:
        return self._expected.show(node_id)

    # --- the bundle itself -------------------------------------------------------------------
    def _bundle(self) -> str:
        faults = [*self._faults]
        if not self._files:
            raise DecodeError(faults[0] if faults else "it is no bundle: nothing is in it")
        faults += [
            fault for name, member in zips.MEMBERS.items()
            if member.required and name not in self._files
            and (fault := f"{name} is missing") not in faults
        ]  # fmt: skip
        if zips.MANIFEST in self._files:
            try:
                manifest = self._manifest()
            except PicketError as error:
                faults.append(error.message)
            else:
                faults += self._digest_faults(manifest)
        if faults:
            more = f" (and {len(faults) - _SHOWN} more)" if len(faults) > _SHOWN else ""
            raise DigestError("; ".join(faults[:_SHOWN]) + more)
        return f"whole: {len(self._files)} files, as the manifest lists them"

    def _digest_faults(self, manifest: Manifest) -> Iterator[str]:
        for name, digest in manifest.digests.items():
            if name not in self._files:
                yield f"{name:.40} is listed, but is not there"
            elif hashlib.sha256(self._files[name]).digest() != digest:
                yield f"{name} is not the file that the manifest lists"
        yield from (
            f"{name} is not listed" for name in self._files
            if name not in UNLISTED and name not in manifest.digests
        )  # fmt: skip

    def _exporter(self) -> str:
        manifest, signature = self._file(zips.MANIFEST), self._file(zips.SIGNATURE)
        chain = self._need(self._holder_chain, "the holder")
        card = chain.card
        assert card is not None  # noqa: S101  verify_bundle demands one
        verify_manifest(manifest, signature, card=card)
        parsed = self._need(self._manifest, "the manifest")
        if parsed.holder != chain.node_id:
            raise SignatureError("the manifest names another holder than the key statements")
        if parsed.envelope_id != self._need(self._held, "the envelope").id:
            raise DigestError("the manifest names another envelope than the bundle has")
        return f"the holder put it together and signed it, by its clock at {parsed.made}"

    def _network_name(self) -> str:
        name, said = self._expected.network, ""
        if name is None:
            name = self._need(self._manifest, "the manifest").network
            said = " (as the bundle says)"
        if suite.network_id(name) != self._need(self._held, "the envelope").header.network:
            raise WrongNetworkError(f"the envelope is not of the network {name}")
        return f"{name}{said}"

    # --- who ---------------------------------------------------------------------------------
    def _holder(self) -> str:
        chain = self._holder_chain()
        self._check_named(chain, self._expected.holder)
        said = "" if self._expected.holder else " (as the bundle says; compare it)"
        return f"{_name(chain.card)}, node id {self._show(chain.node_id)}{said}"

    def _check_named(self, chain: Chain, wanted: bytes | None) -> None:
        if wanted not in {None, chain.node_id}:
            raise UntrustedKeyError(
                f"it is {self._show(chain.node_id)}, not the node that you named"
            )

    def _author(self) -> str:
        card, chain = self._author_card(), self._chain(zips.AUTHOR)
        self._check_named(chain, self._expected.author)
        said = "" if self._expected.author else " (as the bundle says; compare it)"
        return f"{_name(card)}, node id {self._show(chain.node_id)}{said}"

    def _envelope(self) -> str:
        held = self._held()
        card = self._need(self._author_card, "the author")
        envelope.verify(held, network=self._network(), message_key=card.message)
        header = held.header
        return (
            f"{held.id.hex()}, signed by the author as message {header.seq} of its stream "
            f"{header.stream.hex()}, by its clock at {when(header.created)}"
        )

    def _audience(self) -> str:
        held, audience = self._need(self._held, "the envelope"), self._parsed_audience()
        if suite.digest("audience", audience.encode()) != held.header.audience_digest:
            raise DigestError("the list of recipients is not the one that the author signed")
        holder = self._need(self._holder_chain, "the holder").node_id
        if holder != held.header.author and not audience.admits(holder):
            raise DigestError("the holder is neither author, recipient nor carrier")
        ids = audience.recipient_ids
        shown = ", ".join(map(self._show, ids[:_SHOWN]))
        more = f" and {len(ids) - _SHOWN} more" if len(ids) > _SHOWN else ""
        return f"{_counted(len(ids), 'recipient')}: {shown}{more}"

    # --- the log -----------------------------------------------------------------------------
    def _entry(self) -> str:
        entry, held = self._parsed_entry(), self._need(self._held, "the envelope")
        if entry.subject != held.id:
            raise DigestError("the log entry is about something else than this envelope")
        if entry.kind not in _PARTS:
            raise DigestError("the log entry does not record that an envelope came or went")
        own = self._need(self._holder_chain, "the holder").node_id == held.header.author
        if own is not (entry.kind is EntryKind.RELEASED):
            raise DigestError("the log entry records another part than the holder had in it")
        return _PARTS[entry.kind]

    def _opening(self) -> str:
        entry = self._need(self._parsed_entry, "the log entry")
        local, blind = self._file(zips.LOCAL), self._file(zips.LOCAL_BLIND)
        if len(blind) != BLIND_SIZE or local_digest(local, blind) != entry.local_digest:
            raise DigestError("it is not what the log entry commits to")
        value = decode(local, max_bytes=limits.MAX_HEADER)
        fields = array(value, "local", size=_LOCAL_FIELDS)
        header = self._need(self._held, "the envelope").header
        if fields[:4] != [header.author, header.incarnation, header.stream, header.seq]:
            raise DigestError("the log entry was made for another place of the author's stream")
        giver = octets(fields[4], "local.giver", size=suite.DIGEST_SIZE)
        arrived = when(uint(fields[5], "local.arrived"))
        return f"given by {self._show(giver)}, by the holder's clock at {arrived}"

    def _inclusion(self) -> str:
        proof, entry = self._proof(), self._file(zips.ENTRY)
        checkpoint = self._note()[1]
        _verify_inclusion(proof.index, entry, proof.hashes, checkpoint)
        return f"entry {proof.index} of {checkpoint.size} in the log {checkpoint.origin}"

    def _checkpoint(self) -> str:
        proof = self._need(self._proof, "the proof file")
        vkeys = self._need(self._vkeys, "vkeys.txt")
        _, body = self._note()
        keys = {key.type: key.public_key for key in vkeys.log}
        if len(vkeys.log) != len(keys) or set(keys) != {ED25519, COSIGNATURE_MLDSA44}:
            raise SignatureError("vkeys.txt does not have the two keys of the log")
        verify_checkpoint(
            proof.checkpoint, origin=body.origin, ed25519=keys[ED25519],
            mldsa44=keys[COSIGNATURE_MLDSA44],
        )  # fmt: skip
        return f"the log signed {body.size} entries and their root with both of its keys"

    def _log_keys(self) -> str:
        log, vkeys = self._log(), self._vkeys()
        signed = {(log.name, log.ed25519), (log.name, log.mldsa44)}
        named = {(key.name, key.public_key) for key in vkeys.log}
        if named != signed:
            raise UntrustedKeyError("vkeys.txt has other keys of the log than the holder's card")
        if not self._policy_logs() <= signed:
            raise UntrustedKeyError("policy.txt names another log than the holder's card")
        return f"those of {log.name} on the holder's card"

    def _policy_logs(self) -> set[tuple[str, bytes]]:
        try:
            return {(each.key.name, each.key.public_key) for each in self._bundled_policy().logs}
        except (PicketError, _OpenError):
            return set()  # the quorum is where that is told

    def _witnesses(self) -> tuple[VerifierKey, ...]:
        """Return whose cosignatures are looked at; of a reader who has a policy, no others."""
        if self._expected.policy is not None:
            return tuple(line.key for line in self._expected.policy.witnesses.values())
        return self._need(self._vkeys, "vkeys.txt").witnesses

    def _cosignatures(self) -> str:
        note, _ = self._note()
        found = verify_cosignatures(note, self._witnesses())
        if not found:
            yours = " that your policy names" if self._expected.policy else ""
            raise _OpenError(f"none{yours}: nobody but the holder says when this was so")
        shown = sorted({f"{each.name} at {when(each.time_s * 1000)}" for each in found})
        more = f" and {len(shown) - _SHOWN} more" if len(shown) > _SHOWN else ""
        return ", ".join(shown[:_SHOWN]) + more

    def _bundled_policy(self) -> Policy:
        data = self._file(zips.POLICY)
        return self._parsed("policy", lambda: parse_policy(data))

    def _chosen(self) -> tuple[Policy, str]:
        """Return the policy that counts, and in words whose it is."""
        if self._expected.policy is not None:
            return self._expected.policy, "by your policy"
        said = "by the policy in the bundle, which is the holder's own choice"
        return self._bundled_policy(), said

    def _not_after(self) -> int | None:
        """Return the time (s) by which the quorum was met, if it was."""
        with suppress(PicketError, _OpenError):
            return check_policy(self._proof().checkpoint, self._chosen()[0]).not_after
        return None

    def _quorum(self) -> str:
        proof = self._need(self._proof, "the proof file")
        chosen, said = self._chosen()
        self._bundled_policy()
        cosigned = check_policy(proof.checkpoint, chosen)
        if cosigned.not_after is None:
            raise _OpenError(
                f"no witness is asked for {said}: nobody but the holder says that it was in the "
                "log, or when"
            )
        at = when(cosigned.not_after * 1000)
        names = ", ".join(chosen.cosigners(cosigned.labels))
        return f"in the log at {at} at the latest, cosigned by {names}; {said}"

    def _anchor(self) -> str:
        anchor = self._need(self._held, "the envelope").header.anchor
        if anchor is None:
            raise _OpenError("the author named no checkpoint, so there is no earliest time")
        where = f"{anchor.origin}, {anchor.size} entries, root {anchor.root.hex()}"
        data = self._file(zips.ANCHOR, f"made after {where}; that checkpoint is not included")
        note = parse_note(data)
        if parse_body(note.text) != Checkpoint(anchor.origin, anchor.size, anchor.root):
            raise DigestError("anchor.txt is not the checkpoint that the author named")
        logs = [_vkey(card.log) for card in self._known_cards() if card.log.name == anchor.origin]
        signed = verify_cosignatures(note, logs)
        at = self._anchor_time(note, signed=bool(signed))
        if at is None:
            return (
                f"made after {where}. When that was new nobody says whose word counts: too few "
                "witnesses of the policy cosigned it"
            )
        latest = self._not_after()
        if latest is not None and at > latest + _CLOCKS_S:
            raise ProofError(
                f"anchor.txt was new at {when(at * 1000)}, but what was made after it was in the "
                f"log at {when(latest * 1000)} at the latest"
            )
        shown = when((at if latest is None else min(at, latest)) * 1000)
        return f"made after {where}, which was new at {shown}: hardly earlier than that"

    def _anchor_time(self, note: Note, *, signed: bool) -> int | None:
        """Return when (s) the anchor was new, if a quorum says so.

        Its own log says nothing of that: it may date its signature as it likes.
        """
        policy, _ = self._need(self._chosen, "policy.txt")
        lines = {(line.key.name, line.key.key_id): line for line in policy.witnesses.values()}
        found = verify_cosignatures(note, [line.key for line in lines.values()])
        if not signed and not found:
            raise SignatureError("no key that is known here signed anchor.txt")
        times = {lines[each.name, each.key_id].name: each.time_s for each in found if each.time_s}
        return None if quorum_time(policy, times) is None else min(times.values())

    def _known_cards(self) -> Iterator[Card]:
        """Yield the cards of author, holder and who gave receipts, as far as they verify."""
        for name in zips.AUTHOR, zips.HOLDER:
            with suppress(PicketError, _OpenError):
                yield from _cards(self._chain(name))
        with suppress(PicketError, _OpenError):
            audience = self._parsed_audience()
            for _, bundle in self._receipt_pairs():
                chain = verify_bundle(bundle, network=self._network())
                if audience.admits(chain.node_id):
                    yield from _cards(chain)

    # --- content -----------------------------------------------------------------------------
    def _body(self) -> bytes:
        key = self._file(zips.CONTENT_KEY, "the content is not disclosed")
        if len(key) != suite.KEY_SIZE:
            raise OpenError("content-key.bin does not hold a key")
        verified = VerifiedEnvelope(self._need(self._held, "the envelope"))
        return self._parsed("body", lambda: envelope.open_body(verified, key))

    def _content(self) -> str:
        if zips.CONTENT in self._files and zips.CONTENT_KEY not in self._files:
            raise DigestError("content.json stands there without the key that proves it")
        body = self._body()
        if zips.CONTENT not in self._files:
            raise DigestError("content-key.bin opens the envelope, but content.json is missing")
        if format_content(body) != self._files[zips.CONTENT]:
            raise DigestError("content.json is not what the envelope holds")
        return "content.json is what the envelope holds"

    def _access(self) -> str:
        data = self._file(zips.ACCESS)
        access = self._parsed("access", lambda: parse_access(data))
        self._join(access)
        checkpoint = parse_body(parse_note(access.checkpoint).text)
        held = self._need(self._held, "the envelope")
        for logged in access.acts:
            entry, act = parse_entry(logged.entry), logged.act
            opened = local_digest(logged.local, logged.local_blind) == entry.local_digest
            if entry.kind is not EntryKind.ACCESS or not opened or entry.subject != act.subject:
                raise DigestError(f"entry {logged.index} of the log does not record that act")
            if held.id not in act.ids:
                raise DigestError(f"entry {logged.index} of the log is about something else")
            _verify_inclusion(logged.index, logged.entry, logged.proof, checkpoint)
        indexes = [act.index for act in access.acts]
        if indexes != sorted(set(indexes)):
            raise DecodeError("the acts are not in the order of the log, or one is there twice")
        self._check_export(access)
        left = f", {access.left_out} older ones are left out" if access.left_out else ""
        first = self._note()[1].origin
        renamed = "" if checkpoint.origin == first else f"; it goes on as {checkpoint.origin}"
        return f"{_counted(len(indexes), 'act')}, this export among them{left}{renamed}"

    def _signed(self, checkpoint: bytes) -> Checkpoint:
        """Verify a checkpoint of a log of the holder, whichever of its logs it names."""
        log = self._log(parse_body(parse_note(checkpoint).text).origin)
        return verify_checkpoint(
            checkpoint, origin=log.name, ed25519=log.ed25519, mldsa44=log.mldsa44
        )

    def _join(self, access: Access) -> None:
        """Verify that the checkpoint of the acts continues the one of the message.

        It may name a later log of the holder: that one continues the tree of the log before.
        """
        first, second = self._note()[1], self._signed(access.checkpoint)
        merkle.verify_consistency(
            old_size=first.size, old_root=first.root, new_size=second.size, new_root=second.root,
            proof=access.consistency,
        )  # fmt: skip

    def _check_export(self, access: Access) -> None:
        wanted = self._need(self._manifest, "the manifest").act
        act = next((logged.act for logged in access.acts if logged.index == wanted), None)
        if act is None or act.what != EXPORT_EVIDENCE:
            raise ProofError("this export is not among the acts in the log")
        if has_content(act.note) is not (zips.CONTENT_KEY in self._files):
            raise DigestError("the export that was logged did not include the same content")

    # --- receipts ----------------------------------------------------------------------------
    def _receipt_pairs(self) -> tuple[tuple[bytes, bytes], ...]:
        data = self._file(zips.RECEIPTS, "none are included")
        return self._parsed("receipts", lambda: parse_receipts(data))

    def _receipts(self) -> str:
        pairs = self._receipt_pairs()
        held, audience = (
            self._need(self._held, "the envelope"),
            self._need(self._parsed_audience, "the list of recipients"),
        )
        said = []
        for frame, bundle in pairs:
            chain = verify_bundle(bundle, network=self._network())
            found = _verify_receipt(frame, chain)
            if found.envelope_id != held.id or found.recipient != chain.node_id:
                raise DigestError("a receipt is for another envelope, or of another node")
            if not audience.admits(found.recipient):
                raise DigestError("a receipt is of a node to which nothing was addressed")
            parts = {EntryKind.CARRIED: " (to carry)", EntryKind.ERASED: " (erased there)"}
            carried = parts.get(found.kind, "")
            said.append(f"{self._show(found.recipient)}{carried}, its entry {found.index}")
        if len(set(said)) != len(said):
            raise DecodeError("a receipt is there twice")
        more = f" and {len(said) - _SHOWN} more" if len(said) > _SHOWN else ""
        return f"{_counted(len(said), 'receipt')}: {'; '.join(said[:_SHOWN])}{more}"

    # --- time stamps -------------------------------------------------------------------------
    def _read_stamp(self) -> Stamp:
        data = self._file(zips.STAMP, "none is included")
        if self._expected.read_stamp is None:
            raise DecodeError("the time stamp cannot be read here")
        read = self._expected.read_stamp
        return self._parsed("stamp", lambda: read(data))

    def _stamp(self) -> str:
        if zips.STAMPED in self._files and zips.STAMP not in self._files:
            raise DecodeError("stamped.tlog-proof stands there without a time stamp")
        stamp = self._read_stamp()
        for name, data in list(self._stamped()):
            if hashlib.sha256(data).digest() == stamp.imprint:
                return f"over {name}, at {when(stamp.at)} by {stamp.authority}"
        raise DigestError("the time stamp is over something that is not in the bundle")

    def _stamped(self) -> Iterator[tuple[str, bytes]]:
        """Yield what the time stamp may cover; an earlier proof must prove the same entry."""
        with suppress(PicketError, _OpenError):
            yield zips.PROOF, self._file(zips.PROOF)
            yield "its checkpoint", self._proof().checkpoint
        if zips.STAMPED in self._files:
            earlier = parse_tlog_proof(self._files[zips.STAMPED])
            checkpoint = self._signed(earlier.checkpoint)
            _verify_inclusion(earlier.index, self._file(zips.ENTRY), earlier.hashes, checkpoint)
            yield zips.STAMPED, self._files[zips.STAMPED]
            yield "its checkpoint", earlier.checkpoint

    def _stamp_authority(self) -> str:
        self._file(zips.STAMP, "no time stamp is included")
        stamp = self._need(self._read_stamp, "the time stamp")
        if stamp.trusted is None:
            raise _OpenError("not checked: give the authority's certificate with --tsa-ca")
        if not stamp.trusted:
            raise SignatureError(f"its signature does not verify: {stamp.fault}")
        return f"{stamp.authority} signed it, under the certificate that you gave"


def _verify_inclusion(
    index: int, entry: bytes, proof: Sequence[bytes], checkpoint: Checkpoint
) -> None:
    merkle.verify_inclusion(
        index=index, size=checkpoint.size, leaf=merkle.leaf_hash(entry), proof=proof,
        root=checkpoint.root,
    )  # fmt: skip


def _verify_receipt(frame: bytes, chain: Chain) -> VerifiedReceipt:
    """Verify one receipt under any log key that its giver has had on a card that is here."""
    receipts = decode_frame(frame)
    if not isinstance(receipts, Receipts) or len(receipts.items) != 1:
        raise DecodeError("a receipt does not stand by itself")
    failed: PeerError | None = None
    for log in dict.fromkeys(card.log for card in _cards(chain)):
        try:
            return verify_receipts(receipts, log=log)[0]
        except PeerError as error:
            failed = failed or error
    assert failed is not None  # noqa: S101  verify_bundle demands a card
    raise failed


def _cards(chain: Chain) -> Iterator[Card]:
    """Yield the cards of *chain* that are there whole, the newest first."""
    for statement in reversed(chain.statements):
        if isinstance(statement.body, Card):
            yield statement.body


def _vkey(log: NamedKeys) -> VerifierKey:
    return VerifierKey(
        log.name, key_id(log.name, COSIGNATURE_MLDSA44, log.mldsa44), COSIGNATURE_MLDSA44,
        log.mldsa44,
    )  # fmt: skip


def _name(card: Card | None) -> str:
    return "" if card is None else f"{card.authority} ({card.country})"


def _counted(number: int, one: str) -> str:
    return f"{number} {one}" if number == 1 else f"{number} {one}s"
