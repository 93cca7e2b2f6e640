"""The parts of the uncertainty of a vertebral density, each against what is observed of it on digital patients.

    python -m benchmarks.density_parts [--people N] [--slices 1.25 2.5 5] [--lattices 2] [--noises 2] [--json FILE]

People differ in sex, age, spine, kernel and dose. Each is imaged on several lattices that lie a random part of a voxel apart,
each image gets several draws of noise, and every one is outlined anew by the chain. Because the image without noise is known,
the error of a body's HU falls into three parts that add up:

    region      mean of the noise-free image in the peeled region that was found, less the true peeled mean
    exclusion   what leaving places out changes in it
    noise       mean of the noise alone in the voxels that were kept

Stated parts are root mean squares over bodies. `place and exclusion` sets `boundary` and `exclusion` together beside the
error without noise, because leaving out bright places makes up for a region that comes near the cortex.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from phantoms.image import form_image, noise_hu
from phantoms.kinds import make_phantom
from phantoms.truth import VertebraTruth
from phantoms.voxelise import Lattice
from pipeline.density.body import body_voxels
from pipeline.density.calibration_value import Calibration
from pipeline.density.vertebra import VertebraDensity, measure_vertebra, peeled_region
from pipeline.errors import NotMeasurable
from pipeline.segmentation.chain import segment
from pipeline.segmentation.model import Segmentation, Vertebra
from pipeline.volume import Acquisition, Grid, Volume

KVP = 120.0
PEOPLE: tuple[tuple[dict[str, Any], str, float], ...] = (
    ({"sex": "F", "age_years": 50}, "standard", 1.0),
    ({"sex": "M", "age_years": 60}, "sharp", 1.0),
    ({"sex": "F", "age_years": 82}, "standard", 0.4),
    ({"sex": "F", "age_years": 72, "scoliosis_deg": 18.0}, "soft", 1.0),
    ({"sex": "F", "age_years": 66}, "soft", 0.5),
    ({"sex": "M", "age_years": 80}, "standard", 1.0),
)
"""Options of the phantom, kernel, and dose."""
_SAME_PLACE_MM = 10.0
_GUESSED = "disc_not_visible"


@dataclass(frozen=True)
class Reading:
    """One body in one image: the parts of its error in HU, and what was stated."""

    slice_mm: float
    guessed: bool
    region: float
    exclusion: float
    noise: float
    stated: dict[str, float]

    @property
    def error(self) -> float:
        return self.region + self.exclusion + self.noise


def readings(person: int, slice_mm: float, lattices: int, noises: int) -> Iterator[Reading]:
    """All bodies of a person on every lattice with every draw of noise."""
    options, kernel, dose = PEOPLE[person]
    phantom = make_phantom("spine", seed=person + 1, top_level="T11", **options)
    pixel_mm = 0.7 if slice_mm < 2 else 0.85
    first = phantom.lattice(pixel_mm=pixel_mm, spacing_mm=slice_mm)
    rng = np.random.default_rng(person)
    for number in range(lattices):
        matrix = first.index_to_lps.copy()
        matrix[:3, 3] += matrix[:3, :3] @ (rng.random(3) if number else np.zeros(3))
        lattice = Lattice(first.shape, matrix)
        image = phantom.image(KVP, slice_mm=slice_mm, lattice=lattice, dose=0.0, kernel=kernel)
        truth = phantom.truth(image)
        line = Calibration(
            1 / truth.hu_per_mg_cm3, 0.0, "K2HPO4", np.zeros((2, 2)), 0.0, "given", "given", KVP, "truth"
        )
        clean = image.hu.astype(np.float32)
        grid = Grid(image.hu.shape, lattice.index_to_lps)
        for draw in range(noises):
            noise = form_image(
                np.zeros_like(clean), lattice.spacing_mm, kernel=kernel,
                sigma_hu=noise_hu(dose, KVP, slice_mm, kernel), seed=1000 * person + 10 * number + draw,
            )  # fmt: skip
            volume = Volume(clean + noise, grid, Acquisition(kvp=KVP))
            outlined = segment(volume, hips=False)
            for true in truth.vertebrae:
                body = _at(outlined, true)
                if body is None or not true.complete or true.peeled_hu is None:
                    continue
                try:
                    found = measure_vertebra(volume, outlined, body, line, fracture_grade=0)
                except NotMeasurable:
                    continue
                yield _reading(slice_mm, volume, outlined, body, found, clean, true.peeled_hu)


def _at(outlined: Segmentation, true: VertebraTruth) -> Vertebra | None:
    """The body that was found where a true one is."""
    place = np.array(true.centre_lps_mm)
    near = [(float(np.linalg.norm(v.frame.centre_lps_mm - place)), v) for v in outlined.vertebrae]
    distance, body = min(near, key=lambda pair: pair[0], default=(np.inf, None))
    return body if distance < _SAME_PLACE_MM else None


def _reading(
    slice_mm: float,
    volume: Volume,
    outlined: Segmentation,
    body: Vertebra,
    found: VertebraDensity,
    clean: np.ndarray,
    true_hu: float,
) -> Reading:
    voxels = body_voxels(volume, outlined, body)
    region = voxels.index[peeled_region(voxels, volume.spacing_mm)]
    of_region, of_kept = (float(clean[tuple(index.T)].mean(dtype=float)) for index in (region, found.peeled_index))
    return Reading(
        slice_mm,
        any(f.code == _GUESSED for f in body.findings),
        of_region - true_hu,
        of_kept - of_region,
        found.trabecular_hu.value - of_kept,
        dict(found.trabecular_hu.components),
    )


def _rms(values: list[float]) -> float:
    return float(np.sqrt(np.mean(np.square(values)))) if values else float("nan")


def table(found: list[Reading]) -> list[dict[str, Any]]:
    """A row per slice thickness, bodies with a guessed endplate apart."""
    rows = []
    for slice_mm, guessed in sorted({(r.slice_mm, r.guessed) for r in found}):
        mine = [r for r in found if (r.slice_mm, r.guessed) == (slice_mm, guessed)]
        total = [float(np.linalg.norm(list(r.stated.values()))) for r in mine]
        errors = [r.error for r in mine]
        rows.append(
            {
                "slices": f"{slice_mm:g} mm" + (", guessed endplate" if guessed else ""),
                "bodies": len(mine),
                "noise_stated": _rms([r.stated["noise"] for r in mine]),
                "noise_observed": _rms([r.noise for r in mine]),
                "region_bias": float(np.mean([r.region for r in mine])),
                "exclusion_bias": float(np.mean([r.exclusion for r in mine])),
                "boundary_stated": _rms([r.stated["boundary"] for r in mine]),
                "place_observed": float(np.std([r.region + r.exclusion for r in mine])),
                "exclusion_stated": _rms([r.stated["exclusion"] for r in mine]),
                "all_stated": _rms(total),
                "bias": float(np.mean(errors)),
                "all_observed": _rms(errors),
                "within_u": float(np.mean(np.abs(errors) <= total)),
                "within_1.96u": float(np.mean(np.abs(errors) <= 1.96 * np.array(total))),
            }
        )
    return rows


def main(arguments: list[str] | None = None) -> int:
    """Measure, print the table, write what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--people", type=int, default=len(PEOPLE), choices=range(1, len(PEOPLE) + 1))
    parser.add_argument("--slices", type=float, nargs="+", default=[1.25, 2.5, 5.0])
    parser.add_argument("--lattices", type=int, default=2)
    parser.add_argument("--noises", type=int, default=2)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args(arguments)
    found: list[Reading] = []
    for slice_mm in options.slices:
        for person in range(options.people):
            found += readings(person, slice_mm, options.lattices, options.noises)
            print(f"{slice_mm:g} mm, person {person + 1}: {len(found)} bodies", flush=True)
    rows = table(found)
    names = list(rows[0]) if rows else []
    print("\n| " + " | ".join(name.replace("_", " ") for name in names) + " |\n|" + " --- |" * len(names))
    for row in rows:
        print("| " + " | ".join(f"{v:.2f}" if isinstance(v, float) else str(v) for v in row.values()) + " |")
    if options.json is not None:
        options.json.write_text(json.dumps(rows, indent=1), encoding="utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
