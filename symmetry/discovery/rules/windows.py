"""Windows that slide over an image: convolutions and pooling.

A window tells the positions that it slides along apart, and those inside itself: both are pinned. One of a single entry
that visits every entry once is no window, and its dimension passes.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import replace

from ..axes import Axis, Occurrence, atom, occurrences, pin, product, unify
from ..characters import INVARIANT, WILDCARD, Character, Key, System
from ..program import Equation
from .registry import Dims, axis_rule, character_rule, keys_of, move

POSITION = "position in a window"
BATCH_GROUPS = "convolution with batch groups"


@axis_rule("conv_general_dilated")
def convolution(equation: Equation, image: Dims, kernel: Dims) -> list[Dims]:
    """``y[b, g o, p] = sum_{c, w} x[b, g c, p + w] k[g o, c, w]``: unify c with c and g with g, pin p and w; b, o pass.

    Features are products: of the groups g, and in each group of c that go in or of o that come out.
    """
    params = equation.params
    axes = [atom(size) for size in equation.outputs[0].shape]
    if params["batch_group_count"] > 1:
        for axis in (*image, *kernel, *axes):
            pin(axis, BATCH_GROUPS)
        return [tuple(axes)]
    numbers = params["dimension_numbers"]
    (batch, features, *space), (outer, inner, *window), (new_batch, new_features, *new_space) = numbers
    groups = params["feature_group_count"]
    group = atom(groups)
    unify(image[features], product((group, kernel[inner])))
    unify(kernel[outer], product((group, atom(kernel[outer].size // groups))))
    axes[new_batch], axes[new_features] = image[batch], kernel[outer]
    for dim in window:
        pin(kernel[dim], POSITION)
    for source, target, passes in zip(space, new_space, _passing(equation), strict=True):
        axes[target] = image[source] if passes else _slide(image[source], axes[target])
    return [tuple(axes)]


@character_rule("conv_general_dilated")
def convolution_characters(equation: Equation, system: System, image: Character, kernel: Character) -> list[Character]:
    """``y[b, g o, p] = sum_{c, w} x[b, g c, p + w] k[g o, c, w]``: ``e_x[c] + e_k[c] = 0``, ``e_x[p] = e_k[w] = 0``.

    Exponents of g add up, b and o pass.
    """
    if image is WILDCARD or kernel is WILDCARD:
        return [WILDCARD]
    if equation.params["batch_group_count"] > 1:
        system.zero(image)
        system.zero(kernel)
        return [INVARIANT]
    numbers = equation.params["dimension_numbers"]
    (batch, features, *space), (outer, inner, *_), (new_batch, new_features, *new_space) = numbers
    # What the output does not have is numbered behind its dimensions: first that of the image, then that of the kernel.
    rank = len(equation.outputs[0].shape)
    along = zip(space, new_space, _passing(equation), strict=True)
    passed = {source: target for source, target, passes in along if passes}
    to_image = {dim: rank + dim for dim in range(rank)} | {batch: new_batch} | passed
    to_kernel = {dim: 2 * rank + dim for dim in range(rank)} | {outer: new_features}
    shared = _shared_features(equation, system, (rank + features, 2 * rank + inner, new_features))
    moved = {shared.get(key, key): form for key, form in move(image, to_image).items()}
    joint = system.combine(moved, move(kernel, to_kernel))
    system.zero(joint, keys_of(joint, set(range(rank, 3 * rank))))
    return [move(joint, {dim: dim for dim in range(rank)})]


@axis_rule("reduce_window_sum", "reduce_window_max", "reduce_window_min")
def pool(equation: Equation, operand: Dims) -> list[Dims]:
    """``y[b, p] = sum_w x[b, p + w]``: pin p; b passes."""
    axes = []
    for axis, size, passes in zip(operand, equation.outputs[0].shape, _passing(equation), strict=True):
        axes.append(axis if passes else _slide(axis, atom(size)))
    return [tuple(axes)]


@character_rule("reduce_window_sum")
def window_total(equation: Equation, system: System, x: Character) -> list[Character]:
    """``y[b, p] = sum_w x[b, p + w]``: ``e_x[p] = 0``, b passes; what is padded is zero."""
    passing = {dim for dim, passes in enumerate(_passing(equation)) if passes}
    system.zero(x, keys_of(x, set(range(len(equation.inputs[0].shape))) - passing))
    return [move(x, {dim: dim for dim in passing})]


@character_rule("reduce_window_max", "reduce_window_min")
def window_extremum(equation: Equation, system: System, x: Character) -> list[Character]:
    """``y[b, p] = max_w x[b, p + w]``: scale as for a sum, what is padded is infinite; sign ``e_x = 0``."""
    if system.kind == "sign":
        system.zero(x)
        return [INVARIANT]
    return window_total(equation, system, x)


def _passing(equation: Equation) -> list[bool]:
    """For each spatial dimension whether the window visits its entries one by one, each once."""
    params = equation.params
    sizes: Iterable[int]
    if equation.primitive == "conv_general_dilated":
        sizes = (equation.inputs[1].shape[dim] for dim in params["dimension_numbers"].rhs_spec[2:])
        dilation = params["lhs_dilation"]
    else:
        sizes, dilation = params["window_dimensions"], params["base_dilation"]
    trivial = (1, 1, (0, 0), 1)
    return [each == trivial for each in zip(sizes, params["window_strides"], params["padding"], dilation, strict=True)]


def _slide(axis: Axis, positions: Axis) -> Axis:
    """Pin an axis that a window slides along; the positions of the window."""
    pin(axis, POSITION)
    return pin(positions, POSITION)


def _shared_features(equation: Equation, system: System, numbers: tuple[int, int, int]) -> dict[Key, Key]:
    """Keys of the image's features to those of the same axis: c in the kernel, g in the output.

    What is not found there, where the trees do not agree, is left out. ``numbers`` are those of the three dimensions.
    """
    image, kernel = equation.inputs
    (_, features, *_), (_, inner, *_), (_, new_features, *_) = equation.params["dimension_numbers"]
    groups, width = equation.params["feature_group_count"], kernel.shape[inner]
    block = equation.outputs[0].shape[new_features] // groups
    # Both in positions of the image: c repeats from group to group, g is a block of ``block`` features that come out.
    places: dict[Occurrence, Key] = {}
    for number, one in enumerate(occurrences(system.axes[kernel][inner])):
        if groups == 1 or one.outer * one.atom.size * one.stride == width:
            places[replace(one, outer=one.outer * groups)] = numbers[1], number
    for number, one in enumerate(occurrences(system.axes[equation.outputs[0]][new_features])):
        if math.gcd(one.offset, one.stride) % block == 0:
            offset, stride = (count // block * width for count in (one.offset, one.stride))
            places[replace(one, offset=offset, stride=stride)] = numbers[2], number
    found = occurrences(system.axes[image][features])
    return {(numbers[0], number): places[one] for number, one in enumerate(found) if one in places}
