"""The three auto-reset modes of gymnasium 1.x, as pure functions over a batch.

`reset(keys)` and `advance(keys, state, action)` are those of `transitions`, vmapped. A carry is
`(keys, state, ended)`: `[N, ...]` key data, the batched state, and `[N]` bool, the environments
that ended in the last call and were not reset yet. A step returns
`(carry, observation, final_observation or None, reward, terminated, truncated, info)`.
"""

from collections.abc import Callable
from typing import Any

import gymnasium
import jax
import jax.numpy as jnp
from gymnax.environments.environment import Environment

from jaxpg_envs.gymnasium_spaces import conform


def transitions(env: Any, params: Any, space: gymnasium.Space) -> tuple[Callable, Callable]:
    """Pure functions of one environment, without auto-reset.

    Args:
      env: an environment in gymnax's interface.
      params: its parameters.
      space: gymnasium's form of its observation space.

    Returns:
      `reset(key) -> (observation, state)` and `advance(key, state, action) -> (observation, state,
      reward, terminated, truncated, info)`.
    """

    def reset(key):
        observation, state = env.reset(key, params)
        return conform(space, observation), state

    def advance(key, state, action):
        observation, state, reward, terminated, info = env.step_env(key, state, action, params)
        truncated = env.is_truncated(state, params)
        return conform(space, observation), state, reward, terminated, truncated, info

    def advance_wrapped(key, state, action):
        # A wrapper changes `step`, not `step_env`. Its own reset is dropped, since ours follows.
        _, state, reward, terminated, truncated, info = env.step(key, state, action, params)
        if "final_observation" not in info:
            raise ValueError(
                f"step of {type(env).__name__} auto-resets without info['final_observation'], "
                "so the last observation of an episode is lost; add it"
            )
        flags = ("final_observation", "terminated", "truncated")
        rest = {name: value for name, value in info.items() if name not in flags}
        observation = conform(space, info["final_observation"])
        return observation, state, reward, terminated, truncated, rest

    plain = isinstance(env, Environment) and type(env).step is Environment.step
    return reset, advance if plain else advance_wrapped


def split(key_data: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Spend the key of one environment.

    Args:
      key_data: data of a random key. Typed keys are slow to pass into jitted functions.

    Returns:
      Key data to carry on, a key for a step and a key for a reset.
    """
    following, for_step, for_reset = jax.random.split(jax.random.wrap_key_data(key_data), 3)
    return jax.random.key_data(following), for_step, for_reset


def reset_all(reset: Callable, keys: jax.Array) -> tuple[tuple, Any]:
    """Reset every environment; returns `(carry, observation)`."""
    keys, _, for_reset = jax.vmap(split)(keys)
    observation, state = reset(for_reset)
    return (keys, state, jnp.zeros(len(keys), bool)), observation


def reset_some(
    reset: Callable, carry: tuple, observation: Any, keys: jax.Array, mask: jax.Array
) -> tuple[tuple, Any]:
    """Reset where the mask is True and leave the rest; returns `(carry, observation)`."""
    return _choose(mask, reset_all(reset, keys), (carry, observation))


def next_step(reset: Callable, advance: Callable, carry: tuple, action: Any) -> tuple:
    """The call after an end is the reset: it ignores the action and pays 0."""
    keys, state, ended = carry
    keys, for_step, for_reset = jax.vmap(split)(keys)
    observation, state, reward, terminated, truncated, info = advance(for_step, state, action)
    # A reset can cost as much as a step, so it runs only in calls that need one.
    observation, state = jax.lax.cond(
        ended.any(),
        lambda stepped: _choose(ended, reset(for_reset), stepped),
        lambda stepped: stepped,
        (observation, state),
    )
    reward = jnp.where(ended, 0, reward)
    terminated, truncated = terminated & ~ended, truncated & ~ended
    carry = (keys, state, terminated | truncated)
    return carry, observation, None, reward, terminated, truncated, info


def same_step(reset: Callable, advance: Callable, carry: tuple, action: Any) -> tuple:
    """The ending call resets; the observation that ended the episode is returned beside."""
    keys, state, _ = carry
    keys, for_step, _ = jax.vmap(split)(keys)
    final, state, reward, terminated, truncated, info = advance(for_step, state, action)
    ended = terminated | truncated

    def renew(stepped):
        (renewed_keys, renewed_state, _), renewed_observation = reset_all(reset, keys)
        return _choose(ended, (renewed_keys, renewed_state, renewed_observation), stepped)

    stepped = (keys, state, final)
    keys, state, observation = jax.lax.cond(ended.any(), renew, lambda stepped: stepped, stepped)
    carry = (keys, state, jnp.zeros_like(ended))
    return carry, observation, final, reward, terminated, truncated, info


def disabled(reset: Callable, advance: Callable, carry: tuple, action: Any) -> tuple:
    """No reset; the caller does it with `reset_some`."""
    keys, state, _ = carry
    keys, for_step, _ = jax.vmap(split)(keys)
    observation, state, reward, terminated, truncated, info = advance(for_step, state, action)
    carry = (keys, state, terminated | truncated)
    return carry, observation, None, reward, terminated, truncated, info


def _choose(mask: jax.Array, chosen: Any, otherwise: Any) -> Any:
    def choose(new, old):
        spread = mask.reshape(mask.shape + (1,) * (new.ndim - 1))
        return jnp.where(spread, new, old).astype(old.dtype)

    return jax.tree.map(choose, chosen, otherwise)
