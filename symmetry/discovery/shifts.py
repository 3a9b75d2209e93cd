r"""Numbers that may be added to a site: found by trying.

Whatever is added to all logits of a softmax, and so to its last layer in the same way for every class, changes nothing;
nor does any bias of the keys of an attention layer. No rule for single primitives sees this, for the one that forgives
the shift may be far away. So every site is shifted as a whole, and where that changes nothing, as freely as it may be:
with numbers of their own along all axes but some. Such shifts are reported and counted, but are no part of elements.
"""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterator

import numpy as np

from ..factor import Shift
from ..group import SymmetryGroup
from .certificate import VISIBLE, Probe, Weights, difference, has_steps

# Beyond this size of an output its last digits, which is all that a weight may change, are no longer looked at.
LARGEST_OUTPUT = 1e6
NUM_POINTS = 2
# Small shifts may meet a dead unit or the flat part of a step; large ones wake it up, and cost digits in proportion.
AMPLITUDES = (1.0, -1.0, 1e3, -1e3, 1e6, -1e6)


def find_shifts(group: SymmetryGroup, sites: Collection[str], probe: Probe) -> tuple[Shift, ...]:
    """The shifts of single sites that change nothing, each as free as it can be.

    Args:
        group: The sites with their shapes.
        sites: Those that the model reads, and that may take any real number.
        probe: The model.
    """
    rng = np.random.default_rng(4)
    points = [probe.draw(rng) for _ in range(NUM_POINTS)]
    references = [probe.outputs(weights) for weights in points]
    outputs = [output for reference in references for output in reference.values()]
    if not all(np.abs(output).max(initial=0) <= LARGEST_OUTPUT for output in outputs):
        return ()

    def holds(site: str, along: tuple[int, ...]) -> bool:
        free = [1 if axis in along else n for axis, n in enumerate(group.sites[site])]
        shift = np.asarray(rng.standard_normal(free))
        return all(
            difference(probe.outputs(_shifted(weights, site, np.asarray(size * shift))), reference)
            <= abs(size) * VISIBLE
            for size in AMPLITUDES
            for weights, reference in zip(points, references, strict=True)
        )

    shifts = []
    for site in sites:
        axes = tuple(range(len(group.sites[site])))
        if holds(site, axes) and not has_steps((site,), probe):
            along = next(tied for tied in _freest_first(axes) if tied == axes or holds(site, tied))
            shifts.append(Shift(site, along, group.sites[site]))
    return tuple(shifts)


def _shifted(weights: Weights, site: str, shift: np.ndarray) -> Weights:
    return dict(weights) | {site: np.asarray(np.asarray(weights[site]) + shift)}


def _freest_first(axes: tuple[int, ...]) -> Iterator[tuple[int, ...]]:
    """Sets of axes along which a shift is the same, the smallest first."""
    for number in range(len(axes) + 1):
        yield from itertools.combinations(axes, number)
