"""The experiment with drives in small: its parts do what their names say."""

import dataclasses

import numpy as np
import pytest

from experiments import electric_motor as motors
from experiments import electric_motor_gradients as gradients
from experiments.method_runs import Context
from experiments.rules import PairedRule

SMOKE = motors.EXPERIMENT.budgets["smoke"]


@pytest.fixture(scope="module")
def summary(tmp_path_factory, run_smoke):
    out = tmp_path_factory.mktemp("motors")
    methods = (motors.PPO_CURRENT, motors.DDPG_CURRENT, motors.PI_CURRENT)
    rule = PairedRule(motors.PI_CURRENT, methods[:2], 0.0, higher_is_better=False)
    return run_smoke(motors.EXPERIMENT, methods, out, rule=rule), out


def test_a_designed_controller_costs_the_same_for_every_seed_and_less_than_a_new_agent(summary):
    found, _ = summary
    designed = found["methods"][motors.PI_CURRENT]["values"]
    assert designed[0] == designed[1]
    for name in (motors.PPO_CURRENT, motors.DDPG_CURRENT):
        learned = found["methods"][name]["values"]
        assert learned[0] != learned[1]
        assert min(learned) > designed[0] > 0


def test_the_picture_shows_one_reference_for_all(summary):
    found, out = summary
    traces = [entry["numbers"]["trace"] for entry in found["methods"].values()]
    references = [trace["reference"] for trace in traces]
    assert references[0] == references[1] == references[2]
    assert len({str(trace["value"]) for trace in traces}) == 3
    assert (out / "picture.png").stat().st_size > 20_000


def test_trajectories_are_those_of_gym_electric_motor():
    precise = motors.METHODS[motors.A](SMOKE, [0], None)
    single = motors.METHODS[motors.A_SINGLE](SMOKE, [0], None)
    assert precise.values[0] < 1e-8 < single.values[0] < 1e-5
    assert list(single.numbers["cases"]) == ["series"]


def test_a_recording_is_explained_by_the_parameters_that_made_it():
    true, actions, currents = gradients.recorded(3, 400)
    found = gradients.identify(actions, currents, 200)
    squares = gradients.by_least_squares(actions, currents)
    assert gradients.largest_error(found, true) < gradients.largest_error(squares, true) < 0.2
    assert gradients.largest_error(found, true) < 0.01
    too_large = {name: 1.1 * value for name, value in true.items()}
    assert gradients.largest_error(too_large, true) == pytest.approx(0.1)


def test_gains_by_gradient_are_better_than_those_they_began_with(tmp_path):
    config = dataclasses.replace(SMOKE, tuning_steps=20, test_steps=200)
    tuned = motors.METHODS[motors.TUNED](config, [0], Context(tmp_path, "tuned"))
    by_hand = motors.METHODS[motors.BY_HAND](config, [0], None)
    assert np.all(tuned.values < by_hand.values)


def test_the_rule_speaks_of_the_methods_and_sizes_are_checked():
    assert set(motors.RULE.names) <= set(motors.METHODS)
    with pytest.raises(ValueError, match="test_steps"):
        dataclasses.replace(SMOKE, test_steps=0)
