"""Products of dual-energy scans are told from their names: what is no CT number at a tube voltage gives no density."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from pydicom.dataset import Dataset
from pydicom.uid import generate_uid

from pipeline.density import calibrate
from pipeline.density.conditions import with_known_voltage
from pipeline.errors import InputRefused, NotMeasurable
from pipeline.ingest import find_studies, select
from pipeline.ingest.spectral import mixed_voltages, pair_half, spectral_product, tin_filter
from pipeline.volume import Acquisition
from tests.pipeline.analytic_bones import trunk
from tests.pipeline.dicom_factory import axial_series, write


@pytest.fixture(scope="module")
def native():
    return trunk()


@pytest.mark.parametrize(
    ("facts", "named"),
    [
        ({"series_description": "Abdomen MonoE 70keV"}, "monoenergetic"),
        ({"image_type": ("DERIVED", "PRIMARY", "AXIAL", "CT_SOM5 MONO_E")}, "monoenergetic"),
        ({"series_description": "VMI_40"}, "monoenergetic"),
        ({"series_description": "Liver VNC 1.5 Qr40"}, "non-contrast"),
        ({"image_type": ("DERIVED", "SECONDARY", "AXIAL", "VUE")}, "non-contrast"),
        ({"series_description": "MD WATER(IODINE)"}, "map|iodine"),
        ({"series_description": "Z Effective"}, "atomic number"),
        ({"series_description": "Electron Density"}, "electron density"),
    ],
)
@pytest.mark.parametrize("choice", [None, "phantom", "kvp"])
def test_spectral_products_give_no_absolute_density_whatever_is_asked_for(native, facts, named, choice):
    volume, segmentation = native
    fake = replace(volume, acquisition=replace(volume.acquisition, **facts))
    with pytest.raises(NotMeasurable, match=named) as refusal:
        calibrate(fake, segmentation, choice=choice)
    assert refusal.value.reason == "spectral_image"


@pytest.mark.parametrize(
    ("facts", "named"),
    [
        ({"image_type": ("ORIGINAL", "PRIMARY", "AXIAL", "MAT_REMOVED")}, "non-contrast"),
        ({"image_type": ("ORIGINAL", "PRIMARY", "AXIAL", "EFF_ATOMIC_NUM")}, "atomic number"),
        ({"image_type": ("DERIVED", "SECONDARY", "AXIAL", "CT_SOM10 DET3D", "ME60KEV", "DEMEP")}, "monoenergetic"),
        ({"image_type": ("DERIVED", "SECONDARY", "SBI", "SBI_CSPN")}, "spectral base"),
        ({"rescale_type": "HU_MOD"}, "enhanced or suppressed"),
        ({"monoenergetic_kev": 70.0}, "monoenergetic image of 70 keV"),
        ({"derivation": "Virtual Non Contrast"}, "non-contrast"),
    ],
)
def test_the_terms_of_the_standard_and_of_makers_name_the_product(facts, named):
    assert named in (spectral_product(Acquisition(**facts)) or "")


@pytest.mark.parametrize(
    "description",
    ["VMI40", "VMI+", "keV 50", "GSI 70", "HAP(Water)", "CalSupp Idx 70", "PURECALCIUM", "PURE LUMEN", "SBI", "Virtuell nativ",
     "Elektronendichte", "Fat fraction", "Fettfraktion", "Subtraction", "Subtraktion"],
)  # fmt: skip
def test_series_names_as_sites_write_them_name_a_product(description):
    assert spectral_product(Acquisition(series_description=description)) is not None


@pytest.mark.parametrize(
    "description",
    [
        "Abdomen 3.0 I30f",
        "Thx/Abd venous 1.0 Br40",
        "MEDIASTINUM",
        "LWS knochen",
        "WATER PHANTOM QC",
        "Pure Vision 1.0",
        "SPINE L1-L5",
    ],
)
def test_names_of_plain_scans_name_none(description):
    assert spectral_product(Acquisition(series_description=description)) is None


@pytest.mark.parametrize("description", ["DE_Abdomen Sn140kV 1.5 Q30f B", "Thorax Sn100", "100kV Sn lowdose"])
def test_the_half_of_a_pair_behind_a_tin_filter_is_refused_for_what_its_voltage_would_say(native, description):
    volume, segmentation = native
    fake = replace(volume, acquisition=replace(volume.acquisition, series_description=description))
    for choice in ("auto", "internal", "kvp"):
        with pytest.raises(NotMeasurable) as refusal:
            calibrate(fake, segmentation, choice=choice)
        assert refusal.value.reason == "tin_filter"


@pytest.mark.parametrize(
    ("beam_filter", "tin"),
    [("FLAT SN", True), ("TIN", True), ("WEDGE_3 Tin", True), ("BODY FILTER", False), ("FLAT", False), (None, False)],
)
def test_a_tin_filter_is_told_from_filter_type_and_material(beam_filter, tin):
    assert tin_filter(Acquisition(series_description="Thorax 1.5", beam_filter=beam_filter)) is tin


@pytest.mark.parametrize(
    "facts",
    [
        {"series_description": "DE_Abdomen 100kV A"},
        {"kvp": 100.0, "paired_kvp": 140.0},
        {"image_type": ("ORIGINAL", "PRIMARY", "AXIAL", "CT_SOM7 SPI DUAL", "STD", "DNRG", "DET_A")},
    ],
)
def test_a_half_of_a_dual_energy_pair_is_named(facts):
    assert "half of a dual-energy pair" in (pair_half(Acquisition(**facts)) or "")


def test_a_half_of_a_pair_gives_no_density_by_its_voltage(native):
    volume, segmentation = native
    fake = replace(volume, acquisition=replace(volume.acquisition, kvp=100.0, paired_kvp=140.0))
    for choice in (None, "kvp"):
        with pytest.raises(NotMeasurable, match="the 100 kVp half of a dual-energy pair") as refusal:
            calibrate(fake, segmentation, choice=choice)
        assert refusal.value.reason == "dual_energy_pair"


def test_a_calibration_file_of_the_setting_measures_a_half_of_a_pair(native, tmp_path):
    volume, segmentation = native
    line = {"slope_mg_cm3_per_hu": 0.8, "intercept_mg_cm3": 0.0, "mineral": "K2HPO4", "kvp": 120.0}
    (tmp_path / "scanner.json").write_text(json.dumps(line), encoding="utf-8")
    fake = replace(volume, acquisition=replace(volume.acquisition, kvp=120.0, paired_kvp=80.0))
    assert calibrate(fake, segmentation, choice=tmp_path / "scanner.json").method == "file"


def test_both_tubes_at_one_voltage_are_no_pair():
    """Fast scans of the heart use both tubes alike; their Image Type says so."""
    single = ("ORIGINAL", "PRIMARY", "AXIAL", "CT_SOM5 SPI DUAL", "STD", "SNRG", "DET_AB")
    facts = Acquisition(kvp=100.0, image_type=single)
    assert spectral_product(facts) is None and pair_half(facts) is None and not mixed_voltages(facts)


@pytest.mark.parametrize(
    ("facts", "code"),
    [
        ({"source_kvps": (80.0, 140.0)}, "dual_energy_mixed"),
        ({"multienergy": True, "kvp": None}, "dual_energy_mixed"),
        ({"derivation": "Multi-energy proportional weighting"}, "dual_energy_mixed"),
        ({"kvp": 40.0}, "kvp_implausible"),
        ({"kvp": 1.2}, "kvp_implausible"),
        ({"detector_type": "PHOTON_COUNTING"}, "photon_counting"),
        ({"model": "NAEOTOM Alpha"}, "photon_counting"),
    ],
)
def test_where_no_voltage_tells_the_energy_none_is_assumed(native, facts, code):
    volume, _ = native
    found, findings = with_known_voltage(replace(volume, acquisition=replace(volume.acquisition, **facts)))
    assert found.acquisition.kvp is None and [f.code for f in findings] == [code]


def test_a_mixture_of_two_voltages_has_none(native):
    volume, segmentation = native
    fake = replace(volume, acquisition=replace(volume.acquisition, series_description="DE_Abdomen 1.5 Q30f M_0.5"))
    mixed, plain = calibrate(fake, segmentation), calibrate(volume, segmentation)
    assert {"dual_energy_mixed", "kvp_unknown"} <= {f.code for f in mixed.findings} and mixed.kvp is None
    assert mixed.uncertainty_mg_cm3(150.0) > 1.15 * plain.uncertainty_mg_cm3(150.0)


@pytest.mark.parametrize(
    "description",
    [
        "Abdomen 5.0 B30f",
        "MEDIASTINUM",
        "Ax Lumbar Spine BONE",
        "W/O CONTRAST AMD",
        "Sagittal",
        "Abdomen iodine contrast 1.5",
        "Becken 100kV 2.0 Br40 A",
    ],
)
def test_usual_descriptions_are_no_spectral_products(description):
    facts = Acquisition(kvp=120.0, series_description=description)
    assert spectral_product(facts) is None and pair_half(facts) is None
    assert not mixed_voltages(facts) and not tin_filter(facts)


def test_a_scan_of_a_usual_description_is_measured(native):
    volume, segmentation = native
    fake = replace(volume, acquisition=replace(volume.acquisition, series_description="Abdomen 5.0 B30f"))
    assert calibrate(fake, segmentation).method == "internal_tissues"


# ------------------------------------------------------------------------------------------- from the files


def _series(folder: Path, description: str, **attributes: Any) -> None:
    uid = generate_uid()
    slices = axial_series(12, step_mm=2.5, **attributes)
    for one in slices:
        one.SeriesInstanceUID, one.SeriesDescription, one.SOPInstanceUID = uid, description, generate_uid()
    write(slices, folder, pattern=description + " {}")


def _item(**attributes: Any) -> Dataset:
    item = Dataset()
    for keyword, value in attributes.items():
        setattr(item, keyword, value)
    return item


def _facts(folder: Path) -> Acquisition:
    (study,) = find_studies([folder]).studies
    return study.stacks[0].acquisition


def test_the_attributes_of_multi_energy_images_are_read(tmp_path):
    detail = _item(CTXRayDetailsSequence=[_item(KVP="80"), _item(KVP="140")])
    path = _item(CTExposureSequence=[detail], MultienergyDetectorType="INTEGRATING")
    _series(
        tmp_path,
        "DE",
        KVP=None,
        RescaleType="HU",
        MultienergyCTAcquisition="YES",
        MultienergyCTAcquisitionSequence=[path],
        MultienergyCTCharacteristicsSequence=[_item(MonoenergeticEnergyEquivalent=55.0)],
        FilterType="FLAT",
        FilterMaterial=["ALUMINUM", "TIN"],
        DerivationDescription="weighted",
    )
    facts = _facts(tmp_path)
    assert facts.multienergy and facts.source_kvps == (80.0, 140.0) and facts.kvp is None
    assert facts.monoenergetic_kev == 55.0 and facts.detector_type == "INTEGRATING"
    assert facts.beam_filter == "FLAT ALUMINUM TIN" and facts.derivation == "weighted"


def test_the_second_tube_of_the_older_attribute_is_read(tmp_path):
    _series(tmp_path, "DE", KVP="80", CTAdditionalXRaySourceSequence=[_item(KVP="140")])
    assert mixed_voltages(_facts(tmp_path))


def test_values_in_other_units_are_refused_even_if_the_user_insists(tmp_path):
    units = _item(CodeValue="mg/cm3", CodingSchemeDesignator="UCUM", CodeMeaning="mg/cm3")
    mapping = _item(MeasurementUnitsCodeSequence=[units], RealWorldValueSlope=1.0, RealWorldValueIntercept=0.0)
    _series(tmp_path, "Map", RescaleType=None, RealWorldValueMappingSequence=[mapping])
    (study,) = find_studies([tmp_path]).studies
    for wanted in (None, study.series[0].uid):
        with pytest.raises(InputRefused, match="mg/cm3") as refusal:
            select(study, series_uid=wanted)
        assert refusal.value.reason == "not_hounsfield"


@pytest.mark.parametrize(
    ("second", "pair"),
    [
        ({"KVP": "140", "AcquisitionTime": "101502.5"}, True),
        ({"KVP": "140", "AcquisitionTime": "101702.5"}, False),
        ({"KVP": "100", "AcquisitionTime": "101502.5"}, False),
        ({"KVP": "140"}, False),
    ],
    ids=["together", "two phases", "two kernels", "no time"],
)
def test_two_voltages_at_one_time_and_place_are_a_pair(tmp_path, second, pair):
    _series(tmp_path, "A", KVP="100", AcquisitionTime="101500")
    _series(tmp_path, "B", **second)
    (study,) = find_studies([tmp_path]).studies
    halves = [pair_half(stack.acquisition) for stack in study.stacks]
    assert all((half is not None) is pair for half in halves)
    if pair:
        with pytest.raises(InputRefused, match="half of a dual-energy pair") as refusal:
            select(study)
        assert refusal.value.reason == "dual_energy_pair"


def test_of_a_pair_and_its_mixture_the_mixture_is_used(tmp_path):
    _series(tmp_path, "DE Abd 100kV A", KVP="100", AcquisitionTime="101500")
    _series(tmp_path, "DE Abd Sn140kV B", KVP="140", AcquisitionTime="101500")
    _series(tmp_path, "DE Abd M_0.6", KVP="100", AcquisitionTime="101500")
    (study,) = find_studies([tmp_path]).studies
    assert select(study).spine.stack.acquisition.series_description == "DE Abd M_0.6"


def test_slices_of_another_voltage_in_a_series_are_left_out_and_that_is_said(tmp_path):
    slices = axial_series(36, step_mm=2.5)
    for number, one in enumerate(slices):
        one.KVP = "100" if number < 12 else "120"
    write(slices, tmp_path)
    (study,) = find_studies([tmp_path]).studies
    stack = select(study).spine.stack
    assert stack.count == 24 and stack.acquisition.kvp == 120.0
    (finding,) = [p for p in stack.problems if p.code == "voltages_in_series"]
    assert "12 slices" in finding.text and "100 kVp, not 120 kVp" in finding.text
