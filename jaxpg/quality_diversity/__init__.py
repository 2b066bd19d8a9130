"""Quality-diversity: archives of solutions that differ, and what fills them."""

from jaxpg.quality_diversity import archive, archive_file, cells, variation
from jaxpg.quality_diversity.archive import Archive
from jaxpg.quality_diversity.cells import (
    Cells,
    CentroidCells,
    GridCells,
    centroidal,
    from_centroids,
    grid,
)

__all__ = [
    "Archive",
    "Cells",
    "CentroidCells",
    "GridCells",
    "archive",
    "archive_file",
    "cells",
    "centroidal",
    "from_centroids",
    "grid",
    "variation",
]
