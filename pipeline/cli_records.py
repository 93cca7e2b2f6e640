"""Commands on records and coverage: ``report``, ``verify``, ``coverage``."""

from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pipeline.cli_coverage import coverage
from pipeline.console import (
    ALL_DONE,
    SOME_REFUSED,
    Inputs,
    escaped,
    index_inputs,
    out_console,
    progress_bar,
    talk,
)
from pipeline.errors import Refusal

if TYPE_CHECKING:
    from reports.comparison import Compared, Comparison

commands = typer.Typer()


@commands.command()
def report(
    records: Annotated[
        list[Path], typer.Argument(help="record.json files, or folders that hold them.", show_default=False)
    ],
    language: Annotated[str, typer.Option(help="Language of the report: en, de, or a language file (TOML).")] = "en",
    reference_cohort: Annotated[
        Path | None,
        typer.Option(help="cohort.parquet (or its folder): puts percentiles of strength into each record first."),
    ] = None,
) -> None:
    """Render the documents again from saved records, beside each record."""
    from pipeline.documents import render_documents, write_record_and_documents
    from pipeline.strength.reference import placed_and_noted, read_reference_cohort
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
    reference = read_reference_cohort(reference_cohort) if reference_cohort is not None else None
    status = ALL_DONE
    for file in files:
        try:
            if reference is not None:
                placed = placed_and_noted(load_record(file), reference)
                written = write_record_and_documents(placed, file.parent, language=language)
            else:
                written = render_documents(load_record(file), file.parent, language=language)
        except RecordUnreadable as error:
            talk.print(f"[red]{escaped(str(error))}[/]", soft_wrap=True)
            status = SOME_REFUSED
        else:
            for path in written:
                out_console.print(str(path), soft_wrap=True, highlight=False)
    raise typer.Exit(status)


commands.command()(coverage)


@commands.command()
def verify(
    record: Annotated[Path, typer.Argument(help="A record.json.", show_default=False)],
    inputs: Inputs,
    masks: Annotated[Path | None, typer.Option(help="The masks that the record was made with.")] = None,
    calibration: Annotated[Path | None, typer.Option(help="The calibration file that it was made with.")] = None,
    phantom: Annotated[Path | None, typer.Option(help="The certificate of the phantom that it was made with.")] = None,
    rods: Annotated[Path | None, typer.Option(help="The label map of rods that it was made with.")] = None,
    profile: Annotated[Path | None, typer.Option(help="The strength profile file that it was made with.")] = None,
    plan: Annotated[Path | None, typer.Option(help="The plan document that it was made with.")] = None,
    knowledge: Annotated[Path | None, typer.Option(help="The folder of coverage files that it was made with.")] = None,
    reference_cohort: Annotated[Path | None, typer.Option(help="The reference cohort that it was made with.")] = None,
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
    given = {
        "masks": masks,
        "calibration": calibration,
        "phantom": phantom,
        "rods": rods,
        "profile": profile,
        "plan": plan,
        "knowledge": knowledge,
        "reference_cohort": reference_cohort,
    }
    inventory = index_inputs(inputs, quiet=as_json)
    with progress_bar(as_json) as bar:
        task = bar.add_task("verify", total=None)
        comparison = verify_record(
            recorded,
            inventory,
            beside=record.parent,
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


_COLOURS = {
    "same": "green",
    "within_tolerance": "green",
    "differs": "red",
    "missing": "red",
    "new": "red",
    "not_compared": "yellow",
}


_MOST_LINES = 40
_FACT = re.compile(r"^study\.|\.acquisition\.")
_DETAIL = re.compile(r"\.(uncertainty|components|model|method|reference|findings)\b")


def _comparison_lines(comparison: Comparison) -> list[str]:
    """What differs in full, what is the same in numbers, versions only where they changed."""
    lines = ["[bold]input[/]"]
    facts = [row for row in comparison.input if _FACT.search(row.name) and row.verdict == "same"]
    lines += [_comparison_line(row) for row in comparison.input if row not in facts]
    if facts:
        lines.append(f"  {len(facts)} facts of the headers the same")
    verdicts = Counter(str(row.verdict) for row in comparison.results)
    tally = [f"{verdicts[verdict]} {verdict.replace('_', ' ')}" for verdict in _COLOURS if verdict != "not_compared"]
    lines.append(f"[bold]results[/]  {', '.join(tally)}")
    good = ("same", "within_tolerance")
    bad = [row for row in comparison.results if row.verdict not in good]
    bad.sort(key=lambda row: _DETAIL.search(row.name) is not None)  # a value before how it was obtained
    lines += [_comparison_line(row) for row in bad[:_MOST_LINES]]
    if len(bad) > _MOST_LINES:
        lines.append(f"  and {len(bad) - _MOST_LINES} more; --json lists all")
    if comparison.files:
        same = sum(row.verdict in good for row in comparison.files)
        lines.append(f"[bold]label maps[/]  {same} of {len(comparison.files)} parts the same")
        lines += [_comparison_line(row) for row in comparison.files if row.verdict not in good]
    changed = [row for row in comparison.versions if row.verdict != "same"]
    lines.append(f"[bold]versions[/]  {'all the same' if not changed else ''}".rstrip())
    lines += [f"  {escaped(row.name)}: {escaped(row.recorded)}, now {escaped(row.recomputed)}" for row in changed]
    if comparison.reproduced:
        lines.append("reproduced: same images, and every result within the tolerance.")
        if any(row.verdict == "not_compared" for row in comparison.files):
            lines.append("The label maps do not lie beside the record and were not compared.")
    else:
        why = ""
        if not comparison.same_input:
            why = ": these are not the same images."
        elif comparison.other_program:
            why = ": the images are the same, but another program computed the record (versions above)."
        lines.append(f"[bold red]not reproduced[/]{why}")
    return lines


def _comparison_line(row: Compared) -> str:
    values = _printed(row.recorded)
    if row.verdict != "same":
        values += f" -> {_printed(row.recomputed)}"
    if row.unit == "voxels" and row.difference is not None:
        values += f" voxels (Dice {1 + row.difference:.4f}, least {1 - (row.tolerance or 0):.3f})"
    elif row.difference is not None:
        unit = "" if row.unit == "1" else f" {escaped(row.unit)}"
        values += f"{unit} (difference {row.difference:+.4g}, tolerated {row.tolerance:.2g})"
    return f"  [{_COLOURS[row.verdict]}]{row.verdict.replace('_', ' ')}[/]  {escaped(row.name)}  {values}"


def _printed(value: str | float | None) -> str:
    if value is None:
        return "nothing"
    return f"{value:.6g}" if isinstance(value, float) else escaped(value)
