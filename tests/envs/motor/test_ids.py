"""The 54 ids: every number against gym-electric-motor 3.0.3, stored and, if it is there, live."""

import json
import pathlib
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxpg_envs
from jaxpg_envs import motor
from jaxpg_envs.motor import ids
from jaxpg_envs.motor.environment import bounds, margins

STORED = pathlib.Path(__file__).parent / "recordings" / "ids.json"


@pytest.fixture(scope="module")
def drives():
    """Every id built once."""
    return {name: jaxpg_envs.make(name) for name in ids.names()}


def theirs(gem) -> dict:
    """What gym-electric-motor says of its ids."""
    names, found = {}, {}
    for name in ids.names():
        env = gem.make(name, visualization=()).unwrapped
        system = env.physical_system
        generators = getattr(env.reference_generator, "_sub_generators", [env.reference_generator])
        weights = zip(system.state_names, env.reward_function._reward_weights, strict=True)
        names[name.split("-")[2]] = list(system.state_names)
        found[name] = {
            "tau": system.tau,
            "limits": np.asarray(system.limits, float).tolist(),
            "nominal": np.asarray(system.nominal_state, float).tolist(),
            "low": np.asarray(system.state_space.low, float).tolist(),
            "high": np.asarray(system.state_space.high, float).tolist(),
            "action": str(env.action_space),
            "references": [
                [each.reference_names[0], list(each._sigma_range), list(each._limit_margin)]
                for each in generators
            ],
            "weights": {key: float(weight) for key, weight in weights if weight},
            "constraints": [
                [
                    type(each).__name__,
                    list(getattr(each, "_states", getattr(each, "_observed_state_names", []))),
                ]
                for each in env.constraint_monitor.constraints
            ],
            "first": np.asarray(env.reset(seed=0)[0][0], float).tolist(),
        }
    return {"names": names, "ids": found}


def record() -> None:
    """Writes what gym-electric-motor says: `python -c "...; test_ids.record()"`."""
    import gym_electric_motor as gem

    STORED.write_text(json.dumps(theirs(gem), separators=(",", ":")))


def same_numbers(drives, recorded) -> None:
    for name, (env, params) in drives.items():
        expected = recorded["ids"][name]
        names = recorded["names"][name.split("-")[2]]
        assert list(env.state_names) == names
        limits, nominal = env.limits(params), env.nominal(params)
        low, high = bounds(params)
        for part, values in (
            ("limits", limits),
            ("nominal", nominal),
            ("low", low),
            ("high", high),
        ):
            given = np.array([float(values[key]) for key in names])
            np.testing.assert_allclose(given, expected[part], rtol=1e-6, err_msg=f"{name}: {part}")
        assert float(params.tau) == expected["tau"]
        generators = getattr(params.reference, "generators", (params.reference,))
        assert [list(each.names) for each in generators] == [
            [each] for each, _, _ in expected["references"]
        ]
        ranges = params.reference.ranges(margins(params))
        for generator, found, (_, sigma, margin) in zip(
            generators, ranges, expected["references"], strict=True
        ):
            np.testing.assert_allclose(generator.sigma_range, sigma, rtol=1e-12)
            np.testing.assert_allclose(np.asarray(found, float), margin, rtol=1e-6, atol=1e-12)
        weights = {key: float(weight) for key, weight in params.reward.weights.items()}
        assert weights == pytest.approx(expected["weights"])
        found = [[type(each).__name__, list(each.names)] for each in params.constraints]
        assert found == expected["constraints"]


def test_every_id_has_the_numbers_of_gym_electric_motor(drives):
    same_numbers(drives, json.loads(STORED.read_text()))


def test_every_id_has_the_numbers_that_gym_electric_motor_has(drives):
    gem = pytest.importorskip("gym_electric_motor")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        same_numbers(drives, theirs(gem))


def test_every_reset_shows_what_gym_electric_motor_shows(drives):
    # One program for all of them.
    with jax.enable_x64(True):
        resets = jax.jit(
            lambda key: {
                name: env.reset_env(key, params)[0][0] for name, (env, params) in drives.items()
            }
        )(jax.random.key(0))
        for name, expected in json.loads(STORED.read_text())["ids"].items():
            np.testing.assert_allclose(resets[name], expected["first"], atol=1e-12, err_msg=name)


def test_every_id_steps_to_what_it_was_reset_to_in_form(drives):
    for env, params in drives.values():
        action = jax.eval_shape(env.action_space(params).sample, jax.random.key(0))
        observation, state = jax.eval_shape(env.reset_env, jax.random.key(0), params)
        after = jax.eval_shape(env.step_env, jax.random.key(0), state, action, params)
        form = lambda tree: jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), tree)
        assert form(after[0]) == form(observation)
        assert form(after[1]) == form(state)


@pytest.mark.parametrize("name", ["Cont-CC-ShuntDc-v0", "Finite-SC-EESM-v0"])
def test_a_drive_obeys_the_interface(name):
    jaxpg_envs.check(*jaxpg_envs.make(name), num_envs=3, num_steps=20)


@pytest.mark.slow
@pytest.mark.parametrize("name", ids.names())
def test_every_drive_obeys_the_interface(name):
    jaxpg_envs.check(*jaxpg_envs.make(name), num_envs=3, num_steps=20)


def test_a_piece_is_replaced_as_a_record_or_by_its_fields():
    _, params = jaxpg_envs.make(
        "Cont-SC-PMSM-v0",
        motor={"r_s": 0.02, "l_q": 1e-3},
        load=motor.loads.ConstantSpeed(50.0),
        supply={"u_nominal": 400.0},
        limits={"omega": 500.0},
        tau=5e-5,
    )
    assert (params.motor.r_s, params.motor.l_q, params.motor.l_d) == (0.02, 1e-3, 0.37e-3)
    assert params.load.omega_fixed == 50.0
    assert params.supply.u_nominal == params.limits["u_sup"] == 400.0
    assert (params.limits["omega"], params.tau) == (500.0, 5e-5)


def test_the_torque_limit_follows_the_motor():
    _, params = jaxpg_envs.make("Cont-TC-SynRM-v0", motor={"l_d": 2e-2})
    # l_d - l_q is 15.9 mH instead of 6 mH.
    assert params.limits["torque"] == pytest.approx(5.832 * 15.9 / 6.0)


def test_names_that_do_not_exist_are_refused_with_the_nearest():
    with pytest.raises(ValueError, match="did you mean 'Cont-CC-PMSM-v0'"):
        jaxpg_envs.make("Cont-CC-PSMS-v0")
    with pytest.raises(TypeError, match="field of motor .PMSM.='r_d' is not one of"):
        jaxpg_envs.make("Cont-CC-PMSM-v0", motor={"r_d": 1.0})
    for given in ("RC", motor.supplies.RC):
        with pytest.raises(TypeError, match="supply is .* but a record such as Ideal"):
            jaxpg_envs.make("Cont-CC-PMSM-v0", supply=given)


BAD = {
    "a negative inductance": (
        {"motor": {"l_d": -1e-3}},
        "l_d is -0.001, but a finite inductance above 0",
    ),
    "a period of 0": ({"tau": 0.0}, "tau is 0.0, but it has to be above 0"),
    "another period": (
        {
            "tau": 2e-4,
            "converter": motor.converters.ContB6(interlocking_time=1e-6),
        },
        "tau is 0.0001, but the system has tau=0.0002",
    ),
    "a converter of another motor": (
        {"converter": motor.converters.Cont4QC()},
        "converter is Cont4QC with 1 outputs, but PMSM needs 3",
    ),
    "three voltages": (
        {"supply": motor.supplies.ACThreePhase()},
        "supply is ACThreePhase with 3 voltages, but a converter takes one",
    ),
    "an unknown reference": (
        {"reference": motor.references.Wiener(("i_sx",))},
        "'i_sx' is not one of .* did you mean 'i_s",
    ),
    "an unknown constraint": (
        {"constraints": (motor.constraints.LimitConstraint(("i",)),)},
        "names of LimitConstraint='i' is not one of",
    ),
    "an unknown filter": ({"state_filter": ("i_sd", "speed")}, "state_filter='speed' is not one"),
    "an unknown weight": (
        {"reward": motor.rewards.WeightedSumOfErrors({"i": 1.0})},
        "weights='i' is not one of",
    ),
    "a limit of nothing": ({"limits": {"i_x": 1.0}}, "limits='i_x' is not one of"),
    "a negative limit": ({"limits": {"i_sd": -1.0}}, r"limits\['i_sd'\] is -1.0"),
    "an observer without an induction motor": (
        {"processors": (motor.FluxObserver(),)},
        "FluxObserver needs an induction motor .* but the motor is PMSM",
    ),
    "an unknown angle": ({"processors": (motor.CosSin("phi"),)}, "angle of CosSin='phi'"),
    "no dead time": ({"processors": (motor.DeadTime(0),)}, "steps of DeadTime is 0"),
    "an unknown first state": (
        {"initial": motor.initial_states.InitialStates({"i": 1.0})},
        "'i' is not one of",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_what_makes_no_drive_is_refused_in_a_sentence(case):
    options, sentence = BAD[case]
    with pytest.raises(ValueError, match=sentence):
        jaxpg_envs.make("Cont-CC-PMSM-v0", **options)


def test_field_coordinates_need_an_angle():
    with pytest.raises(ValueError, match="DqActions needs 'psi_angle'.*FluxObserver before it"):
        jaxpg_envs.make("Cont-CC-SCIM-v0", processors=(motor.DqActions(),))
    with pytest.raises(ValueError, match="needs a continuous converter"):
        jaxpg_envs.make("Finite-CC-PMSM-v0", processors=(motor.DqActions(),))


def test_an_action_of_another_shape_is_refused():
    env, params = jaxpg_envs.make("Cont-CC-PMSM-v0")
    _, state = env.reset(jax.random.key(0), params)
    with pytest.raises(ValueError, match=r"action has shape \(2,\), but .* needs \(3,\)"):
        env.step(jax.random.key(0), state, jnp.zeros(2), params)
