"""The mesh of devices: chains are dealt out over its axis `chain`, the rows of the data over its axis `data`.

Chains need nothing of each other, so that all devices go to them unless a data axis is asked for. A data axis lies
inside one process: its devices add up a gradient at every leapfrog.
"""

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

CHAIN = "chain"
"""The axis of the chains; kernels with cross-chain statistics reduce over it and over `LOCAL`."""

DATA = "data"
"""The axis of the rows of the data; a kernel sees nothing of it."""

LOCAL = "local"
"""The axis of the chains that share a device."""

ChosenDevices = int | Sequence[Any] | None
"""How many devices, or which (`jax.Device`), or None: the rule chooses."""

ChosenMesh = tuple[int, int] | None
"""Number of parts of the chains and of the data, such as (4, 2), or None: the rule chooses, and keeps data whole."""


def device_mesh(num_chains: int, devices: ChosenDevices = None, shape: ChosenMesh = None) -> Mesh:
    """A mesh whose devices hold equally many chains each, and whose processes hold equally many devices.

    Args:
        num_chains: number of chains.
        devices: how many devices, or which; by default the largest number that divides the chains.
        shape: parts of the chains and of the data; by default the data stay whole.

    Returns:
        The mesh, its axes `CHAIN` and `DATA`, the devices of each process side by side.

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
        _check_shape(shape, num_chains, hosts, exact=isinstance(devices, Sequence))
    elif devices is not None:
        shape = (sum(map(len, hosts)), 1)
        _check_count(shape[0], num_chains)
    else:
        each = max(n for n in range(1, min(map(len, hosts)) + 1) if num_chains % (n * len(hosts)) == 0)
        shape = (each * len(hosts), 1)
    each = shape[0] * shape[1] // len(hosts)
    chosen = np.asarray([device for host in hosts for device in host[:each]])
    return Mesh(chosen.reshape(shape), (CHAIN, DATA))


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


def _check_shape(shape: Any, num_chains: int, hosts: list[list[Any]], *, exact: bool) -> None:
    """Refuses a mesh that was asked for and does not fit the chains, the devices or the processes."""
    is_pair = isinstance(shape, tuple | list) and len(shape) == 2
    if not is_pair or any(isinstance(n, bool) or not isinstance(n, int) or n < 1 for n in shape):
        raise ValueError(f"mesh must be two whole numbers, parts of the chains and of the data, got {shape!r}.")
    chains, data = shape
    there = sum(map(len, hosts))
    name = f"A mesh of {chains} x {data}"
    if chains * data > there or (exact and chains * data != there):
        have = "were named" if exact else "are there"
        raise ValueError(f"{name} needs {chains * data} devices, but {there} {have}; ask for a mesh that fits them.")
    if num_chains % chains:
        raise ValueError(
            f"{name} cannot hold {num_chains} chains: {chains} parts of them are not equal; "
            "ask for parts that divide the number of chains, or leave `mesh` out."
        )
    if chains % len(hosts) or data > len(hosts[0]):
        raise ValueError(
            f"{name} does not fit {len(hosts)} processes of {len(hosts[0])} devices: each process must hold equally "
            "many parts of the chains with all parts of their data."
        )
