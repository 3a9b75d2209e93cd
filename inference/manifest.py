"""What a run says about itself: everything that fixed its draws, in JSON."""

import dataclasses
import hashlib
import importlib.metadata
import platform
from typing import Any

import jax
import numpy as np
from jax import Array

from .blocks import Sampled
from .executors import Executor
from .kernel import Kernel

_VERSIONED = ("manymodes", "jax", "jaxlib", "numpyro", "blackjax", "numpy")


def describe_run(
    posterior: Sampled, kernel: Kernel, executor: Executor, rng_key: Array, counts: dict[str, int], probes: Any
) -> dict[str, Any]:
    """The manifest of a run that is about to begin.

    Args:
        posterior: what is sampled.
        kernel: what samples it.
        executor: where the chains run.
        rng_key: the run's key, typed.
        counts: `num_chains`, `num_warmup`, `num_draws`.
        probes: inputs, the name of a site, or None.

    Returns:
        A dictionary that JSON can hold.
    """
    device = jax.local_devices()[0]
    return {
        **counts,
        "kernel": {"name": type(kernel).__name__, "settings": _settings(kernel)},
        "rng_key": {
            "implementation": str(jax.random.key_impl(rng_key)),
            "data": np.asarray(jax.random.key_data(rng_key)).tolist(),
        },
        "sites": {site: list(shape) for site, shape in posterior.sites.items()},
        "observed": list(posterior.observed),
        "probe_site": probes if isinstance(probes, str) else None,
        "data_sha256": hash_leaves(posterior),
        "probes_sha256": {} if isinstance(probes, str) else hash_leaves(probes),
        "dtype": str(np.dtype(jax.numpy.result_type(float))),
        "executor": executor.name,
        "groups": [list(group) for group in executor.groups(counts["num_chains"])],
        "platform": {"backend": device.platform, "device": device.device_kind, "machine": platform.machine()},
        "versions": {"python": platform.python_version()} | {name: _version(name) for name in _VERSIONED},
    }


def hash_leaves(tree: Any) -> dict[str, str]:
    """SHA-256 of every array of a pytree, by its path: the same data give the same hashes.

    Args:
        tree: a posterior, or any pytree of arrays.

    Returns:
        Path -> hexadecimal digest of dtype, shape and values.

    Example:
        >>> hash_leaves({"x": np.zeros(3)}) == hash_leaves({"x": np.zeros(3)})
        True
    """
    return {jax.tree_util.keystr(path): _digest(np.asarray(leaf)) for path, leaf in jax.tree.leaves_with_path(tree)}


def _digest(array: np.ndarray) -> str:
    digest = hashlib.sha256(f"{array.dtype.str}{array.shape}".encode())
    digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()


def _settings(kernel: Kernel) -> dict[str, Any]:
    return dataclasses.asdict(kernel) if dataclasses.is_dataclass(kernel) else {}


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:  # run from a checkout that is not installed
        return None
