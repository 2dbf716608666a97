"""The keystore: what opens it, what is refused before a passphrase is tried, and its file."""

from __future__ import annotations

import itertools
import os
import resource
import stat
import unicodedata
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from keys import keystore
from keys.keystore import (
    MAX_FILE,
    MAX_PASSPHRASE,
    Argon2Params,
    change_passphrase,
    decrypt,
    encrypt,
    load,
    normalise_passphrase,
    read_passphrase_file,
    read_private,
    save,
    write_private,
)
from protocol.canonical import Value, decode
from protocol.canonical import encode as canonical
from protocol.errors import KeystoreError, OperatorError, WrongPassphraseError
from tests.factories import seed

CHEAP = Argon2Params(memory_kib=19 * 1024, iterations=1)
SALT, NONCE = seed("keystore", "salt")[:16], seed("keystore", "nonce")[:12]
PASSPHRASE = b"canary-pass horse battery"
SECRETS = {"identity/ed25519": seed("canary", "identity"), "storage": seed("canary", "storage")}


def sealed(params: Argon2Params = CHEAP) -> bytes:
    return encrypt(SECRETS, PASSPHRASE, salt=SALT, nonce=NONCE, params=params)


def fields(blob: bytes) -> list[Value]:
    value = decode(blob, max_bytes=MAX_FILE)
    assert isinstance(value, list)
    return value


def with_field(place: int, value: object) -> bytes:
    """Return a keystore whose field *place* was replaced by *value*."""
    changed: list[object] = list(fields(sealed()))
    changed[place] = value
    return canonical(changed)


def refusal(blob: bytes, passphrase: bytes = PASSPHRASE) -> OperatorError:
    """Return the error by which *blob* is refused; it must be one of the two that are promised."""
    with pytest.raises(OperatorError) as caught:
        decrypt(blob, passphrase)
    assert type(caught.value) in {KeystoreError, WrongPassphraseError}
    return caught.value


def refused_at_sight(blob: bytes) -> OperatorError:
    """Return the error by which *blob* is refused while nobody can derive a key.

    A derivation would wait for the lock that is held here, and the result would time out.
    """
    with ThreadPoolExecutor(1) as pool, keystore._DERIVING:
        return pool.submit(refusal, blob).result(timeout=20)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "keystore"


@pytest.fixture
def saved(path: Path) -> Path:
    save(path, SECRETS, PASSPHRASE, CHEAP)
    return path


# --- opening ---------------------------------------------------------------------------------
def test_what_was_sealed_comes_back_under_its_passphrase() -> None:
    assert decrypt(sealed(), PASSPHRASE) == SECRETS


def test_a_saved_keystore_loads(saved: Path) -> None:
    assert load(saved, PASSPHRASE) == SECRETS


@pytest.mark.parametrize(
    "wrong", [b"", b"another passphrase", PASSPHRASE + b" ", PASSPHRASE.upper(), PASSPHRASE[:-1]]
)
def test_a_wrong_passphrase_is_told_from_a_damaged_file(wrong: bytes, saved: Path) -> None:
    with pytest.raises(WrongPassphraseError) as caught:
        load(saved, wrong)
    assert caught.value.code == "wrong-passphrase" and caught.value.fix


def test_a_line_end_after_the_passphrase_does_not_matter(saved: Path) -> None:
    for ending in (b"\n", b"\r\n"):
        assert load(saved, PASSPHRASE + ending) == SECRETS


def test_the_file_shows_no_secret_and_no_name_of_one() -> None:
    blob = sealed()
    for hidden in (*SECRETS.values(), PASSPHRASE, b"identity", b"storage"):
        assert hidden not in blob


def test_each_write_has_a_salt_and_a_nonce_of_its_own(path: Path) -> None:
    seen = set()
    for _ in range(3):
        save(path, SECRETS, PASSPHRASE, CHEAP)
        written = fields(path.read_bytes())
        seen |= {str(written[6]), str(written[7])}
    assert len(seen) == 6


def test_the_default_cost_is_64_mib_and_three_passes(path: Path) -> None:
    save(path, SECRETS, PASSPHRASE)
    assert fields(path.read_bytes())[:6] == ["picket-keystore", 1, "argon2id", 65_536, 3, 1]
    assert load(path, PASSPHRASE) == SECRETS


def test_a_changed_passphrase_replaces_the_old_one(saved: Path) -> None:
    change_passphrase(saved, PASSPHRASE, b"an entirely new one")
    assert load(saved, b"an entirely new one") == SECRETS
    with pytest.raises(WrongPassphraseError):
        load(saved, PASSPHRASE)


def test_a_passphrase_change_that_is_refused_leaves_the_file_as_it_was(saved: Path) -> None:
    before = saved.read_bytes()
    with pytest.raises(WrongPassphraseError):
        change_passphrase(saved, b"not the passphrase", b"an entirely new one")
    with pytest.raises(KeystoreError):
        change_passphrase(saved, PASSPHRASE, b"short")
    assert saved.read_bytes() == before


# --- every byte ------------------------------------------------------------------------------
def test_each_single_byte_change_is_refused() -> None:
    blob = sealed()
    assert decrypt(blob, PASSPHRASE) == SECRETS
    for at in range(len(blob)):
        refusal(blob[:at] + bytes([blob[at] ^ 1 << (at % 8)]) + blob[at + 1 :])


def test_each_bit_of_the_fields_before_the_salt_is_refused() -> None:
    """Also the changes that give other parameters within their bounds."""
    blob = sealed()
    end = blob.index(SALT) - 2
    seen = {
        type(refusal(blob[:at] + bytes([blob[at] ^ 1 << bit]) + blob[at + 1 :]))
        for at in range(end)
        for bit in range(8)
    }
    assert seen == {KeystoreError, WrongPassphraseError}


def test_each_truncation_is_refused_as_damage() -> None:
    blob = sealed()
    for changed in (*(blob[:length] for length in range(len(blob))), blob + b"\0"):
        assert type(refused_at_sight(changed)) is KeystoreError


def test_parts_of_two_keystores_cannot_be_mixed() -> None:
    other = fields(
        encrypt(SECRETS, PASSPHRASE, salt=NONCE + b"salt", nonce=SALT[:12], params=CHEAP)
    )
    for place in (6, 7, 8):
        assert type(refusal(with_field(place, other[place]))) is WrongPassphraseError


# --- refused before anything is derived ------------------------------------------------------
@pytest.mark.parametrize(
    ("place", "value", "named"),
    [
        (0, "other-keystore", "kind"),
        (0, b"picket-keystore", "magic"),
        (1, 2, "version"),
        (1, 0, "version"),
        (1, True, "version"),
        (2, "argon2i", "kdf"),
        (2, "scrypt", "kdf"),
        (3, 19 * 1024 - 1, "memory_kib"),
        (3, 8, "memory_kib"),
        (3, 0, "memory_kib"),
        (3, -1, "memory_kib"),
        (3, 1024 * 1024 + 1, "memory_kib"),
        (3, 2**62, "memory_kib"),
        (3, "19456", "memory_kib"),
        (4, 0, "iterations"),
        (4, 11, "iterations"),
        (4, 2**62, "iterations"),
        (4, True, "iterations"),
        (5, 0, "lanes"),
        (5, 2, "lanes"),
        (5, 255, "lanes"),
        (5, True, "lanes"),
        (6, SALT[:15], "salt"),
        (6, SALT + b"x", "salt"),
        (6, b"", "salt"),
        (7, NONCE[:11], "nonce"),
        (7, NONCE + b"x", "nonce"),
        (8, b"", "ciphertext"),
        (8, None, "ciphertext"),
    ],
)
def test_weakened_inflated_or_malformed_parameters_are_refused_before_derivation(
    place: int, value: object, named: str
) -> None:
    error = refused_at_sight(with_field(place, value))
    assert type(error) is KeystoreError and named in error.message and error.fix


@pytest.mark.parametrize("blob", [b"", b"\x90", b"\xc0", b"\x80", b"picket-keystore", bytes(100)])
def test_what_is_no_keystore_is_refused(blob: bytes) -> None:
    assert type(refused_at_sight(blob)) is KeystoreError


def test_a_keystore_with_a_field_more_or_less_is_refused() -> None:
    whole = fields(sealed())
    for changed in (whole[:-1], [*whole, 1]):
        assert type(refused_at_sight(canonical(changed))) is KeystoreError


def test_the_strongest_parameters_that_are_allowed_still_open() -> None:
    params = Argon2Params(memory_kib=19 * 1024, iterations=10)
    assert decrypt(sealed(params), PASSPHRASE) == SECRETS


def test_what_opens_but_holds_no_keys_is_refused(path: Path) -> None:
    """A file that somebody who knows the passphrase made of something else."""
    head: list[object] = ["picket-keystore", 1, "argon2id", 19 * 1024, 1, 1, SALT, NONCE]
    key = keystore._derive(PASSPHRASE, SALT, CHEAP)
    body = AESGCM(key).encrypt(NONCE, canonical(["no map"]), canonical(head))
    assert type(refusal(canonical([*head, body]))) is KeystoreError


def test_what_opens_but_holds_an_empty_key_is_refused() -> None:
    refusal(encrypt({"storage": b""}, PASSPHRASE, salt=SALT, nonce=NONCE, params=CHEAP))


def test_more_than_a_keystore_can_hold_is_refused_before_it_replaces_one(saved: Path) -> None:
    with pytest.raises(KeystoreError):
        save(saved, {**SECRETS, "seal/1": bytes(MAX_FILE)}, PASSPHRASE, CHEAP)
    assert load(saved, PASSPHRASE) == SECRETS


# --- two at once -----------------------------------------------------------------------------
def test_derivations_in_several_threads_all_finish() -> None:
    """With more lanes than one they would wait for each other for ever."""
    blob = sealed()
    with ThreadPoolExecutor(4) as pool:
        opened = [pool.submit(decrypt, blob, PASSPHRASE) for _ in range(8)]
        refused = [pool.submit(refusal, blob, b"wrong passphrase") for _ in range(4)]
        assert [each.result(timeout=60) for each in opened] == [SECRETS] * 8
        assert {type(each.result(timeout=60)) for each in refused} == {WrongPassphraseError}


def test_a_failed_derivation_does_not_lock_the_next_one_out() -> None:
    with pytest.raises(ValueError, match="salt"):
        keystore._derive(PASSPHRASE, b"", CHEAP)
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(decrypt, sealed(), PASSPHRASE).result(timeout=60) == SECRETS


# --- passphrases -----------------------------------------------------------------------------
COMPOSED = unicodedata.normalize("NFC", "mot de passe é ą 각")
DECOMPOSED = unicodedata.normalize("NFD", COMPOSED)


def test_a_passphrase_is_the_same_however_its_accents_were_typed() -> None:
    assert COMPOSED != DECOMPOSED
    assert normalise_passphrase(DECOMPOSED) == normalise_passphrase(COMPOSED) == COMPOSED.encode()


def test_a_keystore_opens_with_the_accents_of_another_keyboard(path: Path, tmp_path: Path) -> None:
    save(path, SECRETS, DECOMPOSED.encode(), CHEAP)
    assert load(path, normalise_passphrase(COMPOSED)) == SECRETS
    file = tmp_path / "passphrase"
    file.write_text(f"{DECOMPOSED}\n", encoding="utf-8")
    assert load(path, read_passphrase_file(file)) == SECRETS


def test_a_keystore_opens_with_the_very_bytes_that_it_was_saved_with(path: Path) -> None:
    save(path, SECRETS, DECOMPOSED.encode(), CHEAP)
    assert load(path, DECOMPOSED.encode()) == SECRETS


def test_what_looks_alike_is_not_the_same_passphrase() -> None:
    """NFC and not NFKC: a ligature or a full-width letter is another character."""
    assert normalise_passphrase("ﬁve words") != normalise_passphrase("five words")


@pytest.mark.parametrize(
    "typed", ["", "seven c", "x" * (MAX_PASSPHRASE + 1), "e\u0301" * 7, "seven c\n", "seven c\r\n"]
)
def test_a_passphrase_too_short_or_too_long_is_refused_without_being_shown(typed: str) -> None:
    with pytest.raises(KeystoreError) as caught:
        normalise_passphrase(typed)
    assert "8 to 1024 characters" in caught.value.message and caught.value.fix
    assert not typed or typed.strip() not in caught.value.diagnostics()


def test_a_passphrase_typed_in_another_encoding_than_the_terminal_s_is_refused() -> None:
    """Python reads such bytes as lone surrogates."""
    with pytest.raises(KeystoreError):
        normalise_passphrase("canary-pass \udcff\udce9")


def test_the_shortest_and_the_longest_passphrase_are_accepted() -> None:
    assert normalise_passphrase("8 chars!") == b"8 chars!"
    assert normalise_passphrase("각" * MAX_PASSPHRASE) == ("각" * MAX_PASSPHRASE).encode()


def test_only_one_line_end_is_taken_off() -> None:
    assert normalise_passphrase("long enough \n") == b"long enough "
    assert normalise_passphrase("long enough\r\n") == b"long enough"
    assert normalise_passphrase("long enough\n\n") == b"long enough\n"


def test_a_passphrase_file_gives_its_passphrase(tmp_path: Path) -> None:
    file = tmp_path / "passphrase"
    file.write_bytes(PASSPHRASE + b"\n")
    assert read_passphrase_file(file) == PASSPHRASE


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "8 to 1024"),
        (b"\n", "8 to 1024"),
        (b"short\n", "8 to 1024"),
        (b"x" * 20_000, "8 to 1024"),
        (b"\xff\xfe" + "canary-pass".encode("utf-16-le"), "not UTF-8"),
    ],
)
def test_a_passphrase_file_that_holds_none_is_refused(
    content: bytes, said: str, tmp_path: Path
) -> None:
    file = tmp_path / "passphrase"
    file.write_bytes(content)
    with pytest.raises(KeystoreError) as caught:
        read_passphrase_file(file)
    assert said in caught.value.message and "canary" not in caught.value.diagnostics()


def test_a_passphrase_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    (tmp_path / "plain").write_bytes(PASSPHRASE)
    for file in (tmp_path / "missing", tmp_path, tmp_path / "plain" / "inner"):
        with pytest.raises(KeystoreError) as caught:
            read_passphrase_file(file)
        assert str(file) in caught.value.message and caught.value.fix


def test_a_passphrase_that_is_not_text_is_not_saved(path: Path) -> None:
    with pytest.raises(KeystoreError, match="UTF-8"):
        save(path, SECRETS, b"\xff" * 12, CHEAP)
    with pytest.raises(KeystoreError, match="characters"):
        save(path, SECRETS, b"short", CHEAP)
    assert not path.exists()


# --- the file --------------------------------------------------------------------------------
@contextmanager
def umask(mask: int) -> Iterator[None]:
    before = os.umask(mask)
    try:
        yield
    finally:
        os.umask(before)


@contextmanager
def largest_file(size: int) -> Iterator[None]:
    """Let this process write no file beyond *size* bytes, as a full disk would."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("mask", [0o000, 0o022, 0o077])
def test_only_the_owner_can_read_the_file_whatever_the_umask(mask: int, path: Path) -> None:
    with umask(mask):
        save(path, SECRETS, PASSPHRASE, CHEAP)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_replacing_a_file_that_others_could_read_closes_it(path: Path) -> None:
    path.write_bytes(b"old")
    path.chmod(0o644)
    write_private(path, b"new")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600 and path.read_bytes() == b"new"


@pytest.mark.parametrize("bit", [0o040, 0o020, 0o010, 0o004, 0o002, 0o001])
def test_a_keystore_that_others_may_touch_is_refused_with_the_command_that_helps(
    bit: int, saved: Path
) -> None:
    saved.chmod(0o600 | bit)
    with pytest.raises(KeystoreError) as caught:
        load(saved, PASSPHRASE)
    assert caught.value.fix == f"chmod 600 {saved}"
    saved.chmod(0o600)
    assert load(saved, PASSPHRASE) == SECRETS
    saved.chmod(0o400)
    assert load(saved, PASSPHRASE) == SECRETS


def a_link(path: Path) -> None:
    target = path.with_name("target")
    save(target, SECRETS, PASSPHRASE, CHEAP)
    path.symlink_to(target)


def a_long_file(path: Path) -> None:
    write_private(path, bytes(MAX_FILE + 1))


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda path: None, "is missing"),
        (a_link, "it is a link"),
        (lambda path: path.symlink_to(path.with_name("nowhere")), "it is a link"),
        (lambda path: path.mkdir(mode=0o700), "is not a plain file"),
        (lambda path: os.mkfifo(path, 0o600), "is not a plain file"),
        (a_long_file, "is larger than it can be"),
    ],
    ids=["missing", "link", "dangling link", "folder", "pipe", "too large"],
)
def test_what_is_no_private_file_is_refused_by_name(
    make: Callable[[Path], None], said: str, path: Path
) -> None:
    make(path)
    with pytest.raises(KeystoreError) as caught:
        load(path, PASSPHRASE)
    assert said in caught.value.message and str(path) in caught.value.message and caught.value.fix


def test_a_path_through_a_file_is_refused(saved: Path) -> None:
    with pytest.raises(KeystoreError, match="cannot be read"):
        load(saved / "inner", PASSPHRASE)


def test_a_file_of_exactly_its_bound_is_read(path: Path) -> None:
    write_private(path, bytes(100))
    assert read_private(path, what="the file", max_bytes=100) == bytes(100)
    with pytest.raises(KeystoreError, match="the file is larger"):
        read_private(path, what="the file", max_bytes=99)


def test_a_failed_write_leaves_the_old_file_and_nothing_beside_it(saved: Path) -> None:
    before = saved.read_bytes()
    with largest_file(20), pytest.raises(KeystoreError) as caught:
        save(saved, SECRETS, b"an entirely new one", CHEAP)
    assert "cannot be written" in caught.value.message and caught.value.fix
    assert saved.read_bytes() == before and load(saved, PASSPHRASE) == SECRETS
    assert list(saved.parent.iterdir()) == [saved]


def test_a_write_that_cannot_take_the_place_leaves_nothing_beside_it(path: Path) -> None:
    path.mkdir()
    with pytest.raises(KeystoreError, match="cannot be written"):
        write_private(path, b"new")
    assert list(path.parent.iterdir()) == [path]


def test_a_write_into_a_missing_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(KeystoreError, match="cannot be written"):
        write_private(tmp_path / "missing" / "keystore", b"new")


def test_a_reader_sees_the_old_file_or_the_new_one_never_a_mixture(path: Path) -> None:
    """Whoever opened the old file keeps reading it while the name already means the new one."""
    write_private(path, b"old" * 1_000)
    with path.open("rb") as reader:
        assert reader.read(3) == b"old"
        write_private(path, b"new")
        assert reader.read() == b"old" * 999
    assert path.read_bytes() == b"new"


def test_a_link_in_the_place_of_a_private_file_is_replaced_and_not_followed(path: Path) -> None:
    target = path.with_name("target")
    target.write_bytes(b"of another program")
    path.symlink_to(target)
    write_private(path, b"new")
    assert not path.is_symlink() and path.read_bytes() == b"new"
    assert target.read_bytes() == b"of another program"


# --- what errors say -------------------------------------------------------------------------
def test_no_error_shows_a_secret_or_a_passphrase(saved: Path) -> None:
    blob = saved.read_bytes()
    errors = [
        refusal(blob, PASSPHRASE + b"?"),
        refusal(blob[:-1]),
        refusal(with_field(3, 8)),
        refusal(with_field(8, b"canary")),
    ]
    with pytest.raises(KeystoreError) as caught:
        save(saved, SECRETS, PASSPHRASE * 100, CHEAP)
    errors.append(caught.value)
    shown = [text for e in errors for text in (str(e), repr(e), e.diagnostics())]
    hidden = ["canary", PASSPHRASE.decode(), repr(PASSPHRASE)]
    hidden += [form for secret in SECRETS.values() for form in (secret.hex(), repr(secret))]
    assert [pair for pair in itertools.product(hidden, shown) if pair[0] in pair[1]] == []
