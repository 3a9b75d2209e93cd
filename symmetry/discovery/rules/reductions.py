"""Primitives that run along dimensions: sums, maxima, cumulative sums, sorting."""

from __future__ import annotations

import math
from fractions import Fraction

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
    """``y[i] = sum_{k <= i} x[k]``: positions have an order, the dimension is pinned, and that of y is another."""
    params = equation.params
    axes = list(operand)
    for dim in params["dimensions"] if equation.primitive == "rev" else (params["axis"],):
        reason = f"order of positions in {equation.primitive}"
        pin(operand[dim], reason)
        axes[dim] = pin(atom(operand[dim].size), reason)
    return [tuple(axes)]


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


@character_rule("reduce_prod")
def product_of_all(equation: Equation, system: System, x: Character) -> list[Character]:
    """``y = prod_i x[i]`` of n entries: ``e_x[i] = 0`` along the dimension, ``e_y = n e_x`` for the rest."""
    number = math.prod(equation.inputs[0].shape[dim] for dim in equation.params["axes"])
    return [system.power(total(equation, system, x)[0], Fraction(number))]


@character_rule("argmax", "argmin")
def place_of_largest(equation: Equation, system: System, x: Character) -> list[Character]:
    """``y = argmax_i x[i]``: scale ``e_x[i] = 0`` along the dimension, sign ``e_x = 0``; ``e_y = 0``."""
    system.zero(x, keys_of(x, set(equation.params["axes"])) if system.kind == "scale" else None)
    return [INVARIANT]


@character_rule("sort", "cummax", "cummin")
def sorted_order(equation: Equation, system: System, *operands: Character) -> list[Character]:
    """``y[0] <= y[1] <= ..``: scale of a single key ``e_x[i] = 0`` along the dimension, else ``e_x = 0``."""
    dim = equation.params["dimension" if equation.primitive == "sort" else "axis"]
    if system.kind == "scale" and len(operands) == 1:
        return [_across(equation, system, operands[0], {dim})]
    for operand in operands:
        system.zero(operand)
    return [INVARIANT for _ in operands]


@character_rule("cumsum")
def cumulative(equation: Equation, system: System, x: Character) -> list[Character]:
    """``y[i] = sum_{k <= i} x[k]``: ``e_x[i] = 0`` along that dimension, the rest passes."""
    return [_across(equation, system, x, {equation.params["axis"]})]


@character_rule("rev")
def reversed_order(equation: Equation, system: System, x: Character) -> list[Character]:
    """``y[i] = x[n - 1 - i]``: ``e_x[i] = 0`` along that dimension, whose positions have changed, the rest passes."""
    return [_across(equation, system, x, set(equation.params["dimensions"]))]


def _across(equation: Equation, system: System, x: Character, dims: set[int]) -> Character:
    """Exponents across the dimensions along which entries meet or move; along them zero."""
    system.zero(x, keys_of(x, dims))
    return move(x, {dim: dim for dim in range(len(equation.inputs[0].shape)) if dim not in dims})


def _kept(equation: Equation) -> dict[int, int]:
    """Old to new numbers of the dimensions that a reduction leaves."""
    kept = [dim for dim in range(len(equation.inputs[0].shape)) if dim not in equation.params["axes"]]
    return {old: new for new, old in enumerate(kept)}
