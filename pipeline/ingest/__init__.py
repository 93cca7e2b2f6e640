"""From files of any kind to a volume of Hounsfield units: find, choose, read. See docs/ingest.md."""

from __future__ import annotations

from pipeline.ingest.inventory import Inventory, Series, Study, find_studies, study_key
from pipeline.ingest.kernels import KernelClass, kernel_class
from pipeline.ingest.pixels import AIR_HU
from pipeline.ingest.read import load_volume, read_source_headers
from pipeline.ingest.selection import Choice, Selection, Verdict, describe, select, verdict_on
from pipeline.ingest.sources import Skipped
from pipeline.ingest.stacks import Geometry, Stack

__all__ = [
    "AIR_HU",
    "Choice",
    "Geometry",
    "Inventory",
    "KernelClass",
    "Selection",
    "Series",
    "Skipped",
    "Stack",
    "Study",
    "Verdict",
    "describe",
    "find_studies",
    "kernel_class",
    "load_volume",
    "read_source_headers",
    "select",
    "study_key",
    "verdict_on",
]
