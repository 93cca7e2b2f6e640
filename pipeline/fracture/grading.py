"""Deformity and Genant grade of vertebral bodies from their heights, their level's norm and their neighbours."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy.stats import norm as normal

from pipeline.errors import Finding, NotMeasurable, Severity, Status, status_of
from pipeline.fracture import norms
from pipeline.fracture.endplates import read_endplates
from pipeline.fracture.heights import POSITIONS, BodyHeights, measure_heights
from pipeline.segmentation.model import LEVELS, Segmentation, Vertebra
from pipeline.volume import Volume
from reports.quantity import Quantity

DEFORMITIES = ("none", "wedge", "biconcave", "crush")
_METHOD = "six-point morphometry on a 5 mm mid-sagittal slab in the body's own frame"
_METHOD_REFERENCE = "docs/methods.md, section 4 (points and patches of this program)"
_THICK_SLICE_MM = 3.0
_ROUNDING_MM = 0.01
_NEIGHBOURS = 3
_ASYMMETRY = 0.15
# A Schmorl node does not reach a quarter of the width to the side; of a biconcave fracture about half the depth is left there.
_CORROBORATION_SHARE = 0.35
_SCHEUERMANN_DEG = 5.0


@dataclass(frozen=True)
class VertebraShape:
    """Shape of one body.

    Attributes
    ----------
    name : str
    level : str or None
    heights_mm : dict of str to Quantity or None
        ``anterior``, ``middle``, ``posterior``; None when they could not be measured, and a finding says why.
    ratios : dict of str to Quantity
        ``anterior_posterior``, ``middle_posterior`` and, where neighbours allow, ``posterior_expected``.
    wedge_deg : Quantity or None
        Angle between the endplates, positive when the front is lower.
    height_loss : Quantity or None
        Largest of wedge, biconcave and crush loss after division by the norm; a fraction.
    losses : dict of str to float
        Each of the three.
    deformity : str or None
        One of `DEFORMITIES`; which height is reduced most, ``none`` below 20 % loss. None without a grade.
    genant_grade : int or None
        0 to 3. Grade 1 means "possible, reader to confirm": 20 to 25 % loss, or more that only the midline shows.
        None if heights could not be measured, or if the slices are too thick for a grade.
    flagged : bool
        True from 25 % loss on (grade 2 and 3). In slices too thick for a grade it is a suspicion, for which density and
        strength are withheld.
    grade_probabilities : dict of int to float
        From the uncertainty of heights and norm; empty without a grade.
    norms : dict of str to str
        Which norm each loss was compared with.
    points_lps_mm : float ndarray of shape (2, 3, 3) or None
        The six points, for a picture: upper then lower face, anterior to posterior, LPS.
    findings : tuple of Finding
    """

    name: str
    level: str | None
    heights_mm: dict[str, Quantity] | None
    ratios: dict[str, Quantity]
    wedge_deg: Quantity | None
    height_loss: Quantity | None
    losses: dict[str, float]
    deformity: str | None
    genant_grade: int | None
    flagged: bool
    grade_probabilities: dict[int, float]
    norms: dict[str, str]
    points_lps_mm: NDArray[np.float64] | None
    findings: tuple[Finding, ...]

    @property
    def status(self) -> Status:
        return status_of(self.findings)


@dataclass(frozen=True)
class _Expected:
    """A normal value with its relative spread and where it comes from."""

    value: float
    relative_sd: float
    source: str
    verified: bool


def grade_vertebrae(
    volume: Volume, segmentation: Segmentation, *, sex: str | None = None, threads: int | None = None
) -> dict[str, VertebraShape]:
    """Measure and grade all bodies of a segmentation.

    Parameters
    ----------
    volume : Volume
        Its image tells where the middle of each endplate lies, in slices of 2.5 mm or less.
    segmentation : Segmentation
        Bodies with `surface` are measured between voxels; for others the faces of the mask are used, and the image is not.
    sex : str, optional
        ``"F"`` or ``"M"``; otherwise the mean of the norms of women and men.
    threads : int, optional

    Returns
    -------
    dict of str to VertebraShape
        By structure name. A body that cannot be measured has `heights_mm` None and a finding of severity failure; one in
        slices too thick for a grade has heights, no grade, and the failure ``thick_slices_no_grade``.

    Notes
    -----
    Loss is ``1 - ratio / norm``. Anterior / posterior: norm by level and sex (T9 to L5), else the median of the patient's own
    neighbours. Middle / posterior: the concavity (middle over the mean of anterior and posterior) of the patient's own
    neighbours, on a body wedged as the level is. Posterior: against the trend of the neighbours.
    """
    heights: dict[str, BodyHeights] = {}
    shapes: dict[str, VertebraShape] = {}
    readings = read_endplates(volume, segmentation.vertebrae, threads=threads)
    for vertebra in segmentation.vertebrae:
        try:
            heights[vertebra.name] = measure_heights(segmentation, vertebra, readings)
        except NotMeasurable as refusal:
            shapes[vertebra.name] = _unmeasured(vertebra, refusal)
    measured = [v for v in segmentation.vertebrae if v.name in heights]
    order = _order(segmentation.vertebrae)
    first = {v.name: _losses(v, measured, heights, order, sex, intact=None) for v in measured}
    limit = norms.grade_limits().possible_from
    intact = {name for name, losses in first.items() if max(loss.value for loss in losses.values()) < limit}
    for vertebra in measured:
        losses = _losses(vertebra, measured, heights, order, sex, intact=intact)
        shapes[vertebra.name] = _shape(vertebra, heights[vertebra.name], losses, volume, sex)
    found = {v.name: shapes[v.name] for v in segmentation.vertebrae}
    return _with_spine_findings(found, order)


@dataclass(frozen=True)
class _Loss:
    """One of the three losses with its uncertainty, the measured ratio and the norm used."""

    value: float
    sd: float
    ratio: float
    ratio_sd: float
    norm: _Expected


def _order(vertebrae: tuple[Vertebra, ...]) -> dict[str, float]:
    """Position of each body along the spine in levels; bodies without a level count on from their neighbour."""
    order: dict[str, float] = {}
    previous = -1.0
    for vertebra in vertebrae:
        previous = float(LEVELS.index(vertebra.level)) if vertebra.level in LEVELS else previous + 1.0
        order[vertebra.name] = previous
    return order


def _losses(
    vertebra: Vertebra,
    measured: list[Vertebra],
    heights: dict[str, BodyHeights],
    order: dict[str, float],
    sex: str | None,
    intact: set[str] | None,
) -> dict[str, _Loss]:
    """Wedge, biconcave and crush loss of one body; `intact` names the bodies that may serve as neighbours (None: all)."""
    slab = heights[vertebra.name].middle
    (anterior, middle, posterior), (sd_a, sd_m, sd_p) = slab.heights_mm, slab.uncertainty_mm
    others = [v for v in measured if v.name != vertebra.name and (intact is None or v.name in intact)]
    near = [v for v in others if abs(order[v.name] - order[vertebra.name]) <= _NEIGHBOURS]
    wedge = _wedge_norm(vertebra, near, heights, sex)
    losses = {
        "wedge": _loss(anterior, sd_a, posterior, sd_p, wedge),
        "biconcave": _loss(middle, sd_m, posterior, sd_p, _middle_norm(near, heights, vertebra, wedge)),
    }
    expected = _expected_posterior(vertebra, near, heights, order)
    if expected is not None:
        ratio = posterior / expected.value
        sd = ratio * float(np.hypot(sd_p / posterior, expected.relative_sd))
        losses["crush"] = _Loss(1.0 - ratio, sd, ratio, ratio * sd_p / posterior, expected)
    return losses


def _loss(part: float, part_sd: float, whole: float, whole_sd: float, norm: _Expected) -> _Loss:
    ratio = part / whole
    measured = float(np.hypot(part_sd / part, whole_sd / whole))
    total = ratio / norm.value * float(np.hypot(measured, norm.relative_sd))
    return _Loss(1.0 - ratio / norm.value, total, ratio, ratio * measured, norm)


def _own_median(near: list[Vertebra], heights: dict[str, BodyHeights], part: int) -> _Expected | None:
    """Median ratio of the patient's own neighbouring bodies; None with fewer than two."""
    ratios = [float(heights[v.name].middle.heights_mm[part] / heights[v.name].middle.heights_mm[2]) for v in near]
    if len(ratios) < 2:
        return None
    text = f"median of {len(ratios)} neighbouring bodies of the same patient"
    return _Expected(float(np.median(ratios)), norms.ratio_sd(), text, True)


def _wedge_norm(
    vertebra: Vertebra, near: list[Vertebra], heights: dict[str, BodyHeights], sex: str | None
) -> _Expected:
    table = norms.anterior_to_posterior(vertebra.level, sex)
    if table is not None:
        return _Expected(table.value, table.sd, table.source, table.verified)
    own = _own_median(near, heights, 0)
    if own is not None:
        return own
    fallback = norms.anterior_to_posterior("T9", sex)
    if vertebra.level is None or fallback is None:
        return _Expected(1.0, 2 * norms.ratio_sd(), "equal heights, for want of level and neighbours", False)
    return _Expected(fallback.value, 2 * norms.ratio_sd(), "norm of T9, for want of one for this level", False)


def _middle_norm(
    near: list[Vertebra], heights: dict[str, BodyHeights], vertebra: Vertebra, wedge: _Expected
) -> _Expected:
    """Middle over posterior height: the concavity of the patient's own neighbours on a body wedged as this level is.

    Concavity changes little along the spine, wedging much (L5 is a fifth higher in front than behind), so that the
    neighbours' ratios cannot be taken over as they are.
    """
    shares = []
    for other in near:
        anterior, middle, posterior = heights[other.name].middle.heights_mm
        shares.append(float(middle / (0.5 * (anterior + posterior))))
    concavity = float(np.median(shares)) if len(shares) >= 2 else 0.0
    if 0.8 <= concavity <= 1.05:
        text = f"concavity of {len(shares)} neighbouring bodies of the same patient, wedged as this level is"
        return _Expected(concavity * 0.5 * (1.0 + wedge.value), norms.ratio_sd(), text, wedge.verified)
    table = norms.middle_to_posterior(vertebra.level)
    return _Expected(table.value, table.sd, table.source, table.verified)


def _expected_posterior(
    vertebra: Vertebra, near: list[Vertebra], heights: dict[str, BodyHeights], order: dict[str, float]
) -> _Expected | None:
    """Posterior height that the neighbours let expect: their linear trend along the spine, L5 apart; None without two."""
    if len(near) < 2:
        return None
    share = norms.fifth_lumbar_posterior_share()
    position = np.array([order[v.name] for v in near])
    height = np.array([heights[v.name].middle.heights_mm[2] / (share if v.level == "L5" else 1.0) for v in near])
    here = order[vertebra.name]
    between = position.min() < here < position.max()
    if len(near) >= 3 and np.ptp(position) >= 2:
        slope = float(np.clip(np.polyfit(position, height, 1)[0], 0.0, 2.0))
        value = float(np.mean(height - slope * position)) + slope * here
    else:
        value = float(height.mean())
    if vertebra.level == "L5":
        value *= share
    spread = norms.ratio_sd() if between else 1.5 * norms.ratio_sd()
    return _Expected(value, spread, f"trend of {len(near)} neighbouring bodies of the same patient", between)


def _shape(
    vertebra: Vertebra, body: BodyHeights, losses: dict[str, _Loss], volume: Volume, sex: str | None
) -> VertebraShape:
    slab = body.middle
    limits = norms.grade_limits()
    kind = max(losses, key=lambda name: losses[name].value)
    worst = losses[kind]
    grade = _grade(worst.value)
    corroborated = _corroborated(body, kind, worst)
    if not corroborated:
        grade = min(grade, 1)
    no_grade = _no_grade(vertebra, volume)
    findings = _shape_findings(vertebra, body, losses, kind, grade if no_grade is None else 0, volume, sex)
    if no_grade is not None:
        findings = (*findings, no_grade)
    elif not corroborated and worst.value >= limits.flag_from:
        text = (
            f"{vertebra.name}: the {kind} loss of {100 * worst.value:.0f} % at the midline is not "
            f"seen a quarter of the width to either "
            "side: a local depression (Schmorl's node) or a slip of the segmentation; not flagged."
        )
        findings = (*findings, Finding("deformity_not_corroborated", Severity.WARNING, text))
    reference = limits.source
    return VertebraShape(
        name=vertebra.name,
        level=vertebra.level,
        heights_mm={
            position: Quantity(
                value=float(slab.heights_mm[i]),
                unit="mm",
                uncertainty=float(slab.uncertainty_mm[i]),
                method=_METHOD,
                reference=_METHOD_REFERENCE,
                components={"endplate_location": float(slab.uncertainty_mm[i])},
            )
            for i, position in enumerate(POSITIONS)
        },
        ratios={
            {"wedge": "anterior_posterior", "biconcave": "middle_posterior", "crush": "posterior_expected"}[
                name
            ]: Quantity(
                value=loss.ratio, unit="1", uncertainty=loss.ratio_sd, method=_METHOD, reference=loss.norm.source
            )
            for name, loss in losses.items()
        },
        wedge_deg=Quantity(
            value=slab.wedge_deg,
            unit="deg",
            uncertainty=float(
                np.degrees(np.hypot(slab.uncertainty_mm[0], slab.uncertainty_mm[2]))
                / (slab.posterior_mm[2] - slab.posterior_mm[0])
            ),
            method="angle between the endplates at the midline",
            reference=_METHOD_REFERENCE,
        ),
        height_loss=Quantity(
            value=worst.value,
            unit="1",
            uncertainty=worst.sd,
            method=f"{kind}: 1 - ratio / norm; norm {worst.norm.value:.2f}, {worst.norm.source}",
            reference=reference,
            components={
                "heights": worst.ratio_sd / (worst.norm.value if kind != "crush" else 1.0),
                "norm": (1.0 - worst.value) * worst.norm.relative_sd,
            },
        ),
        losses={name: loss.value for name, loss in losses.items()},
        deformity=None if no_grade is not None else kind if grade > 0 else "none",
        genant_grade=grade if no_grade is None else None,
        flagged=grade >= 2,
        grade_probabilities=_grade_probabilities(worst.value, worst.sd) if no_grade is None else {},
        norms={name: f"{loss.norm.value:.3g}: {loss.norm.source}" for name, loss in losses.items()},
        points_lps_mm=np.stack([slab.upper_lps_mm, slab.lower_lps_mm]),
        findings=findings,
    )


def _no_grade(vertebra: Vertebra, volume: Volume) -> Finding | None:
    """Why the voxels are too coarse along the axis of a body for its grade; None if they are not."""
    along_axis = volume.grid.axes_lps @ vertebra.frame.superior
    # Width of the voxel, taken as an ellipsoid, along the axis: for voxels with equal edges that edge in any direction.
    width_mm = float(np.linalg.norm(along_axis * np.array(volume.spacing_mm)))
    if width_mm <= _THICK_SLICE_MM + _ROUNDING_MM:
        return None
    text = f"{vertebra.name}: voxels are {width_mm:.1f} mm high along its axis; a grade needs 3 mm or less."
    return Finding("thick_slices_no_grade", Severity.FAILURE, text)


def _corroborated(body: BodyHeights, kind: str, worst: _Loss) -> bool:
    """Whether a parasagittal slab shows at least a third of a loss; without any such slab the midline has to do."""
    sides = [side for side in (body.left, body.right) if side is not None]
    if not sides:
        return True
    part = {"wedge": 0, "biconcave": 1, "crush": 2}[kind]
    for side in sides:
        whole = body.middle.heights_mm[2] / worst.ratio if kind == "crush" else side.heights_mm[2]
        norm = 1.0 if kind == "crush" else worst.norm.value
        if 1.0 - float(side.heights_mm[part] / whole) / norm >= _CORROBORATION_SHARE * worst.value:
            return True
    return False


def _grade(loss: float) -> int:
    limits = norms.grade_limits()
    return int(np.searchsorted((limits.possible_from, limits.flag_from, limits.severe_from), loss, side="right"))


def _grade_probabilities(loss: float, sd: float) -> dict[int, float]:
    limits = norms.grade_limits()
    edges = np.array([-np.inf, limits.possible_from, limits.flag_from, limits.severe_from, np.inf])
    below = normal.cdf(edges, loc=loss, scale=max(sd, 1e-9))
    return {grade: float(p) for grade, p in enumerate(np.diff(below))}


def _shape_findings(
    vertebra: Vertebra,
    body: BodyHeights,
    losses: dict[str, _Loss],
    kind: str,
    grade: int,
    volume: Volume,
    sex: str | None,
) -> tuple[Finding, ...]:
    findings = []
    worst = losses[kind]
    loss = f"{vertebra.name}: {kind} height loss {100 * worst.value:.0f} % (±{100 * worst.sd:.0f} %)"
    if grade >= 2:
        text = f"{loss}: deformity of grade {grade}; a reader must tell fracture from other causes."
        findings.append(Finding("vertebral_deformity", Severity.WARNING, text))
    elif grade == 1:
        text = f"{loss}: possible mild deformity, reader to confirm ({norms.performance_text()})."
        findings.append(Finding("possible_deformity", Severity.WARNING, text))
    if grade >= 1 and not worst.norm.verified:
        text = f"{vertebra.name}: the norm it was compared with is not verified ({worst.norm.source})."
        findings.append(Finding("norm_unverified", Severity.WARNING, text))
    if volume.spacing_mm[0] > _THICK_SLICE_MM + _ROUNDING_MM:
        text = (
            f"{vertebra.name}: slices are {volume.spacing_mm[0]:.1f} mm apart; heights are for "
            f"orientation (3 mm or less needed)."
        )
        findings.append(Finding("thick_slices_heights", Severity.WARNING, text))
    if vertebra.level is None:
        text = f"{vertebra.name}: its level is not certain, so it is compared with its neighbours only."
        findings.append(Finding("level_unknown_norm", Severity.INFO, text))
    elif sex not in ("F", "M"):
        text = f"{vertebra.name}: sex unknown; compared with the mean of the norms of women and men."
        findings.append(Finding("sex_unknown_norm", Severity.INFO, text))
    if body.left is not None and body.right is not None:
        left, right = float(body.left.heights_mm.mean()), float(body.right.heights_mm.mean())
        if abs(left - right) > _ASYMMETRY * max(left, right):
            text = (
                f"{vertebra.name}: left and right heights differ ({left:.1f} and {right:.1f} mm): "
                f"scoliosis or lateral collapse."
            )
            findings.append(Finding("lateral_asymmetry", Severity.WARNING, text))
    return tuple(findings)


def _unmeasured(vertebra: Vertebra, refusal: NotMeasurable) -> VertebraShape:
    finding = Finding(refusal.reason, Severity.FAILURE, str(refusal))
    return VertebraShape(
        vertebra.name, vertebra.level, None, {}, None, None, {}, None, None, False, {}, {}, None, (finding,)
    )


def _with_spine_findings(shapes: dict[str, VertebraShape], order: dict[str, float]) -> dict[str, VertebraShape]:
    """Add what only several levels together show: three wedged neighbours suggest Scheuermann's disease."""
    thoracic = [
        s
        for s in shapes.values()
        if s.wedge_deg is not None and s.wedge_deg.value > _SCHEUERMANN_DEG and (s.level or "").startswith("T")
    ]
    positions = {order[s.name] for s in thoracic}
    result = dict(shapes)
    for shape in thoracic:
        here = order[shape.name]
        runs = [{here + shift + i for i in range(3)} for shift in (-2, -1, 0)]
        if shape.genant_grade and any(run <= positions for run in runs):
            text = (
                f"{shape.name}: three or more neighbours are wedged by more than {_SCHEUERMANN_DEG:.0f} degrees; consider "
                "Scheuermann's disease before fracture."
            )
            more = Finding("scheuermann_pattern", Severity.INFO, text)
            result[shape.name] = replace(shape, findings=(*shape.findings, more))
    return result
