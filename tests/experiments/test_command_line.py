import dataclasses
import pathlib

import pytest

from experiments import command_line
from experiments.command_line import UsageError


@dataclasses.dataclass(frozen=True)
class Config:
    learning_rate: float = 0.1
    num_envs: int = 8
    hidden: tuple[int, ...] = (64, 64)
    annealed: bool = False
    clip: float | None = None

    def __post_init__(self):
        if self.num_envs < 1:
            raise ValueError(f"num_envs is {self.num_envs}, but it has to be at least 1")


CONFIGS = {"smoke": Config(), "cpu": Config(num_envs=64)}


def parse(*argv):
    return command_line.parse("toy", CONFIGS, {"smoke": 2, "cpu": 10}, argv)


def test_the_budget_decides_the_defaults_wherever_it_stands():
    assert (parse().budget, parse().seeds, parse().config) == ("smoke", (0, 1), Config())
    options = parse("--config.learning_rate=0.5", "--budget=cpu")
    assert options.seeds == tuple(range(10))
    assert options.config == Config(learning_rate=0.5, num_envs=64)
    assert options.changed == ("learning_rate",)
    assert options.out == pathlib.Path("runs", "toy", "cpu")


def test_seeds_follow_the_first_one():
    assert parse("--seed=5", "--num_seeds", "3").seeds == (5, 6, 7)


def test_every_field_of_the_config_is_a_flag():
    options = parse(
        "--config.num_envs=3", "--config.hidden=(8,)", "--config.annealed", "--config.clip=0.2"
    )
    assert options.config == Config(num_envs=3, hidden=(8,), annealed=True, clip=0.2)
    assert parse("--noconfig.annealed").config == Config()


def test_parsing_leaves_the_budgets_as_they_were():
    parse("--config.num_envs=3")
    assert CONFIGS["smoke"] == Config()


def test_the_command_is_kept_without_the_folders_of_this_machine(tmp_path):
    inside = pathlib.Path.cwd() / "runs" / "x"
    assert parse(f"--out={inside}").command == "python -m experiments.toy --out=runs/x"
    elsewhere = parse("--seed=1", f"--out={tmp_path / 'mine'}").command
    assert elsewhere == "python -m experiments.toy --seed=1 --out=mine"


def test_help_lists_every_flag_with_its_default():
    text = parse("--help")
    for name in (*command_line.NAMES, "config.learning_rate", "config.clip"):
        assert f"--{name}" in text
    assert "smoke 8, cpu 64" in text


@pytest.mark.parametrize(
    ("argument", "said"),
    [
        ("--budget=cup", "--budget is 'cup', which is not a valid choice; did you mean 'cpu'?"),
        ("--budget=gpu", "--budget is 'gpu', which is not a valid choice"),
        ("--sed=1", "--sed is no flag of this experiment; did you mean '--seed'?"),
        ("--num_seeds=0", "--num_seeds is '0', but it has to be a positive integer"),
        ("--num_seeds=many", "--num_seeds is 'many', but a whole number is needed"),
        ("--seed=-1", "--seed is '-1', but it has to be an integer in the range"),
        ("--resume=maybe", "--resume is 'maybe', but true or false is needed"),
        ("--config.num_env=1", "did you mean '--config.num_envs'?"),
        ("--noconfig.anealed", "did you mean '--config.annealed'?"),
        ("--config.num_envs=2.5", "--config.num_envs is '2.5', but a whole number is needed"),
        ("--config.learning_rate=x", "--config.learning_rate is 'x', but a number is needed"),
        ("--config.num_envs=0", "num_envs is 0, but it has to be at least 1"),
        ("smoke", "'smoke' is no flag"),
    ],
)
def test_a_wrong_flag_is_one_sentence(argument, said):
    with pytest.raises(UsageError) as raised:
        parse(argument)
    assert said in str(raised.value)
    assert "\n" not in str(raised.value)
