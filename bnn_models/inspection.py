"""What can be known of a model and its data before any sampling, and what must be refused.

Two compiled prior draws list the sites and read off what only values tell: which priors are centred at zero, and
whether the observations lie in the support of their distributions.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpyro.distributions as dist
from jax import Array

from . import tracing
from .arguments import Arguments
from .scales import location_scale


@runtime_checkable
class FunctionModel(Protocol):
    """A model with a function of its own, such as a `BNN`: what its weights say at inputs ``x``, without noise."""

    def function(self, weights: tracing.Values, x: Array) -> Array:
        """The function's values at the rows of ``x``."""
        ...


@dataclass(frozen=True)
class Structure:
    """What a posterior knows of its sites; the static part of the pytree.

    Attributes:
        sites: Name and constrained shape of each latent site, in the order of the model.
        unconstrained: Name and unconstrained shape of each latent site.
        observed: Names of the observed sites.
        zero_mean: Latent sites whose prior is of a zero-mean location-scale family.
    """

    sites: tuple[tuple[str, tuple[int, ...]], ...]
    unconstrained: tuple[tuple[str, tuple[int, ...]], ...]
    observed: tuple[str, ...]
    zero_mean: tuple[str, ...]


class _Measured(NamedTuple):
    """What one prior draw tells: values of ``numpyro.param`` sites, and flags by site."""

    parameters: dict[str, Any]
    is_centred: dict[str, Array]
    is_supported: dict[str, Array]


def inspect_model(model: Callable[..., Any], arguments: Arguments) -> tuple[tracing.Program, Structure]:
    """List a model's sites and refuse a model or data that cannot be sampled.

    Args:
        model: A NumPyro model.
        arguments: Its arguments.

    Returns:
        The model ready to run, with its ``numpyro.param`` sites at their initial values, and what its sites are.

    Raises:
        ValueError: As `Posterior` says.
    """
    _check_hashable(model)
    listed: list[Structure] = []

    def measure(arguments: Arguments, rng_key: Array) -> _Measured:
        sites = tracing.Program(model, arguments, {}).from_prior(rng_key)
        _check_sites(sites)
        structure, measured = _measure(sites)
        listed.append(structure)
        return measured

    compiled = jax.jit(measure)
    try:
        first, second = (compiled(arguments, jax.random.key(seed)) for seed in (0, 1))
    except jax.errors.JAXTypeError as error:
        raise ValueError(
            "The model uses the values of its array arguments in Python, where they are not known; give such arguments "
            f"as plain Python numbers or tuples, and compute with jax.numpy on the rest ({_first_line(error)})"
        ) from error
    except (TypeError, AssertionError) as error:
        shapes = ", ".join(f"{name}: {array.shape}" for name, array in arguments.named_arrays().items())
        raise ValueError(f"The model does not run on its arguments ({shapes}): {_first_line(error)}") from error
    _check_supported(first.is_supported)
    structure = listed[0]
    zero_mean = tuple(n for n in structure.zero_mean if first.is_centred[n] and second.is_centred[n])
    structure = dataclasses.replace(structure, zero_mean=zero_mean)
    return tracing.Program(model, arguments, first.parameters), structure


def _measure(sites: tracing.Trace) -> tuple[Structure, _Measured]:
    latent, observed = tracing.latent_sites(sites), tracing.observed_sites(sites)
    # A prior inside `handlers.scale` is no longer the family that its distribution names.
    families = {n: location_scale(site["fn"]) for n, site in latent.items() if site["scale"] is None}
    families = {n: family for n, family in families.items() if family is not None}
    structure = Structure(
        sites=tuple((n, jnp.shape(site["value"])) for n, site in latent.items()),
        unconstrained=tuple((n, jnp.shape(tracing.unconstrained(site))) for n, site in latent.items()),
        observed=tuple(observed),
        zero_mean=tuple(families),
    )
    measured = _Measured(
        parameters={n: site["value"] for n, site in sites.items() if site["type"] == "param"},
        is_centred={n: jnp.all(family.location == 0) for n, family in families.items()},
        is_supported={n: jnp.all(_in_support(site)) for n, site in observed.items() if not tracing.is_factor(site)},
    )
    return structure, measured


def _check_hashable(model: Any) -> None:
    try:
        hash(model)
    except TypeError as error:
        raise ValueError(
            f"The model should be hashable, got {model!r}; make it a function or a frozen dataclass of hashable fields."
        ) from error


def _check_sites(sites: tracing.Trace) -> None:
    """Refuse sites that no gradient-based sampler of a fixed density can serve."""
    for name, site in sites.items():
        if site["type"] == "mutable" and jax.tree.leaves(site["value"]):
            raise ValueError(
                f"Site {name!r} keeps a state that changes from call to call, so the density is not a function of the "
                "weights; use layers without state (no batch normalisation, no dropout)."
            )
        if site["type"] == "plate" and site["args"][1] is not None and site["args"][1] < site["args"][0]:
            raise ValueError(
                f"Plate {name!r} draws {site['args'][1]} of its {site['args'][0]} rows at random; give the plate its "
                "whole size, since the density is that of all the data."
            )
    latent = tracing.latent_sites(sites)
    for name, site in latent.items():
        _check_latent(name, site)
    if not latent:
        raise ValueError("The model has no latent site, so there is nothing to sample; draw one with numpyro.sample.")
    observed = tracing.observed_sites(sites)
    if not observed:
        raise ValueError(
            "The model has no observed site, so there is nothing to learn from; pass the data to the model and observe "
            "it with numpyro.sample(..., obs=y)."
        )
    for name, site in observed.items():
        if not tracing.is_factor(site):
            _check_observations(name, site)


def _check_latent(name: str, site: tracing.Site) -> None:
    if isinstance(site["fn"], dist.Delta):
        raise ValueError(f"Latent site {name!r} has a delta distribution; make it a numpyro.deterministic site.")
    if site["fn"].support.is_discrete:
        raise ValueError(
            f"Site {name!r} is a discrete latent site, which gradients cannot move; sum it out, for instance with "
            "numpyro.distributions.MixtureSameFamily."
        )


def _check_observations(name: str, site: tracing.Site) -> None:
    """Refuse observations whose shape only broadcasts against their distribution's."""
    value_shape, fn_shape = jnp.shape(site["value"]), tuple(site["fn"].shape())
    expected = value_shape[: len(value_shape) - site["fn"].event_dim]
    try:
        is_matching = jnp.shape(tracing.site_logprob(site)) == expected
    except (TypeError, ValueError):
        is_matching = False
    if not is_matching:
        raise ValueError(
            f"The observations at site {name!r} have shape {value_shape}, but their distribution has shape {fn_shape}; "
            "give one observation for each element of the distribution (a column (n, 1) is not a vector (n,))."
        )


def _in_support(site: tracing.Site) -> Array:
    """Whether the observations are possible; taken for granted where the support itself depends on values."""
    support = site["fn"].support
    bounds = [bound for bound in vars(support).values() if isinstance(bound, Array)]
    return jnp.ones((), bool) if bounds else support(site["value"])


def _check_supported(is_supported: dict[str, Array]) -> None:
    for name, is_inside in is_supported.items():
        if not is_inside:
            raise ValueError(
                f"Some observations at site {name!r} lie outside the support of their distribution; check their range "
                "and coding (classes count from 0)."
            )


def _first_line(error: BaseException) -> str:
    return str(error).strip().partition("\n")[0]
