"""The models themselves, run in float64 at random weights: what certificates and the search for broken sites look at.

Nothing here knows the programs that discovery analysed, so an error of the analysis cannot hide in its own check.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from .certificate import Outputs, Probe, Weights
from .trace import PosteriorLike, Shapes, abstract_weights, trace_sites
from .upcast import double, in_double_precision

# Each function runs a few dozen times: compiling costs more than running.
_QUICK = {"xla_backend_optimization_level": 0}


def posterior_probes(posterior: PosteriorLike) -> tuple[Probe, Probe, Probe]:
    """Probes for the log joint, for the likelihood, and for the prior of each site.

    Args:
        posterior: A NumPyro model and its data.

    Returns:
        Three probes on one compiled function. With the log joint, whose sum would hide small errors, come the log prior
        and the observations.
    """
    weights = abstract_weights(posterior.sites)
    position = abstract_weights({site: x.shape for site, x in jax.eval_shape(_unconstrain, posterior, weights).items()})
    with _double_precision():
        doubled = jax.tree.map(double, posterior)
    constrain = _compiled(_constrain, (doubled, position), (posterior, position), _quick_constrain)
    every_output = _compiled(_outputs, (doubled, weights), (posterior, weights), _quick_outputs)

    def draw(rng: np.random.Generator) -> Weights:
        start = {site: random_array(value.shape, rng) for site, value in position.items()}
        with _double_precision():
            return _to_numpy(constrain(doubled, start))

    def run(weights: Weights) -> tuple[Outputs, Outputs, Outputs]:
        with _double_precision():
            joint, observations, prior = map(_to_numpy, every_output(doubled, dict(weights)))
        return joint | observations | {"log prior": np.asarray(sum(prior.values()))}, observations, prior

    return tuple(Probe(draw, lambda weights, part=part: run(weights)[part]) for part in range(3))  # pyright: ignore


def function_probe(function: Callable[[Any, Mapping[str, Any]], Any], inputs: Any, sites: Shapes) -> Probe:
    """A probe for ``function(inputs, weights)``; abstract inputs are drawn at random."""
    with _double_precision():
        doubled = jax.tree.map(double, _realise(inputs))
    weights = abstract_weights(sites)
    compiled = _compiled(function, (doubled, weights), (inputs, weights), jax.jit(function, compiler_options=_QUICK))

    def draw(rng: np.random.Generator) -> Weights:
        return {site: random_array(shape, rng) for site, shape in sites.items()}

    def run(weights: Weights) -> Outputs:
        with _double_precision():
            outputs = jax.tree.leaves(compiled(doubled, dict(weights)))
        return {f"output {number}": np.asarray(output) for number, output in enumerate(outputs)}

    return Probe(draw, run)


def _compiled(function: Callable[..., Any], doubled: Any, given: Any, usual: Callable[..., Any]) -> Callable[..., Any]:
    """``usual``, where the function lets itself be traced in float64; else its own program, evaluated in float64."""
    try:
        with _double_precision():
            jax.eval_shape(function, *jax.tree.map(_double_shape, doubled))
    except TypeError:
        return jax.jit(in_double_precision(function, *given), compiler_options=_QUICK)
    return usual


def random_array(shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    """Normal numbers that keep sums over the inputs of a layer of order one."""
    fan_in = np.prod(shape[:-1]) if len(shape) > 1 else 1.0
    return np.asarray(rng.standard_normal(shape) / np.sqrt(fan_in))


def _constrain(posterior: PosteriorLike, position: Any) -> Any:
    return posterior.constrain(position)


def _unconstrain(posterior: PosteriorLike, weights: Any) -> Any:
    return posterior.unconstrain(weights)


def _outputs(posterior: PosteriorLike, weights: Any) -> tuple[Any, Any, Any]:
    sites = trace_sites(posterior, weights)
    prior = {name: _log_prior(sites[name]) for name in weights}
    return {"log joint": posterior.log_joint(weights)}, posterior.observation_logprobs(weights), prior


_quick_constrain, _quick_outputs = (jax.jit(f, compiler_options=_QUICK) for f in (_constrain, _outputs))


def _log_prior(site: Mapping[str, Any]) -> Any:
    scale = 1.0 if site["scale"] is None else site["scale"]
    return jnp.sum(scale * site["fn"].log_prob(site["value"]))


def _double_shape(leaf: Any) -> Any:
    if not isinstance(leaf, jax.ShapeDtypeStruct) or not jnp.issubdtype(leaf.dtype, jnp.floating):
        return leaf
    return jax.ShapeDtypeStruct(leaf.shape, np.float64)


def _double_precision() -> AbstractContextManager[Any]:
    return jax.enable_x64(new_val=True)


def _realise(inputs: Any) -> Any:
    rng = np.random.default_rng(2)

    def make(leaf: Any) -> Any:
        if not isinstance(leaf, jax.ShapeDtypeStruct):
            return leaf
        numbers = rng.standard_normal(leaf.shape)
        return numbers if jnp.issubdtype(leaf.dtype, jnp.floating) else np.zeros(leaf.shape, leaf.dtype)

    return jax.tree.map(make, inputs)


def _to_numpy(tree: Mapping[str, Any]) -> dict[str, np.ndarray]:
    return {name: np.asarray(value) for name, value in tree.items()}
