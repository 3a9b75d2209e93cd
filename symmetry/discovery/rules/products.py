"""Sums of products over shared dimensions."""

from __future__ import annotations

from ..axes import unify
from ..characters import WILDCARD, Character, System
from ..program import Equation
from .registry import Dims, axis_rule, character_rule, keys_of, move


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
