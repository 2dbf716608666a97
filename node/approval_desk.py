"""What an operator may ask about approvals and who gives them, as JSON-able values."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from typing import Any, Final

from node.approval_words import act_words, details, short, what
from node.approvals import RESET_FIX, ApprovalBook
from node.clock import Clock, rfc3339
from protocol import limits
from protocol.approval import Operator, Policy, parse_vote
from protocol.approval_log import FirstPolicy, Ledger, NextPolicy, Request, ResetPolicy
from protocol.errors import ApprovalRecordError, PeerError, RequestError

DAY_MS: Final = 86_400_000
RESET_SHOWN_MS: Final = 30 * DAY_MS
ENDING_MS: Final = 30 * DAY_MS
Row = dict[str, Any]


class ApprovalDesk:
    """Operations on approvals, over their book."""

    def __init__(self, book: ApprovalBook, *, clock: Clock) -> None:
        """Serve *book*."""
        self._book, self._clock = book, clock

    # --- requests ----------------------------------------------------------------------------
    def requests(self) -> Row:
        """Return what waits for approvals, or is approved and not done, the oldest first."""
        ledger = self._book.ledger()
        return {"items": [self._request(ledger, each) for each in self._book.open_requests()]}

    def request(self, digest: str) -> Row:
        """Return one of them, by the first digits of its digest.

        Raises:
            NotFoundError: none, or several.
        """
        return self._request(self._book.ledger(), self._book.find(digest))

    def _request(self, ledger: Ledger, request: Request) -> Row:
        action = request.action
        counts = ledger.tally(request, now=self._clock.now())
        return {
            "digest": action.digest.hex(), "kind": action.kind.value, "what": what(action),
            "details": [{"label": label, "text": text} for label, text in details(action)],
            "asked_by": action.who, "asked_at": rfc3339(action.asked_at),
            "ends": rfc3339(action.ends), "required": counts.required,
            "approved_by": list(counts.yes), "rejected_by": list(counts.no),
            "can_vote": list(counts.open), "missing": counts.missing,
            "action": action.wire.hex(),
        }  # fmt: skip

    def vote(self, digest: str, vote: str, *, who: str) -> Row:
        """Take the signed vote, as hexadecimal digits, of an operator.

        Raises:
            RequestError: it is not hexadecimal digits, or about another request.
            PeerError: it does not verify, or may not be given; that is logged.
        """
        try:
            wire = bytes.fromhex(vote) if len(vote) <= 2 * limits.MAX_APPROVAL_VOTE else b""
        except ValueError:
            wire = b""
        if not wire or wire.hex() != vote:
            raise RequestError(
                "the vote is not lower-case hexadecimal digits", fix="use: picket approve sign"
            )
        with suppress(PeerError):  # else it is refused, and that is logged
            if not parse_vote(wire).action.hex().startswith(digest.strip().lower()):
                raise RequestError(
                    "the vote is about another request than the path names",
                    fix="see: picket approve list",
                )
        request = self._book.vote(wire, who=who)
        return self._request(self._book.ledger(), request)

    def history(self, limit: int) -> Row:
        """Return the newest *limit* acts, the newest first, in words.

        Raises:
            RequestError: the limit is out of bounds.
        """
        if not 1 <= limit <= limits.MAX_PAGE:
            raise RequestError(f"limit is outside 1 to {limits.MAX_PAGE}", fix="ask for less")
        acts = self._book.acts(limit=limit)
        names: dict[bytes, str] = {}
        for logged in acts:
            match logged.act.what:
                case FirstPolicy(policy) | NextPolicy(policy, _) | ResetPolicy(policy):
                    names |= {each.id: each.name for each in policy.operators}
                case _:
                    pass
        names |= {o.id: o.name for o in self._operators()}
        items = [
            {
                "log_index": logged.index, "at": rfc3339(logged.act.at), "by": logged.act.who,
                "act": act_words(logged.act, names),
            }
            for logged in acts
        ]  # fmt: skip
        return {"items": items}

    def _operators(self) -> tuple[Operator, ...]:
        try:
            policy = self._book.ledger().policy
        except ApprovalRecordError:  # what happened is shown all the same
            return ()
        return () if policy is None else policy.operators

    # --- operators ---------------------------------------------------------------------------
    def operators(self) -> Row:
        """Return who may approve, and how many of them must; nobody if no policy was set."""
        ledger = self._book.ledger()
        policy = ledger.policy
        if policy is None:
            return {"required": 0, "operators": [], "number": None, "set_at": None, "reset": False}
        return {**self._policy(policy), "set_at": rfc3339(ledger.set_at), "reset": ledger.reset}

    def _policy(self, policy: Policy) -> Row:
        now = self._clock.now()
        return {
            "required": policy.required,
            "operators": [
                {
                    "name": each.name, "key": each.id.hex(), "ends": rfc3339(each.ends),
                    "ended": each.ends <= now,
                }
                for each in policy.operators
            ],
            "number": policy.number,
        }  # fmt: skip

    def set_operators(self, *, required: int, lines: str, who: str) -> Row:
        """Say who may approve and how many must; if there is a policy, its operators approve it.

        Raises:
            RequestError: a line or the number is wrong.
            ApprovalNeededError: the operators of now have to approve it.
        """
        return self._policy(self._book.set_policy(required=required, lines=lines, who=who))

    def reset_operators(self, code: bytes, *, required: int, lines: str, who: str) -> Row:
        """Say so by the recovery code, whatever the operators of now say.

        Raises:
            RequestError: the code, a line or the number is wrong.
        """
        return self._policy(self._book.reset(code, required=required, lines=lines, who=who))

    # --- notices -----------------------------------------------------------------------------
    def notices(self) -> Iterator[tuple[str, str, str]]:
        """Return what needs a person: code, message and what to do."""
        try:
            ledger = self._book.ledger()
        except ApprovalRecordError as error:
            yield "approvals-changed", error.message, error.fix
            return
        policy, now = ledger.policy, self._clock.now()
        if policy is None:
            return
        for request in self._book.open_requests():
            counts = ledger.tally(request, now=now)
            have = f"{len(counts.yes)} of {counts.required} approvals"
            message = f"{have} to {what(request.action)}, until {rfc3339(request.action.ends)}"
            fix = f"picket approve show {short(request.action.digest)}"
            yield "approval-pending", message, fix
        if ledger.reset and now - ledger.set_at < RESET_SHOWN_MS:
            names = ", ".join(each.name for each in policy.operators)
            message = (
                f"who approves was reset with the recovery code at {rfc3339(ledger.set_at)}: "
                f"{policy.required} of {names}"
            )
            yield "operators-reset", message, "if nobody here did that, call your security officer"
        yield from _ending(ledger, policy, now)


def _ending(ledger: Ledger, policy: Policy, now: int) -> Iterator[tuple[str, str, str]]:
    alive = len(policy.voters(now))
    if alive < policy.required:
        message = (
            f"{policy.required} operators have to approve, and {alive} have keys that did not end"
        )
        yield "operators-lost", message, RESET_FIX
        return
    for operator in ledger.ending(now=now, within=ENDING_MS):
        ends = "has ended" if operator.ends <= now else f"ends {rfc3339(operator.ends)}"
        fix = "it makes a new one: picket operators new-key FILE; then: picket operators set"
        yield "operator-key-ending", f"the approval key of {operator.name} {ends}", fix
