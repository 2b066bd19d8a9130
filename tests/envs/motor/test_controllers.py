"""Controllers against closed forms, loops written out, and the figures of gym-electric-motor."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import struct

from jaxpg_envs import gymnasium_bridge
from jaxpg_envs.motor import DeadTime, DqActions, FluxObserver, ids, loads, motors, references
from jaxpg_envs.motor import controllers as control
from jaxpg_envs.motor.controllers.torque import BestCurrents

DQ = (DqActions(),)


def constant(**values):
    """A reference that stands still, normalised."""
    return references.Multiple(tuple(references.Constant((k,), v) for k, v in values.items()))


def run(env, controller, num_steps, reset=False):
    """One closed loop of the default parameters."""
    loop = functools.partial(control.closed_loop, num_steps=num_steps, reset=reset)
    return jax.jit(loop, static_argnums=0)(env, env.default_params, controller, jax.random.key(0))


def test_pi_is_the_loop_written_out():
    with jax.enable_x64(True):
        env = ids.electric_drive("Cont-CC-PermExDc-v0")
        params = env.default_params
        result = run(env, control.current_pi(params, kp=0.08, ki=60.0), 200)
        shown = np.asarray(result.references[:, 0]) * 210.0
        r, l, psi, tau, omega = 16e-3, 19e-6, 0.165, 1e-4, 100.0
        pole = np.exp(-r * tau / l)
        i, integral, currents, duties = 0.0, 0.0, [], []
        for wanted in shown:
            error = wanted - i
            voltage = 0.08 * error + integral + psi * omega
            duty = np.clip(voltage / 60.0, -1.0, 1.0)
            integral += tau * 60.0 * (error + (60.0 * duty - voltage) / 0.08)
            i = pole * i + (1.0 - pole) / r * (60.0 * duty - psi * omega)
            currents.append(i)
            duties.append(duty)
        names = env.state_names
        np.testing.assert_allclose(
            result.states[:, names.index("i")], np.array(currents) / 210.0, atol=1e-6
        )
        np.testing.assert_allclose(result.actions[:, 0], duties, atol=1e-6)
        errors = np.abs(np.array(currents) - shown) / 420.0
        np.testing.assert_allclose(result.rewards, -errors, atol=1e-6)


@pytest.mark.parametrize(
    ("name", "wanted", "processors"),
    [
        ("Cont-CC-PermExDc-v0", {"i": 0.3}, (DeadTime(1),)),
        ("Cont-CC-ShuntDc-v0", {"i_a": 0.3}, ()),
        ("Cont-CC-PMSM-v0", {"i_sd": -0.05, "i_sq": 0.02}, DQ),
        ("Cont-CC-EESM-v0", {"i_sd": 0.01, "i_sq": 0.1, "i_e": 0.01}, (DeadTime(2),)),
    ],
)
def test_deadbeat_arrives_in_one_step_after_the_dead_time(name, wanted, processors):
    with jax.enable_x64(True):
        env = ids.electric_drive(name, reference=constant(**wanted), processors=processors)
        result = run(env, control.deadbeat(env.default_params), 12)
        late = sum(each.dead_time for each in processors)
        for current, value in wanted.items():
            values = result.states[:, env.state_names.index(current)]
            np.testing.assert_allclose(values[late:], value, atol=1e-12)
            assert abs(values[late - 1] - value) > 1e-3 or not late


def test_tuned_pi_answers_a_step_with_the_poles_of_its_rule():
    with jax.enable_x64(True):
        env = ids.electric_drive(
            "Cont-CC-PermExDc-v0",
            load=loads.ConstantSpeed(0.0),
            reference=constant(i=0.1),
            processors=(DeadTime(1),),
        )
        result = run(env, control.current_pi(env.default_params), 40)
        answer = np.append(0.0, result.states[:, env.state_names.index("i")]) / 0.1
    # With the pole cancelled the open loop is g / (z (z - 1)), g = tau / (2 * 1.5 tau).
    poles = np.roots([1.0, -1.0, 1.0 / 3.0])
    # The answer begins with 0 and 0: the action of the first step arrives in the second.
    shares = np.linalg.solve(np.vander(poles, 2, increasing=True).T, [-1.0, -1.0])
    steps = np.arange(len(answer))
    expected = 1.0 + sum(c * p**steps for c, p in zip(shares, poles, strict=True)).real
    np.testing.assert_allclose(answer, expected, atol=1e-6)
    # The second-order system in continuous time overshoots by exp(-pi).
    assert 1.02 < answer.max() < 1.06


def test_integral_does_not_wind_up():
    env = ids.electric_drive("Cont-CC-SeriesDc-v0", reference=constant(i=97.0 / 210.0))
    params = env.default_params
    tuned = control.current_pi(params)

    @jax.jit
    @jax.vmap
    def peak(tracking):
        (loop,) = tuned.loops
        controller = tuned.replace(loops=(loop.replace(tracking=tracking),))
        result = control.closed_loop(env, params, controller, jax.random.key(0), 400)
        current = result.states[:, env.state_names.index("i")] * 210.0 / 97.0
        return current.max(), current[-1], result.actions[:50].min()

    (with_it, end, saturated), (without, *_) = zip(
        *peak(jnp.array([tuned.loops[0].tracking, 0.0])), strict=True
    )
    assert saturated == 1.0
    assert with_it < 1.001 and end == pytest.approx(1.0, abs=1e-4)
    assert without > 1.02


@pytest.mark.parametrize(
    ("name", "wanted", "processors", "num_steps"),
    [
        ("Cont-CC-PMSM-v0", {"i_sd": -0.3, "i_sq": 0.4}, DQ, 400),
        ("Cont-CC-SCIM-v0", {"i_sd": 0.5, "i_sq": -0.3}, (FluxObserver(),), 3000),
    ],
)
def test_field_oriented_control_tracks_all_axes(name, wanted, processors, num_steps):
    env = ids.electric_drive(name, reference=constant(**wanted), processors=processors)
    result = run(env, control.field_oriented(env.default_params), num_steps)
    assert not result.terminated.any()
    for current, value in wanted.items():
        values = result.states[-50:, env.state_names.index(current)]
        np.testing.assert_allclose(values, value, atol=5e-4)


def test_speed_cascade_settles():
    env = ids.electric_drive("Cont-SC-PMSM-v0", reference=constant(omega=0.3))
    result = run(env, control.speed_cascade(env.default_params), 3000)
    omega = result.states[:, 0]
    assert not result.terminated.any()
    np.testing.assert_allclose(omega[-500:], 0.3, atol=1e-3)
    # The symmetric optimum overshoots.
    assert 0.3 < omega.max() < 0.3 * 1.25


def test_bang_bang_stays_within_one_step_of_the_converter():
    env = ids.electric_drive("Finite-CC-PermExDc-v0", reference=constant(i=0.2))
    params = env.default_params
    bands = jnp.array([0.0, 10.0])

    @jax.jit
    @jax.vmap
    def error(band):
        controller = control.bang_bang(params, band=band)
        result = control.closed_loop(env, params, controller, jax.random.key(0), 500)
        return (result.states[50:, env.state_names.index("i")] - 0.2) * 210.0

    motor = params.motor
    change = (60.0 + motor.psi_e * 100.0 + motor.r_a * 80.0) * params.tau / motor.l_a
    errors = np.abs(error(bands)).max(axis=1)
    assert (errors <= np.asarray(bands) + change).all()
    assert errors[0] < errors[1]


def test_gradients_are_central_differences():
    with jax.enable_x64(True):
        env = ids.electric_drive("Cont-CC-PermExDc-v0").with_transition_gradients()
        params = env.default_params

        def reward(kp, ki, l_a):
            drive = params.replace(motor=params.motor.replace(l_a=l_a))
            controller = control.current_pi(params, kp=kp, ki=ki)
            result = control.closed_loop(env, drive, controller, jax.random.key(0), 60)
            return result.rewards.sum()

        at = (0.08, 60.0, 19e-6)
        both = jax.jit(jax.value_and_grad(reward, argnums=(0, 1, 2)))
        _, slopes = both(*at)
        for index, slope in enumerate(slopes):
            small = 1e-5 * at[index]
            up, down = (
                both(*(x + sign * small * (k == index) for k, x in enumerate(at)))[0]
                for sign in (1, -1)
            )
            assert slope != 0.0
            np.testing.assert_allclose(slope, (up - down) / (2 * small), rtol=1e-5)


def test_eight_different_drives_are_one_vmap():
    with jax.enable_x64(True):
        env = ids.electric_drive("Cont-CC-PermExDc-v0", reference=constant(i=0.1))
        params = env.default_params

        @jax.jit
        @jax.vmap
        def currents(l_a, psi_e):
            drive = params.replace(motor=params.motor.replace(l_a=l_a, psi_e=psi_e))
            controller = control.deadbeat(drive)
            result = control.closed_loop(env, drive, controller, jax.random.key(0), 5, reset=False)
            return result.states[:, env.state_names.index("i")]

        batch = currents(jnp.linspace(15e-6, 60e-6, 8), jnp.linspace(0.05, 0.3, 8))
        assert batch.shape == (8, 5)
        np.testing.assert_allclose(batch, 0.1, atol=1e-12)


def test_an_episode_begins_with_the_controllers_initial_state():
    @struct.dataclass
    class Counting:
        def initial(self):
            return jnp.zeros(())

        def act(self, state, measured, wanted):
            return state + 1.0, 1e-6 * state[None]

    env = ids.electric_drive("Cont-CC-PermExDc-v0")
    result = run(env, Counting(), 20, reset=True)
    ends = np.flatnonzero(result.terminated)
    assert len(ends) > 3
    counts = np.round(np.asarray(result.actions[:, 0]) * 1e6)
    np.testing.assert_array_equal(counts[ends[:-1] + 1], 0.0)
    np.testing.assert_array_equal(counts[1:3], [1.0, 2.0])
    # What is recorded is where the episode ended, not where the next one begins.
    assert (np.abs(np.asarray(result.states[ends, env.state_names.index("i")])) > 1.0).all()


@pytest.mark.parametrize("motor", [motors.PMSM(), motors.SynRM(), motors.PMSM(l_q=0.37e-3)])
def test_best_currents_are_the_shortest_of_their_torque(motor):
    with jax.enable_x64(True):
        measured = {"omega": jnp.zeros(()), "u_sup": jnp.asarray(420.0)}
        chosen = BestCurrents(motor, 1e3)
        torques = jnp.array([-3.0, 0.5, 4.0])
        currents = jax.jit(jax.vmap(lambda torque: chosen.currents(torque, measured)))(torques)
        i_d, i_q = currents["i_sd"], currents["i_sq"]
        np.testing.assert_allclose(motor.torque((i_d, i_q)), torques, rtol=1e-4)
        length = np.hypot(i_d, i_q)
    angles = np.linspace(-np.pi, np.pi, 20001)
    for i, torque in zip(length, torques, strict=True):
        others = motor.torque((i * np.cos(angles), i * np.sin(angles))) * np.sign(torque)
        assert others.max() == pytest.approx(abs(float(torque)), rel=1e-4)


@struct.dataclass
class Baselines:
    """What a controller does, nothing, or anything: by a number that may be vmapped."""

    controller: Any
    which: Any
    sample: Any = struct.field(pytree_node=False)

    def initial(self):
        return self.controller.initial()

    def act(self, state, measured, wanted):
        # What is seen is the key: a state would begin anew with every episode, and so would it.
        seen = sum(measured.values()) + sum(wanted.values())
        key = jax.random.fold_in(jax.random.key(0), jax.lax.bitcast_convert_type(seen, jnp.int32))
        state, action = self.controller.act(state, measured, wanted)
        choices = (action, jnp.zeros_like(action), self.sample(key).astype(action.dtype))
        return state, sum(jnp.where(self.which == k, each, 0) for k, each in enumerate(choices))


class Figure(NamedTuple):
    """Mean reward of a step in gym-electric-motor 3.0.3, over episodes with default references.

    Attributes:
      mean: over episodes.
      std: of one episode.
      episodes: how many.
    """

    mean: float
    std: float
    episodes: int


class Drive(NamedTuple):
    """What is compared on one drive: a controller, zeros and random actions."""

    build: Any
    processors: tuple = ()
    controlled: Figure | None = None
    zero: Figure | None = None
    random: Figure | None = None


DRIVES = {
    "Cont-CC-PermExDc-v0": Drive(
        lambda params: control.current_pi(params, kp=0.08, ki=60.0),
        controlled=Figure(-0.0107, 0.0020, 32),
        random=Figure(-3.72, 0.051, 6),
    ),
    "Finite-CC-PermExDc-v0": Drive(
        control.bang_bang,
        controlled=Figure(-0.0404, 0.0001, 6),
        random=Figure(-0.582, 0.027, 6),
    ),
    "Cont-CC-SeriesDc-v0": Drive(
        control.deadbeat,
        controlled=Figure(-0.0216, 0.0094, 32),
        zero=Figure(-0.131, 0.034, 6),
    ),
    "Cont-CC-PMSM-v0": Drive(
        control.deadbeat,
        DQ,
        controlled=Figure(-0.0049, 0.0030, 6),
        zero=Figure(-0.227, 0.052, 6),
    ),
    # A single episode, whose spread is taken to be ours.
    "Cont-SC-SeriesDc-v0": Drive(
        control.speed_cascade,
        controlled=Figure(-0.049, 0.015, 1),
        zero=Figure(-0.468, 0.153, 6),
    ),
}


def check_figures(name, num_steps, num_episodes):
    """Both means lie within four standard errors of their difference."""
    drive = DRIVES[name]
    env = ids.electric_drive(name, processors=drive.processors)
    params = env.default_params
    sample = env.action_space(params).sample

    @jax.jit
    @functools.partial(jax.vmap, in_axes=(0, None))
    @functools.partial(jax.vmap, in_axes=(None, 0))
    def rewards(which, key):
        controller = Baselines(drive.build(params), which, sample)
        return control.closed_loop(env, params, controller, key, num_steps).rewards.mean()

    ours = np.asarray(rewards(jnp.arange(3), jax.random.split(jax.random.key(0), num_episodes)))
    for which, theirs in enumerate((drive.controlled, drive.zero, drive.random)):
        if theirs is None:
            continue
        variance = ours[which].var(ddof=1) / num_episodes + theirs.std**2 / theirs.episodes
        assert abs(ours[which].mean() - theirs.mean) < 4.0 * variance**0.5, (name, which)


def test_references_are_followed_as_in_gym_electric_motor():
    check_figures("Cont-CC-PermExDc-v0", num_steps=1500, num_episodes=8)


@pytest.mark.slow
@pytest.mark.parametrize("name", DRIVES)
def test_references_are_followed_as_in_gym_electric_motor_for_long(name):
    check_figures(name, num_steps=8000, num_episodes=32)


def test_controllers_say_which_drives_they_are_for():
    def params(name, **kwargs):
        return ids.electric_drive(name, **kwargs).default_params

    with pytest.raises(ValueError, match="deadbeat needs one of the motors .* motor is DFIM"):
        control.deadbeat(params("Cont-CC-DFIM-v0"))
    with pytest.raises(ValueError, match=r"continuous converter, but .* Finite4QC: bang_bang"):
        control.current_pi(params("Finite-CC-PermExDc-v0"))
    with pytest.raises(ValueError, match=r"finite converter, but .* Multi\(ContB6, Cont4QC\)"):
        control.bang_bang(params("Cont-CC-EESM-v0"))
    with pytest.raises(ValueError, match="put a FluxObserver into processors"):
        control.field_oriented(params("Cont-CC-SCIM-v0"))
    with pytest.raises(ValueError, match="load with an inertia .* ConstantSpeed"):
        control.speed_cascade(params("Cont-CC-PermExDc-v0"))


def test_policy_says_what_is_not_observed_or_referenced():
    env = ids.electric_drive("Cont-CC-PermExDc-v0", state_filter=("omega", "i"))
    params = env.default_params
    with pytest.raises(ValueError, match="Deadbeat needs 'u_sup', but observed='u_sup' is not"):
        control.policy(env, params, control.deadbeat(params))
    env = ids.electric_drive("Cont-TC-PermExDc-v0")
    params = env.default_params
    with pytest.raises(ValueError, match="Deadbeat follows 'i', but referenced='i' is not one"):
        control.policy(env, params, control.deadbeat(params))


def test_policy_acts_on_gymnasium_observations():
    env = ids.electric_drive("Cont-CC-PermExDc-v0")
    params = env.default_params
    controller = control.deadbeat(params)
    act = jax.jit(control.policy(env, params, controller))
    bridged = gymnasium_bridge.to_gymnasium(env, params)
    observation, _ = bridged.reset(seed=0)
    state = controller.initial()
    for _ in range(5):
        state, action = act(state, observation)
        observation, reward, *_ = bridged.step(np.asarray(action))
        assert reward == pytest.approx(0.0, abs=1e-5)
