"""BlackJAX by hand: its window adaptation and its kernels on a log density written by hand, compiled twice.

`nuts-vmap` and `hmc-32` are what its documentation shows, rows of data first and `vmap` over the chains;
`nuts-devices` is what an expert would make of it on a CPU, features first and one virtual device a chain.
"""

import os
import sys

if __name__ == "__main__" and "nuts-devices" in sys.argv:  # must precede JAX
    os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=4"

from collections.abc import Callable
from typing import Any

import blackjax
import jax
import numpy as np

from benchmarks.peers import jax_densities
from benchmarks.peers.exchange import NUM_CHAINS, Clock, Problem, Run, Settings, main

VARIANTS = ("nuts-vmap", "nuts-devices", "hmc-32")


def run(problem: Problem, settings: Settings) -> Run:
    """Warm-up and sampling, each compiled by itself and timed by itself."""
    logdensity = jax_densities.density(problem, "row-major" if settings.variant != "nuts-devices" else "feature-major")
    algorithm: Any = blackjax.hmc if settings.variant == "hmc-32" else blackjax.nuts
    options: dict[str, Any] = {"num_integration_steps": 32} if settings.variant == "hmc-32" else {}
    x, y = _data(problem, np.float32)

    def warm_up(rng_key: Any, x: Any, y: Any) -> Any:
        key_start, key_warmup = jax.random.split(rng_key)
        adaptation: Any = blackjax.window_adaptation(algorithm, lambda q: logdensity(q, x, y), **options)
        start = jax_densities.start(problem, key_start)
        (state, parameters), _ = adaptation.run(key_warmup, start, settings.num_warmup)
        return state, parameters["step_size"], parameters["inverse_mass_matrix"]

    def draw(rng_key: Any, tuned: Any, x: Any, y: Any) -> Any:
        state, step_size, metric = tuned
        kernel = algorithm(lambda q: logdensity(q, x, y), step_size, metric, **options)

        def step(state: Any, rng_key: Any) -> tuple[Any, Any]:
            state, info = kernel.step(rng_key, state)
            return state, (state.position, info.num_integration_steps)

        return jax.lax.scan(step, state, jax.random.split(rng_key, settings.num_draws))[1]

    clock = Clock()
    keys = jax.random.split(jax.random.key(settings.seed), (2, NUM_CHAINS))
    several = _several(settings.variant)
    tuned = jax.block_until_ready(several(warm_up, (0, None, None))(keys[0], x, y))
    sampling = several(draw, (0, 0, None, None)).lower(keys[1], tuned, x, y).compile()
    ready = clock()
    positions, steps = jax.block_until_ready(sampling(keys[1], tuned, x, y))
    end = clock()
    weights = {name: np.asarray(value) for name, value in positions.items()}
    seconds = (end[0] - ready[0], end[1] - ready[1])
    return Run(float(np.sum(steps)), seconds, end, problem.function(weights))


def logdensities(problem: Problem) -> Any:
    """Of the row-major layout and the feature-major one, in float64."""
    with jax.enable_x64(True):
        x, y = _data(problem, np.float64)
        values = [
            jax.vmap(jax_densities.density(problem, layout), (0, None, None))(problem.positions, x, y)
            for layout in ("row-major", "feature-major")
        ]
    return np.stack([np.asarray(value) for value in values])


def _several(variant: str) -> Callable[[Callable[..., Any], tuple[int | None, ...]], Any]:
    """How one chain's program becomes that of all chains."""
    if variant == "nuts-devices":
        return lambda program, axes: jax.pmap(program, in_axes=axes)
    return lambda program, axes: jax.jit(jax.vmap(program, axes))


def _data(problem: Problem, dtype: Any) -> tuple[Any, Any]:
    y = problem.y if problem.likelihood == "categorical" else problem.y.astype(dtype)
    return jax.numpy.asarray(problem.x.astype(dtype)), jax.numpy.asarray(y)


if __name__ == "__main__":
    main(__doc__, VARIANTS, run, logdensities)
