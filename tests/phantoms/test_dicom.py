"""What is written must be what other programs read: values, geometry, headers."""

import nibabel
import numpy as np
import pydicom
import pytest
import SimpleITK as sitk

from phantoms import Truth, make_phantom, write_study
from phantoms.dicom import MAKERS, Header, write_ct_series, write_enhanced_ct, write_localizer, write_nifti
from phantoms.voxelise import Lattice


def lattice(shape=(6, 10, 12), spacing=(2.5, 0.8, 0.7), angle_deg=0.0):
    """An oblique lattice whose slices stand on a tilted axis."""
    c, s = np.cos(np.radians(angle_deg)), np.sin(np.radians(angle_deg))
    matrix = np.eye(4)
    matrix[:3, 0] = np.array([0.0, -s, c]) * spacing[0]
    matrix[:3, 1] = np.array([0.0, c, s]) * spacing[1]
    matrix[:3, 2] = np.array([1.0, 0.0, 0.0]) * spacing[2]
    matrix[:3, 3] = (-31.5, 12.25, -140.125)
    return Lattice(shape, matrix)


def values(shape):
    return np.random.default_rng(1).integers(-1024, 3072, shape).astype(np.int16)


def read(folder):
    reader = sitk.ImageSeriesReader()
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(folder)))
    return reader.Execute()


@pytest.mark.parametrize("angle", [0.0, 17.0])
@pytest.mark.parametrize("compression", [None, "rle", "jpeg2000"])
def test_simpleitk_reads_back_values_and_geometry(tmp_path, angle, compression):
    grid = lattice(shape=(6, 40, 44), angle_deg=angle)
    hu = values(grid.shape)
    write_ct_series(hu, grid, tmp_path / "série 1", Header(key="a"), compression=compression)
    image = read(tmp_path / "série 1")
    np.testing.assert_array_equal(sitk.GetArrayFromImage(image), hu)
    for index in ((0, 0, 0), (5, 0, 0), (2, 39, 43)):
        point = image.TransformIndexToPhysicalPoint(tuple(int(v) for v in index[::-1]))
        np.testing.assert_allclose(point, grid.to_lps(np.array(index)), atol=1e-4)


def test_headers_are_plausible_and_consistent(tmp_path):
    grid = lattice()
    header = Header(key="b", maker="SIEMENS", kvp=100.0, kernel="sharp", age_years=71, sex="M", contrast_agent="IOHEXOL",
                    slice_thickness_mm=3.0, extra={"PatientComments": "synthetic"})  # fmt: skip
    paths = write_ct_series(values(grid.shape), grid, tmp_path, header)
    images = [pydicom.dcmread(path) for path in paths]
    first = images[0]
    assert [image.InstanceNumber for image in images] == list(range(1, 7))
    assert np.all(np.diff([float(image.ImagePositionPatient[2]) for image in images]) < 0), (
        "numbered from the head down"
    )
    assert first.ImageType == ["ORIGINAL", "PRIMARY", "AXIAL"]
    assert (first.KVP, first.ConvolutionKernel, first.PatientAge, first.PatientSex) == (100, "B60f", "071Y", "M")
    assert (first.SliceThickness, first.SpacingBetweenSlices) == (3, 2.5)
    assert first.Manufacturer == MAKERS["SIEMENS"]["Manufacturer"]
    assert (first.ContrastBolusAgent, first.PatientComments) == ("IOHEXOL", "synthetic")
    assert len({image.SOPInstanceUID for image in images}) == len(images)
    assert len({image.SeriesInstanceUID for image in images}) == 1
    assert all(pydicom.uid.UID(image.SOPInstanceUID).is_valid for image in images)
    assert first.file_meta.MediaStorageSOPInstanceUID == first.SOPInstanceUID


def test_a_header_field_can_be_left_out(tmp_path):
    grid = lattice()
    (path, *_) = write_ct_series(
        values(grid.shape), grid, tmp_path, Header(key="c", kvp=None, age_years=None, sex=None)
    )
    image = pydicom.dcmread(path)
    assert "KVP" not in image
    assert "PatientAge" not in image
    assert image.PatientSex == ""


def test_wrong_keywords_and_compressions_are_refused(tmp_path):
    grid = lattice()
    with pytest.raises(ValueError, match="NotAKeyword"):
        write_ct_series(values(grid.shape), grid, tmp_path, Header(key="d", extra={"NotAKeyword": 1}))
    with pytest.raises(ValueError, match="compression"):
        write_ct_series(values(grid.shape), grid, tmp_path, Header(key="d"), compression="zip")


def test_equal_input_gives_equal_files(tmp_path):
    grid = lattice()
    for name in ("one", "two"):
        write_ct_series(values(grid.shape), grid, tmp_path / name, Header(key="e"))
    for path in sorted((tmp_path / "one").iterdir()):
        assert path.read_bytes() == (tmp_path / "two" / path.name).read_bytes()


def test_enhanced_multi_frame_reads_back(tmp_path):
    grid = lattice()
    hu = values(grid.shape)
    path = write_enhanced_ct(hu, grid, tmp_path / "enhanced.dcm", Header(key="f"))
    image = pydicom.dcmread(path)
    shared = image.SharedFunctionalGroupsSequence[0]
    assert image.NumberOfFrames == 6
    assert shared.CTXRayDetailsSequence[0].KVP == 120
    frames = image.pixel_array
    for number, frame in enumerate(image.PerFrameFunctionalGroupsSequence):
        position = np.array(frame.PlanePositionSequence[0].ImagePositionPatient, float)
        k = round(float(grid.to_index(position)[0]))
        np.testing.assert_array_equal(frames[number], hu[k])
    other = sitk.ReadImage(str(path))
    assert other.GetSize() == (12, 10, 6)
    np.testing.assert_allclose(other.GetSpacing(), (0.7, 0.8, 2.5), atol=1e-6)


def test_localizer_says_what_it_is(tmp_path):
    grid = lattice()
    image = pydicom.dcmread(write_localizer(values(grid.shape), grid, tmp_path, Header(key="g", series_number=1)))
    assert image.ImageType[2] == "LOCALIZER"
    np.testing.assert_allclose(np.array(image.ImageOrientationPatient, float), [1, 0, 0, 0, 0, -1], atol=1e-6)
    assert image.pixel_array.shape == (6, 12)


def test_nifti_has_the_same_world(tmp_path):
    grid = lattice(angle_deg=10)
    array = values(grid.shape)
    image = nibabel.load(write_nifti(array, grid, tmp_path / "ct.nii.gz"))
    np.testing.assert_array_equal(np.asarray(image.dataobj).transpose(2, 1, 0), array)
    ras = image.affine @ [11, 9, 5, 1]
    np.testing.assert_allclose(ras[:3] * (-1, -1, 1), grid.to_lps(np.array([5, 9, 11])), atol=1e-3)


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    folder = tmp_path_factory.mktemp("study")
    phantom = make_phantom("hip", seed=3, side="left")
    return phantom, folder, write_study(phantom, folder, slice_mm=3.0, pixel_mm=1.6, dose=1.0)


def test_a_study_is_dicom_with_its_truth_beside_it(study):
    phantom, folder, truth = study
    image = read(folder / "dicom" / "series2")
    expected = phantom.image(slice_mm=3.0, pixel_mm=1.6)
    np.testing.assert_array_equal(sitk.GetArrayFromImage(image), expected.hu)
    labels = sitk.ReadImage(str(folder / "truth_labels.nii.gz"))
    np.testing.assert_array_equal(sitk.GetArrayFromImage(labels), expected.labels)
    np.testing.assert_allclose(labels.GetOrigin(), image.GetOrigin(), atol=1e-3)
    assert sorted(path.name for path in folder.iterdir()) == ["dicom", "truth.json", "truth_labels.nii.gz"]
    assert Truth.load(folder / "truth.json") == truth
    assert [femur.side for femur in truth.femora] == ["left"]
    headers = [pydicom.dcmread(p, stop_before_pixels=True) for p in (folder / "dicom").rglob("*.dcm")]
    assert len({h.StudyInstanceUID for h in headers}) == 1
    assert len({h.SeriesInstanceUID for h in headers}) == 2


@pytest.mark.parametrize("file_format", ["enhanced", "nifti"])
def test_other_formats_hold_the_same_image(tmp_path, file_format):
    phantom = make_phantom("cube")
    write_study(phantom, tmp_path, slice_mm=1.0, pixel_mm=1.0, file_format=file_format)
    expected = phantom.image(slice_mm=1.0, pixel_mm=1.0).hu
    if file_format == "nifti":
        got = np.asarray(nibabel.load(tmp_path / "ct.nii.gz").dataobj).transpose(2, 1, 0)
    else:
        got = pydicom.dcmread(tmp_path / "dicom" / "series2" / "CT.dcm").pixel_array[::-1]
    np.testing.assert_array_equal(got, expected)


def test_an_unknown_format_is_refused(tmp_path):
    with pytest.raises(ValueError, match="file_format"):
        write_study(make_phantom("cube"), tmp_path, file_format="jpeg")
