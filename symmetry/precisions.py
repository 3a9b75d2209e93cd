r"""Which latent sites are gamma precisions of which weights, read off the model by autodiff in float64.

A site $h$ of positive values governs weights where their prior precision is $\tau_k = \kappa_k h_{i(k)}$: then
$\partial \log \tau_k / \partial \log h_i$ is 1 for $i = i(k)$ and 0 else, everywhere. It is gamma where the log prior,
at weights zero, has $h_i\, \partial / \partial h_i = (a_i + n_i / 2 - 1) - b_i h_i$ at three values of $h$, whatever
the other sites are.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from .orbit_layers import PrecisionSite
from .orbit_units import OrbitTarget, Values

# Relative differences up to this count as rounding: everything here is computed in float64.
_ROUNDING = 1e-8

Members = dict[str, np.ndarray]
"""By site of weights, the flat number of the precision of each weight; -1 for none."""


def find_precisions(target: Any, excluded: Collection[str], points: Sequence[dict[str, Array]]) -> list[PrecisionSite]:
    """The sites of gamma precisions that share no weight with another one and that the likelihood does not look at.

    Args:
        target: the posterior, in float64.
        excluded: sites that are none.
        points: constrained values at which the site's law must be the same; at least two.

    Returns:
        The sites, with their laws.
    """
    found = (_precision_site(target, site, points) for site in points[0] if site not in excluded)
    precisions = [precision for precision in found if precision is not None]
    return [one for one in precisions if not any(_share_weights(one, p) for p in precisions if p is not one)]


def agree(first: Any, second: Any, scale: Any = 0.0) -> bool:
    """Whether two arrays are equal up to rounding, relative to the largest of the second, 1 and `scale`."""
    first, second = np.asarray(first), np.asarray(second)
    largest = max(float(np.max(np.abs(second), initial=1.0)), float(scale))
    return bool(np.all(np.abs(first - second) <= _ROUNDING * largest))


def _precision_site(target: OrbitTarget, site: str, points: Sequence[dict[str, Array]]) -> PrecisionSite | None:
    """A site read as gamma precisions, or None where it is something else."""
    if not all((weights[site] > 0).all() for weights in points):
        return None
    members = _members(target, site, points[0])
    if not members or any(not _same(members, _members(target, site, weights)) for weights in points[1:]):
        return None
    if any(np.any(_likelihood_slope(target, site, weights) != 0) for weights in points):
        return None
    counts = np.zeros(points[0][site].size)
    for of_site in members.values():
        np.add.at(counts, of_site[of_site >= 0], 1)
    laws = [_gamma_law(target, site, members, counts, weights) for weights in points]
    known = [law for law in laws if law is not None]
    if len(known) < len(laws) or not all(agree(law, known[0]) for law in known):
        return None
    concentration, rate = known[0]
    return PrecisionSite(site, concentration, rate, counts, members)


def _members(target: OrbitTarget, site: str, weights: Values) -> Members | None:
    """Which entry of `site` is each weight's precision, up to a constant; None where one depends in another way on it.

    Three directional derivatives tell: along ones, along the entries' numbers, and along random numbers.
    """
    size = weights[site].size
    noise = np.random.default_rng(0).normal(size=size)
    directions = np.stack([np.ones(size), np.arange(1.0, size + 1), noise])
    members = {}
    for name, derivatives in _precision_slopes(target, site, weights, directions).items():
        once, number, random = np.asarray(derivatives)
        member = np.where(np.abs(once) > _ROUNDING, np.round(number).astype(int) - 1, -1)
        rules = member >= 0
        if (member >= size).any() or not agree(once, np.where(rules, 1.0, 0.0)):
            return None
        if not agree(random, np.where(rules, noise[member], 0.0)):
            return None
        if rules.any():
            members[name] = member
    return members


def _gamma_law(
    target: OrbitTarget, site: str, members: Members, counts: np.ndarray, weights: Values
) -> np.ndarray | None:
    """Concentrations and rates of a site of gamma variables, (2, entry), or None where they are none."""
    bare = dict(weights)
    for name, member in members.items():
        bare[name] = jnp.where(member >= 0, 0.0, weights[name])
    one, two, three = (
        np.asarray(_prior_slope(target, site, bare | {site: factor * weights[site]})) for factor in (1.0, 2.0, 3.0)
    )
    value = np.asarray(weights[site]).reshape(-1)
    rate, constant = (one - two) / value, 2 * one - two
    concentration = constant + 1 - 0.5 * counts
    if not agree(three, constant - 3 * rate * value) or not ((rate > 0) & (concentration > 0)).all():
        return None
    return np.stack([concentration, rate])


@partial(jax.jit, static_argnums=1)
def _precision_slopes(target: OrbitTarget, site: str, weights: Values, directions: Array) -> dict[str, Array]:
    """Derivatives of the log precisions along directions of the log of a site."""

    def log_precisions(shift: Array) -> dict[str, Array]:
        return {name: jnp.log(value) for name, value in target.precisions(_shifted(weights, site, shift)).items()}

    return jax.vmap(lambda direction: jax.jvp(log_precisions, (jnp.zeros_like(direction),), (direction,))[1])(
        directions
    )


@partial(jax.jit, static_argnums=1)
def _prior_slope(target: OrbitTarget, site: str, weights: Values) -> Array:
    """Gradient of the log prior by the log of a site, flat."""
    return jax.grad(lambda shift: target.prior_logprob(_shifted(weights, site, shift)))(jnp.zeros(weights[site].size))


@partial(jax.jit, static_argnums=1)
def _likelihood_slope(target: OrbitTarget, site: str, weights: Values) -> Array:
    """Gradient of the log likelihood by the log of a site, flat."""

    def loglikelihood(shift: Array) -> Array:
        return target.loglikelihood(target.unconstrain(_shifted(weights, site, shift)))

    return jax.grad(loglikelihood)(jnp.zeros(weights[site].size))


def _shifted(weights: Values, site: str, shift: Array) -> dict[str, Array]:
    """A site multiplied by ``exp(shift)``, entry by entry."""
    moved = {name: jnp.asarray(value) for name, value in weights.items()}
    return moved | {site: moved[site] * jnp.exp(shift.reshape(moved[site].shape))}


def _share_weights(one: PrecisionSite, other: PrecisionSite) -> bool:
    common = one.members.keys() & other.members.keys()
    return any(((one.members[name] >= 0) & (other.members[name] >= 0)).any() for name in common)


def _same(first: Mapping[str, np.ndarray], second: Mapping[str, np.ndarray] | None) -> bool:
    if second is None or first.keys() != second.keys():
        return False
    return all(np.array_equal(first[name], second[name]) for name in first)
