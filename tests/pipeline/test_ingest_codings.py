"""Every transfer syntax that archives use gives the same voxels, and one that no decoder reads is refused by its name."""

from __future__ import annotations

from pathlib import Path

import gdcm
import numpy as np
import pytest
from pydicom.pixels import get_decoder
from pydicom.uid import (
    HTJ2K,
    JPEG2000,
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    HTJ2KLossless,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    JPEGLSNearLossless,
    RLELossless,
)

from pipeline.errors import InputRefused
from tests.pipeline.dicom_factory import axial_series, write
from tests.pipeline.test_ingest_volume import ROUNDING_HU, codes, deviation_hu, read


@pytest.mark.parametrize("syntax", [RLELossless, JPEGLSLossless, JPEG2000Lossless])
@pytest.mark.parametrize("signed", [True, False])
def test_compressed_series_decode_to_the_same_voxels(tmp_path: Path, syntax: str, signed: bool) -> None:
    plain, packed = axial_series(12, signed=signed), axial_series(12, signed=signed)
    for ds in packed:
        ds.compress(syntax, generate_instance_uid=False)
    write(plain, tmp_path / "plain")
    write(packed, tmp_path / "packed")

    np.testing.assert_array_equal(read(tmp_path / "packed").hu, read(tmp_path / "plain").hu)


def test_lossless_jpeg_decodes_to_the_same_voxels(tmp_path: Path) -> None:
    """The usual coding in archives, written here by another library (GDCM)."""
    paths = write(axial_series(12, signed=False), tmp_path / "plain")
    (tmp_path / "packed").mkdir()
    for path in paths:
        reader = gdcm.ImageReader()
        reader.SetFileName(str(path))
        assert reader.Read()
        change = gdcm.ImageChangeTransferSyntax()
        change.SetTransferSyntax(gdcm.TransferSyntax(gdcm.TransferSyntax.JPEGLosslessProcess14_1))
        change.SetInput(reader.GetImage())
        assert change.Change()
        writer = gdcm.ImageWriter()
        writer.SetFileName(str(tmp_path / "packed" / path.name))
        writer.SetFile(reader.GetFile())
        writer.SetImage(change.GetOutput())
        assert writer.Write()

    np.testing.assert_array_equal(read(tmp_path / "packed").hu, read(tmp_path / "plain").hu)


@pytest.mark.parametrize("syntax", [ImplicitVRLittleEndian, DeflatedExplicitVRLittleEndian, ExplicitVRBigEndian])
def test_uncompressed_codings_decode_to_the_same_voxels(tmp_path: Path, syntax: str) -> None:
    datasets = axial_series(12)
    for ds in datasets:
        ds.file_meta.TransferSyntaxUID = syntax
        if syntax == ExplicitVRBigEndian:
            ds.PixelData = np.frombuffer(ds.PixelData, "<i2").astype(">i2").tobytes()
    write(datasets, tmp_path)
    assert deviation_hu(read(tmp_path)).max() <= ROUNDING_HU


@pytest.mark.parametrize(
    "syntax",
    [
        JPEGBaseline8Bit, JPEGExtended12Bit, JPEGLossless, JPEGLosslessSV1, JPEGLSLossless, JPEGLSNearLossless,
        JPEG2000Lossless, JPEG2000, HTJ2KLossless, HTJ2K, RLELossless, DeflatedExplicitVRLittleEndian,
    ],
    ids=lambda uid: uid.name,
)  # fmt: skip
def test_the_default_installation_has_a_decoder_for(syntax: UID) -> None:
    assert get_decoder(syntax).is_available


def test_pixels_that_no_decoder_reads_are_refused_with_the_name_of_their_coding(tmp_path: Path) -> None:
    datasets = axial_series(12)
    for ds in datasets:
        ds.compress(JPEG2000Lossless, generate_instance_uid=False)
        ds.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2.4.102"  # MPEG-4
    write(datasets, tmp_path)
    with pytest.raises(InputRefused, match="MPEG-4") as caught:
        read(tmp_path)
    assert caught.value.reason == "undecodable_pixels"


def test_a_damaged_compressed_slice_counts_as_missing(tmp_path: Path) -> None:
    datasets = axial_series(40)
    for ds in datasets:
        ds.compress(JPEG2000Lossless, generate_instance_uid=False)
    broken = datasets[17]
    broken.PixelData = broken.PixelData[:60] + b"\0" * (len(broken.PixelData) - 60)
    write(datasets, tmp_path)

    volume = read(tmp_path)

    assert {"damaged_slices", "interpolated_slice"} <= codes(volume)
    assert volume.shape[0] == 40
    assert volume.valid is not None
    assert not volume.valid[17].any() and volume.valid[np.arange(40) != 17].all()
    assert deviation_hu(volume).max() <= ROUNDING_HU
