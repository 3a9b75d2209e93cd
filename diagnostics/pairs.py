"""Pairs of draws, one of them relabelled to be near the other.

Two draws of one chain, or of one mode, are an early and a late one, so that they are nearly independent where chains
mix. The relabelling is the element ``g`` of the posterior's permutations, signs and rotations that minimises
``||g theta_2 - theta_1||``. Where the likelihood has scales as well, ``g`` is found on the balanced weights, for units
are told apart best at equal scales, and applied to the draw itself: balanced weights are no draws from the posterior.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import xarray as xr
from jaxtyping import Bool, Int

from bnn_models import Posterior
from symmetry import ISOMETRIES, Symmetries, SymmetryGroup, align_to, balance

from .datatree import symmetries_of
from .levels import check_tree, latent_sites

Arrays = Mapping[str, np.ndarray]
Picks = Int[np.ndarray, "pair 2"]

_MISSING = {
    "between chains": "Fewer than two chains with finite draws: there are no pairs between chains.",
    "within a chain": "No chain has a finite draw in either half: there are no pairs within a chain.",
    "between modes": "The labels name fewer than two modes: there are no pairs between modes.",
    "within a mode": "No mode has draws in either half of the run: there are no pairs within a mode.",
}
_NO_SYMMETRIES = (
    "No symmetries were looked for, so nothing was aligned and there is no reference within chains; pass them, "
    "to_datatree(draws, find_symmetries(posterior))."
)


@dataclass(frozen=True)
class Pairs:
    """Pairs of one kind, ``"between chains, raw"`` say: the weights of both draws, with a leading dim for the pairs."""

    kind: str
    first: Arrays
    second: Arrays


def choose_pairs(
    tree: xr.DataTree, posterior: Posterior, labels: Int[np.ndarray, "chain draw"] | None, num_pairs: int, seed: int
) -> tuple[list[Pairs], tuple[str, ...]]:
    """Random pairs between and within chains, and between and within modes where draws have labels.

    Args:
        tree: As `to_datatree` or `canonicalize` returns it.
        posterior: What was sampled.
        labels: The mode of each draw; a negative number is none.
        num_pairs: Pairs of each kind.
        seed: Of the choice.

    Returns:
        The kinds of pairs that there are, with at most one raw kind, and sentences on what there is not.

    Raises:
        ValueError: If it is no tree of draws, the posterior has other sites, or labels or number do not fit.
    """
    draws, symmetries = _Draws.of(tree, posterior), symmetries_of(tree)
    if num_pairs < 1:
        raise ValueError(f"one pair or more was expected, got num_pairs={num_pairs}")
    if labels is not None and labels.shape != draws.finite.shape:
        raise ValueError(f"one label for each draw was expected, {draws.finite.shape}, got shape {labels.shape}")
    found: list[Pairs] = []
    notes = [] if draws.finite.all() else [f"{np.sum(~draws.finite)} draws that are not finite took no part."]
    for kind, picks in _picks(draws, labels, num_pairs, np.random.default_rng(seed)):
        if not len(picks):
            notes.append(_MISSING[kind])
            continue
        first, second = (draws.take(picks[:, side]) for side in (0, 1))
        if kind == "between chains":
            found.append(Pairs(f"{kind}, raw", first, second))
        if symmetries is not None:
            second, failure = _relabel(draws, symmetries, picks)
            found.append(Pairs(f"{kind}, aligned", first, second))
            notes += [failure] if failure and failure not in notes else []
    return found, (*notes, *([_NO_SYMMETRIES] if symmetries is None else []))


@dataclass(frozen=True)
class _Draws:
    """The sampled sites of all draws, ``(chain, draw, ...)``, and which draws are finite."""

    weights: Arrays
    finite: Bool[np.ndarray, "chain draw"]
    precisions: Arrays

    @classmethod
    def of(cls, tree: xr.DataTree, posterior: Posterior) -> _Draws:
        check_tree(tree)
        dataset = tree["posterior"].to_dataset()
        weights = {site: dataset[site].transpose("chain", "draw", ...).values for site in latent_sites(dataset)}
        shapes = {site: array.shape[2:] for site, array in weights.items()}
        if posterior.sites != shapes:
            raise ValueError(
                f"the posterior of the tree's draws was expected, with the sites {shapes}; "
                f"got one with {posterior.sites}"
            )
        finite = [np.isfinite(array).reshape(*array.shape[:2], -1).all(-1) for array in weights.values()]
        stored = tree["precision"].data_vars if "precision" in tree.children else {}
        # One precision for all draws has a leading chain and draw too, of length one.
        precisions = {
            str(site): array.values if "draw" in array.dims else array.values[None, None]
            for site, array in stored.items()
        }
        return cls(weights, np.logical_and.reduce(finite), precisions)

    def take(self, rows: Int[np.ndarray, " pair"]) -> dict[str, np.ndarray]:
        """The weights of some draws, counted through all chains."""
        return {site: array.reshape(-1, *array.shape[2:])[rows] for site, array in self.weights.items()}

    def balanced(self, scales: SymmetryGroup, rows: Int[np.ndarray, " pair"]) -> dict[str, np.ndarray]:
        """The same draws at the points of least prior mass on their orbits."""
        weights = self.take(rows)
        flat = {site: array.reshape(-1, *array.shape[2:]) for site, array in self.precisions.items()}
        precisions = {site: array[rows] if len(array) > 1 else array for site, array in flat.items()}
        moved = scales.act(balance(weights, scales, precisions), weights)
        return {site: np.asarray(array) for site, array in moved.items()}


def _relabel(draws: _Draws, symmetries: Symmetries, picks: Picks) -> tuple[dict[str, np.ndarray], str]:
    """The second draw of every pair, relabelled to be near the first, and why scales were left alone if they were."""
    group = (symmetries.posterior or symmetries.likelihood).restrict(ISOMETRIES)
    scales = symmetries.likelihood.monomial().restrict(("scale",))
    first, second = (draws.take(picks[:, side]) for side in (0, 1))
    if not group.factors:
        return second, ""
    seen, failure = (first, second), ""
    if scales.factors:
        try:
            seen = (draws.balanced(scales, picks[:, 0]), draws.balanced(scales, picks[:, 1]))
        except ValueError as error:
            failure = f"Draws were aligned at the scales that they have: {str(error).rstrip('.')}."
    element = align_to(seen[1], group, seen[0])
    return {site: np.asarray(array) for site, array in group.act(element, second).items()}, failure


def _picks(
    draws: _Draws, labels: Int[np.ndarray, "chain draw"] | None, num_pairs: int, rng: np.random.Generator
) -> Iterator[tuple[str, Picks]]:
    """Kind of pair and the numbers of its draws; every two chains, and every two modes, are equally likely."""
    chain, draw = np.indices(draws.finite.shape)
    is_late = (draw >= draws.finite.shape[1] // 2).reshape(-1)
    for one, many, numbers in (("a chain", "chains", chain), ("a mode", "modes", labels)):
        if numbers is None:
            continue
        number = np.where(draws.finite, numbers, -1).reshape(-1)
        pools = [np.flatnonzero(number == k) for k in np.unique(number[number >= 0])]
        halves = [(pool[~is_late[pool]], pool[is_late[pool]]) for pool in pools]
        both = [pair for pair in halves if len(pair[0]) and len(pair[1])]
        across = [rng.choice(len(pools), 2, replace=False) for _ in range(num_pairs) if len(pools) > 1]
        yield f"between {many}", _draw_from(rng, [(pools[i], pools[j]) for i, j in across])
        within = [rng.integers(len(both)) for _ in range(num_pairs) if both]
        yield f"within {one}", _draw_from(rng, [both[i] for i in within])


def _draw_from(rng: np.random.Generator, pools: list[tuple[np.ndarray, np.ndarray]]) -> Picks:
    """One draw out of each of two pools, for each pair of pools."""
    return np.array([[rng.choice(pool) for pool in pair] for pair in pools], int).reshape(-1, 2)
