"""Two estimates of one gradient: through the simulator, and through the likelihood."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from gymnax.environments.environment import Environment
from jax.flatten_util import ravel_pytree

from jaxpg import simulation
from jaxpg.choices import at_least
from jaxpg.diagnostics.moments import Moments, moments
from jaxpg.parts import advantages
from jaxpg.types import Array, PyTree

Sampler = Callable[[Array], Array]
"""`(key) -> estimate [P]`."""


def gradient_samplers(
    env: Environment,
    policy: Any,
    params: PyTree,
    scenario: PyTree,
    *,
    num_steps: int,
    noise: float,
    batch_size: int,
) -> dict[str, Sampler]:
    """Estimators of the gradient of a policy's mean cost per step with noise on its outputs.

    The policy's raw outputs get normal noise before they become an action, so that it has a
    likelihood. The pathwise estimate differentiates the cost with that noise held fixed; the
    score-function estimate weights the derivative of the log-likelihood with the cost from each
    decision on, minus the mean of the other rows. Both are unbiased for the same gradient.

    Args:
      env: in gymnax's interface, with `supports_transition_gradients`.
      policy: has `outputs(params, observations)` and `action(outputs, observations)`.
      params: where the gradient is taken.
      scenario: parameters of the environment, without a leading axis.
      num_steps: of an episode, static.
      noise: standard deviation, above 0.
      batch_size: episodes of one estimate, at least 2.

    Returns:
      `"pathwise"` and `"score function"`.

    Raises:
      ValueError: a size out of range.
    """
    at_least("num_steps", num_steps, 1)
    at_least("batch_size", batch_size, 2)
    if not noise > 0:
        raise ValueError(f"noise is {noise!r}, but it has to be above 0")
    scenarios = jax.tree.map(lambda x: jnp.broadcast_to(x, (batch_size, *jnp.shape(x))), scenario)
    play = functools.partial(_play, policy, scenarios, num_steps, noise)

    def pathwise(key: Array) -> Array:
        smooth = env.with_transition_gradients()
        gradient = jax.grad(lambda params: jnp.mean(play(smooth, params, key, False)[0]))(params)
        return ravel_pytree(gradient)[0]

    def score_function(key: Array) -> Array:
        def surrogate(params: PyTree) -> Array:
            costs, log_probs = play(env, params, key, True)
            to_go = jnp.flip(jnp.cumsum(jnp.flip(costs, 0), 0), 0)
            weight = advantages.over_others_in_time(to_go.T, jnp.ones_like(to_go.T)).T
            return jnp.mean(log_probs * jax.lax.stop_gradient(weight))

        return ravel_pytree(jax.grad(surrogate)(params))[0]

    return {"pathwise": pathwise, "score function": score_function}


def compare_gradients(
    samplers: Mapping[str, Sampler], exact: np.ndarray, *, num_batches: int, seed: int = 0
) -> dict[str, Moments]:
    """Bias and variance of gradient estimates against the exact gradient, on the same keys.

    Args:
      samplers: `(key) -> estimate [P]` by name.
      exact: `[P]` float, not 0.
      num_batches: at least 2.
      seed: of the keys.

    Returns:
      `Moments` by name.

    >>> normal = lambda key: jnp.array([1.0, 0.0]) + jax.random.normal(key, (2,))
    >>> compare_gradients({"a": normal}, np.array([1.0, 0.0]), num_batches=500)["a"].unbiased
    True
    """
    at_least("num_batches", num_batches, 2)
    keys = jax.random.split(jax.random.key(seed), num_batches)
    found = {}
    for name, sampler in samplers.items():
        estimates = jax.jit(functools.partial(jax.lax.map, sampler))(keys)
        found[name] = moments(np.asarray(estimates), exact)
    return found


def _play(
    policy: Any,
    scenarios: PyTree,
    num_steps: int,
    noise: float,
    env: Environment,
    params: PyTree,
    key: Array,
    hold_actions: bool,
) -> tuple[Array, Array]:
    """Costs and log-likelihoods (up to a constant) `[T, B]`."""
    batch_size = simulation.num_scenarios(scenarios)
    key_reset, key_steps = jax.random.split(key)
    states = simulation.start(env, scenarios, jax.random.split(key_reset, batch_size))
    step_env = jax.vmap(env.step_env)

    def step(states: PyTree, key: Array) -> tuple[PyTree, tuple[Array, Array]]:
        key_noise, key_seen, key_env = jax.random.split(key, 3)
        keys = jax.random.split(key_env, batch_size)
        seen = jax.random.split(key_seen, batch_size)
        observations = simulation.observe(env, seen, states, scenarios)
        outputs = policy.outputs(params, observations)
        raw = outputs + noise * jax.random.normal(key_noise, outputs.shape)
        if hold_actions:
            raw = jax.lax.stop_gradient(raw)
        log_probs = -0.5 * jnp.sum(((raw - outputs) / noise) ** 2, axis=-1)
        action = policy.action(raw, observations)
        _, states, reward, _, _ = step_env(keys, states, action, scenarios)
        return states, (-reward, log_probs)

    return jax.lax.scan(step, states, jax.random.split(key_steps, num_steps))[1]
