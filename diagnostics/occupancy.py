r"""How chains move between modes: shares with their errors, visits, transitions and round trips.

The share of all draws that lies in a mode estimates its weight if the chains cross between modes, and only then. Its
standard error is that of the mean of the mode's indicator, ``sqrt(p (1 - p) / ESS)``, with the effective sample size of
ArviZ, which differences between chains bring down. Below ten effective visits a chain, in any mode, such errors are
not to be trusted, and none is given.

A draw on the border between two modes would be counted as a crossing whenever it falls on the other side, so a chain is
in another mode only once it has reached the mode's core (milestoning).

References:
    A. Vehtari et al. (2021), Rank-normalization, folding, and localization, Bayesian Analysis 16 (ESS).
    N.-V. Buchete, G. Hummer (2008), Coarse master equations for peptide folding dynamics, Journal of Physical
    Chemistry B 112 (cores).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from .estimates import estimate

VISITS_PER_CHAIN = 10
"""Effective sample size of the indicator of the least visited mode, a chain, from which on shares are weights."""


class Occupancy(NamedTuple):
    """Where the chains were.

    Attributes:
        shares: of the draws of each chain that lie in each mode.
        standard_errors: of the mean share of each mode; all NaN where the chains do not cross often enough.
        visited: whether a chain reached the core of a mode.
        transitions: how often all chains together went from one mode (row) to another (column).
        round_trips: how often each chain left the mode that it began in and came back.
    """

    shares: Float[np.ndarray, "mode chain"]
    standard_errors: Float[np.ndarray, " mode"]
    visited: Bool[np.ndarray, "mode chain"]
    transitions: Int[np.ndarray, "mode mode"]
    round_trips: Int[np.ndarray, " chain"]

    @property
    def crosses(self) -> bool:
        """Whether the shares are weights, with standard errors."""
        return bool(np.isfinite(self.standard_errors).all())


def occupancy(labels: Int[np.ndarray, "chain draw"], is_core: Bool[np.ndarray, "chain draw"]) -> Occupancy:
    """Count where chains were and how they moved.

    Args:
        labels: Mode of every draw, from 0 on.
        is_core: Whether the draw lies in the core of its mode.

    Returns:
        The counts. Of a single mode the share is 1 without error.

    Example:
        >>> labels = np.tile(np.repeat([0, 1, 0], 20), (4, 1))
        >>> occupancy(labels, np.ones(labels.shape, bool)).transitions
        array([[0, 4],
               [4, 0]])
    """
    number = int(labels.max()) + 1
    is_in = labels[None] == np.arange(number)[:, None, None]
    transitions, round_trips = np.zeros((number, number), int), np.zeros(len(labels), int)
    visited = np.zeros((number, len(labels)), bool)
    for chain, path in enumerate(labels):
        milestones = path[is_core[chain]]
        stays = milestones[np.append(True, np.diff(milestones) != 0)] if len(milestones) else path[:1]
        np.add.at(transitions, (stays[:-1], stays[1:]), 1)
        visited[stays, chain] = True
        round_trips[chain] = np.count_nonzero(stays[1:] == stays[0])
    shares = is_in.mean(2)
    return Occupancy(shares, _standard_errors(is_in, shares.mean(1)), visited, transitions, round_trips)


def _standard_errors(
    is_in: Bool[np.ndarray, "mode chain draw"], weights: Float[np.ndarray, " mode"]
) -> Float[np.ndarray, " mode"]:
    if len(weights) == 1:
        return np.zeros(1)
    errors = estimate(np.moveaxis(is_in, 0, 2).astype(float)).mcse_mean
    visits = weights * (1 - weights) / errors**2
    return errors if (visits >= VISITS_PER_CHAIN * is_in.shape[1]).all() else np.full(len(weights), np.nan)
