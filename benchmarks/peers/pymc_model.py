"""The PyMC model that PyMC's own sampler and nutpie share."""

from typing import Any

import numpy as np
import pymc as pm

from benchmarks.peers.exchange import Problem


def build(problem: Problem) -> pm.Model:
    """The network, its prior and its likelihood, in float64 as PyMC has it."""
    with pm.Model() as model:
        h: Any = problem.x
        for i, num_inputs, num_outputs, factor in problem.layers:
            w = pm.Normal(f"w{i}", 0.0, 1.0, shape=(num_inputs, num_outputs))
            b = pm.Normal(f"b{i}", 0.0, 1.0, shape=num_outputs)
            h = factor * pm.math.dot(h, w) + b
            if i < len(problem.layers) - 1:
                h = pm.math.tanh(h) if problem.activation == "tanh" else pm.math.maximum(h, 0.0)
        if problem.likelihood == "categorical":
            pm.Categorical("y", logit_p=h, observed=problem.y)
        else:
            pm.Normal("y", h[:, 0], pm.HalfNormal("scale", 1.0), observed=problem.y)
    return model


def logdensities(problem: Problem) -> Any:
    """PyMC's log densities, Jacobians included."""
    logp = build(problem).compile_logp()
    names = {"log_scale": "scale_log__"}
    rows = [{names.get(k, k): v[row] for k, v in problem.positions.items()} for row in range(20)]
    return [float(logp(row)) for row in rows]


def draws(posterior: Any) -> dict[str, np.ndarray]:
    """The weights (chain, draw, ...) of an ArviZ posterior."""
    return {name: posterior[name].values for name in posterior.data_vars}
