r"""The best element of a wreath product: members of a class are exchanged together with all that varies over them.

Where heads are permuted, and the units of each head within their head, no change of one class alone brings a permuted
copy nearer: the units of a wrong head match nothing, and a head whose units are in disorder matches none. But for each
pair of a head ``h`` of the reference and a head ``h'`` of the weights, aligning the units of ``h'`` to those of ``h``
is a smaller problem of the same kind. With ``V[h, h']`` the inner product that its solution reaches, the best
permutation of the heads is a linear assignment,

    max_tau  sum_h V[h, tau(h)],

and each head brings its units in the order of its pair. If the units are one class, the whole is solved exactly.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
from scipy.optimize import linear_sum_assignment

from .assignment import act_on_host
from .factor import Factor, Slot
from .group import SymmetryGroup

Arrays = Mapping[str, np.ndarray]
type Align = Callable[[SymmetryGroup, Arrays, Arrays, Arrays | None], dict[str, np.ndarray]]


@dataclass(frozen=True)
class Wreath:
    """A class, the factors that vary over it, and the group of one of its members.

    Args:
        name: The class.
        size: Its number of members.
        permutation: What exchanges them; None if their order is fixed and only what they hold is aligned.
        inner: The factors that vary over it.
        pieces: Where it sits: site of ``member`` to the slot in a site of the whole.
        member: The group that acts on one member.
    """

    name: str
    size: int
    permutation: Factor | None
    inner: tuple[Factor, ...]
    pieces: Mapping[str, Slot]
    member: SymmetryGroup


@lru_cache(maxsize=64)
def wreaths(group: SymmetryGroup) -> tuple[Wreath, ...]:
    """The outermost wreath products of a group; without those that meet themselves in one array."""
    names = dict.fromkeys(name for factor in group.factors for name in factor.fibre)
    found = (_wreath(group, name) for name in names)
    return tuple(wreath for wreath in found if wreath is not None)


def best_of_wreath(
    group: SymmetryGroup, wreath: Wreath, weights: Arrays, reference: Arrays, element: Arrays, align: Align
) -> dict[str, np.ndarray]:
    """The best values of a wreath product's factors given the element's values of all the others.

    Args:
        group: The group.
        wreath: One of its wreath products.
        weights: Site name to draws ``(draw, ...)``.
        reference: Site name to array, without or with the draws' leading dim.
        element: Values ``(draw, *factor.shape)`` of all the factors.
        align: Solves the problem of one member, draw by draw: `descent.align_draws`.
    """
    own = {factor.name for factor in (wreath.permutation, *wreath.inner) if factor is not None}
    held = {name: value for name, value in element.items() if name not in own}
    sites = {slot.site for slot in wreath.pieces.values()}
    moved = act_on_host(group, held, {site: weights[site] for site in sites})
    num_draws = len(next(iter(element.values())))
    pairs = (num_draws, wreath.size, wreath.size if wreath.permutation else 1)
    draws, targets = {}, {}
    for piece, slot in wreath.pieces.items():
        shape = wreath.member.sites[piece]
        target = _cut(reference[slot.site], slot, group.sites[slot.site])[..., None, *[slice(None)] * len(shape)]
        ours = _cut(moved[slot.site], slot, group.sites[slot.site])
        ours = ours[:, None] if wreath.permutation else ours[:, :, None]
        draws[piece], targets[piece] = (np.broadcast_to(x, pairs + shape).reshape(-1, *shape) for x in (ours, target))
    inner = align(wreath.member, draws, targets, None)
    aligned = act_on_host(wreath.member, inner, draws)
    products = [(aligned[piece] * targets[piece]).reshape(math.prod(pairs), -1).sum(axis=-1) for piece in targets]
    partner = _assign(wreath, np.sum(products, axis=0, dtype=float).reshape(pairs))
    part = {factor.name: _of_partner(wreath, factor, inner[factor.name], partner) for factor in wreath.inner}
    return part | ({wreath.permutation.name: partner.astype(np.int32)} if wreath.permutation else {})


def _wreath(group: SymmetryGroup, name: str) -> Wreath | None:
    own = [factor for factor in group.factors if factor.axis == name]
    inner = tuple(factor for factor in group.factors if name in factor.fibre)
    permutation = own[0] if own else None
    if permutation is None and not any({f.axis for f in inner} & set(factor.fibre) for factor in inner):
        # Class by class is as good, if nothing permuted lies below either.
        return None
    if len(own) > 1 or (permutation is not None and (permutation.kind != "permutation" or permutation.fibre)):
        return None
    fibre_places = {_bare(slot.fibre[f.fibre.index(name)]) for f in inner for slot in f.slots}
    places = fibre_places if permutation is None else {_bare(slot) for slot in permutation.slots}
    axes = {(place.site, place.axis) for place in places}
    if not fibre_places <= places or len({site for site, _ in axes}) < len(axes):
        return None
    pieces = {str(number): place for number, place in enumerate(sorted(places, key=repr))}
    keys = {place: piece for piece, place in pieces.items()}
    factors = []
    for factor in inner:
        slots = [_of_member(slot, slot.fibre[factor.fibre.index(name)], keys) for slot in factor.slots]
        if None in slots:
            return None
        position = factor.fibre.index(name)
        fibre, sizes = list(factor.fibre), list(factor.fibre_shape)
        del fibre[position], sizes[position]
        factors.append(
            replace(factor, slots=tuple(slots), fibre=tuple(fibre), fibre_shape=tuple(sizes), certificate=None)
        )
    shapes = {piece: _piece_shape(group.sites[place.site], place) for piece, place in pieces.items()}
    size = inner[0].fibre_shape[inner[0].fibre.index(name)]
    return Wreath(name, size, permutation, inner, pieces, SymmetryGroup(shapes, tuple(factors)))


def _bare(slot: Slot) -> Slot:
    return replace(slot, exponent=1, fibre=())


def _piece_shape(shape: tuple[int, ...], place: Slot) -> tuple[int, ...]:
    return tuple(place.outer * place.stride if axis == place.axis else size for axis, size in enumerate(shape))


def _of_member(slot: Slot, place: Slot, keys: Mapping[Slot, str]) -> Slot | None:
    """The slot within the piece of one member at ``place``; None where it covers another stretch of the axis."""
    fibre = [_of_member(other, place, keys) for other in slot.fibre if _bare(other) != _bare(place)]
    if None in fibre:
        return None
    inside = replace(slot, site=keys[_bare(place)], fibre=tuple(fibre))
    if slot.axis != place.axis:
        return inside
    if (slot.offset, slot.length) != (place.offset, place.length):
        return None
    stride = slot.stride if slot.stride < place.stride else slot.stride // place.size
    return replace(inside, offset=0, stride=stride, outer=place.outer * place.stride // (slot.size * stride))


def _cut(array: np.ndarray, place: Slot, shape: tuple[int, ...]) -> np.ndarray:
    """The members of a class one behind the other, ``(..., member, *piece)``."""
    assert place.axis is not None  # fibres are axes
    lead = array.ndim - len(shape)
    axis = lead + place.axis
    inside = array[(*[slice(None)] * axis, slice(place.offset, place.offset + place.length))]
    split = inside.reshape(*inside.shape[:axis], place.outer, place.size, place.stride, *inside.shape[axis + 1 :])
    members = np.moveaxis(split, axis + 1, lead)
    return members.reshape(*array.shape[:lead], place.size, *_piece_shape(shape, place))


def _assign(wreath: Wreath, scores: np.ndarray) -> np.ndarray:
    """For every draw the member of the weights that goes to each member, ``(draw, member)``."""
    members = np.arange(wreath.size)
    partner = np.tile(members, (len(scores), 1))
    if wreath.permutation is None:
        return partner
    colours = np.zeros(wreath.size, int) if wreath.permutation.colours is None else wreath.permutation.colours
    for colour in np.unique(colours):
        block = np.flatnonzero(np.asarray(colours) == colour)
        squares = scores[:, block[:, None], block]
        partner[:, block] = block[np.array([linear_sum_assignment(each, maximize=True)[1] for each in squares])]
    return partner


def _of_partner(wreath: Wreath, factor: Factor, values: np.ndarray, partner: np.ndarray) -> np.ndarray:
    """From the values for all pairs those of the pairs that were chosen."""
    of_pairs = values.reshape(len(partner), wreath.size, -1, *values.shape[1:])
    chosen = partner if wreath.permutation else np.zeros_like(partner)
    picked = of_pairs[np.arange(len(partner))[:, None], np.arange(wreath.size), chosen]
    return np.moveaxis(picked, 1, 1 + factor.fibre.index(wreath.name))
