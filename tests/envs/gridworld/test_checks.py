"""Each fault of a level is one sentence, before anything is compiled."""

import jax
import jax.numpy as jnp
import pytest

from jaxpg_envs.gridworld import SMALL, GridWorld, check, grid_params, sample

GOOD = grid_params(3, 0, [(4, 1.0, 0.5, 0.5), (8, -1.0, 1.0, 0.0)], walls=[1], max_size=4)

FAULTS = {
    r"walls leave no cell of the 3 x 3 grid free, but the start and num_objects=2 need 3": {
        "walls": jnp.ones(16, bool)
    },
    r"walls leave 2 cells of the 3 x 3 grid free": {"walls": jnp.arange(16) >= 2},
    r"num_objects is 6, but object_cells has room for 0 to 5": {"num_objects": 6},
    r"size is 5, but walls has room for 1 to 4": {"size": 5},
    r"max_steps_in_episode is 0, but at least 1 is needed": {"max_steps_in_episode": 0},
    r"start is 9, outside the cells 0 to 8 of a 3 x 3 grid": {"start": 9},
    r"start is 1, which is a wall": {"start": 1},
    r"object_cells\[1\] is 1, which is a wall": {"object_cells": jnp.array([4, 1, 0, 0, 0])},
    r"object_cells\[0\] is -1, outside": {"object_cells": jnp.array([-1, 8, 0, 0, 0])},
    r"object_cells is \[4, 4\], but no two may share a cell": {
        "object_cells": jnp.array([4, 4, 0, 0, 0])
    },
    r"object_terminate\[0\] is 1.5, but probabilities lie in \[0, 1\]": {
        "object_terminate": jnp.array([1.5, 0, 0, 0, 0])
    },
    r"object_respawn\[1\] is nan, but probabilities": {
        "object_respawn": jnp.array([0, jnp.nan, 0, 0, 0])
    },
    r"object_rewards\[0\] is inf, but it has to be finite": {
        "object_rewards": jnp.array([jnp.inf, 0, 0, 0, 0])
    },
    r"walls has 15 cells, which is not the square of a size": {"walls": jnp.zeros(15, bool)},
    r"object_rewards has shape \(4,\); with max_size=4 and max_objects=5": {
        "object_rewards": jnp.zeros(4)
    },
}


@pytest.mark.parametrize("message", FAULTS)
def test_each_fault_is_one_sentence(message):
    with pytest.raises(ValueError, match=message) as caught:
        check(GOOD.replace(**FAULTS[message]))
    assert "\n" not in str(caught.value)
    with pytest.raises(ValueError):
        GridWorld(4, 5, params=GOOD.replace(**FAULTS[message]))


def test_what_does_not_count_is_not_checked():
    check(GOOD)
    check(GOOD.replace(object_respawn=jnp.array([0, 0, 7.0, 7.0, 7.0])))
    check(GOOD.replace(walls=GOOD.walls.at[9:].set(True)))
    check(GOOD.replace(start=4))  # on an object


def test_a_batch_is_checked_and_the_level_at_fault_named():
    levels, _ = jax.vmap(lambda key: sample(key, SMALL))(jax.random.split(jax.random.key(0), 3))
    check(levels)
    with pytest.raises(ValueError, match="^level 1: size is 0"):
        check(levels.replace(size=levels.size.at[1].set(0)))


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"size": 14}, "size=14 is outside 1 to max_size=13"),
        ({"objects": [(1, 1.0, 0.0, 0.0)] * 6}, "objects has 6 entries; max_objects=5"),
        ({"walls": [3, 9]}, "walls holds 9, outside the 3 x 3 grid"),
        ({"objects": [(1, 1.0, -0.1, 0.0)]}, r"object_terminate\[0\] is -0.1"),
    ],
)
def test_a_level_of_ones_own_that_is_none_is_refused(kwargs, message):
    with pytest.raises(ValueError, match=message):
        grid_params(**{"size": 3, "start": 0, "objects": []} | kwargs)
