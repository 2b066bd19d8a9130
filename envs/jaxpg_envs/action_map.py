"""An environment whose action is what a policy head reads: the head becomes part of the world."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from gymnax.environments import environment, spaces
from numpy.typing import ArrayLike

PyTree = Any

ActionOf = Callable[[jax.Array, PyTree], PyTree]
"""`(raw [B, N], observations [B, ...]) -> actions [B, ...]`."""


class MappedActions(environment.Environment):
    """Takes N raw numbers as the action and turns them into the action of another environment.

    What a structured policy does with the outputs of its network (shares of what is on hand, say)
    may be written once, and any agent with a box of actions is trained behind it.

    Attributes:
      env: the environment behind.
      action_of: see the constructor.
    """

    def __init__(
        self,
        env: environment.Environment,
        action_of: ActionOf,
        num_raw: int,
        low: ArrayLike = -np.inf,
        high: ArrayLike = np.inf,
    ):
        """Wrap an environment.

        Args:
          env: in gymnax's interface; what it observes must depend on its state only.
          action_of: `(raw [B, N], observations [B, ...]) -> actions [B, ...]`, called with B = 1.
          num_raw: N, at least 1.
          low: `[N]` or a number, least raw action.
          high: `[N]` or a number, greatest.

        Raises:
          TypeError: `action_of` cannot be called.
          ValueError: `num_raw` below 1, bounds of another shape, or none between them.

        >>> import jaxpg_envs
        >>> env, params = jaxpg_envs.make("tabular/chain")
        >>> signs = MappedActions(env, lambda raw, seen: (raw[:, 0] > 0).astype(int), num_raw=1)
        >>> signs.action_space(params)
        Box(low=-inf, high=inf, shape=(1,), dtype=float32)
        """
        if not callable(action_of):
            raise TypeError(f"action_of={action_of!r} is not callable")
        if num_raw < 1:
            raise ValueError(f"num_raw is {num_raw!r}, but it has to be at least 1")
        for name, bound in (("low", low), ("high", high)):
            if np.shape(bound) not in ((), (num_raw,)):
                raise ValueError(
                    f"{name} has shape {np.shape(bound)}, but a number or ({num_raw},) is needed"
                )
        if not np.all(np.asarray(low) < np.asarray(high)):
            raise ValueError(f"low is {low!r}, but it has to be below high={high!r}")
        self.env = env
        self.action_of = action_of
        self._num_raw = num_raw
        self._low, self._high = np.asarray(low, np.float32), np.asarray(high, np.float32)

    @property
    def name(self) -> str:
        """Name of the environment behind."""
        return self.env.name

    @property
    def default_params(self) -> environment.EnvParams:
        """Those of the environment behind."""
        return self.env.default_params

    @property
    def num_actions(self) -> int:
        """N."""
        return self._num_raw

    @property
    def supports_transition_gradients(self) -> bool:
        """Whether the environment behind does."""
        return self.env.supports_transition_gradients

    @property
    def transition_gradients_enabled(self) -> bool:
        """Whether the environment behind preserves them."""
        return self.env.transition_gradients_enabled

    def with_transition_gradients(self) -> MappedActions:
        """A copy around an environment that preserves gradients."""
        configured = copy.copy(self)
        configured.env = self.env.with_transition_gradients()
        return configured

    def reset_env(self, key: jax.Array, params: Any) -> tuple[PyTree, Any]:
        """As behind."""
        return self.env.reset_env(key, params)

    def step_env(
        self, key: jax.Array, state: Any, action: jax.Array, params: Any
    ) -> tuple[PyTree, Any, jax.Array, jax.Array, dict[str, Any]]:
        """As behind, with the action that the raw one stands for."""
        observation = self.env.observe(key, state, None, params)
        one = jax.tree.map(lambda x: x[None], observation)
        mapped = self.action_of(jnp.asarray(action)[None], one)
        mapped = jax.tree.map(lambda x: x[0], mapped)
        return self.env.step_env(key, state, mapped, params)

    def observe(self, key: jax.Array, state: Any, action: jax.Array | None, params: Any) -> PyTree:
        """As behind; the action, which would be a raw one, is not passed on."""
        del action
        return self.env.observe(key, state, None, params)

    def is_terminated(self, state: Any, params: Any) -> jax.Array:
        """As behind."""
        return self.env.is_terminated(state, params)

    def is_truncated(self, state: Any, params: Any) -> jax.Array:
        """As behind."""
        return self.env.is_truncated(state, params)

    def action_space(self, params: Any = None) -> spaces.Box:
        """Box `[N]`; without bounds a sample is standard normal."""
        if np.isfinite(self._low).all() and np.isfinite(self._high).all():
            return spaces.Box(self._low, self._high, (self._num_raw,))
        return _Unbounded(self._low, self._high, (self._num_raw,))

    def observation_space(self, params: Any = None) -> spaces.Space:
        """As behind."""
        return self.env.observation_space(params)


class _Unbounded(spaces.Box):
    """A box whose samples, which would be infinite, are normal ones within the bounds."""

    def sample(self, key: jax.Array) -> jax.Array:
        drawn = jax.random.normal(key, self.shape, self.dtype)
        return jnp.clip(drawn, self.low, self.high)
