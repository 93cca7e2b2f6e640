"""The same numbers in every rendering: HTML, PDF and cohort table of random records are read back and compared.

Also: nothing that a record holds can break out of its text, every absent number comes with its reason, and the files are what
they say they are (self-contained, tagged, accessible).
"""

from __future__ import annotations

import csv
import io
import itertools
import re
import time
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pypdf
import pytest
from hypothesis import HealthCheck, Phase, given, settings

import reports.language
import reports.pdf
from reports.cohort import NotDone, cohort_row, data_dictionary, measurements, write_cohort
from reports.evidence import Evidence, SliceView
from reports.html import render_html
from reports.language import load_language
from reports.pdf import MOST_PAGES, _with_codes, render_pdf
from reports.pictures import with_pictures
from reports.quantity import Quantity, format_quantity, format_value
from reports.record import Quality, StudyRecord, load_record, save_record
from tests.reports.example_records import assessment_of, example_record, finding, records

FEW = settings(
    max_examples=12,
    deadline=None,
    phases=(Phase.explicit, Phase.reuse, Phase.generate),  # rendering is too slow for shrinking
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)


class _Page(HTMLParser):
    """Text, headings, pictures and links of a page."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.texts: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self._silent = False
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self._silent = tag in ("style", "script")

    def handle_endtag(self, tag: str) -> None:
        self._silent = False

    def handle_data(self, data: str) -> None:
        if not self._silent:
            self.texts.append(data)

    @property
    def text(self) -> str:
        return squeezed(" ".join(self.texts))


PLAIN = str.maketrans("³²₂₄−×", "3224-x")
"""Characters as they are printed, and as a record holds them."""


def squeezed(text: str) -> str:
    """Without white space and control characters, which text extraction puts anywhere, and without typesetting."""
    return re.sub(r"[\s\x00-\x1f\u200b\u00ad]+", "", text).translate(PLAIN)


def pdf_text(content: bytes) -> str:
    return squeezed("".join(page.extract_text() for page in pypdf.PdfReader(io.BytesIO(content)).pages))


def reported_numbers(record: StudyRecord) -> list[Quantity]:
    """Every quantity that the report has to print."""
    numbers: list[Quantity | None] = [record.assessment.spine_vbmd_mg_cm3]
    for body in record.vertebrae:
        heights = body.heights_mm
        numbers += [heights.anterior, heights.middle, heights.posterior] if heights and _has_row(body) else []
        numbers += [body.trabecular_hu, body.vbmd_mg_cm3, body.strength_n, body.stiffness_n_mm]
        numbers.append(body.fracture.height_loss if body.fracture else None)
    for femur in record.femora:
        for regions in (femur.abmd_g_cm2, femur.bmc_g, femur.area_cm2, femur.dxa_scale_abmd_g_cm2):
            numbers += [number for _, number in regions or ()]
        numbers += [*femur.t_scores.values(), *femur.male_reference_t_scores.values()]
        numbers += [femur.strength_n, femur.stiffness_n_mm]
    return [number for number in numbers if number is not None]


def _has_row(body: object) -> bool:
    return getattr(body, "status", "") not in ("failed", "absent")


@FEW
@given(records())
def test_html_pdf_and_table_print_the_same_numbers(record: StudyRecord) -> None:
    html = _Page(render_html(record, Path("nowhere"))).text
    pdf = pdf_text(render_pdf(record, Path("nowhere")))
    row = cohort_row(record)
    for number in reported_numbers(record):
        printed = squeezed(format_quantity(number, unit=False))
        assert printed in html
        assert printed in pdf
    for body in record.vertebrae:
        for key in ("trabecular_hu", "vbmd_mg_cm3", "strength_n", "stiffness_n_mm"):
            number, cell = getattr(body, key), row[f"{str(body.level).lower()}_{key}"]
            assert cell == (None if number is None else number.value)
            if number is not None:
                assert format_value(number.model_copy(update={"value": float(str(cell))})) == format_value(number)
    for _, found in record.all_findings():
        if found.severity != "info":
            assert squeezed(found.text) in html
            assert squeezed(found.text) in pdf


@FEW
@given(records())
def test_every_absent_number_of_a_hip_comes_with_its_reason(record: StudyRecord) -> None:
    html = _Page(render_html(record, Path("nowhere"))).text
    for structure in (*record.vertebrae, *record.femora):
        for key in ("strength_n", "fracture" if structure in record.vertebrae else "t_score"):
            if getattr(structure, key) is None:
                reason = structure.reason_for(key)
                assert reason is not None
                assert squeezed(reason.text) in html


@pytest.mark.parametrize(
    "hostile",
    [
        "<script>alert(1)</script>",
        '"><img src=x onerror=alert(1)>',
        "#panic(1)",
        "$x$ *b* @ref <l>",
        "{{ 7*7 }}",
        "\\u{41}",
    ],
)
def test_text_of_a_record_stays_text(hostile: str) -> None:
    record = example_record(quality=Quality(findings=(finding("hostile", "warning", hostile),)))
    html = render_html(record, Path("nowhere"))
    assert squeezed(hostile) in _Page(html).text
    assert "script" not in [tag for tag, _ in _Page(html).tags]
    assert "img" not in [tag for tag, _ in _Page(html).tags]
    assert squeezed(hostile) in pdf_text(render_pdf(record, Path("nowhere")))


@pytest.mark.parametrize(
    "odd", ["bell \x07 and nul \x00", "lone surrogate \udc80", "no character \ufffe", "line\nbreak", "x" * 3000]
)
def test_broken_header_text_never_stops_a_report(odd: str, tmp_path: Path) -> None:
    record = example_record(quality=Quality(findings=(finding("odd", "warning", odd),)))
    assert load_record(save_record(record, tmp_path / "record.json")) == record
    assert render_html(record, tmp_path).encode("utf-8")
    assert render_pdf(record, tmp_path).startswith(b"%PDF")


def test_letters_without_a_font_are_printed_as_codes() -> None:
    assert _with_codes("腰椎 T1 µ ²") == "[U+8170][U+690E] T1 µ ²"


def test_pictures_are_embedded_and_nothing_is_fetched(tmp_path: Path) -> None:
    view = SliceView(np.linspace(-200, 800, 600).reshape(20, 30), (3.0, 1.0), "Sagittal")
    record = with_pictures(example_record(), Evidence(sagittal=view), tmp_path)
    assert [f.id for f in record.quality.figures] == ["spine", "density", "calibration", "curves"]
    html = render_html(record, tmp_path)
    page = _Page(html)
    images = [attributes for tag, attributes in page.tags if tag == "img"]
    assert len(images) == 4
    assert all(str(image["src"]).startswith("data:image/png;base64,") and image["alt"] for image in images)
    assert not re.search(r"https?://", html)
    assert not [tag for tag, _ in page.tags if tag in ("link", "script", "iframe")]
    drawn = pypdf.PdfReader(io.BytesIO(render_pdf(record, tmp_path)))
    assert sum(len(page.images) for page in drawn.pages) == 4


def test_a_record_cannot_make_the_report_read_other_files(tmp_path: Path) -> None:
    (tmp_path / "secret.png").write_bytes(b"secret")
    study = tmp_path / "study"
    study.mkdir()
    record = example_record()
    figure = {"id": "x", "file": "../secret.png", "caption": "c", "alt": "a"}
    record = record.model_copy(update={"quality": Quality.model_validate({"figures": [figure]})})
    assert "c2VjcmV0" not in render_html(record, study)
    assert squeezed("../secret.png is not beside the record") in pdf_text(render_pdf(record, study))


def test_html_has_headings_in_order_and_real_table_heads() -> None:
    page = _Page(render_html(example_record(), Path("nowhere")))
    levels = [int(tag[1]) for tag, _ in page.tags if re.fullmatch(r"h[1-6]", tag)]
    assert levels[0] == 1
    assert all(after - before <= 1 for before, after in itertools.pairwise(levels))
    heads = [attributes.get("scope") for tag, attributes in page.tags if tag == "th"]
    assert heads
    assert set(heads) <= {"col", "row", "rowgroup"}
    assert ("html", {"lang": "en"}) in page.tags


def test_pdf_is_tagged_bookmarked_and_short() -> None:
    pdf = pypdf.PdfReader(io.BytesIO(render_pdf(example_record(), Path("nowhere"))))
    catalog = pdf.trailer["/Root"]
    assert catalog["/MarkInfo"]["/Marked"]
    assert str(catalog["/Lang"]).startswith("en")
    assert next(str(entry["/Title"]) for entry in pdf.outline if not isinstance(entry, list)) == "Impression"
    fonts = {str(font["/BaseFont"]) for page in pdf.pages for font in _fonts(page)}
    assert fonts
    assert all("DejaVu" in font or "Libertinus" in font for font in fonts)
    assert len(pdf.pages) <= 4


def test_a_report_that_runs_over_its_pages_is_set_smaller_and_loses_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    note = (
        "A remark that takes up two lines of its own on the page, as many long findings do in a difficult study. " * 2
    )
    findings = tuple(finding(f"note_{i}", "warning", f"{i}: {note}") for i in range(FILLS_FOUR_PAGES))
    crowded = example_record().model_copy(update={"quality": Quality(findings=findings)})
    small = render_pdf(crowded, Path("nowhere"))
    monkeypatch.setattr(reports.pdf, "_SMALLER", ())
    plain = render_pdf(crowded, Path("nowhere"))
    assert reports.pdf._pages(plain) == len(pypdf.PdfReader(io.BytesIO(plain)).pages) == MOST_PAGES + 1
    assert reports.pdf._pages(small) == len(pypdf.PdfReader(io.BytesIO(small)).pages) == MOST_PAGES
    printed = pdf_text(small)
    assert all(squeezed(f.text) in printed for f in findings)


FILLS_FOUR_PAGES = 85
"""So many two-line findings lead just onto a fifth page."""


def _fonts(page: pypdf.PageObject) -> list[pypdf.generic.DictionaryObject]:
    return [font.get_object() for font in page["/Resources"]["/Font"].values()]


def test_report_marks_itself_as_draft_and_research_until_signed() -> None:
    record = example_record()
    for text in (_Page(render_html(record, Path("nowhere"))).text, pdf_text(render_pdf(record, Path("nowhere")))):
        assert squeezed("PRELIMINARY – NOT SIGNED") in text
        assert squeezed("Research use only. Not a medical device.") in text
    study = record.study.model_copy(update={"signed_by": "Dr. Example"})
    signed = _Page(render_html(record.model_copy(update={"study": study}), Path("nowhere"))).text
    assert squeezed("Signed by Dr. Example") in signed
    assert "NOTSIGNED" not in signed


def test_coverage_is_printed_whole_and_once_per_service() -> None:
    record = example_record()
    text = _Page(render_html(record, Path("nowhere"))).text
    for service in record.services:
        assert service.coverage is not None
        assert text.count(squeezed(service.coverage.text)) == 1
        for source in service.coverage.sources:
            assert squeezed(source["quote"]) in text
        for conflict in service.coverage.conflicts:
            assert squeezed(str(conflict["text"] if isinstance(conflict, dict) else conflict)) in text


def test_another_language_is_one_file_with_the_same_keys(tmp_path: Path) -> None:
    english = (Path(reports.language.__file__).parent / "en.toml").read_text(encoding="utf-8")
    other = tmp_path / "xx.toml"
    changed = english.replace('code = "en"', 'code = "xx"').replace('decimal_mark = "."', 'decimal_mark = ","')
    changed = changed.replace('impression = "Impression"', 'impression = "Beurteilung"')
    changed = changed.replace('date = "{year}-{month}-{day}"', 'date = "{day}.{month}.{year}"')
    other.write_text(changed, encoding="utf-8")
    record = example_record()
    for text in (
        _Page(render_html(record, tmp_path, language=str(other))).text,
        pdf_text(render_pdf(record, tmp_path, language=str(other))),
    ):
        assert "Beurteilung" in text
        assert squeezed("0,734 ± 0,044") in text
        assert "02.10.2026" in text
        assert squeezed("0.734 ±") not in text


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (('title = "Biomechanical CT report"\n', ""), "mark.title"),
        (('years = "{age} years"', 'years = "{years} years"'), "fact.years"),
        (('title = "Biomechanical CT report"\n', 'title = "x"\ntitel = "x"\n'), "mark.titel"),
    ],
)
def test_incomplete_language_is_refused_by_name(tmp_path: Path, change: tuple[str, str], complaint: str) -> None:
    english = (Path(reports.language.__file__).parent / "en.toml").read_text(encoding="utf-8")
    assert change[0] in english
    (tmp_path / "xx.toml").write_text(english.replace(*change, 1), encoding="utf-8")
    with pytest.raises(ValueError, match=complaint):
        load_language(str(tmp_path / "xx.toml"))


def test_unknown_language_is_refused() -> None:
    with pytest.raises(ValueError, match="there are: de, en"):
        load_language("tlh")


def test_cohort_files_agree_with_one_another_and_with_their_dictionary(tmp_path: Path) -> None:
    all_records = [example_record()]
    refused = NotDone("P0008", "refused", "missing_slices", "Slices 88-89 are missing.")
    write_cohort(all_records, tmp_path, not_done=[refused])
    names = [entry["name"] for entry in data_dictionary()]
    with (tmp_path / "cohort.csv").open(encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream))
    table = pq.read_table(tmp_path / "cohort.parquet")
    assert names == list(rows[0]) == table.column_names
    assert len(names) == len(set(names))
    for row, typed in zip(rows, table.to_pylist(), strict=True):
        for name, value in typed.items():
            if isinstance(value, float):
                assert float(row[name]) == value
            else:
                assert row[name] == (
                    "" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
                )
    assert (rows[0]["l1_strength_n"], rows[0]["l1_strength_n_status"]) == ("", "deformed_body")
    assert (rows[1]["study_status"], rows[1]["study_reason"]) == ("refused", "missing_slices")
    overview = _Page((tmp_path / "index.html").read_text(encoding="utf-8"))
    assert ("a", {"href": "P0007/report.html"}) in overview.tags
    assert squeezed("Slices 88-89 are missing.") in overview.text


def test_a_record_without_any_number_is_a_refused_study(tmp_path: Path) -> None:
    done = example_record()
    unmeasured = tuple(body for body in done.vertebrae if body.trabecular_hu is None)  # cut by the field of view
    metal = tuple(femur for femur in done.femora if femur.side == "left")
    parts = {"vertebrae": unmeasured, "femora": metal, "assessment": assessment_of(unmeasured, metal)}
    no_failure = {"vertebrae": (), "femora": (), "assessment": assessment_of((), ()), "quality": Quality()}
    rows = [cohort_row(record) for record in (done, example_record(**parts), example_record(**no_failure))]
    assert [(row["study_status"], row["study_reason"]) for row in rows] == [
        ("done", None),
        ("refused", "cut_by_field_of_view"),
        ("refused", "nothing_measured"),
    ]
    one_hip = example_record(vertebrae=unmeasured)
    assert cohort_row(one_hip)["study_status"] == "done"
    write_cohort([done, example_record(**parts)], tmp_path)
    overview = _Page((tmp_path / "index.html").read_text(encoding="utf-8")).text
    assert squeezed("done 1 refused 1") in overview
    assert squeezed("T11: the upper 9 mm of the body lie outside the scanned volume.") in overview


@FEW
@given(records())
def test_cohort_cells_hold_only_allowed_values_and_the_long_table_holds_every_number(record: StudyRecord) -> None:
    row = cohort_row(record)
    for entry in data_dictionary():
        value = row[entry["name"]]
        if entry["allowed"] and value is not None:
            assert str(value) in entry["allowed"].split(" | "), entry["name"]
    long = {(m["structure"], m["quantity"]): m for m in measurements(record)}
    for body in record.vertebrae:
        found = long[(body.name, "strength_n")]
        assert found["status"] == ("measured" if body.strength_n else body.reason_for("strength_n").code)  # type: ignore[union-attr]


def test_text_that_a_spreadsheet_would_run_is_quoted(tmp_path: Path) -> None:
    record = example_record()
    line = record.calibration.model_copy(update={"method": "=HYPERLINK(1)"})
    write_cohort([record.model_copy(update={"calibration": line})], tmp_path)
    assert "'=HYPERLINK(1)" in (tmp_path / "cohort.csv").read_text(encoding="utf-8")


def test_documents_of_one_study_take_less_than_ten_seconds(tmp_path: Path) -> None:
    view = SliceView(np.random.default_rng(0).normal(100, 200, (300, 200)), (1.0, 1.0), "Sagittal")
    start = time.perf_counter()
    record = with_pictures(example_record(), Evidence(sagittal=view, coronal=view), tmp_path)
    render_html(record, tmp_path)
    render_pdf(record, tmp_path)
    assert time.perf_counter() - start < 10
