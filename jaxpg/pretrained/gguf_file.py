"""Models out of GGUF files: configuration from the metadata, parameters from the tensors."""

from __future__ import annotations

import dataclasses
import functools
import pathlib
from typing import Any

import numpy as np

from jaxpg.networks import rotary
from jaxpg.networks.rotary import RopeScaling
from jaxpg.networks.transformer_config import TransformerConfig
from jaxpg.pretrained import plain_values
from jaxpg.pretrained.errors import PretrainedError, one_of
from jaxpg.pretrained.gguf_header import Header, Tensor, read_header
from jaxpg.pretrained.layout import EMBEDDING, HEAD, LAYER, MODULES, Stored, assemble
from jaxpg.pretrained.optional import package
from jaxpg.types import PyTree

ARCHITECTURES = ("llama", "qwen2", "qwen3")
NAMES = {
    EMBEDDING: "token_embd.weight",
    HEAD: "output.weight",
    "model.norm.weight": "output_norm.weight",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    MODULES["q"]: "attn_q",
    MODULES["k"]: "attn_k",
    MODULES["v"]: "attn_v",
    MODULES["o"]: "attn_output",
    MODULES["gate"]: "ffn_gate",
    MODULES["up"]: "ffn_up",
    MODULES["down"]: "ffn_down",
}
"""Hugging Face's name of a tensor, or of a module of a layer -> GGUF's."""
FREQUENCIES = "rope_freqs.weight"
KEYS = {
    "attention.head_count",
    "attention.head_count_kv",
    "attention.key_length",
    "attention.layer_norm_rms_epsilon",
    "attention.sliding_window",
    "attention.value_length",
    "block_count",
    "context_length",
    "embedding_length",
    "expert_count",
    "feed_forward_length",
    "rope.dimension_count",
    "rope.freq_base",
    "rope.scaling.factor",
    "rope.scaling.finetuned",
    "rope.scaling.original_context_length",
    "rope.scaling.type",
    "tensor_data_layout",
    "vocab_size",
}
"""Metadata of an architecture that is read or has no effect; another key might change the model."""


def load(path: str | pathlib.Path, dtype: str = "float32") -> tuple[TransformerConfig, PyTree]:
    """Reads a model of `ARCHITECTURES`; quantised tensors become plain numbers.

    Args:
      path: of the file.
      dtype: of parameters and computation, `"float32"` or `"bfloat16"`.

    Returns:
      `(config, params)`.

    Raises:
      PretrainedError: the file is damaged, unknown, or disagrees with itself.
    """
    return from_header(read_header(path), dtype)


def from_header(header: Header, dtype: str = "float32") -> tuple[TransformerConfig, PyTree]:
    """Like `load`, for a header that has been read.

    Args:
      header: of the file.
      dtype: see `load`.

    Returns:
      `(config, params)`.

    Raises:
      PretrainedError: see `load`.
    """
    config = dataclasses.replace(read_config(header), dtype=dtype, param_dtype=dtype)
    # Llama's files have the two halves of each rotated head interleaved; Qwen's have not.
    interleaved = header.metadata["general.architecture"] == "llama"

    def stored(name: str, tensor: Tensor) -> Stored:
        module = name.rpartition(".")[0].rpartition(".")[2]
        heads = {NAMES[MODULES["q"]]: config.num_heads, NAMES[MODULES["k"]]: config.kv_heads}

        def read() -> np.ndarray:
            values = _values(header, tensor)
            return halves(values, heads[module]) if interleaved and module in heads else values

        return Stored(tensor.shape, read)

    tensors = {
        name: stored(name, tensor) for name, tensor in header.tensors.items() if name != FREQUENCIES
    }
    return config, assemble(config, tensors, str(header.path), _called)


def read_config(header: Header) -> TransformerConfig:
    """Reads the shape of the model.

    Args:
      header: of the file.

    Returns:
      The configuration.

    Raises:
      PretrainedError: something is missing, unknown, or disagrees with the tensors.
    """
    source, metadata, tensors = header.path, header.metadata, header.tensors
    architecture = metadata.get("general.architecture")
    one_of(source, "general.architecture", architecture, ARCHITECTURES)
    prefix = f"{architecture}."
    values = {k.removeprefix(prefix): v for k, v in metadata.items() if k.startswith(prefix)}
    whole = functools.partial(plain_values.whole, values, source=source)
    number = functools.partial(plain_values.number, values, source=source)
    if NAMES[EMBEDDING] not in tensors:
        raise PretrainedError(f"{source}: the tensor {NAMES[EMBEDDING]} is missing")
    width, num_heads = whole("embedding_length"), whole("attention.head_count")
    head_width = whole("attention.key_length", default=None) or width // num_heads
    vocabulary_size = tensors[NAMES[EMBEDDING]].shape[0]
    max_positions = whole("context_length")
    _check(values, source, vocabulary_size, head_width, max_positions)
    theta = number("rope.freq_base", default=10000.0)

    def has(name: str) -> bool:
        return f"blk.0.{name}.bias" in tensors

    try:
        return TransformerConfig(
            vocabulary_size=vocabulary_size,
            num_layers=whole("block_count"),
            width=width,
            num_heads=num_heads,
            num_kv_heads=whole("attention.head_count_kv", default=num_heads),
            head_width=head_width,
            mlp_width=whole("feed_forward_length"),
            max_positions=max_positions,
            rope_theta=theta,
            rope_scaling=_scaling(header, values, head_width, theta),
            norm_epsilon=_shortest(number("attention.layer_norm_rms_epsilon")),
            tied=NAMES[HEAD] not in tensors,
            attention_bias=has("attn_q"),
            output_bias=has("attn_output"),
            mlp_bias=has("ffn_down"),
            query_key_norm=architecture == "qwen3",
        )
    except PretrainedError:
        raise
    except ValueError as error:
        raise PretrainedError(f"{source}: {error}") from error


def halves(values: np.ndarray, num_heads: int) -> np.ndarray:
    """Rows of queries or keys in the order of `rotary.rotate`: all first entries, all second.

    Args:
      values: `[num_heads H, ...]`, rows of each head in pairs (first entry, second entry).
      num_heads: of these rows; for keys the number of key heads.

    Returns:
      The rows in the other order.

    >>> halves(np.arange(8), num_heads=1).tolist()
    [0, 2, 4, 6, 1, 3, 5, 7]
    """
    paired = values.reshape((num_heads, -1, 2, *values.shape[1:]))
    return paired.swapaxes(1, 2).reshape(values.shape)


def _called(name: str) -> str:
    """GGUF's name of a tensor that Hugging Face calls `name`."""
    if name in NAMES:
        return NAMES[name]
    start = LAYER.partition("{")[0]
    layer, _, rest = name.removeprefix(start).partition(".")
    module, _, kind = rest.rpartition(".")
    return f"blk.{layer}.{NAMES[module]}.{kind}"


def _values(header: Header, tensor: Tensor) -> np.ndarray:
    stored = np.memmap(header.path, np.uint8, "r", tensor.offset, (tensor.size,))
    rows = stored.reshape((*tensor.shape[:-1], -1))
    return package("gguf").dequantize(rows, tensor.kind)


def _check(
    values: dict[str, Any], source: Any, vocabulary_size: int, head_width: int, max_positions: int
) -> None:
    """Refuses what a transformer of ours does not compute."""
    unknown = sorted(values.keys() - KEYS)
    if unknown:
        raise PretrainedError(
            f"{source}: the metadata key {unknown[0]!r} is not known and might change the model"
        )
    fixed = {
        "vocab_size": vocabulary_size,
        "attention.value_length": head_width,
        "rope.dimension_count": head_width,
        "expert_count": 0,
    }
    for key, expected in fixed.items():
        value = values.get(key, expected)
        if not isinstance(value, int) or value != expected:
            raise PretrainedError(
                f"{source}: {key} is {str(value)[:100]}, but this model's can only be {expected}"
            )
    window = plain_values.whole(values, "attention.sliding_window", source, max_positions)
    if window < max_positions:
        raise PretrainedError(
            f"{source}: attention.sliding_window is {window}, but only full attention over all "
            f"{max_positions} positions is computed"
        )


def _scaling(
    header: Header, values: dict[str, Any], head_width: int, theta: float
) -> RopeScaling | None:
    kind = values.get("rope.scaling.type", "none")
    one_of(header.path, "rope.scaling.type", kind, ("none", "linear"))
    if FREQUENCIES in header.tensors:
        return _llama3_scaling(header, head_width, theta)
    if kind == "linear":
        factor = plain_values.number(values, "rope.scaling.factor", header.path)
        return RopeScaling("linear", factor)
    return None


def _llama3_scaling(header: Header, head_width: int, theta: float) -> RopeScaling:
    """GGUF stores Llama 3's scaling as its result: one divisor for each frequency."""
    tensor = header.tensors[FREQUENCIES]
    if tensor.shape == (head_width // 2,):
        divisors = _values(header, tensor)
        scaling = RopeScaling("llama3", float(divisors.max()))
        plain = rotary.frequencies(head_width, theta)
        if np.allclose(plain / rotary.frequencies(head_width, theta, scaling), divisors, rtol=1e-4):
            return scaling
    raise PretrainedError(
        f"{header.path}: the tensor {FREQUENCIES} is not Llama 3's scaling of "
        f"{head_width // 2} frequencies, the only one known"
    )


def _shortest(value: float) -> float:
    """The shortest decimal number that is the same in float32, in which GGUF stores it."""
    return float(str(np.float32(value)))
