"""NumPyro's NUTS as it comes, on a model as its users write it: a site an array, and `h @ w + b`.

The variants are its three ways to run several chains: one after the other (its default on a CPU), `vmap`, and a virtual
device a chain. It compiles anew for each chain of each run, which counts as everything else does until the first draw.
Its rate is that of the draws after the first, with compiled programs kept on disk: what a run of one draw takes, drops
out.
"""

import os
import sys

if __name__ == "__main__" and "parallel" in sys.argv:  # must precede JAX
    os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=4"

import tempfile
import warnings
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from jax.experimental.compilation_cache.compilation_cache import reset_cache
from numpyro.infer.util import potential_energy

from benchmarks.peers.exchange import NUM_CHAINS, Clock, Problem, Run, Settings, main

VARIANTS = ("sequential", "vectorized", "parallel")


def model(problem: Problem, x: Any, y: Any) -> None:
    """The network, its prior and its likelihood."""
    h = x
    for i, num_inputs, num_outputs, factor in problem.layers:
        w = numpyro.sample(f"w{i}", _standard_normal(num_inputs, num_outputs))
        b = numpyro.sample(f"b{i}", _standard_normal(num_outputs))
        h = factor * (h @ w) + b
        if i < len(problem.layers) - 1:
            h = jnp.tanh(h) if problem.activation == "tanh" else jax.nn.relu(h)
    if problem.likelihood == "categorical":
        numpyro.sample("y", dist.CategoricalLogits(h), obs=y)
    else:
        numpyro.sample("y", dist.Normal(h[:, 0], numpyro.sample("scale", dist.HalfNormal(1.0))), obs=y)


def _standard_normal(*shape: int) -> Any:
    return dist.Normal(0.0, 1.0).expand(shape).to_event(len(shape))


def run(problem: Problem, settings: Settings) -> Run:
    """A whole run, and then the rate of its draws."""
    # NumPyro warns that its chains will run one after the other: that is its default, and what is measured.
    warnings.filterwarnings("ignore", message="There are not enough devices")
    x, y = _data(problem, np.float32)
    mcmc = numpyro.infer.MCMC(
        numpyro.infer.NUTS(lambda x, y: model(problem, x, y)),
        num_warmup=settings.num_warmup,
        num_samples=settings.num_draws,
        num_chains=NUM_CHAINS,
        chain_method=settings.variant,
        progress_bar=False,
    )
    key_warmup, key_draws = jax.random.split(jax.random.key(settings.seed))

    def draw(num_samples: int) -> tuple[np.ndarray, float]:
        mcmc.num_samples = num_samples
        clock = Clock()
        mcmc.run(key_draws, x, y, extra_fields=("num_steps",))
        jax.block_until_ready(mcmc.get_samples())
        return np.array(clock()), float(mcmc.get_extra_fields()["num_steps"].sum())

    clock = Clock()
    mcmc.warmup(key_warmup, x, y, extra_fields=("num_steps",))
    _, gradients = draw(settings.num_draws)
    everything = clock()
    draws = {name: np.asarray(value) for name, value in mcmc.get_samples(group_by_chain=True).items()}
    with tempfile.TemporaryDirectory() as folder:
        jax.config.update("jax_compilation_cache_dir", folder)
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
        reset_cache()
        few = min(settings.num_draws, max(50, settings.num_draws // 10))
        for num_samples in (1, few):  # fills the cache
            draw(num_samples)
        overhead, first = draw(1)
        seconds, others = draw(few)
    sampling = (seconds - overhead) * gradients / (others - first)
    return Run(gradients, (float(sampling[0]), float(sampling[1])), everything, problem.function(draws))


def logdensities(problem: Problem) -> Any:
    """Minus NumPyro's potential energy, in float64."""
    with jax.enable_x64(True):
        x, y = _data(problem, np.float64)
        positions = {name.removeprefix("log_"): jnp.asarray(value) for name, value in problem.positions.items()}
        return jax.vmap(lambda q: -potential_energy(lambda x, y: model(problem, x, y), (x, y), {}, q))(positions)


def _data(problem: Problem, dtype: Any) -> tuple[Any, Any]:
    y = problem.y if problem.likelihood == "categorical" else problem.y.astype(dtype)
    return jnp.asarray(problem.x.astype(dtype)), jnp.asarray(y)


if __name__ == "__main__":
    main(__doc__, VARIANTS, run, logdensities)
