"""What follows from the numbers of a record: the overall assessment, and the service codes with their coverage."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from reports.origin import Part
from reports.quantity import Quantity


class Rule(Part):
    """One rule of the assessment and whether it holds: True, False, or None when it could not be asked."""

    rule: str
    """The rule in words."""
    holds: bool | None
    """Whether it holds; null when it could not be asked."""
    basis: str
    """The numbers it was applied to, in words."""
    reference: str | None = None
    """Where it is published."""


class Omission(Part):
    """A part of the assessment that was left out."""

    part: str
    """What was left out."""
    code: str
    """Machine-readable reason."""
    reason: str
    """One sentence."""


class ReferenceGroup(Part):
    """One age group of a reference population."""

    from_age_years: float
    """First age that belongs to it."""
    to_age_years: float
    """First age that no longer belongs to it."""
    mean: float
    """Mean of the group."""
    sd: float = Field(gt=0)
    """Standard deviation of the group."""


class ReferencePopulation(Part):
    """A measure by age in a published population of the patient's sex; for a picture, it gives no class."""

    population: str
    """Survey, sex, ethnic groups."""
    region: Literal["total_hip", "femoral_neck"]
    """Region of the hip."""
    unit: str
    """Unit of means and standard deviations."""
    groups: tuple[ReferenceGroup, ...]
    """By age, ascending."""
    reference: str
    """Where the table was read."""


class Assessment(Part):
    """The overall classification, with everything it rests on and everything it leaves out."""

    classification: Literal["high", "increased", "not_increased", "not_determined"]
    """Overall fracture risk by the rules."""
    statement: str
    """The same in one sentence."""
    rules: tuple[Rule, ...] = ()
    """Every rule that was asked."""
    references: tuple[str, ...] = ()
    """The works that the rules come from."""
    basis: tuple[str, ...] = ()
    """What the classification rests on."""
    omitted: tuple[Omission, ...] = ()
    """What was left out, and why."""
    spine_vbmd_mg_cm3: Quantity | None = None
    """Trabecular density of the spine: mean of the levels below."""
    spine_vbmd_levels: tuple[str, ...] = ()
    """L1 and L2, or the levels that took their place."""
    spine_density_class: Literal["normal", "low", "osteoporosis_range"] | None = None
    """Class of that mean; null where no class may be given."""
    spine_outlier_levels: tuple[str, ...] = ()
    """Levels whose density stands out from the profile of the others; not in the mean while two others are there."""
    l1_ct_number: Quantity | None = None
    """CT number of L1 in the elliptical region, which imitates the one that published cut-offs were found with."""
    l1_ct_number_band: Literal["above_200", "160_to_200", "110_to_160", "100_to_110", "below_100"] | None = None
    """Between which of these cut-offs (HU, found at 120 kVp without contrast agent) it lies; caveats are a finding."""
    hip_density_class: Literal["normal", "low", "osteoporosis_range"] | None = None
    """Class of the lowest hip T-score; null where no class may be given."""
    reference_population: ReferencePopulation | None = None
    """Population by age that the hip is shown against; null where no verified table exists or nothing is to be shown."""


class Element(Part):
    """One element that a service asks for, whether the study has it, and where that is seen."""

    element: str
    """What the service asks for, in our words."""
    met: Literal["yes", "no", "unknown"]
    """Whether the study has it; unknown is for a person to answer."""
    basis: str
    """Where that is seen."""


class Coverage(BaseModel):
    """Payer coverage of one service on one date; the same keys as ``openbct coverage --json``.

    Further keys of the coverage engine are kept as they are.
    """

    model_config = ConfigDict(frozen=True, extra="allow", from_attributes=True, use_attribute_docstrings=True)

    cpt: str | None = None
    """Number of the service code."""
    paraphrase: str | None = None
    """What the code is, in the project's own words."""
    status: str
    """Coverage status by a mandate, a plan document or the payer's dated policy; see ``docs/coverage.md``."""
    last_known_status: str | None = None
    """Status of the newest edition held, where the status is stale."""
    plan_status: str | None = None
    """What the plan document or mandate says, where the status is ``PLAN_OVERRIDE``."""
    determination: str | None = None
    """What the status rests on: ``primary``, ``plan`` or ``none``."""
    confidence: str | None = None
    """How sure it is that the payer's sentence means this code: ``high``, ``medium``, ``low``."""
    payer: str | None = None
    """Payer that was asked for."""
    line_of_business: str | None = None
    """Kind of plan that was asked for."""
    policy: str | None = None
    """Policy number."""
    edition: str | None = None
    """The edition of the policy in force, such as ``cigna-0300-2025-04-15``."""
    policy_effective: str | None = None
    """ISO date from which that edition holds."""
    policy_next_review: str | None = None
    """ISO date of its next review."""
    date_of_service: str | None = None
    """ISO date that was asked for."""
    evaluated_on: str | None = None
    """ISO date on which it was asked."""
    knowledge_version: str | None = None
    """Version of the coverage knowledge base."""
    prior_authorization: str | None = None
    """What is known on prior authorization; it never changes the status."""
    warnings: tuple[dict[str, Any] | str, ...] = ()
    """Flags, each with its sentence."""
    sources: tuple[dict[str, Any], ...] = ()
    """Documents that the status rests on, with quotation, date and rank."""
    conflicts: tuple[dict[str, Any] | str, ...] = ()
    """Lesser sources that say otherwise."""
    further_conflicts: tuple[dict[str, Any] | str, ...] = ()
    """Contradictions that change nothing for a claim."""
    checklist: tuple[dict[str, Any], ...] = ()
    """Documentation that a claim needs, and what of it this study answers."""
    route: str | None = None
    """Document that governs a service outside this policy."""
    next_step: str | None = None
    """What a person has to do next."""
    text: str
    """What a report prints, with the next step."""


class Service(Part):
    """One service code: does the study support it, and what does the payer's document say."""

    cpt: str
    """Number of the service code; descriptors are not included."""
    supported: bool
    """Whether the data hold every element that software can supply."""
    reasons: tuple[str, ...] = ()
    """Why, in sentences."""
    missing: tuple[str, ...] = ()
    """Elements that are missing or that a person must supply."""
    elements: tuple[Element, ...] = ()
    """All elements of the service."""
    review: tuple[Literal["OVERLAP_REVIEW"], ...] = ()
    """For a coder, before anything is reported: ``OVERLAP_REVIEW`` where two services would count the same work."""
    coverage: Coverage | None = None
    """What the payer's document says."""


class OtherService(Part):
    """A service code that is often named in the same breath, and why it does or does not apply to this study."""

    cpt: str
    """Number of the service code; descriptors are not included."""
    applies: Literal["no", "for_a_coder"]
    """``no``: not on this CT; ``for_a_coder``: the data would support it, a person decides between code families."""
    reason: str
    """One sentence."""
