"""What all tests share: four host devices, one compilation cache, jnp in doctests."""

import gc
import importlib.metadata
import os
import pathlib

# Before jax is imported anywhere: device tests shard over four host devices, and the many tiny
# programs of the tests take longer to optimise than to run. The older emitters compile faster, but
# not without any optimisation, where they are wrong at times; later versions end at their flag.
os.environ["XLA_FLAGS"] = " ".join(
    (
        os.environ.get("XLA_FLAGS", ""),
        "--xla_force_host_platform_device_count=4",
        *(
            (
                "--xla_cpu_use_fusion_emitters=false",
                "--xla_backend_optimization_level=1",
                "--xla_cpu_parallel_codegen_split_count=1",
            )
            if importlib.metadata.version("jaxlib").startswith("0.10.")
            else ("--xla_backend_optimization_level=0", "--xla_llvm_disable_expensive_passes=true")
        ),
    )
)
os.environ.setdefault("JAX_PLATFORMS", "cpu")

import flax
import jax
import jax.numpy as jnp
import matplotlib
import pytest
from gymnax.environments import spaces
from gymnax.environments.environment import Environment

import jaxpg_envs
from jaxpg import estimators, networks
from jaxpg.algorithms import on_policy

matplotlib.use("Agg")

CACHE = pathlib.Path(__file__).parent.parent / ".cache" / "jax"
os.environ["JAX_COMPILATION_CACHE_DIR"] = str(CACHE)  # also for the processes that tests start
jax.config.update("jax_compilation_cache_dir", str(CACHE))
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)


MOST_MAPPINGS = 20_000
"""Of memory: a process is ended at 65,530, and every compiled program takes a handful."""


@pytest.fixture(autouse=True, scope="module")
def _few_programs():
    """Programs of earlier modules are dropped when they are many."""
    yield
    mappings = pathlib.Path("/proc/self/maps")
    if mappings.exists() and len(mappings.read_bytes().splitlines()) > MOST_MAPPINGS:
        jax.clear_caches()
        gc.collect()


@pytest.fixture(autouse=True)
def _fixed_precision():
    """A test that leaves float64 switched on would change every later one."""
    yield
    assert not jax.config.jax_enable_x64


@pytest.fixture(scope="session")
def compilations():
    """A list that grows by one entry with everything that is compiled."""
    found = []

    def listen(event, duration, **_):
        del duration
        if event == "/jax/core/compile/backend_compile_duration":
            found.append(event)

    jax.monitoring.register_event_duration_secs_listener(listen)
    return found


@flax.struct.dataclass
class CountingState:
    """State of the counting environment."""

    time: jax.Array
    draw: jax.Array


@flax.struct.dataclass
class CountingParams:
    """An episode terminates after `length` steps and is truncated after `max_steps_in_episode`."""

    length: int = 1000
    max_steps_in_episode: int = 3


class CountingEnv(Environment):
    """Reward 1 a step; the observation is (time, a number drawn at reset)."""

    @property
    def default_params(self):
        return CountingParams()

    def reset_env(self, key, params):
        state = CountingState(jnp.zeros((), jnp.int32), jax.random.uniform(key))
        return self._observe(state), state

    def step_env(self, key, state, action, params):
        state = state.replace(time=state.time + 1)
        terminated = state.time >= params.length
        return self._observe(state), state, jnp.ones(()), terminated, {}

    def _observe(self, state):
        return jnp.stack([state.time.astype(jnp.float32), state.draw])

    def action_space(self, params):
        return spaces.Discrete(2)

    def observation_space(self, params):
        return spaces.Box(0.0, 1e6, (2,), jnp.float32)


@flax.struct.dataclass
class PushedState:
    """State of the linear system."""

    time: jax.Array
    position: jax.Array


@flax.struct.dataclass
class PushedParams:
    """What pushes the system in each step."""

    pushes: jax.Array
    max_steps_in_episode: int = 5


class LinearSystem(Environment):
    """x' = x + u + push, reward -(x^2 + u^2 / 2); it is also the policy u = -gain x."""

    _supports_transition_gradients = True

    def reset_env(self, key, params):
        state = PushedState(jnp.zeros((), jnp.int32), jnp.ones_like(params.pushes[0]))
        return state.position, state

    def step_env(self, key, state, action, params):
        reward = -(state.position**2 + 0.5 * action**2)
        push = params.pushes[state.time]
        state = PushedState(state.time + 1, state.position + action + push)
        observation, state = self._apply_transition_gradient_policy(state.position, state)
        return observation, state, reward, jnp.zeros((), bool), {}

    def get_obs(self, state, params=None, key=None):
        return state.position

    @staticmethod
    def scenarios(pushes):
        pushes = jnp.asarray(pushes)
        return PushedParams(pushes, jnp.full(len(pushes), 5))

    @staticmethod
    def init(key):
        return jax.random.uniform(key)

    @staticmethod
    def decide(gain, observations):
        return -gain * observations

    apply = decide


@pytest.fixture(scope="session")
def linear_system():
    return LinearSystem()


@pytest.fixture
def counting_env():
    return CountingEnv()


@pytest.fixture(scope="session")
def tiny_agent():
    """A PPO agent on CartPole, small enough to compile in a second; shared to be compiled once."""
    env, env_params = jaxpg_envs.make("CartPole-v1", max_steps_in_episode=20)
    return on_policy(
        env,
        env_params,
        estimators.ppo(),
        networks=networks.actor_critic(
            env.observation_space(env_params), env.action_space(env_params), hidden=(8,)
        ),
        num_envs=8,
        num_steps=16,
        num_epochs=2,
        num_minibatches=2,
        learning_rate=1e-2,
        eval_envs=2,
    )
