"""A level as a picture."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from jaxpg_envs.gridworld.params import GridParams


def draw(axes: Any, params: GridParams) -> None:
    """Draw one level: walls dark, the start a blue triangle, objects coloured by their reward.

    Green pays and red costs, most at 1 and -1. In an object's cell stand its reward, `end` with the
    probability that collecting it ends the episode, and `back` with that of coming back in a step.

    Args:
      axes: matplotlib axes, which are drawn on.
      params: one level.
    """
    import matplotlib
    from matplotlib.colors import ListedColormap
    from matplotlib.patches import Rectangle, RegularPolygon

    size = int(params.size)
    walls = np.asarray(params.walls)[: size**2].reshape(size, size)
    axes.imshow(walls, cmap=ListedColormap(["white", "0.25"]), vmin=0, vmax=1)
    axes.set_xticks(np.arange(-0.5, size), minor=True)
    axes.set_yticks(np.arange(-0.5, size), minor=True)
    axes.grid(which="minor", color="0.85", linewidth=0.5)
    axes.tick_params(which="both", length=0, labelbottom=False, labelleft=False)
    # A cell's side on the page in points, the unit of a font's size.
    extent = axes.get_window_extent()
    side = min(extent.width, extent.height) * 72 / axes.figure.dpi / size
    for i in range(int(params.num_objects)):
        row, column = divmod(int(params.object_cells[i]), size)
        reward = float(params.object_rewards[i])
        # Only the lighter part of the colours, so that black is read on all of them.
        shade = matplotlib.colormaps["RdYlGn"](0.5 + 0.32 * np.clip(reward, -1, 1))
        axes.add_patch(Rectangle((column - 0.5, row - 0.5), 1, 1, facecolor=shade, edgecolor="0.5"))
        odds = (
            f"end {float(params.object_terminate[i]):.2g}\n"
            f"back {float(params.object_respawn[i]):.2g}"
        )
        centred = {"ha": "center", "va": "center"}
        axes.text(column, row - 0.22, f"{reward:.2g}", fontsize=0.3 * side, **centred)
        axes.text(column, row + 0.24, odds, fontsize=0.15 * side, linespacing=1.1, **centred)
    row, column = divmod(int(params.start), size)
    # The vertical axis points down.
    axes.add_patch(
        RegularPolygon((column, row), 3, radius=0.35, orientation=np.pi, color="tab:blue")
    )
    axes.set_title(f"{size} x {size}, {int(params.max_steps_in_episode)} steps", fontsize=9)
