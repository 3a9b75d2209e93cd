r"""R-hat, effective sample size and Monte Carlo error at weight, canonical, function and invariant level.

With thousands of quantities some R-hat exceeds any fixed bound by chance alone. For ``M`` perfectly mixed chains of
``n`` draws and autocorrelation time ``tau`` the ``2 M`` half chains have ``n / (2 tau)`` effective draws each, so

    split R-hat^2  ~  1 - 2/n + chi^2_{2M-1} / (2M - 1) / (n / (2 tau)),

and the table says which share of the quantities lies above the 99 % point of that law. ArviZ's R-hat is the larger of
two (bulk and folded), hence each is held to the 99.5 % point. The autocorrelation time is the one *within* chains:
ArviZ's effective sample size also falls when chains disagree and would excuse the very disagreement that R-hat is to
show.

References:
    A. Vehtari, A. Gelman, D. Simpson, B. Carpenter, P.-C. Buerkner (2021), Rank-normalization, folding, and
    localization: an improved R-hat for assessing convergence of MCMC, Bayesian Analysis 16.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import xarray as xr
from jaxtyping import Float, Int
from scipy import stats

from .between import varying
from .estimates import MIN_DRAWS, Estimates, estimate
from .levels import TITLES, Quantities, check_tree, count_draws, finite_chains, levels, restrict_chains
from .nested import chainwise_rhat, check_superchains, nested_rhat
from .record import Record

MAX_QUANTITIES = 20_000  # measured a level; 4 x 1000 draws of one take 0.7 to 1 ms of a core
_MAX_SAMPLE = 500  # whose chain-wise and nested R-hat are looked at
CHANCE = 0.01  # how often perfectly mixed chains exceed the level
RHAT_MAX = 1.01  # Vehtari et al. 2021; smaller excesses do no harm however certain they are


class _Estimated(NamedTuple):
    """Estimates and standard deviations of quantities, and the draws of an evenly spaced sample of them."""

    estimates: Estimates
    sd: Float[np.ndarray, " quantity"]
    sample: Float[np.ndarray, "chain draw sampled"]


@dataclass(frozen=True)
class Row(Record):
    """Convergence of all quantities of one level.

    ``rhat_above`` is the share above what perfectly mixed chains exceed in 1 % of the quantities; ``rhat_beyond``
    counts the quantities above both 1.01 and what the largest of them all would exceed in 1 % of the runs.
    ``rhat_chainwise`` is the chain-wise split R-hat (`nested.py`) of the median quantity in the worst chain,
    ``rhat_nested`` the largest nested R-hat, None without superchains.
    """

    level: str
    num_quantities: int
    num_measured: int
    num_constant: int
    rhat_median: float
    rhat_q95: float
    rhat_max: float
    rhat_above: float
    rhat_beyond: int
    worst: str
    ess_bulk_min: float
    ess_bulk_median: float
    ess_tail_min: float
    ess_tail_median: float
    mcse_over_sd: float
    rhat_chainwise: float
    rhat_nested: float | None


@dataclass(frozen=True)
class Convergence(Record):
    """R-hat, ESS and MCSE side by side at every level; ``print`` it."""

    num_chains: int
    num_draws: int
    rows: tuple[Row, ...]
    left_out: tuple[int, ...]

    def row(self, level: str) -> Row | None:
        """The row of a level (``raw``, ``canonical``, ``function``, ``invariants``), if the tree holds it."""
        return next((row for row in self.rows if row.level == level), None)

    def __str__(self) -> str:
        head = f"{self.num_chains} chains x {self.num_draws} draws"
        if self.left_out:
            head += f"; left out because they hold values that are not finite: {_chains(self.left_out)}"
        lines = [
            head,
            f"{'':18}{'':>8}  {'R-hat':^34}  {'ESS bulk':^15}  {'ESS tail':^15}  {'MCSE':>6}",
            f"{'':18}{'number':>8}  {'median':>7} {'95 %':>7} {'max':>7} {'>chance':>9}  "
            f"{'min':>7} {'median':>7}  {'min':>7} {'median':>7}  {'/ sd':>6}",
        ]
        lines += [_line(row) for row in self.rows]
        lines += [
            "'>chance': share of the quantities with an R-hat that perfectly mixed chains of the same autocorrelation "
            "exceed in 1 %.",
            "'MCSE / sd': Monte Carlo error of the mean, in posterior standard deviations. 'ESS tail': at the 5 % and "
            "95 % quantiles.",
            f"Each chain by itself (chain-wise split R-hat, median quantity): {self._each('chainwise')}.",
        ]
        if any(row.rhat_nested is not None for row in self.rows):
            lines.append(f"Between superchains (largest nested R-hat): {self._each('nested')}.")
        lines += [
            f"{TITLES[row.level]}: measured on {row.num_measured} of {row.num_quantities - row.num_constant} varying "
            "quantities, evenly spaced."
            for row in self.rows
            if row.num_measured < row.num_quantities - row.num_constant
        ]
        return "\n".join(lines)

    def _each(self, name: str) -> str:
        """One kind of R-hat at every level."""
        found = ((TITLES[row.level], getattr(row, f"rhat_{name}")) for row in self.rows)
        return ", ".join(f"{title} {rhat:.3f}" for title, rhat in found if rhat is not None)


def convergence(
    tree: xr.DataTree, *, max_quantities: int | None = MAX_QUANTITIES, superchains: Sequence[int] | None = None
) -> Convergence:
    """R-hat, ESS and MCSE of raw weights, canonical weights, function and invariants.

    Args:
        tree: As `to_datatree` or `canonicalize` returns it; draws of a tree opened lazily (`load`) are read in pieces.
        max_quantities: Quantities measured a level, evenly spaced; None: all, in minutes where there are a million.
        superchains: For each chain the number of the point that it was started from, if several chains were started
            from each; adds nested R-hat.

    Returns:
        The table. Chains with values that are not finite are left out and named; numbers that need two chains of four
        draws are NaN where there are fewer.

    Raises:
        ValueError: If it is no tree of draws, or the superchains of the finite chains are not two of equally many.
    """
    check_tree(tree)
    finite = finite_chains(tree)
    if superchains is not None:
        superchains = check_superchains(superchains, len(finite))[finite].tolist()
    rows = tuple(
        measure(level, restrict_chains(quantities, finite), max_quantities, superchains)
        for level, quantities in levels(tree)
    )
    return Convergence(int(finite.sum()), count_draws(tree), rows, tuple(int(c) for c in np.flatnonzero(~finite)))


def chance_rhat(
    tau: Float[np.ndarray, " quantity"], num_chains: int, num_draws: int, chance: float = CHANCE
) -> Float[np.ndarray, " quantity"]:
    """The R-hat that perfectly mixed chains exceed with probability ``chance``.

    Args:
        tau: Autocorrelation time within chains, in draws.
        num_chains: Chains, before they are split.
        num_draws: Draws a chain.
        chance: Probability of a larger value in one quantity.

    Example:
        >>> chance_rhat(np.array([1.0, 10.0]), num_chains=4, num_draws=1000).round(3)
        array([1.002, 1.028])
    """
    half, freedom = num_draws // 2, 2 * num_chains - 1
    quantile = stats.chi2.ppf(1.0 - chance / 2, freedom) / freedom
    return np.sqrt(1.0 - 1.0 / half + quantile * tau / half)


def measure(
    level: str,
    quantities: Quantities,
    max_quantities: int | None = MAX_QUANTITIES,
    superchains: Sequence[int] | None = None,
) -> Row:
    """Convergence of given quantities.

    Args:
        level: What to call them.
        quantities: Their draws, of finite chains.
        max_quantities: How many are measured, evenly spaced; None: all.
        superchains: Number of each chain's superchain, if there are any.
    """
    num_chains, num_draws, num_quantities = quantities.sizes
    enough = num_chains >= 2 and num_draws >= MIN_DRAWS
    moving = _moving(quantities) if enough else np.arange(0)
    num_measured = len(moving) if max_quantities is None else min(len(moving), max_quantities)
    chosen = moving[np.linspace(0, len(moving) - 1, num_measured).astype(int)]
    if num_measured == 0:
        nan = float("nan")
        constant = num_quantities if enough else 0
        return Row(level, num_quantities, 0, constant, nan, nan, nan, nan, 0, "", nan, nan, nan, nan, nan, nan, None)
    found, sd, sample = _estimate_chosen(quantities, chosen)
    rhat = found.rhat
    largest = chance_rhat(found.tau, num_chains, num_draws, CHANCE / len(rhat))
    return Row(
        level=level,
        num_quantities=num_quantities,
        num_measured=len(rhat),
        num_constant=num_quantities - len(moving),
        rhat_median=float(np.median(rhat)),
        rhat_q95=float(np.quantile(rhat, 0.95)),
        rhat_max=float(rhat.max()),
        rhat_above=float(np.mean(rhat > chance_rhat(found.tau, num_chains, num_draws))),
        rhat_beyond=int(np.sum(rhat > np.maximum(largest, RHAT_MAX))),
        worst=quantities.label(int(chosen[rhat.argmax()])),
        ess_bulk_min=float(found.ess_bulk.min()),
        ess_bulk_median=float(np.median(found.ess_bulk)),
        ess_tail_min=float(found.ess_tail.min()),
        ess_tail_median=float(np.median(found.ess_tail)),
        mcse_over_sd=float(np.median(found.mcse_mean / sd)),
        rhat_chainwise=float(np.median(chainwise_rhat(sample), axis=1).max()),
        rhat_nested=None if superchains is None else float(nested_rhat(sample, superchains).max()),
    )


def _moving(quantities: Quantities) -> Int[np.ndarray, " varying"]:
    """Which quantities vary."""
    return np.flatnonzero(np.concatenate([varying(piece) for piece in quantities.pieces()]))


def _chosen_pieces(
    quantities: Quantities, chosen: Int[np.ndarray, " quantity"]
) -> Iterator[Float[np.ndarray, "chain draw quantity"]]:
    """Draws of some quantities, given in ascending order, without holding all."""
    begin = 0
    for piece in quantities.pieces():
        first, last = np.searchsorted(chosen, [begin, begin + piece.shape[2]])
        if first < last:
            yield piece if last - first == piece.shape[2] else piece[:, :, chosen[first:last] - begin]
        begin += piece.shape[2]


def _estimate_chosen(quantities: Quantities, chosen: Int[np.ndarray, " quantity"]) -> _Estimated:
    """Everything that is estimated of some quantities, in one pass over their draws."""
    stride = math.ceil(len(chosen) / _MAX_SAMPLE)
    estimates, deviations, samples, begin = [], [], [], 0
    for piece in _chosen_pieces(quantities, chosen):
        estimates.append(estimate(piece))
        deviations.append(piece.std((0, 1), dtype=float))
        samples.append(piece[:, :, -begin % stride :: stride])
        begin += piece.shape[2]
    found = Estimates(*(np.concatenate(parts) for parts in zip(*estimates, strict=True)))
    return _Estimated(found, np.concatenate(deviations), np.concatenate(samples, axis=2))


def _line(row: Row) -> str:
    share = f"{100 * row.rhat_above:7.1f} %" if np.isfinite(row.rhat_above) else f"{'-':>9}"
    return (
        f"{TITLES[row.level]:18}{row.num_quantities:8d}  "
        f"{row.rhat_median:7.3f} {row.rhat_q95:7.3f} {row.rhat_max:7.3f} {share}  "
        f"{row.ess_bulk_min:7.0f} {row.ess_bulk_median:7.0f}  {row.ess_tail_min:7.0f} {row.ess_tail_median:7.0f}  "
        f"{row.mcse_over_sd:6.3f}"
    )


def _chains(chains: tuple[int, ...]) -> str:
    return ("chain " if len(chains) == 1 else "chains ") + ", ".join(str(chain) for chain in chains)
