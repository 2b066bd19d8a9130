"""Tasks for language models: prompts, a reward for responses, demonstrations.

    task = jaxpg_envs.tokens.fork_sum(length=4, modulus=7)
    prompts = task.prompts(jnp.arange(32))
    tokens, mask = task.demonstrations(key, prompts)
    task.reward(prompts, tokens, mask, finished).value

A task of your own is a `TokenTask`; nothing is registered.
"""

import importlib

from jaxpg_envs.tokens.arithmetic import arithmetic
from jaxpg_envs.tokens.digit_sum import digit_sum
from jaxpg_envs.tokens.exact import exact_success, responses
from jaxpg_envs.tokens.fork_sum import fork_sum
from jaxpg_envs.tokens.task import Prompts, Reward, TokenTask, WarmStart, transcripts

__all__ = [
    "HostReward",
    "Prompts",
    "Reward",
    "RewardError",
    "TokenTask",
    "WarmStart",
    "WholeBatch",
    "arithmetic",
    "compact",
    "digit_sum",
    "exact_success",
    "fork_sum",
    "host_reward",
    "reasoning_gym",
    "responses",
    "text_task",
    "transcripts",
]

_LAZY: dict[str, str] = {
    "HostReward": "jaxpg_envs.tokens.host_rewards",
    "RewardError": "jaxpg_envs.tokens.host_rewards",
    "WholeBatch": "jaxpg_envs.tokens.host_rewards",
    "compact": "jaxpg_envs.tokens.reasoning_gym_problems",
    "host_reward": "jaxpg_envs.tokens.host_callback",
    "reasoning_gym": "jaxpg_envs.tokens.reasoning_gym_adapter",
    "text_task": "jaxpg_envs.tokens.text",
}


def __getattr__(name: str):
    if name not in _LAZY:
        raise AttributeError(f"module 'jaxpg_envs.tokens' has no attribute {name!r}")
    return getattr(importlib.import_module(_LAZY[name]), name)
