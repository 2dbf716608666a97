"""What incidents of a synthetic corpus are made of: substances, words, countries.

Quantities are rough, from the texture of published cases, and assumptions like the rest.
"""

# ruff: noqa: E501, RUF001  several scripts stand here on purpose; their letters count double
from __future__ import annotations

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class Stuff:
    """A substance: its row in the reference list, form, usual kilograms, cover and package."""

    id: str
    form: str
    kilograms: float
    cover: str
    hs: str
    hs_cover: str
    package: str


def _codes(text: str) -> tuple[str, ...]:
    return tuple(text.split())


def _stuff(text: str) -> tuple[Stuff, ...]:
    found = []
    for line in text.strip().splitlines():
        name, form, kilograms, cover, hs, hs_cover, package = line.split("|")
        found.append(Stuff(name, form, float(kilograms), cover, hs, hs_cover, package))
    return tuple(found)


SCHEDULED: Final = _stuff("""
acetic-anhydride|liquid|1200|acetic acid, glacial|291524|291521|JY
pseudoephedrine|solid_powder|60|food additive|293942|210690|BG
potassium-permanganate|crystalline|900|water treatment agent|284161|382499|DR
ephedrine|solid_powder|40|plant extract|293941|130219|BG
pmk-glycidate-ethyl|solid_powder|350|pigment intermediate|293299|320417|1A
bmk-glycidate-methyl|solid_powder|400|dye intermediate|291899|320412|1A
p-2-p|liquid|180|cleaning agent|291431|340290|JY
4-ap|solid_powder|4|research chemical|293339|382200|BX
apaa|solid_powder|300|rubber additive|292429|381210|BG
hydrochloric-acid|liquid|1500|descaler|280610|340290|JY
sulphuric-acid|liquid|1800|battery acid|280700|280700|WA
toluene|liquid|2500|paint thinner|290230|381400|1A
acetone|liquid|2200|nail polish remover|291411|330430|1A
ethyl-ether|liquid|300|starting fluid|290911|381400|1A
phenylacetic-acid|crystalline|500|perfume base|291634|330290|BG
safrole|oil|120|essential oil|293294|330129|JY
piperonal|crystalline|150|vanilla flavouring|293293|330210|BG
norfentanyl|solid_powder|1|laboratory standard|293339|382200|BX
""")
NON_SCHEDULED: Final = _stuff("""
depapd|solid_powder|450|textile chemical|291830|380991|1A
benzaldehyde|liquid|600|almond flavouring|291221|330210|1A
methylamine|solution|900|leather chemical|292111|380991|1A
nitroethane|liquid|250|fuel additive|290420|381190|1A
gbl|liquid|200|rim cleaner|293220|340290|JY
1-4-butanediol|liquid|400|printer ink base|290539|321590|1A
red-phosphorus|solid_powder|80|match material|280470|360500|BX
iodine|crystalline|60|disinfectant|280120|380894|BX
2-bromo-4-methylpropiophenone|crystalline|300|cosmetic raw material|291479|330499|1A
p2np|crystalline|150|dye|290420|320412|BG
formamide|liquid|700|softener|292419|380991|1A
cyclohexanone|liquid|1600|paint solvent|291422|381400|1A
1-benzyl-4-piperidone|solid_powder|10|research chemical|293339|382200|BX
ethyl-acetate|liquid|2600|adhesive thinner|291531|381400|1A
sodium-metabisulphite|solid_powder|3000|food preservative|283210|210690|BG
activated-carbon|solid_powder|2200|filter material|380210|380210|BG
""")
FREE_NAMES: Final = (
    ("Halogenated ketone, unlabelled", "34911-51-8"), ("diethyl phenylacetyl malonate", "20320-59-6"),
    ("white powder, smell of almonds", "100-52-7"), ("oil of camphor fraction", "8006-80-2"),
    ("nitrostyrene type compound", "705-60-2"), ("protected piperidine", "125541-22-2"),
)  # fmt: skip
REPORTERS: Final = _codes(
    "NL DE BE FR ES IT PL CZ AT HU RO BG GR PT SE FI DK IE SK SI HR LT LV EE GB CH NO UA BY RU KZ UZ "
    "KG TJ TM AM AZ GE TR CY MT RS BA MK AL ME MD US CA MX GT HN SV NI CR PA CO VE EC PE BO CL AR UY "
    "PY BR DO JM TT CN HK JP KR MN TH MM LA VN KH MY SG ID PH IN PK BD LK NP AF IR IQ JO LB SA AE OM "
    "QA KW BH YE EG SD LY TN DZ MA NG GH"
)  # fmt: skip
"""The order is drawn anew for each seed: it says nothing about any country."""
SUMMARIES: Final = {
    "en": "{what} {verb} at {where}; declared as {cover}.",
    "es": "{what}: {verb} en {where}; declarado como {cover}. Se desconoce el destinatario.",
    "fr": "{what} : {verb} à {where}, déclaré comme {cover}. Enquête ouverte.",
    "ru": "{what}: {verb}, место {where}; заявлено как {cover}. Ведётся проверка.",
    "zh": "{what}：{verb}，地点 {where}；申报品名为 {cover}。正在调查。",
    "ar": "{what}: {verb} في {where}؛ صُرِّح عنها باسم {cover}. التحقيق جارٍ.",
    "th": "{what}: {verb} ที่ {where} สำแดงเป็น {cover} อยู่ระหว่างการสอบสวน",
    "tr": "{what}: {verb}, yer {where}; {cover} olarak beyan edildi. Soruşturma sürüyor.",
}
NARRATIVES: Final = {
    "en": "Labels stand over older labels. The price on the invoice is about a fifth of the usual "
    "one. Samples were taken; the result is awaited. The driver says that he knows nothing.",
    "es": "Las etiquetas cubren otras más antiguas. El precio de la factura es la quinta parte del "
    "habitual. Se tomaron muestras; el resultado está pendiente.",
    "fr": "Des étiquettes en couvrent de plus anciennes. Le prix facturé est le cinquième du prix "
    "usuel. Des échantillons ont été prélevés ; le résultat est attendu.",
    "ru": "Этикетки наклеены поверх прежних. Цена в счёте впятеро ниже обычной. Отобраны образцы; "
    "результат ожидается. Водитель сведений не даёт.",
    "zh": "新标签覆盖旧标签。发票价格约为正常价格的五分之一。已取样，等待检验结果。司机称不知情。",
    "ar": "وُضِعت الملصقات فوق ملصقات أقدم. السعر في الفاتورة خُمس السعر المعتاد. أُخذت عيّنات والنتيجة "
    "منتظرة.",
    "th": "ฉลากใหม่ปิดทับฉลากเดิม ราคาในใบกำกับสินค้าต่ำกว่าปกติห้าเท่า เก็บตัวอย่างแล้วรอผลตรวจ",
    "tr": "Etiketler eskilerinin üzerine yapıştırılmış. Faturadaki fiyat olağanın beşte biri. Numune "
    "alındı; sonuç bekleniyor.",
}
VERBS: Final = {
    "en": ("seized", "stopped", "found"), "es": ("incautado", "detenido", "hallado"),
    "fr": ("saisi", "arrêté", "trouvé"), "ru": ("изъято", "задержано", "обнаружено"),
    "zh": ("查获", "截停", "发现"), "ar": ("ضُبطت", "أُوقفت", "عُثر عليها"),
    "th": ("ยึดได้", "ถูกระงับ", "ตรวจพบ"), "tr": ("ele geçirildi", "durduruldu", "bulundu"),
}  # fmt: skip
FACILITIES: Final = {
    "1": "seaport", "2": "inland_depot", "3": "land_border", "4": "airport", "5": "postal_hub",
    "8": "inland_depot", "9": "warehouse", "": "lab_site",
}  # fmt: skip
MODE_FACTOR: Final = {
    "1": 6.0,
    "2": 3.0,
    "3": 1.0,
    "4": 0.02,
    "5": 0.005,
    "8": 2.0,
    "9": 0.5,
    "": 0.2,
}
"""How a usual quantity changes with the mode of transport."""
MAKERS: Final = (
    "Karst Chemical Works", "Ostrel Synthesis", "Meridan Reagents", "Lowfen Laboratories",
    "Tarnova Kombinat", "Sulien Fine Chemicals", "Quarrow Industrial", "Pellan Basics",
)  # fmt: skip
"""Makers whose goods many incidents name: no link by themselves."""
CARRIERS: Final = ("Northmere Line", "Albion Feeder", "Corvid Air Cargo", "Ostland Spedition")
