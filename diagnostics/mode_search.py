r"""The modes of a posterior: which are only symmetries, which are real, how heavy each is, and which may be missing.

Modes are looked for at three levels (`clustering.py`): in the raw weights, where every relabelled copy is a mode of its
own; in the canonical weights, where copies are one; and in the function. What is left in the canonical weights is real;
what is left in the function predicts differently as well.

Shares of draws are weights of modes where chains cross between them (`occupancy.py`). Where they do not, a share says
how many chains happened to start there, and the weights are those that predict best (`stacking.py`). What all chains
may have missed is estimated from the modes that only one has found (`unseen.py`).

Results are a group of the tree, ``modes``, for each level ``L`` of ``raw``, ``canonical`` and ``function``:

    L                     (chain, draw)   mode of each draw, from 0, the heaviest, on; -1 where the draw has no weights
                                          (thinned) or is not finite
    L_core                (chain, draw)   1 where all nearest neighbours of the draw are of its mode
    L_share               (L_mode)        share of all draws
    L_standard_error      (L_mode)        of the share as a weight; NaN where chains do not cross enough
    L_stacking            (L_mode)        stacking weight, and L_stacking_error; NaN where chains cross, or where there
                                          are no log likelihoods of single observations
    L_stability           (L_mode)        mean Jaccard similarity with the mode found again in half of the draws
    L_rhat, L_ess         (L_mode)        the largest R-hat and the smallest bulk ESS within the mode
    L_log_likelihood      (L_mode)        mean log likelihood
    L_representative      (L_mode, place) chain and draw nearest to the mode's mean
    L_visited             (L_mode, chain) 1 where the chain reached the core of the mode
    L_transitions         (L_mode, L_mode__to)  moves between modes, all chains together
    L_round_trips         (chain)         returns to the mode that the chain began in

and, where labels were removed, ``label_switching`` (chain): the share of steps from one draw to the next at which the
permutation or a sign changes, with the attribute ``copies``, the number of different labellings that were seen. Where
there are canonical weights, the modes of the raw ones are counted only: nothing within them is measured.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import xarray as xr
from jaxtyping import Bool, Float, Int

from .between import standardise, varying
from .clustering import find_clusters, stability
from .datatree import symmetries_of
from .estimates import MIN_DRAWS, estimate
from .levels import Quantities, check_tree, finite_chains, levels
from .occupancy import occupancy
from .quotient import canonicalize
from .stacking import stack_modes

GROUP = "modes"
LEVELS = ("raw", "canonical", "function")
_MAX_DIMENSIONS = 512  # larger levels are projected at random, which keeps distances to some per cent
_CHUNK = 512
_MAX_MEASURED = 500  # quantities whose R-hat and ESS within a mode are measured, evenly spaced
_LARGEST_PATH = 1000  # draws of a mode that stacking looks at


def identify_modes(tree: xr.DataTree, *, seed: int = 0) -> xr.DataTree:
    """Find the modes at every level, and add them as the group ``modes`` (see the module's documentation).

    Args:
        tree: As `canonicalize` returns it; a tree with symmetries that is not canonical yet is made so.
        seed: Of random projections, halves of draws and bootstraps; the same draws give the same answer.

    Returns:
        A new tree.

    Raises:
        ValueError: If it is no tree of draws, no chain is finite, or a chain has fewer than four draws.
    """
    check_tree(tree)
    if "symmetries" in tree.attrs and "canonical_posterior" not in tree.children:
        tree = canonicalize(tree)
    finite = finite_chains(tree)
    if not finite.any():
        raise ValueError("chains of finite draws were expected, but every chain has draws that are not finite")
    if tree["posterior"].sizes["draw"] < MIN_DRAWS:
        raise ValueError(
            f"modes are looked for among {MIN_DRAWS} draws a chain or more, got {tree['posterior'].sizes['draw']}; "
            "sample longer"
        )
    found = dict(levels(tree))
    draws = _draws_of(tree, "function" if "function" in found else "raw")
    variables: dict[str, tuple[tuple[str, ...], np.ndarray]] = {}
    for level in (name for name in LEVELS if name in found):
        finder = _Finder(tree, level, found[level], finite, seed)
        variables |= {f"{level}{name}": value for name, value in finder.variables(draws).items()}
    attributes = {}
    switching = _label_switching(tree)
    if switching is not None:
        rate, attributes["copies"] = switching
        variables["label_switching"] = ("chain",), rate
    coordinates = {"chain": tree["posterior"].coords["chain"].values, "draw": draws, "place": ["chain", "draw"]}
    result = tree.copy()
    result[GROUP] = xr.DataTree(xr.Dataset(variables, coordinates, attributes))
    return result


@dataclass(frozen=True)
class _Finder:
    """The modes of one level of a tree."""

    tree: xr.DataTree
    level: str
    quantities: Quantities
    finite: Bool[np.ndarray, " chain"]
    seed: int

    def variables(self, draws: np.ndarray) -> dict[str, tuple[tuple[str, ...], np.ndarray]]:
        """Everything that the group says about the level."""
        values = self.quantities.values[self.finite]
        points = _points(values, self.seed)
        clusters = find_clusters(points)
        shape = values.shape[:2]
        labels, is_core = clusters.labels.reshape(shape), clusters.is_core.reshape(shape)
        seen = occupancy(labels, is_core)
        mode = f"{self.level}_mode"
        here = np.searchsorted(draws, _draws_of(self.tree, self.level))
        result = {
            "": (("chain", "draw"), self._everywhere(labels, here, len(draws), -1)),
            "_core": (("chain", "draw"), self._everywhere(is_core.astype(int), here, len(draws), 0)),
            "_share": ((mode,), seen.shares.mean(1)),
            "_standard_error": ((mode,), seen.standard_errors),
            "_visited": ((mode, "chain"), self._of_chains(seen.visited.astype(int))),
            "_transitions": ((mode, f"{mode}__to"), seen.transitions),
            "_round_trips": (("chain",), self._of_chains(seen.round_trips)),
        }
        if self.level == "raw" and "canonical_posterior" in self.tree.children:
            return result
        stacked = self._stacking(labels) if not seen.crosses else None
        unknown = np.full(clusters.number, np.nan)
        rhat, ess = np.array([_within(values, labels == k) for k in range(clusters.number)]).T
        more = {
            "_stacking": unknown if stacked is None else stacked[0],
            "_stacking_error": unknown if stacked is None else stacked[1],
            "_stability": stability(points, clusters.labels, seed=self.seed),
            "_rhat": rhat,
            "_ess": ess,
            "_log_likelihood": self._log_likelihood(labels),
        }
        place = (mode, "place"), self._representatives(points, clusters.labels, shape[1])
        return result | {name: ((mode,), value) for name, value in more.items()} | {"_representative": place}

    def _everywhere(self, values: np.ndarray, here: np.ndarray, num_draws: int, missing: int) -> np.ndarray:
        """Values of the draws of finite chains, for all draws of all chains."""
        result = np.full((len(self.finite), num_draws), missing, np.int32)
        result[np.ix_(np.flatnonzero(self.finite), here)] = values
        return result

    def _of_chains(self, values: Int[np.ndarray, "*mode chain"]) -> Int[np.ndarray, "*mode every_chain"]:
        result = np.zeros((*values.shape[:-1], len(self.finite)), np.int32)
        result[..., self.finite] = values
        return result

    def _at_draws(self, group: str) -> Iterator[np.ndarray]:
        """The variables of a group at this level's draws in finite chains."""
        if group in self.tree.children:
            here = self.tree[group].to_dataset().sel(draw=_draws_of(self.tree, self.level))
            for array in here.data_vars.values():
                yield array.transpose("chain", "draw", ...).values[self.finite]

    def _stacking(self, labels: Int[np.ndarray, "chain draw"]) -> tuple[np.ndarray, np.ndarray] | None:
        terms = [array.reshape(*labels.shape, -1) for array in self._at_draws("log_likelihood")]
        if not terms:
            return None
        thin = max(1, labels.size // (_LARGEST_PATH * (int(labels.max()) + 1)))
        kept = np.concatenate(terms, axis=2)[:, ::thin], labels[:, ::thin]
        found = stack_modes(*kept, seed=self.seed)
        return found.weights, found.standard_errors

    def _log_likelihood(self, labels: Int[np.ndarray, "chain draw"]) -> Float[np.ndarray, " mode"]:
        names = self.tree["invariants"].data_vars if "invariants" in self.tree.children else ()
        number = int(labels.max()) + 1
        if "log_likelihood" not in names:
            return np.full(number, np.nan)
        values = dict(zip(names, self._at_draws("invariants"), strict=True))["log_likelihood"]
        return np.array([values[labels == mode].mean(dtype=float) for mode in range(number)])

    def _representatives(
        self, points: Float[np.ndarray, "draw quantity"], labels: Int[np.ndarray, " draw"], num_draws: int
    ) -> Int[np.ndarray, "mode place"]:
        """Chain and draw, as the tree counts them, of the draw nearest to each mode's mean."""
        chains = self.tree["posterior"].coords["chain"].values[self.finite]
        draws = _draws_of(self.tree, self.level)
        places = []
        for mode in range(int(labels.max()) + 1):
            members = np.flatnonzero(labels == mode)
            distance = ((points[members] - points[members].mean(0)) ** 2).sum(1)
            chain, draw = divmod(int(members[distance.argmin()]), num_draws)
            places.append([int(chains[chain]), int(draws[draw])])
        return np.array(places)


def _draws_of(tree: xr.DataTree, level: str) -> np.ndarray:
    return tree["function" if level == "function" else "posterior"].coords["draw"].values


def _points(values: Float[np.ndarray, "chain draw quantity"], seed: int) -> Float[np.ndarray, "point dimension"]:
    """Draws in units of each quantity's spread; many quantities projected at random (Johnson and Lindenstrauss)."""
    if values.shape[2] <= _MAX_DIMENSIONS:
        return standardise(values).reshape(values.shape[0] * values.shape[1], -1)
    rng = np.random.default_rng(seed)
    points = np.zeros((values.shape[0] * values.shape[1], _MAX_DIMENSIONS))
    for begin in range(0, values.shape[2], _CHUNK):
        piece = standardise(values[:, :, begin : begin + _CHUNK])
        points += piece.reshape(len(points), -1) @ rng.normal(size=(piece.shape[2], _MAX_DIMENSIONS))
    return points / np.sqrt(_MAX_DIMENSIONS)


def _within(
    values: Float[np.ndarray, "chain draw quantity"], is_in: Bool[np.ndarray, "chain draw"]
) -> tuple[float, float]:
    """The largest R-hat and the smallest bulk ESS in one mode, of the chains that were there about equally long."""
    counts = is_in.sum(1)
    chains = np.flatnonzero(counts >= max(MIN_DRAWS, counts.max() / 2))
    if not len(chains):
        return float("nan"), float("nan")
    shortest = int(counts[chains].min())
    chosen = np.linspace(0, values.shape[2] - 1, min(values.shape[2], _MAX_MEASURED)).astype(int)
    part = np.stack([values[chain][is_in[chain]][:shortest][:, chosen] for chain in chains])
    part = part[:, :, varying(part)]
    if part.shape[2] == 0:
        return float("nan"), float("nan")
    found = estimate(part)
    return float(found.rhat.max()), float(found.ess_bulk.min())


def _label_switching(tree: xr.DataTree) -> tuple[Float[np.ndarray, " chain"], int] | None:
    """How often the labelling changes from one draw to the next, and how many labellings were seen."""
    symmetries = symmetries_of(tree)
    if symmetries is None:
        return None
    group = symmetries.posterior or symmetries.likelihood
    stored = tree["canonicalization"].to_dataset()
    names = [f.name for f in group.factors if f.kind in ("permutation", "sign") and f.name in stored.data_vars]
    if not names:
        return None
    arrays = [stored[name].transpose("chain", "draw", ...).values for name in names]
    labels = np.concatenate([array.reshape(*array.shape[:2], -1) for array in arrays], axis=2)
    changes = (labels[:, 1:] != labels[:, :-1]).any(2).mean(1)
    return changes, len(np.unique(labels.reshape(-1, labels.shape[2]), axis=0))
