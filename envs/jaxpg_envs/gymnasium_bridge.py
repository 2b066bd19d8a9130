"""gymnax-style environments as `gymnasium.Env` and `gymnasium.vector.VectorEnv`."""

import functools
import re
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

try:
    import gymnasium
except ImportError as error:
    raise ImportError(
        'the bridge needs gymnasium, which is not installed; run: pip install "jaxpg[gymnasium]"'
    ) from error
from gymnasium.envs.registration import EnvSpec
from gymnasium.error import ResetNeeded
from gymnasium.vector import AutoresetMode
from gymnasium.vector.utils import batch_space

from jaxpg_envs import gymnasium_autoreset
from jaxpg_envs.choices import refusal
from jaxpg_envs.gymnasium_autoreset import transitions
from jaxpg_envs.gymnasium_dispatch import fetch, jit_on_leaves
from jaxpg_envs.gymnasium_infos import final_infos, masked
from jaxpg_envs.gymnasium_spaces import convert, from_arrays, to_arrays


def to_gymnasium(env: Any, params: Any = None) -> gymnasium.Env:
    """One environment as a `gymnasium.Env`.

    Each call of `step` is one jitted program; observations come back as numpy arrays of their own,
    `reward` as a float, `terminated` and `truncated` as bools. Episodes end and stay ended until
    `reset`, as gymnasium wants it. `reset(seed=s)` always gives the same episode; without a seed
    the random key goes on where it was. Seeds are taken modulo 2**32.

    Args:
      env: an environment in gymnax's interface, wrapped or not, registered or not.
      params: its parameters, fixed from here on; `env.default_params` by default.

    Returns:
      The environment for gymnasium.

    >>> from jaxpg_envs import make
    >>> env = to_gymnasium(*make("CartPole-v1"))
    >>> observation, info = env.reset(seed=0)
    >>> observation.shape, env.action_space
    ((4,), Discrete(2))
    """
    return BridgedEnv(env, env.default_params if params is None else params)


def to_gymnasium_vector(
    env: Any,
    params: Any = None,
    num_envs: int = 1,
    autoreset_mode: str | AutoresetMode = AutoresetMode.NEXT_STEP,
) -> gymnasium.vector.VectorEnv:
    """A batch of environments as a `gymnasium.vector.VectorEnv`, stepped by one jitted program.

    It behaves as `gymnasium.vector.SyncVectorEnv` over `num_envs` environments of `to_gymnasium`
    does, bit for bit: environment i of `reset(seed=s)` has the seed `s + i`.

    Args:
      env: an environment in gymnax's interface, wrapped or not, registered or not.
      params: its parameters, fixed from here on; `env.default_params` by default.
      num_envs: at least 1.
      autoreset_mode: an `AutoresetMode` or its value. "NextStep": the call after an end resets,
        ignores the action and pays 0. "SameStep": the ending call resets, and the last observation
        and info are in `info["final_obs"]` and `info["final_info"]`. "Disabled": the caller resets,
        with `options={"reset_mask": mask}`.

    Returns:
      The vector environment for gymnasium.

    Raises:
      ValueError: `num_envs` or `autoreset_mode` out of range.
    """
    if num_envs < 1:
        raise ValueError(f"num_envs={num_envs} must be at least 1")
    try:
        mode = AutoresetMode(autoreset_mode)
    except ValueError as error:
        modes = [mode.value for mode in AutoresetMode]
        raise ValueError(refusal("autoreset_mode", autoreset_mode, modes)) from error
    params = env.default_params if params is None else params
    return BridgedVectorEnv(env, params, num_envs, mode)


class BridgedEnv(gymnasium.Env):
    """The environment that `to_gymnasium` returns."""

    def __init__(self, env: Any, params: Any):
        """Compile nothing yet; see `to_gymnasium`."""
        self.metadata = {"render_modes": []}
        self.observation_space = convert(env.observation_space(params))
        self.action_space = convert(env.action_space(params))
        self.spec = _spec(env, params)
        reset, self._advance = transitions(env, params, self.observation_space)
        self._jitted_reset = jax.jit(functools.partial(_reset, reset))
        self._jitted_step = None
        self._leaves = None

    def reset(self, *, seed: int | None = None, options: dict | None = None) -> tuple[Any, dict]:
        """Start an episode; see `gymnasium.Env.reset`. `options` are accepted and not used."""
        super().reset(seed=seed)
        if seed is None and self._leaves is not None:
            key = self._leaves[0]
        else:
            seed = int(self.np_random.integers(2**32)) if seed is None else seed
            key = _key_data(np.uint32(seed % 2**32))
        carry, observation = self._jitted_reset(key)
        if self._jitted_step is None:
            self._jitted_step = jit_on_leaves(functools.partial(_step, self._advance), carry)
        self._leaves = jax.tree.leaves(carry)
        return from_arrays(self.observation_space, fetch(observation)), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict]:
        """Take one step; see `gymnasium.Env.step`."""
        if self._leaves is None:
            raise ResetNeeded("step was called before reset; call reset first")
        action = to_arrays(self.action_space, action)
        self._leaves, results = self._jitted_step(self._leaves, action)
        observation, outcome, info = fetch(results)
        reward, terminated, truncated = outcome.tolist()
        observation = from_arrays(self.observation_space, observation)
        return observation, reward, terminated > 0, truncated > 0, info


class BridgedVectorEnv(gymnasium.vector.VectorEnv):
    """The environment that `to_gymnasium_vector` returns."""

    def __init__(self, env: Any, params: Any, num_envs: int, autoreset_mode: AutoresetMode):
        """Compile nothing yet; see `to_gymnasium_vector`."""
        self.num_envs = num_envs
        self.autoreset_mode = autoreset_mode
        self.metadata = {"render_modes": [], "autoreset_mode": autoreset_mode}
        self.single_observation_space = convert(env.observation_space(params))
        self.single_action_space = convert(env.action_space(params))
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        self.spec = _spec(env, params)
        pair = transitions(env, params, self.single_observation_space)
        reset, advance = map(jax.vmap, pair)
        mode = _MODES[autoreset_mode]
        self._step = functools.partial(_batched_step, functools.partial(mode, reset, advance))
        self._jitted_reset = jax.jit(functools.partial(gymnasium_autoreset.reset_all, reset))
        self._reset_some = functools.partial(gymnasium_autoreset.reset_some, reset)
        self._jitted_reset_some = None
        self._jitted_step = None
        self._leaves = None
        self._observation = None
        self._ended = np.zeros(num_envs, bool)

    def reset(
        self, *, seed: int | Sequence[int | None] | None = None, options: dict | None = None
    ) -> tuple[Any, dict]:
        """Start episodes; see `gymnasium.vector.SyncVectorEnv.reset`.

        Args:
          seed: an int s for the seeds s, s + 1, ...; or one int for each environment, None where
            its random key is to go on; or None for all of them.
          options: `{"reset_mask": mask}`, `[num_envs]` bool, resets these environments only.

        Returns:
          Observations of all environments, and an empty info.

        Raises:
          ValueError: a list of seeds or a mask of the wrong size.
        """
        super().reset(seed=seed if isinstance(seed, int) else None)
        mask = None if options is None else options.get("reset_mask")
        mask = None if mask is None else self._checked(mask)
        keys = self._keys(seed)
        if mask is None:
            carry, self._observation = self._jitted_reset(keys)
            self._leaves = jax.tree.leaves(carry)
            self._ended = np.zeros(self.num_envs, bool)
            if self._jitted_step is None:
                self._jitted_step = jit_on_leaves(self._step, carry)
                self._jitted_reset_some = jit_on_leaves(self._reset_some, carry)
        else:
            self._leaves, (self._observation,) = self._jitted_reset_some(
                self._leaves, self._observation, keys, mask
            )
            self._ended = self._ended & ~mask
        return from_arrays(self.observation_space, fetch(self._observation)), {}

    def step(self, actions: Any) -> tuple[Any, np.ndarray, np.ndarray, np.ndarray, dict]:
        """Step all environments; see `gymnasium.vector.VectorEnv.step`."""
        if self._leaves is None:
            raise ResetNeeded("step was called before reset; call reset first")
        if self.autoreset_mode is AutoresetMode.DISABLED and self._ended.any():
            ended = np.flatnonzero(self._ended).tolist()
            raise ResetNeeded(f'environments {ended} have ended; reset them with "reset_mask"')
        actions = to_arrays(self.action_space, actions)
        self._leaves, (final, *results) = self._jitted_step(self._leaves, actions)
        self._observation = results[0]
        observation, (reward, *flags), info = fetch(results)
        observation = from_arrays(self.observation_space, observation)
        terminated, truncated = (flag > 0 for flag in flags)
        ended = terminated | truncated
        if self.autoreset_mode is AutoresetMode.SAME_STEP:
            infos = masked(info, ~ended)
            if ended.any():
                infos |= final_infos(self.single_observation_space, fetch(final), info, ended)
        else:
            # Only the next-step mode leaves anything ended here: those rows were reset.
            infos = masked(info, ~self._ended)
        self._ended = ended
        return observation, reward.astype(np.float64), terminated, truncated, infos

    def _keys(self, seed: int | Sequence[int | None] | None) -> jax.Array:
        if isinstance(seed, (int, np.integer)):
            seeds = [int(seed) + i for i in range(self.num_envs)]
        else:
            seeds = [None] * self.num_envs if seed is None else list(seed)
        if len(seeds) != self.num_envs:
            raise ValueError(f"seed has {len(seeds)} entries; num_envs={self.num_envs} are needed")
        going_on = np.array([s is None for s in seeds])
        if going_on.all() and self._leaves is not None:
            return self._leaves[0]
        if self._leaves is None:
            drawn = self.np_random.integers(2**32, size=self.num_envs).tolist()
            seeds = [d if s is None else s for s, d in zip(seeds, drawn, strict=True)]
        keys = _batched_key_data(np.array([(s or 0) % 2**32 for s in seeds], np.uint32))
        if self._leaves is None:
            return keys
        return jnp.where(going_on[:, None], self._leaves[0], keys)

    def _checked(self, mask: Any) -> np.ndarray:
        mask = np.asarray(mask)
        if mask.shape != (self.num_envs,) or mask.dtype != np.bool_ or not mask.any():
            raise ValueError(
                f"reset_mask of shape {mask.shape} and dtype {mask.dtype} must be a bool array of "
                f"shape ({self.num_envs},) with at least one True"
            )
        if self._leaves is None:
            raise ResetNeeded("reset_mask was given before the first reset; reset all first")
        return mask


_MODES = {
    AutoresetMode.NEXT_STEP: gymnasium_autoreset.next_step,
    AutoresetMode.SAME_STEP: gymnasium_autoreset.same_step,
    AutoresetMode.DISABLED: gymnasium_autoreset.disabled,
}


@jax.jit
def _key_data(seed: jax.Array) -> jax.Array:
    return jax.random.key_data(jax.random.key(seed))


_batched_key_data = jax.jit(jax.vmap(_key_data))


def _reset(reset: Callable, key_data: jax.Array) -> tuple:
    key_data, _, for_reset = gymnasium_autoreset.split(key_data)
    observation, state = reset(for_reset)
    return (key_data, state), observation


def _step(advance: Callable, carry: tuple, action: Any) -> tuple:
    key_data, state = carry
    key_data, for_step, _ = gymnasium_autoreset.split(key_data)
    observation, state, reward, terminated, truncated, info = advance(for_step, state, action)
    return (key_data, state), observation, _outcome(reward, terminated, truncated), info


def _batched_step(step: Callable, carry: tuple, action: Any) -> tuple:
    carry, observation, final, reward, terminated, truncated, info = step(carry, action)
    return carry, final, observation, _outcome(reward, terminated, truncated), info


def _outcome(reward: jax.Array, terminated: jax.Array, truncated: jax.Array) -> jax.Array:
    # One transfer instead of three.
    reward = jnp.asarray(reward, jnp.result_type(reward, float))
    return jnp.stack([reward, terminated.astype(reward.dtype), truncated.astype(reward.dtype)])


def _spec(env: Any, params: Any) -> EnvSpec:
    name = re.sub(r"[^\w:.-]", "-", getattr(env, "name", type(env).__name__))
    return EnvSpec(id=f"jaxpg/{name}", entry_point=functools.partial(to_gymnasium, env, params))
