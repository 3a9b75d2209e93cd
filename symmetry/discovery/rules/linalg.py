"""Linear algebra on stacks of matrices: the matrices of a stack are independent of each other."""

from __future__ import annotations

from collections.abc import Iterable
from fractions import Fraction

from ..axes import Axis, atom, pin, refine, unify
from ..characters import INVARIANT, WILDCARD, Character, System
from ..program import Equation
from .registry import Dims, axis_rule, character_rule, keys_of, move

# The primitive that `whitening` puts into programs: ``z = C^(-1/2) x`` for a known covariance matrix C.
WHITEN = "whiten"
COVARIANCES = "unequal covariances"

# Functions of one matrix, with as many matrices, vectors or numbers as results.
DECOMPOSITIONS = ("cholesky", "eig", "eigh", "householder_product", "lu", "qr", "schur", "svd", "tridiagonal")


@axis_rule(*DECOMPOSITIONS)
def decompose(equation: Equation, matrix: Dims, *rest: Dims) -> list[Dims]:
    """``y[b] = f(x[b])``: b passes, rows and columns are pinned."""
    reason = f"position in {equation.primitive}"
    batch = matrix[:-2]
    _pin((axis for dims in (matrix, *rest) for axis in dims[len(batch) :]), reason)
    for dims in rest:
        for own, axis in zip(batch, dims, strict=False):
            unify(own, axis)
    return [(*batch, *(pin(atom(size), reason) for size in output.shape[len(batch) :])) for output in equation.outputs]


@character_rule("cholesky")
def cholesky_characters(equation: Equation, system: System, x: Character) -> list[Character]:
    """``y[b] y[b]^T = x[b]``: scale ``e_y = e_x / 2``, sign ``e_x = 0``; rows and columns ``e_x = 0``."""
    rank = len(equation.inputs[0].shape)
    if x is WILDCARD or system.kind == "sign":
        system.zero(x)
        return [INVARIANT]
    system.zero(x, keys_of(x, {rank - 2, rank - 1}))
    return [system.power(move(x, {dim: dim for dim in range(rank - 2)}), Fraction(1, 2))]


@axis_rule("triangular_solve")
def solve(equation: Equation, matrix: Dims, right: Dims) -> list[Dims]:
    """``z[b, i, m] = sum_j (A[b]^-1)[i, j] x[b, j, m]``: unify b with b, pin i and j; m passes."""
    reason = "position in triangular_solve"
    dim = _solved(equation)
    batch = [unify(*pair) for pair in zip(matrix[:-2], right[:-2], strict=True)]
    _pin((*matrix[-2:], right[dim]), reason)
    axes = [*batch, *right[-2:]]
    axes[dim] = pin(atom(right[dim].size), reason)
    return [tuple(axes)]


@character_rule("triangular_solve")
def solve_characters(equation: Equation, system: System, matrix: Character, right: Character) -> list[Character]:
    """``z[b, m] = A[b]^-1 x[b, m]``: ``e_z = e_x - e_A``, zero for rows and columns; unit diagonals: ``e_A = 0``."""
    rank = len(equation.inputs[1].shape)
    system.zero(matrix, None if equation.params["unit_diagonal"] else keys_of(matrix, {rank - 2, rank - 1}))
    system.zero(right, keys_of(right, {_solved(equation)}))
    if right is WILDCARD:
        return [WILDCARD]
    passing = {dim: dim for dim in range(rank) if dim != _solved(equation)}
    matrix = INVARIANT if matrix is WILDCARD else move(matrix, {dim: dim for dim in range(rank - 2)})
    return [system.combine(move(right, passing), matrix, -1)]


@axis_rule("fft")
def fourier(equation: Equation, x: Dims) -> list[Dims]:
    """``y[b, k] = sum_j x[b, j] exp(-2 pi i j k / n)``: pin j and k; b passes."""
    num_passing = len(x) - len(equation.params["fft_lengths"])
    _pin(x[num_passing:], "position in fft")
    sizes = equation.outputs[0].shape[num_passing:]
    return [(*x[:num_passing], *(pin(atom(size), "position in fft") for size in sizes))]


@character_rule("fft")
def fourier_characters(equation: Equation, system: System, x: Character) -> list[Character]:
    """``y[b, k] = sum_j x[b, j] exp(-2 pi i j k / n)``: ``e_x[j] = 0``; b passes."""
    rank = len(equation.inputs[0].shape)
    num_passing = rank - len(equation.params["fft_lengths"])
    system.zero(x, keys_of(x, set(range(num_passing, rank))))
    return [move(x, {dim: dim for dim in range(num_passing)})]


@axis_rule(WHITEN)
def whiten(equation: Equation, matrix: Dims, right: Dims) -> list[Dims]:
    """``z[b, i] = sum_j (C[b]^(-1/2))[i, j] x[b, j]``, only its norm is used: j has colours, C keeps them; b passes."""
    dim, labels = equation.params["dim"], equation.params["labels"]
    batch = [unify(*pair) for pair in zip(matrix[:-2], right[:-2], strict=True)]
    refine(right[dim], labels, COVARIANCES)
    axes = [*batch, *right[-2:]]
    if not equation.params["diagonal"]:
        axes[dim] = pin(atom(right[dim].size), COVARIANCES)
    return [tuple(axes)]


@character_rule(WHITEN)
def whiten_characters(equation: Equation, system: System, matrix: Character, right: Character) -> list[Character]:
    """``z[b, i] = sum_j (C[b]^(-1/2))[i, j] x[b, j]``: ``e_z = e_x``; ``e_x[j] = 0`` unless C is diagonal."""
    del matrix
    if right is WILDCARD or equation.params["diagonal"]:
        return [right]
    dim = equation.params["dim"]
    system.zero(right, keys_of(right, {dim}))
    return [move(right, {other: other for other in range(len(equation.inputs[1].shape)) if other != dim})]


def _solved(equation: Equation) -> int:
    """The dimension of the right-hand side that the matrix acts on."""
    return len(equation.inputs[1].shape) - (2 if equation.params["left_side"] else 1)


def _pin(axes: Iterable[Axis], reason: str) -> None:
    for axis in axes:
        pin(axis, reason)
