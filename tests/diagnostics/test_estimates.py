"""The fast estimates against ArviZ's own, on everything that decides between their branches."""

import numpy as np
import pytest
from arviz_stats.base import array_stats

from diagnostics import estimates
from diagnostics.estimates import TAILS, estimate, rhat

AXES = {"chain_axis": 0, "draw_axis": 1}
RNG = np.random.default_rng(0)


def arviz_estimates(values):
    return {
        "rhat": array_stats.rhat(values, **AXES),
        "ess_bulk": array_stats.ess(values, method="bulk", **AXES),
        "ess_tail": array_stats.ess(values, method="tail", prob=TAILS, **AXES),
        "mcse_mean": array_stats.mcse(values, method="mean", **AXES),
        "mcse_sd": array_stats.mcse(values, method="sd", **AXES),
    }


def rejected(values):
    """Draws of a sampler that often stays where it is: most ranks are shared."""
    stays = RNG.random(values.shape[:2]) < 0.6
    for t in range(1, values.shape[1]):
        values[:, t] = np.where(stays[:, t, None], values[:, t - 1], values[:, t])
    return values


def cases(ar):
    yield "mixing", ar(RNG, (4, 1000, 3), 0.5)
    yield "slow", ar(RNG, (4, 300, 5), 0.99)
    yield "antithetic", ar(RNG, (4, 300, 5), -0.7)
    yield "odd length", ar(RNG, (3, 301, 5), 0.8)
    yield "stuck apart", ar(RNG, (4, 200, 4), 0.2) + np.arange(4.0)[:, None, None]
    yield "another spread", ar(RNG, (4, 200, 4), 0.2) * np.arange(1.0, 5.0)[:, None, None]
    yield "rejections", rejected(ar(RNG, (4, 300, 4), 0.0))
    yield "counts", RNG.poisson(1.0, (4, 200, 4)).astype(float)
    yield "rare events", (RNG.random((4, 200, 4)) < 0.02).astype(float)
    yield "two chains of four", RNG.normal(size=(2, 4, 8))
    yield "two chains of five", RNG.normal(size=(2, 5, 8))
    yield "chains of seven", ar(RNG, (3, 7, 30), 0.9)
    yield "chains of nine", ar(RNG, (3, 9, 30), 0.9)
    yield "float32", ar(RNG, (4, 200, 4), 0.5).astype(np.float32)
    yield "some slow", np.concatenate([ar(RNG, (4, 600, 3), phi) for phi in (0.2, 0.995, 0.5)], axis=2)


def test_numbers_are_those_of_arviz(autoregressive):
    for name, values in cases(autoregressive):
        found = estimate(values)
        for statistic, expected in arviz_estimates(values.astype(float)).items():
            np.testing.assert_allclose(getattr(found, statistic), expected, rtol=1e-10, err_msg=f"{name}: {statistic}")
        np.testing.assert_array_equal(rhat(values), found.rhat)


@pytest.mark.parametrize("number", [4, 17, 1000])
def test_rows_are_sorted_to_the_last_bit(number):
    steps = np.spacing(1.0) * RNG.permutation(
        number
    )  # which the place of a number takes in the integers that are sorted
    normal, counts = RNG.normal(size=number), RNG.poisson(1.0, number) - 1.0
    rows = np.stack(
        [normal, 1.0 + steps, -1.0 - steps, counts, np.copysign(0.0, normal), 1e-310 * normal, 1e300 * normal]
    )
    order, ascending = estimates._sort(rows)
    np.testing.assert_array_equal(ascending, np.sort(rows, axis=1))
    np.testing.assert_array_equal(rows.reshape(-1)[order], ascending)
    np.testing.assert_array_equal(np.sort(order, axis=1), np.arange(rows.size).reshape(rows.shape))


def test_pieces_make_no_difference(autoregressive, monkeypatch):
    values = autoregressive(RNG, (4, 50, 23), 0.5)
    whole = estimate(values)
    monkeypatch.setattr(estimates, "_CHUNK", 4 * 50 * 5)
    for found, expected in zip(estimate(values), whole, strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-12)


def test_a_memory_mapped_array_will_do(autoregressive, tmp_path):
    values = autoregressive(RNG, (4, 50, 7), 0.5)
    np.save(tmp_path / "draws.npy", values)
    np.testing.assert_array_equal(rhat(np.load(tmp_path / "draws.npy", mmap_mode="r")), rhat(values))


def test_what_is_not_finite_has_no_estimates_and_spoils_no_other():
    values = RNG.normal(size=(4, 100, 3))
    expected = estimate(values)
    values[2, 17, 1], values[0, 3, 2] = np.nan, np.inf
    for statistic, good in zip(estimate(values), expected, strict=True):
        np.testing.assert_allclose(statistic[0], good[0], rtol=1e-12)
        assert np.isnan(statistic[1:]).all()


def test_a_constant_has_no_rhat_and_counts_as_independent_draws():
    found = estimate(np.full((4, 100, 1), 0.1))
    assert np.isnan(found.rhat[0])
    assert (found.ess_bulk[0], found.ess_tail[0], found.mcse_mean[0]) == (400, 400, 0)


def test_tiny_quantities_are_no_constants():
    values = RNG.normal(size=(4, 100, 2))
    np.testing.assert_allclose(estimate(1e-20 * values).mcse_mean, 1e-20 * estimate(values).mcse_mean, rtol=1e-10)


@pytest.mark.parametrize(("shape", "has_ess"), [((1, 100, 2), True), ((4, 3, 2), False)])
def test_one_chain_has_no_rhat_and_three_draws_have_nothing(shape, has_ess):
    found = estimate(RNG.normal(size=shape))
    assert np.isnan(found.rhat).all()
    assert np.isnan(rhat(RNG.normal(size=shape))).all()
    assert np.isfinite(found.ess_bulk).all() == has_ess


@pytest.mark.parametrize("phi", [0.0, 0.9])
def test_tau_is_the_time_within_chains_however_far_they_are_apart(autoregressive, phi):
    values = autoregressive(np.random.default_rng(1), (8, 4000, 5), phi)
    apart = values + 3.0 * np.arange(8)[:, None, None]
    np.testing.assert_allclose(estimate(values).tau, (1 + phi) / (1 - phi), rtol=0.25)
    np.testing.assert_allclose(estimate(apart).tau, (1 + phi) / (1 - phi), rtol=0.4)
