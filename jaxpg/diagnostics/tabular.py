"""Tabular Markov decision processes as problems of the gradient audit."""

from __future__ import annotations

from typing import Any

import numpy as np

from jaxpg.diagnostics.finite import END, Problem, random_logits

FIELDS = ("transition", "reward", "initial", "terminal", "max_steps_in_episode")


def tabular_mdp(
    transition: Any,
    reward: Any = None,
    initial: Any = None,
    terminal: Any = None,
    *,
    horizon: int | None = None,
    time_dependent: bool = False,
    logit_scale: float = 1.0,
    critic: str | float = "exact",
    seed: int = 0,
) -> Problem:
    """A Markov decision process from arrays, or from an object that holds them.

    Args:
      transition: `[S, A, S]` float, probability of the next state; or, alone, any object with the
        fields `transition`, `reward`, `initial`, `terminal` and `max_steps_in_episode`, such as
        the parameters of the environment "tabular/random".
      reward: `[S, A]` float.
      initial: `[S]` float, probability of the first state.
      terminal: `[S]` bool, states that end the episode when entered. Default: none.
      horizon: at least 1; by default the object's `max_steps_in_episode`. Reaching it terminates.
      time_dependent: whether the policy has logits for each time and state, `[horizon * S, A]`
        (the row of time t and state s is `t * S + s`), or for each state, `[S, A]`.
      logit_scale: standard deviation of the policy's random logits.
      critic: see `Problem`.
      seed: of the policy.

    Returns:
      A `Problem`.

    Raises:
      TypeError: an object without the fields.
      ValueError: shapes that do not fit, rows that are no probabilities, no horizon.
    """
    if not hasattr(transition, "ndim"):
        process = transition
        missing = [name for name in FIELDS if not hasattr(process, name)]
        if missing:
            hint = "its default_params" if hasattr(process, "default_params") else "arrays"
            raise TypeError(
                f"transition is a {type(process).__name__} without the field {missing[0]!r}, but "
                f"an array [S, A, S] or an object with {', '.join(FIELDS)} is needed: pass {hint}"
            )
        transition, reward, initial, terminal = (getattr(process, name) for name in FIELDS[:4])
        horizon = int(process.max_steps_in_episode) if horizon is None else horizon
    if horizon is None:
        raise ValueError("horizon is None, but arrays alone do not say how long an episode is")
    transition, reward, initial, terminal = _checked(transition, reward, initial, terminal)
    successor, probability = _branches(transition, terminal)
    if time_dependent:
        reward, initial, successor, probability = _unrolled(
            horizon, reward, initial, successor, probability
        )
    num_states, num_actions = transition.shape[:2]
    kind = "time-dependent" if time_dependent else "stationary"
    return Problem(
        name=f"tabular MDP, S={num_states} A={num_actions} H={horizon}, {kind} policy",
        params=random_logits(seed, reward.shape, logit_scale),
        reward=reward,
        successor=successor,
        probability=probability,
        initial=initial,
        horizon=horizon,
        critic=critic,
    )


def random_mdp(
    num_states: int = 3,
    num_actions: int = 2,
    horizon: int = 4,
    *,
    time_dependent: bool = False,
    logit_scale: float = 1.0,
    critic: str | float = "exact",
    seed: int = 0,
) -> Problem:
    """A tabular process of a given size, with random transitions and standard normal rewards.

    Args:
      num_states: S, at least 1.
      num_actions: A, at least 2.
      horizon: H, at least 1.
      time_dependent: see `tabular_mdp`.
      logit_scale: standard deviation of the policy's random logits.
      critic: see `Problem`.
      seed: of the process and the policy.

    Returns:
      A `Problem`.

    >>> random_mdp(3, 2, 4).num_trajectories
    3888.0
    """
    rng = np.random.default_rng(seed)
    return tabular_mdp(
        rng.dirichlet(np.ones(num_states), (num_states, num_actions)),
        rng.normal(size=(num_states, num_actions)),
        rng.dirichlet(np.ones(num_states)),
        horizon=horizon,
        time_dependent=time_dependent,
        logit_scale=logit_scale,
        critic=critic,
        seed=seed,
    )


def _checked(transition: Any, reward: Any, initial: Any, terminal: Any) -> tuple[np.ndarray, ...]:
    transition = np.asarray(transition, float)
    if transition.ndim != 3 or transition.shape[0] != transition.shape[2]:
        raise ValueError(f"transition has shape {transition.shape}, but it must be [S, A, S]")
    num_states, num_actions, _ = transition.shape
    terminal = np.zeros(num_states, bool) if terminal is None else np.asarray(terminal, bool)
    arrays = {"reward": reward, "initial": initial, "terminal": terminal}
    shapes = {"reward": (num_states, num_actions)}
    for name, array in arrays.items():
        wanted = shapes.get(name, (num_states,))
        if array is None or np.shape(array) != wanted:
            given = "missing" if array is None else f"of shape {np.shape(array)}"
            raise ValueError(f"{name} is {given}, but next to transition it must be {wanted}")
    initial = np.asarray(initial, float)
    for name, rows in (("transition", transition), ("initial", initial)):
        if (rows < 0).any() or not np.allclose(rows.sum(-1), 1.0, atol=1e-4):
            raise ValueError(f"{name} has a row that is negative somewhere or does not sum to 1")
    if initial[terminal].any():
        raise ValueError("initial gives probability to a terminal state, where nothing is decided")
    # Sampling normalises; what is computed exactly has to, too.
    transition = transition / transition.sum(-1, keepdims=True)
    return transition, np.asarray(reward, float), initial / initial.sum(), terminal


def _branches(transition: np.ndarray, terminal: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Keeps as many successors as the widest row has, the most likely ones first."""
    width = int((transition > 0).sum(-1).max())
    successor = np.argsort(-transition, axis=-1, kind="stable")[..., :width]
    probability = np.take_along_axis(transition, successor, axis=-1)
    return np.where(terminal[successor], END, successor), probability


def _unrolled(
    horizon: int,
    reward: np.ndarray,
    initial: np.ndarray,
    successor: np.ndarray,
    probability: np.ndarray,
) -> tuple[np.ndarray, ...]:
    """One copy of the states for each time."""
    num_states = len(initial)
    copies = []
    for time in range(horizon):
        later = (time + 1) * num_states + successor
        # After the last decision nothing is looked up, but the index has to exist.
        copies.append(np.where((successor == END) | (time == horizon - 1), END, later))
    return (
        np.tile(reward, (horizon, 1)),
        np.concatenate([initial, np.zeros((horizon - 1) * num_states)]),
        np.concatenate(copies),
        np.tile(probability, (horizon, 1, 1)),
    )
