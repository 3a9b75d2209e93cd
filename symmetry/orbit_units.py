r"""The move of single units along the orbit of a scale symmetry.

For weights that are normal of precisions $\tau_k$ a priori, unit by unit, the log-scale has the log density

$$ c u - \tfrac12 \sum_k \tau_k w_k^2 e^{2 e_k u}, \qquad c = \sum_k e_k, $$

up to a constant. With exponents $\pm 1$, $e^{2u}$ is generalised inverse Gaussian, of index $c / 2$. For other priors
the model's own is evaluated along the orbit. Units of a class do not interact and are drawn together.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Float, PRNGKeyArray

from .action import Weights, member_view
from .factor import Factor
from .group import SymmetryGroup
from .log_concave import find_mode, generalized_inverse_gaussian, sample_around_mode, sample_log_concave

Values = Weights


@runtime_checkable
class OrbitTarget(Protocol):
    """What orbit moves ask of a posterior; `bnn_models.Posterior` has it all."""

    def constrain(self, position: Values) -> dict[str, Array]:
        """Constrained values of one position."""
        ...

    def unconstrain(self, weights: Values) -> dict[str, Array]:
        """Unconstrained values of one draw."""
        ...

    def loglikelihood(self, position: Values) -> Float[Array, ""]:
        """Log likelihood of one position."""
        ...

    def prior_logprob(self, weights: Values) -> Float[Array, ""]:
        """Log prior of one draw, without Jacobians."""
        ...

    def precisions(self, weights: Values) -> dict[str, Array]:
        """Prior precision of each element of the sites with a zero-mean prior family."""
        ...


def move_units(
    rng_key: PRNGKeyArray, target: OrbitTarget, group: SymmetryGroup, factor: Factor, weights: Values
) -> dict[str, Array]:
    """Draws the scale of each unit of a factor whose weights are normal.

    Args:
        rng_key: key of the draws.
        target: gives the precisions.
        group: the factor's group.
        factor: a scale factor.
        weights: constrained values of one draw.

    Returns:
        The moved weights.
    """
    masses = unit_masses(target, group, factor, weights)
    volume = jnp.full_like(next(iter(masses.values())), unit_volume(group, factor))
    if set(masses) == {-1, 1}:
        squared = generalized_inverse_gaussian(rng_key, 0.5 * volume, masses[1], masses[-1])
        log_scales = 0.5 * jnp.log(squared)
    else:
        log_scales = _sample_exponentials(rng_key, volume, masses)
    return _scaled(group, factor, jnp.exp(log_scales), weights)


def move_units_by_prior(
    rng_key: PRNGKeyArray, target: OrbitTarget, group: SymmetryGroup, factor: Factor, weights: Values
) -> dict[str, Array]:
    """Draws the scale of each unit by evaluating the model's own prior, once a unit; arguments as in `move_units`."""
    logdensity = prior_along_units(target, group, factor, weights)
    dtype = jnp.result_type(*(weights[slot.site] for slot in factor.slots))
    log_scales = sample_log_concave(rng_key, logdensity, jnp.zeros(factor.num_copies * factor.size, dtype))
    return _scaled(group, factor, jnp.exp(log_scales), weights)


def unit_volume(group: SymmetryGroup, factor: Factor) -> int:
    """The exponent $c$ of one unit's Jacobian: each of its entries, biases too, counts with its exponent."""
    return sum(slot.exponent * _entries_a_unit(group, factor, slot.site, slot) for slot in factor.slots)


def unit_masses(
    target: OrbitTarget, group: SymmetryGroup, factor: Factor, weights: Values
) -> dict[int, Float[Array, " unit"]]:
    """By exponent, each unit's sum of precision times squared weight."""
    precisions = target.precisions(weights)
    masses: dict[int, Array] = {}
    for slot in factor.slots:
        mass = jnp.asarray(precisions[slot.site] * weights[slot.site] ** 2)
        of_units = jnp.asarray(member_view(mass, slot, group.sites[slot.site])).sum(axis=(-3, -1))
        masses[slot.exponent] = masses.get(slot.exponent, 0) + of_units
    return masses


def prior_along_units(
    target: OrbitTarget, group: SymmetryGroup, factor: Factor, weights: Values
) -> Callable[[Float[Array, " unit"]], Float[Array, " unit"]]:
    """The log density of each unit's log-scale, the other units' being 0: the model's own prior and the Jacobian."""
    volume = unit_volume(group, factor)

    def along(log_scale: Array, unit: Array) -> Array:
        scales = jnp.exp(jnp.where(jnp.arange(factor.num_copies * factor.size) == unit, log_scale, 0.0))
        return target.prior_logprob(_scaled(group, factor, scales, weights)) + volume * log_scale

    return lambda log_scales: jax.vmap(along)(log_scales, jnp.arange(factor.num_copies * factor.size))


def _sample_exponentials(rng_key: PRNGKeyArray, volume: Array, masses: Mapping[int, Array]) -> Array:
    """One draw a lane of $c u - (1/2) sum_m A_m exp(2 m u)$, for any exponents."""

    def logdensity(u: Array) -> Array:
        return volume * u - 0.5 * sum(mass * jnp.exp(2 * m * u) for m, mass in masses.items())

    mode = find_mode(logdensity, jnp.zeros_like(volume))
    at_mode = {m: mass * jnp.exp(2 * m * mode) for m, mass in masses.items()}

    def rise(x: Array) -> Array:
        return volume * x - 0.5 * sum(mass * jnp.expm1(2 * m * x) for m, mass in at_mode.items())

    return mode + sample_around_mode(rng_key, rise, mode)


def _scaled(group: SymmetryGroup, factor: Factor, scales: Array, weights: Values) -> dict[str, Array]:
    weights = {site: jnp.asarray(value) for site, value in weights.items()}
    moved: Any = group.act({factor.name: scales.reshape(factor.shape)}, weights)
    return moved


def _entries_a_unit(group: SymmetryGroup, factor: Factor, site: str, slot: Any) -> int:
    return int(np.prod(member_view(np.zeros(group.sites[site]), slot, group.sites[site]).shape[::2]))
