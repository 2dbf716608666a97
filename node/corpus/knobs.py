"""The assumptions behind a synthetic corpus, one name each.

None of them is a measurement, but for those that name a published source in their comment; a
benchmark that uses a corpus has to say so. Shares are of all incidents unless they say otherwise.
"""

from __future__ import annotations

import datetime
from typing import Final

VERSION: Final = 1
"""The same seed gives the same corpus for the same version."""
SIZES: Final = {"S": 1_000, "M": 25_000, "L": 600_000}
"""S: five years at the pace of a few hundred a year; M: the size of IONICS; L: stress only."""
FIRST_DAY: Final = datetime.date(2021, 9, 1)
DAYS: Final = 1_826
ZIPF_COUNTRIES: Final = 1.1
ZIPF_SUBSTANCES: Final = 1.0

TYPES: Final = {
    "seizure": 58.0,
    "stopped_shipment": 6.0, "suspended_shipment": 3.0, "suspicious_shipment": 5.0,
    "illicit_laboratory": 6.0, "dump_site": 3.0, "storage_site": 2.0,
    "suspicious_enquiry": 3.0, "suspicious_order": 2.0, "order_declined_by_industry": 2.0,
    "online_offer": 3.0,
    "attempted_diversion": 2.0, "diversion": 1.0,
    "theft": 1.0, "loss_unexplained": 1.0,
    "equipment_only": 2.0,
}  # fmt: skip
CONCERNED: Final = {1: 25.0, 2: 50.0, 3: 25.0}
"""How many countries are concerned; three stands for three or more."""
NON_SCHEDULED: Final = (0.30, 0.50)
"""Share of substances in neither table, at the beginning and at the end (2016: 30 %, INCB)."""
MORE_SUBSTANCES: Final = 0.30
"""Substances beyond the first one, on average."""
MODES: Final = {"3": 38.0, "1": 18.0, "4": 17.0, "5": 9.0, "9": 12.0, "2": 2.0, "8": 1.0, "": 3.0}
"""By code of Recommendation 19; the last is no route, as of a laboratory."""
COURIER: Final = 2 / 3
"""Of what goes by air."""
SIGMA: Final = (1.6, 2.2)
QUALIFIERS: Final = {"exact": 82.0, "approximately": 10.0, "at_least": 8.0}
LITRES_FOR_KILOGRAMS: Final = 0.12
ANCHORS: Final = {
    "A1": 0.30, "A2": 0.20, "A3": 0.18, "A4": 0.15, "A5": 0.55, "A6": 0.12, "A7": 0.25, "A8": 1.0,
}  # fmt: skip
"""At the first revision; planted links add to A1, A2, A3, A4 and A6."""
LANGUAGES: Final = {
    "en": 55.0, "es": 15.0, "fr": 8.0, "ru": 8.0, "zh": 5.0, "ar": 5.0, "th": 2.0, "tr": 2.0,
}  # fmt: skip
AMENDMENTS: Final = 0.8
"""Mean of a geometric distribution."""
RETRACTED: Final = 0.015
DELAY_DAYS: Final = (12.0, 1.3)
"""From detection to sharing: median, and sigma of its logarithm."""
FOLLOWED_UP: Final = 0.25
ATTACHMENTS: Final = (1, 6, 80_000, 4_000_000)
"""Of incidents with A7: fewest, most, smallest and largest in bytes."""

BAD_CONTAINER: Final = 0.03
"""Of containers."""
BAD_CAS: Final = 0.02
"""Of substances that are given by name and number."""
WRONG_HS: Final = 0.05
FREE_TEXT: Final = 0.06
NO_DESTINATION: Final = 0.10
"""Of routes."""

SERIES: Final = 0.055
"""Incidents at which a series of linked ones begins."""
SERIES_KINDS: Final = {
    "same_batch": 26.0, "same_selector": 28.0, "same_party": 24.0, "same_conveyance": 10.0,
    "same_consignment": 12.0,
}  # fmt: skip
SERIES_LENGTH: Final = {2: 62.0, 3: 24.0, 4: 10.0, 6: 4.0}
SERIES_DAYS: Final = {
    "same_batch": 400, "same_selector": 700, "same_party": 900, "same_conveyance": 60,
    "same_consignment": 60,
}  # fmt: skip
"""Longest time between the first and the last of a series."""
DECOYS: Final = 0.06
"""Incidents with something that looks like a link and is none."""
OTHER_SCRIPT: Final = 0.5
"""Of mentions of a firm whose own name is in another script: how often its Latin name is given."""
