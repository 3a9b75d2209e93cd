"""Eight virtual CPU devices in double precision: what data axes give, printed as JSON. Arguments: names of kernels."""

import json
import os
import sys
import tempfile

# Programs run for milliseconds: most of the time would go into making them fast.
os.environ |= {
    "XLA_FLAGS": "--xla_force_host_platform_device_count=8 --xla_backend_optimization_level=0 "
    "--xla_llvm_disable_expensive_passes=true",
    "JAX_ENABLE_X64": "1",
}

import jax
import jax.numpy as jnp
import numpy as np
from kernels import KERNELS
from sharding import (
    Ascent,
    NaiveTarget,
    network_posterior,
    on_all_rows,
    positions,
    reference,
    regression_posterior,
    relative_difference,
    starts,
)

from inference import HMC, NUTS, ParallelTempering, resume, sample
from inference.devices import Devices
from inference.mesh import device_mesh
from inference.sharded import check_sharding

MESHES = ((2, 4), (1, 8), (4, 1), (8, 1), (4, 2))
POSTERIOR = network_posterior()


def on(*shape):
    return Devices(device_mesh(8, shape=shape, num_rungs=4))


def message(call, *args, **kwargs):
    try:
        call(*args, **kwargs)
    except (ValueError, TypeError) as error:
        return str(error)
    return None


def differences(names):
    """Of five steps on each mesh from those on one device."""
    found, posterior = {}, regression_posterior()
    for name in names:
        kernel = on_all_rows(KERNELS[name], posterior.num_rows)
        expected = positions(on(1, 1), kernel, posterior)
        assert np.abs(expected[:, -1] - expected[:, 0]).max() > 0
        for shape in MESHES:
            draws = positions(on(*shape), kernel, posterior)
            found[f"{name} {shape}"] = relative_difference(draws, expected)
    return found


def rungs():
    """Of five tempered steps on meshes that deal out rungs, and data as well, from those on one device."""
    posterior = regression_posterior()
    kernel = ParallelTempering(kernel=HMC(num_warmup=40, num_integration_steps=3), num_rungs=4)
    expected = positions(on(1, 1), kernel, posterior)
    meshes = ((2, 1, 4), (4, 1, 2), (1, 2, 4), (1, 1, 2))
    found = {str(shape): relative_difference(positions(on(*shape), kernel, posterior), expected) for shape in meshes}
    settings = {"num_chains": 2, "num_draws": 3, "rng_key": jax.random.key(0), "progress": False}
    one = sample(posterior, kernel, **settings, mesh=(2, 1))
    with tempfile.TemporaryDirectory() as folder:
        sample(posterior, kernel, **(settings | {"num_draws": 1}), mesh=(2, 1, 4), run=f"{folder}/run")
        mesh = resume(f"{folder}/run", posterior, num_draws=3, progress=False)
    for name, x in one.sample_stats.items():
        found[name] = relative_difference(mesh.sample_stats[name].astype(float), x.astype(float)) if x.any() else 0.0
        assert mesh.sample_stats[name].any() == x.any()
    return found | {"refused": message(sample, posterior, NUTS(num_warmup=3), **settings, mesh=(2, 1, 4))}


def derivatives():
    """Relative error of what JAX derives from the sharded density."""
    executor = on(2, 4)
    target = executor.target(POSTERIOR)

    def derive(position, density):
        ones = jax.tree.map(jnp.ones_like, position)

        def slope(position):
            return sum(x.sum() for x in jax.tree.leaves(jax.grad(density)(position)))

        _, forward = jax.jvp(density, (position,), (ones,))
        return {"reverse": jax.grad(density)(position), "forward": forward, "twice": jax.grad(slope)(position)}

    def errors(position, shared):
        target, posterior = shared
        flat = [derive(position, density) for density in (target.logdensity, posterior.logdensity)]
        both = {
            name: [jnp.concatenate([x.ravel() for x in jax.tree.leaves(d[name])]) for d in flat] for name in flat[0]
        }
        return {name: jnp.abs(x - y).max() / jnp.abs(y).max() for name, (x, y) in both.items()}

    def hessian(position, shared):
        return jax.hessian(shared[0].logdensity)(position)

    arguments = executor.place_chains(starts(POSTERIOR)[1]), executor.place((target, POSTERIOR))
    found = executor.fetch(executor.jit(errors, (target, POSTERIOR))(*arguments))
    refusal = message(executor.jit(hessian, (target, POSTERIOR)), *arguments)
    return {name: float(x.max()) for name, x in found.items()} | {"refusal": refusal}


def controls():
    """The gradient of a plain psum: the draws it gives, and what the start-up test says of it."""
    executor, kernel = on(2, 4), Ascent()
    target = executor.target(POSTERIOR)
    naive = NaiveTarget.of(target)
    initial = starts(POSTERIOR)[1]
    expected = reference(kernel, POSTERIOR)
    right, wrong = (positions(executor, kernel, POSTERIOR, target=t) for t in (target, naive))
    return {
        "one row": relative_difference(positions(on(1, 8), kernel, POSTERIOR), expected),
        "right": relative_difference(right, expected),
        "wrong": relative_difference(wrong, expected),
        "accepted": message(check_sharding, executor, POSTERIOR, target, initial),
        "refused": message(check_sharding, executor, POSTERIOR, naive, initial),
        "whole": message(check_sharding, on(8, 1), POSTERIOR, POSTERIOR, initial),
    }


def estimates():
    """Mean error of minibatch estimates in standard errors, drawn without and with replacement, and at all rows."""
    found = {}
    for num_rows, batch_size in ((21, 8), (300, 4), (21, 21)):
        posterior, executor = network_posterior(num_rows), on(2, 4)
        target, num_keys = executor.target(posterior), 2000

        def errors(position, target, batch_size=batch_size, num_keys=num_keys):
            keys = jax.random.split(jax.random.key(5), num_keys)
            drawn = jax.lax.map(lambda key: target.logdensity_estimate(key, position, batch_size), keys)
            return drawn - target.logdensity(position)

        arguments = executor.place_chains(starts(posterior)[1]), executor.place(target)
        drawn = executor.fetch(executor.jit(errors, target)(*arguments))
        spread = drawn.std(axis=1)
        scores = drawn.mean(axis=1) / np.maximum(spread / np.sqrt(num_keys), 1e-9)
        found[f"{batch_size} of {num_rows}"] = {"scores": scores.tolist(), "spread": spread.tolist()}
    refused = message(executor.jit(lambda q, t: t.logdensity_estimate(jax.random.key(0), q, 6), target), *arguments)
    return found | {"refused": refused}


def whole_runs():
    """`sample` on a mesh with a data axis: everything that it observes of a draw, against one device."""
    kernel = NUTS(num_warmup=3, max_tree_depth=4)
    settings = {"num_chains": 8, "num_draws": 3, "rng_key": jax.random.key(0), "progress": False}
    mesh, one = (sample(POSTERIOR, kernel, **settings, mesh=shape) for shape in ((2, 4), (1, 1)))
    parts = {"weights": "weights", "invariants": "invariants", "pointwise": "pointwise", "stats": "sample_stats"}
    found = {
        f"{part}.{name}": relative_difference(x, getattr(one, field)[name])
        for part, field in parts.items()
        for name, x in getattr(mesh, field).items()
        if x.dtype.kind == "f"
    }
    refused = message(sample, network_posterior(3), kernel, **settings, mesh=(2, 4))
    return found | {"function": relative_difference(mesh.function, one.function), "refused": refused}


def no_dead_lock():
    """A hundred draws of NUTS: all finite, of trees of different sizes."""
    kernel = NUTS(num_warmup=0, max_tree_depth=6, step_size=0.05)
    draws = positions(on(2, 4), kernel, POSTERIOR, num_steps=100)
    return {"finite": bool(np.isfinite(draws).all()), "shape": draws.shape}


def naive_nuts():
    """NUTS with the gradient of a plain psum: each device grows another tree, so that this may never return."""
    executor, kernel = on(2, 4), NUTS(num_warmup=0, max_tree_depth=5, step_size=0.02)
    naive = NaiveTarget.of(executor.target(POSTERIOR))
    wrong = positions(executor, kernel, POSTERIOR, target=naive)
    return relative_difference(wrong, reference(kernel, POSTERIOR))


if __name__ == "__main__":
    wanted = sys.argv[1:]
    parts = {f.__name__: f for f in (rungs, derivatives, controls, estimates, whole_runs, no_dead_lock, naive_nuts)}
    results = {name: part() for name, part in parts.items() if name in wanted}
    print(json.dumps(results | {"differences": differences([name for name in wanted if name in KERNELS])}))
