"""Environments by name: gymnax's ids, "brax/<name>", ours, and the user's own."""

import dataclasses
import functools
import inspect
from collections.abc import Callable
from typing import Any

import gymnax
from gymnax.environments.environment import Environment, EnvParams

from jaxpg_envs import bandit, brax_adapter, gymnax_repairs, tabular
from jaxpg_envs.choices import refusal
from jaxpg_envs.gridworld import handcrafted, levels
from jaxpg_envs.inventory import retail, settings
from jaxpg_envs.locomotion import tasks
from jaxpg_envs.motor import ids

# gymnax downloads the images when it builds this one, so it is made on request but never listed.
_NEEDS_DOWNLOAD = "MNISTBandit-bsuite"

_factories: dict[str, Callable[..., Environment]] = {
    "bandit": bandit.Bandit,
    "gridworld/random": levels.random_instance,
    "inventory/many-warehouses": settings.many_warehouses,
    "inventory/many-warehouses-retail": retail.many_warehouses_retail,
    "inventory/one-store-backlogged": settings.one_store_backlogged,
    "inventory/one-store-lost": settings.one_store_lost,
    "inventory/one-store-retail": retail.one_store_retail,
    "inventory/one-warehouse": settings.one_warehouse,
    "inventory/serial": settings.serial,
    "inventory/transshipment": settings.transshipment,
    "tabular/chain": tabular.chain,
    "tabular/random": tabular.random_instance,
    **handcrafted.factories(),
    **ids.factories(),
    **tasks.factories(),
}


def list_envs() -> list[str]:
    """Names that `make` accepts.

    Returns:
      Sorted list of names: gymnax's ids, "brax/<name>", "bandit", "gridworld/<name>",
      "inventory/<name>", "tabular/<name>", the drives of `motor.ids.names()`, the tasks of
      `locomotion.tasks.names()`, and everything given to `register` or to `gymnax.register`.
      "MNISTBandit-bsuite" is left out: `make` accepts it, but gymnax downloads its data when it is
      built. Does not import brax.

    >>> "CartPole-v1" in list_envs(), "brax/ant" in list_envs()
    (True, True)
    """
    brax_names = {f"brax/{name}" for name in brax_adapter.CLASSES}
    names = set(_factories) | brax_names | set(gymnax.registered_envs)
    return sorted(names - {_NEEDS_DOWNLOAD})


def register(name: str, factory: Callable[..., Environment]) -> None:
    """Give an environment a name that `make` accepts.

    Args:
      name: a name that is not taken.
      factory: callable that returns an environment in gymnax's interface; the class itself will
        do. It receives the keyword arguments of `make` that are no fields of its `EnvParams`.

    Raises:
      TypeError: `name` is not a string, or `factory` cannot be called.
      ValueError: `name` is empty or taken.
    """
    if not isinstance(name, str):
        raise TypeError(f"name={name!r} is not a string")
    if not callable(factory):
        raise TypeError(f"factory={factory!r} is not callable; pass a class or a function")
    if not name or name in list_envs() or name == _NEEDS_DOWNLOAD:
        reason = "is already registered; choose another name" if name else "is empty"
        raise ValueError(f"name={name!r} {reason}")
    _factories[name] = factory


def make(name: str, **kwargs: Any) -> tuple[Environment, EnvParams]:
    """Build an environment.

    Args:
      name: one of `list_envs()`.
      **kwargs: arguments of the environment's constructor (`backend="spring"` for brax), and
        fields of its `EnvParams`, which replace the default values in the returned parameters.
        A name that is both goes to the constructor.

    Returns:
      `(env, params)`: a gymnax-style environment and its default parameters.

    Raises:
      ValueError: unknown `name`.
      TypeError: a keyword argument that is neither.

    >>> env, params = make("CartPole-v1", max_steps_in_episode=200)
    >>> params.max_steps_in_episode
    200
    """
    constructor = _constructor(name)
    options, open_ended = _options(constructor)
    given = {key: value for key, value in kwargs.items() if key in options}
    rest = {key: value for key, value in kwargs.items() if key not in options}
    env = constructor(**given)
    params = env.default_params
    fields = [field.name for field in dataclasses.fields(params)]
    unknown = {key: value for key, value in rest.items() if key not in fields}
    if unknown and open_ended:
        env = constructor(**given, **unknown)
        params = env.default_params
    elif unknown:
        raise TypeError(
            refusal(f"make({name!r}): keyword", next(iter(unknown)), options | set(fields))
        )
    overrides = {key: value for key, value in rest.items() if key in fields}
    return env, params.replace(**overrides)


def _constructor(name: str) -> Callable[..., Environment]:
    if name in _factories:
        return _factories[name]
    if name.startswith("brax/") and name.removeprefix("brax/") in brax_adapter.CLASSES:
        return brax_adapter.constructor(name.removeprefix("brax/"))
    if name in gymnax.registered_envs:
        return _gymnax_constructor(name)
    listing = f"the {len(list_envs())} names in jaxpg_envs.list_envs()"
    raise ValueError(refusal("name", name, list_envs(), listing))


def _gymnax_constructor(name: str) -> Callable[..., Environment]:
    if name in gymnax_repairs.REPAIRED:
        return gymnax_repairs.REPAIRED[name]
    if name == _NEEDS_DOWNLOAD:
        from gymnax.environments.bsuite.mnist import MNISTBandit

        return MNISTBandit

    @functools.wraps(type(gymnax.make(name)[0]))
    def build(**kwargs):
        return gymnax.make(name, **kwargs)[0]

    return build


def _options(constructor: Callable[..., Environment]) -> tuple[set[str], bool]:
    """Keyword names that a constructor declares, and whether it takes others besides."""
    parameters = inspect.signature(constructor).parameters.values()
    named = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    names = {parameter.name for parameter in parameters if parameter.kind in named}
    open_ended = any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in parameters)
    return names, open_ended
