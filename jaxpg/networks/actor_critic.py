"""Policy and critic behind one interface: feed-forward or recurrent, shared or separate torsos."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from jaxpg import distributions
from jaxpg.choices import at_least, one_of, replace_fields
from jaxpg.networks.mlp import ACTIVATIONS, MLP, Dense, orthogonal
from jaxpg.networks.observations import encoder
from jaxpg.types import Array, PyTree

LOG_STD_RANGE = (-5.0, 2.0)


@dataclasses.dataclass(frozen=True)
class Networks:
    """Pure functions of one policy (and critic); leading axes `[B]` or `[B, T]`.

    Attributes:
      init: `(key) -> params`.
      initial_carry: `(num_rows) -> carry` with leading axis `[B]`; `()` if not recurrent.
      step: `(params, carry, observation [B, ...], reset [B]) -> (carry, parameters, value [B])`;
        where `reset` is True the carry is the initial one before the step. `value` is None
        without a critic, and `[B, M]` from a critic of M > 1 outputs.
      unroll: `(params, carry, observation [B, T, ...], reset [B, T]) -> (carries, parameters,
        value)`, all with leading axes `[B, T]`; `carries` are those after each step.
      distribution: of the raw actions.
      to_environment: raw action -> the environment's action.
      recurrent: whether `carry` holds anything.
      has_critic: whether `value` is there.
    """

    init: Callable[[Array], PyTree]
    initial_carry: Callable[[int], PyTree]
    step: Callable[[PyTree, PyTree, PyTree, Array], tuple[PyTree, PyTree, Array | None]]
    unroll: Callable[[PyTree, PyTree, PyTree, Array], tuple[PyTree, PyTree, Array | None]]
    distribution: distributions.ActionDistribution
    to_environment: Callable[[Array], Array]
    recurrent: bool
    has_critic: bool


@dataclasses.dataclass(frozen=True)
class NetworkConfig:
    """Shape of an actor-critic.

    Attributes:
      hidden: widths of each torso's layers.
      activation: one of `networks.mlp.ACTIVATIONS`.
      shared: one torso for policy and critic.
      recurrent: width of a GRU after the torso, 0 for none.
      distribution: `"categorical"` for discrete actions, one or several at once; `"normal"`,
        `"tanh_normal"` or `"beta"` for a box. None takes categorical or normal.
      state_dependent_std: the log standard deviation comes from the network.
      initial_log_std: its value at the start (its bias, if it comes from the network).
      critic: build a critic.
      critic_outputs: numbers that the critic says of an observation, such as the entries of a
        learned target; 1 is a value.
      actor_keys: entries of a dict observation that the policy reads; None reads all.
      critic_keys: entries that the critic reads; None reads all.
      dtype: `"float32"` or `"bfloat16"`, of the computation; parameters stay float32.
    """

    hidden: Sequence[int] = (64, 64)
    activation: str = "tanh"
    shared: bool = False
    recurrent: int = 0
    distribution: str | None = None
    state_dependent_std: bool = False
    initial_log_std: float = 0.0
    critic: bool = True
    critic_outputs: int = 1
    actor_keys: str | Sequence[str] | None = None
    critic_keys: str | Sequence[str] | None = None
    dtype: str = "float32"


def actor_critic(
    observation_space: Any, action_space: Any, config: NetworkConfig | None = None, **overrides: Any
) -> Networks:
    """Builds a policy and a critic for the spaces of an environment.

    Args:
      observation_space: in gymnax's form.
      action_space: in gymnax's form: discrete (`n`), several discrete choices at once (`nvec`), or
        a box (`low`, `high`, `shape`).
      config: see `NetworkConfig`.
      **overrides: fields of `NetworkConfig`.

    Returns:
      `Networks`.

    Raises:
      ValueError: the configuration does not fit the spaces.
    """
    config = replace_fields(config or NetworkConfig(), overrides)
    one_of("activation", config.activation, ACTIVATIONS)
    one_of("dtype", config.dtype, ("float32", "bfloat16"))
    at_least("critic_outputs", config.critic_outputs, 1)
    if config.shared and config.actor_keys != config.critic_keys:
        raise ValueError(
            f"shared is True, but actor_keys is {config.actor_keys!r} and critic_keys is "
            f"{config.critic_keys!r}: a shared torso reads one observation"
        )
    family, num_actions, to_environment = _actions(action_space, config.distribution)
    module = ActorCritic(
        family=family.name, num_actions=num_actions, dtype=jnp.dtype(config.dtype), config=config
    )
    # The layout that suits tall batches; the parameters are the same.
    tall = module.clone(features_first=jax.default_backend() == "cpu")
    for_actor = encoder(observation_space, config.actor_keys)
    for_critic = encoder(observation_space, config.critic_keys)

    def step(params, carry, observation, reset):
        if config.recurrent:
            carry = jax.tree.map(
                lambda x: jnp.where(reset.reshape((*reset.shape, 1)), jnp.zeros_like(x), x), carry
            )
        return module.apply(params, carry, for_actor(observation), for_critic(observation))

    def unroll(params, carry, observation, reset):
        if not config.recurrent:
            # Rows flattened to two dimensions: one large matrix product for each layer.
            shape = reset.shape
            flat = jax.tree.map(lambda x: x.reshape((reset.size, *x.shape[2:])), observation)
            _, *outputs = tall.apply(params, (), for_actor(flat), for_critic(flat))
            return (), *jax.tree.map(lambda x: x.reshape(shape + x.shape[1:]), outputs)

        def one(carry, at):
            carry, parameters, value = step(params, carry, *at)
            return carry, (carry, parameters, value)

        time_first = jax.tree.map(lambda x: jnp.swapaxes(x, 0, 1), (observation, reset))
        _, outputs = jax.lax.scan(one, carry, time_first)
        return jax.tree.map(lambda x: jnp.swapaxes(x, 0, 1), outputs)

    def initial_carry(num_rows: int) -> PyTree:
        if not config.recurrent:
            return ()
        zeros = jnp.zeros((num_rows, config.recurrent))
        return (zeros,) if config.shared or not config.critic else (zeros, zeros)

    def init(key: Array) -> PyTree:
        # A fixed key: only the shape of a sample is read.
        sample = jax.tree.map(
            lambda x: jnp.zeros((1, *x.shape), x.dtype), _example(observation_space)
        )
        return module.init(key, initial_carry(1), for_actor(sample), for_critic(sample))

    return Networks(
        init=init,
        initial_carry=initial_carry,
        step=step,
        unroll=unroll,
        distribution=family,
        to_environment=to_environment,
        recurrent=config.recurrent > 0,
        has_critic=config.critic,
    )


class ActorCritic(nn.Module):
    """The Flax module behind `actor_critic`."""

    family: str
    num_actions: int
    dtype: Any
    config: NetworkConfig
    features_first: bool = False

    @nn.compact
    def __call__(self, carry: PyTree, actor_input: Array, critic_input: Array):
        """Returns `(carry, distribution parameters, value or None)` for inputs `[B, D]`."""
        config = self.config
        if self.features_first:
            # Without the barrier XLA folds the transposition into slower products.
            actor_input, critic_input = jax.lax.optimization_barrier(
                (actor_input.T, critic_input.T)
            )
        policy, carry_policy = self._torso("policy", carry[:1], actor_input)
        parameters = self._head(policy)
        if not config.critic:
            return carry_policy, parameters, None
        if config.shared:
            critic, carry_critic = policy, ()
        else:
            critic, carry_critic = self._torso("critic", carry[1:], critic_input)
        value = self._dense("value", config.critic_outputs, 1.0, critic)
        value = value[..., 0] if config.critic_outputs == 1 else value
        return carry_policy + carry_critic, parameters, value

    def _torso(self, name: str, carry: PyTree, inputs: Array) -> tuple[Array, PyTree]:
        config = self.config
        activation = ACTIVATIONS[config.activation]
        torso = MLP(
            config.hidden, activation, self.dtype, self.features_first, name=f"{name}_torso"
        )
        hidden = torso(inputs)
        if not config.recurrent:
            return hidden, ()
        cell = nn.GRUCell(
            config.recurrent, recurrent_kernel_init=orthogonal(1.0), name=f"{name}_gru"
        )
        state, hidden = cell(carry[0], hidden)
        return hidden, (state,)

    def _dense(
        self, name: str, features: int, gain: float, hidden: Array, bias: float = 0.0
    ) -> Array:
        """An output layer, `[N, features]` in either layout."""
        layer = Dense(
            features,
            kernel_init=orthogonal(gain),
            bias_init=nn.initializers.constant(bias),
            dtype=self.dtype,
            features_first=self.features_first,
            name=name,
        )
        outputs = layer(hidden).astype(jnp.float32)
        return outputs.T if self.features_first else outputs

    def _head(self, hidden: Array) -> PyTree:
        def dense(name: str, bias: float = 0.0) -> Array:
            return self._dense(name, self.num_actions, 0.01, hidden, bias)

        if self.family in ("categorical", "multi_categorical"):
            return dense("logits")
        if self.family == "beta":
            # Above 1 the density has one mode inside and a finite log-probability at the ends.
            return 1.0 + nn.softplus(dense("alpha")), 1.0 + nn.softplus(dense("beta"))
        mean = dense("mean")
        if self.config.state_dependent_std:
            log_std = dense("log_std", self.config.initial_log_std)
        else:
            initial = nn.initializers.constant(self.config.initial_log_std)
            log_std = jnp.broadcast_to(
                self.param("log_std", initial, (self.num_actions,)), mean.shape
            )
        return mean, jnp.clip(log_std, *LOG_STD_RANGE)


def _actions(space: Any, name: str | None):
    """The family, its number of outputs, and the map to the environment's actions."""
    if hasattr(space, "spaces"):
        raise ValueError(
            f"action_space is {type(space).__name__}, but a discrete space or a box is needed: "
            f"let a wrapper make the action from a box of raw numbers (MappedActions of "
            f"jaxpg_envs.action_map)"
        )
    if hasattr(space, "n") or hasattr(space, "nvec"):
        if name not in (None, "categorical"):
            raise ValueError(
                f"distribution is {name!r}, but the action space is discrete: take 'categorical'"
            )
        if hasattr(space, "n"):
            return distributions.categorical, int(space.n), lambda action: action
        nvec = [int(n) for n in space.nvec]
        return distributions.multi_categorical(nvec), sum(nvec), lambda action: action
    name = name or "normal"
    size = 1
    for axis in space.shape:
        size *= axis
    low = jnp.broadcast_to(jnp.asarray(space.low, jnp.float32), space.shape).reshape(-1)
    high = jnp.broadcast_to(jnp.asarray(space.high, jnp.float32), space.shape).reshape(-1)
    inside = distributions.to_range(name, low, high)
    shape = tuple(space.shape)

    def to_environment(raw: Array) -> Array:
        return inside(raw).reshape(raw.shape[:-1] + shape)

    return distributions.FAMILIES[name], size, to_environment


def _example(space: Any) -> PyTree:
    return jax.eval_shape(space.sample, jax.random.key(0))
