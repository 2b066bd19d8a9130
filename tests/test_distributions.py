import functools

import distrax
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import integrate, stats

from jaxpg import distributions
from jaxpg.distributions import FAMILIES

RNG = np.random.default_rng(0)
MEAN = RNG.normal(size=(5, 2)).astype(np.float32)
LOG_STD = RNG.uniform(-2.0, 0.7, (5, 2)).astype(np.float32)
LOGITS = RNG.normal(size=(5, 4)).astype(np.float32)
SHAPES = RNG.uniform(0.4, 6.0, (2, 5, 2)).astype(np.float32)

PARAMETERS = {
    "categorical": (LOGITS, LOGITS[::-1].copy()),
    "normal": ((MEAN, LOG_STD), (MEAN[::-1].copy(), LOG_STD[::-1].copy())),
    "tanh_normal": ((MEAN, LOG_STD), (MEAN[::-1].copy(), LOG_STD[::-1].copy())),
    "beta": (tuple(SHAPES), (SHAPES[1], SHAPES[0])),
}
RAW = {
    "categorical": RNG.integers(0, 4, 5),
    "normal": RNG.normal(size=(5, 2)).astype(np.float32),
    "tanh_normal": RNG.normal(size=(5, 2)).astype(np.float32),
    "beta": RNG.uniform(0.02, 0.98, (5, 2)).astype(np.float32),
}
every = pytest.mark.parametrize("name", FAMILIES)


def oracle(name, parameters):
    """What the environment receives, as a distribution of distrax."""
    if name == "categorical":
        return distrax.Categorical(parameters)
    if name == "beta":
        return distrax.Independent(distrax.Beta(*parameters), 1)
    base = distrax.MultivariateNormalDiag(parameters[0], jnp.exp(parameters[1]))
    if name == "normal":
        return base
    return distrax.Transformed(base, distrax.Block(distrax.Tanh(), 1))


@functools.cache
def both(name):
    @jax.jit
    def compute(parameters, other, raw):
        family, peer, second = FAMILIES[name], oracle(name, parameters), oracle(name, other)
        action = jnp.tanh(raw) if name == "tanh_normal" else raw
        has_entropy = name != "tanh_normal"
        return (
            (
                family.log_prob(parameters, raw),
                family.entropy(parameters) if has_entropy else 0.0,
                family.kl(parameters, other),
                family.mode(parameters),
            ),
            (
                peer.log_prob(action),
                peer.entropy() if has_entropy else 0.0,
                peer.kl_divergence(second),
                peer.mean() if name == "beta" else parameters[0],
            ),
        )

    ours, theirs = compute(*PARAMETERS[name], RAW[name])
    names = ("log_prob", "entropy", "kl", "mode")
    return {key: (a, b) for key, a, b in zip(names, ours, theirs, strict=True)}


@every
@pytest.mark.parametrize("quantity", ["log_prob", "entropy", "kl"])
def test_distrax_agrees(name, quantity):
    ours, theirs = both(name)[quantity]
    np.testing.assert_allclose(ours, theirs, rtol=2e-4, atol=2e-5)


def test_the_mode_is_what_an_evaluation_does():
    np.testing.assert_array_equal(both("categorical")["mode"][0], LOGITS.argmax(-1))
    for name in ("normal", "tanh_normal", "beta"):
        np.testing.assert_allclose(*both(name)["mode"], rtol=1e-5)


@every
def test_the_divergence_from_itself_is_zero_and_from_another_is_not(name):
    kl = jax.jit(FAMILIES[name].kl)
    first, second = PARAMETERS[name]
    np.testing.assert_allclose(kl(first, first), np.zeros(5), atol=1e-5)
    assert (np.asarray(kl(first, second))[[0, 1]] > 1e-3).all()


@every
def test_the_density_integrates_to_one(name):
    family = FAMILIES[name]
    if name == "categorical":
        raw = np.arange(4)
        log_prob = jax.jit(jax.vmap(family.log_prob, in_axes=(None, 0)))(LOGITS[0], raw)
        np.testing.assert_allclose(np.exp(log_prob).sum(), 1.0, rtol=1e-6)
        return
    first = [part[0, :1] for part in PARAMETERS[name][0]]
    edge = (0.0, 1.0) if name == "beta" else (-12.0, 12.0)
    raw = np.linspace(*edge, 40_001)[1:-1].astype(np.float32)
    log_prob = jax.jit(jax.vmap(family.log_prob, in_axes=(None, 0)))(first, raw[:, None])
    action = np.tanh(raw.astype(float)) if name == "tanh_normal" else raw
    np.testing.assert_allclose(integrate.trapezoid(np.exp(log_prob), action), 1.0, atol=5e-3)


# Samples


def draw(name, parameters, number=4000):
    keys = jax.random.split(jax.random.key(0), number)
    return np.asarray(jax.jit(jax.vmap(FAMILIES[name].sample, in_axes=(0, None)))(keys, parameters))


def test_actions_are_drawn_with_their_probabilities():
    logits = distributions.exclude(LOGITS[0], np.array([True, False, True, True]))
    counts = np.bincount(draw("categorical", logits), minlength=4)
    assert counts[1] == 0
    probability = np.exp(LOGITS[0, [0, 2, 3]].astype(float))
    expected = 4000 * probability / probability.sum()
    assert stats.chisquare(counts[[0, 2, 3]], expected).pvalue > 1e-3


@pytest.mark.parametrize("name", ["normal", "tanh_normal", "beta"])
def test_samples_follow_the_density(name):
    parameters = tuple(part[:1, :1] for part in PARAMETERS[name][0])
    first, second = (part.item() for part in parameters)
    frozen = stats.beta(first, second) if name == "beta" else stats.norm(first, np.exp(second))
    assert stats.kstest(draw(name, parameters).ravel(), frozen.cdf).pvalue > 1e-3


def test_dimensions_and_rows_are_drawn_apart():
    samples = draw("normal", (np.zeros((3, 2), np.float32), np.zeros((3, 2), np.float32)))
    correlation = np.corrcoef(samples.reshape(4000, 6).T)
    assert np.abs(correlation - np.eye(6)).max() < 0.07


def test_a_beta_sample_never_has_an_infinite_log_prob():
    tiny = (np.full(64, 0.01, np.float32), np.full(64, 0.01, np.float32))
    samples = draw("beta", tiny, 50)
    assert ((samples > 0) & (samples < 1)).all()
    assert np.isfinite(jax.jit(FAMILIES["beta"].log_prob)(tiny, samples)).all()


@every
def test_the_first_ratio_is_exactly_one(name):
    family = FAMILIES[name]

    @jax.jit
    def acted(key, parameters):
        raw = family.sample(key, parameters)
        return raw, family.log_prob(parameters, raw)

    parameters = PARAMETERS[name][0]
    raw, log_prob = acted(jax.random.key(1), parameters)
    np.testing.assert_array_equal(jax.jit(family.log_prob)(parameters, raw), log_prob)


# Several categoricals at once

NVEC = (3, 1, 4)
JOINT = np.stack(np.unravel_index(np.arange(12), NVEC), axis=-1)  # every action [12, K]
PAIR = RNG.normal(scale=2.0, size=(2, 5, sum(NVEC))).astype(np.float32)


def joint(logits):
    """Logits `[..., 12]` of one categorical over all combinations."""
    parts = np.split(np.arange(sum(NVEC)), np.cumsum(NVEC)[:-1])
    return sum(logits[..., part[JOINT[:, k]]] for k, part in enumerate(parts))


def test_several_choices_are_the_categorical_of_their_combinations():
    several, one = distributions.multi_categorical(NVEC), distributions.categorical

    @jax.jit
    def compute(logits, other):
        def values(family, logits, other, actions):
            return jnp.concatenate(
                [
                    jax.vmap(family.log_prob, (None, 0))(logits, actions),
                    family.entropy(logits)[None],
                    family.kl(logits, other)[None],
                ]
            )

        def ours(logits, other):
            return values(several, logits, other, JOINT)

        def theirs(logits, other):
            return values(one, joint(logits), joint(other), np.arange(12))

        def both(function):
            slopes = jax.vmap(jax.jacobian(function, argnums=(0, 1)))(logits, other)
            return jax.vmap(function)(logits, other), slopes

        modes = several.mode(logits), jnp.asarray(JOINT)[one.mode(joint(logits))]
        return both(ours), both(theirs), modes

    ours, theirs, modes = compute(*PAIR)
    for mine, other in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        np.testing.assert_allclose(mine, other, rtol=2e-5, atol=5e-6)
    np.testing.assert_array_equal(*modes)
    assert modes[0].dtype == jnp.int32


def test_several_choices_are_drawn_with_the_probabilities_of_their_combinations():
    family = distributions.multi_categorical(NVEC)
    allowed = np.ones(sum(NVEC), bool)
    allowed[5] = False
    logits = distributions.exclude(0.5 * PAIR[0, 0], allowed)
    keys = jax.random.split(jax.random.key(0), 6000)
    samples = jax.jit(jax.vmap(family.sample, in_axes=(0, None)))(keys, logits)
    assert samples.shape == (6000, 3)
    assert samples.dtype == jnp.int32
    counts = np.bincount(np.ravel_multi_index(np.asarray(samples).T, NVEC), minlength=12)
    probability = np.exp(np.asarray(jax.nn.log_softmax(joint(logits)), float))
    possible = JOINT[:, 2] != 1
    assert counts[~possible].sum() == 0
    expected = 6000 * probability[possible] / probability[possible].sum()
    assert stats.chisquare(counts[possible], expected).pvalue > 1e-3


def test_the_first_ratio_of_several_choices_is_exactly_one():
    family = distributions.multi_categorical(NVEC)

    @jax.jit
    def acted(key, logits):
        raw = family.sample(key, logits)
        return raw, family.log_prob(logits, raw)

    raw, log_prob = acted(jax.random.key(1), PAIR[0])
    assert log_prob.shape == (5,)
    np.testing.assert_array_equal(jax.jit(family.log_prob)(PAIR[0], raw), log_prob)


def test_an_excluded_choice_leaves_the_others_and_finite_gradients():
    family = distributions.multi_categorical(NVEC)
    allowed = np.array([True, False, True, True, True, True, False, True])

    @jax.jit
    def both(logits, other):
        def total(logits):
            here, there = (distributions.exclude(x, allowed) for x in (logits, other))
            return family.entropy(here) + family.kl(here, there)

        small = distributions.multi_categorical((2, 1, 3))
        here, there = logits[allowed], other[allowed]
        return jax.value_and_grad(total)(logits), small.entropy(here) + small.kl(here, there)

    (value, slope), expected = both(PAIR[0, 1], PAIR[1, 1])
    np.testing.assert_allclose(value, expected, rtol=1e-5)
    assert np.isfinite(slope).all()
    np.testing.assert_array_equal(np.asarray(slope)[~allowed], 0.0)


@pytest.mark.parametrize("nvec", [(), (3, 0)])
def test_choices_without_alternatives_are_refused(nvec):
    with pytest.raises(ValueError, match="nvec is .*numbers of at least 1"):
        distributions.multi_categorical(nvec)


def test_logits_of_another_number_are_refused():
    with pytest.raises(ValueError, match=r"logits have 4 entries, but nvec=\[3, 2\] needs 5"):
        distributions.multi_categorical((3, 2)).entropy(np.zeros(4, np.float32))


# Excluded actions


@pytest.mark.parametrize("excluded", [-jnp.inf, jnp.finfo(jnp.float32).min])
def test_an_excluded_action_counts_for_nothing(excluded):
    family = distributions.categorical
    logits = np.array([0.0, 0.0, excluded], np.float32)
    entropy, slope = jax.jit(jax.value_and_grad(family.entropy))(logits)
    np.testing.assert_allclose(entropy, np.log(2), rtol=1e-6)
    np.testing.assert_allclose(slope, np.zeros(3), atol=1e-7)  # uniform: at its maximum
    other = np.array([1.0, 0.0, excluded], np.float32)
    expected = stats.entropy([0.5, 0.5], np.exp([1.0, 0.0]) / (np.e + 1))
    divergence, slope = jax.jit(jax.value_and_grad(family.kl))(logits, other)
    np.testing.assert_allclose(divergence, expected, rtol=1e-5)
    assert np.isfinite(slope).all()


def test_excluding_an_action_leaves_finite_gradients_and_the_smaller_distribution():
    family = distributions.categorical
    allowed = np.array([True, True, False, True])

    @jax.jit
    @jax.vmap
    def quantities(logits, other):
        def three(logits):
            logits, second = (distributions.exclude(x, allowed) for x in (logits, other))
            return jnp.stack(
                [family.entropy(logits), family.kl(logits, second), family.log_prob(logits, 3)]
            )

        return three(logits), jax.jacobian(three)(logits)

    values, jacobian = quantities(LOGITS, LOGITS[::-1])
    small, other = (
        x[:, allowed] - x[:, allowed].max(-1, keepdims=True) for x in PARAMETERS["categorical"]
    )
    p, q = (np.exp(x) / np.exp(x).sum(-1, keepdims=True) for x in (small, other))
    expected = [stats.entropy(p, axis=-1), stats.entropy(p, q, axis=-1), np.log(p[:, -1])]
    np.testing.assert_allclose(values, np.stack(expected, -1), rtol=1e-4, atol=1e-6)
    assert np.isfinite(jacobian).all()
    np.testing.assert_array_equal(np.asarray(jacobian)[:, :, 2], 0.0)


# tanh


@pytest.mark.parametrize(("raw", "expected"), [(0, -0.918939), (1, -0.551377), (10, -32.305233)])
def test_log_prob_of_a_squashed_action(raw, expected):
    unit = (np.zeros(1, np.float32), np.zeros(1, np.float32))
    log_prob = jax.jit(FAMILIES["tanh_normal"].log_prob)(unit, np.full(1, raw, np.float32))
    np.testing.assert_allclose(log_prob, expected, rtol=1e-6)


def test_a_scale_of_two_subtracts_log_two_from_the_density():
    to_environment = distributions.to_range("tanh_normal", np.full(1, -2.0), np.full(1, 2.0))
    slope = jax.jit(jax.grad(lambda raw: to_environment(raw)[0]))(np.zeros(1, np.float32))
    np.testing.assert_allclose(stats.norm.logpdf(0) - np.log(slope), -1.612086, rtol=1e-6)


def test_gradients_are_finite_where_tanh_saturates():
    @jax.jit
    @jax.vmap
    def gradients(raw):
        unit = (jnp.zeros(1), jnp.zeros(1))
        return jax.grad(FAMILIES["tanh_normal"].log_prob, argnums=(0, 1))(unit, raw[None])

    for leaf in jax.tree.leaves(gradients(np.array([-20.0, 20.0, 90.0, -90.0], np.float32))):
        assert np.isfinite(leaf).all()


@pytest.mark.parametrize(("log_std", "tolerance"), [(-3.0, 1e-5), (0.0, 1e-5), (1.0, 2e-3)])
def test_the_entropy_of_a_squashed_normal_by_adaptive_quadrature(log_std, tolerance):
    mean, std = np.array([0.0, 1.0, 3.0], np.float32), np.exp(log_std)

    def integrand(x, center):
        log_density = stats.norm.logpdf(x, center, std)
        log_density -= 2 * (np.log(2) - x - np.logaddexp(0, -2 * x))
        return -np.exp(stats.norm.logpdf(x, center, std)) * log_density

    expected = [
        integrate.quad(integrand, m - 10 * std, m + 10 * std, args=(m,), limit=200)[0] for m in mean
    ]
    entropy = jax.jit(FAMILIES["tanh_normal"].entropy)(
        (mean[:, None], np.full((3, 1), log_std, np.float32))
    )
    np.testing.assert_allclose(entropy, expected, atol=tolerance)


# Ranges


@pytest.mark.parametrize("name", ["normal", "tanh_normal", "beta"])
def test_actions_lie_in_their_range_exactly(name):
    low, high = np.array([0.0, -1.3], np.float32), np.array([4.0, 0.7], np.float32)
    raw = np.array([[-1e4] * 2, [-9.1] * 2, [0.0] * 2, [9.1] * 2, [1e4] * 2], np.float32)
    raw = np.clip(raw, 1e-6, 1 - 1e-6) if name == "beta" else raw
    action = np.asarray(jax.jit(distributions.to_range(name, low, high))(raw))
    assert (action >= low).all()
    assert (action <= high).all()
    if name != "beta":
        np.testing.assert_array_equal(action[[0, -1]], [low, high])


def test_a_squashed_action_is_scaled_once():
    to_environment = distributions.to_range("tanh_normal", np.zeros(1), np.full(1, 4.0))
    action = jax.jit(to_environment)(np.arctanh(np.full(1, 0.5, np.float32)))
    np.testing.assert_allclose(action, [3.0], rtol=1e-6)


def test_a_clipped_action_is_scored_before_the_clip():
    raw, unit = np.full(1, 1.7, np.float32), (np.zeros(1, np.float32), np.zeros(1, np.float32))
    log_prob = jax.jit(FAMILIES["normal"].log_prob)(unit, raw)
    np.testing.assert_allclose(log_prob, -2.363939, rtol=1e-6)
    to_environment = distributions.to_range("normal", np.full(1, -1.0), np.ones(1))
    assert jax.jit(to_environment)(raw) == 1.0


@pytest.mark.parametrize(
    ("name", "high", "message"),
    [
        ("categorical", 1.0, "distribution is 'categorical', but .*'normal', 'tanh_normal'"),
        ("beta", np.inf, "distribution is 'beta', which fills a bounded box"),
        ("tanh_normal", np.inf, "distribution is 'tanh_normal', which fills a bounded box"),
    ],
)
def test_a_family_that_does_not_fit_the_range_is_refused(name, high, message):
    with pytest.raises(ValueError, match=message):
        distributions.to_range(name, np.zeros(1), np.full(1, high))
