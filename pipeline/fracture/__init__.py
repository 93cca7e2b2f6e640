"""Vertebral fracture morphometry: heights, deformity and Genant grade of each body."""

from pipeline.fracture.grading import DEFORMITIES, VertebraShape, grade_vertebrae

__all__ = ["DEFORMITIES", "VertebraShape", "grade_vertebrae"]
