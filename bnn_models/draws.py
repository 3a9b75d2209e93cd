"""Draws from a model before and after it is sampled: starting positions, and new observations."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
from jax import Array
from jax.core import Tracer
from jax.flatten_util import ravel_pytree
from jaxtyping import Bool, Key, Shaped

from . import tracing

Position = dict[str, Array]

NUM_PRIOR_DRAWS = 100
NUM_UNIFORM_DRAWS = 100

_PREDICT_BATCH = 256  # draws side by side: bounds the memory of `draw_observed`


def find_starts(program: tracing.Program, rng_keys: Key[Array, " chain"]) -> tuple[Position, Bool[Array, " chain"]]:
    """Find a start for each key, one after another: prior draws first, then positions uniform in (-2, 2).

    Args:
        program: The model.
        rng_keys: One key a chain.

    Returns:
        Positions with a leading axis for the chains, and whether each has finite log density and gradient.
    """
    is_traced = any(isinstance(leaf, Tracer) for leaf in jax.tree.leaves((program, rng_keys)))
    return (_find_starts if is_traced else _find_starts_once)(program, rng_keys)


def _find_starts(program: tracing.Program, rng_keys: Key[Array, " chain"]) -> tuple[Position, Bool[Array, " chain"]]:
    def draw_prior(rng_key: Array) -> Position:
        sites = tracing.latent_sites(program.from_prior(rng_key))
        return {name: tracing.unconstrained(site) for name, site in sites.items()}

    unset = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), jax.eval_shape(draw_prior, rng_keys[0]))
    flat, unravel = ravel_pytree(unset)

    def draw_uniform(rng_key: Array) -> Position:
        return unravel(jax.random.uniform(rng_key, flat.shape, flat.dtype, -2.0, 2.0))

    def attempt(rng_key: Array, count: Array) -> tuple[Array, Position, Array]:
        key = jax.random.fold_in(rng_key, count)
        position = jax.lax.cond(count < NUM_PRIOR_DRAWS, draw_prior, draw_uniform, key)
        density_and_gradient = jax.value_and_grad(lambda z: tracing.total_logprob(program.at_position(z)))(position)
        finite = [jnp.all(jnp.isfinite(leaf)) for leaf in jax.tree.leaves(density_and_gradient)]
        return count + 1, position, jnp.stack(finite).all()

    def find(rng_key: Array) -> tuple[Position, Array]:
        _, position, is_finite = jax.lax.while_loop(
            lambda state: ~state[2] & (state[0] < NUM_PRIOR_DRAWS + NUM_UNIFORM_DRAWS),
            lambda state: attempt(rng_key, state[0]),
            (jnp.asarray(0), unset, jnp.zeros((), bool)),
        )
        return position, is_finite

    return jax.lax.map(find, rng_keys)


# It runs once a chain: optimising it would take longer than running it.
_find_starts_once = jax.jit(_find_starts, compiler_options={"xla_backend_optimization_level": 0})


@partial(jax.jit, static_argnames="observed")
def draw_observed(
    program: tracing.Program, observed: tuple[str, ...], weights: dict[str, Array], rng_keys: Key[Array, " batch"]
) -> dict[str, Shaped[Array, "batch ..."]]:
    """Draw the observed sites once for each element of the leading axis of the weights.

    Args:
        program: The model, with the arguments at which to predict.
        observed: Names of its observed sites; factors among them have no draws.
        weights: Constrained values of the latent sites.
        rng_keys: One key an element.

    Returns:
        Drawn values by site.
    """

    def draw(weights: dict[str, Array], rng_key: Array) -> dict[str, Array]:
        sites = program.predictive(weights, rng_key)
        return {n: jnp.asarray(sites[n]["value"]) for n in observed if not tracing.is_factor(sites[n])}

    return jax.lax.map(lambda pair: draw(*pair), (weights, rng_keys), batch_size=_PREDICT_BATCH)


@jax.jit
def observations(program: tracing.Program) -> dict[str, Array]:
    """The values of the observed sites; factors have none."""
    sites = tracing.observed_sites(program.from_prior(jax.random.key(0)))
    return {name: jnp.asarray(site["value"]) for name, site in sites.items() if not tracing.is_factor(site)}
