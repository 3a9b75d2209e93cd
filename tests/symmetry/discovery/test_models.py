"""Known groups of NumPyro models: of the posterior, of the likelihood, and what the prior breaks."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from numpyro import plate, sample
from subsets import first

from bnn_models import BNN, Posterior, likelihoods, networks, priors
from symmetry.discovery import find_symmetries

RNG = np.random.default_rng(0)
X, Y = RNG.standard_normal((20, 3)), RNG.standard_normal(20)
LABELS = RNG.integers(0, 3, 20)
S, Z, R = "permutation", "sign", "scale"


def groups(group):
    """Kinds and sizes by axis class."""
    found = {}
    for factor in group.factors:
        found.setdefault(factor.axis, set()).add((factor.kind, factor.size))
    return found


def members(group, name):
    return {(slot.site, slot.axis) for slot in group.factor(name).slots}


def reason(group, site, axis):
    return next((pin.reason for pin in group.pinned if (pin.site, pin.axis) == (site, axis)), None)


PRIORS = {
    "normal": lambda: dist.Normal(0.0, 0.7),
    "laplace": lambda: dist.Laplace(0.0, 2.0),
    "student_t": lambda: dist.StudentT(3.0, 0.0, 1.0),
    "logistic": lambda: dist.Logistic(0.0, 1.0),
    "mixture": lambda: dist.MixtureSameFamily(
        dist.Categorical(probs=np.array([0.5, 0.5])), dist.Normal(np.zeros(2), np.array([1.0, 0.1]))
    ),
}


def network(prior, likelihood, activation=jnp.tanh, widths=(3, 4, 1)):
    """A dense network with one hidden layer, its priors scaled by fan-in."""

    def model(x, y=None):
        h = x
        for i, (fan_in, fan_out) in enumerate(zip(widths[:-1], widths[1:], strict=True)):
            base = prior().expand([fan_in, fan_out]).to_event(2)
            kernel = sample(f"layer_{i}.kernel", base) / np.sqrt(fan_in)
            bias = sample(f"layer_{i}.bias", prior().expand([fan_out]).to_event(1))
            h = h @ kernel + bias
            h = activation(h) if i < len(widths) - 2 else h
        likelihood(h, y)

    return model


def gaussian(output, y):
    noise = sample("noise", dist.HalfNormal(1.0))
    sample("y", dist.Normal(output[:, 0], noise), obs=y)


def categorical(output, y):
    sample("y", dist.Categorical(logits=output), obs=y)


def bernoulli(output, y):
    sample("y", dist.Bernoulli(logits=output[:, 0]), obs=y)


@pytest.mark.parametrize("prior", first(2, PRIORS))
def test_odd_networks_under_even_priors(prior):
    found = find_symmetries(Posterior(network(PRIORS[prior], gaussian), X, Y))
    assert groups(found.posterior) == groups(found.likelihood) == {"layer_0": {(S, 4), (Z, 4)}}
    assert members(found.posterior, "layer_0:sign") == {
        ("layer_0.kernel", 1),
        ("layer_0.bias", 0),
        ("layer_1.kernel", 0),
    }
    assert found.broken == ()
    assert reason(found.posterior, "layer_0.kernel", 0) == "data of argument x"
    assert found.posterior.axes["layer_1.kernel"] == ("layer_0", None)


@pytest.mark.parametrize("prior", first(2, PRIORS))
def test_priors_break_the_scales_of_relu_networks(prior):
    found = find_symmetries(Posterior(network(PRIORS[prior], gaussian, jax.nn.relu), X, Y))
    assert groups(found.posterior) == {"layer_0": {(S, 4)}}
    assert groups(found.likelihood) == {"layer_0": {(S, 4), (R, 4)}}
    (broken,) = found.broken
    assert broken.factor == "layer_0:scale"
    assert broken.sites == ("layer_0.kernel", "layer_0.bias", "layer_1.kernel")


def test_a_bayesian_neural_network_of_this_library():
    model = BNN(networks.mlp([3, 3, 1], "tanh"), priors.normal(scale=1.0), likelihoods.normal())
    found = find_symmetries(Posterior(model, X, Y))
    assert groups(found.posterior) == groups(found.likelihood) == {"hidden_0": {(S, 3), (Z, 3)}}
    assert found.posterior.order == 48
    for factor in (*found.posterior.factors, *found.likelihood.factors):
        assert factor.certificate.error <= 1e-10
        assert factor.certificate.control > 1e-3


def test_a_prior_off_centre_breaks_signs_where_it_is():
    def model(x, y):
        w = sample("w", dist.Normal(0.0, 1.0).expand([3, 4]).to_event(2))
        v = sample("v", dist.Normal(1.0, 1.0).expand([4]).to_event(1))
        sample("y", dist.Normal(jnp.tanh(x @ w) @ v, 1.0), obs=y)

    found = find_symmetries(Posterior(model, X, Y))
    assert groups(found.posterior) == {"w_dim_1": {(S, 4)}}
    assert [(b.factor, b.sites) for b in found.broken] == [("w_dim_1:sign", ("v",))]


@pytest.mark.parametrize(
    ("likelihood", "y", "outputs"), [(categorical, LABELS, 3), (bernoulli, LABELS % 2, 1), (gaussian, Y, 1)]
)
def test_likelihoods(likelihood, y, outputs):
    model = network(PRIORS["normal"], likelihood, widths=(3, 5, 4, outputs))
    found = find_symmetries(Posterior(model, X, y))
    expected = {"layer_0": {(S, 5), (Z, 5)}, "layer_1": {(S, 4), (Z, 4)}}
    assert groups(found.posterior) == groups(found.likelihood) == expected


def test_hidden_layer_of_width_one():
    found = find_symmetries(Posterior(network(PRIORS["normal"], gaussian, widths=(3, 1, 1)), X, Y))
    assert groups(found.posterior) == {"layer_0": {(Z, 1)}}
    assert members(found.posterior, "layer_0:sign") == {
        ("layer_0.kernel", None),
        ("layer_0.bias", None),
        ("layer_1.kernel", None),
    }


@pytest.mark.parametrize("rows", [1, 20])
def test_linear_regression_has_none(rows):
    found = find_symmetries(Posterior(network(PRIORS["normal"], gaussian, widths=(3, 1)), X[:rows], Y[:rows]))
    assert found.posterior.factors == found.likelihood.factors == found.broken == ()
    assert reason(found.posterior, "layer_0.kernel", 0) == "data of argument x"


def test_per_unit_precisions_join_the_axis():
    def model(x, y):
        with plate("unit", 4):
            tau = sample("hidden.tau", dist.Gamma(1.0, 1.0))
        scale = 1 / jnp.sqrt(tau)
        w = sample("hidden.kernel", dist.Normal(0.0, scale).expand([3, 4]).to_event(2))
        v = sample("head.kernel", dist.Normal(0.0, scale).to_event(1))
        sample("y", dist.Normal(jnp.tanh(x @ w) @ v, 0.1), obs=y)

    found = find_symmetries(Posterior(model, X, Y))
    assert groups(found.posterior) == groups(found.likelihood) == {"hidden": {(S, 4), (Z, 4)}}
    kernels = {("hidden.kernel", 1), ("head.kernel", 0)}
    assert members(found.posterior, "hidden:permutation") == kernels | {("hidden.tau", 0)}
    assert members(found.posterior, "hidden:sign") == members(found.likelihood, "hidden:permutation") == kernels
    assert reason(found.likelihood, "hidden.tau", 0) == "not used"
    assert found.broken == ()


def test_unequal_prior_scales_leave_the_permutations_within_equal_ones():
    def model(x, y):
        scales = np.array([1.0, 1.0, 1.0, 2.0, 2.0, 3.0])
        w = sample("w", dist.Normal(0.0, scales).expand([3, 6]).to_event(2))
        v = sample("v", dist.Normal(0.0, 1.0).expand([6]).to_event(1))
        sample("y", dist.Normal(jnp.tanh(x @ w) @ v, 0.1), obs=y)

    found = find_symmetries(Posterior(model, X, Y))
    permutation = found.posterior.factor("w_dim_1:permutation")
    assert permutation.colours == (0, 0, 0, 1, 1, 2)
    assert permutation.colour_sizes == (3, 2, 1)
    assert (Z, 6) in groups(found.posterior)["w_dim_1"]
    assert found.likelihood.factor("w_dim_1:permutation").colours is None
    assert [(b.factor, b.sites) for b in found.broken] == [("w_dim_1:permutation", ("w",))]


def mixture(y):
    p = sample("p", dist.Dirichlet(jnp.ones(3)))
    mu = sample("mu", dist.Normal(0.0, 5.0).expand([3]).to_event(1))
    sigma = sample("sigma", dist.HalfNormal(1.0).expand([3]).to_event(1))
    sample("y", dist.MixtureSameFamily(dist.Categorical(probs=p), dist.Normal(mu, sigma)), obs=y)


def mixture_by_hand(y):
    p = sample("p", dist.Dirichlet(jnp.ones(3)))
    with plate("component", 3):
        mu, sigma = sample("mu", dist.Normal(0.0, 5.0)), sample("sigma", dist.LogNormal(0.0, 1.0))
    parts = jnp.log(p) + dist.Normal(mu, sigma).log_prob(y[:, None])
    numpyro.factor("y", jax.nn.logsumexp(parts, axis=1).sum())


@pytest.mark.parametrize("model", [mixture, mixture_by_hand])
def test_label_switching(model):
    found = find_symmetries(Posterior(model, Y))
    assert groups(found.posterior) == groups(found.likelihood) == {"p_dim_0": {(S, 3)}}
    assert members(found.posterior, "p_dim_0:permutation") == {("p", 0), ("mu", 0), ("sigma", 0)}


def test_an_ordered_site_has_no_label_switching():
    def model(y):
        mu = sample("mu", dist.ImproperUniform(dist.constraints.ordered_vector, (), (3,)))
        sample("y", dist.MixtureSameFamily(dist.Categorical(probs=jnp.ones(3) / 3), dist.Normal(mu, 1.0)), obs=y)

    found = find_symmetries(Posterior(model, Y))
    assert found.posterior.factors == found.likelihood.factors == ()


def test_unequal_supports_pin():
    def model(y):
        mu = sample("mu", dist.Uniform(0.0, np.array([1.0, 1.0, 2.0])).to_event(1))
        sample("y", dist.MixtureSameFamily(dist.Categorical(probs=jnp.ones(3) / 3), dist.Normal(mu, 1.0)), obs=y)

    found = find_symmetries(Posterior(model, Y))
    assert found.likelihood.factors == ()
    assert reason(found.likelihood, "mu", 0) == "support of mu"


def test_unequal_dirichlet_breaks_label_switching_in_part():
    def model(y):
        p = sample("p", dist.Dirichlet(np.array([1.0, 1.0, 2.0])))
        mu = sample("mu", dist.Normal(0.0, 5.0).expand([3]).to_event(1))
        sample("y", dist.MixtureSameFamily(dist.Categorical(probs=p), dist.Normal(mu, 1.0)), obs=y)

    found = find_symmetries(Posterior(model, Y))
    assert found.posterior.factor("p_dim_0:permutation").colours == (0, 0, 1)
    assert [(b.factor, b.sites) for b in found.broken] == [("p_dim_0:permutation", ("p",))]


def eight_schools(sigma, y):
    mu, tau = sample("mu", dist.Normal(0.0, 5.0)), sample("tau", dist.HalfCauchy(5.0))
    with plate("school", 8):
        theta = sample("theta", dist.Normal(mu, tau))
        sample("y", dist.Normal(theta, sigma), obs=y)


def eight_schools_non_centred(sigma, y):
    mu, tau = sample("mu", dist.Normal(0.0, 5.0)), sample("tau", dist.HalfCauchy(5.0))
    with plate("school", 8):
        z = sample("z", dist.Normal(0.0, 1.0))
        sample("y", dist.Normal(mu + tau * z, sigma), obs=y)


def test_eight_schools():
    found = find_symmetries(Posterior(eight_schools, np.arange(1.0, 9.0), Y[:8]))
    assert found.posterior.factors == found.likelihood.factors == ()
    assert reason(found.posterior, "theta", 0).startswith("data of argument")


def test_a_positive_site_is_scaled_but_keeps_its_sign():
    found = find_symmetries(Posterior(eight_schools_non_centred, np.arange(1.0, 9.0), Y[:8]))
    assert found.posterior.factors == ()
    assert groups(found.likelihood) == {"tau": {(R, 1)}}
    assert {slot.site: slot.exponent for slot in found.likelihood.factors[0].slots} == {"tau": 1, "z": -1}
    assert [b.sites for b in found.broken] == [("tau", "z")]


def test_factor_analysis():
    def model(y):
        loadings = sample("loadings", dist.Normal(0.0, 1.0).expand([5, 2]).to_event(2))
        scores = sample("scores", dist.Normal(0.0, 1.0).expand([y.shape[0], 2]).to_event(2))
        sample("y", dist.Normal(scores @ loadings.T, 0.1).to_event(2), obs=y)

    found = find_symmetries(Posterior(model, RNG.standard_normal((7, 5))))
    assert groups(found.posterior) == {"loadings_dim_1": {("orthogonal", 2)}}
    assert groups(found.likelihood) == {"loadings_dim_1": {("linear", 2)}}
    (broken,) = found.broken
    assert (broken.factor, broken.sites) == ("loadings_dim_1:linear", ("loadings", "scores"))
    assert broken.note == "of its matrices only rotations remain"


def test_a_prior_that_leaves_permutations_and_signs_of_a_linear_layer():
    def model(x, y):
        w = sample("w", dist.Laplace(0.0, 1.0).expand([3, 4]).to_event(2))
        v = sample("v", dist.Laplace(0.0, 1.0).expand([4]).to_event(1))
        sample("y", dist.Normal(x @ w @ v, 1.0), obs=y)

    found = find_symmetries(Posterior(model, X, Y))
    assert groups(found.posterior) == {"w_dim_1": {(S, 4), (Z, 4)}}
    assert [broken.note for broken in found.broken] == ["of its matrices only permutations and signs remain"]


@pytest.mark.parametrize("y", [np.zeros(5), np.array([0.0, 1.0, 1.0, 2.0, 0.0])])
def test_equal_observations_are_not_exchangeable(y):
    """The log joint alone would exchange the effects of equal observations, and with them what each row predicts."""

    def model():
        theta = sample("theta", dist.Normal(0.0, 1.0).expand([5]).to_event(1))
        with plate("n", 5):
            sample("y", dist.Normal(theta, 1.0), obs=jnp.asarray(y))

    found = find_symmetries(Posterior(model)).posterior
    assert [factor for factor in found.factors if factor.kind == S] == []
    assert "position in the output" in reason(found, "theta", 0)


def test_group_labels_in_the_data_pin():
    def model(index, y):
        with plate("group", 3):
            level = sample("level", dist.Normal(0.0, 1.0))
        sample("y", dist.Normal(level[index], 1.0), obs=y)

    found = find_symmetries(Posterior(model, LABELS, Y))
    assert found.posterior.factors == ()
    assert reason(found.posterior, "level", 0) == "position named by an index"


def test_a_posterior_takes_no_further_arguments():
    with pytest.raises(ValueError, match="carries its own data"):
        find_symmetries(Posterior(mixture, Y), X)


def test_the_same_model_gives_the_same_answer():
    first, second = (find_symmetries(Posterior(mixture, Y)).to_json() for _ in range(2))
    assert first == second
