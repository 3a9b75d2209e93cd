"""The Hamiltonian kernels: statistics, adaptation that ends, lengths, walls, and the length that is found."""

import functools
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from subsets import only
from targets import Gaussian

from inference import GHMC, HMC, MALA, NUTS
from inference.blocks import Advance, Start
from inference.metrics import METRICS

KERNELS = {
    "hmc": HMC(num_warmup=40, num_integration_steps=6),
    "length found": HMC(num_warmup=40, longest=32),
    "nuts": NUTS(num_warmup=40, max_tree_depth=5),
    "mala": MALA(num_warmup=40),
    "ghmc": GHMC(num_warmup=40),
}
ARVIZ = {"lp", "acceptance_rate", "step_size", "n_steps", "diverging", "energy"}
KEY = jax.random.key(3)

QUICK = ("length found", "nuts")
parametrize_kernels = pytest.mark.parametrize(
    "kernel",
    [pytest.param(kernel, marks=[pytest.mark.slow] * (name not in QUICK)) for name, kernel in KERNELS.items()],
    ids=KERNELS.keys(),
)


@functools.cache
def compiled(program):
    return jax.jit(program)


def start(kernel, target):
    position = jax.tree.map(lambda x: x[0], target.initial(jax.random.key(1), 1))
    return compiled(Start(kernel))((KEY, position), target)


def advance(kernel, target, state, first, length, capacity=60):
    program = compiled(Advance(kernel, capacity))
    state, (positions, info) = program((KEY, state), (target, np.int32(first), np.int32(length)))
    return state, *jax.tree.map(lambda x: np.asarray(x[:length]), (positions, info))


@parametrize_kernels
def test_statistics_are_arviz_names(kernel):
    _, _, info = advance(kernel, Gaussian.example(3), start(kernel, Gaussian.example(3)), 0, 5)
    tree = {"tree_depth", "reached_max_treedepth"} if isinstance(kernel, NUTS) else set()
    assert set(info) == ARVIZ | tree


@parametrize_kernels
def test_init_evaluates_the_density_once(kernel):
    calls = []

    @jax.tree_util.register_static
    class Counted:
        def logdensity(self, position):
            jax.debug.callback(lambda: calls.append(1))
            return -0.5 * (position["x"] ** 2).sum()

    jax.block_until_ready(kernel.init(KEY, {"x": jnp.zeros(2)}, Counted()))
    jax.effects_barrier()
    assert len(calls) == 1


@parametrize_kernels
def test_nothing_adapts_after_warmup(kernel):
    target = Gaussian.example(3)
    state, _, info = advance(kernel, target, start(kernel, target), 0, 60)
    before, _, _ = advance(kernel, target, start(kernel, target), 0, kernel.num_warmup)
    jax.tree.map(np.testing.assert_array_equal, state.adaptation, before.adaptation)
    assert (np.asarray(state.adaptation.inverse_mass_matrix) != 1.0).any()
    assert len(set(info["step_size"][kernel.num_warmup :].tolist())) == 1
    assert len(set(info["step_size"][: kernel.num_warmup].tolist())) > 20
    if kernel == KERNELS["length found"]:
        jax.tree.map(np.testing.assert_array_equal, state.memory, before.memory)
        assert float(state.memory.length) != float(start(kernel, target).memory.length)


@parametrize_kernels
def test_without_warmup_settings_stay(kernel):
    kernel = replace(kernel, num_warmup=0, step_size=0.25)
    target = Gaussian.example(3)
    state, _, info = advance(kernel, target, start(kernel, target), 0, 10)
    assert set(info["step_size"].tolist()) == {0.25}
    np.testing.assert_array_equal(state.adaptation.inverse_mass_matrix, 1.0)


@pytest.mark.parametrize(
    ("settings", "lengths"), [({"jitter": 0.0}, {6}), ({"jitter": 0.4}, {4, 5, 6, 7, 8})], ids=["fixed", "jittered"]
)
def test_trajectories_have_the_lengths_they_are_said_to_have(settings, lengths):
    kernel = HMC(num_warmup=0, num_integration_steps=6, step_size=0.1, **settings)
    target = Gaussian.example(2)
    _, _, info = advance(kernel, target, start(kernel, target), 0, 60)
    assert set(info["n_steps"].tolist()) == lengths


def test_geometric_lengths_have_their_mean_and_spread():
    kernel = HMC(num_warmup=0, num_integration_steps=6, step_size=0.1, lengths="geometric")
    target = Gaussian.example(2)
    _, _, info = advance(kernel, target, start(kernel, target), 0, 2000, capacity=2000)
    lengths = info["n_steps"]
    assert lengths.min() == 1
    assert lengths.max() <= 48
    # Mean 6 and standard deviation (30)**0.5, within 5 standard errors.
    assert abs(lengths.mean() - 6) < 5 * np.sqrt(30 / 2000)
    assert abs(lengths.std() - np.sqrt(30)) < 0.7


@parametrize_kernels
def test_divergence_and_nan_are_data(kernel):
    """Beyond a wall the density is NaN: the chain stays inside, says that it met the wall, and goes on."""

    @jax.tree_util.register_static
    class Walled:
        def logdensity(self, position):
            x = position["x"]
            return jnp.where(jnp.abs(x) < 1, -(x**2), jnp.nan).sum()

    kernel = replace(kernel, num_warmup=0, step_size=0.7)
    state = kernel.init(KEY, {"x": jnp.zeros(1)}, Walled())
    state, positions, info = advance(kernel, Walled(), state, 0, 60)
    assert np.abs(positions["x"]).max() < 1
    assert np.isfinite(info["lp"]).all()
    assert info["diverging"].any()
    assert len(set(positions["x"][-20:].ravel().tolist())) > 3
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(state))


@jax.tree_util.register_static
class Stretched:
    """A Gaussian of 20 coordinates, of which pairs are correlated: the slow directions need `stretch` times longer."""

    def __init__(self, stretch):
        self.stretch = stretch

    def logdensity(self, position):
        left, right = position["x"][:10], position["x"][10:]
        return -0.5 * ((left + right) ** 2).sum() / self.stretch**2 - 0.5 * ((left - right) ** 2).sum()


@pytest.mark.parametrize("stretch", [1.0, 10.0])
def test_found_length_follows_the_slow_directions(stretch):
    """A quarter of the slow directions' period, give or take a factor of two; nothing is compiled for it."""
    kernel = HMC(num_warmup=300)
    target = Stretched(stretch)
    state = kernel.init(KEY, {"x": jnp.ones(20)}, target)
    state, _, info = advance(kernel, target, state, 0, 300, capacity=300)
    # In the gradient metric the slow directions' variance is half that of a coordinate times the mean of its inverses'.
    metric = np.sqrt(((1 + stretch**2) / 4) / (1 + stretch**-2))
    period = 2 * np.pi * np.sqrt(stretch**2 / 2 / metric)
    quarter = period / 4 / info["step_size"][-1]
    assert 0.4 * quarter < float(state.memory.length) < 2 * quarter


def test_a_length_too_short_to_be_found_is_the_default():
    kernel = HMC(num_warmup=10, jitter=0.0)
    target = Gaussian.example(2)
    _, _, info = advance(kernel, target, start(kernel, target), 0, 20)
    assert set(info["n_steps"].tolist()) == {32}


@pytest.mark.parametrize("build", [HMC, NUTS, MALA, GHMC])
@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_warmup": -1}, "num_warmup must be a whole number of at least 0, got -1"),
        ({"target_acceptance_rate": 1.0}, "target_acceptance_rate must be .* between 0.0 and 1.0, got 1.0"),
        ({"step_size": 0.0}, "step_size must be a number strictly between 0.0 and inf"),
        ({"divergence_threshold": -1.0}, "divergence_threshold must be a number"),
        ({"metric": "riemannian"}, "metric must be one of .*low_rank.*, got 'riemannian'"),
    ],
)
def test_bad_settings_are_refused(build, settings, message):
    with pytest.raises(ValueError, match=message):
        build(**settings)


@pytest.mark.parametrize(
    ("build", "settings", "message"),
    [
        (HMC, {"num_integration_steps": 0}, "num_integration_steps must be a whole number of at least 1, got 0"),
        (HMC, {"jitter": 1.0}, "0 <= jitter < 1, got 1.0"),
        (HMC, {"lengths": "halton"}, "lengths must be 'uniform' or 'geometric', got 'halton'"),
        (HMC, {"longest": 0}, "longest must be a whole number of at least 1"),
        (NUTS, {"max_tree_depth": 0}, "max_tree_depth must be a whole number between 1 and 20, got 0"),
        (NUTS, {"max_tree_depth": True}, "max_tree_depth must be a whole number"),
        (GHMC, {"persistence": 1.0}, "0 <= persistence < 1, got 1.0"),
        (GHMC, {"drift": 2.0}, "drift must be a number strictly between 0.0 and 2.0"),
    ],
)
def test_bad_settings_of_one_kernel_are_refused(build, settings, message):
    with pytest.raises(ValueError, match=message):
        build(**settings)


@pytest.mark.parametrize("metric", only(("gradient", "dense"), METRICS))
@pytest.mark.parametrize("build", [HMC, pytest.param(NUTS, marks=pytest.mark.slow)])
def test_every_metric_serves_hmc_and_nuts(build, metric):
    """With four times the spread in one direction the metric widens its steps there."""
    kernel = build(num_warmup=60, metric=metric)
    target = Gaussian(jnp.zeros(2), jnp.diag(jnp.array([16.0, 0.0625])))
    state, _, info = advance(kernel, target, start(kernel, target), 0, 60)
    sigma, *rest = jax.tree.leaves(state.adaptation.inverse_mass_matrix)
    if metric == "low_rank":
        basis, scales = rest
        found = np.diag(sigma[:, None] * (np.eye(3) + basis @ np.diag(scales - 1) @ basis.T) * sigma)
    else:
        found = np.diag(sigma) if metric == "dense" else np.asarray(sigma)
    # Sites in their order: scale, then x; variances 1 / 16 and 16.
    assert 30 < found[2] / found[1] < 2000
    assert np.isfinite(info["lp"]).all()
