"""Payer coverage of the services that a study may support: knowledge base, engine and wording."""

from reports.coverage.answer import ChecklistItem, Coverage
from reports.coverage.engine import evaluate
from reports.coverage.knowledge import (
    NO_KNOWLEDGE,
    CoverageStatus,
    Knowledge,
    KnowledgeError,
    LineOfBusiness,
    PlanDocument,
    PriorAuthorization,
    load_knowledge,
    load_plan,
)

__all__ = [
    "NO_KNOWLEDGE",
    "ChecklistItem",
    "Coverage",
    "CoverageStatus",
    "Knowledge",
    "KnowledgeError",
    "LineOfBusiness",
    "PlanDocument",
    "PriorAuthorization",
    "evaluate",
    "load_knowledge",
    "load_plan",
]
