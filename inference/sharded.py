r"""Whether a likelihood that is added up over devices is the one that it should be: looked at before a run begins.

A wrong gradient of a sum over devices raises no error, and its draws look like draws. So value and gradient of the
target are compared with those of the whole posterior where each chain starts, relative to

.. math:: |\log p(q)| + \sum_d \sum_{i \in d} |\ell_i(q)| \quad\text{and}\quad
          \|\nabla \log p(q)\| + \sum_d \|\nabla \ell_d(q)\| ,

the sizes of what is added up, which rounding goes by: at a mode the sums themselves vanish.
"""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.flatten_util import ravel_pytree

from .blocks import Sampled
from .executors import Executor, trace
from .kernel import Position, Target
from .mesh import CHAIN, DATA, LOCAL
from .shards import ShardedTarget
from .starts import Positions


@dataclass(frozen=True)
class Compare:
    """Position, (sharded target, whole posterior) -> relative errors of value and gradient, the largest anywhere."""

    def __call__(self, position: Position, shared: tuple[ShardedTarget, Sampled]) -> tuple[Array, Array]:
        """Zero where the density itself is not finite, of which something else complains."""
        target, posterior = shared
        flat, unravel = ravel_pytree(position)
        value, gradient = jax.value_and_grad(lambda q: target.logdensity(unravel(q)))(flat)
        expected, slope = jax.value_and_grad(lambda q: posterior.logdensity(unravel(q)))(flat)
        prior, prior_slope = jax.value_and_grad(lambda q: target.logprior(unravel(q)))(flat)
        rows, pull = jax.vjp(lambda q: target.row_loglikelihood(unravel(q)), flat)
        parts = jax.lax.psum((jnp.abs(rows).sum(), jnp.linalg.norm(*pull(jnp.ones_like(rows)))), DATA)
        errors = (
            jnp.abs(value - expected) / (jnp.abs(prior) + parts[0]),
            jnp.linalg.norm(gradient - slope) / (jnp.linalg.norm(prior_slope) + parts[1]),
        )
        known = jnp.isfinite(expected) & jnp.isfinite(slope).all()
        # A NaN is an error like any other, but no maximum.
        errors = tuple(jnp.where(known, jnp.nan_to_num(error, nan=jnp.inf), 0) for error in errors)
        return jax.lax.pmax(errors, (CHAIN, DATA, LOCAL))


def check_sharding(executor: Executor, posterior: Sampled, target: Target, positions: Positions) -> None:
    """Refuses a target that is not its posterior: nothing to do where it is the posterior itself.

    Args:
        executor: where the chains will run.
        posterior: the whole posterior.
        target: what the kernel would sample.
        positions: of all chains, on the host.

    Raises:
        ValueError: value or gradient are others than the posterior's.
    """
    if not isinstance(target, ShardedTarget):
        return
    num_chains = len(next(iter(positions.values())))
    own = [executor.groups(num_chains)[number] for number in executor.owned(num_chains)]
    shapes = {site: jax.ShapeDtypeStruct(x.shape, x.dtype) for site, x in positions.items()}
    compare = trace(executor, Compare(), shapes, (target, posterior))
    placed = executor.place_chains({site: x[np.asarray(own[0])] for site, x in positions.items()})
    errors: Any = executor.fetch(compare(placed, executor.place((target, posterior))))
    value, gradient = (float(np.max(error)) for error in errors)
    tolerance = float(np.finfo(errors[1].dtype).eps) ** (1 / 3)
    if max(value, gradient) > tolerance:
        raise ValueError(
            f"The log density summed over {target.num_shards} shards of the data is not that of the whole data: "
            f"relative error {value:.1e} of its value and {gradient:.1e} of its gradient, more than {tolerance:.1e}. "
            "Leave the data whole: mesh=(chains, 1), or give only `devices`."
        )
