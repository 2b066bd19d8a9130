"""Python rewards in jax programs: failures, worker processes, transformations, no hangs."""

import os
import pathlib
import subprocess
import sys
import textwrap
import threading
import time
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxpg_envs.tokens import (
    HostReward,
    Prompts,
    RewardError,
    WholeBatch,
    host_callback,
    host_reward,
)
from jaxpg_envs.tokens.host_rewards import ERROR, MISSING, SCORED, TIMEOUT

REWARDS = '''
import os, subprocess, sys, time

def length(prompt, response, metadata):
    return float(len(response))

def eventful(prompt, response, metadata):
    """What the response says, quite literally."""
    if response == "hang":
        subprocess.run(["sleep", "1000"])
    if response == "hang in python":
        while True:
            pass
    if response == "die":
        os._exit(3)
    if response == "exit":
        sys.exit(3)
    return eval(response, {"pid": os.getpid, "metadata": metadata})

def with_jax(prompt, response, metadata):
    import jax.numpy as jnp, numpy as np
    x = jnp.asarray(np.ones((500, 500))) @ jnp.ones((500, 500))
    return float(x[0, 0]) + len(response)
'''


@pytest.fixture(scope="module")
def rewards(tmp_path_factory):
    """A module of rewards that, like a user's, needs no jax to be imported."""
    folder = tmp_path_factory.mktemp("rewards")
    (folder / "own_rewards.py").write_text(REWARDS)
    sys.path.insert(0, str(folder))
    import own_rewards

    yield own_rewards
    sys.path.remove(str(folder))


def rows(*responses, **metadata):
    return [(f"prompt {index}", text, metadata) for index, text in enumerate(responses)]


def of_ids(data, token_ids, finished):
    """What a reward is told when there is no text."""
    return int(data["number"]), str(token_ids), {"token_ids": token_ids, "finished": finished}


def batch(numbers, tokens, lengths):
    """Prompts, tokens, mask and finished; only responses of full length are not finished."""
    numbers = jnp.asarray(numbers, jnp.int32)
    empty = jnp.zeros((len(numbers), 1), jnp.int32)
    prompts = Prompts(empty, empty == 0, numbers, {"number": numbers})
    mask = jnp.arange(tokens.shape[1]) < jnp.asarray(lengths)[:, None]
    return prompts, tokens, mask, ~mask[:, -1]


def weighed(prompt, response, metadata):
    """Tells rows, tokens, lengths and ends apart."""
    return 1000 * prompt + sum(metadata["token_ids"]) + 0.5 * metadata["finished"]


def weighed_in_jax(prompts, tokens, mask, finished):
    return 1000 * prompts.data["number"] + (tokens * mask).sum(-1) + 0.5 * finished


def random_batch(key, number=5, length=4):
    tokens_key, length_key = jax.random.split(key)
    tokens = jax.random.randint(tokens_key, (number, length), 0, 9)
    lengths = jax.random.randint(length_key, (number,), 0, length + 1)
    return batch(jnp.arange(number), tokens, lengths)


# Failures of single rows.


@pytest.mark.parametrize(("default", "value", "valid"), [(None, 0.0, False), (-1.0, -1.0, True)])
def test_a_row_that_raises_gets_the_default_and_is_shown(default, value, valid):
    host = HostReward(lambda prompt, response, metadata: 1 / len(response), default=default)
    with pytest.warns(RuntimeWarning, match="ZeroDivisionError.*'prompt 2', response ''"):
        scores = host(rows("a", "ab", "", "abcd"))
    assert scores.value.tolist() == [1.0, 0.5, value, 0.25]
    assert scores.valid.tolist() == [True, True, valid, True]
    assert scores.status.tolist() == [SCORED, SCORED, ERROR, SCORED]
    with warnings.catch_warnings(action="error"):
        host(rows("a", ""))  # The same kind is shown once.


def test_none_leaves_the_update_whatever_the_default():
    """[1, None, 0, None]: the mean over valid rows is 0.5."""
    verdicts = {"yes": 1, "no": 0.0}
    host = HostReward(lambda prompt, response, metadata: verdicts.get(response), default=-1.0)
    with pytest.warns(RuntimeWarning, match="2 of 4 rows.*returned None"):
        scores = host(rows("yes", "?", "no", "?"))
    assert scores.valid.tolist() == [True, False, True, False]
    assert scores.value[scores.valid].mean() == 0.5
    assert scores.status.tolist() == [SCORED, MISSING, SCORED, MISSING]


@pytest.mark.parametrize("returned", [float("nan"), float("inf"), "1.0", [1.0], np.ones(2), {}])
def test_what_is_no_finite_number_is_an_error(returned):
    host = HostReward(lambda prompt, response, metadata: returned if response else 1.0)
    with pytest.warns(RuntimeWarning, match="reward returned"):
        scores = host(rows("", "x"))
    assert scores.status.tolist() == [SCORED, ERROR]


@pytest.mark.parametrize("number", [True, 1, np.float32(1), np.array(1.0), jnp.ones(())])
def test_numbers_of_all_kinds_are_rewards(number):
    assert HostReward(lambda prompt, response, metadata: number)(rows("")).value == 1.0


def test_all_rows_raising_stops_with_the_first_traceback():
    host = HostReward(lambda prompt, response, metadata: metadata[response])
    with pytest.raises(RewardError, match="(?s)all 2 rewards.*'prompt 0'.*KeyError: 'first'"):
        host(rows("first", "second"))


def test_a_whole_batch_is_refused_when_its_length_is_wrong():
    def judge(prompts, responses, metadata):
        return [len(response) for response in responses]

    scores = HostReward(WholeBatch(judge))(rows("a", "", "abc"))
    assert scores.value.tolist() == [1.0, 0.0, 3.0]
    with pytest.raises(ValueError, match="1 values for 3 responses"):
        HostReward(WholeBatch(lambda *columns: [1.0]))(rows("a", "b", "c"))
    with pytest.raises(RewardError, match="ZeroDivisionError"):
        HostReward(WholeBatch(lambda *columns: 1 / 0), default=0.0)(rows("a"))
    with pytest.warns(RuntimeWarning, match="nan"):
        scores = HostReward(WholeBatch(lambda *columns: [1.0, float("nan")]))(rows("a", "b"))
    assert scores.valid.tolist() == [True, False]


def test_a_reward_that_runs_long_in_this_process_is_named(monkeypatch):
    monkeypatch.setattr("jaxpg_envs.tokens.host_rewards.SLOW", 0.05)
    with pytest.warns(RuntimeWarning, match="needs num_workers"):
        HostReward(lambda prompt, response, metadata: time.sleep(1.0) or 1.0)(rows("a"))


def test_wrong_arguments_are_named(rewards):
    with pytest.raises(ValueError, match="num_workers=-1"):
        HostReward(rewards.length, num_workers=-1)
    with pytest.raises(ValueError, match="time_limit=0"):
        HostReward(rewards.length, time_limit=0)
    with pytest.raises(TypeError, match="must be a function"):
        HostReward("exact")
    with pytest.raises(ValueError, match="default=nan"):
        HostReward(rewards.length, default=float("nan"))
    with pytest.raises(ValueError, match="0 for a WholeBatch"):
        HostReward(WholeBatch(rewards.length), num_workers=1)


# Worker processes.


def test_a_reward_that_cannot_be_pickled_is_refused_in_one_sentence():
    with pytest.raises(ValueError, match="top level of a module, or use num_workers=0"):
        HostReward(lambda prompt, response, metadata: 1.0, num_workers=1)


def ended(pid):
    """Whether a process is gone, or only waits for its parent to notice."""
    try:
        return pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True


def wait_until(condition, seconds=60.0):
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:
        time.sleep(0.05)
    assert condition()


@pytest.mark.skipif(not os.path.exists("/proc/self"), reason="looks processes up in /proc")
def test_workers_survive_whatever_rows_do(rewards, recwarn):
    """One pool for all of it, since processes take their time to start; from a second thread."""
    host = HostReward(rewards.eventful, num_workers=2, time_limit=5.0)
    responses = [
        *("pid()", "metadata['x']", "hang", "1 / 0", "hang in python"),
        *("die", "exit", "None", "2.5", "[]", "float('nan')"),
    ]
    found = []
    thread = threading.Thread(target=lambda: found.append(host(rows(*responses, x=7))))
    start = time.monotonic()
    thread.start()
    thread.join(120.0)
    assert time.monotonic() - start < 60.0
    (scores,) = found
    assert scores.status.tolist() == [
        *(SCORED, SCORED, TIMEOUT, ERROR, TIMEOUT),
        *(ERROR, ERROR, MISSING, SCORED, ERROR, ERROR),
    ]
    assert scores.value[[1, 8]].tolist() == [7.0, 2.5]
    assert int(scores.value[0]) != os.getpid()
    shown = " ".join(str(warning.message) for warning in recwarn)
    for kind in ("ZeroDivisionError", "time_limit=5 s", "exit code 3", "SystemExit", "None"):
        assert kind in shown
    # Later batches use the replacements, in any thread, and a batch may be larger than the pool.
    assert host(rows(*map(str, range(20)))).value.tolist() == list(range(20))
    with pytest.raises(RewardError, match="(?s)all 2 rewards.*own_rewards.py.*ZeroDivisionError"):
        host(rows("1 / 0", "0 / 0"))
    with pytest.raises(TypeError, match="cannot be pickled"):
        host([("", "1", {"lock": threading.Lock()})])
    workers = list(host._pool._workers)
    pids = [worker.process.pid for worker in workers]
    os.kill(pids[0], 9)
    # A process with threads looks ended before it can be waited for, which is what the pool does.
    wait_until(lambda: workers[0].process.poll() is not None)
    assert host(rows("1", "2", "3")).value.tolist() == [1.0, 2.0, 3.0]
    pids += [worker.process.pid for worker in host._pool._workers]
    host.close()
    assert all(map(ended, pids))


def test_a_reward_that_cannot_be_imported_is_named(tmp_path, monkeypatch):
    (tmp_path / "lost_rewards.py").write_text("def reward(*row): return 1.0")
    monkeypatch.syspath_prepend(tmp_path)
    import lost_rewards

    host = HostReward(lost_rewards.reward, num_workers=1)
    (tmp_path / "lost_rewards.py").write_text("raise OSError('it is gone')")
    with pytest.raises(RuntimeError, match="(?s)could not load the reward.*it is gone"):
        host(rows("a"))


PROGRAM = """
    import os, pathlib, sys, time
    from jaxpg_envs.tokens.host_rewards import HostReward

    def slow(prompt, response, metadata):
        pathlib.Path(response).write_text(str(os.getpid()))
        while prompt == "hang":
            pass
        return 1.0

    {guard}
        host = HostReward(slow, num_workers=2, time_limit=1000.0)
        print(host([("", sys.argv[1] + "/1", {{}}), ("", sys.argv[1] + "/2", {{}})]).value.tolist())
        if "hang" in sys.argv:
            host([("hang", sys.argv[1] + "/3", {{}})])
"""


def program(tmp_path, guard, *arguments):
    path = tmp_path / "program.py"
    path.write_text(textwrap.dedent(PROGRAM).format(guard=guard))
    return subprocess.Popen(
        [sys.executable, str(path), str(tmp_path), *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )


@pytest.mark.slow
@pytest.mark.skipif(not os.path.exists("/proc/self"), reason="looks processes up in /proc")
def test_no_worker_outlives_its_program(tmp_path):
    first = program(tmp_path, "if __name__ == '__main__':")
    out, err = first.communicate(timeout=120)
    assert out.strip() == "[1.0, 1.0]", err
    wait_until(lambda: all(ended((tmp_path / name).read_text()) for name in "12"))
    killed = program(tmp_path, "if __name__ == '__main__':", "hang")
    try:
        wait_until(lambda: (tmp_path / "3").exists() and (tmp_path / "3").read_text(), 120.0)
    finally:
        killed.kill()
        killed.communicate()
    wait_until(lambda: ended((tmp_path / "3").read_text()))


@pytest.mark.slow
def test_a_program_that_runs_when_it_is_imported_is_told_so(tmp_path):
    out, err = program(tmp_path, "if True:").communicate(timeout=120)
    assert "__name__ == '__main__'" in err, out


# Inside of jax programs.


def test_it_jits_and_counts():
    def reward(prompt, response, metadata):
        return {0: 1.0, 1: None, 2: 2.0}[prompt]

    arguments = batch([0, 1, 2, 3], jnp.zeros((4, 2), jnp.int32), [1, 2, 0, 1])
    with pytest.warns(RuntimeWarning):
        result = jax.jit(host_reward(HostReward(reward, default=0.5), of_ids))(*arguments)
    assert result.value.tolist() == [1.0, 0.0, 2.0, 0.5]
    assert result.valid.tolist() == [True, False, True, True]
    assert {name: float(value) for name, value in result.metrics.items()} == {
        "reward_errors": 1.0,
        "reward_timeouts": 0.0,
        "reward_missing": 1.0,
    }


def test_each_row_gets_its_own_reward_in_loops_and_branches():
    reward = host_reward(HostReward(weighed), of_ids)

    def program(key):
        def body(total, key):
            arguments = random_batch(key)
            value = jax.lax.cond(
                total < 1e9, lambda: reward(*arguments).value, lambda: jnp.zeros(5)
            )
            return total + value.sum(), value - weighed_in_jax(*arguments)

        return jax.lax.scan(body, 0.0, jax.random.split(key, 3))[1]

    assert (jax.jit(program)(jax.random.key(0)) == 0).all()
    differences = jax.jit(jax.vmap(program))(jax.random.split(jax.random.key(1), 3))
    assert differences.shape == (3, 3, 5)
    assert (differences == 0).all()


def test_vmapped_seeds_make_one_call():
    calls = []

    def judge(prompts, responses, metadata):
        calls.append(len(responses))
        return [weighed(*row) for row in zip(prompts, responses, metadata, strict=True)]

    reward = host_reward(HostReward(WholeBatch(judge)), of_ids)
    shared = batch(jnp.arange(5), jnp.zeros((5, 4), jnp.int32), [1] * 5)

    def program(key):
        _, tokens, mask, finished = random_batch(key)
        given = (shared[0], tokens, mask, finished)
        return reward(*given).value - weighed_in_jax(*given), reward(*given).metrics

    keys = jax.random.split(jax.random.key(0), 6).reshape(3, 2)
    differences, metrics = jax.jit(jax.vmap(jax.vmap(program)))(keys)
    assert (differences == 0).all()
    assert metrics["reward_errors"].shape == (3, 2)
    assert set(calls) == {30}


def test_gradients_pass_it_by():
    reward = host_reward(HostReward(weighed), of_ids)

    def loss(x):
        return (x * reward(*random_batch(jax.random.key(0))).value).sum()

    expected = weighed_in_jax(*random_batch(jax.random.key(0))).sum()
    assert jax.jit(jax.grad(loss))(1.0) == expected


def test_four_devices_call_for_their_own_rows():
    reward = host_reward(HostReward(weighed), of_ids)

    def program(key):
        arguments = random_batch(key)
        result = reward(*arguments)
        return result.value - weighed_in_jax(*arguments), jax.lax.psum(result.value.sum(), "d")

    keys = jax.random.split(jax.random.key(0), 8).reshape(4, 2)
    differences, totals = jax.pmap(jax.vmap(program), axis_name="d")(keys)
    assert differences.shape == (4, 2, 5)
    assert (differences == 0).all()
    assert (totals[0] == totals[1]).all()


def test_the_message_of_a_failed_batch_holds_its_traceback():
    reward = jax.jit(host_reward(HostReward(lambda *row: {}["nothing"]), of_ids))
    with pytest.raises(jax.errors.JaxRuntimeError, match="(?s)all 5 rewards.*KeyError: 'nothing'"):
        jax.block_until_ready(reward(*random_batch(jax.random.key(0))).value)


def test_wrong_shapes_are_named():
    prompts, tokens, mask, finished = random_batch(jax.random.key(0))
    reward = host_reward(HostReward(weighed), of_ids)
    with pytest.raises(ValueError, match="finished has shape"):
        reward(prompts, tokens, mask, finished[:2])


def test_arguments_are_cut_into_pieces_that_are_copied_at_once():
    leaves = {"a": jnp.arange(40_000).reshape(200, 200), "b": jnp.ones((3,), bool)}
    pieces = host_callback._pieces(leaves, 2**16)
    assert max(piece.nbytes for piece in pieces) <= 2**16
    shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), leaves)
    joined = host_callback._joined(shapes, 2**16, list(map(np.asarray, pieces)))
    jax.tree.map(np.testing.assert_array_equal, joined, leaves)


HANG = """
    import os, sys
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:1])
    import jax, jax.numpy as jnp, own_rewards
    from jaxpg_envs.tokens import HostReward, Prompts, host_reward

    def describe(data, token_ids, finished):
        return "", "x" * int(data["number"]), {"total": sum(token_ids)}

    def total(prompt, response, metadata):
        return metadata["total"]

    def program(key, reward):
        tokens = jax.random.randint(key, (64, 4096), 0, 4)
        numbers = jnp.arange(64)
        prompts = Prompts(tokens[:, :1], tokens[:, :1] == 0, numbers, {"number": numbers})
        def body(carry, shift):
            shifted = tokens + shift
            everything = jnp.ones(tokens.shape, bool)
            value = reward(prompts, shifted, everything, everything[:, 0]).value
            return carry, (value, shifted.sum(-1))
        return jax.lax.scan(body, None, jnp.arange(2))[1]

    if __name__ == "__main__":
        keys = jax.random.split(jax.random.key(0), 4)
        quick = host_reward(HostReward(total), describe)
        slow = HostReward(own_rewards.with_jax, num_workers=2, time_limit=300.0)
        slow = host_reward(slow, describe)
        for where in (jax.vmap, jax.pmap):
            found, expected = where(lambda key: program(key, quick))(keys)
            assert (found == expected).all()
            found, _ = where(lambda key: program(key, slow))(keys)
            assert (found == 500 + jnp.arange(64)).all()
        print("done")
"""


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="cannot choose a core")
def test_large_arguments_and_rewards_that_use_jax_do_not_hang(tmp_path, rewards):
    """1 MiB of tokens a device and four devices on one core, where jax's own copies do hang."""
    path = tmp_path / "program.py"
    path.write_text(textwrap.dedent(HANG))
    finished = subprocess.run(
        [sys.executable, str(path)],
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        check=False,
    )
    assert finished.stdout.strip() == "done", finished.stderr
