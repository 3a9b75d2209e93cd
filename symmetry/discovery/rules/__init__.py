"""One small rule a family of primitives: what it does to axes, and what to characters.

To add a primitive, copy the nearest rule into the file of its family, name the primitive in its decorator, and write
the equation it emits into its docstring. ``reductions.py`` is the one to read first.
"""

from . import control, elementwise, indexing, linalg, products, reductions, shapes, windows
from .registry import AXIS_RULES as AXIS_RULES
from .registry import CHARACTER_RULES as CHARACTER_RULES

__all__ = [
    "AXIS_RULES",
    "CHARACTER_RULES",
    "control",
    "elementwise",
    "indexing",
    "linalg",
    "products",
    "reductions",
    "shapes",
    "windows",
]
