"""The mesh of devices: one axis, `chain`, over which the chains are dealt out in equal parts."""

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

CHAIN = "chain"
"""The mesh's axis; kernels with cross-chain statistics reduce over it and over `LOCAL`."""

LOCAL = "local"
"""The axis of the chains that share a device."""

ChosenDevices = int | Sequence[Any] | None
"""How many devices, or which (`jax.Device`), or None: the rule chooses."""


def chain_mesh(devices: ChosenDevices, num_chains: int) -> Mesh:
    """A mesh whose devices hold equally many chains each.

    Args:
        devices: how many devices, or which; by default the largest number of local devices that divides the chains.
        num_chains: number of chains.

    Returns:
        The mesh.

    Raises:
        ValueError: the devices asked for do not exist or cannot be given equally many chains.
    """
    available = jax.local_devices()
    if devices is None:
        count = max(n for n in range(1, len(available) + 1) if num_chains % n == 0)
        return _mesh(available[:count])
    if isinstance(devices, int):
        if not 1 <= devices <= len(available):
            raise ValueError(f"devices must be between 1 and the {len(available)} devices there are, got {devices}.")
        devices = available[:devices]
    if not devices:
        raise ValueError("devices must name at least one device, got none; leave it out to have them chosen.")
    if len(devices) > num_chains:
        raise ValueError(
            f"{len(devices)} devices were asked for but there are only {num_chains} chains; "
            "ask for at most as many devices as chains, or leave `devices` out."
        )
    if num_chains % len(devices):
        raise ValueError(
            f"{len(devices)} devices cannot hold {num_chains} chains in equal parts; "
            "ask for a number of devices that divides the number of chains, or leave `devices` out."
        )
    return _mesh(devices)


def _mesh(devices: Sequence[Any]) -> Mesh:
    return Mesh(np.asarray(devices), (CHAIN,))
