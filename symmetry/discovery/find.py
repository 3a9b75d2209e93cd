"""`find_symmetries`: the analysis from end to end.

    program -> axes -> characters over Q and GF(2) -> group -> certificate

for the log joint with the observations and for the observations alone. What these have and the log joint has not is put
down to the sites whose prior changes, where one does (`broken`).
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Collection, Mapping
from typing import Any

import numpy as np

from ..group import SymmetryGroup
from ..symmetries import Symmetries
from .assemble import assemble
from .axes import pin
from .broken import find_broken
from .certificate import Probe
from .certificate import certify as check_factors
from .float64 import function_probe, posterior_probes
from .functions import Function
from .passes import find_characters, identify_axes
from .program import Program
from .rotations import with_rotations
from .supports import Support
from .trace import PosteriorLike, Shapes, function_program, posterior_programs, site_supports

# Sees no output, so no change of any.
BLIND = Probe(draw=lambda rng: {}, outputs=lambda weights: {})


def find_symmetries(model: PosteriorLike | Callable[..., Any], *arguments: Any, certify: bool = True) -> Symmetries:
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
        certify: Whether to run the model for certificates. If not, the groups are read off its program alone and
            nothing is allocated, so it may be of any size.

    Returns:
        The symmetries of the posterior (None for a function) and of the likelihood, and what the former lacks.

    Raises:
        ValueError: If a function comes without its parameters and inputs, cannot be traced, or has nothing to move.

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
        return _of_posterior(model, certified=certify)
    if not callable(model) or len(arguments) != 2:
        raise ValueError(
            "find_symmetries takes a posterior, or a function with its parameters and inputs; got "
            f"{type(model).__name__} and {len(arguments)} further arguments"
        )
    return _of_function(Function.of(model, *arguments), certified=certify)


def _of_posterior(posterior: PosteriorLike, *, certified: bool) -> Symmetries:
    joint, likelihood = posterior_programs(posterior)
    supports = site_supports(posterior)
    probes = posterior_probes(posterior) if certified else (BLIND,) * 3
    whole, part = (
        _certified(*_analyse(program, posterior.sites, supports), probe if certified else None)
        for program, probe in zip((joint, likelihood), probes, strict=False)
    )
    likelihood_sites = [site for site, value in likelihood.leaves.items() if likelihood.used(value)]
    return Symmetries(whole, part, find_broken(whole, part, likelihood_sites, probes[2]))


def _of_function(function: Function, *, certified: bool) -> Symmetries:
    program = function_program(function, function.inputs, function.sites)
    if not any(program.used(value) for value in program.leaves.values()):
        raise ValueError(
            "the outputs of apply(params, x) depend on none of the parameters; return what the model makes of them"
        )
    probe = function_probe(function, function.inputs, function.sites) if certified else None
    return Symmetries(None, _certified(*_analyse(program, function.sites, {}), probe))


def _analyse(program: Program, sites: Shapes, supports: Mapping[str, Support]) -> tuple[SymmetryGroup, frozenset[str]]:
    """The group of a program, not yet certified, and the classes on which rotations may act."""
    axes = identify_axes(program)
    for site, value in program.leaves.items():
        if site in supports and not supports[site].permutations:
            for axis in axes[value][-(supports[site].event_dim or len(axes[value])) :]:
                pin(axis, f"support of {site}")
    signs = find_characters(program, axes, "sign", [site for site in supports if not supports[site].signs])
    scales = find_characters(program, axes, "scale", [site for site in supports if not supports[site].scales])
    group, may_rotate = assemble(program, sites, axes, (signs, scales))
    continuous = all(np.issubdtype(value.dtype, np.floating) for value in program.outputs)
    return group, may_rotate if continuous else frozenset()


def _certified(group: SymmetryGroup, may_rotate: Collection[str], probe: Probe | None) -> SymmetryGroup:
    """The group with certificates and with rotations; as it is without a probe."""
    if probe is None:
        return group
    checked, defects = check_factors(group, probe)
    for defect in defects:
        warnings.warn(defect, RuntimeWarning, stacklevel=4)
    return with_rotations(checked, may_rotate, probe)
