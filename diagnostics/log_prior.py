r"""The log prior as an invariant: without Jacobians, and at the canonical weights.

Relabelling leaves the prior density of the constrained weights unchanged but not the Jacobian of an ordered or
stick-breaking transform, so the invariant is ``log p(theta)`` itself. Under scale symmetries the prior changes along
the orbit; at the canonical weights it is again the same for all copies of one function. For independent Gaussian
priors with precisions ``tau`` it follows from the stored draws alone,

    log p(theta_canonical) = log p(theta) - 1/2 sum_k tau_k (theta_canonical,k^2 - theta_k^2),

the sum over the sites that scales move.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from functools import partial
from typing import Any

import jax
import numpy as np
from jaxtyping import Float

from symmetry import SymmetryGroup

_LANES = 128  # draws evaluated at once: bounds the memory of large models

_NUM_TRIED = 4  # draws moved along their orbits to see how the prior changes there

Weights = Mapping[str, np.ndarray]


def log_prior(posterior: Any, weights: Weights) -> Float[np.ndarray, "chain draw"]:
    """Log prior density of constrained weights, Jacobians left out."""
    return _over_draws(posterior, type(posterior).prior_logprob, weights)


def scale_sites(group: SymmetryGroup) -> tuple[str, ...]:
    """Sites that the group's scales move."""
    moved = {slot.site for factor in group.factors if factor.kind == "scale" for slot in factor.slots}
    return tuple(site for site in group.sites if site in moved)


def prior_precisions(posterior: Any, weights: Weights, sites: Collection[str]) -> dict[str, np.ndarray]:
    """Prior precisions of some sites, ``(chain, draw, ...)``, or ``(...)`` where all draws share them."""
    drawn = _over_draws(posterior, type(posterior).precisions, weights)
    return {
        site: drawn[site][0, 0] if np.all(drawn[site] == drawn[site][0, 0]) else drawn[site]
        for site in sites
        if site in drawn
    }


def precisions_on_orbits(posterior: Any, weights: Weights, scales: SymmetryGroup) -> tuple[bool, bool]:
    """Whether precisions are the same all along an orbit, and whether they tell the whole change of the log prior.

    A precision that depends on a site which the scales move measures no mass: each point of the orbit has its own. And
    the prior of another site may look at a moved one. Both are seen by moving a few draws.

    Args:
        posterior: What was sampled.
        weights: Its draws, ``(chain, draw, ...)``.
        scales: The scale factors of the likelihood.

    Returns:
        ``(constant, gaussian)``: minimising the mass is well defined; `gaussian_change` is exact.
    """
    here = _few_finite(weights, tuple(posterior.sites))
    num_tried = next(iter(here.values())).shape[1]
    element = {name: np.asarray(d) for name, d in scales.random(jax.random.key(0), (1, num_tried)).items()}
    there = {site: np.asarray(array) for site, array in scales.act(element, here).items()}
    moved = scale_sites(scales)
    taus, taus_there = (_over_draws(posterior, type(posterior).precisions, at) for at in (here, there))
    taus = {site: tau for site, tau in taus.items() if site in moved}
    constant = all(np.allclose(tau, taus_there[site], rtol=1e-4) for site, tau in taus.items())
    if not constant or set(taus) != set(moved):
        return constant, False
    before, after = log_prior(posterior, here)[0], log_prior(posterior, there)[0]
    expected = gaussian_change(*({site: array[0] for site, array in at.items()} for at in (here, there, taus)))
    rounding = 1e-4 * (np.abs(before) + np.abs(after)).max()
    return True, bool(np.allclose(after - before, expected, rtol=1e-3, atol=rounding))


def prior_gradient(posterior: Any, weights: Mapping[str, Any], sites: Collection[str]) -> dict[str, np.ndarray]:
    """Gradient of the log prior, Jacobians left out, along some sites of draws ``(draw, ...)``."""
    drawn = {site: weights[site] for site in posterior.sites}
    return {site: np.asarray(slope) for site, slope in _map_draws(_gradient, posterior, drawn).items() if site in sites}


def gaussian_change(before: Weights, after: Weights, precisions: Weights) -> Float[np.ndarray, " draw"]:
    """Change of a Gaussian log prior between two weights, ``-1/2 sum tau (after^2 - before^2)``, in float64."""
    changes = []
    for site, tau in precisions.items():
        change = tau * (after[site].astype(np.float64) ** 2 - before[site].astype(np.float64) ** 2)
        changes.append(-0.5 * change.reshape(len(change), -1).sum(1))
    return np.sum(changes, axis=0)


def _few_finite(weights: Weights, sites: Collection[str]) -> dict[str, np.ndarray]:
    """The sites at a few draws that are finite, evenly spaced, as one chain; all ones where no draw is."""
    pooled = {site: _pooled(weights[site]) for site in sites}
    finite = np.logical_and.reduce([np.isfinite(a).reshape(len(a), -1).all(1) for a in pooled.values()])
    rows = np.flatnonzero(finite)
    if not len(rows):
        return {site: np.ones_like(array[None, :1]) for site, array in pooled.items()}
    chosen = rows[np.linspace(0, len(rows) - 1, min(len(rows), _NUM_TRIED)).astype(int)]
    return {site: array[None, chosen] for site, array in pooled.items()}


def _over_draws(posterior: Any, method: Any, weights: Weights) -> Any:
    """A method of the posterior at every draw, as NumPy arrays with leading chain and draw."""
    sites = {site: weights[site] for site in posterior.sites}
    batch = next(iter(sites.values())).shape[:2]
    result = _map_draws(method, posterior, {site: _pooled(array) for site, array in sites.items()})
    return jax.tree.map(lambda array: np.asarray(array).reshape(batch + array.shape[1:]), result)


@partial(jax.jit, static_argnums=0)
def _map_draws(method: Any, posterior: Any, draws: Any) -> Any:
    return jax.lax.map(partial(method, posterior), draws, batch_size=_LANES)


def _gradient(posterior: Any, weights: Any) -> Any:
    return jax.grad(posterior.prior_logprob)(weights)


def _pooled(array: np.ndarray) -> np.ndarray:
    return array.reshape(-1, *array.shape[2:])
