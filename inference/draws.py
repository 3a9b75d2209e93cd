"""What a run comes out as: one kind of result for every kernel."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from .kernel import Kernel

Block = dict[str, dict[str, np.ndarray]]
"""Arrays (chain, draw, ...) by group and name; a warm-up block has the group `sample_stats` alone."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Draws:
    """The kept draws of all chains, and what was computed with them.

    Attributes:
        posterior: what was sampled; None where a run was read back from its folder.
        kernel: what sampled it; None where a run was read back (the manifest has its settings).
        weights: constrained values (chain, draw, ...) by site.
        sample_stats: statistics (chain, draw) under ArviZ's names.
        invariants: `log_prior` of the weights, without Jacobians, and `log_likelihood`; (chain, draw).
        function: the function level (chain, draw, ...); None where it would be too large to keep.
        pointwise: log likelihood (chain, draw, ...) of each observation by observed site; None where too large.
        deterministic: values (chain, draw, ...) of the deterministic sites; empty where too large.
        probes: where the function was evaluated: arrays, the name of a site, or None for the posterior's own choice.
        seconds: wall time of `compile`, `warmup` and `sampling`; the chains' shares where phases overlap.
        interrupted: whether the run ended before all draws were made; the draws are those that all chains have.

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

    def __repr__(self) -> str:
        cut = ", interrupted" if self.interrupted else ""
        return f"Draws({self.num_chains} chains x {self.num_draws} draws of {len(self.weights)} sites{cut})"


def join_blocks(groups: list[list[Block]]) -> Block:
    """One block of all chains: each group's blocks behind one another, the groups side by side.

    Args:
        groups: the kept blocks of each group of chains, in order; at least one each.

    Returns:
        The block, cut to the draws that all groups have.
    """
    chains = [_concatenate(blocks, axis=1) for blocks in groups]
    num_draws = min(next(iter(block["sample_stats"].values())).shape[1] for block in chains)
    return _concatenate([_map(lambda x: x[:, :num_draws], block) for block in chains], axis=0)


def draws_from_block(block: Block, **fields: Any) -> Draws:
    """The result of a run.

    Args:
        block: the kept draws of all chains, as `join_blocks` gives them.
        fields: the fields of `Draws` that are no arrays of the block.

    Returns:
        The draws.
    """
    num_chains, num_draws = next(iter(block["sample_stats"].values())).shape
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


def _concatenate(blocks: list[Block], axis: int) -> Block:
    return {
        group: {name: np.concatenate([block[group][name] for block in blocks], axis) for name in arrays}
        for group, arrays in blocks[0].items()
    }


def _map(function: Any, block: Block) -> Block:
    return {group: {name: function(x) for name, x in arrays.items()} for group, arrays in block.items()}
