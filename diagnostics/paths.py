r"""Log posterior and function on the straight path between two draws, and the barrier on it.

For constrained weights ``theta(t) = (1 - t) theta_0 + t theta_1``, ``U = -log p(theta, y)`` and the function ``f``,

    barrier = max_t  U(theta(t)) - [(1 - t) U(theta_0) + t U(theta_1)]        (nats; at least 0, its value at the ends)
    excess  = mean_t,probes |f(theta(t)) - [(1 - t) f(theta_0) + t f(theta_1)]|^2 / var f

A path between two labellings of one network crosses networks that are neither, so of two draws the second is first
relabelled to be near the first, which changes neither its density nor its function. Draws are not modes: a curved
posterior has barriers between the draws of one chain that mixes, and a Gaussian in d dimensions has the middle of two
draws d / 4 nats below the chord. Hence barriers between chains mean something only beside those within a chain.

References:
    S. Ainsworth, J. Hayase and S. Srinivasa (2023), Git Re-Basin: merging models modulo permutation symmetries, ICLR.
    J. Frankle, G. Dziugaite, D. Roy and M. Carbin (2020), Linear mode connectivity and the lottery ticket hypothesis,
    ICML.
    F. Draxler, K. Veschgini, M. Salmhofer and F. Hamprecht (2018), Essentially no barriers in neural network energy
    landscape, ICML.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr
from jax import Array
from jaxtyping import Float, Int, Shaped

from bnn_models import Posterior

from .interpolation import Ends, Probes, Weights, measure, walk
from .pairs import choose_pairs
from .record import Record
from .sentences import WIDTH

Points = Float[np.ndarray, " point"]

_SEVERAL = 3.0  # times the barrier within a chain: chains that mix stay below, chains in different modes do not
_NO_HINDRANCE = 1.0  # nats: a lower barrier stops no sampler, and ratios of such barriers would be noise
_CAVEAT = (
    "A barrier on a straight path does not separate modes by itself: a curved path may go around it. And no barrier "
    "between the chains' modes says nothing of modes that no chain has found."
)


@dataclass(frozen=True)
class Path(Record):
    """Points on paths between weights: ``logdensity`` is `Posterior.log_joint`, ``function`` None without probes.

    ``curved`` names the sites that were led through unconstrained space, see `path`.
    """

    t: Points
    logdensity: Float[np.ndarray, "*batch point"]
    function: Shaped[np.ndarray, ...] | None
    curved: tuple[str, ...]

    @property
    def barrier(self) -> Float[np.ndarray, " *batch"]:
        """Largest ``U`` above the chord, in nats: infinite where density vanishes on the way, NaN where at an end."""
        return _barrier(self.t, self.logdensity)


@dataclass(frozen=True)
class BarrierRow(Record):
    """One kind of pair: median and 90 % quantile of the barriers in nats, median excess of the function."""

    kind: str
    num_pairs: int
    median: float
    q90: float
    function_excess: float


@dataclass(frozen=True)
class Barriers(Record):
    """Barriers between and within chains; ``print`` it.

    ``ratio`` is the median between chains over that within a chain, both aligned and counted as one nat where they are
    lower; ``ratio_q90`` that of the 90 % quantiles, which a few stuck chains among many raise first. NaN where a row is
    missing.
    """

    rows: tuple[BarrierRow, ...]
    ratio: float
    ratio_q90: float
    num_points: int
    notes: tuple[str, ...]

    def row(self, kind: str) -> BarrierRow | None:
        """One kind of pair, ``"within a chain, aligned"`` say, if there were such pairs."""
        return next((row for row in self.rows if row.kind == kind), None)

    def __str__(self) -> str:
        lines = [f"{'straight path between draws':28}{'pairs':>6}{'barrier: median':>17}{'90 %':>10}{'function':>10}"]
        lines += [
            f"{row.kind:28}{row.num_pairs:>6}{_number(row.median):>17}{_number(row.q90):>10}"
            f"{_number(row.function_excess):>10}"
            for row in self.rows
        ]
        return "\n".join(lines + [textwrap.fill(text, WIDTH) for text in (*_sentences(self), *self.notes)])


def path(
    posterior: Posterior,
    start: Weights,
    end: Weights,
    *,
    num_points: int = 25,
    probes: Shaped[Array | np.ndarray, " ..."] | str | None = None,
) -> Path:
    """Log joint density, and the function if probes are given, on the straight path between weights.

    A site whose support is not convex, such as a Cholesky factor of a correlation matrix, would leave it on the way. It
    goes along a straight line of its unconstrained values instead, and is named in ``curved``.

    Args:
        posterior: Whose density and function are meant.
        start: Constrained value of each site; any batch dims lead, the same at all sites of both ends.
        end: The other end.
        num_points: Evenly spaced points, both ends among them.
        probes: Inputs of a network, or the name of a deterministic site (`Posterior.function`).

    Returns:
        The points, with the batch dims of the ends. The density is that of constrained weights, without Jacobians, so
        it does not depend on the bijections by which a sampler moves them.

    Raises:
        ValueError: If the ends do not fit the posterior or each other, or there are fewer than three points.

    Example:
        >>> import numpyro, numpyro.distributions as dist
        >>> def model(y):
        ...     mu = numpyro.sample("mu", dist.Normal(0.0, 1.0))
        ...     numpyro.sample("y", dist.Normal(mu**2, 0.1), obs=y)
        >>> posterior = Posterior(model, np.array(1.0))  # modes near -1 and 1, where the likelihood is exp(50) times
        >>> found = path(posterior, {"mu": np.array(-1.0)}, {"mu": np.array(1.0)})  # that at 0, the prior exp(-1/2)
        >>> float(found.barrier.round(2))
        49.5
    """
    batch, ends = _ends(posterior, start, end)
    t = _points(num_points)
    found = walk(posterior, None if probes is None else Probes.of(probes), t, ends)
    logdensity, function, curved = jax.tree.map(np.asarray, found)
    if function is not None:
        function = function.reshape(*batch, *function.shape[1:])
    return Path(t, logdensity.reshape(*batch, num_points), function, _curved_sites(curved))


def barriers(
    tree: xr.DataTree,
    posterior: Posterior,
    *,
    num_pairs: int = 60,
    num_points: int = 25,
    seed: int = 0,
    labels: Int[np.ndarray, "chain draw"] | None = None,
) -> Barriers:
    """Barriers between chains, raw and aligned, beside those between early and late draws of one chain.

    Args:
        tree: As `to_datatree` or `canonicalize` returns it.
        posterior: What was sampled.
        num_pairs: Random pairs a row.
        num_points: Evenly spaced points a path.
        seed: Of the random pairs; fixed, so that the same draws give the same barriers.
        labels: The mode of each draw of the tree's weights, for rows between and within modes; a draw with a negative
            number belongs to none.

    Returns:
        The table. Draws that are not finite take no part. The function is that of the tree's function level, its
        variance half the mean squared distance of the pairs of the first row.

    Raises:
        ValueError: If it is no tree of draws, the posterior has other sites, or numbers or labels do not fit.
    """
    t = _points(num_points)
    pairs, notes = choose_pairs(tree, posterior, labels, num_pairs, seed)
    if not pairs:
        return Barriers((), math.nan, math.nan, num_points, notes)
    ends: Any = jax.tree.map(lambda *parts: np.concatenate(parts), *[(kind.first, kind.second) for kind in pairs])
    logdensity, curved, strays, apart = jax.tree.map(np.asarray, measure(posterior, Probes.of_tree(tree), t, ends))
    height, variance = _barrier(t, logdensity), apart[:num_pairs].mean()
    excess = strays if variance == 0 else strays / variance
    parts = zip(pairs, np.split(height, len(pairs)), np.split(excess, len(pairs)), strict=True)
    rows = tuple(_row(kind.kind, heights, excesses) for kind, heights, excesses in parts)
    if sites := _curved_sites(curved):
        notes += (f"The support of {', '.join(sites)} is not convex: there paths are straight in unconstrained space.",)
    return Barriers(rows, _ratio(rows, "median"), _ratio(rows, "q90"), num_points, notes)


def _curved_sites(curved: Mapping[str, np.ndarray]) -> tuple[str, ...]:
    return tuple(site for site, is_curved in curved.items() if is_curved.any())


def _points(num_points: int) -> Points:
    if num_points < 3:
        raise ValueError(f"three points or more were expected, both ends and one between, got num_points={num_points}")
    return np.linspace(0.0, 1.0, num_points)


def _ends(posterior: Posterior, start: Weights, end: Weights) -> tuple[tuple[int, ...], Ends]:
    """The batch dims, and the latent sites of both ends with one leading dim instead."""
    batches = set()
    for weights in (start, end):
        for site, shape in posterior.sites.items():
            if site not in weights:
                raise ValueError(f"values of all the sites {', '.join(posterior.sites)} were expected, got no {site!r}")
            got = np.shape(weights[site])
            num_batch = len(got) - len(shape)
            if num_batch < 0 or got[num_batch:] != shape:
                raise ValueError(f"site {site!r} must have shape (...,) + {shape}, got {got}")
            batches.add(got[:num_batch])
    if len(batches) != 1:
        raise ValueError(f"the same batch dims at all sites of both ends were expected, got {sorted(batches)}")
    flat = [
        {s: jnp.reshape(weights[s], (-1, *shape)) for s, shape in posterior.sites.items()} for weights in (start, end)
    ]
    return batches.pop(), (flat[0], flat[1])


def _barrier(t: Points, logdensity: Float[np.ndarray, "*batch point"]) -> Float[np.ndarray, " *batch"]:
    energy = -np.where(np.isnan(logdensity), -np.inf, logdensity).astype(np.float64)
    with np.errstate(invalid="ignore"):  # an end without density has no chord
        return np.asarray(np.max(energy - (1 - t) * energy[..., :1] - t * energy[..., -1:], axis=-1))


def _row(kind: str, height: Float[np.ndarray, " pair"], excess: Float[np.ndarray, " pair"]) -> BarrierRow:
    known = ~np.isnan(height)
    if not known.any():
        return BarrierRow(kind, 0, math.nan, math.nan, math.nan)
    # Between infinite barriers there is no interpolating.
    q90 = np.quantile(height[known], 0.9, method="higher")
    return BarrierRow(
        kind, int(known.sum()), float(np.median(height[known])), float(q90), float(np.median(excess[known]))
    )


def _ratio(rows: tuple[BarrierRow, ...], statistic: str, many: str = "chains", one: str = "a chain") -> float:
    """Barriers between over barriers within, aligned; NaN where a row is missing."""
    found = {row.kind: max(getattr(row, statistic), _NO_HINDRANCE) for row in rows if row.num_pairs}
    return found.get(f"between {many}, aligned", math.nan) / found.get(f"within {one}, aligned", math.nan)


def _sentences(found: Barriers) -> list[str]:
    """What the numbers are, what the ratio says, and what it does not."""
    texts = [
        f"Barriers in nats above the chord, on {found.num_points} points a path. 'function': mean square by which the "
        "function strays from the straight line between its values at the ends, in units of its variance; 0 is linear "
        "mode connectivity."
    ]
    if not math.isnan(found.ratio):
        texts.append(
            "A curved posterior has barriers between the draws of one chain that mixes, so only the ratio to those "
            "within a chain says something (less than one nat counted as one): it is "
            f"{_number(found.ratio)} for the median, {_number(found.ratio_q90)} for the 90 % quantile. "
            f"{_reading(found)}"
        )
    modes = _ratio(found.rows, "median", "modes", "a mode")
    if not math.isnan(modes):
        texts.append(f"Between modes the median barrier is {_number(modes)} times that within a mode.")
    return [*texts, _CAVEAT] if found.rows else []


def _reading(found: Barriers) -> str:
    if found.ratio >= _SEVERAL:
        return "The chains are stuck in different modes, or the alignment missed, as it can in deep networks."
    if found.ratio_q90 >= _SEVERAL:
        return (
            "For most pairs the way from chain to chain is about as hard as within one, but a few chains may sit in "
            "other modes."
        )
    return "The way from chain to chain is about as hard as within one, as where chains mix but for their labels."


def _number(value: float) -> str:
    if math.isnan(value):
        return "-"
    return f"{value:.0f}" if 100 <= value < 1e7 else f"{value:.2g}"
