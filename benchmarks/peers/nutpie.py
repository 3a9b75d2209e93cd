"""nutpie as it comes, on the PyMC model: NUTS with a metric from gradients, threads over the chains, compiled by Numba.

It does not tell the seconds of warm-up from those of sampling: they are shared in proportion to the leapfrogs, each of
which costs the same gradient.
"""

from typing import Any

import nutpie

from benchmarks.peers import pymc_model
from benchmarks.peers.exchange import NUM_CHAINS, Clock, Problem, Run, Settings, main

VARIANTS = ("nuts",)


def run(problem: Problem, settings: Settings) -> Run:
    """Compiles and samples."""
    clock = Clock()
    compiled = nutpie.compile_pymc_model(pymc_model.build(problem))
    compilation = clock()
    tree: Any = nutpie.sample(
        compiled,
        draws=settings.num_draws,
        tune=settings.num_warmup,
        chains=NUM_CHAINS,
        seed=settings.seed,
        save_warmup=True,
        progress_bar=False,
    )
    everything = clock()
    gradients = float(tree["sample_stats"]["n_steps"].sum())
    share = gradients / (gradients + float(tree["warmup_sample_stats"]["n_steps"].sum()))
    sampling = tuple(share * (end - begin) for end, begin in zip(everything, compilation, strict=True))
    function = problem.function(pymc_model.draws(tree["posterior"]))
    return Run(gradients, (sampling[0], sampling[1]), everything, function)


if __name__ == "__main__":
    main(__doc__, VARIANTS, run, pymc_model.logdensities)
