r"""A posterior whose rows are dealt out over devices, and whose likelihood is added up over them.

.. math:: \log \pi(q) = \log p(q) + \sum_{d} \ell_d(q), \qquad
          \nabla \log \pi(q) = \nabla \log p(q) + \sum_{d} \nabla \ell_d(q)

with the log likelihood :math:`\ell_d` of the rows of shard d; the prior is evaluated once, on every device alike.
Inside `shard_map` the derivative that JAX takes of a plain ``psum`` is silently wrong: transposed it is a ``psum`` once
more, so that each device follows the gradient of its own rows, scaled. Here the derivative is given by hand instead:
each device differentiates its own :math:`\ell_d`, and one collective adds up values and gradients. First derivatives,
both forward and reverse, and reverse over reverse are right; JAX refuses forward over reverse.

All devices of a chain compute the same numbers from the same sums, and so take the same branches: the loops of NUTS
stay in step. The whole data stay on every device as well, for what is observed of a draw: a row-wise or averaged
quantity of some model cannot be put together from shards. What is shared out is the work of the gradient and its
memory.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol, cast, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.sharding import PartitionSpec
from jaxtyping import Bool, Float, PRNGKeyArray

from .blocks import Sampled
from .kernel import Position
from .mesh import DATA

# Batches of a shard are drawn without replacement where it has at most so many times their rows.
_PERMUTED = 64


@runtime_checkable
class Rows(Protocol):
    """What a posterior needs for its rows to be dealt out."""

    @property
    def num_rows(self) -> int:
        """How many rows there are; ValueError where they cannot be taken apart."""
        ...

    def at_rows(self, indices: Any) -> Any:
        """The posterior of some of the rows alone."""
        ...

    def row_loglikelihood(self, position: Position) -> Float[Array, " row"]:
        """Log likelihood of each row."""
        ...


@partial(
    jax.tree_util.register_dataclass,
    data_fields=["arrays", "is_row"],
    meta_fields=["structure", "axes", "num_rows", "num_shards"],
)
@dataclass(frozen=True, kw_only=True)
class ShardedTarget:
    """A target for kernels under a mesh with the axis `DATA`, on each of whose devices it holds a shard of the rows.

    Attributes:
        arrays: leaves of the posterior, the shards behind one another along the axis of the rows.
        is_row: false for the rows that only make all shards equally long.
        structure: the posterior's structure.
        axes: the axis of the rows of each array, None where it has none and every device holds all of it.
        num_rows: rows of all shards.
        num_shards: number of shards.
    """

    arrays: tuple[Any, ...]
    is_row: Any
    structure: Any
    axes: tuple[int | None, ...]
    num_rows: int
    num_shards: int

    def logdensity(self, position: Position) -> Float[Array, ""]:
        """Log density of one position, the same on all devices of a chain."""
        return self.logprior(position) + self.loglikelihood(position)

    def loglikelihood(self, position: Position) -> Float[Array, ""]:
        """The rows' part of it."""
        return _sum_of_shards(_shard_loglikelihood, self, position)

    def logprior(self, position: Position) -> Float[Array, ""]:
        """The rest, of which no rows are part."""
        return self.shard.logprior(position)

    def logdensity_estimate(self, rng_key: PRNGKeyArray, position: Position, batch_size: int) -> Float[Array, ""]:
        r"""Unbiased estimate of `logdensity` from equally many rows of each shard.

        Shard d of :math:`N_d` rows draws :math:`b = B / D` of them and scales their log likelihood by
        :math:`N_d / b`.

        Args:
            rng_key: the batch's key, the same on all devices of a chain.
            position: unconstrained values by site.
            batch_size: rows of all shards together; all of them give `logdensity` itself.

        Returns:
            The estimate.

        Raises:
            ValueError: `batch_size` is not a multiple of the number of shards, or exceeds the rows.
        """
        if batch_size == self.num_rows:
            return self.logdensity(position)
        each, rest = divmod(batch_size, self.num_shards)
        if rest or not 1 <= each <= self.num_rows // self.num_shards:
            raise ValueError(
                f"batch_size must be a multiple of the {self.num_shards} data shards, and at most "
                f"{self.num_rows // self.num_shards * self.num_shards} with {self.num_rows} rows, got {batch_size}."
            )
        own_key = jax.random.fold_in(rng_key, jax.lax.axis_index(DATA))
        return self.logprior(position) + _sum_of_shards(partial(_shard_estimate, each), (self, own_key), position)

    def row_loglikelihood(self, position: Position) -> Float[Array, " row"]:
        """Log likelihood of each row of this device's shard; 0 for those that fill it up."""
        return jnp.where(self.is_row, self.shard.row_loglikelihood(position), 0)

    def prior_logprob(self, weights: dict[str, Array]) -> Float[Array, ""]:
        """As the posterior's: no rows are part of it."""
        return self.shard.prior_logprob(weights)

    def precisions(self, weights: dict[str, Array]) -> dict[str, Array]:
        """Likewise."""
        return self.shard.precisions(weights)

    def constrain(self, position: Position) -> dict[str, Array]:
        """Likewise."""
        return self.shard.constrain(position)

    def unconstrain(self, weights: dict[str, Array]) -> dict[str, Array]:
        """Likewise."""
        return self.shard.unconstrain(weights)

    @property
    def shard(self) -> Any:
        """The posterior of this device's rows, those included that fill it up."""
        return jax.tree.unflatten(self.structure, self.arrays)

    def partition(self) -> "ShardedTarget":
        """How its arrays lie on a mesh: a `PartitionSpec` in the place of each."""
        specs = tuple(PartitionSpec() if i is None else PartitionSpec(*[None] * i, DATA) for i in self.axes)
        leaves = (*specs, PartitionSpec(DATA))
        return jax.tree.unflatten(jax.tree.structure(self), leaves)


def shard_rows(posterior: Sampled, num_shards: int) -> ShardedTarget:
    """Deals out the rows of a posterior, as evenly as they can be.

    Args:
        posterior: what is sampled.
        num_shards: number of shards.

    Returns:
        The target, its arrays whole.

    Raises:
        ValueError: the posterior's rows cannot be taken apart, or there are fewer than shards.

    Example:
        >>> import jax.numpy as jnp
        >>> from bnn_models import BNN, Posterior, networks
        >>> posterior = Posterior(BNN(networks.mlp([2, 3, 1])), jnp.ones((5, 2)), jnp.ones(5))
        >>> shard_rows(posterior, 2).is_row.tolist()
        [True, True, True, True, True, False]
    """
    if not isinstance(posterior, Rows):
        raise ValueError(
            "A mesh with a data axis needs a posterior with rows, such as bnn_models.Posterior, got a "
            f"{type(posterior).__name__}; leave the data whole: mesh=(chains, 1)."
        )
    num_rows = posterior.num_rows
    if num_rows < num_shards:
        raise ValueError(
            f"{num_rows} rows of data cannot be dealt out over a data axis of {num_shards}; "
            f"ask for a mesh with at most {num_rows} parts of the data."
        )
    parts = np.array_split(np.arange(num_rows), num_shards)
    longest = len(parts[0])
    indices = np.concatenate([np.resize(part, longest) for part in parts])
    is_row = np.concatenate([np.arange(longest) < len(part) for part in parts])
    # An axis is one of rows if it grows with them; its length alone could be another size's by chance.
    one, two = (
        jax.eval_shape(posterior.at_rows, jax.ShapeDtypeStruct((n,), jnp.int32)) for n in (longest, 2 * longest)
    )
    arrays, structure = jax.tree.flatten(posterior.at_rows(indices))
    axes = tuple(_row_axis(a.shape, b.shape) for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(two), strict=True))
    return ShardedTarget(
        arrays=tuple(arrays),
        is_row=is_row,
        structure=jax.tree.structure(one),
        axes=axes,
        num_rows=num_rows,
        num_shards=num_shards,
    )


def _row_axis(one: tuple[int, ...], two: tuple[int, ...]) -> int | None:
    """The axis that grew with the number of rows."""
    return next((axis for axis, (a, b) in enumerate(zip(one, two, strict=True)) if a != b), None)


@partial(jax.custom_jvp, nondiff_argnums=(0,))
def _sum_of_shards(local: Callable[[Any, Position], Array], data: Any, position: Position) -> Float[Array, ""]:
    """Sum over `DATA` of a function of a shard's data and of a position that all shards share."""
    return _collect(local(data, _share(position)))


@_sum_of_shards.defjvp
def _sum_of_shards_jvp(
    local: Callable[[Any, Position], Array], primals: tuple[Any, Position], tangents: tuple[Any, Position]
) -> tuple[Array, Array]:
    data, position = primals
    value, gradient = jax.value_and_grad(local, argnums=1)(data, _share(position))
    value, gradient = cast(tuple[Array, Position], _collect((value, gradient)))
    products = jax.tree.map(jnp.vdot, gradient, tangents[1])
    return value, jax.tree.reduce(jnp.add, products)


@jax.custom_vjp
def _collect[Tree](parts: Tree) -> Tree:
    """Sum over `DATA`, the same everywhere; so is its cotangent, which is that of each part."""
    return jax.lax.psum(parts, DATA)


@jax.custom_vjp
def _share[Tree](whole: Tree) -> Tree:
    """A value that all shards use: their cotangents add up."""
    return whole


_collect.defvjp(lambda parts: (_collect(parts), None), lambda _, cotangent: (cotangent,))
_share.defvjp(lambda whole: (whole, None), lambda _, cotangent: (jax.lax.psum(cotangent, DATA),))


def _shard_loglikelihood(target: ShardedTarget, position: Position) -> Float[Array, ""]:
    return target.row_loglikelihood(position).sum()


def _shard_estimate(num_drawn: int, data: tuple[ShardedTarget, PRNGKeyArray], position: Position) -> Float[Array, ""]:
    """The log likelihood of a shard, estimated from a few of its rows."""
    target, rng_key = data
    drawn = target.shard.at_rows(_draw(rng_key, target.is_row, num_drawn))
    return drawn.row_loglikelihood(position).sum() * target.is_row.sum() / num_drawn


def _draw(rng_key: PRNGKeyArray, is_row: Bool[Array, " row"], num_drawn: int) -> Array:
    """Rows of a shard, all equally likely; filling comes last in the shuffled order, and is never drawn."""
    if is_row.size > _PERMUTED * num_drawn:
        return jax.random.randint(rng_key, (num_drawn,), 0, is_row.sum())
    return jnp.argsort(jnp.where(is_row, jax.random.uniform(rng_key, is_row.shape), 2))[:num_drawn]
