"""What a run comes out as: one kind of result for every kernel."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from .kernel import Kernel

Block = dict[str, dict[str, np.ndarray]]
"""Arrays (chain, draw, ...) by group and name; a warm-up block has the group `sample_stats` alone."""

THINNED = ("weights", "deterministic")
"""The groups of which every `thin`-th draw is kept."""


@dataclass(frozen=True, kw_only=True)
class Keep:
    """What is kept of the draws; None decides by size.

    Log densities, statistics of the sampler and the log prior and log likelihood are always kept. Weights of which all
    draws would take more than 2 GiB are thinned to 256 MiB; their mean, standard deviation and split R-hat over all
    draws are then in `Draws.moments`. Each other group is kept up to 512 MiB.

    Args:
        thin: keep the weights of every so-many-th draw; 1 keeps all.
        function: whether to keep the function level.
        pointwise: whether to keep the log likelihood of each observation.
        deterministic: whether to keep the deterministic sites.

    Raises:
        ValueError: `thin` is below one.

    Example:
        >>> Keep(thin=10, pointwise=False)
        Keep(thin=10, function=None, pointwise=False, deterministic=None)
    """

    thin: int | None = None
    function: bool | None = None
    pointwise: bool | None = None
    deterministic: bool | None = None

    def __post_init__(self) -> None:
        if self.thin is not None and self.thin < 1:
            raise ValueError(f"thin must be at least 1, which keeps the weights of every draw; got {self.thin}.")


@dataclass(frozen=True, kw_only=True, eq=False)
class Draws:
    """The kept draws of all chains, and what was computed with them.

    Attributes:
        posterior: what was sampled; None where a run was read back from its folder.
        kernel: what sampled it; None where a run was read back (the manifest has its settings).
        weights: constrained values (chain, draw, ...) by site, of every `thin`-th draw.
        sample_stats: statistics (chain, draw) under ArviZ's names.
        invariants: `log_prior` of the weights, without Jacobians, and `log_likelihood`; (chain, draw).
        function: the function level (chain, draw, ...); None where it would be too large to keep.
        pointwise: log likelihood (chain, draw, ...) of each observation by observed site; None where too large.
        deterministic: values (chain, draw, ...) of the deterministic sites, thinned as the weights; empty where too
            large.
        probes: where the function was evaluated: arrays, the name of a site, or None for the posterior's own choice.
        seconds: wall time of `compile`, `warmup` and `sampling`; the chains' shares where phases overlap.
        interrupted: whether the run ended before all draws were made; the draws are those that all chains have.
        thin: the weights are those of the draws 0, `thin`, 2 `thin`, ...
        moments: `mean`, `sd` and split `rhat` of the weights over all draws, by site, where they are thinned.

    Example:
        >>> import numpy as np
        >>> empty = dict(posterior=None, kernel=None, sample_stats={}, invariants={}, function=None, pointwise=None)
        >>> Draws(weights={}, **empty, probes=None, seconds={}, interrupted=False, num_chains=4, num_draws=0)
        Draws(4 chains x 0 draws of 0 sites)
    """

    posterior: Any
    kernel: Kernel | None
    weights: dict[str, np.ndarray]
    sample_stats: dict[str, np.ndarray]
    invariants: dict[str, np.ndarray]
    function: np.ndarray | None
    pointwise: dict[str, np.ndarray] | None
    probes: Any
    seconds: dict[str, float]
    num_chains: int
    num_draws: int
    interrupted: bool
    deterministic: dict[str, np.ndarray] = field(default_factory=dict)
    thin: int = 1
    moments: dict[str, dict[str, np.ndarray]] = field(default_factory=dict)

    def __repr__(self) -> str:
        thinned = f", weights of every {self.thin}th" if self.thin > 1 else ""
        cut = ", interrupted" if self.interrupted else ""
        return f"Draws({self.num_chains} chains x {self.num_draws} draws of {len(self.weights)} sites{thinned}{cut})"


def num_rows(block: Block) -> int:
    """How many steps a block has."""
    return next(iter(block["sample_stats"].values())).shape[1]


def thinned(block: Block, first: int, thin: int) -> Block:
    """A block of kept draws without the weights of those in between.

    Args:
        block: all of its draws.
        first: number of its first draw.
        thin: the draws 0, `thin`, 2 `thin`, ... keep their weights.

    Returns:
        The block.

    Example:
        >>> block = {"weights": {"w": np.arange(8).reshape(1, 8)}}
        >>> thinned(block, first=5, thin=3)
        {'weights': {'w': array([[1, 4, 7]])}}
    """
    if thin == 1:
        return block
    rows = slice(-first % thin, None, thin)
    # Copied: a view would keep all rows alive.
    less = {group: {name: x[:, rows].copy() for name, x in block[group].items()} for group in THINNED if group in block}
    return block | less


def join_blocks(groups: list[list[Block]], thin: int = 1) -> Block:
    """One block of all chains: each group's blocks behind one another, the groups side by side.

    The blocks are emptied while the result is filled, so that the draws are never in memory twice.

    Args:
        groups: the kept blocks of each group of chains, in order; at least one each. Emptied.
        thin: as they were thinned.

    Returns:
        The block, cut to the draws that all groups have.
    """
    num_draws = min(sum(map(num_rows, blocks)) for blocks in groups)
    names = {group: list(arrays) for group, arrays in groups[0][0].items()}
    return {
        group: {name: _join(groups, group, name, _kept(group, num_draws, thin)) for name in own}
        for group, own in names.items()
    }


def draws_from_block(block: Block, **fields: Any) -> Draws:
    """The result of a run.

    Args:
        block: the kept draws of all chains, as `join_blocks` gives them.
        fields: the fields of `Draws` that are no arrays of the block.

    Returns:
        The draws.
    """
    num_chains, num_draws = next(iter(block["sample_stats"].values())).shape[:2]
    return Draws(
        weights=block["weights"],
        sample_stats=block["sample_stats"],
        invariants=block["invariants"],
        function=block.get("function", {}).get("function"),
        pointwise=block.get("pointwise"),
        deterministic=block.get("deterministic", {}),
        num_chains=num_chains,
        num_draws=num_draws,
        **fields,
    )


def _kept(group: str, num_draws: int, thin: int) -> int:
    return -(-num_draws // thin) if group in THINNED else num_draws


def _join(groups: list[list[Block]], group: str, name: str, rows: int) -> np.ndarray:
    parts = [[block[group].pop(name) for block in blocks] for blocks in groups]
    first = parts[0][0]
    joined = np.empty((sum(part[0].shape[0] for part in parts), rows, *first.shape[2:]), first.dtype)
    begin = 0
    for part in parts:
        chains = slice(begin, begin + part[0].shape[0])
        _fill(joined[chains], part)
        begin = chains.stop
    return joined


def _fill(target: np.ndarray, parts: Iterable[np.ndarray]) -> None:
    begin = 0
    for part in parts:
        room = target[:, begin : begin + part.shape[1]]
        room[:] = part[:, : room.shape[1]]
        begin += room.shape[1]
