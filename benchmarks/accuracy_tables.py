"""Tables and figures of the accuracy benchmark: statistics of pairs of true and measured numbers, and verdicts on faults."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

VBMD = "vBMD, mg/cm3"


@dataclass(frozen=True)
class Pair:
    """A true number and what was measured of it; `measured` is None where no number was given."""

    case: str
    structure: str
    quantity: str
    true: float
    measured: float | None
    uncertainty: float | None
    factors: dict[str, Any] = field(default_factory=dict)

    @property
    def error(self) -> float:
        assert self.measured is not None
        return self.measured - self.true


@dataclass(frozen=True)
class Result:
    """What came of one case: how the study ended, pairs of numbers, named structures, grades, and what was said."""

    case: str
    status: str
    reason: str
    factors: dict[str, Any]
    pairs: list[Pair]
    misnamed: list[str]
    grades: list[tuple[int, int | None]]
    findings: list[str]


def statistics(pairs: list[Pair]) -> dict[str, float | int]:
    """Of pairs of one quantity: counts, bias, precision, limits of agreement, coverage and mean stated uncertainty."""
    errors = np.array([p.error for p in pairs if p.measured is not None])
    stated = [p for p in pairs if p.measured is not None and p.uncertainty is not None]
    row: dict[str, float | int] = {"known": len(pairs), "measured": len(errors)}
    if len(errors) == 0:
        return row
    precision = float(errors.std(ddof=1)) if len(errors) > 1 else float("nan")
    bias = float(errors.mean())
    row |= {
        "bias": bias,
        "precision": precision,
        "lower_limit": bias - 1.96 * precision,
        "upper_limit": bias + 1.96 * precision,
        "rms": float(np.sqrt((errors**2).mean())),
        "worst": float(errors[np.abs(errors).argmax()]),
    }
    if stated:
        ratio = np.array([abs(p.error) / max(p.uncertainty or 0.0, 1e-12) for p in stated])
        row |= {
            "stated_uncertainty": float(np.mean([p.uncertainty for p in stated])),
            "coverage_68": float((ratio <= 1.0).mean()),
            "coverage_95": float((ratio <= 1.96).mean()),
        }
    return row


_MOST_GROUPS = 5


def grouped(pairs: list[Pair], factor: str) -> dict[str, list[Pair]]:
    """Pairs by the value of a factor; numbers of more than `_MOST_GROUPS` values in three groups of about equal size."""
    known = [p for p in pairs if factor in p.factors]
    values = sorted({p.factors[factor] for p in known}, key=lambda value: (str(type(value)), value))
    numeric = all(isinstance(value, (int, float)) for value in values)
    if len(values) <= _MOST_GROUPS or not numeric:
        return {f"{factor} = {value}": [p for p in known if p.factors[factor] == value] for value in values}
    lower, upper = np.quantile([p.factors[factor] for p in known], (1 / 3, 2 / 3))
    bands = ((-np.inf, lower), (lower, upper), (upper, np.inf))
    groups = {}
    for low, high in bands:
        members = [p for p in known if low < p.factors[factor] <= high]
        if members:
            inside = [p.factors[factor] for p in members]
            groups[f"{factor} = {min(inside):g} to {max(inside):g}"] = members
    return groups


def summary(results: list[Result], factors: list[str]) -> dict[str, Any]:
    """Statistics of every quantity, over all and by each value of each factor; names, grades and outcomes."""
    pairs = [p for r in results for p in r.pairs]
    quantities = list(dict.fromkeys(p.quantity for p in pairs))
    table: dict[str, Any] = {}
    for quantity in quantities:
        mine = [p for p in pairs if p.quantity == quantity]
        table[quantity] = {"all": statistics(mine)}
        for factor in factors:
            groups = grouped(mine, factor)
            if len(groups) > 1:
                table[quantity] |= {name: statistics(group) for name, group in groups.items()}
    confusion = Counter((true, found) for r in results for true, found in r.grades)
    return {
        "outcomes": dict(Counter(r.status for r in results)),
        "quantities": table,
        "misnamed": [f"{r.case}: {text}" for r in results for text in r.misnamed],
        "grades": [
            {"true": true, "found": found, "count": n} for (true, found), n in sorted(confusion.items(), key=str)
        ],
    }


def report(found: dict[str, Any]) -> str:
    """The summary as tables in Markdown."""
    lines = ["studies: " + ", ".join(f"{n} {status}" for status, n in found["outcomes"].items()), ""]
    lines += [
        "| quantity | measured | bias | precision | limits of agreement | stated u | within u | within 1.96 u | worst |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for quantity, groups in found["quantities"].items():
        for group, row in groups.items():
            name = f"**{quantity}**" if group == "all" else f"{group}"
            counted = f"{row['measured']} of {row['known']}"
            if "bias" not in row:
                lines.append(f"| {name} | {counted} | | | | | | | |")
                continue
            digits = (
                3 if "g/cm2" in quantity else (2 if any(unit in quantity for unit in ("mm", "cm2", "T-score")) else 1)
            )
            number = [f"{row[key]:+.{digits}f}" for key in ("bias", "lower_limit", "upper_limit", "worst")]
            cover = (
                f"{row['stated_uncertainty']:.{digits}f} | {row['coverage_68']:.0%} | {row['coverage_95']:.0%}"
                if "coverage_68" in row
                else "| | "
            )
            lines.append(
                f"| {name} | {counted} | {number[0]} | {row['precision']:.{digits}f} | {number[1]} to {number[2]} | {cover} | "
                f"{number[3]} |"
            )
    lines += ["", f"vertebrae under a wrong name: {len(found['misnamed'])}"]
    lines += [f"- {text}" for text in found["misnamed"]]
    if found["grades"]:
        counts = {(g["true"], g["found"]): g["count"] for g in found["grades"]}
        lines += ["", "| true grade | found 0 | found 1 | found 2 | found 3 | not graded |", "| --- |" + " --- |" * 5]
        for true in range(4):
            lines.append(f"| {true} | " + " | ".join(str(counts.get((true, g), 0)) for g in (0, 1, 2, 3, None)) + " |")
    return "\n".join(lines)


NUMBERS_AGREE_MG_CM3 = 5.0
"""How far a harmless fault may move the error of a density from that in the sound study: the noise of a second reading."""


def verdict(result: Result, sound: Result | None) -> tuple[str, str]:
    """What was made of a fault, and what is to be said of that against what a careful reader makes of it.

    Returns
    -------
    found : str
        ``"refused"`` (the study was refused, or no number came out), ``"stated"`` (numbers, and something said that was not
        said of the sound study) or
        ``"usable"``.
    judgement : str
        ``"as expected"`` or what is wrong.
    """
    expected = result.factors["expect"]
    measured = [p for p in result.pairs if p.measured is not None]
    said = set(result.findings) - set(sound.findings if sound else ())
    found = "refused" if result.status == "refused" or not measured else ("stated" if said else "usable")
    if found == "refused":
        return found, "as expected" if expected == "refused" else "WITHHELD"
    if expected == "refused":
        return found, "NUMBERS OF A FATAL FAULT"
    if expected == "stated" and found == "usable":
        return found, "NOT SAID"
    before = {(p.structure, p.quantity): p for p in (sound.pairs if sound else ()) if p.measured is not None}
    densities = [p for p in result.pairs if p.quantity == VBMD and (p.structure, p.quantity) in before]
    lost = sum(p.measured is None for p in densities)
    # Errors are compared, not values: some faults are of the body itself, and then the truth differs.
    moved = [abs(p.error - before[p.structure, p.quantity].error) for p in densities if p.measured is not None]
    if expected == "usable" and lost:
        return found, f"{lost} BODIES WITHHELD"
    if expected == "usable" and moved and max(moved) > NUMBERS_AGREE_MG_CM3:
        return found, f"MOVED BY {max(moved):.0f} mg/cm3"
    return found, "as expected" if found == expected else "as expected, and said more"


def fault_table(results: list[Result]) -> str:
    """Expected against found for each fault; what is said of the sound study is left out."""
    sound = next((r for r in results if r.factors.get("fault") == "sound"), None)
    usual = set(sound.findings) if sound else set()
    lines = [
        "| fault | expected | found | judgement | how it ended | said | largest error of vBMD, mg/cm3 |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    judged: Counter[bool] = Counter()
    for r in results:
        errors = [abs(p.error) for p in r.pairs if p.quantity == VBMD and p.measured is not None]
        worst = f"{max(errors):.0f}" if errors else ""
        outcome = r.status + (f" ({r.reason})" if r.reason else "")
        said = ", ".join(code for code in r.findings if code not in usual)
        found, judgement = verdict(r, sound)
        judged[judgement.startswith("as expected")] += 1
        lines.append(
            f"| {r.factors['text']} | {r.factors['expect']} | {found} | {judgement} | {outcome} | {said} | {worst} |"
        )
    return "\n".join([*lines, "", f"{judged[True]} of {len(results)} as expected, {judged[False]} not"])


def draw(results: list[Result], path: Path) -> None:
    """Error over truth for each quantity, with the limits of agreement and the stated uncertainties."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    pairs = [p for r in results for p in r.pairs if p.measured is not None]
    quantities = list(dict.fromkeys(p.quantity for p in pairs))
    if not quantities:
        return
    columns = min(len(quantities), 3)
    rows = -(-len(quantities) // columns)
    figure = Figure(figsize=(4.6 * columns, 3.4 * rows), dpi=80, facecolor="white")
    FigureCanvasAgg(figure)
    for number, quantity in enumerate(quantities, start=1):
        mine = [p for p in pairs if p.quantity == quantity]
        row = statistics(mine)
        axes = figure.add_subplot(rows, columns, number)
        axes.errorbar(
            [p.true for p in mine], [p.error for p in mine], yerr=[p.uncertainty or 0.0 for p in mine],
            fmt="o", markersize=3, linewidth=0.6, color="tab:blue", ecolor="0.75",
        )  # fmt: skip
        for key, style in (("bias", "-"), ("lower_limit", "--"), ("upper_limit", "--")):
            axes.axhline(row[key], linestyle=style, color="tab:red", linewidth=1)
        axes.axhline(0.0, color="0.4", linewidth=0.6)
        cover = (
            f"; {row['coverage_68']:.0%} within u, {row['coverage_95']:.0%} within 1.96 u"
            if "coverage_68" in row
            else ""
        )
        axes.set_title(f"{quantity}\nn = {row['measured']}{cover}", fontsize=8)
        axes.set_xlabel("true", fontsize=8)
        axes.set_ylabel("measured - true", fontsize=8)
        axes.tick_params(labelsize=7)
    figure.tight_layout()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)
