r"""Exact moves along the orbits of scale symmetries: generalised Gibbs steps that need no gradient and never reject.

A scale symmetry multiplies the entries $w_k$ of the weights by $\lambda^{e_k}$ and leaves the likelihood as it is.
Drawing $u = \log\lambda$ from

$$ p(u) \propto \pi_0(\lambda \cdot w)\, |\det \partial (\lambda \cdot w) / \partial w| \,du, \qquad
   |\det \partial (\lambda \cdot w) / \partial w| = e^{u \sum_k e_k}, $$

with the prior $\pi_0$ and the group's invariant measure $du$, leaves the posterior invariant. Three moves are made:

* per unit: for normal weights of precisions $\tau_k$ it is $c u - \tfrac12 \sum_k \tau_k w_k^2 e^{2 e_k u}$ with
  $c = \sum_k e_k$. With exponents $\pm 1$, $\lambda^2$ is generalised inverse Gaussian, of index $c / 2$. Units of a
  class do not interact and are drawn together;
* the same for any other prior whose density is log-concave in $u$, by evaluating the model's own prior;
* per layer, where precisions $\tau_i \sim \mathrm{Gamma}(a_i, b_i)$ have their own prior: all units get the same $u$,
  with the precisions integrated out,

$$ c u - \tfrac12 \sum_m A_m e^{2 m u}
     - \sum_i \big(a_i + \tfrac{n_i}2\big) \log\Big(b_i + \tfrac12 \sum_m Q_{im} e^{2 m u}\Big), $$

  $Q_{im}$ and $A_m$ being the sums of squares of the weights of exponent $m$ under precision $i$ and (times their
  precision) under fixed ones; then the precisions are drawn anew, $\tau_i \sim \mathrm{Gamma}(a_i + n_i/2, b_i +
  Q_i'/2)$, without which the move would be wrong.

All of it is in terms of constrained weights, so that positive sites need no Jacobian of their own.

References:
    Liu and Sabatti (2000), Generalised Gibbs sampler and multigrid Monte Carlo for Bayesian computation,
    https://doi.org/10.1093/biomet/87.2.353.
    Devroye (2014), Random variate generation for the generalized inverse Gaussian distribution,
    https://doi.org/10.1007/s11222-012-9367-z.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
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
class PrecisionSite:
    """A latent site of gamma precisions.

    Attributes:
        site: its name.
        concentration: $a_i$, flat, one an entry of the site.
        rate: $b_i$.
        counts: $n_i$, how many weights have this precision.
        members: by site of weights, the flat number of the precision of each weight; -1 for none of this site.
    """

    site: str
    concentration: np.ndarray
    rate: np.ndarray
    counts: np.ndarray
    members: Mapping[str, np.ndarray]


@dataclass(frozen=True, eq=False)
class LayerMove:
    """All units of a scale factor by one scale, with the precisions above them integrated out.

    Attributes:
        factor: the scale factor.
        exponents: by site, the exponent of each weight.
        precisions: the sites of precisions that govern weights of the factor.
    """

    factor: Factor
    exponents: Mapping[str, np.ndarray]
    precisions: tuple[PrecisionSite, ...]


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


def move_layer(rng_key: PRNGKeyArray, target: OrbitTarget, move: LayerMove, weights: Values) -> dict[str, Array]:
    """Draws one scale for a layer with its precisions integrated out, and then the precisions.

    Args:
        rng_key: key of the draws.
        target: gives the precisions.
        move: the layer's move.
        weights: constrained values of one draw.

    Returns:
        The moved weights, precisions included.
    """
    key_scale, key_precisions = jax.random.split(rng_key)
    fixed, governed = layer_masses(target, move, weights)
    log_scale = _sample_layer(key_scale, move, fixed, governed)
    moved = dict(weights)
    for site, exponents in move.exponents.items():
        moved[site] = weights[site] * jnp.exp(exponents * log_scale).astype(weights[site].dtype)
    return redraw_precisions(key_precisions, move, governed, log_scale, moved)


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


def layer_volume(move: LayerMove) -> float:
    """The exponent $c$ of the layer's Jacobian."""
    return float(sum(exponents.sum() for exponents in move.exponents.values()))


def layer_masses(
    target: OrbitTarget, move: LayerMove, weights: Values
) -> tuple[dict[int, Array], list[dict[int, Array]]]:
    """By exponent: masses of weights of fixed precisions, and sums of squares under each site of precisions."""
    precisions = target.precisions(weights)
    fixed: dict[int, Array] = {}
    for site, exponents in move.exponents.items():
        is_fixed = np.all([precision.members[site] < 0 for precision in move.precisions], axis=0)
        mass = precisions[site] * weights[site] ** 2
        for m in np.unique(exponents[is_fixed & (exponents != 0)]).tolist():
            fixed[m] = fixed.get(m, 0) + jnp.sum(jnp.where(is_fixed & (exponents == m), mass, 0))
    governed = []
    for precision in move.precisions:
        value = weights[precision.site].reshape(-1)
        sums: dict[int, Array] = {}
        for site, members in precision.members.items():
            # Precision over tau is the constant by which the weight's precision differs from its tau.
            mass = precisions[site] * weights[site] ** 2 / value[np.maximum(members, 0)]
            exponents = move.exponents.get(site, np.zeros(members.shape, int))
            for m in np.unique(exponents[members >= 0]).tolist():
                chosen = (members >= 0) & (exponents == m)
                sums[m] = sums.get(m, 0) + jnp.zeros_like(value).at[members[chosen]].add(mass[chosen])
        governed.append(sums)
    return fixed, governed


def redraw_precisions(
    rng_key: PRNGKeyArray,
    move: LayerMove,
    governed: list[dict[int, Array]],
    log_scale: Float[Array, ""],
    weights: Values,
) -> dict[str, Array]:
    """Draws the precisions given the moved weights."""
    moved = dict(weights)
    for key, precision, masses in zip(
        jax.random.split(rng_key, len(move.precisions)), move.precisions, governed, strict=True
    ):
        rate = _rates(precision, masses, log_scale[None])[:, 0]
        old = weights[precision.site]
        shape = jnp.asarray(precision.concentration + 0.5 * precision.counts, old.dtype)
        moved[precision.site] = (jax.random.gamma(key, shape) / rate).astype(old.dtype).reshape(old.shape)
    return moved


def _sample_exponentials(rng_key: PRNGKeyArray, volume: Array, masses: Mapping[int, Array]) -> Array:
    """One draw a lane of $c u - (1/2) sum_m A_m exp(2 m u)$, for any exponents."""

    def logdensity(u: Array) -> Array:
        return volume * u - 0.5 * sum(mass * jnp.exp(2 * m * u) for m, mass in masses.items())

    mode = find_mode(logdensity, jnp.zeros_like(volume))
    at_mode = {m: mass * jnp.exp(2 * m * mode) for m, mass in masses.items()}

    def rise(x: Array) -> Array:
        return volume * x - 0.5 * sum(mass * jnp.expm1(2 * m * x) for m, mass in at_mode.items())

    return mode + sample_around_mode(rng_key, rise, mode)


def _sample_layer(
    rng_key: PRNGKeyArray, move: LayerMove, fixed: dict[int, Array], governed: list[dict[int, Array]]
) -> Float[Array, ""]:
    """One draw of the layer's log-scale, the precisions integrated out."""
    volume = layer_volume(move)
    shapes = [precision.concentration + 0.5 * precision.counts for precision in move.precisions]

    def logdensity(u: Array) -> Array:
        total = volume * u - 0.5 * sum(mass * jnp.exp(2 * m * u) for m, mass in fixed.items())
        for precision, shape, sums in zip(move.precisions, shapes, governed, strict=True):
            total -= shape @ jnp.log(_rates(precision, sums, u))
        return total

    mode = find_mode(logdensity, jnp.zeros(1, jnp.result_type(*governed[0].values())))
    at_mode = {m: mass * jnp.exp(2 * m * mode) for m, mass in fixed.items()}
    shares = []
    for precision, sums in zip(move.precisions, governed, strict=True):
        rates = _rates(precision, sums, mode)
        shares.append({m: 0.5 * q[:, None] * jnp.exp(2 * m * mode) / rates for m, q in sums.items()})

    def rise(x: Array) -> Array:
        total = volume * x - 0.5 * sum(mass * jnp.expm1(2 * m * x) for m, mass in at_mode.items())
        for shape, of_exponent in zip(shapes, shares, strict=True):
            total -= shape @ jnp.log1p(sum(share * jnp.expm1(2 * m * x) for m, share in of_exponent.items()))
        return total

    return (mode + sample_around_mode(rng_key, rise, mode))[0]


def _rates(precision: PrecisionSite, sums: Mapping[int, Array], u: Array) -> Float[Array, "precision lane"]:
    """The rates of the precisions' conditional laws when the layer is scaled by ``exp(u)``."""
    return precision.rate[:, None] + 0.5 * sum(q[:, None] * jnp.exp(2 * m * u) for m, q in sums.items())


def _scaled(group: SymmetryGroup, factor: Factor, scales: Array, weights: Values) -> dict[str, Array]:
    weights = {site: jnp.asarray(value) for site, value in weights.items()}
    moved: Any = group.act({factor.name: scales.reshape(factor.shape)}, weights)
    return moved


def _entries_a_unit(group: SymmetryGroup, factor: Factor, site: str, slot: Any) -> int:
    return int(np.prod(member_view(np.zeros(group.sites[site]), slot, group.sites[site]).shape[::2]))


def _if_finite(moved: Values, weights: Values) -> dict[str, Array]:
    """The moved weights if all are finite: a weight of zero mass has no scale to be drawn."""
    is_finite = jnp.all(jnp.stack([jnp.isfinite(x).all() for x in moved.values()]))
    return {site: jnp.where(is_finite, moved[site], x) for site, x in weights.items()}
