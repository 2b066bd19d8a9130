"""The grid world against hand computation and a replay in NumPy."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxpg_envs import check
from jaxpg_envs.gridworld import SMALL, GridWorld, grid_params, move, sample

UP, DOWN, LEFT, RIGHT, STAY = range(5)
G, M = 6, 3
ENV = GridWorld(G, M)


@functools.partial(jax.jit, static_argnums=0)
def play(env, params, actions, key):
    """Outputs of auto-resetting steps: states after them, and what a step returns."""
    first, state = env.reset(key, params)

    def step(state, inputs):
        action, step_key = inputs
        observation, state, reward, terminated, truncated, info = env.step(
            step_key, state, action, params
        )
        return state, (state, observation, reward, terminated, truncated, info)

    keys = jax.random.split(key, len(actions))
    return first, jax.lax.scan(step, state, (actions, keys))[1]


def level(size, start, objects, **kwargs):
    return grid_params(size, start, objects, max_size=G, max_objects=M, **kwargs)


def played(params, actions, env=ENV, seed=0):
    return play(env, params, jnp.array(actions), jax.random.key(seed))


def test_a_scripted_path_earns_what_one_computes_by_hand():
    # . A #      A pays 2, stays away; B pays -1, comes back at once; C pays 5 and terminates.
    # S B C
    # . . .
    params = level(3, 3, [(1, 2.0, 0.0, 0.0), (4, -1.0, 0.0, 1.0), (5, 5.0, 1.0, 1.0)], walls=[2])
    # Up, right takes A, right is a wall, down takes B, which is away while one stays, and back in
    # the step after it; right takes C and ends. The next episode has A again.
    actions = [UP, RIGHT, RIGHT, DOWN, STAY, STAY, RIGHT, UP, RIGHT]
    _, (states, _, rewards, terminated, truncated, _) = played(params, actions)
    assert states.cell.tolist() == [0, 1, 1, 4, 4, 4, 3, 0, 1]
    assert rewards.tolist() == [0.0, 2.0, 0.0, -1.0, 0.0, -1.0, 5.0, 0.0, 2.0]
    assert np.flatnonzero(terminated).tolist() == [6]
    assert not truncated.any()
    # The collected object is absent after the step that took it, although it always comes back.
    assert states.exists[:, 1].tolist() == [True, True, True, False, True, False, True, True, True]
    assert states.exists[:, 0].tolist() == [True] + [False] * 5 + [True, True, False]


@pytest.mark.parametrize(("action", "inner", "corner"), [
    (UP, 1, 0), (DOWN, 7, 3), (LEFT, 3, 0), (RIGHT, 5, 1), (STAY, 4, 0),
])  # fmt: skip
def test_moves_end_at_the_border_of_the_level_and_not_of_the_array(action, inner, corner):
    params = level(3, 0, [])
    assert move(params, jnp.int32(4), action) == inner
    assert move(params, jnp.int32(0), action) == corner
    last = level(3, 8, [])
    assert move(last, jnp.int32(8), action) == {UP: 5, LEFT: 7}.get(action, 8)


def replay(params, actions):
    """The same rules, cell by cell, where all probabilities are 0 or 1."""
    p = jax.tree.map(np.asarray, params)
    size, walls = int(p.size), {int(cell) for cell in np.flatnonzero(p.walls)}
    items = range(int(p.num_objects))
    shifts = {UP: (-1, 0), DOWN: (1, 0), LEFT: (0, -1), RIGHT: (0, 1), STAY: (0, 0)}
    cell, present, time, rows = int(p.start), set(items), 0, []
    for action in actions.tolist():
        row, column = cell // size + shifts[action][0], cell % size + shifts[action][1]
        if 0 <= row < size and 0 <= column < size and row * size + column not in walls:
            cell = row * size + column
        taken = {i for i in present if p.object_cells[i] == cell}
        present = (present | {i for i in items if p.object_respawn[i] == 1}) - taken
        time += 1
        terminated = any(p.object_terminate[i] == 1 for i in taken)
        truncated = time >= p.max_steps_in_episode and not terminated
        index = cell + G**2 * sum(2**i for i in present)
        reward = sum(float(p.object_rewards[i]) for i in taken)
        rows.append((index, time, reward, terminated, truncated))
        if terminated or truncated:
            cell, present, time = int(p.start), set(items), 0
    return map(np.array, zip(*rows, strict=True))


def test_random_play_on_random_levels_is_the_replay_in_numpy():
    num_levels, num_steps = 12, 150
    level_keys = jax.random.split(jax.random.key(0), num_levels)
    levels = jax.vmap(lambda key: sample(key, SMALL, G, M)[0])(level_keys)
    rng = np.random.default_rng(0)
    levels = levels.replace(
        object_terminate=rng.integers(0, 2, (num_levels, M)).astype(np.float32),
        object_respawn=rng.integers(0, 2, (num_levels, M)).astype(np.float32),
    )
    actions = rng.integers(0, 5, (num_levels, num_steps))
    keys = jax.random.split(jax.random.key(1), num_levels)
    batched = jax.jit(jax.vmap(lambda *inputs: play(ENV, *inputs)))
    _, (_, _, rewards, terminated, truncated, info) = batched(levels, actions, keys)
    index, time = info["final_observation"]
    assert terminated.any() and truncated.any() and not (terminated & truncated).any()
    for i in range(num_levels):
        one = jax.tree.map(lambda leaf, i=i: leaf[i], levels)
        expected = replay(one, actions[i])
        found = (index[i], time[i] * 1000, rewards[i], terminated[i], truncated[i])
        for value, wanted in zip(found, expected, strict=True):
            np.testing.assert_allclose(value, wanted, atol=1e-4)


def test_objects_come_back_and_episodes_end_with_the_given_probabilities():
    # The object lies beside the start: right, then wait where it cannot be taken again.
    params = level(2, 0, [(1, 1.0, 0.3, 0.2)])
    num_episodes = 4000

    @jax.jit
    @jax.vmap
    def episode(key):
        reset_key, take_key, *wait_keys = jax.random.split(key, 5)
        _, state = ENV.reset(reset_key, params)
        _, state, *_ = ENV.step_env(take_key, state, RIGHT, params)
        away = []
        for wait_key in wait_keys:
            _, later, *_ = ENV.step_env(wait_key, state, LEFT, params)
            away.append(~later.exists[0])
        return state.terminated, jnp.array(away)

    ended, away = episode(jax.random.split(jax.random.key(0), num_episodes))
    # Standard errors are 0.007 and 0.004.
    assert ended.mean() == pytest.approx(0.3, abs=0.03)
    assert 1 - away.mean() == pytest.approx(0.2, abs=0.02)
    assert abs(np.corrcoef(ended, away[:, 0])[0, 1]) < 0.06


def test_the_last_step_truncates_unless_it_terminates():
    ends = level(2, 0, [(1, 1.0, 1.0, 0.0)], max_steps=2)
    _, (states, _, _, terminated, truncated, info) = played(ends, [STAY, RIGHT, STAY, STAY])
    assert terminated.tolist() == [False, True, False, False]
    assert truncated.tolist() == [False, False, False, True]
    assert info["discount"].tolist() == [1.0, 0.0, 1.0, 1.0]
    assert states.time.tolist() == [1, 0, 1, 0]
    assert info["final_observation"][0].tolist() == [G**2, 1, G**2, G**2]


def test_objects_beyond_the_number_of_the_level_do_not_exist():
    params = level(2, 0, [(1, 1.0, 0.0, 0.0)]).replace(
        object_cells=jnp.array([1, 1, 1]),
        object_rewards=jnp.array([1.0, 9.0, 9.0]),
        object_terminate=jnp.ones(M),
        object_respawn=jnp.ones(M),
    )
    for env in (ENV, GridWorld(G, M, "planes")):
        _, (states, *_) = played(params, [STAY, STAY, UP, STAY], env)
        assert not states.exists[:, 1:].any()
    assert played(params, [RIGHT])[1][2].tolist() == [1.0]


def test_the_index_counts_places_and_sets_of_objects_without_collision():
    env = GridWorld(3, 2)
    _, state = env.reset(jax.random.key(0))
    found = [
        env.get_obs(state.replace(cell=jnp.int32(cell), exists=jnp.array(exists)))[0].item()
        for exists in itertools.product([False, True], repeat=2)
        for cell in range(9)
    ]
    assert sorted(found) == list(range(env.num_states))
    state = state.replace(cell=jnp.int32(5), exists=jnp.array([False, True]))
    assert env.get_obs(state)[0] == 5 + 9 * 2


def test_the_one_hot_observation_is_the_index_and_the_time():
    params = level(3, 0, [(1, 1.0, 0.0, 0.0), (8, 1.0, 0.0, 0.0)])
    actions = [RIGHT, DOWN, STAY]
    first, (_, (index, time), *_) = played(params, actions)
    first_one_hot, (_, one_hot, *_) = played(params, actions, GridWorld(G, M, "one_hot"))
    assert one_hot.shape == (3, G**2 * 2**M + 1)
    np.testing.assert_array_equal(one_hot[:, :-1].argmax(-1), index)
    np.testing.assert_array_equal(one_hot[:, :-1].sum(-1), 1.0)
    np.testing.assert_allclose(one_hot[:, -1], time)
    np.testing.assert_allclose(time, [0.001, 0.002, 0.003], rtol=1e-6)
    assert first_one_hot[first[0]] == 1.0 and first_one_hot[-1] == 0.0


def test_planes_show_the_level_in_the_corner_of_the_largest_one():
    env = GridWorld(G, M, "planes")
    params = level(3, 7, [(1, 1.0, 0.0, 0.0), (8, 1.0, 0.0, 0.0)])
    observation, state = env.reset(jax.random.key(0), params)
    pictures = observation[:-1].reshape(1 + M, G, G)
    assert np.argwhere(pictures[0]).tolist() == [[2, 1]]
    for i, cell in enumerate(state.object_cells[:2]):
        assert np.argwhere(pictures[1 + i]).tolist() == [[int(cell) // 3, int(cell) % 3]]
    assert not pictures[3].any()
    gone = state.replace(exists=jnp.zeros(M, bool))
    assert env.get_obs(gone, params)[:-1].sum() == 1.0


def test_with_planes_objects_come_back_in_free_cells_drawn_uniformly():
    # Six of nine cells are free, of which the agent has one and the objects two.
    env = GridWorld(3, 2, "planes")
    params = grid_params(
        3, 4, [(0, 1.0, 0.0, 1.0), (1, 1.0, 0.0, 1.0)], walls=[2, 6, 8], max_size=3, max_objects=2
    )

    @jax.jit
    @jax.vmap
    def episode(key):
        reset_key, away_key, back_key = jax.random.split(key, 3)
        _, state = env.reset(reset_key, params)
        start = state.object_cells
        state = state.replace(exists=jnp.array([False, True]))
        _, one, *_ = env.step_env(away_key, state, STAY, params)
        _, both, *_ = env.step_env(back_key, state.replace(exists=jnp.zeros(2, bool)), STAY, params)
        return start, one, both

    start, one, both = episode(jax.random.split(jax.random.key(0), 3000))
    allowed = {0, 1, 3, 5, 7}
    for cells in (start, one.object_cells, both.object_cells):
        assert (cells[:, 0] != cells[:, 1]).all()
        for column in cells.T:
            values, counts = np.unique(column, return_counts=True)
            assert set(values.tolist()) == allowed
            # Standard deviation of a count is 22.
            np.testing.assert_allclose(counts, 600, atol=100)
    assert one.exists.all() and both.exists.all()
    np.testing.assert_array_equal(one.object_cells[:, 1], start[:, 1])
    assert (one.object_cells[:, 0] != start[:, 0]).any()


def test_with_planes_a_full_grid_has_a_place_for_everyone():
    env = GridWorld(2, 3, "planes")
    params = grid_params(2, 0, [(i, 1.0, 0.0, 1.0) for i in (1, 2, 3)], max_size=2, max_objects=3)
    _, (states, *_) = played(params, [RIGHT, DOWN, LEFT, UP, STAY] * 6, env)
    for cell, exists, cells in zip(states.cell, states.exists, states.object_cells, strict=True):
        places = [int(cell), *cells[exists].tolist()]
        assert len(set(places)) == len(places) and set(places) <= {0, 1, 2, 3}
    assert (~states.exists).any()


@pytest.mark.parametrize("observation", ["one_hot", "planes"])
def test_the_other_observations_keep_the_contract_too(observation):
    check(GridWorld(4, 2, observation), num_envs=4, num_steps=60)


def test_one_seed_is_one_course_and_keys_are_not_reused():
    env = GridWorld(4, 2, "planes")
    _, first = played(env.default_params, [RIGHT, DOWN] * 8, env)
    _, again = played(env.default_params, [RIGHT, DOWN] * 8, env)
    jax.tree.map(np.testing.assert_array_equal, first, again)
    with jax.debug_key_reuse(True):
        _, state = env.reset(jax.random.key(0))
        env.step(jax.random.key(1), state, RIGHT)


def test_a_donated_state_leaves_the_level_alone():
    env = GridWorld(4, 2)
    params = env.default_params
    _, state = env.reset(jax.random.key(0), params)
    jax.jit(lambda state: jax.tree.map(lambda leaf: ~leaf, state), donate_argnums=0)(state)
    assert params.object_cells.tolist() == [15, 0] and params.start == 0


def test_a_level_of_another_size_is_refused_by_the_environment():
    other = GridWorld(4, 2).default_params
    with pytest.raises(ValueError, match=r"walls has shape \(16,\); with max_size=6"):
        ENV.reset(jax.random.key(0), other)


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"observation": "onehot"}, "'index', 'one_hot', 'planes'; did you mean 'one_hot'"),
        ({"max_size": 1}, "max_size=1 must be at least 2"),
        ({"max_objects": 0}, "max_objects=0 must be at least 1"),
        ({"max_objects": 25}, "more states than an int32 counts"),
    ],
)
def test_bad_arguments_are_one_sentence(kwargs, message):
    with pytest.raises(ValueError, match=message):
        GridWorld(**kwargs)
