"""Problems of the package reasoning-gym, against the package itself."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxpg_envs.tokens import compact, reasoning_gym
from jaxpg_envs.tokens.answers import last_number, whole
from jaxpg_envs.tokens.reasoning_gym_problems import ReasoningScore, distinct_problems

package = pytest.importorskip("reasoning_gym")


class Characters:
    """One token for each character; token 0 stops."""

    vocabulary_size = 128
    stop_ids = (0,)

    def encode(self, text):
        return list(map(ord, text))

    def decode(self, ids, skip_special=False):
        return "".join(map(chr, ids))


def products(**options):
    options = {
        "size": 40,
        "num_held_out": 10,
        "format_prompt": compact,
        "max_digits": 1,
        "num_workers": 0,
        **options,
    }
    return reasoning_gym(Characters(), "products", **options)


def shown(prompts):
    """Texts of prompts."""
    pairs = zip(np.asarray(prompts.tokens), np.asarray(prompts.mask), strict=True)
    return [Characters().decode(tokens[mask].tolist()) for tokens, mask in pairs]


def scored(task, prompts, responses):
    length = task.response_length
    tokens = np.array([Characters().encode(text.ljust(length, "\0")) for text in responses])
    mask = np.arange(length) < np.array([[len(text)] for text in responses])
    finished = jnp.zeros(len(responses), bool)
    return task.reward(prompts, jnp.asarray(tokens), jnp.asarray(mask), finished)


def test_right_answers_score_1_and_others_less():
    task = products()
    prompts = task.prompts(jnp.arange(40))
    right = [str(eval(text.removesuffix("="))) for text in shown(prompts)]
    for written in (
        right,
        [f" {answer}" for answer in right],
        [f"{answer}\n1" for answer in right],
    ):
        assert (scored(task, prompts, written).value == 1.0).all()
    for wrong in ([f"{answer}1" for answer in right], [""] * 40, ["none"] * 40):
        assert (scored(task, prompts, wrong).value < 1.0).all()


def test_no_problem_stands_twice():
    task = products(size=60, num_held_out=30, num_shots=10)
    training = shown(task.prompts(jnp.arange(60)))
    held_out = shown(task.held_out(jnp.arange(30)))
    *solved, _ = training[0].split("\n")
    problems = [text.split("\n")[-1] for text in training + held_out]
    problems += [line.split("=")[0] + "=" for line in solved]
    assert len(problems) == len(set(problems)) == 100
    assert all(eval(line.replace("=", "==")) for line in solved)


def test_held_out_problems_do_not_depend_on_the_size():
    held_out = [shown(products(size=size).held_out(jnp.arange(10))) for size in (1, 40)]
    assert held_out[0] == held_out[1]


def test_neighbouring_seeds_draw_different_problems():
    found = [
        shown(products(size=100, seed=seed, max_digits=5, min_digits=5).prompts(jnp.arange(100)))
        for seed in (0, 0, 1)
    ]
    assert found[0] == found[1]
    assert not set(found[0]) & set(found[2])


def test_prefix_suffix_and_solved_problems():
    task = products(size=1, num_shots=1, prefix="Multiply.\n", suffix=" ?")
    (text,) = shown(task.prompts(jnp.array([0])))
    first, solved, problem = text.split("\n")
    assert first == "Multiply."
    expression, answer = solved.split(" = ? ")
    assert eval(expression) == int(answer)
    assert problem.endswith(" = ?")
    assert task.prompt_length == len(text)


@pytest.mark.parametrize(
    "family", ["products", "chain_sum", "basic_arithmetic", "decimal_chain_sum"]
)
def test_the_compact_form_is_the_expression_of_the_package(family):
    for entry in package.create_dataset(family, size=100, seed=3):
        assert compact(entry["question"]) == f"{entry['metadata']['expression']} ="


def test_the_compact_form_needs_an_expression():
    with pytest.raises(ValueError, match="no arithmetic expression"):
        compact("What is the capital of France?")


def test_countdown_accepts_only_the_numbers_of_the_puzzle():
    score = ReasoningScore("countdown", {}, whole)
    entry = {
        "question": "",
        "answer": "(2+3)*4",
        "metadata": {"numbers": [2, 3, 4], "target": 20},
    }
    assert score("", "(2+3)*4", entry) == 1.0
    assert score("", "5*4", entry) < 1.0
    assert score("", "(2+3)*4*1", entry) < 1.0


def test_answers_that_the_package_raises_for_score_0():
    entry = package.create_dataset("prime_factorization", size=1, seed=0)[0]
    score = ReasoningScore("prime_factorization", {}, whole)
    assert score("", entry["answer"], entry) == 1.0
    for answer in ("zzz", "", None):
        assert score("", answer, entry) == 0.0


def test_the_answer_is_extracted_before_it_is_scored():
    entry = package.create_dataset("chain_sum", size=1, seed=0)[0]
    sentence = f"I think it is {entry['answer']}."
    assert ReasoningScore("chain_sum", {}, last_number)("", sentence, entry) == 1.0
    assert ReasoningScore("chain_sum", {}, whole)("", sentence, entry) < 1.0


def test_workers_score_like_this_process():
    task = products(num_workers=1, time_limit=60.0)
    prompts = task.prompts(jnp.arange(4))
    responses = ["0", "12", "24", "none"]
    result = jax.jit(lambda: scored(task, prompts, responses))()
    np.testing.assert_array_equal(result.value, scored(products(), prompts, responses).value)
    assert result.valid.all()


def test_small_families_say_how_many_problems_they_have():
    with pytest.raises(
        ValueError, match="has 100 distinct problems in .* draws, fewer than the 201"
    ):
        products(size=191)
    assert len(distinct_problems("products", {"max_digits": 1}, 100, 0)) == 100


def test_response_lengths():
    task = products()
    assert task.response_length == 2 + 8
    with pytest.warns(RuntimeWarning, match="more than response_length=2 tokens, the longest 3"):
        products(response_length=2)


@pytest.mark.parametrize(
    ("error", "name", "options", "message"),
    [
        (ValueError, "product", {}, "did you mean 'products'"),
        (TypeError, "products", {"max_digit": 1}, "did you mean 'max_digits'"),
        (ValueError, "products", {"min_digits": 0}, "min_digits must be positive.*min_terms=2"),
        (ValueError, "products", {"min_digits": "1"}, "its settings are"),
        (ValueError, "products", {"size": 0}, "size=0 must be at least 1"),
        (ValueError, "game_of_life_halting", {}, "cannot tell right from wrong"),
        (ValueError, "graph_color", {}, "gives no right answers"),
        (ValueError, "mini_sudoku", {}, "cut at the stop strings"),
        (ValueError, "chain_sum", {"extract": "boxed"}, "another extract"),
    ],
)
def test_wrong_arguments_are_named(error, name, options, message):
    with pytest.raises(error, match=message):
        reasoning_gym(Characters(), name, **{"size": 3, **options})
