"""Low-rank adapters in PEFT's format.

Source: PEFT's checkpoint format; `lora_A` is `[r, inputs]`, `lora_B` `[outputs, r]`.
"""

from __future__ import annotations

import json
import pathlib
import re
from typing import Any

import jax.numpy as jnp
import numpy as np

from jaxpg.networks.lora import TARGETS, LoRA
from jaxpg.networks.transformer_config import TransformerConfig, kernel_parts
from jaxpg.pretrained import plain_values, safetensors_file
from jaxpg.pretrained.errors import PretrainedError, one_of
from jaxpg.pretrained.folder import find, new_folder
from jaxpg.pretrained.layout import LAYER, MODULES, Stored
from jaxpg.types import PyTree

CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"
NAME = "base_model.model." + LAYER + "{}.lora_{}.weight"
PLAIN = {
    "alora_invocation_tokens": (None,),
    "alpha_pattern": ({},),
    "arrow_config": (None,),
    "bias": ("none",),
    "fan_in_fan_out": (False,),
    "init_lora_weights": (True, False, "gaussian", "orthogonal", "eva"),
    "kasa_config": (None,),
    "layer_replication": (None,),
    "layers_to_transform": (None,),
    "lora_bias": (False,),
    "modules_to_save": (None, []),
    "monteclora_config": (None,),
    "rank_pattern": ({},),
    "target_parameters": (None, []),
    "trainable_token_indices": (None,),
    "use_bdlora": (None, False),
    "use_dora": (False,),
    "use_qalora": (False,),
    "use_rslora": (False,),
}
"""Settings that would change the model, and the values that do not (some ways to draw the first
adapters also change the base)."""


def save_adapters(
    folder: str | pathlib.Path,
    lora: LoRA,
    adapters: PyTree,
    config: TransformerConfig,
    base: str = "",
) -> None:
    """Writes adapters.

    Args:
      folder: that does not exist yet, or is empty.
      lora: what the adapters were made with.
      adapters: `{"layers": {kernel: {part: {"a": [L, inputs, r], "b": [L, r, outputs]}}}}`.
      config: of the transformer.
      base: name or folder of the model that they belong to, for PEFT.

    Raises:
      ValueError: the adapters are not those of `lora` and `config`.
    """
    tensors: dict[str, np.ndarray] = {}
    places = _places(config, lora.targets)
    given = {(kernel, part) for kernel, parts in adapters["layers"].items() for part in parts}
    if given != {place[:2] for place in places}:
        raise ValueError(
            f"adapters are those of {sorted(part for _, part in given)}, but lora.targets is "
            f"{sorted(lora.targets)}"
        )
    for kernel, part, inputs, outputs in places:
        factors = adapters["layers"][kernel][part]
        shapes = {"a": (inputs, lora.rank), "b": (lora.rank, outputs)}
        for factor, shape in shapes.items():
            values = np.asarray(factors[factor])
            if values.shape != (config.num_layers, *shape):
                raise ValueError(
                    f"adapters has {kernel}/{part}/{factor} of shape {list(values.shape)}, but "
                    f"lora and config ask for {[config.num_layers, *shape]}"
                )
            for layer in range(config.num_layers):
                name = NAME.format(layer, MODULES[part], factor.upper())
                tensors[name] = np.ascontiguousarray(values[layer].T)
    alpha = int(lora.alpha) if float(lora.alpha).is_integer() else lora.alpha
    settings = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base,
        "r": lora.rank,
        "lora_alpha": alpha,
        "lora_dropout": 0.0,
        "target_modules": [MODULES[part].rpartition(".")[2] for part in lora.targets],
        "bias": "none",
        "fan_in_fan_out": False,
        "inference_mode": True,
    }
    with new_folder(folder) as target:
        safetensors_file.write(target / WEIGHTS, tensors)
        (target / CONFIG).write_text(json.dumps(settings, indent=2) + "\n")


def load_adapters(folder: str | pathlib.Path, config: TransformerConfig) -> tuple[LoRA, PyTree]:
    """Reads adapters of this project or of PEFT.

    Args:
      folder: with `adapter_config.json` and `adapter_model.safetensors`.
      config: of the transformer that they belong to.

    Returns:
      `(lora, adapters)`, in the file's type; float16 becomes float32.

    Raises:
      PretrainedError: a file is missing or damaged, a tensor is missing, unknown or of another
        shape, or the settings ask for what is not computed here.
    """
    folder = pathlib.Path(folder)
    paths = {name: find(folder, name) for name in (CONFIG, WEIGHTS)}
    for name, path in paths.items():
        if path is None:
            raise PretrainedError(f"{folder} holds no {name}")
    settings = plain_values.read_json(paths[CONFIG])
    stored = safetensors_file.read(paths[WEIGHTS])
    rank, alpha = _check(settings, paths[CONFIG])
    targets = _targets(stored, settings.get("target_modules"), paths[CONFIG])
    lora = LoRA(rank, alpha, targets)
    expected: dict[str, tuple] = {}
    for _, part, inputs, outputs in _places(config, targets):
        for factor, shape in (("a", (rank, inputs)), ("b", (outputs, rank))):
            names = [
                NAME.format(layer, MODULES[part], factor.upper())
                for layer in range(config.num_layers)
            ]
            expected |= dict.fromkeys(names, shape)
    _check_tensors(stored, expected, paths[WEIGHTS])
    layers: dict = {}
    for kernel, part, _, _ in _places(config, targets):
        layers.setdefault(kernel, {})[part] = {
            factor: _stacked(stored, part, factor, config.num_layers) for factor in ("a", "b")
        }
    return lora, {"layers": layers}


def _places(config: TransformerConfig, targets: tuple[str, ...]) -> list[tuple[str, str, int, int]]:
    """`(kernel, part, inputs, outputs)` of every target."""
    return [
        (kernel, part, inputs, outputs)
        for kernel, (inputs, parts) in kernel_parts(config).items()
        for part, outputs in parts
        if part in targets
    ]


def _check(settings: dict[str, Any], source: pathlib.Path) -> tuple[int, float]:
    one_of(source, "peft_type", settings.get("peft_type"), ["LORA"])
    for key, accepted in PLAIN.items():
        value = settings.get(key)
        if value is not None and value not in accepted:
            raise PretrainedError(
                f"{source}: {key} is {str(value)[:100]}, but only {accepted[0]!r} is computed here"
            )
    rank = plain_values.whole(settings, "r", source)
    return rank, plain_values.number(settings, "lora_alpha", source)


def _targets(stored: dict[str, Stored], named: Any, source: pathlib.Path) -> tuple[str, ...]:
    """The targets that the tensors belong to; a list of names has to agree."""
    found = tuple(
        part
        for part in TARGETS
        if any(re.search(rf"\.{MODULES[part].rpartition('.')[2]}\.lora_A\.", k) for k in stored)
    )
    modules = {MODULES[part].rpartition(".")[2] for part in found}
    # A text is a pattern, which this file's own tensors have answered already.
    if isinstance(named, list) and {str(name).rpartition(".")[2] for name in named} != modules:
        raise PretrainedError(
            f"{source}: target_modules is {sorted(map(str, named))}, but the tensors are those of "
            f"{sorted(modules)}"
        )
    if not found:
        raise PretrainedError(
            f"{source}: no tensor belongs to one of "
            f"{sorted(module.rpartition('.')[2] for module in MODULES.values())}"
        )
    return found


def _check_tensors(stored: dict[str, Stored], expected: dict[str, tuple], source: Any) -> None:
    odd = sorted(stored.keys() ^ expected.keys())
    if odd:
        what = "is missing" if odd[0] in expected else "has no place in this model"
        raise PretrainedError(f"{source}: the tensor {odd[0]} {what} (and {len(odd) - 1} more)")
    for name, shape in expected.items():
        if stored[name].shape != shape:
            raise PretrainedError(
                f"{source}: the tensor {name} has the shape {list(stored[name].shape)}, but the "
                f"settings ask for {list(shape)}"
            )


def _stacked(stored: dict[str, Stored], part: str, factor: str, num_layers: int) -> Any:
    names = (NAME.format(i, MODULES[part], factor.upper()) for i in range(num_layers))
    values = np.stack([stored[name].read().T for name in names])
    return jnp.array(values.astype(np.float32) if values.dtype == np.float16 else values)
