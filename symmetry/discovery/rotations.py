r"""Classes on which all orthogonal matrices act: found by trying one.

Permutations and signs of a class together are orthogonal matrices. If they act at the same places, does every other
orthogonal matrix leave the model unchanged too? ``sum_j z[j]^2`` and ``sum_j w[i, j] z[j]`` say yes, ``sum_j z[j]^4``
says no, and random rotations at random weights in float64 tell them apart: one that is no symmetry changes the model
about as much as a rotation of one array alone does, and not by rounding. This is how the rotations of a factor model
and those of a residual stream under RMSNorm are found.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Iterator

from ..factor import Factor
from ..group import SymmetryGroup
from .certificate import VISIBLE, Probe, certify, has_steps

# How far below the change by a partial rotation that by a whole one must lie.
MARGIN = 1e4


def with_rotations(group: SymmetryGroup, classes: Collection[str], probe: Probe) -> SymmetryGroup:
    """The group with O(n) in place of S_n and Z_2^n where the model allows it.

    Args:
        group: With certificates.
        classes: Names of the classes on which rotations may act.
        probe: The model.

    Returns:
        The group; the rotations have certificates of their own.
    """
    candidates = tuple(candidate for candidate in _candidates(group) if candidate.axis in classes)
    # What fails here was a guess and no claim, so its defects are none.
    confirmed, _ = certify(SymmetryGroup(group.sites, candidates), probe)
    rotations = {
        factor.axis: factor
        for factor in confirmed.factors
        if _is_clear(factor) and not has_steps(_sites(factor), probe)
    }
    factors: list[Factor] = []
    for factor in group.factors:
        if factor.axis not in rotations:
            factors.append(factor)
        elif factor.kind == "permutation":
            factors.append(rotations[factor.axis])
    return dataclasses.replace(group, factors=tuple(factors))


def _sites(factor: Factor) -> set[str]:
    return {slot.site for slot in factor.slots}


def _is_clear(factor: Factor) -> bool:
    certificate = factor.certificate
    return certificate is not None and certificate.error <= min(VISIBLE, certificate.control / MARGIN)


def _candidates(group: SymmetryGroup) -> Iterator[Factor]:
    """Classes with one permutation and one sign, at the same places and over the same fibre, and nothing else."""
    fibres = {name for factor in group.factors for name in factor.fibre}
    for permutation in group.factors:
        own = [factor for factor in group.factors if factor.axis == permutation.axis]
        if permutation.kind != "permutation" or permutation.colours or len(own) != 2 or permutation.axis in fibres:
            continue
        (sign,) = (factor for factor in own if factor is not permutation)
        slots = tuple(dataclasses.replace(slot, exponent=1) for slot in sign.slots)
        if sign.kind == "sign" and set(slots) == set(permutation.slots):
            name = f"{permutation.axis}:orthogonal"
            yield dataclasses.replace(permutation, name=name, kind="orthogonal", certificate=None)
