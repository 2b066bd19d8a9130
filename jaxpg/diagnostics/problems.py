"""The problems of the gradient audit without state transitions of chance: bandits, token trees."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence

import numpy as np

from jaxpg.diagnostics.finite import END, Problem, random_logits


def bandit(
    mean_rewards: Sequence[float] | np.ndarray | int = 5,
    *,
    reward_noise: float = 0.0,
    logit_scale: float = 1.0,
    critic: str | float = "exact",
    seed: int = 0,
) -> Problem:
    """K arms, one decision.

    Args:
      mean_rewards: `[K]` float, or K, for K standard normal ones.
      reward_noise: standard deviation of the Gaussian noise on each reward.
      logit_scale: standard deviation of the policy's random logits; 0 is the uniform policy.
      critic: see `Problem`.
      seed: of the policy, and of the rewards where they are drawn.

    Returns:
      A `Problem` of one state.

    Raises:
      ValueError: fewer than two arms.

    >>> problem = bandit([0., 1.], logit_scale=0)
    >>> problem.expected_return(problem.params).item()
    0.5
    """
    rng = np.random.default_rng(seed)
    drawn = rng.normal(size=mean_rewards) if isinstance(mean_rewards, int) else mean_rewards
    reward = np.asarray(drawn, float)
    if reward.ndim != 1 or len(reward) < 2:
        raise ValueError(
            f"mean_rewards has shape {reward.shape}, but a bandit has rewards [K] with K at least 2"
        )
    return Problem(
        name=f"bandit, {len(reward)} arms",
        params=random_logits(seed, (1, len(reward)), logit_scale),
        reward=reward[None],
        successor=np.full((1, len(reward), 1), END),
        probability=np.ones((1, len(reward), 1)),
        initial=np.ones(1),
        horizon=1,
        reward_noise=reward_noise,
        critic=critic,
    )


def token_tree(
    vocabulary: int = 3,
    depth: int = 3,
    *,
    eos: int | None = None,
    num_prompts: int = 1,
    reward: Callable[[int, tuple[int, ...]], float] | None = None,
    logit_scale: float = 1.0,
    critic: str | float = "exact",
    seed: int = 0,
) -> Problem:
    """All texts of at most `depth` tokens; the policy has logits for every prompt and prefix.

    Args:
      vocabulary: V, at least 2.
      depth: D, at least 1, the longest text.
      eos: token that ends a text early, so that lengths vary; None gives all texts D tokens.
      num_prompts: prompts, all equally likely, each with its own tree.
      reward: `(prompt, tokens) -> float`, of a finished text (with its `eos`, where it has one),
        called on the host once for each. Default: 0 or 1 with equal probability, as a verifier
        pays.
      logit_scale: standard deviation of the policy's random logits.
      critic: see `Problem`.
      seed: of the policy, and of the rewards where they are drawn.

    Returns:
      A `Problem` whose states are the pairs of prompt and prefix and whose actions are tokens.

    Raises:
      ValueError: a size or `eos` is out of range.

    >>> problem = token_tree(2, 3, reward=lambda prompt, tokens: sum(tokens), logit_scale=0)
    >>> problem.expected_return(problem.params).item()
    1.5
    """
    for name, size, least in (
        ("vocabulary", vocabulary, 2),
        ("depth", depth, 1),
        ("num_prompts", num_prompts, 1),
    ):
        if size < least:
            raise ValueError(f"{name} is {size}, but a token tree needs at least {least}")
    if eos is not None and not 0 <= eos < vocabulary:
        raise ValueError(f"eos is {eos}, but the tokens are 0 to {vocabulary - 1}")
    rng = np.random.default_rng(seed)
    pay = reward or (lambda prompt, tokens: float(rng.integers(2)))
    nodes = [
        (prompt, prefix)
        for length in range(depth)
        for prompt in range(num_prompts)
        for prefix in itertools.product(range(vocabulary), repeat=length)
        if eos not in prefix
    ]
    index = {node: row for row, node in enumerate(nodes)}
    rewards = np.zeros((len(nodes), vocabulary))
    successor = np.full((len(nodes), vocabulary, 1), END)
    for (prompt, prefix), row in index.items():
        for token in range(vocabulary):
            tokens = (*prefix, token)
            if token == eos or len(tokens) == depth:
                rewards[row, token] = pay(prompt, tokens)
            else:
                successor[row, token, 0] = index[prompt, tokens]
    lengths = "" if eos is None else ", eos"
    prompts = "" if num_prompts == 1 else f", {num_prompts} prompts"
    return Problem(
        name=f"token tree, V={vocabulary} D={depth}{lengths}{prompts}",
        params=random_logits(seed, rewards.shape, logit_scale),
        reward=rewards,
        successor=successor,
        probability=np.ones_like(successor, float),
        initial=np.where(np.arange(len(nodes)) < num_prompts, 1.0 / num_prompts, 0.0),
        horizon=depth,
        critic=critic,
    )
