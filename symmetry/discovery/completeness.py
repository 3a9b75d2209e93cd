r"""Is anything continuous missing? Directions in which nothing changes, counted twice.

At weights w, with the Jacobian J of the outputs at enough random inputs,

    P - rank J                 directions of the weights in which no output changes,
    rank of the tangents       those of them that the continuous symmetries found (and unused sites) explain.

If both agree, no continuous symmetry is missing; if the first is larger, some may be, or units are dead, or a layer is
wider than what follows can see. So a difference is a hint and no error. Ranks only rise at generic weights, and the
largest of a few is taken.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ..factor import MATRICES, Factor
from ..group import SymmetryGroup
from .assemble import UNUSED
from .certificate import Probe, Weights
from .float64 import function_probe, posterior_probes, realise
from .functions import Function
from .trace import PosteriorLike, abstract_weights
from .upcast import double, in_double_precision

MAX_PARAMETERS = 3000
MAX_INPUTS = 256
NUM_POINTS = 3
# Relative to the largest singular value: what is smaller is rounding.
RANK_TOLERANCE = 1e-9
TANGENT_TOLERANCE = 1e-6
STEP = 1e-5


@dataclass(frozen=True)
class Completeness:
    """How many directions of the weights change nothing, and how many of them are known; ``print`` it.

    Args:
        num_parameters: Number of weights.
        num_flat: Directions in which no output changes.
        num_explained: Dimension of what continuous symmetries and unused sites span there.
        unchecked: Why nothing was counted, if nothing was.
    """

    num_parameters: int
    num_flat: int = 0
    num_explained: int = 0
    unchecked: str = ""

    @property
    def num_missing(self) -> int:
        """Directions that change nothing and that no symmetry explains."""
        return self.num_flat - self.num_explained

    def __str__(self) -> str:
        if self.unchecked:
            return f"completeness not checked: {self.unchecked}"
        known = f"{self.num_flat} of {self.num_parameters} directions change nothing, {self.num_explained} by symmetry"
        return (
            f"possibly incomplete by {self.num_missing} directions: {known}"
            if self.num_missing
            else f"complete: {known}"
        )


def check_completeness(
    group: SymmetryGroup, model: PosteriorLike | Callable[[Any, Any], Any], *arguments: Any
) -> Completeness:
    """Count the directions in which nothing changes, and those that the group explains.

    Args:
        group: The likelihood's group, from `find_symmetries`.
        model: What it was found for: a posterior, or a function with ``params`` and ``x``.
        *arguments: As `find_symmetries` got them.

    Returns:
        The two numbers, or why they could not be had.

    Example:
        >>> import jax.numpy as jnp
        >>> from symmetry import find_symmetries
        >>> def network(params, x):
        ...     return jnp.maximum(x @ params["w"], 0) @ params["v"]
        >>> params, x = {"w": jnp.ones((2, 3)), "v": jnp.ones((3, 1))}, jnp.ones((5, 2))
        >>> print(check_completeness(find_symmetries(network, params, x).likelihood, network, params, x))
        complete: 3 of 9 directions change nothing, 3 by symmetry
    """
    num_parameters = sum(math.prod(shape) for shape in group.sites.values())
    if num_parameters > MAX_PARAMETERS:
        return Completeness(num_parameters, unchecked=f"{num_parameters} weights are more than {MAX_PARAMETERS}")
    if isinstance(model, PosteriorLike):
        probe, jacobians = posterior_probes(model)[1], _Jacobians(_observations, model, group, varied=False)
    else:
        function = Function.of(model, *arguments)
        probe = function_probe(function, function.inputs, function.sites)
        jacobians = _Jacobians(function, function.inputs, group, varied=True)
    if jacobians.num_rows < num_parameters:
        return Completeness(
            num_parameters, unchecked=f"{jacobians.num_rows} outputs cannot tell {num_parameters} weights apart"
        )
    return _count(group, probe, jacobians, num_parameters)


def _count(group: SymmetryGroup, probe: Probe, jacobians: _Jacobians, num_parameters: int) -> Completeness:
    rng = np.random.default_rng(5)
    rank = explained = 0
    for weights in (probe.draw(rng) for _ in range(NUM_POINTS)):
        rank = max(rank, _rank(jacobians.at(weights, rng), RANK_TOLERANCE))
        explained = max(explained, _rank(_tangents(group, weights), TANGENT_TOLERANCE))
    return Completeness(num_parameters, num_parameters - rank, explained)


def _observations(posterior: PosteriorLike, weights: Mapping[str, Any]) -> Any:
    return posterior.observation_logprobs(weights)


class _Jacobians:
    """The derivatives of all outputs by all weights, at the inputs and, for a function, at many random ones."""

    def __init__(self, function: Callable[..., Any], inputs: Any, group: SymmetryGroup, *, varied: bool):
        shapes = abstract_weights(group.sites)
        exact = in_double_precision(function, inputs, shapes)
        outputs = jax.tree.leaves(jax.eval_shape(function, inputs, shapes))
        num_outputs = sum(math.prod(output.shape) for output in outputs if jnp.issubdtype(output.dtype, jnp.floating))
        # Half of the units of a layer may be dead at an input, and a softmax has an output less than it shows.
        wanted = 4 * sum(math.prod(shape) for shape in group.sites.values()) // max(num_outputs, 1) + 2
        self.num_inputs = min(wanted, MAX_INPUTS) if varied else 1
        self.num_rows = self.num_inputs * num_outputs
        self._inputs = realise(inputs)
        self._sites = tuple(group.sites)

        def flat(weights: Mapping[str, Any], inputs: Any) -> Any:
            values = [jnp.ravel(output) for output in jax.tree.leaves(exact(inputs, dict(weights)))]
            return jnp.concatenate([value for value in values if jnp.issubdtype(value.dtype, jnp.floating)])

        self._jacobian = jax.jit(jax.jacfwd(flat))

    def at(self, weights: Weights, rng: np.random.Generator) -> np.ndarray:
        """Rows of finite outputs, one column a weight."""
        blocks = []
        for number in range(self.num_inputs):
            with jax.enable_x64(new_val=True):
                inputs = jax.tree.map(double, _other(self._inputs, rng) if number else self._inputs)
                derivatives = self._jacobian(jax.tree.map(jnp.asarray, dict(weights)), inputs)
            columns = [np.asarray(derivatives[site]) for site in self._sites]
            blocks.append(np.concatenate([column.reshape(len(column), -1) for column in columns], axis=1))
        rows = np.concatenate(blocks)
        return rows[np.isfinite(rows).all(axis=1)]


def _other(inputs: Any, rng: np.random.Generator) -> Any:
    """Other numbers of the same kind: floats of both signs or positive ones; all else as it is."""

    def draw(leaf: Any) -> Any:
        if not jnp.issubdtype(leaf.dtype, jnp.floating):
            return leaf
        normal = rng.standard_normal(leaf.shape)
        return normal if np.any(np.asarray(leaf) < 0) else np.asarray(leaf) * np.exp(0.5 * normal)

    return jax.tree.map(draw, inputs)


def _tangents(group: SymmetryGroup, weights: Weights) -> np.ndarray:
    """The directions in which the continuous part of the group and unused sites move the weights, one a row."""
    rows = [_flat(group, direction) for direction in _directions(group, weights)]
    rows = np.concatenate([*rows, np.zeros((0, sum(np.size(weights[site]) for site in group.sites)))])
    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    return rows[norms[:, 0] > 0] / norms[norms[:, 0] > 0]


def _directions(group: SymmetryGroup, weights: Weights) -> Iterator[dict[str, np.ndarray]]:
    """Batches of directions: derivatives of the action, shifts, and the entries of sites that nothing reads."""
    for factor in (factor for factor in group.factors if factor.dimension):
        alone = replace(group, factors=(factor,))
        sites = {slot.site: np.asarray(weights[slot.site]) for slot in factor.slots}
        ahead, behind = (alone.act({factor.name: _near_identity(factor, step)}, sites) for step in (STEP, -STEP))
        yield {site: (np.asarray(ahead[site]) - np.asarray(behind[site])) / (2 * STEP) for site in sites}
    for shift in group.shifts:
        free = tuple(1 if axis in shift.along else size for axis, size in enumerate(shift.shape))
        basis = np.eye(math.prod(free)).reshape(-1, *free)
        yield {shift.site: np.broadcast_to(basis, (len(basis), *shift.shape))}
    for site in {pin.site for pin in group.pinned if pin.reason == UNUSED}:
        size = math.prod(group.sites[site])
        yield {site: np.eye(size).reshape(size, *group.sites[site])}


def _near_identity(factor: Factor, step: float) -> np.ndarray:
    """One element for each dimension of a factor, a step away from the identity."""
    if factor.kind not in MATRICES:
        basis = np.eye(factor.dimension).reshape(-1, *factor.shape)
        return np.exp(step * basis)
    size, units = factor.size, []
    for copy, i, j in itertools.product(range(factor.num_copies), range(size), range(size)):
        if factor.kind == "linear" or i < j:
            unit = np.zeros((factor.num_copies, size, size))
            unit[copy, i, j] = step
            unit[copy, j, i] -= step if factor.kind == "orthogonal" else 0.0
            units.append(unit)
    return np.stack(units).reshape(-1, *factor.shape) + np.eye(size)


def _flat(group: SymmetryGroup, direction: Mapping[str, np.ndarray]) -> np.ndarray:
    number = len(next(iter(direction.values())))
    parts = [direction.get(site, np.zeros((number, *shape))) for site, shape in group.sites.items()]
    return np.concatenate([part.reshape(number, -1) for part in parts], axis=1)


def _rank(rows: np.ndarray, tolerance: float) -> int:
    values = np.linalg.svd(rows, compute_uv=False) if rows.size else np.zeros(1)
    return int((values > tolerance * max(values[0], np.finfo(float).tiny)).sum())
