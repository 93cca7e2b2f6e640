"""The work of ``openbct calibrate``: lines from scans of a phantom into the calibration file of a scanner."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from pipeline.density import calibration_file, scanner
from pipeline.density.calibration_file import CalibrationRecord
from pipeline.density.given_phantom import named_phantom, read_certificate
from pipeline.density.rods import PhantomDefinition
from pipeline.errors import Finding, InputRefused, Refusal
from pipeline.ingest import Inventory, Stack, load_volume


@dataclass(frozen=True)
class Attempt:
    """What became of one series: its record, or why there is none; what is to be known about it."""

    series: str
    record: CalibrationRecord | None
    already_held: bool = False
    replaced: bool = False
    refused: str | None = None
    findings: tuple[Finding, ...] = ()


def phantom_definition(phantom: str | None, certificate: Path | None) -> PhantomDefinition | None:
    """The phantom that the user names, by its certificate or by a name of the tables.

    Raises
    ------
    InputRefused
        As `given_phantom.read_certificate` and `given_phantom.named_phantom`; ``phantom_named_twice`` if both are given.
    """
    if phantom is not None and certificate is not None:
        detail = "both a name and a certificate were given."
        raise InputRefused("phantom_named_twice", detail, subject="calibration phantom", remedy="Give one of them.")
    if certificate is not None:
        return read_certificate(certificate)
    return None if phantom is None else named_phantom(phantom)


def calibrate_scanner(
    inventory: Inventory,
    output: Path,
    *,
    definition: PhantomDefinition | None = None,
    rods: Path | None = None,
    valid_days: int = 365,
) -> list[Attempt]:
    """Add the line of every series in which a phantom is found to a calibration file, which is made if absent.

    A series that is already in the file is not entered twice: measured anew with another certificate, mask or expiry it takes
    the place of the earlier one. Everything else in the file stays, whatever goes wrong.

    Raises
    ------
    InputRefused
        ``calibration_unreadable`` if the file exists and is none.
    """
    held = _records_in(output)
    attempts = [_attempt(stack, held, definition, rods, valid_days) for stack in _stacks(inventory)]
    if any(attempt.record is not None and not attempt.already_held for attempt in attempts):
        output.parent.mkdir(parents=True, exist_ok=True)
        calibration_file.write(output, held)
    return attempts


def _records_in(output: Path) -> list[CalibrationRecord]:
    """What the file already holds; a file that is something else is not written over."""
    if not output.exists():
        return []
    try:
        return list(calibration_file.read(output))
    except InputRefused as refusal:
        remedy = "It is there already and was left alone; give -o another name."
        raise InputRefused(refusal.reason, refusal.detail, subject=output.name, remedy=remedy) from refusal


def _attempt(
    stack: Stack,
    held: list[CalibrationRecord],
    definition: PhantomDefinition | None,
    rods: Path | None,
    valid_days: int,
) -> Attempt:
    """Measure one series; its record is added to `held`."""
    try:
        volume = load_volume(stack)
        record, line = scanner.calibrate_scanner(volume, definition=definition, rods=rods, valid_days=valid_days)
    except Refusal as refusal:
        return Attempt(stack.name, None, refused=str(refusal))
    findings = (*volume.findings, *line.findings)
    earlier = [one for one in held if _same_scan(one, record)]
    if record in earlier:
        return Attempt(stack.name, record, already_held=True, findings=findings)
    for one in earlier:
        held.remove(one)
    held.append(record)
    same_setting = calibration_file.drift_findings([*(one for one in held if one is not record), record])
    return Attempt(stack.name, record, replaced=bool(earlier), findings=(*findings, *same_setting))


def _same_scan(one: CalibrationRecord, other: CalibrationRecord) -> bool:
    """Whether two records were measured in the same images of the same scanner."""
    return (
        one.content_sha256 is not None
        and one.content_sha256 == other.content_sha256
        and one.device_serial_number == other.device_serial_number
        and one.kvp == other.kvp
    )


def _stacks(inventory: Inventory) -> list[Stack]:
    return [stack for study in inventory.studies for stack in study.stacks]
