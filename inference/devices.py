"""All chains at once on a mesh of devices, which may be those of several processes."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from jax import Array
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from .blocks import Sampled
from .kernel import Target
from .mesh import CHAIN, DATA, LOCAL, chains_of_process
from .shards import ShardedTarget, shard_rows

Program = Callable[[Any, Any], Any]
"""One chain's own arguments, and what all chains share -> its result."""


@dataclass(frozen=True)
class Devices:
    """All chains at once, in equal parts on the devices of a mesh; a process's group is its part of them."""

    mesh: Mesh

    @property
    def name(self) -> str:
        """What the manifest calls it."""
        return "mesh"

    @property
    def workers(self) -> int:
        """The devices work as one."""
        return 1

    @property
    def steps_together(self) -> bool:
        """With several processes: each block is one program on the devices of all."""
        return jax.process_count() > 1

    def groups(self, num_chains: int) -> tuple[range, ...]:
        """The chains of each process."""
        return tuple(chains_of_process(num_chains, process) for process in range(jax.process_count()))

    def owned(self, num_chains: int) -> range:
        """This process's one group."""
        del num_chains
        return range(jax.process_index(), jax.process_index() + 1)

    def size(self, num_chains: int) -> int:
        """All chains."""
        return num_chains

    def target(self, posterior: Sampled) -> Target:
        """The posterior itself, unless the mesh has several parts of the data."""
        num_shards = self.mesh.shape[DATA]
        return posterior if num_shards == 1 else shard_rows(posterior, num_shards)

    def place(self, shared: Any) -> Any:
        """A copy on each device, or a shard where rows are dealt out."""
        return jax.tree.map(self._put, shared, _partition(shared))

    def place_chains(self, chains: Any) -> Any:
        """Each chain on its devices, those of this process."""
        return jax.tree.map(lambda x: self._put(x, PartitionSpec(CHAIN)), chains)

    def fetch(self, chains: Any) -> Any:
        """The chains of this process, each from the first of its devices."""
        return jax.tree.map(_fetch, chains)

    def jit(self, program: Program, shared: Any = None) -> jax.stages.Wrapped:
        """`shard_map` over the mesh, `vmap` over the chains of a device."""
        chains, partition = PartitionSpec(CHAIN), PartitionSpec() if shared is None else _partition(shared)
        local = jax.vmap(program, in_axes=(0, None), axis_name=LOCAL)
        # The check of varying axes rejects BlackJAX's loops; sums over the mesh have derivatives of their own.
        run = jax.shard_map(local, mesh=self.mesh, in_specs=(chains, partition), out_specs=chains, check_vma=False)
        placed, copied = jax.tree.map(lambda spec: NamedSharding(self.mesh, spec), (chains, partition))
        return jax.jit(run, in_shardings=(placed, copied), out_shardings=placed)

    def _put(self, x: Any, spec: PartitionSpec) -> Array:
        """From what this process has of an array, of which all others have theirs."""
        return jax.make_array_from_process_local_data(NamedSharding(self.mesh, spec), x)


def _partition(shared: Any) -> Any:
    """How what chains share lies on a mesh: copied, but for rows that are dealt out."""

    def partition(x: Any) -> Any:
        return x.partition() if isinstance(x, ShardedTarget) else PartitionSpec()

    return jax.tree.map(partition, shared, is_leaf=lambda x: isinstance(x, ShardedTarget))


def _fetch(x: Array) -> np.ndarray:
    if x.is_fully_addressable:
        return np.asarray(x)
    shards = sorted((s for s in x.addressable_shards if s.replica_id == 0), key=lambda shard: shard.index[0].start)
    return np.concatenate([np.asarray(shard.data) for shard in shards])
