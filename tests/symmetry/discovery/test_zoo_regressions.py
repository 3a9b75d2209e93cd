"""The true groups of regressions and hierarchies: what inputs and labels tell apart, and what priors tie together."""

from collections import Counter

import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest
from latent import normal, positive
from numpyro import plate, sample
from truth import R, S, Z, exponents, factors, members, reason

from bnn_models import Posterior
from symmetry.discovery import find_symmetries

RNG = np.random.default_rng(0)
X, Y = RNG.standard_normal((12, 3)), RNG.standard_normal(12)
GROUPS = RNG.integers(0, 3, 12)


def test_automatic_relevance_determination():
    """A precision for each input: inputs are data, so nothing is exchangeable, and their weights have signs."""

    def model(x, y):
        precision = sample("precision", dist.Gamma(1.0, 1.0).expand([3]).to_event(1))
        weights = normal("weights", 3, scale=1 / jnp.sqrt(precision))
        sample("y", dist.Normal(x @ weights, 0.5), obs=y)

    found = find_symmetries(Posterior(model, X, Y))
    assert factors(found.posterior) == factors(found.likelihood) == Counter()
    assert reason(found.posterior, "precision", 0) == reason(found.posterior, "weights", 0) == "data of argument x"


def test_automatic_relevance_determination_without_centre():
    """Weights as scale times direction: the likelihood cannot tell how they share, one scale for each input."""

    def model(x, y):
        scale, direction = positive("scale", 3), normal("direction", 3)
        sample("y", dist.Normal(x @ (scale * direction), 0.5), obs=y)

    found = find_symmetries(Posterior(model, X, Y))
    assert factors(found.posterior) == Counter()
    assert factors(found.likelihood) == Counter([R(3)])
    assert exponents(found.likelihood, "scale", 3) == [{("scale", 0): 1, ("direction", 0): -1}]


def horseshoe(x, y):
    """Non-centred: global times local scale times direction."""
    overall = sample("overall", dist.HalfCauchy(1.0))
    local = sample("local", dist.HalfCauchy(1.0).expand([3]).to_event(1))
    weights = overall * local * normal("direction", 3)
    sample("y", dist.Normal(x @ weights, 0.5), obs=y)


def test_horseshoe():
    """Scales of the likelihood: each local one against its direction, the global one against all; priors break both."""
    found = find_symmetries(Posterior(horseshoe, X, Y))
    assert factors(found.posterior) == Counter()
    assert factors(found.likelihood) == Counter([R(3), R(1)])
    assert reason(found.posterior, "local", 0) == "data of argument x"


def test_horseshoe_on_hidden_units():
    """Local scales of the units of a network move along with their units."""

    def model(x, y):
        local = sample("local", dist.HalfCauchy(1.0).expand([4]).to_event(1))
        kernel, head = normal("kernel", 3, 4), sample("head", dist.Normal(0.0, local).to_event(1))
        sample("y", dist.Normal(jnp.tanh(x @ kernel) @ head, 0.5), obs=y)

    found = find_symmetries(Posterior(model, X, Y))
    assert factors(found.posterior) == Counter([S(4), Z(4)])
    assert members(found.posterior, "permutation", 4) == {("local", 0), ("kernel", 1), ("head", 0)}
    assert members(found.posterior, "sign", 4) == {("kernel", 1), ("head", 0)}


@pytest.mark.parametrize("centred", [True, False])
def test_hierarchical_model(centred):
    """Group labels are data: pinned. Without centre the likelihood has the scale of the groups' spread."""

    def model(group, y):
        mean, spread = sample("mean", dist.Normal(0.0, 1.0)), sample("spread", dist.HalfNormal(1.0))
        with plate("group", 3):
            level = sample("level", dist.Normal(mean, spread) if centred else dist.Normal(0.0, 1.0))
        level = level if centred else mean + spread * level
        with plate("n", y.shape[0]):
            sample("y", dist.Normal(level[group], 0.5), obs=y)

    found = find_symmetries(Posterior(model, GROUPS, Y))
    assert factors(found.posterior) == Counter()
    assert factors(found.likelihood) == Counter([] if centred else [R(1)])
    assert reason(found.posterior, "level", 0) == "position named by an index"


def test_equicorrelated_normal_prior():
    """A dense covariance that treats all units alike leaves them exchangeable, and one sign that flips them all."""

    def model(x, y):
        head = sample("head", dist.MultivariateNormal(jnp.zeros(4), 0.5 * jnp.eye(4) + 0.5))
        sample("y", dist.Normal(jnp.tanh(x @ normal("kernel", 3, 4)) @ head, 0.5), obs=y)

    found = find_symmetries(Posterior(model, X, Y))
    assert factors(found.likelihood) == Counter([S(4), Z(4)])
    assert factors(found.posterior) == Counter([S(4), Z(1)])
    assert exponents(found.posterior, "sign", 1) == [{("kernel", None): 1, ("head", None): 1}]
