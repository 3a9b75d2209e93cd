"""Microcanonical samplers: known moments, a bias that shrinks, a tuner that neither freezes nor hides divergences."""

from dataclasses import dataclass, replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from arviz_stats.base import array_stats
from subsets import only

from bnn_models import BNN, Posterior, likelihoods, networks, priors
from inference import MCLMC, AdjustedMCLMC, sample
from inference.mclmc_tuning import window_ends

DIM, CHAINS, DRAWS = 10, 16, 400
KERNEL = MCLMC(num_warmup=400, num_integration_steps=5)


@partial(jax.tree_util.register_dataclass, data_fields=["root", "mean", "offset", "wall", "radius"], meta_fields=[])
@dataclass(frozen=True)
class Gaussian:
    """Precision root.T @ root, a constant added, and NaN where x_0 is below a wall or |x| above a radius."""

    root: jax.Array
    mean: jax.Array
    offset: jax.Array
    wall: jax.Array
    radius: jax.Array

    @classmethod
    def of(cls, root=1.0, *, mean=0.0, offset=0.0, wall=-np.inf, radius=np.inf):
        root = root * np.eye(DIM) if np.ndim(root) == 0 else np.asarray(root)
        return cls(*(jnp.asarray(x, jnp.float32) for x in (root, np.full(DIM, mean), offset, wall, radius)))

    def logdensity(self, position):
        x = position["x"]
        value = -0.5 * jnp.sum((self.root @ (x - self.mean)) ** 2) + self.offset
        return jnp.where((x[0] >= self.wall) & (jnp.max(jnp.abs(x)) <= self.radius), value, jnp.nan)


def run(kernel, target, start=1.0, *, num_draws=DRAWS, chains=CHAINS, seed=0):
    """Draws (chain, draw, dim), and the statistics of warm-up and of the draws."""
    start = jnp.broadcast_to(jnp.asarray(start, jnp.float32), (DIM,))
    positions, info = _run(kernel, target, start, num_draws, chains, seed)
    info = {name: np.asarray(x) for name, x in info.items()}
    after = {name: x[:, kernel.num_warmup :] for name, x in info.items()}
    before = {name: x[:, : kernel.num_warmup] for name, x in info.items()}
    return np.asarray(positions, np.float64)[:, kernel.num_warmup :], before, after


@partial(jax.jit, static_argnums=(0, 3, 4))
def _run(kernel, target, start, num_draws, chains, seed):
    def chain(rng_key):
        def step(state, t):
            state, info = kernel.step(jax.random.fold_in(rng_key, t), state, target, t)
            return state, (state.position["x"], info)

        state = kernel.init(rng_key, {"x": start}, target)
        return jax.lax.scan(step, state, jnp.arange(kernel.num_warmup + num_draws))[1]

    return jax.vmap(chain)(jax.random.split(jax.random.key(seed), chains))


def mean_and_error(values):
    by_chain = np.asarray(values, np.float64).mean(1)
    return by_chain.mean(0), by_chain.std(0, ddof=1) / np.sqrt(len(by_chain))


SCALES = np.logspace(-2, 1, DIM)
EASY = {
    "unit": (Gaussian.of(), 1.0, 30.0),
    "far tail": (Gaussian.of(), 1.0, 300.0),
    "tiny": (Gaussian.of(1e6), 1e-6, 30.0),
    "huge": (Gaussian.of(1e-6), 1e6, 30.0),
    "all scales": (Gaussian.of(np.diag(1 / SCALES)), SCALES, 1.0),
    "a large constant": (Gaussian.of(offset=1e5), 1.0, 1.0),
    "far from the origin": (Gaussian.of(mean=1e3), 1.0, 30.0),
}


@pytest.mark.parametrize("name", only(("tiny", "all scales", "a large constant"), EASY))
def test_tuner_finds_the_step_size_at_every_scale(name):
    """From the tail: the same step size in the metric, the wanted energy error, variances within 7 %."""
    target, scale, away = EASY[name]
    draws, _, info = run(KERNEL, target, target.mean + away * scale)
    assert not info["diverging"].any()
    step_size = info["step_size"][:, -1]
    assert ((step_size > 1.0) & (step_size < 12.0)).all()
    assert (info["step_size"] == info["step_size"][:, :1]).all()
    assert (info["L"] > 0.9).all()
    assert (info["L"] < 9.6).all()
    if name != "a large constant":  # there rounding adds to the energy error
        assert 1e-4 < np.median(info["energy_error_variance"].mean(1)) < 2e-3
    variance, error = mean_and_error(((draws - np.asarray(target.mean)) / scale) ** 2)
    assert (error < 0.06).all()
    assert (np.abs(variance - 1) < 0.07 + 5 * error).all()
    mean, error = mean_and_error((draws - np.asarray(target.mean)) / scale)
    assert (np.abs(mean) < 5 * error).all()


def test_walls_of_nan_are_reported_and_kept_away_from():
    """Half the space is NaN: steps into it are undone and counted in warm-up and after it, and the chain goes on."""
    draws, before, after = run(KERNEL, Gaussian.of(wall=0.0))
    assert before["diverging"].any(1).all()
    assert after["diverging"].any(1).all()
    assert (draws[..., 0] >= 0).all()
    assert np.isfinite(draws).all()
    assert np.isfinite(after["lp"]).all()
    assert ((after["step_size"] > 0.05) & (after["step_size"] < 12.0)).all()
    variance, error = mean_and_error(draws[..., 1:] ** 2)
    assert (np.abs(variance - 1) < 0.1 + 5 * error).all()


def test_a_small_island_is_sampled_at_its_own_scale():
    """NaN but for a cube of 1e-3, in which the density is flat: the step size falls to it, and no further."""
    draws, before, after = run(KERNEL, Gaussian.of(radius=1e-3), 0.0)
    assert before["diverging"].any(1).all()
    variance, _ = mean_and_error(draws**2)
    np.testing.assert_allclose(variance, 1e-6 / 3, rtol=0.5)
    assert (after["step_size"] > 0.01).all()


def test_where_no_step_is_possible_every_draw_says_so():
    draws, before, after = run(KERNEL, Gaussian.of(radius=0.0), 0.0)
    assert before["diverging"].all()
    assert after["diverging"].all()
    assert (draws == 0).all()
    assert all(np.isfinite(x).all() for x in after.values())


def test_statistics_are_those_of_the_chain():
    target = Gaussian.of()
    draws, before, after = run(KERNEL, target)
    np.testing.assert_allclose(after["lp"], -0.5 * (draws**2).sum(-1), rtol=1e-4, atol=1e-4)
    assert (after["n_steps"] == KERNEL.num_integration_steps).all()
    assert len(np.unique(before["step_size"][0])) > 300
    other, _, _ = run(KERNEL, target, seed=1)
    assert (other != draws).all()


@pytest.mark.slow
def test_bias_shrinks_with_the_wanted_energy_error():
    """Variances that are 3 to 6 % small at 2e-3, and at a hundredth of it by less than a third of that."""
    off = {}
    for desired in (2e-3, 2e-5):
        kernel = replace(KERNEL, desired_energy_variance=desired, num_integration_steps=15)
        draws, _, info = run(kernel, Gaussian.of(), num_draws=4000)
        assert info["energy_error_variance"].mean() == pytest.approx(desired, rel=0.5)
        variance, error = mean_and_error((draws**2).mean(-1))
        off[desired] = 1 - variance
        assert error < 0.004
    assert off[2e-3] > 0.02
    assert abs(off[2e-5]) < off[2e-3] / 3


def test_adjusted_is_exact():
    """Means, variances and covariances of a correlated Gaussian within 5 standard errors, at ESS above 400."""
    rng = np.random.default_rng(0)
    root = np.linalg.qr(rng.normal(size=(DIM, DIM)))[0] * np.linspace(0.3, 3, DIM)[:, None]
    covariance = np.linalg.inv(root.T @ root)
    kernel = AdjustedMCLMC(num_warmup=400)
    draws, _, info = run(kernel, Gaussian.of(root, mean=2.0), num_draws=1500, chains=4)
    assert not info["diverging"].any()
    assert info["acceptance_rate"].mean() == pytest.approx(0.9, abs=0.06)
    for i in range(DIM):
        for j in range(-1, i + 1):
            values = draws[..., i] - 2 if j < 0 else (draws[..., i] - 2) * (draws[..., j] - 2)
            assert array_stats.ess(values, chain_axis=0, draw_axis=1, method="mean") > 400
            mcse = array_stats.mcse(values, chain_axis=0, draw_axis=1, method="mean")
            assert abs(values.mean() - (0 if j < 0 else covariance[i, j])) < 5 * mcse


@pytest.mark.slow
@pytest.mark.parametrize("kernel", [MCLMC(num_warmup=500, desired_energy_variance=1e-5), AdjustedMCLMC(num_warmup=500)])
def test_bayesian_linear_regression(kernel):
    """Through `sample`, and started from another kernel's draws."""
    rng = np.random.default_rng(1)
    x = rng.normal(size=(30, 3))
    y = x @ [1.0, -2.0, 0.5] + 0.3 + 0.5 * rng.normal(size=30)
    model = BNN(networks.mlp([3, 1]), prior=priors.normal(scale=2.0), likelihood=likelihoods.normal(scale=0.5))
    posterior = Posterior(model, x, y)
    start = posterior.initial(jax.random.key(5), 4)
    draws = sample(posterior, kernel, num_draws=2000, rng_key=jax.random.key(3), initial=start, progress=False)
    design = np.column_stack([x, np.ones(30)])
    covariance = np.linalg.inv(design.T @ design / 0.5**2 + np.eye(4) / 2.0**2)
    mean = covariance @ design.T @ y / 0.5**2
    drawn = np.concatenate([draws.weights["head.kernel"][..., 0], draws.weights["head.bias"]], -1).astype(float)
    for i in range(4):
        assert array_stats.ess(drawn[..., i], chain_axis=0, draw_axis=1, method="mean") > 400
        mcse = array_stats.mcse(drawn[..., i], chain_axis=0, draw_axis=1, method="mean")
        assert abs(drawn[..., i].mean() - mean[i]) < 5 * mcse
        assert drawn[..., i].var() == pytest.approx(covariance[i, i], rel=0.12)


def test_windows_double_and_leave_a_rest():
    assert window_ends(1000) == ((49, 99, 199, 349, 599), 600)
    assert window_ends(100) == ((9, 19, 34, 59), 60)
    assert window_ends(12) == ((), 0)


@pytest.mark.parametrize("kernel", [MCLMC(), AdjustedMCLMC()])
def test_one_dimension_is_refused(kernel):
    class Line:
        sites = {"x": ()}

    with pytest.raises(ValueError, match="at least two dimensions, got 1"):
        kernel.check(Line())


@pytest.mark.parametrize(
    ("build", "settings", "message"),
    [
        (MCLMC, {"desired_energy_variance": 0.0}, "desired_energy_variance must be a number strictly between"),
        (MCLMC, {"num_integration_steps": 0}, "num_integration_steps must be a whole number"),
        (MCLMC, {"step_size": -1.0}, "step_size must be a number strictly between"),
        (AdjustedMCLMC, {"trajectory_length": 0.0}, "trajectory_length must be a number strictly between"),
        (AdjustedMCLMC, {"longest": 0}, "longest must be a whole number"),
        (AdjustedMCLMC, {"metric": "dense"}, "no dense metric"),
    ],
)
def test_impossible_settings_are_refused(build, settings, message):
    with pytest.raises(ValueError, match=message):
        build(**settings)
