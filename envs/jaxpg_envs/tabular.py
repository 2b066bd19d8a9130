"""Finite Markov decision processes, small enough to solve exactly."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from gymnax.environments import environment, spaces


@struct.dataclass
class EnvState(environment.EnvState):
    """State of an episode.

    Attributes:
      time: int32 scalar, decisions taken.
      state: int32 scalar in `[0, num_states)`.
    """

    state: jax.Array


@struct.dataclass(kw_only=True)
class EnvParams(environment.EnvParams):
    """A Markov decision process with S states and A actions, as arrays.

    All of it is data: parameters stacked along a leading axis are a batch of different processes,
    which one `jax.vmap` steps together.

    Attributes:
      transition: `[S, A, S]` float, probability of the next state given state and action.
      reward: `[S, A]` float, paid for an action in a state.
      initial: `[S]` float, probability of the first state.
      terminal: `[S]` bool, states that end the episode when entered.
      max_steps_in_episode: the horizon, in decisions.
    """

    transition: jax.Array
    reward: jax.Array
    initial: jax.Array
    terminal: jax.Array
    max_steps_in_episode: int


class TabularMDP(environment.Environment[EnvState, EnvParams]):
    """A finite Markov decision process; the observation is the state, one-hot.

    Entering a terminal state terminates. Reaching the horizon anywhere else truncates, as if the
    process went on unseen, unless `horizon_terminates` says that the horizon is the end of the
    problem itself, as in a finite-horizon problem, where nothing is earned after it.

    Attributes:
      horizon: number of decisions that the one-hot time step can tell apart.

    >>> env = TabularMDP(random_mdp(jax.random.key(0), num_states=3, num_actions=2, horizon=4))
    >>> observation, state = env.reset(jax.random.key(1))
    >>> observation.shape, env.num_actions
    ((3,), 2)
    """

    def __init__(
        self,
        params: EnvParams,
        *,
        horizon: int | None = None,
        observe_time: bool = False,
        horizon_terminates: bool = False,
    ):
        """Build the environment of a process.

        Args:
          params: the process, which becomes `default_params`. Others of the same sizes can be
            given to `reset` and `step`.
          horizon: static size of the one-hot time step; `params.max_steps_in_episode` by default.
          observe_time: append the one-hot time step to the observation, which makes a
            finite-horizon policy Markov. It is all zeros once `horizon` decisions are taken.
          horizon_terminates: whether reaching the horizon terminates instead of truncating.

        Raises:
          ValueError: shapes that do not fit together, rows that are no probabilities, or an
            initial state that is terminal.
        """
        _check_process(params)
        self.horizon = int(params.max_steps_in_episode) if horizon is None else horizon
        if self.horizon < 1:
            raise ValueError(f"horizon={self.horizon} must be at least 1")
        self.observe_time = observe_time
        self.horizon_terminates = horizon_terminates
        self._default_params = params

    @property
    def default_params(self) -> EnvParams:
        """The process given to the constructor."""
        return self._default_params

    @property
    def num_actions(self) -> int:
        """Number of actions."""
        return self._default_params.reward.shape[-1]

    def reset_env(self, key: jax.Array, params: EnvParams) -> tuple[jax.Array, EnvState]:
        """Draw the first state."""
        first = jax.random.categorical(key, jnp.log(params.initial)).astype(jnp.int32)
        state = EnvState(time=jnp.zeros((), jnp.int32), state=first)
        return self.get_obs(state, params), state

    def step_env(
        self, key: jax.Array, state: EnvState, action: jax.Array, params: EnvParams
    ) -> tuple[jax.Array, EnvState, jax.Array, jax.Array, dict[str, Any]]:
        """Pay the reward of the action and draw the next state."""
        reward = params.reward[state.state, action]
        logits = jnp.log(params.transition[state.state, action])
        following = jax.random.categorical(key, logits).astype(jnp.int32)
        state = EnvState(time=state.time + 1, state=following)
        terminated = self.is_terminated(state, params)
        info = {"discount": 1.0 - terminated.astype(jnp.float32)}
        return self.get_obs(state, params), state, reward, terminated, info

    def get_obs(
        self, state: EnvState, params: EnvParams | None = None, key: jax.Array | None = None
    ) -> jax.Array:
        """One-hot state, followed by the one-hot time step where it is observed."""
        params = self._default_params if params is None else params
        observation = jax.nn.one_hot(state.state, params.initial.shape[-1], dtype=jnp.float32)
        if not self.observe_time:
            return observation
        time = jax.nn.one_hot(state.time, self.horizon, dtype=jnp.float32)
        return jnp.concatenate([observation, time])

    def is_terminated(self, state: EnvState, params: EnvParams) -> jax.Array:
        """Whether the state is terminal, or the horizon is reached and terminates."""
        terminal = params.terminal[state.state]
        if self.horizon_terminates:
            return terminal | (state.time >= params.max_steps_in_episode)
        return terminal

    def is_truncated(self, state: EnvState, params: EnvParams) -> jax.Array:
        """Whether the horizon cut the episode off in a state that does not terminate it."""
        return (state.time >= params.max_steps_in_episode) & ~self.is_terminated(state, params)

    def action_space(self, params: EnvParams | None = None) -> spaces.Discrete:
        """One of A actions."""
        params = self._default_params if params is None else params
        return spaces.Discrete(params.reward.shape[-1])

    def observation_space(self, params: EnvParams | None = None) -> spaces.Box:
        """Box [0, 1] of shape `[S]`, or `[S + horizon]` where the time step is observed."""
        params = self._default_params if params is None else params
        size = params.initial.shape[-1] + self.horizon * self.observe_time
        return spaces.Box(0.0, 1.0, (size,), jnp.float32)


def random_mdp(key: jax.Array, num_states: int, num_actions: int, horizon: int) -> EnvParams:
    """Random process without terminal states.

    Next-state probabilities and the first state's are uniform on the simplex, rewards standard
    normal. It vmaps over keys: a batch of processes for one `TabularMDP`.

    Args:
      key: random key.
      num_states: S, at least 1.
      num_actions: A, at least 1.
      horizon: decisions in an episode, at least 1.

    Returns:
      Parameters with arrays of the sizes given.
    """
    transition_key, reward_key, initial_key = jax.random.split(key, 3)
    return EnvParams(
        transition=_uniform_on_simplex(transition_key, (num_states, num_actions, num_states)),
        reward=jax.random.normal(reward_key, (num_states, num_actions)),
        initial=_uniform_on_simplex(initial_key, (num_states,)),
        terminal=jnp.zeros(num_states, bool),
        max_steps_in_episode=horizon,
    )


def _uniform_on_simplex(key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    # Dirichlet with all concentrations 1, which jax.random.dirichlet takes seconds to compile.
    weights = jax.random.exponential(key, shape)
    return weights / weights.sum(-1, keepdims=True)


def random_instance(
    num_states: int = 5,
    num_actions: int = 3,
    horizon: int = 10,
    seed: int = 0,
    *,
    observe_time: bool = False,
    horizon_terminates: bool = False,
) -> TabularMDP:
    """Environment "tabular/random": one fixed instance of `random_mdp`.

    Args:
      num_states: S, at least 1.
      num_actions: A, at least 1.
      horizon: decisions in an episode, at least 1.
      seed: which instance.
      observe_time: see `TabularMDP`.
      horizon_terminates: see `TabularMDP`.

    Returns:
      The environment; its default parameters are the instance.
    """
    process = random_mdp(jax.random.key(seed), num_states, num_actions, horizon)
    return TabularMDP(process, observe_time=observe_time, horizon_terminates=horizon_terminates)


def chain(
    length: int = 5,
    horizon: int | None = None,
    *,
    observe_time: bool = False,
    horizon_terminates: bool = False,
) -> TabularMDP:
    """Environment "tabular/chain": a small reward nearby, a large one far away.

    States 0 to `length - 1` in a row; action 0 goes left, action 1 goes right, and both stay at
    the ends. Episodes start in state 1. Going left in state 0 pays 0.001, going right in the last
    state pays 1, everything else 0. Everything is deterministic and no state is terminal.

    Args:
      length: number of states, at least 3.
      horizon: decisions in an episode; `length + 9` by default.
      observe_time: see `TabularMDP`.
      horizon_terminates: see `TabularMDP`.

    Returns:
      The environment.

    Raises:
      ValueError: `length` below 3.

    Source: Osband et al. 2016, Deep Exploration via Bootstrapped DQN, section 5.

    >>> chain(length=4).default_params.reward[3]
    Array([0., 1.], dtype=float32)
    """
    if length < 3:
        raise ValueError(f"length={length} must be at least 3")
    states = jnp.arange(length)
    following = jnp.stack([states - 1, states + 1], axis=1).clip(0, length - 1)
    process = EnvParams(
        transition=jax.nn.one_hot(following, length),
        reward=jnp.zeros((length, 2)).at[0, 0].set(0.001).at[-1, 1].set(1.0),
        initial=jax.nn.one_hot(1, length),
        terminal=jnp.zeros(length, bool),
        max_steps_in_episode=length + 9 if horizon is None else horizon,
    )
    return TabularMDP(process, observe_time=observe_time, horizon_terminates=horizon_terminates)


def _check_process(params: EnvParams) -> None:
    if jnp.ndim(params.transition) != 3:
        raise ValueError(
            f"transition has shape {jnp.shape(params.transition)}; it must be [S, A, S]"
        )
    num_states, num_actions, _ = params.transition.shape
    wanted = {
        "transition": (num_states, num_actions, num_states),
        "reward": (num_states, num_actions),
        "initial": (num_states,),
        "terminal": (num_states,),
    }
    for name, shape in wanted.items():
        given = jnp.shape(getattr(params, name))
        if given != shape:
            raise ValueError(f"{name} has shape {given}; next to the others it must be {shape}")
    for name in ("transition", "initial"):
        rows = np.asarray(getattr(params, name))
        if (rows < 0).any() or not np.allclose(rows.sum(-1), 1.0, atol=1e-4):
            raise ValueError(f"{name} has a row that is negative somewhere or does not sum to 1")
    if np.asarray(params.initial)[np.asarray(params.terminal, bool)].any():
        raise ValueError(
            "initial gives probability to a terminal state; episodes cannot start there"
        )
