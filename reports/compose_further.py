"""Whatever else was measured on bones: a column for each measure, a row for each bone, reasons for what is absent."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from reports.document import Block, Column, Paragraph, Row, Section, Table
from reports.language import Language, capitalised
from reports.names import listed, structure_name
from reports.quantity import printed_unit
from reports.record import HipRegions, Strength, Structure, StudyRecord

_FIRST_FAILURE = "fails_first_in."
_CORTICAL_SHARE = "cortical_load_share"
"""Keys of the model of a strength: the part of each region in what fails first, and of the outer shell in the load."""
_LEAST_PART = 0.005
_NOTHING = "–"


@dataclass(frozen=True)
class _Measure:
    """A column of the table: its head, and a cell for each bone."""

    column: Column
    cells: tuple[str, ...]


def further_section(record: StudyRecord, words: Language) -> Section:
    """Measures that do not lead the report, for those who ask how the leading ones came about."""
    blocks: list[Block] = []
    for group in (record.vertebrae, sorted(record.femora, key=lambda f: f.side != "right")):
        table = _table(group, words)
        if table is not None:
            blocks.append(table)
    regions = _regions_table(record, words)
    if regions is not None:
        blocks.append(regions)
    if blocks:
        blocks.append(Paragraph(words("text.further_legend"), "note"))
    return Section("further", words("section.further"), tuple(blocks))


def _table(bones: Sequence[Structure], words: Language) -> Table | None:
    names = [structure_name(bone, words) for bone in bones]
    measures = _measures(bones, words)
    rows = []
    for i, name in enumerate(names):
        cells = [measure.cells[i] for measure in measures]
        if any(cell != _NOTHING for cell in cells):
            rows.append(Row((name, *cells)))
    missing: dict[str, list[str]] = {}
    for bone, name in zip(bones, names, strict=True):
        for text in _absent(bone, words):
            missing.setdefault(text, []).append(name)
    rows += [Row((listed(of, names), text), spans=True) for text, of in missing.items()]
    columns = (Column(words("column.bone"), share=1.2), *(measure.column for measure in measures))
    return Table(words("section.further"), columns, tuple(rows)) if rows else None


def _regions_table(record: StudyRecord, words: Language) -> Table | None:
    """Area and mineral content of each region of the hip, and its areal density on another scale where it was asked for."""
    femora = sorted(record.femora, key=lambda f: f.side != "right")
    scale = next((f.dxa_scale for f in femora if f.dxa_scale is not None), None)
    rows = []
    for femur in femora:
        for region in HipRegions.model_fields:
            numbers = [
                getattr(regions, region, None) for regions in (femur.area_cm2, femur.bmc_g, femur.dxa_scale_abmd_g_cm2)
            ]
            if any(number is not None for number in numbers):
                cells = [_NOTHING if number is None else words.quantity(number, unit=False) for number in numbers]
                name = words(f"region.{region}")
                rows.append(Row((structure_name(femur, words), name, *(cells if scale else cells[:2]))))
    columns = [
        Column(words("column.bone"), share=1.2),
        Column(words("further.hip_region"), share=1.7),
        Column(words("further.area_cm2"), printed_unit("cm2"), "right", 1.7),
        Column(words("further.bmc_g"), printed_unit("g"), "right", 1.7),
    ]
    if scale is not None:
        title = words("further.dxa_scale_abmd_g_cm2", maker=scale.capitalize())
        columns.append(Column(title, printed_unit("g/cm2"), "right", 2.2))
    return Table(words("further.hip_regions"), tuple(columns), tuple(rows)) if rows else None


def _measures(bones: Sequence[Structure], words: Language) -> list[_Measure]:
    measures = []
    units = {key: number.unit for bone in bones for key, number in bone.further.items()}
    for key, unit in units.items():
        cells = (
            words.quantity(bone.further[key], unit=False) if key in bone.further else _NOTHING for bone in bones
        )  # fmt: skip
        measures.append(_Measure(Column(_name(key, words), printed_unit(unit), "right", 1.7), tuple(cells)))
    for test in dict.fromkeys(strength.test for bone in bones for strength in _strengths(bone)):
        tested = [next((s for s in _strengths(bone) if s.test == test), None) for bone in bones]
        shares = tuple(_cortical_share(strength) for strength in tested)
        if any(share != _NOTHING for share in shares):
            measures.append(_Measure(Column(words("further.cortical_load_share"), "%", "right", 1.5), shares))
        regions = tuple(_first_to_fail(strength, words) for strength in tested)
        if any(region != _NOTHING for region in regions):
            title = words("further.fails_first_in", test=words.get(f"test.{test}", test))
            measures.append(_Measure(Column(title, share=3.0), regions))
    return measures


def _strengths(bone: Structure) -> list[Strength]:
    """Strengths of a bone in all its tests, the leading one first."""
    leading = getattr(bone, "strength_n", None)
    return [*([leading] if leading is not None else []), *(test.strength_n for test in bone.other_tests)]


def _name(key: str, words: Language) -> str:
    """The name of a further measure; one that the language does not know keeps its key, in words."""
    return words.get(f"further.{key}", capitalised(key.replace("_", " ")))


def _absent(bone: Structure, words: Language) -> list[str]:
    """Further measures that were asked for and could not be made, each with its reason."""
    prefix = "further."
    return [
        f"{_name(key.removeprefix(prefix), words)} {words('text.not_measured', reason=finding.text)}"
        for key, finding in bone.not_measured.items()
        if key.startswith(prefix)
    ]


def _cortical_share(strength: Strength | None) -> str:
    value = strength.model.get(_CORTICAL_SHARE) if strength is not None else None
    return f"{100 * value:.0f}" if isinstance(value, int | float) else _NOTHING


def _first_to_fail(strength: Strength | None, words: Language) -> str:
    """``head 70 %; neck 24 %``: where a virtual test fails first, the two largest parts."""
    model: Mapping[str, object] = strength.model if strength is not None else {}
    known = {
        key.removeprefix(_FIRST_FAILURE): float(value)
        for key, value in model.items()
        if key.startswith(_FIRST_FAILURE) and isinstance(value, int | float) and value >= _LEAST_PART
    }
    leading = sorted(known, key=lambda region: -known[region])[:2]
    parts = [f"{words.get(f'part.{region}', region)} {100 * known[region]:.0f} %" for region in leading]
    return "; ".join(parts) or _NOTHING
