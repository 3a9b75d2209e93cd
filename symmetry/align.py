"""Alignment: the permutations, signs and rotations that bring draws nearest to a reference, or to each other.

For one axis class that occurs once in every array, the nearest element is the solution of one signed linear assignment
problem (`assignment.py`). For several classes the problem is NP-hard, and coordinate descent over the classes
(`descent.py`) finds a point that no single class improves.

The barycentre of many draws alternates between aligning all of them to a reference and averaging them. Both steps lower
the mean squared distance to the reference.

References:
    Ainsworth, Hayase and Srinivasa, Git Re-Basin: merging models modulo permutation symmetries, ICLR 2023.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from .action import AnyArray, Weights
from .assignment import Arrays, act_on_host
from .descent import align_draws, squared_norms
from .factor import ISOMETRIES
from .fibre import expand, with_common_fibres
from .group import SymmetryGroup

_MAX_ROUNDS = 50
_ROUND_TOLERANCE = 1e-6


@dataclass(frozen=True)
class Alignment:
    """Draws aligned to their barycentre.

    Attributes:
        element: The parts of an element that alignment chooses, for every draw.
        reference: The barycentre, site name to array without batch dims.
        objective: Mean squared distance to the reference after each round; it never rises.
        distances: Distance of every aligned draw to the reference.
    """

    element: dict[str, np.ndarray]
    reference: dict[str, np.ndarray]
    objective: Float[np.ndarray, " round"]
    distances: Float[np.ndarray, " ..."]


def align_to(
    weights: Weights, group: SymmetryGroup, reference: Weights, start: Weights | None = None
) -> dict[str, np.ndarray]:
    """The permutations, signs and rotations that bring weights near to a reference.

    Minimises ``sum_sites ||g w - reference||^2``: exactly where one axis class occurs once in every array, else to a
    point that no change of a single class improves.

    Args:
        weights: Site name to constrained value; any batch dims lead.
        group: The posterior's group. Its permutations, signs and orthogonal matrices are used.
        reference: Site name to array, without batch dims or with those of the weights.
        start: Values of some factors (those of `match_activations`, say), without batch dims or with those of the
            weights. The search goes on from there where it is better than its own start.

    Returns:
        The permutation (int32), sign (int8) and matrix parts of an element, with the batch dims of the weights. Other
        factors are not named, so `SymmetryGroup.act` leaves them alone.

    Raises:
        ValueError: If a site that the group moves is missing in the weights or in the reference, or the start has
            values of a factor that the group lacks.

    Example:
        >>> from symmetry import Factor, Slot, SymmetryGroup
        >>> slots = (Slot("means", 0, 3),)
        >>> group = SymmetryGroup({"means": (3,)}, (Factor("labels", "permutation", "component", 3, slots),))
        >>> align_to({"means": np.array([5.1, 0.2, 1.9])}, group, {"means": np.array([0.0, 2.0, 5.0])})["labels"]
        array([1, 2, 0], dtype=int32)
    """
    isometries = with_common_fibres(group.restrict(ISOMETRIES))
    problem = _Problem.of(weights, isometries, reference)
    element = align_draws(isometries, problem.draws, problem.reference, problem.start(isometries, start or {}))
    return _expand(group, isometries, problem.unflatten(element))


def barycentre(weights: Weights, group: SymmetryGroup, logdensity: AnyArray | None = None) -> Alignment:
    """Align draws to their own mean, which is found on the way.

    Draws with a number that is not finite take no part: their element is the identity, their distance NaN.

    Args:
        weights: Site name to draws; all batch dims lead.
        group: The posterior's group. Its permutations, signs and orthogonal matrices are used.
        logdensity: One number a draw; the draw of the largest is the first reference. Default: the first draw is.

    Returns:
        The elements, the barycentre, the objective of every round and the distances.

    Raises:
        ValueError: If there are no batch dims, the log densities are not one a draw, or no draw is finite.
    """
    isometries = with_common_fibres(group.restrict(ISOMETRIES))
    problem = _Problem.of(weights, isometries, {})
    reference = {site: array[_first_reference(problem, logdensity)] for site, array in problem.draws.items()}
    element: dict[str, np.ndarray] | None = None
    objective: list[float] = []
    squares = np.full(len(problem.finite), np.nan)
    while len(objective) < 2 or (len(objective) < _MAX_ROUNDS and _is_falling(objective)):
        element = align_draws(isometries, problem.draws, reference, element)
        aligned = act_on_host(isometries, element, problem.draws)
        reference = {site: _mean(array[problem.finite]) for site, array in aligned.items()}
        squares = np.where(problem.finite, _squared_distances(aligned, reference), np.nan)
        objective.append(float(np.nanmean(squares)))
    return Alignment(
        _expand(group, isometries, problem.unflatten(element or {})),
        reference,
        np.array(objective),
        np.sqrt(squares).reshape(problem.batch),
    )


def orbit_distance(weights: Weights, group: SymmetryGroup, reference: Weights) -> Float[np.ndarray, " ..."]:
    """Distance of weights to the nearest copy of a reference that alignment finds, over all sites of the group.

    Args and errors as in `align_to`; one distance for each element of the batch dims.
    """
    isometries = with_common_fibres(group.restrict(ISOMETRIES))
    problem = _Problem.of(weights, isometries, reference)
    element = align_draws(isometries, problem.draws, problem.reference, None)
    aligned = act_on_host(isometries, element, problem.draws)
    squares = np.where(problem.finite, _squared_distances(aligned, problem.reference), np.nan)
    return np.sqrt(squares).reshape(problem.batch)


@dataclass(frozen=True)
class _Problem:
    """Weights with one leading dim ``draw`` (zeros where a draw is not finite), the reference without or with it."""

    batch: tuple[int, ...]
    draws: dict[str, np.ndarray]
    reference: dict[str, np.ndarray]
    finite: np.ndarray

    @classmethod
    def of(cls, weights: Weights, group: SymmetryGroup, reference: Weights) -> _Problem:
        shapes = {site: shape for site, shape in group.sites.items() if site in weights}
        if reference:
            shapes = {site: shape for site, shape in shapes.items() if site in reference}
        missing = {slot.site for factor in group.factors for slot in factor.slots} - set(shapes)
        if missing:
            raise ValueError(f"aligning needs the weights and the reference of {', '.join(sorted(missing))}, got none")
        draws = {site: np.asarray(weights[site]) for site in shapes}
        target = {site: np.asarray(reference[site]) for site in shapes if reference}
        of_target = _batch_shape(target, shapes)
        batch = np.broadcast_shapes(_batch_shape(draws, shapes), of_target)
        flat = _flatten(draws, shapes, batch)
        finite = np.ones(math.prod(batch), bool)
        for array in flat.values():
            finite &= np.isfinite(array).reshape(len(finite), -1).all(axis=-1)
        if not finite.all():
            flat = {site: np.where(finite.reshape(-1, *[1] * len(shapes[site])), x, 0) for site, x in flat.items()}
        return cls(batch, flat, _flatten(target, shapes, batch) if of_target else target, finite)

    def start(self, group: SymmetryGroup, values: Weights) -> dict[str, np.ndarray] | None:
        """An element for each draw with the given values, the identity's for all other factors; None without any."""
        if not values:
            return None
        known = {name: np.asarray(identity) for name, identity in group.identity().items()}
        for name, value in values.items():
            if name not in known or np.shape(value)[np.ndim(value) - known[name].ndim :] != known[name].shape:
                expected = ", ".join(f"{factor} {identity.shape}" for factor, identity in known.items())
                raise ValueError(f"a start of values among {expected} was expected, got {name!r} {np.shape(value)}")
        known |= {name: np.asarray(value) for name, value in values.items()}
        return {name: self._of_draws(value, group.factor(name).shape) for name, value in known.items()}

    def _of_draws(self, value: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
        return np.broadcast_to(value, self.batch + shape).reshape(-1, *shape)

    def unflatten(self, element: Arrays) -> dict[str, np.ndarray]:
        """The element with the batch dims of the weights."""
        return {name: values.reshape(*self.batch, *values.shape[1:]) for name, values in element.items()}


def _expand(group: SymmetryGroup, subgroup: SymmetryGroup, element: Arrays) -> dict[str, np.ndarray]:
    return {name: np.asarray(values) for name, values in expand(group, subgroup, element).items()}


def _flatten(arrays: Arrays, shapes: Mapping[str, tuple[int, ...]], batch: tuple[int, ...]) -> dict[str, np.ndarray]:
    return {s: np.broadcast_to(array, batch + shapes[s]).reshape(-1, *shapes[s]) for s, array in arrays.items()}


def _first_reference(problem: _Problem, logdensity: AnyArray | None) -> int:
    if not problem.batch:
        raise ValueError("the barycentre of several draws was asked for, but the weights have no batch dims")
    if not problem.finite.any():
        raise ValueError("the barycentre needs at least one draw of finite weights, got none")
    if logdensity is None:
        return int(problem.finite.argmax())
    if np.shape(logdensity) != problem.batch:
        raise ValueError(f"one log density a draw was expected, {problem.batch}, got shape {np.shape(logdensity)}")
    values = np.where(problem.finite, np.asarray(logdensity).reshape(-1), -np.inf)
    return int(np.where(np.isnan(values), -np.inf, values).argmax())


def _is_falling(objective: list[float]) -> bool:
    return objective[-2] - objective[-1] > _ROUND_TOLERANCE * objective[-2]


def _mean(array: np.ndarray) -> np.ndarray:
    # The mean of scalars would be a NumPy scalar, no array.
    return np.asarray(np.mean(array, axis=0, dtype=float), array.dtype)


def _batch_shape(arrays: Arrays, shapes: Mapping[str, tuple[int, ...]]) -> tuple[int, ...]:
    for site, array in arrays.items():
        if array.shape[max(array.ndim - len(shapes[site]), 0) :] != shapes[site]:
            raise ValueError(f"site {site!r} must have shape (...,) + {shapes[site]}, got {array.shape}")
    return np.broadcast_shapes(*(array.shape[: array.ndim - len(shapes[site])] for site, array in arrays.items()))


def _squared_distances(draws: Arrays, reference: Arrays) -> np.ndarray:
    return squared_norms({site: np.asarray(draws[site] - reference[site]) for site in draws})
