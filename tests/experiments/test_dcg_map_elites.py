"""The experiment with archives in small: equal evaluations, maps, and one policy that is asked."""

import dataclasses

import jax
import numpy as np
import pytest

from experiments import dcg_map_elites as archives
from experiments.dcg_map_elites_runs import ASKED, algorithm, check, elites
from experiments.rules import PairedRule
from jaxpg import quality_diversity as qd

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


def test_a_tessellation_is_drawn_by_its_elites():
    archive = qd.archive.empty(
        qd.centroidal(jax.random.key(0), [-2, 0], [2, 4], 5, 100), np.zeros(1)
    )
    solutions, fitness = np.zeros((2, 1)), np.array([1.0, np.nan])
    archive, _ = qd.archive.insert(archive, solutions, fitness, np.array([[1.0, 1.0], [0.0, 3.0]]))
    found = elites(archive, 0)
    assert found["box"] == [[-2, 0], [2, 4]] and np.shape(found["elites"]) == (1, 3)
    numbers = found | {
        "coverage": 20.0,
        "asked": {"paths": [[[0, 0], [1, 1]]], "targets": [[1, 2]]},
    }
    summary = {"config": {"env": "any"}, "methods": {archives.DCG: {"numbers": numbers}}}
    panels = archives.picture(summary).axes
    assert panels[0].get_xlim() == (-2, 2) and panels[0].get_ylim() == (0, 4)
    assert "20 %" in panels[0].get_title(loc="left")


def test_a_task_that_no_map_shows_is_refused():
    with pytest.raises(ValueError, match="'locomotion/ant-uni', whose descriptors have 4 entries"):
        check(dataclasses.replace(SMOKE, env="locomotion/ant-uni"))


def test_the_rule_speaks_of_the_methods_and_sizes_are_checked():
    assert set(archives.RULE.names) <= set(archives.METHODS)
    with pytest.raises(ValueError, match="offspring is 6, but it has to be a multiple of 4"):
        type(SMOKE)(offspring=6)
