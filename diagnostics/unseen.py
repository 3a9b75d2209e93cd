r"""Modes that no chain has visited: how likely the next chain finds one, and how many chains see them all.

With ``f_1`` modes visited by exactly one of ``M`` independently started chains, the next chain finds on average
``f_1 / M`` modes that none has visited (Good and Turing). If every chain stays in its mode this is the total weight of
the unseen modes, where the weight of a mode is the probability that a chain ends up in it: a property of the starts
and the sampler as much as of the posterior.

No mode unseen is no proof of none: of a mode of weight ``w`` all ``M`` chains fail with probability ``(1 - w)^M``. To
see *every* mode of weight ``w`` or more, of which there may be ``floor(1 / w)``, is the coupon collector's problem, and
its quantiles are computed exactly from the chain that counts the coupons collected.

References:
    I. J. Good (1953), The population frequencies of species and the estimation of population parameters, Biometrika 40.
    W. W. Esty (1983), A normal limit law for a nonparametric estimator of the coverage of a random sample, Annals of
    Statistics 11 (the standard error).
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool

_LIGHTEST = 1e-4  # of ten thousand modes the collector's chain is computed in a second or two


class Unseen(NamedTuple):
    """What the chains may have missed.

    Attributes:
        new: modes that one more chain finds on average, in places where none has been.
        standard_error: of ``new``.
        missable: weight of a mode that all chains miss with 5 % probability; heavier ones would have been seen.
    """

    new: float
    standard_error: float
    missable: float


def unseen(visited: Bool[np.ndarray, "mode chain"]) -> Unseen:
    """Good and Turing's estimate of what the next chain finds.

    Args:
        visited: Which chains have been in which modes.

    Example:
        >>> chains = np.zeros((3, 8), bool)
        >>> chains[0, :6] = chains[1, 6] = chains[2, 7] = True  # one mode with six chains, two with one
        >>> unseen(chains).new
        0.25
    """
    num_chains = visited.shape[1]
    times = visited.sum(1)
    once, twice = int((times == 1).sum()), int((times == 2).sum())
    variance = max(once * (1 - min(once / num_chains, 1.0)) + 2 * twice, 0) / num_chains**2
    return Unseen(once / num_chains, math.sqrt(variance), 1.0 - 0.05 ** (1.0 / num_chains))


def chains_to_see(weight: float, probability: float = 0.95) -> int:
    """How many chains see every mode of a weight, however many there are.

    Args:
        weight: The smallest weight that a mode may have to count; weights are probabilities of ending up in a mode.
        probability: That none of them is missed.

    Returns:
        The smallest number of chains that have visited ``floor(1 / weight)`` modes of that weight with that
        probability.

    Raises:
        ValueError: If the weight lies below 1e-4, or either is not below 1.

    Example:
        >>> chains_to_see(0.5), chains_to_see(0.05)
        (6, 117)
    """
    if not _LIGHTEST <= weight < 1:
        raise ValueError(f"a weight of at least {_LIGHTEST:g} and below 1 was expected, got {weight}; give 0.05, say")
    if not 0 < probability < 1:
        raise ValueError(f"a probability between 0 and 1 was expected, got {probability}; give 0.95, say")
    number = math.floor(1 / weight + 1e-9)
    # collected[k] is the probability that k of the modes have been visited.
    collected = np.zeros(number + 1)
    collected[0] = 1.0
    finds = weight * (number - np.arange(number + 1))
    num_chains = 0
    while collected[-1] < probability:
        found = collected * finds
        collected -= found
        collected[1:] += found[:-1]
        num_chains += 1
    return num_chains
