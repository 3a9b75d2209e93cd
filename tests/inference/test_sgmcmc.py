"""Stochastic-gradient kernels against the stationary laws of their own discretisations, in closed form."""

from dataclasses import dataclass, replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bnn_models import BNN, Posterior, likelihoods, networks, priors
from inference import SGD, SGHMC, SGLD, SGNHT, Cyclical, RMSprop, SubsampledHMC, sample

CHAINS = 400
ROWS, BATCH = 40, 4
PRIOR, NOISE = 0.5, 5.0  # precision of the prior, standard deviation of the observations


@partial(jax.tree_util.register_dataclass, data_fields=["y"], meta_fields=["gradient"])
@dataclass(frozen=True)
class Mean:
    """The mean of Gaussian rows: a Gaussian posterior, and estimates whose gradients are off by a constant a batch."""

    y: jax.Array
    gradient: bool = True

    @property
    def num_rows(self):
        return self.y.shape[0]

    def _sum(self, position, y):
        x = position["x"] if self.gradient else jax.lax.stop_gradient(position["x"])
        return -0.5 * ((y - x) ** 2).sum() / NOISE**2

    def logprior(self, position):
        x = position["x"] if self.gradient else jax.lax.stop_gradient(position["x"])
        return -0.5 * PRIOR * (x**2).sum()

    def logdensity(self, position):
        return self.logprior(position) + self._sum(position, self.y)

    def logdensity_estimate(self, rng_key, position, batch_size):
        batch = self.y[jax.random.permutation(rng_key, self.num_rows)[:batch_size]]
        return self.logprior(position) + self.num_rows / batch_size * self._sum(position, batch)


RNG = np.random.default_rng(0)
TARGET = Mean(jnp.asarray(RNG.normal(size=(ROWS, 2)) * [4.0, 6.0] + [3.0, -2.0]))
Y = np.asarray(TARGET.y, np.float64)
PRECISION = PRIOR + ROWS / NOISE**2
VARIANCE = 1 / PRECISION
CENTRE = VARIANCE * Y.sum(0) / NOISE**2
# Variance of the gradient's estimate: of a mean of BATCH of ROWS rows without replacement, times (ROWS / NOISE**2)**2.
GRADIENT_VARIANCE = (ROWS / NOISE**2) ** 2 * Y.var(0, ddof=1) / BATCH * (1 - BATCH / ROWS)


def run(kernel, target=TARGET, *, num_steps=100, chains=CHAINS, spread=VARIANCE**0.5, seed=0):
    """Positions (chain, step, dim) after warm-up, and the statistics, of chains that start near the posterior."""
    return _run(kernel, target, num_steps, chains, spread, seed)


@partial(jax.jit, static_argnums=(0, 2, 3))
def _run(kernel, target, num_steps, chains, spread, seed):
    def chain(rng_key):
        key_start, key_init, key_run = jax.random.split(rng_key, 3)
        position = {"x": jnp.asarray(CENTRE, jnp.float32) + spread * jax.random.normal(key_start, (2,))}

        def step(state, t):
            state, info = kernel.step(jax.random.fold_in(key_run, t), state, target, t)
            return state, (state.position["x"], info)

        state = kernel.init(key_init, position, target)
        steps = jnp.arange(kernel.num_warmup + num_steps)
        _, (positions, info) = jax.lax.scan(step, state, steps)
        return jax.tree.map(lambda x: x[kernel.num_warmup :], (positions, info))

    return jax.vmap(chain)(jax.random.split(jax.random.key(seed), chains))


def mean_and_error(values):
    """Mean of (chain, step, ...) values over chains and steps, and its standard error from independent chains."""
    by_chain = np.asarray(values, np.float64).mean(1)
    return by_chain.mean(0), by_chain.std(0, ddof=1) / np.sqrt(len(by_chain))


def assert_variance(positions, expected, off=None):
    """The draws' variance is the expected one to 5 errors; and not `off`, so that the test could fail."""
    variance, error = mean_and_error((np.asarray(positions, np.float64) - CENTRE) ** 2)
    assert (np.abs(variance - expected) < 5 * error).all(), (variance, expected, error)
    if off is not None:
        assert (np.abs(variance - off) > 5 * error).all(), (variance, off, error)


def langevin_variance(step_size, gradient_variance, temperature=1.0):
    """Of theta <- (1 - step_size * PRECISION) theta + noise."""
    noise = 2 * temperature * step_size + step_size**2 * gradient_variance
    return noise / (1 - (1 - step_size * PRECISION) ** 2)


def underdamped_covariance(step_size, gradient_variance, friction, temperature=1.0):
    """Of position and momentum after a step of `SGHMC`: its linear map's Lyapunov equation, one dimension at a time."""
    kick = np.array([[1, 0], [-step_size * PRECISION, 1]])
    drift = np.array([[1, step_size / 2], [0, 1]])
    kept = np.exp(-friction * step_size)
    step = kick @ drift @ np.diag([1, kept]) @ drift
    noise = kick @ drift @ np.diag([0, temperature * (1 - kept**2)]) @ drift.T @ kick.T
    noise = noise + np.diag([0, step_size**2 * gradient_variance])
    return np.linalg.solve(np.eye(4) - np.kron(step, step), noise.ravel()).reshape(2, 2)


@pytest.mark.slow
@pytest.mark.parametrize("step_size", [0.4 * VARIANCE, 0.1 * VARIANCE])
def test_sgld_has_the_variance_of_its_discretisation(step_size):
    """With all rows the bias is step_size / (2 variance) to first order: a quarter of the step, a quarter of it."""
    positions, info = run(SGLD(step_size=step_size, num_warmup=60))
    expected = langevin_variance(step_size, 0.0)
    assert expected / VARIANCE - 1 == pytest.approx(0.5 * step_size / VARIANCE, rel=0.3)
    assert_variance(positions, expected)
    assert set(info) == {"lp", "step_size", "diverging", "n_steps"}
    assert not np.asarray(info["diverging"]).any()


def test_sgld_has_the_noise_of_its_batches():
    step_size = 0.3 * VARIANCE
    positions, info = run(SGLD(step_size=step_size, num_warmup=30, batch_size=BATCH))
    expected = [langevin_variance(step_size, v) for v in GRADIENT_VARIANCE]
    assert_variance(positions, expected, off=langevin_variance(step_size, 0.0))
    mean, error = mean_and_error(positions)
    assert (np.abs(mean - CENTRE) < 5 * error).all()
    scale, error = mean_and_error(info["gradient_noise_scale"])
    assert abs(scale - step_size * GRADIENT_VARIANCE.mean() / 2) < 5 * error
    assert error < 0.1 * scale
    assert "lp" not in info


@pytest.mark.parametrize("step_size", [1.2 * VARIANCE**0.5, pytest.param(0.4 * VARIANCE**0.5, marks=pytest.mark.slow)])
def test_sghmc_is_exact_on_a_gaussian_with_all_rows(step_size):
    kernel = SGHMC(step_size=step_size, num_warmup=40, friction=1.0)
    covariance = underdamped_covariance(step_size, 0.0, 1.0)
    np.testing.assert_allclose(np.diag(covariance), [VARIANCE, 1.0], rtol=1e-6)
    positions, info = run(kernel)
    assert_variance(positions, VARIANCE)
    kinetic, error = mean_and_error(info["kinetic_temperature"])
    assert abs(kinetic - covariance[1, 1]) < 5 * error


def test_sghmc_is_heated_by_its_batches():
    step_size = 0.5 * VARIANCE**0.5
    kernel = SGHMC(step_size=step_size, num_warmup=40, batch_size=BATCH, friction=2.0)
    covariances = [underdamped_covariance(step_size, v, 2.0) for v in GRADIENT_VARIANCE]
    positions, info = run(kernel)
    assert_variance(positions, [c[0, 0] for c in covariances], off=VARIANCE)
    kinetic, error = mean_and_error(info["kinetic_temperature"])
    assert abs(kinetic - np.mean([c[1, 1] for c in covariances])) < 5 * error
    np.testing.assert_array_equal(info["kinetic_temperature"], info["kinetic_temperature_x"])
    scale, error = mean_and_error(info["gradient_noise_scale"])
    assert abs(scale - step_size * GRADIENT_VARIANCE.mean() / 4) < 5 * error


@pytest.mark.slow
def test_thermostat_takes_the_heat_out():
    """Equal noise in all directions: the friction rises by what it takes, and the variance is right to 5 %."""
    target = Mean(jnp.asarray((Y - Y.mean(0)) / Y.std(0) * 5.0))
    noise = (ROWS / NOISE**2) ** 2 * 25.0 * ROWS / (ROWS - 1) / BATCH * (1 - BATCH / ROWS)
    step_size = 0.25 * VARIANCE**0.5
    kernel = SGNHT(step_size=step_size, num_warmup=200, batch_size=BATCH, friction=1.0)
    heated = underdamped_covariance(step_size, noise, 1.0)[0, 0]
    assert heated > 1.3 * VARIANCE
    positions, info = run(kernel, target, num_steps=300)
    variance, error = mean_and_error(np.asarray(positions, np.float64) ** 2)
    centre = VARIANCE * np.asarray(target.y, np.float64).sum(0) / NOISE**2
    assert (np.abs(variance - centre**2 - VARIANCE) < 5 * error + 0.05 * VARIANCE).all()
    assert (error < 0.05 * VARIANCE).all()
    thermostat, _ = mean_and_error(info["thermostat"])
    assert thermostat == pytest.approx(1.0 + step_size * noise / 2, rel=0.15)
    # The thermostat looks at the momentum before and after friction and noise, the statistic after a noisy kick.
    kinetic, _ = mean_and_error(info["kinetic_temperature"])
    assert 1.0 < kinetic < 1.0 + step_size**2 * noise


@pytest.mark.slow
def test_sgd_has_the_noise_of_its_batches_alone():
    """At the rate at which the reported scale is 1 the variance is the posterior's, but for the discretisation."""
    step_size = 2 / GRADIENT_VARIANCE.mean()
    positions, info = run(SGD(step_size=step_size, num_warmup=40, batch_size=BATCH))
    assert_variance(positions, [langevin_variance(step_size, v, 0.0) for v in GRADIENT_VARIANCE])
    assert mean_and_error(info["gradient_noise_scale"])[0] == pytest.approx(1.0, rel=0.1)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kernel", "expected"),
    [
        (SGLD(step_size=0.2 * VARIANCE, temperature=0.25), langevin_variance(0.2 * VARIANCE, 0.0, 0.25)),
        (SGHMC(step_size=0.5 * VARIANCE**0.5, temperature=0.25), 0.25 * VARIANCE),
        (SGNHT(step_size=0.3 * VARIANCE**0.5, temperature=0.25), None),
    ],
    ids=["sgld", "sghmc", "sgnht"],
)
def test_cold_posteriors_have_the_temperature_in_their_variance(kernel, expected):
    positions, info = run(replace(kernel, num_warmup=100, num_integration_steps=2), num_steps=60)
    if expected is None:
        variance, _ = mean_and_error((np.asarray(positions, np.float64) - CENTRE) ** 2)
        np.testing.assert_allclose(variance, 0.25 * VARIANCE, rtol=0.06)
    else:
        assert_variance(positions, expected, off=VARIANCE)
    if "kinetic_temperature" in info:
        assert mean_and_error(info["kinetic_temperature"])[0] == pytest.approx(0.25, rel=0.1)


@pytest.mark.slow
@pytest.mark.parametrize("build", [SGLD, SGHMC, SGNHT])
def test_a_batch_of_all_rows_is_the_full_gradient(build):
    kernel = build(step_size=0.02, num_warmup=0)
    full, _ = run(kernel, num_steps=5, chains=2)
    batch, info = run(replace(kernel, batch_size=ROWS), num_steps=5, chains=2)
    np.testing.assert_allclose(batch, full, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(info["gradient_noise_scale"], 0.0, atol=1e-6)


class Deaf(SGHMC):
    """The control: underdamped dynamics that never hear of the density."""

    def _evaluate(self, rng_key, flat, like, target):
        value, gradient = super()._evaluate(rng_key, flat, like, target)
        return value, 0.0 * gradient


def answers(kernel):
    """Whether the draws change with the gradient."""
    draws = [run(kernel, replace(TARGET, gradient=gradient), num_steps=3, chains=1)[0] for gradient in (True, False)]
    return np.abs(np.asarray(draws[0] - draws[1])).max() > 0.01


@pytest.mark.slow
@pytest.mark.parametrize("build", [SGLD, SGHMC, SGNHT, SGD, SubsampledHMC])
def test_every_gradient_counts(build):
    """One gradient step a draw is enough to see it."""
    kernel = build(step_size=0.1, num_warmup=0, num_integration_steps=1, batch_size=BATCH)
    assert answers(kernel)


def test_a_kernel_that_ignores_its_gradient_is_caught():
    """By the variance of its draws, and by draws that stay the same without a gradient."""
    deaf = jax.tree_util.register_static(Deaf)(step_size=0.5 * VARIANCE**0.5, num_warmup=5)
    positions, _ = run(deaf)
    deafer, _ = run(deaf, replace(TARGET, gradient=False))
    np.testing.assert_array_equal(positions, deafer)
    with pytest.raises(AssertionError):
        assert_variance(positions, VARIANCE)


@pytest.mark.slow
def test_preconditioner_adapts_in_warmup_only_and_leaves_the_law():
    """Two coordinates of scales 1 and 30: G is their ratio, frozen, and the variances stay right."""

    @jax.tree_util.register_static
    class Scaled:
        def logdensity(self, position):
            return -0.5 * ((position["x"] / jnp.array([1.0, 30.0])) ** 2).sum()

    kernel = SGHMC(step_size=1.5, num_warmup=600, preconditioner=RMSprop(), friction=0.3)
    key = jax.random.key(0)

    def chain(key):
        def step(state, t):
            state, _ = kernel.step(jax.random.fold_in(key, t), state, Scaled(), t)
            return state, (state.position["x"], state.preconditioning.scale)

        state = kernel.init(key, {"x": jnp.zeros(2)}, Scaled())
        return jax.lax.scan(step, state, jnp.arange(900))[1]

    positions, scales = jax.jit(jax.vmap(chain))(jax.random.split(key, 200))
    scales = np.asarray(scales)
    assert (scales[:, 600:] == scales[:, 600:601]).all()
    assert (scales[:, 100] != scales[:, 500]).all()
    np.testing.assert_allclose(np.median(scales[:, -1, 1] / scales[:, -1, 0]), 30.0, rtol=0.4)
    np.testing.assert_allclose(scales.prod(-1), 1.0, rtol=1e-4)
    variance, error = mean_and_error(np.asarray(positions[:, 600:], np.float64) ** 2)
    assert (np.abs(variance - [1.0, 900.0]) < 5 * error).all()
    assert (error < [0.1, 90.0]).all()


def test_cycles_explore_without_noise_and_then_sample():
    """SGLD with all rows is deterministic while it explores; the statistics say so, step by step."""
    kernel = SGLD(step_size=0.05, num_warmup=0, schedule=Cyclical(num_steps=10, exploration=0.4))
    positions, info = run(kernel, num_steps=30, chains=2, spread=0.0)
    sampling = np.asarray(info["is_sampling_stage"])
    np.testing.assert_array_equal(sampling, np.broadcast_to(np.arange(30) % 10 >= 4, (2, 30)))
    np.testing.assert_array_equal(info["cycle"][0], np.arange(30) // 10)
    np.testing.assert_allclose(info["step_size"][0], 0.025 * (1 + np.cos(np.pi * (np.arange(30) % 10) / 10)), rtol=1e-5)
    np.testing.assert_array_equal(positions[0, :4], positions[1, :4])
    assert (np.asarray(positions[0, 4:10]) != np.asarray(positions[1, 4:10])).all()


@pytest.mark.parametrize(
    "build", [SGHMC, pytest.param(SGLD, marks=pytest.mark.slow), pytest.param(SGNHT, marks=pytest.mark.slow)]
)
def test_steps_into_nan_are_undone_and_counted(build):
    """Beyond a wall the density is NaN. Steps that end there are undone; in warm-up each halves the step size."""

    @jax.tree_util.register_static
    class Walled:
        def logdensity(self, position):
            x = position["x"]
            return jnp.where(jnp.abs(x) < 1, -(x**2), jnp.nan).sum()

    kernel = build(step_size=5.0, num_warmup=30)
    state = kernel.init(jax.random.key(0), {"x": jnp.zeros(2)}, Walled())
    step = jax.jit(lambda state, t: kernel.step(jax.random.fold_in(jax.random.key(1), t), state, Walled(), t))
    infos = []
    for t in range(60):
        state, info = step(state, t)
        assert np.abs(state.position["x"]).max() < 1
        assert np.isfinite(state.logdensity)
        infos.append(info)
    diverged = np.array([info["diverging"] for info in infos])
    assert diverged[:30].any()
    assert float(infos[-1]["step_size"]) == pytest.approx(5.0 * 0.5 ** diverged[:30].sum())


@pytest.mark.slow
def test_naive_subsampling_samples_the_mixture_of_the_batches_posteriors():
    """A quarter of the period forgets the start, so that each draw is one of its batch's posterior."""
    steps = 12
    step_size = 0.5 * np.pi * VARIANCE**0.5 / steps
    kernel = SubsampledHMC(batch_size=BATCH, step_size=step_size, num_integration_steps=steps, num_warmup=5)
    positions, info = run(kernel, num_steps=40)
    between = VARIANCE**2 * GRADIENT_VARIANCE
    assert_variance(positions, VARIANCE + between, off=VARIANCE)
    finer, _ = run(replace(kernel, step_size=step_size / 2, num_integration_steps=2 * steps), num_steps=40)
    assert_variance(finer, VARIANCE + between, off=VARIANCE)
    assert mean_and_error(info["batch_acceptance_rate"])[0] > 0.95
    assert "acceptance_rate" not in info


def regression(rows):
    rng = np.random.default_rng(1)
    x = rng.normal(size=(rows, 2))
    model = BNN(networks.mlp([2, 1]), prior=priors.normal(scale=1.0), likelihood=likelihoods.normal(scale=0.5))
    return Posterior(model, x, x @ [1.0, -2.0] + 0.3 + 0.5 * rng.normal(size=rows))


@pytest.mark.slow
def test_bayesian_linear_regression_through_sample():
    """Batches drawn by a posterior: mean and, at this small step, variance of the closed form."""
    posterior = regression(64)
    x = np.column_stack([posterior.args[0], np.ones(64)])
    covariance = np.linalg.inv(x.T @ x / 0.25 + np.eye(3))
    kernel = SGHMC(step_size=0.015, batch_size=16, num_warmup=200, num_integration_steps=8, friction=30.0)
    draws = sample(posterior, kernel, num_chains=4, num_draws=1500, rng_key=jax.random.key(0), progress=False)
    assert not draws.sample_stats["diverging"].any()
    scale = draws.sample_stats["gradient_noise_scale"].mean()
    assert scale < 0.2
    drawn = np.concatenate([draws.weights["head.kernel"][..., 0], draws.weights["head.bias"]], -1).astype(float)
    expected = covariance @ x.T @ np.asarray(posterior.args[1], float) / 0.25
    for i in range(3):
        batch_means = drawn[..., i].reshape(40, -1).mean(1)
        error = batch_means.std(ddof=1) / np.sqrt(40)
        assert abs(batch_means.mean() - expected[i]) < 5 * error
        assert error < 0.15 * np.sqrt(covariance[i, i])
        assert drawn[..., i].var() == pytest.approx(covariance[i, i] * (1 + scale), rel=0.25)


def test_impossible_batches_are_refused_before_anything_runs():
    posterior = regression(16)
    with pytest.raises(ValueError, match="batch_size must be at most the 16 rows of the data, got 17"):
        SGLD(step_size=0.1, batch_size=17).check(posterior)
    with pytest.raises(ValueError, match="needs a posterior with rows"):
        SGHMC(step_size=0.1, batch_size=4).check(object())
    SGHMC(step_size=0.1).check(object())
    SubsampledHMC(step_size=0.1, batch_size=16).check(posterior)


@pytest.mark.parametrize(
    ("build", "settings", "message"),
    [
        (SGD, {"step_size": 0.1}, "SGD needs a batch_size"),
        (SGHMC, {"step_size": 0.1, "friction": 0.0}, "friction must be a number strictly between"),
        (SGLD, {"step_size": 0.1, "schedule": Cyclical}, "schedule must be Constant"),
        (SGLD, {"step_size": 0.1, "temperature": 0.0}, "temperature must be a number strictly between"),
        (RMSprop, {"decay": 1.0}, "decay must be a number strictly between"),
    ],
)
def test_impossible_settings_are_refused(build, settings, message):
    with pytest.raises(ValueError, match=message):
        build(**settings)
