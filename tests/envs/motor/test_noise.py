"""Noise of measurements, against the moments of its distributions."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxpg_envs.motor.noise import Laplace, Normal, StateNoise, Uniform

KEYS = jax.random.split(jax.random.key(0), 20_000)
VALUES = {"omega": 0.5, "torque": 0.0, "i": -0.25}


def drawn(noise):
    noisy = jax.jit(jax.vmap(lambda key: noise(key, VALUES)))(KEYS)
    assert noisy.keys() == VALUES.keys()
    return {name: np.asarray(value) for name, value in noisy.items()}


@pytest.mark.parametrize(
    ("distribution", "mean", "std", "kurtosis"),
    [
        (Normal(0.1, 0.2), 0.1, 0.2, 3.0),
        (Laplace(-0.1, 0.2), -0.1, 0.2 * 2**0.5, 6.0),
        (Uniform(-0.1, 0.3), 0.1, 0.4 / 12**0.5, 1.8),
    ],
)
def test_noise_has_its_moments_and_is_independent_between_states(distribution, mean, std, kurtosis):
    noisy = drawn(StateNoise(("omega", "i"), distribution))
    assert (noisy["torque"] == 0.0).all()
    errors = np.stack([noisy["omega"] - 0.5, noisy["i"] + 0.25])
    np.testing.assert_allclose(errors.mean(axis=1), mean, atol=5 * std / len(KEYS) ** 0.5)
    np.testing.assert_allclose(errors.std(axis=1), std, rtol=0.04)
    scaled = (errors - mean) / std
    np.testing.assert_allclose((scaled**4).mean(axis=1), kurtosis, rtol=0.15)
    assert abs(np.corrcoef(errors)[0, 1]) < 0.03


def test_noise_comes_at_resets_and_at_steps_and_scales_are_one_vmap():
    noise = StateNoise(("i",), Normal(jnp.zeros(2), jnp.array([0.0, 1.0])))
    values = {"i": jnp.array([0.5, 0.5])}
    first = jax.vmap(lambda n, v: n.initial(KEYS[0], None, None, {}, v)[1])(noise, values)
    later = jax.vmap(lambda n, v: n.measure(KEYS[0], None, {}, (), v)[1])(noise, values)
    for noisy in (first, later):
        assert noisy["i"][0] == 0.5
        assert noisy["i"][1] != 0.5


@pytest.mark.parametrize(
    ("noise", "sentence"),
    [
        (StateNoise(("omga",)), "states of StateNoise='omga' .*did you mean 'omega'"),
        (StateNoise("omega"), "states of StateNoise is 'omega', but a tuple"),
        (StateNoise(("i", "i")), "has 'i' more than once"),
        (StateNoise(("i",), "normal"), "distribution of StateNoise is 'normal'"),
        (StateNoise(("i",), Normal(0.0, -0.1)), "scale of the noise is -0.1"),
        (StateNoise(("i",), Uniform(0.2, 0.1)), "low of the noise is 0.2"),
    ],
)
def test_noise_that_cannot_be_is_refused(noise, sentence):
    with pytest.raises(ValueError, match=sentence):
        noise.check(None, tuple(VALUES))


def test_noise_that_can_be_is_accepted():
    StateNoise(("i", "omega"), Laplace(0.0, np.array([0.1, 0.2]))).check(None, tuple(VALUES))
