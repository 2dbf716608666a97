"""Signers outside the keystore: tokens, and what a signer in another process agrees to sign."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import replace

import pytest

from keys import agent
from keys.agent import IDENTITY, MESSAGE, Held, Refused, Sign, Signed
from keys.identity import load_vault, new_vault
from keys.signers import Outside, Place, SplitSigner, Token, TokenSigner, parse_pin
from protocol import limits, suite
from protocol.canonical import encode
from protocol.errors import (
    ConfigError,
    DecodeError,
    KeystoreError,
    LimitError,
    PeerError,
    SignatureError,
    SignerAwayError,
    VersionError,
    WrongPassphraseError,
)
from protocol.exposure import Exposure
from protocol.reseal import Fault, NewSlot, Notice
from protocol.statement import Rotation, identity_digest, make_card, make_recover, make_rotate
from tests.factories import NETWORK, NOW, TestNode, hybrid, make_envelope, seed
from tests.tokens import SoftToken, module, token, token_folder

__all__ = ["token", "token_folder"]

LABEL = "picket-identity"


class Caught:
    """A signer that keeps what it was asked to sign."""

    def __init__(self, signer: suite.LocalHybridSigner | suite.Ed25519Signer, key: str) -> None:
        self._signer, self._key = signer, key
        self.public = signer.public
        self.asked: list[Sign] = []

    def sign(self, message: bytes, source: bytes = b"") -> object:
        self.asked.append(Sign(self._key, message, source))
        return self._signer.sign(message, source)


def judged(request: Sign, node: TestNode) -> str:
    return agent.judge(request, network=NETWORK, node_id=node.id).what


def asked_for_card(node: TestNode) -> Sign:
    caught = Caught(node.identity, IDENTITY)
    make_card(node.card, chain=node.chain, issued=NOW, signer=caught)  # type: ignore[arg-type]
    return caught.asked[0]


def asked_for_envelope(author: TestNode, reader: TestNode) -> Sign:
    caught = Caught(author.message, MESSAGE)
    make_envelope(replace(author, message=caught), [reader])  # type: ignore[arg-type]
    return caught.asked[0]


# --- what is signed --------------------------------------------------------------------------
def test_the_identity_key_signs_cards_and_rotations_of_its_own_node(alder: TestNode) -> None:
    number = alder.chain.head.n + 1
    assert judged(asked_for_card(alder), alder) == f"key statement {number}, card"
    shown, caught = hybrid("alder", "next"), Caught(alder.identity, IDENTITY)
    rotation = Rotation((shown.public,), 1, (identity_digest(hybrid("x", "y").public),), 1)
    make_rotate(rotation, chain=alder.chain, issued=NOW, old={0: caught}, new=[shown])  # type: ignore[dict-item]
    assert judged(caught.asked[0], alder) == f"key statement {number}, rotate"


def test_the_identity_key_signs_no_recovery(alder: TestNode) -> None:
    caught = Caught(alder.identity, IDENTITY)
    rotation = Rotation((alder.identity.public,), 1, (identity_digest(hybrid("x", "y").public),), 1)
    make_recover(rotation, chain=alder.chain, issued=NOW, signers=[caught])  # type: ignore[list-item]
    with pytest.raises(DecodeError, match="recover"):
        judged(caught.asked[0], alder)


def test_the_message_key_signs_envelopes_notices_and_new_slots(
    alder: TestNode, birch: TestNode
) -> None:
    assert judged(asked_for_envelope(alder, birch), alder).startswith("envelope ")
    notice = Notice(NETWORK, alder.id, 1, seed("an", "opener"), Fault.SLOT, NOW)
    said = Sign(MESSAGE, suite.label("unopened") + notice.encode(), b"")
    assert judged(said, alder) == "notice of an epoch that does not open"
    slot = NewSlot(
        NETWORK, alder.id, 1, seed("an", "opener"), birch.id, birch.card.seal[0].ekid,
        bytes(limits.SLOT_SIZE), NOW,
    )  # fmt: skip
    again = Sign(MESSAGE, suite.label("sealed-again") + slot.encode(), b"")
    assert judged(again, alder) == "new slot for a reader"
    told = Exposure(
        NETWORK, alder.id, 1, birch.id, alder.card.seal[0].ekid, NOW, NOW, NOW,
        tuple(sorted(seed("an", str(n)) for n in range(limits.MAX_EXPOSED))),
    )  # fmt: skip
    lost = Sign(MESSAGE, suite.label("exposed") + told.encode(), b"")
    assert agent.parse_request(agent.encode_request(lost)) == lost
    assert judged(lost, alder) == "report of a lost sealing key"
    for foreign in (said, again, lost):
        with pytest.raises(DecodeError, match="another node"):
            judged(foreign, birch)


def test_foreign_bytes_are_refused(alder: TestNode, birch: TestNode) -> None:
    card, envelope = asked_for_card(alder), asked_for_envelope(alder, birch)
    refused = {
        "text": Sign(IDENTITY, b"text", b"text"),
        "no source": replace(card, source=b""),
        "a digest alone": Sign(IDENTITY, suite.label("key/card") + bytes(32), card.source),
        "another label": replace(card, message=card.message.replace(b"key/card", b"key/rotate")),
        "an envelope": replace(envelope, key=IDENTITY),
        "a statement under the message key": replace(card, key=MESSAGE),
        "a log head": Sign(MESSAGE, b"test.example/log\n1\nAAAA\n", b""),
        "a hello": Sign(IDENTITY, suite.label("link/dialer") + bytes(32), b""),
        "a suspension": Sign(IDENTITY, suite.label("suspend") + bytes(32), b""),
        "an envelope of another digest": replace(envelope, message=envelope.message[:-1] + b"\0"),
        "an envelope with more behind it": replace(envelope, message=envelope.message + b"\0"),
        "of another node": asked_for_card(birch),
        "an envelope of another node": asked_for_envelope(birch, alder),
    }  # fmt: skip
    for name, request in refused.items():
        with pytest.raises(PeerError):
            judged(request, alder)
            pytest.fail(f"it signed {name}")
    with pytest.raises(DecodeError, match="another network"):
        agent.judge(card, network=suite.network_id("other.example"), node_id=alder.id)


def test_a_skeleton_is_no_statement_to_sign(alder: TestNode) -> None:
    card = asked_for_card(alder)
    statement = make_card(alder.card, chain=alder.chain, issued=NOW, signer=alder.identity)
    with pytest.raises(PeerError):
        judged(replace(card, source=encode([statement.core, None])), alder)


# --- frames ----------------------------------------------------------------------------------
def test_requests_and_answers_survive_their_encoding(alder: TestNode) -> None:
    card = asked_for_card(alder)
    for request in (agent.About(), card, Sign(MESSAGE, b"m", b"")):
        assert agent.parse_request(agent.encode_request(request)) == request
    for answer in (
        Held(NETWORK, alder.id, alder.identity.public, None),
        Held(NETWORK, alder.id, alder.identity.public, alder.message.public),
        Signed(alder.identity.sign(b"m")), Signed((alder.message.sign(b"m"),)),
        Refused("busy", "the disk is full", ""), Refused("busy", "no", "yes"),
    ):  # fmt: skip
        assert agent.parse_answer(agent.encode_answer(answer)) == answer


@pytest.mark.parametrize(
    ("data", "error"),
    [
        (b"", DecodeError),
        (b"\xc1", DecodeError),
        (encode([1]), DecodeError),
        (encode([2, "about"]), VersionError),
        (encode([1, "about", 0]), DecodeError),
        (encode([1, "sign", "storage", b"m", b""]), DecodeError),
        (encode([1, "sign", "identity", b"", b""]), DecodeError),
        (encode([1, "sign", "identity", "m", b""]), DecodeError),
        (encode([1, "sign", "identity", b"m" * 42_000, b""]), LimitError),
        (encode([1, "sign", "identity", b"m", b"s" * (limits.MAX_STATEMENT + 1)]), LimitError),
        (encode([1, "sign", "identity", b"m", b""]) + b"\0", DecodeError),
        (encode([1, "export", "identity"]), DecodeError),
    ],
)
def test_a_malformed_request_is_refused(data: bytes, error: type[PeerError]) -> None:
    with pytest.raises(error):
        agent.parse_request(data)


def test_a_frame_is_bounded() -> None:
    whole = agent.frame(b"abc")
    assert agent.frame_size(whole[:4]) == 3
    for head in (b"", b"\0\0\0\0", b"\xff\xff\xff\xff", b"\0\0\1"):
        with pytest.raises(DecodeError):
            agent.frame_size(head)
    with pytest.raises(LimitError):
        agent.frame(bytes(limits.MAX_SIGNER_FRAME + 1))


def test_signatures_are_believed_only_if_they_verify(alder: TestNode, birch: TestNode) -> None:
    held = Held(NETWORK, alder.id, alder.identity.public, alder.message.public)
    card, envelope = asked_for_card(alder), asked_for_envelope(alder, birch)
    good = alder.identity.sign(card.message)
    agent.check_signatures(card, Signed(good), held)
    agent.check_signatures(envelope, Signed((alder.message.sign(envelope.message),)), held)
    other = birch.identity.sign(card.message)
    for made in (other, (good[0], other[1]), (other[0], good[1]), good[:1], (*good, good[0])):
        with pytest.raises(SignatureError):
            agent.check_signatures(card, Signed(made), held)
    with pytest.raises(SignatureError):
        agent.check_signatures(envelope, Signed((birch.message.sign(envelope.message),)), held)
    with pytest.raises(SignatureError):
        agent.check_signatures(
            envelope, Signed((alder.message.sign(envelope.message),)), replace(held, message=None)
        )


# --- tokens ----------------------------------------------------------------------------------
@pytest.fixture
def opened(token: SoftToken) -> Iterator[Token]:
    found = Token(Place(module(), token.label), token.pin)
    yield found
    found.close()


def test_a_key_is_made_inside_and_never_comes_out(opened: Token) -> None:
    import pkcs11
    from pkcs11 import Attribute, ObjectClass

    opened.generate(LABEL)
    public = opened.public(LABEL)
    suite.verify("test", public, b"text", opened.sign(LABEL, suite.label("test") + b"text"))
    with opened._using() as (_, session):
        (key,) = session.get_objects(
            {Attribute.CLASS: ObjectClass.PRIVATE_KEY, Attribute.LABEL: LABEL}
        )
        said = [key[a] for a in (
            Attribute.SENSITIVE, Attribute.ALWAYS_SENSITIVE, Attribute.NEVER_EXTRACTABLE,
            Attribute.LOCAL, Attribute.TOKEN, Attribute.PRIVATE, Attribute.EXTRACTABLE,
        )]  # fmt: skip
        assert said == [True, True, True, True, True, True, False]
        with pytest.raises(pkcs11.AttributeSensitive):
            _ = key[Attribute.VALUE]


def test_a_key_put_in_signs_the_same_and_does_not_come_out(opened: Token) -> None:
    outside = suite.Ed25519Signer(seed("alder", "x"))
    opened.take(LABEL, seed("alder", "x"))
    assert opened.public(LABEL) == outside.public
    assert opened.sign(LABEL, b"text") == outside.sign(b"text"), "Ed25519 is deterministic"
    with pytest.raises(ConfigError, match="already"):
        opened.take(LABEL, seed("alder", "y"))
    with pytest.raises(ConfigError, match="already"):
        opened.generate(LABEL)
    assert opened.public(LABEL) == outside.public
    opened.destroy(LABEL)
    assert not opened.has(LABEL)
    opened.destroy(LABEL)


def test_a_key_that_the_token_would_give_out_is_refused(opened: Token) -> None:
    from pkcs11 import Attribute, KeyType, Mechanism
    from pkcs11.util.ec import encode_named_curve_parameters

    with opened._using() as (_, session):
        session.create_domain_parameters(
            KeyType.EC_EDWARDS,
            {Attribute.EC_PARAMS: encode_named_curve_parameters("1.3.101.112")}, local=True,
        ).generate_keypair(
            mechanism=Mechanism.EC_EDWARDS_KEY_PAIR_GEN, store=True, label=LABEL,
            private_template={Attribute.EXTRACTABLE: True, Attribute.SENSITIVE: False},
        )  # fmt: skip
    with pytest.raises(KeystoreError, match="would give out"):
        TokenSigner(opened, LABEL)


def test_both_halves_sign_and_neither_place_has_both(opened: Token) -> None:
    opened.generate(LABEL)
    held = new_vault(lambda size: seed("alder", str(size))[:size])
    del held["identity/ed25519"]
    with pytest.raises(KeystoreError, match="identity/ed25519"):
        load_vault(held)
    split = SplitSigner(TokenSigner(opened, LABEL), held["identity/mldsa65"])
    vault = load_vault(held, Outside(split))
    suite.verify_hybrid(
        "test", vault.identity.public, b"m", vault.identity.sign(suite.label("test") + b"m")
    )
    assert vault.outside.check() is None
    del held["identity/mldsa65"]
    load_vault(held, Outside(split))


def test_a_wrong_pin_is_tried_once(token: SoftToken) -> None:
    wrong = Token(Place(module(), token.label), "000000")
    with pytest.raises(WrongPassphraseError, match="does not open"):
        wrong.open()
    with pytest.raises(WrongPassphraseError, match="not tried again"):
        wrong.open()
    assert "000000" not in repr(wrong)


def test_what_is_missing_is_named(token: SoftToken, monkeypatch: pytest.MonkeyPatch) -> None:
    def fault(place: Place) -> str:
        with pytest.raises((ConfigError, KeystoreError)) as caught:
            Token(place, token.pin).public(LABEL)
        assert caught.value.fix
        return caught.value.message

    assert "no PKCS#11 module" in fault(Place("/nowhere/libx.so", token.label))
    assert "does not start" in fault(Place(__file__, token.label))
    assert "no token called 'other'" in fault(Place(module(), "other"))
    assert f"no key called '{LABEL}'" in fault(Place(module(), token.label))
    monkeypatch.setitem(sys.modules, "pkcs11", None)
    with pytest.raises(ConfigError) as caught:
        Token(Place(module(), token.label), token.pin).open()
    assert caught.value.fix == "pip install 'picket-node[hsm]'"


def test_a_token_that_is_gone_says_so_and_is_found_again(token: SoftToken, opened: Token) -> None:
    opened.generate(LABEL)
    signer = TokenSigner(opened, LABEL)
    token.pull_out()
    with pytest.raises(SignerAwayError) as caught:
        signer.sign(b"text")
    assert "nothing can be signed" in caught.value.message and caught.value.fix
    assert signer.check() is not None
    token.put_back()
    suite.verify("test", signer.public, b"m", signer.sign(suite.label("test") + b"m"))
    assert signer.check() is None


def test_a_closed_token_has_forgotten_its_pin(opened: Token) -> None:
    opened.generate(LABEL)
    signer = TokenSigner(opened, LABEL)
    signer.close()
    assert opened.pin == ""
    with pytest.raises(SignerAwayError):
        signer.sign(b"text")


def test_a_pin_is_one_line() -> None:
    assert parse_pin("1234\n") == parse_pin("1234\r\n") == parse_pin("1234") == "1234"
    for typed in ("", "\n", "12\n34", "1" * 300):
        with pytest.raises(KeystoreError):
            parse_pin(typed)
