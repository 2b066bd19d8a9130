"""Experiments at smoke size, with some of their methods."""

import dataclasses

import pytest

from experiments import harness
from experiments.command_line import Options


@pytest.fixture(scope="session")
def run_smoke():
    """Runs `(experiment, names of methods, folder, **fields of the experiment)` on two seeds."""

    def run(experiment, names, out, **fields):
        methods = {name: experiment.methods[name] for name in names}
        options = Options(
            budget="smoke",
            seeds=(0, 1),
            out=out,
            resume=False,
            record=False,
            progress=False,
            tensorboard=False,
            config=experiment.budgets["smoke"],
            changed=(),
            command="",
        )
        return harness.run(dataclasses.replace(experiment, methods=methods, **fields), options)

    return run
