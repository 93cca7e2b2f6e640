"""Vertebral bodies with their levels, by classical image analysis: canal, discs, optimal surfaces, level anchors."""

from pipeline.segmentation.spine.chain import SpineResult, segment_spine

__all__ = ["SpineResult", "segment_spine"]
