r"""Mean, variance and split $\hat R$ of draws that are not kept, updated block by block.

Chan's form of Welford's recursion joins two groups of draws with counts $n_a, n_b$, means $m_a, m_b$ and sums of
squared deviations $S_a, S_b$,

$$ n = n_a + n_b, \quad \delta = m_b - m_a, \quad m = m_a + \delta \frac{n_b}{n}, \quad
   S = S_a + S_b + \delta^2 \frac{n_a n_b}{n}, $$

without the cancellation of $\sum x^2 - n m^2$. Split $\hat R$ compares halves of chains, but where the middle of a
chain lies is not known while it grows. So a chain is kept as at most eight *segments* of equal length: when all are
full, they are joined in pairs and become twice as long. The full segments, without the first if they are odd in number,
have two halves; at least three quarters of the draws are in them, and all at lengths that fill the segments.

References:
    Chan, Golub and LeVeque (1983), Algorithms for computing the sample variance, https://doi.org/10.2307/2683386.
    Gelman et al. (2013), Bayesian Data Analysis, section 11.4, for the split $\hat R$.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from jaxtyping import Shaped

_NUM_SEGMENTS = 8
_FIRST_LENGTH = 8


class Sums(NamedTuple):
    """Some draws of some chains, summed up: how many a chain, their mean and sum of squared deviations (chain, ...)."""

    num_draws: int
    mean: np.ndarray
    squares: np.ndarray


@dataclass
class Moments:
    """Chains, summed up segment by segment.

    Attributes:
        segments: in order; the last one may be growing.
        length: of a full segment.

    Example:
        >>> moments = Moments()
        >>> moments.add(np.arange(20.0).reshape(2, 10))
        >>> moments.total().mean
        array([ 4.5, 14.5])
    """

    segments: list[Sums] = field(default_factory=list)
    length: int = _FIRST_LENGTH

    def add(self, draws: Shaped[np.ndarray, "chain draw ..."]) -> None:
        """Adds draws to the end of the chains.

        Args:
            draws: of all the chains.
        """
        begin = 0
        while begin < draws.shape[1]:
            if not self.segments or self.segments[-1].num_draws == self.length:
                self._open_segment(draws[:, 0])
            room = self.length - self.segments[-1].num_draws
            some = np.asarray(draws[:, begin : begin + room], np.float64)
            mean = some.mean(axis=1)
            new = Sums(some.shape[1], mean, ((some - mean[:, None]) ** 2).sum(axis=1))
            self.segments[-1] = _join([self.segments[-1], new])
            begin += new.num_draws

    def total(self) -> Sums:
        """All draws together."""
        return _join(self.segments)

    def halves(self) -> list[Sums]:
        """The halves of the chains, as the module's docstring says; nothing where there are fewer than two."""
        full = [segment for segment in self.segments if segment.num_draws == self.length]
        half = len(full) // 2
        return [_join(full[-2 * half : -half]), _join(full[-half:])] if half else []

    def _open_segment(self, draw: np.ndarray) -> None:
        if len(self.segments) == _NUM_SEGMENTS:
            self.segments = [_join(self.segments[i : i + 2]) for i in range(0, _NUM_SEGMENTS, 2)]
            self.length *= 2
        if not self.segments or self.segments[-1].num_draws == self.length:
            self.segments.append(Sums(0, *(np.zeros(draw.shape) for _ in range(2))))


def summarise(groups: Sequence[Moments]) -> dict[str, np.ndarray]:
    r"""What is known of all chains together.

    Args:
        groups: moments of groups of chains; their chains lie side by side.

    Returns:
        `mean` and `sd` over all draws of all chains, and split `rhat`, NaN before each chain has two full segments.

    Example:
        >>> moments = Moments()
        >>> moments.add(np.random.default_rng(0).normal(size=(4, 1000)))
        >>> {name: abs(round(float(value), 1)) for name, value in summarise([moments]).items()}
        {'mean': 0.0, 'sd': 1.0, 'rhat': 1.0}
    """
    totals = [_single_chains(group.total()) for group in groups]
    whole = _join([chain for chains in totals for chain in chains])
    return {"mean": whole.mean, "sd": np.sqrt(whole.squares / max(whole.num_draws - 1, 1)), "rhat": split_rhat(groups)}


def split_rhat(groups: Sequence[Moments]) -> np.ndarray:
    r"""Split $\hat R = \sqrt{\frac{n-1}{n} + \frac{B}{n W}}$ of half chains with variances $W$ within, $B / n$ between.

    Args:
        groups: moments of groups of chains, about equally far.

    Returns:
        A value an element of a draw.
    """
    halves = [group.halves() for group in groups]
    if not all(halves):
        return np.full(groups[0].segments[0].mean.shape[1:] if groups and groups[0].segments else (), np.nan)
    means = np.concatenate([half.mean for pair in halves for half in pair])
    within = np.concatenate([half.squares / (half.num_draws - 1) for pair in halves for half in pair]).mean(axis=0)
    n = min(half.num_draws for pair in halves for half in pair)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(np.sqrt((n - 1) / n + means.var(axis=0, ddof=1) / within))


def _join(parts: Sequence[Sums]) -> Sums:
    """All parts as one, by the equation of the module's docstring for any number of them."""
    count = sum(part.num_draws for part in parts)
    mean = sum(part.num_draws / max(count, 1) * part.mean for part in parts)
    squares = sum(part.squares + part.num_draws * (part.mean - mean) ** 2 for part in parts)
    return Sums(count, np.asarray(mean), np.asarray(squares))


def _single_chains(sums: Sums) -> list[Sums]:
    return [Sums(sums.num_draws, mean, squares) for mean, squares in zip(sums.mean, sums.squares, strict=True)]
