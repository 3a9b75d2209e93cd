"""Which symmetries of the likelihood the prior breaks, and through which sites.

A factor of the likelihood's group survives in the posterior if elements of the posterior's group do the same to all
weights that the likelihood reads; what they do to hyper-parameters beside is free. Where none do, the densities of the
prior at random weights tell the sites that break it; if none of them changes, the factor is unproved and not broken.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping

from ..group import Broken, Factor, Slot, SymmetryGroup
from .certificate import Probe, changes
from .characters import independent

type Shapes = Mapping[str, tuple[int, ...]]


def find_broken(
    posterior: SymmetryGroup, likelihood: SymmetryGroup, likelihood_sites: Collection[str], priors: Probe
) -> tuple[Broken, ...]:
    """The factors of the likelihood's group that the posterior's has not, or not all of.

    Args:
        posterior: Symmetries of the log joint.
        likelihood: Symmetries of the log probability of each observation.
        likelihood_sites: Sites that the likelihood reads.
        priors: The log prior density of each site.

    Returns:
        One entry for each such factor; without sites where no prior changes under it.
    """
    remaining = [_visible_part(factor, likelihood_sites) for factor in posterior.factors]
    broken = []
    for factor in likelihood.factors:
        if _survives(factor, remaining, likelihood.sites):
            continue
        changed = changes(factor, likelihood, priors)
        sites = tuple(site for site in likelihood.sites if site in changed)
        broken.append(Broken(factor.name, sites, _note(factor, remaining, sites, posterior)))
    return tuple(broken)


def _visible_part(factor: Factor, sites: Collection[str]) -> Factor:
    """What a factor does to the given sites; possibly nothing."""
    return dataclasses.replace(factor, slots=tuple(slot for slot in factor.slots if slot.site in sites))


def _survives(factor: Factor, remaining: Collection[Factor], shapes: Shapes) -> bool:
    """Whether the remaining factors generate the factor."""
    same_kind = [other for other in remaining if other.kind == factor.kind]
    if factor.kind == "permutation":
        return any(set(other.slots) == set(factor.slots) and other.colours == factor.colours for other in same_kind)
    if all(slot.axis is None for slot in factor.slots):
        known = [_on_whole_arrays(other, shapes) for other in same_kind]
        return not independent([_on_whole_arrays(factor, shapes)], known, factor.kind)
    return not independent([_exponents(factor)], [_exponents(other) for other in same_kind], factor.kind)


def _exponents(factor: Factor) -> Mapping[Slot, int]:
    return {dataclasses.replace(slot, exponent=1): slot.exponent for slot in factor.slots}


def _on_whole_arrays(factor: Factor, shapes: Shapes) -> dict[str, int]:
    """What the factor does when all members get one number; empty where that is no power of whole arrays."""
    powers: dict[str, int] = {}
    for slot in factor.slots:
        if slot.axis is not None and slot.size * slot.stride * slot.outer < shapes[slot.site][slot.axis]:
            return {}
        powers[slot.site] = powers.get(slot.site, 0) + slot.exponent
    return powers


def _note(factor: Factor, remaining: Collection[Factor], sites: tuple[str, ...], posterior: SymmetryGroup) -> str:
    partners = [other for other in remaining if other.kind == factor.kind and set(factor.slots) <= set(other.slots)]
    for other in partners:
        moved = ", ".join(dict.fromkeys(slot.site for slot in other.slots if slot not in factor.slots))
        within = f"within the colours {other.colours}" if other.colours != factor.colours else ""
        condition = " and ".join(filter(None, (within, f"where {moved} move along" if moved else "")))
        return f"remains only {condition}" if sites else f"proved only {condition}"
    if sites:
        return f"the prior changes under its {factor.kind}s"
    reasons = [
        pin.reason
        for pin in posterior.pinned
        for slot in factor.slots
        if (slot.site, slot.axis) == (pin.site, pin.axis)
    ]
    return "not proved for the log joint: " + ("; ".join(dict.fromkeys(reasons)) or "no reason known")
