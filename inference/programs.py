"""The three programs of a run, traced for its posterior, kernel and executor: what fits into memory is settled here."""

import math
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import jax
import numpy as np
from jax import Array

from .blocks import Advance, Observe, Sampled, Start, Step
from .draws import Block, Keep
from .executors import Compiled, Executor, trace
from .kernel import Kernel, Target

# A block has at most so many steps, and fewer where the positions of a chain or a group would take more bytes.
_LONGEST_BLOCK, _CHAIN_BYTES, _GROUP_BYTES = 1000, 2**24, 2**27
# All weights are kept up to the first size, else as many as have the second; each other group up to the last.
_ALL_WEIGHTS_BYTES, _THINNED_BYTES, _KEPT_BYTES = 2**31, 2**28, 2**29

Shapes = Mapping[str, jax.ShapeDtypeStruct]


@dataclass(frozen=True)
class HostLoop:
    """A block as a loop of the host over a program of one step.

    XLA:CPU runs a convolution inside a compiled loop several times slower than outside of one.

    Attributes:
        step: a group's (keys, state), (target, t) -> state, (position, statistics).
        capacity: rows of the result; those past the length are zero.
    """

    step: Compiled
    capacity: int

    @property
    def result(self) -> Any:
        """Shapes and dtypes of what it returns."""
        state, rows = self.step.result
        return state, jax.tree.map(
            lambda x: jax.ShapeDtypeStruct((x.shape[0], self.capacity, *x.shape[1:]), x.dtype), rows
        )

    def __call__(self, chains: Any, shared: Any) -> Any:
        """Makes the steps one after the other."""
        rng_keys, state = chains
        target, first, length = shared
        rows = []
        for t in range(int(first), int(first + length)):
            state, row = self.step((rng_keys, state), (target, np.int32(t)))
            rows.append(row)
        return state, jax.tree.map(lambda *steps: self._stack(steps), *rows)

    def _stack(self, steps: tuple[Array, ...]) -> np.ndarray:
        filled = np.stack([np.asarray(x) for x in steps], axis=1)
        rest = np.zeros((filled.shape[0], self.capacity - filled.shape[1], *filled.shape[2:]), filled.dtype)
        return np.concatenate([filled, rest], axis=1)


@dataclass(frozen=True)
class Programs:
    """What a run executes.

    Attributes:
        start: a group's keys and positions to its State.
        advance: a block of steps.
        observe: what is kept of a block's positions.
        capacity: longest block.
        keep: what is kept, decided.
    """

    start: Compiled
    advance: Compiled | HostLoop
    observe: Compiled
    capacity: int
    keep: Keep

    @property
    def compiled(self) -> list[Compiled]:
        """All that is to be compiled."""
        return [self.start, self.advance.step if isinstance(self.advance, HostLoop) else self.advance, self.observe]

    @property
    def thin(self) -> int:
        """The weights of every so-many-th draw are kept."""
        return self.keep.thin or 1

    def empty_block(self, num_chains: int) -> Block:
        """No draws of some chains, of the right shapes: what an interrupted warm-up leaves."""
        shapes = {"sample_stats": self.advance.result[1][1]} | self.observe.result
        return jax.tree.map(lambda x: np.zeros((num_chains, 0, *x.shape[2:]), x.dtype), shapes)


@dataclass(frozen=True)
class Sizes:
    """What decides which programs are traced and what is kept.

    Attributes:
        num_chains: chains of the run.
        num_draws: kept draws of each chain.
        keep: as the user wants it.
        looped_by_host: whether a block is a loop of the host.
    """

    num_chains: int
    num_draws: int
    keep: Keep
    looped_by_host: bool


def trace_programs(
    posterior: Sampled,
    target: Target,
    kernel: Kernel,
    executor: Executor,
    rng_keys: Array,
    probes: Array | str | None,
    sizes: Sizes,
    shapes: Shapes,
) -> Programs:
    """Traces the programs; compiles none.

    Args:
        posterior: what is sampled.
        target: what the kernel sees of it: itself, or its rows in shards.
        kernel: what samples it.
        executor: where the chains run.
        rng_keys: the chains' keys.
        probes: inputs, the name of a site, or None.
        sizes: of the run.
        shapes: of one chain's position.

    Returns:
        The programs.
    """
    size, number = executor.size(sizes.num_chains), np.int32(0)
    keys = jax.ShapeDtypeStruct((size,), rng_keys.dtype)
    positions = {site: jax.ShapeDtypeStruct((size, *x.shape), x.dtype) for site, x in shapes.items()}
    a_chain = max(_num_bytes(shapes.values()), 1)
    capacity = int(np.clip(min(_CHAIN_BYTES // a_chain, _GROUP_BYTES // (size * a_chain)), 1, _LONGEST_BLOCK))
    start = trace(executor, Start(kernel), (keys, positions), target)
    if sizes.looped_by_host:
        advance = HostLoop(trace(executor, Step(kernel), (keys, start.result), (target, number)), capacity)
    else:
        advance = trace(executor, Advance(kernel, capacity), (keys, start.result), (target, number, number))
    observing = Observe(capacity, probes if isinstance(probes, str) else None)
    observed = (advance.result[1][0], (posterior, None if isinstance(probes, str) else probes, number))
    observe = trace(executor, observing, *observed)
    keep = decide_keep(sizes, observe.result)
    dropped = frozenset(group for group in observing.optional if not getattr(keep, group))
    if dropped:
        observe = trace(executor, replace(observing, dropped=dropped), *observed)
    return Programs(start, advance, observe, capacity, keep)


def decide_keep(sizes: Sizes, observed: Mapping[str, Shapes]) -> Keep:
    """What is kept of a run, where the user left it open by size; what is not kept is said aloud.

    Args:
        sizes: of the run.
        observed: shapes (chain, draw, ...) by group and name.

    Returns:
        The decision.
    """
    keep, num_kept = sizes.keep, sizes.num_chains * sizes.num_draws
    groups = {}
    for group in Observe.optional:
        size = num_kept * _num_bytes(observed[group].values(), skip=2)
        wanted = getattr(keep, group)
        groups[group] = size <= _KEPT_BYTES if wanted is None else wanted
        if wanted is None and not groups[group]:
            _say(f"The group {group!r} would take {_gib(size)} and is not kept; keep=Keep({group}=True) keeps it.")
    size, thin = num_kept * _num_bytes(observed["weights"].values(), skip=2), keep.thin
    if thin is None:
        thin = 1 if size <= _ALL_WEIGHTS_BYTES else -(-size // _THINNED_BYTES)
        if thin > 1:
            _say(
                f"The weights of all draws would take {_gib(size)}: those of one draw in {thin} are kept, with mean, "
                "standard deviation and R-hat over all draws; keep=Keep(thin=...) chooses otherwise."
            )
    return Keep(thin=thin, **groups)


def _say(message: str) -> None:
    warnings.warn(message, UserWarning, stacklevel=2)


def _gib(size: int) -> str:
    return f"{size / 2**30:.1f} GiB"


def _num_bytes(arrays: Iterable[jax.ShapeDtypeStruct], skip: int = 0) -> int:
    """Bytes of arrays without their first `skip` axes."""
    return sum(math.prod(x.shape[skip:]) * x.dtype.itemsize for x in arrays)
