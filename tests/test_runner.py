"""The runner: reproducible bits, no recompilation, resume, signals, refusals."""

import gc
import json
import os
import pathlib
import random
import signal
import subprocess
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxpg_envs
from jaxpg import estimators, runner, types
from jaxpg.algorithms import on_policy
from jaxpg.checkpoint import CheckpointError

KEY = jax.random.key(0)


def leaves(tree):
    return [
        np.asarray(jax.random.key_data(x) if jnp.issubdtype(x.dtype, jax.dtypes.prng_key) else x)
        for x in jax.tree.leaves(tree)
    ]


def assert_same(a, b):
    for x, y in zip(leaves(a), leaves(b), strict=True):
        np.testing.assert_array_equal(x, y)


def counter(bad_update=None, name="loss"):
    """Counts updates in float32; a metric turns NaN at one of them."""

    def update(state):
        count = state["count"] + 1.0
        loss = count if bad_update is None else jnp.where(count == bad_update, jnp.nan, count)
        return {"count": count}, {name: loss, "episode_return": jnp.nan * count}

    return types.Algorithm(
        init=lambda key: {"count": jax.random.uniform(key) * 0.0},
        update=update,
        description={"name": "counter"},
    )


@pytest.fixture(scope="module")
def undisturbed(tiny_agent):
    return runner.train(tiny_agent, key=KEY, num_updates=10, chunk_length=10)


def test_the_chunk_length_changes_no_bit(tiny_agent, undisturbed):
    other = runner.train(tiny_agent, key=KEY, num_updates=10, chunk_length=3)
    assert_same(other.state, undisturbed.state)
    for name, values in undisturbed.metrics.items():
        np.testing.assert_array_equal(other.metrics[name], values)


def test_seeds_in_a_batch_equal_seeds_alone(tiny_agent):
    together = runner.train(tiny_agent, key=KEY, num_updates=4, num_seeds=3, chunk_length=4)
    alone = runner.train(tiny_agent, key=jax.random.fold_in(KEY, 1), num_updates=4, chunk_length=4)
    for all_seeds, one in zip(leaves(together.policy), leaves(alone.policy), strict=True):
        np.testing.assert_allclose(all_seeds[1], one, atol=1e-5)
    assert together.metrics["loss"].shape == (4, 3)
    assert len(set(together.metrics["loss"][-1].tolist())) == 3


def test_after_the_first_chunk_nothing_is_compiled(tiny_agent, compilations):
    counts = []
    runner.train(
        tiny_agent,
        key=jax.random.key(5),
        num_updates=11,
        chunk_length=2,
        callback=lambda update, metrics: counts.append(len(compilations)),
    )
    # The last chunk is shorter than the others and still the same program.
    assert len(counts) == 6 and counts[-1] == counts[0]
    before = len(compilations)
    for seed in (6, 7):
        runner.train(tiny_agent, key=jax.random.key(seed), num_updates=6, chunk_length=2)
    assert len(compilations) == before


def test_memory_does_not_grow_with_the_number_of_chunks(tiny_agent):
    held = {}

    def callback(update, metrics):
        if update in (5, 50):  # Collecting is slow in a process that has compiled much.
            gc.collect()
            held[update] = sum(x.nbytes for x in jax.live_arrays())

    runner.train(tiny_agent, key=KEY, num_updates=50, chunk_length=1, callback=callback)
    assert held[50] <= held[5]


def test_a_killed_run_resumes_to_the_same_bits_and_the_same_log(tiny_agent, tmp_path):
    run = {"key": KEY, "out": tmp_path, "chunk_length": 2, "checkpoint_every": 4}
    undisturbed = runner.train(tiny_agent, num_updates=10, **run)
    for step in ("10", "8"):
        for path in sorted((tmp_path / "checkpoints" / step).rglob("*"), reverse=True):
            path.rmdir() if path.is_dir() else path.unlink()
        (tmp_path / "checkpoints" / step).rmdir()
    with (tmp_path / "metrics.csv").open("a") as log:
        log.write("11,0,")  # a line that the kill cut short
    resumed = runner.train(tiny_agent, num_updates=10, resume=True, **run)
    assert_same(resumed.state, undisturbed.state)
    np.testing.assert_array_equal(resumed.updates, np.arange(1, 11))
    for name, values in undisturbed.metrics.items():
        np.testing.assert_array_equal(resumed.metrics[name], values)


def test_a_finished_run_is_read_and_not_repeated(tiny_agent, tmp_path):
    run = {"key": KEY, "num_updates": 2, "chunk_length": 2, "out": tmp_path}
    first = runner.train(tiny_agent, **run)
    again = runner.train(tiny_agent, resume=True, **run)
    assert_same(first.state, again.state)
    assert again.compile_time == 0.0


def test_a_finished_run_can_be_prolonged(tiny_agent, undisturbed, tmp_path):
    run = {"key": KEY, "chunk_length": 5, "out": tmp_path}
    runner.train(tiny_agent, num_updates=5, **run)
    longer = runner.train(tiny_agent, num_updates=10, resume=True, **run)
    assert_same(longer.state, undisturbed.state)


def test_another_runs_folder_is_never_overwritten(tiny_agent, tmp_path):
    run = {"num_updates": 2, "chunk_length": 2, "out": tmp_path}
    runner.train(tiny_agent, key=KEY, **run)
    before = (tmp_path / "metrics.csv").read_bytes()
    with pytest.raises(CheckpointError, match="already holds a run .* pass resume=True"):
        runner.train(tiny_agent, key=KEY, **run)
    with pytest.raises(CheckpointError, match="belongs to another configuration: key is"):
        runner.train(tiny_agent, key=jax.random.key(1), resume=True, **run)
    assert (tmp_path / "metrics.csv").read_bytes() == before


def test_a_run_killed_before_its_first_checkpoint_starts_again(tmp_path):
    runner.train(counter(), key=KEY, num_updates=4, out=tmp_path)
    for path in sorted((tmp_path / "checkpoints").rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    result = runner.train(counter(), key=KEY, num_updates=4, out=tmp_path, resume=True)
    assert result.metrics["loss"].tolist() == [1, 2, 3, 4]
    other = counter()._replace(description={"name": "another"})
    for path in sorted((tmp_path / "checkpoints").rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    with pytest.raises(CheckpointError, match="name is 'counter' there and 'another' here"):
        runner.train(other, key=KEY, num_updates=4, out=tmp_path, resume=True)


def test_a_metric_that_is_not_finite_stops_the_run_and_is_named(tmp_path):
    with pytest.raises(
        runner.NonFiniteError,
        match=r"metric 'loss' is not finite at update 8 of 20; the last good .*checkpoints/6",
    ):
        runner.train(
            counter(bad_update=8),
            key=KEY,
            num_updates=20,
            chunk_length=3,
            checkpoint_every=3,
            out=tmp_path,
        )
    assert (tmp_path / "metrics.csv").read_text().splitlines()[-1].startswith("8,0,")


def test_the_seed_of_a_metric_that_is_not_finite_is_named():
    with pytest.raises(runner.NonFiniteError, match="metric 'loss' of seed 0 is not finite"):
        runner.train(counter(bad_update=2), key=KEY, num_updates=4, num_seeds=2)


def test_an_episode_metric_may_be_nan_until_an_episode_ends():
    result = runner.train(counter(), key=KEY, num_updates=3)
    assert np.isnan(result.metrics["episode_return"]).all()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_after_the_chunk_with_a_checkpoint(number, tmp_path):
    def interrupt(update, metrics):
        if update == 4:
            os.kill(os.getpid(), number)

    before = signal.getsignal(number)
    run = {"key": KEY, "num_updates": 10, "chunk_length": 2, "checkpoint_every": 0}
    stopped = runner.train(counter(), out=tmp_path, callback=interrupt, **run)
    assert not stopped.complete and stopped.num_updates == 4
    assert signal.getsignal(number) is before
    finished = runner.train(counter(), out=tmp_path, resume=True, **run)
    assert finished.complete and finished.metrics["loss"].tolist() == list(range(1, 11))


def test_evaluation_changes_no_bit_and_happens_when_it_was_asked_for(tiny_agent, undisturbed):
    result = runner.train(tiny_agent, key=KEY, num_updates=10, chunk_length=10, evaluate_every=4)
    assert_same(result.state, undisturbed.state)
    assert result.evaluated.tolist() == [4, 8, 10]
    assert result.evaluations["eval_return"].shape == (3,)


def test_thinned_logs_keep_the_last_update(tmp_path):
    result = runner.train(counter(), key=KEY, num_updates=10, log_every=4, out=tmp_path)
    assert result.updates.tolist() == [4, 8, 10]
    lines = (tmp_path / "metrics.csv").read_text().splitlines()
    assert lines[0] == "update,seed,steps,episode_return,loss" and len(lines) == 4


def test_tensorboard_events_are_written(tmp_path):
    from tensorboardX import proto  # noqa: F401  (the extra is there)

    runner.train(counter(), key=KEY, num_updates=2, out=tmp_path, tensorboard=True)
    assert list((tmp_path / "tensorboard" / "seed_0").glob("events*"))


def test_a_missing_extra_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorboardX", None)
    with pytest.raises(ImportError, match=r'pip install "jaxpg\[tensorboard\]"'):
        runner.train(counter(), key=KEY, num_updates=2, out=tmp_path, tensorboard=True)


def test_progress_without_a_terminal_is_plain_lines(capsys):
    runner.train(counter(), key=KEY, num_updates=3, progress=True, label="count")
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "count: compiling"
    assert lines[-1].startswith("count: 3/3 updates") and "loss 3" in lines[-1]


@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        ({"num_updates": 0}, "num_updates is 0, but it has to be at least 1"),
        ({"num_seed": 3}, "'num_seed' is no field of RunConfig; did you mean 'num_seeds'"),
        ({"num_devices": 3}, "num_devices is 3, which does not divide the 0 environments"),
        ({"num_devices": 99}, "num_devices is 99, but between 1 and"),
        ({"resume": True}, "resume is True, but out is None"),
        ({"evaluate_every": 2}, "the algorithm has no evaluate function"),
        ({"key": jnp.zeros(2, jnp.uint32)}, "a typed key is needed: jax.random.key"),
        ({"key": jax.random.split(KEY, 2), "num_seeds": 3}, "num_seeds is 3, but key holds 2"),
    ],
)
def test_bad_arguments_are_one_sentence(overrides, sentence):
    with pytest.raises((ValueError, TypeError), match=sentence):
        runner.train(counter(), **({"key": KEY, "num_updates": 4} | overrides))


def test_a_folder_that_cannot_be_written_is_one_sentence(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(CheckpointError, match="cannot be written to"):
        runner.train(counter(), key=KEY, num_updates=4, out=tmp_path / "file" / "run")


def test_a_run_with_another_clip_is_another_configuration(tmp_path):
    env, params = jaxpg_envs.make("CartPole-v1")
    sizes = {"num_envs": 2, "num_steps": 4, "num_minibatches": 1, "num_epochs": 1}
    schedule = optax.linear_schedule(1e-3, 0.0, 10)  # a function has no stable repr

    def agent(clip):
        return on_policy(env, params, estimators.ppo(clip), learning_rate=schedule, **sizes)

    run = {"key": KEY, "num_updates": 1, "out": tmp_path}
    runner.train(agent(0.2), **run)
    runner.train(agent(0.2), resume=True, **run)
    with pytest.raises(CheckpointError, match=r"estimator is .*'clip': 0.2.* there and .*0.3"):
        runner.train(agent(0.3), resume=True, **run)


SCRIPT = """
import sys
import jax, jaxpg_envs
from jaxpg import estimators, networks, runner
from jaxpg.algorithms import on_policy
env, params = jaxpg_envs.make("CartPole-v1", max_steps_in_episode=20)
network = networks.actor_critic(
    env.observation_space(params), env.action_space(params), hidden=(8,))
agent = on_policy(env, params, estimators.ppo(), networks=network, num_envs=8, num_steps=16,
                  num_epochs=2, num_minibatches=2, learning_rate=1e-2, normalise_observations=True)
runner.train(agent, key=jax.random.key(0), num_updates=UPDATES, chunk_length=CHUNK,
             checkpoint_every=5, out=sys.argv[1], resume=True)
"""


def run_process(out, num_updates, kill_after=None, chunk_length=5):
    script = SCRIPT.replace("UPDATES", str(num_updates)).replace("CHUNK", str(chunk_length))
    # Compiled as for users: the tests' own flags fuse a loop of one or two steps otherwise.
    env = os.environ | {"XLA_FLAGS": ""}
    process = subprocess.Popen([sys.executable, "-c", script, str(out)], env=env)
    if kill_after is None:
        assert process.wait() == 0
        return False
    # The moment is random within the run proper, after the slow import and compilation.
    deadline = time.monotonic() + 120
    while not (out / "metrics.csv").exists() and process.poll() is None:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    time.sleep(kill_after)
    process.send_signal(signal.SIGKILL)
    return process.wait() == -signal.SIGKILL


def kill_and_resume(tmp_path, num_kills, num_updates):
    rng = random.Random(0)
    run_process(tmp_path / "undisturbed", num_updates)
    killed = 0
    for _ in range(num_kills):
        killed += run_process(tmp_path / "killed", num_updates, rng.uniform(0.0, 0.7))
    run_process(tmp_path / "killed", num_updates)
    assert killed >= 1
    logs = [tmp_path / name / "metrics.csv" for name in ("undisturbed", "killed")]
    assert logs[0].read_text() == logs[1].read_text()
    digests = [
        json.loads(
            (log.parent / "checkpoints" / str(num_updates) / "metadata" / "metadata").read_text()
        )["digests"]
        for log in logs
    ]
    assert digests[0] == digests[1]


def test_three_kills_change_no_bit(tmp_path):
    kill_and_resume(tmp_path, 3, 400)


@pytest.mark.slow
def test_twenty_kills_change_no_bit(tmp_path):
    kill_and_resume(tmp_path, 20, 3000)


def test_two_processes_with_other_chunks_agree_bit_for_bit(tmp_path):
    for name, chunk_length in (("a", 5), ("b", 1)):
        run_process(tmp_path / name, 10, chunk_length=chunk_length)
    assert (tmp_path / "a" / "metrics.csv").read_bytes() == (
        tmp_path / "b" / "metrics.csv"
    ).read_bytes()
    assert pathlib.Path(tmp_path / "a" / "run.json").exists()
