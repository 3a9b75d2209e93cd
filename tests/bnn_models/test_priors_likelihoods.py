"""Priors and likelihoods: scaling, values they refuse, observations they refuse."""

import jax
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from subsets import first

from bnn_models import BNN, Posterior, likelihoods, networks, priors

X = np.random.default_rng(0).normal(size=(6, 3))

ALL = [priors.normal(0.5), priors.laplace(), priors.student_t(5.0), priors.logistic(), priors.mixture((2.0, 0.5))]


def site(prior, name, shape):
    with numpyro.handlers.seed(rng_seed=0), numpyro.handlers.trace() as sites:
        prior(name, shape)
    return sites[name]


@pytest.mark.parametrize(
    ("name", "shape", "num_inputs"),
    [
        ("head.kernel", (16, 3), 16),
        ("conv.kernel", (3, 3, 4, 8), 36),
        ("layers.0.weight", (3, 16), 16),
        ("conv.weight", (8, 4, 3, 3), 36),
        ("head.bias", (16,), 1),
        ("gain", (), 1),
    ],
)
def test_number_of_inputs(name, shape, num_inputs):
    assert priors.num_inputs(name, shape) == num_inputs


@pytest.mark.parametrize("prior", first(3, ALL), ids=repr)
@pytest.mark.parametrize(("name", "shape", "num_inputs"), [("head.kernel", (16, 3), 16), ("head.bias", (16,), 1)])
def test_fan_in_divides_the_standard_deviation(prior, name, shape, num_inputs):
    plain, scaled = site(prior, name, shape), site(priors.fan_in(prior), name, shape)
    np.testing.assert_allclose(scaled["fn"].variance * num_inputs, plain["fn"].variance, rtol=1e-5)
    # The same draw of the standard family, and every dimension an event dimension.
    np.testing.assert_allclose(scaled["value"] * np.sqrt(num_inputs), plain["value"], rtol=1e-4)
    assert scaled["fn"].event_shape == shape
    assert scaled["fn"].batch_shape == ()


def test_priors_are_equal_by_value():
    for prior in ALL:
        assert prior == prior.scaled(1.0)
        assert hash(priors.fan_in(prior)) == hash(priors.fan_in(prior.scaled(1.0)))
    assert priors.normal(1.0) != priors.laplace(1.0)
    assert priors.fan_in(priors.normal()) != priors.normal()


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda: priors.normal(0.0), "normal prior needs scale to be a positive number"),
        (lambda: priors.laplace(float("nan")), "laplace prior needs scale"),
        (lambda: priors.student_t(df=-1.0), "student_t prior needs df"),
        (lambda: priors.mixture((1.0,), (0.5, 0.5)), "one probability for each scale"),
        (lambda: priors.mixture((1.0, 2.0), (0.5, 0.6)), "add up to 1"),
        (lambda: priors.mixture((1.0, -2.0)), "mixture prior needs every scale"),
        (lambda: priors.fan_in(lambda name, shape: None), "fan_in needs a prior whose scale"),
        (lambda: likelihoods.normal(scale=-1.0), "normal likelihood needs scale"),
        (lambda: likelihoods.normal(prior_scale=0.0), "normal likelihood needs prior_scale"),
    ],
)
def test_bad_settings_get_one_sentence(call, sentence):
    with pytest.raises(ValueError, match=sentence):
        call()


@pytest.mark.parametrize(
    ("likelihood", "num_outputs", "y", "sentence"),
    [
        (likelihoods.normal(), 1, np.zeros(5), r"expected y of shape \(6,\).*got \(5,\)"),
        (likelihoods.normal(), 1, np.zeros((6, 1)), r"expected y of shape \(6,\).*got \(6, 1\).*y\[:, 0\]"),
        (likelihoods.normal(), 2, np.zeros(6), r"expected y of shape \(6, 2\)"),
        (likelihoods.normal(), 1, np.zeros(6, bool), "real dtype, got bool"),
        (likelihoods.categorical(), 1, np.zeros(6, int), "one network output for each class"),
        (likelihoods.categorical(), 3, np.zeros(6), "integer dtype, got float32"),
        (likelihoods.categorical(), 3, np.full(6, 3), "outside the support"),
        (likelihoods.categorical(), 3, np.full(6, -1), "outside the support"),
        (likelihoods.bernoulli(), 1, np.zeros(6), "integer dtype"),
        (likelihoods.bernoulli(), 1, np.full(6, 2), "outside the support"),
    ],
)
def test_observations_that_do_not_fit_are_refused(likelihood, num_outputs, y, sentence):
    model = BNN(networks.mlp([3, 2, num_outputs]), priors.normal(), likelihood)
    with pytest.raises(ValueError, match=sentence) as caught:
        Posterior(model, X, y)
    assert "\n" not in str(caught.value)


def test_inputs_of_another_width_are_refused():
    model = BNN(networks.mlp([4, 2, 1]), priors.normal(), likelihoods.normal())
    with pytest.raises(ValueError, match=r"does not run on its arguments \(x: \(6, 3\), y: \(6,\)\)"):
        Posterior(model, X, np.zeros(6))


def test_a_prior_of_ones_own():
    def positive(name, shape):
        return numpyro.sample(name, numpyro.distributions.HalfNormal(1.0).expand(shape).to_event(len(shape)))

    posterior = Posterior(BNN(networks.mlp([3, 2, 1]), positive, likelihoods.bernoulli()), X, np.ones(6, int))
    weights = posterior.constrain({name: -np.ones(shape) for name, shape in posterior.sites.items()})
    assert all(bool((value > 0).all()) for value in weights.values())
    assert posterior.precisions(weights) == {}


@pytest.mark.parametrize(("batch", "rows"), [((7,), (7,)), ((3, 7), (7,)), ((), (7,)), ((7,), ())])
def test_classes_as_rows_have_numpyros_density_and_gradient(batch, rows):
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(*batch, 4), scale=30).astype(np.float32)
    y = rng.integers(0, 4, rows)

    def logdensity(distribution):
        return lambda logits: distribution(logits).log_prob(y).sum()

    ours, numpyros = logdensity(likelihoods.ClassMajorCategorical), logdensity(dist.CategoricalLogits)
    for value, expected in zip(jax.value_and_grad(ours)(logits), jax.value_and_grad(numpyros)(logits), strict=True):
        np.testing.assert_allclose(value, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.filterwarnings("ignore:Out-of-support")
def test_no_class_has_no_density():
    logits = np.zeros((5, 3), np.float32)
    logprob = likelihoods.ClassMajorCategorical(logits).log_prob(np.array([-1, 0, 1, 2, 3]))
    np.testing.assert_allclose(logprob, [-np.inf, -np.log(3), -np.log(3), -np.log(3), -np.inf], rtol=1e-6)
