"""Environments in gymnax's interface: gymnax's, brax's through one adapter, and small exact ones.

    env, env_params = jaxpg_envs.make("CartPole-v1")
    env, env_params = jaxpg_envs.make("brax/ant", backend="spring")

An environment of your own needs no registration: anything with gymnax's `reset(key, params)` and
`step(key, state, action, params)` is used as it is. `register` only gives it a name for `make`,
and `check(env, params)` says whether it obeys the interface.
"""

import importlib

from jaxpg_envs.registry import list_envs, make, register

__all__ = [
    "check",
    "gridworld",
    "inventory",
    "list_envs",
    "locomotion",
    "make",
    "motor",
    "register",
    "to_gymnasium",
    "to_gymnasium_vector",
    "tokens",
]

_LAZY = {
    "check": "jaxpg_envs.contract",
    "to_gymnasium": "jaxpg_envs.gymnasium_bridge",
    "to_gymnasium_vector": "jaxpg_envs.gymnasium_bridge",
}
_SUBPACKAGES = ("gridworld", "inventory", "locomotion", "motor", "tokens")


def __getattr__(name: str):
    if name in _SUBPACKAGES:
        return importlib.import_module(f"jaxpg_envs.{name}")
    if name not in _LAZY:
        raise AttributeError(f"module 'jaxpg_envs' has no attribute {name!r}")
    return getattr(importlib.import_module(_LAZY[name]), name)
