"""What an audit found: as a table, as rows, as JSON, as a picture."""

from __future__ import annotations

import dataclasses
import io
import json
import math
import pathlib
from typing import TYPE_CHECKING, Any

from rich import box
from rich.console import Console, Group
from rich.table import Table
from rich.text import Text

from jaxpg.diagnostics.moments import Moments

if TYPE_CHECKING:
    from matplotlib.figure import Figure

WIDTH = 120


@dataclasses.dataclass(frozen=True)
class Result:
    """One estimator.

    Attributes:
      name: of the estimator, as it was given.
      factor: constant by which minus the loss's gradient was multiplied.
      effective_sample_size: of the weights (stabiliser times ratio), as a share of the decisions,
        in [0, 1]; mean over batches. It is 1 where no ratio is taken, however stale the batch.
      masked_share: share of the decisions that the stabiliser set to 0; mean over batches.
      note: a sentence where there is something to say.
      moments: bias and variance.
    """

    name: str
    factor: float
    effective_sample_size: float
    masked_share: float
    note: str
    moments: Moments

    @property
    def row(self) -> dict[str, Any]:
        """Flat dict of plain values, the moments included."""
        own = {k: v for k, v in vars(self).items() if k not in ("name", "note", "moments")}
        return {"name": self.name, **vars(self.moments), **own, "note": self.note}


@dataclasses.dataclass(frozen=True)
class Report:
    """Estimators on one problem, on the same batches.

    Attributes:
      problem: its name.
      batch_size: rows of a batch.
      group_size: rows of a group.
      num_batches: sampled.
      staleness: root mean square distance of the logits that acted from the current ones.
      behaviour_kl: mean over decisions of KL(behaviour || current), nats.
      expected_return: exact, of the current policy.
      exact_norm: norm of the exact gradient.
      seed: of the batches.
      results: one for each estimator, in the order given.
    """

    problem: str
    batch_size: int
    group_size: int
    num_batches: int
    staleness: float
    behaviour_kl: float
    expected_return: float
    exact_norm: float
    seed: int
    results: tuple[Result, ...]

    @property
    def rows(self) -> list[dict[str, Any]]:
        """One flat dict for each estimator; the keys are those of `Result` and `Moments`."""
        return [result.row for result in self.results]

    def __getitem__(self, name: str) -> dict[str, Any]:
        """The row of one estimator."""
        for row in self.rows:
            if row["name"] == name:
                return row
        raise KeyError(f"no estimator {name!r}; the report has {[r['name'] for r in self.rows]}")

    def to_json(self) -> str:
        """The whole report as JSON; what is not finite becomes null."""
        settings = {k: v for k, v in vars(self).items() if k != "results"}
        plain = {**settings, "estimators": self.rows}
        return json.dumps(_finite(plain), indent=2, allow_nan=False)

    def table(self) -> Table:
        """The rows as a rich table, about 115 columns wide."""
        table = Table(
            title=f"Gradient audit: {self.problem}",
            box=box.SIMPLE_HEAD,
            padding=(0, 1, 0, 0),
            title_justify="left",
        )
        table.add_column("estimator", no_wrap=True)
        table.add_column("unbiased", no_wrap=True)
        for heading in ("bias ± error", "z", "cosine", "scale", "variance", "SNR", "ESS"):
            table.add_column(heading, justify="right", no_wrap=True)
        table.add_column("masked", justify="right")
        table.add_column("norm", justify="right")
        for result in self.results:
            table.add_row(*_cells(result))
        return table

    def plot(self, path: str | pathlib.Path | None = None) -> Figure:
        """Bias against variance, one labelled point for each estimator.

        Args:
          path: where to save the picture (the suffix says the format), or None.

        Returns:
          A matplotlib figure, not registered with pyplot.
        """
        from jaxpg.diagnostics import picture

        acted = f"staleness {self.staleness:g}" if self.staleness else "on-policy"
        figure = picture.draw(self.rows, f"{self.problem}, {acted}")
        if path is not None:
            figure.savefig(path, dpi=150)
        return figure

    def __rich__(self) -> Group:
        """What rich prints."""
        return Group(self.table(), Text(self._notes()))

    def __str__(self) -> str:
        """The table as plain text."""
        text = io.StringIO()
        Console(file=text, width=WIDTH, color_system=None).print(self)
        return "\n".join(line.rstrip() for line in text.getvalue().splitlines())

    def _notes(self) -> str:
        acted = "on-policy"
        if self.staleness:
            acted = f"staleness {self.staleness:g} (KL {self.behaviour_kl:.2g} nats a decision)"
        lines = [
            f"{self.num_batches} batches of {self.batch_size} rows in groups of "
            f"{self.group_size}, {acted}, seed {self.seed}.",
            f"Exact gradient: norm {self.exact_norm:.4g}. Expected return: "
            f"{self.expected_return:.4g}.",
            "Bias is relative to that norm; its error is what an unbiased estimator shows. "
            "Variance is the trace, of one batch.",
            "unbiased: z is at most 4. scaled: only the norm of the mean is biased.",
        ]
        lines += [f"{result.name}: {result.note}." for result in self.results if result.note]
        return "\n".join(lines)


def _cells(result: Result) -> list[str]:
    found = result.moments
    verdict = "yes" if found.unbiased else "scaled" if found.unbiased_direction else "no"
    return [
        result.name,
        verdict,
        f"{found.bias:.4f} ± {found.bias_error:.4f}",
        f"{found.bias_z:.1f}",
        "-" if math.isnan(found.cosine) else f"{found.cosine:.4f}",
        f"{found.scale:.3f}",
        f"{found.variance:.3g}",
        f"{found.signal_to_noise:.3g}",
        f"{result.effective_sample_size:.1%}",
        f"{result.masked_share:.1%}",
        f"{found.gradient_norm:.3g}",
    ]


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(each) for key, each in value.items()}
    if isinstance(value, list):
        return [_finite(each) for each in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
