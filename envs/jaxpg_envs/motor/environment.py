"""An electric drive as an environment: follow a reference, stay inside the limits."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from flax import struct
from gymnax.environments import environment, spaces

from jaxpg_envs.motor import checks, constraints, drive, solvers
from jaxpg_envs.motor.drive import PlantState, Values
from jaxpg_envs.motor.initial_states import InitialStates
from jaxpg_envs.motor.supplies import Ideal

Array = jax.Array

NO_TIME_LIMIT = 2**31 - 1

ROUNDING = 1e-6
"""Of references, in normalised units."""


@struct.dataclass(kw_only=True)
class DriveParams(environment.EnvParams):
    """Everything about a drive that may vary; a batch of them is one vmap.

    Each piece is a record whose class says what it is and whose fields are its numbers, in SI
    units. `params.replace(motor=params.motor.replace(r_s=0.02))` is a drive with another
    resistance; limits stay what they are.

    Attributes:
      supply: see `supplies`.
      converter: see `converters`.
      motor: see `motors`.
      load: see `loads`.
      reference: what is to be followed, see `references`.
      reward: see `rewards`.
      constraints: tuple of what ends an episode, see `constraints`.
      processors: tuple of what stands between drive and controller, see `processors`, the
        innermost first.
      initial: first speed, currents and angle, see `initial_states`.
      limits: largest value of each measured quantity, by name, in SI units: what observations
        are divided by.
      nominal: the same of nominal operation: how far references go.
      tau: seconds of a step.
      merge: `"max"` or `"product"`, how violations of several constraints join, static.
      max_steps_in_episode: steps after which an episode is truncated; by default none is.
    """

    supply: Any
    converter: Any
    motor: Any
    load: Any
    reference: Any
    reward: Any
    constraints: tuple = ()
    processors: tuple = ()
    initial: Any = struct.field(default_factory=InitialStates)
    limits: dict[str, Any] = struct.field(default_factory=dict)
    nominal: dict[str, Any] = struct.field(default_factory=dict)
    tau: Any = 1e-4
    merge: str = struct.field(pytree_node=False, default="max")
    max_steps_in_episode: Any = NO_TIME_LIMIT


@struct.dataclass
class DriveState(environment.EnvState):
    """State of an episode.

    Attributes:
      time: int32 scalar, steps taken.
      plant: the physics.
      processors: tuple, of each processor.
      reference: of the reference generator.
      shown: tuple of scalars, the references that the last observation showed.
      observation: the last one.
      ended: bool scalar, a constraint is violated.
    """

    plant: PlantState
    processors: tuple
    reference: Any
    shown: tuple
    observation: tuple[Array, Array]
    ended: Array


class ElectricDrive(environment.Environment[DriveState, DriveParams]):
    """A supply, a converter, a motor and a load, with a reference to follow.

    The observation is a tuple `(state [N], reference [R])` of floats: the measured quantities
    named by `state_names`, divided by their limits, and the references that the next step is
    rewarded for. The reward compares the new state with the references that were shown *before*
    the step. An episode ends where a constraint is violated; states are never clipped.

    Actions: a box for a continuous converter, a discrete space (or `spaces.MultiDiscrete`) for a
    finite one.

    Attributes:
      solve: how the differential equation is solved.
      state_filter: names of the quantities that are shown, or None for all.
    """

    reset_is_expensive = True
    """Beside a step of so little arithmetic: a rollout resets only the drives that ended."""

    _supports_transition_gradients = True

    def __init__(
        self,
        params: DriveParams,
        *,
        solver: drive.Solve | None = None,
        state_filter: tuple[str, ...] | None = None,
        name: str = "ElectricDrive",
    ):
        """Build the environment of a drive.

        Args:
          params: becomes `default_params`; others with the same kinds of pieces can be given to
            `reset` and `step`, and `checks.check_drive` looks at them.
          solver: see `solvers`; None takes one step of Runge and Kutta's method for each interval.
          state_filter: names of the quantities that are shown; None shows all.
          name: of the environment.

        Raises:
          ValueError: what `checks.check_drive` refuses, or a filter that names what is not there.
        """
        checks.check_drive(params, state_filter)
        self.solve = solvers.rk4() if solver is None else solver
        self.state_filter = None if state_filter is None else tuple(state_filter)
        self._default_params = params
        self._name = name

    @property
    def name(self) -> str:
        """The id, for those that have one."""
        return self._name

    @property
    def default_params(self) -> DriveParams:
        """The parameters given to the constructor."""
        return self._default_params

    @property
    def state_names(self) -> tuple[str, ...]:
        """Names of what is shown, in order."""
        return self.state_filter or measured_names(self._default_params)

    @property
    def reference_names(self) -> tuple[str, ...]:
        """Names of what is to be followed, in the order in which it is shown."""
        return self._default_params.reference.names

    @property
    def num_actions(self) -> int:
        """Number of actions, or of their dimensions where they are continuous."""
        space = self.action_space(self._default_params)
        if hasattr(space, "n"):
            return int(space.n)
        return int(space.shape[0])

    def limits(self, params: DriveParams | None = None) -> Values:
        """The largest value of each measured quantity in SI units, by name."""
        params = self._default_params if params is None else params
        return _through_all(params, params.limits)

    def nominal(self, params: DriveParams | None = None) -> Values:
        """The value of each measured quantity in nominal operation in SI units, by name."""
        params = self._default_params if params is None else params
        return _through_all(params, params.nominal)

    def reset_env(self, key: Array, params: DriveParams) -> tuple[tuple[Array, Array], DriveState]:
        """First state, and the first reference."""
        key_initial, key_supply, key_reference, *own = jax.random.split(
            key, 3 + len(params.processors)
        )
        load, motor = params.initial.draw(key_initial, params)
        supply = params.supply.initial(key_supply)
        plant, measured = drive.at_rest(params, load, motor, supply)
        values = _normalised(params, measured)
        limits, space, states = params.limits, params.converter.action_space(), []
        for key_own, processor in zip(own, params.processors, strict=True):
            state, values = processor.initial(key_own, params, space, limits, values)
            space = processor.action_space(space, params.motor)
            limits = processor.limits(params, limits)
            states.append(state)
        reference, shown = params.reference.initial(key_reference, margins(params), params.tau)
        observation = self._observation(values, shown)
        state = DriveState(
            time=jnp.zeros((), jnp.int32),
            plant=plant,
            processors=tuple(states),
            reference=reference,
            shown=shown,
            observation=observation,
            ended=jnp.zeros((), bool),
        )
        return observation, state

    def step_env(
        self, key: Array, state: DriveState, action: Array, params: DriveParams
    ) -> tuple[tuple[Array, Array], DriveState, Array, Array, dict[str, Any]]:
        """One control step; `info` is empty."""
        needed = tuple(self.action_space(params).shape)
        if jnp.shape(action) != needed:
            raise ValueError(
                f"action has shape {jnp.shape(action)}, but {self.name} needs {needed}"
            )
        processors = params.processors
        memory = list(state.processors)
        own = [None] * len(processors)
        if any(processor.random for processor in processors):
            # Where the reference alone draws, the key is its own: a split costs more than it draws.
            key, *own = jax.random.split(key, 1 + len(processors))
        for index in reversed(range(len(processors))):
            delay = sum(inner.dead_time for inner in processors[:index])
            memory[index], action = processors[index].act(params, memory[index], action, delay)
        time = state.time * params.tau
        plant, measured = drive.advance(params, self.solve, state.plant, action, time, params.tau)
        values, limits = _normalised(params, measured), params.limits
        for index, processor in enumerate(processors):
            memory[index], values = processor.measure(
                own[index], params, limits, memory[index], values
            )
            limits = processor.limits(params, limits)
        violation = constraints.violation(params.constraints, values, params.merge)
        low, high = bounds(params)
        followed = dict(zip(params.reference.names, state.shown, strict=True))
        lengths = {name: high[name] - low[name] for name in values}
        reward = params.reward(values, followed, lengths, violation)
        reference, shown = params.reference.next(key, state.reference, margins(params), params.tau)
        observation, ended = self._observation(values, shown), violation >= 1.0
        state = DriveState(
            time=state.time + 1,
            plant=plant,
            processors=tuple(memory),
            reference=reference,
            shown=shown,
            observation=observation,
            ended=ended,
        )
        observation, state = self._apply_transition_gradient_policy(observation, state)
        return observation, state, reward, ended, {}

    def get_obs(
        self, state: DriveState, params: DriveParams | None = None, key: Array | None = None
    ) -> tuple[Array, Array]:
        """What is shown, see the class."""
        del params, key
        return state.observation

    def is_terminated(self, state: DriveState, params: DriveParams) -> Array:
        """Whether a constraint is violated."""
        return state.ended

    def _observation(self, values: Values, shown: tuple) -> tuple[Array, Array]:
        return _stack([values[name] for name in self.state_names]), _stack(shown)

    def action_space(self, params: DriveParams | None = None) -> Any:
        """That of the converter, or of the outermost processor that changes it."""
        params = self._default_params if params is None else params
        space = params.converter.action_space()
        for processor in params.processors:
            space = processor.action_space(space, params.motor)
        return space

    def observation_space(self, params: DriveParams | None = None) -> spaces.Tuple:
        """Boxes of the state and of the references; states have no bounds, see `bounds`."""
        params = self._default_params if params is None else params
        ranges = params.reference.ranges(margins(params))
        low, high = (_stack([pair[end] for pair in ranges]) for end in (0, 1))
        # Outwards, as what is compiled may round the same product otherwise.
        low, high = low - ROUNDING, high + ROUNDING
        return spaces.Tuple(
            [
                spaces.Box(-jnp.inf, jnp.inf, (len(self.state_names),)),
                spaces.Box(low, high, (len(ranges),)),
            ]
        )


def measured_names(params: DriveParams) -> tuple[str, ...]:
    """Names of all measured quantities, in order.

    Args:
      params: of a drive.

    Returns:
      Those of the plant, and what processors add.
    """
    names = drive.names(params)
    for processor in params.processors:
        names = processor.names(names)
    return names


def bounds(params: DriveParams) -> tuple[Values, Values]:
    """The range of each normalised quantity, as gym-electric-motor declares it.

    Nothing keeps a quantity inside of it (a voltage often is not); it scales errors in the reward
    and says where references may lie.

    Args:
      params: of a drive.

    Returns:
      `(low, high)`, each by name: -1 or 0, and 1.
    """
    names = drive.names(params)
    lowest = params.motor.lowest(params.converter)
    low = {name: lowest.get(name, -1.0) for name in names} | {"u_sup": 0.0}
    high = {name: 1.0 for name in names}
    if lowest and not isinstance(params.supply, Ideal):
        # Only the direct current drives of gym-electric-motor ask their supply.
        ends = params.supply.voltage_range()
        low["u_sup"], high["u_sup"] = (end / params.supply.u_nominal for end in ends)
    for processor in params.processors:
        low, high = processor.bounds(params, low, high)
    return low, high


def margins(params: DriveParams) -> tuple[tuple[Array, Array], ...]:
    """Where each reference may lie, normalised.

    Args:
      params: of a drive.

    Returns:
      `(low, high)` for each referenced quantity: the share of nominal operation in its range.
    """
    low, high = bounds(params)
    limits = _through_all(params, params.limits)
    nominal = _through_all(params, params.nominal)
    found = []
    for name in params.reference.names:
        share = nominal[name] / limits[name]
        found.append((share * low[name], share * high[name]))
    return tuple(found)


def _through_all(params: DriveParams, values: Values) -> Values:
    for processor in params.processors:
        values = processor.limits(params, values)
    return values


def _normalised(params: DriveParams, measured: Values) -> Values:
    return {name: value / params.limits[name] for name, value in measured.items()}


def _stack(values: Any) -> Array:
    if not values:
        return jnp.zeros((0,))
    return jnp.stack([jnp.asarray(value, float) for value in values])
