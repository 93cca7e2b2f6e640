"""Bone strength by finite elements: the bridge from calibrated density to the virtual tests of `fea.bone`."""

from pipeline.strength.bridge import DEFAULT_PROFILE, femur_strength, vertebra_strength
from pipeline.strength.command import strength_from_image
from pipeline.strength.result import Strength

__all__ = ["DEFAULT_PROFILE", "Strength", "femur_strength", "strength_from_image", "vertebra_strength"]
