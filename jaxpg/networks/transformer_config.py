"""Shape and arithmetic of a transformer of the Llama family, and the kernels that follow."""

from __future__ import annotations

import dataclasses

from jaxpg.choices import at_least, one_of
from jaxpg.networks.rotary import RopeScaling

DTYPES = ("float32", "bfloat16")


@dataclasses.dataclass(frozen=True)
class TransformerConfig:
    """Shape and arithmetic of a transformer.

    Attributes:
      vocabulary_size: V.
      num_layers: L.
      width: D, of the residual stream.
      num_heads: N, of the queries.
      num_kv_heads: K, of keys and values; divides N. None takes N.
      head_width: H, even. None takes D / N.
      mlp_width: F.
      max_positions: longest row.
      rope_theta: base of the rotary frequencies.
      rope_scaling: of the rotary frequencies, see `rotary.RopeScaling`.
      norm_epsilon: added to mean squares.
      tied: the embedding is also the output's kernel.
      attention_bias: queries, keys and values have biases.
      output_bias: the attention's output has one.
      mlp_bias: the MLP's maps have them.
      query_key_norm: queries and keys are normalised within each head.
      value_head: a critic on the last hidden state.
      dtype: `"float32"` or `"bfloat16"`, of the computation; norms, softmax and logits are float32.
      param_dtype: of the parameters that `init` draws.
      remat: layers are computed again in the backward pass instead of being kept.
    """

    vocabulary_size: int
    num_layers: int = 2
    width: int = 64
    num_heads: int = 4
    num_kv_heads: int | None = None
    head_width: int | None = None
    mlp_width: int = 256
    max_positions: int = 2048
    rope_theta: float = 10000.0
    rope_scaling: RopeScaling | None = None
    norm_epsilon: float = 1e-5
    tied: bool = True
    attention_bias: bool = False
    output_bias: bool = False
    mlp_bias: bool = False
    query_key_norm: bool = False
    value_head: bool = False
    dtype: str = "float32"
    param_dtype: str = "float32"
    remat: bool = False

    def __post_init__(self) -> None:
        """Checks the fields."""
        for name in ("vocabulary_size", "num_layers", "width", "num_heads", "mlp_width"):
            at_least(name, getattr(self, name), 1)
        at_least("max_positions", self.max_positions, 1)
        one_of("dtype", self.dtype, DTYPES)
        one_of("param_dtype", self.param_dtype, DTYPES)
        if self.head_width is None and self.width % self.num_heads:
            raise ValueError(
                f"num_heads is {self.num_heads}, which does not divide width={self.width}: name "
                f"head_width"
            )
        if self.num_heads % self.kv_heads:
            raise ValueError(
                f"num_kv_heads is {self.num_kv_heads}, which does not divide "
                f"num_heads={self.num_heads}"
            )
        if self.head_size % 2:
            raise ValueError(
                f"head_width is {self.head_size}, but rotary positions need an even number"
            )

    @property
    def kv_heads(self) -> int:
        """K."""
        return self.num_kv_heads or self.num_heads

    @property
    def head_size(self) -> int:
        """H."""
        return self.head_width or self.width // self.num_heads


Parts = tuple[tuple[str, int], ...]


def kernel_parts(config: TransformerConfig) -> dict[str, tuple[int, Parts]]:
    """The kernels of a layer: inputs of each, and the maps whose columns stand side by side.

    Args:
      config: of the transformer.

    Returns:
      name -> `(inputs, ((part, columns), ...))`.
    """
    queries = config.num_heads * config.head_size
    keys = config.kv_heads * config.head_size
    return {
        "qkv": (config.width, (("q", queries), ("k", keys), ("v", keys))),
        "output": (queries, (("o", config.width),)),
        "gate_up": (config.width, (("gate", config.mlp_width), ("up", config.mlp_width))),
        "down": (config.mlp_width, (("down", config.width),)),
    }
