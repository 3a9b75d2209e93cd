"""`find_symmetries`: the analysis from end to end.

    program -> axes -> characters over Q and GF(2) -> group -> certificate

for the log joint with the observations and for the observations alone. What these have and the log joint has not is put
down to the sites whose prior changes, where one does (`broken`).
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ..group import Symmetries, SymmetryGroup
from .assemble import assemble
from .axes import pin
from .broken import find_broken
from .certificate import Probe, certify
from .float64 import function_probe, posterior_probes
from .passes import find_characters, identify_axes
from .program import Program
from .supports import Support
from .trace import PosteriorLike, Shapes, function_program, posterior_programs, site_supports


def find_symmetries(model: PosteriorLike | Callable[..., Any], *arguments: Any) -> Symmetries:
    r"""Find the permutations, signs and scales of the weights that change nothing, and certify each.

    ``find_symmetries(posterior)`` reads the jaxprs of the log probability of each observation and of the log joint.
    What leaves the former unchanged is a symmetry of the likelihood; what leaves both unchanged, of the posterior.
    ``.broken`` tells which of the likelihood's the posterior lacks: broken by the prior, and through which sites, or
    merely not proved. The entries of a ``numpyro.factor`` count as observations, each in its place: sum a factor whose
    entries have none. ``find_symmetries(apply, params, x)`` does the same for any
    function ``apply(params, x)``, which has no prior.

    Every axis of every weight that is not free is listed with the reason. A primitive without a rule pins what reaches
    it: symmetries may be missed, none is invented, and each that is reported has passed its float64 certificate.

    Args:
        model: A `bnn_models.Posterior`, or a function of parameters and inputs.
        *arguments: With a function its parameters and inputs: any pytrees of arrays or of ``jax.ShapeDtypeStruct``.

    Returns:
        The symmetries of the posterior (None for a function) and of the likelihood, and what the former lacks.

    Raises:
        ValueError: If a function comes without its parameters and inputs, or without floating parameters.

    Example:
        >>> import jax.numpy as jnp
        >>> def network(params, x):
        ...     return jnp.tanh(x @ params["w"]) @ params["v"]
        >>> found = find_symmetries(network, {"w": jnp.ones((2, 3)), "v": jnp.ones((3, 1))}, jnp.ones((5, 2)))
        >>> [(factor.kind, factor.size) for factor in found.likelihood.factors]
        [('permutation', 3), ('sign', 3)]
    """
    if isinstance(model, PosteriorLike):
        if arguments:
            raise ValueError(
                f"a posterior carries its own data, but {len(arguments)} more arguments came; leave them out"
            )
        return _of_posterior(model)
    if not callable(model) or len(arguments) != 2:
        raise ValueError(
            "find_symmetries takes a posterior, or a function with its parameters and inputs; got "
            f"{type(model).__name__} and {len(arguments)} further arguments"
        )
    return _of_function(model, *arguments)


def _of_posterior(posterior: PosteriorLike) -> Symmetries:
    joint, likelihood = posterior_programs(posterior)
    supports = site_supports(posterior)
    probes = posterior_probes(posterior)
    whole = _certified(_analyse(joint, posterior.sites, supports), probes[0])
    part = _certified(_analyse(likelihood, posterior.sites, supports), probes[1])
    likelihood_sites = [site for site, value in likelihood.leaves.items() if likelihood.used(value)]
    return Symmetries(whole, part, find_broken(whole, part, likelihood_sites, probes[2]))


def _of_function(apply: Callable[[Any, Any], Any], params: Any, x: Any) -> Symmetries:
    paths, treedef = jax.tree_util.tree_flatten_with_path(params)
    names = [_dotted(path) for path, _ in paths]
    sites = {name: tuple(leaf.shape) for name, (_, leaf) in zip(names, paths, strict=True) if _is_parameter(leaf)}
    if not sites:
        raise ValueError("the parameters hold no floating-point array; pass those of a network, shapes suffice")
    rest = {name: leaf for name, (_, leaf) in zip(names, paths, strict=True) if name not in sites}

    def function(inputs: Any, weights: Mapping[str, Any]) -> Any:
        leaves = rest | dict(weights)
        return apply(jax.tree.unflatten(treedef, [leaves[name] for name in names]), inputs)

    group = _analyse(function_program(function, x, sites), sites, {})
    return Symmetries(None, _certified(group, function_probe(function, x, sites)))


def _analyse(program: Program, sites: Shapes, supports: Mapping[str, Support]) -> SymmetryGroup:
    """The group of a program, not yet certified."""
    axes = identify_axes(program)
    for site, value in program.leaves.items():
        if site in supports and not supports[site].permutations:
            for axis in axes[value]:
                pin(axis, f"support of {site}")
    signs = find_characters(program, axes, "sign", [site for site in supports if not supports[site].signs])
    scales = find_characters(program, axes, "scale", [site for site in supports if not supports[site].scales])
    return assemble(program, sites, axes, (signs, scales))


def _certified(group: SymmetryGroup, probe: Probe) -> SymmetryGroup:
    checked, defects = certify(group, probe)
    for defect in defects:
        warnings.warn(defect, RuntimeWarning, stacklevel=4)
    return checked


def _is_parameter(leaf: Any) -> bool:
    return hasattr(leaf, "shape") and hasattr(leaf, "dtype") and jnp.issubdtype(leaf.dtype, np.floating)


def _dotted(path: tuple[Any, ...]) -> str:
    return jax.tree_util.keystr(path, simple=True, separator=".").removesuffix(".value")
