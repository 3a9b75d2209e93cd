"""Primitives that pick positions by an index: gather and dynamic slices."""

from __future__ import annotations

from ..axes import Axis, atom, pin, unify
from ..characters import INVARIANT, WILDCARD, Character, System
from ..program import Equation
from .registry import Dims, axis_rule, character_rule, keys_of, move

NAMED = "position named by an index"


@axis_rule("gather")
def gather(equation: Equation, operand: Dims, indices: Dims) -> list[Dims]:
    """``y[b, j] = x[b, index[b], j]``: whole slices j pass, b is unified, what an index points into is pinned."""
    batch, offsets = _dimensions(equation)
    numbers = equation.params["dimension_numbers"]
    whole = set(offsets.values())
    for dim, axis in enumerate(operand):
        if dim not in whole and dim not in numbers.operand_batching_dims:
            pin(axis, NAMED)
    axes: list[Axis] = [atom(size) for size in equation.outputs[0].shape]
    for output, dim in offsets.items():
        axes[output] = operand[dim]
    for output, dim in batch.items():
        axes[output] = indices[dim]
    for dim, other in zip(numbers.operand_batching_dims, numbers.start_indices_batching_dims, strict=True):
        unify(operand[dim], indices[other])
    for output, axis in enumerate(axes):
        if output not in batch and output not in offsets:
            pin(axis, NAMED)
    return [tuple(axes)]


@character_rule("gather")
def gather_characters(equation: Equation, system: System, x: Character, indices: Character) -> list[Character]:
    """``y[b, j] = x[b, index[b], j]``: ``e_index = 0``; ``e_x = 0`` where an index points; b and j pass."""
    system.zero(indices)
    if x is WILDCARD:
        return [WILDCARD]
    batch, offsets = _dimensions(equation)
    numbers = equation.params["dimension_numbers"]
    moved = {dim: output for output, dim in offsets.items()}
    for dim, other in zip(numbers.operand_batching_dims, numbers.start_indices_batching_dims, strict=True):
        moved[dim] = next(output for output, index_dim in batch.items() if index_dim == other)
    indexed = set(range(len(equation.inputs[0].shape))) - set(moved)
    system.zero(x, keys_of(x, indexed))
    return [move(x, moved)]


@axis_rule("dynamic_slice")
def dynamic_slice(equation: Equation, operand: Dims, *starts: Dims) -> list[Dims]:
    """``y = x[start:start + size]`` with a computed start: whole dimensions pass, the others are pinned."""
    del starts
    axes = []
    for axis, size in zip(operand, equation.params["slice_sizes"], strict=True):
        if size == axis.size:
            axes.append(axis)
        else:
            pin(axis, NAMED)
            axes.append(pin(atom(size), NAMED))
    return [tuple(axes)]


@character_rule("dynamic_slice")
def dynamic_slice_characters(equation: Equation, system: System, x: Character, *starts: Character) -> list[Character]:
    """``y = x[start:start + size]`` with a computed start: ``e_start = 0``, and ``e_x = 0`` where it cuts."""
    for start in starts:
        system.zero(start)
    sizes = zip(equation.params["slice_sizes"], equation.inputs[0].shape, strict=True)
    whole = {dim: dim for dim, (size, length) in enumerate(sizes) if size == length}
    system.zero(x, keys_of(x, set(range(len(equation.inputs[0].shape))) - set(whole)))
    return [move(x, whole)]


# Primitives that write, add, .. updates at positions named by indices -> what old and new entries are combined by.
SCATTERS = {
    "scatter": None,
    "scatter-add": "add",
    "scatter-max": "max",
    "scatter-min": "min",
    "scatter-mul": "mul",
    "scatter-sub": "sub",
}


@axis_rule(*SCATTERS)
def scatter(equation: Equation, operand: Dims, indices: Dims, updates: Dims) -> list[Dims]:
    """``y[b, i, j] = x[b, i, j] + sum_{n: index[b, n] = i} u[b, n, j]``: unify j, b and n each, pin i; y[i] is another.

    Written entries, unlike added ones, depend on the order n, which is pinned.
    """
    whole, batch, numbers = _scattered(equation)
    for dim, update in whole.items():
        unify(operand[dim], updates[update])
    for update, dim in numbers.items():
        axis = unify(updates[update], indices[dim])
        if equation.primitive == "scatter" and update not in batch.values():
            pin(axis, NAMED)
    for dim, update in batch.items():
        unify(operand[dim], updates[update])
    passing = {*whole, *batch}
    for update, axis in enumerate(updates):
        if update not in (*whole.values(), *numbers):
            pin(axis, NAMED)
    for dim, axis in enumerate(operand):
        if dim not in passing:
            pin(axis, NAMED)
    return [tuple(axis if dim in passing else pin(atom(axis.size), NAMED) for dim, axis in enumerate(operand))]


@character_rule(*SCATTERS)
def scatter_characters(
    equation: Equation, system: System, x: Character, indices: Character, updates: Character
) -> list[Character]:
    """``y[b, i, j] = x[b, i, j] + u[b, n, j]``: ``e_index = 0``, ``e_x = e_u`` for b and j, zero for i and n.

    A product instead of the sum, or a maximum under a change of sign: ``e_u = 0``.
    """
    system.zero(indices)
    whole, batch, _ = _scattered(equation)
    passing = whole | batch
    system.zero(x, keys_of(x, set(range(len(equation.inputs[0].shape))) - set(passing)))
    system.zero(updates, keys_of(updates, set(range(len(equation.inputs[2].shape))) - set(passing.values())))
    x = move(x, {dim: dim for dim in passing})
    updates = move(updates, {update: dim for dim, update in passing.items()})
    if equation.primitive == "scatter-mul" or (equation.primitive in ("scatter-max", "scatter-min") and _flips(system)):
        system.zero(updates)
        return [x]
    return [system.equal(x, updates)]


@axis_rule("dynamic_update_slice")
def dynamic_update_slice(equation: Equation, operand: Dims, update: Dims, *starts: Dims) -> list[Dims]:
    """``y = x``, then ``y[start:start + size] = u``: unify whole dimensions, pin the others; those of y are new."""
    del equation, starts
    axes = []
    for axis, new in zip(operand, update, strict=True):
        if axis.size == new.size:
            axes.append(unify(axis, new))
        else:
            pin(axis, NAMED)
            pin(new, NAMED)
            axes.append(pin(atom(axis.size), NAMED))
    return [tuple(axes)]


@character_rule("dynamic_update_slice")
def dynamic_update_characters(
    equation: Equation, system: System, x: Character, update: Character, *starts: Character
) -> list[Character]:
    """``y = x``, then ``y[start:start + size] = u``: ``e_start = 0``, ``e_x = e_u``, zero where u is not whole."""
    for start in starts:
        system.zero(start)
    shapes = enumerate(zip(equation.inputs[0].shape, equation.inputs[1].shape, strict=True))
    whole = {dim: dim for dim, (length, size) in shapes if length == size}
    cut = set(range(len(equation.inputs[0].shape))) - set(whole)
    for value in (x, update):
        system.zero(value, keys_of(value, cut))
    return [system.equal(move(x, whole), move(update, whole))]


@axis_rule("top_k")
def top_k(equation: Equation, operand: Dims) -> list[Dims]:
    """``y[r] = x[i[r]]``, the r-th largest entry and its position: the dimension is pinned, the others pass."""
    dim = equation.params["axis"]
    pin(operand[dim], "position returned by top_k")
    ranks = [pin(atom(output.shape[dim]), "rank in top_k") for output in equation.outputs]
    return [(*operand[:dim], axis, *operand[dim + 1 :]) for axis in ranks]


@character_rule("top_k")
def top_k_characters(equation: Equation, system: System, x: Character) -> list[Character]:
    """``y[r] = x[i[r]]``: scale ``e_y = e_x``, zero along the dimension; ``e_i = 0``; sign ``e_x = 0``."""
    dim = equation.params["axis"]
    system.zero(x, None if _flips(system) else keys_of(x, {dim}))
    values = INVARIANT if _flips(system) else move(x, {d: d for d in range(len(equation.inputs[0].shape)) if d != dim})
    return [values, INVARIANT]


def _flips(system: System) -> bool:
    """Whether the system's symmetries turn an order around."""
    return system.kind == "sign"


def _scattered(equation: Equation) -> tuple[dict[int, int], dict[int, int], dict[int, int]]:
    """Operand to update dimension where they are whole, and where they are batched; update to index dimension."""
    numbers = equation.params["dimension_numbers"]
    shape, updates = equation.inputs[0].shape, equation.inputs[2].shape
    gone = (*numbers.inserted_window_dims, *numbers.operand_batching_dims)
    kept = [dim for dim in range(len(shape)) if dim not in gone]
    pairs = zip(kept, numbers.update_window_dims, strict=True)
    indexed = numbers.scatter_dims_to_operand_dims
    whole = {dim: window for dim, window in pairs if shape[dim] == updates[window] and dim not in indexed}
    named = [dim for dim in range(len(updates)) if dim not in numbers.update_window_dims]
    places = dict(enumerate(named))
    pairs = zip(numbers.operand_batching_dims, numbers.scatter_indices_batching_dims, strict=True)
    return whole, {dim: places[index] for dim, index in pairs}, {update: index for index, update in places.items()}


def _dimensions(equation: Equation) -> tuple[dict[int, int], dict[int, int]]:
    """Output dimension to index dimension, and output dimension to the operand dimension that is taken whole."""
    numbers, sizes = equation.params["dimension_numbers"], equation.params["slice_sizes"]
    shape, rank = equation.inputs[0].shape, len(equation.outputs[0].shape)
    batch = [dim for dim in range(rank) if dim not in numbers.offset_dims]
    gone = (*numbers.collapsed_slice_dims, *numbers.operand_batching_dims)
    kept = [dim for dim in range(len(shape)) if dim not in gone]
    pairs = zip(numbers.offset_dims, kept, strict=True)
    whole = {output: dim for output, dim in pairs if sizes[dim] == shape[dim] and dim not in numbers.start_index_map}
    return {output: dim for dim, output in enumerate(batch)}, whole
