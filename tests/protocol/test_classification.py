"""Each field of an incident has a class, and what tells of a person is known before it is read."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from protocol import incident as model
from protocol.classification import PRIVACY, Privacy, classified, personal_data
from protocol.incident import Incident, parse_incident
from tests.protocol.test_incident import full, minimal, models, put, record

Json = dict[str, Any]
_MAPS = {
    "Face.occurred", "Face.handling", "Face.location", "Face.contact", "Face.substances",
    "Face.drugs_found", "Face.equipment", "Face.route", "Face.mo", "Face.lab", "Face.links",
    "Handling.incb_copy", "Substance.other", "Substance.qty", "Substance.qty_expected",
    "FoundDrug.qty", "Annex.parties", "Annex.documents", "Annex.containers", "Annex.conveyances",
    "Annex.origins", "Annex.equipment_marks", "Annex.place", "Annex.online", "Annex.attachments",
    "Party.ids", "Party.contacts", "Party.id_docs", "Document.declared_value", "Packages.capacity",
    "Origin.packages", "Online.price", "Incident.face", "Incident.annex",
}  # fmt: skip


def test_every_field_of_the_model_has_a_class() -> None:
    fields = {f"{kind.__name__}.{name}" for kind in models(Incident) for name in kind.model_fields}
    assert sorted(fields - set(PRIVACY) - _MAPS) == []
    assert sorted(set(PRIVACY) - fields) == []
    assert not _MAPS & set(PRIVACY)


def test_what_may_be_shared_widely_names_nobody() -> None:
    """A face has no field about a person, but for who answers at the authority itself."""
    faces = models(model.Face)
    personal = {
        name for name, privacy in PRIVACY.items()
        if privacy >= Privacy.PERSONAL and name.split(".")[0] in {kind.__name__ for kind in faces}
    }  # fmt: skip
    assert personal == {"Contact.mailbox", "Contact.phone"}


def of_company() -> Json:
    """An annex with what is usual about a consignor, and nobody in it."""
    data = minimal()
    data["annex"] = {
        "parties": [
            {"role": "consignor", "kind": "org", "name": "Halden Reagents", "country": "XE",
             "address": "1 Dock Road", "licence_no": "L-1", "aliases": ["Halden"],
             "ids": [{"scheme": "vat", "value": "XE4471902", "country": "XE"}],
             "verification": "exists_licensed", "involvement": "legitimate"}
        ],
        "documents": [{"type": "invoice", "number": "7", "declared_value":
                       {"amount": "120.50", "currency": "EUR"}, "incoterm": "FOB"}],
        "containers": [{"no": "CSQU3054383"}],
        "conveyances": [{"leg": 1, "vessel_name": "Tern", "imo": "9074729", "wagon": "31 80"}],
        "origins": [{"substance": 1, "manufacturer": "Works", "batch_no": "B1"}],
        "place": {"facility_name": "Quay 4", "address": "Quay 4", "lat": "1.5", "lon": "-2"},
        "attachments": [{"sha256": "ab" * 32, "media_type": "image/jpeg", "size": 9,
                         "kind": "label_photo", "caption": "label"}],
    }  # fmt: skip
    return data


@pytest.mark.parametrize("data", [minimal(), of_company()], ids=["face only", "company"])
def test_a_company_is_nobody(data: Json) -> None:
    assert not personal_data(parse_incident(data))


@pytest.mark.parametrize(
    ("pointer", "value"),
    [
        ("/annex/parties/0/kind", "person"),
        ("/annex/parties/0/contacts", [{"kind": "phone", "value": "+31201234567"}]),
        ("/annex/parties/0/dob", "1970"),
        ("/annex/parties/0/nationality", "XA"),
        ("/annex/parties/0/id_docs", [{"type": "passport", "number": "P1"}]),
        ("/annex/parties/0/ids/0/scheme", "passport"),
        ("/annex/parties/0/involvement", "suspected"),
        ("/annex/conveyances/0/plate", "AB-12-CD"),
        ("/annex/conveyances/0/trailer_plate", "AB-12-CD"),
        ("/annex/online", [{"platform_type": "forum", "handle": "seller7"}]),
        ("/annex/place", {"address": "12 Home Street"}),
        ("/annex/attachments/0/contains_personal", True),
        ("/annex/narrative", "The driver said so."),
        ("/annex/mo_text", "The driver knew."),
    ],
)
def test_whatever_tells_of_a_person_counts(pointer: str, value: object) -> None:
    incident = parse_incident(put(of_company(), pointer, value))
    assert personal_data(incident)
    assert record(incident, frozenset({"face"}))["face"]["personal_data"] is True


def test_what_the_reporter_says_of_it_is_computed_anew() -> None:
    said = put(of_company(), "/face/personal_data", True)
    assert "personal_data" not in record(parse_incident(said))["face"]


def test_each_value_is_classified_at_its_place() -> None:
    incident = parse_incident(full())
    found = dict(classified(incident))
    assert found["/face/handling/tlp"] is Privacy.NONE
    assert found["/annex/narrative"] is Privacy.SUSPICION
    assert found["/annex/parties/0/name"] is Privacy.BUSINESS
    assert found["/annex/parties/0/contacts/0/value"] is Privacy.PERSONAL
    assert "/face/pap" not in found
    changed = copy.deepcopy(full())
    changed["annex"]["parties"][0]["kind"] = "person"
    assert dict(classified(parse_incident(changed)))["/annex/parties/0/name"] is Privacy.PERSONAL
