"""A learned rule as a file: what was meta-learned once trains agents elsewhere."""

from __future__ import annotations

import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from jaxpg import array_file
from jaxpg.array_file import ArrayFileError
from jaxpg.networks.lpg import LearnedRule, learned_rule
from jaxpg.types import PyTree

FORMAT = 1
SIZES = ("num_targets", "embedding", "hidden")
LARGEST_SIZE = 2**16


class RuleFileError(ArrayFileError):
    """A file that is damaged, or holds something else than the rule that was asked for."""


def save(path: str | pathlib.Path, params: PyTree, rule: LearnedRule) -> None:
    """Writes a rule as an npz of plain arrays; a file that is there is replaced at the end.

    Args:
      path: of the file, in a folder that exists.
      params: of the rule, of one seed.
      rule: that `networks.learned_rule` built; its sizes are written too.

    Raises:
      ValueError: parameters that are not those of the rule, as with several seeds.
      OSError: it cannot be written.
    """
    given = {name: np.asarray(leaf, np.float32) for name, leaf in _named(params).items()}
    expected = _shapes(rule)
    for name in sorted(expected.keys() | given.keys()):
        there = given[name].shape if name in given else "missing"
        if there != expected.get(name):
            raise ValueError(
                f"params has {name} {there}, but a rule of {_sizes(rule)} has "
                f"{expected.get(name, 'none')}: save each seed's rule in a file of its own"
            )
    array_file.write(pathlib.Path(path), given, _sizes(rule) | {"format": FORMAT})


def load(
    path: str | pathlib.Path, expected: LearnedRule | None = None
) -> tuple[LearnedRule, PyTree]:
    """Reads a rule, without executing anything of the file.

    Args:
      path: of the file.
      expected: a rule whose sizes the file's have to be; None takes any.

    Returns:
      `(rule, params)`.

    Raises:
      RuleFileError: the file is damaged, holds something else, or a rule of other sizes.
      OSError: there is no such file, or it cannot be read.
    """
    with array_file.opened(pathlib.Path(path), "file of a learned rule", RuleFileError) as file:
        rule = _rule(array_file.header(file, FORMAT))
        if expected is not None and _sizes(rule) != _sizes(expected):
            raise ArrayFileError(
                f"its rule is of {_sizes(rule)}, but has to be of {_sizes(expected)}"
            )
        params = {
            name: array_file.array(file, name, np.float32, shape)
            for name, shape in _shapes(rule).items()
        }
        for name, leaf in params.items():
            if not np.all(np.isfinite(leaf)):
                raise ArrayFileError(f"its {name} is not finite")
        # `jnp.array` copies: a device may otherwise share the file's memory.
        params = {name: jnp.array(leaf) for name, leaf in params.items()}
        return rule, traverse_util.unflatten_dict(params, sep="/")


def _rule(header: dict[str, Any]) -> LearnedRule:
    """Of the sizes in a header."""
    for name in SIZES:
        size = header.get(name)
        if type(size) is not int or not 1 <= size <= LARGEST_SIZE:
            raise ArrayFileError(f"its {name} is {str(size)[:100]}, which is no size")
    return learned_rule(**{name: header[name] for name in SIZES})


def _sizes(rule: LearnedRule) -> dict[str, int]:
    return {name: getattr(rule, name) for name in SIZES}


def _shapes(rule: LearnedRule) -> dict[str, tuple[int, ...]]:
    """Of the parameters that a rule of these sizes has."""
    shapes = jax.eval_shape(learned_rule(**_sizes(rule)).init, jax.random.key(0))
    return {name: leaf.shape for name, leaf in _named(shapes).items()}


def _named(params: PyTree) -> dict[str, Any]:
    return traverse_util.flatten_dict(params, sep="/")
