"""Parametric maps: a field of a finite-element model as float voxels in the frame of reference of the patient.

A map keeps the grid of its model, which lies oblique in the patient, so that no value is interpolated; a viewer places it by
its own geometry.
"""

from __future__ import annotations

from dataclasses import dataclass

import highdicom as hd
import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.sr.coding import Code

from reports.dicom.codes import own, structure_code
from reports.dicom.common import MANUFACTURER, SERIES_NUMBERS, Provenance, completed_headers

FIELDS = {
    "energy_density": (own("STRAIN_ENERGY", "Strain energy density"), Code("kPa", "UCUM", "kPa")),
    "effective_strain": (own("EFF_STRAIN", "Energy-equivalent strain"), Code("1", "UCUM", "no units")),
    "yield_ratio": (own("YIELD_RATIO", "Stress over yield stress"), Code("1", "UCUM", "no units")),
}


@dataclass(frozen=True, eq=False)
class VoxelField:
    """One field of one virtual test.

    Attributes
    ----------
    structure : str
        ``vertebra_L1``, ``femur_left``.
    test : str
        Which virtual test.
    kind : str
        Key of `FIELDS`; decides meaning and unit.
    values : float32 ndarray of shape (Z, Y, X)
        0 outside the bone.
    index_to_lps : float ndarray of shape (4, 4)
        Array index (k, j, i) of a voxel centre to DICOM LPS (x, y, z) in mm; columns at right angles.
    """

    structure: str
    test: str
    kind: str
    values: NDArray[np.float32]
    index_to_lps: NDArray[np.float64]


def parametric_map(field: VoxelField, headers: list[Dataset], provenance: Provenance) -> Dataset:
    """A Parametric Map object in the study and frame of reference of the source images.

    Parameters
    ----------
    field : VoxelField
    headers : list of Dataset
        Source headers.
    provenance : Provenance

    Raises
    ------
    ValueError
        If the field is not three-dimensional, or its axes are not at right angles.
    """
    values = np.ascontiguousarray(field.values, np.float32)
    if values.ndim != 3:
        raise ValueError(f"a field has three axes, not shape {values.shape}")
    matrix = np.asarray(field.index_to_lps, float)
    spacing_mm = np.linalg.norm(matrix[:3, :3], axis=0)
    along = matrix[:3, :3] / spacing_mm
    if not np.allclose(along.T @ along, np.eye(3), atol=1e-4):
        raise ValueError("the axes of a field must be at right angles")
    concept, unit = FIELDS[field.kind]
    kind, side = structure_code(field.structure)
    sources = completed_headers(headers)
    series_uid = str(headers[0].SeriesInstanceUID)
    positions = [hd.PlanePositionSequence("PATIENT", (matrix @ [k, 0, 0, 1])[:3]) for k in range(values.shape[0])]
    top = float(values.max()) or 1.0
    mapping = hd.pm.RealWorldValueMapping(
        lut_label=concept.value,
        lut_explanation=concept.meaning,
        unit=unit,
        value_range=(0.0, top),
        slope=1.0,
        intercept=0.0,
        quantity_definition=concept,
    )
    name = f"{field.structure} {field.test}"
    made = hd.pm.ParametricMap(
        source_images=sources,
        pixel_array=values,
        series_instance_uid=provenance.uid(series_uid, "PM-series"),
        series_number=SERIES_NUMBERS["PM"],
        sop_instance_uid=provenance.uid(series_uid, f"PM-{name}-{field.kind}"),
        instance_number=1 + list(FIELDS).index(field.kind),
        manufacturer=MANUFACTURER,
        manufacturer_model_name=MANUFACTURER,
        software_versions=provenance.version,
        device_serial_number="0",
        contains_recognizable_visual_features=False,
        real_world_value_mappings=[mapping],
        voi_lut_transformations=[
            hd.VOILUTTransformation(window_center=top / 2, window_width=top, voi_lut_function="LINEAR_EXACT")
        ],
        content_description=f"{concept.meaning}, {name}"[:64],
        content_label="OPENBCT",
        pixel_measures=hd.PixelMeasuresSequence(
            pixel_spacing=(spacing_mm[1], spacing_mm[2]),
            slice_thickness=spacing_mm[0],
            spacing_between_slices=spacing_mm[0],
        ),
        plane_orientation=hd.PlaneOrientationSequence("PATIENT", (*along[:, 2], *along[:, 1])),
        plane_positions=positions,
        series_description="openbct strength fields (research use only)",
    )
    region = Dataset()
    region.CodeValue, region.CodingSchemeDesignator, region.CodeMeaning = (
        kind.value,
        kind.scheme_designator,
        kind.meaning,
    )
    anatomy = Dataset()
    anatomy.AnatomicRegionSequence = [region]
    anatomy.FrameLaterality = "U" if side is None else side.meaning[0]
    made.SharedFunctionalGroupsSequence[0].FrameAnatomySequence = [anatomy]
    made.BodyPartExamined = "SPINE" if side is None else "HIP"
    return made
