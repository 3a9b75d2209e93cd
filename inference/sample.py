r"""`sample`: a posterior and a kernel in, draws out.

Chain $c$ has the key $k_c = \mathrm{fold\_in}(k, c)$ and its step $t$ the key $\mathrm{fold\_in}(k_c, t)$, warm-up
included: on one machine a chain's draws depend on its key alone, not on the chains beside it, the threads or the
blocks.
"""

import os
import time
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from .blocks import Sampled
from .draws import Block, Draws, draws_from_block, join_blocks
from .executors import Executor, choose_executor, compiling
from .interrupt import interruptible
from .kernel import Kernel
from .manifest import describe_run
from .mesh import ChosenDevices
from .programs import trace_programs
from .progress import progress_bar
from .runner import Group, Plan, run_groups, start_groups
from .starts import drawn_positions, given_positions, position_shapes
from .store import RunWriter, check_run_folder


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
    check_posterior(posterior)
    _check_key(rng_key)
    executor = check_settings(kernel, num_chains=num_chains, num_draws=num_draws, run=run, devices=devices)
    probes = probes if isinstance(probes, str | None) else jnp.asarray(probes)
    shapes = position_shapes(posterior)
    positions = None if initial is None else given_positions(initial, shapes, num_chains)

    rng_key = rng_key if jnp.issubdtype(rng_key.dtype, jax.dtypes.prng_key) else jax.random.wrap_key_data(rng_key)
    key_initial, key_chains = jax.random.split(rng_key)
    rng_keys = jax.vmap(jax.random.fold_in, (None, 0))(key_chains, np.arange(num_chains))
    programs = trace_programs(posterior, kernel, executor, rng_keys, shapes, probes, num_draws)
    with compiling([programs.start, programs.advance, programs.observe]):
        positions = positions or drawn_positions(posterior, key_initial, num_chains)
    shared, inputs = executor.place(posterior), executor.place(None if isinstance(probes, str) else probes)
    groups = start_groups(executor, programs, rng_keys, positions, shared)

    writer = None
    if run is not None:
        counts = {"num_chains": int(num_chains), "num_warmup": int(kernel.num_warmup), "num_draws": int(num_draws)}
        manifest = describe_run(posterior, kernel, executor, rng_key, counts, probes)
        writer = RunWriter(run, manifest, _data(posterior, probes), attachments or {})
    num_steps = kernel.num_warmup + num_draws
    plan = Plan(programs, shared, inputs, kernel.num_warmup, num_steps, writer and writer.write_block)
    ready = time.perf_counter()
    with interruptible() as stop:
        with progress_bar(num_chains * num_steps, shown=progress) as report:
            interrupted = run_groups(groups, plan, executor.workers, report, stop)
        seconds = {"compile": ready - begin} | _share(time.perf_counter() - ready, groups)
        if writer:
            writer.finish("interrupted" if interrupted else "complete", seconds)
    return draws_from_block(
        join_blocks([group.kept for group in groups]),
        posterior=posterior,
        kernel=kernel,
        probes=probes,
        seconds=seconds,
        interrupted=interrupted,
    )


def check_posterior(posterior: object) -> None:
    """Refuses a model that is no posterior yet.

    Args:
        posterior: what `sample` was given.

    Raises:
        ValueError: it is something else.
    """
    if not isinstance(posterior, Sampled):
        raise ValueError(f"posterior must be a Posterior(model, data...), got {posterior!r}; wrap the model in one.")


def check_settings(
    kernel: Kernel,
    *,
    num_chains: int,
    num_draws: int,
    run: str | os.PathLike[str] | None = None,
    devices: ChosenDevices = None,
) -> Executor:
    """Refuses settings, run folder and devices that `sample` would refuse, before anything slow is done for them.

    Args:
        kernel: as in `sample`.
        num_chains: likewise.
        num_draws: likewise.
        run: likewise.
        devices: likewise.

    Returns:
        Where the chains would run.

    Raises:
        ValueError: a count is below one, the run folder is not empty, or the devices do not fit the chains.
    """
    if isinstance(kernel, type) or not isinstance(kernel, Kernel):
        raise ValueError(f"kernel must be a kernel with its settings, such as NUTS(num_warmup=500), got {kernel!r}.")
    for name, value in (("num_chains", num_chains), ("num_draws", num_draws)):
        if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < 1:
            raise ValueError(f"{name} must be a whole number of at least 1, got {value!r}.")
    if run is not None:
        check_run_folder(run)
    return choose_executor(devices, num_chains)


def _check_key(rng_key: Array) -> None:
    if not isinstance(rng_key, Array):
        raise ValueError(f"rng_key must be one key, such as jax.random.key(0), got {rng_key!r}.")
    is_typed = jnp.issubdtype(rng_key.dtype, jax.dtypes.prng_key)
    if rng_key.ndim != (0 if is_typed else 1):
        raise ValueError(f"rng_key must be one key, such as jax.random.key(0), got an array of shape {rng_key.shape}.")


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
