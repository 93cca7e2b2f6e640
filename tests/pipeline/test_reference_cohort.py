"""Strength in the context of a cohort: agreement and percentiles, from records through tables back into records."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from scipy import stats
from typer.testing import CliRunner

from pipeline.cli import app
from pipeline.cohort import collect
from pipeline.errors import InputRefused
from pipeline.settings import Settings
from pipeline.strength.reference import (
    PERCENTILE,
    Place,
    cohort_of,
    place_among,
    read_reference_cohort,
    with_percentiles,
)
from pipeline.verify import settings_of
from reports.record import Finding, Strength, StudyRecord, load_record, save_record
from tests.reports.example_records import example_record


def person(
    number: int, factor: float = 1.0, *, sex: str = "F", age: float = 71.0, profile: str | None = None
) -> StudyRecord:
    """The example study of another person, every strength multiplied by `factor`, L3 being 4080 N before."""
    one = example_record()

    def changed(strength: Strength | None) -> Strength | None:
        if strength is None:
            return None
        update = {"value": factor * strength.value, "profile": profile or strength.profile, "curve": ()}
        return strength.model_copy(update=update)

    study = one.study.model_copy(
        update={"key": f"P{number:04d}", "study_uid": f"1.2.{number}", "patient_sex": sex, "patient_age_years": age}
    )
    return one.model_copy(
        update={
            "study": study,
            "vertebrae": tuple(v.model_copy(update={"strength_n": changed(v.strength_n)}) for v in one.vertebrae),
            "femora": tuple(f.model_copy(update={"strength_n": changed(f.strength_n)}) for f in one.femora),
        }
    )


def people(number: int) -> list[StudyRecord]:
    """Women of 71 years with L3 from 4080 N to just below twice that."""
    return [person(n, 1 + n / number) for n in range(number)]


def l3(record: StudyRecord) -> Strength:
    found = next(v.strength_n for v in record.vertebrae if v.level == "L3")
    assert found is not None
    return found


def code(place: Place | Finding) -> str:
    assert isinstance(place, Finding)
    return place.code


def written(records: Sequence[StudyRecord], folder: Path) -> Path:
    for record in records:
        save_record(record, folder / record.study.key / "record.json")
    collect(folder)
    return folder


@pytest.fixture(scope="module")
def forty(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of forty studies as `openbct run` leaves it."""
    return written(people(40), tmp_path_factory.mktemp("forty"))


def test_a_strength_in_the_middle_of_the_cohort_is_its_median(forty: Path) -> None:
    middle = person(1000, 1.5)
    place = place_among(l3(middle), "vertebra_L3", middle.study, read_reference_cohort(forty))
    assert isinstance(place, Place) and place.studies == 40 and place.sex == "F" and place.ages_years == (61, 81)
    assert place.percentile == pytest.approx(50, abs=1.3)
    exact = stats.binomtest(round(0.4 * place.percentile), 40).proportion_ci(0.95, method="exact")
    assert place.interval == pytest.approx((100 * exact.low, 100 * exact.high), abs=1.5)


def test_the_lowest_of_all_has_percentile_zero_with_an_upper_limit(forty: Path) -> None:
    lowest = person(1000, 0.1)
    place = place_among(l3(lowest), "vertebra_L3", lowest.study, read_reference_cohort(forty / "cohort.parquet"))
    assert isinstance(place, Place)
    assert place.percentile == 0 and place.interval[0] == 0
    assert place.interval[1] == pytest.approx(100 * (1 - 0.025 ** (1 / 40)))  # none below among forty


def test_nobody_is_compared_with_himself() -> None:
    """The second strongest of 21: with himself he would have 19.5 of 21 below him, without 19 of 20."""
    records = people(21)
    own = records[19]
    place = place_among(l3(own), "vertebra_L3", own.study, cohort_of(records))
    assert isinstance(place, Place) and place.studies == 20 and place.percentile == pytest.approx(95.0)
    copied = own.study.model_copy(update={"key": "another folder"})  # the same study, imported again
    assert place_among(l3(own), "vertebra_L3", copied, cohort_of(records)) == place


def test_other_studies_of_a_patient_whom_the_site_identifies_do_not_count() -> None:
    records = people(25)
    known = [
        r.model_copy(update={"study": r.study.model_copy(update={"patient_reference": f"person {n // 5}"})})
        for n, r in enumerate(records)
    ]
    place = place_among(l3(known[0]), "vertebra_L3", known[0].study, cohort_of(known))
    assert isinstance(place, Place) and place.studies == 20


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"sex": "M"}, "reference_too_small"),
        ({"age": 50.0}, "reference_too_small"),
        ({"profile": "another v1"}, "reference_other_profile"),
    ],
)
def test_there_is_no_percentile_among_others(forty: Path, changes: dict, reason: str) -> None:
    one = person(1000, 1.5, **changes)
    assert code(place_among(l3(one), "vertebra_L3", one.study, read_reference_cohort(forty))) == reason


def test_an_edited_profile_under_an_old_name_is_another_profile() -> None:
    one = person(1000)
    edited = l3(one).model_copy(update={"model": {"profile_fingerprint": "0123456789ab"}})
    assert code(place_among(edited, "vertebra_L3", one.study, cohort_of(people(40)))) == "reference_other_profile"


def test_few_studies_unknown_age_and_unnamed_bodies_have_no_percentile(forty: Path) -> None:
    one, cohort = person(1000), read_reference_cohort(forty)
    few = place_among(l3(one), "vertebra_L3", one.study, cohort_of(people(19)))
    assert isinstance(few, Finding) and few.code == "reference_too_small" and "19" in few.text
    ageless = one.study.model_copy(update={"patient_age_years": None})
    assert code(place_among(l3(one), "vertebra_L3", ageless, cohort)) == "sex_or_age_unknown"
    assert code(place_among(l3(one), "vertebra_u1", one.study, cohort)) == "level_unknown"


def test_a_hip_is_compared_with_its_side_and_with_the_other_only_where_that_is_missing() -> None:
    """Every right hip of the cohort carries 3184 N or more; the left ones were not tested."""
    one = person(1000, 1.5)
    right = next(f.strength_n for f in one.femora if f.side == "right")
    assert right is not None
    places = [place_among(right, name, one.study, cohort_of(people(40))) for name in ("femur_right", "femur_left")]
    assert (
        isinstance(places[0], Place) and places[0] == places[1] and places[0].percentile == pytest.approx(50, abs=1.3)
    )


def test_the_record_carries_the_percentile_with_all_that_it_means(forty: Path) -> None:
    record = with_percentiles(person(1000, 1.5), read_reference_cohort(forty))
    body = next(v for v in record.vertebrae if v.level == "L3")
    place, facts = body.further[PERCENTILE], l3(record).model
    assert place.value == pytest.approx(50, abs=1.3) and place.unit == "%"
    for part in ("40 studies of women of 61 to 81 years", "kopperdahl-2002", "95 % interval"):
        assert part in place.method
    assert facts["reference_studies"] == 40 and facts["reference_from_age_years"] == 61
    low, high = facts["reference_percentile_low_95"], facts["reference_percentile_high_95"]
    assert float(low) < place.value < float(high)
    assert str(facts["reference_cohort"]) in str(place.reference)
    assert StudyRecord.model_validate_json(record.model_dump_json()) == record


def test_a_percentile_that_is_absent_says_why_and_replaces_an_older_one(forty: Path) -> None:
    placed = with_percentiles(person(1000, 1.5), read_reference_cohort(forty))
    again = with_percentiles(placed, cohort_of(people(5)))
    body = next(v for v in again.vertebrae if v.level == "L3")
    assert PERCENTILE not in body.further and body.not_measured[f"further.{PERCENTILE}"].code == "reference_too_small"
    assert not any(name.startswith("reference_") for name in l3(again).model)
    untested = next(v for v in again.vertebrae if v.level == "L1")  # no strength, and so no second reason
    assert f"further.{PERCENTILE}" not in untested.not_measured


def test_the_tables_hold_percentile_and_reason(forty: Path, tmp_path: Path) -> None:
    reference = read_reference_cohort(forty)
    records = [with_percentiles(person(1000, 1.5), reference), with_percentiles(person(1001, sex="M"), reference)]
    written(records, tmp_path)
    rows = pq.read_table(tmp_path / "cohort.parquet").to_pylist()
    assert rows[0]["l3_strength_percentile"] == pytest.approx(50, abs=1.3) and rows[1]["l3_strength_percentile"] is None
    assert rows[0]["l3_strength_profile"] == "kopperdahl-2002"
    states = {
        (row["study_key"], row["status"])
        for row in pq.read_table(tmp_path / "measurements.parquet").to_pylist()
        if row["quantity"] == f"further.{PERCENTILE}"
    }
    assert states == {("P1000", "measured"), ("P1001", "reference_too_small")}
    dictionary = list(csv.DictReader((tmp_path / "cohort_dictionary.csv").open(encoding="utf-8")))
    told = {row["name"]: row for row in dictionary}
    assert told["l3_strength_percentile"]["unit"] == "%" and told["l3_strength_percentile"]["since"] == "1.2"


@pytest.mark.parametrize("kind", ["absent", "folder", "text", "older", "empty"])
def test_what_is_no_reference_cohort_is_refused(forty: Path, tmp_path: Path, kind: str) -> None:
    path = tmp_path / kind
    if kind == "folder":
        path.mkdir()
    elif kind == "text":
        path.write_text("study_key\n", encoding="utf-8")
    elif kind in ("older", "empty"):
        table = pq.read_table(forty / "cohort.parquet")
        table = table.drop_columns(["l3_strength_profile"]) if kind == "older" else table.slice(0, 0)
        pq.write_table(table, path)
    with pytest.raises(InputRefused) as caught:
        Settings(reference_cohort=str(path)).check()
    assert caught.value.reason == ("no_such_input" if kind in ("absent", "folder") else "reference_unusable")


def test_the_overview_shows_how_levels_and_sides_agree(tmp_path: Path) -> None:
    """L2 and L3 differ by the same factor in all; for L4 there are too few studies."""
    records = people(6)
    for n in (0, 1):
        bodies = tuple(
            v.model_copy(update={"strength_n": None, "stiffness_n_mm": None, "not_measured": {
                "strength_n": v.findings[0] if v.findings else records[0].vertebrae[0].findings[0],
                "stiffness_n_mm": records[0].vertebrae[0].findings[0],
            }}) if v.level == "L4" else v
            for v in records[n].vertebrae
        )  # fmt: skip
        records[n] = records[n].model_copy(update={"vertebrae": bodies})
    written(records, tmp_path)
    content = json.loads((tmp_path / "agreement.json").read_text(encoding="utf-8"))
    rows = {(row["first"], row["second"]): row for row in content["agreement"]}
    pair = rows["vertebra_L2", "vertebra_L3"]
    bias = 200 * (4080 - 4230) / (4080 + 4230)
    assert pair["studies"] == pair["pairs"] == 6 and pair["profile"] == "kopperdahl-2002"
    assert pair["bias_percent"] == pytest.approx(bias) and pair["spread_percent"] == pytest.approx(0, abs=1e-9)
    few = rows["vertebra_L3", "vertebra_L4"]
    assert few["studies"] == 4 and few["pairs"] == 0 and few["bias_percent"] is None
    page = (tmp_path / "index.html").read_text(encoding="utf-8")
    table = page[page.index('id="agreement"') :]
    cells = re.findall(r"<t[hd][^>]*>([^<]*)</t[hd]>", table[table.index("L2, L3") - 40 :])[:8]
    assert cells == [
        "L2, L3",
        "kopperdahl-2002",
        "6",
        "\N{MINUS SIGN}4",
        "0",
        "\N{MINUS SIGN}4 to \N{MINUS SIGN}4",
        "1.00",
        cells[7],
    ]
    assert 0.9 < float(cells[7]) < 1.0


def test_sides_that_do_not_vary_have_no_correlation_in_the_file(tmp_path: Path) -> None:
    written([person(n) for n in range(5)], tmp_path)
    rows = json.loads((tmp_path / "agreement.json").read_text(encoding="utf-8"))["agreement"]
    assert rows and all(row["pairs"] == 5 and row["correlation"] is None for row in rows)


def test_report_puts_the_percentile_into_a_finished_record(forty: Path, tmp_path: Path) -> None:
    own = tmp_path / "P1000"
    save_record(person(1000, 1.5), own / "record.json")
    result = CliRunner().invoke(app, ["report", str(own), "--reference-cohort", str(forty)])
    assert result.exit_code == 0, result.output
    record = load_record(own / "record.json")
    assert next(v for v in record.vertebrae if v.level == "L3").further[PERCENTILE].value == pytest.approx(50, abs=1.3)
    name = record.software.settings["reference_cohort"]
    assert name == Settings(reference_cohort=str(forty / "cohort.parquet")).as_json()["reference_cohort"]
    assert settings_of(
        record.model_copy(
            update={"software": record.software.model_copy(update={"settings": {"reference_cohort": name}})}
        ),
        {"reference_cohort": forty / "cohort.parquet"},
    ).reference_cohort
    assert np.isfinite(record.vertebrae[4].further[PERCENTILE].uncertainty or np.nan)
