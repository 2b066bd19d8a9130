"""The gradient audit: every estimator of the catalogue on 2,000 batches, compilation included."""

from __future__ import annotations

import dataclasses
import time

from experiments.bench.measuring import compare, record
from jaxpg import diagnostics, estimators

LIMIT_SECONDS = 60.0
DEMONSTRATIONS = {"sft", "srft_offline", "luffy_offline"}


def run() -> None:
    """Records `audit_30_estimators`: seconds, against the limit of one minute."""
    builders = [b for name, b in estimators.CATALOGUE.items() if name not in DEMONSTRATIONS]
    named = {}
    for index in range(30):
        estimator = builders[index % len(builders)]()
        # Each is traced and compiled on its own, like thirty different ones.
        name = f"{estimator.name}_{index // len(builders)}"
        named[name] = dataclasses.replace(estimator, name=name)
    began = time.perf_counter()
    problem = diagnostics.token_tree(vocabulary=3, depth=3)
    diagnostics.audit(named, problem, num_batches=2000)
    seconds = time.perf_counter() - began
    record(
        compare(
            "audit_30_estimators",
            [(seconds, LIMIT_SECONDS)],
            peer_name="the limit",
            peer_version="-",
            unit="s",
            target="over 1",
            lower_is_better=True,
            note="30 estimators x 2,000 batches of 64 rows, compilation included",
        )
    )
