"""Published systems that override a seam of the update, one file each."""

from jaxpg.methods.aepo import aepo
from jaxpg.methods.capo import capo, dr_capo, rein_capo
from jaxpg.methods.d3s import d3s
from jaxpg.methods.dapo import dapo
from jaxpg.methods.dcpo import dcpo
from jaxpg.methods.hpt import hpt
from jaxpg.methods.ppo_adaptive_penalty import ppo_adaptive_penalty
from jaxpg.methods.random_down_sampling import random_down_sampling
from jaxpg.methods.spo import spo

__all__ = [
    "aepo",
    "capo",
    "d3s",
    "dapo",
    "dcpo",
    "dr_capo",
    "hpt",
    "ppo_adaptive_penalty",
    "random_down_sampling",
    "rein_capo",
    "spo",
]
