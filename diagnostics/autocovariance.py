r"""Autocovariances of many chains at once, and the sequences of lags that are summed.

The autocovariances $c_k = \frac1n \sum_t x_t x_{t+k}$ of a centred chain of length $n$ are the inverse transform of its
power spectrum. Padded with $L$ zeros the circular sums wrap no lag below $L$, and Geyer's initial sequences of chains
that mix end within a few dozen lags: all $n$ lags, for twice the work and more, are computed only where they do not.
Spectra are averaged over chains, so that one transform leads back.

References:
    C. J. Geyer (1992), Practical Markov chain Monte Carlo, Statistical Science 7 (initial sequences).
    A. Vehtari, A. Gelman, D. Simpson, B. Carpenter, P.-C. Buerkner (2021), Rank-normalization, folding, and
    localization: an improved R-hat for assessing convergence of MCMC, Bayesian Analysis 16.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

import numpy as np
from jaxtyping import Bool, Float
from scipy.fft import irfft, next_fast_len, rfft

FIRST_LAGS = 128
"""Lags that are computed of every quantity."""


def autocovariance(
    chains: Float[np.ndarray, "quantity chain step"], num_lags: int
) -> Float[np.ndarray, "quantity lag"]:
    """The first autocovariances, each chain about its own mean, averaged over the chains.

    Example:
        >>> autocovariance(np.array([[[1.0, -1.0, 1.0, -1.0]]]), num_lags=3)
        array([[ 1.  , -0.75,  0.5 ]])
    """
    num_quantities, num_chains, length = chains.shape
    num_points = cast(int, next_fast_len(length + num_lags, real=True))
    padded = np.zeros((num_quantities, num_chains, num_points))
    np.subtract(chains, chains.mean(2, keepdims=True), out=padded[:, :, :length])
    parts = np.asarray(rfft(padded)).view(float)  # real and imaginary ones in turn
    squares = np.einsum("qcp,qcp->qp", parts, parts)
    power = squares[:, 0::2] + squares[:, 1::2]
    return np.asarray(irfft(power, num_points))[:, :num_lags] / (num_chains * length)


def from_first_lags(
    chains: Float[np.ndarray, "quantity chain step"],
    estimate: Callable[[np.ndarray, int], tuple[Float[np.ndarray, " quantity"], Bool[np.ndarray, " quantity"]]],
) -> Float[np.ndarray, " quantity"]:
    """An estimate that sums a sequence of lags: from all lags only where the first ones do not hold the whole sequence.

    Args:
        chains: Draws.
        estimate: Of chains and a number of lags: its values, and where they would be the same with more lags.

    Returns:
        What it is with all lags.
    """
    length = chains.shape[2]
    found, has_ended = estimate(chains, min(FIRST_LAGS, length))
    if length > FIRST_LAGS and not has_ended.all():
        found[~has_ended], _ = estimate(chains[~has_ended], length)
    return found


def time_within(
    chains: Float[np.ndarray, "quantity chain step"], num_corrections: int = 2
) -> Float[np.ndarray, " quantity"]:
    """Integrated autocorrelation time within chains; `between.autocorrelation_time` says how."""
    length = chains.shape[2]

    def estimate(chains: np.ndarray, num_lags: int) -> tuple[np.ndarray, np.ndarray]:
        covariance = autocovariance(chains, num_lags)
        tau, has_ended = _monotone_sum(covariance, length)
        for _ in range(num_corrections):
            variance_of_mean = covariance[:, 0] * tau / np.maximum(length - tau, 1.0)
            tau, ends = _monotone_sum(covariance + variance_of_mean[:, None], length)
            has_ended &= ends
        return tau, has_ended

    return from_first_lags(chains, estimate)


def time_of_all(chains: Float[np.ndarray, "quantity chain step"]) -> Float[np.ndarray, " quantity"]:
    """Autocorrelation time with what lies between the chains (Vehtari et al. 2021, equation 10)."""
    length = chains.shape[2]

    def estimate(chains: np.ndarray, num_lags: int) -> tuple[np.ndarray, np.ndarray]:
        covariance = autocovariance(chains, num_lags)
        within = covariance[:, 0] * length / (length - 1)
        total = covariance[:, 0] + chains.mean(2).var(1, ddof=1)
        correlation = 1 - (within[:, None] - covariance) / total[:, None]
        correlation[:, 0] = 1
        return _initial_sequence(correlation, max((length - 1) // 2, 1))

    return from_first_lags(chains, estimate)


def _monotone_sum(
    covariance: Float[np.ndarray, "quantity lag"], length: int
) -> tuple[Float[np.ndarray, " quantity"], Bool[np.ndarray, " quantity"]]:
    """The sum of Geyer's initial monotone sequence, and where it ends within these lags."""
    first = covariance[:, :1]
    correlation = covariance / np.where(first > 0, first, 1.0)
    num_pairs = correlation.shape[1] // 2
    pairs = correlation[:, 0 : 2 * num_pairs : 2] + correlation[:, 1 : 2 * num_pairs : 2]
    is_positive = np.logical_and.accumulate(pairs > 0, axis=1)
    positive = np.where(is_positive, pairs, 0.0)
    tau = np.clip(2.0 * np.minimum.accumulate(positive, axis=1).sum(1) - 1.0, 1.0, length)
    return tau, ~is_positive.all(1)


def _initial_sequence(
    correlation: Float[np.ndarray, "quantity lag"], most_pairs: int
) -> tuple[Float[np.ndarray, " quantity"], Bool[np.ndarray, " quantity"]]:
    r"""$-1 + 2 \sum_k P_k$ over pairs $P_k = \rho_{2k} + \rho_{2k+1}$ while they are positive, made monotone."""
    num_pairs = min(correlation.shape[1] // 2, most_pairs)
    even, odd = correlation[:, 0 : 2 * num_pairs : 2], correlation[:, 1 : 2 * num_pairs : 2]
    pairs = even + odd
    is_over = pairs <= 0
    has_ended = is_over.any(1)
    stop = np.where(has_ended, is_over.argmax(1), num_pairs - 1)[:, None]
    longest = int(stop.max())
    monotone = np.minimum.accumulate(pairs[:, :longest], axis=1)
    tau = -1 + 2 * np.where(np.arange(longest) < stop, monotone, 0.0).sum(1)
    # The first pair left out may begin with a positive correlation, which the best estimate counts once.
    rest, pair = (np.take_along_axis(x, stop, 1)[:, 0] for x in (even, pairs))
    return tau + np.where((pair >= 0) | (rest > 0), rest, 0.0), has_ended
