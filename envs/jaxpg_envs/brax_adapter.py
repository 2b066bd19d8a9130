"""brax environments behind gymnax's interface."""

import contextlib
import functools
import inspect
import io
import types
import warnings
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct
from gymnax.environments import environment, spaces

from jaxpg_envs.choices import refusal

# Physics backends and kinds of reset that the arguments of these names accept.
BACKENDS = ("generalized", "mjx", "positional", "spring")
RESETS = ("cached", "fresh")

# Spelled out, because asking brax for its list would import it.
CLASSES = {
    "ant": "ant.Ant",
    "fast": "fast.Fast",
    "halfcheetah": "half_cheetah.Halfcheetah",
    "hopper": "hopper.Hopper",
    "humanoid": "humanoid.Humanoid",
    "humanoidstandup": "humanoidstandup.HumanoidStandup",
    "inverted_double_pendulum": "inverted_double_pendulum.InvertedDoublePendulum",
    "inverted_pendulum": "inverted_pendulum.InvertedPendulum",
    "pusher": "pusher.Pusher",
    "reacher": "reacher.Reacher",
    "swimmer": "swimmer.Swimmer",
    "walker2d": "walker2d.Walker2d",
}
"""Names of brax's registered environments and the classes that they stand for."""


@struct.dataclass
class EnvState(environment.EnvState):
    """State of an episode.

    Attributes:
      time: int32 scalar, physics steps of brax taken so far (action repeats counted one by one).
      brax_state: brax's own `State`.
    """

    brax_state: Any


@struct.dataclass
class EnvParams(environment.EnvParams):
    """Parameters of a brax environment.

    Attributes:
      max_steps_in_episode: episode length at which it is truncated, in steps of brax.
    """

    max_steps_in_episode: int = 1000


class BraxEnvironment(environment.Environment[EnvState, EnvParams]):
    """A brax environment in gymnax's interface.

    `terminated` is brax's own `done` and `truncated` is the step limit, so an estimator can
    bootstrap from the one and not from the other. Actions are `[action_size]` floats, clipped to
    the declared [-1, 1]. `info["metrics"]` holds brax's metrics and `info["discount"]` is 0 after
    termination, 1 otherwise.

    Attributes:
      reset_is_expensive: whether `reset` runs brax's physics set-up, which costs about as much as
        a step, so that a rollout avoids one in every step; False with cached starts.
      num_starts: number of distinct starts of cached resets, None for fresh ones.
    """

    reset_is_expensive = True

    def __init__(
        self,
        brax_env: Any,
        *,
        action_repeat: int = 1,
        reset: str = "fresh",
        num_starts: int = 128,
        name: str | None = None,
    ):
        """Wrap an environment of brax.

        Args:
          brax_env: a `brax.envs.Env` without brax's episode or auto-reset wrappers, whose work is
            done here.
          action_repeat: times an action is repeated in one step. Reward and metrics are summed
            over the repeats, up to and including the one that terminates; the step counter
            advances by `action_repeat`.
          reset: "fresh" runs brax's reset with the given key each time. "cached" draws
            `num_starts` starts once, from a fixed seed, and every reset picks one of them
            uniformly: cheaper, but an agent sees these starts only.
          num_starts: at least 1, number of cached starts; they are constants of the compiled
            program. Ignored by fresh resets.
          name: shown as `env.name`; the class of `brax_env` by default.

        Raises:
          TypeError: `brax_env` is not a brax environment.
          ValueError: `brax_env` already counts episodes, or an argument is out of range.
        """
        _refuse_wrapped(brax_env)
        if action_repeat < 1:
            raise ValueError(f"action_repeat={action_repeat} must be at least 1")
        if reset not in RESETS:
            raise ValueError(refusal("reset", reset, RESETS))
        if num_starts < 1:
            raise ValueError(f"num_starts={num_starts} must be at least 1")
        self.brax_env = brax_env
        self.action_repeat = action_repeat
        self.reset_is_expensive = reset == "fresh"
        self.num_starts = num_starts if reset == "cached" else None
        self._name = name or type(brax_env).__name__
        self._supports_transition_gradients = getattr(brax_env, "backend", None) != "mjx"
        self._starts = _draw_starts(brax_env, num_starts) if reset == "cached" else None

    @property
    def default_params(self) -> EnvParams:
        """Parameters with brax's usual limit of 1000 steps."""
        return EnvParams()

    @property
    def name(self) -> str:
        """Name of the environment."""
        return self._name

    @property
    def num_actions(self) -> int:
        """Number of components of an action."""
        return self.brax_env.action_size

    def reset_env(self, key: jax.Array, params: EnvParams) -> tuple[Any, EnvState]:
        """Start an episode; see `reset` of the constructor."""
        if self._starts is None:
            brax_state = _reset(self.brax_env, key)
        else:
            index = jax.random.randint(key, (), 0, self.num_starts)
            brax_state = jax.tree.map(lambda start: start[index], self._starts)
        return brax_state.obs, EnvState(time=jnp.zeros((), jnp.int32), brax_state=brax_state)

    def step_env(
        self, key: jax.Array, state: EnvState, action: jax.Array, params: EnvParams
    ) -> tuple[Any, EnvState, jax.Array, jax.Array, dict[str, Any]]:
        """Repeat an action; brax's dynamics are deterministic, so `key` is not used."""
        action = jnp.clip(action, -1.0, 1.0)
        if self.action_repeat == 1:
            brax_state = self._substep(state.brax_state, action)
            reward, metrics = brax_state.reward, brax_state.metrics
        else:
            brax_state, reward, metrics = self._repeat(state.brax_state, action)
        terminated = brax_state.done.astype(bool)
        state = EnvState(time=state.time + self.action_repeat, brax_state=brax_state)
        observation, state = self._apply_transition_gradient_policy(brax_state.obs, state)
        info = {"discount": 1.0 - terminated.astype(jnp.float32), "metrics": metrics}
        return observation, state, reward, terminated, info

    def _substep(self, brax_state: Any, action: jax.Array) -> Any:
        # brax writes into the dictionaries of the state it is given: hand it copies.
        copy = jax.tree.map(lambda leaf: leaf, brax_state)
        with without_notices():
            return _typed_like(brax_state, self.brax_env.step(copy, action))

    def _repeat(self, brax_state: Any, action: jax.Array) -> tuple[Any, jax.Array, Any]:
        def body(carry, _):
            before, total, running = carry
            after = self._substep(before, action)
            emitted = (after.reward, after.metrics)
            total = jax.tree.map(lambda t, e: jnp.where(running, t + e, t), total, emitted)
            after = jax.tree.map(lambda b, a: jnp.where(running, a, b), before, after)
            return (after, total, running & ~after.done.astype(bool)), None

        zeros = jax.tree.map(jnp.zeros_like, (brax_state.reward, brax_state.metrics))
        start = (brax_state, zeros, jnp.array(True))
        (after, (reward, metrics), _), _ = jax.lax.scan(body, start, length=self.action_repeat)
        return after, reward, metrics

    def is_terminated(self, state: EnvState, params: EnvParams) -> jax.Array:
        """Whether brax ended the episode."""
        return state.brax_state.done.astype(bool)

    def action_space(self, params: EnvParams | None = None) -> spaces.Box:
        """Box [-1, 1] of shape `[action_size]`."""
        return spaces.Box(-1.0, 1.0, (self.brax_env.action_size,), jnp.float32)

    def observation_space(self, params: EnvParams | None = None) -> spaces.Space:
        """Unbounded box, or a dictionary of them, in the shape of brax's observation."""
        return _unbounded(self._observation_shape)

    @functools.cached_property
    def _observation_shape(self) -> Any:
        reset = functools.partial(_reset, self.brax_env)
        return jax.eval_shape(reset, jax.random.key(0)).obs


def constructor(name: str) -> Callable[..., BraxEnvironment]:
    """Builder of one of brax's registered environments.

    Args:
      name: a key of `CLASSES`, such as "ant".

    Returns:
      Function of keyword arguments: `backend`, the arguments of `BraxEnvironment`, and those of
      brax's own class. Its signature lists them all.

    Raises:
      ImportError: brax is not installed.
    """
    brax_class = _class_of(name)
    own = _own_options(brax_class)

    def build(*, backend: str = "generalized", **kwargs) -> BraxEnvironment:
        if backend not in BACKENDS:
            raise ValueError(refusal("backend", backend, BACKENDS))
        brax_kwargs = {option: kwargs.pop(option) for option in own & kwargs.keys()}
        try:
            with without_notices():
                brax_env = brax_class(backend=backend, **brax_kwargs)
        except ValueError as error:
            raise ValueError(
                f"brax refuses 'brax/{name}' with backend={backend!r}: {error}"
            ) from error
        return BraxEnvironment(brax_env, name=f"brax/{name}", **kwargs)

    options = sorted({"backend", "action_repeat", "reset", "num_starts"} | own)
    keywords = [inspect.Parameter(option, inspect.Parameter.KEYWORD_ONLY) for option in options]
    build.__signature__ = inspect.Signature(keywords)
    return build


def _import_brax() -> Any:
    printed = io.StringIO()
    try:
        with contextlib.redirect_stdout(printed), without_notices():
            import brax.envs.wrappers.training
            import brax.fluid
    except ImportError as error:
        raise ImportError('brax is not installed; run: pip install "jaxpg[brax]"') from error
    # MuJoCo announces that its optional renderer is missing; whatever else is printed passes.
    for line in printed.getvalue().splitlines():
        if not line.startswith(("Failed to import warp", "Failed to import mujoco_warp")):
            print(line)
    _repair_clip(brax.fluid)
    return brax


def _repair_clip(fluid: Any) -> None:
    # brax 0.14 calls `clip(x, a_min=...)` here, a name that JAX has removed; the swimmer needs it.
    if fluid.jp is jnp and "a_min" not in inspect.signature(jnp.clip).parameters:
        names = dict(vars(jnp), clip=lambda x, a_min=None, a_max=None: jnp.clip(x, a_min, a_max))
        fluid.jp = types.SimpleNamespace(**names)


def _class_of(name: str) -> type:
    module_name, class_name = CLASSES[name].split(".")
    return getattr(getattr(_import_brax().envs, module_name), class_name)


def _own_options(brax_class: type) -> set[str]:
    names: set[str] = set()
    for ancestor in brax_class.__mro__:
        if "__init__" in vars(ancestor) and ancestor is not object:
            names |= set(inspect.signature(ancestor).parameters)
    return names - {"self", "args", "kwargs", "sys", "backend"}


# What brax and its dependencies say about themselves, whatever a user does.
_NOTICES = (
    ("Brax System", UserWarning),
    ("JAXopt is no longer maintained", DeprecationWarning),
    ("Accessing `.*` directly from `.*` is deprecated", DeprecationWarning),
)


@contextlib.contextmanager
def without_notices() -> Iterator[None]:
    """A context without the deprecation warnings that brax itself gives."""
    with warnings.catch_warnings():
        for message, category in _NOTICES:
            warnings.filterwarnings("ignore", message, category)
        yield


def _refuse_wrapped(brax_env: Any) -> None:
    envs = _import_brax().envs
    if not isinstance(brax_env, envs.base.Env):
        given = type(brax_env).__name__
        raise TypeError(f"brax_env={given} is not a brax.envs.Env; it needs no adapter or another")
    training = envs.wrappers.training
    batching = (training.VmapWrapper, training.DomainRandomizationVmapWrapper)
    layer = brax_env
    while isinstance(layer, envs.base.Wrapper):
        if isinstance(layer, (training.EpisodeWrapper, training.AutoResetWrapper, *batching)):
            given = type(layer).__name__
            raise ValueError(
                f"brax_env carries brax's {given}, whose work is done here a second time; "
                "pass the environment without it"
            )
        layer = layer.env


def _draw_starts(brax_env: Any, num_starts: int) -> Any:
    with jax.ensure_compile_time_eval():
        keys = jax.random.split(jax.random.key(0), num_starts)
        return jax.jit(jax.vmap(functools.partial(_reset, brax_env)))(keys)


def _reset(brax_env: Any, key: jax.Array) -> Any:
    """A first state with no weak types, which a step would not keep."""
    with without_notices():
        arrays = jax.tree.map(jnp.asarray, brax_env.reset(key))
    return _typed_like(arrays, arrays)


def _typed_like(reference: Any, brax_state: Any) -> Any:
    if jax.tree.structure(reference) != jax.tree.structure(brax_state):
        raise TypeError(
            "brax_env returns other info, metrics or observation names from step than from reset; "
            "it must return the same"
        )

    def convert(old, new):
        if jnp.issubdtype(old.dtype, jax.dtypes.prng_key):
            return new
        return jax.lax.convert_element_type(new, old.dtype)

    return jax.tree.map(convert, reference, brax_state)


def _unbounded(shape: Any) -> spaces.Space:
    if isinstance(shape, Mapping):
        return spaces.Dict({name: _unbounded(child) for name, child in shape.items()})
    return spaces.Box(-jnp.inf, jnp.inf, shape.shape, shape.dtype)
