"""Many studies: one bad one never stops the rest, what is done stays done, and every end is named.

The analysis itself is replaced by a quick one here; ``test_study.py`` runs the real one.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from pipeline import cohort
from pipeline.errors import InputRefused
from pipeline.ingest import Inventory, Study
from pipeline.study import Settings
from reports.quantity import Quantity
from reports.record import Assessment, Finding, Quality, Severity, Software, StudyRecord, Vertebra, save_record
from reports.record import Status as RecordStatus
from reports.record import Study as StudyPart


def study(key: str) -> Study:
    return Study(key=key, kind="dicom", uid=f"1.2.{key}", date=None, series=())


PATIENT = "Doe^Jane"
INVENTORY = Inventory((study("study-a"), study("study-b"), study("study-c")))


def quick_record(key: str, *findings: Finding) -> StudyRecord:
    return StudyRecord(
        software=Software(version="0"),
        study=StudyPart(key=key, report_date="2026-11-21"),
        assessment=Assessment(classification="not_determined", statement="Not classified."),
        quality=Quality(findings=findings),
    )


@pytest.fixture
def analyse(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Replace the analysis; `study-b` breaks, `study-c` is refused. Returns the keys that were analysed."""
    seen: list[str] = []

    def quick(one: Study, folder: Path, settings: Settings, *, on_stage: Any = None) -> StudyRecord:
        seen.append(one.key)
        (folder / "half.txt").write_text("written before the end", encoding="utf-8")
        if one.key == "study-b":
            raise ZeroDivisionError(PATIENT)
        if one.key == "study-c":
            raise InputRefused("missing_slices", "two slices are missing.", subject="series 4")
        record = quick_record(one.key)
        save_record(record, folder / "record.json")
        return record

    monkeypatch.setattr(cohort, "analyse_study", quick)
    return seen


def test_one_bad_study_does_not_stop_the_rest(analyse: list[str], tmp_path: Path) -> None:
    outcomes = cohort.run(INVENTORY, tmp_path, Settings())
    assert [o.study for o in outcomes] == ["study-a", "study-b", "study-c"]
    assert [o.status for o in outcomes] == ["refused", "failed", "refused"]  # study-a: nothing was measured in it
    assert outcomes[2].reason == "missing_slices"
    assert (tmp_path / "study-a" / "record.json").is_file()
    assert (tmp_path / "cohort.csv").is_file()


def test_a_fault_keeps_its_evidence_without_values(analyse: list[str], tmp_path: Path) -> None:
    cohort.run(INVENTORY, tmp_path, Settings())
    evidence = (tmp_path / "study-b" / "failure.txt").read_text(encoding="utf-8")
    assert "ZeroDivisionError" in evidence and "test_cohort.py" in evidence
    everything = "".join(
        f.read_text(encoding="utf-8") for f in tmp_path.rglob("*") if f.suffix in (".txt", ".jsonl", ".csv")
    )
    assert PATIENT not in everything


def test_a_second_run_skips_what_is_done_and_tries_failures_again(analyse: list[str], tmp_path: Path) -> None:
    cohort.run(INVENTORY, tmp_path, Settings())
    analyse.clear()
    outcomes = cohort.run(INVENTORY, tmp_path, Settings())
    assert analyse == ["study-b", "study-c"]  # neither left a record
    assert outcomes[0].resumed


def test_other_settings_or_overwrite_analyse_again(analyse: list[str], tmp_path: Path) -> None:
    cohort.run(INVENTORY, tmp_path, Settings())
    analyse.clear()
    cohort.run(INVENTORY, tmp_path, Settings(strength=False))
    assert "study-a" in analyse
    analyse.clear()
    cohort.run(INVENTORY, tmp_path, Settings(strength=False), overwrite=True)
    assert "study-a" in analyse


def test_the_number_of_threads_does_not_make_a_result_stale() -> None:
    assert cohort.job_key(study("x"), Settings(threads=1)) == cohort.job_key(study("x"), Settings(threads=2))
    assert cohort.job_key(study("x"), Settings()) != cohort.job_key(study("y"), Settings())


def test_interruption_leaves_finished_studies_and_no_half_one(
    analyse: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    quick = cohort.analyse_study

    def interrupted(one: Study, folder: Path, settings: Settings, *, on_stage: Any = None) -> StudyRecord:
        if one.key == "study-b":
            (folder / "half.txt").write_text("", encoding="utf-8")
            raise KeyboardInterrupt
        return quick(one, folder, settings, on_stage=on_stage)

    monkeypatch.setattr(cohort, "analyse_study", interrupted)
    with pytest.raises(KeyboardInterrupt):
        cohort.run(INVENTORY, tmp_path, Settings())
    assert (tmp_path / "study-a" / "record.json").is_file()
    assert (tmp_path / "cohort.csv").is_file()
    assert not [p for p in tmp_path.iterdir() if "study-b" in p.name]


def test_the_ledger_survives_a_cut_line(analyse: list[str], tmp_path: Path) -> None:
    cohort.run(INVENTORY, tmp_path, Settings())
    with (tmp_path / cohort.LEDGER).open("a", encoding="utf-8") as stream:
        stream.write('{"study": "study-a", "sta')
    analyse.clear()
    assert cohort.run(INVENTORY, tmp_path, Settings())[0].resumed


def test_an_output_that_cannot_be_written_is_refused_at_once(tmp_path: Path) -> None:
    file = tmp_path / "a file"
    file.write_text("", encoding="utf-8")
    with pytest.raises(InputRefused) as caught:
        cohort.run(INVENTORY, file / "below", Settings())
    assert caught.value.reason == "output_not_writable"


def test_collecting_passes_over_a_broken_record_and_names_it(tmp_path: Path) -> None:
    (tmp_path / "study-a").mkdir()
    save_record(quick_record("study-a"), tmp_path / "study-a" / "record.json")
    (tmp_path / "study-b").mkdir()
    (tmp_path / "study-b" / "record.json").write_text("{", encoding="utf-8")
    records, problems = cohort.collect(tmp_path)
    assert [r.study.key for r in records] == ["study-a"]
    assert len(problems) == 1 and problems[0].startswith("study-b")


def test_the_reason_of_a_study_without_numbers_is_its_first_failure(tmp_path: Path) -> None:
    failure = Finding(code="no_target", severity=Severity.FAILURE, text="Neither spine nor hip is in view.")
    status, reason, text = cohort._summary(quick_record("x", failure))
    assert (status, reason, text) == ("refused", "no_target", failure.text)


def test_workers_analyse_in_processes_of_their_own(tmp_path: Path) -> None:
    outcomes = cohort.run(
        Inventory((study("study-a"), study("study-b"))), tmp_path, Settings(strength=False), workers=2
    )
    # Studies without series cannot be analysed; what matters is that both come back with a reason.
    assert {o.study for o in outcomes} == {"study-a", "study-b"}
    assert all(o.status in ("refused", "failed") and o.reason for o in outcomes)
    lines = [json.loads(line) for line in (tmp_path / cohort.LEDGER).read_text(encoding="utf-8").splitlines()]
    assert {line["study"] for line in lines} == {"study-a", "study-b"}


def measured_record(key: str) -> StudyRecord:
    """A record in which something was measured, so that its study counts as done."""
    hu = Quantity(value=120.0, unit="[hnsf'U]", uncertainty=3.0, method="test")
    missing = Finding(code="not_asked", severity=Severity.INFO, text="Not asked.")
    keys = ("vbmd_mg_cm3", "heights_mm", "fracture", "strength_n", "stiffness_n_mm")
    body = Vertebra(
        name="vertebra_L1",
        level="L1",
        status=RecordStatus.OK,
        trabecular_hu=hu,
        not_measured=dict.fromkeys(keys, missing),
    )
    return quick_record(key).model_copy(update={"vertebrae": (body,)})


def test_a_refusal_under_other_settings_never_replaces_a_finished_result(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def quick(one: Study, folder: Path, settings: Settings, *, on_stage: Any = None) -> StudyRecord:
        made = measured_record(one.key) if settings.strength else quick_record(one.key)
        save_record(made, folder / "record.json")
        return made

    monkeypatch.setattr(cohort, "analyse_study", quick)
    only = Inventory((study("study-a"),))
    assert cohort.run(only, tmp_path, Settings())[0].status == "done"
    second = cohort.run(only, tmp_path, Settings(strength=False))[0]
    assert second.status == "refused" and "was kept" in second.text
    assert json.loads((tmp_path / "study-a" / "record.json").read_text(encoding="utf-8"))["vertebrae"]


def test_changed_content_under_the_same_name_is_another_job(tmp_path: Path) -> None:
    masks = tmp_path / "Doe_Jane.nii.gz"
    masks.write_bytes(b"one")
    before = cohort.job_key(study("x"), Settings(masks=str(masks)))
    masks.write_bytes(b"two")
    assert cohort.job_key(study("x"), Settings(masks=str(masks))) != before
    assert "Doe" not in json.dumps(Settings(masks=str(masks)).as_json())


@pytest.mark.parametrize(
    "settings",
    [
        Settings(segmenter="magic"),
        Settings(masks="nowhere"),
        Settings(masks_convention="roman"),
        Settings(calibration="nowhere.json"),
        Settings(profile="nowhere.toml"),
        Settings(plan="nowhere.toml"),
        Settings(pinned_levels=(("L9", 0.0),)),
    ],
)
def test_settings_that_cannot_work_are_refused_before_any_work(settings: Settings) -> None:
    with pytest.raises(InputRefused):
        settings.check()
