"""What a symmetry group is made of: factors, and the slots where they act.

A *factor* belongs to one *axis class*, a set of array axes that the model treats as one and the same axis (the hidden
units of a layer, the components of a mixture), and is one of

    permutation   S_n        w'[j] = w[sigma(j)]
    sign          Z_2^n      w'[j] = s_j^e w[j],                  s_j in {-1, +1}
    scale         R_+^n      w'[j] = lambda_j^e w[j],             lambda_j > 0
    linear        GL(n)      w'[i] = sum_j (M^e)[i, j] w[j],      M invertible, with M^-T for e = -1
    orthogonal    O(n)       the same, M orthogonal

Its *fibre* are other axis classes over which the element varies freely: the units of each head are permuted within
their head, each in its own way, ``w'[h, j] = w[h, sigma_h(j)]``, and the factor is ``(S_n)^heads``. If the heads are
permuted too, the two are a wreath product.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np

Kind = Literal["permutation", "sign", "scale", "linear", "orthogonal"]
KINDS: tuple[Kind, ...] = ("permutation", "sign", "scale", "linear", "orthogonal")
# Kinds whose values are matrices. They mix the members of a class, so nothing else acts on it.
MATRICES: tuple[Kind, ...] = ("linear", "orthogonal")
# What leaves distances between weights as they are; of GL(n) the orthogonal matrices do.
ISOMETRIES: tuple[Kind, ...] = ("permutation", "sign", *MATRICES)


@dataclass(frozen=True)
class Slot:
    """One place where an axis class acts: a strided range of positions along one axis of one site.

    Member ``c`` of the class sits at the positions ``offset + (o * size + c) * stride + s`` of the axis, for all
    ``o < outer`` and ``s < stride``. ``axis=None`` means the whole array (then ``size == 1``). Under a sign, a scale or
    a matrix the member is multiplied by the ``exponent``-th power; permutations do not look at it. ``fibre`` tells
    where in the same site the fibre of the factor sits, one slot a fibre class.
    """

    site: str
    axis: int | None
    size: int
    offset: int = 0
    stride: int = 1
    outer: int = 1
    exponent: int = 1
    fibre: tuple[Slot, ...] = ()

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

    Args:
        name: Key of the factor in elements.
        kind: What it does.
        axis: Name of its axis class.
        size: Number of members of the class.
        slots: Where it acts.
        colours: Only members of equal colours may be exchanged by a permutation (None: all may).
        certificate: Evidence, if it was checked.
        fibre: Names of the axis classes over which the element varies.
        fibre_shape: Their sizes.

    Example:
        >>> heads = Slot("out", 0, 4)
        >>> slot = Slot("out", 1, 8, fibre=(heads,))
        >>> Factor("units", "permutation", "unit", 8, (slot,), fibre=("head",), fibre_shape=(4,)).shape
        (4, 8)
    """

    name: str
    kind: Kind
    axis: str
    size: int
    slots: tuple[Slot, ...]
    colours: tuple[int, ...] | None = None
    certificate: Certificate | None = None
    fibre: tuple[str, ...] = ()
    fibre_shape: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"factor {self.name!r}: kind must be one of {', '.join(KINDS)}, got {self.kind!r}")
        if len(self.fibre) != len(self.fibre_shape):
            raise ValueError(
                f"factor {self.name!r}: one size a fibre class was expected ({len(self.fibre)}), "
                f"got {len(self.fibre_shape)}"
            )
        for slot in self.slots:
            _check_slot(self, slot)
        if self.colours is not None and self.kind != "permutation":
            raise ValueError(f"factor {self.name!r}: colours restrict permutations only; give a {self.kind} none")
        if self.colours is not None and len(self.colours) != self.size:
            raise ValueError(
                f"factor {self.name!r}: one colour a member was expected ({self.size}), got {len(self.colours)}"
            )

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the factor's values in an element, without batch dims."""
        return (*self.fibre_shape, *((self.size,) * (2 if self.kind in MATRICES else 1)))

    @property
    def num_copies(self) -> int:
        """Over the whole fibre, how many elements of the group of one axis an element holds."""
        return math.prod(self.fibre_shape)

    @property
    def colour_sizes(self) -> tuple[int, ...]:
        """Sizes of the sets of members that a permutation may exchange, in the order of their colours."""
        if self.colours is None:
            return (self.size,)
        return tuple(int(count) for count in np.unique(self.colours, return_counts=True)[1])

    @property
    def dimension(self) -> int:
        """Dimension of the factor as a Lie group; zero for permutations and signs."""
        of_one = {"scale": self.size, "linear": self.size**2, "orthogonal": self.size * (self.size - 1) // 2}
        return self.num_copies * of_one.get(self.kind, 0)


@dataclass(frozen=True)
class Pin:
    """An axis that is not free, and why; None for an array as a whole that could change its sign or scale."""

    site: str
    axis: int | None
    reason: str


@dataclass(frozen=True)
class Shift:
    """Any numbers that may be added to a site if they are the same along some of its axes.

    Args:
        site: The site.
        along: The axes along which all entries get the same number.
        shape: Shape of the site.
    """

    site: str
    along: tuple[int, ...]
    shape: tuple[int, ...]

    @property
    def dimension(self) -> int:
        """How many numbers may be chosen."""
        return math.prod(size for axis, size in enumerate(self.shape) if axis not in self.along)


def check_factors(factors: tuple[Factor, ...], sites: Mapping[str, tuple[int, ...]]) -> None:
    """Refuse factors that do not form a group on these sites.

    Raises:
        ValueError: If a name is used twice, a slot does not fit its site, or the factors of an axis class disagree.
    """
    _check_names(factors)
    _check_classes(factors)
    _check_fibres(factors)
    for factor in factors:
        for slot in factor.slots:
            for place in (slot, *slot.fibre):
                _check_fit(factor, place, sites)


def whole_axes(factors: tuple[Factor, ...], site: str, shape: tuple[int, ...]) -> tuple[str | None, ...]:
    """The axis class of every dim of a site that is the whole of one class, else None."""
    names: list[str | None] = [None] * len(shape)
    for factor in factors:
        for slot in factor.slots:
            if slot.site == site and slot.axis is not None and slot.covers(shape):
                names[slot.axis] = factor.axis
    return tuple(names)


def _check_slot(factor: Factor, slot: Slot) -> None:
    if slot.size != factor.size:
        raise ValueError(
            f"factor {factor.name!r} has {factor.size} members but its slot in {slot.site!r} has {slot.size}; "
            "they must agree"
        )
    if slot.axis is None and (factor.kind not in ("sign", "scale") or slot.size != 1):
        raise ValueError(
            f"factor {factor.name!r}: a slot over the whole of {slot.site!r} must be a sign or scale of size 1, "
            f"got a {factor.kind} of size {slot.size}"
        )
    if slot.axis is not None and slot.axis < 0:
        raise ValueError(f"factor {factor.name!r}: axes are counted from 0, got {slot.axis} in {slot.site!r}")
    if tuple(place.size for place in slot.fibre) != factor.fibre_shape:
        raise ValueError(
            f"factor {factor.name!r} has a fibre of sizes {factor.fibre_shape}, but its slot in {slot.site!r} one of "
            f"{tuple(place.size for place in slot.fibre)}; they must agree"
        )
    if factor.kind in MATRICES and slot.exponent not in (1, -1):
        raise ValueError(f"factor {factor.name!r}: a matrix has exponent 1 or -1 (M^-T), got {slot.exponent}")


def _check_names(factors: tuple[Factor, ...]) -> None:
    names = [factor.name for factor in factors]
    for name in names:
        if names.count(name) > 1:
            raise ValueError(f"factor names are the keys of elements and must differ, got {name!r} twice")


def _check_classes(factors: tuple[Factor, ...]) -> None:
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
    mixed = [factor.axis for factor in factors if factor.kind in MATRICES]
    for factor in factors:
        if factor.axis in mixed and (factor.kind not in MATRICES or mixed.count(factor.axis) > 1):
            raise ValueError(
                f"matrices act on {factor.axis!r}, so nothing else may, got {factor.name!r}: permutations, signs and "
                "scales are matrices already"
            )


def _check_fibres(factors: tuple[Factor, ...]) -> None:
    """The values of a factor are carried along by the permutations of its own class and of its fibre."""
    for factor in factors:
        names = (*factor.fibre, factor.axis)
        for other in factors:
            if other.axis in factor.fibre and other.kind in MATRICES:
                raise ValueError(f"matrices mix {other.axis!r}, which therefore is no fibre; {factor.name!r} has it")
            if other.kind == "permutation" and other.axis in names and not set(other.fibre) <= set(factor.fibre):
                raise ValueError(
                    f"{other.name!r} varies over {', '.join(other.fibre)} and carries {factor.name!r} along, which "
                    f"must vary over the same classes, got {', '.join(factor.fibre) or 'no fibre'}"
                )
            if other.axis in factor.fibre and factor.axis in other.fibre:
                raise ValueError(f"{factor.axis!r} and {other.axis!r} are fibres of each other; only one may be")


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
