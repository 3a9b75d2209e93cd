"""Which symmetries of the likelihood the prior breaks, and through which sites.

A factor of the likelihood's group survives in the posterior if elements of the posterior's group do the same to all
weights that the likelihood reads; what they do to hyper-parameters beside is free. Where none do, the densities of the
prior at random weights tell the sites that break it; if none of them changes, the factor is unproved and not broken.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Hashable, Iterator, Mapping

from ..factor import Factor, Kind, Slot
from ..group import SymmetryGroup
from ..symmetries import Broken
from .certificate import Probe, changes
from .characters import independent

NAMES: dict[Kind, str] = {
    "permutation": "permutations",
    "sign": "signs",
    "scale": "scales",
    "linear": "matrices",
    "orthogonal": "rotations",
}

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
    remaining = [
        _visible_part(factor, likelihood_sites) for factor in (*posterior.factors, *posterior.monomial().factors)
    ]
    broken = []
    for factor in likelihood.factors:
        if is_generated(factor, remaining, likelihood.sites):
            continue
        changed = changes(factor, likelihood, priors)
        sites = tuple(site for site in likelihood.sites if site in changed)
        broken.append(Broken(factor.name, sites, _note(factor, remaining, sites, posterior)))
    return tuple(broken)


def _visible_part(factor: Factor, sites: Collection[str]) -> Factor:
    """What a factor does to the given sites; possibly nothing."""
    return dataclasses.replace(factor, slots=tuple(slot for slot in factor.slots if slot.site in sites))


def is_generated(factor: Factor, remaining: Collection[Factor], shapes: Shapes) -> bool:
    """Whether factors generate another one.

    Args:
        factor: That one.
        remaining: What may generate it.
        shapes: Of the sites.
    """
    same_kind = [other for other in remaining if other.kind == factor.kind]
    if factor.kind == "sign" or factor.kind == "scale":
        describe = _on_whole_arrays if all(slot.axis is None for slot in factor.slots) else _exponents
        known = [describe(other, shapes) for other in same_kind]
        return not independent([describe(factor, shapes)], known, factor.kind)
    return any(set(other.slots) == set(factor.slots) and other.colours == factor.colours for other in same_kind)


def _exponents(factor: Factor, shapes: Shapes) -> Mapping[Hashable, int]:
    del shapes
    return {dataclasses.replace(slot, exponent=1): slot.exponent for slot in factor.slots}


def _on_whole_arrays(factor: Factor, shapes: Shapes) -> Mapping[Hashable, int]:
    """What the factor does when all members get one number; empty where that is no power of whole arrays."""
    powers: dict[Hashable, int] = {}
    for slot in factor.slots:
        if slot.axis is not None and slot.size * slot.stride * slot.outer < shapes[slot.site][slot.axis]:
            return {}
        powers[slot.site] = powers.get(slot.site, 0) + slot.exponent
    return powers


def _note(factor: Factor, remaining: Collection[Factor], sites: tuple[str, ...], posterior: SymmetryGroup) -> str:
    places = {_place(slot) for slot in factor.slots}
    for other in (other for other in remaining if other.kind == factor.kind):
        if places <= {_place(slot) for slot in other.slots}:
            condition = " and ".join(_conditions(factor, other))
            return f"remains only {condition}" if sites else f"proved only {condition}"
    if sites and factor.kind == "linear":
        return _what_remains(factor, remaining)
    if sites:
        return f"the prior changes under its {NAMES[factor.kind]}"
    reasons = [
        pin.reason
        for pin in posterior.pinned
        for slot in factor.slots
        if (slot.site, slot.axis) == (pin.site, pin.axis)
    ]
    return "not proved for the log joint: " + ("; ".join(dict.fromkeys(reasons)) or "no reason known")


def _what_remains(factor: Factor, remaining: Collection[Factor]) -> str:
    """Which subgroup of all invertible matrices the prior leaves."""

    def places(of: Factor) -> set[Slot]:
        return {dataclasses.replace(slot, fibre=(), exponent=1) for slot in of.slots}

    kinds = [other.kind for other in remaining if places(other) == places(factor)]
    kept: list[Kind] = ["orthogonal"] if "orthogonal" in kinds else [kind for kind in NAMES if kind in kinds]
    if not kept:
        return "the prior changes under its matrices"
    return f"of its matrices only {' and '.join(NAMES[kind] for kind in kept)} remain"


def _conditions(factor: Factor, other: Factor) -> Iterator[str]:
    """Under which conditions a factor that acts at the same places does the same."""
    places = {_place(slot) for slot in factor.slots}
    moved = ", ".join(dict.fromkeys(slot.site for slot in other.slots if _place(slot) not in places))
    if other.colours != factor.colours:
        yield f"within the colours {other.colours}"
    if len(other.fibre) < len(factor.fibre):
        tied = [
            name for name, size in zip(factor.fibre, factor.fibre_shape, strict=True) if size not in other.fibre_shape
        ]
        yield f"where it is one and the same over {' and '.join(tied or factor.fibre)}"
    if moved:
        yield f"where {moved} move along"


def _place(slot: Slot) -> Slot:
    return dataclasses.replace(slot, fibre=())
