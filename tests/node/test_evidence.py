"""Evidence bundles of real nodes: what they prove offline, and which check names each forgery.

The forger of these tests is the holder itself, the strongest there is: it lists and signs whatever
it has changed, so that no digest of the manifest gives it away.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Final

import pytest

from keys.fingerprint import format_node_id
from keys.identity import load_service, new_service
from keys.trust import Level
from node.cosigning import witness_vkeys
from node.evidence import Export, anchor_note, best_checkpoint
from node.stamps import load_authorities, read_stamp
from protocol import evidence_zip as zips
from protocol.canonical import decode, encode
from protocol.checkpoint import parse_body
from protocol.entry import EntryKind, parse_entry
from protocol.envelope import Anchor, open_epoch
from protocol.envelope import parse as envelope_parse
from protocol.errors import (
    ConflictError,
    LockedError,
    LogCorruptionError,
    NotFoundError,
    PeerError,
    RequestError,
)
from protocol.evidence import Check, Expected, holds, verify_evidence
from protocol.evidence_files import (
    Vkeys,
    encode_receipts,
    format_access,
    format_json,
    format_manifest,
    format_vkeys,
    parse_access,
    parse_manifest,
    parse_receipts,
    parse_vkeys,
    sign_manifest,
)
from protocol.note import Note, VerifierKey, format_note, parse_note
from protocol.policy import format_policy, make_policy, parse_policy
from protocol.statement import NamedKeys
from protocol.tlog_proof import format_tlog_proof, parse_tlog_proof, verify_tlog_proof
from protocol.witness import cosign as make_cosignatures
from tests.node.factories import NAMES, Station, World, copied, made_once, pass_on

Files = Mapping[str, bytes]
OPENSSL: Final = shutil.which("openssl")
HOUR: Final = 3_600_000


# --- a world with witnesses ------------------------------------------------------------------
def cosign(log: Station, *witnesses: Station) -> None:
    """Let the *witnesses* cosign the head of a log, as links do on their beat."""
    size = log.core.heartbeat()
    for witness in witnesses:
        witness.clock.advance(1_000)
        keys = witness.core.card.witness
        body = log.core.cosigning.request(keys.name, size)
        with witness.core.logged():
            answer, _ = witness.core.witness.add_checkpoint(body)
        with log.core.logged():
            log.core.cosigning.take(size, answer.body, keys=witness_vkeys(keys))


def export(station: Station, envelope_id: bytes, **wanted: object) -> bytes:
    """Return the bundle of one envelope, as the endpoint makes it."""
    evidence = station.service().evidence
    planned = evidence.plan(Export(envelope_id, "operator", **wanted))  # type: ignore[arg-type]
    return evidence.bundle(planned, evidence.log(planned))


def read(bundle: bytes) -> dict[str, bytes]:
    files, faults = zips.read_zip(bundle)
    assert faults == ()
    return files


@dataclass(frozen=True)
class Case:
    """Two envelopes of Alder's in one epoch, and bundles about them."""

    world: World
    first: bytes
    second: bytes
    other: bytes  # of Cedar's, to Birch
    received: Files  # Birch's, of the second, with content
    closed: Files  # Birch's, of the second, without content
    earlier: Files  # Birch's, of the first, with content
    foreign: Files  # Birch's, of Cedar's
    released: Files  # Alder's, of the second

    def forged(self, files: Files, **changes: bytes | None) -> dict[str, bytes]:
        """Return *files* changed, listed and signed again by their holder (names with _ for -)."""
        made = parse_manifest(files[zips.MANIFEST])
        named = {_member(name): data for name, data in changes.items()}
        chosen = {**files, **{name: data for name, data in named.items() if data is not None}}
        chosen = {name: chosen[name] for name in chosen if named.get(name, b"") is not None}
        holder = next(each for each in self.world if each.id == made.holder)
        chosen[zips.MANIFEST] = format_manifest(
            chosen, network=made.network, envelope_id=made.envelope_id, holder=made.holder,
            made=0, act=made.act,
        )  # fmt: skip
        chosen[zips.SIGNATURE] = sign_manifest(chosen[zips.MANIFEST], signer=holder.core.keys.link)
        return chosen


def _member(name: str) -> str:
    wanted = name.replace("_", "-")
    return next(each for each in zips.MEMBERS if each.rpartition(".")[0] == wanted)


@pytest.fixture(scope="module")
def case(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Case]:
    folder = tmp_path_factory.mktemp("evidence")
    with copied(made_once(tmp_path_factory), folder, NAMES) as world:
        alder, birch, cedar, dogwood = world
        first = alder.release(1, birch, cedar)
        second = alder.release(2, birch, cedar)
        other = cedar.release(3, birch)
        pass_on(alder, birch)
        pass_on(alder, cedar)
        pass_on(cedar, birch)
        birch.core.try_follow()
        cosign(birch, alder, cedar, dogwood)
        cosign(alder, birch, cedar)
        yield Case(
            world, first, second, other,
            read(export(birch, second, content=True, by="J. Smith", reason="case 5")),
            read(export(birch, second)),
            read(export(birch, first, content=True)),
            read(export(birch, other, content=True)),
            read(export(alder, second)),
        )  # fmt: skip


def check(files: Files, expected: Expected | None = None) -> dict[str, Check]:
    return {each.name: each for each in verify_evidence(files, expected=expected)}


def failed(files: Files, expected: Expected | None = None) -> set[str]:
    return {name for name, each in check(files, expected).items() if each.ok is False}


# --- whole bundles ---------------------------------------------------------------------------
def test_a_bundle_of_a_recipient_holds_and_tells_what_it_proves(case: Case) -> None:
    alder, birch = case.world["alder"], case.world["birch"]
    expected = Expected(
        holder=birch.id, author=alder.id, network="test.example", show=format_node_id
    )
    checks = check(case.received, expected)
    assert {name for name, each in checks.items() if each.ok is None} == {
        "anchor", "receipts", "time stamp", "stamp authority",
    }  # fmt: skip
    assert holds(tuple(checks.values()))
    assert case.second.hex() in checks["envelope"].detail
    assert format_node_id(alder.id) in checks["author"].detail
    assert "at the latest" in checks["quorum"].detail
    assert "holder's own choice" in checks["quorum"].detail


def test_a_bundle_of_the_author_proves_deliveries(case: Case) -> None:
    checks = check(case.released)
    assert not failed(case.released)
    assert checks["receipts"].detail.startswith("2 receipts")
    assert checks["entry"].detail == "sent by the holder itself"
    assert checks["content"].ok is None


def test_an_envelope_that_opens_its_epoch_needs_no_list_of_its_recipients(case: Case) -> None:
    assert zips.AUDIENCE in case.received
    assert zips.AUDIENCE not in case.earlier
    assert not failed(case.earlier)


def test_without_content_there_is_neither_key_nor_text(case: Case) -> None:
    assert not {zips.CONTENT, zips.CONTENT_KEY} & set(case.closed)
    assert b"20160" not in zips.write_zip(case.closed)
    assert b"20160" in case.received[zips.CONTENT]


def test_the_key_opens_this_envelope_and_not_its_neighbour_in_the_epoch(case: Case) -> None:
    key = case.received[zips.CONTENT_KEY]
    forged = case.forged(case.earlier, content_key=key)
    assert failed(forged) == {"content"}


def test_equal_facts_give_equal_bytes(case: Case) -> None:
    files = case.received
    assert zips.read_zip(zips.write_zip(files)) == (files, ())


def test_the_report_names_everybody_whole_and_fits_a_page(case: Case) -> None:
    report = case.received[zips.REPORT].decode()
    for text in (
        case.second.hex(), format_node_id(case.world["alder"].id),
        format_node_id(case.world["birch"].id), "J. Smith", "case 5", "does not prove",
    ):  # fmt: skip
        assert text in report
    assert len(report.splitlines()) < 75
    assert max(map(len, report.splitlines())) <= 96


def test_the_proof_verifies_by_the_policy_in_the_bundle_alone(case: Case) -> None:
    proof = parse_tlog_proof(case.received[zips.PROOF])
    policy = parse_policy(case.received[zips.POLICY])
    cosigned = verify_tlog_proof(proof, entry=case.received[zips.ENTRY], policy=policy)
    assert cosigned.not_after is not None
    assert parse_entry(case.received[zips.ENTRY]).subject == case.second


def test_the_digests_can_be_checked_without_this_program(case: Case) -> None:
    listed = json.loads(case.received[zips.MANIFEST])["files"]
    for name, row in listed.items():
        assert row["sha256"] == hashlib.sha256(case.received[name]).hexdigest()
    local = case.received[zips.LOCAL_BLIND] + case.received[zips.LOCAL]
    opened = hashlib.sha256(b"picket/1/log-local\0" + local).digest()
    assert opened == parse_entry(case.received[zips.ENTRY]).local_digest


# --- the act ---------------------------------------------------------------------------------
def test_an_export_is_logged_with_who_and_why_and_proves_itself(case: Case) -> None:
    access = parse_access(case.received[zips.ACCESS])
    manifest = parse_manifest(case.received[zips.MANIFEST])
    act = access.acts[-1].act
    assert access.acts[-1].index == manifest.act
    assert (act.what, act.who) == ("export-evidence", "operator")
    assert act.note == "with content; by J. Smith; reason: case 5"
    later = parse_access(case.closed[zips.ACCESS])
    assert [each.index for each in later.acts[:-1]] == [each.index for each in access.acts]


def test_the_message_stays_under_the_first_cosigned_head(case: Case) -> None:
    birch = case.world["birch"]
    proof = parse_tlog_proof(case.closed[zips.PROOF])
    assert (len(parse_note(proof.checkpoint).signatures)) > 2
    size, note = best_checkpoint(birch.core, proof.index)
    assert note == proof.checkpoint
    access = parse_access(case.closed[zips.ACCESS])
    assert int(access.checkpoint.split(b"\n")[1]) > size
    assert access.consistency


def test_nothing_leaves_if_the_act_cannot_be_logged(case: Case) -> None:
    birch = case.world["birch"]
    evidence = birch.service().evidence
    planned = evidence.plan(Export(case.second, "operator"))
    before = birch.core.log.size
    with pytest.raises(ConflictError, match="not among the acts"):
        evidence.bundle(planned, before + 5)
    index = evidence.log(planned)
    assert (index, birch.kinds()[index]) == (before, EntryKind.ACCESS)


def test_a_locked_node_exports_an_envelope_but_no_content(case: Case) -> None:
    birch = case.world["birch"]
    birch.reopen(locked=True)
    try:
        assert not failed(read(export(birch, case.second)))
        before = birch.core.log.size
        with pytest.raises(LockedError):
            export(birch, case.second, content=True)
        assert birch.core.log.size == before
    finally:
        birch.reopen()


def test_what_cannot_be_exported_is_refused_before_it_is_logged(case: Case) -> None:
    birch = case.world["birch"]
    before = birch.core.log.size
    with pytest.raises(NotFoundError):
        export(birch, bytes(32))
    with pytest.raises(RequestError, match="reason"):
        export(birch, case.second, reason="x" * 501)
    with pytest.raises(RequestError, match="by"):
        export(birch, case.second, by="a\x1bb")
    with pytest.raises(RequestError, match="no time stamp"):
        export(birch, case.second, stamped=b"x")
    with pytest.raises(PeerError):
        export(birch, case.second, stamp=b"no stamp")
    assert birch.core.log.size == before


def test_texts_are_made_tidy(case: Case) -> None:
    files = read(export(case.world["birch"], case.second, by=" J.\n Smith ", reason="a  b"))
    note = parse_access(files[zips.ACCESS]).acts[-1].act.note
    assert note == "without content; by J. Smith; reason: a b"


# --- forgeries by the holder -----------------------------------------------------------------
def flipped(data: bytes, at: int = -1) -> bytes:
    changed = bytearray(data)
    changed[at] ^= 1
    return bytes(changed)


def reproof(files: Files, **changes: object) -> bytes:
    return format_tlog_proof(replace(parse_tlog_proof(files[zips.PROOF]), **changes))  # type: ignore[arg-type]


def renoted(files: Files, change: Callable[[Note], Note]) -> bytes:
    note = parse_note(parse_tlog_proof(files[zips.PROOF]).checkpoint)
    return reproof(files, checkpoint=format_note(change(note)))


def stripped(note: Note) -> Note:
    """Leave out the cosignatures of all witnesses but one, which is less than their majority."""
    return Note(note.text, note.signatures[:4])


def retimed(note: Note, *, of: int) -> Note:
    """Make the time in one signature an hour earlier."""
    signatures = list(note.signatures)
    old = signatures[of].signature
    time_s = int.from_bytes(old[:8], "big") - 3_600
    signatures[of] = replace(signatures[of], signature=time_s.to_bytes(8, "big") + old[8:])
    return Note(note.text, tuple(signatures))


def grown(note: Note) -> Note:
    origin, size, root, _ = note.text.split("\n")
    return Note(f"{origin}\n{int(size) + 64}\n{root}\n", note.signatures)


def edited_act(files: Files, old: str, new: str) -> bytes:
    """Change an act in all places where it is said, as a careful forger would."""
    access = parse_access(files[zips.ACCESS])
    last = access.acts[-1]
    fields = decode(last.local, max_bytes=8_192)
    assert isinstance(fields, list)
    local = encode([new if field == old else field for field in fields])
    return format_access(replace(access, acts=(*access.acts[:-1], replace(last, local=local))))


def acts(files: Files, change: Callable[[tuple[object, ...]], tuple[object, ...]]) -> bytes:
    access = parse_access(files[zips.ACCESS])
    return format_access(replace(access, acts=change(access.acts)))  # type: ignore[arg-type]


Forge = Callable[[Case], dict[str, bytes]]


def mutate(name: str, change: Callable[[bytes], bytes | None]) -> Forge:
    key = name.rpartition(".")[0].replace("-", "_")

    def forge(case: Case) -> dict[str, bytes]:
        return case.forged(case.received, **{key: change(case.received[name])})

    return forge


def swap(*names: str, source: str = "earlier", into: str = "received") -> Forge:
    """Take files of another bundle of the same holder."""

    def forge(case: Case) -> dict[str, bytes]:
        other: Files = getattr(case, source)
        keys = {name.rpartition(".")[0].replace("-", "_"): other[name] for name in names}
        return case.forged(getattr(case, into), **keys)

    return forge


def act_forge(make: Callable[[Files], bytes]) -> Forge:
    return lambda case: case.forged(case.received, access=make(case.received))


def proof_forge(make: Callable[[Files], bytes]) -> Forge:
    return lambda case: case.forged(case.received, proof=make(case.received))


def _receipts(change: Callable[[list[tuple[bytes, bytes]]], list[tuple[bytes, bytes]]]) -> Forge:
    def forge(case: Case) -> dict[str, bytes]:
        pairs = change(list(parse_receipts(case.released[zips.RECEIPTS])))
        return case.forged(case.released, receipts=encode_receipts(pairs))

    return forge


def _edited_content(data: bytes) -> bytes:
    return data.replace(b"20160", b"10160")


def _weaker_policy(data: bytes) -> bytes:
    return data.splitlines(keepends=True)[0] + b"quorum none\n"


def _other_manifest(case: Case) -> dict[str, bytes]:
    files = dict(case.received)
    value = json.loads(files[zips.MANIFEST])
    value["holder"] = case.world["cedar"].id.hex()
    files[zips.MANIFEST] = format_json(value)
    files[zips.SIGNATURE] = sign_manifest(
        files[zips.MANIFEST], signer=case.world["birch"].core.keys.link
    )
    return files


# Which checks fail, exactly: each forgery is named by what it forges, and hides nothing else.
FORGERIES: Final[Mapping[str, tuple[Forge, set[str]]]] = {
    "envelope, signature": (mutate(zips.ENVELOPE, lambda d: d.replace(d[300:310], bytes(10), 1)),
                            {"envelope"}),
    "envelope, last byte": (mutate(zips.ENVELOPE, flipped), {"envelope"}),
    "envelope of another time": (swap(zips.ENVELOPE), {
        "exporter", "entry", "opening", "content", "access"}),
    "audience": (mutate(zips.AUDIENCE, flipped), {"audience"}),
    "statements of another author": (swap(zips.AUTHOR, source="foreign"), {"author"}),
    "statements of the author, changed": (mutate(zips.AUTHOR, flipped), {"author"}),
    "statements of the holder, changed": (mutate(zips.HOLDER, flipped), {"holder"}),
    "statements of another holder": (swap(zips.HOLDER, source="released"), {
        "exporter", "entry", "log keys", "access"}),
    "entry of another index": (swap(zips.ENTRY), {"entry", "opening", "inclusion"}),
    "entry and proof of another index": (swap(zips.ENTRY, zips.PROOF), {"entry", "opening"}),
    "entry and opening of another index": (swap(zips.ENTRY, zips.PROOF, zips.LOCAL,
                                                zips.LOCAL_BLIND), {"entry", "opening"}),
    "entry, changed": (mutate(zips.ENTRY, flipped), {"inclusion"}),
    "when it came": (mutate(zips.LOCAL, flipped), {"opening"}),
    "blinding": (mutate(zips.LOCAL_BLIND, flipped), {"opening"}),
    "blinding, shorter": (mutate(zips.LOCAL_BLIND, lambda d: d[:-1]), {"opening"}),
    "proof of another envelope": (swap(zips.PROOF), {"inclusion"}),
    "proof for another index": (
        proof_forge(lambda f: reproof(f, index=parse_tlog_proof(f[zips.PROOF]).index + 1)),
        {"inclusion"}),
    "proof, hash changed": (
        proof_forge(lambda f: reproof(f, hashes=(
            bytes(32), *parse_tlog_proof(f[zips.PROOF]).hashes[1:]))), {"inclusion"}),
    "proof, hash missing": (
        proof_forge(lambda f: reproof(f, hashes=parse_tlog_proof(f[zips.PROOF]).hashes[1:])),
        {"inclusion"}),
    "proof, cut": (mutate(zips.PROOF, lambda d: d[:-40]), {"inclusion"}),
    "cosignature stripped": (proof_forge(lambda f: renoted(f, stripped)), {"quorum"}),
    "cosignature's time edited": (
        proof_forge(lambda f: renoted(f, partial(retimed, of=-1))), {"cosignatures", "quorum"}),
    "log signature's time edited": (
        proof_forge(lambda f: renoted(f, partial(retimed, of=1))), {"checkpoint"}),
    "checkpoint of another size": (proof_forge(lambda f: renoted(f, grown)), {
        "inclusion", "checkpoint", "cosignatures", "quorum", "access"}),
    "own policy for nobody": (mutate(zips.POLICY, _weaker_policy), set()),
    "policy without a quorum line": (mutate(zips.POLICY, lambda d: d[:40]), {"quorum"}),
    "policy for another log": (swap(zips.POLICY, source="released"), {"log keys", "quorum"}),
    "keys of another log": (swap(zips.VKEYS, source="released"), {"checkpoint", "log keys"}),
    "keys, one of the log missing": (
        mutate(zips.VKEYS, lambda d: d.partition(b"\n")[2]), {"checkpoint", "log keys"}),
    "keys, changed": (mutate(zips.VKEYS, lambda d: flipped(d, 90)), {"log keys"}),
    "content edited": (mutate(zips.CONTENT, _edited_content), {"content"}),
    "content of another message": (swap(zips.CONTENT), {"content"}),
    "content missing": (mutate(zips.CONTENT, lambda d: None), {"content"}),
    "content key changed": (mutate(zips.CONTENT_KEY, flipped), {"content"}),
    "content key short": (mutate(zips.CONTENT_KEY, lambda d: d[:-1]), {"content"}),
    "content key missing": (mutate(zips.CONTENT_KEY, lambda d: None), {"content", "access"}),
    "content added to an export without": (
        swap(zips.CONTENT, zips.CONTENT_KEY, source="received", into="closed"), {"access"}),
    "act, reason edited": (
        act_forge(lambda f: edited_act(f, "with content; by J. Smith; reason: case 5",
                                       "with content; by A. Nother; reason: case 5")), {"access"}),
    "act, who edited": (act_forge(lambda f: edited_act(f, "operator", "token:1")), {"access"}),
    "acts, this export left out": (act_forge(lambda f: acts(f, lambda a: a[:-1])), {"access"}),
    "acts, twice": (act_forge(lambda f: acts(f, lambda a: (*a, a[-1]))), {"access"}),
    "acts of another message": (swap(zips.ACCESS), {"access"}),
    "acts of another export": (swap(zips.ACCESS, source="closed"), set()),
    "acts, changed": (mutate(zips.ACCESS, lambda d: flipped(d, 40)), {"access"}),
    "receipts of another node": (_receipts(lambda p: [(p[0][0], p[1][1])]), {"receipts"}),
    "receipts, twice": (_receipts(lambda p: [p[0], p[0]]), {"receipts"}),
    "receipts, changed": (_receipts(lambda p: [(flipped(p[0][0]), p[0][1])]), {"receipts"}),
    "manifest of another holder": (_other_manifest, {"exporter"}),
}  # fmt: skip


@pytest.mark.parametrize("name", FORGERIES)
def test_a_forgery_of_the_holder_is_named_by_the_right_check(case: Case, name: str) -> None:
    forge, expected = FORGERIES[name]
    files = forge(case)
    assert failed(files) == expected


def test_a_policy_for_nobody_shows_as_such_and_does_not_pass_the_verifiers_own(case: Case) -> None:
    files = case.forged(case.received, policy=_weaker_policy(case.received[zips.POLICY]))
    assert check(files)["quorum"].ok is None
    own = Expected(policy=parse_policy(case.received[zips.POLICY]))
    assert check(files, own)["quorum"].ok is True
    bare = case.forged(files, proof=renoted(files, stripped))
    assert failed(bare, own) == {"quorum"}


@pytest.mark.parametrize("name", sorted(zips.MEMBERS))
def test_a_change_by_anybody_else_fails_the_bundle_or_what_it_signs(case: Case, name: str) -> None:
    """Somebody without the holder's keys: the list does not fit, or its signature does not."""
    if name not in case.received:
        return
    files = {**case.received, name: flipped(case.received[name])}
    found = failed(files)
    assert found & ({"bundle", "exporter"})
    listed = format_manifest(
        files, network="test.example", envelope_id=case.second,
        holder=case.world["birch"].id, made=0, act=0,
    )  # fmt: skip
    assert "exporter" in failed({**files, zips.MANIFEST: listed}) | (
        {"exporter"} if "holder" in failed({**files, zips.MANIFEST: listed}) else set()
    )


@pytest.mark.parametrize("name", [n for n, m in zips.MEMBERS.items() if m.required])
def test_a_missing_file_is_named(case: Case, name: str) -> None:
    files = {key: data for key, data in case.received.items() if key != name}
    found = check(files)
    assert found["bundle"].ok is False
    assert name in found["bundle"].detail


@pytest.mark.parametrize(
    ("expected", "named"),
    [
        (Expected(holder=bytes(32)), "holder"),
        (Expected(author=bytes(32)), "author"),
        (Expected(network="other.example"), "network"),
    ],
)
def test_what_the_verifier_knows_decides(case: Case, expected: Expected, named: str) -> None:
    assert failed(case.received, expected) == {named}


def test_a_changed_receipt_of_a_bundle_without_receipts_cannot_be_added(case: Case) -> None:
    files = case.forged(case.earlier, receipts=case.released[zips.RECEIPTS])
    assert failed(files) == {"receipts"}


# --- who cosigned ----------------------------------------------------------------------------
def test_a_witness_that_is_trusted_no_more_does_not_break_what_it_cosigned(case: Case) -> None:
    birch = case.world["birch"]
    before = read(export(birch, case.second))
    birch.core.lower_peer(case.world["alder"].id, Level.OBSERVE, by="test")
    birch.core.lower_peer(case.world["dogwood"].id, Level.OBSERVE, by="test")
    after = read(export(birch, case.second))
    assert not failed(after)
    assert check(after)["quorum"].ok is True
    assert before[zips.POLICY] != after[zips.POLICY]
    one, other = (parse_note(parse_tlog_proof(f[zips.PROOF]).checkpoint) for f in (before, after))
    assert one.text == other.text
    assert set(one.signatures) == set(other.signatures)


# --- time stamps -----------------------------------------------------------------------------
@dataclass(frozen=True)
class Authority:
    """A time stamp authority made with openssl."""

    folder: Path

    def certificate(self) -> bytes:
        return (self.folder / "ca.pem").read_bytes()

    def run(self, *arguments: str) -> None:
        assert OPENSSL is not None
        subprocess.run([OPENSSL, *arguments], cwd=self.folder, check=True, capture_output=True)

    def stamp(self, data: bytes, algorithm: str = "sha256") -> bytes:
        (self.folder / "data").write_bytes(data)
        self.run("ts", "-query", "-data", "data", f"-{algorithm}", "-cert", "-out", "query")
        self.run("ts", "-reply", "-config", "tsa.conf", "-queryfile", "query", "-out", "reply")
        return (self.folder / "reply").read_bytes()


_CONFIG: Final = """
[ tsa ]
default_tsa = tsa_own
[ tsa_own ]
serial = serial
crypto_device = builtin
signer_cert = tsa.pem
signer_key = tsa.key
signer_digest = sha256
default_policy = 1.2.3.4.1
digests = sha256, sha512
ess_cert_id_alg = sha256
[ extensions ]
extendedKeyUsage = critical, timeStamping
keyUsage = critical, digitalSignature
"""


def make_authority(folder: Path, name: str) -> Authority:
    made = Authority(folder)
    (folder / "tsa.conf").write_text(_CONFIG)
    (folder / "serial").write_text("01\n")
    made.run("req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "20000", "-subj",
             f"/CN={name} root", "-keyout", "ca.key", "-out", "ca.pem")  # fmt: skip
    made.run("req", "-newkey", "rsa:2048", "-nodes", "-subj", f"/CN={name}", "-keyout", "tsa.key",
             "-out", "tsa.csr")  # fmt: skip
    made.run("x509", "-req", "-in", "tsa.csr", "-CA", "ca.pem", "-CAkey", "ca.key", "-days",
             "20000", "-CAcreateserial", "-extfile", "tsa.conf", "-extensions", "extensions",
             "-out", "tsa.pem")  # fmt: skip
    return made


@pytest.fixture(scope="module")
def authorities(tmp_path_factory: pytest.TempPathFactory) -> tuple[Authority, Authority]:
    if OPENSSL is None:
        pytest.skip("openssl is not installed")
    one, other = (tmp_path_factory.mktemp(name) for name in ("tsa", "other"))
    return make_authority(one, "Time"), make_authority(other, "Other")


def known(authority: Authority | None) -> Expected:
    found = () if authority is None else load_authorities(authority.certificate())
    return Expected(read_stamp=partial(read_stamp, authorities=found))


def test_a_time_stamp_over_an_earlier_proof_goes_with_it(
    case: Case, authorities: tuple[Authority, Authority]
) -> None:
    birch, (authority, stranger) = case.world["birch"], authorities
    row = birch.service().evidence.proof(case.second, who="operator")
    stamp = authority.stamp(row["tlog_proof"].encode())
    files = read(export(birch, case.second, stamp=stamp))
    assert files[zips.STAMPED] == row["tlog_proof"].encode()
    assert not failed(files, known(authority))
    assert check(files, known(authority))["stamp authority"].ok is True
    assert "CN=Time" in check(files, known(authority))["time stamp"].detail
    assert check(files, known(None))["stamp authority"].ok is None
    assert failed(files, known(stranger)) == {"stamp authority"}
    assert failed(files) == {"time stamp"}  # nothing here can read it, so nothing is believed
    assert failed({**files, zips.STAMP: flipped(stamp)}, known(authority)) == {"stamp authority"}
    moved = authority.stamp(b"something else")
    assert failed({**files, zips.STAMP: moved}, known(authority)) == {"time stamp"}
    other = {**files, zips.STAMPED: case.earlier[zips.PROOF], zips.STAMP: authority.stamp(
        case.earlier[zips.PROOF])}  # fmt: skip
    assert failed(other, known(authority)) == {"time stamp"}


def test_a_time_stamp_over_a_checkpoint_or_a_given_proof_goes_too(
    case: Case, authorities: tuple[Authority, Authority]
) -> None:
    birch, authority = case.world["birch"], authorities[0]
    _, note = best_checkpoint(birch.core, 0)
    files = read(export(birch, case.second, stamp=authority.stamp(note)))
    assert not failed(files, known(authority))
    proof = case.received[zips.PROOF]
    stamp = authority.stamp(proof)
    files = read(export(birch, case.second, stamp=stamp, stamped=proof))
    assert not failed(files, known(authority))


def test_a_time_stamp_over_something_else_is_refused_before_it_is_logged(
    case: Case, authorities: tuple[Authority, Authority]
) -> None:
    birch, authority = case.world["birch"], authorities[0]
    before = birch.core.log.size
    for stamp, stamped in (
        (authority.stamp(b"x"), None),
        (authority.stamp(case.earlier[zips.PROOF]), case.earlier[zips.PROOF]),
        (authority.stamp(case.received[zips.PROOF], "sha512"), None),
    ):
        with pytest.raises((RequestError, PeerError)):
            export(birch, case.second, stamp=stamp, stamped=stamped)
    assert birch.core.log.size == before


# --- the earliest time -----------------------------------------------------------------------
def anchored(case: Case, note: bytes) -> dict[str, bytes]:
    """Return files in which Alder names the checkpoint *note* in an envelope of its own."""
    alder, birch = case.world["alder"], case.world["birch"]
    named = parse_body(parse_note(note).text)
    old = alder.envelope(case.first)
    assert old.audience is not None
    keys = {key.ekid: key.public for node in (alder, birch, case.world["cedar"])
            for key in node.core.card.seal}  # fmt: skip
    sealed = open_epoch(
        replace(old.header, anchor=Anchor(named.origin, named.size, named.root)),
        b"\x80",
        audience=old.audience,
        seal_keys=keys,
        epoch_key=bytes(32),
        signer=alder.vault.message,
    )
    files = {name: data for name, data in case.received.items() if name != zips.AUDIENCE}
    return {**files, zips.ENVELOPE: sealed.wire, zips.ANCHOR: note}


def test_a_checkpoint_that_the_author_named_gives_the_earliest_time(case: Case) -> None:
    birch = case.world["birch"]
    size, note = best_checkpoint(birch.core, 0)
    files = anchored(case, note)
    found = check(files)
    assert found["envelope"].ok is True
    assert found["anchor"].ok is True
    assert f"made after {birch.core.log.origin}, {size} entries" in found["anchor"].detail
    without = {name: data for name, data in files.items() if name != zips.ANCHOR}
    assert check(without)["anchor"].ok is None
    other = birch.core.log.checkpoint()[1]
    assert check({**files, zips.ANCHOR: other})["anchor"].ok is False
    moved = format_note(retimed(parse_note(note), of=-1))
    assert check({**files, zips.ANCHOR: moved})["anchor"].ok is False
    held = parse_note(note)
    unknown = format_note(Note(held.text, held.signatures[:1]))
    assert "no key" in check({**files, zips.ANCHOR: unknown})["anchor"].detail
    anchor = envelope_parse(files[zips.ENVELOPE]).header.anchor
    assert anchor is not None
    found_note = anchor_note(birch.core, anchor)
    assert found_note is not None
    assert parse_note(found_note).text == held.text
    assert anchor_note(birch.core, replace(anchor, root=bytes(32))) is None


def test_a_released_envelope_that_names_a_recipients_head_is_bracketed(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    with copied(made_once(tmp_path_factory), tmp_path, ("alder", "birch", "cedar")) as world:
        alder, birch, cedar = world
        cosign(birch, alder, cedar)
        envelope_id = alder.release(1, birch, cedar)
        anchor = alder.envelope(envelope_id).header.anchor
        assert anchor is not None
        assert anchor.origin == birch.core.log.origin
        for taker in (birch, cedar):
            pass_on(alder, taker)
        # The author proves it by the card that goes with Birch's receipt, while it holds that head.
        found = check(read(export(alder, envelope_id)))
        assert found["anchor"].ok is True, found["anchor"]
        cosign(birch, alder, cedar)
        found = check(read(export(birch, envelope_id)))
        assert found["anchor"].ok is True, found["anchor"]
        # Cedar knows Birch's log, but its bundle has no card of Birch's.
        found = check(read(export(cedar, envelope_id)))
        assert found["anchor"].ok is None
        assert not {name for name, each in found.items() if each.ok is False}


def invented(case: Case, note: bytes, *, years: int) -> tuple[bytes, tuple[VerifierKey, ...]]:
    """Return a checkpoint cosigned by nobody but a witness that the holder made up."""
    keys = load_service(new_service(lambda size: b"e" * size))
    named = keys.witness_keys("witness.example/evil")
    now_s = case.world.clock.now() // 1_000 + years * 31_536_000
    body = parse_body(parse_note(note).text)
    lines = make_cosignatures(
        body, name=named.name, ed25519=keys.witness_ed25519, mldsa44=keys.witness_mldsa44,
        now_s=now_s,
    )  # fmt: skip
    return format_note(Note(parse_note(note).text, tuple(lines))), witness_vkeys(named)


def with_witness(files: Files, keys: tuple[VerifierKey, ...]) -> dict[str, bytes]:
    known = parse_vkeys(files[zips.VKEYS])
    return {**files, zips.VKEYS: format_vkeys(Vkeys(known.log, known.witnesses + keys))}


@pytest.mark.parametrize("own", [False, True], ids=["policy of the bundle", "own policy"])
@pytest.mark.parametrize("years", [-10, 10])
def test_a_witness_that_the_holder_made_up_gives_no_earliest_time(
    case: Case, own: bool, years: int
) -> None:
    _, note = best_checkpoint(case.world["birch"].core, 0)
    policy = parse_policy(case.received[zips.POLICY])
    expected = Expected(policy=policy) if own else None
    forged, keys = invented(case, note, years=years)
    alone = with_witness({**anchored(case, note), zips.ANCHOR: forged}, keys)
    assert "no key" in check(alone, expected)["anchor"].detail
    lines = (*parse_note(note).signatures[:2], *parse_note(forged).signatures)
    beside = {**alone, zips.ANCHOR: format_note(Note(parse_note(note).text, lines))}
    found = check(beside, expected)["anchor"]
    assert "nobody says" in found.detail
    assert "new at" not in found.detail
    assert "evil" not in check(beside, expected)["cosignatures"].detail


def test_the_time_of_a_logs_own_signature_is_nobodys_word_for_an_earliest_time(case: Case) -> None:
    _, note = best_checkpoint(case.world["birch"].core, 0)
    text = parse_note(note).text
    own = format_note(Note(text, parse_note(note).signatures[:2]))
    found = check({**anchored(case, note), zips.ANCHOR: own})["anchor"]
    assert (found.ok, "nobody says" in found.detail) == (True, True)


def test_an_earliest_time_after_the_latest_one_fails_whoever_vouches(case: Case) -> None:
    _, note = best_checkpoint(case.world["birch"].core, 0)
    log = case.world["birch"].core.card.log
    forged, keys = invented(case, note, years=10)
    files = with_witness({**anchored(case, note), zips.ANCHOR: forged}, keys)
    # The holder's own policy, which counts for who has none, asks this witness or the others.
    policy = make_policy(
        log,
        [("evil", NamedKeys(keys[0].name, keys[0].public_key, keys[1].public_key))]
        + [(n, case.world[n].core.card.witness) for n in ("alder", "cedar")],
        1,
    )
    found = check({**files, zips.POLICY: format_policy(policy).encode()})
    assert found["quorum"].ok is True
    assert found["anchor"].ok is False
    assert "at the latest" in found["anchor"].detail


def test_a_bundle_that_nobody_confirmed_says_so(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    with copied(made_once(tmp_path_factory), tmp_path, ("alder", "birch", "cedar")) as world:
        alder, birch, cedar = world
        envelope_id = alder.release(1, birch)
        pass_on(alder, birch)
        proof = birch.service().evidence.proof(envelope_id, who="operator")
        assert proof["confirmed"] is False
        found = check(read(export(birch, envelope_id)))
        assert found["quorum"].ok is None
        assert "nobody but the holder says" in found["quorum"].detail
        cosign(birch, alder, cedar)
        assert birch.service().evidence.proof(envelope_id, who="operator")["confirmed"] is True


def test_evidence_is_not_made_from_a_head_whose_cosignatures_were_taken_away(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    with copied(made_once(tmp_path_factory), tmp_path, ("alder", "birch", "cedar")) as world:
        alder, birch, cedar = world
        envelope_id = alder.release(1, birch)
        pass_on(alder, birch)
        cosign(birch, alder, cedar)
        cosign(birch, alder, cedar)
        birch.core.store.run(
            "DELETE FROM cosignatures WHERE name = ?", cedar.core.card.witness.name
        )
        with pytest.raises(LogCorruptionError, match="missing"):
            export(birch, envelope_id)
