"""A flat, dead-code-free list of equations: what the rules of discovery read.

A jaxpr nests (``jit``, ``custom_jvp_call``, ``remat`` ...), mixes literals with variables and keeps code nobody uses.
Each of these would cost a special case in every rule, so they are met here, once: calls are inlined, constants are
values that know their array, equations on constants alone are evaluated, and what no output needs is dropped. The
drift of JAX's jaxprs is met in this file too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from jax.extend import core

from .numeric import compact, evaluate

# Call primitives to look through -> the parameter that holds their jaxpr.
CALLS = {
    "jit": "jaxpr",
    "pjit": "jaxpr",
    "closed_call": "call_jaxpr",
    "core_call": "call_jaxpr",
    "custom_jvp_call": "call_jaxpr",
    "custom_vjp_call": "call_jaxpr",
    "custom_vjp_call_jaxpr": "fun_jaxpr",
    "remat": "jaxpr",
    "remat2": "jaxpr",
    "checkpoint": "jaxpr",
}


@dataclass(eq=False, slots=True)
class Value:
    """An array of the program; ``constant`` holds its entries where they are known."""

    shape: tuple[int, ...]
    dtype: np.dtype
    constant: np.ndarray | None = None


@dataclass(eq=False, slots=True)
class Equation:
    """``outputs = primitive(inputs)``."""

    primitive: str
    inputs: tuple[Value, ...]
    outputs: tuple[Value, ...]
    params: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Program:
    """Equations in order, from the weights (``leaves``) and the ``data`` to the outputs.

    Args:
        leaves: Site name to the value of its weights.
        data: Description ("data of argument x") to value.
        equations: In order of evaluation.
        outputs: What must not change.
    """

    leaves: Mapping[str, Value]
    data: tuple[tuple[str, Value], ...]
    equations: tuple[Equation, ...]
    outputs: tuple[Value, ...]

    def replace_equations(self, equations: Sequence[Equation]) -> Program:
        """The same program with other equations, without those that no output needs."""
        live = set(self.outputs)
        kept = []
        for equation in reversed(equations):
            if live.intersection(equation.outputs):
                kept.append(equation)
                live.update(equation.inputs)
        return Program(self.leaves, self.data, tuple(reversed(kept)), self.outputs)

    def used(self, value: Value) -> bool:
        """Whether any equation or output reads the value."""
        return value in self.outputs or any(value in equation.inputs for equation in self.equations)


def flatten(closed: Any) -> tuple[tuple[Value, ...], tuple[Equation, ...], tuple[Value, ...]]:
    """Inputs, equations and outputs of what ``jax.make_jaxpr`` gives, calls inlined and constants folded."""
    inputs = tuple(_fresh(variable.aval) for variable in closed.jaxpr.invars)
    equations: list[Equation] = []
    outputs = _inline(closed.jaxpr, [_constant(value) for value in closed.consts], inputs, equations)
    return inputs, tuple(equations), outputs


def _inline(
    jaxpr: core.Jaxpr, constants: Sequence[Value], inputs: Sequence[Value], equations: list[Equation]
) -> tuple[Value, ...]:
    """Append the equations of ``jaxpr`` on ``inputs``; the outputs."""
    environment = dict(zip(jaxpr.constvars, constants, strict=True)) | dict(zip(jaxpr.invars, inputs, strict=True))

    def read(atom: Any) -> Value:
        return _constant(atom.val, np.shape(atom.val)) if isinstance(atom, core.Literal) else environment[atom]

    for equation in jaxpr.eqns:
        operands = tuple(read(atom) for atom in equation.invars)
        name = equation.primitive.name
        inner = equation.params.get(CALLS[name]) if name in CALLS else None
        if inner is not None:
            body = getattr(inner, "jaxpr", inner)
            results = _inline(body, [_constant(value) for value in getattr(inner, "consts", ())], operands, equations)
        else:
            params = {key: _plain(value) for key, value in equation.params.items()}
            results = tuple(_fresh(variable.aval) for variable in equation.outvars)
            if not _fold(name, operands, results, params):
                equations.append(Equation(name, operands, results, params))
        environment.update(zip(equation.outvars, results, strict=True))
    return tuple(read(atom) for atom in jaxpr.outvars)


def _fold(name: str, operands: Sequence[Value], results: Sequence[Value], params: Mapping[str, Any]) -> bool:
    """Evaluate an equation on constants alone; whether that was possible."""
    arrays = [operand.constant for operand in operands if operand.constant is not None]
    if len(arrays) < len(operands) or len(results) != 1:
        return False
    folded = evaluate(name, arrays, params, results[0].shape)
    results[0].constant = folded
    return folded is not None


def _plain(parameter: Any) -> Any:
    """Parameters with Python's own integers; JAX passes NumPy's on where a caller used them."""
    if type(parameter) is tuple:
        return tuple(_plain(entry) for entry in parameter)
    return int(parameter) if isinstance(parameter, np.integer) else parameter


def _fresh(aval: Any) -> Value:
    dtype = getattr(aval, "dtype", None)
    # Extended dtypes (random keys) carry no numbers that a weight could reach.
    return Value(
        tuple(map(int, getattr(aval, "shape", ()))), dtype if isinstance(dtype, np.dtype) else np.dtype(object)
    )


def _constant(value: Any, shape: tuple[int, ...] | None = None) -> Value:
    if isinstance(getattr(value, "dtype", np.dtype(float)), np.dtype):
        array = np.asarray(value)
        array = array if shape is None else np.broadcast_to(array, shape)
        return Value(array.shape, array.dtype, compact(array))
    return Value(tuple(value.shape), np.dtype(object))
