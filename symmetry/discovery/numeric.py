"""Primitives in NumPy: for the constants of a program, and for what an activation does to its argument.

NumPy and not JAX, because JAX compiles every primitive that it meets for the first time, 0.3 to 2 s for one activation.
Floats are float64 throughout, whatever the program's own precision is.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import reduce
from typing import Any

import numpy as np
from scipy import special

# Non-uniform constants larger than this are not evaluated: their axes are then pinned, which is sound.
MAX_SIZE = 1_000_000


def _divide(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return np.asarray(np.trunc(x / y) if np.issubdtype(x.dtype, np.integer) else x / y, x.dtype)


def _convert(x: np.ndarray, new_dtype: np.dtype) -> np.ndarray:
    new_dtype = np.dtype(new_dtype)
    return np.asarray(x, np.float64 if np.issubdtype(new_dtype, np.floating) else new_dtype)


def _round(x: np.ndarray, rounding_method: int) -> np.ndarray:
    """Halves to the even neighbour (1) or away from zero (0), as JAX numbers its methods."""
    return np.rint(x) if rounding_method == 1 else np.trunc(x + np.copysign(0.5, x))


def _horner(x: np.ndarray, *coefficients: np.ndarray) -> np.ndarray:
    """The polynomial in ``x`` whose coefficients are given from the constant upwards."""
    return reduce(lambda total, coefficient: total * x + coefficient, reversed(coefficients))


# name -> function of the operands, which broadcast by NumPy's rules; keyword arguments come from the parameters.
ELEMENTWISE: dict[str, Callable[..., np.ndarray]] = {
    "abs": np.abs,
    "acos": np.arccos,
    "acosh": np.arccosh,
    "add": np.add,
    "add_any": np.add,
    "and": np.bitwise_and,
    "asin": np.arcsin,
    "asinh": np.arcsinh,
    "atan": np.arctan,
    "atan2": np.arctan2,
    "atanh": np.arctanh,
    "bessel_i0e": special.i0e,
    "bessel_i1e": special.i1e,
    "cbrt": np.cbrt,
    "ceil": np.ceil,
    "clamp": lambda low, x, high: np.minimum(np.maximum(x, low), high),
    "convert_element_type": lambda x, new_dtype: _convert(x, new_dtype),
    "copy": lambda x: x,
    "cos": np.cos,
    "cosh": np.cosh,
    "digamma": special.digamma,
    "div": _divide,
    "eq": np.equal,
    "erf": special.erf,
    "erf_inv": special.erfinv,
    "erfc": special.erfc,
    "exp": np.exp,
    "exp2": np.exp2,
    "expm1": np.expm1,
    "floor": np.floor,
    "ge": np.greater_equal,
    "gt": np.greater,
    "igamma": special.gammainc,
    "igammac": special.gammaincc,
    "integer_pow": lambda x, y: np.power(x, float(y)),
    "is_finite": np.isfinite,
    "le": np.less_equal,
    "lgamma": special.gammaln,
    "log": np.log,
    "log1p": np.log1p,
    "log2": np.log2,
    "logistic": special.expit,
    "lt": np.less,
    "max": np.maximum,
    "min": np.minimum,
    "mul": np.multiply,
    "ne": np.not_equal,
    "neg": np.negative,
    "not": np.invert,
    "one_minus_square": lambda x: (1 - x) * (1 + x),
    "or": np.bitwise_or,
    "polynomial": _horner,
    "pow": np.power,
    "reduce_precision": lambda x: x,
    "regularized_incomplete_beta": special.betainc,
    "rem": np.fmod,
    "round": lambda x, rounding_method: _round(x, rounding_method),
    "rsqrt": lambda x: 1 / np.sqrt(x),
    "select_n": lambda which, *cases: np.choose(which.astype(int), cases, mode="clip"),
    "sign": np.sign,
    "sin": np.sin,
    "sinh": np.sinh,
    "sqrt": np.sqrt,
    "square": np.square,
    "stop_gradient": lambda x: x,
    "sub": np.subtract,
    "tan": np.tan,
    "tanh": np.tanh,
    "xor": np.bitwise_xor,
}
PARAMETERS = {"convert_element_type": ("new_dtype",), "integer_pow": ("y",), "round": ("rounding_method",)}


def _broadcast(x: np.ndarray, params: Mapping[str, Any], shape: tuple[int, ...]) -> np.ndarray:
    aligned = [1] * len(shape)
    for source, target in enumerate(params["broadcast_dimensions"]):
        aligned[target] = x.shape[source]
    return np.broadcast_to(x.reshape(aligned), shape)


def _slice(x: np.ndarray, params: Mapping[str, Any]) -> np.ndarray:
    strides = params["strides"] or (1,) * x.ndim
    return x[tuple(map(slice, params["start_indices"], params["limit_indices"], strides))]


def _pad(x: np.ndarray, padding: np.ndarray, params: Mapping[str, Any]) -> np.ndarray:
    """The array, its entries spread out by interior padding, with padding around; a negative number crops."""
    for dim, (low, high, interior) in enumerate(params["padding_config"]):
        spread = np.full((*x.shape[:dim], (x.shape[dim] - 1) * (interior + 1) + 1, *x.shape[dim + 1 :]), padding)
        spread[(slice(None),) * dim + (slice(None, None, interior + 1),)] = x
        widths = [(0, 0)] * dim + [(max(low, 0), max(high, 0))] + [(0, 0)] * (x.ndim - dim - 1)
        padded = np.pad(spread, widths, constant_values=padding)
        kept = slice(max(-low, 0), padded.shape[dim] - max(-high, 0))
        x = padded[(slice(None),) * dim + (kept,)]
    return x


def _dot(left: np.ndarray, right: np.ndarray, params: Mapping[str, Any]) -> np.ndarray:
    """Sums of products; dimensions are letters, those of the output are batch, left and right."""
    (contract_left, contract_right), (batch_left, batch_right) = params["dimension_numbers"]
    of_left = list(range(left.ndim))
    of_right = list(range(left.ndim, left.ndim + right.ndim))
    for i, j in zip((*contract_left, *batch_left), (*contract_right, *batch_right), strict=True):
        of_right[j] = of_left[i]
    free_left = [of_left[dim] for dim in range(left.ndim) if dim not in (*contract_left, *batch_left)]
    free_right = [of_right[dim] for dim in range(right.ndim) if dim not in (*contract_right, *batch_right)]
    return np.einsum(left, of_left, right, of_right, [*(of_left[dim] for dim in batch_left), *free_left, *free_right])


def _cholesky(x: np.ndarray) -> np.ndarray:
    try:
        return np.linalg.cholesky(x)
    except np.linalg.LinAlgError:
        return np.full(x.shape, np.nan)


def _solve(matrix: np.ndarray, right: np.ndarray, params: Mapping[str, Any]) -> np.ndarray:
    """``A^-1 x``, or ``x A^-1 = (A^-T x^T)^T``, of triangular matrices."""
    triangle = np.tril(matrix) if params["lower"] else np.triu(matrix)
    if params["unit_diagonal"]:
        triangle = triangle * (1 - np.eye(triangle.shape[-1])) + np.eye(triangle.shape[-1])
    triangle = triangle.conj() if params["conjugate_a"] else triangle
    triangle = triangle.swapaxes(-1, -2) if params["transpose_a"] else triangle
    with np.errstate(all="ignore"):
        if (np.diagonal(triangle, axis1=-2, axis2=-1) == 0).any() or not np.isfinite(triangle).all():
            return np.full(right.shape, np.nan)
        if params["left_side"]:
            return np.linalg.solve(triangle, right)
        return np.linalg.solve(triangle.swapaxes(-1, -2), right.swapaxes(-1, -2)).swapaxes(-1, -2)


def _iota(params: Mapping[str, Any], shape: tuple[int, ...]) -> np.ndarray:
    dimension = params["dimension"]
    aligned = [1] * len(shape)
    aligned[dimension] = shape[dimension]
    return np.broadcast_to(np.arange(shape[dimension]).reshape(aligned), shape)


# name -> function of (operands, parameters, output shape)
STRUCTURAL: dict[str, Callable[[Sequence[np.ndarray], Mapping[str, Any], tuple[int, ...]], np.ndarray]] = {
    "broadcast_in_dim": lambda xs, params, shape: _broadcast(xs[0], params, shape),
    "cholesky": lambda xs, params, shape: _cholesky(xs[0]),
    "concatenate": lambda xs, params, shape: np.concatenate(xs, axis=params["dimension"]),
    "dot_general": lambda xs, params, shape: _dot(xs[0], xs[1], params),
    "iota": lambda xs, params, shape: _iota(params, shape),
    "pad": lambda xs, params, shape: _pad(xs[0], xs[1], params),
    "reduce_and": lambda xs, params, shape: np.all(xs[0], axis=tuple(params["axes"])),
    "reduce_max": lambda xs, params, shape: np.max(xs[0], axis=tuple(params["axes"])),
    "reduce_min": lambda xs, params, shape: np.min(xs[0], axis=tuple(params["axes"])),
    "reduce_or": lambda xs, params, shape: np.any(xs[0], axis=tuple(params["axes"])),
    "reduce_prod": lambda xs, params, shape: np.prod(xs[0], axis=tuple(params["axes"])),
    "reduce_sum": lambda xs, params, shape: np.sum(xs[0], axis=tuple(params["axes"])),
    "rev": lambda xs, params, shape: np.flip(xs[0], params["dimensions"]),
    "reshape": lambda xs, params, shape: xs[0].reshape(shape),
    "slice": lambda xs, params, shape: _slice(xs[0], params),
    "squeeze": lambda xs, params, shape: xs[0].reshape(shape),
    "stack": lambda xs, params, shape: np.stack(xs, axis=params["axis"]),
    "tile": lambda xs, params, shape: np.tile(xs[0], params["reps"]),
    "transpose": lambda xs, params, shape: np.transpose(xs[0], params["permutation"]),
    "triangular_solve": lambda xs, params, shape: _solve(xs[0], xs[1], params),
}


def elementwise(name: str, arrays: Sequence[np.ndarray], params: Mapping[str, Any]) -> np.ndarray:
    """The elementwise primitive ``name`` on arrays that broadcast."""
    keywords = {key: params[key] for key in PARAMETERS.get(name, ())}
    with np.errstate(all="ignore"):
        return np.asarray(ELEMENTWISE[name](*arrays, **keywords))


def evaluate(
    name: str, arrays: Sequence[np.ndarray], params: Mapping[str, Any], shape: tuple[int, ...]
) -> np.ndarray | None:
    """A primitive on constants, or None where NumPy has no counterpart here or the result is too large to look at."""
    if name in ELEMENTWISE:
        if all(is_uniform(array) for array in arrays):
            scalars = [array.reshape(-1)[:1].reshape(()) for array in arrays]
            return np.broadcast_to(elementwise(name, scalars, params), shape)
        return compact(elementwise(name, arrays, params)) if np.prod(shape) <= MAX_SIZE else None
    if name not in STRUCTURAL or (np.prod(shape) > MAX_SIZE and name not in ("broadcast_in_dim", "iota")):
        return None
    return compact(np.asarray(STRUCTURAL[name](arrays, params, shape)))


def is_uniform(array: np.ndarray) -> bool:
    """Whether all entries are one number, as `compact` marks it: every stride zero."""
    return array.size == 1 or (array.size > 0 and not any(array.strides))


def compact(array: np.ndarray) -> np.ndarray:
    """The array in float64 or its own integer type, stored as one number where all its entries are equal."""
    if array.size == 0 or array.size > MAX_SIZE and any(array.strides):
        return array
    if is_uniform(array) or (array == array.flat[0]).all():
        first = array.flat[0]
        first = np.float64(first) if np.issubdtype(array.dtype, np.floating) else first
        return np.broadcast_to(np.asarray(first), array.shape)
    return array.astype(np.float64) if np.issubdtype(array.dtype, np.floating) else array
