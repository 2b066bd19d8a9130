"""A row of the catalogue, and its state, which recorded runs alone can raise to a verdict."""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Mapping
from typing import Any

from experiments import recording

STATES = ("planned", "implemented", "reproduced", "not reproduced")


@dataclasses.dataclass(frozen=True)
class System:
    """One published system.

    Attributes:
      slug: names its experiment and its recorded run.
      arxiv: identifier of the paper.
      title: name and what it is, joined by a dash.
      implementation: dotted names of what implements it; empty while it is planned.
    """

    slug: str
    arxiv: str
    title: str
    implementation: tuple[str, ...] = ()

    @property
    def year(self) -> int:
        """Of the paper's first version."""
        return 2000 + int(self.arxiv[:2])

    @property
    def experiment(self) -> str:
        """Dotted name of the module that tests its claim; empty if there is none."""
        module = self.slug.replace("-", "_")
        found = pathlib.Path(recording.ROOT, "experiments", f"{module}.py").exists()
        return f"experiments.{module}" if found else ""

    def state(self, results: Mapping[str, Mapping[str, Any]]) -> str:
        """How far it is.

        Args:
          results: recorded summaries by system.

        Returns:
          One of `STATES`: the verdict of the recorded run, if there is one.
        """
        if self.slug in results:
            return results[self.slug]["verdict"]
        return "implemented" if self.implementation else "planned"
