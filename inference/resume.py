"""`resume`: a run that was killed, stopped or finished goes on, to the bits that it would have had.

The manifest has the kernel, the key and every choice that changes rounding; the last state of each group of chains has
the rest. The model is the one thing that a folder cannot hold. What does not fit the manifest is refused by name; a
different machine is only warned of, since what it changes is rounding.
"""

import os
import time
import warnings
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from . import distributed
from .blocks import Sampled
from .checkpoint import read_checkpoint
from .draws import Draws, Keep
from .executors import Executor, choose_executor, compiling
from .host import conduct
from .kernel import Kernel
from .manifest import identity
from .meeting import clear
from .runner import Group, Plan, start_groups
from .sample import check_posterior
from .settings import describe_kernel, kernel_from
from .setup import Setup
from .sharded import check_sharding
from .store import RunWriter, block_name, forget_blocks, group_name, state_name
from .stored import kept_blocks, num_blocks, read_data, read_initial, read_manifest


def resume(
    run: str | os.PathLike[str],
    posterior: Sampled,
    *,
    kernel: Kernel | None = None,
    num_draws: int | None = None,
    progress: bool = True,
) -> Draws:
    """Goes on with a stored run, from the last committed block of each chain.

    Args:
        run: the run folder.
        posterior: the model and the data that the run was begun with.
        kernel: by default the one in the manifest; a kernel of your own class must be given, with the same settings.
        num_draws: kept draws of each chain in the end; by default as many as were wanted before. A finished run is
            continued by asking for more.
        progress: whether to show a bar, if standard error is a terminal.

    Returns:
        All the run's draws, those of before included.

    Raises:
        ValueError: the folder is no run, a block is missing or was changed, or the model, the data, a setting or a
            version is another one.
    """
    begin = time.perf_counter()
    check_posterior(posterior)
    manifest = read_manifest(run)
    setup = _setup(Path(run), manifest, posterior, kernel, num_draws)
    _check_identity(manifest, identity(setup))
    target, programs = setup.trace()
    with compiling(programs.compiled):
        initial = read_initial(run)
    check_sharding(setup.executor, posterior, target, initial)
    plan = setup.plan(target, programs)
    groups = start_groups(plan, setup.rng_keys, initial)
    restore_groups(groups, plan, Path(run), len(manifest["groups"]))
    writer = RunWriter(run, manifest | {"num_draws": setup.num_draws})
    if distributed.is_first():
        clear(writer.folder)
        writer.say("running")
    distributed.agree(0, stop=False)  # nobody meets what an earlier job left
    plan = replace(plan, writer=writer)
    seconds = dict(manifest.get("seconds", {}))
    seconds["compile"] = seconds.get("compile", 0.0) + time.perf_counter() - begin
    return conduct(setup, plan, groups, writer, progress=progress, seconds=seconds)


def restore_groups(groups: list[Group], plan: Plan, folder: Path, num_groups: int) -> None:
    """Puts each group where its last committed block left it.

    Args:
        groups: before their first block; changed in place.
        plan: what they do.
        folder: the run's.
        num_groups: of all processes.

    Raises:
        ValueError: a block is missing, or a state cannot be read.
    """
    counts = {group.number: num_blocks(folder / group_name(group.number)) for group in groups}
    if plan.executor.steps_together:
        together = min(num_blocks(folder / group_name(number)) for number in range(num_groups))
        # Nobody writes before all have counted; the first process decides.
        together, _ = distributed.agree(together, stop=False)
        counts = dict.fromkeys(counts, together)
        for number in counts:
            forget_blocks(folder / group_name(number), together)
    for group in groups:
        count, own = counts[group.number], folder / group_name(group.number)
        missing = [index for index in range(count) if not (own / block_name(index)).exists()]
        if missing:
            raise ValueError(
                f"{str(own / block_name(missing[0]))!r} is missing, and its draws cannot be made again; "
                "put it back, or sample anew into another folder."
            )
        if count:
            _restore(group, plan, own, count)


def _restore(group: Group, plan: Plan, folder: Path, count: int) -> None:
    checkpoint = read_checkpoint(folder / state_name(count - 1), plan.executor.fetch(group.state))
    group.state = plan.executor.place_chains(jax.tree.map(jnp.asarray, checkpoint.state))
    group.done, group.num_blocks, group.moments = checkpoint.steps, count, checkpoint.moments
    group.kept += kept_blocks(folder, count)


def _setup(
    folder: Path, manifest: Mapping[str, Any], posterior: Sampled, kernel: Kernel | None, num_draws: int | None
) -> Setup:
    """The setup that the manifest describes."""
    if kernel is not None and describe_kernel(kernel) != manifest["kernel"]:
        raise ValueError(
            f"The run {str(folder)!r} was begun with {_words(manifest['kernel'])}, got "
            f"{_words(describe_kernel(kernel))}; leave the kernel out to go on with the first, or sample into another "
            "folder."
        )
    wanted = manifest["num_draws"] if num_draws is None else num_draws
    if isinstance(wanted, bool) or wanted < manifest["num_draws"]:
        raise ValueError(
            f"num_draws must be at least the {manifest['num_draws']} draws that the run {str(folder)!r} was to have, "
            f"got {wanted!r}; draws that are there are not thrown away."
        )
    kernel, key = kernel or kernel_from(manifest["kernel"]), manifest["rng_key"]
    probes = manifest["probe_site"] or read_data(folder).get("probes", {}).get("probes")
    return Setup(
        posterior=posterior,
        kernel=kernel,
        executor=_executor(folder, manifest, kernel),
        rng_key=jax.random.wrap_key_data(jnp.asarray(key["data"], jnp.uint32), impl=key["implementation"]),
        num_chains=manifest["num_chains"],
        num_draws=wanted,
        probes=probes if isinstance(probes, str | None) else jnp.asarray(probes),
        keep=Keep(**manifest["keep"]),
        looped_by_host=manifest["loop"] == "host",
    )


def _executor(folder: Path, manifest: Mapping[str, Any], kernel: Kernel) -> Executor:
    """The executor that the run was begun with: which one changes the rounding."""
    shape = manifest["mesh"]
    mesh = None if shape is None else tuple(shape)
    executor = choose_executor(None, manifest["num_chains"], mesh=mesh, kernel=kernel)
    groups = [list(group) for group in executor.groups(manifest["num_chains"])]
    if executor.name != manifest["executor"] or groups != manifest["groups"]:
        was = "threads of a CPU" if shape is None else f"a mesh of {' x '.join(map(str, shape))} devices"
        raise ValueError(
            f"The run {str(folder)!r} was made on {was} by {len(manifest['groups'])} group(s) of chains, which this "
            "machine or this number of processes does not give; resume it as it was begun, or sample anew."
        )
    return executor


def _check_identity(before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    names = {"model_sha256": "model", "data_sha256": "data", "probes_sha256": "probes", "dtype": "dtype"}
    advice = "resume with what the run was begun with, or sample into another folder."
    then, here = before["versions"], now["versions"]
    told = ", ".join(f"{name} {then.get(name)} then, {here[name]} now" for name in here if here[name] != then.get(name))
    if told:
        raise ValueError(f"The run was made with other versions ({told}); {advice}")
    for key in ("data_sha256", "probes_sha256", "dtype", "model_sha256"):
        if now[key] != before[key]:
            raise ValueError(f"The run was made with another {names[key]}{_where(before[key], now[key])}; {advice}")
    if now["platform"] != before["platform"]:
        warnings.warn(
            f"The run began on {_words(before['platform'])} and continues on {_words(now['platform'])}: its draws are "
            "as good, but not the same bits.",
            UserWarning,
            stacklevel=3,
        )


def _where(before: Any, now: Any) -> str:
    if isinstance(before, str):
        return f" ({before} then, {now} now)" if len(before) < 20 else ""
    paths = [path for path in sorted({*before, *now}) if before.get(path) != now.get(path)]
    return f" (at {', '.join(paths)})"


def _words(value: Mapping[str, Any]) -> str:
    if "settings" in value:
        return f"{value['name']}({', '.join(f'{k}={v}' for k, v in value['settings'].items())})"
    return ", ".join(str(part) for part in value.values())
