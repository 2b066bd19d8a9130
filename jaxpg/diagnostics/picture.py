"""The audit's picture: bias against variance, labels beside the plot so that none overlap."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib import ticker
from matplotlib.figure import Figure

from jaxpg.labels import spread

if TYPE_CHECKING:
    from matplotlib.axes import Axes


COLOURS = {
    "unbiased (z at most 4)": "#1f6fb2",
    "biased in scale only": "#b7791f",
    "biased in direction": "#c0392b",
}


def draw(rows: Sequence[Mapping[str, Any]], title: str) -> Figure:
    """Draws the rows of a report.

    Args:
      rows: of a `Report`.
      title: of the picture.

    Returns:
      A figure. Estimators whose gradient is always 0 have no variance and are left out.
    """
    rows = [row for row in rows if row["variance"] > 0]
    figure = Figure(figsize=(10, max(5.5, 0.3 * len(rows) + 1.5)))
    figure.subplots_adjust(left=0.09, right=0.73, top=0.92, bottom=0.11)
    axes = figure.add_subplot()
    axes.set_xscale("log")
    axes.set_yscale("log")
    if rows:
        # Estimators that agree would leave the axis without any width.
        variances = [row["variance"] for row in rows]
        axes.set_xlim(min(variances) / 1.3, max(variances) * 1.3)
    for row in rows:
        below = min(row["bias_error"], 0.8 * row["bias"])
        axes.errorbar(
            row["variance"],
            row["bias"],
            yerr=[[below], [row["bias_error"]]],
            fmt="o",
            color=COLOURS[_verdict(row)],
            markersize=5,
            capsize=2,
            linewidth=1,
        )
    axes.set_xlabel("variance of one batch (trace of the covariance)")
    axes.set_ylabel("|bias| / |exact gradient|, bar: standard error")
    axes.set_title(title, loc="left")
    axes.grid(which="major", alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    for label, colour in COLOURS.items():
        if any(_verdict(row) == label for row in rows):
            axes.plot([], [], "o", color=colour, label=label)
    if rows:
        axes.legend(loc="best", frameon=False)
        _tick(axes)
        _label(axes, rows)
    return figure


def _verdict(row: dict) -> str:
    unbiased, scale_only, biased = COLOURS
    if row["unbiased"]:
        return unbiased
    return scale_only if row["unbiased_direction"] else biased


def _tick(axes: Axes) -> None:
    """Ticks at 1, 2 and 5 where there are few decades, as plain numbers."""
    for axis, (low, high) in ((axes.xaxis, axes.get_xlim()), (axes.yaxis, axes.get_ylim())):
        steps = (1.0, 2.0, 5.0) if high / low < 200 else (1.0,)
        axis.set_major_locator(ticker.LogLocator(subs=steps))
        axis.set_major_formatter(ticker.FuncFormatter(lambda value, _: f"{value:.3g}"))
        axis.set_minor_formatter(ticker.NullFormatter())


def _label(axes: Axes, rows: list[dict]) -> None:
    """Puts the names in a column on the right, in order of height, with a line to each point."""
    points = axes.transAxes.inverted().transform(
        axes.transData.transform([(row["variance"], row["bias"]) for row in rows])
    )
    # Of points at one height, the label of the rightmost one goes on top.
    order = np.lexsort((points[:, 0], np.round(points[:, 1], 3)))
    heights = spread(points[order, 1], min(0.05, 1.0 / max(len(rows) - 1, 1)))
    for place, height in zip(order, heights, strict=True):
        colour = COLOURS[_verdict(rows[place])]
        axes.annotate(
            rows[place]["name"],
            xy=points[place],
            xycoords="axes fraction",
            xytext=(1.06, height),
            textcoords="axes fraction",
            va="center",
            fontsize=9,
            color=colour,
            annotation_clip=False,
            arrowprops={
                "arrowstyle": "-",
                "relpos": (0.0, 0.5),
                "color": colour,
                "alpha": 0.35,
                "linewidth": 0.7,
            },
        )
