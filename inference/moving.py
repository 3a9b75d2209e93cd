"""A chain put at another position: what kernels around other kernels need, and nothing else does.

A kernel whose State keeps, besides `position`, `logdensity` and `gradient`, anything computed from the position
says itself how it is moved, by a method ``moved(state, position, target) -> State``: the same State elsewhere, with its
adaptation and its momentum. For all others `init` knows the three, and the rest stays.
"""

from functools import lru_cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from .kernel import Kernel, Position, Target

_OF_THE_POSITION = ("position", "logdensity", "gradient")


def moved(kernel: Kernel, state: Any, position: Position, target: Target) -> Any:
    """A State at another position; evaluates the density and its gradient once.

    Args:
        kernel: whose State it is.
        state: before the move.
        position: where to.
        target: what is sampled from there on; it may be another one than before.

    Returns:
        The State at the position, with adaptation and momentum of `state`.
    """
    if hasattr(kernel, "moved"):
        return kernel.moved(state, position, target)  # pyright: ignore[reportAttributeAccessIssue]
    there = kernel.init(jax.random.key(0), position, target)
    return state._replace(**{name: getattr(there, name) for name in _OF_THE_POSITION if name in state._fields})


def check_movable(kernel: Kernel) -> None:
    """Refuses a kernel whose State holds more of the position than `moved` knows.

    Args:
        kernel: what another kernel is to wrap.

    Raises:
        ValueError: it has no method `moved` and needs one.
    """
    if not hasattr(kernel, "moved") and (names := _unknown_fields(kernel)):
        raise ValueError(
            f"{type(kernel).__name__} computes {', '.join(names)} of its State from the position, so it cannot be put "
            "elsewhere; give it a method moved(state, position, target), or use another kernel inside."
        )


@lru_cache(maxsize=64)
def _unknown_fields(kernel: Kernel) -> tuple[str, ...]:
    """Fields that `init` computes from the position, besides the known ones: found by starting at two positions."""
    target = _Bowl()
    start = jax.jit(lambda x: kernel.init(jax.random.key(0), {"x": x}, target))
    first, second = start(jnp.array([0.3, -0.2])), start(jnp.array([1.1, 0.7]))
    return tuple(
        name
        for name in first._fields
        if name not in _OF_THE_POSITION and not _equal(getattr(first, name), getattr(second, name))
    )


class _Bowl:
    """A standard normal of two dimensions, in all forms in which a kernel asks for it."""

    num_rows = 1000

    def logdensity(self, position: Position) -> Array:
        return -0.5 * jnp.sum(position["x"] ** 2)

    def logprior(self, position: Position) -> Array:
        return 0.5 * self.logdensity(position)

    def loglikelihood(self, position: Position) -> Array:
        return 0.5 * self.logdensity(position)

    def logdensity_estimate(self, rng_key: Array, position: Position, batch_size: int) -> Array:
        del rng_key, batch_size
        return self.logdensity(position)


def _equal(first: Any, second: Any) -> bool:
    pairs = zip(jax.tree.leaves(first), jax.tree.leaves(second), strict=True)
    return all(np.array_equal(_plain(a), _plain(b)) for a, b in pairs)


def _plain(leaf: Array) -> np.ndarray:
    is_key = jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
    return np.asarray(jax.random.key_data(leaf) if is_key else leaf)
