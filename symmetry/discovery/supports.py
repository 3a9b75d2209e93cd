"""What the support of a site allows: a symmetry may not lead out of it.

A likelihood cannot tell: flipping the signs of a positive scale and of the weights that it multiplies leaves the
density of every observation unchanged.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from jax.core import Tracer
from numpyro.distributions import constraints


@dataclass(frozen=True)
class Support:
    """What may be done to the entries of a site without leaving its support.

    Args:
        signs: Change their signs.
        scales: Multiply them by positive numbers.
        permutations: Exchange them.
        event_dim: How many of the last dims that is about; None for all.
    """

    signs: bool = True
    scales: bool = True
    permutations: bool = True
    event_dim: int | None = None


def support_of(constraint: Any) -> Support:
    """Read off a NumPyro constraint what it allows; little for one that is not known here.

    Args:
        constraint: The ``support`` of a site's distribution.

    Returns:
        What keeps a site inside.

    Example:
        >>> from numpyro.distributions import constraints
        >>> support_of(constraints.positive)
        Support(signs=False, scales=True, permutations=True, event_dim=None)
    """
    while isinstance(constraint, constraints.independent):
        constraint = constraint.base_constraint
    if constraint == constraints.real:
        return Support()
    if constraint == constraints.simplex:
        return Support(signs=False, scales=False)
    lower, upper = (_number(getattr(constraint, f"{side}_bound", None)) for side in ("lower", "upper"))
    if constraint.event_dim > 0 or (lower is None and upper is None):
        return Support(signs=False, scales=False, permutations=False, event_dim=constraint.event_dim or None)
    is_half_line = not hasattr(constraint, "upper_bound") or not hasattr(constraint, "lower_bound")
    return Support(
        signs=lower is not None and upper is not None and lower == -upper,
        scales=is_half_line and 0.0 in (lower, upper),
        permutations=is_half_line or (lower is not None and upper is not None),
    )


def _number(bound: Any) -> float | None:
    """A bound that is one known number for all entries."""
    if bound is None or isinstance(bound, Tracer) or np.size(bound) != 1:
        return None
    return float(np.asarray(bound).reshape(()))
