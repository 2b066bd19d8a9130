"""AEPO's experiment: what is run, what is kept of it, and that its picture can be drawn."""

import numpy as np
import pytest

from experiments import aepo
from experiments.aepo import EXPERIMENT, METHODS, always, averaged, centred, steered
from experiments.rules import PairedRule
from jaxpg.method import as_method


@pytest.fixture(scope="module")
def summary(tmp_path_factory, run_smoke):
    """Of one method of each kind, at smoke size."""
    out = tmp_path_factory.mktemp("aepo")
    names = (steered(0.75), "GRPO", centred(0.75))
    rule = PairedRule(steered(0.75), ("GRPO",), minimum_effect=0.0)
    return run_smoke(EXPERIMENT, names, out, rule=rule), out


def test_entropy_success_and_the_controller_are_kept(summary):
    found, out = summary
    config = EXPERIMENT.budgets["smoke"]
    for method in found["methods"].values():
        numbers = method["numbers"]
        assert len(method["values"]) == 2 and 0 < method["mean"] < np.log(7)
        assert 0 <= numbers["success"] <= numbers["pass_at_2"] <= 1
        # The window is the whole run here, and so the curve's mean is the value.
        assert numbers["entropy_curve"]["updates"] == [1, 2] and config.window == 2
        assert np.mean(numbers["entropy_curve"]["mean"]) == pytest.approx(method["mean"], abs=1e-4)
    steering = found["methods"][steered(0.75)]["numbers"]
    # From 0 the first update is below the target, and what it measured is above.
    assert steering["share_of_updates_at_high"] == 0.5 and steering["entropy_estimate"] > 0.75
    assert steering["num_tempered"] <= steering["kept"]
    assert "kept" not in found["methods"]["GRPO"]["numbers"]
    assert (out / "picture.png").stat().st_size > 10_000


def test_a_curve_is_made_of_means_and_keeps_its_end():
    values = np.random.default_rng(0).random((10, 3))
    curve = averaged(values, 4)
    np.testing.assert_array_equal(curve.x, [3, 6, 8, 10])
    np.testing.assert_allclose(curve.y[1], values[3:6].mean(axis=0))
    np.testing.assert_allclose(averaged(values, 99).y, values)


def test_all_methods_have_one_loss_and_temperatures_are_the_cards():
    config = EXPERIMENT.budgets["cpu"]
    built = {name: as_method(build(config)) for name, build in METHODS.items()}
    grpo = built["GRPO"].estimator
    for name, method in built.items():
        assert method.estimator.settings == grpo.settings, name
        assert method.estimator.name == "aepo"
    assert built[steered(1.0)].settings["most"] == 24
    for temperature in (1.2, 0.8):
        settings = built[always(temperature)].settings
        assert settings["high"] == settings["low"] == temperature
        assert settings["target_entropy"] > np.log(7)
    assert set(aepo.HELD) <= set(aepo.TARGETS)
    assert set(EXPERIMENT.rule.names) <= set(METHODS)
