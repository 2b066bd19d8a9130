"""Is this gradient estimator biased, and how noisy is it? Answers on problems solved exactly."""

from jaxpg.diagnostics.finite import Problem
from jaxpg.diagnostics.gradient_audit import audit
from jaxpg.diagnostics.pathwise import compare_gradients, gradient_samplers
from jaxpg.diagnostics.problems import bandit, token_tree
from jaxpg.diagnostics.report import Report
from jaxpg.diagnostics.tabular import random_mdp, tabular_mdp

__all__ = [
    "Problem",
    "Report",
    "audit",
    "bandit",
    "compare_gradients",
    "gradient_samplers",
    "random_mdp",
    "tabular_mdp",
    "token_tree",
]
