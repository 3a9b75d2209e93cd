"""PyStan's NUTS as it comes: a process a chain, as many at once as there are cores, a program in Stan's language.

Building the program takes a C++ compiler a minute; it is kept on disk between runs and does not count, which is to
Stan's advantage. The draws' share of the seconds is what Stan itself reports of each chain.
"""

import re
import shutil
from pathlib import Path
from typing import Any

import httpstan.cache
import httpstan.services_stub
import numpy as np
import stan

from benchmarks.peers.exchange import NUM_CHAINS, Clock, Problem, Run, Settings, main

VARIANTS = ("nuts",)


def program(problem: Problem) -> str:
    """The network, its prior and its likelihood in Stan's language."""
    parameters, prior, forward, h = [], [], [], "x"
    for i, n, m, factor in problem.layers:
        parameters += [f"matrix[{n}, {m}] w{i};", f"row_vector[{m}] b{i};"]
        prior += [f"to_vector(w{i}) ~ std_normal();", f"b{i} ~ std_normal();"]
        layer = f"{factor!r} * ({h} * w{i}) + rep_matrix(b{i}, n)"
        if i < len(problem.layers) - 1:
            layer = f"tanh({layer})" if problem.activation == "tanh" else f"fmax({layer}, 0)"
        forward.append(f"matrix[n, {m}] h{i} = {layer};")
        h = f"h{i}"
    if problem.likelihood == "categorical":
        targets, observe = "array[n] int y;", f"for (i in 1:n) y[i] ~ categorical_logit({h}[i]');"
    else:
        parameters.append("real<lower=0> scale;")
        prior.append("scale ~ std_normal();")
        targets, observe = "vector[n] y;", f"y ~ normal(col({h}, 1), scale);"
    return "\n".join(
        [
            f"data {{ int n; matrix[n, {problem.widths[0]}] x; {targets} }}",
            "parameters {", *parameters, "}",
            "model {", *forward, *prior, observe, "}",
        ]
    )  # fmt: skip


def build(problem: Problem, seed: int) -> Any:
    """The compiled program with its data."""
    y = problem.y + 1 if problem.likelihood == "categorical" else problem.y
    data = {"n": len(y), "x": problem.x.tolist(), "y": y.tolist()}
    return stan.build(program(problem), data=data, random_seed=seed + 1)


def run(problem: Problem, settings: Settings) -> Run:
    """One call of `sample`."""
    model = build(problem, settings.seed)
    # PyStan would give back the draws of an earlier run with the same seed.
    shutil.rmtree(Path(httpstan.cache.model_directory(model.model_name)) / "fits", ignore_errors=True)
    clock = Clock()
    fit = model.sample(num_chains=NUM_CHAINS, num_samples=settings.num_draws, num_warmup=settings.num_warmup)
    httpstan.services_stub.executor.shutdown()  # only the seconds of ended processes can be read
    cpu, wall = clock()
    log = b"".join(fit.stan_outputs).decode()
    warmup, sampling = (sum(map(float, re.findall(rf"([\d.]+) seconds \({phase}\)", log))) for phase in _PHASES)
    share = sampling / (warmup + sampling)
    weights = {name: _by_chain(fit[name], settings.num_draws) for name in fit.param_names}
    gradients = float(fit["n_leapfrog__"].sum())
    return Run(gradients, (share * cpu, share * wall), (cpu, wall), problem.function(weights))


def logdensities(problem: Problem) -> Any:
    """Stan's log densities, Jacobians included."""
    model = build(problem, 0)
    rows = []
    for row in range(20):
        position = {name: value[row] for name, value in problem.positions.items()}
        if "log_scale" in position:
            position["scale"] = np.exp(position.pop("log_scale"))
        point = model.unconstrain_pars({name: np.asarray(value).tolist() for name, value in position.items()})
        rows.append(model.log_prob(point, adjust_transform=True))
    return rows


_PHASES = ("Warm-up", "Sampling")


def _by_chain(values: np.ndarray, num_draws: int) -> np.ndarray:
    """(chain, draw, ...) of PyStan's (..., chain and draw): the chain runs fastest."""
    values = np.moveaxis(values, -1, 0)
    return np.moveaxis(values.reshape(num_draws, -1, *values.shape[1:]), 1, 0)


if __name__ == "__main__":
    main(__doc__, VARIANTS, run, logdensities)
