import itertools

import numpy as np
import pytest

from diagnostics import autocovariance
from diagnostics.between import (
    autocorrelation_time,
    decompose,
    num_batches,
    permutation_test,
    smallest_p,
    standardise,
    varying,
)


def test_distances_equal_the_mean_over_all_pairs_of_draws():
    values = np.random.default_rng(0).normal(size=(3, 10, 4)) + np.arange(3)[:, None, None]
    distances = decompose(values).distances
    for c, d in itertools.product(range(3), repeat=2):
        pairs = values[c, :5, None, :] - values[d, None, 5:, :]
        assert distances[c, d] == pytest.approx((pairs**2).sum(-1).mean())


def test_beta_is_the_share_of_variance_between_chains():
    # Half the chains are shifted by s standard deviations: w = 2 and b = 2 + 4/7 s^2 a quantity.
    rng = np.random.default_rng(1)
    values = rng.normal(size=(8, 20_000, 3))
    values[:4] += 1.0
    parts = decompose(values)
    assert parts.beta == pytest.approx(1 - 2 / (2 + 4 / 7), abs=0.01)
    assert parts.rhat == pytest.approx(1 / np.sqrt(1 - parts.beta))
    np.testing.assert_allclose(parts.beta_each, parts.beta, atol=0.02)


def test_groups_are_the_chains_that_agree_with_each_other():
    values = np.random.default_rng(2).normal(size=(5, 400, 3))
    values[[1, 3]] += 5.0
    values[4] -= 5.0
    assert decompose(values).groups == ((0, 2), (1, 3), (4,))


def test_chains_that_never_move_are_apart_and_constants_say_nothing():
    apart = np.broadcast_to(np.array([0.0, 1.0, 1.0])[:, None, None], (3, 8, 1))
    assert decompose(apart).beta == 1.0
    assert decompose(apart).groups == ((0,), (1, 2))
    assert decompose(np.zeros((3, 8, 2))).beta == 0.0
    assert permutation_test(np.zeros((3, 8, 0)), 2) == (1.0, 1.0)


def test_standardise_drops_what_the_float_type_cannot_resolve():
    rng = np.random.default_rng(3)
    values = rng.normal(size=(4, 50, 4))
    values[..., 1] = 7.0
    values[..., 2] = 1e9 + rng.normal(size=(4, 50))
    assert varying(values).tolist() == [True, False, True, True]
    assert varying(values.astype(np.float32)).tolist() == [True, False, False, True]
    kept = standardise(values)
    np.testing.assert_allclose(kept.mean((0, 1)), 0.0, atol=1e-6)
    np.testing.assert_allclose(kept.std((0, 1)), 1.0)


@pytest.mark.parametrize("phi", [0.0, 0.5, 0.9])
def test_autocorrelation_time_of_an_autoregressive_chain(autoregressive, phi):
    values = autoregressive(np.random.default_rng(4), (4, 2000, 200), phi)
    shifted = values + np.arange(4)[:, None, None]  # what lies between chains does not count
    expected = (1 + phi) / (1 - phi)
    assert autocorrelation_time(shifted).mean() == pytest.approx(expected, rel=0.05)
    assert autocorrelation_time(shifted, num_corrections=0).mean() < expected * 1.05


def test_autocorrelation_time_of_constants_and_of_anticorrelated_draws_is_one(autoregressive):
    assert autocorrelation_time(autoregressive(np.random.default_rng(4), (4, 2000, 1), -0.5)) == 1.0
    assert autocorrelation_time(np.ones((2, 100, 1))) == 1.0


def test_autocorrelation_time_is_that_of_all_lags_where_the_first_do_not_hold_the_sequence(autoregressive, monkeypatch):
    rng = np.random.default_rng(8)
    values = np.concatenate([autoregressive(rng, (3, 700, 4), phi) for phi in (0.3, 0.99, 0.8)], axis=2)
    tau = autocorrelation_time(values)
    assert tau[4:8].min() > 10 > tau[:4].max()
    for lags in (4, 700):
        monkeypatch.setattr(autocovariance, "FIRST_LAGS", lags)
        np.testing.assert_allclose(autocorrelation_time(values), tau, rtol=1e-9)


def test_autocovariances_are_the_sums_that_they_stand_for():
    chains = np.random.default_rng(9).normal(size=(2, 3, 50)) + 5.0
    centred = chains - chains.mean(2, keepdims=True)
    expected = [(centred[..., : 50 - k] * centred[..., k:]).sum(2).mean(1) / 50 for k in range(50)]
    for num_lags in (1, 7, 50):
        found = autocovariance.autocovariance(chains, num_lags)
        np.testing.assert_allclose(found, np.stack(expected, 1)[:, :num_lags], atol=1e-12)


def test_batches_are_six_autocorrelation_times_long():
    assert [num_batches(500, tau) for tau in (1.0, 10.0, 20.0, 41.6, 42.0)] == [8, 8, 4, 2, 0]


def test_smallest_p_is_one_over_the_number_of_ways_to_deal():
    assert smallest_p(4, 2) == pytest.approx(1 / 105)
    assert smallest_p(8, 8) == pytest.approx(1 / 1000)


def test_permutation_p_is_the_share_of_dealings_as_extreme():
    values = np.random.default_rng(5).normal(size=(2, 6, 3))
    means = values.reshape(2, 3, 2, 3).mean(2).reshape(6, 3)
    means = means - means.mean(0)

    def between(order):
        return sum(3 * np.sum(means[list(part)].mean(0) ** 2) for part in (order[:3], order[3:]))

    orders = list(itertools.permutations(range(6)))
    exact = np.mean([between(order) >= between(range(6)) - 1e-12 for order in orders])
    assert permutation_test(values, 3)[0] == pytest.approx(exact, abs=0.05)


def test_p_is_uniform_for_exchangeable_chains(autoregressive):
    rng = np.random.default_rng(6)
    p = np.array([permutation_test(rng.normal(size=(4, 80, 10)), 8) for _ in range(100)])
    assert np.abs(p.mean(0) - 0.5).max() < 4 / np.sqrt(12 * 100)
    assert (p < 0.05).mean(0).max() < 0.05 + 4 * np.sqrt(0.05 * 0.95 / 100)


def test_one_quantity_among_many_is_found_by_the_largest():
    values = np.random.default_rng(7).normal(size=(4, 80, 200))
    values[0, :, 17] += 1.0
    pooled, local = permutation_test(standardise(values), 8)
    assert local == 0.001
    assert pooled > 0.01
