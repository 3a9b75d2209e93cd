"""Orbit moves inside a run: the same posterior, drawn from faster; refused where they would be wrong or none."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from arviz_stats.base import array_stats
from jax.flatten_util import ravel_pytree
from targets import Gaussian

from bnn_models import BNN, Posterior, likelihoods, networks, priors
from inference import HMC, NUTS, SGLD, ChEES, ParallelTempering, WithOrbitMoves, sample
from inference.moving import moved
from inference.settings import describe_kernel, kernel_from
from symmetry import Symmetries, SymmetryGroup, find_symmetries

KEY = jax.random.key(0)


def model(x, y=None):
    """Two ReLU units under a gamma precision; the noise's scale is a positive site that no scale touches."""
    tau = numpyro.sample("tau", dist.Gamma(2.0, 1.0))
    w_1 = numpyro.sample("w_1", dist.Normal(0.0, tau**-0.5).expand((1, 2)).to_event(2))
    w_2 = numpyro.sample("w_2", dist.Normal(0.0, 1.0).expand((2,)).to_event(1))
    noise = numpyro.sample("noise", dist.HalfNormal(1.0))
    numpyro.sample("y", dist.Normal(jax.nn.relu(x @ w_1) @ w_2, noise), obs=y)


@pytest.fixture(scope="module")
def posterior():
    x = np.linspace(-1, 1, 8, dtype=np.float32)[:, None]
    return Posterior(model, x, np.abs(x[:, 0]) + 0.3 * np.sin(9 * x[:, 0]))


@pytest.fixture(scope="module")
def symmetries(posterior):
    return find_symmetries(posterior)


def z_scores(first, second):
    """Difference of means and of mean squares of (chain, draw) draws, in Monte Carlo standard errors."""
    for power in (1, 2):
        draws = [np.asarray(x, np.float64) ** power for x in (first, second)]
        errors = [array_stats.mcse(x, chain_axis=0, draw_axis=1, method="mean") for x in draws]
        yield abs(draws[0].mean() - draws[1].mean()) / np.hypot(*errors)


@pytest.mark.slow
def test_draws_are_those_of_the_kernel_alone(posterior, symmetries):
    kernel = HMC(num_warmup=400, num_integration_steps=12)
    settings = {"num_chains": 4, "num_draws": 3000, "progress": False}
    alone = sample(posterior, kernel, rng_key=KEY, **settings)
    both = sample(posterior, WithOrbitMoves(kernel=kernel, symmetries=symmetries), rng_key=KEY, **settings)
    assert array_stats.ess(np.log(both.weights["tau"]), chain_axis=0, draw_axis=1) > 400
    for quantity in (
        lambda w: np.log(w["tau"]),
        lambda w: np.log(w["noise"]),
        lambda w: np.log((w["w_1"] ** 2).sum((-2, -1))),
        lambda w: np.log((w["w_2"] ** 2).sum(-1)),
        lambda w: np.abs(w["w_1"][..., 0, 0] * w["w_2"][..., 0]),
    ):
        assert max(z_scores(quantity(alone.weights), quantity(both.weights))) < 4


@pytest.mark.slow
def test_a_step_ends_at_the_moved_position_with_its_density(posterior, symmetries):
    kernel = WithOrbitMoves(kernel=NUTS(num_warmup=20), symmetries=symmetries)
    position = jax.tree.map(lambda x: x[0], posterior.initial(KEY, 1))
    state = jax.jit(kernel.init)(KEY, position, posterior)
    state, info = jax.jit(kernel.step)(KEY, state, posterior, jnp.int32(30))
    value, gradient = jax.value_and_grad(posterior.logdensity)(state.position)
    assert info["lp"] == state.logdensity
    assert float(state.logdensity) == pytest.approx(float(value), rel=1e-5)
    np.testing.assert_allclose(state.gradient, ravel_pytree(gradient)[0], rtol=1e-3, atol=1e-3)
    inner, _ = jax.jit(kernel.kernel.step)(
        jax.random.split(KEY)[0], kernel.init(KEY, position, posterior), posterior, 30
    )
    jax.tree.map(np.testing.assert_array_equal, state.adaptation, inner.adaptation)
    before, after = (float(posterior.loglikelihood(s.position)) for s in (inner, state))
    assert after == pytest.approx(before, rel=1e-4)
    assert state.position["tau"] != inner.position["tau"]
    assert (state.position["w_1"] != inner.position["w_1"]).all()
    assert float(state.position["noise"]) == pytest.approx(float(inner.position["noise"]), abs=1e-6)


def test_a_moved_state_is_the_one_of_the_new_position():
    target = Gaussian.example(3)
    positions = jax.tree.map(lambda x: x, target.initial(KEY, 2))
    first, second = ({site: x[n] for site, x in positions.items()} for n in range(2))
    for kernel in (NUTS(), ParallelTempering(kernel=HMC(num_warmup=10), num_rungs=3)):
        state = moved(kernel, kernel.init(KEY, first, target), second, target)
        assert float(state.logdensity) == pytest.approx(float(target.logdensity(second)), rel=1e-6)
        np.testing.assert_array_equal(state.position["x"], second["x"])


@pytest.mark.slow
def test_moves_and_tempering_go_together(posterior, symmetries):
    kernel = HMC(num_warmup=60, num_integration_steps=4)
    for both in (
        ParallelTempering(kernel=WithOrbitMoves(kernel=kernel, symmetries=symmetries), num_rungs=3),
        WithOrbitMoves(kernel=ParallelTempering(kernel=kernel, num_rungs=3), symmetries=symmetries),
    ):
        drawn = sample(posterior, both, num_chains=1, num_draws=50, rng_key=KEY, progress=False)
        lp = drawn.sample_stats["lp"][0, -1]
        position = posterior.unconstrain({site: jnp.asarray(x[0, -1]) for site, x in drawn.weights.items()})
        assert float(posterior.logdensity(position)) == pytest.approx(float(lp), rel=1e-4)
        assert kernel_from(describe_kernel(both)) == both


def test_the_runner_meets_the_kernel_inside(symmetries):
    tempering = ParallelTempering(kernel=HMC(num_warmup=10), num_rungs=3)
    for kernel in (tempering, ChEES(num_warmup=20), SGLD(step_size=1e-3, batch_size=5)):
        both = WithOrbitMoves(kernel=kernel, symmetries=symmetries)
        assert both.num_warmup == kernel.num_warmup
        for name, default in (("num_rungs", 1), ("crosses_chains", False), ("batch_size", None)):
            assert getattr(both, name) == getattr(kernel, name, default)


def test_what_cannot_be_moved_is_refused(posterior, symmetries):
    kernel = WithOrbitMoves(kernel=NUTS(), symmetries=symmetries)
    with pytest.raises(ValueError, match="needs a posterior that knows its prior's precisions, got Gaussian"):
        kernel.check(Gaussian.example(2))
    other = Posterior(BNN(networks.mlp([1, 2, 1]), priors.normal(), likelihoods.normal()), *posterior.args)
    with pytest.raises(ValueError, match="symmetries are those of a model with the sites"):
        kernel.check(other)
    tanh = WithOrbitMoves(kernel=NUTS(), symmetries=find_symmetries(other))
    with pytest.raises(ValueError, match=r"nothing to move along: the likelihood has no scale.* Use NUTS alone"):
        sample(other, tanh, num_chains=1, num_draws=1, rng_key=KEY)


def test_settings_of_another_kind_are_refused(symmetries):
    with pytest.raises((ValueError, TypeError), match="symmetries"):
        WithOrbitMoves(kernel=NUTS(), symmetries=symmetries.likelihood)
    with pytest.raises((ValueError, TypeError), match="kernel must be a kernel with its settings"):
        WithOrbitMoves(kernel=NUTS, symmetries=symmetries)


def test_without_scales_the_step_is_that_of_the_kernel():
    target, kernel = Gaussian.example(3), NUTS(num_warmup=5)
    nothing = WithOrbitMoves(kernel=kernel, symmetries=Symmetries(None, SymmetryGroup({"x": (3,), "scale": ()})))
    state = kernel.init(KEY, jax.tree.map(lambda x: x[0], target.initial(KEY, 1)), target)
    (one, _), (other, _) = (
        jax.jit(k.step)(key, state, target, 7) for k, key in ((kernel, jax.random.split(KEY)[0]), (nothing, KEY))
    )
    jax.tree.map(np.testing.assert_array_equal, one, other)


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1])
def test_the_ridge_of_scales_and_precisions_is_gone(seed):
    from benchmarks import orbit_moves as benchmark

    found = benchmark.compare(benchmark.sine(), seed)
    alone, with_moves = found["log tau_1 - log tau_2"]
    assert with_moves >= 5 * alone
    alone, with_moves = found["predictions"]
    assert with_moves >= 0.8 * alone
