r"""Weights of modes between which no chain crosses: stacking of their predictive densities.

With ``p_ik`` the leave-one-out predictive density of observation ``i`` under the draws of mode ``k`` (PSIS-LOO), the
weights maximise the mean log score of the mixture,

    max_w  (1/n) sum_i log sum_k w_k p_ik,    w_k >= 0,  sum_k w_k = 1.

They are the weights that predict best. Posterior masses they are only by accident: with much data the posterior puts
nearly all of its mass on one mode, while stacking mixes modes as long as that predicts better (Yao, Vehtari and Gelman
2022). The standard errors are the spread over Bayesian bootstraps of the observations (Rubin 1981): they answer for
other data of the same kind, not for the sampler.

The concave problem is solved by an interior-point method, for all bootstraps at once; since the gradient times ``w``
sums to one at the optimum, ``sum_k w_k = 1`` needs no multiplier but the term ``- sum_k w_k``.
"""

from __future__ import annotations

import warnings
from typing import Any, NamedTuple

import arviz as az
import numpy as np
from jaxtyping import Float, Int

_NUM_BOOTSTRAPS = 200
_NUM_STEPS = 40
_LAST_BARRIER = 1e-9
_BLOCK = 2**20  # numbers held at once
PARETO_K_MAX = 0.7


class Stacking(NamedTuple):
    """Stacking weights.

    Attributes:
        weights: of the modes.
        standard_errors: their spread over Bayesian bootstraps of the observations.
        unreliable: share of the pairs of mode and observation whose density cannot be trusted (Pareto k not below 0.7).
    """

    weights: Float[np.ndarray, " mode"]
    standard_errors: Float[np.ndarray, " mode"]
    unreliable: float


def stack_modes(
    log_likelihood: Float[np.ndarray, "chain draw observation"], labels: Int[np.ndarray, "chain draw"], *, seed: int = 0
) -> Stacking:
    """Stack the modes of a run.

    Args:
        log_likelihood: Of each observation in each draw.
        labels: Mode of every draw, from 0 on; each has five draws at least.
        seed: Of the bootstraps.
    """
    found = [_leave_one_out(log_likelihood[labels == mode]) for mode in range(int(labels.max()) + 1)]
    densities = np.stack([elpd for elpd, _ in found], axis=1)
    pareto_k = np.stack([k for _, k in found])
    return Stacking(*_with_errors(densities, seed), float(np.mean(~(pareto_k <= PARETO_K_MAX))))


def stacking_weights(
    log_densities: Float[np.ndarray, "observation mode"], observation_weights: Float[np.ndarray, "*sets observation"]
) -> Float[np.ndarray, "*sets mode"]:
    """The weights of the mixture with the highest mean log score.

    Args:
        log_densities: Leave-one-out log predictive density of each observation under each mode.
        observation_weights: How much each observation counts, adding up to one; any number of sets at once.

    Example:
        >>> density = np.log(np.array([[0.9, 0.1], [0.1, 0.9], [0.9, 0.1]]))
        >>> stacking_weights(density, np.ones(3) / 3).round(3)
        array([0.708, 0.292])
    """
    densities = np.exp(log_densities - log_densities.max(1, keepdims=True))
    number = densities.shape[1]
    weights = np.full((*observation_weights.shape[:-1], number), 1.0 / number)
    for barrier in np.geomspace(0.1, _LAST_BARRIER, _NUM_STEPS):
        ratio = densities / (weights @ densities.T)[..., None]
        score = observation_weights[..., None] * ratio
        gradient = score.sum(-2) - 1.0 + barrier / weights
        hessian = np.swapaxes(score, -1, -2) @ ratio + (barrier / weights**2)[..., None] * np.eye(number)
        step = np.linalg.solve(hessian, gradient[..., None])[..., 0]
        longest = np.where(step < 0, -weights / np.where(step < 0, step, -1.0), np.inf).min(-1, keepdims=True)
        weights = weights + np.minimum(1.0, 0.9 * longest) * step
    return weights / weights.sum(-1, keepdims=True)


def _with_errors(log_densities: Float[np.ndarray, "observation mode"], seed: int) -> tuple[np.ndarray, np.ndarray]:
    number = len(log_densities)
    rng = np.random.default_rng(seed)
    step = max(1, _BLOCK // log_densities.size)
    sizes = [min(step, _NUM_BOOTSTRAPS - begin) for begin in range(0, _NUM_BOOTSTRAPS, step)]
    found = [stacking_weights(log_densities, rng.dirichlet(np.ones(number), size)) for size in sizes]
    return stacking_weights(log_densities, np.full(number, 1.0 / number)), np.concatenate(found).std(0, ddof=1)


def _leave_one_out(log_likelihood: Float[np.ndarray, "draw observation"]) -> tuple[np.ndarray, np.ndarray]:
    """PSIS-LOO of each observation, and its Pareto k."""
    tree = az.from_dict({"log_likelihood": {"y": log_likelihood[None].astype(float)}})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # about Pareto k, which is returned
        found: Any = az.loo(tree, pointwise=True, reff=1.0)
    return np.asarray(found.elpd_i, float), np.asarray(found.pareto_k, float)
