r"""Balance under priors that are not Gaussian: the point of highest prior density on the orbit of the scales.

Where ``-log p(w)`` is a concave function of ``w^2`` (Laplace, Student-t, logistic, horseshoe, any scale mixture of
normals), its tangent at the present weights is a Gaussian that lies above it,

    -log p(w)  <=  const + 1/2 sum_k tau_k w_k^2,    tau_k = -(d log p / d w_k) / w_k,

so balancing with these precisions raises the density, and the precisions at the new weights are taken next
(majorisation and minimisation). It ends where the derivative of the log prior along every scale is zero, for a Gaussian
prior after one step.

References:
    D. R. Hunter and K. Lange (2004), A tutorial on MM algorithms, The American Statistician 58.
"""

from __future__ import annotations

from collections.abc import Callable

import jax.numpy as jnp
import numpy as np

from .action import AnyArray, Weights
from .balance import min_mass
from .group import SymmetryGroup

_MAX_STEPS = 100
_TOLERANCE = 1e-5  # of a log-scale
_ROUNDING = 1e-6  # of the largest precision; smaller negative ones are zero


def balance_density(
    weights: Weights, group: SymmetryGroup, gradient: Callable[[Weights], Weights]
) -> dict[str, AnyArray]:
    """The scales that bring weights to the point of highest prior density on their orbit.

    Args:
        weights: Site name to constrained value; any batch dims lead.
        group: The likelihood's group. Its scale factors are used.
        gradient: Of the log prior at given weights, for every site that the scales move, in the weights' shapes.

    Returns:
        The scale part of an element.

    Raises:
        ValueError: If the prior favours weights away from zero, so that no Gaussian lies above it; else as in
            `balance`.

    Example:
        >>> from symmetry import Factor, Slot, SymmetryGroup
        >>> slots = Slot("inner", 0, 1, exponent=1), Slot("outer", 0, 1, exponent=-1)
        >>> group = SymmetryGroup({"inner": (1,), "outer": (1,)}, (Factor("scale", "scale", "unit", 1, slots),))
        >>> laplace = lambda weights: {"inner": -np.sign(weights["inner"]), "outer": -4 * np.sign(weights["outer"])}
        >>> weights = {"inner": np.array([8.0]), "outer": np.array([2.0])}
        >>> {s: round(float(w[0]), 3) for s, w in group.act(balance_density(weights, group, laplace), weights).items()}
        {'inner': 8.0, 'outer': 2.0}
    """
    element: dict[str, AnyArray] = {}
    present = dict(weights)
    if not any(factor.kind == "scale" for factor in group.factors):
        return element
    for _ in range(_MAX_STEPS):
        step = min_mass(present, group, _tangent_precisions(present, gradient(present))).log_scales
        element = {name: element.get(name, 1.0) * np.exp(np.asarray(u)) for name, u in step.items()}
        present |= {site: np.asarray(array) for site, array in group.act(element, weights).items()}
        if max(float(jnp.abs(u).max()) for u in step.values()) < _TOLERANCE:
            break
    return element


def _tangent_precisions(weights: Weights, gradient: Weights) -> dict[str, np.ndarray]:
    """Precisions of the Gaussian that touches the prior from above; 1 where a weight is zero, whose mass is none."""
    precisions = {}
    for site, slope in gradient.items():
        array = np.asarray(weights[site])
        precision = np.where(array == 0, 1.0, -np.asarray(slope) / np.where(array == 0, 1.0, array))
        if (precision < -_ROUNDING * np.abs(precision).max()).any():
            raise ValueError(
                f"a prior that falls with the distance from zero was expected at {site!r}, but its density rises "
                "there; balance with given precisions"
            )
        precisions[site] = np.maximum(precision, 0.0).astype(array.dtype)
    return precisions
