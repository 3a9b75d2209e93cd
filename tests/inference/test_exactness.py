"""NUTS and HMC against known posteriors: means and variances within 5 Monte Carlo standard errors, at ESS above 400."""

import gzip
import json
import os
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from arviz_stats.base import array_stats
from targets import Gaussian

from bnn_models import BNN, Posterior, likelihoods, networks, priors
from inference import HMC, NUTS, sample

KERNELS = {
    "nuts": NUTS(num_warmup=400),
    "hmc": HMC(num_warmup=400, num_integration_steps=16),
}
DATA = Path(os.environ.get("MANYMODES_DATA", Path(__file__).parents[3] / "shared" / "data")) / "posteriordb"

parametrize_kernels = pytest.mark.parametrize("kernel", KERNELS.values(), ids=KERNELS.keys())


def assert_mean(draws, expected, error=0.0):
    """The mean of (chain, draw) draws is the expected one, itself known up to a standard error."""
    draws = np.asarray(draws, np.float64)
    assert array_stats.ess(draws, chain_axis=0, draw_axis=1, method="mean") > 400
    mcse = array_stats.mcse(draws, chain_axis=0, draw_axis=1, method="mean")
    assert abs(draws.mean() - expected) < 5 * np.hypot(mcse, error)


def assert_moments(draws, mean, covariance):
    """All means, variances and covariances of (chain, draw, dim) draws."""
    for i in range(len(mean)):
        assert_mean(draws[..., i], mean[i])
        for j in range(i + 1):
            assert_mean((draws[..., i] - mean[i]) * (draws[..., j] - mean[j]), covariance[i, j])


@parametrize_kernels
def test_correlated_gaussian(kernel):
    target = Gaussian.example(4)
    draws = sample(target, kernel, num_chains=4, num_draws=1500, rng_key=jax.random.key(2))
    assert_moments(draws.weights["x"], np.asarray(target.mean), target.covariance)
    assert_mean(np.log(draws.weights["scale"]), 0.0)
    assert_mean(np.log(draws.weights["scale"]) ** 2, 1.0)


@parametrize_kernels
def test_kinetic_energy_is_half_the_dimension(kernel):
    """The energy less the potential is the kinetic energy of a Gaussian momentum."""
    draws = sample(Gaussian.example(4), kernel, num_chains=4, num_draws=1500, rng_key=jax.random.key(2))
    kinetic = draws.sample_stats["energy"] + draws.sample_stats["lp"]
    assert (kinetic > 0).all()
    if isinstance(kernel, NUTS):  # HMC that rejects keeps the momentum it started with
        assert_mean(kinetic, 2.5)


@parametrize_kernels
def test_bayesian_linear_regression(kernel):
    """A network without hidden layer, noise of known scale: the posterior is Gaussian."""
    rng = np.random.default_rng(1)
    x = rng.normal(size=(30, 3)) @ np.array([[1.0, 0.8, 0.0], [0.0, 0.6, 0.0], [0.3, 0.0, 1.0]])
    y = x @ [1.0, -2.0, 0.5] + 0.3 + 0.5 * rng.normal(size=30)
    model = BNN(networks.mlp([3, 1]), prior=priors.normal(scale=2.0), likelihood=likelihoods.normal(scale=0.5))
    draws = sample(Posterior(model, x, y), kernel, num_chains=4, num_draws=1500, rng_key=jax.random.key(3))
    design = np.column_stack([x, np.ones(30)])
    covariance = np.linalg.inv(design.T @ design / 0.5**2 + np.eye(4) / 2.0**2)
    drawn = np.concatenate([draws.weights["head.kernel"][..., 0], draws.weights["head.bias"]], axis=-1)
    assert_moments(drawn, covariance @ design.T @ y / 0.5**2, covariance)
    assert_mean(draws.function[..., 0, 0], design[0] @ covariance @ design.T @ y / 0.5**2)


def eight_schools(sigma, y):
    mu = numpyro.sample("mu", dist.Normal(0.0, 5.0))
    tau = numpyro.sample("tau", dist.HalfCauchy(5.0))
    with numpyro.plate("school", 8):
        theta_trans = numpyro.sample("theta_trans", dist.Normal(0.0, 1.0))
        numpyro.sample("y", dist.Normal(mu + tau * theta_trans, sigma), obs=y)


@pytest.mark.skipif(not DATA.is_dir(), reason=f"needs the reference draws of posteriordb in {DATA}; see MANYMODES_DATA")
@parametrize_kernels
def test_eight_schools(kernel):
    data = json.loads(gzip.decompress((DATA / "data.json.gz").read_bytes()))["eight_schools"]
    with np.load(DATA / "reference_draws.npz") as arrays:
        reference = arrays["eight_schools-eight_schools_noncentered"].astype(np.float64)
        names = [str(name) for name in arrays["eight_schools-eight_schools_noncentered|names"]]
    posterior = Posterior(eight_schools, jnp.asarray(data["sigma"], float), jnp.asarray(data["y"], float))
    draws = sample(posterior, kernel, num_chains=4, num_draws=3000, rng_key=jax.random.key(4))
    mu, tau = draws.weights["mu"], draws.weights["tau"]
    theta = mu[..., None] + tau[..., None] * draws.weights["theta_trans"]
    drawn = {"mu": mu, "tau": tau} | {f"theta[{i + 1}]": theta[..., i] for i in range(8)}
    assert set(drawn) == set(names)
    for name, known in zip(names, np.moveaxis(reference, -1, 0), strict=True):
        assert_mean(drawn[name], known.mean(), known.std() / np.sqrt(known.size))
