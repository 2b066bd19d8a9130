"""Quantiles of the demand to come, forecast from the demand that was."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import chex
import jax
import jax.numpy as jnp
import optax
from flax import struct

from jaxpg.choices import at_least
from jaxpg.policies.perceptron import Perceptron, perceptron
from jaxpg.types import Array, PyTree

NUM_QUANTILES = 19
"""0.05, 0.10, ..., 0.95."""

HALF_YEAR = 183.0
"""Days, the scale of the days from Christmas."""


@struct.dataclass
class Forecaster:
    """A perceptron that was trained by `fit_forecaster`.

    Attributes:
      params: of the perceptron.
      scale: scalar, mean demand of a period in the training data.
      lead_times: whose protection intervals it knows.
      history: H, periods that it sees.
      hidden: widths.
    """

    params: PyTree
    scale: Array
    lead_times: tuple[int, ...] = struct.field(pytree_node=False)
    history: int = struct.field(pytree_node=False)
    hidden: tuple[int, ...] = struct.field(pytree_node=False)

    def quantiles(self, past_demand: Array, days: Array) -> Array:
        """Forecasts the demand of this period and the L next ones, for each lead time L.

        Args:
          past_demand: `[B, H]` units, oldest first, up to the period before.
          days: `[B]`, days from Christmas of this period, negative before it.

        Returns:
          `[B, len(lead_times), 19]` units, at least 0.
        """
        net = _network(self.lead_times, self.history, self.hidden)
        return jax.nn.relu(
            _forecast(net, self.params, self.scale, self.lead_times, past_demand, days)
        )


def fit_forecaster(
    key: Array,
    values: Array,
    days: Array,
    *,
    lead_times: Sequence[int] = (4, 5, 6),
    history: int = 16,
    hidden: Sequence[int] = (128, 128),
    num_steps: int = 2000,
    batch_size: int = 256,
    learning_rate: float = 1e-3,
) -> tuple[Forecaster, Array]:
    """Trains a forecaster on series of demand, in one compiled program.

    A sample is a random period of a random series; the loss is the pinball loss, averaged over lead
    times and quantiles. Inputs and outputs are scaled by the mean demand (outputs by that of their
    interval), so that units do not matter.

    Args:
      key: of the first parameters and of the samples.
      values: `[N, T]` demand in units, N series of T periods.
      days: `[T]` days from Christmas of each period.
      lead_times: L, each at least 0: quantiles are of the demand of L + 1 periods.
      history: H, periods that are seen.
      hidden: widths.
      num_steps: gradient steps of Adam.
      batch_size: samples of a step.
      learning_rate: of Adam at first; it falls to 0 along a cosine.

    Returns:
      `(Forecaster, pinball loss of each step [num_steps])`, losses in units of mean demand.

    Raises:
      ValueError: too short series, or sizes that do not fit.

    Source: HDPO, Alvo et al. 2023 (arXiv 2306.11246), generalised newsvendor policies; the scaling
    and the falling rate are ours.
    """
    lead_times, hidden = tuple(lead_times), tuple(hidden)
    if not lead_times:
        raise ValueError(f"lead_times is {lead_times!r}, but at least one is needed")
    at_least("lead_times", min(lead_times), 0)
    for name, given in (("history", history), ("num_steps", num_steps), ("batch_size", batch_size)):
        at_least(name, given, 1)
    values, days = jnp.asarray(values, float), jnp.asarray(days, float)
    needed = history + max(lead_times) + 1
    if values.ndim != 2 or values.shape[1] < needed or days.shape != values.shape[1:]:
        raise ValueError(
            f"values has shape {values.shape} and days {days.shape}, but [N, T] and [T] are "
            f"needed, T being at least {needed} for history={history} and lead times up to "
            f"{max(lead_times)}"
        )
    params, scale, losses = _fit(
        key, values, days, learning_rate, lead_times, history, hidden, num_steps, batch_size
    )
    return Forecaster(params, scale, lead_times, history, hidden), losses


def pinball_loss(forecasts: Array, actual: Array, probabilities: Array) -> Array:
    """The loss whose minimum is at the quantile.

    Args:
      forecasts: `[..., Q]`.
      actual: `[...]`.
      probabilities: `[Q]` in (0, 1).

    Returns:
      `[..., Q]`, at least 0.

    Source: Koenker and Bassett 1978.

    >>> pinball_loss(jnp.array([1.0, 6.0]), jnp.array(5.0), jnp.array([0.75, 0.75]))
    Array([3.  , 0.25], dtype=float32)
    """
    short = actual[..., None] - forecasts
    return jnp.maximum(probabilities * short, (probabilities - 1.0) * short)


def quantile_at(quantiles: Array, probability: Array) -> Array:
    """Piecewise linear between evenly spaced quantiles; the ends go on as they began.

    Args:
      quantiles: `[..., Q]` at the probabilities 1 / (Q + 1), ..., Q / (Q + 1); Q at least 2.
      probability: `[...]` in [0, 1].

    Returns:
      `[...]`; has a derivative with respect to the probability, the slope to the right.

    Source: HDPO, Alvo et al. 2023 (arXiv 2306.11246).

    >>> quantile_at(jnp.array([1.0, 2.0, 4.0]), jnp.array(0.875))
    Array(5., dtype=float32)
    """
    number = quantiles.shape[-1]
    chex.assert_equal_shape_prefix([quantiles, probability], quantiles.ndim - 1)
    first = 2 * quantiles[..., :1] - quantiles[..., 1:2]
    last = 2 * quantiles[..., -1:] - quantiles[..., -2:-1]
    knots = jnp.concatenate([first, quantiles, last], axis=-1)
    place = probability * (number + 1)
    left = jnp.clip(jnp.floor(place), 0, number).astype(int)
    value = jnp.take_along_axis(knots, left[..., None], axis=-1)[..., 0]
    slope = jnp.take_along_axis(jnp.diff(knots, axis=-1), left[..., None], axis=-1)[..., 0]
    return value + slope * (place - left)


def probabilities() -> Array:
    """`[19]`, those of a forecaster's quantiles."""
    return jnp.arange(1, NUM_QUANTILES + 1) / (NUM_QUANTILES + 1)


def _network(lead_times: Sequence[int], history: int, hidden: Sequence[int]) -> Perceptron:
    return perceptron(history + 1, hidden, len(lead_times) * NUM_QUANTILES)


def _forecast(
    net: Perceptron,
    params: PyTree,
    scale: Array,
    lead_times: Sequence[int],
    past_demand: Array,
    days: Array,
) -> Array:
    """`[B, len(lead_times), 19]`, in units, negative ones too."""
    inputs = jnp.concatenate([past_demand / scale, days[:, None] / HALF_YEAR], axis=1)
    shares = net.apply(params, inputs).reshape(-1, len(lead_times), NUM_QUANTILES)
    return shares * (scale * (jnp.array(lead_times) + 1.0))[:, None]


@functools.partial(
    jax.jit, static_argnames=("lead_times", "history", "hidden", "num_steps", "batch_size")
)
def _fit(
    key: Array,
    values: Array,
    days: Array,
    learning_rate: Array,
    lead_times: tuple[int, ...],
    history: int,
    hidden: tuple[int, ...],
    num_steps: int,
    batch_size: int,
) -> tuple[PyTree, Array, Array]:
    net = _network(lead_times, history, hidden)
    optimiser = optax.adam(optax.cosine_decay_schedule(learning_rate, num_steps))
    # All zeros have a scale too.
    scale = jnp.mean(values)
    scale = jnp.where(scale > 0, scale, 1.0)
    longest = max(lead_times) + 1
    ends = jnp.array(lead_times)

    def loss(params: PyTree, key: Array) -> Array:
        key_series, key_time = jax.random.split(key)
        series = jax.random.randint(key_series, (batch_size,), 0, values.shape[0])
        last = values.shape[1] - longest
        time = jax.random.randint(key_time, (batch_size,), history, last + 1)
        window = values[series[:, None], time[:, None] + jnp.arange(-history, longest)]
        forecasts = _forecast(net, params, scale, lead_times, window[:, :history], days[time])
        actual = jnp.cumsum(window[:, history:], axis=1)[:, ends]
        return jnp.mean(pinball_loss(forecasts, actual, probabilities())) / scale

    def step(carry: PyTree, key: Array) -> tuple[PyTree, Array]:
        params, state = carry
        value, gradient = jax.value_and_grad(loss)(params, key)
        updates, state = optimiser.update(gradient, state)
        return (optax.apply_updates(params, updates), state), value

    key_params, key_steps = jax.random.split(key)
    params = net.init(key_params)
    carry = params, optimiser.init(params)
    (params, _), losses = jax.lax.scan(step, carry, jax.random.split(key_steps, num_steps))
    return params, scale, losses
