"""One stack per region is chosen with a stated reason, and every other one hears why not."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydicom.uid import JPEG2000Lossless, generate_uid

from pipeline.errors import InputRefused
from pipeline.ingest import KernelClass, Selection, Study, describe, find_studies, kernel_class, select
from tests.pipeline.dicom_factory import axial_series, plane_series, slice_dataset, write


def add_series(folder: Path, description: str, datasets: list | None = None, **attributes: object) -> None:
    """One more series of the study, named by its description."""
    count = int(attributes.pop("count", 12))  # type: ignore[call-overload]
    step_mm = float(attributes.pop("step_mm", 2.5))  # type: ignore[arg-type]
    uid = generate_uid()
    found = datasets if datasets is not None else axial_series(count, step_mm=step_mm, **attributes)
    for ds in found:
        ds.SeriesInstanceUID, ds.SeriesDescription, ds.SOPInstanceUID = uid, description, generate_uid()
        for keyword, value in attributes.items() if datasets is not None else ():
            setattr(ds, keyword, value)
    write(found, folder, pattern=description.replace("/", " ") + " {}")


def study_in(folder: Path) -> Study:
    (study,) = find_studies([folder]).studies
    return study


def chosen(selection: Selection) -> tuple[str | None, str | None]:
    return selection.spine.stack.acquisition.series_description, selection.hips.stack.acquisition.series_description


UNUSABLE = {
    "localizer": {"ImageType": ["ORIGINAL", "PRIMARY", "LOCALIZER"]},
    "derived_mpr": {"ImageType": ["DERIVED", "SECONDARY", "MPR"]},
    "projection": {"ImageType": ["DERIVED", "SECONDARY", "AXIAL", "MIP"]},
    "not_ct": {"Modality": "PT"},
    "lossy_compression": {"LossyImageCompression": "01"},
    "too_thick": {"SliceThickness": "8"},
    "too_few_slices": {"count": 7},
    "not_hounsfield": {"RescaleType": "MGML"},
}


@pytest.mark.parametrize(("code", "attributes"), UNUSABLE.items(), ids=UNUSABLE)
def test_an_unusable_series_loses_against_a_good_one_and_is_refused_alone(
    tmp_path: Path, code: str, attributes: dict[str, object]
) -> None:
    add_series(tmp_path / "both", "SPECIAL", **dict(attributes))
    add_series(tmp_path / "both", "ORDINARY", count=12)
    selection = select(study_in(tmp_path / "both"))
    assert chosen(selection) == ("ORDINARY", "ORDINARY")
    assert {v.code for v in selection.verdicts} == {"usable", code}
    assert all(v.usable or selection.why_not(v.stack) for v in selection.verdicts)

    add_series(tmp_path / "alone", "SPECIAL", **dict(attributes))
    with pytest.raises(InputRefused) as refusal:
        select(study_in(tmp_path / "alone"))
    assert refusal.value.reason == code


@pytest.mark.parametrize(
    ("image_type", "description", "word"),
    [
        (["DERIVED", "PRIMARY", "AXIAL", "MONO_E_70"], "DE", "monoenergetic"),
        (["DERIVED", "SECONDARY", "AXIAL", "MONOENERGETIC"], "DE", "monoenergetic"),
        (["ORIGINAL", "PRIMARY", "AXIAL"], "Abdomen Mono+ 55 keV", "monoenergetic"),
        (["ORIGINAL", "PRIMARY", "AXIAL"], "70_keV Standard", "monoenergetic"),
        (["DERIVED", "PRIMARY", "AXIAL", "VNC"], "VNC", "non-contrast"),
        (["ORIGINAL", "PRIMARY", "AXIAL"], "Virtual Non Contrast 3.0", "non-contrast"),
        (["DERIVED", "SECONDARY", "IODINE"], "Iodine density", "iodine"),
        (["ORIGINAL", "PRIMARY", "AXIAL"], "Iodine no Water", "iodine"),
        (["DERIVED", "PRIMARY", "AXIAL", "Z_EFF"], "Z Effective", "atomic number"),
        (["DERIVED", "PRIMARY", "AXIAL", "GSI MD"], "MD Water(Iodine)", "material"),
        (["DERIVED", "PRIMARY", "ELECTRON_DENSITY"], "Electron density", "electron density"),
    ],
)
def test_dual_energy_products_are_refused_by_name(
    tmp_path: Path, image_type: list[str], description: str, word: str
) -> None:
    add_series(tmp_path, description, ImageType=image_type)
    with pytest.raises(InputRefused, match=word) as refusal:
        select(study_in(tmp_path))
    assert refusal.value.reason == "spectral_image"


@pytest.mark.parametrize(
    "description",
    ["Abdomen 3.0 Br36 M_0.5", "THORAX PV 70s", "Liver venous", "Wirbelsaeule 1.0", "CT Body 3.0", "AC CT"],
)
def test_ordinary_descriptions_are_not_taken_for_maps(tmp_path: Path, description: str) -> None:
    add_series(tmp_path, description, ImageType=["ORIGINAL", "PRIMARY", "AXIAL", "CT_SOM5 SPI", "DE_MIX"])
    assert select(study_in(tmp_path)).spine.stack.count == 12


@pytest.mark.parametrize("orientation", [(1, 0, 0, 0, 0, -1), (0, 1, 0, 0, 0, -1)], ids=["coronal", "sagittal"])
def test_upright_reformats_are_refused_although_they_claim_to_be_original(
    tmp_path: Path, orientation: tuple[float, ...]
) -> None:
    add_series(tmp_path, "REF", datasets=plane_series(orientation, count=30))
    with pytest.raises(InputRefused) as refusal:
        select(study_in(tmp_path))
    assert refusal.value.reason == "not_axial"


PREFERENCES = [
    ("soft over sharp kernel", {"ConvolutionKernel": "STANDARD"}, {"ConvolutionKernel": "BONEPLUS"}),
    ("soft over medium kernel", {"ConvolutionKernel": "B30f"}, {"ConvolutionKernel": "B45f"}),
    ("thin over thick", {"SliceThickness": "1.25"}, {"SliceThickness": "5"}),
    ("1 mm over noisy 0.4 mm", {"step_mm": 1.0, "count": 60, "SliceThickness": "1"},
     {"step_mm": 0.4, "count": 150, "SliceThickness": "0.4"}),
    ("no contrast over contrast", {}, {"ContrastBolusAgent": "ULTRAVIST"}),
    ("original over derived", {}, {"ImageType": ["DERIVED", "SECONDARY", "AXIAL"]}),
    ("120 kVp over 80", {}, {"KVP": "80"}),
    ("long over short", {"count": 60}, {"count": 12}),
    ("long sharp over a short soft slab", {"count": 90, "step_mm": 5.0, "ConvolutionKernel": "B70f"},
     {"count": 12, "ConvolutionKernel": "B30f"}),
    ("long 5 mm over a thin half vertebra", {"count": 90, "step_mm": 5.0, "SliceThickness": "5"},
     {"count": 15, "step_mm": 1.0, "SliceThickness": "1"}),
]  # fmt: skip


@pytest.mark.parametrize(("better", "worse"), [p[1:] for p in PREFERENCES], ids=[p[0] for p in PREFERENCES])
def test_preferences(tmp_path: Path, better: dict, worse: dict) -> None:
    add_series(tmp_path, "A WORSE", **worse)
    add_series(tmp_path, "BETTER", **better)
    add_series(tmp_path, "Z WORSE", **worse)
    selection = select(study_in(tmp_path))
    assert chosen(selection)[0] == "BETTER"
    losers = [v.stack for v in selection.verdicts if v.stack.acquisition.series_description != "BETTER"]
    assert all("ranked lower" in selection.why_not(loser) for loser in losers)


def test_the_lower_series_is_taken_for_the_hips_and_the_upper_one_for_the_spine(tmp_path: Path) -> None:
    add_series(tmp_path, "THORAX ABDOMEN", datasets=axial_series(80, step_mm=5.0, start_mm=0.0))
    add_series(tmp_path, "PELVIS", datasets=axial_series(40, step_mm=5.0, start_mm=-180.0))
    assert chosen(select(study_in(tmp_path))) == ("THORAX ABDOMEN", "PELVIS")


def test_a_sharp_kernel_is_used_when_there_is_no_other_and_said(tmp_path: Path) -> None:
    add_series(tmp_path, "LUNG BASES", ConvolutionKernel="LUNG")
    assert "sharp kernel LUNG" in select(study_in(tmp_path)).spine.reason


def test_the_user_may_insist_on_a_series_but_not_on_the_impossible(tmp_path: Path) -> None:
    add_series(tmp_path, "MPR", ImageType=["DERIVED", "SECONDARY", "MPR"])
    add_series(tmp_path, "GOOD")
    add_series(tmp_path, "PET", Modality="PT")
    study = study_in(tmp_path)
    uids = {series.description: series.uid for series in study.series}

    assert chosen(select(study, series_uid=uids["MPR"])) == ("MPR", "MPR")
    with pytest.raises(InputRefused) as pet:
        select(study, series_uid=uids["PET"])
    assert pet.value.reason == "not_ct"
    with pytest.raises(InputRefused) as unknown:
        select(study, series_uid="1.2.3")
    assert unknown.value.reason == "no_such_series"


def test_a_head_scan_is_another_region_but_a_whole_body_scan_is_not(tmp_path: Path) -> None:
    add_series(tmp_path / "head", "CT HEAD", BodyPartExamined="HEAD")
    with pytest.raises(InputRefused) as refusal:
        select(study_in(tmp_path / "head"))
    assert refusal.value.reason == "other_region"
    add_series(tmp_path / "body", "WHOLE BODY", BodyPartExamined="HEAD", count=80, step_mm=5.0)
    assert select(study_in(tmp_path / "body"))


def test_a_mixed_hopeless_study_lists_its_series(tmp_path: Path) -> None:
    add_series(tmp_path, "SCOUT", datasets=[slice_dataset((0, 0, 0))], ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"])
    add_series(tmp_path, "T2", Modality="MR")
    with pytest.raises(InputRefused) as refusal:
        select(study_in(tmp_path))
    assert "'SCOUT' is a localizer" in str(refusal.value)
    assert "'T2' is no CT but MR" in str(refusal.value)
    assert refusal.value.reason == "no_usable_series"


def test_the_table_of_inspect_has_one_row_per_stack_and_a_reason_in_each(tmp_path: Path) -> None:
    add_series(tmp_path, "SOFT")
    add_series(tmp_path, "BONE", ConvolutionKernel="BONE")
    add_series(tmp_path, "PET", Modality="PT")
    packed = axial_series(12)
    for ds in packed:
        ds.compress(JPEG2000Lossless, generate_instance_uid=False)
    add_series(tmp_path, "PACKED", datasets=packed, ConvolutionKernel="B80f")

    rows = {row["description"]: row for row in describe(find_studies([tmp_path]))}

    assert {name: row["verdict"] for name, row in rows.items()} == {
        "SOFT": "spine, hips",
        "BONE": "spare",
        "PET": "refused",
        "PACKED": "spare",
    }
    assert all(row["reason"] for row in rows.values())
    assert rows["SOFT"]["size"] == (12, 48, 64)
    assert rows["SOFT"]["spacing_mm"] == (2.5, 2.0, 2.0)
    assert "Mustermann" not in str(rows) and "PID-4711" not in str(rows)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("STANDARD", "soft"), ("SOFT", "soft"), ("B30f", "soft"), ("Br36d\\3", "soft"), ("Br38f 3", "soft"), ("I26f", "soft"),
        ("FC08", "soft"), ("B", "soft"), ("B45f", "medium"), ("DETAIL", "medium"), ("B70f", "sharp"), ("Br64", "sharp"),
        ("BONEPLUS", "sharp"), ("LUNG", "sharp"), ("FC52", "sharp"), ("YC", "sharp"), ("Qr40", "soft"), ("", "unknown"),
        (None, "unknown"), ("XYZ", "unknown"),
    ],
)  # fmt: skip
def test_kernels_of_all_makers_are_classed(name: str | None, expected: str) -> None:
    assert kernel_class(name) == KernelClass(expected)
