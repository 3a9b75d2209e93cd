"""Runs whose weights are thinned: the tree says which draws have them, and the other levels have all."""

import jax
import numpy as np
import pytest
import xarray as xr

from bnn_models import BNN, Posterior, likelihoods, networks, priors
from diagnostics import canonicalize, convergence, diagnose, load, save, to_datatree, verdict
from inference import HMC, Keep, sample
from symmetry import find_symmetries

THIN = 5


@pytest.fixture(scope="module")
def trees():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(20, 2))
    y = np.tanh(x @ [1.0, -1.0]) + 0.1 * rng.normal(size=20)
    model = BNN(networks.mlp([2, 3, 1], activation="tanh"), priors.normal(scale=1.0), likelihoods.normal(scale=0.2))
    posterior = Posterior(model, x, y)
    symmetries = find_symmetries(posterior)
    kernel = HMC(num_warmup=100, num_integration_steps=8)
    runs = [
        sample(posterior, kernel, num_chains=4, num_draws=203, rng_key=jax.random.key(0), keep=Keep(thin=thin))
        for thin in (1, THIN)
    ]
    return [canonicalize(to_datatree(draws, symmetries), posterior=posterior) for draws in runs]


def test_tree_says_which_draws_have_weights(trees):
    full, thin = trees
    np.testing.assert_array_equal(thin["posterior"]["draw"], np.arange(0, 203, THIN))
    for group in ("posterior", "canonicalization"):
        assert thin[group].sizes["draw"] == 41
    for site, array in thin["posterior"].data_vars.items():
        xr.testing.assert_equal(array, full["posterior"][site].sel(draw=array["draw"]))
    for group in ("function", "invariants", "sample_stats", "log_likelihood"):
        assert thin[group].sizes["draw"] == 203
    np.testing.assert_array_equal(thin["function"]["function"], full["function"]["function"])


def test_moments_are_of_all_draws(trees):
    full, thin = trees
    for site, array in full["posterior"].data_vars.items():
        known = thin["moments"][site]
        np.testing.assert_allclose(known.sel(statistic="mean"), array.mean(("chain", "draw")), rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(known.sel(statistic="sd"), array.std(("chain", "draw"), ddof=1), rtol=1e-4)


def test_function_level_and_verdict_are_those_of_all_draws(trees):
    judged = [verdict(tree) for tree in trees]
    assert judged[0].num_draws == judged[1].num_draws == 203
    assert judged[0].label == judged[1].label
    rows = [{row.level: row for row in convergence(tree).rows} for tree in trees]
    assert rows[0]["function"] == rows[1]["function"]
    assert diagnose(trees[1])


@pytest.mark.parametrize("suffix", [".nc", ".zarr"])
def test_tree_is_opened_lazily(trees, suffix, tmp_path):
    save(trees[1], tmp_path / f"tree{suffix}")
    opened = load(tmp_path / f"tree{suffix}", lazy=True)
    try:
        variable = opened["posterior"]["hidden_0.kernel"].variable
        assert not isinstance(variable._data, np.ndarray)
        xr.testing.assert_equal(opened["posterior"].to_dataset().load(), trees[1]["posterior"].to_dataset())
    finally:
        opened.close()
