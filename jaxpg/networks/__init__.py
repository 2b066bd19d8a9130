"""Flax linen networks as pure functions."""

from jaxpg.networks import mlp, observations
from jaxpg.networks.actor_critic import ActorCritic, NetworkConfig, Networks, actor_critic

__all__ = ["ActorCritic", "NetworkConfig", "Networks", "actor_critic", "mlp", "observations"]
