"""jaxpg: a JAX-native, functional policy-gradient toolkit."""

from jaxpg import (
    algorithms,
    checkpoint,
    curricula,
    diagnostics,
    distributions,
    estimators,
    evaluation,
    exploration,
    generation,
    intervals,
    losses,
    methods,
    networks,
    parallel,
    parts,
    policies,
    pretrained,
    quality_diversity,
    replay,
    report,
    rollout,
    runner,
    types,
)
from jaxpg.estimator import Estimator, policy_gradient_loss
from jaxpg.method import Method
from jaxpg.parts import advantages
from jaxpg.types import Algorithm, Trajectory, trajectory

__version__ = "0.1.0"

__all__ = [
    "Algorithm",
    "Estimator",
    "Method",
    "Trajectory",
    "advantages",
    "algorithms",
    "checkpoint",
    "curricula",
    "diagnostics",
    "distributions",
    "estimators",
    "evaluation",
    "exploration",
    "generation",
    "intervals",
    "losses",
    "methods",
    "networks",
    "parallel",
    "parts",
    "policies",
    "policy_gradient_loss",
    "pretrained",
    "quality_diversity",
    "replay",
    "report",
    "rollout",
    "runner",
    "trajectory",
    "types",
]
