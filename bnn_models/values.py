"""Values that a user gives to a posterior or reads from it, by site."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.core import Tracer
from jaxtyping import Bool, Float, Key

from . import draws, tracing


def checked(values: tracing.Values, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Any]:
    """The latent sites among values. NumPyro would draw a missing one anew, and broadcast one of another shape.

    Args:
        values: By site; others are left out.
        shapes: What each site should have.

    Returns:
        A value for each of the sites.

    Raises:
        ValueError: If one is missing or has another shape.
    """
    missing = [name for name in shapes if name not in values]
    if missing:
        raise ValueError(f"Expected a value for each of the sites {list(shapes)}, got none for {missing}.")
    for name, shape in shapes.items():
        if jnp.shape(values[name]) != shape:
            raise ValueError(
                f"Expected one value of shape {shape} at site {name!r}, got shape {jnp.shape(values[name])}; use "
                "jax.vmap for many draws."
            )
    return {name: values[name] for name in shapes}


def found_starts(positions: dict[str, Array], is_finite: Bool[Array, " chain"]) -> dict[str, Array]:
    """Refuse starts that were looked for in vain; never under jit.

    Args:
        positions: What `draws.find_starts` found.
        is_finite: Whether it is a start.

    Returns:
        The positions.

    Raises:
        ValueError: If some are none.
    """
    if not isinstance(is_finite, Tracer) and not bool(is_finite.all()):
        raise ValueError(
            f"No start with finite log density and gradient was found in {draws.NUM_PRIOR_DRAWS} prior draws and "
            f"{draws.NUM_UNIFORM_DRAWS} uniform ones; check the model's scales and supports against its data."
        )
    return positions


def check_no_inputs(probes: Any) -> None:
    """Refuse probe inputs for a model without a function of its own.

    Args:
        probes: What `Posterior.function` was given.

    Raises:
        ValueError: If it is not None.
    """
    if probes is not None:
        raise ValueError(
            "Probe inputs need a model with a function of its own, such as a BNN; leave `probes` out for the "
            "pointwise log likelihood, or name a deterministic site of the model."
        )


def pointwise(sites: tracing.Trace) -> dict[str, Float[Array, " ..."]]:
    """Log probability of each observation, by observed site."""
    return {name: tracing.site_logprob(site) for name, site in tracing.observed_sites(sites).items()}


def deterministic(sites: tracing.Trace, name: str) -> Array:
    """The value of one deterministic site.

    Args:
        sites: The model's sites.
        name: That of the site.

    Returns:
        Its value.

    Raises:
        ValueError: If there is no such site.
    """
    values = tracing.deterministic_values(sites)
    if name not in values:
        raise ValueError(
            f"Expected the name of a deterministic site of the model, one of {list(values)}, got {name!r}."
        )
    return values[name]


def predicted(
    program: tracing.Program,
    shapes: Mapping[str, tuple[int, ...]],
    observed: tuple[str, ...],
    weights: tracing.Values,
    rng_key: Key[Array, ""],
) -> dict[str, Array]:
    """Draw the observed sites for weights with any number of leading batch dimensions.

    Args:
        program: The model, with the arguments at which to predict.
        shapes: What one draw of each latent site has.
        observed: Names of the observed sites.
        weights: Constrained values.
        rng_key: Random key.

    Returns:
        One draw of each observed site for each of the batch.

    Raises:
        ValueError: If the weights do not fit the sites.
    """
    values = {name: jnp.asarray(weights[name]) for name in shapes if name in weights}
    batch = next((v.shape[: v.ndim - len(shapes[n])] for n, v in values.items()), ())
    checked(values, {name: (*batch, *shape) for name, shape in shapes.items()})
    flat = {n: v.reshape((-1, *v.shape[len(batch) :])) for n, v in values.items()}
    drawn = draws.draw_observed(program, observed, flat, jax.random.split(rng_key, math.prod(batch)))
    return {n: v.reshape((*batch, *v.shape[1:])) for n, v in drawn.items()}
