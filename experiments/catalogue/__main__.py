"""Writes the README's tables from the recorded runs; with --check, says whether they differ."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from absl import flags

from experiments.catalogue import table


def main(argv: Sequence[str] | None = None) -> int:
    """Runs from the command line.

    Args:
      argv: flags; None takes the process's.

    Returns:
      The exit code: 0; 1 if `--check` finds a difference; 2 for a wrong flag or README.
    """
    values = flags.FlagValues()
    flags.DEFINE_bool("check", False, "change nothing", flag_values=values)
    try:
        rest = values(["catalogue", *(sys.argv[1:] if argv is None else argv)])[1:]
        if rest:
            raise flags.Error(f"{rest[0]!r} is no flag; the only one is --check")
        before = table.README.read_text(encoding="utf-8")
        after = table.rewritten(before, table.recorded_runs(), table.recorded_benchmarks())
    except (flags.Error, ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    if values.check:
        if before != after:
            print("README.md differs from the recorded runs: run `make table`", file=sys.stderr)
        return int(before != after)
    if before != after:
        table.README.write_text(after, encoding="utf-8")
    print(f"README.md: {'written' if before != after else 'nothing to change'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
