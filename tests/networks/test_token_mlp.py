"""The perceptron over tokens: what it computes, by NumPy, and how a large one looks tokens up."""

import jax
import numpy as np
import pytest

from jaxpg import estimators, networks
from jaxpg.algorithms import rlvr
from jaxpg.networks import token_mlp as exported
from jaxpg.networks.token_mlp import TokenMLP, TokenMLPConfig
from jaxpg_envs.tokens import digit_sum

CONFIG = TokenMLPConfig(vocabulary_size=5, max_positions=6, hidden=(7, 4), value_head=True)
MASK = np.array([[0, 0, 1, 1, 1], [1, 1, 1, 0, 0], [1, 1, 1, 1, 1]], bool)
TOKENS = np.random.default_rng(0).integers(0, 5, MASK.shape)


@pytest.fixture(scope="module")
def params():
    shapes = jax.eval_shape(exported(CONFIG).init, jax.random.key(0))
    draw = np.random.default_rng(0)
    return jax.tree.map(lambda x: draw.normal(size=x.shape).astype(np.float32) * 0.5, shapes)


def by_hand(params, tokens):
    """Hidden state after all of these tokens: layers on one long vector of zeros and ones."""
    tree, places = params["params"], CONFIG.max_positions
    vector = np.zeros(places * 5 + places)
    for place, token in enumerate(tokens):
        vector[place * 5 + token] = 1.0
    vector[places * 5 + len(tokens) - 1] = 1.0
    first = np.concatenate([tree["tokens"].reshape(-1, 7), tree["places"]])
    stream = np.tanh(vector @ first)
    layer = tree["layers_0"]
    return np.tanh(stream @ layer["kernel"] + layer["bias"])


def test_it_is_a_perceptron_on_the_tokens_so_far(params):
    model = exported(CONFIG)
    hidden = jax.jit(model.hidden)(params, TOKENS, MASK)
    assert hidden.shape == (3, 5, 4)
    for row in range(3):
        real = np.flatnonzero(MASK[row])
        for number, place in enumerate(real):
            expected = by_hand(params, TOKENS[row, real[: number + 1]])
            np.testing.assert_allclose(hidden[row, place], expected, atol=1e-6)
    head, value = params["params"]["head"], params["params"]["value"]
    logits = np.asarray(hidden) @ head["kernel"] + head["bias"]
    np.testing.assert_allclose(model.logits(params, hidden), logits, atol=1e-5)
    values = (np.asarray(hidden) @ value["kernel"] + value["bias"])[..., 0]
    np.testing.assert_allclose(model.value(params, hidden), values, atol=1e-5)


@pytest.mark.parametrize("embedded", [False, True])
def test_a_lookup_gives_what_the_product_gives(params, monkeypatch, embedded):
    inputs = np.eye(5, dtype=np.float32)[TOKENS] if embedded else TOKENS
    run = lambda: TokenMLP(CONFIG).apply(params, inputs, MASK, method="hidden")
    small = run()
    # The package has a function of this module's name.
    module = __import__("sys").modules["jaxpg.networks.token_mlp"]
    monkeypatch.setattr(module, "LARGEST_ONE_HOT", 0)
    np.testing.assert_allclose(run()[MASK], small[MASK], atol=1e-6)


def test_it_learns_as_any_policy_does():
    task = digit_sum(2, 4, 2)
    model = networks.token_mlp(networks.TokenMLPConfig(4, 4, hidden=(8,)))
    agent = rlvr(task, model, estimators.grpo(), num_prompts=4, group_size=4)
    before = jax.jit(agent.init)(jax.random.key(0))
    after, metrics = jax.jit(agent.update)(before)
    # What the sampler said of its draws is what the learner says.
    assert abs(float(metrics["approximate_kl"])) < 1e-6 and metrics["gradient_norm"] > 0
    moved = jax.tree.map(lambda a, b: np.abs(a - b).max(), before.params, after.params)
    assert min(jax.tree.leaves(moved)) > 0


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"hidden": ()}, "hidden is \\(\\), but at least one layer"),
        ({"hidden": (8, 0)}, "hidden is \\(8, 0\\), but it has to be a tuple of whole numbers"),
        ({"hidden": 8}, "hidden is 8, but it has to be a tuple"),
        ({"max_positions": 0}, "max_positions is 0"),
    ],
)
def test_a_wrong_size_is_named(settings, message):
    with pytest.raises(ValueError, match=message):
        TokenMLPConfig(**{"vocabulary_size": 5, "max_positions": 6} | settings)
