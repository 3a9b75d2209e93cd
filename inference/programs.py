"""The three programs of a run, traced for its posterior, kernel and executor: what fits into memory is settled here."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

import jax
import numpy as np
from jax import Array

from .blocks import Advance, Observe, Sampled, Start
from .draws import Block
from .executors import Compiled, Executor, trace
from .kernel import Kernel

# A block has at most so many steps, and fewer where a chain's positions would take more than so many bytes.
_LONGEST_BLOCK, _BLOCK_BYTES = 1000, 2**24
# Function values, pointwise log likelihoods and deterministic sites are kept up to this size each.
_KEPT_BYTES = 2**30

Shapes = Mapping[str, jax.ShapeDtypeStruct]


@dataclass(frozen=True)
class Programs:
    """What a run executes.

    Attributes:
        start: a group's keys and positions to its State.
        advance: a block of steps.
        observe: what is kept of a block's positions.
        capacity: longest block.
    """

    start: Compiled
    advance: Compiled
    observe: Compiled
    capacity: int

    def empty_block(self) -> Block:
        """No draws, of the right shapes: what an interrupted warm-up leaves."""
        shapes = {"sample_stats": self.advance.result[1][1]} | self.observe.result
        return jax.tree.map(lambda x: np.zeros((x.shape[0], 0, *x.shape[2:]), x.dtype), shapes)


def trace_programs(
    posterior: Sampled,
    kernel: Kernel,
    executor: Executor,
    rng_keys: Array,
    shapes: Shapes,
    probes: Array | str | None,
    num_draws: int,
) -> Programs:
    """Traces the programs; compiles none.

    Args:
        posterior: what is sampled.
        kernel: what samples it.
        executor: where the chains run.
        rng_keys: the chains' keys.
        shapes: of one chain's position.
        probes: inputs, the name of a site, or None.
        num_draws: kept draws of each chain.

    Returns:
        The programs.
    """
    num_chains = len(rng_keys)
    size = len(executor.groups(num_chains)[0])
    keys = jax.ShapeDtypeStruct((size,), rng_keys.dtype)
    positions = {site: jax.ShapeDtypeStruct((size, *x.shape), x.dtype) for site, x in shapes.items()}
    inputs = None if isinstance(probes, str) else probes
    number = np.int32(0)

    capacity = int(np.clip(_BLOCK_BYTES // max(_num_bytes(shapes.values()), 1), 1, _LONGEST_BLOCK))
    start = trace(executor, Start(kernel), (keys, positions), posterior)
    advance = trace(executor, Advance(kernel, capacity), (keys, start.result), (posterior, number, number))
    observing = Observe(capacity, probes if isinstance(probes, str) else None)
    observed = (advance.result[1][0], (posterior, inputs, number))
    observe = trace(executor, observing, *observed)
    too_large = frozenset(
        group
        for group in observing.optional
        if _num_bytes(observe.result[group].values(), skip=2) * num_chains * num_draws > _KEPT_BYTES
    )
    if too_large:
        observe = trace(executor, replace(observing, dropped=too_large), *observed)
    return Programs(start, advance, observe, capacity)


def _num_bytes(arrays: Iterable[jax.ShapeDtypeStruct], skip: int = 0) -> int:
    """Bytes of arrays without their first `skip` axes."""
    return sum(math.prod(x.shape[skip:]) * x.dtype.itemsize for x in arrays)
