"""What a run says about itself: everything that fixed its draws, in JSON."""

import dataclasses
import hashlib
import importlib.metadata
import platform
import re
from typing import Any

import jax
import numpy as np

from .blocks import Sampled
from .executors import Devices
from .programs import Programs
from .settings import describe_kernel
from .setup import Setup
from .starts import position_shapes

_VERSIONED = ("manymodes", "jax", "jaxlib", "numpyro", "blackjax", "numpy")
# Where an object lies in memory says nothing about the program.
_ADDRESS = re.compile(r"\b0x[0-9a-f]+")


def describe_run(setup: Setup, programs: Programs) -> dict[str, Any]:
    """The manifest of a run that is about to begin.

    Args:
        setup: what is run.
        programs: as they were traced for it.

    Returns:
        A dictionary that JSON can hold.
    """
    posterior, executor, probes = setup.posterior, setup.executor, setup.probes
    return {
        "num_chains": setup.num_chains,
        "num_warmup": int(setup.kernel.num_warmup),
        "num_draws": setup.num_draws,
        "kernel": describe_kernel(setup.kernel),
        "rng_key": {
            "implementation": str(jax.random.key_impl(setup.rng_key)),
            "data": np.asarray(jax.random.key_data(setup.rng_key)).tolist(),
        },
        "sites": {site: list(shape) for site, shape in posterior.sites.items()},
        "observed": list(posterior.observed),
        "probe_site": probes if isinstance(probes, str) else None,
        "keep": dataclasses.asdict(programs.keep),
        "loop": "host" if setup.looped_by_host else "scan",
        "executor": executor.name,
        "mesh": list(executor.mesh.devices.shape) if isinstance(executor, Devices) else None,
        "groups": [list(group) for group in executor.groups(setup.num_chains)],
        **identity(setup),
    }


def identity(setup: Setup) -> dict[str, Any]:
    """What must be the same for a run to go on to the same bits.

    Args:
        setup: what is run.

    Returns:
        A dictionary that JSON can hold.
    """
    device = jax.local_devices()[0]
    probes = setup.probes
    return {
        "model_sha256": hash_program(setup.posterior),
        "data_sha256": hash_leaves(setup.posterior),
        "probes_sha256": {} if isinstance(probes, str) else hash_leaves(probes),
        "dtype": str(np.dtype(jax.numpy.result_type(float))),
        "platform": {"backend": device.platform, "device": device.device_kind, "machine": platform.machine()},
        "versions": {"python": platform.python_version()} | {name: _version(name) for name in _VERSIONED},
    }


def hash_program(posterior: Sampled) -> str:
    """SHA-256 of the log density's jaxpr: models that compute the same thing in the same way have the same one.

    Args:
        posterior: what is sampled.

    Returns:
        The hexadecimal digest.
    """
    shapes = position_shapes(posterior)
    program = jax.make_jaxpr(lambda target, position: target.logdensity(position))(posterior, shapes)
    return hashlib.sha256(_ADDRESS.sub("", str(program)).encode()).hexdigest()


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


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:  # run from a checkout that is not installed
        return None
