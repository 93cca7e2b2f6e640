"""The two ways in which the pipeline says no, and the findings that travel with a result.

A refusal always carries a machine-readable reason (so a cohort table can count them), what it is about, what is wrong,
and what the user can do. No refusal text holds patient data.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Refusal(Exception):
    """Something cannot be used or measured; the message is one sentence for the user.

    Parameters
    ----------
    reason : str
        Machine-readable code in snake_case, for example ``missing_slices``.
    detail : str
        What is wrong, with the value that was found.
    subject : str
        Which file, series or structure.
    remedy : str, optional
        What the user can do about it.
    """

    def __init__(self, reason: str, detail: str, *, subject: str, remedy: str | None = None) -> None:
        self.reason = reason
        self.detail = detail
        self.subject = subject
        self.remedy = remedy
        super().__init__(f"{subject}: {detail}" + (f" {remedy}" if remedy else ""))

    def __reduce__(self) -> tuple[object, ...]:
        return (_rebuild, (type(self), self.reason, self.detail, self.subject, self.remedy))


def _rebuild(kind: type[Refusal], reason: str, detail: str, subject: str, remedy: str | None) -> Refusal:
    return kind(reason, detail, subject=subject, remedy=remedy)


class InputRefused(Refusal):
    """A file, series or study cannot be used."""


class NotMeasurable(Refusal):
    """A structure is there but a quantity cannot be computed honestly from it."""


class Severity(StrEnum):
    """How much a finding matters: `failure` means that the number it concerns is withheld."""

    INFO = "info"
    WARNING = "warning"
    FAILURE = "failure"


class Status(StrEnum):
    """The end state of a structure, as it stands in the record."""

    OK = "ok"
    WARNING = "warning"
    FAILED = "failed"
    ABSENT = "absent"


@dataclass(frozen=True, slots=True)
class Finding:
    """One observation about the input or a structure that the reader of the report must see.

    Attributes
    ----------
    code : str
        Machine-readable reason in snake_case, stable across versions.
    severity : Severity
    text : str
        One sentence for a radiologist, with the measured value.
    """

    code: str
    severity: Severity
    text: str


def status_of(findings: tuple[Finding, ...] | list[Finding]) -> Status:
    """`failed` if any finding is a failure, `warning` if any is a warning, else `ok`."""
    severities = {finding.severity for finding in findings}
    if Severity.FAILURE in severities:
        return Status.FAILED
    return Status.WARNING if Severity.WARNING in severities else Status.OK
