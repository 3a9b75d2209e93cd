"""The balanced representative: the point of least prior mass on the orbit of the scales.

On the scale graph (`scale_graph.py`) the mass ``F(u)`` is convex in the log-scales, and its minimum is where every unit
is balanced, ``in = out``. For weights of one hidden layer between precisions tau

    in_i = sum_j tau w_ij^2 + tau b_i^2,    out_i = sum_k tau w_ki^2,    lambda_i = (out_i / in_i)^(1/4).

In general the update of one node, ``u += (log out - log in) / (2 (p + q))`` with ``p`` and ``q`` the largest exponents
upwards and downwards, is exact for its units all at once where they have one exponent in each direction, and never
oversteps otherwise. Sweeps of this update alone need a number of rounds that grows like the square of the depth; a
Newton correction by one scalar a node before each sweep (the second level) makes that number flat in the depth.

References:
    Stock, Graham, Gribonval and Jégou, Equi-normalization of neural networks, ICLR 2019.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jaxtyping import Float, Int

from .action import AnyArray, Weights
from .fibre import expand, uniform
from .group import SymmetryGroup
from .scale_graph import ScaleGraph

_NEWTON_STEPS = 8
_MAX_SWEEPS = 200
# Draws whose masses together exceed this many numbers are solved in turns: past the cache, vmap only costs memory.
_LANE_NUMBERS = 2**20


class MinMass(NamedTuple):
    """Solution of the min-mass problem; every field has the batch dims of the weights.

    Attributes:
        log_scales: Scale factor name to ``u``; 0 for units without influence on the function.
        objective: ``F(u)``, twice the negative log prior of Gaussian weights up to a constant.
        residual: Largest ``|in - out| / (in + out)`` over all units; 0 where all are balanced.
        num_sweeps: Sweeps until no log-scale moved by more than the tolerance.
    """

    log_scales: dict[str, Float[Array, "... unit"]]
    objective: Float[Array, " ..."]
    residual: Float[Array, " ..."]
    num_sweeps: Int[Array, " ..."]


def balance(
    weights: Weights,
    group: SymmetryGroup,
    precisions: Weights | None = None,
    backend: Literal["sweeps", "cvxpy"] = "sweeps",
) -> dict[str, AnyArray]:
    """The scales that bring weights to the point of least prior mass on their orbit.

    Args:
        weights: Site name to constrained value; any batch dims lead.
        group: The likelihood's group. Its scale factors are used; over a fibre they get one and the same value.
        precisions: Site name to prior precision of every weight, broadcast against the weights. Sites that are not
            named have precision 1.
        backend: ``"sweeps"`` (jitted, batched) or ``"cvxpy"`` (the convex program itself, one draw after the other).

    Returns:
        The scale part of an element; the other factors are not named, so `SymmetryGroup.act` leaves them alone.

    Raises:
        ValueError: If an orbit has no point of least mass, units of a factor interact, or a site is missing.

    Example:
        >>> from symmetry import Factor, Slot, SymmetryGroup
        >>> slots = Slot("inner", 0, 1, exponent=1), Slot("outer", 0, 1, exponent=-1)
        >>> group = SymmetryGroup({"inner": (1,), "outer": (1,)}, (Factor("scale", "scale", "unit", 1, slots),))
        >>> weights = {"inner": np.array([8.0]), "outer": np.array([2.0])}
        >>> {site: float(value[0]) for site, value in group.act(balance(weights, group), weights).items()}
        {'inner': 4.0, 'outer': 4.0}
    """
    if backend == "sweeps":
        return {name: jnp.exp(u) for name, u in min_mass(weights, group, precisions).log_scales.items()}
    if backend == "cvxpy":
        return expand(group, uniform(group), _balance_by_cvxpy(weights, uniform(group), precisions))
    raise ValueError(f"backend must be 'sweeps' or 'cvxpy', got {backend!r}")


def min_mass(weights: Weights, group: SymmetryGroup, precisions: Weights | None = None) -> MinMass:
    """Solve the min-mass problem by two-level sweeps; arguments and errors as in `balance`.

    Converged when no log-scale moves by more than 1e-7 (3e-6 in float32) in a sweep.
    """
    scaled = {slot.site for factor in group.factors if factor.kind == "scale" for slot in factor.slots}
    if not scaled:
        return MinMass({}, jnp.zeros(()), jnp.zeros(()), jnp.zeros((), int))
    given = ({site: arrays[site] for site in scaled if site in arrays} for arrays in (weights, precisions or {}))
    solution = _min_mass(uniform(group), *given)
    return solution._replace(log_scales=expand(group, uniform(group), solution.log_scales))


@jax.jit
def _min_mass(group: SymmetryGroup, weights: Weights, precisions: Weights) -> MinMass:
    graph = ScaleGraph.from_group(group)
    entries = _entry_masses(weights, group, precisions)
    batch = next(mass.shape[: mass.ndim - len(group.sites[site])] for site, mass in entries.items())
    # Here and not draw by draw: squares are taken and summed at once, and those of a kernel's taps are never stored.
    flat = {site: mass.reshape(math.prod(batch), *group.sites[site]) for site, mass in entries.items()}
    masses = jax.vmap(graph.sum_to_rows)(flat)
    numbers = sum(math.prod(mass.shape[1:]) for mass in masses)
    num_turns = max(1, math.ceil(math.prod(batch) / max(1, _LANE_NUMBERS // max(numbers, 1))))
    lanes = math.ceil(math.prod(batch) / num_turns)

    def to_turns(mass: Array) -> Array:
        # Draws without mass fill the last turn: a smaller turn would be a program of its own, seconds of compilation.
        missing = [(0, num_turns * lanes - len(mass))] + [(0, 0)] * (mass.ndim - 1)
        return jnp.pad(mass, missing).reshape(num_turns, lanes, *mass.shape[1:])

    def from_turns(array: Array) -> Array:
        shape = array.shape[2:]
        return array.reshape(num_turns * lanes, *shape)[: math.prod(batch)].reshape(batch + shape)

    solution = lax.map(jax.vmap(partial(_solve_one, graph)), [to_turns(mass) for mass in masses])
    return jax.tree.map(from_turns, solution)


def _entry_masses(weights: Weights, group: SymmetryGroup, precisions: Weights | None) -> dict[str, Array]:
    """``tau w^2`` of every scaled site, all of one batch shape."""
    scaled = {slot.site for factor in group.factors if factor.kind == "scale" for slot in factor.slots}
    missing = [site for site in group.sites if site in scaled and site not in weights]
    if missing:
        raise ValueError(f"balancing needs the weights of every scaled site, got none for {', '.join(missing)}")
    masses = {}
    for site in (site for site in group.sites if site in scaled):
        squares = jnp.square(jnp.asarray(weights[site]))
        tau = jnp.asarray(1.0 if precisions is None else precisions.get(site, 1.0), dtype=squares.dtype)
        masses[site] = tau * squares
        if masses[site].shape[masses[site].ndim - len(group.sites[site]) :] != group.sites[site]:
            raise ValueError(
                f"weights and precisions of {site!r} must broadcast to (...,) + {group.sites[site]}, "
                f"got {squares.shape} and {tau.shape}"
            )
    batches = (mass.shape[: mass.ndim - len(group.sites[site])] for site, mass in masses.items())
    batch = np.broadcast_shapes(*batches)
    return {site: jnp.broadcast_to(mass, batch + group.sites[site]) for site, mass in masses.items()}


class _Sweep(NamedTuple):
    log_scales: list[Array]
    change: Array
    num_sweeps: Array


def _solve_one(graph: ScaleGraph, masses: Sequence[Array]) -> MinMass:
    """Two-level sweeps for one draw, its masses summed to rows."""
    alive = graph.alive(masses)
    dtype = masses[0].dtype
    tolerance = max(1e-7, 25 * float(jnp.finfo(dtype).eps))

    def sweep(state: _Sweep) -> _Sweep:
        moved = list(state.log_scales)
        if len(graph.nodes) > 1:
            moved = _correct_layers(graph, masses, moved, alive)
        for node in range(len(graph.nodes)):
            moved[node] = moved[node] + _step(graph, node, *graph.flows(node, masses, graph.vectors(moved, alive)))
        change = [jnp.abs(new - old).max() for new, old in zip(moved, state.log_scales, strict=True)]
        return _Sweep(moved, jnp.stack(change).max(), state.num_sweeps + 1)

    def unfinished(state: _Sweep) -> Array:
        return (state.change > tolerance) & (state.num_sweeps < _MAX_SWEEPS)

    start = _Sweep([jnp.zeros_like(living) for living in alive], jnp.asarray(jnp.inf, dtype), jnp.asarray(0))
    end = lax.while_loop(unfinished, sweep, start)
    vectors = graph.vectors(end.log_scales, alive)
    flows = [graph.flows(node, masses, vectors) for node in range(len(graph.nodes))]
    residuals = [jnp.abs(up - down) / jnp.where(up + down > 0, up + down, 1) for up, down in flows]
    return MinMass(
        # Weights that are not finite have no balanced representative; their scales stay 1.
        {
            node.name: jnp.where(jnp.isfinite(log_scale), log_scale, 0)
            for node, log_scale in zip(graph.nodes, end.log_scales, strict=True)
        },
        graph.layer_masses(masses, vectors)[0].sum(),
        jnp.stack([residual.max() for residual in residuals]).max(),
        end.num_sweeps,
    )


def _step(graph: ScaleGraph, node: int, inflow: Array, outflow: Array) -> Array:
    """``(log out - log in) / (2 (p + q))`` for the living units of a node, 0 for the others."""
    exponents = [slot.exponent for slot in graph.nodes[node].slots]
    is_alive = (inflow > 0) & (outflow > 0)
    difference = jnp.log(jnp.where(is_alive, outflow, 1)) - jnp.log(jnp.where(is_alive, inflow, 1))
    return difference / (2 * (max(exponents) - min(exponents)))


def _correct_layers(
    graph: ScaleGraph, masses: Sequence[Array], log_scales: list[Array], alive: Sequence[Array]
) -> list[Array]:
    """Move every node by one scalar, chosen by clipped Newton steps on the summed masses."""
    totals, powers = graph.layer_masses(masses, graph.vectors(log_scales, alive))
    exponents = jnp.asarray(2 * powers, totals.dtype)

    def newton(_: Array, shifts: Array) -> Array:
        terms = totals * jnp.exp(exponents @ shifts)
        hessian = exponents.T @ (terms[:, None] * exponents)
        # A node without living units has an empty row; any positive number there leaves its shift at 0.
        ridge = jnp.where(jnp.diag(hessian) > 0, jnp.finfo(totals.dtype).eps * jnp.diag(hessian), 1)
        step = _solve_positive_definite(hessian + jnp.diag(ridge), exponents.T @ terms)
        return shifts - step / jnp.maximum(1, jnp.abs(step).max())

    shifts = lax.fori_loop(0, _NEWTON_STEPS, newton, jnp.zeros(len(graph.nodes), totals.dtype))
    lower = (totals * jnp.exp(exponents @ shifts)).sum() <= totals.sum()
    shifts = jnp.where(lower, shifts, 0)
    return [scales + shift * living for scales, shift, living in zip(log_scales, shifts, alive, strict=True)]


def _solve_positive_definite(matrix: Float[Array, "node node"], vector: Float[Array, " node"]) -> Float[Array, " node"]:
    """Gauss-Jordan elimination: for few unknowns and many draws it compiles and runs faster than LAPACK calls."""

    def eliminate(pivot: Array, augmented: Array) -> Array:
        row = augmented[pivot] / augmented[pivot, pivot]
        return (augmented - augmented[:, pivot, None] * row).at[pivot].set(row)

    augmented = jnp.concatenate([matrix, vector[:, None]], axis=1)
    return lax.fori_loop(0, len(vector), eliminate, augmented)[:, -1]


def _balance_by_cvxpy(weights: Weights, group: SymmetryGroup, precisions: Weights | None) -> dict[str, AnyArray]:
    """The oracle: minimise ``log sum exp`` over the entries with CLARABEL, one draw after the other."""
    masses = {site: np.asarray(mass) for site, mass in _entry_masses(weights, group, precisions).items()}
    if not masses:
        return {}
    graph = ScaleGraph.from_group(group)
    batch = next(mass.shape[: mass.ndim - len(group.sites[site])] for site, mass in masses.items())
    solutions = []
    for index in np.ndindex(batch):
        rows = graph.sum_to_rows({site: jnp.asarray(mass[index]) for site, mass in masses.items()})
        solutions.append(_solve_by_cvxpy(graph, rows))
    stacked = np.exp(np.stack(solutions)).reshape(*batch, -1).astype(next(iter(masses.values())).dtype)
    ends = np.cumsum([node.size for node in graph.nodes])
    return {node.name: part for node, part in zip(graph.nodes, np.split(stacked, ends[:-1], axis=-1), strict=True)}


def _solve_by_cvxpy(graph: ScaleGraph, masses: Sequence[Array]) -> np.ndarray:
    """Log-scales of all nodes, one after the other, for the masses of one draw."""
    import cvxpy as cp

    alive = graph.alive(masses)
    still = [jnp.zeros_like(living) for living in alive]
    exponents, logs = graph.entries(masses, graph.vectors(still, alive))
    log_scales = cp.Variable(sum(node.size for node in graph.nodes))
    problem = cp.Problem(cp.Minimize(cp.log_sum_exp(exponents @ log_scales + logs)))
    problem.solve(solver=cp.CLARABEL)
    if log_scales.value is None:
        raise ValueError(f"CLARABEL found no balanced weights (status {problem.status}); use backend='sweeps'")
    return log_scales.value * np.concatenate([np.asarray(living) for living in alive])
