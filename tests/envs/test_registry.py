"""Environments by name."""

import subprocess
import sys

import gymnax
import jax
import jax.numpy as jnp
import pytest
from gymnax.environments.classic_control.cartpole import CartPole

import jaxpg_envs
from jaxpg_envs import list_envs, make, register, registry


def test_every_gymnax_environment_that_needs_no_download_is_listed_under_its_own_id():
    assert set(gymnax.registered_envs) - {"MNISTBandit-bsuite"} <= set(list_envs())
    assert "MNISTBandit-bsuite" not in list_envs()


def test_names_are_sorted_and_hold_every_family():
    names = list_envs()
    assert names == sorted(names)
    assert {"CartPole-v1", "brax/ant", "bandit", "tabular/chain", "tabular/random"} <= set(names)


def test_listed_brax_names_are_the_ones_that_brax_registers():
    from brax import envs

    listed = {name.removeprefix("brax/") for name in list_envs() if name.startswith("brax/")}
    assert listed == set(envs._envs)


def test_make_returns_the_environment_and_its_default_params():
    env, params = make("CartPole-v1")
    assert isinstance(env, CartPole)
    assert params == env.default_params


def test_fields_of_env_params_override_the_defaults_and_other_keywords_build_the_environment():
    env, params = make("DeepSea-bsuite", size=4, max_steps_in_episode=7)
    assert env.size == 4
    assert params.max_steps_in_episode == 7


def test_bandit_arms_are_given_by_keyword():
    _, params = make("bandit", mean=[0.0, 2.0], std=0.5)
    assert params.mean.tolist() == [0.0, 2.0]
    assert params.std.tolist() == [0.5, 0.5]


@pytest.mark.parametrize(
    ("given", "suggested"),
    [("CartPol-v1", "CartPole-v1"), ("brax/antt", "brax/ant"), ("tabular/chian", "tabular/chain")],
)
def test_a_typo_in_the_name_suggests_the_nearest_name(given, suggested):
    with pytest.raises(ValueError, match=f"name='{given}'.*did you mean '{suggested}'"):
        make(given)


@pytest.mark.parametrize(
    ("name", "given", "suggested"),
    [
        ("CartPole-v1", "gravty", "gravity"),
        ("brax/fast", "bakend", "backend"),
        ("tabular/chain", "lenght", "length"),
    ],
)
def test_an_unknown_keyword_is_one_sentence_with_the_nearest_valid_names(name, given, suggested):
    with pytest.raises(TypeError, match=f"'{given}' is not one of .*did you mean '{suggested}'"):
        make(name, **{given: 1})


def test_an_unknown_backend_names_the_four_valid_ones():
    with pytest.raises(ValueError, match="'generalized', 'mjx', 'positional', 'spring'; did you"):
        make("brax/ant", backend="sprin")


def test_a_backend_that_brax_refuses_is_one_sentence():
    with pytest.raises(ValueError, match="brax refuses 'brax/swimmer' with backend='spring'"):
        make("brax/swimmer", backend="spring")


@pytest.fixture
def own_registry(monkeypatch):
    monkeypatch.setattr(registry, "_factories", dict(registry._factories))


def test_a_registered_environment_is_made_and_listed(own_registry):
    register("mine/CartPole", CartPole)
    assert "mine/CartPole" in list_envs()
    env, params = make("mine/CartPole", gravity=1.0)
    assert isinstance(env, CartPole)
    assert params.gravity == 1.0


def test_a_factory_that_takes_any_keyword_gets_those_that_are_no_params(own_registry):
    register("mine/DeepSea", lambda **kwargs: gymnax.make("DeepSea-bsuite", **kwargs)[0])
    env, params = make("mine/DeepSea", size=5, max_steps_in_episode=9)
    assert env.size == 5
    assert params.max_steps_in_episode == 9


def test_a_taken_name_is_refused():
    with pytest.raises(ValueError, match="name='CartPole-v1' is already registered"):
        register("CartPole-v1", CartPole)


def test_an_environment_needs_no_registration_to_be_used():
    env = CartPole()
    observation, _ = env.reset(jax.random.key(0), env.default_params)
    jaxpg_envs.to_gymnasium(env).reset(seed=0)
    assert observation.shape == (4,)
    assert jnp.isfinite(observation).all()


def test_listing_does_not_import_brax_and_making_it_is_silent():
    program = (
        "import sys, jaxpg_envs; jaxpg_envs.list_envs(); jaxpg_envs.make('CartPole-v1');"
        "assert 'brax' not in sys.modules and 'mujoco' not in sys.modules;"
        "jaxpg_envs.make('brax/inverted_pendulum', backend='spring')"
    )
    strict = ["-W", "error::UserWarning", "-W", "error::DeprecationWarning"]
    done = subprocess.run(
        [sys.executable, *strict, "-c", program], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_a_missing_brax_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "brax", None)
    monkeypatch.setitem(sys.modules, "brax.envs.wrappers.training", None)
    with pytest.raises(ImportError, match=r'pip install "jaxpg\[brax\]"'):
        make("brax/ant")
