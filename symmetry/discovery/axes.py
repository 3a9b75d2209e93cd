r"""Which axes are the same axis: trees of atoms under union-find.

Every dimension of every array holds an `Axis`, a tree

    axis = atom | product(axis, ..)   row-major merge, as by reshape
                | sum(axis, ..)       concatenation

Rules `unify` axes that one permutation has to move together, and `refine` or `pin` an axis whose positions the program
can tell apart. An atom carries *colours*: positions of equal colour are exchangeable, an atom whose positions all have
different colours is pinned. A dimension of length one is the empty product and carries nothing.

What cannot be expressed exactly is pinned, so the permutations that remain are symmetries; some may be missed.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

MISALIGNED = "reshape that does not follow its axes"


class Axis:
    """A node of an axis tree. Compare nodes by `find`, never by identity alone."""

    __slots__ = ("size", "kind", "parts", "parent", "colours", "reasons")

    def __init__(self, size: int, kind: Literal["atom", "product", "sum"] = "atom", parts: Sequence[Axis] = ()):
        self.size = size
        self.kind: Literal["atom", "product", "sum"] = kind
        self.parts = tuple(parts)
        self.parent: Axis | None = None
        self.colours: tuple[int, ...] = (0,) * size if kind == "atom" else ()
        self.reasons: tuple[str, ...] = ()

    @property
    def pinned(self) -> bool:
        """Whether no two positions of the atom are exchangeable."""
        return len(set(self.colours)) == self.size


@dataclass(frozen=True)
class Occurrence:
    """An atom inside a dimension: its positions are ``offset + (o * size + c) * stride + s``."""

    atom: Axis
    offset: int = 0
    stride: int = 1
    outer: int = 1


def atom(size: int) -> Axis:
    """A new axis that nothing is known about."""
    return Axis(size) if size != 1 else Axis(1, "product")


def product(factors: Iterable[Axis]) -> Axis:
    """Row-major merge of axes, the last one running fastest."""
    parts = [axis for factor in factors for axis in _factors(factor)]
    return parts[0] if len(parts) == 1 else Axis(math.prod(part.size for part in parts), "product", parts)


def concatenation(segments: Iterable[Axis]) -> Axis:
    """Axes one after the other."""
    parts = [axis for segment in segments for axis in _segments(segment) if axis.size]
    return parts[0] if len(parts) == 1 else Axis(sum(part.size for part in parts), "sum", parts)


def find(axis: Axis) -> Axis:
    """The node that stands for all axes unified with this one."""
    while axis.parent is not None:
        if axis.parent.parent is not None:
            axis.parent = axis.parent.parent
        axis = axis.parent
    return axis


def atoms(axis: Axis) -> tuple[Axis, ...]:
    """The atoms of the tree in row-major order."""
    return tuple(occurrence.atom for occurrence in occurrences(axis))


def occurrences(axis: Axis) -> tuple[Occurrence, ...]:
    """The atoms of the tree with the positions that they govern, in row-major order."""
    return tuple(_walk(axis, 0, 1, 1))


def unify(*axes: Axis) -> Axis:
    """Make axes of equal length one axis; the axis."""
    first = axes[0]
    for other in axes[1:]:
        _join(first, other)
    return find(first)


def refine(axis: Axis, labels: Sequence[Hashable], *reasons: str) -> None:
    """Tell positions of different labels apart, for the reasons given."""
    axis = find(axis)
    # Most labels are those of axes that nothing is known about, and those may be long.
    if not labels or labels.count(labels[0]) == len(labels):
        return
    if axis.kind == "sum":
        start = 0
        for part in axis.parts:
            refine(part, labels[start : start + part.size], *reasons)
            start += part.size
    elif axis.kind == "product":
        outer, stride = 1, axis.size
        for part in axis.parts:
            stride //= part.size
            refine(part, _slices(labels, outer, part.size, stride), *reasons)
            outer *= part.size
    elif not axis.pinned:
        colours = _number(zip(axis.colours, labels, strict=True))
        if colours != axis.colours:
            axis.colours = colours
            axis.reasons = tuple(dict.fromkeys((*axis.reasons, *reasons)))


def pin(axis: Axis, reason: str) -> Axis:
    """Tell all positions apart; the axis."""
    for part in atoms(axis):
        if not part.pinned:
            part.colours = tuple(range(part.size))
            part.reasons = tuple(dict.fromkeys((*part.reasons, reason)))
    return axis


def segments(axis: Axis, sizes: Sequence[int]) -> tuple[Axis, ...]:
    """Cut an axis into consecutive segments of the given sizes."""
    cut = tuple(atom(size) for size in sizes)
    unify(axis, concatenation(cut))
    return cut


def _join(a: Axis, b: Axis) -> None:
    a, b = find(a), find(b)
    if a is b:
        return
    if a.size != b.size:
        raise ValueError(f"axes of equal length can be one axis, got lengths {a.size} and {b.size}")
    if a.kind == "atom" and b.kind != "atom":
        a, b = b, a
    if b.kind == "atom":
        b.parent = a
        refine(a, b.colours, *b.reasons)
        return
    if not (_join_products(a, b) if a.kind == b.kind == "product" else _join_sums(a, b)):
        pin(a, MISALIGNED)
        pin(b, MISALIGNED)
    # Their parts are joined: one of the two now speaks for both, a sum if there is one, for it is the finer tree.
    if a.kind == "product" and b.kind == "sum":
        a, b = b, a
    b.parent = a


def _join_products(a: Axis, b: Axis) -> bool:
    """Align factors from the right, splitting the larger one where it is divisible."""
    left, right = list(_factors(a)), list(_factors(b))
    while left and right:
        x, y = left.pop(), right.pop()
        if x.size == y.size:
            _join(x, y)
            continue
        large, small, rest = (x, y, left) if x.size > y.size else (y, x, right)
        if large.size % small.size:
            return False
        quotient, inner = atom(large.size // small.size), atom(small.size)
        _join(large, product((quotient, inner)))
        _join(inner, small)
        rest.append(find(quotient))
    return True


def _join_sums(a: Axis, b: Axis) -> bool:
    """Cut both axes at the common refinement of their boundaries and join the pieces."""
    left, right = list(reversed(_segments(a))), list(reversed(_segments(b)))
    while left:
        x, y = left.pop(), right.pop()
        if x.size != y.size:
            large, rest = (x, left) if x.size > y.size else (y, right)
            pieces = _cut(large, min(x.size, y.size))
            if pieces is None:
                return False
            rest.append(pieces[1])
            x, y = (pieces[0], y) if large is x else (x, pieces[0])
        _join(x, y)
    return True


def _cut(axis: Axis, size: int) -> tuple[Axis, Axis] | None:
    """Cut off the first ``size`` positions; None where the boundary falls inside a block of a product."""
    axis = find(axis)
    if axis.kind == "product":
        first, *rest = _factors(axis)
        block = axis.size // first.size
        halves = None if size % block else _cut(first, size // block)
        return None if halves is None else (product((halves[0], *rest)), product((halves[1], *rest)))
    if axis.kind == "sum":
        parts = list(_segments(axis))
        head: list[Axis] = []
        while size >= parts[0].size:
            head.append(parts.pop(0))
            size -= head[-1].size
        if size:
            halves = _cut(parts.pop(0), size)
            if halves is None:
                return None
            head, parts = [*head, halves[0]], [halves[1], *parts]
        return concatenation(head), concatenation(parts)
    pieces = atom(size), atom(axis.size - size)
    _join(axis, concatenation(pieces))
    return pieces


def _factors(axis: Axis) -> tuple[Axis, ...]:
    axis = find(axis)
    if axis.kind != "product":
        return (axis,)
    return tuple(factor for part in axis.parts for factor in _factors(part))


def _segments(axis: Axis) -> tuple[Axis, ...]:
    axis = find(axis)
    if axis.kind != "sum":
        return (axis,)
    return tuple(segment for part in axis.parts for segment in _segments(part))


def _walk(axis: Axis, offset: int, stride: int, outer: int) -> Iterable[Occurrence]:
    axis = find(axis)
    if axis.kind == "atom":
        yield Occurrence(axis, offset, stride, outer)
    elif axis.kind == "product":
        inner = axis.size
        for part in axis.parts:
            inner //= part.size
            yield from _walk(part, offset, stride * inner, outer)
            outer *= part.size
    else:
        # The segments of a repeated sum are no single strided range: one occurrence per repetition.
        for repetition in range(outer):
            start = offset + repetition * axis.size * stride
            for part in axis.parts:
                yield from _walk(part, start, stride, 1)
                start += part.size * stride


def _number(labels: Iterable[Hashable]) -> tuple[int, ...]:
    """Labels replaced by numbers in order of first appearance."""
    numbers: dict[Hashable, int] = {}
    return tuple(numbers.setdefault(label, len(numbers)) for label in labels)


def _slices(labels: Sequence[Hashable], outer: int, size: int, stride: int) -> list[Hashable]:
    """For each position of one factor of a product, all labels that it occurs with."""
    return [
        tuple(labels[(o * size + c) * stride + s] for o in range(outer) for s in range(stride)) for c in range(size)
    ]
