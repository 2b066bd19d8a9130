"""Which task comes next: orders of a pool, a buffer of scored levels, and what scores them."""

from jaxpg.curricula import level_buffer, order, scores
from jaxpg.curricula.level_buffer import LevelBuffer
from jaxpg.curricula.order import occurrence, prioritised, shuffled

__all__ = [
    "LevelBuffer",
    "level_buffer",
    "occurrence",
    "order",
    "prioritised",
    "scores",
    "shuffled",
]
