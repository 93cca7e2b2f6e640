"""Proximal femora: found, outlined and measured without trained weights."""

from pipeline.segmentation.femur.chain import FemurResult, segment_femora
from pipeline.segmentation.femur.landmarks import landmarks_from_mask

__all__ = ["FemurResult", "landmarks_from_mask", "segment_femora"]
