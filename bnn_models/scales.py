r"""Scales of zero-mean prior families, read off a site's distribution.

The mass of a prior on an orbit of rescaled weights is, to second order, :math:`\sum_i \lambda_i w_i^2` with
:math:`\lambda = 1/s^2`; for normal priors exactly.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpyro.distributions as dist
from jax import Array
from jaxtyping import Float


class LocationScale(NamedTuple):
    """Location and scale of a distribution of a location-scale family.

    Attributes:
        location: Its centre; for a mixture those of the components.
        scale: Its standard deviation, or its scale parameter where that is infinite.
    """

    location: Array
    scale: Array


def location_scale(distribution: dist.Distribution) -> LocationScale | None:
    """Location and scale of a distribution, or ``None`` if it is of another family."""
    base: Any = distribution
    while isinstance(base, (dist.Independent, dist.ExpandedDistribution)):
        base = base.base_dist
    family: Any = type(base)
    if family in _UNIT_DEVIATION:
        scale = jnp.asarray(base.scale) * _UNIT_DEVIATION[family](base)
        return LocationScale(jnp.asarray(base.loc), scale)
    if family is dist.MixtureSameFamily and type(base.component_distribution) is dist.Normal:
        variances = jnp.asarray(base.component_distribution.scale) ** 2
        scale = jnp.sqrt(jnp.sum(base.mixing_distribution.probs * variances, axis=-1))
        return LocationScale(jnp.asarray(base.component_distribution.loc), scale)
    return None


def _student_deviation(distribution: dist.StudentT) -> Float[Array, " ..."]:
    """Standard deviation of a Student-t variable of scale 1, and 1 where it has none."""
    df = jnp.asarray(distribution.df)
    has_variance = df > 2
    return jnp.where(has_variance, jnp.sqrt(df / jnp.where(has_variance, df - 2, 1.0)), 1.0)


# Standard deviation of a family's member of scale 1.
_UNIT_DEVIATION: dict[type, Callable[[Any], Any]] = {
    dist.Normal: lambda _: 1.0,
    dist.Laplace: lambda _: math.sqrt(2),
    dist.Logistic: lambda _: math.pi / math.sqrt(3),
    dist.StudentT: _student_deviation,
}
