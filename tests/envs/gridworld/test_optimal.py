"""The optimal return against enumeration, closed forms and play."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxpg_envs.gridworld import SMALL, GridWorld, grid_params, optimal_return, sample


def enumerated(params):
    """The same value by recursion over every set of objects that may follow, in float64."""
    p = jax.tree.map(lambda leaf: np.asarray(leaf).tolist(), params)
    size, items = p.size, range(p.num_objects)
    shifts = [(-1, 0), (1, 0), (0, -1), (0, 1), (0, 0)]

    @functools.cache
    def value(cell, present, steps):
        if steps == 0:
            return 0.0
        values = []
        for down, right in shifts:
            row, column = cell // size + down, cell % size + right
            inside = 0 <= row < size and 0 <= column < size
            target = row * size + column if inside else cell
            target = cell if p.walls[target] else target
            taken = [i for i in items if present[i] and p.object_cells[i] == target]
            future = 0.0
            for following in itertools.product([False, True], repeat=len(items)):
                probability = 1.0
                for i in items:
                    back = 0.0 if i in taken else 1.0 if present[i] else p.object_respawn[i]
                    probability *= back if following[i] else 1 - back
                if probability:
                    future += probability * value(target, following, steps - 1)
            ends = sum(p.object_terminate[i] for i in taken)
            values.append(sum(p.object_rewards[i] for i in taken) + (1 - ends) * future)
        return max(values)

    return value(p.start, (True,) * len(items), p.max_steps_in_episode)


def levels(num, steps):
    keys = jax.random.split(jax.random.key(2), num)
    return jax.vmap(lambda key: sample(key, SMALL, 6, 3)[0])(keys).replace(
        max_steps_in_episode=jnp.array(steps, jnp.int32)
    )


def test_it_is_the_value_by_enumeration_on_levels_of_different_lengths():
    batch = levels(5, [3, 12, 7, 9, 10])
    batch = batch.replace(object_respawn=jnp.sqrt(batch.object_respawn) * (batch.object_cells > 0))
    values = jax.vmap(optimal_return)(batch)
    for i in range(5):
        one = jax.tree.map(lambda leaf, i=i: leaf[i], batch)
        assert values[i] == pytest.approx(enumerated(one), abs=1e-5)
        assert optimal_return(one) == pytest.approx(float(values[i]), abs=1e-6)


def test_closed_forms():
    level = functools.partial(grid_params, max_size=3, max_objects=2)
    # Taken at step 1, absent once; then every second step, by staying, until the end.
    blinking = level(2, 0, [(1, 1.0, 0.0, 1.0)], max_steps=9)
    assert optimal_return(blinking) == 5.0
    # Standing where the object was: it comes back with q, seen one step later, and then pays.
    q, values = 0.3, [(0.0, 0.0)]
    for _ in range(9):
        away, there = values[-1]
        values.append(((1 - q) * away + q * there, 1.0 + away))
    returning = level(2, 0, [(1, 1.0, 0.0, q)], max_steps=9)
    assert optimal_return(returning) == pytest.approx(1.0 + values[8][0], abs=1e-5)
    # What costs is avoided, what is too far earns nothing, and what ends comes last.
    assert optimal_return(level(2, 0, [(1, -1.0, 0.0, 1.0)], max_steps=9)) == 0.0
    assert optimal_return(level(3, 0, [(8, 1.0, 0.0, 0.0)], max_steps=3)) == 0.0
    assert optimal_return(level(3, 0, [(8, 1.0, 0.0, 0.0)], max_steps=4)) == 1.0
    both = level(3, 0, [(1, 5.0, 1.0, 0.0), (3, 2.0, 0.0, 0.0)], max_steps=9)
    assert optimal_return(both) == 7.0
    assert optimal_return(level(3, 0, [], max_steps=9)) == 0.0


def test_no_policy_earns_more_by_play():
    env = GridWorld(6, 3)
    batch = levels(6, [20] * 6)
    best = jax.vmap(optimal_return)(batch)
    num_policies, num_episodes = 4, 60

    def episode(params, logits, key):
        reset_key, key = jax.random.split(key)
        (index, _), state = env.reset(reset_key, params)

        def step(carry, step_key):
            index, state, alive, total = carry
            action_key, step_key = jax.random.split(step_key)
            action = jax.random.categorical(action_key, logits[index])
            (index, _), state, reward, terminated, truncated, _ = env.step(
                step_key, state, action, params
            )
            total += alive * reward
            return (index, state, alive & ~terminated & ~truncated, total), None

        carry = (index, state, jnp.array(True), jnp.zeros(()))
        return jax.lax.scan(step, carry, jax.random.split(key, 20))[0][3]

    logits = 3 * jax.random.normal(jax.random.key(1), (num_policies, env.num_states, 5))
    keys = jax.random.split(jax.random.key(0), num_episodes)
    play = jax.vmap(jax.vmap(jax.vmap(episode, (None, None, 0)), (None, 0, None)), (0, None, None))
    returns = np.asarray(jax.jit(play)(batch, logits, keys))
    errors = returns.std(-1) / num_episodes**0.5
    assert (returns.mean(-1) <= np.asarray(best)[:, None] + 4 * errors + 1e-6).all()
    assert (best >= 0).all() and best.max() > 0.2
