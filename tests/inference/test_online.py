"""Moments of draws that are not kept: those of the draws themselves, however they come."""

import numpy as np
import pytest
from arviz_stats.base import array_stats

from inference.online import Moments, split_rhat, summarise


def moments(draws, lengths):
    """Adds (chain, draw, ...) draws in parts."""
    result = Moments()
    for part in np.split(draws, np.cumsum(lengths), axis=1):
        result.add(part)
    return result


@pytest.mark.parametrize("lengths", [[], [1, 2, 3, 50], [7] * 20, [200]])
@pytest.mark.parametrize("offset", [0.0, 1e6])
def test_moments_are_those_of_the_draws(lengths, offset):
    draws = offset + np.random.default_rng(0).normal(size=(3, 237, 2))
    whole = summarise([moments(draws, lengths)])
    flat = draws.reshape(-1, 2)
    np.testing.assert_allclose(whole["mean"], flat.mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose(whole["sd"], flat.std(axis=0, ddof=1), rtol=1e-8)


def test_chains_of_several_groups_lie_side_by_side():
    draws = np.random.default_rng(1).normal(size=(4, 128, 3)) + np.arange(4)[:, None, None]
    together = summarise([moments(draws, [])])
    apart = summarise([moments(draws[i : i + 1], [10 * i]) for i in range(4)])
    for name, expected in together.items():
        np.testing.assert_allclose(apart[name], expected, rtol=1e-12)


@pytest.mark.parametrize("shift", [0.0, 1.0])
@pytest.mark.parametrize("num_draws", [16, 64, 96, 1024])
def test_split_rhat_is_arviz_own(shift, num_draws):
    """At lengths that fill the segments no draw is left out; a shift between chains shows."""
    draws = np.random.default_rng(2).normal(size=(4, num_draws)) + shift * np.arange(4)[:, None]
    expected = array_stats.rhat(draws, chain_axis=0, draw_axis=1, method="split")
    assert split_rhat([moments(draws, [5])]) == pytest.approx(float(expected), rel=1e-10)
    assert (expected > 1.2) == (shift > 0)


def test_trend_inside_a_chain_shows():
    draws = np.random.default_rng(3).normal(size=(2, 1000)) + np.linspace(0, 3, 1000)
    assert split_rhat([moments(draws, [])]) > 1.15


def test_too_few_draws_have_no_rhat():
    assert np.isnan(split_rhat([moments(np.zeros((2, 9)), [])]))


def test_memory_does_not_grow():
    short, long = (moments(np.zeros((1, n, 5)), []) for n in (10, 10_000))
    assert len(short.segments) <= len(long.segments) <= 8
    assert long.total().num_draws == 10_000
