"""Laws that every kernel keeps: the protocol, an answer to the gradient, a State that is all a step needs."""

import functools
import math
from dataclasses import fields, replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from kernels import KERNELS
from targets import Gaussian

from inference import Kernel
from inference.blocks import Advance, Start
from inference.executors import Threads, choose_executor
from inference.settings import describe_kernel, kernel_from

KEY = jax.random.key(3)
LONGEST = 60

VARIANTS = ("hmc, geometric, dense", "nuts, low-rank", "sgld, batches", "orbit moves", "adjusted mclmc", "sgd", "mala")
"""Left to `make test-all`: their classes share most of their code with another's."""


def over(names):
    """Parametrised by the kernels of these names."""
    names = list(names)
    marked = [pytest.param(KERNELS[name], marks=[pytest.mark.slow] * (name in VARIANTS)) for name in names]
    return pytest.mark.parametrize("kernel", marked, ids=names)


parametrize_kernels = over(KERNELS)


@functools.cache
def compiled(program, crosses_chains):
    """The program of a group of one chain, with the axes that a kernel across chains reduces over."""
    if not crosses_chains:
        return Threads(1).jit(program)
    return choose_executor(1, 1).jit(program)


def run(program, kernel, chain, shared):
    grouped = jax.tree.map(lambda x: x[None], chain)
    result = compiled(program, getattr(kernel, "crosses_chains", False))(grouped, shared)
    return jax.tree.map(lambda x: x[0], result)


def start(kernel, target):
    position = jax.tree.map(lambda x: x[0], target.initial(jax.random.key(1), 1))
    return run(Start(kernel), kernel, (KEY, position), target)


def advance(kernel, target, state, first, length):
    shared = (target, np.int32(first), np.int32(length))
    state, (positions, info) = run(Advance(kernel, LONGEST), kernel, (KEY, state), shared)
    return state, jax.tree.map(lambda x: np.asarray(x[:length]), (positions, info))


@parametrize_kernels
def test_keeps_the_protocol(kernel):
    assert isinstance(kernel, Kernel)
    assert hash(kernel) == hash(replace(kernel))
    assert kernel == replace(kernel)
    assert jax.tree.leaves(kernel) == []
    state = start(kernel, Gaussian.example(3))
    assert set(state.position) == {"x", "scale"}
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(state) if jnp.issubdtype(x.dtype, jnp.inexact))
    _, (positions, info) = advance(kernel, Gaussian.example(3), state, 0, 5)
    assert {site: x.shape for site, x in positions.items()} == {"x": (5, 3), "scale": (5,)}
    density = "lp" if getattr(kernel, "batch_size", None) is None else "lp_estimate"
    assert {density, "step_size"} <= set(info)
    assert all(x.shape[0] == 5 and np.isfinite(x).all() for x in info.values())


@over(name for name, kernel in KERNELS.items() if getattr(kernel, "batch_size", None) is None)
def test_logdensity_of_the_state_is_that_of_its_position(kernel):
    target = Gaussian.example(3)
    state, (_, info) = advance(kernel, target, start(kernel, target), 0, 30)
    assert float(state.logdensity) == pytest.approx(float(target.logdensity(state.position)), rel=1e-4, abs=1e-4)
    assert info["lp"][-1] == pytest.approx(float(state.logdensity), rel=1e-6)


@parametrize_kernels
def test_draws_answer_to_the_gradient(kernel):
    drawn = {}
    for gradient in (True, False):
        target = Gaussian.example(3, gradient=gradient)
        _, (positions, _) = advance(kernel, target, start(kernel, target), 0, LONGEST)
        drawn[gradient] = positions["x"]
    assert np.abs(drawn[True] - drawn[False]).max() > 0.01


@parametrize_kernels
@pytest.mark.parametrize("cut", [23, 50], ids=["inside warm-up", "after it"])
def test_state_is_all_that_a_step_needs(kernel, cut, tmp_path):
    """A run cut, stored and read back goes on to the same bits; one ulp of the position shows."""
    target = Gaussian.example(3)
    _, (whole, statistics) = advance(kernel, target, start(kernel, target), 0, LONGEST)
    state, (head, _) = advance(kernel, target, start(kernel, target), 0, cut)
    leaves, structure = jax.tree.flatten(state)
    np.savez(Path(tmp_path) / "state.npz", *leaves)
    with np.load(Path(tmp_path) / "state.npz") as stored:
        state = jax.tree.unflatten(structure, [jnp.asarray(stored[f"arr_{i}"]) for i in range(len(leaves))])
    _, (tail, after) = advance(kernel, target, state, cut, LONGEST - cut)
    np.testing.assert_array_equal(np.concatenate([head["x"], tail["x"]]), whole["x"])
    jax.tree.map(np.testing.assert_array_equal, after, {name: x[cut:] for name, x in statistics.items()})

    # Noticed inside warm-up at the latest: a step that moves far can round one ulp away.
    nudged = jax.tree.map(lambda x: jnp.nextafter(x, jnp.inf), state.position)
    if cut < kernel.num_warmup:
        _, (other, _) = advance(kernel, target, state._replace(position=nudged), cut, LONGEST - cut)
        assert (other["x"] != tail["x"]).any()


@parametrize_kernels
def test_settings_are_read_back_from_the_manifest(kernel):
    assert kernel_from(describe_kernel(kernel)) == kernel


@parametrize_kernels
def test_impossible_settings_are_refused(kernel):
    names = {field.name for field in fields(kernel)}
    for name, values in {
        "num_warmup": (-1, True),
        "step_size": (0.0, -1.0, math.nan, math.inf),
        "num_integration_steps": (0, -3),
        "batch_size": (0, -1),
        "target_acceptance_rate": (0.0, 1.0, math.nan),
        "num_rungs": (0, 1),
        "temperature": (-1.0, math.nan),
    }.items():
        for value in values if name in names else ():
            with pytest.raises(ValueError, match=name):
                replace(kernel, **{name: value})
