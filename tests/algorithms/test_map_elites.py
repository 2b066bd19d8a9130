"""MAP-Elites with its assistants as algorithms: archives that grow, devices, seeds, resume."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxpg_envs
from jaxpg import algorithms, runner
from jaxpg.quality_diversity import archive as archives
from jaxpg.quality_diversity import cells, distilled, scoring
from jaxpg.quality_diversity.genetic import genetic
from jaxpg.quality_diversity.scoring import Scores

KEY = jax.random.key(0)
STEPS, OPERATORS = 5, ("genetic", "gradient", "injected")


def point_omni():
    return jaxpg_envs.make("locomotion/point-omni", max_steps_in_episode=STEPS)


def tiny(builder=algorithms.dcrl_map_elites, **changes):
    """All operators at once, in four blocks."""
    env, params = point_omni()
    fields = {
        "num_initial": 8,
        "num_genetic": 8,
        "num_gradient": 4,
        "num_injected": 4,
        "num_active": 4,
        "num_critic_steps": 4,
        "num_policy_steps": 2,
        "batch_size": 8,
        "capacity": 200,
        "hidden": (),
        "actor_hidden": (),
        "critic_hidden": (),
        "critic_learning_rate": 1e-2,
        "actor_learning_rate": 1e-2,
    }
    grid = cells.grid([-0.2, -0.2], [0.2, 0.2], (6, 6))
    return builder(env, params, cells=grid, **(fields | changes))


@pytest.fixture(scope="module")
def algorithm():
    return tiny()


@pytest.fixture(scope="module")
def undisturbed(algorithm):
    return runner.train(algorithm, key=KEY, num_updates=8, chunk_length=8, evaluate_every=0)


def leaves(tree):
    return [
        np.asarray(jax.random.key_data(x) if jnp.issubdtype(x.dtype, jax.dtypes.prng_key) else x)
        for x in jax.tree.leaves(tree)
    ]


def test_the_archive_grows_and_what_entered_is_counted(undisturbed):
    metrics, archive = undisturbed.metrics, undisturbed.state.archive
    assert (np.diff(metrics["qd_score"]) >= 0).all() and (np.diff(metrics["coverage"]) >= 0).all()
    assert metrics["qd_score"][-1] > metrics["qd_score"][0] > 0
    np.testing.assert_array_equal(metrics["evaluations"], 8 + 16 * np.arange(1, 9))
    # Every update begins with four active episodes.
    np.testing.assert_array_equal(metrics["rollouts"], metrics["evaluations"] + 4 * np.arange(1, 9))
    added = sum(metrics[f"added_{name}"] for name in OPERATORS)
    assert added.sum() > 0 and (added <= 16).all()
    assert all(
        (metrics[f"added_{name}"] <= count).all()
        for name, count in zip(OPERATORS, (8, 4, 4), strict=True)
    )
    assert metrics["critic_loss"][-1] > 0 and undisturbed.state.world.shared.num_steps == 32
    # Stored are the observed descriptors, which the cells' indices confirm.
    occupied = np.asarray(archives.occupied(archive))
    index = np.asarray(archive.cells.index(archive.descriptors))
    np.testing.assert_array_equal(index[occupied], np.flatnonzero(occupied))


def test_elites_scored_again_are_the_archive(undisturbed):
    """The task is deterministic: the same fitness and cells come out."""
    evaluated = {name: values[-1] for name, values in undisturbed.evaluations.items()}
    for name in ("qd_score", "coverage", "max_fitness"):
        np.testing.assert_allclose(
            evaluated[f"eval_{name}"], undisturbed.metrics[name][-1], rtol=1e-4
        )
    assert 0 <= evaluated["actor_descriptor_error"] < 0.4 and evaluated["actor_qd_score"] > 0


def test_the_distilled_policy_acts_as_the_one_that_learned(undisturbed, tmp_path):
    elites = undisturbed.policy
    distilled.save(tmp_path / "policy.npz", elites.actor)
    act = distilled.load(tmp_path / "policy.npz")
    env, params = point_omni()

    def told(_, observation, asked):
        return act(observation, asked)  # The box of actions is [-1, 1].

    score = scoring.conditioned_episodes(env, params, told)
    occupied = np.flatnonzero(archives.occupied(elites.archive))
    asked = elites.archive.descriptors[occupied]
    reached = jax.jit(lambda: score(KEY, None, asked))()
    np.testing.assert_allclose(
        np.linalg.norm(reached.descriptors - asked, axis=1).mean(),
        undisturbed.evaluations["actor_descriptor_error"][-1],
        rtol=1e-3,
    )


def test_seeds_on_four_devices_equal_seeds_alone_on_one_and_differ(algorithm):
    run = {"key": KEY, "num_updates": 3, "chunk_length": 8}
    together = runner.train(algorithm, num_seeds=2, num_devices=4, **run)
    alone = runner.train(algorithm, **(run | {"key": jax.random.fold_in(KEY, 1)}))
    for name in ("archive", "world", "num_evaluations"):
        pair = (leaves(getattr(x.state, name)) for x in (together, alone))
        for both, one in zip(*pair, strict=True):
            np.testing.assert_allclose(both[1], one, rtol=1e-3, atol=1e-4)
    for name, values in alone.metrics.items():
        np.testing.assert_allclose(together.metrics[name][:, 1], values, rtol=1e-3, atol=1e-4)
    for name in ("qd_score", "critic_loss"):
        assert len(set(together.metrics[name][-1].tolist())) == 2
    assert together.policy.actor.hidden == ()


def test_a_resumed_run_ends_in_the_same_bits_with_archive_and_buffers(
    algorithm, undisturbed, tmp_path
):
    run = {"key": KEY, "chunk_length": 8, "out": tmp_path}
    runner.train(algorithm, num_updates=3, **run)
    resumed = runner.train(algorithm, num_updates=8, resume=True, **run)
    for a, b in zip(leaves(resumed.state), leaves(undisturbed.state), strict=True):
        np.testing.assert_array_equal(a, b)


def test_after_the_first_chunk_nothing_is_compiled(algorithm, undisturbed, compilations):
    runner.train(algorithm, key=jax.random.key(5), num_updates=2, chunk_length=8)
    before = len(compilations)
    runner.train(algorithm, key=jax.random.key(6), num_updates=11, chunk_length=8)
    assert len(compilations) == before


def test_no_key_is_used_twice(algorithm):
    with jax.debug_key_reuse(True):
        jax.eval_shape(lambda key: algorithm.update(algorithm.init(key)), KEY)


def sphere(key, genotypes, asked):
    """Fitness and descriptor in closed form, and nothing to learn from."""
    del key, asked
    return Scores(-jnp.sum(genotypes**2, axis=1), genotypes[:, :2], ())


def test_map_elites_alone_illuminates_any_scoring_function():
    grid = cells.grid([-1.0, -1.0], [1.0, 1.0], (4, 4))
    algorithm = algorithms.map_elites(
        sphere,
        grid,
        genetic(32, sigma_iso=0.2, low=-1.0, high=1.0),
        lambda key: jax.random.uniform(key, (5, 3), minval=-1.0),
        offset=3.0,
    )
    result = runner.train(algorithm, key=KEY, num_updates=150, chunk_length=150)
    assert result.metrics["coverage"][-1] == 100.0
    # The best of a cell is its corner next to the origin: 0 or 1/2 in both coordinates.
    best = -sum(0.25 * ((i in (0, 3)) + (j in (0, 3))) for i in range(4) for j in range(4))
    assert best + 48 - 1.0 < result.metrics["qd_score"][-1] < best + 48
    assert result.metrics["evaluations"][-1] == 5 + 150 * 32
    assert result.policy.actor is None and algorithm.evaluate is not None


def test_the_papers_settings_are_reachable_and_told_apart():
    from jaxpg.algorithms import DCG, DCG_LATER, DCRL

    assert (DCG.num_critic_steps, DCG.num_active, DCG.actor_hidden) == (300, 256, (256, 256))
    assert (DCG_LATER.num_critic_steps, DCG_LATER.num_active) == (3000, 64)
    assert (DCRL.num_genetic, DCRL.num_gradient, DCRL.num_injected) == (128, 64, 64)
    env, params = point_omni()
    grid = cells.grid([-1.0, -1.0], [1.0, 1.0], (4, 4))
    built = [
        algorithms.genetic_map_elites(env, params, cells=grid),
        algorithms.pga_map_elites(env, params, cells=grid),
        algorithms.dcg_map_elites(env, params, cells=grid),
        algorithms.dcg_map_elites(env, params, cells=grid, config=DCG_LATER),
        algorithms.dcrl_map_elites(env, params, cells=grid),
    ]
    # The box [-1, 1] has sides of 2.
    scales = [x.description.get("length_scale") for x in built]
    assert scales[:2] == [None, None] and scales[2:] == pytest.approx([0.016, 0.1, 0.1])
    assert [x.steps_per_update // STEPS for x in built] == [256, 256, 512, 320, 256]
    descriptions = [repr(x.description) for x in built]
    assert len(set(descriptions)) == 5


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        (
            {"num_genetics": 4},
            "'num_genetics' is no field of DCGConfig; did you mean",
        ),
        ({"num_initial": 6}, "there are 6 first solutions, which do not divide into the 4 blocks"),
        ({"num_initial": 0}, "num_initial is 0, but it has to be at least 1"),
        ({"capacity": 79}, "capacity is 79, but 16 episodes of 5 steps are stored at once"),
        ({"actor_hidden": (5,)}, "injected offspring need equal layers"),
        ({"num_steps": 0}, "num_steps is 0, but it has to be at least 1"),
    ],
)
def test_settings_that_do_not_fit_are_one_sentence(changes, sentence):
    with pytest.raises((ValueError, TypeError), match=sentence):
        tiny(**changes)


def test_environments_and_devices_that_do_not_fit_are_one_sentence():
    env, params = jaxpg_envs.make("Pendulum-v1")
    with pytest.raises(ValueError, match="which has no descriptor_bounds: quality-diversity needs"):
        algorithms.pga_map_elites(env, params)
    with pytest.raises(ValueError, match="num_devices is 4, which does not divide the 2 env"):
        runner.train(tiny(num_initial=8, batch_size=6), key=KEY, num_updates=1, num_devices=4)
