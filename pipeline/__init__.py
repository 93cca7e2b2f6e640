"""openbct: from a CT study to density, fracture grades, T-score and bone strength."""

from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("openbct")
except PackageNotFoundError:  # run from a source tree that was not installed
    __version__ = "0.0.0"
