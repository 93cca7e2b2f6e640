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
from reports.impression import level_name
from reports.language import load_language
from reports.language.phrases import phrases_of
from reports.record import Figure, StudyRecord, write_atomically

FOLDER = "figures"


def draw_pictures(record: StudyRecord, evidence: Evidence, *, language: str = "en") -> tuple[Picture, ...]:
    """Every picture for which there is something to show, in the order of the report.

    The chart of density stands beside the cuts of the spine, which leave room for it.
    """
    words = load_language(language)
    phrases = phrases_of(words.code, words.decimal_mark)
    said = phrases.said if phrases is not None else None
    pictures: list[Picture | None] = []
    if evidence.sagittal is not None or evidence.coronal is not None:
        pictures.append(draw_spine(evidence.sagittal, evidence.coronal, said=said))
    pictures.append(draw_density_profile(record.vertebrae, said=said))
    if evidence.crops:
        pictures.append(draw_vertebra_strip(evidence.crops, said=said))
    if any(hip.projection is not None or hip.coronal is not None for hip in evidence.hips):
        pictures.append(draw_hips(evidence.hips, said=said))
    if evidence.fields:
        pictures.append(draw_fields(evidence.fields, said=said))
    pictures.append(draw_reference_population(record, said=said))
    if record.calibration is not None:
        pictures.append(draw_calibration(record.calibration, said=said))
    strengths = [(level_name(v), v.strength_n) for v in record.vertebrae if v.strength_n is not None]
    strengths += [
        (words(f"side.{f.side.capitalize()}"), f.strength_n) for f in record.femora if f.strength_n is not None
    ]
    pictures.append(draw_force_displacement(strengths, said=said))
    return tuple(picture for picture in pictures if picture is not None)


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
