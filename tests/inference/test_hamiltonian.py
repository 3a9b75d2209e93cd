"""Laws that every kernel keeps: the protocol, ArviZ's names, an answer to the gradient, warm-up inside the State."""

import functools
from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from targets import Gaussian

from inference import HMC, NUTS, Kernel
from inference.blocks import Advance, Start

KERNELS = {
    "hmc": HMC(num_warmup=40, num_integration_steps=6),
    "nuts": NUTS(num_warmup=40, max_tree_depth=5),
}
ARVIZ = {"lp", "acceptance_rate", "step_size", "n_steps", "diverging", "energy"}
KEY = jax.random.key(3)

parametrize_kernels = pytest.mark.parametrize("kernel", KERNELS.values(), ids=KERNELS.keys())


@functools.cache
def compiled(program):
    return jax.jit(program)


def start(kernel, target):
    position = jax.tree.map(lambda x: x[0], target.initial(jax.random.key(1), 1))
    return compiled(Start(kernel))((KEY, position), target)


def advance(kernel, target, state, first, length):
    program = compiled(Advance(kernel, 60))
    state, (positions, info) = program((KEY, state), (target, np.int32(first), np.int32(length)))
    return state, jax.tree.map(lambda x: np.asarray(x[:length]), positions), info


@parametrize_kernels
def test_keeps_the_protocol(kernel):
    assert isinstance(kernel, Kernel)
    assert hash(kernel) == hash(replace(kernel))
    assert kernel == replace(kernel)
    assert jax.tree.leaves(kernel) == []
    state = start(kernel, Gaussian.example(3))
    assert set(state.position) == {"x", "scale"}
    _, _, info = advance(kernel, Gaussian.example(3), state, 0, 5)
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

    state = kernel.init(KEY, {"x": jnp.zeros(2)}, Counted())
    jax.block_until_ready(state)
    jax.effects_barrier()
    assert len(calls) == 1


@parametrize_kernels
def test_draws_answer_to_the_gradient(kernel):
    drawn = {}
    for gradient in (True, False):
        target = Gaussian.example(3, gradient=gradient)
        _, drawn[gradient], _ = advance(kernel, target, start(kernel, target), 0, 20)
    assert np.abs(drawn[True]["x"] - drawn[False]["x"]).max() > 0.1


@parametrize_kernels
def test_state_is_all_that_a_step_needs(kernel, tmp_path):
    """A run cut inside warm-up, stored and read back goes on to the same bits; one ulp of the adaptation shows."""
    target = Gaussian.example(3)
    _, whole, _ = advance(kernel, target, start(kernel, target), 0, 60)
    state, head, _ = advance(kernel, target, start(kernel, target), 0, 23)
    leaves, structure = jax.tree.flatten(state)
    np.savez(Path(tmp_path) / "state.npz", *leaves)
    with np.load(Path(tmp_path) / "state.npz") as stored:
        state = jax.tree.unflatten(structure, [jnp.asarray(stored[f"arr_{i}"]) for i in range(len(leaves))])
    _, tail, _ = advance(kernel, target, state, 23, 37)
    np.testing.assert_array_equal(np.concatenate([head["x"], tail["x"]]), whole["x"])

    averaging = state.adaptation.averaging
    nudged = averaging._replace(error_mean=jnp.nextafter(averaging.error_mean, jnp.inf))
    _, other, _ = advance(
        kernel, target, state._replace(adaptation=state.adaptation._replace(averaging=nudged)), 23, 37
    )
    assert (other["x"] != tail["x"]).any()


@parametrize_kernels
def test_nothing_adapts_after_warmup(kernel):
    target = Gaussian.example(3)
    state, _, info = advance(kernel, target, start(kernel, target), 0, 60)
    before, _, _ = advance(kernel, target, start(kernel, target), 0, kernel.num_warmup)
    jax.tree.map(np.testing.assert_array_equal, state.adaptation, before.adaptation)
    assert len(set(np.asarray(info["step_size"])[kernel.num_warmup :].tolist())) == 1
    assert len(set(np.asarray(info["step_size"])[: kernel.num_warmup].tolist())) > 20


@parametrize_kernels
def test_without_warmup_settings_stay(kernel):
    kernel = replace(kernel, num_warmup=0, step_size=0.25)
    target = Gaussian.example(3)
    state, _, info = advance(kernel, target, start(kernel, target), 0, 10)
    assert set(np.asarray(info["step_size"])[:10].tolist()) == {0.25}
    np.testing.assert_array_equal(state.adaptation.inverse_mass_matrix, 1.0)


@pytest.mark.parametrize(("jitter", "lengths"), [(0.0, {6}), (0.4, {4, 5, 6, 7, 8})])
def test_trajectories_have_the_lengths_they_are_said_to_have(jitter, lengths):
    kernel = HMC(num_warmup=0, num_integration_steps=6, jitter=jitter, step_size=0.1)
    target = Gaussian.example(2)
    _, _, info = advance(kernel, target, start(kernel, target), 0, 60)
    assert set(np.asarray(info["n_steps"]).tolist()) == lengths


@parametrize_kernels
def test_divergence_and_nan_are_data(kernel):
    """Beyond a wall the density is NaN: the chain stays inside, and says that it met the wall."""

    @jax.tree_util.register_static
    class Walled:
        def logdensity(self, position):
            x = position["x"]
            return jnp.where(jnp.abs(x) < 1, -(x**2), jnp.nan).sum()

    kernel = replace(kernel, num_warmup=0, step_size=0.7)
    state = kernel.init(KEY, {"x": jnp.zeros(1)}, Walled())
    _, positions, info = advance(kernel, Walled(), state, 0, 60)
    assert np.abs(positions["x"]).max() < 1
    assert np.isfinite(np.asarray(info["lp"])).all()
    assert np.asarray(info["diverging"]).any()


@pytest.mark.parametrize("build", [HMC, NUTS])
@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_warmup": -1}, "num_warmup must be a whole number of at least 0, got -1"),
        (
            {"target_acceptance_rate": 1.0},
            "target_acceptance_rate must be .* between 0.0 and 1.0, got 1.0",
        ),
        ({"step_size": 0.0}, "step_size must be a number strictly between 0.0 and inf"),
        ({"step_size": float("nan")}, "step_size"),
        ({"divergence_threshold": -1.0}, "divergence_threshold must be a number"),
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
        (NUTS, {"max_tree_depth": 0}, "max_tree_depth must be a whole number between 1 and 20, got 0"),
        (NUTS, {"max_tree_depth": True}, "max_tree_depth must be a whole number"),
    ],
)
def test_bad_settings_of_one_kernel_are_refused(build, settings, message):
    with pytest.raises(ValueError, match=message):
        build(**settings)
