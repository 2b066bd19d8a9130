"""What all tests share: four host devices, one compilation cache, jnp in doctests."""

import os
import pathlib

# Before jax is imported anywhere: device tests shard over four host devices.
os.environ["XLA_FLAGS"] = (
    os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=4"
)
os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax
import matplotlib
import pytest

matplotlib.use("Agg")

CACHE = pathlib.Path(__file__).parent.parent / ".cache" / "jax"
os.environ["JAX_COMPILATION_CACHE_DIR"] = str(CACHE)  # also for the processes that tests start
jax.config.update("jax_compilation_cache_dir", str(CACHE))
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)


@pytest.fixture(autouse=True)
def _fixed_precision():
    """A test that leaves float64 switched on would change every later one."""
    yield
    assert not jax.config.jax_enable_x64
