"""Reference generators: values of gym-electric-motor's arrays, and the statistics of its draws."""

import json
import pathlib
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.signal

from jaxpg_envs.motor.references import (
    Constant,
    Laplace,
    Multiple,
    Sawtooth,
    Sinusoidal,
    Step,
    Switched,
    Triangular,
    Wiener,
    Zero,
    check_reference,
)
from jaxpg_envs.motor.references.generator import resolve
from jaxpg_envs.motor.references.process import ProcessState
from jaxpg_envs.motor.references.words import centred, laplace, normal, uniform

RECORDING = pathlib.Path(__file__).parent / "recordings" / "references.json"
TAU = 1e-4
WAVES = {"Sinusoidal": Sinusoidal, "Step": Step, "Sawtooth": Sawtooth, "Triangular": Triangular}
PROCESSES = {"Wiener": Wiener, "Laplace": Laplace}
# Margins, amplitudes and offsets, each with a case that nothing but the margins limits.
RANGES = {
    "free": ((-0.75, 0.75), None, None),
    "one sign": ((0.0, 0.6), None, None),
    "given": ((-0.5, 0.9), (0.2, 0.4), (-0.1, 0.3)),
}
KS = (0, 1, 2, 17, 100, 333, 498)


# What gym-electric-motor does. Its generators run on their own, with a stand-in for the physics
# and, where arrays are compared, for the source of random numbers.


class _Scripted:
    """Gives the numbers that it was given."""

    def __init__(self, units=(), increments=(), share=None):
        self.units, self.increments, self.share = list(units), list(increments), share

    def uniform(self, *_):
        return self.units.pop(0)

    def normal(self, loc, scale, size):
        return scale * np.array(self.increments[:size])

    laplace = normal

    def triangular(self, *_):
        return self.share


def _gem(kind, margin, source=None, **arguments):
    generators = pytest.importorskip("gym_electric_motor").reference_generators
    kind = {"Wiener": "WienerProcess", "Laplace": "LaplaceProcess"}.get(kind, kind)
    generator = getattr(generators, kind + "ReferenceGenerator")(
        reference_state="omega", **arguments
    )
    system = SimpleNamespace(
        state_names=["omega", "torque"],
        nominal_state=np.array([margin[1], 1.0]),
        limits=np.ones(2),
        state_space=SimpleNamespace(low=np.array([margin[0] / margin[1], -1.0]), high=np.ones(2)),
        tau=TAU,
    )
    generator.set_modules(system)
    if source is not None:
        generator._random_generator = source
    return generator


def _record_waves():
    found = {}
    for kind in WAVES:
        for case, (margin, amplitude, offset) in RANGES.items():
            source = np.random.default_rng(len(found))
            rows = []
            for _ in range(2):
                units = source.uniform(size=6)
                share = float(source.triangular(0, 0.5, 1))
                generator = _gem(kind, margin, amplitude_range=amplitude, offset_range=offset)
                # Our order: length, amplitude, frequency, offset, phase, width.
                generator._random_generator = _Scripted(units, share=share)
                generator._current_episode_length = -1
                generator._k = 0
                values = [float(generator.get_reference_observation()[0])]
                values += [float(generator._reference[k]) for k in KS[1:]]
                rows.append(
                    {
                        "units": units.tolist(),
                        "share": share,
                        "length": generator._current_episode_length,
                        "values": values,
                    }
                )
            found[f"{kind}, {case}"] = rows
    return found


def _record_processes():
    source = np.random.default_rng(5)
    increments = source.normal(size=40).tolist()
    found = {"increments": increments}
    for kind in PROCESSES:
        generator = _gem(kind, (-0.3, 0.5), sigma_range=(0.05, 0.4), episode_lengths=40)
        generator._random_generator = _Scripted([0.7], increments)
        generator._reference_value, generator._current_episode_length = 0.25, -1
        found[kind] = [float(generator.get_reference_observation()[0]) for _ in range(40)]
    return found


def _moments(values):
    values = np.asarray(values, float)
    return [float(values.mean()), float(values.std())]


def _record_statistics(num=4000):
    found = {}
    for kind in PROCESSES:
        generator = _gem(kind, (-0.75, 0.75))
        generator.seed(np.random.SeedSequence(1))
        first, lengths, scales = [], [], []
        for _ in range(num):
            generator.reset()
            lengths.append(generator._current_episode_length)
            scales.append(np.log10(generator._current_sigma))
            first.append(generator._reference_value)
        found[kind] = {
            "first": _moments(first),
            "length": _moments(lengths),
            "log10 sigma": _moments(scales),
        }
        # One scale, so that increments of all sub-episodes are of one distribution.
        generator = _gem(kind, (-0.75, 0.75), sigma_range=(0.02, 0.02))
        generator.seed(np.random.SeedSequence(2))
        values = []
        for _ in range(20):
            generator.reset()
            values.append(
                [generator._reference_value]
                + [float(generator.get_reference_observation()[0]) for _ in range(2999)]
            )
        found[kind] |= _process_statistics(np.array(values))
    for kind in WAVES:
        generator = _gem(kind, (-0.75, 0.5))
        generator.seed(np.random.SeedSequence(3))
        drawn = {"amplitude": [], "frequency": [], "offset": [], "length": [], "value": []}
        for _ in range(num):
            generator.reset()
            drawn["amplitude"].append(generator._amplitude)
            drawn["frequency"].append(generator._frequency)
            drawn["offset"].append(generator._offset)
            drawn["length"].append(generator._current_episode_length)
            drawn["value"].append(generator._reference[400])
        found[kind] = {name: _moments(values) for name, values in drawn.items()}
    return found


def _process_statistics(values):
    """Of runs `[N, T]` of one scale: moments of what is not clipped, and the share that is."""
    increments = np.diff(values, axis=1)
    free = (np.abs(values[:, :-1]) < 0.5) & (np.abs(increments) < 0.2)
    clipped = (np.abs(values) > 0.75 - 1e-6).mean()
    quantiles = np.quantile(increments[free], [0.05, 0.25, 0.75, 0.95])
    return {
        "increment": _moments(increments[free]),
        "increment quantiles": quantiles.tolist(),
        "clipped": float(clipped),
        "value": _moments(values),
    }


def _record_switches():
    generators = pytest.importorskip("gym_electric_motor").reference_generators
    parts = [generators.ConstReferenceGenerator("omega", value) for value in (0.1, 0.2, 0.3)]
    switched = generators.SwitchedReferenceGenerator(
        parts, p=[0.5, 0.3, 0.2], super_episode_length=7
    )
    switched._referenced_states = np.array([True, False])
    for part in parts:
        part._referenced_states = np.array([True, False])
    switched.seed(np.random.SeedSequence(4))
    runs = []
    for _ in range(60):
        _, shown, _ = switched.reset()
        run = [float(shown[0])]
        for _ in range(28):
            switched.get_reference(None)
            run.append(float(switched.get_reference_observation(None)[0]))
        runs.append(run)
    runs = np.array(runs)
    changes = np.flatnonzero((np.diff(runs, axis=1) != 0).any(axis=0)) + 1
    shares = [float((runs == value).mean()) for value in (0.1, 0.2, 0.3)]
    return {"changes": changes.tolist(), "shares": shares}


def record():
    """Everything that is compared, from gym-electric-motor itself."""
    return {
        "waves": _record_waves(),
        "processes": _record_processes(),
        "statistics": _record_statistics(),
        "switches": _record_switches(),
    }


def test_the_recording_is_what_gem_gives():
    pytest.importorskip("gym_electric_motor")
    again = json.loads(json.dumps(record()))
    assert again == RECORDED


RECORDED = json.loads(RECORDING.read_text()) if RECORDING.exists() else {}


# Ours.


def runs(generator, margins, num, steps, tau=TAU, seed=0):
    """Values `[N, T + 1, names]` of `num` drives from their resets on."""

    @jax.jit
    def collect(keys):
        def one(key):
            key_initial, key_steps = jax.random.split(key)
            state, first = generator.initial(key_initial, margins, tau)

            def step(state, key):
                return generator.next(key, state, margins, tau)

            _, rest = jax.lax.scan(step, state, jax.random.split(key_steps, steps))
            return jax.tree.map(lambda a, b: jnp.concatenate([a[None], b]), first, rest)

        return jnp.stack(jax.vmap(one)(keys), axis=-1)

    return np.asarray(collect(jax.random.split(jax.random.key(seed), num)))


@pytest.mark.parametrize("kind", WAVES)
def test_a_wave_of_given_numbers_is_gems_array(kind):
    for case, (margin, amplitude, offset) in RANGES.items():
        for row in RECORDED["waves"][f"{kind}, {case}"]:
            with jax.enable_x64(True):
                generator = WAVES[kind](("omega",), amplitude, offset_range=offset)
                units = [jnp.asarray(unit) for unit in row["units"][: generator.num_units]]
                if kind == "Step":
                    # The share is drawn by inversion: its own distribution function undoes that.
                    share = row["share"]
                    below, above = 2 * share**2, 1 - 2 * (1 - share) ** 2
                    units[5] = jnp.asarray(below if share < 0.5 else above)
                state = generator.sub_episode(units, margin, TAU)
                assert state.length == row["length"]
                values = generator.at(state.replace(k=jnp.array(KS)), margin, TAU)
                np.testing.assert_allclose(values, row["values"], rtol=0, atol=1e-9)


def test_a_sawtooth_is_scipys():
    time = np.linspace(0.003, 25.0, 999)
    for width in (1.0, 0.0, 0.3):
        expected = scipy.signal.sawtooth(time, width)
        with jax.enable_x64(True):
            found = Triangular(("i",)).form(jnp.asarray(time / (2 * np.pi)), width)
        np.testing.assert_allclose(found, expected, atol=1e-12)


@pytest.mark.parametrize("kind", PROCESSES)
def test_a_process_of_given_increments_is_gems_array(kind, monkeypatch):
    recorded = RECORDED["processes"]
    generator = PROCESSES[kind](("omega",), sigma_range=(0.05, 0.4), episode_lengths=40.0)
    with jax.enable_x64(True):
        # One scale, 0.7 of the way between the logarithms of the ends; words number increments.
        sigma = jnp.asarray(0.05 * 8**0.7)
        increments = jnp.asarray(recorded["increments"])
        monkeypatch.setattr(PROCESSES[kind], "increment", lambda self, word: increments[word])
        state = ProcessState(jnp.asarray(0.25), sigma, jnp.asarray(100, jnp.int32))
        step = lambda state, word: generator.advance((word,), state, ((-0.3, 0.5),), TAU)
        _, (values,) = jax.lax.scan(step, state, jnp.arange(40, dtype=jnp.uint32))
    np.testing.assert_allclose(values, recorded[kind], atol=1e-12)


def _near(found, expected, num, num_recorded):
    """Two sample means and deviations, within 5 standard errors of their difference."""
    error = expected[1] * np.sqrt(1 / num + 1 / num_recorded)
    np.testing.assert_allclose(found, expected, rtol=0, atol=5 * error + 1e-6)


@pytest.mark.parametrize("kind", PROCESSES)
def test_a_process_has_the_statistics_of_gems(kind):
    recorded = RECORDED["statistics"][kind]
    margins, num = ((-0.75, 0.75),), 4096
    keys = jax.random.split(jax.random.key(1), num)
    generator = PROCESSES[kind](("omega",))
    state, (first,) = jax.jit(jax.vmap(lambda key: generator.initial(key, margins, TAU)))(keys)
    lengths = np.asarray(state.remaining) + 1
    assert lengths.min() >= 500
    assert lengths.max() <= 1999
    _near(_moments(lengths), recorded["length"], num, 4000)
    _near(_moments(np.log10(state.sigma)), recorded["log10 sigma"], num, 4000)
    _near(_moments(first), recorded["first"], num, 4000)
    correlation = np.corrcoef([lengths, np.log10(state.sigma), np.abs(first)])
    assert np.abs(correlation[0, 1:]).max() < 5 / np.sqrt(num)

    values = runs(PROCESSES[kind](("omega",), (0.02, 0.02)), margins, 64, 2999)[..., 0]
    found = _process_statistics(values)
    # Increments are independent; values of one run are not, hence wide bounds on these.
    np.testing.assert_allclose(found["increment"][0], recorded["increment"][0], atol=5e-4)
    np.testing.assert_allclose(found["increment"][1], recorded["increment"][1], rtol=0.03)
    np.testing.assert_allclose(
        found["increment quantiles"], recorded["increment quantiles"], rtol=0.05
    )
    np.testing.assert_allclose(found["value"], recorded["value"], atol=0.12)
    np.testing.assert_allclose(found["clipped"], recorded["clipped"], atol=0.01)


@pytest.mark.parametrize("kind", WAVES)
def test_a_wave_has_the_statistics_of_gems(kind):
    recorded, num = RECORDED["statistics"][kind], 4096
    generator, margin = WAVES[kind](("omega",)), (-0.75, 0.5)

    @jax.jit
    @jax.vmap
    def draw(key):
        state, _ = generator.initial(key, (margin,), TAU)
        return state, generator.at(state.replace(k=400), margin, TAU)

    state, value = draw(jax.random.split(jax.random.key(2), num))
    for name in ("amplitude", "frequency", "offset", "length"):
        _near(_moments(getattr(state, name)), recorded[name], num, 4000)
    _near(_moments(value), recorded["value"], num, 4000)
    # A step wave's phase is in steps: it depends on the frequency and on the length.
    others = [state.phase] if kind != "Step" else []
    others += [] if state.shape is None else [state.shape]
    drawn = [state.length, state.amplitude, state.frequency, *others]
    correlation = np.corrcoef(np.asarray(drawn, float)) - np.eye(len(drawn))
    assert np.abs(correlation).max() < 5 / np.sqrt(num)


def test_a_sub_episode_follows_another_and_a_process_continues():
    margins = ((-0.75, 0.75),)
    short = Wiener(("omega",), (1e-3, 1e-3), episode_lengths=(3.0, 6.0))
    values = runs(short, margins, 32, 60)[..., 0]
    # Increments are small everywhere: no jump where a sub-episode begins.
    assert np.abs(np.diff(values, axis=1)).max() < 6e-3
    wave = Sinusoidal(("omega",), 0.3, 10.0, 0.0, episode_lengths=25.0)
    values = runs(wave, margins, 32, 74)[..., 0].reshape(32, 3, 25)
    phase = lambda x: np.exp(-2j * np.pi * 10.0 * TAU * np.arange(25)) @ x
    steady = np.abs(np.diff(values, axis=2)).max()
    assert steady < 0.3 * 2 * np.pi * 10.0 * TAU * 1.01
    # Each sub-episode has a phase of its own.
    assert np.abs(values[:, 1, 0] - values[:, 0, -1]).max() > 10 * steady
    assert len({round(abs(phase(part)), 6) for run in values for part in run}) > 50


def test_switching_is_gems_and_the_first_choice_stays_a_step_longer():
    recorded = RECORDED["switches"]
    parts = tuple(Constant(("omega",), value) for value in (0.1, 0.2, 0.3))
    switched = Switched(parts, (0.5, 0.3, 0.2), super_episode_length=7.0)
    values = runs(switched, ((-1.0, 1.0),), 512, 28)[..., 0]
    changes = np.flatnonzero((np.diff(values, axis=1) != 0).any(axis=0)) + 1
    assert changes.tolist() == recorded["changes"] == [8, 15, 22]
    shares = [np.isclose(values, value).mean() for value in (0.1, 0.2, 0.3)]
    np.testing.assert_allclose(shares, [0.5, 0.3, 0.2], atol=0.05)
    np.testing.assert_allclose(shares, recorded["shares"], atol=0.15)


def test_a_process_that_is_switched_to_goes_on_from_the_value_shown():
    parts = (Wiener(("omega",), (1e-3, 1e-3)), Laplace(("omega",), (1e-3, 1e-3)))
    switched = Switched(parts, super_episode_length=(2.0, 5.0))
    values = runs(switched, ((-0.75, 0.75),), 64, 50)[..., 0]
    assert np.abs(np.diff(values, axis=1)).max() < 0.017


def test_several_generators_run_side_by_side_and_are_independent():
    parts = (Wiener(("i_sd",)), Constant(("u",), 0.25), Wiener(("i_sq",), limit_margin=(0.0, 1.0)))
    several = Multiple(parts)
    assert several.names == ("i_sd", "u", "i_sq")
    assert several.num_words == 2
    margins = ((-0.6, 0.6), (0.0, 1.0), (-0.6, 0.6))
    assert [tuple(map(float, pair)) for pair in several.ranges(margins)[1:]] == [
        (0.25, 0.25),
        (0.0, 1.0),
    ]
    values = runs(several, margins, 64, 100)
    assert (values[..., 1] == 0.25).all()
    assert (np.abs(values[..., 0]) <= 0.6).all()
    assert values[..., 2].min() >= 0
    assert values[..., 2].max() > 0.6
    increments = np.diff(values, axis=1)
    assert abs(np.corrcoef(increments[..., 0].ravel(), increments[..., 2].ravel())[0, 1]) < 0.05


def test_nothing_is_shown_where_nothing_is_referenced():
    assert Zero().initial(jax.random.key(0), (), TAU) == ((), ())
    assert Zero().ranges(()) == ()


ALL = Multiple(
    (
        Switched((Wiener(("a",)), Triangular(("a",))), super_episode_length=(2.0, 4.0)),
        Laplace(("b",), limit_margin=0.4),
        Step(("c",)),
        Sawtooth(("d",), (0.1, 0.2)),
    )
)
MARGINS = ((-0.5, 0.5),) * 4


def test_a_batch_of_different_generators_is_one_vmap_and_equals_each_alone():
    batch = jax.tree.map(lambda leaf: leaf * jnp.array([1.0, 1.1, 0.9]), ALL)
    keys = jax.random.split(jax.random.key(3), 3)

    def follow(generator, key):
        state, first = generator.initial(key, MARGINS, TAU)
        step = lambda state, key: generator.next(key, state, MARGINS, TAU)
        return first, jax.lax.scan(step, state, jax.random.split(key, 8))

    together = jax.jit(jax.vmap(follow))(batch, keys)
    for index in range(3):
        alone = jax.jit(follow)(jax.tree.map(lambda leaf: leaf[index], batch), keys[index])
        jax.tree.map(
            lambda one, all_: np.testing.assert_allclose(one, all_[index], rtol=1e-5, atol=1e-6),
            alone,
            together,
        )


def test_all_numbers_have_the_precision_in_use_and_gradients_are_finite():
    with jax.enable_x64(True):
        shapes = jax.eval_shape(lambda key: ALL.initial(key, MARGINS, TAU), jax.random.key(0))
        assert {leaf.dtype.name for leaf in jax.tree.leaves(shapes)} == {"float64", "int32"}
        step = lambda key, state: ALL.next(key, state, MARGINS, TAU)
        assert jax.eval_shape(step, jax.random.key(0), shapes[0]) == shapes
        assert not any(leaf.weak_type for leaf in jax.tree.leaves(shapes))

    def total(generator):
        state, first = generator.initial(jax.random.key(0), MARGINS, TAU)
        _, later = generator.next(jax.random.key(1), state, MARGINS, TAU)
        return sum(first) + sum(later)

    gradient = jax.jit(jax.grad(total))(ALL)
    assert all(np.isfinite(leaf) for leaf in jax.tree.leaves(gradient))


def test_random_numbers_out_of_one_word_are_uniform_normal_and_laplace():
    words = jax.random.bits(jax.random.key(5), (50_000,), jnp.uint32)
    several = np.asarray(jax.jit(lambda words: [uniform(words, i) for i in range(4)])(words))
    assert several.min() >= 0
    assert several.max() < 1
    quantiles = np.quantile(several, [0.1, 0.5, 0.9], axis=1)
    np.testing.assert_allclose(quantiles, np.tile([[0.1], [0.5], [0.9]], 4), atol=0.01)
    convert = jax.jit(lambda words: (centred(words), normal(words), laplace(words)))
    signed, gauss, two_sided = (np.asarray(numbers) for numbers in convert(words))
    np.testing.assert_allclose(_moments(gauss), [0.0, 1.0], atol=0.02)
    np.testing.assert_allclose(_moments(two_sided), [0.0, 2**0.5], atol=0.03)
    np.testing.assert_allclose((gauss**4).mean(), 3.0, rtol=0.05)
    # Independent of each other, in size too.
    correlation = np.corrcoef([*several, signed, np.abs(signed)]) - np.eye(6)
    assert np.abs(correlation).max() < 0.02


def test_words_at_the_ends_give_finite_numbers():
    ends = jnp.array([0, 255, 2**31, 2**32 - 1], jnp.uint32)
    convert = lambda word: (normal(word), laplace(word), centred(word), uniform(word, 0))
    found = np.asarray(jax.jit(convert)(ends))
    assert np.isfinite(found).all()
    np.testing.assert_allclose(found[:3, 0], -found[:3, 3], rtol=1e-6)


def test_margins_follow_gems_rules():
    assert resolve(None, (-0.6, 0.6)) == (-0.6, 0.6)
    np.testing.assert_allclose(resolve(0.9, (0.0, 0.6)), (0.0, 0.9))
    np.testing.assert_allclose(resolve((0.0, 1.0), (-0.6, 0.6)), (0.0, 1.0))


STATES = ("omega", "torque", "i", "u", "u_sup")


@pytest.mark.parametrize(
    ("generator", "sentence"),
    [
        (Wiener(("omga",)), "names='omga' is not one of .*; did you mean 'omega'"),
        (Wiener("omega"), "names is 'omega', but a tuple"),
        (Wiener(("i", "u")), "one generator references one state"),
        (Wiener(("i",), sigma_range=(0.0, 0.1)), r"sigma_range is \(0.0, 0.1\).*above 0"),
        (Laplace(("i",), sigma_range=(0.1, 0.01)), "sigma_range is .* at most its high end"),
        (Wiener(("i",), sigma_range=(0.1, 0.2, 0.3)), "sigma_range is .* a pair"),
        (Wiener(("i",), sigma_range="wide"), "sigma_range is 'wide'"),
        (Wiener(("i",), episode_lengths=(0, 5)), "episode_lengths is .* at least 1"),
        (Wiener(("i",), initial_range=(0.5, 0.1)), "initial_range is"),
        (Wiener(("i",), limit_margin=(-0.8, 0.2)), r"limit_margin is \(-0.8, 0.2\).*'i'"),
        (Sinusoidal(("i",), frequency_range=(0, 1)), "frequency_range is .* above 0"),
        (Step(("i",), (0.4, 0.1)), "amplitude_range is"),
        (Triangular(("i",), offset_range=(float("nan"), 0.1)), "offset_range is"),
        (Constant(("i",), "half"), "value is 'half'"),
        (Multiple((Wiener(("i",)), Laplace(("i",)))), "reference 'i' 2 times"),
        (Switched((Wiener(("i",)), Wiener(("u",)))), "of the same states"),
        (Switched((Wiener(("i",)),), (0.5, 0.5)), "probabilities has 2 numbers"),
        (Switched((Wiener(("i",)),) * 2, (0.5, 0.6)), "with sum 1"),
        (Switched((Wiener(("i",)),) * 2, super_episode_length=(0, 3)), "super_episode_length"),
    ],
)
def test_a_generator_that_cannot_be_is_refused(generator, sentence):
    with pytest.raises(ValueError, match=sentence):
        check_reference(generator, STATES, tuple((-0.6, 0.6) for _ in generator.names))


def test_generators_that_can_be_are_accepted_alone_and_as_a_batch():
    check_reference(ALL, "abcd", MARGINS)
    batch = jax.tree.map(lambda leaf: leaf * jnp.array([1.0, 1.1]), ALL)
    check_reference(batch, "abcd", MARGINS)
    with pytest.raises(ValueError, match="margins has 3 pairs"):
        check_reference(ALL, "abcd", MARGINS[:3])
