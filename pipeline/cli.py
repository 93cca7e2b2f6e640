"""The command ``openbct``.

Only this module and the other `pipeline.cli_*` print and exit; what they share is in `pipeline.console`. Heavy modules are
imported inside the commands, so that ``--help`` answers at once.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from pipeline import __version__, cli_calibrate, cli_records, cli_strength
from pipeline.console import (
    ALL_DONE,
    INTERRUPTED,
    SOME_REFUSED,
    WRONG_CALL,
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
    from pipeline.cohort import Outcome
    from pipeline.ingest import Inventory

_FOUND_NOTHING = (
    "Give folders, zips or files with an axial CT series; what was passed over is listed above, if anything."
)
_INTERRUPTED = "interrupted; finished studies are complete. Call the same command again to go on."
app = typer.Typer(
    name="openbct",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help=(
        "Open-source biomechanical CT: bone density, vertebral fractures, hip T-score and finite-element bone strength "
        "from ordinary CT. Research use only; not a medical device. Nothing leaves this machine."
    ),
    epilog="Exit status: 0 all done, 1 some study failed or was refused, 2 the call was wrong, 130 interrupted.",
)
app.add_typer(cli_calibrate.commands)
app.add_typer(cli_records.commands)
app.add_typer(cli_strength.commands)

Output = Annotated[Path, typer.Option("-o", "--output", help="Folder for the results; made if absent.")]


def main() -> None:
    """Entry point: turns every refusal and interruption into one line and an exit status."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")  # a Windows console may not know the sign ±
    _find_place_for_compiled_code()
    try:
        app()
    except Refusal as refusal:
        talk.print(f"[bold red]error:[/] {escaped(str(refusal))} ({refusal.reason})", soft_wrap=True, highlight=False)
        sys.exit(WRONG_CALL)
    except KeyboardInterrupt:
        talk.print(_INTERRUPTED)
        sys.exit(INTERRUPTED)
    except BrokenPipeError:
        sys.exit(ALL_DONE)
    except OSError as error:
        name = Path(error.filename).name if isinstance(error.filename, str) else "a file"
        talk.print(f"[bold red]error:[/] '{escaped(name)}' cannot be read or written: {error.strerror}", soft_wrap=True)
        sys.exit(WRONG_CALL)


def _find_place_for_compiled_code() -> None:
    """Give numba a folder for compiled code where it would find none (an installation and a home that are read-only)."""
    places = (Path(__file__).parent, Path.home() if os.environ.get("HOME") or os.name == "nt" else Path("/nonexistent"))
    if "NUMBA_CACHE_DIR" in os.environ or any(os.access(place, os.W_OK) for place in places):
        return
    user = str(os.getuid()) if hasattr(os, "getuid") else "user"
    os.environ["NUMBA_CACHE_DIR"] = str(Path(tempfile.gettempdir()) / f"openbct-numba-{user}")


@app.callback(invoke_without_command=True)
def _version(
    version: Annotated[bool, typer.Option("--version", help="Print the version and exit.", is_eager=True)] = False,
) -> None:
    if version:
        out_console.print(f"openbct {__version__}")
        raise typer.Exit


@app.command()
def run(
    inputs: Inputs,
    output: Output,
    masks: Annotated[
        Path | None,
        typer.Option(help="Outside masks: TotalSegmentator folder or file, nnU-Net file, DICOM SEG, own segmentation."),
    ] = None,
    masks_convention: Annotated[
        str | None,
        typer.Option(
            help="Numbering of a label map without names: totalsegmentator_v2, totalsegmentator_v1, verse, "
            "spineps_subregion, vertebrae_pp."
        ),
    ] = None,
    refine_masks: Annotated[
        bool,
        typer.Option(
            "--refine-masks", help="Where both agree, take our outline at the resolution of the CT for the mask's."
        ),
    ] = False,
    calibration: Annotated[
        str | None,
        typer.Option(help="Calibration file (JSON), or a method: auto (the same as none), phantom, internal, kvp."),
    ] = None,
    phantom: Annotated[
        str | None,
        typer.Option(help="The calibration phantom in the scans: its name, or the file of its certificate (JSON)."),
    ] = None,
    rods: Annotated[
        Path | None,
        typer.Option(help="NIfTI label map of its rods on the grid of the scan (1 = first rod); needs --phantom."),
    ] = None,
    dxa_scale: Annotated[
        str | None,
        typer.Option(help="Give hip areal density also as devices of this maker would read it: hologic or lunar."),
    ] = None,
    segmenter: Annotated[
        str, typer.Option(help="own (no trained weights) or totalsegmentator (if installed).")
    ] = "own",
    level: Annotated[
        list[str] | None, typer.Option(help="Pin a level to a height, LPS z in mm: L1@-220.5. May be repeated.")
    ] = None,
    series: Annotated[
        str | None, typer.Option(help="Use this SeriesInstanceUID instead of the automatic choice.")
    ] = None,
    profile: Annotated[str | None, typer.Option(help="Strength profile by name, or a profile file.")] = None,
    strength: Annotated[bool, typer.Option(help="Compute bone strength by finite elements.")] = True,
    spine_load: Annotated[
        str | None,
        typer.Option(
            help="Also a load on lumbar bodies and its ratio to their strength: lifting (static, unvalidated)."
        ),
    ] = None,
    height_cm: Annotated[
        float | None, typer.Option(help="Height of the patient, for loads; from the images if absent. One study only.")
    ] = None,
    weight_kg: Annotated[
        float | None, typer.Option(help="Weight of the patient, for loads; from the images if absent. One study only.")
    ] = None,
    reference_cohort: Annotated[
        Path | None,
        typer.Option(
            help="cohort.parquet of other studies (or its folder): percentiles of strength among like people."
        ),
    ] = None,
    payer: Annotated[str, typer.Option(help="Payer for the coverage status.")] = "cigna",
    plan: Annotated[
        Path | None, typer.Option(help="Plan document file (TOML); it supersedes the payer's policy.")
    ] = None,
    knowledge: Annotated[
        Path | None, typer.Option(help="Folder with further policy editions, claims or service codes (TOML).")
    ] = None,
    coding: Annotated[
        bool, typer.Option("--coding/--no-coding", help="Name service codes and their coverage status in the report.")
    ] = True,
    date_of_service: Annotated[
        str | None, typer.Option(help="Date of service for the coverage status, YYYY-MM-DD; today if absent.")
    ] = None,
    line_of_business: Annotated[
        str | None, typer.Option(help="For the coverage status: commercial, medicare_advantage, medicare or medicaid.")
    ] = None,
    language: Annotated[str, typer.Option(help="Language of the report: en, de, or a language file (TOML).")] = "en",
    dicom_extras: Annotated[
        bool,
        typer.Option(
            "--dicom-extras", help="Also pictures as secondary captures and strength fields as parametric maps."
        ),
    ] = False,
    workers: Annotated[int, typer.Option(min=1, help="Studies analysed at the same time.")] = 1,
    threads: Annotated[int | None, typer.Option(min=1, help="Threads for each study; all cores if absent.")] = None,
    scheduler: Annotated[str | None, typer.Option(help="Address of a Dask scheduler, for many machines.")] = None,
    resume: Annotated[bool, typer.Option("--resume/--no-resume", help="Skip studies that are done already.")] = True,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Analyse everything again.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress and no table.")] = False,
) -> None:
    """Analyse every study in the inputs and leave a report for each.

    Example: openbct run export/ -o results
    """
    from pipeline import cohort
    from pipeline.study import Settings

    settings = Settings(
        masks=str(masks) if masks is not None else None,
        masks_convention=masks_convention,
        refine_masks=refine_masks,
        calibration=calibration,
        phantom=phantom,
        rods=str(rods) if rods is not None else None,
        dxa_scale=dxa_scale,
        segmenter=segmenter,
        pinned_levels=tuple(_pinned(text) for text in level or ()),
        series_uid=series,
        profile=profile,
        strength=strength,
        spine_load=spine_load,
        height_cm=height_cm,
        weight_kg=weight_kg,
        reference_cohort=str(reference_cohort) if reference_cohort is not None else None,
        payer=payer,
        plan=str(plan) if plan is not None else None,
        knowledge=str(knowledge) if knowledge is not None else None,
        coding=coding,
        date_of_service=iso_date(date_of_service).isoformat() if date_of_service else None,
        line_of_business=line_of_business,
        language=language,
        dicom_extras=dicom_extras,
        threads=threads,
    )
    settings.check()
    inventory = index_inputs(inputs, quiet=quiet)
    if not inventory.studies:
        _print_skipped(inventory)
        raise Refusal(
            "no_study", "holds no CT study.", subject="the input", remedy="See the lines above for what was found."
        )
    if len(inventory.studies) > 1 and (height_cm is not None or weight_kg is not None):
        text = f"are those of one patient, and the input holds {len(inventory.studies)} studies."
        raise Refusal("one_study_only", text, subject="--height-cm and --weight-kg", remedy="Run that study alone.")
    if not quiet:
        series_count = sum(len(s.stacks) for s in inventory.studies)
        talk.print(
            f"found {len(inventory.studies)} studies, {series_count} series; skipped files: {len(inventory.skipped)}"
        )
    with progress_bar(quiet) as bar:
        task = bar.add_task("studies", total=len(inventory.studies))
        try:
            outcomes = cohort.run(
                inventory,
                output,
                settings,
                workers=workers,
                overwrite=overwrite or not resume,
                scheduler=scheduler,
                on_stage=lambda study, stage: bar.update(task, description=f"{study}: {stage}"),
                on_outcome=lambda _outcome: bar.advance(task),
            )
        except KeyboardInterrupt:
            talk.print(_INTERRUPTED)
            raise typer.Exit(INTERRUPTED) from None
    if not quiet:
        _print_outcomes(outcomes, output)
        _print_skipped(inventory)
    raise typer.Exit(ALL_DONE if all(o.status == "done" for o in outcomes) else SOME_REFUSED)


@app.command()
def inspect(
    inputs: Inputs, as_json: Annotated[bool, typer.Option("--json", help="One JSON object instead of tables.")] = False
) -> None:
    """Show which studies and series are there, which would be used and why, and what is wrong with the others.

    Example: openbct inspect export/
    """
    from pipeline.ingest import describe

    inventory = index_inputs(inputs, quiet=as_json)
    rows = describe(inventory)
    if as_json:
        skipped = [{"file": s.name, "reason": s.reason, "text": s.detail} for s in inventory.skipped]
        print(json.dumps({"series": rows, "skipped": skipped}, indent=1, ensure_ascii=False, default=str))
    else:
        for study in dict.fromkeys(row["study"] for row in rows):
            mine = [row for row in rows if row["study"] == study]
            out_console.print(f"\n[bold]{study}[/]  {mine[0]['date'] or 'no date'}", highlight=False)
            for row in mine:
                _print_series(row)
        _print_skipped(inventory, everything=True)
    if not inventory.studies:
        raise Refusal("no_study", "holds no CT study.", subject="the input", remedy=_FOUND_NOTHING)


@app.command()
def demo(output: Output = Path("openbct-demo")) -> None:
    """Write a synthetic study as real DICOM files, run the whole analysis on it, and compare with the known truth."""
    from pipeline.demo import run_demo

    with progress_bar(False) as bar:
        task = bar.add_task("demo", total=None)
        result = run_demo(output, on_stage=lambda stage: bar.update(task, description=stage))
    table = Table(title="openbct demo: measured against the truth of the phantom", title_justify="left")
    for column, justify in (("quantity", "left"), ("true", "right"), ("measured", "right"), ("difference", "right")):
        table.add_column(column, justify=justify)  # type: ignore[arg-type]
    for row in result.rows:
        table.add_row(row.quantity, row.true, row.measured, row.difference)
    out_console.print(table)
    out_console.print(f"report: {result.report_html}", soft_wrap=True, highlight=False)
    out_console.print(f"        {result.report_pdf}", soft_wrap=True, highlight=False)
    out_console.print(f"{result.seconds:.0f} s. Synthetic data. Research use only; not a medical device.")
    raise typer.Exit(ALL_DONE if result.complete else SOME_REFUSED)


@app.command()
def phantom(
    output: Output,
    kind: Annotated[
        str | None,
        typer.Argument(help="Kind of phantom, or a suite; an unknown one lists them all.", show_default=False),
    ] = None,
    suite: Annotated[str | None, typer.Option(help="A ready-made suite instead of one phantom.")] = None,
    count: Annotated[int | None, typer.Option(min=1, help="How many studies of the suite.")] = None,
    seed: Annotated[int, typer.Option(help="Random seed of anatomy and noise.")] = 0,
    kvp: Annotated[float, typer.Option(help="Tube voltage in kV.")] = 120.0,
    slice_mm: Annotated[float, typer.Option(help="Slice thickness and spacing in mm.")] = 1.25,
    pixel_mm: Annotated[float, typer.Option(help="Pixel size in mm.")] = 0.9,
    dose: Annotated[float, typer.Option(help="Dose relative to a usual scan: noise falls with its root.")] = 1.0,
    kernel: Annotated[str, typer.Option(help="Reconstruction kernel: soft, standard or sharp.")] = "standard",
    mode: Annotated[str, typer.Option(help="fast, or projections: a scan simulated as physics, slow.")] = "fast",
    file_format: Annotated[
        str, typer.Option("--format", help="dicom, enhanced, nifti, or model (for a solver).")
    ] = "dicom",
    option: Annotated[
        list[str] | None,
        typer.Option("--set", help="Anatomy as NAME=JSON, repeatable: top_level=T4, age_years=80, hips=false."),
    ] = None,
) -> None:
    """Write a digital phantom as a DICOM series, with its exact truth beside it. Options are listed in docs/phantoms.md.

    Example: openbct phantom torso -o phantom --seed 3 --kvp 100 --set age_years=80
    """
    from phantoms import SUITES
    from pipeline.phantom_command import write_many, write_one

    if kind in SUITES and suite is None:
        kind, suite = None, kind
    if (kind is None) == (suite is None):
        raise Refusal("bad_phantom", "needs either a kind or a suite.", subject="phantom")
    if suite is not None:
        with progress_bar(False) as bar:
            task = bar.add_task(suite, total=None)
            many = write_many(
                suite,
                output,
                count=count,
                mode=mode,
                progress=lambda done, total: bar.update(task, completed=done, total=total),
            )
        out_console.print(f"{many} studies written to {output}", soft_wrap=True, highlight=False)
        return
    scan = {"kvp": kvp, "slice_mm": slice_mm, "pixel_mm": pixel_mm, "dose": dose, "kernel": kernel, "mode": mode}
    options = dict(_option(text) for text in option or ())
    write_one(str(kind), output, seed=seed, options=options, scan=scan | {"file_format": file_format})
    out_console.print(f"written to {output}", soft_wrap=True, highlight=False)


@app.command()
def cohort(
    output: Annotated[Path, typer.Argument(help="Folder with study folders below it.", show_default=False)],
) -> None:
    """Collect the records below a folder into one table, agreement of levels and sides, and one overview page.

    Writes cohort.csv, cohort.parquet, measurements.parquet, cohort_dictionary.csv, agreement.json and index.html. A
    cohort.parquet serves as --reference-cohort of `openbct run` and `openbct report`.
    """
    from pipeline.cohort import collect

    if not output.is_dir():
        raise Refusal("no_such_folder", "does not exist.", subject=f"folder '{output.name}'")
    records, problems = collect(output)
    for problem in problems:
        talk.print(f"[red]{escaped(problem)}[/]", soft_wrap=True)
    if not records:
        raise Refusal("no_record", "holds no record.json one level below it.", subject=f"folder '{output.name}'")
    out_console.print(f"{len(records)} records: {output / 'cohort.csv'}", soft_wrap=True, highlight=False)
    raise typer.Exit(SOME_REFUSED if problems else ALL_DONE)


def _print_outcomes(outcomes: list[Outcome], output: Path) -> None:
    table = Table(box=None, pad_edge=False)
    for column in ("study", "status", "result", "s", "MiB"):
        table.add_column(column, overflow="fold", justify="right" if column in ("s", "MiB") else "left")
    for o in outcomes:
        status = o.status + (" (already)" if o.resumed else "")
        text = o.text if o.status == "done" else f"{o.text} ({o.reason})"
        table.add_row(o.study, status, escaped(text), f"{o.seconds:.0f}", f"{o.peak_mib:.0f}")
    out_console.print(table)
    counts = {status: sum(o.status == status for o in outcomes) for status in ("done", "refused", "failed")}
    words = ", ".join(f"{n} {status}" for status, n in counts.items() if n)
    out_console.print(f"{words}. Overview: {output / 'index.html'}", soft_wrap=True, highlight=False)


def _print_series(row: dict[str, Any]) -> None:
    """One series of `openbct inspect`: what it is, then the verdict with its reason, then what is odd about it."""
    number = "" if row["series_number"] is None else f"{row['series_number']} "
    size = " x ".join(str(n) for n in row["size"])
    spacing = " x ".join("?" if v is None else f"{v:.2f}" for v in row["spacing_mm"])
    facts = [f"kernel {row['kernel']}" if row["kernel"] else "", f"{row['kvp']:.0f} kVp" if row["kvp"] else ""]
    facts += [f"contrast {row['contrast']}" if row["contrast"] else ""]
    colour = {"refused": "yellow", "spare": "dim"}.get(row["verdict"], "green")
    out_console.print(
        f"  [{colour}]{row['verdict'] if row['verdict'] in ('refused', 'spare') else 'use for ' + row['verdict']}[/]: "
        f"{escaped(number + repr(row['description']))}  {row['modality']}  {size} at {spacing} mm  "
        + escaped("  ".join(f for f in facts if f)),
        soft_wrap=True,
        highlight=False,
    )
    out_console.print(f"      {escaped(row['reason'])} ({row['code']})", soft_wrap=True, highlight=False)
    for problem in row["problems"]:
        if problem != row["reason"]:
            out_console.print(f"      note: {escaped(problem)}", soft_wrap=True, highlight=False)


def _print_skipped(inventory: Inventory, *, everything: bool = False) -> None:
    shown = inventory.skipped if everything else inventory.skipped[:20]
    for skipped in shown:
        talk.print(
            f"skipped {escaped(skipped.name)}: {escaped(skipped.detail)} ({skipped.reason})",
            soft_wrap=True,
            highlight=False,
        )
    if len(shown) < len(inventory.skipped):
        talk.print(f"... and {len(inventory.skipped) - len(shown)} more; `openbct inspect` lists them all")


def _pinned(text: str) -> tuple[str, float]:
    name, _, height = text.partition("@")
    try:
        return name.strip().upper(), float(height)
    except ValueError:
        raise Refusal(
            "bad_level", "is not of the form L1@-220.5 (level @ LPS z in mm).", subject=f"--level {text}"
        ) from None


def _option(text: str) -> tuple[str, Any]:
    """NAME=JSON; a value that is no JSON is taken as a word."""
    name, equals, value = text.partition("=")
    if not equals or not name:
        raise Refusal("bad_option", "is not of the form NAME=VALUE.", subject=f"--set {text}")
    try:
        return name, json.loads(value)
    except json.JSONDecodeError:
        return name, value


if __name__ == "__main__":
    main()
