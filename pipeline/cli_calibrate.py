"""The command ``calibrate``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pipeline.console import ALL_DONE, SOME_REFUSED, Inputs, escaped, index_inputs, out_console, talk
from pipeline.errors import Refusal, Severity

if TYPE_CHECKING:
    from pipeline.calibrate_command import Attempt

commands = typer.Typer()


@commands.command()
def calibrate(
    inputs: Inputs,
    output: Annotated[
        Path, typer.Option("-o", "--output", help="Calibration file (JSON) of the scanner; added to if it exists.")
    ],
    phantom: Annotated[
        str | None, typer.Option(help="Name of the phantom; told from its rods if absent.", show_default=False)
    ] = None,
    certificate: Annotated[
        Path | None,
        typer.Option(help="JSON file with the phantom's own values: name, mineral, density_mg_cm3 [, water_mg_cm3]."),
    ] = None,
    rods: Annotated[
        Path | None, typer.Option(help="NIfTI label map of the rods on the grid of the scan (1 = first rod).")
    ] = None,
    valid_days: Annotated[int, typer.Option(min=1, help="After how many days the calibration expires.")] = 365,
) -> None:
    """Measure a scanner with a scan of a calibration phantom, for later scans without one.

    Each series with a phantom adds its line for that scanner, tube voltage and kernel; the drift against earlier ones is told.

    Example: openbct calibrate phantom_scan/ -o scanner.json; openbct run study/ -o out --calibration scanner.json
    """
    from pipeline.calibrate_command import calibrate_scanner, phantom_definition

    definition = phantom_definition(phantom, certificate)
    for path in (certificate, rods):
        if path is not None and not path.exists():
            raise Refusal("no_such_input", "does not exist.", subject=f"input '{path.name}'")
    attempts = calibrate_scanner(
        index_inputs(inputs, quiet=False), output, definition=definition, rods=rods, valid_days=valid_days
    )
    for attempt in attempts:
        _print_attempt(attempt)
    measured = [attempt for attempt in attempts if attempt.record is not None]
    if not measured:
        talk.print("[bold red]error:[/] no series shows a calibration phantom; nothing was written.")
    raise typer.Exit(ALL_DONE if measured else SOME_REFUSED)


def _print_attempt(attempt: Attempt) -> None:
    if attempt.record is None:
        talk.print(f"passed over: {escaped(attempt.refused or attempt.series)}", soft_wrap=True, highlight=False)
        return
    line = attempt.record
    held = " (already in the file)" if attempt.already_held else ""
    held = " (measured anew: replaces the earlier line of this scan)" if attempt.replaced else held
    scanner = f"scanner {line.device_serial_number}" if line.device_serial_number else "scanner not recorded"
    day = line.measured_on.isoformat() if line.measured_on else "date not recorded"
    out_console.print(
        f"{escaped(attempt.series)}: {escaped(line.phantom or 'phantom')}, {escaped(scanner)}, {day}, {line.kvp:.0f} kVp, "
        f"kernel {escaped(line.kernel or 'not recorded')}: "
        f"density = {line.slope_mg_cm3_per_hu:.4f} HU {line.intercept_mg_cm3:+.2f} mg/cm3 {line.mineral}{held}",
        soft_wrap=True,
        highlight=False,
    )
    for finding in attempt.findings:
        mark = "warning" if finding.severity is Severity.WARNING else "note"
        talk.print(f"  {mark}: {escaped(finding.text)}", soft_wrap=True, highlight=False)
