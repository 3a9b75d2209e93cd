"""Coordinate descent over axis classes: the best element of one class after the other, the rest held.

Wreath products, whose members no change of one class moves in a good way, are solved as one (`wreath.py`).

It is started from the better of the identity and a forward-greedy element, which fixes class after class from those
arrays alone whose other classes are fixed already. A cold start fails even without noise, because the misalignment of
the other classes enters the first cost.

References:
    Ainsworth, Hayase and Srinivasa, Git Re-Basin: merging models modulo permutation symmetries, ICLR 2023.
"""

from __future__ import annotations

import math

import numpy as np
from jaxtyping import Float

from .action import AnyArray
from .assignment import Arrays, AxisClass, act_on_host, axis_classes, best_of_class
from .group import SymmetryGroup
from .wreath import best_of_wreath, wreaths

_MAX_PASSES = 20
# Numbers (weights and scores) of all draws that are aligned at once: copies of more than this fall out of the cache.
_CHUNK_NUMBERS = 2**18


def align_draws(group: SymmetryGroup, draws: Arrays, reference: Arrays, start: Arrays | None) -> dict[str, np.ndarray]:
    """Align chunk by chunk; ``start`` is an element that the result is at least as good as."""
    classes = axis_classes(group)
    if not classes:
        return {}
    num_draws = len(next(iter(draws.values())))
    if start is None:
        identity = group.identity()
        start = {name: np.stack([_in_full_precision(value)] * num_draws) for name, value in identity.items()}
    numbers = sum(array[0].size for array in draws.values()) + sum(axis_class.num_members**2 for axis_class in classes)
    step = max(1, _CHUNK_NUMBERS // numbers)
    chunks = []
    for first in range(0, num_draws, step):
        part = slice(first, first + step)
        target = _reference_at(group, reference, part)
        chunks.append(_align_chunk(group, classes, _at(draws, part), target, _at(start, part)))
    return {name: np.concatenate([chunk[name] for chunk in chunks]) for name in start}


def _align_chunk(
    group: SymmetryGroup, classes: tuple[AxisClass, ...], draws: Arrays, reference: Arrays, start: Arrays
) -> dict[str, np.ndarray]:
    forward = _forward(group, classes, draws, reference, start)
    if len(classes) == 1 and not classes[0].is_quadratic:
        return forward
    better = _gain(group, draws, reference, forward, start) > 0
    element = {name: _choose(better, forward[name], start[name]) for name in start}
    active = np.arange(len(better))
    for _ in range(_MAX_PASSES):
        target = _reference_at(group, reference, active)
        improved, progress = _one_pass(group, classes, _at(draws, active), target, _at(element, active))
        for name, values in improved.items():
            element[name][active] = values
        active = active[progress]
        if not len(active):
            break
    return element


def _forward(
    group: SymmetryGroup, classes: tuple[AxisClass, ...], draws: Arrays, reference: Arrays, start: Arrays
) -> dict[str, np.ndarray]:
    """Fix class after class, each time the one that the arrays of the fixed classes say most about."""
    element, remaining, fixed = dict(start), list(classes), set()
    while remaining:
        evidence = [_entries_per_member(group, axis_class, fixed) for axis_class in remaining]
        axis_class = remaining.pop(int(np.argmax(evidence)))
        places = axis_class.settled(fixed)
        if places:
            part, _ = best_of_class(group, axis_class, draws, reference, element, places)
            element.update(part)
        fixed.add(axis_class.name)
    return element


def _entries_per_member(group: SymmetryGroup, axis_class: AxisClass, fixed: set[str]) -> int:
    slots = [place.slot for place in axis_class.settled(fixed)]
    lengths = [1 if slot.axis is None else group.sites[slot.site][slot.axis] for slot in slots]
    covered = [1 if slot.axis is None else slot.length for slot in slots]
    return sum(
        math.prod(group.sites[slot.site]) // length * part // slot.size
        for slot, length, part in zip(slots, lengths, covered, strict=True)
    )


def _one_pass(
    group: SymmetryGroup, classes: tuple[AxisClass, ...], draws: Arrays, reference: Arrays, element: Arrays
) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Improve class after class; says which draws changed."""
    element = dict(element)
    # A change counts as progress only above rounding, or equal elements would be exchanged for ever.
    eps = np.finfo(next(iter(draws.values())).dtype).eps
    threshold = (
        10
        * eps
        * np.sqrt(
            squared_norms(draws) * squared_norms({s: np.broadcast_to(reference[s], draws[s].shape) for s in draws})
        )
    )
    progress = np.zeros(len(threshold), bool)
    for wreath in wreaths(group):
        part = best_of_wreath(group, wreath, draws, reference, element, align_draws)
        better = _gain(group, draws, reference, element | part, element) > threshold
        element |= {name: _choose(better, values, element[name]) for name, values in part.items()}
        progress |= better
    # A change of a class that others vary over carries their values along, which the score of the class alone ignores.
    carrying = {name for factor in group.factors for name in factor.fibre}
    for axis_class in classes:
        part, gain = best_of_class(group, axis_class, draws, reference, element)
        if axis_class.is_quadratic or axis_class.name in carrying:
            gain = _gain(group, draws, reference, element | part, element)
        better = gain > threshold
        element |= {name: _choose(better, values, element[name]) for name, values in part.items()}
        progress |= better
    return element, progress


def _gain(
    group: SymmetryGroup, draws: Arrays, reference: Arrays, proposed: Arrays, present: Arrays
) -> Float[np.ndarray, " draw"]:
    """By how much the inner product of one element exceeds that of another; taken only where they differ."""
    differs = [(proposed[name] != values).reshape(len(values), -1).any(axis=-1) for name, values in present.items()]
    gain = np.zeros(len(differs[0]))
    rows = np.flatnonzero(np.logical_or.reduce(differs))
    if len(rows):
        here, target = _at(draws, rows), _reference_at(group, reference, rows)
        after, before = (_inner_product(group, here, target, _at(element, rows)) for element in (proposed, present))
        gain[rows] = after - before
    return gain


def _inner_product(group: SymmetryGroup, draws: Arrays, reference: Arrays, element: Arrays) -> np.ndarray:
    moved = act_on_host(group, element, draws)
    products = [np.asarray(moved[site] * reference[site]) for site in draws]
    return sum((x.reshape(len(x), -1).sum(axis=-1, dtype=float) for x in products), np.zeros(()))


def squared_norms(arrays: Arrays) -> np.ndarray:
    """Squared norm of every draw."""
    return sum((np.square(x).reshape(len(x), -1).sum(axis=-1, dtype=float) for x in arrays.values()), np.zeros(()))


def _in_full_precision(value: AnyArray) -> np.ndarray:
    array = np.asarray(value)
    return array.astype(float) if np.issubdtype(array.dtype, np.floating) else array


def _choose(which: np.ndarray, yes: np.ndarray, no: np.ndarray) -> np.ndarray:
    """Draw by draw one of two values of a factor."""
    return np.where(which.reshape(-1, *[1] * (yes.ndim - 1)), yes, no)


def _reference_at(group: SymmetryGroup, reference: Arrays, index: slice | np.ndarray) -> dict[str, np.ndarray]:
    """The reference of some draws, whether they share it or not."""
    return {s: array[index] if array.ndim > len(group.sites[s]) else array for s, array in reference.items()}


def _at(arrays: Arrays, index: slice | np.ndarray) -> dict[str, np.ndarray]:
    return {name: array[index] for name, array in arrays.items()}
