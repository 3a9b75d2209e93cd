"""Where chains start: at given positions or at draws of the posterior's own, and nowhere that they could not leave."""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from .blocks import Sampled
from .draws import Draws

Positions = dict[str, np.ndarray]
"""Positions of all chains, leading axis chain, on the host."""


def position_shapes(posterior: Sampled) -> dict[str, jax.ShapeDtypeStruct]:
    """Shape of one position; it differs from the weights' where a bijection changes the size, as on a simplex.

    Args:
        posterior: what is sampled.

    Returns:
        Site -> shape and dtype of its unconstrained value.
    """
    dtype = jnp.result_type(float)
    weights: Any = {site: jax.ShapeDtypeStruct(shape, dtype) for site, shape in posterior.sites.items()}
    return jax.eval_shape(posterior.unconstrain, weights)


def given_positions(
    initial: Mapping[str, Array | np.ndarray], shapes: Mapping[str, jax.ShapeDtypeStruct], num_chains: int
) -> Positions:
    """The user's positions, checked.

    Args:
        initial: unconstrained values by site with a leading chain axis.
        shapes: of one position.
        num_chains: number of chains.

    Returns:
        The positions.

    Raises:
        ValueError: a site is missing, unknown or of another shape.
    """
    if set(initial) != set(shapes):
        raise ValueError(f"initial must have the sites {sorted(shapes)}, got {sorted(initial)}.")
    for site, one in shapes.items():
        if np.shape(initial[site]) != (num_chains, *one.shape):
            raise ValueError(
                f"initial[{site!r}] must have the shape {(num_chains, *one.shape)}, a leading axis for the chains and "
                f"the unconstrained shape of the site, got {np.shape(initial[site])}."
            )
    return {site: np.asarray(initial[site], one.dtype) for site, one in shapes.items()}


def drawn_positions(posterior: Sampled, rng_key: Array, num_chains: int) -> Positions:
    """Each chain's position from its own key, so that it does not depend on the chains beside it.

    Args:
        posterior: what is sampled.
        rng_key: key of all starts.
        num_chains: number of chains.

    Returns:
        The positions.
    """
    starts = [posterior.initial(jax.random.fold_in(rng_key, chain), 1) for chain in range(num_chains)]
    return {site: np.concatenate([np.asarray(start[site]) for start in starts]) for site in starts[0]}


def last_positions(draws: Draws, posterior: Sampled) -> Positions:
    """Where the chains of an earlier run ended: the last weights that are kept of each.

    Args:
        draws: of any kernel on a posterior with the same sites.
        posterior: what is sampled.

    Returns:
        The positions.

    Raises:
        ValueError: the draws have other sites.
    """
    if {site: x.shape[2:] for site, x in draws.weights.items()} != posterior.sites:
        raise ValueError(
            f"initial must be draws of the sites {dict(posterior.sites)}, got draws of "
            f"{ {site: x.shape[2:] for site, x in draws.weights.items()} }."
        )
    weights = {site: jnp.asarray(x[:, -1]) for site, x in draws.weights.items()}
    return {site: np.asarray(x) for site, x in jax.vmap(posterior.unconstrain)(weights).items()}


def check_start(states: Sequence[Any], members: Sequence[range], posterior: Sampled, positions: Positions) -> None:
    """Refuses chains that could never move: a density or gradient that is not finite where they begin.

    Args:
        states: each group's State, leading axis chain.
        members: the chains of each group.
        posterior: what is sampled.
        positions: where the chains start.

    Raises:
        ValueError: a number in a State is not finite.
    """
    dead: list[int] = []
    for state, chains in zip(states, members, strict=True):
        leaves = [x for x in map(np.asarray, jax.tree.leaves(state)) if jnp.issubdtype(x.dtype, jnp.inexact)]
        is_finite = np.all([np.isfinite(x).reshape(len(chains), -1).all(axis=1) for x in leaves], axis=0)
        dead += np.asarray(chains)[~is_finite].tolist()
    if dead:
        where = _culprits(posterior, {site: jnp.asarray(x[dead[0]]) for site, x in positions.items()})
        raise ValueError(
            f"The log density or its gradient is not finite where chains {dead} start{where}; "
            "look for NaN in the data, or give `initial=` positions of positive density."
        )


def _culprits(posterior: Sampled, position: Mapping[str, Array]) -> str:
    """The sites at which a position has no finite value, log probability or gradient, in words."""
    gradient = jax.grad(posterior.logdensity)(position)
    latent = [site for site, x in position.items() if not np.isfinite(x).all()]
    observed = [site for site, x in posterior.pointwise_loglikelihood(position).items() if not np.isfinite(x).all()]
    steep = [site for site, x in gradient.items() if not np.isfinite(x).all()]
    for sites, what in ((latent, "the value of"), (observed, "the log likelihood of"), (steep, "the gradient at")):
        if sites:
            return f": {what} {', '.join(map(repr, sites))} is not"
    return ""
