"""Invented firms with a name in the script of their country and the Latin forms that are met.

- The Latin forms are written by hand, as several systems of transliteration and plain habit have
  them; no program that matches names made them.
- Places are invented. Any likeness to a firm that exists is chance; each incident is marked as an
  exercise.
- Firm number n of a culture is always the same one, and no two numbers give the same name.
"""

# ruff: noqa: E501, PLR2004, RUF001  several scripts stand here on purpose; their letters count double
from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import Final

Part = tuple[str, ...]
"""A part of a name in its own script, then its Latin forms; the first of these is the usual one."""


def _parts(text: str) -> tuple[Part, ...]:
    return tuple(tuple(word.replace("_", " ").split("/")) for word in text.split())


@dataclass(frozen=True, slots=True)
class Culture:
    """How firms of some countries are called."""

    name: str
    countries: tuple[str, ...]
    places: tuple[Part, ...]
    first: tuple[Part, ...]
    second: tuple[Part, ...]
    third: tuple[Part, ...]
    trades: tuple[tuple[str, ...], ...]
    forms: tuple[tuple[str, str], ...]
    pattern: str
    latin: str

    @property
    def size(self) -> int:
        """How many firms it has."""
        found = len(self.trades)
        for parts in (self.places, self.first, self.second, self.third):
            found *= len(parts)
        return found


def _trades(*rows: str) -> tuple[tuple[str, ...], ...]:
    return tuple(tuple(row.split("|")) for row in rows)


_HAN: Final = Culture(
    "han", ("CN", "HK", "TW"),
    _parts("云岭/Yunling 松河/Songhe 柳港/Liugang 白川/Baichuan 石塘/Shitang 青浦湾/Qingpuwan "
           "北渡/Beidu 长溪/Changxi 乌山/Wushan 临沙/Linsha"),
    _parts("华/Hua 瑞/Rui 盛/Sheng 恒/Heng 隆/Long 丰/Feng 康/Kang 达/Da 宏/Hong 博/Bo 凯/Kai 润/Run "
           "嘉/Jia 海/Hai 天/Tian 永/Yong 德/De 启/Qi 鸿/Hong 泽/Ze"),
    _parts("新/Xin 泰/Tai 源/Yuan 利/Li 远/Yuan 邦/Bang 晨/Chen 科/Ke 美/Mei 宁/Ning 特/Te 创/Chuang "
           "森/Sen 立/Li 欧/Ou 赛/Sai"),
    _parts("/ 尔/er 斯/si 通/tong 林/lin 安/an 达/da 顿/dun"),
    _trades("化工|Chemical|Chem|Chemicals", "贸易|Trading|Trade", "医药|Pharmaceutical|Pharma",
            "进出口|Import & Export|Imp. & Exp.", "科技|Technology|Tech"),
    (("有限公司", "Co., Ltd."), ("有限责任公司", "Company Limited"), ("股份有限公司", "Co Ltd")),
    "{place}{root}{trade}{form}", "{place} {root} {trade} {form}",
)  # fmt: skip
_CYRILLIC: Final = Culture(
    "cyrillic", ("RU", "KZ", "UA", "BY", "KG", "BG"),
    _parts("/ Верхнелужск/Verkhneluzhsk/Verhneluzsk Ясногорье/Yasnogorye/Iasnogorie "
           "Щукино-2/Shchukino-2/Schukino-2 Заречинск/Zarechinsk/Zarecinsk Юрьевка/Yuryevka/Iurevka"),
    _parts("Щер/Shcher/Scher Жур/Zhur/Jur Яг/Yag/Iag Хол/Khol/Hol Чер/Cher/Tcher Цвет/Tsvet/Cvet "
           "Юж/Yuzh/Iuj Вяз/Vyaz/Viaz Люб/Lyub/Liub Ряб/Ryab/Riab Грач/Grach/Gratch Сев/Sev "
           "Берез/Berez Орл/Orl Сокол/Sokol Медв/Medv Тих/Tikh/Tih Луж/Luzh/Luj"),
    _parts("ов/ov/off ин/in ец/ets/ec еч/ech/etch ян/yan/ian уж/uzh/uj ник/nik иц/its/ic ар/ar"),
    _parts("реактив/reaktiv/reactiv продукт/produkt/product снаб/snab ресурс/resurs "
           "синтез/sintez/sintes комплект/komplekt"),
    _trades("Химия|Khimiya|Himiya|Chemistry|Khimiia", "Торговля|Torgovlya|Trading|Trade",
            "Импекс|Impex|Impeks", "Фарма|Farma|Pharma"),
    (("ООО", "OOO"), ("АО", "JSC"), ("ООО", "LLC"), ("ТОО", "LLP")),
    "{form} «{root} {place} {trade}»", "{root} {place} {trade} {form}",
)  # fmt: skip
_ARABIC: Final = Culture(
    "arabic", ("AE", "EG", "JO", "IQ", "SA", "LB", "SY", "MA"),
    _parts("/ الرملة-9/Ramla-9/Al-Ramlah-9 الوادي-4/Wadi-4/El-Wadi-4"),
    _parts("نورين/Nourin/Noorin/Nureen زهران/Zahran/Zehran مرجان/Murjan/Morgan/Marjan "
           "سمحان/Samhan/Semhan وديان/Widyan/Wedian قصواء/Qaswa/Kaswaa جبرين/Jibreen/Gibrin "
           "شهلان/Shahlan/Chahlane خلدان/Khaldan/Kheldan ثريان/Thuryan/Thurayan "
           "برهوم/Barhoum/Barhum كنانة/Kinana/Kenanah غزوان/Ghazwan/Gazwan فيروز/Fayrouz/Fairuz "
           "تمراز/Timraz/Temraz صفدان/Safdan دلمون/Dilmun/Delmon"),
    _parts("الحديثة/Al-Haditha/El-Hadithah المتحدون/Al-Muttahidun/Elmottahidoun "
           "الشرقية/Al-Sharqiya/Ash-Sharqiyah السريعة/Al-Saria/As-Saree'a "
           "الأفق/Al-Ufuq/Al-Ofok الرواسي/Al-Rawasi/Er-Rawassi المنارتان/Al-Manaratan/Elmanaratan "
           "الجوهرة/Al-Jawhara/El-Gohara البركان/Al-Burkan/Al-Borkan"),
    _parts("/ بهدور/Bahdur/Behdour كرشان/Karshan/Kerchane زلفان/Zulfan/Zolfan طيبان/Taiban/Tayban "
           "حمران/Humran/Homrane"),
    _trades("للكيماويات|Chemicals|Chemical", "للتجارة|Trading|Trade", "للأدوية|Pharma|Pharmaceuticals"),
    (("شركة", "LLC"), ("مؤسسة", "Est."), ("شركة", "Co.")),
    "{form} {root} {place} {trade}", "{root} {place} {trade} {form}",
)  # fmt: skip
_THAI: Final = Culture(
    "thai", ("TH",),
    _parts("/ บางนาแก้ว/Bang_Na_Kaeo/Bangnakaew ท่าทราย/Tha_Sai/Thasai"),
    _parts("สยาม/Siam/Sayam รุ่ง/Rung/Roong เจริญ/Charoen/Jaroen ศิริ/Siri ไพศาล/Phaisan/Paisarn "
           "วัฒนา/Watthana/Wattana มงคล/Mongkhon/Mongkol พร/Phon/Porn ชัย/Chai สุวรรณ/Suwan "
           "อมร/Amon/Amorn บุญ/Bun/Boon"),
    _parts("ทอง/thong/tong กิจ/kit/kij ทรัพย์/sap/sub สิน/sin พานิช/phanit/panich โชค/chok/choke "
           "นคร/nakhon/nakorn ลาภ/lap/larp"),
    _parts("/ ไทย/Thai แลนด์/Land มาร์เก็ต/Market"),
    _trades("เคมี|Chemical|Chemicals", "เทรดดิ้ง|Trading", "การค้า|Trading|Trade"),
    (("จำกัด", "Co., Ltd."), ("จำกัด (มหาชน)", "PCL")),
    "บริษัท {root} {place} {trade} {form}", "{root} {place} {trade} {form}",
)  # fmt: skip
_ACCENTED: Final = Culture(
    "accented", ("MX", "CO", "ES", "PE", "TR", "PL", "FR", "BR", "CZ", "RO"),
    _parts("/ Peñalara/Penalara Gölköy/Golkoy Łęgowo/Legowo Brûlé/Brule Štěpánov/Stepanov"),
    _parts("Albarén/Albaren Ñandúa/Nandua Çeltik/Celtik Żurawia/Zurawia Écluse/Ecluse Öztürel/Ozturel "
           "Maçarico/Macarico Příbor/Pribor Găvana/Gavana Cigüeña/Ciguena Sérendal/Serendal "
           "Őrség/Orseg Tüköz/Tukoz Jalón/Jalon Łabędź/Labedz"),
    _parts("/ Ríos/Rios Güneş/Gunes Świt/Swit Forêt/Foret Açude/Acude Dvůr/Dvur Lună/Luna "
           "Peña/Pena"),
    _parts("/ Sur/Sur Nord/Nord Este/Este Alto/Alto"),
    _trades("Química|Quimica|Chemicals", "Kimya|Kimya|Chemie", "Comercial|Comercial|Trading",
            "Farmacéutica|Farmaceutica|Pharma"),
    (("S.A. de C.V.", "SA de CV"), ("S.A.", "SA"), ("A.Ş.", "AS"), ("Sp. z o.o.", "Sp z oo"),
     ("SARL", "S.A.R.L.")),
    "{root} {place} {trade} {form}", "{root} {place} {trade} {form}",
)  # fmt: skip
_PLAIN: Final = Culture(
    "plain", ("IN", "GB", "US", "ZA", "NG", "KE", "PK", "NL", "DE", "BE", "CH", "AU", "SG", "MY"),
    _parts("/ Oakmere/Oakmere Thornhaven/Thornhaven Ravelsby/Ravelsby Kestrow/Kestrow"),
    _parts("Hald/Hald Karst/Karst Orlan/Orlan North/North Vyr/Vyr Bram/Bram Tess/Tess Quill/Quill "
           "Mund/Mund Sarv/Sarv Delph/Delph Jask/Jask Fenn/Fenn Rook/Rook Wex/Wex Ullo/Ullo "
           "Priy/Priy Gand/Gand Zell/Zell Crow/Crow"),
    _parts("en/en mere/mere ada/ada ington/ington ova/ova eth/eth ikon/ikon urst/urst amar/amar "
           "olan/olan esh/esh wick/wick"),
    _parts("/ Vale/Vale Bridge/Bridge Apex/Apex Prime/Prime Delta/Delta Union/Union"),
    _trades("Chemicals|Chemicals|Chem.|Chemical", "Trading|Trading|Trade", "Reagents|Reagents",
            "Pharma|Pharma|Pharmaceuticals", "Industries|Industries|Ind."),
    (("Ltd", "Limited"), ("LLC", "L.L.C."), ("GmbH", "GmbH"), ("B.V.", "BV"),
     ("Pvt. Ltd.", "Private Limited")),
    "{root} {place} {trade} {form}", "{root} {place} {trade} {form}",
)  # fmt: skip
CULTURES: Final = (_HAN, _CYRILLIC, _ARABIC, _THAI, _ACCENTED, _PLAIN)
WEIGHTS: Final = (28.0, 13.0, 12.0, 5.0, 17.0, 25.0)
_STRIDE: Final = 1_000_003
"""Prime: its multiples visit every firm of a culture before the first comes again."""


@dataclass(frozen=True, slots=True)
class Firm:
    """One firm; ``parts`` are those of its name, in their own script and in Latin forms."""

    number: int
    culture: Culture
    country: str
    place: Part
    root: tuple[Part, ...]
    trade: tuple[str, ...]
    form: tuple[str, str]

    @property
    def domain(self) -> str:
        """Return a domain that can never be registered."""
        root = "".join(latin(part, 0) for part in self.root)
        return f"{_letters(root)}-{self.culture.name[0]}{self.number}.example"

    def native(self) -> str:
        """Return its name in the script of its country."""
        root = "".join(part[0] for part in self.root)
        if self.culture.name in {"arabic", "accented"}:
            root = " ".join(part[0] for part in self.root if part[0])
        return _spaced(
            self.culture.pattern.format(
                place=self.place[0], root=root, trade=self.trade[0], form=self.form[0]
            )
        )

    def latin(self, dice: Random) -> str:
        """Return its name in Latin letters, as one of several people would write it."""
        roots = [latin(part, dice.randrange(9)) for part in self.root]
        roots = [part for part in roots if part]
        glue = " " if self.culture.name in {"arabic", "accented"} else ""
        if self.culture.name == "han" and dice.random() < 0.3:
            glue = dice.choice((" ", "-"))
        root = glue.join(roots)
        if glue == "":
            root = root[:1].upper() + root[1:].lower()
        trade = self.trade[1 + dice.randrange(len(self.trade) - 1)]
        name = self.culture.latin.format(
            place=latin(self.place, dice.randrange(9)), root=root, trade=trade,
            form=dice.choice((self.form[1], self.form[1], "")),
        )  # fmt: skip
        name = _spaced(name)
        return name.upper() if dice.random() < 0.2 else name

    def written(self, dice: Random, *, native: float) -> str:
        """Return one of its names: with the probability *native* that of its own script."""
        return self.native() if dice.random() < native else self.latin(dice)


def latin(part: Sequence[str], choice: int) -> str:
    """Return a Latin form of a part; 0 is the usual one."""
    forms = part[1:] or part
    return forms[choice % len(forms)]


def _letters(text: str) -> str:
    return "".join(c for c in text.lower() if "a" <= c <= "z")


def _spaced(text: str) -> str:
    return " ".join(text.replace(" »", "»").split())


class Firms:
    """A supply of firms, each other than all before it."""

    def __init__(self, dice: Random) -> None:
        """Draw from *dice*."""
        self._dice = dice
        self._next = dict.fromkeys(range(len(CULTURES)), 0)

    def __call__(self) -> Firm:
        """Return the next firm."""
        at = self._dice.choices(range(len(CULTURES)), WEIGHTS)[0]
        self._next[at] += 1
        return firm(at, self._next[at], self._dice.choice(CULTURES[at].countries))


def firm(culture: int, number: int, country: str) -> Firm:
    """Return firm *number* of a culture; beyond the last one names come again with a number."""
    chosen = CULTURES[culture]
    again, at = divmod(number, chosen.size)
    at = (at * _STRIDE) % chosen.size
    parts: list[Part] = []
    for each in (chosen.places, chosen.first, chosen.second, chosen.third):
        at, index = divmod(at, len(each))
        parts.append(each[index])
    place = tuple(f"{name} {again + 1}" for name in parts[0]) if again else parts[0]
    return Firm(
        number, chosen, country, place, tuple(parts[1:]), chosen.trades[at % len(chosen.trades)],
        chosen.forms[number % len(chosen.forms)],
    )  # fmt: skip
