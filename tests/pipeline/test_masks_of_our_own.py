"""Our own label map read back as masks: what the chain refused once is not believed the second time."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy import ndimage

from pipeline.errors import Finding, Severity, Status
from pipeline.segmentation.compare import compare_with_own_chain
from pipeline.segmentation.model import BodyFrame, Segmentation, Vertebra
from pipeline.volume import Acquisition, Grid, Volume

REFUSED = Finding("no_disc", Severity.FAILURE, "No disc was found above or below.")


@pytest.fixture
def bodies() -> tuple[Volume, Segmentation]:
    """Two boxes for L1 and L2."""
    labels = np.zeros((40, 30, 30), np.uint8)
    labels[22:38, 8:22, 6:24], labels[3:19, 8:22, 6:24] = 1, 2
    grid = Grid(labels.shape, np.diag([2.0, 2.0, 2.0, 1.0])[[2, 1, 0, 3]])
    frame = BodyFrame(np.zeros(3), np.array([1.0, 0, 0]), np.array([0, 1.0, 0]), np.array([0, 0, 1.0]))
    vertebrae = tuple(
        Vertebra(f"vertebra_{level}", level, number, frame, None, 36.0, 28.0, 1.0)
        for number, level in enumerate(("L1", "L2"), start=1)
    )
    return Volume(np.zeros(labels.shape, np.float32), grid, Acquisition()), Segmentation(labels, grid, vertebrae)


def refusing_l1(segmentation: Segmentation) -> Segmentation:
    first, second = segmentation.vertebrae
    return replace(segmentation, vertebrae=(first.with_findings(REFUSED), second))


def test_a_body_that_the_chain_refused_stays_refused_when_its_outline_is_read_back(bodies):
    volume, masks = bodies
    first, second = compare_with_own_chain(masks, volume, own=refusing_l1(masks)).vertebrae
    assert first.status is Status.FAILED and second.status is Status.OK
    (finding,) = first.findings
    assert finding.code == "own_outline_refused" and finding.text.endswith(REFUSED.text)


def test_a_corrected_outline_is_an_opinion_of_its_own(bodies):
    volume, own = bodies
    corrected = own.labels.copy()
    corrected[ndimage.binary_dilation(own.labels == 1) & (own.labels == 0)] = 1
    first, _ = compare_with_own_chain(replace(own, labels=corrected), volume, own=refusing_l1(own)).vertebrae
    assert first.status is not Status.FAILED
