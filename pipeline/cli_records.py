"""Commands on records and coverage: ``report``, ``verify``, ``coverage``."""

from __future__ import annotations

import datetime as dt
import json
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pipeline.console import (
    ALL_DONE,
    SOME_REFUSED,
    Inputs,
    escaped,
    index_inputs,
    iso_date,
    out_console,
    progress_bar,
    talk,
)
from pipeline.errors import Refusal

if TYPE_CHECKING:
    from reports.comparison import Compared, Comparison
    from reports.coverage import Knowledge, LineOfBusiness

commands = typer.Typer()


@commands.command()
def report(
    records: Annotated[
        list[Path], typer.Argument(help="record.json files, or folders that hold them.", show_default=False)
    ],
    language: Annotated[str, typer.Option(help="Language of the report: en, de, or a language file (TOML).")] = "en",
) -> None:
    """Render the documents again from saved records, beside each record."""
    from pipeline.documents import render_documents
    from reports.language import load_language
    from reports.record import RecordUnreadable, load_record

    try:
        load_language(language)
    except ValueError as error:
        raise Refusal("unknown_language", f"{error}.", subject="--language") from error
    missing = [path for path in records if not path.exists()]
    if missing:
        raise Refusal("no_such_input", "does not exist.", subject=f"input '{missing[0].name}'")
    files = [f for path in records for f in (sorted(path.rglob("record.json")) if path.is_dir() else [path])]
    if not files:
        raise Refusal("no_record", "holds no record.json.", subject="the input")
    status = ALL_DONE
    for file in files:
        try:
            written = render_documents(load_record(file), file.parent, language=language)
        except RecordUnreadable as error:
            talk.print(f"[red]{escaped(str(error))}[/]", soft_wrap=True)
            status = SOME_REFUSED
        else:
            for path in written:
                out_console.print(str(path), soft_wrap=True, highlight=False)
    raise typer.Exit(status)


@commands.command()
def coverage(
    code: Annotated[
        str | None, typer.Argument(help="Service code number, for example 0743T.", show_default=False)
    ] = None,
    date: Annotated[str | None, typer.Option(help="Date of service, YYYY-MM-DD.")] = None,
    payer: Annotated[str, typer.Option(help="Payer.")] = "cigna",
    plan: Annotated[
        Path | None, typer.Option(help="Plan document file (TOML); it supersedes the payer's policy.")
    ] = None,
    line_of_business: Annotated[
        str | None, typer.Option(help="commercial, medicare_advantage, medicare or medicaid.")
    ] = None,
    knowledge: Annotated[
        Path | None, typer.Option(help="Folder with further policy editions, claims or service codes (TOML).")
    ] = None,
    audit: Annotated[
        Path | None,
        typer.Option(help="Check a code list of your own (text or CSV) for codes that are wrong or mixed up."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object.")] = False,
) -> None:
    """Print the coverage status of a service code on a date, with its sources, conflicts and the next step.

    With --audit, check a code list instead: exit status 1 if a code on it is wrong.

    Example: openbct coverage 0743T --date 2026-11-21
    """
    from reports.coverage import KnowledgeError, evaluate, load_knowledge, load_plan

    try:
        base = load_knowledge(knowledge)
        if audit is not None:
            raise typer.Exit(_audited(audit, base, iso_date(date) if date else None, as_json=as_json))
        if code is None or date is None:
            raise Refusal(
                "incomplete_call", "needs a code and --date, or --audit with a code list.", subject="openbct coverage"
            )
        answer = evaluate(
            code,
            payer=payer,
            date_of_service=iso_date(date),
            knowledge=base,
            plan=load_plan(plan) if plan is not None else None,
            line_of_business=_line(line_of_business),
        )
    except KnowledgeError as error:
        raise Refusal("knowledge_invalid", str(error), subject="coverage knowledge") from error
    except KeyError as error:
        known = ", ".join(c.number for c in base.codes)
        raise Refusal("unknown_code", f"is not on file; codes on file: {known}.", subject=f"code '{code}'") from error
    if as_json:
        print(answer.model_dump_json(indent=1))
        raise typer.Exit(ALL_DONE)
    out_console.print(
        f"[bold]{answer.cpt}[/]  {answer.payer} {answer.policy or ''}  date of service {answer.date_of_service}"
    )
    last_known = f" (last known: {answer.last_known_status})" if answer.last_known_status else ""
    out_console.print(f"status: [bold]{answer.status}[/]{last_known}")
    out_console.print(f"prior authorization: {answer.prior_authorization}\n")
    out_console.print(escaped(answer.text), highlight=False, soft_wrap=True)
    out_console.print(f"next step: {escaped(answer.next_step)}", highlight=False, soft_wrap=True)
    for title, lines in (
        ("sources", [f"[rank {s.rank}] {s.document}, effective {s.effective}: “{s.quote}”" for s in answer.sources]),
        ("conflicts", [f"{c.id} [rank {c.rank}] {c.document}: “{c.claim}” {c.text}" for c in answer.conflicts]),
        ("warnings", [f"{w.code}: {w.text}" for w in answer.warnings]),
        ("to be documented", [c.item for c in answer.checklist]),
    ):
        if lines:
            out_console.print(f"\n[bold]{title}[/]")
            for line in lines:
                out_console.print("- " + escaped(line), highlight=False, soft_wrap=True)


def _line(text: str | None) -> LineOfBusiness | None:
    from reports.coverage import LineOfBusiness

    if text is None:
        return None
    try:
        return LineOfBusiness(text.strip().lower().replace("-", "_"))
    except ValueError:
        known = ", ".join(LineOfBusiness)
        raise Refusal(
            "unknown_line", f"is not known; known are {known}.", subject=f"--line-of-business {text}"
        ) from None


def _audited(file: Path, base: Knowledge, on: dt.date | None, *, as_json: bool) -> int:
    """Print what is wrong with a code list; the exit status says whether anything is."""
    from reports.coverage.audit import AuditVerdict, audit_file

    if not file.is_file():
        raise Refusal("no_such_input", "does not exist or is no file.", subject=f"code list '{file.name}'")
    rows = audit_file(file, knowledge=base, on=on)
    if as_json:
        print(json.dumps([row.model_dump(mode="json") for row in rows], indent=1, ensure_ascii=False))
    else:
        colours = {"ok": "green", "wrong": "red", "check": "yellow", "unknown": "dim"}
        for row in rows:
            said = f" “{row.label}”" if row.label else ""
            source = f" ({row.source})" if row.source else ""
            said = escaped(f"{row.code}{said}: {row.text}{source}")
            out_console.print(
                f"[{colours[row.verdict]}]{row.verdict:8}[/]line {row.line}: {said}",
                soft_wrap=True,
                highlight=False,
            )
        verdicts = Counter(str(row.verdict) for row in rows)
        out_console.print(", ".join(f"{verdicts[verdict]} {verdict}" for verdict in colours), highlight=False)
    return SOME_REFUSED if any(row.verdict is AuditVerdict.WRONG for row in rows) else ALL_DONE


@commands.command()
def verify(
    record: Annotated[Path, typer.Argument(help="A record.json.", show_default=False)],
    inputs: Inputs,
    masks: Annotated[Path | None, typer.Option(help="The masks that the record was made with.")] = None,
    calibration: Annotated[Path | None, typer.Option(help="The calibration file that it was made with.")] = None,
    profile: Annotated[Path | None, typer.Option(help="The strength profile file that it was made with.")] = None,
    plan: Annotated[Path | None, typer.Option(help="The plan document that it was made with.")] = None,
    tolerance: Annotated[
        float, typer.Option(min=0.0, help="Largest difference that counts as reproduced, in standard uncertainties.")
    ] = 0.02,
    threads: Annotated[int | None, typer.Option(min=1, help="Threads; all cores if absent.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object.")] = False,
) -> None:
    """Compute a record again from its images and compare: input, every result, versions.

    Exit status 0: reproduced; 1: other images, or a result differs or is missing; 2: the comparison could not be made.

    Example: openbct verify results/study-0a1b2c3d4e5f/record.json export/
    """
    from pipeline.verify import verify_record
    from reports.record import RecordUnreadable, load_record

    if not record.is_file():
        raise Refusal("no_such_input", "does not exist or is no file.", subject=f"record '{record.name}'")
    try:
        recorded = load_record(record)
    except RecordUnreadable as error:
        raise Refusal(error.reason, str(error), subject="record") from error
    given = {"masks": masks, "calibration": calibration, "profile": profile, "plan": plan}
    inventory = index_inputs(inputs, quiet=as_json)
    with progress_bar(as_json) as bar:
        task = bar.add_task("verify", total=None)
        comparison = verify_record(
            recorded,
            inventory,
            files={key: path for key, path in given.items() if path is not None},
            tolerance_sd=tolerance,
            threads=threads,
            on_stage=lambda stage: bar.update(task, description=stage),
        )
    if as_json:
        print(json.dumps(comparison.as_json(), indent=1, ensure_ascii=False))
    else:
        for line in _comparison_lines(comparison):
            out_console.print(line, soft_wrap=True, highlight=False)
    raise typer.Exit(ALL_DONE if comparison.reproduced else SOME_REFUSED)


_COLOURS = {"same": "green", "within_tolerance": "green", "differs": "red", "missing": "red", "new": "red"}


def _comparison_lines(comparison: Comparison) -> list[str]:
    """What differs in full, what is the same in numbers, versions only where they changed."""
    lines = ["[bold]input[/]"]
    lines += [_comparison_line(row) for row in comparison.input]
    verdicts = Counter(str(row.verdict) for row in comparison.results)
    tally = [f"{verdicts[verdict]} {verdict.replace('_', ' ')}" for verdict in _COLOURS]
    lines.append(f"[bold]results[/]  {', '.join(tally)}")
    good = ("same", "within_tolerance")
    lines += [_comparison_line(row) for row in comparison.results if row.verdict not in good]
    changed = [row for row in comparison.versions if row.verdict != "same"]
    lines.append(f"[bold]versions[/]  {'all the same' if not changed else ''}".rstrip())
    lines += [f"  {escaped(row.name)}: {escaped(row.recorded)}, now {escaped(row.recomputed)}" for row in changed]
    if comparison.reproduced:
        lines.append("reproduced: same images, and every result within the tolerance.")
    else:
        lines.append(
            "[bold red]not reproduced[/]" + ("" if comparison.same_input else ": these are not the same images.")
        )
    return lines


def _comparison_line(row: Compared) -> str:
    values = _printed(row.recorded)
    if row.verdict != "same":
        values += f" -> {_printed(row.recomputed)}"
    if row.difference is not None:
        values += f" {row.unit} (difference {row.difference:+.4g}, tolerated {row.tolerance:.2g})"
    return f"  [{_COLOURS[row.verdict]}]{row.verdict.replace('_', ' ')}[/]  {escaped(row.name)}  {values}"


def _printed(value: str | float | None) -> str:
    if value is None:
        return "nothing"
    return f"{value:.6g}" if isinstance(value, float) else escaped(value)
