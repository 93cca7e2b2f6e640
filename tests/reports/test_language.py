"""Reports in other languages: complete word lists, sentences replaced as a whole or not at all, numbers never touched."""

from __future__ import annotations

import re
import tomllib
from importlib.resources import files
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reports.compose import compose
from reports.html import render_html
from reports.language import languages, load_language
from reports.language.phrases import Phrases, _gaps, phrases_of, spoken
from reports.quantity import format_quantity
from reports.record import load_record
from tests.reports.example_records import example_record
from tests.reports.test_renderings import _Page, reported_numbers, squeezed

GERMAN = load_language("de")
SENTENCES = tomllib.loads((files("reports.language") / "phrases.de.toml").read_text(encoding="utf-8"))["sentences"]
OLD = Path(__file__).parent / "data" / "record-1.0.json"


def said(text: str) -> str:
    phrases = phrases_of("de", ",")
    assert phrases is not None
    return phrases.said(text)


def digits(text: str) -> list[str]:
    """All numbers of a text; a raised 3 is a 3, and ``cm3`` may be typeset as ``cm³``."""
    return sorted(re.findall(r"\d+", text.replace("³", "3").replace("²", "2").replace("₂", "2").replace("₄", "4")))


@pytest.mark.parametrize("code", languages())
def test_every_shipped_language_has_every_word_with_the_same_gaps(code: str) -> None:
    words, english = load_language(code).words, load_language("en").words
    assert set(words) == set(english)
    for key, text in english.items():
        if not key.startswith("locale."):
            assert sorted(_gaps(words[key])) == sorted(_gaps(text)), key
            assert words[key].strip(), key


def test_dates_and_numbers_follow_the_language() -> None:
    assert GERMAN.date("2026-11-05") == "05.11.2026"
    assert load_language("en").date("2026-11-05") == "2026-11-05"
    number = next(n for n in reported_numbers(example_record()) if n.unit == "g/cm2")
    assert "," in GERMAN.quantity(number) and "." not in GERMAN.quantity(number)


def test_a_sentence_is_replaced_as_a_whole_with_its_numbers() -> None:
    assert said("The field of view cuts 43 % of the body's surface.").endswith(
        "43 % der Oberfläche des Wirbelkörpers ab."
    )
    assert said("Only 640.5 mm3 (842 voxels) of trabecular bone lie away from the cortex.").startswith(
        "Nur 640,5 mm³ (842 Voxel)"
    )
    assert "vertebra_T12: Keilförmiger Höhenverlust 28 % (±4 %)" in said(
        "vertebra_T12: wedge height loss 28 % (±4 %): deformity of grade 2; a reader must tell fracture from other causes."
    )


def test_phrases_inside_gaps_are_translated_too() -> None:
    assert said(
        "Not classified: too little could be measured for the rules (missing: spine density, hip T-score)."
    ).endswith("(es fehlt: Dichte der Wirbelsäule, T-Wert der Hüfte).")


@pytest.mark.parametrize(
    "text",
    [
        "The field of view cuts 43 % of the body's surface, more or less.",
        "A finding that nobody has translated, with 3.5 mm.",
        "",
        "series 4: kernel B30f",
    ],
)
def test_a_sentence_that_no_template_fits_stays_as_recorded(text: str) -> None:
    assert said(text) == text


@given(english=st.sampled_from(sorted(SENTENCES)), number=st.integers(0, 99999), decimals=st.integers(0, 99))
def test_no_number_is_lost_or_made_up(english: str, number: int, decimals: int) -> None:
    filled = english.format(**{name: f"{number + i}.{decimals:02d}" for i, name in enumerate(_gaps(english))})
    assert digits(said(filled)) == digits(filled)


def test_a_template_with_other_gaps_is_refused() -> None:
    with pytest.raises(ValueError, match="other gaps"):
        Phrases({"{a} of {b}": "{a} von {c}"}, ",")


def test_a_language_of_ones_own_is_one_file_with_words_and_sentences(tmp_path: Path) -> None:
    words = (files("reports.language") / "en.toml").read_text(encoding="utf-8")
    words = words.replace('code = "en"', 'code = "fr"').replace('decimal_mark = "."', 'decimal_mark = ","')
    sentence = "L1: height loss of {loss} % (grade {grade}): {what}"
    own = tmp_path / "fr.toml"
    own.write_text(
        f'{words}[sentences]\n"{sentence}" = "L1: perte de {{loss}} %, degré {{grade}} : {{what}}"\n', encoding="utf-8"
    )
    text = repr(compose(example_record(), language=str(own)))
    assert "L1: perte de 22\\xa0%, degré 1 : a reader has to confirm the fracture." in text
    own.write_text(own.read_text(encoding="utf-8").replace("perte de {loss}", "perte de {autre}"), encoding="utf-8")
    load_language.cache_clear()
    with pytest.raises(ValueError, match="other gaps"):
        compose(example_record(), language=str(own))


def test_a_record_in_german_keeps_every_number_and_every_code() -> None:
    record = load_record(OLD)
    german = spoken(record, GERMAN)
    assert [f.code for _, f in german.all_findings()] == [f.code for _, f in record.all_findings()]
    for before, after in zip(record.all_findings(), german.all_findings(), strict=True):
        assert digits(after[1].text) == digits(before[1].text)
    left = [
        f.text for (_, f), (_, g) in zip(record.all_findings(), german.all_findings(), strict=True) if f.text == g.text
    ]
    assert not left, "findings of an ordinary study without a German sentence"
    assert german.assessment.statement.startswith("Hohes Frakturrisiko")
    assert german.vertebrae[0].heights_mm is not None and record.vertebrae[0].heights_mm is not None
    assert german.vertebrae[0].heights_mm.anterior.value == record.vertebrae[0].heights_mm.anterior.value
    assert spoken(record, load_language("en")) is record


def test_a_german_report_prints_the_same_numbers_in_german() -> None:
    record = example_record()
    page = _Page(render_html(record, Path("nowhere"), language="de")).text
    for number in reported_numbers(record):
        assert squeezed(format_quantity(number, unit=False, decimal_mark=",")) in page
    headings = [section.title for section in compose(record, language="de").sections]
    assert headings[:2] == ["Beurteilung", "Hinweise zur Qualität"]
    assert "VORLÄUFIG" in page
