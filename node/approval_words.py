"""What is asked of operators, in plain words: made of the signed action, and of no node's word."""

from __future__ import annotations

from typing import Final, assert_never

from keys.fingerprint import format_node_id
from node.clock import rfc3339
from protocol.approval import Action, Kind, Policy, parse_policy
from protocol.approval_log import (
    ApprovalAct,
    Asked,
    FirstPolicy,
    NextPolicy,
    Recovered,
    Refused,
    ResetPolicy,
    Used,
    Voted,
)

SHORT: Final = 16
"""Hexadecimal digits by which a request is called."""


def short(digest: bytes) -> str:
    """Return what people call the request *digest*."""
    return digest.hex()[:SHORT]


def what(action: Action) -> str:
    """Return in one line what *action* does."""
    subject = action.subject
    match action.kind:
        case Kind.RAISE_TRUST:
            return _raise(action)
        case Kind.ROTATE_IDENTITY:
            return "put the next identity key of this node in force"
        case Kind.REVOKE_IDENTITY:
            return "end the identity of this node for good"
        case Kind.DISCLOSE:
            return f"disclose {_message(action)} to {subject[1]!s}"
        case Kind.EXPORT_EVIDENCE:
            how = "WITH its text and key" if subject[1] else "without its text"
            return f"export evidence of {_message(action)}, {how}"
        case Kind.EXPORT_LOG:
            return "export the log with its entries" if subject[0] else "export the log's hashes"
        case Kind.CHANGE_POLICY:
            return f"change who approves: {_policy(_new_policy(action))}"
        case _:
            assert_never(action.kind)


def details(action: Action) -> list[tuple[str, str]]:
    """Return what else is signed, as labels and texts."""
    subject = action.subject
    found: list[tuple[str, str]] = []
    match action.kind:
        case Kind.RAISE_TRUST:
            found = [("peer", action.about), ("node id", _node(subject[0]))]
            labels = ("compared by way of", "compared by", "recoveries")
            for label, value in zip(labels, subject[1:], strict=False):
                found.append((label, _hex(value) or str(value)))
        case Kind.ROTATE_IDENTITY:
            found = [("next key", _hex(each)) for each in subject]
        case Kind.DISCLOSE:
            found = [
                ("incident", action.about), ("message", _hex(subject[0])),
                ("goes to", str(subject[1])), ("decided by", str(subject[2])),
                ("reason", str(subject[3])),
            ]  # fmt: skip
        case Kind.EXPORT_EVIDENCE:
            found = [
                ("incident", action.about), ("message", _hex(subject[0])),
                ("text", "with its text and key" if subject[1] else "without its text"),
                ("exported by", str(subject[2])), ("reason", str(subject[3])),
            ]  # fmt: skip
        case Kind.CHANGE_POLICY:
            policy = _new_policy(action)
            found = [("needed", f"{policy.required} of {len(policy.operators)}")]
            found += [
                ("operator", f"{o.name}, key {short(o.id)}, until {rfc3339(o.ends)}")
                for o in policy.operators
            ]
        case Kind.REVOKE_IDENTITY | Kind.EXPORT_LOG:
            pass
        case _:
            assert_never(action.kind)
    found += [
        ("at the node", format_node_id(action.node_id)), ("asked by", action.who),
        ("asked at", rfc3339(action.asked_at)), ("until", rfc3339(action.ends)),
    ]  # fmt: skip
    return [(label, text) for label, text in found if text]


def _new_policy(action: Action) -> Policy:
    (wire,) = action.subject
    assert isinstance(wire, bytes)  # noqa: S101  checked when it was parsed
    return parse_policy(wire)


def _raise(action: Action) -> str:
    name = action.about or _node(action.subject[0])
    match action.subject[1:]:
        case (method, by):
            return f"raise the trust of {name} to share, as {by!s} compared it ({method!s})"
        case (method, by, _):
            return (
                f"confirm the recovery of {name}, which gives its new keys the level share, "
                f"as {by!s} compared it ({method!s})"
            )
        case _:
            return f"raise the trust of {name} to share"


def _message(action: Action) -> str:
    name = f"message {_hex(action.subject[0])[:SHORT]}"
    return f"{name} of incident {action.about}" if action.about else name


def _node(value: object) -> str:
    return format_node_id(value) if isinstance(value, bytes) else ""


def _hex(value: object) -> str:
    return value.hex() if isinstance(value, bytes) else ""


def act_words(act: ApprovalAct, names: dict[bytes, str]) -> str:
    """Return what *act* was, in one line; *names* are operators by the id of their key."""
    match act.what:
        case FirstPolicy(policy):
            return f"policy set: {_policy(policy)}"
        case NextPolicy(policy, digest):
            return f"policy changed, as approved in {short(digest)}: {_policy(policy)}"
        case ResetPolicy(policy):
            return f"policy RESET with the recovery code: {_policy(policy)}"
        case Asked(action):
            return f"asked {short(action.digest)}: {what(action)}"
        case Voted(vote):
            said = "approved" if vote.yes else "rejected"
            return f"{names.get(vote.operator, short(vote.operator))} {said} {short(vote.action)}"
        case Used(digest):
            return f"done {short(digest)}"
        case Recovered():
            return "identity RECOVERED by the paper code, without approvals"
        case Refused(digest, code, detail):
            about = f" {short(digest)}" if digest else ""
            return f"REFUSED{about} ({code}): {detail}"
        case _:
            assert_never(act.what)


def _policy(policy: Policy) -> str:
    names = ", ".join(each.name for each in policy.operators)
    return f"{policy.required} of {len(policy.operators)}: {names}"
