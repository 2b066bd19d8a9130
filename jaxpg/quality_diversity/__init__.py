"""Quality-diversity: archives of solutions that differ, and what fills them."""

from jaxpg.quality_diversity import (
    archive,
    archive_file,
    cells,
    descriptor_conditioned,
    descriptor_scale,
    distilled,
    emitter,
    genetic,
    policy_gradient,
    scoring,
    variation,
)
from jaxpg.quality_diversity.archive import Archive
from jaxpg.quality_diversity.cells import (
    Cells,
    CentroidCells,
    GridCells,
    centroidal,
    from_centroids,
    grid,
)
from jaxpg.quality_diversity.distilled import DistilledPolicy
from jaxpg.quality_diversity.emitter import Emitter
from jaxpg.quality_diversity.scoring import Scores, Scoring

__all__ = [
    "Archive",
    "Cells",
    "CentroidCells",
    "DistilledPolicy",
    "Emitter",
    "GridCells",
    "Scores",
    "Scoring",
    "archive",
    "archive_file",
    "cells",
    "centroidal",
    "descriptor_conditioned",
    "descriptor_scale",
    "distilled",
    "emitter",
    "from_centroids",
    "genetic",
    "grid",
    "policy_gradient",
    "scoring",
    "variation",
]
