"""The back part of a report: services with their coverage, methods and references, provenance."""

from __future__ import annotations

import re
from collections.abc import Sequence, Sized
from typing import Any

from reports.citations import Citations, in_words
from reports.document import Block, Column, Paragraph, Row, Section, Table, Terms
from reports.language import Language, capitalised
from reports.names import level_name
from reports.quantity import Quantity, printed_unit
from reports.record import Calibration, Coverage, Service, Strength, StudyRecord

_COMPARED_AT_HU = 130
_PHANTOM = "phantom_"
"""Methods of calibration that name a phantom begin with it."""
_MOST_PARTS = 4
_LEAST_PART = 0.1
"""Parts of an uncertainty below this share of the whole are not worth a word."""
_NUMBER = re.compile(r"(\d+(?:[.,]\d+)?)")
"""A number in the text of a method, with the decimal mark of any language."""


def services_section(record: StudyRecord, words: Language) -> Section:
    """A box for each service: whether the data support it, its coverage status; then once what they all rest on."""
    if not record.services:
        return Section("services", words("section.services"), ())
    boxes: list[Block] = [_service_box(service, words) for service in record.services]
    covered = [service.coverage for service in record.services if service.coverage is not None]
    if covered:
        assumed = any(finding.code == "date_of_service_assumed" for finding in record.quality.findings)
        boxes.append(Terms(words("service.common"), tuple(_common_items(covered, assumed, words)), boxed=True))
    if record.other_services:
        boxes.append(Paragraph(_other_services_text(record, words), "note"))
    boxes.append(Paragraph(words("service.notice"), "note"))
    return Section("services", words("section.services"), tuple(boxes))


def _other_services_text(record: StudyRecord, words: Language) -> str:
    """Neighbouring codes, those with the same reason together."""
    by_reason: dict[str, list[str]] = {}
    for other in record.other_services:
        by_reason.setdefault(other.reason, []).append(other.cpt)
    listed = " ".join(f"{', '.join(codes)}: {reason}" for reason, codes in by_reason.items())
    return f"{words('service.others')}: {listed}"


def _service_box(service: Service, words: Language) -> Terms:
    paraphrase = words.get(f"service.paraphrase_{service.cpt}", words("service.paraphrase_other"))
    supported = words("service.supported" if service.supported else "service.not_supported")
    items = [(words("service.data"), " ".join([f"{supported}.", *service.reasons]))]
    if service.missing:
        items.append((words("service.missing"), "; ".join(service.missing)))
    coverage = service.coverage
    if coverage is None:
        items.append((words("service.coverage"), words("service.coverage_none")))
    else:
        status = words.get(f"coverage.{coverage.status}", coverage.status)
        if coverage.last_known_status:
            last = words.get(f"coverage.{coverage.last_known_status}", coverage.last_known_status)
            status = words("service.last_known", status=status, last=last)
        items += [(words("service.coverage"), status), (words("service.statement"), coverage.text)]
        if coverage.route:
            items.append((words("service.route"), coverage.route))
    return Terms(words("service.title", cpt=service.cpt, paraphrase=paraphrase), tuple(items), boxed=True)


def _common_items(covered: list[Coverage], assumed: bool, words: Language) -> list[tuple[str, str]]:
    """What the statuses rest on, who disagrees, what is still to be done: each sentence once for all services."""
    payers = ", ".join(dict.fromkeys(part for c in covered for part in (c.payer, c.policy) if part))
    dates = ", ".join(dict.fromkeys(words.date(c.date_of_service) for c in covered))
    if assumed:
        dates += words("service.date_assumed")
    items = [(words("service.payer"), payers or words("fact.not_stated")), (words("service.date"), dates)]
    items += [(words("service.basis"), text) for text in _sources_text(covered, words)]
    items += [(words("service.conflict"), _said(conflict)) for c in covered for conflict in c.conflicts]
    for stated in dict.fromkeys(c.prior_authorization for c in covered if c.prior_authorization):
        items.append((words("service.authorization"), words.get(f"authorization.{stated}", stated)))
    warnings = dict.fromkeys(_said(w) for c in covered for w in c.warnings if not _is_said_elsewhere(w))
    if warnings:
        items.append((words("service.warning"), " ".join(warnings)))
    entries = [entry for c in covered for entry in c.checklist]
    done = dict.fromkeys(_checked(entry) for entry in entries if entry.get("met") == "yes")
    met = {str(entry.get("item", "")) for entry in entries if entry.get("met") == "yes"}
    left = dict.fromkeys(item for entry in entries if (item := str(entry.get("item", ""))) not in met)
    if left:
        items.append((words("service.checklist"), "; ".join(left)))
    if done:
        items.append((words("service.checklist_done"), "; ".join(done)))
    return list(dict.fromkeys(items))


def _checked(entry: dict[str, Any]) -> str:
    basis = entry.get("basis")
    return f"{entry.get('item', '')} ({basis})" if basis else str(entry.get("item", ""))


def _said(entry: dict[str, Any] | str) -> str:
    """The sentence of a warning or conflict, whatever else it carries."""
    if isinstance(entry, str):
        return entry
    text = entry.get("text") or entry.get("claim") or entry.get("code") or ""
    document = entry.get("document") or entry.get("doc")
    return f"{text} ({document})" if document and str(document) not in str(text) else str(text)


_SAID_ELSEWHERE = frozenset(
    (
        "STALE_PAST_NEXT_REVIEW", "CONFLICT_SECONDARY", "NEWER_VERSION_CLAIMED", "CODE_SUNSET_NEAR", "CODE_SUNSET_UNVERIFIED",
        "ASO_SELF_FUNDED", "PLAN_NOT_IN_FORCE", "KB_OLD", "MANDATE_NOT_CHECKED", "DX_NOT_DEFINED", "CHECKLIST_INCOMPLETE",
    )
)  # fmt: skip
"""Flags whose content the statement of the service or the list of what is to be documented already says."""


def _is_said_elsewhere(warning: dict[str, Any] | str) -> bool:
    return isinstance(warning, dict) and warning.get("code") in _SAID_ELSEWHERE


def _sources_text(covered: Sequence[Coverage], words: Language) -> list[str]:
    """Each document once, with all the sentences quoted from it."""
    quotes: dict[str, list[str]] = {}
    for source in (source for c in covered for source in c.sources):
        document = str(source.get("document") or source.get("doc") or source.get("id") or "")
        if source.get("effective"):
            document += words("service.effective", date=words.date(str(source["effective"])))
        quoted = quotes.setdefault(document, [])
        quote = source.get("quote")
        if quote and quote not in quoted:
            quoted.append(str(quote))
    return [
        words("service.source", document=document, quote="” “".join(quoted)) if quoted else document
        for document, quoted in quotes.items()
    ]


def methods_section(record: StudyRecord, words: Language, citations: Citations) -> Section:
    """How each kind of number was obtained, how it is to be read, and the works that it rests on."""
    columns = (
        Column(words("column.measure"), share=2.2),
        Column(words("column.method"), share=6.6),
        Column(words("column.reference"), share=1.6),
    )
    rows = [
        Row((capitalised(name), method, citations.cite(*references)))
        for name, method, references in _condensed(_methods_used(record, words))
    ]
    blocks: list[Block] = []
    if rows:
        blocks.append(Table(words("section.methods"), columns, tuple(rows)))
    items = [(words("method.calibration"), _calibration_text(record, words, citations))]
    sentences = [words("method.uncertainty"), words("method.classes"), *record.quality.limits]
    parts = _uncertainty_parts(record, words)
    if parts:
        items.append((words("method.parts"), parts))
    items.append((words("method.limits"), " ".join(sentences)))
    citations.cite(*record.assessment.references)
    blocks.append(Terms("", tuple(items)))
    line = record.calibration
    listed = [(number, in_words(reference, words)) for number, reference in citations.listed()]
    cited = tuple((number, text if line is None else _calibrated_by(text, line, words)) for number, text in listed)
    if cited:
        blocks.append(Terms(words("method.references"), cited, numbered=True))
    return Section("methods", words("section.methods"), tuple(blocks))


def _uncertainty_parts(record: StudyRecord, words: Language) -> str:
    """What the uncertainty of each leading number comes from, the largest part first; for strengths the ensemble as well."""
    leading: list[tuple[str, Quantity]] = []
    density = record.assessment.spine_vbmd_mg_cm3
    if density is not None:
        name = words("measure.spine_vbmd", levels=" + ".join(record.assessment.spine_vbmd_levels))
        leading.append((name, density))
    tested = [(v.strength_n.value, level_name(v), v.strength_n) for v in record.vertebrae if v.strength_n is not None]
    if tested:
        _, level, strength = min(tested, key=lambda found: found[0])
        leading.append((words("measure.lowest_strength", level=level), strength))
    for femur in record.femora:
        side = words(f"side.{femur.side.capitalize()}")
        numbers = (("t_score", femur.t_score), ("strength_n", femur.strength_n))
        leading += [(f"{side}, {words(f'measure.{key}')}", n) for key, n in numbers if n is not None]
    said = []
    for name, number in leading:
        largest = sorted(number.components.items(), key=lambda part: -part[1])[:_MOST_PARTS]
        parts = [
            f"{words.get(f'source.{source}', source.replace('_', ' '))} {words.number(part, number)}"
            for source, part in largest
            if part > _LEAST_PART * (number.uncertainty or 0.0)
        ]
        if parts:
            unit = printed_unit(number.unit) or words("method.unit_score")
            said.append(f"{name} ({unit}): {', '.join(parts)}{_ensemble(number, words)}.")
    return " ".join(said)


def _ensemble(number: Quantity, words: Language) -> str:
    """The range of an ensemble of solutions, where the uncertainty comes from one."""
    model = number.model if isinstance(number, Strength) else {}
    count, low, high = (model.get(f"ensemble_{key}") for key in ("members", "lowest_n", "highest_n"))
    if not (isinstance(low, int | float) and isinstance(high, int | float)):
        return ""
    return words("method.ensemble", count=count, low=words.number(low, number), high=words.number(high, number))


def _condensed(used: list[tuple[str, Quantity]]) -> list[tuple[str, str, list[str | None]]]:
    """Measure, method and references, each method once; methods that differ in numbers only become one, with the ranges."""
    groups: dict[tuple[str, str], list[Quantity]] = {}
    for name, number in used:
        groups.setdefault((name, "…".join(_NUMBER.split(number.method)[::2])), []).append(number)
    condensed = []
    for (name, _), numbers in groups.items():
        columns = zip(*(_NUMBER.split(number.method) for number in numbers), strict=True)
        text = "".join(column[0] if len(set(column)) == 1 else _range(column) for column in columns)
        condensed.append((name, text, list(dict.fromkeys(number.reference for number in numbers))))
    return condensed


def _range(numbers: Sequence[str]) -> str:
    ordered = sorted(set(numbers), key=lambda number: float(number.replace(",", ".")))
    return f"{ordered[0]}–{ordered[-1]}"


def _methods_used(record: StudyRecord, words: Language) -> list[tuple[str, Quantity]]:
    used: list[tuple[str, Quantity]] = []
    for vertebra in record.vertebrae:
        for key in ("trabecular_hu", "vbmd_mg_cm3", "strength_n", "stiffness_n_mm"):
            number = getattr(vertebra, key)
            if number is not None:
                used.append((words(f"measure.{key}"), _with_test(number, words, record.calibration)))
        if vertebra.heights_mm is not None:
            used.append((words("measure.heights_mm"), vertebra.heights_mm.anterior))
        if vertebra.fracture is not None:
            used.append((words("measure.fracture"), vertebra.fracture.height_loss))
    for femur in record.femora:
        regions = femur.abmd_g_cm2
        numbers = [] if regions is None else [getattr(regions, name) for name in type(regions).model_fields]
        used += [(words("measure.abmd_g_cm2"), number) for number in numbers if number is not None]
        for key in ("t_score", "z_score", "strength_n", "stiffness_n_mm"):
            number = getattr(femur, key)
            if number is not None:
                used.append((words(f"measure.{key}"), _with_test(number, words, record.calibration)))
    return used


def _with_test(number: Quantity, words: Language, line: Calibration | None) -> Quantity:
    """A method in the words of a reader: a strength names its test, its criterion and its profile; a calibration is named."""
    if line is not None:
        number = number.model_copy(update={"method": _calibrated_by(number.method, line, words)})
    for key, name in words.under("test").items():
        number = number.model_copy(update={"method": number.method.replace(key, name)})
    test, profile = getattr(number, "test", None), getattr(number, "profile", None)
    if test is None or profile is None:
        return number
    told = [part for part in (getattr(number, "definition", None), profile) if part and part not in number.method]
    name = words.get(f"test.{test}", test)
    named = [] if test in number.method or name in number.method else [name]
    return number.model_copy(update={"method": "; ".join([*named, number.method, *told])})


def _calibration_text(record: StudyRecord, words: Language, citations: Citations) -> str:
    line = record.calibration
    if line is None:
        return words("method.none")
    values = {
        "method": calibration_name(line.method, words),
        "slope": f"{line.slope_mg_cm3_per_hu:.3f}".replace(".", words.decimal_mark),
        "intercept": f"{line.intercept_mg_cm3:+.1f}".replace(".", words.decimal_mark)
        .replace("-", "− ")
        .replace("+", "+ "),
        "mineral": line.mineral,
    }
    if line.residual_mg_cm3 is None:
        text = words("method.line_no_residual", **values)
    else:
        text = words(
            "method.line", residual=f"{line.residual_mg_cm3:.1f} mg/cm³".replace(".", words.decimal_mark), **values
        )
    text = f"{text} {citations.cite(line.reference)}".strip()
    if not line.alternatives:
        return text
    own = f"{_COMPARED_AT_HU * line.slope_mg_cm3_per_hu + line.intercept_mg_cm3:.0f}"
    others = "; ".join(
        words(
            "method.alternative" if other.comparable else "method.alternative_scale",
            method=calibration_name(other.method, words),
            density=f"{other.density_at_130_hu_mg_cm3:.0f} ± {other.uncertainty_mg_cm3:.0f}",
        )
        for other in line.alternatives
    )
    return f"{text} {words('method.alternatives', own=own, others=others)}"


def _calibrated_by(text: str, line: Calibration, words: Language) -> str:
    """`text` with the calibration named as in print."""
    return text.replace(
        f"calibration {line.method}", words("calibration.by", name=calibration_name(line.method, words))
    )  # fmt: skip


def calibration_name(method: str, words: Language) -> str:
    """What a method of calibration is called in print."""
    if method.startswith(_PHANTOM):
        return words("calibration.phantom", name=method.removeprefix(_PHANTOM).replace("_", " "))
    return words.get(f"calibration.{method}", method.replace("_", " "))


def _is_set(value: object) -> bool:
    """Whether a setting was given: not None, not an empty text or list."""
    return value is not None and not (isinstance(value, Sized) and len(value) == 0)


def provenance_section(record: StudyRecord, words: Language) -> Section:
    """Which images, which software, which settings: enough to do it again."""
    items: list[tuple[str, str]] = []
    for used in record.series.used:
        region = ", ".join(words(f"provenance.for_{part}") for part in used.used_for)
        made = used.acquisition
        scanner = " ".join(part for part in (made.manufacturer, made.model) if part)
        described = "; ".join(part for part in (made.series_description, scanner, used.selection_reason) if part)
        items.append((f"{words('provenance.used')} ({region})", described))
        shape = " × ".join(str(n) for n in used.shape)
        spacing = " × ".join(f"{edge:.3g}".replace(".", words.decimal_mark) for edge in used.spacing_mm)
        grid = words("provenance.grid_text", shape=shape, spacing=spacing)
        items.append((words("provenance.grid"), grid + (words("provenance.resampled") if used.resampled else "")))
        if used.series_uid:
            items.append((words("provenance.uid"), used.series_uid))
        if used.content_sha256:
            items.append((words("provenance.hash"), used.content_sha256))
    items += [(words("provenance.rejected"), f"{r.description}: {r.reason}") for r in record.series.rejected]
    software = record.software
    parts = [
        f"{software.name} {software.version}",
        f"Python {software.python}" if software.python else "",
        software.platform,
        f"{words('provenance.program')} {software.code_sha256[:12]}" if software.code_sha256 else "",
    ]
    for key, table in (
        ("libraries", software.dependencies),
        ("tables", software.tables),
        ("settings", software.settings),
    ):
        given = {name: value for name, value in sorted(table.items()) if _is_set(value)}
        if given:
            parts.append(
                f"{words(f'provenance.{key}')}: {', '.join(f'{name} {value}' for name, value in given.items())}"
            )
    items.append((words("provenance.software"), "; ".join(part for part in parts if part)))
    return Section("provenance", words("section.provenance"), (Terms("", tuple(items)),))
