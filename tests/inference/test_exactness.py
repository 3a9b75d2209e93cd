"""Hamiltonian kernels against known posteriors: means and variances within 5 standard errors, at ESS above 400."""

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
from subsets import only
from targets import Gaussian

from bnn_models import BNN, Posterior, likelihoods, networks, priors
from inference import GHMC, HMC, MALA, NUTS, ChEES, sample

KERNELS = {
    "nuts": NUTS(num_warmup=400),
    "hmc": HMC(num_warmup=400),
    "hmc, 16 steps, variances": HMC(num_warmup=400, num_integration_steps=16, metric="diagonal"),
    "hmc, geometric, dense": HMC(num_warmup=400, num_integration_steps=6, lengths="geometric", metric="dense"),
    "nuts, low rank": NUTS(num_warmup=400, metric="low_rank"),
    "mala": MALA(num_warmup=400),
    "ghmc": GHMC(num_warmup=400),
    "chees": ChEES(num_warmup=400),
}
# Draws of a chain where a draw is one leapfrog.
LONG = {"mala": 8000, "ghmc": 12000}
DATA = Path(os.environ.get("MANYMODES_DATA", Path(__file__).parents[3] / "shared" / "data")) / "posteriordb"


def over_kernels(*quick):
    """All kernels; those that are not named only in `make test-all`."""
    return pytest.mark.parametrize("name", only(quick, KERNELS))


def draw(target, name, num_draws, seed):
    settings = {"num_chains": 4, "rng_key": jax.random.key(seed), "progress": False}
    return sample(target, KERNELS[name], num_draws=LONG.get(name, num_draws), **settings)


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


@over_kernels("nuts", "hmc", "chees")
def test_correlated_gaussian(name):
    target = Gaussian.example(4)
    draws = draw(target, name, 1500, 2)
    assert_moments(draws.weights["x"], np.asarray(target.mean), target.covariance)
    assert_mean(np.log(draws.weights["scale"]), 0.0)
    assert_mean(np.log(draws.weights["scale"]) ** 2, 1.0)


def test_a_wrong_variance_is_noticed():
    """The control: draws of a Gaussian a tenth too wide."""
    draws = np.random.default_rng(0).normal(scale=1.1, size=(4, 1500))
    with pytest.raises(AssertionError):
        assert_mean(draws**2, 1.0)


@over_kernels("nuts")
def test_kinetic_energy_is_half_the_dimension(name):
    """The energy less the potential is the kinetic energy of a Gaussian momentum."""
    statistics = draw(Gaussian.example(4), name, 1500, 2).sample_stats
    kinetic = statistics["energy"] + statistics["lp"]
    assert (kinetic > 0).all()
    if isinstance(KERNELS[name], NUTS | GHMC):  # HMC that rejects keeps the momentum it started with
        assert_mean(kinetic, 2.5)


def funnel():
    v = numpyro.sample("v", dist.Normal(0.0, 1.0))
    with numpyro.plate("coordinate", 5):
        numpyro.sample("x", dist.Normal(0.0, jnp.exp(v / 2)))
    # A posterior has something observed; this is independent of all else.
    numpyro.sample("y", dist.Normal(0.0, 1.0), obs=jnp.zeros(()))


@over_kernels("hmc")
def test_funnel(name):
    """Neal's funnel with a log scale of unit variance, whose neck all of them reach: its marginal is known."""
    draws = draw(Posterior(funnel), name, 4000, 5)
    v, x = draws.weights["v"], draws.weights["x"]
    assert_mean(v, 0.0)
    assert_mean(v**2, 1.0)
    assert_mean((x * np.exp(-v / 2)[..., None])[..., 0] ** 2, 1.0)


@over_kernels("nuts", "hmc")
def test_bayesian_linear_regression(name):
    """A network without hidden layer, noise of known scale: the posterior is Gaussian."""
    rng = np.random.default_rng(1)
    x = rng.normal(size=(30, 3)) @ np.array([[1.0, 0.8, 0.0], [0.0, 0.6, 0.0], [0.3, 0.0, 1.0]])
    y = x @ [1.0, -2.0, 0.5] + 0.3 + 0.5 * rng.normal(size=30)
    model = BNN(networks.mlp([3, 1]), prior=priors.normal(scale=2.0), likelihood=likelihoods.normal(scale=0.5))
    draws = draw(Posterior(model, x, y), name, 1500, 3)
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
@over_kernels("hmc")
def test_eight_schools(name):
    data = json.loads(gzip.decompress((DATA / "data.json.gz").read_bytes()))["eight_schools"]
    with np.load(DATA / "reference_draws.npz") as arrays:
        reference = arrays["eight_schools-eight_schools_noncentered"].astype(np.float64)
        names = [str(name) for name in arrays["eight_schools-eight_schools_noncentered|names"]]
    posterior = Posterior(eight_schools, jnp.asarray(data["sigma"], float), jnp.asarray(data["y"], float))
    draws = draw(posterior, name, 3000, 4)
    mu, tau = draws.weights["mu"], draws.weights["tau"]
    theta = mu[..., None] + tau[..., None] * draws.weights["theta_trans"]
    drawn = {"mu": mu, "tau": tau} | {f"theta[{i + 1}]": theta[..., i] for i in range(8)}
    assert set(drawn) == set(names)
    for quantity, known in zip(names, np.moveaxis(reference, -1, 0), strict=True):
        assert_mean(drawn[quantity], known.mean(), known.std() / np.sqrt(known.size))
