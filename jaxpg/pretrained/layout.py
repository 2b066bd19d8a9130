"""Where the tensors of a published checkpoint stand in a transformer's parameters.

Published files hold one matrix `[outputs, inputs]` for each linear map of each layer; ours are
`[inputs, outputs]`, stacked over layers, and maps that share an input stand side by side.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping

import jax
import jax.numpy as jnp
import numpy as np

from jaxpg.networks.transformer_config import TransformerConfig, kernel_parts
from jaxpg.pretrained.errors import PretrainedError
from jaxpg.types import PyTree

LAYER = "model.layers.{}."
EMBEDDING = "model.embed_tokens.weight"
HEAD = "lm_head.weight"
MODULES = {
    "q": "self_attn.q_proj",
    "k": "self_attn.k_proj",
    "v": "self_attn.v_proj",
    "o": "self_attn.o_proj",
    "gate": "mlp.gate_proj",
    "up": "mlp.up_proj",
    "down": "mlp.down_proj",
}
"""Hugging Face's module of each linear map of a layer."""


@dataclasses.dataclass(frozen=True)
class Stored:
    """A tensor of a file.

    Attributes:
      shape: as the file claims; the bytes are known to be there.
      read: `() -> array`.
    """

    shape: tuple[int, ...]
    read: Callable[[], np.ndarray]


@dataclasses.dataclass(frozen=True)
class Leaf:
    """A parameter, and the tensors that stand side by side in its last axis.

    Attributes:
      path: of the parameter below `"params"`.
      shape: of the parameter; `[L, ...]` for those of layers.
      pieces: `(name, columns)`; the name of a layer's tensor has a place for its number.
      transposed: the file has outputs first.
    """

    path: tuple[str, ...]
    shape: tuple[int, ...]
    pieces: tuple[tuple[str, int], ...]
    transposed: bool = False

    def tensors(self) -> Iterator[tuple[str, tuple[int, ...], tuple]]:
        """`(name, shape in the file, index into the parameter)` of every tensor."""
        layered = self.path[0] == "layers"
        for layer in range(self.shape[0] if layered else 1):
            start = 0
            for name, columns in self.pieces:
                shape = (*self.shape[1 if layered else 0 : -1], columns)
                index = ((layer,) if layered else ()) + (..., slice(start, start + columns))
                yield name.format(layer), shape[::-1] if self.transposed else shape, index
                start += columns


def leaves(config: TransformerConfig) -> list[Leaf]:
    """Every parameter of a transformer.

    Args:
      config: of the transformer, without a value head.

    Returns:
      The parameters, in the order of the published files.
    """
    layers, width = config.num_layers, config.width

    def scale(name: str, file_name: str, size: int) -> Leaf:
        pieces = ((f"{LAYER}{file_name}.weight", size),)
        return Leaf(("layers", name, "scale"), (layers, size), pieces)

    found = [
        Leaf(("embedding",), (config.vocabulary_size, width), ((EMBEDDING, width),)),
        scale("attention_norm", "input_layernorm", width),
        scale("mlp_norm", "post_attention_layernorm", width),
    ]
    if config.query_key_norm:
        found += [
            scale("query_norm", "self_attn.q_norm", config.head_size),
            scale("key_norm", "self_attn.k_norm", config.head_size),
        ]
    biases = {
        "qkv": config.attention_bias,
        "output": config.output_bias,
        "gate_up": config.mlp_bias,
        "down": config.mlp_bias,
    }
    for name, (inputs, parts) in kernel_parts(config).items():
        columns = sum(size for _, size in parts)
        weights = tuple((f"{LAYER}{MODULES[part]}.weight", size) for part, size in parts)
        found.append(Leaf(("layers", name, "kernel"), (layers, inputs, columns), weights, True))
        if biases[name]:
            biased = tuple((f"{LAYER}{MODULES[part]}.bias", size) for part, size in parts)
            found.append(Leaf(("layers", name, "bias"), (layers, columns), biased))
    found.append(Leaf(("norm", "scale"), (width,), (("model.norm.weight", width),)))
    if not config.tied:
        size = config.vocabulary_size
        found.append(Leaf(("head", "kernel"), (width, size), ((HEAD, size),), True))
    return found


def assemble(
    config: TransformerConfig,
    stored: Mapping[str, Stored],
    source: str,
    called: Callable[[str], str] = str,
) -> PyTree:
    """Fills every parameter from exactly the tensors of a file.

    Args:
      config: of the transformer; its `param_dtype` is that of the parameters.
      stored: the file's tensors.
      source: the file, for errors.
      called: Hugging Face's name of a tensor -> the file's.

    Returns:
      Parameters of the transformer.

    Raises:
      PretrainedError: a tensor is missing, has another shape, or has no place; nothing has been
        allocated then.
    """
    expected = set()
    for leaf in leaves(config):
        for name, shape, _ in leaf.tensors():
            name = called(name)
            if name not in stored:
                raise PretrainedError(f"{source}: the tensor {name} is missing")
            if stored[name].shape != shape:
                raise PretrainedError(
                    f"{source}: the tensor {name} has the shape {list(stored[name].shape)}, but "
                    f"the configuration asks for {list(shape)}"
                )
            expected.add(name)
    unknown = sorted(stored.keys() - expected)
    if unknown:
        raise PretrainedError(
            f"{source}: the tensor {unknown[0]} has no place in this model (and {len(unknown) - 1} "
            f"more)"
        )
    params: dict = {}
    for leaf in leaves(config):
        values = np.empty(leaf.shape, jnp.dtype(config.param_dtype))
        for name, _, index in leaf.tensors():
            tensor = stored[called(name)].read()
            values[index] = tensor.T if leaf.transposed else tensor
        inside = params
        for step in leaf.path[:-1]:
            inside = inside.setdefault(step, {})
        # `copy`, or the device may alias host memory that a donated update then overwrites.
        inside[leaf.path[-1]] = jnp.array(values, copy=True)
    return {"params": params}


def take_apart(config: TransformerConfig, params: PyTree) -> dict[str, np.ndarray]:
    """The opposite of `assemble`.

    Args:
      config: of the transformer.
      params: of the transformer.

    Returns:
      Hugging Face's name -> array, outputs first, in the parameters' type.

    Raises:
      ValueError: the parameters are not those of the configuration.
    """
    given = {
        tuple(str(getattr(key, "key", key)) for key in path): leaf
        for path, leaf in jax.tree_util.tree_flatten_with_path(params)[0]
    }
    tensors = {}
    for leaf in leaves(config):
        values = given.pop(("params", *leaf.path), None)
        name = "/".join(leaf.path)
        if values is None:
            raise ValueError(f"params has no {name}, which the configuration asks for")
        if values.shape != leaf.shape:
            raise ValueError(
                f"params has {name} of shape {list(values.shape)}, but the configuration asks for "
                f"{list(leaf.shape)}"
            )
        values = np.asarray(values)
        for tensor, _, index in leaf.tensors():
            piece = values[index]
            tensors[tensor] = np.ascontiguousarray(piece.T if leaf.transposed else piece)
    if given:
        raise ValueError(
            f"params has {'/'.join(next(iter(given)))}, which has no place in the file: "
            f"merge adapters and leave out a value head before saving"
        )
    return tensors
