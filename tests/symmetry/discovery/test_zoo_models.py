"""The true groups of Bayesian models that are no networks: mixtures, Markov chains, factors, latent traits."""

from collections import Counter

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from latent import normal, positive
from numpyro import plate, sample
from truth import GL, O, R, S, Z, exponents, factors, members, reason

from bnn_models import Posterior
from symmetry.discovery import find_symmetries

RNG = np.random.default_rng(0)
X, Y = RNG.standard_normal((12, 3)), RNG.standard_normal(12)
TABLE, COUNTS = RNG.standard_normal((8, 5)), RNG.integers(0, 4, (6, 7))
ANSWERS, GROUPS = RNG.integers(0, 2, (6, 5)), RNG.integers(0, 3, 12)


def gaussian_mixture(x):
    """Of several dimensions, each component with its own scales."""
    weights = sample("weights", dist.Dirichlet(jnp.ones(3)))
    mean, scale = normal("mean", 3, 3, scale=5.0), positive("scale", 3, 3)
    components = dist.Normal(mean, scale).to_event(1)
    sample("x", dist.MixtureSameFamily(dist.Categorical(probs=weights), components), obs=x)


def test_gaussian_mixture():
    """Label switching. The columns of the data are told apart by what is observed."""
    found = find_symmetries(Posterior(gaussian_mixture, X))
    assert factors(found.posterior) == factors(found.likelihood) == Counter([S(3)])
    assert members(found.posterior, "permutation", 3) == {("weights", 0), ("mean", 0), ("scale", 0)}
    assert reason(found.posterior, "mean", 1) == "data of argument x"


def nested_mixture(y):
    """Each component is itself a mixture, of two."""
    outer = sample("outer", dist.Dirichlet(jnp.ones(3)))
    inner = sample("inner", dist.Dirichlet(jnp.ones(2)).expand([3]).to_event(1))
    parts = dist.Normal(normal("mean", 3, 2), 1.0).log_prob(y[:, None, None]) + jnp.log(inner)
    total = jax.nn.logsumexp(jax.nn.logsumexp(parts, axis=2) + jnp.log(outer), axis=1)
    with plate("n", y.shape[0]):
        numpyro.factor("y", total)


def test_a_mixture_of_mixtures():
    """S_3 wr S_2: the parts of each component are relabelled by themselves."""
    found = find_symmetries(Posterior(nested_mixture, Y))
    assert factors(found.posterior) == factors(found.likelihood) == Counter([S(3), S(2, 3)])
    assert members(found.posterior, "permutation", 2) == {("inner", 1), ("mean", 1)}


def factor_analysis(y, scale=1.0):
    loadings, scores = normal("loadings", 5, 2, scale=scale), normal("scores", y.shape[0], 2)
    sample("y", dist.Normal(scores @ loadings.T, 0.5).to_event(2), obs=y)


def test_factor_analysis():
    """Any rotation of the factors under equal normal priors, any basis for the likelihood."""
    found = find_symmetries(Posterior(factor_analysis, TABLE))
    assert factors(found.posterior) == Counter([O(2)])
    assert factors(found.likelihood) == Counter([GL(2)])
    assert exponents(found.likelihood, "linear", 2) == [{("loadings", 1): 1, ("scores", 1): -1}]
    assert members(found.posterior, "orthogonal", 2) == {("loadings", 1), ("scores", 1)}
    (broken,) = found.broken
    assert set(broken.sites) == {"loadings", "scores"}


def test_factor_analysis_with_a_scale_for_each_factor():
    """Unequal prior scales fix the axes; what remains are their signs."""
    found = find_symmetries(Posterior(factor_analysis, TABLE, scale=np.array([1.0, 2.0])))
    assert factors(found.posterior) == Counter([Z(2)])
    assert factors(found.likelihood) == Counter([GL(2)])


def test_factor_analysis_with_laplace_priors():
    """Sparse loadings fix the axes up to their order and signs."""

    def model(y):
        loadings = sample("loadings", dist.Laplace(0.0, 1.0).expand([5, 2]).to_event(2))
        sample("y", dist.Normal(normal("scores", y.shape[0], 2) @ loadings.T, 0.5).to_event(2), obs=y)

    found = find_symmetries(Posterior(model, TABLE))
    assert factors(found.posterior) == Counter([S(2), Z(2)])


def regression_mixture(x, y):
    """Each component has its own line and noise."""
    weights = sample("weights", dist.Dirichlet(jnp.ones(2)))
    slope, bias, noise = normal("slope", 3, 2), normal("bias", 2), positive("noise", 2)
    lines = dist.Normal(x @ slope + bias, noise)
    sample("y", dist.MixtureSameFamily(dist.Categorical(probs=weights), lines), obs=y)


def test_mixture_of_regressions():
    found = find_symmetries(Posterior(regression_mixture, X, Y))
    assert factors(found.posterior) == factors(found.likelihood) == Counter([S(2)])
    everywhere = {("weights", 0), ("slope", 1), ("bias", 0), ("noise", 0)}
    assert members(found.posterior, "permutation", 2) == everywhere


def hidden_markov(y):
    """Categorical emissions, forward algorithm."""
    start = sample("start", dist.Dirichlet(jnp.ones(3)))
    transition = sample("transition", dist.Dirichlet(jnp.ones(3)).expand([3]).to_event(1))
    emission = sample("emission", dist.Dirichlet(jnp.ones(4)).expand([3]).to_event(1))

    def step(forward, symbol):
        return jax.nn.logsumexp(forward[:, None] + jnp.log(transition), axis=0) + jnp.log(emission[:, symbol]), None

    forward, _ = jax.lax.scan(step, jnp.log(start) + jnp.log(emission[:, y[0]]), y[1:])
    numpyro.factor("y", jax.nn.logsumexp(forward))


def test_hidden_markov_model():
    found = find_symmetries(Posterior(hidden_markov, GROUPS))
    assert factors(found.posterior) == factors(found.likelihood) == Counter([S(3)])
    everywhere = {("start", 0), ("transition", 0), ("transition", 1), ("emission", 0)}
    assert members(found.posterior, "permutation", 3) == everywhere
    assert reason(found.posterior, "emission", 1) == "position named by an index"


def left_to_right(y):
    """A hidden Markov model whose states can only be left in order."""
    stay = sample("stay", dist.Uniform(0.0, 1.0).expand([3]).to_event(1))
    transition = jnp.diag(stay) + jnp.diag(1 - stay[:2], 1)
    emission = dist.Normal(normal("mean", 3), 1.0).log_prob(y[:, None])

    def step(forward, emission):
        return jnp.log(jnp.exp(forward) @ transition + 1e-9) + emission, None

    forward, _ = jax.lax.scan(step, emission[0], emission[1:])
    numpyro.factor("y", jax.nn.logsumexp(forward))


def test_a_left_to_right_hidden_markov_model_has_ordered_states():
    found = find_symmetries(Posterior(left_to_right, Y))
    assert factors(found.posterior) == factors(found.likelihood) == Counter()


def topic_model(counts):
    """Latent Dirichlet allocation with its topics summed out."""
    num_documents, num_words = counts.shape
    topics = sample("topics", dist.Dirichlet(jnp.full(num_words, 0.5)).expand([3]).to_event(1))
    with plate("document", num_documents):
        shares = sample("shares", dist.Dirichlet(jnp.full(3, 0.5)))
        sample("counts", dist.Multinomial(total_count=counts.sum(1), probs=shares @ topics), obs=counts)


def test_topic_model():
    found = find_symmetries(Posterior(topic_model, COUNTS))
    assert factors(found.posterior) == Counter([S(3)])
    assert members(found.posterior, "permutation", 3) == {("topics", 0), ("shares", 1)}
    assert reason(found.posterior, "topics", 1) == "data of argument counts"


def item_response(answers, discrimination=None):
    """Two-parameter logistic model."""
    num_persons, num_items = answers.shape
    trait, difficulty = normal("trait", num_persons), normal("difficulty", num_items)
    steepness = normal("steepness", num_items) if discrimination is None else discrimination("steepness", num_items)
    logits = steepness * trait[:, None] - difficulty
    sample("answers", dist.Bernoulli(logits=logits).to_event(2), obs=answers)


def test_item_response_model():
    """The sign of the latent trait is free with that of all items; its scale for the likelihood alone."""
    found = find_symmetries(Posterior(item_response, ANSWERS))
    assert factors(found.posterior) == Counter([Z(1)])
    assert exponents(found.posterior, "sign", 1) == [{("trait", None): 1, ("steepness", None): 1}]
    assert factors(found.likelihood) == Counter([Z(1), R(1)])
    (broken,) = found.broken
    assert set(broken.sites) == {"trait", "steepness"}


def test_positive_discriminations_fix_the_sign_of_the_trait():
    found = find_symmetries(Posterior(item_response, ANSWERS, discrimination=positive))
    assert factors(found.posterior) == Counter()
    assert factors(found.likelihood) == Counter([R(1)])


def test_item_response_model_with_several_traits():
    """Compensatory traits are a factor analysis of logits: rotations under normal priors."""

    def model(answers):
        num_persons, num_items = answers.shape
        logits = normal("trait", num_persons, 2) @ normal("loading", 2, num_items) - normal("difficulty", num_items)
        sample("answers", dist.Bernoulli(logits=logits).to_event(2), obs=answers)

    found = find_symmetries(Posterior(model, ANSWERS))
    assert factors(found.posterior) == Counter([O(2)])
    assert factors(found.likelihood) == Counter([GL(2)])


def stick_breaking(y):
    """A truncated Dirichlet process: weights by breaking a stick, in order."""
    breaks = sample("breaks", dist.Beta(1.0, 2.0).expand([3]).to_event(1))
    rest = jnp.concatenate([jnp.ones(1, breaks.dtype), jnp.cumprod(1 - breaks)])
    weights = jnp.concatenate([breaks, jnp.ones(1, breaks.dtype)]) * rest
    components = dist.Normal(normal("mean", 4, scale=3.0), 1.0)
    sample("y", dist.MixtureSameFamily(dist.Categorical(probs=weights), components), obs=y)


def test_stick_breaking_orders_the_components():
    """The components of the likelihood could be relabelled as weights, but not as the lengths that break the stick."""
    found = find_symmetries(Posterior(stick_breaking, Y))
    assert factors(found.posterior) == factors(found.likelihood) == Counter()
    assert "order of positions in cumprod" in reason(found.posterior, "breaks", 0)
    assert reason(found.posterior, "mean", 0) is not None


def test_groups_without_labels_are_exchangeable():
    """A mixture over latent groups, each with its own levels of two kinds."""

    def model(y):
        with plate("group", 3):
            level, trend = sample("level", dist.Normal(0.0, 1.0)), sample("trend", dist.Normal(0.0, 1.0))
        time = jnp.arange(y.shape[0]) / 10.0
        parts = dist.Normal(level + trend * time[:, None], 0.5).log_prob(y[:, None])
        numpyro.factor("y", jax.nn.logsumexp(parts.sum(0)))

    found = find_symmetries(Posterior(model, Y))
    assert factors(found.posterior) == Counter([S(3)])
    assert members(found.posterior, "permutation", 3) == {("level", 0), ("trend", 0)}


def test_latents_of_each_observation_are_exchangeable_by_themselves():
    """The observations are data, yet each may relabel its own latents."""

    def model(y):
        parts = normal("parts", y.shape[0], 2)
        sample("y", dist.Normal(jnp.exp(parts).sum(1), 0.5), obs=y)

    found = find_symmetries(Posterior(model, Y))
    assert factors(found.posterior) == factors(found.likelihood) == Counter([S(2, 12)])
    assert reason(found.posterior, "parts", 0) == "data of argument y"


def test_factor_analysis_with_its_factors_integrated_out():
    """A covariance of loadings times their transpose knows no basis."""

    def model(y):
        loadings, noise = normal("loadings", 5, 2), positive("noise", 5)
        covariance = loadings @ loadings.T + jnp.diag(noise + 0.1)
        sample("y", dist.MultivariateNormal(jnp.zeros(5), covariance), obs=y)

    found = find_symmetries(Posterior(model, TABLE))
    assert factors(found.posterior) == factors(found.likelihood) == Counter([O(2)])


def test_nonnegative_matrix_factorisation():
    """Positive factors are reordered and scaled, but not mixed."""

    def model(counts):
        rates = positive("users", counts.shape[0], 2) @ positive("items", 2, counts.shape[1])
        sample("counts", dist.Poisson(rates).to_event(2), obs=counts)

    found = find_symmetries(Posterior(model, COUNTS))
    assert factors(found.posterior) == Counter([S(2)])
    assert factors(found.likelihood) == Counter([S(2), R(2)])


@pytest.mark.parametrize(
    "prior", [dist.Uniform(-1.0, 1.0), dist.TruncatedNormal(0.0, 1.0, low=-2.0, high=2.0)], ids=["uniform", "truncated"]
)
def test_bounded_supports_have_no_rotations(prior):
    """Densities do not say where they end: a rotation of a box leaves it, though no density changes inside."""

    def model(y):
        loadings = sample("loadings", prior.expand([5, 2]).to_event(2))
        sample("y", dist.Normal(normal("scores", y.shape[0], 2) @ loadings.T, 0.5).to_event(2), obs=y)

    found = find_symmetries(Posterior(model, TABLE))
    assert factors(found.posterior) == factors(found.likelihood) == Counter([S(2), Z(2)])
