"""Whatever lies in the input folder, every usable file is found and every other one is named with its reason."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

import pytest
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.fileset import FileSet
from pydicom.uid import BasicTextSRStorage, ExplicitVRLittleEndian, generate_uid

from pipeline.errors import InputRefused
from pipeline.ingest import Inventory, find_studies, select, sources
from tests.pipeline.dicom_factory import (
    BIRTH_DATE,
    PATIENT_ID,
    PATIENT_NAME,
    axial_series,
    slice_dataset,
    with_password_flag,
    write,
    zipped,
)


def reasons(inventory: Inventory) -> dict[str, str]:
    return {skipped.name: skipped.reason for skipped in inventory.skipped}


def slice_count(inventory: Inventory) -> int:
    return sum(stack.count for study in inventory.studies for stack in study.stacks)


@pytest.fixture
def series_folder(tmp_path: Path) -> Path:
    write(axial_series(12), tmp_path / "series")
    return tmp_path / "series"


def test_files_are_recognised_by_content_in_any_mix_of_folders_zips_and_names(tmp_path: Path) -> None:
    datasets = axial_series(12)
    root = tmp_path / "Mustermann Erika äöü 日本"
    write(datasets[:3], root / "deep" / "er", pattern="no extension {}")
    write(datasets[3:6], root, pattern="image{}.txt")
    write(datasets[6:9], tmp_path / "a")
    zipped(tmp_path / "a", root / "inner.bin")
    write(datasets[9:], tmp_path / "b")
    (tmp_path / "c").mkdir()
    zipped(tmp_path / "b", tmp_path / "c" / "nested.zip")
    outer = zipped(tmp_path / "c", tmp_path / "outer.zip")

    inventory = find_studies([root, str(outer)])

    assert [study.series[0].stacks[0].count for study in inventory.studies] == [12]
    assert inventory.skipped == ()


def test_each_foreign_or_broken_file_is_one_line_and_stops_nothing(series_folder: Path) -> None:
    good = series_folder / "IM0000"
    whole = good.read_bytes()
    (series_folder / "cut_pixels").write_bytes(whole[: len(whole) // 2])
    (series_folder / "cut_header").write_bytes(whole[:400])
    (series_folder / "empty.dcm").write_bytes(b"")
    (series_folder / "letter.pdf").write_bytes(b"%PDF-1.7 nothing to see")
    (series_folder / "viewer.exe").write_bytes(b"MZ" + bytes(range(256)) * 20)
    (series_folder / "readme").write_text("radiology department")
    (series_folder / "Thumbs.db").write_bytes(b"\xd0\xcf\x11\xe0")
    (series_folder / "._IM0000").write_bytes(b"\x00\x05\x16\x07")
    (series_folder / "broken.zip").write_bytes(b"PK\x03\x04 this is no archive")
    (series_folder / "packed.7z").write_bytes(b"7z\xbc\xaf\x27\x1c\x00\x04")
    report = Dataset()
    report.file_meta = FileMetaDataset()
    report.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    report.SOPClassUID, report.SOPInstanceUID, report.Modality = BasicTextSRStorage, generate_uid(), "SR"
    report.save_as(series_folder / "report", enforce_file_format=True)

    inventory = find_studies([series_folder, series_folder / "nowhere"])

    assert slice_count(inventory) == 12
    assert reasons(inventory) == {
        "cut_pixels": "truncated",
        "cut_header": "truncated",
        "empty.dcm": "empty",
        "letter.pdf": "not_dicom",
        "viewer.exe": "not_dicom",
        "readme": "not_dicom",
        "Thumbs.db": "hidden",
        "._IM0000": "hidden",
        "broken.zip": "unreadable",
        "packed.7z": "unsupported_archive",
        "report": "not_an_image",
        "nowhere": "missing",
    }


def test_corrupt_header_elements_count_as_absent(tmp_path: Path) -> None:
    datasets = axial_series(12)
    write(datasets, tmp_path)
    path = tmp_path / "IM0003"
    raw = path.read_bytes()
    path.write_bytes(raw.replace(b"DS\x04\x00120 ", b"DS\x04\x00?!x "))

    inventory = find_studies([tmp_path])

    assert slice_count(inventory) == 12
    assert {s.acquisition.kvp for s in inventory.studies[0].stacks} == {120.0, None}


@pytest.mark.parametrize("position", range(0, 1400, 67))
def test_no_single_damaged_byte_stops_the_other_files(tmp_path: Path, position: int) -> None:
    write(axial_series(3), tmp_path)
    path = tmp_path / "IM0001"
    raw = bytearray(path.read_bytes())
    raw[position] ^= 0xFF
    path.write_bytes(bytes(raw))

    assert slice_count(find_studies([tmp_path])) + len(find_studies([tmp_path]).skipped) >= 3


def test_a_file_without_preamble_and_meta_header_is_read(tmp_path: Path) -> None:
    datasets = axial_series(12)
    write(datasets[1:], tmp_path)
    buffer = io.BytesIO()
    bare = datasets[0]
    del bare.file_meta
    bare.save_as(buffer, implicit_vr=True, little_endian=True, enforce_file_format=False)
    (tmp_path / "bare").write_bytes(buffer.getvalue())

    inventory = find_studies([tmp_path])

    assert slice_count(inventory) == 12
    assert inventory.skipped == ()


def test_a_password_protected_zip_is_named_and_the_rest_goes_on(series_folder: Path, tmp_path: Path) -> None:
    locked = with_password_flag(zipped(series_folder, tmp_path / "locked.zip"))

    inventory = find_studies([locked, series_folder])

    assert reasons(inventory) == {"locked.zip": "password_protected_zip"}
    assert slice_count(inventory) == 12


def test_paths_that_lead_out_of_an_archive_are_not_followed(tmp_path: Path, series_folder: Path) -> None:
    evil = tmp_path / "evil.zip"
    with zipfile.ZipFile(evil, "w") as archive:
        for name in ("../../outside", "/etc/outside", "C:\\outside", "a/../../outside"):
            archive.writestr(zipfile.ZipInfo(name), (series_folder / "IM0000").read_bytes())
        archive.write(series_folder / "IM0001", "inside")
    before = set(tmp_path.rglob("*"))

    inventory = find_studies([evil])

    assert slice_count(inventory) == 1
    assert reasons(inventory) == {"evil.zip": "unsafe_path"}
    assert set(tmp_path.rglob("*")) == before, "nothing may be written"


def test_an_archive_bomb_is_not_unpacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "_BOMB_BYTES", 2**20)
    with zipfile.ZipFile(tmp_path / "bomb.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("zeros", bytes(4 * 2**20))

    assert reasons(find_studies([tmp_path / "bomb.zip"])) == {"zeros": "suspicious_archive"}


def test_archives_in_archives_end_somewhere(tmp_path: Path) -> None:
    data = b"nothing"
    for depth in range(8):
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w") as archive:
            archive.writestr(f"level{depth}.zip" if depth else "file", data)
        data = buffer.getvalue()
    (tmp_path / "russian_doll.zip").write_bytes(data)

    assert "suspicious_archive" in reasons(find_studies([tmp_path])).values()


def test_a_dicomdir_leads_to_its_files_and_missing_ones_are_counted(tmp_path: Path) -> None:
    fileset = FileSet()
    for dataset in axial_series(12):
        fileset.add(dataset)
    fileset.write(tmp_path / "cd")
    directory = tmp_path / "cd" / "DICOMDIR"
    assert directory.is_file()

    complete = find_studies([directory])
    assert (slice_count(complete), complete.skipped) == (12, ())

    next(path for path in (tmp_path / "cd").rglob("*") if path.is_file() and path.name != "DICOMDIR").unlink()
    incomplete = find_studies([directory])
    assert slice_count(incomplete) == 11
    assert reasons(incomplete) == {"DICOMDIR": "incomplete_dicomdir"}


def test_the_same_file_met_twice_counts_once(series_folder: Path, tmp_path: Path) -> None:
    archive = zipped(series_folder, tmp_path / "copy.zip")

    inventory = find_studies([series_folder, archive, series_folder])

    assert slice_count(inventory) == 12
    assert [s.reason for s in inventory.skipped] == ["duplicate_file"]


def test_progress_runs_to_the_end(series_folder: Path) -> None:
    calls: list[tuple[int, int]] = []
    find_studies([series_folder], progress=lambda done, total: calls.append((done, total)))
    assert calls[-1] == (12, 12)
    assert calls == sorted(calls)


def test_two_patients_in_one_folder_are_two_studies_with_stable_harmless_keys(tmp_path: Path) -> None:
    first, second = axial_series(12), axial_series(12, PatientID="PID-0815")
    write(first, tmp_path, pattern="a{}")
    write(second, tmp_path, pattern="b{}")

    keys = [study.key for study in find_studies([tmp_path]).studies]
    alone = tmp_path / "alone"
    write(first, alone)

    assert len(set(keys)) == 2
    assert find_studies([alone]).studies[0].key in keys
    for key in keys:
        assert set(key) <= set("abcdefghijklmnopqrstuvwxyz0123456789-")
        assert len(key) < 32


def test_no_text_names_the_patient_or_the_folders(tmp_path: Path) -> None:
    folder = tmp_path / "Mustermann_Erika_19491231"
    write([slice_dataset((0, 0, 0), ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"])], folder)
    (folder / "junk").write_bytes(b"junk")
    inventory = find_studies([folder, folder / "no such file"])
    with pytest.raises(InputRefused) as refusal:
        select(inventory.studies[0])

    texts = " ".join(
        [str(refusal.value), *(f"{s.name} {s.detail}" for s in inventory.skipped), inventory.studies[0].key]
    )
    for secret in (*PATIENT_NAME.split("^"), PATIENT_ID, BIRTH_DATE, str(tmp_path)):
        assert secret not in texts
