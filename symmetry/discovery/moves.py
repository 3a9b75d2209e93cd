"""Where a part of an array comes from: how slices are written in jaxprs, and what they can be moved in front of."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from .numeric import ELEMENTWISE
from .program import ELEMENT, Equation, Value
from .rules.elementwise import WITHOUT_VALUES
from .rules.indexing import SCATTERS
from .rules.shapes import runs

# (dimension, first position, number of positions)
type Cut = tuple[int, int, int]


def cuts_of(equation: Equation) -> list[list[Cut]] | None:
    """What each output cuts out of the first input, at positions that are known; None for anything else."""
    return CUTS[equation.primitive](equation) if equation.primitive in CUTS else None


def _cuts_of_slice(equation: Equation) -> list[list[Cut]] | None:
    starts, limits = equation.params["start_indices"], equation.params["limit_indices"]
    if any(stride != 1 for stride in equation.params["strides"] or ()):
        return None
    return [[(dim, start, limit - start) for dim, (start, limit) in enumerate(zip(starts, limits, strict=True))]]


def _cuts_of_split(equation: Equation) -> list[list[Cut]]:
    sizes = equation.params["sizes"]
    return [[(equation.params["axis"], sum(sizes[:number]), size)] for number, size in enumerate(sizes)]


def _cuts_of_unstack(equation: Equation) -> list[list[Cut]]:
    return [[(equation.params["axis"], number, 1)] for number in range(len(equation.outputs))]


def _cuts_of_dynamic_slice(equation: Equation) -> list[list[Cut]] | None:
    x, *starts = equation.inputs
    cuts = _known_cuts(x.shape, starts, equation.params["slice_sizes"])
    return None if cuts is None else [cuts]


def _known_cuts(shape: Sequence[int], starts: Sequence[Value], sizes: Sequence[int]) -> list[Cut] | None:
    """Where a window begins whose starts are scalars; None where one of them is not known."""
    cuts = []
    for dim, (start, size) in enumerate(zip(starts, sizes, strict=True)):
        if size == shape[dim]:
            continue
        if start.constant is None:
            return None
        # As JAX does, move a window that would reach over the end.
        cuts.append((dim, int(np.clip(start.constant, 0, shape[dim] - size)), size))
    return cuts


def _cuts_of_gather(equation: Equation) -> list[list[Cut]] | None:
    """One index, known and inside: a slice whose dimensions of length one may be gone."""
    (x, indices), params = equation.inputs, equation.params
    dims, sizes = params["dimension_numbers"].start_index_map, params["slice_sizes"]
    cuts = _named_cuts(x.shape, indices, dims, [sizes[dim] for dim in dims])
    whole = all(
        size == length for dim, (size, length) in enumerate(zip(sizes, x.shape, strict=True)) if dim not in dims
    )
    return [cuts] if cuts is not None and whole else None


def _named_cuts(shape: Sequence[int], indices: Value, dims: Sequence[int], sizes: Sequence[int]) -> list[Cut] | None:
    """Where a window begins whose starts in ``dims`` are one index vector; None where it is unknown or outside."""
    if indices.constant is None or indices.constant.size != len(dims):
        return None
    cuts = list(zip(dims, map(int, indices.constant.reshape(-1)), sizes, strict=True))
    return cuts if all(0 <= start <= shape[dim] - size for dim, start, size in cuts) else None


def update_of(equation: Equation) -> tuple[list[Cut], str | None] | None:
    """The part that an equation updates at known positions, and what the new entries are combined with the old by."""
    x, *rest = equation.inputs or (None,)
    if equation.primitive == "dynamic_update_slice" and x is not None:
        cuts = _known_cuts(x.shape, rest[1:], rest[0].shape)
        return None if cuts is None else (cuts, None)
    if equation.primitive not in SCATTERS or x is None:
        return None
    indices, updates = rest
    numbers = equation.params["dimension_numbers"]
    gone = (*numbers.inserted_window_dims, *numbers.operand_batching_dims)
    kept = [dim for dim in range(len(x.shape)) if dim not in gone]
    sizes = {dim: updates.shape[window] for dim, window in zip(kept, numbers.update_window_dims, strict=True)}
    dims = numbers.scatter_dims_to_operand_dims
    cuts = _named_cuts(x.shape, indices, dims, [sizes.get(dim, 1) for dim in dims])
    whole = all(sizes.get(dim, 1) == length for dim, length in enumerate(x.shape) if dim not in dims)
    return (cuts, SCATTERS[equation.primitive]) if cuts is not None and whole else None


CUTS: Mapping[str, Callable[[Equation], list[list[Cut]] | None]] = {
    "slice": _cuts_of_slice,
    "split": _cuts_of_split,
    "unstack": _cuts_of_unstack,
    "dynamic_slice": _cuts_of_dynamic_slice,
    "gather": _cuts_of_gather,
}
RESHAPES = ("reshape", "squeeze")


def _run(equation: Equation, dim: int) -> tuple[list[int], list[int]]:
    """The run of a reshape that holds a dimension of its output, without dimensions of length one."""
    before, after = equation.inputs[0].shape, equation.outputs[0].shape
    sources, targets = next(run for run in runs(before, after) if dim in run[1])
    return [source for source in sources if before[source] > 1], [target for target in targets if after[target] > 1]


def split_off(equation: Equation, dim: int) -> tuple[tuple[int, ...], int] | None:
    """For a dimension with others of its run behind it: the shape with these merged into it, and its place there."""
    before, after = equation.inputs[0].shape, equation.outputs[0].shape
    sources, targets = _run(equation, dim)
    if dim not in targets or targets[-1] == dim:
        return None
    lead = [after[target] for target in targets if target < dim]
    merged = math.prod(after[target] for target in targets if target >= dim)
    return (*before[: sources[0]], *lead, merged, *before[sources[-1] + 1 :]), sources[0] + len(lead)


def operand_dims(equation: Equation, dim: int) -> Sequence[int | None] | None:
    """For each operand the dimension that ``dim`` of the output comes from; None where a slice cannot be moved."""
    if equation.primitive in ELEMENTWISE or equation.primitive in WITHOUT_VALUES:
        (output,) = equation.outputs
        return [dim if x.shape and x.shape[dim] == output.shape[dim] else None for x in equation.inputs]
    return MOVES[equation.primitive](equation, dim) if equation.primitive in MOVES else None


def _dims_of_reshape(equation: Equation, dim: int) -> list[int | None] | None:
    """The dimension itself, or the first of those merged into it."""
    sources, targets = _run(equation, dim)
    return [sources[0], *(None for _ in equation.inputs[1:])] if targets == [dim] else None


def _dims_of_broadcast(equation: Equation, dim: int) -> list[int | None]:
    places = equation.params["broadcast_dimensions"]
    source = places.index(dim) if dim in places else None
    stretched = source is not None and equation.inputs[0].shape[source] != equation.outputs[0].shape[dim]
    return [None if stretched else source, *(None for _ in equation.inputs[1:])]


def _dims_of_dot(equation: Equation, dim: int) -> list[int | None]:
    (contract_left, contract_right), (batch_left, batch_right) = equation.params["dimension_numbers"]
    if dim < len(batch_left):
        return [batch_left[dim], batch_right[dim]]
    left, right = (range(len(value.shape)) for value in equation.inputs)
    free_left = [number for number in left if number not in (*contract_left, *batch_left)]
    free_right = [number for number in right if number not in (*contract_right, *batch_right)]
    free = [(number, None) for number in free_left] + [(None, number) for number in free_right]
    return list(free[dim - len(batch_left)])


def _dims_of_reduction(equation: Equation, dim: int) -> list[int | None]:
    rank = range(len(equation.inputs[0].shape))
    return [[number for number in rank if number not in equation.params["axes"]][dim]]


def _dims_of_slice(equation: Equation, dim: int) -> list[int | None] | None:
    return [dim] if _cuts_of_slice(equation) else None


MOVES: Mapping[str, Callable[[Equation, int], Sequence[int | None] | None]] = {
    **dict.fromkeys(RESHAPES, _dims_of_reshape),
    **dict.fromkeys(("reduce_sum", "reduce_max", "reduce_min"), _dims_of_reduction),
    "broadcast_in_dim": _dims_of_broadcast,
    "dot_general": _dims_of_dot,
    "slice": _dims_of_slice,
    "transpose": lambda equation, dim: [equation.params["permutation"][dim]],
    ELEMENT: lambda equation, dim: [dim + 1, *(None for _ in equation.inputs[1:])],
}
