"""Flax linen networks as pure functions."""

from jaxpg.networks import lpg_file, mlp, observations
from jaxpg.networks.actor_critic import ActorCritic, NetworkConfig, Networks, actor_critic
from jaxpg.networks.decoder import transformer
from jaxpg.networks.deterministic import DeterministicNetworks, deterministic
from jaxpg.networks.graph import GraphNetwork
from jaxpg.networks.gru import GRUConfig, gru
from jaxpg.networks.language_model import LanguageModel
from jaxpg.networks.lora import LoRA
from jaxpg.networks.lpg import LearnedRule, learned_rule
from jaxpg.networks.rotary import RopeScaling
from jaxpg.networks.token_mlp import TokenMLPConfig, token_mlp
from jaxpg.networks.transformer_config import TransformerConfig
from jaxpg.networks.vocabulary import log_probs_of, token_statistics

__all__ = [
    "ActorCritic",
    "DeterministicNetworks",
    "GRUConfig",
    "GraphNetwork",
    "LanguageModel",
    "LearnedRule",
    "LoRA",
    "NetworkConfig",
    "Networks",
    "RopeScaling",
    "TokenMLPConfig",
    "TransformerConfig",
    "actor_critic",
    "deterministic",
    "gru",
    "learned_rule",
    "log_probs_of",
    "lpg_file",
    "mlp",
    "observations",
    "token_mlp",
    "token_statistics",
    "transformer",
]
