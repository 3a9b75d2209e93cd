r"""What an elementwise function of one argument does under a change of sign or scale.

A chain of elementwise primitives on one value and scalar constants is one function f, however it was written:
``tanh``, a GELU of eight primitives, ``where(x > 1, 1, where(x < -1, -1, x))``, the density of a prior. `fuse`
replaces each such chain by one equation ``unary`` that carries

    parity   odd, f(-x) = -f(x), or even, f(-x) = f(x)
    degree   d with f(l x) = l^d f(x) for all l > 0

They are read off the values of f at float64 points from 1e-15 to 1e15 in both directions and around each constant of
the chain, where its kinks are, to the rounding error of the largest intermediate number: the rules for single
primitives cannot see that a hard tanh is odd. The certificate then guards this step as it guards all others.
"""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction

import numpy as np

from .numeric import ELEMENTWISE, elementwise, is_uniform
from .program import Equation, Program, Value

UNARY = "unary"
ROUNDING = 64 * np.finfo(np.float64).eps
STRETCHES = (2.0, 1.7, 13.0, 0.31)


def fuse(program: Program) -> Program:
    """The program with every chain of elementwise primitives on one value replaced by one ``unary`` equation."""
    chains: dict[Value, Equation] = {}
    sources: dict[Value, Value] = {}
    equations = []
    for equation in program.equations:
        source = _source(equation, sources)
        if source is None:
            equations.append(equation)
            continue
        sources[equation.outputs[0]] = source
        chains[equation.outputs[0]] = equation
        equations.append(Equation(UNARY, (source,), equation.outputs))
    fused = program.replace_equations(equations)
    for equation in fused.equations:
        if equation.primitive == UNARY:
            equation.params = dict(zip(("parity", "degree"), _describe(equation, chains), strict=True))
    return fused


def _source(equation: Equation, sources: Mapping[Value, Value]) -> Value | None:
    """The one value of the same shape that all operands are functions of; None where there is no such value."""
    if equation.primitive not in ELEMENTWISE:
        return None
    arguments = {sources.get(value, value) for value in equation.inputs if value.constant is None}
    constants = [value.constant for value in equation.inputs if value.constant is not None]
    if len(arguments) != 1 or not all(is_uniform(constant) for constant in constants):
        return None
    (source,) = arguments
    return source if source.shape == equation.outputs[0].shape else None


def _describe(equation: Equation, chains: Mapping[Value, Equation]) -> tuple[str | None, Fraction | None]:
    """Parity and degree of the function that a fused equation stands for."""
    (source,), (target,) = equation.inputs, equation.outputs
    if not np.issubdtype(source.dtype, np.floating):
        return None, None
    points = _points(source, target, chains)
    values, sizes = _run(source, target, chains, points)
    mirrored, other = _run(source, target, chains, -points)
    scale = np.maximum(sizes, other)
    parity = "even" if _same(mirrored, values, scale) else "odd" if _same(mirrored, -values, scale) else None
    degree = _guess_degree(values, _run(source, target, chains, STRETCHES[0] * points)[0])
    for stretch in STRETCHES:
        if degree is None:
            break
        stretched, other = _run(source, target, chains, stretch * points)
        factor = stretch ** float(degree)
        if not _same(stretched, factor * values, np.maximum(other, factor * sizes)):
            degree = None
    return parity, degree


def _points(source: Value, target: Value, chains: Mapping[Value, Equation]) -> np.ndarray:
    """Arguments to try: all magnitudes, and the neighbourhood of each constant, with both signs."""
    constants, pending, seen = set(), [target], set()
    while pending:
        value = pending.pop()
        if value is source or value in seen:
            continue
        seen.add(value)
        for operand in chains[value].inputs:
            if operand.constant is None:
                pending.append(operand)
            elif operand.constant.dtype != bool:
                constants.add(abs(float(operand.constant.flat[0])))
    magnitudes = np.logspace(-15, 15, 181)
    near = [c * factor for c in sorted(constants) if 0 < c < np.inf for factor in (0.3, 0.9, 0.999, 1, 1.001, 1.1, 3)]
    positive = np.concatenate([magnitudes, np.asarray(near)])
    return np.concatenate([-positive, positive])


def _run(
    source: Value, target: Value, chains: Mapping[Value, Equation], points: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Values of the chain at the points, and the largest finite intermediate magnitude at each."""
    results: dict[Value, np.ndarray] = {source: points}
    largest = np.zeros_like(points)

    def value_of(value: Value) -> np.ndarray:
        if value.constant is not None:
            return value.constant.reshape(-1)[:1].reshape(())
        if value not in results:
            equation = chains[value]
            operands = [value_of(operand) for operand in equation.inputs]
            results[value] = elementwise(equation.primitive, operands, equation.params)
        return results[value]

    final = value_of(target)
    for found in results.values():
        size = np.abs(found.astype(np.float64))
        np.maximum(largest, size, out=largest, where=np.isfinite(size))
    return final.astype(np.float64), largest


def _same(left: np.ndarray, right: np.ndarray, scale: np.ndarray) -> bool:
    """Equality up to the rounding of numbers of size ``scale``; undefined values only equal each other."""
    with np.errstate(invalid="ignore"):
        close = np.abs(left - right) <= ROUNDING * np.maximum(scale, np.abs(right))
    return bool(np.all(close | (left == right) | (np.isnan(left) & np.isnan(right))))


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
