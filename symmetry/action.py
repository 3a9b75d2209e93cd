"""How one factor of a symmetry group acts on arrays.

Every slot, be it a whole axis, one gate of a fused recurrent kernel, the channel part of a flattened feature map or the
units of every head, becomes the middle axis of a view ``(lead, member, trail)``, and on this view each action is one
line. Members of a fibred class are counted through: member ``j`` over the fibre position ``h`` is number ``h n + j``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache, partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.core import Tracer
from jaxtyping import PRNGKeyArray

from .factor import MATRICES, Factor, Slot

AnyArray = Array | np.ndarray
Weights = Mapping[str, AnyArray]
Element = Mapping[str, AnyArray]

# Log standard deviation of the singular values of random matrices: well-conditioned also in float32.
_SPREAD = 0.3


def change(factor: Factor, array: AnyArray, slot: Slot, event_shape: tuple[int, ...], values: AnyArray) -> AnyArray:
    """Let the factor's values act on one slot of an array.

    Args:
        factor: The factor.
        array: The site's value, with any leading batch dims.
        slot: Where the class sits.
        event_shape: Shape of the site without batch dims.
        values: ``(..., *factor.shape)``; its batch dims broadcast against the array's.

    Returns:
        The changed array, of the joint batch shape.
    """
    batch = values.shape[: values.ndim - len(factor.shape)]
    if factor.kind in MATRICES:
        matrices = values.reshape(*batch, factor.num_copies, factor.size, factor.size)
        return _transform(array, slot, event_shape, matrices)
    flat = values.reshape(*batch, factor.num_copies * factor.size)
    if factor.kind == "permutation":
        return permute(array, slot, event_shape, _count_through(flat, factor.size))
    return multiply(array, slot, event_shape, flat)


def permute(array: AnyArray, slot: Slot, event_shape: tuple[int, ...], permutation: AnyArray) -> AnyArray:
    """Reorder the members of one slot, ``w'[j] = w[sigma(j)]``, with ``sigma`` counted through, ``(..., member)``."""
    array, permutation = _same_library(array, permutation)

    def reorder(view: AnyArray) -> AnyArray:
        index = _align_batch(permutation, view.ndim)
        if isinstance(view, np.ndarray):
            return np.take_along_axis(view, np.asarray(index), axis=-2)
        return jnp.take_along_axis(view, jnp.asarray(index), axis=-2, mode="clip")

    return _on_members(array, slot, event_shape, permutation.shape[:-1], reorder)


def multiply(array: AnyArray, slot: Slot, event_shape: tuple[int, ...], diagonal: AnyArray) -> AnyArray:
    """Multiply the members of one slot, ``w'[j] = d_j^e w[j]``; arguments as in `permute`."""
    array, diagonal = _same_library(array, diagonal)
    power = diagonal.astype(array.dtype) ** abs(slot.exponent)
    power = 1 / power if slot.exponent < 0 else power
    return _on_members(
        array, slot, event_shape, diagonal.shape[:-1], lambda view: view * _align_batch(power, view.ndim)
    )


def neutral(factor: Factor) -> Array:
    """The value of a factor that moves nothing."""
    if factor.kind in MATRICES:
        return jnp.broadcast_to(jnp.eye(factor.size), factor.shape)
    if factor.kind == "permutation":
        return jnp.broadcast_to(jnp.arange(factor.size, dtype=jnp.int32), factor.shape)
    return jnp.ones(factor.shape, dtype=jnp.int8 if factor.kind == "sign" else float)


def random(factor: Factor, rng_key: PRNGKeyArray, batch_shape: tuple[int, ...]) -> Array:
    """Random values, ``(*batch_shape, *factor.shape)``.

    Uniform permutations within colours, uniform signs, log-normal scales (log-sd 1), Haar-orthogonal matrices, and for
    GL(n) two of these around log-normal singular values (log-sd 0.3).
    """
    shape = (*batch_shape, *factor.shape)
    if factor.kind in MATRICES:
        return _random_matrices(factor, rng_key, shape[:-2])
    if factor.kind == "sign":
        return jax.random.rademacher(rng_key, shape, dtype=jnp.int8)
    if factor.kind == "scale":
        return jnp.exp(jax.random.normal(rng_key, shape))
    colours = np.zeros(factor.size, int) if factor.colours is None else np.asarray(factor.colours)
    # Both orders list the colours one after the other, so the k-th place of one may take the k-th member of the other.
    shuffled = jnp.lexsort((jax.random.uniform(rng_key, shape), jnp.broadcast_to(colours, shape)))
    places = np.argsort(np.argsort(colours, kind="stable"))
    return shuffled[..., places].astype(jnp.int32)


def gather(values: AnyArray, index: AnyArray, axis: int) -> AnyArray:
    """``values[.., index, ..]`` along an axis counted from the end; all other dims broadcast."""
    shape = np.broadcast_shapes(values.shape, index.shape)
    if isinstance(values, np.ndarray) and isinstance(index, np.ndarray):
        return np.take_along_axis(np.broadcast_to(values, shape), np.broadcast_to(index, shape), axis)
    return jnp.take_along_axis(jnp.broadcast_to(values, shape), jnp.broadcast_to(index, shape), axis)


def invert(values: AnyArray, *, orthogonal: bool) -> AnyArray:
    """The inverse of each matrix; that of an orthogonal one is its transpose."""
    if orthogonal:
        return values.swapaxes(-1, -2)
    return np.linalg.inv(values) if isinstance(values, np.ndarray) else jnp.linalg.inv(values)


def member_view(array: AnyArray, slot: Slot, event_shape: tuple[int, ...]) -> AnyArray:
    """The entries of one slot as ``(..., lead, member, trail)``, the members of all fibre positions counted through."""
    layout = _layout(slot, event_shape)
    batch = array.shape[: array.ndim - len(event_shape)]
    inside = array[..., *layout.ranges].reshape((*batch, *layout.split))
    return inside.transpose(_behind(batch, layout.order)).reshape((*batch, *layout.view_shape))


@dataclass(frozen=True)
class _Layout:
    """From an array to the view of one slot: cut out ``ranges``, split the dims, bring them into ``order``."""

    ranges: tuple[slice, ...]
    split: tuple[int, ...]
    order: tuple[int, ...]
    view_shape: tuple[int, int, int]


@lru_cache(maxsize=4096)
def _layout(slot: Slot, event_shape: tuple[int, ...]) -> _Layout:
    if slot.axis is None:
        everything = (slice(None),) * len(event_shape)
        return _Layout(everything, event_shape, tuple(range(len(event_shape))), (1, 1, math.prod(event_shape)))
    ranges, split = [], []
    dims: dict[Slot, int] = {}
    for axis, length in enumerate(event_shape):
        here = sorted((part for part in (*slot.fibre, slot) if part.axis == axis), key=lambda part: -part.stride)
        ranges.append(slice(here[0].offset, here[0].offset + here[0].length) if here else slice(None))
        rest = here[0].length if here else length
        for part in here:
            gap = rest // (part.size * part.stride)
            split += [gap] if gap > 1 else []
            dims[part] = len(split)
            split.append(part.size)
            rest = part.stride
        split += [rest] if rest > 1 or not here else []
    members = [dims[part] for part in (*slot.fibre, slot)]
    others = [dim for dim in range(len(split)) if dim not in members]
    # Without a detour over a transposition where the members lie together.
    together = members == list(range(members[0], members[0] + len(members)))
    lead = [dim for dim in others if dim < members[0]] if together else others
    trail = others[len(lead) :]
    sizes = (math.prod(split[dim] for dim in group) for group in (lead, members, trail))
    return _Layout(tuple(ranges), tuple(split), (*lead, *members, *trail), (*sizes,))  # pyright: ignore


def _on_members(
    array: AnyArray,
    slot: Slot,
    event_shape: tuple[int, ...],
    batch_shape: tuple[int, ...],
    change: Callable[[AnyArray], AnyArray],
) -> AnyArray:
    """Apply ``change`` to the slot's member view and put the result back in place."""
    xp = np if isinstance(array, np.ndarray) else jnp
    layout = _layout(slot, event_shape)
    batch = np.broadcast_shapes(array.shape[: array.ndim - len(event_shape)], batch_shape)
    array = xp.broadcast_to(array, batch + event_shape)
    changed = change(member_view(array, slot, event_shape))
    changed = changed.reshape((*batch, *(layout.split[dim] for dim in layout.order)))
    changed = changed.transpose(_behind(batch, tuple(np.argsort(layout.order).tolist())))
    inside = array[..., *layout.ranges]
    changed = changed.reshape(inside.shape)
    if inside.shape == array.shape:
        return changed
    if isinstance(array, np.ndarray):
        result = np.array(array)
        result[..., *layout.ranges] = changed
        return result
    return jnp.asarray(array).at[..., *layout.ranges].set(changed)


def _transform(array: AnyArray, slot: Slot, event_shape: tuple[int, ...], matrix: AnyArray) -> AnyArray:
    """``w'[h, i] = sum_j M_h[i, j] w[h, j]``, with ``M_h^-T`` for exponent -1; ``matrix`` is ``(..., h, i, j)``."""
    array, matrix = _same_library(array, matrix)
    matrix = matrix.astype(array.dtype)
    matrix = invert(matrix, orthogonal=False).swapaxes(-1, -2) if slot.exponent < 0 else matrix

    def apply(view: AnyArray) -> AnyArray:
        of_fibre = view.reshape(*view.shape[:-2], *matrix.shape[-3:-1], view.shape[-1])
        return (matrix[..., None, :, :, :] @ of_fibre).reshape(view.shape)

    return _on_members(array, slot, event_shape, matrix.shape[:-3], apply)


@partial(jax.jit, static_argnums=(0, 2))
def _random_matrices(factor: Factor, rng_key: PRNGKeyArray, shape: tuple[int, ...]) -> Array:
    left, right, middle = jax.random.split(rng_key, 3)
    rotation = jax.random.orthogonal(left, factor.size, shape)
    if factor.kind == "orthogonal":
        return rotation
    stretch = jnp.exp(_SPREAD * jax.random.normal(middle, (*shape, factor.size)))
    return rotation * stretch[..., None, :] @ jax.random.orthogonal(right, factor.size, shape)


def _count_through(permutation: AnyArray, size: int) -> AnyArray:
    """Permutations within the copies of a class, one copy after the other, as one permutation of all members."""
    starts = np.repeat(np.arange(0, permutation.shape[-1], size, dtype=np.int32), size)
    return permutation + starts if starts.any() else permutation


def _behind(batch: tuple[int, ...], order: tuple[int, ...]) -> tuple[int, ...]:
    """An order of the event dims for an array with batch dims."""
    return (*range(len(batch)), *(len(batch) + dim for dim in order))


def _same_library(array: AnyArray, values: AnyArray) -> tuple[AnyArray, AnyArray]:
    """Both as NumPy if the array is (its float64 would not survive JAX's default precision), else both as JAX."""
    if isinstance(array, np.ndarray) and not isinstance(values, Tracer):
        return array, np.asarray(values)
    return jnp.asarray(array), jnp.asarray(values)


def _align_batch(per_member: AnyArray, ndim: int) -> AnyArray:
    """View ``(..., member)`` as ``(..., 1, member, 1)`` with ``ndim`` axes, so that it broadcasts over a view."""
    batch = per_member.shape[:-1]
    return per_member.reshape((1,) * (ndim - 3 - len(batch)) + batch + (1, per_member.shape[-1], 1))
