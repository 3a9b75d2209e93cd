r"""Where chains run: threads of single chains on a CPU, a mesh of devices elsewhere.

Both compile the same program of one chain and take its arguments for a *group* of chains, with a leading chain axis:

* `Threads`: a group is one chain; a pool with one thread a core runs the groups. XLA:CPU spreads batched matrix
  products over its own threads at a loss, while unbatched ones stay in the calling thread and JAX releases the
  interpreter's lock: this is twice as fast as `vmap`, needs no virtual devices, and on one machine a chain's bits
  depend on its key alone.
* `Devices`: all chains at once, dealt out over the mesh by `shard_map`, with `vmap` over the chains of a device.

With several processes each owns an equal part of the chains: it starts, fetches and writes those and no others.
`Threads` then need nothing of each other. `Devices` run one program over all processes, and a process's group is its
part of the chains.

Models are traced in the main thread, since NumPyro's handlers are global; threads see compiled programs only. A program
compiled for the same shapes is found again: the second run of the same model compiles nothing.
"""

import functools
import os
from collections.abc import Hashable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np

from .blocks import Sampled
from .devices import Devices, Program
from .kernel import Kernel, Target
from .mesh import ChosenDevices, ChosenMesh, chains_of_process, device_mesh

# Compiled programs kept for further runs.
_KEPT_PROGRAMS = 64
# For what runs once a chain: optimising it would take longer than running it.
_UNOPTIMISED = {"xla_backend_optimization_level": 0}


@runtime_checkable
class Executor(Protocol):
    """A way to run one chain's program for a group of chains. Hashable: programs are compiled for it."""

    @property
    def name(self) -> str:
        """What the manifest calls it."""
        ...

    @property
    def workers(self) -> int:
        """How many groups of this process run at once."""
        ...

    @property
    def steps_together(self) -> bool:
        """Whether several processes run each block together, so that they must agree on its length."""
        ...

    def groups(self, num_chains: int) -> tuple[range, ...]:
        """The chains of each group, those of other processes included."""
        ...

    def owned(self, num_chains: int) -> range:
        """Numbers of the groups that this process starts, fetches and writes."""
        ...

    def size(self, num_chains: int) -> int:
        """Length of the chain axis that a program is compiled for."""
        ...

    def target(self, posterior: Sampled) -> Target:
        """What kernels sample: the posterior, or its rows dealt out."""
        ...

    def place(self, shared: Any) -> Any:
        """Puts what all chains share where the programs want it."""
        ...

    def place_chains(self, chains: Any) -> Any:
        """Puts the arrays of an owned group, leading axis chain, where the programs want them."""
        ...

    def fetch(self, chains: Any) -> Any:
        """The arrays of an owned group, on the host, from what a program returned."""
        ...

    def jit(self, program: Program, shared: Any = None) -> jax.stages.Wrapped:
        """The program of a group, from that of one chain, to be compiled; `shared` says which rows are dealt out."""
        ...


@dataclass(frozen=True)
class Threads:
    """One chain a group, one thread a core."""

    workers: int

    @property
    def name(self) -> str:
        """What the manifest calls it."""
        return "threads"

    @property
    def steps_together(self) -> bool:
        """Never: chains run by themselves."""
        return False

    def groups(self, num_chains: int) -> tuple[range, ...]:
        """Each chain by itself."""
        return tuple(range(chain, chain + 1) for chain in range(num_chains))

    def owned(self, num_chains: int) -> range:
        """This process's part of the chains, one behind the other."""
        return chains_of_process(num_chains)

    def size(self, num_chains: int) -> int:
        """One chain."""
        del num_chains
        return 1

    def target(self, posterior: Sampled) -> Target:
        """The posterior itself."""
        return posterior

    def place(self, shared: Any) -> Any:
        """As it is: there is one device."""
        return jax.device_put(shared)

    def place_chains(self, chains: Any) -> Any:
        """As it is: there is one device."""
        return jax.device_put(chains)

    def fetch(self, chains: Any) -> Any:
        """As it is, on the host."""
        return jax.tree.map(np.asarray, chains)

    def jit(self, program: Program, shared: Any = None) -> jax.stages.Wrapped:
        """Takes the one chain out of its axis and puts the result back into one."""
        del shared

        def run(chains: Any, shared: Any) -> Any:
            result = program(jax.tree.map(lambda x: x[0], chains), shared)
            return jax.tree.map(lambda x: x[None], result)

        return jax.jit(run)


def choose_executor(
    devices: ChosenDevices, num_chains: int, *, mesh: ChosenMesh = None, kernel: Kernel | None = None
) -> Executor:
    """Threads on a CPU, else a mesh; a mesh wherever devices are asked for or chains look at each other.

    Args:
        devices: how many devices, or which; by default the rule chooses.
        num_chains: number of chains.
        mesh: parts of the chains, of the data and perhaps of the rungs; by default only the chains are dealt out.
        kernel: what will run, if its steps may reduce over the chains or it may have rungs.

    Returns:
        The executor.

    Raises:
        ValueError: the devices or the mesh asked for, or the processes, do not fit the chains.
    """
    crosses_chains = getattr(kernel, "crosses_chains", False)
    if devices is None and mesh is None and not crosses_chains and jax.default_backend() == "cpu":
        if num_chains < jax.process_count():
            raise ValueError(
                f"{jax.process_count()} processes have only {num_chains} chains to run; "
                "start at most as many processes as chains."
            )
        return Threads(min(usable_cores(), len(chains_of_process(num_chains))))
    return Devices(device_mesh(num_chains, devices, mesh, getattr(kernel, "num_rungs", 1)))


class Compiled:
    """A program traced for an executor and for shapes, compiled when first needed."""

    def __init__(self, lowered: jax.stages.Lowered, options: dict[str, Any] | None = None):
        self._lowered, self._options = lowered, options

    @functools.cached_property
    def result(self) -> Any:
        """Shapes and dtypes of what it returns."""
        return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), self._lowered.out_info)

    @functools.cached_property
    def executable(self) -> jax.stages.Compiled:
        """The machine's program, compiled at first use, in whichever thread that is."""
        return self._lowered.compile(self._options)

    def __call__(self, chains: Any, shared: Any) -> Any:
        """Runs it; from any thread."""
        return self.executable(chains, shared)


def trace(executor: Executor, program: Program, chains: Any, shared: Any) -> Compiled:
    """Traces a program; in the main thread only. Found again for the same program, executor and shapes.

    Args:
        executor: where it will run.
        program: of one chain; hashable, equal where it computes the same.
        chains: a group's own arguments, or their shapes and dtypes.
        shared: the arguments all chains share, or their shapes and dtypes.

    Returns:
        The program, not yet compiled.
    """
    leaves, structure = jax.tree.flatten((chains, shared))
    shapes = tuple(jax.ShapeDtypeStruct(leaf.shape, leaf.dtype) for leaf in leaves)
    # Settings of JAX that change what the same shapes are traced to.
    settings = (jnp.result_type(float), jax.config.jax_default_matmul_precision)
    return _trace(executor, program, structure, shapes, settings)


@contextmanager
def compiling(programs: Sequence[Compiled]) -> Iterator[None]:
    """Compiles programs side by side while the context lasts: XLA's compiler does not hold the interpreter's lock.

    Args:
        programs: they are compiled when the context has ended.

    Yields:
        Nothing.
    """
    with ThreadPoolExecutor(len(programs), thread_name_prefix="compile") as pool:
        waiting = [pool.submit(getattr, program, "executable") for program in programs]
        yield
        for future in waiting:
            future.result()


@functools.lru_cache(maxsize=_KEPT_PROGRAMS)
def _trace(
    executor: Executor,
    program: Program,
    structure: Any,
    shapes: tuple[jax.ShapeDtypeStruct, ...],
    settings: tuple[Hashable, ...],
) -> Compiled:
    del settings
    chains, shared = jax.tree.unflatten(structure, shapes)
    options = _UNOPTIMISED if getattr(program, "runs_once", False) else None
    return Compiled(executor.jit(program, shared).lower(chains, shared), options)


def usable_cores() -> int:
    """The cores this process may use, which a container or `taskset` can make fewer than the machine's."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
