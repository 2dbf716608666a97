"""Names that strangers gave themselves: hostile text, shown in quotes, and compared as eyes do.

Two names are alike if nothing is left to tell them apart once compatibility forms, letter case,
accents, what cannot be seen, and the commonest letters of other scripts that look like Latin ones
are taken away (after the skeleton of Unicode TR 39 section 4, with a small table of our own). It
calls too many names alike rather than too few: the answer is a warning, and a name of one's own.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable
from typing import Final

_SHOWN: Final = 80
_LIKE: Final = {
    # Cyrillic, Greek, Armenian and other Latin letters after case folding, and digits and signs.
    "a": "\u0430\u03b1\u0251", "b": "\u0432\u03b2\u044c8", "c": "\u0441\u03f2", "d": "\u0501\u0111",
    "e": "\u0435\u03b5\u0454", "g": "\u0261", "h": "\u04bb\u043d", "j": "\u0458",
    "k": "\u043a\u03ba", "l": "i1|!\u0456\u03b9\u0131\u04cf\u01c0\u0142", "m": "\u043c\u03bc",
    "n": "\u03b7\u043f\u0578", "o": "0\u043e\u03bf\u0585\u00f8", "p": "\u0440\u03c1",
    "r": "\u0433", "s": "5\u0455", "t": "\u0442\u03c4", "u": "\u03c5\u057d", "v": "\u03bd",
    "w": "\u051d\u03c9", "x": "\u0445\u03c7", "y": "\u0443", "z": "\u03b6",
}  # fmt: skip
_TABLE: Final = {ord(other): latin for latin, others in _LIKE.items() for other in others}
_SEEN: Final = frozenset({"L", "N"})
"""Letters and digits; marks, spaces, signs and what is not seen tell no names apart."""
_BLANK: Final = frozenset("\u115f\u1160\u3164\uffa0\u2800")
"""Letters that show nothing."""


def skeleton(name: str) -> str:
    """Return what is left of *name* for an eye that is in a hurry."""
    folded = unicodedata.normalize("NFKD", unicodedata.normalize("NFKC", name).casefold())
    kept = (c for c in folded if unicodedata.category(c)[0] in _SEEN and c not in _BLANK)
    text = "".join(kept).translate(_TABLE)
    return text.replace("rn", "m").replace("vv", "w") or name


def alike(name: str, others: Iterable[str]) -> str | None:
    """Return the first of *others* that reads like *name*; None if there is none."""
    wanted = skeleton(name)
    return next((other for other in others if skeleton(other) == wanted), None)


def quoted(text: str) -> str:
    r"""Return *text* between quotes on one line, with whatever could mislead a reader as \u...."""
    cut = text if len(text) <= _SHOWN else text[: _SHOWN - 1] + "…"
    return '"' + "".join(map(_escaped, cut)) + '"'


def _escaped(letter: str) -> str:
    if letter in {'"', "\\"}:
        return "\\" + letter
    if letter.isprintable() and letter not in _BLANK:
        return letter
    code = ord(letter)
    return f"\\u{code:04x}" if code <= 0xFFFF else f"\\U{code:08x}"  # noqa: PLR2004  Unicode's own
