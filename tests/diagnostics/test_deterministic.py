"""Deterministic sites: kept with the draws under NumPyro's names, and no part of what is compared."""

import arviz as az
import jax
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from numpyro.infer.reparam import LocScaleReparam

from bnn_models import Posterior
from diagnostics import canonicalize, open_run, summary, to_datatree, verdict
from inference import NUTS, programs, sample
from symmetry import find_symmetries

_Y = np.array([28.0, 8.0, -3.0, 7.0, -1.0, 1.0, 18.0, 12.0], np.float32)


@numpyro.handlers.reparam(config={"theta": LocScaleReparam(0)})
def _eight_schools(y):
    mu, tau = numpyro.sample("mu", dist.Normal(0.0, 5.0)), numpyro.sample("tau", dist.HalfNormal(5.0))
    with numpyro.plate("school", len(y)):
        theta = numpyro.sample("theta", dist.Normal(mu, tau))
        numpyro.deterministic("helps", theta > 0)
        numpyro.sample("y", dist.Normal(theta, 10.0), obs=y)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    posterior, folder = Posterior(_eight_schools, _Y), tmp_path_factory.mktemp("runs") / "run"
    settings = {"num_chains": 2, "num_draws": 100, "rng_key": jax.random.key(0), "progress": False}
    draws = sample(posterior, NUTS(num_warmup=100), **settings, run=folder)
    return draws, canonicalize(to_datatree(draws, find_symmetries(posterior)), posterior=posterior), folder


def test_values_are_those_of_the_model(run):
    draws, tree, _ = run
    weights = draws.weights
    theta = weights["mu"][..., None] + weights["tau"][..., None] * weights["theta_decentered"]
    np.testing.assert_allclose(tree["posterior"]["theta"], theta, rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(tree["posterior"]["helps"], tree["posterior"]["theta"] > 0)
    assert "theta[7]" in summary(tree).index
    assert az.rhat(tree)["theta"].shape == (8,)


def test_they_are_not_compared(run):
    _, tree, _ = run
    assert verdict(tree).level("raw").num_quantities == 10
    np.testing.assert_array_equal(tree["canonical_posterior"]["theta"], tree["posterior"]["theta"])


def test_they_do_not_follow_weights_that_move():
    def mixture(y):
        mean = numpyro.sample("mean", dist.Normal(0.0, 5.0).expand([2]))
        numpyro.deterministic("gap", mean[1] - mean[0])
        shares = dist.Categorical(probs=np.full(2, 0.5))
        numpyro.sample("y", dist.MixtureSameFamily(shares, dist.Normal(mean, 5.0)), obs=y)

    posterior = Posterior(mixture, _Y)
    draws = sample(
        posterior, NUTS(num_warmup=20), num_chains=2, num_draws=20, rng_key=jax.random.key(0), progress=False
    )
    tree = canonicalize(to_datatree(draws, find_symmetries(posterior)))
    assert set(tree["posterior"].data_vars) == {"mean", "gap"}
    assert set(tree["canonical_posterior"].data_vars) == {"mean"}


def test_a_handler_about_a_model_hides_no_names(run):
    assert "y: float32[8]" in repr(run[0].posterior)


def test_they_are_read_back(run):
    draws, _, folder = run
    read = open_run(folder)
    np.testing.assert_array_equal(read["posterior"]["theta"], draws.deterministic["theta"])
    assert read["posterior"]["theta"].attrs["deterministic"] == 1


def test_they_are_dropped_where_they_are_too_large(run, monkeypatch):
    posterior = run[0].posterior
    monkeypatch.setattr(programs, "_KEPT_BYTES", 2 * 100 * 8 * 4)
    settings = {"num_chains": 2, "num_draws": 100, "rng_key": jax.random.key(0), "progress": False}
    with pytest.warns(UserWarning, match="would take .* is not kept"):
        draws = sample(posterior, NUTS(num_warmup=100), **settings)
    assert draws.deterministic == {}
    assert set(to_datatree(draws)["posterior"].data_vars) == {"mu", "tau", "theta_decentered"}
