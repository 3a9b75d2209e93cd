r"""Canonical weights: one representative for every set of weights that only labels tell apart.

Each draw is moved by one group element, ``theta_canonical = g_align g_balance theta``: first the scales of the
likelihood's group take it to the point of highest prior density on its orbit, under a Gaussian prior that of least mass
(the prior breaks these scales, so they are no symmetry of the posterior, but of the function they are), then the
permutations, signs and rotations of the posterior's group take it as near as they can to the barycentre of all draws.
Weights change through `SymmetryGroup.act` alone, so no function changes.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr
from jaxtyping import Bool, Float

from symmetry import ISOMETRIES, Factor, SymmetryGroup, balance, balance_density, barycentre

from .datatree import symmetries_of
from .levels import check_tree, latent_sites
from .log_prior import gaussian_change, log_prior, prior_gradient, scale_sites

Arrays = Mapping[str, np.ndarray]


def canonicalize(tree: xr.DataTree, *, posterior: Any = None) -> xr.DataTree:
    """Add ``canonical_posterior``, the elements that lead there, and the log prior at the canonical weights.

    Args:
        tree: From `to_datatree` with symmetries.
        posterior: Needed only where scales meet a prior that is not Gaussian: for ``canonical_log_prior``, and for the
            point of highest density. Without it scales are balanced as under a Gaussian prior of the same variances.

    Returns:
        A new tree with the groups

        * ``canonical_posterior``: the posterior's variables, moved;
        * ``canonicalization``: for every factor the element, applied in the order scale, permutation, sign, and the
          ``distance`` of every draw to the barycentre. Attributes: ``trivial`` (1 if there is nothing to remove),
          ``spread_before`` and ``spread_after`` (mean squared distance to the mean before and after alignment, over the
          sites that alignment moves), ``unbalanced`` (why scales were left alone, if they were);
        * ``invariants``, with ``canonical_log_prior`` where it can be known.

        Draws that are not finite are left as they are.

    Raises:
        ValueError: If it is no tree of draws, carries no symmetries, or the posterior has other sites.
    """
    check_tree(tree)
    symmetries = symmetries_of(tree)
    if symmetries is not None and posterior is not None and posterior.sites != dict(symmetries.likelihood.sites):
        raise ValueError(
            f"the posterior of the tree's draws was expected, with the sites {dict(symmetries.likelihood.sites)}; "
            f"got one with {posterior.sites}"
        )
    if symmetries is None:
        raise ValueError(
            "a tree with symmetries was expected, but this one has none; "
            "make it with to_datatree(draws, find_symmetries(posterior))"
        )
    pool = _Pool(tree, tuple(symmetries.likelihood.sites))
    balancing = _balance(pool, symmetries.likelihood.monomial().restrict(("scale",)), posterior)
    alignment = _align(pool, balancing, (symmetries.posterior or symmetries.likelihood).restrict(ISOMETRIES))
    moved = pool.scatter(alignment.weights)
    result = tree.copy()
    nothing_moves = not balancing.element and not alignment.element
    result["canonical_posterior"] = xr.DataTree(pool.like_posterior(moved, with_derived=nothing_moves))
    result["canonicalization"] = xr.DataTree(_elements(pool, balancing, alignment))
    known = _canonical_log_prior(pool, balancing, posterior, moved)
    if known is not None:
        invariants = tree["invariants"].to_dataset().assign(canonical_log_prior=(("chain", "draw"), known))
        result["invariants"] = xr.DataTree(invariants)
    return result


class _Pool:
    """The finite draws of all chains behind one another, and the way back into the tree's shape."""

    def __init__(self, tree: xr.DataTree, sites: tuple[str, ...]):
        self.tree = tree
        self.all = {site: tree["posterior"].data_vars[site].transpose("chain", "draw", ...).values for site in sites}
        finite = [np.isfinite(array).reshape(*array.shape[:2], -1).all(-1) for array in self.all.values()]
        self.finite: Bool[np.ndarray, "chain draw"] = np.logical_and.reduce(finite)
        self.weights = {site: array[self.finite] for site, array in self.all.items()}

    def scatter(self, weights: Arrays) -> dict[str, np.ndarray]:
        """Sites in the tree's shape; draws that are not finite as they were."""
        result = {}
        for site, array in self.all.items():
            result[site] = array.copy()
            result[site][self.finite] = weights[site]
        return result

    def spread_out(self, values: np.ndarray, missing: np.ndarray | float) -> np.ndarray:
        """Values of the finite draws in the tree's shape, ``missing`` elsewhere."""
        result = np.empty(self.finite.shape + values.shape[1:], values.dtype)
        result[:] = missing
        result[self.finite] = values
        return result

    def variable(self, group: str, name: str) -> np.ndarray | None:
        """A variable (chain, draw) of the tree at the finite draws, if it is there."""
        if group not in self.tree.children or name not in self.tree[group].data_vars:
            return None
        # Where weights are thinned, the other groups have all draws.
        array = self.tree[group].data_vars[name].sel(draw=self.tree["posterior"].coords["draw"].values)
        return array.values[self.finite]

    def precisions(self) -> dict[str, np.ndarray]:
        """The stored prior precisions, a row for each finite draw or one for all."""
        if "precision" not in self.tree.children:
            return {}
        stored = self.tree["precision"].data_vars
        return {
            str(site): array.values[self.finite] if "draw" in array.dims else array.values[None]
            for site, array in stored.items()
        }

    def like_posterior(self, weights: Arrays, *, with_derived: bool) -> xr.Dataset:
        """The posterior's dataset with other values; dims, coordinates and attributes are kept.

        Deterministic sites stay where weights do: what they are at other weights only the model can tell.
        """
        whole = self.tree["posterior"].to_dataset()
        dataset = whole if with_derived else whole[list(latent_sites(whole))]
        return dataset.assign({site: dataset[site].copy(data=array) for site, array in weights.items()})


@dataclass(frozen=True)
class _Move:
    """What one stage did to the finite draws."""

    group: SymmetryGroup
    element: Arrays
    weights: Arrays
    failure: str = ""


def _balance(pool: _Pool, scales: SymmetryGroup, posterior: Any) -> _Move:
    """Take every draw to the point of highest prior density on its orbit; leave it where that point does not exist."""
    if not scales.factors:
        return _Move(scales, {}, pool.weights)
    try:
        element = _highest_density(pool, scales, posterior) or balance(pool.weights, scales, pool.precisions())
    except ValueError as error:
        return _Move(scales, {}, pool.weights, failure=str(error))
    return _Move(scales, _numpy(element), _numpy(scales.act(element, pool.weights)))


def _highest_density(pool: _Pool, scales: SymmetryGroup, posterior: Any) -> Mapping[str, Any]:
    """The scales by the log prior itself; none where it is Gaussian, not at hand, or rises away from zero."""
    if posterior is None or not pool.finite.any():
        return {}
    if "precision" in pool.tree.children and pool.tree["precision"].attrs["gaussian"]:
        return {}
    sites = scale_sites(scales)
    with contextlib.suppress(ValueError):
        return balance_density(pool.weights, scales, lambda weights: prior_gradient(posterior, weights, sites))
    return {}


def _align(pool: _Pool, balancing: _Move, labels: SymmetryGroup) -> _Move:
    """Relabel every draw to be near the barycentre, which starts at the draw of highest density."""
    if not labels.factors or not pool.finite.any():
        return _Move(labels, {}, balancing.weights)
    density = pool.variable("sample_stats", "lp")
    element = _numpy(barycentre(balancing.weights, labels, logdensity=density).element)
    return _Move(labels, element, _numpy(labels.act(element, balancing.weights)))


def _elements(pool: _Pool, balancing: _Move, alignment: _Move) -> xr.Dataset:
    """The element of every draw, its distance to the barycentre, and what alignment achieved."""
    variables: dict[str, tuple[tuple[str, ...], np.ndarray]] = {}
    for move in (balancing, alignment):
        for name, values in move.element.items():
            identity = np.asarray(move.group.identity()[name])
            dims = _element_dims(move.group.factor(name))
            variables[name] = ("chain", "draw", *dims), pool.spread_out(values, identity)
    before, after = (_squared_distances(move.weights, alignment.group) for move in (balancing, alignment))
    variables["distance"] = ("chain", "draw"), pool.spread_out(np.sqrt(after), np.nan)
    attributes = {
        "trivial": int(not balancing.group.factors and not alignment.group.factors),
        "unbalanced": balancing.failure,
        "spread_before": float(before.mean()) if before.size else 0.0,
        "spread_after": float(after.mean()) if after.size else 0.0,
    }
    coordinates = {dim: pool.tree["posterior"].coords[dim] for dim in ("chain", "draw")}
    return xr.Dataset(variables, coordinates, attributes)


def _element_dims(factor: Factor) -> list[str]:
    """Names of the dims of a factor's values; no dim may bear the name of the variable."""
    members = [factor.axis, f"{factor.axis}__in"][: len(factor.shape) - len(factor.fibre)]
    return [f"{name}__axis" if name == factor.name else name for name in (*factor.fibre, *members)]


def _squared_distances(weights: Arrays, group: SymmetryGroup) -> Float[np.ndarray, " draw"]:
    """Squared distance of every draw to the mean of all, over the sites that the group moves."""
    moved = {slot.site for factor in group.factors for slot in factor.slots}
    total = np.zeros(len(next(iter(weights.values()))))
    for site in moved:
        flat = weights[site].reshape(len(weights[site]), -1).astype(np.float64)
        total += ((flat - flat.mean(0)) ** 2).sum(1) if len(flat) else 0.0
    return total


def _canonical_log_prior(
    pool: _Pool, balancing: _Move, posterior: Any, canonical: Arrays
) -> Float[np.ndarray, "chain draw"] | None:
    """Log prior at the canonical weights, or None where neither stored precisions nor a posterior tell it.

    Permutations and signs of the posterior leave the log prior as it is; scales do not.
    """
    invariants = pool.tree["invariants"].data_vars
    if "log_prior" not in invariants:
        return None
    known = invariants["log_prior"].values
    if not balancing.element:
        return known
    if known.shape != pool.finite.shape:  # weights are thinned: nobody knows it at the draws between
        return None
    if "precision" in pool.tree.children and pool.tree["precision"].attrs["gaussian"]:
        change = gaussian_change(pool.weights, balancing.weights, pool.precisions())
        return known + pool.spread_out(change, np.nan)
    if posterior is not None:
        return log_prior(posterior, canonical)
    return None


def _numpy(arrays: Mapping[str, Any]) -> dict[str, np.ndarray]:
    return {name: np.asarray(array) for name, array in arrays.items()}
