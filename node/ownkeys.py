"""The keys of this node over their life: renewed, rotated, recovered, revoked.

- What changes both files and node.db goes through ``node.keyfiles``: a crash in between loses
  neither.
- A new recovery sheet is on the disk before the statement that makes the old code worthless, and
  takes its name only after that: a sheet that can be seen has the code in force.
- Sealing keys are made monthly while the node is unlocked. An old one is destroyed 90 days after
  the last peer can have sealed to it: nothing that it opens lives longer.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any, Final

from keys.identity import (
    ServiceKeys,
    Vault,
    identity_secrets,
    load_service,
    load_vault,
    new_service,
    new_vault,
    recovery_signer,
    rotation_of,
)
from keys.keystore import (
    DEFAULT,
    Argon2Params,
    load,
    load_sealing,
    save,
    save_message,
    save_sealing,
    write_private,
)
from node import keyfiles
from node.access import OPERATOR
from node.certificates import make_certificate, to_pem
from node.core import Core, next_log_name, opened_digest
from node.home import Home
from node.key_lives import DAY_MS, SEALING_LIFE_MS
from node.log import Act, Log
from node.own_dates import TOLERATED_MS, issue_time
from node.store import Store
from protocol import limits, suite
from protocol.approval import Kind
from protocol.canonical import encode
from protocol.entry import EntryKind
from protocol.errors import ConflictError, LockedError, RequestError
from protocol.statement import (
    Card,
    Chain,
    SealKey,
    Statement,
    identity_digest,
    make_card,
    make_recover,
    make_revocation,
    make_rotate,
    parse_statement,
)

CARD_LIFETIME_MS: Final = 365 * DAY_MS
_FIRST: Final = "seal/1"
_PREFIX: Final = "seal/"


# --- codes -----------------------------------------------------------------------------------
def _check_code(chain: Chain, code: bytes) -> None:
    if identity_digest(recovery_signer(code).public) not in chain.identity.next_digests:
        raise RequestError(
            "this is not the recovery code in force",
            fix="take the newest recovery sheet; the code on it that is called RECOVERY CODE",
        )


def _check_sheet(home: Home) -> None:
    if home.recovery_sheet.exists():
        raise ConflictError(
            "the last recovery sheet is still on this machine and would be overwritten",
            fix=f"print it, lock the paper away, then delete {home.recovery_sheet}",
        )


# --- rotation --------------------------------------------------------------------------------
def rotate_identity(
    core: Core,
    *,
    passphrase: bytes,
    code: bytes,
    sheet: str,
    following: bytes,
    params: Argon2Params = DEFAULT,
) -> None:
    """Put the next identity key in force, which the recovery *code* stands for.

    Args:
        core: the unlocked node.
        passphrase: of its keystore.
        code: on the newest recovery sheet.
        sheet: the text of the new sheet, which shows *following*.
        following: the next recovery code.
        params: cost of the keystore.

    Raises:
        RequestError: it is another code, or the old sheet is still here; nothing was changed.
        ApprovalNeededError: other operators have to approve it.
        WrongPassphraseError: it does not open the keystore.
    """
    vault, home, now = core.keys_open(), core.home, core.clock.now()
    core.statements.check_own()
    chain = core.trust.own
    _check_code(chain, code)
    _check_sheet(home)
    held = load(home.keystore, passphrase)
    permit = core.approvals.require(Kind.ROTATE_IDENTITY, chain.identity.next_digests, who=OPERATOR)
    issued = issue_time(chain, now)
    rotated = make_rotate(
        rotation_of(code, following=following), chain=chain, issued=issued,
        old={0: vault.identity}, new=[recovery_signer(code)],
    )  # fmt: skip
    signer = recovery_signer(code)
    body = replace(core.card, expires=max(core.card.expires, issued + CARD_LIFETIME_MS))
    card = make_card(body, chain=chain.extend(rotated), issued=issued, signer=signer)
    try:
        write_private(keyfiles.next_of(home.recovery_sheet), sheet.encode())
        after = {**held, **identity_secrets(code)}
        save(keyfiles.next_of(home.keystore), after, passphrase, params)

        def also() -> None:
            permit.use()
            keyfiles.note(home, core.store)

        core.statements.add_own(rotated, card, also=also)
    except BaseException:
        keyfiles.discard(home, core.store)  # if it was not published, the old code stands
        raise
    keyfiles.finish(home, core.store)
    core.vault = vault.with_identity(signer)


# --- cards -----------------------------------------------------------------------------------
def opened(core: Core) -> Vault:
    """Return the keys of an unlocked node, which is not in use for that: it may lock itself.

    Raises:
        LockedError: it is locked.
    """
    if core.vault is None:
        raise LockedError("the node is locked", fix="run: picket unlock")
    return core.vault


def renewed_card(card: Card, issued: int, **changes: Any) -> Card:  # noqa: ANN401  fields of a card
    """Return *card* with *changes* and a whole life from *issued*; its sealing keys go on."""
    until = issued + CARD_LIFETIME_MS
    seal = tuple(replace(key, not_after=until) for key in card.seal)
    return replace(card, **{"expires": until, "seal": seal, **changes})


# --- sealing keys ----------------------------------------------------------------------------
def sealing_due(core: Core) -> bool:
    """Whether it is time for a new sealing key, or the card names one that is not here."""
    vault, now = opened(core), core.clock.now()
    listed = core.card.seal
    newest = max(key.not_before for key in listed)
    here = {key.public for key in listed} <= set(vault.seal_publics)
    # Nobody seals to a key that begins in the future: it was made while the clock was wrong.
    ahead = newest > now + TOLERATED_MS
    over = ahead or now >= newest + SEALING_LIFE_MS
    return not here or core.card.message != vault.message.public or over


def rotate_sealing(core: Core) -> Statement:
    """Make a new sealing key and a card that lists it alone; return the card.

    Raises:
        KeystoreError: the disk is full; nothing was changed.
        BusyError, ConflictError: this node may sign no statement now.
    """
    vault, home, now = opened(core), core.home, core.clock.now()
    core.statements.check_own()
    seeds = load_sealing(home.sealing, vault.storage)
    listed = _listed(core.trust.own)
    # One that no card ever named is left of a crash: it is as good as a new one.
    spare = [n for n, seed in seeds.items() if suite.seal_public_bytes(seed) not in listed]
    if not spare:
        spare = [f"{_PREFIX}{now:016d}"]
        seeds = {**seeds, spare[0]: secrets.token_bytes(suite.SEED_SIZE)}
        save_sealing(home.sealing, seeds, vault.storage)
    public = suite.seal_public_bytes(seeds[spare[0]])
    core.vault = vault.with_sealing(seeds)
    issued = issue_time(core.trust.own, now)
    until = issued + CARD_LIFETIME_MS
    body = replace(
        core.card, seal=(SealKey(public, now, until),), message=vault.message.public, expires=until
    )
    card = make_card(body, chain=core.trust.own, issued=issued, signer=vault.identity)
    core.add_statement(card)
    return card


def _listed(chain: Chain) -> dict[bytes, int | None]:
    """Return each sealing key that a card ever listed, and since when none lists it any more."""
    since: dict[bytes, int | None] = {}
    for statement in chain.statements:
        if isinstance(statement.body, Card):
            now = {key.public for key in statement.body.seal}
            since |= {
                public: statement.issued
                for public, until in since.items()
                if until is None and public not in now
            }
            since |= dict.fromkeys(now)
    return since


def spent_sealing(core: Core) -> frozenset[bytes]:
    """Return the ids of the sealing keys that open nothing any more that can still come.

    A peer learns of a new card when it is linked; what it sealed until then lives for 90 days.
    """
    now, found = core.clock.now(), set()
    peers = [p.node_id for p in core.trust.peers.values() if core.trust.accepts_author(p.node_id)]
    for public, retired in _listed(core.trust.own).items():
        if retired is None or now < retired + limits.MAX_LIFETIME_MS:
            continue
        told = [told_at(core, node_id, retired) for node_id in peers]
        if all(at is not None and now >= at + limits.MAX_LIFETIME_MS for at in told):
            found.add(suite.ekid(public))
    return frozenset(found)


def told_at(core: Core, node_id: bytes, since: int) -> int | None:
    """Return when a peer was first linked after *since*, None if it was not."""
    opened = core.store.scalar(
        "SELECT MIN(opened_at) FROM presence WHERE peer = ? AND "
        "MAX(opened_at, COALESCE(closed_at, 0), COALESCE(seen_at, 0)) >= ?",
        node_id, since,
    )  # fmt: skip
    return None if opened is None else max(int(opened), since)


def destroy_sealing(core: Core) -> int:
    """Destroy spent sealing keys but the first, which lies in the keystore; return how many."""
    vault, home = opened(core), core.home
    spent = spent_sealing(core)
    seeds = load_sealing(home.sealing, vault.storage)
    kept = {n: s for n, s in seeds.items() if suite.ekid(suite.seal_public_bytes(s)) not in spent}
    if len(kept) < len(seeds):
        save_sealing(home.sealing, kept, vault.storage)
    core.vault = vault.without_sealing(spent)
    return len(seeds) - len(kept)


def destroy_first(core: Core, held: Mapping[str, bytes], passphrase: bytes) -> Mapping[str, bytes]:
    """Destroy the first sealing key if it is spent; only who opens the keystore can write it.

    Return what the keystore holds then.
    """
    first = held.get(_FIRST)
    if first is None or suite.ekid(suite.seal_public_bytes(first)) not in spent_sealing(core):
        return held
    # Another that nobody knows takes its place, so that every keystore has one.
    fresh = {**held, _FIRST: secrets.token_bytes(suite.SEED_SIZE)}
    save(core.home.keystore, fresh, passphrase)
    return fresh


# --- recovery --------------------------------------------------------------------------------
@dataclass(frozen=True, slots=True)
class Renewed:
    """All that is new after a recovery."""

    vault_secrets: dict[str, bytes]
    service_secrets: dict[str, bytes]
    vault: Vault
    keys: ServiceKeys
    pem: bytes
    statements: tuple[Statement, Statement]


def renew_all(
    chain: Chain, *, card: Card, code: bytes, following: bytes, now: int, storage: bytes | None
) -> Renewed:
    """Make new keys of every kind, and the statements that put them in force on top of *chain*.

    Args:
        chain: ends in the last statement that counts.
        card: whose names and addresses go on.
        code: the recovery code in force.
        following: the next one.
        now: UTC in ms.
        storage: the key of case.db if it is kept; it never leaves the machine.

    Raises:
        RequestError: it is another code.
    """
    _check_code(chain, code)
    held = {**new_vault(secrets.token_bytes), **identity_secrets(code)}
    if storage is not None:
        held["storage"] = storage
    service = new_service(secrets.token_bytes)
    vault, keys = load_vault(held), load_service(service)
    made = datetime.fromtimestamp(now // 1000, UTC)
    certificate = make_certificate(keys.tls_seed, name=card.authority, now=made)
    recovered = make_recover(
        rotation_of(code, following=following), chain=chain, issued=issue_time(chain, now),
        signers=[vault.identity],
    )  # fmt: skip
    until = recovered.issued + CARD_LIFETIME_MS
    body = replace(
        card, expires=until, message=vault.message.public,
        seal=tuple(SealKey(public, now, until) for public in vault.seal_publics),
        link=keys.link.public, log=keys.log_keys(next_log_name(card.log.name)),
        witness=keys.witness_keys(card.witness.name), tls=(certificate,),
    )  # fmt: skip
    chain = chain.extend(recovered)
    after = make_card(body, chain=chain, issued=recovered.issued, signer=vault.identity)
    chain.extend(after)  # as a peer does: what it would refuse is not kept either
    pem = to_pem(certificate, keys.tls_seed)
    return Renewed(held, service, vault, keys, pem, (recovered, after))


def recover(
    core: Core,
    *,
    code: bytes,
    following: bytes,
    sheet: str,
    passphrase: bytes,
    old: Mapping[str, bytes] | None,
    after: int | None = None,
    params: Argon2Params = DEFAULT,
) -> None:
    """Recover this node's identity in its own home: every key is new, and the log has a new name.

    The node does not run; it has to be opened anew afterwards.

    Args:
        core: the open node, locked or not.
        code: the recovery code in force.
        following: the next one.
        sheet: the text of the new sheet.
        passphrase: of the new keystore.
        old: what the old keystore held, if it can still be opened.
        after: the number of the last statement that counts; by default the newest that is here.
        params: cost of the keystore.

    Raises:
        RequestError: it is another code, or the number is none; nothing was changed.
    """
    home, store, now = core.home, core.store, core.clock.now()
    statements = core.trust.own.statements
    last = len(statements) - 1 if after is None else after
    if not 0 < last < len(statements):
        raise RequestError(f"there is no statement {last}", fix="see: picket keys status")
    chain = replace(core.trust.own, statements=statements[: last + 1])
    _check_code(chain, code)
    _check_sheet(home)
    renewed = renew_all(
        chain, card=core.card, code=code, following=following, now=now,
        storage=None if old is None else old["storage"],
    )  # fmt: skip
    before = core.card.log.name
    try:
        write_private(keyfiles.next_of(home.recovery_sheet), sheet.encode())
        _write_next(home, renewed, old, passphrase, params)
        log = Log(
            store, keys=renewed.keys, origin=next_log_name(before), random=secrets.token_bytes,
            node_id=core.node_id,
        )  # fmt: skip
        with store.transaction():
            core.cosigning.close_origin()
            noted = core.approvals.recovered(renewed.statements[0].digest)
            _renew_database(store, log, renewed.statements, before=before, now=now, noted=noted)
            keyfiles.note(home, store)
    except BaseException:
        keyfiles.discard(home, store)
        raise
    core.log = log  # so that closing keeps no head of the old one
    core.raise_fence(log.size, log.root())
    if old is None and home.case_db.exists():
        # Nobody can open it any more; what it held comes back from peers as far as it can be read.
        home.case_db.replace(home.case_db.with_name(f"case.db.lost-{now}"))
    keyfiles.finish(home, store)
    keyfiles.forget_certificates(home)


def _write_next(
    home: Home,
    renewed: Renewed,
    old: Mapping[str, bytes] | None,
    passphrase: bytes,
    params: Argon2Params,
) -> None:
    save(keyfiles.next_of(home.keystore), renewed.vault_secrets, passphrase, params)
    write_private(keyfiles.next_of(home.service_key), encode(renewed.service_secrets))
    write_private(keyfiles.next_of(home.tls_pem), renewed.pem)
    if old is not None:
        # What was sealed to the old keys and is on its way must still open.
        storage = old["storage"]
        seeds = load_sealing(home.sealing, storage)
        seeds |= {f"{_PREFIX}0": old[_FIRST]} if _FIRST in old else {}
        save_sealing(keyfiles.next_of(home.sealing), seeds, storage)
    else:
        storage = renewed.vault_secrets["storage"]
        save_sealing(keyfiles.next_of(home.sealing), {}, storage)
    save_message(keyfiles.next_of(home.message_key), {}, storage)


def _renew_database(
    store: Store,
    log: Log,
    statements: Sequence[Statement],
    *,
    before: str,
    now: int,
    noted: Sequence[Act],
) -> None:
    node_id, first = statements[0].node_id, statements[0].n
    beside = store.rows("SELECT wire FROM statements WHERE node_id = ? AND n >= ?", node_id, first)
    for row in beside:
        digest = parse_statement(row["wire"]).digest
        store.insert(
            "statements_aside", {"node_id": node_id, "digest": digest, "wire": row["wire"]},
            replace=True,
        )  # fmt: skip
    store.run("DELETE FROM statements WHERE node_id = ? AND n >= ?", node_id, first)
    store.run("DELETE FROM checkpoints")
    local = (before, log.signed_size, suite.ZERO, log.size)
    subject = opened_digest(log.origin, local)
    log.append([Act(EntryKind.LOG_OPENED, subject, local)])
    for statement in statements:
        row = {"node_id": node_id, "n": statement.n, "wire": statement.wire}
        store.insert("statements", row)
        log.append([Act(EntryKind.KEY_STATEMENT, statement.digest, (statement.n,))])
    log.append(noted)
    log.seal(now)
    log.keep()


# --- revocation ------------------------------------------------------------------------------
def revoke(core: Core, code: bytes) -> None:
    """End this node's identity for good, by the revocation *code* on paper.

    Raises:
        RequestError: it is another code; nothing was changed.
        ApprovalNeededError: other operators have to approve it.
    """
    chain = core.trust.own
    if suite.digest("revocation-code", code) != chain.inception.revocation:
        raise RequestError(
            "this is not the revocation code of this node",
            fix="take the code on the recovery sheet that is called REVOCATION CODE",
        )
    revocation = make_revocation(network=chain.network, node_id=chain.node_id, code=code)
    if core.statements.revoked:
        return
    permit = core.approvals.require(Kind.REVOKE_IDENTITY, (), who=OPERATOR)
    with core.logged():
        permit.use()
        core.statements.revoke_own(revocation)
