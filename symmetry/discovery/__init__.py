"""Symmetries read off a program.

`find_symmetries` traces a model to a jaxpr (`trace`, `program`), finds out which axes are one and the same axis
(`axes`) and how every value scales (`characters`) by one small rule a primitive (`rules`), puts the group together
(`assemble`), and lets the model itself, in float64, confirm each factor (`certificate`).
"""

from .completeness import Completeness as Completeness
from .completeness import check_completeness as check_completeness
from .find import find_symmetries as find_symmetries
