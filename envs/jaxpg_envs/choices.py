"""The sentence that names a wrong choice and the nearest right one."""

import difflib
from collections.abc import Iterable


def nearest(given: str, choices: Iterable[str]) -> str | None:
    """The choice closest in spelling to what was given, letter case ignored.

    Args:
      given: what the caller wrote.
      choices: the valid names.

    Returns:
      The nearest valid name, or None when nothing resembles what was given.

    >>> nearest("cartpole", ["Acrobot-v1", "CartPole-v1"])
    'CartPole-v1'
    """
    by_lower_case = {choice.lower(): choice for choice in choices}
    found = difflib.get_close_matches(given.lower(), by_lower_case, n=1, cutoff=0.4)
    return by_lower_case[found[0]] if found else None


def refusal(argument: str, given: object, choices: Iterable[str], listing: str = "") -> str:
    """One sentence that refuses a value, lists the valid ones and suggests the nearest.

    Args:
      argument: name of the argument.
      given: the refused value.
      choices: the valid values.
      listing: said in place of the list, where the list is too long to print.

    Returns:
      The sentence, for an exception's message.

    >>> refusal("backend", "sprng", ["mjx", "spring"])
    "backend='sprng' is not one of 'mjx', 'spring'; did you mean 'spring'?"
    """
    choices = sorted(choices)
    accepted = listing or (", ".join(map(repr, choices)) if choices else "(nothing is accepted)")
    suggestion = nearest(str(given), choices)
    question = f"; did you mean {suggestion!r}?" if suggestion else ""
    return f"{argument}={given!r} is not one of {accepted}{question}"
