r"""Exact moves along the orbits of scale symmetries: generalised Gibbs steps that need no gradient and never reject.

A scale symmetry multiplies the entries $w_k$ of the weights by $\lambda^{e_k}$ and leaves the likelihood as it is.
Drawing $u = \log\lambda$ from

$$ p(u) \propto \pi_0(\lambda \cdot w)\, |\det \partial (\lambda \cdot w) / \partial w| \,du, \qquad
   |\det \partial (\lambda \cdot w) / \partial w| = e^{u \sum_k e_k}, $$

with the prior $\pi_0$ and the group's invariant measure $du$, leaves the posterior invariant. Units are moved one by
one (`orbit_units`), and layers as a whole with their precisions (`orbit_layers`). All of it is in terms of constrained
weights, so that positive sites need no Jacobian of their own.

References:
    Liu and Sabatti (2000), Generalised Gibbs sampler and multigrid Monte Carlo for Bayesian computation,
    https://doi.org/10.1093/biomet/87.2.353.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import PRNGKeyArray

from .factor import Factor
from .group import SymmetryGroup
from .orbit_layers import LayerMove, move_layer
from .orbit_units import OrbitTarget, Values, move_units, move_units_by_prior


@dataclass(frozen=True, eq=False)
class UnitMove:
    """Every unit of a scale factor by a scale of its own.

    Attributes:
        factor: the scale factor.
        is_normal: whether its weights are normal given the others, so that the law of a scale is known in closed form.
    """

    factor: Factor
    is_normal: bool


@dataclass(frozen=True, eq=False)
class OrbitMoves:
    """The moves that a posterior allows, in the order in which a sweep makes them.

    Attributes:
        group: the scales that they belong to.
        units: moves of single units.
        layers: moves of whole layers.
        refused: why a factor of the group has no move, by the factor's name.
    """

    group: SymmetryGroup
    units: tuple[UnitMove, ...]
    layers: tuple[LayerMove, ...]
    refused: Mapping[str, str]

    def __bool__(self) -> bool:
        return bool(self.units or self.layers)

    def sweep(self, rng_key: PRNGKeyArray, target: OrbitTarget, weights: Values) -> dict[str, Array]:
        """Makes every move once.

        Args:
            rng_key: key of the draws.
            target: whose prior is followed; its likelihood is not looked at.
            weights: constrained values of one draw.

        Returns:
            Weights of the same likelihood; those that a move would take out of the floating-point range stay.
        """
        weights = {site: jnp.asarray(value) for site, value in weights.items()}
        keys = iter(jax.random.split(rng_key, max(1, len(self.units) + len(self.layers))))
        for unit in self.units:
            move = move_units if unit.is_normal else move_units_by_prior
            weights = _if_finite(move(next(keys), target, self.group, unit.factor, weights), weights)
        for layer in self.layers:
            weights = _if_finite(move_layer(next(keys), target, layer, weights), weights)
        return weights

    def describe(self) -> str:
        """The moves, a line each."""
        lines = [f"each unit of {unit.factor.axis}" + (", by its normal prior" * unit.is_normal) for unit in self.units]
        for layer in self.layers:
            names = ", ".join(precision.site for precision in layer.precisions)
            lines.append(f"the whole of {layer.factor.axis}, without {names}")
        return "\n".join([*lines, *(f"not {name}: {reason}" for name, reason in self.refused.items())])


def _if_finite(moved: Values, weights: Values) -> dict[str, Array]:
    """The moved weights if all are finite: a weight of zero mass has no scale to be drawn."""
    is_finite = jnp.all(jnp.stack([jnp.isfinite(x).all() for x in moved.values()]))
    return {site: jnp.where(is_finite, moved[site], x) for site, x in weights.items()}
