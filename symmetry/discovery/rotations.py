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

import numpy as np

from ..factor import Factor
from ..group import SymmetryGroup
from .certificate import VISIBLE, Probe, certify

# How far below the change by a partial rotation that by a whole one must lie.
MARGIN = 1e4
SMALL = 1e-3


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
        factor.axis: factor for factor in confirmed.factors if _is_clear(factor) and not _has_steps(factor, probe)
    }
    factors: list[Factor] = []
    for factor in group.factors:
        if factor.axis not in rotations:
            factors.append(factor)
        elif factor.kind == "permutation":
            factors.append(rotations[factor.axis])
    return SymmetryGroup(group.sites, tuple(factors), group.pinned, group.axes)


def _is_clear(factor: Factor) -> bool:
    certificate = factor.certificate
    return certificate is not None and certificate.error <= min(VISIBLE, certificate.control / MARGIN)


def _has_steps(factor: Factor, probe: Probe) -> bool:
    """Whether outputs change with what the factor moves, but not with every small change: steps may stay by chance."""
    rng = np.random.default_rng(3)
    weights, other = probe.draw(rng), probe.draw(rng)
    sites = {slot.site for slot in factor.slots}
    near = {
        site: np.asarray(w) + (SMALL * np.asarray(other[site]) if site in sites else 0) for site, w in weights.items()
    }
    far = dict(weights) | {site: other[site] for site in sites}
    here, nearby, away = (probe.outputs(each) for each in (weights, near, far))
    return any(((here[name] == nearby[name]) & (here[name] != away[name])).any() for name in here)


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
