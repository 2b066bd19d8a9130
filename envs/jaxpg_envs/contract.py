"""Does an environment obey gymnax's interface? The check that a user runs on an own environment."""

from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from gymnax.environments import spaces
from gymnax.environments.environment import Environment

from jaxpg_envs.spaces import MultiDiscrete


class ContractError(ValueError):
    """An environment breaks the interface; the message says where, in one sentence."""


def check(
    env: Any, params: Any = None, *, seed: int = 0, num_envs: int = 10, num_steps: int = 100
) -> None:
    """Check that an environment can be trained on: it traces, scans, vmaps and says what it does.

    It must have `reset(key, params) -> (observation, state)`, `step(key, state, action, params) ->
    (observation, state, reward, terminated, truncated, info)` with auto-reset,
    `action_space(params)` and `observation_space(params)`. Checked, in this order: both work under
    `jax.jit`; observation and state have the same structure, shapes and dtypes from either (weak
    types may differ); reward is a floating scalar, terminated and truncated are bool scalars;
    `info["final_observation"]` is an observation; observations have the declared shape and dtype;
    random play under `jax.vmap` and `jax.lax.scan` stays inside the declared bounds.

    Args:
      env: the environment; a class of gymnax, a wrapper, or anything with these methods.
      params: its parameters; `env.default_params` by default.
      seed: of the random play.
      num_envs: at least 1, environments played at once.
      num_steps: at least 1, steps played in each.

    Raises:
      ContractError: the first violation found.

    >>> from jaxpg_envs import make
    >>> check(*make("CartPole-v1"))
    """
    params = env.default_params if params is None else params
    observation, state = _reset_shape(env, params)
    if isinstance(env, Environment):
        # Before step, which would meet the same fault in gymnax's code.
        _check_step_env(env, params, observation, state)
    following, next_state, reward, terminated, truncated, info = _step_shape(env, params, state)
    _check_same("observation", "reset", observation, "step", following)
    _check_same("state", "reset", state, "step", next_state)
    _check_scalar("reward", reward, jnp.floating)
    _check_scalar("terminated", terminated, jnp.bool_)
    _check_scalar("truncated", truncated, jnp.bool_)
    if not isinstance(info, dict) or "final_observation" not in info:
        raise ContractError(
            'step returns no info["final_observation"], the last observation before an auto-reset'
        )
    final = info["final_observation"]
    _check_same("observation", "reset", observation, 'info["final_observation"]', final)
    space = env.observation_space(params)
    for path, leaf_space, leaf in _pairs("observation", space, observation):
        _check_declared(path, leaf_space, leaf)
    low, high = _play(env, params, seed, num_envs, num_steps)
    for (path, leaf_space, least), (*_, most) in zip(
        _pairs("observation", space, low), _pairs("observation", space, high), strict=True
    ):
        _check_bounds(path, leaf_space, np.asarray(least), np.asarray(most))


def _traced(what: str, function: Callable, *args: Any) -> Any:
    try:
        return jax.eval_shape(function, *args)
    except Exception as error:
        reason = str(error).strip().split("\n")[0]
        raise ContractError(
            f"{what} does not work under jax.jit: {type(error).__name__}: {reason}"
        ) from error


def _reset_shape(env: Any, params: Any) -> tuple:
    result = _traced("reset", lambda key: env.reset(key, params), jax.random.key(0))
    if not isinstance(result, tuple) or len(result) != 2:
        raise ContractError(f"reset returns {_kind(result)}; it must return (observation, state)")
    return result


def _check_step_env(env: Environment, params: Any, observation: Any, state: Any) -> None:
    def step_env(key, state, action):
        return env.step_env(key, state, action, params)

    action = _action_shape(env, params)
    result = _traced("step_env", step_env, jax.random.key(0), state, action)
    if not isinstance(result, tuple) or len(result) != 5:
        raise ContractError(
            f"step_env returns {_kind(result)}; it must return "
            "(observation, state, reward, terminated, info)"
        )
    _check_same("observation", "reset", observation, "step_env", result[0])
    _check_same("state", "reset", state, "step_env", result[1])


def _action_shape(env: Any, params: Any) -> Any:
    sample = env.action_space(params).sample
    return _traced("action_space(params).sample", sample, jax.random.key(0))


def _step_shape(env: Any, params: Any, state: Any) -> tuple:
    def step(key, state, action):
        return env.step(key, state, action, params)

    result = _traced("step", step, jax.random.key(0), state, _action_shape(env, params))
    if not isinstance(result, tuple) or len(result) != 6:
        raise ContractError(
            f"step returns {_kind(result)}; it must return "
            "(observation, state, reward, terminated, truncated, info)"
        )
    return result


def _kind(result: Any) -> str:
    name = type(result).__name__
    return f"a {name} of {len(result)}" if isinstance(result, (tuple, list)) else f"a {name}"


def _check_same(what: str, source: str, first: Any, other_source: str, second: Any) -> None:
    if jax.tree.structure(first) != jax.tree.structure(second):
        raise ContractError(
            f"{what} is {jax.tree.structure(first)} from {source} and "
            f"{jax.tree.structure(second)} from {other_source}; the two must have one structure"
        )
    leaves = jax.tree_util.tree_leaves_with_path(first)
    for (path, one), two in zip(leaves, jax.tree.leaves(second), strict=True):
        if (one.shape, one.dtype) != (two.shape, two.dtype):
            raise ContractError(
                f"{what}{jax.tree_util.keystr(path)} is {_array(one)} from {source} and "
                f"{_array(two)} from {other_source}; the two must agree"
            )


def _check_scalar(what: str, value: Any, kind: Any) -> None:
    if not hasattr(value, "dtype") or value.shape != () or not jnp.issubdtype(value.dtype, kind):
        wanted = "a bool" if kind is jnp.bool_ else "a floating"
        given = _array(value) if hasattr(value, "dtype") else _kind(value)
        raise ContractError(f"{what} from step is {given}; it must be {wanted} scalar")


def _array(leaf: Any) -> str:
    return f"{leaf.dtype}{list(leaf.shape)}"


def _pairs(path: str, space: Any, value: Any) -> Iterator[tuple[str, Any, Any]]:
    """Walk a space and a value of it together."""
    if isinstance(space, spaces.Dict):
        for name, child in space.spaces.items():
            part = value.get(name) if isinstance(value, dict) else getattr(value, name, None)
            if part is None:
                raise ContractError(f"{path} has no {name!r}, which observation_space declares")
            yield from _pairs(f"{path}[{name!r}]", child, part)
    elif isinstance(space, spaces.Tuple):
        if not isinstance(value, tuple) or len(value) != len(space.spaces):
            wanted = f"a tuple of {len(space.spaces)}"
            raise ContractError(f"{path} is {_kind(value)}; observation_space declares {wanted}")
        for i, (child, part) in enumerate(zip(space.spaces, value, strict=True)):
            yield from _pairs(f"{path}[{i}]", child, part)
    else:
        yield path, space, value


def _check_declared(path: str, space: Any, leaf: Any) -> None:
    shape = tuple(int(size) for size in np.atleast_1d(np.asarray(space.shape, int)))
    if not hasattr(leaf, "dtype"):
        raise ContractError(f"{path} is {_kind(leaf)}; observation_space declares one array")
    if (leaf.shape, leaf.dtype) != (shape, jnp.dtype(space.dtype)):
        declared = f"{jnp.dtype(space.dtype)}{list(shape)}"
        raise ContractError(f"{path} is {_array(leaf)}; observation_space declares {declared}")


def _play(env: Any, params: Any, seed: int, num_envs: int, num_steps: int) -> tuple[Any, Any]:
    """Least and greatest value of each component of the observation under random actions."""

    def episode(key):
        reset_key, key = jax.random.split(key)
        observation, state = env.reset(reset_key, params)

        def step(carry, step_key):
            low, high, state = carry
            action_key, step_key = jax.random.split(step_key)
            action = env.action_space(params).sample(action_key)
            observation, state, *_, info = env.step(step_key, state, action, params)
            seen = (low, observation, info["final_observation"])
            low = jax.tree.map(lambda a, b, c: jnp.minimum(jnp.minimum(a, b), c), *seen)
            seen = (high, observation, info["final_observation"])
            high = jax.tree.map(lambda a, b, c: jnp.maximum(jnp.maximum(a, b), c), *seen)
            return (low, high, state), None

        keys = jax.random.split(key, num_steps)
        (low, high, _), _ = jax.lax.scan(step, (observation, observation, state), keys)
        return low, high

    try:
        low, high = jax.jit(jax.vmap(episode))(jax.random.split(jax.random.key(seed), num_envs))
    except Exception as error:
        reason = str(error).strip().split("\n")[0]
        raise ContractError(
            f"step does not work under jax.vmap and jax.lax.scan: {type(error).__name__}: {reason}"
        ) from error
    return jax.tree.map(lambda x: x.min(0), low), jax.tree.map(lambda x: x.max(0), high)


def _check_bounds(path: str, space: Any, least: np.ndarray, most: np.ndarray) -> None:
    if isinstance(space, spaces.Discrete):
        low, high = 0, int(space.n) - 1
    elif isinstance(space, MultiDiscrete):
        low, high = 0, np.array(space.nvec) - 1
    else:
        low, high = space.low, space.high
    low, high = (
        np.broadcast_to(np.asarray(bound, least.dtype), least.shape) for bound in (low, high)
    )
    # Written so that NaN, which compares False with everything, is outside.
    for values, inside in ((least, least >= low), (most, most <= high)):
        if not inside.all():
            index = tuple(int(i) for i in np.argwhere(~inside)[0])
            where = f"{path}{list(index)}" if index else path
            raise ContractError(
                f"{where} takes the value {values[index]}, outside its declared bounds "
                f"[{low[index]}, {high[index]}]"
            )
