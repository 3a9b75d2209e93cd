"""The models themselves, run in float64 at random weights: what certificates and the search for broken sites look at.

Nothing here knows the programs that discovery analysed, so an error of the analysis cannot hide in its own check.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from functools import cache, lru_cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from .certificate import Outputs, Probe, Weights
from .domains import find_positive, random_array, random_arrays
from .trace import PosteriorLike, Shapes, abstract_weights, trace_sites
from .upcast import double, in_double_precision

# Each function runs a few dozen times: compiling costs more than running.
_QUICK = {"xla_backend_optimization_level": 1}
# Bytes of outputs that are kept, and random weights that are.
MEMORY = 2**28
NUM_RESIDENT = 8
NOWHERE_FINITE = (
    "nothing can be certified, for apply(params, x) is NaN or infinite at all parameters that were tried, normal "
    "and positive numbers; pass inputs x at which it is finite, or certify=False for the group without certificates"
)


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
    constrain = _executable(_Traced.of(_constrain, posterior, position))
    every_output = _executable(_Traced.of(_outputs, posterior, weights))

    def draw(rng: np.random.Generator) -> Weights:
        start = {site: random_array(value.shape, rng) for site, value in position.items()}
        with _double_precision():
            return _to_numpy(constrain(doubled, start))

    def run(weights: Weights) -> tuple[Outputs, Outputs, Outputs]:
        with _double_precision():
            joint, observations, prior = map(_to_numpy, every_output(doubled, dict(weights)))
        return joint | observations | {"log prior": np.asarray(sum(prior.values()))}, observations, prior

    once = _remembering(run)
    return tuple(Probe(draw, lambda weights, part=part: once(weights)[part]) for part in range(3))  # pyright: ignore


def _remembering[T: tuple[Outputs, ...]](run: Callable[[Weights], T]) -> Callable[[Weights], T]:
    """The same function, not run again where it has been: both groups are certified at the same random weights."""
    known: dict[bytes, T] = {}

    def once(weights: Weights) -> T:
        key = hashlib.blake2b(b"".join(np.asarray(weights[site]).tobytes() for site in sorted(weights))).digest()
        if key in known:
            return known[key]
        parts = run(weights)
        size = sum(output.nbytes for part in parts for output in part.values())
        if size * (len(known) + 1) <= MEMORY:
            known[key] = parts
        return parts

    return once


def function_probe(function: Callable[[Any, Mapping[str, Any]], Any], inputs: Any, sites: Shapes) -> Probe:
    """A probe for ``function(inputs, weights)``; abstract inputs are drawn at random.

    Raises:
        ValueError: From its ``draw``, if there are no weights at which the outputs are finite.
    """
    with _double_precision():
        doubled = jax.tree.map(double, realise(inputs))
    compiled = _executable(_Traced.of(function, inputs, abstract_weights(sites)))
    resident: dict[int, tuple[np.ndarray, jax.Array]] = {}

    def run(weights: Weights) -> Outputs:
        on_device = {site: resident[id(x)][1] for site, x in weights.items() if id(x) in resident}
        with _double_precision():
            on_device |= jax.device_put({site: x for site, x in weights.items() if site not in on_device})
            outputs = jax.tree.leaves(compiled(doubled, on_device))
        return {f"output {number}": np.asarray(output, np.float64) for number, output in enumerate(outputs)}

    @cache
    def positive() -> frozenset[str]:
        found = find_positive(sites, lambda arrays: _all_finite(run(arrays)))
        if found is None:
            raise ValueError(NOWHERE_FINITE)
        return found

    def draw(rng: np.random.Generator) -> Weights:
        # What is drawn here is run many times, with few of the arrays changed: the others stay where they are.
        with _double_precision():
            arrays = jax.device_put(list(random_arrays(sites, positive(), rng).values()))
        weights = dict(zip(sites, map(np.asarray, arrays), strict=True))
        for forgotten in list(resident)[: -NUM_RESIDENT * len(sites)]:
            del resident[forgotten]
        resident.update({id(x): (x, array) for x, array in zip(weights.values(), arrays, strict=True)})
        return weights

    return Probe(draw, run)


@dataclass(frozen=True)
class _Traced:
    """A function in float64; equal to all that have the same program."""

    program: str
    constants: tuple[bytes, ...]
    function: Callable[..., Any] = field(compare=False)

    @classmethod
    def of(cls, function: Callable[..., Any], *arguments: Any) -> _Traced:
        """Trace a function."""
        closed = jax.make_jaxpr(function)(*arguments)
        doubled = in_double_precision(function, *arguments)
        return cls(str(closed), tuple(map(_bytes, _constants(closed))), doubled)


def _constants(closed: Any) -> Iterator[Any]:
    """The numbers that a jaxpr carries without showing them."""
    yield from getattr(closed, "consts", ())
    for equation in getattr(closed, "jaxpr", closed).eqns:
        for parameter in jax.tree.leaves(list(equation.params.values()), is_leaf=lambda x: hasattr(x, "eqns")):
            if hasattr(parameter, "eqns"):
                yield from _constants(parameter)


def _bytes(constant: Any) -> bytes:
    is_key = jnp.issubdtype(jnp.result_type(constant), jax.dtypes.prng_key)
    return np.asarray(jax.random.key_data(constant) if is_key else constant).tobytes()


@lru_cache(maxsize=16)
def _executable(traced: _Traced) -> Callable[..., Any]:
    """The function of float64 arguments, compiled once for all functions of the same program."""
    return jax.jit(traced.function, compiler_options=_QUICK)


def _all_finite(outputs: Outputs) -> bool:
    return all(np.isfinite(output).all() for output in outputs.values())


def _constrain(posterior: PosteriorLike, position: Any) -> Any:
    return posterior.constrain(position)


def _unconstrain(posterior: PosteriorLike, weights: Any) -> Any:
    return posterior.unconstrain(weights)


def _outputs(posterior: PosteriorLike, weights: Any) -> tuple[Any, Any, Any]:
    sites = trace_sites(posterior, weights)
    prior = {name: _log_prior(sites[name]) for name in weights}
    return {"log joint": posterior.log_joint(weights)}, posterior.observation_logprobs(weights), prior


def _log_prior(site: Mapping[str, Any]) -> Any:
    scale = 1.0 if site["scale"] is None else site["scale"]
    return jnp.sum(scale * site["fn"].log_prob(site["value"]))


def _double_precision() -> AbstractContextManager[Any]:
    return jax.enable_x64(new_val=True)


def realise(inputs: Any) -> Any:
    """Normal numbers for floats; zeros and ones in turn, which index every table, for integers; nothing masked."""
    rng = np.random.default_rng(2)

    def make(leaf: Any) -> Any:
        if not isinstance(leaf, jax.ShapeDtypeStruct):
            return leaf
        if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            return jax.random.split(jax.random.key(0), leaf.shape)
        if jnp.issubdtype(leaf.dtype, jnp.integer):
            return (np.arange(np.prod(leaf.shape, dtype=int)) % 2).reshape(leaf.shape).astype(leaf.dtype)
        return np.ones(leaf.shape, bool) if leaf.dtype == bool else rng.standard_normal(leaf.shape)

    return jax.tree.map(make, inputs)


def _to_numpy(tree: Mapping[str, Any]) -> dict[str, np.ndarray]:
    return {name: np.asarray(value) for name, value in tree.items()}
