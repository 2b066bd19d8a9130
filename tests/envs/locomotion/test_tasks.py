"""The tasks on brax's physics, and their contacts from heights that are worked out here."""

import warnings
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxpg_envs import brax_adapter, check, make
from jaxpg_envs.locomotion import check_descriptors, names
from jaxpg_envs.locomotion.descriptors import foot_contacts
from jaxpg_envs.locomotion.tasks import TASKS

with warnings.catch_warnings():
    # A dependency of brax announces that it is retired.
    warnings.simplefilter("ignore", DeprecationWarning)
    from brax.base import Transform

NUM_STEPS = 60
FORWARD = ("reward_forward", "reward_linvel")


class PipelineState(NamedTuple):
    """What is read from brax's pipeline state."""

    x: Any


@pytest.fixture(scope="module")
def hopper():
    return make("locomotion/hopper-uni", max_steps_in_episode=NUM_STEPS)


def play(env, params, num_steps, key):
    """First observation and the outputs of steps that do not reset, with random actions."""

    def step(state, key):
        action = env.action_space(params).sample(key)
        observation, state, *outcome, info = env.step_env(key, state, action, params)
        return state, (observation, state.brax_state, *outcome, info)

    first, state = env.reset(key, params)
    return first, jax.lax.scan(step, state, jax.random.split(key, num_steps))[1]


def quaternion_product(p, q):
    (a, b, c, d), (e, f, g, h) = p, q
    return np.array(
        [
            a * e - b * f - c * g - d * h,
            a * f + b * e + c * h - d * g,
            a * g - b * h + c * e + d * f,
            a * h + b * g - c * f + d * e,
        ]
    )


def turned(vector, quaternion):
    conjugate = quaternion * [1, -1, -1, -1]
    return quaternion_product(quaternion_product(quaternion, [0, *vector]), conjugate)[1:]


def height_of(model, name, positions, rotations):
    """Distance of a sphere's or a capsule's lowest point from the ground, `[T]`."""
    geom = model.geom(name)
    link = int(geom.bodyid[0]) - 1
    half = geom.size[1] if int(geom.type[0]) == 3 else 0.0  # 3 is MuJoCo's capsule
    heights = []
    for place, rotation in zip(positions[:, link], rotations[:, link], strict=True):
        centre = place + turned(geom.pos, rotation)
        axis = turned([0, 0, 1], quaternion_product(rotation, geom.quat))
        heights.append(centre[2] - half * abs(axis[2]) - geom.size[0])
    return np.array(heights)


def heights_of_feet(sys, feet, positions, rotations):
    """`[T, D]`, from `[T, links, 3]` and `[T, links, 4]`."""
    places, turns = np.asarray(positions, np.float64), np.asarray(rotations, np.float64)
    return np.stack([height_of(sys.mj_model, foot, places, turns) for foot in feet], -1)


@pytest.mark.parametrize("task", [task for task in TASKS if task.endswith("-uni")])
def test_a_foot_touches_the_ground_where_its_lowest_point_is_not_above_it(task):
    feet = TASKS[task].feet
    sys = brax_adapter.constructor(TASKS[task].robot)(backend="spring").brax_env.sys
    rng = np.random.default_rng(0)
    # Each link anywhere near the ground: the contacts of a foot are a matter of that foot.
    positions = rng.uniform(-0.3, 0.6, (40, sys.num_links(), 3)).astype(np.float32)
    rotations = rng.normal(size=(40, sys.num_links(), 4)).astype(np.float32)
    rotations /= np.linalg.norm(rotations, axis=-1, keepdims=True)
    descriptor = foot_contacts(sys, feet)

    @jax.jit
    @jax.vmap
    def touching(pos, rot):
        pipeline_state = PipelineState(Transform(pos=pos, rot=rot))
        return descriptor.update(jnp.zeros(len(feet)), pipeline_state)

    heights = heights_of_feet(sys, feet, positions, rotations)
    expected = heights <= 0
    assert np.abs(heights).min() > 1e-5
    assert (expected.any(0) & ~expected.all(0)).all()
    np.testing.assert_array_equal(touching(positions, rotations), expected)


def test_a_hopper_keeps_the_contract_and_begins_at_rest_in_its_initial_pose(hopper):
    env, params = hopper
    check(env, params, num_envs=2, num_steps=5)
    check_descriptors(env, params)
    assert params.max_steps_in_episode == NUM_STEPS
    assert env.default_params.max_steps_in_episode == 1000
    init_q = env.brax_env.sys.init_q
    for seed in (0, 1):
        observation, _ = env.reset(jax.random.key(seed), params)
        assert observation[0] == 0.0
        expected = np.concatenate([init_q[2:], np.zeros(6)])
        np.testing.assert_allclose(observation[2:], expected, atol=1e-6)


def test_an_unknown_foot_is_refused(hopper):
    sys = hopper[0].brax_env.sys
    with pytest.raises(ValueError, match="feet='foot_gem' is not one of .*mean 'foot_geom'"):
        foot_contacts(sys, ("foot_gem",))
    with pytest.raises(ValueError, match="floor='flor' is not one of .*did you mean 'floor'"):
        foot_contacts(sys, ("foot_geom",), floor="flor")


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in names() if not name.endswith("point-omni")])
def test_every_task_describes_what_its_robot_did(name):
    env, params = make(name)
    roll = jax.jit(lambda key: play(env, params, NUM_STEPS, key))
    first, (observations, brax_states, rewards, terminated, info) = roll(jax.random.key(0))
    np.testing.assert_array_equal(first, roll(jax.random.key(1))[0])
    assert env.name == name
    assert jnp.isfinite(observations).all()
    assert (rewards >= 0).all()
    assert not terminated[0]
    low, high = env.descriptor_bounds(params)
    np.testing.assert_array_equal(observations[:, len(low) :], brax_states.obs)
    if name.endswith("-omni"):
        place = brax_states.pipeline_state.x.pos[:, 0, :2]
        np.testing.assert_allclose(env.descriptor_of(observations, params), place, atol=1e-5)
        np.testing.assert_allclose(observations[:, :2], place / 30, atol=1e-6)
        assert (params.max_steps_in_episode, low[0], high[1]) == (250, -30.0, 30.0)
        paid = {key: value for key, value in info["metrics"].items() if key.startswith("reward_")}
        kept = sum(value for key, value in paid.items() if key not in FORWARD)
        np.testing.assert_allclose(rewards, np.maximum(kept + params.reward_shift, 0), atol=1e-4)
        assert (rewards > 0).all()
    else:
        x = brax_states.pipeline_state.x
        feet = TASKS[name.removeprefix("locomotion/")].feet
        heights = heights_of_feet(env.brax_env.sys, feet, x.pos, x.rot)
        steps = np.arange(1, len(heights) + 1)[:, None]
        counts = np.asarray(env.descriptor_of(observations, params)) * steps
        np.testing.assert_allclose(counts, np.round(counts), atol=1e-3)
        # A foot may stand so exactly on the ground that rounding decides.
        assert (np.cumsum(heights < -1e-5, axis=0) <= counts + 1e-3).all()
        assert (np.cumsum(heights < 1e-5, axis=0) >= counts - 1e-3).all()
        assert (counts[-1] > 0).all()
        assert (params.max_steps_in_episode, low[0], high[0]) == (1000, 0.0, 1.0)
        paid = [value for key, value in info["metrics"].items() if key.startswith("reward_")]
        np.testing.assert_allclose(
            rewards, np.maximum(sum(paid) + params.reward_shift, 0), atol=1e-4
        )


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "backend"),
    [
        ("locomotion/hopper-uni", "generalized"),
        ("locomotion/hopper-uni", "mjx"),
        ("locomotion/hopper-uni", "positional"),
        ("locomotion/anttrap-omni", "generalized"),
    ],
)
def test_other_backends_and_drawn_starts_keep_the_contract(name, backend):
    env, params = make(name, backend=backend, start="drawn")
    check(env, params, num_envs=2, num_steps=5)
    check_descriptors(env, params)


@pytest.mark.slow
def test_the_walls_of_the_trap_stop_the_ant_and_the_floor_does_not_stop_its_torso():
    from brax import contact

    env, params = make("locomotion/anttrap-omni")
    sys, (_, state) = env.brax_env.sys, env.reset(jax.random.key(0), params)
    number = sys.mj_model.geom("torso_geom").id

    @jax.jit
    def near_walls(x):
        met = contact.get(sys, x)
        other = jnp.where(met.geom1 == number, met.geom2, met.geom1)
        return (met.geom1 == number) | (met.geom2 == number), other, met.dist

    x = state.brax_state.pipeline_state.x
    shift = jnp.array([10.0, 0.0, 0.5]) - x.pos[0]
    of_torso, other, distance = near_walls(x.replace(pos=x.pos + shift))
    met = {
        sys.mj_model.geom(int(geom)).name: float(gap)
        for geom, gap in zip(other[of_torso], distance[of_torso], strict=True)
    }
    # Axes at x = 12 and y = +-3; radius of a wall 0.5, of the torso 0.25.
    expected = {"wall_0": 1.25, "wall_1": 2.25, "wall_2": 2.25}
    assert met == pytest.approx(expected, abs=1e-5)


@pytest.mark.slow
def test_an_ant_that_is_thrown_at_the_trap_stays_in_front_of_its_wall():
    furthest = {}
    for name in ("locomotion/ant-omni", "locomotion/anttrap-omni"):
        env, params = make(name)
        _, state = env.reset(jax.random.key(0), params)
        sys = env.brax_env.sys
        pose = sys.init_q.at[0].set(10.0)
        thrown = env.brax_env.pipeline_init(pose, jnp.zeros(sys.qd_size()).at[0].set(8.0))
        state = state.replace(brax_state=state.brax_state.replace(pipeline_state=thrown))

        def step(state, _, env=env, params=params):
            observation, state, *_ = env.step_env(
                jax.random.key(0), state, jnp.zeros(env.num_actions), params
            )
            return state, env.descriptor_of(observation, params)[0]

        furthest[name] = jax.jit(lambda state: jax.lax.scan(step, state, length=20)[1])(state).max()
    assert furthest["locomotion/ant-omni"] > 12.0
    assert furthest["locomotion/anttrap-omni"] < 11.6
