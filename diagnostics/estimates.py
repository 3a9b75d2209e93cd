r"""Rank-normalised split R-hat, bulk and tail ESS and Monte Carlo errors of many quantities at once.

The numbers are ArviZ's; what is saved is everything that ArviZ does once for each quantity and each statistic. A
quantity is sorted once: its median, its quantiles and the order of its folded values come from the sorted ones (a
stable sort merges the two ascending halves of a folded sample in linear time), and normal scores are looked up in a
table of the possible ranks.

References:
    A. Vehtari, A. Gelman, D. Simpson, B. Carpenter, P.-C. Buerkner (2021), Rank-normalization, folding, and
    localization: an improved R-hat for assessing convergence of MCMC, Bayesian Analysis 16.
    C. J. Geyer (1992), Practical Markov chain Monte Carlo, Statistical Science 7 (initial sequences).
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int
from scipy import special

from inference.executors import usable_cores

from .autocovariance import time_of_all, time_within

TAILS = (0.05, 0.95)
"""Probabilities of the quantiles that the tail ESS is of."""

MIN_DRAWS = 4
"""Fewer in a chain have no R-hat and no ESS."""

# Values sorted and transformed at a time: what fits the caches of a core is faster than what does not.
_CHUNK = 1 << 17

# Once glibc has freed a block of this size (16 MiB), it keeps smaller ones instead of mapping them afresh each time,
# page by page, which would cost a third of the time (mallopt(3), M_MMAP_THRESHOLD).
_MAPPED = 1 << 21


class Estimates(NamedTuple):
    """Of each quantity; NaN where there are too few draws, or chains for an R-hat, or where one is not finite.

    Attributes:
        rhat: the larger of the rank-normalised split R-hat and that of the folded draws.
        ess_bulk: effective sample size of the normal scores.
        ess_tail: the smaller effective sample size of the 5 % and the 95 % quantile.
        mcse_mean: Monte Carlo standard error of the mean, in the quantity's units.
        mcse_sd: that of the standard deviation.
        tau: autocorrelation time of the draws *within* chains, in draws: of the normal scores or of those of the folded
            draws, whichever is longer. ArviZ has no such number; its ESS also falls when chains disagree.
    """

    rhat: Float[np.ndarray, " quantity"]
    ess_bulk: Float[np.ndarray, " quantity"]
    ess_tail: Float[np.ndarray, " quantity"]
    mcse_mean: Float[np.ndarray, " quantity"]
    mcse_sd: Float[np.ndarray, " quantity"]
    tau: Float[np.ndarray, " quantity"]


def estimate(values: Float[np.ndarray, "chain draw quantity"]) -> Estimates:
    """R-hat, ESS and MCSE of every quantity, as ArviZ computes them in double precision.

    Args:
        values: Draws; read in pieces, so a memory-mapped array is never held as a whole.

    Returns:
        The estimates.

    Example:
        >>> draws = np.random.default_rng(0).normal(size=(4, 1000, 3))
        >>> estimate(draws).rhat.round(2)
        array([1., 1., 1.])
    """
    if values.shape[1] < MIN_DRAWS:
        return Estimates(*np.full((len(Estimates._fields), values.shape[2]), np.nan))
    found = Estimates(*_in_chunks(values, _estimate))
    return found if len(values) > 1 else found._replace(rhat=np.full(values.shape[2], np.nan))


def rhat(values: Float[np.ndarray, "chain draw quantity"]) -> Float[np.ndarray, " quantity"]:
    """The rank-normalised split R-hat alone, for a third of the work.

    Args:
        values: Draws.

    Returns:
        R-hat of each quantity; NaN where there are fewer than two chains of four draws.

    Example:
        >>> apart = np.random.default_rng(0).normal(size=(4, 1000, 1)) + np.arange(4)[:, None, None]
        >>> rhat(apart) > 1.5
        array([ True])
    """
    if len(values) < 2 or values.shape[1] < MIN_DRAWS:
        return np.full(values.shape[2], np.nan)
    return _in_chunks(values, _estimate_rhat)[0]


def split_scores(
    values: Float[np.ndarray, "chain draw quantity"],
) -> tuple[Float[np.ndarray, "quantity half step"], Float[np.ndarray, "quantity half step"]]:
    """Normal scores of split chains, all first halves before all second ones, and those of the folded draws."""
    ranked = _Sorted.of(_halves(np.ascontiguousarray(np.moveaxis(values, 2, 0), dtype=float)))
    return ranked.scores(), ranked.folded_scores()


def _estimate_rhat(piece: Float[np.ndarray, "quantity chain draw"]) -> tuple[np.ndarray]:
    ranked = _Sorted.of(_halves(piece))
    return (np.maximum(_rhat(ranked.scores()), _rhat(ranked.folded_scores())),)


class _Sorted(NamedTuple):
    """Split chains of some quantities, and their pooled order.

    Attributes:
        halves: (quantity, half chain, draw).
        order: which draw of all quantities is the n-th smallest of its own.
        ascending: the sorted draws.
    """

    halves: Float[np.ndarray, "quantity half step"]
    order: Int[np.ndarray, "quantity rank"]
    ascending: Float[np.ndarray, "quantity rank"]

    @classmethod
    def of(cls, halves: Float[np.ndarray, "quantity half step"]) -> _Sorted:
        return cls(halves, *_sort(halves.reshape(len(halves), -1)))

    def scores(self) -> Float[np.ndarray, "quantity half step"]:
        """Normal scores of the pooled ranks."""
        return self._dealt_out(_normal_scores(self.ascending), self.order)

    def folded_scores(self) -> Float[np.ndarray, "quantity half step"]:
        """Normal scores of the ranks of the distances from the median."""
        middle = self.ascending.shape[1] // 2  # the number of draws in halves is even
        # To the last bit NumPy's median: the two draws next to it are ties where it rounds so.
        median = 0.5 * (self.ascending[:, middle - 1] + self.ascending[:, middle])
        folded = np.abs(self.ascending - median[:, None])
        order = _flat(np.argsort(folded, axis=1, kind="stable"))
        return self._dealt_out(_normal_scores(folded.reshape(-1)[order]), self.order.reshape(-1)[order])

    def quantile(self, probability: float) -> Float[np.ndarray, " quantity"]:
        """Interpolated linearly between the two nearest draws."""
        position = probability * (self.ascending.shape[1] - 1)
        below = int(position)
        low, high = self.ascending[:, below], self.ascending[:, min(below + 1, self.ascending.shape[1] - 1)]
        return low + (position - below) * (high - low)

    def _dealt_out(self, values: np.ndarray, order: np.ndarray) -> Float[np.ndarray, "quantity half step"]:
        """The draws in the order in which they were made, from those in a sorted one."""
        dealt = np.empty_like(self.halves)
        dealt.reshape(-1)[order] = values
        return dealt


def _sort(
    values: Float[np.ndarray, "quantity draw"],
) -> tuple[Int[np.ndarray, "quantity draw"], Float[np.ndarray, "quantity draw"]]:
    """The order of each row and the sorted row: of integers that hold a number's leading bits and below them its place.

    This takes half the time of `np.argsort`. Rows with numbers that differ only in the bits which the places took, as
    draws in single precision never do, are sorted once more.
    """
    places = (1 << (values.shape[1] - 1).bit_length()) - 1
    bits = values.view(np.int64)
    # In the order of the numbers: of a negative one the bits below its sign are flipped.
    keys = bits ^ ((bits >> 63) & np.iinfo(np.int64).max)
    keys &= ~places
    keys |= np.arange(values.shape[1])
    keys.sort(axis=1)
    keys &= places
    order = _flat(keys)
    ascending = values.reshape(-1)[order]
    is_wrong = (ascending[:, 1:] < ascending[:, :-1]).any(1)
    if is_wrong.any():
        again = np.argsort(values[is_wrong], axis=1)
        order[is_wrong] = again + values.shape[1] * np.flatnonzero(is_wrong)[:, None]
        ascending[is_wrong] = np.take_along_axis(values[is_wrong], again, 1)
    return order, ascending


def _flat(order: Int[np.ndarray, "quantity rank"]) -> Int[np.ndarray, "quantity rank"]:
    """Indices into each row, as indices into all rows in a line."""
    order += np.arange(0, order.size, order.shape[1])[:, None]
    return order


def _estimate(piece: Float[np.ndarray, "quantity chain draw"]) -> tuple[np.ndarray, ...]:
    halves = _halves(piece)
    ranked = _Sorted.of(halves)
    scores, folded = ranked.scores(), ranked.folded_scores()
    # An odd draw in the middle is in no half, but it counts for the quantiles and for the spread.
    whole = ranked if halves.size == piece.size else _Sorted.of(piece)
    tail = [_ess((halves <= whole.quantile(p)[:, None, None]).astype(float)) for p in TAILS]
    squares = (piece - piece.mean((1, 2), keepdims=True)) ** 2
    variance, number = squares.mean((1, 2)), piece[0].size
    mean = np.sqrt(variance * number / (number - 1) / _ess(halves))
    sd = np.sqrt(((squares**2).mean((1, 2)) - variance**2) / (4 * variance * _ess(_halves(squares))))
    larger_rhat = np.maximum(_rhat(scores), _rhat(folded))
    tau = np.maximum(time_within(_rejoined(scores)), time_within(_rejoined(folded)))
    return larger_rhat, _ess(scores), np.minimum(*tail), mean, sd, tau


def _halves(piece: Float[np.ndarray, "quantity chain draw"]) -> Float[np.ndarray, "quantity half step"]:
    """Each chain's first and second half."""
    half = piece.shape[2] // 2
    return np.concatenate([piece[:, :, :half], piece[:, :, -half:]], axis=1)


def _rejoined(halves: Float[np.ndarray, "quantity half step"]) -> Float[np.ndarray, "quantity chain draw"]:
    """Whole chains, without an odd draw in the middle."""
    num_quantities, twice, length = halves.shape
    chains = halves.reshape(num_quantities, 2, twice // 2, length).swapaxes(1, 2)
    return chains.reshape(num_quantities, twice // 2, 2 * length)


def _normal_scores(ascending: Float[np.ndarray, "quantity rank"]) -> Float[np.ndarray, "quantity rank"]:
    """Normal quantiles of the average ranks of sorted draws, with Blom's offset."""
    number = ascending.shape[1]
    table = _normal_table(number)
    is_equal = np.zeros(ascending.shape, bool)
    np.equal(ascending[:, 1:], ascending[:, :-1], out=is_equal[:, :-1])
    equal = np.flatnonzero(is_equal)  # to the next one, which is of the same quantity
    scores = np.broadcast_to(table[::2], ascending.shape)
    if len(equal):
        scores = scores.copy()
        begins = np.flatnonzero(np.diff(equal, prepend=-2) != 1)
        first, last = equal[begins], equal[np.append(begins[1:], 0) - 1] + 1
        sizes = last - first + 1
        members = np.arange(sizes.sum()) + np.repeat(first - (np.cumsum(sizes) - sizes), sizes)
        scores.flat[members] = np.repeat(table[first % number + last % number], sizes)
    return scores


@functools.lru_cache(maxsize=4)
def _normal_table(number: int) -> Float[np.ndarray, " rank"]:
    """Normal scores of 1, 1.5, 2, ..., `number`: an average rank is half the first plus the last that draws share."""
    return special.ndtri((0.5 * np.arange(2 * number - 1) + 1 - 0.375) / (number + 0.25))


def _rhat(halves: Float[np.ndarray, "quantity half step"]) -> Float[np.ndarray, " quantity"]:
    """Vehtari et al. (2021), equations 1 to 4."""
    length = halves.shape[2]
    between = length * halves.mean(2).var(1, ddof=1)
    within = halves.var(2, ddof=1).mean(1)
    return np.sqrt((between / within + length - 1) / length)


def _ess(halves: Float[np.ndarray, "quantity half step"]) -> Float[np.ndarray, " quantity"]:
    """Vehtari et al. (2021), equations 10 and 11, with Geyer's initial monotone positive sequence."""
    number = halves[0].size
    is_constant = (halves == halves[:, :1, :1]).all((1, 2))
    tau = np.maximum(time_of_all(halves), 1 / np.log10(number))
    return np.where(is_constant, number, number / tau)


def _in_chunks(
    values: Float[np.ndarray, "chain draw quantity"], function: Callable[[np.ndarray], tuple[np.ndarray, ...]]
) -> tuple[Float[np.ndarray, " quantity"], ...]:
    """A function of some quantities, for all of them: on every core, so many at a time that they stay in its cache."""
    num_chains, num_draws, num_quantities = values.shape
    step = max(1, _CHUNK // max(1, num_chains * num_draws))

    def run(begin: int) -> tuple[np.ndarray, ...]:
        # First out of the whole array, where neighbouring draws are far apart, then turned over.
        some = np.ascontiguousarray(values[:, :, begin : begin + step])
        piece = np.ascontiguousarray(np.moveaxis(some, 2, 0), dtype=float)
        is_finite = np.isfinite(piece).all((1, 2))
        piece[~is_finite] = 0.0
        with np.errstate(invalid="ignore", divide="ignore"):  # constants
            return tuple(np.where(is_finite, found, np.nan) for found in function(piece))

    np.empty(_MAPPED)  # freed at once
    with ThreadPoolExecutor(usable_cores()) as pool:
        found = list(pool.map(run, range(0, num_quantities, step)))
    return tuple(np.concatenate(parts) for parts in zip(*found, strict=True))
