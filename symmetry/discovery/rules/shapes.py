"""Primitives that only rearrange entries: broadcasting, reshaping, slicing, concatenation."""

from __future__ import annotations

import math
from collections.abc import Sequence

from ..axes import Axis, Occurrence, atom, concatenation, occurrences, pin, product, segments, unify
from ..characters import INVARIANT, WILDCARD, Character, Form, Key, System
from ..program import Equation
from .registry import Dims, axis_rule, character_rule, keys_of, move


@axis_rule("broadcast_in_dim")
def broadcast(equation: Equation, operand: Dims, *sizes: Dims) -> list[Dims]:
    """``y[i, j] = x[i]``: i passes, j is a new axis without constraint."""
    del sizes
    axes = [atom(size) for size in equation.outputs[0].shape]
    for source, target in enumerate(equation.params["broadcast_dimensions"]):
        if operand[source].size == axes[target].size:
            axes[target] = operand[source]
    return [tuple(axes)]


@character_rule("broadcast_in_dim")
def broadcast_characters(equation: Equation, system: System, x: Character, *sizes: Character) -> list[Character]:
    """``y[i, j] = x[i]``: ``e_y[i] = e_x[i]``, ``e_y[j] = 0``."""
    del system, sizes
    return [move(x, dict(enumerate(equation.params["broadcast_dimensions"])))]


@axis_rule("transpose")
def transpose(equation: Equation, operand: Dims) -> list[Dims]:
    """``y[j, i] = x[i, j]``."""
    return [tuple(operand[dim] for dim in equation.params["permutation"])]


@character_rule("transpose")
def transpose_characters(equation: Equation, system: System, x: Character) -> list[Character]:
    """``y[j, i] = x[i, j]``."""
    del system
    return [move(x, {old: new for new, old in enumerate(equation.params["permutation"])})]


@axis_rule("reshape", "squeeze", "expand_dims")
def reshape(equation: Equation, operand: Dims, *sizes: Dims) -> list[Dims]:
    """Fold ``y[i, j] = x[k]``: runs of dimensions of equal total length have one row-major product."""
    del sizes
    axes: list[Axis] = []
    for sources, targets in runs(equation.inputs[0].shape, equation.outputs[0].shape):
        merged = product(operand[dim] for dim in sources)
        if len(targets) == 1:
            axes.append(merged)
            continue
        fresh = [atom(equation.outputs[0].shape[dim]) for dim in targets]
        if merged.size > 1:
            unify(product(fresh), merged)
        axes.extend(fresh)
    return [tuple(axes)]


@character_rule("reshape", "squeeze", "expand_dims")
def reshape_characters(equation: Equation, system: System, x: Character, *sizes: Character) -> list[Character]:
    """Fold ``y[i, j] = x[k]``: atoms keep their exponents in row-major order; zero where the trees do not agree."""
    del sizes
    if x is WILDCARD:
        return [WILDCARD]
    before, after = system.slots(equation.inputs[0]), system.slots(equation.outputs[0])
    y: dict[Key, Form] = {None: x.get(None, {})}
    for sources, targets in runs(equation.inputs[0].shape, equation.outputs[0].shape):
        old = [((dim, number), axis) for dim in sources for number, axis in enumerate(before[dim])]
        new = [((dim, number), axis) for dim in targets for number, axis in enumerate(after[dim])]
        if [axis for _, axis in old] == [axis for _, axis in new]:
            y |= {target: x.get(source, {}) for (source, _), (target, _) in zip(old, new, strict=True)}
        else:
            system.zero(x, [key for key, _ in old])
    return [y]


@axis_rule("slice")
def slice_(equation: Equation, operand: Dims) -> list[Dims]:
    """``y = x[start:limit:stride]``: a segment of a sum, or every ``stride``-th entry of a product."""
    params = equation.params
    strides = params["strides"] or (1,) * len(operand)
    ranges = zip(params["start_indices"], params["limit_indices"], strides, strict=True)
    return [tuple(_part(axis, *each) for axis, each in zip(operand, ranges, strict=True))]


@character_rule("slice")
def slice_characters(equation: Equation, system: System, x: Character) -> list[Character]:
    """``y = x[start:limit:stride]``: atoms inside keep their exponents; ``e = 0`` for those whose members are left."""
    if x is WILDCARD:
        return [WILDCARD]
    (source,), (target,) = equation.inputs, equation.outputs
    starts, strides = equation.params["start_indices"], equation.params["strides"] or (1,) * len(target.shape)
    y: dict[Key, Form] = {None: x.get(None, {})}
    for dim, (start, size, stride) in enumerate(zip(starts, target.shape, strides, strict=True)):
        found, new = occurrences(system.axes[source][dim]), system.slots(target)[dim]
        if stride == 1:
            inside = _inside(found, start, start + size)
        else:
            inside = [number for number, one in enumerate(found) if one.stride % stride == 0]
            system.zero(x, [(dim, number) for number in range(len(found)) if number not in inside])
        if [found[number].atom for number in inside] == list(new):
            y |= {(dim, place): x.get((dim, number), {}) for place, number in enumerate(inside)}
        else:
            system.zero(x, keys_of(x, {dim}))
    return [y]


@axis_rule("concatenate")
def concatenate(equation: Equation, *operands: Dims) -> list[Dims]:
    """``y = [a, b, ..]``: the sum of the axes in that dimension, the others are unified."""
    dim = equation.params["dimension"]
    axes = [unify(*column) if number != dim else None for number, column in enumerate(zip(*operands, strict=True))]
    joined = concatenation(dims[dim] for dims in operands)
    return [tuple(joined if axis is None else axis for axis in axes)]


@character_rule("concatenate")
def concatenate_characters(equation: Equation, system: System, *operands: Character) -> list[Character]:
    """``y = [a, b, ..]``: each segment keeps its exponents, everything else must agree."""
    dim = equation.params["dimension"]
    common = system.equal(*(_without(operand, dim) for operand in operands))
    if common is WILDCARD:
        return [WILDCARD]
    y, start = dict(common), 0
    for value, operand in zip(equation.inputs, operands, strict=True):
        for _, number in keys_of(operand, {dim}):
            y[dim, start + number] = operand[dim, number]
        start += len(system.slots(value)[dim])
    return [y]


@axis_rule("stack")
def stack(equation: Equation, *operands: Dims) -> list[Dims]:
    """``y[k, i] = x_k[i]``: i is unified over the operands, the positions k are told apart as in ``concatenate``."""
    axes = [unify(*column) for column in zip(*operands, strict=True)]
    axes.insert(equation.params["axis"], concatenation(atom(1) for _ in operands))
    return [tuple(axes)]


@character_rule("stack")
def stack_characters(equation: Equation, system: System, *operands: Character) -> list[Character]:
    """``y[k, i] = x_k[i]``: ``e_x_k[i] = e_y[i]`` for all k, ``e_y[k] = 0``."""
    new = equation.params["axis"]
    common = system.equal(*operands)
    return [move(common, {dim: dim + (dim >= new) for dim in range(len(equation.inputs[0].shape))})]


@axis_rule("pad")
def pad(equation: Equation, operand: Dims, padding: Dims) -> list[Dims]:
    """``y = [c, .., c, x, c, .., c]``: a sum whose outer segments are constant; interior padding and cropping pin."""
    del padding
    axes = []
    for axis, (low, high, interior) in zip(operand, equation.params["padding_config"], strict=True):
        if interior or low < 0 or high < 0:
            pin(axis, "interior or negative padding")
            size = low + axis.size + max(axis.size - 1, 0) * interior + high
            axes.append(pin(atom(size), "interior or negative padding"))
        else:
            axes.append(concatenation((atom(low), axis, atom(high))) if low or high else axis)
    return [tuple(axes)]


@character_rule("pad")
def pad_characters(equation: Equation, system: System, x: Character, padding: Character) -> list[Character]:
    """``y = [c, .., c, x, c, .., c]``: ``e_y = e_x``; zero, unless c is 0, and where positions do not stay together."""
    if padding is not WILDCARD and any(any(widths) for widths in equation.params["padding_config"]):
        system.zero(x)
        system.zero(padding)
        return [INVARIANT]
    if x is WILDCARD:
        return [WILDCARD]
    y: dict[Key, Form] = {None: x.get(None, {})}
    for dim, (low, high, interior) in enumerate(equation.params["padding_config"]):
        old, found = system.slots(equation.inputs[0])[dim], occurrences(system.axes[equation.outputs[0]][dim])
        inside = _inside(found, low, low + equation.inputs[0].shape[dim])
        if interior or low < 0 or high < 0 or [found[number].atom for number in inside] != list(old):
            system.zero(x, keys_of(x, {dim}))
        else:
            y |= {(dim, place): x.get((dim, number), {}) for number, place in enumerate(inside)}
    return [y]


@axis_rule("tile")
def tile(equation: Equation, operand: Dims) -> list[Dims]:
    """``y[r, i] = x[i]``: a product of a new axis without constraint and of i."""
    return [tuple(product((atom(size), axis)) for axis, size in zip(operand, equation.params["reps"], strict=True))]


@character_rule("tile")
def tile_characters(equation: Equation, system: System, x: Character) -> list[Character]:
    """``y[r, i] = x[i]``: ``e_y[i] = e_x[i]``, ``e_y[r] = 0``."""
    if x is WILDCARD:
        return [WILDCARD]
    y: dict[Key, Form] = {None: x.get(None, {})}
    slots = zip(system.slots(equation.inputs[0]), system.slots(equation.outputs[0]), strict=True)
    for dim, ((old, new), copies) in enumerate(zip(slots, equation.params["reps"], strict=True)):
        start = int(copies > 1)
        if new[start:] == old:
            y |= {(dim, start + number): x.get((dim, number), {}) for number in range(len(old))}
        else:
            system.zero(x, keys_of(x, {dim}))
    return [y]


def _without(character: Character, dim: int) -> Character:
    return (
        WILDCARD
        if character is WILDCARD
        else {key: form for key, form in character.items() if key is None or key[0] != dim}
    )


def runs(before: Sequence[int], after: Sequence[int]) -> list[tuple[list[int], list[int]]]:
    """The shortest runs of dimensions of ``before`` and ``after`` that hold equally many entries."""
    if 0 in before:
        return [(list(range(len(before))), list(range(len(after))))]
    runs: list[tuple[list[int], list[int]]] = []
    i = j = 0
    while i < len(before) or j < len(after):
        sources, targets = [], []
        while True:
            have, want = math.prod(before[k] for k in sources), math.prod(after[k] for k in targets)
            if have == want and (sources or targets):
                break
            if i < len(before) and (have <= want or j == len(after)):
                sources.append(i)
                i += 1
            else:
                targets.append(j)
                j += 1
        runs.append((sources, targets))
    return runs


def _inside(found: Sequence[Occurrence], start: int, limit: int) -> list[int]:
    """Numbers of the atoms that lie within a range of positions."""
    return [
        number
        for number, one in enumerate(found)
        if start <= one.offset and one.offset + one.outer * one.atom.size * one.stride <= limit
    ]


def _part(axis: Axis, start: int, limit: int, stride: int) -> Axis:
    """Every ``stride``-th position from ``start`` to ``limit``."""
    if stride == 1:
        parts = (start, limit - start, axis.size - limit)
        return axis if limit - start == axis.size else segments(axis, parts)[1]
    size = len(range(start, limit, stride))
    if size * stride == axis.size:
        taken = atom(size)
        unify(axis, product((taken, pin(atom(stride), "strided slice"))))
        return taken
    pin(axis, "strided slice")
    return pin(atom(size), "strided slice")
