"""Hugging Face folders: finding their files safely, reading a model, writing one."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import pathlib
import shutil
import uuid
from collections.abc import Iterator

import numpy as np

from jaxpg.networks.transformer_config import TransformerConfig
from jaxpg.pretrained import config_json, safetensors_file, tokenizer_json
from jaxpg.pretrained.errors import PretrainedError
from jaxpg.pretrained.layout import EMBEDDING, HEAD, Stored, assemble, take_apart
from jaxpg.pretrained.plain_values import read_json
from jaxpg.pretrained.tokenizer import Tokenizer
from jaxpg.types import PyTree

CONFIG = "config.json"
WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
BUFFER = "rotary_emb.inv_freq"
"""Rotary frequencies, which old files hold beside the weights and the configuration implies."""


def load(
    folder: str | pathlib.Path, dtype: str = "float32"
) -> tuple[TransformerConfig, PyTree, Tokenizer | None]:
    """Reads a folder.

    Args:
      folder: with `config.json` and the weights, whole or in shards.
      dtype: of parameters and computation, `"float32"` or `"bfloat16"`.

    Returns:
      `(config, params, tokenizer)`; the tokenizer is None without a `tokenizer.json`.

    Raises:
      PretrainedError: a file is missing, damaged, unknown, outside the folder, or disagrees with
        another.
    """
    folder = pathlib.Path(folder)
    path = find(folder, CONFIG)
    if path is None:
        raise PretrainedError(f"{folder} holds no {CONFIG}")
    values = read_json(path)
    config = config_json.from_json(values, path)
    config = dataclasses.replace(config, dtype=dtype, param_dtype=dtype)
    tensors = {k: v for k, v in _tensors(folder).items() if not k.endswith(BUFFER)}
    if config.tied and HEAD in tensors:
        _check_tied(folder, tensors)
    tokenizer = tokenizer_json.read(lambda name: find(folder, name), values, config.vocabulary_size)
    return config, assemble(config, tensors, str(folder)), tokenizer


def save(
    folder: str | pathlib.Path,
    config: TransformerConfig,
    params: PyTree,
    tokenizer: Tokenizer | None = None,
) -> None:
    """Writes a folder, which other toolkits open; it is there as a whole or not at all.

    A tied embedding is written once. Parameters keep their type.

    Args:
      folder: that does not exist yet, or is empty.
      config: of the transformer.
      params: of the transformer, without adapters and value head.
      tokenizer: of the model, or None.

    Raises:
      ValueError: the folder holds files, no model type computes this configuration, or the
        parameters are not those of the configuration.
    """
    values = config_json.to_json(config)
    tensors = take_apart(config, params)
    values["torch_dtype"] = _dtype(tensors)
    if tokenizer is not None:
        if tokenizer.vocabulary_size != config.vocabulary_size:
            raise ValueError(
                f"tokenizer has vocabulary_size={tokenizer.vocabulary_size}, but the model "
                f"{config.vocabulary_size}"
            )
        values |= tokenizer_json.token_ids(tokenizer)
    with new_folder(folder) as target:
        safetensors_file.write(target / WEIGHTS, tensors)
        (target / CONFIG).write_text(json.dumps(values, indent=2) + "\n")
        if tokenizer is not None:
            tokenizer_json.write(target, tokenizer, config.max_positions)


def find(folder: pathlib.Path, name: str) -> pathlib.Path | None:
    """A file of a folder, by a name that may come out of another file.

    Args:
      folder: where it has to be.
      name: of the file alone.

    Returns:
      Its path; None if there is no such file.

    Raises:
      PretrainedError: the name leads out of the folder, or the file is no plain file.
    """
    if name in ("", ".", "..") or any(character in name for character in "/\\\0:"):
        raise PretrainedError(
            f"{folder} names the file {name[:100]!r}, which is no name of a file in it"
        )
    path = folder / name
    if not os.path.lexists(path):
        return None
    try:
        home, real = folder.resolve(), path.resolve()
    except (OSError, RuntimeError) as error:
        raise PretrainedError(f"{path} leads in a circle") from error
    # A download cache of the Hub keeps the files in a folder beside the snapshots.
    blobs = home.parent.parent / "blobs" if home.parent.name == "snapshots" else home
    if real.parent not in (home, blobs):
        raise PretrainedError(f"{path} leads out of its folder")
    if not real.is_file():
        raise PretrainedError(f"{path} is no plain file")
    return path


@contextlib.contextmanager
def new_folder(folder: str | pathlib.Path) -> Iterator[pathlib.Path]:
    """Gives a folder to write into, which is renamed at the end: all of it is there, or nothing.

    Args:
      folder: the final one, that does not exist yet, or is empty.

    Yields:
      The folder to write into.

    Raises:
      ValueError: the final one holds files.
    """
    final = pathlib.Path(folder).absolute()
    if final.exists() and (not final.is_dir() or any(final.iterdir())):
        raise ValueError(f"folder is {str(folder)!r}, which holds files: name a new one")
    final.parent.mkdir(parents=True, exist_ok=True)
    part = final.parent / f".writing-{final.name}-{uuid.uuid4().hex}"
    part.mkdir()
    try:
        yield part
        os.replace(part, final)
    except BaseException:
        shutil.rmtree(part, ignore_errors=True)
        raise


def _tensors(folder: pathlib.Path) -> dict[str, Stored]:
    """Every tensor, of one file or of the shards that an index names."""
    whole, index = find(folder, WEIGHTS), find(folder, INDEX)
    if whole is not None:
        return safetensors_file.read(whole)
    if index is None:
        raise PretrainedError(f"{folder} holds neither {WEIGHTS} nor {INDEX}")
    places = read_json(index).get("weight_map")
    if not isinstance(places, dict) or not all(isinstance(v, str) for v in places.values()):
        raise PretrainedError(f"{index}: weight_map is missing, or does not map names to files")
    tensors: dict[str, Stored] = {}
    for name in dict.fromkeys(places.values()):
        path = find(folder, name)
        if path is None:
            raise PretrainedError(f"{index} names {name}, which is missing")
        shard = safetensors_file.read(path)
        claimed = {tensor for tensor, file in places.items() if file == name}
        if shard.keys() != claimed:
            odd = sorted(shard.keys() ^ claimed)[0]
            raise PretrainedError(f"{index} and {name} disagree about the tensor {odd}")
        tensors |= shard
    return tensors


def _check_tied(folder: pathlib.Path, tensors: dict[str, Stored]) -> None:
    head = tensors.pop(HEAD)
    embedding = tensors.get(EMBEDDING)
    same = embedding is not None and embedding.shape == head.shape
    if not same or not np.array_equal(embedding.read(), head.read()):
        raise PretrainedError(
            f"{folder}: tie_word_embeddings is true, but {HEAD} is not equal to {EMBEDDING}"
        )


def _dtype(tensors: dict[str, np.ndarray]) -> str:
    names = sorted({array.dtype.name for array in tensors.values()})
    if len(names) > 1 or names[0] not in ("float32", "float16", "bfloat16"):
        raise ValueError(
            f"params are of type {names}, but a file holds one of ['bfloat16', 'float16', "
            f"'float32']: cast them first"
        )
    return names[0]
