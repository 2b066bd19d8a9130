"""Meta-learning: the gradient through learning, lives and levels of agents, kills and devices."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxpg_envs
from jaxpg import algorithms, estimators, networks, rollout, runner, types
from jaxpg.algorithms import inner_agents, meta
from jaxpg.algorithms.inner_agents import (
    a2c_update,
    clipped,
    learned_update,
    taken,
)
from jaxpg.algorithms.inner_lives import live, within_lifetime
from jaxpg.algorithms.meta import MetaConfig, _Run
from jaxpg.losses import learned_rule as losses
from jaxpg.networks.lpg import LearnedRule, learned_rule
from jaxpg.networks.tabular import look_up
from jaxpg_envs import gridworld

KEY = jax.random.key(0)
ENV = gridworld.GridWorld(max_size=3, max_objects=1)
TINY = gridworld.LevelDistribution(
    sizes=(3, 3), objects=(1, 1), steps=(4, 6), lifetimes=(2, 4), num_walls=1
)
RULE = learned_rule(num_targets=3, embedding=4, hidden=5)
SIZES = {
    "num_agents": 4,
    "agents_at_once": 2,
    "num_workers": 3,
    "num_steps": 4,
    "num_inner_updates": 2,
    "buffer_size": 12,
    "score_episodes": 2,
    "antagonists_at_once": 2,
}


def draw(key):
    return gridworld.sample(key, TINY, ENV.max_size, ENV.max_objects)


def algorithm(**overrides):
    return meta(ENV, draw, rule=RULE, **(SIZES | overrides))


@pytest.fixture(scope="module")
def agents():
    return inner_agents(ENV, num_workers=3, num_steps=4)


@pytest.fixture(scope="module")
def lived(agents):
    """An agent that is not uniform any more, its level, and what it lived through six times."""
    level, _ = draw(jax.random.key(5))
    agent = agents.init(KEY, level, RULE.num_targets)
    draws = iter(jax.random.split(jax.random.key(1), 20))
    agent = agent.replace(
        **{
            name: jax.tree.map(lambda x: x + 0.5 * jax.random.normal(next(draws), x.shape), value)
            for name, value in (("actor", agent.actor), ("predictor", agent.predictor))
        }
    )
    collect = jax.jit(agents.collect)
    seen = []
    for key in jax.random.split(jax.random.key(2), 6):
        agent, experience, _ = collect(key, agent, level)
        reward = experience.reward + 0.1 * jax.random.normal(key, experience.reward.shape)
        seen.append(experience._replace(reward=reward))
    return agent, level, jax.tree.map(lambda *x: jnp.stack(x), *seen)


def doubled(tree):
    return jax.tree.map(
        lambda x: x.astype(jnp.float64) if jnp.issubdtype(x.dtype, jnp.floating) else x, tree
    )


@dataclasses.dataclass(frozen=True)
class Fixed:
    """Agents who live through the same whatever they do; the n-th rollout is the n-th of these."""

    inner: object
    experiences: object

    def __getattr__(self, name):
        return getattr(self.inner, name)

    def collect(self, key, agent, level):
        number = agent.rows.episode_length
        agent = agent.replace(rows=agent.rows.replace(episode_length=number + 1))
        return agent, jax.tree.map(lambda x: x[number[0]], self.experiences), None


@pytest.mark.parametrize("num_updates", [1, 2, 5])
def test_the_meta_gradient_equals_central_differences_with_frozen_inputs(lived, num_updates):
    agent, level, seen = lived
    agent = agent.replace(
        rows=agent.rows.replace(episode_length=jnp.zeros_like(agent.rows.episode_length))
    )

    def loss(params, rule, max_norm):
        config = MetaConfig(
            **SIZES | {"num_inner_updates": num_updates},
            max_gradient_norm=max_norm,
            actor_learning_rate=jnp.where(max_norm < 1, 3.0 / max_norm, 3.0),
            critic_learning_rate=jnp.where(max_norm < 1, 2.0 / max_norm, 2.0),
        )
        fixed = Fixed(inner_agents(ENV, config), seen)
        run = _Run(fixed, draw, rule, None, config, None)
        return run.meta_loss(params, KEY, agent, level, jnp.int32(100))[0]

    with jax.enable_x64(True):
        agent, level, seen, params = doubled((agent, level, seen, RULE.init(jax.random.key(3))))
        gradient = jax.jit(jax.grad(functools.partial(loss, rule=RULE)))
        flat, restore = jax.flatten_util.ravel_pytree(params)
        directions = jax.random.normal(jax.random.key(4), (3, flat.size), jnp.float64)
        for max_norm in (1e-3, 1e3):
            # What the rule reads at the base parameters, told apart by the rewards.
            read = []

            def reading(params, *inputs):
                jax.debug.callback(lambda *x: read.append(x), *inputs, ordered=True)
                return RULE.apply(params, *inputs)

            loss(params, RULE._replace(apply=reading), max_norm)
            jax.effects_barrier()
            assert len(read) == num_updates
            stored = [jnp.stack([jnp.asarray(x[i]) for x in read]) for i in range(5)]

            def frozen(params, rewards, *_, stored):
                apart = jnp.sum((stored[0] - rewards) ** 2, axis=(1, 2))
                return RULE.apply(params, *(x[jnp.argmin(apart)] for x in stored))

            @jax.jit
            def at(params, stored, max_norm):
                rule = RULE._replace(apply=functools.partial(frozen, stored=stored))
                return loss(params, rule, max_norm)

            step = 1e-5
            numeric = [
                (
                    at(restore(flat + step * d), stored, max_norm)
                    - at(restore(flat - step * d), stored, max_norm)
                )
                / (2 * step)
                for d in directions
            ]
            found = gradient(params, max_norm=max_norm)
            analytic = directions @ jax.flatten_util.ravel_pytree(found)[0]
            assert float(jnp.max(jnp.abs(analytic))) > 1e-4
            np.testing.assert_allclose(analytic, numeric, rtol=1e-5, atol=1e-9)


def test_each_agents_meta_gradient_is_clipped_before_the_mean():
    state = jax.jit(algorithm().init)(KEY)
    lives = state.world.rows
    # One agent has lost its table, so that nothing of it is a number.
    actor = jax.tree.map(lambda x: x.at[3].set(jnp.nan), lives.agents.actor)
    lives = lives.replace(agents=lives.agents.replace(actor=actor))

    def run(limit):
        config = MetaConfig(**SIZES, max_meta_gradient_norm=limit)
        return _Run(inner_agents(ENV, config), draw, RULE, None, config, None)

    @jax.jit
    def of_one(*row):
        return jax.grad(lambda rule: run(1.0).meta_loss(rule, *row)[0])(state.rule)

    rows = zip(rollout.row_keys(KEY, 3), range(3), strict=True)
    each = [
        of_one(key, *jax.tree.map(lambda x: x[i], (lives.agents, lives.levels, lives.lifetimes)))
        for key, i in rows
    ]
    norms = sorted(float(optax.tree.norm(gradient)) for gradient in each)
    limit = (norms[0] + norms[1]) / 2
    clip = optax.clip_by_global_norm(limit)
    expected = jax.tree.map(lambda *x: sum(x) / 4, *(clip.update(x, None)[0] for x in each))
    found, _, _, metrics = jax.jit(run(limit).meta_gradient)(KEY, state.rule, lives)
    jax.tree.map(
        lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-3, atol=1e-7), found, expected
    )
    assert metrics["clipped_share"] == 0.5
    assert metrics["lost_share"] == 0.25


def test_an_update_after_the_lifetime_changes_no_parameter(agents, lived):
    agent, _, seen = lived
    update = jax.jit(learned_update(agents, RULE, RULE.init(KEY)))
    updated, _ = update(agent, jax.tree.map(lambda x: x[0], seen))
    last = within_lifetime(agent.replace(num_updates=jnp.int32(6)), updated, jnp.int32(7))
    assert last.num_updates == 7
    np.testing.assert_array_equal(last.actor["states"], updated.actor["states"])
    after = within_lifetime(last, updated.replace(actor=agent.actor), jnp.int32(7))
    assert after.num_updates == 7
    np.testing.assert_array_equal(after.actor["states"], last.actor["states"])


def by_hand(update):
    """A rule that says what it is told."""
    return LearnedRule(
        init=lambda key: (),
        apply=lambda params, rewards, dones, probabilities, targets, next_targets: (
            update,
            targets,
        ),
        num_targets=3,
        embedding=0,
        hidden=0,
    )


def test_a_rule_set_by_hand_is_a2c_and_reinforce(agents, lived):
    agent, _, seen = lived
    experience = jax.tree.map(lambda x: x[0], seen)
    agents = dataclasses.replace(agents, config=dataclasses.replace(agents.config, entropy=0.0))
    value = agents.fit_value(agent.value, experience)
    advantage = losses.normalised(agents.advantage(value, experience)[0])
    ours, _ = learned_update(agents, by_hand(-advantage), ())(agent, experience)
    theirs, _ = a2c_update(agents)(agent, experience)
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, atol=2e-6), ours.actor, theirs.actor)
    # A target that is what the predictor says already has no gradient.
    jax.tree.map(
        lambda x, y: np.testing.assert_allclose(x, y, atol=1e-6), ours.predictor, agent.predictor
    )

    # REINFORCE: plain returns, one step of gradient descent by hand on the states' rows.
    returns = np.zeros_like(experience.reward)
    following = np.zeros(returns.shape[0])
    for t in reversed(range(returns.shape[1])):
        following = experience.reward[:, t] + 0.99 * following * (1 - experience.done[:, t])
        returns[:, t] = following
    free = dataclasses.replace(agents.config, max_gradient_norm=1e3, actor_learning_rate=1.0)
    ours, _ = learned_update(
        dataclasses.replace(agents, config=free), by_hand(-jnp.asarray(returns)), ()
    )(agent, experience)
    logits = np.asarray(agent.actor["states"], float)
    index, time = (np.asarray(x) for x in experience.observation)
    expected = logits.copy()
    for at in np.ndindex(returns.shape):
        row = logits[index[at]] + time[at] * np.asarray(agent.actor["time"])
        p = np.exp(row - row.max()) / np.exp(row - row.max()).sum()
        one_hot = np.eye(len(p))[int(experience.action[at])]
        expected[index[at]] += returns[at] * (one_hot - p) / returns.size
    np.testing.assert_allclose(ours.actor["states"], expected, atol=1e-5)


def test_the_estimator_has_the_gradient_of_the_inner_loss(agents, lived):
    agent, _, seen = lived
    experience = jax.tree.map(lambda x: x[0], seen)
    params = RULE.init(KEY)
    here, after = (
        look_up(agent.predictor, x) for x in (experience.observation, experience.next_observation)
    )
    log_probs = jax.nn.log_softmax(look_up(agent.actor, experience.observation))
    trajectory = types.trajectory(
        taken(log_probs, experience.action),
        experience.reward,
        terminated=experience.done > 0,
        value=here,
        next_value=after,
    )
    scored = estimators.learned(RULE, params).score(trajectory)

    def ours(actor, predictor):
        log_probs = jax.nn.log_softmax(look_up(actor, experience.observation))
        evaluation = types.Evaluation(
            taken(log_probs, experience.action), value=look_up(predictor, experience.observation)
        )
        return estimators.learned(RULE, params).loss(evaluation, scored)[0]

    found = jax.grad(ours, argnums=(0, 1))(agent.actor, agent.predictor)
    free = dataclasses.replace(
        agents.config, max_gradient_norm=1e3, actor_learning_rate=1.0, critic_learning_rate=1.0
    )
    update = learned_update(dataclasses.replace(agents, config=free), RULE, params)
    updated, _ = update(agent, experience)
    for name, gradient in zip(("actor", "predictor"), found, strict=True):
        step = jax.tree.map(jnp.subtract, getattr(agent, name), getattr(updated, name))
        jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, atol=2e-6), gradient, step)


def test_the_value_is_trained(agents, lived):
    agent, _, seen = lived
    experience = jax.tree.map(lambda x: x[0], seen)
    _, targets = agents.advantage(agent.value, experience)
    agents = dataclasses.replace(
        agents, config=dataclasses.replace(agents.config, critic_learning_rate=0.1)
    )
    value = agents.fit_value(agent.value, experience)
    loss = lambda value: jnp.mean((look_up(value, experience.observation)[..., 0] - targets) ** 2)
    assert loss(value) < loss(agent.value)


def test_the_clip_is_optax_and_has_a_slope_at_zero():
    tree = {"a": jnp.array([3.0, 4.0]), "b": jnp.array([[12.0]])}
    for norm in (0.5, 20.0):
        expected, _ = optax.clip_by_global_norm(norm).update(tree, optax.EmptyState())
        jax.tree.map(
            lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-6), clipped(tree, norm), expected
        )
    slope = jax.grad(lambda x: jnp.sum(clipped({"x": x}, 0.5)["x"]))(jnp.zeros(3))
    np.testing.assert_array_equal(slope, 1.0)


def test_lives_have_their_own_lengths(agents):
    levels, _ = jax.vmap(draw)(jax.random.split(KEY, 3))
    keys = jax.random.split(jax.random.key(1), 3)
    trained = jax.jit(functools.partial(live, agents, a2c_update(agents)))(
        keys, levels, jnp.array([0, 2, 5])
    )
    assert trained.num_updates.tolist() == [0, 2, 5]
    changed = np.abs(trained.actor["states"]).max(axis=(1, 2))
    assert changed[0] == 0 and (changed[1:] > 0).all()
    # Who lives beside an agent does not matter to it.
    alone = live(
        agents,
        a2c_update(agents),
        keys[1:2],
        jax.tree.map(lambda x: x[1:2], levels),
        jnp.array([2]),
    )
    np.testing.assert_allclose(alone.actor["states"][0], trained.actor["states"][1], atol=1e-5)


def test_only_levels_of_those_who_finished_are_scored():
    run_algorithm = algorithm()
    state, step = jax.jit(run_algorithm.init)(KEY), jax.jit(run_algorithm.update)
    finished = []
    for _ in range(3):
        before = state
        state, metrics = step(state)
        ended = np.asarray(
            before.world.rows.agents.num_updates + SIZES["num_inner_updates"]
            >= before.world.rows.lifetimes
        )
        finished.append(ended)
        assert np.isnan(metrics["episode_score"]) == (not ended.any())
        again = np.asarray(state.world.rows.agents.num_updates == 0)
        np.testing.assert_array_equal(again, ended)
        lives = state.world.rows
        held = np.asarray(lives.slots)
        assert len(set(held.tolist())) == SIZES["num_agents"]
        assert np.asarray(state.buffer.active)[held].all()
        assert state.buffer.active.sum() == SIZES["num_agents"]
        kept = jax.tree.map(lambda x: x[held], state.buffer.items)
        jax.tree.map(
            np.testing.assert_array_equal,
            kept,
            (lives.levels, lives.lifetimes),
        )
    assert np.any(finished) and not np.all(finished)


@pytest.mark.parametrize("num_devices", [4])
def test_devices_and_kills_change_nothing(tmp_path, num_devices):
    run = {"key": KEY, "num_updates": 4, "chunk_length": 1}
    agent = algorithm()
    whole = runner.train(agent, **run)
    folder = {"out": tmp_path, "checkpoint_every": 2}
    runner.train(agent, **run | {"num_updates": 2}, **folder)
    resumed = runner.train(agent, **run, **folder, resume=True)
    same = lambda x, y: np.testing.assert_array_equal(
        *(
            jax.random.key_data(z) if jnp.issubdtype(z.dtype, jax.dtypes.prng_key) else z
            for z in (x, y)
        )
    )
    jax.tree.map(same, resumed.state, whole.state)
    spread = runner.train(algorithm(agents_at_once=1), **run, num_devices=num_devices)
    for name in ("meta_loss", "episode_return", "episode_score", "replay_share"):
        np.testing.assert_allclose(
            spread.metrics[name], whole.metrics[name], rtol=2e-4, atol=2e-5, err_msg=name
        )


def test_memory_does_not_grow_with_the_number_of_agents():
    def temporary(num_agents):
        agent = algorithm(num_agents=num_agents, buffer_size=32)
        run = _Run(
            inner_agents(ENV, MetaConfig(**SIZES)),
            draw,
            RULE,
            None,
            MetaConfig(**SIZES | {"num_agents": num_agents}),
            None,
        )
        state = jax.eval_shape(agent.init, KEY)
        compiled = jax.jit(run.meta_gradient).lower(KEY, state.rule, state.world.rows).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    few, many = temporary(4), temporary(16)
    world = 16 * 3 * 18 * 10 * 4
    assert many < 1.5 * few + 4 * world


def test_a_trained_rule_runs_in_the_spine():
    env, params = jaxpg_envs.make("CartPole-v1", max_steps_in_episode=10)
    told = networks.actor_critic(
        env.observation_space(params), env.action_space(params), hidden=(4,), critic_outputs=3
    )
    agent = algorithms.on_policy(
        env,
        params,
        estimators.learned(RULE, RULE.init(KEY)),
        networks=told,
        num_envs=4,
        num_steps=8,
        num_epochs=1,
        num_minibatches=1,
    )
    result = runner.train(agent, key=KEY, num_updates=2)
    assert np.isfinite(result.metrics["loss"]).all()
    assert "target_divergence" in result.metrics


@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        ({"selection": "best"}, "selection is 'best'.*rank"),
        ({"score": "regret"}, "score is 'regret'.*algorithmic_regret"),
        ({"buffer_size": 7}, "buffer_size is 7, but it has to be at least 8"),
        ({"num_steps": 0}, "num_steps is 0"),
        ({"max_meta_gradient_norm": 0.0}, "max_meta_gradient_norm is 0.0, but it has to be pos"),
        ({"replay_probability": 1.5}, r"replay_probability is 1.5, but it has to be in \[0, 1\]"),
    ],
)
def test_what_makes_no_sense_is_one_sentence(overrides, sentence):
    with pytest.raises(ValueError, match=sentence):
        algorithm(**overrides)


def test_agents_need_an_index():
    with pytest.raises(ValueError, match=r"need \(index, time\) and discrete actions"):
        inner_agents(gridworld.GridWorld(max_size=3, max_objects=1, observation="one_hot"))


def test_agents_at_once_divide_those_of_a_device():
    with pytest.raises(ValueError, match="agents_at_once is 3, but it has to divide the 4 agents"):
        jax.eval_shape(algorithm(agents_at_once=3).update, jax.eval_shape(algorithm().init, KEY))
