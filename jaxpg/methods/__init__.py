"""Published systems that override a seam of the update, one file each."""

from jaxpg.methods.ppo_adaptive_penalty import ppo_adaptive_penalty

__all__ = ["ppo_adaptive_penalty"]
