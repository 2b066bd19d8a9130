"""Low-rank adapters as a transform of a transformer's parameters.

The adapters are a pytree of their own: what is optimised is that pytree alone, and the base
stays as it is. `join` puts them beside the kernels, which then compute `x W + (x A) B` without
ever forming a gradient of W; `merge` adds them into the kernels.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator

import jax
import jax.numpy as jnp

from jaxpg.choices import at_least, one_of
from jaxpg.networks.transformer_config import TransformerConfig, kernel_parts
from jaxpg.types import Array, PyTree

TARGETS = ("q", "k", "v", "o", "gate", "up", "down")


@dataclasses.dataclass(frozen=True)
class LoRA:
    """Which linear maps of every layer get an adapter, and of what rank.

    Attributes:
      rank: r.
      alpha: the adapter's product is scaled by `alpha / rank`.
      targets: of `TARGETS`; all of them by default.
    """

    rank: int = 16
    alpha: float = 32.0
    targets: tuple[str, ...] = TARGETS

    def __post_init__(self) -> None:
        """Checks the fields."""
        at_least("rank", self.rank, 1)
        at_least("number of targets", len(self.targets), 1)
        for target in self.targets:
            one_of("targets", target, TARGETS)

    @property
    def scale(self) -> float:
        """What the product of the two factors is multiplied by."""
        return self.alpha / self.rank

    def init(self, key: Array, config: TransformerConfig) -> PyTree:
        """Adapters that change nothing: A is drawn, B is 0.

        Args:
          key: of A.
          config: of the transformer.

        Returns:
          `{"layers": {kernel: {part: {"a": [L, inputs, r], "b": [L, r, outputs]}}}}`, float32.

        Source: Hu et al. 2021, "LoRA", section 4.1; A is uniform within `1 / sqrt(inputs)`, as in
        the released code.
        """
        layers: dict = {}
        for kernel, part, inputs, columns in self._places(config):
            key, key_a = jax.random.split(key)
            bound = 1.0 / math.sqrt(inputs)
            shape = (config.num_layers, inputs, self.rank)
            layers.setdefault(kernel, {})[part] = {
                "a": jax.random.uniform(key_a, shape, jnp.float32, -bound, bound),
                "b": jnp.zeros((config.num_layers, self.rank, columns.stop - columns.start)),
            }
        return {"layers": layers}

    def join(self, base: PyTree, adapters: PyTree) -> PyTree:
        """Parameters that compute with the adapters beside the base.

        Args:
          base: parameters of the transformer.
          adapters: of `init`.

        Returns:
          Parameters for every function of the `LanguageModel`; gradients flow to both.
        """
        layers = dict(base["params"]["layers"])
        for kernel, parts in adapters["layers"].items():
            scaled = {
                part: {"a": factors["a"], "b": self.scale * factors["b"]}
                for part, factors in parts.items()
            }
            layers[kernel] = {**layers[kernel], "lora": scaled}
        return {"params": {**base["params"], "layers": layers}}

    def merge(self, base: PyTree, adapters: PyTree, config: TransformerConfig) -> PyTree:
        """Adds the adapters into the kernels.

        Args:
          base: parameters of the transformer.
          adapters: of `init`.
          config: of the transformer.

        Returns:
          Parameters of the base's form.
        """
        return self._shifted(base, adapters, config, 1.0)

    def unmerge(self, merged: PyTree, adapters: PyTree, config: TransformerConfig) -> PyTree:
        """Takes the adapters out of the kernels again, up to rounding.

        Args:
          merged: of `merge`.
          adapters: the same.
          config: of the transformer.

        Returns:
          Parameters of the base.
        """
        return self._shifted(merged, adapters, config, -1.0)

    def _shifted(
        self, base: PyTree, adapters: PyTree, config: TransformerConfig, sign: float
    ) -> PyTree:
        layers = dict(base["params"]["layers"])
        for kernel, part, _, columns in self._places(config):
            factors = adapters["layers"][kernel][part]
            change = sign * self.scale * (factors["a"] @ factors["b"])
            weights = jnp.asarray(layers[kernel]["kernel"])
            changed = weights.at[:, :, columns].add(change.astype(weights.dtype))
            layers[kernel] = {**layers[kernel], "kernel": changed}
        return {"params": {**base["params"], "layers": layers}}

    def _places(self, config: TransformerConfig) -> Iterator[tuple[str, str, int, slice]]:
        """`(kernel, part, inputs, columns)` of every target."""
        for kernel, (inputs, parts) in kernel_parts(config).items():
            start = 0
            for part, size in parts:
                if part in self.targets:
                    yield kernel, part, inputs, slice(start, start + size)
                start += size
