"""From Hounsfield units to bone mineral density: calibration, trabecular density of vertebrae, areal density of the hip."""

from pipeline.density.calibration import CHOICES, calibrate
from pipeline.density.calibration_value import Alternative, Calibration
from pipeline.density.plate_calibration import calibrate_from_rods

__all__ = ["CHOICES", "Alternative", "Calibration", "calibrate", "calibrate_from_rods"]
