"""What the tests of the mesh share: a posterior with rows, its wrong twin, and five steps of a kernel anywhere."""

import dataclasses
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist

from bnn_models import BNN, Posterior, likelihoods, networks, priors
from inference.blocks import Advance, Start
from inference.executors import trace
from inference.mesh import CHAIN, DATA, LOCAL
from inference.shards import ShardedTarget

NUM_CHAINS, NUM_STEPS = 8, 5


class AscentState(NamedTuple):
    """A State with nothing of its own."""

    position: Any
    logdensity: Any
    gradient: Any


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True, kw_only=True)
class Ascent:
    """Steps along the gradient, for tests that compile little; across chains, if wanted, towards the chains' mean."""

    step_size: float = 1e-3
    num_warmup: int = 0
    crosses_chains: bool = False

    def init(self, rng_key, position, target):
        del rng_key
        return AscentState(position, *jax.value_and_grad(target.logdensity)(position))

    def step(self, rng_key, state, target, t):
        del t
        position = jax.tree.map(lambda x, slope: x + self.step_size * slope, state.position, state.gradient)
        if self.crosses_chains:
            position = jax.tree.map(lambda x: 0.9 * x + 0.1 * jax.lax.pmean(x, (CHAIN, LOCAL)), position)
        state = self.init(rng_key, position, target)
        return state, {"lp": state.logdensity}


def network_posterior(num_rows=21):
    """Three inputs, four hidden units; a number of rows that no number of devices divides."""
    rng = np.random.default_rng(0)
    model = BNN(networks.mlp([3, 4, 1]), prior=priors.normal(scale=1.0), likelihood=likelihoods.normal(scale=0.5))
    return Posterior(model, rng.normal(size=(num_rows, 3)), rng.normal(size=num_rows))


def linear_regression(a, y):
    """The sites of `targets.Gaussian`, which some of the kernels in `kernels.py` are made for."""
    x = numpyro.sample("x", dist.Normal(0.0, 1.0).expand([3]).to_event(1))
    scale = numpyro.sample("scale", dist.LogNormal(0.0, 1.0))
    numpyro.sample("y", dist.Normal(a @ x, scale), obs=y)


def regression_posterior(num_rows=21):
    rng = np.random.default_rng(2)
    return Posterior(linear_regression, rng.normal(size=(num_rows, 3)), rng.normal(size=num_rows))


@partial(
    jax.tree_util.register_dataclass,
    data_fields=["arrays", "is_row"],
    meta_fields=["structure", "axes", "num_rows", "num_shards"],
)
@dataclasses.dataclass(frozen=True, kw_only=True)
class NaiveTarget(ShardedTarget):
    """Its values are right, and the gradient is the one that JAX takes of a `psum`."""

    @classmethod
    def of(cls, target):
        return cls(**{field.name: getattr(target, field.name) for field in dataclasses.fields(target)})

    def loglikelihood(self, position):
        return jax.lax.psum(self.row_loglikelihood(position).sum(), DATA)


def on_all_rows(kernel, num_rows):
    """The kernel with batches of all rows: devices draw rows of their own shards, so no two meshes draw the same."""
    changes = {"batch_size": num_rows} if getattr(kernel, "batch_size", None) is not None else {}
    if hasattr(kernel, "kernel"):
        changes["kernel"] = on_all_rows(kernel.kernel, num_rows)
    return dataclasses.replace(kernel, **changes)


def starts(posterior, num_chains=NUM_CHAINS):
    rng = np.random.default_rng(1)
    keys = jax.vmap(jax.random.fold_in, (None, 0))(jax.random.key(1), jnp.arange(num_chains))
    return keys, {site: rng.normal(size=(num_chains, *shape)) for site, shape in posterior.sites.items()}


def positions(executor, kernel, posterior, *, target=None, num_steps=NUM_STEPS):
    """All positions (chain, step, dim) of this process's chains after the first `num_steps` steps."""
    target = executor.target(posterior) if target is None else target
    keys, initial = starts(posterior)
    own = np.concatenate([executor.groups(NUM_CHAINS)[number] for number in executor.owned(NUM_CHAINS)])
    shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), (keys, initial))
    start = trace(executor, Start(kernel), shapes, target)
    counts = (np.int32(0), np.int32(num_steps))
    advance = trace(executor, Advance(kernel, num_steps), (shapes[0], start.result), (target, *counts))
    placed_keys, placed = executor.place_chains((keys[own], {site: x[own] for site, x in initial.items()}))
    shared = executor.place(target)
    _, (rows, _) = advance((placed_keys, start((placed_keys, placed), shared)), (shared, *counts))
    rows = executor.fetch(rows)
    return np.concatenate([x.reshape(*x.shape[:2], -1) for x in rows.values()], axis=-1)


def reference(kernel, posterior, num_steps=NUM_STEPS):
    """The same of all chains, by `vmap` alone: no mesh, no shards."""
    keys, initial = starts(posterior)
    placed = jax.tree.map(jnp.asarray, initial)
    state = jax.vmap(Start(kernel), in_axes=(0, None))((keys, placed), posterior)
    advance = jax.jit(jax.vmap(Advance(kernel, num_steps), in_axes=(0, None)))
    _, (rows, _) = advance((keys, state), (posterior, np.int32(0), np.int32(num_steps)))
    return np.concatenate([np.asarray(x).reshape(*x.shape[:2], -1) for x in rows.values()], axis=-1)


def relative_difference(draws, expected):
    """Largest difference of any number, relative to the largest number."""
    return float(np.abs(draws - expected).max() / np.abs(expected).max())
