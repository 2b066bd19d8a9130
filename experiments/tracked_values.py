"""What tracked values are worth: exact errors, the gradient's variance, simulated time saved."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from jaxpg.networks.language_model import LanguageModel, response_states
from jaxpg.networks.vocabulary import log_probs_of
from jaxpg.types import Array, Metrics, PyTree
from jaxpg_envs import tokens
from jaxpg_envs.tokens import Prompts, TokenTask


def evaluation(task: TokenTask, model: LanguageModel) -> Callable[[PyTree, Array], Metrics]:
    """Exact success on the pool, and how near a method's tracked values are to it.

    Args:
      task: small enough to enumerate its responses.
      model: the policy.

    Returns:
      `(state, key) -> metrics`: `eval_success`; and where the method tracks values,
      `eval_tracker_error` (mean absolute), `eval_tracker_correlation` (0 where either is
      constant), and the variance of the reward over uniform prompts with and without the tracked
      value subtracted, `eval_surprise_variance` and `eval_reward_variance`.
    """
    prompts = task.prompts(jnp.arange(task.num_prompts, dtype=jnp.int32))

    def evaluate(state: PyTree, key: Array) -> Metrics:
        del key
        success = tokens.exact_success(task, score_of(model, state.params), prompts)
        found = {"eval_success": jnp.mean(success)}
        value = getattr(state.method, "value", None)
        if value is None:
            return found
        spread = jnp.std(value) * jnp.std(success)
        together = jnp.mean((value - value.mean()) * (success - success.mean()))
        within = jnp.mean(success * (1.0 - success))
        return found | {
            "eval_tracker_error": jnp.mean(jnp.abs(value - success)),
            "eval_tracker_correlation": together / jnp.maximum(spread, 1e-9),
            "eval_surprise_variance": within + jnp.var(success - value),
            "eval_reward_variance": within + jnp.var(success),
        }

    return evaluate


def score_of(model: LanguageModel, params: PyTree) -> Callable[[Prompts, Array, Array], Array]:
    """Log-probability of whole responses.

    Args:
      model: the policy.
      params: of the model.

    Returns:
      `(prompts [E], tokens [E, R], mask [E, R]) -> [E]`, nats.
    """

    def score(prompts: Prompts, responses: Array, mask: Array) -> Array:
        states = response_states(model, params, prompts.tokens, prompts.mask, responses, mask)
        log_prob, _ = log_probs_of(model, params, states, responses)
        return jnp.sum(jnp.where(mask, log_prob, 0.0), axis=1)

    return score


def gradient_noise(
    task: TokenTask, model: LanguageModel
) -> Callable[[PyTree, Array], dict[str, Array]]:
    """Variance of the policy gradient with a baseline for each prompt, by enumeration.

    The estimate of one response to one uniform prompt is `(reward - baseline) grad log pi`; its
    mean is the same for every baseline, and its variance is the trace of its covariance.

    Args:
      task: with a reward of 0 or 1, small enough to enumerate its responses.
      model: the policy.

    Returns:
      `(params, values [N]) -> variances`, each divided by that with the mean success of the pool
      as the baseline of all prompts: `tracked` with the values given, `true` with the exact
      success of each prompt, `none` with 0.
    """
    every = jax.tree.map(jnp.asarray, tokens.responses(task))
    num_responses = every.finished.shape[0]
    prompts = task.prompts(jnp.arange(task.num_prompts, dtype=jnp.int32))

    def of_prompt(params: PyTree, prompt: Prompts) -> tuple[Array, Array, Array]:
        copies = jax.tree.map(
            lambda leaf: jnp.broadcast_to(leaf, (num_responses, *leaf.shape)), prompt
        )
        reward = task.reward(copies, *every).value

        def log_prob(params: PyTree, response: Array, mask: Array) -> Array:
            one = jax.tree.map(lambda leaf: leaf[None], prompt)
            return score_of(model, params)(one, response[None], mask[None])[0]

        each = jax.vmap(jax.value_and_grad(log_prob), in_axes=(None, 0, 0))
        log_probs, gradients = each(params, every.tokens, every.mask)
        squares = sum(
            jnp.sum(leaf.reshape(num_responses, -1) ** 2, axis=1)
            for leaf in jax.tree.leaves(gradients)
        )
        probability = jnp.exp(log_probs)
        mean = jax.tree.map(
            lambda leaf: jnp.tensordot(probability * reward, leaf, axes=1), gradients
        )
        # Sums over responses of the squared length times 1, reward and (reward - b)^2 follow.
        return (
            mean,
            jnp.stack([probability @ squares, (probability * reward) @ squares]),
            (probability @ reward),
        )

    def noise(params: PyTree, values: Array) -> dict[str, Array]:
        means, moments, success = jax.lax.map(lambda p: of_prompt(params, p), prompts)
        mean = jax.tree.map(lambda leaf: jnp.mean(leaf, axis=0), means)
        signal = sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(mean))

        def variance(baseline: Array) -> Array:
            # A reward of 0 or 1 is its own square.
            second = moments[:, 1] * (1.0 - 2.0 * baseline) + moments[:, 0] * baseline**2
            return jnp.mean(second) - signal

        usual = variance(jnp.full_like(values, jnp.mean(success)))
        baselines = {"tracked": values, "true": success, "none": jnp.zeros_like(values)}
        return {name: variance(baseline) / usual for name, baseline in baselines.items()}

    return noise


def simulated_speed_up(
    num_groups: int,
    group_size: int,
    in_flight: int,
    sigma: float,
    *,
    num_simulations: int = 400,
    seed: int = 0,
) -> float:
    """How much sooner single responses are collected than whole groups, in a simulation.

    The same number of responses is under way in both cases. A batch of groups is there when
    `num_groups` of them have all their members; a batch without groups, when as many responses
    have come.

    Args:
      num_groups: awaited.
      group_size: members of each.
      in_flight: responses under way for one that is awaited, at least 1.
      sigma: standard deviation of the logarithm of the response times.
      num_simulations: batches.
      seed: of the times.

    Returns:
      Mean time of the groups over mean time of the single responses.

    >>> simulated_speed_up(16, 1, 2, 1.0)
    1.0
    """
    shape = (num_simulations, in_flight * num_groups, group_size)
    times = np.random.default_rng(seed).lognormal(0.0, sigma, shape)
    groups = np.sort(times.max(axis=2), axis=1)[:, num_groups - 1]
    single = np.sort(times.reshape(num_simulations, -1), axis=1)[:, num_groups * group_size - 1]
    return float(groups.mean() / single.mean())
