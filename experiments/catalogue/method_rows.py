"""What each method replaces of an update, and in how many lines, read from the code itself."""

from __future__ import annotations

import ast
import inspect
from typing import Any, NamedTuple

import jax.numpy as jnp

from jaxpg import methods
from jaxpg.method import Method, Seams

SETTINGS: dict[str, dict[str, Any]] = {
    "d3s": {"num_updates": 1},
    "random_down_sampling": {"num_updates": 1},
    "dapo": {"overlong_buffer": 1},
}
"""Arguments with which a method shows all that it replaces, where its defaults do not."""


class MethodRow(NamedTuple):
    """One line of the table.

    Attributes:
      name: of the builder in `jaxpg.methods`.
      summary: first line of its docstring.
      estimator: whose loss it takes.
      seams: names of those that it replaces, in the order of an update.
      remembers: it has a state, which is checkpointed.
      lines: of its module, without docstrings, comments and blank lines.
    """

    name: str
    summary: str
    estimator: str
    seams: tuple[str, ...]
    remembers: bool
    lines: int


def method_rows() -> list[MethodRow]:
    """Every method of the library.

    Returns:
      In the order of their names.
    """
    found = []
    for name in methods.__all__:
        builder = getattr(methods, name)
        method = builder(**SETTINGS.get(name, {}))
        replaced = overridden(method)
        found.append(
            MethodRow(
                name=name,
                summary=inspect.getdoc(builder).splitlines()[0],
                estimator=method.estimator.name,
                seams=tuple(seam for seam in replaced if seam != "init"),
                remembers="init" in replaced,
                lines=lines_of_code(inspect.getsource(inspect.getmodule(inspect.unwrap(builder)))),
            )
        )
    return found


def overridden(method: Method) -> tuple[str, ...]:
    """The seams that a method replaces, and `init` where it has a state.

    Args:
      method: any.

    Returns:
      Their names, in the order of an update.

    >>> overridden(methods.hpt())
    ('collect',)
    """
    before = Seams(
        init=lambda key, params: (),
        collect=lambda key, params, world, state: (None, world, {}),
        score=lambda params, rows, state: rows,
        select=lambda rows, state: rows,
        loss=lambda params, rows, state: (jnp.zeros(()), {}),
        after=lambda params, rows, metrics, state: (state, {}),
        evaluate=lambda params, rows: None,
        num_prompts=1,
        learning_rate=lambda step: 1.0,
    )
    after = method.override(before)
    pairs = zip(Seams._fields, before, after, strict=True)
    return tuple(name for name, old, new in pairs if old is not new)


def lines_of_code(source: str) -> int:
    """Lines of a module that hold code.

    Args:
      source: of the module.

    Returns:
      Their number, without docstrings, comments and blank lines.

    >>> lines_of_code("'A module.'\\n\\nx = 1  # one\\n# nothing\\ny = (\\n    2)\\n")
    3
    """
    documented = _docstring_lines(ast.parse(source))
    return sum(
        number not in documented and line.strip() != "" and not line.strip().startswith("#")
        for number, line in enumerate(source.splitlines(), start=1)
    )


def _docstring_lines(tree: ast.Module) -> set[int]:
    found: set[int] = set()
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if isinstance(body, list) and body and isinstance(body[0], ast.Expr):
            text = body[0].value
            if isinstance(text, ast.Constant) and isinstance(text.value, str):
                found.update(range(body[0].lineno, body[0].end_lineno + 1))
    return found
