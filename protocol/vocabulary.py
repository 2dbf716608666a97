"""The controlled vocabularies of an incident; a value outside them is refused, never guessed."""

from __future__ import annotations

from typing import Final


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


INCIDENT_TYPE: Final = _words(
    "seizure stopped_shipment suspended_shipment suspicious_shipment attempted_diversion diversion "
    "theft loss_unexplained suspicious_order suspicious_enquiry order_declined_by_industry "
    "pen_objection illicit_laboratory dump_site storage_site online_offer equipment_only "
    "new_substance mo_warning"
)
STATUS: Final = _words("open under_investigation follow_up_pending concluded prosecuted unfounded")
AGENCY_TYPE: Final = _words(
    "drug_control police customs border_guard coast_guard regulator_medicines regulator_chemicals "
    "postal_security forensic_lab intelligence_unit prosecution regional_centre international_org"
)
DISCOVERY: Final = _words(
    "risk_profile pen_check physical_inspection xray_scan canine industry_report carrier_report "
    "controlled_delivery search_warrant intelligence online_monitoring routine_audit "
    "fire_or_accident public_tip other"
)
FACILITY_TYPE: Final = _words(
    "seaport airport land_border inland_depot free_zone postal_hub courier_hub warehouse "
    "chemical_plant pharmacy_or_wholesaler vehicle residence farm forest_or_remote lab_site online "
    "other"
)
ID_STATUS: Final = _words(
    "declared_only label_only field_test presumptive_instrument laboratory_confirmed refuted"
)
ID_METHOD: Final = _words("colour_test raman ftir gcms lcms nmr other")
SUBSTANCE_ROLE: Final = _words("subject cover_load found_nearby")
"""What it was in the case: what the incident is about, what hid it, or what lay beside it."""
FORM: Final = _words(
    "solid_powder crystalline liquid solution paste gas tablet capsule oil mixture residue unknown"
)
UNIT: Final = _words("KGM GRM TNE LTR MLT MTQ HLT C62 H87")
"""UN/ECE Recommendation 20 codes: kilogram, gram, tonne, litre, millilitre, cubic metre,
hectolitre, one, piece. Never converted in a signed record."""
UNIT_SYMBOL: Final = {
    "KGM": "kg", "GRM": "g", "TNE": "t", "LTR": "L", "MLT": "mL", "MTQ": "m³", "HLT": "hL",
    "C62": "pieces", "H87": "pieces",
}  # fmt: skip
QUALIFIER: Final = _words("exact approximately at_least at_most capacity expected")
BASIS: Final = _words("net gross pure_content solution unknown")
PACKAGE: Final = _words(
    "DR 1A 3H 3A JC JY WA WG BG 5H 5M SA FX BX 4G CT CS CY CN TK VL VR VI BO BQ CI PX PK PP NE"
)
"""UN/ECE Recommendation 21 codes."""
MODE: Final = _words("0 1 2 3 4 5 6 7 8 9")
"""UN/ECE Recommendation 19 codes: 1 maritime, 2 rail, 3 road, 4 air, 5 mail, 6 multimodal,
7 fixed installation, 8 inland water, 9 unknown, 0 not specified."""
MODE_SUBTYPE: Final = _words(
    "container break_bulk express_courier passenger_baggage private_vehicle lorry_tanker on_foot"
)
LEG_ROLE: Final = _words(
    "origin transit transshipment deviation destination_declared destination_suspected interception"
)
DOCUMENT_TYPE: Final = _words(
    "bill_of_lading master_bl house_bl sea_waybill mawb hawb cmr cim postal_s10 courier_tracking "
    "export_declaration import_declaration transit_t1 mrn pre_export_notification "
    "export_authorisation import_permit end_user_certificate invoice packing_list coa sds msds_dgd "
    "contract other"
)
GENUINE: Final = _words("genuine forged altered unknown")
INCOTERM: Final = _words("EXW FCA FAS FOB CFR CIF CPT CIP DAP DPU DDP DAT DAF DES DEQ DDU")
"""Incoterms 2020, then those of earlier editions, which stand on papers for years."""
ID_DOCUMENT: Final = _words("passport national_id residence_permit driving_licence seaman other")
INCB_COPY: Final = _words("to_send sent via_pics not_intended")
PARTY_ROLE: Final = _words(
    "manufacturer distributor broker exporter consignor shipper freight_forwarder customs_agent "
    "carrier importer consignee notify_party end_user buyer seller_online payer financier driver "
    "courier warehouse_keeper landlord registrant_of_domain suspect victim_of_identity_misuse"
)
PARTY_KIND: Final = _words("org person vessel_operator")
ID_SCHEME: Final = _words(
    "vat eori lei company_register duns licence_precursor imo_company passport national_id tax "
    "other"
)
CONTACT_KIND: Final = _words(
    "phone email url domain messenger_handle marketplace_handle social_handle bank_account wallet "
    "ip"
)
VERIFICATION: Final = _words(
    "unchecked requested exists_licensed exists_unlicensed identity_misused fictitious dissolved "
    "cannot_verify"
)
INVOLVEMENT: Final = _words("unknown legitimate unwitting negligent suspected charged convicted")
ACQUISITION: Final = _words(
    "import_false_declaration domestic_diversion theft forged_permit identity_misuse front_company "
    "retail_smurfing preparation_extraction online_purchase custom_synthesis_order corrupt_insider "
    "transit_country_release unknown"
)
CONCEALMENT: Final = _words(
    "misdeclared_cargo mixed_load hidden_compartment relabelled_containers "
    "dissolved_or_impregnated masked_derivative in_machinery in_consumer_goods "
    "postal_parcels_split false_brand none other"
)
FALSE_COVER: Final = _words(
    "cleaning_agents food_additives cosmetics dyes_pigments plant_fertiliser water_treatment "
    "research_chemical textile_chemicals household_goods other"
)
PAYMENT: Final = _words("bank_transfer cash crypto hawala money_service trade_offset unknown")
DIVERSION_POINT: Final = _words(
    "manufacture storage transport export free_zone import distribution end_user retail"
)
INDICATOR: Final = _words(
    "new_customer_no_history vague_end_use inconsistent_quantity refuses_site_visit "
    "cash_or_third_party_payment unusual_route po_box_or_residential_address free_webmail "
    "no_business_website small_packages_requested unlabelled_or_rebranded_requested mobile_only "
    "urgent_delivery price_insensitive mismatch_licence cas_asked_without_name "
    "alternative_substance_asked"
)
LAB_TYPE: Final = _words(
    "synthesis extraction conversion crystallisation tableting cutting_packing "
    "precursor_conversion storage dump"
)
SCALE: Final = _words("kitchen small medium industrial")
LAB_STATUS: Final = _words("operating not_yet_used dismantled abandoned unknown")
WASTE: Final = _words("none on_site dumped buried burnt sewer unknown")
HAZARD: Final = _words(
    "toxic_gas flammable explosive corrosive gas_cylinders booby_trap contamination radiation other"
)
ATTACHMENT_KIND: Final = _words(
    "label_photo container_photo document_scan screenshot lab_report site_photo map other"
)
LINK_KIND: Final = _words(
    "same_consignment same_batch same_party same_selector same_conveyance same_mo duplicate_of "
    "supersedes result_of_followup part_of_operation"
)
RETRACT_REASON: Final = _words(
    "entered_in_error duplicate substance_refuted legal_order personal_data_erasure "
    "source_protection exercise_only"
)
ACK_LEVEL: Final = _words("opened assigned actioned")
"""In rising order. That it was received is no word of anybody: the receipt of the log says it."""
REQUEST_KIND: Final = _words(
    "backtracking verify_company verify_document pen_lookup trace_batch identify_subscriber "
    "consignments_same_party controlled_delivery_proposal sample_exchange contact_only"
)
PRIORITY: Final = _words("routine urgent immediate")
OUTCOME: Final = _words("interim final negative refused redirected")
REFUSAL: Final = _words(
    "no_legal_basis not_competent pending_proceedings handling_restriction no_capacity other"
)
PEN_ANSWER: Final = _words("no_objection objection more_time")
CONSIGNMENT_EVENT: Final = _words(
    "departed arrived handed_over seal_checked seal_broken missing diverted"
)
ONWARD: Final = _words("none ask_originator own_national_agencies peers_same_handling")
EVIDENCE_USE: Final = _words("intelligence_only ask_originator allowed")
TLP: Final = ("RED", "AMBER+STRICT", "AMBER", "GREEN", "CLEAR")
PAP: Final = ("RED", "AMBER", "GREEN", "CLEAR")
HANDLING_CODE: Final = ("H0", "H1", "H2", "H3")
SOURCE_EVALUATION: Final = ("A", "B", "C", "X")
INFORMATION_EVALUATION: Final = ("1", "2", "3", "4")
PRECISION: Final = _words("year month day hour minute")
PLATFORM: Final = _words("marketplace social_media messenger forum website dark_web other")

COUNTRIES: Final = frozenset(
    _words(
        "AD AE AF AG AI AL AM AO AQ AR AS AT AU AW AX AZ BA BB BD BE BF BG BH BI BJ BL BM BN BO BQ "
        "BR BS BT BV BW BY BZ CA CC CD CF CG CH CI CK CL CM CN CO CR CU CV CW CX CY CZ DE DJ DK DM "
        "DO DZ EC EE EG EH ER ES ET FI FJ FK FM FO FR GA GB GD GE GF GG GH GI GL GM GN GP GQ GR GS "
        "GT GU GW GY HK HM HN HR HT HU ID IE IL IM IN IO IQ IR IS IT JE JM JO JP KE KG KH KI KM KN "
        "KP KR KW KY KZ LA LB LC LI LK LR LS LT LU LV LY MA MC MD ME MF MG MH MK ML MM MN MO MP MQ "
        "MR MS MT MU MV MW MX MY MZ NA NC NE NF NG NI NL NO NP NR NU NZ OM PA PE PF PG PH PK PL PM "
        "PN PR PS PT PW PY QA RE RO RS RU RW SA SB SC SD SE SG SH SI SJ SK SL SM SN SO SR SS ST SV "
        "SX SY SZ TC TD TF TG TH TJ TK TL TM TN TO TR TT TV TW TZ UA UG UM US UY UZ VA VC VE VG VI "
        "VN VU WF WS YE YT ZA ZM ZW"
    )
) | frozenset(f"X{letter}" for letter in "ABCDEFGHIJKLMNOPQRSTUVWXYZ")
"""ISO 3166-1 alpha-2 codes, with the user-assigned XA to XZ for exercises."""
