"""Loops: what a value that is carried from step to step, an element and a stack of results hand on.

`program.flatten` inlines the body of a loop once, for all of its steps. If the start of a carried value and what the
body makes of it change alike, so do, by induction, the values at all steps; one value ``c`` stands for them.
"""

from __future__ import annotations

from ..axes import atom, pin, unify
from ..characters import INVARIANT, WILDCARD, Character, System
from ..program import CARRY, CLOCK, ELEMENT, STACK, STEP, Equation
from .registry import Dims, axis_rule, character_rule, keys_of, move

ORDER = "order of positions in scan"


@axis_rule(CLOCK)
def clock(equation: Equation) -> list[Dims]:
    """``t = 0, 1, ..``: the steps have an order, their dimension is pinned."""
    return [(pin(atom(equation.outputs[0].shape[0]), ORDER),)]


@character_rule(CLOCK)
def clock_characters(equation: Equation, system: System) -> list[Character]:
    """``t = 0, 1, ..``: ``e_t = 0``."""
    del equation, system
    return [INVARIANT]


@axis_rule(CARRY)
def carry(equation: Equation, start: Dims) -> list[Dims]:
    """``c[0] = start``: one and the same axes."""
    del equation
    return [start]


@character_rule(CARRY)
def carry_characters(equation: Equation, system: System, start: Character) -> list[Character]:
    """``c[0] = start``: ``e_c = e_start``; a start of zeros leaves ``e_c`` unknown."""
    return [system.leaf(CARRY, equation.outputs[0]) if start is WILDCARD else start]


@axis_rule(STEP)
def step(equation: Equation, carried: Dims, result: Dims, *condition: Dims) -> list[Dims]:
    """``c[t + 1] = result(c[t])``, while a scalar condition holds: carry in and carry out are unified."""
    del equation, condition
    return [tuple(unify(*column) for column in zip(carried, result, strict=True))]


@character_rule(STEP)
def step_characters(
    equation: Equation, system: System, carried: Character, result: Character, *condition: Character
) -> list[Character]:
    """``c[t + 1] = result(c[t])``: ``e_c = e_result``; ``e_condition = 0``."""
    del equation
    for truth in condition:
        system.zero(truth)
    return [system.equal(carried, result)]


@axis_rule(ELEMENT)
def element(equation: Equation, xs: Dims, steps: Dims) -> list[Dims]:
    """``x = xs[t]``: the dimension of the steps is that of the clock, and goes."""
    del equation
    unify(xs[0], *steps)
    return [xs[1:]]


@character_rule(ELEMENT)
def element_characters(equation: Equation, system: System, xs: Character, steps: Character) -> list[Character]:
    """``x = xs[t]``: ``e_xs[t] = 0``, for a body is the same at all steps; the rest passes."""
    del steps
    system.zero(xs, keys_of(xs, {0}))
    return [move(xs, {dim: dim - 1 for dim in range(1, len(equation.inputs[0].shape))})]


@axis_rule(STACK)
def stack(equation: Equation, y: Dims, steps: Dims) -> list[Dims]:
    """``ys[t] = y``: the dimension of the steps is that of the clock."""
    del equation
    return [(*steps, *y)]


@character_rule(STACK)
def stack_characters(equation: Equation, system: System, y: Character, steps: Character) -> list[Character]:
    """``ys[t] = y``: ``e_ys[t] = 0``, the rest passes."""
    del system, steps
    return [move(y, {dim: dim + 1 for dim in range(len(equation.inputs[0].shape))})]
