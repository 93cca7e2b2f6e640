"""Published classes of hip T-scores, as printed beside each score, and the fracture grade that counts as a fracture.

The class of a whole study is decided by the pipeline and stands in the record; these are for single rows of a table.
"""

from __future__ import annotations

from typing import Literal

from reports.quantity import Quantity, resolution
from reports.record import Vertebra

DensityClass = Literal["normal", "low", "osteoporosis_range"]

T_OSTEOPOROSIS = -2.5
T_NORMAL = -1.0
"""WHO 1994, confirmed by ISCD 2019: at most -2.5 osteoporosis range, at least -1.0 normal."""

FRACTURE_GRADE = 2
"""Genant grade from which a deformity is reported as a fracture; grade 1 by height alone is too unspecific (positive predictive
value below one in five in outpatients) and goes to a reader as possible."""


UNSURE_GRADE_CODES = frozenset({"thick_slices", "thick_slices_heights", "outline_unstable"})
"""Findings of a body with which no grade is called a fracture: its heights come from thick slices, or from an outline that
moves when the analysis is repeated. The pipeline's rule for a fracture leaves out the same bodies."""


def grade_needs_reader(vertebra: Vertebra) -> bool:
    """Whether a grade of this body is only a hint, for a reader to confirm."""
    return any(finding.code in UNSURE_GRADE_CODES for finding in vertebra.findings)


def t_score_class(score: Quantity) -> DensityClass:
    """WHO class of a hip T-score, read from the score as printed, so that number and class cannot contradict each other."""
    step = float(resolution(score))
    printed = round(score.value / step) * step
    tolerance = 1e-6 * step
    if printed <= T_OSTEOPOROSIS + tolerance:
        return "osteoporosis_range"
    return "normal" if printed >= T_NORMAL - tolerance else "low"
