"""Constraints and how they join, against gym-electric-motor's."""

import itertools
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxpg_envs.motor.constraints import (
    LimitConstraint,
    SquaredConstraint,
    check_constraints,
    violation,
)

NAMES = ("omega", "i_sd", "i_sq")
POINTS = list(itertools.product((-1.5, -1.0, -0.6, 0.0, 0.8, 1.0, 1.0000001), repeat=3))
STATES = dict(zip(NAMES, np.array(POINTS).T, strict=True))
PIECES = (LimitConstraint(("omega", "i_sq")), SquaredConstraint(("i_sd", "i_sq")))


def degrees(call):
    with jax.enable_x64(True):
        return np.asarray(jax.vmap(call)({k: jnp.asarray(v) for k, v in STATES.items()}))


def test_violations_are_those_of_the_formulas():
    omega, i_sd, i_sq = np.array(POINTS).T
    limit, circle = degrees(PIECES[0]), degrees(PIECES[1])
    np.testing.assert_array_equal(limit, (abs(omega) > 1) | (abs(i_sq) > 1))
    np.testing.assert_array_equal(circle, i_sd**2 + i_sq**2 > 1)
    np.testing.assert_array_equal(degrees(LimitConstraint()), (abs(np.array(POINTS)) > 1).any(1))
    for merge in ("max", "product"):
        both = degrees(lambda states, merge=merge: violation(PIECES, states, merge))
        np.testing.assert_array_equal(both, np.maximum(limit, circle))


def test_violations_are_gems():
    gem = pytest.importorskip("gym_electric_motor")
    system = SimpleNamespace(
        state_names=list(NAMES),
        state_positions={name: index for index, name in enumerate(NAMES)},
        limits=np.array([400.0, 10.0, 10.0]),
        state_space=SimpleNamespace(high=np.ones(3)),
    )
    pieces = (
        gem.constraints.LimitConstraint(["omega", "i_sq"]),
        gem.constraints.SquaredConstraint(["i_sd", "i_sq"]),
    )
    monitor = gem.core.ConstraintMonitor(additional_constraints=pieces)
    monitor.set_modules(system)
    expected = [monitor.check_constraints(np.array(point)) for point in POINTS]
    found = degrees(lambda states: violation(PIECES, states))
    np.testing.assert_array_equal(found, expected)
    # What its documentation says of "product" does not run.
    monitor = gem.core.ConstraintMonitor(additional_constraints=pieces, merge_violations="product")
    with pytest.raises(TypeError):
        monitor.check_constraints(np.array(POINTS[0]))


def test_degrees_between_0_and_1_join_by_the_largest_or_as_independent_chances():
    soft = tuple((lambda states, x=x: jnp.asarray(x)) for x in (0.3, 0.5))
    np.testing.assert_allclose(violation(soft, {}), 0.5)
    np.testing.assert_allclose(violation(soft, {}, "product"), 0.65, rtol=1e-6)
    hard = (*soft, lambda states: jnp.asarray(1.0))
    for merge in ("max", "product"):
        assert float(violation(hard, {}, merge)) == 1.0
        assert float(violation((), {}, merge)) == 0.0


def test_a_state_that_is_no_number_is_a_violation():
    states = {"omega": jnp.nan, "i_sd": 0.0, "i_sq": 0.0}
    assert float(PIECES[0](states)) == 1.0
    assert float(PIECES[1]({**states, "i_sd": jnp.inf})) == 1.0
    assert float(PIECES[1]({**states, "i_sd": jnp.nan})) == 1.0


@pytest.mark.parametrize(
    ("constraints", "sentence"),
    [
        ((LimitConstraint(("i_q",)),), "names of LimitConstraint='i_q' .*did you mean 'i_sq'"),
        ((SquaredConstraint(("i_sd", "x")),), "names of SquaredConstraint='x' is not one of"),
        ((SquaredConstraint(()),), "at least one state"),
        ((LimitConstraint("omega"),), "names of LimitConstraint is 'omega', but a tuple"),
        (("omega",), "constraints has 'omega'.* LimitConstraint or SquaredConstraint"),
        ([], "constraints is .* a tuple"),
    ],
)
def test_constraints_that_cannot_be_are_refused(constraints, sentence):
    with pytest.raises(ValueError, match=sentence):
        check_constraints(constraints, NAMES)


def test_another_way_to_join_is_refused():
    with pytest.raises(ValueError, match="merge='sum' is not one of 'max', 'product'"):
        violation(PIECES, STATES, "sum")
    with pytest.raises(ValueError, match="merge='maximum' .*did you mean 'max'"):
        check_constraints(PIECES, NAMES, "maximum")
    check_constraints(PIECES, NAMES, "product")
