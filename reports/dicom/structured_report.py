"""DICOM Structured Report (TID 1500): one measurement group per vertebra and femur, with the numbers of the record."""

from __future__ import annotations

import re
from typing import Any

import highdicom as hd
from highdicom.sr import (
    AlgorithmIdentification,
    CodedConcept,
    Comprehensive3DSR,
    DeviceObserverIdentifyingAttributes,
    FindingSite,
    Measurement,
    MeasurementReport,
    MeasurementsAndQualitativeEvaluations,
    ObservationContext,
    ObserverContext,
    QualitativeEvaluation,
    ReferencedSegment,
    RelationshipTypeValues,
    SourceImageForMeasurementGroup,
    SourceSeriesForSegmentation,
    TextContentItem,
    TrackingIdentifier,
    VolumetricROIMeasurementsAndQualitativeEvaluations,
)
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes
from pydicom.sr.coding import Code

from reports.dicom import codes as concepts
from reports.dicom.common import MANUFACTURER, SERIES_NUMBERS, UNICODE, Provenance, completed_headers
from reports.dicom.segmentation import segment_numbers
from reports.quantity import Quantity
from reports.record import Femur, Severity, Status, StudyRecord, Vertebra


def structured_report(
    record: StudyRecord, headers: list[Dataset], provenance: Provenance, segmentation: Dataset | None
) -> Dataset | None:
    """A Comprehensive 3D SR object with every number of the record, unverified and preliminary; None without structures.

    Structures that were refused keep their group; each number that is absent stands there by its concept with a code that says
    so, and the reasons as comments. The coverage sentences stand in a
    group of their own as comments: they are not findings.

    Parameters
    ----------
    record : StudyRecord
    headers : list of Dataset
        Headers of the source images of one stack.
    provenance : Provenance
    segmentation : Dataset or None
        The Segmentation object that the groups refer to.
    """
    sources = completed_headers(headers)
    series_uid = str(headers[0].SeriesInstanceUID)
    segments = segment_numbers(segmentation) if segmentation is not None else {}
    algorithm = AlgorithmIdentification(name="openbct", version=provenance.version)
    groups = []
    structures: tuple[Vertebra | Femur, ...] = (*record.vertebrae, *record.femora)
    if not structures:
        return None  # TID 1500 needs a measurement group; the PDF says why there is none
    for structure in structures:
        kind, side = concepts.structure_code(structure.name)
        site = FindingSite(_concept(kind), laterality=_concept(side) if side is not None else None)
        common = {
            "tracking_identifier": TrackingIdentifier(
                uid=provenance.uid(series_uid, f"track-{structure.name}"), identifier=structure.name
            ),
            "finding_type": _concept(concepts.BONE),
            "finding_sites": [site],
            "algorithm_id": algorithm,
            "measurements": _measurements(structure) or None,
            "qualitative_evaluations": [*_evaluations(structure), *_absent_measurements(structure)],
        }
        reasons = _reasons(structure)
        if segmentation is not None and structure.name in segments:
            made: Any = VolumetricROIMeasurementsAndQualitativeEvaluations(
                referenced_segment=ReferencedSegment(
                    segmentation.SOPClassUID,
                    segmentation.SOPInstanceUID,
                    segment_number=segments[structure.name],
                    source_series=SourceSeriesForSegmentation(hd.UID(series_uid)),
                ),
                **common,
            )
        else:
            made = MeasurementsAndQualitativeEvaluations(
                source_images=[SourceImageForMeasurementGroup(sources[0].SOPClassUID, sources[0].SOPInstanceUID)],
                **common,
            )
        groups.append(_with_comments(made, reasons))
    spine = record.assessment.spine_vbmd_mg_cm3
    if spine is not None and any(v.name in segments or not segments for v in record.vertebrae):
        groups.append(
            MeasurementsAndQualitativeEvaluations(
                source_images=[SourceImageForMeasurementGroup(sources[0].SOPClassUID, sources[0].SOPInstanceUID)],
                tracking_identifier=TrackingIdentifier(
                    uid=provenance.uid(series_uid, "track-spine"),
                    identifier="spine, mean of " + ", ".join(record.assessment.spine_vbmd_levels),
                ),
                finding_type=_concept(concepts.BONE),
                finding_sites=[FindingSite(_concept(concepts.SPINE))],
                algorithm_id=algorithm,
                measurements=_with_uncertainty(concepts.VBMD, spine, derivation=Code("373098007", "SCT", "Mean")),
            )
        )
    observer = ObserverContext(
        codes.DCM.Device,
        DeviceObserverIdentifyingAttributes(
            uid=provenance.uid(series_uid, "device"),
            name="openbct",
            manufacturer_name=MANUFACTURER,
            model_name=MANUFACTURER,
            serial_number="0",
        ),
    )
    content = MeasurementReport(
        ObservationContext(observer_device_context=observer),
        procedure_reported=codes.LN.CTUnspecifiedBodyRegion,
        imaging_measurements=groups,
        title=codes.DCM.ImagingMeasurementReport,
    )
    report = Comprehensive3DSR(
        evidence=[*sources, *([segmentation] if segmentation is not None else [])],
        content=content,
        series_instance_uid=provenance.uid(series_uid, "SR-series"),
        series_number=SERIES_NUMBERS["SR"],
        sop_instance_uid=provenance.uid(series_uid, "SR"),
        instance_number=1,
        manufacturer=MANUFACTURER,
        is_complete=True,
        is_final=False,
        is_verified=False,
        series_description="openbct measurements (research use only)",
    )
    report.SpecificCharacterSet = UNICODE  # reasons and coverage hold signs that the source's alphabet may not have
    report.ManufacturerModelName = MANUFACTURER
    report.SoftwareVersions = provenance.version
    identification = Dataset()
    identification.CodingSchemeDesignator = concepts.OWN_SCHEME
    identification.CodingSchemeName = "openbct quantities"
    identification.CodingSchemeResponsibleOrganization = "openbct"
    identification.CodingSchemeUID = provenance.uid("", "coding-scheme")
    report.CodingSchemeIdentificationSequence = [identification]
    _add_comments(report, [s.coverage.text for s in record.services if s.coverage is not None])
    return report


def _concept(code: Code) -> CodedConcept:
    return CodedConcept(code.value, code.scheme_designator, code.meaning)


def _measurement(
    name: Code, quantity: Quantity, *, derivation: Code | None = None, region: Code | None = None
) -> Measurement:
    return Measurement(
        name=_concept(name),
        value=_decimal(quantity.value),
        unit=_concept(concepts.unit_code(quantity.unit)),
        derivation=_concept(derivation) if derivation is not None else None,
        finding_sites=[FindingSite(_concept(region))] if region is not None else None,
    )


def _decimal(value: float) -> float:
    """A value whose decimal string fits the 16 characters of a DICOM decimal string without losing what was measured."""
    return float(f"{value:.9g}")


def _with_uncertainty(name: Code, quantity: Quantity, **options: Code | None) -> list[Measurement]:
    rows = [_measurement(name, quantity, **options)]
    if quantity.uncertainty is not None:
        spread = quantity.model_copy(update={"value": quantity.uncertainty})
        meaning = f"Standard uncertainty: {name.meaning}"[:64]
        rows.append(_measurement(concepts.own(f"U_{name.value}"[:16], meaning), spread, region=options.get("region")))
    return rows


def _measurements(structure: Vertebra | Femur) -> list[Measurement]:
    rows: list[Measurement] = []
    if isinstance(structure, Vertebra):
        if structure.trabecular_hu is not None:
            mean = Code("373098007", "SCT", "Mean")
            rows += _with_uncertainty(concepts.ATTENUATION, structure.trabecular_hu, derivation=mean)
        if structure.vbmd_mg_cm3 is not None:
            rows += _with_uncertainty(concepts.VBMD, structure.vbmd_mg_cm3)
        if structure.heights_mm is not None:
            for part, code in concepts.HEIGHTS.items():
                rows += _with_uncertainty(code, getattr(structure.heights_mm, part))
        if structure.fracture is not None:
            rows += _with_uncertainty(concepts.HEIGHT_LOSS, structure.fracture.height_loss)
    else:
        for name, regions in (
            (concepts.ABMD_CT, structure.abmd_g_cm2),
            (concepts.BMC_CT, structure.bmc_g),
            (concepts.AREA_CT, structure.area_cm2),
            (concepts.ABMD_ON_SCALE.get(structure.dxa_scale or ""), structure.dxa_scale_abmd_g_cm2),
        ):
            for region, quantity in regions or ():
                if quantity is not None and name is not None:
                    rows += _with_uncertainty(name, quantity, region=concepts.DENSITY_REGIONS[region])
        for name, scores in (
            (concepts.TSCORE_CT, structure.t_scores),
            (concepts.TSCORE_MALE_CT, structure.male_reference_t_scores),
            (concepts.ZSCORE_CT, structure.z_scores),
        ):
            for region, score in scores.items():
                rows += _with_uncertainty(name, score, region=concepts.DENSITY_REGIONS[region])
    if structure.strength_n is not None:
        rows += _with_uncertainty(concepts.STRENGTH_FE, structure.strength_n)
    if structure.stiffness_n_mm is not None:
        rows += _with_uncertainty(concepts.STIFFNESS_FE, structure.stiffness_n_mm)
    for test in structure.other_tests:
        strength, stiffness = concepts.codes_of_test(test.strength_n.test)
        rows += _with_uncertainty(strength, test.strength_n)
        if test.stiffness_n_mm is not None:
            rows += _with_uncertainty(stiffness, test.stiffness_n_mm)
    for key, quantity in structure.further.items():
        try:
            concepts.unit_code(quantity.unit)
        except ValueError:
            # An additional measure in a unit without a UCUM code of its own: UCUM lets it be called by its name in braces.
            named = re.sub(r"[^!-z|~]+", "_", quantity.unit)[:14]
            quantity = quantity.model_copy(update={"unit": f"{{{named}}}"})
        rows += _with_uncertainty(concepts.further_code(key), quantity)
    return rows


def _absences(structure: Vertebra | Femur) -> list[tuple[str, Code]]:
    """Numbers that the structure should have and has not: key in the record, and concept."""
    if isinstance(structure, Vertebra):
        wanted: list[tuple[str, object, Code]] = [
            ("trabecular_hu", structure.trabecular_hu, concepts.ATTENUATION),
            ("vbmd_mg_cm3", structure.vbmd_mg_cm3, concepts.VBMD),
            *(("heights_mm", structure.heights_mm, code) for code in concepts.HEIGHTS.values()),
            ("fracture", structure.fracture, concepts.HEIGHT_LOSS),
        ]
    else:
        regions = structure.abmd_g_cm2
        wanted = [
            (f"abmd_g_cm2.{region}", regions and getattr(regions, region), concepts.ABMD_CT)
            for region in concepts.DENSITY_REGIONS
        ]
        wanted += [
            ("t_score", structure.t_score, concepts.TSCORE_CT),
            ("z_score", structure.z_score, concepts.ZSCORE_CT),
        ]
    wanted += [
        ("strength_n", structure.strength_n, concepts.STRENGTH_FE),
        ("stiffness_n_mm", structure.stiffness_n_mm, concepts.STIFFNESS_FE),
    ]
    return [(key, code) for key, number, code in wanted if number is None]


def _absent_measurements(structure: Vertebra | Femur) -> list[QualitativeEvaluation]:
    """For each absent number its concept with a code of CID 42: measurement failure, or not attempted.

    DICOM would allow a numeric item without a value, too; highdicom cannot open a report that holds one.
    """
    rows: dict[tuple[str, str], QualitativeEvaluation] = {}
    for key, name in _absences(structure):
        reason = structure.reason_for(key)
        failed = structure.status is Status.FAILED or (reason is not None and reason.severity is Severity.FAILURE)
        value = codes.cid42.MeasurementFailure if failed else codes.cid42.MeasurementNotAttempted
        rows[name.value, value.value] = _evaluation(name, value)
    return list(rows.values())


def _reasons(structure: Vertebra | Femur) -> list[str]:
    """Why numbers are absent, each reason once with the keys it stands for."""
    keys: dict[str, list[str]] = {}
    for key, _ in _absences(structure):
        if (reason := structure.reason_for(key)) is not None:
            named = keys.setdefault(f"{reason.text} ({reason.code})", [])
            if key not in named:
                named.append(key)
    return [f"Not measured: {', '.join(named)}. {reason}" for reason, named in keys.items()]


def _with_comments(group: Any, texts: list[str]) -> Any:
    """The group with comments of its own after its measurements."""
    for text in texts:
        item = TextContentItem(_concept(concepts.COMMENT), text, relationship_type=RelationshipTypeValues.CONTAINS)
        group[0].ContentSequence.append(item)
    return group


def _evaluations(structure: Vertebra | Femur) -> list[QualitativeEvaluation]:
    rows = [_evaluation(concepts.QUALITY, concepts.QUALITY_VALUES[Status(structure.status).value])]
    if isinstance(structure, Vertebra) and structure.fracture is not None:
        rows.append(_evaluation(concepts.GENANT, concepts.GENANT_GRADES[structure.fracture.genant_grade]))
        rows.append(_evaluation(concepts.DEFORMITY, concepts.DEFORMITIES[structure.fracture.deformity]))
    return rows


def _evaluation(name: Code, value: Code) -> QualitativeEvaluation:
    return QualitativeEvaluation(_concept(name), _concept(value))


def _add_comments(report: Dataset, texts: list[str]) -> None:
    """Comment items below the root: coverage is said in words, beside the measurements and not among them."""
    for text in texts:
        report.ContentSequence.append(
            TextContentItem(_concept(concepts.COMMENT), text, relationship_type=RelationshipTypeValues.CONTAINS)
        )
