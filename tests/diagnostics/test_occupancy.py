"""Shares, moves and round trips of paths through modes."""

import numpy as np
import pytest

from diagnostics.occupancy import occupancy


def _paths(rng, weights, num_chains, num_draws, moves):
    """Modes of chains that draw a new mode about ``moves`` times each, and begin anywhere."""
    labels = np.empty((num_chains, num_draws), int)
    labels[:, 0] = rng.choice(len(weights), size=num_chains)
    for draw in range(1, num_draws):
        new = rng.choice(len(weights), size=num_chains, p=weights)
        labels[:, draw] = np.where(rng.random(num_chains) < moves / num_draws, new, labels[:, draw - 1])
    return labels


def test_moves_are_counted_by_hand():
    labels = np.array([[0, 0, 1, 1, 0, 2, 2, 0], [1, 1, 1, 1, 1, 1, 1, 1]])
    found = occupancy(labels, np.ones(labels.shape, bool))
    assert found.transitions.tolist() == [[0, 1, 1], [1, 0, 0], [1, 0, 0]]
    assert found.round_trips.tolist() == [2, 0]
    assert found.visited.tolist() == [[True, False], [True, True], [True, False]]
    assert found.shares.tolist() == [[0.5, 0.0], [0.25, 1.0], [0.25, 0.0]]
    assert not found.crosses


def test_a_look_over_the_border_is_no_visit():
    labels = np.zeros((4, 100), int)
    labels[:, 50:] = 1
    labels[:, 10] = 1
    is_core = np.ones(labels.shape, bool)
    is_core[:, 10] = False
    assert occupancy(labels, is_core).transitions.tolist() == [[0, 4], [0, 0]]
    assert occupancy(labels, np.ones(labels.shape, bool)).transitions.tolist() == [[0, 8], [4, 0]]


@pytest.mark.parametrize("weights", [[0.7, 0.3], [0.6, 0.3, 0.1]])
def test_errors_are_those_of_the_shares(weights):
    weights = np.array(weights)
    scores, errors, shares = [], [], []
    for seed in range(60):
        found = occupancy(labels := _paths(np.random.default_rng(seed), weights, 8, 500, 100), labels >= 0)
        assert found.crosses
        shares.append(found.shares.mean(1))
        errors.append(found.standard_errors)
        scores.append((shares[-1] - weights) / errors[-1])
    assert np.mean(np.abs(scores) > 3) <= 0.05
    spread = np.std(shares, axis=0)
    assert (np.median(errors, axis=0) <= 1.5 * spread).all()
    assert (np.median(errors, axis=0) >= spread / 1.5).all()


@pytest.mark.parametrize("moves", [0, 3])
def test_chains_that_hardly_cross_have_shares_but_no_weights(moves):
    labels = _paths(np.random.default_rng(0), [0.9, 0.1], 8, 1000, moves)
    found = occupancy(labels, labels >= 0)
    assert np.isnan(found.standard_errors).all()
    assert not found.crosses
    assert found.shares.sum(0) == pytest.approx(1.0)


def test_one_mode_has_all_the_weight():
    found = occupancy(np.zeros((4, 50), int), np.ones((4, 50), bool))
    assert found.crosses
    assert found.shares.tolist() == [[1.0] * 4]
    assert found.standard_errors.tolist() == [0.0]
