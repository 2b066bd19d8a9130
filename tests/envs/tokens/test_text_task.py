"""Tasks in text: what the model is shown, and what the reward is told about its response."""

import dataclasses
import inspect
import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxpg_envs.tokens import HostReward, WholeBatch, text_task, transcripts
from jaxpg_envs.tokens.fingerprint import fingerprint
from jaxpg_envs.tokens.text import response_text

PIECES = ["<pad>", "<s>", "<end>", "<stop>", "<think>", "</think>", "xa", "by", "\n", " "]
LETTERS = [chr(code) for code in range(33, 127)]


class Tokenizer:
    """One token for each character and for a few longer pieces, the longest first."""

    vocabulary = PIECES + LETTERS
    vocabulary_size = len(vocabulary)
    bos_id = 1
    stop_ids = (2, 3)

    def encode(self, text):
        return [self.bos_id, *self.pieces(text)]

    def pieces(self, text):
        ids = []
        while text:
            piece = max(filter(text.startswith, self.vocabulary), key=len)
            ids.append(self.vocabulary.index(piece))
            text = text.removeprefix(piece)
        return ids

    def decode(self, ids, skip_special=False):
        hidden = range(1, 6) if skip_special else []
        return "".join(self.vocabulary[token] for token in ids if token not in hidden)

    def chat(self, messages):
        return "".join(f"{m['role'][0].upper()}{m['content']}<end>" for m in messages) + "A"

    def encode_chat(self, messages):
        return self.encode(self.chat(messages))


class Plain(Tokenizer):
    def encode(self, text):
        return self.pieces(text)


class Mute(Tokenizer):
    def encode(self, text):
        return []


EXAMPLES = [("2+2=", {"answer": "4"}), ("10+10=", {"answer": "20"}), ("2+2=", {"answer": "four"})]
tokenizer = Tokenizer()


def record(told):
    """A reward that remembers what it was told; it pays the length of the response."""

    def reward(prompts, responses, metadata):
        told.extend(zip(prompts, responses, metadata, strict=True))
        return [float(len(response)) for response in responses]

    return HostReward(WholeBatch(reward))


def task_of(examples=EXAMPLES, reward=None, **options):
    options = {"response_length": 6, **options}
    return text_task(tokenizer, examples, reward or record([]), **options)


def answered(task, texts, ids=None):
    """Evaluates the reward of responses in text, one for each of the first prompts."""
    length = task.response_length
    pieces = [tokenizer.pieces(text) for text in texts]
    tokens = np.array([ids + [0] * (length - len(ids)) for ids in pieces])
    mask = np.arange(length) < np.array([[len(ids)] for ids in pieces])
    finished = jnp.array([ids[-1:] != [] and ids[-1] in tokenizer.stop_ids for ids in pieces])
    prompts = task.prompts(jnp.arange(len(texts)) if ids is None else ids)
    return jax.jit(task.reward)(prompts, jnp.asarray(tokens), jnp.asarray(mask), finished)


def test_prompts_are_padded_on_the_left():
    task = task_of()
    prompts = jax.jit(task.prompts)(jnp.array([0, 1]))
    assert task.prompt_length == 7
    for row, (text, _) in enumerate(EXAMPLES[:2]):
        ids = tokenizer.encode(text)
        assert prompts.tokens[row].tolist() == [0] * (7 - len(ids)) + ids
        assert prompts.mask[row].tolist() == [False] * (7 - len(ids)) + [True] * len(ids)
    assert transcripts(task, prompts, jnp.array([[6], [7]]), jnp.ones((2, 1))) == [
        "<s>2+2= -> xa",
        "<s>10+10= -> by",
    ]


def test_prompts_vmap_and_refuse_ids_that_are_not_there():
    task = task_of()
    ids = jnp.array([[2, 0], [1, 1]])
    np.testing.assert_array_equal(jax.vmap(task.prompts)(ids).ids, ids)
    for wrong in (3, -1):
        with pytest.raises(ValueError, match="from 0 to 2"):
            task.prompts(jnp.array([0, wrong]))


def test_equal_prompts_with_different_answers_are_different_prompts():
    told = []
    task = task_of(reward=record(told))
    assert task.num_prompts == 3
    answered(task, ["a", "b", "c"])
    assert [(prompt, m["answer"]) for prompt, _, m in told] == [
        ("2+2=", "4"),
        ("10+10=", "20"),
        ("2+2=", "four"),
    ]


def test_the_reward_of_a_row_belongs_to_it():
    task = task_of()
    result = answered(task, ["a", "abc", "ab"])
    assert result.value.tolist() == [1.0, 3.0, 2.0]
    assert result.valid.all()
    prompts = task.prompts(jnp.array([2, 0]))
    assert task.reward(
        prompts, jnp.full((2, 6), 50), jnp.arange(6) < jnp.array([[4], [0]]), jnp.zeros(2, bool)
    ).value.tolist() == [4.0, 0.0]


@pytest.mark.parametrize(
    ("sampled", "text", "finished"),
    [
        ("4<end>", "4", True),
        ("4<stop>", "4", True),
        ("<think>4", "<think>4", False),
        ("<think></think>4<end>", "<think></think>4", True),
        ("4", "4", False),
        ("4\n5\n6", "4", True),
        ("\n4", "", True),
        ("<end>", "", True),
    ],
)
def test_the_reward_reads_the_text_up_to_the_stop(sampled, text, finished):
    """Special tokens that do not stop stay; those that do are removed, like all that follows."""
    told = []
    answered(task_of(reward=record(told)), [sampled])
    ((prompt, response, metadata),) = told
    assert (prompt, response, metadata["finished"]) == ("2+2=", text, finished)
    assert metadata["token_ids"] == tokenizer.pieces(sampled)
    assert metadata["answer"] == "4"


def test_a_stop_string_may_be_spread_over_tokens():
    told = []
    task = task_of(reward=record(told), stop_strings=("ab",))
    assert task.stop_strings == ("ab",)
    ids = tokenizer.pieces("xaby")
    assert len(ids) == 2
    answered(task, ["xaby"])
    assert told[0][1] == "x"
    assert told[0][2]["token_ids"] == ids
    assert told[0][2]["finished"]


def test_the_first_of_several_stops_counts():
    ids = tokenizer.pieces("one;two.<end>three")
    assert response_text(tokenizer, ids, [".", ";"]) == ("one", True)
    assert response_text(tokenizer, ids) == ("one;two.", True)
    assert response_text(tokenizer, ids[:3]) == ("one", False)


def test_tokens_behind_the_mask_do_not_count():
    told = []
    task = task_of(reward=record(told))
    prompts = task.prompts(jnp.array([0]))
    mask = jnp.array([[True, True, False, False, False, False]])
    for rest in (0, 2, 40):
        tokens = jnp.array([[60, 61, rest, rest, rest, rest]])
        task.reward(prompts, tokens, mask, jnp.array([False]))
    assert len({response for _, response, _ in told}) == 1


def test_overlong_prompts_are_refused_or_skipped_but_never_cut():
    with pytest.raises(ValueError, match="1 of 3 prompts.*prompt_length=6 tokens, the longest 7"):
        task_of(prompt_length=6)
    with pytest.warns(RuntimeWarning, match="left out"):
        task = task_of(prompt_length=6, overlong="skip")
    assert task.num_prompts == 2
    shown = task.prompts(jnp.arange(2)).tokens.tolist()
    assert shown == [[0, *tokenizer.encode("2+2=")]] * 2
    assert task_of(prompt_length=9).prompts(jnp.array([1])).mask.sum() == 7


def test_held_out_prompts_have_their_own_metadata():
    told = []
    held_out = [("7+7=", {"answer": "14"}), ("8+8=", {"answer": "16"})]
    task = task_of(reward=record(told), held_out=held_out)
    assert (task.num_prompts, task.num_held_out) == (3, 2)
    prompts = task.held_out(jnp.array([1]))
    tokens = jnp.full((1, 6), 50)
    task.reward(prompts, tokens, tokens > 0, jnp.array([False]))
    assert told[0][0] == "8+8="
    assert told[0][2]["answer"] == "16"
    with pytest.raises(ValueError, match="from 0 to 1"):
        task.held_out(jnp.array([2]))


def test_held_out_prompts_are_not_trained_on():
    task = task_of(EXAMPLES[:2], held_out=1)
    assert (task.num_prompts, task.num_held_out) == (1, 1)
    with pytest.raises(ValueError, match=r"1 prompts that are also trained on, such as '2\+2='"):
        task_of(held_out=1)
    assert task_of().held_out(jnp.array([0])).tokens.shape == (1, 7)


def test_templates_and_conversations():
    def shown(**options):
        task = task_of([("2 {x}", {})], **options)
        prompt = task.prompts(jnp.array([0]))
        return tokenizer.decode(prompt.tokens[0][prompt.mask[0]].tolist())

    assert shown(template="Q: {prompt}\nA:") == "<s>Q: 2 {x}\nA:"
    assert shown(template=str.upper) == "<s>2 {X}"
    assert shown(template="({prompt})", chat=True) == "<s>U(2 {x})<end>A"
    messages = [{"role": "system", "content": "Be"}, {"role": "user", "content": "2"}]
    told = []
    task = task_of([(messages, {})], reward=record(told))
    prompt = task.prompts(jnp.array([0]))
    assert tokenizer.decode(prompt.tokens[0].tolist()) == "<s>SBe<end>U2<end>A"
    answered(task, ["a"])
    assert told[0][0] == messages


@pytest.mark.parametrize(("adds_bos", "begins"), [(True, "<s>"), (False, "")])
def test_a_prompt_begins_as_the_model_wants_it(adds_bos, begins):
    """Whether the tokenizer adds the token, or says that it has to be added, or neither."""
    plain = Plain()
    plain.adds_bos = adds_bos
    for tokenizes, expected in ((plain, begins), (tokenizer, "<s>")):
        for template in ("{prompt}", f"{expected}{{prompt}}" if tokenizes is plain else "{prompt}"):
            task = text_task(tokenizes, EXAMPLES, record([]), response_length=6, template=template)
            prompt = task.prompts(jnp.array([0]))
            ids = prompt.tokens[0][prompt.mask[0]].tolist()
            assert tokenizer.decode(ids) == f"{expected}2+2="


def test_a_prompt_does_not_begin_twice():
    with pytest.raises(ValueError, match="begins a text twice"):
        task_of(template="<s>{prompt}")


def test_conversations_need_token_ids():
    class Renders(Tokenizer):
        encode_chat = None

    with pytest.raises(TypeError, match="needs encode_chat"):
        text_task(Renders(), EXAMPLES, record([]), response_length=6, chat=True)


def test_settings_tell_data_apart():
    same = task_of(list(EXAMPLES)).settings
    assert same == task_of().settings
    changed = [
        task_of([EXAMPLES[0], EXAMPLES[1]]),
        task_of([*EXAMPLES[:2], ("2+2=", {"answer": "five"})]),
        task_of([EXAMPLES[1], EXAMPLES[0], EXAMPLES[2]]),
        task_of(EXAMPLES[:2], held_out=1),
        task_of(stop_strings=()),
        task_of(response_length=7),
        task_of(template="{prompt} "),
    ]
    seen = [same, *(task.settings for task in changed)]
    assert all(seen[i] != seen[j] for i in range(8) for j in range(i))


def test_fingerprints_are_the_same_in_every_process():
    value = [{"ab", "c", "d"}, {"x": None, 1: (2.5, True)}, b"e"]
    path = inspect.getsourcefile(fingerprint)
    program = f"import runpy; print(runpy.run_path({path!r})['fingerprint']({value!r}))"
    for seed in "12":
        found = subprocess.check_output(
            [sys.executable, "-c", program], env={**os.environ, "PYTHONHASHSEED": seed}, text=True
        )
        assert found.strip() == fingerprint(value)


def test_fingerprints_tell_structures_apart():
    assert fingerprint(np.arange(3)) != fingerprint(np.arange(3.0))
    assert fingerprint([[1], 2]) != fingerprint([1, [2]])
    assert fingerprint([object()]) == fingerprint([object()])


def test_python_rewards_run_as_they_are():
    task = task_of(reward=lambda prompt, response, metadata: response == metadata["answer"])
    assert answered(task, ["4", "21", "four"]).value.tolist() == [1.0, 0.0, 1.0]


def test_wrong_arguments_are_named():
    for arguments, message in [
        ({"examples": []}, "examples is empty"),
        ({"overlong": "cut"}, "overlong='cut' is not one of 'refuse', 'skip'"),
        ({"template": "Q: A:"}, "must contain '{prompt}'"),
        ({"held_out": 3}, "held_out=3 must be from 0 to 2"),
        ({"prompt_length": 0}, "prompt_length=0"),
        ({"response_length": 0}, "response_length=0"),
    ]:
        with pytest.raises(ValueError, match=message):
            task_of(**arguments)
    with pytest.raises(ValueError, match="no tokens"):
        text_task(Mute(), EXAMPLES, record([]), response_length=6)
    for examples in (["2+2="], [("2+2=", "4")], [(3, {})]):
        with pytest.raises(TypeError, match="examples holds"):
            task_of(examples)
    with pytest.raises(TypeError, match="stop_strings"):
        task_of(stop_strings="\n")


def test_tasks_can_be_static_arguments():
    task = task_of()
    assert hash(task) != hash(dataclasses.replace(task, name="other"))
