"""Every row that is known about coverage, as a table, against what the engine says.

The rows were written from the payers' own documents and from what others report of them, independently of the files that the
engine reads. A row gives the status on a date, the flags and conflicts that must stand there, and those that must not.
"""

from __future__ import annotations

import datetime as dt
import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

import reports
from pipeline.cli import app
from pipeline.errors import InputRefused
from pipeline.settings import Settings
from reports.cohort import measurements
from reports.coverage import (
    Coverage,
    CoverageStatus,
    KnowledgeError,
    LineOfBusiness,
    evaluate,
    load_knowledge,
    load_plan,
)
from reports.coverage.knowledge import Edition
from reports.coverage.services import other_services, services_of
from reports.fhir import fhir_text
from reports.html import render_html
from reports.judgement import Coverage as RecordedCoverage
from tests.reports.example_records import example_record

KNOWLEDGE = load_knowledge()
TODAY = dt.date(2026, 11, 21)
BOTH = ("0691T", "0743T")
OLDER = ("0554T", "0555T", "0556T", "0557T", "0558T")


@dataclass(frozen=True)
class Row:
    codes: tuple[str, ...]
    payer: str
    since: str
    until: str
    status: str
    last_known: str | None = None
    flags: tuple[str, ...] = ()
    not_flags: tuple[str, ...] = ()
    conflicts: tuple[str, ...] = ()
    confidence: str | None = None
    route: str | None = None


QUIET = ("CONFLICT_SECONDARY", "NEWER_VERSION_CLAIMED", "STALE_PAST_NEXT_REVIEW")
ROWS = [
    # Cigna 0300, the two codes that it names, window by window
    Row(BOTH, "cigna", "2023-01-01", "2024-04-14", "UNKNOWN_VERSION_NOT_HELD", flags=("VERSION_NOT_HELD",)),
    Row(BOTH, "cigna", "2024-04-15", "2025-04-14", "UNKNOWN_VERSION_NOT_HELD",
        flags=("VERSION_NOT_HELD", "SECONDARY_CLAIMS_EXPERIMENTAL"), not_flags=QUIET),
    Row(BOTH, "cigna", "2025-04-15", "2025-09-25", "NOT_COVERED", not_flags=(*QUIET, "SECONDARY_CLAIMS_EXPERIMENTAL"),
        flags=("KB_OLD", "PLAN_NOT_CHECKED", "MANDATE_NOT_CHECKED", "VENDOR_GUIDELINE", "DX_NOT_DEFINED"), confidence="high"),
    Row(BOTH, "cigna", "2025-09-26", "2026-04-15", "NOT_COVERED", flags=("CONFLICT_SECONDARY", "NEWER_VERSION_CLAIMED"),
        not_flags=("STALE_PAST_NEXT_REVIEW",), conflicts=("C1", "C2")),
    Row(BOTH, "cigna", "2026-04-16", "2026-12-31", "INDETERMINATE_STALE", "NOT_COVERED", flags=QUIET,
        not_flags=("KB_OLD",), conflicts=("C1", "C2", "C11")),
    # Codes that it does not name
    Row((*OLDER, "0749T", "0750T", "0815T"), "cigna", "2025-04-15", "2026-04-15", "CLASS_NOT_COVERED", confidence="medium",
        flags=("READ_BY_INFERENCE",)),
    Row(("77078",), "cigna", "2025-04-15", "2026-04-15", "CLASS_NOT_COVERED", confidence="low", flags=("READ_BY_INFERENCE",)),
    Row(("0815T",), "cigna", "2024-04-15", "2025-04-14", "UNKNOWN_VERSION_NOT_HELD"),
    Row(("77080", "77081"), "cigna", "2025-04-15", "2025-09-25", "OUT_OF_SCOPE", route="A004", flags=("VENDOR_GUIDELINE",)),
    Row(("77080", "77081"), "cigna", "2025-09-26", "2026-04-15", "OUT_OF_SCOPE", route="A004", conflicts=("C8",)),
    Row(("77085", "77086"), "cigna", "2025-04-15", "2026-04-15", "OUT_OF_SCOPE"),
    # Medicare
    Row(OLDER, "medicare", "2019-07-01", "2026-12-31", "NOT_COVERED", conflicts=("C15",),
        flags=("CONFLICT_SECONDARY", "REPORTED_NOT_READ")),
    Row(BOTH, "medicare", "2023-01-01", "2026-12-31", "NOT_LISTED"),
    Row(("77078", "77080", "77081", "77085", "77086"), "medicare", "2016-02-01", "2026-12-31", "UNKNOWN_VERSION_NOT_HELD",
        conflicts=("C12",), not_flags=("CONFLICT_SECONDARY",)),
    # Others
    Row(BOTH, "regional-blue", "2024-12-16", "2025-12-17", "NOT_COVERED", flags=("READ_BY_INFERENCE",)),
    Row(BOTH, "regional-blue", "2025-12-18", "2026-12-31", "INDETERMINATE_STALE", "NOT_COVERED"),
    Row((*BOTH, "0554T"), "aetna", "2026-01-01", "2026-12-31", "UNKNOWN_VERSION_NOT_HELD", conflicts=("O4",)),
    Row(BOTH, "aetna", "2024-01-01", "2025-12-31", "UNKNOWN_VERSION_NOT_HELD", not_flags=("CONFLICT_SECONDARY",)),
    Row(OLDER, "independence-blue-cross", "2019-07-01", "2026-12-31", "NOT_COVERED", conflicts=("C15",),
        flags=("MEDICARE_FIRST",)),
    Row(BOTH, "unitedhealthcare", "2023-01-01", "2026-12-31", "UNKNOWN_PAYER"),
    # Life of the codes
    Row(("0691T",), "cigna", "2015-01-01", "2021-12-31", "CODE_NOT_VALID", flags=("CODE_START_UNVERIFIED",)),
    Row(("0743T", "0749T", "0750T"), "cigna", "2015-01-01", "2022-12-31", "CODE_NOT_VALID"),
    Row(("0815T",), "cigna", "2015-01-01", "2023-12-31", "CODE_NOT_VALID"),
    Row(OLDER, "cigna", "2015-01-01", "2019-06-30", "CODE_NOT_VALID", not_flags=("CODE_START_UNVERIFIED",)),
    Row(("0691T",), "cigna", "2026-10-03", "2026-12-31", "INDETERMINATE_STALE", "NOT_COVERED", flags=("CODE_SUNSET_NEAR",)),
    Row(("0691T",), "cigna", "2027-01-01", "2028-12-31", "INDETERMINATE_STALE", "NOT_COVERED",
        flags=("CODE_SUNSET_UNVERIFIED",), not_flags=("CODE_SUNSET_NEAR",)),
    Row(OLDER, "cigna", "2025-04-15", "2026-04-15", "CLASS_NOT_COVERED", flags=("CODE_SUNSET_UNVERIFIED",)),
]  # fmt: skip


def asked(cpt: str, day: dt.date | str, payer: str = "cigna", **options: object) -> Coverage:
    options.setdefault("knowledge", KNOWLEDGE)
    date = dt.date.fromisoformat(day) if isinstance(day, str) else day
    return evaluate(cpt, payer=payer, date_of_service=date, evaluated_on=TODAY, **options)  # type: ignore[arg-type]


def check(row: Row, cpt: str, day: dt.date) -> None:
    answer = asked(cpt, day, row.payer)
    flags = {w.code for w in answer.warnings}
    assert answer.status == row.status, (cpt, day)
    assert answer.last_known_status == row.last_known
    assert set(row.flags) <= flags and not set(row.not_flags) & flags
    assert set(row.conflicts) <= {c.id for c in answer.conflicts}
    assert row.confidence in (None, answer.confidence)
    assert row.route in (None, answer.route)


@pytest.mark.parametrize("row", ROWS, ids=lambda r: f"{r.payer}-{r.codes[0]}-{r.since}")
def test_a_row_holds_on_its_first_and_last_day(row: Row) -> None:
    for cpt in row.codes:
        for day in (row.since, row.until):
            check(row, cpt, dt.date.fromisoformat(day))


@given(st.data())
def test_a_row_holds_on_every_day_between(data: st.DataObject) -> None:
    row = data.draw(st.sampled_from(ROWS))
    first, last = dt.date.fromisoformat(row.since), dt.date.fromisoformat(row.until)
    check(row, data.draw(st.sampled_from(row.codes)), data.draw(st.dates(first, last)))


def test_rows_of_one_code_and_payer_do_not_overlap_with_another_status() -> None:
    """The table itself: a date has one status."""
    for code in {c for row in ROWS for c in row.codes}:
        mine = [r for r in ROWS if code in r.codes]
        for one in mine:
            for other in mine:
                if one.payer == other.payer and one.since <= other.until and other.since <= one.until:
                    assert one.status == other.status


def test_all_sixteen_contradictions_ship_and_every_conflict_shown_is_one_of_them() -> None:
    known = {c.id for c in KNOWLEDGE.contradictions}
    assert known == {f"C{number}" for number in range(1, 17)}
    shown = {a.conflict for c in KNOWLEDGE.claims for a in c.assertion} - {"O4"}
    shown |= {s.conflict for e in KNOWLEDGE.editions for s in e.statement if s.conflict}
    assert shown <= known
    assert known - shown == {"C14"}  # a slip in the background section: it bears on no code


def test_what_comes_before_the_policy_is_quoted_from_it() -> None:
    edition = next(e for e in KNOWLEDGE.editions if e.key == "cigna-0300-2025-04-15")
    assert {r.topic for r in edition.remark} >= {"plan", "mandate", "vendor", "scanner", "codes", "evidence"}
    quoted = {r.id for r in edition.remark} | {s.id for s in edition.statement}
    items = {i.asked_by for i in asked("0743T", "2025-06-01").checklist} - {"practice", "A6", "A13", "A14", "P16"}
    assert items <= quoted


# Plans, mandates, self-funded employers

PLAN = (
    'document = "SPD 2025"\ndate = 2025-01-01\nuntil = 2025-12-31\nsupplied_by = "the site"\n'
    'sentence = "Biomechanical CT is a covered service."\nstatus = "COVERED"\ncodes = ["0743T"]\n'
)


def plan_file(folder: Path, text: str = PLAN) -> Path:
    file = folder / "plan.toml"
    file.write_text(text, encoding="utf-8")
    return file


def test_a_mandate_comes_before_the_plan_and_each_is_checked_off_by_itself(tmp_path: Path) -> None:
    plan = load_plan(plan_file(tmp_path))
    mandate = plan.model_copy(update={"kind": "mandate", "document": "State act 7", "status": "NOT_COVERED"})
    answer = asked("0743T", "2025-06-01", plan=plan, mandate=mandate)
    assert (answer.status, answer.plan_status) == (CoverageStatus.PLAN_OVERRIDE, CoverageStatus.NOT_COVERED)
    assert "mandate 'State act 7'" in answer.text and answer.sources[0].rank == 0
    met = {i.code: i.met for i in answer.checklist}
    assert met["plan"] == met["mandate"] == "yes"
    flags = {w.code for w in asked("0743T", "2025-06-01", plan=plan).warnings}
    assert "MANDATE_NOT_CHECKED" in flags and "PLAN_NOT_CHECKED" not in flags
    alone = asked("0743T", "2025-06-01", plan=mandate)  # a mandate given as a plan is known by its kind
    assert "MANDATE_NOT_CHECKED" not in {w.code for w in alone.warnings}


@pytest.mark.parametrize(("self_funded", "raised"), [(True, True), (False, False), (None, False)])
def test_a_self_funded_plan_is_flagged_and_sets_nothing_by_itself(self_funded: bool | None, raised: bool) -> None:
    answer = asked("0743T", "2025-06-01", self_funded=self_funded)
    assert answer.status is CoverageStatus.NOT_COVERED
    assert ("ASO_SELF_FUNDED" in {w.code for w in answer.warnings}) == raised
    assert ("plan document decides" in answer.text) == raised


def test_a_payer_that_is_not_on_file_can_still_have_a_plan(tmp_path: Path) -> None:
    answer = asked("0743T", "2025-06-01", "Nobody Health", plan=load_plan(plan_file(tmp_path)))
    assert answer.status is CoverageStatus.PLAN_OVERRIDE and answer.plan_status == "COVERED"
    assert "supersedes" not in answer.text and "None" not in answer.text


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        (PLAN.replace("2025-12-31", "2024-12-31"), "until must not be earlier"),
        (PLAN.replace('"SPD 2025"', '" "'), "must not be empty"),
        (PLAN.replace('"COVERED"', '"MAYBE"'), "status: 'MAYBE'"),
        (PLAN.replace('["0743T"]', '"0743T"'), "list in square brackets"),
        (PLAN.replace("2025-01-01", '"soon"'), "date: 'soon': must be a date"),
    ],
)
def test_a_wrong_plan_is_explained(tmp_path: Path, text: str, complaint: str) -> None:
    with pytest.raises(KnowledgeError, match=r"plan\.toml") as caught:
        load_plan(plan_file(tmp_path, text))
    assert complaint in str(caught.value)


def test_names_of_payers_and_lines_of_business() -> None:
    assert asked("0743T", "2025-06-01", "Cigna Healthcare").policy == "0300"
    assert asked("0743T", "2025-06-01", " CIGNA ").status == "NOT_COVERED"
    review = asked("0743T", "2025-06-01", line_of_business=LineOfBusiness.UTILIZATION_REVIEW_ONLY)
    assert review.status == "NOT_LISTED" and "utilization review only plans" in review.text
    assert review.payer == "Cigna"


def test_without_a_date_the_day_of_the_question_is_taken_and_said() -> None:
    answer = evaluate("0743T", payer="cigna", date_of_service=None, knowledge=KNOWLEDGE, evaluated_on=TODAY)
    assert answer.date_of_service == TODAY and "No date of service was given" in answer.text
    assert "DATE_OF_SERVICE_ASSUMED" in {w.code for w in answer.warnings}


# What a report of others can do

REPORT = (
    'schema = "openbct-coverage-edition/1"\npayer = "acme"\npayer_name = "Acme"\npolicy = "7"\ntitle = "Seven"\nrank = 1\n'
    'effective = 2026-01-01\nheld = {held}\n[[statement]]\nid = "S1"\ncodes = ["0743T"]\nstatus = "{status}"\n'
    'quote = "As others say."\nreported_by = "A society"\nreported_rank = 4\n'
)


@pytest.mark.parametrize("status", [s.value for s in CoverageStatus if s is not CoverageStatus.NOT_COVERED])
def test_no_report_of_others_can_be_written_as_anything_but_not_covered(tmp_path: Path, status: str) -> None:
    (tmp_path / "acme.toml").write_text(REPORT.format(held="false", status=status), encoding="utf-8")
    with pytest.raises(KnowledgeError, match=r"NOT_COVERED|concluded"):
        load_knowledge(tmp_path)


def test_a_report_never_stands_beside_words_that_are_held(tmp_path: Path) -> None:
    (tmp_path / "acme.toml").write_text(REPORT.format(held="true", status="NOT_COVERED"), encoding="utf-8")
    with pytest.raises(KnowledgeError, match="held has a status of its own"):
        load_knowledge(tmp_path)


_EDITIONS = st.lists(
    st.builds(
        lambda effective, days, status: Edition.model_validate(
            {
                "schema_": "openbct-coverage-edition/1", "payer": "acme", "payer_name": "Acme", "policy": "7", "title": "Seven",
                "rank": 1, "effective": effective, "next_review": effective + dt.timedelta(days=days), "held": True,
                "statement": [{"id": "S", "codes": ["0743T"], "status": status, "quote": "So it says."}],
            }
        ),
        st.dates(dt.date(2023, 1, 1), dt.date(2030, 1, 1)), st.integers(1, 900),
        st.sampled_from(["COVERED", "COVERED_WITH_CRITERIA", "NOT_COVERED", "CLASS_NOT_COVERED", "OUT_OF_SCOPE"]),
    ),
    max_size=5, unique_by=lambda e: e.effective,
)  # fmt: skip


@given(editions=_EDITIONS, day=st.dates(dt.date(2023, 1, 1), dt.date(2032, 1, 1)))
def test_the_edition_in_force_speaks_until_its_review_whatever_editions_there_are(
    editions: list[Edition], day: dt.date
) -> None:
    """Recomputed from the definition: the newest edition that has begun, and whether its review day has passed."""
    begun = [e for e in editions if e.effective <= day]
    answer = asked("0743T", day, "acme", knowledge=KNOWLEDGE.model_copy(update={"editions": tuple(editions)}))
    if not begun:
        assert answer.status == ("UNKNOWN_VERSION_NOT_HELD" if editions else "UNKNOWN_PAYER")
        return
    newest = max(begun, key=lambda e: e.effective)
    said = newest.statement[0].status
    stale = newest.next_review is not None and day > newest.next_review
    assert answer.status is (CoverageStatus.INDETERMINATE_STALE if stale else said)
    assert answer.last_known_status is (said if stale else None)


# A user's own files

EDITION = REPORT.format(held="true", status="NOT_COVERED").replace('reported_by = "A society"\nreported_rank = 4\n', "")


@pytest.mark.parametrize(
    ("name", "text", "complaint"),
    [
        ("acme.yaml", EDITION, "end in .toml"),
        ("acme.toml.txt", EDITION, "end in .toml"),
        ("acme.toml", EDITION.replace("0743T", "0734T"), "0734T not on file"),
        ("acme.toml", EDITION.replace("0743T", "743T"), "'743T': is no service code"),
        ("acme.toml", EDITION.replace('"acme"', '"Acme Health"'), "lower case with hyphens"),
        ("acme.toml", EDITION.replace("2026-01-01", "2026-13-01"), "TOML"),
        ("acme.toml", EDITION.replace("2026-01-01", '"next spring"'), "must be a date"),
        ("acme.toml", EDITION.replace("held = true", 'held = "perhaps"'), "must be true or false"),
        ("acme.toml", EDITION.replace("title =", "titel ="), "misspelling"),
        ("acme.toml", EDITION.replace('payer = "acme"', 'payer = "cigna"').replace('"7"', '"MM 0300"'), "write 0300"),
        ("acme.toml", EDITION.replace("rank = 1", "rank = 5"), "rank"),
        ("descriptors.csv", "0743T,something\n", "first line"),
        ("descriptors.csv", "code,descriptor\n743T,something\n", "line 2"),
        ("descriptors.csv", "code,descriptor\n0743T,a\n0743T,b\n", "line 3: 0743T stands there twice"),
    ],
)
def test_every_kind_of_mistake_is_told_with_its_file_and_what_is_expected(
    tmp_path: Path, name: str, text: str, complaint: str
) -> None:
    (tmp_path / name).write_text(text, encoding="utf-8")
    with pytest.raises(KnowledgeError) as caught:
        load_knowledge(tmp_path)
    assert complaint in str(caught.value)


def test_places_without_a_file_and_files_that_are_no_text_are_told(tmp_path: Path) -> None:
    with pytest.raises(KnowledgeError, match="no such folder"):
        load_knowledge(tmp_path / "nowhere")
    with pytest.raises(KnowledgeError, match="holds no coverage file"):
        load_knowledge(tmp_path)
    (tmp_path / "acme.toml").write_bytes(EDITION.encode("utf-16"))
    with pytest.raises(KnowledgeError, match=r"acme\.toml: cannot be read as TOML: it is not UTF-8"):
        load_knowledge(tmp_path)
    (tmp_path / "acme.toml").write_bytes(b"\xef\xbb\xbf" + EDITION.encode())  # as some editors save it
    assert load_knowledge(tmp_path / "acme.toml").editions_of("acme")


def test_descriptors_of_a_licensed_user_are_printed_and_ship_with_nothing(tmp_path: Path) -> None:
    assert KNOWLEDGE.descriptors == {}
    (tmp_path / "descriptors.csv").write_text("code;descriptor\n0743T;Words of my licence\n", encoding="utf-8")
    call = CliRunner().invoke
    options = ["coverage", "0743T", "--date", "2025-06-01", "--knowledge", str(tmp_path)]
    assert "Words of my licence (your descriptors.csv)" in call(app, options).stdout
    assert json.loads(call(app, [*options, "--json"]).stdout)["descriptor"] == "Words of my licence"
    assert "descriptor" not in json.loads(call(app, [*options[:4], "--json"]).stdout)


def test_without_coding_a_record_names_no_code_and_everything_else_runs() -> None:
    record = example_record()
    services = services_of(
        record.vertebrae, record.femora, record.assessment, record.study, record.software,
        knowledge=Settings(coding=False).coverage_knowledge(), date_of_service=TODAY,
    )  # fmt: skip
    assert services == () == other_services(services)
    bare = record.model_copy(update={"services": (), "other_services": ()})
    for text in (render_html(bare, Path("nowhere")), fhir_text(bare)):
        assert not [code.number for code in KNOWLEDGE.codes if code.number in text]
    assert {row["quantity"] for row in measurements(bare)} == {row["quantity"] for row in measurements(record)}


def test_the_data_can_be_taken_out_of_the_package_and_everything_else_runs(tmp_path: Path) -> None:
    package = Path(reports.__file__).parent
    shutil.copytree(package, tmp_path / "reports", ignore=shutil.ignore_patterns("__pycache__", "data"))
    shutil.copytree(package / "language", tmp_path / "reports" / "language", dirs_exist_ok=True)
    script = (
        "from reports.coverage import load_knowledge; from reports.coverage.services import services_of\n"
        "import reports.html, reports.fhir\n"
        "assert load_knowledge().codes == (), reports.__file__"
    )
    assert not (tmp_path / "reports" / "coverage" / "data").exists()
    subprocess.run(
        [sys.executable, "-c", script], check=True, cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(tmp_path)}
    )


def test_the_settings_of_a_run_read_the_users_own_files(tmp_path: Path) -> None:
    (tmp_path / "acme.toml").write_text(EDITION, encoding="utf-8")
    settings = Settings(knowledge=str(tmp_path), payer="acme")
    assert settings.coverage_knowledge().editions_of("acme")
    assert settings.as_json()["knowledge"].startswith("sha256:")
    (tmp_path / "acme.toml").write_text(EDITION.replace("rank = 1", "rank = 5"), encoding="utf-8")
    with pytest.raises(InputRefused, match=r"acme\.toml"):
        settings.check()


CONTRACT_KEYS = {
    "status", "last_known_status", "payer", "policy", "date_of_service", "prior_authorization", "warnings", "sources",
    "conflicts", "checklist", "route", "text",
}  # fmt: skip


@given(
    cpt=st.sampled_from([c.number for c in KNOWLEDGE.codes]),
    payer=st.sampled_from([*KNOWLEDGE.payers(), "nobody"]),
    day=st.dates(dt.date(2015, 1, 1), dt.date(2035, 1, 1)),
)
def test_the_json_has_the_keys_that_others_script_against(cpt: str, payer: str, day: dt.date) -> None:
    content = json.loads(asked(cpt, day, payer).model_dump_json())
    assert set(content) >= CONTRACT_KEYS
    assert content["date_of_service"] == day.isoformat()
    assert all({"code", "text"} <= set(w) for w in content["warnings"])
    assert all({"doc", "rank", "quote", "effective", "retrieved", "sha256"} <= set(s) for s in content["sources"])
    assert all({"id", "claim", "doc", "rank"} <= set(c) for c in content["conflicts"])
    assert all({"item", "met", "basis"} <= set(i) for i in content["checklist"])


def test_a_record_documents_every_key_of_an_answer() -> None:
    assert set(Coverage.model_fields) == set(RecordedCoverage.model_fields)


def test_the_command_takes_mandate_and_self_funding(tmp_path: Path) -> None:
    call = CliRunner().invoke
    common = ["coverage", "0743T", "--date", "2025-06-01"]
    answer = call(app, [*common, "--mandate", str(plan_file(tmp_path)), "--self-funded", "--json"])
    content = json.loads(answer.stdout)
    assert content["status"] == "PLAN_OVERRIDE" and content["plan_status"] == "COVERED"
    assert "ASO_SELF_FUNDED" in {w["code"] for w in content["warnings"]}
    text = call(app, common).stdout
    for heading in ("On whose word", "Flags", "To be documented", "Next step"):
        assert heading in text
