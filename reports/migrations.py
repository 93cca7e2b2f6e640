"""Records of older schema versions, brought up to date step by step: each function leads from one version to the next.

A minor version only adds keys, so that most steps only fill in what follows from the keys that were there. The schema of
every version that was ever written stays in ``schema/``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

_CHECKLIST_1_0 = {
    "Order or standing protocol, and who asked": "order",
    "Clinical rationale why CT rather than DXA, confirmed by the clinician": "rationale",
    "CT existed for another indication: accession, date, indication": "existing_ct",
    "Diagnosis codes chosen by the clinician (the policy defines none)": "diagnosis",
    "Plan document checked; self-funded or not": "plan",
    "Federal or state mandate checked": "mandate",
    "Payer's prior-authorization list checked, with reference number": "authorization",
    "Concurrent vertebral fracture assessment attached": "fracture_assessment",
    "Software name and version recorded; not a cleared medical device unless the operator states a clearance": "software",
    "Scanner-specific cut-offs and scanner stability established": "scanner",
    "Interpretation signed and dated, with credentials": "interpretation",
    "Patient informed of expected non-coverage before the service, where rules ask for it": "notice",
}


def migrated(content: dict[str, Any]) -> dict[str, Any]:
    """`content` in the newest version that a step leads to; content of an unknown or newer version as it is.

    Parameters
    ----------
    content : dict
        A record as read from JSON; it is not changed.
    """
    while (step := _STEPS.get(content.get("schema_version", ""))) is not None:
        content = step(content)
    return content


def _from_1_0(content: dict[str, Any]) -> dict[str, Any]:
    """1.1 added code names of checklist items, flags for review of services, other services, and the hash of the program.

    The first two follow from the text of a 1.0 record; the others stay empty: nobody wrote them down.
    """
    return content | {
        "schema_version": "1.1",
        "services": [_service_from_1_0(service) for service in content.get("services", ())],
    }


def _service_from_1_0(service: Any) -> Any:
    if not isinstance(service, dict):
        return service  # the validation that follows says what is wrong with it
    changed = dict(service)
    if any("do not report both" in str(reason) for reason in service.get("reasons", ())):
        changed["review"] = ["OVERLAP_REVIEW"]
    coverage = service.get("coverage")
    if isinstance(coverage, dict):
        items = [
            item | {"code": _CHECKLIST_1_0.get(item.get("item", ""), "")} if isinstance(item, dict) else item
            for item in coverage.get("checklist", ())
        ]
        changed["coverage"] = coverage | {"checklist": items}
    return changed


def _from_1_1(content: dict[str, Any]) -> dict[str, Any]:
    """1.2 only added keys that nobody can fill in afterwards; they stay at their defaults."""
    return content | {"schema_version": "1.2"}


def _from_1_2(content: dict[str, Any]) -> dict[str, Any]:
    """1.3 gave content, area and further scores of the hip keys of their own; before, sentences said them."""
    return content | {"schema_version": "1.3"}


_STEPS: dict[str, Callable[[dict[str, Any]], dict[str, Any]]] = {
    "1.0": _from_1_0,
    "1.1": _from_1_1,
    "1.2": _from_1_2,
}
