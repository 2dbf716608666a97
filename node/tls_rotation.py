"""The certificate that this node shows on links, over its life: announced, used, given up.

- A new certificate stands on the card, behind the one in use, before it is used: until every peer
  has the new card, and for a week at most. The next card lists the new one alone.
- ``tls.pem`` is the one in use. The others lie in the folder ``tls``, each under the digest of its
  certificate: which of them counts follows from the card, so a crash loses nothing.
- Who was away meanwhile knows the old card only. So the old key is kept for as long as a peer may
  need it: a link is begun with it where the new one is refused, and shown to whoever asks for it.
- A key that is used no more goes as soon as every peer has seen a card without it, and after a year
  in any case: no card lives longer.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from types import MappingProxyType
from typing import Final

from keys.keystore import read_private, write_private
from node import keyfiles
from node.certificates import certificate_digest, from_pem, make_certificate, seed_of, to_pem
from node.core import Core
from node.home import Home
from node.key_lives import LEARNED_MS, YEAR_MS, TlsStep, since, tls_step
from node.own_dates import issue_time
from node.ownkeys import opened, renewed_card, told_at
from protocol import suite
from protocol.canonical import decode, encode
from protocol.errors import ConflictError, KeystoreError
from protocol.statement import Card, Statement, make_card

_MAX_PEM: Final = 64 * 1024
_MAX_SERVICE: Final = 4_096
_TLS: Final = "tls"
_SUFFIX: Final = ".pem"
_MOST: Final = 8
"""Certificates that are kept beside the one in use: a year of 90 days each, and room to spare."""


@dataclass(frozen=True, slots=True)
class Certificates:
    """The certificates (DER) that this node has the keys of, and where each lies."""

    used: bytes
    files: Mapping[bytes, Path]

    @property
    def others(self) -> tuple[bytes, ...]:
        """Those that are not in use."""
        return tuple(der for der in self.files if der != self.used)


def held_by(home: Home) -> Certificates:
    """Return the certificates in *home*; what cannot be read beside the one in use is passed over.

    Raises:
        KeystoreError: the one in use is missing or damaged.
    """
    used = _certificate(home.tls_pem)
    files = {used: home.tls_pem}
    for path in sorted(home.tls_others.glob(f"*{_SUFFIX}"))[:_MOST]:
        try:
            files.setdefault(_certificate(path), path)
        except KeystoreError:
            continue  # links come about without it: peers that need it get the card as a file
    return Certificates(used, MappingProxyType(files))


def _certificate(path: Path) -> bytes:
    pem = read_private(path, what="the TLS key", max_bytes=_MAX_PEM)
    try:
        return from_pem(pem)
    except ValueError:
        raise KeystoreError(
            f"the TLS key is damaged: {path}", fix="restore it from a backup"
        ) from None


def _place(home: Home, certificate: bytes) -> Path:
    return home.tls_others / f"{certificate_digest(certificate).hex()[:32]}{_SUFFIX}"


# --- what is next -----------------------------------------------------------------------------
def step(core: Core) -> TlsStep:
    """Return what is next for the certificate of links."""
    tls = core.card.tls
    newest = since(core.trust.own, lambda card: card.tls[-1])
    if len(tls) == 1:
        return tls_step(since=newest, announced=None, told=(), now=core.clock.now())
    told = [told_at(core, peer.node_id, newest) for peer in core.trust.linkable()]
    return tls_step(since=newest, announced=newest, told=told, now=core.clock.now())


def keep_up(core: Core) -> None:
    """Take the next step if it is time for it, and give up what nobody needs any more.

    Raises:
        KeystoreError: the disk is full; it is tried again.
        BusyError: this node may sign no statement now.
    """
    used = held_by(core.home).used
    if used not in core.card.tls:
        # This home was put back: peers had the cards that it made since, and it has not their keys.
        _announce(core, used)
    match step(core):
        case TlsStep.ANNOUNCE:
            announce(core)
        case TlsStep.USE:
            use(core)
        case TlsStep.WAIT:
            pass
    give_up(core)


def announce(core: Core) -> Statement:
    """Put a new certificate on the card, behind the one in use; return the card.

    Raises:
        ConflictError: one is announced already, or this node may sign no statement any more.
        KeystoreError: the disk is full; nothing was changed.
        BusyError: this node may sign no statement now.
    """
    if len(core.card.tls) > 1:
        raise ConflictError(
            "a new certificate is on the card already, and used once all peers have that card",
            fix="see: picket keys status",
        )
    core.statements.check_own()
    return _announce(core, core.card.tls[0])


def _announce(core: Core, used: bytes) -> Statement:
    vault, home, now = opened(core), core.home, core.clock.now()
    core.statements.check_own()
    held = held_by(home)
    listed = {
        der for s in core.trust.own.statements if isinstance(s.body, Card) for der in s.body.tls
    }
    # One that no card ever named is left of a crash: it is as good as a new one.
    spare = [der for der in held.others if der not in listed]
    if not spare:
        seed = secrets.token_bytes(suite.SEED_SIZE)
        made = datetime.fromtimestamp(now // 1000, UTC)
        spare = [make_certificate(seed, name=core.card.authority, now=made)]
        home.tls_others.mkdir(mode=0o700, exist_ok=True)
        write_private(_place(home, spare[0]), to_pem(spare[0], seed))
    issued = issue_time(core.trust.own, now)
    body = renewed_card(core.card, issued, tls=(used, spare[0]))
    card = make_card(body, chain=core.trust.own, issued=issued, signer=vault.identity)
    core.add_statement(card)
    core.tls_changes += 1
    return card


def use(core: Core) -> Statement:
    """Use the announced certificate, and leave the old one off the card; return the card.

    If its key was lost meanwhile, another one is announced in its place.

    Raises:
        ConflictError: none is announced, or this node may sign no statement any more.
        KeystoreError: the disk is full; nothing was changed.
        BusyError: this node may sign no statement now.
    """
    vault, home, tls = opened(core), core.home, core.card.tls
    issued = issue_time(core.trust.own, core.clock.now())
    if len(tls) == 1:
        raise ConflictError(
            "no new certificate is on the card", fix="announce one: picket keys rotate-tls"
        )
    core.statements.check_own()
    held = held_by(home)
    if tls[-1] not in held.files:
        return _announce(core, held.used)
    pem = read_private(held.files[tls[-1]], what="the TLS key", max_bytes=_MAX_PEM)
    if held.used != tls[-1]:
        _keep(home, held.used)
    body = renewed_card(core.card, issued, tls=(tls[-1],))
    card = make_card(body, chain=core.trust.own, issued=issued, signer=vault.identity)
    try:
        write_private(keyfiles.next_of(home.tls_pem), pem)
        write_private(keyfiles.next_of(home.service_key), _service_with(home, seed_of(pem)))
        core.statements.add_own(card, also=lambda: keyfiles.note(home, core.store))
    except BaseException:
        keyfiles.discard(home, core.store)
        raise
    keyfiles.finish(home, core.store)
    core.keys = replace(core.keys, tls_seed=seed_of(pem))
    core.tls_changes += 1
    give_up(core)
    return card


def _keep(home: Home, certificate: bytes) -> None:
    """Keep the key in use among the others, before another takes its place."""
    home.tls_others.mkdir(mode=0o700, exist_ok=True)
    pem = read_private(home.tls_pem, what="the TLS key", max_bytes=_MAX_PEM)
    write_private(_place(home, certificate), pem)


def _service_with(home: Home, seed: bytes) -> bytes:
    """Return the file of service keys with another TLS key."""
    data = read_private(home.service_key, what="the service keys", max_bytes=_MAX_SERVICE)
    value = decode(data, max_bytes=_MAX_SERVICE)
    if not isinstance(value, dict):
        raise KeystoreError(f"{home.service_key} is damaged", fix="restore it from a backup")
    return encode({**value, _TLS: seed})


def give_up(core: Core) -> int:
    """Destroy the keys of certificates that no peer needs any more; return how many.

    Raises:
        KeystoreError: the disk refuses it; it is tried again.
    """
    home, gone = core.home, 0
    if not home.tls_others.exists():
        return 0
    held = held_by(home)
    for path in sorted(home.tls_others.iterdir()):
        try:
            certificate = _certificate(path)
        except KeystoreError:
            continue
        if held.files.get(certificate) == home.tls_pem or _is_over(core, certificate):
            path.unlink(missing_ok=True)
            gone += 1
    if gone:
        core.tls_changes += 1
    return gone


def _is_over(core: Core, certificate: bytes) -> bool:
    """Whether every peer has seen a card without *certificate*, or could not use an older one."""
    now, left_off = core.clock.now(), _left_off(core, certificate)
    if left_off is None:
        return False
    told = [told_at(core, peer.node_id, left_off) for peer in core.trust.linkable()]
    learned = all(at is not None and now >= at + LEARNED_MS for at in told)
    return learned or now >= left_off + YEAR_MS


def _left_off(core: Core, certificate: bytes) -> int | None:
    """Return since when no card names *certificate* any more; None if one does, or none ever did.

    One that none ever did was made just now, or is left of a crash: the next one to announce.
    """
    cards = [(s.issued, s.body.tls) for s in core.trust.own.statements if isinstance(s.body, Card)]
    last = max((at for at, (_, tls) in enumerate(cards) if certificate in tls), default=None)
    return None if last is None or last == len(cards) - 1 else cards[last + 1][0]


def waits_for(core: Core) -> tuple[str, ...]:
    """Return the names of the peers that have not seen the announced certificate yet."""
    if len(core.card.tls) == 1:
        return ()
    announced = since(core.trust.own, lambda card: card.tls[-1])
    return tuple(
        peer.name
        for peer in core.trust.linkable()
        if told_at(core, peer.node_id, announced) is None
    )
