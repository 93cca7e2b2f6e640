"""The command line as a user meets it: exit status, one line for each fault, never a traceback."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import SimpleITK

from pipeline.cli import main
from pipeline.console import out_console, talk
from reports.record import Assessment, Software, Study, StudyRecord, save_record


class Answer(NamedTuple):
    """What a call of the command left behind."""

    returncode: int
    stdout: str
    stderr: str


def in_a_shell(*arguments: str | Path) -> Answer:
    """Run the command in a process of its own, as a shell would."""
    environment = {**os.environ, "NO_COLOR": "1", "COLUMNS": "200", "PYTHONIOENCODING": "utf-8"}
    done = subprocess.run(
        [sys.executable, "-m", "pipeline.cli", *map(str, arguments)],
        capture_output=True,
        text=True,
        encoding="utf-8",
        env=environment,
        cwd=Path(__file__).resolve().parents[2],
        check=False,
    )
    return Answer(done.returncode, done.stdout, done.stderr)


@pytest.fixture
def openbct(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Callable[..., Answer]:
    """The entry point of the command, called in this process: most of a call in a shell is imports.

    An exception that `main` lets pass would be a traceback in a shell; here it fails the test. Each command that imports
    modules of its own is also called once by `in_a_shell`.
    """
    for console in (talk, out_console):
        monkeypatch.setattr(console, "_width", 200)

    def call(*arguments: str | Path) -> Answer:
        monkeypatch.setattr(sys, "argv", ["openbct", *map(str, arguments)])
        capfd.readouterr()
        with pytest.raises(SystemExit) as end:
            main()
        assert isinstance(end.value.code, int), "a status, not a text that Python would print"
        return Answer(end.value.code, *capfd.readouterr())

    return call


def test_help_teaches_every_command() -> None:
    answer = in_a_shell("--help")
    assert answer.returncode == 0
    for command in ("run", "inspect", "demo", "report", "phantom", "strength", "coverage", "cohort"):
        assert command in answer.stdout


def test_a_wrong_call_ends_with_2(openbct: Callable[..., Answer], tmp_path: Path) -> None:
    assert openbct("run", tmp_path / "nowhere", "-o", tmp_path / "out").returncode == 2
    assert openbct("run", "--no-such-option").returncode == 2
    assert openbct("coverage", "0743T", "--date", "21/11/2026").returncode == 2
    assert openbct("coverage", "99999", "--date", "2026-11-21").returncode == 2
    assert openbct("phantom", "unicorn", "-o", tmp_path / "p").returncode == 2
    assert openbct("cohort", tmp_path / "nowhere").returncode == 2


def hostile_folder(folder: Path) -> Path:
    """Files that are no CT study: empty, foreign, cut, a broken zip."""
    folder.mkdir(parents=True)
    (folder / "empty.dcm").write_bytes(b"")
    (folder / "notes.txt").write_text("not an image", encoding="utf-8")
    (folder / "cut.dcm").write_bytes(b"\0" * 128 + b"DICM" + b"\x02\x00\x00\x00UL")
    (folder / "broken.zip").write_bytes(b"PK\x03\x04 nothing behind it")
    with zipfile.ZipFile(folder / "fine.zip", "w") as archive:
        archive.writestr("readme.txt", "hello")
    return folder


def test_input_without_a_study_is_one_line_and_no_traceback(tmp_path: Path) -> None:
    answer = in_a_shell("run", hostile_folder(tmp_path / "Ü mit Leerzeichen"), "-o", tmp_path / "out put")
    assert answer.returncode == 2
    assert "Traceback" not in answer.stderr + answer.stdout
    assert "no CT study" in answer.stderr
    assert "empty.dcm" in answer.stderr


def test_inspect_lists_what_was_skipped_and_speaks_json(openbct: Callable[..., Answer], tmp_path: Path) -> None:
    folder = hostile_folder(tmp_path / "in")
    answer = openbct("inspect", folder, "--json")
    content = json.loads(answer.stdout)
    assert content["series"] == []
    assert {"empty.dcm", "notes.txt", "broken.zip"} <= {entry["file"] for entry in content["skipped"]}


def test_a_volume_that_is_no_ct_is_refused_with_a_reason_and_leaves_a_record(
    openbct: Callable[..., Answer], tmp_path: Path
) -> None:
    picture = SimpleITK.GetImageFromArray(np.random.default_rng(1).integers(0, 255, (30, 40, 40)).astype(np.int16))
    SimpleITK.WriteImage(picture, str(tmp_path / "mr.nii.gz"))
    answer = openbct("run", tmp_path / "mr.nii.gz", "-o", tmp_path / "out")
    assert answer.returncode == 1
    assert "Traceback" not in answer.stderr + answer.stdout
    assert "refused" in answer.stdout
    records = list((tmp_path / "out").glob("study-*/record.json"))
    assert len(records) == 1
    content = json.loads(records[0].read_text(encoding="utf-8"))
    assert content["quality"]["findings"][0]["severity"] == "failure"
    assert (records[0].parent / "report.pdf").is_file()
    assert (tmp_path / "out" / "cohort.csv").is_file()


@pytest.mark.skipif(
    os.name == "nt" or (hasattr(os, "geteuid") and os.geteuid() == 0), reason="needs a user without rights"
)
def test_a_read_only_output_is_refused(openbct: Callable[..., Answer], tmp_path: Path) -> None:
    locked = tmp_path / "locked"
    locked.mkdir(mode=0o500)
    (tmp_path / "in").mkdir()
    assert openbct("run", tmp_path / "in", "-o", locked / "out").returncode == 2


def test_coverage_prints_the_same_status_as_text_and_json(openbct: Callable[..., Answer]) -> None:
    text = in_a_shell("coverage", "0691T", "--date", "2026-11-21")
    machine = json.loads(openbct("coverage", "0691T", "--date", "2026-11-21", "--json").stdout)
    assert text.returncode == 0
    assert machine["status"] == "INDETERMINATE_STALE" and machine["last_known_status"] == "NOT_COVERED"
    assert "INDETERMINATE_STALE" in text.stdout and "NOT_COVERED" in text.stdout
    for key in ("payer", "policy", "date_of_service", "prior_authorization", "warnings", "sources", "conflicts",
                "checklist", "route", "text"):  # fmt: skip
        assert key in machine


def test_report_renders_again_beside_the_record(openbct: Callable[..., Answer], tmp_path: Path) -> None:
    record = StudyRecord(
        software=Software(version="0"),
        study=Study(key="study-1", report_date="2026-11-21"),
        assessment=Assessment(classification="not_determined", statement="Not classified."),
    )
    save_record(record, tmp_path / "study-1" / "record.json")
    answer = in_a_shell("report", tmp_path)
    assert answer.returncode == 0
    assert {p.name for p in (tmp_path / "study-1").iterdir()} >= {"report.html", "report.pdf", "fhir.json"}
    assert openbct("cohort", tmp_path).returncode == 0
    (tmp_path / "study-1" / "record.json").write_text("{}", encoding="utf-8")
    broken = openbct("report", tmp_path)
    assert broken.returncode == 1 and "Traceback" not in broken.stderr


def test_a_bone_without_strength_is_one_line_with_its_reason_and_a_wrong_call_another(
    openbct: Callable[..., Answer], tmp_path: Path
) -> None:
    empty = SimpleITK.GetImageFromArray(np.zeros((20, 20, 20), np.uint8))
    for name in ("image", "mask"):
        SimpleITK.WriteImage(empty, str(tmp_path / f"{name}.nii.gz"))
    call = (
        "strength",
        tmp_path / "image.nii.gz",
        "--mask",
        tmp_path / "mask.nii.gz",
        "--density",
        "-o",
        tmp_path / "o",
    )
    answer = in_a_shell(*call, "--test", "spine-compression")
    assert answer.returncode == 1 and answer.stderr.strip().endswith("(mask_empty)")
    assert len(answer.stderr.strip().splitlines()) == 1
    assert json.loads(answer.stdout)["strength_n"] is None
    answer = openbct(*call, "--test", "spine-torsion")
    assert answer.returncode == 2 and answer.stderr.strip().endswith("(unknown_test)") and not answer.stdout
