"""What a differentiable drive is good for: its parameters from a recording, and tuned gains."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

import jaxpg_envs
from jaxpg_envs import motor

Array = jax.Array

IDENTIFIED = ("r_s", "l_d", "l_q")
DRIVE = "Cont-CC-PMSM-v0"
NOISE = 2e-3
"""Of the measured currents, in shares of their limit."""
HOLD = 10
"""Steps for which each voltage of the recording is held."""


def recorded(seed: int, num_steps: int) -> tuple[dict[str, float], Array, Array]:
    """A motor that nobody knows, and what was measured of it.

    Args:
      seed: of the motor, of the voltages and of the noise.
      num_steps: of the recording.

    Returns:
      `(parameters, actions [T, 2], currents [T, 2])`: the parameters lie up to 30 % around those of
      the data sheet; duty cycles in field coordinates, and measured normalised currents.
    """
    keys = jax.random.split(jax.random.key(seed), 3)
    factors = jax.random.uniform(keys[0], (len(IDENTIFIED),), minval=0.7, maxval=1.3)
    sheet = motor.motors.PMSM()
    true = {name: getattr(sheet, name) * f for name, f in zip(IDENTIFIED, factors, strict=True)}
    blocks = jax.random.uniform(keys[1], (-(-num_steps // HOLD), 2), minval=-0.3, maxval=0.3)
    actions = jnp.repeat(blocks, HOLD, axis=0)[:num_steps]
    currents = simulated(true, actions)
    noise = NOISE * jax.random.normal(keys[2], currents.shape)
    return {name: float(value) for name, value in true.items()}, actions, currents + noise


@functools.cache
def _drive() -> tuple[motor.ElectricDrive, motor.DriveParams]:
    env, params = jaxpg_envs.make(
        DRIVE,
        processors=(motor.DqActions(),),
        constraints=(),
        state_filter=("i_sd", "i_sq"),
        load=motor.loads.ConstantSpeed(100.0),
    )
    return env.with_transition_gradients(), params


def simulated(values: dict[str, Any], actions: Array) -> Array:
    """Currents of a motor under given voltages.

    Args:
      values: parameters that differ from the data sheet's.
      actions: `[T, 2]`.

    Returns:
      `[T, 2]`, normalised.
    """
    env, params = _drive()
    params = params.replace(motor=params.motor.replace(**values))
    key = jax.random.key(0)

    def step(state, action):
        observation, state, *_ = env.step_env(key, state, action, params)
        return state, observation[0]

    return jax.lax.scan(step, env.reset_env(key, params)[1], actions)[1]


@functools.partial(jax.jit, static_argnames="num_steps")
def identify(actions: Array, currents: Array, num_steps: int) -> dict[str, Array]:
    """Parameters that explain a recording, found by gradients through the simulator.

    Adam on the logarithms of the parameters, from those of the data sheet; the loss is the mean
    squared difference of the currents over the whole recording.

    Args:
      actions: `[T, 2]`.
      currents: `[T, 2]`, measured.
      num_steps: gradient steps, static.

    Returns:
      The parameters by name.
    """
    sheet = motor.motors.PMSM()
    first = {name: jnp.log(jnp.asarray(getattr(sheet, name))) for name in IDENTIFIED}
    optimiser = optax.adam(optax.cosine_decay_schedule(0.05, num_steps))

    def loss(logarithms):
        found = simulated({name: jnp.exp(x) for name, x in logarithms.items()}, actions)
        return jnp.mean((found - currents) ** 2)

    def step(carry, _):
        logarithms, state = carry
        updates, state = optimiser.update(jax.grad(loss)(logarithms), state)
        return (optax.apply_updates(logarithms, updates), state), None

    (logarithms, _), _ = jax.lax.scan(
        step, (first, optimiser.init(first)), length=num_steps, xs=None
    )
    return {name: jnp.exp(x) for name, x in logarithms.items()}


def by_least_squares(actions: Array, currents: Array, window: int = 50) -> dict[str, float]:
    """The same without a simulator: the voltage equations, integrated over windows.

    At the known speed and flux they are linear in the resistance and the inductances.

    Args:
      actions: `[T, 2]`.
      currents: `[T, 2]`, measured.
      window: steps, over which noise of the currents averages out.

    Returns:
      The parameters by name.
    """
    _, params = _drive()
    machine, tau = params.motor, float(params.tau)
    speed = machine.p * params.load.omega_fixed
    i = float(params.limits["i_sd"]) * np.asarray(currents, float)
    change, middle = np.diff(i, axis=0) / tau, (i[1:] + i[:-1]) / 2
    volts = 0.5 * params.supply.u_nominal * np.asarray(actions, float)[1:]
    # u_d = r i_d + l_d i_d' - w l_q i_q, and u_q = r i_q + w l_d i_d + l_q i_q' + w psi.
    along = np.stack([middle[:, 0], change[:, 0], -speed * middle[:, 1]], axis=1)
    across = np.stack([middle[:, 1], speed * middle[:, 0], change[:, 1]], axis=1)
    size = len(volts) // window * window

    def integrated(values):
        return values[:size].reshape(-1, window, *values.shape[1:]).sum(axis=1)

    solution, *_ = np.linalg.lstsq(
        np.concatenate([integrated(along), integrated(across)]),
        np.concatenate([integrated(volts[:, 0]), integrated(volts[:, 1] - speed * machine.psi_p)]),
        rcond=None,
    )
    return dict(zip(IDENTIFIED, solution.tolist(), strict=True))


def largest_error(found: dict[str, Any], true: dict[str, float]) -> float:
    """The largest relative error of a parameter."""
    return max(abs(float(found[name]) / value - 1.0) for name, value in true.items())


def tuned_gains(
    env: motor.ElectricDrive,
    params: motor.DriveParams,
    controller: Any,
    key: Array,
    *,
    num_steps: int,
    num_drives: int = 32,
    horizon: int = 300,
) -> Any:
    """A PI controller whose gains were trained through the drive.

    Adam on the logarithms of `kp` and `ki` of every loop; the loss is minus the mean reward of the
    closed loop on references that are drawn anew for every gradient step.

    Args:
      env: of the drive.
      params: of the drive.
      controller: a `CurrentPI`, whose gains are the first ones.
      key: of the references.
      num_steps: gradient steps, static.
      num_drives: in each of them.
      horizon: steps of each drive.

    Returns:
      The controller with its new gains.
    """
    env = env.with_transition_gradients()
    pi = motor.controllers.PI

    def built(logarithms):
        loops = tuple(
            pi.conditioned(jnp.exp(kp), jnp.exp(ki), controller.tau) for kp, ki in logarithms
        )
        return controller.replace(loops=loops)

    def loss(logarithms, key):
        def one(key):
            return motor.controllers.closed_loop(
                env, params, built(logarithms), key, horizon, reset=False
            ).rewards

        return -jnp.mean(jax.vmap(one)(jax.random.split(key, num_drives)))

    optimiser = optax.adam(optax.cosine_decay_schedule(0.1, num_steps))

    @jax.jit
    def trained(first, keys):
        def step(carry, key):
            logarithms, state = carry
            updates, state = optimiser.update(jax.grad(loss)(logarithms, key), state)
            return (optax.apply_updates(logarithms, updates), state), None

        return jax.lax.scan(step, (first, optimiser.init(first)), keys)[0][0]

    first = tuple(
        (jnp.log(jnp.asarray(loop.kp, float)), jnp.log(jnp.asarray(loop.ki, float)))
        for loop in controller.loops
    )
    return built(trained(first, jax.random.split(key, num_steps)))
