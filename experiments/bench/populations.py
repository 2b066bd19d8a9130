"""Populations of policies on the point beside QDax: speed and QD score of three methods."""

from __future__ import annotations

import json

from experiments.bench.archive import beside_qdax
from experiments.bench.peers import Peer
from experiments.dcg_map_elites_runs import Config, algorithm

PAIRS = 20


def run() -> None:
    """Records `population_<method>` and its QD scores, at the sizes of the experiment."""
    config = Config()
    settings = {
        "grid": config.grid,
        "offspring": config.offspring,
        "num_iterations": config.iterations,
        "num_critic_steps": config.critic_steps,
        "num_policy_steps": config.policy_steps,
        "hidden": config.hidden,
        "critic_hidden": config.critic_hidden,
        "length_scale": config.length_scale,
        "policy_learning_rate": 5e-3,
        "batch_size": 100,
        "capacity": 1_000_000,
        "sigma_iso": 0.005,
        "sigma_line": 0.05,
    }
    for kind, name in (
        ("genetic", "MAP-Elites"),
        ("pga", "PGA-MAP-Elites"),
        ("dcrl", "DCRL-MAP-Elites"),
    ):
        beside_qdax(
            f"population_{kind}",
            algorithm(kind, config),
            lambda kind=kind: Peer("qdax_policies", kind, json.dumps(settings)),
            num_iterations=config.iterations,
            batch_size=config.offspring,
            target="at least 1" if kind == "pga" else "-",
            score="QD score",
            note=(
                f"{name} on the point that is pushed for 50 steps: {config.iterations} iterations "
                f"of {config.offspring} policies"
            ),
            num_pairs=PAIRS,
        )
