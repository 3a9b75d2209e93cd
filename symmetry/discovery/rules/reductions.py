"""Primitives that run along dimensions: sums, maxima, cumulative sums, sorting."""

from __future__ import annotations

from ..axes import atom, pin, unify
from ..characters import INVARIANT, WILDCARD, Character, System
from ..program import Equation
from .registry import Dims, axis_rule, character_rule, keys_of, move


@axis_rule("reduce_sum", "reduce_prod", "reduce_max", "reduce_min", "reduce_and", "reduce_or", "reduce_xor")
def reduce(equation: Equation, operand: Dims) -> list[Dims]:
    """``y = sum_i x[.., i, ..]``: any order of ``i`` gives the same, the dimension goes."""
    return [tuple(axis for dim, axis in enumerate(operand) if dim not in equation.params["axes"])]


@axis_rule("argmax", "argmin")
def arg_extremum(equation: Equation, operand: Dims) -> list[Dims]:
    """``y = argmax_i x[.., i, ..]``: the answer names a position, the dimension is pinned."""
    for dim in equation.params["axes"]:
        pin(operand[dim], f"position returned by {equation.primitive}")
    return reduce(equation, operand)


@axis_rule("cumsum", "cumprod", "cummax", "cummin", "cumlogsumexp", "rev")
def ordered(equation: Equation, operand: Dims) -> list[Dims]:
    """``y[i] = sum_{k <= i} x[k]``: positions have an order, the dimension is pinned."""
    params = equation.params
    for dim in params["dimensions"] if equation.primitive == "rev" else (params["axis"],):
        pin(operand[dim], f"order of positions in {equation.primitive}")
    return [operand]


@axis_rule("sort")
def sort(equation: Equation, *operands: Dims) -> list[Dims]:
    """Order ``y[0] <= y[1] <= ..``: the positions of one key are exchangeable, those of its output are not.

    All operands move together in each of the other dimensions, so these are unified.
    """
    dim = equation.params["dimension"]
    for number, column in enumerate(zip(*operands, strict=True)):
        if number != dim:
            unify(*column)
    outputs = []
    for axes in operands:
        if len(operands) > 1:
            pin(axes[dim], "position carried by sort")
        outputs.append((*axes[:dim], pin(atom(axes[dim].size), "order of positions in sort"), *axes[dim + 1 :]))
    return outputs


@character_rule("reduce_sum")
def total(equation: Equation, system: System, x: Character) -> list[Character]:
    """``y = sum_i x[i]``: ``e_x[i] = 0`` along the summed dimension, the rest passes."""
    system.zero(x, keys_of(x, set(equation.params["axes"])))
    return [move(x, _kept(equation))]


@character_rule("reduce_max", "reduce_min")
def largest(equation: Equation, system: System, x: Character) -> list[Character]:
    """``y = max_i x[i]``: scale as for a sum; sign ``e_x = 0``."""
    if system.kind == "sign":
        system.zero(x)
        return [WILDCARD if x is WILDCARD else INVARIANT]
    return total(equation, system, x)


@character_rule("cumsum")
def cumulative(equation: Equation, system: System, x: Character) -> list[Character]:
    """``y[i] = sum_{k <= i} x[k]``: ``e_x[i] = 0`` along that dimension, the rest passes."""
    system.zero(x, keys_of(x, {equation.params["axis"]}))
    return [x]


@character_rule("rev")
def reversed_order(equation: Equation, system: System, x: Character) -> list[Character]:
    """``y[i] = x[n - 1 - i]``: ``e_x[i] = 0`` along that dimension, whose positions have changed, the rest passes."""
    system.zero(x, keys_of(x, set(equation.params["dimensions"])))
    return [x]


def _kept(equation: Equation) -> dict[int, int]:
    """Old to new numbers of the dimensions that a reduction leaves."""
    kept = [dim for dim in range(len(equation.inputs[0].shape)) if dim not in equation.params["axes"]]
    return {old: new for new, old in enumerate(kept)}
