"""Stacking weights against the convex program, and what they are worth."""

import cvxpy as cp
import numpy as np
import pytest
from scipy import stats

from diagnostics.stacking import stack_modes, stacking_weights


@pytest.mark.parametrize(("number", "num_modes", "spread"), [(50, 2, 1.0), (200, 5, 0.1), (100, 8, 3.0), (30, 10, 1.0)])
def test_weights_are_those_of_the_convex_program(number, num_modes, spread):
    log_densities = np.random.default_rng(0).normal(scale=spread, size=(number, num_modes))
    found = stacking_weights(log_densities, np.full(number, 1 / number))
    weights = cp.Variable(num_modes, nonneg=True)
    score = cp.sum(cp.log(np.exp(log_densities) @ weights)) / number
    cp.Problem(cp.Maximize(score), [cp.sum(weights) == 1]).solve(solver=cp.CLARABEL)
    assert np.log(np.exp(log_densities) @ found).mean() == pytest.approx(score.value, rel=1e-7, abs=1e-7)
    assert found == pytest.approx(weights.value, abs=1e-4)
    assert found.sum() == pytest.approx(1.0)


def test_sets_of_observation_weights_are_solved_at_once():
    rng = np.random.default_rng(0)
    log_densities, weights = rng.normal(size=(40, 3)), rng.dirichlet(np.ones(40), size=5)
    together = stacking_weights(log_densities, weights)
    assert together == pytest.approx(np.stack([stacking_weights(log_densities, one) for one in weights]))


def _two_modes(rng, share):
    """Draws of two chains that predict two groups of observations, and the observations' true densities."""
    group = rng.random(80) < share
    means = np.where(group, -2.0, 2.0)
    observed = rng.normal(means)
    draws = np.stack([rng.normal(where, 0.05, size=100) for where in (-2.0, 2.0)])
    return stats.norm.logpdf(observed[None, None], draws[..., None]), group.mean()


def test_the_weights_are_the_shares_of_what_each_mode_predicts_and_the_errors_those_of_other_data():
    labels = np.repeat([[0], [1]], 100, axis=1)
    found = [stack_modes(_two_modes(np.random.default_rng(seed), 0.7)[0], labels) for seed in range(20)]
    weights, errors = (np.array([getattr(one, name)[0] for one in found]) for name in ("weights", "standard_errors"))
    assert np.sum(np.abs(weights - 0.7) <= 3 * errors) >= 19
    assert np.std(weights) / 1.5 <= np.median(errors) <= 1.5 * np.std(weights)
    assert all(one.unreliable == 0 for one in found)


def test_densities_that_importance_sampling_cannot_reach_are_counted():
    rng = np.random.default_rng(0)
    log_likelihood = rng.normal(size=(2, 200, 10)) * 0.1
    log_likelihood[:, :, 0] = -np.exp(3 * np.abs(rng.normal(size=(2, 200))))
    assert stack_modes(log_likelihood, np.repeat([[0], [1]], 200, axis=1)).unreliable == pytest.approx(0.1)
