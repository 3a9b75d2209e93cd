r"""What an elementwise function of one argument does under a change of sign or scale.

A chain of elementwise primitives on one value and scalar constants is one function f, however it was written:
``tanh``, a GELU of eight primitives, ``where(x > 1, 1, where(x < -1, -1, x))``, the density of a prior. `fuse`
replaces each such chain by one equation ``unary`` that carries

    parity      odd, f(-x) = -f(x), or even, f(-x) = f(x)
    degree      d with f(l x) = l^d f(x) for all l > 0
    quadratic   whether f(x) = f(0) + a x^2

They are read off the values of f at float64 points from 1e-15 to 1e15 in both directions, around each constant of the
chain and around each root of an intermediate, where its kinks are: the rules for single primitives cannot see that a
hard tanh is odd. Values count as equal where they agree to their rounding errors, which are carried through the chain
along with the values. A chain whose values are rounding error at nearly all points is not described at all. The
certificate then guards this step as it guards all others.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from functools import lru_cache
from itertools import pairwise
from typing import Any

import numpy as np

from .numeric import ELEMENTWISE, PARAMETERS, elementwise, is_uniform
from .program import Equation, Program, Value

UNARY = "unary"
ROUNDING = 64 * np.finfo(np.float64).eps
# Values with a larger relative error than this tell nothing.
DECIDED = 1e-3
# The points around roots tell little, for values are small there, so this share is small too.
SHARE = 0.1
BISECTIONS = 60
MAGNITUDES = np.logspace(-15, 15, 181)
COMPARISONS = ("clamp", "eq", "ge", "gt", "le", "lt", "max", "min", "ne")
EXACT = (*COMPARISONS, "abs", "ceil", "convert_element_type", "copy", "floor", "neg", "round", "select_n", "sign")
NOTHING: Mapping[str, Any] = {"parity": None, "degree": None, "quadratic": False}
STRETCHES = (2.0, 1.7, 13.0, 0.31)


def fuse(program: Program) -> Program:
    """The program with every chain of elementwise primitives on one value replaced by one ``unary`` equation."""
    chains: dict[Value, tuple[int, Equation]] = {}
    sources: dict[Value, Value] = {}
    equations = []
    for equation in program.equations:
        source = _source(equation, sources)
        if source is None:
            equations.append(equation)
            continue
        sources[equation.outputs[0]] = source
        chains[equation.outputs[0]] = len(chains), equation
        equations.append(Equation(UNARY, (source,), equation.outputs))
    fused = program.replace_equations(equations)
    for equation in fused.equations:
        if equation.primitive == UNARY:
            equation.params = _describe(equation, chains)
    return fused


def _source(equation: Equation, sources: Mapping[Value, Value]) -> Value | None:
    """The one value of the same shape that all operands are functions of; None where there is no such value."""
    # Chains are run in float64.
    if equation.primitive not in ELEMENTWISE or np.issubdtype(equation.outputs[0].dtype, np.complexfloating):
        return None
    arguments = {sources.get(value, value) for value in equation.inputs if value.constant is None}
    constants = [value.constant for value in equation.inputs if value.constant is not None]
    if len(arguments) != 1 or not all(is_uniform(constant) for constant in constants):
        return None
    (source,) = arguments
    return source if source.shape == equation.outputs[0].shape else None


@dataclass(frozen=True, slots=True)
class _Chain:
    """Elementwise equations in order, from one value to the last output; equal to any that computes the same way."""

    source: Value = field(compare=False)
    equations: tuple[Equation, ...] = field(compare=False)
    signature: Hashable

    def values(self, points: np.ndarray) -> dict[Value, np.ndarray]:
        """Every intermediate of the chain at the points."""
        results = {self.source: points}
        for equation in self.equations:
            results[equation.outputs[0]] = _apply(equation, results)
        return results

    def run(self, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The function at the points, and a bound on its rounding error."""
        results = {self.source: points}
        errors = {self.source: np.zeros_like(points)}
        for equation in self.equations:
            target = equation.outputs[0]
            results[target] = _apply(equation, results)
            errors[target] = _error(equation, results, errors)
        last = self.equations[-1].outputs[0]
        return results[last].astype(np.float64), errors[last]


def _describe(equation: Equation, chains: Mapping[Value, tuple[int, Equation]]) -> Mapping[str, Any]:
    """What is known of the function that a fused equation stands for."""
    (source,), (target,) = equation.inputs, equation.outputs
    if not np.issubdtype(source.dtype, np.floating):
        return NOTHING
    equations = _collect(source, target, chains)
    return _laws(_Chain(source, equations, _signature(source, equations)))


@lru_cache(maxsize=1024)
def _laws(chain: _Chain) -> Mapping[str, Any]:
    """Parity and degree of a chain, and whether it is quadratic: a network has many of few kinds."""
    points = _points(chain)
    values, errors = chain.run(points)
    mirrored, other = chain.run(-points)
    even, odd = (_same(mirrored, sign * values, errors + other) for sign in (1, -1))
    if even and odd and np.any(values):
        return NOTHING
    return {
        "parity": "even" if even else "odd" if odd else None,
        "degree": _degree(chain, points, values, errors),
        "quadratic": even and _is_quadratic(chain, points, values, errors),
    }


def _is_quadratic(chain: _Chain, points: np.ndarray, values: np.ndarray, errors: np.ndarray) -> bool:
    """Whether ``f(s x) - f(0) = s^2 (f(x) - f(0))`` for every stretch s."""
    origin, error = chain.run(np.zeros(1))
    if not np.isfinite(origin).all():
        return False
    below = errors + error + ROUNDING * (np.abs(values) + np.abs(origin))
    for stretch in STRETCHES:
        stretched, other = chain.run(stretch * points)
        above = other + error + ROUNDING * (np.abs(stretched) + np.abs(origin))
        if not _same(stretched - origin, stretch**2 * (values - origin), above + stretch**2 * below):
            return False
    return True


def _collect(source: Value, target: Value, chains: Mapping[Value, tuple[int, Equation]]) -> tuple[Equation, ...]:
    """The equations that lead from ``source`` to ``target``, in the order of the program."""
    needed: dict[int, Equation] = {}
    pending = [target]
    while pending:
        value = pending.pop()
        if value is source or chains[value][0] in needed:
            continue
        number, equation = chains[value]
        needed[number] = equation
        pending += [operand for operand in equation.inputs if operand.constant is None]
    return tuple(needed[number] for number in sorted(needed))


def _signature(source: Value, equations: Sequence[Equation]) -> Hashable:
    """Each equation with its operands, by their place in the chain or as a number, and what parameters it looks at."""
    places = {source: 0} | {equation.outputs[0]: place for place, equation in enumerate(equations, 1)}

    def operand(value: Value) -> Hashable:
        constant = value.constant
        return places[value] if constant is None else (constant.dtype.str, constant.reshape(-1)[:1].tobytes())

    return tuple(
        (
            equation.primitive,
            *map(operand, equation.inputs),
            *(equation.params[key] for key in PARAMETERS.get(equation.primitive, ())),
        )
        for equation in equations
    )


def _degree(chain: _Chain, points: np.ndarray, values: np.ndarray, errors: np.ndarray) -> Fraction | None:
    """The degree of homogeneity, if every stretch agrees with it."""
    degree = None
    for stretch in STRETCHES:
        stretched, other = chain.run(stretch * points)
        degree = _guess_degree(values, stretched) if degree is None else degree
        if degree is None:
            return None
        factor = stretch ** float(degree)
        if not _same(stretched, factor * values, other + factor * errors):
            return None
    return degree


def _points(chain: _Chain) -> np.ndarray:
    """Arguments to try: all magnitudes, the neighbourhoods of constants and of roots, with both signs."""
    operands = (operand.constant for equation in chain.equations for operand in equation.inputs)
    numbers = {abs(float(c.flat[0])) for c in operands if c is not None and c.dtype != bool}
    near = [c * factor for c in sorted(numbers) if 0 < c < np.inf for factor in (0.3, 0.9, 0.999, 1, 1.001, 1.1, 3)]
    positive = np.concatenate([MAGNITUDES, np.asarray(near)])
    # A window around a root is seen only from that root, so the second round finds its edges.
    for _ in range(2):
        points = np.unique(np.concatenate([-positive, positive]))
        roots = np.abs(_roots(chain, points))
        roots = roots[(roots > MAGNITUDES[0]) & (roots < MAGNITUDES[-1])]
        positive = np.concatenate([positive, *(roots * factor for factor in (0.999, 1, 1.001))])
    return np.unique(np.concatenate([-positive, positive]))


def _roots(chain: _Chain, points: np.ndarray) -> np.ndarray:
    """Where an intermediate, or the difference of two that are compared, changes its sign between sorted points."""
    rows, columns = np.nonzero(_changes(_landmarks(chain, points)))
    left, right = points[columns], points[columns + 1]
    at = np.arange(rows.size)
    below = _landmarks(chain, left)[rows, at] < 0
    for _ in range(BISECTIONS if rows.size else 0):
        middle = left + (right - left) / 2
        same = (_landmarks(chain, middle)[rows, at] < 0) == below
        left, right = np.where(same, middle, left), np.where(same, right, middle)
    return right


def _changes(landmarks: np.ndarray) -> np.ndarray:
    """Whether each landmark has opposite signs at a point and at the next one."""
    signs = np.where(np.isnan(landmarks), 0, np.sign(landmarks))
    return signs[:, :-1] * signs[:, 1:] < 0


def _landmarks(chain: _Chain, points: np.ndarray) -> np.ndarray:
    """The functions whose roots may be kinks of the chain, one a row."""
    results = chain.values(points)
    rows = [results[equation.outputs[0]] for equation in chain.equations]
    rows = [row for row in rows if np.issubdtype(row.dtype, np.floating)]
    for equation in chain.equations:
        if equation.primitive in COMPARISONS:
            operands = [np.asarray(_operand(value, results), np.float64) for value in equation.inputs]
            with np.errstate(all="ignore"):
                rows += [left - right for left, right in pairwise(operands)]
    return np.stack([np.broadcast_to(row, points.shape) for row in rows]) if rows else np.zeros((0, points.size))


def _operand(value: Value, results: Mapping[Value, np.ndarray]) -> np.ndarray:
    return results[value] if value.constant is None else value.constant.reshape(-1)[:1].reshape(())


def _apply(equation: Equation, results: Mapping[Value, np.ndarray]) -> np.ndarray:
    return elementwise(equation.primitive, [_operand(value, results) for value in equation.inputs], equation.params)


def _error(equation: Equation, results: Mapping[Value, np.ndarray], errors: Mapping[Value, np.ndarray]) -> np.ndarray:
    """Error of an equation: its own rounding, and how far it moves as each operand moves by the error of that."""
    result = results[equation.outputs[0]]
    rounds = np.issubdtype(result.dtype, np.floating) and equation.primitive not in EXACT
    finite = np.where(np.isfinite(result), result, 0.0)
    total = ROUNDING * np.abs(finite.astype(np.float64)) * rounds
    for value in dict.fromkeys(equation.inputs):
        if value.constant is not None or not np.any(errors[value]):
            continue
        moves = [
            _difference(_apply(equation, dict(results) | {value: moved}), result)
            for moved in _moved(results[value], errors[value])
        ]
        total = total + np.maximum(*moves)
    return total


def _moved(array: np.ndarray, error: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The array moved by its error in both directions; truth values that are in doubt are flipped."""
    if array.dtype == bool:
        return array ^ (error > 0), array
    with np.errstate(all="ignore"):
        return (array + error).astype(array.dtype), (array - error).astype(array.dtype)


def _difference(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Distance entry by entry: zero between equal infinities or undefined values, infinite where one is undefined."""
    left, right = left.astype(np.float64), right.astype(np.float64)
    with np.errstate(invalid="ignore"):
        distance = np.abs(left - right)
    equal = (left == right) | (np.isnan(left) & np.isnan(right))
    return np.where(equal, 0.0, np.where(np.isnan(distance), np.inf, distance))


def _same(left: np.ndarray, right: np.ndarray, error: np.ndarray) -> bool:
    """Whether values agree to their error at all points, and the error is small next to them at enough points."""
    with np.errstate(invalid="ignore"):
        size = np.maximum(np.abs(left), np.abs(right))
        tolerance = error + ROUNDING * np.where(np.isfinite(size), size, 0.0)
        known = (tolerance <= DECIDED * size) | ~np.isfinite(size)
    return bool(np.all(_difference(left, right) <= tolerance) and np.mean(known) >= SHARE)


def _guess_degree(values: np.ndarray, stretched: np.ndarray) -> Fraction | None:
    """The degree that the values at moderate arguments suggest, a small fraction; 0 for a constant function."""
    with np.errstate(all="ignore"):
        logarithms = np.log2(np.abs(stretched / values))
    found = logarithms[np.isfinite(logarithms)]
    if found.size == 0:
        return Fraction(0)
    middle = float(found[found.size // 2])
    degree = Fraction(middle).limit_denominator(12)
    return degree if abs(degree - middle) < 1e-9 * max(1.0, abs(middle)) else None
