"""The scale graph of a symmetry group: how the mass of the weights depends on log-scales.

Under log-scales ``u`` (one array a scale factor) the entry ``w_k`` is multiplied by ``exp(sum_f e_kf u_f[j_f(k)])``,
where ``j_f(k)`` is the member of factor ``f`` that the entry belongs to. With masses ``m_k = tau_k w_k^2`` the prior
mass on the orbit is

    F(u) = sum_k m_k exp(2 sum_f e_kf u_f[j_f(k)]),

a convex function. Nodes of the graph are the scale factors, and a site is a (hyper-)edge between the factors that it
carries; a bias is an edge to the outside, where the scale is fixed at 1. Entries of one site that belong to the same
members are summed at once, and an edge's mass is then contracted with one vector an axis: no exponential is taken of
more than a unit.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from scipy import sparse

from .factor import Factor, Slot
from .group import SymmetryGroup


@dataclass(frozen=True, eq=False)
class Port:
    """Where one scale factor (``node``) enters one axis of an edge: row ``r`` of the axis belongs to ``members[r]``.

    Rows outside the factor have the member ``size``, one past the last.
    """

    node: int
    exponent: int
    size: int
    members: np.ndarray

    @property
    def is_whole(self) -> bool:
        """Whether row and member are the same thing."""
        return np.array_equal(self.members, np.arange(self.size))


@dataclass(frozen=True, eq=False)
class EdgeAxis:
    """One axis of an edge. ``rows[p]`` is the row to which position ``p`` of the site's axis is summed."""

    axis: int | None
    rows: np.ndarray
    num_rows: int
    ports: tuple[Port, ...]


@dataclass(frozen=True, eq=False)
class Edge:
    """One site that scales act on; its summed mass has one array axis for each of ``axes``."""

    site: str
    axes: tuple[EdgeAxis, ...]


@dataclass(frozen=True, eq=False)
class ScaleGraph:
    """Nodes (scale factors) and edges (sites) of the min-mass problem."""

    nodes: tuple[Factor, ...]
    edges: tuple[Edge, ...]

    @classmethod
    def from_group(cls, group: SymmetryGroup) -> ScaleGraph:
        """Read the graph off the group's scale factors.

        Raises:
            ValueError: If the mass of a factor's orbit has no minimum, or the members of a factor interact.
        """
        nodes = tuple(factor for factor in group.factors if factor.kind == "scale")
        for node in nodes:
            _refuse_one_sided(node)
        edges = (_edge(nodes, site, shape) for site, shape in group.sites.items())
        return cls(nodes, tuple(edge for edge in edges if edge.axes))

    def sum_to_rows(self, masses: Mapping[str, Array]) -> list[Array]:
        """Masses ``tau w^2`` of the entries of one draw, summed to rows: one array an edge."""
        return [_sum_to_rows(edge, masses[edge.site]) for edge in self.edges]

    def vectors(self, log_scales: Sequence[Array], alive: Sequence[Array]) -> list[list[Array]]:
        """What multiplies the mass, ``alive * exp(2 e u)``, as one vector for each axis of each edge."""
        return [[_axis_vector(axis, log_scales, alive) for axis in edge.axes] for edge in self.edges]

    def flows(self, node: int, masses: Sequence[Array], vectors: Sequence[Sequence[Array]]) -> tuple[Array, Array]:
        """Mass that grows and mass that shrinks with each member's scale, weighted by the exponents: in and out."""
        inflow = outflow = jnp.zeros(self.nodes[node].size, masses[0].dtype)
        for edge, mass, along in zip(self.edges, masses, vectors, strict=True):
            for position, axis in enumerate(edge.axes):
                for port in axis.ports:
                    if port.node != node:
                        continue
                    share = abs(port.exponent) * _to_members(port, _marginal(mass, along, position))
                    inflow, outflow = (inflow + share, outflow) if port.exponent > 0 else (inflow, outflow + share)
        return inflow, outflow

    def alive(self, masses: Sequence[Array]) -> list[Array]:
        """Members with a path of nonzero mass to the outside in both directions, as 0 and 1.

        The others have no influence on the function, and their orbit's mass has its infimum, 0, at infinity; they take
        no part in the problem and keep their scale.
        """
        still = [jnp.zeros(node.size, masses[0].dtype) for node in self.nodes]
        nonzero = [(mass > 0).astype(mass.dtype) for mass in masses]

        def prune(_: Array, alive: list[Array]) -> list[Array]:
            vectors = self.vectors(still, alive)
            pairs = (self.flows(node, nonzero, vectors) for node in range(len(self.nodes)))
            return [((inflow > 0) & (outflow > 0)).astype(inflow.dtype) for inflow, outflow in pairs]

        # Death travels one edge a round, so as many rounds as there are nodes reach everything in a feed-forward graph.
        return lax.fori_loop(0, len(self.nodes), prune, [jnp.ones_like(scales) for scales in still])

    def layer_masses(self, masses: Sequence[Array], vectors: Sequence[Sequence[Array]]) -> tuple[Array, np.ndarray]:
        """Masses summed over members, with the matrix ``(term, node)`` of their exponents."""
        totals, exponents = [], []
        for edge, mass, along in zip(self.edges, masses, vectors, strict=True):
            powers = np.zeros((1, len(self.nodes)), int)
            for axis, vector in zip(edge.axes, along, strict=True):
                of_rows = np.zeros((axis.num_rows, len(self.nodes)), int)
                for port in axis.ports:
                    of_rows[port.members < port.size, port.node] += port.exponent
                patterns, which = np.unique(of_rows, axis=0, return_inverse=True)
                membership = vector[:, None] * np.eye(len(patterns), dtype=mass.dtype)[which.reshape(-1)]
                mass = jnp.tensordot(mass, membership, axes=(0, 0), precision=lax.Precision.HIGHEST)
                powers = (powers[:, None, :] + patterns).reshape(-1, len(self.nodes))
            totals.append(mass.reshape(-1))
            exponents.append(powers)
        return jnp.concatenate(totals), np.concatenate(exponents)

    def entries(
        self, masses: Sequence[Array], vectors: Sequence[Sequence[Array]]
    ) -> tuple[sparse.csr_array, np.ndarray]:
        """Every nonzero term of ``F(u) = sum exp(A u + b)``, u being all nodes one after the other: ``A`` and ``b``."""
        starts = np.concatenate([[0], np.cumsum([node.size for node in self.nodes])])
        blocks, logs = [], []
        for edge, mass, along in zip(self.edges, masses, vectors, strict=True):
            scaled = np.asarray(mass)
            for position, vector in enumerate(along):
                scaled = scaled * np.asarray(vector).reshape(
                    [-1 if axis == position else 1 for axis in range(mass.ndim)]
                )
            where = np.nonzero(scaled)
            shape = (len(where[0]), int(starts[-1]))
            block = sparse.coo_array(shape)
            for axis, rows in zip(edge.axes, where, strict=True):
                for port in axis.ports:
                    members = port.members[rows]
                    terms = np.flatnonzero(members < port.size)
                    columns = starts[port.node] + members[terms]
                    block = block + sparse.coo_array(
                        (np.full(len(terms), 2.0 * port.exponent), (terms, columns)), shape
                    )
            blocks.append(block)
            logs.append(np.log(scaled[where]))
        return sparse.csr_array(sparse.vstack(blocks)), np.concatenate(logs)


def _edge(nodes: tuple[Factor, ...], site: str, shape: tuple[int, ...]) -> Edge:
    slots = [(node, slot) for node, factor in enumerate(nodes) for slot in factor.slots if slot.site == site]
    axes = []
    for axis in dict.fromkeys(slot.axis for _, slot in slots):
        length = 1 if axis is None else shape[axis]
        here = [(node, slot) for node, slot in slots if slot.axis == axis]
        table = np.stack([_members(slot, length) for _, slot in here], axis=1)
        rows, of_position = np.unique(table, axis=0, return_inverse=True)
        ports = tuple(
            Port(node, slot.exponent, slot.size, column) for (node, slot), column in zip(here, rows.T, strict=True)
        )
        axes.append(EdgeAxis(axis, of_position.reshape(-1), len(rows), ports))
    _refuse_self_edges(nodes, site, axes)
    return Edge(site, tuple(sorted(axes, key=lambda axis: -1 if axis.axis is None else axis.axis)))


def _members(slot: Slot, length: int) -> np.ndarray:
    positions = np.arange(length) - slot.offset
    inside = (positions >= 0) & (positions < slot.length)
    return np.where(inside, positions // slot.stride % slot.size, slot.size)


def _sum_to_rows(edge: Edge, mass: Array) -> Array:
    kept = [axis.axis for axis in edge.axes if axis.axis is not None]
    mass = mass.sum(axis=tuple(axis for axis in range(mass.ndim) if axis not in kept))
    if edge.axes[0].axis is None:
        mass = mass[None]
    for position, axis in enumerate(edge.axes):
        if not np.array_equal(axis.rows, np.arange(axis.num_rows)):
            rows = jnp.moveaxis(mass, position, 0)
            summed = jnp.zeros((axis.num_rows, *rows.shape[1:]), mass.dtype).at[axis.rows].add(rows)
            mass = jnp.moveaxis(summed, 0, position)
    return mass


def _axis_vector(axis: EdgeAxis, log_scales: Sequence[Array], alive: Sequence[Array]) -> Array:
    vector = jnp.ones((), log_scales[0].dtype)
    for port in axis.ports:
        values = alive[port.node] * jnp.exp(2 * port.exponent * log_scales[port.node])
        vector = vector * (values if port.is_whole else jnp.append(values, 1)[port.members])
    return vector


def _marginal(mass: Array, along: Sequence[Array], kept: int) -> Array:
    """Contract all axes but one with their vectors, and multiply by the vector of the one that is kept."""
    for position in reversed(range(mass.ndim)):
        if position != kept:
            mass = jnp.tensordot(mass, along[position], axes=(position, 0), precision=lax.Precision.HIGHEST)
    return mass * along[kept]


def _to_members(port: Port, per_row: Array) -> Array:
    if port.is_whole:
        return per_row
    return jnp.zeros(port.size + 1, per_row.dtype).at[port.members].add(per_row)[: port.size]


def _refuse_one_sided(node: Factor) -> None:
    exponents = [slot.exponent for slot in node.slots]
    if not min(exponents, default=0) < 0 < max(exponents, default=0):
        sites = ", ".join(dict.fromkeys(slot.site for slot in node.slots))
        raise ValueError(
            f"scale factor {node.name!r} moves the mass of all its sites ({sites}) in one direction, so no point of "
            "its orbit has the least mass; balance a group without this factor"
        )


def _refuse_self_edges(nodes: tuple[Factor, ...], site: str, axes: Sequence[EdgeAxis]) -> None:
    seen: set[int] = set()
    for axis in axes:
        here = [port.node for port in axis.ports]
        for node in dict.fromkeys(here):
            inside = np.stack([port.members < port.size for port in axis.ports if port.node == node])
            if node in seen or (inside.sum(axis=0) > 1).any():
                raise ValueError(
                    f"scale factor {nodes[node].name!r} occurs twice in entries of {site!r}, so its members cannot be "
                    "balanced one by one; balance a group without this factor"
                )
        seen.update(here)
