"""How text is compared when it is searched: folded to plain tokens, the same for text and query.

- Case, accents, full-width forms, the forms of alef and yeh, short vowels of Arabic and the
  national digits make no difference; nothing that is stored changes.
- Scripts written without blanks (Han, kana, Hangul, Thai, Lao, Khmer, Burmese) become pairs of
  characters, so that two of them are found wherever they stand; the last one stands alone, so that
  one is found too.
- A token never holds a blank, a quote, ``=`` or ``#``: the last two mark what is no word.
"""

# ruff: noqa: RUF001  several scripts stand here on purpose
from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from typing import Final

MAX_TOKEN: Final = 48
"""Characters of one token; what is longer is cut, in texts and queries alike."""

# Letters that no normalization form takes apart, and Arabic letters that are written for each
# other (Unicode: U+0640 is the tatweel, U+0621 the hamza; Persian has a kaf and a yeh of its own).
_ALIKE: Final = str.maketrans(
    {
        "ø": "o", "ł": "l", "đ": "d", "ð": "d", "þ": "th", "æ": "ae", "œ": "oe", "ħ": "h",
        "ı": "i", "ŧ": "t", "ŋ": "n", "ə": "a",
        "\u0671": "\u0627", "\u0649": "\u064a", "\u06cc": "\u064a", "\u06a9": "\u0643",
        "\u0629": "\u0647", "\u06c1": "\u0647", "\u0640": None, "\u0621": None,
    }
)  # fmt: skip
# Marks that are dropped: of Latin, Greek and Cyrillic; of Hebrew; of Arabic, with the hamza above
# and below. Those of Thai and Indic scripts are letters, and stay.
_MARKS: Final = re.compile(
    "[\u0300-\u036f\u0591-\u05bd\u05bf\u05c1\u05c2\u0610-\u061a\u064b-\u065f\u0670\u06d6-\u06ed]"
)
_DENSE: Final = (
    "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7a3"
    "\uf900-\ufaff\U00020000-\U0003ffff"
)
_FOREIGN_DIGIT: Final = re.compile(r"(?![0-9])\d")
_PLAIN_RUN: Final = re.compile("[a-z0-9]+")
_RUN: Final = re.compile(rf"(?P<dense>[{_DENSE}]+)|(?:(?![{_DENSE}])[^\W_])+")


def fold(text: str) -> str:
    """Return *text* as it is compared, still with its blanks and punctuation."""
    if text.isascii():
        return text.lower()
    plain = unicodedata.normalize("NFKC", text).casefold().translate(_ALIKE)
    bare = unicodedata.normalize("NFC", _MARKS.sub("", unicodedata.normalize("NFD", plain)))
    return _FOREIGN_DIGIT.sub(
        lambda found: str(unicodedata.decimal(found[0])), bare.translate(_ALIKE)
    )


def compact(text: str) -> str:
    """Return the letters and digits of *text* alone, as numbers of any kind are compared."""
    return "".join(c for c in fold(text) if c.isalnum())


def tokens(text: str) -> Iterator[str]:
    """Yield the tokens under which *text* is found, in order."""
    plain = fold(text)
    if plain.isascii():
        for run in _PLAIN_RUN.findall(plain):
            yield run[:MAX_TOKEN]
        return
    for found in _RUN.finditer(plain):
        run = found[0]
        if found["dense"] is None:
            yield run[:MAX_TOKEN]
        else:
            yield from (run[at : at + 2] for at in range(len(run)))


def asked(text: str) -> Iterator[tuple[str, ...]]:
    """Yield for each part of a query between blanks the tokens that must follow each other.

    A single character of a script without blanks is yielded with ``*`` behind it: it begins a pair.
    """
    for part in text.split():
        wanted: list[str] = []
        for found in _RUN.finditer(fold(part)):
            run = found[0]
            if found["dense"] is None:
                wanted.append(run[:MAX_TOKEN])
            elif len(run) == 1:
                wanted.append(f"{run}*")
            else:
                wanted += [run[at : at + 2] for at in range(len(run) - 1)]
        if wanted:
            yield tuple(wanted)
