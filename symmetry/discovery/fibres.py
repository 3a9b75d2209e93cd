r"""Over which other classes a permutation, sign or scale may vary: its fibre.

The units of every head are permuted within their head. If no equation ever compares units of two heads, each head may
have a permutation of its own, ``w'[h, j] = w[h, sigma_h(j)]``: the heads are a fibre of the units. So a class H is in
the fibre of g if in every equation

    each value that varies along g has H across it, ``x[h, g]``, exactly once, and
    wherever one index runs along g, one index runs along H: the equation goes through h as through a batch.

For signs and scales the same is asked of those values only that they change. The steps of a loop over layers, the heads
of an attention layer, the groups of a convolution and the members of an ensemble all are fibres by this criterion.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from .axes import Axis
from .sightings import Label, Scene, Sighting


def fibre_of(scenes: Sequence[Scene], moves: Callable[[Sighting], bool]) -> frozenset[Axis]:
    """The classes that lie across all sightings that matter, with one index for each index of the class itself.

    Args:
        scenes: All equations in which the class is seen.
        moves: Whether an element of the factor changes the value of a sighting.
    """
    common: set[Axis] | None = None
    for scene in scenes:
        by_index: dict[Label, list[Mapping[Axis, Label]]] = {}
        for sighting in scene.sightings:
            if moves(sighting):
                by_index.setdefault(sighting.label, []).append(sighting.partners)
        for moved in by_index.values():
            shared = {axis for axis in moved[0] if len({id(partners.get(axis)) for partners in moved}) == 1}
            common = shared if common is None else common & shared
    return frozenset(common or ())


@dataclass(frozen=True)
class Candidate:
    """One factor before its fibre is settled.

    Args:
        axis: Its class.
        fibre: The classes over which it could vary.
        is_permutation: Whether it permutes the class.
    """

    axis: Axis
    fibre: frozenset[Axis]
    is_permutation: bool


def settle(candidates: Sequence[Candidate]) -> list[frozenset[Axis]]:
    """Fibres cut down until the factors form a group.

    No two classes are fibres of each other; earlier ones are preferred. A permutation carries along whatever varies
    over its class, which must then vary at least as far; so it varies no further than any of that does.

    Args:
        candidates: All factors, in order.

    Returns:
        The fibre of each.
    """
    order = {axis: number for number, axis in enumerate(dict.fromkeys(one.axis for one in candidates))}
    over = {(one.axis, axis) for one in candidates for axis in one.fibre}
    settled = [
        frozenset(axis for axis in one.fibre if (axis, one.axis) not in over or order[axis] < order[one.axis])
        for one in candidates
    ]
    while True:
        before = list(settled)
        for number, one in enumerate(candidates):
            if one.is_permutation:
                carried = (
                    fibre for other, fibre in zip(candidates, settled, strict=True) if one.axis in (other.axis, *fibre)
                )
                settled[number] = settled[number].intersection(*carried)
        if settled == before:
            return settled
