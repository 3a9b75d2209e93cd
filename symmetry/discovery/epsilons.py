r"""Scales that hold but for a small constant: the weights in front of a normalisation.

``(x - mean) / sqrt(var + eps)`` does not change if x is multiplied by a positive number, were it not for ``eps``. Such
scales are found by the same analysis of the program with its small constants set to zero. They are no symmetries: they
are kept apart, with the deviation that was measured, and nothing ever moves weights by them.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from .numeric import is_uniform
from .program import Equation, Program, Value

LARGEST = 2e-3


def without_epsilons(program: Program) -> Program | None:
    """The program with small constants that are added, or are a lower bound, set to zero; None if it has none.

    Args:
        program: Without fused chains.
    """
    zeros: dict[Value, Value] = {}
    equations: list[Equation] = []
    for equation in program.equations:
        if equation.primitive in ("add", "max"):
            small = {value: _zero(value) for value in equation.inputs if _is_epsilon(value)}
            zeros |= small
            inputs = tuple(small.get(value, value) for value in equation.inputs)
            equation = dataclasses.replace(equation, inputs=inputs)
        equations.append(equation)
    return program.replace_equations(equations) if zeros else None


def _is_epsilon(value: Value) -> bool:
    constant = value.constant
    if constant is None or constant.dtype.kind != "f" or not is_uniform(constant):
        return False
    return 0 < float(constant.flat[0]) <= LARGEST


def _zero(value: Value) -> Value:
    return Value(value.shape, value.dtype, np.broadcast_to(np.float64(0.0), value.shape))
