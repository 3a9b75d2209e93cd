import dataclasses

import jax
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest

from bnn_models import Posterior, priors
from diagnostics import canonicalize, to_datatree, verdict
from symmetry import find_symmetries


def _over_draws(function, posterior, weights):
    return np.asarray(jax.jit(jax.vmap(jax.vmap(function, (None, 0)), (None, 0)))(posterior, weights))


def _group_weights(tree, group):
    return {str(name): array.values for name, array in tree[group].data_vars.items()}


def _moved(draws, group, seed):
    element = group.random(jax.random.key(seed), (draws.num_chains, draws.num_draws))
    weights = group.act({k: np.asarray(v) for k, v in element.items()}, draws.weights)
    log_prior = _over_draws(Posterior.prior_logprob, draws.posterior, weights)
    return dataclasses.replace(draws, weights=weights, invariants={**draws.invariants, "log_prior": log_prior})


@pytest.fixture(scope="module", params=["tanh", "relu"])
def case(request, network_case):
    draws, symmetries = network_case(request.param)
    return draws, symmetries, canonicalize(to_datatree(draws, symmetries))


def test_no_function_changes(case):
    draws, _, tree = case
    canonical = _group_weights(tree, "canonical_posterior")
    before, after = (
        _over_draws(lambda posterior, one: posterior.function(one), draws.posterior, weights)
        for weights in (draws.weights, canonical)
    )
    assert any(np.abs(canonical[site] - draws.weights[site]).max() > 0.1 for site in canonical)
    np.testing.assert_allclose(after, before, rtol=1e-5, atol=1e-5 * np.abs(before).max())


def test_stored_elements_lead_from_raw_to_canonical_weights(case):
    draws, symmetries, tree = case
    elements = {str(name): array.values for name, array in tree["canonicalization"].data_vars.items()}
    weights = draws.weights
    for group, kinds in ((symmetries.likelihood, ("scale",)), (symmetries.posterior, ("permutation", "sign"))):
        part = group.restrict(kinds)
        weights = part.act({factor.name: elements[factor.name] for factor in part.factors}, weights)
    for site, array in _group_weights(tree, "canonical_posterior").items():
        np.testing.assert_allclose(weights[site], array, rtol=1e-6)


def test_canonical_weights_are_their_own_representatives(case):
    draws, symmetries, tree = case
    again = dataclasses.replace(draws, weights=_group_weights(tree, "canonical_posterior"))
    twice = canonicalize(to_datatree(again, symmetries))
    for site, array in again.weights.items():
        np.testing.assert_allclose(twice["canonical_posterior"][site], array, rtol=2e-5, atol=1e-5)


def test_alignment_brings_draws_together_and_distances_say_how_far(case):
    _, _, tree = case
    attributes = tree["canonicalization"].attrs
    assert attributes["spread_after"] < attributes["spread_before"]
    distance = tree["canonicalization"]["distance"].values
    assert (distance**2).mean() == pytest.approx(attributes["spread_after"], rel=1e-4)
    assert attributes["trivial"] == 0


def test_the_tree_that_is_given_stays_as_it_is(case):
    draws, symmetries, _ = case
    tree = to_datatree(draws, symmetries)
    before = tree.copy(deep=True)
    canonicalize(tree)
    assert tree.identical(before)


def test_copies_of_one_network_have_one_representative(network_case):
    draws, symmetries = network_case("tanh", units=(3, 3))
    copies = dataclasses.replace(
        draws,
        weights={site: np.broadcast_to(array[:1, :1], array.shape).copy() for site, array in draws.weights.items()},
    )
    tree = canonicalize(to_datatree(_moved(copies, symmetries.posterior, 3), symmetries))
    for array in tree["canonical_posterior"].data_vars.values():
        np.testing.assert_array_equal(array.values, np.broadcast_to(array.values[:1, :1], array.shape))
    assert tree["canonicalization"].attrs["spread_after"] == pytest.approx(0.0, abs=1e-9)


def test_scales_do_not_change_the_representative(network_case):
    draws, symmetries = network_case("relu")
    moved = _moved(draws, symmetries.likelihood.restrict(("scale",)), 4)
    plain, scaled = (canonicalize(to_datatree(run, symmetries)) for run in (draws, moved))
    for site, array in _group_weights(plain, "canonical_posterior").items():
        np.testing.assert_allclose(scaled["canonical_posterior"][site], array, rtol=1e-3, atol=1e-4)
    name = "canonical_log_prior"
    np.testing.assert_allclose(scaled["invariants"][name], plain["invariants"][name], rtol=1e-4)
    assert np.abs(scaled["invariants"]["log_prior"] - plain["invariants"]["log_prior"]).max() > 1.0


def test_canonical_log_prior_is_the_prior_at_the_canonical_weights(network_case):
    scale = 0.3
    tree = canonicalize(to_datatree(*network_case("relu", priors.normal(scale=scale))))
    weights = _group_weights(tree, "canonical_posterior")
    expected = sum(
        dist.Normal(0.0, scale).log_prob(array).reshape(*array.shape[:2], -1).sum(-1) for array in weights.values()
    )
    np.testing.assert_allclose(tree["invariants"]["canonical_log_prior"], expected, rtol=1e-4)
    assert (tree["invariants"]["canonical_log_prior"] > tree["invariants"]["log_prior"] - 1e-3).all()


def test_prior_that_is_not_gaussian_needs_the_posterior_for_its_canonical_value(network_case):
    draws, symmetries = network_case("relu", priors.laplace(scale=1.0))
    tree = to_datatree(draws, symmetries)
    without = canonicalize(tree)
    assert "canonical_log_prior" not in without["invariants"].data_vars
    assert "log likelihood alone" in str(verdict(without))
    assert "not posterior summaries" in str(verdict(without))
    within = canonicalize(tree, posterior=draws.posterior)
    weights = _group_weights(within, "canonical_posterior")
    expected = sum(
        dist.Laplace(0.0, 1.0).log_prob(array).reshape(*array.shape[:2], -1).sum(-1) for array in weights.values()
    )
    np.testing.assert_allclose(within["invariants"]["canonical_log_prior"], expected, rtol=1e-3, atol=1e-3)


def test_under_a_prior_that_is_not_gaussian_the_posterior_tells_the_point_of_highest_density(network_case):
    draws, symmetries = network_case("relu", priors.laplace(scale=1.0))
    tree = to_datatree(draws, symmetries)
    sides = []
    for canonical in (canonicalize(tree, posterior=draws.posterior), canonicalize(tree)):
        weights = _group_weights(canonical, "canonical_posterior")
        into = np.abs(weights["hidden_0.kernel"]).sum(2) + np.abs(weights["hidden_0.bias"])
        sides.append(into / np.abs(weights["head.kernel"]).sum(3))
    np.testing.assert_allclose(sides[0], 1.0, rtol=1e-3)
    assert np.abs(sides[1] - 1.0).max() > 0.1


def test_log_prior_of_a_group_without_scales_is_canonical_already(network_case):
    tree = canonicalize(to_datatree(*network_case("tanh")))
    assert tree["invariants"]["canonical_log_prior"].identical(
        tree["invariants"]["log_prior"].rename("canonical_log_prior")
    )


def test_scales_that_cannot_be_balanced_are_left_alone_and_the_verdict_says_why(network_case):
    draws, symmetries = network_case("relu")
    group = symmetries.likelihood
    one_sided = [
        dataclasses.replace(factor, slots=factor.slots[:1]) if factor.kind == "scale" else factor
        for factor in group.factors
    ]
    likelihood = dataclasses.replace(group, factors=tuple(one_sided))
    tree = canonicalize(to_datatree(draws, dataclasses.replace(symmetries, likelihood=likelihood)))
    assert tree["canonicalization"].attrs["unbalanced"]
    assert "Scales were left as they are" in str(verdict(tree))


def test_draws_that_are_not_finite_are_left_alone(case):
    draws, symmetries, tree = case
    broken = {site: array.copy() for site, array in draws.weights.items()}
    broken["hidden_0.bias"][1, 3, 0] = np.nan
    broken["head.kernel"][2, :, 0, 0] = np.inf
    result = canonicalize(to_datatree(dataclasses.replace(draws, weights=broken), symmetries))
    for site, array in broken.items():
        np.testing.assert_array_equal(result["canonical_posterior"][site][1, 3], array[1, 3])
        np.testing.assert_array_equal(result["canonical_posterior"][site][2], array[2])
    assert np.isfinite(result["canonical_posterior"]["hidden_0.bias"][0]).all()
    assert np.isnan(result["canonicalization"]["distance"].values).sum() == 1 + draws.num_draws


def test_model_without_symmetry_is_canonical_and_says_so(prior_draws):
    def regression(x, y):
        slope = numpyro.sample("slope", dist.Normal(0.0, 1.0).expand([2]).to_event(1))
        numpyro.sample("y", dist.Normal(x @ slope, 1.0), obs=y)

    x = np.random.default_rng(0).normal(size=(15, 2)).astype(np.float32)
    posterior = Posterior(regression, x, x[:, 0])
    tree = canonicalize(to_datatree(prior_draws(posterior, num_draws=100), find_symmetries(posterior)))
    assert tree["canonicalization"].attrs["trivial"] == 1
    assert tree["canonical_posterior"]["slope"].identical(tree["posterior"]["slope"])
    assert "canonical weights are the raw weights" in str(verdict(tree))


def test_tree_without_symmetries_is_refused(network_case):
    with pytest.raises(ValueError, match=r"find_symmetries\(posterior\)"):
        canonicalize(to_datatree(network_case("tanh")[0]))


def _location_on_the_orbit(x, y):
    first = numpyro.sample("first", dist.Normal(0.0, 1.0).expand([3, 2]).to_event(2))
    second = numpyro.sample("second", dist.Normal(0.0, 1.0).expand([2]).to_event(1))
    near = numpyro.sample("near", dist.Normal(first, 0.3).to_event(2))
    output = jax.nn.relu(x @ first) @ second + np.tanh(1.0) * (x @ near).sum(1)
    numpyro.sample("y", dist.Normal(output, 1.0), obs=y)


def _precision_on_the_orbit(x, y):
    second = numpyro.sample("second", dist.Normal(0.0, 1.0).expand([2]).to_event(1))
    spread = jax.numpy.abs(second) + 0.1
    first = numpyro.sample("first", dist.Normal(0.0, spread).expand([3, 2]).to_event(2))
    numpyro.sample("y", dist.Normal(jax.nn.relu(x @ first) @ second, 1.0), obs=y)


@pytest.mark.parametrize(
    "model", [pytest.param(_location_on_the_orbit, marks=pytest.mark.slow), _precision_on_the_orbit]
)
def test_priors_that_look_at_a_moved_site_are_not_taken_for_gaussian_masses(model, draws_at):
    rng = np.random.default_rng(0)
    posterior = Posterior(model, rng.normal(size=(20, 3)), rng.normal(size=20))
    weights = {site: rng.normal(size=(2, 10, *shape)).astype(np.float32) for site, shape in posterior.sites.items()}
    draws, symmetries = draws_at(posterior, weights), find_symmetries(posterior)
    assert any(factor.kind == "scale" for factor in symmetries.likelihood.factors)
    assert "canonical_log_prior" not in canonicalize(to_datatree(draws, symmetries))["invariants"].data_vars
    plain = canonicalize(to_datatree(draws, symmetries), posterior=posterior)
    exact = _over_draws(Posterior.prior_logprob, posterior, _group_weights(plain, "canonical_posterior"))
    np.testing.assert_allclose(plain["invariants"]["canonical_log_prior"], exact, rtol=1e-4)
    moved = _moved(draws, symmetries.likelihood.restrict(("scale",)), 5)
    scaled = canonicalize(to_datatree(moved, symmetries))
    for site, array in _group_weights(plain, "canonical_posterior").items():
        np.testing.assert_allclose(scaled["canonical_posterior"][site], array, rtol=1e-3, atol=1e-4)
