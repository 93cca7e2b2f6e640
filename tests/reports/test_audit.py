"""A code list checked against what circulates wrongly: every published mix-up fires, right entries pass."""

from __future__ import annotations

import datetime as dt
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from pipeline.cli import app
from reports.coverage import KnowledgeError, load_knowledge
from reports.coverage.audit import AuditRow, _codes, audit_file

KNOWLEDGE = load_knowledge()
DAY = dt.date(2026, 11, 21)

# What public code pages say (seen November 2026), and a word of what is right.
WRONG = [
    ("207RH0000X", "Diagnostic Radiology", "2085R0202X"),
    ("2084P0800X", "Orthopedic Surgery", "207X00000X"),
    ("2084P0800X", "Radiology", "2085R0202X"),
    ("207L00000X", "Rheumatology", "207RR0500X"),
    ("207XP0206X", "Musculoskeletal Radiology", "2085R0202X"),
    ("261QM0800X", "Geriatric Medicine", "207RG0300X"),
    ("2086S0122X", "Vascular & Interventional Radiology", "2085R0204X"),
    ("363L00000X", "Endocrinology", "207RE0101X"),
    ("207RR0500X", "Family Medicine", "207Q00000X"),
    ("207K00000X", "Internal Medicine", "207R00000X"),
    ("M80.08", "osteoporosis with current fracture, vertebra", "M80.08XA"),
    ("M80.00", "osteoporosis with current fracture", "M80.00XA"),
    ("M48.50", "collapsed vertebra, site unspecified", "M48.54X"),
    ("S52.5XXA", "fracture of lower end of radius", "S52.501A"),
    ("M84.4X0", "pathological fracture, multiple sites", "M84.40XA"),
    ("M80.x", "family", "7th character"),
    ("Z79.899", "chronic corticosteroid use", "Z79.52"),
    ("Z79.899", "bisphosphonate therapy", "Z79.83"),
    ("M81.0", "low bone mass", "M85.8"),
    ("72192", "CT lumbar spine", "72131"),
    ("73218", "CT forearm", "73200"),
    ("73030", "forearm, 2 views", "73090"),
    ("76140", "percutaneous biopsy", "second reading"),
    ("0554T", "CT optimised for BMD is acquired as part of it", "0558T"),
    ("0691T", "extremity CT", "spine"),
    ("FX", "split/shared services", "FS"),
]
RIGHT = [
    ("2085R0202X", "Diagnostic radiology"),
    ("207RR0500X", "Rheumatology"),
    ("M81.0", "age-related osteoporosis"),
    ("M80.08XA", "osteoporosis with fracture of a vertebra"),
    ("Z13.820", "screening for osteoporosis"),
    ("Z79.52", "long-term steroids"),
    ("72131", "CT lumbar spine"),
    ("74176", "CT abdomen and pelvis"),
    ("FS", "split or shared visit"),
    ("0691T", "fractures of the spine on an existing CT"),
]


def audited(text: str, folder: Path) -> tuple[AuditRow, ...]:
    file = folder / "codes.csv"
    file.write_text(text, encoding="utf-8")
    return audit_file(file, knowledge=KNOWLEDGE, on=DAY)


@pytest.mark.parametrize(("code", "label", "right"), WRONG)
def test_every_published_mistake_is_found_with_what_is_right(code: str, label: str, right: str, tmp_path: Path) -> None:
    (row,) = audited(f'code,meaning\n{code},"{label}"\n', tmp_path)
    assert row.code == code and row.verdict == "wrong" and right in row.text
    assert row.source is not None or row.kind == "service"


@pytest.mark.parametrize(("code", "label"), RIGHT)
def test_a_right_entry_passes(code: str, label: str, tmp_path: Path) -> None:
    (row,) = audited(f"{code};{label}\n", tmp_path)
    assert row.verdict == "ok", row.text


@pytest.mark.parametrize("code", ["23", "54", "55", "56", "62", "AS", "QK", "QX", "QY", "27"])
def test_modifiers_of_surgery_and_anesthesia_have_no_place_here(code: str, tmp_path: Path) -> None:
    (row,) = audited(f"{code}, as on the page\n", tmp_path)
    assert row.kind == "modifier" and row.verdict == "check" and "no place" in row.text


@pytest.mark.parametrize(
    ("code", "label"), [("R29.6", "Recurrent falls"), ("99213", "low to moderate complexity"), ("72170", "single view")]
)
def test_a_label_that_is_only_inexact_is_for_checking(code: str, label: str, tmp_path: Path) -> None:
    (row,) = audited(f"{code},{label}\n", tmp_path)
    assert row.verdict == "check"


@pytest.mark.parametrize(
    ("code", "label", "verdict"),
    [
        ("E03.9", "hypothyroidism as bone-risk reason", "check"),
        ("72170", "pelvis, single view", "check"),
        ("76377", "3D rendering", "check"),
        ("76377", "3D rendering on an independent workstation", "ok"),
        ("0750T", "hand or wrist; analysis", "wrong"),
        ("0749T", "DXA", "wrong"),
        ("0743T", "CT of the forearm", "check"),  # shares no more than CT with what it is
        ("M81.0", "as stated", "check"),  # words that say nothing are no proof of a mistake
        ("207RR0500X", "as stated", "wrong"),  # the name of a specialty is fixed
    ],
)
def test_an_incomplete_or_empty_label_is_told_apart_from_a_wrong_one(
    code: str, label: str, verdict: str, tmp_path: Path
) -> None:
    (row,) = audited(f'{code},"{label}"\n', tmp_path)
    assert row.verdict == verdict, row.text


TABLE = [
    ("Code", "Meaning"),
    ("207RH0000X", "Diagnostic Radiology"),
    ("73030", "forearm, two views"),
    ("M8008XA", "osteoporosis with fracture of a vertebra"),
    ("FX", "split or shared"),
    ("0743T", "strength by finite elements; größer"),
]
VERDICTS = ["wrong", "wrong", "ok", "wrong", "ok"]


@pytest.mark.parametrize("separator", [";", "\t", " | "])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "cp1252"])
@pytest.mark.parametrize("code_last", [False, True])
@pytest.mark.parametrize("line_end", ["\n", "\r\n"])
def test_a_table_is_read_as_spreadsheets_save_it(
    separator: str, encoding: str, code_last: bool, line_end: str, tmp_path: Path
) -> None:
    rows = [tuple(f'"{cell}"' if separator in cell else cell for cell in row) for row in TABLE]
    lines = [separator.join(reversed(row) if code_last else row) for row in rows]
    (tmp_path / "codes.txt").write_bytes(line_end.join(lines).encode(encoding))
    found = audit_file(tmp_path / "codes.txt", knowledge=KNOWLEDGE, on=DAY)
    assert [row.code for row in found] == ["207RH0000X", "73030", "M80.08XA", "FX", "0743T"]
    assert [row.verdict for row in found] == VERDICTS


@pytest.mark.parametrize("text", ["26 / TC", "22, 52, 53, 59, XE, XP, XS", "modifiers 26, TC"])
def test_modifiers_in_one_breath_are_each_told(text: str, tmp_path: Path) -> None:
    assert [r.kind for r in audited(text + "\n", tmp_path)] == ["modifier"] * len(text.replace("/", ",").split(","))


def test_a_spreadsheet_file_is_refused_with_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "codes.xlsx").write_bytes(b"PK\x03\x04 and so on 0743T")
    with pytest.raises(KnowledgeError, match="save the sheet as CSV"):
        audit_file(tmp_path / "codes.xlsx", knowledge=KNOWLEDGE)


def test_the_life_of_a_code_is_told(tmp_path: Path) -> None:
    (row,) = audited("0554T\n", tmp_path)
    assert row.verdict == "check" and "not verified" in row.text
    (tmp_path / "old.txt").write_text("0743T strength\n", encoding="utf-8")
    (row,) = audit_file(tmp_path / "old.txt", knowledge=KNOWLEDGE, on=dt.date(2022, 12, 31))
    assert row.verdict == "wrong" and "2023-01-01" in row.text


def test_prose_with_several_codes_and_no_false_ones() -> None:
    text = (
        "We report 0743T (strength), or 0691T, since 2025; levels T12 and L1; 12345.6 N; 2025-09-26.\n"
        "Diagnoses: M80.08XA, Z79.83\n"
    )
    assert [code for _, code, _, _ in _codes(text)] == ["0743T", "0691T", "M80.08XA", "Z79.83"]


@pytest.mark.parametrize(
    ("code", "billable"), [("M80.051A", True), ("M80.05", False), ("S32.010A", True), ("S32.01", False)]
)
def test_families_with_a_seventh_character_are_checked_by_rule(code: str, billable: bool, tmp_path: Path) -> None:
    (row,) = audited(f"{code}\n", tmp_path)
    assert (row.verdict == "wrong") is not billable


@given(st.text(max_size=200))
def test_any_text_is_read_without_a_fault(text: str) -> None:
    for line, code, _, _ in _codes(text):
        assert line >= 1 and code


def test_files_that_are_no_code_list_are_refused(tmp_path: Path) -> None:
    with pytest.raises(KnowledgeError, match="holds no code"):
        audited("nothing here\n", tmp_path)
    (tmp_path / "image.csv").write_bytes(b"\xff\xfe\x00\x80")
    with pytest.raises(KnowledgeError, match="cannot be read"):
        audit_file(tmp_path / "image.csv", knowledge=KNOWLEDGE)


def test_the_command_prints_and_ends_with_1_where_something_is_wrong(tmp_path: Path) -> None:
    (tmp_path / "bad.csv").write_text("207RH0000X,Diagnostic Radiology\n", encoding="utf-8")
    (tmp_path / "good.csv").write_text("2085R0202X,Diagnostic Radiology\n", encoding="utf-8")
    call = CliRunner().invoke
    answer = call(app, ["coverage", "--audit", str(tmp_path / "bad.csv")])
    assert answer.exit_code == 1 and "2085R0202X" in answer.stdout
    answer = call(app, ["coverage", "--audit", str(tmp_path / "good.csv"), "--json"])
    assert answer.exit_code == 0 and json.loads(answer.stdout)[0]["verdict"] == "ok"
