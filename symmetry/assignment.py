"""The best element of one axis class, all the others held: a signed linear assignment problem.

Let ``psi_j`` be the entries of the reference that belong to member j and ``phi_i`` those of the weights. Permutation
and sign are isometries, so the nearest element maximises the inner product, and both are solved for at once:

    max_sigma,s  sum_j <s_j phi_sigma(j), psi_j>  =  max_sigma  sum_j (E + |O|)[j, sigma(j)],

where ``E`` holds the inner products over slots that the sign leaves alone and ``O`` those over slots that it flips.
With several sign factors on a class, the maximum runs over all their combinations. Colours split the problem into
blocks. Members of a class that varies over a fibre are counted through, and exchanged only over one fibre position.

Of a class that matrices act on, the best orthogonal one is the polar factor of ``C[j, i] = <psi_j, phi_i>``
(Schoenemann, A generalized solution of the orthogonal Procrustes problem, Psychometrika 1966).
"""

from __future__ import annotations

import itertools
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from scipy.optimize import linear_sum_assignment

from .action import change, member_view
from .factor import MATRICES, Factor, Slot
from .group import SymmetryGroup

Arrays = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Place:
    """One slot of an axis class, with what the class's factors do there."""

    slot: Slot
    is_permuted: bool
    parities: tuple[int, ...]
    others: frozenset[str]


@dataclass(frozen=True)
class AxisClass:
    """The permutation and the signs of one axis class, or the matrices that act on it; all of one fibre."""

    name: str
    size: int
    num_copies: int
    permutation: Factor | None
    signs: tuple[Factor, ...]
    matrix: Factor | None
    places: tuple[Place, ...]

    @property
    def num_members(self) -> int:
        """Members counted through, over the whole fibre."""
        return self.num_copies * self.size

    @property
    def factors(self) -> tuple[Factor, ...]:
        """The factors of the class, the permutation first."""
        return tuple(factor for factor in (self.permutation, *self.signs, self.matrix) if factor is not None)

    @property
    def blocks(self) -> list[np.ndarray]:
        """Sets of members that may be exchanged."""
        if self.permutation is None:
            return list(np.arange(self.num_members)[:, None])
        colours = np.zeros(self.size, int) if self.permutation.colours is None else np.asarray(self.permutation.colours)
        of_one = [np.flatnonzero(colours == colour) for colour in np.unique(colours)]
        return [copy * self.size + block for copy in range(self.num_copies) for block in of_one]

    @property
    def is_quadratic(self) -> bool:
        """Whether the class occurs twice in one array (a recurrent kernel): its score is only a linearisation then."""
        sites = [place.slot.site for place in self.places]
        return len(set(sites)) < len(sites)

    def settled(self, classes: Collection[str]) -> tuple[Place, ...]:
        """The places in arrays that hold this class once and otherwise only the given classes."""
        sites = [place.slot.site for place in self.places]
        return tuple(p for p in self.places if p.others <= set(classes) and sites.count(p.slot.site) == 1)


def axis_classes(group: SymmetryGroup) -> tuple[AxisClass, ...]:
    """The group's permutations and signs by axis class."""
    factors = [factor for factor in group.factors if factor.kind != "scale"]
    names = tuple(dict.fromkeys(factor.axis for factor in factors))
    return tuple(_axis_class(name, factors) for name in names)


def best_of_class(
    group: SymmetryGroup,
    axis_class: AxisClass,
    weights: Arrays,
    reference: Arrays,
    element: Arrays,
    places: Sequence[Place] | None = None,
) -> tuple[dict[str, np.ndarray], Float[np.ndarray, " draw"]]:
    """The best values of one class's factors given the element's values of all the others.

    Args:
        group: The group.
        axis_class: The class to solve for.
        weights: Site name to draws ``(draw, ...)``.
        reference: Site name to array, without or with the draws' leading dim.
        element: Values ``(draw, *factor.shape)`` of all the factors.
        places: The slots that count. Default: all of the class.

    Returns:
        The class's part of the element, and by how much its score exceeds that of the class's present part.
    """
    places = axis_class.places if places is None else places
    held = {name: value for name, value in element.items() if group.factor(name).axis != axis_class.name}
    sites = {place.slot.site for place in places}
    moved = act_on_host(group, held, {site: weights[site] for site in sites})
    shape = (len(next(iter(element.values()))), axis_class.num_members, axis_class.num_members)
    scores: dict[tuple[int, ...], np.ndarray] = {}
    for place in places:
        array = _act_elsewhere(group, axis_class, place, moved[place.slot.site], element)
        scores.setdefault(place.parities, np.zeros(shape))
        scores[place.parities] += _inner_products(group, place, array, reference[place.slot.site])
    scores = scores or {(0,) * len(axis_class.signs): np.zeros(shape)}
    if axis_class.matrix is not None:
        return _rotate(axis_class, axis_class.matrix, sum(scores.values(), np.zeros(())), element)
    part, best = solve_assignment(axis_class, scores)
    return part, best - _score_of(axis_class, scores, element)


def act_on_host(group: SymmetryGroup, element: Arrays, weights: Arrays) -> dict[str, np.ndarray]:
    """`SymmetryGroup.act` for NumPy arrays, which NumPy arrays it gives back."""
    return {site: np.asarray(array) for site, array in group.act(element, weights).items()}


def _axis_class(name: str, factors: Sequence[Factor]) -> AxisClass:
    own = [factor for factor in factors if factor.axis == name]
    permutation = next((factor for factor in own if factor.kind == "permutation"), None)
    matrix = next((factor for factor in own if factor.kind in MATRICES), None)
    signs = tuple(factor for factor in own if factor.kind == "sign")
    exponents = [{_location(slot): slot.exponent for slot in sign.slots} for sign in signs]
    permuted = {_location(slot) for factor in (permutation, matrix) if factor is not None for slot in factor.slots}
    slots = {_location(slot): slot for factor in own for slot in factor.slots}
    places = []
    for location, slot in slots.items():
        others = {f.axis for f in factors for s in f.slots if s.site == slot.site} - {name}
        parities = tuple(of_sign.get(location, 0) % 2 for of_sign in exponents)
        places.append(Place(slot, location in permuted, parities, frozenset(others)))
    return AxisClass(name, own[0].size, own[0].num_copies, permutation, signs, matrix, tuple(places))


def _location(slot: Slot) -> tuple[str, int | None, int, int, int]:
    return slot.site, slot.axis, slot.offset, slot.stride, slot.outer


def _act_elsewhere(
    group: SymmetryGroup, axis_class: AxisClass, place: Place, array: np.ndarray, element: Arrays
) -> np.ndarray:
    """Apply the class's present values at the other slots that it has in this array."""
    for factor in axis_class.factors:
        for slot in factor.slots:
            if slot.site == place.slot.site and _location(slot) != _location(place.slot):
                array = np.asarray(change(factor, array, slot, group.sites[slot.site], element[factor.name]))
    return array


def _inner_products(
    group: SymmetryGroup, place: Place, array: np.ndarray, reference: np.ndarray
) -> Float[np.ndarray, "draw member member"]:
    """``<phi_i, psi_j>`` at ``[draw, j, i]``; where the class does not permute, ``<phi_j, psi_j>`` for every i."""
    shape = group.sites[place.slot.site]
    phi, psi = (_members_first(np.asarray(member_view(x, place.slot, shape))) for x in (array, reference))
    if place.is_permuted:
        return psi @ np.swapaxes(phi, -1, -2)
    return np.repeat((psi * phi).sum(axis=-1)[..., None], phi.shape[-2], axis=-1)


def _members_first(view: np.ndarray) -> np.ndarray:
    """``(..., lead, member, trail)`` as ``(..., member, lead * trail)``."""
    swapped = np.swapaxes(view, -3, -2)
    return swapped.reshape(*swapped.shape[:-2], -1)


def solve_assignment(
    axis_class: AxisClass, scores: Mapping[tuple[int, ...], np.ndarray]
) -> tuple[dict[str, np.ndarray], Float[np.ndarray, " draw"]]:
    """Maximise over signs entry by entry, over permutations by linear assignment.

    Args:
        axis_class: A class without matrices.
        scores: For each combination of parities, one a sign factor, the inner products ``(draw, member, member)`` over
            what those signs flip.

    Returns:
        The class's part of an element for each draw, and its score.
    """
    combinations = list(itertools.product((1, -1), repeat=len(axis_class.signs)))
    totals = np.stack([_signed_sum(scores, np.array(signs)) for signs in combinations])
    best = totals.max(axis=0)
    draws, members = np.arange(len(best))[:, None], np.arange(axis_class.num_members)
    permutation = np.tile(members.astype(np.int32), (len(best), 1))
    for block in axis_class.blocks:
        if len(block) > 1:
            squares = best if len(block) == axis_class.num_members else best[:, block[:, None], block]
            columns = [linear_sum_assignment(square, maximize=True)[1] for square in squares]
            permutation[:, block] = block[np.array(columns)]
    chosen = totals[:, draws, members, permutation].argmax(axis=0)
    signs = np.array(combinations, np.int8).reshape(len(combinations), -1)[chosen]
    part = {sign.name: _of_draws(sign, signs[..., index]) for index, sign in enumerate(axis_class.signs)}
    if axis_class.permutation is not None:
        part[axis_class.permutation.name] = _of_draws(axis_class.permutation, permutation % axis_class.size)
    return part, best[draws, members, permutation].sum(axis=-1)


def _rotate(
    axis_class: AxisClass, factor: Factor, score: np.ndarray, element: Arrays
) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Maximise ``sum_ji M[j, i] C[j, i]`` over orthogonal matrices, one for each fibre position."""
    copies, size = np.arange(axis_class.num_copies), axis_class.size
    blocks = score.reshape(len(score), len(copies), size, len(copies), size)[:, copies, :, copies].swapaxes(0, 1)
    left, _, right = np.linalg.svd(blocks)
    best = left @ right
    gain = ((best - element[factor.name].reshape(best.shape)) * blocks).sum(axis=(1, 2, 3))
    return {factor.name: _of_draws(factor, best)}, gain


def _of_draws(factor: Factor, values: np.ndarray) -> np.ndarray:
    """Values counted through as values of the factor."""
    return values.reshape(len(values), *factor.shape)


def _signed_sum(scores: Mapping[tuple[int, ...], np.ndarray], signs: np.ndarray) -> np.ndarray:
    """``sum_p (prod_k s_k^p_k) S_p`` over the parities p; ``signs`` has the sign factors along its last axis."""
    return sum((_parity_sign(signs, parity) * score for parity, score in scores.items()), np.zeros(()))


def _parity_sign(signs: np.ndarray, parity: tuple[int, ...]) -> np.ndarray:
    return np.asarray(np.prod(np.where(np.array(parity, bool), signs, 1), axis=-1))


def _score_of(axis_class: AxisClass, scores: Mapping[tuple[int, ...], np.ndarray], element: Arrays) -> np.ndarray:
    """The score of the class's present values, one a draw."""
    num_draws = len(next(iter(scores.values())))
    draws, members = np.arange(num_draws)[:, None], np.arange(axis_class.num_members)
    permutation = members
    if axis_class.permutation is not None:
        starts = members - members % axis_class.size
        permutation = starts + element[axis_class.permutation.name].reshape(num_draws, -1)
    signs = [element[sign.name].reshape(num_draws, -1) for sign in axis_class.signs]
    picked = {parity: score[draws, members, permutation] for parity, score in scores.items()}
    return _signed_sum(picked, np.stack(signs, axis=-1) if signs else np.ones((1, 0))).sum(axis=-1)
