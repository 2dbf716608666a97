"""Evidence about one envelope, for people who do not trust this node: proof files and bundles.

- An export is a log entry before anything of it leaves, and the bundle proves that entry too.
- The message is proven under the first head over it that witnesses cosigned, because that gives the
  earliest time by which it was in the log; the newest head continues that one, and has the acts.
  If a new log was begun since, the first has the old name, and the newest the present one.
- What is put together is verified once more before it is handed out: nothing damaged gets signed.
- A locked node proves and exports as well, but discloses no content.
"""

from __future__ import annotations

import hashlib
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any, Final

from keys.fingerprint import format_node_id
from node.approvals import Permit
from node.clock import Clock
from node.core import Core
from node.evidence_report import Facts, format_report
from node.outgoing import Outgoing
from node.stamps import read_stamp
from node.verify_heads import HeadChecker
from node.words import counted
from protocol import evidence_zip as zips
from protocol import limits, merkle
from protocol.access import EXPORT_EVIDENCE, PROOF
from protocol.approval import Kind
from protocol.checkpoint import Checkpoint, parse_body
from protocol.cosignatures import check_policy
from protocol.envelope import Anchor, Envelope, VerifiedEnvelope, content_key, open_body
from protocol.errors import (
    ConflictError,
    LogCorruptionError,
    NotFoundError,
    PeerError,
    PicketError,
    RequestError,
)
from protocol.evidence import Check, Expected, holds, verify_evidence
from protocol.evidence_files import (
    Access,
    Logged,
    Vkeys,
    chain_bundle,
    encode_receipts,
    export_note,
    format_access,
    format_content,
    format_manifest,
    format_vkeys,
    sign_manifest,
)
from protocol.frames import Receipts, encode_frame
from protocol.handling_text import Reader
from protocol.note import COSIGNATURE_MLDSA44, ED25519, VerifierKey, key_id, parse_note
from protocol.policy import Policy, format_policy, make_policy
from protocol.receipt import verify_receipts
from protocol.statement import Card, Chain, NamedKeys
from protocol.tlog_proof import TlogProof, format_tlog_proof, parse_tlog_proof

_HEX: Final = 64
Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Export:
    """One export as it was asked for: of what, by whom, why, and with what."""

    envelope_id: bytes
    who: str
    by: str = ""
    reason: str = ""
    content: bool = False
    stamp: bytes | None = None
    stamped: bytes | None = None
    permit: Permit | None = None
    """That enough operators have approved it; ``plan`` asks for it."""


class Evidence:
    """Proof files and bundles of one node."""

    def __init__(
        self,
        core: Core,
        *,
        clock: Clock,
        network: str,
        envelopes_of: Callable[[str], Sequence[bytes]],
        outgoing: Outgoing,
    ) -> None:
        """Serve *core*; *envelopes_of* finds the envelope ids of an incident."""
        self._outgoing = outgoing
        self._core, self._clock, self._network = core, clock, network
        self._envelopes_of = envelopes_of

    # --- which envelope ----------------------------------------------------------------------
    def of_incident(self, key: str, number: int | None) -> bytes:
        """Return the id of envelope *number* (from 0) of an incident.

        Raises:
            NotFoundError: there is no such incident or envelope.
            RequestError: it has several, and none was chosen.
            LockedError: the node is locked, so only envelope ids can be looked up.
        """
        ids = self._envelopes_of(key)
        if number is None and len(ids) > 1:
            raise RequestError(
                f"the incident has {len(ids)} envelopes",
                fix=f"choose one with --envelope, 0 to {len(ids) - 1}: picket incidents show "
                "lists them",
            )
        number = number or 0
        if not 0 <= number < len(ids):
            raise NotFoundError(
                f"the incident has {counted(len(ids), 'envelope')}", fix="count from 0"
            )
        return ids[number]

    def of_envelope(self, text: str) -> bytes:
        """Return the envelope id that *text* is.

        Raises:
            RequestError: it is none.
        """
        try:
            found = bytes.fromhex(text) if len(text) == _HEX else b""
        except ValueError:
            found = b""
        if found.hex() != text.lower() or not found:
            raise RequestError("an envelope id has 64 hexadecimal digits", fix="correct it")
        return found

    # --- proof files -------------------------------------------------------------------------
    def proof(self, envelope_id: bytes, *, who: str) -> Row:
        """Return the proof file of the entry of an envelope, and that entry.

        Raises:
            NotFoundError: the envelope is not held.
            BusyError: the disk is full, or nothing can be signed yet.
        """
        row = self._row(envelope_id)
        self._core.access.record_reading(PROOF, [envelope_id], who)
        self._core.seal()
        index = int(row["log_index"])
        size, note = best_checkpoint(self._core, index)
        return {
            "envelope_id": envelope_id.hex(), "index": index, "size": size,
            "confirmed": self._core.cosigning.cosigned(index) is not None,
            "entry": self._core.log.entry(index).hex(),
            "tlog_proof": self._tlog_proof(index, size, note).decode(),
        }  # fmt: skip

    def _row(self, envelope_id: bytes) -> Mapping[str, Any]:
        row = self._core.store.envelope(envelope_id)
        if row is None:
            raise NotFoundError(
                "no such envelope is held", fix="give its 64 hexadecimal digits, or the incident"
            )
        return row

    def _tlog_proof(self, index: int, size: int, note: bytes) -> bytes:
        hashes = self._core.log.prove(index, size)
        return format_tlog_proof(TlogProof(None, index, hashes, note))

    # --- exporting ---------------------------------------------------------------------------
    def plan(self, export: Export) -> Export:
        """Check that *export* can be made, before it is logged; return it with tidy texts.

        Raises:
            RequestError: a text or time stamp is not as it must be.
            NotFoundError: the envelope, or its bytes, are not held.
            ConflictError: the card that signed it is not held whole, or content is wanted and the
                handling does not allow it.
            LockedError: content is wanted, and the node is locked.
            PeerError: content is wanted, and it is not for this node.
            ApprovalNeededError: other operators have to approve it.
        """
        self._row(export.envelope_id)
        held = self._held(export.envelope_id)
        self._signing_card(held)
        if export.content:
            open_body(VerifiedEnvelope(held), self._content_key(held))
            self._outgoing.check_envelope(export.envelope_id, Reader.COURT)
        if export.stamped is not None and export.stamp is None:
            raise RequestError("there is a proof but no time stamp", fix="give both, or neither")
        if export.stamp is not None:
            if len(export.stamp) > limits.MAX_TIMESTAMP:
                raise RequestError(f"the time stamp is longer than {limits.MAX_TIMESTAMP} bytes")
            read_stamp(export.stamp)
            export = replace(export, stamped=self._stamped(export))
        export = replace(
            export,
            by=_line(export.by, "by", limits.MAX_NAME),
            reason=_line(export.reason, "reason", limits.MAX_REASON),
        )
        return replace(export, permit=self._permit(export))

    def _permit(self, export: Export) -> Permit:
        cases = self._core.cases  # of a locked node nobody can say which incident it is
        ids = [export.envelope_id]
        return self._core.approvals.require(
            Kind.EXPORT_EVIDENCE,
            (export.envelope_id, int(export.content), export.by, export.reason),
            who=export.who,
            about="" if cases is None else cases.refs_of(ids).get(export.envelope_id, ""),
        )

    def log(self, export: Export) -> int:
        """Log the planned *export* and return the index of that entry.

        Raises:
            BusyError: the disk is full; nothing may be handed out.
        """
        note = export_note(content=export.content, by=export.by, reason=export.reason)
        permit = export.permit or self._permit(export)
        with self._core.logged():
            permit.use()
            return self._core.access.record(EXPORT_EVIDENCE, [export.envelope_id], export.who, note)

    def bundle(self, export: Export, index: int) -> bytes:
        """Return the bundle of the *export* that is logged as entry *index*.

        Raises:
            BusyError: nothing can be signed yet.
            RequestError: the time stamp does not fit.
            ConflictError: what is held does not verify.
        """
        self._core.seal()
        files = self._files(export)
        made = self._clock.now()
        envelope_id = export.envelope_id

        def manifest() -> None:
            data = format_manifest(
                files, network=self._network, envelope_id=envelope_id, holder=self._core.node_id,
                made=made, act=index,
            )  # fmt: skip
            files[zips.MANIFEST] = data
            files[zips.SIGNATURE] = sign_manifest(data, signer=self._core.keys.link)

        _leave_out_unprovable(files)
        files[zips.REPORT] = b""  # it tells how the others were found
        manifest()
        checks = self._verified(files, envelope_id)
        files[zips.REPORT] = format_report(self._facts(export, checks, made=made, index=index))
        manifest()
        self._verified(files, envelope_id)
        return zips.write_zip(files)

    def _verified(self, files: Mapping[str, bytes], envelope_id: bytes) -> tuple[Check, ...]:
        expected = Expected(
            holder=self._core.node_id,
            author=self._held(envelope_id).header.author,
            network=self._network,
            read_stamp=read_stamp,
            show=format_node_id,
        )
        checks = verify_evidence(files, expected=expected)
        if holds(checks):
            return checks
        failed = next(check for check in checks if check.ok is False)
        if failed.name == "time stamp":
            raise RequestError(failed.detail, fix="give the time stamp of a proof of this envelope")
        raise ConflictError(
            f"the evidence does not verify ({failed.name}): {failed.detail}",
            fix="run: picket log verify",
        )

    def _files(self, export: Export) -> dict[str, bytes]:
        core, held = self._core, self._held(export.envelope_id)
        index = int(self._row(held.id)["log_index"])
        logged = core.store.row("SELECT * FROM entries WHERE idx = ?", index)
        if logged is None:
            raise LogCorruptionError(f"entry {index} of the log is missing")
        size, note = best_checkpoint(core, index)
        # Else what somebody took from it would make the policy in the bundle a weaker one.
        HeadChecker(core, core.log.stored_roots()).verify(size)
        policy = policy_for(core, note)
        return {
            zips.ENVELOPE: held.wire,
            zips.AUTHOR: chain_bundle(
                self._chain(held.header.author), keep=frozenset(), last=held.header.card_n
            ),
            zips.HOLDER: _holder_bundle(core.trust.own, self._logs_named(export, held, note)),
            zips.ENTRY: logged["entry"],
            zips.LOCAL: logged["local"],
            zips.LOCAL_BLIND: logged["local_blind"],
            zips.PROOF: self._tlog_proof(index, size, note),
            zips.POLICY: format_policy(policy).encode(),
            zips.VKEYS: format_vkeys(_vkeys(core.trust.own, note, policy)),
            zips.ACCESS: self._access(held.id, size),
            **self._optional(export, held),
        }

    def _optional(self, export: Export, held: Envelope) -> dict[str, bytes]:
        found: dict[str, bytes | None] = {
            zips.AUDIENCE: self._audience(held),
            zips.RECEIPTS: self._receipts(held),
            zips.STAMP: export.stamp,
            zips.STAMPED: export.stamped,
        }
        if held.header.anchor is not None:
            found[zips.ANCHOR] = anchor_note(self._core, held.header.anchor)
        if export.content:
            key = self._content_key(held)
            found[zips.CONTENT_KEY] = key
            found[zips.CONTENT] = format_content(open_body(VerifiedEnvelope(held), key))
        return {name: data for name, data in found.items() if data is not None}

    def _logs_named(self, export: Export, held: Envelope, note: bytes) -> frozenset[str]:
        """Return the logs whose keys the bundle needs: not all stand on the newest card."""
        stamped = export.stamped
        notes = [note, *([] if stamped is None else [parse_tlog_proof(stamped).checkpoint])]
        anchor = held.header.anchor
        return frozenset(
            [_body(each).origin for each in notes] + ([] if anchor is None else [anchor.origin])
        )

    # --- what goes in ------------------------------------------------------------------------
    def _held(self, envelope_id: bytes) -> Envelope:
        held = self._core.held(envelope_id)
        if held is None and self._core.erasures.knows(envelope_id):
            raise NotFoundError(
                "the message was erased here",
                fix=f"its proof can still be had: picket log prove {envelope_id.hex()}",
            )
        if held is None:
            raise NotFoundError(
                "the bytes of that envelope are not held any more",
                fix="it was only carried here; ask its author or a recipient",
            )
        return held

    def _chain(self, node_id: bytes) -> Chain:
        if node_id == self._core.node_id:
            return self._core.trust.own
        return self._core.trust.peer(node_id).chain

    def _signing_card(self, held: Envelope) -> Card:
        card = self._chain(held.header.author).card_at(held.header.card_n)
        if card is None:
            raise ConflictError(
                "the author's card that signed is not held whole", fix="ask its author for evidence"
            )
        return card

    def _content_key(self, held: Envelope) -> bytes:
        self._core.keys_open()
        epoch = self._core.epoch(held.header.opener or held.id)
        return content_key(VerifiedEnvelope(held), epoch)

    def _audience(self, held: Envelope) -> bytes | None:
        if held.audience is not None:
            return None
        opener = self._core.opener(held.header.opener or held.id)
        if opener is None:
            raise LogCorruptionError("the envelope that opened the epoch is missing")
        return opener[1].encode()

    def _receipts(self, held: Envelope) -> bytes | None:
        """Return the receipts for an envelope of our own, each with the card that it needs."""
        if held.header.author != self._core.node_id:
            return None
        anchor = held.header.anchor
        also = frozenset[str]() if anchor is None else frozenset({anchor.origin})
        pairs = [
            (
                encode_frame(receipts),
                _giver_bundle(self._chain(receipts.recipient), receipts, also=also),
            )
            for receipts in self._core.receipts.held(held.id)
        ]
        return encode_receipts(pairs) if pairs else None

    def _access(self, envelope_id: bytes, first: int) -> bytes:
        """Return the acts about an envelope, the newest if there are too many of them."""
        log = self._core.log
        size, note = log.checkpoint()
        found = [
            each for each in self._core.access.about([envelope_id]) if each.index < size
        ]  # fmt: skip
        chosen = found[-limits.MAX_EVIDENCE_ACTS :]
        consistency = log.prove_consistency(first, size)
        while True:
            acts = tuple(self._logged(each.index, size) for each in chosen)
            data = format_access(Access(note, consistency, len(found) - len(chosen), acts))
            if len(data) <= limits.MAX_EVIDENCE_ACCESS:
                return data
            chosen = chosen[len(chosen) // 2 :]

    def _logged(self, index: int, size: int) -> Logged:
        row = self._core.store.row("SELECT * FROM entries WHERE idx = ?", index)
        if row is None:
            raise LogCorruptionError(f"entry {index} of the log is missing")
        return Logged(
            index, row["entry"], row["local"], row["local_blind"],
            self._core.log.prove(index, size),
        )  # fmt: skip

    def _stamped(self, export: Export) -> bytes:
        """Return the earlier proof that the time stamp is over, given or found again.

        Raises:
            RequestError: it is not one of this envelope, or cannot be found.
        """
        index = int(self._row(export.envelope_id)["log_index"])
        if export.stamped is not None:
            return self._own_proof(export.stamped, index)
        heads = self._core.store.rows(
            "SELECT size, note FROM checkpoints WHERE size > ? ORDER BY size DESC", index
        )
        candidates = [(row["size"], row["note"]) for row in heads]
        with suppress(PeerError):
            candidates.append(best_checkpoint(self._core, index))
        candidates.append(self._core.log.checkpoint())
        for size, note in candidates:
            if size <= index:
                continue
            proof = self._tlog_proof(index, size, note)
            # Its digest stands in it as it is; whether at the right place is verified later.
            if any(
                hashlib.sha256(each).digest() in (export.stamp or b"") for each in (note, proof)
            ):
                return proof
        raise RequestError(
            "the time stamp is over none of the proofs that are kept",
            fix="give the proof file that was stamped as well",
        )

    def _own_proof(self, data: bytes, index: int) -> bytes:
        try:
            proof = parse_tlog_proof(data)
            checkpoint = parse_body(parse_note(proof.checkpoint).text)
            merkle.verify_inclusion(
                index=proof.index, size=checkpoint.size, proof=proof.hashes, root=checkpoint.root,
                leaf=merkle.leaf_hash(self._core.log.entry(index)),
            )  # fmt: skip
        except PeerError as error:
            raise RequestError(
                f"the proof file is not one of this envelope: {error.message}",
                fix="make one with: picket log prove",
            ) from None
        return data

    def _marks(self, export: Export) -> tuple[str, ...]:
        if not export.content:
            return ()  # without content nothing of the incident is in it
        return self._outgoing.marks(
            export.envelope_id, by=self._outgoing.person(export.by, export.who)
        )

    def _facts(self, export: Export, checks: tuple[Check, ...], *, made: int, index: int) -> Facts:
        held = self._held(export.envelope_id)
        return Facts(
            network=self._network,
            envelope_id=held.id,
            author=(self._signing_card(held), held.header.author),
            holder=(self._core.card, self._core.node_id),
            created=held.header.created,
            arrived=int(self._row(held.id)["arrived"]),
            made=made,
            act=index,
            who=export.who,
            by=export.by,
            reason=export.reason,
            content=export.content,
            handling=self._marks(export),
            checks=checks,
        )


# --- what the log offers ---------------------------------------------------------------------
def best_checkpoint(core: Core, index: int) -> tuple[int, bytes]:
    """Return size and note of the head to prove entry *index* under.

    That is the first over it that witnesses cosigned, which gives the earliest time; else the
    newest.
    """
    return core.cosigning.cosigned(index) or core.log.checkpoint()


def policy_for(core: Core, note: bytes) -> Policy:
    """Return the policy of this node for one log, if *note* meets it; else one without witnesses.

    Who had to cosign may have changed since; then all that cosigned and are still known do.
    """
    log = _log_of(core.trust.own, note)
    configured = core.cosigning.policy
    own = tuple(line for line in configured.logs if line.key.name == log.name)
    # It names the log as it is called now; of an old name the keys are on an old card.
    own = own or make_policy(log, [], 0).logs
    with suppress(PicketError):
        chosen = replace(configured, logs=own)
        check_policy(note, chosen)
        return chosen
    cosigned = []
    for peer in core.trust.peers.values():
        policy = make_policy(log, [(peer.name, peer.card.witness)], 1)
        with suppress(PicketError):
            check_policy(note, policy)
            cosigned.append((peer.name, peer.card.witness))
    return make_policy(log, cosigned, len(cosigned))


def anchor_note(core: Core, anchor: Anchor) -> bytes | None:
    """Return the signed head that *anchor* names, if it is held."""
    wanted = Checkpoint(anchor.origin, anchor.size, anchor.root)
    owner, notes = core.log_owner(anchor.origin), []
    if owner == core.node_id:
        cosigned = core.cosigning.cosigned(anchor.size - 1)
        notes += [] if cosigned is None else [cosigned[1]]
    notes += [
        row["note"]
        for row in core.store.rows(
            "SELECT note FROM anchors WHERE origin = ?1 AND size = ?2 UNION ALL "
            "SELECT note FROM witnessed WHERE origin = ?1 AND size = ?2",
            anchor.origin, anchor.size,
        )
    ]  # fmt: skip
    if owner == core.node_id:
        row = core.store.row("SELECT note FROM checkpoints WHERE size = ?", anchor.size)
        notes += [] if row is None else [row["note"]]
    elif owner is not None:
        notes.append(core.witness.note_of(owner, anchor.size))
    return next((note for note in notes if note and _body(note) == wanted), None)


def _leave_out_unprovable(files: dict[str, bytes]) -> None:
    """Leave out the checkpoint that the author named, if nobody here is known to have signed it.

    It may be of a log whose owner has no card in the bundle.
    """
    if zips.ANCHOR in files:
        checks = {check.name: check.ok for check in verify_evidence(files)}
        if checks["anchor"] is False:
            del files[zips.ANCHOR]


def _body(note: bytes) -> Checkpoint:
    return parse_body(parse_note(note).text)


def _log_of(own: Chain, note: bytes) -> NamedKeys:
    """Return the log keys of the card that names the log of *note*."""
    return _log_card(own, note)[1].log


def _log_card(own: Chain, note: bytes) -> tuple[int, Card]:
    origin = _body(note).origin
    for statement in reversed(own.statements):
        if isinstance(statement.body, Card) and statement.body.log.name == origin:
            return statement.n, statement.body
    raise LogCorruptionError(f"no card of this node names the log {origin}")


def _holder_bundle(own: Chain, logs: frozenset[str]) -> bytes:
    return chain_bundle(own, keep=_cards_of(own, logs))


def _cards_of(chain: Chain, logs: frozenset[str]) -> frozenset[int]:
    """Return the number of the newest card of *chain* for each of *logs* that has one."""
    return frozenset(
        {
            statement.body.log.name: statement.n
            for statement in chain.statements
            if isinstance(statement.body, Card) and statement.body.log.name in logs
        }.values()
    )


def _giver_bundle(chain: Chain, receipts: Receipts, *, also: frozenset[str]) -> bytes:
    """Return the card bundle of *chain* in which the card stays whole that the receipt needs.

    So do those that name the logs *also*.
    """
    for statement in reversed(chain.statements):
        if isinstance(statement.body, Card):
            with suppress(PeerError):
                verify_receipts(receipts, log=statement.body.log)
                return chain_bundle(chain, keep=_cards_of(chain, also) | {statement.n})
    raise LogCorruptionError("a stored receipt does not verify")


def _vkeys(own: Chain, note: bytes, policy: Policy) -> Vkeys:
    log = _log_of(own, note)
    keys = ((ED25519, log.ed25519), (COSIGNATURE_MLDSA44, log.mldsa44))
    return Vkeys(
        tuple(VerifierKey(log.name, key_id(log.name, kind, key), kind, key) for kind, key in keys),
        tuple(line.key for line in policy.witnesses.values()),
    )


def _line(text: str, field: str, maximum: int) -> str:
    """Return *text* as one tidy line of at most *maximum* characters.

    Raises:
        RequestError: it is longer, or has something in it that cannot be printed.
    """
    tidy = unicodedata.normalize("NFC", " ".join(text.split()))
    if len(tidy) > maximum or not tidy.isprintable():
        raise RequestError(
            f"{field} is not one line of at most {maximum} printable characters", fix="shorten it"
        )
    return tidy
