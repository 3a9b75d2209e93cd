"""What orbit moves give: ESS of NUTS with them over that of NUTS alone, at the same number of draws.

One hidden layer of 8 ReLU units whose weights have one gamma precision a layer, on 40 points of a sine, twice, and on
150 rows and 4 columns of the diabetes data: `python -m benchmarks.orbit_moves`.
"""

import functools
import statistics
from collections.abc import Callable

import jax
import numpy as np
import numpyro
import numpyro.distributions as dist
from arviz_stats.base import array_stats
from jax import Array

from bnn_models import Posterior, datasets
from inference import NUTS, Draws, WithOrbitMoves, sample
from symmetry import find_symmetries

NUM_UNITS, NUM_PROBES = 8, 20
SETTINGS = {"num_chains": 4, "num_draws": 1000}


def model(x: Array, y: Array | None = None, *, noise: float = 0.1) -> None:
    """A regression network with hierarchical precisions, shared by the weights and the biases of a layer."""
    tau_1 = numpyro.sample("tau_1", dist.Gamma(1.0, 1.0))
    tau_2 = numpyro.sample("tau_2", dist.Gamma(1.0, 1.0))
    w_1 = numpyro.sample("w_1", dist.Normal(0.0, tau_1**-0.5).expand((x.shape[1], NUM_UNITS)).to_event(2))
    b_1 = numpyro.sample("b_1", dist.Normal(0.0, tau_1**-0.5).expand((NUM_UNITS,)).to_event(1))
    w_2 = numpyro.sample("w_2", dist.Normal(0.0, tau_2**-0.5).expand((NUM_UNITS,)).to_event(1))
    b_2 = numpyro.sample("b_2", dist.Normal(0.0, 1.0))
    mean = jax.nn.relu(x @ w_1 + b_1) @ w_2 + b_2
    numpyro.deterministic("prediction", mean[:NUM_PROBES])
    numpyro.sample("y", dist.Normal(mean, noise), obs=y)


def sine() -> Posterior:
    """40 points of a sine with noise 0.3."""
    x = np.linspace(-2, 2, 40, dtype=np.float32)[:, None]
    noise = 0.3 * np.random.default_rng(0).normal(size=40)
    return Posterior(model, x, (np.sin(2 * x[:, 0]) + noise).astype(np.float32), noise=0.3)


def precise_sine() -> Posterior:
    """40 random points with noise 0.1: so narrow a posterior that neither arm mixes in all of it."""
    rng = np.random.default_rng(0)
    x = rng.uniform(-2, 2, size=(40, 1)).astype(np.float32)
    return Posterior(model, x, (np.sin(2 * x[:, 0]) + 0.1 * rng.normal(size=40)).astype(np.float32), noise=0.1)


def diabetes() -> Posterior:
    """150 rows and 4 columns of the diabetes data, noise of about the residuals' scale."""
    data = datasets.load("diabetes", seed=0)
    x, y = np.asarray(data.x_train, np.float32)[:150, [2, 3, 8, 9]], np.asarray(data.y_train, np.float32)[:150]
    return Posterior(model, x, y.reshape(-1), noise=0.7)


def effective_sizes(draws: Draws) -> dict[str, float]:
    """ESS of the whole run, by quantity; of the predictions the median over the probes."""
    weights = {site: np.asarray(value, np.float64) for site, value in draws.weights.items()}
    log_tau = [np.log(weights["tau_1"]), np.log(weights["tau_2"])]
    invariants = draws.invariants
    of = functools.partial(array_stats.ess, chain_axis=0, draw_axis=1)
    predictions = np.asarray(draws.deterministic["prediction"], np.float64)
    return {
        "log tau_1 - log tau_2": float(of(log_tau[0] - log_tau[1])),
        "log tau_1": float(of(log_tau[0])),
        "log |w_1|^2": float(of(np.log((weights["w_1"] ** 2).sum((-2, -1))))),
        "log posterior": float(of(np.asarray(invariants["log_prior"] + invariants["log_likelihood"], np.float64))),
        "predictions": float(np.median(of(predictions))),
    }


def compare(posterior: Posterior, seed: int, num_warmup: int = 500) -> dict[str, tuple[float, float]]:
    """ESS of NUTS alone and with orbit moves, by quantity; and the leapfrogs a draw.

    Args:
        posterior: what is sampled.
        seed: of both runs.
        num_warmup: steps of warm-up.
    """
    kernel = NUTS(num_warmup=num_warmup, max_tree_depth=8)
    arms = kernel, WithOrbitMoves(kernel=kernel, symmetries=find_symmetries(posterior))
    runs = [sample(posterior, arm, **SETTINGS, rng_key=jax.random.key(seed), progress=False) for arm in arms]
    alone, moved = map(effective_sizes, runs)
    steps = [float(run.sample_stats["n_steps"].mean()) for run in runs]
    return {name: (alone[name], moved[name]) for name in alone} | {"leapfrogs a draw": (steps[0], steps[1])}


def main() -> None:
    """Prints a table for each data set: medians over three seeds."""
    problems: dict[str, Callable[[], Posterior]] = {"sine": sine, "precise sine": precise_sine, "diabetes": diabetes}
    for name, problem in problems.items():
        runs = [compare(problem(), seed) for seed in range(3)]
        print(f"\n{name:26}{'NUTS':>8}{'+ moves':>9}{'ratio':>8}{'min':>7}{'max':>7}")
        for quantity in runs[0]:
            alone, moved = (statistics.median(run[quantity][arm] for run in runs) for arm in (0, 1))
            ratios = sorted(run[quantity][1] / run[quantity][0] for run in runs)
            print(f"{quantity:26}{alone:8.0f}{moved:9.0f}{ratios[1]:8.2f}{ratios[0]:7.2f}{ratios[2]:7.2f}")


if __name__ == "__main__":
    main()
