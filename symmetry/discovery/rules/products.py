"""Sums of products over shared dimensions."""

from __future__ import annotations

from ..axes import atom, pin, unify
from ..characters import INVARIANT, WILDCARD, Character, System
from ..program import Equation
from .registry import Dims, axis_rule, character_rule, keys_of, move

RAGGED = "row in a group, or group"


@axis_rule("dot_general")
def dot_general(equation: Equation, left: Dims, right: Dims) -> list[Dims]:
    """``y[b, i, j] = sum_c l[b, i, c] r[b, c, j]``: unify c with c and b with b; i and j pass."""
    (contract_left, contract_right), (batch_left, batch_right) = equation.params["dimension_numbers"]
    for i, j in zip(contract_left, contract_right, strict=True):
        unify(left[i], right[j])
    batch = [unify(left[i], right[j]) for i, j in zip(batch_left, batch_right, strict=True)]
    free_left = [axis for dim, axis in enumerate(left) if dim not in (*contract_left, *batch_left)]
    free_right = [axis for dim, axis in enumerate(right) if dim not in (*contract_right, *batch_right)]
    return [(*batch, *free_left, *free_right)]


@character_rule("dot_general")
def dot_characters(equation: Equation, system: System, left: Character, right: Character) -> list[Character]:
    """``y[b, i, j] = sum_c l[b, i, c] r[b, c, j]``: ``e_l[c] + e_r[c] = 0``; exponents of b add up, i and j pass."""
    if left is WILDCARD or right is WILDCARD:
        return [WILDCARD]
    (contract_left, contract_right), (batch_left, batch_right) = equation.params["dimension_numbers"]
    rank_left, rank_right = (len(value.shape) for value in equation.inputs)
    free_left = [dim for dim in range(rank_left) if dim not in (*contract_left, *batch_left)]
    free_right = [dim for dim in range(rank_right) if dim not in (*contract_right, *batch_right)]
    # Number the contracted dimensions behind those of the output, in both operands alike.
    rank = len(batch_left) + len(free_left) + len(free_right)
    hidden = range(rank, rank + len(contract_left))
    start = len(batch_left)
    to_left = dict(
        zip((*batch_left, *free_left, *contract_left), (*range(start + len(free_left)), *hidden), strict=True)
    )
    after = range(start + len(free_left), rank)
    to_right = dict(zip((*batch_right, *free_right, *contract_right), (*range(start), *after, *hidden), strict=True))
    joint = system.combine(move(left, to_left), move(right, to_right))
    system.zero(joint, keys_of(joint, set(hidden)))
    return [move(joint, {dim: dim for dim in range(rank)})]


@axis_rule("ragged_dot_general")
def ragged_dot(equation: Equation, left: Dims, right: Dims, sizes: Dims) -> list[Dims]:
    """``y[m, j] = sum_c l[m, c] r[g(m), c, j]``, m in groups of given sizes: as ``dot_general``; pin m and g.

    Only rows in groups are known here; groups of what is summed over pin everything.
    """
    group = _group(equation)
    numbers = equation.params["ragged_dot_dimension_numbers"]
    if group is None:
        for axis in (*left, *right, *sizes):
            pin(axis, RAGGED)
        return [tuple(pin(atom(size), RAGGED) for size in equation.outputs[0].shape)]
    for axis in (*sizes, left[numbers.lhs_ragged_dimensions[0]], right[numbers.rhs_group_dimensions[0]]):
        pin(axis, RAGGED)
    (axes,) = dot_general(_with_groups(equation), left, right)
    return [(*axes[:group], *axes[group + 1 :])]


@character_rule("ragged_dot_general")
def ragged_dot_characters(
    equation: Equation, system: System, left: Character, right: Character, sizes: Character
) -> list[Character]:
    """``y[m, j] = sum_c l[m, c] r[g(m), c, j]``: as ``dot_general``; ``e_r[g] = 0``, and zero for the sizes."""
    system.zero(sizes)
    group = _group(equation)
    if group is None:
        system.zero(left)
        system.zero(right)
        return [INVARIANT]
    (joint,) = dot_characters(_with_groups(equation), system, left, right)
    system.zero(joint, keys_of(joint, {group}))
    rank = len(equation.outputs[0].shape) + 1
    return [move(joint, {dim: dim - (dim > group) for dim in range(rank) if dim != group})]


def _with_groups(equation: Equation) -> Equation:
    """The product with every group of every row."""
    numbers = equation.params["ragged_dot_dimension_numbers"].dot_dimension_numbers
    return Equation("dot_general", equation.inputs[:2], equation.outputs, {"dimension_numbers": numbers})


def _group(equation: Equation) -> int | None:
    """Where the groups would stand in an output that had them; None unless rows are in groups."""
    numbers = equation.params["ragged_dot_dimension_numbers"]
    (contract_left, contract_right), (batch_left, batch_right) = numbers.dot_dimension_numbers
    (row,) = numbers.lhs_ragged_dimensions
    if row in (*contract_left, *batch_left) or len(numbers.rhs_group_dimensions) != 1:
        return None
    free = [dim for dim in range(len(equation.inputs[1].shape)) if dim not in (*contract_right, *batch_right)]
    before = len(equation.inputs[0].shape) - len(contract_left)
    return before + free.index(numbers.rhs_group_dimensions[0])
