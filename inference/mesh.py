"""The mesh of devices: chains are dealt out over its axis `chain`, the rows of the data over its axis `data`.

A mesh of three parts has an axis `rung` as well, over which a tempered chain's rungs are dealt out. Chains need nothing
of each other, so that all devices go to them unless more is asked for. The devices of a chain lie inside one process:
they add up a gradient at every leapfrog, or exchange the rungs' states at every step.
"""

import math
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

CHAIN = "chain"
"""The axis of the chains; kernels with cross-chain statistics reduce over it and over `LOCAL`."""

DATA = "data"
"""The axis of the rows of the data; a kernel sees nothing of it."""

RUNG = "rung"
"""The axis of a tempered chain's rungs, only of meshes of three parts."""

LOCAL = "local"
"""The axis of the chains that share a device."""

ChosenDevices = int | Sequence[Any] | None
"""How many devices, or which (`jax.Device`), or None: the rule chooses."""

ChosenMesh = tuple[int, ...] | None
"""Number of parts of the chains, of the data and, if there are three, of the rungs, such as (4, 2); or None: the rule
chooses, and keeps data and rungs whole."""


def device_mesh(num_chains: int, devices: ChosenDevices = None, shape: ChosenMesh = None, num_rungs: int = 1) -> Mesh:
    """A mesh whose devices hold equally many chains each, and whose processes hold equally many devices.

    Args:
        num_chains: number of chains.
        devices: how many devices, or which; by default the largest number that divides the chains.
        shape: parts of the chains, of the data and perhaps of the rungs; by default only the chains are dealt out.
        num_rungs: rungs of each chain.

    Returns:
        The mesh, its axes `CHAIN`, `DATA` and, if asked for, `RUNG`, the devices of each process side by side.

    Raises:
        ValueError: the devices or the mesh asked for do not exist or do not divide the chains.
    """
    hosts = _by_process(_available(devices))
    if num_chains % len(hosts):
        raise ValueError(
            f"{len(hosts)} processes cannot hold {num_chains} chains in equal parts; "
            "choose a number of chains that the number of processes divides."
        )
    if shape is not None:
        _check_shape(shape, num_chains, num_rungs, hosts, exact=isinstance(devices, Sequence))
    elif devices is not None:
        shape = (sum(map(len, hosts)), 1)
        _check_count(shape[0], num_chains)
    else:
        each = max(n for n in range(1, min(map(len, hosts)) + 1) if num_chains % (n * len(hosts)) == 0)
        shape = (each * len(hosts), 1)
    each = math.prod(shape) // len(hosts)
    chosen = np.asarray([device for host in hosts for device in host[:each]])
    return Mesh(chosen.reshape(shape), (CHAIN, DATA, RUNG)[: len(shape)])


def chains_of_process(num_chains: int, process: int | None = None) -> range:
    """The chains that a process owns: equal parts, one behind the other.

    Args:
        num_chains: number of chains.
        process: number of the process; by default this one.

    Returns:
        Numbers of the chains.
    """
    process, count = jax.process_index() if process is None else process, jax.process_count()
    return range(num_chains * process // count, num_chains * (process + 1) // count)


def _available(devices: ChosenDevices) -> list[Any]:
    """The devices to choose from; a number means the first ones, equally many of each process."""
    everything = jax.devices()
    if devices is None:
        return everything
    if not isinstance(devices, int):
        if not devices:
            raise ValueError("devices must name at least one device, got none; leave it out to have them chosen.")
        return list(devices)
    if not 1 <= devices <= len(everything):
        raise ValueError(f"devices must be between 1 and the {len(everything)} devices there are, got {devices}.")
    if devices % jax.process_count():
        raise ValueError(
            f"{devices} devices cannot be shared out equally among {jax.process_count()} processes; "
            "ask for a multiple of the number of processes, or leave `devices` out."
        )
    each = devices // jax.process_count()
    return [device for host in _by_process(everything) for device in host[:each]]


def _by_process(devices: Sequence[Any]) -> list[list[Any]]:
    """The devices of each process, in order."""
    hosts: dict[int, list[Any]] = {process: [] for process in range(jax.process_count())}
    for device in devices:
        hosts[device.process_index].append(device)
    if len({len(host) for host in hosts.values()}) != 1:
        counts = [len(host) for host in hosts.values()]
        raise ValueError(
            f"Every process must take part with equally many devices, but the processes have {counts}; "
            "give `devices` that many of each, or start the processes with equally many visible devices."
        )
    return list(hosts.values())


def _check_count(count: int, num_chains: int) -> None:
    """Refuses devices that were asked for and cannot be given equally many chains."""
    if count > num_chains:
        raise ValueError(
            f"{count} devices were asked for but there are only {num_chains} chains; "
            "ask for at most as many devices as chains, or leave `devices` out."
        )
    if num_chains % count:
        raise ValueError(
            f"{count} devices cannot hold {num_chains} chains in equal parts; "
            "ask for a number of devices that divides the number of chains, or leave `devices` out."
        )


def _check_shape(shape: Any, num_chains: int, num_rungs: int, hosts: list[list[Any]], *, exact: bool) -> None:
    """Refuses a mesh that was asked for and does not fit the chains, the rungs, the devices or the processes."""
    is_tuple = isinstance(shape, tuple | list) and len(shape) in (2, 3)
    if not is_tuple or any(isinstance(n, bool) or not isinstance(n, int) or n < 1 for n in shape):
        raise ValueError(
            f"mesh must be two or three whole numbers, parts of the chains, the data and the rungs, got {shape!r}."
        )
    chains, wanted, there = shape[0], math.prod(shape), sum(map(len, hosts))
    name = f"A mesh of {' x '.join(map(str, shape))}"
    if wanted > there or (exact and wanted != there):
        have = "were named" if exact else "are there"
        raise ValueError(f"{name} needs {wanted} devices, but {there} {have}; ask for a mesh that fits them.")
    for what, parts, number in (("chains", chains, num_chains), ("rungs", (*shape, 1)[2], num_rungs)):
        if number % parts:
            raise ValueError(
                f"{name} cannot hold {number} {what}: {parts} parts of them are not equal; "
                f"ask for parts that divide the number of {what}, or leave `mesh` out."
            )
    if chains % len(hosts) or wanted // chains > len(hosts[0]):
        raise ValueError(
            f"{name} does not fit {len(hosts)} processes of {len(hosts[0])} devices: each process must hold equally "
            "many parts of the chains with all parts of their data and rungs."
        )
