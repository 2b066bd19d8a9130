"""The check of the interface: it passes every registered environment and names each violation."""

import jax
import jax.numpy as jnp
import pytest
from flax import struct
from gymnax.environments import environment, spaces
from gymnax.wrappers.purerl import FlattenObservationWrapper, LogWrapper

from jaxpg_envs import check, list_envs, make
from jaxpg_envs.contract import ContractError
from jaxpg_envs.spaces import MultiDiscrete

# Robots compile slowly, and the drives are one class: tests of their own check some of each.
APART = ("brax/", "locomotion/", "Cont-", "Finite-")
NAMES = [name for name in list_envs() if not name.startswith(APART)]
NAMES += ["Cont-CC-SCIM-v0", "Finite-TC-DFIM-v0"]


@pytest.mark.parametrize("name", NAMES)
def test_every_registered_environment_keeps_the_contract(name):
    check(*make(name))


@pytest.mark.parametrize("name", NAMES)
def test_reset_and_step_can_be_the_two_branches_of_a_cond(name):
    env, params = make(name)

    def either(key, state, action, resets):
        def step():
            observation, state_, *_ = env.step(key, state, action, params)
            return observation, state_

        return jax.lax.cond(resets, lambda: env.reset(key, params), step)

    _, state = jax.eval_shape(env.reset, jax.random.key(0), params)
    action = jax.eval_shape(env.action_space(params).sample, jax.random.key(0))
    observation, following = jax.eval_shape(either, jax.random.key(0), state, action, True)
    assert jax.tree.structure(following) == jax.tree.structure(state)
    space = env.observation_space(params)
    shapes = jax.tree.map(lambda entry: entry.shape, getattr(space, "spaces", space))
    found = jax.tree.map(lambda leaf: leaf.shape, observation)
    assert jax.tree.leaves(found) == jax.tree.leaves(shapes)


@pytest.mark.parametrize("wrapper", [LogWrapper, FlattenObservationWrapper])
def test_wrappers_of_gymnax_keep_the_contract(wrapper):
    check(wrapper(make("Catch-bsuite")[0]), num_envs=2, num_steps=20)


@struct.dataclass
class State(environment.EnvState):
    """Time and nothing else."""


class Plain(environment.Environment):
    """Observes one number in [0, 1], pays 1, never terminates; each fault breaks one part."""

    def reset_env(self, key, params):
        return jax.random.uniform(key, (1,)), State(time=jnp.int32(0))

    def step_env(self, key, state, action, params):
        observation = jax.random.uniform(key, (1,))
        return observation, State(time=state.time + 1), jnp.float32(1), jnp.array(False), {}

    def action_space(self, params):
        return spaces.Discrete(2)

    def observation_space(self, params):
        return spaces.Box(0.0, 1.0, (1,), jnp.float32)


def step_with(**changes):
    """`step_env` of an environment that returns something else in the named places."""

    def step_env(self, key, state, action, params):
        names = ("observation", "state", "reward", "terminated", "info")
        result = dict(zip(names, Plain.step_env(self, key, state, action, params), strict=True))
        return tuple((result | changes).values())

    return step_env


def branching_step(self, key, state, action, params):
    """A step that needs the value of a traced array."""
    if action == 0:
        return Plain.step_env(self, key, state, action, params)
    raise NotImplementedError


def four_of_six(self, key, state, action, params=None):
    """A step of an older interface."""
    return Plain.step_env(self, key, state, action, params)[:4]


def without_final_observation(self, key, state, action, params=None):
    """A step that loses the last observation of an episode."""
    observation, state, reward, terminated, info = self.step_env(key, state, action, params)
    return observation, state, reward, terminated, jnp.array(False), info


FAULTS = {
    r"reset returns a tuple of 3; it must return \(observation, state\)": {
        "reset": lambda self, key, params=None: (jnp.zeros(1), State(time=0), {})
    },
    "step_env does not work under jax.jit: TracerBoolConversionError": {"step_env": branching_step},
    "step returns a tuple of 4": {"step": four_of_six},
    r"step_env returns a tuple of 4": {
        "step_env": lambda self, *inputs: Plain.step_env(self, *inputs)[:4]
    },
    r"state\.time is int32\[\] from reset and float32\[\] from step_env": {
        "step_env": step_with(state=State(time=jnp.float32(1)))
    },
    "reward from step is int32.*must be a floating scalar": {
        "step_env": step_with(reward=jnp.int32(1))
    },
    "terminated from step is float32.*must be a bool scalar": {
        "step_env": step_with(terminated=jnp.float32(0))
    },
    "truncated from step is .*must be a bool scalar": {
        "is_truncated": lambda self, state, params: state.time
    },
    r'no info\["final_observation"\]': {"step": without_final_observation},
    r"observation is float32\[1\]; observation_space declares float32\[2\]": {
        "observation_space": lambda self, params: spaces.Box(0.0, 1.0, (2,), jnp.float32)
    },
    "observation has no 'pixels', which observation_space declares": {
        "observation_space": lambda self, params: spaces.Dict({"pixels": spaces.Discrete(2)})
    },
    r"observation\[0\] takes the value .* outside its declared bounds \[0.0, 0.5\]": {
        "observation_space": lambda self, params: spaces.Box(0.0, 0.5, (1,), jnp.float32)
    },
    r"observation\[1\] takes the value 3, outside its declared bounds \[0, 2\]": {
        "reset_env": lambda self, key, params: (jnp.array([4, 3]), State(time=jnp.int32(0))),
        "step_env": step_with(observation=jnp.array([4, 3])),
        "observation_space": lambda self, params: MultiDiscrete((5, 3)),
    },
    r"observation\[0\] takes the value nan": {
        "reset_env": lambda self, key, params: (jnp.full(1, jnp.nan), State(time=jnp.int32(0)))
    },
}


def test_an_environment_of_ones_own_that_keeps_the_contract_passes():
    check(Plain())


@pytest.mark.parametrize("message", FAULTS)
def test_each_violation_is_one_sentence_that_says_where(message):
    faulty = type("Faulty", (Plain,), FAULTS[message])
    with pytest.raises(ContractError, match=message) as caught:
        check(faulty())
    assert "\n" not in str(caught.value)
