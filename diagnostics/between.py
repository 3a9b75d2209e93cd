r"""How much of the variance lies between the chains, and whether chance explains it.

Every chain ``c`` is split into halves ``A_c`` and ``B_c``. With standardised quantities (pooled mean 0, pooled standard
deviation 1, constants dropped) the mean squared distance of a draw of ``A_c`` from a draw of ``B_c'`` is

    D[c, c'] = sum_j  var(A_c)_j + var(B_c')_j + (mean(A_c)_j - mean(B_c')_j)^2

and, with ``w`` the mean of its diagonal and ``b`` the mean of the rest, ``beta = 1 - w / b`` is the share of the total
variance that lies between chains; ``1 / sqrt(1 - beta) = sqrt(b / w)`` is the R-hat it corresponds to. Both halves of
one chain share its excursions, so drift inside a chain counts as "within".

Whether chance explains ``beta`` is a permutational analysis of variance (PERMANOVA; Anderson 2001): contiguous batch
means are permuted over the chains and their between-chain sum of squares is compared with the observed one. The
batches stand for independent draws only if each is at least six autocorrelation times long, which `num_batches` sees
to. A disagreement at a few quantities is diluted in a sum over all of them, so the largest single quantity is tested
as well, with the maximum taken inside every permutation, which pays for looking at all of them.

References:
    M. J. Anderson (2001), A new method for non-parametric multivariate analysis of variance, Austral Ecology 26.
    C. J. Geyer (1992), Practical Markov chain Monte Carlo, Statistical Science 7.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float
from scipy.sparse import csgraph

from .autocovariance import time_within

P_MAX = 0.01  # below this a difference is not put down to chance
NUM_PERMUTATIONS = 999
BATCH_LENGTH = 6  # autocorrelation times that make a batch mean nearly independent of the next
SAME_GROUP = 1.1  # chains whose pairwise R-hat equivalent stays below this are one group
_BLOCK = 2**23  # floats held at once by the permutation test


@dataclass(frozen=True)
class Decomposition:
    """Mean squared distances within and between chains, in all and quantity by quantity."""

    within: float
    between: float
    beta: float
    beta_each: Float[np.ndarray, " quantity"]
    distances: Float[np.ndarray, "chain chain"]

    @property
    def rhat(self) -> float:
        """The R-hat that a share ``beta`` of variance between chains corresponds to."""
        return float(np.sqrt(_ratio(self.between, self.within)))

    @property
    def groups(self) -> tuple[tuple[int, ...], ...]:
        """Connected components of the chains whose pairwise R-hat equivalent is below 1.1."""
        within = np.diag(self.distances)
        pair = _ratio(self.distances + self.distances.T, within[:, None] + within[None, :])
        _, label = csgraph.connected_components(np.sqrt(pair) < SAME_GROUP, directed=False)
        return tuple(tuple(int(c) for c in np.flatnonzero(label == k)) for k in range(int(label.max()) + 1))


def varying(values: Float[np.ndarray, "chain draw quantity"]) -> Bool[np.ndarray, " quantity"]:
    """Which quantities vary by more than their floating-point type can resolve."""
    step = max(1, _BLOCK // 8 // max(1, values.shape[0] * values.shape[1]))
    resolution = np.finfo(values.dtype).eps
    is_varying = np.empty(values.shape[2], bool)
    for begin in range(0, values.shape[2], step):  # some at a time, for in double precision all are large
        wide = values[:, :, begin : begin + step].astype(np.float64)
        is_varying[begin : begin + step] = wide.std((0, 1)) > resolution * np.abs(wide).max((0, 1), initial=0.0)
    return is_varying


def standardise(values: Float[np.ndarray, "chain draw quantity"]) -> Float[np.ndarray, "chain draw varying"]:
    """Centre and scale every quantity by its pooled mean and standard deviation; drop those that do not vary."""
    kept = values[:, :, varying(values)].astype(np.float64)
    spread = kept.std((0, 1))
    kept -= kept.mean((0, 1))
    kept /= spread
    return kept


def decompose(values: Float[np.ndarray, "chain draw quantity"]) -> Decomposition:
    """Split the spread of all draws into within chains and between chains.

    Args:
        values: Draws of quantities in comparable units (see `standardise`), two chains and four draws at least.

    Returns:
        The decomposition; shares are 0 where nothing varies.

    Example:
        >>> still = np.broadcast_to(np.array([0.0, 1.0, 1.0])[:, None, None], (3, 8, 1))  # three chains that never move
        >>> decompose(still).beta, decompose(still).groups
        (1.0, ((0,), (1, 2)))
    """
    half = values.shape[1] // 2
    first, second = values[:, :half], values[:, half : 2 * half]
    spread = first.var(1)[:, None, :] + second.var(1)[None, :, :]
    each = spread + (first.mean(1)[:, None, :] - second.mean(1)[None, :, :]) ** 2
    num_chains = len(each)
    diagonal = np.einsum("ccj->j", each)
    within, between = diagonal / num_chains, (each.sum((0, 1)) - diagonal) / (num_chains * (num_chains - 1))
    return Decomposition(
        within=float(within.sum()),
        between=float(between.sum()),
        beta=float(1.0 - _ratio(within.sum(), between.sum())),
        beta_each=1.0 - _ratio(within, between),
        distances=each.sum(-1),
    )


def autocorrelation_time(
    values: Float[np.ndarray, "chain draw quantity"], *, num_corrections: int = 2
) -> Float[np.ndarray, " quantity"]:
    """Integrated autocorrelation time of each quantity in draws, differences between chains left out.

    Autocovariances ``c_k`` about each chain's own mean are averaged over the chains and summed over Geyer's initial
    monotone positive sequence, ``tau = -1 + 2 sum_k (rho_{2k} + rho_{2k+1})``. They fall short of the true ones by the
    variance of a chain's mean, ``gamma_0 tau / n``. Adding it back removes the bias and adds noise.

    Args:
        values: Draws of quantities.
        num_corrections: How often the variance of the mean is added back, each time with the last ``tau``; 0 to 2.

    Returns:
        Between 1 (an anticorrelated quantity or a constant counts as independent draws) and the number of draws.
    """
    return time_within(np.ascontiguousarray(np.moveaxis(values, 2, 0)), num_corrections)


def num_batches(num_draws: int, tau: float) -> int:
    """Batches a chain, each at least six autocorrelation times long, from 2 to 8; 0 if not even two fit.

    Example:
        >>> [num_batches(500, tau) for tau in (1.0, 20.0, 50.0)]
        [8, 4, 0]
    """
    fit = math.floor(num_draws / (BATCH_LENGTH * tau))
    return 0 if fit < 2 else min(fit, 8)


def smallest_p(num_chains: int, batches: int) -> float:
    """The smallest p-value that the permutations of so few batches can give.

    Example:
        >>> round(1 / smallest_p(num_chains=2, batches=2))
        3
    """
    log_ways = (
        math.lgamma(num_chains * batches + 1) - num_chains * math.lgamma(batches + 1) - math.lgamma(num_chains + 1)
    )
    return max(1.0 / (NUM_PERMUTATIONS + 1), math.exp(-min(log_ways, 700.0)))


def permutation_test(
    values: Float[np.ndarray, "chain draw quantity"], batches: int, *, seed: int = 0
) -> tuple[float, float]:
    """P-values of "the chains are exchangeable", pooled over quantities and for the largest single one.

    Args:
        values: Draws of quantities in comparable units.
        batches: Contiguous batch means a chain (see `num_batches`).
        seed: Of the permutations; fixed, so that the same draws give the same p.

    Returns:
        ``(pooled, local)``: by the sum of the between-chain sums of squares, and by the largest share of one quantity's
        sum of squares that lies between chains.
    """
    num_chains, num_draws, num_quantities = values.shape
    if num_quantities == 0:
        return 1.0, 1.0
    length = num_draws // batches
    means = (
        values[:, : length * batches].reshape(num_chains, batches, length, -1).mean(2).reshape(num_chains * batches, -1)
    )
    means = means - means.mean(0)
    total = (means**2).sum(0)
    weight = np.where(total > 0, 1.0 / np.where(total > 0, total, 1.0), 0.0)
    rng = np.random.default_rng(seed)
    identity = np.arange(len(means))
    orders = np.vstack([identity, rng.permuted(np.tile(identity, (NUM_PERMUTATIONS, 1)), axis=1)])
    pooled, local = np.empty(len(orders)), np.empty(len(orders))
    step = max(1, _BLOCK // (num_chains * max(num_quantities, len(means))))
    for start in range(0, len(orders), step):
        between = _between_squares(means, orders[start : start + step], num_chains)
        pooled[start : start + step] = between.sum(-1)
        local[start : start + step] = (between * weight).max(-1)
    return _tail(pooled), _tail(local)


def _between_squares(
    means: Float[np.ndarray, "batch quantity"], orders: np.ndarray, num_chains: int
) -> Float[np.ndarray, "permutation quantity"]:
    """Between-chain sum of squares of each quantity when the batches are dealt to the chains in the given orders."""
    per_chain = len(means) // num_chains
    deal = np.zeros((len(orders), num_chains, len(means)))
    np.put_along_axis(deal, orders.reshape(len(orders), num_chains, per_chain), 1.0 / per_chain, axis=2)
    chain_means = (deal.reshape(-1, len(means)) @ means).reshape(len(orders), num_chains, -1)
    return per_chain * (chain_means**2).sum(1)


def _tail(statistic: Float[np.ndarray, " permutation"]) -> float:
    """Share of permutations at least as extreme as the first, which is the observed order (and counts itself)."""
    rounding = 1e-9 * abs(statistic[0])
    return float(np.mean(statistic >= statistic[0] - rounding))


def _ratio(above: np.ndarray | float, below: np.ndarray | float) -> np.ndarray:
    """``above / below``: 1 where both are 0 (nothing varies), infinite where only ``below`` is."""
    above, below = np.broadcast_arrays(np.asarray(above, float), np.asarray(below, float))
    return np.where(below > 0, above / np.where(below > 0, below, 1.0), np.where(above > 0, np.inf, 1.0))
