r"""The metric of a Hamiltonian kernel: an inverse mass matrix $M^{-1}$ estimated from a window of draws.

| kind | $M^{-1}$ |
|---|---|
| ``gradient`` | diagonal, $\sqrt{\mathrm{var}\, q_i / \mathrm{var}\, \partial_i \log\pi}$ |
| ``diagonal`` | diagonal, $\mathrm{var}\, q_i$, shrunk towards a small constant |
| ``dense`` | $\mathrm{cov}\, q$, shrunk likewise |
| ``low_rank`` | $\Sigma (I + U (\Lambda - I) U^\top) \Sigma$, with $\Sigma^2$ the first and 10 directions $U$ |

The first is the diagonal matrix of least Fisher divergence between the target and $N(m, M^{-1})$: for a Gaussian
$\mathrm{var}\, q_i$ is a coordinate's marginal variance and $1 / \mathrm{var}\, \partial_i \log\pi$ its variance given
the others, and this is their geometric mean. The last is its like of low rank. All sums are arrays in the kernel's
State; variances follow Welford's recursion, since the plain sum of squares fails in float32.

References:
    Carpenter et al. (2017), Stan: a probabilistic programming language, https://doi.org/10.18637/jss.v076.i01.
    Seyboldt, Carlson and Carpenter (2026), Preconditioning Hamiltonian Monte Carlo by minimizing Fisher divergence,
    https://arxiv.org/abs/2603.18845.
"""

from typing import Any, NamedTuple

import jax.numpy as jnp
from blackjax.adaptation.metric_estimators import fisher_score_low_rank
from blackjax.mcmc.metrics import LowRankInverseMassMatrix
from jax import Array
from jaxtyping import Float

METRICS = ("gradient", "diagonal", "dense", "low_rank")
"""The kinds of metric."""

# Directions of `low_rank`, and the last draws of a window that it is estimated from.
_RANK, _KEPT_DRAWS = 10, 100
# Bounds of a variance in units that float32 can square.
_SMALLEST, _LARGEST = 1e-18, 1e18
# BlackJAX gives a coordinate that has not moved this scale or less.
_STILL = 1e-19


class Welford(NamedTuple):
    """Running mean and sum of squared deviations, of vectors coordinate by coordinate, or their whole matrix."""

    mean: Float[Array, " dim"]
    sum_squares: Float[Array, " dim"] | Float[Array, "dim dim"]
    num_draws: Float[Array, ""]


class Draws(NamedTuple):
    """The last positions and gradients, in a ring."""

    positions: Float[Array, "kept dim"]
    gradients: Float[Array, "kept dim"]
    num_draws: Float[Array, ""]


Sums = tuple[Welford, ...] | Draws
"""What a metric is estimated from: positions (and gradients), or the last draws of both."""


def identity(kind: str, position: Float[Array, " dim"]) -> Any:
    """The metric before anything is known.

    Args:
        kind: one of `METRICS`.
        position: only its shape and dtype count.

    Returns:
        The unit matrix as BlackJAX takes it: its diagonal, a matrix, or one of low rank.
    """
    if kind == "dense":
        return jnp.eye(position.size, dtype=position.dtype)
    if kind == "low_rank":
        rank = min(_RANK, position.size)
        basis = jnp.eye(position.size, rank, dtype=position.dtype)
        return LowRankInverseMassMatrix(jnp.ones_like(position), basis, jnp.ones(rank, position.dtype))
    return jnp.ones_like(position)


def start_sums(kind: str, position: Float[Array, " dim"]) -> Sums:
    """Sums over no draw.

    Args:
        kind: one of `METRICS`.
        position: only its shape and dtype count.

    Returns:
        The sums.
    """
    zeros, count = jnp.zeros_like(position), jnp.zeros((), position.dtype)
    if kind == "low_rank":
        kept = jnp.zeros((_KEPT_DRAWS, position.size), position.dtype)
        return Draws(kept, kept, count)
    squares = jnp.zeros((position.size,) * 2, position.dtype) if kind == "dense" else zeros
    moments = Welford(zeros, squares, count)
    return (moments, moments) if kind == "gradient" else (moments,)


def accumulate(sums: Sums, position: Float[Array, " dim"], gradient: Float[Array, " dim"]) -> Sums:
    """Sums with one more draw.

    Args:
        sums: before it.
        position: the draw.
        gradient: of the log density there.

    Returns:
        The sums with it.
    """
    if isinstance(sums, Draws):
        row = (sums.num_draws % _KEPT_DRAWS).astype(jnp.int32)
        kept = sums.positions.at[row].set(position), sums.gradients.at[row].set(gradient)
        return Draws(*kept, sums.num_draws + 1)
    return tuple(_add(moments, x) for moments, x in zip(sums, (position, gradient), strict=False))


def estimate(kind: str, sums: Sums, before: Any) -> Any:
    """The metric of a window.

    Args:
        kind: one of `METRICS`.
        sums: over the window.
        before: the metric until now; it stays where a coordinate has not moved.

    Returns:
        The metric.
    """
    if isinstance(sums, Draws):
        # A ring that is not full is read around again.
        rows = jnp.arange(_KEPT_DRAWS) % jnp.clip(sums.num_draws, 1, _KEPT_DRAWS).astype(jnp.int32)
        rank = before.lam.shape[0]
        found = fisher_score_low_rank(sums.positions[rows], sums.gradients[rows], rank)
        is_sound = jnp.isfinite(jnp.concatenate([x.ravel() for x in found])).all() & (found.sigma > _STILL).all()
        return LowRankInverseMassMatrix(*(jnp.where(is_sound, x, y) for x, y in zip(found, before, strict=True)))
    variances = [moments.sum_squares / jnp.maximum(moments.num_draws - 1, 1) for moments in sums]
    if kind == "gradient":
        position, gradient = (jnp.clip(variance, _SMALLEST, _LARGEST) for variance in variances)
        has_moved = (variances[0] > 0) & (variances[1] > 0)
        return jnp.where(has_moved, jnp.sqrt(position) / jnp.sqrt(gradient), before)
    # Stan's shrinkage, as if by five more draws.
    share = sums[0].num_draws / (sums[0].num_draws + 5)
    prior = 1e-3 * (1 - share)
    return share * variances[0] + (prior * jnp.eye(len(before), dtype=before.dtype) if kind == "dense" else prior)


def _add(moments: Welford, x: Float[Array, " dim"]) -> Welford:
    count = moments.num_draws + 1
    before = x - moments.mean
    mean = moments.mean + before / count
    after = x - mean
    squares = jnp.outer(before, after) if moments.sum_squares.ndim == 2 else before * after
    return Welford(mean, moments.sum_squares + squares, count)
