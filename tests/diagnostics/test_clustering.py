"""Modes of samples whose modes are known."""

import numpy as np
import pytest
from scipy import stats

from diagnostics import clustering
from diagnostics.clustering import find_clusters, stability


def _normal(rng):
    return rng.normal(size=(3000, 4))


def _heavy_tailed(rng):
    return stats.t(3).rvs(size=(3000, 3), random_state=rng)


def _skewed(rng):
    return np.exp(rng.normal(size=(3000, 3)))


def _flat(rng):
    return rng.random((3000, 4))


def _bent(rng):
    draws = rng.normal(size=(3000, 2))
    draws[:, 0] *= 3
    draws[:, 1] += 0.5 * draws[:, 0] ** 2
    return draws


def _on_a_line(rng):
    return stats.t(3).rvs(size=(2000, 1), random_state=rng)


def _on_a_curve(rng):
    # Log likelihoods of twenty observations of a model with one parameter.
    return stats.norm.logpdf(rng.normal(size=20), rng.normal(0.0, 0.2, size=(2000, 1)))


def _almost_constant(rng):
    return 1e6 + 1e-12 * rng.normal(size=(500, 3))


@pytest.mark.parametrize(
    "make", [_normal, _heavy_tailed, _skewed, _flat, _bent, _on_a_line, _on_a_curve, _almost_constant]
)
def test_one_mode_is_one(make):
    for seed in range(4):
        clusters = find_clusters(make(np.random.default_rng(seed)))
        assert clusters.number == 1
        assert clusters.is_core.all()


def _apart(rng, weights, distance, num_quantities, num_draws=3000):
    """A mixture of normals at the corners of a simplex, and where each draw comes from."""
    component = rng.choice(len(weights), size=num_draws, p=weights)
    corners = distance / np.sqrt(2) * np.eye(len(weights), num_quantities)[: len(weights)]
    if num_quantities == 1:
        corners = distance * np.arange(len(weights))[:, None]
    return rng.normal(size=(num_draws, num_quantities)) + corners[component], component


@pytest.mark.parametrize(
    ("weights", "distance", "num_quantities"),
    [
        ([0.7, 0.3], 6, 1),
        ([0.7, 0.3], 6, 2),
        ([0.95, 0.05], 8, 50),
        ([0.5, 0.3, 0.2], 8, 20),
        (np.full(8, 1 / 8), 8, 20),
    ],
    ids=["two on a line", "two", "a small one", "three", "more than fit into three dimensions"],
)
def test_modes_are_counted_and_their_draws_found(weights, distance, num_quantities):
    for seed in range(3):
        draws, component = _apart(np.random.default_rng(seed), weights, distance, num_quantities)
        clusters = find_clusters(draws)
        assert clusters.number == len(weights)
        found = np.zeros((len(weights), len(weights)))
        np.add.at(found, (component, clusters.labels), 1)
        assert found.max(0).sum() >= 0.98 * len(draws)
        assert (np.diff(np.bincount(clusters.labels)) <= 0).all()  # the largest is mode 0


def test_a_shallow_valley_separates_nothing(monkeypatch):
    # At three standard deviations the density between two equal normals is 0.65 of that at their peaks.
    draws, _ = _apart(np.random.default_rng(0), [0.5, 0.5], 3, 2)
    assert find_clusters(draws).number == 1
    monkeypatch.setattr(clustering, "VALLEY_MAX", 1.0)
    assert find_clusters(draws).number > 1


def test_the_core_is_where_all_neighbours_agree():
    draws, component = _apart(np.random.default_rng(0), [0.5, 0.5], 5, 2)
    clusters = find_clusters(draws)
    wrong = clusters.labels != (component if clusters.labels[component == 0].mean() < 0.5 else 1 - component)
    assert 0.9 < clusters.is_core.mean() < 1
    assert wrong[clusters.is_core].mean() < 0.3 * wrong[~clusters.is_core].mean()


def test_draws_beyond_the_limit_join_the_mode_of_their_neighbours(monkeypatch):
    draws, component = _apart(np.random.default_rng(0), [0.6, 0.4], 8, 3)
    monkeypatch.setattr(clustering, "MAX_DRAWS", 500)
    clusters = find_clusters(draws)
    assert clusters.number == 2
    assert (clusters.labels == component).mean() > 0.99


def test_copies_of_one_draw_are_no_mode():
    draws = np.random.default_rng(0).normal(size=(2000, 3))
    draws[100:160] = draws[100]  # a chain that rejected sixty proposals
    assert find_clusters(draws).number == 1
    still = np.repeat(np.eye(3), 100, axis=0)  # chains that never moved
    assert find_clusters(still).number == 3


def test_few_draws_have_no_modes():
    assert find_clusters((np.arange(39.0)[:, None] > 20.0).astype(float)).number == 1


def test_what_is_there_is_found_again_and_what_is_not_is_not():
    draws, _ = _apart(np.random.default_rng(0), [0.7, 0.3], 8, 3, num_draws=1500)
    assert stability(draws, find_clusters(draws).labels).min() > 0.95
    invented = np.array([0, 1] * 750)
    assert stability(draws, invented).max() < 0.75
