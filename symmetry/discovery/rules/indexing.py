"""Primitives that pick positions by an index: gather and dynamic slices."""

from __future__ import annotations

from ..axes import Axis, atom, pin, unify
from ..characters import WILDCARD, Character, System
from ..program import Equation
from .registry import Dims, axis_rule, character_rule, keys_of, move


@axis_rule("gather")
def gather(equation: Equation, operand: Dims, indices: Dims) -> list[Dims]:
    """``y[b, j] = x[b, index[b], j]``: whole slices j pass, b is unified, what an index points into is pinned."""
    batch, offsets = _dimensions(equation)
    numbers = equation.params["dimension_numbers"]
    whole = set(offsets.values())
    for dim, axis in enumerate(operand):
        if dim not in whole and dim not in numbers.operand_batching_dims:
            pin(axis, "position named by an index")
    axes: list[Axis] = [atom(size) for size in equation.outputs[0].shape]
    for output, dim in offsets.items():
        axes[output] = operand[dim]
    for output, dim in batch.items():
        axes[output] = indices[dim]
    for dim, other in zip(numbers.operand_batching_dims, numbers.start_indices_batching_dims, strict=True):
        unify(operand[dim], indices[other])
    for output, axis in enumerate(axes):
        if output not in batch and output not in offsets:
            pin(axis, "position named by an index")
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
            pin(axis, "position named by an index")
            axes.append(pin(atom(size), "position named by an index"))
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
