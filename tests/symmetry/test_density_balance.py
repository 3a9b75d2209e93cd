"""Balance by the prior's own density: closed forms, a general optimiser, and what has no such point."""

import numpy as np
import pytest
from scipy import optimize

from symmetry import balance, balance_density


def _laplace(scales):
    def logpdf(weights):
        return -sum(np.abs(w).sum() / scales[site] for site, w in weights.items())

    def gradient(weights):
        return {site: -np.sign(w) / scales[site] for site, w in weights.items()}

    return logpdf, gradient


def _student(scales, freedom=3.0):
    def logpdf(weights):
        parts = (np.log1p((w / scales[site]) ** 2 / freedom).sum() for site, w in weights.items())
        return -0.5 * (freedom + 1) * sum(parts)

    def gradient(weights):
        return {s: -(freedom + 1) * w / (freedom * scales[s] ** 2 + w**2) for s, w in weights.items()}

    return logpdf, gradient


@pytest.fixture
def network(make_mlp_group):
    group = make_mlp_group((3, 5, 4, 1), ("scale",))
    rng = np.random.default_rng(0)
    weights = {site: rng.normal(size=shape) * 2.0 for site, shape in group.sites.items()}
    return group, weights, dict(zip(group.sites, rng.uniform(0.3, 2.0, size=len(group.sites)), strict=True))


@pytest.mark.parametrize("family", [_laplace, pytest.param(_student, marks=pytest.mark.slow)])
def test_the_density_is_the_highest_on_the_orbit(network, family):
    group, weights, scales = network
    logpdf, gradient = family(scales)
    found = group.act(balance_density(weights, group, gradient), weights)
    sizes = [factor.size for factor in group.factors]

    def energy(u):
        parts = np.split(np.exp(u), np.cumsum(sizes)[:-1])
        return -logpdf(group.act(dict(zip((f.name for f in group.factors), parts, strict=True)), weights))

    best = optimize.minimize(energy, np.zeros(sum(sizes)), method="BFGS", options={"gtol": 1e-9})
    assert logpdf(found) == pytest.approx(-best.fun, rel=1e-8)
    assert logpdf(found) > logpdf(group.act(balance(weights, group), weights)) + 1e-3


def test_laplace_units_have_equal_sums_of_absolute_weights_on_both_sides(make_mlp_group):
    group = make_mlp_group((3, 6, 1), ("scale",))
    weights = {site: np.random.default_rng(1).normal(size=(4, *shape)) for site, shape in group.sites.items()}
    _, gradient = _laplace(dict.fromkeys(weights, 0.7))
    found = group.act(balance_density(weights, group, gradient), weights)
    into = np.abs(found["kernel_0"]).sum(1) + np.abs(found["bias_0"])
    np.testing.assert_allclose(into, np.abs(found["kernel_1"]).sum(2), rtol=1e-4)


def test_a_gaussian_prior_is_balanced_at_once(network):
    group, weights, scales = network
    precisions = {site: np.array(1 / scale**2) for site, scale in scales.items()}
    calls = []

    def gradient(weights):
        calls.append(1)
        return {site: -precisions[site] * w for site, w in weights.items()}

    found, expected = balance_density(weights, group, gradient), balance(weights, group, precisions)
    for name, scale in expected.items():
        np.testing.assert_allclose(found[name], scale, rtol=1e-5)
    assert len(calls) == 2  # the second sees that nothing moves


def test_a_prior_away_from_zero_is_refused(network):
    group, weights, _ = network
    with pytest.raises(ValueError, match="a prior that falls with the distance from zero was expected at"):
        balance_density(weights, group, lambda weights: {site: 5.0 - w for site, w in weights.items()})
