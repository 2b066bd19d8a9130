"""Action distributions as records of pure functions.

The parameters of a distribution are arrays (a pytree) that a network returns; leading axes are
free. A *raw* action is what the distribution scores and what a trajectory stores; the
environment receives `to_environment(raw)`, which squashes or scales it. Storing the raw action
keeps the first probability ratio at exactly 1, whatever the environment's bounds do to the action.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy import special
from jax.scipy.stats import beta as beta_stats

from jaxpg.types import Array

Parameters = Any

HALF_LOG_TAU = 0.9189385332046727
"""log(2 pi) / 2."""


class ActionDistribution(NamedTuple):
    """A family of distributions over actions.

    Attributes:
      name: of the family.
      sample: `(key, parameters) -> raw action`.
      log_prob: `(parameters, raw action) -> [...]`, event axes summed, in nats.
      entropy: `(parameters) -> [...]`, in nats.
      mode: `(parameters) -> raw action`, what a deterministic evaluation does.
      kl: `(parameters, other parameters) -> [...]`, KL(first || second), in nats.
    """

    name: str
    sample: Callable[[Array, Parameters], Array]
    log_prob: Callable[[Parameters, Array], Array]
    entropy: Callable[[Parameters], Array]
    mode: Callable[[Parameters], Array]
    kl: Callable[[Parameters, Parameters], Array]


# Categorical: parameters are logits [..., A]; a raw action is an int [...].


def _categorical_log_prob(logits: Array, action: Array) -> Array:
    # A one-hot product instead of a gather: its gradient is a product and no scatter.
    log_probs = jax.nn.log_softmax(logits)
    chosen = jax.nn.one_hot(action, logits.shape[-1], dtype=bool)
    return jnp.sum(jnp.where(chosen, log_probs, 0.0), axis=-1)


def _categorical_entropy(logits: Array) -> Array:
    log_probs = jax.nn.log_softmax(logits)
    # An excluded action has log-probability -inf (or the dtype's minimum) and adds nothing.
    possible = log_probs > jnp.finfo(log_probs.dtype).min / 2
    safe = jnp.where(possible, log_probs, 0.0)
    return -jnp.sum(jnp.where(possible, jnp.exp(safe) * safe, 0.0), axis=-1)


def _categorical_kl(logits: Array, other_logits: Array) -> Array:
    here, there = jax.nn.log_softmax(logits), jax.nn.log_softmax(other_logits)
    possible = here > jnp.finfo(here.dtype).min / 2
    safe_here = jnp.where(possible, here, 0.0)
    safe_there = jnp.where(possible, there, 0.0)
    difference = jnp.exp(safe_here) * (safe_here - safe_there)
    return jnp.sum(jnp.where(possible, difference, 0.0), axis=-1)


def exclude(logits: Array, allowed: Array) -> Array:
    """Takes actions out of a categorical distribution, with finite gradients.

    Args:
      logits: `[..., A]` float.
      allowed: `[..., A]` bool, at least one True along the last axis.

    Returns:
      `[..., A]` float logits; an excluded action has probability exactly 0.
    """
    return jnp.where(allowed, logits, jnp.finfo(logits.dtype).min)


categorical = ActionDistribution(
    name="categorical",
    sample=lambda key, logits: jax.random.categorical(key, logits),
    log_prob=_categorical_log_prob,
    entropy=_categorical_entropy,
    mode=lambda logits: jnp.argmax(logits, axis=-1),
    kl=_categorical_kl,
)


# Several categoricals: parameters are their logits one after the other, [..., sum of nvec]; a raw
# action is an int [..., K].


def multi_categorical(nvec: Sequence[int]) -> ActionDistribution:
    """K independent categoricals, for K discrete choices made at once.

    Args:
      nvec: numbers of alternatives, K ints of at least 1.

    Returns:
      The family; a raw action is int32 `[..., K]`.

    Raises:
      ValueError: no alternatives.

    >>> family = multi_categorical((3, 2))
    >>> family.log_prob(jnp.zeros(5), jnp.array([2, 0])).item()  # -log 6
    -1.791759
    """
    sizes = [int(n) for n in nvec]
    if not sizes or min(sizes) < 1:
        raise ValueError(f"nvec is {nvec!r}, but K numbers of at least 1 are needed")
    ends = np.cumsum(sizes)[:-1].tolist()

    def factors(logits: Array) -> list[Array]:
        if logits.shape[-1] != sum(sizes):
            raise ValueError(
                f"logits have {logits.shape[-1]} entries, but nvec={sizes} needs {sum(sizes)}"
            )
        return jnp.split(logits, ends, axis=-1)

    def log_prob(logits: Array, action: Array) -> Array:
        parts = enumerate(factors(logits))
        return sum(_categorical_log_prob(part, action[..., k]) for k, part in parts)

    def mode(logits: Array) -> Array:
        chosen = [jnp.argmax(part, axis=-1) for part in factors(logits)]
        return jnp.stack(chosen, axis=-1).astype(jnp.int32)

    def kl(logits: Array, other_logits: Array) -> Array:
        pairs = zip(factors(logits), factors(other_logits), strict=True)
        return sum(_categorical_kl(here, there) for here, there in pairs)

    return ActionDistribution(
        name="multi_categorical",
        # The greatest of logits and Gumbel noise, one draw for all factors.
        sample=lambda key, logits: mode(
            logits + jax.random.gumbel(key, logits.shape, logits.dtype)
        ),
        log_prob=log_prob,
        entropy=lambda logits: sum(_categorical_entropy(part) for part in factors(logits)),
        mode=mode,
        kl=kl,
    )


# Diagonal normal: parameters are (mean, log_std), each [..., D]; a raw action is [..., D].


def _normal_sample(key: Array, parameters: Parameters) -> Array:
    mean, log_std = parameters
    return mean + jnp.exp(log_std) * jax.random.normal(key, mean.shape, mean.dtype)


def _normal_log_prob(parameters: Parameters, action: Array) -> Array:
    mean, log_std = parameters
    standard = (action - mean) * jnp.exp(-log_std)
    return jnp.sum(-0.5 * standard**2 - log_std - HALF_LOG_TAU, axis=-1)


def _normal_entropy(parameters: Parameters) -> Array:
    mean, log_std = parameters
    return jnp.sum(jnp.broadcast_to(log_std, mean.shape) + 0.5 + HALF_LOG_TAU, axis=-1)


def _normal_kl(parameters: Parameters, other: Parameters) -> Array:
    (mean, log_std), (other_mean, other_log_std) = parameters, other
    spread = jnp.exp(2 * (log_std - other_log_std))
    shift = ((mean - other_mean) * jnp.exp(-other_log_std)) ** 2
    return jnp.sum(0.5 * (spread + shift - 1.0) + other_log_std - log_std, axis=-1)


normal = ActionDistribution(
    name="normal",
    sample=_normal_sample,
    log_prob=_normal_log_prob,
    entropy=_normal_entropy,
    mode=lambda parameters: parameters[0],
    kl=_normal_kl,
)


# tanh-normal: the raw action is the one before tanh, so that nothing has to be inverted.
# The quadrature of its entropy is good to 1e-6 nats for a standard deviation up to 1, to 1e-3 at e.

_NODES, _WEIGHTS = np.polynomial.hermite_e.hermegauss(33)
_WEIGHTS = _WEIGHTS / np.sqrt(2 * np.pi)


def log_tanh_derivative(raw: Array) -> Array:
    """log(1 - tanh(x)^2), exact where tanh rounds to 1.

    Args:
      raw: `[...]` float, x.

    Returns:
      `[...]` float, at most 0.

    >>> log_tanh_derivative(jnp.array(20.)).item()
    -38.614
    """
    return 2.0 * (np.log(2.0) - raw - jax.nn.softplus(-2.0 * raw))


def _tanh_normal_log_prob(parameters: Parameters, raw: Array) -> Array:
    return _normal_log_prob(parameters, raw) - jnp.sum(log_tanh_derivative(raw), axis=-1)


def _tanh_normal_entropy(parameters: Parameters) -> Array:
    # No closed form; Gauss-Hermite quadrature of E log(1 - tanh^2) in each dimension.
    mean, log_std = parameters
    nodes = jnp.asarray(_NODES, mean.dtype)
    points = mean[..., None] + jnp.exp(log_std)[..., None] * nodes
    expected = log_tanh_derivative(points) @ jnp.asarray(_WEIGHTS, mean.dtype)
    return _normal_entropy(parameters) + jnp.sum(expected, axis=-1)


tanh_normal = ActionDistribution(
    name="tanh_normal",
    sample=_normal_sample,
    log_prob=_tanh_normal_log_prob,
    entropy=_tanh_normal_entropy,
    mode=lambda parameters: parameters[0],
    # KL is invariant under the same one-to-one map of both.
    kl=_normal_kl,
)


# Beta: parameters are (alpha, beta), each [..., D], above 0; a raw action lies in (0, 1).

_MARGIN = 1e-6


def _beta_sample(key: Array, parameters: Parameters) -> Array:
    alpha, beta_ = parameters
    # A float32 sample can round to 0 or 1, where the log-probability is infinite.
    return jnp.clip(jax.random.beta(key, alpha, beta_), _MARGIN, 1.0 - _MARGIN)


def _beta_log_prob(parameters: Parameters, action: Array) -> Array:
    alpha, beta_ = parameters
    return jnp.sum(beta_stats.logpdf(action, alpha, beta_), axis=-1)


def _beta_entropy(parameters: Parameters) -> Array:
    alpha, beta_ = parameters
    digamma = special.digamma
    result = special.betaln(alpha, beta_) - (alpha - 1) * digamma(alpha)
    result += (alpha + beta_ - 2) * digamma(alpha + beta_) - (beta_ - 1) * digamma(beta_)
    return jnp.sum(result, axis=-1)


def _beta_kl(parameters: Parameters, other: Parameters) -> Array:
    (a, b), (c, d) = parameters, other
    digamma = special.digamma
    result = special.betaln(c, d) - special.betaln(a, b) + (a - c) * digamma(a)
    result += (b - d) * digamma(b) + (c - a + d - b) * digamma(a + b)
    return jnp.sum(result, axis=-1)


beta = ActionDistribution(
    name="beta",
    sample=_beta_sample,
    log_prob=_beta_log_prob,
    entropy=_beta_entropy,
    # The mean: with alpha or beta below 1 the density has no finite mode inside.
    mode=lambda parameters: parameters[0] / (parameters[0] + parameters[1]),
    kl=_beta_kl,
)


def to_range(name: str, low: Array, high: Array) -> Callable[[Array], Array]:
    """Map from raw actions of a family to an environment's box.

    Args:
      name: `"normal"` clips, `"tanh_normal"` squashes and scales, `"beta"` scales.
      low: `[D]` float, finite for every family but the normal.
      high: `[D]` float.

    Returns:
      `raw -> action`; the result lies in `[low, high]` exactly.

    Raises:
      ValueError: the family has no range, or the box is unbounded and the family needs bounds.
    """
    if name == "normal":
        return lambda raw: jnp.clip(raw, low, high)
    if name not in ("tanh_normal", "beta"):
        raise ValueError(
            f"distribution is {name!r}, but a box of actions takes 'normal', 'tanh_normal' or "
            f"'beta'"
        )
    if not (np.all(np.isfinite(low)) and np.all(np.isfinite(high))):
        raise ValueError(
            f"distribution is {name!r}, which fills a bounded box, but the action space reaches "
            f"from {low} to {high}: take 'normal'"
        )
    unit = (lambda raw: 0.5 * (jnp.tanh(raw) + 1.0)) if name == "tanh_normal" else (lambda raw: raw)
    # tanh may round outside of [-1, 1] on some devices; the clip makes the bound exact.
    return lambda raw: jnp.clip(low + (high - low) * unit(raw), low, high)


FAMILIES = {family.name: family for family in (categorical, normal, tanh_normal, beta)}
