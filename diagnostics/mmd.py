r"""Maximum mean discrepancy: how far apart two sets of draws are as distributions, and whether chance explains it.

For a kernel ``k`` the squared maximum mean discrepancy (MMD) of two laws P and Q is

    MMD^2 = E k(x, x') + E k(y, y') - 2 E k(x, y),        x, x' ~ P  and  y, y' ~ Q  independent,

which is 0 only if P = Q for the two kernels here, whose bandwidth ``s`` is a median over all pairs of different draws
of the pooled sample, so that dealing the draws to the two sides anew does not change it:

    gaussian    k(x, y) = exp(-|x - y|^2 / s),    s = median |x - y|^2
    laplace     k(x, y) = exp(-|x - y| / s),      s = median |x - y|

From ``m`` and ``n`` draws it is estimated, without bias where the draws are independent, by

    sum_{i != j} k(x_i, x_j) / (m (m - 1)) + sum_{i != j} k(y_i, y_j) / (n (n - 1)) - 2 sum_{i, j} k(x_i, y_j) / (m n).

Draws of a chain resemble their neighbours, which raises the first two sums. Permuting single draws would take that for
a difference, so the p-value permutes *whole chains* between the two sides: exact for chains that are independent and
alike under "P = Q". A split of the chains needs no more of the kernel matrix than its sums over pairs of chains.

Squared distances ``|x|^2 + |y|^2 - 2 x.y`` are accumulated over chunks of quantities. Each chunk is centred by its
pooled mean first: no distance changes, and float32 does not lose it in the square of a common offset.

References:
    A. Gretton, K. M. Borgwardt, M. J. Rasch, B. Schoelkopf, A. Smola (2012), A kernel two-sample test, Journal of
    Machine Learning Research 13 (Lemma 6 is the estimate, section 8 the median).
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int

from .record import Record

KERNELS = ("gaussian", "laplace")
MIN_CHAINS = 4  # on either side; of 3 + 3 chains there are 10 distinct splits
MAX_DRAWS = 4000  # pooled; their distances in float32 take 64 MB
NUM_PERMUTATIONS = 999
_CHUNK = 2**24  # numbers of a chunk of quantities: 64 MB in float32
_ROUNDING = 1e-12  # of a mean of kernel values, which are at most 1


@dataclass(frozen=True)
class MMD(Record):
    """The discrepancy of two sets of draws; ``print`` it.

    ``mmd2`` can be negative. ``p`` and ``smallest_p``, the smallest that so few chains can give, are NaN with fewer
    than 4 + 4 chains. ``num_draws`` counts those of a chain that were used, ``num_splits`` the ways to deal the chains
    that were looked at: every distinct one if ``enumerated``, else a random choice.
    """

    mmd2: float
    p: float
    smallest_p: float
    kernel: str
    bandwidth: float
    num_chains: tuple[int, int]
    num_draws: int
    num_quantities: int
    num_splits: int
    enumerated: bool

    @property
    def about_p(self) -> str:
        """What the p-value is and how small it can be, or why there is none."""
        first, second = self.num_chains
        if not self.num_splits:
            return (
                f"p is not available: whole chains are permuted, and {first} + {second} of them are too few; "
                f"run {MIN_CHAINS} or more on either side, better 8."
            )
        random = f"{self.num_splits - 1} random ways and the observed one"
        ways = f"all {self.num_splits} distinct ways" if self.enumerated else random
        return (
            f"p: whole chains are dealt anew to sides of {first} and {second}, in {ways}; p is the share in which the "
            f"sides lie at least as far apart as observed. It cannot be below {self.smallest_p:.2g}."
        )

    def __str__(self) -> str:
        p = "" if math.isnan(self.p) else f", p {self.p:.3f}"
        return (
            f"MMD^2 {self.mmd2:.4g}{p}: {self.kernel} kernel of bandwidth {self.bandwidth:.4g}, {self.num_chains[0]} + "
            f"{self.num_chains[1]} chains x {self.num_draws} draws of {self.num_quantities} quantities\n{self.about_p}"
        )


def mmd(
    first: Float[np.ndarray, "chain draw quantity"],
    second: Float[np.ndarray, "other_chain other_draw other_quantity"],
    *,
    kernel: str = "gaussian",
    num_permutations: int = NUM_PERMUTATIONS,
    max_draws: int = MAX_DRAWS,
    seed: int = 0,
) -> MMD:
    """Estimate the squared maximum mean discrepancy of two sets of draws, and how often chance gives as much.

    Chains are cut to the length of the shortest, and thinned evenly where there would be more than ``max_draws`` draws
    in all. The quantities count as they are, so they should have comparable units.

    Args:
        first: Draws of one side; read a chunk of quantities at a time, so a memory-mapped array is never held whole.
        second: Draws of the other side, of the same quantities.
        kernel: ``gaussian`` or ``laplace``.
        num_permutations: If there are no more distinct ways to deal the chains, all are looked at; else so many random
            ones besides the observed one.
        max_draws: Pooled draws to use at most; memory and time grow with the square.
        seed: Of the random ways to deal; fixed, so that the same draws give the same p.

    Returns:
        The estimate and its p-value; p is NaN with fewer than 4 + 4 chains.

    Raises:
        ValueError: If the sides have different quantities or fewer than two draws, a number is not finite, or a setting
            is none.

    Example:
        >>> rng = np.random.default_rng(0)
        >>> found = mmd(rng.normal(size=(4, 50, 2)), rng.normal(size=(4, 50, 2)) + 1.0)
        >>> found.mmd2 > 0.2, found.p == found.smallest_p == 1 / 35
        (True, True)

    References:
        Gretton et al., A kernel two-sample test, JMLR 13, 2012.
    """
    _check(first, second, kernel, num_permutations)
    num_chains = len(first), len(second)
    steps = even_steps(min(first.shape[1], second.shape[1]), sum(num_chains), max_draws)
    values = squared_distances(first, second, steps)
    bandwidth = _apply_kernel(values, kernel)
    splits, enumerated = _splits(*num_chains, num_permutations, seed)
    found = _discrepancies(_chain_sums(values, sum(num_chains)), splits, len(steps))
    has_p = min(num_chains) >= MIN_CHAINS
    return MMD(
        mmd2=float(found[0]),
        p=float(np.mean(found >= found[0] - _ROUNDING)) if has_p else math.nan,
        smallest_p=1.0 / len(splits) if has_p else math.nan,
        kernel=kernel,
        bandwidth=bandwidth,
        num_chains=num_chains,
        num_draws=len(steps),
        num_quantities=first.shape[2],
        num_splits=len(splits) if has_p else 0,
        enumerated=enumerated,
    )


def even_steps(num_draws: int, num_chains: int, max_draws: int) -> Int[np.ndarray, " step"]:
    """Which draws of every chain to use, evenly spaced, so that there are at most ``max_draws`` in all chains.

    Raises:
        ValueError: If that leaves no draw a chain.

    Example:
        >>> even_steps(num_draws=9, num_chains=4, max_draws=12)
        array([0, 4, 8])
    """
    if max_draws < num_chains:
        raise ValueError(f"max_draws of at least a draw a chain, {num_chains}, was expected, got {max_draws}")
    return np.linspace(0, num_draws - 1, min(num_draws, max_draws // num_chains)).astype(int)


def squared_distances(
    first: Float[np.ndarray, "chain draw quantity"],
    second: Float[np.ndarray, "other_chain other_draw quantity"],
    steps: Int[np.ndarray, " step"],
) -> Float[np.ndarray, "pooled pooled"]:
    """Squared Euclidean distances of all pairs of pooled draws, chain by chain, in the precision of the draws.

    Args:
        first: Draws of one side.
        second: Draws of the other side.
        steps: Which draws of every chain.

    Raises:
        ValueError: If a number is not finite.

    Example:
        >>> squared_distances(np.zeros((1, 1, 2)), np.ones((1, 1, 2)), np.array([0]))
        array([[0., 2.],
               [2., 0.]])
    """
    dtype = np.result_type(first, second, np.float32)
    number = (len(first) + len(second)) * len(steps)
    result = np.zeros((number, number), dtype)
    width = max(1, _CHUNK // number)
    for begin in range(0, first.shape[2], width):
        piece = _piece(first, second, steps, slice(begin, begin + width), dtype)
        result += piece @ piece.T
    squares = np.diag(result).copy()
    result *= -2
    result += squares[:, None]
    result += squares
    return np.maximum(result, 0, out=result)


def _check(first: np.ndarray, second: np.ndarray, kernel: str, num_permutations: int) -> None:
    for name, side in (("first", first), ("second", second)):
        if side.ndim != 3:
            raise ValueError(f"draws of shape (chain, draw, quantity) were expected, got {side.shape} as the {name}")
    if first.shape[2] != second.shape[2] or first.shape[2] == 0:
        raise ValueError(
            f"draws of the same quantities were expected on both sides, got {first.shape[2]} and {second.shape[2]} of "
            "them; pass the same quantities of both"
        )
    num_draws = min(first.shape[1], second.shape[1])
    for name, side in (("first", first), ("second", second)):
        if len(side) * num_draws < 2:
            raise ValueError(
                f"two draws or more on either side were expected, got {len(side)} chains x {num_draws} draws on the "
                f"{name}; sample more"
            )
    if kernel not in KERNELS:
        raise ValueError(f"a kernel among {', '.join(KERNELS)} was expected, got {kernel!r}")
    if num_permutations < 1:
        raise ValueError(f"num_permutations of 1 or more was expected, got {num_permutations}")


def _piece(
    first: np.ndarray, second: np.ndarray, steps: Int[np.ndarray, " step"], chunk: slice, dtype: np.dtype
) -> Float[np.ndarray, "pooled part"]:
    """Pooled draws of some quantities, less their means."""
    sides = (side[:, steps, chunk] for side in (first, second))
    piece = np.concatenate([side.reshape(-1, side.shape[2]) for side in sides], dtype=dtype)
    mean = piece.mean(0)  # rounding does not matter: any common centre leaves the distances as they are
    if not np.isfinite(mean).all():
        number = np.flatnonzero(~np.isfinite(mean))[0]
        raise ValueError(
            f"finite numbers were expected in all draws, but quantity {chunk.start + number} has others; "
            "leave its chain out"
        )
    piece -= mean
    return piece


def _apply_kernel(values: Float[np.ndarray, "pooled pooled"], kernel: str) -> float:
    """Turn squared distances into kernel values, in place, those of a draw with itself into 0; return the bandwidth."""
    if kernel == "laplace":
        np.sqrt(values, out=values)
    pairs = np.concatenate([row[i + 1 :] for i, row in enumerate(values)])
    # Where more than half of all pairs are ties the median is 0, and the mean tells the others apart.
    bandwidth = float(np.median(pairs, overwrite_input=True)) or float(pairs.mean(dtype=np.float64)) or 1.0
    values *= -1.0 / bandwidth
    np.exp(values, out=values)
    np.fill_diagonal(values, 0.0)
    return bandwidth


def _chain_sums(values: Float[np.ndarray, "pooled pooled"], num_chains: int) -> Float[np.ndarray, "chains chains"]:
    """Kernel values summed over the pairs of draws of each two chains."""
    length = len(values) // num_chains
    rows = values.reshape(num_chains, length, num_chains, length).sum(3, dtype=np.float64)
    return rows.sum(1)


def _splits(
    num_first: int, num_second: int, num_permutations: int, seed: int
) -> tuple[Bool[np.ndarray, "split chains"], bool]:
    """Which chains each split deals to the first side, the observed split first; and whether they are all there are.

    With as many chains on one side as on the other a split and its mirror image are one, so the first chain stays.
    """
    num_chains, stay = num_first + num_second, int(num_first == num_second)
    enumerated = math.comb(num_chains - stay, num_first - stay) <= num_permutations
    if enumerated:
        others = itertools.combinations(range(stay, num_chains), num_first - stay)
        chosen = np.array([(*range(stay), *chains) for chains in others])
    else:
        rng = np.random.default_rng(seed)
        orders = rng.permuted(np.tile(np.arange(num_chains), (num_permutations, 1)), axis=1)
        chosen = np.vstack([np.arange(num_first), orders[:, :num_first]])
    splits = np.zeros((len(chosen), num_chains), bool)
    np.put_along_axis(splits, chosen, True, axis=1)  # noqa: FBT003
    return splits, enumerated


def _discrepancies(
    sums: Float[np.ndarray, "chains chains"], splits: Bool[np.ndarray, "split chains"], num_draws: int
) -> Float[np.ndarray, " split"]:
    """The estimate for every split of the chains."""
    dealt = splits.astype(np.float64)
    first = ((dealt @ sums) * dealt).sum(1)
    across = dealt @ sums.sum(1) - first
    second = sums.sum() - first - 2 * across
    m = int(splits[0].sum()) * num_draws
    n = splits.shape[1] * num_draws - m
    return first / (m * (m - 1)) + second / (n * (n - 1)) - 2 * across / (m * n)
