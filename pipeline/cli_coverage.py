"""The command ``coverage``: what a payer's documents say of a service code, or what is wrong with a code list."""

from __future__ import annotations

import datetime as dt
import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pipeline.console import ALL_DONE, SOME_REFUSED, escaped, iso_date, out_console
from pipeline.errors import Refusal

if TYPE_CHECKING:
    from reports.coverage import Coverage, Knowledge, LineOfBusiness


def coverage(
    code: Annotated[
        str | None, typer.Argument(help="Service code number, for example 0743T.", show_default=False)
    ] = None,
    date: Annotated[str | None, typer.Option(help="Date of service, YYYY-MM-DD; today if absent.")] = None,
    payer: Annotated[str, typer.Option(help="Payer.")] = "cigna",
    plan: Annotated[
        Path | None, typer.Option(help="Plan document file (TOML); it supersedes the payer's policy.")
    ] = None,
    mandate: Annotated[
        Path | None, typer.Option(help="Federal or state mandate (TOML, like a plan); it comes before the plan.")
    ] = None,
    self_funded: Annotated[
        bool | None, typer.Option("--self-funded/--insured", help="Whether an employer funds the plan itself.")
    ] = None,
    line_of_business: Annotated[
        str | None,
        typer.Option(help="commercial, medicare_advantage, medicare, medicaid or utilization_review_only."),
    ] = None,
    knowledge: Annotated[
        Path | None,
        typer.Option(help="Folder with further policy editions, claims or codes (TOML) and your own descriptors.csv."),
    ] = None,
    audit: Annotated[
        Path | None,
        typer.Option(help="Check a code list of your own (text, CSV, TSV) for codes that are wrong or mixed up."),
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
        if code is None:
            raise Refusal("incomplete_call", "needs a code, or --audit with a code list.", subject="openbct coverage")
        if not base.codes:
            raise Refusal("no_knowledge", "is not installed: no codes are on file.", subject="coverage knowledge")
        answer = evaluate(
            code,
            payer=payer,
            date_of_service=iso_date(date) if date is not None else None,
            knowledge=base,
            plan=load_plan(plan) if plan is not None else None,
            mandate=load_plan(mandate).model_copy(update={"kind": "mandate"}) if mandate is not None else None,
            self_funded=self_funded,
            line_of_business=_line(line_of_business),
        )
    except KnowledgeError as error:
        raise Refusal("knowledge_invalid", str(error), subject="coverage knowledge") from error
    except KeyError as error:
        known = ", ".join(c.number for c in base.codes)
        raise Refusal("unknown_code", f"is not on file; codes on file: {known}.", subject=f"code '{code}'") from error
    descriptor = base.descriptors.get(answer.cpt)
    if as_json:
        content = answer.model_dump(mode="json") | ({"descriptor": descriptor} if descriptor else {})
        print(json.dumps(content, indent=1, ensure_ascii=False))
        raise typer.Exit(ALL_DONE)
    for line in _lines(answer, descriptor):
        out_console.print(line, highlight=False, soft_wrap=True)


def _lines(answer: Coverage, descriptor: str | None) -> Iterator[str]:
    """An answer for reading: the code, the status with its sentences, then on whose word, who disagrees, what is open."""
    governed = f"{answer.payer} policy {answer.policy}" if answer.policy else answer.payer
    if answer.policy_effective:
        review = f", next review {answer.policy_next_review}" if answer.policy_next_review else ""
        governed += f" (effective {answer.policy_effective}{review})"
    yield f"[bold]{answer.cpt}[/]  {escaped(answer.paraphrase)}"
    if descriptor:
        yield f"       {escaped(descriptor)} (your descriptors.csv)"
    yield f"payer                {escaped(governed)}"
    yield f"date of service      {answer.date_of_service}"
    nested = answer.last_known_status or answer.plan_status
    said = "last known" if answer.last_known_status else "the plan or mandate says"
    yield f"status               [bold]{answer.status}[/]" + (f" ({said}: {nested})" if nested else "")
    yield f"prior authorization  {answer.prior_authorization}"
    yield ""
    yield escaped(answer.text)
    yield f"Next step: {escaped(answer.next_step)}"
    if answer.sources:
        yield "\n[bold]On whose word[/]"
    documents: dict[str, list[str]] = {}
    for source in answer.sources:
        dated = "dated" if source.rank > 1 else "effective"
        document = f"{source.document}, {dated} {source.effective}" if source.effective else source.document
        note = f" {source.note}" if source.note else ""
        documents.setdefault(f"{document} (rank {source.rank})", []).append(f"{source.id}: “{source.quote}”{note}")
    for document, quotes in documents.items():
        yield f"- {escaped(document)}"
        yield from (f"    {escaped(quote)}" for quote in quotes)
    if answer.conflicts:
        yield "\n[bold]Who says otherwise[/]"
    for conflict in answer.conflicts:
        yield f"- {conflict.id}, {escaped(conflict.document)} (rank {conflict.rank}): “{escaped(conflict.claim)}”"
        yield f"    {escaped(conflict.text)}"
    if answer.further_conflicts:
        yield "\n[bold]Further contradictions, which change nothing for a claim[/]"
    yield from (f"- {c.id}: {escaped(c.text)}" for c in answer.further_conflicts)
    if answer.warnings:
        yield "\n[bold]Flags[/]"
    yield from (f"- {w.code}: {escaped(w.text)}" for w in answer.warnings)
    yield "\n[bold]To be documented[/]"
    for item in answer.checklist:
        basis = f" ({escaped(item.basis)})" if item.basis else ""
        yield f"- {item.met}: {escaped(item.item)}{basis}"


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
