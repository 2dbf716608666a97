"""Make protocol/data/countries.json from pycountry (codes) and CLDR as Babel has it (names).

Run it when either has a new version: ``python -m tests.data.make_reference``. Neither is needed
to run Picket.
"""

from __future__ import annotations

import importlib.metadata
import json
import unicodedata
from pathlib import Path
from typing import Any, Final

LANGUAGES: Final = ("ar", "en", "es", "fr", "ru", "zh")
TARGET: Final = Path(__file__).parents[2] / "protocol" / "data" / "countries.json"
VERSION: Final = "2026-11-25"
SOURCES: Final = {"pycountry": "26.2.16", "Babel": "2.18.0"}
"""The versions that the committed file was made with."""


def installed() -> dict[str, str]:
    """Return the versions of the sources here; an empty text where one is missing."""
    found = {}
    for name in SOURCES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = ""
    return found


def countries() -> str:
    """Return the file."""
    import pycountry
    from babel import Locale

    names = {language: Locale.parse(language).territories for language in LANGUAGES}
    rows: list[dict[str, Any]] = [
        {
            "code": country.alpha_2,
            "alpha3": country.alpha_3,
            "numeric": country.numeric,
            "names": {
                language: unicodedata.normalize("NFC", known[country.alpha_2])
                for language, known in names.items()
            },
        }
        for country in sorted(pycountry.countries, key=lambda each: str(each.alpha_2))
    ]
    head = {
        "list": "countries",
        "version": VERSION,
        "meaning": {
            "code": "ISO 3166-1; user-assigned codes (AA, QM to QZ, XA to XZ, ZZ) are not in it",
            "names": "short names in the six languages of the United Nations, as CLDR has them; "
            "no statement on the status of any territory",
        },
        "sources": [f"{name} {version}" for name, version in installed().items()],
        "licence": "codes: ISO 3166-1 by way of Debian's iso-codes (LGPL-2.1-or-later); "
        "names: Unicode CLDR (Unicode-3.0)",
    }
    return formatted(head, rows)


def formatted(head: dict[str, Any], rows: list[dict[str, Any]]) -> str:
    """Return the text of a list: the head readable, each row on a line of its own."""
    first = json.dumps(head, ensure_ascii=False, indent=1).removesuffix("\n}")
    lines = ",\n  ".join(json.dumps(row, ensure_ascii=False) for row in rows)
    return f'{first},\n "rows": [\n  {lines}\n ]\n}}\n'


if __name__ == "__main__":
    TARGET.write_text(countries(), encoding="utf-8")
