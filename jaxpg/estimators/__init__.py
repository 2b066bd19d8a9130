"""The catalogue of estimators: one short function for each published composition."""

from jaxpg.estimators.actor_critic import (
    a2c,
    impala,
    ppo,
    ppo_penalty,
    reinforce,
    reinforce_batch_mean,
    reinforce_with_baseline,
)
from jaxpg.estimators.demonstrations import hpt, luffy_offline, sft, srft_offline
from jaxpg.estimators.groups import (
    aepo,
    cispo,
    cispo_masked,
    dapo,
    dr_grpo,
    grpo,
    gspo,
    reinforce_whitened,
    rloo,
)
from jaxpg.estimators.learned import learned
from jaxpg.estimators.tracked import spo

CATALOGUE = {
    builder.__name__: builder
    for builder in (
        reinforce,
        reinforce_batch_mean,
        reinforce_with_baseline,
        a2c,
        ppo,
        ppo_penalty,
        impala,
        sft,
        srft_offline,
        luffy_offline,
        hpt,
        rloo,
        grpo,
        dr_grpo,
        dapo,
        gspo,
        cispo,
        cispo_masked,
        reinforce_whitened,
        aepo,
        spo,
    )
}
"""Every published estimator by name; each builder works without arguments."""

__all__ = ["CATALOGUE", "learned", *CATALOGUE]
