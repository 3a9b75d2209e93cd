"""PyMC's NUTS as it comes: a process a chain, as many at once as there are cores.

The kept draws' CPU time is what PyMC itself reports of each step. The compiler's cache is kept between runs, which is
to PyMC's advantage.
"""

from typing import Any

import pymc as pm

from benchmarks.peers import pymc_model
from benchmarks.peers.exchange import NUM_CHAINS, Clock, Problem, Run, Settings, main

VARIANTS = ("nuts",)


def run(problem: Problem, settings: Settings) -> Run:
    """One call of `pm.sample`."""
    clock = Clock()
    with pymc_model.build(problem):
        tree: Any = pm.sample(
            draws=settings.num_draws,
            tune=settings.num_warmup,
            chains=NUM_CHAINS,
            random_seed=settings.seed,
            nuts_sampler="pymc",
            progressbar=False,
            compute_convergence_checks=False,
        )
    everything = clock()
    statistics = tree["sample_stats"]
    cpu = float(statistics["process_time_diff"].sum())
    # Chains run side by side: the wall time of the draws is their share of it.
    wall = everything[1] * cpu / everything[0]
    function = problem.function(pymc_model.draws(tree["posterior"]))
    return Run(float(statistics["n_steps"].sum()), (cpu, wall), everything, function)


if __name__ == "__main__":
    main(__doc__, VARIANTS, run, pymc_model.logdensities)
