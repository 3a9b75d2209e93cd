"""Subgroups whose elements vary over fewer classes than they could: one permutation for all heads, say."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import jax.numpy as jnp
import numpy as np

from .action import AnyArray
from .factor import Factor, Slot
from .group import SymmetryGroup


def uniform(group: SymmetryGroup) -> SymmetryGroup:
    """The subgroup of elements that are the same all over their fibres."""
    return _with_factors(group, [_coarsen(factor, ()) for factor in group.factors])


def with_common_fibres(group: SymmetryGroup) -> SymmetryGroup:
    """The subgroup in which all factors of an axis class vary over the same classes, named in one order."""
    common: dict[str, tuple[str, ...]] = {}
    for factor in group.factors:
        so_far = common.get(factor.axis, factor.fibre)
        common[factor.axis] = tuple(name for name in so_far if name in factor.fibre)
    return _with_factors(group, [_coarsen(factor, common[factor.axis]) for factor in group.factors])


def expand(group: SymmetryGroup, subgroup: SymmetryGroup, element: Mapping[str, AnyArray]) -> dict[str, AnyArray]:
    """An element of a subgroup that these functions made, as an element of the group."""
    return {name: _expand(group.factor(name), subgroup.factor(name), values) for name, values in element.items()}


def _with_factors(group: SymmetryGroup, factors: list[Factor]) -> SymmetryGroup:
    return replace(group, factors=tuple(factors))


def _coarsen(factor: Factor, kept: Sequence[str]) -> Factor:
    """The elements of a factor that vary over the kept classes only, in their order."""
    numbers = [factor.fibre.index(name) for name in kept]

    def keep(slot: Slot) -> Slot:
        return replace(slot, fibre=tuple(slot.fibre[number] for number in numbers))

    return replace(
        factor,
        slots=tuple(map(keep, factor.slots)),
        fibre=tuple(factor.fibre[number] for number in numbers),
        fibre_shape=tuple(factor.fibre_shape[number] for number in numbers),
    )


def _expand(factor: Factor, coarse: Factor, values: AnyArray) -> AnyArray:
    batch = values.shape[: values.ndim - len(coarse.shape)]
    order = [coarse.fibre.index(name) for name in factor.fibre if name in coarse.fibre]
    order += range(len(coarse.fibre), len(coarse.shape))
    values = values.transpose((*range(len(batch)), *(len(batch) + position for position in order)))
    dims = [size if name in coarse.fibre else 1 for name, size in zip(factor.fibre, factor.fibre_shape, strict=True)]
    own = coarse.shape[len(coarse.fibre) :]
    spread = values.reshape(*batch, *dims, *own)
    xp = np if isinstance(values, np.ndarray) else jnp
    return xp.broadcast_to(spread, (*batch, *factor.shape))
