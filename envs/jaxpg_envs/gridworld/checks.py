"""Do parameters describe a level? On the host, one sentence for the first fault."""

from __future__ import annotations

import numpy as np

from jaxpg_envs.gridworld.params import GridParams

_OF_OBJECTS = ("object_cells", "object_rewards", "object_terminate", "object_respawn")
_SCALARS = ("max_steps_in_episode", "size", "start", "num_objects")


def check_shapes(
    params: GridParams, max_size: int, max_objects: int, leading: tuple[int, ...] = ()
) -> None:
    """Check the shapes of a level, also of a traced one.

    Args:
      params: one level, or a batch.
      max_size: G.
      max_objects: M.
      leading: `(N,)` for a batch of N levels.

    Raises:
      ValueError: an array of another shape.
    """
    shapes = {name: () for name in _SCALARS} | {"walls": (max_size**2,)}
    shapes |= {name: (max_objects,) for name in _OF_OBJECTS}
    for name, shape in shapes.items():
        given, wanted = np.shape(getattr(params, name)), (*leading, *shape)
        if given != wanted:
            raise ValueError(
                f"{name} has shape {given}; with max_size={max_size} and "
                f"max_objects={max_objects} it must be {wanted}"
            )


def check(params: GridParams) -> None:
    """Check all values of one level, or of a batch, on the host.

    Args:
      params: a level; or N of them, with a leading axis on every field.

    Raises:
      ValueError: shapes that do not fit together, a size or a number of objects that the arrays
        have no room for, an episode without steps, walls that leave fewer free cells than the
        start and the objects need, a start or an object outside the grid, on a wall or on another
        object, a probability outside [0, 1], or a reward that is not finite.

    >>> from jaxpg_envs.gridworld import grid_params
    >>> level = grid_params(3, 0, [(8, 1.0, 1.0, 0.0)])
    >>> check(level.replace(object_respawn=level.object_respawn.at[0].set(1.5)))
    Traceback (most recent call last):
    ValueError: object_respawn[0] is 1.5, but probabilities lie in [0, 1]
    """
    walls = np.asarray(params.walls)
    if walls.ndim not in (1, 2) or np.ndim(params.object_cells) != walls.ndim:
        raise ValueError(
            f"walls has shape {walls.shape} and object_cells {np.shape(params.object_cells)}; one "
            f"level has [G * G] and [M], a batch [N, G * G] and [N, M]"
        )
    max_size = int(np.sqrt(walls.shape[-1]))
    if max_size**2 != walls.shape[-1]:
        raise ValueError(f"walls has {walls.shape[-1]} cells, which is not the square of a size")
    check_shapes(params, max_size, np.shape(params.object_cells)[-1], walls.shape[:-1])
    if walls.ndim == 1:
        _check_level(params, max_size, "")
        return
    names = [*_SCALARS, "walls", *_OF_OBJECTS]
    fields = {name: np.asarray(getattr(params, name)) for name in names}
    for index in range(len(walls)):
        level = params.replace(**{name: value[index] for name, value in fields.items()})
        _check_level(level, max_size, f"level {index}: ")


def _check_level(level: GridParams, max_size: int, where: str) -> None:
    size, start, num_objects = (int(getattr(level, name)) for name in _SCALARS[1:])
    max_objects = np.shape(level.object_cells)[-1]
    if int(level.max_steps_in_episode) < 1:
        raise ValueError(
            f"{where}max_steps_in_episode is {int(level.max_steps_in_episode)}, but at least 1 is "
            f"needed"
        )
    if not 1 <= size <= max_size:
        raise ValueError(f"{where}size is {size}, but walls has room for 1 to {max_size}")
    if not 0 <= num_objects <= max_objects:
        raise ValueError(
            f"{where}num_objects is {num_objects}, but object_cells has room for 0 to {max_objects}"
        )
    free = ~np.asarray(level.walls, bool)[: size**2]
    if free.sum() < num_objects + 1:
        raise ValueError(
            f"{where}walls leave {_cells(int(free.sum()))} of the {size} x {size} grid free, but "
            f"the start and num_objects={num_objects} need {num_objects + 1}"
        )
    cells = np.asarray(level.object_cells)[:num_objects]
    places = {"start": start} | {f"object_cells[{i}]": int(cell) for i, cell in enumerate(cells)}
    for name, cell in places.items():
        if not 0 <= cell < size**2:
            raise ValueError(
                f"{where}{name} is {cell}, outside the cells 0 to {size**2 - 1} of a {size} x "
                f"{size} grid"
            )
        if not free[cell]:
            raise ValueError(f"{where}{name} is {cell}, which is a wall; a free cell is needed")
    if len(set(cells.tolist())) < num_objects:
        raise ValueError(f"{where}object_cells is {cells.tolist()}, but no two may share a cell")
    for name in ("object_terminate", "object_respawn"):
        values = np.asarray(getattr(level, name))[:num_objects]
        # Written so that NaN is refused.
        _refuse_first(
            f"{where}{name}",
            values,
            ~((values >= 0) & (values <= 1)),
            "probabilities lie in [0, 1]",
        )
    rewards = np.asarray(level.object_rewards)[:num_objects]
    _refuse_first(f"{where}object_rewards", rewards, ~np.isfinite(rewards), "it has to be finite")


def _cells(count: int) -> str:
    return {0: "no cell", 1: "one cell"}.get(count, f"{count} cells")


def _refuse_first(name: str, values: np.ndarray, wrong: np.ndarray, valid: str) -> None:
    if wrong.any():
        index = int(np.argmax(wrong))
        raise ValueError(f"{name}[{index}] is {values[index]}, but {valid}")
