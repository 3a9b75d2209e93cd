"""One measurement of this library, or of the machine's limit, in its own process: `python -m benchmarks.systems`.

It speaks as the peers do: it reads the problem's name, and prints one line of JSON. The limit is what a thread a core
can do, each a jitted scan of one chain's value and gradient, in two layouts by hand and of this library's own density.
"""

import argparse
import json
import os
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jax
import numpy as np

from benchmarks.peers import jax_densities
from benchmarks.peers.exchange import NUM_CHAINS, Clock, Run, Settings, record
from benchmarks.problems import PROBLEMS, Problem
from inference import HMC, NUTS, Kernel, sample

KERNELS: dict[str, Callable[[int], Kernel]] = {
    # The one kernel that is recommended for all problems is named here, and nowhere else.
    "recommended": lambda num_warmup: HMC(num_warmup=num_warmup),
    "nuts": lambda num_warmup: NUTS(num_warmup=num_warmup),
    "hmc-32": lambda num_warmup: HMC(num_warmup=num_warmup, num_integration_steps=32),
    "hmc-64": lambda num_warmup: HMC(num_warmup=num_warmup, num_integration_steps=64),
}
LIMITS = ("limit-row-major", "limit-feature-major", "limit-library")


def limit(problem: Problem, settings: Settings) -> dict[str, float]:
    """Pure evaluations, each of which depends on the one before it, as in a trajectory."""
    layout = settings.variant.removeprefix("limit-")
    seen, _ = problem.exchanged()
    posterior = problem.posterior()
    if layout == "library":
        data: tuple[Any, ...] = (posterior,)
        density: Callable[..., Any] = _library_density
        starts = [jax.tree.map(lambda q: q[0], posterior.initial(jax.random.key(c), 1)) for c in range(NUM_CHAINS)]
    else:
        data = posterior.args
        density = jax_densities.density(seen, layout)
        starts = [jax_densities.start(seen, jax.random.key(c)) for c in range(NUM_CHAINS)]
    num_gradients = 40 * settings.num_draws

    @jax.jit
    def evaluate(position: Any, *data: Any) -> Any:
        def step(position: Any, _: None) -> tuple[Any, Any]:
            value, gradient = jax.value_and_grad(density)(position, *data)
            return jax.tree.map(lambda q, g: q + 1e-6 * g, position, gradient), value

        return jax.lax.scan(step, position, None, length=num_gradients)

    program = evaluate.lower(starts[0], *data).compile()
    jax.block_until_ready(program(starts[0], *data))
    clock = Clock()
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        list(pool.map(lambda start: jax.block_until_ready(program(start, *data)), starts))
    cpu, wall = clock()
    return {"gradients": NUM_CHAINS * num_gradients, "sampling_cpu": cpu, "sampling_wall": wall}


def library(problem: Problem, settings: Settings) -> Run:
    """One call of `sample`: what a user does, from data that are read, as the peers' are."""
    probes = problem.probes
    with _Watch() as watch:
        posterior = problem.posterior()
        begin = watch.clock()[1]
        draws = sample(
            posterior,
            KERNELS[settings.variant](settings.num_warmup),
            num_chains=NUM_CHAINS,
            num_draws=settings.num_draws,
            rng_key=jax.random.key(settings.seed),
            probes=probes,
            progress=False,
        )
    assert draws.function is not None
    function = np.asarray(draws.function)
    centred = function - function.mean(axis=-1, keepdims=True)
    values = function[..., 0] if problem.likelihood == "normal" else centred
    # Warm-up and sampling overlap in the threads; the run's seconds are shared as the library shares them.
    phases = draws.seconds
    share = phases["sampling"] / (phases["warmup"] + phases["sampling"])
    begin += phases["compile"]
    run_cpu = watch.cpu_at(begin + phases["warmup"] + phases["sampling"]) - watch.cpu_at(begin)
    seconds = (share * run_cpu, phases["sampling"])
    return Run(float(draws.sample_stats["n_steps"].sum()), seconds, watch.everything, values)


def _library_density(position: Any, posterior: Any) -> Any:
    return posterior.logdensity(position)


class _Watch:
    """Reads the CPU clock all the time, to know how much of it had passed at a moment of the wall clock."""

    def __enter__(self) -> "_Watch":
        self.clock, self._readings, self._done = Clock(), [(0.0, 0.0)], threading.Event()
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.everything = self.clock()
        self._done.set()
        self._thread.join()

    def cpu_at(self, wall: float) -> float:
        """CPU seconds at a wall second."""
        cpus, walls = zip(*self._readings, strict=True)
        return float(np.interp(wall, walls, cpus))

    def _read(self) -> None:
        while not self._done.is_set():
            self._readings.append(self.clock())
            time.sleep(0.01)


SYSTEMS = {name: library for name in KERNELS} | {name: limit for name in LIMITS}


def main() -> None:
    """Runs what the command line names."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("problem", choices=PROBLEMS)
    parser.add_argument("--variant", required=True, choices=SYSTEMS)
    parser.add_argument("--warmup", type=int, default=500)
    parser.add_argument("--draws", type=int, default=500)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--function", type=Path)
    arguments = parser.parse_args()
    settings = Settings(arguments.variant, arguments.warmup, arguments.draws, arguments.seed)
    result = SYSTEMS[arguments.variant](PROBLEMS[arguments.problem], settings)
    if isinstance(result, Run):
        if arguments.function:
            np.save(arguments.function, result.function)
        result = record(result)
    print(json.dumps(result))


if __name__ == "__main__":
    main()
