"""`find_symmetries`: the analysis from end to end.

    program -> axes -> characters over Q and GF(2) -> group -> certificate

for the log joint with the observations and for the observations alone. What these have and the log joint has not is put
down to the sites whose prior changes, where one does (`broken`).
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from ..factor import Factor
from ..group import SymmetryGroup
from ..symmetries import Symmetries
from .activations import fuse
from .assemble import assemble
from .axes import pin
from .broken import find_broken, is_generated
from .certificate import Probe, measure
from .certificate import certify as check_factors
from .epsilons import without_epsilons
from .float64 import function_probe, posterior_probes
from .functions import Function
from .passes import find_characters, identify_axes
from .program import Program
from .rewrite import rewrite
from .rotations import with_rotations
from .shifts import find_shifts
from .supports import Support
from .trace import PosteriorLike, Shapes, function_program, posterior_programs, site_supports

# By how much of the largest output an approximate symmetry may change it.
MAX_DEVIATION = 1e-2
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
    probes = posterior_probes(posterior) if certified else (None,) * 3
    whole, part = (
        _certified(_analyse(program, posterior.sites, supports), probe)
        for program, probe in zip((joint, likelihood), probes, strict=False)
    )
    read = [site for site, value in likelihood.leaves.items() if likelihood.used(value)]
    part = _shifted(part, [site for site in read if supports[site] == Support()], likelihood, probes[1])
    whole = _shifted(whole, [shift.site for shift in part.shifts], joint, probes[0])
    broken = find_broken(whole, part, read, probes[2] or BLIND)
    return Symmetries(whole, part, broken, _approximate(likelihood, part, supports, probes[1]))


def _of_function(function: Function, *, certified: bool) -> Symmetries:
    program = function_program(function, function.inputs, function.sites)
    read = [site for site, value in program.leaves.items() if program.used(value)]
    if not read:
        raise ValueError(
            "the outputs of apply(params, x) depend on none of the parameters; return what the model makes of them"
        )
    probe = function_probe(function, function.inputs, function.sites) if certified else None
    group = _shifted(_certified(_analyse(program, function.sites, {}), probe), read, program, probe)
    return Symmetries(None, group, approximate=_approximate(program, group, {}, probe))


def _analyse(program: Program, sites: Shapes, supports: Mapping[str, Support]) -> tuple[SymmetryGroup, frozenset[str]]:
    """The group of a program, not yet certified, and the classes on which rotations may act."""
    program = fuse(rewrite(program))
    axes = identify_axes(program)
    for site, value in program.leaves.items():
        if site in supports and not supports[site].permutations:
            for axis in axes[value][-(supports[site].event_dim or len(axes[value])) :]:
                pin(axis, f"support of {site}")
    signs = find_characters(program, axes, "sign", [site for site in supports if not supports[site].signs])
    scales = find_characters(program, axes, "scale", [site for site in supports if not supports[site].scales])
    group, may_rotate = assemble(program, sites, axes, (signs, scales))
    bounded = {site for site, support in supports.items() if support != Support()}
    inside = {factor.axis for factor in group.factors for slot in factor.slots if slot.site in bounded}
    return group, may_rotate - inside if _is_continuous(program) else frozenset()


def _approximate(
    program: Program, group: SymmetryGroup, supports: Mapping[str, Support], probe: Probe | None
) -> tuple[Factor, ...]:
    """Scales that hold but for the small constants of the program."""
    idealised = without_epsilons(program)
    if idealised is None:
        return ()
    exact = (*group.factors, *group.monomial().factors)
    found, _ = _analyse(idealised, group.sites, supports)
    factors = [
        factor for factor in found.factors if factor.kind == "scale" and not is_generated(factor, exact, group.sites)
    ]
    return tuple(factors) if probe is None else measure(factors, group, probe, MAX_DEVIATION)


def _is_continuous(program: Program) -> bool:
    return all(np.issubdtype(value.dtype, np.floating) for value in program.outputs)


def _shifted(group: SymmetryGroup, sites: Sequence[str], program: Program, probe: Probe | None) -> SymmetryGroup:
    """The group with the shifts of these sites."""
    if probe is None or not _is_continuous(program):
        return group
    return replace(group, shifts=find_shifts(group, sites, probe))


def _certified(analysed: tuple[SymmetryGroup, frozenset[str]], probe: Probe | None) -> SymmetryGroup:
    """The group with certificates and rotations; as it is without a probe."""
    group, may_rotate = analysed
    if probe is None:
        return group
    checked, defects = check_factors(group, probe)
    for defect in defects:
        warnings.warn(defect, RuntimeWarning, stacklevel=4)
    return with_rotations(checked, may_rotate, probe)
