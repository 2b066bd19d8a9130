"""Published models of the Llama family: their files, tokenizers, and adapters.

Everything is read from this machine's disk. Files are not trusted: what they claim is checked
before anything is allocated, and nothing in them is run but a chat template, in a sandbox.

>>> model = pretrained.load("Qwen2.5-0.5B-Instruct")                  # doctest: +SKIP
>>> prompt = model.tokenizer.encode_chat([{"role": "user", "content": "Hello"}])  # doctest: +SKIP
"""

from jaxpg.pretrained.adapters import load_adapters, save_adapters
from jaxpg.pretrained.errors import PretrainedError
from jaxpg.pretrained.model import Pretrained, load, save, smollm2
from jaxpg.pretrained.tokenizer import Tokenizer

__all__ = [
    "Pretrained",
    "PretrainedError",
    "Tokenizer",
    "load",
    "load_adapters",
    "save",
    "save_adapters",
    "smollm2",
]
