"""The flags that every experiment shares, and one for each field of its config."""

from __future__ import annotations

import dataclasses
import importlib.util
import pathlib
import re
import shlex
import typing
from collections.abc import Mapping, Sequence
from typing import Any

from absl import flags
from ml_collections import config_flags

from jaxpg.choices import nearest, one_of

BUDGETS = ("smoke", "cpu", "gpu")
NAMES = (
    "budget",
    "seed",
    "num_seeds",
    "out",
    "resume",
    "record",
    "progress",
    "tensorboard",
    "help",
)
REASONS = {
    r"invalid literal for int\(\).*": "but a whole number is needed",
    r"could not convert string to float.*": "but a number is needed",
    r".*Non-boolean argument.*": "but true or false is needed",
    r".* is not (an? .*)": r"but it has to be \1",
}
"""What absl says about a value, and how the sentence goes on."""


class UsageError(ValueError):
    """A flag's value is no good; the message is one sentence for the user."""


@dataclasses.dataclass(frozen=True)
class Options:
    """What the command line said.

    Attributes:
      budget: one of `BUDGETS`.
      seeds: of the runs, one after the other from `--seed`.
      out: folder of the run.
      resume: go on with the run in `out`.
      record: store the summary among the recorded runs.
      progress: show progress on stderr.
      tensorboard: write TensorBoard events.
      config: of the experiment, with its flags applied.
      changed: fields of the config that a flag changed.
      command: what was typed, without absolute paths.
    """

    budget: str
    seeds: tuple[int, ...]
    out: pathlib.Path
    resume: bool
    record: bool
    progress: bool
    tensorboard: bool
    config: Any
    changed: tuple[str, ...]
    command: str


def parse(
    module: str,
    configs: Mapping[str, Any],
    num_seeds: Mapping[str, int],
    argv: Sequence[str],
) -> Options | str:
    """Reads the command line of an experiment.

    Args:
      module: name of the experiment's module.
      configs: a dataclass instance for each budget.
      num_seeds: default of `--num_seeds` for each budget.
      argv: without the program's name.

    Returns:
      The `Options`; or the help text, if it was asked for.

    Raises:
      UsageError: a sentence about the first flag that is wrong.
    """
    argv = [module, *argv]
    try:
        budget = _budget(argv, configs)
        values = _define(budget, num_seeds[budget])
        _check_fields(argv, configs[budget])
        config_flags.DEFINE_config_dataclass(
            "config", _mutable(configs[budget]), flag_values=values, sys_argv=argv
        )
        positional = values(argv)[1:]
    except flags.UnrecognizedFlagError as error:
        known = [f"--{name}" for name in NAMES] + [f"--{n}" for n in _fields(configs[budget])]
        given = f"--{error.flagname}"
        raise UsageError(
            f"{given} is no flag of this experiment{nearest(given, known)} "
            f"The flags are {', '.join(known)}"
        ) from error
    except flags.Error as error:
        raise UsageError(_sentence(str(error))) from error
    if values.help:
        return _help(module, configs, values)
    if positional:
        raise UsageError(
            f"{positional[0]!r} is no flag: write --name=value, for example --budget=smoke"
        )
    if values.tensorboard and importlib.util.find_spec("tensorboardX") is None:
        raise UsageError('--tensorboard needs tensorboardX: pip install "jaxpg[tensorboard]"')
    config, changed = _config(values.config, configs[budget])
    return Options(
        budget=budget,
        seeds=tuple(range(values.seed, values.seed + values.num_seeds)),
        out=pathlib.Path(values.out or pathlib.Path("runs", module, budget)),
        resume=values.resume,
        record=values.record,
        progress=values.progress,
        tensorboard=values.tensorboard,
        config=config,
        changed=changed,
        command=_command(module, argv[1:]),
    )


def _budget(argv: Sequence[str], configs: Mapping[str, Any]) -> str:
    """The budget comes first: it decides the defaults of all other flags."""
    values = flags.FlagValues()
    flags.DEFINE_string("budget", "smoke", "", flag_values=values)
    values(list(argv), known_only=True)
    try:
        one_of("--budget", values.budget, configs)
    except ValueError as error:
        raise UsageError(str(error)) from error
    return values.budget


def _define(budget: str, num_seeds: int) -> flags.FlagValues:
    values = flags.FlagValues()
    installed = importlib.util.find_spec("tensorboardX") is not None

    def define(kind, name, default, text, **bounds):
        getattr(flags, f"DEFINE_{kind}")(name, default, text, flag_values=values, **bounds)

    define("string", "budget", budget, "smoke (seconds), cpu (minutes on two cores) or gpu")
    define("integer", "seed", 0, "first seed", lower_bound=0, upper_bound=2**31 - 1)
    define("integer", "num_seeds", num_seeds, "seeds from the first one on", lower_bound=1)
    define("string", "out", None, "folder of the run; runs/<experiment>/<budget> if left out")
    define("bool", "resume", False, "go on with the run in the folder")
    define("bool", "record", False, "store the summary among the recorded runs")
    define("bool", "progress", True, "show progress on stderr")
    define("bool", "tensorboard", installed, "write TensorBoard events")
    define("bool", "help", False, "show the flags", short_name="h")
    return values


def _sentence(said: str) -> str:
    """Absl's message about a value, in the words of the other errors."""
    found = re.match(r"flag --(\S+?)=(.*?): (.*)", said, flags=re.DOTALL)
    for pattern, reason in REASONS.items():
        match = found and re.fullmatch(pattern, found[3], flags=re.DOTALL)
        if match:
            return f"--{found[1]} is {found[2]!r}, {match.expand(reason)}"
    return said.replace("\n", " ")


def _fields(config: Any) -> list[str]:
    return [f"config.{field.name}" for field in dataclasses.fields(config)]


def _check_fields(argv: Sequence[str], config: Any) -> None:
    known = [f"--{name}" for name in _fields(config)]
    for argument in argv:
        found = re.match(r"--?(?:no)?(config\..*?)(=|$)", argument)
        if found and f"--{found[1]}" not in known:
            given = f"--{found[1]}"
            raise UsageError(
                f"{given} is no field of the config{nearest(given, known)} "
                f"The fields are {', '.join(known)}"
            )


def _mutable(config: Any) -> Any:
    """A copy of a frozen dataclass that the flags can set."""
    hints = typing.get_type_hints(type(config))
    names = [field.name for field in dataclasses.fields(config)]
    kind = dataclasses.make_dataclass(
        type(config).__name__, [(name, hints[name]) for name in names]
    )
    return kind(**{name: getattr(config, name) for name in names})


def _config(parsed: Any, default: Any) -> tuple[Any, tuple[str, ...]]:
    names = [field.name for field in dataclasses.fields(default)]
    changed = tuple(n for n in names if getattr(parsed, n) != getattr(default, n))
    try:
        return dataclasses.replace(default, **{n: getattr(parsed, n) for n in changed}), changed
    except (ValueError, TypeError) as error:
        raise UsageError(str(error)) from error


def _command(module: str, argv: Sequence[str]) -> str:
    return shlex.join(["python", "-m", f"experiments.{module}", *map(_relative, argv)])


def _relative(argument: str) -> str:
    """A summary travels: it says nothing about the folders of a machine."""
    name, equals, value = argument.rpartition("=")
    path = pathlib.Path(value)
    if not path.is_absolute():
        return argument
    here = pathlib.Path.cwd()
    shown = path.relative_to(here) if path.is_relative_to(here) else path.name
    return f"{name}{equals}{shown}"


def _help(module: str, configs: Mapping[str, Any], values: flags.FlagValues) -> str:
    lines = [f"python -m experiments.{module} [flags]", ""]
    lines += [
        f"  --{name}: {values[name].help} (default {values[name].default!r})" for name in NAMES
    ]
    lines += ["", "  and the fields of the config, by budget:"]
    for field in _fields(configs["smoke"]):
        name = field.removeprefix("config.")
        defaults = ", ".join(f"{b} {getattr(c, name)!r}" for b, c in configs.items())
        lines.append(f"  --{field}: {defaults}")
    return "\n".join(lines)
