r"""`sample`: a posterior and a kernel in, draws out.

Chain $c$ has the key $k_c = \mathrm{fold\_in}(k, c)$ and its step $t$ the key $\mathrm{fold\_in}(k_c, t)$, warm-up
included: on one machine a chain's draws depend on its key alone, not on the chains beside it, the threads or the
blocks.
"""

import dataclasses
import math
import os
import time
from collections.abc import Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from .blocks import Advance, Observe, Sampled, Start
from .draws import Block, Draws, draws_from_block, join_blocks
from .executors import Compiled, Executor, choose_executor, compile_together, trace
from .kernel import Kernel
from .manifest import describe_run
from .mesh import ChosenDevices
from .progress import progress_bar
from .runner import Group, Plan, run_groups
from .store import RunWriter, check_run_folder

# A block has at most so many steps, and fewer where a chain's rows would take more than so many bytes.
_LONGEST_BLOCK, _BLOCK_BYTES = 1000, 2**26
# Function values and pointwise log likelihoods are kept up to this size each.
_KEPT_BYTES = 2**30


def sample(
    posterior: Sampled,
    kernel: Kernel,
    *,
    num_chains: int = 4,
    num_draws: int = 1000,
    rng_key: Array,
    probes: Array | np.ndarray | str | None = None,
    initial: Mapping[str, Array | np.ndarray] | None = None,
    run: str | os.PathLike[str] | None = None,
    progress: bool = True,
    devices: ChosenDevices = None,
    attachments: Mapping[str, str] | None = None,
) -> Draws:
    """Draws from a posterior: the kernel's warm-up steps, then `num_draws` steps that are kept, for each chain.

    Ctrl-C ends the run after the blocks that are being computed; what was sampled until then is returned, and is
    readable in the run folder.

    Args:
        posterior: what is sampled, such as `bnn_models.Posterior`.
        kernel: how, such as `NUTS(num_warmup=500)`.
        num_chains: number of independent chains.
        num_draws: kept draws of each chain.
        rng_key: the run's key, such as `jax.random.key(0)`.
        probes: where the function level is evaluated: inputs, or the name of a deterministic site; by default the
            posterior's own choice.
        initial: unconstrained starting values by site with a leading chain axis; by default `posterior.initial`.
        run: folder to write the run to while it goes on; it must not hold anything yet.
        progress: whether to show a bar, if standard error is a terminal.
        devices: how many devices to spread the chains over, or which; by default the cores of a CPU, or the largest
            number of accelerators that divides the chains.
        attachments: texts to be written into the run folder with the manifest, by file name.

    Returns:
        The draws.

    Raises:
        ValueError: a count is below one, the run folder is not empty, the devices or `initial` do not fit the chains,
            or the log density is not finite where a chain starts.
    """
    begin = time.perf_counter()
    _check(kernel, rng_key, num_chains, num_draws)
    if run is not None:
        check_run_folder(run)
    executor = choose_executor(devices, num_chains)
    rng_key = rng_key if jnp.issubdtype(rng_key.dtype, jax.dtypes.prng_key) else jax.random.wrap_key_data(rng_key)
    probes = probes if isinstance(probes, str | None) else jnp.asarray(probes)
    key_initial, key_chains = jax.random.split(rng_key)
    positions = _starting_positions(posterior, initial, key_initial, num_chains)
    rng_keys = jax.vmap(jax.random.fold_in, (None, 0))(key_chains, np.arange(num_chains))
    groups, plan = _prepare(posterior, kernel, executor, (rng_keys, positions), probes, num_draws)
    writer = None
    if run is not None:
        counts = {"num_chains": num_chains, "num_warmup": kernel.num_warmup, "num_draws": num_draws}
        manifest = describe_run(posterior, kernel, executor, rng_key, counts, probes)
        writer = RunWriter(run, manifest, _data(posterior, probes), attachments or {})
        plan = dataclasses.replace(plan, write=writer.write_block)
    ready = time.perf_counter()
    with progress_bar(num_chains * plan.num_steps, shown=progress) as report:
        interrupted = run_groups(groups, plan, executor.workers, report)
    seconds = {"compile": ready - begin} | _share(time.perf_counter() - ready, groups)
    if writer:
        writer.finish("interrupted" if interrupted else "complete", seconds)
    block = join_blocks([group.kept for group in groups])
    return draws_from_block(
        block, posterior=posterior, kernel=kernel, probes=probes, seconds=seconds, interrupted=interrupted
    )


def _prepare(
    posterior: Sampled,
    kernel: Kernel,
    executor: Executor,
    chains: tuple[Array, dict[str, np.ndarray]],
    probes: Array | str | None,
    num_draws: int,
) -> tuple[list[Group], Plan]:
    """Traces and compiles the programs and starts the chains."""
    num_chains = len(chains[0])
    members = [np.asarray(group) for group in executor.groups(num_chains)]
    groups = [executor.place_chains(jax.tree.map(lambda x: x[chosen], chains)) for chosen in members]  # noqa: B023
    shared, inputs = executor.place(posterior), executor.place(None if isinstance(probes, str) else probes)
    number = np.int32(0)
    draw_bytes = sum(x.nbytes for x in chains[1].values()) // num_chains
    capacity = int(np.clip(_BLOCK_BYTES // max(draw_bytes, 1), 1, _LONGEST_BLOCK))
    start = trace(executor, Start(kernel), groups[0], shared)
    advance = trace(executor, Advance(kernel, capacity), (groups[0][0], start.result), (shared, number, number))
    observe = _trace_observe(
        executor,
        Observe(capacity, probes if isinstance(probes, str) else None),
        advance.result[1][0],
        (shared, inputs, number),
        num_chains * num_draws,
    )
    compile_together([start, advance, observe])
    empty = _empty_block(advance, observe)
    running = [Group(i, keys, start((keys, place), shared), kept=[empty]) for i, (keys, place) in enumerate(groups)]
    _check_start(running, members)
    num_steps = kernel.num_warmup + num_draws
    return running, Plan(advance, observe, shared, inputs, kernel.num_warmup, num_steps, capacity, None)


def _trace_observe(executor: Executor, program: Observe, positions: Any, shared: Any, total_draws: int) -> Compiled:
    """Leaves out what would be too large to keep for all draws."""
    observe = trace(executor, program, positions, shared)
    large = {
        group for group in program.optional if total_draws * _row_bytes(observe.result[group].values()) > _KEPT_BYTES
    }
    return (
        trace(executor, dataclasses.replace(program, dropped=frozenset(large)), positions, shared) if large else observe
    )


def _row_bytes(arrays: Iterable[jax.ShapeDtypeStruct]) -> int:
    """Bytes of one draw in arrays (chain, capacity, ...)."""
    return sum(math.prod(x.shape[2:]) * x.dtype.itemsize for x in arrays)


def _empty_block(advance: Compiled, observe: Compiled) -> Block:
    """No draws, of the right shapes: what an interrupted warm-up leaves."""
    shapes = {"sample_stats": advance.result[1][1]} | observe.result
    return jax.tree.map(lambda x: np.zeros((x.shape[0], 0, *x.shape[2:]), x.dtype), shapes)


def _starting_positions(
    posterior: Sampled, initial: Mapping[str, Array | np.ndarray] | None, rng_key: Array, num_chains: int
) -> dict[str, np.ndarray]:
    """Given ones, checked; else each chain's own from its own key, so that it does not depend on the others."""
    if initial is None:
        starts = [posterior.initial(jax.random.fold_in(rng_key, chain), 1) for chain in range(num_chains)]
        return {site: np.concatenate([np.asarray(start[site]) for start in starts]) for site in starts[0]}
    dtype = jnp.result_type(float)
    weights = {site: jax.ShapeDtypeStruct(shape, dtype) for site, shape in posterior.sites.items()}
    shapes = {site: x.shape for site, x in jax.eval_shape(posterior.unconstrain, weights).items()}
    if set(initial) != set(shapes):
        raise ValueError(f"initial must have the sites {sorted(shapes)}, got {sorted(initial)}.")
    for site, shape in shapes.items():
        if np.shape(initial[site]) != (num_chains, *shape):
            raise ValueError(
                f"initial[{site!r}] must have the shape {(num_chains, *shape)}, a leading axis for the {num_chains} "
                f"chains and the unconstrained shape of the site, got {np.shape(initial[site])}."
            )
    return {site: np.asarray(initial[site], dtype) for site in shapes}


def _check(kernel: Kernel, rng_key: Array, num_chains: int, num_draws: int) -> None:
    if isinstance(kernel, type) or not isinstance(kernel, Kernel):
        raise ValueError(f"kernel must be a kernel with its settings, such as NUTS(num_warmup=500), got {kernel!r}.")
    for name, value in (("num_chains", num_chains), ("num_draws", num_draws)):
        if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < 1:
            raise ValueError(f"{name} must be a whole number of at least 1, got {value!r}.")
    is_typed = jnp.issubdtype(rng_key.dtype, jax.dtypes.prng_key)
    if rng_key.ndim != (0 if is_typed else 1):
        raise ValueError(f"rng_key must be one key, such as jax.random.key(0), got an array of shape {rng_key.shape}.")


def _check_start(groups: list[Group], members: list[np.ndarray]) -> None:
    """Refuses chains that could never move: a density or gradient that is not finite where they begin."""
    dead = []
    for group, chains in zip(groups, members, strict=True):
        leaves = [np.asarray(x) for x in jax.tree.leaves(group.state) if jnp.issubdtype(x.dtype, jnp.inexact)]
        finite = np.all([np.isfinite(x).reshape(len(chains), -1).all(axis=1) for x in leaves], axis=0)
        dead += chains[~finite].tolist()
    if dead:
        raise ValueError(
            f"The log density or its gradient is not finite where chains {dead} start; "
            "look for NaN in the data, or give `initial=` positions of positive density."
        )


def _data(posterior: Sampled, probes: Array | str | None) -> Block:
    """What a stored run needs to be judged without its model."""
    data = {"observed_data": posterior.observed_data(), "constant_data": posterior.constant_data()}
    if isinstance(probes, str | None):
        return data
    return data | {"probes": {"probes": np.asarray(probes)}}


def _share(seconds: float, groups: list[Group]) -> dict[str, float]:
    """Wall time split as the groups' busy time is: with several workers, warm-up and sampling overlap."""
    busy = {phase: sum(group.busy[phase] for group in groups) for phase in ("warmup", "sampling")}
    return {phase: seconds * part / max(sum(busy.values()), 1e-9) for phase, part in busy.items()}
