"""How one factor of a symmetry group acts on arrays.

A *factor* belongs to one *axis class*, a set of array axes that the model treats as one and the same axis (the hidden
units of a layer, the components of a mixture), and is one of

    permutation   S_n        w'[j] = w[sigma(j)]
    sign          Z_2^n      w'[j] = s_j^e w[j],        s_j in {-1, +1}
    scale         R_+^n      w'[j] = lambda_j^e w[j],   lambda_j > 0

A *slot* is one place where the class occurs in an array. Every slot, be it a whole axis, one gate of a fused recurrent
kernel or the channel part of a flattened feature map, becomes the middle axis of a view ``(lead, member, trail)``, and
on this view all three actions are one line.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.core import Tracer
from jaxtyping import PRNGKeyArray

Kind = Literal["permutation", "sign", "scale"]
KINDS: tuple[Kind, ...] = ("permutation", "sign", "scale")

AnyArray = Array | np.ndarray
Weights = Mapping[str, AnyArray]
Element = Mapping[str, AnyArray]


@dataclass(frozen=True)
class Slot:
    """One place where an axis class acts: a strided range of positions along one axis of one site.

    Member ``c`` of the class sits at the positions ``offset + (o * size + c) * stride + s`` of the axis, for all
    ``o < outer`` and ``s < stride``. ``axis=None`` means the whole array (then ``size == 1``). Under a sign or a scale
    the member is multiplied by the ``exponent``-th power; permutations do not look at it.
    """

    site: str
    axis: int | None
    size: int
    offset: int = 0
    stride: int = 1
    outer: int = 1
    exponent: int = 1

    @property
    def length(self) -> int:
        """Number of positions along the axis that the slot covers."""
        return self.outer * self.size * self.stride

    def covers(self, shape: tuple[int, ...]) -> bool:
        """Whether the slot is a whole plain axis of an array of this shape, one position a member."""
        return self.axis is not None and self.stride == self.outer == 1 and self.size == shape[self.axis]


@dataclass(frozen=True)
class Certificate:
    """Float64 evidence for one factor: error under random elements, and the change when one member site is left out."""

    error: float
    control: float
    num_elements: int


@dataclass(frozen=True)
class Factor:
    """One factor of a symmetry group, acting on all its slots at once.

    Only members of equal ``colours`` may be exchanged by a permutation (None: all may).
    """

    name: str
    kind: Kind
    axis: str
    size: int
    slots: tuple[Slot, ...]
    colours: tuple[int, ...] | None = None
    certificate: Certificate | None = None

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"factor {self.name!r}: kind must be one of {', '.join(KINDS)}, got {self.kind!r}")
        for slot in self.slots:
            _check_slot(self, slot)
        if self.colours is not None and self.kind != "permutation":
            raise ValueError(f"factor {self.name!r}: colours restrict permutations only; give a {self.kind} none")
        if self.colours is not None and len(self.colours) != self.size:
            raise ValueError(
                f"factor {self.name!r}: one colour a member was expected ({self.size}), got {len(self.colours)}"
            )

    @property
    def colour_sizes(self) -> tuple[int, ...]:
        """Sizes of the sets of members that a permutation may exchange, in the order of their colours."""
        if self.colours is None:
            return (self.size,)
        return tuple(int(count) for count in np.unique(self.colours, return_counts=True)[1])


@dataclass(frozen=True)
class Pin:
    """An axis that is not free, and why; None for an array as a whole that could change its sign or scale."""

    site: str
    axis: int | None
    reason: str


def check_factors(factors: tuple[Factor, ...], sites: Mapping[str, tuple[int, ...]]) -> None:
    """Refuse factors that do not form a group on these sites.

    Raises:
        ValueError: If a name is used twice, a slot does not fit its site, or the factors of an axis class disagree.
    """
    _check_names(factors)
    for factor in factors:
        for slot in factor.slots:
            _check_fit(factor, slot, sites)


def whole_axes(factors: tuple[Factor, ...], site: str, shape: tuple[int, ...]) -> tuple[str | None, ...]:
    """The axis class of every dim of a site that is the whole of one class, else None."""
    names: list[str | None] = [None] * len(shape)
    for factor in factors:
        for slot in factor.slots:
            if slot.site == site and slot.axis is not None and slot.covers(shape):
                names[slot.axis] = factor.axis
    return tuple(names)


def permute(array: AnyArray, slot: Slot, event_shape: tuple[int, ...], permutation: AnyArray) -> AnyArray:
    """Reorder the members of one slot, ``w'[j] = w[sigma(j)]``.

    Args:
        array: The site's value, with any leading batch dims.
        slot: Where the class sits.
        event_shape: Shape of the site without batch dims.
        permutation: ``sigma``, ``(..., member)``; its batch dims broadcast against the array's.

    Returns:
        The permuted array, of the joint batch shape.
    """
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
    if factor.kind == "permutation":
        return jnp.arange(factor.size, dtype=jnp.int32)
    return jnp.ones(factor.size, dtype=jnp.int8 if factor.kind == "sign" else float)


def random(factor: Factor, rng_key: PRNGKeyArray, shape: tuple[int, ...]) -> Array:
    """Random values: uniform permutations within colours, uniform signs, log-normal scales (log-sd 1)."""
    if factor.kind == "sign":
        return jax.random.rademacher(rng_key, shape, dtype=jnp.int8)
    if factor.kind == "scale":
        return jnp.exp(jax.random.normal(rng_key, shape))
    colours = np.zeros(factor.size, int) if factor.colours is None else np.asarray(factor.colours)
    # Both orders list the colours one after the other, so the k-th place of one may take the k-th member of the other.
    shuffled = jnp.lexsort((jax.random.uniform(rng_key, shape), jnp.broadcast_to(colours, shape)))
    places = np.argsort(np.argsort(colours, kind="stable"))
    return shuffled[..., places].astype(jnp.int32)


def gather(values: AnyArray, permutation: AnyArray) -> AnyArray:
    """``values[sigma]`` along the last axis; batch dims broadcast."""
    shape = np.broadcast_shapes(values.shape, permutation.shape)
    if isinstance(values, np.ndarray) and isinstance(permutation, np.ndarray):
        return np.take_along_axis(np.broadcast_to(values, shape), np.broadcast_to(permutation, shape), axis=-1)
    return jnp.take_along_axis(jnp.broadcast_to(values, shape), jnp.broadcast_to(permutation, shape), axis=-1)


def member_view(array: AnyArray, slot: Slot, event_shape: tuple[int, ...]) -> AnyArray:
    """The entries of one slot as ``(..., lead, member, trail)``."""
    batch = array.shape[: array.ndim - len(event_shape)]
    if slot.axis is None:
        return array.reshape(*batch, 1, 1, math.prod(event_shape))
    before, after = math.prod(event_shape[: slot.axis]), math.prod(event_shape[slot.axis + 1 :])
    array = array.reshape(*batch, before, event_shape[slot.axis], after)
    array = array[..., slot.offset : slot.offset + slot.length, :]
    return array.reshape(*batch, before * slot.outer, slot.size, slot.stride * after)


def _on_members(
    array: AnyArray,
    slot: Slot,
    event_shape: tuple[int, ...],
    batch_shape: tuple[int, ...],
    change: Callable[[AnyArray], AnyArray],
) -> AnyArray:
    """Apply ``change`` to the slot's member view and put the result back in place."""
    xp = np if isinstance(array, np.ndarray) else jnp
    batch = np.broadcast_shapes(array.shape[: array.ndim - len(event_shape)], batch_shape)
    array = xp.broadcast_to(array, batch + event_shape)
    changed = change(member_view(array, slot, event_shape))
    if slot.axis is None or slot.length == event_shape[slot.axis]:
        return changed.reshape(batch + event_shape)
    changed = changed.reshape(*batch, *event_shape[: slot.axis], slot.length, *event_shape[slot.axis + 1 :])
    rest = (slice(None),) * (len(event_shape) - slot.axis - 1)
    before, after = array[..., : slot.offset, *rest], array[..., slot.offset + slot.length :, *rest]
    return xp.concatenate([before, changed, after], axis=len(batch) + slot.axis)


def _same_library(array: AnyArray, values: AnyArray) -> tuple[AnyArray, AnyArray]:
    """Both as NumPy if the array is (its float64 would not survive JAX's default precision), else both as JAX."""
    if isinstance(array, np.ndarray) and not isinstance(values, Tracer):
        return array, np.asarray(values)
    return jnp.asarray(array), jnp.asarray(values)


def _align_batch(per_member: AnyArray, ndim: int) -> AnyArray:
    """View ``(..., member)`` as ``(..., 1, member, 1)`` with ``ndim`` axes, so that it broadcasts over a view."""
    batch = per_member.shape[:-1]
    return per_member.reshape((1,) * (ndim - 3 - len(batch)) + batch + (1, per_member.shape[-1], 1))


def _check_slot(factor: Factor, slot: Slot) -> None:
    if slot.size != factor.size:
        raise ValueError(
            f"factor {factor.name!r} has {factor.size} members but its slot in {slot.site!r} has {slot.size}; "
            "they must agree"
        )
    if slot.axis is None and (factor.kind == "permutation" or slot.size != 1):
        raise ValueError(
            f"factor {factor.name!r}: a slot over the whole of {slot.site!r} must be a sign or scale of size 1, "
            f"got a {factor.kind} of size {slot.size}"
        )
    if slot.axis is not None and slot.axis < 0:
        raise ValueError(f"factor {factor.name!r}: axes are counted from 0, got {slot.axis} in {slot.site!r}")


def _check_names(factors: tuple[Factor, ...]) -> None:
    names = [factor.name for factor in factors]
    for name in names:
        if names.count(name) > 1:
            raise ValueError(f"factor names are the keys of elements and must differ, got {name!r} twice")
    permuted = [factor.axis for factor in factors if factor.kind == "permutation"]
    for axis in permuted:
        if permuted.count(axis) > 1:
            raise ValueError(f"an axis class has one permutation, got two on {axis!r}; give the second its own class")
    sizes: dict[str, int] = {}
    for factor in factors:
        if sizes.setdefault(factor.axis, factor.size) != factor.size:
            raise ValueError(
                f"the factors of an axis class have one size; on {factor.axis!r} got {sizes[factor.axis]} "
                f"and {factor.size}"
            )


def _check_fit(factor: Factor, slot: Slot, sites: Mapping[str, tuple[int, ...]]) -> None:
    if slot.site not in sites:
        raise ValueError(
            f"factor {factor.name!r} acts on {slot.site!r}, which is none of the sites: {', '.join(sites)}"
        )
    shape = sites[slot.site]
    if slot.axis is not None and (slot.axis >= len(shape) or slot.offset + slot.length > shape[slot.axis]):
        raise ValueError(
            f"factor {factor.name!r}: the slot at axis {slot.axis}, positions {slot.offset} to "
            f"{slot.offset + slot.length}, lies outside {slot.site!r} of shape {shape}"
        )
