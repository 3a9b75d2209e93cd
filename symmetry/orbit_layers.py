r"""The move of a whole layer along the orbit of a scale symmetry, where its precisions have a prior of their own.

All units get the same log-scale $u$. With the precisions $\tau_i \sim \mathrm{Gamma}(a_i, b_i)$ integrated out its log
density is

$$ c u - \tfrac12 \sum_m A_m e^{2 m u}
     - \sum_i \big(a_i + \tfrac{n_i}2\big) \log\Big(b_i + \tfrac12 \sum_m Q_{im} e^{2 m u}\Big), \qquad
   c = \sum_k e_k, $$

up to a constant, $Q_{im}$ and $A_m$ being the sums of squares of the weights of exponent $m$ under precision $i$ and
(times their precision) under fixed ones. Then the precisions are drawn anew, $\tau_i \sim \mathrm{Gamma}(a_i + n_i/2,
b_i + Q_i'/2)$, without which the move would be wrong.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Float, PRNGKeyArray

from .factor import Factor
from .log_concave import find_mode, sample_around_mode
from .orbit_units import OrbitTarget, Values


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
    moved = {site: jnp.asarray(value) for site, value in weights.items()}
    for key, precision, masses in zip(
        jax.random.split(rng_key, len(move.precisions)), move.precisions, governed, strict=True
    ):
        rate = _rates(precision, masses, log_scale[None])[:, 0]
        old = weights[precision.site]
        shape = jnp.asarray(precision.concentration + 0.5 * precision.counts, old.dtype)
        moved[precision.site] = (jax.random.gamma(key, shape) / rate).astype(old.dtype).reshape(old.shape)
    return moved


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
    return jnp.asarray(precision.rate)[:, None] + 0.5 * sum(q[:, None] * jnp.exp(2 * m * u) for m, q in sums.items())
