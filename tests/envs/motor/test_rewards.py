"""The reward of a step, against gym-electric-motor's numbers."""

import json
import pathlib
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxpg_envs.motor.rewards import WeightedSumOfErrors, check_reward

RECORDING = pathlib.Path(__file__).parent / "recordings" / "rewards.json"
NAMES = ("omega", "torque", "i", "u", "u_sup")
LOW = (0.0, -1.0, -1.0, -1.0, 0.0)
LENGTHS = {name: 1.0 - low for name, low in zip(NAMES, LOW, strict=True)}

# Ours, and the same in gym-electric-motor's words.
CASES = {
    "default": ({}, {}),
    "one weight": ({"weights": {"omega": 1.0}}, {"reward_weights": {"omega": 1.0}}),
    "normed": (
        {"weights": {"i": 1.0, "torque": 3.0}, "normed": True, "positive": True},
        {
            "reward_weights": {"i": 1.0, "torque": 3.0},
            "normed_reward_weights": True,
            "bias": "positive",
        },
    ),
    "powers": (
        {"weights": {"i": 2.0, "u": 0.5}, "powers": {"i": 2.0, "u": 0.5}, "bias": 0.25},
        {
            "reward_weights": {"i": 2.0, "u": 0.5},
            "reward_power": {"i": 2.0, "u": 0.5},
            "bias": 0.25,
        },
    ),
    "one power": ({"powers": 3.0, "gamma": 0.99}, {"reward_power": 3.0, "gamma": 0.99}),
    "paid": ({"violation_reward": -3.5}, {"violation_reward": -3.5}),
    "positive": (
        {"weights": {"i": 2.0}, "positive": True},
        {"reward_weights": {"i": 2.0}, "bias": "positive"},
    ),
    "large bias": ({"bias": 5.0}, {"bias": 5.0}),
}
REFERENCED = {"two": ("i", "omega"), "none": ()}
VIOLATIONS = (0.0, 0.3, 1.0)


def samples():
    source = np.random.default_rng(0)
    return source.uniform(-1.2, 1.2, (4, len(NAMES))), source.uniform(-1, 1, (4, len(NAMES)))


def record():
    """Rewards of the samples, from gym-electric-motor itself."""
    functions = pytest.importorskip("gym_electric_motor").reward_functions
    found = {}
    for case, (_, arguments) in CASES.items():
        for kind, referenced in REFERENCED.items():
            reward = functions.WeightedSumOfErrors(**arguments)
            named = np.isin(NAMES, referenced)
            space = SimpleNamespace(low=np.array(LOW), high=np.ones(len(NAMES)))
            reward.set_modules(
                SimpleNamespace(state_space=space, state_names=list(NAMES)),
                SimpleNamespace(referenced_states=named),
                None,
            )
            found[f"{case}, {kind}"] = {
                "rewards": [
                    [
                        float(reward.reward(state, reference * named, violation_degree=degree))
                        for degree in VIOLATIONS
                    ]
                    for state, reference in zip(*samples(), strict=True)
                ],
                "range": [float(end) for end in reward.reward_range],
            }
    return found


RECORDED = json.loads(RECORDING.read_text()) if RECORDING.exists() else {}


def test_the_recording_is_what_gem_gives():
    pytest.importorskip("gym_electric_motor")
    assert json.loads(json.dumps(record())) == RECORDED


@pytest.mark.parametrize("kind", REFERENCED)
@pytest.mark.parametrize("case", CASES)
def test_rewards_are_gems(case, kind):
    recorded = RECORDED[f"{case}, {kind}"]
    reward = WeightedSumOfErrors(**CASES[case][0])
    with jax.enable_x64(True):
        states, references = (
            dict(zip(NAMES, jnp.asarray(rows).T[:, :, None], strict=True)) for rows in samples()
        )
        references = {name: references[name] for name in REFERENCED[kind]}
        found = reward(states, references, LENGTHS, jnp.asarray(VIOLATIONS))
        np.testing.assert_allclose(found, recorded["rewards"], rtol=1e-12)
        found = [float(end) for end in reward.range(NAMES, REFERENCED[kind])]
    np.testing.assert_allclose(found, recorded["range"], rtol=1e-12)


def test_a_perfect_track_pays_0_and_a_violation_minus_10():
    reward = WeightedSumOfErrors.equal(["i_sd", "i_sq"])
    states = {"i_sd": jnp.array(0.3), "i_sq": jnp.array(-0.2)}
    lengths = {"i_sd": 2.0, "i_sq": 2.0}
    assert float(reward(states, states, lengths, 0.0)) == 0.0
    np.testing.assert_allclose(reward(states, {}, lengths, 1.0), -10.0, rtol=1e-6)
    lost = {"i_sd": jnp.array(jnp.nan), "i_sq": jnp.array(jnp.inf)}
    np.testing.assert_allclose(reward(lost, states, lengths, 1.0), -10.0, rtol=1e-6)


def test_a_batch_of_rewards_is_one_vmap_and_has_gradients():
    batch = WeightedSumOfErrors(
        {"i": jnp.array([1.0, 2.0])}, jnp.array([1.0, 2.0]), jnp.zeros(2), jnp.full(2, 0.9)
    )
    states = {"i": jnp.array([0.5, 0.0])}
    pay = lambda reward, states: reward(states, {"i": 0.0}, {"i": 2.0}, 0.0)
    both = jax.jit(jax.vmap(jax.value_and_grad(pay, argnums=(0, 1))))
    values, gradients = both(batch, states)
    np.testing.assert_allclose(values, [-0.25, 0.0])
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradients))
    np.testing.assert_allclose(gradients[1]["i"], [-0.5, 0.0])


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"weights": {"omga": 1.0}}, "weights='omga' is not one of .*; did you mean 'omega'"),
        ({"weights": {"i": -1.0}}, r"weights\['i'\] is -1.0.* at least 0"),
        ({"weights": {"i": 0.0}}, "one of them has to be above 0"),
        ({"weights": [1.0]}, "weights is .* a dict"),
        ({"powers": {"j": 1.0}}, "powers='j' is not one of"),
        ({"weights": {"i": 1.0}, "powers": {"u": 1.0}}, "powers has no entry 'i'"),
        ({"powers": -1.0}, "powers is -1.0"),
        ({"gamma": 1.0}, r"gamma is 1.0.* in \[0, 1\)"),
        ({"gamma": -0.1}, "gamma is -0.1"),
        ({"bias": float("nan")}, "bias is nan"),
        ({"bias": "positive"}, "bias is 'positive'"),
        ({"violation_reward": float("-inf")}, "violation_reward is -inf"),
    ],
)
def test_a_reward_that_cannot_be_is_refused(fields, sentence):
    with pytest.raises(ValueError, match=sentence):
        check_reward(WeightedSumOfErrors(**fields), NAMES)


def test_rewards_that_can_be_are_accepted_alone_and_as_a_batch():
    for ours, _ in CASES.values():
        check_reward(WeightedSumOfErrors(**ours), NAMES)
    check_reward(WeightedSumOfErrors({"i": np.array([1.0, 0.5])}, gamma=np.zeros(2)), NAMES)
