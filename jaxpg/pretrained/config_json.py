"""Hugging Face's `config.json` as a `TransformerConfig`, and back."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

from jaxpg.networks.rotary import RopeScaling
from jaxpg.networks.transformer_config import TransformerConfig
from jaxpg.pretrained import plain_values
from jaxpg.pretrained.errors import PretrainedError, one_of

MODEL_TYPES = ("llama", "mistral", "qwen2", "qwen3")
ARCHITECTURES = {
    "llama": "LlamaForCausalLM",
    "qwen2": "Qwen2ForCausalLM",
    "qwen3": "Qwen3ForCausalLM",
}
FIXED = {
    "hidden_act": ("silu", "swish"),
    "quantization_config": (None,),
    "auto_map": (None,),
    "partial_rotary_factor": (None, 1.0),
    "use_sliding_window": (None, False),
}
"""Keys that would change the model, and the values that do not."""


def from_json(values: Mapping[str, Any], source: Any) -> TransformerConfig:
    """Reads the shape of a model of `MODEL_TYPES`.

    Args:
      values: of `config.json`.
      source: the file, for errors.

    Returns:
      The configuration.

    Raises:
      PretrainedError: a key is missing, or asks for what a transformer of ours does not compute.
    """
    whole = functools.partial(plain_values.whole, values, source=source)
    flag = functools.partial(plain_values.flag, values, source=source)
    kind = values.get("model_type")
    one_of(source, "model_type", kind, MODEL_TYPES)
    num_heads, max_positions = whole("num_attention_heads"), whole("max_position_embeddings")
    _check(values, source, kind, max_positions)
    # A missing key means Hugging Face's default, which differs between the types.
    kv_default = num_heads if kind == "llama" else plain_values.REQUIRED
    head_default = plain_values.REQUIRED if kind == "qwen3" else None
    biased = kind in ("llama", "qwen3") and flag("attention_bias")
    theta, scaling = _rotary(values, source)
    try:
        return TransformerConfig(
            vocabulary_size=whole("vocab_size"),
            num_layers=whole("num_hidden_layers"),
            width=whole("hidden_size"),
            num_heads=num_heads,
            num_kv_heads=whole("num_key_value_heads", default=kv_default),
            head_width=whole("head_dim", default=head_default) or whole("hidden_size") // num_heads,
            mlp_width=whole("intermediate_size"),
            max_positions=max_positions,
            rope_theta=theta,
            rope_scaling=scaling,
            norm_epsilon=plain_values.number(values, "rms_norm_eps", source),
            tied=flag("tie_word_embeddings"),
            attention_bias=biased or kind == "qwen2",
            output_bias=biased,
            mlp_bias=kind == "llama" and flag("mlp_bias"),
            query_key_norm=kind == "qwen3",
        )
    except PretrainedError:
        raise
    except ValueError as error:
        raise PretrainedError(f"{source}: {error}") from error


def to_json(config: TransformerConfig) -> dict[str, Any]:
    """Writes the shape of a model.

    Args:
      config: of the transformer.

    Returns:
      Values of `config.json`.

    Raises:
      ValueError: no model type of Hugging Face computes this.
    """
    kind = _model_type(config)
    values = {
        "architectures": [ARCHITECTURES[kind]],
        "model_type": kind,
        "vocab_size": config.vocabulary_size,
        "hidden_size": config.width,
        "num_hidden_layers": config.num_layers,
        "num_attention_heads": config.num_heads,
        "num_key_value_heads": config.kv_heads,
        "head_dim": config.head_size,
        "intermediate_size": config.mlp_width,
        "hidden_act": "silu",
        "max_position_embeddings": config.max_positions,
        "rope_theta": config.rope_theta,
        "rms_norm_eps": config.norm_epsilon,
        "tie_word_embeddings": config.tied,
    }
    if kind != "qwen2":
        values["attention_bias"] = config.attention_bias
    if kind == "llama":
        values["mlp_bias"] = config.mlp_bias
    scaling = config.rope_scaling
    if scaling is not None:
        values["rope_scaling"] = {"rope_type": scaling.kind, "factor": scaling.factor}
        if scaling.kind == "llama3":
            values["rope_scaling"] |= {
                "low_freq_factor": scaling.low_frequency_factor,
                "high_freq_factor": scaling.high_frequency_factor,
                "original_max_position_embeddings": scaling.original_positions,
            }
    return values


def _model_type(config: TransformerConfig) -> str:
    biases = (config.attention_bias, config.output_bias, config.mlp_bias)
    if config.value_head:
        raise ValueError(
            "value_head is True, but a Hugging Face folder has no place for it: save the "
            "configuration with value_head=False and the parameters without 'value'"
        )
    if config.query_key_norm and biases in ((False, False, False), (True, True, False)):
        return "qwen3"
    if not config.query_key_norm and biases[0] == biases[1]:
        return "llama"
    if not config.query_key_norm and biases == (True, False, False):
        return "qwen2"
    raise ValueError(
        f"query_key_norm={config.query_key_norm} with attention_bias={biases[0]}, "
        f"output_bias={biases[1]}, mlp_bias={biases[2]} is no model type of Hugging Face; the "
        f"nearest has output_bias equal to attention_bias"
        + (" and mlp_bias=False" if config.query_key_norm else "")
    )


def _check(values: Mapping[str, Any], source: Any, kind: str, max_positions: int) -> None:
    """Refuses what a transformer of ours does not compute."""
    for key, accepted in FIXED.items():
        if values.get(key, accepted[0]) not in accepted:
            raise PretrainedError(
                f"{source}: {key} is {values[key]!r}, but only {accepted[0]!r} is computed here"
            )
    layers = values.get("layer_types") or []
    if not isinstance(layers, list) or any(layer != "full_attention" for layer in layers):
        raise PretrainedError(f"{source}: layer_types names others than 'full_attention'")
    if kind == "mistral":
        window = plain_values.whole(values, "sliding_window", source, max_positions)
        if window < max_positions:
            raise PretrainedError(
                f"{source}: sliding_window is {window}, but only full attention over all "
                f"{max_positions} positions is computed here"
            )


def _rotary(values: Mapping[str, Any], source: Any) -> tuple[float, RopeScaling | None]:
    """Base and scaling, which newer files hold together in `rope_parameters`."""
    together = values.get("rope_parameters")
    scaling = values.get("rope_scaling") if together is None else together
    if scaling is not None and not isinstance(scaling, dict):
        raise PretrainedError(f"{source}: rope_scaling is {scaling!r}, but it has to be an object")
    holder = values if together is None else together
    theta = plain_values.number(holder, "rope_theta", source, 10000.0)
    if (scaling or {}).get("partial_rotary_factor", 1.0) != 1.0:
        raise PretrainedError(f"{source}: partial_rotary_factor is not 1: whole heads are rotated")
    kind = (scaling or {}).get("rope_type", (scaling or {}).get("type", "default"))
    one_of(source, "rope_type", kind, ("default", "linear", "llama3"))
    if kind == "default":
        return theta, None
    number = functools.partial(plain_values.number, scaling, source=source)
    if kind == "linear":
        return theta, RopeScaling("linear", number("factor"))
    return theta, RopeScaling(
        "llama3",
        number("factor"),
        number("low_freq_factor"),
        number("high_freq_factor"),
        plain_values.whole(scaling, "original_max_position_embeddings", source),
    )
