"""Coverage status: only a plan document or the payer's own dated policy speaks; everybody else raises flags."""

from __future__ import annotations

import datetime as dt
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reports.coverage import (
    Coverage,
    CoverageStatus,
    Knowledge,
    KnowledgeError,
    LineOfBusiness,
    PlanDocument,
    PriorAuthorization,
    evaluate,
    load_knowledge,
    load_plan,
)
from reports.coverage.knowledge import Assertion, Claim

KNOWLEDGE = load_knowledge()
CODES = [code.number for code in KNOWLEDGE.codes]
TODAY = dt.date(2026, 11, 21)
COVERED = (CoverageStatus.COVERED, CoverageStatus.COVERED_WITH_CRITERIA)


def coverage(cpt: str, day: str, **options: object) -> Coverage:
    options.setdefault("knowledge", KNOWLEDGE)
    options.setdefault("payer", "cigna")
    return evaluate(cpt, date_of_service=dt.date.fromisoformat(day), evaluated_on=TODAY, **options)  # type: ignore[arg-type]


def flags(answer: Coverage) -> set[str]:
    return {warning.code for warning in answer.warnings}


@pytest.mark.parametrize("cpt", ["0691T", "0743T"])
@pytest.mark.parametrize(
    ("day", "status", "last_known", "conflict"),
    [
        ("2024-04-14", "UNKNOWN_VERSION_NOT_HELD", None, False),
        ("2024-04-15", "UNKNOWN_VERSION_NOT_HELD", None, False),
        ("2025-04-14", "UNKNOWN_VERSION_NOT_HELD", None, False),
        ("2025-04-15", "NOT_COVERED", None, False),
        ("2025-09-25", "NOT_COVERED", None, False),
        ("2025-09-26", "NOT_COVERED", None, True),
        ("2026-04-15", "NOT_COVERED", None, True),
        ("2026-04-16", "INDETERMINATE_STALE", "NOT_COVERED", True),
        ("2026-11-21", "INDETERMINATE_STALE", "NOT_COVERED", True),
    ],
)
def test_the_windows_of_mm_0300(cpt: str, day: str, status: str, last_known: str | None, conflict: bool) -> None:
    answer = coverage(cpt, day)
    assert answer.status == status
    assert answer.last_known_status == last_known
    assert bool(answer.conflicts) == conflict
    assert ("CONFLICT_SECONDARY" in flags(answer)) == conflict
    assert ("STALE_PAST_NEXT_REVIEW" in flags(answer)) == (status == "INDETERMINATE_STALE")
    assert cpt in answer.text and day in answer.text


def test_a_code_does_not_exist_before_its_start() -> None:
    assert coverage("0691T", "2021-12-31").status is CoverageStatus.CODE_NOT_VALID
    assert coverage("0691T", "2022-01-01").status is CoverageStatus.UNKNOWN_VERSION_NOT_HELD
    assert coverage("0743T", "2022-12-31").status is CoverageStatus.CODE_NOT_VALID


def test_an_unverified_sunset_is_a_flag_and_not_a_verdict() -> None:
    assert "CODE_SUNSET_NEAR" not in flags(coverage("0691T", "2026-10-02"))
    assert "CODE_SUNSET_NEAR" in flags(coverage("0691T", "2026-10-03"))
    after = coverage("0691T", "2027-01-01")
    assert "CODE_SUNSET_UNVERIFIED" in flags(after)
    assert after.status is CoverageStatus.INDETERMINATE_STALE


def test_prior_authorization_is_its_own_field_and_says_that_the_policy_is_silent() -> None:
    assert coverage("0743T", "2025-06-01").prior_authorization == "NOT_STATED"


def test_dxa_is_out_of_scope_and_screening_is_routed() -> None:
    answer = coverage("77080", "2025-06-01")
    assert answer.status is CoverageStatus.OUT_OF_SCOPE
    assert answer.route == "A004"
    assert "A004" in answer.text


def test_an_unlisted_code_of_the_class_is_told_apart_from_a_listed_one() -> None:
    assert coverage("0554T", "2025-06-01").status is CoverageStatus.CLASS_NOT_COVERED


def test_an_unknown_payer_gets_no_guess() -> None:
    answer = coverage("0743T", "2025-06-01", payer="Elsewhere Health")
    assert answer.status is CoverageStatus.UNKNOWN_PAYER
    assert "Elsewhere Health" in answer.text
    assert not answer.sources


@pytest.mark.parametrize("status", ["COVERED", "NOT_COVERED"])
def test_a_plan_document_supersedes_the_policy_both_ways(status: str) -> None:
    plan = PlanDocument(
        document="Summary Plan Description 2025",
        date=dt.date(2025, 1, 1),
        supplied_by="the site",
        sentence="Biomechanical CT is a covered service.",
        status=status,  # type: ignore[arg-type]
        codes=("0743T",),
    )
    answer = coverage("0743T", "2025-06-01", plan=plan)
    assert answer.status is CoverageStatus.PLAN_OVERRIDE
    assert answer.plan_status == status
    assert answer.determination == "plan"
    assert "Summary Plan Description 2025" in answer.text
    assert (
        coverage("0691T", "2025-06-01", plan=plan).status is CoverageStatus.NOT_COVERED
    )  # the plan names one code only


_DATES = st.dates(min_value=dt.date(2015, 1, 1), max_value=dt.date(2035, 1, 1))
_CLAIMS = st.lists(
    st.builds(
        Claim,
        schema_=st.just("openbct-coverage-claim/1"),
        id=st.just("X"),
        payer=st.just("cigna"),
        policy=st.just("0300"),
        title=st.text(min_size=1, max_size=20),
        rank=st.sampled_from([2, 3, 4, 5, 6]),
        claims_effective=_DATES,
        claims_newer_edition=st.booleans(),
        assertion=st.lists(
            st.builds(
                Assertion,
                id=st.just("x"),
                codes=st.just(tuple(CODES)),
                quote=st.just("Covered."),
                conflict=st.just("C1"),
                conflict_text=st.just("says otherwise"),
                claimed_status=st.sampled_from(list(CoverageStatus)),
            ),
            max_size=2,
        ).map(tuple),
    ),
    max_size=4,
)


@given(cpt=st.sampled_from(CODES), day=_DATES, claims=_CLAIMS)
def test_no_lesser_source_ever_changes_a_status(cpt: str, day: dt.date, claims: list[Claim]) -> None:
    bare = KNOWLEDGE.model_copy(update={"claims": ()})
    with_claims: Knowledge = KNOWLEDGE.model_copy(update={"claims": tuple(claims)})
    alone = evaluate(cpt, payer="cigna", date_of_service=day, knowledge=bare, evaluated_on=TODAY)
    beside = evaluate(cpt, payer="cigna", date_of_service=day, knowledge=with_claims, evaluated_on=TODAY)
    assert beside.status is alone.status
    assert beside.last_known_status is alone.last_known_status
    assert beside.status not in COVERED


@given(cpt=st.sampled_from(CODES), day=_DATES, payer=st.sampled_from(["cigna", "Cigna", "nobody"]))
def test_every_date_has_one_status_and_a_text(cpt: str, day: dt.date, payer: str) -> None:
    answer = evaluate(cpt, payer=payer, date_of_service=day, knowledge=KNOWLEDGE, evaluated_on=TODAY)
    assert answer.status in CoverageStatus
    assert answer.text.endswith("date of service.")
    assert "{" not in answer.text and "None" not in answer.text


def test_a_user_adds_an_edition_by_adding_a_file(tmp_path: Path) -> None:
    (tmp_path / "cigna-0300-2026-04-16.toml").write_text(
        'schema = "openbct-coverage-edition/1"\npayer = "cigna"\npayer_name = "Cigna"\npolicy = "0300"\n'
        'title = "The next edition"\nrank = 1\neffective = 2026-04-16\nnext_review = 2027-04-15\nheld = true\n'
        '[[statement]]\nid = "S1"\ncodes = ["0743T"]\nstatus = "COVERED_WITH_CRITERIA"\nquote = "Necessary when ..."\n',
        encoding="utf-8",
    )
    answer = coverage("0743T", "2026-11-21", knowledge=load_knowledge(tmp_path))
    assert answer.status is CoverageStatus.COVERED_WITH_CRITERIA
    assert answer.policy_effective == dt.date(2026, 4, 16)


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ("payer = ", "TOML"),
        ('schema = "openbct-coverage-edition/1"\npayer = "x"\n', "payer_name"),
        (
            'schema = "openbct-coverage-edition/1"\npayer = "cigna"\npayer_name = "Cigna"\npolicy = "0300"\ntitle = "t"\n'
            "rank = 5\neffective = 2026-04-16\nheld = true\n",
            "rank",
        ),
    ],
)
def test_a_wrong_file_is_named_with_its_field(tmp_path: Path, content: str, complaint: str) -> None:
    (tmp_path / "mine.toml").write_text(content, encoding="utf-8")
    with pytest.raises(KnowledgeError, match=r"mine\.toml") as caught:
        load_knowledge(tmp_path)
    assert complaint in str(caught.value)


def test_a_plan_file_is_checked(tmp_path: Path) -> None:
    file = tmp_path / "plan.toml"
    file.write_text('document = "SPD"\ndate = 2025-01-01\n', encoding="utf-8")
    with pytest.raises(KnowledgeError, match=r"plan\.toml"):
        load_plan(file)


def test_every_shipped_statement_has_quote_document_and_date() -> None:
    for edition in KNOWLEDGE.editions:
        assert edition.title and edition.effective
        for statement in edition.statement:
            assert statement.quote and statement.codes


# Lines of business, other payers, plan dates, prior authorization


@pytest.mark.parametrize("cpt", ["77078", "77080", "77081", "77085", "77086"])
def test_medicare_routes_density_studies_to_its_own_determinations(cpt: str) -> None:
    for payer, line in (("medicare", None), ("cigna", LineOfBusiness.MEDICARE_ADVANTAGE)):
        answer = coverage(cpt, "2026-11-21", payer=payer, line_of_business=line)
        assert answer.status is CoverageStatus.UNKNOWN_VERSION_NOT_HELD
        assert answer.policy == "NCD 150.3"
        assert answer.route is not None and "410.31" in answer.route


def test_the_medicare_history_of_0554t_is_told_with_both_sides() -> None:
    answer = coverage("0554T", "2023-06-01", payer="medicare")
    # Nobody but CMS sets a status towards covered; what a society reports of CMS stands only because it says not covered.
    assert answer.status is CoverageStatus.NOT_COVERED and answer.determination == "none"
    assert [s.rank for s in answer.sources] == [4] and "American College of Radiology" in answer.sources[0].document
    assert [c.id for c in answer.conflicts] == ["C15"] and "Independence Blue Cross" in answer.conflicts[0].document
    assert {"REPORTED_NOT_READ", "CONFLICT_SECONDARY"} <= flags(answer)
    assert "back to July 2019" in answer.text and "Obtain it before relying" in answer.text
    assert not coverage("0743T", "2023-06-01", payer="medicare").conflicts


def test_a_commercial_policy_does_not_speak_for_other_lines() -> None:
    assert coverage("0743T", "2025-06-01", line_of_business=LineOfBusiness.COMMERCIAL).status == "NOT_COVERED"
    assert coverage("0743T", "2025-06-01", line_of_business=LineOfBusiness.MEDICAID).status == "NOT_LISTED"
    advantage = coverage("0743T", "2025-06-01", line_of_business=LineOfBusiness.MEDICARE_ADVANTAGE)
    assert advantage.status == "NOT_LISTED" and "MEDICARE_FIRST" in flags(advantage)
    assert "Cigna" in advantage.text  # who was asked, beside who decides
    assert "LINE_OF_BUSINESS_NOT_STATED" in flags(coverage("0743T", "2025-06-01"))


def test_an_edition_without_a_review_date_is_relied_on_for_a_year() -> None:
    assert coverage("0691T", "2025-12-17", payer="regional-blue").status is CoverageStatus.NOT_COVERED
    later = coverage("0691T", "2025-12-18", payer="regional-blue")
    assert later.status is CoverageStatus.INDETERMINATE_STALE
    assert "states no review date" in later.text


@pytest.mark.parametrize(
    ("day", "applies"), [("2024-12-31", False), ("2025-01-01", True), ("2025-12-31", True), ("2026-01-01", False)]
)
def test_a_plan_document_speaks_only_for_its_own_dates(day: str, applies: bool) -> None:
    plan = PlanDocument(
        document="SPD 2025", date=dt.date(2025, 1, 1), until=dt.date(2025, 12, 31), supplied_by="the site",
        sentence="Biomechanical CT is a covered service.", status="COVERED", codes=("0743T",),
    )  # fmt: skip
    answer = coverage("0743T", day, plan=plan)
    assert (answer.status is CoverageStatus.PLAN_OVERRIDE) == applies
    assert ("PLAN_NOT_IN_FORCE" in flags(answer)) != applies


def confirmed(required: PriorAuthorization) -> Knowledge:
    portal = Claim(
        schema_="openbct-coverage-claim/1", id="PORTAL-1", payer="cigna", policy="0300", title="Portal answer, reference 4711",
        rank=2, claims_effective=dt.date(2025, 5, 1),
        assertion=(
            Assertion(
                id="R1", codes=("0743T",), quote="Authorization is required.", conflict="PA", conflict_text="",
                claimed_prior_authorization=required,
            ),
        ),
    )  # fmt: skip
    return KNOWLEDGE.model_copy(update={"claims": (portal,)})


def test_the_payers_own_answer_confirms_prior_authorization_and_leaves_the_status_alone() -> None:
    known = confirmed(PriorAuthorization.CONFIRMED_REQUIRED)
    answer = coverage("0743T", "2025-06-01", knowledge=known)
    assert answer.prior_authorization == "CONFIRMED_REQUIRED" and answer.status == "NOT_COVERED"
    assert "confirmed by the payer" in answer.text and "PA_UNKNOWN" not in flags(answer)
    assert coverage("0743T", "2025-04-30", knowledge=known).prior_authorization == "NOT_STATED"
    assert "PA_UNKNOWN" in flags(coverage("0743T", "2025-10-01"))


_LINES = st.sampled_from([None, *LineOfBusiness])
_PAYERS = st.sampled_from([*KNOWLEDGE.payers(), "nobody"])


@given(cpt=st.sampled_from(CODES), day=_DATES, payer=_PAYERS, line=_LINES, today=_DATES)
def test_no_shipped_document_covers_anything_and_every_answer_is_whole(
    cpt: str, day: dt.date, payer: str, line: LineOfBusiness | None, today: dt.date
) -> None:
    options = {"payer": payer, "date_of_service": day, "knowledge": KNOWLEDGE, "line_of_business": line}
    answer = evaluate(cpt, evaluated_on=today, **options)  # type: ignore[arg-type]
    assert answer.status not in COVERED and answer.last_known_status not in COVERED
    assert (answer.last_known_status is not None) == (answer.status is CoverageStatus.INDETERMINATE_STALE)
    assert (
        answer.next_step and "{" not in answer.text + answer.next_step and "None" not in answer.text + answer.next_step
    )
    assert not any("{" in warning.text for warning in answer.warnings)
    # Age of the knowledge raises flags; it never changes what was true on the date of service.
    assert answer.status is evaluate(cpt, evaluated_on=TODAY, **options).status  # type: ignore[arg-type]
    if answer.determination == "primary":
        assert answer.sources and all(source.rank <= 1 for source in answer.sources)


@given(cpt=st.sampled_from(["0691T", "0743T"]), day=_DATES)
def test_every_date_falls_into_the_window_of_the_table(cpt: str, day: dt.date) -> None:
    """The table of windows, written down a second time as dates."""
    start = {"0691T": dt.date(2022, 1, 1), "0743T": dt.date(2023, 1, 1)}[cpt]
    windows = [
        (dt.date(2026, 4, 16), "INDETERMINATE_STALE"),
        (dt.date(2025, 4, 15), "NOT_COVERED"),
        (start, "UNKNOWN_VERSION_NOT_HELD"),
    ]
    expected = next((status for since, status in windows if day >= since), "CODE_NOT_VALID")
    answer = evaluate(cpt, payer="cigna", date_of_service=day, knowledge=KNOWLEDGE, evaluated_on=TODAY)
    assert answer.status == expected
    assert bool(answer.conflicts) == (day >= dt.date(2025, 9, 26))


EDITION = (
    'schema = "openbct-coverage-edition/1"\npayer = "acme"\npayer_name = "Acme"\npolicy = "7"\ntitle = "Seven"\n'
    "rank = 1\neffective = 2026-01-01\nheld = true\n"
)
STATEMENT = '[[statement]]\nid = "S1"\ncodes = ["0743T"]\nstatus = "NOT_COVERED"\nquote = "Not covered."\n'


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ('schema = "something/1"\n', "must be one of"),
        (EDITION.replace('"acme"', '"Acme Health"'), "payer"),
        (EDITION + STATEMENT.replace("0743T", "743T"), "statement.0.codes.0"),
        (EDITION + STATEMENT.replace("NOT_COVERED", "PLAN_OVERRIDE"), "is concluded, not stated"),
        (EDITION + STATEMENT.replace("Not covered.", ""), "quotation"),
        (EDITION + STATEMENT + STATEMENT.replace('"NOT_COVERED"', '"COVERED"'), "two statuses"),
        (EDITION.replace("held = true", "held = false") + STATEMENT, "not held"),
        (EDITION + "next_review = 2025-01-01\n", "next_review"),
        (EDITION + 'colour = "blue"\n', "colour"),
    ],
)
def test_a_wrong_edition_of_a_users_payer_is_explained(tmp_path: Path, content: str, complaint: str) -> None:
    (tmp_path / "acme.toml").write_text(content, encoding="utf-8")
    with pytest.raises(KnowledgeError, match=r"acme\.toml") as caught:
        load_knowledge(tmp_path)
    assert complaint in str(caught.value)


def test_two_files_that_contradict_each_other_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a.toml").write_text(EDITION, encoding="utf-8")
    (tmp_path / "b.toml").write_text(EDITION, encoding="utf-8")
    with pytest.raises(KnowledgeError, match="two editions of acme 7"):
        load_knowledge(tmp_path)
    (tmp_path / "b.toml").write_text(EDITION.replace('"7"', '"8"'), encoding="utf-8")
    with pytest.raises(KnowledgeError, match="two policies of acme for commercial"):
        load_knowledge(tmp_path)


def test_a_user_adds_a_payer_and_a_code_by_adding_files(tmp_path: Path) -> None:
    (tmp_path / "acme.toml").write_text(EDITION + STATEMENT.replace("0743T", "0999T"), encoding="utf-8")
    codes = '[[code]]\nnumber = "0999T"\nparaphrase = "Something new."\nvalid_from = 2026-07-01\nvalid_from_verified = true\n'
    head = 'schema = "openbct-coverage-codes/1"\nversion = "mine"\nas_of = 2026-07-01\n'
    (tmp_path / "codes.toml").write_text(head + codes, encoding="utf-8")
    knowledge = load_knowledge(tmp_path)
    assert coverage("0999T", "2026-08-01", payer="Acme", knowledge=knowledge).status is CoverageStatus.NOT_COVERED
    assert coverage("0999T", "2026-06-30", payer="acme", knowledge=knowledge).status is CoverageStatus.CODE_NOT_VALID
