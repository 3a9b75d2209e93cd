"""Normal densities with a dense covariance matrix: what ``|L^-1 x|^2`` leaves unchanged is read off ``L L^T``.

A Cholesky factor orders the positions, but the density needs only the norm of ``z = L^-1 x``, and

    |L^-1 x|^2 = x^T (L L^T)^-1 x = |S x|^2     with the symmetric root S = (L L^T)^(-1/2).

Where z is used for nothing but its norm, ``S x`` may take its place; and S, unlike ``L^-1``, commutes with
each permutation that leaves the covariance as it is. The equation that is put in place, `WHITEN`, names the positions
that are exchangeable.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from .exchange import exchangeable
from .numeric import is_uniform
from .program import Equation, Program, Value
from .rules.linalg import WHITEN
from .rules.shapes import runs

# Covariances that agree to this, relative to the standard deviations, are equal: rounding of a factorisation.
ROUNDING = 1e-13

type Uses = Mapping[Value, Sequence[Equation]]


def whiten(program: Program) -> Program:
    """The program with `WHITEN` in place of every solution of a known triangular system that is only squared."""
    uses: dict[Value, list[Equation]] = {}
    for equation in program.equations:
        for value in dict.fromkeys(equation.inputs):
            uses.setdefault(value, []).append(equation)
    equations = [_whitened(equation, program, uses) or equation for equation in program.equations]
    return program.replace_equations(equations)


def _whitened(equation: Equation, program: Program, uses: Uses) -> Equation | None:
    """The equation that stands for a triangular solve; None where that has to stay as it is."""
    if equation.primitive != "triangular_solve" or equation.inputs[0].constant is None:
        return None
    if not np.issubdtype(equation.inputs[0].dtype, np.floating):
        return None
    (z,) = equation.outputs
    dim = len(z.shape) - (2 if equation.params["left_side"] else 1)
    if not _Norms(program, uses).only_squared(z, dim):
        return None
    covariances = _covariances(equation.inputs[0].constant, equation.params)
    if not np.isfinite(covariances).all():
        return None
    diagonal = bool(np.all(covariances * (1 - np.eye(covariances.shape[-1])) == 0))
    deviations = np.sqrt(np.abs(np.diagonal(covariances, axis1=-2, axis2=-1)))
    bound = ROUNDING * covariances.shape[-1] * deviations[..., :, None] * deviations[..., None, :]
    params = {"dim": dim, "labels": exchangeable(covariances, bound), "diagonal": diagonal}
    return Equation(WHITEN, equation.inputs, equation.outputs, params)


def _covariances(factor: np.ndarray, params: Mapping[str, bool]) -> np.ndarray:
    """``C`` with ``|z|^2 = x^T C^-1 x``, one matrix a batch entry."""
    factor = np.tril(factor) if params["lower"] else np.triu(factor)
    if params["unit_diagonal"]:
        factor = factor * (1 - np.eye(factor.shape[-1])) + np.eye(factor.shape[-1])
    factor = factor if params["transpose_a"] != (not params["left_side"]) else factor.swapaxes(-1, -2)
    with np.errstate(all="ignore"):
        return factor.swapaxes(-1, -2) @ factor


class _Norms:
    """Whether a value is used for nothing but its norm over one dimension, entry by entry of the others."""

    def __init__(self, program: Program, uses: Uses) -> None:
        self._outputs = set(program.outputs)
        self._uses = uses

    def only_squared(self, value: Value, dim: int) -> bool:
        """Whether every use of the value is its square, to be summed over ``dim``."""
        if value in self._outputs:
            return False
        return all(self._squares(equation, value, dim) for equation in self._uses.get(value, ()))

    def _squares(self, equation: Equation, value: Value, dim: int) -> bool:
        name, params = equation.primitive, equation.params
        moved = _moved(equation, dim)
        if moved is not None:
            return self.only_squared(equation.outputs[0], moved)
        if any(operand is not value for operand in equation.inputs):
            return False
        if name == "dot_general":
            # Products of one column with another would tie the columns, which a norm leaves independent.
            (left, right), (batch, other) = params["dimension_numbers"]
            return left == right and batch == other and dim in left and len(left) + len(batch) == len(value.shape)
        squared = name in ("square", "mul") or (name == "integer_pow" and params["y"] == 2)
        return squared and self._only_summed(equation.outputs[0], dim)

    def _only_summed(self, value: Value, dim: int) -> bool:
        if value in self._outputs:
            return False
        return all(self._sums(equation, value, dim) for equation in self._uses.get(value, ()))

    def _sums(self, equation: Equation, value: Value, dim: int) -> bool:
        moved = _moved(equation, dim)
        if moved is not None:
            return self._only_summed(equation.outputs[0], moved)
        if equation.primitive in ("mul", "div", "neg"):
            others = [operand.constant for operand in equation.inputs if operand is not value]
            uniform = all(other is not None and is_uniform(other) for other in others)
            return uniform and self._only_summed(equation.outputs[0], dim)
        return equation.primitive == "reduce_sum" and dim in equation.params["axes"]


def _moved(equation: Equation, dim: int) -> int | None:
    """Where a dimension goes when entries are only rearranged around it; None where it does not stay whole."""
    if equation.primitive == "transpose":
        return equation.params["permutation"].index(dim)
    if equation.primitive not in ("reshape", "squeeze"):
        return None
    before, after = equation.inputs[0].shape, equation.outputs[0].shape
    if before[dim] == 1:
        return None
    sources, targets = next(run for run in runs(before, after) if dim in run[0])
    sources, targets = [d for d in sources if before[d] > 1], [d for d in targets if after[d] > 1]
    return targets[0] if sources == [dim] and len(targets) == 1 else None
