"""The picture of an experiment: curves with bands over seeds, each labelled where it ends."""

from __future__ import annotations

import pathlib
from collections.abc import Mapping

import numpy as np
from matplotlib import ticker
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments.method_runs import Curve, MethodRun
from experiments.statistics import interval
from jaxpg.labels import spread

# Okabe and Ito 2008, the order changed so that the first ones differ most; yellow is left out.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
GREY = "#6b6b6b"
PANEL = (8.0, 4.5)
DOTS_PER_INCH = 120
BAND_SEEDS = 5
"""From this many seeds on a band is the interval of the mean; below, it spans the seeds."""


def draw(
    runs: Mapping[str, MethodRun],
    *,
    title: str,
    metric: str,
    x_label: str,
    threshold: float | None = None,
) -> Figure:
    """Draws what the methods left.

    Args:
      runs: by method; the first one is drawn on top.
      title: of the picture.
      metric: label of the final values, and of the panel that the threshold belongs to.
      x_label: of the curves.
      threshold: a dashed line at this value.

    Returns:
      A figure with one panel for each label of a curve; or with the final values, if there are no
      curves.
    """
    labels = list(dict.fromkeys(label for run in runs.values() for label in run.curves))
    panels = max(len(labels), 1)
    figure = Figure(figsize=(PANEL[0], PANEL[1] * panels), dpi=DOTS_PER_INCH, layout="constrained")
    axes = figure.subplots(panels, squeeze=False)[:, 0]
    # Above the line that explains the bands, which a long title would run into.
    axes[0].set_title(title, loc="left", fontsize=12, fontweight="bold", pad=20 if labels else None)
    colours = {name: COLOURS[i % len(COLOURS)] for i, name in enumerate(runs)}
    for place, label in zip(axes, labels, strict=False):
        curves = {name: run.curves[label] for name, run in runs.items() if label in run.curves}
        _curves(place, curves, colours, threshold if place is axes[0] else None)
        place.set_ylabel(label)
        place.set_xlabel(x_label)
    if not labels:
        _final_values(axes[0], runs, colours, threshold)
        axes[0].set_xlabel(metric)
    for place in axes:
        place.spines[["top", "right"]].set_visible(False)
    return figure


def save(figure: Figure, path: pathlib.Path) -> None:
    """Writes a picture.

    Args:
      figure: any.
      path: ends in .png.
    """
    figure.savefig(path, facecolor="white")


def band(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Lower and upper edge of the band of a curve.

    Args:
      values: `[N, num_seeds]`.

    Returns:
      `(low, high)`, each `[N]`: the bootstrapped 95% interval of the mean, or the smallest and
      largest seed where there are fewer than `BAND_SEEDS`.
    """
    if values.shape[1] < BAND_SEEDS:
        return values.min(axis=1), values.max(axis=1)
    return interval(values, num_resamples=1_999)


def _curves(
    axes: Axes, curves: Mapping[str, Curve], colours: Mapping[str, str], threshold: float | None
) -> None:
    for rank, (name, curve) in enumerate(curves.items()):
        order = 3 + len(curves) - rank
        low, high = band(curve.y)
        axes.fill_between(
            curve.x, low, high, color=colours[name], alpha=0.18, linewidth=0, zorder=order - 0.5
        )
        axes.plot(
            curve.x,
            curve.y.mean(axis=1),
            color=colours[name],
            linewidth=2.4 if rank == 0 else 1.6,
            marker="o" if len(curve.x) == 1 else None,
            zorder=order,
        )
    if threshold is not None:
        axes.axhline(threshold, color=GREY, linestyle=(0, (4, 3)), linewidth=1, zorder=2)
    axes.margins(x=0.0)
    if min(curve.x[0] for curve in curves.values()) >= 0:
        axes.set_xlim(left=0)
    axes.grid(axis="y", alpha=0.25, linewidth=0.7)
    axes.xaxis.set_major_formatter(ticker.EngFormatter(sep=""))
    _label_ends(axes, curves, colours, threshold)
    seeds = min(curve.y.shape[1] for curve in curves.values())
    what = "bootstrapped 95% interval of the mean" if seeds >= BAND_SEEDS else "all seeds"
    axes.text(
        1.0,
        1.02,
        f"band: {what}, {seeds} seeds",
        transform=axes.transAxes,
        ha="right",
        va="bottom",
        fontsize=8,
        color=GREY,
    )


def _label_ends(
    axes: Axes, curves: Mapping[str, Curve], colours: Mapping[str, str], threshold: float | None
) -> None:
    ends = {name: float(curve.y[-1].mean()) for name, curve in curves.items()}
    texts = {name: (name, colours[name]) for name in ends}
    if threshold is not None:
        ends["threshold of the rule"] = threshold
        texts["threshold of the rule"] = (f"{threshold:g}".replace("-", "\N{MINUS SIGN}"), GREY)
    ends = {name: end for name, end in ends.items() if np.isfinite(end)}
    if not ends:
        return
    low, high = axes.get_ylim()
    axes.set_ylim(low, high)
    heights = [(end - low) / (high - low) for end in ends.values()]
    for name, height, moved in zip(ends, heights, spread(heights, 0.065), strict=True):
        text, colour = texts[name]
        axes.annotate(
            text,
            xy=(1.0, height),
            xycoords="axes fraction",
            xytext=(1.03, moved),
            textcoords="axes fraction",
            va="center",
            fontsize=10,
            color=colour,
            annotation_clip=False,
            arrowprops={
                "arrowstyle": "-",
                "relpos": (0.0, 0.5),
                "color": colour,
                "alpha": 0.5,
                "linewidth": 0.8,
                "shrinkA": 1,
                "shrinkB": 0,
            },
        )


def _final_values(
    axes: Axes,
    runs: Mapping[str, MethodRun],
    colours: Mapping[str, str],
    threshold: float | None,
) -> None:
    for row, (name, run) in enumerate(runs.items()):
        low, high = interval(run.values)
        axes.plot(run.values, np.full(len(run.values), row), "o", color=colours[name], alpha=0.35)
        if np.isfinite(low):
            axes.plot([low, high], [row, row], color=colours[name], linewidth=3, alpha=0.8)
        axes.plot(run.values.mean(), row, "D", color=colours[name], markersize=8)
    axes.set_yticks(range(len(runs)), runs)
    for label, name in zip(axes.get_yticklabels(), runs, strict=True):
        label.set_color(colours[name])
    axes.set_ylim(len(runs) - 0.5, -0.5)
    axes.grid(axis="x", alpha=0.25, linewidth=0.7)
    if threshold is not None:
        axes.axvline(threshold, color=GREY, linestyle=(0, (4, 3)), linewidth=1)
