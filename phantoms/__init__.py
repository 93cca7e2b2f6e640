"""Digital phantoms with exact ground truth, CT image formation, and writers of real DICOM series.

>>> from phantoms import make_phantom, write_study
>>> truth = write_study(make_phantom("torso", seed=1), "out", kvp=120, slice_mm=2.0)  # doctest: +SKIP
"""

from phantoms.image import PhantomImage
from phantoms.kinds import KINDS, make_phantom
from phantoms.phantom import Phantom
from phantoms.study import write_study
from phantoms.suites import SUITES, write_suite
from phantoms.truth import Truth
from phantoms.vertebral_body import Fracture

__all__ = [
    "KINDS",
    "SUITES",
    "Fracture",
    "Phantom",
    "PhantomImage",
    "Truth",
    "make_phantom",
    "write_study",
    "write_suite",
]
