"""What chains may have missed, against counting and simulation."""

import itertools
import math

import numpy as np
import pytest

from diagnostics.unseen import chains_to_see, unseen


def _probability(number, weight, num_chains):
    """Of having seen all of some modes of one weight: inclusion and exclusion."""
    return sum((-1) ** k * math.comb(number, k) * (1 - k * weight) ** num_chains for k in range(number + 1))


@pytest.mark.parametrize("weight", [0.5, 1 / 3, 0.3, 0.1, 0.05])
@pytest.mark.parametrize("probability", [0.5, 0.95, 0.999])
def test_the_number_of_chains_is_the_exact_quantile(weight, probability):
    number = math.floor(1 / weight + 1e-9)
    found = chains_to_see(weight, probability)
    assert _probability(number, weight, found) >= probability
    assert _probability(number, weight, found - 1) < probability


def test_two_modes_by_hand():
    # Both halves are seen by n chains with probability 1 - 2^(1 - n).
    assert [chains_to_see(0.5, probability) for probability in (0.5, 0.75, 0.9)] == [2, 3, 5]


@pytest.mark.parametrize(("weight", "probability"), [(0.0, 0.95), (1.0, 0.95), (1e-5, 0.95), (0.1, 1.0), (0.1, 0.0)])
def test_weights_and_probabilities_lie_between_zero_and_one(weight, probability):
    with pytest.raises(ValueError, match=r"was expected, got .*; give 0\.(05|95), say"):
        chains_to_see(weight, probability)


def test_the_next_chain_finds_what_good_and_turing_expect():
    weights = np.array([0.5, 0.2, 0.1] + [0.02] * 10)
    differences, variances = [], []
    for seed in range(400):
        found = np.random.default_rng(seed).choice(len(weights), size=20, p=weights)
        visited = found == np.arange(len(weights))[:, None]
        estimate = unseen(visited[visited.any(1)])
        differences.append(estimate.new - weights[~visited.any(1)].sum())
        variances.append(estimate.standard_error**2)
    assert abs(np.mean(differences)) <= 3 * np.std(differences) / 20 + 0.01  # biased by a twentieth of a mode at most
    assert np.sqrt(np.mean(variances)) == pytest.approx(np.std(differences), rel=0.2)


def test_a_mode_that_can_be_missed_is_missed_in_one_run_of_twenty():
    visited = np.ones((1, 8), bool)
    assert (1 - unseen(visited).missable) ** 8 == pytest.approx(0.05)
    assert unseen(visited).new == 0.0


def test_chains_that_visit_several_modes_count_in_each():
    visited = np.array(list(itertools.repeat([True] * 4, 2)) + [[False, True, False, False]])
    assert unseen(visited).new == 0.25
