"""Loops of the host: taken for convolutions on a CPU alone, and the same draws up to rounding."""

from dataclasses import dataclass, replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from kernels import KERNELS
from targets import Gaussian

from inference import sample, setup
from inference.executors import Threads
from inference.host_loop import prefers_host_loop

SHAPES = {"x": jax.ShapeDtypeStruct((3,), np.float32), "scale": jax.ShapeDtypeStruct((), np.float32)}


@partial(jax.tree_util.register_dataclass, data_fields=["mean", "precision"], meta_fields=["gradient"])
@dataclass(frozen=True)
class Convolved(Gaussian):
    """A Gaussian whose deviation is convolved with a unit pulse, inside a jitted function."""

    def loglikelihood(self, position):
        deviation = jax.jit(partial(jnp.convolve, mode="same"))(position["x"] - self.mean, jnp.array([0.0, 1.0, 0.0]))
        return -0.5 * deviation @ self.precision @ deviation


def test_rule_is_the_platform_and_a_convolution(monkeypatch):
    plain, convolved = Gaussian.example(3), Convolved.example(3)
    assert prefers_host_loop(convolved, SHAPES)
    assert not prefers_host_loop(plain, SHAPES)
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert not prefers_host_loop(convolved, SHAPES)


def test_only_kernels_of_one_gradient_are_looped_over(monkeypatch):
    monkeypatch.setattr(setup, "prefers_host_loop", lambda *args: True)
    target = Gaussian.example(3)
    loops = {name for name, kernel in KERNELS.items() if setup.loops_by_host(kernel, target, Threads(1))}
    assert loops == {"sgld", "sgld, batches", "sghmc", "sgd"}


def test_draws_are_those_of_the_compiled_loop(monkeypatch):
    kernel = replace(KERNELS["sghmc"], num_warmup=5)
    settings = {"num_chains": 2, "num_draws": 7, "rng_key": jax.random.key(0)}
    by_host = sample(Convolved.example(3), kernel, **settings)
    monkeypatch.setattr(setup, "prefers_host_loop", lambda *args: False)
    compiled = sample(Convolved.example(3), kernel, **settings)
    for site, values in compiled.weights.items():
        np.testing.assert_allclose(by_host.weights[site], values, rtol=1e-4, atol=1e-5)
