"""The composition root: makes a node, opens one for a command, or runs one with its network."""

from __future__ import annotations

import asyncio
import fcntl
import os
import secrets
import shutil
import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from keys.fingerprint import format_code, format_node_id
from keys.identity import (
    CardFields,
    Offline,
    ServiceKeys,
    Vault,
    incept,
    load_service,
    load_vault,
    make_card_body,
    new_service,
)
from keys.keystore import load, read_passphrase_file, read_private, save, write_private
from keys.trust import certificates_of
from node import keyfiles, message_rotation, own_dates, ownkeys, tls_rotation
from node.blobs import BlobStore
from node.certificates import from_pem, make_certificate, to_pem
from node.clock import Clock, SystemClock, rfc3339
from node.config import Config, check_values, load_config, write_config
from node.core import Core
from node.cosigning import log_vkeys
from node.directory import load_directory
from node.enclosures import Fetching
from node.fence import Fence
from node.hardening import refuse_dumps
from node.home import Home
from node.keydesk import parse_typed_code, sheet_text
from node.locking import read_credential
from node.log import Act, Log
from node.peer_test_desk import link_state
from node.service import DAY_MS, Network, Service
from node.signer_client import Pin, open_outside
from node.signer_moves import new_keys
from node.store import Store
from protocol import suite
from protocol.armor import dearmor
from protocol.canonical import decode, encode
from protocol.entry import EntryKind
from protocol.errors import (
    AlreadyRunningError,
    ConfigError,
    KeystoreError,
    LockedError,
    PeerError,
)
from protocol.quota import quota_of
from protocol.statement import Chain, Statement, check_endpoint, make_card, verify_bundle

if TYPE_CHECKING:
    from node.engine import Engine
    from node.server import Server

_HOUR_MS: Final = 3_600_000
_MINUTE_MS: Final = 60_000
CARD_LIFETIME_MS: Final = 365 * DAY_MS
_SERVICE_FILE_MAX: Final = 4_096
_TLS_FILE_MAX: Final = 64 * 1024
Passphrase = Callable[[], bytes | None]
Build = Callable[[Home, Mapping[str, Any], bytes, int], bytes]


@dataclass(frozen=True, slots=True)
class InitResult:
    """What ``picket init`` tells the operator."""

    node_id: str
    recovery_sheet: Path


# --- making a node ---------------------------------------------------------------------------
def check_init(home_path: Path, values: Mapping[str, Any]) -> bool:
    """Check all that ``initialise`` is given but the passphrase; return whether the folder exists.

    Raises:
        OperatorError: the folder is in use or cannot be seen, or a value is refused.
    """
    exists = Home(home_path.absolute()).check_empty()
    check_values(values)
    for endpoint in values.get("peer.endpoints", ()):
        try:
            check_endpoint(endpoint)
        except PeerError as error:
            raise ConfigError(
                f"peer.endpoints has {endpoint!r}: {error.message}",
                fix="give addresses such as wss://node.example.org:443",
            ) from None
    return exists


def initialise(
    home_path: Path,
    values: Mapping[str, Any],
    passphrase: bytes,
    now: int | None = None,
    *,
    build: Build | None = None,
    pin: Pin | None = None,
) -> InitResult:
    """Make a new node in *home_path*: all of it, or nothing.

    Args:
        home_path: a folder that does not exist or is empty.
        values: config values by ``section.key``.
        passphrase: seals the keystore.
        now: UTC in ms; the clock's by default.
        build: fills the folder; by default with a new identity.
        pin: gets the PIN of the token in which the settings want its keys.

    Raises:
        OperatorError: the folder is in use, cannot be written, or a value is refused.
    """
    home = Home(home_path.absolute())
    at = SystemClock().now() if now is None else now
    exists = check_init(home_path, values)
    try:
        # Built apart and then moved, so that a crash leaves no half-made node. In a folder that is
        # there already, which may be a mount or stand in one that we may not write, inside it.
        name = f".{home.path.name}.{secrets.token_hex(4)}"
        fresh = home.path / name if exists else home.path.with_name(name)
        fresh.parent.mkdir(parents=True, exist_ok=True)
        try:
            fresh.mkdir(mode=0o700)
            node_id = (build or partial(_build, pin=pin))(Home(fresh), values, passphrase, at)
            if exists:
                home.path.chmod(0o700)
                _move_into(Home(fresh), home)
            else:
                fresh.rename(home.path)
        finally:
            shutil.rmtree(fresh, ignore_errors=True)
    except OSError as error:
        raise ConfigError(
            f"{home.path} cannot be made: {error.strerror}", fix="choose another with --home"
        ) from None
    return InitResult(format_node_id(node_id), home.recovery_sheet)


def _move_into(fresh: Home, home: Home) -> None:
    """Move a new node's files; the configuration, which makes it one, comes last."""
    for file in sorted(fresh.path.iterdir(), key=lambda file: file == fresh.config):
        file.rename(home.path / file.name)


def _build(
    home: Home, values: Mapping[str, Any], passphrase: bytes, now: int, *, pin: Pin | None = None
) -> bytes:
    write_config(home, values)
    config = load_config(home)
    with new_keys(config, secrets.token_bytes, pin) as (vault_secrets, outside):
        save(home.keystore, vault_secrets, passphrase)
        return _fill(home, config, load_vault(vault_secrets, outside), now)


def _fill(home: Home, config: Config, vault: Vault, now: int) -> bytes:
    """Make all but the keystore of a new node; return its id."""
    service_secrets = new_service(secrets.token_bytes)
    write_private(home.service_key, encode(service_secrets))
    keys = load_service(service_secrets)
    offline = Offline(secrets.token_bytes(32), secrets.token_bytes(32))
    inception = incept(vault, offline, network=suite.network_id(config.node.network), now=now)
    certificate = make_certificate(
        keys.tls_seed, name=config.node.authority, now=datetime.fromtimestamp(now // 1000, UTC)
    )
    write_private(home.tls_pem, to_pem(certificate, keys.tls_seed))
    chain = Chain.start(inception, network=inception.network)
    chain = chain.extend(
        _card(config, chain, vault=vault, keys=keys, certificate=certificate, now=now)
    )
    _fill_database(home, chain, keys, now)
    sheet = _recovery_sheet(config, chain.node_id, offline, now)
    write_private(home.recovery_sheet, sheet.encode())
    return chain.node_id


def _card(
    config: Config,
    chain: Chain,
    *,
    vault: Vault,
    keys: ServiceKeys,
    certificate: bytes,
    now: int,
) -> Statement:
    body = make_card_body(
        _card_fields(config, now + CARD_LIFETIME_MS),
        chain=chain,
        vault=vault,
        service=keys,
        certificate=certificate,
        seal_until=now + CARD_LIFETIME_MS,
        now=now,
    )
    try:
        return make_card(body, chain=chain, issued=now, signer=vault.identity)
    except PeerError as error:
        raise ConfigError(
            f"the card cannot be made: {error.message}", fix="correct picket.toml or the options"
        ) from None


def _card_fields(config: Config, expires: int) -> CardFields:
    node = config.node
    return CardFields(
        authority=node.authority,
        country=node.country,
        role=node.role,
        contact=node.contact,
        endpoints=tuple(config.peer.endpoints),
        expires=expires,
    )


def _fill_database(
    home: Home, chain: Chain, keys: ServiceKeys, now: int, *, fresh: Sequence[Statement] = ()
) -> None:
    """Make node.db around *chain*, of which the log notes the *fresh* statements."""
    card = chain.card
    if card is None:
        raise ConfigError("the card is missing")
    with closing(Store(home.node_db, create=True)) as store:
        log = Log(
            store, keys=keys, origin=card.log.name, random=secrets.token_bytes,
            node_id=chain.node_id,
        )  # fmt: skip
        with store.transaction():
            store.set_meta("node_id", chain.node_id)
            store.set_meta("network", chain.network)
            store.insert_all(
                "statements",
                [{"node_id": chain.node_id, "n": s.n, "wire": s.wire} for s in chain.statements],
            )
            # The empty tree is signed first, so that peers can pin the log from its birth.
            log.seal(now)
            log.keep()
            log.append(
                [Act(EntryKind.LOG_OPENED, suite.digest("log-opened", card.log.name.encode()))]
                + [Act(EntryKind.KEY_STATEMENT, s.digest, (s.n,)) for s in fresh]
            )
            log.seal(now)
            log.keep()
        fence = Fence(home.fence)
        fence.raise_to(log.size, log.root())
        fence.close()
    for leftover in (home.node_db.with_name("node.db-wal"), home.node_db.with_name("node.db-shm")):
        leftover.unlink(missing_ok=True)
    home.node_db.chmod(0o600)


def _recovery_sheet(config: Config, node_id: bytes, offline: Offline, now: int) -> str:
    return f"""PICKET RECOVERY SHEET                                   made {rfc3339(now)}

Authority   {config.node.authority} ({config.node.country})
Network     {config.node.network}
Node        {format_node_id(node_id)}

RECOVERY CODE: whoever holds it can take over this node's identity.
It is needed if the identity key is lost or stolen.

    {format_code(offline.recovery)}

REVOCATION CODE: whoever holds it can end this node's identity for good,
and nothing else.

    {format_code(offline.revocation)}

Print this sheet. Keep the two codes in two sealed envelopes in two safes.
Then delete this file: as long as it is on this machine, a thief of the
machine has the identity too. Neither code can be made again.
"""


# --- opening a node --------------------------------------------------------------------------
@contextmanager
def _locked(home: Home) -> Iterator[None]:
    """Hold the home lock: one process owns the databases and the log key."""
    try:
        handle = os.open(home.lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise ConfigError(
            f"{home.lock} cannot be opened: {error.strerror}",
            fix="remove what stands there; it holds nothing",
        ) from None
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise AlreadyRunningError(
                f"another picket process is using {home.path}",
                fix="wait for it, or stop it; two at once would break the log",
            ) from None
        yield
    finally:
        os.close(handle)


def _service_keys(home: Home) -> ServiceKeys:
    data = read_private(home.service_key, what="the service keys", max_bytes=_SERVICE_FILE_MAX)
    try:
        value = decode(data, max_bytes=_SERVICE_FILE_MAX)
    except PeerError as error:
        raise KeystoreError(
            f"{home.service_key} is damaged: {error.message}", fix="restore it from a backup"
        ) from None
    if not isinstance(value, dict) or not all(isinstance(v, bytes) for v in value.values()):
        raise KeystoreError(f"{home.service_key} is damaged", fix="restore it from a backup")
    return load_service({name: bytes(v) for name, v in value.items() if isinstance(v, bytes)})


@contextmanager
def open_core(
    home: Home, config: Config, clock: Clock, *, accept: bool = False, reopen: bool = False
) -> Iterator[Core]:
    """Open the databases of the node in *home* under the home lock.

    With *accept* a person says that node.db is its newest copy, where the fence cannot tell; with
    *reopen* it may be an old copy, and a new log is begun.

    Raises:
        OperatorError: another process has it, or a file is missing or damaged.
        StoreError: a database is damaged.
        RollbackError: node.db is older than what was published.
    """
    home.check()
    with _locked(home):
        store = Store(home.node_db)
        keyfiles.finish(home, store)
        keys = _service_keys(home)
        fence = Fence(home.fence)
        core = Core(
            home=home, store=store, fence=fence, keys=keys, clock=clock,
            random=secrets.token_bytes, carries=config.peer.carry, accept=accept, reopen=reopen,
        )  # fmt: skip
        core.locking.after_ms = config.keystore.lock_after * _MINUTE_MS
        core.statements.hold_ms = config.peer.recovery_hold * _HOUR_MS
        core.statements.directory = load_directory(home.directory)
        core.trust = core.statements.load_suspensions()
        try:
            core.blobs = BlobStore(home.attachments)
            yield core
        finally:
            core.close()


def unlock(
    core: Core, config: Config, passphrase: Passphrase | None, pin: Pin | None = None
) -> bool:
    """Open the keystore if a passphrase can be had; False leaves the node locked.

    The passphrase comes from the caller, from systemd's credential ``picket-passphrase``, or from
    the file that the configuration names. A node that was locked opens by the caller's alone.
    The *pin* of a token comes likewise, where the signing keys are in one.

    Raises:
        KeystoreError: the keystore or the passphrase file cannot be used.
        WrongPassphraseError: it does not open.
        LockedError: the keystore opens, but nobody gives the PIN of the token.
    """
    secret = _secret(config, passphrase, alone=core.locking.stands is not None)
    if secret is None:
        return False
    held = load(core.home.keystore, secret)
    _open_vault(core, config, held, pin)
    core.statements.upkeep = lambda: keep_up(core, config)
    core.statements.hindered = own_dates.jump(core)
    if core.statements.hindered is not None:
        return True  # by a wrong clock nothing is renewed, nor destroyed
    left = ownkeys.destroy_first(core, held, secret)
    message_rotation.destroy_first(core, left, secret)
    if not core.has_been_linked() and not core.restored.waits:
        # Else a peer may hold newer statements of ours than this home: the running node asks first.
        keep_up(core, config)
    return True


def _open_vault(core: Core, config: Config, held: Mapping[str, bytes], pin: Pin | None) -> None:
    """Unlock *core* with the keys in the keystore, and with those that are elsewhere."""
    vault = load_vault(held, open_outside(config, held, core.trust.own, pin))
    try:
        core.unlock(vault)
    except BaseException:
        if core.vault is None:
            vault.close()
        raise


def _secret(config: Config, passphrase: Passphrase | None, *, alone: bool = False) -> bytes | None:
    secret = passphrase() if passphrase is not None else None
    if secret is None and not alone:
        secret = read_credential()
        if secret is None and config.keystore.passphrase_file:
            secret = read_passphrase_file(Path(config.keystore.passphrase_file))
    return secret


def renew_card(core: Core, config: Config, vault: Vault) -> None:
    """Make a new card if the configuration now says something else than the card in use."""
    card, issued = core.card, own_dates.issue_time(core.trust.own, core.clock.now())
    said = CardFields(
        card.authority, card.country, card.role, card.contact, card.endpoints, card.expires
    )
    if said == _card_fields(config, card.expires):
        return
    fields = _card_fields(config, issued + CARD_LIFETIME_MS)
    # What is sealed to the keys on the card stays so; these have a rhythm of their own.
    body = ownkeys.renewed_card(
        card, issued, authority=fields.authority, country=fields.country, role=fields.role,
        contact=fields.contact, endpoints=fields.endpoints,
    )  # fmt: skip
    try:
        statement = make_card(body, chain=core.trust.own, issued=issued, signer=vault.identity)
    except PeerError as error:
        raise ConfigError(
            f"the card cannot be made: {error.message}", fix="correct picket.toml or the options"
        ) from None
    core.add_statement(statement)


def keep_up(core: Core, config: Config) -> None:
    """Do what this node does to its own keys by itself while it is unlocked.

    Raises:
        ConflictError: the clock may be wrong: nothing is done before a person says that it is not.
        BusyError: the disk is full; it is tried again.
    """
    if core.vault is None or core.statements.revoked or core.statements.misused is not None:
        return
    own_dates.check_clock(core)
    renew_card(core, config, core.vault)
    if ownkeys.sealing_due(core):
        ownkeys.rotate_sealing(core)
    ownkeys.destroy_sealing(core)
    message_rotation.keep_up(core)
    tls_rotation.keep_up(core)
    core.exposures.keep_up()


@contextmanager
def open_service(
    home_path: Path, passphrase: Passphrase | None = None, pin: Pin | None = None
) -> Iterator[Service]:
    """Open the node in *home_path* for commands while it does not run.

    *passphrase* is asked for at once if given, and then the *pin* of a token, if the signing keys
    are in one; without a passphrase the service is locked.
    """
    home = Home(home_path)
    config = load_config(home)
    clock = SystemClock()
    with open_core(home, config, clock) as core:
        try:
            unlock(core, config, passphrase, pin)
        except LockedError:
            if passphrase is not None:
                raise
        yield Service(core, config=config, clock=clock, random=secrets.token_bytes)


def accept_database(home_path: Path) -> int:
    """Take node.db for its newest copy where the fence is lost; return the log's size.

    Raises:
        RollbackError: the fence is whole and says that it is not.
    """
    home = Home(home_path)
    with open_core(home, load_config(home), SystemClock(), accept=True) as core:
        return core.log.size


def reopen_log(
    home_path: Path, passphrase: Passphrase | None, pin: Pin | None = None
) -> tuple[str, str]:
    """Begin a new log on top of what is left; return the names of the old and the new one.

    Raises:
        LockedError: no passphrase was given.
        OperatorError: another process has the node, or a file is missing or damaged.
    """
    home = Home(home_path)
    config = load_config(home)
    secret = _secret(config, passphrase)
    if secret is None:
        raise LockedError(
            "the new log needs a new card, which the identity key signs",
            fix="give the passphrase: --passphrase-file FILE",
        )
    held = load(home.keystore, secret)
    with open_core(home, config, SystemClock(), reopen=True) as core:
        _open_vault(core, config, held, pin)
        old = core.log.origin
        new = core.reopen_log()
        _rename_in_policy(home.witness_policy, core.keys, old, new)
        return old, new


def _rename_in_policy(path: Path, keys: ServiceKeys, old: str, new: str) -> None:
    """Let the operator's policy, if there is one, name the new log; all else in it stays."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return
    for before, after in zip(
        log_vkeys(keys.log_keys(old)), log_vkeys(keys.log_keys(new)), strict=True
    ):
        text = text.replace(before, after)
    fresh = path.with_name(path.name + ".new")
    fresh.write_text(text, encoding="utf-8")
    fresh.replace(path)


def recover(
    home_path: Path,
    *,
    code: str,
    passphrase: bytes,
    old: bytes | None,
    after: int | None = None,
) -> InitResult:
    """Take back the identity of the node in *home_path*, which does not run.

    Args:
        home_path: its folder.
        code: the recovery code, as on paper.
        passphrase: for the new keystore.
        old: the passphrase of the old keystore; None if that cannot be opened any more.
        after: the number of the last statement that counts; by default the newest.

    Raises:
        OperatorError: another process has the node, or a file is missing or damaged.
        RequestError: it is another code; nothing was changed.
    """
    home = Home(home_path)
    config, clock = load_config(home), SystemClock()
    following = secrets.token_bytes(32)
    with open_core(home, config, clock) as core:
        now = clock.now()
        ownkeys.recover(
            core, code=parse_typed_code(code), following=following,
            sheet=sheet_text(config, core.node_id, following=following, now=now),
            passphrase=passphrase, old=None if old is None else load(home.keystore, old),
            after=after,
        )  # fmt: skip
        return InitResult(format_node_id(core.node_id), home.recovery_sheet)


def recover_anew(
    home_path: Path,
    values: Mapping[str, Any],
    *,
    card: str,
    code: str,
    passphrase: bytes,
    after: int | None = None,
) -> InitResult:
    """Make a node in a new folder that takes back the identity of a *card*, with nothing else left.

    Args:
        home_path: a folder that does not exist or is empty.
        values: config values by ``section.key``; what stands on the card comes from there.
        card: the newest card of the old node, as text; any peer has it.
        code: the recovery code, as on paper.
        passphrase: for the new keystore.
        after: the number of the last statement that counts; by default the newest on the card.

    Raises:
        OperatorError: the folder is in use, cannot be written, or a value is refused.
        RequestError: it is another code.
        PeerError: the card does not verify, or is of another network.
    """
    chain = verify_bundle(dearmor(card), network=suite.network_id(str(values["node.network"])))
    if after is not None:
        chain = replace(chain, statements=chain.statements[: after + 1])
    old = chain.card
    if old is None:
        if after is None:
            raise ConfigError("no card counts in this file", fix="ask a peer for a newer card")
        raise ConfigError(
            f"this file does not hold the card that was in force at statement {after}",
            fix="ask a peer for the card from that time: an older file, not a newer one",
        )
    paper, following = parse_typed_code(code), secrets.token_bytes(32)
    named = {
        "node.authority": old.authority, "node.country": old.country, "node.role": old.role,
        "node.contact": old.contact, "peer.endpoints": list(old.endpoints), **values,
    }  # fmt: skip

    def build(home: Home, values: Mapping[str, Any], passphrase: bytes, now: int) -> bytes:
        write_config(home, values)
        renewed = ownkeys.renew_all(
            chain, card=old, code=paper, following=following, now=now, storage=None
        )
        save(home.keystore, renewed.vault_secrets, passphrase)
        write_private(home.service_key, encode(renewed.service_secrets))
        write_private(home.tls_pem, renewed.pem)
        longer = chain.extend(renewed.statements[0]).extend(renewed.statements[1])
        _fill_database(home, longer, renewed.keys, now, fresh=renewed.statements)
        sheet = sheet_text(load_config(home), chain.node_id, following=following, now=now)
        write_private(home.recovery_sheet, sheet.encode())
        return chain.node_id

    return initialise(home_path, named, passphrase, build=build)


# --- running a node --------------------------------------------------------------------------
def run(home_path: Path, passphrase: Passphrase | None = None, pin: Pin | None = None) -> int:
    """Run the node until it is told to stop; return the exit code.

    Raises:
        OperatorError: it cannot start.
        StoreError: it had to stop.
    """
    refuse_dumps()
    home = Home(home_path)
    config = load_config(home)
    clock = SystemClock()
    with open_core(home, config, clock) as core:
        _check_tls(home, core)
        if core.locking.stands is None:
            with suppress(LockedError):  # a passphrase was at hand, but no PIN: it starts locked
                unlock(core, config, passphrase, pin)
        asyncio.run(_run(core, config, clock))
    return 0


def _check_tls(home: Home, core: Core) -> None:
    pem = read_private(home.tls_pem, what="the TLS key", max_bytes=_TLS_FILE_MAX)
    try:
        # One of an older card, in a home that is put back and has learned of its newer cards.
        matches = from_pem(pem) in certificates_of(core.trust.own, core.card)
    except ValueError:
        raise KeystoreError(
            f"the TLS key is damaged: {home.tls_pem}", fix="restore it from a backup"
        ) from None
    if not matches:
        raise KeystoreError(
            f"{home.tls_pem} belongs to another node than node.db",
            fix="put files of one node together; do not mix backups",
        )


async def _run(core: Core, config: Config, clock: Clock) -> None:
    # aiohttp is heavy and only a running node needs it.
    from node.engine import Engine  # noqa: PLC0415
    from node.server import Server  # noqa: PLC0415

    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    engine = Engine(
        core, clock=clock, random=secrets.token_bytes, identity_pem=core.home.tls_pem,
        dials=config.peer.dial,
        quota=quota_of(envelopes=config.peer.quota_envelopes, kib=config.peer.quota_kib),
        beat_ms=1_000 * config.witness.beat, show_card=config.peer.show_card,
    )  # fmt: skip
    gossip = engine.gossip
    # One may have to read a whole download to take it up again; the other goes on meanwhile.
    files = ThreadPoolExecutor(2, thread_name_prefix="attachments")

    def work(job: Callable[[], None]) -> None:
        def run_it() -> None:
            job()
            loop.call_soon_threadsafe(engine.poke)

        files.submit(run_it)

    gossip.attachments.work = work
    service = Service(
        core, config=config, clock=clock, random=secrets.token_bytes,
        network=Network(
            running=True, linked=engine.linked, trouble=engine.trouble, metrics=gossip.metrics,
            over_quota=gossip.over_quota, barred=gossip.barred, stalled=gossip.exchange.stalled,
            in_flight=gossip.in_flight, pulling=lambda: gossip.exchange.puller.waiting,
            fetching=Fetching(
                fetch=gossip.attachments.fetch, drop=gossip.attachments.drop,
                progress=gossip.attachments.progress, faults=gossip.attachments.faults,
            ),
            read_log=gossip.witnessing.read, stop_reading=gossip.witnessing.stop_reading,
            asked=engine.knocker.asked, clocks=gossip.witnessing.clocks,
            link_state=partial(link_state, gossip, clock),
        ),
    )  # fmt: skip
    engine.upkeep = service.retention.tick
    server = Server(service, engine, hosts=frozenset(config.http.hosts))
    try:
        await _start(core.home, config, engine, server)
        await _until(stop, engine)
    finally:
        await server.stop()
        await engine.stop()
        await asyncio.to_thread(files.shutdown, cancel_futures=True)


async def _start(home: Home, config: Config, engine: Engine, server: Server) -> None:
    import structlog  # noqa: PLC0415

    log = structlog.get_logger()
    host, port = config.peer.listen_address or (None, 0)
    bound = await engine.start(host, port)
    if host is not None:
        log.info("peers-listening", port=bound)
    if config.http.listen_address is not None:
        log.info("http-listening", port=await server.listen(*config.http.listen_address))
    await server.listen_control(home.control_sock)
    log.info("ready", size=engine.core.log.size, locked=engine.core.vault is None)


async def _until(stop: asyncio.Event, engine: Engine) -> None:
    """Wait for the stop signal, or for the engine to fail."""
    running = asyncio.create_task(engine.run())
    stopped = asyncio.create_task(stop.wait())
    try:
        await asyncio.wait({running, stopped}, return_when=asyncio.FIRST_COMPLETED)
        if running.done():
            running.result()
    finally:
        running.cancel()
        stopped.cancel()
        await asyncio.gather(running, stopped, return_exceptions=True)
