"""A function with every floating-point number in it made float64, also those that it insists on.

A recurrent cell that starts its carry in float32 cannot be traced again with float64 weights: the carry would change
its type. So its jaxpr is traced once, in the precision of the program, and evaluated in float64.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.extend import core

from .program import CALLS, scan_counts

# Primitives on the bits of a number keep its precision.
_BITS = frozenset({"bitcast_convert_type"})
# Primitives that carry a jaxpr of two numbers of the precision that they were traced in.
_SCATTERS = {
    "scatter-add": lax.scatter_add,
    "scatter-max": lax.scatter_max,
    "scatter-min": lax.scatter_min,
    "scatter-mul": lax.scatter_mul,
    "scatter-sub": lax.scatter_sub,
}


def in_double_precision(function: Callable[..., Any], *arguments: Any) -> Callable[..., Any]:
    """The function in float64.

    Args:
        function: A traceable function.
        *arguments: What it is traced with; shapes suffice.

    Returns:
        A function of arguments of the same shapes, to be called where float64 is enabled.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> third = in_double_precision(lambda x: x / jnp.float32(3.0), jnp.float32(1.0))
        >>> with jax.enable_x64(True):
        ...     print(third(jnp.float64(1.0)))
        0.3333333333333333
    """
    closed, shape = jax.make_jaxpr(function, return_shape=True)(*arguments)
    treedef = jax.tree.structure(shape)
    return lambda *values: jax.tree.unflatten(treedef, _evaluate(closed, *jax.tree.leaves(values)))


def _evaluate(closed: Any, *operands: Any) -> list[Any]:
    """Values of the outputs of a jaxpr that may carry its constants."""
    jaxpr = getattr(closed, "jaxpr", closed)
    values = dict(zip(jaxpr.constvars, map(double, getattr(closed, "consts", ())), strict=True))
    values |= dict(zip(jaxpr.invars, operands, strict=True))

    def read(atom: Any) -> Any:
        return double(jnp.asarray(atom.val, _dtype(atom))) if isinstance(atom, core.Literal) else values[atom]

    for equation in jaxpr.eqns:
        results = _apply(equation, [read(atom) for atom in equation.invars])
        values.update(zip(equation.outvars, results, strict=True))
    return [read(atom) for atom in jaxpr.outvars]


def _apply(equation: Any, operands: list[Any]) -> Sequence[Any]:
    name, params = equation.primitive.name, equation.params
    if name in CALLS and params.get(CALLS[name]) is not None:
        return _evaluate(params[CALLS[name]], *operands)
    if name in _CONTROL:
        return _CONTROL[name](params, operands)
    if name == "reduce_precision":
        return operands
    if name in _BITS:
        operands = [jnp.asarray(x, _dtype(atom)) for x, atom in zip(operands, equation.invars, strict=True)]
        return [double(equation.primitive.bind(*operands, **params))]
    if name in _SCATTERS:
        keywords = ("dimension_numbers", "indices_are_sorted", "unique_indices", "mode")
        return [_SCATTERS[name](*operands, **{key: params[key] for key in keywords})]
    results = equation.primitive.bind(*operands, **{key: _double_type(value) for key, value in params.items()})
    return [double(value) for value in (results if equation.primitive.multiple_results else [results])]


def _scan(params: Any, operands: list[Any]) -> list[Any]:
    num_constants, num_carried = scan_counts(params)
    constants, rest = operands[:num_constants], operands[num_constants:]

    def body(carried: Any, x: Any) -> Any:
        results = _evaluate(params["jaxpr"], *constants, *carried, *x)
        return results[:num_carried], results[num_carried:]

    start, xs = rest[:num_carried], rest[num_carried:]
    carried, ys = lax.scan(body, start, xs, length=params["length"], reverse=params["reverse"])
    return [*carried, *ys]


def _while(params: Any, operands: list[Any]) -> list[Any]:
    first, second = params["cond_nconsts"], params["cond_nconsts"] + params["body_nconsts"]
    return lax.while_loop(
        lambda carried: _evaluate(params["cond_jaxpr"], *operands[:first], *carried)[0],
        lambda carried: _evaluate(params["body_jaxpr"], *operands[first:second], *carried),
        operands[second:],
    )


def _cond(params: Any, operands: list[Any]) -> list[Any]:
    return lax.switch(operands[0], [partial(_evaluate, branch) for branch in params["branches"]], *operands[1:])


def _linear_solve(params: Any, operands: list[Any]) -> list[Any]:
    lengths = params["const_lengths"]
    start, right = lengths.matvec + lengths.vecmat, operands[sum(lengths) :]
    return _evaluate(params["jaxprs"].solve, *operands[start : start + lengths.solve], *right)


_CONTROL = {"scan": _scan, "while": _while, "cond": _cond, "custom_linear_solve": _linear_solve}


def _dtype(atom: Any) -> np.dtype:
    return atom.aval.dtype


def double(value: Any) -> Any:
    """A floating-point or complex array in double precision, anything else as it is."""
    dtype = jnp.result_type(value)
    if jnp.issubdtype(dtype, jnp.complexfloating):
        return jnp.asarray(value, np.complex128)
    return jnp.asarray(value, np.float64) if jnp.issubdtype(dtype, jnp.floating) else value


def _double_type(parameter: Any) -> Any:
    """The double-precision type for a type of numbers with a point, anything else as it is."""
    if not isinstance(parameter, np.dtype):
        return parameter
    if jnp.issubdtype(parameter, jnp.complexfloating):
        return np.dtype(np.complex128)
    return np.dtype(np.float64) if jnp.issubdtype(parameter, jnp.floating) else parameter
