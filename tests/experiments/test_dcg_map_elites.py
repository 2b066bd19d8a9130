"""The experiment with archives in small: equal evaluations, maps, and one policy that is asked."""

import numpy as np
import pytest

from experiments import dcg_map_elites as archives
from experiments.dcg_map_elites_runs import ASKED, algorithm
from experiments.rules import PairedRule

SMOKE = archives.EXPERIMENT.budgets["smoke"]


@pytest.fixture(scope="module")
def summary(tmp_path_factory, run_smoke):
    out = tmp_path_factory.mktemp("archives")
    rule = PairedRule(archives.DCG, (archives.ME,), 0.0)
    return run_smoke(archives.EXPERIMENT, (archives.ME, archives.DCG), out, rule=rule), out


def test_archives_are_maps_of_equal_evaluations(summary):
    found, out = summary
    for name in (archives.ME, archives.DCG):
        numbers = found["methods"][name]["numbers"]
        assert np.shape(numbers["map"]) == (SMOKE.grid, SMOKE.grid)
        assert numbers["evaluations"] == SMOKE.offspring * (1 + SMOKE.iterations)
        filled = sum(cell is not None for row in numbers["map"] for cell in row)
        assert 0 < filled <= SMOKE.grid**2
    assert (out / "picture.png").stat().st_size > 10_000


def test_the_one_policy_is_asked_for_places_on_a_circle(summary):
    found, _ = summary
    asked = found["methods"][archives.DCG]["numbers"]["asked"]
    np.testing.assert_allclose(np.linalg.norm(asked["targets"], axis=1), 0.7, atol=1e-3)
    assert np.shape(asked["paths"]) == (ASKED, 50, 2)
    assert np.abs(asked["paths"]).max() <= 1.0


def test_every_kind_proposes_as_many_offspring():
    for kind in ("genetic", "pga", "dcrl"):
        steps = algorithm(kind, SMOKE).steps_per_update
        assert steps == SMOKE.offspring * 50
    # DCG's policy is rolled out as often beside.
    assert algorithm("dcg", SMOKE).steps_per_update == 2 * SMOKE.offspring * 50


def test_the_rule_speaks_of_the_methods_and_sizes_are_checked():
    assert set(archives.RULE.names) <= set(archives.METHODS)
    with pytest.raises(ValueError, match="offspring is 6, but it has to be a multiple of 4"):
        type(SMOKE)(offspring=6)
