"""Checks made one after the other, each taken down with what came of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from protocol.errors import PeerError

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that was checked; ``code`` is the error code of what failed, else empty."""

    name: str
    ok: bool
    detail: str
    code: str = ""


class StoppedError(Exception):
    """A check failed, so those that build on it are not made."""


@dataclass
class Ledger:
    """Takes down each check and what came of it."""

    checks: list[Check] = field(default_factory=list)

    def run(self, name: str, act: Callable[[], tuple[_T, str]]) -> _T:
        """Make the check *name*: *act* returns a value and what to say of it.

        Raises:
            StoppedError: it failed.
        """
        try:
            value, detail = act()
        except PeerError as error:
            self.checks.append(Check(name, ok=False, detail=error.message, code=error.code))
            raise StoppedError from None
        self.checks.append(Check(name, ok=True, detail=detail))
        return value

    def finish(self, names: Sequence[str]) -> tuple[Check, ...]:
        """Return all checks of *names*, those that were not reached among them."""
        rest = names[len(self.checks) :]
        return (*self.checks, *(Check(name, ok=False, detail="not reached") for name in rest))
