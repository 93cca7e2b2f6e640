"""Scans that several modules look at. What they hold is shared: a test that changes an array takes a copy first."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from phantoms import Phantom, Truth, make_phantom
from phantoms.voxelise import Lattice
from pipeline.volume import Grid, Volume, canonical_order


@dataclass(frozen=True)
class LumbarScan:
    """A torso from T12 to the sacrum.

    Attributes
    ----------
    phantom : Phantom
    lattice : Lattice
        Of the image as it was scanned; `volume` and `labels` are in canonical order.
    volume : Volume
    labels : uint8 ndarray
        The exact bodies and sacrum on the grid of `volume`.
    truth : Truth
    """

    phantom: Phantom
    lattice: Lattice
    volume: Volume
    labels: np.ndarray
    truth: Truth


def _scanned() -> tuple[Lattice, Volume, np.ndarray, Truth]:
    phantom = _phantom()
    image = phantom.image(120.0, slice_mm=2.0, pixel_mm=1.4)
    index_to_lps = np.asarray(image.lattice.index_to_lps)
    hu, matrix, _ = canonical_order(image.hu, index_to_lps)
    labels, _, _ = canonical_order(image.labels, index_to_lps)
    return image.lattice, Volume(hu, Grid(hu.shape, matrix)), labels, phantom.truth(image)


def _phantom() -> Phantom:
    return make_phantom("torso", seed=5, top_level="T12", hips=False)


@pytest.fixture(scope="session")
def lumbar_scan(once: Callable[[str, Callable[[], Any]], Any]) -> LumbarScan:
    return LumbarScan(_phantom(), *once("lumbar_scan", _scanned))
