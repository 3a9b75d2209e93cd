"""A flat, dead-code-free list of equations: what the rules of discovery read.

A jaxpr nests (``jit``, ``custom_jvp_call``, ``remat`` ...), mixes literals with variables and keeps code nobody uses.
Each of these would cost a special case in every rule, so they are met here, once: calls are inlined, constants are
values that know their array, equations on constants alone are evaluated, and what no output needs is dropped. The
drift of JAX's jaxprs is met in this file too.

Loops are not unrolled, for what is looked for are laws that each step keeps:

    scan     t = loop_clock(), c = loop_carry(start), x = loop_element(xs, t), (c', y) = body(c, x)
             c = loop_step(c, c'), ys = loop_stack(y, t)
    while    c = loop_carry(start), c' = body(c), c = loop_step(c, c', condition(c))
    cond     y = select_n(which, branch_0(x), branch_1(x), ..)

A carried value has thus two equations, and one `Value` for its beginning, its course and its end.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
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
# The primitives of this module's own that loops are written in; their rules are in `rules.control`.
CLOCK, CARRY, ELEMENT, STACK, STEP = "loop_clock", "loop_carry", "loop_element", "loop_stack", "loop_step"


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
        live, seen = set(self.outputs), -1
        # A carried value needs what comes after it in the list, so one round is not enough.
        while len(live) > seen:
            seen = len(live)
            for equation in reversed(equations):
                if live.intersection(equation.outputs):
                    live.update(equation.inputs)
        kept = tuple(equation for equation in equations if live.intersection(equation.outputs))
        return Program(self.leaves, self.data, kept, self.outputs)

    def used(self, value: Value) -> bool:
        """Whether any equation or output reads the value."""
        return value in self._read

    @cached_property
    def _read(self) -> frozenset[Value]:
        return frozenset(self.outputs).union(*(equation.inputs for equation in self.equations))


def flatten(closed: Any) -> tuple[tuple[Value, ...], tuple[Equation, ...], tuple[Value, ...]]:
    """Inputs, equations and outputs of what ``jax.make_jaxpr`` gives, calls inlined and constants folded."""
    inputs = tuple(_fresh(variable.aval) for variable in closed.jaxpr.invars)
    equations: list[Equation] = []
    outputs = _call(closed, inputs, equations)
    return inputs, tuple(equations), outputs


def _call(closed: Any, inputs: Sequence[Value], equations: list[Equation]) -> tuple[Value, ...]:
    """Append the equations of a jaxpr that may carry its constants; the outputs."""
    constants = [_constant(value) for value in getattr(closed, "consts", ())]
    return _inline(getattr(closed, "jaxpr", closed), constants, inputs, equations)


def scan_counts(params: Mapping[str, Any]) -> tuple[int, int]:
    """How many operands of a scan are constants of its body, and how many are carried."""
    if "ft_in" in params:
        constants, carried, _ = params["ft_in"].unpack()
        return len(constants), len(carried)
    return params["num_consts"], params["num_carry"]  # JAX before 0.12


def _inline(
    jaxpr: core.Jaxpr, constants: Sequence[Value], inputs: Sequence[Value], equations: list[Equation]
) -> tuple[Value, ...]:
    """Append the equations of ``jaxpr`` on ``inputs``; the outputs."""
    environment = dict(zip(jaxpr.constvars, constants, strict=True)) | dict(zip(jaxpr.invars, inputs, strict=True))

    def read(atom: Any) -> Value:
        return _constant(atom.val, np.shape(atom.val)) if isinstance(atom, core.Literal) else environment[atom]

    for equation in jaxpr.eqns:
        operands = tuple(read(atom) for atom in equation.invars)
        name, params = equation.primitive.name, equation.params
        inner = params.get(CALLS[name]) if name in CALLS else None
        if inner is not None:
            results = _call(inner, operands, equations)
        elif name in CONTROL and not equation.effects:
            results = CONTROL[name](params, operands, equations)
        else:
            params = {key: _plain(value) for key, value in params.items()}
            results = tuple(_fresh(variable.aval) for variable in equation.outvars)
            if name == "reshape" and params["dimensions"] is not None:
                operands = (_transpose(operands[0], params.pop("dimensions"), equations), *operands[1:])
            if not _fold(name, operands, results, params):
                equations.append(Equation(name, operands, results, params))
        environment.update(zip(equation.outvars, results, strict=True))
    return tuple(read(atom) for atom in jaxpr.outvars)


def _transpose(operand: Value, permutation: tuple[int, ...], equations: list[Equation]) -> Value:
    """The operand of a reshape that reads its dimensions in another order: a transposition of its own."""
    result = Value(tuple(operand.shape[dim] for dim in permutation), operand.dtype)
    if not _fold("transpose", (operand,), (result,), {"permutation": permutation}):
        equations.append(Equation("transpose", (operand,), (result,), {"permutation": permutation}))
    return result


def _scan(params: Mapping[str, Any], operands: Sequence[Value], equations: list[Equation]) -> tuple[Value, ...]:
    """``c[t + 1], ys[t] = body(constants, c[t], xs[t])``."""
    num_constants, num_carried = scan_counts(params)
    constants, rest = operands[:num_constants], operands[num_constants:]
    carried = _carry(rest[:num_carried], equations)
    clock = Value((int(params["length"]),), np.dtype(int))
    equations.append(Equation(CLOCK, (), (clock,)))
    elements = [_append(ELEMENT, (xs, clock), xs.shape[1:], equations) for xs in rest[num_carried:]]
    results = _call(params["jaxpr"], (*constants, *carried, *elements), equations)
    _step(carried, results[:num_carried], (), equations)
    stacks = [_append(STACK, (y, clock), (*clock.shape, *y.shape), equations) for y in results[num_carried:]]
    return (*carried, *stacks)


def _while(params: Mapping[str, Any], operands: Sequence[Value], equations: list[Equation]) -> tuple[Value, ...]:
    """``c[t + 1] = body(constants, c[t])`` while ``condition(constants, c[t])``."""
    first, second = params["cond_nconsts"], params["cond_nconsts"] + params["body_nconsts"]
    carried = _carry(operands[second:], equations)
    condition = _call(params["cond_jaxpr"], (*operands[:first], *carried), equations)
    results = _call(params["body_jaxpr"], (*operands[first:second], *carried), equations)
    _step(carried, results, condition, equations)
    return carried


def _cond(params: Mapping[str, Any], operands: Sequence[Value], equations: list[Equation]) -> tuple[Value, ...]:
    """``y = branches[which](inputs)``: all branches, and for each output the choice between theirs."""
    which, *inputs = operands
    branches = [_call(branch, inputs, equations) for branch in params["branches"]]
    return tuple(_append("select_n", (which, *ys), ys[0].shape, equations) for ys in zip(*branches, strict=True))


CONTROL = {"scan": _scan, "while": _while, "cond": _cond}


def _carry(starts: Sequence[Value], equations: list[Equation]) -> tuple[Value, ...]:
    """Carried values. They know no entries, even where their starts do: those are the entries of one step only."""
    return tuple(_append(CARRY, (start,), start.shape, equations) for start in starts)


def _step(
    carried: Sequence[Value], results: Sequence[Value], condition: Sequence[Value], equations: list[Equation]
) -> None:
    """Tie carried values to what a step makes of them."""
    for value, result in zip(carried, results, strict=True):
        equations.append(Equation(STEP, (value, result, *condition), (value,)))


def _append(name: str, inputs: tuple[Value, ...], shape: tuple[int, ...], equations: list[Equation]) -> Value:
    """Append an equation with one output, of the type of its first value that is no index; the output."""
    output = Value(shape, inputs[name == "select_n"].dtype)
    equations.append(Equation(name, inputs, (output,)))
    return output


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
