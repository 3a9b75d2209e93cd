"""One measurement of one system on one posterior, in its own process: `python -m benchmarks.systems SYSTEM PROBLEM`.

Prints one line of JSON: gradients a second of wall time, function-space ESS a second of sampling and of everything,
seconds to the first draw (tracing, compilation, warm-up; imports apart) and peak memory. Data are arguments of every
compiled program, and every system runs 4 chains in float32 from draws of the prior.
"""

import argparse
import json
import os
import resource
import tempfile
import time
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import blackjax
import jax
import numpy as np
import numpyro
from arviz_stats.base.array import array_stats
from jax.experimental.compilation_cache.compilation_cache import reset_cache

from benchmarks import problems
from benchmarks.problems import PROBLEMS, Problem
from inference import HMC, NUTS, Kernel, sample

Result = dict[str, float]

NUM_CHAINS = 4


def limit(problem: Problem, num_warmup: int, num_draws: int, *, layout: str) -> Result:
    """Pure evaluations: a thread a core, each a jitted scan of one chain's value and gradient."""
    del num_warmup
    x, y, _ = problems.load()
    target = problems.posterior(problem)
    density, data = {
        "row-major": (problems.row_major(problem), (x, y)),
        "feature-major": (problems.feature_major(problem), (x, y)),
        "library": (lambda position, target: target.logdensity(position), (target,)),
    }[layout]
    num_gradients = 40 * num_draws

    @jax.jit
    def evaluate(position: Any, *data: Any) -> Any:
        def step(position: Any, _: None) -> tuple[Any, Any]:
            value, gradient = jax.value_and_grad(density)(position, *data)
            # Every evaluation depends on the one before it, as in a trajectory.
            return jax.tree.map(lambda q, g: q + 1e-6 * g, position, gradient), value

        return jax.lax.scan(step, position, None, length=num_gradients)

    starts = [jax.tree.map(lambda q: q[0], target.initial(jax.random.key(c), 1)) for c in range(NUM_CHAINS)]
    run = evaluate.lower(starts[0], *data).compile()
    jax.block_until_ready(run(starts[0], *data))
    begin = time.perf_counter()
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        list(pool.map(lambda start: jax.block_until_ready(run(start, *data)), starts))
    return {"gradients_per_second": NUM_CHAINS * num_gradients / (time.perf_counter() - begin)}


def library(problem: Problem, num_warmup: int, num_draws: int, *, build: Callable[..., Kernel]) -> Result:
    """This library."""
    _, _, probes = problems.load()
    begin = time.perf_counter()
    draws = sample(
        problems.posterior(problem),
        build(num_warmup=num_warmup),
        num_chains=NUM_CHAINS,
        num_draws=num_draws,
        rng_key=jax.random.key(1),
        probes=probes,
        progress=False,
    )
    everything = time.perf_counter() - begin
    assert draws.function is not None
    gradients = draws.sample_stats["n_steps"].sum()
    return _result(gradients, draws.function[..., 0], draws.seconds["sampling"], everything)


def blackjax_hmc(problem: Problem, num_warmup: int, num_draws: int, *, num_integration_steps: int) -> Result:
    """BlackJAX by hand: its window adaptation and its HMC, `vmap` over the chains, this library's log density."""

    @jax.jit
    def warm_up(target: Any, rng_key: Any) -> Any:
        def one(rng_key: Any, position: Any) -> Any:
            adaptation: Any = blackjax.window_adaptation(
                blackjax.hmc, target.logdensity, num_integration_steps=num_integration_steps
            )
            (state, parameters), _ = adaptation.run(rng_key, position, num_warmup)
            return state, parameters["step_size"], parameters["inverse_mass_matrix"]

        return jax.vmap(one)(jax.random.split(rng_key, NUM_CHAINS), target.initial(rng_key, NUM_CHAINS))

    @jax.jit
    def draw(target: Any, rng_key: Any, states: Any, step_sizes: Any, metrics: Any) -> Any:
        def one(rng_key: Any, state: Any, step_size: Any, metric: Any) -> Any:
            kernel = blackjax.hmc(target.logdensity, step_size, metric, num_integration_steps)

            def step(state: Any, rng_key: Any) -> tuple[Any, Any]:
                state, _ = kernel.step(rng_key, state)
                return state, state.position

            return jax.lax.scan(step, state, jax.random.split(rng_key, num_draws))[1]

        return jax.vmap(one)(jax.random.split(rng_key, NUM_CHAINS), states, step_sizes, metrics)

    target = problems.posterior(problem)
    begin = time.perf_counter()
    sampling = draw.lower(target, jax.random.key(3), *jax.eval_shape(warm_up, target, jax.random.key(2))).compile()
    tuned = jax.block_until_ready(warm_up(target, jax.random.key(2)))
    ready = time.perf_counter()
    positions = jax.block_until_ready(sampling(target, jax.random.key(3), *tuned))
    end = time.perf_counter()
    gradients = NUM_CHAINS * num_draws * num_integration_steps
    return _result(gradients, _function(target, positions), end - ready, end - begin)


def numpyro_nuts(problem: Problem, num_warmup: int, num_draws: int) -> Result:
    """NumPyro's NUTS as it comes, on a model as its users write it: its chains run one after the other on a CPU.

    It compiles anew for each chain of each run, which counts as everything else does until the first draw. Its rate is
    that of the draws after the first, with compiled programs kept on disk: what a run of one draw takes drops out.
    """
    x, y, _ = problems.load()
    mcmc = numpyro.infer.MCMC(
        numpyro.infer.NUTS(problems.numpyro_model(problem)),
        num_warmup=num_warmup,
        num_samples=num_draws,
        num_chains=NUM_CHAINS,
        progress_bar=False,
    )

    def draw(num_samples: int) -> tuple[float, float]:
        mcmc.num_samples = num_samples
        begin = time.perf_counter()
        mcmc.run(jax.random.key(2), x, y, extra_fields=("num_steps",))
        jax.block_until_ready(mcmc.get_samples())
        return time.perf_counter() - begin, float(mcmc.get_extra_fields()["num_steps"].sum())

    begin = time.perf_counter()
    mcmc.warmup(jax.random.key(1), x, y, extra_fields=("num_steps",))
    draw(num_draws)
    everything = time.perf_counter() - begin
    function = _function(problems.posterior(problem), mcmc.get_samples(group_by_chain=True), constrained=True)
    with tempfile.TemporaryDirectory() as folder:
        jax.config.update("jax_compilation_cache_dir", folder)
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
        reset_cache()
        for num_samples in (1, num_draws):  # fills the cache
            draw(num_samples)
        overhead, first = draw(1)
        seconds, gradients = draw(num_draws)
    rate = (gradients - first) / (seconds - overhead)
    return _result(gradients, function, gradients / rate, everything)


SYSTEMS: dict[str, Callable[[Problem, int, int], Result]] = {
    "limit, row-major": partial(limit, layout="row-major"),
    "limit, feature-major": partial(limit, layout="feature-major"),
    "limit, library's density": partial(limit, layout="library"),
    "manymodes HMC 32": partial(library, build=partial(HMC, num_integration_steps=32)),
    "BlackJAX HMC 32, vmap": partial(blackjax_hmc, num_integration_steps=32),
    "manymodes HMC 64": partial(library, build=partial(HMC, num_integration_steps=64)),
    "BlackJAX HMC 64, vmap": partial(blackjax_hmc, num_integration_steps=64),
    "manymodes NUTS": partial(library, build=NUTS),
    "NumPyro NUTS": numpyro_nuts,
}
"""Name -> measurement."""


def _function(target: Any, positions: Any, *, constrained: bool = False) -> np.ndarray:
    """The network's output (chain, draw, probe) at the held-out inputs, outside of all timings."""
    probes = problems.load()[2]

    def one(target: Any, position: Any) -> Any:
        return target.function(position if constrained else target.constrain(position), probes)[:, 0]

    return np.asarray(jax.jit(jax.vmap(jax.vmap(one, (None, 0)), (None, 0)))(target, positions))


def _result(gradients: float, function: np.ndarray, sampling: float, everything: float) -> Result:
    probes = np.moveaxis(np.asarray(function, np.float64), -1, 0)
    statistics: Any = array_stats  # ArviZ's annotations deny that one array gives one number
    ess = min(float(statistics.ess(probe, chain_axis=0, draw_axis=1, method="bulk")) for probe in probes)
    return {
        "gradients_per_second": float(gradients) / sampling,
        "ess_per_second": ess / sampling,
        "ess_per_second_of_all": ess / everything,
        "ess_per_1000_gradients": 1000 * ess / float(gradients),
        "seconds_to_first_draw": everything - sampling,
    }


def main() -> None:
    """Runs what the command line names."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("system", choices=[*SYSTEMS, "agreement"])
    parser.add_argument("problem", choices=PROBLEMS)
    parser.add_argument("--warmup", type=int, default=300)
    parser.add_argument("--draws", type=int, default=300)
    arguments = parser.parse_args()
    # NumPyro warns that its chains will run one after the other: that is its default, and what is measured.
    warnings.filterwarnings("ignore", message="There are not enough devices")
    problem = PROBLEMS[arguments.problem]
    if arguments.system == "agreement":
        print(json.dumps(problems.spread_of_differences(problem)))
        return
    result = SYSTEMS[arguments.system](problem, arguments.warmup, arguments.draws)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps(result | {"peak_memory_mib": peak}))


if __name__ == "__main__":
    main()
