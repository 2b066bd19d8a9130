"""What a step is worth: the negative weighted sum of the errors against the references."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from jaxpg_envs.choices import refusal

Array = jax.Array
Values = dict[str, Any]


@struct.dataclass
class WeightedSumOfErrors:
    """(1 - v) (bias - sum of w (|s - s*| / l)^n over the states) + v r of the violation degree v.

    Attributes:
      weights: w of each state by name, 0 where it has none; None: equal with sum 1 over the
        referenced states, or over all states where none is referenced.
      powers: n, a number for all states or a dict that has every weighted state; None: 1.
      bias: added at every step.
      gamma: the learner's discount, in [0, 1); read only where `violation_reward` is None.
      violation_reward: r, paid where a constraint is violated; None: the least sum there can be,
        received for ever, or 0 where that is above 0: min((bias - sum of w) / (1 - gamma), 0).
      normed: static, the weights are divided by their sum.
      positive: static, the sum of the weights is added to the bias, so that no step without a
        violation is below it.

    Source: gym-electric-motor 3.0.3, of which `positive` is the bias "positive".

    >>> reward = WeightedSumOfErrors(weights={"i": 1.0})
    >>> reward({"i": 0.5, "u": 0.2}, {"i": 0.3}, {"i": 2.0, "u": 1.0}, 0.0)
    Array(-0.1, dtype=float32, weak_type=True)
    >>> float(reward({"i": 1.5}, {"i": 0.3}, {"i": 2.0}, 1.0))
    -10.0
    """

    weights: Any = None
    powers: Any = None
    bias: Any = 0.0
    gamma: Any = 0.9
    violation_reward: Any = None
    normed: bool = struct.field(pytree_node=False, default=False)
    positive: bool = struct.field(pytree_node=False, default=False)

    @classmethod
    def equal(cls, names: Iterable[str], **fields: Any) -> WeightedSumOfErrors:
        """Equal weights with sum 1 over the named states.

        Args:
          names: at least one.
          **fields: the other fields.

        Returns:
          The reward.

        >>> WeightedSumOfErrors.equal(["i_sd", "i_sq"]).weights
        {'i_sd': 0.5, 'i_sq': 0.5}
        """
        names = tuple(names)
        return cls(weights={name: 1.0 / len(names) for name in names}, **fields)

    def __call__(
        self, states: Values, references: Values, lengths: Values, violation: Any
    ) -> Array:
        """Reward of a step.

        Args:
          states: normalised scalars after the step, by name.
          references: normalised scalars that were shown before the step, by name; 0 where a
            weighted state has none.
          lengths: scalars, the distance of each state's normalised bounds, by name.
          violation: scalar in [0, 1].

        Returns:
          Scalar float; that of a violation where it is 1, whatever became of the states.
        """
        weights = self._weights(states, references)
        bias, violation_reward = self._payments(weights)
        errors = 0.0
        for name, weight in weights.items():
            error = abs(states[name] - references.get(name, 0.0)) / lengths[name]
            power = self.powers.get(name, 0.0) if isinstance(self.powers, dict) else self.powers
            errors = errors + weight * (error if power is None else error**power)
        mixed = (1.0 - violation) * (bias - errors) + violation * violation_reward
        # States without a value, as of a drive that diverged, make no reward without one.
        return jnp.where(violation >= 1.0, violation_reward, mixed)

    def range(self, names: Iterable[str], referenced: Iterable[str]) -> tuple[Any, Any]:
        """Least and largest reward of a step without a violation, inside of the bounds.

        Args:
          names: of all states.
          referenced: of the referenced states.

        Returns:
          `(low, high)`.
        """
        weights = self._weights(dict.fromkeys(names), dict.fromkeys(referenced))
        bias, _ = self._payments(weights)
        return bias - sum(weights.values()), bias

    def _weights(self, states: Values, references: Values) -> Values:
        if self.weights is None:
            names = tuple(references or states)
            return {name: 1.0 / len(names) for name in names}
        if not self.normed:
            return self.weights
        total = sum(self.weights.values())
        return {name: weight / total for name, weight in self.weights.items()}

    def _payments(self, weights: Values) -> tuple[Any, Any]:
        total = sum(weights.values())
        bias = self.bias + total if self.positive else self.bias
        if self.violation_reward is not None:
            return bias, self.violation_reward
        return bias, jnp.minimum((bias - total) / (1.0 - self.gamma), 0.0)


def check_reward(reward: WeightedSumOfErrors, states: Iterable[str]) -> None:
    """Check a reward, of one drive or of a batch, on the host.

    Args:
      reward: of weighted errors.
      states: names of the states that the drive has.

    Raises:
      ValueError: a weight or a power of an unknown state, a weight that is negative, weights that
        are all 0, a power that is missing or negative, a bias or violation reward that is no
        number, or gamma outside [0, 1).

    >>> check_reward(WeightedSumOfErrors(gamma=1.0), ["i"])
    Traceback (most recent call last):
    ValueError: gamma is 1.0, but it has to be in [0, 1)
    """
    states = list(states)
    weights = {} if reward.weights is None else reward.weights
    if not isinstance(weights, dict):
        raise ValueError(f"weights is {weights!r}, but a dict of numbers by state is needed")
    powers = {} if reward.powers is None else reward.powers
    for argument, given in (("weights", weights), ("powers", powers)):
        for name in given if isinstance(given, dict) else ():
            if name not in states:
                raise ValueError(refusal(argument, name, states))
    for name, weight in weights.items():
        _refuse(f"weights[{name!r}]", weight, lambda x: x >= 0, "at least 0")
    if weights and not np.all(sum(np.asarray(weight, float) for weight in weights.values()) > 0):
        raise ValueError(f"weights is {weights!r}, but one of them has to be above 0")
    if isinstance(powers, dict):
        for name in weights:
            if powers and name not in powers:
                raise ValueError(f"powers has no entry {name!r}, which has a weight")
        for name, power in powers.items():
            _refuse(f"powers[{name!r}]", power, lambda x: x >= 0, "at least 0")
    else:
        _refuse("powers", powers, lambda x: x >= 0, "at least 0")
    _refuse("gamma", reward.gamma, lambda x: (x >= 0) & (x < 1), "in [0, 1)")
    _refuse("bias", reward.bias, np.isfinite, "a number")
    if reward.violation_reward is not None:
        _refuse("violation_reward", reward.violation_reward, np.isfinite, "a number")


def _refuse(argument: str, value: Any, valid: Any, wanted: str) -> None:
    array = np.asarray(value)
    if array.dtype.kind not in "iuf" or not np.all(valid(array) & np.isfinite(array)):
        raise ValueError(f"{argument} is {value!r}, but it has to be {wanted}")
