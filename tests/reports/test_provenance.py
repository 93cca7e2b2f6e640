"""What computed a record: programs and tables that differ are told apart, whatever version they state."""

from __future__ import annotations

import hashlib
from importlib import resources

from pipeline import provenance
from pipeline.provenance import code_fingerprint, software_of, table_versions
from pipeline.settings import Settings


def test_software_says_enough_to_compute_again() -> None:
    software = software_of(Settings(strength=False).as_json())
    assert {"numpy", "scipy", "numba", "SimpleITK", "pydicom"} <= set(software.dependencies)
    assert software.settings["strength"] is False
    assert software.code_sha256 == code_fingerprint() and len(code_fingerprint()) == 64


def test_a_table_is_known_by_its_content() -> None:
    text = resources.files("pipeline.density").joinpath("tables.json").read_bytes()
    assert table_versions()["density"] == hashlib.sha256(text.replace(b"\r\n", b"\n")).hexdigest()[:12]
    assert "vertebral shape" in table_versions()


def test_another_program_has_another_fingerprint() -> None:
    # Tables count, not only code: leaving them out must change the hash.
    whole = code_fingerprint()
    code_fingerprint.cache_clear()
    decides = provenance._DECIDES
    try:
        provenance._DECIDES = (".py",)  # type: ignore[assignment]
        assert code_fingerprint() != whole
    finally:
        provenance._DECIDES = decides
        code_fingerprint.cache_clear()
    assert code_fingerprint() == whole
