"""All pictures of one study: from the evidence of the pipeline and from the numbers of the record, to files beside it."""

from __future__ import annotations

from pathlib import Path

from reports.evidence import Evidence
from reports.figures import draw_fields, draw_hips, draw_spine, draw_vertebra_strip
from reports.figures_charts import (
    draw_calibration,
    draw_density_profile,
    draw_force_displacement,
    draw_reference_population,
)
from reports.figures_output import Picture
from reports.language import load_language
from reports.language.phrases import phrases_in
from reports.names import level_name
from reports.panels import PAGE_WIDTH_MM
from reports.record import Figure, StudyRecord, write_atomically

FOLDER = "figures"
_GAP_MM = 2.0
_HIGHER, _CHART_MM = 1.2, 50.0
"""So much higher than the first of its row may a picture be, and at least as high as a chart."""


def draw_pictures(record: StudyRecord, evidence: Evidence, *, language: str = "en") -> tuple[Picture, ...]:
    """Every picture for which there is something to show, in the order of the report.

    The chart of density stands beside the cuts of the spine, which leave room for it.
    """
    words = load_language(language)
    phrases = phrases_in(words)
    said = phrases.said if phrases is not None else None
    pictures: list[Picture | None] = []
    if evidence.sagittal is not None or evidence.coronal is not None:
        pictures.append(draw_spine(evidence.sagittal, evidence.coronal, said=said))
    levels = {"mean_of": record.assessment.spine_vbmd_levels, "outliers": record.assessment.spine_outlier_levels}
    pictures.append(draw_density_profile(record.vertebrae, **levels, said=said))
    if evidence.crops:
        pictures.append(draw_vertebra_strip(evidence.crops, said=said))
    if any(hip.projection is not None or hip.coronal is not None for hip in evidence.hips):
        pictures.append(draw_hips(evidence.hips, said=said))
    spine, hips = (
        [cut for cut in evidence.fields if cut.name.startswith("femur") is femora] for femora in (False, True)
    )
    for fields, name in ((spine, "mechanics"), (hips, "mechanics-hips" if spine else "mechanics")):
        if fields:
            pictures.append(draw_fields(fields, name=name, said=said))
    pictures.append(draw_reference_population(record, said=said))
    if record.calibration is not None and _rests_on(record):
        pictures.append(draw_calibration(record.calibration, said=said))
    strengths = [(level_name(v), v.strength_n) for v in record.vertebrae if v.strength_n is not None]
    strengths += [
        (words(f"side.{f.side.capitalize()}"), f.strength_n) for f in record.femora if f.strength_n is not None
    ]
    pictures.append(draw_force_displacement(strengths, said=said))
    return _packed([picture for picture in pictures if picture is not None])


def _rests_on(record: StudyRecord) -> bool:
    """Whether a number of the record comes from its calibration: else the line is not worth a picture."""
    bodies = any(v.vbmd_mg_cm3 is not None or v.strength_n is not None for v in record.vertebrae)
    return bodies or any(f.abmd_g_cm2 is not None or f.strength_n is not None for f in record.femora)


def _packed(pictures: list[Picture]) -> tuple[Picture, ...]:
    """In order, but that a picture with room beside it is followed by the next one that fits there and is not much higher.

    The layouts put as many pictures side by side as the page is wide.
    """
    left, packed = list(pictures), []
    while left:
        row = [left.pop(0)]
        for picture in list(left):
            used_mm = sum(other.width_mm + _GAP_MM for other in row)
            highest_mm = max(_HIGHER * row[0].height_mm, _CHART_MM)
            if used_mm + picture.width_mm <= PAGE_WIDTH_MM and picture.height_mm <= highest_mm:
                row.append(picture)
                left.remove(picture)
        packed += row
    return tuple(packed)


def save_pictures(pictures: tuple[Picture, ...], folder: Path) -> tuple[Figure, ...]:
    """Write the pictures into ``folder/figures`` and return their entries for the record."""
    entries = []
    for picture in pictures:
        file = f"{FOLDER}/{picture.id}.png"
        write_atomically(folder / file, picture.png)
        width_mm = round(picture.width_mm, 1)
        entries.append(Figure(id=picture.id, file=file, caption=picture.caption, width_mm=width_mm, alt=picture.alt))
    return tuple(entries)


def with_pictures(record: StudyRecord, evidence: Evidence, folder: Path, *, language: str = "en") -> StudyRecord:
    """Draw and save all pictures beside the record; the record that names them."""
    figures = save_pictures(draw_pictures(record, evidence, language=language), folder)
    return record.model_copy(update={"quality": record.quality.model_copy(update={"figures": figures})})
