"""Rows of a posterior: which data go together, unbiased estimates from a few, and models whose rows are coupled."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from numpyro.contrib.control_flow import scan
from numpyro.handlers import mask, scale
from subsets import first

from bnn_models import BNN, Posterior, likelihoods, networks, priors
from bnn_models.rows import draw_rows

RNG = np.random.default_rng(0)
N = 12
X = RNG.normal(size=(N, 2))
Y = RNG.normal(size=N)
GROUP = RNG.integers(0, 3, size=N)
WEIGHT = RNG.uniform(0.5, 2.0, size=N)


def hierarchical(data, y):
    tau = numpyro.sample("tau", dist.HalfNormal(1.0))
    effect = numpyro.sample("effect", dist.Normal(0.0, tau).expand([3]))
    mean = effect[data["group"]] + data["x"] @ jnp.ones(2)
    with numpyro.plate("row", y.shape[0]):
        numpyro.sample("y", dist.Normal(mean, 1.0), obs=y)


def scaled(x, y, weight, keep):
    mu = numpyro.sample("mu", dist.Normal(0.0, 1.0))
    with scale(scale=weight), mask(mask=keep):
        numpyro.sample("y", dist.Normal(mu * x[:, 0], 1.0), obs=y)
    numpyro.sample("z", dist.Normal(mu, 1.0).expand(x.shape).to_event(1), obs=x)


def as_many_weights_as_rows(x, y, prior_scale):
    """The prior's scales have a leading axis of N by accident: one an input."""
    w = numpyro.sample("w", dist.Normal(0.0, prior_scale))
    numpyro.sample("y", dist.Normal(x @ w, 1.0), obs=y)


def prior_of_data(y, known):
    mu = numpyro.sample("mu", dist.Normal(known.mean(), 1.0))
    numpyro.sample("y", dist.Normal(mu, 1.0), obs=y)


def mean_field(x, y):
    mu = numpyro.sample("mu", dist.Normal(0.0, 1.0))
    numpyro.sample("y", dist.Normal(mu * (x - x.mean(0)).sum(1), 1.0), obs=y)


def empirical_prior(y):
    mu = numpyro.sample("mu", dist.Normal(y.mean(), 1.0))
    numpyro.sample("y", dist.Normal(mu, 1.0), obs=y)


def local_latents(y):
    with numpyro.plate("row", y.shape[0]):
        theta = numpyro.sample("theta", dist.Normal(0.0, 1.0))
        numpyro.sample("y", dist.Normal(theta, 1.0), obs=y)


def plate_of_a_number(x, y, size):
    mu = numpyro.sample("mu", dist.Normal(0.0, 1.0))
    with numpyro.plate("row", size):
        numpyro.sample("y", dist.Normal(mu * x[:, 0], 1.0), obs=y)


def autoregression(y):
    phi = numpyro.sample("phi", dist.Normal(0.0, 1.0))
    numpyro.sample("y", dist.Normal(phi * y[:-1], 1.0), obs=y[1:])


def rolled(y):
    phi = numpyro.sample("phi", dist.Normal(0.0, 1.0))
    numpyro.sample("y", dist.Normal(phi * jnp.roll(y, 1), 1.0), obs=y)


def random_walk(y):
    def transition(state, observation):
        state = numpyro.sample("state", dist.Normal(state, 1.0))
        numpyro.sample("y", dist.Normal(state, 1.0), obs=observation)
        return state, None

    numpyro.sample("drift", dist.Normal(0.0, 1.0))
    scan(transition, jnp.zeros(()), y)


def gaussian_process(x, y):
    amplitude = numpyro.sample("amplitude", dist.HalfNormal(1.0))
    covariance = amplitude * jnp.exp(-((x[:, None, 0] - x[None, :, 0]) ** 2)) + jnp.eye(x.shape[0])
    numpyro.sample("y", dist.MultivariateNormal(jnp.zeros(x.shape[0]), covariance), obs=y)


def factored(y):
    mu = numpyro.sample("mu", dist.Normal(0.0, 1.0))
    numpyro.factor("soft", -(mu**2))
    numpyro.sample("y", dist.Normal(mu, 1.0), obs=y)


def two_lengths(y, z):
    mu = numpyro.sample("mu", dist.Normal(0.0, 1.0))
    numpyro.sample("y", dist.Normal(mu, 1.0), obs=y)
    numpyro.sample("z", dist.Normal(mu, 1.0), obs=z)


def closed_over(size):
    mu = numpyro.sample("mu", dist.Normal(jnp.zeros(size), 1.0))
    numpyro.sample("y", dist.Normal(mu[0], 1.0), obs=jnp.asarray(Y))


LINEAR = BNN(networks.mlp([2, 1]), priors.normal(), likelihoods.normal(scale=0.5))

WITH_ROWS = {
    "bnn": (BNN(networks.mlp([2, 3, 1]), priors.normal(), likelihoods.normal()), (X, Y)),
    "classes": (BNN(networks.mlp([2, 3]), priors.normal(), likelihoods.categorical()), (X, GROUP)),
    "hierarchical": (hierarchical, ({"x": X, "group": GROUP}, Y)),
    "scaled": (scaled, (X, Y, WEIGHT, WEIGHT > 1)),
    "as_many_weights_as_rows": (as_many_weights_as_rows, (RNG.normal(size=(N, N)), Y, WEIGHT)),
    "prior_of_data": (prior_of_data, (Y, WEIGHT)),
}


def position_of(posterior, seed=0):
    rng = np.random.default_rng(seed)
    prior = jax.eval_shape(lambda key: posterior.initial(key, 1), jax.random.key(0))
    return {site: jnp.asarray(rng.normal(size=x.shape[1:])) for site, x in prior.items()}


@pytest.fixture(params=first(4, WITH_ROWS))
def posterior(request):
    model, args = WITH_ROWS[request.param]
    return Posterior(model, *args)


def test_rows_add_up_to_the_likelihood(posterior):
    position = position_of(posterior)
    assert posterior.num_rows == N
    by_row = posterior.row_loglikelihood(position)
    assert by_row.shape == (N,)
    assert by_row.sum() == pytest.approx(float(posterior.loglikelihood(position)), rel=1e-5)


def test_a_few_rows_are_those_of_all(posterior):
    """Checked against the whole model at another place than the search looks at; the indices traced."""
    position = position_of(posterior, 7)
    indices = jnp.array([7, 2, 2, 11])
    few = jax.jit(lambda posterior, i: posterior.at_rows(i).row_loglikelihood(position))(posterior, indices)
    np.testing.assert_allclose(few, posterior.row_loglikelihood(position)[indices], rtol=1e-5, atol=1e-5)
    taken = posterior.at_rows(indices)
    assert taken.num_rows == 4
    assert taken.sites == posterior.sites
    assert taken.logprior(position) == pytest.approx(float(posterior.logprior(position)), rel=1e-6)


@pytest.mark.parametrize("batch_size", [4, pytest.param(3, marks=pytest.mark.slow)])
def test_estimate_over_a_partition_averages_to_the_density(posterior, batch_size, monkeypatch):
    """Batches that together hold each row once: the mean of the estimates is the density, to rounding."""
    position = position_of(posterior)
    monkeypatch.setattr(
        "bnn_models.rows.draw_rows", lambda key, num_rows, size: jax.random.key_data(key)[1] * size + jnp.arange(size)
    )
    keys = [jax.random.key(part) for part in range(N // batch_size)]
    estimates = np.array([posterior.logdensity_estimate(key, position, batch_size) for key in keys])
    assert np.ptp(estimates) > 0.01
    assert estimates.mean() == pytest.approx(float(posterior.logdensity(position)), rel=1e-5)


def test_each_row_is_drawn_as_often():
    keys = jax.random.split(jax.random.key(0), 4000)
    drawn = jax.vmap(lambda key: draw_rows(key, N, 4))(keys)
    assert (np.diff(np.sort(drawn, axis=1)) > 0).all()
    counts = np.bincount(np.ravel(drawn), minlength=N)
    share = 4 / N
    assert np.abs(counts - 4000 * share).max() < 4.5 * np.sqrt(4000 * share * (1 - share))


def test_small_batches_of_many_rows_are_drawn_with_replacement():
    drawn = np.asarray(jax.vmap(lambda key: draw_rows(key, 1000, 2))(jax.random.split(jax.random.key(0), 20_000)))
    assert 0 < np.count_nonzero(drawn[:, 0] == drawn[:, 1]) < 60
    counts = np.bincount(np.ravel(drawn), minlength=1000)
    assert ((counts - 40) ** 2 / 40).sum() == pytest.approx(999, abs=5 * np.sqrt(2 * 999))


def test_a_batch_of_all_rows_is_the_density_and_its_gradient():
    posterior = Posterior(LINEAR, X, Y)
    position = position_of(posterior)
    estimate = jax.grad(lambda z: posterior.logdensity_estimate(jax.random.key(0), z, N))(position)
    exact = jax.grad(posterior.logdensity)(position)
    jax.tree.map(np.testing.assert_array_equal, estimate, exact)


def test_padding_rows_of_weight_zero_change_nothing():
    posterior = Posterior(LINEAR, X, Y)
    position = position_of(posterior)
    padded = posterior.at_rows(jnp.array([*range(N), 0, 0, 0]))
    weights = jnp.array([1.0] * N + [0.0] * 3)
    total = (weights * padded.row_loglikelihood(position)).sum()
    assert total == pytest.approx(float(posterior.loglikelihood(position)), rel=1e-5)


def test_data_are_arguments_of_what_is_compiled():
    """Other data of the same shapes need no new program, and none are constants of it."""
    posterior = Posterior(LINEAR, X, Y)
    other = Posterior(posterior.model, 2 * X, Y + 1)
    position = position_of(posterior)
    traced = []

    @jax.jit
    def estimate(posterior, rng_key):
        traced.append(1)
        return posterior.logdensity_estimate(rng_key, position, 4)

    key = jax.random.key(0)
    first = float(estimate(posterior, key))
    assert float(estimate(other, key)) != pytest.approx(first, abs=0.1)
    assert float(estimate(other, key)) == pytest.approx(float(other.logdensity_estimate(key, position, 4)), rel=1e-5)
    assert len(traced) == 1
    constants = jax.make_jaxpr(lambda p: p.logdensity_estimate(key, position, 4))(posterior).consts
    assert all(np.shape(constant) != X.shape for constant in constants)


@pytest.mark.parametrize(
    ("model", "args", "message"),
    [
        (mean_field, (X, Y), "a row's log likelihood changes with the rows beside it"),
        (rolled, (Y,), "a row's log likelihood changes with the rows beside it"),
        (empirical_prior, (Y,), "its log prior changes with them"),
        (local_latents, (Y,), "latent site 'theta' changes its shape, so that the rows have latent variables"),
        (plate_of_a_number, (X, Y, N), "should come from the shape of an argument, not from a number"),
        (autoregression, (Y,), r"have 11 rows, but no array argument has a leading axis of 11"),
        (random_walk, (Y,), "latent site 'state' changes its shape"),
        (gaussian_process, (X, Y), "'y' has one log probability in all"),
        (factored, (Y,), "'soft' has one log probability in all, .* make a numpyro.factor on parameters a prior"),
        (two_lengths, (Y, Y[:5]), r"different numbers of rows, {'y': 12, 'z': 5}"),
        (closed_over, (3,), "no array argument has a leading axis of 12; pass the data as arguments"),
    ],
)
def test_models_whose_rows_belong_together_are_refused(model, args, message):
    posterior = Posterior(model, *args)
    with pytest.raises(ValueError, match=message):
        _ = posterior.num_rows


@pytest.mark.parametrize("batch_size", [0, -1, N + 1, True])
def test_impossible_batches_are_refused(batch_size):
    posterior = Posterior(LINEAR, X, Y)
    with pytest.raises(ValueError, match=f"between 1 and the 12 rows of the data, got {batch_size}"):
        posterior.logdensity_estimate(jax.random.key(0), position_of(posterior), batch_size)


@pytest.mark.parametrize("indices", [[0, N], [-1], [], [[0, 1]], [0.5], [True] * N])
def test_impossible_rows_are_refused(indices):
    posterior = Posterior(LINEAR, X, Y)
    with pytest.raises(ValueError, match="indices of rows"):
        posterior.at_rows(np.asarray(indices))
