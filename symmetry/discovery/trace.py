"""From a NumPyro model, or a function of parameters and inputs, to the programs that discovery reads.

The jaxpr of the log probability of each observation gives the symmetries of the likelihood, together with that of the
log joint those of the posterior: link functions, priors and hyper-parameters are part of the program, so nothing has to
be said about the architecture. Nothing is allocated, shapes suffice.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from jax import Array
from numpyro.handlers import seed, substitute, trace

from bnn_models.arguments import signature_of

from .program import Program, flatten
from .supports import Support, support_of

type Shapes = Mapping[str, tuple[int, ...]]


@runtime_checkable
class PosteriorLike(Protocol):
    """What discovery needs of `bnn_models.Posterior`; a pytree whose leaves are the data."""

    @property
    def model(self) -> Callable[..., Any]:
        """The NumPyro model."""
        ...

    @property
    def args(self) -> tuple[Any, ...]:
        """Its positional arguments."""
        ...

    @property
    def kwargs(self) -> dict[str, Any]:
        """Its keyword arguments."""
        ...

    @property
    def sites(self) -> dict[str, tuple[int, ...]]:
        """Latent sites in order, with their shapes."""
        ...

    def log_joint(self, weights: Any) -> Any:
        """Log joint density of constrained values."""
        ...

    def observation_logprobs(self, weights: Any) -> dict[str, Any]:
        """Log probability of each observation."""
        ...

    def constrain(self, position: Any) -> dict[str, Any]:
        """Unconstrained to constrained values."""
        ...

    def unconstrain(self, weights: Any) -> dict[str, Any]:
        """Constrained to unconstrained values."""
        ...


def posterior_programs(posterior: PosteriorLike) -> tuple[Program, Program]:
    """The program of the log joint with the log probability of each observation, and that of the latter alone.

    The log joint by itself would let two equal observations, which it merely sums, change places together with what is
    latent in their rows; for pointwise log likelihoods, and for the next observation, that is another model.

    Args:
        posterior: A NumPyro model and its data.

    Returns:
        Both programs, without dead code.
    """
    leaves = jax.tree.leaves(posterior)
    names = _argument_names(posterior)
    data = [f"data of argument {names[id(leaf)]}" if id(leaf) in names else "data" for leaf in leaves]
    return (
        _program(_joint_and_observations, posterior, data, posterior.sites),
        _program(lambda model, weights: model.observation_logprobs(weights), posterior, data, posterior.sites),
    )


def function_program(function: Callable[[Any, Mapping[str, Any]], Any], inputs: Any, sites: Shapes) -> Program:
    """The program of ``function(inputs, weights)``.

    Args:
        function: Any traceable function.
        inputs: Arrays or abstract shapes, pinned as "network input".
        sites: Shape of each array of ``weights``.

    Returns:
        The program, without dead code.
    """
    return _program(function, inputs, ["network input"] * len(jax.tree.leaves(inputs)), sites)


def site_supports(posterior: PosteriorLike) -> dict[str, Support]:
    """What the support of each latent site allows."""
    supports: dict[str, Support] = {}

    def record(model: PosteriorLike, weights: Mapping[str, Array]) -> None:
        for name, site in trace_sites(model, weights).items():
            if name in weights:
                supports[name] = support_of(site["fn"].support)

    jax.eval_shape(record, posterior, abstract_weights(posterior.sites))
    return supports


def trace_sites(posterior: PosteriorLike, weights: Mapping[str, Any]) -> dict[str, Any]:
    """NumPyro's trace of the model with its latent sites at the given constrained values."""
    model = substitute(seed(posterior.model, jax.random.key(0)), data=dict(weights))
    return trace(model).get_trace(*posterior.args, **posterior.kwargs)


def _joint_and_observations(posterior: PosteriorLike, weights: Mapping[str, Any]) -> tuple[Any, Any]:
    return posterior.log_joint(weights), posterior.observation_logprobs(weights)


def _program(
    function: Callable[[Any, Mapping[str, Any]], Any], inputs: Any, descriptions: list[str], sites: Shapes
) -> Program:
    values, equations, outputs = flatten(jax.make_jaxpr(function)(inputs, abstract_weights(sites)))
    data, weights = values[: len(descriptions)], values[len(descriptions) :]
    # JAX flattens a dict in the order of its sorted keys.
    by_site = dict(zip(sorted(sites), weights, strict=True))
    leaves = {site: by_site[site] for site in sites}
    program = Program(leaves, tuple(zip(descriptions, data, strict=True)), equations, outputs)
    return program.replace_equations(equations)


def abstract_weights(sites: Shapes) -> dict[str, jax.ShapeDtypeStruct]:
    """Shapes of floating-point weights, to trace with."""
    return {site: jax.ShapeDtypeStruct(shape, jnp.result_type(float)) for site, shape in sites.items()}


def _argument_names(posterior: PosteriorLike) -> dict[int, str]:
    """The model's own name for each array among its arguments, by identity."""
    bound = signature_of(posterior.model).bind(*posterior.args, **posterior.kwargs)
    return {id(leaf): name for name, value in bound.arguments.items() for leaf in jax.tree.leaves(value)}
