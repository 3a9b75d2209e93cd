r"""`sample`: a posterior and a kernel in, draws out.

Chain $c$ has the key $k_c = \mathrm{fold\_in}(k, c)$ and its step $t$ the key $\mathrm{fold\_in}(k_c, t)$, warm-up
included: on one machine a chain's draws depend on its key alone, not on the chains beside it, the threads or the
blocks.
"""

import os
import time
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import Array

from . import distributed
from .blocks import Sampled
from .draws import Block, Draws, Keep
from .executors import Executor, choose_executor, compiling
from .host import conduct
from .kernel import Kernel
from .manifest import describe_run
from .mesh import ChosenDevices, ChosenMesh
from .runner import start_groups
from .setup import Setup, loops_by_host, typed_key
from .sharded import check_sharding
from .starts import Positions, drawn_positions, given_positions, last_positions, position_shapes
from .store import RunWriter, check_run_folder, create_run


def sample(
    posterior: Sampled,
    kernel: Kernel,
    *,
    num_chains: int = 4,
    num_draws: int = 1000,
    rng_key: Array,
    probes: Array | np.ndarray | str | None = None,
    initial: Mapping[str, Array | np.ndarray] | Draws | None = None,
    keep: Keep | None = None,
    run: str | os.PathLike[str] | None = None,
    progress: bool = True,
    devices: ChosenDevices = None,
    mesh: ChosenMesh = None,
    attachments: Mapping[str, str] | None = None,
) -> Draws:
    """Draws from a posterior: the kernel's warm-up steps, then `num_draws` steps that are kept, for each chain.

    Ctrl-C ends the run after the blocks that are being computed; what was sampled until then is returned, and is
    readable in the run folder, where `resume` goes on from it, as it does after a crash.

    Args:
        posterior: what is sampled, such as `bnn_models.Posterior`.
        kernel: how, such as `NUTS(num_warmup=500)`.
        num_chains: number of independent chains.
        num_draws: kept draws of each chain.
        rng_key: the run's key, such as `jax.random.key(0)`.
        probes: where the function level is evaluated: inputs, or the name of a deterministic site; by default the
            posterior's own choice.
        initial: unconstrained starting values by site with a leading chain axis, or the draws of an earlier run, of
            which the last of each chain is taken; by default `posterior.initial`.
        keep: what is kept of the draws; by default all that is not too large.
        run: folder to write the run to while it goes on; it must not hold anything yet.
        progress: whether to show a bar, if standard error is a terminal.
        devices: how many devices to spread the chains over, or which; by default the cores of a CPU, or the largest
            number of accelerators that divides the chains.
        mesh: instead of `devices`: over how many devices the chains, over how many the rows of the data and, with
            `ParallelTempering`, over how many the rungs are dealt out, such as ``(4, 2)`` or ``(2, 1, 4)``.
        attachments: texts to be written into the run folder with the manifest, by file name.

    Returns:
        The draws; where several processes sample together, those of the chains that this process owns (`read_run` has
        all).

    Raises:
        ValueError: a count is below one, the run folder is not empty, the devices, `initial` or the kernel do not fit
            the posterior and the chains, or the log density is not finite where a chain starts.
    """
    begin = time.perf_counter()
    check_posterior(posterior)
    rng_key = typed_key(rng_key)
    executor = check_settings(
        kernel, num_chains=num_chains, num_draws=num_draws, run=run, devices=devices, mesh=mesh, posterior=posterior
    )
    probes = probes if isinstance(probes, str | None) else jnp.asarray(probes)
    looped_by_host = loops_by_host(kernel, posterior, executor)
    setup = Setup(
        posterior, kernel, executor, rng_key, int(num_chains), int(num_draws), probes, keep or Keep(), looped_by_host
    )
    positions = None if initial is None else _given(initial, posterior, num_chains)
    target, programs = setup.trace()
    with compiling(programs.compiled):
        positions = positions or drawn_positions(posterior, setup.key_initial, setup.num_chains)
    check_sharding(executor, posterior, target, positions)
    plan = setup.plan(target, programs)
    groups = start_groups(plan, setup.rng_keys, positions)
    writer = None
    if run is not None:
        manifest = describe_run(setup, programs)
        _create(run, manifest, _data(setup, positions), attachments or {})
        writer = RunWriter(run, manifest)
        plan = replace(plan, writer=writer)
    return conduct(setup, plan, groups, writer, progress=progress, seconds={"compile": time.perf_counter() - begin})


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
    mesh: ChosenMesh = None,
    posterior: Sampled | None = None,
) -> Executor:
    """Refuses settings, run folder and devices that `sample` would refuse, before anything slow is done for them.

    Args:
        kernel: as in `sample`.
        num_chains: likewise.
        num_draws: likewise.
        run: likewise.
        devices: likewise.
        mesh: likewise.
        posterior: likewise, if the kernel is to be asked whether it can sample it.

    Returns:
        Where the chains would run.

    Raises:
        ValueError: a count is below one, the run folder is not empty, the devices do not fit the chains, or the kernel
            cannot sample the posterior.
    """
    if isinstance(kernel, type) or not isinstance(kernel, Kernel):
        raise ValueError(f"kernel must be a kernel with its settings, such as NUTS(num_warmup=500), got {kernel!r}.")
    for name, value in (("num_chains", num_chains), ("num_draws", num_draws)):
        if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < 1:
            raise ValueError(f"{name} must be a whole number of at least 1, got {value!r}.")
    if run is not None:
        check_run_folder(run)
    check: Any = getattr(kernel, "check", None)
    if check is not None and posterior is not None:
        check(posterior)
    return choose_executor(devices, num_chains, mesh=mesh, kernel=kernel)


def _given(initial: Mapping[str, Any] | Draws, posterior: Sampled, num_chains: int) -> Positions:
    positions = last_positions(initial, posterior) if isinstance(initial, Draws) else initial
    return given_positions(positions, position_shapes(posterior), num_chains)


def _create(
    run: str | os.PathLike[str], manifest: Mapping[str, Any], data: Block, attachments: Mapping[str, str]
) -> None:
    """The first process makes the folder; the others wait until it is there."""
    distributed.agree(0, stop=False)  # every process has seen that the folder is free
    if distributed.is_first():
        create_run(run, manifest, data, attachments)
    distributed.agree(0, stop=False)


def _data(setup: Setup, positions: Positions) -> Block:
    """What a stored run needs to be judged without its model, and to begin again."""
    posterior = setup.posterior
    data = {"observed_data": posterior.observed_data(), "constant_data": posterior.constant_data()}
    data |= {"initial": positions}
    return data if isinstance(setup.probes, str | None) else data | {"probes": {"probes": np.asarray(setup.probes)}}
