import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import rlax

from jaxpg import parallel
from jaxpg.parts import advantages

REWARD, VALUE = np.ones((1, 3), np.float32), np.array([[0.5, 0.6, 0.7]], np.float32)

gae = jax.jit(advantages.generalised_advantage)
jitted_v_trace = jax.jit(advantages.v_trace)
whiten = jax.jit(advantages.whiten, static_argnames="ddof")


def at(*steps: int, length: int = 3) -> np.ndarray:
    flags = np.zeros((1, length), bool)
    flags[0, list(steps)] = True
    return flags


@jax.jit
def fixture_advantage(terminated, truncated, last_value, final_value):
    """GAE of three rewards of 1 with values 0.5, 0.6, 0.7, discount 0.9 and lambda 0.5."""
    following = advantages.next_values(
        VALUE, jnp.full((1,), last_value), truncated, jnp.full((1, 3), final_value)
    )
    return advantages.generalised_advantage(
        REWARD, VALUE, following, terminated, truncated, discount=0.9, trace_decay=0.5
    )[0]


# Episode ends


def test_a_time_limit_bootstraps_and_a_termination_does_not():
    truncated = fixture_advantage(at(), at(2), 99.0, 0.8)
    terminated = fixture_advantage(at(2), at(), 0.8, 99.0)
    np.testing.assert_allclose(truncated, [1.71005, 1.489, 1.02], rtol=1e-5)
    np.testing.assert_allclose(terminated, [1.56425, 1.165, 0.3], rtol=1e-5)


def test_a_truncation_bootstraps_from_its_final_observation_and_cuts_the_recursion():
    advantage = fixture_advantage(at(), at(1), 0.4, 0.8)
    np.testing.assert_allclose(advantage, [1.544, 1.12, 0.66], rtol=1e-5)


def test_a_termination_acts_on_its_own_step():
    np.testing.assert_allclose(
        fixture_advantage(at(1), at(), 0.4, 99.0), [1.22, 0.4, 0.66], rtol=1e-5
    )


def test_termination_wins_over_truncation():
    ten = np.full((1, 3), 10.0, np.float32)
    target = VALUE + gae(REWARD, VALUE, ten, at(0, 1, 2), at(0, 1, 2))
    np.testing.assert_allclose(target, REWARD)
    np.testing.assert_array_equal(
        fixture_advantage(at(1), at(1), 0.4, 0.8), fixture_advantage(at(1), at(), 0.4, 0.8)
    )


def random_rows(num_rows: int, length: int, seed: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    shape = (num_rows, length)
    return {
        "reward": rng.normal(size=shape).astype(np.float32),
        "value": rng.normal(size=shape).astype(np.float32),
        "next_value": rng.normal(size=shape).astype(np.float32),
        "terminated": rng.random(shape) < 0.15,
        "truncated": rng.random(shape) < 0.15,
        "mask": np.ones(shape, np.float32),
    }


def n_step(reward, value, next_value, terminated, truncated, mask):
    del value
    return advantages.n_step_return(
        reward, next_value, terminated, truncated, mask, num_steps=3, discount=0.9
    )


def monte_carlo(reward, value, next_value, terminated, truncated, mask):
    del value
    return advantages.discounted_return(
        reward, terminated, truncated, mask, next_value, discount=0.9
    )


def v_trace(reward, value, next_value, terminated, truncated, mask):
    ratio = jnp.sin(7.0 * value)  # any function of the decision
    outputs = advantages.v_trace(ratio, reward, value, next_value, terminated, truncated, mask)
    return jnp.stack(outputs, axis=-1)


RECURSIONS = {
    "gae": jax.jit(advantages.generalised_advantage),
    "n_step": jax.jit(n_step),
    "monte_carlo": jax.jit(monte_carlo),
    "v_trace": jax.jit(v_trace),
}


def run(name: str, rows: dict[str, np.ndarray]) -> np.ndarray:
    return np.asarray(RECURSIONS[name](**rows))


recursions = pytest.mark.parametrize("name", RECURSIONS)


@recursions
@pytest.mark.parametrize("end", ["terminated", "truncated"])
def test_two_episodes_end_to_end_equal_each_alone(name, end):
    rows = random_rows(2, 4)
    rows["terminated"][:], rows["truncated"][:] = False, False
    rows[end][:, -1] = True
    joined = {key: array.reshape(1, 8) for key, array in rows.items()}
    np.testing.assert_allclose(
        run(name, joined)[0], np.concatenate(run(name, rows)), rtol=1e-5, atol=1e-6
    )


@recursions
def test_the_order_of_rows_and_their_split_change_nothing(name):
    rows = random_rows(2, 8, seed=1)
    whole = run(name, rows)
    for row in (1, 0):
        alone = run(name, {key: array[row : row + 1] for key, array in rows.items()})
        np.testing.assert_allclose(alone[0], whole[row], rtol=1e-6)


@recursions
def test_trailing_padding_is_as_if_it_were_not_there(name):
    rows = random_rows(2, 4, seed=2)
    padding = {"terminated": True, "truncated": True, "mask": 0.0}
    padded = {
        key: np.concatenate([array, np.full_like(array, padding.get(key, np.nan))], axis=1)
        for key, array in rows.items()
    }
    result = run(name, padded)
    np.testing.assert_allclose(result[:, :4], run(name, rows), rtol=1e-6)
    assert not result[:, 4:].any()


@pytest.mark.parametrize("name", ["gae", "monte_carlo", "v_trace"])
def test_padding_between_decisions_is_stepped_over(name):
    rows = random_rows(2, 8, seed=3)
    kept = np.array([0, 1, 3, 6])
    padded = np.isin(np.arange(8), kept, invert=True)
    rows["mask"][:, padded] = 0.0
    rows["reward"][:, padded] = np.nan
    without = {key: array[:, kept] for key, array in rows.items()}
    np.testing.assert_allclose(run(name, rows)[:, kept], run(name, without), rtol=1e-6)


# Oracles


@jax.jit
@jax.vmap
def rlax_gae(reward, discount, values):
    return rlax.truncated_generalized_advantage_estimation(reward, discount, 0.95, values)


def test_generalised_advantage_agrees_with_rlax():
    rows = random_rows(2, 4)
    rows["truncated"][:] = False
    values = np.concatenate([rows["value"], rows["next_value"][:, -1:]], axis=1)
    rows["next_value"] = values[:, 1:]
    discount = np.where(rows["terminated"], 0.0, 0.99).astype(np.float32)
    np.testing.assert_allclose(
        gae(**rows), rlax_gae(rows["reward"], discount, values), rtol=1e-5, atol=1e-5
    )


@pytest.mark.parametrize(("trace_decay", "clip_rho"), [(1.0, 1.0), (0.8, 1.5)])
def test_v_trace_agrees_with_rlax(trace_decay, clip_rho):
    rows = random_rows(2, 4, seed=4)
    rows["truncated"][:] = False
    log_ratio = np.random.default_rng(5).normal(size=(2, 4)).astype(np.float32)
    values = np.concatenate([rows["value"], rows["next_value"][:, -1:]], axis=1)
    rows["next_value"] = values[:, 1:]
    discount = np.where(rows["terminated"], 0.0, 0.9).astype(np.float32)

    @jax.jit
    def both(log_ratio, discount, rows):
        ours = advantages.v_trace(
            log_ratio, discount=0.9, trace_decay=trace_decay, clip_rho=clip_rho, **rows
        )
        oracle = jax.vmap(
            functools.partial(
                rlax.vtrace_td_error_and_advantage,
                lambda_=trace_decay,
                clip_rho_threshold=clip_rho,
                clip_pg_rho_threshold=clip_rho,
            )
        )(rows["value"], rows["next_value"], rows["reward"], discount, jnp.exp(log_ratio))
        return ours, oracle

    (target, advantage), oracle = both(log_ratio, discount, rows)
    np.testing.assert_allclose(target, oracle.errors + rows["value"], rtol=1e-4, atol=1e-5)
    if trace_decay == 1.0:  # rlax mixes lambda into the bootstrap; IMPALA's section 4.2 does not.
        np.testing.assert_allclose(advantage, oracle.pg_advantage, rtol=1e-4, atol=1e-5)


def test_v_trace_on_policy_is_the_monte_carlo_return_with_bootstrap():
    rows = random_rows(2, 4, seed=6)
    rows["next_value"][:, :-1] = np.where(
        rows["truncated"][:, :-1], rows["next_value"][:, :-1], rows["value"][:, 1:]
    )
    target, advantage = jitted_v_trace(np.zeros((2, 4), np.float32), discount=0.9, **rows)
    returns = run("monte_carlo", rows)
    np.testing.assert_allclose(target, returns, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(advantage, returns - rows["value"], rtol=1e-4, atol=1e-5)


def test_v_trace_is_finite_at_absurd_ratios():
    rows = random_rows(2, 4)
    log_ratio = np.array([[100.0, -100.0, 1e4, -1e4]] * 2, np.float32)
    for part in jitted_v_trace(log_ratio, discount=0.9, **rows):
        assert np.isfinite(part).all()


@pytest.mark.parametrize("num_steps", [1, 3, 5])
def test_n_step_return_agrees_with_rlax(num_steps):
    rows = random_rows(2, 4, seed=7)
    no = np.zeros((2, 4), bool)
    discount = np.full((2, 4), 0.9, np.float32)

    @jax.jit
    def both(reward, next_value, no):
        ours = advantages.n_step_return(
            reward, next_value, no, no, num_steps=num_steps, discount=0.9
        )
        oracle = jax.vmap(
            functools.partial(rlax.n_step_bootstrapped_returns, n=num_steps), in_axes=(0, 0, 0)
        )
        return ours, oracle(reward, discount, next_value)

    ours, oracle = both(rows["reward"], rows["next_value"], no)
    np.testing.assert_allclose(ours, oracle, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("terminated", "truncated", "expected"),
    [(at(), at(), 12.52), (at(1), at(), 2.8), (at(), at(1), 10.9)],
)
def test_n_step_return_discounts_by_the_number_of_rewards_taken(terminated, truncated, expected):
    reward, next_value = np.array([[1, 2, 3]], np.float32), np.full((1, 3), 10, np.float32)
    result = RECURSIONS["n_step"](reward, VALUE, next_value, terminated, truncated, at(0, 1, 2))
    np.testing.assert_allclose(np.asarray(result)[0, 0], expected, rtol=1e-6)


def test_the_first_reward_of_a_return_is_not_discounted():
    reward = np.array([[5, 0, 0]], np.float32)
    returns = RECURSIONS["monte_carlo"](reward, VALUE, VALUE, at(0), at(), at(0, 1, 2))
    assert np.asarray(returns)[0, 0] == 5.0


def test_n_step_return_needs_a_step():
    with pytest.raises(ValueError, match=r"num_steps is 0, but .* at least 1"):
        advantages.n_step_return(REWARD, VALUE, at(), at(), num_steps=0)


# Gradients


@pytest.mark.parametrize(("stopped", "expected"), [(True, -0.8), (False, -0.08)])
def test_the_caller_decides_whether_the_target_carries_a_gradient(stopped, expected):
    no = at(length=1)

    def loss(theta):
        following = jax.lax.stop_gradient(theta) if stopped else theta
        target = advantages.discounted_return(
            jnp.ones((1, 1)), no, no, None, jnp.full((1, 1), following), discount=0.9
        )
        return 0.5 * (target[0, 0] - theta) ** 2

    np.testing.assert_allclose(jax.jit(jax.grad(loss))(2.0), expected, rtol=1e-5)


def test_the_discount_has_a_meta_gradient():
    def objective(discount):
        return jnp.sum(
            advantages.generalised_advantage(REWARD, VALUE, VALUE, at(), at(2), discount=discount)
        )

    objective_and_gradient = jax.jit(jax.value_and_grad(objective))
    (above, _), (below, _) = objective_and_gradient(0.91), objective_and_gradient(0.89)
    gradient = objective_and_gradient(0.9)[1]
    np.testing.assert_allclose(gradient, (above - below) / 0.02, rtol=1e-2)
    assert abs(gradient) > 0.1


# Groups


THREE_OF_EIGHT = np.array([1, 1, 1, 0, 0, 0, 0, 0], np.float32)


@pytest.mark.parametrize(
    ("primitive", "right", "wrong"),
    [
        (functools.partial(advantages.group_normalised, ddof=1), 1.207615, -0.724569),
        (functools.partial(advantages.group_normalised, ddof=0), 1.290994, -0.774597),
        (advantages.group_mean_only, 0.625, -0.375),
        (advantages.leave_one_out, 0.714286, -0.428571),
    ],
)
def test_three_of_eight_correct(primitive, right, wrong):
    result = jax.jit(primitive, static_argnums=2)(THREE_OF_EIGHT, np.zeros(8, int), 1)
    np.testing.assert_allclose(result, np.where(THREE_OF_EIGHT > 0, right, wrong), rtol=2e-5)


GROUPED = {
    "group_normalised": jax.jit(
        advantages.group_normalised, static_argnums=2, static_argnames="ddof"
    ),
    "group_mean_only": jax.jit(advantages.group_mean_only, static_argnums=2),
    "leave_one_out": jax.jit(advantages.leave_one_out, static_argnums=2),
}


@pytest.mark.parametrize(("ddof", "size"), [(1, 0.866025), (0, 1.0)])
def test_ddof_of_a_group(ddof, size):
    rewards = np.array([1, 0, 0, 1], np.float32)
    result = GROUPED["group_normalised"](rewards, np.zeros(4, int), 1, ddof=ddof)
    np.testing.assert_allclose(result, size * np.array([1, -1, -1, 1]), rtol=1e-5)


grouped = pytest.mark.parametrize("name", GROUPED)


def native_group(name: str, rewards: np.ndarray, group_ids: np.ndarray) -> np.ndarray:
    result = np.zeros_like(rewards, float)
    for i, group in enumerate(group_ids):
        members = rewards[group_ids == group]
        others = rewards[(group_ids == group) & (np.arange(len(rewards)) != i)]
        if name == "leave_one_out":
            result[i] = rewards[i] - others.mean()
        else:
            scale = members.std(ddof=1) + 1e-6 if name == "group_normalised" else 1.0
            result[i] = (rewards[i] - members.mean()) / scale
    return result


@grouped
def test_rows_of_a_group_may_stand_anywhere_and_groups_may_differ_in_size(name):
    rng = np.random.default_rng(8)
    group_ids = rng.permutation([0, 0, 4, 4, 4, 2, 2])
    rewards = rng.normal(size=7).astype(np.float32)
    expected = native_group(name, rewards, group_ids)
    result = GROUPED[name](rewards, group_ids, 7)
    np.testing.assert_allclose(result, expected, rtol=1e-4, atol=1e-5)


def test_rewards_of_two_prompts_do_not_mix():
    rewards, group_ids = np.array([1.0, 5.0, 0.0, 3.0], np.float32), np.array([3, 1, 3, 1])
    result = GROUPED["group_mean_only"](rewards, group_ids, 4)
    np.testing.assert_array_equal(result, [0.5, 1.0, -0.5, -1.0])


@grouped
def test_one_member_and_equal_rewards_say_exactly_nothing(name):
    rewards = np.array([7.0, 0.1, 0.1, 0.1, 1000.1, 1000.1, 1000.1], np.float32)
    result = GROUPED[name](rewards, np.array([0, 1, 1, 1, 2, 2, 2]), 7)
    np.testing.assert_array_equal(result, np.zeros(7))


@grouped
def test_a_missing_reward_is_in_no_statistic(name):
    rewards = np.array([1.0, np.nan, 0.0, np.nan], np.float32)
    valid = np.array([True, False, True, False])
    result = np.asarray(GROUPED[name](rewards, np.zeros(4, int), 4, valid=valid))
    expected = native_group(name, rewards[valid], np.zeros(2, int))
    np.testing.assert_allclose(result[valid], expected, rtol=1e-5)
    np.testing.assert_array_equal(result[~valid], 0.0)


@grouped
def test_one_reward_for_three_rows_is_refused(name):
    with pytest.raises(AssertionError, match=r"\(1,\).*\(3,\)"):
        GROUPED[name](np.ones(1, np.float32), np.zeros(3, int), 3)


@grouped
def test_the_gradient_of_a_group_without_spread_is_finite(name):
    def total(rewards):
        return GROUPED[name](rewards, np.zeros(3, int), 3)[0]

    assert np.isfinite(jax.jit(jax.grad(total))(np.ones(3, np.float32))).all()


# Whitening


@pytest.mark.parametrize(("ddof", "outer", "inner"), [(0, 1.3416, 0.4472), (1, 1.1619, 0.3873)])
def test_ddof_of_whitening(ddof, outer, inner):
    result = whiten(np.arange(1, 5, dtype=np.float32), ddof=ddof)
    np.testing.assert_allclose(result, [-outer, -inner, inner, outer], atol=5e-5)


@pytest.mark.parametrize("ddof", [0, 1])
@pytest.mark.parametrize(
    "values", [[3.0], [1.0, 1.0, 1.0], [0.7] * 7, [1000.1] * 7], ids=["one", "1", "0.7", "1000.1"]
)
def test_whitening_equal_entries_gives_exactly_zero(values, ddof):
    result = whiten(np.array(values, np.float32), ddof=ddof)
    np.testing.assert_array_equal(result, np.zeros(len(values)))


@jax.jit
def whiten_kept(values, mask):
    return advantages.whiten(values, mask, shift_mean=False)


def test_whitening_counts_what_the_mask_selects():
    values = np.array([[1.0, np.nan, 3.0], [5.0, 1e30, -np.inf]], np.float32)
    mask = np.array([[1, 0, 1], [1, 0, 0]], np.float32)
    chosen = values[mask > 0]
    result = np.asarray(whiten(values, mask))
    np.testing.assert_allclose(result[mask > 0], (chosen - chosen.mean()) / chosen.std(), rtol=1e-5)
    np.testing.assert_array_equal(result[mask == 0], 0.0)
    np.testing.assert_allclose(
        np.asarray(whiten_kept(values, mask))[mask > 0], chosen / chosen.std(), rtol=1e-5
    )


def test_whitening_nothing_is_zero_with_a_zero_gradient():
    first = jax.jit(jax.value_and_grad(lambda values, mask: advantages.whiten(values, mask)[0]))
    value, gradient = first(np.full(3, np.nan, np.float32), np.zeros(3, np.float32))
    assert value == 0.0
    np.testing.assert_array_equal(gradient, np.zeros(3))
    assert np.isfinite(first(np.ones(3, np.float32), np.ones(3, np.float32))[1]).all()


def test_whitening_spans_the_devices():
    devices = jax.devices()[:2]
    over_two = jax.pmap(advantages.whiten, axis_name=parallel.AXIS, devices=devices)
    ones_and_threes = np.array([[1, 1], [3, 3]], np.float32)
    np.testing.assert_allclose(over_two(ones_and_threes), [[-1, -1], [1, 1]], rtol=1e-6)
    equal = np.full((2, 2), 0.7, np.float32)
    np.testing.assert_array_equal(over_two(equal), np.zeros((2, 2)))
