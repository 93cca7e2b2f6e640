"""Bone strength by finite elements: the bridge from calibrated density to the virtual tests of `fea.bone`."""

from pipeline.strength.bridge import (
    DEFAULT_PROFILE,
    FallPosture,
    check_profiles,
    femur_strength,
    profile_fits,
    vertebra_strength,
)
from pipeline.strength.command import strength_from_image
from pipeline.strength.result import Strength
from pipeline.strength.uncertainty import with_ensemble

__all__ = [
    "DEFAULT_PROFILE",
    "FallPosture",
    "Strength",
    "check_profiles",
    "femur_strength",
    "profile_fits",
    "strength_from_image",
    "vertebra_strength",
    "with_ensemble",
]
