"""Parallel tempering knows the evidence and the weights of modes that no single chain crosses; its counts are right."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from scipy import stats
from targets import Gaussian

from bnn_models import BNN, Posterior, likelihoods, networks, priors
from inference import HMC, NUTS, ParallelTempering, executors, sample, tempering
from inference.ladder import (
    LogMean,
    acceptance_log,
    equal_rejections,
    exchange_order,
    start_counts,
    start_ladder,
    start_trips,
)

X = np.array([-1.0, -0.5, 0.5, 1.0])
Y = np.array([0.995, 0.4975, 0.5, 1.0])
NOISE = 0.1
# 4 chains of so many draws on 8 rungs: the standard error of the mode's weight is then below 0.01.
NUM_CHAINS, NUM_DRAWS = 4, 12_000
KERNEL = ParallelTempering(kernel=HMC(num_warmup=400, num_integration_steps=6), num_rungs=8)


def apply(weights, x):
    return weights["outer"] * jax.nn.relu(weights["inner"] * x)


def init(rng_key, x):
    return {"inner": jnp.zeros(()), "outer": jnp.zeros(())}


def two_functions():
    """One ReLU unit, f(x) = v relu(w x): it fits the points on the right or those on the left, never both."""
    model = BNN((init, apply), prior=priors.normal(scale=1.0), likelihood=likelihoods.normal(scale=NOISE))
    return Posterior(model, X.astype(np.float32)[:, None], Y.astype(np.float32))


def truth():
    """Weight of the mode on the right, and log evidence, by quadrature over both weights."""
    grid = np.linspace(-6, 6, 1201)
    w, v = grid[:, None, None], grid[None, :, None]
    mean = v * np.maximum(w * X, 0)
    logs = stats.norm.logpdf(Y, mean, NOISE).sum(-1) + stats.norm.logpdf(w[..., 0]) + stats.norm.logpdf(v[..., 0])
    density = np.exp(logs - logs.max())
    step = grid[1] - grid[0]
    return density[grid > 0].sum() / density.sum(), np.log(density.sum()) + logs.max() + 2 * np.log(step)


def weight_of(draws, chains=slice(None)):
    """Estimated weight of the mode on the right, and its standard error, by batch means over the chains."""
    on_right = (np.asarray(draws.weights["inner"])[chains] > 0).astype(float)
    batches = on_right.reshape(on_right.shape[0] * 10, -1).mean(axis=1)
    return on_right.mean(), batches.std(ddof=1) / np.sqrt(batches.size)


@pytest.fixture(scope="module")
def draws():
    settings = {"num_chains": NUM_CHAINS, "num_draws": NUM_DRAWS, "rng_key": jax.random.key(0)}
    return sample(two_functions(), KERNEL, **settings, progress=False)


def test_weights_of_two_functions_are_those_of_quadrature(draws):
    expected, log_evidence = truth()
    assert 0.1 < expected < 0.4 or 0.6 < expected < 0.9
    weight, error = weight_of(draws)
    assert error <= 0.01
    assert abs(weight - expected) < 3 * error
    estimates = draws.sample_stats["log_evidence"][:, -1]
    assert abs(estimates.mean() - log_evidence) < 3 * estimates.std(ddof=1) / np.sqrt(NUM_CHAINS)


@pytest.mark.slow
def test_weights_are_within_three_standard_errors_in_nineteen_of_twenty_seeds():
    settings = {"num_chains": 20 * NUM_CHAINS, "num_draws": NUM_DRAWS, "rng_key": jax.random.key(1)}
    drawn = sample(two_functions(), KERNEL, **settings, progress=False)
    expected, _ = truth()
    found = [weight_of(drawn, slice(NUM_CHAINS * seed, NUM_CHAINS * (seed + 1))) for seed in range(20)]
    assert max(error for _, error in found) <= 0.012
    assert np.mean([error for _, error in found]) <= 0.01
    assert sum(abs(weight - expected) < 3 * error for weight, error in found) >= 19


def test_single_chains_miss_it():
    settings = {"num_chains": 8, "num_draws": 1000, "rng_key": jax.random.key(0)}
    drawn = sample(two_functions(), NUTS(num_warmup=300), **settings, progress=False)
    on_right = (drawn.weights["inner"] > 0).mean(axis=1)
    assert set(on_right) == {0.0, 1.0}  # each chain knows one mode, and is sure of it


def test_round_trips_are_those_of_the_replicas(draws):
    """Counted again in NumPy, replica by replica."""
    replicas = draws.sample_stats["replica"]
    assert (np.sort(replicas, axis=-1) == np.arange(8)).all()
    for chain in range(NUM_CHAINS):
        total = 0
        for replica in range(8):
            rungs = np.argmax(replicas[chain] == replica, axis=1)
            ends = rungs[(rungs == 0) | (rungs == 7)]
            visits = ends[np.insert(np.diff(ends) != 0, 0, True)] if ends.size else ends
            # A chain's count begins with its draws; the replica at the prior then has begun its trip.
            visits = visits[np.argmax(visits == 0) :] if (visits == 0).any() else visits[:0]
            total += max(0, (visits == 0).sum() - 1)
        counted = draws.sample_stats["round_trips"][chain]
        assert abs(counted[-1] - total) <= 1
        assert counted[-1] > 100
        assert (np.diff(counted) >= 0).all()


def test_replicas_move_to_neighbours_of_the_right_parity(draws):
    replicas = draws.sample_stats["replica"][0]
    rungs = np.argsort(replicas, axis=-1)
    steps = np.diff(rungs, axis=0)
    assert set(np.unique(steps)) == {-1, 0, 1}
    t = KERNEL.num_warmup + 1 + np.arange(len(steps))
    lower = np.minimum(rungs[1:], rungs[:-1])
    assert ((lower % 2 == (t % 2)[:, None]) | (steps == 0)).all()


def test_the_ladder_makes_rejections_equal(draws):
    rejections = draws.sample_stats["rejection_rate"].mean(axis=1)
    assert np.ptp(rejections, axis=1).max() < 0.2
    np.testing.assert_allclose(draws.sample_stats["swap_rate"].mean(1), 1 - rejections.mean(1), rtol=1e-4)
    ladder = draws.sample_stats["inverse_temperature"]
    assert (ladder == ladder[:, :1]).all()  # frozen
    assert (ladder[..., 0] == 0).all()
    assert (ladder[..., -1] == 1).all()
    assert (np.diff(ladder, axis=-1) > 0).all()


def mixture(y):
    locations = jnp.array([[-4.0, 0.0], [4.0, 2.0], [0.0, 5.0]])
    position = numpyro.sample("position", dist.Normal(0.0, 8.0).expand((2,)).to_event(1))
    components = dist.MultivariateNormal(locations, covariance_matrix=0.25 * jnp.eye(2))
    law = dist.MixtureSameFamily(dist.Categorical(jnp.array([0.5, 0.35, 0.15])), components)
    numpyro.factor("likelihood", law.log_prob(position))


@pytest.mark.slow
def test_gaussian_mixture_as_a_numpyro_model():
    kernel = ParallelTempering(kernel=HMC(num_warmup=300, num_integration_steps=5), num_rungs=6)
    drawn = sample(
        Posterior(mixture, np.zeros(1)), kernel, num_chains=4, num_draws=4000, rng_key=jax.random.key(4), progress=False
    )
    position = drawn.weights["position"]
    locations, shares = np.array([[-4.0, 0.0], [4.0, 2.0], [0.0, 5.0]]), np.array([0.5, 0.35, 0.15])
    # The prior tilts the shares: each component's times the prior's mean over it.
    shares = shares * stats.norm.pdf(locations, scale=np.sqrt(64.25)).prod(axis=1)
    nearest = np.argmin(((position[..., None, :] - locations) ** 2).sum(-1), axis=-1)
    for mode, share in enumerate(shares / shares.sum()):
        batches = (nearest == mode).reshape(40, -1).mean(axis=1)
        assert abs(batches.mean() - share) < 4 * batches.std(ddof=1) / np.sqrt(40)
    estimates = drawn.sample_stats["log_evidence"][:, -1]
    assert abs(estimates.mean() - np.log(shares.sum())) < 4 * max(estimates.std(ddof=1) / 2, 1e-3)


def regression():
    rng = np.random.default_rng(1)
    x = rng.normal(size=(20, 2))
    y = x @ [1.0, -2.0] + 0.3 + 0.5 * rng.normal(size=20)
    model = BNN(networks.mlp([2, 1]), prior=priors.normal(scale=2.0), likelihood=likelihoods.normal(scale=0.5))
    design = np.column_stack([x, np.ones(20)])
    evidence = stats.multivariate_normal(np.zeros(20), 4.0 * design @ design.T + 0.25 * np.eye(20)).logpdf(y)
    covariance = np.linalg.inv(design.T @ design / 0.25 + np.eye(3) / 4.0)
    return Posterior(model, x, y), evidence, covariance @ design.T @ y / 0.25


def sampled_regression(num_rungs):
    posterior, evidence, mean = regression()
    kernel = ParallelTempering(kernel=HMC(num_warmup=300, num_integration_steps=5), num_rungs=num_rungs)
    drawn = sample(posterior, kernel, num_chains=4, num_draws=2000, rng_key=jax.random.key(2), progress=False)
    estimates = drawn.sample_stats["log_evidence"][:, -1]
    kernel_draws = drawn.weights["head.kernel"][..., 0, 0].reshape(40, -1).mean(axis=1)
    z_evidence = (estimates.mean() - evidence) / (estimates.std(ddof=1) / 2)
    return z_evidence, (kernel_draws.mean() - mean[0]) / (kernel_draws.std(ddof=1) / np.sqrt(40)), estimates


def test_log_evidence_of_a_linear_regression():
    z_evidence, z_mean, estimates = sampled_regression(7)
    assert abs(z_evidence) < 3
    assert abs(z_mean) < 4
    assert estimates.std(ddof=1) < 0.2


def test_wrong_sign_of_the_exchange_is_caught(monkeypatch):
    def wrong(betas, loglikelihoods):
        return acceptance_log(betas, -loglikelihoods)

    monkeypatch.setattr(tempering, "acceptance_log", wrong)
    executors._trace.cache_clear()
    z_evidence, _, _ = sampled_regression(7)
    executors._trace.cache_clear()
    assert not abs(z_evidence) < 6


@pytest.mark.slow
def test_rungs_step_alike_one_by_one_and_at_once(monkeypatch):
    target = Gaussian.example(3)
    kernel = ParallelTempering(kernel=HMC(num_warmup=10, num_integration_steps=3), num_rungs=4)
    ends = []
    for backend in ("cpu", "gpu"):
        monkeypatch.setattr(tempering.jax, "default_backend", lambda backend=backend: backend)
        state = kernel.init(
            jax.random.key(0), jax.tree.map(lambda x: x[0], target.initial(jax.random.key(1), 1)), target
        )
        step = jax.jit(lambda key, state, t: kernel.step(key, state, target, t))
        for t in range(6):
            state, _ = step(jax.random.key(t), state, jnp.int32(t))
        ends.append(state)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-3), *ends)


def test_exchange_order_is_the_product_of_the_swaps():
    for swaps in ([1, 0, 1, 0], [0, 1, 0, 0], [0, 0, 0, 0], [0, 1, 0, 1]):
        expected = list(range(5))
        for pair, swapped in enumerate(swaps):
            if swapped:
                expected[pair], expected[pair + 1] = expected[pair + 1], expected[pair]
        np.testing.assert_array_equal(exchange_order(jnp.array(swaps, bool)), expected)


def test_exchanges_keep_the_joint_law():
    """Detailed balance of one pair: both ways have the same flow."""
    betas, likelihoods = jnp.array([0.2, 0.7]), jnp.array([-3.0, -5.0])
    forth = acceptance_log(betas, likelihoods)[0] + betas @ likelihoods
    back = acceptance_log(betas, likelihoods[::-1])[0] + betas @ likelihoods[::-1]
    assert forth == pytest.approx(back)


@pytest.mark.parametrize("worst", [-jnp.inf, jnp.nan])
def test_states_without_likelihood_never_leave_the_prior(worst):
    log_accept = acceptance_log(jnp.array([0.0, 0.5]), jnp.array([worst, -3.0]))
    assert log_accept[0] == -jnp.inf


def test_adapted_ladder_equalises_a_known_barrier():
    """With the barrier proportional to the square root of beta the answer is a ladder of squares."""
    betas = jnp.asarray(start_ladder(9))
    for _ in range(6):
        betas = equal_rejections(betas, jnp.diff(jnp.sqrt(betas)))
    np.testing.assert_allclose(betas, np.linspace(0, 1, 9) ** 2, atol=0.01)


def test_log_mean_is_that_of_numpy():
    exponents = np.random.default_rng(0).normal(size=(3000, 2)) * [1.0, 30.0] - [0.0, 5000.0]
    log_mean = start_counts(jnp.zeros(3)).upwards
    add = jax.jit(LogMean.add)
    for count, exponent in enumerate(exponents):
        log_mean = add(log_mean, jnp.asarray(exponent, jnp.float32), jnp.float32(count + 1))
    expected = np.logaddexp.reduce(exponents, axis=0) - np.log(len(exponents))
    np.testing.assert_allclose(log_mean.value, expected, atol=1e-3)


def test_log_mean_does_not_stop_growing_in_float32():
    log_mean = start_counts(jnp.zeros(2)).upwards._replace(reference=jnp.zeros(1), mean=jnp.ones(1))
    exponents = jnp.where(jnp.arange(400_000) % 2 == 0, -jnp.inf, jnp.log(3.0))

    def add(log_mean, term):
        exponent, count = term
        return log_mean.add(exponent[None], count), None

    log_mean, _ = jax.lax.scan(add, log_mean, (exponents, 1e6 + jnp.arange(400_000.0)))
    # A million ones, then as many threes as zeros.
    assert log_mean.value[0] == pytest.approx(np.log((1e6 + 1.5 * 4e5) / 1.4e6), abs=2e-3)


def test_trips_are_counted_by_hand():
    trips = start_trips(3)
    counts = []
    for order in ([1, 0, 2], [0, 2, 1], [0, 2, 1], [1, 0, 2], [1, 0, 2], [0, 2, 1]):
        trips = trips.exchange(jnp.array(order))
        counts.append(int(trips.num_round_trips))
    # Replica 0 goes 0 -> 1 -> 2 -> 1 -> 0.
    assert counts == [0, 0, 0, 1, 1, 1]


def test_ladder_is_adapted_before_the_kernel_settles():
    assert KERNEL.num_warmup == 400
    assert KERNEL.ladder_changes == (12, 25, 50, 100, 200)
    assert ParallelTempering(kernel=HMC(num_warmup=0), num_warmup=100).ladder_changes[-1] == 50
    assert ParallelTempering(kernel=HMC(num_warmup=0)).ladder_changes == ()


class Twice(NamedTuple):
    position: dict
    logdensity: jax.Array
    copy: dict


class Unmovable:
    """A kernel whose State keeps the position twice."""

    num_warmup = 0

    def init(self, rng_key, position, target):
        return Twice(position, target.logdensity(position), position)

    def step(self, rng_key, state, target, t):
        return state, {}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_rungs": 1}, "num_rungs must be a whole number of at least 2, got 1"),
        ({"num_warmup": 100}, "num_warmup must cover the 400 adapting steps"),
        ({"kernel": NUTS}, "kernel must be a kernel with its settings"),
    ],
)
def test_impossible_settings_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        ParallelTempering(**{"kernel": HMC(num_warmup=400), **settings})


def test_targets_without_a_prior_and_unmovable_kernels_are_refused():
    class Bare:
        def logdensity(self, position):
            return 0.0

    with pytest.raises(ValueError, match="needs a target with logprior and loglikelihood.* got Bare"):
        KERNEL.check(Bare())
    with pytest.raises(ValueError, match="Unmovable computes copy of its State from the position"):
        ParallelTempering(kernel=Unmovable()).check(Gaussian.example(2))
    KERNEL.check(Gaussian.example(2))
