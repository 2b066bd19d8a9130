"""The levels of the meta-test: what the paper fixes, and places that a seed fixes."""

import numpy as np
import pytest

from jaxpg_envs import list_envs, make
from jaxpg_envs.gridworld import check, handcrafted
from jaxpg_envs.gridworld.picture import draw

# size, steps, rewards, p_terminate, p_respawn, number of walls
WANTED = {
    "dense": (11, 500, [1, 1, -1, -1], [0, 0, 0.5, 0], [0.05, 0.05, 0.1, 0.5], 0),
    "sparse": (13, 50, [1, -1], [1, 1], [0, 0], 0),
    "long": (11, 1000, [1, 1, -1, -1], [0, 0, 0.5, 0.5], [0.01, 0.01, 1, 1], 0),
    "longer": (
        9,
        2000,
        [1, 1, -1, -1, -1],
        [0.1, 0.1, 0.8, 0.8, 0.8],
        [0.01, 0.01, 1, 1, 1],
        7,
    ),
    "long_dense": (11, 2000, [1] * 4, [0] * 4, [0.005] * 4, 9 + 9 - 1),
}


@pytest.mark.parametrize("name", WANTED)
def test_the_levels_are_those_of_the_paper(name):
    params, lifetime = handcrafted.level(name)
    size, steps, *objects, num_walls = WANTED[name]
    count = len(objects[0])
    assert (params.size, params.max_steps_in_episode, lifetime) == (size, steps, 2500)
    assert params.num_objects == count and params.walls.sum() == num_walls
    fields = (params.object_rewards, params.object_terminate, params.object_respawn)
    for field, wanted in zip(fields, objects, strict=True):
        np.testing.assert_allclose(field[:count], wanted, rtol=1e-6)


def test_walls_are_open_where_the_paper_says():
    grid = lambda name, size: np.asarray(
        handcrafted.level(name)[0].walls[: size**2].reshape(size, size)
    )
    longer = grid("longer", 9)
    assert np.flatnonzero(~longer[:, 4]).tolist() == [1, 7]
    assert longer.sum() == longer[:, 4].sum()
    long_dense = grid("long_dense", 11)
    assert np.flatnonzero(~long_dense[:, 5]).tolist() == [0, 7]
    assert np.flatnonzero(~long_dense[4]).tolist() == [2, 8]


@pytest.mark.parametrize("name", handcrafted.names())
def test_start_and_objects_can_be_reached_from_each_other(name):
    params, _ = handcrafted.level(name)
    check(params)
    size = int(params.size)
    free = ~np.asarray(params.walls)[: size**2].reshape(size, size)
    reached = np.zeros_like(free)
    reached.flat[int(params.start)] = True
    for _ in range(size**2):
        spread = reached.copy()
        spread[1:] |= reached[:-1]
        spread[:-1] |= reached[1:]
        spread[:, 1:] |= reached[:, :-1]
        spread[:, :-1] |= reached[:, 1:]
        reached = spread & free
    assert (reached == free).all()
    cells = [int(params.start), *params.object_cells[: int(params.num_objects)].tolist()]
    assert len(set(cells)) == len(cells)


@pytest.mark.parametrize("name", handcrafted.MAZES)
def test_mazes_are_13_by_13_with_three_objects_that_pay_and_25_to_50_steps(name):
    for seed in range(20):
        params, lifetime = handcrafted.level(name, seed)
        assert (params.size, params.num_objects, lifetime) == (13, 3, 2500)
        assert 25 <= params.max_steps_in_episode <= 50
        assert (params.object_rewards[:3] > 0).all()
        assert (params.object_terminate[:3] >= 0.01).all()
        assert (0.001 <= params.object_respawn[:3]).all() and (params.object_respawn <= 0.1).all()


def test_a_seed_is_one_placement_for_ever():
    params, _ = handcrafted.level("dense")
    assert (params.start.item(), params.object_cells.tolist()) == (40, [35, 117, 112, 52, 0])
    other, _ = handcrafted.level("dense", seed=1)
    assert (params.object_cells != other.object_cells).any()


def test_the_registry_makes_them_with_any_observation():
    registered = {name for name in list_envs() if name.startswith("gridworld/")}
    assert registered == {f"gridworld/{name}" for name in handcrafted.names()} | {
        "gridworld/random"
    }
    env, params = make("gridworld/sparse", observation="one_hot", max_objects=2, seed=4)
    assert env.observation_space(params).shape == (13**2 * 2**2 + 1,)
    wanted, _ = handcrafted.level("sparse", seed=4, max_objects=2)
    assert params.object_cells.tolist() == wanted.object_cells.tolist()


def test_an_unknown_level_suggests_the_nearest_and_a_small_array_is_refused():
    with pytest.raises(ValueError, match="name='long-dens' is not one of .*'long_dense'"):
        handcrafted.level("long-dens")
    with pytest.raises(ValueError, match="did you mean 'gridworld/maze_rooms'"):
        make("gridworld/maze_room")
    with pytest.raises(ValueError, match="level 'longer' needs max_size=9 and max_objects=5"):
        handcrafted.level("longer", max_objects=4)


def test_a_picture_shows_walls_start_and_objects(tmp_path):
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4, 4))
    axes = figure.add_subplot()
    params, _ = handcrafted.level("long_dense")
    draw(axes, params)
    figure.savefig(tmp_path / "level.png")
    shown = np.asarray(axes.images[0].get_array())
    assert shown.shape == (11, 11) and shown.sum() == 17
    start, *objects = (divmod(int(cell), 11) for cell in [params.start, *params.object_cells[:4]])
    corners = [patch.get_xy() for patch in axes.patches[:4]]
    assert corners == [(column - 0.5, row - 0.5) for row, column in objects]
    assert axes.patches[4].xy == start[::-1]
    texts = [text.get_text() for text in axes.texts]
    assert texts == ["1", "end 0\nback 0.005"] * 4
