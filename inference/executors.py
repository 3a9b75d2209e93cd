r"""Where chains run: threads of single chains on a CPU, a mesh of devices elsewhere.

Both compile the same program of one chain and take its arguments for a *group* of chains, with a leading chain axis:

* `Threads`: a group is one chain; a pool with one thread a core runs the groups. XLA:CPU spreads batched matrix
  products over its own threads at a loss, while unbatched ones stay in the calling thread and JAX releases the
  interpreter's lock: this is twice as fast as `vmap`, needs no virtual devices, and on one machine a chain's bits
  depend on its key alone.
* `Devices`: one group of all chains, dealt out over the mesh by `shard_map`, with `vmap` over the chains of a device.

Models are traced in the main thread, since NumPyro's handlers are global; threads see compiled programs only. A program
compiled for the same shapes is found again: the second run of the same model compiles nothing.
"""

import functools
import os
from collections.abc import Callable, Hashable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from .mesh import CHAIN, LOCAL, ChosenDevices, chain_mesh

Program = Callable[[Any, Any], Any]

# Compiled programs kept for further runs.
_KEPT_PROGRAMS = 64


@runtime_checkable
class Executor(Protocol):
    """A way to run one chain's program for a group of chains. Hashable: programs are compiled for it."""

    @property
    def name(self) -> str:
        """What the manifest calls it."""
        ...

    @property
    def workers(self) -> int:
        """How many groups run at once."""
        ...

    def groups(self, num_chains: int) -> tuple[range, ...]:
        """The chains of each group."""
        ...

    def place(self, shared: Any) -> Any:
        """Puts what all chains share where the programs want it."""
        ...

    def place_chains(self, chains: Any) -> Any:
        """Puts a group's own arrays, leading axis chain, where the programs want them."""
        ...

    def jit(self, program: Program) -> jax.stages.Wrapped:
        """The program of a group, from that of one chain, to be compiled."""
        ...


@dataclass(frozen=True)
class Threads:
    """One chain a group, one thread a core."""

    workers: int

    @property
    def name(self) -> str:
        """What the manifest calls it."""
        return "threads"

    def groups(self, num_chains: int) -> tuple[range, ...]:
        """Each chain by itself."""
        return tuple(range(chain, chain + 1) for chain in range(num_chains))

    def place(self, shared: Any) -> Any:
        """As it is: there is one device."""
        return jax.device_put(shared)

    def place_chains(self, chains: Any) -> Any:
        """As it is: there is one device."""
        return jax.device_put(chains)

    def jit(self, program: Program) -> jax.stages.Wrapped:
        """Takes the one chain out of its axis and puts the result back into one."""

        def run(chains: Any, shared: Any) -> Any:
            result = program(jax.tree.map(lambda x: x[0], chains), shared)
            return jax.tree.map(lambda x: x[None], result)

        return jax.jit(run)


@dataclass(frozen=True)
class Devices:
    """All chains in one group, in equal parts on the devices of a mesh."""

    mesh: Mesh

    @property
    def name(self) -> str:
        """What the manifest calls it."""
        return "mesh"

    @property
    def workers(self) -> int:
        """The devices work as one."""
        return 1

    def groups(self, num_chains: int) -> tuple[range, ...]:
        """All chains together."""
        return (range(num_chains),)

    def place(self, shared: Any) -> Any:
        """A copy on each device."""
        return jax.device_put(shared, NamedSharding(self.mesh, PartitionSpec()))

    def place_chains(self, chains: Any) -> Any:
        """Each chain on its device."""
        return jax.device_put(chains, NamedSharding(self.mesh, PartitionSpec(CHAIN)))

    def jit(self, program: Program) -> jax.stages.Wrapped:
        """`shard_map` over the mesh, `vmap` over the chains of a device."""
        chains, shared = PartitionSpec(CHAIN), PartitionSpec()
        local = jax.vmap(program, in_axes=(0, None), axis_name=LOCAL)
        # The check of varying axes rejects BlackJAX's loops; nothing here is reduced over the mesh.
        run = jax.shard_map(local, mesh=self.mesh, in_specs=(chains, shared), out_specs=chains, check_vma=False)
        placed, copied = NamedSharding(self.mesh, chains), NamedSharding(self.mesh, shared)
        return jax.jit(run, in_shardings=(placed, copied), out_shardings=placed)


def choose_executor(devices: ChosenDevices, num_chains: int) -> Executor:
    """Threads on a CPU, else a mesh; a mesh wherever devices are asked for.

    Args:
        devices: how many devices, or which; by default the rule chooses.
        num_chains: number of chains.

    Returns:
        The executor.

    Raises:
        ValueError: the devices asked for do not fit the chains.
    """
    if devices is None and jax.default_backend() == "cpu":
        return Threads(min(_usable_cores(), num_chains))
    return Devices(chain_mesh(devices, num_chains))


class Compiled:
    """A program traced for an executor and for shapes, compiled when first needed."""

    def __init__(self, lowered: jax.stages.Lowered):
        self._lowered = lowered

    @functools.cached_property
    def result(self) -> Any:
        """Shapes and dtypes of what it returns."""
        return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), self._lowered.out_info)

    @functools.cached_property
    def executable(self) -> jax.stages.Compiled:
        """The machine's program, compiled at first use, in whichever thread that is."""
        return self._lowered.compile()

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
    return Compiled(executor.jit(program).lower(chains, shared))


def _usable_cores() -> int:
    """The cores this process may use, which a container or `taskset` can make fewer than the machine's."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
