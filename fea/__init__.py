"""Voxel finite elements: linear and nonlinear solution on the grid of an image."""

from fea.damage import Softening
from fea.errors import Reason, SolveError
from fea.loads import body_force
from fea.materials import Orthotropy
from fea.model import NodalForce, Prescribed, VoxelModel, load_model, save_model
from fea.nodes import face_nodes, nodes_of
from fea.nonlinear import Curve, CurveStopped, solve_curve
from fea.plasticity import YieldMaterial
from fea.platens import PlatenState, RigidPlaten
from fea.post import ElementFields, element_fields
from fea.solve import Solution, Solver, solve

__all__ = [
    "Curve",
    "CurveStopped",
    "ElementFields",
    "NodalForce",
    "Orthotropy",
    "PlatenState",
    "Prescribed",
    "Reason",
    "RigidPlaten",
    "Softening",
    "Solution",
    "SolveError",
    "Solver",
    "VoxelModel",
    "YieldMaterial",
    "body_force",
    "element_fields",
    "face_nodes",
    "load_model",
    "nodes_of",
    "save_model",
    "solve",
    "solve_curve",
]
