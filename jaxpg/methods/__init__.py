"""Published systems that override a seam of the update, one file each."""

from jaxpg.methods.dapo import dapo
from jaxpg.methods.hpt import hpt
from jaxpg.methods.ppo_adaptive_penalty import ppo_adaptive_penalty
from jaxpg.methods.spo import spo

__all__ = [
    "dapo",
    "hpt",
    "ppo_adaptive_penalty",
    "spo",
]
