"""How alike two names of firms are, across scripts and systems of transliteration.

- A name is taken apart into what it says of the form of the firm (dropped), of its trade (compared
  as a few words, whatever the language), and the rest, its core.
- Cores of one script are compared in it; others in Latin letters (``anyascii``), by the sounds that
  systems of transliteration write in several ways, and by their consonants where a script has no
  vowels.
- A likeness is a number from 0 to 100. It is a hint for an officer, who decides.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import Final

ALIKE: Final = 88
"""From this likeness on two names are shown as perhaps the same firm."""
_MIN_CORE: Final = 4
_MIN_SKELETON: Final = 3
_LONG_SKELETON: Final = 6


def _set(text: str) -> frozenset[str]:
    return frozenset(text.split())


# Words that name the form of a firm, or nothing: dropped. Folded, as ``_words`` yields them.
_FORMS: Final = _set(
    "ltd limited llc llp plc inc corp corporation co company gmbh ag kg ohg sa sas sarl spa srl "
    "oo z pcl "
    "bv nv ab as oy oyj aps sro doo zoo sp spolka kft zrt ooo oao zao pao ao ip tov pjsc jsc fze "
    "fzco fzc wll est sdn bhd pte pty pvt private public cv de del la el le les des du of and the "
    "y et und for al an ltda cia sanayi ve ticaret sti san tic anonim sirketi mbh kabushiki kaisha "
    "mfg establishment firma"
)
# The trade, in the words of several languages; what stands behind the equals sign is compared.
_TRADES: Final = {
    word: meaning
    for meaning, words in {
        "chem": "chemical chemicals chemie chemische chimie chimique chimiques quimica quimicas "
        "quimicos chimica kimya kimyasal himiya khimiya khimicheskaya khimicheskie himicheskaya "
        "himiia khimiia khim kimia chem chemi kemi reagent reagents reaktiv reactivos reactifs "
        "chemco kimyevi",
        "trade": "trading trade trades commerce comercial comercializadora negoce handel handels "
        "torgovlya torgovyy torgovy torgovaya torg tijara tijarah dagitim pazarlama",
        "impex": "impex imp exp impeks import imports export exports importexport eksport ithalat "
        "ihracat "
        "importadora exportadora vneshtorg",
        "pharma": "pharma pharmaceutical pharmaceuticals pharmaceutique farma farmaceutica farm "
        "farmatsiya pharmacy ilac medical medicine",
        "industry": "industry ind industries industrial industrie industria industrias "
        "promyshlennost prom sanat sanaat works factory fabrik zavod usine fabrica",
        "tech": "tech technology technologies tecnologia teknoloji tekhnologii",
        "lab": "laboratory laboratories lab labs laboratorios laboratoire laboratoriya",
        "intl": "international intl global worldwide internacional mezhdunarodnaya",
        "group": "group holding holdings grupo gruppa groupe",
        "logistics": "logistics logistic logistik logistica logistique logistika lojistik "
        "freight forwarding shipping cargo",
    }.items()
    for word in words.split()
}
# The same in scripts whose words cannot be told apart after transliteration; the longest first.
_NATIVE: Final = (
    ("有限责任公司", ""), ("股份有限公司", ""), ("有限公司", ""), ("集团", "group"),
    ("公司", ""), ("株式会社", ""), ("进出口", "impex"), ("化学试剂", "chem"), ("化学", "chem"),
    ("化工", "chem"), ("貿易", "trade"), ("贸易", "trade"), ("商贸", "trade"), ("医药", "pharma"),
    ("制药", "pharma"), ("工业", "industry"), ("實業", "industry"), ("实业", "industry"),
    ("科技", "tech"), ("国际", "intl"), ("物流", "logistics"), ("厂", "industry"),
    ("شركة", ""), ("مؤسسة", ""), ("المحدودة", ""), ("ذ.م.م", ""), ("للكيماويات", "chem"),
    ("الكيماويات", "chem"), ("كيماويات", "chem"), ("الكيميائية", "chem"), ("للتجارة", "trade"),
    ("التجارية", "trade"), ("تجارة", "trade"), ("للصناعة", "industry"), ("الصناعية", "industry"),
    ("للأدوية", "pharma"), ("الدولية", "intl"), ("للاستيراد والتصدير", "impex"),
    ("والتصدير", "impex"), ("للاستيراد", "impex"), ("مجموعة", "group"),
    ("บริษัท", ""), ("จำกัด", ""), ("(มหาชน)", ""), ("เคมีภัณฑ์", "chem"), ("เคมีคอล", "chem"),
    ("เคมี", "chem"), ("เทรดดิ้ง", "trade"), ("การค้า", "trade"), ("อุตสาหกรรม", "industry"),
    ("อินเตอร์เนชั่นแนล", "intl"), ("กรุ๊ป", "group"),
)  # fmt: skip
_ABJAD: Final = re.compile("[\u0590-\u05ff\u0600-\u06ff\u0750-\u077f\u0e00-\u0e7f]")
_HAN: Final = re.compile("[\u3400-\u9fff]")
_THAI: Final = re.compile("[\u0e00-\u0e7f]")
_OWN_SCRIPT: Final = re.compile("[\u0400-\u0eff\u3040-\u9fff\uac00-\ud7a3]")
_ARTICLE: Final = re.compile("(?<![\u0600-\u06ff])\u0627\u0644(?=[\u0600-\u06ff]{3})")
"""The article of Arabic, which Latin forms write in many ways, or leave out."""
_LATIN_ARTICLE: Final = re.compile(
    r"\b(?:al|el|ul)[- ](?=[a-z])|\b[ae](?:sh|th|dh|[rstdnzl])-(?=[a-z])|\b(?:al|el)(?=m[ou]|h[ae])"
)
# How one sound is written by several systems of transliteration, the longest first.
_SOUNDS: Final = (
    ("shch", "S"), ("tsch", "C"), ("sch", "S"), ("tch", "C"), ("sh", "S"), ("ch", "C"),
    ("zh", "Z"), ("j", "Z"), ("kh", "h"), ("gh", "g"), ("ph", "f"), ("th", "t"), ("dh", "d"),
    ("ts", "c"), ("tz", "c"), ("off", "ov"), ("ck", "k"), ("ks", "x"), ("qu", "k"), ("q", "k"),
    ("oo", "u"), ("ou", "u"), ("ee", "i"), ("yu", "u"), ("iu", "u"), ("ya", "a"), ("ia", "a"),
    ("yo", "o"), ("io", "o"), ("ye", "e"), ("ie", "e"), ("w", "v"), ("y", "i"),
)  # fmt: skip
# For a skeleton also these are one: who notes a name by ear cannot tell them apart.
_BLUNT: Final = str.maketrans(
    {"C": "s", "S": "s", "Z": "s", "z": "s", "c": "s", "x": "s", "g": "k", "p": "b", "f": "b",
     "a": None, "e": None, "i": None, "o": None, "u": None, "h": None, "v": None}
)  # fmt: skip
_VOWELS: Final = dict.fromkeys(map(ord, "aeiou"))
_HARD: Final = re.compile("c(?![cehiy])|c$")
_LIQUID: Final = str.maketrans({"r": "n", "l": "n"})
"""Of Thai, whose letters for r and l sound as n at the end of a syllable."""
# Thai as it is spoken, which its Latin forms follow: silent letters, two that sound as one, and
# aspirates (the general system of the Royal Institute).
_THAI_SPOKEN: Final = (
    (re.compile(".\u0e4c"), ""), (re.compile("\u0e17\u0e23"), "\u0e0b"),
    (re.compile("\u0e23\u0e23"), ""), (re.compile("\u0e0d"), "\u0e19"),
    (re.compile("[\u0e02\u0e04\u0e06]"), "\u0e01"),
)  # fmt: skip
_TWICE: Final = re.compile(r"(.)\1+")


@dataclass(frozen=True, slots=True)
class Firm:
    """A name taken apart: its core in its own script, in Latin letters, by sound, by consonants."""

    native: str
    core: str
    words: tuple[str, ...]
    trades: frozenset[str]
    sounds: str
    skeleton: str
    abjad: bool
    thai: bool

    @property
    def spoken(self) -> str:
        """The consonants of the core as a speaker of Thai says them."""
        return _spoken(self.core)

    def skeletons(self) -> Iterator[str]:
        """Yield the keys under which likely others are looked up: the whole, and longer words."""
        if self.core:
            yield self.sounds
        if len(self.skeleton) >= _MIN_SKELETON:
            yield self.skeleton
            yield self.spoken
        if len(self.words) > 1:
            for word in self.words:
                short = skeleton(sound(word))
                if len(short) >= _MIN_SKELETON and short != self.skeleton:
                    yield short


def _spoken(core: str) -> str:
    """Return the consonants of a Latin core as a speaker of Thai says them."""
    plain = skeleton(sound(core.replace("kh", "k")))
    return _TWICE.sub(r"\1", plain.translate(_LIQUID))


@cache
def _native() -> tuple[tuple[str, str], ...]:
    # The compatibility form takes a vowel of Thai apart, in names and here alike.
    return tuple((unicodedata.normalize("NFKC", word), meaning) for word, meaning in _NATIVE)


@cache
def _sound_pattern() -> re.Pattern[str]:
    return re.compile("|".join(re.escape(written) for written, _ in _SOUNDS))


def sound(text: str) -> str:
    """Return Latin *text* with one letter for each sound that is written in several ways."""
    alike = dict(_SOUNDS)
    found = _sound_pattern().sub(lambda each: alike[each[0]], _HARD.sub("k", text))
    return _TWICE.sub(r"\1", found)


def skeleton(sounds: str) -> str:
    """Return the consonants of what ``sound`` returned."""
    return _TWICE.sub(r"\1", sounds.translate(_BLUNT))


@lru_cache(maxsize=8_192)
def take_apart(name: str) -> Firm:
    """Return the parts of the name of a firm."""
    # Brings tables of its own, and only those who link incidents need it.
    from anyascii import anyascii  # noqa: PLC0415

    rest = unicodedata.normalize("NFKC", name)
    trades: set[str] = set()
    own = bool(_OWN_SCRIPT.search(rest))
    if own:
        for written, meaning in _native():
            if written in rest:
                rest = rest.replace(written, " ")
                trades |= {meaning} - {""}
        rest = _ARTICLE.sub("", rest)
    native = "".join(_OWN_SCRIPT.findall(rest)) if own else ""
    thai = bool(_THAI.search(rest))
    for heard, said in _THAI_SPOKEN if thai else ():
        rest = heard.sub(said, rest)
    words = []
    for word in _words(anyascii(rest)):
        if word in _FORMS:
            continue
        if (meaning := _TRADES.get(word, "")) != "":
            trades.add(meaning)
        else:
            words.append(word)
    core = "".join(words)
    sounds = sound(core)
    return Firm(
        native, core, tuple(words), frozenset(trades), sounds, skeleton(sounds),
        bool(_ABJAD.search(rest)), thai,
    )  # fmt: skip


def _words(text: str) -> Iterator[str]:
    # S.A. and Co., Ltd. are one word each.
    plain = re.sub(r"\b(?:[A-Za-z]\.){2,}", lambda found: found[0].replace(".", ""), text)
    plain = _LATIN_ARTICLE.sub("", plain.replace("'", "").replace("`", "").lower())
    yield from re.findall(r"[a-z0-9]+", plain)


def likeness(one: Firm, other: Firm) -> int:
    """Return how alike two names are, from 0 to 100."""
    from rapidfuzz import fuzz  # noqa: PLC0415  only those who link incidents need it

    if min(len(one.core), len(other.core)) < _MIN_CORE:
        # Nothing is left but the form and the trade, or too little of a name.
        return 0
    if one.trades and other.trades and one.trades.isdisjoint(other.trades):
        return 0
    if one.native and other.native:
        # In one script homophones differ, and so do names that a transliteration blurs.
        alike = fuzz.ratio(one.native, other.native)
        return round(alike) if alike >= _SAME_NATIVE else 0
    if one.core == other.core:
        return 100
    if one.abjad or other.abjad:
        return _by_consonants(one, other)
    ordered = "".join(sorted(one.words)), "".join(sorted(other.words))
    letters = max(
        fuzz.ratio(one.core, other.core), fuzz.ratio(*ordered), fuzz.ratio(one.sounds, other.sounds)
    )
    if letters >= _SAME_LETTERS:
        return round(letters)
    if _HAN.search(one.native + other.native):
        # There is one system for it, without exceptions.
        return 0
    fine = fuzz.ratio(one.sounds.translate(_VOWELS), other.sounds.translate(_VOWELS))
    return ALIKE if fine >= _SAME_LETTERS and letters >= _SAME_SOUNDS else 0


def _by_consonants(one: Firm, other: Firm) -> int:
    """Return how alike two names are of which one is of a script that leaves vowels out."""
    from rapidfuzz import fuzz  # noqa: PLC0415

    mine, their = one.skeleton, other.skeleton
    if one.thai or other.thai:
        mine, their = one.spoken, other.spoken
    if min(len(mine), len(their)) < _MIN_SKELETON:
        return 0
    alike = fuzz.ratio(mine, their)
    needed = _SAME_LONG if min(len(mine), len(their)) >= _LONG_SKELETON else 100.0
    return round(alike) if alike >= needed else 0


_SAME_NATIVE: Final = 96.0
_SAME_LETTERS: Final = 94.0
_SAME_SOUNDS: Final = 84.0
_SAME_LONG: Final = 97.0
