r"""R-hat of chains that were started together, and of each chain by itself.

*Nested R-hat* is for many short chains of which several start from one point: with superchains of such chains it
compares the means of superchains, to which a chain need not have converged, with the variance within them,

    sqrt(1 + B / W),    B the variance of the superchains' means,
                        W the mean over superchains of the variance between and within their chains.

*Chain-wise split R-hat* asks whether each chain is stationary in the mode that it is in: the R-hat of one chain whose
halves count as chains. It is near one where chains mix within modes and differ between them, which the R-hat of all
chains cannot tell from chains that do not mix at all.

Both are of rank-normalised draws and of folded ones, whichever is larger, as in `estimates.rhat`.

References:
    C. C. Margossian, M. D. Hoffman, P. Sountsov, L. Riou-Durand, A. Vehtari, A. Gelman (2024), Nested R-hat: assessing
    the convergence of Markov chain Monte Carlo when running many short chains, Bayesian Analysis (equations 4 to 8).
    E. Sommer, L. Wimmer, T. Papamarkou, L. Bothmann, B. Bischl, D. Rügamer (2024), Connecting the dots: is
    mode-connectedness the key to feasible sample-based inference in Bayesian neural networks?, ICML.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Int

from .estimates import MIN_DRAWS, rhat, split_scores


def nested_rhat(
    values: Float[np.ndarray, "chain draw quantity"], superchains: Sequence[int]
) -> Float[np.ndarray, " quantity"]:
    """Nested R-hat of every quantity, as ArviZ computes it.

    Args:
        values: Draws.
        superchains: For each chain the number of its superchain; all superchains have equally many chains.

    Raises:
        ValueError: If there is not a number a chain, or not two superchains of equally many chains.

    Example:
        >>> draws = np.random.default_rng(0).normal(size=(8, 100, 1)) + np.repeat([0, 3], 4)[:, None, None]
        >>> nested_rhat(draws, [0, 0, 0, 0, 1, 1, 1, 1]) > 1.5, nested_rhat(draws, [0, 0, 1, 1, 0, 0, 1, 1]) < 1.1
        (array([ True]), array([ True]))
    """
    numbers = check_superchains(superchains, len(values))
    if values.shape[1] < MIN_DRAWS:
        return np.full(values.shape[2], np.nan)
    order = np.argsort(np.tile(numbers, 2), kind="stable")  # halves of chains: all first ones, then all second ones
    largest = np.zeros(values.shape[2])
    for scores in split_scores(values):
        grouped = scores[:, order].reshape(values.shape[2], len(np.unique(numbers)), -1, scores.shape[2])
        means = grouped.mean(3)
        within = (grouped.var(3, ddof=1).mean(2) + means.var(2, ddof=1)).mean(1)
        largest = np.maximum(largest, np.sqrt(1 + means.mean(2).var(1, ddof=1) / within))
    return largest


def chainwise_rhat(values: Float[np.ndarray, "chain draw quantity"]) -> Float[np.ndarray, "chain quantity"]:
    """Split R-hat of each chain by itself, its halves taken for chains.

    Args:
        values: Draws.

    Returns:
        For each chain; NaN where a half has fewer than four draws.

    Example:
        >>> still = np.random.default_rng(0).normal(size=(1, 1000, 1))
        >>> drifting = still + np.linspace(0, 5, 1000)[:, None]
        >>> chainwise_rhat(np.concatenate([still, drifting]))[:, 0].round(1)
        array([1. , 1.8])
    """
    half = values.shape[1] // 2
    halves = np.stack([values[:, :half], values[:, values.shape[1] - half :]], axis=1)
    return np.stack([rhat(chain) for chain in halves])


def check_superchains(superchains: Sequence[int], num_chains: int) -> Int[np.ndarray, " chain"]:
    """Superchains as an array.

    Raises:
        ValueError: If there is not a number a chain, or not two superchains of equally many chains.
    """
    numbers = np.asarray(superchains)
    sizes = np.unique(numbers, return_counts=True)[1]
    if len(numbers) != num_chains or len(sizes) < 2 or len(set(sizes)) > 1:
        raise ValueError(
            f"superchains should give each of the {num_chains} chains a number, two numbers at least, all equally "
            f"often; got {list(superchains)}"
        )
    return numbers
