"""Drives in gymnasium, for somebody who comes from gym-electric-motor."""

import warnings

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from gymnasium.wrappers import FlattenObservation

from jaxpg_envs import motor
from jaxpg_envs.motor import gymnasium_drives, ids

SOME = ["Cont-CC-PMSM-v0", "Finite-TC-ExtExDc-v0", "Finite-SC-SeriesDc-v0"]


def checked(name):
    with warnings.catch_warnings():
        # States have no bounds, which the checker finds unusual.
        warnings.simplefilter("ignore")
        check_env(gymnasium_drives.make(name), skip_render_check=True)


@pytest.mark.parametrize("name", SOME)
def test_a_drive_passes_the_check_of_gymnasium(name):
    checked(name)


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in ids.names() if name not in SOME])
def test_every_drive_passes_the_check_of_gymnasium(name):
    checked(name)


def test_attributes_are_those_of_gym_electric_motor():
    env = gymnasium_drives.make("Cont-CC-PermExDc-v0")
    assert env.state_names == ["omega", "torque", "i", "u", "u_sup"]
    assert env.reference_names == ["i"]
    np.testing.assert_allclose(env.limits, [400.0, 38.0, 210.0, 60.0, 60.0])
    np.testing.assert_allclose(env.nominal_state, [300.0, 16.0, 97.0, 60.0, 60.0])
    assert env.tau == 1e-4
    assert isinstance(env.action_space, gymnasium.spaces.Box)


def test_arguments_go_by_the_names_of_gym_electric_motor_too():
    reference = motor.references.Constant(("i_sd",), 0.1)
    env = gymnasium_drives.make(
        "Cont-CC-PMSM-v0",
        reference_generator=reference,
        ode_solver=motor.solvers.euler(),
        physical_system_wrappers=(motor.DqActions(),),
        visualization=(),
    )
    assert env.action_space.shape == (2,)
    (_, shown), _ = env.reset(seed=0)
    np.testing.assert_allclose(shown, [0.1], rtol=1e-6)


def test_there_is_no_dashboard():
    with pytest.raises(ValueError, match="visualization is given, but nothing is drawn here"):
        gymnasium_drives.make("Cont-CC-PMSM-v0", visualization="MotorDashboard")


@pytest.mark.parametrize(
    ("name", "action", "sentence"),
    [
        ("Cont-CC-SeriesDc-v0", [1.5], "action is .1.5., which is not in Box"),
        ("Cont-CC-SeriesDc-v0", [np.nan], "which is not in Box"),
        ("Cont-CC-SeriesDc-v0", [0.0, 0.0], r"action has shape \(2,\), but Box.* needs \(1,\)"),
        ("Finite-CC-SeriesDc-v0", 4, r"action is 4, which is not in Discrete\(4\)"),
        ("Finite-CC-ExtExDc-v0", [1, 4], "which is not in MultiDiscrete"),
    ],
)
def test_an_action_outside_is_refused_before_anything_moves(name, action, sentence):
    env = gymnasium_drives.make(name)
    env.reset(seed=0)
    with pytest.raises(ValueError, match=sentence):
        env.step(action)


def test_a_vector_of_drives_is_each_of_them():
    vector = gymnasium_drives.make_vector("Finite-CC-PermExDc-v0", 3)
    single = gymnasium_drives.make("Finite-CC-PermExDc-v0")
    (states, _), _ = vector.reset(seed=5)
    (state, _), _ = single.reset(seed=6)
    np.testing.assert_array_equal(states[1], state)
    for action in (1, 3, 2, 2):
        (states, references), rewards, *_ = vector.step(np.full(3, action))
        (state, reference), reward, *_ = single.step(action)
        np.testing.assert_array_equal(states[1], state)
        np.testing.assert_array_equal(references[1], reference)
        assert rewards[1] == reward


def test_stable_baselines3_trains_on_a_drive():
    sb3 = pytest.importorskip("stable_baselines3")
    env = FlattenObservation(gymnasium_drives.make("Cont-CC-PermExDc-v0"))
    agent = sb3.PPO("MlpPolicy", env, n_steps=64, batch_size=64, n_epochs=1, device="cpu")
    agent.learn(128)
    assert agent.num_timesteps == 128
