"""The multi-layer perceptron inside of policies: numbers of a scenario in, raw outputs out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn

from jaxpg.choices import at_least
from jaxpg.networks.mlp import MLP, Dense, lean_elu, uniform_by_fan_in
from jaxpg.types import Array, PyTree


class Perceptron(NamedTuple):
    """Pure functions of one network.

    Attributes:
      init: `(key) -> params`.
      apply: `(params, inputs [B, D]) -> [B, N]`.
    """

    init: Callable[[Array], PyTree]
    apply: Callable[[PyTree, Array], Array]


class PerceptronModule(nn.Module):
    """The Flax module behind `perceptron`; ELU between layers, none after the last.

    Attributes:
      hidden: widths.
      num_outputs: N.
      output_bias: at first; None draws it as the other biases.
      features_first: inputs are `[D, B]` and outputs `[N, B]`.
    """

    hidden: Sequence[int]
    num_outputs: int
    output_bias: float | None = None
    features_first: bool = False

    @nn.compact
    def __call__(self, inputs: Array) -> Array:
        """Maps `[B, D]` to `[B, N]`, or `[D, B]` to `[N, B]`."""
        torso = MLP(
            self.hidden,
            lean_elu,
            dtype=None,
            features_first=self.features_first,
            initialisers=uniform_by_fan_in,
        )
        hidden = torso(inputs)
        kernel_init, bias_init = uniform_by_fan_in(hidden.shape[0 if self.features_first else -1])
        if self.output_bias is not None:
            bias_init = nn.initializers.constant(self.output_bias)
        output = Dense(
            self.num_outputs,
            kernel_init,
            bias_init,
            dtype=None,
            features_first=self.features_first,
        )
        return output(hidden)


def perceptron(
    num_inputs: int, hidden: Sequence[int], num_outputs: int, output_bias: float | None = None
) -> Perceptron:
    """A perceptron with ELU units, initialised as torch's linear layers are.

    It computes in the precision of its inputs and parameters.

    Args:
      num_inputs: D.
      hidden: widths; may be empty.
      num_outputs: N.
      output_bias: of the last layer at first; None draws it as the other biases.

    Returns:
      A `Perceptron`.

    Raises:
      ValueError: a width below 1.

    Source: HDPO, Alvo et al. 2023 (arXiv 2306.11246).
    """
    hidden = tuple(hidden)
    for width in hidden:
        at_least("hidden width", width, 1)
    module = PerceptronModule(hidden, num_outputs, output_bias)
    # The layout that suits tall batches; the parameters are the same.
    tall = module.clone(features_first=True)

    def init(key: Array) -> PyTree:
        return module.init(key, jnp.zeros((1, num_inputs)))

    def apply(params: PyTree, inputs: Array) -> Array:
        if jax.default_backend() != "cpu":
            return module.apply(params, inputs)
        # Without the barrier XLA folds the transposition into slower products.
        return tall.apply(params, jax.lax.optimization_barrier(inputs.T)).T

    return Perceptron(init, apply)
