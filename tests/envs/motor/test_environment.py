"""A drive as an environment: rewards, ends, references, batches and gradients."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxpg_envs
from jaxpg_envs import motor


def still(name, value=0.0, **options):
    """A drive whose references do not move."""
    env, params = jaxpg_envs.make(name, **options)
    single = tuple(motor.references.Constant((each,), value) for each in params.reference.names)
    reference = single[0] if len(single) == 1 else motor.references.Multiple(single)
    return env, params.replace(reference=reference)


def play(env, params, actions, key=0):
    """Scans `step_env`; returns `(states seen [T, N], rewards [T], ends [T])`."""

    def step(state, action):
        observation, state, reward, ended, _ = env.step_env(
            jax.random.key(1), state, action, params
        )
        return state, (observation[0], reward, ended)

    state = env.reset_env(jax.random.key(key), params)[1]
    return jax.lax.scan(step, state, actions)[1]


def test_a_perfect_track_pays_0_and_a_violation_exactly_minus_10():
    # A locked motor without current follows a current of 0; with all of the voltage it breaks out.
    load = motor.loads.ConstantSpeed(0.0)
    env, params = still("Cont-CC-SeriesDc-v0", load=load)
    _, rewards, ended = jax.jit(functools.partial(play, env, params))(jnp.zeros((5, 1)))
    np.testing.assert_array_equal(rewards, np.zeros(5))
    assert not ended.any()
    seen, rewards, ended = jax.jit(functools.partial(play, env, params))(jnp.ones((300, 1)))
    first = int(np.argmax(ended))
    assert np.abs(seen[first, 2]) > 1.0 and np.all(np.abs(seen[:first, 2]) <= 1.0)
    np.testing.assert_allclose(rewards[first], -10.0, rtol=1e-6)
    assert np.all(rewards[:first] > -1.0)


def test_the_reward_compares_with_the_reference_that_was_shown_before():
    env, params = jaxpg_envs.make("Cont-CC-PermExDc-v0", load=motor.loads.ConstantSpeed(0.0))
    observation, state = env.reset(jax.random.key(1), params)
    for index in range(3):
        shown = observation[1][0]
        observation, state, reward, *_ = env.step(
            jax.random.key(index), state, jnp.zeros(1), params
        )
        # The current stays 0; its range is from -1 to 1.
        np.testing.assert_allclose(reward, -jnp.abs(shown) / 2.0, rtol=1e-6)
        assert observation[1][0] != shown


def test_a_turn_of_the_rotor_changes_nothing_but_the_angle():
    actions = jnp.asarray(np.random.RandomState(0).uniform(-1, 1, (40, 3)))

    def at(angle):
        initial = motor.initial_states.InitialStates({"epsilon": angle})
        env, params = still("Cont-CC-PMSM-v0", initial=initial)
        return env.state_names, play(env, params, actions)[0]

    with jax.enable_x64(True):
        # The same angle, once from below and once from above the end of its range.
        names, below = at(np.pi)
        _, above = at(-np.pi)
    np.testing.assert_allclose(below, above, atol=1e-12)
    assert np.all(np.abs(below[:, names.index("epsilon")]) <= 1.0)


def test_an_angle_stays_small_and_exact_in_a_long_episode():
    load = motor.loads.ConstantSpeed(400.0)
    env, params = still("Cont-CC-PMSM-v0", load=load, constraints=())
    num_steps = 20_000
    seen = jax.jit(functools.partial(play, env, params))(jnp.zeros((num_steps, 3)))[0]
    angle = float(seen[-1, env.state_names.index("epsilon")]) * np.pi
    exact = 3 * 400.0 * 1e-4 * num_steps
    error = (angle - exact + np.pi) % (2 * np.pi) - np.pi
    # 2400 rad in single precision would be off by 1e-4 at each sum.
    assert abs(error) < 5e-3


def test_a_batch_of_different_drives_is_each_of_them():
    env, params = jaxpg_envs.make("Cont-SC-SeriesDc-v0")
    scale = jnp.linspace(0.8, 1.2, 4)
    actions = jnp.asarray(np.random.RandomState(0).uniform(-1, 1, (30, 1)))

    def of(factor):
        changed = params.motor.replace(r_a=params.motor.r_a * factor, l_e=params.motor.l_e * factor)
        return play(env, params.replace(motor=changed), actions)

    together = jax.jit(jax.vmap(of))(scale)
    one = jax.jit(of)
    for index, factor in enumerate(scale):
        for batched, single in zip(together, one(factor), strict=True):
            np.testing.assert_allclose(batched[index], single, rtol=1e-5, atol=1e-6)


def test_an_ended_drive_starts_anew_with_another_reference():
    env, params = jaxpg_envs.make("Cont-CC-SeriesDc-v0", load=motor.loads.ConstantSpeed(0.0))
    step = jax.jit(env.step)
    _, state = env.reset(jax.random.key(0), params)
    for index in range(300):
        observation, state, _, terminated, truncated, info = step(
            jax.random.key(index), state, jnp.ones(1), params
        )
        if terminated:
            break
    assert terminated and not truncated
    assert abs(info["final_observation"][0][2]) > 1.0
    np.testing.assert_allclose(observation[0], [0.0, 0.0, 0.0, 0.0, 1.0])
    assert state.time == 0


def test_an_episode_is_truncated_where_it_is_asked_for():
    env, params = jaxpg_envs.make("Finite-CC-PermExDc-v0", max_steps_in_episode=2)
    _, state = env.reset(jax.random.key(0), params)
    ends = []
    for index in range(2):
        *_, terminated, truncated, _ = out = env.step(jax.random.key(index), state, 0, params)
        state = out[1]
        ends.append((bool(terminated), bool(truncated)))
    assert ends == [(False, False), (False, True)]


def test_a_filter_shows_what_it_names_in_its_order():
    env, params = jaxpg_envs.make("Cont-CC-PMSM-v0", state_filter=("i_sq", "omega"))
    observation, _ = env.reset(jax.random.key(0), params)
    np.testing.assert_allclose(observation[0], [0.0, 100.0 / (4000 * np.pi / 30)], rtol=1e-6)
    assert env.observation_space(params).spaces[0].shape == (2,)


def test_noise_is_seen_and_judged_but_not_felt():
    noise = motor.noise.StateNoise(("i",), motor.noise.Normal(0.0, 0.05))
    quiet_env, quiet = still("Cont-CC-PermExDc-v0")
    noisy_env, noisy = still("Cont-CC-PermExDc-v0", processors=(noise,))
    actions = jnp.full((50, 1), 0.28)
    state, other = (
        env.reset_env(jax.random.key(0), params)[1]
        for env, params in ((quiet_env, quiet), (noisy_env, noisy))
    )
    errors = []
    for index, action in enumerate(actions[:20]):
        key = jax.random.key(index)
        seen, state, *_ = quiet_env.step_env(key, state, action, quiet)
        read, other, reward, *_ = noisy_env.step_env(key, other, action, noisy)
        errors.append(float(read[0][2] - seen[0][2]))
        np.testing.assert_allclose(reward, -abs(read[0][2]) / 2.0, rtol=1e-5)
        np.testing.assert_allclose(other.plant.motor[0], state.plant.motor[0], rtol=1e-6)
    assert 0.02 < np.std(errors) < 0.1


def test_no_key_is_used_twice():
    env, params = jaxpg_envs.make(
        "Cont-CC-PermExDc-v0",
        processors=(motor.noise.StateNoise(("i",)), motor.noise.StateNoise(("u",))),
        supply=motor.supplies.ACOnePhase(),
        initial=motor.initial_states.Uniform(),
    )
    plain, plain_params = jaxpg_envs.make("Cont-CC-PMSM-v0")
    with jax.debug_key_reuse(True):
        for each, its in ((env, params), (plain, plain_params)):
            _, state = jax.jit(each.reset_env)(jax.random.key(0), its)
            action = jnp.zeros(each.action_space(its).shape)
            jax.jit(each.step_env)(jax.random.key(1), state, action, its)


def test_no_quantity_is_clipped():
    env, params = still("Cont-CC-SeriesDc-v0", constraints=())
    seen = play(env, params, jnp.ones((400, 1)))[0]
    assert float(jnp.max(jnp.abs(seen[:, 2]))) > 1.0


def test_gradients_are_stopped_unless_they_are_asked_for():
    env, params = still("Cont-CC-PermExDc-v0")
    _, state = env.reset_env(jax.random.key(0), params)

    def current(action, env):
        return env.step_env(jax.random.key(0), state, action[None], params)[0][0][2]

    assert jax.grad(current)(0.1, env) == 0.0
    assert jax.grad(current)(0.1, env.with_transition_gradients()) > 0.0


# What is derived after 1,000 steps: with a load of its own speed where the motor gets going in that
# time without leaving its limits, so that the inertia counts too.
GRADIENTS = {
    "Cont-SC-SeriesDc-v0": 0.3,
    "Cont-SC-ShuntDc-v0": 0.05,
    "Cont-SC-PermExDc-v0": 0.3,
    "Cont-SC-ExtExDc-v0": 0.2,
    "Cont-SC-PMSM-v0": 0.05,
    "Cont-SC-SynRM-v0": 0.1,
    "Cont-SC-SCIM-v0": 0.3,
    "Cont-SC-DFIM-v0": 0.3,
    "Cont-SC-EESM-v0": 0.05,
}


@pytest.mark.parametrize("name", GRADIENTS)
def test_gradients_through_1000_steps_are_the_central_differences(name):
    """Of the mean squared observation in every parameter of the motor, in float64."""
    # The method of Euler compiles in a quarter of the time; one motor of each kind has the default.
    solver = None if name.split("-")[2] in ("SeriesDc", "PMSM") else motor.solvers.euler()
    with jax.enable_x64(True):
        env, params = still(name, constraints=(), solver=solver)
        env = env.with_transition_gradients()
        size = env.action_space(params).shape[0]
        times = jnp.arange(1000.0)[:, None]
        actions = GRADIENTS[name] * jnp.sin(0.02 * times + 2.1 * jnp.arange(size))
        # The number of pole pairs is whole, but the equations do not mind.
        fields = {key: jnp.asarray(value, float) for key, value in vars(params.motor).items()}

        def cost(fields):
            changed = params.replace(motor=params.motor.replace(**fields))
            return jnp.mean(play(env, changed, actions)[0] ** 2)

        @jax.jit
        def both(fields):
            steps = {key: 1e-5 * value for key, value in fields.items()}
            shifted = [
                {**fields, key: fields[key] + sign * steps[key]}
                for key in fields
                for sign in (1, -1)
            ]
            batch = jax.tree.map(lambda *leaves: jnp.stack(leaves), *shifted)
            values = jax.vmap(cost)(batch).reshape(-1, 2)
            # Of a relative change, as parameters differ by five orders of size.
            gradient = jax.grad(cost)(fields)
            exact = jnp.stack([gradient[key] * fields[key] for key in fields])
            return exact, (values[:, 0] - values[:, 1]) / 2e-5

        exact, differences = both(fields)
    assert np.all(np.isfinite(exact))
    np.testing.assert_allclose(exact, differences, rtol=1e-5, atol=1e-7 * np.max(np.abs(exact)))
